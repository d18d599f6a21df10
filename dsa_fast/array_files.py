"""Reads `.npy` and `.npz` files. Sizes are checked before memory is allocated, and nothing is unpickled."""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from dsa_fast.files import check_regular

__all__ = ["load_arrays", "memory"]

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_MOST_DEFLATED = 1032  # bytes that one deflated byte can become
_MOST_ARRAYS = 1000
_MOST_VALUES = 1 << 40


def load_arrays(path: str | os.PathLike[str], names: Collection[str] | None = None) -> dict[str, NDArray[Any]]:
    """Reads the arrays of a file.

    Args:
        path: an `.npz` file, or an `.npy` file, whose array has the name "".
        names: reads only these arrays; by default all.

    Returns:
        The arrays by name. Names that the file does not have are missing.

    Raises:
        OSError: the file can't be opened.
        ValueError: the file is damaged, holds Python objects, is compressed by another method than deflate, or needs
            more memory than the machine has. The message does not name the file.
    """
    check_regular(path)
    with Path(path).open("rb") as file:
        try:
            if file.read(6) == np.lib.format.MAGIC_PREFIX:
                file.seek(0)
                return {"": _read(file, os.fstat(file.fileno()).st_size)} if names is None or "" in names else {}
            file.seek(0)
            return _read_zip(file, names)
        except (MemoryError, RecursionError) as error:
            raise ValueError("it needs more memory than there is") from error
        except ValueError:
            raise
        except Exception as error:  # zipfile, zlib and NumPy raise many kinds of errors
            raise ValueError(f"{type(error).__name__}: {error}") from error


def _read_zip(file: IO[bytes], names: Collection[str] | None) -> dict[str, NDArray[Any]]:
    arrays = {}
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if len(members) > _MOST_ARRAYS:
            raise ValueError(f"it holds {len(members)} arrays, more than {_MOST_ARRAYS}")
        for member in members:
            name = member.filename.removesuffix(".npy")
            if names is not None and name not in names:
                continue
            if member.compress_type not in _METHODS or member.flag_bits & 1:
                raise ValueError(f"{name} must be stored or deflated and not encrypted")
            if member.file_size > _MOST_DEFLATED * member.compress_size + 1024:
                raise ValueError(f"{name} promises more bytes than it can hold")
            with archive.open(member) as stream:
                arrays[name] = _read(stream, member.file_size)
    return arrays


def _read(stream: IO[bytes], size: int) -> NDArray[Any]:
    """Reads an array from a stream of `size` bytes."""
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"an array must have NumPy's format 1.0 or 2.0, got {version}")
    head = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = head(stream)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are not loaded; save an array of numbers")
    if dtype.fields is not None or dtype.subdtype is not None:
        raise ValueError(f"an array must hold numbers or text, got {dtype}")
    if any(not 0 <= side < 1 << 62 for side in shape):
        raise ValueError(f"an array must have a shape of whole numbers, got {shape}")
    count = math.prod(shape)
    needed = count * dtype.itemsize
    if needed > size or count > _MOST_VALUES:
        raise ValueError(f"it promises {needed:,} bytes of {count:,} values and has {size:,}")
    if needed > memory():
        raise ValueError(f"it needs {needed:,} bytes of memory, more than there is")
    values = np.zeros(count, dtype)
    whole = values.view(np.uint8) if dtype.itemsize else np.empty(0, np.uint8)
    got = 0
    while got < needed:
        piece = stream.read(min(needed - got, 1 << 24))
        if not piece:
            raise ValueError(f"it is cut: it promises {needed:,} bytes and has {got:,}")
        whole[got : got + len(piece)] = np.frombuffer(piece, np.uint8)
        got += len(piece)
    # Reads on to the end, so that the checksum of a zip member is checked.
    while stream.read(1 << 20) if not isinstance(stream, io.BufferedReader) else b"":
        pass
    if dtype.kind == "U" and needed and int(values.view(dtype.byteorder.replace("|", "=") + "u4").max()) > 0x10FFFF:
        raise ValueError("it holds text that is not Unicode")
    return values.reshape(shape[::-1]).T if fortran else values.reshape(shape)


def memory() -> int:
    """Returns the bytes of the machine's memory."""
    try:
        return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (ValueError, OSError):
        return 1 << 62
