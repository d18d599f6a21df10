"""A data set's IUV maps in one file: lossless, memory-mapped, with a checksum for each map.

The layout of the file (`*.dsaiuv`); all numbers are little-endian:

```
8 bytes   b"DSAIUV01"
...       the maps, one after another
names     UTF-8, one per line, sorted
table     a row per name: offset u64, length u32, height u16, width u16, CRC-32 of the bytes u32, kind u32
footer    length of names u64, of table u64, CRC-32 of both u32, 4 zero bytes, b"DSAIUV01"
```

A map of kind 0 is deflated (raw, without zlib's header) from I of all pixels, U of the labeled pixels and V of the
labeled pixels. Each goes down the columns from left to right, and stores each byte as the difference from the one
before. Kind 1 is for maps that have U or V where I is 0. It stores all three channels of all pixels in this way.

A map in a store has a path as if the store were a folder: `iuv.dsaiuv/query/0002_c1s1_000451_03`. `read_iuv` reads it.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsa_fast.densepose.parts import NUM_PARTS
from dsa_fast.files import atomic_path

__all__ = ["STORE_SUFFIX", "IUVStore", "in_store"]

#: Suffix of a store's file name.
STORE_SUFFIX = ".dsaiuv"

_MAGIC = b"DSAIUV01"
_ROW = np.dtype(
    [("offset", "<u8"), ("length", "<u4"), ("height", "<u2"), ("width", "<u2"), ("crc", "<u4"), ("kind", "<u4")]
)
_FOOTER = struct.Struct("<QQI4x8s")
_LABELLED, _WHOLE = 0, 1
_MOST = (1 << 16) - 1  # pixels, each way
_MOST_DEFLATED = 1032  # bytes that one deflated byte can become


class IUVStore:
    """An open store of IUV maps. Threads can share it, and it can be passed to other processes.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a store, or is truncated or damaged. The message names the file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"IUV store not found: {self.path}")
        size = self.path.stat().st_size
        if size < len(_MAGIC) + _FOOTER.size:
            raise ValueError(f"{self.path} is not an IUV store, or is truncated: it has {size} bytes")
        with self.path.open("rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        names_length, table_length, crc, magic = _FOOTER.unpack(self._bytes[size - _FOOTER.size :])
        start = size - _FOOTER.size - names_length - table_length
        if self._bytes[: len(_MAGIC)] != _MAGIC or magic != _MAGIC or start < len(_MAGIC):
            raise ValueError(f"{self.path} is not an IUV store of version 1, or is truncated")
        index = self._bytes[start : size - _FOOTER.size]
        if zlib.crc32(index) != crc:
            raise ValueError(f"{self.path} is damaged: its list of maps has another checksum")
        names = index[:names_length].decode(errors="surrogateescape").split("\n") if names_length else []
        if table_length != len(names) * _ROW.itemsize:
            raise ValueError(f"{self.path} is damaged: {len(names)} names for {table_length} bytes of maps")
        self._table = np.frombuffer(index[names_length:], _ROW)
        self._index = {name: row for row, name in enumerate(names)}

    @classmethod
    def create(cls, path: str | os.PathLike[str], items: Iterable[tuple[str, Tensor]]) -> IUVStore:
        """Writes a store atomically. Only one map at a time is in memory.

        Args:
            path: the file; its name must end in ".dsaiuv".
            items: names and maps, uint8 [3, H, W]. A name is the path of the map in the data set, with "/" between
                folders and without a suffix, such as `query/0002_c1s1_000451_03`.

        Returns:
            The store, open.

        Raises:
            TypeError: a map is not a uint8 tensor.
            ValueError: the file's name, a map's name (empty, duplicate, or with a line break) or a map (shape, more
                than 65,535 pixels wide or high, part ids above 24) is wrong.
        """
        path = Path(path)
        if path.suffix != STORE_SUFFIX:
            raise ValueError(f'path must end in "{STORE_SUFFIX}", got {str(path)!r}')
        rows: dict[str, tuple[int, int, int, int, int, int]] = {}
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            file.write(_MAGIC)
            offset = len(_MAGIC)
            for name, iuv in items:
                if not name or "\n" in name or name in rows:
                    raise ValueError(f"names must be lines of text, each once, got {name!r}")
                kind, data = _encode(name, iuv)
                file.write(data)
                rows[name] = (offset, len(data), iuv.shape[1], iuv.shape[2], zlib.crc32(data), kind)
                offset += len(data)
            names = sorted(rows)
            text = "\n".join(names).encode(errors="surrogateescape")
            table = np.array([rows[name] for name in names], _ROW).tobytes()
            file.write(text + table + _FOOTER.pack(len(text), len(table), zlib.crc32(text + table), _MAGIC))
        return cls(path)

    def __len__(self) -> int:
        return len(self._index)

    def __iter__(self) -> Iterator[str]:
        """The maps' names, sorted."""
        return iter(self._index)

    def __contains__(self, name: object) -> bool:
        return name in self._index

    def size(self, name: str) -> tuple[int, int]:
        """Returns (height, width) of a map, without reading it.

        Raises:
            KeyError: there is no such map.
        """
        row = self._table[self._index[name]]
        return int(row["height"]), int(row["width"])

    def stored_bytes(self, name: str) -> int:
        """Returns the number of bytes of a map in the file.

        Raises:
            KeyError: there is no such map.
        """
        return int(self._table[self._index[name]]["length"])

    def __getitem__(self, name: str) -> Tensor:
        """Returns a map: uint8 [3, H, W], channels I, U, V.

        Raises:
            KeyError: there is no such map.
            ValueError: the map is damaged.
        """
        row = self._table[self._index[name]]
        start, length, height, width = (int(row[key]) for key in ("offset", "length", "height", "width"))
        data = self._bytes[start : start + length]
        if zlib.crc32(data) != row["crc"]:
            raise ValueError(f"IUV map {self.path / name} is damaged: it has another checksum")
        try:
            return _decode(data, height, width, int(row["kind"]))
        except (ValueError, zlib.error) as error:
            raise ValueError(f"IUV map {self.path / name} is damaged: {error}") from error

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]


def in_store(path: Path) -> tuple[IUVStore, str] | None:
    """Returns the store and the name of a map if its path leads into a store, otherwise None.

    Raises:
        ValueError: see `IUVStore`.
    """
    if STORE_SUFFIX not in str(path):
        return None
    for parent in path.parents:
        if parent.suffix == STORE_SUFFIX and parent.is_file():
            about = parent.stat()
            return _opened(parent, about.st_mtime_ns, about.st_size), path.relative_to(parent).as_posix()
    return None


@lru_cache(maxsize=16)
def _opened(path: Path, changed: int, size: int) -> IUVStore:
    """Returns an open store. A rewritten file has another modification time and is opened again."""
    return IUVStore(path)


def _encode(name: str, iuv: Tensor) -> tuple[int, bytes]:
    if not isinstance(iuv, Tensor) or iuv.dtype != torch.uint8:
        raise TypeError(f"{name} must be a uint8 tensor, got {getattr(iuv, 'dtype', type(iuv).__name__)}")
    if iuv.dim() != 3 or iuv.shape[0] != 3 or iuv.numel() == 0 or max(iuv.shape) > _MOST:
        raise ValueError(f"{name} must have shape [3, H, W], each up to {_MOST}, got {list(iuv.shape)}")
    channels = iuv.cpu().numpy().swapaxes(1, 2).reshape(3, -1)
    highest = int(channels[0].max())
    if highest > NUM_PARTS:
        raise ValueError(f"{name} must hold part ids 0..{NUM_PARTS} in channel 0, got {highest}")
    labelled = channels[0] > 0
    kind = _WHOLE if bool(channels[1:, ~labelled].any()) else _LABELLED
    rest = channels[1:] if kind == _WHOLE else channels[1:, labelled]
    deflate = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS, 9)
    data = b"".join(deflate.compress(_differences(row)) for row in (channels[0], *rest))
    return kind, data + deflate.flush()


def _differences(row: NDArray[np.uint8]) -> bytes:
    return np.diff(row, prepend=np.uint8(0)).tobytes()


def _decode(data: bytes, height: int, width: int, kind: int) -> Tensor:
    pixels = height * width
    if kind not in (_LABELLED, _WHOLE) or not 0 < pixels <= _MOST_DEFLATED * len(data):
        raise ValueError(f"{len(data)} bytes can't hold a map of {height} x {width} pixels of kind {kind}")
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    raw = np.frombuffer(inflate.decompress(data, 3 * pixels + 1), np.uint8)
    channels = np.zeros((3, pixels), np.uint8)
    np.add.accumulate(raw[:pixels], out=channels[0, : len(raw)])
    at = slice(None) if kind == _WHOLE else np.flatnonzero(channels[0])
    count = pixels if kind == _WHOLE else int(np.count_nonzero(channels[0]))
    if len(raw) != pixels + 2 * count or not inflate.eof:
        raise ValueError(f"it has {len(raw)} bytes for {pixels} pixels, {count} of them labeled")
    channels[1:, at] = np.add.accumulate(raw[pixels:].reshape(2, -1), axis=1, dtype=np.uint8)
    if int(channels[0].max()) > NUM_PARTS:
        raise ValueError(f"it must hold part ids 0..{NUM_PARTS}, got {int(channels[0].max())}")
    return torch.from_numpy(channels.reshape(3, width, height)).transpose(1, 2).contiguous()
