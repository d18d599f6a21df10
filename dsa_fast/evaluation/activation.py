"""Where the MF-Stream responds: activation maps, as heat over the image.

A map's value at a place is the length (L2 norm over the channels) of the feature vector there: as every layer ends with
a ReLU and is averaged over places, long vectors are what the test vector is made of. Each image's map is stretched to
0..255 by itself, so that maps say *where* an image is read, not whether one image excites the network more than
another.

Place (i, j) of a map stands for what lies around pixel (16 i, 16 j) of the network's input, not around the middle of
that 16 x 16 square: each of the trunk's strides reads symmetrically around every second place, from the first on. Maps
are drawn accordingly, with their corner places on the image's upper and left border.
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

if TYPE_CHECKING:
    from dsa_fast.models.mf_stream import MFStream

__all__ = ["Layer", "color_table", "energy", "overlay", "record_activations", "sheet"]

#: `trunk`: F, which all heads read; `global`: the global head's last map; `local`: those of the 8 local branches.
Layer = Literal["trunk", "global", "local"]

_MODULES = {"trunk": "trunk", "global": "head_global", "local": "head_local"}
_OPACITY = 0.75  # of the hottest place


def energy(features: Tensor) -> Tensor:
    """Feature maps [B, C, h, w], of any float type -> uint8 [B, h, w] on the CPU, each map stretched to 0..255.

    A constant map gives zeros.

    Raises:
        ValueError: wrong shape.
    """
    if features.dim() != 4:
        raise ValueError(f"features must have shape [B, C, h, w], got {list(features.shape)}")
    length = features.detach().float().square().sum(1).sqrt()
    low, high = length.amin((1, 2), keepdim=True), length.amax((1, 2), keepdim=True)
    spread = high - low
    unit = torch.where(spread > 0, (length - low) / spread.clamp(min=torch.finfo(torch.float32).tiny), 0.0)
    return (255 * unit).round().to(torch.uint8).cpu()


@contextmanager
def record_activations(stream: MFStream, layer: Layer = "trunk") -> Iterator[list[Tensor]]:
    """Records the activation maps of whatever passes through an MF-Stream within the block.

    ```python
    with record_activations(loaded.model.mf_stream) as maps:
        features, pids, camids = embed_people(loaded, people)
    maps = torch.cat(maps)  # uint8 [len(people), h, w], in the people's order
    ```

    Hooks do the work: a graph that `torch.compile` made before the block is not seen.

    Args:
        stream: the stream, as it is (`model.mf_stream`).
        layer: which map; `trunk` is there in every model.

    Yields:
        A list that grows by one uint8 tensor [B, h, w] with each batch; see `energy`.

    Raises:
        ValueError: unknown layer, or one that the model was built without.
    """
    if layer not in get_args(Layer):
        raise ValueError(f"layer must be one of {', '.join(get_args(Layer))}, got {layer!r}")
    module: torch.nn.Module | None = getattr(stream, _MODULES[layer])
    if module is None:
        raise ValueError(f"layer must be a branch that the model has, got {layer!r}: it was built without that branch")
    maps: list[Tensor] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: maps.append(energy(output)))
    try:
        yield maps
    finally:
        handle.remove()


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


def sheet(
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
