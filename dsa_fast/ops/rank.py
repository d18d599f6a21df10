"""Ranks of the correct matches, and nearest neighbors, on the CPU without a distance matrix; see `csrc/rank.h`.

Items are sorted by keys that are computed in float64 and compared as float32. Ties go to the lower index. Results are
exact, and the same for any number of threads and any block size.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dsa_fast.ops import _load  # noqa: F401  (loads the operators)

MAX_BLOCK = 2048


class Lists(NamedTuple):
    """A list of gallery items for each query: those of query q are `items[offsets[q] : offsets[q + 1]]`.

    Attributes:
        offsets: int64 [Q + 1], ascending from 0.
        items: int64 [offsets[Q]], rows of the gallery, each at most once for a query.
    """

    offsets: Tensor
    items: Tensor

    def of(self, start: int, stop: int) -> Lists:
        """Returns the lists of the queries start .. stop - 1."""
        offsets = self.offsets[start : stop + 1]
        first, last = int(offsets[0]), int(offsets[-1])
        return Lists(offsets - first, self.items[first:last])


def rank_matches(
    query: Tensor, gallery: Tensor, ignored: Tensor, matches: Lists, left_out: Lists, *, cosine: bool, block: int
) -> Tensor:
    """Returns the ranks of each query's matches.

    Args:
        query: float32 or float64 [Q, D], finite, on the CPU.
        gallery: float32 or float64 [G, D], finite, on the CPU.
        ignored: bool [G], items left out of every ranking. No list may contain them.
        matches: the correct items of each query.
        left_out: the items left out of a query's ranking. They can't be matches.
        cosine: sort by the cosine; False sorts by the Euclidean distance.
        block: number of queries computed together, at most MAX_BLOCK.

    Returns:
        int64 [len(matches.items)]: each query's ranks, from 1, ascending.
    """
    ranks: Tensor = torch.ops.dsa_fast.rank_matches(
        query.contiguous(), gallery.contiguous(), ignored, *matches, *left_out, cosine, block
    )
    return ranks


def rank_rows(distances: Tensor, ignored: Tensor, matches: Lists, left_out: Lists) -> Tensor:
    """Does `rank_matches` on given distances, float32 [Q, G] without NaN."""
    ranks: Tensor = torch.ops.dsa_fast.rank_rows(distances.contiguous(), ignored, *matches, *left_out)
    return ranks


def nearest(query: Tensor, gallery: Tensor, k: int, *, cosine: bool, block: int = MAX_BLOCK) -> tuple[Tensor, Tensor]:
    """Finds the k nearest items of each query, and the farthest.

    Args:
        query: float32 or float64 [Q, D], finite, on the CPU.
        gallery: float32 or float64 [G, D], finite, on the CPU.
        k: number of items, in 1..G.
        cosine: sort by the cosine; False sorts by the Euclidean distance.
        block: number of queries computed together, at most MAX_BLOCK.

    Returns:
        int64 [Q, k], nearest first, and int64 [Q], the farthest item. If several items are farthest up to rounding, the
        result depends on the processor.
    """
    found: Tensor = torch.ops.dsa_fast.nearest(query.contiguous(), gallery.contiguous(), k, cosine, block)
    return found[:, :k], found[:, k]


def pair_distances(
    query: Tensor, gallery: Tensor, query_index: Tensor, gallery_index: Tensor, *, cosine: bool
) -> Tensor:
    """Returns distances of row pairs, float64 [n]: 1 - cos (1 for a zero vector), or the squared Euclidean distance.

    Args:
        query: float32 or float64 [Q, D], finite, on the CPU.
        gallery: float32 or float64 [G, D], finite, on the CPU.
        query_index: int64 [n], rows of `query`.
        gallery_index: int64 [n], rows of `gallery`.
        cosine: return 1 - cos.
    """
    distances: Tensor = torch.ops.dsa_fast.pair_distances(
        query.contiguous(), gallery.contiguous(), query_index.contiguous(), gallery_index.contiguous(), cosine
    )
    return distances


@torch.library.register_fake("dsa_fast::rank_matches")
def _(
    query: Tensor,
    gallery: Tensor,
    ignored: Tensor,
    match_offsets: Tensor,
    match_items: Tensor,
    left_offsets: Tensor,
    left_items: Tensor,
    cosine: bool,
    block: int,
) -> Tensor:
    return torch.empty_like(match_items)


@torch.library.register_fake("dsa_fast::rank_rows")
def _(
    distances: Tensor,
    ignored: Tensor,
    match_offsets: Tensor,
    match_items: Tensor,
    left_offsets: Tensor,
    left_items: Tensor,
) -> Tensor:
    return torch.empty_like(match_items)


@torch.library.register_fake("dsa_fast::nearest")
def _(query: Tensor, gallery: Tensor, k: int, cosine: bool, block: int) -> Tensor:
    return query.new_empty((query.shape[0], k + 1), dtype=torch.int64)


@torch.library.register_fake("dsa_fast::pair_distances")
def _(query: Tensor, gallery: Tensor, query_index: Tensor, gallery_index: Tensor, cosine: bool) -> Tensor:
    return query.new_empty(query_index.shape, dtype=torch.float64)
