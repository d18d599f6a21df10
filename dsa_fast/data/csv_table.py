"""A folder with a CSV file that lists images and their people.

```
path,pid,camid,split,iuv
photos/a.jpg,alice,door,train,maps/a.png
photos/b.jpg,bob,door,query,
photos/c.jpg,bob,yard,gallery,
```

Paths are relative to the CSV file's folder, or absolute. `pid` and `camid` are numbers or text. Only `path` and `pid`
are required:

- Without the column `camid`, each image is its own camera, and a test leaves out only the query itself.
- `split` is train, query, gallery or multi_query. Without the column, all images are in the first three.
- A path may be a folder: the row then stands for all images in it.
- Without the column `iuv`, the map of `photos/a.jpg` is `iuv/photos/a.png`, if that exists.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from dsa_fast.data.folders import IMAGE_SUFFIXES, DatasetFormat, IuvMaps, image_names
from dsa_fast.data.people import PeopleSplits, Person
from dsa_fast.data.text_ids import MOST, number_ids, whole
from dsa_fast.files import check_regular, csv_columns, csv_errors

__all__ = ["FORMAT"]

_COLUMNS = ("path", "pid")
_SPLITS = ("train", "query", "gallery", "multi_query")
_MOST_TABLES = 50  # CSV files in a folder whose headers are read, at most
_SHOWN = 20  # broken rows in a message


@dataclass(frozen=True)
class _Row:
    line: int
    path: str
    pid: str
    camid: str
    split: str
    iuv: str


def _read(
    folder: Path, *, iuv: Path | str | None = None, check_counts: bool = True, table: Path | str | None = None
) -> PeopleSplits:
    """Reads the people listed in a CSV file.

    Args:
        folder: the folder, or the CSV file itself.
        iuv: folder of the IUV maps of rows without one; maps have the images' relative paths.
        check_counts: not used, because there are no published counts.
        table: the CSV file's name, if a folder has several.

    Raises:
        FileNotFoundError: listed images or maps do not exist.
        ValueError: a column is missing, or rows are wrong; the message lists the first 20 and says how many there are.
    """
    path = _table(folder, table)
    folder = path.parent
    maps = IuvMaps(folder, iuv)
    rows, columns = _rows(path)
    rows, total = [each for row in rows for each in _spread(row, folder)], len(rows)
    if not rows:
        raise ValueError(f"{path} must list images, got none")
    has_cameras, is_split = "camid" in columns, "split" in columns
    pids, pid_names = number_ids(row.pid for row in rows if row.pid)
    camids, camera_names = number_ids(row.camid for row in rows if row.camid)
    if not has_cameras:  # an image that is in two splits is one camera
        places = dict.fromkeys(row.path for row in rows)
        own = {name: number for number, name in enumerate(places, 1)}
    splits: dict[str, list[Person]] = {split: [] for split in _SPLITS}
    files, problems, missing = _Files(), [], 0
    first: dict[str, _Row] = {}  # the first row of each image
    for row in rows:
        image = folder / row.path
        wrong = _wrong(row, folder, pids, camids, has_cameras, is_split)
        if wrong is None and first.setdefault(row.path, row).pid != row.pid:
            wrong = f"{row.path} is {row.pid!r}, but in line {first[row.path].line} {first[row.path].pid!r}"
        if wrong is None:
            lost = next((each for each in (image, folder / row.iuv) if each != folder and not files.has(each)), None)
            if lost is not None:
                wrong, missing = f"{lost} does not exist", missing + 1
        if wrong is not None:
            problems.append(f"line {row.line}: {wrong}")
        if problems:
            continue
        place = str(PurePosixPath(row.path).parent)
        mirrored = "" if place == "." else place
        found = folder / row.iuv if row.iuv else maps.find(mirrored, image.name)
        camid = camids[row.camid] if has_cameras else own[row.path]
        person = Person(image, found, pids[row.pid], camid, found or maps.place(mirrored, image.name))
        if is_split:
            splits[row.split].append(person)
        else:
            for split in ("train", "query", "gallery") if person.pid > 0 else ("gallery",):
                splits[split].append(person)
    if problems:
        kind = FileNotFoundError if missing == len(problems) else ValueError
        raise kind(_report(path, list(dict.fromkeys(problems)), total))
    return PeopleSplits(
        path.stem,
        folder,
        splits["train"],
        splits["query"],
        splits["gallery"],
        splits["multi_query"],
        pid_names=pid_names,
        camera_names=camera_names,
        has_cameras=has_cameras,
        is_split=is_split,
    )


def _table(folder: Path, table: Path | str | None) -> Path:
    """Returns the CSV file."""
    if folder.is_file():
        return folder
    if table is not None:
        if not (folder / table).is_file():
            raise FileNotFoundError(f"table must be a CSV file in {folder}, got {table}: no such file")
        return folder / table
    tables = _tables(folder)
    if len(tables) != 1:
        raise ValueError(
            f"{folder} must hold one CSV file with the columns {', '.join(_COLUMNS)}, got "
            f"{', '.join(each.name for each in tables) or 'none'}: give the file itself in place of the folder"
        )
    return tables[0]


def _rows(path: Path) -> tuple[list[_Row], set[str]]:
    """Reads a CSV file's rows, and the names of its columns."""
    check_regular(path)
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file, csv_errors(path):
        reader = csv.DictReader(file)
        columns = set(reader.fieldnames or ())
        if not set(_COLUMNS) <= columns:
            raise ValueError(
                f"{path} must have the columns {', '.join(_COLUMNS)}, got {csv_columns(reader.fieldnames)}"
            )
        rows = []
        for row in reader:
            cells = {name: (row.get(name) or "").strip() for name in ("path", "pid", "camid", "split", "iuv")}
            rows.append(_Row(reader.line_num, cells.pop("path").replace("\\", "/"), **cells))
    return rows, columns


def _is_folder(row: _Row, folder: Path) -> bool:
    is_image = PurePosixPath(row.path).suffix.lower() in IMAGE_SUFFIXES  # not asked of the disk for each image
    return bool(row.path) and not is_image and (folder / row.path).is_dir()


def _spread(row: _Row, folder: Path) -> list[_Row]:
    """Replaces the row of a folder by one for each image in it."""
    place = folder / row.path
    if row.iuv or not _is_folder(row, folder):
        return [row]
    return [replace(row, path=(PurePosixPath(row.path) / name).as_posix()) for name in image_names(place)] or [row]


def _wrong(
    row: _Row, folder: Path, pids: dict[str, int], camids: dict[str, int], has_cameras: bool, is_split: bool
) -> str | None:
    """Returns what is wrong with a row, apart from its files."""
    if not row.path:
        return "path must not be empty"
    if _is_folder(row, folder):
        return f"{row.path} is a folder, so iuv must be empty" if row.iuv else f"{row.path} must hold images, got none"
    if not row.pid:
        return "pid must not be empty"
    if has_cameras and not row.camid:
        return "camid must not be empty; without the column camid, each image is its own camera"
    for name, text in (("pid", row.pid), ("camid", row.camid)):
        if abs(whole(text) or 0) >= MOST:
            return f"{name} must be below 2^31, got {text}"
    if is_split and row.split not in _SPLITS:
        return f"split must be one of {', '.join(_SPLITS)}, got {row.split!r}"
    pid, holds_others = pids[row.pid], not is_split or row.split == "gallery"
    if pid < (-1 if holds_others else 1):
        kind, least = ("gallery", "-1 (junk)") if holds_others else (row.split, "1")
        return f"the pid of a {kind} image must be at least {least}, got {pid}"
    return None


class _Files:
    """Tells whether files exist, and lists each folder only once."""

    def __init__(self) -> None:
        self._listed: dict[Path, set[str]] = {}

    def has(self, file: Path) -> bool:
        parent = file.parent
        if parent not in self._listed:
            self._listed[parent] = set(image_names(parent)) if parent.is_dir() else set()
        return file.name in self._listed[parent] or file.is_file()


def _report(path: Path, problems: list[str], total: int) -> str:
    if len(problems) == 1:
        return f"{path}, {problems[0]}"
    more = len(problems) - _SHOWN
    return "\n  ".join(
        [
            f"{path} has {len(problems)} broken rows of {total}:",
            *problems[:_SHOWN],
            *([f"and {more} more"] if more > 0 else []),
        ]
    )


def _tables(folder: Path) -> list[Path]:
    """Finds the CSV files of a folder that have the columns."""
    found = []
    for path in [path for path in sorted(folder.glob("*.csv")) if path.is_file()][:_MOST_TABLES]:
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            try:
                header = next(csv.reader([file.readline(10_000)]), [])
            except csv.Error:
                continue
        if set(_COLUMNS) <= set(header):
            found.append(path)
    return found


FORMAT = DatasetFormat(
    "csv",
    "a folder with a CSV file",
    "DIR/\n  people.csv            path,pid[,camid][,split][,iuv]\n  ...                   the images\n"
    "  iuv/                  (optional) IUV maps",
    lambda folder: folder.is_file() or bool(_tables(folder)),
    lambda folder: True,
    _read,
)
