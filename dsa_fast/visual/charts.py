"""Curves, bars, CMC curves and distance distributions, as pictures and as SVG for web pages.

Matplotlib is used without pyplot, so no global state, window or backend changes.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from dsa_fast.evaluation import DistanceHistogram
from dsa_fast.visual.palette import FAINT, INK, LINE, PAGE_VARIABLES, PAPER, QUERY, RIGHT, SERIES, WRONG

__all__ = [
    "bars",
    "cmc_curves",
    "cmc_svg",
    "curve_panels",
    "curves",
    "distance_distributions",
    "distance_svg",
    "in_style",
    "render",
]

#: (x, y) points of a curve.
Points = Sequence[tuple[float, float]]

#: Decorates a function that draws a chart.
in_style = matplotlib.rc_context(
    {
        "axes.axisbelow": True,
        "axes.edgecolor": FAINT,
        "axes.grid": True,
        "axes.labelcolor": FAINT,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "figure.constrained_layout.use": True,
        "figure.dpi": 100,
        "figure.facecolor": PAPER,
        "grid.color": LINE,
        "legend.frameon": False,
        "savefig.dpi": "figure",
        "svg.fonttype": "none",
        "svg.hashsalt": "dsa_fast",
        "text.color": INK,
        "xtick.color": FAINT,
        "ytick.color": FAINT,
    }
)
_RANKS = (1, 5, 10, 20, *range(30, 1000, 10))  # ticks of CMC curves
_SIZE = 6.5, 4.5  # inches, at 100 pixels per inch
_SVG_SIZE = 4.6, 3.0  # inches, 331 points: text of 10 points is readable on a phone at 330 pixels width


@in_style
def curves(
    series: Mapping[str, Points],
    *,
    title: str = "",
    x_label: str = "",
    y_label: str = "",
    percent: bool = False,
    levels: Mapping[str, float] | None = None,
    size: tuple[float, float] = (8.0, 4.5),
) -> Image.Image:
    """Draws curves of logged values, such as losses or mAP over epochs.

    Args:
        series: the points (x, y) of each curve by name, in the order in which they are joined. Points that are not
            finite are skipped.
        title: above the axes.
        x_label: below them.
        y_label: left of them.
        percent: y values are shares in [0, 1], shown in percent from 0 to 100.
        levels: dashed horizontal lines by name, such as the score of an untrained method.
        size: width and height in inches, of 100 pixels.

    Returns:
        An RGB picture.

    Raises:
        ValueError: there is no finite point.
    """
    finite = {
        name: [(float(x), float(y)) for x, y in points if math.isfinite(x) and math.isfinite(y)]
        for name, points in series.items()
    }
    if not any(finite.values()):
        raise ValueError(f"series must hold at least one finite point, got none in {list(series)}")
    figure, axes = _axes(title, x_label, y_label, size)
    for number, (name, points) in enumerate(finite.items()):
        if points:
            xs, ys = zip(*points, strict=True)
            color = SERIES[number % len(SERIES)]
            axes.plot(xs, ys, color=color, linewidth=1.8, marker="o" if len(xs) < 25 else "", markersize=4, label=name)
    for number, (name, level) in enumerate((levels or {}).items()):
        axes.axhline(level, color=SERIES[-1 - number % len(SERIES)], linestyle="--", linewidth=1.4, label=name)
    if percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_ylim(0, 1)
    all_x = [x for points in finite.values() for x, _ in points]
    if all(x == round(x) for x in all_x):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    return render(figure)


@in_style
def bars(
    heights: Mapping[str, float] | Sequence[float],
    edges: Sequence[float] | None = None,
    *,
    title: str = "",
    x_label: str = "",
    y_label: str = "",
    percent: bool = False,
    size: tuple[float, float] = (8.0, 3.0),
) -> Image.Image:
    """Draws a histogram, or a bar for each name.

    Args:
        heights: heights of the bins, or of the bars by name.
        edges: the edges of the bins, one more than there are bins.
        title: above the axes.
        x_label: below them.
        y_label: left of them.
        percent: the edges are shares in [0, 1], shown in percent.
        size: width and height in inches, of 100 pixels.

    Returns:
        An RGB picture.

    Raises:
        ValueError: both names and edges are given, or neither, or they do not match the heights.
    """
    named = isinstance(heights, Mapping)
    values = list(heights.values()) if isinstance(heights, Mapping) else list(heights)
    if named != (edges is None) or (edges is not None and len(edges) != len(values) + 1):
        raise ValueError(f"edges must be one more than the {len(values)} heights, or heights must have names")
    figure, axes = _axes(title, x_label, y_label, size)
    if edges is None:
        axes.bar([str(name) for name in heights], values, color=QUERY)
        axes.tick_params(axis="x", labelsize=8, rotation=90 if len(values) > 12 else 0)
    else:
        axes.bar(list(edges[:-1]), values, np.diff(edges), align="edge", color=QUERY, edgecolor=PAPER)
        if percent:
            axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    return render(figure)


@in_style
def cmc_curves(
    results: Mapping[str, ArrayLike],
    *,
    title: str = "Cumulative matching characteristic",
) -> Image.Image:
    """Draws CMC curves: at each rank, the share of queries with a right match so far.

    Args:
        results: `EvaluationResult.cmc` of each method, [max_rank], by name.
        title: above the axes.

    Returns:
        An RGB picture.

    Raises:
        ValueError: there are no results, or one is not a curve of shares.
    """
    if not results:
        raise ValueError("results must hold at least one curve, got none")
    figure, axes = _axes(title, "rank", "queries with a right match so far", _SIZE)
    for number, (name, values) in enumerate(results.items()):
        cmc = np.asarray(values, np.float64)
        if cmc.ndim != 1 or len(cmc) == 0 or not ((cmc >= 0) & (cmc <= 1)).all():
            raise ValueError(f"results[{name!r}] must be shares in [0, 1] of shape [max_rank], got {cmc.shape}")
        _draw_cmc(axes, cmc, SERIES[number % len(SERIES)], f"{name} (rank 1: {cmc[0]:.1%})")
    axes.legend(loc="lower right")
    return render(figure)


@in_style
def cmc_svg(cmc: ArrayLike) -> str:
    """Draws one CMC curve as an <svg> element, with values at ranks 1, 5, 10 and 20. The axis can start above 0."""
    figure, axes = _axes("", "rank", "", _SVG_SIZE)
    values = np.asarray(cmc, np.float64)
    _draw_cmc(axes, values, QUERY)
    ranks = [rank for rank in (1, 5, 10, 20) if rank <= len(values)]
    axes.plot(ranks, values[np.array(ranks) - 1], "o", color=QUERY, markersize=6, clip_on=False)
    low = math.floor(10 * values[0] - 0.5) / 10 if values[0] > 0.5 else 0.0
    axes.set_ylim(low, 1.02 - 0.02 * low)
    for rank in ranks:
        axes.annotate(f"{values[rank - 1]:.1%}", (rank, values[rank - 1]), (5, -14), textcoords="offset points")
    return _svg(figure, "CMC curve. " + ", ".join(f"rank {rank}: {values[rank - 1]:.1%}" for rank in ranks))


@in_style
def distance_distributions(
    histogram: DistanceHistogram,
    *,
    title: str = "Distances of query and gallery",
    x_label: str = "distance",
) -> Image.Image:
    """Draws the distributions of the distances of same and of different identities, and their overlap.

    Args:
        histogram: result of `distance_histogram`.
        title: above the axes.
        x_label: below them.

    Returns:
        An RGB picture.
    """
    figure, axes = _axes(title, x_label, "share of the pairs", _SIZE)
    _draw_distances(figure, axes, histogram)
    return render(figure)


@in_style
def distance_svg(histogram: DistanceHistogram) -> str:
    """Draws `distance_distributions` as an <svg> element."""
    figure, axes = _axes("", "distance", "", _SVG_SIZE)
    _draw_distances(figure, axes, histogram)
    return _svg(figure, "Distributions of the distances of pairs of the same and of different identities")


@in_style
def curve_panels(panels: Mapping[str, Mapping[str, Points]], *, title: str = "", x_label: str = "") -> Image.Image:
    """Draws curves in panels next to each other, each with its own scale, such as a total and its terms.

    Args:
        panels: the curves of each panel as for `curves`, by the panel's title.
        title: above all panels.
        x_label: below each panel.

    Returns:
        An RGB picture.
    """
    figure = Figure(figsize=(5.5 * len(panels), 4.5))
    figure.suptitle(title)
    for axes, (name, series) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        axes.set(title=name, xlabel=x_label)
        axes.title.set_fontsize(10)
        for number, (label, points) in enumerate(series.items()):
            xs, ys = zip(*points, strict=True)
            axes.plot(xs, ys, color=SERIES[number % len(SERIES)], linewidth=1.6, label=label)
        axes.set_ylim(0, None)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(series) > 1:
            axes.legend(fontsize=9)
    return render(figure)


def _draw_cmc(axes: Axes, cmc: NDArray[np.float64], color: str, label: str | None = None) -> None:
    axes.step(np.arange(1, len(cmc) + 1), cmc, where="post", color=color, linewidth=1.8, label=label)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    shown = max(len(cmc), int(axes.get_xlim()[1]) if len(axes.lines) > 1 else 1)
    axes.set_xticks([rank for rank in _RANKS if rank <= shown])
    axes.set_ylim(0, 1.02)
    axes.set_xlim(left=1)


def _draw_distances(figure: Figure, axes: Axes, histogram: DistanceHistogram) -> None:
    """Draws both distributions. Different identities also have a dashed outline, for red-green color blindness."""
    shares = []
    for name, counts, color, dash in (
        ("same identity", histogram.same, RIGHT, "-"),
        ("different", histogram.different, WRONG, (0, (3, 1))),
    ):
        pairs = int(counts.sum())
        shares.append(counts / max(pairs, 1))
        axes.stairs(shares[-1], histogram.edges, color=color, alpha=0.3, fill=True)
        axes.stairs(shares[-1], histogram.edges, color=color, lw=1.6, linestyle=dash, label=f"{name} ({pairs:,} pairs)")
    axes.stairs(
        np.minimum(*shares),
        histogram.edges,
        fill=True,
        facecolor="none",
        edgecolor=FAINT,
        hatch="////",
        lw=0,
        label=f"in common: {histogram.overlap:.1%}",
    )
    if math.isfinite(histogram.threshold):
        axes.axvline(histogram.threshold, color=INK, linestyle=":", lw=1.8)
        axes.annotate(
            f"threshold {histogram.threshold:.3f}:\n{histogram.equal_error_rate:.1%} of both kinds\non the wrong side",
            (histogram.threshold, 0.98),
            (6, 0),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            va="top",
            bbox={"facecolor": PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 1},
            fontsize=9,
            color=INK,
        )
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
    axes.set_ylim(0, None)
    figure.legend(loc="outside lower center", ncols=2)


def _axes(title: str, x_label: str, y_label: str, size: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size)
    axes = figure.add_subplot()
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    return figure, axes


def render(figure: Figure) -> Image.Image:
    """Renders the figure as an RGB picture."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return Image.open(file).convert("RGB")


def _svg(figure: Figure, label: str) -> str:
    """Renders the figure as an <svg> element with the page's colors and font; always the same bytes."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(file.getvalue())
    for parent in root.iter():
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):  # the style would apply to the whole page
                parent.remove(child)
    for element in root.iter():  # without namespace URLs, as in HTML
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
        if element.tag == "g":  # ids such as axes_1 also appear in the page's other charts
            element.attrib.pop("id", None)
        if "style" in element.attrib:
            for color, variable in PAGE_VARIABLES.items():
                element.attrib["style"] = element.attrib["style"].replace(color, f"var({variable})")
        element.tail = (element.tail or "").strip()
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label}
    root.attrib |= {"stroke-linejoin": "round", "stroke-linecap": "butt"}
    return ElementTree.tostring(root, encoding="unicode")
