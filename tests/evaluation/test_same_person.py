"""Match rates against counting pair by pair."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from dsa_fast.evaluation import Embedded, MatchRates, distance_histogram, match_rates


def people(count: int, images: int, *, noise: float = 0.6, seed: int = 0) -> tuple[Embedded, Embedded]:
    """Random vectors around a center for each person; odd images are by camera 2, and are the queries."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(count, 16, generator=generator)
    pids = torch.arange(1, count + 1).repeat_interleave(images)
    features = centers[pids - 1] + noise * torch.randn(len(pids), 16, generator=generator)
    camids = torch.arange(len(pids)) % 2 + 1
    query = camids == 2
    return Embedded(features[query], pids[query], camids[query]), Embedded(features, pids, camids)


def test_rates_are_those_of_all_pairs() -> None:
    query, gallery = people(40, 6)
    rates = match_rates(query, gallery)
    cosines = (
        functional.normalize(query.features.double(), dim=1) @ functional.normalize(gallery.features.double(), dim=1).T
    )
    same = query.pids[:, None] == gallery.pids
    mates = cosines[same & (query.camids[:, None] != gallery.camids)]
    strangers = cosines[~same]
    assert (rates.same.sum(), rates.different.sum()) == (len(mates), len(strangers))
    for fmr in (1e-2, 1e-3):
        threshold = rates.threshold(fmr)
        assert threshold is not None
        false, true = rates.at(threshold)
        assert false <= fmr and false == pytest.approx(float((strangers >= threshold).double().mean()), abs=1e-4)
        assert true == pytest.approx(float((mates >= threshold).double().mean()), abs=3e-3)
        # A lower threshold would let more strangers in.
        assert float((strangers >= threshold - 1e-4).double().mean()) > fmr - 2e-4
    assert rates.threshold(1e-4) is None  # 28,080 pairs of strangers: three matches are expected
    error, threshold = rates.equal_error()
    assert error == pytest.approx(float((strangers >= threshold).double().mean()), abs=2e-3)
    assert error == pytest.approx(float((mates < threshold).double().mean()), abs=5e-3)
    same_mean, different_mean = rates.mean_cosines()
    assert same_mean == pytest.approx(float(mates.mean()), abs=1e-4)
    assert different_mean == pytest.approx(float(strangers.mean()), abs=1e-4)
    summary = rates.summary()
    assert list(summary["thresholds"]) == list(summary["tpr"]) == ["0.01", "0.001"]
    drawn = distance_histogram(*query, *gallery)  # what `rank` shows
    assert drawn.equal_error_rate == error and drawn.threshold == pytest.approx(1 - threshold)


def test_a_perfect_and_a_useless_network() -> None:
    query, gallery = people(60, 4, noise=0.0)
    perfect = match_rates(query, gallery)
    assert perfect.equal_error()[0] == 0 and perfect.at(0.99)[1] == 1
    alike = Embedded(torch.ones(len(query.pids), 16), query.pids, query.camids)
    useless = match_rates(alike, Embedded(torch.ones(len(gallery.pids), 16), gallery.pids, gallery.camids))
    assert useless.equal_error()[0] == 0.5
    threshold = useless.threshold(1e-2)
    assert threshold == 1 and useless.at(threshold) == (0, 0)


def test_there_must_be_pairs_of_both_kinds() -> None:
    query, gallery = people(1, 4)
    with pytest.raises(ValueError, match="must have a pair of different people, got none"):
        match_rates(query, gallery)
    with pytest.raises(ValueError, match="must have a pair of one person by different cameras, got none"):
        match_rates(query, gallery._replace(pids=gallery.pids + 5))


def test_at_takes_any_threshold() -> None:
    rates = MatchRates(np.linspace(-1, 1, 5), np.array([0, 0, 1, 3]), np.array([2, 1, 1, 0]))
    assert rates.at(-1) == (1, 1) and rates.at(0.5) == (0, 0.75) and rates.at(0.6) == (0, 0) and rates.at(2 / 3)[0] == 0
