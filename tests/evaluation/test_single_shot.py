"""Single-shot galleries: the draws, and the means of their scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dsa_fast.data.people import PeopleSplits
from dsa_fast.evaluation import Embedded, draw_galleries, evaluate, protocol_scores

DATA = PeopleSplits("own", Path(), [], [], [])


def test_a_draw_has_one_image_of_each_person() -> None:
    pids = torch.tensor([4, 9, 4, -1, 4, 0, 9, 2, 0])
    draws = draw_galleries(pids, 40)
    for rows in draws:
        drawn = pids[rows].tolist()
        assert sorted(drawn) == [-1, 0, 0, 2, 4, 9] and rows.tolist() == sorted(set(rows.tolist()))
    # Each image of a person is drawn about as often as the others.
    counts = np.bincount(torch.cat(draws).numpy(), minlength=len(pids))
    assert counts[[3, 5, 7, 8]].tolist() == [40] * 4 and counts[[0, 2, 4, 1, 6]].min() >= 5
    again = draw_galleries(pids, 3)
    assert all(torch.equal(a, b) for a, b in zip(again, draws, strict=False)), "draws do not depend on their number"
    assert any(not torch.equal(a, b) for a, b in zip(draw_galleries(pids, 3, seed=1), again, strict=True))
    with pytest.raises(ValueError, match="draws must be at least 1, got 0"):
        draw_galleries(pids, 0)


def test_scores_are_means_over_the_draws() -> None:
    generator = torch.Generator().manual_seed(3)
    pids = torch.arange(60) % 12 + 1
    query = Embedded(torch.randn(24, 8, generator=generator), pids[:24], torch.full((24,), 3))
    gallery = Embedded(torch.randn(60, 8, generator=generator), pids, torch.ones(60, dtype=torch.int64))
    assert protocol_scores(query, gallery, DATA) == evaluate(*query, *gallery).summary()
    scores = protocol_scores(query, gallery, replace(DATA, gallery_draws=10))
    # Plainly: a query has one right image, so its average precision is 1 / rank.
    inverse, first = [], []
    unit = [torch.nn.functional.normalize(it.features.double()) for it in (query, gallery)]
    cosines = (unit[0] @ unit[1].T).numpy()
    for rows in draw_galleries(pids, 10):
        for row, pid in enumerate(query.pids.tolist()):
            ranked = pids[rows][np.argsort(-cosines[row, rows])].tolist()
            inverse.append(1 / (1 + ranked.index(pid)))
            first.append(ranked[0] == pid)
    assert scores["mAP"] == pytest.approx(np.mean(inverse)) and scores["R1"] == pytest.approx(np.mean(first))
    assert scores["mINP"] == pytest.approx(scores["mAP"])
