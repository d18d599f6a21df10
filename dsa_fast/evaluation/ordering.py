"""Sorts the gallery by the distance to each query, in blocks, so the whole distance matrix is never stored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

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

LAST = torch.iinfo(torch.int64).max  # key of left-out items: farther than all others
_GALLERY_CHUNK_VALUES = 1 << 20  # float64 values of the gallery converted at a time: 8 MiB
_RANKED_VALUES = 1 << 20  # distances ranked at a time: 8 MiB of int64 keys


class Block(NamedTuple):
    """Some queries against the whole gallery."""

    start: int
    stop: int
    keys: Tensor  # int64 [b, G], all different within a row but for LAST: order by (distance, index)
    matches: Tensor  # bool [b, G]: same person, not left out


class OrderedGallery:
    """Checked inputs, and blocks of queries with sorted galleries, in float64, for non-CPU devices and for lists."""

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
        check_metric(metric)
        if block_size is not None and block_size < 1:
            raise ValueError(f"block_size must be at least 1, got {block_size}")
        self.metric = metric
        self.block_size = block_size
        self.query, self.gallery = check_feature_pair(query_features, gallery_features)
        self.labels = CheckedLabels(
            query_pids, query_camids, gallery_pids, gallery_camids, len(self.query), len(self.gallery)
        )
        self.rows_per_chunk = max(1, _GALLERY_CHUNK_VALUES // self.gallery.shape[1])

    def blocks(self) -> Iterator[Block]:
        """Yields the queries in order, a few at a time, each with the whole gallery."""
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
                left_out = same_camera(query_camids[start:stop], gallery_camids)
                left_out.logical_and_(same).logical_or_(junk)
                keys = sortable(closeness[start - outer : stop - outer]).to(torch.int64)
                keys.mul_(1 << 32).add_(column).masked_fill_(left_out, LAST)
                yield Block(start, stop, keys, same.logical_and_(left_out.logical_not_()))

    def _gallery_chunks(self) -> Iterator[tuple[slice, Tensor]]:
        for start in range(0, len(self.gallery), self.rows_per_chunk):
            rows = slice(start, min(start + self.rows_per_chunk, len(self.gallery)))
            yield rows, self._scaled(self.gallery[rows])

    def _scaled(self, features: Tensor) -> Tensor:
        wide = features.to(torch.float64, copy=self.scale != 1)
        return wide.mul_(self.scale) if self.scale != 1 else wide

    def _closeness(self, start: int, stop: int) -> Tensor:
        """Returns float32 [b, G], lower is closer; for each query, an increasing function of the distance."""
        query = self._scaled(self.query[start:stop])
        if self.metric == "cosine":  # a row's power of two keeps its order, exactly, and fits float32
            query = query * torch.exp2(-query.square().sum(1, keepdim=True).sqrt().frexp().exponent.double())
        result = torch.empty((stop - start, len(self.gallery)), dtype=torch.float32, device=query.device)
        for columns, chunk in self._gallery_chunks():
            dot = query @ chunk.T
            squares = self.gallery_squares[columns]
            # The query's own norm does not change its order. A zero vector's dot product is 0, and so is its cosine.
            if self.metric == "cosine":
                result[:, columns] = dot.div_(torch.where(squares > 0, squares.sqrt(), 1.0).neg_())
            else:
                result[:, columns] = dot.mul_(-2).add_(squares)
        return result

    def distances(self, block: Block, columns: Tensor) -> Tensor:
        """Returns the distances of the block's queries to the gallery items `columns` [b, k], float64 [b, k]."""
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


def sortable(values: Tensor) -> Tensor:
    """Returns int32 in the order of the float32 `values`, with the same ties (0.0 equals -0.0)."""
    bits = (values + 0.0).view(torch.int32)
    return (bits >> 31).bitwise_and_(0x7FFFFFFF).bitwise_xor_(bits)
