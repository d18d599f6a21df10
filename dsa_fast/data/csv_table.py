"""A folder with a CSV file that lists images and their people.

```
path,pid,camid,split,iuv
photos/a.jpg,1,1,train,maps/a.png
photos/b.jpg,2,1,query,
photos/c.jpg,2,3,gallery,
```

Paths are relative to the CSV file's folder, or absolute. `split` is train, query, gallery or multi_query. The column
`iuv` is optional. Without it, the map of `photos/a.jpg` is `iuv/photos/a.png`, if that exists.
"""

from __future__ import annotations

import csv
from pathlib import Path, PurePosixPath

from dsa_fast.data.folders import DatasetFormat, IuvMaps, image_names
from dsa_fast.data.people import PeopleSplits, Person
from dsa_fast.files import check_regular, csv_errors

__all__ = ["FORMAT"]

_COLUMNS = ("path", "pid", "camid", "split")
_SPLITS = ("train", "query", "gallery", "multi_query")
_MOST_TABLES = 50  # CSV files in a folder whose headers are read, at most


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
        FileNotFoundError: a listed image or map does not exist.
        ValueError: a column is missing, or a row is wrong; the message names it.
    """
    if folder.is_file():
        path, folder = folder, folder.parent
    elif table is not None:
        path = folder / table
        if not path.is_file():
            raise FileNotFoundError(f"table must be a CSV file in {folder}, got {table}: no such file")
    else:
        tables = _tables(folder)
        if len(tables) != 1:
            raise ValueError(
                f"{folder} must hold one CSV file with the columns {', '.join(_COLUMNS)}, got "
                f"{', '.join(each.name for each in tables) or 'none'}: name it with the option table"
            )
        path = tables[0]
    maps = IuvMaps(folder, iuv)
    splits: dict[str, list[Person]] = {split: [] for split in _SPLITS}
    listed: dict[Path, set[str]] = {}

    def check(file: Path, line: int) -> None:
        parent = file.parent
        if parent not in listed:
            listed[parent] = set(image_names(parent)) if parent.is_dir() else set()
        if file.name not in listed[parent] and not file.is_file():
            raise FileNotFoundError(f"{path}, line {line}: {file} does not exist")

    check_regular(path)
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file, csv_errors(path):
        reader = csv.DictReader(file)
        lacking = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
        if lacking:
            raise ValueError(f"{path} must have the columns {', '.join(_COLUMNS)}, got {reader.fieldnames or 'none'}")
        for row in reader:
            line = reader.line_num
            try:
                pid, camid = int(row["pid"]), int(row["camid"])
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"{path}, line {line}: pid and camid must be whole numbers, got {row['pid']!r}, {row['camid']!r}"
                ) from error
            split = (row["split"] or "").strip()
            if split not in splits:
                raise ValueError(f"{path}, line {line}: split must be one of {', '.join(_SPLITS)}, got {split!r}")
            if max(abs(pid), abs(camid)) >= 1 << 31:
                raise ValueError(f"{path}, line {line}: pid and camid must be below 2^31, got {pid} and {camid}")
            if pid < (-1 if split == "gallery" else 1):
                least = "-1 (junk)" if split == "gallery" else "1"
                raise ValueError(f"{path}, line {line}: the pid of a {split} image must be at least {least}, got {pid}")
            name = (row["path"] or "").strip().replace("\\", "/")
            if not name:
                raise ValueError(f"{path}, line {line}: path must not be empty")
            image = folder / name
            check(image, line)
            given = (row.get("iuv") or "").strip()
            if given:
                check(folder / given, line)
            place = str(PurePosixPath(name).parent)
            mirrored = "" if place == "." else place
            found = folder / given if given else maps.find(mirrored, image.name)
            splits[split].append(Person(image, found, pid, camid, found or maps.place(mirrored, image.name)))
    if not any(splits.values()):
        raise ValueError(f"{path} must list images, got none")
    return PeopleSplits(path.stem, folder, **splits)


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
    "DIR/\n  people.csv            path,pid,camid,split[,iuv]\n  ...                   the images\n"
    "  iuv/                  (optional) IUV maps",
    lambda folder: folder.is_file() or bool(_tables(folder)),
    lambda folder: True,
    _read,
)
