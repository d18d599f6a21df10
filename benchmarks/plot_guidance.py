"""Draws mAP on Market-1501 against training operations, from the scores of `dsa-fast tables`.

python benchmarks/plot_guidance.py   # benchmarks/results/tables/market_curve.png
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from pathlib import Path

from dsa_fast.image import save_image
from dsa_fast.visual.charts import curves

TABLES = Path(__file__).parent / "results" / "tables"
NAMES = {"two_branches": "two branches", "part_pooling_alone": "averages over parts"}


def read() -> dict[str, list[tuple[float, float]]]:
    """Reads the runs with all 751 people on processors with AVX-512: training operations / 10^15 and mean mAP."""
    small = json.loads((TABLES / "market_guided.json").read_text())["runs"]
    large = json.loads((TABLES / "market_256.json").read_text())["runs"]
    runs = [run for run in small if "AVX-512" in run.get("processor", "")]
    runs += [run for run in large if run["setting"].startswith("751")]
    scores: dict[tuple[str, int], dict[int, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        if run["row"] in NAMES:
            score = run["scores"].get("mf") or run["scores"]["mf/both"]
            point = (run["training_flops"] / 1e15, score["mAP"])
            scores[run["row"], run.get("size", (128, 64))[0]][run["epochs"]].append(point)
    series = {}
    for (row, height), seeds in sorted(scores.items(), reverse=True):
        epochs = ", ".join(map(str, sorted(seeds)))
        series[f"{NAMES[row]}, {height} x {height // 2}: {epochs} epochs"] = [
            (seeds[n][0][0], statistics.mean(mAP for _, mAP in seeds[n])) for n in sorted(seeds)
        ]
    return series


if __name__ == "__main__":
    picture = curves(read(), x_label="training operations, 10^15", y_label="mAP of the MF-Stream, %")
    save_image(picture, TABLES / "market_curve.png", optimize=True)
