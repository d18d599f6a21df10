"""The common form of all data sets: one list of people for each split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

__all__ = ["Names", "PeopleSplits", "Person"]


@dataclass(frozen=True)
class Person:
    """One image of one person.

    Attributes:
        path: file of the image.
        iuv_path: file of its IUV map (or path in a store, see `IUVStore`); None if it has no map.
        pid: identity; 0 is a distractor, -1 junk (Market-1501's convention).
        camid: camera, 1-based.
        iuv_place: expected path of its IUV map, whether or not it exists; None if there is none.
        clothes: what the person wears, numbered within a person; 0 if that is not known.
        tracklet: number of the tracklet (images of one walk past one camera), from 1; 0 if there are none.
    """

    path: Path
    iuv_path: Path | None
    pid: int
    camid: int
    iuv_place: Path | None = field(default=None, compare=False)
    clothes: int = field(default=0, compare=False)
    tracklet: int = field(default=0, compare=False)


class Names(NamedTuple):
    """What pictures and tables call people and cameras.

    Attributes:
        people: the ids that stand for pids above 0; others are called by their number.
        cameras: the ids that stand for camids; others are called by their number.
        has_cameras: False if camids are no cameras, but tell the images apart.
    """

    people: Mapping[int, str] = {}
    cameras: Mapping[int, str] = {}
    has_cameras: bool = True

    def person(self, pid: int) -> str:
        """Names a person: "alice", "pid 7", "distractor" or "junk"."""
        return {0: "distractor", -1: "junk"}.get(pid) or self.people.get(pid, f"pid {pid}")

    def camera(self, camid: int) -> str:
        """Names a camera: "camera door", "camera 3", or "" if no cameras are known."""
        return f"camera {self.cameras.get(camid, camid)}" if self.has_cameras else ""

    def lines(self, pid: int, camid: int) -> list[str]:
        """Names a person, and a camera if any are known."""
        return [self.person(pid), *([self.camera(camid)] if self.has_cameras else [])]


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
        pid_names: the ids that stand for pids above 0 in your own data, if they are text (`alice`).
        camera_names: the ids that stand for camids in your own data, if they are text.
        has_cameras: False if no cameras are known. Then each image has a camid of its own, so that the protocol, which
            leaves out the images of a query's person by the query's camera, leaves out only the query itself.
        is_split: False if nobody has split the images. Then train, query and gallery all have all images.
        other_clothes: leaves out gallery images of a query's person in the query's clothes, as well as by its camera.
        pool_tracklets: a test pools the vectors of a tracklet, and compares tracklets.
        gallery_draws: number of single-shot galleries, which have one image of each person, drawn at random. Scores are
            means over them. 0 for the whole gallery.
    """

    name: str
    root: Path
    train: list[Person]
    query: list[Person]
    gallery: list[Person]
    multi_query: list[Person] = field(default_factory=list)
    pid_names: Mapping[int, str] = field(default_factory=dict)
    camera_names: Mapping[int, str] = field(default_factory=dict)
    has_cameras: bool = True
    is_split: bool = True
    other_clothes: bool = False
    pool_tracklets: bool = False
    gallery_draws: int = 0

    @property
    def names(self) -> Names:
        """What pictures and tables call the people and cameras."""
        return Names(self.pid_names, self.camera_names, self.has_cameras)

    def notes(self) -> list[str]:
        """Returns what a reader of this data set's scores must know, one line each."""
        lines = []
        if not self.is_split:
            lines.append(
                f"{self.root} has no train, query and gallery: all images are in all three, so people are tested who "
                "were trained on; dsa-fast split makes the three"
            )
        if not self.has_cameras:
            lines.append(
                "No cameras are known: each image counts as a camera of its own, so only the query itself is left out "
                "of its ranked list. Near-identical images of a person, such as frames of a video, make scores too high"
            )
        if self.other_clothes:
            lines.append("Images of a query's person in the same clothes, or by the same camera, are left out")
        if self.pool_tracklets:
            lines.append("The vectors of a tracklet are pooled: queries and gallery are tracklets")
        if self.gallery_draws:
            lines.append(
                f"Single-shot: the gallery is one image of each person, drawn {self.gallery_draws} times; scores are "
                "means over the draws"
            )
        return lines

    def summary(self) -> list[tuple[str, int, int, int, int]]:
        """Returns one row per split: name, images, identities (without junk and distractors), cameras, IUV maps.

        The number of cameras is 0 if no cameras are known.
        """
        rows = []
        for name in ("train", "query", "gallery"):
            people: list[Person] = getattr(self, name)
            identities = {person.pid for person in people if person.pid > 0}
            cameras = {person.camid for person in people}
            maps = sum(person.iuv_path is not None for person in people)
            rows.append((name, len(people), len(identities), len(cameras) if self.has_cameras else 0, maps))
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
