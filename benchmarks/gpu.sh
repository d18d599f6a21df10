#!/usr/bin/env bash
# Runs everything that needs an NVIDIA GPU in one call of less than ten minutes: builds for this GPU, runs the tests
# with the CUDA tests required, runs compute-sanitizer's four tools on the CUDA tests, runs the benchmark suites, and
# prints the results next to the targets.
#
#     bash benchmarks/gpu.sh              # into benchmarks/results
#     OUT=/some/folder bash benchmarks/gpu.sh
#     DRY_RUN=1 OUT=/tmp/dry bash benchmarks/gpu.sh   # without a GPU: the same steps on the CPU, without the sanitizers
#
# Needs PyTorch for CUDA, the package's dependencies, and a CUDA toolkit with nvcc and compute-sanitizer. After a failed
# step, the next one still runs, and the exit status is 1. Each step has a log and a time limit. Variables:
#
#     OUT     folder of logs and results (default: benchmarks/results)
#     PYTHON  the interpreter (default: python)
#     STEPS   some of: build tests sanitizers benchmarks
#     TESTS   the tests to run (default: all)
#     SUITES  the benchmark suites to run
#     EACH    seconds per measurement of a benchmark
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
root=$PWD
out=${OUT:-$root/benchmarks/results}
python=${PYTHON:-python}
steps=${STEPS:-build tests sanitizers benchmarks}
suites=${SUITES:-warp chart transform eval train infer}
chosen=${TESTS:-tests}
dry=${DRY_RUN:-0}
each=${EACH:-}
mkdir -p "$out"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
export PATH="${CUDA_HOME:-/usr/local/cuda}/bin:$PATH"
failed=()

# attempt SECONDS NAME COMMAND... runs the command for at most so long, with its output in NAME.log.
attempt() {
  local limit=$1 name=$2 begin=$SECONDS code
  shift 2
  timeout "$limit" "$@" >"$out/$name.log" 2>&1
  code=$?
  if ((code == 0)); then
    printf '==== %s: done in %s s\n' "$name" "$((SECONDS - begin))"
  else
    printf '==== %s: FAILED after %s s with status %s; the end of %s.log:\n' "$name" "$((SECONDS - begin))" "$code" "$name"
    tail -n 15 "$out/$name.log"
  fi
  return "$code"
}

# together runs functions NAME... at the same time, and notes those that failed.
together() {
  local name pids=()
  for name in "$@"; do
    "$name" &
    pids+=($!)
  done
  for name in "$@"; do
    wait "${pids[0]}" || failed+=("$name")
    pids=("${pids[@]:1}")
  done
}

wanted() { [[ " $steps " == *" $1 "* ]]; }

if ((dry)); then
  device=cpu
  quick=--quick
  chosen=${TESTS:-tests/ops}
  echo "dry run on the CPU" | tee "$out/gpu.txt"
else
  device=cuda
  quick=
  export DSA_FAST_REQUIRE_CUDA=1
  "$python" -c 'import torch; assert torch.cuda.is_available(), "PyTorch sees no GPU"' || exit 1
  nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader | tee "$out/gpu.txt"
fi

build() {
  local arch=9.0
  ((dry)) || arch=$("$python" -c 'import torch; print("{}.{}".format(*torch.cuda.get_device_capability()))')
  attempt 300 build env FORCE_CUDA=1 TORCH_CUDA_ARCH_LIST="$arch" "$python" setup.py build_ext --inplace
}

# Half of the cores, so that the sanitizers can run at the same time.
workers=$(($(nproc) > 3 ? $(nproc) / 2 : 1))
tests() {
  attempt 300 tests "$python" -m pytest -q -n "$workers" --dist loadgroup $chosen
}

# The CUDA tests have "cuda" in their names. Those that fill the memory or compile would take the tools too long.
small="cuda and not build and not 32_bits and not compile"
((dry)) && small="test_fill_is_cast_like_values"
sanitizer() { # TOOL NAME SELECTION
  local run=(compute-sanitizer --tool "$1" --error-exitcode 1 --target-processes all)
  ((dry)) && run=()
  attempt 300 "$2" ${run[@]+"${run[@]}"} "$python" -m pytest -q -x tests/ops -k "$3"
}
# PyTorch's caching allocator would hide accesses outside a tensor. It refuses to work uncached in a captured graph.
memcheck() { PYTORCH_NO_CUDA_MEMORY_CACHING=1 sanitizer memcheck sanitizer_memcheck "$small and not graph"; }
memcheck_graphs() { sanitizer memcheck sanitizer_memcheck_graphs "${small/cuda/cuda and graph}"; }
racecheck() { sanitizer racecheck sanitizer_racecheck "$small"; }
initcheck() { PYTORCH_NO_CUDA_MEMORY_CACHING=1 sanitizer initcheck sanitizer_initcheck "$small and not graph"; }
synccheck() { sanitizer synccheck sanitizer_synccheck "$small"; }

wanted build && together build
checks=()
wanted tests && checks+=(tests)
wanted sanitizers && checks+=(memcheck memcheck_graphs racecheck initcheck synccheck)
((${#checks[@]})) && together "${checks[@]}"

if wanted benchmarks; then # one after another, and nothing else at the same time
  for suite in $suites; do
    extra=()
    [[ $suite == train ]] && extra=(--compiled)
    attempt 150 "benchmark_$suite" "$python" benchmarks/run.py --suite "$suite" --device "$device" $quick \
      ${each:+--seconds "$each"} ${extra[@]+"${extra[@]}"} --json "$out/${suite}_$device.json" || failed+=("benchmark_$suite")
  done
  "$python" benchmarks/targets.py "$out" "$device"
fi

if ((${#failed[@]})); then
  printf '\nfailed: %s\n' "${failed[*]}"
  exit 1
fi
printf '\nall done; the results are in %s\n' "$out"
