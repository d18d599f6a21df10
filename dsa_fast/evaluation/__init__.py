"""Evaluates test vectors of people: scores, ranked lists, re-ranking.

Use it to measure a model or a method of your own: `embed_people` makes the vectors, and `evaluate` scores them by the
Market-1501 protocol. May import `data`, `models` and everything below them; needs no Lightning and no Matplotlib.
"""

from __future__ import annotations

from dsa_fast.evaluation.color_histogram import histogram_features
from dsa_fast.evaluation.embedding import Embedded, Embedder, ModelEmbedder, as_tested, embed_people, pool_multi_query
from dsa_fast.evaluation.metrics import EvaluationResult, evaluate, evaluate_distances, pool_images
from dsa_fast.evaluation.pair_distances import DistanceHistogram, distance_histogram
from dsa_fast.evaluation.ranked_lists import RankedLists, UnfilteredLists, rank_list, unfiltered_lists
from dsa_fast.evaluation.rerank import KReciprocal, expand_queries, k_reciprocal
from dsa_fast.evaluation.same_person import MatchRates, match_rates
from dsa_fast.evaluation.single_shot import draw_galleries, mean_scores, protocol_scores
from dsa_fast.evaluation.visibility import PartVisibility, VisibleDistances, visible_distances
from dsa_fast.evaluation.visible_embedder import VisibleEmbedder

__all__ = [
    "DistanceHistogram",
    "Embedded",
    "Embedder",
    "EvaluationResult",
    "KReciprocal",
    "MatchRates",
    "ModelEmbedder",
    "PartVisibility",
    "RankedLists",
    "UnfilteredLists",
    "VisibleDistances",
    "VisibleEmbedder",
    "as_tested",
    "distance_histogram",
    "draw_galleries",
    "embed_people",
    "evaluate",
    "evaluate_distances",
    "expand_queries",
    "histogram_features",
    "k_reciprocal",
    "match_rates",
    "mean_scores",
    "pool_images",
    "pool_multi_query",
    "protocol_scores",
    "rank_list",
    "unfiltered_lists",
    "visible_distances",
]
