"""Times of the operators on the CPU. Each result is compared with the plain reference before it is timed."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from chart import Heads
from chart import people as chart_people
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from warp import people

import dsa_fast
from dsa_fast.configs.augment import AugmentConfig
from dsa_fast.data.transforms import Draws, augment_batch, augment_batch_reference
from dsa_fast.densepose import to_iuv
from dsa_fast.ops.plain_reference import crop_reference, to_iuv_reference, warp_reference

BATCH, HEIGHT, WIDTH = 8, 256, 128


def first_map(heads: Heads, boxes: Tensor) -> Tensor:
    """The IUV map of the first instance, by PyTorch's own operators."""
    coarse, fine, u, v = (head[:1] for head in (heads.coarse_segm, heads.fine_segm, heads.u, heads.v))
    return to_iuv_reference(coarse, fine, u, v, boxes[0], (HEIGHT, WIDTH))


@pytest.mark.parametrize("reduce", ["last", "mean"])
def test_warp(benchmark: BenchmarkFixture, generator: torch.Generator, reduce: Literal["last", "mean"]) -> None:
    img, iuv = people(BATCH, HEIGHT, WIDTH, generator)
    expected, _ = warp_reference(img[:1], iuv[:1], size=32, dtype=torch.float32, reduce=reduce)
    assert torch.equal(dsa_fast.warp(img[:1], iuv[:1], dtype=torch.float32, reduce=reduce), expected)
    benchmark(lambda: dsa_fast.warp(img, iuv, dtype=torch.float32, reduce=reduce))


def test_warp_backward(benchmark: BenchmarkFixture, generator: torch.Generator) -> None:
    img, iuv = people(BATCH, HEIGHT, WIDTH, generator)
    photo = img.float().requires_grad_()
    weights = torch.rand(BATCH, 24, 3, 32, 32, generator=generator)
    (gradient,) = torch.autograd.grad(dsa_fast.warp(photo, iuv), photo, weights)
    # The warp is linear in the photo, so the gradient and the photo have the warped photo's inner product.
    forward = (dsa_fast.warp(photo, iuv).double() * weights).sum()
    torch.testing.assert_close((gradient.double() * photo).sum(), forward, rtol=1e-6, atol=0)
    parts = dsa_fast.warp(photo, iuv)
    benchmark(lambda: torch.autograd.grad(parts, photo, weights, retain_graph=True))


def test_warp_densepose(benchmark: BenchmarkFixture, generator: torch.Generator) -> None:
    img, heads, boxes = chart_people(2, torch.device("cpu"), generator)
    expected = dsa_fast.warp(img[0], first_map(heads, boxes), dtype=torch.float32)
    assert torch.equal(dsa_fast.warp_densepose(img, heads, boxes, dtype=torch.float32)[0], expected)
    benchmark(lambda: dsa_fast.warp_densepose(img, heads, boxes, dtype=torch.float32))


def test_to_iuv(benchmark: BenchmarkFixture, generator: torch.Generator) -> None:
    _, heads, boxes = chart_people(2, torch.device("cpu"), generator)
    assert torch.equal(to_iuv(heads, boxes, (HEIGHT, WIDTH))[0], first_map(heads, boxes))
    benchmark(lambda: to_iuv(heads, boxes, (HEIGHT, WIDTH)))


def test_crop_parts(benchmark: BenchmarkFixture, generator: torch.Generator) -> None:
    img, iuv = people(BATCH, HEIGHT, WIDTH, generator)
    got = dsa_fast.crop_parts(img[:1], iuv[:1], dtype=torch.float32)
    assert torch.equal(got, crop_reference(img[:1], iuv[:1], size=32, dtype=torch.float32))
    benchmark(lambda: dsa_fast.crop_parts(img, iuv, dtype=torch.float32))


@pytest.mark.parametrize("stored", [(128, 64), (256, 128)], ids=["128x64", "256x128"])
def test_train_transform(benchmark: BenchmarkFixture, generator: torch.Generator, stored: tuple[int, int]) -> None:
    config = AugmentConfig()
    images, iuv = people(BATCH, *stored, generator)
    draws = Draws.sample(BATCH, config, generator)
    got, expected = augment_batch(images, iuv, draws, config), augment_batch_reference(images, iuv, draws, config)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    benchmark(lambda: augment_batch(images, iuv, draws, config))
