"""Measures IUV maps, and finds suspicious ones.

A mirrored map can be detected from the map alone. A camera sees a chart only from outside the body, so the rotation
from u to v has the same direction (its orientation) in every image, pose and view. Some or all parts have the opposite
orientation if a map was mirrored without its labels, or if left and right, or u and v, were swapped.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsa_fast.densepose.parts import NUM_PARTS, UPRIGHT

__all__ = ["MapFacts", "examine", "suspicions"]

# Left and right of these charts are mirror images of each other in (u, v). The others are rotated.
_LIMBS = tuple(range(7, 23))
_LEAST_PIXELS = 20  # of a part, to measure its orientation
_SURE = 0.3  # an orientation closer to 0 is inconclusive
_TEXELS = 32  # height and width of a part
_FEW_LABELLED, _FEW_PARTS, _STRAY = 0.02, 3, 0.05


@dataclass(frozen=True)
class MapFacts:
    """Measurements of a map.

    Attributes:
        size: (height, width).
        labelled: share of the pixels that have a part.
        pixels: number of pixels of each part, background first; 25 numbers.
        texels: share of the 24 x 32 x 32 texels that are hit by a pixel.
        stray: share of the background pixels with u or v.
        limbs: orientation of (u, v) on arms and legs: 1 correct, -1 mirrored, 0 mixed; NaN if too little is visible.
        body: the same for torso, hands, feet and head.
        upright: direction of torso and legs: 1 upright, 0 sideways, -1 upside down; NaN if too little is visible.
    """

    size: tuple[int, int]
    labelled: float
    pixels: tuple[int, ...]
    texels: float
    stray: float
    limbs: float
    body: float
    upright: float

    @property
    def parts(self) -> int:
        """The number of visible parts, out of 24."""
        return sum(n > 0 for n in self.pixels[1:])


def examine(iuv: Tensor) -> MapFacts:
    """Measures a map.

    Args:
        iuv: uint8 [3, H, W], part ids 0..24.

    Raises:
        TypeError: `iuv` is not a uint8 tensor.
        ValueError: wrong shape, or part ids above 24.
    """
    if not isinstance(iuv, Tensor) or iuv.dtype != torch.uint8:
        raise TypeError(f"iuv must be a uint8 tensor, got {getattr(iuv, 'dtype', type(iuv).__name__)}")
    if iuv.dim() != 3 or iuv.shape[0] != 3 or iuv.numel() == 0:
        raise ValueError(f"iuv must have shape [3, H, W], got {list(iuv.shape)}")
    part, u, v = iuv.cpu().numpy()
    if int(part.max()) > NUM_PARTS:
        raise ValueError(f"iuv must hold part ids 0..{NUM_PARTS} in channel 0, got {int(part.max())}")
    labelled = part > 0
    ids, us, vs = (channel[labelled].astype(np.int64) for channel in (part, u, v))
    pixels = np.bincount(ids, minlength=NUM_PARTS + 1)
    pixels[0] = part.size - len(ids)
    rows, columns = (np.minimum(it * _TEXELS // 255, _TEXELS - 1) for it in (us, vs))
    texels = np.unique((ids * _TEXELS + rows) * _TEXELS + columns).size / (NUM_PARTS * _TEXELS * _TEXELS)
    stray = np.count_nonzero(~labelled & ((u > 0) | (v > 0))) / max(int(pixels[0]), 1)
    limbs, body, upright = _senses(part, u, v)
    height, width = part.shape
    share = len(ids) / part.size
    return MapFacts((height, width), share, tuple(pixels.tolist()), texels, stray, limbs, body, upright)


def suspicions(facts: MapFacts) -> dict[str, str]:
    """Returns each suspicious property of a map with an explanation; empty if there is none.

    - "empty": no pixel has a part.
    - "sparse": less than 2 % of the pixels have a part.
    - "few parts": fewer than 3 parts are visible.
    - "background": more than 5 % of the background has u or v.
    - "mirrored": (u, v) has the wrong orientation: mirrored without swapping left and right (use `flip_iuv`).
    - "left-right": the orientation is wrong only on arms and legs: the labels of left and right were swapped.
    - "u-v": the orientation is wrong, and the parts lie sideways: u and v were swapped.
    """
    found: dict[str, str] = {}
    if facts.labelled == 0:
        return {"empty": "no pixel has a part"}
    if facts.labelled < _FEW_LABELLED:
        found["sparse"] = f"only {facts.labelled:.1%} of the pixels have a part"
    if facts.parts < _FEW_PARTS:
        found["few parts"] = f"only {facts.parts} of {NUM_PARTS} parts are seen"
    if facts.stray > _STRAY:
        found["background"] = f"{facts.stray:.0%} of the background has u or v: are the channels in order?"
    wrong_limbs, wrong_body = facts.limbs < -_SURE, facts.body < -_SURE
    # If only one of the two is visible, it decides.
    if (wrong_limbs or wrong_body) and not (facts.limbs > _SURE or facts.body > _SURE):
        if abs(facts.upright) < 0.5:
            found["u-v"] = "u and v run the wrong way round and sideways: were they exchanged?"
        else:
            found["mirrored"] = "u and v run the wrong way round: was the map mirrored without its labels?"
    elif wrong_limbs and facts.body > _SURE:
        found["left-right"] = "u and v of arms and legs run the wrong way round: were left and right exchanged?"
    return found


def _senses(part: NDArray[np.uint8], u: NDArray[np.uint8], v: NDArray[np.uint8]) -> tuple[float, float, float]:
    """Computes limbs, body and upright of `MapFacts` from the differences between neighboring pixels."""
    # Use a larger distance in a larger picture, so the rounding to bytes matters little.
    step = max(1, round(part.shape[0] / 64))
    if min(part.shape) <= step:
        return float("nan"), float("nan"), float("nan")
    corner = part[:-step, :-step]
    whole = (corner > 0) & (corner == part[:-step, step:]) & (corner == part[step:, :-step])
    ids = corner[whole]
    count = np.bincount(ids, minlength=NUM_PARTS + 1)
    # For each part, [25, ...]: differences of (u, v) along x and y.
    gradient = [
        (there[whole].astype(np.float64) - channel[:-step, :-step][whole])
        for channel in (u, v)
        for there in (channel[:-step, step:], channel[step:, :-step])
    ]
    ux, uy, vx, vy = gradient

    def total(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.bincount(ids, values, NUM_PARTS + 1), np.float64)

    lengths = np.sqrt(total(ux * ux + uy * uy) * total(vx * vx + vy * vy))
    turn = total(ux * vy - uy * vx)
    lean = {"u": (total(ux), total(uy)), "v": (total(vx), total(vy))}
    sense, below, weight = np.zeros(NUM_PARTS + 1), np.zeros(NUM_PARTS + 1), np.zeros(NUM_PARTS + 1)
    for part_id in (np.flatnonzero((count >= _LEAST_PIXELS) & (lengths > 0))).tolist():
        down, right = UPRIGHT[part_id - 1]
        signs = -1.0 if down.startswith("-") != right.startswith("-") else 1.0
        # With v down and u to the right, the rotation from u to v is that from x to y.
        sense[part_id] = signs * (1.0 if down.endswith("v") else -1.0) * turn[part_id] / lengths[part_id]
        along_x, along_y = (slope[part_id] for slope in lean[down[-1]])
        length = float(np.hypot(along_x, along_y))
        below[part_id] = (-1.0 if down.startswith("-") else 1.0) * along_y / length if length else 0.0
        weight[part_id] = count[part_id]
    names = np.arange(NUM_PARTS + 1)
    is_limb, stands = np.isin(names, _LIMBS), np.isin(names, (1, 2, *range(7, 15)))

    def mean(values: NDArray[np.float64], among: NDArray[np.bool_]) -> float:
        pixels = weight[among].sum()
        return float((values * weight)[among].sum() / pixels) if pixels else float("nan")

    return mean(sense, is_limb), mean(sense, ~is_limb), mean(below, stands)
