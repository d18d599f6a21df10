"""A web page of results in one file that opens from disk: scores, curves, ranked lists, activation maps.

The page needs neither a network nor a server, and its content security policy forbids both. It shows a few queries at a
time and decodes only their images, so a browser can handle thousands of queries.
"""

from __future__ import annotations

import base64
import html
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dsa_fast.data.people import Names
from dsa_fast.evaluation import DistanceHistogram, EvaluationResult, UnfilteredLists
from dsa_fast.evaluation.ranked_lists import NONE
from dsa_fast.files import atomic_path
from dsa_fast.image import read_picture
from dsa_fast.visual.activation import color_table
from dsa_fast.visual.charts import cmc_svg, distance_svg
from dsa_fast.visual.palette import PAGE_DARK, PAGE_LIGHT
from dsa_fast.visual.ranked_lists import LabeledImage

__all__ = ["ImagePlace", "WrittenReport", "write_report"]

#: `embed`: in the page itself; `folder`: as files in a folder next to it; `auto`: embedded up to 64 MiB.
ImagePlace = Literal["auto", "embed", "folder"]

_CHUNK = 128  # images per data block of the page; a block is parsed when one of its images is shown
_EMBED_LIMIT = 64 << 20
_QUALITY = 82


class WrittenReport(NamedTuple):
    """A report on disk.

    Attributes:
        path: the page.
        size: its size in bytes, including the folder next to it, if there is one.
        images: number of images, each counted once.
        embedded: whether the images are in the page itself.
    """

    path: Path
    size: int
    images: int
    embedded: bool


def write_report(
    path: str | os.PathLike[str],
    queries: Sequence[LabeledImage],
    gallery: Sequence[LabeledImage],
    lists: UnfilteredLists,
    result: EvaluationResult,
    *,
    chosen: Sequence[int] | NDArray[np.int64] | None = None,
    histogram: DistanceHistogram | None = None,
    query_heat: Tensor | None = None,
    gallery_heat: Tensor | None = None,
    title: str = "Ranked lists",
    facts: Mapping[str, str] | None = None,
    height: int | None = None,
    images: ImagePlace = "auto",
    progress: Callable[[int, int], None] | None = None,
    names: Names | None = None,
) -> WrittenReport:
    """Writes the page atomically. Only one image and one data block are in memory at a time.

    Args:
        path: the file to write, such as `report.html`.
        queries: all queries that `result` covers.
        gallery: the gallery. Only listed images are read.
        lists: result of `unfiltered_lists` for the chosen queries, in their order.
        result: the scores of all queries.
        chosen: indices of the listed queries; by default all.
        histogram: distances of all pairs.
        query_heat: uint8 [Q, h, w], activation maps of all queries; see `record_activations`.
        gallery_heat: uint8 [G, h, w], those of the gallery. Pass both or neither.
        title: heading, any text.
        facts: lines for the head, such as the checkpoint's name; any text.
        height: height of the images in pixels (smaller ones are not enlarged); by default 160, or 112 for 2,000 or more
            images.
        images: whether images are stored in the page, or in a folder next to it with the page's name plus `_images`.
        progress: called with the number of finished images and the total.
        names: what people and cameras are called, see `PeopleSplits.names`; any text.

    Raises:
        ValueError: sizes do not match, an image can't be read, or the folder of the images contains something else.
    """
    path, names = Path(path), names or Names()
    places = np.arange(len(queries)) if chosen is None else np.asarray(chosen, np.int64)
    if len(places) == 0 or lists.indices.shape[0] != len(places):
        raise ValueError(f"lists must hold one row for each chosen query, {len(places)} >= 1, got {len(lists.indices)}")
    if places.min() < 0 or places.max() >= len(queries):
        raise ValueError(f"chosen must be places of queries, 0..{len(queries) - 1}, got {places.min()}..{places.max()}")
    if len(result.average_precision) != len(queries):
        raise ValueError(f"result must be of all {len(queries)} queries, got {len(result.average_precision)}")
    if (query_heat is None) != (gallery_heat is None):
        raise ValueError("query_heat and gallery_heat must both be given, or none")
    if height is not None and height < 16:
        raise ValueError(f"height must be at least 16, got {height}")
    for name, heat, count in (("query_heat", query_heat, len(queries)), ("gallery_heat", gallery_heat, len(gallery))):
        if heat is not None and (heat.dim() != 3 or len(heat) != count):
            raise ValueError(f"{name} must have shape [{count}, h, w], got {list(heat.shape)}")

    listed = np.unique(lists.indices.numpy())
    listed = listed[listed >= 0]
    shown: list[LabeledImage] = [*(queries[i] for i in places), *(gallery[i] for i in listed)]
    box = height or (160 if len(shown) < 2000 else 112)
    embed = images == "embed" or (images == "auto" and _estimate(shown, box) <= _EMBED_LIMIT)
    heat_rows: list[Tensor] | None = None
    if query_heat is not None and gallery_heat is not None:
        heat_rows = [*(query_heat[i] for i in places), *(gallery_heat[i] for i in listed)]
    index = {
        "images": [[item.path.name, item.pid, item.camid] for item in shown],
        "people": {item.pid: names.person(item.pid) for item in shown},
        "cameras": {item.camid: names.camera(item.camid) for item in shown if names.has_cameras},
        "queries": _query_rows(places, listed, lists, result),
        "chunk": _CHUNK,
        "heat": None if heat_rows is None else [*heat_rows[0].shape],
        "colors": "" if heat_rows is None else base64.b64encode(color_table().tobytes()).decode(),
        "total": len(queries),
    }
    fields = {
        "title": html.escape(title),
        "facts": "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in (facts or {}).items()),
        "tiles": _tiles(result, len(gallery)),
        "charts": _charts(result.cmc, histogram),
        "light": _variables(PAGE_LIGHT),
        "dark": _variables(PAGE_DARK),
        "images_from": "data:" if embed else "data: file: 'self'",
    }
    template = resources.files(__package__).joinpath("report.html").read_text(encoding="utf-8")
    head, tail = template.split("{{data}}")
    folder = path.with_name(f"{path.stem}_images")
    if not embed and folder.exists() and not _is_ours(folder):
        raise ValueError(f"{folder} must be free for the report's images, but holds something else")
    fresh = folder.with_name(f".{folder.name}.{os.getpid()}")
    bytes_outside = 0
    try:
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            _write(file, _filled(head, fields))
            _write(file, _block("index", index))
            for start in range(0, len(shown), _CHUNK):
                thumbs = []
                for number in range(start, min(start + _CHUNK, len(shown))):
                    data = _jpeg(shown[number].path, box)
                    if embed:
                        thumbs.append(base64.b64encode(data).decode())
                    else:
                        file_name = Path(f"{number // 1000:03}") / f"{number:06}.jpg"
                        (fresh / file_name).parent.mkdir(parents=True, exist_ok=True)
                        (fresh / file_name).write_bytes(data)
                        bytes_outside += len(data)
                        thumbs.append(f"{quote(os.fsencode(folder.name))}/{file_name.as_posix()}")
                    if progress is not None:
                        progress(number + 1, len(shown))
                _write(file, _block(f"images-{start // _CHUNK}", thumbs))
                if heat_rows is not None:
                    rows = heat_rows[start : start + _CHUNK]
                    heats = [base64.b64encode(row.numpy().tobytes()).decode() for row in rows]
                    _write(file, _block(f"heat-{start // _CHUNK}", heats))
            _write(file, _filled(tail, fields))
            size = file.tell()
            file.flush()
            if not embed:  # the images must exist before the page that names them
                shutil.rmtree(folder, ignore_errors=True)
                fresh.replace(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    if embed and _is_ours(folder):  # from an earlier report with this name
        shutil.rmtree(folder, ignore_errors=True)
    return WrittenReport(path, size + bytes_outside, len(shown), embed)


def _query_rows(
    places: NDArray[np.int64], listed: NDArray[np.int64], lists: UnfilteredLists, result: EvaluationResult
) -> list[dict[str, Any]]:
    """Makes one row per query. An image is named by its index among the shown ones: the queries, then `listed`."""
    number = {int(item): len(places) + i for i, item in enumerate(listed)}
    rows = []
    for row, place in enumerate(places):
        precision = float(result.average_precision[place])
        length = int((lists.kinds[row] != NONE).sum())
        rows.append(
            {
                "ap": None if np.isnan(precision) else round(precision, 6),
                "first": int(result.first_hit_rank[place]),
                "hidden": int(lists.hidden[row]),
                "list": [
                    [number[item], round(distance, 5), kind]
                    for item, distance, kind in zip(*(it[row, :length].tolist() for it in lists[:3]), strict=True)
                ],
            }
        )
    return rows


def _jpeg(path: Path, height: int) -> bytes:
    """Encodes the image as JPEG, at most `height` high and twice as wide."""
    image = read_picture(path)
    image.thumbnail((2 * height, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return buffer.getvalue()


def _is_ours(folder: Path) -> bool:
    """Returns whether a folder contains only a report's images."""
    names = re.compile(r"\d{3,}(/\d{6,}\.jpg)?")
    return folder.is_dir() and all(names.fullmatch(p.relative_to(folder).as_posix()) for p in folder.rglob("*"))


def _estimate(shown: Sequence[LabeledImage], height: int) -> int:
    """Bytes of all images in base64, from 48 of them."""
    sample = np.unique(np.linspace(0, len(shown) - 1, 48).astype(int))
    return round(sum(len(_jpeg(shown[i].path, height)) for i in sample) / len(sample) * len(shown) * 4 / 3)


def _block(name: str, value: object) -> str:
    """Makes a data block of the page: ASCII without `<`, so its contents can't end the block."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>\n'


def _filled(template: str, fields: Mapping[str, str]) -> str:
    """Fills in the {{names}} of the template in one pass, so replacements are not searched for names."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: fields[match[1]], template)


def _write(file: BinaryIO, text: str) -> None:
    file.write(text.encode("utf-8", "xmlcharrefreplace"))  # file names may contain bytes that are not text


def _tiles(result: EvaluationResult, gallery: int) -> str:
    shares = {"mAP": result.mAP, **{f"Rank {k}": result.rank(k) for k in (1, 5, 10) if k <= len(result.cmc)}}
    shares["mINP"] = result.mINP
    tiles = [(name, f"{100 * share:.1f}<small>%</small>") for name, share in shares.items()]
    tiles += [("queries counted", f"{result.num_valid_queries:,}"), ("gallery images", f"{gallery:,}")]
    return "".join(f'<div class="tile"><b>{value}</b><span>{name}</span></div>' for name, value in tiles)


def _charts(cmc: NDArray[np.float64], histogram: DistanceHistogram | None) -> str:
    note = "Share of queries whose first right match is at this rank or before it."
    note += " The axis does not start at 0%." if cmc[0] > 0.5 else ""
    charts = [("Cumulative matching characteristic", cmc_svg(cmc), note)]
    if histogram is not None:
        note = (
            f"{histogram.overlap:.1%} of the two distributions is in common. A same pair is nearer than a different "
            f"one with probability {histogram.auc:.2%}. At the dotted threshold {histogram.threshold:.3f} both err "
            f"alike, {histogram.equal_error_rate:.1%}."
        )
        note = "" if np.isnan(histogram.overlap) else note
        charts.append(("Distances of pairs", distance_svg(histogram), note))
    return "".join(f"<figure><figcaption>{name}</figcaption>{svg}<p>{text}</p></figure>" for name, svg, text in charts)


def _variables(colors: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {value}" for name, value in colors.items())
