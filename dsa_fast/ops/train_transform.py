"""Turns stored people into the inputs of a training step, in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from dsa_fast.ops import _load
from dsa_fast.ops.warp import MAX_SIZE, PARTS

#: Columns of a plan; each image has one row of int32.
PLAN = ("index", "top", "left", "flip", "erase_top", "erase_left", "erase_height", "erase_width")
_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_MIRROR_SHAPE = (PARTS, 2, 256, 256)
_MAX_PIXELS = (2**31 - 1) // 255
_MAX_CELLS = 2**31 - 1


class TrainInputs(NamedTuple):
    """The inputs of a training step, all from the same draws.

    Attributes:
        images: full images [B, 3, H, W].
        dsap: part images [B, 24, 3, S, S], in which untouched texels are 0; empty if S is 0.
        iuv: the transformed maps at a coarser grid, uint8 [B, 3, h, w]; empty without a grid.
    """

    images: Tensor
    dsap: Tensor
    iuv: Tensor


def train_transform(
    images: Tensor,
    iuv: Tensor,
    plan: Tensor,
    *,
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    pad: int = 0,
    dsap_size: int = 32,
    grid: tuple[int, int] | None = None,
    reduce: Literal["last", "mean"] = "last",
    dtype: torch.dtype = torch.float32,
    dsap_dtype: torch.dtype | None = None,
    channels_last: bool = False,
    mirror: Tensor | None = None,
) -> TrainInputs:
    """Makes the full images, the part images and small maps of a step directly from the stored people.

    The steps for each image of the batch:

    1. Resize the photo (bilinear, antialiased if it shrinks, rounded to 8 bits) and the map (nearest neighbor).
    2. Mirror both if `flip` is 1. Left and right parts swap.
    3. Pad both by `pad` pixels, the photo with the mean color and the map with background, and crop them.
    4. Warp the part images (see `dsa_fast.warp`), then erase a box of the full image.
    5. Resize the map to `grid` (nearest neighbor). Erasing does not change it.

    `csrc/transform.h` defines every rule, including the order of additions. The result is the same on CPU and CUDA, bit
    for bit, for any number of threads. On CUDA, three kernels are queued on the current stream without waiting. There
    are no gradients, because the inputs are bytes.

    Args:
        images: stored photos, uint8 [N, 3, h, w], in any memory layout.
        iuv: their maps, uint8 [N, 3, h, w], channels I, U, V; all background if a person has none.
        plan: int32 [B, 8], on the device of `images`, with the columns of `PLAN`: the stored person (0..N-1), the
            corner of the crop in the padded picture, 1 for mirrored, and the erased box in the cropped picture (height
            0 for none). An index out of range raises an error on the CPU. On CUDA it gives zeros, because a check would
            have to wait.
        size: height and width of the full images.
        mean: color that becomes 0: red, green and blue in 0..255.
        std: divisors of red, green and blue after the mean is subtracted, in units of 0..255.
        pad: number of pixels added on each side before the crop.
        dsap_size: height and width of a part image; 0 for no part images, which saves their time.
        grid: height and width of the small maps; None for none.
        reduce: value of a texel with several pixels: the `last` one, or the `mean` of the 8-bit values.
        dtype: dtype of the full images: float32, float16 or bfloat16; computed in float32 and rounded once.
        dsap_dtype: dtype of the part images, one of the same three; by default `dtype`.
        channels_last: store the full images as [B, H, W, 3] in memory (their shape stays [B, 3, H, W]).
        mirror: uint8 [24, 2, 256, 256], on the device of `images`: the new U (0) and V (1) of a part in a mirrored
            picture, at [I - 1, 0 or 1, V, U]; by default the closed form of `dsa_fast.densepose.flip_iuv`.

    Returns:
        Full images [B, 3, *size], part images [B, 24, 3, dsap_size, dsap_size] and maps [B, 3, *grid].

    Raises:
        TypeError: a tensor has another dtype, or an argument has another type.
        ValueError: a shape, a device, a size or `reduce` is wrong.
        RuntimeError: an index of the plan is out of range (CPU), or the CUDA kernels are missing.
    """
    for name, tensor, expected in (
        ("images", images, torch.uint8),
        ("iuv", iuv, torch.uint8),
        ("plan", plan, torch.int32),
    ):
        if not isinstance(tensor, Tensor) or tensor.dtype != expected:
            got = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise TypeError(f"{name} must be a {str(expected).removeprefix('torch.')} tensor, got {got}")
    if images.dim() != 4 or images.shape[1] != 3 or 0 in images.shape[2:]:
        raise ValueError(f"images must have shape [N, 3, h, w], got {list(images.shape)}")
    if iuv.shape != images.shape:
        raise ValueError(f"iuv must have the shape of images, {list(images.shape)}, got {list(iuv.shape)}")
    if plan.dim() != 2 or plan.shape[1] != len(PLAN):
        raise ValueError(f"plan must have shape [B, {len(PLAN)}], got {list(plan.shape)}")
    if mirror is not None:
        if not isinstance(mirror, Tensor) or mirror.dtype != torch.uint8:
            raise TypeError(f"mirror must be a uint8 tensor, got {getattr(mirror, 'dtype', type(mirror).__name__)}")
        if mirror.shape != _MIRROR_SHAPE:
            raise ValueError(f"mirror must have shape {list(_MIRROR_SHAPE)}, got {list(mirror.shape)}")
        mirror = mirror.contiguous()
    for name, other in (("iuv", iuv), ("plan", plan), ("mirror", mirror)):
        if other is not None and other.device != images.device:
            raise ValueError(f"{name} must be on the device of images, {images.device}, got {other.device}")
    if len(size) != 2 or min(size) < 1 or size[0] * size[1] > _MAX_PIXELS:
        raise ValueError(f"size must be (height, width), each at least 1, of {_MAX_PIXELS} pixels at most, got {size}")
    if not 0 <= pad < 2**30:
        raise ValueError(f"pad must be in 0..2^30 - 1 pixels, got {pad}")
    if not 0 <= dsap_size <= MAX_SIZE:
        raise ValueError(f"dsap_size must be in 0..{MAX_SIZE}, got {dsap_size}")
    if grid is not None and (len(grid) != 2 or min(grid) < 1 or grid[0] * grid[1] > _MAX_CELLS):
        raise ValueError(f"grid must be (height, width), each at least 1, of {_MAX_CELLS} cells at most, got {grid}")
    if reduce not in ("last", "mean"):
        raise ValueError(f"reduce must be 'last' or 'mean', got {reduce!r}")
    dsap_dtype = dtype if dsap_dtype is None else dsap_dtype
    for name, chosen in (("dtype", dtype), ("dsap_dtype", dsap_dtype)):
        if chosen not in _DTYPES:
            raise TypeError(f"{name} must be torch.float16, torch.bfloat16 or torch.float32, got {chosen}")
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != 3:
            raise ValueError(f"{name} must hold 3 numbers, got {len(values)}")
    if images.is_cuda:
        _load.require_cuda()
    made: tuple[Tensor, Tensor, Tensor] = torch.ops.dsa_fast.train_transform(
        images,
        iuv,
        plan.contiguous(),
        mirror,
        *size,
        pad,
        dsap_size,
        *(grid or (0, 0)),
        [float(value) for value in mean],
        [float(value) for value in std],
        reduce,
        dtype,
        dsap_dtype,
        channels_last,
    )
    return TrainInputs(*made)


def _fake(
    images: Tensor,
    iuv: Tensor,
    plan: Tensor,
    mirror: Tensor | None,
    height: int,
    width: int,
    pad: int,
    size: int,
    grid_height: int,
    grid_width: int,
    mean: Sequence[float],
    std: Sequence[float],
    reduce: str,
    dtype: torch.dtype,
    dsap_dtype: torch.dtype,
    channels_last: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    batch = plan.shape[0]
    layout = torch.channels_last if channels_last else torch.contiguous_format
    full = torch.empty((batch, 3, height, width), dtype=dtype, device=images.device, memory_format=layout)
    dsap = images.new_empty((batch, PARTS, 3, size, size), dtype=dsap_dtype)
    return full, dsap, images.new_empty((batch, 3, grid_height, grid_width))


torch.library.register_fake("dsa_fast::train_transform", _fake)
