"""Follows people from frame to frame by the overlap of their boxes, and writes a folder of crops for each track."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from dsa_fast.deploy.detectors import Detector
from dsa_fast.image import save_image

__all__ = ["Sight", "Track", "Tracker", "write_crops"]

_QUALITY = 95  # JPEG


class Sight(NamedTuple):
    """A person in a frame: the frame's number, and the box in pixels that was cropped."""

    frame: int
    x: int
    y: int
    w: int
    h: int
    score: float


@dataclass
class Track:
    """What is taken for one person.

    Attributes:
        number: from 1, in the order of the first frames.
        sights: where the person was seen, in the order of the frames.
        box: the last box: left, top, right, bottom.
        last: number of the last step in which the person was seen.
    """

    number: int
    box: tuple[float, float, float, float]
    last: int
    sights: list[Sight] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"track_{self.number:04d}"


class Tracker:
    """Gives boxes of successive frames the numbers of tracks.

    Pairs of a track's last box and a new box are joined in the order of their overlap, the largest first, each track
    and each box once. What is left over starts new tracks. There is no model of motion or looks, so people who cross
    or hide may swap or get new numbers.

    Args:
        min_iou: least overlap (intersection over union) of a track's last box and a new one.
        patience: steps after which a track that was not seen ends.
    """

    def __init__(self, min_iou: float = 0.3, patience: int = 5) -> None:
        if not 0 < min_iou <= 1:
            raise ValueError(f"min_iou must be above 0 and at most 1, got {min_iou}")
        if patience < 1:
            raise ValueError(f"patience must be at least 1, got {patience}")
        self.min_iou, self.patience = min_iou, patience
        self._open: list[Track] = []
        self._count, self._step = 0, 0

    def __call__(self, boxes: Tensor) -> list[Track]:
        """Returns the track of each box of the next frame.

        Args:
            boxes: float32 [N, 4 or more]: left, top, right, bottom, and other columns that are not used.
        """
        self._step += 1
        self._open = [track for track in self._open if self._step - track.last <= self.patience]
        new = boxes[:, :4].double().numpy()
        old = np.array([track.box for track in self._open]).reshape(-1, 4)
        overlap = _iou(old, new)
        found: list[Track | None] = [None] * len(new)
        free = set(range(len(self._open)))
        for place in np.argsort(-overlap, axis=None, kind="stable"):
            row, column = divmod(int(place), max(len(new), 1))
            if overlap[row, column] < self.min_iou:
                break
            if row in free and found[column] is None:
                free.discard(row)
                found[column] = self._open[row]
        tracks = []
        for track, box in zip(found, new.tolist(), strict=True):
            if track is None:
                self._count += 1
                track = Track(self._count, (0, 0, 0, 0), 0)
                self._open.append(track)
            track.box, track.last = (box[0], box[1], box[2], box[3]), self._step
            tracks.append(track)
        return tracks


def _iou(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """[M, 4] and [N, 4] -> [M, N]."""
    low = np.maximum(old[:, None, :2], new[None, :, :2])
    high = np.minimum(old[:, None, 2:], new[None, :, 2:])
    both = (high - low).clip(0).prod(2)
    areas = [(each[:, 2:] - each[:, :2]).clip(0).prod(1) for each in (old, new)]
    union = areas[0][:, None] + areas[1] - both
    result: np.ndarray = np.where(union > 0, both / np.maximum(union, 1e-12), 0)
    return result


def write_crops(
    frames: Iterable[tuple[int, Tensor]],
    detector: Detector,
    out: Path,
    *,
    min_score: float = 0.6,
    min_height: int = 64,
    min_images: int = 3,
    tracker: Tracker | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Track]:
    """Crops the people of successive frames, one folder per track: `track_0001/000012.jpg` is from frame 12.

    Args:
        frames: numbers and pictures, uint8 [3, H, W].
        detector: finds people in a picture.
        out: an existing, empty folder.
        min_score: people with a lower score are left out.
        min_height: people of fewer pixels are left out.
        min_images: tracks with fewer images are removed.
        tracker: follows the people; by default `Tracker()`.
        progress: called with the number of each finished frame.

    Returns:
        The tracks that were kept, with their numbers: those of removed tracks are missing.
    """
    tracker = Tracker() if tracker is None else tracker
    tracks: dict[int, Track] = {}
    for number, picture in frames:
        people = detector(picture)
        height, width = picture.shape[1:]
        people[:, 0:4:2] = people[:, 0:4:2].clamp(0, width)
        people[:, 1:4:2] = people[:, 1:4:2].clamp(0, height)
        tall = (people[:, 3] - people[:, 1] >= min_height) & (people[:, 2] - people[:, 0] >= 1)
        people = people[(people[:, 4] >= min_score) & tall]
        for track, (left, top, right, bottom, score) in zip(tracker(people), people.tolist(), strict=True):
            x, y = int(left), int(top)
            w, h = min(round(right), width) - x, min(round(bottom), height) - y
            if w < 1 or h < 1:
                continue
            folder = out / track.name
            folder.mkdir(exist_ok=True)
            image = picture[:, y : y + h, x : x + w].permute(1, 2, 0).contiguous().numpy()
            save_image(Image.fromarray(image), folder / f"{number:06d}.jpg", quality=_QUALITY)
            track.sights.append(Sight(number, x, y, w, h, round(score, 4)))
            tracks[track.number] = track
        if progress is not None:
            progress(number)
    kept = []
    for track in tracks.values():
        if len(track.sights) >= min_images:
            kept.append(track)
            continue
        for path in (out / track.name).iterdir():
            path.unlink()
        (out / track.name).rmdir()
    return kept
