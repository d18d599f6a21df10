"""Charts: grids of vertices on a surface, with their places in DensePose's (u, v)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dsa_fast.densepose.parts import MIRROR

__all__ = [
    "Chart",
    "SurfaceFunction",
    "interpolate",
    "make_chart",
    "meridian_share",
    "mirror_uv",
    "ring",
    "smooth_step",
]

Array = NDArray[np.floating[Any]]

#: Maps positions along an axis and azimuths to points in a frame of the left side.
SurfaceFunction = Callable[[Array, Array], Array]


def mirror_uv(part: int, u: Array, v: Array) -> tuple[int, Array, Array]:
    """DensePose's flip rule: returns the coordinates of a chart's point on the mirrored person."""
    if part in (1, 2):
        return part, u, 1 - v
    return (MIRROR[part], 1 - u, v) if part in (3, 4, 5, 6, 23, 24) else (MIRROR[part], u, v)


def smooth_step(x: ArrayLike, low: float, high: float) -> Array:
    """Rises smoothly from 0 at `low` to 1 at `high`, float32."""
    t = np.clip((np.asarray(x, np.float32) - low) / (high - low), 0, 1)
    smooth: Array = (t * t * (3 - 2 * t)).astype(np.float32)
    return smooth


def interpolate(table: NDArray[np.float64], at: Array) -> list[Array]:
    """Columns 1.. of a table at places `at`, linear between its rows, with rounded corners."""
    order = np.argsort(table[:, 0])
    x = table[order, 0]
    fine = np.linspace(x[0], x[-1], 257)
    result = []
    for column in range(1, table.shape[1]):
        y = np.interp(fine, x, table[order, column])
        y[1:-1] = 0.25 * y[:-2] + 0.5 * y[1:-1] + 0.25 * y[2:]
        result.append(np.interp(at, fine, y).astype(np.float32))
    return result


def ring(half: Array, front: Array, behind: Array, azimuth: Array, power: float = 2.0) -> tuple[Array, Array]:
    """x (outwards) and z (forwards) of a superellipse with different depths in front and behind."""
    s, c = np.sin(azimuth), np.cos(azimuth)
    norm = (np.abs(s) ** power + np.abs(c) ** power) ** (-1 / power)
    return half * s * norm, np.where(c > 0, front, behind) * c * norm


@dataclass(frozen=True)
class Chart:
    """A grid of vertices on the left half of the body or on the trunk.

    Attributes:
        part: DensePose's part id.
        surface: gives points in the frame of the bone `frame`, or in the person's frame.
        along: float32 [R], positions of the rows along the axis.
        around: float32 [K], azimuths of the columns, radians.
        uv: float32 [R, K, 2].
        u_around: whether u runs around the axis and v along it, instead of the other way.
        bones: the two bones that move it.
        weight: float32 [R], weight of the second bone; the first has the rest.
        frame: index of a bone, or None.
    """

    part: int
    surface: SurfaceFunction
    along: Array
    around: Array
    uv: Array
    u_around: bool
    bones: tuple[int, int]
    weight: Array
    frame: int | None


def make_chart(
    part: int,
    surface: SurfaceFunction,
    along: Array,
    around: Array,
    *,
    u: Array,
    v: Array,
    bones: tuple[int, int],
    bend: tuple[float, float] | None,
    frame: int | None = None,
    u_around: bool = False,
) -> Chart:
    """Makes a chart; see `Chart`.

    Args:
        part: see `Chart`, like all arguments that are not listed here.
        u: [R] along the axis, or [K] around it with `u_around`.
        v: the other direction.
        bend: positions on the axis between which the second bone takes over from the first; None uses only the second
            bone.
    """
    first, second = (v, u) if u_around else (u, v)
    a, b = np.broadcast_arrays(first[:, None], second[None, :])
    uv = np.stack((b, a) if u_around else (a, b), -1).astype(np.float32)
    along = along.astype(np.float32)
    weight = np.ones_like(along) if bend is None else smooth_step(along, *bend)
    return Chart(part, surface, along, around.astype(np.float32), uv, u_around, bones, weight, frame)


def meridian_share(surface: SurfaceFunction, along: Array, azimuth: float) -> Array:
    """Length of the meridian up to each row, as a fraction of the whole."""
    points = surface(along, np.full_like(along, azimuth))
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    share: Array = (length / length[-1]).astype(np.float32)
    return share
