"""The store of training people: its pixels, its file, where it goes, its batches, and runs that train from it."""

from __future__ import annotations

import json
import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dsa_fast.configs.augment import AugmentConfig
from dsa_fast.data import person_store as store_module
from dsa_fast.data.dataset import Collate, PeopleDataset
from dsa_fast.data.people import Person
from dsa_fast.data.person_store import PersonStore, StoreLoader, choose_place, measure
from dsa_fast.data.registry import read_dataset
from dsa_fast.data.sampler import PKSampler
from dsa_fast.data.transforms import Draws, augment_batch, augment_batch_reference
from dsa_fast.training import DataConfig, fit
from tests.cuda import require_cuda
from tests.data.trees import make_tree
from tests.training.small import AUGMENT, MODEL, TRAINER, losses

SIZE = (32, 16)


@pytest.fixture
def people(tmp_path: Path) -> list[Person]:
    names = [f"{pid:04}_c{cam}s1_{i:06}_00.png" for pid in (2, 5, 9) for cam in (1, 2) for i in range(2)]
    tree = {"bounding_box_train": names, "query": names[:1], "bounding_box_test": names[2:3]}
    return read_dataset(make_tree(tmp_path / "people", tree, size=(24, 12)), check_counts=False).train


def open_store(people: list[Person], cache: Path | None = None, **options: object) -> PersonStore:
    return PersonStore.open(people, SIZE, cache=cache, **options)  # type: ignore[arg-type]


def bins(cache: Path) -> list[Path]:
    return sorted(cache.glob("*/people-*.bin"))


# ---- pixels --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("cached", [False, True])
def test_holds_what_the_files_hold(people: list[Person], tmp_path: Path, cached: bool, workers: int) -> None:
    people[1] = replace(people[1], iuv_path=None)
    store = open_store(people, tmp_path / "cache" if cached else None, workers=workers)
    items = PeopleDataset(people)
    assert len(store) == len(people) == 12 and store.num_bytes == 12 * 6 * 24 * 12
    for n in range(12):
        assert torch.equal(store.images[n], items[n]["image"]) and torch.equal(store.iuv[n], items[n]["iuv"])
    assert not store.iuv[1].any() and store.iuv[0].any()


def test_more_people_than_a_chunk(people: list[Person]) -> None:
    many = people * 12
    store = open_store(many, workers=2)
    assert torch.equal(store.images, open_store(people).images.repeat(12, 1, 1, 1))


def test_unequal_sizes_are_resized_as_a_batch_would_be(people: list[Person]) -> None:
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 20, 3), dtype=np.uint8)).save(people[3].path)
    people[3] = replace(people[3], iuv_path=None)
    assert measure(people, SIZE) == SIZE and measure(people[:3], SIZE) == (24, 12)
    store = open_store(people)
    assert store.images.shape == (12, 3, *SIZE)
    batch = Collate(SIZE)([PeopleDataset(people)[n] for n in range(12)])
    assert torch.equal(store.images, batch["image"]) and torch.equal(store.iuv, batch["iuv"])
    # The network sees the pixels that it would see without a store.
    config = AugmentConfig(size=SIZE, pad=2, dsap_size=8)
    one = PeopleDataset(people)[0]
    draws = Draws.sample(1, config, torch.Generator().manual_seed(0))
    for a, b in zip(
        augment_batch(store.images, store.iuv, draws, config, indices=[0]),
        augment_batch_reference(one["image"][None], one["iuv"][None], draws, config),
        strict=True,
    ):
        assert torch.equal(a, b)


def test_broken_and_missing_files_are_named(people: list[Person], tmp_path: Path) -> None:
    whole = people[4].path.read_bytes()
    people[4].path.write_bytes(whole[:200])
    with pytest.raises(ValueError, match=people[4].path.name):
        open_store(people, tmp_path / "cache")
    assert {file.name for file in (tmp_path / "cache").glob("*/*")} <= {".lock"}  # nothing half-written
    people[4].path.write_bytes(b"no image")
    with pytest.raises(ValueError, match=people[4].path.name):
        open_store(people)
    people[4].path.unlink()
    with pytest.raises(ValueError, match=f"1 files can't be used, the first is .*{people[4].path.name}"):
        open_store(people)
    with pytest.raises(ValueError, match="people must not be empty"):
        open_store([])


# ---- the file ------------------------------------------------------------------------------------------------------


def test_second_start_reads_no_image(
    people: list[Person], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = open_store(people, tmp_path)
    monkeypatch.setattr(store_module, "read_image", lambda path: pytest.fail("an image was read"))
    monkeypatch.setattr(store_module, "measure", lambda *_: pytest.fail("headers were read"))
    with caplog.at_level(logging.INFO):
        second = open_store(people, tmp_path)
    assert torch.equal(first.images, second.images) and torch.equal(first.iuv, second.iuv)
    assert "mapped from" in caplog.text
    (manifest,) = tmp_path.glob("*/manifest.json")
    about = json.loads(manifest.read_text())
    assert (about["people"], about["height"], about["width"]) == (12, 24, 12)
    assert bins(tmp_path)[0].stat().st_size == about["bytes"] == first.num_bytes


def test_writing_to_the_store_leaves_the_file_alone(people: list[Person], tmp_path: Path) -> None:
    before = open_store(people, tmp_path).images.clone()
    open_store(people, tmp_path).images.zero_()
    assert torch.equal(open_store(people, tmp_path).images, before)


@pytest.mark.parametrize("change", ["image", "time", "map", "cut", "manifest", "version", "file", "outside", "list"])
def test_an_invalid_cache_is_made_anew(
    people: list[Person], tmp_path: Path, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "cache"
    open_store(people, cache)
    (manifest,) = cache.glob("*/manifest.json")
    (data,) = bins(cache)
    about = json.loads(manifest.read_text())
    if change == "image":
        Image.new("RGB", (12, 24), (1, 2, 3)).save(people[0].path)
    elif change == "time":
        os.utime(people[0].path, ns=(1, 1))
    elif change == "map":
        assert people[0].iuv_path is not None
        os.utime(people[0].iuv_path, ns=(1, 1))
    elif change == "cut":
        data.write_bytes(data.read_bytes()[:-1])
    elif change == "manifest":
        manifest.write_text("{")
    elif change == "version":
        manifest.write_text(json.dumps(about | {"format_version": 0}))
    elif change == "file":
        data.unlink()
    elif change == "outside":
        manifest.write_text(json.dumps(about | {"file": "../" + data.name}))
    else:
        manifest.write_text("[]")
    with caplog.at_level(logging.INFO):
        store = open_store(people, cache)
    assert "is rebuilt: " in caplog.text
    items = PeopleDataset(people)
    assert all(torch.equal(store.images[n], items[n]["image"]) for n in range(12))
    assert len(bins(cache)) == 1 and bins(cache)[0] != data
    caplog.clear()
    with caplog.at_level(logging.INFO):
        open_store(people, cache)
    assert "mapped from" in caplog.text


def test_of_two_processes_one_reads_the_files(
    people: list[Person], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fcntl")
    read, begun, waiting = store_module.read_image, threading.Event(), threading.Event()
    images: list[Path] = []

    def slowly(path: Path) -> torch.Tensor:
        begun.set()
        assert waiting.wait(60)
        images.append(path)
        return read(path)

    def say(text: str, progress: bool) -> None:
        if "waiting for another process" in text:
            waiting.set()

    monkeypatch.setattr(store_module, "read_image", slowly)
    monkeypatch.setattr(store_module, "say", say)
    # A lock belongs to an open file, so that threads stand for processes here.
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(open_store, people, tmp_path)
        assert begun.wait(60)
        second = pool.submit(open_store, people, tmp_path)
        stores = [first.result(), second.result()]
    assert len(images) == len(people) and len(bins(tmp_path)) == 1
    assert torch.equal(stores[0].images, stores[1].images) and torch.equal(stores[0].iuv, stores[1].iuv)


def test_what_a_killed_process_left_is_removed(people: list[Person], tmp_path: Path) -> None:
    open_store(people, tmp_path)
    (data,) = bins(tmp_path)
    left = data.with_name(".people-00000000.1234-01234567.bin")
    left.write_bytes(b"half")
    os.utime(left, (1, 1))
    data.unlink()
    assert len(open_store(people, tmp_path)) == len(people)
    assert not left.exists() and len(bins(tmp_path)) == 1


def test_lists_and_sizes_do_not_mix(people: list[Person], tmp_path: Path) -> None:
    open_store(people, tmp_path)
    assert len(open_store(people[:5], tmp_path)) == 5 and len(open_store(people[::-1], tmp_path)) == 12
    assert torch.equal(open_store(people[::-1], tmp_path).images, open_store(people, tmp_path).images.flip(0))
    assert len(bins(tmp_path)) == 3
    Image.new("RGB", (20, 40)).save(people[0].path)
    people[0] = replace(people[0], iuv_path=None)
    for size in (SIZE, (64, 32)):
        assert PersonStore.open(people, size, cache=tmp_path).images.shape[2:] == size


def test_without_a_place_to_write(
    people: list[Person], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with caplog.at_level(logging.INFO):
        store = open_store(people, blocked / "cache")
    assert "kept in memory only" in caplog.text and len(store) == 12
    monkeypatch.setattr(store_module.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10})())
    caplog.clear()
    with caplog.at_level(logging.INFO):
        again = open_store(people, tmp_path / "full")
    assert "the disk has only" in caplog.text and torch.equal(store.images, again.images)
    assert not (tmp_path / "full").exists()


# ---- where it goes -------------------------------------------------------------------------------------------------


def test_place_is_chosen_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_free_host_bytes", lambda: 8_000_000_000)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2_000_000_000, 16_000_000_000))
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 0)
    assert choose_place(4_000_000_000, cpu) == ("device", "4.0 GB fit in half of the 8.0 GB free")
    assert choose_place(4_000_000_001, cpu)[0] == "disk"
    assert choose_place(500_000_000, gpu)[0] == "device"
    place, why = choose_place(600_000_000, gpu)
    assert place == "pinned"
    assert why == (
        "0.6 GB do not fit in a quarter of the 2.0 GB free on cuda:0; "
        "0.6 GB (1.1 GB when pinned) fit in half of the 8.0 GB free"
    )
    assert choose_place(600_000_000, gpu, processes=8)[0] == "disk"
    monkeypatch.setattr(store_module, "_free_host_bytes", lambda: None)
    assert choose_place(1, cpu) == ("disk", "the free memory is not known")


def test_pinned_memory_is_rounded_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images and maps are pinned apart, and PyTorch rounds each up to a power of two."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 16_000_000_000))
    gpu, most = torch.device("cuda", 0), 2 * 2**30
    monkeypatch.setattr(store_module, "_free_host_bytes", lambda: 2 * most)
    assert choose_place(most, gpu) == (
        "pinned",
        "2.1 GB do not fit in a quarter of the 0.0 MB free on cuda:0; 2.1 GB fit in half of the 4.3 GB free",
    )
    monkeypatch.setattr(store_module, "_free_host_bytes", lambda: 2 * most + 10_000)
    place, why = choose_place(most + 1, gpu)
    assert place == "disk" and "2.1 GB (4.3 GB when pinned) do not fit in half of the 4.3 GB free" in why
    assert choose_place(most + 1, torch.device("cpu"))[0] == "device"  # not pinned
    assert [store_module._pinned_bytes(n) for n in (0, 1, 2, 3, 6, 8, 9)] == [0, 2, 2, 4, 8, 8, 16]


def test_free_memory_is_known_here() -> None:
    free = store_module._free_host_bytes()
    assert free is None or 0 < free < 2**50


# ---- batches -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("ahead", [0, 2, 100])
def test_batches_are_those_of_the_sampler(people: list[Person], whole: bool, ahead: int) -> None:
    store = open_store(people)
    pids = torch.tensor([person.pid for person in people])
    camids = torch.tensor([person.camid for person in people])
    sampler = PKSampler(pids.tolist(), 2, 2, seed=4)
    loader = StoreLoader(store, pids, camids, sampler, torch.device("cpu"), whole=whole, ahead=ahead)
    for epoch in (0, 1):
        loader.batch_sampler.sampler.set_epoch(epoch)
        batches = list(loader)
        assert len(batches) == len(loader) == len(sampler)
        for indices, batch in zip(sampler, batches, strict=True):
            chosen = batch.get("index", np.arange(4))
            assert torch.equal(batch["image"][chosen], store.images[indices])
            assert torch.equal(batch["iuv"][chosen], store.iuv[indices])
            assert torch.equal(batch["label"], pids[indices]) and torch.equal(batch["camid"], camids[indices])
            assert ("index" in batch) == whole == (batch["image"] is store.images)


def test_batches_reach_a_gpu(people: list[Person]) -> None:
    require_cuda()
    store = open_store(people)
    pids = torch.tensor([person.pid for person in people])
    sampler = PKSampler(pids.tolist(), 2, 2, seed=4)
    gpu = torch.device("cuda", 0)
    for there in (store.to(gpu), store.pin()):
        loader = StoreLoader(there, pids, pids, sampler, gpu)
        assert loader.whole == (there.images.is_cuda)
        for indices, batch in zip(sampler, loader, strict=True):
            chosen = batch.get("index", np.arange(4))
            assert batch["image"].is_cuda and torch.equal(batch["image"][chosen].cpu(), store.images[indices])
            assert torch.equal(batch["iuv"][chosen].cpu(), store.iuv[indices])


# ---- training ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    train = [f"{pid:04}_c{cam}s1_{i:06}_00.png" for pid in (2, 5, 9, 11) for cam in (1, 2) for i in range(2)]
    test = [f"{pid:04}_c{cam}s1_000000_00.png" for pid in (3, 4) for cam in (1, 2)]
    names = {"bounding_box_train": train, "query": test[::2], "bounding_box_test": test[1::2]}
    return make_tree(tmp_path_factory.mktemp("data") / "people", names, size=(24, 12))


def test_every_place_trains_alike(tree: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = replace(TRAINER, max_epochs=2, eval_every=0)
    words = {
        "disk": "in their files, read by 0 worker processes (set by data.store)",
        "device": "on the training device, cpu (set by data.store)",
        "pinned": "in host memory (set by data.store)",
        "auto": "on the training device, cpu (0.0 MB fit in half of",
    }
    runs = {}
    for place, word in words.items():
        data = DataConfig(str(tree), p=2, k=2, workers=0, store=place, cache=str(tmp_path / "cache"))  # type: ignore[arg-type]
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="dsa_fast"):
            runs[place] = fit(data, MODEL, augment=AUGMENT, trainer=trainer, out=tmp_path / place)
        assert f"store: 16 training people {word}" in caplog.text
    states = {place: torch.load(run.checkpoint, weights_only=True)["state_dict"] for place, run in runs.items()}
    assert len(losses(runs["disk"].log)) == 8
    for place in words:
        assert losses(runs[place].log) == losses(runs["disk"].log)
        assert all(torch.equal(states[place][name], states["disk"][name]) for name in states["disk"])
    # Another store is no other run: resuming may change it.
    longer = replace(trainer, max_epochs=3)
    data = DataConfig(str(tree), p=2, k=2, workers=0, store="disk")
    assert len(losses(fit(data, MODEL, augment=AUGMENT, trainer=longer, out=tmp_path / "auto", resume=True).log)) == 12


def test_where_the_cache_is(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = replace(TRAINER, max_epochs=1, eval_every=0)
    data = DataConfig(str(tree), p=2, k=2, workers=0)
    fit(replace(data, cache="off"), MODEL, augment=AUGMENT, trainer=trainer, out=tmp_path / "off")
    assert not (tree / ".dsa_fast").exists() and not (tmp_path / "off" / "store").exists()
    fit(data, MODEL, augment=AUGMENT, trainer=trainer, out=tmp_path / "auto")
    assert len(bins(tree / ".dsa_fast")) == 1
    assert len(read_dataset(tree, check_counts=False).train) == 16  # the folder is not taken for a data set
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != tree and allowed(path, mode))
    fit(data, MODEL, augment=AUGMENT, trainer=trainer, out=tmp_path / "readonly")
    assert len(bins(tmp_path / "readonly" / "store")) == 1
