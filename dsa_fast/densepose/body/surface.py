"""The posed surface: vertices, triangles, charts and skinning weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dsa_fast.densepose.parts import MIRROR, NUM_PARTS

from .charts import SurfaceFunction, mirror_uv
from .limbs import left_charts
from .shape import AVERAGE, Shape, check_shape
from .skeleton import JOINTS, MIRROR_JOINTS, REST, Pose, forward_kinematics, joints3d

__all__ = ["Body", "attach", "build_body", "chart_coordinates"]

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Body:
    """A shape's surface: vertices in the rest pose, triangles, charts and skinning weights.

    Attributes:
        shape: its proportions.
        vertices: float32 [V, 3], meters, in the pose `REST`.
        normals: float32 [V, 3], unit.
        uv: float32 [V, 2] in [0, 1].
        part: int16 [V], 1..24 (0 for accessories). Vertices are not shared between charts.
        texture: int16 [V], texture page of a vertex: part - 1, or 24 and above for accessories.
        faces: int32 [F, 3], counter-clockwise seen from outside.
        bones: int64 [V, 2] indices of `JOINTS`.
        weight: float32 [V], weight of the second bone; the first has the rest.
        rest: (rotations [17, 3, 3], origins [17, 3]) of the bones in the pose `REST`.
        grids: part -> (first vertex, rows, columns) of its grid of vertices.
    """

    shape: Shape
    vertices: Array
    normals: Array
    uv: Array
    part: NDArray[np.int16]
    texture: NDArray[np.int16]
    faces: NDArray[np.int32]
    bones: NDArray[np.int64]
    weight: Array
    rest: tuple[Array, Array]
    grids: dict[int, tuple[int, int, int]]

    def posed(self, pose: Pose) -> tuple[Array, Array]:
        """Returns vertices and unit normals in a pose, float32 [V, 3] each."""
        turn, origin = forward_kinematics(pose, self.shape)
        rest_turn, rest_origin = self.rest
        moved = turn @ rest_turn.transpose(0, 2, 1)
        shift = origin - (moved @ rest_origin[..., None])[..., 0]
        # There are few pairs of bones: blend 3 x 4 matrices, once per vertex.
        table = np.concatenate([moved, shift[..., None]], 2).reshape(len(JOINTS), 12)
        matrix = table.take(self.bones[:, 0], axis=0)
        matrix += (table.take(self.bones[:, 1], axis=0) - matrix) * self.weight[:, None]
        matrix = matrix.reshape(-1, 3, 4)
        both = matrix[..., :3] @ np.stack([self.vertices, self.normals], -1)
        normals = both[..., 1]
        normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-9
        return both[..., 0] + matrix[..., 3], normals

    def surface_points(self, pose: Pose, part: int, u: ArrayLike, v: ArrayLike) -> Array:
        """Returns points of a chart on the posed surface: the inverse of an IUV map.

        Args:
            pose: pose of the person.
            part: 1..24.
            u: chart coordinates in [0, 1], any shape [...].
            v: chart coordinates, same shape.

        Returns:
            float32 [..., 3], meters, in the person's frame. Between vertices it is bilinear.

        Raises:
            ValueError: `part` is out of range.
        """
        if part not in self.grids:
            raise ValueError(f"part must be in 1..{NUM_PARTS}, got {part}")
        first, rows, columns = self.grids[part]
        span = slice(first, first + rows * columns)
        points = self.posed(pose)[0][span].reshape(rows, columns, 3)
        uv = self.uv[span].reshape(rows, columns, 2)
        wrapped = part in (3, 4, 23, 24)  # u runs around, v along
        along, around = (uv[:, 0, 1], uv[0, :, 0]) if wrapped else (uv[:, 0, 0], uv[0, :, 1])
        a, b = (np.asarray(x, np.float32) for x in ((v, u) if wrapped else (u, v)))
        i, s = _cell(along, a)
        j, t = _cell(around, b)
        s, t = s[..., None], t[..., None]
        top = points[i, j] * (1 - t) + points[i, j + 1] * t
        bottom = points[i + 1, j] * (1 - t) + points[i + 1, j + 1] * t
        return (top * (1 - s) + bottom * s).astype(np.float32)


def _cell(knots: Array, at: Array) -> tuple[NDArray[np.intp], Array]:
    """Returns the cell of monotone knots for each value, and the fractional position in the cell."""
    if knots[0] > knots[-1]:
        index = len(knots) - 1 - np.searchsorted(knots[::-1], at, side="left")
    else:
        index = np.searchsorted(knots, at, side="right") - 1
    index = np.clip(index, 0, len(knots) - 2)
    step = knots[index + 1] - knots[index]
    return index, np.clip((at - knots[index]) / np.where(step == 0, 1, step), 0, 1)


def _grid_faces(rows: int, columns: int) -> NDArray[np.int32]:
    """Returns two triangles per cell of a grid of vertices, [2 (rows-1) (columns-1), 3]."""
    index = np.arange(rows * columns, dtype=np.int32).reshape(rows, columns)
    a, b, c, d = (x.ravel() for x in (index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]))
    return np.concatenate([np.stack([a, b, d], 1), np.stack([a, d, c], 1)])


def _outward_faces(vertices: Array, normals: Array, faces: NDArray[np.int32]) -> NDArray[np.int32]:
    """Orients the triangles so that they are counter-clockwise seen from outside, according to the normals."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    facing = (np.cross(b - a, c - a) * normals[faces].sum(1)).sum(1)
    return np.where(facing[:, None] < 0, faces[:, ::-1], faces)


def chart_coordinates(size: int) -> dict[str, NDArray[np.float32]]:
    """Returns body coordinates of the texel centers of an average body's charts, for painting clothes.

    Args:
        size: S, height and width of a chart in texels.

    Returns:
        float32 [24, S, S] each, rows along u and columns along v: "along" (limbs: 0 at the first joint, 1 at the
        middle one, 2 at the end; trunk: height above the hip over hip-to-neck; head: meters above its joint; hands
        and feet: 0..1), "around" (azimuth, radians: 0 in front, positive outwards; trunk and head: positive to the
        person's left), and "x", "y", "z" (meters, arms hanging).
    """
    centre = ((np.arange(size) + 0.5) / size).astype(np.float32)
    result = {name: np.zeros((NUM_PARTS, size, size), np.float32) for name in ("along", "around", "x", "y", "z")}
    origin = joints3d(Pose())
    for chart in left_charts(AVERAGE):
        wrapped = chart.u_around
        row_knots, column_knots = chart.uv[:, 0, int(wrapped)], chart.uv[0, :, int(not wrapped)]
        i, s = _cell(row_knots, centre)
        j, t = _cell(column_knots, centre)
        along = chart.along[i] * (1 - s) + chart.along[i + 1] * s
        around = chart.around[j] * (1 - t) + chart.around[j + 1] * t
        a, b = np.meshgrid(along, around, indexing="ij")  # rows: along
        points = chart.surface(a, b)
        if chart.frame is not None:
            points = points + origin[chart.frame]
        if chart.part == 4:
            a = (a + 0.01) / 0.195
        elif chart.part == 5:
            a = (a + 0.078) / 0.263
        b = (b + np.pi) % (2 * np.pi) - np.pi
        for name, value in zip(("along", "around", "x", "y", "z"), (a, b, *np.moveaxis(points, -1, 0)), strict=True):
            value = value.T if wrapped else value
            result[name][chart.part - 1] = value
            if chart.part > 2:
                twin = value[::-1] if chart.part in (4, 5, 24) else value
                sign = -1 if name == "x" or (name == "around" and chart.part == 24) else 1
                result[name][MIRROR[chart.part] - 1] = sign * twin
    return result


@lru_cache(maxsize=64)
def build_body(shape: Shape = AVERAGE) -> Body:
    """Builds the surface of a shape. Results are cached and must not be modified.

    Raises:
        ValueError: a measure of `shape` is out of range.
    """
    check_shape(shape)
    rest = forward_kinematics(REST, shape)
    blocks: list[dict[str, NDArray[Any]]] = []
    grids: dict[int, tuple[int, int, int]] = {}
    count = 0
    for chart in left_charts(shape):
        a, b = np.meshgrid(chart.along, chart.around, indexing="ij")
        points = chart.surface(a, b)
        normal = _normals(chart.surface, a, b, points)
        if chart.frame is not None:
            turn, origin = rest[0][chart.frame], rest[1][chart.frame]
            points, normal = points @ turn.T + origin, normal @ turn.T
        both = [(chart.part, 1, chart.uv, chart.bones)]
        if chart.part > 2:
            part, u, v = mirror_uv(chart.part, chart.uv[..., 0], chart.uv[..., 1])
            pair = (MIRROR_JOINTS[chart.bones[0]], MIRROR_JOINTS[chart.bones[1]])
            both.append((part, -1, np.stack([u, v], -1), pair))
        for part, sign, uv, pair in both:
            side = np.array([sign, 1, 1], np.float32)
            block = _block(points * side, normal * side, uv, part, part - 1, pair, chart.weight[:, None], count)
            blocks.append(block)
            grids[part] = (count, *a.shape)
            count += a.size
    return Body(shape=shape, rest=rest, grids=grids, **_joined(blocks))


def _block(
    points: Array, normals: Array, uv: Array, part: int, page: int, bones: tuple[int, int], weight: Array, first: int
) -> dict[str, NDArray[Any]]:
    """Makes the arrays of a `Body` for one grid of vertices [R, K, ...]; `first` is the index of its first vertex."""
    rows, columns = points.shape[:2]
    count = rows * columns
    flat, flat_normals = points.reshape(-1, 3), normals.reshape(-1, 3)
    return {
        "vertices": flat.astype(np.float32),
        "normals": flat_normals.astype(np.float32),
        "uv": np.clip(uv.reshape(-1, 2), 0, 1).astype(np.float32),
        "part": np.full(count, part, np.int16),
        "texture": np.full(count, page, np.int16),
        "faces": _outward_faces(flat, flat_normals, _grid_faces(rows, columns)) + np.int32(first),
        "bones": np.tile(np.array(bones, np.int64), (count, 1)),
        "weight": np.broadcast_to(weight, (rows, columns)).astype(np.float32).ravel(),
    }


def _joined(blocks: list[dict[str, NDArray[Any]]]) -> dict[str, Any]:
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _normals(surface: SurfaceFunction, a: Array, b: Array, points: Array) -> Array:
    """Computes outward unit normals of a surface by finite differences."""
    step = (a.max() - a.min()) * 2e-3
    da = surface(a + step, b) - surface(a - step, b)
    db = surface(a, b + 0.02) - surface(a, b - 0.02)
    normal = np.cross(da, db)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True) + 1e-12
    outward = points - points.mean(axis=1, keepdims=True)
    flip = np.sign((normal * outward).sum())
    return (normal * (flip if flip else 1)).astype(np.float32)


def attach(body: Body, extras: list[tuple[Array, Array, Array, int, int]]) -> Body:
    """Adds accessories to a body. Their pixels are background in the IUV map.

    Args:
        body: the body.
        extras: for each accessory, a grid of vertices [R, K, 3] in the frame of a bone, its normals [R, K, 3] and its
            uv [R, K, 2], the index of the bone in `JOINTS`, and its page of the texture (24 or more).
    """
    if not extras:
        return body
    names = ("vertices", "normals", "uv", "part", "texture", "faces", "bones", "weight")
    blocks = [{name: getattr(body, name) for name in names}]
    count = len(body.vertices)
    for points, normals, uv, bone, page in extras:
        turn, origin = body.rest[0][bone], body.rest[1][bone]
        weight = np.zeros(1, np.float32)
        blocks.append(_block(points @ turn.T + origin, normals @ turn.T, uv, 0, page, (bone, bone), weight, count))
        count += points.shape[0] * points.shape[1]
    return replace(body, **_joined(blocks))
