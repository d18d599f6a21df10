"""Histograms of all pairs' distances."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dsa_fast.evaluation.pair_distances import distance_histogram
from tests.evaluation.people import make_people


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_histogram_counts_every_pair_once(metric: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    people = make_people(np.random.default_rng(1), 40, 300)
    q, q_pids, q_camids, g, g_pids, g_camids = (x.numpy() for x in people)
    found = distance_histogram(*people, metric=metric, bins=30)
    same = (q_pids[:, None] == g_pids) & (g_pids > 0)
    is_same, is_different = same & (q_camids[:, None] != g_camids), ~same & (g_pids != -1)[None]
    assert found.same.sum() == is_same.sum() and found.different.sum() == is_different.sum()
    assert 1 <= len(found.same) <= 30 and len(found.edges) == len(found.same) + 1
    if metric == "cosine":
        unit = [x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30) for x in (q, g)]
        exact = 1 - unit[0] @ unit[1].T
    else:
        exact = np.linalg.norm(q[:, None].astype(float) - g[None], axis=2)
    width = 4 * np.sqrt(8) * 2 / 4096  # of a fine bin, at most
    for counts, mask in ((found.same, is_same), (found.different, is_different)):
        for at in (3, len(counts) // 2, len(counts) - 2):
            below = counts[:at].sum()
            assert (
                (exact[mask] < found.edges[at] - width).sum() <= below <= (exact[mask] < found.edges[at] + width).sum()
            )
    a, b = exact[is_same], exact[is_different]
    auc = ((a[:, None] < b - 1e-6).mean() + (a[:, None] <= b + 1e-6).mean()) / 2
    assert found.auc == pytest.approx(auc, abs=0.01)
    shares = [counts / counts.sum() for counts in (found.same, found.different)]
    assert found.overlap == pytest.approx(np.minimum(*shares).sum())
    monkeypatch.setattr("dsa_fast.evaluation.pair_distances._PAIRS", 700)
    again = distance_histogram(*people, metric=metric, bins=30)
    assert again.same.tolist() == found.same.tolist() and again.different.tolist() == found.different.tolist()


def test_histogram_of_what_is_told_apart_and_of_one_kind() -> None:
    eye = torch.eye(2)
    apart = distance_histogram(eye[:1], [1], [1], eye, [1, 2], [2, 2])
    assert apart.overlap == 0 and apart.auc == 1 and apart.equal_error_rate == 0 and 0 < apart.threshold < 1
    alone = distance_histogram(eye[:1], [1], [1], eye[:1], [1], [2])
    assert alone.same.sum() == 1 and np.isnan(alone.overlap) and np.isnan(alone.auc)
    with pytest.raises(ValueError, match=r"gallery_pids must have shape \[2\], one for each feature, got \[1\]"):
        distance_histogram(eye, [1, 2], [1, 1], eye, [1], [1, 1])
    with pytest.raises(ValueError, match="bins must be at least 1"):
        distance_histogram(eye, [1, 2], [1, 1], eye, [1, 2], [1, 1], bins=0)
