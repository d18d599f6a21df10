"""Lightning's data module: P x K batches to train on, query and gallery to test on."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import DataLoader

from dsa_fast.configs.training import DataConfig
from dsa_fast.data import person_folders
from dsa_fast.data.dataset import Collate, PeopleDataset, PersonItem
from dsa_fast.data.folders import IuvMaps, plain_folder
from dsa_fast.data.people import PeopleSplits, Person
from dsa_fast.data.person_store import PersonStore, Place, StoreLoader, choose_place, measure, say
from dsa_fast.data.registry import holds_dataset, read_dataset
from dsa_fast.data.sampler import PKSampler
from dsa_fast.data.split import matchable, split_test
from dsa_fast.data.verify import verify_files


def read_people(config: DataConfig) -> PeopleSplits:
    """Lists the people to train and test on. With `test_root`, query and gallery come from that data set.

    Two data sets may use the same pids and camids for different people and cameras. This does no harm, because training
    and evaluation each use one data set only.

    Raises:
        FileNotFoundError, ValueError: see `read_dataset`; also ValueError if there is nobody to train on.
    """
    people = read_dataset(config.root, config.name, iuv=config.iuv, check_counts=config.check_counts, **config.options)
    if not people.train:
        raise ValueError(f"root must hold people to train on, got none in {people.root} ({people.name})")
    if config.validation_ids:
        return hold_out(people, config.validation_ids, config.validation_seed)
    if config.test_root is None:
        return people
    test = read_dataset(config.test_root, config.test_name, check_counts=config.check_counts, **config.test_options)
    return replace(test, name=people.name, root=people.root, train=people.train)


def hold_out(people: PeopleSplits, identities: int, seed: int = 0) -> PeopleSplits:
    """Holds out identities of the training set as a test set. Drops the data set's own query and gallery.

    Query and gallery are those of `split_test`, in list order. Identities seen by only one camera (or, if no cameras
    are known, with only one image) stay in the training set, because their queries would have no match.

    Args:
        people: a data set.
        identities: number of identities to hold out.
        seed: seed of the random choice; the same training set and seed give the same identities.

    Raises:
        ValueError: `identities` is below 1, or not below the number of identities seen by two or more cameras.
    """
    able = matchable(people.train)
    if not 0 < identities < len(able):
        seen = "seen by two cameras" if people.has_cameras else "with two images"
        raise ValueError(
            f"data.validation_ids must be from 1 to {len(able) - 1}, one less than the identities {seen} "
            f"in {people.name}, got {identities}"
        )
    chosen = set(np.random.default_rng(seed).permutation(able)[:identities].tolist())
    query, gallery = split_test([person for person in people.train if person.pid in chosen])
    train = [person for person in people.train if person.pid not in chosen]
    return replace(people, train=train, query=query, gallery=gallery, multi_query=[], is_split=True, gallery_draws=0)


def read_unlabeled(config: DataConfig) -> PeopleSplits:
    """Lists the training images that have an IUV map, each as a person of its own, with nobody to test on.

    `root` is a data set, whose test images and held-out people are left out, or a folder with images at any depth. A
    folder's maps are in its subfolder `iuv`, in `config.iuv`, or next to the images, as `dsa-fast pack` reads them.

    Raises:
        FileNotFoundError, ValueError: see `read_dataset`; also ValueError if no image has a map.
    """
    root = Path(config.root).expanduser()
    plain = config.name == "folder"
    if config.name == "auto" and root.is_dir():
        plain = not holds_dataset(root) and not person_folders.FORMAT.holds(root)
    if plain:
        if not root.is_dir():
            raise FileNotFoundError(f"data.root must be a folder with data.name folder, got {root}")
        if config.validation_ids:
            raise ValueError(
                "data.validation_ids must be 0 for a plain folder, which has no identities, "
                f"got {config.validation_ids}"
            )
        listed = list(plain_folder(root, IuvMaps(root, config.iuv)))
        name, found = "folder", [(image, place) for _, image, place in listed if image is not None]
    else:
        people = read_people(replace(config, test_root=None))
        name, root, found = people.name, people.root, [(person.path, person.iuv_path) for person in people.train]
    images = [(image, place) for image, place in found if place is not None]
    if not images:
        raise ValueError(
            f"data.root must hold images with IUV maps, got none of {len(found)} in {config.iuv or root}: make them "
            f"with dsa-fast prepare {config.root}"
        )
    train = [Person(path, place, pid=number, camid=number) for number, (path, place) in enumerate(images, 1)]
    return PeopleSplits(name=name, root=root, train=train, query=[], gallery=[], has_cameras=False)


class ReIDData(lightning.LightningDataModule):
    """Training batches of a data set, and test batches of the same or another data set.

    Args:
        config: location of the people and sizes of the batches.
        size: height and width to which images are resized if they differ in size.
        seed: seed of the P x K batches.
        stamp: file that records that all files were valid; see `verify_files`.
        folder: the run's folder, which gets the store's file if the data set's folder is not writable.
        progress: shows a progress bar while files are checked and read.
        identities: whether training needs identities; if not, see `read_unlabeled`. Batches then have P x K images.

    Raises:
        FileNotFoundError, ValueError: see `read_people`, `read_unlabeled` and `PKSampler`.
    """

    def __init__(
        self,
        config: DataConfig,
        size: tuple[int, int],
        seed: int = 0,
        *,
        stamp: Path | None = None,
        folder: Path | None = None,
        progress: bool = False,
        identities: bool = True,
    ) -> None:
        super().__init__()
        self.seed, self.people = seed, read_people(config) if identities else read_unlabeled(config)
        self._kind = "people" if identities else "images with maps"
        if not identities:
            config = replace(config, p=min(config.p * config.k, len(self.people.train)), k=1)
        self.config = config
        self._size, self._collate, self._folder = size, Collate(size), folder
        self._store: PersonStore | None = None
        self._chosen: tuple[Place, str] | None = None
        self._stamp, self._progress, self._verified = stamp, progress, False

    def check_batches(self) -> None:
        """Checks that there are enough people for a batch, before anything is written.

        Raises:
            ValueError: there is only one person, or `config.p` is larger than the number of people.
        """
        if self.num_ids < 2:
            raise ValueError(
                f"data.root must hold two {self._kind} or more to train on, got {self.num_ids} in {self.people.root}"
            )
        if self.config.p > self.num_ids:
            raise ValueError(
                f"data.p, the people in a batch, must be at most the number of people to train on, {self.num_ids} "
                f"({self.people.name}), got {self.config.p}: give data.p={self.num_ids} or less"
            )

    def verify(self) -> None:
        """Decodes all files, unless this has been done or `config.verify` is off.

        Raises:
            ValueError: files are missing or broken; the message lists them.
        """
        if not self.config.verify or self._verified:
            return
        people = [*self.people.train, *self.people.query, *self.people.gallery]
        verify_files(people, iuv_order=self.config.iuv_order, stamp=self._stamp, progress=self._progress)
        self._verified = True

    def prepare_data(self) -> None:
        """Decodes all files once, in one process per machine, before training starts.

        Raises:
            ValueError: files are missing or broken; the message lists them.
        """
        self.verify()
        if self._fitting() and self._cache() is not None and self._choose()[0] != "disk":
            self._open(self._progress)  # so that the other processes find the cache file

    def setup(self, stage: str) -> None:
        """Loads the training people into the location that `config.store` selects, in each process.

        Raises:
            ValueError: a file is broken, or the device has no room for `store` device. The message says which.
        """
        if stage != "fit" or self._store is not None:
            return
        place, why = self._choose()
        if place != "disk":
            store = self._open(progress=False)
            if place == "device":
                store = store.to(self._device())
            elif self._device().type == "cuda":
                store = store.pin()
            self._store = store
        where = {
            "device": f"on the training device, {self._device()}",
            "pinned": "in pinned host memory" if self._device().type == "cuda" else "in host memory",
            "disk": f"in their files, read by {self.config.workers} worker processes",
        }
        text = f"store: {len(self.people.train)} training people {where[place]} ({why})"
        rank_zero_only(say)(text, self._progress)

    def _fitting(self) -> bool:
        return self.trainer is not None and self.trainer.state.fn == "fit"

    def _device(self) -> torch.device:
        return self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")

    def _choose(self) -> tuple[Place, str]:
        """Returns the location of the training people, and the reason."""
        if self._chosen is None and self.config.store != "auto":
            self._chosen = self.config.store, "set by data.store"
        elif self._chosen is None:
            height, width = measure(self.people.train, self._size)
            num_bytes = 6 * height * width * len(self.people.train)
            self._chosen = choose_place(num_bytes, self._device(), self.trainer.num_devices if self.trainer else 1)
        return self._chosen

    def _open(self, progress: bool) -> PersonStore:
        return PersonStore.open(
            self.people.train, self._size, iuv_order=self.config.iuv_order, cache=self._cache(), progress=progress
        )

    def _cache(self) -> Path | None:
        """Returns the folder for the store's file, or None."""
        if self.config.cache == "off":
            return None
        if self.config.cache != "auto":
            return Path(self.config.cache)
        if os.access(self.people.root, os.W_OK):
            return self.people.root / ".dsa_fast"
        return self._folder / "store" if self._folder is not None else None

    @cached_property
    def labels(self) -> dict[int, int]:
        """The label 0..num_ids-1 of each training pid."""
        return {pid: label for label, pid in enumerate(sorted({person.pid for person in self.people.train}))}

    @property
    def num_ids(self) -> int:
        """Number of training identities."""
        return len(self.labels)

    def train_dataloader(self) -> DataLoader[PersonItem] | StoreLoader:
        """Returns P x K batches. The same seed and epoch give the same batches, for any `store`."""
        sampler = PKSampler(
            [person.pid for person in self.people.train],
            self.config.p,
            self.config.k,
            seed=self.seed,
            rank=self.trainer.global_rank if self.trainer else 0,
            world_size=self.trainer.world_size if self.trainer else 1,
        )
        if self._store is not None:
            labels = torch.tensor([self.labels[person.pid] for person in self.people.train])
            camids = torch.tensor([person.camid for person in self.people.train])
            whole = self._choose()[0] == "device"
            return StoreLoader(self._store, labels, camids, sampler, self._device(), whole=whole)
        dataset = PeopleDataset(self.people.train, self.labels, iuv_order=self.config.iuv_order)
        return DataLoader(dataset, batch_sampler=sampler, **self._loading())

    def val_dataloader(self) -> list[DataLoader[PersonItem]]:
        """Returns query and gallery, in this order, without IUV maps, which the test does not need.

        With N processes, process r has people r, r + N, ... of each. Shares are padded to one length from the start.
        """
        return [self._test_loader(people) for people in self.test_people]

    @property
    def test_people(self) -> tuple[list[Person], list[Person]]:
        """Query and gallery."""
        return self.people.query, self.people.gallery

    def check_testable(self) -> None:
        """Checks that the evaluation has at least one valid query, so that it does not fail after the first epochs.

        Raises:
            ValueError: query or gallery is empty, or no query has its person in the gallery by another camera.
        """
        if not self.people.query or not self.people.gallery:
            raise ValueError(
                f"the test needs query and gallery, got {len(self.people.query)} and {len(self.people.gallery)} images "
                f"({self.people.name}): set data.test_root, or set trainer.eval_every to 0"
            )
        cameras: dict[int, set[int]] = {}
        for person in self.people.gallery:
            cameras.setdefault(person.pid, set()).add(person.camid)
        if not any(cameras.get(person.pid, set()) - {person.camid} for person in self.people.query):
            raise ValueError(
                "the test needs a query with an image of its person by another camera in the gallery, "
                f"got none ({self.people.name})"
            )

    def _test_loader(self, people: list[Person]) -> DataLoader[PersonItem]:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        share = [people[place % len(people)] for place in range(rank, len(people) + -len(people) % world, world)]
        dataset = PeopleDataset(share, with_iuv=False)
        return DataLoader(dataset, batch_size=self.config.test_batch, **self._loading())

    def _loading(self) -> dict[str, Any]:
        workers = self.config.workers
        return {
            "num_workers": workers,
            "persistent_workers": workers > 0,
            "collate_fn": self._collate,
            "pin_memory": self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
        }
