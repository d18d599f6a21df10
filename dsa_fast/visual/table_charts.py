"""Charts of the paper's tables, for `dsa_fast.tables`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from dsa_fast.visual.charts import in_style, render
from dsa_fast.visual.palette import FAINT, QUERY, SERIES

__all__ = ["sweep_chart", "table_chart"]


@in_style
def table_chart(rows: Sequence[dict[str, Any]], people: str) -> Image.Image:
    """Draws two panels with the same rows: the mAP measured here, with a dot per seed, and the paper's.

    Args:
        rows: result of `dsa_fast.tables.report.collect`.
        people: short description of the data set.
    """
    figure = Figure(figsize=(10.5, 1.4 + 0.36 * len(rows)))
    here, paper = figure.subplots(1, 2, sharey=True)
    places = [-number for number in range(len(rows))]
    scores = [row["here"]["mAP"] for row in rows]
    means = [score["mean"] for score in scores]
    errors = [score["std"] or 0.0 for score in scores]
    here.errorbar(means, places, xerr=errors, fmt="D", color=QUERY, capsize=4, markersize=6)
    for place, score in zip(places, scores, strict=True):
        here.plot(score["values"], [place] * len(score["values"]), ".", color=QUERY, alpha=0.5, markersize=5)
    known = [(place, row["paper"]["mAP"]) for place, row in zip(places, rows, strict=True) if row["paper"]]
    paper.plot([mAP for _, mAP in known], [place for place, _ in known], "D", color=FAINT, markersize=6)
    here.set_yticks(places, [row["row"] for row in rows])
    here.set(xlabel="mAP, %", title=f"here: {people}")
    paper.set(xlabel="mAP, %", title="paper: Market-1501, full size")
    here.set_ylim(places[-1] - 0.6, 0.6)
    return render(figure)


@in_style
def sweep_chart(points: Sequence[dict[str, Any]], titles: Sequence[str], first: str) -> Image.Image:
    """Draws two panels over the strength of misalignment: the mAP of each row, and its gain over the first row.

    Args:
        points: result of `dsa_fast.tables.report.sweep_report`: row, strength, mAP and gain.
        titles: titles of the rows.
        first: the row that gains are relative to.
    """
    figure = Figure(figsize=(10.5, 4.2))
    scores, gains = figure.subplots(1, 2)
    for number, title in enumerate(titles):
        for axes, name in ((scores, "mAP"), (gains, "gain")):
            own = [point for point in points if point["row"] == title and point[name]]
            if own:
                axes.errorbar(
                    [point["strength"] for point in own],
                    [point[name]["mean"] for point in own],
                    yerr=[point[name]["std"] or 0.0 for point in own],
                    color=SERIES[number % len(SERIES)],
                    marker="o",
                    capsize=3,
                    label=title,
                )
    scores.set(title="synthetic people", xlabel="strength of misalignment", ylabel="mAP, %")
    gains.set(title=f"gain over {first}", xlabel="strength of misalignment", ylabel="points of mAP")
    gains.axhline(0.0, color=FAINT, linewidth=1.0)
    for axes in (scores, gains):
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    return render(figure)
