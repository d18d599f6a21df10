"""Times of what happens to an image before a network sees it, and of reading IUV maps, on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture
from warp import people

from dsa_fast.data.transforms import eval_transform
from dsa_fast.densepose import read_iuv, write_iuv
from dsa_fast.deploy.image_batch import ImageBatch
from dsa_fast.imagenet import MEAN, STD

SIZE = (256, 128)


def test_encoder_preprocessing(benchmark: BenchmarkFixture, generator: torch.Generator) -> None:
    """Photos of one size as a NumPy array -> uint8 images of the network's input size."""
    photos = torch.randint(0, 256, (16, 160, 80, 3), dtype=torch.uint8, generator=generator)
    expected = torch.nn.functional.interpolate(
        photos[:1].permute(0, 3, 1, 2).float(), SIZE, mode="bilinear", antialias=True, align_corners=False
    )
    assert torch.equal(ImageBatch(photos.numpy()).read(0, 1, SIZE), expected.round().byte())
    benchmark(lambda: ImageBatch(photos.numpy()).read(0, len(photos), SIZE))


def test_encoder_reads_files(benchmark: BenchmarkFixture, generator: torch.Generator, tmp_path: Path) -> None:
    """JPEG files of the network's input size -> uint8 images."""
    photos, _ = people(8, *SIZE, generator)
    paths = [tmp_path / f"{number}.jpg" for number in range(len(photos))]
    for path, photo in zip(paths, photos, strict=True):
        Image.fromarray(photo.permute(1, 2, 0).numpy()).save(path)
    with Image.open(paths[0]) as picture:
        expected = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    assert torch.equal(ImageBatch(paths).read(0, 1, SIZE)[0], expected)
    benchmark(lambda: ImageBatch(paths).read(0, len(paths), SIZE))


def test_eval_transform(benchmark: BenchmarkFixture, generator: torch.Generator) -> None:
    """uint8 images of another size -> normalized float32 images."""
    images, _ = people(8, 128, 64, generator)
    resized = torch.nn.functional.interpolate(images.float(), SIZE, mode="bilinear", antialias=True)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    expected = (resized.round() / 255 - mean) / std
    torch.testing.assert_close(eval_transform(images, SIZE), expected, rtol=1e-5, atol=1e-5)
    benchmark(lambda: eval_transform(images, SIZE))


@pytest.mark.parametrize("order", ["IUV", "auto"])
def test_read_iuv(
    benchmark: BenchmarkFixture, generator: torch.Generator, tmp_path: Path, order: Literal["IUV", "auto"]
) -> None:
    """A PNG map. `auto` also finds out the order of its channels."""
    _, maps = people(1, *SIZE, generator)
    path = tmp_path / "map.png"
    write_iuv(path, maps[0])
    assert torch.equal(read_iuv(path, order=order), maps[0])
    benchmark(lambda: read_iuv(path, order=order))
