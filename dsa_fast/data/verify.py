"""Decodes every image and IUV map before training starts, so a broken file does not stop epoch 40."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from dsa_fast.data.people import Person
from dsa_fast.data.progress import progress_bar
from dsa_fast.densepose.iuv import Order, read_iuv
from dsa_fast.densepose.iuv_store import in_store
from dsa_fast.device import usable_cores
from dsa_fast.files import read_json, write_json
from dsa_fast.image import read_picture

__all__ = ["decoding_threads", "digest_files", "verify_files"]

_CHUNK = 64
_SHOWN = 10


def verify_files(
    people: Iterable[Person],
    *,
    with_iuv: bool = True,
    iuv_order: Order = "auto",
    stamp: Path | None = None,
    workers: int | None = None,
    progress: bool = False,
) -> bool:
    """Decodes all files of people, in threads, and raises if any can't be used.

    Args:
        people: the people. A file that appears twice is read once.
        with_iuv: read the IUV maps too, and check that they have their images' sizes.
        iuv_order: channel order of the maps' files, see `read_iuv`.
        stamp: file that records a successful check. As long as all paths, sizes and modification times are the same,
            the next check with this stamp decodes nothing.
        workers: number of threads; by default one per core, at most 8.
        progress: show a progress bar.

    Returns:
        Whether files were decoded (False if the stamp was valid).

    Raises:
        ValueError: files are missing or broken; the message names the first ten and counts them all.
    """
    files = list(dict.fromkeys((person.path, person.iuv_path if with_iuv else None) for person in people))
    digest, missing = digest_files(files, iuv_order)
    if missing:
        raise ValueError(_complaint(missing, len(files)))
    if stamp is not None and _stamped(stamp) == digest:
        return False
    chunks = [files[i : i + _CHUNK] for i in range(0, len(files), _CHUNK)]
    bad: list[str] = []
    with (
        progress_bar("checking files", len(files), progress) as advance,
        ThreadPoolExecutor(decoding_threads(workers)) as pool,
    ):
        for chunk, complaints in zip(chunks, pool.map(partial(_check, iuv_order), chunks), strict=True):
            bad += complaints
            advance(len(chunk))
    if bad:
        raise ValueError(_complaint(bad, len(files)))
    if stamp is not None:
        write_json(stamp, {"files": len(files), "sha256": digest})
    return True


def decoding_threads(workers: int | None = None) -> int:
    """Returns the number of threads that decode files: `workers`, or one per core, at most 8."""
    if workers is not None:
        return max(workers, 1)
    return min(usable_cores(), 8)


def digest_files(files: Sequence[tuple[Path, Path | None]], iuv_order: str) -> tuple[str, list[str]]:
    """Returns a digest of all paths, sizes and modification times, and complaints about missing files."""
    state, missing = hashlib.sha256(iuv_order.encode()), []
    for pair in files:
        for path in pair:
            if path is None:
                state.update(b"-\n")
                continue
            try:
                stored = in_store(path)
                about = (path if stored is None else stored[0].path).stat()
            except OSError as error:
                missing.append(f"{path}: {error.strerror}")
            else:
                state.update(f"{path}\0{about.st_size}\0{about.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return state.hexdigest(), missing


def _stamped(stamp: Path) -> str | None:
    try:
        return str(read_json(stamp)["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _check(iuv_order: Order, files: Sequence[tuple[Path, Path | None]]) -> list[str]:
    complaints = []
    for path, iuv_path in files:
        try:
            width, height = read_picture(path).size
        except ValueError as error:
            complaints.append(str(error))
            continue
        if iuv_path is not None:
            try:
                read_iuv(iuv_path, order=iuv_order, size=(height, width))
            except (ValueError, OSError) as error:
                complaints.append(str(error))
    return complaints


def _complaint(bad: list[str], total: int) -> str:
    shown = "\n".join(f"  {each}" for each in bad[:_SHOWN])
    rest = f"\n  ... and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
    return f"{len(bad)} of {total} files can't be used\n{shown}{rest}"
