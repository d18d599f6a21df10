#!/usr/bin/env bash
# Runs everything that needs an NVIDIA GPU in one call: builds for this GPU, runs the test suite with the CUDA tests
# required, runs compute-sanitizer's four tools on the CUDA tests, and runs all benchmark suites.
#
#     bash benchmarks/gpu.sh              # into benchmarks/results
#     OUT=/some/folder bash benchmarks/gpu.sh
#
# Needs PyTorch for CUDA, the package's dependencies, and a CUDA toolkit with nvcc and compute-sanitizer. PYTHON names
# the interpreter (default: python). STEPS chooses among: build tests sanitizers benchmarks. After a failed step, the
# next one still runs, and the exit status is 1. Logs go to the folder of the results.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
root=$PWD
out=${OUT:-$root/benchmarks/results}
python=${PYTHON:-python}
steps=${STEPS:-build tests sanitizers benchmarks}
mkdir -p "$out"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
export DSA_FAST_REQUIRE_CUDA=1
export PATH="${CUDA_HOME:-/usr/local/cuda}/bin:$PATH"
failed=()

# attempt NAME COMMAND... runs the command and copies its output to NAME.log.
attempt() {
  local name=$1 begin=$SECONDS
  shift
  printf '\n==== %s\n' "$name"
  if "$@" 2>&1 | tee "$out/$name.log"; then
    printf '==== %s: done in %s s\n' "$name" "$((SECONDS - begin))"
  else
    printf '==== %s: FAILED after %s s\n' "$name" "$((SECONDS - begin))"
    failed+=("$name")
  fi
}

wanted() { [[ " $steps " == *" $1 "* ]]; }

"$python" -c 'import torch; assert torch.cuda.is_available(), "PyTorch sees no GPU"' || exit 1
nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader | tee "$out/gpu.txt"

if wanted build; then
  arch=$("$python" -c 'import torch; print("{}.{}".format(*torch.cuda.get_device_capability()))')
  attempt build env FORCE_CUDA=1 TORCH_CUDA_ARCH_LIST="$arch" "$python" setup.py build_ext --inplace
fi

if wanted tests; then
  attempt tests "$python" -m pytest -q
fi

if wanted sanitizers; then
  # GPU tests have "cuda" in their names. Those that fill the memory would take the tools too long.
  for tool in memcheck racecheck initcheck synccheck; do
    # PyTorch's caching allocator would hide accesses outside a tensor from memcheck.
    attempt "sanitizer_$tool" env PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
      compute-sanitizer --tool "$tool" --error-exitcode 1 --target-processes all \
      "$python" -m pytest -q -x tests -k "cuda and not build and not 32_bits"
  done
fi

if wanted benchmarks; then
  attempt benchmarks "$python" benchmarks/run.py --suite all --device cuda --json "$out"
fi

if ((${#failed[@]})); then
  printf '\nfailed: %s\n' "${failed[*]}"
  exit 1
fi
printf '\nall done; the results are in %s\n' "$out"
