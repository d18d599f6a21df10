#!/usr/bin/env bash
# Trains what the guides are compared with, three seeds each, on one GPU in a fixed time, all processes at once:
#
#     bash benchmarks/guided.sh DATA IUV LITE0.pth OUT [SECONDS]
#
# DATA is Market-1501, IUV its maps (`dsa-fast prepare`), LITE0.pth the weights that docs/guides.md explains, and SECONDS
# the time that may pass (default: 240). Images have 256 x 128 pixels. The script measures the time of an epoch first, and
# then sets the number of epochs, the same for every row. Two branches get three learning rates, and 2.5 times as many
# epochs, which is more wall time than `dsa_taught_dense` takes with its teacher. The guided rows get the configuration's
# learning rate.
# OUT/NAME_SEED/ROW/seedSEED/scores.json has the scores. Unfinished runs are stopped; the same command with EPOCHS set to
# the number in OUT/epochs.txt resumes them. `dsa_plus` and `part_pooling` start from the backbone of the row `pretrain`,
# which was trained with the maps of the training images before, without identities, for as many epochs.
set -uo pipefail
data=$1 iuv=$2 weights=$3 out=$4 limit=${5:-240}
start=$SECONDS
log() { printf '[%s s] %s\n' "$((SECONDS - start))" "$*"; }
mkdir -p "$out"
# A small network leaves a GPU idle. NVIDIA's MPS lets the kernels of several processes run at the same time.
export CUDA_MPS_PIPE_DIRECTORY=$out/mps CUDA_MPS_LOG_DIRECTORY=$out/mps OMP_NUM_THREADS=1
mkdir -p "$out/mps"
if ! { command -v nvidia-cuda-mps-control && nvidia-cuda-mps-control -d; } >/dev/null 2>&1; then
  unset CUDA_MPS_PIPE_DIRECTORY
  log "no MPS: the processes take turns"
fi
common=(
  --data.root "$data" --data.iuv "$iuv" --data.verify false --model.pretrained "$weights" --data.cache "$out/cache"
  --augment.size "[256, 128]" --augment.dsap_size 32
)
run() { "${PYTHON:-python}" -m dsa_fast "$@"; }

probe() { # NAME ROW EPOCHS
  run fit --config lite0 --config "rows/$2" "${common[@]}" --trainer.max_epochs "$3" --trainer.eval_every 0 \
    --trainer.progress false --out "$out/probe/$1" >"$out/probe/$1.log" 2>&1
}

# Seconds of 18 processes at once, with so many epochs each.
all() { # EPOCHS
  local begin=$SECONDS i
  for i in {1..18}; do probe "$1_$i" "$([[ $i -le 5 ]] && echo dsa || echo two_branches)" "$1" & done
  wait
  echo "$((SECONDS - begin))"
}

if [[ -z ${EPOCHS:-} ]]; then
  rm -rf "$out/probe" && mkdir -p "$out/probe"
  probe first dsa 1 || { tail -3 "$out/probe/first.log"; exit 1; } # makes the store's file
  one=$(all 1) three=$(all 3)
  # The longest chains cost about three times the epochs of a probe, three starts and two tests.
  EPOCHS=$(((limit - (SECONDS - start) - 3 * one - 45) * 2 / (3 * (three - one > 1 ? three - one : 1))))
  EPOCHS=$((EPOCHS < 4 ? 4 : EPOCHS > 24 ? 24 : EPOCHS))
  log "one epoch with start: $one s; three: $three s; epochs: $EPOCHS"
fi
echo "$EPOCHS" >"$out/epochs.txt"

table() { # NAME ROWS SEED OPTIONS...
  local name=$1 rows=$2 seed=$3
  local code
  shift 3
  run tables --base lite0 --rows "$rows" --seeds "$seed" "${common[@]}" --data.workers 2 --trainer.max_epochs "$EPOCHS" \
    "$@" --out "$out/${name}_$seed" >"$out/${name}_$seed.log" 2>&1
  code=$?
  log "${name}_$seed: $([[ $code == 0 ]] && echo done || echo "FAILED: $(tail -n 1 "$out/${name}_$seed.log")")"
}

for seed in 0 1 2; do
  table plus pretrain,dsa_plus,part_pooling "$seed" &
  table guided dsa,dsa_taught_dense "$seed" &
  table control two_branches,two_branches_taught "$seed" &
  table long two_branches "$seed" --trainer.max_epochs $((EPOCHS * 5 / 2)) &
  { table dense dense,part_pooling_alone "$seed"; table low two_branches "$seed" --optim.lr 5e-4; } &
  { table high two_branches "$seed" --optim.lr 2e-3; table dense_high dense "$seed" --optim.lr 2e-3; } &
done
while ((SECONDS - start < limit)) && [[ -n $(jobs -r) ]]; do sleep 1; done
if [[ -n $(jobs -r) ]]; then
  log "time is up: $(jobs -r | wc -l) of 18 chains are not done"
  pkill -f "$out/" || true
fi
[[ -n ${CUDA_MPS_PIPE_DIRECTORY:-} ]] && echo quit | nvidia-cuda-mps-control >/dev/null 2>&1

"${PYTHON:-python}" - "$out" <<'PY'
import json, sys
from pathlib import Path

for path in sorted(Path(sys.argv[1]).glob("*/*/seed*/scores.json")):
    run = json.loads(path.read_text())
    scores = {name.removesuffix("/both"): run["scores"][name] for name in run["scores"] if name.endswith("/both")}
    text = ", ".join(f"{name} mAP {100 * of['mAP']:.2f} R1 {100 * of['R1']:.2f}" for name, of in scores.items())
    if not run["scores"]:
        continue  # a backbone alone
    print(f"{path.parent.relative_to(sys.argv[1])}: {text}; {run['seconds']} s")
PY
