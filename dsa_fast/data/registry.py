"""`read_dataset` finds and reads any known data set in a folder."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from dsa_fast.data import cloth_changing, csv_table, cuhk01, cuhk03, market, mars, msmt17, occluded, person_folders
from dsa_fast.data.folders import DatasetFormat, plain_name, show_tree, side_by_side, subfolders
from dsa_fast.data.people import PeopleSplits

__all__ = ["DATASETS", "holds_dataset", "read_dataset"]

# The first format that matches a folder wins, so more specific ones come first.
_FORMATS = (
    csv_table.FORMAT,
    *market.FORMATS,
    cuhk03.FORMAT,
    cuhk01.FORMAT,
    msmt17.FORMAT,
    *occluded.FORMATS,
    *cloth_changing.FORMATS,
    mars.FORMAT,
    market.OWN,
    person_folders.FORMAT,
)

#: The names that `read_dataset` knows, without `auto`.
DATASETS = tuple(format.name for format in _FORMATS)


_ALIASES = {
    "market": "market1501",
    "dukemtmcreid": "dukemtmc-reid",
    "dukemtmc": "dukemtmc-reid",
    "duke": "dukemtmc-reid",
    "cuhk03np": "cuhk03-np",
    "synthetic": "synth",
    "table": "csv",
    "occludedduke": "occluded-dukemtmc",
    "occduke": "occluded-dukemtmc",
    "occreid": "occluded-reid",
    "pduke": "p-dukemtmc-reid",
    "pdukemtmc": "p-dukemtmc-reid",
    "ltccreid": "ltcc",
    "marketlayout": "market-layout",
}

# The deepest known layout: root/msmt17/MSMT17_V2/MSMT17_V2.
_DEPTH = 3


def read_dataset(
    root: Path | str,
    name: str = "auto",
    *,
    iuv: Path | str | None = None,
    check_counts: bool = True,
    **options: Any,
) -> PeopleSplits:
    """Lists the images of a data set with their people, cameras and IUV maps.

    The data set may be in `root` itself or up to three folders deeper, so the folders of torchreid, fast-reid and
    reid-strong-baseline work as they are (`data` for `data/market1501/Market-1501-v15.09.15`).

    Args:
        root: a folder, or a CSV file.
        name: one of `DATASETS`; `auto` takes the only data set in `root`.
        iuv: folder of the IUV maps, which mirrors the data set's folders, or a store of them (`dsa-fast pack`); by
            default the folder `iuv` or the store `iuv.dsaiuv` in the data set.
        check_counts: compare the image counts with the published ones.
        options: options of the data set: `distractors_500k` (market1501); `kind` (cuhk03, cuhk03-np), `images`
            (cuhk03); `protocol` (cuhk03, synth, ltcc, prcc); `split` and `query_camera` (cuhk01); `with_val` (msmt17,
            prcc); `gallery` (prcc); `frames` (mars); `table` (csv).

    Raises:
        FileNotFoundError: `root` does not exist, no data set is found in it (the message shows the expected tree next
            to the one found), or files are missing.
        ValueError: `name` or an option is unknown, `root` contains several data sets, the image counts differ from the
            published ones, or a file is wrong.
    """
    root = Path(root).expanduser()
    wanted = _format(name)
    if not root.exists():
        raise FileNotFoundError(f"root must be a data set's folder, got {root}: no such folder")
    if root.is_file():
        if root.suffix.lower() != ".csv" or wanted not in (None, csv_table.FORMAT):
            raise FileNotFoundError(f"root must be a data set's folder or a CSV file, got the file {root}")
        found = [(csv_table.FORMAT, root)]
    else:
        found = _find(root, wanted, None if iuv is None else Path(iuv).resolve())
    if not found:
        raise FileNotFoundError(_not_found(root, wanted))
    if len(found) > 1:
        listed = "\n".join(f"  {format.name:14} {folder}" for format, folder in found)
        hint = "name one of them" if len({format for format, _ in found}) > 1 else "give its own folder as root"
        raise ValueError(f"root must hold one data set, got {len(found)} in {root}: {hint}\n{listed}")
    format, folder = found[0]
    allowed = [key for key in inspect.signature(format.read).parameters if key not in ("folder", "iuv", "check_counts")]
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        raise ValueError(
            f"options of {format.name} must be among {', '.join(allowed) or '(it has none)'}, got {', '.join(unknown)}"
        )
    return format.read(folder, iuv=iuv, check_counts=check_counts, **options)


def holds_dataset(root: Path | str) -> bool:
    """Returns whether `read_dataset` would find one or more data sets in a folder, other than a folder per person."""
    found = _find(Path(root).expanduser(), None, None)
    return any(format is not person_folders.FORMAT for format, _ in found)


def _format(name: str) -> DatasetFormat | None:
    """Returns the format with a name, None for `auto`."""
    if name == "auto":
        return None
    plain = plain_name(Path(name))
    for format in _FORMATS:
        if plain == plain_name(Path(format.name)) or _ALIASES.get(plain) == format.name:
            return format
    raise ValueError(f"name must be auto or one of {', '.join(DATASETS)}, got {name!r}")


def _find(root: Path, wanted: DatasetFormat | None, iuv: Path | None) -> list[tuple[DatasetFormat, Path]]:
    """Finds the data sets in a folder. Data sets and IUV maps (whose folders mirror one) are not searched inside."""
    found: list[tuple[Path, list[DatasetFormat], list[DatasetFormat]]] = []
    level = [root]
    for _ in range(_DEPTH + 1):
        deeper: list[Path] = []
        for folder in level:
            if iuv is not None and folder.resolve() == iuv:
                continue
            holding = [format for format in _FORMATS if format is not person_folders.FORMAT and format.holds(folder)]
            if holding:
                found.append((folder, holding, [format for format in holding if format.has_name(folder)]))
            else:
                deeper += subfolders(folder)
        level = deeper
    # Any folders of images look like a folder per person, so that is the last resort, in `root` itself.
    if wanted is person_folders.FORMAT or (wanted is None and not found):
        return [(person_folders.FORMAT, root)] if person_folders.FORMAT.holds(root) else []
    if wanted is None:
        return [(named[0], folder) for folder, _, named in found]
    # A folder with the same layout matches under any name, except the name of another data set.
    sure = [(wanted, folder) for folder, _, named in found if wanted in named]
    others = [
        (wanted, folder) for folder, holding, named in found if wanted in holding and named[0] in (wanted, market.OWN)
    ]
    return sure or others


def _not_found(root: Path, wanted: DatasetFormat | None) -> str:
    there = f"Found:\n{show_tree(root)}"
    why = person_folders.why_not(root) if wanted in (None, person_folders.FORMAT) else ""
    hint = f"It looks like a folder per person, but {why}\n" if why else ""
    if wanted is not None:
        return f"no {wanted.title} in {root}\n{hint}{side_by_side(f'Expected:{chr(10)}{wanted.tree}', there)}"
    trees = "\n".join(
        [
            "Expected one of:",
            "  bounding_box_train/, query/, bounding_box_test/    Market-1501's layout",
            "  labeled/ and detected/ with the same three         cuhk03-np",
            "  cuhk03_release/cuhk-03.mat and the protocol's .mat cuhk03",
            "  campus/                                            cuhk01",
            "  list_train.txt, list_query.txt, train/, test/, ... msmt17",
            "  occluded_body_images/, whole_body_images/          occluded-reid, p-dukemtmc-reid (in train/ and test/)",
            "  partial_body_images/, whole_body_images/           partial-reid, partial-ilids",
            "  train/, query/, test/ with PID_CLOTHES_cCAM_*.png  ltcc",
            "  rgb/ with train/, val/, test/A/, ...               prcc",
            "  bbox_train/, bbox_test/, info/                     mars",
            "  a CSV file with path,pid[,camid][,split]           csv",
            "  alice/, bob/, ... with images                      folders",
        ]
    )
    return f"no known data set in {root} (looked {_DEPTH} folders deep)\n{hint}{side_by_side(trees, there)}"
