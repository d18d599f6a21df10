"""Re-identification scores by the Market-1501 protocol: mAP, CMC and mINP.

The protocol (Zheng et al., "Scalable Person Re-identification: A Benchmark", ICCV 2015): for each query, the gallery is
sorted by distance. Images of the query's person by the query's own camera are left out, and so is junk (pid -1). Images
of other people, and distractors (pid 0), count as wrong.

Distances are ordered as if computed in float64 and compared as float32, so mathematically equal distances stay equal.
Ties are broken by the gallery index: the lower index ranks first. The whole distance matrix is never stored, and only
each query's right matches are sorted.

On the CPU, a float32 product with a known error bound ranks most items, and the few others are computed in float64
(`csrc/rank.h`). Ranks are exact: the number of threads, the block size and the processor do not change them. On other
devices PyTorch computes blocks in float64, with sums in the device's order. Two items can swap ranks there only if
their float64 distances agree to 15 digits but round to different float32 values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsa_fast.evaluation.checks import (
    JUNK,
    CheckedLabels,
    Features,
    Labels,
    Metric,
    as_real,
    check_features,
    check_labels,
)
from dsa_fast.evaluation.ordering import LAST, Block, OrderedGallery
from dsa_fast.evaluation.visibility import PartVisibility, VisibleDistances
from dsa_fast.ops import rank as rank_ops

__all__ = ["AveragePrecision", "EvaluationResult", "evaluate", "evaluate_distances", "pool_images"]

AveragePrecision = Literal["rectangular", "trapezoid"]
Distances = Tensor | NDArray[Any] | Callable[[int, int], Tensor | NDArray[Any]]


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """Scores of a set of queries. All are shares in [0, 1], not percent.

    Attributes:
        mAP: mean average precision over the counted queries. A query's average precision is the mean, over its right
            matches, of the precision at each (the "rectangular" form of torchreid and fast-reid), or, for the
            "trapezoid" of Market-1501's own script, of the mean of the precisions at it and at the place before it.
        cmc: float64 [max_rank]; `cmc[k-1]` is the share of counted queries with a right match among the first k. If
            the gallery is shorter than `max_rank`, the rest repeats the last value (1, because all matches are found).
        mINP: mean inverse negative penalty (Ye et al., https://arxiv.org/abs/2001.04193): the number of right matches
            over the rank of the last one.
        average_precision: float64 [Q], per query; NaN for queries that are not counted.
        first_hit_rank: int64 [Q], rank (from 1) of each query's first right match; 0 for queries that are not counted.
        num_valid_queries: number of counted queries, which have at least one right match.
    """

    mAP: float
    cmc: NDArray[np.float64]
    mINP: float
    average_precision: NDArray[np.float64]
    first_hit_rank: NDArray[np.int64]
    num_valid_queries: int

    def rank(self, k: int) -> float:
        """Returns the CMC at rank k, from 1: the share of queries with a right match among the first k."""
        if not 1 <= k <= len(self.cmc):
            raise ValueError(f"k must be in 1..{len(self.cmc)}, got {k}")
        return float(self.cmc[k - 1])

    def summary(self, ranks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
        """Returns mAP, mINP and the CMC at `ranks` as "mAP", "mINP", "R1", ... for tables and JSON."""
        return {"mAP": self.mAP, "mINP": self.mINP, **{f"R{k}": self.rank(k) for k in ranks}}


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
    visibility: PartVisibility | None = None,
) -> EvaluationResult:
    """Scores retrieval by the Market-1501 protocol (see the module).

    A query without a right match in the gallery is not counted. Results do not depend on `block_size`.

    Args:
        query_features: [Q, D], a tensor or array of any floating (or integer) type.
        query_pids: [Q] integers, all above 0.
        query_camids: [Q] integers. Or [Q, C], with `gallery_camids` [G, C]: images that are equal in any column, such
            as camera and clothes, are left out like those by one camera.
        gallery_features: [G, D], on the same device as the queries.
        gallery_pids: [G] integers; -1 is junk, which is left out; 0 is a distractor, which matches no query.
        gallery_camids: [G] or [G, C] integers.
        metric: "cosine" sorts by 1 - cos (a zero vector has distance 1 to all), "euclidean" by the distance.
        max_rank: length of the CMC curve; it may exceed G.
        average_precision: "rectangular", or "trapezoid" for the numbers of Market-1501's own script.
        block_size: number of queries processed together. By default it is 2,048 on the CPU, which takes
            4 * block_size * (D + 128) bytes per thread, and 256 on other devices, which takes at least
            4 * block_size * G bytes.
        visibility: of each part of queries and gallery. Distances are then those of `VisibleDistances`: parts that are
            seen on both sides count. Blocks then have 256 queries by default.

    Returns:
        The scores, on the CPU.

    Raises:
        TypeError: pids or camids are not integers.
        ValueError: wrong shapes, sizes that differ, mixed devices, features that are not finite, pids outside the
            protocol, an unknown metric or average precision, or no query with a right match.
    """
    _check_scores(max_rank, average_precision)
    if visibility is not None:
        if metric != "cosine":
            raise ValueError(f"metric must be cosine with visibility, got {metric}")
        distances = VisibleDistances(query_features, gallery_features, visibility)
        CheckedLabels(query_pids, query_camids, gallery_pids, gallery_camids, *distances.shape)
        return evaluate_distances(
            distances,
            query_pids,
            query_camids,
            gallery_pids,
            gallery_camids,
            max_rank=max_rank,
            average_precision=average_precision,
            block_size=256 if block_size is None else block_size,
        )
    inputs = OrderedGallery(
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
    """Scores existing distances, such as re-ranked ones, like `evaluate`.

    Args:
        distances: float32 [Q, G] (other types are cast to it). It can also be a function, so the whole matrix is never
            stored: `distances(start, stop)` returns those of the queries start .. stop - 1, [stop - start, G].
        query_pids: [Q]; this and the following three, to gallery_camids [G], as in `evaluate`.
        max_rank: as in `evaluate`.
        average_precision: as in `evaluate`.
        block_size: number of queries per call of the function.

    Raises:
        TypeError: as in `evaluate`.
        ValueError: as in `evaluate`; or distances have a wrong shape or NaN.
    """
    _check_scores(max_rank, average_precision)
    if block_size < 1:
        raise ValueError(f"block_size must be at least 1, got {block_size}")
    labels = CheckedLabels(query_pids, query_camids, gallery_pids, gallery_camids, None, None)
    shape = (len(labels.query_pids), len(labels.gallery_pids))
    if not callable(distances):
        distances = distances if isinstance(distances, Tensor) else torch.from_numpy(np.asarray(distances))
        if distances.shape != shape:
            raise ValueError(f"distances must have shape [Q, G] = {list(shape)}, got {list(distances.shape)}")
    matches, left_out = labels.lists()
    junk = labels.gallery_pids == JUNK
    ranks = []
    for start in range(0, shape[0], block_size):
        stop = min(start + block_size, shape[0])
        given = distances(start, stop) if callable(distances) else distances[start:stop]
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
    """Computes scores from the ranks of all right matches, ascending for each query, and their number per query."""
    num_queries = len(counts)
    counted = counts > 0
    num_valid = int(counted.sum())
    if num_valid == 0:
        raise ValueError(
            "no query has a right match: every gallery image of its pid is by the same camera, or there is none"
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
    """Pools the features of all images of a person by a camera, for multi-query tests (Zheng et al., section 5.1).

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
    rows = as_real(check_features("features", features))
    pairs = torch.stack((check_labels("pids", pids, len(rows)), check_labels("camids", camids, len(rows))), 1).to(
        rows.device
    )
    groups, place = torch.unique(pairs, dim=0, return_inverse=True)
    # Sorted by group and reduced in order, so the result is the same on every run and device.
    order = place.argsort(stable=True)
    lengths = torch.bincount(place, minlength=len(groups))
    pooled = torch.segment_reduce(rows.double()[order], reduce, lengths=lengths, axis=0).to(rows.dtype)
    return pooled, groups[:, 0].contiguous(), groups[:, 1].contiguous()


def _ranks_on_cpu(inputs: OrderedGallery) -> tuple[Tensor, Tensor]:
    """Returns the ranks of all right matches, int64, query by query, and their number per query, int64 [Q]."""
    matches, left_out = inputs.labels.lists()
    ranks = rank_ops.rank_matches(
        as_real(inputs.query),
        as_real(inputs.gallery),
        inputs.labels.gallery_pids == JUNK,
        matches,
        left_out,
        cosine=inputs.metric == "cosine",
        block=min(inputs.block_size or rank_ops.MAX_BLOCK, rank_ops.MAX_BLOCK),
    )
    return ranks, matches.offsets.diff()


def _ranks_by_torch(inputs: OrderedGallery) -> tuple[Tensor, Tensor]:
    """Does the same on any device, in float64."""
    found = [_match_ranks(block) for block in inputs.blocks()]
    ranks, counts = (torch.cat(parts).cpu() for parts in zip(*found, strict=True))
    return ranks, counts


def _match_ranks(block: Block) -> tuple[Tensor, Tensor]:
    """Returns the ranks of each query's matches, from 1 and ascending, query by query, and their number per query.

    The ranks are counted, without sorting the gallery: each key is placed among the sorted keys of the matches (a
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
    targets = torch.full((num_queries, most), LAST, dtype=torch.int64, device=device)
    targets[rows, slots] = keys[rows, columns]
    targets = targets.sort(dim=1).values
    interval = torch.searchsorted(targets, keys)  # first match at or after each item
    # Left-out items have the key LAST and so fall at or after a row's end: they are never counted before a match.
    interval += torch.arange(num_queries, device=device)[:, None] * (most + 1)
    sizes = torch.bincount(interval.flatten(), minlength=num_queries * (most + 1)).view(num_queries, most + 1)
    return sizes[:, :most].cumsum(1)[targets != LAST], counts
