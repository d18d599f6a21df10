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
)

__all__ = ["DistanceHistogram", "distance_histogram"]

#: Even bins of the distance in which pairs are counted; of a cosine, 3e-5 each.
FINE_BINS = 1 << 16
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
        *(query_features, query_pids, query_camids, gallery_features, gallery_pids, gallery_camids), metric, FINE_BINS
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
    longest = float(query.float().norm(dim=1).max() + gallery.float().norm(dim=1).max())
    reach = 2.0 if metric == "cosine" else max(longest, 1e-30)
    junk = np.flatnonzero(labels.gallery_pids.numpy() == JUNK)
    lists = [(offsets.numpy(), items.numpy()) for offsets, items in labels.lists()]
    counts = np.zeros((2, bins), np.int64)

    def count(index: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.bincount(index.ravel(), minlength=bins)

    # By NumPy, in one thread: PyTorch's bincount waits long for its threads on a machine that has other work.
    for rows, columns, near in _distances(query.float(), gallery, metric):
        np.multiply(near, np.float32(bins / reach), out=near)
        index = np.clip(near, 0, bins - 1, out=near).astype(np.int64)
        mates, own = (index[_places(offsets, items, rows, columns)] for offsets, items in lists)
        left_out = junk[(junk >= columns.start) & (junk < columns.stop)] - columns.start
        right = count(mates)
        counts[0] += right
        counts[1] += count(index) - count(index[:, left_out]) - right - count(own)
    return counts, reach


def equal_error(same: NDArray[np.int64], different: NDArray[np.int64]) -> tuple[float, int]:
    """Finds the distance at which the shares of missed pairs and of false matches are closest.

    Args:
        same: int64 [n], pairs of one identity by their distance, from the closest bin.
        different: int64 [n], pairs of different identities.

    Returns:
        The mean of the two shares there, and the number of bins that count as one identity: of equally good numbers,
        the middle one.
    """
    found, false = (np.concatenate([[0], np.cumsum(counts)]) / counts.sum() for counts in (same, different))
    missed = 1 - found
    apart = np.abs(false - missed)
    places = np.flatnonzero(apart == apart.min())
    place = int(places[len(places) // 2])
    return float((false[place] + missed[place]) / 2), place


def _places(
    offsets: NDArray[np.int64], items: NDArray[np.int64], rows: slice, columns: slice
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The places in a block of the gallery images that the lists of its queries name: rows and columns."""
    bounds = offsets[rows.start : rows.stop + 1]
    row = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    column = items[bounds[0] : bounds[-1]]
    inside = (column >= columns.start) & (column < columns.stop)
    return row[inside], column[inside] - columns.start


def _summarised(counts: NDArray[np.int64], reach: float, bins: int) -> DistanceHistogram:
    occupied = np.flatnonzero(counts.sum(0))
    first, last = (int(occupied[0]), int(occupied[-1])) if len(occupied) else (0, 0)
    merge = -(-(last - first + 1) // bins)
    n = -(-(last - first + 1) // merge)
    padded = np.zeros((2, n * merge), np.int64)
    available = counts[:, first : first + n * merge]
    padded[:, : available.shape[1]] = available
    same, different = padded.reshape(2, n, merge).sum(2)
    edges = np.asarray((first + merge * np.arange(n + 1)) * (reach / FINE_BINS), np.float64)
    if not (same.sum() and different.sum()):
        return DistanceHistogram(edges, same, different, np.nan, np.nan, np.nan, np.nan)
    overlap = float(np.minimum(same / same.sum(), different / different.sum()).sum())
    share = counts / counts.sum(1, keepdims=True)
    below = np.cumsum(share[0]) - share[0] / 2
    rate, at = equal_error(*counts)
    return DistanceHistogram(
        edges=edges,
        same=same,
        different=different,
        overlap=overlap,
        auc=float((below * share[1]).sum()),
        equal_error_rate=rate,
        threshold=at * reach / FINE_BINS,
    )


def _distances(query: Tensor, gallery: Tensor, metric: Metric) -> Iterator[tuple[slice, slice, NDArray[np.float32]]]:
    """Yields blocks of rows and columns with their distances, which the caller may change."""
    height = max(1, min(len(query), 256))
    width = max(1, _PAIRS // height)
    if metric == "cosine":  # a zero vector has distance 1 to all
        query = functional.normalize(query, dim=1, eps=1e-30)
    for left in range(0, len(gallery), width):
        columns = slice(left, min(left + width, len(gallery)))
        part = gallery[columns].float()
        if metric == "cosine":
            part = functional.normalize(part, dim=1, eps=1e-30)
        for top in range(0, len(query), height):
            rows = slice(top, min(top + height, len(query)))
            if metric == "cosine":
                near = (query[rows] @ part.T).cpu().numpy()
                np.subtract(1, near, out=near)
            else:
                near = torch.cdist(query[rows], part).cpu().numpy()
            yield rows, columns, near
