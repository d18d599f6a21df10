"""What a report shows beside the scores: lists that keep what the protocol leaves out, and all pairs' distances."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from dsa_fast.evaluation.metrics import JUNK, Features, Labels, Metric, rank_list

__all__ = [
    "JUNK_IMAGE",
    "NONE",
    "RIGHT",
    "SAME_CAMERA",
    "WRONG",
    "DistanceHistogram",
    "KeptLists",
    "distance_histogram",
    "kept_lists",
]

#: Kinds of a listed image. Those from SAME_CAMERA on are left out by the protocol and have no rank.
WRONG: Final = 0
RIGHT: Final = 1
SAME_CAMERA: Final = 2
JUNK_IMAGE: Final = 3
NONE: Final = 4

_FINE_BINS = 4096
_PAIRS = 1 << 21  # pairs whose distances are held at a time: 8 MiB of float32


class KeptLists(NamedTuple):
    """The nearest gallery items of each query, with those in place that the protocol leaves out; CPU tensors [Q, L].

    Attributes:
        indices: int64, places in the gallery, nearest first; -1 behind a list's end.
        distances: float32; NaN behind a list's end.
        kinds: int64: WRONG, RIGHT, SAME_CAMERA (the query's person by the query's camera: left out), JUNK_IMAGE (pid
            -1: left out), or NONE behind a list's end.
        hidden: int64 [Q], how many left-out items stand between those listed and are not listed themselves.
    """

    indices: Tensor
    distances: Tensor
    kinds: Tensor
    hidden: Tensor


def kept_lists(
    query_features: Features,
    query_pids: Labels,
    query_camids: Labels,
    gallery_features: Features,
    gallery_pids: Labels,
    gallery_camids: Labels,
    *,
    k: int = 10,
    max_left_out: int | None = None,
    metric: Metric = "cosine",
    block_size: int = 256,
) -> KeptLists:
    """The k nearest gallery items that count, and between them those that the protocol leaves out.

    The order is that of `evaluate` and `rank_list`: without its left-out items a list is `rank_list`'s.

    Args:
        query_features: [Q, D]; this and the following five as in `evaluate`.
        query_pids: [Q].
        query_camids: [Q].
        gallery_features: [G, D].
        gallery_pids: [G].
        gallery_camids: [G].
        k: how many items that count (right or wrong) each list has, if the gallery has them.
        max_left_out: how many left-out items a list shows, the nearest first; by default k. The others up to the last
            item that counts are in `hidden`.
        metric: as in `evaluate`.
        block_size: as in `evaluate`.

    Raises:
        TypeError: as `evaluate`.
        ValueError: as `evaluate`, but for queries without a match; or k < 1, or max_left_out < 0.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    most = k if max_left_out is None else max_left_out
    if most < 0:
        raise ValueError(f"max_left_out must be at least 0, got {max_left_out}")
    # Checks all arguments, and is what every list must hold.
    counted = rank_list(
        query_features,
        query_pids,
        query_camids,
        gallery_features,
        gallery_pids,
        gallery_camids,
        k=k,
        metric=metric,
        block_size=block_size,
    )
    q_pids, q_camids, g_pids, g_camids = (_ints(x) for x in (query_pids, query_camids, gallery_pids, gallery_camids))
    num_queries, num_gallery = len(q_pids), len(g_pids)
    want = (counted.indices >= 0).sum(1).numpy()
    rows: list[tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64], int] | None] = [None] * num_queries
    pending = np.arange(num_queries)
    wide = min(num_gallery, 2 * k + 16)
    while len(pending):
        # Labels under which nothing is left out, so that the order is rank_list's own.
        near = rank_list(
            query_features[torch.from_numpy(pending)]
            if isinstance(query_features, Tensor)
            else query_features[pending],
            np.full(len(pending), 2),
            np.zeros(len(pending), np.int64),
            gallery_features,
            np.ones(num_gallery, np.int64),
            np.zeros(num_gallery, np.int64),
            k=wide,
            metric=metric,
            block_size=block_size,
        )
        left = []
        for row, items, distances in zip(pending, near.indices.numpy(), near.distances.numpy(), strict=True):
            same = g_pids[items] == q_pids[row]
            kinds = np.where(same, np.where(g_camids[items] == q_camids[row], SAME_CAMERA, RIGHT), WRONG)
            kinds = np.where(g_pids[items] == JUNK, JUNK_IMAGE, kinds)
            counts = kinds < SAME_CAMERA
            if counts.sum() < want[row]:
                left.append(row)
                continue
            end = int(np.flatnonzero(counts)[want[row] - 1]) + 1 if want[row] else min(most, wide)
            shown = np.flatnonzero(counts[:end] | (np.cumsum(~counts[:end]) <= most))
            rows[row] = items[shown], distances[shown], kinds[shown], end - len(shown)
        pending, wide = np.array(left, np.int64), min(num_gallery, 4 * wide)
    done = [row for row in rows if row is not None]
    length = max((len(row[0]) for row in done), default=0)
    indices = torch.full((num_queries, length), -1, dtype=torch.int64)
    far = torch.full((num_queries, length), torch.nan, dtype=torch.float32)
    what = torch.full((num_queries, length), NONE, dtype=torch.int64)
    for i, (items, distances, kinds, _) in enumerate(done):
        indices[i, : len(items)] = torch.from_numpy(items)
        far[i, : len(items)] = torch.from_numpy(distances)
        what[i, : len(items)] = torch.from_numpy(kinds)
    return KeptLists(indices, far, what, torch.tensor([row[3] for row in done], dtype=torch.int64))


@dataclass(frozen=True, eq=False)
class DistanceHistogram:
    """How far pairs of a query and a gallery image are apart. What the protocol leaves out is not counted.

    Attributes:
        edges: float64 [n+1], the bins' borders, ascending, all of one width.
        same: int64 [n], pairs of one identity (by different cameras).
        different: int64 [n], pairs of different identities, distractors included.
        overlap: share of the two distributions that lies in common, 0 (told apart by a threshold) to 1: the sum over
            the bins of the smaller share. NaN where there are no pairs of one kind.
        auc: probability that a pair of one identity is nearer than one of different identities, ties half.
        equal_error_rate: share of pairs on the wrong side of the threshold at which both kinds err alike.
        threshold: that distance.
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
    """Counts the distances of all pairs, a block at a time, in float32.

    Args:
        query_features: [Q, D]; this and the following five as in `evaluate`.
        query_pids: [Q].
        query_camids: [Q].
        gallery_features: [G, D], on the same device.
        gallery_pids: [G].
        gallery_camids: [G].
        metric: as in `evaluate`.
        bins: at most so many bins over the distances that occur.

    Raises:
        ValueError: bins < 1, an unknown metric, or shapes that do not fit.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    if metric not in ("cosine", "euclidean"):
        raise ValueError(f'metric must be "cosine" or "euclidean", got {metric!r}')
    query, gallery = (torch.as_tensor(x).detach() for x in (query_features, gallery_features))
    labels = [torch.from_numpy(_ints(x)) for x in (query_pids, query_camids, gallery_pids, gallery_camids)]
    if query.dim() != 2 or gallery.dim() != 2 or query.shape[1] != gallery.shape[1]:
        raise ValueError(
            "query_features and gallery_features must have shapes [Q, D] and [G, D], "
            f"got {list(query.shape)} and {list(gallery.shape)}"
        )
    for name, values, features in zip(
        ("query_pids", "query_camids", "gallery_pids", "gallery_camids"),
        labels,
        (query, query, gallery, gallery),
        strict=True,
    ):
        if values.shape != features.shape[:1]:
            raise ValueError(f"{name} must have shape [{len(features)}], got {list(values.shape)}")
    device = query.device
    q_pids, q_camids, g_pids, g_camids = (values.to(device) for values in labels)
    longest = float(query.float().norm(dim=1).max() + gallery.float().norm(dim=1).max())
    reach = 2.0 if metric == "cosine" else max(longest, 1e-30)
    counts = torch.zeros((2, _FINE_BINS), dtype=torch.int64, device=device)
    for rows, columns in _blocks(len(query), len(gallery)):
        near = _distances(query[rows].float(), gallery[columns].float(), metric)
        index = near.mul_(_FINE_BINS / reach).clamp_(0, _FINE_BINS - 1).to(torch.int64)
        index = index.masked_fill_(g_pids[columns] == JUNK, _FINE_BINS)
        same = q_pids[rows, None] == g_pids[columns]
        mates = index[same & (q_camids[rows, None] != g_camids[columns])]
        everyone = torch.bincount(index.flatten(), minlength=_FINE_BINS + 1)
        everyone -= torch.bincount(index[same], minlength=_FINE_BINS + 1)
        counts[0] += torch.bincount(mates, minlength=_FINE_BINS + 1)[:_FINE_BINS]
        counts[1] += everyone[:_FINE_BINS]
    return _summarised(counts.cpu().numpy(), reach, bins)


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
    if metric == "cosine":  # a zero vector is at distance 1 from all
        return 1 - functional.normalize(query, dim=1, eps=1e-30) @ functional.normalize(gallery, dim=1, eps=1e-30).T
    return torch.cdist(query, gallery)


def _ints(values: Labels) -> NDArray[np.int64]:
    return np.asarray(values.cpu() if isinstance(values, Tensor) else values).astype(np.int64)
