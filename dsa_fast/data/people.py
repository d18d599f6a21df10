"""The form that every data set is read into: one list of people for each split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["PeopleSplits", "Person"]


@dataclass(frozen=True)
class Person:
    """One image of one person.

    Attributes:
        path: the image's file.
        iuv_path: its IUV map's file (or its path in a store, see `IUVStore`); None if it has none.
        pid: identity; 0 is a distractor, -1 junk (Market-1501's convention).
        camid: camera, 1-based.
        iuv_place: the path where its IUV map is looked for, whether it exists or not; None if none is looked for.
    """

    path: Path
    iuv_path: Path | None
    pid: int
    camid: int
    iuv_place: Path | None = field(default=None, compare=False)


@dataclass(frozen=True)
class PeopleSplits:
    """The splits of a data set.

    The pids and camids are the data set's own. The same numbers mean other people and cameras in another data set, and
    in MSMT17 also in another split. Nothing compares them across data sets: training renumbers the pids of `train`, and
    the evaluation uses `query` and `gallery` of one data set.

    Attributes:
        name: the data set's name, such as `market1501`.
        root: its folder.
        train: people to train on (no junk, no distractors).
        query: queries; all pids are above 0.
        gallery: gallery, with junk and distractors (the evaluation handles them).
        multi_query: more images of the queries' people by the queries' cameras, for multi-query tests; empty if the
            data set has none.
    """

    name: str
    root: Path
    train: list[Person]
    query: list[Person]
    gallery: list[Person]
    multi_query: list[Person] = field(default_factory=list)

    def summary(self) -> list[tuple[str, int, int, int, int]]:
        """Returns one row a split: name, images, identities (without junk and distractors), cameras, IUV maps."""
        rows = []
        for name in ("train", "query", "gallery"):
            people: list[Person] = getattr(self, name)
            identities = {person.pid for person in people if person.pid > 0}
            cameras = {person.camid for person in people}
            maps = sum(person.iuv_path is not None for person in people)
            rows.append((name, len(people), len(identities), len(cameras), maps))
        return rows

    def check_counts(self, title: str, published: Mapping[str, int]) -> None:
        """Compares the numbers of images with the published ones.

        Args:
            title: the data set's name in the message.
            published: images of each split (`train`, `query`, `gallery`).

        Raises:
            ValueError: a number differs; the message lists all numbers.
        """
        found = {split: len(getattr(self, split)) for split in published}
        if found != published:
            wanted, got = (
                ", ".join(f"{number} {split}" for split, number in numbers.items()) for numbers in (published, found)
            )
            raise ValueError(
                f"{title} must have {wanted} images as published, got {got} in {self.root}: "
                "the copy is not complete or was changed; check_counts=False reads it as it is"
            )
