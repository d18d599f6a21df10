"""Poses the synthetic people's body so that its joints fall on given points of pictures.

The camera is taken to be far away and to look down a little. What a picture does not say is guessed: a trunk's turn
from the apparent widths of shoulders and hips, its side from the face and from the way that knees and elbows bend, and
a limb's depth from how short it looks. All of it is arithmetic on whole arrays of people; no person depends on another.

Frames: the picture's has x right and y down, pixels. The camera's has x right, y up and z towards the camera, in units
of an average adult's metres.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsa_fast.ops.bodies import Surface, draw_bodies

__all__ = ["POINTS", "draw"]

Array = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]

#: The points that a person is posed by. "neck" is the root of the neck, "crown" the top of the head.
POINTS: tuple[str, ...] = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear"),
    *("left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist"),
    *("left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle"),
    *("neck", "crown"),
)
_P = {name: index for index, name in enumerate(POINTS)}
_NOSE, _EYES, _EARS, _CROWN, _NECK = _P["nose"], (1, 2), (3, 4), _P["crown"], _P["neck"]
_SHOULDERS, _ELBOWS, _WRISTS, _HIPS, _KNEES, _ANKLES = (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)
_HEAD_POINTS = (*range(5), _CROWN)

# The average body, metres. They are body.py's for Shape().
_TRUNK, _SHOULDER_WIDTH, _HIP_WIDTH = 0.475, 0.356, 0.184
_UPPER_ARM, _LOWER_ARM, _UPPER_LEG, _LOWER_LEG = 0.29, 0.26, 0.41, 0.41
_HEAD_OFFSETS = np.array(
    [
        *((0.0, 0.05, 0.115), (0.032, 0.08, 0.088), (-0.032, 0.08, 0.088)),
        *((0.076, 0.06, -0.005), (-0.076, 0.06, -0.005), (0.0, 0.19, -0.01)),
    ]
)
_HEAD_ABOVE = 0.155  # of the head's joint above the shoulders
_NECK_ABOVE = 0.075  # likewise of the neck's

_PITCH = 0.15  # radians that cameras look down

# Weights of the signs that tell which side is turned to the camera: fitted by logistic regression on synthetic people.
_FACE_SIGN, _NOSE_SIGN, _HEAD_SIGN, _BEND_SIGN, _WRIST_SIGN = 1.2, 15.0, 20.0, 15.0, 10.0

# Parts of each limb: left, right.
_UPPER_ARM_PARTS, _LOWER_ARM_PARTS = ((15, 17), (16, 18)), ((19, 21, 4), (20, 22, 3))
_UPPER_LEG_PARTS, _LOWER_LEG_PARTS = ((8, 10), (7, 9)), ((12, 14, 5), (11, 13, 6))


@dataclass(frozen=True)
class _Body:
    """The average body's surface, and its bones in the rest pose."""

    surface: Surface
    turn: Array  # [17, 3, 3]
    origin: Array  # [17, 3]


@lru_cache(maxsize=1)
def _average_body() -> _Body:
    from dsa_fast.data.synth.body import Shape, build_body  # here, because data/ imports this package

    body = build_body(Shape(sleeves=1.1, trousers=1.1, hair=0.01))
    surface = Surface(
        torch.from_numpy(body.vertices.astype(np.float32)),
        torch.from_numpy(body.uv.astype(np.float32)),
        torch.from_numpy(body.part.astype(np.uint8)),
        torch.from_numpy(body.bones.astype(np.int32)),
        torch.from_numpy(body.weight.astype(np.float32)),
        torch.from_numpy(np.ascontiguousarray(body.faces, np.int32)),
    )
    return _Body(surface, body.rest[0].astype(np.float64), body.rest[1].astype(np.float64))


def draw(points: Array, known: Mask, size: tuple[int, int]) -> Tensor:
    """IUV maps of people, uint8 [N, 3, H, W].

    Args:
        points: float64 [N, 19, 2], x and y of `POINTS`, pixels.
        known: bool [N, 19].
        size: (H, W) of the maps.
    """
    body = _average_body()
    with np.errstate(all="ignore"):  # what is not finite is not shown
        maps, shown = _pose(np.where(known[..., None], points, 0.0), known, body)
    return draw_bodies(
        body.surface,
        torch.from_numpy(np.ascontiguousarray(maps, np.float32)),
        torch.from_numpy(np.ascontiguousarray(shown, np.int32)),
        size,
    )


def _length(vector: Array) -> Array:
    result: Array = np.sqrt((vector * vector).sum(-1))
    return result


def _mean(points: Array, known: Mask, which: tuple[int, ...]) -> tuple[Array, Mask]:
    """Mean of those points of `which` that are known, [N, 2], and whether there is one."""
    weight = known[:, which].astype(np.float64)[..., None]
    total = weight.sum(1)
    return (points[:, which] * weight).sum(1) / np.maximum(total, 1), total[:, 0] > 0


def _swing(direction: Array) -> Array:
    """The smallest rotation that takes -y to unit vectors [N, 3]: [N, 3, 3]."""
    x, y, z = np.moveaxis(direction, -1, 0)
    k = 1 / np.maximum(1 - y, 1e-3)
    rows = ((1 - k * x * x, -x, -k * x * z), (x, -y, z), (-k * x * z, -z, 1 - k * z * z))
    return np.stack([np.stack(row, -1) for row in rows], -2)


def _about_y(angle: Array) -> Array:
    c, s, one, zero = np.cos(angle), np.sin(angle), np.ones_like(angle), np.zeros_like(angle)
    return np.stack([np.stack(row, -1) for row in ((c, zero, s), (zero, one, zero), (-s, zero, c))], -2)


def _step(x: Array, low: float, high: float) -> Array:
    t = np.clip((x - low) / (high - low), 0, 1)
    result: Array = t * t * (3 - 2 * t)
    return result


def _apply(matrix: Array, vector: Array) -> Array:
    return (matrix @ vector[..., None])[..., 0]


@dataclass(frozen=True)
class _Trunk:
    """What is known of people's trunks."""

    scale: Array  # [N] pixels per metre
    shoulders: Array  # [N, 2], the middle
    hips: Array  # [N, 2], likewise
    known: Mask  # [N]


def _trunk(points: Array, known: Mask) -> _Trunk:
    """Finds trunks, and how large people are."""
    shoulders, has_shoulders = _mean(points, known, _SHOULDERS)
    hips, has_hips = _mean(points, known, _HIPS)
    neck = known[:, _NECK]
    both = known[:, _SHOULDERS].all(1)
    shoulders = np.where((neck & ~both)[:, None], points[:, _NECK], shoulders)
    has_shoulders = has_shoulders | neck

    ratios, weights = [], []

    def ratio(first: Array, second: Array, both_known: Mask, length: float, weight: float) -> None:
        ratios.append(np.where(both_known, _length(first - second) / length, 0))
        weights.append(np.where(both_known, weight, 0.0))

    def bone(first: int, second: int, length: float, weight: float) -> None:
        ratio(points[:, first], points[:, second], known[:, first] & known[:, second], length, weight)

    ratio(shoulders, hips, has_shoulders & has_hips, _TRUNK * np.cos(_PITCH), 4.0)
    for side in (0, 1):
        bone(_HIPS[side], _KNEES[side], _UPPER_LEG, 1.0)
        bone(_KNEES[side], _ANKLES[side], _LOWER_LEG, 1.0)
        bone(_SHOULDERS[side], _ELBOWS[side], _UPPER_ARM, 0.5)
        bone(_ELBOWS[side], _WRISTS[side], _LOWER_ARM, 0.5)
    bone(*_SHOULDERS, _SHOULDER_WIDTH, 0.5)
    face, has_face = _mean(points, known, tuple(range(5)))
    ratio(face, shoulders, has_face & has_shoulders, 0.22, 0.5)
    ratio(points[:, _CROWN], shoulders, known[:, _CROWN] & has_shoulders, 0.345, 0.5)
    # Bones that point at the camera look short, none looks long: a high quantile is the scale.
    value, weight = np.stack(ratios, 1), np.stack(weights, 1)
    order = np.argsort(value, axis=1, kind="stable")
    value, weight = np.take_along_axis(value, order, 1), np.take_along_axis(weight, order, 1)
    total = weight.cumsum(1)
    at = (total >= 0.6 * total[:, -1:]).argmax(1)
    scale = np.take_along_axis(value, at[:, None], 1)[:, 0]

    # One end of the trunk is enough where something else tells the size: the trunk is taken to be upright.
    down = np.stack([np.zeros_like(scale), _TRUNK * scale], -1)
    sized = (value * (weight > 0)).max(1) > 0
    hips = np.where((has_shoulders & ~has_hips)[:, None], shoulders + down, hips)
    shoulders = np.where((has_hips & ~has_shoulders)[:, None], hips - down, shoulders)
    upper = has_shoulders & (has_hips | (both | neck) & (has_face | known[:, _CROWN]))
    lower = has_hips & known[:, _HIPS].all(1) & known[:, _KNEES].any(1)
    good = (upper | lower) & sized & (scale > 1e-6) & (_length(shoulders - hips) > 1e-6)
    return _Trunk(np.where(good, scale, 1.0), shoulders, hips, good)


def _yaw(points: Array, known: Mask, trunk: _Trunk, right: Array) -> Array:
    """Radians that trunks are turned to the own left, [N]; `right` [N, 2] lies across them, to the picture's right."""

    def across(vector: Array) -> Array:
        result: Array = (vector * right).sum(-1) / trunk.scale
        return result

    cosine, weight = np.zeros_like(trunk.scale), np.zeros_like(trunk.scale)
    for (left_point, right_point), width in ((_SHOULDERS, _SHOULDER_WIDTH), (_HIPS, _HIP_WIDTH)):
        pair = known[:, left_point] & known[:, right_point]
        cosine += np.where(pair, width * across(points[:, left_point] - points[:, right_point]), 0)
        weight += np.where(pair, width * width, 0)
    cosine = np.clip(cosine / np.maximum(weight, 1e-9), -1, 1)

    sign = np.zeros_like(cosine)
    for left_point, right_point in (_EYES, _EARS):
        sign += _FACE_SIGN * (known[:, right_point].astype(np.float64) - known[:, left_point])
    ears, has_ears = _mean(points, known, _EARS)
    face, has_face = _mean(points, known, tuple(range(5)))
    has_nose = known[:, _NOSE]
    sign += np.where(has_nose & has_ears, _NOSE_SIGN * across(points[:, _NOSE] - ears), 0)
    head = np.where(has_face[:, None], face, points[:, _CROWN])
    has_head = has_face | known[:, _CROWN]
    sign += np.where(has_head, _HEAD_SIGN * across(head - trunk.shoulders), 0)
    for chain, weight_of_bend in (((_HIPS, _KNEES, _ANKLES), 1.0), ((_SHOULDERS, _ELBOWS, _WRISTS), -1.0)):
        for first, middle, last in zip(*chain, strict=True):
            bend = across(points[:, middle] - (points[:, first] + points[:, last]) / 2)
            sign += np.where(known[:, [first, middle, last]].all(1), weight_of_bend * _BEND_SIGN * bend, 0)
    wrists, _ = _mean(points, known, _WRISTS)
    sign += np.where(known[:, _WRISTS].all(1), _WRIST_SIGN * across(wrists - trunk.shoulders), 0)
    sine = np.tanh(sign / 1.5) * np.sqrt(1 - cosine * cosine)
    # Someone of whom only the face tells the front is turned to the camera.
    blind = (weight == 0) & (np.abs(sine) < 1e-6)
    cosine = np.where(blind, np.where(has_nose, 1.0, -1.0), cosine)
    yaw: Array = np.arctan2(sine, cosine)
    return yaw


def _pose(points: Array, known: Mask, body: _Body) -> tuple[Array, NDArray[np.int32]]:
    """Maps of the bones, float64 [N, 17, 3, 4], and the parts shown, int32 [N], as `draw_bodies` takes them."""
    count = len(points)
    trunk = _trunk(points, known)
    scale = trunk.scale
    up2 = trunk.shoulders - trunk.hips  # picture's frame
    span = _length(up2) / scale
    up2 = up2 / np.maximum(_length(up2), 1e-9)[:, None]
    right2 = np.stack([-up2[:, 1], up2[:, 0]], -1)
    yaw = _yaw(points, known, trunk, right2)

    def lift(point: Array, depth: Array | float = 0.0) -> Array:
        """Picture's points [N, 2] to the camera's frame."""
        return np.stack([point[:, 0] / scale, -point[:, 1] / scale, np.broadcast_to(depth, scale.shape)], -1)

    up = np.stack([up2[:, 0] * np.cos(_PITCH), -up2[:, 1] * np.cos(_PITCH), np.full(count, np.sin(_PITCH))], -1)
    turn = _swing(-up) @ _about_y(yaw)  # of the trunk
    forward = turn[:, :, 2]
    stretch = span / np.cos(_PITCH) / _TRUNK
    half = up * (span / np.cos(_PITCH) / 2)[:, None]
    middle = lift((trunk.shoulders + trunk.hips) / 2)
    chest, pelvis = middle + half, middle - half  # between the shoulders, between the hips

    turns = np.broadcast_to(turn[:, None], (count, 17, 3, 3)).copy()
    origins = np.zeros((count, 17, 3))
    sizes = np.ones((count, 17, 3))
    shown = np.zeros(count, np.int64)
    sizes[:, :3, 1] = stretch[:, None]
    origins[:, 0] = pelvis + up * (0.05 * stretch)[:, None]
    origins[:, 1] = pelvis + up * (0.18 * stretch)[:, None]
    origins[:, 2] = chest - up * (0.145 * stretch)[:, None]
    origins[:, 3] = chest + up * _NECK_ABOVE
    _pose_head(points, known, trunk, turn, yaw, chest, up, turns, origins, sizes)
    shown |= _bits((1, 2, 23, 24))

    for side, sign in ((0, 1.0), (1, -1.0)):
        for roots, joints, ends, width, centre, lengths, bones, parts, is_arm in (
            (
                *(_SHOULDERS, _ELBOWS, _WRISTS, _SHOULDER_WIDTH, chest, (_UPPER_ARM, _LOWER_ARM)),
                *((5, 7, 9), (_UPPER_ARM_PARTS, _LOWER_ARM_PARTS), True),
            ),
            (
                *(_HIPS, _KNEES, _ANKLES, _HIP_WIDTH, pelvis, (_UPPER_LEG, _LOWER_LEG)),
                *((11, 13, 15), (_UPPER_LEG_PARTS, _LOWER_LEG_PARTS), False),
            ),
        ):
            root, joint, end = roots[side], joints[side], ends[side]
            other = roots[1 - side]
            place = centre + turn[:, :, 0] * (sign * width / 2)
            # Without its own point, the root mirrors its partner, or lies where the trunk says.
            mirrored = 2 * lift(trunk.shoulders if is_arm else trunk.hips) - lift(points[:, other])
            use = known[:, other] & known[:, _NECK] if is_arm else np.zeros(count, bool)
            seen = np.where(known[:, root, None], lift(points[:, root]), np.where(use[:, None], mirrored, place))
            start = np.concatenate([seen[:, :2], place[:, 2:]], -1)
            has_joint, has_end = known[:, joint], known[:, end]
            # A middle joint that is missing lies between its neighbours.
            middle_at = np.where(has_joint[:, None], points[:, joint], 0)
            between = (start[:, :2] * np.stack([scale, -scale], -1) + points[:, end]) / 2
            middle_at = np.where((~has_joint & has_end)[:, None], between, middle_at)
            has_middle = has_joint | has_end
            bend = np.sign(forward[:, 2]) * _step(np.abs(forward[:, 2]), 0.1, 0.6)
            first = _reach(lift(middle_at) - start, lengths[0], up, bend * (0.5 if is_arm else 1.0))
            start2 = start + first
            second = _reach(lift(points[:, end]) - start2, lengths[1], up, bend * (1.0 if is_arm else -1.0))
            length1, length2 = _length(first), _length(second)
            way1 = first / np.maximum(length1, 1e-9)[:, None]
            way2 = second / np.maximum(length2, 1e-9)[:, None]
            way2 = np.where(has_end[:, None], way2, way1)
            upper = turn @ _swing(_apply(turn.transpose(0, 2, 1), way1))
            local = _apply(upper.transpose(0, 2, 1), way2)
            if is_arm:  # the elbow is a hinge: it tells how the arm is turned about itself
                turned = np.clip(np.arctan2(local[:, 0], local[:, 2]), -1.6, 1.6)
                turned *= _step(np.hypot(local[:, 0], local[:, 2]), 0.25, 0.7)
                upper = upper @ _about_y(turned)
                local = _apply(upper.transpose(0, 2, 1), way2)
            lower = upper @ _swing(local)
            b1, b2, b3 = (bone + side for bone in bones)
            turns[:, b1], turns[:, b2], turns[:, b3] = upper, lower, lower
            origins[:, b1], origins[:, b2], origins[:, b3] = start, start2, start2 + second
            sizes[:, b1, 1] = np.clip(length1 / lengths[0], 0.05, 3)
            sizes[:, b2, 1] = np.clip(length2 / lengths[1], 0.05, 3)
            shown |= np.where(has_middle, _bits(parts[0][side]), 0)
            shown |= np.where(has_end, _bits(parts[1][side]), 0)

    # From the rest pose to the bone's frame, to the camera's, to the picture's.
    linear = (turns * sizes[:, :, None, :]) @ body.turn.transpose(0, 2, 1)
    shift = origins - _apply(linear, np.broadcast_to(body.origin, (count, 17, 3)))
    maps = np.concatenate([linear, shift[..., None]], -1)
    maps = maps * np.stack([scale, -scale, scale], -1)[:, None, :, None]
    shown = np.where(trunk.known & np.isfinite(maps).all((1, 2, 3)), shown, 0)
    return maps, shown.astype(np.int32)


def _bits(parts: tuple[int, ...]) -> int:
    return sum(1 << part for part in parts)


def _reach(vector: Array, length: float, up: Array, bend: Array) -> Array:
    """A bone's 3D vector, [N, 3], from what is seen of it: `bend` -1..1 says where it points if it looks short."""
    seen = vector[:, :2]
    flat = _length(seen)
    # Along the person's up axis the camera's pitch alone makes depth.
    slope = up[:, 2] / np.maximum(_length(up[:, :2]), 1e-9)
    along = (seen * up[:, :2]).sum(-1) / np.maximum(_length(up[:, :2]), 1e-9)
    depth = along * slope + bend * np.sqrt(np.maximum((0.93 * length) ** 2 - flat**2, 0))
    return np.concatenate([seen, depth[:, None]], -1)


def _pose_head(
    points: Array,
    known: Mask,
    trunk: _Trunk,
    turn: Array,
    yaw: Array,
    chest: Array,
    up: Array,
    turns: Array,
    origins: Array,
    sizes: Array,
) -> None:
    """Turns and places the bone of the head."""
    scale = trunk.scale
    seen = points[:, _HEAD_POINTS] / scale[:, None, None] * (1, -1)  # [N, 6, 2]
    weight = known[:, _HEAD_POINTS].astype(np.float64)
    # Half upright, half along the trunk.
    axis = up + np.array([0, np.cos(_PITCH), np.sin(_PITCH)])
    axis /= np.maximum(_length(axis), 1e-9)[:, None]
    neck = chest + up * _NECK_ABOVE
    steps = np.linspace(-1.2, 1.2, 17)
    frames = _swing(-axis)[:, None] @ _about_y(yaw[:, None] + steps)  # [N, 17, 3, 3]
    expected = frames @ _HEAD_OFFSETS.T  # [N, 17, 3, 6]
    expected = np.swapaxes(expected, -1, -2)
    total = np.maximum(weight.sum(1), 1)
    guess = neck[:, :2] + 0.08 * axis[:, :2]
    # The head's place is what remains: a mean over the known points, and the neck's word.
    rest = seen[:, None] - expected[..., :2]  # [N, 17, 6, 2]
    mass = total[:, None, None] + 0.5
    place = ((rest * weight[:, None, :, None]).sum(2) + 0.5 * guess[:, None]) / mass
    error = ((rest - place[:, :, None]) ** 2).sum(-1)
    cost = (error * weight[:, None]).sum(-1) / (2 * 0.02**2) + steps**2 / (2 * 0.4**2)
    cost = cost + ((expected[..., :5, 2] < -0.02) * weight[:, None, :5]).sum(-1)  # seen, though on the far side
    share = np.exp(-(cost - cost.min(1, keepdims=True)))
    share /= share.sum(1, keepdims=True)
    any_known = weight.sum(1) > 0
    step = np.where(any_known, (share * steps).sum(1), 0)
    frame = _swing(-axis) @ _about_y(yaw + step)
    expected = frame @ _HEAD_OFFSETS.T
    rest = seen - np.swapaxes(expected, -1, -2)[..., :2]
    place = ((rest * weight[..., None]).sum(1) + 0.5 * guess) / (weight.sum(1) + 0.5)[:, None]
    origins[:, 4, :2] = np.where(any_known[:, None], place, guess)
    origins[:, 4, 2] = neck[:, 2] + 0.08 * axis[:, 2] + 0.01
    turns[:, 4] = frame
