#!/usr/bin/env bash
# Everything that only a machine with an NVIDIA GPU can tell, in one call: builds for this GPU, runs the test suite with
# the CUDA tests required, compute-sanitizer's four tools over the CUDA tests, and all benchmark suites.
#
#     bash benchmarks/gpu.sh              # into benchmarks/results
#     OUT=/some/folder bash benchmarks/gpu.sh
#
# Needs PyTorch for CUDA, the package's dependencies, and a CUDA toolkit with nvcc and compute-sanitizer. PYTHON names
# the interpreter (default: python). STEPS chooses among: build tests sanitizers benchmarks. A failing step does not
# keep the next from running; the exit status tells whether all went well. Logs lie beside the figures.
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

# attempt NAME COMMAND...: runs it, with its output on the screen and in NAME.log.
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
  # The names of tests of the GPU hold "cuda"; those that fill its memory would take the tools too long.
  for tool in memcheck racecheck initcheck synccheck; do
    # PyTorch's caching allocator would hide steps outside a tensor from memcheck.
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
printf '\nall done; the figures are in %s\n' "$out"
