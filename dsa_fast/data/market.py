"""Data sets in Market-1501's layout: the real one, and `dsa-fast synth`'s.

```
root/
  bounding_box_train/0002_c1s1_000451_03.jpg    pid 2, camera 1
  query/...
  bounding_box_test/...                         pid 0000: distractor, -1: junk
  iuv/bounding_box_train/0002_c1s1_000451_03.png (optional) DensePose's IUV map, mirrored names
```
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

SPLITS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
_NAME = re.compile(r"^(-1|\d+)_c(\d+)")
_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp"}


@dataclass(frozen=True)
class Person:
    """One image of one person.

    Attributes:
        path: the image's file.
        iuv_path: its IUV map's file, or None where there is none.
        pid: identity; 0 is a distractor, -1 junk (Market-1501's convention).
        camid: camera, 1-based as in the file's name.
    """

    path: Path
    iuv_path: Path | None
    pid: int
    camid: int


@dataclass(frozen=True)
class Market1501:
    """The three splits of a data set in Market-1501's layout.

    Attributes:
        root: the folder that holds `bounding_box_train` and the others.
        train: people to train on (junk and distractors left out).
        query: queries.
        gallery: gallery, junk and distractors included (the evaluation knows what they are).
    """

    root: Path
    train: list[Person]
    query: list[Person]
    gallery: list[Person]

    @classmethod
    def read(cls, root: Path | str, iuv: Path | str | None = None) -> Market1501:
        """Lists a data set's images.

        Args:
            root: folder of the data set, or one above it (`Market-1501-v15.09.15` and the like are found).
            iuv: folder of the IUV maps, which mirrors the splits' folders; by default `root/iuv`.

        Raises:
            FileNotFoundError: a split's folder is missing, or `iuv` is given and is no folder.
            ValueError: a file's name is not of the form `PID_cCAM...`, or a split holds no image.
        """
        folder = _find_root(Path(root))
        iuv_root = folder / "iuv" if iuv is None else Path(iuv)
        if iuv is not None and not iuv_root.is_dir():
            raise FileNotFoundError(f"iuv must be the folder of the IUV maps, got {iuv_root}: no such folder")
        people = {split: _read_split(folder, name, iuv_root) for split, name in SPLITS.items()}
        people["train"] = [person for person in people["train"] if person.pid > 0]
        return cls(folder, people["train"], people["query"], people["gallery"])

    def summary(self) -> list[tuple[str, int, int, int, int]]:
        """One row a split: name, images, identities (junk and distractors not counted), cameras, IUV maps."""
        rows = []
        for name in SPLITS:
            people: list[Person] = getattr(self, name)
            identities = {person.pid for person in people if person.pid > 0}
            cameras = {person.camid for person in people}
            maps = sum(person.iuv_path is not None for person in people)
            rows.append((name, len(people), len(identities), len(cameras), maps))
        return rows


def _find_root(root: Path) -> Path:
    if not root.is_dir():
        raise FileNotFoundError(f"root must be a data set's folder, got {root}: no such folder")
    for folder in (root, *sorted(path for path in root.iterdir() if path.is_dir())):
        if all((folder / name).is_dir() for name in SPLITS.values()):
            return folder
    found = sorted(path.name + ("/" if path.is_dir() else "") for path in root.iterdir())
    shown = ", ".join(found[:12]) + (f", ... ({len(found)} entries)" if len(found) > 12 else "")
    raise FileNotFoundError(
        f"root must hold {', '.join(name + '/' for name in SPLITS.values())} "
        f"(Market-1501's layout), got {root} with: {shown or 'nothing'}"
    )


def _read_split(folder: Path, name: str, iuv_root: Path) -> list[Person]:
    maps = {path.stem: path for path in (iuv_root / name).glob("*.png")}
    people = []
    for path in sorted((folder / name).iterdir()):
        if path.suffix.lower() not in _SUFFIXES:
            continue
        match = _NAME.match(path.name)
        if match is None:
            raise ValueError(
                f"image names must be PID_cCAM... as in 0002_c1s1_000451_03.jpg, got {path.name} in {folder / name}"
            )
        people.append(Person(path, maps.get(path.stem), int(match[1]), int(match[2])))
    if not people:
        raise ValueError(f"{folder / name} must hold images ({', '.join(sorted(_SUFFIXES))}), got none")
    return people
