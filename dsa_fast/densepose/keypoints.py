"""Keypoint IUV: part, u and v of people from their 2D joints, without DensePose.

Poses a body (`body.posing`) so that its joints match the given ones, and projects it. The result is coarser than
DensePose's: the body is average and in tight clothes, its rotation and depth are guesses, and the image is not used.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dsa_fast.array_files import load_arrays
from dsa_fast.configs.prepare import Layout
from dsa_fast.densepose.body.points import POINTS
from dsa_fast.densepose.body.posing import draw_people
from dsa_fast.extras import require
from dsa_fast.files import read_json

__all__ = ["LAYOUTS", "Layout", "iuv_from_keypoints", "read_keypoints"]

Array = NDArray[np.floating[Any]]


def _sided(side: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{side}_{name}" for name in names)


_ARM, _LEG = ("shoulder", "elbow", "wrist"), ("hip", "knee", "ankle")

#: The rows of each layout: COCO's 17; OpenPose's 18 (its neck is the middle of the shoulders); and the 14 of
#: https://github.com/layumi/market1501_body_point, as in Leeds Sports Poses. Left and right are the person's own.
LAYOUTS: dict[str, tuple[str, ...]] = {
    "coco17": POINTS[:17],
    "openpose18": (
        *("nose", "neck"),
        *(*_sided("right", *_ARM), *_sided("left", *_ARM), *_sided("right", *_LEG), *_sided("left", *_LEG)),
        *("right_eye", "left_eye", "right_ear", "left_ear"),
    ),
    "market14": (
        *("crown", "neck"),
        *(*_sided("right", *_ARM), *_sided("left", *_ARM), *_sided("right", *_LEG), *_sided("left", *_LEG)),
    ),
}
#: Image names for a file that has none.
Names = str | os.PathLike[str] | Mapping[int, str] | Iterable[str] | None

# What a picture's JSON file adds to its name; KPR adds to "NAME.jpg" or replaces ".jpg".
_PICTURE_SUFFIXES = (".predictions.json", "_keypoints.json", ".json")
_MAT_SPLITS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
_BY_COUNT = {len(names): layout for layout, names in LAYOUTS.items()}
# OpenPose's 25: the 18 with the middle of the hips in between, and toes and heels at the end.
_OPENPOSE_25_TO_18 = (*range(8), *range(9, 19))


def iuv_from_keypoints(
    keypoints: Tensor | Array,
    size: tuple[int, int],
    *,
    layout: Layout = "auto",
    min_confidence: float = 0.3,
) -> Tensor:
    """Draws the IUV maps of people from their 2D joints ("keypoint IUV", coarser than DensePose's).

    A map needs a trunk: a hip, and a shoulder, the neck or a point of the head; or both shoulders (or the neck) and a
    point of the head; or both hips and a knee. Otherwise it is all background. The head is drawn with the trunk. A limb
    is drawn as far as its joints are known. A missing elbow or knee is placed between its neighbors. A thigh without
    knee and ankle continues the trunk. Otherwise, bones below a missing joint are omitted.

    Args:
        keypoints: a tensor or an array, [N, K, 2] or [N, K, 3]: x (right) and y (down) in pixels, where pixel (row r,
            column c) covers x in [c, c+1) and y in [r, r+1), and a confidence or visibility. A joint is missing if
            x, y or the confidence is not finite, or the confidence is below `min_confidence`. Joints may be outside
            the picture.
        size: (H, W) of the maps, pixels.
        layout: which joint each row is; "auto" selects it by K: 17, 18 or 14. See `LAYOUTS`.
        min_confidence: joints with a lower confidence are missing.

    Returns:
        uint8 [N, 3, H, W], channels I, U, V, on the CPU. A person's map does not depend on other people.

    Raises:
        TypeError: `keypoints` is not a tensor or array of numbers.
        ValueError: a shape, `size`, `layout` or `min_confidence` is wrong.
    """
    if isinstance(keypoints, Tensor):
        values = keypoints.detach().cpu().double().numpy()
    elif isinstance(keypoints, np.ndarray) and np.issubdtype(keypoints.dtype, np.number):
        values = keypoints.astype(np.float64)
    else:
        raise TypeError(f"keypoints must be a tensor or an array of numbers, got {_kind(keypoints)}")
    if values.ndim != 3 or values.shape[2] not in (2, 3):
        raise ValueError(f"keypoints must have shape [N, K, 2] or [N, K, 3], got {list(values.shape)}")
    if layout not in get_args(Layout):
        raise ValueError(f"layout must be one of {', '.join(get_args(Layout))}, got {layout!r}")
    count = values.shape[1]
    if layout == "auto":
        if count not in _BY_COUNT:
            known = ", ".join(f"{k} ({name})" for k, name in _BY_COUNT.items())
            raise ValueError(f"layout='auto' knows K = {known}, got keypoints of shape {list(values.shape)}")
        names = LAYOUTS[_BY_COUNT[count]]
    else:
        names = LAYOUTS[layout]
    if count != len(names):
        raise ValueError(f"layout {layout!r} has {len(names)} joints, got keypoints of shape {list(values.shape)}")
    if len(size) != 2 or not all(isinstance(n, (int, np.integer)) and n > 0 for n in size):
        raise ValueError(f"size must be two positive integers (height, width), got {size!r}")
    if not np.isfinite(min_confidence):
        raise ValueError(f"min_confidence must be a finite number, got {min_confidence}")
    known = np.isfinite(values).all(-1)
    if values.shape[2] == 3:
        known &= np.where(known, values[..., 2], -np.inf) >= min_confidence
    points = np.zeros((len(values), len(POINTS), 2))
    has = np.zeros((len(values), len(POINTS)), bool)
    rows = [POINTS.index(name) for name in names]
    points[:, rows], has[:, rows] = values[..., :2], known
    return draw_people(points, has, (int(size[0]), int(size[1])))


def read_keypoints(path: str | os.PathLike[str], *, names: Names = None) -> dict[str, NDArray[np.float32]]:
    """Reads the keypoints of many pictures. If a picture has several people, the highest sum of confidences wins.

    `path` can be:

    - COCO annotations (a JSON object with `images` and `annotations`). Visibility 0, 1, 2 becomes 0, 0.5, 1.
    - COCO results (a JSON list of {image_id, keypoints}). If an image_id is a number, `names` must map it to a file
      name: it is a mapping, or the path of the COCO annotations for these results.
    - A folder with a JSON file per picture, in subfolders or not. A picture's key is the file's path in the folder
      without the suffix. The files are OpenPose's `NAME_keypoints.json`, with 18 or 25 joints (25 are reduced to 18);
      PifPaf's `NAME.jpg.predictions.json` with COCO's 17 joints; or KPR's `NAME.jpg_keypoints.json` or `NAME.json`, a
      list of people with 17 joints as a flat list or as [17, 3]. Where a person has `is_target`, that person is taken.
    - An HDF5 file of market1501_body_point (`*.mat`). `names` must be the folder of its pictures, or their names in
      order. Needs h5py.
    - The folder of its three files. `names` must be the folder of Market-1501, and keys are paths such as
      `bounding_box_train/0002_c1s1_000451_03.jpg`. Needs h5py.
    - A `.npz` with the arrays `names` [N] and `keypoints` [N, K, 2 or 3].

    Args:
        path: a file or folder.
        names: see above.

    Returns:
        The picture's file name, as in the source -> float32 [K, 3]: x and y in pixels, and a confidence (1 if the
        source has none). Pictures without a person are left out.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: the content is not one of the above; the message names the file.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path) if _mat_files(path) is None else _read_mat_folder(path, names)
    if not path.is_file():
        raise FileNotFoundError(f"keypoints not found: {path}")
    suffix = path.suffix.lower()
    if suffix == ".json":
        return _read_coco(path, names)
    if suffix == ".npz":
        return _read_npz(path)
    if suffix == ".mat":
        return _read_mat(path, names)
    raise ValueError(
        "keypoints must be a .json, .npz or .mat file, or a folder of OpenPose's, PifPaf's or KPR's .json or "
        f"market1501_body_point's .mat, got {path}"
    )


def _kind(value: object) -> str:
    return f"{value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__


def _person(values: object, source: str, counts: tuple[int, ...] = ()) -> NDArray[np.float32]:
    """Turns a flat list x, y, c, x, y, c, ... into [K, 3]."""
    try:
        person = np.asarray(values, np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{source}: keypoints must be a list of numbers, got {error}") from error
    if person.ndim != 1 or person.size == 0 or person.size % 3 or (counts and person.size // 3 not in counts):
        wanted = f"x, y, c of {' or '.join(map(str, counts))} joints" if counts else "x, y, c of each joint"
        raise ValueError(f"{source}: keypoints must be a flat list of {wanted}, got {person.size} numbers")
    return person.reshape(-1, 3)


def _keep_surest(table: dict[str, NDArray[np.float32]], name: str, person: NDArray[np.float32]) -> None:
    if name not in table or np.nansum(person[:, 2]) > np.nansum(table[name][:, 2]):
        table[name] = person


def _coco_names(images: object, source: Path) -> dict[int, str]:
    if not isinstance(images, list) or not all(
        isinstance(i, dict) and isinstance(i.get("id"), int) and isinstance(i.get("file_name"), str) for i in images
    ):
        raise ValueError(f"{source}: images must be a list of {{id, file_name}}")
    return {image["id"]: image["file_name"] for image in images}


def _read_coco(path: Path, names: Names) -> dict[str, NDArray[np.float32]]:
    content = read_json(path)
    annotated = isinstance(content, dict)
    if isinstance(content, dict):
        if not isinstance(content.get("annotations"), list):
            raise ValueError(f"{path} must have a list `annotations` (COCO annotations), or be a list (COCO results)")
        files, people = _coco_names(content.get("images"), path), content["annotations"]
    elif isinstance(content, list):
        files, people = {}, content
        if isinstance(names, Mapping):
            files = dict(names)
        elif isinstance(names, (str, os.PathLike)):
            given = read_json(names)
            files = _coco_names(given.get("images") if isinstance(given, dict) else None, Path(names))
        elif names is not None:
            raise ValueError("names must map COCO's image ids to file names, or be the path of COCO annotations")
    else:
        raise ValueError(f"{path} must be COCO annotations (an object) or results (a list), got {_kind(content)}")
    table: dict[str, NDArray[np.float32]] = {}
    for number, entry in enumerate(people):
        source = f"{path}, person {number}"
        if not isinstance(entry, dict):
            raise ValueError(f"{source}: must be an object, got {_kind(entry)}")
        if "keypoints" not in entry:
            if annotated:  # a data set may hold people without keypoints
                continue
            raise ValueError(f"{source}: has no keypoints")
        image = entry.get("image_id")
        name = files.get(image) if isinstance(image, int) else image
        if not isinstance(name, str):
            where = "images" if annotated else "names (a mapping, or the path of the COCO annotations)"
            raise ValueError(f"{source}: image_id must be a file name or a number that {where} knows, got {image!r}")
        person = _person(entry["keypoints"], source)
        if annotated:
            person[:, 2] /= 2
        if person[:, 2].any():
            _keep_surest(table, name, person)
    return table


def _read_folder(folder: Path) -> dict[str, NDArray[np.float32]]:
    """Reads one JSON file per picture, at any depth. The content tells OpenPose's from PifPaf's and KPR's."""
    table: dict[str, NDArray[np.float32]] = {}
    seen: set[str] = set()
    files = sorted(folder.rglob("*.json"))
    # Other files may be next to files that say what they are.
    files = [file for file in files if file.name.endswith(_PICTURE_SUFFIXES[:2])] or files
    if not files:
        raise ValueError(
            f"{folder} must hold a JSON file per picture (OpenPose's NAME_keypoints.json, PifPaf's "
            "NAME.predictions.json or KPR's), or market1501_body_point's three .mat files, got neither"
        )
    for path in files:
        name = path.relative_to(folder).as_posix()
        for suffix in _PICTURE_SUFFIXES:
            if name.endswith(suffix):
                name = name.removesuffix(suffix)
                break
        if name in seen:
            raise ValueError(f"{folder} must hold one file per picture, got two for {name}, one of them {path.name}")
        seen.add(name)
        content = read_json(path)
        if isinstance(content, dict) and "people" in content:
            _add_openpose(table, name, content["people"], path)
        else:
            _add_coco17(table, name, content, path)
    return table


def _add_openpose(table: dict[str, NDArray[np.float32]], name: str, people: object, path: Path) -> None:
    if not isinstance(people, list) or not all(isinstance(person, dict) for person in people):
        raise ValueError(f"{path} must have a list `people`, as OpenPose writes it")
    for entry in people:
        person = _person(entry.get("pose_keypoints_2d"), str(path), (18, 25))
        person = person[list(_OPENPOSE_25_TO_18)] if len(person) == 25 else person
        _keep_surest(table, name, person)


def _add_coco17(table: dict[str, NDArray[np.float32]], name: str, people: object, path: Path) -> None:
    """Adds the person of PifPaf's or KPR's file, see `read_keypoints`.

    Sources: `Annotation.json_data` and `predict.py` of https://github.com/openpifpaf/openpifpaf; `demo.py`,
    `read_keypoints` in `torchreid/utils/tools.py` and `assets/demo` of
    https://github.com/VlSomers/keypoint_promptable_reidentification. PifPaf counts x and y from the center of the first
    pixel (`transforms/scale.py`).
    """
    people = [people] if isinstance(people, dict) else people
    if not isinstance(people, list) or not all(isinstance(each, dict) and "keypoints" in each for each in people):
        raise ValueError(
            f"{path} must have a list `people` (OpenPose), or be a list of {{keypoints}} (PifPaf, KPR), "
            f"got {_kind(people)}"
        )
    targets = [each for each in people if each.get("is_target")]
    if len(targets) > 1:
        raise ValueError(f"{path} must mark one person as is_target, got {len(targets)}")
    for entry in targets or people:
        rows = entry["keypoints"]
        if isinstance(rows, list) and all(isinstance(row, list) and len(row) == 3 for row in rows):
            rows = [number for row in rows for number in row]
        person = _person(rows, str(path), (17,))
        person[:, :2] += 0.5
        if person[:, 2].any():
            _keep_surest(table, name, person)


def _read_npz(path: Path) -> dict[str, NDArray[np.float32]]:
    try:
        arrays = load_arrays(path, ("names", "keypoints"))
        names, values = arrays["names"], arrays["keypoints"]
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"{path} must hold the arrays names and keypoints, got {error}") from error
    if names.ndim != 1 or names.dtype.kind != "U":
        raise ValueError(f"{path}: names must be [N] text, got {names.dtype} {list(names.shape)}")
    if values.dtype.kind not in "fiu" or values.ndim != 3 or values.shape[2] not in (2, 3) or len(values) != len(names):
        raise ValueError(
            f"{path}: keypoints must be numbers [{len(names)}, K, 2 or 3], got {values.dtype} {list(values.shape)}"
        )
    values = values.astype(np.float32)
    if values.shape[2] == 2:
        values = np.concatenate([values, np.ones_like(values[..., :1])], -1)
    return dict(zip(names.tolist(), values, strict=True))


def _read_mat(path: Path, names: Names) -> dict[str, NDArray[np.float32]]:
    h5py = require("h5py", f"reading {path}")
    if names is None or isinstance(names, Mapping):
        raise ValueError(
            f"{path} has no file names: names (--keypoints.names) must be the folder of its pictures, such as "
            "bounding_box_train, or their names in order"
        )
    if isinstance(names, (str, os.PathLike)):
        folder = Path(names)
        if not folder.is_dir():
            raise FileNotFoundError(f"names must be the folder of the pictures of {path}, got {folder}")
        files = sorted(file.name for file in folder.iterdir() if file.suffix.lower() in (".jpg", ".png"))
    else:
        files = list(names)
    try:
        with h5py.File(path, "r") as mat:
            values = np.asarray(mat["pp"], np.float32)  # [N, 28]: x of the 14 joints, then y, counted from 1
    except Exception as error:  # h5py raises many kinds of errors
        raise ValueError(f"{path} must be a file of market1501_body_point (HDF5, with `pp`), got {error}") from error
    if values.ndim != 2 or values.shape[1] != 28:
        raise ValueError(f"{path}: pp must hold 28 numbers a picture, got shape {list(values.shape)}")
    if len(files) != len(values):
        raise ValueError(f"{path} has {len(values)} pictures, got {len(files)} names")
    people = np.ones((len(values), 14, 3), np.float32)
    people[..., :2] = values.reshape(-1, 2, 14).transpose(0, 2, 1) - 0.5
    return dict(zip(files, people, strict=True))


def _mat_files(folder: Path) -> dict[str, Path] | None:
    """Returns Market-1501's folder -> its file of market1501_body_point; None if one of the three is missing."""
    files = {place: folder / f"market1501_14point_{split}.mat" for split, place in _MAT_SPLITS.items()}
    return files if all(file.is_file() for file in files.values()) else None


def _read_mat_folder(folder: Path, names: Names) -> dict[str, NDArray[np.float32]]:
    if not isinstance(names, (str, os.PathLike)):
        raise ValueError(f"{folder} has no file names: names must be the folder of Market-1501")
    table: dict[str, NDArray[np.float32]] = {}
    for place, file in (_mat_files(folder) or {}).items():
        table.update((f"{place}/{name}", person) for name, person in _read_mat(file, Path(names) / place).items())
    return table
