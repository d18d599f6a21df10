"""Maps of fitted bodies: a mesh and charts that the tests make, and a plain ray caster as reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from dsa_fast.cli import main
from dsa_fast.densepose import read_iuv
from dsa_fast.densepose.prepare import MAKER_KEY
from dsa_fast.densepose.smpl import UVSurface, draw_smpl, read_bodies, read_uv_surface

scipy_io = pytest.importorskip("scipy.io")
SIZE = (64, 48)
FOCAL, CENTER = np.array([60.0, 50.0], np.float32), np.array([25.0, 30.0], np.float32)


def ball(rings: int = 24, around: int = 32) -> tuple[NDArray[np.float32], dict[str, NDArray[Any]]]:
    """A ball of radius 0.4 m with parts 1 (upper half) and 2 (lower), as mesh and as UV_Processed.mat."""
    polar, turn = np.linspace(0, np.pi, rings + 1), np.linspace(0, 2 * np.pi, around + 1)[:-1]
    grid = np.stack(
        [
            np.outer(np.sin(polar), np.cos(turn)),
            np.repeat(-np.cos(polar)[:, None], around, 1),
            np.outer(np.sin(polar), np.sin(turn)),
        ],
        -1,
    )
    mesh = 0.4 * grid.reshape(-1, 3)
    faces, parts = [], []
    for ring in range(rings):
        for step in range(around):
            a, b = ring * around + step, ring * around + (step + 1) % around
            faces += [(a, b, b + around), (a, b + around, a + around)]
            parts += [1 if ring < rings // 2 else 2] * 2
    # Vertices come in another order than the mesh's, as in DensePose's file.
    order = np.random.default_rng(0).permutation(len(mesh))
    place = np.argsort(order)
    ring_of, step_of = np.divmod(order, around)
    charts = {
        "All_vertices": (order + 1)[None].astype(np.uint32),
        "All_Faces": (place[np.array(faces)] + 1).astype(np.uint16),
        "All_FaceIndices": np.array(parts, np.uint8)[:, None],
        "All_U_norm": (ring_of / rings)[:, None],
        "All_V_norm": (0.5 - 0.5 * np.cos(turn[step_of]))[:, None],
    }
    return mesh.astype(np.float32), charts


MESH, CHARTS = ball()


@pytest.fixture(scope="module")
def uv_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("uv") / "UV_Processed.mat"
    scipy_io.savemat(path, CHARTS, do_compression=True)
    return path


@pytest.fixture(scope="module")
def surface(uv_file: Path) -> UVSurface:
    return read_uv_surface(uv_file)


def cast(vertices: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """I, U, V by a ray through each pixel's center, in float64: Möller and Trumbore's test with every triangle."""
    corners = vertices.astype(np.float64)[CHARTS["All_vertices"][0].astype(int) - 1][
        CHARTS["All_Faces"].astype(int) - 1
    ]
    uv = np.concatenate([CHARTS["All_U_norm"], CHARTS["All_V_norm"]], 1)[CHARTS["All_Faces"].astype(int) - 1]
    a, ab, ac = corners[:, 0], corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    result = np.zeros((3, *SIZE))
    for row in range(SIZE[0]):
        for column in range(SIZE[1]):
            ray = np.array([(column + 0.5 - CENTER[0]) / FOCAL[0], (row + 0.5 - CENTER[1]) / FOCAL[1], 1.0])
            cross = np.cross(ray, ac)
            det = (ab * cross).sum(1)
            with np.errstate(all="ignore"):
                s = (-a * cross).sum(1) / det
                q = np.cross(-a, ab)
                t, depth = (ray * q).sum(1) / det, (ac * q).sum(1) / det
                hit = (s >= 0) & (t >= 0) & (s + t <= 1) & (depth > 0) & (np.abs(det) > 1e-12)
            if hit.any():
                first = int(np.where(hit, depth, np.inf).argmin())
                weights = np.array([1 - s[first] - t[first], s[first], t[first]])
                result[:, row, column] = CHARTS["All_FaceIndices"][first, 0], *(weights @ uv[first])
    return result


def two_balls() -> NDArray[np.float32]:
    """A body whose lower half is pushed in front of its upper half, so that parts hide each other."""
    bent = MESH.copy()
    low = bent[:, 1] > 0.05
    bent[low] += np.array([0.1, -0.15, -0.5], np.float32)
    return bent


@pytest.mark.parametrize("mesh", [MESH, two_balls()], ids=["ball", "occluded"])
def test_maps_are_those_of_a_ray_caster(surface: UVSurface, mesh: NDArray[np.float32]) -> None:
    vertices = mesh + np.array([0.03, -0.02, 2.0], np.float32)
    iuv = draw_smpl(surface, vertices, FOCAL, CENTER, SIZE).numpy()
    expected = cast(vertices)
    assert (expected[0] > 0).sum() > 300 and {1, 2} <= set(iuv[0].ravel().tolist())
    assert (iuv[0] == expected[0]).mean() > 0.997, "but for pixels whose center is on an edge"
    same = (iuv[0] == expected[0]) & (iuv[0] > 0)
    # Perspective within a triangle, and the other triangle at a crease.
    error = np.abs(iuv[1:] - 255 * expected[1:])[:, same]
    assert np.quantile(error, 0.98) <= 1.5 and error.max() < 16


def test_both_sides_of_a_triangle_are_seen(surface: UVSurface) -> None:
    vertices = MESH + np.array([0, 0, 2], np.float32)
    turned = surface._replace(faces=np.ascontiguousarray(surface.faces[:, ::-1]))
    first, second = (draw_smpl(each, vertices, FOCAL, CENTER, SIZE) for each in (surface, turned))
    assert (first == second).double().mean() > 0.99


def test_what_is_behind_the_camera_is_not_drawn(surface: UVSurface) -> None:
    behind = MESH + np.array([0, 0, -2], np.float32)
    assert not draw_smpl(surface, behind, FOCAL, CENTER, SIZE).any()
    through = draw_smpl(surface, MESH, FOCAL, CENTER, SIZE)
    assert through.any()
    with pytest.raises(ValueError, match="vertices must have 800 rows or more, got 10"):
        draw_smpl(surface, MESH[:10], FOCAL, CENTER, SIZE)


def test_charts_are_read_with_a_vertex_for_each_part(surface: UVSurface) -> None:
    for corner, part in zip(surface.faces, CHARTS["All_FaceIndices"].ravel(), strict=True):
        assert (surface.part[corner] == part).all()
    given = CHARTS["All_vertices"][0].astype(int)[CHARTS["All_Faces"].astype(int) - 1] - 1
    assert np.array_equal(surface.vertex[surface.faces], given)
    u = CHARTS["All_U_norm"][CHARTS["All_Faces"].astype(int) - 1, 0]
    assert np.allclose(surface.uv[surface.faces][..., 0], u)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"All_U_norm": CHARTS["All_U_norm"] * 2}, r"must be in \[0, 1\]"),
        ({"All_U_norm": CHARTS["All_U_norm"][:5]}, "a value per vertex"),
        ({"All_Faces": CHARTS["All_Faces"] * 9}, r"integers in 1..800"),
        ({"All_Faces": CHARTS["All_Faces"][:, :2]}, r"must be \[F, 3\]"),
        ({"All_FaceIndices": CHARTS["All_FaceIndices"] + 24}, r"integers in 1..24"),
        ({"All_FaceIndices": CHARTS["All_FaceIndices"][:3]}, "a part per face"),
        ({"All_vertices": CHARTS["All_vertices"] * 0}, "integers from 1"),
        ({"All_vertices": np.array([["a"]], object)}, "UV_Processed.mat, got"),
    ],
)
def test_other_charts_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    scipy_io.savemat(tmp_path / "uv.mat", CHARTS | change)
    with pytest.raises(ValueError, match=message):
        read_uv_surface(tmp_path / "uv.mat")


def test_files_that_are_no_charts(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.mat"):
        read_uv_surface(tmp_path / "nothing.mat")
    scipy_io.savemat(tmp_path / "part.mat", {"All_U_norm": np.zeros(3)})
    (tmp_path / "text.mat").write_text("text")
    for name in ("part.mat", "text.mat"):
        with pytest.raises(ValueError, match=name):
            read_uv_surface(tmp_path / name)


def test_cameras_of_the_kinds_of_files_agree(tmp_path: Path) -> None:
    """The same body in the image's camera, as demo.py's full camera, and as the network's camera of a crop."""
    place = np.array([0.1, -0.2, 4.0], np.float32)
    path = tmp_path / "a.npz"

    def projected(**arrays: Any) -> tuple[Any, NDArray[np.float32]]:
        np.savez(path, **arrays)
        bodies = read_bodies(path)
        assert bodies.center is not None and bodies.vertices.shape == (1, len(MESH), 3)
        seen = bodies.vertices[0]
        return bodies, seen[:, :2] / seen[:, 2:] * bodies.focal[0] + bodies.center[0]

    center = np.array([24.0, 32.0])
    first, points = projected(vertices=MESH + place, focal_length=500, center=center)
    assert first.focal.tolist() == [[500, 500]] and first.scores.tolist() == [1]
    _, moved = projected(vertices=MESH[None], cam_t=place, focal_length=[500, 500], center=center, scores=[0.5])
    _, full = projected(
        pred_vertices=MESH[None], pred_cam_t_full=place[None], scaled_focal_length=500, center=center, focal_length=5000
    )
    # A crop of 128 pixels, seen as 256: twice the focal length.
    _, crop = projected(
        pred_vertices=MESH[None],
        pred_cam_t=place[None],
        focal_length=[[1000, 1000]],
        box_center=center[None],
        box_size=[128],
    )
    for other in (moved, full, crop):
        assert np.allclose(points, other, atol=1e-3)
    np.savez(path, vertices=np.stack([MESH] * 3), cam_t=np.zeros((3, 3)), focal_length=[1, 2, 3])
    bodies = read_bodies(path)
    assert bodies.focal.tolist() == [[1, 1], [2, 2], [3, 3]] and bodies.center is None


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "neither vertices, nor pred_vertices, nor parameters"),
        ({"body_pose": np.zeros(69)}, "it has parameters .body_pose. and no vertices, which need smpl.model"),
        ({"vertices": np.zeros((3, 2))}, r"vertices must be \[V, 3\]"),
        ({"vertices": MESH}, "it has no focal_length"),
        ({"vertices": MESH, "focal_length": 0}, "must be positive"),
        ({"vertices": MESH, "focal_length": np.nan}, "finite numbers"),
        ({"vertices": MESH, "focal_length": np.ones(5)}, "2 numbers for each of 1 bodies, got "),
        ({"vertices": MESH, "focal_length": 1, "scores": [1, 2]}, r"scores must be \[1\], got \[2\]"),
        ({"pred_vertices": MESH, "pred_cam_t": np.ones(3), "focal_length": 1}, "it has no box_size"),
        ({"pred_vertices": MESH, "pred_cam_t_full": np.ones(3)}, "it has no scaled_focal_length"),
    ],
)
def test_files_without_a_body_are_refused(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=rf"a\.npz must hold the bodies of an image: .*{message}"):
        read_bodies(tmp_path / "a.npz")


def test_the_command_draws_the_person_in_the_middle(
    uv_file: Path, surface: UVSurface, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    for name in ("a", "b", "c", "d"):
        images.mkdir(exist_ok=True)
        Image.new("RGB", SIZE[::-1], "gray").save(images / f"{name}.jpg")
    (tmp_path / "bodies").mkdir()
    middle, edge = (MESH + np.array([x, 0, 2.0], np.float32) for x in (0.0, -0.7))
    np.savez(tmp_path / "bodies" / "a.npz", vertices=np.stack([edge, middle]), focal_length=FOCAL)
    np.savez(tmp_path / "bodies" / "b.npz", vertices=edge + np.array([5, 0, 0]), focal_length=FOCAL)
    np.savez(tmp_path / "bodies" / "d.npz", vertices=edge)
    arguments = ["prepare", str(images), "--method", "smpl", "--smpl.folder", str(tmp_path / "bodies")]
    arguments += ["--smpl.uv", str(uv_file)]
    assert main(arguments) == 1
    assert "1 of 4 images have no map" in (error := capsys.readouterr().err) and "d.npz must hold the bodies" in error
    expected = draw_smpl(surface, middle, FOCAL, (SIZE[1] / 2, SIZE[0] / 2), SIZE)
    assert torch.equal(read_iuv(images / "iuv" / "a.png"), expected) and expected.any()
    with Image.open(images / "iuv" / "a.png") as file:
        assert file.info[MAKER_KEY] == "SMPL IUV"
    report = json.loads((images / "iuv" / "prepare.json").read_text())
    assert report["undetected"] == ["b.jpg", "c.jpg"] and report["maker"] == "SMPL IUV"
    np.savez(tmp_path / "bodies" / "d.npz", vertices=middle, focal_length=FOCAL)
    assert main(arguments) == 1 and "bodies_sha256 was" in capsys.readouterr().err
