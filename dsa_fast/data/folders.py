"""Finding data sets and their files in folders: what all loaders share."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePath

from dsa_fast.data.people import PeopleSplits
from dsa_fast.densepose.iuv_store import STORE_SUFFIX, IUVStore

__all__ = [
    "IMAGE_SUFFIXES",
    "IuvMaps",
    "Source",
    "beside",
    "child",
    "image_names",
    "plain_name",
    "show_tree",
    "subfolders",
]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp"})

# IUV maps that `read_iuv` reads, the preferred first.
_MAP_SUFFIXES = (".png", ".npy", ".npz")

# Not data sets, though they may mirror the folders of one.
_SKIPPED = frozenset({"iuv", "__macosx"})


@dataclass(frozen=True)
class Source:
    """A kind of data set: how to know its folder, and how to read it.

    Attributes:
        name: what users call it, such as `market1501`.
        title: what its authors call it.
        tree: the folders and files it is made of, as shown when it is not found.
        holds: whether a folder has these.
        called: whether a folder's name says that it is this data set and no other of the same layout.
        read: reads the folder; the keywords after `iuv` and `check_counts` are the data set's options.
    """

    name: str
    title: str
    tree: str
    holds: Callable[[Path], bool]
    called: Callable[[Path], bool]
    read: Callable[..., PeopleSplits]


def plain_name(path: Path) -> str:
    """A folder's name in lower case with letters and digits only: `Market-1501-v15.09.15` is `market1501v150915`."""
    return "".join(letter for letter in path.absolute().name.lower() if letter.isalnum())


def child(folder: Path, *names: str) -> Path | None:
    """The first of `names` that exists in a folder, in any case of letters; a name may have folders in it."""
    for name in names:
        if (folder / name).exists():
            return folder / name
    for name in names:
        place: Path | None = folder
        for step in PurePath(name).parts:
            place = _any_case(place, step) if place is not None else None
        if place is not None:
            return place
    return None


def _any_case(folder: Path, name: str) -> Path | None:
    if not folder.is_dir():
        return None
    with os.scandir(folder) as entries:
        return next((folder / entry.name for entry in entries if entry.name.lower() == name.lower()), None)


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder where data sets may lie, sorted; none where it may not be read."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir())
    except PermissionError:
        return []
    return [folder / name for name in names if not name.startswith(".") and name.lower() not in _SKIPPED]


def image_names(folder: Path) -> list[str]:
    """Names of the images in a folder, sorted; hidden files (such as macOS's `._*`) are left out."""
    with os.scandir(folder) as entries:
        return sorted(
            entry.name
            for entry in entries
            if not entry.name.startswith(".") and f".{entry.name.rpartition('.')[2].lower()}" in IMAGE_SUFFIXES
        )


class IuvMaps:
    """The IUV maps of a data set: files in folders that mirror those of the images, or one `IUVStore` of them.

    Args:
        root: the data set's folder.
        iuv: folder or store of the maps; by default the folder `root/iuv`, or without it the store `root/iuv.dsaiuv`.

    Raises:
        FileNotFoundError: `iuv` is given and is neither.
        ValueError: the store is damaged.
    """

    def __init__(self, root: Path, iuv: Path | str | None = None) -> None:
        if iuv is None:
            store = root / f"iuv{STORE_SUFFIX}"
            self.root = store if store.is_file() and not (root / "iuv").is_dir() else root / "iuv"
        else:
            self.root = Path(iuv)
        self._store = IUVStore(self.root) if self.root.suffix == STORE_SUFFIX and self.root.is_file() else None
        if iuv is not None and self._store is None and not self.root.is_dir():
            raise FileNotFoundError(
                f"iuv must be the folder of the IUV maps, or a store (*{STORE_SUFFIX}) of them, got {self.root}: "
                "no such folder or store"
            )
        self._listed: dict[str, dict[str, Path]] = {}

    def find(self, folder: str, name: str) -> Path | None:
        """The map of the image `name` in `folder` (relative to the data set's), or None.

        Of a store it is a path as if the store were a folder, which `read_iuv` reads.
        """
        stem = name.rpartition(".")[0]
        if self._store is not None:
            key = f"{folder}/{stem}" if folder else stem
            return self.root / key if key in self._store else None
        maps = self._listed.get(folder)
        if maps is None:
            place = self.root / folder
            maps = {}
            if self.root.is_dir() and place.is_dir():
                with os.scandir(place) as entries:
                    names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
                for suffix in reversed(_MAP_SUFFIXES):  # a PNG goes before an array of the same name
                    found = (each for each in names if each.lower().endswith(suffix))
                    maps.update({each.rpartition(".")[0]: place / each for each in found})
            self._listed[folder] = maps
        return maps.get(stem)

    def place(self, folder: str, name: str) -> Path:
        """Where the map of the image `name` in `folder` belongs."""
        return self.root / folder / f"{name.rpartition('.')[0]}.png"


def show_tree(root: Path, lines: int = 16) -> str:
    """What a folder holds, two levels deep and cut short: lines of text."""
    shown = [f"{root}/"]
    for entry in _entries(root, 10):
        shown.append(f"  {entry}")
        if entry.endswith("/"):
            shown += [f"    {each}" for each in _entries(root / entry, 4)]
    if len(shown) == 1:
        shown.append("  (nothing)")
    return "\n".join(shown if len(shown) <= lines else [*shown[: lines - 1], "  ..."])


def _entries(folder: Path, limit: int) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in entries)
    except OSError as error:
        return [f"({error.strerror})"]
    return names if len(names) <= limit else [*names[:limit], f"... ({len(names)} entries)"]


def beside(left: str, right: str) -> str:
    """Two texts as two columns."""
    columns = [text.splitlines() for text in (left, right)]
    width = max(map(len, columns[0]))
    height = max(map(len, columns))
    rows = zip(*(column + [""] * (height - len(column)) for column in columns), strict=True)
    return "\n".join(f"{a:{width}} | {b}".rstrip() for a, b in rows)
