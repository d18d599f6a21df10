"""`dsa-fast search`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsa_fast.files import checksum, locked, write_json
from dsa_fast.terminal import say

if TYPE_CHECKING:
    from torch import Tensor

    from dsa_fast.deploy.encoder import Encoder
    from dsa_fast.deploy.index import VectorIndex
    from dsa_fast.deploy.inputs import Item

_MARKET = re.compile(r"(-?\d+)_c\d")
_SHOWN = 12  # queries in a picture and in the output
_FMR = 1e-3  # false match rate of the mark for one person


def build(index: Path, source: Path, *, kind: str = "Flat") -> None:
    """Build a new index of vectors. Images are named by their files.

    Args:
        index: folder to create.
        source: vectors of `dsa-fast embed`, .parquet or .npz.
        kind: FAISS factory string of a new index: `Flat` is exact; `HNSW32` and `IVF256,Flat` are for millions of
            vectors.

    Examples:
        dsa-fast search build people.index vectors.parquet
        dsa-fast search build people.index vectors.parquet --kind HNSW32
    """
    from dsa_fast.deploy.index import VectorIndex
    from dsa_fast.deploy.vector_files import read_vectors

    _say_size(VectorIndex.build(index, read_vectors(source), kind=kind), index)


def add(index: Path, source: Path) -> None:
    """Add vectors of the same encoder to an index.

    Args:
        index: folder of the index.
        source: vectors of `dsa-fast embed`, .parquet or .npz.

    Examples:
        dsa-fast search add people.index more.parquet
        dsa-fast search add people.index monday.npz
    """
    from dsa_fast.deploy.index import VectorIndex
    from dsa_fast.deploy.vector_files import read_vectors

    if not index.is_dir():
        raise FileNotFoundError(f"index must be a folder of dsa-fast search build, got {index}: no such folder")
    vectors = read_vectors(source)
    with locked(index, folder=True):
        opened = VectorIndex.open(index)
        before = len(opened)
        opened.add(vectors)
    if len(opened) == before and len(vectors):
        say("these vectors were the last to be added, and are not added again")
    _say_size(opened, index)


def query(
    index: Path,
    source: Path,
    *,
    encoder: Path | None = None,
    k: int = 10,
    visibility: bool = False,
    candidates: int = 100,
    picture: Path | None = None,
    json_out: Path | None = None,
    device: str = "auto",
) -> None:
    """Find the images of an index that are nearest to each query, and print them with their cosines.

    With an encoder that `dsa-fast calibrate` has measured, results that reach its threshold are marked as one person.

    Args:
        index: folder of the index.
        source: a folder, list or file of images; or vectors, .parquet or .npz.
        encoder: for images: the file that made the vectors of the index.
        k: number of results per query.
        visibility: sort the nearest `candidates` by the body parts that are visible in both images. Index and query
            vectors need visibilities: `dsa-fast embed --visibility head`. For images, the encoder is that checkpoint.
        candidates: number of nearest images that are sorted this way.
        picture: picture file to write, with the first queries and their results. If files are named as in Market-1501
            (PID_cCAMERA...), it marks the images of the query's person.
        json_out: JSON file to write, with all results.
        device: device of the encoder.

    Examples:
        dsa-fast search query people.index photo.jpg --encoder last_int8.onnx --picture found.png
        dsa-fast search query people.index vectors.parquet --k 20 --json_out found.json
    """
    import numpy as np

    from dsa_fast.deploy.encoder import Encoder
    from dsa_fast.deploy.index import VectorIndex, check_encoder
    from dsa_fast.deploy.inputs import find_items
    from dsa_fast.deploy.vector_files import SUFFIXES, read_vectors
    from dsa_fast.deploy.visible_encoder import VisibleEncoder
    from dsa_fast.image import check_picture

    if picture is not None:
        check_picture(picture)
    opened = VectorIndex.open(index)
    threshold, seen = None, None
    if visibility and not opened.has_visibility:
        raise ValueError(
            f"visibility needs an index of vectors that dsa-fast embed --visibility head made, got {index}"
        )
    if source.suffix in SUFFIXES:
        given = read_vectors(source)
        check_encoder(opened.encoder, given.encoder)
        seen = given.visibility
        items, queries = [given.item(row) for row in range(len(given))], given.vectors
    else:
        if encoder is None:
            raise ValueError("encoder must be given for a query with images: the file that made the vectors")
        items = find_items(source)
        if encoder.is_file():
            check_encoder(opened.encoder, checksum(encoder))
        if visibility:
            queries, seen = VisibleEncoder(encoder, device=device)(_images(items))
        else:
            with Encoder.load(encoder, device=device) as model:
                queries = np.asarray(model(_images(items)))
                threshold = _threshold(model)
    if not visibility:
        hits = opened.search(queries, k)
    elif seen is None:
        raise ValueError(f"visibility needs queries of dsa-fast embed --visibility head, got {source}")
    else:
        hits = opened.rescore(queries, seen, k, candidates=max(candidates, k))
    found = [
        [(opened.item(int(row)), float(cosine)) for row, cosine in zip(rows, cosines, strict=True) if row >= 0]
        for rows, cosines in zip(hits.rows, hits.cosines, strict=True)
    ]
    _print(items, found, threshold)
    if json_out is not None:
        answer = [
            {
                "query": _plain(item),
                "found": [
                    {**_plain(each), "cosine": cosine, "same": None if threshold is None else cosine >= threshold}
                    for each, cosine in nearest
                ],
            }
            for item, nearest in zip(items, found, strict=True)
        ]
        write_json(json_out, answer)
    if picture is not None:
        _draw(picture, items[:_SHOWN], found[:_SHOWN])
        say(f"Picture: {picture}")


#: The actions of `dsa-fast search`.
search = {"build": build, "add": add, "query": query}


def _say_size(index: VectorIndex, folder: Path) -> None:
    say(f"{len(index)} vectors in {folder} ({index.kind})")


def _images(items: Sequence[Item]) -> list[Tensor]:
    from dsa_fast.deploy.inputs import read_items

    images = []
    for image in read_items(items):
        if isinstance(image, ValueError):
            raise image
        images.append(image)
    return images


def _plain(item: Item) -> dict[str, Any]:
    return {"path": str(item.path), "frame": item.frame, "box": item.box}


def _threshold(encoder: Encoder) -> float | None:
    """The calibrated threshold for a false match rate of 1e-3, if there is one."""
    verification = None if encoder.sidecar is None else encoder.sidecar.verification
    value = None if verification is None else verification["thresholds"].get(f"{_FMR:g}")
    return None if value is None else float(value)


def _print(items: Sequence[Item], found: Sequence[Sequence[tuple[Item, float]]], threshold: float | None) -> None:
    """Prints all results, one per line: rank, cosine and path, below the query's path."""
    for item, nearest in list(zip(items, found, strict=True))[:_SHOWN]:
        say(_name(item))
        for rank, (each, cosine) in enumerate(nearest, 1):
            mark = "" if threshold is None else "= " if cosine >= threshold else "  "
            say(f"{rank:>5}  {cosine:.4f}  {mark}{_name(each)}")
    if len(items) > _SHOWN:
        say(f"and {len(items) - _SHOWN} more queries; --json_out writes all")
    if threshold is not None:
        say(f"= one person: a cosine of {threshold:.4f} or more, for a false match rate of {_FMR:g}")


def _name(item: Item) -> str:
    box = "" if item.box is None else f", box {item.box}"
    return f"{item.path}{'' if item.frame is None else f', frame {item.frame}'}{box}"


def _match(query: Item, found: Item) -> bool | None:
    """Returns whether two images show one person, if their names are like Market-1501's (PID_cCAMERA...)."""
    pids = [_MARKET.match(item.path.name) for item in (query, found)]
    return None if pids[0] is None or pids[1] is None else int(pids[0][1]) == int(pids[1][1]) > 0


def _place(path: Path) -> str:
    """Returns a file's name with its folder, which is often the person."""
    return "/".join(path.absolute().parts[-2:])


def _draw(path: Path, items: Sequence[Item], found: Sequence[Sequence[tuple[Item, float]]]) -> None:
    # Frames of a video are read in order, so all images of the picture are read at once.
    from dsa_fast.visual.layout import save_picture, to_picture
    from dsa_fast.visual.ranked_lists import Found, search_results

    wanted = sorted(
        {*items, *(each for nearest in found for each, _ in nearest)},
        key=lambda item: (str(item.path), -1 if item.frame is None else item.frame, item.box or ()),
    )
    pictures = {item: to_picture(image) for item, image in zip(wanted, _images(wanted), strict=True)}
    rows = [
        (
            (pictures[item], _place(item.path)),
            [Found(pictures[each], _place(each.path), cosine, _match(item, each)) for each, cosine in nearest],
        )
        for item, nearest in zip(items, found, strict=True)
    ]
    save_picture(search_results(rows), path)
