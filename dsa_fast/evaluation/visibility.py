"""Matching by what is seen: distances that weight the parts of two test vectors by their visibility on both sides.

A part here is one of the 8 merged body parts (`dsa_fast.densepose.parts.MERGED_NAMES`: torso, hand, foot, ...). A test
vector is [global | local], and the local half is the features of the 8 parts, one after the other. What such a feature
describes depends on the vector:

- Fused vectors [zG, zL]: zL,i adds the DSAG-Stream's feature of part i, which is made of that part's texels alone.
- The MF-Stream's vectors [fG, fL]: fL,i comes from a branch that reads the whole image. Only training ties it to part
  i: the fusion with the DSAG-Stream, or the `focus` guide. Without both, the 8 branches are alike, and weights by part
  mean nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dsa_fast.evaluation.checks import Features, check_feature_pair

__all__ = ["PartVisibility", "VisibleDistances", "visible_distances"]

_CHUNK_VALUES = 1 << 20  # float64 values of the gallery that are converted at a time: 8 MiB


class PartVisibility(NamedTuple):
    """The visibility of each part, from 0 (hidden) to 1, for `evaluate`.

    Attributes:
        query: [Q, P], of the queries.
        gallery: [G, P], of the gallery.
        dim: length of a part's feature. The last P * dim columns of a test vector are the parts, one after the other.
    """

    query: Features
    gallery: Features
    dim: int


class VisibleDistances:
    """Distances of test vectors that weight parts by their visibility on both sides.

    With the parts' features q_p and g_p, and w_p = query visibility * gallery visibility, the local distance is the
    cosine distance in which part p counts with w_p:

        1 - sum_p w_p q_p . g_p / sqrt(sum_p w_p |q_p|^2 * sum_p w_p |g_p|^2)

    The distance is the mean of it and the global half's cosine distance. A pair without a common visible part has the
    global distance alone. If a vector has no global half, it then has the local distance of equal weights. Equal
    visibilities give the plain cosine distance of halves of equal lengths, such as those of `DSAReID.embed`.

    The weight is a product, so that each sum over parts is a product of two matrices: a block takes no memory for
    pairs and parts. The smaller of the two visibilities gave the same scores where we measured it.

    Args:
        query: [Q, D], finite.
        gallery: [G, D], finite, on the same device.
        visibility: of the parts in the last columns.

    Raises:
        TypeError: features or visibilities are not real numbers.
        ValueError: wrong shapes, mixed devices, or visibilities outside [0, 1].
    """

    def __init__(self, query: Features, gallery: Features, visibility: PartVisibility) -> None:
        self._query, self._gallery = check_feature_pair(query, gallery)
        names = ("visibility.query", "visibility.gallery")
        seen = check_feature_pair(visibility.query, visibility.gallery, names)
        for name, weight, rows in zip(names, seen, (self._query, self._gallery), strict=True):
            if len(weight) != len(rows):
                raise ValueError(f"{name} must have a row for each feature, {len(rows)}, got {list(weight.shape)}")
            if bool(((weight < 0) | (weight > 1)).any()):
                raise ValueError(f"{name} must be in [0, 1], got {float(weight.min())}..{float(weight.max())}")
        self._seen = tuple(weight.to(self._query.device, torch.float64) for weight in seen)
        parts, self._dim = self._seen[0].shape[1], visibility.dim
        self._split = self._query.shape[1] - parts * self._dim
        if self._dim < 1 or self._split < 0:
            raise ValueError(
                f"visibility.dim must be the length of a part's feature, with {parts} of them in the last columns of "
                f"{self._query.shape[1]}, got {self._dim}"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Q and G."""
        return len(self._query), len(self._gallery)

    def __call__(self, start: int, stop: int) -> Tensor:
        """Returns the distances of the queries start .. stop - 1 to the whole gallery, float32 [stop - start, G]."""
        query = self._query[start:stop].double()
        out = torch.empty((len(query), len(self._gallery)), dtype=torch.float32, device=query.device)
        step = max(1, _CHUNK_VALUES // query.shape[1])
        for first in range(0, len(self._gallery), step):
            rows = slice(first, first + step)
            gallery = self._gallery[rows].double()
            out[:, rows] = self._distances(query, self._seen[0][start:stop], gallery, self._seen[1][rows])
        return out

    def _distances(self, query: Tensor, query_seen: Tensor, gallery: Tensor, gallery_seen: Tensor) -> Tensor:
        q, g = (x[:, self._split :].unflatten(1, (-1, self._dim)) for x in (query, gallery))
        q_squares, g_squares = q.square().sum(dim=2), g.square().sum(dim=2)  # [b, P], [c, P]
        # Where no part is visible on both sides, and there is no global half, all parts count.
        hidden = query_seen @ gallery_seen.T <= 0
        local = _cosine(
            (q * query_seen[..., None]).flatten(1) @ (g * gallery_seen[..., None]).flatten(1).T,
            (q_squares * query_seen) @ gallery_seen.T,
            query_seen @ (g_squares * gallery_seen).T,
        )
        if not self._split:
            if bool(hidden.any()):
                plain = _cosine(q.flatten(1) @ g.flatten(1).T, q_squares.sum(1)[:, None], g_squares.sum(1))
                local = torch.where(hidden, plain, local)
            return 1 - local
        a, b = query[:, : self._split], gallery[:, : self._split]
        whole = _cosine(a @ b.T, a.square().sum(1)[:, None], b.square().sum(1))
        return 1 - torch.where(hidden, whole, (whole + local) / 2)


def visible_distances(query: Features, gallery: Features, visibility: PartVisibility) -> Tensor:
    """Computes all distances of `VisibleDistances`: float32 [Q, G], on the features' device.

    Raises:
        TypeError, ValueError: see `VisibleDistances`.
    """
    return VisibleDistances(query, gallery, visibility)(0, len(query))


def _cosine(dot: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Cosines from dot products and squared lengths; 0 where a length is 0."""
    squares = a * b
    return torch.where(squares > 0, dot / squares.clamp(min=torch.finfo(dot.dtype).tiny).sqrt(), 0.0)
