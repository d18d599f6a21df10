"""Writes synthetic people in Market-1501's layout."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path

import torch
from PIL import Image

from dsa_fast.configs.synth import SynthConfig
from dsa_fast.densepose.iuv import write_iuv
from dsa_fast.device import usable_cores
from dsa_fast.files import is_free, locked, replace_folder, temporary_folder
from dsa_fast.image import save_image

from .person import outfit_of, render_picture

__all__ = ["VERSION", "Entry", "entries", "make_dataset"]

#: Version of the renderer. Within a version, the same configuration and seed give the same pictures.
VERSION = 1

TRAIN, QUERY, GALLERY = "bounding_box_train", "query", "bounding_box_test"

_STRANGERS = 1_000_000  # first number of identities that appear only as distractors
_INLINE = 150  # for so few pictures, starting processes takes longer than rendering


@dataclass(frozen=True)
class Entry:
    """One picture of a data set.

    Attributes:
        split: its folder.
        pid: pid in its name; 0 is a distractor, -1 junk.
        camid: camera in its name.
        frame: frame in its name.
        number: number of the rendered identity.
        index: index of the picture for this identity and camera.
        kind: as in `render_picture`.
        outfit: number of the outfit in its name, from 1.
    """

    split: str
    pid: int
    camid: int
    frame: int
    number: int
    index: int
    kind: str = "person"
    outfit: int = 1

    @property
    def stem(self) -> str:
        """The name without suffix: PID_cCAMsOUTFIT_FRAME_INDEX, as in 0002_c1s1_000451_03."""
        pid = f"{self.pid:04d}" if self.pid >= 0 else str(self.pid)
        return f"{pid}_c{self.camid}s{self.outfit}_{self.frame:06d}_{self.index % 100:02d}"


def entries(config: SynthConfig) -> list[Entry]:
    """Lists all pictures of a data set, in a fixed order.

    Identities 1..ceil(n/2) are for training, the others for testing. Each camera's first picture of a test identity is
    a query. The others are in the gallery.
    """
    result: list[Entry] = []
    split_at = (config.identities + 1) // 2
    gallery = 0
    for pid in range(1, config.identities + 1):
        for camid in range(1, config.cameras + 1):
            for index in range(config.images_per_camera):
                split = TRAIN if pid <= split_at else GALLERY if index else QUERY
                gallery += split == GALLERY
                kind, outfit = "query" if split == QUERY else "person", outfit_of(config, pid, camid)
                result.append(Entry(split, pid, camid, len(result) + 1, pid, index, kind, outfit))
    for k in range(round(config.distractors * gallery)):
        # Three out of four show people without a match, the fourth an empty box.
        kind = "empty" if k % 4 == 3 else "person"
        camid = 1 + k % config.cameras
        number = _STRANGERS + k // (2 * config.cameras)
        outfit = outfit_of(config, number, camid)
        result.append(Entry(GALLERY, 0, camid, len(result) + 1, number, k, kind, outfit))
    for k in range(round(config.junk * gallery)):
        number = split_at + 1 + k % (config.identities - split_at)
        camid = 1 + k % config.cameras
        outfit = outfit_of(config, number, camid)
        result.append(Entry(GALLERY, -1, camid, len(result) + 1, number, 1000 + k, "junk", outfit))
    return result


def make_dataset(
    out: str | os.PathLike[str],
    config: SynthConfig | None = None,
    *,
    overwrite: bool = False,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    finish: Callable[[Path], None] | None = None,
) -> Path:
    """Renders a data set. The same configuration gives the same bytes for any number of processes.

    The folder contains `bounding_box_train`, `query` and `bounding_box_test` with JPEGs (4:4:4), `iuv/` with the same
    subfolders and an IUV map for each image, and `synth.json` (version and configuration). The folder is created
    atomically: an interrupted call leaves nothing behind.

    Args:
        out: the folder.
        config: the settings; by default those of `SynthConfig()`.
        overwrite: whether to replace a data set made by this function.
        workers: number of processes; by default one per available core. Small sets are rendered in this process.
        progress: called with the number of finished pictures and the total.
        finish: called with the whole folder before it gets its name, to add files.

    Returns:
        The folder.

    Raises:
        BlockingIOError: another process is making `out`; the message names it.
        FileExistsError: `out` is not empty, and `overwrite` is not set or `out` is not a synthetic data set.
        ValueError: `workers` is less than 1.
    """
    out, config = Path(out), config or SynthConfig()
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    todo = entries(config)
    workers = workers or usable_cores()
    with locked(out):
        _check_free(out, overwrite)
        with temporary_folder(out) as work:
            new = work / "new"
            for split in (TRAIN, QUERY, GALLERY):
                (new / split).mkdir(parents=True)
                (new / "iuv" / split).mkdir(parents=True)
            done = 0
            for count in _render_all(new, config, todo, workers):
                done += count
                if progress is not None:
                    progress(done, len(todo))
            about = {"format": "dsa_fast synthetic people", "version": VERSION, "config": config.as_dict()}
            (new / "synth.json").write_text(json.dumps(about, indent=2) + "\n")
            if finish is not None:
                finish(new)
            _check_free(out, overwrite)
            replace_folder(new, out)
    return out


def _check_free(out: Path, overwrite: bool) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise FileExistsError(f"out must be a folder, got the file {out}")
    if is_free(out):
        return
    if not overwrite:
        raise FileExistsError(f"out must be new or empty, got {out} (--overwrite replaces a synthetic data set there)")
    if not (out / "synth.json").is_file():
        raise FileExistsError(f"out is overwritten only if it is a synthetic data set, got {out} without a synth.json")


def _render_all(work: Path, config: SynthConfig, todo: list[Entry], workers: int) -> Iterator[int]:
    """Renders all pictures. Yields the number of finished ones from time to time."""
    # Pictures of an identity stay together, so its textures and body are made only once.
    tasks = [list(group) for group in _chunks(todo, 16)]
    if workers == 1 or len(todo) <= _INLINE:
        for task in tasks:
            yield _render_some(work, config, task)
        return
    # "spawn": PyTorch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(tasks)), mp_context=context, initializer=_prepare_worker)
    try:
        for future in as_completed([pool.submit(_render_some, work, config, task) for task in tasks]):
            yield future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _chunks(todo: Sequence[Entry], most: int) -> Iterable[list[Entry]]:
    chunk: list[Entry] = []
    for entry in todo:
        if chunk and ((len(chunk) >= most and entry.number != chunk[-1].number) or len(chunk) >= 4 * most):
            yield chunk
            chunk = []
        chunk.append(entry)
    if chunk:
        yield chunk


def _prepare_worker() -> None:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process handles it
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    """Ends this process when its parent has ended: a killed parent can't tell it to."""
    wait([sentinel])
    os._exit(1)


def _render_some(work: Path, config: SynthConfig, todo: Sequence[Entry]) -> int:
    for entry in todo:
        picture, iuv = render_picture(config, entry.number, entry.camid, entry.index, kind=entry.kind)
        path = work / entry.split / f"{entry.stem}.jpg"
        save_image(Image.fromarray(picture), path, quality=config.jpeg_quality, subsampling=0)
        write_iuv(work / "iuv" / entry.split / f"{entry.stem}.png", torch.from_numpy(iuv.transpose(2, 0, 1)))
    return len(todo)
