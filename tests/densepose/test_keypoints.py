"""Keypoint IUV: exact maps of synthetic people as the measure, readers of keypoints, and Keypoint R-CNN."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dsa_fast.data.synth import Camera, identity_of, person_keypoints, render_person
from dsa_fast.densepose import LAYOUTS, MIRROR, flip_iuv, iuv_from_keypoints, read_keypoints
from dsa_fast.densepose.body import Pose, joints3d, landmarks3d, points
from dsa_fast.densepose.keypoint_rcnn import PoseEstimator
from dsa_fast.ops.bodies import Surface, draw_bodies

SIZE = (128, 64)
COCO = LAYOUTS["coco17"]
FLIPPED = [COCO.index(n.replace("left", "?").replace("right", "left").replace("?", "right")) for n in COCO]

# Someone who stands before the camera, arms a little aside: the person's left is on the picture's right.
STANDING = np.array(
    [
        *((32, 16), (34, 14), (30, 14), (37, 15), (27, 15)),
        *((43, 28), (21, 28), (46, 48), (18, 48), (48, 66), (16, 66)),
        *((38, 65), (26, 65), (38, 92), (26, 92), (38, 119), (26, 119)),
    ],
    np.float32,
)


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    folder = str(Path(__file__).resolve().parents[2] / "benchmarks")
    sys.path.insert(0, folder)
    try:
        return importlib.import_module("keypoints")
    finally:
        sys.path.remove(folder)


@pytest.fixture(scope="module")
def crowd(bench: ModuleType) -> tuple[np.ndarray, np.ndarray]:
    joints, maps, _ = bench.people(120, *SIZE, seed=11)
    return joints, maps


def draw(person: np.ndarray, size: tuple[int, int] = SIZE, **options: Any) -> np.ndarray:
    """One person's map, [3, H, W]."""
    result: np.ndarray = iuv_from_keypoints(person[None], size, **options)[0].numpy()
    return result


def parts_of(iuv: np.ndarray) -> set[int]:
    return set(np.unique(iuv[0]).tolist()) - {0}


def columns(iuv: np.ndarray, *parts: int) -> float:
    """Mean column of some parts."""
    return float(np.nonzero(np.isin(iuv[0], parts))[1].mean())


def in_layout(person: np.ndarray, layout: str) -> np.ndarray:
    """COCO's joints [17, C] as another layout's; the crown is put where an upright head has it."""
    extra = {
        "neck": person[[5, 6]].mean(0),
        "crown": person[[1, 2]].mean(0) + np.array([0, -0.11, 0][: person.shape[1]]) * SIZE[0] / 1.72,
    }
    return np.stack([person[COCO.index(n)] if n in COCO else extra[n] for n in LAYOUTS[layout]])


# --- accuracy and facing -------------------------------------------------------------------------------------------


def test_close_to_the_exact_maps(bench: ModuleType, crowd: tuple[np.ndarray, np.ndarray]) -> None:
    joints, maps = crowd
    # union, both, side, u and v: a little worse than benchmarks/keypoints.py measures on 1000 people.
    floors = {
        "exact joints": (0.75, 0.88, 0.02, 0.04, 0.065),
        "error of 1 % of the height": (0.64, 0.82, 0.025, 0.055, 0.095),
        "error of 2 % of the height": (0.50, 0.73, 0.035, 0.08, 0.13),
        "15 % of the joints missing": (0.64, 0.84, 0.03, 0.045, 0.08),
        "no face points": (0.73, 0.87, 0.03, 0.045, 0.07),
    }
    given_joints = bench.variants(joints, SIZE[0], seed=12)
    assert set(given_joints) == set(floors)
    for name, keypoints in given_joints.items():
        found = bench.compare(iuv_from_keypoints(keypoints, SIZE).numpy(), maps)
        union, both, side, u, v = floors[name]
        assert found["union"] > union and found["both"] > both, (name, found)
        assert found["side"] < side and found["u"] < u and found["v"] < v, (name, found)


def test_front_and_back() -> None:
    front = draw(STANDING)
    assert {2, 9, 10, 13, 14, 23, 24} <= parts_of(front)
    assert (front[0] == 2).sum() > 50 * (front[0] == 1).sum()
    assert columns(front, 15, 17) > 40 and columns(front, 16, 18) < 24  # the left arm is on the right
    assert columns(front, 24) > 32 > columns(front, 23)
    back = draw(STANDING[FLIPPED][:, :2] * np.where(np.arange(17) < 3, np.nan, 1)[:, None])  # eyes and nose unseen
    assert {1, 7, 8, 11, 12, 23, 24} <= parts_of(back)
    assert (back[0] == 1).sum() > 50 * (back[0] == 2).sum()
    assert columns(back, 15, 17) < 24 and columns(back, 16, 18) > 40
    assert columns(back, 24) < 32 < columns(back, 23)


def test_u_and_v_run_as_in_densepose() -> None:
    iuv = draw(STANDING).astype(int)
    rows = np.arange(SIZE[0])[:, None] + np.zeros(SIZE, int)
    cols = np.arange(SIZE[1])[None] + np.zeros(SIZE, int)

    def slope(part: int, channel: int, along: np.ndarray) -> float:
        here = iuv[0] == part
        return float(np.corrcoef(along[here], iuv[channel][here])[0, 1])

    assert slope(2, 1, rows) > 0.95 and slope(2, 2, cols) < -0.9  # neck to crotch, left to right
    for part in (9, 10):
        assert slope(part, 1, rows) < -0.95  # knee to hip
    for part in (13, 14, 17, 18, 21, 22):
        assert slope(part, 1, rows) > 0.95  # knee to ankle, shoulder to elbow, elbow to wrist
    for part in (23, 24):
        assert slope(part, 2, rows) < -0.9  # neck to crown


@pytest.mark.parametrize("face", [True, False])
@pytest.mark.parametrize("degrees", [-90, 90, -60, 60, -120, 120])
def test_sides(degrees: int, face: bool) -> None:
    identity, camera = identity_of(0, 1), Camera(yaw=float(np.radians(degrees)), pitch=0.1)
    pose = Pose.of(left_hip=(-0.4, 0, 0), right_hip=(0.3, 0, 0), right_knee=(0.4, 0, 0), left_elbow=(-0.4, 0, 0))
    person = person_keypoints(identity, pose, camera)
    exact = render_person(identity, pose, camera, antialias=False)[1].transpose(2, 0, 1)
    if not face:
        person[:5] = np.nan
    drawn = draw(person)
    both = (drawn[0] > 0) & (exact[0] > 0)
    assert (drawn[0] == exact[0])[both].mean() > 0.8
    near, far = (18, 17) if degrees > 0 else (17, 18)  # someone turned to the own left shows the right arm
    assert (drawn[0] == near).sum() > 3 * (drawn[0] == far).sum()


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_every_layout(layout: str, crowd: tuple[np.ndarray, np.ndarray], bench: ModuleType) -> None:
    joints, maps = crowd
    seen = np.where(joints[..., 2:] > 0, joints, np.nan)
    seen[..., 2] = 1
    if layout == "market14":  # its crown needs eyes
        keep = np.isfinite(seen[:, [1, 2]]).all((1, 2))
        seen, maps = seen[keep], maps[keep]
    people = np.stack([in_layout(person, layout) for person in seen])
    assert people.shape[1] == {"coco17": 17, "openpose18": 18, "market14": 14}[layout]
    drawn = iuv_from_keypoints(people, SIZE)
    assert torch.equal(drawn, iuv_from_keypoints(torch.from_numpy(people), SIZE, layout=layout))
    assert bench.compare(drawn.numpy(), maps)["both"] > 0.86


def test_mirrored_joints_give_the_flipped_map(crowd: tuple[np.ndarray, np.ndarray], bench: ModuleType) -> None:
    for joints in bench.variants(crowd[0], SIZE[0], seed=13).values():
        mirrored = joints[:, FLIPPED] * np.array([-1, 1, 1], np.float32) + np.array([SIZE[1], 0, 0], np.float32)
        a, b = flip_iuv(iuv_from_keypoints(joints, SIZE)), iuv_from_keypoints(mirrored, SIZE)
        differ = (a[:, 0] != b[:, 0]).flatten(1).float().mean(1)
        assert differ.max() < 0.005, differ.max()
        far = (a.int() - b.int()).abs()[:, 1:].amax(1) > 2
        assert (far & (a[:, 0] == b[:, 0])).float().mean() < 0.005


def test_scaling_joints_and_size_scales_the_map() -> None:
    small, large = draw(STANDING), draw(STANDING * 3, (3 * SIZE[0], 3 * SIZE[1]))
    assert np.array_equal(small[0], large[0, 1::3, 1::3])
    assert np.abs(small.astype(int) - large[:, 1::3, 1::3]).max() <= 1


# --- missing joints, places, sizes ---------------------------------------------------------------------------------


def without(*names: str) -> np.ndarray:
    person = STANDING.copy()
    person[[COCO.index(name) for name in names]] = np.nan
    return person


def test_missing_joints() -> None:
    whole = draw(STANDING)
    assert parts_of(draw(without("left_wrist"))) >= {15, 17} and not parts_of(draw(without("left_wrist"))) & {19, 21, 4}
    assert not parts_of(draw(without("left_wrist", "left_elbow"))) & {15, 17, 19, 21, 4}
    no_ankle = draw(without("right_ankle"))
    assert 9 in parts_of(no_ankle) and not parts_of(no_ankle) & {11, 13, 6}
    no_knee = draw(without("right_knee"))
    assert (no_knee[0] == whole[0]).mean() > 0.98  # it is put between hip and ankle
    cut = draw(without("left_knee", "right_knee", "left_ankle", "right_ankle"))
    assert {9, 10} <= parts_of(cut) and not parts_of(cut) & {5, 6, 11, 12, 13, 14}
    for name in ("left_shoulder", "right_hip"):
        assert (draw(without(name))[0] == whole[0]).mean() > 0.97  # inferred from the partner
    no_hips = draw(without("left_hip", "right_hip"))
    assert ((no_hips[0] == 2) & (whole[0] == 2)).sum() > 0.8 * (whole[0] == 2).sum()
    no_shoulders = draw(without("left_shoulder", "right_shoulder"))
    assert ((no_shoulders[0] == 2) & (whole[0] == 2)).sum() > 0.8 * (whole[0] == 2).sum()
    assert parts_of(draw(without("nose", "left_eye", "right_eye", "left_ear", "right_ear"))) >= {23, 24}


def test_nothing_without_a_trunk() -> None:
    trunk = ("left_shoulder", "right_shoulder", "left_hip", "right_hip")
    assert not draw(without(*trunk)).any()
    assert not draw(np.full((17, 2), np.nan, np.float32)).any()
    assert not draw(without("left_hip", "right_hip", *COCO[:5])).any()
    assert not draw(np.zeros((17, 3), np.float32)).any()  # confidence 0
    assert not draw(np.tile(np.array([20.0, 20.0, 1.0]), (17, 1))).any()  # all in one place


def test_confidence() -> None:
    person = np.concatenate([STANDING, np.ones((17, 1), np.float32)], 1)
    person[COCO.index("left_wrist"), 2] = 0.25
    assert np.array_equal(draw(person), draw(without("left_wrist")))
    assert np.array_equal(draw(person, min_confidence=0.2), draw(STANDING))
    person[COCO.index("left_wrist"), 2] = np.nan
    assert np.array_equal(draw(person), draw(without("left_wrist")))


def test_places_and_sizes() -> None:
    whole = draw(STANDING)
    moved = draw(STANDING + np.array([20, -30]))
    assert np.array_equal(moved[:, : SIZE[0] - 30, 20:], whole[:, 30:, : SIZE[1] - 20])
    assert not draw(STANDING + np.array([500, 0])).any()
    assert draw(STANDING, (1, 1)).shape == (3, 1, 1)
    assert draw(STANDING - np.array([32, 45]), (1, 1))[0] == 2
    assert iuv_from_keypoints(np.zeros((0, 17, 3)), SIZE).shape == (0, 3, *SIZE)
    assert iuv_from_keypoints(STANDING[None], (5, 7)).dtype == torch.uint8


def test_deterministic_and_independent(crowd: tuple[np.ndarray, np.ndarray]) -> None:
    joints = crowd[0]
    first = iuv_from_keypoints(joints, SIZE)
    threads = torch.get_num_threads()
    try:
        for used in (1, 2, 3):
            torch.set_num_threads(used)
            assert torch.equal(iuv_from_keypoints(joints, SIZE), first)
    finally:
        torch.set_num_threads(threads)
    for i in range(0, len(joints), 7):
        assert torch.equal(iuv_from_keypoints(joints[i : i + 1], SIZE)[0], first[i])


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.float64, (2, 17, 3), elements=st.floats(-200, 200) | st.sampled_from([np.nan, np.inf, 1e300, 0.0])),
    st.integers(1, 40),
    st.integers(1, 40),
)
def test_any_joints_give_a_map(joints: np.ndarray, height: int, width: int) -> None:
    iuv = iuv_from_keypoints(joints, (height, width))
    assert iuv.shape == (2, 3, height, width) and int(iuv[:, 0].max()) <= 24
    assert not (iuv[:, 1:].amax(1) * (iuv[:, 0] == 0)).any()


@pytest.mark.parametrize(
    ("keypoints", "options", "error", "words"),
    [
        ([[1, 2]], {}, TypeError, "keypoints must be a tensor or an array of numbers, got list"),
        (np.array([[["a", "b"]]]), {}, TypeError, "keypoints must be a tensor or an array of numbers, got <U1"),
        (np.zeros((17, 3)), {}, ValueError, r"\[N, K, 2\] or \[N, K, 3\], got \[17, 3\]"),
        (np.zeros((1, 17, 4)), {}, ValueError, r"got \[1, 17, 4\]"),
        (np.zeros((1, 16, 3)), {}, ValueError, "layout='auto' knows K = 17"),
        (np.zeros((1, 17, 3)), {"layout": "coco"}, ValueError, "layout must be one of .*, got 'coco'"),
        (np.zeros((1, 17, 3)), {"layout": "market14"}, ValueError, "'market14' has 14 joints"),
        (np.zeros((1, 17, 3)), {"size": (0, 5)}, ValueError, r"size must be two positive integers .* got \(0, 5\)"),
        (np.zeros((1, 17, 3)), {"size": (5.0, 5)}, ValueError, "size must be"),
        (np.zeros((1, 17, 3)), {"min_confidence": np.nan}, ValueError, "min_confidence must be a finite number"),
    ],
)
def test_errors(keypoints: Any, options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        iuv_from_keypoints(keypoints, **{"size": SIZE, **options})


def test_operator() -> None:
    surface = Surface(
        torch.tensor([[0.0, 0, 0], [4, 0, 0], [0, 4, 0]]),
        torch.tensor([[0.0, 1], [0.5, 1], [0, 0.5]]),
        torch.full((3,), 7, dtype=torch.uint8),
        torch.zeros(3, 2, dtype=torch.int32),
        torch.zeros(3),
        torch.tensor([[0, 2, 1]], dtype=torch.int32),
    )
    maps = torch.eye(3, 4)[None, None]
    shown = torch.tensor([1 << 7], dtype=torch.int32)
    torch.library.opcheck(torch.ops.dsa_fast.draw_bodies, (*surface, maps, shown, 5, 6))
    iuv = draw_bodies(surface, maps, shown, (5, 6))[0]
    assert iuv[0, 0].tolist() == [7, 7, 7, 7, 0, 0] and iuv[0, :, 3].tolist() == [7, 0, 0, 0, 0]
    # At (x, y) = (1.5, 0.5): u = x / 8, v = 1 - y / 8.
    assert iuv[1, 0, 1] == round(255 * 1.5 / 8) and iuv[2, 0, 1] == round(255 * (1 - 0.5 / 8))
    turned = surface._replace(faces=surface.faces.flip(1).contiguous())
    assert not draw_bodies(turned, maps, shown, (5, 6)).any()  # seen from behind
    assert not draw_bodies(surface, maps, shown * 2, (5, 6)).any()  # another part is shown
    for wrong, words in (
        (surface._replace(faces=surface.faces + 1), "indices of bones and vertices"),
        (surface._replace(bones=surface.bones - 1), "indices of bones and vertices"),
        (surface._replace(part=surface.part * 0), "part must hold 1..24"),
        (surface._replace(uv=surface.uv.double()), "uv has another shape"),
    ):
        with pytest.raises(RuntimeError, match=words):
            draw_bodies(wrong, maps, shown, (5, 6))


def test_lengths_of_the_average_body() -> None:
    at = dict(zip(("pelvis", "spine", "chest", "neck", "head"), joints3d(Pose())[:5], strict=True))
    joints = joints3d(Pose())
    shoulders, hips = joints[[5, 6]].mean(0), joints[[11, 12]].mean(0)
    assert pytest.approx(shoulders[1] - hips[1], abs=1e-3) == points.TRUNK
    assert pytest.approx(joints[5, 0] - joints[6, 0], abs=1e-3) == points.SHOULDER_WIDTH
    assert pytest.approx(joints[11, 0] - joints[12, 0], abs=1e-3) == points.HIP_WIDTH
    assert pytest.approx(at["neck"][1] - shoulders[1], abs=1e-3) == points.NECK_ABOVE
    assert pytest.approx(at["head"][1] - shoulders[1], abs=1e-3) == points.HEAD_ABOVE
    marks = landmarks3d(Pose())
    assert pytest.approx(marks["crown"][1] - shoulders[1], abs=1e-3) == points.CROWN_ABOVE
    names = ("nose", "left_eye", "right_eye", "left_ear", "right_ear", "crown")
    offsets = np.stack([marks[name] for name in names]) - at["head"]
    assert np.allclose(offsets, points.HEAD_OFFSETS, atol=1e-3)
    for limb, first in ((points.ARM, 5), (points.LEG, 11)):
        for k in (0, 1):
            length = np.linalg.norm(joints[first + 2 * k] - joints[first + 2 * k + 2])
            assert limb.lengths[k] == pytest.approx(length, abs=1e-3)


def test_person_keypoints_lie_on_the_person() -> None:
    identity = identity_of(0, 2)
    allowed = {
        **{name: {1, 2, 15, 16, 17, 18} for name in COCO[5:7]},
        **{name: set(range(15, 23)) for name in COCO[7:9]},
        **{name: {3, 4, 19, 20, 21, 22} for name in COCO[9:11]},
        **{name: {1, 2, 7, 8, 9, 10} for name in COCO[11:13]},
        **{name: set(range(7, 15)) for name in COCO[13:15]},
        **{name: {5, 6, 11, 12, 13, 14} for name in COCO[15:17]},
    }
    for yaw, faces in ((0.0, [1, 1, 1]), (np.pi, [0, 0, 0])):
        camera = Camera(yaw=yaw)
        person = person_keypoints(identity, camera=camera, height=256, width=128)
        iuv = render_person(identity, camera=camera, height=256, width=128, antialias=False)[1]
        assert person.shape == (17, 3) and person[:3, 2].tolist() == faces and (person[5:, 2] == 1).all()
        for name, (x, y, _) in zip(COCO, person, strict=True):
            side = 1 if name.startswith("right") else 0
            part = int(iuv[int(y), int(x), 0])
            assert part in allowed.get(name, {0, 23, 24}), (name, part)  # glasses are background
            if part > 2 and name not in COCO[:5]:
                mine = {4, 5, 8, 10, 12, 14, 15, 17, 19, 21}
                assert part in (mine if side == 0 else {MIRROR[p] for p in mine}), (name, part)
    with pytest.raises(ValueError, match="height and width must be positive"):
        person_keypoints(identity, height=0)


# --- readers -------------------------------------------------------------------------------------------------------


def flat(person: np.ndarray) -> list[float]:
    values: list[float] = person.ravel().tolist()
    return values


PERSON = np.concatenate([STANDING, np.ones((17, 1), np.float32)], 1)
FAINT = PERSON * np.array([1, 1, 0.5], np.float32) + np.array([5, 0, 0], np.float32)


def test_reads_coco(tmp_path: Path) -> None:
    images = [{"id": 7, "file_name": "a.jpg"}, {"id": 9, "file_name": "sub/b.png"}]
    seen = PERSON.copy()
    seen[:, 2], seen[3] = 2, 0
    seen[4, 2] = 1
    entries = [
        {"image_id": 7, "keypoints": flat(seen)},
        {"image_id": 7, "keypoints": flat(np.zeros((17, 3)))},
        {"image_id": 9, "bbox": [0, 0, 1, 1]},
    ]
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps({"images": images, "annotations": entries}))
    table = read_keypoints(path)
    assert list(table) == ["a.jpg"] and table["a.jpg"][:6, 2].tolist() == [1, 1, 1, 0, 0.5, 1]
    assert np.array_equal(table["a.jpg"][5:, :2], STANDING[5:])

    results = tmp_path / "results.json"
    results.write_text(json.dumps([{"image_id": i, "keypoints": flat(p)} for i, p in ((9, FAINT), (9, PERSON))]))
    for names in (path, {9: "sub/b.png"}):
        table = read_keypoints(results, names=names)
        assert list(table) == ["sub/b.png"] and np.array_equal(table["sub/b.png"], PERSON)
    with pytest.raises(ValueError, match="results.json, person 0: image_id must be .* got 9"):
        read_keypoints(results)
    results.write_text(json.dumps([{"image_id": "c.jpg", "keypoints": flat(PERSON), "score": 2.1}]))
    assert np.array_equal(read_keypoints(results)["c.jpg"], PERSON)


@pytest.mark.parametrize("count", [18, 25])
def test_reads_openpose(tmp_path: Path, count: int) -> None:
    person = in_layout(PERSON, "openpose18")
    if count == 25:
        hips = PERSON[[11, 12]].mean(0, keepdims=True)
        written = np.concatenate([person[:8], hips, person[8:], np.full((6, 3), 3, np.float32)])
    else:
        written = person
    faint = written * np.array([1, 1, 0.1])
    people = [{"pose_keypoints_2d": flat(faint)}, {"pose_keypoints_2d": flat(written)}]
    (tmp_path / "0001_c1_keypoints.json").write_text(json.dumps({"version": 1.3, "people": people}))
    (tmp_path / "0002_c1_keypoints.json").write_text(json.dumps({"people": []}))
    table = read_keypoints(tmp_path)
    assert list(table) == ["0001_c1"] and np.allclose(table["0001_c1"], person)
    assert parts_of(draw(table["0001_c1"])) == parts_of(draw(STANDING))


def test_reads_pifpafs_files(tmp_path: Path) -> None:
    """PifPaf's pixel centers are whole numbers, ours end in .5. Files of a whole data set are in subfolders."""
    written = PERSON - np.array([0.5, 0.5, 0], np.float32)
    faint = written * np.array([1, 1, 0.5])
    annotations = [
        {"keypoints": flat(person), "bbox": [1, 2, 3, 4], "score": 0.5, "category_id": 1} for person in (faint, written)
    ]
    (tmp_path / "query").mkdir()
    (tmp_path / "query" / "0001_c1.jpg.predictions.json").write_text(json.dumps(annotations))
    (tmp_path / "0002_c1.png.predictions.json").write_text("[]")
    table = read_keypoints(tmp_path)
    assert list(table) == ["query/0001_c1.jpg"] and np.allclose(table["query/0001_c1.jpg"], PERSON)
    assert parts_of(draw(table["query/0001_c1.jpg"])) == parts_of(draw(STANDING))


def test_reads_kprs_files(tmp_path: Path) -> None:
    """The target is taken, however sure the others are; without one, the surest; one person may stand alone."""
    written = PERSON - np.array([0.5, 0.5, 0], np.float32)
    faint = written * np.array([1, 1, 0.5], np.float32)
    target = [
        {"keypoints": written.tolist(), "is_target": False},
        {"keypoints": faint.tolist(), "is_target": True},
    ]
    for name, content in (
        ("query/0001_c1.jpg_keypoints.json", target),
        ("query/0002_c1.jpg_keypoints.json", [{"keypoints": flat(faint)}, {"keypoints": flat(written)}]),
        ("demo/0003_c1.json", {"keypoints": written.tolist()}),
        ("demo/0004_c1.json", []),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / "query" / "splits.json").write_text("{}")  # other files may be there
    table = read_keypoints(tmp_path / "query") | read_keypoints(tmp_path / "demo")
    assert list(table) == ["0001_c1.jpg", "0002_c1.jpg", "0003_c1"]
    assert np.allclose(table["0001_c1.jpg"], PERSON * np.array([1, 1, 0.5]))
    assert np.allclose(table["0002_c1.jpg"], PERSON) and np.allclose(table["0003_c1"], PERSON)
    (tmp_path / "query" / "0002_c1.jpg.predictions.json").write_text("[]")
    with pytest.raises(ValueError, match=r"two for 0002_c1\.jpg"):
        read_keypoints(tmp_path / "query")


def test_reads_npz(tmp_path: Path) -> None:
    path = tmp_path / "k.npz"
    np.savez(path, names=np.array(["a.jpg", "b.jpg"]), keypoints=np.stack([STANDING, STANDING + 1]))
    table = read_keypoints(path)
    assert list(table) == ["a.jpg", "b.jpg"] and np.array_equal(table["a.jpg"], PERSON)
    np.savez(path, names=np.array([{"a": 1}], object), keypoints=STANDING[None])
    with pytest.raises(ValueError, match="k.npz must hold the arrays"):  # a pickle inside is not run
        read_keypoints(path)


def test_reads_market1501_body_point(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    person = in_layout(STANDING, "market14")
    path = tmp_path / "points.mat"
    with h5py.File(path, "w") as file:
        file["pp"] = np.stack([(person + 0.5).T.ravel(), (person + 1.5).T.ravel()])
    folder = tmp_path / "query"
    folder.mkdir()
    for name in ("0002_b.jpg", "0001_a.jpg", "Thumbs.db"):
        (folder / name).touch()
    table = read_keypoints(path, names=folder)
    assert list(table) == ["0001_a.jpg", "0002_b.jpg"]
    assert np.allclose(table["0001_a.jpg"][:, :2], person) and np.allclose(table["0002_b.jpg"][:, :2], person + 1)
    assert list(read_keypoints(path, names=["x", "y"])) == ["x", "y"]
    with pytest.raises(ValueError, match=r"names \(--keypoints\.names\) must be the folder"):
        read_keypoints(path)
    with pytest.raises(ValueError, match="has 2 pictures, got 3 names"):
        read_keypoints(path, names=["x", "y", "z"])
    with pytest.raises(FileNotFoundError, match="got .*nowhere"):
        read_keypoints(path, names=tmp_path / "nowhere")


def test_reads_the_three_files_of_market1501_body_point(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    person = in_layout(STANDING, "market14")
    places = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
    (tmp_path / "points").mkdir()
    for number, (split, place) in enumerate(places.items()):
        (tmp_path / "market" / place).mkdir(parents=True)
        (tmp_path / "market" / place / "0001_a.jpg").touch()
        with h5py.File(tmp_path / "points" / f"market1501_14point_{split}.mat", "w") as file:
            file["pp"] = (person + 0.5 + number).T.ravel()[None]
    table = read_keypoints(tmp_path / "points", names=tmp_path / "market")
    assert list(table) == [f"{place}/0001_a.jpg" for place in places.values()]
    assert np.allclose(table["query/0001_a.jpg"][:, :2], person + 1)
    with pytest.raises(ValueError, match="names must be the folder of Market-1501"):
        read_keypoints(tmp_path / "points")
    (tmp_path / "market" / "query" / "0002_b.jpg").touch()
    with pytest.raises(ValueError, match=r"14point_query.mat has 1 pictures, got 2 names"):
        read_keypoints(tmp_path / "points", names=tmp_path / "market")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", "{", "a.json must be JSON"),
        ("a.json", "3", "must be COCO annotations"),
        ("a.json", '{"images": []}', "a list `annotations`"),
        ("a.json", '{"images": 3, "annotations": []}', "images must be a list"),
        ("a.json", "[4]", "person 0: must be an object"),
        ("a.json", '[{"image_id": "x"}]', "person 0: has no keypoints"),
        ("a.json", '[{"image_id": "x", "keypoints": [1, 2]}]', "person 0: keypoints must be a flat list"),
        ("a.json", '[{"image_id": "x", "keypoints": ["q"]}]', "person 0: keypoints must be a list of numbers"),
        ("a.npz", "no zip", "a.npz must hold the arrays names and keypoints"),
        ("a.mat", "no hdf5", "a.mat must be a file of market1501_body_point"),
        ("a.txt", "", "must be a .json, .npz or .mat file, or a folder"),
        ("d/a_keypoints.json", '{"people": 3}', "must have a list `people`"),
        ("d/a.predictions.json", "[3]", r"be a list of \{keypoints\}"),
        ("d/a.predictions.json", '[{"bbox": [1, 2, 3, 4]}]', r"be a list of \{keypoints\}"),
        ("d/a.json", '[{"keypoints": [[1, 2, 3], [4, 5]]}]', "must be a list of numbers"),
        ("d/a.json", '[{"keypoints": [[1, 2, 3]]}]', "17 joints, got 3 numbers"),
        ("d/a.json", '[{"keypoints": [], "is_target": true}, {"keypoints": [], "is_target": 1}]', "got 2"),
        ("d/a_keypoints.json", '{"people": [{"pose_keypoints_2d": [1, 2, 3]}]}', "18 or 25 joints, got 3 numbers"),
        ("d/a.txt", "", "must hold a JSON file per picture"),
    ],
)
def test_reader_errors(tmp_path: Path, name: str, content: str, words: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    with pytest.raises(ValueError, match=words):
        read_keypoints(path.parent if path.parent != tmp_path else path, names=["a"] if name == "a.mat" else None)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="keypoints not found: .*nothing.json"):
        read_keypoints(tmp_path / "nothing.json")


# --- Keypoint R-CNN ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from torchvision.models.detection import keypointrcnn_resnet50_fpn

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "keypoint_rcnn.pth"
    torch.save(keypointrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def estimator(weights: Path) -> PoseEstimator:
    return PoseEstimator(weights, batch_size=2, min_score=0.0, min_size=64)


@pytest.mark.xdist_group("keypoint network")
def test_runs_torchvisions_network(estimator: PoseEstimator) -> None:
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (3, 64 + 8 * i, 32), dtype=torch.uint8, generator=generator) for i in range(3)]
    people = estimator(images)
    assert len(people) == 3 and any(person is not None for person in people)
    for person in people:
        if person is not None:
            assert person.shape == (17, 3) and person.dtype == np.float32
            assert np.isfinite(person).all() and (person[:, 2] >= 0).all() and (person[:, 2] <= 1).all()
    assert estimator([]) == []


def test_runs_on_cuda(weights: Path) -> None:
    if not torch.cuda.is_available():
        (pytest.fail if os.environ.get("DSA_FAST_REQUIRE_CUDA") == "1" else pytest.skip)("PyTorch sees no CUDA device")
    on_gpu = PoseEstimator(weights, device="cuda", min_score=0.0, min_size=64)
    assert next(on_gpu.network.parameters()).is_cuda
    people = on_gpu([torch.full((3, 64, 32), 90, dtype=torch.uint8)] * 2)
    assert len(people) == 2 and all(person is None or isinstance(person, np.ndarray) for person in people)


@pytest.mark.xdist_group("keypoint network")
def test_chooses_the_person_and_keeps_the_order(estimator: PoseEstimator, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []

    def network(images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        batches.append(len(images))
        found = []
        for image in images:
            assert image.dtype == torch.float32 and float(image.max()) <= 1
            mark = float(image[0, 0, 0]) * 255
            keypoints = torch.ones(3, 17, 3) * torch.tensor([1.0, 2.0, 3.0])[:, None, None] + mark
            scores = torch.tensor([0.99, 0.8, 0.6]) if mark < 3 else torch.tensor([0.0, 0.1, 0.2])
            found.append(
                {
                    "boxes": torch.tensor([[0.0, 0, 10, 20], [16, 20, 50, 110], [0, 0, 64, 128]]),
                    "labels": torch.ones(3, dtype=torch.int64),
                    "scores": scores,
                    "keypoints": keypoints,
                    "keypoints_scores": torch.full((3, 17), 2.0),
                }
            )
        return found

    monkeypatch.setattr(estimator, "network", network)
    monkeypatch.setattr(estimator, "min_score", 0.5)
    people = estimator([torch.full((3, 128, 64), i, dtype=torch.uint8) for i in range(5)])
    assert batches == [2, 2, 1]
    for i in range(3):  # the second is sure and in the middle
        person = people[i]
        assert person is not None and np.allclose(person[:, :2], 2 + i) and np.allclose(person[:, 2], 0.5)
    assert people[3] is None and people[4] is None


@pytest.mark.xdist_group("keypoint network")
def test_estimator_errors(tmp_path: Path, weights: Path, estimator: PoseEstimator) -> None:
    with pytest.raises(FileNotFoundError, match="no file .*none.pth"):
        PoseEstimator(tmp_path / "none.pth")
    bad = tmp_path / "bad.pth"
    bad.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="bad.pth' is not a file of tensors"):
        PoseEstimator(bad)
    torch.save([1, 2], bad)
    with pytest.raises(ValueError, match="must hold a state dict .* got list"):
        PoseEstimator(bad)
    torch.save({"a": torch.zeros(1)}, bad)
    with pytest.raises(ValueError, match="[0-9]+ missing: "):
        PoseEstimator(bad)

    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
            return Path.touch, (tmp_path / "ran",)

    torch.save(Evil(), bad)
    with pytest.raises(ValueError, match="is not a file of tensors"):
        PoseEstimator(bad)
    assert not (tmp_path / "ran").exists()
    for options, words in (
        ({"batch_size": 0}, "batch_size"),
        ({"min_size": 0}, "min_size"),
        ({"min_score": 2}, "0..1"),
    ):
        with pytest.raises(ValueError, match=words):
            PoseEstimator(weights, **options)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="images must be uint8 tensors, got torch.float32"):
        estimator([torch.zeros(3, 8, 8)])
    with pytest.raises(ValueError, match=r"\[3, H, W\], got \[8, 8\]"):
        estimator([torch.zeros(8, 8, dtype=torch.uint8)])
