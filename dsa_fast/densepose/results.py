"""DensePose results of detected people: from labels and (u, v) inside a box to an IUV map of the whole image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dsa_fast.densepose.parts import NUM_PARTS

__all__ = ["ChartHeads", "iuv_from_result", "place_in_image"]


@dataclass
class ChartHeads:
    """Outputs of DensePose's chart heads for several people, a `dsa_fast.ops.warp_densepose.ChartOutput`."""

    coarse_segm: Tensor
    fine_segm: Tensor
    u: Tensor
    v: Tensor


def iuv_from_result(
    labels: Tensor, uv: Tensor, box: Sequence[float] | Tensor | None = None, size: tuple[int, int] | None = None
) -> Tensor:
    """Returns the IUV map of a DensePose result: the fields `labels` and `uv` of detectron2's `DensePoseChartResult`.

    U = round(255 u) and V = round(255 v). u and v may be slightly outside [0, 1] and are clamped. A pixel whose u or v
    is NaN becomes background, and where the label is 0, U and V are 0.

    Args:
        labels: [h, w], part ids 0..24, of any integer or floating-point type.
        uv: [2, h, w], floating point.
        box: the person's box x0, y0, x1, y1 in the image's pixels, covered by the result.
        size: (height, width) of the image. Pass both `box` and `size`, or neither to get the map of the box.

    Returns:
        uint8 [3, height, width] with background outside the box; or [3, h, w]. On the device of `labels`.

    Raises:
        TypeError: `uv` is not floating point.
        ValueError: shapes do not match each other or the box, a label is not a part id, or only one of `box` and `size`
            is given.
    """
    if labels.dim() != 2 or labels.numel() == 0:
        raise ValueError(f"labels must have shape [h, w], got {list(labels.shape)}")
    if uv.shape != (2, *labels.shape):
        raise ValueError(f"uv must have shape {[2, *labels.shape]} to match labels, got {list(uv.shape)}")
    if not uv.is_floating_point():
        raise TypeError(f"uv must be floating point, got {uv.dtype}")
    if not bool(((labels >= 0) & (labels <= NUM_PARTS)).all()) or (
        labels.is_floating_point() and not bool((labels == labels.floor()).all())
    ):
        low, high = labels.double().aminmax()
        raise ValueError(f"labels must be part ids 0..{NUM_PARTS}, got numbers from {low:g} to {high:g}")
    part = labels.to(torch.uint8) * (~uv.isnan().any(0))
    values = (uv.float().nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8)
    iuv = torch.cat((part[None], values * (part > 0)))
    if box is None and size is None:
        return iuv
    if box is None or size is None:
        raise ValueError("box and size must be given together, got only one of them")
    return place_in_image(iuv, box, size)


def place_in_image(iuv: Tensor, box: Sequence[float] | Tensor, size: tuple[int, int]) -> Tensor:
    """Places a box's IUV map in its image.

    As in detectron2, the box is (x0, y0, x1 - x0, y1 - y0) with each number truncated to an integer, and width and
    height at least 1. Pixels outside the image are dropped.

    Args:
        iuv: uint8 [3, h, w] of the box.
        box: x0, y0, x1, y1 in the image's pixels.
        size: (height, width) of the image.

    Returns:
        uint8 [3, height, width], background outside the box.

    Raises:
        ValueError: the box is not four finite numbers, its size differs from the map's by more than a pixel (of
            rounding), or `size` is not positive.
    """
    corners = torch.as_tensor(box, dtype=torch.float32).flatten().cpu()
    if len(corners) != 4 or not bool(corners.isfinite().all()):
        raise ValueError(f"box must be four finite numbers x0, y0, x1, y1, got {corners.tolist()}")
    height, width = size
    if height < 1 or width < 1:
        raise ValueError(f"size must be a positive (height, width), got {size}")
    box_width, box_height = (max(int(n), 1) for n in (corners[2:] - corners[:2]).tolist())
    rows, columns = iuv.shape[-2:]
    if abs(rows - box_height) > 1 or abs(columns - box_width) > 1:
        raise ValueError(
            f"box must have the result's size, {columns} x {rows} (width x height), got {box_width} x {box_height}"
        )
    left, top = (math.trunc(n) for n in corners[:2].tolist())
    image = torch.zeros((3, height, width), dtype=torch.uint8, device=iuv.device)
    y0, y1, x0, x1 = max(top, 0), min(top + rows, height), max(left, 0), min(left + columns, width)
    if y0 < y1 and x0 < x1:
        image[:, y0:y1, x0:x1] = iuv[:, y0 - top : y1 - top, x0 - left : x1 - left]
    return image
