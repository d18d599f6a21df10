"""Ranked lists: the gallery images nearest to each query, with and without images that the protocol leaves out."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsa_fast.evaluation.checks import JUNK, CheckedLabels, Features, Labels, Metric, check_feature_pair
from dsa_fast.evaluation.ordering import LAST, OrderedGallery

__all__ = [
    "JUNK_IMAGE",
    "NONE",
    "RIGHT",
    "SAME_CAMERA",
    "WRONG",
    "RankedLists",
    "UnfilteredLists",
    "rank_list",
    "unfiltered_lists",
]

#: Kinds of a listed image. The protocol leaves out SAME_CAMERA and the later ones, which have no rank.
WRONG: Final = 0
RIGHT: Final = 1
SAME_CAMERA: Final = 2
JUNK_IMAGE: Final = 3
NONE: Final = 4


class RankedLists(NamedTuple):
    """The nearest gallery items of each query; CPU tensors [Q, k].

    Attributes:
        indices: int64, indices into the gallery, nearest first; -1 if fewer than k images count.
        distances: float32; cosine distance 1 - cos, or Euclidean distance; NaN where `indices` is -1.
        matches: bool, whether the image shows the query's person.
    """

    indices: Tensor
    distances: Tensor
    matches: Tensor


def rank_list(
    query_features: Features,
    query_pids: Labels,
    query_camids: Labels,
    gallery_features: Features,
    gallery_pids: Labels,
    gallery_camids: Labels,
    *,
    k: int = 10,
    metric: Metric = "cosine",
    block_size: int | None = None,
) -> RankedLists:
    """Lists the k nearest gallery items of each query, without items that the protocol leaves out.

    The order is that of `evaluate`. Every query has a list, even without a right match.

    Args:
        query_features: [Q, D]; this and the following five, to gallery_camids [G], as in `evaluate`.
        k: length of a list.
        metric: as in `evaluate`.
        block_size: as in `evaluate`.

    Returns:
        Indices, distances and matches, each [Q, k] on the CPU.

    Raises:
        TypeError: as in `evaluate`.
        ValueError: as in `evaluate`, except that queries need no match; or k < 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    inputs = OrderedGallery(
        query_features, query_pids, query_camids, gallery_features, gallery_pids, gallery_camids, metric, block_size
    )
    num_queries, shown = len(inputs.query), min(k, len(inputs.gallery))
    indices = torch.full((num_queries, k), -1, dtype=torch.int64)
    distances = torch.full((num_queries, k), torch.nan, dtype=torch.float32)
    matches = torch.zeros((num_queries, k), dtype=torch.bool)
    for block in inputs.blocks():
        keys, columns = block.keys.topk(shown, dim=1, largest=False, sorted=True)
        listed = (keys != LAST).cpu()
        rows = slice(block.start, block.stop)
        indices[rows, :shown] = torch.where(listed, columns.cpu(), -1)
        distances[rows, :shown] = torch.where(listed, inputs.distances(block, columns).float().cpu(), torch.nan)
        matches[rows, :shown] = block.matches.gather(1, columns).cpu() & listed
    return RankedLists(indices, distances, matches)


class UnfilteredLists(NamedTuple):
    """The nearest gallery items of each query, including left-out items; CPU tensors [Q, L].

    Attributes:
        indices: int64, indices into the gallery, nearest first; -1 after a list's end.
        distances: float32; NaN after a list's end.
        kinds: int64: WRONG, RIGHT, SAME_CAMERA (the query's person by the query's camera: left out), JUNK_IMAGE (pid
            -1: left out), or NONE after a list's end.
        hidden: int64 [Q], number of left-out items between the listed ones that are not listed themselves.
    """

    indices: Tensor
    distances: Tensor
    kinds: Tensor
    hidden: Tensor


def unfiltered_lists(
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
) -> UnfilteredLists:
    """Lists the k nearest gallery items that count, and between them the items that the protocol leaves out.

    The order is that of `evaluate` and `rank_list`. Without the left-out items, a list equals that of `rank_list`.

    Args:
        query_features: [Q, D]; this and the following five, to gallery_camids [G], as in `evaluate`.
        k: number of items that count (right or wrong) in each list, if the gallery has them.
        max_left_out: maximum number of left-out items in a list, nearest first; by default k. `hidden` counts the other
            ones before the last item that counts.
        metric: as in `evaluate`.
        block_size: as in `evaluate`.

    Raises:
        TypeError: as in `evaluate`.
        ValueError: as in `evaluate`, except that queries need no match; or k < 1, or max_left_out < 0.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    most = k if max_left_out is None else max_left_out
    if most < 0:
        raise ValueError(f"max_left_out must be at least 0, got {max_left_out}")
    query, gallery = check_feature_pair(query_features, gallery_features)
    labels = CheckedLabels(query_pids, query_camids, gallery_pids, gallery_camids, len(query), len(gallery))
    q_pids, q_camids = labels.query_pids.numpy(), labels.query_camids.numpy()
    g_pids, g_camids = labels.gallery_pids.numpy(), labels.gallery_camids.numpy()
    num_queries, num_gallery = len(q_pids), len(g_pids)
    own = labels.lists()[1].offsets.diff().numpy()  # left out for each query, without the junk
    want = np.minimum(k, num_gallery - int((g_pids == JUNK).sum()) - own)
    rows: list[tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64], int] | None] = [None] * num_queries
    pending = np.arange(num_queries)
    wide = min(num_gallery, 2 * k + 16)
    while len(pending):
        # With these labels nothing is left out, so the order is that of rank_list.
        some, ones = query[torch.from_numpy(pending)], np.ones(num_gallery, np.int64)
        twos = np.full(len(pending), 2)
        near = rank_list(some, twos, twos, gallery, ones, ones, k=wide, metric=metric, block_size=block_size)
        left = []
        for row, items, distances in zip(pending, near.indices.numpy(), near.distances.numpy(), strict=True):
            same = g_pids[items] == q_pids[row]
            kinds = np.where(same, np.where((g_camids[items] == q_camids[row]).any(1), SAME_CAMERA, RIGHT), WRONG)
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
    return UnfilteredLists(indices, far, what, torch.tensor([row[3] for row in done], dtype=torch.int64))
