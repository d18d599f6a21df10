"""The points that determine a body's pose, and the average body's lengths between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .skeleton import BONES, LANDMARKS, Pose, joints3d

__all__ = ["ARM", "LEG", "POINTS", "Limb"]

#: The points that determine a person's pose. "neck" is the root of the neck, "crown" the top of the head.
POINTS: tuple[str, ...] = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear"),
    *("left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist"),
    *("left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle"),
    *("neck", "crown"),
)
# Indices of points, left before right.
NOSE, EYES, EARS = 0, (1, 2), (3, 4)
SHOULDERS, ELBOWS, WRISTS, HIPS, KNEES, ANKLES = (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)
NECK, CROWN = 17, 18
FACE = (0, 1, 2, 3, 4)

_JOINTS = joints3d(Pose()).astype(np.float64)


def _distance(first: str, second: str, axis: int = 1) -> float:
    """Returns how far the first joint is above (along axis 0: left of) the second, meters, without float32 noise."""
    return round(float(_JOINTS[BONES[first], axis] - _JOINTS[BONES[second], axis]), 3)


# The average body's lengths, meters. The trunk reaches from the middle of the hips to that of the shoulders.
TRUNK = _distance("left_shoulder", "left_hip")
SHOULDER_WIDTH = _distance("left_shoulder", "right_shoulder", axis=0)
HIP_WIDTH = _distance("left_hip", "right_hip", axis=0)
PELVIS_ABOVE_HIPS, SPINE_ABOVE_HIPS = _distance("pelvis", "left_hip"), _distance("spine", "left_hip")
SHOULDERS_ABOVE_CHEST = _distance("left_shoulder", "chest")
NECK_ABOVE, HEAD_ABOVE = _distance("neck", "left_shoulder"), _distance("head", "left_shoulder")  # the shoulders
CROWN_ABOVE = round(HEAD_ABOVE + LANDMARKS["crown"][1][1], 3)
FACE_ABOVE = 0.22  # the middle of the face

#: Points of the head and their positions in its frame, [6, 3].
HEAD_POINTS = (*FACE, CROWN)
HEAD_OFFSETS = np.array([LANDMARKS[POINTS[point]][1] for point in HEAD_POINTS])


@dataclass(frozen=True)
class Limb:
    """An arm or a leg. Points and parts are pairs: left, right.

    Attributes:
        roots: points of the shoulders or hips.
        middles: points of the elbows or knees.
        ends: points of the wrists or ankles.
        bones: the left side's three bones; the right one follows each.
        lengths: lengths of the first two bones, meters.
        width: distance between the roots, meters.
        upper_parts: DensePose's parts above the middle joint.
        lower_parts: those below it.
    """

    roots: tuple[int, int]
    middles: tuple[int, int]
    ends: tuple[int, int]
    bones: tuple[int, int, int]
    lengths: tuple[float, float]
    width: float
    upper_parts: tuple[tuple[int, ...], tuple[int, ...]]
    lower_parts: tuple[tuple[int, ...], tuple[int, ...]]


ARM = Limb(
    roots=SHOULDERS,
    middles=ELBOWS,
    ends=WRISTS,
    bones=(BONES["left_shoulder"], BONES["left_elbow"], BONES["left_wrist"]),
    lengths=(_distance("left_shoulder", "left_elbow"), _distance("left_elbow", "left_wrist")),
    width=SHOULDER_WIDTH,
    upper_parts=((15, 17), (16, 18)),
    lower_parts=((19, 21, 4), (20, 22, 3)),
)
LEG = Limb(
    roots=HIPS,
    middles=KNEES,
    ends=ANKLES,
    bones=(BONES["left_hip"], BONES["left_knee"], BONES["left_ankle"]),
    lengths=(_distance("left_hip", "left_knee"), _distance("left_knee", "left_ankle")),
    width=HIP_WIDTH,
    upper_parts=((8, 10), (7, 9)),
    lower_parts=((12, 14, 5), (11, 13, 6)),
)
