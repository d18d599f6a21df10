"""Checks the inputs of the evaluation: features, pids and camids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsa_fast.ops import rank as rank_ops

Metric = Literal["cosine", "euclidean"]
Features = Tensor | NDArray[Any]
Labels = Tensor | NDArray[Any] | Sequence[int]

#: Gallery pids without a person: junk is left out, and a distractor counts as wrong.
JUNK = -1
DISTRACTOR = 0


def check_features(name: str, values: Features) -> Tensor:
    tensor = values.detach() if isinstance(values, Tensor) else torch.from_numpy(np.ascontiguousarray(values))
    if tensor.dim() != 2 or tensor.shape[0] == 0 or tensor.shape[1] == 0:
        raise ValueError(f"{name} must have shape [N, D] with N, D >= 1, got {list(tensor.shape)}")
    if tensor.dtype == torch.bool or tensor.is_complex():
        raise TypeError(f"{name} must be real numbers, got {tensor.dtype}")
    # If the sum is finite, so is every term. The sum is nearly always finite, and checking it is much faster.
    if not bool(torch.isfinite(tensor.sum())) and not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return tensor


def check_feature_pair(
    query: Features, gallery: Features, names: tuple[str, str] = ("query_features", "gallery_features")
) -> tuple[Tensor, Tensor]:
    """Returns both as tensors [Q, D] and [G, D]: finite, with the same width, on the same device."""
    query, gallery = check_features(names[0], query), check_features(names[1], gallery)
    both = " and ".join(names)
    if query.shape[1] != gallery.shape[1]:
        raise ValueError(f"{both} must have the same number of columns, got {query.shape[1]} and {gallery.shape[1]}")
    if query.device != gallery.device:
        raise ValueError(f"{both} must be on the same device, got {query.device} and {gallery.device}")
    return query, gallery


def check_metric(metric: str) -> None:
    if metric not in ("cosine", "euclidean"):
        raise ValueError(f'metric must be "cosine" or "euclidean", got {metric!r}')


def as_real(features: Tensor) -> Tensor:
    """Converts to float32 or float64 without rounding; integers become float64."""
    if features.dtype in (torch.float32, torch.float64):
        return features.contiguous()
    return features.to(torch.float32 if features.is_floating_point() else torch.float64).contiguous()


def check_labels(name: str, values: Labels, count: int | None) -> Tensor:
    tensor = values if isinstance(values, Tensor) else torch.from_numpy(np.asarray(values))
    if tensor.dtype == torch.bool or tensor.is_floating_point() or tensor.is_complex():
        raise TypeError(f"{name} must be integers, got {tensor.dtype}")
    if tensor.dim() != 1 or len(tensor) == 0 or (count is not None and len(tensor) != count):
        shape = "[N] with N >= 1" if count is None else f"[{count}], one for each feature"
        raise ValueError(f"{name} must have shape {shape}, got {list(tensor.shape)}")
    return tensor.to(device="cpu", dtype=torch.int64).contiguous()


def check_camids(name: str, values: Labels, count: int | None) -> Tensor:
    """Returns camids as int64 [N, C] on the CPU."""
    tensor = values if isinstance(values, Tensor) else torch.from_numpy(np.asarray(values))
    if tensor.dim() != 2 or tensor.shape[1] == 0:
        return check_labels(name, tensor, count)[:, None]
    columns = [check_labels(name, column, count) for column in tensor.unbind(1)]
    return torch.stack(columns, 1)


def same_camera(query_camids: Tensor, gallery_camids: Tensor) -> Tensor:
    """Camids [b, C] and [n, C] -> bool [b, n]: equal in any column."""
    same = query_camids[:, None, 0] == gallery_camids[:, 0]
    for column in range(1, query_camids.shape[1]):
        same.logical_or_(query_camids[:, None, column] == gallery_camids[:, column])
    return same


class CheckedLabels:
    """Checked labels, on the CPU. Camids have shape [N, C]: equality in any column is the same camera."""

    def __init__(
        self,
        query_pids: Labels,
        query_camids: Labels,
        gallery_pids: Labels,
        gallery_camids: Labels,
        queries: int | None,
        gallery: int | None,
    ) -> None:
        self.query_pids = check_labels("query_pids", query_pids, queries)
        self.query_camids = check_camids("query_camids", query_camids, len(self.query_pids))
        self.gallery_pids = check_labels("gallery_pids", gallery_pids, gallery)
        self.gallery_camids = check_camids("gallery_camids", gallery_camids, len(self.gallery_pids))
        if self.query_camids.shape[1] != self.gallery_camids.shape[1]:
            raise ValueError(
                "query_camids and gallery_camids must have the same number of columns, "
                f"got {self.query_camids.shape[1]} and {self.gallery_camids.shape[1]}"
            )
        if int(self.query_pids.min()) <= DISTRACTOR:
            raise ValueError(
                "query_pids must be above 0 (junk, -1, and distractors, 0, can't be queries), "
                f"got {int(self.query_pids.min())}"
            )
        if int(self.gallery_pids.min()) < JUNK:
            raise ValueError(
                f"gallery_pids must be -1 (junk), 0 (distractor) or above, got {int(self.gallery_pids.min())}"
            )

    def lists(self) -> tuple[rank_ops.Lists, rank_ops.Lists]:
        """Returns each query's right matches, and the images of its person by its own camera, which are left out."""
        order = self.gallery_pids.argsort(stable=True)
        sorted_pids = self.gallery_pids[order]
        start = torch.searchsorted(sorted_pids, self.query_pids)
        counts = torch.searchsorted(sorted_pids, self.query_pids, right=True) - start
        query = torch.repeat_interleave(torch.arange(len(counts)), counts)
        step = torch.arange(len(query)) - (counts.cumsum(0) - counts)[query]
        items = order[start[query] + step]
        own = (self.gallery_camids[items] == self.query_camids[query]).any(1)
        matches, left_out = (
            rank_ops.Lists(
                torch.nn.functional.pad(torch.bincount(query[kept], minlength=len(counts)).cumsum(0), (1, 0)),
                items[kept],
            )
            for kept in (~own, own)
        )
        return matches, left_out
