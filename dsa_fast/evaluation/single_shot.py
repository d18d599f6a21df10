"""Single-shot tests: the gallery has one image of each person, drawn at random several times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dsa_fast.data.people import PeopleSplits
from dsa_fast.evaluation.checks import DISTRACTOR, Labels, check_labels
from dsa_fast.evaluation.embedding import Embedded
from dsa_fast.evaluation.metrics import evaluate

__all__ = ["draw_galleries", "mean_scores", "protocol_scores"]


def draw_galleries(pids: Labels, draws: int, seed: int = 0) -> list[Tensor]:
    """Draws one gallery image of each person.

    Args:
        pids: [G] integers. Junk and distractors (pids below 1) are in each draw.
        draws: number of draws.
        seed: the same pids in the same order and seed give the same draws.

    Returns:
        For each draw, the rows of its images, int64, ascending.

    Raises:
        TypeError: pids are not integers.
        ValueError: `draws` is below 1, or a wrong shape.
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    rows = check_labels("pids", pids, None).numpy()
    chosen = []
    for number in range(draws):
        shuffled = np.random.default_rng((seed, number)).permutation(len(rows))
        first = shuffled[np.unique(rows[shuffled], return_index=True)[1]]
        kept = np.concatenate([first[rows[first] > DISTRACTOR], np.flatnonzero(rows <= DISTRACTOR)])
        chosen.append(torch.from_numpy(np.sort(kept)))
    return chosen


def mean_scores(draws: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Returns the mean of each score over the draws."""
    return {name: float(np.mean([each[name] for each in draws])) for name in draws[0]}


def protocol_scores(query: Embedded, gallery: Embedded, data: PeopleSplits, **options: Any) -> dict[str, float]:
    """Scores by a data set's protocol: the summary of `evaluate`, or its mean over `data.gallery_draws` galleries.

    Args:
        query: test vectors of the queries, as `as_tested` returns them.
        gallery: those of the gallery.
        data: their data set.
        options: options of `evaluate`.
    """
    if not data.gallery_draws:
        return evaluate(*query, *gallery, **options).summary()
    draws = draw_galleries(gallery.pids, data.gallery_draws)
    return mean_scores([evaluate(*query, *(it[rows] for it in gallery), **options).summary() for rows in draws])
