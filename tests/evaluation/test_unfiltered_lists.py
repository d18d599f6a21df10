"""Ranked lists that keep what is left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dsa_fast.evaluation import rank_list
from dsa_fast.evaluation.ranked_lists import (
    JUNK_IMAGE,
    NONE,
    RIGHT,
    SAME_CAMERA,
    unfiltered_lists,
)
from tests.evaluation.people import make_people


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    gallery=st.integers(1, 90),
    k=st.integers(1, 12),
    most=st.none() | st.integers(0, 5),
    metric=st.sampled_from(["cosine", "euclidean"]),
)
def test_unfiltered_lists_are_rank_lists_with_the_rest_in_place(
    seed: int, gallery: int, k: int, most: int | None, metric: Any
) -> None:
    people = make_people(np.random.default_rng(seed), 5, gallery)
    _, q_pids, q_camids, _, g_pids, g_camids = people
    kept = unfiltered_lists(*people, k=k, max_left_out=most, metric=metric)
    plain = rank_list(*people, k=k, metric=metric)
    # With labels under which all count, rank_list gives the order of everything.
    order = rank_list(
        people[0], q_pids * 0 + 2, q_camids, people[3], g_pids * 0 + 1, g_camids, k=gallery, metric=metric
    )
    for row in range(5):
        kinds, indices = kept.kinds[row], kept.indices[row]
        assert (indices[kinds == NONE] == -1).all() and (indices[kinds != NONE] >= 0).all()
        counts = kinds < SAME_CAMERA
        wanted = plain.indices[row][plain.indices[row] >= 0]
        assert indices[counts].tolist() == wanted.tolist()
        assert (kinds[counts] == RIGHT).tolist() == plain.matches[row][: len(wanted)].tolist()
        left_out = [
            i
            for i in order.indices[row].tolist()
            if g_pids[i] == -1 or (g_pids[i] == q_pids[row] and g_camids[i] == q_camids[row])
        ]
        shown = indices[(kinds == SAME_CAMERA) | (kinds == JUNK_IMAGE)].tolist()
        assert shown == left_out[: len(shown)] and len(shown) <= (k if most is None else most)
        assert all((g_pids[i] == -1) == (kinds[indices.tolist().index(i)] == JUNK_IMAGE) for i in shown)
        # In place: the list is a part of the whole order.
        place = {int(i): n for n, i in enumerate(order.indices[row])}
        places = [place[int(i)] for i in indices[kinds != NONE]]
        assert places == sorted(places)
        if len(wanted):
            before = sum(place[i] < place[int(wanted[-1])] for i in left_out)
            assert len(shown) + int(kept.hidden[row]) == before


def test_unfiltered_lists_go_past_much_junk() -> None:
    features = torch.eye(2)[[0] * 300 + [1]]
    pids = torch.tensor([-1] * 300 + [1])
    kept = unfiltered_lists(torch.eye(2)[:1], [1], [1], features, pids, [2] * 301, k=1, max_left_out=2)
    assert kept.indices.tolist() == [[0, 1, 300]] and kept.kinds.tolist() == [[JUNK_IMAGE, JUNK_IMAGE, RIGHT]]
    assert kept.hidden.tolist() == [298]


def test_unfiltered_lists_refuse_bad_numbers() -> None:
    people = make_people(np.random.default_rng(0), 2, 5)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        unfiltered_lists(*people, k=0)
    with pytest.raises(ValueError, match="max_left_out must be at least 0, got -1"):
        unfiltered_lists(*people, max_left_out=-1)
