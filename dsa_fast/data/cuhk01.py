"""CUHK01: Li, Zhao and Wang, "Human Reidentification with Transferred Metric Learning", ACCV 2012.

```
cuhk01/
  campus/0001001.png      person 1; images 001 and 002 are of camera 1, 003 and 004 of camera 2
  iuv/campus/0001001.png  (optional) IUV map
```

It has 971 people with two images from each of two cameras. There is no official split. Papers usually train on 485
random people and test on the other 486. Here the split number selects them: people are sorted by the
SHA-256 of `cuhk01/SPLIT/PID`, and the first half is for training. The result is the same on every machine and in every
version.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Literal

from dsa_fast.data.folders import DatasetFormat, IuvMaps, image_names, plain_name
from dsa_fast.data.people import PeopleSplits

__all__ = ["FORMAT"]

_NAME = re.compile(r"^(\d{4})(\d{3})\.")
_IMAGES, _PEOPLE = 3884, 971


def _read(
    folder: Path,
    *,
    iuv: Path | str | None = None,
    check_counts: bool = True,
    split: int | Literal["all"] = 0,
    query_camera: int = 1,
) -> PeopleSplits:
    """Reads CUHK01.

    Args:
        folder: the folder with `campus`.
        iuv: folder of the IUV maps, which mirrors `campus`.
        check_counts: compare the counts of images and people with the published ones.
        split: number of the random split. `all` puts all people into train, and into query and gallery: to train on
            all of CUHK01, or to test a model from another data set on all of it.
        query_camera: 1 or 2; the images of the other camera are the gallery.
    """
    if query_camera not in (1, 2):
        raise ValueError(f"query_camera must be 1 or 2, got {query_camera!r}")
    if split != "all" and (isinstance(split, bool) or not isinstance(split, int) or split < 0):
        raise ValueError(f"split must be a number from 0 or 'all', got {split!r}")
    if plain_name(folder) == "campus":
        folder = folder.parent
    place = folder / "campus"
    maps = IuvMaps(folder, iuv)
    people = []
    for name in image_names(place):
        match = _NAME.match(name)
        if match is None or int(match[1]) < 1 or not 1 <= int(match[2]) <= 4:
            raise ValueError(f"image names must be PPPPNNN.png, person and 001..004, got {name} in {place}")
        people.append(maps.person(place / name, "campus", int(match[1]), (int(match[2]) + 1) // 2))
    pids = sorted({person.pid for person in people})
    if check_counts and (len(people), len(pids)) != (_IMAGES, _PEOPLE):
        raise ValueError(
            f"CUHK01 must have {_IMAGES} images of {_PEOPLE} people as published, got {len(people)} of {len(pids)} in "
            f"{place}: the copy is incomplete or was changed; check_counts=False skips this check"
        )
    if len(pids) < 2:
        raise ValueError(f"{place} must hold images of at least 2 people, got {len(pids)}")
    order = sorted(pids, key=lambda pid: hashlib.sha256(f"cuhk01/{split}/{pid}".encode()).digest())
    half = len(pids) // 2
    train, test = (set(pids), set(pids)) if split == "all" else (set(order[:half]), set(order[half:]))
    return PeopleSplits(
        "cuhk01",
        folder,
        [person for person in people if person.pid in train],
        [person for person in people if person.pid in test and person.camid == query_camera],
        [person for person in people if person.pid in test and person.camid != query_camera],
    )


_TREE = """\
cuhk01/                 unpack CUHK01.zip here
  campus/
    0001001.png         person 1, image 1
    ...
  iuv/                  (optional) IUV maps"""


def _holds(folder: Path) -> bool:
    return (folder / "campus").is_dir() or plain_name(folder) == "campus"


FORMAT = DatasetFormat("cuhk01", "CUHK01", _TREE, _holds, lambda folder: True, _read)
