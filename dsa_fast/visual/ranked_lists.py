"""Ranked lists as pictures: one query per row, followed by the images nearest to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from PIL import Image, ImageDraw
from torch import Tensor

from dsa_fast.evaluation import RankedLists
from dsa_fast.evaluation.checks import DISTRACTOR, JUNK
from dsa_fast.image import read_picture
from dsa_fast.visual.layout import captioned, fit, font, text_tile, tile_table
from dsa_fast.visual.palette import FAINT, LEFT_OUT, LINE, PAPER, QUERY, RIGHT, WRONG

__all__ = ["LabeledImage", "ranked_lists", "search_results"]

_FRAME = 4  # pixels
_STROKES = {
    "dash": [[(4, 9), (13, 9)]],
    "tick": [[(4, 9), (8, 13), (14, 5)]],
    "cross": [[(5, 5), (13, 13)], [(5, 13), (13, 5)]],
}


class LabeledImage(Protocol):
    """An image of a person, such as `dsa_fast.data.people.Person`."""

    @property
    def path(self) -> Path: ...
    @property
    def pid(self) -> int: ...
    @property
    def camid(self) -> int: ...


def ranked_lists(
    queries: Sequence[LabeledImage],
    gallery: Sequence[LabeledImage],
    lists: RankedLists,
    *,
    notes: Sequence[str] | None = None,
    title: str | None = None,
    height: int = 160,
    left_out: Tensor | None = None,
) -> Image.Image:
    """Draws one query per row, followed by the gallery images nearest to it.

    The query is on the left in a blue frame. Right matches have a green frame and a check mark, wrong ones a red frame
    and a cross. Listed images that the protocol leaves out are gray with a dash. The text below each image gives its
    pid (or "distractor" or "junk"), its camera and its distance.

    Args:
        queries: Q images.
        gallery: all gallery images; only those shown are read.
        lists: result of `rank_list` for these queries in this order, [Q, k].
        notes: a short line for each query, such as its average precision.
        title: a line at the top.
        height: height of an image in pixels; it is fitted into a frame half as wide as high.
        left_out: bool [Q, k], which of the listed images the protocol leaves out. They have no rank. With this
            argument, each image's rank is shown below it instead of above the columns.

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
    k = lists.indices.shape[1]
    rule = _rule(height)
    width = _frame_size(height)[0]
    ranks = [str(rank + 1) for rank in range(k if left_out is None else 0)]
    query_head, *heads = (text_tile(text, width, color=FAINT, centered=True) for text in ("query", *ranks))
    rows = [[query_head, Image.new("RGB", (rule.width, 1), PAPER), *heads]]
    for row, query in enumerate(queries):
        lines = [f"pid {query.pid}", f"camera {query.camid}", *([notes[row]] if notes is not None else [])]
        tiles = [_framed(read_picture(query.path), QUERY, lines, height), rule]
        rank = 0
        for column in range(k):
            index = int(lists.indices[row, column])
            if index < 0:
                if left_out is None:  # otherwise the lists have different lengths
                    tiles.append(_none_left(height))
                continue
            item, match = gallery[index], bool(lists.matches[row, column])
            who = {DISTRACTOR: "distractor", JUNK: "junk"}.get(item.pid, f"pid {item.pid}")
            out = left_out is not None and bool(left_out[row, column])
            rank += not out
            distance = f"{float(lists.distances[row, column]):.3f}"
            if left_out is not None:
                distance = f"left out · {distance}" if out else f"rank {rank} · {distance}"
            color = LEFT_OUT if out else RIGHT if match else WRONG
            image, lines = read_picture(item.path), [who, f"camera {item.camid}", distance]
            if out:
                grey = image.convert("L").convert("RGB")
                image = Image.blend(grey, Image.new("RGB", grey.size, LINE), 0.55)
            tiles.append(_framed(image, color, lines, height, mark="dash" if out else "tick" if match else "cross"))
        rows.append(tiles)
    return tile_table(rows, title=title)


def search_results(
    rows: Sequence[tuple[tuple[Image.Image, str], Sequence[tuple[Image.Image, str]]]], *, height: int = 160
) -> Image.Image:
    """Draws the results of a search without known identities: one query per row, followed by the nearest images.

    Args:
        rows: for each query, its picture and name, and the found pictures, nearest first, each with a line such as its
            cosine.
        height: height of an image in pixels; it is fitted into a frame half as wide as high.

    Returns:
        An RGB picture.

    Raises:
        ValueError: there are no rows, or `height` is below 16.
    """
    if not rows:
        raise ValueError("rows must hold at least one query, got none")
    _check_height(height)
    return tile_table(
        [
            [
                _framed(query, QUERY, [name], height),
                _rule(height),
                *(_framed(image, FAINT, [text], height) for image, text in found),
            ]
            for (query, name), found in rows
        ]
    )


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
