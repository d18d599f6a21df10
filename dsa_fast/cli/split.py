"""`dsa-fast split`."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from dsa_fast.configs.datasets import DatasetOptions
from dsa_fast.files import atomic_path, csv_errors, locked
from dsa_fast.terminal import console as open_console

if TYPE_CHECKING:
    from dsa_fast.data.people import PeopleSplits, Person


def split(
    source: Path,
    *,
    out: Path | None = None,
    test: float = 0.5,
    seed: int = 0,
    name: str = "auto",
    options: DatasetOptions | None = None,
    overwrite: bool = False,
) -> None:
    """Split your own people into train, query and gallery by identity, and write them as a CSV file.

    All commands read that file as a data set.

    Args:
        source: a folder per person, or a CSV file without a column `split`, or its folder.
        out: the CSV file to write; by default split.csv in the data set's folder, next to which maps are looked for.
        test: share of the people to test on, above 0 and below 1, of those seen by two cameras (or with two images, if
            no cameras are known).
        seed: random seed; the same data and seed give the same file.
        name: the data set's name; `auto` detects it from the folder.
        options: options of the data set.
        overwrite: replace the file if it exists.

    Examples:
        dsa-fast split photos
        dsa-fast split photos/people.csv --out photos/half.csv --test 0.3 --seed 1
    """
    from dsa_fast.data.registry import read_dataset
    from dsa_fast.data.split import check_share, split_people

    check_share(test)
    if out is not None and out.suffix.lower() != ".csv":
        raise ValueError(f"out must be a CSV file, got {out}")
    if name == "auto" and not options and _is_split(source / "split.csv"):
        raise FileExistsError(
            f"{source} is split already, by {source / 'split.csv'}: give that file to other commands, or remove it "
            "to split again"
        )
    data = read_dataset(source, name, **(options or {}))
    out = data.root / "split.csv" if out is None else out
    if source.is_file() and out.exists() and out.samefile(source):
        raise ValueError(f"out must be another file than source, got {out} for both")
    parts = split_people(data, test, seed)
    with locked(out):
        if out.exists() and not overwrite:
            raise FileExistsError(f"out must be new, got {out} (--overwrite replaces it)")
        _write(out, parts)
    console = open_console()
    console.print(_report(parts))
    for line in parts.notes():
        console.print(line, soft_wrap=True)
    alone = sorted(pid for pid, images in Counter(person.pid for person in parts.train).items() if images == 1)
    if alone:
        named = ", ".join(parts.pid_names.get(pid, str(pid)) for pid in alone[:5])
        console.print(
            f"{len(alone)} people to train on have a single image, so no pair of images of one person: {named}"
            f"{', ...' if len(alone) > 5 else ''}",
            soft_wrap=True,
        )
    console.print(f"{out}: give it as the data set (dsa-fast fit --data.root {out})", soft_wrap=True)


def _is_split(table: Path) -> bool:
    """Returns whether there is such a CSV file with a column `split`."""
    if not table.is_file():
        return False
    with table.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file, csv_errors(table):
        return "split" in next(csv.reader(file), [])


def _report(parts: PeopleSplits) -> Table:
    table = Table(title=f"{parts.name}: {parts.root}")
    table.add_column("")
    for column in ("people", "images", "images per person", "people with one image", "cameras"):
        table.add_column(column, justify="right")
    for part in ("train", "query", "gallery"):
        people: Sequence[Person] = getattr(parts, part)
        images = Counter(person.pid for person in people if person.pid > 0)
        counts = sorted(images.values())
        table.add_row(
            part,
            str(len(images)),
            str(len(people)),
            f"{counts[0]} to {counts[-1]}" if counts else "",
            str(counts.count(1)),
            str(len({person.camid for person in people})) if parts.has_cameras else "not known",
        )
    return table


def _write(out: Path, parts: PeopleSplits) -> None:
    """Writes a data set as a CSV file, with paths relative to its folder where they lie below it."""
    home = out.absolute().parent
    with_maps = any(
        _given_map(person, home, parts) for part in (parts.train, parts.query, parts.gallery) for person in part
    )
    columns = ["path", "pid", *(["camid"] if parts.has_cameras else []), "split", *(["iuv"] if with_maps else [])]
    with (
        atomic_path(out) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for split in ("train", "query", "gallery"):
            for person in getattr(parts, split):
                place = _given_map(person, home, parts)
                cells = {
                    "path": _relative(person.path, home),
                    "pid": parts.pid_names.get(person.pid, person.pid),
                    "camid": parts.camera_names.get(person.camid, person.camid),
                    "split": split,
                    "iuv": "" if place is None else _relative(place, home),
                }
                writer.writerow([cells[column] for column in columns])


def _given_map(person: Person, home: Path, parts: PeopleSplits) -> Path | None:
    """Returns an image's map, if the loader would not find it by itself next to the CSV file."""
    from dsa_fast.densepose.iuv_store import in_store

    place = person.iuv_path
    if place is None or in_store(place) is not None:
        return None
    found = home == parts.root.absolute() and place.absolute().is_relative_to(home / "iuv")
    return None if found else place


def _relative(path: Path, home: Path) -> str:
    whole = path.absolute()
    return whole.relative_to(home).as_posix() if whole.is_relative_to(home) else os.fspath(whole)
