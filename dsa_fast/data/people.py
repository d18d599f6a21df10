"""The common form of all data sets: one list of people for each split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["PeopleSplits", "Person"]


@dataclass(frozen=True)
class Person:
    """One image of one person.

    Attributes:
        path: file of the image.
        iuv_path: file of its IUV map (or path in a store, see `IUVStore`); None if it has no map.
        pid: identity; 0 is a distractor, -1 junk (Market-1501's convention).
        camid: camera, 1-based.
        iuv_place: expected path of its IUV map, whether or not it exists; None if there is none.
    """

    path: Path
    iuv_path: Path | None
    pid: int
    camid: int
    iuv_place: Path | None = field(default=None, compare=False)


@dataclass(frozen=True)
class PeopleSplits:
    """The splits of a data set.

    The pids and camids are the data set's own. In another data set, and in MSMT17 also in another split, the same
    numbers mean different people and cameras. They are never compared across data sets: training renumbers the pids of
    `train`, and the evaluation uses `query` and `gallery` of one data set.

    Attributes:
        name: the data set's name, such as `market1501`.
        root: its folder.
        train: training images (no junk, no distractors).
        query: queries; all pids are above 0.
        gallery: gallery, with junk and distractors (the evaluation handles them).
        multi_query: additional images of the queries' people by the queries' cameras, for multi-query tests; empty if
            the data set has none.
    """

    name: str
    root: Path
    train: list[Person]
    query: list[Person]
    gallery: list[Person]
    multi_query: list[Person] = field(default_factory=list)

    def summary(self) -> list[tuple[str, int, int, int, int]]:
        """Returns one row per split: name, images, identities (without junk and distractors), cameras, IUV maps."""
        rows = []
        for name in ("train", "query", "gallery"):
            people: list[Person] = getattr(self, name)
            identities = {person.pid for person in people if person.pid > 0}
            cameras = {person.camid for person in people}
            maps = sum(person.iuv_path is not None for person in people)
            rows.append((name, len(people), len(identities), len(cameras), maps))
        return rows

    def check_counts(self, title: str, published: Mapping[str, int]) -> None:
        """Compares the image counts with the published ones.

        Args:
            title: the data set's name in the message.
            published: image count of each split (`train`, `query`, `gallery`).

        Raises:
            ValueError: a count differs; the message lists all counts.
        """
        found = {split: len(getattr(self, split)) for split in published}
        if found != published:
            wanted, got = (
                ", ".join(f"{number} {split}" for split, number in numbers.items()) for numbers in (published, found)
            )
            raise ValueError(
                f"{title} must have {wanted} images as published, got {got} in {self.root}: "
                "the copy is incomplete or was changed; check_counts=False skips this check"
            )
