"""Charts of the paper's tables, for `dsa_fast.tables`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from dsa_fast.visual.charts import in_style, render
from dsa_fast.visual.palette import QUERY, SERIES

__all__ = ["sweep_chart", "table_chart"]


@in_style
def table_chart(rows: Sequence[dict[str, Any]], people: str) -> Image.Image:
    """Draws each row's mAP on one axis: measured here, with a dot per seed, and the paper's.

    Args:
        rows: result of `dsa_fast.tables.report.collect`.
        people: short description of the data set.
    """
    figure = Figure(figsize=(9.5, 1.6 + 0.36 * len(rows)))
    axes = figure.add_subplot()
    places = [-number for number in range(len(rows))]
    scores = [row["here"]["mAP"] for row in rows]
    means = [score["mean"] for score in scores]
    errors = [score["std"] or 0.0 for score in scores]
    label = "here: {} (mean, deviation, seeds)".format(people.replace("$", r"\$"))  # two begin a formula
    axes.errorbar(means, places, xerr=errors, fmt="D", color=QUERY, capsize=4, markersize=6, label=label)
    for place, score in zip(places, scores, strict=True):
        axes.plot(score["values"], [place] * len(score["values"]), ".", color=QUERY, alpha=0.5, markersize=5)
    known = [(place, row["paper"]["mAP"]) for place, row in zip(places, rows, strict=True) if row["paper"]]
    if known:
        values = [mAP for _, mAP in known]
        label = "paper: Market-1501, full size"
        axes.plot(values, [place for place, _ in known], "o", color=SERIES[1], markersize=7, mfc="none", label=label)
    axes.set_yticks(places, [row["row"] for row in rows])
    axes.set(xlabel="mAP, %", ylim=(places[-1] - 0.6, 0.6))
    figure.legend(loc="outside upper center", ncols=2)
    return render(figure)


@in_style
def sweep_chart(points: Sequence[dict[str, Any]], titles: Sequence[str], first: str) -> Image.Image:
    """Draws the mAP of each row over the strength of misalignment, with its gain over the first row as numbers.

    Args:
        points: result of `dsa_fast.tables.report.sweep_report`: row, strength, mAP and gain.
        titles: titles of the rows.
        first: the row that gains are relative to.
    """
    figure = Figure(figsize=(8.5, 5.0))
    axes = figure.add_subplot()
    for number, title in enumerate(titles):
        color = SERIES[number % len(SERIES)]
        own = [point for point in points if point["row"] == title and point["mAP"]]
        if not own:
            continue
        axes.errorbar(
            [point["strength"] for point in own],
            [point["mAP"]["mean"] for point in own],
            yerr=[point["mAP"]["std"] or 0.0 for point in own],
            color=color,
            marker="o",
            capsize=3,
            label=title,
        )
        for point in own:
            if point["gain"]:
                place = (point["strength"], point["mAP"]["mean"])
                text = f"{point['gain']['mean']:+.1f}"
                axes.annotate(text, place, (7, 5), textcoords="offset points", color=color, fontsize=9)
    axes.set(
        title=f"Synthetic people; numbers: gain over {first}, points of mAP",
        xlabel="strength of misalignment",
        ylabel="mAP, %",
    )
    axes.margins(x=0.08)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    return render(figure)
