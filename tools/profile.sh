#!/usr/bin/env bash
# Profiles steps 10 to 19 of a training run: PyTorch's trace always, Nsight Systems where nsys is installed. With --kernel, also
# single kernels by Nsight Compute where ncu is installed.
#
#   tools/profile.sh [--kernel NAME] [key=value ...]      KERNEL: part of a kernel's name, such as refine
#
# Words go to python -m amt.train. Results go to $OUT (default build/profile). PYTHON chooses the interpreter.
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root" || exit 2
python=${PYTHON:-python3}
out=${OUT:-build/profile}
kernel=
if [[ ${1:-} == --kernel ]]; then
  kernel=${2:?--kernel needs a part of a kernel\'s name, such as refine}
  shift 2
fi
mkdir -p "$out" || exit 2
train=("$python" -m amt.train train.steps=20 train.profile=10:20 train.validate_every=0 train.pictures_every=0 train.logger=none)
cuda=$("$python" -c 'import torch; print("yes" if torch.cuda.is_available() else "")') || exit 2
failed=0

rm -rf "$out/torch" "$out/nsys" # a finished run would not train again
if "${train[@]}" "train.output=$out/torch" "$@"; then
  echo "PyTorch's trace: $out/torch/profile (open it in ui.perfetto.dev)"
else
  echo "profile: the run failed; there is no trace by PyTorch" >&2
  exit 1
fi

if ! command -v nsys > /dev/null; then
  echo "profile: nsys is not on the PATH, so there is no time line by Nsight Systems; it comes with the CUDA toolkit" >&2
else
  options=(--trace=nvtx,osrt)
  if [[ -n $cuda ]]; then options=(--trace=cuda,nvtx,cudnn,cublas --capture-range=cudaProfilerApi --capture-range-end=stop); fi
  if AMT_PROFILER=nsys nsys profile "${options[@]}" --force-overwrite=true -o "$out/steps" "${train[@]}" "train.output=$out/nsys" "$@"; then
    echo "Nsight Systems: $out/steps.nsys-rep (nsys-ui opens it, nsys stats sums it up)"
  else
    failed=1
  fi
fi

if [[ -n $kernel ]]; then
  if ! command -v ncu > /dev/null; then
    echo "profile: ncu is not on the PATH, so kernel '$kernel' is not profiled; it comes with the CUDA toolkit" >&2
    failed=1
  elif [[ -z $cuda ]]; then
    echo "profile: PyTorch sees no CUDA device, so kernel '$kernel' is not profiled" >&2
    failed=1
  elif ncu --kernel-name "regex:$kernel" --launch-count 10 --set full -f -o "$out/$kernel" "$python" -m benchmarks.sanitize --device cuda; then
    echo "Nsight Compute: $out/$kernel.ncu-rep (ncu-ui opens it)"
    if ncu --import "$out/$kernel.ncu-rep" --csv --page raw > "$out/$kernel.csv" &&
      "$python" -m benchmarks.roofline "$out/$kernel.csv" > "$out/$kernel.md"; then
      echo "share of the ceiling: $out/$kernel.md"
      cat "$out/$kernel.md"
    else
      failed=1
    fi
  else
    failed=1
  fi
fi
exit "$failed"
