"""A FAISS index on disk (https://github.com/facebookresearch/faiss) with a table of its vectors' images.

An index is a folder. `current.json` names the current index file and table. A change writes new files and then
`current.json`, so an interrupted run keeps the previous state.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsa_fast.array_files import load_arrays
from dsa_fast.deploy.inputs import Item
from dsa_fast.deploy.vector_files import Vectors, check_finite, check_visibility, read_visibility, same_kind
from dsa_fast.extras import require
from dsa_fast.files import atomic_path, checksum, is_left_over, locked, read_json, utf8_name, write_json

_FORMAT, _VERSION, _MARK = "dsa_fast.index", 1, "current.json"
_MOST_IN_KIND = 1 << 16


@dataclass(frozen=True)
class Hits:
    """The nearest vectors of each query.

    Attributes:
        rows: int64 [Q, k], rows of the table, nearest first; -1 if the index found fewer.
        cosines: float32 [Q, k]; -1 where `rows` is -1.
    """

    rows: NDArray[np.int64]
    cosines: NDArray[np.float32]


class VectorIndex:
    """An index in a folder. Vectors are compared by their cosine.

    Attributes:
        folder: the folder.
        kind: FAISS's description of the index, such as `Flat` or `HNSW32`.
        encoder: checksum of the file that made its vectors.
        dim: length of a vector.
    """

    def __init__(self, folder: Path, kind: str, encoder: str, index: Any, table: Vectors, generation: int) -> None:
        self.folder, self.kind, self.encoder, self.dim = folder, kind, encoder, int(index.d)
        self._index, self._table, self._generation = index, table, generation

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @classmethod
    def build(cls, folder: str | os.PathLike[str], vectors: Vectors, *, kind: str = "Flat") -> VectorIndex:
        """Makes an index and writes it.

        Args:
            folder: a new or empty folder, or what an interrupted `build` left. The index that the same call made
                before is opened.
            vectors: the vectors of the index.
            kind: FAISS's factory string. `Flat` compares with all vectors; `HNSW32` and `IVF256,Flat` search only a
                part, for millions of vectors.

        Raises:
            FileExistsError: the folder is not empty.
            ValueError: FAISS is not installed, does not know the kind, or needs more vectors to train the index.
        """
        faiss = require("faiss")
        folder = Path(folder)
        if any(not 1 <= int(number) <= _MOST_IN_KIND for number in re.findall(r"[0-9]+", kind)):
            raise ValueError(f"kind must have numbers in 1..{_MOST_IN_KIND}, got {kind!r}")
        if folder.exists() and not folder.is_dir():
            raise FileExistsError(f"index must be a new or empty folder, got the file {folder}")
        unit = _unit(vectors.vectors)
        with locked(folder, folder=True):
            if not all(map(_is_unfinished, folder.iterdir())):
                if _last_added(folder) == (0, kind, _digest(vectors)):  # the same call has finished before
                    return cls.open(folder)
                raise FileExistsError(f"index must be a new or empty folder, got {folder}")
            try:
                index = faiss.index_factory(unit.shape[1], kind, faiss.METRIC_INNER_PRODUCT)
                if not index.is_trained:
                    index.train(unit)
                index.add(unit)
            except (RuntimeError, MemoryError) as error:
                raise ValueError(
                    f"kind must be an index that FAISS can make of {len(unit)} vectors, got {kind!r}: "
                    f"{_last_line(error)}"
                ) from error
            made = cls(folder, kind, vectors.encoder, index, _without_vectors(vectors), 0)
            made._write(_digest(vectors))
        return made

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> VectorIndex:
        """Reads an index.

        Raises:
            FileNotFoundError: the folder has no index.
            ValueError: a file is damaged; the message names it.
        """
        faiss = require("faiss")
        folder = Path(folder)
        mark = folder / _MARK
        if not mark.is_file():
            raise FileNotFoundError(f"index must be a folder of dsa-fast search build, got {folder}: no {_MARK} in it")
        try:
            about = read_json(mark)
            if (about["format"], about["format_version"]) != (_FORMAT, _VERSION):
                raise ValueError(f"it has format {about['format']!r}, version {about['format_version']!r}")
            generation, kind, encoder = int(about["generation"]), str(about["kind"]), str(about["encoder"])
            sums = {str(name): str(value) for name, value in about["sha256"].items()}
            if not 0 <= generation < 1 << 62:
                raise ValueError(f"it has generation {generation}")
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"index must be a folder of dsa-fast search build, got {folder}: {error}") from error
        for name, file in _files(folder, generation).items():
            if not file.is_file() or checksum(file) != sums.get(name):
                raise ValueError(f"index is damaged: {file} is not what {mark} says; build it again")
        files = _files(folder, generation)
        try:
            rows = _read_table(files["table"], encoder)
            with utf8_name(files["index"]) as name:
                read = faiss.read_index(name)
            if read.ntotal != len(rows):
                raise ValueError(f"it has {read.ntotal} vectors and its table {len(rows)} rows")
        except Exception as error:  # FAISS raises RuntimeError
            raise ValueError(f"index is damaged: {folder}: {_last_line(error)}") from error
        return cls(folder, kind, encoder, read, rows, generation)

    def add(self, vectors: Vectors) -> None:
        """Adds vectors and writes the index. Vectors that were the last to be added are not added again.

        So the same call can be repeated after it was interrupted.

        Raises:
            ValueError: the vectors have another length or are not finite, another encoder made them, or another process
                has changed the index since it was opened.
            BlockingIOError: another process is changing the index.
        """
        if vectors.vectors.shape[1] != self.dim:
            raise ValueError(f"vectors must have length {self.dim}, got {vectors.vectors.shape[1]}")
        check_encoder(self.encoder, vectors.encoder)
        if not same_kind([self._table, vectors]):
            raise ValueError("vectors must have visibilities of body parts if the index has them, and only then")
        unit, digest = _unit(vectors.vectors), _digest(vectors)
        with locked(self.folder, folder=True):
            found = _last_added(self.folder)
            if found is None or found[0] != self._generation:
                raise ValueError(f"another process has changed the index since it was opened, {self.folder}: try again")
            if found[2] == digest:
                self._remove_old_files()  # an interrupted call can leave them
                return
            self._index.add(unit)
            old = self._table
            self._table = Vectors(
                old.vectors,
                np.concatenate([old.paths, vectors.paths]),
                np.concatenate([old.frames, vectors.frames]),
                np.concatenate([old.boxes, vectors.boxes]),
                self.encoder,
                None
                if old.visibility is None or vectors.visibility is None
                else np.concatenate([old.visibility, vectors.visibility]),
                old.part_dim,
            )
            self._generation += 1
            self._write(digest)

    def search(self, vectors: NDArray[np.float32], k: int = 10) -> Hits:
        """Finds the nearest vectors of each query.

        Args:
            vectors: float32 [Q, D].
            k: number of vectors; fewer if the index has fewer.

        Raises:
            ValueError: the vectors have another length, or k is below 1.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise ValueError(f"vectors must have shape [Q, {self.dim}], got {list(vectors.shape)}")
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        cosines, rows = self._index.search(_unit(vectors), min(k, max(len(self), 1)))
        return Hits(rows.astype(np.int64), np.where(rows < 0, np.float32(-1), cosines))

    @property
    def has_visibility(self) -> bool:
        """Whether the index knows the visibility of body parts in each image."""
        return self._table.visibility is not None

    def rescore(
        self, vectors: NDArray[np.float32], visibility: NDArray[np.float32], k: int = 10, *, candidates: int = 100
    ) -> Hits:
        """Finds the nearest vectors of each query, and sorts them by the parts that are visible on both sides.

        Args:
            vectors: float32 [Q, D].
            visibility: float32 [Q, P], of each query's body parts.
            k: number of vectors; fewer if the index finds fewer.
            candidates: number of nearest vectors that are sorted, at least k.

        Returns:
            The hits. Their `cosines` are 1 minus the distance of `dsa_fast.evaluation.VisibleDistances`.

        Raises:
            ValueError: the index has no visibilities or can't give back its vectors, or see `search`.
        """
        from dsa_fast.evaluation.visibility import PartVisibility, visible_distances

        known = self._table.visibility
        if known is None:
            raise ValueError(f"index must be made of vectors with visibility, got one without: {self.folder}")
        if candidates < k:
            raise ValueError(f"candidates must be at least k, {k}, got {candidates}")
        found, unit = self.search(vectors, candidates), _unit(vectors)
        rows = np.full((len(vectors), min(k, found.rows.shape[1])), -1, np.int64)
        cosines = np.full(rows.shape, -1, np.float32)
        for number, near in enumerate(found.rows):
            near = near[near >= 0]
            if not len(near):
                continue
            seen = PartVisibility(visibility[number : number + 1], known[near], self._table.part_dim)
            close = 1 - visible_distances(unit[number : number + 1], self._vectors(near), seen)[0].numpy()
            order = np.argsort(-close, kind="stable")[: rows.shape[1]]
            rows[number, : len(order)], cosines[number, : len(order)] = near[order], close[order]
        return Hits(rows, cosines)

    def _vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        faiss = require("faiss")
        try:
            inverted = faiss.try_extract_index_ivf(self._index)
            if inverted is not None and inverted.direct_map.type == faiss.DirectMap.NoMap:
                inverted.make_direct_map()
            vectors: NDArray[np.float32] = self._index.reconstruct_batch(rows)
        except RuntimeError as error:
            raise ValueError(
                f"index must be of a kind that gives back its vectors, got {self.kind}: {_last_line(error)}"
            ) from error
        return vectors

    def item(self, row: int) -> Item:
        """Returns the image of a row."""
        return self._table.item(row)

    def _write(self, added: str) -> None:
        faiss = require("faiss")
        files = _files(self.folder, self._generation)
        with atomic_path(files["index"], sync=True) as temporary:
            try:
                with utf8_name(temporary, write=True) as name:
                    faiss.write_index(self._index, name)
            except RuntimeError as error:
                raise OSError(f"{files['index']} could not be written: {_last_line(error)}") from error
        with atomic_path(files["table"], sync=True) as temporary, temporary.open("wb") as file:
            table = self._table
            seen = {} if table.visibility is None else {"visibility": table.visibility, "part_dim": table.part_dim}
            np.savez(file, paths=table.paths, frames=table.frames, boxes=table.boxes, **seen)  # type: ignore[arg-type]
        about = {
            "format": _FORMAT,
            "format_version": _VERSION,
            "generation": self._generation,
            "kind": self.kind,
            "encoder": self.encoder,
            "vectors": len(self),
            "dim": self.dim,
            "last_added": added,
            "sha256": {name: checksum(file) for name, file in files.items()},
        }
        write_json(self.folder / _MARK, about, sync=True)
        self._remove_old_files()

    def _remove_old_files(self) -> None:
        files = _files(self.folder, self._generation)
        for old in self.folder.glob("*-*.*"):
            if old not in files.values() and old.stem.split("-")[0] in files:
                old.unlink()


def check_encoder(index: str, vectors: str) -> None:
    """Raises ValueError if both checksums are known and differ."""
    if index and vectors and index != vectors:
        raise ValueError(
            f"vectors must be made by the same file as the index, got another's: give the encoder of the index "
            f"(its SHA-256 begins with {index[:12]}, this one's with {vectors[:12]})"
        )


def _last_added(folder: Path) -> tuple[int, str, str] | None:
    """Returns the generation, the kind and the digest of the last vectors of an index; None if there is no index."""
    try:
        about = read_json(folder / _MARK)
        return int(about["generation"]), str(about["kind"]), str(about.get("last_added"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _digest(vectors: Vectors) -> str:
    digest = hashlib.sha256(vectors.encoder.encode(errors="surrogateescape"))
    for column in (vectors.vectors, vectors.paths, vectors.frames, vectors.boxes, vectors.visibility):
        if column is not None:
            digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()


def _files(folder: Path, generation: int) -> dict[str, Path]:
    return {"index": folder / f"index-{generation:06d}.faiss", "table": folder / f"table-{generation:06d}.npz"}


def _is_unfinished(path: Path) -> bool:
    """Returns whether a file is one that `build` writes before the index is complete."""
    return path.name == ".lock" or is_left_over(path) or path.name in {file.name for file in _files(path, 0).values()}


def _read_table(path: Path, encoder: str) -> Vectors:
    arrays = load_arrays(path, ("paths", "frames", "boxes", "visibility", "part_dim"))
    paths, frames, boxes = arrays["paths"], arrays["frames"], arrays["boxes"]
    n = len(paths)
    if paths.dtype.kind != "U" or not frames.dtype == boxes.dtype == np.dtype(np.int64):
        raise ValueError(f"its table has {paths.dtype}, {frames.dtype} and {boxes.dtype}")
    if paths.shape != (n,) or frames.shape != (n,) or boxes.shape != (n, 4):
        raise ValueError(f"its table has shapes {paths.shape}, {frames.shape} and {boxes.shape}")
    table = Vectors(np.empty((0, 0), np.float32), paths, frames, boxes, encoder, *read_visibility(arrays))
    check_visibility(table, str(path))
    return table


def _last_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    if vectors.ndim != 2 or vectors.shape[1] == 0 or vectors.dtype.kind != "f":
        raise ValueError(f"vectors must be floating point [N, D], got {vectors.dtype} {list(vectors.shape)}")
    check_finite(vectors, "search needs finite vectors")
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    unit: NDArray[np.float32] = np.ascontiguousarray(vectors / np.maximum(lengths, 1e-12), dtype=np.float32)
    return unit


def _without_vectors(vectors: Vectors) -> Vectors:
    return replace(vectors, vectors=np.empty((0, 0), np.float32))
