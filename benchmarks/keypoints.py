"""The `keypoints` suite of run.py: keypoint IUV compared with the exact maps of synthetic people, and its speed.

People are random: clothes, pose, view from all sides and from above, and a detector's box. The method gets their exact
joints in COCO's layout of 17, then joints with errors, then with some joints missing. Face points on the far side of
the head are always missing.

- `union`: share of the pixels labeled in either map that have the same part in both.
- `both`: share of the pixels labeled in both maps that have the same part.
- `side`: share of the pixels labeled in both maps that have the same part on the other side of the body.
- `u`, `v`: mean |u - u'| and |v - v'| where the part is the same.
- `outside`: share of the drawn map's pixels that are not on the exact silhouette.

Then the same maps, gated: background where the exact silhouette does not show the person. And the same people with an
object in front of them: their exact maps and silhouettes end at a random line across the picture.

`--keypoints-picture FILE` also draws people with their exact maps and their keypoint IUV.
"""

from __future__ import annotations

import argparse
import os
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Clock, print_table, say, spread
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from dsa_fast.data.synth import Camera, identity_of, person_keypoints, random_pose, render_person, scene
from dsa_fast.densepose import MIRROR, PART_COLORS, PART_NAMES, iuv_from_keypoints
from dsa_fast.visual.layout import font
from dsa_fast.visual.palette import INK

Maps = NDArray[np.uint8]
Joints = NDArray[np.float32]


def add_options(group: argparse._ArgumentGroup) -> None:
    """The suite's own options."""
    group.add_argument("--keypoints-picture", type=Path, metavar="FILE", help="PNG to write people and their maps to")


def people(count: int, height: int, width: int, seed: int) -> tuple[Joints, Maps, Maps]:
    """Renders random people: joints [N, 17, 3], exact maps [N, 3, H, W] and pictures [N, 3, H, W]."""
    rng = np.random.default_rng(seed)
    joints, maps, pictures = [], [], []
    for number in range(count):
        identity, pose = identity_of(seed, 1 + number % 100), random_pose(1.0, rng)
        camera = Camera(
            yaw=float(rng.uniform(-np.pi, np.pi)),
            pitch=float(rng.uniform(0.03, 0.36)),
            distance=float(rng.uniform(4.5, 12)),
            roll=float(rng.normal(0, 0.035)),
        )
        projected = camera.project(identity.body.posed(pose)[0])
        window = scene.tight_box(projected[identity.body.part > 0], width / height)
        window = scene.random_box(window, 0.5, rng)
        joints.append(person_keypoints(identity, pose, camera, window, height=height, width=width))
        picture, iuv = render_person(identity, pose, camera, window, height=height, width=width)
        maps.append(iuv.transpose(2, 0, 1))
        pictures.append(picture.transpose(2, 0, 1))
    return np.stack(joints), np.stack(maps), np.stack(pictures)


def variants(joints: Joints, height: int, seed: int) -> dict[str, Joints]:
    """Damages the exact joints as an estimator would."""
    rng = np.random.default_rng(seed)
    result = {"exact joints": joints}
    for percent in (1, 2):
        result[f"error of {percent} % of the height"] = joints.copy()
        error = rng.normal(0, percent / 100 * height, joints[..., :2].shape)
        result[f"error of {percent} % of the height"][..., :2] += error
    result["15 % of the joints missing"] = joints.copy()
    result["15 % of the joints missing"][rng.random(joints.shape[:2]) < 0.15] = np.nan
    result["no face points"] = joints.copy()
    result["no face points"][:, :5] = np.nan
    return result


def compare(drawn: Maps, exact: Maps) -> dict[str, float]:
    """Computes the metrics listed in the module's docstring."""
    a, b = drawn[:, 0], exact[:, 0]
    both, same = (a > 0) & (b > 0), (a == b) & (a > 0)
    error = np.abs(drawn[:, 1:].astype(np.int64) - exact[:, 1:]) / 255
    return {
        "union": float(same.sum() / ((a > 0) | (b > 0)).sum()),
        "both": float(same.sum() / both.sum()),
        "side": float(((np.array(MIRROR)[a] == b) & both & ~same).sum() / both.sum()),
        "u": float(error[:, 0][same].mean()),
        "v": float(error[:, 1][same].mean()),
        "outside": float(((a > 0) & (b == 0)).sum() / (a > 0).sum()),
    }


def hidden(exact: Maps, seed: int) -> Maps:
    """Hides people below a random row, or on one side of a random column, as an object in front of them would."""
    rng = np.random.default_rng(seed)
    height, width = exact.shape[2:]
    rows, columns = np.arange(height)[:, None], np.arange(width)[None]
    shown = np.empty((len(exact), 1, height, width), bool)
    for person in shown:
        share, side = rng.uniform(0.5, 0.8), rng.integers(3)
        person[0] = (
            rows < share * height
            if side == 0
            else columns < share * width
            if side == 1
            else columns >= (1 - share) * width
        )
    return exact * shown


def mask_rows(joints: Joints, exact: Maps, size: tuple[int, int]) -> list[dict[str, Any]]:
    """Compares maps with and without gating by the exact silhouette."""
    rows = []
    for people_are, truth in (("seen", exact), ("hidden in part", hidden(exact, seed=3))):
        for name, given in list(variants(joints, size[0], seed=2).items())[:3]:
            drawn = iuv_from_keypoints(given, size).numpy()
            gated = drawn * (truth[:, :1] > 0)
            for gate, maps in ((False, drawn), (True, gated)):
                row = {"what": name, "people_are": people_are, "gated": gate, "people": len(joints)}
                rows.append({**row, **compare(maps, truth)})
    return rows


def by_part(drawn: Maps, exact: Maps) -> list[dict[str, Any]]:
    """Computes for each part: intersection over union, share in the exact maps, and errors of u and v."""
    a, b = drawn[:, 0], exact[:, 0]
    error = np.abs(drawn[:, 1:].astype(np.int64) - exact[:, 1:]) / 255
    rows = []
    for part in range(1, 25):
        hit, is_part = (a == part) & (b == part), b == part
        rows.append(
            {
                "part": part,
                "name": PART_NAMES[part],
                "share": float(is_part.sum() / (b > 0).sum()),
                "iou": float(hit.sum() / max(((a == part) | is_part).sum(), 1)),
                "both": float(hit.sum() / max((is_part & (a > 0)).sum(), 1)),
                "u": float(error[:, 0][hit].mean()),
                "v": float(error[:, 1][hit].mean()),
            }
        )
    return rows


def write_picture(path: Path, count: int = 12) -> None:
    """Draws people with their joints, and below each the exact map and the keypoint IUV in the parts' colors."""
    height, width, zoom = 192, 96, 2
    joints, exact, pictures = people(count, height, width, seed=5)
    drawn = iuv_from_keypoints(joints, (height, width)).numpy()
    colors = np.array(PART_COLORS, np.uint8)
    labels = ("photo and its joints", "exact map", "keypoint IUV")
    head, side = 48, 40
    sheet = Image.new("RGB", (side + count * width * zoom, head + 3 * height * zoom), "white")
    pen = ImageDraw.Draw(sheet)
    title = "Keypoint IUV of synthetic people: an average body, posed by the joints; color: body part"
    pen.text((side, 10), title, fill=INK, font=font(24))
    for row, label in enumerate(labels):
        text = Image.new("RGB", (height * zoom, side), "white")
        ImageDraw.Draw(text).text((height * zoom / 2, 8), label, fill=INK, font=font(22), anchor="ma")
        sheet.paste(text.rotate(90, expand=True), (0, head + row * height * zoom))
    for i, (person, picture) in enumerate(zip(joints, pictures, strict=True)):
        cells = (picture.transpose(1, 2, 0), colors[exact[i, 0]], colors[drawn[i, 0]])
        for row, pixels in enumerate(cells):
            cell = Image.fromarray(np.ascontiguousarray(pixels)).resize((width * zoom, height * zoom), 0)
            if row == 0:
                dots = ImageDraw.Draw(cell)
                for x, y, seen in person * np.array([zoom, zoom, 1]):
                    if seen:
                        dots.ellipse((x - 3, y - 3, x + 3, y + 3), fill=(255, 255, 0))
            sheet.paste(cell, (side + i * width * zoom, head + row * height * zoom))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def _draw(joints: Joints, size: tuple[int, int], _: int) -> torch.Tensor:
    return iuv_from_keypoints(joints, size)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures the accuracy at 128 x 64, and the rate with one thread and with one thread per core."""
    clock = Clock(torch.device("cpu"), options.seconds)
    count, size = 100 if options.quick else 1000, (128, 64)
    joints, exact, _ = people(count, *size, seed=1)
    if options.keypoints_picture:
        write_picture(options.keypoints_picture)
    rows: list[dict[str, Any]] = []
    for name, given in variants(joints, size[0], seed=2).items():
        rows.append({"what": name, "people": count, **compare(iuv_from_keypoints(given, size).numpy(), exact)})
    threads, rates = torch.get_num_threads(), []
    try:
        for used in dict.fromkeys((1, len(os.sched_getaffinity(0)))):
            torch.set_num_threads(used)
            for height, width in ((128, 64), (256, 128)):
                scaled = joints[: 100 if options.quick else 512] * np.array([width / 64, height / 128, 1], np.float32)
                expected = iuv_from_keypoints(scaled, (height, width))
                for i in range(0, len(scaled), 100):  # verified: a batch equals its people one by one
                    if not torch.equal(iuv_from_keypoints(scaled[i : i + 1], (height, width))[0], expected[i]):
                        raise RuntimeError(f"person {i} is drawn differently alone than in a batch")
                times = clock(partial(_draw, scaled, (height, width)))
                rate = len(scaled) / statistics.median(times)
                rates.append({"size": [height, width], "threads": used, "people_per_s": rate, **spread(times)})
    finally:
        torch.set_num_threads(threads)
    parts = by_part(iuv_from_keypoints(joints, size).numpy(), exact)
    return {"rows": rows, "parts": parts, "masks": mask_rows(joints, exact, size), "rates": rates}


def show(result: dict[str, Any]) -> None:
    """Prints the rows as tables."""
    figures = ("union", "both", "side", "u", "v", "outside")
    rows = [[row["what"], *(f"{row[name]:.3f}" for name in figures)] for row in result["rows"]]
    print_table(f"keypoint IUV and exact maps of {result['rows'][0]['people']} people", ["what", *figures], rows)
    rows = [
        [row["what"], row["people_are"], "gated" if row["gated"] else "", *(f"{row[name]:.3f}" for name in figures)]
        for row in result["masks"]
    ]
    print_table("gated by the exact silhouette", ["what", "people are", "", *figures], rows)
    names = ("share", "iou", "both", "u", "v")
    rows = [[f"{row['part']} {row['name']}", *(f"{row[name]:.3f}" for name in names)] for row in result["parts"]]
    print_table("exact joints, by part", ["what", *names], rows)
    for rate in result["rates"]:
        height, width = rate["size"]
        say(f"{height} x {width}, {rate['threads']} threads: {rate['people_per_s']:.0f} people/s")
