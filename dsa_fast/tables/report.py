"""Writes the tables as JSON, Markdown and charts."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dsa_fast.files import atomic_path
from dsa_fast.tables.rows import PAPER_ROWS, TableRow, rows_of
from dsa_fast.tables.run import TrainingScores, source_rows
from dsa_fast.terminal import counted
from dsa_fast.version import __version__
from dsa_fast.visual.layout import save_picture
from dsa_fast.visual.table_charts import sweep_chart, table_chart

METRICS = ("mAP", "R1", "R5", "R10")
_PAPER_SETTING = "Market-1501, ResNet-50 of full width from ImageNet weights, 256 x 128, 320 epochs"


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Computes the mean and sample standard deviation (None for one value), and adds the values themselves."""
    return {
        "mean": statistics.fmean(values),
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "values": list(values),
    }


def collect(runs: Sequence[TrainingScores]) -> list[dict[str, Any]]:
    """Makes a dict per row: title, config, test, seeds, the scores' spread in percent, and the paper's numbers.

    The paper's rows come first, in the paper's order.
    """
    configs = list(dict.fromkeys(run.config for run in runs))
    rows: list[TableRow] = [row for row in PAPER_ROWS if row.config in configs]
    rows += [row for config in configs for row in rows_of(config) if row.paper is None]
    collected = []
    for row in rows:
        tested = [run for run in runs if run.config == row.config and row.test in run.scores]
        if not tested:  # a fused test, but the people have no maps
            continue
        collected.append(
            {
                "row": row.title,
                "config": row.config,
                "test": row.test,
                "seeds": [run.seed for run in tested],
                "here": {name: spread([100 * run.scores[row.test][name] for run in tested]) for name in METRICS},
                "paper": None if row.paper is None else dict(zip(METRICS, row.paper, strict=True)),
                "paper_tables": list(row.tables),
            }
        )
    return collected


def collect_costs(runs: Sequence[TrainingScores]) -> dict[str, dict[str, Any]]:
    """Collects the seconds, floating-point operations and required rows of each configuration.

    Seconds and operations are spreads over seeds, or None if unknown. They exclude the training runs of the rows that
    the configuration needs: its teacher, and the one whose backbone it starts from.
    """
    costs = {}
    for config in dict.fromkeys(run.config for run in runs):
        trained = [run for run in runs if run.config == config]
        costs[config] = {
            "seconds": _spread_of([run.seconds for run in trained]),
            "flops": _spread_of([run.flops for run in trained]),
            "needs": source_rows(trained[0].options),
        }
    return costs


def _spread_of(values: Sequence[float | None]) -> dict[str, Any] | None:
    """Computes the spread of the known values."""
    known = [value for value in values if value is not None]
    return spread(known) if known else None


def _spent(cost: dict[str, Any]) -> list[str]:
    """Formats minutes and PFLOP."""
    extra = "".join(f" + {name}" for name in cost["needs"])
    return [_scaled(cost["seconds"], 60, extra), _scaled(cost["flops"], 1e15, extra)]


def _scaled(value: dict[str, Any] | None, unit: float, extra: str) -> str:
    return "" if value is None else f"{value['mean'] / unit:.3g}{extra}"


def table_report(
    runs: Sequence[TrainingScores], out: Path, *, people: str, details: dict[str, Any] | None = None
) -> str:
    """Writes `table.json`, `table.md` and `table.png` into a folder.

    Args:
        runs: scores of training runs, at least one of which was tested.
        out: the folder.
        people: short description of the people.
        details: more about the people, for the JSON.

    Returns:
        The Markdown.
    """
    rows, costs = collect(runs), collect_costs(runs)
    setting = describe(runs)
    lines = [
        f"Here: {people}; {setting}. Mean ± sample standard deviation over seeds, in percent, no re-ranking.  ",
        f"Paper: {_PAPER_SETTING}. People, network and budget differ, so compare the order of rows.",
        "",
        "Minutes include training and test on this machine. PFLOP (10^15 operations) include the training only. "
        '"+ row" means that the row needs the training run of another row, which is not included.',
        *describe_alone(runs),
        "",
        "| row | seeds | mAP here | R1 here | R5 here | R10 here | minutes | PFLOP | "
        "paper mAP | paper R1 | paper R5 | paper R10 |",
        "|---" * 12 + "|",
    ]
    for row in rows:
        here = [_plus_minus(row["here"][name]) for name in METRICS]
        paper = [f"{row['paper'][name]:.1f}" if row["paper"] else "" for name in METRICS]
        cost = costs[row["config"]]
        lines.append("| " + " | ".join([row["row"], str(len(row["seeds"])), *here, *_spent(cost), *paper]) + " |")
    for config in dict.fromkeys(run.config for run in runs if not run.scores):
        seeds = sum(run.config == config for run in runs)
        lines.append("| " + " | ".join([config, str(seeds), *[""] * 4, *_spent(costs[config]), *[""] * 4]) + " |")
    text = "\n".join(lines) + "\n"
    about = {
        "format": "dsa_fast.tables",
        "format_version": 2,
        "people": people,
        "people_details": details,
        "setting": setting,
        "paper_setting": _PAPER_SETTING,
        "rows": rows,
        "costs": costs,
        **_runs(runs),
    }
    _write(out / "table.json", json.dumps(about, indent=2) + "\n")
    _write(out / "table.md", text)
    save_picture(table_chart(rows, people), out / "table.png")
    return text


def sweep_report(
    runs: Sequence[TrainingScores], out: Path, *, people: str, details: dict[str, Any] | None = None
) -> str:
    """Writes `sweep.json`, `sweep.md` and `sweep.png`: scores and gains by strength of misalignment.

    A gain is the difference in mAP from the first configuration's MF-Stream with the same seed. If a run was also
    tested with both streams fused, each test has its own line.

    Args:
        runs: scores of training runs, each with a strength; at least one was tested.
        out: the folder.
        people: short description of the people.
        details: more about the people, for the JSON.

    Returns:
        The Markdown.
    """
    configs = list(dict.fromkeys(run.config for run in runs if run.scores))
    rows = [row for config in configs for row in rows_of(config) if row.branch == "both"]
    rows = [row for row in rows if any(run.config == row.config and row.test in run.scores for run in runs)]
    strengths = sorted({run.strength for run in runs if run.strength is not None})
    first = rows_of(configs[0])[-1]

    def tested(row: TableRow, strength: float) -> dict[int, float]:
        return {
            run.seed: 100 * run.scores[row.test]["mAP"]
            for run in runs
            if (run.config, run.strength) == (row.config, strength) and row.test in run.scores
        }

    points: list[dict[str, Any]] = []
    for row in rows:
        for strength in strengths:
            here, beside = tested(row, strength), tested(first, strength)
            if not here:
                continue
            gains = [mAP - beside[seed] for seed, mAP in here.items() if seed in beside]
            point: dict[str, Any] = {"config": row.config, "test": row.test, "row": row.title, "strength": strength}
            point |= {"seeds": list(here), "mAP": spread(list(here.values()))}
            point["gain"] = spread(gains) if row != first and gains else None
            points.append(point)
    setting = describe(runs)
    titles, others = [row.title for row in rows], [row.title for row in rows if row != first]
    lines = [
        f"Here: {people}; {setting}. mAP in percent, and the gain over {first.title} with the same people and seed: "
        "mean ± sample standard deviation.",
        *describe_alone(runs),
        "",
        "| " + " | ".join(["strength", *titles, *(f"gain of {title}" for title in others)]) + " |",
        "|---" * (1 + len(titles) + len(others)) + "|",
    ]
    for strength in strengths:
        at = {point["row"]: point for point in points if point["strength"] == strength}
        cells = [_plus_minus(at[title]["mAP"]) if title in at else "" for title in titles]
        cells += [_plus_minus(at[t]["gain"], sign=True) if t in at and at[t]["gain"] else "" for t in others]
        lines.append(f"| {strength:g} | " + " | ".join(cells) + " |")
    text = "\n".join(lines) + "\n"
    about = {
        "format": "dsa_fast.tables.sweep",
        "format_version": 1,
        "people": people,
        "people_details": details,
        "setting": setting,
        "gain_on": first.title,
        "points": points,
        **_runs(runs),
    }
    _write(out / "sweep.json", json.dumps(about, indent=2) + "\n")
    _write(out / "sweep.md", text)
    save_picture(sweep_chart(points, titles, first.title), out / "sweep.png")
    return text


def describe(runs: Sequence[TrainingScores]) -> str:
    """Describes the common setting of all tested training runs in one line."""
    tested = [run for run in runs if run.scores]
    first = next((run for run in tested if not source_rows(run.options)), tested[0])
    images, options = first.images, first.options
    model, data = options["model"], options["data"]
    (height, width), size = options["augment"]["size"], options["augment"]["dsap_size"]
    needs = source_rows({"model": model})
    start = "random weights" if model["pretrained"] is None else f"weights {model['pretrained']}"
    if needs:
        start = f"weights of the row {needs[0]}"
    return (
        f"{images['train']} training images of {images['identities']} identities, {images['query']} queries, "
        f"{images['gallery']} gallery images; {model['backbone']}, width {model['width']:g}, {start}, "
        f"{height} x {width}, "
        f"parts {size} x {size}, P x K = {data['p']} x {data['k']}, "
        f"{counted(options['trainer']['max_epochs'], 'epoch')}"
    )


def folder_name(root: str) -> str:
    """Returns a folder's own name, in characters that Matplotlib and UTF-8 have."""
    return Path(root).resolve().name.encode(errors="backslashreplace").decode()


def describe_alone(runs: Sequence[TrainingScores]) -> list[str]:
    """Describes the training of each backbone alone, in a line each."""
    lines = {}
    for run in runs:
        if not run.scores:
            name = folder_name(run.options["data"]["root"])
            epochs = counted(run.options["trainer"]["max_epochs"], "epoch")
            lines[run.config] = f"`{run.config}`: {run.images['train']} images with maps of {name}, {epochs}, no test."
    return list(lines.values())


def _runs(runs: Sequence[TrainingScores]) -> dict[str, Any]:
    return {
        "machine": {
            "cpu": _cpu(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "dsa_fast": __version__,
        },
        "runs": [
            {
                "config": r.config,
                "seed": r.seed,
                "strength": r.strength,
                "images": r.images,
                "seconds": r.seconds,
                "flops": r.flops,
                "scores": r.scores,
            }
            for r in runs
        ],
    }


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def _plus_minus(value: dict[str, Any], *, sign: bool = False) -> str:
    mean = f"{value['mean']:+.1f}" if sign else f"{value['mean']:.1f}"
    return mean if value["std"] is None else f"{mean} ± {value['std']:.1f}"


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # of names
