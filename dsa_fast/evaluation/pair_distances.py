"""Histograms of the distances of all pairs of a query and a gallery image, for the same and for different people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from dsa_fast.evaluation.checks import (
    JUNK,
    CheckedLabels,
    Features,
    Labels,
    Metric,
    check_feature_pair,
    check_metric,
    same_camera,
)

__all__ = ["DistanceHistogram", "distance_histogram"]

_FINE_BINS = 4096
_PAIRS = 1 << 21  # pairs whose distances are held at a time: 8 MiB of float32


@dataclass(frozen=True, eq=False)
class DistanceHistogram:
    """A histogram of the distances of pairs of a query and a gallery image, without pairs that the protocol leaves out.

    Attributes:
        edges: float64 [n+1], the edges of the bins, ascending, evenly spaced.
        same: int64 [n], pairs of one identity (by different cameras).
        different: int64 [n], pairs of different identities, distractors included.
        overlap: overlap of the two distributions, from 0 (a threshold separates them) to 1: the sum over the bins of
            the smaller share. NaN if there are no pairs of one kind.
        auc: probability that a same-identity pair is closer than a different-identity pair; ties count half.
        equal_error_rate: share of pairs on the wrong side of the threshold at which both error rates are equal.
        threshold: the distance of that threshold.
    """

    edges: NDArray[np.float64]
    same: NDArray[np.int64]
    different: NDArray[np.int64]
    overlap: float
    auc: float
    equal_error_rate: float
    threshold: float


def distance_histogram(
    query_features: Features,
    query_pids: Labels,
    query_camids: Labels,
    gallery_features: Features,
    gallery_pids: Labels,
    gallery_camids: Labels,
    *,
    metric: Metric = "cosine",
    bins: int = 100,
) -> DistanceHistogram:
    """Makes a histogram of the distances of all pairs, a block at a time, in float32.

    Args:
        query_features: [Q, D]; this and the following five, to gallery_camids [G], as in `evaluate`.
        metric: as in `evaluate`.
        bins: maximum number of bins over the range of distances.

    Raises:
        TypeError: as in `evaluate`.
        ValueError: as in `evaluate`, except that queries need no match; or bins < 1.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    check_metric(metric)
    counts, reach = count_pairs(
        *(query_features, query_pids, query_camids, gallery_features, gallery_pids, gallery_camids), metric, _FINE_BINS
    )
    return _summarised(counts, reach, bins)


def count_pairs(
    query_features: Features,
    query_pids: Labels,
    query_camids: Labels,
    gallery_features: Features,
    gallery_pids: Labels,
    gallery_camids: Labels,
    metric: Metric,
    bins: int,
) -> tuple[NDArray[np.int64], float]:
    """Counts the pairs of one identity and of different ones by their distance, in even bins from 0.

    Args:
        query_features: [Q, D]; this and the following five as in `distance_histogram`.
        metric: as in `evaluate`.
        bins: number of bins.

    Returns:
        int64 [2, bins], the pairs of one identity and of different ones, and the upper edge of the last bin.
    """
    query, gallery = check_feature_pair(query_features, gallery_features)
    labels = CheckedLabels(query_pids, query_camids, gallery_pids, gallery_camids, len(query), len(gallery))
    device = query.device
    q_pids, q_camids = labels.query_pids.to(device), labels.query_camids.to(device)
    g_pids, g_camids = labels.gallery_pids.to(device), labels.gallery_camids.to(device)
    longest = float(query.float().norm(dim=1).max() + gallery.float().norm(dim=1).max())
    reach = 2.0 if metric == "cosine" else max(longest, 1e-30)
    counts = torch.zeros((2, bins), dtype=torch.int64, device=device)
    for rows, columns in _blocks(len(query), len(gallery)):
        near = _distances(query[rows].float(), gallery[columns].float(), metric)
        index = near.mul_(bins / reach).clamp_(0, bins - 1).to(torch.int64)
        index = index.masked_fill_(g_pids[columns] == JUNK, bins)
        same = q_pids[rows, None] == g_pids[columns]
        mates = index[same & ~same_camera(q_camids[rows], g_camids[columns])]
        everyone = torch.bincount(index.flatten(), minlength=bins + 1)
        everyone -= torch.bincount(index[same], minlength=bins + 1)
        counts[0] += torch.bincount(mates, minlength=bins + 1)[:bins]
        counts[1] += everyone[:bins]
    return counts.cpu().numpy(), reach


def _summarised(counts: NDArray[np.int64], reach: float, bins: int) -> DistanceHistogram:
    occupied = np.flatnonzero(counts.sum(0))
    first, last = (int(occupied[0]), int(occupied[-1])) if len(occupied) else (0, 0)
    merge = -(-(last - first + 1) // bins)
    n = -(-(last - first + 1) // merge)
    padded = np.zeros((2, n * merge), np.int64)
    available = counts[:, first : first + n * merge]
    padded[:, : available.shape[1]] = available
    same, different = padded.reshape(2, n, merge).sum(2)
    edges = np.asarray((first + merge * np.arange(n + 1)) * (reach / _FINE_BINS), np.float64)
    if not (same.sum() and different.sum()):
        return DistanceHistogram(edges, same, different, np.nan, np.nan, np.nan, np.nan)
    overlap = float(np.minimum(same / same.sum(), different / different.sum()).sum())
    share = counts / counts.sum(1, keepdims=True)
    below = np.cumsum(share[0]) - share[0] / 2
    missed, accepted = 1 - np.cumsum(share[0]), np.cumsum(share[1])
    at = int(np.argmin(np.abs(missed - accepted)))
    return DistanceHistogram(
        edges=edges,
        same=same,
        different=different,
        overlap=overlap,
        auc=float((below * share[1]).sum()),
        equal_error_rate=float((missed[at] + accepted[at]) / 2),
        threshold=(at + 1) * reach / _FINE_BINS,
    )


def _blocks(num_queries: int, num_gallery: int) -> Iterator[tuple[slice, slice]]:
    height = max(1, min(num_queries, 256))
    width = max(1, _PAIRS // height)
    for top in range(0, num_queries, height):
        for left in range(0, num_gallery, width):
            yield slice(top, min(top + height, num_queries)), slice(left, min(left + width, num_gallery))


def _distances(query: Tensor, gallery: Tensor, metric: Metric) -> Tensor:
    if metric == "cosine":  # a zero vector has distance 1 to all
        return 1 - functional.normalize(query, dim=1, eps=1e-30) @ functional.normalize(gallery, dim=1, eps=1e-30).T
    return torch.cdist(query, gallery)
