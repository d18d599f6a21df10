"""Reads the inputs of `dsa-fast embed`: folders, lists, and crops of people from images and videos."""

from __future__ import annotations

import csv
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from torch import Tensor

from dsa_fast.data.folders import IMAGE_SUFFIXES
from dsa_fast.deploy.video import read_frames
from dsa_fast.extras import require
from dsa_fast.files import csv_columns, csv_errors
from dsa_fast.image import read_image

_BOX = ("x", "y", "w", "h")


@dataclass(frozen=True)
class Item:
    """One image to embed.

    Attributes:
        path: path of the image or video.
        frame: number of the video frame, from 0 in display order; None for an image.
        box: x, y, width and height of a crop in pixels of the upright image; None for the whole image.
    """

    path: Path
    frame: int | None = None
    box: tuple[int, int, int, int] | None = None


def find_items(source: str | os.PathLike[str]) -> list[Item]:
    """Lists the images of a source, in a fixed order.

    Args:
        source: a folder (with its subfolders), an image file, a text file with one path per line, or a CSV file. The
            CSV file has the columns `path`, or `video` and `frame` (from 0), and to crop people also x, y, w and h, in
            pixels. Paths in a file are relative to its folder. The rows of a video are sorted by frame. What is listed
            twice, such as a query that is in the gallery too, counts once.

    Raises:
        FileNotFoundError: there is no such source.
        ValueError: it lists no image, or a row is wrong; the message names the line.
    """
    source = Path(source)
    if source.suffix.lower() == ".csv" and source.is_file():
        return _read_table(source)
    return [Item(path) for path in find_images(source)]


def find_images(source: str | os.PathLike[str]) -> list[Path]:
    """Lists the images of a folder and its subfolders (sorted) or of a text file (one path per line), or a single one.

    Raises:
        FileNotFoundError: there is no such source.
        ValueError: there are no images.
    """
    source = Path(source)
    if source.is_dir():
        found = sorted(path for path in source.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    elif not source.is_file():
        raise FileNotFoundError(f"images must be a folder, a list or an image, got {source}: no such file or folder")
    elif source.suffix.lower() in IMAGE_SUFFIXES:
        found = [source]
    else:
        content = source.read_bytes()
        if b"\0" in content:
            raise ValueError(f"images must be a folder, an image, or a text file of paths, got {source}")
        lines = [os.fsdecode(line).strip() for line in content.split(b"\n")]
        found = [source.parent / line for line in lines if line]
    if not found:
        raise ValueError(f"images must hold at least one image, got none in {source}")
    return found


def _read_table(source: Path) -> list[Item]:
    with source.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file, csv_errors(source):
        reader = csv.DictReader(file)
        columns = set(reader.fieldnames or [])
        boxed = columns.issuperset(_BOX)
        if not (columns >= {"path"} or columns >= {"video", "frame"}) or (not boxed and columns & set(_BOX)):
            raise ValueError(
                f"{source} must have the columns path, or video and frame, and all or none of x, y, w, h; "
                f"got {csv_columns(reader.fieldnames)}"
            )
        name = "video" if "video" in columns else "path"
        items = []
        for row in reader:
            try:
                frame = int(row["frame"]) if name == "video" else None
                x, y, w, h = (int(row[key]) for key in _BOX) if boxed else (0, 0, 1, 1)
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"{source}, line {reader.line_num}: frame and box must be whole numbers: {error}"
                ) from error
            if not row[name] or "\0" in row[name]:
                raise ValueError(f"{source}, line {reader.line_num}: needs the path of a {name}")
            if max(map(abs, (frame or 0, x, y, w, h))) >= 1 << 31:
                raise ValueError(f"{source}, line {reader.line_num}: frame and box must be below 2^31")
            if w < 1 or h < 1 or (frame is not None and frame < 0):
                raise ValueError(f"{source}, line {reader.line_num}: needs a {name}, frame >= 0, w >= 1 and h >= 1")
            items.append(Item(source.parent / row[name], frame, (x, y, w, h) if boxed else None))
    if not items:
        raise ValueError(f"{source} must list at least one image, got none")
    items = list(dict.fromkeys(items))
    if name == "video":  # each video is read once, from the beginning
        order = {path: place for place, path in enumerate(dict.fromkeys(item.path for item in items))}
        items.sort(key=lambda item: (order[item.path], item.frame or 0))
    return items


def read_items(items: Sequence[Item], *, workers: int = 2, ahead: int = 64) -> Iterator[Tensor | ValueError]:
    """Reads items in order. Yields uint8 [3, h, w] for each, or the error if it can't be read.

    Args:
        items: the items, with the frames of a video next to each other and in order, as from `find_items`.
        workers: number of threads that decode image files.
        ahead: number of files that are read in advance.
    """
    for is_video, group in groupby(items, key=lambda item: item.frame is not None):
        if is_video:
            for path, frames in groupby(group, key=lambda item: item.path):
                yield from _read_video(path, list(frames))
        else:
            yield from _read_files(list(group), workers, ahead)


def _read_files(items: Sequence[Item], workers: int, ahead: int) -> Iterator[Tensor | ValueError]:
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        waiting: deque[Future[Tensor | ValueError]] = deque()
        for item in items:
            waiting.append(pool.submit(_read_file, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        for each in waiting:
            yield each.result()


def _read_file(item: Item) -> Tensor | ValueError:
    try:
        return crop(read_image(item.path), item.box)
    except ValueError as error:
        return ValueError(str(error) if str(item.path) in str(error) else f"{item.path}: {error}")


def _read_video(path: Path, items: Sequence[Item]) -> Iterator[Tensor | ValueError]:
    require("av")
    rest = list(items)
    problem = ""
    try:
        for number, picture in read_frames(path, lambda number: bool(rest) and rest[0].frame == number):
            while rest and rest[0].frame == number:
                item = rest.pop(0)
                try:
                    yield crop(picture, item.box)
                except ValueError as error:
                    yield ValueError(f"{path}, frame {number}: {error}")
            if not rest:
                break
    except ValueError as error:
        problem = f": {error}"
    for item in rest:
        yield ValueError(f"{path} must have the frame {item.frame}, and it could not be read{problem}")


def crop(image: Tensor, box: tuple[int, int, int, int] | None) -> Tensor:
    """Crops a box (x, y, width, height) from uint8 [3, H, W]. The box is clipped to the image.

    Raises:
        ValueError: the box is completely outside the image.
    """
    if box is None:
        return image
    x, y, w, h = box
    height, width = image.shape[1:]
    cut = image[:, max(y, 0) : max(min(y + h, height), 0), max(x, 0) : max(min(x + w, width), 0)]
    if cut.numel() == 0:
        raise ValueError(f"the box must touch the image of {width} x {height} pixels, got x, y, w, h = {box}")
    return cut.contiguous()
