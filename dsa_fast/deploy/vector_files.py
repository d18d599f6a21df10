"""Files of vectors and their images. They are written in parts, so an interrupted run can continue."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsa_fast.array_files import load_arrays, memory
from dsa_fast.deploy.inputs import Item
from dsa_fast.extras import require
from dsa_fast.files import atomic_path, check_regular, is_left_over, utf8_name

SUFFIXES = (".parquet", ".npz")
NO_FRAME = -1


@dataclass(frozen=True)
class Vectors:
    """Vectors and their images.

    Attributes:
        vectors: float32 [N, D].
        paths: str [N], images or videos.
        frames: int64 [N], frame in the video; -1 for an image.
        boxes: int64 [N, 4], x, y, width and height of the crop; width 0 for the whole image.
        encoder: checksum of the file that made them, or "" if unknown. Vectors from different encoders can't be
            compared.
        visibility: float32 [N, P], of the body parts in each image, in [0, 1]; None if unknown.
        part_dim: length of a part's feature, if visibility is known: the last P * part_dim columns are the parts.
    """

    vectors: NDArray[np.float32]
    paths: NDArray[np.str_]
    frames: NDArray[np.int64]
    boxes: NDArray[np.int64]
    encoder: str = ""
    visibility: NDArray[np.float32] | None = None
    part_dim: int = 0

    @classmethod
    def from_items(cls, vectors: NDArray[np.float32], items: Sequence[Item], encoder: str = "") -> Vectors:
        """Makes them of `vectors` [N, D] and the N items that these are of."""
        named = columns(items)
        return cls(vectors, named["paths"], named["frames"], named["boxes"], encoder)

    def __len__(self) -> int:
        return len(self.paths)

    def item(self, row: int) -> Item:
        """Returns the image of a row."""
        frame, box = int(self.frames[row]), tuple(int(value) for value in self.boxes[row])
        return Item(
            Path(str(self.paths[row])),
            None if frame == NO_FRAME else frame,
            (box[0], box[1], box[2], box[3]) if box[2] else None,
        )


def columns(items: Sequence[Item]) -> dict[str, NDArray[Any]]:
    """Returns the columns `paths`, `frames` and `boxes` of items."""
    return {
        "paths": np.array([str(item.path) for item in items], dtype=np.str_),
        "frames": np.array([NO_FRAME if item.frame is None else item.frame for item in items], dtype=np.int64),
        "boxes": np.array([item.box or (0, 0, 0, 0) for item in items], dtype=np.int64).reshape(-1, 4),
    }


class PartWriter:
    """Saves the vectors of a list of items in OUT.parts, and joins them at the end.

    Nothing is written before the first part, so an encoder that does not load leaves no files.

    Args:
        out: the file to write, `.parquet` or `.npz`.
        items: all items to embed.
        encoder: checksum of the encoder's file.
        visibility: whether the vectors come with visibilities.
        part: number of items per part. An interrupted run loses at most one part.

    Attributes:
        done: number of items in parts that were already finished.
        finished: an earlier run of the same list and encoder has written `out` already.

    Raises:
        FileExistsError: `out` exists, or OUT.parts belongs to another list, part size or encoder.
        ValueError: `out` has an unknown suffix.
    """

    def __init__(
        self, out: Path, items: Sequence[Item], encoder: str, *, part: int = 4096, visibility: bool = False
    ) -> None:
        if out.suffix not in SUFFIXES:
            raise ValueError(f"out must end in {' or '.join(SUFFIXES)}, got {out}")
        if out.suffix == ".parquet":
            require("pyarrow.parquet")
        self.out, self.encoder, self.folder = out, encoder, out.with_name(out.name + ".parts")
        self.parts = [items[start : start + part] for start in range(0, len(items), part)]
        digest = hashlib.sha256(
            json.dumps([encoder, part, *(["visibility"] if visibility else [])], separators=(",", ":")).encode()
        )
        for item in items:
            digest.update(f"{item.path}\0{item.frame}\0{item.box}\n".encode(errors="surrogateescape"))
        self._plan, self._mark = digest.hexdigest(), self.folder / "plan"
        self.finished = out.exists()
        if self.finished:
            if _plan_of(out) != self._plan:
                raise FileExistsError(f"out must be free, got {out}: remove it or choose another name")
            self._remove_parts()
            self.done = len(items)
            return
        if self._mark.is_file():
            if self._mark.read_text() != self._plan:
                raise FileExistsError(
                    f"{self.folder} must be of this list and encoder to continue, got another's: remove it to restart"
                )
        elif self.folder.exists() and not all(map(is_left_over, self.folder.iterdir())):
            raise FileExistsError(f"{self.folder} must be free or an interrupted run's, got other files")
        self.done = sum(len(items) for number, items in enumerate(self.parts) if self._file(number).is_file())

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:06d}.npz"

    def missing(self) -> Iterator[tuple[int, Sequence[Item]]]:
        """Yields the index and the items of each unfinished part."""
        for number, items in enumerate(self.parts):
            if not self._file(number).is_file():
                yield number, items

    def write(
        self,
        number: int,
        items: Sequence[Item],
        vectors: NDArray[np.float32],
        visibility: NDArray[np.float32] | None = None,
        part_dim: int = 0,
    ) -> None:
        """Writes a part: `vectors` [n, D] of `items`, and if known their `visibility` and `part_dim` (see `Vectors`).

        These can be fewer than the items of the part.
        """
        if not self._mark.is_file():
            with atomic_path(self._mark) as temporary:
                temporary.write_text(self._plan)
        with atomic_path(self._file(number)) as temporary, temporary.open("wb") as file:
            arrays: dict[str, Any] = {"vectors": vectors, "encoder": np.array(self.encoder), **columns(items)}
            if visibility is not None:
                arrays |= {"visibility": visibility, "part_dim": np.array(part_dim)}
            np.savez(file, **arrays)

    def finish(self) -> int:
        """Joins the parts and removes them.

        Returns:
            The number of vectors.

        Raises:
            ValueError: no item could be embedded.
        """
        parts = [read_vectors(self._file(number)) for number in range(len(self.parts))]
        parts = [part for part in parts if len(part)]
        if not parts:
            raise ValueError(f"out must hold at least one vector, got none: no item could be read ({self.out})")
        with atomic_path(self.out, sync=True) as temporary:
            write_vectors(temporary, parts, plan=self._plan)
        self._remove_parts()
        return sum(map(len, parts))

    def _remove_parts(self) -> None:
        if self.folder.is_dir():
            shutil.rmtree(self.folder)


def _plan_of(path: Path) -> str | None:
    """Returns the digest of the run that wrote a file of vectors; None for other files."""
    try:
        if path.suffix == ".npz":
            return str(load_arrays(path, ("plan",))["plan"])
        check_regular(path)
        with utf8_name(path) as name:
            metadata = require("pyarrow.parquet").read_schema(name).metadata or {}
        return str(metadata[b"dsa_fast.plan"].decode())
    except Exception:  # any other file
        return None


def write_vectors(path: Path, parts: Sequence[Vectors], *, plan: str = "") -> None:
    """Writes all parts to one file: Parquet (columns path, frame, x, y, w, h, vector) or .npz (arrays of `Vectors`).

    If visibility is known, Parquet has the column visibility too.

    Args:
        path: the file.
        parts: the vectors.
        plan: digest of the run, which lets the same run know that it is finished.
    """
    seen = parts[0].visibility is not None
    if path.suffix == ".npz":
        fields = ("vectors", "paths", "frames", "boxes", *(("visibility",) if seen else ()))
        arrays: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in fields}
        arrays |= {"encoder": np.array(parts[0].encoder), "plan": np.array(plan)}
        arrays |= {"part_dim": np.array(parts[0].part_dim)} if seen else {}
        with path.open("wb") as file:
            np.savez(file, **arrays)
        return
    pa, parquet = require("pyarrow"), require("pyarrow.parquet")
    width = parts[0].vectors.shape[1]
    numbers = [(name, pa.int64()) for name in ("frame", "x", "y", "w", "h")]
    text = pa.string() if all(_is_utf8(name) for part in parts for name in part.paths.tolist()) else pa.binary()
    lists = [("vector", width)]
    if parts[0].visibility is not None:
        lists.append(("visibility", parts[0].visibility.shape[1]))
    schema = pa.schema(
        [("path", text), *numbers, *((name, pa.list_(pa.float32(), length)) for name, length in lists)],
        metadata={
            "dsa_fast.encoder": parts[0].encoder,
            "dsa_fast.plan": plan,
            "dsa_fast.part_dim": str(parts[0].part_dim),
        },
    )
    with (
        utf8_name(path, write=True) as name,
        parquet.ParquetWriter(name, schema, compression="zstd", use_dictionary=["path"]) as writer,
    ):
        for part in parts:
            paths = part.paths.tolist()
            listed = [pa.array(paths if text == pa.string() else [os.fsencode(name) for name in paths], text)]
            listed.append(pa.array(part.frames))
            listed += [pa.array(np.ascontiguousarray(part.boxes[:, i])) for i in range(4)]
            for rows, (_, length) in zip((part.vectors, part.visibility), lists, strict=False):
                flat = pa.array(np.ascontiguousarray(rows).reshape(-1))
                listed.append(pa.FixedSizeListArray.from_arrays(flat, length))
            writer.write_table(pa.Table.from_arrays(listed, schema=schema))


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_vectors(path: str | os.PathLike[str]) -> Vectors:
    """Reads a file of `dsa-fast embed`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file has another format, or is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"vectors must be a .parquet or .npz file of dsa-fast embed, got {path}: no such file")
    if path.suffix == ".parquet":
        require("pyarrow.parquet")
    try:
        found = _read_parquet(path) if path.suffix == ".parquet" else _read_npz(path)
    except Exception as error:  # pyarrow raises many kinds of errors
        about = f"no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise ValueError(f"vectors must be a .parquet or .npz file of dsa-fast embed, got {path}: {about}") from error
    n = len(found.paths)
    if found.vectors.ndim != 2 or len(found.vectors) != n or found.frames.shape != (n,) or found.boxes.shape != (n, 4):
        raise ValueError(f"vectors must have as many rows as paths, got {found.vectors.shape} and {n} in {path}")
    check_finite(found.vectors, str(path))
    check_visibility(found, str(path))
    return found


def check_visibility(found: Vectors, where: str) -> None:
    """Raises ValueError unless visibility is unknown or fits the vectors."""
    seen = found.visibility
    if seen is None:
        return
    if seen.dtype.kind != "f" or seen.ndim != 2 or len(seen) != len(found) or not seen.shape[1]:
        raise ValueError(f"visibility must be numbers [{len(found)}, P], got {seen.dtype} {seen.shape} in {where}")
    if not bool(((seen >= 0) & (seen <= 1)).all()):
        raise ValueError(f"visibility must be in [0, 1], got other values in {where}")
    if found.part_dim < 1 or (found.vectors.size and seen.shape[1] * found.part_dim > found.vectors.shape[1]):
        raise ValueError(f"part_dim must be the length of a part's feature, got {found.part_dim} in {where}")


def same_kind(parts: Sequence[Vectors]) -> bool:
    """Returns whether all vectors have visibilities of the same parts, or none has any."""
    return len({(part.part_dim, None if part.visibility is None else part.visibility.shape[1:]) for part in parts}) == 1


def check_finite(vectors: NDArray[Any], where: str) -> None:
    """Raises ValueError if a vector has a value that is not finite; the message names the first one."""
    rows = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(rows):
        raise ValueError(
            f"vectors must be finite, got NaN or infinity in {len(rows)} of {len(vectors)}, first in row {rows[0]}: "
            f"{where}"
        )


def _read_npz(path: Path) -> Vectors:
    names = ("vectors", "paths", "frames", "boxes", "encoder")
    arrays = load_arrays(path, (*names, "visibility", "part_dim"))
    vectors, paths, frames, boxes, encoder = (arrays[name] for name in names)
    _check_kinds(vectors, frames, boxes)
    if paths.dtype.kind != "U" or encoder.dtype.kind != "U" or encoder.shape != ():
        raise ValueError(f"paths and encoder must be text, got {paths.dtype} and {encoder.dtype} {encoder.shape}")
    return Vectors(
        vectors.astype(np.float32, copy=False),
        paths,
        frames.astype(np.int64, copy=False),
        boxes.astype(np.int64, copy=False),
        str(encoder),
        *read_visibility(arrays),
    )


def read_visibility(arrays: dict[str, NDArray[Any]]) -> tuple[NDArray[np.float32] | None, int]:
    """Returns `Vectors.visibility` and `Vectors.part_dim` of a file's arrays, which may have none."""
    if "visibility" not in arrays:
        return None, 0
    seen, part_dim = arrays["visibility"], arrays["part_dim"]
    if seen.dtype.kind != "f" or part_dim.dtype.kind not in "iu" or part_dim.shape != ():
        raise ValueError(f"visibility must be floating point and part_dim a number, got {seen.dtype}, {part_dim.dtype}")
    return seen.astype(np.float32, copy=False), int(part_dim)


def _check_kinds(vectors: NDArray[Any], frames: NDArray[Any], boxes: NDArray[Any]) -> None:
    if vectors.dtype.kind != "f" or frames.dtype.kind not in "iu" or boxes.dtype.kind not in "iu":
        raise ValueError(
            f"vectors must be floating point, frames and boxes whole numbers, got {vectors.dtype}, {frames.dtype} and "
            f"{boxes.dtype}"
        )


def _read_parquet(path: Path) -> Vectors:
    pa, parquet = require("pyarrow"), require("pyarrow.parquet")
    check_regular(path)
    with utf8_name(path) as name, parquet.ParquetFile(name) as file:
        if file.metadata.num_rows * 100 > memory():
            raise ValueError(f"it promises {file.metadata.num_rows:,} rows, more than the memory holds")
        more = ["visibility"] if "visibility" in file.schema_arrow.names else []
        table = file.read(columns=["path", "frame", "x", "y", "w", "h", "vector", *more]).combine_chunks()
    for name in ("path", "frame", "x", "y", "w", "h", "vector", *more):
        if table[name].null_count:
            raise ValueError(f"column {name} has empty rows")
    frames, *boxes = (table[name].to_numpy() for name in ("frame", "x", "y", "w", "h"))
    values = _matrix(pa, table, "vector")
    metadata = table.schema.metadata or {}
    _check_kinds(values, frames, np.stack(boxes, axis=1))
    if not (pa.types.is_string(table.schema.field("path").type) or pa.types.is_binary(table.schema.field("path").type)):
        raise ValueError(f"column path must be text, got {table.schema.field('path').type}")
    return Vectors(
        values.astype(np.float32, copy=False),
        # A path that is not UTF-8 is written as bytes.
        np.array([os.fsdecode(name) for name in table["path"].to_pylist()], dtype=np.str_),
        frames.astype(np.int64),
        np.stack(boxes, axis=1).astype(np.int64),
        metadata.get(b"dsa_fast.encoder", b"").decode(),
        _matrix(pa, table, "visibility").astype(np.float32) if more else None,
        int(metadata.get(b"dsa_fast.part_dim", b"0")) if more else 0,
    )


def _matrix(pa: Any, table: Any, name: str) -> NDArray[Any]:
    """Returns a column of lists of one length as a matrix."""
    kind = table.schema.field(name).type
    fixed = pa.types.is_fixed_size_list(kind)
    if not (fixed or pa.types.is_list(kind)) or not pa.types.is_floating(kind.value_type):
        raise ValueError(f"column {name} must be a list of floating-point numbers, got {kind}")
    rows = table[name].combine_chunks()
    if not fixed and len(rows) and len(set(rows.value_lengths().to_pylist())) > 1:
        raise ValueError(f"{name}s must have one length, got several")
    flat = rows.flatten()
    if flat.null_count:
        raise ValueError(f"{name}s have empty values")
    values: NDArray[Any] = flat.to_numpy().reshape(len(table), -1) if len(table) else np.empty((0, 0), np.float32)
    return values
