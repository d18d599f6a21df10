"""Scoring by the re-ID protocol, ranked lists, and a plain comparison by colour. Pictures are in `.pictures`."""

from __future__ import annotations

from dsa_fast.evaluation.color_histogram import histogram_features
from dsa_fast.evaluation.metrics import (
    EvaluationResult,
    RankedLists,
    evaluate,
    evaluate_distances,
    pool_images,
    rank_list,
)

__all__ = [
    "EvaluationResult",
    "RankedLists",
    "evaluate",
    "evaluate_distances",
    "histogram_features",
    "pool_images",
    "rank_list",
]
