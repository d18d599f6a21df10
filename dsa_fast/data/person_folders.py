"""A folder per person, as photos lie on many disks.

```
DIR/
  alice/IMG_0001.jpg            no cameras are known: each image is its own camera
  bob/door/IMG_0001.jpg         a folder per camera
  iuv/alice/IMG_0001.png        (optional) IUV maps
```

The folders' names are the ids of people and cameras: numbers, or any text. Either all people have folders of cameras,
or none. The folder may also be split: `DIR/train/alice/...`, `DIR/query/...` and `DIR/gallery/...`. Otherwise all
images are in all three.
"""

from __future__ import annotations

from pathlib import Path

from dsa_fast.data.folders import DatasetFormat, IuvMaps, image_names, subfolders
from dsa_fast.data.people import PeopleSplits, Person
from dsa_fast.data.text_ids import MOST, number_ids

__all__ = ["FORMAT", "why_not"]

_SPLITS = ("train", "query", "gallery")
# Folders of other layouts, incomplete ones too. They are neither people nor cameras.
_NOT_PEOPLE = frozenset(
    {
        *_SPLITS,
        *("val", "valid", "validation", "test", "probe", "images", "image", "img", "imgs", "photos", "crops", "frames"),
        *("bounding_box_train", "bounding_box_test", "gt_bbox", "gt_query", "bbox_train", "bbox_test", "campus"),
        *("images_labeled", "images_detected", "labeled", "detected", "multi_query", "info", "rgb", "sketch"),
        *("occluded_body_images", "whole_body_images", "partial_body_images"),
    }
)


def _people(folder: Path) -> list[Path]:
    """Lists the folders of people, or none if a folder is not laid out like this."""
    found = subfolders(folder)
    if not found or any(each.name.lower() in _NOT_PEOPLE for each in found) or image_names(folder):
        return []
    return found if all(image_names(each) or _cameras(each) for each in found) else []


def why_not(folder: Path) -> str:
    """Says what keeps a folder that looks like one per person from being read; "" if it does not look like one."""
    found = subfolders(folder)
    people = [each for each in found if image_names(each) or _cameras(each)]
    if 2 * len(people) <= len(found) or any(each.name.lower() in _NOT_PEOPLE for each in found):
        return ""
    loose = image_names(folder)
    if loose:
        return f"images must be in the folders of people, got {folder / loose[0]} next to them"
    return next((f"each must have images, got {each} without" for each in found if each not in people), "")


def _cameras(person: Path) -> list[Path]:
    """Lists the folders of a person's cameras, or none if images lie next to them or one of them has no images."""
    found = subfolders(person)
    are_cameras = not image_names(person) and all(image_names(each) for each in found)
    return found if are_cameras and not any(each.name.lower() in _NOT_PEOPLE for each in found) else []


def _parts(folder: Path) -> dict[str, Path]:
    """Returns the folders of the splits, or the folder itself as the only one under the name `all`."""
    places = {split: folder / split for split in _SPLITS if (folder / split).is_dir()}
    if places and all(_people(place) for place in places.values()):
        return places
    return {"all": folder} if _people(folder) else {}


def _read(folder: Path, *, iuv: Path | str | None = None, check_counts: bool = True) -> PeopleSplits:
    """Reads a folder per person.

    Raises:
        ValueError: some people have folders of cameras and others have none, or a number is out of its range.
    """
    parts = _parts(folder)
    listed = [(split, place, person) for split, place in parts.items() for person in _people(place)]
    with_cameras = [person for _, _, person in listed if _cameras(person)]
    if with_cameras and len(with_cameras) < len(listed):
        without = next(person for _, _, person in listed if not _cameras(person))
        raise ValueError(
            f"either all people or none must have folders of cameras, got {with_cameras[0]} with and {without} without"
        )
    maps = IuvMaps(folder, iuv)
    pids, pid_names = _numbered([person.name for _, _, person in listed], 1)
    cameras = sorted({each.name for person in with_cameras for each in _cameras(person)})
    camids, camera_names = _numbered(cameras, 0)
    found: dict[str, list[Person]] = {split: [] for split in parts}
    for split, _, person in listed:
        for place in _cameras(person) or [person]:
            mirrored = place.relative_to(folder).as_posix()
            for name in image_names(place):
                camid = camids[place.name] if with_cameras else 1 + sum(map(len, found.values()))
                found[split].append(maps.person(place / name, mirrored, pids[person.name], camid))
    is_split = "all" not in parts
    train, query, gallery = (found.get(split, []) if is_split else list(found["all"]) for split in _SPLITS)
    return PeopleSplits(
        folder.resolve().name,
        folder,
        train,
        query,
        gallery,
        pid_names=pid_names,
        camera_names=camera_names,
        has_cameras=bool(with_cameras),
        is_split=is_split,
    )


def _numbered(names: list[str], least: int) -> tuple[dict[str, int], dict[int, str]]:
    """Numbers folders. If a number is too small or too large, or there are `2` and `0002`, all count as text."""
    numbers, texts = number_ids(names)
    values = numbers.values()
    if texts or len(set(values)) < len(values) or any(not least <= number < MOST for number in values):
        texts = dict(enumerate(sorted(set(names)), 1))
        numbers = {text: number for number, text in texts.items()}
    return numbers, texts


FORMAT = DatasetFormat(
    "folders",
    "folder per person",
    "DIR/                    or DIR/train/, query/, gallery/\n  alice/*.jpg           or alice/CAMERA/*.jpg\n"
    "  bob/*.jpg\n  iuv/                  (optional) IUV maps",
    lambda folder: bool(_parts(folder)),
    lambda folder: True,
    _read,
)
