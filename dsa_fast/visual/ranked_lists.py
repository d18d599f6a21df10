"""Ranked lists as pictures: one query per row, followed by the images nearest to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from PIL import Image, ImageDraw
from torch import Tensor

from dsa_fast.data.people import Names
from dsa_fast.evaluation import RankedLists
from dsa_fast.image import read_picture
from dsa_fast.visual.layout import captioned, fit, font, shorten, text_tile, tile_table
from dsa_fast.visual.palette import FAINT, INK, LEFT_OUT, LINE, PAPER, QUERY, RIGHT, WRONG

__all__ = ["Found", "LabeledImage", "ranked_lists", "search_results"]

_FRAME = 4  # pixels
_STROKES = {
    "dash": [[(4, 9), (13, 9)]],
    "tick": [[(4, 9), (8, 13), (14, 5)]],
    "cross": [[(5, 5), (13, 13)], [(5, 13), (13, 5)]],
}

_MEANINGS = {"query": None, "right": "tick", "wrong": "cross", "left out by the protocol": "dash"}


class LabeledImage(Protocol):
    """An image of a person, such as `dsa_fast.data.people.Person`."""

    @property
    def path(self) -> Path: ...
    @property
    def pid(self) -> int: ...
    @property
    def camid(self) -> int: ...


class Found(NamedTuple):
    """An image that a search found.

    Attributes:
        picture: the image.
        name: its name, such as that of its file.
        cosine: cosine of its vector with the query's.
        match: whether it shows the query's person; None if that is not known.
    """

    picture: Image.Image
    name: str
    cosine: float
    match: bool | None = None


def ranked_lists(
    queries: Sequence[LabeledImage],
    gallery: Sequence[LabeledImage],
    lists: RankedLists,
    *,
    notes: Sequence[str] | None = None,
    title: str | None = None,
    height: int = 160,
    left_out: Tensor | None = None,
    distance: str = "distance",
    names: Names | None = None,
) -> Image.Image:
    """Draws one query per row, followed by the gallery images nearest to it.

    The query is on the left in a blue frame. Right matches have a green frame and a check mark, wrong ones a red frame
    and a cross. Listed images that the protocol leaves out are gray with a dash. The text below each image gives its
    person (or "distractor" or "junk"), its camera if cameras are known, and its distance. A legend says so.

    Args:
        queries: Q images.
        gallery: all gallery images; only those shown are read.
        lists: result of `rank_list` for these queries in this order, [Q, k].
        notes: a short line for each query, such as its average precision.
        title: a line at the top.
        height: height of an image in pixels; it is fitted into a frame half as wide as high.
        left_out: bool [Q, k], which of the listed images the protocol leaves out. They have no rank. With this
            argument, each image's rank is shown below it instead of above the columns.
        distance: name of the distance in the legend, such as `cosine distance`.
        names: what people and cameras are called, see `PeopleSplits.names`; by default by their numbers.

    Returns:
        An RGB picture.

    Raises:
        ValueError: the numbers of queries, lists and notes differ, there are none, or an image can't be read.
    """
    if len(queries) == 0 or lists.indices.shape[0] != len(queries):
        raise ValueError(f"lists must hold one row for each query, {len(queries)} >= 1, got {lists.indices.shape[0]}")
    if notes is not None and len(notes) != len(queries):
        raise ValueError(f"notes must hold one line for each query, {len(queries)}, got {len(notes)}")
    _check_height(height)
    if left_out is not None and left_out.shape != lists.indices.shape:
        raise ValueError(f"left_out must have shape {list(lists.indices.shape)}, got {list(left_out.shape)}")
    names = names or Names()
    k = lists.indices.shape[1]
    rule = _rule(height)
    width = _frame_size(height)[0]
    ranks = [str(rank + 1) for rank in range(k if left_out is None else 0)]
    query_head, *heads = (text_tile(text, width, color=FAINT, centered=True) for text in ("query", *ranks))
    rows = [[query_head, Image.new("RGB", (rule.width, 1), PAPER), *heads]]
    used: set[str | None] = {None}
    for row, query in enumerate(queries):
        lines = [*names.lines(query.pid, query.camid), *([notes[row]] if notes is not None else [])]
        tiles = [_framed(read_picture(query.path), QUERY, lines, height), rule]
        rank = 0
        for column in range(k):
            index = int(lists.indices[row, column])
            if index < 0:
                if left_out is None:  # otherwise the lists have different lengths
                    tiles.append(_none_left(height))
                continue
            item, match = gallery[index], bool(lists.matches[row, column])
            out = left_out is not None and bool(left_out[row, column])
            rank += not out
            far = f"{float(lists.distances[row, column]):.3f}"
            if left_out is not None:
                far = f"left out · {far}" if out else f"rank {rank} · {far}"
            color = LEFT_OUT if out else RIGHT if match else WRONG
            image, lines = read_picture(item.path), [*names.lines(item.pid, item.camid), far]
            if out:
                grey = image.convert("L").convert("RGB")
                image = Image.blend(grey, Image.new("RGB", grey.size, LINE), 0.55)
            used.add("dash" if out else "tick" if match else "cross")
            tiles.append(_framed(image, color, lines, height, mark="dash" if out else "tick" if match else "cross"))
        rows.append(tiles)
    marks = {text: mark for text, mark in _MEANINGS.items() if mark in used}
    known = "person, camera" if names.has_cameras else "person"
    below = f"below an image: {known}, {'rank and ' if left_out is not None else ''}{distance}"
    return _with_legend(tile_table(rows), marks, below, title)


def search_results(
    rows: Sequence[tuple[tuple[Image.Image, str], Sequence[Found]]],
    *,
    height: int = 160,
    title: str | None = None,
) -> Image.Image:
    """Draws the results of a search: one query per row, followed by the nearest images with rank, name and cosine.

    Images that are known to show the query's person have a green frame and a check mark, others a red frame and a
    cross, and images of unknown people a gray frame.

    Args:
        rows: for each query, its picture and name, and the found images, nearest first.
        height: height of an image in pixels; it is fitted into a frame half as wide as high.
        title: a line at the top.

    Returns:
        An RGB picture.

    Raises:
        ValueError: there are no rows, or `height` is below 16.
    """
    if not rows:
        raise ValueError("rows must hold at least one query, got none")
    _check_height(height)
    looks: dict[bool | None, tuple[str, str | None]]
    looks = {True: (RIGHT, "tick"), False: (WRONG, "cross"), None: (FAINT, None)}
    table = []
    for (query, name), found in rows:
        tiles = [_framed(query, QUERY, ["query", *_name_lines(name, height)], height), _rule(height)]
        for rank, each in enumerate(found, 1):
            color, mark = looks[each.match]
            lines = [f"rank {rank} · {each.cosine:.3f}", *_name_lines(each.name, height)]
            tiles.append(_framed(each.picture, color, lines, height, mark=mark))
        table.append(tiles)
    used = {looks[each.match][1] for _, found in rows for each in found} | {None}
    marks = {text: mark for text, mark in _MEANINGS.items() if mark in used}
    return _with_legend(tile_table(table), marks, "below an image: rank, cosine and name", title)


def _with_legend(
    table: Image.Image, marks: Mapping[str, str | None], below: str, title: str | None = None
) -> Image.Image:
    """Puts a title and a legend above a table: each mark in its frame's color with its meaning, and what is below."""
    size, colors = 13, {None: QUERY, "tick": RIGHT, "cross": WRONG, "dash": LEFT_OUT}
    entries = [(colors[mark], mark, text) for text, mark in marks.items()]
    widths = [int(font(size).getlength(text)) + 42 for _, _, text in entries]
    lines: list[list[tuple[int, str, str | None, str]]] = [[]]
    x = 0
    for width, entry in zip([*widths, int(font(size).getlength(below))], [*entries, ("", None, below)], strict=True):
        if x and x + width > table.width - 20:
            lines.append([])
            x = 0
        lines[-1].append((x, *entry))
        x += width
    legend = Image.new("RGB", (table.width - 20, 22 * len(lines)), PAPER)
    draw = ImageDraw.Draw(legend)
    for number, line in enumerate(lines):
        top = 22 * number
        for x, color, mark, text in line:
            if color:
                draw.rectangle((x, top + 1, x + 17, top + 18), fill=color)
                for stroke in _STROKES.get(mark or "", []):
                    draw.line([(x + a, top + 1 + b) for a, b in stroke], fill=PAPER, width=2)
            left = x + (24 if color else 0)
            draw.text((left, top + 2), shorten(text, size, legend.width - left), fill=INK, font=font(size))
    heads = [[text_tile(title, legend.width)]] if title else []
    top_part = tile_table([*heads, [legend]], gap=4)
    picture = Image.new("RGB", (table.width, top_part.height + table.height - 4), PAPER)
    picture.paste(top_part, (0, 0))
    picture.paste(table, (0, top_part.height - 4))
    return picture


def _check_height(height: int) -> None:
    if height < 16:
        raise ValueError(f"height must be at least 16, got {height}")


def _frame_size(height: int) -> tuple[int, int]:
    """Returns width and height of a frame around an image of this height."""
    return max(height // 2, 76) + 2 * _FRAME, height + 2 * _FRAME


def _framed(image: Image.Image, color: str, lines: Sequence[str], height: int, mark: str | None = None) -> Image.Image:
    """Draws the image in the middle of a frame, with a mark in its top right corner and lines of text below it."""
    width, outer = _frame_size(height)
    tile = Image.new("RGB", (width, outer), color)
    shown = fit(image.convert("RGB"), (width - 2 * _FRAME, height))
    tile.paste(LINE, (_FRAME, _FRAME, width - _FRAME, outer - _FRAME))
    tile.paste(shown, ((width - shown.width) // 2, (outer - shown.height) // 2))
    if mark is not None:  # for red-green color blindness
        left, draw = width - 18, ImageDraw.Draw(tile)
        draw.rectangle((left, 0, width - 1, 17), fill=color)
        for stroke in _STROKES[mark]:
            draw.line([(left + x, y) for x, y in stroke], fill=PAPER, width=2)
    return captioned(tile, lines, centered=True)


def _name_lines(name: str, height: int, most: int = 3) -> list[str]:
    """Cuts a name into lines as wide as a frame. The last one is shortened when the picture is drawn."""
    lines, width = [""], _frame_size(height)[0]
    for letter in name:
        if len(lines) < most and font(12, name).getlength(lines[-1] + letter) > width:
            lines.append("")
        lines[-1] += letter
    return lines


def _none_left(height: int) -> Image.Image:
    width, outer = _frame_size(height)
    tile = Image.new("RGB", (width, outer), PAPER)
    draw = ImageDraw.Draw(tile)
    draw.rectangle((0, 0, width - 1, outer - 1), outline=LINE, width=2)
    draw.text((width / 2, outer / 2), "none left", fill=FAINT, font=font(12), anchor="mm")
    return tile


def _rule(height: int) -> Image.Image:
    """Draws the line between a query and its list."""
    return Image.new("RGB", (2, height + 2 * _FRAME), LINE)
