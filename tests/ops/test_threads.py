"""Threads of the CPU kernels, and the memory of large results, as PyTorch's programs use them."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import dsa_fast
from dsa_fast.ops.plain_reference import warp_reference
from dsa_fast.ops.train_transform import train_transform
from tests.fresh import run_fresh
from tests.ops.inputs import make

LARGE = 33  # images whose parts in float32 of 64 x 64 take 37 MiB


@pytest.fixture(autouse=True)
def number_of_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def large(seed: int = 0) -> tuple[Tensor, Tensor]:
    img, iuv = make(LARGE, height=6, width=5, seed=seed)
    return img, dsa_fast.warp(img, iuv, size=64, dtype=torch.float32)


def test_many_python_threads() -> None:
    """Calls from several threads share the helpers, while the number of threads changes."""
    sets = [make(3 + k, height=40, width=30, seed=k) for k in range(6)]
    expected = [warp_reference(*one, size=32)[0] for one in sets]

    def call(k: int) -> bool:
        torch.set_num_threads(1 + k % 5)
        return torch.equal(dsa_fast.warp(*sets[k % 6], size=32), expected[k % 6])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(call, range(300)))


class Warped(Dataset[Tensor]):
    """Warps in the process that asks for an item. The second item is large."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, k: int) -> Tensor:
        inputs, size = (make(LARGE, height=6, width=5), 64) if k == 1 else (make(4, height=40, width=30, seed=k), 32)
        torch.set_num_threads(3)
        try:
            return dsa_fast.warp(*inputs, size=size, dtype=torch.float32)
        finally:
            torch.set_num_threads(1)  # PyTorch's own threads do not survive a fork


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_data_loader_workers() -> None:
    """A forked worker starts its own helpers, and has no part in its parent's memory."""
    dataset = Warped()
    expected = [dataset[k] for k in range(len(dataset))]  # starts the helpers of this process
    loader = DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60)
    for got, wanted in zip(loader, expected, strict=True):
        assert torch.equal(got, wanted)
    assert torch.equal(dataset[1], expected[1])


def test_large_results_reuse_memory() -> None:
    img, first = large()
    address, expected = first.data_ptr(), first.clone()
    part = first[3, 5]
    other = large(seed=1)[1]
    assert other.data_ptr() != address and torch.equal(first, expected)
    del first
    assert large(seed=2)[1].data_ptr() != address, "a view keeps its memory"
    assert torch.equal(part, expected[3, 5])
    del part, other
    if sys.platform == "linux":
        assert address in {one.data_ptr() for one in [large()[1], large()[1]]}
    assert torch.equal(dsa_fast.warp(img, make(LARGE, height=6, width=5)[1], size=64, dtype=torch.float32), expected)


def test_large_results_are_ordinary_tensors() -> None:
    _, got = large()
    assert got.is_contiguous() and got.stride() == torch.empty(got.shape).stride()
    file = io.BytesIO()
    torch.save(got, file)
    file.seek(0)
    assert torch.equal(torch.load(file), got)
    assert got.numpy().base is not None and torch.equal(torch.from_numpy(got.numpy()), got)
    expected = got.clone()
    assert torch.equal(got.share_memory_(), expected) and got.is_shared()
    got.mul_(0)
    assert not got.any()


def test_large_photos_in_channels_last() -> None:
    """The training transform's photos, [B, 3, H, W] in both layouts."""
    images, iuv = make(2, height=16, width=8)
    plan = torch.zeros(90, 8, dtype=torch.int32)
    plan[:, 0] = torch.arange(90) % 2
    results = [
        train_transform(
            images, iuv, plan, size=(256, 128), mean=[1.0] * 3, std=[2.0] * 3, dsap_size=4, channels_last=last
        )[0]
        for last in (False, True)
    ]
    assert results[0].is_contiguous() and results[1].is_contiguous(memory_format=torch.channels_last)
    assert results[1].stride() == torch.empty(90, 3, 256, 128, memory_format=torch.channels_last).stride()
    assert torch.equal(*results)


@pytest.mark.skipif(sys.platform != "linux", reason="blocks are kept on Linux only")
@pytest.mark.parametrize(("limit", "kept"), [("0", False), ("64", True)])
def test_limit_of_the_memory_kept(limit: str, kept: bool) -> None:
    code = """
import torch, dsa_fast
def pages(): return int(open("/proc/self/statm").read().split()[1])
img, iuv = torch.zeros(40, 3, 4, 4, dtype=torch.uint8), torch.zeros(40, 3, 4, 4, dtype=torch.uint8)
dsa_fast.warp(img[:1], iuv[:1])
before = pages()
result = dsa_fast.warp(img, iuv, size=64, dtype=torch.float32)
del result
print(pages() - before)
"""
    done = run_fresh(code, environment={**os.environ, "DSA_FAST_KEEP_MIB": limit})
    assert done.returncode == 0, done.stderr
    mib = int(done.stdout) * os.sysconf("SC_PAGE_SIZE") / 2**20
    assert (mib > 40) == kept, f"{mib} MiB are left of a result of 45 MiB"
