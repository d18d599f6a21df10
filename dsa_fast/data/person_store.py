"""Keeps a whole training set as bytes in memory, on the training device if it fits, so the loop reads no files.

`PersonStore.open` decodes all people once, in threads, and saves the result in a folder. The next run maps it into
memory. `choose_place` selects its place by its size and the free memory. `StoreLoader` yields the batches of an epoch.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dsa_fast.data.dataset import PersonBatch
from dsa_fast.data.people import Person
from dsa_fast.data.progress import progress_bar, say
from dsa_fast.data.sampler import PKSampler
from dsa_fast.data.transforms import resize
from dsa_fast.data.verify import decoding_threads, digest_files
from dsa_fast.densepose.iuv import Order, read_iuv, resize_iuv
from dsa_fast.files import atomic_path, read_json, remove_left_over, write_json
from dsa_fast.image import image_size, read_image

__all__ = ["PersonStore", "Place", "StoreLoader", "choose_place", "measure", "say"]

#: Where the people are kept: the training device, (pinned) host memory, or the cache files.
Place = Literal["device", "pinned", "disk"]

_FORMAT = "dsa_fast.store"
_VERSION = 1
_CHUNK = 64
_MANIFEST = "manifest.json"
# Share of free memory that a store may use. The network needs the rest.
_DEVICE_SHARE = 0.25
_HOST_SHARE = 0.5


def measure(people: Sequence[Person], size: tuple[int, int], workers: int | None = None) -> tuple[int, int]:
    """Returns the height and width of the store: the images' own if all have one size when upright, else `size`.

    Raises:
        ValueError: a file is missing or not an image; the message names it.
    """
    chunks = [people[i : i + _CHUNK] for i in range(0, len(people), _CHUNK)]
    with ThreadPoolExecutor(decoding_threads(workers)) as pool:
        sizes = set().union(*pool.map(lambda chunk: {image_size(person.path) for person in chunk}, chunks))
    return sizes.pop() if len(sizes) == 1 else size


def choose_place(num_bytes: int, device: torch.device, processes: int = 1) -> tuple[Place, str]:
    """Returns the place of a store of `num_bytes`, and the reason.

    The place is the device if the store fits in a quarter of its free memory. Otherwise it is host memory if the store
    fits in half of the free host memory (shared by all processes of this machine). Otherwise it is the files. On a CPU,
    the device's memory is the host's. Pinned memory counts with what PyTorch adds to it.

    Args:
        num_bytes: size of the store.
        device: the training device.
        processes: number of training processes that share this machine's memory.
    """
    tried: list[str] = []
    host = _free_host_bytes()
    limits: list[tuple[Place, int, float, str]] = []
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        words = f"a quarter of the {_gigabytes(free)} free on {device}"
        limits.append(("device", num_bytes, _DEVICE_SHARE * free, words))
    if host is not None:
        place: Place = "pinned" if device.type == "cuda" else "device"
        share = f" for each of {processes} processes" if processes > 1 else ""
        needed = _pinned_bytes(num_bytes) if place == "pinned" else num_bytes
        limits.append((place, needed, _HOST_SHARE * host / processes, f"half of the {_gigabytes(host)} free{share}"))
    for place, needed, limit, words in limits:
        what = _gigabytes(num_bytes) + (f" ({_gigabytes(needed)} when pinned)" if needed != num_bytes else "")
        if needed <= limit:
            return place, "; ".join([*tried, f"{what} fit in {words}"])
        tried.append(f"{what} do not fit in {words}")
    return "disk", "; ".join(tried) or "the free memory is not known"


def _pinned_bytes(num_bytes: int) -> int:
    """Returns what `PersonStore.pin` takes. PyTorch rounds each of its two halves up to a power of two."""
    half = -(-num_bytes // 2)
    return 2 * 2 ** (half - 1).bit_length() if half else 0


def _free_host_bytes() -> int | None:
    """Returns the free memory of the host; None if the system does not report it."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _gigabytes(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.1f} MB"


@dataclass(frozen=True)
class PersonStore:
    """All people of a training set, in the order of their list.

    Attributes:
        images: uint8 [N, 3, h, w], RGB.
        iuv: uint8 [N, 3, h, w], channels I, U, V; all background if there is no map.
    """

    images: Tensor
    iuv: Tensor

    @property
    def num_bytes(self) -> int:
        """Its size in memory."""
        return self.images.numel() + self.iuv.numel()

    def __len__(self) -> int:
        return len(self.images)

    @classmethod
    def open(
        cls,
        people: Sequence[Person],
        size: tuple[int, int],
        *,
        iuv_order: Order = "auto",
        cache: Path | None = None,
        workers: int | None = None,
        progress: bool = False,
    ) -> PersonStore:
        """Decodes people in threads, or maps the result of an earlier call in `cache` into memory.

        If all images have the same size, they are stored unchanged. Otherwise each is resized to `size` (maps by
        nearest neighbor). The training transform would do the same first, so the network sees the same pixels.

        The cache is a folder for this list of people with `manifest.json` and one file of bytes. It is valid as long
        as all paths, sizes and modification times are the same; otherwise it is rebuilt. If it can't be written, or the
        disk is too full, the store stays in memory, and the log reports this.

        Args:
            people: the people.
            size: height and width of the network's input, for images of unequal sizes.
            iuv_order: channel order of the maps' files, see `read_iuv`.
            cache: folder for the caches of any number of lists; None for no cache.
            workers: number of threads; by default one per core, at most 8.
            progress: show a progress bar and messages.

        Raises:
            ValueError: there are no people, or a file is missing or broken; the message names it.
        """
        if not people:
            raise ValueError("people must not be empty")
        key, missing = digest_files([(person.path, person.iuv_path) for person in people], iuv_order)
        if missing:
            raise ValueError(f"{len(missing)} files can't be used, the first is {missing[0]}")
        folder = None if cache is None else cache / _folder_name(people, iuv_order)
        if folder is not None:
            store, complaint = _map(folder, key, len(people), size)
            if store is not None:
                say(f"store: {_gigabytes(store.num_bytes)} mapped from {folder}", progress)
                return store
            if complaint:
                say(f"store: {folder} is rebuilt: {complaint}", progress)
        height, width = measure(people, size, workers)
        fill = partial(_fill, people, iuv_order=iuv_order, workers=workers, progress=progress)
        shape = (2, len(people), 3, height, width)
        if folder is not None:
            try:
                room = shutil.disk_usage(_existing(folder)).free
                if room < 1.02 * np.prod(shape):
                    raise OSError(f"the disk has only {_gigabytes(room)} free")
                with _alone(folder, progress) as alone:
                    store, _ = _map(folder, key, len(people), size)  # another process may have made it
                    if store is not None:
                        return store
                    if alone:
                        remove_left_over(folder)
                    return _write(folder, key, shape, size, fill)
            except OSError as error:
                say(f"store: kept in memory only, because {folder} cannot be written: {error}", progress)
        memory = np.zeros(shape, np.uint8)
        fill(memory)
        return cls(*torch.from_numpy(memory).unbind())

    def to(self, device: torch.device) -> PersonStore:
        """Copies the store to a device.

        Raises:
            ValueError: the device has too little free memory.
        """
        if self.images.device == device:
            return self
        try:
            return PersonStore(self.images.to(device), self.iuv.to(device))
        except torch.OutOfMemoryError as error:
            raise ValueError(
                f"data.store device needs {_gigabytes(self.num_bytes)} on {device}, which has less free memory: "
                "choose auto, pinned or disk"
            ) from error

    def pin(self) -> PersonStore:
        """Copies the store to page-locked memory, which a GPU reads without the CPU."""
        return PersonStore(self.images.pin_memory(), self.iuv.pin_memory())


def _existing(folder: Path) -> Path:
    """Returns the nearest existing parent."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _folder_name(people: Sequence[Person], iuv_order: str) -> str:
    names = hashlib.sha256(iuv_order.encode())
    for person in people:
        names.update(f"{person.path.absolute()}\0{person.iuv_path}\n".encode(errors="surrogateescape"))
    return f"train-{names.hexdigest()[:16]}"


def _map(folder: Path, key: str, people: int, size: tuple[int, int]) -> tuple[PersonStore | None, str | None]:
    """Returns the store in a folder, or None and the reason (None if the folder has none)."""
    try:
        manifest: dict[str, Any] = read_json(folder / _MANIFEST)
    except FileNotFoundError:
        return None, None
    except (OSError, ValueError) as error:
        return None, f"its manifest cannot be read ({error})"
    try:
        if (manifest["format"], manifest["format_version"]) != (_FORMAT, _VERSION):
            return None, "it is of another version"
        if manifest["key"] != key or manifest["people"] != people:
            return None, "files have changed"
        if manifest["resized_to"] not in (None, list(size)):
            return None, f"its images were resized to {manifest['resized_to']}"
        shape = (2, people, 3, int(manifest["height"]), int(manifest["width"]))
        path = folder / str(manifest["file"])
        if path.parent != folder or path.stat().st_size != np.prod(shape):
            return None, f"{path.name} is not whole"
        mapped = np.memmap(path, np.uint8, "c", shape=shape)  # "c": writes stay in memory
    except (OSError, KeyError, TypeError, ValueError) as error:
        return None, f"{type(error).__name__}: {error}"
    return PersonStore(*torch.from_numpy(mapped).unbind()), None


@contextmanager
def _alone(folder: Path, progress: bool) -> Iterator[bool]:
    """Makes the folder and locks this block to one process. Yields False if the file system has no locks."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as file:
        try:
            fcntl: Any = import_module("fcntl")  # Windows has none
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"store: waiting for another process, which is writing {folder}", progress)
                fcntl.flock(file, fcntl.LOCK_EX)
            locked = True
        except (ImportError, OSError):
            locked = False
        yield locked


def _write(
    folder: Path, key: str, shape: tuple[int, ...], size: tuple[int, int], fill: Callable[[np.ndarray], None]
) -> PersonStore:
    """Writes a new file of bytes, which replaces the folder's old one."""
    num_bytes, (height, width) = int(np.prod(shape)), shape[-2:]
    name = f"people-{secrets.token_hex(4)}.bin"
    with atomic_path(folder / name) as temporary:
        with temporary.open("wb") as file:
            if hasattr(os, "posix_fallocate"):  # a disk that fills up later would kill the process
                os.posix_fallocate(file.fileno(), 0, num_bytes)
            else:
                file.truncate(num_bytes)
        mapped = np.memmap(temporary, np.uint8, "r+", shape=shape)
        fill(mapped)
        mapped.flush()
    store = PersonStore(*torch.from_numpy(np.memmap(folder / name, np.uint8, "c", shape=shape)).unbind())
    manifest = {
        "format": _FORMAT,
        "format_version": _VERSION,
        "file": name,
        "bytes": num_bytes,
        "key": key,
        "people": shape[1],
        "height": height,
        "width": width,
        "resized_to": list(size) if (height, width) == tuple(size) else None,
    }
    write_json(folder / _MANIFEST, manifest)
    for old in folder.glob("people-*.bin"):
        if old.name != name:
            old.unlink(missing_ok=True)
    return store


def _fill(people: Sequence[Person], to: np.ndarray, *, iuv_order: Order, workers: int | None, progress: bool) -> None:
    """Decodes people into `to`, uint8 [2, N, 3, h, w]: images, then maps. Missing maps are not written."""
    starts = range(0, len(people), _CHUNK)
    bar = progress_bar("reading people", len(people), progress)
    with bar as advance, ThreadPoolExecutor(decoding_threads(workers)) as pool:
        try:
            for done in pool.map(partial(_fill_chunk, people, to, iuv_order), starts):
                advance(done)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _fill_chunk(people: Sequence[Person], to: np.ndarray, iuv_order: Order, start: int) -> int:
    size = (int(to.shape[-2]), int(to.shape[-1]))
    chunk = people[start : start + _CHUNK]
    for n, person in enumerate(chunk, start):
        image = read_image(person.path)
        to[0, n] = resize(image[None], size)[0].numpy()
        if person.iuv_path is not None:
            iuv = read_iuv(person.iuv_path, order=iuv_order, size=(image.shape[1], image.shape[2]))
            to[1, n] = (iuv if iuv.shape == image.shape[:1] + size else resize_iuv(iuv, size)).numpy()
    return len(chunk)


class StoreLoader:
    """Yields the batches of an epoch from a store. It replaces a data loader.

    A store on the training device is not copied: a batch contains all people and its own indices, and `augment_batch`
    reads them in place. From host memory, a batch's people are copied to a CUDA device on a separate stream, two
    batches ahead of the step.

    Args:
        store: the people, on `device` or in host memory (pinned, for CUDA).
        labels: of each person, int64 [N].
        camids: of each person, int64 [N].
        batch_sampler: yields each batch's indices.
        device: the training device.
        whole: whether batches contain the whole store and indices; by default, if the store is on `device`.
        ahead: number of batches copied in advance.
    """

    def __init__(
        self,
        store: PersonStore,
        labels: Tensor,
        camids: Tensor,
        batch_sampler: PKSampler,
        device: torch.device,
        *,
        whole: bool | None = None,
        ahead: int = 2,
    ) -> None:
        self.store, self.labels, self.camids, self.batch_sampler = store, labels, camids, batch_sampler
        self.device, self.ahead = device, ahead
        self.whole = store.images.device == device if whole is None else whole

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[PersonBatch]:
        if self.whole:
            for indices in self.batch_sampler:
                yield {
                    "image": self.store.images,
                    "iuv": self.store.iuv,
                    "label": self.labels[indices],
                    "camid": self.camids[indices],
                    "index": np.asarray(indices),
                }
            return
        stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        waiting: deque[tuple[PersonBatch, torch.cuda.Event | None]] = deque()
        for indices in self.batch_sampler:
            waiting.append(self._copy(indices, stream))
            if len(waiting) > self.ahead:
                yield self._ready(*waiting.popleft())
        while waiting:
            yield self._ready(*waiting.popleft())

    def _copy(
        self, indices: Sequence[int], stream: torch.cuda.Stream | None
    ) -> tuple[PersonBatch, torch.cuda.Event | None]:
        with torch.cuda.stream(stream):
            image, iuv = (
                torch.empty((len(indices), *people.shape[1:]), dtype=torch.uint8, device=self.device)
                for people in (self.store.images, self.store.iuv)
            )
            for place, index in enumerate(indices):
                image[place].copy_(self.store.images[index], non_blocking=True)
                iuv[place].copy_(self.store.iuv[index], non_blocking=True)
            event = stream.record_event() if stream is not None else None
        batch: PersonBatch = {
            "image": image,
            "iuv": iuv,
            "label": self.labels[indices],
            "camid": self.camids[indices],
        }
        return batch, event

    def _ready(self, batch: PersonBatch, event: torch.cuda.Event | None) -> PersonBatch:
        if event is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(event)
            for tensor in (batch["image"], batch["iuv"]):
                tensor.record_stream(current)  # keeps its memory until the step has read it
        return batch
