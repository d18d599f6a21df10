"""The `track` suite of run.py: a short synthetic video of people who cross, tracked with and without vectors.

Synthetic test people walk to and fro in front of a street, turn at random, and hide each other. Their boxes are like
a detector's: shifted a little, some missed, none where most of a person is hidden. One plain tracker joins boxes to
tracks by the least cost (Hungarian method): 1 - IoU with the box at its last speed, or with vectors their distance,
if that is less and their cosine reaches the threshold for a false match rate of 1e-2, measured on other people. The
vectors also find lost tracks again. motmetrics scores the tracks: IDF1, and the number of identity switches. The
tracker is only there to compare.
"""

from __future__ import annotations

import argparse
import importlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import print_table, say
from infer import random_checkpoint
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

from dsa_fast.data.synth import SynthConfig, render_picture
from dsa_fast.data.transforms import resize
from dsa_fast.deploy.encoder import Encoder
from dsa_fast.evaluation import Embedded, histogram_features, match_rates

Embed = Callable[[NDArray[np.uint8]], NDArray[np.float32]]  # uint8 [N, H, W, 3] -> unit vectors [N, D]

_HEIGHT, _WIDTH = 128, 64  # of a person
_POSES = 6  # pictures of a person, one for four frames
_LOST = 60  # frames that a lost track is remembered


def add_options(group: Any) -> None:
    """The suite's own options."""
    group.add_argument("--reid", type=Path, help="the network: a checkpoint or an export (default: random weights)")
    group.add_argument("--first", type=int, default=81, help="number of the first person (default: %(default)s)")
    group.add_argument("--picture", type=Path, help="also draw the tracks into this file")


@dataclass(frozen=True)
class Video:
    """Frames, and in each the boxes (left, top, right, bottom) of a detector with the true people."""

    frames: list[NDArray[np.uint8]]
    boxes: list[NDArray[np.int64]]
    people: list[list[int]]


def make_video(config: SynthConfig, first: int, people: int, length: int, seed: int = 0) -> Video:
    """Renders the video: people first..first+people-1 in camera 1."""
    rng = np.random.default_rng(seed)
    height, width = 240, 640
    street = np.asarray(Image.fromarray(render_picture(config, 1, 1, 0, kind="empty")[0]).resize((width, height)))
    pictures = {p: [render_picture(config, p, 1, i) for i in range(_POSES)] for p in range(first, first + people)}
    place, speed = rng.uniform(0, width, people), rng.choice([-1, 1], people) * rng.uniform(3, 8, people)
    depth = np.sort(rng.uniform(0, height - _HEIGHT, people))  # later people are in front
    frames, boxes, found = [], [], []
    for t in range(length):
        frame, owner = street.copy(), np.full((height, width), -1)
        places, area = [], []
        speed = np.where(rng.random(people) < 0.03, -speed, speed)  # some turn
        place = place + speed
        for i in range(people):
            span = width - _WIDTH
            way = place[i] % (2 * span)  # to and fro
            x, y = int(span - abs(way - span)), int(depth[i])
            picture, iuv = pictures[first + i][t // 4 % _POSES]
            body = iuv[..., 0] > 0
            frame[y : y + _HEIGHT, x : x + _WIDTH][body] = picture[body]
            owner[y : y + _HEIGHT, x : x + _WIDTH][body] = i
            places.append((x, y, x + _WIDTH, y + _HEIGHT))
            area.append(max(int(body.sum()), 1))
        seen = [i for i in range(people) if (owner == i).sum() > 0.35 * area[i] and rng.random() > 0.05]
        frames.append(frame)
        noise = rng.normal(0, 2, (len(seen), 4)).round().astype(int)
        boxes.append(np.array([places[i] for i in seen]).reshape(-1, 4) + noise)
        found.append([first + i for i in seen])
    return Video(frames, boxes, found)


def crops(frame: NDArray[np.uint8], boxes: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Cuts boxes out of a frame: uint8 [N, 128, 64, 3]."""
    parts = []
    for left, top, right, bottom in boxes:
        part = np.ascontiguousarray(frame[max(top, 0) : bottom, max(left, 0) : right])
        parts.append(resize(torch.from_numpy(part).permute(2, 0, 1)[None], (_HEIGHT, _WIDTH)))
    return torch.cat(parts).permute(0, 2, 3, 1).numpy() if parts else np.zeros((0, _HEIGHT, _WIDTH, 3), np.uint8)


def overlap(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Returns the IoU of boxes [N, 4] and [M, 4]: [N, M]."""
    corner = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.clip(corner[1] - corner[0], 0, None).prod(axis=2)
    areas = [(each[:, 2:] - each[:, :2]).prod(axis=1) for each in (a, b)]
    return np.asarray(common / np.maximum(areas[0][:, None] + areas[1][None] - common, 1), np.float64)


@dataclass
class Track:
    """A person on the way."""

    name: int
    box: NDArray[np.float64]
    speed: NDArray[np.float64]
    last: int
    vector: NDArray[np.float32] | None


def track(video: Video, embed: Embed | None, threshold: float) -> list[list[int]]:
    """Returns the tracks' numbers for the boxes of each frame."""
    tracks: list[Track] = []
    names: list[list[int]] = []
    number = 0
    for t, boxes in enumerate(video.boxes):
        vectors = None if embed is None else embed(crops(video.frames[t], boxes))
        tracks = [each for each in tracks if t - each.last <= _LOST]
        given = [-1] * len(boxes)
        if tracks and len(boxes):
            expected = np.array([each.box + each.speed * (t - each.last) for each in tracks])
            near = overlap(expected, boxes)
            cost, allowed = 1 - near, near > 0.2
            if vectors is not None:
                cosine = np.array([each.vector for each in tracks]) @ vectors.T
                # As in BoT-SORT, the nearer of both counts. A lost track is found by its vector alone.
                lost = np.array([t - each.last > 5 for each in tracks])[:, None]
                alike = (cosine >= threshold) & (allowed | lost)
                unlike = np.clip((1 - cosine) / max(2 - 2 * threshold, 1e-6), 0, 1)
                cost = np.where(alike, np.minimum(cost, unlike), cost)
                allowed = allowed | alike
            rows, columns = linear_sum_assignment(np.where(allowed, cost, 1e3))
            for row, column in zip(rows, columns, strict=True):
                if allowed[row, column]:
                    each, box = tracks[row], boxes[column].astype(float)
                    each.speed = 0.7 * each.speed + 0.3 * (box - each.box) / (t - each.last)
                    each.box, each.last = box, t
                    if vectors is not None and each.vector is not None:
                        mixed = 0.9 * each.vector + 0.1 * vectors[column]
                        each.vector = mixed / np.linalg.norm(mixed)
                    given[column] = each.name
        for column, box in enumerate(boxes):
            if given[column] < 0:
                number += 1
                vector = None if vectors is None else vectors[column]
                tracks.append(Track(number, box.astype(float), np.zeros(4), t, vector))
                given[column] = number
        names.append(given)
    return names


def score(video: Video, names: list[list[int]]) -> dict[str, float]:
    """Scores tracks by motmetrics. Every box is some person's, so only the identities can be wrong."""
    motmetrics = importlib.import_module("motmetrics")
    events = motmetrics.MOTAccumulator(auto_id=True)
    for people, given in zip(video.people, names, strict=True):
        distances = np.full((len(people), len(given)), np.nan)
        np.fill_diagonal(distances, 0.0)
        events.update(people, given, distances)
    found = motmetrics.metrics.create().compute(events, metrics=["idf1", "num_switches"], name="video")
    return {
        "idf1": float(found["idf1"].iloc[0]),
        "switches": int(found["num_switches"].iloc[0]),
        "tracks": max(max(given, default=0) for given in names),
    }


def fitting_threshold(embed: Embed, pictures: dict[tuple[int, int, int], NDArray[np.uint8]]) -> float:
    """Measures the cosine for a false match rate of 1e-2 on pictures of other people, by person, camera and number."""
    keys = list(pictures)
    vectors = torch.from_numpy(embed(np.stack(list(pictures.values()))))
    all_of = Embedded(vectors, torch.tensor([key[0] for key in keys]), torch.tensor([key[1] for key in keys]))
    threshold = match_rates(all_of, all_of).threshold(1e-2)
    assert threshold is not None
    return threshold


def draw(video: Video, rows: list[tuple[str, list[list[int]]]], path: Path) -> None:
    """Draws six frames of each row, with boxes in the tracks' colors."""
    shown = np.linspace(0, len(video.frames) - 1, 6).astype(int)
    height, width = video.frames[0].shape[:2]
    sheet = Image.new("RGB", (2 * width, len(rows) * (3 * height + 20)), "white")
    for r, (title, names) in enumerate(rows):
        pen = ImageDraw.Draw(sheet)
        pen.text((4, r * (3 * height + 20) + 4), title, fill="black")
        for k, t in enumerate(shown):
            frame = Image.fromarray(video.frames[t])
            ink = ImageDraw.Draw(frame)
            for box, name in zip(video.boxes[t], names[t], strict=True):
                color = f"hsl({name * 47 % 360}, 90%, 45%)"
                ink.rectangle(tuple(map(int, box)), outline=color, width=2)
                ink.text((int(box[0]) + 3, int(box[1]) + 2), str(name), fill=color)
            sheet.paste(frame, (k % 2 * width, r * (3 * height + 20) + 20 + k // 2 * height))
    sheet.save(path)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Tracks the video three times."""
    config = SynthConfig(seed=8, identities=160)
    people, length, others = (4, 24, 12) if options.quick else (12, 90, 20)
    video = make_video(config, options.first, people, length)
    rest = range(options.first + people, options.first + people + others)
    keys = [(p, camera, i) for p in rest for camera in (1, 2) for i in (0, 1)]
    pictures = {key: render_picture(config, *key)[0] for key in keys}
    ways: list[tuple[str, Embed | None]] = [("no vectors", None), ("color histograms", histograms)]
    with tempfile.TemporaryDirectory() as folder:
        network = options.reid or random_checkpoint(Path(folder) / "random.ckpt", True)
        encoder = Encoder.load(network, device=options.device.type)
    ways.append(("our vectors", lambda images: np.asarray(encoder(images))))
    rows, drawn = [], []
    for title, embed in ways:
        threshold = 0.0 if embed is None else fitting_threshold(embed, pictures)
        names = track(video, embed, threshold)
        rows.append({"name": title, "threshold": threshold if embed else None, **score(video, names)})
        drawn.append((title, names))
    if options.picture:
        draw(video, drawn, options.picture)
    about = {"people": people, "frames": length, "boxes": sum(map(len, video.boxes))}
    return {"rows": rows, "video": about, "network": "random weights" if options.reid is None else options.reid.name}


def histograms(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Embeds images by the colors of six stripes."""
    if len(images) == 0:
        return np.zeros((0, 6 * 512), np.float32)
    return histogram_features(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()


def show(result: dict[str, Any]) -> None:
    """Prints the table."""
    rows = [
        [row["name"], f"{100 * row['idf1']:.1f} %", str(row["switches"]), str(row["tracks"])] for row in result["rows"]
    ]
    print_table("A synthetic video, tracked", ("what", "IDF1", "switches", "tracks"), rows)
    about = result["video"]
    say(f"{about['people']} people, {about['frames']} frames, {about['boxes']} boxes; network: {result['network']}")
