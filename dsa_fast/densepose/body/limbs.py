"""The left half's limbs, the trunk and the head, as charts: one function each.

A surface function takes a place along the limb's axis, t, and an azimuth: 0 in front, 90 degrees outwards (on the trunk
and the head: to the person's left). On a foot, whose axis points forward, 0 is up. Each works in the frame of the bone
that its charts name, with the arms hanging; the trunk in the person's frame.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .charts import Chart, interpolate, make_chart, meridian_share, ring, smooth_step
from .shape import AVERAGE_HEIGHT, Shape
from .skeleton import BONES, joint_offsets

__all__ = ["left_charts"]

Array = NDArray[np.floating[Any]]

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
_HAND = np.array(  # meters from the wrist
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
_FOOT = np.array(  # meters in front of the ankle; half width, top and sole above the ankle
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
_HEAD = np.array(  # meters above the head's joint, for head size 1
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

_EIGHTH = np.linspace(0, 1, 8, dtype=np.float32)  # the columns of an arm's or leg's chart


def left_charts(shape: Shape) -> list[Chart]:
    """Charts of the left half and of the trunk."""
    return [*_trunk(shape), *_arm(shape), _hand(shape), *_leg(shape), _foot(shape), _head(shape)]


def _trunk(shape: Shape) -> list[Chart]:
    """t is the height above the hip over hip-to-neck; the rows run downwards."""
    scale = shape.height / AVERAGE_HEIGHT
    offsets = joint_offsets(shape)
    hip = float(offsets[BONES["pelvis"], 1] + offsets[BONES["left_hip"], 1])
    length = float(offsets[BONES["pelvis"] : BONES["neck"] + 1, 1].sum()) - hip

    def surface(t: Array, azimuth: Array) -> Array:
        half, front, behind = interpolate(_TORSO, t)
        upper = smooth_step(t, 0.75, 0.92)
        wide = scale * (shape.girth * (1 - upper) + shape.shoulders * upper)
        deep = scale * shape.girth**1.2
        wide = wide * (1 + shape.coat * smooth_step(t, 0.3, -0.05))
        belly = scale * shape.belly * np.exp(-(((t - 0.36) / 0.22) ** 2)).astype(np.float32)
        x, z = ring(half * wide, front * deep + belly, behind * deep, azimuth, 2.3)
        return np.stack([x, hip + t * length, z - 0.008 * scale], -1).astype(np.float32)

    rows = -np.array(
        [
            *(-1.05, -1.02, -0.99, -0.96, -0.93, -0.89, -0.84, -0.77, -0.68, -0.58, -0.48),
            *(-0.38, -0.28, -0.18, -0.08, 0.0, 0.06, 0.11, 0.15, 0.18, 0.2, 0.21),
        ],
        np.float32,
    )
    v = np.linspace(0, 1, 13, dtype=np.float32)
    u = meridian_share(surface, rows, 0.5)
    bones, bend = (BONES["pelvis"], BONES["chest"]), (0.15, 0.62)
    front, back = np.pi / 2 + (-np.pi / 2 - np.pi / 2) * v, np.pi / 2 + (1.5 * np.pi - np.pi / 2) * v
    return [
        make_chart(2, surface, rows, front, u=u, v=v, bones=bones, bend=bend),
        make_chart(1, surface, rows, back, u=u, v=v, bones=bones, bend=bend),
    ]


def _along(t: Array, first: float, second: float) -> Array:
    """Meters along a limb: t is 0 at its root, 1 at its joint and 2 at its end."""
    return (np.minimum(t, 1) * first + np.maximum(t - 1, 0) * second).astype(np.float32)


def _arm(shape: Shape) -> list[Chart]:
    """t is 0 at the shoulder, 1 at the elbow and 2 at the wrist."""
    scale = shape.height / AVERAGE_HEIGHT
    offsets = joint_offsets(shape)
    upper, lower = -offsets[BONES["left_elbow"], 1], -offsets[BONES["left_wrist"], 1]

    def surface(t: Array, azimuth: Array) -> Array:
        thick = scale * shape.limbs * (1 + (shape.sleeves - 1) * smooth_step(t, -0.2, 0.2))
        half, ahead, behind = (r * thick for r in interpolate(_ARM, t))
        x, z = ring(half, ahead, behind, azimuth)
        return np.stack([x, -_along(t, upper, lower), z], -1).astype(np.float32)

    front, rear = _ARM_SEAM
    inner, outer = np.linspace(rear, front, 8), np.linspace(rear + 2 * np.pi, front, 8)
    high = np.array([-0.19, -0.15, -0.08, 0.02, 0.16, 0.32, 0.5, 0.68, 0.84, 0.93, 1.0], np.float32)
    low = np.array([1.0, 1.07, 1.16, 1.3, 1.45, 1.6, 1.75, 1.88, 2.0], np.float32)
    u, u_low = np.interp(high, [-0.19, 0.02, 1.0], [0, 0.1, 1]).astype(np.float32), low - 1
    root = BONES["left_shoulder"]
    bones, bend = (root, BONES["left_elbow"]), (0.84, 1.16)
    return [
        make_chart(15, surface, high, inner, u=u, v=_EIGHTH, bones=bones, bend=bend, frame=root),
        make_chart(17, surface, high, outer, u=u, v=_EIGHTH, bones=bones, bend=bend, frame=root),
        make_chart(19, surface, low, inner, u=1 - u_low, v=1 - _EIGHTH, bones=bones, bend=bend, frame=root),
        make_chart(21, surface, low, outer, u=u_low, v=_EIGHTH, bones=bones, bend=bend, frame=root),
    ]


def _hand(shape: Shape) -> Chart:
    """t is meters from the wrist toward the fingertips."""
    scale = shape.height / AVERAGE_HEIGHT
    wrist = BONES["left_wrist"]

    def surface(t: Array, azimuth: Array) -> Array:
        size = scale * (0.5 + 0.5 * shape.limbs)
        half, ahead, behind = (r * size for r in interpolate(_HAND, t))
        x, z = ring(half, ahead, behind, azimuth)
        return np.stack([x - 0.1 * t, -t * scale, z], -1).astype(np.float32)

    rows = np.array([-0.01, 0.02, 0.045, 0.07, 0.095, 0.12, 0.15, 0.172, 0.185], np.float32)
    around = np.radians(np.linspace(-90, 270, 13))
    # On the right hand u grows from the palm over front, outside and back; on the left one it is reversed.
    u, v = np.linspace(1, 0, 13), (rows + 0.01) / 0.195
    bones, bend = (BONES["left_elbow"], wrist), (-0.03, 0.02)
    return make_chart(4, surface, rows, around, u=u, v=v, bones=bones, bend=bend, frame=wrist, u_around=True)


def _leg(shape: Shape) -> list[Chart]:
    """t is 0 at the hip, 1 at the knee and 2 at the ankle."""
    scale = shape.height / AVERAGE_HEIGHT
    offsets = joint_offsets(shape)
    thigh, shank = -offsets[BONES["left_knee"], 1], -offsets[BONES["left_ankle"], 1]

    def surface(t: Array, azimuth: Array) -> Array:
        cloth = 1 + (shape.trousers - 1) * smooth_step(t, 0.0, 1.0)
        cloth = cloth + shape.coat * smooth_step(t, 0.75, 0.45)
        half, ahead, behind = (r * scale * shape.limbs * cloth for r in interpolate(_LEG, t))
        if shape.skirt > 0:
            # The cloth hangs: from the hem up, the leg is as wide as a cone that meets the other leg's.
            hem = smooth_step(t, shape.skirt + 0.02, shape.skirt - 0.02)
            cone = scale * (0.098 + 0.035 * np.clip(t, -0.2, 2))
            half, ahead, behind = (
                np.where(hem > 0, r + hem * np.maximum(cone - r, 0), r) for r in (half, ahead, behind)
            )
        x, z = ring(half, ahead, behind, azimuth)
        return np.stack([x, -_along(t, thigh, shank), z], -1).astype(np.float32)

    outside, inside = _LEG_SEAM
    front = np.linspace(outside, inside, 8)  # outer to inner seam
    back = np.linspace(inside + 2 * np.pi, outside, 8)  # inner to outer seam
    hem = [shape.skirt - 0.02, shape.skirt + 0.02] if shape.skirt > 0 else []  # rows there keep its edge sharp
    above = {-0.24, -0.15, -0.07, 0.03, 0.14, 0.26, 0.38, 0.5, 0.62, 0.74, 0.85, 0.93, 1.0, *(t for t in hem if t < 1)}
    below = {1.0, 1.07, 1.15, 1.25, 1.36, 1.48, 1.6, 1.72, 1.84, 1.94, 2.04, *(t for t in hem if t > 1)}
    high, low = np.array(sorted(above), np.float32), np.array(sorted(below), np.float32)
    u, u_low = np.interp(high, [-0.24, 0.03, 1.0], [0, 0.12, 1]).astype(np.float32), (low - 1) / 1.04
    root = BONES["left_hip"]
    bones, bend = (root, BONES["left_knee"]), (0.86, 1.12)
    return [
        make_chart(10, surface, high, front, u=1 - u, v=_EIGHTH, bones=bones, bend=bend, frame=root),
        make_chart(8, surface, high, back, u=u, v=_EIGHTH, bones=bones, bend=bend, frame=root),
        make_chart(14, surface, low, front, u=u_low, v=1 - _EIGHTH, bones=bones, bend=bend, frame=root),
        make_chart(12, surface, low, back, u=1 - u_low, v=_EIGHTH, bones=bones, bend=bend, frame=root),
    ]


def _foot(shape: Shape) -> Chart:
    """t is meters in front of the ankle; azimuth 0 is up, 90 degrees outwards."""
    scale = shape.height / AVERAGE_HEIGHT
    ankle = BONES["left_ankle"]

    def surface(t: Array, azimuth: Array) -> Array:
        half, top, sole = interpolate(_FOOT, t)
        s, c = np.sin(azimuth), np.cos(azimuth)
        norm = (np.abs(s) ** 2.6 + np.abs(c) ** 2.6) ** (-1 / 2.6)
        y = 0.5 * (top + sole) + 0.5 * (top - sole) * c * norm
        out = np.radians(8)
        x = half * s * norm
        return scale * np.stack([x + t * np.sin(out), y, t * np.cos(out)], -1).astype(np.float32)

    rows = np.array([-0.078, -0.068, -0.05, -0.02, 0.02, 0.06, 0.1, 0.14, 0.172, 0.185], np.float32)
    around = np.radians(np.linspace(-180, 180, 13))
    u, v = meridian_share(surface, rows, 0.0), np.linspace(0, 1, 13)
    return make_chart(5, surface, rows, around, u=u, v=v, bones=(BONES["left_knee"], ankle), bend=None, frame=ankle)


def _head(shape: Shape) -> Chart:
    """t is meters above the head's joint, for a head of size 1."""
    scale = shape.height / AVERAGE_HEIGHT
    bone = BONES["head"]

    def surface(t: Array, azimuth: Array) -> Array:
        half, ahead, behind = interpolate(_HEAD, t)
        x, z = ring(half, ahead, behind, azimuth)
        z = z + 0.022 * np.exp(-((azimuth / 0.2) ** 2) - ((t - 0.048) / 0.02) ** 2)  # nose
        x = x + 0.012 * np.exp(-(((azimuth - 1.7) / 0.2) ** 2) - ((t - 0.055) / 0.03) ** 2)  # ear
        scalp = smooth_step(t, 0.10, 0.14) + smooth_step(azimuth, 1.5, 1.9) * smooth_step(t, -0.04, 0.0)
        hair = shape.hair * np.clip(scalp, 0, 1)
        radius = np.hypot(x, z) + 1e-6
        y = t + hair * smooth_step(t, 0.10, 0.17)
        grow = 1 + hair / np.maximum(radius, 0.03)
        return scale * shape.head * np.stack([x * grow, y, z * grow], -1).astype(np.float32)

    rows = np.array(
        [-0.125, -0.09, -0.055, -0.035, -0.018, 0.0, 0.02, 0.04, 0.06, 0.085, 0.11, 0.135, 0.155, 0.17, 0.18, 0.186],
        np.float32,
    )
    u = np.linspace(0, 1, 11, dtype=np.float32)
    v = np.clip((rows + 0.1) / 0.286, 0, 1)
    bones, bend = (BONES["neck"], bone), (-0.08, -0.01)
    return make_chart(24, surface, rows, np.pi * u, u=u, v=v, bones=bones, bend=bend, frame=bone, u_around=True)
