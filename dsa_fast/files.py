"""Writes files atomically, clears what killed processes left, locks outputs, and computes checksums."""

from __future__ import annotations

import contextlib
import csv
import ctypes
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import stat
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import filelock

__all__ = [
    "atomic_path",
    "check_regular",
    "checksum",
    "csv_columns",
    "csv_errors",
    "is_free",
    "is_left_over",
    "locked",
    "read_json",
    "remove_left_over",
    "replace_folder",
    "temporary_folder",
    "utf8_name",
    "write_json",
]

_DAY = 86400.0
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str], *, sync: bool = False) -> Iterator[Path]:
    """Yields a temporary name in `path`'s folder. The file written there gets `path`'s name at the end of the block.

    Creates parent folders. If the block raises, `path` stays as it was and the temporary file is removed. The
    temporary name keeps the suffix, because image libraries use it to choose the format. The first call in a folder
    removes the temporary files there whose process is gone.

    Args:
        path: the final file.
        sync: waits until the file and its name are on the disk.

    Yields:
        The temporary path to write to.

    Raises:
        OSError: the file can't be written, such as on a full disk; the message names `path`.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _temporary_name(target, target.suffix) as temporary:
        try:
            try:
                yield temporary
                if sync:
                    _sync(temporary)
                temporary.replace(target)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    why = os.strerror(error.errno or 0)
                    raise OSError(error.errno, f"{why}, what was there before is kept", str(target)) from error
                raise
            if sync:
                _sync(target.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def temporary_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a new folder next to `path`, on the same disk. It is removed at the end of the block, with its content.

    The first call in a folder removes the temporary folders there whose process is gone.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _temporary_name(target, "") as folder:
        try:
            folder.mkdir()
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def replace_folder(new: Path, target: Path) -> None:
    """Gives a folder the name `target`. A folder that has this name gets the name of the new one.

    Linux does both in one step, so that a killed process leaves either folder there.
    """
    if not target.exists():
        new.rename(target)
        return
    exchange = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if exchange is None or exchange(_HERE, os.fsencode(new), _HERE, os.fsencode(target), _EXCHANGE):
        old = new.with_name(f"{new.name}.old")
        target.rename(old)
        new.rename(target)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _sync(path: Path) -> None:
    place = os.open(path, os.O_RDONLY)
    try:
        os.fsync(place)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems can't sync folders
            raise
    finally:
        os.close(place)


def write_json(path: str | os.PathLike[str], value: Any, *, sync: bool = False) -> None:
    """Writes a value as a JSON file, whole or not at all."""
    with atomic_path(path, sync=sync) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


@contextlib.contextmanager
def utf8_name(path: str | os.PathLike[str], *, write: bool = False) -> Iterator[str]:
    """Yields a name of a file or folder for libraries that take only names in UTF-8.

    It is the path itself if that is UTF-8, and else the name of an open descriptor, which is valid during the block.

    Args:
        path: a file, or a folder that exists.
        write: makes the file if there is none.

    Raises:
        OSError: it can't be opened; only for names that are not UTF-8.
    """
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        place = os.open(path, os.O_WRONLY | os.O_CREAT if write else os.O_RDONLY, 0o666)
        try:
            yield f"/dev/fd/{place}"
        finally:
            os.close(place)
    else:
        yield os.fspath(path)


# ------------------------------------------------------------------------- what killed processes leave

# .STEM.PROCESS-TOKEN.SUFFIX; the token begins with the machine.
_TEMPORARY = re.compile(r"^\..*\.(\d+)-([0-9a-f]{4})([0-9a-f]{4})(\.[^.]*)?$", re.DOTALL)
_in_use: set[str] = set()  # names of this process
_swept: set[str] = set()  # folders


def _machine() -> str:
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        return f"{zlib.crc32((socket.gethostname() + boot).encode()) & 0xFFFF:04x}"
    return f"{zlib.crc32(socket.gethostname().encode()) & 0xFFFF:04x}"


@contextlib.contextmanager
def _temporary_name(target: Path, suffix: str) -> Iterator[Path]:
    folder = os.path.abspath(target.parent)  # noqa: PTH100 - resolves no links
    if folder not in _swept:
        _swept.add(folder)
        remove_left_over(folder, deep=False)
    stem = target.name.removesuffix(suffix) if suffix else target.name
    name = f".{_shortened(stem)}.{os.getpid()}-{_machine()}{secrets.token_hex(2)}{suffix}"
    _in_use.add(name)
    try:
        yield target.with_name(name)
    finally:
        _in_use.discard(name)


def _shortened(stem: str) -> str:
    """Shortens a stem, so that the temporary name fits a file system that allows 255 bytes."""
    encoded = os.fsencode(stem)
    return stem if len(encoded) <= 180 else os.fsdecode(encoded[:180])


def is_left_over(path: Path) -> bool:
    """Returns whether a file or folder is a temporary one of `atomic_path` or `temporary_folder` without a process.

    A process of another machine counts as gone after a day.
    """
    found = _TEMPORARY.match(path.name)
    if found is None:
        return False
    process, machine = int(found[1]), found[2]
    if machine != _machine():
        try:
            return path.lstat().st_mtime < time.time() - _DAY
        except OSError:
            return False
    if process == os.getpid():
        return path.name not in _in_use
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def is_free(folder: Path) -> bool:
    """Returns whether a folder is missing or holds nothing but locks and what killed processes left."""
    if not folder.exists():
        return True
    return folder.is_dir() and all(path.name == ".lock" or is_left_over(path) for path in folder.iterdir())


def remove_left_over(folder: str | os.PathLike[str], *, deep: bool = True) -> int:
    """Removes the temporary files and folders that killed processes left in a folder.

    Args:
        folder: the folder where `atomic_path` or `temporary_folder` was used.
        deep: also looks into its subfolders.

    Returns:
        The number of removed files and folders.
    """
    removed = 0
    for place, folders, names in os.walk(folder):
        for name in [name for name in (*names, *folders) if name.startswith(".")]:
            path = Path(place) / name
            if is_left_over(path):
                with contextlib.suppress(OSError):
                    if name in folders:
                        folders.remove(name)
                        shutil.rmtree(path, ignore_errors=True)
                    else:
                        path.unlink()
                    removed += 1
        if not deep:
            break
    return removed


# ------------------------------------------------------------------------------------------- two processes

_held: set[tuple[str, int]] = set()  # paths of locks, and the threads that have them


@contextlib.contextmanager
def locked(output: str | os.PathLike[str], *, folder: bool = False) -> Iterator[None]:
    """Keeps other processes from writing the same output during the block.

    The lock is the hidden file `.NAME.lock` next to the output, or `.lock` in it if it is a folder. It is removed at
    the end of the block, with new folders that stayed empty. The lock of a killed process holds nobody up. A thread may
    lock again what it has locked.

    Args:
        output: the file or folder to write.
        folder: `output` is a folder, which is made.

    Raises:
        BlockingIOError: another process has the lock; the message names it.
        OSError: the lock's file can't be made.
    """
    target = Path(output)
    path = target / ".lock" if folder else target.with_name(f".{_shortened(target.name)}.lock")
    held = (str(path.absolute()), threading.get_ident())
    if held in _held:
        yield
        return
    place = target if folder else target.parent
    new = [each for each in (place, *place.parents) if not each.exists()]
    place.mkdir(parents=True, exist_ok=True)
    while True:
        places: list[int] = []
        lock = filelock.FileLock(path, timeout=0, on_acquired=places.append)
        try:
            lock.acquire()
        except filelock.Timeout:
            try:
                holder = path.read_text(errors="replace").strip() or "another process"
            except OSError:
                holder = "another process"
            raise BlockingIOError(f"{target} is in use by {holder}: wait until it ends, or choose another") from None
        with contextlib.suppress(OSError):
            # The last holder may have removed the file between opening and locking it.
            if not places or os.fstat(places[0]).st_ino == path.stat().st_ino:
                break
        lock.release()
    command = "dsa-fast" if len(sys.argv) < 2 else f"dsa-fast {sys.argv[1]}"
    _held.add(held)
    try:
        path.write_text(f"process {os.getpid()} on {socket.gethostname()} ({command})\n")
        yield
    finally:
        _held.discard(held)
        path.unlink(missing_ok=True)
        lock.release()
        for each in new:
            with contextlib.suppress(OSError):  # it is not empty
                each.rmdir()


# ------------------------------------------------------------------------------------------------ reading


def check_regular(path: str | os.PathLike[str]) -> None:
    """Checks that a path is a regular file: reading a pipe or a device may never end.

    Raises:
        OSError: there is no such file, or its folder can't be read.
        ValueError: it is another kind of file.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 - also takes names that a Path would change
        raise ValueError(f"{path} must be a regular file, got a folder, a pipe or a device")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Reads a JSON file.

    Raises:
        OSError: there is no such file, or it can't be read.
        ValueError: it is no regular file, or not JSON; the message names it.
    """
    try:
        check_regular(path)
        return json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError, MemoryError) as error:  # also text that is not UTF-8
        raise ValueError(f"{path} must be JSON, got: {_first_line(error)}") from error


@contextlib.contextmanager
def csv_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns errors of Python's CSV reader in the block into ValueError with the file's name."""
    try:
        yield
    except (csv.Error, UnicodeError) as error:
        raise ValueError(f"{path} must be a CSV file, got: {error}") from error


def csv_columns(names: Sequence[str] | None) -> str:
    """Returns a CSV file's columns for an error, with a hint if something other than commas separates them."""
    text = ", ".join(names or ()) or "none"
    other = next((name for mark, name in _SEPARATORS.items() if mark in text), None) if len(names or ()) == 1 else None
    return text if other is None else f"{text.strip()}: columns must be separated by commas, not by {other}"


_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


def checksum(path: str | os.PathLike[str]) -> str:
    """Returns the SHA-256 of a file in hexadecimal."""
    with Path(path).open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
