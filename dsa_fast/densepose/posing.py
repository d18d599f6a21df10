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
_HEAD_OFFSETS = np.array(
    [
        *((0.0, 0.05, 0.115), (0.032, 0.08, 0.088), (-0.032, 0.08, 0.088)),
        *((0.076, 0.06, -0.005), (-0.076, 0.06, -0.005), (0.0, 0.19, -0.01)),
    ]
)
_HEAD_ABOVE = 0.155  # of the head's joint above the shoulders
_NECK_ABOVE, _CROWN_ABOVE, _FACE_ABOVE = 0.075, 0.345, 0.22  # likewise of the neck's, of the crown and the face

_PITCH = 0.15  # radians that cameras look down
_SHAPE = {"sleeves": 1.14, "trousers": 1.17, "hair": 0.018, "coat": 0.03}  # of the average body in clothes

# These were fitted on synthetic people, seen exactly, with noise and without faces; the last on photos.
_QUANTILE = 0.67  # of the lengths of bones over an average adult's: a person's size
_SHORT = 0.87  # a bone that looks shorter than this share of its length points out of the picture's plane
_LEVEL = 0.3  # how much flatter a foot lies than its leg stands upright
_ROOT = 0.25  # weight of what the trunk says of a shoulder's or hip's place
_HEAD_WEIGHT = 0.75  # weight of what the trunk says of the head's place; a seen point's is 1
_HEAD_NOISE = 0.02  # metres, standard deviation of the head's points
_HEAD_TURN = 0.4  # radians, standard deviation of the head's turn against the trunk's
_IN_FRONT = 0.1  # metres that a hand seen before the trunk is in front of its shoulder

_CHUNK = 512  # people posed at once: their numbers stay in the cache

# Weights of the signs that tell which side is turned to the camera, by logistic regression on synthetic people: an eye
# or ear that is seen (each), and metres across the picture of the nose before the ears, of the head and of the wrists
# before the shoulders, and of a knee or elbow's bend.
_SEEN_SIGN, _NOSE_SIGN, _HEAD_SIGN, _WRIST_SIGN, _BEND_SIGN = 2.4, 30.0, 40.0, 20.0, 30.0


@dataclass(frozen=True)
class _Body:
    """The average body's surface, and its bones in the rest pose."""

    surface: Surface
    turn: Array  # [17, 3, 3]
    origin: Array  # [17, 3]


@lru_cache(maxsize=1)
def _average_body() -> _Body:
    from dsa_fast.data.synth.body import Shape, build_body  # here, because data/ imports this package

    body = build_body(Shape(**_SHAPE))
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
    points = np.where(known[..., None], points, 0.0)
    with np.errstate(all="ignore"):  # what is not finite is not shown
        some = [_pose(points[i : i + _CHUNK], known[i : i + _CHUNK], body) for i in range(0, len(points), _CHUNK)]
    maps = np.concatenate([maps for maps, _ in some]) if some else np.zeros((0, 17, 3, 4), np.float32)
    shown = np.concatenate([shown for _, shown in some]) if some else np.zeros(0, np.int32)
    return draw_bodies(
        body.surface,
        torch.from_numpy(np.ascontiguousarray(maps)),
        torch.from_numpy(np.ascontiguousarray(shown)),
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


def _step(x: Array, low: Array | float, high: Array | float) -> Array:
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
    # Of one shoulder or hip alone, the middle is half a width away, as the other pair shows it.
    apart = {pair: points[:, pair[0]] - points[:, pair[1]] for pair in (_SHOULDERS, _HIPS)}
    for pair, other, ratio_of_widths, middle in (
        (_SHOULDERS, _HIPS, _SHOULDER_WIDTH / _HIP_WIDTH, shoulders),
        (_HIPS, _SHOULDERS, _HIP_WIDTH / _SHOULDER_WIDTH, hips),
    ):
        side = known[:, pair[0]].astype(np.float64) - known[:, pair[1]]  # 1 or -1: the left or right one alone
        side *= known[:, other].all(1)
        middle -= (side * ratio_of_widths / 2)[:, None] * apart[other]
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
    for limb, weight_of_limb in ((_LEG, 1.0), (_ARM, 0.5)):
        for root, joint, end in zip(limb.roots, limb.middles, limb.ends, strict=True):
            bone(root, joint, limb.lengths[0], weight_of_limb)
            bone(joint, end, limb.lengths[1], weight_of_limb)
    bone(*_SHOULDERS, _SHOULDER_WIDTH, 0.5)
    face, has_face = _mean(points, known, tuple(range(5)))
    crown, has_crown = points[:, _CROWN], known[:, _CROWN]
    for head, has_head, above in ((crown, has_crown, _CROWN_ABOVE), (face, has_face, _FACE_ABOVE)):
        ratio(head, shoulders, has_head & has_shoulders, above, 0.5)
        # Without shoulders the trunk leads to the head.
        far = _TRUNK + above
        shoulderless = has_hips & ~has_shoulders
        ratio(head, hips, has_head & shoulderless, far * np.cos(_PITCH), 4.0)
        shoulders = np.where((has_head & shoulderless)[:, None], hips + (head - hips) * (_TRUNK / far), shoulders)
    # Bones that point at the camera look short, none looks long: a high quantile is the scale.
    value, weight = np.stack(ratios, 1), np.stack(weights, 1)
    order = np.argsort(value, axis=1, kind="stable")
    value, weight = np.take_along_axis(value, order, 1), np.take_along_axis(weight, order, 1)
    total = weight.cumsum(1)
    at = (total >= _QUANTILE * total[:, -1:]).argmax(1)
    scale = np.take_along_axis(value, at[:, None], 1)[:, 0]

    # One end of the trunk is enough where something else tells the size: the trunk is taken to be upright.
    down = np.stack([np.zeros_like(scale), _TRUNK * scale], -1)
    sized = (value * (weight > 0)).max(1) > 0
    hips = np.where((has_shoulders & ~has_hips)[:, None], shoulders + down, hips)
    has_head = has_face | has_crown
    shoulders = np.where((has_hips & ~has_shoulders & ~has_head)[:, None], hips - down, shoulders)
    upper = has_shoulders & (has_hips | (both | neck) & has_head)
    lower = has_hips & (has_head | known[:, _HIPS].all(1) & known[:, _KNEES].any(1))
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
        sign += _SEEN_SIGN * (known[:, right_point].astype(np.float64) - known[:, left_point])
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


@dataclass(frozen=True)
class _View:
    """Where people's trunks are and how they are turned. 3D vectors are in the camera's frame."""

    trunk: _Trunk
    turn: Array  # [N, 3, 3]
    up: Array  # [N, 3], along the trunk
    up2: Array  # [N, 2], likewise in the picture
    right2: Array  # [N, 2], across it
    yaw: Array  # [N]
    chest: Array  # [N, 3], between the shoulders
    pelvis: Array  # [N, 3], between the hips
    stretch: Array  # [N], the trunk's length over an average adult's

    @property
    def toward(self) -> Array:
        """How much people face the camera, [N]: 1 the front, -1 the back."""
        return self.turn[:, 2, 2]

    def lift(self, point: Array) -> Array:
        """Picture's points [N, 2] to the camera's frame at depth 0, [N, 3]."""
        scale = self.trunk.scale
        return np.stack([point[:, 0] / scale, -point[:, 1] / scale, np.zeros_like(scale)], -1)

    def in_front(self, point: Array) -> Array:
        """Depth, [N], that keeps a hand seen before the trunk out of it."""
        half_width = 0.16 * np.abs(self.turn[:, 0, 0]) + 0.1 * np.abs(self.turn[:, 0, 2])
        offset = (point - self.trunk.hips) / self.trunk.scale[:, None]
        aside, above = np.abs((offset * self.right2).sum(-1)), (offset * self.up2).sum(-1)
        inside = (1 - _step(aside, 0.7 * half_width, 1.3 * half_width)) * _step(above, -0.25, -0.1)
        result: Array = _IN_FRONT * self.toward * inside * (1 - _step(above, 0.5, 0.65))
        return result


def _view(points: Array, known: Mask) -> _View:
    trunk = _trunk(points, known)
    up2 = trunk.shoulders - trunk.hips
    span = _length(up2) / trunk.scale / np.cos(_PITCH)
    up2 = up2 / np.maximum(_length(up2), 1e-9)[:, None]
    right2 = np.stack([-up2[:, 1], up2[:, 0]], -1)
    yaw = _yaw(points, known, trunk, right2)
    up = np.stack([up2[:, 0], -up2[:, 1], np.full(len(points), np.tan(_PITCH))], -1) * np.cos(_PITCH)
    middle = (trunk.shoulders + trunk.hips) / 2 / trunk.scale[:, None]
    middle = np.stack([middle[:, 0], -middle[:, 1], np.zeros(len(points))], -1)
    half = up * (span / 2)[:, None]
    turn = _swing(-up) @ _about_y(yaw)
    return _View(trunk, turn, up, up2, right2, yaw, middle + half, middle - half, span / _TRUNK)


@dataclass(frozen=True)
class _Bones:
    """Where people's bones are, in the camera's frame; filled step by step."""

    turn: Array  # [N, 17, 3, 3]
    origin: Array  # [N, 17, 3]
    size: Array  # [N, 17, 3], along the bone's own axes


@dataclass(frozen=True)
class _Limb:
    """An arm or a leg, of the left and the right side."""

    roots: tuple[int, int]  # points
    middles: tuple[int, int]
    ends: tuple[int, int]
    bones: tuple[int, int, int]  # of the left side; the right ones follow each
    lengths: tuple[float, float]
    width: float  # between the roots
    upper_parts: tuple[tuple[int, ...], tuple[int, ...]]
    lower_parts: tuple[tuple[int, ...], tuple[int, ...]]


_ARM = _Limb(
    *(_SHOULDERS, _ELBOWS, _WRISTS, (5, 7, 9), (0.29, 0.26), _SHOULDER_WIDTH),
    *(((15, 17), (16, 18)), ((19, 21, 4), (20, 22, 3))),
)
_LEG = _Limb(
    *(_HIPS, _KNEES, _ANKLES, (11, 13, 15), (0.41, 0.41), _HIP_WIDTH),
    *(((8, 10), (7, 9)), ((12, 14, 5), (11, 13, 6))),
)


def _pose(points: Array, known: Mask, body: _Body) -> tuple[Array, NDArray[np.int32]]:
    """Maps of the bones, float32 [N, 17, 3, 4], and the parts shown, int32 [N], as `draw_bodies` takes them."""
    count = len(points)
    view = _view(points, known)
    up, stretch = view.up, view.stretch
    bones = _Bones(
        np.broadcast_to(view.turn[:, None], (count, 17, 3, 3)).copy(),
        np.zeros((count, 17, 3)),
        np.ones((count, 17, 3)),
    )
    bones.size[:, :3, 1] = stretch[:, None]
    bones.origin[:, 0] = view.pelvis + up * (0.05 * stretch)[:, None]
    bones.origin[:, 1] = view.pelvis + up * (0.18 * stretch)[:, None]
    bones.origin[:, 2] = view.chest - up * (0.145 * stretch)[:, None]
    _pose_head(points, known, view, bones)
    shown = np.full(count, _bits((1, 2, 23, 24)))
    for limb in (_ARM, _LEG):
        for side in (0, 1):
            shown |= _pose_limb(points, known, view, limb, side, bones)

    # From the rest pose to the bone's frame, to the camera's, to the picture's.
    linear = (bones.turn * bones.size[:, :, None, :]) @ body.turn.transpose(0, 2, 1)
    shift = bones.origin - _apply(linear, np.broadcast_to(body.origin, (count, 17, 3)))
    scale = view.trunk.scale
    maps = np.concatenate([linear, shift[..., None]], -1)
    maps = (maps * np.stack([scale, -scale, scale], -1)[:, None, :, None]).astype(np.float32)
    shown = np.where(view.trunk.known & np.isfinite(maps).all((1, 2, 3)), shown, 0)
    return maps, shown.astype(np.int32)


def _pose_limb(points: Array, known: Mask, view: _View, limb: _Limb, side: int, bones: _Bones) -> NDArray[np.int64]:
    """Turns and places the three bones of a limb; returns the bits of its parts that are shown, [N]."""
    is_arm, scale, up = limb is _ARM, view.trunk.scale, view.up
    root, middle, end = limb.roots[side], limb.middles[side], limb.ends[side]
    partner = limb.roots[1 - side]
    has_middle, has_end = known[:, middle], known[:, end]

    # Without its own point, a root mirrors its partner, or lies where the trunk says.
    place = (view.chest if is_arm else view.pelvis) + view.turn[:, :, 0] * ((1 - 2 * side) * limb.width / 2)
    mirrored = 2 * view.lift(view.trunk.shoulders) - view.lift(points[:, partner])
    by_partner = known[:, partner] & known[:, _NECK] & is_arm
    seen = np.where(by_partner[:, None], mirrored, place)
    seen = np.where(known[:, root, None], view.lift(points[:, root]), seen)
    start = np.concatenate([seen[:, :2] + _ROOT * (place - seen)[:, :2], place[:, 2:]], -1)

    # A middle joint that is missing lies between its neighbours; a leg that leaves the picture goes on for a thigh.
    between = (start[:, :2] * np.stack([scale, -scale], -1) + points[:, end]) / 2
    bent = np.where(has_middle[:, None], points[:, middle], between)
    shows_upper = has_middle | has_end
    if not is_arm:
        below = points[:, root] - view.up2 * (limb.lengths[0] * scale)[:, None]
        bent = np.where(shows_upper[:, None], bent, below)
        shows_upper = shows_upper | known[:, root]

    # Elbows bend forwards and knees backwards; someone in profile bends them within the picture's plane.
    bend = np.sign(view.toward) * _step(np.abs(view.toward), 0.1, 0.6)
    first = _reach(view.lift(bent) - start, limb.lengths[0], up, bend * (0.5 if is_arm else 1.0))
    ahead, ahead_end = (view.in_front(bent) / 2, view.in_front(points[:, end])) if is_arm else (0 * scale, 0 * scale)
    first[:, 2] += ahead
    start2 = start + first
    second = _reach(view.lift(points[:, end]) - start2, limb.lengths[1], up, bend * (1.0 if is_arm else -1.0))
    second[:, 2] += ahead_end - ahead
    length1, length2 = _length(first), _length(second)
    way1 = first / np.maximum(length1, 1e-9)[:, None]
    way2 = np.where(has_end[:, None], second / np.maximum(length2, 1e-9)[:, None], way1)

    upper = view.turn @ _swing(_apply(view.turn.transpose(0, 2, 1), way1))
    local = _apply(upper.transpose(0, 2, 1), way2)
    if is_arm:  # the elbow is a hinge: it tells how the arm is turned about itself
        turned = np.clip(np.arctan2(local[:, 0], local[:, 2]), -1.6, 1.6)
        upper = upper @ _about_y(turned * _step(np.hypot(local[:, 0], local[:, 2]), 0.25, 0.7))
        local = _apply(upper.transpose(0, 2, 1), way2)
    lower = tip = upper @ _swing(local)
    if not is_arm:
        flat = way2 - _LEVEL * (way2 + up)
        flat /= np.maximum(_length(flat), 1e-9)[:, None]
        tip = lower @ _swing(_apply(lower.transpose(0, 2, 1), flat))
    for bone, turn, origin in zip(limb.bones, (upper, lower, tip), (start, start2, start2 + second), strict=True):
        bones.turn[:, bone + side] = turn
        bones.origin[:, bone + side] = origin
    bones.size[:, limb.bones[0] + side, 1] = np.clip(length1 / limb.lengths[0], 0.05, 3)
    bones.size[:, limb.bones[1] + side, 1] = np.clip(length2 / limb.lengths[1], 0.05, 3)
    upper_bits, lower_bits = _bits(limb.upper_parts[side]), _bits(limb.lower_parts[side])
    shown: NDArray[np.int64] = shows_upper * np.int64(upper_bits) + has_end * np.int64(lower_bits)
    return shown


def _bits(parts: tuple[int, ...]) -> int:
    return sum(1 << part for part in parts)


def _reach(vector: Array, length: float, up: Array, bend: Array) -> Array:
    """A bone's 3D vector, [N, 3], from what is seen of it: `bend` -1..1 says where it points if it looks short."""
    seen = vector[:, :2]
    flat = _length(seen)
    # Along the person's up axis the camera's pitch alone makes depth.
    slope = up[:, 2] / np.maximum(_length(up[:, :2]), 1e-9)
    along = (seen * up[:, :2]).sum(-1) / np.maximum(_length(up[:, :2]), 1e-9)
    depth = along * slope + bend * np.sqrt(np.maximum((_SHORT * length) ** 2 - flat**2, 0))
    return np.concatenate([seen, depth[:, None]], -1)


def _pose_head(points: Array, known: Mask, view: _View, bones: _Bones) -> None:
    """Turns and places the bones of neck and head."""
    scale, up = view.trunk.scale, view.up
    seen = points[:, _HEAD_POINTS] / scale[:, None, None] * (1, -1)  # [N, 6, 2]
    weight = known[:, _HEAD_POINTS].astype(np.float64)
    # Half upright, half along the trunk.
    axis = up + np.array([0, np.cos(_PITCH), np.sin(_PITCH)])
    axis /= np.maximum(_length(axis), 1e-9)[:, None]
    # The crown tells how large the head is; other points are too near to each other.
    tall = _length(points[:, _CROWN] - view.trunk.shoulders) / (scale * np.cos(_PITCH) * _CROWN_ABOVE)
    size = np.where(known[:, _CROWN], np.clip(tall, 0.7, 1.15), 1.0)
    offsets = _HEAD_OFFSETS * size[:, None, None]
    neck = view.chest + up * (_NECK_ABOVE * size)[:, None]
    expected_place = neck + axis * ((_HEAD_ABOVE - _NECK_ABOVE) * size)[:, None]

    def fit(frames: Array) -> tuple[Array, Array]:
        """For the head's turns [N, M, 3, 3] its places [N, M, 2], and how badly its points fit, [N, M]."""
        marks = frames @ np.swapaxes(offsets, 1, 2)[:, None]  # [N, M, 3, 6]
        rest = seen[:, None] - np.swapaxes(marks, 2, 3)[..., :2]  # the place that each point asks for
        total = (rest * weight[:, None, :, None]).sum(2) + _HEAD_WEIGHT * expected_place[:, None, :2]
        place = total / (weight.sum(1) + _HEAD_WEIGHT)[:, None, None]
        error = (((rest - place[:, :, None]) ** 2).sum(-1) * weight[:, None]).sum(-1)
        hidden = ((marks[:, :, 2, :5] < -0.02) * weight[:, None, :5]).sum(-1)  # seen, though on the far side
        return place, error / (2 * _HEAD_NOISE**2) + hidden

    upright, steps = _swing(-axis), np.linspace(-1.2, 1.2, 17)
    cost = fit(upright[:, None] @ _about_y(view.yaw[:, None] + steps))[1] + steps**2 / (2 * _HEAD_TURN**2)
    share = np.exp(cost.min(1, keepdims=True) - cost)
    step = (share * steps).sum(1) / share.sum(1)  # the mean: a head of which nothing is known looks ahead
    frame = upright @ _about_y(view.yaw + step)
    place = fit(frame[:, None])[0][:, 0]
    bones.turn[:, 4] = frame
    bones.origin[:, 3] = neck
    bones.origin[:, 4] = np.concatenate([place, expected_place[:, 2:] + 0.01], -1)
    bones.size[:, 3:5] = size[:, None, None]
