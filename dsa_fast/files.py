"""Writes files atomically, and computes their checksums."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["atomic_path", "checksum", "remove_left_over", "write_json"]


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary name in `path`'s folder. The file written there gets `path`'s name at the end of the block.

    Creates parent folders. If the block raises, `path` stays as it was and the temporary file is removed. The
    temporary name keeps the suffix, because image libraries use it to choose the format.

    Args:
        path: the final file.

    Yields:
        The temporary path to write to.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem}.{os.getpid()}-{secrets.token_hex(4)}{target.suffix}")
    try:
        yield temporary
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes a value as a JSON file, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


_TEMPORARY = re.compile(r"^\..*\.\d+-[0-9a-f]{8}(\.[^.]*)?$")


def remove_left_over(folder: str | os.PathLike[str], before: float) -> int:
    """Removes the temporary files that killed writers left in a folder and its subfolders.

    Args:
        folder: the folder where `atomic_path` was used.
        before: seconds since the epoch. Only files last changed before it are removed, so the files of running
            writers stay.

    Returns:
        The number of removed files.
    """
    removed = 0
    for place, _, names in os.walk(folder):
        for name in filter(_TEMPORARY.match, names):
            path = Path(place) / name
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < before:
                    path.unlink()
                    removed += 1
    return removed


def checksum(path: str | os.PathLike[str]) -> str:
    """Returns the SHA-256 of a file in hexadecimal."""
    with Path(path).open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
