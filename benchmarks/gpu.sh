#!/usr/bin/env bash
# The whole campaign on a GPU; each part also runs alone.
#
#   benchmarks/gpu.sh [--dry] [--minutes M] [--again] [part ...]
#
#   versions   what the machine has, what it lacks, and which implementation each op takes
#   build      pip install -e . without network
#   ceilings   the card's copy and matrix rates
#   warm       every case of ops once, side by side: what is compiled on first use is then in the caches
#   attention  every attention back end on this card, into the table that attention chooses by; then the goals' shapes
#   launch     ops with backward, with autograd's worker thread and without, single calls and graphs; then, into
#              $OUT/launch-plans.json, the same with kernels compiled ahead of time and launched by the native library
#   encoder    every form of a block and FP8 products, into the table that blocks choose by; then the encoder, L, and
#              its FP8 linear layers; CUTLASS's too after `AMT_CUTLASS=on benchmarks/gpu.sh build`, which takes minutes
#   tests      pytest -m gpu, each test by name
#   sanitize   compute-sanitizer (memcheck, racecheck, initcheck, synccheck) over every op, small
#   ops        every op beside eager, torch.compile, its max-autotune, CUDA graphs of each and the attention back ends
#   model      encoder and whole model at S, B, L, batch 1 and 16
#   train      a training step at S, B, L
#   data       crops a second from files and from the crop cache (DATA=FOLDER of a set, or scenes are rendered first)
#   video      a video with drawing, amt-tiny, beside plain PyTorch
#   profile    what misses its goal: time line of host and GPU, Nsight Compute, and the limit in a sentence
#   learn      frames rendered by all cores, a model trained on them, people whom it never saw; LEARN holds words for amt.train,
#              such as LEARN="train.batch_size=256 train.lr=5e-4"
#
# Results go to benchmarks/results/<card>.json record by record, logs to $OUT (default build/gpu), where results and tables are
# copied, too: bring them back from a lent machine before you go on. A part that fails does not stop the next; the exit status
# says whether any did (1), or was cut off (3). One part alone measures every shape; several, the shapes that have goals. What
# this commit has measured already is left out (--again: measured again).
#
# All parts take about half an hour. With --minutes the command ends in time and says how to go on, for machines that are lent for
# minutes: about four commands of nine minutes do everything. --dry runs on the CPU what runs without a GPU, with short
# shapes, and writes into a temporary folder. Without a repository, AMT_COMMIT says which commit this is. PYTHON chooses the
# interpreter.
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root" || exit 2
python=${PYTHON:-python3}
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1

# Seconds a part may take beside others, in order. It begins where two thirds of them are left.
declare -A limits=([versions]=15 [build]=75 [ceilings]=30 [warm]=100 [attention]=150 [launch]=90 [encoder]=150 [tests]=150
  [sanitize]=70 [ops]=120 [model]=60 [train]=45 [data]=60 [video]=60 [profile]=120 [learn]=520)
order=(versions build ceilings warm attention launch encoder tests sanitize ops model train data video profile learn)
alone=520
rehearsal=3600
dry_scenes=8
cut_off=3 both=4 # statuses of a part that has left something out for want of time; and in which something failed
# The shapes that benchmarks/goals.py asks about, for parts beside others.
goals='refine-B(1|8|32|512)-mapspyramid-C256-bfloat16|refine-B512-mapssingle-C256-bfloat16|hand_frames-B512'
goals+='|frame_pointnet-B512-N778|pose_scores-B16-N128|attention-B(1|16)-H16-N(257|261|577|1025|1370)-D64'

usage() {
  sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
}

dry='' again='' minutes=''
parts=()
while (($# > 0)); do
  case $1 in
    --dry) dry=yes ;;
    --again) again=yes ;;
    --minutes)
      minutes=${2:-}
      if ! [[ $minutes =~ ^[0-9]+([.][0-9]+)?$ ]]; then
        echo "gpu.sh: --minutes takes a number, such as 9; got '$minutes'" >&2
        exit 2
      fi
      shift
      ;;
    -h | --help)
      usage
      exit 0
      ;;
    *)
      if [[ -z ${limits[$1]:-} ]]; then
        echo "gpu.sh: no part '$1'; there are ${order[*]}" >&2
        exit 2
      fi
      parts+=("$1")
      ;;
  esac
  shift
done
if ((${#parts[@]} == 0)); then parts=("${order[@]}"); fi
short=
beside=() # what is there to measure
for part in "${parts[@]}"; do [[ $part =~ ^(build|warm)$ ]] || beside+=("$part"); done
if ((${#beside[@]} > 1)); then short=yes; fi

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
  results=$("$python" -c 'import torch; from benchmarks.results import default_path
print(default_path(torch.device("cuda")))') || exit 2
fi

# How long a part may take; nothing where too little time is left to begin it.
limit_of() {
  local seconds left
  if [[ -n $short ]]; then seconds=${limits[$1]}; else seconds=$alone; fi
  if [[ -n $dry ]]; then seconds=$rehearsal; fi # on a slow or busy machine: it checks that parts work, not how fast
  if [[ -n $minutes ]]; then
    left=$("$python" -c "print(int(60 * $minutes) - $SECONDS)")
    if ((3 * left < 2 * (seconds < limits[$1] ? seconds : limits[$1]))); then return; fi
    if ((left < seconds)); then seconds=$left; fi
  fi
  echo "$seconds"
}

# Measures the files of one or more parts; $1 is the time, the rest goes to benchmarks.run.
measure() {
  local seconds=$1
  shift
  if ((seconds < 15)); then
    echo "too little time is left for $*"
    return "$cut_off"
  fi
  local options=(--device "$device" --output "$results" --seconds "$((seconds - 12))")
  if [[ -n $dry ]]; then
    options+=(--quick)
  elif [[ -n $short ]]; then
    options+=(--case-seconds 1)
  else
    options+=(--case-seconds 3)
  fi
  if [[ -z $dry && -z $again ]]; then options+=(--new); fi
  timeout -k 5 "$seconds" "$python" -W ignore::UserWarning -m benchmarks.run "${options[@]}" "$@"
}

part_versions() {
  "$python" --version
  if [[ -z $dry ]]; then
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
    nvcc --version | tail -n 2
  fi
  "$python" - << 'END' || return 1
import importlib.util
import re
import sys
import tomllib
from importlib import metadata

import torch

print("PyTorch", torch.__version__, "CUDA", torch.version.cuda, "cuDNN", torch.backends.cudnn.version())
try:
    import triton

    print("Triton", triton.__version__)
except ImportError:
    print("Triton: none, its kernels will not run")

lacking = []
for requirement in tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"]:
    name = re.match(r"[A-Za-z0-9._-]+", requirement)[0]
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        if importlib.util.find_spec(name.replace("-", "_")) is None:
            lacking.append(requirement)
if lacking:
    sys.exit(f"not installed, and needed by parts of the package: {', '.join(lacking)}")
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
  timeout -k 5 "$1" "$python" -m pip install -q --no-build-isolation --no-deps -e . || {
    local status=$?
    echo "gpu.sh: the build did not end well; later parts run with what is there" >&2
    return "$status"
  }
  "$python" - << 'END'
import sys
import torch
from amt.kernels import _native

sys.exit(_native._reason or (None if torch.ops.amt.built_with_cuda() else "the native library was built without nvcc"))
END
}

part_tests() {
  local options=(-v --tb=short -p no:cacheprovider) # -v names a failure at once: the summary is lost where time runs out
  if "$python" -c 'import xdist' 2> /dev/null; then options+=(-n 8 --dist load); fi # most of the time goes into compiling
  local folders=(tests) status
  if [[ -n $dry ]]; then # the kernels' are nearly all of them
    options+=(--collect-only)
    folders=(tests/kernels)
  fi
  timeout -k 5 "$1" "$python" -m pytest "${options[@]}" -m gpu "${folders[@]}" 2>&1 | tee "$logs/gpu-tests.txt"
  status=${PIPESTATUS[0]}
  if grep -q ' FAILED\|^FAILED' "$logs/gpu-tests.txt"; then status=$(worse 1 "$status"); fi # whether or not it was cut off
  return "$status"
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
  local begin=$SECONDS tool left status=0
  timeout -k 5 "$1" "$python" -m benchmarks.sanitize --device cuda || return
  left=$(($1 - SECONDS + begin))
  if ((left < 10)); then return "$cut_off"; fi
  local -A running=()
  for tool in memcheck racecheck initcheck synccheck; do
    # without the caching allocator every tensor has its own bounds
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 timeout -k 5 "$left" compute-sanitizer --tool "$tool" --error-exitcode 9 \
      --print-limit 20 "$python" -m benchmarks.sanitize --device cuda > "$logs/sanitize-$tool.log" 2>&1 &
    running[$tool]=$!
  done
  for tool in "${!running[@]}"; do
    wait "${running[$tool]}"
    local ended=$?
    if ((ended == 0)); then
      echo "$tool: clean"
    else
      echo "$tool: exit status $ended, see sanitize-$tool.log" >&2
      tail -n 5 "$logs/sanitize-$tool.log" >&2
    fi
    status=$(worse "$status" "$ended")
  done
  return "$status"
}

# One status of several: 1 where something failed, 3 where something was cut off, 4 where both.
worse() {
  local status failed=0 cut=0
  for status in "$@"; do
    case $status in
      0) ;;
      "$cut_off" | 124 | 137) cut=1 ;;
      "$both") failed=1 cut=1 ;;
      *) failed=1 ;;
    esac
  done
  echo $((failed && cut ? both : failed ? 1 : cut ? cut_off : 0))
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
  local name running=() status=0
  # few processes a file: what still compiles when the next part measures would be in its times
  export TORCHINDUCTOR_COMPILE_THREADS=2
  for name in $(ops_files); do
    if [[ -f $results ]]; then cp "$results" "$logs/warm-$name.json"; fi # with the ceilings; what is measured needs no warming
    results=$logs/warm-$name.json measure "$1" "$name" --case-seconds 0.001 ${short:+--filter "$goals"} \
      > "$logs/warm-$name.log" 2>&1 &
    running+=($!)
  done
  for name in "${running[@]}"; do
    wait "$name"
    status=$(worse "$status" $?)
  done
  return $((status == cut_off || status == both ? cut_off : 0)) # what fails here fails in ops again, and is reported there
}

part_ops() {
  if [[ -n $dry ]]; then
    measure "$1" ops
    return
  fi
  # one process a file: a kernel that faults takes its own file's cases with it and no more
  local name names status=0 left end=$((SECONDS + $1))
  mapfile -t names < <(ops_files)
  left=${#names[@]}
  for name in "${names[@]}"; do # what a file leaves of its share is the next ones'
    measure "$(((end - SECONDS) / left))" "$name" ${short:+--filter "$goals"}
    status=$(worse "$status" $?)
    left=$((left - 1))
  done
  return "$status"
}

part_model() {
  if [[ -n $short ]]; then measure "$1" model --no-compile; else measure "$1" model; fi
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
  local status=$?
  if [[ -z $dry && -f $tables/$name ]]; then cp "$tables/$name" "$logs/$(basename "$(dirname "$tables")")-table-$name"; fi
  return "$status"
}

part_attention() {
  tune "$(($1 * 2 / 3))" amt/kernels/attention/tables amt.kernels tune
  local status=$?
  if [[ -z $dry ]]; then # a rehearsal of ops has it
    measure "$(($1 / 3))" attention ${short:+--filter "$goals"}
    status=$(worse "$status" $?)
  fi
  return "$status"
}

part_launch() {
  local XDG_CACHE_HOME=$logs/cache ops=(refine frame_pointnet) # no cubins of the user's
  export XDG_CACHE_HOME
  if [[ -n $dry ]]; then ops=(hand_frames); fi
  rm -rf "$logs/cache" # what an earlier command compiled ahead of time
  measure "$(($1 / 3))" launch || return
  timeout -k 5 "$(($1 / 3))" "$python" -m amt.kernels.aot "${ops[@]}" --architecture sm_90 || return
  if [[ -z $dry ]]; then results=$logs/launch-plans.json measure "$(($1 / 3))" launch; fi
}

part_encoder() {
  tune "$(($1 / 2))" amt/kernels/block/tables amt.model.tune_blocks
  local status=$?
  measure "$(($1 / 2))" encoder
  return "$(worse "$status" $?)"
}

part_data() {
  local options=(--device "$device") folder=${DATA:-build/gpu-scenes} scenes=(--independent 640)
  if [[ -n $dry ]]; then
    options+=(--frames 8 --steps 1 --output "$logs/data.json")
    folder=${DATA:-$logs/learn/scenes-$dry_scenes} scenes=(--independent "$dry_scenes" --held-out 1 --frames 1) # what learn takes
  fi
  local begin=$SECONDS left
  if [[ -z ${DATA:-} ]]; then
    timeout -k 5 "$1" "$python" -m amt.data.synthetic "$folder" "${scenes[@]}" --workers "$(nproc)" --quiet || return
  fi
  left=$(($1 - SECONDS + begin))
  if ((left < 10)); then return "$cut_off"; fi
  timeout -k 5 "$left" "$python" -m benchmarks.data "${options[@]}" --data "$folder" --results "$results"
}

part_video() {
  local options=(--device "$device" --output "$results")
  if [[ -n $dry ]]; then options+=(--quick); fi
  timeout -k 5 "$1" "$python" -m benchmarks.video "${options[@]}"
}

part_profile() {
  local options=(--device "$device" ${again:+--again} --results "$results" --folder "$logs/profile" --seconds "$(($1 / 2))")
  if [[ -n $dry ]]; then options+=(--quick --case '^hand_frames'); fi # nothing that is quick has a goal to miss
  timeout -k 5 "$1" "$python" -m benchmarks.missed "${options[@]}"
}

part_learn() {
  local options=(--device "$device" --output "$results" --seconds "$(($1 - 10))" --folder build/learn) words
  read -ra words <<< "${LEARN:-}"
  if [[ -n $dry ]]; then options+=(--quick --scenes "$dry_scenes" --folder "$logs/learn"); fi
  timeout -k 5 "$1" "$python" -m benchmarks.learn "${options[@]}" "${words[@]}" || return
  if [[ -z $dry ]]; then
    local run
    run=$(find build/learn -maxdepth 1 -name 'run-*' | sort | tail -n 1)
    cp "$run/learn.png" "$run/checkpoint/metrics.json" "$logs/"
  fi
}

# Prints how every part ended, and how to go on.
finish() {
  echo "== summary"
  if ((${#summary[@]} > 0)); then printf '%s\n' "${summary[@]}"; fi
  echo "results: $results; logs: $logs"
  if ((${#left[@]} == 0)); then return; fi
  local first=() part
  for part in build warm; do # the next machine may be another
    if [[ " ${left[*]} " != *" $part "* && ($part == build || " ${left[*]} " =~ ' '(attention|launch|encoder|ops)' ') ]]; then
      first+=("$part")
    fi
  done
  echo "go on: ${PYTHON:+PYTHON=$PYTHON }benchmarks/gpu.sh${dry:+ --dry}${minutes:+ --minutes $minutes} ${first[*]} ${left[*]}"
}

# Ctrl-C, or a connection that ends: the part at hand has had the signal, too.
interrupted() {
  trap '' INT HUP
  if [[ -z $dry && -f $results ]]; then cp "$results" "$logs/"; fi
  local done=${#summary[@]}
  left+=("${parts[@]:done}")
  finish
  exit "$cut_off"
}

failed=()
summary=()
left=() # to go on with
trap interrupted INT HUP
for part in "${parts[@]}"; do
  limit=$(limit_of "$part")
  if [[ -z $limit ]]; then
    left+=("$part")
    summary+=("$part: not begun")
    continue
  fi
  echo "== $part (at most $limit s)"
  begin=$SECONDS
  "part_$part" "$limit" 2>&1 | tee "$logs/$part.log"
  status=${PIPESTATUS[0]}
  told=ok
  case $status in
    0) ;;
    "$cut_off" | 124 | 137)
      told="cut off at $((SECONDS - begin)) s, what it had is kept"
      echo "gpu.sh: $part was cut off" | tee -a "$logs/$part.log"
      left+=("$part")
      ;;
    *)
      told="FAILED ($status)"
      failed+=("$part")
      if ((status == both)); then left+=("$part"); fi
      ;;
  esac
  summary+=("$part: $told, $((SECONDS - begin)) s")
  if [[ -z $dry && -f $results ]]; then cp "$results" "$logs/"; fi
done

finish
if ((${#failed[@]} > 0)); then
  echo "gpu.sh: failed: ${failed[*]}" >&2
  exit 1
fi
if ((${#left[@]} > 0)); then exit "$cut_off"; fi
