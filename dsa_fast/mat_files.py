"""Checks MATLAB files (versions 5 to 7) before SciPy reads them: its reader crashes on damaged ones."""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from dsa_fast.array_files import memory
from dsa_fast.files import check_regular

__all__ = ["check_mat"]

# Bytes of a value of each data type, by its number in the format.
_BYTES = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8}
_TEXT_BYTES = {1: 1, 2: 1, 3: 2, 4: 2, 16: 1, 17: 2, 18: 4}
_INT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 5, 6, 14, 15
_CELL, _CHAR, _NUMERIC = 1, 4, range(6, 16)
_COMPLEX = 0x0800
_MOST_DEFLATED, _DEEPEST = 1032, 8


class _Element(NamedTuple):
    kind: int
    data: memoryview


def check_mat(path: str | os.PathLike[str], names: Collection[str]) -> None:
    """Checks the structure of a file, and the values of some variables: cells, text and real or complex numbers.

    Args:
        path: the file.
        names: the variables that are to be read.

    Raises:
        OSError: the file can't be read.
        ValueError: it is not a MATLAB file of version 5 to 7, or is damaged; the message does not name it.
    """
    check_regular(path)
    data = memoryview(Path(path).read_bytes())
    if len(data) < 128 or bytes(data[126:128]) not in (b"IM", b"MI"):
        raise ValueError("it is not a MATLAB file of version 5 to 7")
    order = "<" if bytes(data[126:128]) == b"IM" else ">"
    try:
        for element in _elements(data[128:], order):
            if element.kind == _COMPRESSED:
                for inner in _elements(memoryview(_inflated(element.data)), order):
                    _check_matrix(inner, order, names, 0)
            else:
                _check_matrix(element, order, names, 0)
    except (struct.error, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"it is damaged: {error}") from error


def _inflated(data: memoryview) -> bytes:
    most = min(_MOST_DEFLATED * len(data) + 1024, memory())
    inflate = zlib.decompressobj()
    found = inflate.decompress(data, most)
    if not inflate.eof:
        raise ValueError("a compressed variable is cut")
    return found


def _elements(data: memoryview, order: str) -> Iterator[_Element]:
    at = 0
    while at < len(data):
        kind, size = struct.unpack_from(f"{order}II", data, at)
        if kind >> 16:  # a small element: its size, its type and up to four bytes
            kind, size, begin, end = kind & 0xFFFF, kind >> 16, at + 4, at + 8
            if size > 4:
                raise ValueError(f"a small element must have up to 4 bytes, got {size}")
        else:
            begin = at + 8
            end = begin + size + (-size % 8 if kind != _COMPRESSED else 0)
        if begin + size > len(data):
            raise ValueError(f"an element promises {size:,} bytes and has {max(len(data) - begin, 0):,}")
        yield _Element(kind, data[begin : begin + size])
        at = end


def _check_matrix(element: _Element, order: str, names: Collection[str] | None, depth: int) -> None:
    """Checks a variable, or a cell of one (`names` is None)."""
    if element.kind != _MATRIX or depth > _DEEPEST:
        raise ValueError(f"a variable must be a matrix, up to {_DEEPEST} deep, got type {element.kind}")
    if not len(element.data):
        if names is not None:
            raise ValueError("a variable must have a name")
        return
    parts = list(_elements(element.data, order))
    if len(parts) < 3 or [part.kind for part in parts[:3]] != [_UINT32, _INT32, _INT8] or len(parts[0].data) != 8:
        raise ValueError("a variable must have flags, a shape and a name")
    flags = struct.unpack_from(f"{order}I", parts[0].data)[0]
    kind = flags & 0xFF
    shape = struct.unpack(f"{order}{len(parts[1].data) // 4}i", parts[1].data)
    if len(shape) < 2 or min(shape) < 0 or len(shape) > 32:
        raise ValueError(f"a variable must have a shape of 2 to 32 sizes, got {shape}")
    count = math.prod(shape)
    name = bytes(parts[2].data).decode("latin1")
    if names is not None and name not in names:
        return
    rest = parts[3:]
    if kind == _CELL:
        if len(rest) != count:
            raise ValueError(f"{name} must have {count:,} cells, got {len(rest):,}")
        for part in rest:
            _check_matrix(part, order, None, depth + 1)
        return
    sizes = _BYTES if kind in _NUMERIC else _TEXT_BYTES if kind == _CHAR else {}
    planes = 2 if flags & _COMPLEX and kind in _NUMERIC else 1
    if len(rest) != planes or any(part.kind not in sizes for part in rest):
        raise ValueError(f"{name} must be cells, text or numbers, got class {kind}")
    for part in rest:
        # UTF-8 has one to four bytes for a letter.
        fine = len(part.data) == count * sizes[part.kind] or (part.kind == 16 and len(part.data) >= count)
        if not fine:
            raise ValueError(f"{name} must have {count:,} values, got {len(part.data):,} bytes")
