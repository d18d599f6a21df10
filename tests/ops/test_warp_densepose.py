"""dsa_fast.warp_densepose and densepose.to_iuv against PyTorch's own interpolation, the warp, and detectron2."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import dsa_fast
from dsa_fast.densepose import to_iuv
from dsa_fast.ops.plain_reference import to_iuv_reference
from tests.cuda import HAS_CUDA, NEEDS_CUDA, require_cuda
from tests.ops.inputs import FLOATS, LAYOUTS, REDUCTIONS, assert_equal

HEAD_DTYPES = [torch.float16, torch.bfloat16, torch.float32]
PHOTO = (60, 50)
# Boxes of one pixel, outside of the photo, between pixels, negative, inverted, over and far beyond the photo.
BOXES = [
    [0.0, 0.0, 50.0, 60.0],
    [7.0, 5.0, 8.0, 6.0],
    [10.9, 20.2, 31.1, 44.6],
    [-7.9, -3.2, 20.5, 30.9],
    [30.0, 40.0, 90.3, 140.8],
    [20.0, 20.0, 10.0, 5.0],
    [60.0, 10.0, 80.0, 30.0],
    [-40.0, -40.0, -5.0, -5.0],
    [0.3, 0.3, 0.4, 0.4],
    [-300.0, -200.0, 400.0, 500.0],
    [49.9, 59.9, 51.0, 61.0],
]


@dataclass
class Output:
    """The heads' outputs, as DensePose's predictor has them."""

    coarse_segm: Tensor
    fine_segm: Tensor
    u: Tensor
    v: Tensor

    def map(self, change: Any) -> Output:
        return Output(*(change(head) for head in (self.coarse_segm, self.fine_segm, self.u, self.v)))

    def heads(self, n: int) -> Iterator[Tensor]:
        return (head[n : n + 1] for head in (self.coarse_segm, self.fine_segm, self.u, self.v))


@pytest.fixture(params=["cpu", "cuda"] if HAS_CUDA or NEEDS_CUDA else ["cpu"])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda":
        require_cuda()
    return str(request.param)


def make(count: int, *, coarse: int = 2, h: int = 14, w: int = 14, seed: int = 0, dtype: Any = torch.float32) -> Output:
    generator = torch.Generator().manual_seed(seed)

    def smooth(channels: int) -> Tensor:
        shape = (count, channels, max(2, h // 4), max(2, w // 4))
        # A batch of none cannot be interpolated.
        noise = torch.randn(max(1, count), *shape[1:], generator=generator)
        return torch.nn.functional.interpolate(noise, (h, w), mode="bicubic")[:count]

    return Output(3 * smooth(coarse), 3 * smooth(25), 0.4 * smooth(25) + 0.5, 0.4 * smooth(25) + 0.5).map(
        lambda head: head.to(dtype)
    )


def reference(output: Output, boxes: Tensor, size: tuple[int, int] = PHOTO) -> Tensor:
    return torch.stack([to_iuv_reference(*output.heads(n), box, size) for n, box in enumerate(boxes)])


def texels(iuv: Tensor, size: int = 32) -> Tensor:
    """Each pixel's part, row and column, [N, 3, H, W]."""
    place = (iuv[:, 1:].clamp(0, 1) * size).floor().clamp(max=size - 1)
    return torch.cat([iuv[:, :1], place * (iuv[:, :1] > 0)], dim=1)


def photos(count: int, dtype: torch.dtype = torch.uint8, size: tuple[int, int] = PHOTO, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, *size), generator=generator).to(dtype)


# ---- values --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", HEAD_DTYPES, ids=str)
@pytest.mark.parametrize("coarse", [2, 15])
@pytest.mark.parametrize(("h", "w"), [(14, 14), (1, 1), (33, 9), (50, 60)])
def test_equals_interpolate(device: str, h: int, w: int, coarse: int, dtype: torch.dtype) -> None:
    boxes = torch.tensor(BOXES)
    output = make(len(BOXES), coarse=coarse, h=h, w=w, dtype=dtype)
    got = to_iuv(output.map(lambda head: head.to(device)), boxes.to(device), PHOTO).cpu()
    expected = reference(output, boxes)
    assert got.dtype == torch.float32 and got.shape == (len(BOXES), 3, *PHOTO)
    assert (expected[:, 0] > 0).any()
    # PyTorch rounds differently on different processors, so that a rare pixel may be another's.
    assert (got[:, 0] != expected[:, 0]).sum() <= 2
    same = (got[:, :1] == expected[:, :1]).expand_as(got)
    torch.testing.assert_close(got[same], expected[same], rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"), reason="PyTorch has no fma here")
@pytest.mark.parametrize("coarse", [2, 15])
def test_has_the_bits_of_interpolate_on_large_boxes(device: str, coarse: int) -> None:
    size = (300, 200)
    boxes = torch.tensor([[0.0, 0, 200, 300], [-30.5, 10, 100.5, 320], [20, 20, 70.9, 99.2], [60, 3, 172, 290]])
    output = make(4, coarse=coarse, h=112, w=112)
    got = to_iuv(output.map(lambda head: head.to(device)), boxes.to(device), size)
    expected = reference(output, boxes, size)
    if torch.torch_version.TorchVersion(torch.__version__) >= (2, 15):
        assert_equal(got, expected)
    else:  # older versions round a source index once, not after each of its two operations
        assert torch.equal(got[:, 0].cpu(), expected[:, 0])
        torch.testing.assert_close(got.cpu(), expected, rtol=0, atol=4e-6)


def test_labels_of_noise_equal_those_of_interpolate(device: str) -> None:
    # Scores without any smoothness have the most near ties.
    generator = torch.Generator().manual_seed(3)
    output = Output(*(torch.randn(6, c, 112, 112, generator=generator) for c in (15, 25, 25, 25)))
    boxes = torch.tensor([[0, 0, 50.0, 60], [0, 0, 200, 300]]).repeat(3, 1)
    got = to_iuv(output.map(lambda head: head.to(device)), boxes.to(device), (300, 200)).cpu()
    expected = reference(output, boxes, (300, 200))
    assert (texels(got) != texels(expected)).any(1).sum() <= 2


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("dtype", [torch.uint8, *FLOATS], ids=str)
def test_equals_warp_of_the_maps(device: str, dtype: torch.dtype, reduce: Any) -> None:
    boxes = torch.tensor(BOXES).to(device)
    output = make(len(BOXES), seed=2).map(lambda head: head.to(device))
    index = torch.arange(len(BOXES), device=device) % 3
    img = photos(3, dtype).to(device)
    maps = to_iuv(output, boxes, PHOTO)
    for out in (None, torch.float32):
        options: dict[str, Any] = {"size": 5, "fill": [1, -2.5, 300], "reduce": reduce, "dtype": out}
        got = dsa_fast.warp_densepose(img, output, boxes, index, **options)
        assert got.is_contiguous() and got.device.type == device
        assert_equal(got, dsa_fast.warp(img[index], maps, **options).cpu())
    assert (got[0] != torch.tensor([1, -2.5, 300], device=device).view(3, 1, 1)).any()


@settings(max_examples=60, deadline=None)
@given(
    head=st.tuples(st.integers(1, 20), st.integers(1, 20), st.sampled_from([2, 15])),
    size=st.tuples(st.integers(0, 40), st.integers(0, 90)),
    boxes=st.lists(
        st.lists(
            st.one_of(st.floats(-100, 150, width=32), st.sampled_from([math.nan, math.inf, -math.inf, 1e30])),
            min_size=4,
            max_size=4,
        ),
        max_size=5,
    ),
    dtype=st.sampled_from(HEAD_DTYPES),
    layout=st.sampled_from(sorted(LAYOUTS)),
    reduce=st.sampled_from(REDUCTIONS),
    texel_size=st.integers(1, 40),
    seed=st.integers(0, 2**31),
)
def test_equals_warp_of_the_maps_at_random(
    head: tuple[int, int, int],
    size: tuple[int, int],
    boxes: list[list[float]],
    dtype: torch.dtype,
    layout: str,
    reduce: Any,
    texel_size: int,
    seed: int,
) -> None:
    output = make(len(boxes), h=head[0], w=head[1], coarse=head[2], dtype=dtype, seed=seed)
    places = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
    index = torch.arange(len(boxes)) % 2
    img = photos(2, torch.float32, size, seed)
    for device in ["cpu", "cuda"] if HAS_CUDA else ["cpu"]:
        laid_out = output.map(lambda x: LAYOUTS[layout](x.to(device)))  # noqa: B023
        maps = to_iuv(laid_out, places.to(device), size)
        assert_equal(maps, to_iuv(output, places, size))
        got = dsa_fast.warp_densepose(
            LAYOUTS[layout](img.to(device)), laid_out, places.to(device), index.to(device), size=texel_size,
            reduce=reduce,
        )  # fmt: skip
        assert_equal(got, dsa_fast.warp(img[index], maps.cpu(), size=texel_size, reduce=reduce))


def uniform_output(coarse: list[float], fine: dict[int, float], u: float = 0.5, v: float = 0.5) -> Output:
    """One instance whose heads are the same everywhere."""
    scores = torch.zeros(25)
    for channel, score in fine.items():
        scores[channel] = score
    flat = Output(torch.tensor(coarse), scores, torch.full((25,), u), torch.full((25,), v))
    return flat.map(lambda head: head.view(1, -1, 1, 1).expand(1, -1, 3, 3))


@pytest.mark.parametrize(
    ("coarse", "fine", "part"),
    [
        ([0.0, 1.0], {7: 1.0}, 7),
        ([1.0, 0.0], {7: 1.0}, 0),
        ([1.0, 1.0], {7: 1.0}, 0),  # a tie is background's
        ([0.0, 1.0], {}, 0),  # as it is among the parts
        ([0.0, 1.0], {9: 2.0, 4: 2.0, 20: 2.0}, 4),  # the first of equal parts
        ([0.0, 1.0], {0: -1.0}, 1),
        ([0.0] * 14 + [1.0], {24: 1.0}, 24),
        ([0.5, 0.1, 0.6] + [0.0] * 12, {24: 1.0}, 24),
        ([0.0, math.nan], {3: 1.0}, 3),  # NaN is the highest
        ([math.nan, 1.0], {3: 1.0}, 0),
        ([math.nan, math.nan], {3: 1.0}, 0),
        ([0.0, 1.0], {3: 1.0, 5: math.nan, 8: math.nan}, 5),
        ([0.0, 1.0], {0: math.nan, 5: 1.0}, 0),
    ],
)
def test_ties_and_nan(device: str, coarse: list[float], fine: dict[int, float], part: int) -> None:
    output = uniform_output(coarse, fine)
    boxes = torch.tensor([[0.0, 0, 5, 4]])
    got = to_iuv(output.map(lambda head: head.to(device)), boxes.to(device), (4, 5)).cpu()
    assert (got[0, 0] == part).all()
    assert torch.equal(got, reference(output, boxes, (4, 5)))


def test_u_and_v_are_not_cut(device: str) -> None:
    output = uniform_output([0.0, 1.0], {2: 1.0}, u=-0.25, v=1.5).map(lambda head: head.to(device))
    boxes = torch.tensor([[0.0, 0, 2, 2]], device=device)
    assert to_iuv(output, boxes, (2, 2))[0, :, 0, 0].tolist() == [2, -0.25, 1.5]
    assert to_iuv(output, boxes, (2, 2), dtype=torch.uint8)[0, :, 0, 0].tolist() == [2, 0, 255]
    got = dsa_fast.warp_densepose(torch.ones(1, 2, 2, device=device), output, boxes, size=4)
    assert got[0, 1, 0, 0, 3] == 1 and got.sum() == 1


@pytest.mark.parametrize(("u", "expected"), [(0.9999, 255), (0.9975, 254), (0.5, 128), (0.5 / 255, 0), (1.5 / 255, 2)])
def test_bytes_are_rounded(device: str, u: float, expected: int) -> None:
    output = uniform_output([0.0, 1.0], {2: 1.0}, u=u, v=1 - u).map(lambda head: head.to(device))
    boxes = torch.tensor([[0.0, 0, 1, 1]], device=device)
    got = to_iuv(output, boxes, (1, 1), dtype=torch.uint8)
    assert got.dtype == torch.uint8 and got[0, :2, 0, 0].tolist() == [2, expected]
    exact = to_iuv(output, boxes, (1, 1))
    assert torch.equal(got[:, 1:], (exact[:, 1:] * 255).round().byte())  # as write_iuv has it


def test_nan_coordinates_are_background(device: str) -> None:
    boxes = torch.tensor([[0.0, 0, 2, 2]], device=device)
    for change in ({"u": math.nan}, {"v": math.nan}):
        output = uniform_output([0.0, 1.0], {2: 1.0}, **change).map(lambda head: head.to(device))
        assert not dsa_fast.warp_densepose(torch.ones(1, 2, 2, device=device), output, boxes).any()
        assert not to_iuv(output, boxes, (2, 2), dtype=torch.uint8).any()
        assert to_iuv(output, boxes, (2, 2))[0, 0, 0, 0] == 2


def test_maps_of_boxes(device: str) -> None:
    boxes = torch.tensor([[0.0, 0, 50, 60], [10.9, 20.2, 31.1, 44.6], [3, 3, 2, 2]])
    output = make(3, seed=4)
    found = to_iuv(output.map(lambda head: head.to(device)), boxes.to(device))
    assert [tuple(one.shape) for one in found] == [(3, 60, 50), (3, 24, 20), (3, 1, 1)]
    whole = to_iuv(output, boxes, PHOTO)
    assert_equal(found[0], whole[0])
    assert_equal(found[1], whole[1, :, 20:44, 10:30])
    assert_equal(found[2], whole[2, :, 3:4, 3:4])
    as_bytes = to_iuv(output.map(lambda head: head.to(device)), boxes.to(device), dtype=torch.uint8)
    assert_equal(as_bytes[1], to_iuv(output, boxes, PHOTO, dtype=torch.uint8)[1, :, 20:44, 10:30])


@dataclass
class Boxes:
    tensor: Tensor


def test_boxes_of_any_kind(device: str) -> None:
    output = make(len(BOXES), seed=5).map(lambda head: head.to(device))
    img = photos(1).to(device)
    boxes = torch.tensor(BOXES, device=device)
    expected = dsa_fast.warp_densepose(img, output, boxes)
    for other in (Boxes(boxes), boxes.double(), boxes.t().contiguous().t(), torch.stack([boxes, boxes], 1)[:, 0]):
        assert torch.equal(dsa_fast.warp_densepose(img, output, other), expected)
    whole = torch.tensor([[2, 3, 40, 50]] * len(BOXES), device=device)
    assert torch.equal(dsa_fast.warp_densepose(img, output, whole), dsa_fast.warp_densepose(img, output, whole.float()))


def test_heads_of_several_dtypes_and_layouts(device: str) -> None:
    boxes = torch.tensor(BOXES, device=device)
    img = photos(1).to(device)
    output = make(len(BOXES), seed=6, dtype=torch.bfloat16).map(lambda head: head.to(device))
    expected = dsa_fast.warp_densepose(img, output.map(lambda head: head.float()), boxes)
    assert torch.equal(dsa_fast.warp_densepose(img, output, boxes), expected)
    assert torch.equal(dsa_fast.warp_densepose(img, replace(output, u=output.u.float()), boxes), expected)
    for layout in LAYOUTS.values():
        assert torch.equal(dsa_fast.warp_densepose(layout(img), output.map(layout), boxes), expected)


def test_which_photo(device: str) -> None:
    output = make(3, seed=7).map(lambda head: head.to(device))
    boxes = torch.tensor([[0.0, 0, 50, 60]] * 3, device=device)
    img = photos(3).to(device)
    each = dsa_fast.warp_densepose(img, output, boxes)
    assert torch.equal(each, dsa_fast.warp_densepose(img, output, boxes, torch.arange(3, device=device)))
    first = dsa_fast.warp_densepose(img[:1], output, boxes)
    assert torch.equal(first, dsa_fast.warp_densepose(img[0], output, boxes))
    assert torch.equal(first, dsa_fast.warp_densepose(img, output, boxes, [0, 0, 0]))
    turned = dsa_fast.warp_densepose(img, output, boxes, torch.tensor([2, 2, 1], dtype=torch.int32, device=device))
    assert torch.equal(turned, dsa_fast.warp(img[[2, 2, 1]], to_iuv(output, boxes, PHOTO)))


@pytest.mark.parametrize("photo_count", [0, 1, 2])
def test_no_instances(device: str, photo_count: int) -> None:
    output = make(0).map(lambda head: head.to(device))
    boxes = torch.zeros(0, 4, device=device)
    img = photos(photo_count, torch.float32).to(device).requires_grad_()
    got = dsa_fast.warp_densepose(img, output, boxes, [])
    assert got.shape == (0, 24, 3, 32, 32)
    got.sum().backward()
    assert img.grad is not None and not img.grad.any()
    assert to_iuv(output, boxes, (5, 4)).shape == (0, 3, 5, 4) and to_iuv(output, boxes) == []


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_number_of_threads_does_not_matter(threads: int) -> None:
    boxes = torch.tensor([BOXES[0], BOXES[3], BOXES[9]])
    output = make(3, seed=8)
    img = photos(3, torch.float32)
    expected = {reduce: dsa_fast.warp(img, to_iuv(output, boxes, PHOTO), reduce=reduce) for reduce in REDUCTIONS}  # type: ignore[call-overload]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for reduce in REDUCTIONS:
            for count in (1, 2, 3):
                part = output.map(lambda head: head[:count])  # noqa: B023
                got = dsa_fast.warp_densepose(img[:count], part, boxes[:count], reduce=reduce)  # type: ignore[arg-type]
                assert_equal(got, expected[reduce][:count])
    finally:
        torch.set_num_threads(before)


def test_detectron2() -> None:
    structures = pytest.importorskip("densepose.structures", exc_type=ImportError)
    convert = pytest.importorskip("densepose.converters").ToChartResultConverter.convert
    boxes_type = pytest.importorskip("detectron2.structures").Boxes
    places = [*BOXES, [0.0, 0, 128, 256], [-20.5, 10.2, 130.9, 400.1]]
    for coarse in (2, 15):
        heads = make(len(places), coarse=coarse, h=112, w=112)
        output = structures.DensePoseChartPredictorOutput(heads.coarse_segm, heads.fine_segm, heads.u, heads.v)
        boxes = boxes_type(torch.tensor(places))
        found = to_iuv(output, boxes)
        for n, one in enumerate(found):
            result = convert(output[n], boxes[n])
            assert one.shape[1:] == result.labels.shape
            expected = torch.cat([result.labels[None].float(), result.uv])
            assert (texels(one[None]) != texels(expected[None])).any(1).sum() <= 1
            torch.testing.assert_close(one, expected, rtol=1e-5, atol=1e-6)


# ---- gradients -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_gradient(device: str, dtype: torch.dtype, reduce: Any) -> None:
    boxes = torch.tensor(BOXES[:5], device=device)
    output = make(5, seed=9).map(lambda head: head.to(device).requires_grad_())
    generator = torch.Generator().manual_seed(10)
    grad = torch.randn(5, 24, 3, 4, 4, generator=generator).to(device)
    img = photos(2, dtype).to(device).requires_grad_()
    index = [1, 0, 1, 1, 0]
    got = dsa_fast.warp_densepose(img, output, boxes, index, size=4, reduce=reduce, dtype=torch.float32)
    got.backward(grad)
    maps = to_iuv(output, boxes, PHOTO)
    assert not maps.requires_grad and output.u.grad is None
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    expected = torch.zeros(img.shape, dtype=wide)
    for n, image in enumerate(index):  # in the order of the instances
        leaf = img.detach()[image].to(wide).requires_grad_()
        dsa_fast.warp(leaf, maps[n], size=4, reduce=reduce, dtype=torch.float32).backward(grad[n])
        assert leaf.grad is not None
        expected[image] += leaf.grad.cpu()
    assert img.grad is not None and img.grad.dtype == dtype
    assert_equal(img.grad, expected.to(dtype))


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_gradcheck(device: str, reduce: Any) -> None:
    output = make(3, seed=11, h=4, w=4).map(lambda head: head.to(device))
    boxes = torch.tensor([[0.0, 0, 4, 5], [-1, 1, 3, 4], [2, 2, 9, 9]], device=device)
    img = photos(2, torch.float64, (5, 4)).to(device).requires_grad_()

    def run(x: Tensor) -> Tensor:
        return dsa_fast.warp_densepose(x, output, boxes, [1, 0, 1], size=1, fill=3.0, reduce=reduce)

    assert torch.autograd.gradcheck(run, (img,), fast_mode=False)
    assert torch.autograd.gradgradcheck(run, (img,))


def test_gradient_is_deterministic(device: str) -> None:
    output = make(8, seed=12).map(lambda head: head.to(device))
    boxes = torch.tensor([[0.0, 0, 50, 60]] * 8, device=device)
    img = photos(2, torch.float32).to(device).requires_grad_()
    weight = torch.sin(torch.arange(8 * 24 * 3 * 16.0, device=device)).view(8, 24, 3, 4, 4)
    grads = []
    for _ in range(5):
        out = dsa_fast.warp_densepose(img, output, boxes, [0, 1, 0, 0, 1, 0, 0, 1], size=4, reduce="mean")
        grads.append(torch.autograd.grad(out, img, weight)[0])
    assert all((grad - grads[0]).abs().max() == 0.0 for grad in grads[1:])


# ---- PyTorch's machinery -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_opcheck(device: str, reduce: str) -> None:
    output = make(3, seed=13).map(lambda head: head.to(device))
    boxes = torch.tensor(BOXES[:3], device=device)
    index = torch.tensor([1, 0, 1], device=device)
    heads = (output.coarse_segm, output.fine_segm, output.u, output.v)
    img = photos(2, torch.float32).to(device).requires_grad_()
    ops = torch.ops.dsa_fast
    torch.library.opcheck(ops.warp_densepose, (img, *heads, boxes, index, 4, [1.0, 2.0, 3.0], reduce, torch.float32))
    arguments = (img.detach(), *heads, boxes, index, 4, [1.0, 2.0, 3.0], reduce, torch.float32)
    torch.library.opcheck(ops.warp_densepose_detached, arguments)
    torch.library.opcheck(ops.densepose_iuv, (*heads, boxes, *PHOTO, torch.float32))
    torch.library.opcheck(ops.densepose_iuv, (*heads, boxes, *PHOTO, torch.uint8))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(device: str, dynamic: bool) -> None:
    torch._dynamo.reset()

    def run(img: Tensor, output: Output, boxes: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        out = dsa_fast.warp_densepose(img * 2, output, boxes, index, size=4, fill=(1, 2, 3))
        return out + 1, to_iuv(output, boxes, PHOTO)  # type: ignore[return-value]

    compiled = torch.compile(run, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for count in (2, 3):
        output = make(count, seed=count).map(lambda head: head.to(device))
        boxes = torch.tensor(BOXES[:count], device=device)
        index = torch.arange(count, device=device) % 2
        img = photos(2, torch.float32).to(device)
        eager_leaf, compiled_leaf = img.clone().requires_grad_(), img.clone().requires_grad_()
        eager, got = run(eager_leaf, output, boxes, index), compiled(compiled_leaf, output, boxes, index)
        assert torch.equal(eager[0], got[0]) and torch.equal(eager[1], got[1])
        eager[0].square().sum().backward()
        got[0].square().sum().backward()
        assert eager_leaf.grad is not None and compiled_leaf.grad is not None
        assert torch.equal(eager_leaf.grad, compiled_leaf.grad)


def test_cuda_equals_cpu() -> None:
    require_cuda()
    output = make(8, h=112, w=112, seed=14)
    boxes = torch.tensor([[0.0, 0, 128, 256], [-30.5, 10, 100.5, 320]]).repeat(4, 1)
    for dtype in HEAD_DTYPES:
        heads = output.map(lambda head: head.to(dtype))  # noqa: B023
        on_cuda = heads.map(lambda head: head.cuda())
        assert_equal(to_iuv(on_cuda, boxes.cuda(), (256, 128)), to_iuv(heads, boxes, (256, 128)))
        for reduce in REDUCTIONS:
            img = photos(8, torch.float32, (256, 128))
            got = dsa_fast.warp_densepose(img.cuda(), on_cuda, boxes.cuda(), reduce=reduce)  # type: ignore[arg-type]
            assert_equal(got, dsa_fast.warp_densepose(img, heads, boxes, reduce=reduce))  # type: ignore[arg-type]


@pytest.mark.parametrize("coarse", [2, 15])
@pytest.mark.parametrize("dtype", HEAD_DTYPES, ids=str)
def test_cuda_equals_cpu_for_bytes(dtype: torch.dtype, coarse: int) -> None:
    require_cuda()
    heads = make(6, coarse=coarse, h=56, w=56, seed=21, dtype=dtype)
    boxes = torch.tensor([[0.0, 0, 128, 256], [-30.5, 10, 100.5, 320], [40, 30, 60, 50]]).repeat(2, 1)
    img, index = photos(3, torch.uint8, (256, 128)), torch.tensor([0, 1, 2, 2, 1, 0])
    for size in (30, 31, 32):
        for out in (torch.uint8, torch.float16, torch.bfloat16, torch.float32):
            expected = dsa_fast.warp_densepose(img, heads, boxes, index, size=size, fill=7.5, dtype=out)
            on_cuda = heads.map(lambda head: head.cuda())
            got = dsa_fast.warp_densepose(
                img.cuda(), on_cuda, boxes.cuda(), index.cuda(), size=size, fill=7.5, dtype=out
            )
            assert_equal(got, expected)


def test_cuda_does_not_wait() -> None:
    require_cuda()
    output = make(3, seed=15).map(lambda head: head.cuda())
    boxes, img = torch.tensor(BOXES[:3]).cuda(), photos(1, torch.float32).cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for reduce in REDUCTIONS:
            dsa_fast.warp_densepose(img, output, boxes, reduce=reduce)  # type: ignore[arg-type]
        to_iuv(output, boxes, PHOTO)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8], ids=str)
@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_cuda_graph(reduce: Any, dtype: torch.dtype) -> None:
    require_cuda()
    output = make(3, seed=16).map(lambda head: head.cuda())
    boxes, img = torch.tensor(BOXES[:3]).cuda(), photos(3, dtype).cuda()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        dsa_fast.warp_densepose(img, output, boxes, reduce=reduce)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = dsa_fast.warp_densepose(img, output, boxes, reduce=reduce)
    for shift in (3.0, 9.0):
        boxes.copy_(torch.tensor(BOXES[:3]) + shift)
        graph.replay()
        assert torch.equal(got, dsa_fast.warp_densepose(img, output, boxes, reduce=reduce))


@pytest.mark.parametrize("people", [1, 8, 40, 200])  # threads of a few walk fewer rows
def test_cuda_of_bytes_on_several_streams(people: int) -> None:
    require_cuda()
    heads, img = make(people, h=20, w=16, seed=22), photos(1, torch.uint8, (256, 128))
    places = [torch.tensor([[0.0, 0, 128, 256]]).repeat(people, 1) - 8 * k for k in range(4)]
    expected = [dsa_fast.warp_densepose(img, heads, boxes) for boxes in places]
    on_cuda, photo = heads.map(lambda head: head.cuda()), img.cuda()
    there = [boxes.cuda() for boxes in places]
    streams = [torch.cuda.Stream() for _ in places]
    torch.cuda.synchronize()
    for _ in range(5):
        got = []
        for boxes, stream in zip(there, streams, strict=True):
            with torch.cuda.stream(stream):
                got.append(dsa_fast.warp_densepose(photo, on_cuda, boxes))
        torch.cuda.synchronize()
        for one, wanted in zip(got, expected, strict=True):
            assert_equal(one, wanted)


# ---- wrong arguments -----------------------------------------------------------------------------------------------

IMG, OUTPUT, PLACES = photos(2), make(3), torch.tensor(BOXES[:3])


@pytest.mark.parametrize("count", [2, 1000])  # Python compares a few itself
@pytest.mark.parametrize("wrong", [-1, 2])
def test_a_wrong_index_is_found(count: int, wrong: int) -> None:
    output, boxes = make(1, h=2, w=2).map(lambda head: head.expand(count, -1, -1, -1)), torch.zeros(count, 4)
    index = torch.arange(count) % 2
    dsa_fast.warp_densepose(IMG, output, boxes, index, size=1)
    index[-1] = wrong
    with pytest.raises(ValueError, match=rf"image_index must be in 0\.\.1, got {wrong}"):
        dsa_fast.warp_densepose(IMG, output, boxes, index, size=1)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"img": np.zeros((2, 3, 4, 4))}, TypeError, "img must be a torch.Tensor, got ndarray"),
        ({"img": IMG[0, 0]}, ValueError, "img must have shape [B, C, H, W] or [C, H, W], got [60, 50]"),
        ({"output": object()}, TypeError, "but object.coarse_segm is missing"),
        ({"output": replace(OUTPUT, u=None)}, TypeError, "but Output.u is missing"),
        ({"output": replace(OUTPUT, u=OUTPUT.u.double())}, TypeError, "output.u must be float16, bfloat16 or float32"),
        ({"output": replace(OUTPUT, v=OUTPUT.v.to("meta"))}, ValueError, "output.v must be on img's device, cpu"),
        (
            {"output": replace(OUTPUT, coarse_segm=OUTPUT.fine_segm)},
            ValueError,
            "output.coarse_segm must have shape [N, 2, h, w] or [N, 15, h, w], got [3, 25, 14, 14]",
        ),
        ({"output": replace(OUTPUT, fine_segm=OUTPUT.u[:, :24])}, ValueError, "[3, 25, 14, 14], got [3, 24, 14, 14]"),
        ({"output": replace(OUTPUT, v=OUTPUT.v[..., 1:])}, ValueError, "output.v must have shape [N, 25, h, w]"),
        ({"boxes": BOXES[:3]}, TypeError, "boxes must be a tensor, or an object with a tensor as .tensor, got list"),
        ({"boxes": PLACES[:2]}, ValueError, "boxes must have shape [N, 4] with output's N = 3, got [2, 4]"),
        ({"boxes": PLACES[0]}, ValueError, "boxes must have shape [N, 4] with output's N = 3, got [4]"),
        ({"boxes": PLACES > 0}, TypeError, "boxes must hold real numbers, got torch.bool"),
        ({"image_index": None}, ValueError, "image_index must say which of the 2 photos each of the 3 instances is in"),
        ({"image_index": [0, 1]}, ValueError, "image_index must have shape [N] with output's N = 3, got [2]"),
        ({"image_index": [0, 1, 2]}, ValueError, "image_index must be in 0..1, got 2"),
        ({"image_index": [0, -1, 1]}, ValueError, "image_index must be in 0..1, got -1"),
        ({"image_index": torch.zeros(3)}, TypeError, "image_index must be int64 or int32, got torch.float32"),
        ({"size": 0}, ValueError, "size must be in 1..4096, got 0"),
        ({"fill": [1.0]}, ValueError, "fill must hold one number per channel of img, 3, got 1"),
        ({"reduce": "max"}, ValueError, "reduce must be 'last' or 'mean', got 'max'"),
        ({"dtype": torch.int32}, TypeError, "dtype must be uint8"),
    ],
)
def test_wrong_arguments(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {"img": IMG, "output": OUTPUT, "boxes": PLACES, "image_index": [0, 1, 1], **change}
    with pytest.raises(error) as caught:
        dsa_fast.warp_densepose(**arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"size": (4, -1)}, ValueError, "size must be two integers (height, width), not negative, got (4, -1)"),
        ({"size": (2**16, 2**16)}, ValueError, "size must have fewer than 2^31 pixels, got 65536 x 65536"),
        ({"dtype": torch.float16}, TypeError, "dtype must be torch.float32 or torch.uint8, got torch.float16"),
        ({"boxes": PLACES * math.nan}, ValueError, "boxes must be finite where no size is given"),
        ({"boxes": PLACES * 1e9}, ValueError, "boxes must have fewer than 2^31 pixels each"),
        ({"output": None}, TypeError, "but NoneType.coarse_segm is missing"),
    ],
)
def test_wrong_arguments_of_to_iuv(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        to_iuv(**{"output": OUTPUT, "boxes": PLACES, **arguments})
    assert message in str(caught.value)
