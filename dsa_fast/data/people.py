"""What every data set is read into: lists of people, one list a split."""

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
        iuv_path: its IUV map's file (or its place in a store, see `IUVStore`), or None where there is none.
        pid: identity; 0 is a distractor, -1 junk (Market-1501's convention).
        camid: camera, 1-based.
        iuv_place: where its IUV map is looked for, whether there is one or not; None where none is looked for.
    """

    path: Path
    iuv_path: Path | None
    pid: int
    camid: int
    iuv_place: Path | None = field(default=None, compare=False)


@dataclass(frozen=True)
class PeopleSplits:
    """The splits of a data set.

    The pids and camids are those of the data set itself, so that the same numbers mean other people and cameras in
    another data set, and in some (MSMT17) in another split. Nothing compares them across: training numbers the pids
    of `train` anew, and the evaluation looks at `query` and `gallery` of one data set.

    Attributes:
        name: which data set it is, such as `market1501`.
        root: its folder.
        train: people to train on (no junk, no distractors).
        query: queries; all pids are above 0.
        gallery: gallery, junk and distractors included (the evaluation knows what they are).
        multi_query: further images of the queries' people by the queries' cameras, for multi-query tests; empty where
            the data set has none.
    """

    name: str
    root: Path
    train: list[Person]
    query: list[Person]
    gallery: list[Person]
    multi_query: list[Person] = field(default_factory=list)

    def summary(self) -> list[tuple[str, int, int, int, int]]:
        """One row a split: name, images, identities (junk and distractors not counted), cameras, IUV maps."""
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
            ValueError: a number differs; the message names all of both.
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
