"""Contact sheets: photos beside their part maps, to look through many at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dsa_fast.densepose.iuv import resize_iuv
from dsa_fast.visual.atlas import part_overlay

__all__ = ["Cell", "contact_sheet"]

_WIDTH, _HEIGHT, _GAP, _LINE, _TITLE = 176, 176, 8, 14, 24  # pixels
_PAPER, _NOTHING, _INK, _BAD = (250, 250, 250), (225, 225, 230), (40, 40, 45), (200, 40, 40)


@dataclass(frozen=True)
class Cell:
    """A photo, its map, and what stands below them.

    Attributes:
        photo: uint8 [3, H, W], or None.
        iuv: uint8 [3, H', W'], or None.
        lines: lines of text, cut to fit.
        bad: a last line that stands out.
    """

    photo: Tensor | None
    iuv: Tensor | None
    lines: tuple[str, ...] = ()
    bad: str = ""


def contact_sheet(cells: Sequence[Cell], *, title: str = "", columns: int = 8) -> Image.Image:
    """Draws photos and their maps in rows. Where a photo or a map is missing its place is grey.

    Args:
        cells: at least one.
        title: a line above all.
        columns: cells in a row.

    Returns:
        An RGB picture.

    Raises:
        ValueError: there are no cells, or `columns` is below 1.
    """
    if not cells or columns < 1:
        raise ValueError(f"there must be cells and columns, got {len(cells)} cells in {columns} columns")
    columns = min(columns, len(cells))
    rows = -(-len(cells) // columns)
    text_lines = max(len(cell.lines) + bool(cell.bad) for cell in cells)
    width, height, top = _WIDTH + _GAP, _HEIGHT + text_lines * _LINE + _GAP, _TITLE if title else 0
    sheet = Image.new("RGB", (columns * width + _GAP, rows * height + _GAP + top), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(10)
    draw.text((_GAP, _GAP), title, fill=_INK, font=ImageFont.load_default(14))
    for number, cell in enumerate(cells):
        x, y = _GAP + number % columns * width, top + _GAP + number // columns * height
        sheet.paste(_pair(cell), (x, y))
        lines = [(line, _INK) for line in cell.lines] + [(cell.bad, _BAD)]
        for line, (text, color) in enumerate(lines):
            fits = text
            while font.getlength(fits) > _WIDTH:
                text = text[:-1]
                fits = f"{text}..."
            draw.text((x, y + _HEIGHT + 2 + line * _LINE), fits, fill=color, font=font)
    return sheet


def _pair(cell: Cell) -> Image.Image:
    picture = Image.new("RGB", (_WIDTH, _HEIGHT), _NOTHING)
    half = _WIDTH // 2 - 1
    known = cell.photo if cell.photo is not None else cell.iuv
    if known is None:
        return picture
    height, width = known.shape[1:]
    factor = min(half / width, _HEIGHT / height)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    top = (_HEIGHT - size[1]) // 2
    shown = Image.new("RGB", size, "black")
    if cell.photo is not None:
        photo = Image.fromarray(cell.photo.permute(1, 2, 0).contiguous().numpy())
        shown = photo.resize(size, Image.Resampling.LANCZOS)
        picture.paste(shown, (0, top))
    if cell.iuv is not None:
        pixels = torch.from_numpy(np.array(shown)).permute(2, 0, 1)
        picture.paste(part_overlay(pixels, resize_iuv(cell.iuv, (size[1], size[0]))), (half + 2, top))
    return picture
