"""Poses SMPL: from the parameters of a body to the vertices of its mesh.

Loper et al., "SMPL: A Skinned Multi-Person Linear Model", 2015, equations 2 to 10. The model file is not part of
dsa_fast and has a license of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dsa_fast.array_files import load_arrays

__all__ = ["PARAMETERS", "SmplModel", "numbers", "pose_bodies", "read_smpl_model"]

Array = NDArray[np.float32]

#: The arrays of a body's parameters.
PARAMETERS = ("global_orient", "body_pose", "betas")

_MODEL_KEYS = ("v_template", "shapedirs", "posedirs", "J_regressor", "weights", "kintree_table")


class SmplModel(NamedTuple):
    """An SMPL model of V vertices and K joints (6,890 and 24).

    Attributes:
        template: float32 [V, 3], in meters: the average body.
        shapes: float32 [V, 3, B], what each of the `betas` adds.
        poses: float32 [V, 3, 9 * (K - 1)], what each entry of the joints' rotation matrices, less the identity, adds.
        regressor: float32 [K, V], places of the joints from vertices.
        weights: float32 [V, K], how much of each joint's motion a vertex follows.
        parents: int64 [K], the joint that each joint hangs on, which is before it; that of joint 0 has no meaning.
    """

    template: Array
    shapes: Array
    poses: Array
    regressor: Array
    weights: Array
    parents: NDArray[np.int64]


def read_smpl_model(path: Path) -> SmplModel:
    """Reads an SMPL model from a `.npz` with the arrays of SMPL's own files.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is a pickle, which is not loaded, or an array is missing or has a wrong shape.
    """
    if not path.is_file():
        raise FileNotFoundError(f"model must be an SMPL model as .npz, got {path}: no such file")
    try:
        if path.suffix.lower() == ".pkl":
            raise ValueError("a pickle is a program and is not loaded; docs/prepare.md converts it")
        arrays = load_arrays(path, _MODEL_KEYS)
        missing = [name for name in _MODEL_KEYS if name not in arrays]
        if missing:
            raise ValueError(f"it has no {', '.join(missing)}")
        return _model({name: numbers(name, values) for name, values in arrays.items()})
    except ValueError as error:
        raise ValueError(f"model must be an SMPL model as .npz, got {path}: {error}") from error


def _model(arrays: Mapping[str, Array]) -> SmplModel:
    template, shapes, poses, regressor, weights, tree = (arrays[name] for name in _MODEL_KEYS)
    if tree.ndim != 2 or tree.shape[0] != 2 or tree.shape[1] < 2:
        raise ValueError(f"kintree_table must be [2, K], got {list(tree.shape)}")
    vertices, joints = max(1, sum(template.shape[:1])), tree.shape[1]
    rules = (
        ("v_template", template, (vertices, 3)),
        ("shapedirs", shapes, (vertices, 3, *shapes.shape[-1:])),
        ("posedirs", poses, (vertices, 3, 9 * (joints - 1))),
        ("J_regressor", regressor, (joints, vertices)),
        ("weights", weights, (vertices, joints)),
    )
    for name, values, shape in rules:
        if values.shape != shape:
            raise ValueError(f"{name} must be {list(shape)} for {joints} joints, got {list(values.shape)}")
    above = tree[0, 1:]
    if ((above < 0) | (above >= np.arange(1, joints)) | (above != np.floor(above))).any():
        raise ValueError("kintree_table must name a joint's parent before the joint")
    return SmplModel(template, shapes, poses, regressor, weights, np.append(0, above).astype(np.int64))


def pose_bodies(model: SmplModel, parameters: Mapping[str, Array]) -> Array:
    """Poses bodies by linear blend skinning.

    Args:
        model: the model.
        parameters: of N bodies. `global_orient` and `body_pose`, rotations of the first and of the other K - 1 joints,
            as axes times angles, [N, K - 1, 3] or [N, 3 * (K - 1)], or as matrices, [N, K - 1, 3, 3]; and `betas`
            [N, b], with b up to the model's B. The N may be missing for one body. Betas may be missing: the average
            body.

    Returns:
        float32 [N, V, 3], in meters, with the body about the origin.

    Raises:
        ValueError: parameters are missing, or not of these shapes, or matrices are no rotations.
    """
    missing = [name for name in PARAMETERS[:2] if name not in parameters]
    if missing:
        raise ValueError(f"it has no {' and no '.join(missing)}")
    joints = len(model.parents)
    pose, first = parameters["body_pose"], parameters["global_orient"]
    own = joints - 1
    # The dimensions after N: those of a body.
    kinds = [shape for shape in ((own, 3, 3), (own, 3), (3 * own,)) if pose.shape[-len(shape) :] == shape]
    if not kinds or pose.ndim > len(kinds[0]) + 1 or not pose.size:
        raise ValueError(f"body_pose must be [N, {own}, 3, 3], [N, {own}, 3] or [N, {3 * own}], got {list(pose.shape)}")
    count = pose.shape[0] if pose.ndim > len(kinds[0]) else 1
    turned = _rotations("body_pose", pose.reshape(count, own, -1))
    if first.size not in (3 * count, 9 * count):
        raise ValueError(f"global_orient must be [{count}, 3] or [{count}, 3, 3], got {list(first.shape)}")
    turned = np.concatenate([_rotations("global_orient", first.reshape(count, 1, -1)), turned], 1)
    betas = parameters.get("betas", np.zeros((1, 0), np.float32))
    betas = betas[None] if betas.ndim == 1 else betas
    if betas.ndim != 2 or len(betas) not in (1, count) or betas.shape[1] > model.shapes.shape[2]:
        raise ValueError(
            f"betas must be [{count}, b] with b up to {model.shapes.shape[2]}, the model's, got {list(betas.shape)}"
        )
    betas = np.broadcast_to(betas, (count, betas.shape[1]))
    with np.errstate(all="ignore"):
        bodies = np.stack([_posed(model, *each) for each in zip(turned, betas, strict=True)])
    if not np.isfinite(bodies).all():
        raise ValueError("parameters must give a body of finite size")
    return bodies


def _posed(model: SmplModel, turned: NDArray[np.float64], betas: Array) -> Array:
    """Returns float32 [V, 3] of a body, from the joints' rotations [K, 3, 3]."""
    shaped = model.template + model.shapes[..., : len(betas)] @ betas
    places = (model.regressor @ shaped).astype(np.float64)
    bent = shaped + model.poses @ (turned[1:] - np.eye(3)).ravel().astype(np.float32)
    # Of each joint: its rotation, and what it adds to a point that it has rotated.
    spins, shifts = turned.copy(), places.copy()
    for joint in range(1, len(turned)):
        above = model.parents[joint]
        spins[joint] = spins[above] @ turned[joint]
        shifts[joint] = spins[above] @ (places[joint] - places[above]) + shifts[above]
    shifts -= np.einsum("kij,kj->ki", spins, places)
    spin = np.tensordot(model.weights, spins.astype(np.float32), 1)
    moved: Array = np.einsum("vij,vj->vi", spin, bent) + model.weights @ shifts.astype(np.float32)
    return moved.astype(np.float32)


def _rotations(name: str, values: Array) -> NDArray[np.float64]:
    """Turns [N, J, 3] axes times angles, or [N, J, 9] matrices, into float64 [N, J, 3, 3]."""
    given: NDArray[np.float64] = values.astype(np.float64)
    if given.shape[2] == 9:
        matrices = given.reshape(*given.shape[:2], 3, 3)
        off = np.abs(matrices @ matrices.swapaxes(-1, -2) - np.eye(3)).max()
        if off > 0.01 or np.linalg.det(matrices).min() < 0:
            raise ValueError(f"{name} must be rotation matrices, got some that are {off:.2g} off, or mirror")
        return matrices
    angle = np.linalg.norm(given, axis=-1, keepdims=True)
    x, y, z = np.moveaxis(given / np.maximum(angle, 1e-12), -1, 0)
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*x.shape, 3, 3)
    angle = angle[..., None]
    turned: NDArray[np.float64] = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross)
    return turned


def numbers(name: str, values: NDArray[Any]) -> Array:
    """Returns an array as float32.

    Raises:
        ValueError: it holds anything but finite numbers.
    """
    as_floats = values.astype(np.float32) if values.dtype.kind in "fiu" else None
    if as_floats is None or not np.isfinite(as_floats).all():
        raise ValueError(f"{name} must be finite numbers, got {values.dtype} {list(values.shape)}")
    return as_floats
