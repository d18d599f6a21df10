"""An analytic human body: named joints, a shape, a pose, and a surface cut into DensePose's 24 charts.

The body is a set of generalised cylinders (torso, arms, legs, hands, feet, head) whose surface is a grid of vertices
per chart, moved by linear blend skinning. It is small enough to be posed in well under a millisecond, and it needs
nothing but NumPy.

Units are metres and radians. A person who stands upright faces +z, up is +y, and +x is the person's *left* (the right
of the picture that a camera in front takes). The ground is y = 0.

**Charts.** Part ids are DensePose's (`dsa_fast.densepose.parts`). Directions of u and v were measured on real DensePose
maps, by regressing u and v of each part on the pixels of upright people seen from the front, the back and the side:

====== ====================== =======================================================================================
parts  u from 0 to 1          v from 0 to 1
====== ====================== =======================================================================================
1, 2   neck to crotch         person's left side to right side (on the back as on the front)
3      once around: from the  wrist to fingertips
       palm side over the
       front, back of the hand
       and behind, to the palm
4      as 3, reversed         wrist to fingertips
5      heel to toes           around, from the middle of the sole over the inner side, the instep, the outer side
6      toes to heel           as 5
7, 8   hip to knee            inner seam to outer seam
9, 10  knee to hip            outer seam to inner seam
11, 12 ankle to knee          inner seam to outer seam
13, 14 knee to ankle          inner seam to outer seam
15, 16 shoulder to elbow      rear seam, over the side that faces the trunk, to the front seam
17, 18 shoulder to elbow      rear seam, over the outer side, to the front seam
19, 20 wrist to elbow         front seam, over the side that faces the trunk, to the rear seam
21, 22 elbow to wrist         rear seam, over the outer side, to the front seam
23     nape to face's middle  neck to crown
24     face's middle to nape  neck to crown
====== ====================== =======================================================================================

The body is exactly symmetric, and its right side is made from the left one by DensePose's flip law: parts swap with
their partner; (u, v) becomes (u, 1-v) on 1, 2; (1-u, v) on 3..6, 23, 24; and stays on 7..22.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dsa_fast.densepose.parts import MIRROR, NUM_PARTS

__all__ = [
    "JOINTS",
    "LANDMARKS",
    "PARENTS",
    "Body",
    "Pose",
    "Shape",
    "build_body",
    "forward_kinematics",
    "joints3d",
    "landmarks3d",
    "mirror_uv",
]

Array = NDArray[np.floating[Any]]

#: Joint names. Each is the origin of the bone that hangs from it.
JOINTS: tuple[str, ...] = (
    *("pelvis", "spine", "chest", "neck", "head"),
    *("left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist"),
    *("left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle"),
)

#: Index of each joint's parent; -1 for the pelvis. Parents come before children.
PARENTS: tuple[int, ...] = (-1, 0, 1, 2, 3, 2, 2, 5, 6, 7, 8, 0, 0, 11, 12, 13, 14)

_INDEX = {name: index for index, name in enumerate(JOINTS)}
_PELVIS, _SPINE, _CHEST, _NECK, _HEAD = range(5)
_SIDES = {name: _INDEX[f"left_{name}"] for name in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")}

#: Joint that each joint becomes in a mirrored person.
MIRROR_JOINTS: tuple[int, ...] = (0, 1, 2, 3, 4, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)

_TALL = 1.72  # metres: the height that the numbers below are written for

#: Points on bones that are no joints: name -> (joint, offset in its frame, metres for a height of 1.72).
LANDMARKS: dict[str, tuple[str, tuple[float, float, float]]] = {
    "nose": ("head", (0.0, 0.05, 0.115)),
    "left_eye": ("head", (0.032, 0.08, 0.088)),
    "right_eye": ("head", (-0.032, 0.08, 0.088)),
    "left_ear": ("head", (0.076, 0.06, -0.005)),
    "right_ear": ("head", (-0.076, 0.06, -0.005)),
    "crown": ("head", (0.0, 0.19, -0.01)),
    "left_hand": ("left_wrist", (0.0, -0.17, 0.0)),
    "right_hand": ("right_wrist", (0.0, -0.17, 0.0)),
    "left_toes": ("left_ankle", (0.0, -0.06, 0.17)),
    "right_toes": ("right_ankle", (0.0, -0.06, 0.17)),
    "left_heel": ("left_ankle", (0.0, -0.06, -0.07)),
    "right_heel": ("right_ankle", (0.0, -0.06, -0.07)),
}


@dataclass(frozen=True)
class Shape:
    """Proportions of a body and the room that its clothes take. Lengths are multiples of an average adult's.

    Attributes:
        height: of the whole person, metres.
        girth: width and depth of the trunk.
        belly: how far the belly stands out, metres.
        shoulders: width between the shoulders.
        legs: length of the legs; the trunk makes up for it.
        arms: length of the arms.
        limbs: thickness of arms and legs.
        head: size of the head.
        sleeves: thickness of the arms' clothes, a multiple.
        trousers: thickness of the legs' clothes, a multiple.
        skirt: how far down a skirt widens the legs: 0 is none, 1 the knee, 2 the ankle.
        coat: how much wider hips and thighs are below a long jacket, a fraction.
        hair: thickness of the hair, metres.
    """

    height: float = 1.72
    girth: float = 1.0
    belly: float = 0.0
    shoulders: float = 1.0
    legs: float = 1.0
    arms: float = 1.0
    limbs: float = 1.0
    head: float = 1.0
    sleeves: float = 1.0
    trousers: float = 1.0
    skirt: float = 0.0
    coat: float = 0.0
    hair: float = 0.0


@dataclass(frozen=True)
class Pose:
    """Rotations of the joints against a person who stands upright with hanging arms.

    Attributes:
        angles: float [17, 3], radians, about each joint's x (the person's left), y (up) and z (forward). A bone is
            turned about y first, then z, then x: R = Rx Rz Ry. So a negative x bends hip, shoulder and elbow forward, a
            positive x the knee backward, and a positive z lifts the left arm sideways (the right one: negative).
    """

    angles: Array = field(default_factory=lambda: np.zeros((len(JOINTS), 3), np.float32))

    @classmethod
    def of(cls, **angles: ArrayLike) -> Pose:
        """Builds a pose from (x, y, z) angles by joint name, as in `Pose.of(left_elbow=(-1.5, 0, 0))`.

        Raises:
            ValueError: an unknown joint.
        """
        values = np.zeros((len(JOINTS), 3), np.float32)
        for name, value in angles.items():
            if name not in _INDEX:
                raise ValueError(f"joints are {', '.join(JOINTS)}, got {name!r}")
            values[_INDEX[name]] = value
        return cls(values)

    def mirrored(self) -> Pose:
        """The pose of the person in the mirror."""
        return Pose(self.angles[list(MIRROR_JOINTS)] * np.array([1, -1, -1], np.float32))


#: Surfaces are made in this pose, between hanging and raised arms, so that skinning bends shoulders little.
REST = Pose.of(left_shoulder=(0, 0, 0.6), right_shoulder=(0, 0, -0.6))


def rotations(angles: Array) -> Array:
    """[..., 3] angles about x, y, z to rotation matrices Rx Rz Ry, [..., 3, 3]."""
    cx, cy, cz = np.moveaxis(np.cos(angles), -1, 0)
    sx, sy, sz = np.moveaxis(np.sin(angles), -1, 0)
    rows = (
        (cz * cy, -sz, cz * sy),
        (cx * sz * cy + sx * sy, cx * cz, cx * sz * sy - sx * cy),
        (sx * sz * cy - cx * sy, sx * cz, sx * sz * sy + cx * cy),
    )
    return np.stack([np.stack(row, -1) for row in rows], -2).astype(np.float32)


def joint_offsets(shape: Shape) -> Array:
    """Where each joint lies in its parent's frame (the pelvis: above the ground), [17, 3], for hanging arms."""
    scale = shape.height / _TALL
    leg = (0.82 * shape.legs) * scale
    hip = 0.08 * scale + leg
    trunk = 1.72 * scale - hip - 0.27 * scale * shape.head  # hip to neck; the head's size goes to its cost
    unit = trunk / 0.55
    shoulder = 0.178 * shape.shoulders * scale
    offsets = np.zeros((len(JOINTS), 3), np.float32)
    offsets[_PELVIS] = (0, hip + 0.05 * unit, 0)
    offsets[_SPINE] = (0, 0.13 * unit, 0)
    offsets[_CHEST] = (0, 0.15 * unit, 0)
    offsets[_NECK] = (0, 0.22 * unit, -0.01 * scale)
    offsets[_HEAD] = (0, 0.08 * scale * shape.head, 0.01 * scale)
    for sign, side in ((1, 0), (-1, 1)):
        offsets[_SIDES["shoulder"] + side] = (sign * shoulder, 0.145 * unit, -0.005)
        offsets[_SIDES["elbow"] + side] = (0, -0.29 * shape.arms * scale, 0)
        offsets[_SIDES["wrist"] + side] = (0, -0.26 * shape.arms * scale, 0)
        offsets[_SIDES["hip"] + side] = (sign * 0.092 * scale * (0.6 + 0.4 * shape.girth), -0.05 * unit, 0)
        offsets[_SIDES["knee"] + side] = (0, -leg / 2, 0)
        offsets[_SIDES["ankle"] + side] = (0, -leg / 2, 0)
    return offsets


def forward_kinematics(pose: Pose, shape: Shape = Shape()) -> tuple[Array, Array]:
    """Rotations [17, 3, 3] and origins [17, 3] of the bones, in the person's frame."""
    offsets, local = joint_offsets(shape), rotations(pose.angles)
    turn, origin = np.empty_like(local), np.empty_like(offsets)
    for joint, parent in enumerate(PARENTS):
        if parent < 0:
            turn[joint], origin[joint] = local[joint], offsets[joint]
        else:
            turn[joint] = turn[parent] @ local[joint]
            origin[joint] = origin[parent] + turn[parent] @ offsets[joint]
    return turn, origin


def joints3d(pose: Pose, shape: Shape = Shape()) -> Array:
    """Positions of `JOINTS`, float32 [17, 3]."""
    return forward_kinematics(pose, shape)[1]


def landmarks3d(pose: Pose, shape: Shape = Shape()) -> dict[str, Array]:
    """Positions of `LANDMARKS` (nose, eyes, ears, hands, toes, ...), each float32 [3]."""
    turn, origin = forward_kinematics(pose, shape)
    scale = shape.height / _TALL
    points = {}
    for name, (joint, offset) in LANDMARKS.items():
        size = scale * (shape.head if joint == "head" else 1.0)
        points[name] = origin[_INDEX[joint]] + turn[_INDEX[joint]] @ (size * np.array(offset, np.float32))
    return points


def mirror_uv(part: int, u: Array, v: Array) -> tuple[int, Array, Array]:
    """DensePose's flip law: where a point of a chart comes to lie on the mirrored person."""
    if part in (1, 2):
        return part, u, 1 - v
    return (MIRROR[part], 1 - u, v) if part in (3, 4, 5, 6, 23, 24) else (MIRROR[part], u, v)


# --- the surface ----------------------------------------------------------------------------------------------------

# Profiles of the cylinders: rows of a place along the axis, half width (x), and depth in front and behind (z).
_TORSO = np.array(  # height above the hip / (hip to neck), widths for girth 1
    [
        (1.05, 0.035, 0.030, 0.035),
        (1.01, 0.060, 0.050, 0.062),
        (0.97, 0.105, 0.062, 0.078),
        (0.93, 0.145, 0.075, 0.090),
        (0.87, 0.168, 0.092, 0.102),
        (0.78, 0.174, 0.112, 0.108),
        (0.64, 0.165, 0.122, 0.108),
        (0.48, 0.150, 0.112, 0.094),
        (0.33, 0.144, 0.106, 0.090),
        (0.18, 0.160, 0.106, 0.108),
        (0.04, 0.172, 0.106, 0.122),
        (-0.08, 0.166, 0.096, 0.116),
        (-0.15, 0.125, 0.076, 0.090),
        (-0.19, 0.070, 0.045, 0.050),
        (-0.21, 0.008, 0.010, 0.010),
    ]
)
_ARM = np.array(  # in units of upper arm (0..1) and lower arm (1..2)
    [
        (-0.19, 0.004, 0.004, 0.004),
        (-0.16, 0.030, 0.030, 0.030),
        (-0.07, 0.050, 0.050, 0.050),
        (0.10, 0.057, 0.058, 0.058),
        (0.35, 0.050, 0.053, 0.053),
        (0.70, 0.043, 0.045, 0.046),
        (1.00, 0.040, 0.040, 0.043),
        (1.20, 0.042, 0.043, 0.042),
        (1.50, 0.036, 0.037, 0.037),
        (1.80, 0.028, 0.030, 0.030),
        (2.06, 0.025, 0.028, 0.028),
    ]
)
_HAND = np.array(  # metres from the wrist
    [
        (-0.010, 0.021, 0.026, 0.026),
        (0.020, 0.021, 0.032, 0.030),
        (0.045, 0.021, 0.052, 0.036),
        (0.080, 0.020, 0.056, 0.040),
        (0.100, 0.019, 0.040, 0.039),
        (0.140, 0.016, 0.033, 0.033),
        (0.172, 0.012, 0.025, 0.022),
        (0.185, 0.002, 0.004, 0.004),
    ]
)
_LEG = np.array(  # in units of upper leg (0..1) and lower leg (1..2)
    [
        (-0.24, 0.030, 0.030, 0.030),
        (-0.15, 0.070, 0.070, 0.085),
        (0.00, 0.088, 0.090, 0.104),
        (0.25, 0.087, 0.092, 0.095),
        (0.55, 0.074, 0.080, 0.078),
        (0.85, 0.059, 0.063, 0.060),
        (1.00, 0.055, 0.060, 0.054),
        (1.12, 0.053, 0.054, 0.056),
        (1.35, 0.054, 0.050, 0.068),
        (1.65, 0.043, 0.042, 0.050),
        (1.88, 0.036, 0.037, 0.040),
        (2.05, 0.035, 0.036, 0.038),
    ]
)
_FOOT = np.array(  # metres in front of the ankle; half width, top and sole above the ankle
    [
        (-0.078, 0.006, -0.045, -0.060),
        (-0.068, 0.028, -0.015, -0.076),
        (-0.035, 0.036, 0.020, -0.080),
        (0.010, 0.038, 0.022, -0.080),
        (0.055, 0.042, -0.008, -0.080),
        (0.100, 0.048, -0.030, -0.080),
        (0.145, 0.046, -0.042, -0.080),
        (0.172, 0.032, -0.048, -0.079),
        (0.185, 0.006, -0.060, -0.072),
    ]
)
_HEAD_RINGS = np.array(  # metres above the head's joint, for head size 1
    [
        (-0.125, 0.056, 0.048, 0.062),
        (-0.070, 0.054, 0.046, 0.062),
        (-0.035, 0.053, 0.050, 0.064),
        (-0.018, 0.055, 0.082, 0.066),
        (0.010, 0.063, 0.096, 0.078),
        (0.045, 0.070, 0.098, 0.096),
        (0.085, 0.075, 0.098, 0.108),
        (0.125, 0.073, 0.092, 0.106),
        (0.158, 0.058, 0.070, 0.084),
        (0.178, 0.034, 0.042, 0.048),
        (0.186, 0.004, 0.005, 0.005),
    ]
)

_ARM_SEAM = np.radians((12.0, -168.0))  # azimuths of the arm's front and rear seams (0 in front, 90 outside)
_LEG_SEAM = np.radians((100.0, -90.0))  # azimuths of the leg's outer and inner seams

# A surface function takes a place along the axis and an azimuth, and gives points in a frame of the left side.
_Surface = Callable[[Array, Array], Array]


def _smooth(x: ArrayLike, low: float, high: float) -> Array:
    t = np.clip((np.asarray(x, np.float32) - low) / (high - low), 0, 1)
    smooth: Array = (t * t * (3 - 2 * t)).astype(np.float32)
    return smooth


def _interpolate(table: NDArray[np.float64], at: Array) -> list[Array]:
    """Columns 1.. of a table at places `at`, by monotone-safe cubic smoothing of a linear table."""
    order = np.argsort(table[:, 0])
    x = table[order, 0]
    fine = np.linspace(x[0], x[-1], 257)
    result = []
    for column in range(1, table.shape[1]):
        y = np.interp(fine, x, table[order, column])
        y[1:-1] = 0.25 * y[:-2] + 0.5 * y[1:-1] + 0.25 * y[2:]
        result.append(np.interp(at, fine, y).astype(np.float32))
    return result


def _ring(half: Array, front: Array, behind: Array, azimuth: Array, power: float = 2.0) -> tuple[Array, Array]:
    """x (outwards) and z (forwards) of a superellipse with different depths in front and behind."""
    s, c = np.sin(azimuth), np.cos(azimuth)
    norm = (np.abs(s) ** power + np.abs(c) ** power) ** (-1 / power)
    return half * s * norm, np.where(c > 0, front, behind) * c * norm


@dataclass(frozen=True)
class _Chart:
    """A grid of a surface: rows along it, columns around it, and what they are in u and v."""

    part: int
    surface: _Surface
    along: Array  # [R], ascending rows of the axis parameter
    around: Array  # [K] azimuths
    uv: Array  # [R, K, 2]
    bones: tuple[int, int]
    weight: Callable[[Array], Array]  # of the second bone, from the axis parameter


def _arc_length(surface: _Surface, along: Array, azimuth: float) -> Array:
    """Length of the meridian up to each row, as a fraction of the whole."""
    share: Array
    points = surface(along, np.full_like(along, azimuth))
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    share = (length / length[-1]).astype(np.float32)
    return share


def _grid(
    part: int,
    surface: _Surface,
    along: Array,
    around: Array,
    first: Array,
    second: Array,
    bones: tuple[int, int],
    weight: Callable[[Array], Array],
    swap: bool = False,
) -> _Chart:
    """A chart whose u runs along (`first` [R]) and v around (`second` [K]), or the other way with `swap`."""
    a, b = np.broadcast_arrays(first[:, None], second[None, :])
    uv = np.stack((b, a) if swap else (a, b), -1).astype(np.float32)
    return _Chart(part, surface, along.astype(np.float32), around.astype(np.float32), uv, bones, weight)


def _left_charts(shape: Shape) -> list[_Chart]:
    """Charts of the left half and of the trunk, in the frames of their bones (trunk: above the ground)."""
    offsets = joint_offsets(shape)
    scale = shape.height / _TALL
    charts: list[_Chart] = []
    hip = float(offsets[_PELVIS, 1] + offsets[_SIDES["hip"], 1])
    trunk = float(offsets[_PELVIS : _NECK + 1, 1].sum()) - hip

    # Trunk: axis parameter is the height above the hip as a fraction of hip-to-neck, downwards.
    def torso(t: Array, azimuth: Array) -> Array:
        half, front, behind = _interpolate(_TORSO, t)
        upper = _smooth(t, 0.75, 0.92)
        wide = scale * (shape.girth * (1 - upper) + shape.shoulders * upper)
        deep = scale * shape.girth**1.2
        wide = wide * (1 + shape.coat * _smooth(t, 0.3, -0.05))
        belly = scale * shape.belly * np.exp(-(((t - 0.36) / 0.22) ** 2)).astype(np.float32)
        x, z = _ring(half * wide, front * deep + belly, behind * deep, azimuth, 2.3)
        return np.stack([x, hip + t * trunk, z - 0.008 * scale], -1).astype(np.float32)

    down = -np.array(
        [
            *(-1.05, -1.02, -0.99, -0.96, -0.93, -0.89, -0.84, -0.77, -0.68, -0.58, -0.48),
            *(-0.38, -0.28, -0.18, -0.08, 0.0, 0.06, 0.11, 0.15, 0.18, 0.2, 0.21),
        ],
        np.float32,
    )
    u = _arc_length(torso, down, 0.5)
    half_turn = np.linspace(0, 1, 13, dtype=np.float32)
    # Above the spine's joint follow the chest, below it the pelvis.
    for part, start, stop in ((2, np.pi / 2, -np.pi / 2), (1, np.pi / 2, 1.5 * np.pi)):
        around = start + (stop - start) * half_turn
        charts.append(
            _grid(part, torso, down, around, u, half_turn, (_PELVIS, _CHEST), lambda t: _smooth(t, 0.15, 0.62))
        )

    # Arm: axis parameter 0 at the shoulder, 1 at the elbow, 2 at the wrist.
    upper, lower = -offsets[_SIDES["elbow"], 1], -offsets[_SIDES["wrist"], 1]

    def length(t: Array, first: float, second: float) -> Array:
        return (np.minimum(t, 1) * first + np.maximum(t - 1, 0) * second).astype(np.float32)

    def arm(t: Array, azimuth: Array) -> Array:
        thick = scale * shape.limbs * (1 + (shape.sleeves - 1) * _smooth(t, -0.2, 0.2))
        half, ahead, behind = (r * thick for r in _interpolate(_ARM, t))
        x, z = _ring(half, ahead, behind, azimuth)
        return np.stack([x, -length(t, upper, lower), z], -1).astype(np.float32)

    front, rear = _ARM_SEAM
    inner = np.linspace(rear, front, 8)
    outer = np.linspace(rear + 2 * np.pi, front, 8)
    eighth = np.linspace(0, 1, 8, dtype=np.float32)
    rows = np.array([-0.19, -0.15, -0.08, 0.02, 0.16, 0.32, 0.5, 0.68, 0.84, 0.93, 1.0], np.float32)
    u = np.interp(rows, [-0.19, 0.02, 1.0], [0, 0.1, 1]).astype(np.float32)
    bones = (_SIDES["shoulder"], _SIDES["elbow"])
    bend = lambda t: _smooth(t, 0.84, 1.16)  # noqa: E731
    charts.append(_grid(15, arm, rows, inner, u, eighth, bones, bend))
    charts.append(_grid(17, arm, rows, outer, u, eighth, bones, bend))
    rows = np.array([1.0, 1.07, 1.16, 1.3, 1.45, 1.6, 1.75, 1.88, 2.0], np.float32)
    u = rows - 1
    charts.append(_grid(19, arm, rows, inner, 1 - u, 1 - eighth, bones, bend))
    charts.append(_grid(21, arm, rows, outer, u, eighth, bones, bend))

    def hand(t: Array, azimuth: Array) -> Array:
        size = scale * (0.5 + 0.5 * shape.limbs)
        half, ahead, behind = (r * size for r in _interpolate(_HAND, t))
        x, z = _ring(half, ahead, behind, azimuth)
        return np.stack([x - 0.1 * t, -t * scale, z], -1).astype(np.float32)

    rows = np.array([-0.01, 0.02, 0.045, 0.07, 0.095, 0.12, 0.15, 0.172, 0.185], np.float32)
    around = np.radians(np.linspace(-90, 270, 13))
    # On the right hand u grows from the palm over front, outside and back; on the left one it is reversed.
    length_of, reversed_turn = (rows + 0.01) / 0.195, np.linspace(1, 0, 13)
    bones, bend = (_SIDES["elbow"], _SIDES["wrist"]), lambda t: _smooth(t, -0.03, 0.02)
    charts.append(_grid(4, hand, rows, around, length_of, reversed_turn, bones, bend, swap=True))

    # Leg: axis parameter 0 at the hip, 1 at the knee, 2 at the ankle.
    thigh, shank = -offsets[_SIDES["knee"], 1], -offsets[_SIDES["ankle"], 1]

    def leg(t: Array, azimuth: Array) -> Array:
        cloth = 1 + (shape.trousers - 1) * _smooth(t, 0.0, 1.0)
        cloth = cloth + shape.coat * _smooth(t, 0.75, 0.45)
        half, ahead, behind = (r * scale * shape.limbs * cloth for r in _interpolate(_LEG, t))
        if shape.skirt > 0:
            # The cloth hangs: from the hem up, the leg is as wide as a cone that meets the other leg's.
            hem = _smooth(t, shape.skirt + 0.02, shape.skirt - 0.02)
            cone = scale * (0.098 + 0.035 * np.clip(t, -0.2, 2))
            half, ahead, behind = (
                np.where(hem > 0, r + hem * np.maximum(cone - r, 0), r) for r in (half, ahead, behind)
            )
        x, z = _ring(half, ahead, behind, azimuth)
        return np.stack([x, -length(t, thigh, shank), z], -1).astype(np.float32)

    outside, inside = _LEG_SEAM
    ahead = np.linspace(outside, inside, 8)  # outer to inner seam, over the front
    behind = np.linspace(inside + 2 * np.pi, outside, 8)  # inner to outer seam, over the back
    above = [-0.24, -0.15, -0.07, 0.03, 0.14, 0.26, 0.38, 0.5, 0.62, 0.74, 0.85, 0.93, 1.0]
    below = [1.0, 1.07, 1.15, 1.25, 1.36, 1.48, 1.6, 1.72, 1.84, 1.94, 2.04]
    if shape.skirt > 0:  # rows at the hem, for a sharp edge
        edge = [shape.skirt - 0.02, shape.skirt + 0.02]
        above = sorted({*above, *(t for t in edge if t < 1)})
        below = sorted({*below, *(t for t in edge if t > 1)})
    high, low = np.array(above, np.float32), np.array(below, np.float32)
    bones = (_SIDES["hip"], _SIDES["knee"])
    bend = lambda t: _smooth(t, 0.86, 1.12)  # noqa: E731
    u = np.interp(high, [-0.24, 0.03, 1.0], [0, 0.12, 1]).astype(np.float32)
    charts.append(_grid(10, leg, high, ahead, 1 - u, eighth, bones, bend))
    charts.append(_grid(8, leg, high, behind, u, eighth, bones, bend))
    u = (low - 1) / 1.04
    charts.append(_grid(14, leg, low, ahead, u, 1 - eighth, bones, bend))
    charts.append(_grid(12, leg, low, behind, 1 - u, eighth, bones, bend))

    # Foot: axis parameter is the distance in front of the ankle; azimuth 0 is up, 90 degrees outside.
    def foot(t: Array, azimuth: Array) -> Array:
        half, top, sole = _interpolate(_FOOT, t)
        s, c = np.sin(azimuth), np.cos(azimuth)
        norm = (np.abs(s) ** 2.6 + np.abs(c) ** 2.6) ** (-1 / 2.6)
        y = 0.5 * (top + sole) + 0.5 * (top - sole) * c * norm
        out = np.radians(8)
        x = half * s * norm
        return scale * np.stack([x + t * np.sin(out), y, t * np.cos(out)], -1).astype(np.float32)

    rows = np.array([-0.078, -0.068, -0.05, -0.02, 0.02, 0.06, 0.1, 0.14, 0.172, 0.185], np.float32)
    around = np.radians(np.linspace(-180, 180, 13))
    u = _arc_length(foot, rows, 0.0)
    bones = (_SIDES["knee"], _SIDES["ankle"])
    charts.append(_grid(5, foot, rows, around, u, np.linspace(0, 1, 13), bones, np.ones_like))

    # Head: axis parameter is the height above its joint; only the left half.
    def head(t: Array, azimuth: Array) -> Array:
        half, ahead, behind = _interpolate(_HEAD_RINGS, t)
        x, z = _ring(half, ahead, behind, azimuth)
        z = z + 0.022 * np.exp(-((azimuth / 0.2) ** 2) - ((t - 0.048) / 0.02) ** 2)  # nose
        x = x + 0.012 * np.exp(-(((azimuth - 1.7) / 0.2) ** 2) - ((t - 0.055) / 0.03) ** 2)  # ear
        scalp = _smooth(t, 0.10, 0.14) + _smooth(azimuth, 1.5, 1.9) * _smooth(t, -0.04, 0.0)
        hair = shape.hair * np.clip(scalp, 0, 1)
        radius = np.hypot(x, z) + 1e-6
        y = t + hair * _smooth(t, 0.10, 0.17)
        grow = 1 + hair / np.maximum(radius, 0.03)
        return scale * shape.head * np.stack([x * grow, y, z * grow], -1).astype(np.float32)

    rows = np.array(
        [-0.125, -0.09, -0.055, -0.035, -0.018, 0.0, 0.02, 0.04, 0.06, 0.085, 0.11, 0.135, 0.155, 0.17, 0.18, 0.186],
        np.float32,
    )
    half_turn = np.linspace(0, 1, 11, dtype=np.float32)
    v, bend = np.clip((rows + 0.1) / 0.286, 0, 1), lambda t: _smooth(t, -0.08, -0.01)
    charts.append(_grid(24, head, rows, np.pi * half_turn, v, half_turn, (_NECK, _HEAD), bend, swap=True))
    return charts


def _frame_bone(part: int) -> int | None:
    """The bone in whose frame a left chart is written; None for the trunk."""
    bones = {4: "wrist", 5: "ankle", 8: "hip", 10: "hip", 12: "hip", 14: "hip", 24: None}
    if part in (1, 2):
        return None
    if part == 24:
        return _HEAD
    name = bones.get(part, "shoulder")
    assert name is not None
    return _SIDES[name]


@dataclass(frozen=True)
class Body:
    """A shape's surface: vertices in the rest pose, triangles, charts and skinning weights.

    Attributes:
        shape: what it was built from.
        vertices: float32 [V, 3], metres, in the pose `REST`.
        normals: float32 [V, 3], unit.
        uv: float32 [V, 2] in [0, 1].
        part: int16 [V], 1..24 (0 for accessories). Vertices are not shared between charts.
        texture: int16 [V], page of the texture that colours a vertex: part - 1, accessories from 24 on.
        faces: int32 [F, 3], counter-clockwise seen from outside.
        bones: int64 [V, 2] indices of `JOINTS`.
        weight: float32 [V], of the second bone; the first has the rest.
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
        """Vertices and unit normals in a pose, float32 [V, 3] each."""
        turn, origin = forward_kinematics(pose, self.shape)
        rest_turn, rest_origin = self.rest
        moved = turn @ rest_turn.transpose(0, 2, 1)
        shift = origin - (moved @ rest_origin[..., None])[..., 0]
        # Few pairs of bones share all vertices between them: blend 3 x 4 matrices, once per vertex.
        table = np.concatenate([moved, shift[..., None]], 2).reshape(len(JOINTS), 12)
        matrix = table.take(self.bones[:, 0], axis=0)
        matrix += (table.take(self.bones[:, 1], axis=0) - matrix) * self.weight[:, None]
        matrix = matrix.reshape(-1, 3, 4)
        both = matrix[..., :3] @ np.stack([self.vertices, self.normals], -1)
        normals = both[..., 1]
        normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-9
        return both[..., 0] + matrix[..., 3], normals

    def surface_points(self, pose: Pose, part: int, u: ArrayLike, v: ArrayLike) -> Array:
        """Points of a chart on the posed surface: the inverse of what a picture's IUV map says.

        Args:
            pose: of the person.
            part: 1..24.
            u: places in the chart, in [0, 1], any shape [...].
            v: likewise.

        Returns:
            float32 [..., 3], metres, in the person's frame. Between vertices it is bilinear.

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
    """Cell of monotone knots that holds each value, and the fraction of the way through it."""
    if knots[0] > knots[-1]:
        index = len(knots) - 1 - np.searchsorted(knots[::-1], at, side="left")
    else:
        index = np.searchsorted(knots, at, side="right") - 1
    index = np.clip(index, 0, len(knots) - 2)
    step = knots[index + 1] - knots[index]
    return index, np.clip((at - knots[index]) / np.where(step == 0, 1, step), 0, 1)


def grid_faces(rows: int, columns: int) -> NDArray[np.int32]:
    """Two triangles per cell of a grid of vertices, [2 (rows-1) (columns-1), 3]."""
    index = np.arange(rows * columns, dtype=np.int32).reshape(rows, columns)
    a, b, c, d = (x.ravel() for x in (index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]))
    return np.concatenate([np.stack([a, b, d], 1), np.stack([a, d, c], 1)])


def outward_faces(vertices: Array, normals: Array, faces: NDArray[np.int32]) -> NDArray[np.int32]:
    """The triangles, each turned so that it is counter-clockwise seen from where its normals point."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    facing = (np.cross(b - a, c - a) * normals[faces].sum(1)).sum(1)
    return np.where(facing[:, None] < 0, faces[:, ::-1], faces)


def chart_coordinates(size: int) -> dict[str, NDArray[np.float32]]:
    """What lies at the texel centres of the charts of an average body, to paint clothes in body coordinates.

    Args:
        size: texels of a chart each way, S.

    Returns:
        float32 [24, S, S] each, rows along u and columns along v: "along" (limbs: 0 at the first joint, 1 at the
        middle one, 2 at the end; trunk: height above the hip over hip-to-neck; head: metres above its joint; hands
        and feet: 0..1), "around" (azimuth, radians: 0 in front, positive outwards; trunk and head: positive to the
        person's left), and "x", "y", "z" (metres, arms hanging).
    """
    centre = ((np.arange(size) + 0.5) / size).astype(np.float32)
    result = {name: np.zeros((NUM_PARTS, size, size), np.float32) for name in ("along", "around", "x", "y", "z")}
    origin = joints3d(Pose())
    for chart in _left_charts(Shape()):
        wrapped = chart.part in (4, 24)
        row_knots, column_knots = chart.uv[:, 0, int(wrapped)], chart.uv[0, :, int(not wrapped)]
        i, s = _cell(row_knots, centre)
        j, t = _cell(column_knots, centre)
        along = chart.along[i] * (1 - s) + chart.along[i + 1] * s
        around = chart.around[j] * (1 - t) + chart.around[j + 1] * t
        a, b = np.meshgrid(along, around, indexing="ij")  # rows: along
        points = chart.surface(a, b)
        bone = _frame_bone(chart.part)
        if bone is not None:
            points = points + origin[bone]
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
def build_body(shape: Shape = Shape()) -> Body:
    """Builds the surface of a shape. Results are cached, and must not be written to.

    Raises:
        ValueError: a measure of `shape` is out of its range.
    """
    _check_shape(shape)
    rest = forward_kinematics(REST, shape)
    vertices, normals, uvs, parts, bones, weights, faces = [], [], [], [], [], [], []
    grids: dict[int, tuple[int, int, int]] = {}
    count = 0
    for chart in _left_charts(shape):
        rows, columns = len(chart.along), len(chart.around)
        a, b = np.meshgrid(chart.along, chart.around, indexing="ij")
        points = chart.surface(a, b)
        normal = _normals(chart.surface, a, b, points)
        bone = _frame_bone(chart.part)
        if bone is not None:
            points = points @ rest[0][bone].T + rest[1][bone]
            normal = normal @ rest[0][bone].T
        weight = np.broadcast_to(chart.weight(chart.along)[:, None], (rows, columns))
        both = [(chart.part, 1, chart.uv, chart.bones)]
        if chart.part > 2:
            part, u, v = mirror_uv(chart.part, chart.uv[..., 0], chart.uv[..., 1])
            pair = (MIRROR_JOINTS[chart.bones[0]], MIRROR_JOINTS[chart.bones[1]])
            both.append((part, -1, np.stack([u, v], -1), pair))
        for part, sign, uv, pair in both:
            side = np.array([sign, 1, 1], np.float32)
            vertices.append((points * side).reshape(-1, 3))
            normals.append((normal * side).reshape(-1, 3))
            uvs.append(uv.reshape(-1, 2))
            parts.append(np.full(rows * columns, part, np.int16))
            bones.append(np.tile(np.array(pair, np.int64), (rows * columns, 1)))
            weights.append(weight.ravel())
            faces.append(outward_faces(vertices[-1], normals[-1], grid_faces(rows, columns)) + count)
            grids[part] = (count, rows, columns)
            count += rows * columns
    part_of = np.concatenate(parts)
    return Body(
        shape=shape,
        vertices=np.concatenate(vertices).astype(np.float32),
        normals=np.concatenate(normals).astype(np.float32),
        uv=np.clip(np.concatenate(uvs), 0, 1).astype(np.float32),
        part=part_of,
        texture=(part_of - 1).astype(np.int16),
        faces=np.concatenate(faces).astype(np.int32),
        bones=np.concatenate(bones),
        weight=np.concatenate(weights).astype(np.float32),
        rest=rest,
        grids=grids,
    )


def _normals(surface: _Surface, a: Array, b: Array, points: Array) -> Array:
    """Outward unit normals of a surface by finite differences."""
    step = (a.max() - a.min()) * 2e-3
    da = surface(a + step, b) - surface(a - step, b)
    db = surface(a, b + 0.02) - surface(a, b - 0.02)
    normal = np.cross(da, db)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True) + 1e-12
    outward = points - points.mean(axis=1, keepdims=True)
    flip = np.sign((normal * outward).sum())
    return (normal * (flip if flip else 1)).astype(np.float32)


def _check_shape(shape: Shape) -> None:
    if not 0.5 <= shape.height <= 2.5:
        raise ValueError(f"height must be in 0.5..2.5 metres, got {shape.height}")
    for name in ("girth", "shoulders", "legs", "arms", "limbs", "head", "sleeves", "trousers"):
        value = getattr(shape, name)
        if not 0.5 <= value <= 2:
            raise ValueError(f"{name} must be in 0.5..2 times an average adult's, got {value}")
    for name, limit in (("belly", 0.3), ("skirt", 2.0), ("coat", 1.0), ("hair", 0.1)):
        value = getattr(shape, name)
        if not 0 <= value <= limit:
            raise ValueError(f"{name} must be in 0..{limit}, got {value}")


def attach(body: Body, extras: list[tuple[Array, Array, Array, int, int]]) -> Body:
    """A body with accessories, whose pixels are background in the IUV map.

    Args:
        body: to add to.
        extras: for each a grid of vertices [R, K, 3] in the frame of a bone, its normals [R, K, 3] and its uv
            [R, K, 2], the index of the bone in `JOINTS`, and its page of the texture (24 or more).
    """
    if not extras:
        return body
    points_, normals_, uvs, parts = [body.vertices], [body.normals], [body.uv], [body.part]
    pages, faces, bones, weights = [body.texture], [body.faces], [body.bones], [body.weight]
    count = len(body.vertices)
    for points, normals, uv, bone, page in extras:
        rows, columns = points.shape[:2]
        turn, origin = body.rest[0][bone], body.rest[1][bone]
        flat, flat_normals = points.reshape(-1, 3) @ turn.T + origin, normals.reshape(-1, 3) @ turn.T
        n = rows * columns
        points_.append(flat.astype(np.float32))
        normals_.append(flat_normals.astype(np.float32))
        uvs.append(uv.reshape(-1, 2).astype(np.float32))
        parts.append(np.zeros(n, np.int16))
        pages.append(np.full(n, page, np.int16))
        faces.append(outward_faces(flat, flat_normals, grid_faces(rows, columns)) + count)
        bones.append(np.full((n, 2), bone, np.int64))
        weights.append(np.zeros(n, np.float32))
        count += n
    return replace(
        body,
        vertices=np.concatenate(points_),
        normals=np.concatenate(normals_),
        uv=np.concatenate(uvs),
        part=np.concatenate(parts),
        texture=np.concatenate(pages),
        faces=np.concatenate(faces),
        bones=np.concatenate(bones),
        weight=np.concatenate(weights),
    )
