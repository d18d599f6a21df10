"""A small z-buffer rasteriser in NumPy, and a camera.

Pictures are sampled on a grid of half pixels, (2H+1) x (2W+1), whose odd samples are the pixel centres: IUV maps take
those samples as they are, which makes them exact, and colours are filtered over the neighbouring samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Camera", "Fragments", "Window", "downsample", "rasterize", "sample_shape"]

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Camera:
    """Where a person is seen from.

    Attributes:
        yaw: radians that the person is turned to the own left: 0 faces the camera, pi turns the back.
        pitch: radians that the camera looks down.
        distance: metres to the person's middle; perspective is stronger when near.
        roll: radians that the picture is turned clockwise.
    """

    yaw: float = 0.0
    pitch: float = 0.0
    distance: float = 8.0
    roll: float = 0.0

    def rotation(self) -> Array:
        """Matrix [3, 3] from the person's frame to the camera's (x right, y up, z towards the camera)."""
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        turn = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
        c, s = np.cos(self.pitch), np.sin(self.pitch)
        tilt = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
        c, s = np.cos(self.roll), np.sin(self.roll)
        roll = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
        return (roll @ tilt @ turn).astype(np.float32)

    def project(self, points: Array, centre: float = 0.9) -> Array:
        """Points [N, 3] of the person's frame to x (right) and y (up), metres at the person's distance, and depth.

        Args:
            points: metres, in the person's frame.
            centre: height of the point that the camera looks at, metres; it becomes the origin.

        Returns:
            float32 [N, 3]; the third grows towards the camera.
        """
        seen = (points - np.array([0, centre, 0], np.float32)) @ self.rotation().T
        seen[:, :2] *= (self.distance / np.maximum(self.distance - seen[:, 2], 0.1))[:, None]
        return seen


@dataclass(frozen=True)
class Window:
    """The part of the projection plane that a picture shows, metres.

    Attributes:
        x: of the window's middle.
        y: of the window's middle, upwards.
        width: of the window.
        height: of the window.
    """

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Fragments:
    """What is seen at the covered samples of a picture.

    Attributes:
        index: int64 [N], flat indices into the sample grid, each once.
        vertices: int32 [N, 3], the triangle's vertices.
        weights: float32 [N, 3], the barycentric weights.
    """

    index: NDArray[np.int64]
    vertices: NDArray[np.int32]
    weights: Array

    def interpolate(self, values: Array) -> Array:
        """Values per vertex [V] or [V, C] at the fragments, [N] or [N, C]."""
        corners = values[self.vertices]
        if corners.ndim == 2:
            return np.einsum("nk,nk->n", corners, self.weights)
        return np.einsum("nkc,nk->nc", corners, self.weights)


def sample_shape(height: int, width: int) -> tuple[int, int]:
    """Size of the sample grid of a picture."""
    return 2 * height + 1, 2 * width + 1


def to_samples(points: Array, window: Window, height: int, width: int) -> Array:
    """Projected points [N, 3] to sample coordinates: x, y (down) and depth. Pixel (r, c) is sample (2r+1, 2c+1)."""
    x = ((points[:, 0] - window.x) / window.width + 0.5) * (2 * width)
    y = (0.5 - (points[:, 1] - window.y) / window.height) * (2 * height)
    return np.stack([x, y, points[:, 2]], 1).astype(np.float32)


def rasterize(points: Array, faces: NDArray[np.int32], rows: int, columns: int) -> Fragments:
    """Finds the nearest triangle at each sample of a grid.

    Args:
        points: float32 [V, 3]: x, y in samples (a sample's centre has whole coordinates), and a depth that grows
            towards the camera.
        faces: int32 [F, 3]; clockwise triangles in the picture's (y down) frame are seen from behind and left out.
        rows: of the grid.
        columns: of the grid.
    """
    x, y, z = points.T
    fx, fy = x[faces], y[faces]
    ux, uy = fx[:, 1] - fx[:, 0], fy[:, 1] - fy[:, 0]
    vx, vy = fx[:, 2] - fx[:, 0], fy[:, 2] - fy[:, 0]
    area = vx * uy - ux * vy  # positive: counter-clockwise on paper, as y points down
    x0 = np.maximum(np.ceil(fx.min(1)), 0).astype(np.int64)
    x1 = np.minimum(np.floor(fx.max(1)), columns - 1).astype(np.int64)
    y0 = np.maximum(np.ceil(fy.min(1)), 0).astype(np.int64)
    y1 = np.minimum(np.floor(fy.max(1)), rows - 1).astype(np.int64)
    keep = np.flatnonzero((area > 1e-9) & (x1 >= x0) & (y1 >= y0))
    x0, y0 = x0[keep], y0[keep]
    wide = x1[keep] - x0 + 1
    counts = wide * (y1[keep] - y0 + 1)
    face = np.repeat(np.arange(len(keep), dtype=np.int64), counts)
    starts = np.cumsum(counts) - counts
    local = np.arange(len(face), dtype=np.int64) - starts[face]
    down = local // wide[face]
    px, py = x0[face] + (local - down * wide[face]), y0[face] + down
    # Barycentric weights are affine in (px, py): three numbers per face instead of per sample.
    inverse = 1 / area[keep]
    ox, oy = fx[keep, 0], fy[keep, 0]
    b1x, b1y = -vy[keep] * inverse, vx[keep] * inverse
    b2x, b2y = uy[keep] * inverse, -ux[keep] * inverse
    dx, dy = px - ox[face], py - oy[face]
    b1 = b1x[face] * dx + b1y[face] * dy
    b2 = b2x[face] * dx + b2y[face] * dy
    b0 = 1 - b1 - b2
    inside = np.flatnonzero((b0 >= -1e-5) & (b1 >= -1e-5) & (b2 >= -1e-5))
    face, b1, b2 = face[inside], b1[inside], b2[inside]
    pixel = py[inside] * columns + px[inside]
    fz = z[faces[keep]]
    depth = fz[face, 0] + b1 * (fz[:, 1] - fz[:, 0])[face] + b2 * (fz[:, 2] - fz[:, 0])[face]
    nearest = np.full(rows * columns, -np.inf, np.float32)
    depth = depth.astype(np.float32)
    np.maximum.at(nearest, pixel, depth)
    winners = np.flatnonzero(depth == nearest[pixel])
    owner = np.full(rows * columns, -1, np.int64)
    owner[pixel[winners[::-1]]] = winners[::-1]  # of equally near triangles the first
    index = np.flatnonzero(owner >= 0)
    chosen = owner[index]
    second, third = np.clip(b1[chosen], 0, 1), np.clip(b2[chosen], 0, 1)
    weights = np.stack([np.clip(1 - second - third, 0, 1), second, third], 1).astype(np.float32)
    return Fragments(index, faces[keep[face[chosen]]], weights)


def downsample(samples: Array) -> Array:
    """Colours on the sample grid [2H+1, 2W+1, C] to pixels [H, W, C], by a tent of two pixels' width."""
    rows = samples[1::2] * 0.5 + (samples[:-1:2] + samples[2::2]) * 0.25
    return rows[:, 1::2] * 0.5 + (rows[:, :-1:2] + rows[:, 2::2]) * 0.25
