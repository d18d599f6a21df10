"""A small z-buffer rasterizer in NumPy, and a camera.

Pictures are sampled on a grid of half pixels, (2H+1) x (2W+1). The odd samples are the pixel centers. IUV maps use
these samples unchanged, so they are exact. Colors are filtered over the neighboring samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Camera", "Fragments", "Window", "downsample", "rasterize", "sample_shape"]

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Camera:
    """The camera position relative to a person.

    Attributes:
        yaw: rotation of the person to their own left, radians: 0 faces the camera, pi faces away.
        pitch: angle by which the camera looks down, radians.
        distance: distance to the person's middle, meters; perspective is stronger at short distances.
        roll: clockwise rotation of the picture, radians.
    """

    yaw: float = 0.0
    pitch: float = 0.0
    distance: float = 8.0
    roll: float = 0.0

    def rotation(self) -> Array:
        """Returns the matrix [3, 3] from the person's frame to the camera's (x right, y up, z toward the camera)."""
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        turn = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
        c, s = np.cos(self.pitch), np.sin(self.pitch)
        tilt = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
        c, s = np.cos(self.roll), np.sin(self.roll)
        roll = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
        matrix: Array = (roll @ tilt @ turn).astype(np.float32)
        return matrix

    def project(self, points: Array, centre: float = 0.9) -> Array:
        """Projects points [N, 3] from the person's frame to x (right), y (up), in meters at the person, and depth.

        Args:
            points: meters, in the person's frame.
            centre: height of the point that the camera looks at, meters; it becomes the origin.

        Returns:
            float32 [N, 3]; the third grows toward the camera.
        """
        seen = (points - np.array([0, centre, 0], np.float32)) @ self.rotation().T
        seen[:, :2] *= (self.distance / np.maximum(self.distance - seen[:, 2], 0.1))[:, None]
        return seen


@dataclass(frozen=True)
class Window:
    """The part of the projection plane that a picture shows, meters.

    Attributes:
        x: x of the window's center.
        y: y of the window's center, upward.
        width: width of the window.
        height: height of the window.
    """

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Fragments:
    """The visible surface at the covered samples of a picture.

    Attributes:
        index: int64 [N], flat indices into the sample grid, each once.
        vertices: int64 [3, N], the triangle's vertices.
        weights: float32 [3, N], the barycentric weights.
    """

    index: NDArray[np.int64]
    vertices: NDArray[np.int64]
    weights: Array

    def interpolate(self, values: Array) -> Array:
        """Interpolates values per vertex, float32 [V], at the fragments, [N]."""
        first, second, third = self.vertices
        wa, wb, wc = self.weights
        result: Array = values.take(first) * wa + values.take(second) * wb + values.take(third) * wc
        return result


def sample_shape(height: int, width: int) -> tuple[int, int]:
    """Returns the size of a picture's sample grid."""
    return 2 * height + 1, 2 * width + 1


def to_samples(points: Array, window: Window, height: int, width: int) -> Array:
    """Turns projected points [N, 3] into samples: x, y (down), depth. Pixel (r, c) is sample (2r+1, 2c+1)."""
    x = ((points[:, 0] - window.x) / window.width + 0.5) * (2 * width)
    y = (0.5 - (points[:, 1] - window.y) / window.height) * (2 * height)
    return np.stack([x, y, points[:, 2]], 1).astype(np.float32)


def rasterize(points: Array, faces: NDArray[np.int32], rows: int, columns: int) -> Fragments:
    """Finds the nearest triangle at each sample of a grid.

    Args:
        points: float32 [V, 3]: x, y in samples (a sample's center has integer coordinates), and a depth that grows
            toward the camera.
        faces: int32 [F, 3]. Triangles that are clockwise in the picture (y down) are seen from behind and skipped.
        rows: rows of the grid.
        columns: columns of the grid.
    """
    x, y, z = (np.ascontiguousarray(column) for column in points.T)
    a, b, c = (column.astype(np.int64) for column in faces.T)
    xa, ya = x.take(a), y.take(a)
    area = (x.take(c) - xa) * (y.take(b) - ya) - (x.take(b) - xa) * (y.take(c) - ya)
    front = np.flatnonzero(area > 1e-9)  # counter-clockwise on paper, as y points down
    a, b, c, area = a.take(front), b.take(front), c.take(front), area.take(front)
    xa, xb, xc, ya, yb, yc = x.take(a), x.take(b), x.take(c), y.take(a), y.take(b), y.take(c)
    x0 = np.maximum(np.ceil(np.minimum(np.minimum(xa, xb), xc)), 0).astype(np.int32)
    x1 = np.minimum(np.floor(np.maximum(np.maximum(xa, xb), xc)), columns - 1).astype(np.int32)
    y0 = np.maximum(np.ceil(np.minimum(np.minimum(ya, yb), yc)), 0).astype(np.int32)
    y1 = np.minimum(np.floor(np.maximum(np.maximum(ya, yb), yc)), rows - 1).astype(np.int32)
    wide, tall = x1 - x0 + 1, y1 - y0 + 1
    counts = np.where((wide > 0) & (tall > 0), wide * tall, 0)
    face = np.repeat(np.arange(len(a)), counts)
    local = np.arange(len(face), dtype=np.int32) - (np.cumsum(counts, dtype=np.int32) - counts).take(face)
    wide = wide.take(face)
    down = local // wide
    px, py = x0.take(face) + (local - down * wide), y0.take(face) + down
    # Barycentric weights are affine in (px, py): a few numbers per face instead of per sample.
    inverse = 1 / area
    dx, dy = px - xa.take(face), py - ya.take(face)
    dx, dy = dx.astype(np.float32), dy.astype(np.float32)
    b1 = ((ya - yc) * inverse).take(face) * dx + ((xc - xa) * inverse).take(face) * dy
    b2 = ((yb - ya) * inverse).take(face) * dx + ((xa - xb) * inverse).take(face) * dy
    inside = np.flatnonzero((b1 >= -1e-5) & (b2 >= -1e-5) & (b1 + b2 <= 1 + 1e-5))
    face, b1, b2 = face.take(inside), b1.take(inside), b2.take(inside)
    pixel = py.take(inside).astype(np.int64) * columns + px.take(inside)
    za = z.take(a)
    depth = za.take(face) + b1 * (z.take(b) - za).take(face) + b2 * (z.take(c) - za).take(face)
    nearest = np.full(rows * columns, -np.inf, np.float32)
    np.maximum.at(nearest, pixel, depth)
    winners = np.flatnonzero(depth == nearest.take(pixel))[::-1]
    owner = np.full(rows * columns, -1, np.int64)
    owner[pixel.take(winners)] = winners  # ties go to the first triangle
    index = np.flatnonzero(owner >= 0)
    chosen = owner.take(index)
    second, third = np.clip(b1.take(chosen), 0, 1), np.clip(b2.take(chosen), 0, 1)
    weights = np.stack([np.clip(1 - second - third, 0, 1), second, third])
    chosen = face.take(chosen)
    return Fragments(index, np.stack([a.take(chosen), b.take(chosen), c.take(chosen)]), weights)


def downsample(samples: Array) -> Array:
    """Filters colors on the sample grid [2H+1, 2W+1, C] to pixels [H, W, C], with a tent filter two pixels wide."""
    rows = samples[1::2] * 0.5 + (samples[:-1:2] + samples[2::2]) * 0.25
    return rows[:, 1::2] * 0.5 + (rows[:, :-1:2] + rows[:, 2::2]) * 0.25
