"""Random images and maps of every dtype and memory layout, shared by the tests of the operators."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

DTYPES = [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64]


FLOATS = DTYPES[1:]


IUV_DTYPES = DTYPES[:4]


REDUCTIONS = ["last", "mean"]


def make_img(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    if dtype == torch.uint8:
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return (torch.rand(shape, dtype=torch.float64, generator=generator) * 300 - 20).to(dtype)


def make_iuv(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Random maps, half of them foreground; shape is [B, 3, H, W]."""
    batch, _, height, width = shape
    part = torch.randint(1, 25, (batch, 1, height, width), generator=generator)
    part *= torch.rand(part.shape, generator=generator) < 0.5
    top = 255 if dtype == torch.uint8 else 1
    uv = torch.rand((batch, 2, height, width), dtype=torch.float64, generator=generator) * top
    return torch.cat([part.double(), uv.round() if dtype == torch.uint8 else uv], dim=1).to(dtype)


def make(
    batch: int = 2,
    channels: int = 3,
    height: int = 9,
    width: int = 7,
    *,
    dtype: torch.dtype = torch.uint8,
    iuv_dtype: torch.dtype = torch.uint8,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    img = make_img((batch, channels, height, width), dtype, generator)
    return img, make_iuv((batch, 3, height, width), iuv_dtype, generator)


def transposed(x: Tensor) -> Tensor:
    """Equal to x, with its memory in another order."""
    return x.transpose(1, 3).contiguous().transpose(1, 3)


def sliced(x: Tensor) -> Tensor:
    """Equal to x, spread out within a larger tensor."""
    wide = x.new_zeros(x.shape[0], x.shape[1] + 1, 2 * x.shape[2] + 1, 3 * x.shape[3])
    part = wide[:, 1:, 1::2, ::3]
    return part.copy_(x)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": transposed,
    "sliced": sliced,
}


def assert_equal(got: Tensor, expected: Tensor) -> None:
    """The same shape, dtype and bits."""
    torch.testing.assert_close(got.cpu(), expected, rtol=0, atol=0, equal_nan=True)
