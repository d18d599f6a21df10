"""Lists the images of a data set or a folder that need an IUV map, and the path of each map."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dsa_fast.data.folders import IMAGE_SUFFIXES, image_names
from dsa_fast.data.people import Person
from dsa_fast.data.registry import holds_dataset, read_dataset
from dsa_fast.densepose.iuv_store import in_store

__all__ = ["ImageList", "list_images"]


@dataclass(frozen=True)
class ImageList:
    """Images and the paths of their maps.

    Attributes:
        name: the data set's name, or `folder`.
        root: folder that the images' names are relative to.
        out: folder of the maps.
        pairs: paths of each image and its map, sorted by the map's name; no map appears twice.
    """

    name: str
    root: Path
    out: Path
    pairs: list[tuple[Path, Path]]


def list_images(
    source: Path,
    *,
    name: str = "auto",
    out: Path | None = None,
    splits: Literal["all", "train"] = "all",
    check_counts: bool = True,
    options: Mapping[str, Any] | None = None,
) -> ImageList:
    """Lists the images of a data set or of a folder, and where their IUV maps belong.

    The maps of a data set are where its loader looks for them. The maps of a plain folder are in its subfolder `iuv`,
    with the images' subfolders and names and the suffix `.png`.

    Args:
        source: a data set, as in `read_dataset`, or a folder with images at any depth.
        name: a data set's name; `folder` takes all images of a folder; `auto` takes a data set if there is one.
        out: folder of the maps, created if missing; by default `iuv` in the data set or folder.
        splits: all images, or only the training images, because testing needs no maps.
        check_counts: as in `read_dataset`.
        options: options of the data set, as in `read_dataset`.

    Raises:
        FileNotFoundError: `source` or the data set does not exist.
        OSError: `out` can't be created or written to.
        ValueError: there are no images, two images would have one map, or a map would lie outside `out`.
    """
    source = source.expanduser()
    if not source.exists():
        raise FileNotFoundError(f"source must be a folder of images or a data set, got {source}: no such folder")
    if name == "folder" and not source.is_dir():
        raise ValueError(f"source must be a folder, got the file {source}")
    if out is not None:
        _make(out)
    if name == "folder" or (name == "auto" and source.is_dir() and not holds_dataset(source)):
        if splits != "all":
            raise ValueError(f"splits must be all for a plain folder, got {splits}: {source} is not a known data set")
        listing = _list_folder(source, source / "iuv" if out is None else out)
    else:
        listing = _list_dataset(source, name, out, splits, check_counts, dict(options or {}))
    if not listing.pairs:
        raise ValueError(f"source must hold images ({', '.join(sorted(IMAGE_SUFFIXES))}), got none in {source}")
    _make(listing.out)
    return listing


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"out must be a folder that can be written to, got {folder}: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"out must be a folder that can be written to, got {folder}: no permission; see --out")


def _list_folder(root: Path, out: Path) -> ImageList:
    own = out.resolve()
    pairs = []
    for place, folders, _ in os.walk(root):
        here = Path(place)
        folders[:] = sorted(each for each in folders if not each.startswith(".") and (here / each).resolve() != own)
        for name in image_names(here):
            pairs.append((here / name, out / (here / name).relative_to(root).with_suffix(".png")))
    return ImageList("folder", root, out, _checked(pairs, out))


def _list_dataset(
    source: Path, name: str, out: Path | None, splits: str, check_counts: bool, options: dict[str, Any]
) -> ImageList:
    data = read_dataset(source, name, iuv=out, check_counts=check_counts, **options)
    people = [*data.train]
    if splits == "all":
        people += [*data.query, *data.gallery, *data.multi_query]
    if out is None:  # the loader's folder: next to the images' folders, or for CUHK03-NP next to both kinds
        _refuse_store(people)
        looked = [person.iuv_place for person in people if person.iuv_place is not None]
        out = next((it for it in _homes(data.root) if any(_within(place, it) for place in looked)), data.root / "iuv")
    pairs = dict.fromkeys(
        (person.path, person.iuv_path or person.iuv_place)
        for person in people
        if person.iuv_path is None or _own(person.iuv_path, out)
    )
    return ImageList(data.name, data.root, out, _checked([(image, place) for image, place in pairs if place], out))


def _refuse_store(people: Sequence[Person]) -> None:
    for person in people:
        stored = None if person.iuv_place is None else in_store(person.iuv_place)
        if stored is not None:
            there = sum(each.iuv_path is not None for each in people)
            raise ValueError(
                f"maps can't be added to the store {stored[0].path}, which has those of {there} of {len(people)} "
                "images: give --out FOLDER to make all maps again, or move the store away; dsa-fast pack makes a "
                "new store"
            )


def _own(place: Path, out: Path) -> bool:
    """Returns whether `prepare` could have written an existing map. Other maps (arrays, CSV files') stay."""
    return place.suffix.lower() == ".png" and _within(place, out)


def _homes(root: Path) -> list[Path]:
    return [root / "iuv", root.parent / "iuv"]


def _within(place: Path, folder: Path) -> bool:
    return Path(os.path.normpath(place)).is_relative_to(os.path.normpath(folder))


def _checked(pairs: list[tuple[Path, Path]], out: Path) -> list[tuple[Path, Path]]:
    """Returns the pairs, sorted. Refuses two maps with the same path, and maps outside `out`."""
    images: dict[Path, Path] = {}
    for image, place in sorted(pairs, key=lambda pair: pair[1]):
        if place in images:
            raise ValueError(
                f"each image must have a map of its own, got {images[place]} and {image}, both with {place}: "
                "rename one of them"
            )
        if not _within(place, out):
            raise ValueError(
                f"maps must lie in {out}, got {place} for {image}: images must be named by paths relative to the data "
                "set's folder to have maps"
            )
        images[place] = image
    return [(image, place) for place, image in images.items()]
