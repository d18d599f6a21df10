"""Synthetic people: exactness of the maps, conventions, determinism, layout, misalignments, errors."""

from __future__ import annotations

import importlib
import json
import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import dsa_fast
from dsa_fast.cli import main
from dsa_fast.cli.parser import make_parser
from dsa_fast.data.registry import read_dataset
from dsa_fast.data.synth import (
    STRENGTHS,
    Camera,
    SynthConfig,
    Window,
    damage_iuv,
    dataset,
    entries,
    make_dataset,
    make_identity,
    random_pose,
    render_person,
    render_picture,
)
from dsa_fast.data.synth.person import identity_of, outfit_of
from dsa_fast.data.synth.render import downsample, rasterize
from dsa_fast.densepose.body import JOINTS, Pose, Shape, build_body, joints3d, landmarks3d
from dsa_fast.densepose.iuv import flip_iuv, read_iuv
from dsa_fast.densepose.parts import MIRROR
from dsa_fast.evaluation import evaluate, histogram_features

ALIGNED = dict.fromkeys(STRENGTHS, 0.0)
TINY = SynthConfig(identities=4, cameras=2, images_per_camera=2, distractors=1.0, junk=0.5, height=64, width=32)


def _pose(seed: int) -> Pose:
    return random_pose(1.0, np.random.default_rng(seed))


def _tensor(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))


# --- body -----------------------------------------------------------------------------------------------------------


def test_every_chart_covers_the_unit_square():
    body = build_body()
    assert sorted(body.grids) == list(range(1, 25))
    for part in range(1, 25):
        uv = body.uv[body.part == part]
        assert uv.min(0) == pytest.approx([0, 0], abs=0.02) and uv.max(0) == pytest.approx([1, 1], abs=0.02), part


def test_stands_on_the_ground_with_the_height_asked_for():
    for height in (1.4, 1.72, 1.95):
        points = build_body(Shape(height=height)).posed(Pose())[0]
        assert points[:, 1].min() == pytest.approx(0, abs=0.01)
        assert points[:, 1].max() == pytest.approx(height, rel=0.03)


def test_body_and_skeleton_are_symmetric():
    pose = _pose(5)
    mirrored = joints3d(pose.mirrored())
    names = [name.replace("left", "x").replace("right", "left").replace("x", "right") for name in JOINTS]
    expected = joints3d(pose)[[JOINTS.index(name) for name in names]] * [-1, 1, 1]
    np.testing.assert_allclose(mirrored, expected, atol=1e-6)
    body = build_body(Shape(belly=0.05, skirt=0.8, hair=0.02))
    for part, (first, rows, columns) in body.grids.items():
        other, _, _ = body.grids[MIRROR[part]]
        here, there = (body.vertices[k : k + rows * columns].reshape(rows, columns, 3) for k in (first, other))
        mirrored = there[:, ::-1] if part <= 2 else there
        np.testing.assert_allclose(here * [-1, 1, 1], mirrored, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_poses_keep_the_lengths_of_bones(seed):
    from dsa_fast.densepose.body import PARENTS

    def lengths(points: np.ndarray) -> np.ndarray:
        return np.linalg.norm(points[1:] - points[list(PARENTS[1:])], axis=1)

    np.testing.assert_allclose(lengths(joints3d(_pose(seed))), lengths(joints3d(Pose())), atol=1e-6)


def test_joint_angles_turn_as_documented():
    def moved(name: str, **angles: tuple[float, float, float]) -> np.ndarray:
        index = JOINTS.index(name)
        return joints3d(Pose.of(**angles))[index] - joints3d(Pose())[index]

    assert moved("left_wrist", left_elbow=(-1, 0, 0))[2] > 0.1  # forward
    assert moved("left_ankle", left_knee=(1, 0, 0))[2] < -0.1  # backward
    assert moved("left_wrist", left_shoulder=(0, 0, 1))[0] > 0.2  # sideways
    assert moved("right_wrist", right_shoulder=(0, 0, -1))[0] < -0.2
    nose = landmarks3d(Pose())["nose"]
    assert nose[2] > 0.08 and landmarks3d(Pose.of(head=(0, 1, 0)))["nose"][0] > 0.05  # turned to the left


def test_body_errors():
    with pytest.raises(ValueError, match="height must be in 0.5..2.5 meters, got 3"):
        build_body(Shape(height=3))
    with pytest.raises(ValueError, match="skirt must be in 0..2.0, got -1"):
        build_body(Shape(skirt=-1))
    with pytest.raises(ValueError, match="joints are pelvis.*got 'tail'"):
        Pose.of(tail=(0, 0, 0))
    with pytest.raises(ValueError, match="part must be in 1..24, got 0"):
        build_body().surface_points(Pose(), 0, 0.5, 0.5)


# --- rasteriser -----------------------------------------------------------------------------------------------------


def test_rasterizer_finds_the_nearest_triangle_like_a_loop():
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.uniform(-3, 23, (30, 2)), rng.uniform(0, 1, (30, 1))], 1).astype(np.float32)
    faces = rng.permutation(30).reshape(10, 3).astype(np.int32)
    fragments = rasterize(points, faces, 20, 20)
    found = np.full(400, -1)
    found[fragments.index] = [list(map(tuple, faces)).index(tuple(v)) for v in fragments.vertices.T]
    expected, depths = np.full((20, 20), -1), np.full((20, 20), -np.inf)
    for f, (a, b, c) in enumerate(points[faces].astype(np.float64)):
        (ux, uy), (vx, vy) = (b - a)[:2], (c - a)[:2]
        area = ux * vy - uy * vx
        if area >= 0:  # clockwise on paper
            continue
        for y in range(20):
            for x in range(20):
                s = ((x - a[0]) * vy - (y - a[1]) * vx) / area
                t = (ux * (y - a[1]) - uy * (x - a[0])) / area
                depth = a[2] + s * (b[2] - a[2]) + t * (c[2] - a[2])
                if min(s, t, 1 - s - t) >= 0 and depth > depths[y, x]:
                    depths[y, x], expected[y, x] = depth, f
    assert (expected >= 0).sum() > 50
    np.testing.assert_array_equal(found.reshape(20, 20), expected)


def test_downsampling_keeps_linear_colours():
    y, x = np.mgrid[:17, :9].astype(np.float32)
    pixels = downsample(np.stack([x, y], -1))
    np.testing.assert_allclose(pixels[..., 0], np.tile(np.arange(1, 9, 2), (8, 1)), atol=1e-5)
    np.testing.assert_allclose(pixels[..., 1], np.tile(np.arange(1, 17, 2)[:, None], (1, 4)), atol=1e-5)


# --- exactness ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_map_says_which_texel_each_pixel_shows(seed):
    """Textures that are the code of their own (part, u, v) must read back as the map."""
    size = 128
    identity = make_identity(seed, size=size)
    ramp = ((np.arange(size) + 0.5) / size * 255).round().astype(np.uint8)
    texture = np.zeros_like(identity.texture)
    texture[..., 0] = ramp[:, None]
    texture[..., 1] = ramp[None]
    texture[:24, ..., 2] = np.arange(1, 25)[:, None, None]
    identity = replace(identity, texture=texture)
    picture, iuv = render_person(
        identity,
        _pose(seed),
        Camera(1.3 * seed, 0.2),
        light=None,
        antialias=False,
        background=0.0,
        height=160,
        width=80,
    )
    part = iuv[..., 0]
    assert (part > 0).mean() > 0.08
    np.testing.assert_array_equal(picture[..., 2], part)
    error = np.abs(picture[..., :2].astype(int) - iuv[..., 1:])[part > 0]
    assert error.max() <= 2  # half a texel and two roundings
    assert not iuv[part == 0].any()


@pytest.mark.parametrize("seed", range(3))
def test_surface_points_project_back_to_their_pixels(seed):
    """Independent of the rasteriser: the point that the map names lies, when projected, on its pixel."""
    identity, pose, camera = make_identity(seed), _pose(seed + 10), Camera(0.4 + 2 * seed, 0.15, 5)
    window = Window(0, 0, 1.05, 2.1)
    _, iuv = render_person(identity, pose, camera, window, height=256, width=128)
    errors = []
    for part in np.unique(iuv[..., 0])[1:]:
        y, x = np.nonzero(iuv[..., 0] == part)
        u, v = iuv[y, x, 1] / 255, iuv[y, x, 2] / 255
        seen = camera.project(identity.body.surface_points(pose, int(part), u, v))
        px = (seen[:, 0] / window.width + 0.5) * 128 - 0.5
        py = (0.5 - seen[:, 1] / window.height) * 256 - 0.5
        errors.append(np.hypot(px - x, py - y))
    error = np.concatenate(errors)
    assert len(error) > 2000
    assert np.quantile(error, 0.95) < 0.6 and np.median(error) < 0.25  # u and v are rounded to 1/255 of a chart


def test_views_of_one_person_agree_texel_by_texel():
    def warped(seed: int, pose: Pose, yaw: float) -> tuple[torch.Tensor, torch.Tensor]:
        picture, iuv = render_person(make_identity(seed), pose, Camera(yaw), light=None, height=256, width=128)
        return dsa_fast.warp(_tensor(picture).float(), _tensor(iuv), size=16, reduce="mean", return_count=True)

    same, different, shared = [], [], 0
    for seed in range(4):
        a, count_a = warped(seed, _pose(seed), 0.2)
        b, count_b = warped(seed, _pose(seed + 50), 1.0)
        c, count_c = warped(seed + 40, _pose(seed + 50), 1.0)
        both = (count_a > 1) & (count_b > 1)
        shared += int(both.sum())
        same.append((a - b).abs().mean(1)[both].median())
        both = (count_a > 1) & (count_c > 1)
        different.append((a - c).abs().mean(1)[both].median())
    assert shared > 1500
    assert max(same) < 6 and min(different) > 4 * max(same)


@pytest.mark.parametrize("seed", range(4))
def test_flip_law(seed):
    identity, pose, camera = make_identity(seed), _pose(seed), Camera(0.9 * seed, 0.2, 6, 0.05)
    twin = Camera(-camera.yaw, camera.pitch, camera.distance, -camera.roll)
    bare = replace(identity, accessories=())
    _, iuv = render_person(bare, pose, camera)
    _, mirrored = render_person(bare, pose.mirrored(), twin)
    expected, got = flip_iuv(_tensor(iuv)).int(), _tensor(mirrored).int()
    same = expected[0] == got[0]
    assert same.float().mean() > 0.995  # where two charts are equally near, either may win
    inside = same & (got[0] > 0)
    assert (expected - got).abs()[1:, inside].float().mean() < 0.2


# Where u and v grow on real DensePose maps of upright people: in the picture, (right, down).
_RIGHT, _LEFT, _DOWN, _UP = (1, 0), (-1, 0), (0, 1), (0, -1)
_MEASURED = {
    "front": {
        **{2: (_DOWN, _LEFT), 3: (_LEFT, _DOWN), 4: (_LEFT, _DOWN), 5: (_DOWN, _RIGHT), 6: (_UP, _LEFT)},
        **{9: (_UP, _RIGHT), 10: (_UP, _LEFT), 13: (_DOWN, _LEFT), 14: (_DOWN, _RIGHT)},
        **{15: (_DOWN, _RIGHT), 16: (_DOWN, _LEFT), 17: (_DOWN, _LEFT), 18: (_DOWN, _RIGHT)},
        **{19: (_UP, _LEFT), 20: (_UP, _RIGHT), 21: (_DOWN, _LEFT), 22: (_DOWN, _RIGHT)},
        **{23: (_RIGHT, _UP), 24: (_RIGHT, _UP)},
    },
    "back": {
        **{1: (_DOWN, _RIGHT), 7: (_DOWN, _RIGHT), 8: (_DOWN, _LEFT), 11: (_UP, _RIGHT), 12: (_UP, _LEFT)},
        **{17: (_DOWN, _LEFT), 18: (_DOWN, _RIGHT), 19: (_UP, _LEFT), 20: (_UP, _RIGHT)},
        **{21: (_DOWN, _LEFT), 22: (_DOWN, _RIGHT), 23: (_RIGHT, _UP), 24: (_RIGHT, _UP)},
    },
}


@pytest.mark.parametrize("side", ["front", "back"])
def test_charts_run_as_on_real_maps(side):
    pose = Pose.of(left_shoulder=(0, 0, 0.2), right_shoulder=(0, 0, -0.2))
    camera = Camera(0.0 if side == "front" else np.pi, 0.05)
    bare = replace(make_identity(0), shape=Shape(), accessories=())
    _, iuv = render_person(bare, pose, camera, height=384, width=192)
    for part, directions in _MEASURED[side].items():
        y, x = np.nonzero(iuv[..., 0] == part)
        assert len(y) > 50, part
        design = np.stack([x, y, np.ones_like(x)], 1).astype(float)
        for channel, expected in enumerate(directions, start=1):
            slope = np.linalg.lstsq(design, iuv[y, x, channel] / 255, rcond=None)[0][:2]
            assert slope @ expected / np.linalg.norm(slope) > 0.7, (part, "uv"[channel - 1])


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), yaw=st.floats(-7, 7), pitch=st.floats(0, 0.6), height=st.integers(16, 90))
def test_any_pose_and_view_gives_a_sound_map(seed, yaw, pitch, height):
    picture, iuv = render_person(make_identity(seed % 7), _pose(seed), Camera(yaw, pitch, 6), height=height, width=24)
    assert picture.shape == iuv.shape == (height, 24, 3) and picture.dtype == iuv.dtype == np.uint8
    assert iuv[..., 0].max() <= 24 and not iuv[iuv[..., 0] == 0].any()
    assert (iuv[..., 0] > 0).mean() > 0.04  # the least of 14,000 random tries: 0.044, with 16 rows from the side


def test_render_person_errors():
    with pytest.raises(ValueError, match="height and width must be positive, got 0 and 64"):
        render_person(make_identity(0), height=0)
    with pytest.raises(
        ValueError, match=r"background must be a number or have shape \[257, 129, 3\], got \[128, 64, 3\]"
    ):
        render_person(make_identity(0), background=np.zeros((128, 64, 3), np.float32))


# --- identities and misalignments -----------------------------------------------------------------------------------


def test_identity_is_a_function_of_its_seed():
    one, again, other = make_identity(1), make_identity(1), make_identity(2)
    assert one.shape == again.shape and np.array_equal(one.texture, again.texture)
    assert not np.array_equal(one.texture, other.texture)


def test_without_misalignment_all_pictures_of_a_person_are_the_same():
    config = SynthConfig(**ALIGNED)
    pairs = [render_picture(config, 1, camid, index) for camid in (1, 2, 3) for index in (0, 1)]
    pictures, maps = [picture for picture, _ in pairs], [iuv for _, iuv in pairs]
    for picture, iuv in zip(pictures, maps, strict=True):
        np.testing.assert_array_equal(picture, pictures[0])
        np.testing.assert_array_equal(iuv, maps[0])
    rows = np.flatnonzero((maps[0][..., 0] > 0).any(1))
    columns = np.flatnonzero((maps[0][..., 0] > 0).any(0))
    assert rows[0] in range(1, 8) and rows[-1] in range(120, 127)  # a tight box, with a margin
    assert abs(columns[0] + columns[-1] - 63) <= 2
    assert {1, 7, 8}.isdisjoint(np.unique(maps[0][..., 0])) and 2 in maps[0][..., 0]  # from the front


@pytest.mark.parametrize("name", STRENGTHS)
def test_each_strength_misaligns(name):
    config = SynthConfig(**{**ALIGNED, name: 1.0})
    aligned = render_picture(SynthConfig(**ALIGNED), 1, 1, 0)
    changed = [render_picture(config, 1, 1 + k % 3, k) for k in range(8)]
    assert any(np.abs(picture.astype(int) - aligned[0]).mean() > 2 for picture, _ in changed)
    moved = [bool((iuv[..., 0] != aligned[1][..., 0]).any()) for _, iuv in changed]
    # Only what is about place changes the map; light, colour and background leave it alone.
    assert any(moved) == (name in ("pose", "view", "box", "occlusion"))


def test_what_is_hidden_is_background_in_the_map():
    clear, hidden = (SynthConfig(**{**ALIGNED, "occlusion": strength}) for strength in (0.0, 1.0))
    whole_picture, whole = render_picture(clear, 1, 1, 0)
    less = 0
    for index in range(12):
        picture, iuv = render_picture(hidden, 1, 1, index)
        kept = iuv[..., 0] > 0
        np.testing.assert_array_equal(iuv[kept], whole[kept])  # nothing is moved or added
        covered = (whole[..., 0] > 0) & ~kept
        less += covered.any()
        if covered.any():
            assert np.abs(picture.astype(int) - whole_picture)[covered].mean() > 5
    assert less >= 6


@pytest.mark.parametrize("strength", [0.4, 1.0])
def test_an_object_hides_the_share_of_a_query_that_was_asked_for(strength):
    config = SynthConfig(**{**ALIGNED, "height": 256, "width": 128})
    occluded = replace(config, query_occlusion=strength)
    shares = []
    for number in range(1, 17):
        whole_picture, whole = render_picture(config, number, 1, 0, kind="query")
        picture, iuv = render_picture(occluded, number, 1, 0, kind="query")
        kept = iuv[..., 0] > 0
        np.testing.assert_array_equal(iuv[kept], whole[kept])
        covered = (whole[..., 0] > 0) & ~kept
        # What the object hides is background in the map. Elsewhere only its antialiased edges change the picture.
        changed = (picture != whole_picture).any(2)
        edges = int((kept & changed).any(1).sum()), int((kept & changed).any(0).sum())
        assert changed[covered].mean() > 0.99 and min(edges) <= 2, edges
        shares.append(covered.sum() / (whole[..., 0] > 0).sum())
        np.testing.assert_array_equal(
            render_picture(occluded, number, 1, 1)[0], render_picture(config, number, 1, 1)[0]
        )
    assert strength * 0.2 < min(shares) and max(shares) < strength * 0.8 + 0.02
    assert np.std(shares) > 0.05 * strength


def test_clothes_change_and_people_stay():
    for number in (1, 2, 3):
        first, second, again = (identity_of(0, number, outfit) for outfit in (1, 2, 2))
        worn = ("sleeves", "trousers", "skirt", "coat", "hair")
        assert {k: v for k, v in vars(first.shape).items() if k not in worn} == {
            k: v for k, v in vars(second.shape).items() if k not in worn
        }
        np.testing.assert_array_equal(second.texture, again.texture)
        assert first.about["top"] != second.about["top"]
        assert first.about["head"].partition(",")[0] == second.about["head"].partition(",")[0]  # the hair
    config = SynthConfig(cameras=4, clothes=2)
    for number in (1, 2):
        assert {outfit_of(config, number, camid) for camid in range(1, 5)} == {1, 2}
    assert outfit_of(config, 1, 1) != outfit_of(config, 2, 1)


def test_damage_of_maps():
    rng = np.random.default_rng
    iuv = render_picture(SynthConfig(**ALIGNED), 1, 1, 0)[1]
    none = {"miss_person": 0.0, "miss_part": 0.0, "noise": 0.0}
    np.testing.assert_array_equal(damage_iuv(iuv, **none, rng=rng(0)), iuv)
    missed = [not damage_iuv(iuv, **{**none, "miss_person": 0.3}, rng=rng(k)).any() for k in range(300)]
    assert 0.2 < np.mean(missed) < 0.4
    parts, present = [], np.unique(iuv[..., 0])[1:]
    for k in range(100):
        damaged = damage_iuv(iuv, **{**none, "miss_part": 0.25}, rng=rng(k))
        kept = damaged[..., 0] > 0
        np.testing.assert_array_equal(damaged[kept], iuv[kept])
        left = np.unique(damaged[..., 0][kept])
        assert (np.isin(iuv[..., 0], left) == kept).all()  # a part goes as a whole
        parts.append(1 - len(left) / len(present))
    assert 0.2 < np.mean(parts) < 0.3
    noisy = damage_iuv(iuv, **{**none, "noise": 0.05}, rng=rng(1))
    np.testing.assert_array_equal(noisy[..., 0], iuv[..., 0])
    inside = (iuv[..., 0] > 0) & (iuv[..., 1:] > 60).all(-1) & (iuv[..., 1:] < 195).all(-1)
    errors = (noisy.astype(float) - iuv)[..., 1:][inside] / 255
    assert 0.03 < errors.std() < 0.08
    config = SynthConfig(**ALIGNED, iuv_miss_person=1.0)
    picture, empty = render_picture(config, 1, 1, 0)
    assert not empty.any()
    np.testing.assert_array_equal(picture, render_picture(SynthConfig(**ALIGNED), 1, 1, 0)[0])


def test_histograms_do_not_solve_it():
    config = SynthConfig(identities=40, images_per_camera=2, distractors=0, junk=0)
    rows = [entry for entry in entries(config) if entry.split != "bounding_box_train"]
    pictures = np.stack([render_picture(config, row.number, row.camid, row.index)[0] for row in rows])
    features = histogram_features(torch.from_numpy(pictures).permute(0, 3, 1, 2))
    query = torch.tensor([row.split == "query" for row in rows])
    pids, camids = (torch.tensor([getattr(row, name) for row in rows]) for name in ("pid", "camid"))
    result = evaluate(features[query], pids[query], camids[query], features[~query], pids[~query], camids[~query])
    assert result.num_valid_queries == 80
    assert result.mAP < 0.5


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("synth") / "people", TINY)


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_layout(made):
    names = {split: sorted(p.name for p in (made / split).iterdir()) for split in Market1501_SPLITS}
    assert [len(names[split]) for split in Market1501_SPLITS] == [8, 4, 4 + 4 + 2]
    for split, files in names.items():
        for name in files:
            assert re.fullmatch(r"(-1|\d{4})_c\d+s1_\d{6}_\d\d\.jpg", name), name
            with Image.open(made / split / name) as image:
                assert image.size == (32, 64) and image.layer[0][1:3] == image.layer[1][1:3]  # 4:4:4
            assert read_iuv(made / "iuv" / split / name.replace(".jpg", ".png"), size=(64, 32)).shape == (3, 64, 32)
    about = json.loads((made / "synth.json").read_text())
    assert about["config"] == TINY.as_dict() and about["version"] == dataset.VERSION
    assert sorted(p.name for p in made.parent.iterdir()) == ["people"]


Market1501_SPLITS = ("bounding_box_train", "query", "bounding_box_test")


def test_loader_reads_it_and_every_query_has_a_match(made):
    data = read_dataset(made)
    assert all(person.iuv_path is not None for person in (*data.train, *data.query, *data.gallery))
    train, test = {p.pid for p in data.train}, {p.pid for p in data.query}
    assert train.isdisjoint(test) and len(train) == len(test) == 2
    assert {p.pid for p in data.gallery} == test | {0, -1}
    for query in data.query:
        assert any(p.pid == query.pid and p.camid != query.camid for p in data.gallery)
    assert len({(q.pid, q.camid) for q in data.query}) == len(data.query)


def test_people_in_several_outfits_are_read_with_their_clothes(tmp_path):
    make_dataset(tmp_path / "a", replace(TINY, clothes=2, query_occlusion=0.5))
    about = json.loads((tmp_path / "a" / "synth.json").read_text())["config"]
    assert about["clothes"] == 2 and about["query_occlusion"] == 0.5
    data = read_dataset(tmp_path / "a", protocol="cloth-changing")
    assert data.other_clothes and "in the same clothes" in data.notes()[0]
    for person in (*data.train, *data.query):
        assert person.clothes == 1 + (person.pid + person.camid) % 2
    for query in data.query:  # both protocols have a match
        assert any(p.pid == query.pid and p.camid != query.camid and p.clothes != query.clothes for p in data.gallery)
    assert not read_dataset(tmp_path / "a").other_clothes
    with pytest.raises(ValueError, match="protocol must be standard or cloth-changing, got 'all'"):
        read_dataset(tmp_path / "a", protocol="all")
    make_dataset(tmp_path / "b", TINY)
    with pytest.raises(ValueError, match="needs people with several outfits"):
        read_dataset(tmp_path / "b", protocol="cloth-changing")


def test_same_settings_give_same_bytes_however_many_work(made, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "_INLINE", 0)
    again = make_dataset(tmp_path / "again", TINY, workers=2)
    assert _bytes(again) == _bytes(made)
    other = make_dataset(tmp_path / "other", replace(TINY, seed=1), workers=1)
    assert _bytes(other).keys() == _bytes(made).keys()
    assert (
        sum(a == b for a, b in zip(_bytes(other).values(), _bytes(made).values(), strict=True)) < 12
    )  # empty maps only


def test_more_people_do_not_change_those_there_were():
    a, b = (replace(TINY, identities=n) for n in (4, 40))
    np.testing.assert_array_equal(render_picture(a, 1, 1, 0)[0], render_picture(b, 1, 1, 0)[0])


def test_names_stay_unique_when_there_are_many():
    rows = entries(SynthConfig(identities=300, distractors=2.0))
    stems = {(row.split, row.stem) for row in rows}
    assert len(stems) == len(rows)
    assert len({(row.number, row.camid, row.index) for row in rows}) == len(rows)  # no picture twice


def test_overwriting(made, tmp_path):
    out = tmp_path / "out"
    make_dataset(out, TINY)
    with pytest.raises(FileExistsError, match="out must be new or empty"):
        make_dataset(out, TINY)
    make_dataset(out, replace(TINY, seed=3), overwrite=True)
    assert json.loads((out / "synth.json").read_text())["config"]["seed"] == 3
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="without a synth.json"):
        make_dataset(foreign, TINY, overwrite=True)
    assert (foreign / "thesis.txt").read_text() == "years of work"


def test_interruption_leaves_nothing(tmp_path):
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_dataset(tmp_path / "out", TINY, progress=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"identities": 1}, ValueError, "identities must be at least 2, got 1"),
        ({"cameras": 1}, ValueError, "cameras must be at least 2, got 1"),
        ({"images_per_camera": 1}, ValueError, "images_per_camera must be at least 2, got 1"),
        ({"pose": 1.5}, ValueError, r"pose must be in 0..1, got 1.5"),
        ({"iuv_noise": -0.1}, ValueError, r"iuv_noise must be in 0..1, got -0.1"),
        ({"blur": float("nan")}, ValueError, r"blur must be in 0..1, got nan"),
        ({"height": 8}, ValueError, r"height must be in 16..2048 pixels, got 8"),
        ({"jpeg_quality": 0}, ValueError, r"jpeg_quality must be in 1..100, got 0"),
        ({"distractors": -1}, ValueError, r"distractors must be in 0..100"),
        ({"seed": 1.5}, TypeError, "seed must be a whole number, got 1.5"),
        ({"query_occlusion": 2}, ValueError, "query_occlusion must be in 0..1, got 2"),
        ({"clothes": 5}, ValueError, r"clothes must be in 1..cameras \(4\), got 5"),
        ({"view": "all"}, TypeError, "view must be a number, got 'all'"),
    ],
)
def test_settings_are_checked(settings, error, message):
    with pytest.raises(error, match=message):
        SynthConfig(**settings)


def test_command_has_every_setting_with_its_default():
    options = vars(make_parser(importlib.import_module("dsa_fast.cli.synth").synth, "synth").get_defaults())
    assert {item.name: options[item.name] for item in fields(SynthConfig)} == SynthConfig().as_dict()


def test_workers_are_checked(tmp_path):
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        make_dataset(tmp_path / "out", TINY, workers=0)


def test_command(tmp_path, capsys):
    out = tmp_path / "people"
    small = ["--identities", "2", "--cameras", "2", "--images_per_camera", "2", "--height", "32", "--width", "16"]
    assert main(["synth", "--out", str(out), *small, "--seed", "7"]) == 0
    with Image.open(out / "preview.png") as image:
        assert image.width > 200
    assert "8 images of 2 people" in capsys.readouterr().out
    assert len(list((out / "query").iterdir())) == 2
    assert main(["synth", "--out", str(out), *small]) == 1
    assert "dsa-fast synth: error: --out must be new or empty" in capsys.readouterr().err
    assert main(["synth", "--out", str(tmp_path / "x"), *small, "--pose", "2"]) == 1
    assert "pose must be in 0..1, got 2" in capsys.readouterr().err
