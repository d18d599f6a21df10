"""MSMT17: Wei et al., "Person Transfer GAN to Bridge Domain Gap for Person Re-Identification", CVPR 2018.

```
MSMT17_V1/                                    or MSMT17_V2 (faces masked), with mask_train_v2 and mask_test_v2
  train/0000/0000_000_01_0303morning_0008_0.jpg    camera 1
  test/0000/...
  list_train.txt  list_val.txt  list_query.txt  list_gallery.txt    "0000/0000_000_01_..._0.jpg 0"
  iuv/train/0000/...png                            (optional) IUV maps, with the images' names
```

The lists number people from 0. Here 1 is added, because pid 0 means a distractor. Train and test are numbered
separately: pid 1 of `train` and pid 1 of the test set are different people.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dsa_fast.data.folders import DatasetFormat, IuvMaps, child, image_names
from dsa_fast.data.people import PeopleSplits, Person
from dsa_fast.files import check_regular

__all__ = ["FORMAT"]

_COUNTS = {"train": 32621, "query": 11659, "gallery": 82161}


def _read(
    folder: Path, *, iuv: Path | str | None = None, check_counts: bool = True, with_val: bool = False
) -> PeopleSplits:
    """Reads MSMT17, both versions.

    Args:
        folder: the folder of the lists.
        iuv: folder of the IUV maps, which mirrors `train` and `test`.
        check_counts: compare the image counts with the published ones.
        with_val: add list_val.txt to the training set (32,621 images in total). By default it is only list_train.txt,
            as in torchreid and fast-reid. Published results use either.
    """
    train_folder, test_folder = (_image_folder(folder, split) for split in ("train", "test"))
    maps = IuvMaps(folder, iuv)
    train = _read_list(folder, "train", train_folder, maps)
    val = _read_list(folder, "val", train_folder, maps) if with_val or check_counts else []
    query, gallery = (_read_list(folder, split, test_folder, maps) for split in ("query", "gallery"))
    splits = PeopleSplits("msmt17", folder, train + val, query, gallery)
    if check_counts:  # only the sum of train and val is published
        splits.check_counts("MSMT17 (train: list_train.txt and list_val.txt)", _COUNTS)
    return splits if with_val else replace(splits, train=train)


def _image_folder(folder: Path, split: str) -> Path:
    place = child(folder, split, f"mask_{split}_v2")
    if place is None:
        raise FileNotFoundError(f"MSMT17 needs the images' folder {folder / split} or mask_{split}_v2, got neither")
    return place


def _read_list(folder: Path, split: str, images: Path, maps: IuvMaps) -> list[Person]:
    path = child(folder, f"list_{split}.txt")
    if path is None:
        raise FileNotFoundError(f"MSMT17 needs {folder / f'list_{split}.txt'}, got no such file")
    listed: dict[str, set[str]] = {}
    people, missing = [], []
    check_regular(path)
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            name, pid = line.split()
            place, _, file = name.rpartition("/")
            camid, person = int(file.split("_")[2]), int(pid)
        except (ValueError, IndexError) as error:
            raise ValueError(
                f"{path}, line {number}, must look like '0000/0000_000_01_0303morning_0008_0.jpg 0', got {line!r}"
            ) from error
        if person < 0:
            raise ValueError(f"{path}, line {number}: the person's number must be at least 0, got {person}")
        if place not in listed:
            listed[place] = set(image_names(images / place)) if (images / place).is_dir() else set()
        if file not in listed[place]:
            missing.append(name)
        mirrored = f"{images.name}/{place}" if place else images.name
        people.append(maps.person(images / name, mirrored, person + 1, camid))
    if missing:
        raise FileNotFoundError(
            f"{path} names {len(people)} images, of which {len(missing)} are missing in {images}, such as {missing[0]}"
        )
    if not people:
        raise ValueError(f"{path} must name images, got none")
    return people


def _holds(folder: Path) -> bool:
    return (folder / "list_train.txt").is_file() and (folder / "list_query.txt").is_file()


FORMAT = DatasetFormat(
    "msmt17",
    "MSMT17",
    "MSMT17_V1/              or MSMT17_V2/\n  train/                or mask_train_v2/\n    0000/...jpg\n"
    "  test/                 or mask_test_v2/\n  list_train.txt\n  list_val.txt\n  list_query.txt\n  list_gallery.txt\n"
    "  iuv/                  (optional) IUV maps",
    _holds,
    lambda folder: True,
    _read,
)
