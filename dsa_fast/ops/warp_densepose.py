"""Warps directly from the outputs of DensePose's chart heads; see `csrc/densepose.h` and `csrc/chart.h`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, Protocol, overload

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from dsa_fast.ops import _load
from dsa_fast.ops.transforms import refuse_transforms
from dsa_fast.ops.warp import PARTS, _check_options, _check_photos, _names, _no_gradient

_HEADS = ("coarse_segm", "fine_segm", "u", "v")
_HEAD_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_FEW = 256  # image indexes that Python compares faster than an operator

_warp = torch.ops.dsa_fast.warp_densepose.default
_warp_detached = torch.ops.dsa_fast.warp_densepose_detached.default


class ChartOutput(Protocol):
    """The outputs of DensePose's chart heads for N instances, such as detectron2's `DensePoseChartPredictorOutput`.

    All are float16, bfloat16 or float32, with the same h and w, on the same device.

    Attributes:
        coarse_segm: scores [N, 2, h, w] or [N, 15, h, w]; channel 0 is the background.
        fine_segm: scores [N, 25, h, w]; channel 0 is the background, the others are the parts 1..24.
        u: u of each part, [N, 25, h, w].
        v: v of each part, [N, 25, h, w].
    """

    coarse_segm: Any
    fine_segm: Any
    u: Any
    v: Any


def warp_densepose(
    img: Tensor,
    output: ChartOutput,
    boxes: Any,
    image_index: Tensor | Sequence[int] | None = None,
    *,
    size: int = 32,
    fill: float | Sequence[float] = 0.0,
    reduce: Literal["last", "mean"] = "last",
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Makes the part images of each instance from DensePose's heads, in one pass without an IUV map.

    The result is that of detectron2's converter followed by `dsa_fast.warp`, instance by instance, and equals
    ``dsa_fast.warp(img[image_index], dsa_fast.densepose.to_iuv(output, boxes, img.shape[-2:]), ...)`` bit for bit.

    A box is truncated to integers: its corner (x0, y0) and its size (x1 - x0, y1 - y0), which is at least 1 x 1. Each
    head is resampled bilinearly over it (``align_corners=False``, in float32). A pixel's part is the fine channel with
    the highest score, or background where no coarse channel is higher than coarse channel 0. Ties go to the
    first channel, and a NaN is higher than every number. ``u`` and ``v`` are those of the part. The warp clamps them to
    [0, 1], and a pixel with a NaN is background. Box pixels outside the image are skipped, and a box with a NaN
    has no pixels. Overlapping instances do not affect each other.

    The arithmetic, which decides ties and floors, is the same on CPU and CUDA: see `csrc/chart.h`. On CUDA the work is
    queued on the current stream without waiting, for any boxes, and can be captured in a CUDA graph.
    Gradients flow to ``img`` as in the warp, but not to the heads.

    Args:
        img: Photos, [B, C, H, W] or [C, H, W] (one photo); as for `dsa_fast.warp`.
        output: The heads' outputs for N instances; any object with the attributes of `ChartOutput`. Half
            precision is converted to float32 before resampling. If the four dtypes differ, all are converted. Need not
            be contiguous.
        boxes: Boxes [N, 4] as x0, y0, x1, y1 in pixels of the photo: a tensor, or an object with a tensor as its
            attribute ``tensor`` (detectron2's ``Boxes``). Converted to float32.
        image_index: Which photo each instance is in: N integers in 0..B-1, preferably an int64 tensor on ``img``'s
            device. By default, photo 0 if there is only one, and photo n for instance n if N equals B. On CUDA the host
            does not check its values: an instance with an index outside 0..B-1 gets no pixels.
        size: Height and width of a part's image, in 1..4096.
        fill: Value of texels without a pixel: a number, or C numbers, in the units of ``img``.
        reduce: ``"last"`` or ``"mean"``, as for `dsa_fast.warp`.
        dtype: The result's dtype, by default that of ``img``; as for `dsa_fast.warp`.

    Returns:
        The part images, [N, 24, C, size, size], contiguous.

    Raises:
        TypeError: An argument is of the wrong type or dtype.
        ValueError: A shape, device, size, fill, reduce or index is wrong.
        RuntimeError: The tensors are on a CUDA device but the CUDA kernels are missing; the message gives the reason.
        NotImplementedError: Called under forward-mode differentiation, or ``torch.func``'s grad, vjp or jacrev.
    """
    batched = _check_photos(img)
    refuse_transforms("warp_densepose", img)
    dtype, values = _check_options(img, size, fill, reduce, dtype)
    heads, corners = _check_charts(output, boxes, img.device, "img's device")
    if not batched:
        img = img.unsqueeze(0)
    index = _check_index(image_index, img, corners.shape[0])
    op = _warp_detached if _no_gradient(img) else _warp
    out: Tensor = op(img, *heads, corners, index, size, values, reduce, dtype)
    return out


@overload
def to_iuv(output: ChartOutput, boxes: Any, size: tuple[int, int], *, dtype: torch.dtype = ...) -> Tensor: ...


@overload
def to_iuv(output: ChartOutput, boxes: Any, size: None = ..., *, dtype: torch.dtype = ...) -> list[Tensor]: ...


def to_iuv(
    output: ChartOutput, boxes: Any, size: tuple[int, int] | None = None, *, dtype: torch.dtype = torch.float32
) -> Tensor | list[Tensor]:
    """Makes IUV maps from the outputs of DensePose's chart heads, with the code of `dsa_fast.warp_densepose`.

    A float map contains the part 0..24 and its u and v from the heads, which may be outside [0, 1]. A uint8 map holds
    255 u and 255 v, rounded and clamped to 0..255, as `write_iuv` stores a float map; a pixel whose u or v is NaN is
    background. Background is 0, 0, 0. No gradients flow.

    Args:
        output: The heads' outputs for N instances; see `dsa_fast.warp_densepose`.
        boxes: Boxes [N, 4]; see `dsa_fast.warp_densepose`.
        size: (height, width) of the photos. Without it, each map has the size of its box, as with detectron2's
            converter; on CUDA this waits for the boxes.
        dtype: ``torch.float32`` or ``torch.uint8``.

    Returns:
        With ``size``, maps of the whole photo, [N, 3, height, width], each with one instance; otherwise a list of N
        maps [3, h, w], one for each box.

    Raises:
        TypeError: An argument is of the wrong type or dtype.
        ValueError: A shape, device or size is wrong.
        RuntimeError: The tensors are on a CUDA device but the CUDA kernels are missing; the message gives the reason.
    """
    if dtype not in (torch.float32, torch.uint8):
        raise TypeError(f"dtype must be torch.float32 or torch.uint8, got {dtype}")
    device = output.coarse_segm.device if isinstance(getattr(output, "coarse_segm", None), Tensor) else None
    heads, corners = _check_charts(output, boxes, device, "the device of output.coarse_segm")
    if size is not None:
        height, width = size
        if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in (height, width)):
            raise ValueError(f"size must be two integers (height, width), not negative, got {tuple(size)}")
        if height * width >= 2**31:
            raise ValueError(f"size must have fewer than 2^31 pixels, got {height} x {width}")
        maps: Tensor = torch.ops.dsa_fast.densepose_iuv(*heads, corners, height, width, dtype)
        return maps
    sizes = (corners[:, 2:] - corners[:, :2]).trunc().clamp(min=1)
    found = []
    for n, (w, h) in enumerate(sizes.tolist()):
        if not math.isfinite(w * h):
            raise ValueError(f"boxes must be finite where no size is given, got {corners[n].tolist()}")
        if w * h >= 2**31:
            raise ValueError(f"boxes must have fewer than 2^31 pixels each, got {corners[n].tolist()}")
        # Move the box to the origin: its size stays the same, and no pixel is outside.
        box = torch.nn.functional.pad(sizes[n : n + 1], (2, 0))
        one = (head[n : n + 1] for head in heads)
        found.append(torch.ops.dsa_fast.densepose_iuv(*one, box, int(h), int(w), dtype)[0])
    return found


def _check_charts(
    output: object, boxes: object, device: torch.device | None, whose: str
) -> tuple[list[Tensor], Tensor]:
    """Checks the heads and the boxes; returns the four heads, of one dtype, and float32 [N, 4]."""
    # To detach takes longer than all checks.
    attached = torch.compiler.is_compiling() or forward_ad._current_level >= 0
    heads: list[Tensor] = []
    mixed = False
    for name in _HEADS:
        head = getattr(output, name, None)
        if not isinstance(head, Tensor):
            raise TypeError(
                f"output must have the tensors coarse_segm, fine_segm, u and v, "
                f"but {type(output).__name__}.{name} is {'missing' if head is None else type(head).__name__}"
            )
        shape, dtype = head.shape, head.dtype
        if dtype not in _HEAD_DTYPES:
            raise TypeError(f"output.{name} must be {_names(_HEAD_DTYPES)}, got {dtype}")
        if head.device != device:
            raise ValueError(f"output.{name} must be on {whose}, {device}, got {head.device}")
        if not heads:
            if len(shape) != 4 or shape[1] not in (2, 15) or shape[2] == 0 or shape[3] == 0:
                raise ValueError(f"output.{name} must have shape [N, 2, h, w] or [N, 15, h, w], got {list(shape)}")
            first, wanted = dtype, (shape[0], PARTS + 1, shape[2], shape[3])
        elif shape != wanted:
            raise ValueError(
                f"output.{name} must have shape [N, 25, h, w] with coarse_segm's N, h and w, "
                f"{list(wanted)}, got {list(shape)}"
            )
        mixed |= dtype != first
        heads.append(head.detach() if attached or head.requires_grad else head)
    if mixed:
        heads = [head.float() for head in heads]
    corners = boxes if isinstance(boxes, Tensor) else getattr(boxes, "tensor", None)
    if not isinstance(corners, Tensor):
        raise TypeError(f"boxes must be a tensor, or an object with a tensor as .tensor, got {type(boxes).__name__}")
    if corners.dtype != torch.float32 and (corners.is_complex() or corners.dtype == torch.bool):
        raise TypeError(f"boxes must hold real numbers, got {corners.dtype}")
    if corners.shape != (wanted[0], 4):
        raise ValueError(f"boxes must have shape [N, 4] with output's N = {wanted[0]}, got {list(corners.shape)}")
    if corners.device != device:
        raise ValueError(f"boxes must be on {whose}, {device}, got {corners.device}")
    if corners.is_cuda:
        _load.require_cuda()
    if attached or corners.requires_grad:
        corners = corners.detach()
    if corners.dtype != torch.float32:
        corners = corners.float()
    return heads, corners.contiguous()


def _check_index(index: Tensor | Sequence[int] | None, img: Tensor, count: int) -> Tensor:
    """Returns the photo of each instance, int64 [N] on img's device."""
    photos = img.shape[0]
    if index is None:
        if photos == 1:
            return torch.zeros(count, dtype=torch.int64, device=img.device)
        if photos == count:
            return torch.arange(count, device=img.device)
        raise ValueError(
            f"image_index must say which of the {photos} photos each of the {count} instances is in: it can be "
            "omitted only if there is one photo, or as many photos as instances"
        )
    if not isinstance(index, Tensor):
        numbers = list(index)
        if not all(isinstance(n, (int, np.integer)) and not isinstance(n, bool) for n in numbers):
            raise TypeError(f"image_index must hold whole numbers, got {sorted({type(n).__name__ for n in numbers})}")
        index = torch.tensor(numbers, dtype=torch.int64, device=img.device)
    if index.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"image_index must be int64 or int32, got {index.dtype}")
    if index.shape != (count,):
        raise ValueError(f"image_index must have shape [N] with output's N = {count}, got {list(index.shape)}")
    device = index.device
    if device != img.device:
        raise ValueError(f"image_index must be on img's device, {img.device}, got {device}")
    # Check values only if that neither waits nor breaks a compiled graph.
    if device.type == "cpu" and count > 0 and not torch.compiler.is_compiling():
        values = index.tolist() if count <= _FEW else [int(x) for x in index.aminmax()]
        low, high = min(values), max(values)
        if low < 0 or high >= photos:
            raise ValueError(f"image_index must be in 0..{photos - 1}, got {low if low < 0 else high}")
    return index.long().contiguous()


def _warp_densepose_fake(
    img: Tensor,
    coarse_segm: Tensor,
    fine_segm: Tensor,
    u: Tensor,
    v: Tensor,
    boxes: Tensor,
    image_index: Tensor,
    size: int,
    fill: Sequence[float],
    reduce: str,
    dtype: torch.dtype,
) -> Tensor:
    return img.new_empty((boxes.shape[0], PARTS, img.shape[1], size, size), dtype=dtype)


def _densepose_iuv_fake(
    coarse_segm: Tensor,
    fine_segm: Tensor,
    u: Tensor,
    v: Tensor,
    boxes: Tensor,
    height: int,
    width: int,
    dtype: torch.dtype,
) -> Tensor:
    return boxes.new_empty((boxes.shape[0], 3, height, width), dtype=dtype)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    img, *charts, image_index, _, _, reduce, _ = inputs
    ctx.save_for_backward(*charts, image_index)
    ctx.img_shape, ctx.img_dtype, ctx.reduce = img.shape, img.dtype, reduce


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Sums the warp's gradients of all instances of a photo, in the order of the instances."""
    *charts, index = ctx.saved_tensors
    photos, _, height, width = ctx.img_shape
    maps = torch.ops.dsa_fast.densepose_iuv(*charts, height, width, torch.float32)
    wide = torch.float64 if ctx.img_dtype == torch.float64 else torch.float32
    grads = torch.ops.dsa_fast.warp_backward(grad, maps, ctx.reduce, wide)
    inside = (index >= 0) & (index < photos)
    grads = torch.where(inside[:, None, None, None], grads, 0)
    total = torch.zeros(ctx.img_shape, dtype=wide, device=grad.device)
    if photos > 0:
        index = torch.where(inside, index, 0)
        # PyTorch has two ways to add. Each is deterministic on only one of the devices.
        total = total.index_put((index,), grads, accumulate=True) if grad.is_cuda else total.index_add(0, index, grads)
    return total.to(ctx.img_dtype), *(None,) * 10


for _name, _fake in (
    ("warp_densepose", _warp_densepose_fake),
    ("warp_densepose_detached", _warp_densepose_fake),
    ("densepose_iuv", _densepose_iuv_fake),
):
    torch.library.register_fake(f"dsa_fast::{_name}", _fake)
torch.library.register_autograd("dsa_fast::warp_densepose", _backward, setup_context=_setup)
