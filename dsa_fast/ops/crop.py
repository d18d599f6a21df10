"""Crops part images instead of warping them: the "coarsely semantically aligned" variant, CSA.

The paper (section 4.4, table 4 of https://arxiv.org/abs/1812.08967) says only "24 cropped part images (without
alignment within a part region)". Here a part's image is the smallest box around the part's pixels, resized by nearest
neighbor, with only the part's own pixels in it. So a part image shows only its part, as with the warp, but the
pixels are at other positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dsa_fast.ops import _load
from dsa_fast.ops.transforms import refuse_transforms
from dsa_fast.ops.warp import PARTS, _check_options, _check_tensors


def crop_parts(
    img: Tensor,
    iuv: Tensor,
    *,
    size: int = 32,
    fill: float | Sequence[float] = 0.0,
    mask: bool = True,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Cuts each body part out of a photo and resizes it to one size.

    Texel (r, c) of a part's image copies the pixel in row ``(2 r + 1) h // (2 size)`` and column
    ``(2 c + 1) w // (2 size)`` of the part's bounding box, h pixels high and w wide. A part has the same
    pixels as in `dsa_fast.warp`. Fill, casts and determinism are the same too, and CPU and CUDA give the same
    bits. There is no gradient.

    Args:
        img: Photos, [B, C, H, W] or [C, H, W]; uint8, float16, bfloat16, float32 or float64. Need not be contiguous.
        iuv: Their DensePose maps, [B, 3, H, W] or [3, H, W], channels I, U, V, on the same device; as in
            `dsa_fast.warp`.
        size: Height and width of a part's image, in 1..4096.
        fill: Value of all texels without a pixel of the part: a number, or C numbers, in the units of ``img``.
        mask: Copy only the part's own pixels; False copies the whole box.
        dtype: The result's dtype; by default that of ``img``. Values are cast, not rescaled.

    Returns:
        The part images, [B, 24, C, size, size] (without B where ``img`` has none), contiguous.

    Raises:
        TypeError: An argument is of the wrong type or dtype.
        ValueError: A shape, device, size or fill is wrong, or ``img`` requires a gradient.
        NotImplementedError: Called under forward-mode differentiation, or ``torch.func``'s grad, vjp or jacrev.
        RuntimeError: The tensors are on a CUDA device but the CUDA kernels are missing; the message gives the reason.
    """
    batched = _check_tensors(img, iuv)
    refuse_transforms("crop_parts", img)
    dtype, values = _check_options(img, size, fill, "last", dtype)
    if not isinstance(mask, bool):
        raise TypeError(f"mask must be a bool, got {type(mask).__name__}")
    if img.requires_grad and torch.is_grad_enabled():
        raise ValueError("img must not require a gradient, because crop_parts has none: pass img.detach()")
    if img.is_cuda:
        _load.require_cuda()
    if not batched:
        img, iuv = img.unsqueeze(0), iuv.unsqueeze(0)
    out: Tensor = torch.ops.dsa_fast.crop(img, iuv, size, values, mask, dtype)
    return out if batched else out.squeeze(0)


@torch.library.register_fake("dsa_fast::crop")
def _(img: Tensor, iuv: Tensor, size: int, fill: Sequence[float], mask: bool, dtype: torch.dtype) -> Tensor:
    return img.new_empty((img.shape[0], PARTS, img.shape[1], size, size), dtype=dtype)
