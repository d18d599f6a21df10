"""Draws the figure of README.md and docs/performance.md, and writes that page's tables, from benchmarks/results/*.json.

Files SUITE_cpu.json are of a processor with AVX-512 and AMX, SUITE_cpu_avx512.json of one with AVX-512 alone, and
SUITE_cpu_avx2.json of one with neither (benchmarks/cpu.sh).

python benchmarks/plot.py                 # docs/speed.png of README's processor, and the tables in docs/performance.md
python benchmarks/plot.py --device cuda   # docs/speed_cuda.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from dsa_fast.files import atomic_path

ROOT = Path(__file__).resolve().parents[1]
INK, OURS, OTHERS, FLOOR = "#808890", "#2f81f7", "#9aa4af", "#d29922"  # readable on white and on black
BATCH = 64


def load(suite: str, device: str) -> dict[str, Any] | None:
    """Reads a suite's measurements; None if there are none."""
    path = ROOT / "benchmarks" / "results" / f"{suite}_{device}.json"
    return json.loads(path.read_text()) if path.exists() else None


def bars(axes: Axes, title: str, unit: str, rows: list[tuple[str, float]], floor: float | None = None) -> None:
    """Draws horizontal bars on a logarithmic axis, each with its value and its ratio to the first."""
    names, values = [name for name, _ in rows], [value for _, value in rows]
    positions = range(len(rows))
    axes.barh(positions, values, color=[OURS if name.startswith("dsa_fast") else OTHERS for name in names], height=0.62)
    axes.set_xscale("log")
    low = min(values if floor is None else [*values, floor])
    axes.set_xlim(low / 2.2, max(values) * 9)
    axes.set_yticks(list(positions), names)
    axes.invert_yaxis()
    for position, value in zip(positions, values, strict=True):
        ratio = "" if position == 0 else f"   {value / values[0]:.1f} x"
        text = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
        axes.text(value * 1.12, position, f"{text} {unit}{ratio}", va="center", color=INK, fontsize=9)
    if floor is not None:
        axes.axvline(floor, color=FLOOR, linewidth=1.3, linestyle=(0, (4, 3)), zorder=3)
        axes.text(floor, -0.62, f"memory floor {floor:.3g} {unit}", color=FLOOR, fontsize=8.5, ha="center")
    axes.set_title(title, color=INK, fontsize=10.5, loc="left", pad=16, fontweight="bold")
    axes.tick_params(axis="y", colors=INK, labelsize=9.5, length=0)
    axes.tick_params(axis="x", which="both", colors=INK, labelsize=8.5)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(f"{unit}, logarithmic", color=INK, fontsize=8.5)
    for name, spine in axes.spines.items():
        spine.set_visible(name == "bottom")
        spine.set_color(INK)


def warp_panels(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Draws a panel for each kind of people."""
    panels = []
    for kind in result["inputs"]:
        rows = [row for row in result["rows"] if row["batch"] == BATCH and row["input"] == kind]
        if not rows:
            continue
        scale = 1e6 / BATCH
        floor = rows[0]["floor_share"] * rows[0]["median_s"] * scale
        title = f"Warp, {kind} people, 256 x 128, time of an image"
        lines = [(row["name"], row["median_s"] * scale) for row in rows]
        panels.append({"title": title, "unit": "us", "rows": lines, "floor": floor})
    return panels


def evaluation_panels(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Draws distances and scores compared with torchreid's, for each size where both were measured."""
    found: dict[str, dict[str, float]] = {}
    for row in result["rows"]:
        found.setdefault(row["size"], {})[row["name"]] = row["best_s"]
    panels = []
    for size, rows in found.items():
        ours, distances = rows.get("dsa_fast: distances and scores"), rows.get("torchreid: distances")
        if ours is None:
            continue
        lines = [("dsa_fast", ours)]
        for kind in ("compiled", "Python"):
            ranking = rows.get(f"torchreid: {kind} ranking")
            if distances is not None and ranking is not None:
                lines.append((f"torchreid, {kind}", distances + ranking))
        product = rows.get("PyTorch: the matrix product alone")
        if product is not None:
            lines.append(("PyTorch, the matrix product alone", product))
        if len(lines) == 1:
            continue
        queries, gallery, width = size.split(" x ")
        title = f"Evaluation, {queries} queries, {gallery} images, {width} numbers each"
        panels.append({"title": title, "unit": "s", "rows": lines})
    return panels


WARP = {"batch": BATCH, "input": "real"}
STORED = {"batch": BATCH, "stored": [128, 64]}
# Suite, its rows, the names of ours and the peer's rows, and their names in the table.
TABLE: list[tuple[str, dict[str, Any], str, str, str, str]] = [
    ("warp", WARP, "dsa_fast last", "PyTorch index_put", "`warp`, 64 photos of 256 x 128", "PyTorch `index_put`"),
    ("warp", WARP, "dsa_fast last", "NumPy, flat", "", "NumPy, flat indices"),
    (
        *("chart", {"instances": 8}, "dsa_fast last", "detectron2, then index_put"),
        *("`warp_densepose`, 8 people", "detectron2's converter, then `index_put`"),
    ),
    (
        *("transform", STORED, "dsa_fast", "torchvision, warp"),
        *("training transform, 64 crops of 128 x 64", "torchvision v2, then our `warp`"),
    ),
    (
        *("infer", {"batch": 1}, "OpenVINO int8", "PyTorch eager fp32"),
        *("`Encoder`, one image, ResNet-50, int8", "PyTorch, float32"),
    ),
    ("infer", {"batch": 32}, "OpenVINO int8", "PyTorch eager fp32", "`Encoder`, 32 images", "PyTorch, float32"),
]
# The files' suffixes, and what the processors have.
MACHINES = {"cpu": "AVX-512 and AMX", "cpu_avx512": "AVX-512", "cpu_avx2": "AVX2"}
SPEEDS, NEIGHBOR = "<!-- written by benchmarks/plot.py -->\n", "<!-- neighbor, written by benchmarks/plot.py -->\n"
END = "<!-- end -->\n"
Pairs = dict[tuple[str, str], tuple[float, float]]  # task and peer -> our time and the peer's


def time_text(seconds: float) -> str:
    """Formats a time with three digits and a suitable unit."""
    for unit, scale in (("s", 1.0), ("ms", 1e3)):
        if seconds * scale >= 1:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def pairs(device: str) -> Pairs:
    """Returns the pairs of times that were measured."""
    found: Pairs = {}
    task = ""
    for suite, where, our_name, peer_name, title, peer in TABLE:
        task = title or task
        times = {}
        for row in (load(suite, device) or {"rows": []})["rows"]:
            if all(row.get(name) == value for name, value in where.items()):
                times[f"{row['name']} {row.get('precision', '')}".strip()] = row.get("median_s") or row["p50_s"]
        if our_name in times and peer_name in times:
            found[task, peer] = times[our_name], times[peer_name]
    scores = load("eval", device)
    for panel in [] if scores is None else evaluation_panels(scores):
        (_, ours), *peers = panel["rows"]
        for name, seconds in peers:
            found[panel["title"].replace("Evaluation", "evaluation"), name] = ours, seconds
    return found


def processor(device: str) -> str:
    """Returns the processor's name in the files of a machine, and what it has."""
    names = [result["machine"]["cpu"] for suite in ("warp", "eval", "neighbor") if (result := load(suite, device))]
    return f"{names[0]}, {MACHINES[device]}" if names else ""


def speed_table() -> str:
    """Returns the Markdown of all pairs, with three columns for each processor."""
    by_machine = {device: found for device in MACHINES if (found := pairs(device))}
    lines = ["| task | compared with |", "|---|---|"]
    for device in by_machine:
        lines[0] += f" {processor(device)}: dsa_fast | the other | times faster |"
        lines[1] += "---|---|---|"
    before = ""
    for task, peer in dict.fromkeys(key for found in by_machine.values() for key in found):
        line = f"| {task if task != before else ''} | {peer} |"
        before = task
        for found in by_machine.values():
            if (task, peer) in found:
                ours, theirs = found[task, peer]
                line += f" {time_text(ours)} | {time_text(theirs)} | {theirs / ours:.1f} |"
            else:
                line += " | | |"
        lines.append(line)
    return "\n".join(lines) + "\n"


def neighbor_tables() -> str:
    """Returns the Markdown of the suite `neighbor`, a table for each processor. Empty if it was not run."""
    lines: list[str] = []
    for device in MACHINES:
        result = load("neighbor", device)
        if result is None:
            continue
        most = max(row["threads"] for row in result["rows"])
        lines += [f"{processor(device)}:\n"]
        lines += [f"| task | batch | one thread | {most} threads | next to a busy process | times slower |"]
        lines += ["|---|---|---|---|---|---|"]
        times: dict[tuple[str, int], dict[tuple[int, bool], float]] = {}
        for row in result["rows"]:
            times.setdefault((row["name"], row["batch"]), {})[row["threads"], row["neighbor"]] = row["median_s"]
        for (name, batch), found in times.items():
            one, alone, busy = found[1, False], found[most, False], found[most, True]
            texts = " | ".join(time_text(seconds) for seconds in (one, alone, busy))
            lines.append(f"| {name} | {batch} | {texts} | {busy / alone:.1f} |")
        lines.append("")
    return "\n".join(lines)


def write_tables(page: Path) -> None:
    """Writes each table between its two markers of the page."""
    text = page.read_text()
    for begin, table in ((SPEEDS, speed_table()), (NEIGHBOR, neighbor_tables())):
        before, rest = text.split(begin)
        text = before + begin + "\n" + table + "\n" + END + rest.split(END, 1)[1]
    with atomic_path(page) as temporary:
        temporary.write_text(text)


def main() -> None:
    """Draws the measured suites."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu_avx512", help=f"{', '.join(MACHINES)} or cuda (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="default: docs/speed.png, or docs/speed_DEVICE.png")
    options = parser.parse_args()
    panels: list[dict[str, Any]] = []
    about = ""
    for suite, make in (("warp", warp_panels), ("eval", evaluation_panels)):
        result = load(suite, options.device)
        if result is not None:
            panels += make(result)
            computer = result["machine"]
            about = f"{computer.get('gpu', computer['cpu'])}, {computer['cores']} cores, PyTorch {computer['torch']}"
    if not panels:
        raise SystemExit(f"plot: nothing is in benchmarks/results for {options.device}")
    heights = [len(panel["rows"]) + 1.6 for panel in panels]
    figure, axes = pyplot.subplots(
        len(panels), 1, figsize=(8.4, 0.36 * sum(heights) + 0.4), height_ratios=heights, squeeze=False
    )
    for panel, place in zip(panels, axes[:, 0], strict=True):
        bars(place, **panel)
    figure.text(0.99, 0.004, f"{about}; logarithmic axes", ha="right", color=INK, fontsize=8)
    figure.tight_layout(rect=(0, 0.02, 1, 1))
    cpu = options.device in MACHINES
    out = options.out or ROOT / "docs" / ("speed.png" if cpu else f"speed_{options.device}.png")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=160, transparent=True)
    print(f"wrote {out}")
    if cpu and options.out is None:
        write_tables(ROOT / "docs" / "performance.md")


if __name__ == "__main__":
    main()
