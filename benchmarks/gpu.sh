#!/usr/bin/env bash
# The whole campaign on a GPU in under nine minutes; each part also runs alone.
#
#   benchmarks/gpu.sh [--dry] [part ...]
#
#   versions   what the machine has, and which implementation each op takes
#   build      pip install -e . without network
#   tests      pytest -m gpu
#   sanitize   compute-sanitizer (memcheck, racecheck, initcheck, synccheck) over every op, small
#   ceilings   the card's copy and matrix rates
#   warm       every case of ops once, side by side: what is compiled on first use is then in the caches
#   ops        every op beside eager, torch.compile, CUDA graph and the attention back ends
#   model      encoder and whole model at S, B, L, batch 1 and 16
#   train      a training step at S, B, L
#   attention  only by name: every attention back end on this card, into the table that attention chooses by; then the goals' shapes
#   launch     only by name: ops with backward, with autograd's worker thread and without, single calls and graphs; then, into
#              $OUT/launch-plans.json, the same with kernels compiled ahead of time and launched by the native library
#   encoder    only by name: every form of a block and FP8 products, into the table that blocks choose by; then the encoder, L, and
#              its FP8 linear layers; CUTLASS's too after `AMT_CUTLASS=on benchmarks/gpu.sh build`, which takes minutes
#   data       only by name: crops a second from files and from the crop cache (DATA=FOLDER of a set, or one is rendered first)
#
# Results go to benchmarks/results/<card>.json record by record, logs to $OUT (default build/gpu), where the results are copied
# too. A part that fails does not stop the next; the exit status says whether any did. Run alone, a part may take the whole time.
# --dry runs on the CPU what runs without a GPU, with short shapes, and writes into a temporary folder.
# Without a repository, AMT_COMMIT says which commit this is. PYTHON chooses the interpreter.
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root" || exit 2
python=${PYTHON:-python3}
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1

# Seconds each part may take in a whole run: 525 together, without data, which is not part of one.
declare -A limits=([versions]=15 [build]=75 [tests]=85 [sanitize]=70 [ceilings]=10 [warm]=60 [ops]=120 [model]=50 [train]=40 [attention]=520 [launch]=520 [encoder]=520 [data]=520)
order=(versions build tests sanitize ceilings warm ops model train)
alone=520
rehearsal=3600
# In a whole run, the shapes that benchmarks/goals.py asks about; alone, `ops` measures all.
goals='refine-B(1|8|32|512)-mapspyramid-C256-bfloat16|refine-B512-mapssingle-C256-bfloat16|hand_frames-B512'
goals+='|frame_pointnet-B512-N778|pose_scores-B16-N128|attention-B(1|16)-H16-N(257|1370)-D64'

usage() {
  sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
}

dry=
parts=()
for argument in "$@"; do
  case $argument in
    --dry) dry=yes ;;
    -h | --help)
      usage
      exit 0
      ;;
    *)
      if [[ -z ${limits[$argument]:-} ]]; then
        echo "gpu.sh: no part '$argument'; there are ${order[*]} attention launch encoder data" >&2
        exit 2
      fi
      parts+=("$argument")
      ;;
  esac
done
whole=
if ((${#parts[@]} == 0)); then
  parts=("${order[@]}")
  whole=yes
fi

if [[ -n $dry ]]; then
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # on a busy machine two threads wait for each other most of the time
  logs=$(mktemp -d)
  device=cpu
  results=$logs/results.json
else
  if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "gpu.sh: $python has no PyTorch that sees a GPU; --dry runs what needs none" >&2
    exit 2
  fi
  logs=${OUT:-build/gpu}
  mkdir -p "$logs" || exit 2
  device=cuda
  results=$("$python" -c 'import torch; from benchmarks.results import default_path; print(default_path(torch.device("cuda")))') || exit 2
fi

# How long the part at hand may take.
limit_of() {
  if [[ -n $dry ]]; then # a rehearsal may run on a slow or busy machine: it checks that parts work, not how fast
    echo "$rehearsal"
    return
  fi
  if [[ -n $whole || ${#parts[@]} -gt 1 ]]; then echo "${limits[$1]}"; else echo "$alone"; fi
}

# Measures the files of one or more parts; $1 is the time, the rest goes to benchmarks.run.
measure() {
  local seconds=$1
  shift
  local options=(--device "$device" --output "$results" --seconds "$((seconds - 12))")
  if [[ -n $dry ]]; then
    options+=(--quick)
  elif [[ -n $whole ]]; then
    options+=(--case-seconds 1)
  else
    options+=(--case-seconds 3)
  fi
  timeout -k 5 "$seconds" "$python" -W ignore::UserWarning -m benchmarks.run "${options[@]}" "$@"
}

part_versions() {
  "$python" --version
  if [[ -z $dry ]]; then
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
    nvcc --version | tail -n 2
  fi
  "$python" - << 'END' || return 1
import sys
import torch

print("PyTorch", torch.__version__, "CUDA", torch.version.cuda, "cuDNN", torch.backends.cudnn.version())
try:
    import triton

    print("Triton", triton.__version__)
except ImportError:
    print("Triton: none, its kernels will not run")
if tuple(int(n) for n in torch.__version__.split("+")[0].split(".")[:2]) < (2, 11):
    sys.exit("PyTorch >= 2.11 is needed")
END
  "$python" -m amt.kernels
}

part_build() {
  if [[ -n $dry ]]; then
    "$python" -c 'import amt.kernels' # nothing is built: what is installed has to import
    return
  fi
  if ! timeout -k 5 "$1" "$python" -m pip install -q --no-build-isolation --no-deps -e .; then
    echo "gpu.sh: the build failed; later parts run with what is there" >&2
    return 1
  fi
  "$python" - << 'END'
import sys
import torch
from amt.kernels import _native

sys.exit(_native._reason or (None if torch.ops.amt.built_with_cuda() else "the native library was built without nvcc"))
END
}

part_tests() {
  local files
  mapfile -t files < <(grep -rlE 'mark\.gpu' tests --include='*.py')
  if ((${#files[@]} == 0)); then
    echo "gpu.sh: no test is marked gpu" >&2
    [[ -n $dry ]]
    return
  fi
  local options=(-v --tb=short -p no:cacheprovider) # -v names a failure at once: the summary is lost where time runs out
  if "$python" -c 'import xdist' 2> /dev/null; then options+=(-n 8 --dist load); fi # most of the time goes into compiling
  if [[ -n $dry ]]; then options+=(--collect-only); fi
  timeout -k 5 "$1" "$python" -m pytest "${options[@]}" -m gpu "${files[@]}"
}

part_sanitize() {
  if [[ -n $dry ]]; then
    timeout -k 5 "$1" "$python" -m benchmarks.sanitize --device cpu
    return
  fi
  if ! command -v compute-sanitizer > /dev/null; then
    echo "gpu.sh: compute-sanitizer is not on the PATH (it comes with the CUDA toolkit)" >&2
    return 1
  fi
  # once without a tool: Triton's kernels are compiled into the cache, and a plain failure is told from a tool's finding
  timeout -k 5 "$1" "$python" -m benchmarks.sanitize --device cuda || return 1
  local tool failed=0
  local -A running=()
  for tool in memcheck racecheck initcheck synccheck; do
    # without the caching allocator every tensor has its own bounds
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 timeout -k 5 "$(($1 - 15))" compute-sanitizer --tool "$tool" --error-exitcode 9 \
      --print-limit 20 "$python" -m benchmarks.sanitize --device cuda > "$logs/sanitize-$tool.log" 2>&1 &
    running[$tool]=$!
  done
  for tool in "${!running[@]}"; do
    if wait "${running[$tool]}"; then
      echo "$tool: clean"
    else
      echo "$tool: exit status $?, see sanitize-$tool.log" >&2
      tail -n 5 "$logs/sanitize-$tool.log" >&2
      failed=1
    fi
  done
  return "$failed"
}

part_ceilings() { measure "$1" ceilings; }

# The files of the part ops, one name a line.
ops_files() {
  local file name
  for file in benchmarks/bench_*.py; do
    if grep -q '^PART = "ops"' "$file"; then
      name=${file##*/bench_}
      echo "${name%.py}"
    fi
  done
}

part_warm() {
  if [[ -n $dry ]]; then return; fi
  local name
  for name in $(ops_files); do
    results=$logs/warm-$name.json measure "$1" "$name" --case-seconds 0.001 ${whole:+--filter "$goals"} > "$logs/warm-$name.log" 2>&1 &
  done
  wait # what fails here fails in ops again, and is reported there
}

part_ops() {
  if [[ -n $dry ]]; then
    measure "$1" ops
    return
  fi
  # one process a file: a kernel that faults takes its own file's cases with it and no more
  local name names failed=0
  mapfile -t names < <(ops_files)
  for name in "${names[@]}"; do
    measure "$(($1 / ${#names[@]}))" "$name" ${whole:+--filter "$goals"} || failed=1
  done
  return "$failed"
}

part_model() {
  if [[ -n $whole ]]; then measure "$1" model --no-compile; else measure "$1" model; fi
}

part_train() { measure "$1" train; }

# Writes this card's table: $1 is the time, $2 the folder of the tables, the rest the command.
tune() {
  local seconds=$1 tables=$2 options=() name
  shift 2
  if [[ -n $dry ]]; then
    tables=$logs/${tables#amt/kernels/}
    options+=(--dry)
    name=cpu.json
  else
    name=$("$python" -c 'import torch; from amt.kernels._table import file_name
print(file_name(torch.cuda.get_device_name()))') || return 1
  fi
  timeout -k 5 "$seconds" "$python" -m "$@" "${options[@]}" --output "$tables/$name"
}

part_attention() {
  tune "$(($1 * 2 / 3))" amt/kernels/attention/tables amt.kernels tune || return
  if [[ -z $dry ]]; then measure "$(($1 / 3))" attention; fi # a rehearsal of ops has it
}

part_launch() {
  local XDG_CACHE_HOME=$logs/cache ops=(refine frame_pointnet) # no cubins of the user's
  export XDG_CACHE_HOME
  if [[ -n $dry ]]; then ops=(hand_frames); fi
  measure "$(($1 / 3))" launch || return
  timeout -k 5 "$(($1 / 3))" "$python" -m amt.kernels.aot "${ops[@]}" --architecture sm_90 || return
  if [[ -z $dry ]]; then results=$logs/launch-plans.json measure "$(($1 / 3))" launch; fi
}

part_encoder() {
  tune "$(($1 / 2))" amt/kernels/block/tables amt.model.tune_blocks && measure "$(($1 / 2))" encoder
}

part_data() {
  local options=(--device "$device")
  if [[ -n $dry ]]; then options+=(--frames 64 --steps 1 --output "$logs/data.json"); fi
  timeout -k 5 "$1" "$python" -m benchmarks.data "${options[@]}" ${DATA:+--data "$DATA"}
}

failed=()
summary=()
for part in "${parts[@]}"; do
  limit=$(limit_of "$part")
  echo "== $part (at most $limit s)"
  begin=$SECONDS
  "part_$part" "$limit" 2>&1 | tee "$logs/$part.log"
  status=${PIPESTATUS[0]}
  if ((status == 124 || status == 137)); then echo "gpu.sh: $part was cut off after $limit s" | tee -a "$logs/$part.log"; fi
  if ((status != 0)); then failed+=("$part"); fi
  summary+=("$part: $([[ $status == 0 ]] && echo ok || echo "FAILED ($status)"), $((SECONDS - begin)) s")
  if [[ -z $dry && -f $results ]]; then cp "$results" "$logs/"; fi
done

echo "== summary"
printf '%s\n' "${summary[@]}"
echo "results: $results; logs: $logs"
if ((${#failed[@]} > 0)); then
  echo "gpu.sh: failed: ${failed[*]}" >&2
  exit 1
fi
