"""Optional steps after a first ranking: k-reciprocal re-ranking and query expansion. Both are off by default.

Both use all queries and the gallery at once, which a search in production cannot do. Scores with and without them are
not comparable.

k-reciprocal re-ranking is that of Zhong et al., "Re-ranking Person Re-identification with k-reciprocal Encoding",
CVPR 2017 (https://arxiv.org/abs/1701.08398), on squared Euclidean distances, as in the authors' code. It
never stores a matrix of all pairs of images: the encodings are sparse, and distances are computed for one block of
queries at a time. Query expansion is that of Chum et al., "Total Recall", ICCV 2007 (average), and of Radenovic et al.,
https://arxiv.org/abs/1711.02512, section 3.2 (weighted by the similarity to the power of alpha).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dsa_fast.evaluation.checks import Features, Metric, as_real, check_feature_pair, check_metric
from dsa_fast.evaluation.ordering import sortable
from dsa_fast.ops import rank as rank_ops

__all__ = ["KReciprocal", "expand_queries", "k_reciprocal"]

_ROWS = 256  # images looked at together
_VALUES = 1 << 22  # values of an intermediate result


class _Sparse(NamedTuple):
    """Rows of non-negative weights; entries of row i are those offsets[i] .. offsets[i + 1] - 1, columns ascending."""

    offsets: Tensor  # int64 [N + 1]
    columns: Tensor  # int64 [E]
    weights: Tensor  # float32 [E]


class KReciprocal:
    """Re-ranked distances, float32, for `evaluate_distances(reranked, ...)`. `k_reciprocal` makes it.

    `reranked(start, stop)` returns those of the queries start .. stop - 1 to the whole gallery, [stop - start, G].
    """

    def __init__(
        self, features: Tensor, num_queries: int, farthest: Tensor, encoding: _Sparse, lambda_value: float
    ) -> None:
        self.num_queries = num_queries
        self.num_gallery = len(features) - num_queries
        self._features = features
        self._squares = torch.cat([part.double().square().sum(1).float() for part in features.split(_ROWS)])
        self._farthest = farthest
        self._lambda = lambda_value
        self._encoding = encoding
        # The gallery's encodings by column.
        first = encoding.offsets[num_queries]
        rows = _rows_of(encoding.offsets)[first:] - num_queries
        columns, order = encoding.columns[first:].sort(stable=True)
        self._inverse_rows = rows[order]
        self._inverse_weights = encoding.weights[first:][order]
        self._inverse_offsets = _offsets(torch.bincount(columns, minlength=len(features)))

    def __call__(self, start: int, stop: int) -> Tensor:
        """Returns the distances of some queries to the gallery.

        Args:
            start: the first query.
            stop: one past the last query.

        Returns:
            float32 [stop - start, G], in 0..1 for the usual lambda_value.

        Raises:
            ValueError: the range is not within the queries.
        """
        if not 0 <= start <= stop <= self.num_queries:
            raise ValueError(f"start and stop must be in 0..{self.num_queries}, ascending, got {start} and {stop}")
        out = torch.empty((stop - start, self.num_gallery), dtype=torch.float32, device=self._features.device)
        # The steps of the product do not depend on the caller's block, so its bits do not either.
        for group in range(start // _ROWS * _ROWS, stop, _ROWS):
            low, high = max(group, start), min(group + _ROWS, stop)
            original = self._original(group, min(group + _ROWS, self.num_queries))[low - group : high - group]
            shared = self._shared(low, high)
            jaccard = 1 - shared / (2 - shared)
            out[low - start : high - start] = jaccard * (1 - self._lambda) + original * self._lambda
        return out

    def _original(self, start: int, stop: int) -> Tensor:
        """Returns the squared distances, divided by each query's largest to any image."""
        gallery = self._features[self.num_queries :]
        product = self._features[start:stop] @ gallery.T
        squared = self._squares[start:stop, None] + self._squares[self.num_queries :] - 2 * product
        return squared.clamp_(min=0).div_(self._farthest[start:stop, None])

    def _shared(self, start: int, stop: int) -> Tensor:
        """Returns the sum over all columns of the smaller of a query's and a gallery image's weight."""
        out = torch.zeros((stop - start, self.num_gallery), dtype=torch.float32, device=self._features.device)
        flat = out.view(-1)
        row_of = _rows_of(self._encoding.offsets[start : stop + 1])
        first = int(self._encoding.offsets[start])
        begin, end = first, int(self._encoding.offsets[stop])
        columns = self._encoding.columns[begin:end]
        lengths = self._inverse_offsets[columns + 1] - self._inverse_offsets[columns]
        total = lengths.cumsum(0)
        at = 0
        while at < len(columns):
            done = int(total[at - 1]) if at else 0
            to = max(at + 1, int(torch.searchsorted(total, done + _VALUES, right=True)))
            entry, inverse = _expand(self._inverse_offsets[columns[at:to]], lengths[at:to])
            weights = torch.minimum(
                self._encoding.weights[first + at : first + to][entry], self._inverse_weights[inverse]
            )
            flat.index_add_(0, row_of[at:to][entry] * self.num_gallery + self._inverse_rows[inverse], weights)
            at = to
        return out


def k_reciprocal(
    query_features: Features,
    gallery_features: Features,
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    metric: Metric = "cosine",
) -> KReciprocal:
    """Re-ranks by k-reciprocal neighbors. `evaluate_distances(result, query_pids, ...)` scores the result.

    Neighbors at equal distance are sorted by their index, queries first. On the CPU the neighbors are exact. The
    encoding takes 20 bytes for each of its weights (about 130 per image), in addition to a copy of the features.

    Args:
        query_features: [Q, D], a tensor or array.
        gallery_features: [G, D], on the same device.
        k1: number of nearest neighbors from which k-reciprocal neighbors are chosen; below Q + G.
        k2: number of neighbors whose encodings are averaged; 1 uses only the image's own.
        lambda_value: weight of the original distance, in [0, 1].
        metric: "cosine" divides features by their length first; the distance is the squared Euclidean distance.

    Raises:
        ValueError: wrong shapes, mixed devices, features that are not finite, or a parameter out of range.
    """
    query, gallery = (as_real(part) for part in check_feature_pair(query_features, gallery_features))
    count = len(query) + len(gallery)
    if not 1 <= k1 < count:
        raise ValueError(f"k1 must be in 1..{count - 1}, below the number of images, got {k1}")
    if not 1 <= k2 <= k1 + 1:
        raise ValueError(f"k2 must be in 1..k1 + 1 = {k1 + 1}, got {k2}")
    if not 0 <= lambda_value <= 1:
        raise ValueError(f"lambda_value must be in [0, 1], got {lambda_value}")
    check_metric(metric)
    num_queries = len(query)
    features = torch.empty((count, query.shape[1]), dtype=torch.float32, device=query.device)
    scale = 1.0
    if metric == "euclidean":  # distances are relative: a power of two only keeps them from overflowing
        largest = max(float(part.abs().max()) for half in (query, gallery) for part in half.split(4096))
        exponent = int(torch.frexp(torch.tensor(largest, dtype=torch.float64)).exponent) if largest > 0 else 0
        scale = 2.0 ** -max(-1000, min(1000, exponent))
    for half, begin in ((query, 0), (gallery, num_queries)):
        for start in range(0, len(half), _ROWS):
            rows = half[start : start + _ROWS].double()
            rows = _unit(rows) if metric == "cosine" else rows * scale
            features[begin + start : begin + start + len(rows)] = rows
    neighbours, last = _nearest(features, features, k1 + 1)
    everyone = torch.arange(count, device=features.device)
    farthest = _squared_distances(features, everyone, last).clamp(min=1e-30)
    encoding = _encode(features, neighbours, farthest, k1)
    if k2 > 1:
        encoding = _average(encoding, neighbours[:, :k2])
    return KReciprocal(features, num_queries, farthest.float(), encoding, lambda_value)


def expand_queries(query_features: Features, gallery_features: Features, *, k: int = 10, alpha: float = 3.0) -> Tensor:
    """Expands queries: each becomes a weighted mean of itself and its k gallery images with the largest cosine.

    All vectors are scaled to unit length. The query's weight is 1, an image's is its cosine with the query (0 where
    that is negative) to the power of alpha.

    Args:
        query_features: [Q, D], a tensor or array.
        gallery_features: [G, D], on the same device.
        k: number of images, in 1..G.
        alpha: 0 gives equal weights (average query expansion).

    Returns:
        float32 [Q, D], of unit length, for `evaluate` in place of the queries.

    Raises:
        ValueError: wrong shapes, mixed devices, features that are not finite, or a parameter out of range.
    """
    query, gallery = (as_real(part) for part in check_feature_pair(query_features, gallery_features))
    if not 1 <= k <= len(gallery):
        raise ValueError(f"k must be in 1..{len(gallery)}, got {k}")
    if not alpha >= 0:
        raise ValueError(f"alpha must be at least 0, got {alpha}")
    unit = torch.cat([_unit(part.double()).float() for part in gallery.split(4096)])
    out = torch.empty(query.shape, dtype=torch.float32, device=query.device)
    own = torch.cat([_unit(part.double()).float() for part in query.split(4096)])
    items, _ = _nearest(own, unit, k)
    step = max(1, _VALUES // (k * query.shape[1]))
    for start in range(0, len(query), step):
        me = own[start : start + step].double()
        near = unit[items[start : start + step]].double()  # [b, k, D]
        cosine = (near * me[:, None]).sum(2).clamp(min=0)
        weights = torch.ones_like(cosine) if alpha == 0 else cosine**alpha
        out[start : start + step] = _unit(me + (weights[..., None] * near).sum(1))
    return out


def _unit(rows: Tensor) -> Tensor:
    """Scales float64 rows to length 1; rows of zeros stay. A power of two first keeps squares from overflowing."""
    exponent = torch.frexp(rows.abs().amax(1, keepdim=True)).exponent.clamp(-1000, 1000)
    return torch.nn.functional.normalize(torch.ldexp(rows, -exponent), eps=1e-300)


def _nearest(query: Tensor, gallery: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Returns the k nearest rows by Euclidean distance, int64 [Q, k], and the farthest, [Q]; ties by their index."""
    if query.device.type == "cpu":
        return rank_ops.nearest(query, gallery, k, cosine=False)
    return _nearest_torch(query, gallery, k)


def _nearest_torch(query: Tensor, gallery: Tensor, k: int) -> tuple[Tensor, Tensor]:
    column = torch.arange(len(gallery), device=gallery.device)
    squares = torch.cat([part.double().square().sum(1) for part in gallery.split(_ROWS)])
    near, far = [], []
    for rows in query.split(_ROWS):
        order = torch.empty((len(rows), len(gallery)), dtype=torch.float32, device=gallery.device)
        step = max(1, _VALUES // gallery.shape[1])
        for start in range(0, len(gallery), step):
            part = slice(start, start + step)
            order[:, part] = squares[part] - 2 * (rows.double() @ gallery[part].double().T)
        keys = sortable(order).to(torch.int64).mul_(1 << 32).add_(column)
        near.append(keys.topk(k, dim=1, largest=False, sorted=True).indices)
        far.append(order.argmax(1))
    return torch.cat(near), torch.cat(far)


def _squared_distances(features: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """float64 [n], of pairs of rows."""
    if features.device.type == "cpu":
        return rank_ops.pair_distances(features, features, rows, columns, cosine=False)
    step = max(1, _VALUES // features.shape[1])
    return torch.cat(
        [
            (features[a].double() - features[b].double()).square().sum(1)
            for a, b in zip(rows.split(step), columns.split(step), strict=True)
        ]
    )


def _reciprocal(neighbours: Tensor, k: int) -> Tensor:
    """Returns whether an image is among the first k of its a-th neighbor, bool [N, k]."""
    near = neighbours[:, :k]
    parts = []
    for start in range(0, len(near), _ROWS):
        block = near[start : start + _ROWS]
        me = torch.arange(start, start + len(block), device=near.device)[:, None, None]
        parts.append((near[block] == me).any(2))
    return torch.cat(parts)


def _encode(features: Tensor, neighbours: Tensor, farthest: Tensor, k1: int) -> _Sparse:
    """Returns the weights of each image's expanded k-reciprocal neighbors, sections 3.2 and 3.3."""
    count, half = len(features), round(k1 / 2) + 1
    mutual, half_mutual = _reciprocal(neighbours, k1 + 1), _reciprocal(neighbours, half)
    lengths, columns = [], []
    for start in range(0, count, _ROWS):
        near, is_mutual = neighbours[start : start + _ROWS], mutual[start : start + _ROWS]  # [b, k1 + 1]
        brought = neighbours[near][:, :, :half]  # [b, k1 + 1, half]
        is_brought = half_mutual[near] & is_mutual[:, :, None]
        known = torch.where(is_mutual, near, -1)
        common = ((brought[..., None] == known[:, None, None, :]).any(3) & is_brought).sum(2)
        is_brought &= (3 * common > 2 * is_brought.sum(2))[:, :, None]
        chosen = (
            torch.cat((torch.where(is_mutual, near, count), torch.where(is_brought, brought, count).flatten(1)), 1)
            .sort(1)
            .values
        )
        kept = chosen < count
        kept[:, 1:] &= chosen[:, 1:] != chosen[:, :-1]
        lengths.append(kept.sum(1))
        columns.append(chosen[kept])
    offsets, column = _offsets(torch.cat(lengths)), torch.cat(columns)
    row = _rows_of(offsets)
    weights = torch.exp(-(_squared_distances(features, row, column) / farthest[row]))
    sums = torch.segment_reduce(weights, "sum", offsets=offsets, axis=0)
    return _Sparse(offsets, column, (weights / sums[row]).float())


def _average(encoding: _Sparse, neighbours: Tensor) -> _Sparse:
    """Returns the mean of the encodings of each image's neighbors (the first is the image itself), section 3.4."""
    count, k2 = neighbours.shape
    lengths, columns, weights = [], [], []
    for start in range(0, count, _ROWS):
        rows = neighbours[start : start + _ROWS]
        begin = encoding.offsets[rows.flatten()]
        entry, index = _expand(begin, encoding.offsets[rows.flatten() + 1] - begin)
        keys, order = (entry // k2 * count + encoding.columns[index]).sort(stable=True)
        keys, same = torch.unique_consecutive(keys, return_counts=True)
        sums = torch.segment_reduce(encoding.weights[index][order].double(), "sum", lengths=same, axis=0)
        lengths.append(torch.bincount(keys // count, minlength=len(rows)))
        columns.append(keys % count)
        weights.append((sums / k2).float())
    return _Sparse(_offsets(torch.cat(lengths)), torch.cat(columns), torch.cat(weights))


def _offsets(lengths: Tensor) -> Tensor:
    return torch.nn.functional.pad(lengths.cumsum(0), (1, 0))


def _rows_of(offsets: Tensor) -> Tensor:
    """Returns the row of each entry, from 0."""
    return torch.repeat_interleave(torch.arange(len(offsets) - 1, device=offsets.device), offsets.diff())


def _expand(begins: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the concatenated ranges begins[i] .. begins[i] + lengths[i] - 1, and the i of each: (i, index)."""
    which = torch.repeat_interleave(torch.arange(len(begins), device=begins.device), lengths)
    step = torch.arange(len(which), device=begins.device) - (lengths.cumsum(0) - lengths)[which]
    return which, begins[which] + step
