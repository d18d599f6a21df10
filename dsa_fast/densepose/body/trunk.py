"""Finds the positions, sizes and rotations of people's trunks from points of pictures.

The camera is assumed to be far away and to look slightly down. A trunk's rotation is estimated from the apparent widths
of shoulders and hips. The face and the bend of knees and elbows show which side faces the camera. All steps are array
operations over people. People do not affect each other.

The picture's frame has x right and y down, in pixels. The camera's has x right, y up and z toward the camera, in
meters of an average adult.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .points import (
    ANKLES,
    ARM,
    CROWN,
    CROWN_ABOVE,
    EARS,
    ELBOWS,
    EYES,
    FACE,
    FACE_ABOVE,
    HIP_WIDTH,
    HIPS,
    KNEES,
    LEG,
    NECK,
    NOSE,
    SHOULDER_WIDTH,
    SHOULDERS,
    TRUNK,
    WRISTS,
)

__all__ = ["PITCH", "View", "about_y", "find_view", "norm", "step_up", "swing"]

Array = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]

PITCH = 0.15  # angle by which cameras look down, radians

# Fitted on synthetic people with exact joints, noisy joints, and no faces:
_QUANTILE = 0.67  # of bone lengths relative to an average adult's; gives a person's size
# Fitted on photos:
_IN_FRONT = 0.1  # distance of a hand in front of the trunk from its shoulder, meters

# Weights of the cues for the side that faces the camera, by logistic regression on synthetic people: a visible eye or
# ear (each), and distances across the picture, meters: of the nose from the ears, of the head and of the wrists from
# the shoulders, and of a knee or elbow from the line between its neighbors.
_SEEN_SIGN, _NOSE_SIGN, _HEAD_SIGN, _WRIST_SIGN, _BEND_SIGN = 2.4, 30.0, 40.0, 20.0, 30.0


def norm(vector: Array) -> Array:
    """Returns lengths of vectors [..., D]: [...]."""
    result: Array = np.sqrt((vector * vector).sum(-1))
    return result


def swing(direction: Array) -> Array:
    """Returns the smallest rotations from -y to unit vectors [N, 3]: [N, 3, 3]."""
    x, y, z = np.moveaxis(direction, -1, 0)
    k = 1 / np.maximum(1 - y, 1e-3)
    rows = ((1 - k * x * x, -x, -k * x * z), (x, -y, z), (-k * x * z, -z, 1 - k * z * z))
    return np.stack([np.stack(row, -1) for row in rows], -2)


def about_y(angle: Array) -> Array:
    """Returns rotations about y by angles [N], radians: [N, 3, 3]."""
    c, s, one, zero = np.cos(angle), np.sin(angle), np.ones_like(angle), np.zeros_like(angle)
    return np.stack([np.stack(row, -1) for row in ((c, zero, s), (zero, one, zero), (-s, zero, c))], -2)


def step_up(x: Array, low: Array | float, high: Array | float) -> Array:
    """Rises smoothly from 0 at `low` to 1 at `high`, float64."""
    t = np.clip((x - low) / (high - low), 0, 1)
    result: Array = t * t * (3 - 2 * t)
    return result


def _mean(points: Array, known: Mask, which: tuple[int, ...]) -> tuple[Array, Mask]:
    """Returns the mean of the known points of `which`, [N, 2], and whether there is one."""
    weight = known[:, which].astype(np.float64)[..., None]
    total = weight.sum(1)
    return (points[:, which] * weight).sum(1) / np.maximum(total, 1), total[:, 0] > 0


@dataclass(frozen=True)
class Trunk:
    """The trunks of people in the picture."""

    scale: Array  # [N] pixels per meter
    shoulders: Array  # [N, 2], their middle
    hips: Array  # [N, 2], their middle
    known: Mask  # [N]


def find_trunk(points: Array, known: Mask) -> Trunk:
    """Finds trunks and the sizes of people."""
    shoulders, has_shoulders = _mean(points, known, SHOULDERS)
    hips, has_hips = _mean(points, known, HIPS)
    # If only one shoulder or hip is known, the middle is half a width away, measured on the other pair.
    apart = {pair: points[:, pair[0]] - points[:, pair[1]] for pair in (SHOULDERS, HIPS)}
    for pair, other, ratio_of_widths, middle in (
        (SHOULDERS, HIPS, SHOULDER_WIDTH / HIP_WIDTH, shoulders),
        (HIPS, SHOULDERS, HIP_WIDTH / SHOULDER_WIDTH, hips),
    ):
        side = known[:, pair[0]].astype(np.float64) - known[:, pair[1]]  # 1 or -1: the left or right one alone
        side *= known[:, other].all(1)
        middle -= (side * ratio_of_widths / 2)[:, None] * apart[other]
    neck = known[:, NECK]
    both = known[:, SHOULDERS].all(1)
    shoulders = np.where((neck & ~both)[:, None], points[:, NECK], shoulders)
    has_shoulders = has_shoulders | neck

    ratios, weights = [], []

    def ratio(first: Array, second: Array, both_known: Mask, length: float, weight: float) -> None:
        ratios.append(np.where(both_known, norm(first - second) / length, 0))
        weights.append(np.where(both_known, weight, 0.0))

    def bone(first: int, second: int, length: float, weight: float) -> None:
        ratio(points[:, first], points[:, second], known[:, first] & known[:, second], length, weight)

    ratio(shoulders, hips, has_shoulders & has_hips, TRUNK * np.cos(PITCH), 4.0)
    for limb, weight_of_limb in ((LEG, 1.0), (ARM, 0.5)):
        for root, joint, end in zip(limb.roots, limb.middles, limb.ends, strict=True):
            bone(root, joint, limb.lengths[0], weight_of_limb)
            bone(joint, end, limb.lengths[1], weight_of_limb)
    bone(*SHOULDERS, SHOULDER_WIDTH, 0.5)
    face, has_face = _mean(points, known, FACE)
    crown, has_crown = points[:, CROWN], known[:, CROWN]
    for head, has_head, above in ((crown, has_crown, CROWN_ABOVE), (face, has_face, FACE_ABOVE)):
        ratio(head, shoulders, has_head & has_shoulders, above, 0.5)
        # Without shoulders, the trunk extends to the head.
        far = TRUNK + above
        shoulderless = has_hips & ~has_shoulders
        ratio(head, hips, has_head & shoulderless, far * np.cos(PITCH), 4.0)
        shoulders = np.where((has_head & shoulderless)[:, None], hips + (head - hips) * (TRUNK / far), shoulders)
    # Bones that point at the camera look short, and no bone looks long, so a high quantile is the scale.
    value, weight = np.stack(ratios, 1), np.stack(weights, 1)
    order = np.argsort(value, axis=1, kind="stable")
    value, weight = np.take_along_axis(value, order, 1), np.take_along_axis(weight, order, 1)
    total = weight.cumsum(1)
    at = (total >= _QUANTILE * total[:, -1:]).argmax(1)
    scale = np.take_along_axis(value, at[:, None], 1)[:, 0]

    # If other bones give the size, one end of the trunk is enough: assume that it is upright.
    down = np.stack([np.zeros_like(scale), TRUNK * scale], -1)
    sized = (value * (weight > 0)).max(1) > 0
    hips = np.where((has_shoulders & ~has_hips)[:, None], shoulders + down, hips)
    has_head = has_face | has_crown
    shoulders = np.where((has_hips & ~has_shoulders & ~has_head)[:, None], hips - down, shoulders)
    upper = has_shoulders & (has_hips | (both | neck) & has_head)
    lower = has_hips & (has_head | known[:, HIPS].all(1) & known[:, KNEES].any(1))
    good = (upper | lower) & sized & (scale > 1e-6) & (norm(shoulders - hips) > 1e-6)
    return Trunk(np.where(good, scale, 1.0), shoulders, hips, good)


def _find_yaw(points: Array, known: Mask, trunk: Trunk, right: Array) -> Array:
    """Returns trunks' rotations to their own left, radians [N]; `right` [N, 2] is across, to the picture's right."""

    def across(vector: Array) -> Array:
        result: Array = (vector * right).sum(-1) / trunk.scale
        return result

    cosine, weight = np.zeros_like(trunk.scale), np.zeros_like(trunk.scale)
    for (left_point, right_point), width in ((SHOULDERS, SHOULDER_WIDTH), (HIPS, HIP_WIDTH)):
        pair = known[:, left_point] & known[:, right_point]
        cosine += np.where(pair, width * across(points[:, left_point] - points[:, right_point]), 0)
        weight += np.where(pair, width * width, 0)
    cosine = np.clip(cosine / np.maximum(weight, 1e-9), -1, 1)

    sign = np.zeros_like(cosine)
    for left_point, right_point in (EYES, EARS):
        sign += _SEEN_SIGN * (known[:, right_point].astype(np.float64) - known[:, left_point])
    ears, has_ears = _mean(points, known, EARS)
    face, has_face = _mean(points, known, FACE)
    has_nose = known[:, NOSE]
    sign += np.where(has_nose & has_ears, _NOSE_SIGN * across(points[:, NOSE] - ears), 0)
    head = np.where(has_face[:, None], face, points[:, CROWN])
    has_head = has_face | known[:, CROWN]
    sign += np.where(has_head, _HEAD_SIGN * across(head - trunk.shoulders), 0)
    for chain, weight_of_bend in (((HIPS, KNEES, ANKLES), 1.0), ((SHOULDERS, ELBOWS, WRISTS), -1.0)):
        for first, middle, last in zip(*chain, strict=True):
            bend = across(points[:, middle] - (points[:, first] + points[:, last]) / 2)
            sign += np.where(known[:, [first, middle, last]].all(1), weight_of_bend * _BEND_SIGN * bend, 0)
    wrists, _ = _mean(points, known, WRISTS)
    sign += np.where(known[:, WRISTS].all(1), _WRIST_SIGN * across(wrists - trunk.shoulders), 0)
    sine = np.tanh(sign / 1.5) * np.sqrt(1 - cosine * cosine)
    # If only a face is visible, it faces the camera.
    blind = (weight == 0) & (np.abs(sine) < 1e-6)
    cosine = np.where(blind, np.where(has_nose, 1.0, -1.0), cosine)
    yaw: Array = np.arctan2(sine, cosine)
    return yaw


@dataclass(frozen=True)
class View:
    """Positions and rotations of people's trunks. 3D vectors are in the camera's frame."""

    trunk: Trunk
    turn: Array  # [N, 3, 3]
    up: Array  # [N, 3], along the trunk
    up2: Array  # [N, 2], along it in the picture
    right2: Array  # [N, 2], across it
    yaw: Array  # [N]
    chest: Array  # [N, 3], between the shoulders
    pelvis: Array  # [N, 3], between the hips
    stretch: Array  # [N], the trunk's length over an average adult's

    @property
    def toward(self) -> Array:
        """Returns how directly people face the camera, [N]: 1 front, -1 back."""
        return self.turn[:, 2, 2]

    def lift(self, point: Array) -> Array:
        """Converts points of the picture [N, 2] to the camera's frame at depth 0, [N, 3]."""
        scale = self.trunk.scale
        return np.stack([point[:, 0] / scale, -point[:, 1] / scale, np.zeros_like(scale)], -1)

    def in_front(self, point: Array) -> Array:
        """Returns the depth, [N], that keeps a hand in front of the trunk from intersecting it."""
        half_width = 0.16 * np.abs(self.turn[:, 0, 0]) + 0.1 * np.abs(self.turn[:, 0, 2])
        offset = (point - self.trunk.hips) / self.trunk.scale[:, None]
        aside, above = np.abs((offset * self.right2).sum(-1)), (offset * self.up2).sum(-1)
        inside = (1 - step_up(aside, 0.7 * half_width, 1.3 * half_width)) * step_up(above, -0.25, -0.1)
        result: Array = _IN_FRONT * self.toward * inside * (1 - step_up(above, 0.5, 0.65))
        return result


def find_view(points: Array, known: Mask) -> View:
    trunk = find_trunk(points, known)
    up2 = trunk.shoulders - trunk.hips
    span = norm(up2) / trunk.scale / np.cos(PITCH)
    up2 = up2 / np.maximum(norm(up2), 1e-9)[:, None]
    right2 = np.stack([-up2[:, 1], up2[:, 0]], -1)
    yaw = _find_yaw(points, known, trunk, right2)
    up = np.stack([up2[:, 0], -up2[:, 1], np.full(len(points), np.tan(PITCH))], -1) * np.cos(PITCH)
    middle = (trunk.shoulders + trunk.hips) / 2 / trunk.scale[:, None]
    middle = np.stack([middle[:, 0], -middle[:, 1], np.zeros(len(points))], -1)
    half = up * (span / 2)[:, None]
    turn = swing(-up) @ about_y(yaw)
    return View(trunk, turn, up, up2, right2, yaw, middle + half, middle - half, span / TRUNK)
