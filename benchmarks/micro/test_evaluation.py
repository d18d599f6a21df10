"""Times of the evaluation on the CPU. The scores are compared with a plain loop before anything is timed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from dsa_fast.evaluation import evaluate, rank_list

Columns = tuple[Tensor, Tensor, Tensor]
QUERIES, GALLERY, PEOPLE = 256, 2048, 64


def columns(count: int, width: int, generator: torch.Generator) -> Columns:
    """Features [count, width], person ids and camera ids of people whose features lie around a center each."""
    centers = torch.randn(PEOPLE, width, generator=torch.Generator().manual_seed(1))
    pids = torch.randint(0, PEOPLE, (count,), generator=generator)
    features = centers[pids] + 2 * torch.randn(count, width, generator=generator)
    return features, pids + 1, torch.randint(1, 7, (count,), generator=generator)


def plain_scores(query: Columns, gallery: Columns) -> tuple[float, float]:
    """mAP and Rank-1 by the definition: one query at a time, images of its person by its camera left out."""
    q, g = (torch.nn.functional.normalize(part[0].double()).numpy() for part in (query, gallery))
    (_, q_pids, q_camids), (_, g_pids, g_camids) = ([column.numpy() for column in part] for part in (query, gallery))
    precisions, firsts = [], []
    for i in range(len(q)):
        kept = (g_pids != q_pids[i]) | (g_camids != q_camids[i])
        order = np.argsort(1 - g[kept] @ q[i], kind="stable")
        ranks = np.flatnonzero(g_pids[kept][order] == q_pids[i]) + 1
        if len(ranks):
            precisions.append(np.mean(np.arange(1, len(ranks) + 1) / ranks))
            firsts.append(ranks[0] == 1)
    return float(np.mean(precisions)), float(np.mean(firsts))


@pytest.mark.parametrize("width", [256, 2048])
def test_evaluate(benchmark: BenchmarkFixture, generator: torch.Generator, width: int) -> None:
    query, gallery = columns(QUERIES, width, generator), columns(GALLERY, width, generator)
    scores = evaluate(*query, *gallery)
    assert (scores.mAP, scores.rank(1)) == pytest.approx(plain_scores(query, gallery), abs=1e-4)
    benchmark(lambda: evaluate(*query, *gallery))


def test_rank_list(benchmark: BenchmarkFixture, generator: torch.Generator) -> None:
    query, gallery = columns(QUERIES, 256, generator), columns(GALLERY, 256, generator)
    lists = rank_list(*query, *gallery, k=10)
    assert float(lists.matches[:, 0].double().mean()) == pytest.approx(plain_scores(query, gallery)[1], abs=1e-4)
    benchmark(lambda: rank_list(*query, *gallery, k=10))
