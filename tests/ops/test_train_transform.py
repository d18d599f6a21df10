"""The fused training transform against the chain of its steps, and against torchvision's, on every device there is."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import dsa_fast
from dsa_fast.data.transforms import (
    AugmentConfig,
    Draws,
    augment_batch,
    augment_batch_reference,
    disturb_iuv,
    normalize,
    resize,
)
from dsa_fast.densepose.iuv import flip_iuv, resize_iuv
from dsa_fast.densepose.symmetry import SymmetryTable, as_lut
from dsa_fast.imagenet import MEAN, STD
from dsa_fast.ops.train_transform import train_transform
from tests.cuda import HAS_CUDA, require_cuda
from tests.ops.inputs import LAYOUTS

CONFIG = AugmentConfig(size=(32, 16), dsap_size=8, pad=4, flip=0.5, erase=0.7)
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
REDUCTIONS = ["last", "mean"]


def make(number: int, height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noise: photos, and maps that are half foreground."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (number, 3, height, width), dtype=torch.uint8, generator=generator)
    iuv = torch.randint(0, 256, (number, 3, height, width), dtype=torch.uint8, generator=generator)
    iuv[:, 0] = iuv[:, 0] % 50
    return images, iuv


def sample(number: int, config: AugmentConfig = CONFIG, seed: int = 0) -> Draws:
    return Draws.sample(number, config, torch.Generator().manual_seed(seed))


def assert_same(got: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert torch.equal(a.cpu(), b.cpu())


STORED = [(32, 16), (16, 8), (64, 32), (31, 17), (20, 30), (48, 24), (1, 1), (2, 3), (33, 5)]


# ---- values --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("stored", STORED)
def test_equals_the_chain(device: str, stored: tuple[int, int], reduce: Any) -> None:
    config = replace(CONFIG, reduce=reduce)
    images, iuv = make(24, *stored)
    draws = sample(24)
    assert draws.flip.any() and not draws.flip.all() and (draws.erase[:, 2] > 0).any()
    got = augment_batch(images.to(device), iuv.to(device), draws, config, grid=(8, 4))
    assert_same(got, augment_batch_reference(images, iuv, draws, config, grid=(8, 4)))
    assert all(x.is_contiguous() and x.device.type == device for x in got)


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dsap_dtype", [*DTYPES, None], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_and_layout(
    device: str,
    dtype: torch.dtype,
    dsap_dtype: torch.dtype | None,
    channels_last: bool,
    reduce: Any,
) -> None:
    config = replace(CONFIG, reduce=reduce)
    images, iuv = make(6, 20, 11, seed=1)
    draws = sample(6, seed=1)
    full, dsap, maps = augment_batch(
        images.to(device),
        iuv.to(device),
        draws,
        config,
        grid=(4, 2),
        dtype=dtype,
        dsap_dtype=dsap_dtype,
        channels_last=channels_last,
    )
    expected = augment_batch_reference(images, iuv, draws, config, grid=(4, 2))
    assert_same((full, dsap, maps), (expected[0].to(dtype), expected[1].to(dsap_dtype or dtype), expected[2]))
    assert full.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_indices_read_the_store_where_it_lies(device: str, reduce: Any) -> None:
    config = replace(CONFIG, reduce=reduce)
    images, iuv = make(9, 24, 12, seed=2)
    indices = [8, 0, 3, 3, 7]
    draws = sample(5, seed=2)
    expected = augment_batch_reference(images[indices], iuv[indices], draws, config, grid=(4, 2))
    for given_indices in (indices, torch.tensor(indices)):
        got = augment_batch(images.to(device), iuv.to(device), draws, config, indices=given_indices, grid=(4, 2))
        assert_same(got, expected)


def test_training_inputs_at_full_size(device: str) -> None:
    config = AugmentConfig()
    images, iuv = make(4, 128, 64, seed=3)
    draws = sample(4, config, seed=3)
    got = augment_batch(images.to(device), iuv.to(device), draws, config, grid=(64, 32))
    assert got[0].shape == (4, 3, 256, 128) and got[1].shape == (4, 24, 3, 32, 32) and got[2].shape == (4, 3, 64, 32)
    assert_same(got, augment_batch_reference(images, iuv, draws, config, grid=(64, 32)))


@pytest.mark.parametrize("image_layout", LAYOUTS)
@pytest.mark.parametrize("iuv_layout", LAYOUTS)
def test_any_stored_layout(device: str, image_layout: str, iuv_layout: str) -> None:
    images, iuv = make(5, 13, 9, seed=4)
    draws = sample(5, seed=4)
    expected = augment_batch_reference(images, iuv, draws, CONFIG, grid=(8, 8))
    images, iuv = LAYOUTS[image_layout](images.to(device)), LAYOUTS[iuv_layout](iuv.to(device))
    assert_same(augment_batch(images, iuv, draws, CONFIG, grid=(8, 8)), expected)
    one = images[:1].expand(5, -1, -1, -1), iuv[:1].expand(5, -1, -1, -1)
    assert_same(augment_batch(*one, draws, CONFIG), augment_batch(*(x.contiguous() for x in one), draws, CONFIG))


@settings(max_examples=60, deadline=None)
@given(
    stored=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    size=st.tuples(st.integers(20, 40), st.integers(20, 40)),
    pad=st.integers(0, 45),
    dsap_size=st.sampled_from([0, 1, 2, 7, 32, 64]),
    grid=st.none() | st.tuples(st.integers(1, 45), st.integers(1, 45)),
    reduce=st.sampled_from(REDUCTIONS),
    seed=st.integers(0, 2**31),
)
def test_equals_the_chain_at_random(
    stored: tuple[int, int],
    size: tuple[int, int],
    pad: int,
    dsap_size: int,
    grid: tuple[int, int] | None,
    reduce: Any,
    seed: int,
) -> None:
    config = AugmentConfig(size=size, pad=pad, dsap_size=dsap_size, erase=0.5, reduce=reduce)
    images, iuv = make(3, *stored, seed=seed)
    draws = sample(3, config, seed)
    expected = augment_batch_reference(images, iuv, draws, config, grid=grid)
    for place in ["cpu", "cuda"] if HAS_CUDA else ["cpu"]:
        assert_same(augment_batch(images.to(place), iuv.to(place), draws, config, grid=grid), expected)


@pytest.mark.parametrize("stored", [(64, 32), (50, 41)])
@pytest.mark.parametrize("table", [False, True])
def test_grid_is_the_middle_of_each_cell_of_the_transformed_map(
    device: str, stored: tuple[int, int], table: bool
) -> None:
    config = AugmentConfig(size=(64, 32), dsap_size=4, pad=6, iuv_drop=0.2, iuv_noise=0.1)
    images, iuv = make(9, *stored, seed=11)
    values = torch.rand(24, 2, 256, 256, generator=torch.Generator().manual_seed(0))
    symmetry = SymmetryTable((values * 255).round() / 255) if table else None
    mirror = None if symmetry is None else as_lut(symmetry)
    indices = [4, 0, 8, 8, 2, 1]
    for drawn in (config, replace(config, iuv_drop=0, iuv_noise=0)):
        draws = sample(6, drawn, seed=3)
        assert draws.flip.any() and not draws.flip.all()
        whole = resize_iuv(disturb_iuv(iuv[indices], draws), drawn.size)
        whole = torch.where(draws.flip[:, None, None, None], flip_iuv(whole, symmetry), whole)
        padded = torch.nn.functional.pad(whole, [drawn.pad] * 4)
        moved = torch.stack([padded[b, :, int(draws.top[b]) :, int(draws.left[b]) :][:, :64, :32] for b in range(6)])
        for grid in ((4, 2), (16, 8), (64, 32), (7, 5)):
            rows = [(2 * i + 1) * 64 // (2 * grid[0]) for i in range(grid[0])]
            columns = [(2 * j + 1) * 32 // (2 * grid[1]) for j in range(grid[1])]
            got = augment_batch(
                images.to(device),
                iuv.to(device),
                draws,
                drawn,
                indices=indices,
                mirror=None if mirror is None else mirror.to(device),
                grid=grid,
            )
            assert torch.equal(got.iuv.cpu(), moved[:, :, rows][..., columns]), grid
            reference = augment_batch_reference(images[indices], iuv[indices], draws, drawn, mirror=mirror, grid=grid)
            assert_same(got, reference)


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_without_part_images(device: str, reduce: Any) -> None:
    """No part images: nothing else changes."""
    images, iuv = (x.to(device) for x in make(5, 20, 11, seed=12))
    draws = sample(5, seed=12)
    whole = augment_batch(images, iuv, draws, replace(CONFIG, reduce=reduce), grid=(8, 4))
    for parts in ("warp", "crop"):
        config = replace(CONFIG, reduce=reduce, dsap_size=0, parts=parts)  # type: ignore[arg-type]
        bare = augment_batch(images, iuv, draws, config, grid=(8, 4), dsap_dtype=torch.float16)
        assert bare.dsap.shape == (5, 24, 3, 0, 0) and bare.dsap.dtype == torch.float16
        assert_same((bare.images, bare.iuv), (whole.images, whole.iuv))
        assert augment_batch(images, iuv, draws, config).iuv.shape == (5, 3, 0, 0)


def test_crops_have_the_grid_of_warps(device: str) -> None:
    images, iuv = (x.to(device) for x in make(5, 20, 11, seed=13))
    draws = sample(5, seed=13)
    warped, cropped = (
        augment_batch(images, iuv, draws, replace(CONFIG, parts=parts), grid=(8, 4), dtype=torch.float16)  # type: ignore[arg-type]
        for parts in ("warp", "crop")
    )
    assert_same((cropped.images, cropped.iuv), (warped.images, warped.iuv))
    assert cropped.dsap.dtype == torch.float16 and not torch.equal(cropped.dsap, warped.dsap)


def test_shrinking_by_more_is_one_level_off_at_most(device: str) -> None:
    config = AugmentConfig(size=(50, 40), dsap_size=1, pad=0, flip=0, erase=0)
    for stored in ((128, 91), (400, 300), (701, 100)):
        images, iuv = make(4, *stored, seed=5)
        full = augment_batch(images.to(device), iuv.to(device), sample(4, config), config).images
        expected = resize(images, (50, 40)).float()
        mean, std = (torch.tensor(values).view(3, 1, 1) * 255 for values in (MEAN, STD))
        levels = (full.cpu() * std + mean).round()
        assert (levels - expected).abs().max() <= 1
        assert (levels != expected).float().mean() < 1e-3


def test_equals_torchvision_and_the_warp(device: str) -> None:
    v2 = pytest.importorskip("torchvision.transforms.v2.functional")
    for stored in ((128, 64), (256, 128), (100, 60)):
        config = AugmentConfig()
        images, iuv = make(8, *stored, seed=6)
        draws = sample(8, config, seed=6)
        full, dsap, _ = augment_batch(images.to(device), iuv.to(device), draws, config)
        for b in range(8):
            # torchvision rounds 8-bit images in its own fixed-point way; in float it resizes as PyTorch does.
            photo = v2.resize(images[b].float(), list(config.size), antialias=True).round().clamp(0, 255).byte()
            labels = resize_iuv(iuv[b], config.size)
            if draws.flip[b]:
                photo, labels = v2.horizontal_flip(photo), flip_iuv(labels)
            corner = int(draws.top[b]), int(draws.left[b])
            labels = v2.crop(v2.pad(labels, [config.pad] * 4), *corner, *config.size)
            parts = dsa_fast.warp(
                v2.crop(v2.pad(photo, [config.pad] * 4), *corner, *config.size),
                labels,
                fill=[255 * value for value in MEAN],
                dtype=torch.float32,
            )
            image = v2.normalize(photo.float(), [255 * value for value in MEAN], [255 * value for value in STD])
            image = v2.crop(v2.pad(image, [config.pad] * 4), *corner, *config.size)
            top, left, height, width = draws.erase[b].tolist()
            image = v2.erase(image, top, left, height, width, torch.zeros(3, 1, 1))
            torch.testing.assert_close(full[b].cpu(), image, rtol=0, atol=1e-6)
            torch.testing.assert_close(dsap[b].cpu(), normalize(parts), rtol=0, atol=1e-6)


def test_last_of_the_copies_of_a_stored_pixel_wins(device: str) -> None:
    """Enlarged 2 x 2 pixels that share a texel: the texel has the color of the very last one."""
    config = AugmentConfig(size=(4, 4), dsap_size=1, pad=0, flip=0, erase=0)
    images = torch.tensor([[10, 20], [30, 40]], dtype=torch.uint8).expand(1, 3, 2, 2)
    iuv = torch.tensor([9, 100, 100], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    draws = sample(1, config)
    full, dsap, _ = augment_batch(images.to(device), iuv.to(device), draws, config)
    assert torch.equal(dsap[0, 8, :, 0, 0], full[0, :, 3, 3])
    _, mean, _ = augment_batch(images.to(device), iuv.to(device), draws, replace(config, reduce="mean"))
    levels = resize(images, (4, 4)).double().mean()
    expected = normalize(levels.float().expand(1, 3, 1, 1).cpu())
    torch.testing.assert_close(mean[0, 8, :, 0, 0].cpu(), expected[0, :, 0, 0])


def test_a_mirror_table_replaces_the_closed_form(device: str) -> None:
    v, u = torch.meshgrid(torch.arange(256), torch.arange(256), indexing="ij")
    table = torch.zeros(24, 2, 256, 256, dtype=torch.uint8)
    for part in range(1, 25):
        iuv = torch.stack([torch.full_like(u, part), u, v]).byte()
        table[part - 1] = flip_iuv(iuv)[1:].flip(-1)
    images, iuv = make(12, 20, 10, seed=7)
    draws = sample(12, seed=7)
    plain = augment_batch(images.to(device), iuv.to(device), draws, CONFIG)
    assert_same(augment_batch(images.to(device), iuv.to(device), draws, CONFIG, mirror=table.to(device)), plain)
    other = 255 - table
    full, dsap, _ = augment_batch(images.to(device), iuv.to(device), draws, CONFIG, mirror=other.to(device))
    assert torch.equal(full, plain[0])
    changed = (dsap != plain[1]).flatten(1).any(1).cpu()
    assert torch.equal(changed, draws.flip)
    # What was mirrored lands at the opposite corner: (U, V) -> (255 - U, 255 - V) is that of the texels.
    b = int(draws.flip.nonzero()[0])
    assert torch.equal((dsap[b] != 0).flatten(1).any(1), (plain[1][b] != 0).flatten(1).any(1))


def test_a_crop_outside_is_empty(device: str) -> None:
    images, iuv = make(2, 8, 8, seed=8)
    for top, left in ((0, 0), (200, 0), (0, 200), (-(2**31), 2**31 - 1)):
        plan = torch.tensor([[0, top, left, 1, 0, 0, 0, 0], [1, 100, 100, 0, 0, 0, 0, 0]], dtype=torch.int32)
        full, dsap, maps = train_transform(
            *(x.to(device) for x in (images, iuv, plan)),
            size=(8, 8),
            mean=[0.0] * 3,
            std=[1.0] * 3,
            pad=100,
            dsap_size=4,
            grid=(8, 8),
        )
        assert not full[0].any() and not dsap[0].any() and not maps[0].any()
        assert torch.equal(full[1].cpu(), images[1].float()) and dsap[1].any()
        assert torch.equal(maps[1].cpu(), iuv[1])


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_number_of_threads_does_not_matter(threads: int) -> None:
    images, iuv = make(7, 40, 20, seed=9)
    draws = sample(7, seed=9)
    expected = augment_batch_reference(images, iuv, draws, CONFIG, grid=(8, 4))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert_same(augment_batch(images, iuv, draws, CONFIG, grid=(8, 4)), expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_deterministic(device: str, reduce: Any) -> None:
    config = replace(CONFIG, reduce=reduce, dsap_size=2)
    images, iuv = (x.to(device) for x in make(8, 40, 20, seed=10))
    draws = sample(8, seed=10)
    first = augment_batch(images, iuv, draws, config)
    for _ in range(4):
        assert_same(augment_batch(images, iuv, draws, config), first)


def test_empty_batch(device: str) -> None:
    images, iuv = (x.to(device) for x in make(3, 8, 8))
    full, dsap, maps = augment_batch(images, iuv, sample(0), CONFIG, indices=[], grid=(8, 4))
    assert full.shape == (0, 3, 32, 16) and dsap.shape == (0, 24, 3, 8, 8) and maps.shape == (0, 3, 8, 4)


def test_inputs_are_left_alone(device: str) -> None:
    images, iuv = (x.to(device) for x in make(3, 8, 8))
    before = images.clone(), iuv.clone()
    augment_batch(images, iuv, sample(3), CONFIG, grid=(8, 4))
    assert_same((images, iuv), before)


# ---- PyTorch's machinery -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "grid"), [(4, (3, 2)), (4, (0, 0)), (0, (3, 2))])
@pytest.mark.parametrize("channels_last", [False, True])
def test_opcheck(device: str, channels_last: bool, size: int, grid: tuple[int, int]) -> None:
    images, iuv = (x.to(device) for x in make(3, 9, 5))
    plan = torch.tensor([[2, 1, 2, 1, 0, 0, 3, 2]], dtype=torch.int32, device=device)
    options = (16, 8, 2, size, *grid, [0.0] * 3, [1.0] * 3, "last", torch.bfloat16, torch.float32, channels_last)
    torch.library.opcheck(torch.ops.dsa_fast.train_transform, (images, iuv, plan, None, *options))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(device: str, dynamic: bool) -> None:
    torch._dynamo.reset()

    def run(images: Tensor, iuv: Tensor, plan: Tensor) -> tuple[Tensor, ...]:
        full, dsap, maps = train_transform(
            images, iuv, plan, size=(16, 8), mean=[1.0] * 3, std=[2.0] * 3, dsap_size=4, grid=(4, 2), channels_last=True
        )
        return full * 2, dsap + 1, maps + 1

    compiled = torch.compile(run, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for batch in (2, 3):
        images, iuv = (x.to(device) for x in make(batch, 9, 5, seed=batch))
        plan = torch.zeros(batch, 8, dtype=torch.int32, device=device)
        plan[:, 0] = torch.arange(batch)
        assert_same(compiled(images, iuv, plan), run(images, iuv, plan))


def test_meta_tensors_have_the_right_shape() -> None:
    images, iuv = (x.to("meta") for x in make(3, 9, 5))
    plan = torch.zeros(2, 8, dtype=torch.int32, device="meta")
    options: dict[str, Any] = {"size": (16, 8), "mean": [0.0] * 3, "std": [1.0] * 3, "dtype": torch.float16}
    full, dsap, maps = train_transform(images, iuv, plan, grid=(4, 2), channels_last=True, **options)
    assert full.shape == (2, 3, 16, 8) and full.is_contiguous(memory_format=torch.channels_last)
    assert dsap.shape == (2, 24, 3, 32, 32) and full.dtype == dsap.dtype == torch.float16
    assert maps.shape == (2, 3, 4, 2) and maps.dtype == torch.uint8
    assert train_transform(images, iuv, plan, dsap_size=0, **options).dsap.shape == (2, 24, 3, 0, 0)


def test_cuda_does_not_wait() -> None:
    require_cuda()
    images, iuv = (x.cuda() for x in make(8, 20, 10))
    draws = sample(4)
    options: dict[str, Any] = {"indices": [0, 1, 2, 3], "grid": (8, 4)}
    augment_batch(images, iuv, draws, CONFIG, **options)
    with contextlib.ExitStack() as stack:
        torch.cuda.set_sync_debug_mode("error")
        stack.callback(torch.cuda.set_sync_debug_mode, "default")
        for reduce in REDUCTIONS:
            augment_batch(images, iuv, draws, replace(CONFIG, reduce=reduce), **options)  # type: ignore[arg-type]
        augment_batch(images, iuv, draws, replace(CONFIG, dsap_size=0), **options)


def test_cuda_graph_draws_anew() -> None:
    require_cuda()
    images, iuv = (x.cuda() for x in make(8, 20, 10))
    plan = torch.zeros(2, 8, dtype=torch.int32, device="cuda")
    options: dict[str, Any] = {"size": (16, 8), "mean": [0.0] * 3, "std": [1.0] * 3, "grid": (4, 2)}
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        train_transform(images, iuv, plan, **options)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = train_transform(images, iuv, plan, **options)
    for index in (3, 7):
        plan[:, 0] = index
        graph.replay()
        assert_same(out, train_transform(images.cpu(), iuv.cpu(), plan.cpu(), **options))


def test_an_index_out_of_range_gives_zeros_on_cuda() -> None:
    require_cuda()
    images, iuv = (x.cuda() for x in make(2, 8, 8))
    plan = torch.tensor([[2] + [0] * 7, [-1] + [0] * 7], dtype=torch.int32, device="cuda")
    made = train_transform(images, iuv, plan, size=(8, 8), mean=[0.0] * 3, std=[1.0] * 3, grid=(8, 8))
    assert not any(x.any() for x in made)


# ---- wrong arguments -----------------------------------------------------------------------------------------------

IMAGES, IUV = make(2, 8, 4)
PLAN = torch.zeros(2, 8, dtype=torch.int32)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"images": IMAGES.float()}, TypeError, "images must be a uint8 tensor, got torch.float32"),
        ({"iuv": None}, TypeError, "iuv must be a uint8 tensor, got NoneType"),
        ({"plan": PLAN.long()}, TypeError, "plan must be a int32 tensor, got torch.int64"),
        ({"images": IMAGES[:, :2]}, ValueError, "images must have shape [N, 3, h, w], got [2, 2, 8, 4]"),
        ({"images": IMAGES[..., :0]}, ValueError, "images must have shape [N, 3, h, w], got [2, 3, 8, 0]"),
        ({"iuv": IUV[:1]}, ValueError, "iuv must have the shape of images, [2, 3, 8, 4], got [1, 3, 8, 4]"),
        ({"plan": PLAN[:, :7]}, ValueError, "plan must have shape [B, 8], got [2, 7]"),
        ({"size": (0, 4)}, ValueError, "size must be (height, width), each at least 1"),
        ({"size": (4000, 4000)}, ValueError, "of 8421504 pixels at most, got (4000, 4000)"),
        ({"pad": -1}, ValueError, "pad must be in 0..2^30 - 1 pixels, got -1"),
        ({"dsap_size": -1}, ValueError, "dsap_size must be in 0..4096, got -1"),
        ({"grid": (0, 4)}, ValueError, "grid must be (height, width), each at least 1"),
        ({"grid": (2**16, 2**16)}, ValueError, "of 2147483647 cells at most, got (65536, 65536)"),
        ({"reduce": "first"}, ValueError, "reduce must be 'last' or 'mean', got 'first'"),
        ({"dtype": torch.float64}, TypeError, "dtype must be torch.float16, torch.bfloat16 or torch.float32"),
        ({"dsap_dtype": torch.uint8}, TypeError, "dsap_dtype must be torch.float16"),
        ({"mean": [1.0]}, ValueError, "mean must hold 3 numbers, got 1"),
        ({"mirror": IMAGES}, ValueError, "mirror must have shape [24, 2, 256, 256], got [2, 3, 8, 4]"),
        ({"mirror": IMAGES.int()}, TypeError, "mirror must be a uint8 tensor, got torch.int32"),
        ({"plan": PLAN.to("meta")}, ValueError, "plan must be on the device of images, cpu, got meta"),
        ({"plan": PLAN + 2}, RuntimeError, "plan's index must be in 0..1, got 2"),
    ],
)
def test_wrong_arguments(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {
        "size": (8, 4),
        "mean": [0.0] * 3,
        "std": [1.0] * 3,
        "images": IMAGES,
        "iuv": IUV,
        "plan": PLAN,
    } | change
    with pytest.raises(error) as raised:
        train_transform(arguments.pop("images"), arguments.pop("iuv"), arguments.pop("plan"), **arguments)
    assert message in str(raised.value)


def test_wrong_indices() -> None:
    for indices, error in (([0], ValueError), ([0, 2], IndexError), ([-1, 0], IndexError)):
        with pytest.raises(error, match="indices must be"):
            augment_batch(IMAGES, IUV, sample(2), CONFIG, indices=indices)
    with pytest.raises(ValueError, match="3 draws, got 2 images and no indices"):
        augment_batch(IMAGES, IUV, sample(3), CONFIG)
