"""Same person or not: how often a threshold of the cosine is right, for pairs of a query and a gallery image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsa_fast.evaluation.embedding import Embedded
from dsa_fast.evaluation.pair_distances import FINE_BINS, count_pairs, equal_error

__all__ = ["RATES", "MatchRates", "match_rates"]

#: False match rates that are reported.
RATES = (1e-2, 1e-3, 1e-4)

_FALSE_MATCHES = 10  # a threshold is known only if this many false matches are expected


@dataclass(frozen=True, eq=False)
class MatchRates:
    """Pairs of images by their cosine.

    Attributes:
        edges: float64 [n+1], the edges of the bins, from -1 to 1.
        same: int64 [n], pairs of one person, by different cameras.
        different: int64 [n], pairs of different people.
    """

    edges: NDArray[np.float64]
    same: NDArray[np.int64]
    different: NDArray[np.int64]

    def threshold(self, fmr: float) -> float | None:
        """Returns the least threshold whose false match rate is at most `fmr`.

        Returns:
            A cosine; pairs that reach it count as one person. None if there are too few pairs to know it.
        """
        if self.different.sum() * fmr < _FALSE_MATCHES:
            return None
        return float(self.edges[int(np.argmax(self._shares(self.different) <= fmr))])

    def at(self, threshold: float) -> tuple[float, float]:
        """Returns the false and the true match rate at a threshold: the shares of pairs that reach it."""
        place = int(np.searchsorted(self.edges, threshold))
        return float(self._shares(self.different)[place]), float(self._shares(self.same)[place])

    def equal_error(self) -> tuple[float, float]:
        """Returns the error rate where the shares of missed pairs and of false matches are equal, and its threshold."""
        rate, bins = equal_error(self.same[::-1], self.different[::-1])
        return rate, float(self.edges[len(self.same) - bins])

    def mean_cosines(self) -> tuple[float, float]:
        """Returns the mean cosine of one person and of different people."""
        middle = (self.edges[1:] + self.edges[:-1]) / 2
        return tuple(float(counts @ middle / counts.sum()) for counts in (self.same, self.different))  # type: ignore[return-value]

    def summary(self) -> dict[str, Any]:
        """Returns the numbers for a report: thresholds and true match rates by false match rate, the equal error."""
        rate, threshold = self.equal_error()
        known = {f"{fmr:g}": value for fmr in RATES if (value := self.threshold(fmr)) is not None}
        return {
            "same_pairs": int(self.same.sum()),
            "different_pairs": int(self.different.sum()),
            "thresholds": known,
            "tpr": {fmr: self.at(value)[1] for fmr, value in known.items()},
            "eer": rate,
            "eer_threshold": threshold,
        }

    @staticmethod
    def _shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Share of pairs at or above each edge, [n+1]."""
        above = np.concatenate([np.cumsum(counts[::-1])[::-1], [0]])
        return np.asarray(above / counts.sum(), np.float64)


def match_rates(query: Embedded, gallery: Embedded) -> MatchRates:
    """Counts all pairs of a query and a gallery image by their cosine, without those that the protocol leaves out.

    Raises:
        ValueError: there is no pair of one person by different cameras, or none of different people.
    """
    counts, _ = count_pairs(*query, *gallery, "cosine", FINE_BINS)
    same, different = counts[:, ::-1]  # by cosine instead of distance
    if not same.sum() or not different.sum():
        kind = "different people" if same.sum() else "one person by different cameras"
        raise ValueError(f"the images must have a pair of {kind}, got none")
    return MatchRates(np.linspace(-1, 1, FINE_BINS + 1), same, different)
