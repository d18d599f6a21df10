"""Finds data sets, images and IUV maps in folders. All data set readers share it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from dsa_fast.data.people import PeopleSplits, Person
from dsa_fast.densepose.iuv_store import STORE_SUFFIX, IUVStore

__all__ = [
    "IMAGE_SUFFIXES",
    "DatasetFormat",
    "IuvMaps",
    "child",
    "image_names",
    "plain_folder",
    "plain_name",
    "show_tree",
    "side_by_side",
    "subfolders",
]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})

# IUV maps that `read_iuv` reads, preferred ones first.
_MAP_SUFFIXES = (".png", ".npy", ".npz")

# These folders are not data sets, but may mirror the folders of one.
_SKIPPED = frozenset({"iuv", "__macosx"})


@dataclass(frozen=True)
class DatasetFormat:
    """The layout of a data set: how to recognize its folder, and how to read it.

    Attributes:
        name: the name for users, such as `market1501`.
        title: the authors' name.
        tree: its folders and files, shown if it is not found.
        holds: returns whether a folder has this layout.
        has_name: returns whether a folder's name means this data set and no other with the same layout.
        read: reads the folder. Its keywords after `iuv` and `check_counts` are the data set's options.
    """

    name: str
    title: str
    tree: str
    holds: Callable[[Path], bool]
    has_name: Callable[[Path], bool]
    read: Callable[..., PeopleSplits]


def plain_name(path: Path) -> str:
    """Returns a folder's name in lower-case letters and digits only: `Market-1501-v15.09.15` is `market1501v150915`."""
    return "".join(letter for letter in path.absolute().name.lower() if letter.isalnum())


def child(folder: Path, *names: str) -> Path | None:
    """Returns the first of `names` that exists in a folder, ignoring case. A name may be a path."""
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
    """Lists the subfolders that may contain data sets, sorted; none if the folder can't be read."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir())
    except PermissionError:
        return []
    return [folder / name for name in names if not name.startswith(".") and name.lower() not in _SKIPPED]


def image_names(folder: Path) -> list[str]:
    """Lists the names of the images in a folder, sorted, without hidden files (such as macOS's `._*`)."""
    with os.scandir(folder) as entries:
        return sorted(
            entry.name
            for entry in entries
            if not entry.name.startswith(".") and f".{entry.name.rpartition('.')[2].lower()}" in IMAGE_SUFFIXES
        )


class IuvMaps:
    """The IUV maps of a data set: files in folders that mirror those of the images, or one `IUVStore`.

    Args:
        root: the data set's folder.
        iuv: folder or store of the maps; by default the folder `root/iuv`, or the store `root/iuv.dsaiuv` if there is
            no such folder.

    Raises:
        FileNotFoundError: `iuv` is given, but there is no such folder or store.
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
        """Returns the map of the image `name` in `folder` (relative to the data set's), or None.

        In a store, it is a path as if the store were a folder; `read_iuv` reads it.
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
                for suffix in reversed(_MAP_SUFFIXES):  # a PNG takes precedence over an array of the same name
                    found = (each for each in names if each.lower().endswith(suffix))
                    maps.update({each.rpartition(".")[0]: place / each for each in found})
            self._listed[folder] = maps
        return maps.get(stem)

    def place(self, folder: str, name: str) -> Path:
        """Returns the path where the map of the image `name` in `folder` belongs."""
        return self.root / folder / f"{name.rpartition('.')[0]}.png"

    def person(self, image: Path, folder: str, pid: int, camid: int) -> Person:
        """Makes the `Person` of an image, and looks for its map in `folder`."""
        return Person(image, self.find(folder, image.name), pid, camid, self.place(folder, image.name))


def plain_folder(root: Path, maps: IuvMaps) -> Iterator[tuple[str, Path | None, Path | None]]:
    """Lists a plain folder's images with their maps, which are next to them (NAME_iuv.png) or in `maps`.

    Yields:
        The subfolder's path from `root`, the image, and its map or None. A map without an image comes with None.
    """
    for place, folders, _ in os.walk(root):
        here = Path(place)
        folders[:] = sorted(each for each in folders if not each.startswith(".") and here / each != maps.root)
        within = "" if here == root else here.relative_to(root).as_posix()
        names = image_names(here)
        beside = {each.rpartition(".")[0][:-4]: each for each in names if Path(each).stem.lower().endswith("_iuv")}
        paired = set(beside.values())
        for each in names:
            stem = each.rpartition(".")[0]
            if each in paired or stem.lower().endswith("_inds"):
                continue
            found = beside.pop(stem, None)
            yield within, here / each, maps.find(within, each) if found is None else here / found
        for each in beside.values():
            yield within, None, here / each


def show_tree(root: Path, lines: int = 16) -> str:
    """Lists a folder's contents, two levels deep, in at most `lines` lines of text."""
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


def side_by_side(left: str, right: str) -> str:
    """Puts two texts into two columns."""
    columns = [text.splitlines() for text in (left, right)]
    width = max(map(len, columns[0]))
    height = max(map(len, columns))
    rows = zip(*(column + [""] * (height - len(column)) for column in columns), strict=True)
    return "\n".join(f"{a:{width}} | {b}".rstrip() for a, b in rows)
