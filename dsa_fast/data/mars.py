"""MARS: Zheng et al., "MARS: A Video Benchmark for Large-Scale Person Re-identification", ECCV 2016.

```
mars/
  bbox_train/0001/0001C1T0001F001.jpg    person 1, camera 1, tracklet 1, frame 1
  bbox_test/...                          00-1: junk, 0000: distractors
  info/train_name.txt  test_name.txt     one name per line
  info/tracks_train_info.mat             first line, last line, pid and camera of each tracklet
  info/tracks_test_info.mat
  info/query_IDX.mat                     the tracklets that are queries, numbered from 1
  iuv/bbox_train/0001/...png             (optional) IUV maps
```

A test compares tracklets: the vectors of a tracklet's images are pooled. Junk tracklets are dropped, as in torchreid,
whose layout and counts of tracklets (8,298 for training, 1,980 queries, 9,330 in the gallery) these are. The set itself
was not at hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dsa_fast.data.folders import DatasetFormat, IuvMaps
from dsa_fast.data.people import PeopleSplits, Person
from dsa_fast.extras import require
from dsa_fast.mat_files import check_mat

__all__ = ["FORMAT"]

_TRACKLETS = {"train": 8298, "query": 1980, "gallery": 9330}
_FILES = ("train_name.txt", "test_name.txt", "tracks_train_info.mat", "tracks_test_info.mat", "query_IDX.mat")


def _read(folder: Path, *, iuv: Path | str | None = None, check_counts: bool = True, frames: int = 0) -> PeopleSplits:
    """Reads MARS.

    Args:
        folder: the folder with `bbox_train`, `bbox_test` and `info`.
        iuv: folder of the IUV maps, which mirrors `bbox_train` and `bbox_test`.
        check_counts: compare the counts of tracklets with the published ones.
        frames: images of each test tracklet, evenly spaced, or 0 for all.

    Raises:
        FileNotFoundError: files are missing.
        ValueError: `frames` is negative, SciPy is not installed, or a file is wrong.
    """
    if frames < 0:
        raise ValueError(f"frames must be at least 0, got {frames}")
    info = folder / "info"
    missing = [name for name in _FILES if not (info / name).is_file()]
    if missing:
        raise FileNotFoundError(f"MARS needs {', '.join(missing)} in {info}, got no such files")
    maps = IuvMaps(folder, iuv)
    train_tracks = _table(info / "tracks_train_info.mat", "track_train_info")
    test_tracks = _table(info / "tracks_test_info.mat", "track_test_info")
    asked = _table(info / "query_IDX.mat", "query_IDX").reshape(-1) - 1
    if len(asked) and not (asked.min() >= 0 and asked.max() < len(test_tracks)):
        raise ValueError(f"{info / 'query_IDX.mat'} must number the {len(test_tracks)} test tracklets from 1")
    is_query = np.zeros(len(test_tracks), bool)
    is_query[asked] = True
    lists: dict[str, list[Person]] = {}
    tracklets: dict[str, int] = {}
    for split, part, tracks, wanted, most in (
        ("train", "train", train_tracks, np.ones(len(train_tracks), bool), 0),
        ("query", "test", test_tracks, is_query, frames),
        ("gallery", "test", test_tracks, ~is_query, frames),
    ):
        names = (info / f"{part}_name.txt").read_text(encoding="utf-8", errors="surrogateescape").split()
        numbers = np.flatnonzero(wanted & (tracks[:, 2] != -1))
        tracklets[split] = len(numbers)
        lists[split] = _images(folder, part, names, tracks, numbers, most, maps)
    if check_counts and tracklets != _TRACKLETS:
        wanted_text, got = (
            ", ".join(f"{number} {split}" for split, number in counts.items()) for counts in (_TRACKLETS, tracklets)
        )
        raise ValueError(
            f"MARS must have {wanted_text} tracklets as published, got {got} in {folder}: the copy is incomplete or "
            "was changed; check_counts=False skips this check"
        )
    return PeopleSplits(
        "mars",
        folder,
        [person for person in lists["train"] if person.pid > 0],
        lists["query"],
        lists["gallery"],
        pool_tracklets=True,
    )


def _table(path: Path, name: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Reads a table of whole numbers."""
    scipy_io = require("scipy.io", f"reading {path}")
    try:
        check_mat(path, [name])
        found = scipy_io.loadmat(path, variable_names=[name]).get(name)
    except Exception as error:  # SciPy raises many kinds of errors
        raise ValueError(f"{path} must be a MATLAB file with {name}, got: {error}") from error
    if found is None or found.ndim != 2 or found.dtype.kind not in "iuf":
        raise ValueError(f"{path} must be a MATLAB file with the table {name}")
    if not (np.abs(found) < 1 << 31).all():  # also NaN
        raise ValueError(f"{path}: {name} must hold whole numbers of 32 bits")
    table: np.ndarray[Any, np.dtype[np.int64]] = found.astype(np.int64)
    if name != "query_IDX" and table.shape[1] != 4:
        raise ValueError(f"{path}: {name} must have 4 columns, got {table.shape[1]}")
    return table


def _images(
    folder: Path,
    part: str,
    names: list[str],
    tracks: np.ndarray[Any, np.dtype[np.int64]],
    numbers: np.ndarray[Any, np.dtype[np.int64]],
    most: int,
    maps: IuvMaps,
) -> list[Person]:
    """Lists the images of tracklets. A tracklet's number is its row from 1."""
    people = []
    held = 0
    listed: dict[str, set[str]] = {}
    for number in numbers.tolist():
        first, last, pid, camid = tracks[number].tolist()
        if not 1 <= first <= last <= len(names):
            raise ValueError(
                f"tracklet {number + 1} of MARS's {part} set must be within {part}_name.txt, which has {len(names)} "
                f"lines, got {first} to {last}"
            )
        held += last - first + 1
        if held > len(names):  # else a small file could ask for any number of images
            raise ValueError(f"the tracklets of MARS's {part} set must not share lines of {part}_name.txt")
        shown = names[first - 1 : last]
        if 0 < most < len(shown):
            shown = [shown[place] for place in np.linspace(0, len(shown) - 1, most).round().astype(int)]
        for name in shown:
            place = f"bbox_{part}/{name[:4]}"
            if place not in listed:
                inside = folder / place
                listed[place] = {each.name for each in inside.iterdir()} if inside.is_dir() else set()
            if name not in listed[place]:
                raise FileNotFoundError(f"MARS needs {folder / place / name}, got no such file")
            image = maps.person(folder / place / name, place, pid, camid)
            people.append(Person(image.path, image.iuv_path, pid, camid, image.iuv_place, tracklet=number + 1))
    return people


FORMAT = DatasetFormat(
    "mars",
    "MARS",
    "mars/\n  bbox_train/0001/      0001C1T0001F001.jpg\n  bbox_test/\n"
    "  info/                 train_name.txt, query_IDX.mat, ...\n"
    "  iuv/                  (optional) IUV maps",
    lambda folder: (folder / "bbox_train").is_dir() and (folder / "info").is_dir(),
    lambda folder: True,
    _read,
)
