"""`dsa-fast pack`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dsa_fast.cli.progress import image_progress
from dsa_fast.configs.datasets import DatasetOptions
from dsa_fast.terminal import console as open_console

if TYPE_CHECKING:
    from dsa_fast.data.people import PeopleSplits, Person


def pack(
    root: Path,
    out: Path | None = None,
    *,
    dump: Path | None = None,
    name: str = "auto",
    options: DatasetOptions | None = None,
    check_counts: bool = True,
    iuv: Path | None = None,
    iuv_order: Literal["auto", "IUV", "VUI"] = "auto",
    overwrite: bool = False,
) -> None:
    """Pack the IUV maps of a data set or folder into one file, from its maps or from a dump of detectron2's
    apply_net.py.

    Data sets use the file, by default iuv.dsaiuv next to the images, if there is no folder `iuv`.

    Args:
        root: folder of a data set, or one up to three folders above it; or a CSV file; or any folder of images. Its
            maps are next to the images (NAME_iuv.png, NAME_IUV.png) or in its folder iuv.
        out: the file to write; by default iuv.dsaiuv in the data set's folder.
        dump: file written by `apply_net.py dump`, used instead of a folder of maps; packs the person in the middle of
            each image.
        name: the kind of data set; `folder` takes all images in a folder; `auto` detects it.
        options: options of the data set, such as `{kind: labeled}` for CUHK03.
        check_counts: whether the image counts must match the published ones.
        iuv: folder of the IUV maps; by default `iuv` inside root.
        iuv_order: channel order of the maps' red, green and blue; `auto` detects it in each file.
        overwrite: replace the file if it exists.

    Examples:
        dsa-fast pack DIR
        dsa-fast pack DIR --dump results.pkl --out maps.dsaiuv
    """
    from dsa_fast.data.registry import holds_dataset, read_dataset
    from dsa_fast.densepose.iuv_store import STORE_SUFFIX, IUVStore

    if dump is not None and iuv is not None:
        raise ValueError("dump replaces iuv, got both")
    if name == "folder" or (name == "auto" and root.is_dir() and not holds_dataset(root)):
        data = _folder(root, iuv)
    else:
        data = read_dataset(root, name, iuv=iuv, check_counts=check_counts, **(options or {}))
    home = _place(data)[0]
    target = home / f"iuv{STORE_SUFFIX}" if out is None else out
    if target.exists() and not overwrite:
        raise FileExistsError(f"out must be a new file, got {target}: --overwrite replaces it")
    people = list(
        {
            person.path: person for part in (data.train, data.query, data.gallery, data.multi_query) for person in part
        }.values()
    )
    console = open_console()
    maps = _from_files(data, people, iuv_order) if dump is None else _from_dump(data, people, dump)
    with image_progress("packing") as show:
        store = IUVStore.create(target, _counted(maps, lambda done: show(done, len(people))))
    if not len(store):
        target.unlink()
        raise ValueError(f"there must be maps to pack, got none for the {len(people)} images of {data.root}")
    size = target.stat().st_size
    console.print(
        f"{len(store)} maps of {len(people)} images in {target}: {size:,} bytes, {size / len(store):,.0f} per map",
        soft_wrap=True,
    )
    if out is None and (home / "iuv").is_dir():
        console.print(
            f"The folder {home / 'iuv'} takes precedence: give the file as --data.iuv, or move the folder away.",
            soft_wrap=True,
        )


def _counted(maps: Iterator[Any], show: Callable[[int], None]) -> Iterator[Any]:
    for done, each in enumerate(maps, 1):
        show(done)
        yield each


def _folder(root: Path, iuv: Path | None) -> PeopleSplits:
    """Returns the images of a plain folder, with their maps, as if they were one split."""
    from dsa_fast.data.folders import IuvMaps, plain_folder
    from dsa_fast.data.people import PeopleSplits, Person

    if not root.is_dir():
        raise FileNotFoundError(f"root must be a folder, got {root}")
    listed = plain_folder(root, IuvMaps(root, iuv))
    people = [Person(image, found, 0, 1) for _, image, found in listed if image is not None]
    return PeopleSplits("folder", root, people, [], [])


def _place(data: PeopleSplits) -> tuple[Path, str]:
    """Returns the folder of the maps, and the path from it to the data set's: CUHK03-NP is two data sets in one."""
    kind = data.name.removeprefix("cuhk03-np-")
    return (data.root, "") if kind == data.name else (data.root.parent, f"{kind}/")


def _key(data: PeopleSplits, person: Person) -> str:
    """Returns a map's name, which is its image's path in the data set."""
    return _place(data)[1] + person.path.relative_to(data.root).with_suffix("").as_posix()


def _from_files(data: PeopleSplits, people: list[Person], order: Literal["auto", "IUV", "VUI"]) -> Iterator[Any]:
    from dsa_fast.densepose.iuv import read_iuv
    from dsa_fast.image import image_size

    for person in people:
        if person.iuv_path is not None:
            yield _key(data, person), read_iuv(person.iuv_path, order=order, size=image_size(person.path))


def _from_dump(data: PeopleSplits, people: list[Person], dump: Path) -> Iterator[Any]:
    """Yields the maps of the images in the dump."""
    from dsa_fast.densepose.dump import read_dump
    from dsa_fast.densepose.map_sources import match_names
    from dsa_fast.image import image_size

    entries = read_dump(dump)
    matched = match_names([person.path for person in people], (entry.file_name for entry in entries), str(dump))
    by_name = {entry.file_name: entry for entry in entries}
    for person in people:
        if person.path in matched:
            yield _key(data, person), by_name[matched[person.path]].iuv(image_size(person.path))
