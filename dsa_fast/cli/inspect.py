"""`dsa-fast inspect`."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from PIL import Image
from rich.console import Console
from rich.table import Table

from dsa_fast.cli.progress import image_progress
from dsa_fast.configs.datasets import DatasetOptions
from dsa_fast.configs.prepare import MasksConfig
from dsa_fast.files import write_json
from dsa_fast.terminal import console as open_console

if TYPE_CHECKING:
    from torch import Tensor

    from dsa_fast.densepose.iuv import Order
    from dsa_fast.densepose.map_checks import MapFacts
    from dsa_fast.visual.contact_sheet import Cell

# Worst first. Files with the first two can't be read at all.
_KINDS = (
    *("image unreadable", "map unreadable", "channel order", "size"),
    *("mirrored", "left-right", "u-v", "background", "mask", "outside mask", "few parts", "sparse", "empty"),
)
_UNREADABLE = frozenset(_KINDS[:2])
_LITTLE = frozenset(("few parts", "sparse", "empty"))  # expected of junk and distractors, which show little of a person
_SHOWN = 10


@dataclass
class _Item:
    """An image, its map, and the findings. The image or the map may be missing."""

    split: str
    image: Path | None
    map: Path | None
    person: bool = True  # False for junk and distractors
    order: Order = "auto"
    facts: MapFacts | None = None
    found: dict[str, str] = field(default_factory=dict)
    mask: Path | None = None
    outside: float | None = None  # share of the map's labeled pixels that are not on the mask


def inspect(
    root: Path,
    *,
    out: Path = Path("inspect"),
    name: str = "auto",
    options: DatasetOptions | None = None,
    check_counts: bool = False,
    iuv: Path | None = None,
    iuv_order: Literal["auto", "IUV", "VUI"] = "auto",
    empty: float = 0.1,
    masks: MasksConfig = MasksConfig(),
    outside: float = 0.3,
    pictures: int = 48,
    workers: int | None = None,
) -> int:
    """Check the IUV maps of a data set or folder: which images have maps, and which maps are suspicious.
    Exit status: 0 nothing is wrong, 1 maps are suspicious or there are none, 2 files can't be read or another error
    occurred.

    Args:
        root: folder of a data set, or one up to three folders above it; or a CSV file; or any folder of images. Its
            maps are next to the images (NAME_iuv.png, NAME_IUV.png), or in its folder iuv or store iuv.dsaiuv.
        out: folder for inspect.json, sheet.png (the worst maps of each kind first) and histograms.png.
        name: the kind of data set; `folder` takes all images in a folder; `auto` detects it.
        options: options of the data set, such as `{kind: labeled}` for CUHK03.
        check_counts: whether the image counts must match the published ones.
        iuv: folder or store of the IUV maps; by default `iuv` or `iuv.dsaiuv` inside root.
        iuv_order: channel order of the maps' red, green and blue; `auto` detects it in each file.
        empty: empty maps (no person detected) are suspicious if their share is larger than this.
        masks: options of masks of the people, to compare the maps with.
        outside: a map is suspicious if a larger share of its labeled pixels is not on the person's mask.
        pictures: number of images on the contact sheet.
        workers: number of threads; by default one per core, at most 8.

    Returns:
        The exit status.

    Examples:
        dsa-fast inspect DIR
        dsa-fast inspect FOLDER --name folder --out runs/inspect --pictures 96
    """
    from dsa_fast.data.folders import IMAGE_SUFFIXES
    from dsa_fast.data.verify import decoding_threads
    from dsa_fast.visual.layout import save_picture

    if not 0 <= empty <= 1:
        raise ValueError(f"empty must be a share in [0, 1], got {empty}")
    if not 0 <= outside <= 1:
        raise ValueError(f"outside must be a share in [0, 1], got {outside}")
    if pictures < 1:
        raise ValueError(f"pictures must be at least 1, got {pictures}")
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    title, items = _items(root, name, iuv, check_counts, options or {})
    if not items:
        raise ValueError(f"root must hold images ({', '.join(sorted(IMAGE_SUFFIXES))}), got none in {root}")
    if masks.folder is not None:
        _add_masks(items, masks.folder)
    console = open_console()
    seen: list[_Item] = []
    with ThreadPoolExecutor(decoding_threads(workers)) as pool:
        looked = pool.map(partial(_look, order=iuv_order, masks=masks, most_outside=outside), items)
        with image_progress("inspecting") as show:
            for done, item in enumerate(looked, 1):
                show(done, len(items))
                seen.append(item)
    items = seen
    report = _report(title, root, items, empty)
    write_json(out / "inspect.json", report)
    save_picture(_sheet(report, items, pictures), out / "sheet.png")
    if report["with_map"]:
        save_picture(_histograms(items), out / "histograms.png")
    _print(console, report, items)
    written = ", ".join(["inspect.json", "sheet.png", *(["histograms.png"] if report["with_map"] else [])])
    console.print(f"{out}: {written}", soft_wrap=True)
    return int(report["status"])


# ---------------------------------------------------------------------------------------------------- the files


def _items(
    root: Path, name: str, iuv: Path | None, check_counts: bool, options: DatasetOptions
) -> tuple[str, list[_Item]]:
    """Returns the data set's name and images; for a plain folder, all its images."""
    from dsa_fast.data.folders import IuvMaps, plain_folder
    from dsa_fast.data.registry import holds_dataset, read_dataset

    if name == "folder" or (name == "auto" and root.is_dir() and not holds_dataset(root)):
        if not root.is_dir():
            raise FileNotFoundError(f"root must be a folder, got {root}")
        if options:
            raise ValueError(f"options require a data set, got {options} for {root}, which is a plain folder")
        return "folder", [_Item(*each) for each in plain_folder(root, IuvMaps(root, iuv))]
    data = read_dataset(root, name, iuv=iuv, check_counts=check_counts, **options)
    items: dict[Path, _Item] = {}
    for split in ("train", "query", "gallery", "multi_query"):
        for person in getattr(data, split):
            items.setdefault(person.path, _Item(split, person.path, person.iuv_path, person.pid > 0))
    return data.name, list(items.values())


def _add_masks(items: Sequence[_Item], folder: Path) -> None:
    from dsa_fast.densepose.masks import find_masks

    found = find_masks(folder, [item.image for item in items if item.image is not None])
    for item in items:
        item.mask = None if item.image is None else found.get(item.image)


def _look(item: _Item, order: Order, masks: MasksConfig, most_outside: float) -> _Item:
    """Reads an image and its map; fills in measurements and findings."""
    from dsa_fast.densepose.iuv import read_iuv
    from dsa_fast.densepose.map_checks import examine, suspicions
    from dsa_fast.image import read_image

    size = None
    if item.image is not None:
        try:
            size = tuple(read_image(item.image).shape[1:])
        except ValueError as error:
            item.found["image unreadable"] = str(error)
    if item.map is None:
        return item
    try:
        iuv = read_iuv(item.map, order=order)
    except (ValueError, OSError) as error:
        kind, about = "map unreadable", str(error)
        if order != "auto":
            try:
                read_iuv(item.map)
            except (ValueError, OSError):
                pass
            else:
                kind, about = "channel order", f"{about}; it can be read with --iuv_order auto"
        item.found[kind] = about
        return item
    item.order, item.facts = order, examine(iuv)
    if size is not None and size != item.facts.size:
        (height, width), (wide, high) = item.facts.size, size[::-1]
        item.found["size"] = f"the map is {width} x {height} (width x height), its image {wide} x {high}"
    found = suspicions(item.facts)
    item.found |= {kind: about for kind, about in found.items() if item.person or kind not in _LITTLE}
    if item.mask is not None:
        _compare(item, item.mask, iuv, masks, most_outside)
    return item


def _compare(item: _Item, place: Path, iuv: Tensor, masks: MasksConfig, most_outside: float) -> None:
    """Compares a map with its mask."""
    from dsa_fast.densepose.masks import outside, person_mask, read_mask

    try:
        mask = person_mask(read_mask(place), masks.classes)
    except (ValueError, OSError) as error:
        item.found["mask"] = f"{place}: {error}"
        return
    if mask.shape != iuv.shape[1:]:
        item.found["mask"] = f"{place} is {list(mask.shape)} (height, width), the map {list(iuv.shape[1:])}"
        return
    if not bool((iuv[0] > 0).any()):
        return
    item.outside = outside(iuv, mask)
    if item.outside > most_outside:
        item.found["outside mask"] = f"{item.outside:.0%} of the map's pixels are not on the person's mask {place}"


# -------------------------------------------------------------------------------------------------------- the report


def _report(title: str, root: Path, items: Sequence[_Item], empty: float) -> dict[str, Any]:
    from dsa_fast.densepose.parts import PART_NAMES

    seen = [item.facts for item in items if item.facts is not None and item.facts.labelled > 0]
    of_people = [item for item in items if item.map is not None and item.person]
    empty_share = sum("empty" in item.found for item in of_people) / max(len(of_people), 1)
    counts = {kind: sum(kind in item.found for item in items) for kind in _KINDS}
    suspicious = [
        item for item in items if item.found.keys() - _UNREADABLE - (set() if empty_share > empty else {"empty"})
    ]
    unreadable = [item for item in items if item.found.keys() & _UNREADABLE]
    splits: dict[str, list[_Item]] = {}
    for item in items:
        splits.setdefault(item.split, []).append(item)
    return {
        "format": "dsa_fast.inspect",
        "format_version": 1,
        "data_set": title,
        "root": str(root),
        "status": 2 if unreadable else 1 if suspicious or not any(item.map for item in items) else 0,
        **_coverage(items),
        "splits": {split: _coverage(part) for split, part in splits.items()},
        "labelled": _spread([facts.labelled for facts in seen]),
        "parts": _spread([float(facts.parts) for facts in seen]),
        "texels": _spread([facts.texels for facts in seen]),
        "images_with_part": {
            name: sum(facts.pixels[part] > 0 for facts in seen) for part, name in enumerate(PART_NAMES) if part
        },
        "masks": sum(item.mask is not None for item in items),
        "outside_mask": _spread([item.outside for item in items if item.outside is not None]),
        "counts": counts,
        "files": [
            {
                "image": None if item.image is None else str(item.image),
                "map": None if item.map is None else str(item.map),
                "found": item.found,
                **({} if item.facts is None else {"facts": _plain_numbers(asdict(item.facts))}),
            }
            for item in sorted(items, key=_badness)
            if item.found
        ],
    }


def _plain_numbers(facts: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN."""
    import numpy as np

    return {key: None if isinstance(value, float) and np.isnan(value) else value for key, value in facts.items()}


def _coverage(items: Sequence[_Item]) -> dict[str, int]:
    return {
        "images": sum(item.image is not None for item in items),
        "with_map": sum(item.map is not None for item in items),
        "detected": sum(item.facts is not None and item.facts.labelled > 0 for item in items),
    }


def _spread(values: list[float]) -> dict[str, float] | None:
    import numpy as np

    if not values:
        return None
    low, median, high = np.quantile(values, (0.05, 0.5, 0.95)).tolist()
    return {"mean": float(np.mean(values)), "p5": low, "median": median, "p95": high}


def _badness(item: _Item) -> tuple[int, float]:
    """Sorts the worst first; ties by the smallest labeled share."""
    kind = min((_KINDS.index(kind) for kind in item.found), default=len(_KINDS))
    return kind, 0.0 if item.facts is None else item.facts.labelled


def _print(console: Console, report: dict[str, Any], items: Sequence[_Item]) -> None:
    table = Table(title=f"{report['data_set']}: {report['root']}")
    for column in ("", "images", "with a map", "detected"):
        table.add_column(column, justify="left" if not column else "right")
    rows = {**report["splits"], "all": report} if len(report["splits"]) > 1 else {"all": report}
    for split, row in rows.items():
        table.add_row(split or ".", str(row["images"]), str(row["with_map"]), str(row["detected"]))
    console.print(table)
    if report["parts"] is not None:
        labelled, parts, texels = (report[key] for key in ("labelled", "parts", "texels"))
        console.print(
            f"Of a detected person, mean (5 % to 95 %): {labelled['mean']:.1%} of the pixels have a part "
            f"({labelled['p5']:.1%} to {labelled['p95']:.1%}), {parts['mean']:.1f} parts are seen "
            f"({parts['p5']:.0f} to {parts['p95']:.0f}), {texels['mean']:.1%} of the texels are filled "
            f"({texels['p5']:.1%} to {texels['p95']:.1%}).",
        )
    if report["outside_mask"] is not None:
        share = report["outside_mask"]
        console.print(
            f"{report['masks']} images have a mask. Of a map's pixels, {share['mean']:.1%} are not on it "
            f"({share['p5']:.1%} to {share['p95']:.1%}).",
            highlight=False,
        )
    if not report["with_map"]:
        console.print(
            f"None of the {report['images']} images has a map: make them with dsa-fast prepare {report['root']}, or "
            "name their folder with --iuv FOLDER",
            soft_wrap=True,
        )
    elif report["with_map"] < report["images"]:
        console.print(f"{report['images'] - report['with_map']} images have no map.")
    named = {kind: count for kind, count in report["counts"].items() if count}
    if not named:
        if report["with_map"]:
            console.print("Nothing is suspicious.")
        return
    console.print("Found: " + ", ".join(f"{count} {kind}" for kind, count in named.items()))
    bad = [item for item in sorted(items, key=_badness) if item.found]
    for item in bad[:_SHOWN]:
        for kind, about in item.found.items():
            console.print(f"  {kind}: {item.map or item.image}: {about}", soft_wrap=True)
    if len(bad) > _SHOWN:
        console.print(f"  ... and {len(bad) - _SHOWN} more in inspect.json")


# ------------------------------------------------------------------------------------------------------ the pictures


def _sheet(report: dict[str, Any], items: Sequence[_Item], pictures: int) -> Image.Image:
    """Draws photos next to their part maps.

    The kinds of findings take turns, each with its worst first, so no kind fills the sheet. At least a quarter shows
    images without a finding, evenly spaced by their labeled share.
    """
    import numpy as np

    from dsa_fast.visual.contact_sheet import contact_sheet

    ordered = sorted(items, key=_badness)
    kinds: dict[str, list[_Item]] = {}
    for item in ordered:
        kinds.setdefault(min(item.found, key=_KINDS.index, default=""), []).append(item)
    fine = kinds.pop("", [])
    turns = [item for turn in zip_longest(*kinds.values()) for item in turn if item is not None]
    chosen = turns[: max(pictures - len(fine), pictures - pictures // 4)]
    chosen.sort(key=_badness)
    room = min(pictures - len(chosen), len(fine))
    chosen += [fine[i] for i in np.linspace(0, len(fine) - 1, room).round().astype(int)] if room else []
    title = (
        f"{report['data_set']}: {len(chosen)} of {report['images']} images; {report['with_map']} have a map, "
        f"{len(items) - len(fine)} have findings"
    )
    return contact_sheet([_cell(item) for item in chosen], title=title)


def _cell(item: _Item) -> Cell:
    from dsa_fast.densepose.iuv import read_iuv
    from dsa_fast.image import read_image
    from dsa_fast.visual.contact_sheet import Cell

    facts, photo, iuv = item.facts, None, None
    if item.image is not None and "image unreadable" not in item.found:
        photo = read_image(item.image)
    if facts is not None and item.map is not None:
        iuv = read_iuv(item.map, order=item.order)
    about = "no map" if facts is None else f"{facts.parts} parts, {facts.texels:.1%} of texels"
    return Cell(photo, iuv, ((item.image or item.map or Path()).name, about), ", ".join(item.found))


def _histograms(items: Sequence[_Item]) -> Image.Image:
    """Draws histograms: parts and texels per detected person, labeled share per map, and images per part."""
    import numpy as np

    from dsa_fast.densepose.parts import NUM_PARTS, PART_NAMES
    from dsa_fast.visual.charts import bars
    from dsa_fast.visual.layout import tile_table

    facts = [item.facts for item in items if item.facts is not None]
    seen = [each for each in facts if each.labelled > 0]
    panels = []
    for values, edges, title, percent in (
        ([each.labelled for each in facts], np.linspace(0, 1, 41), "share of the pixels that have a part", True),
        ([each.texels for each in seen], np.linspace(0, 0.3, 31), "share of the texels that are filled", True),
        ([each.parts for each in seen], np.arange(NUM_PARTS + 2) - 0.5, "parts that are seen", False),
    ):
        counts = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
        panels.append(bars(counts.tolist(), edges.tolist(), title=title, y_label="images", percent=percent))
    often = {f"{part} {PART_NAMES[part]}": float(sum(each.pixels[part] > 0 for each in seen)) for part in range(1, 25)}
    panels.append(bars(often, title="images that show a part", y_label="images", size=(8.0, 4.0)))
    return tile_table([[panel] for panel in panels], gap=0)
