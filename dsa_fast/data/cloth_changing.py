"""People who change their clothes: LTCC and PRCC.

```
LTCC_ReID/
  train/094_1_c9_015833.png     person 94 in clothes 1, camera 9
  query/...
  test/...                      the gallery
prcc/rgb/
  train/001/A_cropped_rgb001.jpg    person 1, camera A
  val/001/...
  test/A/001/cropped_rgb001.jpg     cameras A, B and C
```

- LTCC: Qian et al., "Long-Term Cloth-Changing Person Re-identification", ACCV 2020. 9,576 training images, 493 queries
  and 7,050 gallery images. Pids are numbered from 0 in the files' names; here 1 is added, because pid 0 means a
  distractor.
- PRCC: Yang, Wu and Zheng, "Person Re-identification by Contour Sketch under Moderate Clothing Change", TPAMI 2019.
  17,896 training and 5,002 validation images; 3,384, 3,543 and 3,873 test images by cameras A, B and C. People wear the
  same clothes in A and B, and others in C.

Layouts and protocols are those that Simple-CCReID's readers expect, and the counts those of readers in public
repositories. The sets themselves were not at hand.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from dsa_fast.data.folders import DatasetFormat, IuvMaps, child, image_names, subfolders
from dsa_fast.data.people import PeopleSplits, Person

__all__ = ["FORMATS"]

_LTCC_COUNTS = {"train": 9576, "query": 493, "gallery": 7050}
_LTCC_NAME = re.compile(r"^(\d+)_(\d+)_c(\d+)_")
_PRCC_TRAIN, _PRCC_VAL = 17896, 5002
_PRCC_DRAWS = 10
_PRCC_TEST = {"A": 3384, "B": 3543, "C": 3873}


def _read_ltcc(
    folder: Path,
    *,
    iuv: Path | str | None = None,
    check_counts: bool = True,
    protocol: Literal["standard", "cloth-changing"] = "standard",
) -> PeopleSplits:
    """Reads LTCC.

    Args:
        folder: the folder with `train`, `query` and `test`.
        iuv: folder of the IUV maps, which mirrors them.
        check_counts: compare the image counts with the published ones.
        protocol: `standard` leaves out matches by the query's camera, and `cloth-changing` also those in its clothes.
    """
    if protocol not in ("standard", "cloth-changing"):
        raise ValueError(f"protocol must be standard or cloth-changing, got {protocol!r}")
    maps = IuvMaps(folder, iuv)
    train, query, gallery = (_ltcc_images(folder, split, maps) for split in ("train", "query", "test"))
    splits = PeopleSplits("ltcc", folder, train, query, gallery, other_clothes=protocol == "cloth-changing")
    if check_counts:
        splits.check_counts("LTCC", _LTCC_COUNTS)
    return splits


def _ltcc_images(folder: Path, split: str, maps: IuvMaps) -> list[Person]:
    people = []
    for name in image_names(folder / split):
        match = _LTCC_NAME.match(name)
        if match is None:
            raise ValueError(f"image names must be PID_CLOTHES_cCAM_..., as in 094_1_c9_015833.png, got {split}/{name}")
        pid, clothes, camid = (int(number) for number in match.groups())
        people.append(_dressed(maps, folder / split / name, split, pid + 1, camid, clothes))
    return people


def _dressed(maps: IuvMaps, image: Path, mirrored: str, pid: int, camid: int, clothes: int) -> Person:
    found = maps.person(image, mirrored, pid, camid)
    return Person(found.path, found.iuv_path, pid, camid, found.iuv_place, clothes=clothes)


def _holds_ltcc(folder: Path) -> bool:
    if not all((folder / split).is_dir() for split in ("train", "query", "test")):
        return False
    names = image_names(folder / "query")
    return bool(names) and _LTCC_NAME.match(names[0]) is not None


def _prcc_root(folder: Path) -> Path | None:
    """Returns the folder of the photos, `rgb`."""
    test = child(folder, "rgb/test/A", "test/A")
    return None if test is None or child(test.parent, "C") is None else test.parent.parent


def _read_prcc(
    folder: Path,
    *,
    iuv: Path | str | None = None,
    check_counts: bool = True,
    protocol: Literal["same-clothes", "cloth-changing"] = "cloth-changing",
    with_val: bool = False,
    gallery: Literal["all", "single-shot"] = "all",
) -> PeopleSplits:
    """Reads PRCC. Camera A's images are the gallery.

    Args:
        folder: the folder with `rgb`, or `rgb` itself.
        iuv: folder of the IUV maps, which mirrors `rgb`, as `rgb` itself; by default `iuv` in `folder`.
        check_counts: compare the image counts with the published ones.
        protocol: `cloth-changing` takes camera C's images as queries, and `same-clothes` camera B's.
        with_val: add the validation images, of the same people, to the training set.
        gallery: `all` images of camera A; or `single-shot`, one of each person, drawn at random ten times. Scores are
            then means over the draws. The set's own draws are not published; ours have seeds of their own.
    """
    if gallery not in ("all", "single-shot"):
        raise ValueError(f"gallery must be all or single-shot, got {gallery!r}")
    if protocol not in ("same-clothes", "cloth-changing"):
        raise ValueError(f"protocol must be same-clothes or cloth-changing, got {protocol!r}")
    root = _prcc_root(folder)
    assert root is not None
    maps = IuvMaps(folder, iuv)
    train = _prcc_train(root, "train", maps)
    val = _prcc_train(root, "val", maps) if with_val else []
    camera = "B" if protocol == "same-clothes" else "C"
    query, others = (_prcc_test(root, each, maps) for each in (camera, "A"))
    draws = _PRCC_DRAWS if gallery == "single-shot" else 0
    splits = PeopleSplits("prcc", folder, train + val, query, others, gallery_draws=draws)
    if check_counts:
        total = _PRCC_TRAIN + (_PRCC_VAL if with_val else 0)
        splits.check_counts("PRCC", {"train": total, "query": _PRCC_TEST[camera], "gallery": _PRCC_TEST["A"]})
    return splits


def _prcc_train(root: Path, split: str, maps: IuvMaps) -> list[Person]:
    people = []
    for place in subfolders(root / split):
        for name in image_names(place):
            camera = name[:1].upper()
            if camera not in _PRCC_TEST:
                raise ValueError(f"image names must begin with the camera A, B or C, got {place / name}")
            people.append(_prcc_person(root, place / name, camera, maps))
    if not people:
        raise FileNotFoundError(f"PRCC needs images in {root / split}, got none")
    return people


def _prcc_test(root: Path, camera: str, maps: IuvMaps) -> list[Person]:
    top = child(root, f"test/{camera}")
    places = [] if top is None else subfolders(top)
    people = [_prcc_person(root, place / name, camera, maps) for place in places for name in image_names(place)]
    if not people:
        raise FileNotFoundError(f"PRCC needs images in {root / 'test' / camera}, got none")
    return people


def _prcc_person(root: Path, image: Path, camera: str, maps: IuvMaps) -> Person:
    name = image.parent.name
    if not name.isascii() or not name.isdigit() or int(name) < 1:
        raise ValueError(f"folders of people must be numbers from 1, got {image.parent}")
    mirrored = image.parent.relative_to(root).as_posix()
    return _dressed(maps, image, mirrored, int(name), ord(camera) - ord("A") + 1, 2 if camera == "C" else 1)


FORMATS = (
    DatasetFormat(
        "ltcc",
        "LTCC",
        "LTCC_ReID/\n  train/                PID_CLOTHES_cCAM_*.png\n  query/\n  test/\n"
        "  iuv/                  (optional) IUV maps",
        _holds_ltcc,
        lambda folder: True,
        _read_ltcc,
    ),
    DatasetFormat(
        "prcc",
        "PRCC",
        "prcc/\n  rgb/\n    train/001/          A_*.jpg, B_*.jpg, C_*.jpg\n    val/001/\n"
        "    test/A/001/         and B, C\n"
        "  iuv/                  (optional) IUV maps",
        lambda folder: _prcc_root(folder) is not None,
        lambda folder: True,
        _read_prcc,
    ),
)
