#!/usr/bin/env bash
# Measures this processor for docs/performance.md: writes benchmarks/results/SUITE_cpu[_TAG].json, the page's tables and
# the figure. Takes about ten minutes on two cores. Run it on a machine that does nothing else.
#
#   bash benchmarks/cpu.sh          # a processor with AVX-512 and AMX
#   bash benchmarks/cpu.sh avx512   # a processor with AVX-512 alone
#   bash benchmarks/cpu.sh avx2     # a processor with AVX2 alone
#   SUITES="neighbor eval" PEER=PATH_TO_TORCHREID_CHECKOUT bash benchmarks/cpu.sh avx2
set -euo pipefail
cd "$(dirname "$0")/.."
tag=${1:+_$1}

for suite in ${SUITES:-warp chart transform infer eval neighbor}; do
  peer=()
  if [ "$suite" = eval ] && [ -n "${PEER:-}" ]; then peer=(--peer "$PEER"); fi
  python benchmarks/run.py --suite "$suite" --device cpu --json "benchmarks/results/${suite}_cpu$tag.json" "${peer[@]}"
done
python benchmarks/plot.py
