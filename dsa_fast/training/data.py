"""Lightning's data module: P x K batches to train on, query and gallery to test on."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import lightning
from torch.utils.data import DataLoader

from dsa_fast.data.dataset import Collate, PeopleDataset, PersonItem
from dsa_fast.data.market import Market1501, Person
from dsa_fast.data.sampler import PKSampler
from dsa_fast.training.config import DataConfig


class ReIDData(lightning.LightningDataModule):
    """The three splits of a data set in Market-1501's layout.

    Args:
        config: where the people are, and how they are batched.
        size: height and width that images are brought to when they are not all of one size.
        seed: seed of the P x K batches.

    Raises:
        FileNotFoundError, ValueError: see `Market1501.read` and `PKSampler`.
    """

    def __init__(self, config: DataConfig, size: tuple[int, int], seed: int = 0) -> None:
        super().__init__()
        self.config, self.seed = config, seed
        self.people = Market1501.read(config.root, config.iuv)
        self._collate = Collate(size)

    @cached_property
    def labels(self) -> dict[int, int]:
        """The label 0..num_ids-1 of each training pid."""
        return {pid: label for label, pid in enumerate(sorted({person.pid for person in self.people.train}))}

    @property
    def num_ids(self) -> int:
        """How many identities there are to train on."""
        return len(self.labels)

    def train_dataloader(self) -> DataLoader[PersonItem]:
        """P x K batches; the same ones for the same seed and epoch."""
        dataset = PeopleDataset(self.people.train, self.labels)
        sampler = PKSampler(
            [person.pid for person in self.people.train],
            self.config.p,
            self.config.k,
            seed=self.seed,
            rank=self.trainer.global_rank if self.trainer else 0,
            world_size=self.trainer.world_size if self.trainer else 1,
        )
        return DataLoader(dataset, batch_sampler=sampler, **self._loading())

    def val_dataloader(self) -> list[DataLoader[PersonItem]]:
        """Query and gallery, in this order, without IUV: the test needs none."""
        return [self.test_loader(self.people.query), self.test_loader(self.people.gallery)]

    def test_loader(self, people: list[Person], with_iuv: bool = False) -> DataLoader[PersonItem]:
        """Batches of people in order, with their pids as labels."""
        dataset = PeopleDataset(people, with_iuv=with_iuv)
        return DataLoader(dataset, batch_size=self.config.test_batch, **self._loading())

    def _loading(self) -> dict[str, Any]:
        workers = self.config.workers
        return {
            "num_workers": workers,
            "persistent_workers": workers > 0,
            "collate_fn": self._collate,
            "pin_memory": self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
        }
