"""dsa_fast.crop_parts against the plain loop, on every device there is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dsa_fast
from dsa_fast.ops.plain_reference import crop_reference, warp_reference
from tests.ops.inputs import DTYPES, IUV_DTYPES, LAYOUTS, assert_equal, make


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("iuv_dtype", IUV_DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equals_reference(device: str, dtype: torch.dtype, iuv_dtype: torch.dtype, mask: bool) -> None:
    img, iuv = make(dtype=dtype, iuv_dtype=iuv_dtype)
    fill = [7.5, -3.0, 300.0]
    got = dsa_fast.crop_parts(img.to(device), iuv.to(device), size=4, fill=fill, mask=mask)
    assert got.dtype == dtype and got.device.type == device and got.is_contiguous()
    assert_equal(got, crop_reference(img, iuv, size=4, fill=fill, mask=mask))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("out", [torch.uint8, torch.bfloat16, torch.float32], ids=str)
def test_any_layout_and_result_dtype(device: str, layout: str, out: torch.dtype) -> None:
    img, iuv = make(dtype=torch.float32)
    move = LAYOUTS[layout]
    got = dsa_fast.crop_parts(move(img.to(device)), move(iuv.to(device)), size=5, fill=0.5, dtype=out)
    assert_equal(got, crop_reference(img, iuv, size=5, fill=0.5, dtype=out))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2), st.integers(0, 3), st.integers(1, 12), st.integers(1, 12), st.integers(1, 9), st.integers())
def test_any_shape(batch: int, channels: int, height: int, width: int, size: int, seed: int) -> None:
    img, iuv = make(batch, channels, height, width, seed=seed % 2**31)
    assert_equal(dsa_fast.crop_parts(img, iuv, size=size, fill=9.0), crop_reference(img, iuv, size=size, fill=9.0))


def test_a_crop_by_hand() -> None:
    img = torch.arange(1, 17, dtype=torch.uint8).view(1, 4, 4)
    iuv = torch.zeros(3, 4, 4, dtype=torch.uint8)
    iuv[0, 1, 1:3] = 5  # 6 7
    iuv[0, 2, 2] = 5  #     11; the box's fourth pixel, 10, is background
    got = dsa_fast.crop_parts(img, iuv, size=4, fill=99.0)
    assert got[4, 0].tolist() == [[6, 6, 7, 7], [6, 6, 7, 7], [99, 99, 11, 11], [99, 99, 11, 11]]
    whole = dsa_fast.crop_parts(img, iuv, size=2, fill=99.0, mask=False)
    assert whole[4, 0].tolist() == [[6, 7], [10, 11]]
    assert (got[torch.arange(24) != 4] == 99).all()


def test_shows_only_colors_that_the_warp_shows_too() -> None:
    """With a size above the box's, a crop shows each pixel of the part, and of others none."""
    img = torch.randperm(256).to(torch.uint8).view(1, 1, 16, 16)
    _, iuv = make(1, 1, 16, 16, seed=3)
    got = dsa_fast.crop_parts(img, iuv, size=64, fill=300.0, dtype=torch.float32)
    for part in range(24):
        own = set(img[0, 0][iuv[0, 0] == part + 1].tolist())
        assert set(got[0, part].unique().tolist()) - {300.0} == own
    touched = warp_reference(img, iuv, size=64)[1].amax(dim=(2, 3)) > 0
    assert ((got != 300).any(dim=4).any(dim=3)[:, :, 0] == touched).all()


def test_is_deterministic_and_independent_of_threads(device: str) -> None:
    img, iuv = (x.to(device) for x in make(8, 3, 64, 32))
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            results.append(dsa_fast.crop_parts(img, iuv, fill=3.0))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(result, results[0]) for result in results)


def test_operator_is_well_formed(device: str) -> None:
    img, iuv = (x.to(device) for x in make())
    torch.library.opcheck(torch.ops.dsa_fast.crop.default, (img, iuv, 4, [1.0] * 3, True, torch.float32))


def test_compiles() -> None:
    img, iuv = make(dtype=torch.float32)
    compiled = torch.compile(lambda a, b: dsa_fast.crop_parts(a, b, size=4) + 1, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(img, iuv), dsa_fast.crop_parts(img, iuv, size=4) + 1)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"size": 0}, ValueError, r"size must be in 1\.\.4096, got 0"),
        ({"size": True}, TypeError, "size must be an int"),
        ({"mask": 1}, TypeError, "mask must be a bool"),
        ({"fill": [1.0]}, ValueError, "one number per channel"),
        ({"dtype": torch.int32}, TypeError, "dtype must be"),
        ({"img": torch.zeros(2, 3, 9, 7, requires_grad=True)}, ValueError, r"img\.detach"),
        ({"iuv": torch.zeros(2, 3, 9, 8, dtype=torch.uint8)}, ValueError, "iuv must have img's"),
    ],
)
def test_bad_input_is_told(change: dict[str, Any], error: type[Exception], message: str) -> None:
    img, iuv = make()
    arguments = {"img": img, "iuv": iuv, **change}
    with pytest.raises(error, match=message):
        dsa_fast.crop_parts(arguments.pop("img"), arguments.pop("iuv"), **arguments)
