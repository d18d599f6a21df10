"""Warps a photo to the 24 part images of DensePose (section 3.1 of https://arxiv.org/abs/1812.08967)."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch.autograd import forward_ad

from dsa_fast.ops import _load
from dsa_fast.ops.transforms import refuse_transforms

PARTS = 24
MAX_SIZE = 4096
_REDUCTIONS = ("last", "mean")
_DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64)
_IUV_DTYPES = _DTYPES[:4]

# The overloads themselves: looking them up takes PyTorch a few microseconds.
_warp = torch.ops.dsa_fast.warp.default
_warp_detached = torch.ops.dsa_fast.warp_detached.default


@overload
def warp(
    img: Tensor,
    iuv: Tensor,
    *,
    size: int = ...,
    fill: float | Sequence[float] = ...,
    reduce: Literal["last", "mean"] = ...,
    dtype: torch.dtype | None = ...,
    return_count: Literal[False] = ...,
) -> Tensor: ...


@overload
def warp(
    img: Tensor,
    iuv: Tensor,
    *,
    size: int = ...,
    fill: float | Sequence[float] = ...,
    reduce: Literal["last", "mean"] = ...,
    dtype: torch.dtype | None = ...,
    return_count: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def warp(
    img: Tensor,
    iuv: Tensor,
    *,
    size: int = 32,
    fill: float | Sequence[float] = 0.0,
    reduce: Literal["last", "mean"] = "last",
    dtype: torch.dtype | None = None,
    return_count: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Copies each labeled pixel to its place in the image of its body part.

    A pixel of part ``i`` with surface coordinates ``u`` and ``v`` goes to row ``min(floor(u * size), size - 1)`` and
    column ``min(floor(v * size), size - 1)`` of image ``i - 1``, computed in float32 (for a uint8 ``iuv``, where
    ``u = U / 255``, in integers: ``U * size // 255``). ``u`` and ``v`` are clamped to [0, 1]. A pixel with a
    NaN, or with a part that is not an integer in 1..24, is background and is not copied.

    The result is deterministic and the same on CPU and CUDA, bit for bit (except for a NaN's payload). On CUDA the work
    is queued on the current stream without waiting, and can be captured in a CUDA graph. Autocast does not affect
    dtypes. Gradients flow to ``img``.

    Args:
        img: Photos, [B, C, H, W] or [C, H, W]; uint8, float16, bfloat16, float32 or float64. Need not be contiguous.
        iuv: Their DensePose maps, [B, 3, H, W] or [3, H, W], channels I, U, V, on the same device; uint8 as in
            DensePose's files (U and V in 0..255), or float16, bfloat16 or float32 with u and v in [0, 1].
        size: Height and width of a part's image, in 1..4096.
        fill: Value of texels without a pixel: a number, or C numbers, in the units of ``img``.
        reduce: How several pixels on one texel are combined. ``"last"`` keeps the last in raster order (y, then x);
            its gradient goes to that pixel. ``"mean"`` averages in float32 (float64 for a float64 ``img``; uint8 is
            summed as integers); its gradient is shared equally.
        dtype: The result's dtype, one of those allowed for ``img``; by default that of ``img``. Values are cast, not
            rescaled. Casts to uint8 round to nearest even and saturate.
        return_count: Also return the number of pixels on each texel.

    Returns:
        The part images, [B, 24, C, size, size] (without B where ``img`` has none), contiguous; with ``return_count``
        also the counts, int32 [B, 24, size, size].

    Raises:
        TypeError: An argument is of the wrong type or dtype.
        ValueError: A shape, device, size, fill or reduce is wrong.
        RuntimeError: The tensors are on a CUDA device but the CUDA kernels are missing; the message gives the reason.
    """
    batched = _check_tensors(img, iuv)
    dtype, values = _check_options(img, size, fill, reduce, dtype)
    if img.is_cuda:
        _load.require_cuda()
    if not batched:
        img, iuv = img.unsqueeze(0), iuv.unsqueeze(0)
    if not torch.compiler.is_compiling() and forward_ad._current_level >= 0:
        refuse_transforms("warp", img)
    op = _warp_detached if _no_gradient(img, iuv) else _warp
    out: Tensor = op(img, iuv, size, values, reduce, dtype)
    if not return_count:
        return out if batched else out.squeeze(0)
    count: Tensor = torch.ops.dsa_fast.warp_count(iuv, size)
    return (out, count) if batched else (out.squeeze(0), count.squeeze(0))


def _no_gradient(*tensors: Tensor) -> bool:
    """Whether a call can take the operator without a gradient, which PyTorch calls without a stop in Python.

    A traced graph has the operator with the gradient: it may be differentiated later.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
        return False
    for tensor in tensors:
        if tensor.requires_grad:
            return not torch.is_grad_enabled()
    return True


def _check_tensor(name: str, tensor: object, dtypes: Sequence[torch.dtype]) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
    if tensor.dtype not in dtypes:
        raise TypeError(f"{name} must be {_names(dtypes)}, got {tensor.dtype}")


def _check_photos(img: Tensor) -> bool:
    """Checks the photos; returns whether they have a batch dimension."""
    _check_tensor("img", img, _DTYPES)
    if img.dim() not in (3, 4):
        raise ValueError(f"img must have shape [B, C, H, W] or [C, H, W], got {list(img.shape)}")
    return img.dim() == 4


def _check_tensors(img: Tensor, iuv: Tensor) -> bool:
    """Checks the two tensors; returns whether they have a batch dimension."""
    batched = _check_photos(img)
    _check_tensor("iuv", iuv, _IUV_DTYPES)
    of_img, of_iuv = img.shape, iuv.shape
    if len(of_iuv) != len(of_img) or of_iuv[-3] != 3:
        expected = "[B, 3, H, W]" if batched else "[3, H, W] (as img has no batch dimension)"
        raise ValueError(f"iuv must have shape {expected}, got {list(of_iuv)}")
    if of_iuv[-1] != of_img[-1] or of_iuv[-2] != of_img[-2] or (batched and of_iuv[0] != of_img[0]):
        raise ValueError(f"iuv must have img's B, H and W: img has shape {list(of_img)}, iuv {list(of_iuv)}")
    if iuv.device != img.device:
        raise ValueError(f"iuv must be on img's device, {img.device}, got {iuv.device}")
    return batched


def _check_options(
    img: Tensor, size: int, fill: float | Sequence[float], reduce: str, dtype: torch.dtype | None
) -> tuple[torch.dtype, list[float]]:
    """Checks the other arguments; returns the result's dtype and one fill per channel."""
    if isinstance(size, bool) or not isinstance(size, int):
        raise TypeError(f"size must be an int, got {type(size).__name__}")
    if not 1 <= size <= MAX_SIZE:
        raise ValueError(f"size must be in 1..{MAX_SIZE}, got {size}")
    if reduce not in _REDUCTIONS:
        raise ValueError(f"reduce must be 'last' or 'mean', got {reduce!r}")
    if dtype is None:
        dtype = img.dtype
    elif dtype not in _DTYPES:
        raise TypeError(f"dtype must be {_names(_DTYPES)}, got {dtype}")
    return dtype, _fill_values(fill, img.shape[-3])


def _fill_values(fill: float | Sequence[float], channels: int) -> list[float]:
    """One number per channel."""
    if type(fill) is float:
        return [fill] * channels
    if isinstance(fill, Real):
        return [float(fill)] * channels
    if isinstance(fill, (str, bytes)) or not isinstance(fill, Sequence):
        raise TypeError(f"fill must be a number or a sequence of numbers, got {type(fill).__name__}")
    if len(fill) != channels:
        raise ValueError(f"fill must hold one number per channel of img, {channels}, got {len(fill)}")
    if not all(isinstance(value, Real) for value in fill):
        raise TypeError(f"fill must hold numbers, got {[type(value).__name__ for value in fill]}")
    return [float(value) for value in fill]


def _names(dtypes: Sequence[torch.dtype]) -> str:
    names = [str(dtype).removeprefix("torch.") for dtype in dtypes]
    return ", ".join(names[:-1]) + " or " + names[-1]


def _warp_fake(img: Tensor, iuv: Tensor, size: int, fill: Sequence[float], reduce: str, dtype: torch.dtype) -> Tensor:
    return img.new_empty((img.shape[0], PARTS, img.shape[1], size, size), dtype=dtype)


def _warp_count_fake(iuv: Tensor, size: int) -> Tensor:
    return iuv.new_empty((iuv.shape[0], PARTS, size, size), dtype=torch.int32)


def _warp_backward_fake(grad: Tensor, iuv: Tensor, reduce: str, dtype: torch.dtype) -> Tensor:
    return grad.new_empty((iuv.shape[0], grad.shape[2], iuv.shape[2], iuv.shape[3]), dtype=dtype)


# The warp is linear in img (up to the constant fill) and warp_backward is its transpose, so each is the derivative of
# the other, to any order.


def _warp_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    img, iuv, _, _, reduce, _ = inputs
    ctx.save_for_backward(iuv)
    ctx.reduce, ctx.img_dtype = reduce, img.dtype


def _warp_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (iuv,) = ctx.saved_tensors
    grad_img = torch.ops.dsa_fast.warp_backward(grad, iuv, ctx.reduce, ctx.img_dtype)
    return grad_img, None, None, None, None, None


def _warp_backward_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, iuv, reduce, _ = inputs
    ctx.save_for_backward(iuv)
    ctx.reduce, ctx.size, ctx.grad_dtype = reduce, grad.shape[-1], grad.dtype


def _warp_backward_backward(ctx: Any, grad_grad: Tensor) -> tuple[Tensor | None, ...]:
    (iuv,) = ctx.saved_tensors
    zeros = [0.0] * grad_grad.shape[1]
    grad = torch.ops.dsa_fast.warp(grad_grad, iuv, ctx.size, zeros, ctx.reduce, ctx.grad_dtype)
    return grad, None, None, None


for _name, _fake in (
    ("warp", _warp_fake),
    ("warp_detached", _warp_fake),
    ("warp_count", _warp_count_fake),
    ("warp_backward", _warp_backward_fake),
):
    torch.library.register_fake(f"dsa_fast::{_name}", _fake)
torch.library.register_autograd("dsa_fast::warp", _warp_backward, setup_context=_warp_setup)
torch.library.register_autograd("dsa_fast::warp_backward", _warp_backward_backward, setup_context=_warp_backward_setup)
