"""`dsa-fast crops`."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

from dsa_fast.cli.progress import image_progress
from dsa_fast.files import atomic_path, csv_errors, replace_folder, temporary_folder
from dsa_fast.terminal import console as open_console

if TYPE_CHECKING:
    from dsa_fast.deploy.tracks import Track

_TABLE = "people.csv"
_COLUMNS = ("path", "pid", "camid", "images", "first_frame", "last_frame")


def crops(
    video: Path,
    *,
    out: Path,
    detector: str = "torchvision",
    weights: Path | None = None,
    camera: str | None = None,
    every: int = 5,
    min_score: float = 0.6,
    min_height: int = 64,
    min_images: int = 3,
    min_iou: float = 0.3,
    patience: int = 5,
    size: int = 640,
    device: str = "auto",
    overwrite: bool = False,
) -> None:
    """Crop the people of a video, one folder per track, and list the tracks in a CSV file to label.

    The file `people.csv` in `out` has a row per track, whose `pid` is the track's own. Give the tracks of one person
    the same `pid`, and remove rows that are wrong. All commands then read `out` as a data set. Videos of other cameras
    are added to it. Tracks follow boxes that overlap; people who cross or hide may swap or get new tracks.

    Args:
        video: the video file; needs PyAV (pip install av).
        out: folder of the crops and of people.csv.
        detector: `torchvision` (Faster R-CNN with MobileNetV3), or an ONNX file as torchvision or YOLO exports it; see
            `OnnxDetector`.
        weights: torchvision: a file of its weights, which are downloaded otherwise.
        camera: the camera's name, which is its folder in `out` and its `camid`; by default the video's name.
        every: looks at each frame whose number can be divided by this. Images of successive frames are nearly the same.
        min_score: least score of a person, 0 to 1.
        min_height: least height of a person, pixels.
        min_images: least number of images of a track.
        min_iou: least overlap of a person's boxes in two frames that are looked at.
        patience: frames that are looked at after which a person who is not seen gets a new track.
        size: height and width of the input of an ONNX file that takes any size.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, for torchvision's network.
        overwrite: replace the crops and the rows of this camera, and with them its labels.

    Examples:
        dsa-fast crops door.mp4 --out crops --weights fasterrcnn_mobilenet_v3_large_fpn-fb6a3cc7.pth
        dsa-fast crops yard.mp4 --out crops --detector yolo.onnx --every 10
    """
    from dsa_fast.deploy.detectors import load_detector
    from dsa_fast.deploy.tracks import Tracker, write_crops
    from dsa_fast.deploy.video import count_frames, read_frames
    from dsa_fast.device import pick_device

    for name, value in (("every", every), ("min_height", min_height), ("min_images", min_images)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if not 0 <= min_score <= 1:
        raise ValueError(f"min_score must be in 0..1, got {min_score}")
    if not video.is_file():
        if video.is_dir():
            raise ValueError(f"video must be a file, got the folder {video}")
        raise FileNotFoundError(f"video must be a file, got {video}: no such file")
    camera = video.stem if camera is None else camera
    if not camera.strip() or camera != camera.strip() or camera.startswith(".") or "/" in camera or "\\" in camera:
        raise ValueError(f"camera must be a name for a folder, got {camera!r}")
    if camera == "iuv":
        raise ValueError("camera must not be iuv, which is the folder of the maps")
    place = out / camera
    rows = _read_rows(out / _TABLE)
    if place.exists() and not overwrite:
        raise FileExistsError(f"out must have no crops of the camera {camera}, got {place} (--overwrite replaces them)")
    tracker = Tracker(min_iou, patience)
    total = count_frames(video)
    network = load_detector(detector, weights=weights, device=pick_device(device), size=size)
    with temporary_folder(place) as work, image_progress("finding people") as show:
        new = work / "new"
        new.mkdir()
        tracks = write_crops(
            read_frames(video, lambda number: number % every == 0),
            network,
            new,
            min_score=min_score,
            min_height=min_height,
            min_images=min_images,
            tracker=tracker,
            progress=lambda number: show(number + 1, max(total, number + 1)),
        )
        if not tracks:
            raise ValueError(
                f"{video} must show people whom the detector finds, got no track of {min_images} images: see "
                "--min_score, --min_height and --every"
            )
        kept = [row for row in rows if row["camid"] != camera]
        # Rows come first: after a kill in between, there is no folder in the way of the same command.
        _write_rows(out / _TABLE, [*kept, *(_row(camera, track) for track in tracks)])
        replace_folder(new, place)
    images = sum(len(track.sights) for track in tracks)
    console = open_console()
    console.print(f"{len(tracks)} tracks with {images} images in {place}", soft_wrap=True)
    console.print(
        f"Now give the tracks of one person the same pid in {out / _TABLE}, and remove wrong rows. Then: "
        f"dsa-fast split {out / _TABLE}",
        soft_wrap=True,
    )


def _row(camera: str, track: Track) -> dict[str, str]:
    return {
        "path": f"{camera}/{track.name}",
        "pid": f"{camera}-{track.number:04d}",
        "camid": camera,
        "images": str(len(track.sights)),
        "first_frame": str(track.sights[0].frame),
        "last_frame": str(track.sights[-1].frame),
    }


def _read_rows(path: Path) -> list[dict[str, str]]:
    """Reads the rows of other cameras, with their labels."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file, csv_errors(path):
        reader = csv.DictReader(file)
        if not {"path", "pid", "camid"} <= set(reader.fieldnames or ()):
            raise ValueError(f"{path} must be a file of dsa-fast crops, got the columns {reader.fieldnames or 'none'}")
        return [{column: row.get(column) or "" for column in _COLUMNS} for row in reader]


def _write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    with (
        atomic_path(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.DictWriter(file, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
