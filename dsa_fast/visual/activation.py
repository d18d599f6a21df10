"""Draws activation maps (`dsa_fast.evaluation.activation`) as heat over the image."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from dsa_fast.visual.layout import captioned, fit, font, in_rows, text_tile, tile_table
from dsa_fast.visual.palette import INK, LINE, PAPER

__all__ = ["activation_grid", "color_table", "overlay"]

_OPACITY = 0.75  # of the hottest position


@functools.cache
def color_table() -> NDArray[np.uint8]:
    """Returns color and opacity of each map value, from dark and transparent to bright and opaque, uint8 [256, 4]."""
    table = (255 * np.asarray(colormaps["inferno"](np.arange(256)))).round()
    table[:, 3] = np.round(255 * _OPACITY * (np.arange(256) / 255) ** 1.5)
    result: NDArray[np.uint8] = table.astype(np.uint8)
    result.setflags(write=False)
    return result


def overlay(image: Image.Image, heat: Tensor) -> Image.Image:
    """Draws an activation map (uint8 [h, w]) as smooth heat over its image; keeps the image's size.

    Raises:
        ValueError: `heat` has a wrong shape or type.
    """
    if heat.dim() != 2 or heat.dtype != torch.uint8:
        raise ValueError(f"heat must be uint8 of shape [h, w], got {heat.dtype} {list(heat.shape)}")
    (height, width), values = heat.shape, np.pad(heat.cpu().numpy(), ((0, 1), (0, 1)), mode="edge")
    box = (0.5, 0.5, width + 0.5, height + 0.5)  # the center of position (0, 0) is on the corner
    smooth = Image.fromarray(values).resize(image.size, Image.Resampling.BICUBIC, box=box)
    colored = Image.fromarray(color_table()[np.asarray(smooth)])
    return Image.alpha_composite(image.convert("RGBA"), colored).convert("RGB")


def activation_grid(
    rows: Sequence[Sequence[tuple[Image.Image, Tensor, str]]],
    *,
    columns: int = 1,
    height: int = 192,
    title: str | None = None,
) -> Image.Image:
    """Draws images, each with its heat map on the right and a line of text below.

    Args:
        rows: groups of (image, map as for `overlay`, text), such as a query and its nearest image; a group stays in one
            row.
        columns: groups per row.
        height: height of an image in pixels.
        title: a line at the top, above the scale of the colors.

    Returns:
        An RGB picture.

    Raises:
        ValueError: there are no rows, or a map has a wrong shape or type.
    """
    if not any(rows):
        raise ValueError("rows must hold at least one image, got none")
    groups = []
    for row in rows:
        tiles = []
        for image, heat, text in row:
            shown = fit(image.convert("RGB"), (math.inf, height))
            tiles.append(captioned(tile_table([[shown, overlay(shown, heat)]], gap=2, margin=0), [text]))
        groups.append(tile_table([tiles], margin=0))
    grid = tile_table(in_rows(groups, columns), gap=16)
    if title is None:
        return grid
    width = grid.width - 32
    heads = tile_table([[text_tile(title, width)], [_scale(width)]], gap=6, margin=16)
    return tile_table([[heads], [grid]], gap=0, margin=0)


def _scale(width: int) -> Image.Image:
    """Draws the colors from low to high activation, over gray."""
    bar = Image.new("RGB", (180, 14), LINE)
    heat = torch.arange(256, dtype=torch.uint8)[None].repeat(2, 1)
    picture = Image.new("RGB", (width, 20), PAPER)
    picture.paste(overlay(bar, heat), (38, 2))
    draw = ImageDraw.Draw(picture)
    draw.text((10, 2), "low", fill=INK, font=font(12))
    draw.text((224, 2), "high, of each image", fill=INK, font=font(12))
    return picture
