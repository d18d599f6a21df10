"""Pictures of results: ranked lists, curves over training, CMC curves, distances of pairs.

Every function returns a PIL picture; `save_picture` writes one. Matplotlib is used without pyplot, so that no global
state, window or backend is touched.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dsa_fast.evaluation import DistanceHistogram, RankedLists
from dsa_fast.evaluation.inputs import DISTRACTOR, JUNK
from dsa_fast.files import atomic_path

__all__ = [
    "Pictured",
    "bars",
    "cmc_curves",
    "curves",
    "distances",
    "found_lists",
    "ranked_lists",
    "save_picture",
]

#: (x, y) points of a curve.
Points = Sequence[tuple[float, float]]

_PAPER, _INK, _FAINT = (255, 255, 255), (35, 35, 40), (115, 115, 122)
_QUERY, _RIGHT, _WRONG, _NONE = (45, 90, 200), (22, 150, 75), (208, 48, 44), (228, 228, 232)
_OUT = (176, 176, 182)
_LINE_COLORS = ("#2d5ac8", "#e07b12", "#16964b", "#b03a9c", "#d0302c", "#0f8f9c", "#7a5230", "#6b6b75")
_FRAME, _GAP, _FONT = 4, 10, 12


class Pictured(Protocol):
    """What a ranked list shows of an image."""

    @property
    def path(self) -> Path: ...
    @property
    def pid(self) -> int: ...
    @property
    def camid(self) -> int: ...


def save_picture(picture: Image.Image, path: str | os.PathLike[str]) -> None:
    """Writes a picture, in the format of the name's suffix; it appears whole or not at all. Folders are made.

    Raises:
        ValueError: the suffix names no known format.
    """
    path = Path(path)
    if path.suffix.lower() not in Image.registered_extensions():
        raise ValueError(f'path must end in a picture\'s suffix such as ".png", got {str(path)!r}')
    with atomic_path(path) as temporary:
        picture.save(temporary)


def ranked_lists(
    queries: Sequence[Pictured],
    gallery: Sequence[Pictured],
    lists: RankedLists,
    *,
    notes: Sequence[str] | None = None,
    title: str | None = None,
    height: int = 160,
    left_out: Tensor | None = None,
) -> Image.Image:
    """Queries, one a row, each with the gallery images nearest to it.

    The query stands at the left in a blue frame. Right matches have a green frame and a tick, wrong ones a red frame
    and a cross, and images that the protocol leaves out, if any are listed, are grey with a dash. Below each image: its
    pid (or that it is a distractor or junk), camera and distance.

    Args:
        queries: Q images.
        gallery: all gallery images; only those shown are read.
        lists: of `rank_list` for these queries in this order, [Q, k].
        notes: a short line for each query, such as its average precision.
        title: a line above all.
        height: of an image, in pixels; images are shown half as wide as high, keeping their shape.
        left_out: bool [Q, k], which of the listed the protocol leaves out. They take no rank: with it, each image's
            rank stands below it and not above the columns.

    Returns:
        An RGB picture.

    Raises:
        ValueError: the numbers of queries, lists and notes differ, there are none, or an image can't be read.
    """
    if len(queries) == 0 or lists.indices.shape[0] != len(queries):
        raise ValueError(f"lists must hold one row for each query, {len(queries)} >= 1, got {lists.indices.shape[0]}")
    if notes is not None and len(notes) != len(queries):
        raise ValueError(f"notes must hold one line for each query, {len(queries)}, got {len(notes)}")
    if height < 16:
        raise ValueError(f"height must be at least 16, got {height}")
    if left_out is not None and left_out.shape != lists.indices.shape:
        raise ValueError(f"left_out must have shape {list(lists.indices.shape)}, got {list(left_out.shape)}")
    k = lists.indices.shape[1]
    inner = max(height // 2, 76), height
    cell_width, cell_height = inner[0] + 2 * _FRAME, inner[1] + 2 * _FRAME
    font, bold = ImageFont.load_default(_FONT), ImageFont.load_default(_FONT + 3)
    line = _FONT + 4
    row_height = cell_height + 3 * line + _GAP
    top = _GAP + (2 * line if title else 0) + line + 4
    list_left = _GAP + cell_width + 3 * _GAP
    picture = Image.new(
        "RGB", (list_left + k * (cell_width + _GAP), top + len(queries) * row_height + _GAP // 2), _PAPER
    )
    draw = ImageDraw.Draw(picture)
    if title:
        draw.text((_GAP, _GAP), title, fill=_INK, font=ImageFont.load_default(_FONT + 6))
    draw.text((_GAP + cell_width / 2, top - 4), "query", fill=_FAINT, font=bold, anchor="ms")
    for column in range(k if left_out is None else 0):
        x = list_left + column * (cell_width + _GAP)
        draw.text((x + cell_width / 2, top - 4), str(column + 1), fill=_FAINT, font=bold, anchor="ms")

    def show(
        x: int, y: int, item: Pictured, color: tuple[int, int, int], lines: Sequence[str], faded: bool = False
    ) -> None:
        draw.rectangle((x, y, x + cell_width - 1, y + cell_height - 1), fill=color)
        draw.rectangle((x + _FRAME, y + _FRAME, x + _FRAME + inner[0] - 1, y + _FRAME + inner[1] - 1), fill=_NONE)
        thumbnail = _thumbnail(item.path, inner)
        if faded:
            grey = thumbnail.convert("L").convert("RGB")
            thumbnail = Image.blend(grey, Image.new("RGB", grey.size, _NONE), 0.55)
        offset = (inner[0] - thumbnail.width) // 2 + _FRAME, (inner[1] - thumbnail.height) // 2 + _FRAME
        picture.paste(thumbnail, (x + offset[0], y + offset[1]))
        for number, text in enumerate(lines):
            place = (x + cell_width / 2, y + cell_height + 3 + number * line)
            draw.text(place, text, fill=_INK if number == 0 else _FAINT, font=font, anchor="ma")

    for row, query in enumerate(queries):
        y = top + row * row_height
        lines = [f"pid {query.pid}", f"camera {query.camid}", *([notes[row]] if notes is not None else [])]
        show(_GAP, y, query, _QUERY, lines)
        rule = _GAP + cell_width + 3 * _GAP // 2
        draw.line((rule, y, rule, y + cell_height - 1), fill=_NONE, width=2)
        rank = 0
        for column in range(k):
            x = list_left + column * (cell_width + _GAP)
            index = int(lists.indices[row, column])
            if index < 0 and left_out is not None:  # lists differ in length
                continue
            if index < 0:
                draw.rectangle((x, y, x + cell_width - 1, y + cell_height - 1), outline=_NONE, width=2)
                draw.text((x + cell_width / 2, y + cell_height / 2), "none left", fill=_FAINT, font=font, anchor="mm")
                continue
            item, match = gallery[index], bool(lists.matches[row, column])
            who = {DISTRACTOR: "distractor", JUNK: "junk"}.get(item.pid, f"pid {item.pid}")
            out = left_out is not None and bool(left_out[row, column])
            color = _OUT if out else _RIGHT if match else _WRONG
            rank += not out
            distance = f"{float(lists.distances[row, column]):.3f}"
            if left_out is not None:
                distance = f"left out · {distance}" if out else f"rank {rank} · {distance}"
            show(x, y, item, color, [who, f"camera {item.camid}", distance], out)
            _badge(draw, x + cell_width - 1, y, None if out else match, color)
    return picture


def found_lists(
    rows: Sequence[tuple[tuple[Image.Image, str], Sequence[tuple[Image.Image, str]]]], *, height: int = 160
) -> Image.Image:
    """What a search found, where nobody knows who is who: one row a query, and beside it the nearest.

    Args:
        rows: for each query its picture and name, and the pictures found for it, nearest first, each with a line such
            as its cosine.
        height: of an image, in pixels; images are shown half as wide as high, keeping their shape.

    Returns:
        An RGB picture.

    Raises:
        ValueError: there are no rows, or `height` is below 16.
    """
    if not rows:
        raise ValueError("rows must hold at least one query, got none")
    if height < 16:
        raise ValueError(f"height must be at least 16, got {height}")
    inner = max(height // 2, 76), height
    cell_width, cell_height, line = inner[0] + 2 * _FRAME, inner[1] + 2 * _FRAME, _FONT + 4
    row_height = cell_height + line + 2 * _GAP
    k = max(len(found) for _, found in rows)
    size = 3 * _GAP + cell_width + k * (cell_width + _GAP), _GAP + len(rows) * row_height
    picture = Image.new("RGB", size, _PAPER)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(_FONT)
    for number, (query, found) in enumerate(rows):
        y = _GAP + number * row_height
        for column, (image, text) in enumerate([query, *found]):
            x = _GAP + column * (cell_width + _GAP) + (2 * _GAP if column else 0)
            color = _FAINT if column else _QUERY
            draw.rectangle((x, y, x + cell_width - 1, y + cell_height - 1), fill=color)
            draw.rectangle((x + _FRAME, y + _FRAME, x + _FRAME + inner[0] - 1, y + _FRAME + inner[1] - 1), fill=_NONE)
            shown = _fit(image.convert("RGB"), inner)
            place = x + _FRAME + (inner[0] - shown.width) // 2, y + _FRAME + (inner[1] - shown.height) // 2
            picture.paste(shown, place)
            text = text if len(text) <= 13 else f"{text[:5]}…{text[-7:]}"
            draw.text((x + cell_width / 2, y + cell_height + 3), text, fill=_INK, font=font, anchor="ma")
    return picture


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
    """Curves of logged values, such as losses or mAP over epochs.

    Args:
        series: the points (x, y) of each curve under its name, in the order in which they shall be joined. Points that
            are not finite are left out.
        title: above the axes.
        x_label: below them.
        y_label: beside them.
        percent: y are shares in [0, 1], shown as per cent from 0 on.
        levels: dashed horizontal lines by name, such as the score of a method that does not train.
        size: width and height in inches, of 100 pixels.

    Returns:
        An RGB picture.

    Raises:
        ValueError: there is not one finite point.
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
            color = _LINE_COLORS[number % len(_LINE_COLORS)]
            axes.plot(xs, ys, color=color, linewidth=1.8, marker="o" if len(xs) < 25 else "", markersize=4, label=name)
    for number, (name, level) in enumerate((levels or {}).items()):
        color = _LINE_COLORS[-1 - number % len(_LINE_COLORS)]
        axes.axhline(level, color=color, linestyle="--", linewidth=1.4, label=name)
    if percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_ylim(0, None)
    all_x = [x for points in finite.values() for x, _ in points]
    if all(x == round(x) for x in all_x):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)
    return _render(figure)


def cmc_curves(
    results: Mapping[str, ArrayLike],
    *,
    title: str = "Cumulative matching characteristic",
    size: tuple[float, float] = (6.5, 4.5),
) -> Image.Image:
    """CMC curves: at each rank, the share of queries with a right match so far.

    Args:
        results: `EvaluationResult.cmc` of each method, [max_rank], under its name.
        title: above the axes.
        size: width and height in inches, of 100 pixels.

    Returns:
        An RGB picture.

    Raises:
        ValueError: there are no results, or one is not a curve of shares.
    """
    if not results:
        raise ValueError("results must hold at least one curve, got none")
    figure, axes = _axes(title, "rank", "queries with a right match so far", size)
    for number, (name, values) in enumerate(results.items()):
        cmc = np.asarray(values, np.float64)
        if cmc.ndim != 1 or len(cmc) == 0 or not ((cmc >= 0) & (cmc <= 1)).all():
            raise ValueError(f"results[{name!r}] must be shares in [0, 1] of shape [max_rank], got {cmc.shape}")
        ranks = np.arange(1, len(cmc) + 1)
        color = _LINE_COLORS[number % len(_LINE_COLORS)]
        axes.step(ranks, cmc, where="post", color=color, linewidth=1.8, label=f"{name} (rank 1: {cmc[0]:.1%})")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(0, 1.02)
    axes.set_xlim(left=1)
    axes.legend(frameon=False, loc="lower right")
    return _render(figure)


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
    """A histogram, or a bar for each name.

    Args:
        heights: of the bins, or of the bars under their names.
        edges: the bins' borders, one more than bins.
        title: above the axes.
        x_label: below them.
        y_label: beside them.
        percent: the edges are shares in [0, 1], shown as per cent.
        size: width and height in inches, of 100 pixels.

    Returns:
        An RGB picture.

    Raises:
        ValueError: names and edges are given, or neither, or they do not fit the heights.
    """
    named = isinstance(heights, Mapping)
    values = list(heights.values()) if isinstance(heights, Mapping) else list(heights)
    if named != (edges is None) or (edges is not None and len(edges) != len(values) + 1):
        raise ValueError(f"edges must be one more than the {len(values)} heights, or heights must have names")
    figure, axes = _axes(title, x_label, y_label, size)
    if edges is None:
        axes.bar([str(name) for name in heights], values, color=_LINE_COLORS[0])
        axes.tick_params(axis="x", labelsize=8, rotation=90 if len(values) > 12 else 0)
    else:
        axes.bar(list(edges[:-1]), values, np.diff(edges), align="edge", color=_LINE_COLORS[0], edgecolor="white")
        if percent:
            axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    return _render(figure)


def distances(
    histogram: DistanceHistogram,
    *,
    title: str = "Distances of query and gallery",
    x_label: str = "distance",
    size: tuple[float, float] = (6.5, 4.5),
) -> Image.Image:
    """The distributions of the distances of same and of different identities, and what they have in common.

    Args:
        histogram: of `distance_histogram`.
        title: above the axes.
        x_label: below them.
        size: width and height in inches, of 100 pixels.

    Returns:
        An RGB picture.
    """
    figure, axes = _axes(title, x_label, "share of the pairs", size)
    widths, left = np.diff(histogram.edges), histogram.edges[:-1]
    shares = []
    for name, counts, color in (
        ("same identity", histogram.same, _LINE_COLORS[2]),
        ("different identities", histogram.different, _LINE_COLORS[4]),
    ):
        share = counts / max(int(counts.sum()), 1)
        shares.append(share)
        label = f"{name} ({int(counts.sum()):,} pairs)"
        axes.bar(left, share, widths, align="edge", color=color, alpha=0.3, linewidth=0, label=label)
        axes.stairs(share, histogram.edges, color=color, linewidth=1.6)
    label = f"in common: {histogram.overlap:.1%}"
    common = np.minimum(*shares)
    axes.bar(left, common, widths, align="edge", facecolor="none", edgecolor="#6b6b75", hatch="////", lw=0, label=label)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_ylim(0, None)
    axes.legend(frameon=False)
    return _render(figure)


def _axes(title: str, x_label: str, y_label: str, size: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, dpi=100, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    axes.grid(color="#e4e4e8", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _render(figure: Figure) -> Image.Image:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    buffer.seek(0)
    return Image.open(buffer).convert("RGB")


def _thumbnail(path: Path, box: tuple[int, int]) -> Image.Image:
    """The image as large as fits the box (width, height)."""
    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except (OSError, SyntaxError) as error:
        raise ValueError(f"image can't be read: {path}: {error}") from error
    return _fit(image, box)


def _fit(image: Image.Image, box: tuple[int, int]) -> Image.Image:
    """As large as fits the box (width, height)."""
    factor = min(box[0] / image.width, box[1] / image.height)
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    return image.resize(size, Image.Resampling.LANCZOS)


def _badge(draw: ImageDraw.ImageDraw, right: int, top: int, match: bool | None, color: tuple[int, int, int]) -> None:
    """A tick, a cross or (None) a dash in the frame's upper right corner, for those who can't tell green from red."""
    side = 18
    left = right - side + 1
    draw.rectangle((left, top, right, top + side - 1), fill=color)
    if match is None:
        draw.line((left + 4, top + 9, left + 13, top + 9), fill=_PAPER, width=2)
    elif match:
        draw.line([(left + 4, top + 9), (left + 8, top + 13), (left + 14, top + 5)], fill=_PAPER, width=2)
    else:
        draw.line((left + 5, top + 5, left + 13, top + 13), fill=_PAPER, width=2)
        draw.line((left + 5, top + 13, left + 13, top + 5), fill=_PAPER, width=2)
