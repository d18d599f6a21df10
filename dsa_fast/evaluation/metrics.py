"""Re-identification scores by the Market-1501 protocol: mAP, CMC, mINP, and ranked lists.

The protocol (Zheng et al., "Scalable Person Re-identification: A Benchmark", ICCV 2015): for each query the gallery is
ordered by distance, after leaving out the images of the query's own person from the query's own camera and the junk
(pid -1). Images of other people, and the distractors (pid 0), count as wrong.

Distances are ordered as if computed in float64 and compared as float32, so that items which are equally far on paper
stay equal. Such ties are broken by the place in the gallery: the lower index ranks first. The whole distance matrix is
never held, and nothing is sorted but each query's right matches.

On the CPU a float32 product with a known error bound sorts out the items whose place is beyond doubt, and the few
others are computed in float64 (`csrc/rank.h`): ranks are exact, and neither the number of threads nor the block size
nor the processor can change them. On other devices blocks are computed in float64 by PyTorch; the order of its sums
is the device's, so that two items may change places there only where their float64 distances agree to 15 digits and
yet round to different float32 values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsa_fast.ops import rank as rank_ops

__all__ = [
    "AveragePrecision",
    "EvaluationResult",
    "Metric",
    "RankedLists",
    "evaluate",
    "evaluate_distances",
    "pool_images",
    "rank_list",
]

Metric = Literal["cosine", "euclidean"]
AveragePrecision = Literal["rectangular", "trapezoid"]
Features = Tensor | NDArray[Any]
Labels = Tensor | NDArray[Any] | Sequence[int]
Distances = Tensor | NDArray[Any] | Callable[[int, int], Tensor | NDArray[Any]]

JUNK = -1
DISTRACTOR = 0

_LAST = torch.iinfo(torch.int64).max  # key of what is left out: farther than everything
_GALLERY_CHUNK_VALUES = 1 << 20  # float64 values of the gallery converted at a time: 8 MiB
_RANKED_VALUES = 1 << 20  # distances ranked at a time: 8 MiB of int64 keys


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """Scores of a set of queries. All are shares in [0, 1], not per cent.

    Attributes:
        mAP: mean average precision over the counted queries. A query's average precision is the mean, over its right
            matches, of the precision at each (the "rectangular" form of torchreid and fast-reid), or, for the
            "trapezoid" of Market-1501's own script, of the mean of the precisions at it and at the place before it.
        cmc: float64 [max_rank]; `cmc[k-1]` is the share of counted queries with a right match among the first k. Where
            the gallery is shorter than `max_rank`, the rest repeats the last value (1, as all is then seen).
        mINP: mean inverse negative penalty (Ye et al., https://arxiv.org/abs/2001.04193): the number of right matches
            over the rank of the last one.
        average_precision: float64 [Q], of each query; NaN where it was not counted.
        first_hit_rank: int64 [Q], rank (from 1) of each query's first right match; 0 where it was not counted.
        num_valid_queries: how many queries were counted, those with at least one right match to find.
    """

    mAP: float
    cmc: NDArray[np.float64]
    mINP: float
    average_precision: NDArray[np.float64]
    first_hit_rank: NDArray[np.int64]
    num_valid_queries: int

    def rank(self, k: int) -> float:
        """The CMC at rank k, from 1: the share of queries with a right match among the first k."""
        if not 1 <= k <= len(self.cmc):
            raise ValueError(f"k must be in 1..{len(self.cmc)}, got {k}")
        return float(self.cmc[k - 1])

    def summary(self, ranks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
        """mAP, mINP and the CMC at `ranks` under the names "mAP", "mINP", "R1", ... for tables and JSON."""
        return {"mAP": self.mAP, "mINP": self.mINP, **{f"R{k}": self.rank(k) for k in ranks}}


class RankedLists(NamedTuple):
    """The nearest gallery items of each query; CPU tensors [Q, k].

    Attributes:
        indices: int64, places in the gallery, nearest first; -1 where fewer than k were left to rank.
        distances: float32; cosine distance 1 - cos, or Euclidean distance; NaN where `indices` is -1.
        matches: bool, whether it is the query's person.
    """

    indices: Tensor
    distances: Tensor
    matches: Tensor


class _Block(NamedTuple):
    """Some queries against the whole gallery."""

    start: int
    stop: int
    keys: Tensor  # int64 [b, G], all different within a row but for _LAST: order by (distance, index)
    matches: Tensor  # bool [b, G]: same person, not left out


def evaluate(
    query_features: Features,
    query_pids: Labels,
    query_camids: Labels,
    gallery_features: Features,
    gallery_pids: Labels,
    gallery_camids: Labels,
    *,
    metric: Metric = "cosine",
    max_rank: int = 50,
    average_precision: AveragePrecision = "rectangular",
    block_size: int | None = None,
) -> EvaluationResult:
    """Scores retrieval by the Market-1501 protocol; see the module for it.

    A query without any right match left in the gallery is not counted. Results do not depend on `block_size`.

    Args:
        query_features: [Q, D], a tensor or array of any floating (or integer) type.
        query_pids: [Q] integers, all above 0.
        query_camids: [Q] integers.
        gallery_features: [G, D], on the same device as the queries.
        gallery_pids: [G] integers; -1 is junk, left out; 0 is a distractor, that no query matches.
        gallery_camids: [G] integers.
        metric: "cosine" orders by 1 - cos (a zero vector is at distance 1 from all), "euclidean" by the distance.
        max_rank: length of the CMC curve, which may exceed G.
        average_precision: "rectangular", or "trapezoid" for the figures of Market-1501's own script.
        block_size: queries handled together, by default 2,048 on the CPU, where they take 4 * block_size * (D + 128)
            bytes for each thread, and 256 on other devices, where they take 4 * block_size * G bytes and more.

    Returns:
        The scores, on the CPU.

    Raises:
        TypeError: pids or camids are not integers.
        ValueError: wrong shapes, sizes that differ, mixed devices, features that are not finite, pids outside the
            protocol, an unknown metric or average precision, or no query with a right match.
    """
    _check_scores(max_rank, average_precision)
    inputs = _Inputs(
        query_features, query_pids, query_camids, gallery_features, gallery_pids, gallery_camids, metric, block_size
    )
    ranks, counts = _ranks_on_cpu(inputs) if inputs.query.device.type == "cpu" else _ranks_by_torch(inputs)
    return _score(ranks.numpy(), counts.numpy(), max_rank, average_precision)


def evaluate_distances(
    distances: Distances,
    query_pids: Labels,
    query_camids: Labels,
    gallery_pids: Labels,
    gallery_camids: Labels,
    *,
    max_rank: int = 50,
    average_precision: AveragePrecision = "rectangular",
    block_size: int = 256,
) -> EvaluationResult:
    """`evaluate` for given distances, such as re-ranked ones.

    Args:
        distances: float32 [Q, G], compared as they are (other types are cast to it); or a function that gives those of
            the queries start .. stop - 1, [stop - start, G], for `distances(start, stop)`, so that they are never all
            held.
        query_pids: [Q]; this and the following three as in `evaluate`.
        query_camids: [Q].
        gallery_pids: [G].
        gallery_camids: [G].
        max_rank: as in `evaluate`.
        average_precision: as in `evaluate`.
        block_size: queries asked of a function at a time.

    Raises:
        TypeError: as `evaluate`.
        ValueError: as `evaluate`; or distances of a wrong shape, or NaN.
    """
    _check_scores(max_rank, average_precision)
    if block_size < 1:
        raise ValueError(f"block_size must be at least 1, got {block_size}")
    labels = _Labels(query_pids, query_camids, gallery_pids, gallery_camids, None, None)
    shape = (len(labels.query_pids), len(labels.gallery_pids))
    if callable(distances):
        give = distances
    else:
        whole = distances if isinstance(distances, Tensor) else torch.from_numpy(np.asarray(distances))
        if whole.shape != shape:
            raise ValueError(f"distances must have shape [Q, G] = {list(shape)}, got {list(whole.shape)}")

        def give(start: int, stop: int) -> Tensor:
            return whole[start:stop]

    matches, left_out = labels.lists()
    junk = labels.gallery_pids == JUNK
    ranks = []
    for start in range(0, shape[0], block_size):
        stop = min(start + block_size, shape[0])
        given = give(start, stop)
        block = (given if isinstance(given, Tensor) else torch.from_numpy(np.asarray(given))).detach()
        if block.shape != (stop - start, shape[1]):
            raise ValueError(
                f"distances({start}, {stop}) must have shape {[stop - start, shape[1]]}, got {list(block.shape)}"
            )
        block = block.to(device="cpu", dtype=torch.float32)
        if bool(torch.isnan(block).any()):
            raise ValueError(f"distances must be numbers, got NaN in the rows {start}..{stop - 1}")
        ranks.append(rank_ops.rank_rows(block, junk, matches.of(start, stop), left_out.of(start, stop)))
    return _score(torch.cat(ranks).numpy(), matches.offsets.diff().numpy(), max_rank, average_precision)


def _check_scores(max_rank: int, average_precision: AveragePrecision) -> None:
    if max_rank < 1:
        raise ValueError(f"max_rank must be at least 1, got {max_rank}")
    if average_precision not in ("rectangular", "trapezoid"):
        raise ValueError(f'average_precision must be "rectangular" or "trapezoid", got {average_precision!r}')


def _score(
    ranks: NDArray[np.int64], counts: NDArray[np.int64], max_rank: int, average_precision: AveragePrecision
) -> EvaluationResult:
    """Scores from the ranks of all right matches, ascending for each query, and how many each query has."""
    num_queries = len(counts)
    counted = counts > 0
    num_valid = int(counted.sum())
    if num_valid == 0:
        raise ValueError(
            "no query has a right match: every gallery image of its pid is of the same camera, or there is none"
        )
    starts = (np.cumsum(counts) - counts)[counted]
    found = np.arange(1, len(ranks) + 1) - np.repeat(starts, counts[counted])  # right matches up to each
    precision = found / ranks
    if average_precision == "trapezoid":
        before = np.where(ranks > 1, (found - 1) / np.maximum(ranks - 1, 1), 1.0)
        precision = (precision + before) / 2
    each = np.full(num_queries, np.nan)
    each[counted] = np.add.reduceat(precision, starts) / counts[counted]
    first_hit = np.zeros(num_queries, np.int64)
    first_hit[counted] = ranks[starts]
    penalty = counts[counted] / ranks[starts + counts[counted] - 1]
    hits = np.bincount(np.minimum(first_hit[counted], max_rank + 1), minlength=max_rank + 2)[1 : max_rank + 1]
    return EvaluationResult(
        mAP=float(each[counted].mean()),
        cmc=np.cumsum(hits) / num_valid,
        mINP=float(penalty.mean()),
        average_precision=each,
        first_hit_rank=first_hit,
        num_valid_queries=num_valid,
    )


def pool_images(
    features: Features, pids: Labels, camids: Labels, *, reduce: Literal["mean", "max"] = "mean"
) -> tuple[Tensor, Tensor, Tensor]:
    """One feature for all images of a person by a camera: multiple-query evaluation (Zheng et al., section 5.1).

    Args:
        features: [N, D], finite.
        pids: [N] integers.
        camids: [N] integers.
        reduce: "mean" or "max" of each column.

    Returns:
        features float32 [M, D] (float64 if they were), pids int64 [M] and camids int64 [M] of the M pairs that occur,
        sorted by pid, then camid.

    Raises:
        TypeError: pids or camids are not integers.
        ValueError: wrong shapes, features that are not finite, or an unknown `reduce`.
    """
    if reduce not in ("mean", "max"):
        raise ValueError(f'reduce must be "mean" or "max", got {reduce!r}')
    rows = _for_op(_features("features", features))
    pairs = torch.stack((_labels("pids", pids, len(rows)), _labels("camids", camids, len(rows))), 1).to(rows.device)
    groups, place = torch.unique(pairs, dim=0, return_inverse=True)
    # Sorted by group and reduced one after the other: the same on every run, on every device.
    order = place.argsort(stable=True)
    lengths = torch.bincount(place, minlength=len(groups))
    pooled = torch.segment_reduce(rows.double()[order], reduce, lengths=lengths, axis=0).to(rows.dtype)
    return pooled, groups[:, 0].contiguous(), groups[:, 1].contiguous()


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
    """The k nearest gallery items of each query, with what the protocol leaves out left out.

    The order is that of `evaluate`. Every query is listed, also one without a right match.

    Args:
        query_features: [Q, D]; this and the following five as in `evaluate`.
        query_pids: [Q].
        query_camids: [Q].
        gallery_features: [G, D].
        gallery_pids: [G].
        gallery_camids: [G].
        k: how many to list.
        metric: as in `evaluate`.
        block_size: as in `evaluate`.

    Returns:
        Indices, distances and matches, each [Q, k] on the CPU.

    Raises:
        TypeError: as `evaluate`.
        ValueError: as `evaluate`, but for queries without a match; or k < 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    inputs = _Inputs(
        query_features, query_pids, query_camids, gallery_features, gallery_pids, gallery_camids, metric, block_size
    )
    num_queries, shown = len(inputs.query), min(k, len(inputs.gallery))
    indices = torch.full((num_queries, k), -1, dtype=torch.int64)
    distances = torch.full((num_queries, k), torch.nan, dtype=torch.float32)
    matches = torch.zeros((num_queries, k), dtype=torch.bool)
    for block in inputs.blocks():
        keys, columns = block.keys.topk(shown, dim=1, largest=False, sorted=True)
        listed = (keys != _LAST).cpu()
        rows = slice(block.start, block.stop)
        indices[rows, :shown] = torch.where(listed, columns.cpu(), -1)
        distances[rows, :shown] = torch.where(listed, inputs.distances(block, columns).float().cpu(), torch.nan)
        matches[rows, :shown] = block.matches.gather(1, columns).cpu() & listed
    return RankedLists(indices, distances, matches)


class _Labels:
    """Checked labels, on the CPU."""

    def __init__(
        self,
        query_pids: Labels,
        query_camids: Labels,
        gallery_pids: Labels,
        gallery_camids: Labels,
        queries: int | None,
        gallery: int | None,
    ) -> None:
        self.query_pids = _labels("query_pids", query_pids, queries)
        self.query_camids = _labels("query_camids", query_camids, len(self.query_pids))
        self.gallery_pids = _labels("gallery_pids", gallery_pids, gallery)
        self.gallery_camids = _labels("gallery_camids", gallery_camids, len(self.gallery_pids))
        if int(self.query_pids.min()) <= DISTRACTOR:
            raise ValueError(
                "query_pids must be above 0 (-1 is junk and 0 a distractor, which are no queries), "
                f"got {int(self.query_pids.min())}"
            )
        if int(self.gallery_pids.min()) < JUNK:
            raise ValueError(
                f"gallery_pids must be -1 (junk), 0 (distractor) or above, got {int(self.gallery_pids.min())}"
            )

    def lists(self) -> tuple[rank_ops.Lists, rank_ops.Lists]:
        """Of each query the right matches, and the images of its person by its own camera, which are left out."""
        order = self.gallery_pids.argsort(stable=True)
        sorted_pids = self.gallery_pids[order]
        start = torch.searchsorted(sorted_pids, self.query_pids)
        counts = torch.searchsorted(sorted_pids, self.query_pids, right=True) - start
        query = torch.repeat_interleave(torch.arange(len(counts)), counts)
        step = torch.arange(len(query)) - (counts.cumsum(0) - counts)[query]
        items = order[start[query] + step]
        own = self.gallery_camids[items] == self.query_camids[query]
        matches, left_out = (
            rank_ops.Lists(
                torch.nn.functional.pad(torch.bincount(query[kept], minlength=len(counts)).cumsum(0), (1, 0)),
                items[kept],
            )
            for kept in (~own, own)
        )
        return matches, left_out


class _Inputs:
    """Checked inputs, and the blocks of ordered queries, in float64, for other devices and for lists."""

    def __init__(
        self,
        query_features: Features,
        query_pids: Labels,
        query_camids: Labels,
        gallery_features: Features,
        gallery_pids: Labels,
        gallery_camids: Labels,
        metric: Metric,
        block_size: int | None,
    ) -> None:
        if metric not in ("cosine", "euclidean"):
            raise ValueError(f'metric must be "cosine" or "euclidean", got {metric!r}')
        if block_size is not None and block_size < 1:
            raise ValueError(f"block_size must be at least 1, got {block_size}")
        self.metric = metric
        self.block_size = block_size
        self.query = _features("query_features", query_features)
        self.gallery = _features("gallery_features", gallery_features)
        if self.query.shape[1] != self.gallery.shape[1]:
            raise ValueError(
                "query_features and gallery_features must have the same number of columns, "
                f"got {self.query.shape[1]} and {self.gallery.shape[1]}"
            )
        if self.query.device != self.gallery.device:
            raise ValueError(
                "query_features and gallery_features must be on one device, "
                f"got {self.query.device} and {self.gallery.device}"
            )
        self.labels = _Labels(
            query_pids, query_camids, gallery_pids, gallery_camids, len(self.query), len(self.gallery)
        )
        self.rows_per_chunk = max(1, _GALLERY_CHUNK_VALUES // self.gallery.shape[1])

    def blocks(self) -> Iterator[_Block]:
        """The queries in order, a few at a time, each against the whole gallery."""
        # Only the order matters for Euclidean distances; a power of two keeps float32 from overflowing, exactly.
        largest = max(float(self.query.abs().max()), float(self.gallery.abs().max()))
        self.scale = 2.0 ** -int(np.frexp(largest)[1]) if self.metric == "euclidean" and largest > 0 else 1.0
        self.gallery_squares = torch.cat([chunk.square().sum(1) for _, chunk in self._gallery_chunks()])
        device = self.query.device
        column = torch.arange(len(self.gallery), device=device)
        query_pids, query_camids = self.labels.query_pids.to(device), self.labels.query_camids.to(device)
        gallery_pids, gallery_camids = self.labels.gallery_pids.to(device), self.labels.gallery_camids.to(device)
        junk = gallery_pids == JUNK
        step = max(1, _RANKED_VALUES // len(self.gallery))
        block_size = self.block_size or 256
        for outer in range(0, len(self.query), block_size):
            outer_stop = min(outer + block_size, len(self.query))
            closeness = self._closeness(outer, outer_stop)
            for start in range(outer, outer_stop, step):
                stop = min(start + step, outer_stop)
                same = query_pids[start:stop, None] == gallery_pids
                left_out = query_camids[start:stop, None] == gallery_camids
                left_out.logical_and_(same).logical_or_(junk)
                keys = _sortable(closeness[start - outer : stop - outer]).to(torch.int64)
                keys.mul_(1 << 32).add_(column).masked_fill_(left_out, _LAST)
                yield _Block(start, stop, keys, same.logical_and_(left_out.logical_not_()))

    def _gallery_chunks(self) -> Iterator[tuple[slice, Tensor]]:
        for start in range(0, len(self.gallery), self.rows_per_chunk):
            rows = slice(start, min(start + self.rows_per_chunk, len(self.gallery)))
            yield rows, self._scaled(self.gallery[rows])

    def _scaled(self, features: Tensor) -> Tensor:
        wide = features.to(torch.float64, copy=self.scale != 1)
        return wide.mul_(self.scale) if self.scale != 1 else wide

    def _closeness(self, start: int, stop: int) -> Tensor:
        """float32 [b, G], lower is closer; for each query an increasing function of the distance."""
        query = self._scaled(self.query[start:stop])
        if self.metric == "cosine":  # a row's power of two keeps its order, exactly, and fits float32
            query = query * torch.exp2(-query.square().sum(1, keepdim=True).sqrt().frexp().exponent.double())
        result = torch.empty((stop - start, len(self.gallery)), dtype=torch.float32, device=query.device)
        for columns, chunk in self._gallery_chunks():
            dot = query @ chunk.T
            squares = self.gallery_squares[columns]
            # The query's own norm does not change its order. A zero vector's dot product is 0, as its cosine shall be.
            if self.metric == "cosine":
                result[:, columns] = dot.div_(torch.where(squares > 0, squares.sqrt(), 1.0).neg_())
            else:
                result[:, columns] = dot.mul_(-2).add_(squares)
        return result

    def distances(self, block: _Block, columns: Tensor) -> Tensor:
        """float64 [b, k]: distances of the block's queries to the gallery items `columns` [b, k]."""
        out = torch.empty(columns.shape, dtype=torch.float64, device=columns.device)
        for row, items in enumerate(columns):
            query = self.query[block.start + row].double()
            others = self.gallery[items].double()
            if self.metric == "euclidean":
                out[row] = (others - query).square().sum(1).sqrt()
            else:
                product = query.square().sum().sqrt() * others.square().sum(1).sqrt()
                out[row] = 1 - torch.where(product > 0, (others @ query) / product, 0.0)
        return out


def _ranks_on_cpu(inputs: _Inputs) -> tuple[Tensor, Tensor]:
    """The ranks of all right matches, int64, one query after the other, and how many each query has, int64 [Q]."""
    matches, left_out = inputs.labels.lists()
    ranks = rank_ops.rank_matches(
        _for_op(inputs.query),
        _for_op(inputs.gallery),
        inputs.labels.gallery_pids == JUNK,
        matches,
        left_out,
        cosine=inputs.metric == "cosine",
        block=min(inputs.block_size or rank_ops.MAX_BLOCK, rank_ops.MAX_BLOCK),
    )
    return ranks, matches.offsets.diff()


def _ranks_by_torch(inputs: _Inputs) -> tuple[Tensor, Tensor]:
    """The same on any device, in float64."""
    found = [_match_ranks(block) for block in inputs.blocks()]
    ranks, counts = (torch.cat(parts).cpu() for parts in zip(*found, strict=True))
    return ranks, counts


def _match_ranks(block: _Block) -> tuple[Tensor, Tensor]:
    """The ranks, from 1 and ascending, of each query's matches, one query after the other, and how many each has.

    Ranks come from counting, with no sort of the gallery: each key is placed among the sorted keys of the matches (a
    few steps of bisection), and the sizes of these intervals, summed up, are the ranks.
    """
    keys, device = block.keys, block.keys.device
    num_queries = len(keys)
    counts = block.matches.sum(1)
    most = int(counts.max())
    if most == 0:
        return torch.zeros(0, dtype=torch.int64, device=device), counts
    rows, columns = block.matches.nonzero(as_tuple=True)
    slots = torch.arange(len(rows), device=device) - (counts.cumsum(0) - counts)[rows]
    targets = torch.full((num_queries, most), _LAST, dtype=torch.int64, device=device)
    targets[rows, slots] = keys[rows, columns]
    targets = targets.sort(dim=1).values
    interval = torch.searchsorted(targets, keys)  # first match at or behind each item
    # What is left out has the key _LAST, and so falls at or behind a row's end: it is never counted before a match.
    interval += torch.arange(num_queries, device=device)[:, None] * (most + 1)
    sizes = torch.bincount(interval.flatten(), minlength=num_queries * (most + 1)).view(num_queries, most + 1)
    return sizes[:, :most].cumsum(1)[targets != _LAST], counts


def _for_op(features: Tensor) -> Tensor:
    """float32 or float64, exactly: float64 for integers."""
    if features.dtype in (torch.float32, torch.float64):
        return features.contiguous()
    return features.to(torch.float32 if features.is_floating_point() else torch.float64).contiguous()


def _sortable(values: Tensor) -> Tensor:
    """int32 in the order of the float32 `values`, equal where they are equal (also 0.0 and -0.0)."""
    bits = (values + 0.0).view(torch.int32)
    return (bits >> 31).bitwise_and_(0x7FFFFFFF).bitwise_xor_(bits)


def _features(name: str, values: Features) -> Tensor:
    tensor = values.detach() if isinstance(values, Tensor) else torch.from_numpy(np.ascontiguousarray(values))
    if tensor.dim() != 2 or tensor.shape[0] == 0 or tensor.shape[1] == 0:
        raise ValueError(f"{name} must have shape [N, D] with N, D >= 1, got {list(tensor.shape)}")
    if tensor.dtype == torch.bool or tensor.is_complex():
        raise TypeError(f"{name} must be real numbers, got {tensor.dtype}")
    # A sum that is finite, as it nearly always is, has no term that is not, and is much faster to look at.
    if not bool(torch.isfinite(tensor.sum())) and not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return tensor


def _labels(name: str, values: Labels, count: int | None) -> Tensor:
    tensor = values if isinstance(values, Tensor) else torch.from_numpy(np.asarray(values))
    if tensor.dtype == torch.bool or tensor.is_floating_point() or tensor.is_complex():
        raise TypeError(f"{name} must be integers, got {tensor.dtype}")
    if tensor.dim() != 1 or len(tensor) == 0 or (count is not None and len(tensor) != count):
        shape = "[N] with N >= 1" if count is None else f"[{count}], one for each feature"
        raise ValueError(f"{name} must have shape {shape}, got {list(tensor.shape)}")
    return tensor.to(device="cpu", dtype=torch.int64).contiguous()
