"""SMPL's posing, with a small model that the tests make, against plain loops with 4 x 4 matrices."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from dsa_fast.cli import main
from dsa_fast.densepose import read_iuv
from dsa_fast.densepose.smpl import read_bodies
from dsa_fast.densepose.smpl_model import SmplModel, pose_bodies, read_smpl_model
from tests.densepose.test_smpl import CHARTS, FOCAL, MESH, SIZE

PARENTS = [-1, 0, 0, 1, 3, 3]  # of six joints
DOCS = Path(__file__).parents[2] / "docs" / "prepare.md"


def arrays(vertices: NDArray[Any], joints: int = 6, betas: int = 4) -> dict[str, NDArray[Any]]:
    """A model around these vertices, as SMPL's files have it."""
    random = np.random.default_rng(7)
    count = len(vertices)
    weights = random.random((count, joints)) ** 3
    regressor = random.random((joints, count)) ** 8
    return {
        "v_template": vertices.astype(np.float64),
        "shapedirs": 0.02 * random.standard_normal((count, 3, betas)),
        "posedirs": 0.01 * random.standard_normal((count, 3, 9 * (joints - 1))),
        "J_regressor": regressor / regressor.sum(1, keepdims=True),
        "weights": weights / weights.sum(1, keepdims=True),
        "kintree_table": np.array([PARENTS, range(joints)], np.int64).astype(np.uint32),
    }


VERTICES = np.random.default_rng(1).standard_normal((30, 3))
ARRAYS = arrays(VERTICES)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "smpl.npz"
    np.savez(path, **ARRAYS, f=np.array([["not read"]], object))
    return path


@pytest.fixture(scope="module")
def model(file: Path) -> SmplModel:
    return read_smpl_model(file)


def rotation(turn: NDArray[Any]) -> NDArray[np.float64]:
    """The exponential of the cross product's matrix."""
    x, y, z = turn
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    return np.asarray(torch.linalg.matrix_exp(cross).numpy())


def plain(turns: NDArray[Any], betas: NDArray[Any]) -> NDArray[np.float64]:
    """Vertices of a body in float64, one at a time, from turns [K, 3] about joints."""
    turned = [rotation(turn) for turn in turns]
    shaped = ARRAYS["v_template"] + sum(b * ARRAYS["shapedirs"][..., n] for n, b in enumerate(betas))
    places = [sum(w * v for w, v in zip(row, shaped, strict=True)) for row in ARRAYS["J_regressor"]]
    bends = np.concatenate([(each - np.eye(3)).ravel() for each in turned[1:]])
    whole: list[NDArray[np.float64]] = []
    for joint, parent in enumerate(PARENTS):
        own = np.eye(4)
        own[:3, :3] = turned[joint]
        own[:3, 3] = places[joint] - (places[parent] if joint else 0)
        whole.append(whole[parent] @ own if joint else own)
    result = []
    for number, vertex in enumerate(shaped):
        bent = vertex + sum(bend * ARRAYS["posedirs"][number, :, n] for n, bend in enumerate(bends))
        moved = np.zeros(3)
        for joint, weight in enumerate(ARRAYS["weights"][number]):
            moved += weight * (whole[joint] @ np.append(bent - places[joint], 1))[:3]
        result.append(moved)
    return np.array(result)


def bodies(count: int) -> tuple[NDArray[Any], NDArray[Any]]:
    random = np.random.default_rng(2)
    return random.standard_normal((count, 6, 3)), random.standard_normal((count, 4))


def posed(model: SmplModel, **parameters: Any) -> NDArray[np.float32]:
    return pose_bodies(model, {name: np.asarray(value, np.float32) for name, value in parameters.items()})


def test_bodies_are_those_of_plain_loops(model: SmplModel) -> None:
    turns, betas = bodies(3)
    found = posed(model, global_orient=turns[:, 0], body_pose=turns[:, 1:], betas=betas)
    expected = np.stack([plain(*each) for each in zip(turns, betas, strict=True)])
    assert found.dtype == np.float32 and np.allclose(found, expected, atol=2e-5)
    still = np.zeros((6, 3))
    assert np.allclose(posed(model, global_orient=still[0], body_pose=still[1:])[0], VERTICES, atol=1e-6)


def test_parameters_of_every_form_agree(model: SmplModel) -> None:
    turns, betas = bodies(2)
    matrices = np.stack([[rotation(turn) for turn in body] for body in turns])
    flat = posed(model, global_orient=turns[:, 0], body_pose=turns[:, 1:].reshape(2, 15), betas=betas)
    hmr2 = posed(model, global_orient=matrices[:, :1], body_pose=matrices[:, 1:], betas=betas)
    assert np.allclose(flat, hmr2, atol=1e-5)
    for one in (
        {"global_orient": matrices[0, 0], "body_pose": matrices[0, 1:]},
        {"global_orient": turns[0, 0], "body_pose": turns[0, 1:].ravel()},
        {"global_orient": turns[:1, 0], "body_pose": matrices[:1, 1:]},
    ):
        assert np.allclose(posed(model, **one, betas=betas[0])[0], flat[0], atol=1e-5)
    # Fewer betas than the model has, and one set for all bodies.
    few = posed(model, global_orient=turns[:, 0], body_pose=turns[:, 1:], betas=betas[:1, :2])
    assert np.allclose(few[1], plain(turns[1], betas[0, :2]), atol=2e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"body_pose": None}, "it has no body_pose"),
        ({"global_orient": None}, "it has no global_orient"),
        ({"body_pose": np.zeros((2, 23, 3))}, r"body_pose must be \[N, 5, 3, 3\], .* got \[2, 23, 3\]"),
        ({"body_pose": np.zeros((0, 5, 3))}, r"body_pose must be .* got \[0, 5, 3\]"),
        ({"body_pose": np.zeros((1, 5, 3, 3))}, "body_pose must be rotation matrices, got some that are 1 off"),
        ({"global_orient": -np.eye(3)}, "global_orient must be rotation matrices"),
        ({"global_orient": np.zeros((2, 3))}, r"global_orient must be \[1, 3\] or \[1, 3, 3\], got \[2, 3\]"),
        ({"betas": np.zeros(10)}, r"betas must be \[1, b\] with b up to 4, the model's, got \[1, 10\]"),
    ],
)
def test_other_parameters_are_refused(model: SmplModel, change: dict[str, Any], message: str) -> None:
    given = {"global_orient": np.zeros(3), "body_pose": np.zeros((5, 3)), "betas": np.zeros(4), **change}
    with pytest.raises(ValueError, match=message):
        posed(model, **{name: value for name, value in given.items() if value is not None})
    with pytest.raises(ValueError, match="a body of finite size"):
        posed(model._replace(shapes=model.shapes * 1e38), global_orient=[0] * 3, body_pose=[0] * 15, betas=[1e9] * 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"posedirs": None, "weights": None}, "it has no posedirs, weights"),
        ({"kintree_table": np.arange(6)}, r"kintree_table must be \[2, K\], got \[6\]"),
        ({"kintree_table": np.array([[0, 0, 3, 1, 3, 3]] * 2)}, "a joint's parent before the joint"),
        ({"J_regressor": ARRAYS["J_regressor"].T}, r"J_regressor must be \[6, 30\] for 6 joints, got \[30, 6\]"),
        ({"posedirs": ARRAYS["posedirs"][..., :9]}, r"posedirs must be \[30, 3, 45\] for 6 joints"),
        ({"v_template": np.array(1.0)}, r"v_template must be \[1, 3\]"),
        ({"shapedirs": VERTICES * np.nan}, "shapedirs must be finite numbers"),
        ({"weights": np.array([None])}, "Python objects, which are not loaded"),
    ],
)
def test_other_models_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    changed = {name: value for name, value in {**ARRAYS, **change}.items() if value is not None}
    np.savez(tmp_path / "model.npz", **changed)
    with pytest.raises(ValueError, match=rf"model must be an SMPL model as \.npz, got .*model\.npz: .*{message}"):
        read_smpl_model(tmp_path / "model.npz")


def test_pickles_are_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "SMPL_NEUTRAL.pkl").write_bytes(pickle.dumps(ARRAYS))
    with pytest.raises(ValueError, match=r"a pickle is a program and is not loaded; docs/prepare\.md converts it"):
        read_smpl_model(tmp_path / "SMPL_NEUTRAL.pkl")
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_smpl_model(tmp_path / "nothing.npz")


def test_the_documented_program_converts_smpls_pickles(file: Path, tmp_path: Path) -> None:
    """They hold arrays of chumpy, which need not be installed, and a sparse one of SciPy."""
    sparse = pytest.importorskip("scipy.sparse")
    import types

    class Ch:
        def __init__(self, x: NDArray[Any]) -> None:
            self.x = x

    Ch.__module__, Ch.__qualname__ = "chumpy.ch", "Ch"
    names = {"chumpy": types.ModuleType("chumpy"), "chumpy.ch": types.ModuleType("chumpy.ch")}
    names["chumpy.ch"].Ch = Ch  # type: ignore[attr-defined]
    content: dict[str, Any] = {**ARRAYS, "J_regressor": sparse.csc_matrix(ARRAYS["J_regressor"]), "bs_type": "lrotmin"}
    content |= {name: Ch(ARRAYS[name]) for name in ("shapedirs", "v_template", "weights")}
    with pytest.MonkeyPatch.context() as patch:
        for name, module in names.items():
            patch.setitem(sys.modules, name, module)
        (tmp_path / "SMPL_NEUTRAL.pkl").write_bytes(pickle.dumps(content, protocol=2))
    (program,) = re.findall(r"```python\n(# smpl_to_npz\.py.*?)```", DOCS.read_text(), re.DOTALL)
    (tmp_path / "smpl_to_npz.py").write_text(program)
    subprocess.run(
        [sys.executable, "smpl_to_npz.py", "SMPL_NEUTRAL.pkl", "smpl.npz"], cwd=tmp_path, check=True, timeout=300
    )
    for ours, theirs in zip(read_smpl_model(tmp_path / "smpl.npz"), read_smpl_model(file), strict=True):
        assert np.array_equal(ours, theirs)


def test_the_command_poses_bodies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Parameters as HMR2 has them give the map of the same body's vertices."""
    scipy_io = pytest.importorskip("scipy.io")
    scipy_io.savemat(tmp_path / "uv.mat", CHARTS)
    np.savez(tmp_path / "smpl.npz", **arrays(MESH))
    model = read_smpl_model(tmp_path / "smpl.npz")
    turns = 0.3 * np.random.default_rng(5).standard_normal((1, 6, 3))
    matrices = np.stack([rotation(turn) for turn in turns[0]])[None].astype(np.float32)
    parameters = {"global_orient": matrices[:, :1], "body_pose": matrices[:, 1:], "betas": np.ones((1, 4), np.float32)}
    place, images = np.array([[0.05, 0.0, 2.0]], np.float32), tmp_path / "images"
    (tmp_path / "bodies").mkdir()
    images.mkdir()
    for name in ("a", "b", "c"):
        Image.new("RGB", SIZE[::-1], "gray").save(images / f"{name}.jpg")
    camera = {"pred_cam_t_full": place, "scaled_focal_length": FOCAL}
    np.savez(tmp_path / "bodies" / "a.npz", **parameters, **camera)
    np.savez(tmp_path / "bodies" / "b.npz", pred_vertices=pose_bodies(model, parameters), **camera)
    np.savez(tmp_path / "bodies" / "c.npz", **parameters, cam_t=place, focal_length=FOCAL)
    command = ["prepare", str(images), "--method", "smpl", "--smpl.folder", str(tmp_path / "bodies")]
    command += ["--smpl.uv", str(tmp_path / "uv.mat"), "--out", str(tmp_path / "maps")]
    assert main(command) == 1
    assert "which need --smpl.model" in capsys.readouterr().err
    assert main([*command[:-1], str(tmp_path / "posed"), "--smpl.model", str(tmp_path / "smpl.npz")]) == 0
    maps = [read_iuv(tmp_path / "posed" / f"{name}.png") for name in "abc"]
    assert maps[0].any() and torch.equal(maps[0], maps[1]) and torch.equal(maps[0], maps[2])
    np.savez(tmp_path / "bodies" / "c.npz", **parameters, focal_length=FOCAL)
    with pytest.raises(ValueError, match="it has no cam_t"):
        read_bodies(tmp_path / "bodies" / "c.npz", model)
