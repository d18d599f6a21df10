"""Keypoint IUV: part, u and v of people whose 2D joints are known, without DensePose.

The synthetic people's body (`dsa_fast.data.synth.body`) is posed so that its joints fall on the given ones, and
projected. It is coarser than DensePose: shape and clothes are an average person's, and depth is guessed.
"""

from __future__ import annotations

import os
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Layout", "iuv_from_keypoints", "read_keypoints"]

#: Which joints the rows of a person's keypoints are. "auto" tells by their number: 17, 18 or 14.
Layout = Literal["auto", "coco17", "openpose18", "market14"]


def iuv_from_keypoints(
    keypoints: Tensor | NDArray[np.floating],
    size: tuple[int, int],
    *,
    layout: Layout = "auto",
    min_confidence: float = 0.3,
) -> Tensor:
    """Draws the IUV maps of people from their 2D joints.

    Args:
        keypoints: [N, K, 2] or [N, K, 3]: x (right) and y (down) in pixels, where pixel (row r, column c) covers
            x in [c, c+1) and y in [r, r+1), and a confidence or visibility. A joint is missing where x or y is NaN,
            or the confidence is below `min_confidence`.
        size: (H, W) of the maps, pixels.
        layout: which joint each row is.
        min_confidence: see above.

    Returns:
        uint8 [N, 3, H, W], channels I, U, V; all background for someone whose trunk is not known.
    """
    raise NotImplementedError


def read_keypoints(path: str | os.PathLike[str]) -> dict[str, NDArray[np.float32]]:
    """Reads the keypoints of many pictures: picture's file name -> float32 [K, 3] (x, y, confidence)."""
    raise NotImplementedError
