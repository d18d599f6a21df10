"""The operators in plain Python. Every kernel must match them. They are slow and only for tests."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def warp_reference(
    img: Tensor,
    iuv: Tensor,
    *,
    size: int = 32,
    fill: float | Sequence[float] = 0.0,
    reduce: str = "last",
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Computes `dsa_fast.warp` one pixel at a time.

    Args:
        img: Photos, [B, C, H, W].
        iuv: Their DensePose maps, [B, 3, H, W].
        size: Height and width S of a part's image.
        fill: A number, or one number per channel, for texels without a pixel.
        reduce: ``"last"`` or ``"mean"``.
        dtype: The result's dtype; by default that of ``img``.

    Returns:
        The part images, [B, 24, C, S, S], and the number of pixels on each texel, int32 [B, 24, S, S].
    """
    batch, channels = img.shape[:2]
    fills = [float(value) for value in fill] if isinstance(fill, Sequence) else [float(fill)] * channels
    out = torch.empty(batch, 24, channels, size, size, dtype=torch.float64)
    for channel, value in enumerate(fills):
        out[:, :, channel] = value
    count = torch.zeros(batch, 24, size, size, dtype=torch.int32)
    for b in range(batch):
        for (part, row, column), pixels in pixels_of_texels(iuv[b], size).items():
            count[b, part - 1, row, column] = len(pixels)
            for channel in range(channels):
                values = [img[b, channel, y, x] for y, x in pixels]
                reduced = values[-1].double() if reduce == "last" else _mean(values)
                out[b, part - 1, channel, row, column] = reduced
    return cast(out, img.dtype if dtype is None else dtype), count


def crop_reference(
    img: Tensor,
    iuv: Tensor,
    *,
    size: int = 32,
    fill: float | Sequence[float] = 0.0,
    mask: bool = True,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Computes `dsa_fast.crop_parts` one texel at a time. The arguments are the same, with a batch dimension."""
    batch, channels = img.shape[:2]
    fills = [float(value) for value in fill] if isinstance(fill, Sequence) else [float(fill)] * channels
    out = torch.empty(batch, 24, channels, size, size, dtype=torch.float64)
    for channel, value in enumerate(fills):
        out[:, :, channel] = value
    for b in range(batch):
        for (part, _, _), pixels in pixels_of_texels(iuv[b], 1).items():
            top, left = (min(pixel[axis] for pixel in pixels) for axis in (0, 1))
            height, width = (1 + max(pixel[axis] for pixel in pixels) - low for axis, low in ((0, top), (1, left)))
            inside = set(pixels)
            for row in range(size):
                for column in range(size):
                    y = top + (2 * row + 1) * height // (2 * size)
                    x = left + (2 * column + 1) * width // (2 * size)
                    if (y, x) in inside or not mask:
                        out[b, part - 1, :, row, column] = img[b, :, y, x].double()
    return cast(out, img.dtype if dtype is None else dtype)


def pixels_of_texels(iuv: Tensor, size: int) -> dict[tuple[int, int, int], list[tuple[int, int]]]:
    """Lists the pixels (y, x) of each non-empty texel (part 1..24, row, column), in raster order.

    Args:
        iuv: One DensePose map, [3, H, W].
        size: Height and width of a part's image.
    """
    found: dict[tuple[int, int, int], list[tuple[int, int]]] = {}
    exact = iuv.dtype == torch.uint8
    for y in range(iuv.shape[1]):
        for x in range(iuv.shape[2]):
            part, u, v = (iuv[channel, y, x].item() for channel in range(3))
            if any(math.isnan(value) for value in (part, u, v)) or part not in range(1, 25):
                continue
            row, column = (
                _coordinate_of_byte(int(value), size) if exact else _coordinate_of_real(value, size) for value in (u, v)
            )
            found.setdefault((int(part), row, column), []).append((y, x))
    return found


def cast(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Casts float64 values as the warp does: to the nearest, ties to even; uint8 saturates and turns NaN into 0."""
    if dtype == torch.uint8:
        return values.nan_to_num(nan=0.0, posinf=255.0, neginf=0.0).round().clamp(0, 255).to(torch.uint8)
    return values if dtype == torch.float64 else values.float().to(dtype)


def _coordinate_of_byte(u: int, size: int) -> int:
    return min(u * size // 255, size - 1)


def _coordinate_of_real(u: float, size: int) -> int:
    product = np.float32(min(max(u, 0.0), 1.0)) * np.float32(size)
    return min(math.floor(product), size - 1)


def _mean(values: list[Tensor]) -> float:
    if values[0].dtype == torch.float64:
        return sum(value.item() for value in values) / len(values)
    if values[0].dtype == torch.uint8:
        total = np.float32(sum(int(value) for value in values))
    else:
        total = np.float32(0)
        with np.errstate(invalid="ignore", over="ignore"):
            for value in values:
                total = np.float32(total + np.float32(value.item()))
    return float(total / np.float32(len(values)))


def to_iuv_reference(
    coarse_segm: Tensor, fine_segm: Tensor, u: Tensor, v: Tensor, box: Tensor, size: tuple[int, int]
) -> Tensor:
    """Makes one instance's IUV map of the photo's size with PyTorch's own operators, like DensePose's converter.

    Args:
        coarse_segm: Scores [1, 2 or 15, h, w]; half precision is converted to float32 first, as are all heads.
        fine_segm: Scores [1, 25, h, w].
        u: [1, 25, h, w].
        v: [1, 25, h, w].
        box: x0, y0, x1, y1, float32 [4]; rounded to whole pixels, the box must have a size that can be resampled.
        size: (height, width) of the photo.

    Returns:
        I, u and v, float32 [3, height, width].
    """
    x, y, w, h = (int(side) for side in torch.cat([box[:2], box[2:] - box[:2]]).tolist())
    w, h = max(w, 1), max(h, 1)

    def resample(head: Tensor) -> Tensor:
        return torch.nn.functional.interpolate(head.float(), (h, w), mode="bilinear", align_corners=False)[0]

    label = resample(fine_segm).argmax(0) * (resample(coarse_segm).argmax(0) > 0)
    of_label = [resample(head).gather(0, label[None])[0] * (label > 0) for head in (u, v)]
    of_box = torch.where(label > 0, torch.stack([label.float(), *of_label]), 0.0)
    out = torch.zeros(3, *size)
    top, left = max(y, 0), max(x, 0)
    bottom, right = max(min(y + h, size[0]), top), max(min(x + w, size[1]), left)
    out[:, top:bottom, left:right] = of_box[:, top - y : bottom - y, left - x : right - x]
    return out
