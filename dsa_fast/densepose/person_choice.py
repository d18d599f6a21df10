"""Chooses which of several detected people a crop shows."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["choose_person"]


def choose_person(boxes: Tensor, scores: Tensor, size: tuple[int, int]) -> int | None:
    """Picks the person that a re-identification crop shows, by the score and the overlap with the crop's center.

    The crop's central window has rows H/4 to 3H/4 and columns W/4 to 3W/4. The value of a person is the score times the
    share of the window that the person's box covers. The highest value wins. Ties go to the box that covers more of the
    crop, then to the first. A person is never chosen if the box does not overlap the window, the score is not positive,
    or a number is not finite.

    So a person in the middle wins over a clearly visible person at the edge, and a person in front wins over a small
    person in the background, whose box covers less of the window.

    Args:
        boxes: [N, 4] as x0, y0, x1, y1 in the crop's pixels; they may extend beyond the crop.
        scores: [N], higher is better.
        size: (height, width) of the crop.

    Returns:
        The person's index, 0..N-1, or None if no person qualifies.

    Raises:
        ValueError: a shape is wrong, or `size` is not positive.
    """
    boxes, scores = torch.as_tensor(boxes), torch.as_tensor(scores)
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes must have shape [N, 4], got {list(boxes.shape)}")
    if scores.dim() != 1 or len(scores) != len(boxes):
        raise ValueError(f"scores must have shape [{len(boxes)}], one for each box, got {list(scores.shape)}")
    height, width = size
    if height < 1 or width < 1:
        raise ValueError(f"size must be a positive (height, width), got {size}")
    boxes, scores = boxes.detach().cpu().double(), scores.detach().cpu().double()
    window = torch.tensor([width / 4, height / 4, 3 * width / 4, 3 * height / 4], dtype=torch.float64)
    crop = torch.tensor([0, 0, width, height], dtype=torch.float64)
    worth = scores * _overlap(boxes, window) / _overlap(window[None], window)
    can_be = torch.isfinite(boxes).all(1) & torch.isfinite(scores) & (worth > 0)
    seen = _overlap(boxes, crop).tolist()
    value = worth.tolist()
    candidates = [i for i in range(len(value)) if can_be[i]]
    return max(candidates, key=lambda i: (value[i], seen[i], -i), default=None)


def _overlap(boxes: Tensor, other: Tensor) -> Tensor:
    """Returns the areas that boxes [N, 4] share with one box [4], [N]."""
    low, high = torch.maximum(boxes[:, :2], other[:2]), torch.minimum(boxes[:, 2:], other[2:])
    return (high - low).clamp(min=0).prod(1)
