"""How much of each merged body part an image shows, by its IUV map or by predicted parts."""

from __future__ import annotations

import torch
from torch import Tensor

from dsa_fast.densepose.parts import MERGE_13_TO_8, MERGE_24_TO_13, NUM_PARTS
from dsa_fast.ops.warp import warp

__all__ = ["FULL", "TEXELS", "part_presence", "part_visibility"]

#: Side of a part's grid of texels in `part_visibility`, and the share of it from which a part is fully visible. Chosen
#: on synthetic people: shares from 0.1 to 1 gave nearly the same scores.
TEXELS, FULL = 4, 0.3


def part_visibility(iuv: Tensor, *, texels: int = TEXELS, full: float = FULL) -> Tensor:
    """Computes the visibility of the 8 merged parts from the share of their texels that a map covers.

    A merged part's share is the mean over its parts, merged as in the DSAG-Stream: first left and right, then back and
    front. So one side of a part is at most half of it. The grid is coarse, so that maps of any resolution agree.

    Args:
        iuv: uint8 [B, 3, H, W], see `dsa_fast.warp`.
        texels: height and width of a part's grid.
        full: share of covered texels from which the visibility is 1, above 0; below, it is proportionally less.

    Returns:
        float32 [B, 8] in [0, 1]. It is 1 for all parts of a map without any part, because the map is then probably
        missing.

    Raises:
        TypeError, ValueError: see `dsa_fast.warp`; also ValueError if `full` is not in (0, 1].
    """
    if not 0 < full <= 1:
        raise ValueError(f"full must be in (0, 1], got {full}")
    _, count = warp(torch.zeros_like(iuv), iuv, size=texels, return_count=True)
    merged = (count > 0).float().flatten(2).mean(dim=2)  # [B, 24]
    for groups in (MERGE_24_TO_13, MERGE_13_TO_8):
        first = groups[0][0]  # the 24 parts are numbered from 1
        merged = torch.stack([merged[:, [i - first for i in group]].mean(dim=1) for group in groups], dim=1)
    seen = (merged / full).clamp(max=1)
    return torch.where(seen.sum(dim=1, keepdim=True) > 0, seen, torch.ones_like(seen))


def part_presence(logits: Tensor) -> Tensor:
    """Computes how surely each merged part is somewhere in the image, from predicted part labels.

    Args:
        logits: [B, 25, H, W], of the labels at each position; 0 is the background.

    Returns:
        float32 [B, 8]: the largest probability of the merged part over all positions.

    Raises:
        ValueError: wrong shape.
    """
    if logits.ndim != 4 or logits.shape[1] != 1 + NUM_PARTS:
        raise ValueError(f"logits must have shape [B, {1 + NUM_PARTS}, H, W], got {list(logits.shape)}")
    shares = logits.float().softmax(dim=1)
    labels = [[label for middle in group for label in MERGE_24_TO_13[middle]] for group in MERGE_13_TO_8]
    merged = torch.stack([shares[:, group].sum(dim=1) for group in labels], dim=1)
    return merged.flatten(2).amax(dim=2)
