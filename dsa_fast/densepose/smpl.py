"""IUV maps of fitted SMPL bodies: exact for the body, with occlusion of its own parts by depth.

Loper et al., "SMPL: A Skinned Multi-Person Linear Model", 2015. DensePose's charts lie on SMPL's surface; its file
`UV_Processed.mat` has them. The body itself comes from another program, such as 4D-Humans
(https://github.com/shubham-goel/4D-Humans). Neither is part of dsa_fast, and both have licenses of their own.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsa_fast.array_files import load_arrays
from dsa_fast.densepose.parts import NUM_PARTS
from dsa_fast.densepose.person_choice import choose_person
from dsa_fast.densepose.prepare import PersonMap
from dsa_fast.densepose.smpl_model import PARAMETERS, SmplModel, numbers, pose_bodies
from dsa_fast.extras import require
from dsa_fast.image import read_image
from dsa_fast.mat_files import check_mat
from dsa_fast.ops.bodies import Surface, draw_bodies

__all__ = ["Bodies", "FromSmpl", "UVSurface", "draw_smpl", "read_bodies", "read_uv_surface"]

Array = NDArray[np.float32]

_UV_KEYS = ("All_vertices", "All_Faces", "All_FaceIndices", "All_U_norm", "All_V_norm")
_BODY_KEYS = (
    *PARAMETERS,
    *("vertices", "pred_vertices", "cam_t", "pred_cam_t_full", "pred_cam_t"),
    *("scaled_focal_length", "focal_length", "center", "box_center", "box_size", "scores"),
)
_CROP = 256  # height and width of HMR2's input, pixels: MODEL.IMAGE_SIZE
_NEAREST = 0.01  # meters; what is closer to the camera, or behind it, is not drawn
_ALL_PARTS = sum(1 << part for part in range(1, NUM_PARTS + 1))


class UVSurface(NamedTuple):
    """DensePose's charts on a mesh.

    Attributes:
        vertex: int64 [V], the mesh's vertex that each of the charts' vertices is, from 0.
        uv: float32 [V, 2], in [0, 1].
        part: uint8 [V], 1..24, the same for the vertices of a triangle.
        faces: int32 [F, 3], into V.
    """

    vertex: NDArray[np.int64]
    uv: Array
    part: NDArray[np.uint8]
    faces: NDArray[np.int32]


class Bodies(NamedTuple):
    """Fitted bodies in an image.

    Attributes:
        vertices: float32 [N, V, 3], in meters in the camera's frame: x right, y down, z away from the camera.
        focal: float32 [N, 2], focal lengths in the image's pixels.
        center: float32 [N, 2], x and y of the optical axis in the image, pixels; None: the image's middle.
        scores: float32 [N].
    """

    vertices: Array
    focal: Array
    center: Array | None
    scores: Array


def read_uv_surface(path: Path) -> UVSurface:
    """Reads DensePose's `UV_Processed.mat`. Needs SciPy.

    Its variables: `All_vertices`, the mesh's vertex of each of the charts' vertices, from 1; `All_U_norm` and
    `All_V_norm`, their u and v; `All_Faces` [F, 3], from 1; `All_FaceIndices`, the part of each face, 1..24.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: SciPy is missing, or the file has other content.
    """
    if not path.is_file():
        raise FileNotFoundError(f"uv must be DensePose's UV_Processed.mat, got {path}: no such file")
    try:
        scipy_io = require("scipy.io", f"reading {path}")
    except ImportError as error:
        raise ValueError(str(error)) from error
    try:
        check_mat(path, _UV_KEYS)
        loaded = scipy_io.loadmat(path, variable_names=_UV_KEYS)
        vertex, faces, part, u, v = (np.asarray(loaded[key], np.float64) for key in _UV_KEYS)
    # SciPy raises many kinds of errors for a broken file. The message must name the file.
    except Exception as error:
        raise ValueError(f"uv must be DensePose's UV_Processed.mat, got {path}: {error}") from error
    vertex, part, u, v = (values.ravel() for values in (vertex, part, u, v))
    count = len(vertex)
    rules = (
        (count > 0 and len(u) == len(v) == count, "All_U_norm and All_V_norm must have a value per vertex"),
        (faces.ndim == 2 and faces.shape[1:] == (3,), "All_Faces must be [F, 3]"),
        (len(part) == len(faces) > 0, "All_FaceIndices must have a part per face"),
        (_whole(vertex, 1, 1 << 24), "All_vertices must be integers from 1"),
        (_whole(faces, 1, count), f"All_Faces must be integers in 1..{count}"),
        (_whole(part, 1, NUM_PARTS), f"All_FaceIndices must be integers in 1..{NUM_PARTS}"),
        (
            all(bool(((it >= 0) & (it <= 1)).all()) for it in (u, v)),
            "All_U_norm and All_V_norm must be in [0, 1]",
        ),
    )
    for holds, rule in rules:
        if not holds:
            raise ValueError(f"uv must be DensePose's UV_Processed.mat, got {path}: {rule}")
    # A vertex that is in faces of several parts becomes one vertex for each.
    pairs = (faces.astype(np.int64) - 1) * (NUM_PARTS + 1) + part.astype(np.int64)[:, None]
    used, corners = np.unique(pairs, return_inverse=True)
    chart = used // (NUM_PARTS + 1)
    return UVSurface(
        vertex[chart].astype(np.int64) - 1,
        np.stack([u, v], 1)[chart].astype(np.float32),
        (used % (NUM_PARTS + 1)).astype(np.uint8),
        corners.reshape(-1, 3).astype(np.int32),
    )


def read_bodies(path: Path, model: SmplModel | None = None) -> Bodies:
    """Reads the bodies that were fitted to an image, a `.npz` of one of two kinds.

    In the camera of the image: `vertices` [V, 3] or [N, V, 3]; optionally `cam_t` [3] or [N, 3], added to them;
    `focal_length` in pixels, one or two numbers, for all or for each person; optionally `center`, x and y in pixels.

    As HMR2 (4D-Humans) returns them, [N, V, 3] and so on: `pred_vertices` with `pred_cam_t_full` and
    `scaled_focal_length`, which its `demo.py` computes, for the image; or with the network's own `pred_cam_t` and
    `focal_length`, which are for a crop of 256 x 256, and that crop's `box_center` and `box_size` in the image's
    pixels, which are in the network's input.

    Both kinds may have `scores` [N]. Instead of vertices, they may have the parameters that `pose_bodies` takes, such
    as HMR2's `pred_smpl_params`. `model` then poses them, and `cam_t` must be given in the image's camera.

    Raises:
        OSError: the file can't be read.
        ValueError: an array is missing or has a wrong shape; the message names the file.
    """
    try:
        arrays = {name: numbers(name, values) for name, values in load_arrays(path, _BODY_KEYS).items()}
        return _bodies(arrays, model)
    except ValueError as error:
        raise ValueError(f"{path} must hold the bodies of an image: {error}") from error


def draw_smpl(
    surface: UVSurface, vertices: Array, focal: Array, center: Array | Sequence[float], size: tuple[int, int]
) -> Tensor:
    """Draws the IUV map of a body.

    A pixel, sampled at its center, shows the triangle nearest to the camera, from either side. u and v are interpolated
    in the picture and rounded to 1/255: exact up to perspective within a triangle, which does not show on SMPL's
    triangles of about 2 cm. Triangles with a corner within 1 cm of the camera, or behind it, are omitted.

    Args:
        surface: the charts.
        vertices: float [V, 3] of the mesh, as in `Bodies`.
        focal: two numbers, as in `Bodies`.
        center: two numbers, as in `Bodies`.
        size: (height, width) of the map.

    Returns:
        uint8 [3, H, W].

    Raises:
        ValueError: the mesh has fewer vertices than the charts ask for.
    """
    if int(surface.vertex.max()) >= len(vertices):
        raise ValueError(f"vertices must have {int(surface.vertex.max()) + 1} rows or more, got {len(vertices)}")
    points = _projected(vertices, focal, center)[surface.vertex]
    count = len(points)
    drawn = Surface(
        torch.from_numpy(points),
        torch.from_numpy(surface.uv),
        torch.from_numpy(surface.part),
        torch.zeros(count, 2, dtype=torch.int32),
        torch.zeros(count),
        # The operator skips what is seen from behind; a closed body needs no such rule, an open one is seen from both.
        torch.from_numpy(np.concatenate([surface.faces, surface.faces[:, ::-1]])),
    )
    identity = torch.eye(3, 4)[None, None].contiguous()
    return draw_bodies(drawn, identity, torch.tensor([_ALL_PARTS], dtype=torch.int32), size)[0]


class FromSmpl:
    """Draws the maps of fitted SMPL bodies. Of several in an image, the one chosen by `choose_person`.

    Args:
        bodies: image -> file for `read_bodies`; other images get an empty map.
        surface: DensePose's charts.
        model: for files with parameters instead of vertices.
    """

    maker = "SMPL IUV"

    def __init__(self, bodies: Mapping[Path, Path], surface: UVSurface, model: SmplModel | None = None) -> None:
        self.bodies, self.surface, self.model = bodies, surface, model

    def group(self, size: tuple[int, int]) -> Hashable:
        return None

    def load(self, image: Path) -> PersonMap | None:
        pixels = read_image(image)
        size = pixels.shape[1], pixels.shape[2]
        if image not in self.bodies:
            return None
        path = self.bodies[image]
        bodies = read_bodies(path, self.model)
        centers = bodies.center
        if centers is None:
            centers = np.tile(np.array([size[1] / 2, size[0] / 2], np.float32), (len(bodies.vertices), 1))
        boxes = [_box(_projected(*each)) for each in zip(bodies.vertices, bodies.focal, centers, strict=True)]
        best = choose_person(torch.tensor(boxes).view(-1, 4), torch.from_numpy(bodies.scores), size)
        if best is None:
            return None
        try:
            iuv = draw_smpl(self.surface, bodies.vertices[best], bodies.focal[best], centers[best], size)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        return PersonMap(iuv, None) if bool(iuv[0].any()) else None

    def estimate(self, batch: Sequence[PersonMap | None]) -> Sequence[PersonMap | None]:
        return batch


def _whole(values: NDArray[np.float64], low: int, high: int) -> bool:
    return bool((np.isfinite(values) & (values >= low) & (values <= high) & (values == np.floor(values))).all())


def _bodies(arrays: Mapping[str, Array], model: SmplModel | None) -> Bodies:
    vertices = arrays.get("vertices", arrays.get("pred_vertices"))
    posed = vertices is None
    if vertices is None:
        given = {name: arrays[name] for name in PARAMETERS if name in arrays}
        if not given:
            raise ValueError("it has neither vertices, nor pred_vertices, nor parameters (body_pose)")
        if model is None:
            raise ValueError(f"it has parameters ({', '.join(given)}) and no vertices, which need smpl.model")
        vertices = pose_bodies(model, given)
    vertices = vertices[None] if vertices.ndim == 2 else vertices
    if vertices.ndim != 3 or vertices.shape[2] != 3:
        raise ValueError(f"vertices must be [V, 3] or [N, V, 3], got {list(vertices.shape)}")
    count = len(vertices)
    if "vertices" in arrays:
        moved, lengths, of_crop = "cam_t", "focal_length", False
    elif "pred_cam_t_full" in arrays:
        moved, lengths, of_crop = "pred_cam_t_full", "scaled_focal_length", False
    elif "pred_cam_t" in arrays or "pred_vertices" in arrays:
        moved, lengths, of_crop = "pred_cam_t", "focal_length", True
    else:
        moved, lengths, of_crop = "cam_t", "focal_length", False
    if moved != "cam_t" or moved in arrays or posed:
        vertices = vertices + _rows(arrays, moved, count, 3)[:, None]
    focal = _rows(arrays, lengths, count, 2)
    if not (focal > 0).all():
        raise ValueError(f"{lengths} must be positive, got {focal.min():g}")
    center = _rows(arrays, "center", count, 2) if "center" in arrays else None
    if of_crop:
        focal = (focal * _rows(arrays, "box_size", count, 1) / _CROP).astype(np.float32)
        center = _rows(arrays, "box_center", count, 2)
    scores = arrays["scores"] if "scores" in arrays else np.ones(count, np.float32)
    if scores.shape != (count,):
        raise ValueError(f"scores must be [{count}], got {list(scores.shape)}")
    return Bodies(vertices, focal, center, scores)


def _rows(arrays: Mapping[str, Array], name: str, count: int, width: int) -> Array:
    """Returns [count, width] numbers: given for each body, for all, or one number for both axes."""
    if name not in arrays:
        raise ValueError(f"it has no {name}")
    given = arrays[name]
    values = given
    if given.ndim == 1:  # numbers for all bodies, or one for each
        values = given[None] if len(given) == width > 1 else given[:, None]
    if given.ndim == 0:
        values = given[None, None]
    if values.ndim != 2 or values.shape[0] not in (1, count) or values.shape[1] not in (1, width):
        raise ValueError(f"{name} must have {width} numbers for each of {count} bodies, got {list(given.shape)}")
    return np.broadcast_to(values, (count, width))


def _projected(vertices: Array, focal: Array, center: Array | Sequence[float]) -> Array:
    """Returns float32 [V, 3]: x, y in pixels and 1/z, which is affine in the picture; NaN for what is not drawn."""
    z = np.where(vertices[:, 2] > _NEAREST, vertices[:, 2], np.nan)[:, None]
    return np.concatenate([vertices[:, :2] / z * focal + np.asarray(center), 1 / z], 1).astype(np.float32)


def _box(points: Array) -> list[float]:
    """Returns x0, y0, x1, y1; NaN if nothing is drawn."""
    seen = points[np.isfinite(points).all(1), :2]
    if not len(seen):
        return [float("nan")] * 4
    return [*seen.min(0).tolist(), *seen.max(0).tolist()]
