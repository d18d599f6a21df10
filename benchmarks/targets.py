"""Prints the results of a GPU next to their targets.

    python benchmarks/targets.py FOLDER        # reads FOLDER/SUITE_cuda.json
    python benchmarks/targets.py FOLDER cpu    # FOLDER/SUITE_cpu.json, to try the table without a GPU

A target that no result answers is shown as "not measured". The predictions were computed from counted instructions and
bytes before any GPU ran the kernels, for an H100 with 3.0 TB/s.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import print_table, say

Rows = list[dict[str, Any]]
GRAPH = "dsa_fast last, CUDA graph, bfloat16"
MEAN_GRAPH = "dsa_fast mean, CUDA graph, bfloat16"


@dataclass(frozen=True)
class Target:
    """A figure that a GPU should reach.

    Attributes:
        what: the figure, in words.
        suite: the suite that measures it.
        measure: computes it from the suite's result; raises LookupError if the result does not contain it.
        limit: the target.
        least: whether the figure must be at least the limit; otherwise it must be at most the limit.
        unit: printed after the numbers; "%" multiplies them by 100.
        predicted: the figure as predicted, if it was.
    """

    what: str
    suite: str
    measure: Callable[[dict[str, Any]], float]
    limit: float
    least: bool = True
    unit: str = ""
    predicted: str = ""

    def reached(self, value: float) -> bool:
        """Tells whether a measured value reaches the target."""
        return value >= self.limit if self.least else value <= self.limit

    def show(self, value: float) -> str:
        """Prints a value in the target's unit."""
        return f"{100 * value:.3g} %" if self.unit == "%" else f"{value:,.4g} {self.unit}".strip()


def find(rows: Rows, **wanted: Any) -> dict[str, Any]:
    """Returns the first row with these values. Raises LookupError if there is none."""
    for row in rows:
        if all(row.get(name) == value for name, value in wanted.items()):
            return row
    raise LookupError(f"no row with {wanted}")


def _floor(batch: int) -> Callable[[dict[str, Any]], float]:
    return lambda result: find(result["rows"], batch=batch, name=GRAPH)["floor_share"]


def _ratio(numerator: dict[str, Any], denominator: dict[str, Any], rows: Rows, key: str = "median_s") -> float:
    return float(find(rows, **numerator)[key] / find(rows, **denominator)[key])


def _evaluation(size: int) -> Callable[[dict[str, Any]], float]:
    name = "dsa_fast: distances and scores"
    return lambda result: find(result["rows"], name=name, size=f"3368 x 15913 x {size}")["best_s"]


def _infer(result: dict[str, Any], batch: int | None, best: Callable[[list[float]], float], key: str) -> float:
    rows = [row for row in result["rows"] if row["from"] == "device" and batch in (None, row["batch"])]
    if not rows:
        raise LookupError("no row of images on the device")
    return best([row[key] for row in rows])


TARGETS = (
    Target("warp, last, bfloat16, 256 images, by graph: share of the floor", "warp", _floor(256), 0.85, unit="%",
           predicted="82-92 %"),
    Target("warp, last, bfloat16, 64 images, by graph: share of the floor", "warp", _floor(64), 0.70, unit="%",
           predicted="70-80 %"),
    Target("warp, last, bfloat16, 1 image, by graph", "warp",
           lambda result: 1e6 * find(result["rows"], batch=1, name=GRAPH)["median_s"], 10, least=False, unit="us",
           predicted="5-6 us"),
    Target("kernels and memsets that a warp queues", "warp",
           lambda result: len(result["one_image"]["launches"]), 1, least=False, predicted="1"),
    Target("a call of warp on the host, 1 image of 8 x 8", "warp",
           lambda result: 1e6 * result["host"]["warp"], 41 / 4, least=False, unit="us"),
    Target("warp, mean of bytes compared with last, 64 images, by graph", "warp",
           lambda result: _ratio({"batch": 64, "name": MEAN_GRAPH}, {"batch": 64, "name": GRAPH}, result["rows"]),
           1.5, least=False, unit="x", predicted="2.4-2.8 x"),
    Target("warp_densepose, 32 instances, compared with detectron2", "chart",
           lambda result: _ratio({"instances": 32, "name": "detectron2, then index_put"},
                                 {"instances": 32, "name": "dsa_fast last"}, result["rows"]), 200, unit="x"),
    Target("training transform, 64 images, compared with torchvision", "transform",
           lambda result: find(result["rows"], stored=[128, 64], batch=64, name="torchvision, warp")["times_dsa_fast"],
           5, unit="x"),
    Target("input's share of a full training step", "train", lambda result: result["input_share"], 0.03, least=False,
           unit="%"),
    Target("full training step, bfloat16", "train",
           lambda result: find(result["rows"], name="dsa_fast")["images_per_s"], 2000, unit="images/s"),
    Target("full training step: share of the matrix product's rate", "train", lambda result: result["share_of_peak"],
           0.40, unit="%"),
    Target("branches compared with separate modules in float32", "train",
           lambda result: find(result["rows"], name="branches, separate modules")["times_dsa_fast"], 5, unit="x"),
    Target("Market-1501's evaluation, 256 dimensions", "eval", _evaluation(256), 0.2, least=False, unit="s"),
    Target("Market-1501's evaluation, 4,096 dimensions", "eval", _evaluation(4096), 0.2, least=False, unit="s"),
    Target("image to vector on the device, 1 image, fastest runtime", "infer",
           lambda result: 1e3 * _infer(result, 1, min, "p50_s"), 0.6, least=False, unit="ms"),
    Target("image to vector on the device, best batch size and runtime", "infer",
           lambda result: _infer(result, None, max, "images_per_s"), 30_000, unit="images/s"),
)  # fmt: skip


def compare(results: dict[str, dict[str, Any]]) -> list[tuple[Target, float | None]]:
    """Pairs each target with its measured figure, or None if it was not measured.

    Args:
        results: results of the suites, by the suite's name.
    """
    found: list[tuple[Target, float | None]] = []
    for target in TARGETS:
        try:
            found.append((target, float(target.measure(results[target.suite]))))
        except (LookupError, TypeError):
            found.append((target, None))
    return found


def main(folder: Path, device: str = "cuda") -> None:
    """Prints the table of a folder's results."""
    results = {}
    for suite in dict.fromkeys(target.suite for target in TARGETS):
        path = folder / f"{suite}_{device}.json"
        if path.exists():
            results[suite] = json.loads(path.read_text())
    rows = []
    for target, value in compare(results):
        sign = "at least" if target.least else "at most"
        verdict = "not measured" if value is None else "reached" if target.reached(value) else "MISSED"
        figure = "" if value is None else target.show(value)
        rows.append((target.what, figure, f"{sign} {target.show(target.limit)}", target.predicted, verdict))
    print_table("Targets on a GPU", ("what", "measured", "target", "predicted", "verdict"), rows)
    machines = {str(result["machine"].get("gpu", result["machine"]["cpu"])) for result in results.values()}
    say(f"measured on {', '.join(sorted(machines)) or 'nothing'}")


if __name__ == "__main__":
    arguments = sys.argv[1:]
    main(Path(arguments[0]) if arguments else Path(__file__).parent / "results", *arguments[1:2])
