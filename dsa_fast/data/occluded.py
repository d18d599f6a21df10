"""Occluded and partial people: queries of which a part is seen, and a gallery of whole people.

```
Occluded_REID/
  occluded_body_images/001/001_01.tif     queries: person 1
  whole_body_images/001/001_01.tif        gallery
P-DukeMTMC-reID/
  train/occluded_body_images/0001/0001_c2_f0046182.jpg     and train/whole_body_images, for training
  test/occluded_body_images/...           queries
  test/whole_body_images/...              gallery
Partial_REID/
  partial_body_images/001_001.jpg         queries
  whole_body_images/001_001.jpg           gallery
Partial_iLIDS/                            the same; 1.jpg: person 1
  iuv/...                                 (optional) IUV maps, with the images' folders and names
```

fast-reid has the images of Occluded-REID and Partial-iLIDS in `query` and `gallery`. These are read too, if the
folder's name tells which data set it is.

The published protocols leave nothing out: queries are camera 1 and the gallery camera 2, as in bpbreid and PVPM.

- Occluded-REID: Zhuo et al., "Occluded Person Re-identification", ICME 2018. Its page says 200 people with 5 occluded
  and 5 whole images each, and fast-reid the same counts.
- P-DukeMTMC-reID: of the same paper, a part of DukeMTMC-reID, **which its authors withdrew in 2019** (see
  `dsa_fast.data.market`). Its page says 24,143 images of 1,299 people in all; only this sum is checked.
- Partial-REID: Zheng et al., "Partial Person Re-identification", ICCV 2015. 60 people with 5 partial and 5 whole images
  each (fast-reid's counts).
- Partial-iLIDS: He et al., "Deep Spatial Feature Reconstruction for Partial Person Re-identification", CVPR 2018. 119
  people with one image of each kind (fast-reid's counts).

Folders and names are those that the readers of bpbreid, PVPM and fast-reid expect.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from dsa_fast.data.folders import DatasetFormat, IuvMaps, child, image_names, plain_name, subfolders
from dsa_fast.data.people import PeopleSplits, Person

__all__ = ["FORMATS"]

_COUNTS = {
    "occluded-reid": {"query": 1000, "gallery": 1000},
    "partial-reid": {"query": 300, "gallery": 300},
    "partial-ilids": {"query": 119, "gallery": 119},
}
_TITLES = {"occluded-reid": "Occluded-REID", "partial-reid": "Partial-REID", "partial-ilids": "Partial-iLIDS"}
_SEEN = {"occluded-reid": "occluded_body_images", "partial-reid": "partial_body_images"}
_SEEN["partial-ilids"] = _SEEN["partial-reid"]
_WHOLE = "whole_body_images"
_P_DUKE_IMAGES = 24143
_NAME = re.compile(r"^(\d+)[_.]")
_QUERY_CAMERA, _GALLERY_CAMERA = 1, 2


def _is(folder: Path, name: str) -> bool:
    return plain_name(folder).startswith("".join(letter for letter in name if letter.isalnum()))


def _places(folder: Path, name: str) -> tuple[Path, Path] | None:
    """Returns the folders of the queries and of the gallery, or None."""
    query, gallery = child(folder, _SEEN[name]), child(folder, _WHOLE)
    if query is None and _is(folder, name):
        query, gallery = child(folder, "query"), child(folder, "gallery")
    return (query, gallery) if query is not None and gallery is not None else None


def _read(name: str, folder: Path, *, iuv: Path | str | None = None, check_counts: bool = True) -> PeopleSplits:
    places = _places(folder, name)
    if places is None:
        raise FileNotFoundError(f"{_TITLES[name]} needs {folder / _SEEN[name]} and {_WHOLE}, got none")
    maps = IuvMaps(folder, iuv)
    query, gallery = (
        _images(folder, place, maps, camera)
        for place, camera in zip(places, (_QUERY_CAMERA, _GALLERY_CAMERA), strict=True)
    )
    splits = PeopleSplits(name, folder, [], query, gallery)
    if check_counts:
        splits.check_counts(_TITLES[name], _COUNTS[name])
    return splits


def _images(root: Path, place: Path, maps: IuvMaps, camera: int) -> list[Person]:
    """Lists the images of a folder and of its subfolders, one of each person."""
    people = []
    for inner in (place, *subfolders(place)):
        mirrored = inner.relative_to(root).as_posix()
        for name in image_names(inner):
            match = _NAME.match(name)
            if match is None or int(match[1]) < 1:
                raise ValueError(f"names must begin with the person's number, as in 001_01.jpg, got {inner / name}")
            people.append(maps.person(inner / name, mirrored, int(match[1]), camera))
    if not people:
        raise ValueError(f"{place} must hold images, got none")
    return people


def _p_duke_places(folder: Path) -> dict[str, Path] | None:
    names = {
        "occluded": f"train/{_SEEN['occluded-reid']}",
        "whole": f"train/{_WHOLE}",
        "query": f"test/{_SEEN['occluded-reid']}",
        "gallery": f"test/{_WHOLE}",
    }
    found = {part: child(folder, name) for part, name in names.items()}
    places = {part: place for part, place in found.items() if place is not None}
    return places if len(places) == len(names) else None


def _read_p_duke(folder: Path, *, iuv: Path | str | None = None, check_counts: bool = True) -> PeopleSplits:
    places = _p_duke_places(folder)
    assert places is not None
    maps = IuvMaps(folder, iuv)
    occluded, whole, query, gallery = (
        _images(folder, places[part], maps, camera)
        for part, camera in (
            ("occluded", _QUERY_CAMERA),
            ("whole", _GALLERY_CAMERA),
            ("query", _QUERY_CAMERA),
            ("gallery", _GALLERY_CAMERA),
        )
    )
    splits = PeopleSplits("p-dukemtmc-reid", folder, whole + occluded, query, gallery)
    total = len(splits.train) + len(query) + len(gallery)
    if check_counts and total != _P_DUKE_IMAGES:
        raise ValueError(
            f"P-DukeMTMC-reID must have {_P_DUKE_IMAGES} images in all as published, got {total} in {folder}: the copy "
            "is incomplete or was changed; check_counts=False skips this check"
        )
    return splits


def _tree(name: str, seen: str, image: str) -> str:
    return f"{name}\n  {seen + '/':21} {image}\n  whole_body_images/\n  iuv/                  (optional) IUV maps"


def _format(name: str, tree: str, has_name: Callable[[Path], bool]) -> DatasetFormat:
    return DatasetFormat(
        name, _TITLES[name], tree, lambda folder: _places(folder, name) is not None, has_name, partial(_read, name)
    )


FORMATS = (
    DatasetFormat(
        "p-dukemtmc-reid",
        "P-DukeMTMC-reID",
        "P-DukeMTMC-reID/\n  train/\n    occluded_body_images/0001/...jpg\n    whole_body_images/\n  test/\n    ...\n"
        "  iuv/                  (optional) IUV maps",
        lambda folder: _p_duke_places(folder) is not None,
        lambda folder: True,
        _read_p_duke,
    ),
    _format(
        "partial-ilids",
        _tree("Partial_iLIDS/", "partial_body_images", "1.jpg"),
        lambda folder: "ilids" in plain_name(folder),
    ),
    _format(
        "partial-reid",
        _tree("Partial_REID/", "partial_body_images", "001_001.jpg"),
        lambda folder: "ilids" not in plain_name(folder),
    ),
    _format(
        "occluded-reid",
        _tree("Occluded_REID/", "occluded_body_images", "001/001_01.tif"),
        lambda folder: child(folder, _SEEN["partial-reid"]) is None,
    ),
)
