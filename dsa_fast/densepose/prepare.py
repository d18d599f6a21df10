"""Makes the IUV maps of many images: in batches, resumable, by one process or several.

Existing maps are kept, so an interrupted run continues where it stopped. Files are written atomically
(`dsa_fast.files`). Batches are formed from the whole list of images, and a batch with one missing map is estimated
again as a whole. So a resumed run ends with the same bytes as an uninterrupted one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from dsa_fast.densepose.iuv import read_iuv, write_iuv
from dsa_fast.densepose.parts import NUM_PARTS
from dsa_fast.densepose.torchrun import Processes
from dsa_fast.image import image_size, open_image
from dsa_fast.ops.warp import warp

__all__ = ["Estimator", "MapSummary", "Outcome", "PersonMap", "make_maps"]

#: PNG text chunks of a map: its maker, and the person's score.
MAKER_KEY, SCORE_KEY = "dsa_fast:maker", "dsa_fast:score"

_TEXELS = 32  # height and width of a part, to count the filled texels
_LOADED_AHEAD = 2  # batches


class PersonMap(NamedTuple):
    """The map of a person in an image.

    Attributes:
        iuv: uint8 [3, H, W], on the CPU.
        score: the estimator's confidence, 0..1; None if it has none.
    """

    iuv: Tensor
    score: float | None


class Estimator(Protocol):
    """Makes maps of images.

    Attributes:
        maker: the name of this kind of map, such as `DensePose`.
    """

    maker: str

    def group(self, size: tuple[int, int]) -> Hashable:
        """Returns the group of an image size. Images of a group can share a batch without changing the result."""

    def load(self, image: Path) -> Any:
        """Reads an image. Called in threads. Raises ValueError or OSError if the image can't be used."""

    def estimate(self, batch: Sequence[Any]) -> Sequence[PersonMap | None]:
        """Returns the person in each loaded image, or None if no person is found."""


class MapSummary(NamedTuple):
    """Measurements of a map.

    Attributes:
        score: the person's score; None if unknown.
        labelled: share of the pixels that have a part; 0 if no person was found.
        parts: number of visible parts, out of 24.
        texels: share of the 24 x 32 x 32 texels that are hit by a pixel.
    """

    score: float | None
    labelled: float
    parts: int
    texels: float


@dataclass
class Outcome:
    """The outcome of a run.

    Attributes:
        facts: image's number -> the summary of its map.
        failed: image's number -> the reason why it has none.
        new: number of maps made in this run.
        seconds: duration of the run.
        estimating: seconds in which the estimator worked; the rest was waiting for images.
    """

    facts: dict[int, MapSummary] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    new: int = 0
    seconds: float = 0.0
    estimating: float = 0.0


def make_maps(
    pairs: Sequence[tuple[Path, Path]],
    estimator: Estimator,
    *,
    batch: int = 16,
    workers: int = 4,
    processes: Processes | None = None,
    progress: Callable[[int], None] | None = None,
) -> Outcome | None:
    """Makes the maps that are missing.

    An image without a person gets a map that is all background (`MapSummary.labelled` is 0), so the next run does not
    try again. A file that can't be read as its image's map is replaced. An image that can't be used is recorded as
    failed, and the next run tries it again.

    Args:
        pairs: image and map (PNG) of each.
        estimator: makes them.
        batch: number of images per batch.
        workers: number of threads that read images.
        processes: the processes that share the work; all must pass the same pairs.
        progress: called with the number of images that all processes have finished.

    Returns:
        The outcome; None on all ranks except 0.

    Raises:
        OSError: a map can't be written.
        ValueError: `batch` or `workers` is below 1, or the processes do not agree on the images.
    """
    for name, value in (("batch", batch), ("workers", workers)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    processes = Processes() if processes is None else processes
    start = time.perf_counter()
    with ThreadPoolExecutor(workers) as readers, ThreadPoolExecutor(2) as writers:
        try:
            run = _Run(pairs, estimator, readers, writers, processes, progress or (lambda done: None))
            run.work(batch)
        except BaseException:
            readers.shutdown(wait=False, cancel_futures=True)
            writers.shutdown(wait=False, cancel_futures=True)
            raise
    mine = run.made
    mine.seconds = time.perf_counter() - start
    all_made = processes.gather(
        [list(mine.facts.items()), list(mine.failed.items()), mine.new, mine.estimating], waiting=progress
    )
    if all_made is None:
        return None
    total = Outcome(seconds=time.perf_counter() - start)
    for facts, failed, new, estimating in all_made:
        total.facts.update((number, MapSummary(*each)) for number, each in facts)
        total.failed.update(failed)
        total.new += new
        total.estimating += estimating / processes.world
    return total


class _Run:
    """The share of one process."""

    def __init__(
        self,
        pairs: Sequence[tuple[Path, Path]],
        estimator: Estimator,
        readers: ThreadPoolExecutor,
        writers: ThreadPoolExecutor,
        processes: Processes,
        progress: Callable[[int], None],
    ) -> None:
        self.pairs, self.readers, self.writers, self.processes, self.progress = (
            pairs,
            readers,
            writers,
            processes,
            progress,
        )
        self.estimator = estimator
        self.sizes: list[tuple[int, int] | str] = []
        self.made = Outcome()
        self.writing: deque[tuple[list[int], list[Future[MapSummary]]]] = deque()

    def work(self, batch: int) -> None:
        sizes = self.sizes = list(self.readers.map(_size_or_error, [image for image, _ in self.pairs]))
        unusable = {number: size for number, size in enumerate(sizes) if isinstance(size, str)}
        batches = _batches(sizes, self.estimator.group, batch)
        self.processes.agree(_digest(self.pairs, batches))
        if self.processes.rank == 0:
            self.made.failed.update(unusable)
            self.advance(len(unusable))
        for numbers, loading in self.loaded(batches):
            self.estimate(numbers, loading)
            while len(self.writing) > _LOADED_AHEAD:
                self.written()
        while self.writing:
            self.written()

    def loaded(self, batches: list[list[int]]) -> Iterator[tuple[list[int], list[Future[Any]]]]:
        """Claims batches with a missing map, and loads their images ahead of time."""
        ahead: deque[tuple[list[int], list[Future[Any]]]] = deque()
        for claimed in self.processes.claim(len(batches)):
            numbers = batches[claimed]
            places, sizes = [self.pairs[n][1] for n in numbers], [self.sizes[n] for n in numbers]
            there = list(self.readers.map(_facts_of_file, places, sizes))
            known = {number: facts for number, facts in zip(numbers, there, strict=True) if facts is not None}
            self.made.facts.update(known)
            self.advance(len(known))
            if len(known) == len(numbers):
                continue
            ahead.append((numbers, [self.readers.submit(self.estimator.load, self.pairs[n][0]) for n in numbers]))
            if len(ahead) > _LOADED_AHEAD:
                yield ahead.popleft()
        yield from ahead

    def estimate(self, numbers: list[int], loading: list[Future[Any]]) -> None:
        usable, items = [], []
        for number, future in zip(numbers, loading, strict=True):
            try:
                items.append(future.result())
                usable.append(number)
            except (ValueError, OSError) as error:
                if number not in self.made.facts:
                    self.made.failed[number] = str(error)
                    self.advance(1)
        if not items:
            return
        began = time.perf_counter()
        results = self.estimator.estimate(items)
        self.made.estimating += time.perf_counter() - began
        missing, futures = [], []
        for number, found in zip(usable, results, strict=True):
            if number not in self.made.facts:
                missing.append(number)
                futures.append(self.writers.submit(self.write, number, found))
        self.writing.append((missing, futures))

    def write(self, number: int, found: PersonMap | None) -> MapSummary:
        size = self.sizes[number]
        iuv = torch.zeros(3, int(size[0]), int(size[1]), dtype=torch.uint8) if found is None else found.iuv
        if tuple(iuv.shape) != (3, *size):
            raise ValueError(f"the estimator must return maps of the image's size {list(size)}, got {list(iuv.shape)}")
        score = None if found is None or found.score is None else round(found.score, 4)
        text = {MAKER_KEY: self.estimator.maker} | ({} if score is None else {SCORE_KEY: str(score)})
        write_iuv(self.pairs[number][1], iuv, text=text)
        return _facts(iuv, score)

    def written(self) -> None:
        numbers, futures = self.writing.popleft()
        for number, future in zip(numbers, futures, strict=True):
            self.made.facts[number] = future.result()
        self.made.new += len(numbers)
        self.advance(len(numbers))

    def advance(self, count: int) -> None:
        self.progress(self.processes.advance(count))


def _size_or_error(image: Path) -> tuple[int, int] | str:
    try:
        return image_size(image)
    except ValueError as error:
        return str(error)


def _batches(
    sizes: Sequence[tuple[int, int] | str], group: Callable[[tuple[int, int]], Hashable], batch: int
) -> list[list[int]]:
    """Returns the indices of images that share a batch; images without a size are left out."""
    groups: dict[Hashable, list[int]] = {}
    for number, size in enumerate(sizes):
        if not isinstance(size, str):
            groups.setdefault(group(size), []).append(number)
    return sorted(numbers[i : i + batch] for numbers in groups.values() for i in range(0, len(numbers), batch))


def _digest(pairs: Sequence[tuple[Path, Path]], batches: list[list[int]]) -> str:
    listed = [[image.name, place.name] for image, place in pairs]
    return hashlib.sha256(json.dumps([listed, batches]).encode(errors="surrogateescape")).hexdigest()


def _facts_of_file(place: Path, size: tuple[int, int] | str) -> MapSummary | None:
    """Measures the map in a file; None if there is no map of this size."""
    if isinstance(size, str) or not place.is_file():
        return None
    try:
        iuv = read_iuv(place, size=size)
    except (ValueError, OSError):
        try:  # a map with an ambiguous channel order is still a map
            iuv = read_iuv(place, size=size, order="IUV")
        except (ValueError, OSError):
            return None
    score = None
    if place.suffix.lower() not in (".npy", ".npz"):
        with contextlib.suppress(ValueError), open_image(place) as file:
            score = float(file.info[SCORE_KEY]) if SCORE_KEY in file.info else None
    return _facts(iuv, score if score is None or math.isfinite(score) else None)


def _facts(iuv: Tensor, score: float | None) -> MapSummary:
    _, count = warp(iuv, iuv, size=_TEXELS, return_count=True)
    touched = (count > 0).view(NUM_PARTS, -1)
    return MapSummary(
        score,
        float((iuv[0] > 0).double().mean()),
        int(touched.any(1).sum()),
        float(touched.double().mean()),
    )
