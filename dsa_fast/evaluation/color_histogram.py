"""Color histograms: simple features of color matching, as a baseline for learned features."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

__all__ = ["histogram_features"]

_CHUNK_PIXELS = 1 << 22


def histogram_features(
    images: Tensor, *, space: Literal["hsv", "rgb"] = "hsv", bins: int = 8, stripes: int = 6
) -> Tensor:
    """Makes joint color histograms of horizontal stripes: unit vectors whose dot product is the Hellinger similarity.

    Each stripe's histogram counts its pixels over `bins` x `bins` x `bins` colors and is divided by the number of
    pixels. The result is the square root of the histogram. All stripes have the same weight. For vectors of unit
    length, cosine and Euclidean distance give the same order.

    Args:
        images: uint8 [N, 3, H, W], RGB, on any device.
        space: "hsv" (the hue of gray is 0) or "rgb".
        bins: bins per channel, 1..256.
        stripes: number of stripes, top to bottom, of equal height to within a row; 1 is the whole image.

    Returns:
        float32 [N, stripes * bins**3], on the images' device.

    Raises:
        TypeError: `images` is not uint8.
        ValueError: wrong shape, or `space`, `bins` or `stripes` out of range.
    """
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        raise TypeError(f"images must be a uint8 tensor, got {getattr(images, 'dtype', type(images).__name__)}")
    if images.dim() != 4 or images.shape[1] != 3 or 0 in images.shape[2:]:
        raise ValueError(f"images must have shape [N, 3, H, W], got {list(images.shape)}")
    if space not in ("hsv", "rgb"):
        raise ValueError(f'space must be "hsv" or "rgb", got {space!r}')
    if not 1 <= bins <= 256:
        raise ValueError(f"bins must be in 1..256, got {bins}")
    count, _, height, width = images.shape
    if not 1 <= stripes <= height:
        raise ValueError(f"stripes must be in 1..{height}, the images' height, got {stripes}")
    device = images.device
    length = stripes * bins**3
    stripe = torch.arange(height, device=device) * stripes // height
    rows_of_stripe = torch.bincount(stripe, minlength=stripes)
    weight = 1.0 / (stripes * width * rows_of_stripe.repeat_interleave(bins**3))
    result = torch.empty((count, length), dtype=torch.float32, device=device)
    step = max(1, _CHUNK_PIXELS // (height * width))
    for start in range(0, count, step):
        chunk = images[start : start + step]
        level = (_hsv(chunk) if space == "hsv" else chunk.int()) * bins // 256
        index = ((stripe[:, None] * bins + level[:, 0]) * bins + level[:, 1]) * bins + level[:, 2]
        index = index + torch.arange(len(chunk), device=device)[:, None, None] * length
        counts = torch.bincount(index.flatten(), minlength=len(chunk) * length).view(len(chunk), length)
        result[start : start + step] = (counts * weight).sqrt()
    return result


def _hsv(images: Tensor) -> Tensor:
    """Converts uint8 RGB [N, 3, H, W] to int32 hue, saturation and value, each 0..255, in integer arithmetic."""
    red, green, blue = images.int().unbind(1)
    high = images.amax(1).int()
    spread = high - images.amin(1).int()
    safe = spread.clamp(min=1)
    # Sixths of the circle, from red over green to blue, in 1/spread: [0, 6 spread).
    sixths = torch.where(
        high == red,
        (green - blue).remainder(6 * safe),
        torch.where(high == green, blue - red + 2 * safe, red - green + 4 * safe),
    )
    hue = torch.where(spread > 0, sixths * 256 // (6 * safe), 0)
    saturation = 255 * spread // high.clamp(min=1)
    return torch.stack((hue, saturation, high), 1)
