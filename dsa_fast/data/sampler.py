"""Samples P x K batches: P identities, K images of each (Hermans et al., "In Defense of the Triplet Loss", 2017)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler


class PKSampler(Sampler[list[int]]):
    """A batch sampler of P identities x K images. An epoch shows every image at least once.

    In each epoch, an identity's images are shuffled and cut into groups of K. A short group is filled with other images
    of the same identity (each as rarely as possible). The groups are dealt to the epoch's batches in turn, one
    identity after another in random order, so no batch has an identity twice. Batches with too few identities are
    filled with groups of random other identities. So an epoch has at least as many batches as the largest identity has
    groups. The images of a batch are ordered by identity: [a a a a b b b b ...].

    The batches depend only on `seed` and the epoch. Several processes compute the same batches and take turns. Each
    gets the same number of batches, so some batches may appear twice in an epoch.

    Args:
        pids: identity of each image in the data set, [N].
        p: identities per batch.
        k: images per identity.
        seed: random seed.
        rank: index of this process.
        world_size: number of processes.

    Raises:
        ValueError: p or k is below 1, rank is outside 0..world_size-1, or there are fewer than p identities.
    """

    def __init__(
        self,
        pids: Sequence[int],
        p: int = 16,
        k: int = 4,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if p < 1 or k < 1:
            raise ValueError(f"p and k must be at least 1, got p={p}, k={k}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be in 0..world_size-1, got rank={rank}, world_size={world_size}")
        array = np.asarray(pids)
        self._images = [np.flatnonzero(array == pid) for pid in np.unique(array)]
        if len(self._images) < p:
            raise ValueError(f"p must be at most the number of identities ({len(self._images)}), got p={p}: lower p")
        self.p, self.k, self.seed, self.rank, self.world_size = p, k, seed, rank, world_size
        self.epoch = 0
        groups = [-(-len(images) // k) for images in self._images]
        self._num_batches = max(-(-sum(groups) // p), max(groups))

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the next iteration. The training loop calls this."""
        self.epoch = epoch

    @property
    def sampler(self) -> PKSampler:
        """This sampler itself: Lightning calls `set_epoch` on a batch sampler's sampler."""
        return self

    def __len__(self) -> int:
        return -(-self._num_batches // self.world_size)

    def __iter__(self) -> Iterator[list[int]]:
        batches = self._draw(np.random.default_rng([self.seed, self.epoch]))
        for i in range(len(self)):
            yield batches[(i * self.world_size + self.rank) % len(batches)]

    def _draw(self, rng: np.random.Generator) -> list[list[int]]:
        batches: list[dict[int, np.ndarray]] = [{} for _ in range(self._num_batches)]
        turn = 0
        for identity in rng.permutation(len(self._images)):
            for group in self._groups(self._images[identity], rng):
                batches[turn % self._num_batches][int(identity)] = group
                turn += 1
        for batch in batches:
            others = np.setdiff1d(np.arange(len(self._images)), list(batch))
            for identity in rng.choice(others, size=self.p - len(batch), replace=False):
                batch[int(identity)] = self._groups(self._images[identity], rng)[0]
        return [np.concatenate(list(batches[i].values())).tolist() for i in rng.permutation(len(batches))]

    def _groups(self, images: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
        """Returns all of one identity's images in groups of K. The last group is filled up."""
        order = rng.permutation(images)
        short = -len(order) % self.k
        if short:
            last = order[len(order) - len(order) % self.k :]
            spare = rng.permutation(np.setdiff1d(images, last))
            # First images that are not in the short group, then repeats.
            filler = np.concatenate([spare, *[rng.permutation(images) for _ in range(-(-short // len(images)))]])
            order = np.concatenate([order, filler[:short]])
        return list(order.reshape(-1, self.k))
