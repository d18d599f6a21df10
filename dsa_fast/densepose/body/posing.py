"""Draws IUV maps of people from their joints: poses the average body so that its joints match them.

`trunk` finds the position and rotation of the trunk. This module adds the limbs and the head. It estimates a limb's
depth from its apparent length. The frames are those of `trunk`.
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

from .points import (
    ARM,
    CROWN,
    CROWN_ABOVE,
    HEAD_ABOVE,
    HEAD_OFFSETS,
    HEAD_POINTS,
    LEG,
    NECK,
    NECK_ABOVE,
    PELVIS_ABOVE_HIPS,
    SHOULDERS_ABOVE_CHEST,
    SPINE_ABOVE_HIPS,
    Limb,
)
from .shape import Shape
from .surface import build_body
from .trunk import PITCH, View, about_y, find_view, norm, step_up, swing

__all__ = ["draw_people"]

Array = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]

_CLOTHED = Shape(sleeves=1.14, trousers=1.17, hair=0.018, coat=0.03)

# Fitted on synthetic people with exact joints, noisy joints, and no faces.
_SHORT = 0.87  # a bone that looks shorter than this share of its length points out of the picture's plane
_LEVEL = 0.3  # how much flatter a foot is than its leg is upright
_ROOT = 0.25  # weight of the trunk's estimate of a shoulder's or hip's place
_HEAD_WEIGHT = 0.75  # weight of the trunk's estimate of the head's place; a visible point's is 1
_HEAD_NOISE = 0.02  # meters, standard deviation of the head's points
_HEAD_TURN = 0.4  # radians, standard deviation of the head's turn against the trunk's

_CHUNK = 512  # people posed together: their data stays in the cache


@dataclass(frozen=True)
class _Average:
    """The average body's surface, and its bones in the rest pose."""

    surface: Surface
    turn: Array  # [17, 3, 3]
    origin: Array  # [17, 3]


@lru_cache(maxsize=1)
def _average_body() -> _Average:
    body = build_body(_CLOTHED)
    surface = Surface(
        torch.from_numpy(body.vertices.astype(np.float32)),
        torch.from_numpy(body.uv.astype(np.float32)),
        torch.from_numpy(body.part.astype(np.uint8)),
        torch.from_numpy(body.bones.astype(np.int32)),
        torch.from_numpy(body.weight.astype(np.float32)),
        torch.from_numpy(np.ascontiguousarray(body.faces, np.int32)),
    )
    return _Average(surface, body.rest[0].astype(np.float64), body.rest[1].astype(np.float64))


def draw_people(points: Array, known: Mask, size: tuple[int, int]) -> Tensor:
    """Draws IUV maps of people, uint8 [N, 3, H, W].

    Args:
        points: float64 [N, 19, 2], x and y of `POINTS`, pixels.
        known: bool [N, 19].
        size: (H, W) of the maps.
    """
    body = _average_body()
    points = np.where(known[..., None], points, 0.0)
    with np.errstate(all="ignore"):  # values that are not finite are not drawn
        some = [_pose(points[i : i + _CHUNK], known[i : i + _CHUNK], body) for i in range(0, len(points), _CHUNK)]
    maps = np.concatenate([maps for maps, _ in some]) if some else np.zeros((0, 17, 3, 4), np.float32)
    shown = np.concatenate([shown for _, shown in some]) if some else np.zeros(0, np.int32)
    return draw_bodies(
        body.surface,
        torch.from_numpy(np.ascontiguousarray(maps)),
        torch.from_numpy(np.ascontiguousarray(shown)),
        size,
    )


def _apply(matrix: Array, vector: Array) -> Array:
    return (matrix @ vector[..., None])[..., 0]


@dataclass(frozen=True)
class _Bones:
    """The bones of people in the camera's frame, filled in step by step."""

    turn: Array  # [N, 17, 3, 3]
    origin: Array  # [N, 17, 3]
    size: Array  # [N, 17, 3], along the bone's own axes


def _pose(points: Array, known: Mask, body: _Average) -> tuple[Array, NDArray[np.int32]]:
    """Returns maps of the bones, float32 [N, 17, 3, 4], and the parts shown, int32 [N], as `draw_bodies` takes them."""
    count = len(points)
    view = find_view(points, known)
    up, stretch = view.up, view.stretch
    bones = _Bones(
        np.broadcast_to(view.turn[:, None], (count, 17, 3, 3)).copy(),
        np.zeros((count, 17, 3)),
        np.ones((count, 17, 3)),
    )
    bones.size[:, :3, 1] = stretch[:, None]
    bones.origin[:, 0] = view.pelvis + up * (PELVIS_ABOVE_HIPS * stretch)[:, None]
    bones.origin[:, 1] = view.pelvis + up * (SPINE_ABOVE_HIPS * stretch)[:, None]
    bones.origin[:, 2] = view.chest - up * (SHOULDERS_ABOVE_CHEST * stretch)[:, None]
    _pose_head(points, known, view, bones)
    shown = np.full(count, _bits((1, 2, 23, 24)))
    for limb in (ARM, LEG):
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


def _pose_limb(points: Array, known: Mask, view: View, limb: Limb, side: int, bones: _Bones) -> NDArray[np.int64]:
    """Rotates and places the three bones of a limb; returns the bits of its visible parts, [N]."""
    is_arm, scale, up = limb is ARM, view.trunk.scale, view.up
    root, middle, end = limb.roots[side], limb.middles[side], limb.ends[side]
    partner = limb.roots[1 - side]
    has_middle, has_end = known[:, middle], known[:, end]

    # A root without a point mirrors its partner, or gets its position from the trunk.
    place = (view.chest if is_arm else view.pelvis) + view.turn[:, :, 0] * ((1 - 2 * side) * limb.width / 2)
    mirrored = 2 * view.lift(view.trunk.shoulders) - view.lift(points[:, partner])
    by_partner = known[:, partner] & known[:, NECK] & is_arm
    seen = np.where(by_partner[:, None], mirrored, place)
    seen = np.where(known[:, root, None], view.lift(points[:, root]), seen)
    start = np.concatenate([seen[:, :2] + _ROOT * (place - seen)[:, :2], place[:, 2:]], -1)

    # A missing middle joint is placed between its neighbors; a leg outside the picture is extended by a thigh.
    between = (start[:, :2] * np.stack([scale, -scale], -1) + points[:, end]) / 2
    bent = np.where(has_middle[:, None], points[:, middle], between)
    shows_upper = has_middle | has_end
    if not is_arm:
        below = points[:, root] - view.up2 * (limb.lengths[0] * scale)[:, None]
        bent = np.where(shows_upper[:, None], bent, below)
        shows_upper = shows_upper | known[:, root]

    # Elbows bend forwards and knees backwards; in profile they bend within the picture's plane.
    bend = np.sign(view.toward) * step_up(np.abs(view.toward), 0.1, 0.6)
    first = _reach(view.lift(bent) - start, limb.lengths[0], up, bend * (0.5 if is_arm else 1.0))
    ahead, ahead_end = (view.in_front(bent) / 2, view.in_front(points[:, end])) if is_arm else (0 * scale, 0 * scale)
    first[:, 2] += ahead
    start2 = start + first
    second = _reach(view.lift(points[:, end]) - start2, limb.lengths[1], up, bend * (1.0 if is_arm else -1.0))
    second[:, 2] += ahead_end - ahead
    length1, length2 = norm(first), norm(second)
    way1 = first / np.maximum(length1, 1e-9)[:, None]
    way2 = np.where(has_end[:, None], second / np.maximum(length2, 1e-9)[:, None], way1)

    upper = view.turn @ swing(_apply(view.turn.transpose(0, 2, 1), way1))
    local = _apply(upper.transpose(0, 2, 1), way2)
    if is_arm:  # the elbow is a hinge: its bend shows the rotation about the arm's axis
        turned = np.clip(np.arctan2(local[:, 0], local[:, 2]), -1.6, 1.6)
        upper = upper @ about_y(turned * step_up(np.hypot(local[:, 0], local[:, 2]), 0.25, 0.7))
        local = _apply(upper.transpose(0, 2, 1), way2)
    lower = tip = upper @ swing(local)
    if not is_arm:
        flat = way2 - _LEVEL * (way2 + up)
        flat /= np.maximum(norm(flat), 1e-9)[:, None]
        tip = lower @ swing(_apply(lower.transpose(0, 2, 1), flat))
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
    """Returns a bone's 3D vector [N, 3] from its 2D vector; `bend` in -1..1 is the depth direction of a short one."""
    seen = vector[:, :2]
    flat = norm(seen)
    # Along the person's up axis, depth comes only from the camera's pitch.
    slope = up[:, 2] / np.maximum(norm(up[:, :2]), 1e-9)
    along = (seen * up[:, :2]).sum(-1) / np.maximum(norm(up[:, :2]), 1e-9)
    depth = along * slope + bend * np.sqrt(np.maximum((_SHORT * length) ** 2 - flat**2, 0))
    return np.concatenate([seen, depth[:, None]], -1)


def _pose_head(points: Array, known: Mask, view: View, bones: _Bones) -> None:
    """Rotates and places the bones of neck and head."""
    scale, up = view.trunk.scale, view.up
    seen = points[:, HEAD_POINTS] / scale[:, None, None] * (1, -1)  # [N, 6, 2]
    weight = known[:, HEAD_POINTS].astype(np.float64)
    # Half upright, half along the trunk.
    axis = up + np.array([0, np.cos(PITCH), np.sin(PITCH)])
    axis /= np.maximum(norm(axis), 1e-9)[:, None]
    # Only the crown shows the head's size; other points are too close to each other.
    tall = norm(points[:, CROWN] - view.trunk.shoulders) / (scale * np.cos(PITCH) * CROWN_ABOVE)
    size = np.where(known[:, CROWN], np.clip(tall, 0.7, 1.15), 1.0)
    offsets = HEAD_OFFSETS * size[:, None, None]
    neck = view.chest + up * (NECK_ABOVE * size)[:, None]
    expected_place = neck + axis * ((HEAD_ABOVE - NECK_ABOVE) * size)[:, None]

    def fit(frames: Array) -> tuple[Array, Array]:
        """Returns positions [N, M, 2] for the head's rotations [N, M, 3, 3], and the errors of its points, [N, M]."""
        marks = frames @ np.swapaxes(offsets, 1, 2)[:, None]  # [N, M, 3, 6]
        rest = seen[:, None] - np.swapaxes(marks, 2, 3)[..., :2]  # the position that each point implies
        total = (rest * weight[:, None, :, None]).sum(2) + _HEAD_WEIGHT * expected_place[:, None, :2]
        place = total / (weight.sum(1) + _HEAD_WEIGHT)[:, None, None]
        error = (((rest - place[:, :, None]) ** 2).sum(-1) * weight[:, None]).sum(-1)
        hidden = ((marks[:, :, 2, :5] < -0.02) * weight[:, None, :5]).sum(-1)  # visible, although on the far side
        return place, error / (2 * _HEAD_NOISE**2) + hidden

    upright, steps = swing(-axis), np.linspace(-1.2, 1.2, 17)
    cost = fit(upright[:, None] @ about_y(view.yaw[:, None] + steps))[1] + steps**2 / (2 * _HEAD_TURN**2)
    share = np.exp(cost.min(1, keepdims=True) - cost)
    step = (share * steps).sum(1) / share.sum(1)  # the mean: a head without known points looks straight ahead
    frame = upright @ about_y(view.yaw + step)
    place = fit(frame[:, None])[0][:, 0]
    bones.turn[:, 4] = frame
    bones.origin[:, 3] = neck
    bones.origin[:, 4] = np.concatenate([place, expected_place[:, 2:] + 0.01], -1)
    bones.size[:, 3:5] = size[:, None, None]
