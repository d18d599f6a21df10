"""Draws activation maps (`dsa_fast.evaluation.activation`) as heat over the image."""

from __future__ import annotations

import base64
import functools
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

__all__ = ["activation_sheet", "color_table", "color_table_base64", "overlay"]

_OPACITY = 0.75  # of the hottest place


@functools.cache
def color_table() -> NDArray[np.uint8]:
    """uint8 [256, 4]: colour and opacity of each value of a map, dark and clear to bright and dense."""
    table = (255 * np.asarray(colormaps["inferno"](np.arange(256)))).round()
    table[:, 3] = np.round(255 * _OPACITY * (np.arange(256) / 255) ** 1.5)
    result: NDArray[np.uint8] = table.astype(np.uint8)
    result.setflags(write=False)
    return result


def color_table_base64() -> str:
    """`color_table` for a web page."""
    return base64.b64encode(color_table().tobytes()).decode()


def overlay(image: Image.Image, heat: Tensor) -> Image.Image:
    """The image with its activation map (uint8 [h, w]) as heat over all of it, smooth; the same size.

    Raises:
        ValueError: wrong shape or type of `heat`.
    """
    if heat.dim() != 2 or heat.dtype != torch.uint8:
        raise ValueError(f"heat must be uint8 of shape [h, w], got {heat.dtype} {list(heat.shape)}")
    (height, width), values = heat.shape, np.pad(heat.cpu().numpy(), ((0, 1), (0, 1)), mode="edge")
    box = (0.5, 0.5, width + 0.5, height + 0.5)  # place (0, 0), whose middle is there, is on the corner
    smooth = Image.fromarray(values).resize(image.size, Image.Resampling.BICUBIC, box=box)
    colored = Image.fromarray(color_table()[np.asarray(smooth)])
    return Image.alpha_composite(image.convert("RGBA"), colored).convert("RGB")


def activation_sheet(
    rows: Sequence[Sequence[tuple[Image.Image, Tensor, str]]], *, columns: int = 1, height: int = 192
) -> Image.Image:
    """Images, each with its heat beside it and a line of text below.

    Args:
        rows: groups of (image, map as for `overlay`, text), such as a query and its nearest; a group stays in a row.
        columns: groups beside each other.
        height: of an image, in pixels.

    Returns:
        An RGB picture.

    Raises:
        ValueError: there are no rows, or a map is none.
    """
    if not any(rows):
        raise ValueError("rows must hold at least one image, got none")
    font, line, gap = ImageFont.load_default(12), 20, 20
    strips = []
    for row in rows:
        cells = []
        for image, heat, text in row:
            width = max(1, round(image.width * height / image.height))
            image = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
            cell = Image.new("RGB", (2 * width + 2, height + line), "white")
            cell.paste(image, (0, 0))
            cell.paste(overlay(image, heat), (width + 2, 0))
            ImageDraw.Draw(cell).text((0, height + 3), text, fill=(35, 35, 40), font=font)
            cells.append(cell)
        strip = Image.new("RGB", (sum(cell.width + gap // 2 for cell in cells), height + line), "white")
        x = 0
        for cell in cells:
            strip.paste(cell, (x, 0))
            x += cell.width + gap // 2
        strips.append(strip)
    width = max(strip.width for strip in strips) + gap
    picture = Image.new(
        "RGB", (width * min(columns, len(strips)), -(-len(strips) // columns) * (height + line + 8)), "white"
    )
    for number, strip in enumerate(strips):
        picture.paste(strip, (number % columns * width, number // columns * (height + line + 8)))
    return picture
