"""Data sets, P x K batches and the training transform."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import dsa_fast
from dsa_fast.configs.augment import AugmentConfig
from dsa_fast.data.dataset import Collate, PeopleDataset
from dsa_fast.data.registry import read_dataset
from dsa_fast.data.sampler import PKSampler
from dsa_fast.data.transforms import Draws, augment_batch, eval_transform, normalize, resize
from dsa_fast.densepose.iuv import flip_iuv, write_iuv
from tests.data.trees import TREE, make_tree


def test_market_names_are_read(tmp_path: Path) -> None:
    data = read_dataset(make_tree(tmp_path / "market", TREE))
    assert [(person.pid, person.camid) for person in data.train] == [(2, 1), (2, 2), (7, 3)]
    assert sorted((person.pid, person.camid) for person in data.gallery) == [(-1, 1), (0, 1), (3, 2)]
    assert all(person.iuv_path and person.iuv_path.is_file() for person in data.train + data.query + data.gallery)
    assert data.summary()[0] == ("train", 3, 2, 3, 3)


def test_market_is_found_one_folder_deeper(tmp_path: Path) -> None:
    make_tree(tmp_path / "download" / "Market-1501-v15.09.15", TREE)
    assert read_dataset(tmp_path / "download", check_counts=False).root.name == "Market-1501-v15.09.15"


def test_market_without_iuv(tmp_path: Path) -> None:
    data = read_dataset(make_tree(tmp_path / "m", TREE, iuv=False))
    item = PeopleDataset(data.train)[0]
    assert data.train[0].iuv_path is None
    assert not item["iuv"].any() and item["iuv"].shape == item["image"].shape


def test_market_tells_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read_dataset(tmp_path / "none")
    (tmp_path / "other" / "images").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"(?s)bounding_box_train/.*\| .*other/.*\|   images/"):
        read_dataset(tmp_path / "other")
    bad = make_tree(tmp_path / "bad", {**TREE, "query": ["photo.jpg"]})
    with pytest.raises(ValueError, match="photo.jpg"):
        read_dataset(bad)


def test_broken_image_is_named(tmp_path: Path) -> None:
    data = read_dataset(make_tree(tmp_path / "m", TREE))
    data.train[1].path.write_bytes(data.train[1].path.read_bytes()[:300])
    with pytest.raises(ValueError, match=data.train[1].path.name):
        PeopleDataset(data.train)[1]


def test_iuv_of_another_size_is_named(tmp_path: Path) -> None:
    data = read_dataset(make_tree(tmp_path / "m", TREE))
    assert data.train[0].iuv_path is not None
    write_iuv(data.train[0].iuv_path, torch.zeros(3, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match=data.train[0].iuv_path.name):
        PeopleDataset(data.train)[0]


def test_collate_resizes_only_mixed_sizes(tmp_path: Path) -> None:
    people = PeopleDataset(read_dataset(make_tree(tmp_path / "a", TREE)).train)
    others = PeopleDataset(read_dataset(make_tree(tmp_path / "b", TREE, size=(40, 20))).train)
    collate = Collate((64, 32))
    assert collate([people[0], people[1]])["image"].shape == (2, 3, 32, 16)
    mixed = collate([people[0], others[0]])
    assert mixed["image"].shape == mixed["iuv"].shape == (2, 3, 64, 32)
    # An image gives the same test input whichever batch it is in.
    assert torch.equal(eval_transform(mixed["image"][:1], (64, 32)), eval_transform(people[0]["image"][None], (64, 32)))


# The counts are images per identity.
counts = st.lists(st.integers(1, 9), min_size=1, max_size=12)


@settings(deadline=None, max_examples=60)
@given(counts, st.integers(1, 5), st.integers(1, 5), st.integers(0, 3), st.integers(0, 2**31), st.integers(1, 3))
def test_pk_batches(sizes: list[int], p: int, k: int, epoch: int, seed: int, world: int) -> None:
    pids = np.repeat(np.arange(len(sizes)) * 7, sizes).tolist()
    if p > len(sizes):
        with pytest.raises(ValueError, match="identities"):
            PKSampler(pids, p, k)
        return
    ranks = [PKSampler(pids, p, k, seed=seed, rank=rank, world_size=world) for rank in range(world)]
    batches = []
    for sampler in ranks:
        sampler.set_epoch(epoch)
        mine = list(sampler)
        assert len(mine) == len(sampler) == len(ranks[0])
        assert mine == list(sampler)
        batches += mine
    for batch in batches:
        of = [pids[i] for i in batch]
        assert len(batch) == p * k
        assert len(set(of)) == p
        assert all(len(set(of[i : i + k])) == 1 for i in range(0, p * k, k))
        for i in range(0, p * k, k):
            group = batch[i : i + k]
            size = sizes[of[i] // 7]
            assert len(set(group)) == min(size, k)
            assert max(Counter(group).values()) == -(-k // min(size, k))
    assert {i for batch in batches for i in batch} == set(range(len(pids)))


def test_pk_epochs_and_seeds_differ() -> None:
    pids = np.repeat(np.arange(20), 8).tolist()
    sampler = PKSampler(pids, 4, 4, seed=1)
    first = list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert list(PKSampler(pids, 4, 4, seed=2)) != first
    # No more batches than needed: 20 identities x 2 groups / 4.
    assert len(first) == 10


def reference_transform(
    image: Tensor, iuv: Tensor, draws: Draws, i: int, config: AugmentConfig
) -> tuple[Tensor, Tensor]:
    """One image, step after step, in plain slices."""
    height, width = config.size
    image = normalize(resize(image[None], config.size))[0]
    rows = [int((y + 0.5) * iuv.shape[1] / height) for y in range(height)]
    columns = [int((x + 0.5) * iuv.shape[2] / width) for x in range(width)]
    iuv = iuv[:, rows][:, :, columns]
    if draws.flip[i]:
        image, iuv = image.flip(-1), flip_iuv(iuv)
    outputs = []
    for x in (image, iuv):
        padded = x.new_zeros(3, height + 2 * config.pad, width + 2 * config.pad)
        padded[:, config.pad : config.pad + height, config.pad : config.pad + width] = x
        top, left = int(draws.top[i]), int(draws.left[i])
        outputs.append(padded[:, top : top + height, left : left + width].clone())
    image, iuv = outputs
    dsap = dsa_fast.warp(image, iuv, size=config.dsap_size, fill=0.0)
    top, left, box_height, box_width = draws.erase[i].tolist()
    image[:, top : top + box_height, left : left + box_width] = 0
    return image, dsap


@pytest.mark.parametrize("stored", [(32, 16), (48, 24), (31, 17)])
def test_train_transform_is_the_chain_of_its_steps(stored: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(3)
    config = AugmentConfig(size=(32, 16), dsap_size=8, pad=4)
    images = torch.randint(0, 256, (16, 3, *stored), dtype=torch.uint8, generator=generator)
    iuv = torch.randint(0, 256, (16, 3, *stored), dtype=torch.uint8, generator=generator)
    iuv[:, 0] %= 25
    draws = Draws.sample(16, config, generator)
    assert draws.flip.any() and not draws.flip.all() and (draws.erase[:, 2] > 0).any()
    full, dsap, _ = augment_batch(images, iuv, draws, config)
    assert full.shape == (16, 3, 32, 16) and dsap.shape == (16, 24, 3, 8, 8)
    for i in range(16):
        expected_full, expected_dsap = reference_transform(images[i], iuv[i], draws, i, config)
        assert torch.equal(full[i], expected_full)
        assert torch.equal(dsap[i], expected_dsap)


def test_draws_keep_their_promises() -> None:
    config = AugmentConfig(size=(64, 32), pad=5, flip=0.3, erase=0.6)
    draws = Draws.sample(4000, config, torch.Generator().manual_seed(0))
    assert draws.top.min() == 0 and draws.top.max() == 10 and draws.left.max() == 10
    assert abs(draws.flip.double().mean() - 0.3) < 0.03
    top, left, height, width = draws.erase.unbind(1)
    erased = height > 0
    assert abs(erased.double().mean() - 0.6) < 0.03
    assert (top + height <= 64).all() and (left + width <= 32).all() and (top >= 0).all() and (left >= 0).all()
    area = (height * width)[erased] / (64 * 32)
    assert area.min() > 0.01 and area.max() < 0.42
    again = Draws.sample(4000, config, torch.Generator().manual_seed(0))
    assert torch.equal(draws.erase, again.erase) and torch.equal(draws.top, again.top)
    nothing = Draws.sample(100, AugmentConfig(flip=0, erase=0), torch.Generator())
    assert not nothing.flip.any() and not nothing.erase[:, 2:].any()


@pytest.mark.parametrize(
    "options", [{"size": (0, 8)}, {"flip": 1.5}, {"erase": -1}, {"pad": -1}, {"erase_area": (0.5, 0.1)}]
)
def test_augment_config_is_checked(options: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        AugmentConfig(**options)
