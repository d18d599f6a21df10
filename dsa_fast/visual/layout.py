"""Layout of all pictures: fonts, tiles of an image with text below it, and tables of tiles."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dsa_fast.files import atomic_path
from dsa_fast.image import check_picture, save_image
from dsa_fast.visual.palette import FAINT, INK, PAPER


def save_picture(picture: Image.Image, path: str | os.PathLike[str]) -> None:
    """Writes a picture atomically, in the format of the file's suffix. Creates missing folders.

    Raises:
        ValueError: the suffix has no known format.
    """
    path = check_picture(path)
    with atomic_path(path) as temporary:
        save_image(picture, temporary)


def to_picture(image: Tensor) -> Image.Image:
    """uint8 [3, H, W] -> an RGB picture."""
    return Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())


def to_tensor(picture: Image.Image) -> Tensor:
    """An RGB picture -> uint8 [3, H, W]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


def font(size: int, text: str = "") -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Returns Pillow's own font, so pictures look the same on every machine.

    For a text with letters that it lacks (`Zoë`, `Иван`), it is DejaVu Sans, which Matplotlib brings.
    """
    return _font(size, any(letter.isalpha() and not letter.isascii() for letter in text))


@functools.cache
def _font(size: int, wide: bool) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    place = importlib.util.find_spec("matplotlib") if wide else None
    if place is not None and place.origin is not None:
        with contextlib.suppress(OSError):
            return ImageFont.truetype(Path(place.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf", size)
    return ImageFont.load_default(size)


def shorten(text: str, size: int, width: float) -> str:
    """Returns the text, or its two ends with an ellipsis between them if it is wider than `width` pixels."""
    short, kept = text, len(text)
    while kept > 2 and font(size, text).getlength(short) > width:
        kept -= 1
        short = f"{text[: kept // 2]}…{text[-(kept - kept // 2) :]}"
    return short


def fit(image: Image.Image, box: tuple[float, float]) -> Image.Image:
    """Scales the image to fit the box (width, height), keeping its aspect ratio."""
    factor = min(box[0] / image.width, box[1] / image.height)
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    return image.resize(size, Image.Resampling.LANCZOS)


def captioned(
    image: Image.Image,
    lines: Sequence[str | tuple[str, str]],
    *,
    size: int = 12,
    centered: bool = False,
) -> Image.Image:
    """Draws lines of text below the image: text, or (text, color). Each is shortened to the image's width."""
    pitch, anchor = size + 4, "ma" if centered else "la"
    tile = Image.new("RGB", (image.width, image.height + 3 + pitch * len(lines)), PAPER)
    tile.paste(image)
    draw = ImageDraw.Draw(tile)
    for number, line in enumerate(lines):
        text, color = (line, FAINT if number else INK) if isinstance(line, str) else line
        place = (image.width / 2 if centered else 0, image.height + 3 + number * pitch)
        draw.text(place, shorten(text, size, image.width), fill=color, font=font(size, text), anchor=anchor)
    return tile


def text_tile(text: str, width: int, *, size: int = 15, centered: bool = False, color: str = INK) -> Image.Image:
    """Draws a line of text as a tile."""
    return captioned(Image.new("RGB", (width, 1), PAPER), [(text, color)], size=size, centered=centered)


def in_rows(tiles: Sequence[Image.Image], columns: int) -> list[Sequence[Image.Image]]:
    """Splits tiles into rows of `columns`, for `tile_table`."""
    return [tiles[start : start + columns] for start in range(0, len(tiles), columns)]


def tile_table(
    rows: Sequence[Sequence[Image.Image]], *, gap: int = 10, margin: int | None = None, title: str | None = None
) -> Image.Image:
    """Draws tiles in rows and columns, each at the top left of its cell.

    Args:
        rows: the tiles; rows may differ in length.
        gap: pixels between tiles.
        margin: pixels around all tiles; by default `gap`.
        title: a line above them, as large as possible.

    Returns:
        An RGB picture.
    """
    margin = gap if margin is None else margin
    widths = [max(row[i].width for row in rows if i < len(row)) for i in range(max(map(len, rows)))]
    heights = [max(tile.height for tile in row) for row in rows]
    inner = sum(widths) + gap * (len(widths) - 1)
    top = margin + (28 if title else 0)
    picture = Image.new("RGB", (inner + 2 * margin, top + sum(heights) + gap * (len(rows) - 1) + margin), PAPER)
    if title:
        size = max(9, int(18 * min(1, inner / font(18, title).getlength(title))))
        ImageDraw.Draw(picture).text((margin, margin), title, fill=INK, font=font(size, title))
    for row, height in zip(rows, heights, strict=True):
        left = margin
        for tile, width in zip(row, widths, strict=False):
            picture.paste(tile, (left, top))
            left += width + gap
        top += height + gap
    return picture
