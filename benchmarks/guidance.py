"""Draws mAP on Market-1501 against training operations, from the scores of `dsa-fast tables`.

python benchmarks/guidance.py   # benchmarks/results/tables/market_curve.png
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from dsa_fast.visual.charts import in_style, render
from dsa_fast.visual.palette import SERIES

TABLES = Path(__file__).parent / "results" / "tables"
ROWS = {"two_branches": "two branches", "part_pooling_alone": "averages over parts (part_pooling_alone)"}
#: Row and image height -> points: epochs -> training operations, and the mAP of each seed.
Curves = dict[tuple[str, int], dict[int, tuple[float, list[float]]]]


def read() -> Curves:
    """Reads the runs with all 751 people on one kind of processor, with AVX-512."""
    curves: Curves = defaultdict(dict)
    small = json.loads((TABLES / "market_guided.json").read_text())["runs"]
    large = json.loads((TABLES / "market_256.json").read_text())["runs"]
    runs = [run for run in small if "AVX-512" in run.get("processor", "")]
    runs += [run for run in large if run["setting"].startswith("751")]
    for run in runs:
        if run["row"] in ROWS:
            scores = run["scores"].get("mf") or run["scores"]["mf/both"]
            curve = curves[run["row"], run.get("size", (128, 64))[0]]
            curve.setdefault(run["epochs"], (run["training_flops"], []))[1].append(scores["mAP"])
    return curves


@in_style
def draw(curves: Curves) -> Image.Image:
    """Draws a curve per row and image size, with a dot per seed and the epochs next to each mean."""
    figure = Figure(figsize=(8.5, 5.0))
    axes = figure.add_subplot()
    for color, ((row, height), points) in zip(SERIES, sorted(curves.items(), reverse=True), strict=False):
        epochs = sorted(points)
        operations = [points[n][0] / 1e15 for n in epochs]
        means = [statistics.mean(points[n][1]) for n in epochs]
        axes.plot(operations, means, "o-", color=color, label=f"{ROWS[row]}, {height} x {height // 2}")
        for x, y, n in zip(operations, means, epochs, strict=True):
            axes.plot([x] * len(points[n][1]), points[n][1], ".", color=color, alpha=0.5, markersize=5)
            axes.annotate(f"{n}", (x, y), xytext=(5, -12), textcoords="offset points", color=color)
    axes.set(xlabel="training operations, 10^15 (numbers: epochs)", ylabel="mAP of the MF-Stream, %")
    figure.legend(loc="outside upper center", ncols=2)
    return render(figure)


if __name__ == "__main__":
    draw(read()).save(TABLES / "market_curve.png", optimize=True)
