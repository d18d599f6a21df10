"""Draws the 24 part images laid out as a body, and the part map over its photo."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from dsa_fast.densepose.iuv import resize_iuv
from dsa_fast.densepose.parts import NUM_PARTS, PART_COLORS, PART_NAMES, UPRIGHT
from dsa_fast.visual.layout import fit, font, text_tile, tile_table, to_picture, to_tensor
from dsa_fast.visual.palette import CHECKER, FAINT, INK, PAPER

__all__ = ["atlas", "part_overlay", "part_upright", "photo_and_parts"]

# Each part's cell, (column, row), on a body seen from the front and on one seen from behind. In the front view, the
# right hand is on the left side of the picture. In the rear view, it is on the right.
_FRONT = {
    **{23: (1, 0), 24: (2, 0), 16: (0, 1), 2: (1.5, 1), 15: (3, 1), 20: (0, 2), 9: (1, 2), 10: (2, 2)},
    **{19: (3, 2), 3: (0, 3), 13: (1, 3), 14: (2, 3), 4: (3, 3), 6: (1, 4), 5: (2, 4)},
}
_BACK = {17: (0, 1), 1: (1.5, 1), 18: (3, 1), 21: (0, 2), 8: (1, 2), 7: (2, 2), 22: (3, 2), 12: (1, 3), 11: (2, 3)}
_COLUMNS, _ROWS = 4, 5

_CELL = 160  # approximate size of a part's image, in pixels
_PANEL = 640  # maximum width of a photo and its part map, in pixels


def part_upright(texture: NDArray[np.uint8], part: int) -> NDArray[np.uint8]:
    """Rotates a part's image upright, as on a standing person (see `UPRIGHT`).

    Args:
        texture: [S, S, ...], rows along u and columns along v.
        part: 1..24.

    Returns:
        A view [S, S, ...].

    Raises:
        ValueError: `part` is out of range or the image is not square.
    """
    if not 1 <= part <= NUM_PARTS:
        raise ValueError(f"part must be in 1..{NUM_PARTS}, got {part}")
    if texture.ndim < 2 or texture.shape[0] != texture.shape[1]:
        raise ValueError(f"texture must have shape [S, S, ...], got {list(texture.shape)}")
    down, right = UPRIGHT[part - 1]
    turned = texture.swapaxes(0, 1) if down.endswith("v") else texture
    return turned[:: -1 if down.startswith("-") else 1, :: -1 if right.startswith("-") else 1]


def atlas(
    dsap: Tensor,
    *,
    count: Tensor | None = None,
    labels: bool = True,
    titles: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    scale: int | None = None,
) -> Image.Image:
    """Lays part images out as a picture: a body seen from the front, and one seen from behind.

    Each part is rotated upright (see `UPRIGHT`): 23 and 24 form a face, and a print on the chest is readable. Each is
    labeled with its id, its name and its color in `parts.PART_COLORS`. Several people are stacked vertically.

    Args:
        dsap: [24, C, S, S] or [B, 24, C, S, S] as `dsa_fast.warp` returns it, C = 1 or 3; uint8 in 0..255, or floating
            point in [0, 1] (values outside are clamped, NaN is 0).
        count: [24, S, S] or [B, 24, S, S], number of pixels on each texel (`return_count=True`), or a bool mask.
            Empty texels are then drawn as a gray checkerboard.
        labels: whether to write ids and names.
        titles: a line above each person.
        mean: if `dsap` was normalized, the mean that was subtracted from each channel.
        std: if `dsap` was normalized, the standard deviation of each channel.
        scale: width and height of a texel in pixels; by default a part is about 160 pixels wide.

    Returns:
        An RGB picture.

    Raises:
        TypeError: `dsap` is not a tensor of one of these types.
        ValueError: a shape or number is wrong.
    """
    textures = _to_bytes(dsap, mean, std)  # [B, 24, S, S, 3]
    people, size = textures.shape[0], textures.shape[2]
    touched = _touched(count, dsap, people, size)
    if titles is not None and len(titles) != people:
        raise ValueError(f"titles must hold one line per person, {people}, got {len(titles)}")
    if scale is None:
        scale = max(1, _CELL // size)
    if scale < 1:
        raise ValueError(f"scale must be at least 1, got {scale}")
    if people == 0:
        raise ValueError("dsap must hold at least one person, got none")
    figures = [
        _figure(textures[b], None if touched is None else touched[b], scale, labels, titles[b] if titles else None)
        for b in range(people)
    ]
    return tile_table([[figure] for figure in figures], gap=0)


def photo_and_parts(photo: Tensor, iuv: Tensor, dsap: Tensor, count: Tensor, title: str) -> Image.Image:
    """Draws a photo above its part map, and the 24 parts on the right; their labels are the map's legend.

    Args:
        photo: uint8 [3, H, W].
        iuv: uint8 [3, H, W].
        dsap: [24, 3, S, S].
        count: int [24, S, S].
        title: a line at the top.

    Returns:
        An RGB picture.
    """
    parts = atlas(dsap, count=count)
    shown = fit(to_picture(photo), (_PANEL, parts.height / 2 - 36))
    overlay = part_overlay(to_tensor(shown), resize_iuv(iuv, (shown.height, shown.width)))
    column = [[text_tile("photo", shown.width)], [shown], [text_tile("parts", shown.width)], [overlay]]
    return tile_table([[tile_table(column, gap=4, margin=0), parts]], gap=16, title=title)


def part_overlay(image: Tensor, iuv: Tensor, *, opacity: float = 0.65) -> Image.Image:
    """Draws a part map over its photo, in the colors of `parts.PART_COLORS`.

    Args:
        image: uint8 [3, H, W], RGB.
        iuv: uint8 [3, H, W], channels I, U, V.
        opacity: opacity of the map, 0..1. Background is dimmed, and borders between parts are dark.

    Returns:
        An RGB picture, W x H.

    Raises:
        TypeError: `image` or `iuv` is not uint8.
        ValueError: wrong or different shapes, part ids above 24, or an opacity outside 0..1.
    """
    for name, tensor in (("image", image), ("iuv", iuv)):
        if not isinstance(tensor, Tensor) or tensor.dtype != torch.uint8:
            raise TypeError(f"{name} must be a uint8 tensor, got {getattr(tensor, 'dtype', type(tensor).__name__)}")
        if tensor.dim() != 3 or tensor.shape[0] != 3 or tensor.numel() == 0:
            raise ValueError(f"{name} must have shape [3, H, W], got {list(tensor.shape)}")
    if image.shape != iuv.shape:
        raise ValueError(f"image and iuv must have the same size, got {list(image.shape)} and {list(iuv.shape)}")
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must be in 0..1, got {opacity}")
    part = iuv[0].cpu().numpy()
    if part.max() > NUM_PARTS:
        raise ValueError(f"iuv must hold part ids 0..{NUM_PARTS} in channel 0, got {part.max()}")
    photo = image.permute(1, 2, 0).cpu().numpy().astype(np.float32)
    color = np.asarray(PART_COLORS, np.float32)[part]
    mixed = np.where(part[..., None] > 0, (1 - opacity) * photo + opacity * color, 0.45 * photo)
    border = np.zeros(part.shape, bool)
    border[:, 1:] |= part[:, 1:] != part[:, :-1]
    border[1:] |= part[1:] != part[:-1]
    mixed[border] *= 0.4
    return Image.fromarray(mixed.round().astype(np.uint8))


def _to_bytes(dsap: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None) -> NDArray[np.uint8]:
    """Converts the part images to uint8 [B, 24, S, S, 3]."""
    if not isinstance(dsap, Tensor) or not (dsap.dtype == torch.uint8 or dsap.is_floating_point()):
        raise TypeError(
            f"dsap must be a uint8 or floating-point tensor, got {getattr(dsap, 'dtype', type(dsap).__name__)}"
        )
    if dsap.dim() not in (4, 5) or dsap.shape[-4] != NUM_PARTS or dsap.shape[-1] != dsap.shape[-2]:
        raise ValueError(f"dsap must have shape [24, C, S, S] or [B, 24, C, S, S], got {list(dsap.shape)}")
    channels = dsap.shape[-3]
    if channels not in (1, 3):
        raise ValueError(f"dsap must have 1 or 3 channels to be drawn, got {channels}")
    if (mean is None) != (std is None):
        raise ValueError("mean and std must be given together, got only one of them")
    values = dsap.detach().cpu()
    if mean is not None and std is not None:
        if len(mean) != channels or len(std) != channels:
            raise ValueError(f"mean and std must hold {channels} numbers, got {len(mean)} and {len(std)}")
        if values.dtype == torch.uint8:
            raise ValueError("mean and std are for floating-point dsap, got uint8")
        shape = (channels, 1, 1)
        values = values.double() * torch.tensor(std).view(shape) + torch.tensor(mean).view(shape)
    if values.dtype != torch.uint8:
        values = (values.float().nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8)
    values = values.expand(*values.shape[:-3], 3, *values.shape[-2:])
    if values.dim() == 4:
        values = values[None]
    return np.ascontiguousarray(values.permute(0, 1, 3, 4, 2).numpy())


def _touched(count: Tensor | None, dsap: Tensor, people: int, size: int) -> NDArray[np.bool_] | None:
    """Returns which texels are touched, bool [B, 24, S, S], or None."""
    if count is None:
        return None
    expected = [*dsap.shape[:-3], size, size]
    if list(count.shape) != expected:
        raise ValueError(f"count must have shape {expected}, as dsap without its channels, got {list(count.shape)}")
    return (count.detach().cpu() > 0).view(people, NUM_PARTS, size, size).numpy()


def _figure(
    textures: NDArray[np.uint8], touched: NDArray[np.bool_] | None, scale: int, labels: bool, title: str | None
) -> Image.Image:
    """Draws one person from uint8 [24, S, S, 3] and bool [24, S, S]."""
    cell = textures.shape[1] * scale
    gap = max(2, cell // 16)
    label_size = _label_size(cell)
    label_height = label_size + 9 if labels else 0  # with its bar
    heading = font(max(9, cell // 9))
    top = gap + (max(12, cell // 6) if title else 0)
    pitch_x, pitch_y = cell + gap, cell + label_height + gap
    body_width = _COLUMNS * pitch_x
    width, height = 2 * body_width + 2 * gap + cell // 2, top + _ROWS * pitch_y + gap
    picture = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(picture)
    if title:
        draw.text((gap, gap), title, fill=INK, font=heading)
    for places, left, name in (
        (_FRONT, gap, "from the front"),
        (_BACK, gap + body_width + cell // 2, "from behind"),
    ):
        for part, (column, row) in places.items():
            x, y = left + round(column * pitch_x), top + row * pitch_y
            if part == 23:
                x += gap  # the two halves of the head touch
            if labels:
                draw.text((x, y), f"{part} {PART_NAMES[part]}", fill=INK, font=font(label_size))
                draw.rectangle((x, y + label_height - 5, x + cell - 1, y + label_height - 3), fill=PART_COLORS[part])
            shown = None if touched is None else touched[part - 1]
            picture.paste(_tile(textures[part - 1], shown, part, scale), (x, y + label_height))
        if labels:
            draw.text((left, top), name, fill=FAINT, font=heading)
    return picture


def _tile(texture: NDArray[np.uint8], touched: NDArray[np.bool_] | None, part: int, scale: int) -> Image.Image:
    """Draws a part's image, upright, with `scale` pixels per texel; untouched texels as a checkerboard."""
    pixels = part_upright(texture, part)
    if touched is not None:
        size = len(pixels)
        square = max(1, size // 8)
        at = np.arange(size) // square
        checker = np.where((at[:, None] + at) % 2, *CHECKER).astype(np.uint8)
        pixels = np.where(part_upright(touched.astype(np.uint8), part)[..., None] > 0, pixels, checker[..., None])
    return Image.fromarray(np.ascontiguousarray(pixels.repeat(scale, 0).repeat(scale, 1)))


def _label_size(cell: int) -> int:
    """Returns the largest font size, 6 to 14 pixels, with which all labels fit a cell."""
    longest = max((f"{part} {PART_NAMES[part]}" for part in range(1, NUM_PARTS + 1)), key=len)
    return next((size for size in range(14, 6, -1) if font(size).getlength(longest) <= cell), 6)
