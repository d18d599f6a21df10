"""`read_dataset`: any of the known data sets, found by itself in a folder."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from dsa_fast.data import csv_table, cuhk01, cuhk03, market, msmt17
from dsa_fast.data.folders import Source, beside, plain_name, show_tree, subfolders
from dsa_fast.data.people import PeopleSplits

__all__ = ["DATASETS", "holds_dataset", "read_dataset"]

# The order decides between sources that hold the same folder: the more particular first.
_SOURCES = (csv_table.SOURCE, *market.SOURCES, cuhk03.SOURCE, cuhk01.SOURCE, msmt17.SOURCE, market.OWN)

#: The names that `read_dataset` knows besides `auto`.
DATASETS = tuple(source.name for source in _SOURCES)

_ALIASES = {
    "market": "market1501",
    "dukemtmcreid": "dukemtmc-reid",
    "dukemtmc": "dukemtmc-reid",
    "duke": "dukemtmc-reid",
    "cuhk03np": "cuhk03-np",
    "synthetic": "synth",
    "table": "csv",
    "marketlayout": "market-layout",
}

# root/msmt17/MSMT17_V2/MSMT17_V2: as deep as known layouts go.
_DEPTH = 3


def read_dataset(
    root: Path | str,
    name: str = "auto",
    *,
    iuv: Path | str | None = None,
    check_counts: bool = True,
    **options: Any,
) -> PeopleSplits:
    """Lists the images of a data set, with who is on them, and where their IUV maps are.

    The data set may lie in `root` itself or up to three folders deeper, so that the folders that torchreid, fast-reid
    and reid-strong-baseline work with can be given as they are (`data` for `data/market1501/Market-1501-v15.09.15`).

    Args:
        root: a folder, or a CSV file.
        name: one of `DATASETS`; `auto` takes what is there, if it is one data set only.
        iuv: folder of the IUV maps, which mirrors the data set's folders, or a store of them (`dsa-fast pack`); by
            default the folder `iuv` or the store `iuv.dsaiuv` in it.
        check_counts: compares the numbers of images with the published ones.
        options: of the data set: `distractors_500k` (market1501); `kind` (cuhk03, cuhk03-np), `protocol` and `images`
            (cuhk03); `split` and `query_camera` (cuhk01); `with_val` (msmt17); `table` (csv).

    Raises:
        FileNotFoundError: `root` does not exist, no data set is found in it (the message shows the tree that is
            expected beside the one that is there), or files of it are missing.
        ValueError: `name` or an option is unknown, there are several data sets in `root`, the numbers of images are
            not the published ones, or a file is not as it should be.
    """
    root = Path(root).expanduser()
    wanted = _source(name)
    if not root.exists():
        raise FileNotFoundError(f"root must be a data set's folder, got {root}: no such folder")
    if root.is_file():
        if root.suffix.lower() != ".csv" or wanted not in (None, csv_table.SOURCE):
            raise FileNotFoundError(f"root must be a data set's folder or a CSV file, got the file {root}")
        found = [(csv_table.SOURCE, root)]
    else:
        found = _find(root, wanted, None if iuv is None else Path(iuv).resolve())
    if not found:
        raise FileNotFoundError(_not_found(root, wanted))
    if len(found) > 1:
        listed = "\n".join(f"  {source.name:14} {folder}" for source, folder in found)
        hint = "name one of them" if len({source for source, _ in found}) > 1 else "give its own folder as root"
        raise ValueError(f"root must hold one data set, got {len(found)} in {root}: {hint}\n{listed}")
    source, folder = found[0]
    allowed = [key for key in inspect.signature(source.read).parameters if key not in ("folder", "iuv", "check_counts")]
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        raise ValueError(
            f"options of {source.name} must be among {', '.join(allowed) or '(it has none)'}, got {', '.join(unknown)}"
        )
    return source.read(folder, iuv=iuv, check_counts=check_counts, **options)


def holds_dataset(root: Path | str) -> bool:
    """Whether `read_dataset` would find a data set, or several, in a folder."""
    return bool(_find(Path(root).expanduser(), None, None))


def _source(name: str) -> Source | None:
    """The source of a name, None for `auto`."""
    if name == "auto":
        return None
    plain = plain_name(Path(name))
    for source in _SOURCES:
        if plain == plain_name(Path(source.name)) or _ALIASES.get(plain) == source.name:
            return source
    raise ValueError(f"name must be auto or one of {', '.join(DATASETS)}, got {name!r}")


def _find(root: Path, wanted: Source | None, iuv: Path | None) -> list[tuple[Source, Path]]:
    """The data sets in a folder; none is looked for inside another, or in the IUV maps, whose folders mirror one."""
    found: list[tuple[Path, list[Source], list[Source]]] = []
    level = [root]
    for _ in range(_DEPTH + 1):
        deeper: list[Path] = []
        for folder in level:
            if iuv is not None and folder.resolve() == iuv:
                continue
            holding = [source for source in _SOURCES if source.holds(folder)]
            if holding:
                found.append((folder, holding, [source for source in holding if source.called(folder)]))
            else:
                deeper += subfolders(folder)
        level = deeper
    if wanted is None:
        return [(named[0], folder) for folder, _, named in found]
    # A folder of the same layout will do under any name that is not another data set's.
    sure = [(wanted, folder) for folder, _, named in found if wanted in named]
    others = [
        (wanted, folder) for folder, holding, named in found if wanted in holding and named[0] in (wanted, market.OWN)
    ]
    return sure or others


def _not_found(root: Path, wanted: Source | None) -> str:
    there = f"Found:\n{show_tree(root)}"
    if wanted is not None:
        return f"no {wanted.title} in {root}\n{beside(f'Expected:{chr(10)}{wanted.tree}', there)}"
    trees = "\n".join(
        [
            "Expected one of:",
            "  bounding_box_train/, query/, bounding_box_test/    Market-1501's layout",
            "  labeled/ and detected/ with the same three         cuhk03-np",
            "  cuhk03_release/cuhk-03.mat and the protocol's .mat cuhk03",
            "  campus/                                            cuhk01",
            "  list_train.txt, list_query.txt, train/, test/, ... msmt17",
            "  a CSV file with path,pid,camid,split               csv",
        ]
    )
    return f"no known data set in {root} (looked {_DEPTH} folders deep)\n{beside(trees, there)}"
