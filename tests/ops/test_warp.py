"""dsa_fast.warp against the plain loop, on every device there is."""

from __future__ import annotations

import contextlib
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import dsa_fast
from dsa_fast.ops import _load
from dsa_fast.ops.plain_reference import pixels_of_texels, warp_reference
from tests.cuda import HAS_CUDA, require_cuda
from tests.ops.inputs import (
    DTYPES,
    FLOATS,
    IUV_DTYPES,
    LAYOUTS,
    REDUCTIONS,
    assert_equal,
    make,
    make_img,
)

# ---- values --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("iuv_dtype", IUV_DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equals_reference_for_every_input_dtype(
    device: str, dtype: torch.dtype, iuv_dtype: torch.dtype, reduce: Any
) -> None:
    img, iuv = make(dtype=dtype, iuv_dtype=iuv_dtype)
    fill = [7.5, -3.0, 300.0]
    got, count = dsa_fast.warp(img.to(device), iuv.to(device), size=3, fill=fill, reduce=reduce, return_count=True)
    expected, expected_count = warp_reference(img, iuv, size=3, fill=fill, reduce=reduce)
    assert got.dtype == dtype and got.device.type == device and got.is_contiguous()
    assert_equal(got, expected)
    assert_equal(count, expected_count)
    assert expected_count.max() > 1  # several pixels did compete


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("out", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equals_reference_for_every_output_dtype(
    device: str, dtype: torch.dtype, out: torch.dtype, reduce: Any
) -> None:
    img, iuv = make(dtype=dtype, seed=1)
    if dtype != torch.uint8:
        odd = [
            math.nan,
            math.inf,
            -math.inf,
            -0.0,
            0.5,
            1.5,
            2.5,
            254.5,
            255.5,
            65519.0,
            65520.0,
            1e-7,
            1e-40,
            3e38,
        ]
        img.view(-1)[: len(odd)] = torch.tensor(odd, dtype=torch.float64).to(dtype)
        iuv[0, 0, 0] = torch.arange(1, 8)  # so that they land
    got = dsa_fast.warp(img.to(device), iuv.to(device), size=4, fill=2.5, reduce=reduce, dtype=out)
    assert got.dtype == out
    assert_equal(got, warp_reference(img, iuv, size=4, fill=2.5, reduce=reduce, dtype=out)[0])


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("iuv_layout", LAYOUTS)
@pytest.mark.parametrize("img_layout", LAYOUTS)
def test_any_layout(device: str, img_layout: str, iuv_layout: str, reduce: Any) -> None:
    img, iuv = make(dtype=torch.float32, iuv_dtype=torch.float32, seed=2)
    expected, expected_count = warp_reference(img, iuv, size=4, reduce=reduce)
    img, iuv = LAYOUTS[img_layout](img.to(device)), LAYOUTS[iuv_layout](iuv.to(device))
    got, count = dsa_fast.warp(img, iuv, size=4, reduce=reduce, return_count=True)
    assert_equal(got, expected)
    assert_equal(count, expected_count)


def test_expanded_inputs(device: str) -> None:
    img, iuv = make(batch=1, channels=1, seed=3)
    img, iuv = img.expand(4, 3, -1, -1), iuv.expand(4, -1, -1, -1)
    assert_equal(dsa_fast.warp(img.to(device), iuv.to(device), size=2), warp_reference(img, iuv, size=2)[0])
    wide_img, wide_iuv = img[:, :1].to(device).expand(4, 3, -1, -1), iuv[:1].to(device).expand(4, -1, -1, -1)
    assert_equal(dsa_fast.warp(wide_img, wide_iuv, size=2), warp_reference(img, iuv, size=2)[0])


@pytest.mark.parametrize("apart", ["images", "channels", "rows", "columns"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_strides_beyond_32_bits(device: str, apart: str, dtype: torch.dtype) -> None:
    """Elements more than 2^32 bytes apart, in memory of which little is touched."""
    img, iuv = make(batch=2, channels=2, height=6, width=5, dtype=dtype, seed=4)

    def spread(values: Tensor) -> Tensor:
        places = ("images", "channels", "rows", "columns").index(apart)
        stride = list(values.contiguous().stride())
        stride[places] = 2**32 // (values.shape[places] - 1) // values.dtype.itemsize + 64
        reach = sum((size - 1) * step for size, step in zip(values.shape, stride, strict=True))
        far = torch.empty(reach + 1, dtype=values.dtype, device=device).as_strided(values.shape, stride)
        return far.copy_(values)

    far = spread(img)
    assert 2**32 <= far.untyped_storage().nbytes() < 2**32 + 2**16
    for reduce in REDUCTIONS:
        expected = warp_reference(img, iuv, size=4, reduce=reduce)[0]
        assert_equal(dsa_fast.warp(far, iuv.to(device), size=4, reduce=reduce), expected)
        if dtype == torch.uint8:
            assert_equal(dsa_fast.warp(img.to(device), spread(iuv), size=4, reduce=reduce), expected)


@settings(max_examples=60, deadline=None)
@given(
    extents=st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 12), st.integers(0, 12)),
    size=st.integers(1, 40),
    dtype=st.sampled_from(DTYPES),
    out=st.sampled_from(DTYPES),
    iuv_dtype=st.sampled_from(IUV_DTYPES),
    reduce=st.sampled_from(REDUCTIONS),
    layouts=st.tuples(st.sampled_from(sorted(LAYOUTS)), st.sampled_from(sorted(LAYOUTS))),
    seed=st.integers(0, 2**31),
)
def test_equals_reference_at_random(
    extents: tuple[int, int, int, int],
    size: int,
    dtype: torch.dtype,
    out: torch.dtype,
    iuv_dtype: torch.dtype,
    reduce: Any,
    layouts: tuple[str, str],
    seed: int,
) -> None:
    img, iuv = make(*extents, dtype=dtype, iuv_dtype=iuv_dtype, seed=seed)
    fill = [float(channel) - 0.5 for channel in range(extents[1])]
    expected, expected_count = warp_reference(img, iuv, size=size, fill=fill, reduce=reduce, dtype=out)
    for device in ["cpu", "cuda"] if HAS_CUDA else ["cpu"]:
        got, count = dsa_fast.warp(
            LAYOUTS[layouts[0]](img.to(device)),
            LAYOUTS[layouts[1]](iuv.to(device)),
            size=size,
            fill=fill,
            reduce=reduce,
            dtype=out,
            return_count=True,
        )
        assert_equal(got, expected)
        assert_equal(count, expected_count)


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("extents", [(1, 3, 1, 1), (1, 1, 1, 700), (1, 2, 600, 1), (5, 3, 31, 17)])
@pytest.mark.parametrize("size", [1, 2, 33, 64])
def test_awkward_extents(device: str, extents: tuple[int, int, int, int], size: int, reduce: Any) -> None:
    img, iuv = make(*extents, seed=4)
    got = dsa_fast.warp(img.to(device), iuv.to(device), size=size, reduce=reduce, dtype=torch.float32)
    assert_equal(got, warp_reference(img, iuv, size=size, reduce=reduce, dtype=torch.float32)[0])


def test_last_pixel_in_raster_order_wins(device: str) -> None:
    img = torch.arange(6.0).reshape(1, 1, 2, 3)
    iuv = torch.tensor([9, 128, 128]).view(1, 3, 1, 1).expand(1, 3, 2, 3).to(torch.uint8)
    img, iuv = img.to(device), iuv.to(device)
    got, count = dsa_fast.warp(img, iuv, size=4, fill=-1, return_count=True)
    assert got[0, 8, 0, 2, 2] == 5 and count[0, 8, 2, 2] == 6
    assert (got == -1).sum() == got.numel() - 1
    assert dsa_fast.warp(img, iuv, size=4, reduce="mean")[0, 8, 0, 2, 2] == 2.5
    assert dsa_fast.warp(img, iuv, size=4, reduce="mean", dtype=torch.uint8)[0, 8, 0, 2, 2] == 2  # ties to even
    odd = torch.tensor([3, 4], dtype=torch.uint8, device=device).view(1, 1, 1, 2)
    assert dsa_fast.warp(odd, iuv[:, :, :1, :2], size=4, reduce="mean")[0, 8, 0, 2, 2] == 4


def test_all_pixels_on_one_texel(device: str) -> None:
    generator = torch.Generator().manual_seed(5)
    img = make_img((2, 3, 64, 50), torch.float32, generator)
    iuv = torch.tensor([24, 255, 0], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 64, 50)
    got = dsa_fast.warp(img.to(device), iuv.to(device), size=8, reduce="mean").cpu()
    expected = np.cumsum(img.reshape(2, 3, -1).numpy(), axis=2, dtype=np.float32)[..., -1] / np.float32(64 * 50)
    assert_equal(got[:, 23, :, 7, 0], torch.from_numpy(expected))
    assert dsa_fast.warp(img.to(device), iuv.to(device), size=8, return_count=True)[1].max() == 64 * 50


def test_sums_of_uint8_do_not_overflow(device: str) -> None:
    img = torch.full((1, 1, 1000, 300), 255, dtype=torch.uint8, device=device)
    iuv = torch.ones((1, 3, 1000, 300), dtype=torch.uint8, device=device)
    assert dsa_fast.warp(img, iuv, size=1, reduce="mean")[0, 0, 0, 0, 0] == 255


@pytest.mark.parametrize("size", [1, 2, 7, 32, 255, 256, 300])
def test_every_level_of_u_and_v(device: str, size: int) -> None:
    level = torch.arange(256)
    iuv = torch.stack([torch.ones_like(level), level, 255 - level]).view(1, 3, 256, 1).to(torch.uint8)
    expected = torch.zeros(size, size)
    for u in range(256):
        row, column = min(u * size // 255, size - 1), min((255 - u) * size // 255, size - 1)
        expected[row, column] = u
    got = dsa_fast.warp(level.view(1, 1, 256, 1).float().to(device), iuv.to(device), size=size)
    assert_equal(got[0, 0, 0], expected)


@pytest.mark.parametrize("iuv_dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("u", "row"),
    [
        *((0.0, 0), (-0.0, 0), (0.5, 5), (0.999, 9), (1.0, 9)),
        *((-0.1, 0), (1.2, 9), (-math.inf, 0), (math.inf, 9), (math.nan, None)),
    ],
)
def test_edges_of_real_coordinates(device: str, u: float, row: int | None, iuv_dtype: torch.dtype) -> None:
    img = torch.ones(1, 1, 1, 1, device=device)
    for order in ([3.0, u, 0.25], [3.0, 0.25, u]):
        iuv = torch.tensor(order, device=device).view(1, 3, 1, 1).to(iuv_dtype)
        got = dsa_fast.warp(img, iuv, size=10)
        if row is None:
            assert not got.any()
        else:
            at = (row, 2) if order[1] is u else (2, row)
            assert got[0, 2, 0][at] == 1 and got.sum() == 1


@pytest.mark.parametrize("part", [0.0, -1.0, 0.5, 2.5, 23.999, 24.5, 25.0, 1e30, -1e30, math.nan, math.inf, -math.inf])
def test_a_part_that_is_none_is_background(device: str, part: float) -> None:
    img = torch.ones(1, 1, 1, 1, device=device)
    iuv = torch.tensor([part, 0.5, 0.5], device=device).view(1, 3, 1, 1)
    got, count = dsa_fast.warp(img, iuv, size=4, fill=7, return_count=True)
    assert (got == 7).all() and not count.any()


def test_bytes_above_24_are_background(device: str) -> None:
    img = torch.ones(1, 1, 1, 256, device=device)
    iuv = torch.zeros(1, 3, 1, 256, dtype=torch.uint8, device=device)
    iuv[0, 0, 0] = torch.arange(256)
    assert torch.equal(dsa_fast.warp(img, iuv, size=1)[0, :, 0, 0, 0], torch.ones(24, device=device))


def test_products_are_rounded_in_float32(device: str) -> None:
    # In float32 0.1 * 10 is 1, and 0.7 * 10 just below 7 only in float64.
    img = torch.ones(1, 1, 1, 1, device=device)
    for tenth in range(10):
        u = np.float32(tenth / 10)
        iuv = torch.tensor([1.0, float(u), 0.0], device=device).view(1, 3, 1, 1)
        assert dsa_fast.warp(img, iuv, size=10)[0, 0, 0, int(u * np.float32(10)), 0] == 1


@pytest.mark.parametrize("channels", [1, 64, 65, 200])
def test_many_channels_each_with_its_fill(device: str, channels: int) -> None:
    img, iuv = make(channels=channels, height=3, width=3, dtype=torch.float32, seed=6)
    fill = [channel / 3 for channel in range(channels)]
    got = dsa_fast.warp(img.to(device), iuv.to(device), size=2, fill=fill)
    assert_equal(got, warp_reference(img, iuv, size=2, fill=fill)[0])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("value", [0, 3, True, np.float32(2.5), 0.1, -5.5, 254.5, 1e9, math.nan, math.inf, -math.inf])
def test_fill_is_cast_like_values(device: str, value: float, dtype: torch.dtype) -> None:
    img, iuv = make(batch=1, channels=1, height=1, width=1)
    iuv[:, 0] = 0
    expected = warp_reference(img, iuv, size=1, fill=value, dtype=dtype)[0]
    assert_equal(dsa_fast.warp(img.to(device), iuv.to(device), size=1, fill=value, dtype=dtype), expected)


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_one_image_without_batch(device: str, reduce: Any) -> None:
    img, iuv = make(batch=1, seed=7)
    img, iuv = img.to(device), iuv.to(device)
    batched, batched_count = dsa_fast.warp(img, iuv, size=4, reduce=reduce, return_count=True)
    single, count = dsa_fast.warp(img[0], iuv[0], size=4, reduce=reduce, return_count=True)
    assert single.shape == (24, 3, 4, 4) and count.shape == (24, 4, 4)
    assert torch.equal(single, batched[0]) and torch.equal(count, batched_count[0])
    assert torch.equal(dsa_fast.warp(img[0], iuv[0], size=4, reduce=reduce), single)


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("extents", [(0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4), (2, 3, 4, 0), (0, 0, 0, 0)])
def test_empty_inputs(device: str, extents: tuple[int, int, int, int], reduce: Any) -> None:
    img, iuv = make(*extents, dtype=torch.float32)
    img = img.to(device).requires_grad_()
    got, count = dsa_fast.warp(img, iuv.to(device), size=2, fill=4, reduce=reduce, return_count=True)
    assert got.shape == (extents[0], 24, extents[1], 2, 2) and (got == 4).all()
    assert_equal(count, warp_reference(img.detach().cpu(), iuv, size=2)[1])
    got.sum().backward()
    assert img.grad is not None and img.grad.shape == img.shape


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("batch", [1, 2, 3, 7])
def test_number_of_threads_does_not_matter(batch: int, threads: int) -> None:
    img, iuv = make(batch=batch, height=12, width=13, dtype=torch.float32, seed=8)
    size = 128 if batch < 3 else 32  # threads share a large image
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for reduce in REDUCTIONS:
            got, count = dsa_fast.warp(img, iuv, size=size, reduce=reduce, return_count=True)  # type: ignore[call-overload]
            expected, expected_count = warp_reference(img, iuv, size=size, reduce=reduce)
            assert_equal(got, expected)
            assert_equal(count, expected_count)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_deterministic(device: str, reduce: Any) -> None:
    img, iuv = make(4, 3, 128, 64, dtype=torch.float32, iuv_dtype=torch.float32, seed=9)
    img = img.to(device).requires_grad_()
    iuv = iuv.to(device)
    runs = []
    for _ in range(5):
        out = dsa_fast.warp(img, iuv, size=4, reduce=reduce)
        (grad,) = torch.autograd.grad(out, img, torch.sin(torch.arange(out.numel(), device=device)).view_as(out))
        runs.append((out.detach(), grad))
    for out, grad in runs[1:]:
        assert (out - runs[0][0]).abs().max() == 0.0
        assert (grad - runs[0][1]).abs().max() == 0.0


def test_cuda_equals_cpu() -> None:
    require_cuda()
    for reduce in REDUCTIONS:
        for dtype in DTYPES:
            img, iuv = make(16, 3, 256, 128, dtype=dtype, seed=10)
            on_cpu = dsa_fast.warp(img, iuv, reduce=reduce)  # type: ignore[call-overload]
            on_cuda = dsa_fast.warp(img.cuda(), iuv.cuda(), reduce=reduce)  # type: ignore[call-overload]
            assert torch.equal(on_cpu, on_cuda.cpu())


def test_inputs_are_left_alone(device: str) -> None:
    img, iuv = (x.to(device) for x in make(dtype=torch.float32))
    img_before, iuv_before = img.clone(), iuv.clone()
    dsa_fast.warp(img, iuv, size=4, reduce="mean")
    assert torch.equal(img, img_before) and torch.equal(iuv, iuv_before)


def test_real_maps(real_data: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    paths = sorted((real_data / "iuv").glob("*/*[iI][uU][vV].png"))
    assert paths
    for path in paths:
        check_real_map(image, path)


def check_real_map(image: Any, path: Path) -> None:
    channels = np.array(image.open(path).convert("RGB")).transpose(2, 0, 1)
    if channels[0].max() > 24:  # written B, G, R = I, U, V
        channels = channels[::-1]
    iuv = torch.from_numpy(channels.copy())[None]
    assert 1 <= iuv[0, 0].max() <= 24
    row = torch.arange(iuv.shape[2]).view(-1, 1).expand(iuv.shape[2:])
    column = torch.arange(iuv.shape[3]).expand(iuv.shape[2:])
    img = torch.stack([row, column])[None].float()  # each pixel says where it is from
    got, count = dsa_fast.warp(img, iuv, fill=-1, return_count=True)
    assert count.sum() == (iuv[0, 0] > 0).sum()
    part, texel_row, texel_column = torch.nonzero(count[0], as_tuple=True)
    y, x = got[0, part, :, texel_row, texel_column].long().unbind(1)
    assert torch.equal(iuv[0, 0, y, x].long() - 1, part)
    assert torch.equal((iuv[0, 1, y, x].long() * 32 // 255).clamp(max=31), texel_row)
    assert torch.equal((iuv[0, 2, y, x].long() * 32 // 255).clamp(max=31), texel_column)
    assert (got[0].transpose(0, 1)[:, count[0] == 0] == -1).all()


# ---- gradients -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("out", FLOATS, ids=str)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_gradient_of_every_dtype(device: str, dtype: torch.dtype, out: torch.dtype, reduce: Any) -> None:
    img, iuv = make(dtype=dtype, iuv_dtype=torch.float32, seed=11)
    generator = torch.Generator().manual_seed(12)
    grad = torch.randn(2, 24, 3, 3, 3, generator=generator, dtype=torch.float64).to(out)
    expected = torch.zeros(img.shape, dtype=dtype)
    for b in range(2):
        for (part, row, column), pixels in pixels_of_texels(iuv[b], 3).items():
            value = grad[b, part - 1, :, row, column]
            if reduce == "mean":
                value = (value if out == torch.float64 else value.float()) / len(pixels)
            for y, x in pixels if reduce == "mean" else pixels[-1:]:
                expected[b, :, y, x] = value.to(torch.float32 if out != torch.float64 else out).to(dtype)
    leaf = img.to(device).requires_grad_()
    dsa_fast.warp(leaf, iuv.to(device), size=3, reduce=reduce, dtype=out).backward(grad.to(device))
    assert leaf.grad is not None
    assert_equal(leaf.grad, expected)


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
def test_gradcheck(device: str, layout: str, reduce: Any) -> None:
    img, iuv = make(dtype=torch.float64, height=4, width=5, seed=13)
    iuv = LAYOUTS[layout](iuv.to(device))
    img = LAYOUTS[layout](img.to(device)).requires_grad_()

    def run(x: Tensor) -> Tensor:
        return dsa_fast.warp(x, iuv, size=2, fill=3.0, reduce=reduce)

    assert torch.autograd.gradcheck(run, (img,), fast_mode=False)
    assert torch.autograd.gradgradcheck(run, (img,))


def test_gradient_of_any_layout(device: str) -> None:
    img, iuv = (x.to(device) for x in make(dtype=torch.float32, seed=14))
    for reduce in REDUCTIONS:
        grads = []
        for layout in ("contiguous", "channels_last"):
            leaf = img.clone().requires_grad_()
            out = dsa_fast.warp(leaf, iuv, size=4, reduce=reduce)  # type: ignore[call-overload]
            weight = torch.arange(out.numel(), device=device, dtype=torch.float32).view_as(out)
            if layout == "channels_last":
                weight = weight.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
            grads.append(torch.autograd.grad(out, leaf, weight)[0])
        assert torch.equal(*grads)
        leaf = img.clone().requires_grad_()
        dsa_fast.warp(leaf, iuv, size=4, reduce=reduce).sum().backward()  # type: ignore[call-overload]  # expanded
        assert leaf.grad is not None and leaf.grad.sum() > 0


def test_no_gradient_where_there_is_none(device: str) -> None:
    img, iuv = (x.to(device) for x in make(dtype=torch.float32, iuv_dtype=torch.float32))
    assert not dsa_fast.warp(img, iuv).requires_grad
    assert not dsa_fast.warp(img.requires_grad_(), iuv, dtype=torch.uint8).requires_grad
    with torch.no_grad():
        assert not dsa_fast.warp(img, iuv).requires_grad
    iuv.requires_grad_()
    out, count = dsa_fast.warp(img, iuv, size=4, return_count=True)
    assert not count.requires_grad
    out.sum().backward()
    assert iuv.grad is None


# ---- PyTorch's machinery -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32], ids=str)
def test_opcheck(device: str, dtype: torch.dtype, reduce: str) -> None:
    img, iuv = (x.to(device) for x in make(dtype=dtype))
    if dtype == torch.float32:
        img = img.requires_grad_()
    ops = torch.ops.dsa_fast
    torch.library.opcheck(ops.warp, (img, iuv, 4, [1.0, 2.0, 3.0], reduce, torch.float32))
    torch.library.opcheck(ops.warp_detached, (img.detach(), iuv, 4, [1.0, 2.0, 3.0], reduce, torch.float32))
    torch.library.opcheck(ops.warp_count, (iuv, 4))
    grad = torch.rand(2, 24, 3, 4, 4, device=device, requires_grad=True)
    torch.library.opcheck(ops.warp_backward, (grad, iuv, reduce, torch.float32))


class _Calls(TorchDispatchMode):
    """Notes the names of the operators below autograd."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_python_is_passed_only_for_a_gradient(device: str) -> None:
    img, iuv = (x.to(device) for x in make(dtype=torch.float32, iuv_dtype=torch.float32))
    leaf = img.clone().requires_grad_()

    def called(photo: Tensor) -> list[str]:
        with _Calls() as calls:
            out = dsa_fast.warp(photo, iuv, size=4)
        assert torch.equal(out, dsa_fast.warp(img, iuv, size=4))
        return calls.names

    assert called(leaf) == ["dsa_fast.warp.default"]
    assert called(img) == ["dsa_fast.warp_detached.default"]
    with torch.no_grad():
        assert called(leaf) == ["dsa_fast.warp_detached.default"]
    with torch.inference_mode():
        assert called(img) == ["dsa_fast.warp_detached.default"]


def test_a_graph_keeps_the_gradient(device: str) -> None:
    img, iuv = (x.to(device) for x in make(dtype=torch.float32))

    class Warp(torch.nn.Module):
        def forward(self, img: Tensor, iuv: Tensor) -> Tensor:
            return dsa_fast.warp(img, iuv, size=4)

    for strict in (True, False):
        exported = torch.export.export(Warp(), (img, iuv), strict=strict)
        ops = [str(node.target) for node in exported.graph.nodes if node.op == "call_function"]
        assert ops == ["dsa_fast.warp.default"]
        assert torch.equal(exported.module()(img, iuv), dsa_fast.warp(img, iuv, size=4))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap(device: str) -> None:
    img, iuv = (x.to(device) for x in make(3))
    one_by_one = torch.vmap(lambda photo, labels: dsa_fast.warp(photo, labels, size=4))(img, iuv)
    assert torch.equal(one_by_one, dsa_fast.warp(img, iuv, size=4))


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(device: str, dynamic: bool, reduce: Any) -> None:
    torch._dynamo.reset()

    def run(img: Tensor, iuv: Tensor) -> tuple[Tensor, Tensor]:
        out, count = dsa_fast.warp(img * 2, iuv, size=4, fill=(1, 2, 3), reduce=reduce, return_count=True)
        return out + 1, count

    # "aot_eager" traces and differentiates like the default backend, without the wait for a C++ compiler.
    compiled = torch.compile(run, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for batch in (2, 3):
        img, iuv = (x.to(device) for x in make(batch=batch, dtype=torch.float32, seed=batch))
        eager_leaf, compiled_leaf = img.clone().requires_grad_(), img.clone().requires_grad_()
        eager, got = run(eager_leaf, iuv), compiled(compiled_leaf, iuv)
        assert torch.equal(eager[0], got[0]) and torch.equal(eager[1], got[1])
        eager[0].square().sum().backward()
        got[0].square().sum().backward()
        assert eager_leaf.grad is not None and compiled_leaf.grad is not None
        assert torch.equal(eager_leaf.grad, compiled_leaf.grad)


def test_compile_with_the_default_backend(device: str) -> None:
    torch._dynamo.reset()
    img, iuv = (x.to(device) for x in make(dtype=torch.float32))
    # Nothing but the operator: there is nothing for the backend's own compiler to do, which would take a minute.
    compiled = torch.compile(lambda x: dsa_fast.warp(x, iuv, size=4, reduce="mean"), fullgraph=True)
    leaf, eager_leaf = img.clone().requires_grad_(), img.clone().requires_grad_()
    out, eager = compiled(leaf), dsa_fast.warp(eager_leaf, iuv, size=4, reduce="mean")
    assert torch.equal(out, eager)
    out.backward(torch.full_like(out, 3))
    eager.backward(torch.full_like(out, 3))
    assert leaf.grad is not None and eager_leaf.grad is not None and torch.equal(leaf.grad, eager_leaf.grad)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_autocast_casts_nothing(device: str, dtype: torch.dtype) -> None:
    img, iuv = (x.to(device) for x in make(dtype=dtype))
    with torch.autocast(device, dtype=torch.bfloat16):
        assert dsa_fast.warp(img, iuv, size=4).dtype == dtype
        assert dsa_fast.warp(img, iuv, size=4, dtype=torch.float16).dtype == torch.float16
        leaf = img.clone().requires_grad_()
        out = dsa_fast.warp(leaf, iuv, size=4)
    out.sum().backward()
    assert leaf.grad is not None and leaf.grad.dtype == dtype


def test_meta_tensors_have_the_right_shape() -> None:
    img, iuv = make()
    out, count = dsa_fast.warp(img.to("meta"), iuv.to("meta"), dtype=torch.bfloat16, return_count=True)
    assert out.is_meta and out.shape == (2, 24, 3, 32, 32) and out.dtype == torch.bfloat16
    assert count.is_meta and count.shape == (2, 24, 32, 32) and count.dtype == torch.int32


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_cuda_graph(reduce: Any) -> None:
    require_cuda()
    img, iuv = (x.cuda() for x in make(4, 3, 64, 32, dtype=torch.float32, seed=15))
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        dsa_fast.warp(img, iuv, reduce=reduce, return_count=True)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out, count = dsa_fast.warp(img, iuv, reduce=reduce, return_count=True)
    for seed in (16, 17):
        fresh_img, fresh_iuv = make(4, 3, 64, 32, dtype=torch.float32, seed=seed)
        img.copy_(fresh_img)
        iuv.copy_(fresh_iuv)
        graph.replay()
        expected, expected_count = dsa_fast.warp(fresh_img, fresh_iuv, reduce=reduce, return_count=True)
        assert_equal(out, expected)
        assert_equal(count, expected_count)


FIRST_USE = """
import torch
import dsa_fast
from tests.ops.inputs import assert_equal, make

img, iuv = make(4, 3, 64, 32, seed=18)
photos, maps = img.cuda(), iuv.cuda()
for size in (32, 96):  # a block's table fits without asking for more shared memory, and does not
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = dsa_fast.warp(photos, maps, size=size, reduce="{reduce}", dtype=torch.{dtype})
    graph.replay()
    torch.cuda.synchronize()
    assert_equal(out, dsa_fast.warp(img, iuv, size=size, reduce="{reduce}", dtype=torch.{dtype}))
print("the same bits")
"""


@pytest.mark.parametrize(("reduce", "dtype"), [("last", "bfloat16"), ("mean", "float32"), ("last", "float64")])
def test_cuda_first_use_inside_a_capture(reduce: str, dtype: str) -> None:
    require_cuda()
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", FIRST_USE.format(reduce=reduce, dtype=dtype)]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert run.returncode == 0 and "the same bits" in run.stdout, run.stderr


# Photos of bytes: how blocks share an image depends on their number, on the size and on the channels.
@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("batch", [1, 3, 50, 300])
@pytest.mark.parametrize("size", [2, 8, 30, 31, 32, 64])
def test_cuda_blocks_equal_cpu(batch: int, size: int, reduce: Any) -> None:
    require_cuda()
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.uint8):
        for channels in (3, 1, 5) if batch < 50 else (3,):
            img, iuv = make(batch, channels, 32, 24, seed=batch + size)
            fill = [float(20 * c) + 0.3 for c in range(channels)]
            expected = dsa_fast.warp(img, iuv, size=size, fill=fill, reduce=reduce, dtype=dtype)
            got = dsa_fast.warp(img.cuda(), iuv.cuda(), size=size, fill=fill, reduce=reduce, dtype=dtype)
            assert_equal(got, expected)


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("shape", [(1, 3, 1024, 1024), (130, 3, 256, 128), (2, 3, 4, 4)])
def test_cuda_blocks_of_large_and_small_photos(shape: tuple[int, int, int, int], reduce: Any) -> None:
    require_cuda()
    img, iuv = make(*shape, seed=19)
    for size in (32, 128, 240):
        expected = dsa_fast.warp(img[:4], iuv[:4], size=size, reduce=reduce, dtype=torch.float16)
        got = dsa_fast.warp(img.cuda(), iuv.cuda(), size=size, reduce=reduce, dtype=torch.float16)
        assert_equal(got[:4], expected)


@pytest.mark.parametrize("offset", [1, 2, 4])
def test_cuda_unaligned_planes(offset: int) -> None:
    require_cuda()
    img, iuv = make(2, 3, 16, 12, seed=20)

    def moved(x: Tensor) -> Tensor:
        flat = torch.zeros(x.numel() + offset, dtype=x.dtype, device="cuda")
        flat[offset:] = x.flatten().cuda()
        return flat[offset:].view(x.shape)

    for reduce in ("last", "mean"):
        expected = dsa_fast.warp(img, iuv, reduce=reduce)  # type: ignore[call-overload]
        assert_equal(dsa_fast.warp(moved(img), moved(iuv), reduce=reduce), expected)  # type: ignore[call-overload]


def test_cuda_takes_no_scratch_for_bytes() -> None:
    require_cuda()
    img, iuv = (x.cuda() for x in make(64, 3, 64, 32))
    out = dsa_fast.warp(img, iuv, dtype=torch.bfloat16)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    again = dsa_fast.warp(img, iuv, dtype=torch.bfloat16)
    assert torch.cuda.max_memory_allocated() - before == again.numel() * again.element_size()
    assert torch.equal(out, again)


def test_cuda_does_not_wait() -> None:
    require_cuda()
    img, iuv = (x.cuda() for x in make(dtype=torch.float32, channels=100))
    with contextlib.ExitStack() as stack:
        torch.cuda.set_sync_debug_mode("error")
        stack.callback(torch.cuda.set_sync_debug_mode, "default")
        for reduce in REDUCTIONS:
            dsa_fast.warp(img, iuv, reduce=reduce, fill=range(100), return_count=True)  # type: ignore[call-overload]


def test_cuda_indexes_beyond_32_bits() -> None:
    require_cuda()
    if torch.cuda.mem_get_info()[0] < 12e9:
        pytest.skip("no 12 GB of device memory to spare")
    batch = 2**31 // (24 * 3 * 32 * 32) + 2
    img, iuv = make(1, 3, 8, 8)
    out = dsa_fast.warp(img.cuda().expand(batch, -1, -1, -1), iuv.cuda().expand(batch, -1, -1, -1))
    assert out.numel() > 2**31
    assert_equal(out[-1:], dsa_fast.warp(img, iuv))


# ---- wrong arguments -----------------------------------------------------------------------------------------------

IMG, IUV = make()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"img": np.zeros((2, 3, 9, 7))}, TypeError, "img must be a torch.Tensor, got ndarray"),
        ({"iuv": None}, TypeError, "iuv must be a torch.Tensor, got NoneType"),
        (
            {"img": IMG.int()},
            TypeError,
            "img must be uint8, float16, bfloat16, float32 or float64, got torch.int32",
        ),
        (
            {"iuv": IUV.double()},
            TypeError,
            "iuv must be uint8, float16, bfloat16 or float32, got torch.float64",
        ),
        ({"iuv": IUV.long()}, TypeError, "iuv must be uint8, float16, bfloat16 or float32, got torch.int64"),
        (
            {"img": IMG[None]},
            ValueError,
            "img must have shape [B, C, H, W] or [C, H, W], got [1, 2, 3, 9, 7]",
        ),
        ({"img": IMG[0, 0]}, ValueError, "img must have shape [B, C, H, W] or [C, H, W], got [9, 7]"),
        ({"iuv": IUV[:, :2]}, ValueError, "iuv must have shape [B, 3, H, W], got [2, 2, 9, 7]"),
        ({"iuv": IUV[0]}, ValueError, "iuv must have shape [B, 3, H, W], got [3, 9, 7]"),
        ({"iuv": IUV[None]}, ValueError, "iuv must have shape [B, 3, H, W], got [1, 2, 3, 9, 7]"),
        (
            {"img": IMG[0]},
            ValueError,
            "iuv must have shape [3, H, W] (as img has no batch dimension), got [2, 3, 9, 7]",
        ),
        (
            {"iuv": IUV[..., 1:]},
            ValueError,
            "iuv must have img's B, H and W: img has shape [2, 3, 9, 7], iuv [2, 3, 9, 6]",
        ),
        (
            {"iuv": IUV[:1]},
            ValueError,
            "iuv must have img's B, H and W: img has shape [2, 3, 9, 7], iuv [1, 3, 9, 7]",
        ),
        ({"iuv": IUV.to("meta")}, ValueError, "iuv must be on img's device, cpu, got meta"),
        ({"size": 0}, ValueError, "size must be in 1..4096, got 0"),
        ({"size": -3}, ValueError, "size must be in 1..4096, got -3"),
        ({"size": 5000}, ValueError, "size must be in 1..4096, got 5000"),
        ({"size": 32.0}, TypeError, "size must be an int, got float"),
        ({"size": True}, TypeError, "size must be an int, got bool"),
        ({"reduce": "sum"}, ValueError, "reduce must be 'last' or 'mean', got 'sum'"),
        ({"reduce": None}, ValueError, "reduce must be 'last' or 'mean', got None"),
        (
            {"dtype": torch.int32},
            TypeError,
            "dtype must be uint8, float16, bfloat16, float32 or float64, got torch.int32",
        ),
        ({"fill": [1.0, 2.0]}, ValueError, "fill must hold one number per channel of img, 3, got 2"),
        ({"fill": "black"}, TypeError, "fill must be a number or a sequence of numbers, got str"),
        ({"fill": None}, TypeError, "fill must be a number or a sequence of numbers, got NoneType"),
        ({"fill": torch.zeros(3)}, TypeError, "fill must be a number or a sequence of numbers, got Tensor"),
        ({"fill": [1, 2, "x"]}, TypeError, "fill must hold numbers, got ['int', 'int', 'str']"),
    ],
)
def test_wrong_arguments(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {"img": IMG, "iuv": IUV, **change}
    img, iuv = arguments.pop("img"), arguments.pop("iuv")
    with pytest.raises(error) as caught:
        dsa_fast.warp(img, iuv, **arguments)
    assert str(caught.value) == message


def test_the_operators_themselves_refuse_what_would_read_outside() -> None:
    ops, fill = torch.ops.dsa_fast, [0.0, 0.0, 0.0]
    grad = torch.zeros(2, 24, 3, 4, 4)
    for call in (
        lambda: ops.warp(IMG, IUV, 0, fill, "last", torch.uint8),
        lambda: ops.warp(IMG, IUV, 4, fill[:2], "last", torch.uint8),
        lambda: ops.warp(IMG, IUV[:1], 4, fill, "last", torch.uint8),
        lambda: ops.warp(IMG, IUV[:, :2], 4, fill, "last", torch.uint8),
        lambda: ops.warp(IMG, IUV[..., 1:], 4, fill, "last", torch.uint8),
        lambda: ops.warp(IMG[0], IUV, 4, fill, "last", torch.uint8),
        lambda: ops.warp(IMG, IUV.double(), 4, fill, "last", torch.uint8),
        lambda: ops.warp(IMG.long(), IUV, 4, fill, "last", torch.uint8),
        lambda: ops.warp(IMG, IUV, 4, fill, "last", torch.int64),
        lambda: ops.warp(IMG, IUV, 4, fill, "first", torch.uint8),
        lambda: ops.warp_count(IUV[0], 4),
        lambda: ops.warp_count(IUV, 10**6),
        lambda: ops.warp_backward(grad[:1], IUV, "last", torch.float32),
        lambda: ops.warp_backward(grad[:, 1:], IUV, "last", torch.float32),
        lambda: ops.warp_backward(grad[..., 1:], IUV, "last", torch.float32),
        lambda: ops.warp_backward(grad.byte(), IUV, "last", torch.float32),
        lambda: ops.warp_backward(grad, IUV, "last", torch.uint8),
    ):
        with pytest.raises(RuntimeError):
            call()


def test_missing_cuda_kernels_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_load, "cuda_missing", "dsa_fast was built without CUDA, because of this test")
    with torch._subclasses.FakeTensorMode():
        img = torch.empty(2, 3, 4, 4, device="cuda")
        iuv = torch.empty(2, 3, 4, 4, device="cuda", dtype=torch.uint8)
        with pytest.raises(RuntimeError) as caught:
            dsa_fast.warp(img, iuv)
    assert str(caught.value) == (
        "dsa_fast has no CUDA kernels here: dsa_fast was built without CUDA, because of this test"
    )
