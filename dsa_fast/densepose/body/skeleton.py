"""Joints: their names, their tree, and their positions in a pose."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .shape import AVERAGE, AVERAGE_HEIGHT, Shape

__all__ = [
    *("BONES", "JOINTS", "LANDMARKS", "MIRROR_JOINTS", "PARENTS", "REST"),
    *("Pose", "forward_kinematics", "joint_offsets", "joints3d", "landmarks3d"),
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

#: Index of each joint's bone in `JOINTS`.
BONES = {name: index for index, name in enumerate(JOINTS)}

#: New joint of each joint in a mirrored person.
MIRROR_JOINTS: tuple[int, ...] = (0, 1, 2, 3, 4, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)

#: Points on bones that are not joints: name -> (joint, offset in its frame, meters for a height of 1.72).
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
class Pose:
    """Rotations of the joints, relative to a person who stands upright with hanging arms.

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
            if name not in BONES:
                raise ValueError(f"joints are {', '.join(JOINTS)}, got {name!r}")
            values[BONES[name]] = value
        return cls(values)

    def mirrored(self) -> Pose:
        """Returns the pose of the mirrored person."""
        return Pose(self.angles[list(MIRROR_JOINTS)] * np.array([1, -1, -1], np.float32))


#: Rest pose of surfaces, between hanging and raised arms, so skinning bends the shoulders little.
REST = Pose.of(left_shoulder=(0, 0, 0.6), right_shoulder=(0, 0, -0.6))


def _rotations(angles: Array) -> Array:
    """Turns angles about x, y, z, [..., 3], into rotation matrices Rx Rz Ry, [..., 3, 3]."""
    cx, cy, cz = np.moveaxis(np.cos(angles), -1, 0)
    sx, sy, sz = np.moveaxis(np.sin(angles), -1, 0)
    rows = (
        (cz * cy, -sz, cz * sy),
        (cx * sz * cy + sx * sy, cx * cz, cx * sz * sy - sx * cy),
        (sx * sz * cy - cx * sy, sx * cz, sx * sz * sy + cx * cy),
    )
    return np.stack([np.stack(row, -1) for row in rows], -2).astype(np.float32)


def joint_offsets(shape: Shape) -> Array:
    """Returns each joint's position in its parent's frame (the pelvis: above the ground), [17, 3], for hanging arms."""
    scale = shape.height / AVERAGE_HEIGHT
    leg = (0.82 * shape.legs) * scale
    hip = 0.08 * scale + leg
    trunk = 1.72 * scale - hip - 0.27 * scale * shape.head  # hip to neck; a larger head makes it shorter
    unit = trunk / 0.55
    shoulder = 0.178 * shape.shoulders * scale
    offsets = np.zeros((len(JOINTS), 3), np.float32)
    offsets[BONES["pelvis"]] = (0, hip + 0.05 * unit, 0)
    offsets[BONES["spine"]] = (0, 0.13 * unit, 0)
    offsets[BONES["chest"]] = (0, 0.15 * unit, 0)
    offsets[BONES["neck"]] = (0, 0.22 * unit, -0.01 * scale)
    offsets[BONES["head"]] = (0, 0.08 * scale * shape.head, 0.01 * scale)
    for sign, side in ((1, "left"), (-1, "right")):
        offsets[BONES[f"{side}_shoulder"]] = (sign * shoulder, 0.145 * unit, -0.005)
        offsets[BONES[f"{side}_elbow"]] = (0, -0.29 * shape.arms * scale, 0)
        offsets[BONES[f"{side}_wrist"]] = (0, -0.26 * shape.arms * scale, 0)
        offsets[BONES[f"{side}_hip"]] = (sign * 0.092 * scale * (0.6 + 0.4 * shape.girth), -0.05 * unit, 0)
        offsets[BONES[f"{side}_knee"]] = (0, -leg / 2, 0)
        offsets[BONES[f"{side}_ankle"]] = (0, -leg / 2, 0)
    return offsets


def forward_kinematics(pose: Pose, shape: Shape = AVERAGE) -> tuple[Array, Array]:
    """Returns rotations [17, 3, 3] and origins [17, 3] of the bones, in the person's frame."""
    offsets, local = joint_offsets(shape), _rotations(pose.angles)
    turn, origin = np.empty_like(local), np.empty_like(offsets)
    for joint, parent in enumerate(PARENTS):
        if parent < 0:
            turn[joint], origin[joint] = local[joint], offsets[joint]
        else:
            turn[joint] = turn[parent] @ local[joint]
            origin[joint] = origin[parent] + turn[parent] @ offsets[joint]
    return turn, origin


def joints3d(pose: Pose, shape: Shape = AVERAGE) -> Array:
    """Returns the positions of `JOINTS`, float32 [17, 3]."""
    return forward_kinematics(pose, shape)[1]


def landmarks3d(pose: Pose, shape: Shape = AVERAGE) -> dict[str, Array]:
    """Returns the positions of `LANDMARKS` (nose, eyes, ears, hands, toes, ...), each float32 [3]."""
    turn, origin = forward_kinematics(pose, shape)
    scale = shape.height / AVERAGE_HEIGHT
    points = {}
    for name, (joint, offset) in LANDMARKS.items():
        size = scale * (shape.head if joint == "head" else 1.0)
        points[name] = origin[BONES[joint]] + turn[BONES[joint]] @ (size * np.array(offset, np.float32))
    return points
