"""`dsa-fast search`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.table import Table
from torch import Tensor

from dsa_fast.deploy.encoder import Encoder
from dsa_fast.deploy.index import VectorIndex, check_encoder
from dsa_fast.deploy.inputs import Item, find_items, read_items
from dsa_fast.deploy.vector_files import SUFFIXES, read_vectors
from dsa_fast.files import checksum, locked, write_json
from dsa_fast.terminal import Console
from dsa_fast.visual.layout import save_picture, to_picture
from dsa_fast.visual.ranked_lists import search_results

_SHOWN = 12  # queries in a picture and in the table


def search(
    action: Literal["build", "add", "query"],
    index: Path,
    source: Path,
    *,
    encoder: Path | None = None,
    kind: str = "Flat",
    k: int = 10,
    picture: Path | None = None,
    json_out: Path | None = None,
    device: str = "auto",
) -> None:
    """Search vectors on disk: `dsa-fast search build INDEX vectors.parquet`, then `search query INDEX PHOTO ...`.

    Args:
        action: `build` a new index from vectors of `dsa-fast embed`, `add` more vectors, or `query` the index.
        index: folder of the index.
        source: vectors, .parquet or .npz; for a query also a folder, list or file of images.
        encoder: for a query with images: the file that made the vectors of the index.
        kind: FAISS factory string of a new index: `Flat` is exact; `HNSW32` and `IVF256,Flat` are for millions of
            vectors.
        k: number of results per query.
        picture: picture file to write, with the first queries and their results.
        json_out: JSON file to write, with all results.
        device: device of the encoder.
    """
    console = Console()
    if action != "query":
        if picture is not None or json_out is not None or encoder is not None:
            raise ValueError(f"picture, json_out and encoder are for queries, got action {action}")
        vectors = read_vectors(source)
        if action == "build":
            made = VectorIndex.build(index, vectors, kind=kind)
        elif not index.is_dir():
            raise FileNotFoundError(f"index must be a folder of dsa-fast search build, got {index}: no such folder")
        else:
            with locked(index, folder=True):
                made = VectorIndex.open(index)
                before = len(made)
                made.add(vectors)
            if len(made) == before and len(vectors):
                console.print("these vectors were the last to be added, and are not added again")
        console.print(f"{len(made)} vectors in {index} ({made.kind})", highlight=False, soft_wrap=True)
        return
    opened = VectorIndex.open(index)
    if source.suffix in SUFFIXES:
        given = read_vectors(source)
        check_encoder(opened.encoder, given.encoder)
        items, queries = [given.item(row) for row in range(len(given))], given.vectors
    else:
        if encoder is None:
            raise ValueError("encoder must be given for a query with images: the file that made the vectors")
        items = find_items(source)
        if encoder.is_file():
            check_encoder(opened.encoder, checksum(encoder))
        with Encoder.load(encoder, device=device) as model:
            queries = np.asarray(model(_images(items)))
    hits = opened.search(queries, k)
    found = [
        [(opened.item(int(row)), float(cosine)) for row, cosine in zip(rows, cosines, strict=True) if row >= 0]
        for rows, cosines in zip(hits.rows, hits.cosines, strict=True)
    ]
    _print(console, items, found)
    if json_out is not None:
        answer = [
            {"query": _plain(item), "found": [{**_plain(each), "cosine": cosine} for each, cosine in nearest]}
            for item, nearest in zip(items, found, strict=True)
        ]
        write_json(json_out, answer)
    if picture is not None:
        _draw(picture, items[:_SHOWN], found[:_SHOWN])
        console.print(f"Picture: {picture}", highlight=False, soft_wrap=True)


def _images(items: Sequence[Item]) -> list[Tensor]:
    images = []
    for image in read_items(items):
        if isinstance(image, ValueError):
            raise image
        images.append(image)
    return images


def _plain(item: Item) -> dict[str, Any]:
    return {"path": str(item.path), "frame": item.frame, "box": item.box}


def _print(console: Console, items: Sequence[Item], found: Sequence[Sequence[tuple[Item, float]]]) -> None:
    table = Table()
    for column in ("query", "nearest", "cosine"):
        table.add_column(column, overflow="fold")
    for item, nearest in list(zip(items, found, strict=True))[:_SHOWN]:
        best = nearest[:3]
        names = "\n".join(_name(each) for each, _ in best)
        table.add_row(_name(item), names, "\n".join(f"{cosine:.4f}" for _, cosine in best))
    console.print(table)
    if len(items) > _SHOWN:
        console.print(f"and {len(items) - _SHOWN} more queries", highlight=False)


def _name(item: Item) -> str:
    return item.path.name if item.frame is None else f"{item.path.name}, frame {item.frame}"


def _draw(path: Path, items: Sequence[Item], found: Sequence[Sequence[tuple[Item, float]]]) -> None:
    # Frames of a video are read in order, so all images of the picture are read at once.
    wanted = sorted(
        {*items, *(each for nearest in found for each, _ in nearest)},
        key=lambda item: (str(item.path), -1 if item.frame is None else item.frame, item.box or ()),
    )
    pictures = {item: to_picture(image) for item, image in zip(wanted, _images(wanted), strict=True)}
    rows = [
        ((pictures[item], _name(item)), [(pictures[each], f"{cosine:.3f}") for each, cosine in nearest])
        for item, nearest in zip(items, found, strict=True)
    ]
    save_picture(search_results(rows), path)
