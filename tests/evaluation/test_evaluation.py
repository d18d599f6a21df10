"""Scores by the Market-1501 protocol, ranked lists and colour histograms, against plain references."""

from __future__ import annotations

import colorsys
import contextlib
import math
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dsa_fast.data.people import PeopleSplits, Person
from dsa_fast.evaluation import (
    Embedded,
    as_tested,
    distance_histogram,
    evaluate,
    evaluate_distances,
    histogram_features,
    metrics,
    ordering,
    pool_images,
    rank_list,
)
from dsa_fast.evaluation.checks import Metric
from dsa_fast.evaluation.color_histogram import _hsv
from dsa_fast.ops import rank as rank_ops
from tests.fresh import run_fresh

# What other devices do, done on the CPU.
by_torch = mock.patch.object(metrics, "_ranks_on_cpu", metrics._ranks_by_torch)


def exact_order(metric: str, query: list[int], item: list[int]) -> Fraction:
    """A number in the order of the distance, exact for integer features."""
    if metric == "euclidean":
        return Fraction(sum((a - b) ** 2 for a, b in zip(query, item, strict=True)))
    dot, square = sum(a * b for a, b in zip(query, item, strict=True)), sum(b * b for b in item)
    return -Fraction(dot * abs(dot), square) if square else Fraction(0)


def reference_ranking(case: dict[str, Any], q: int) -> list[int]:
    """The gallery indices that query q may see, nearest first, by sorting."""
    seen = [
        j
        for j, (pid, camid) in enumerate(zip(case["gallery_pids"], case["gallery_camids"], strict=True))
        if pid != -1 and not (pid == case["query_pids"][q] and camid == case["query_camids"][q])
    ]
    query = case["query_features"][q]
    return sorted(seen, key=lambda j: (exact_order(case["metric"], query, case["gallery_features"][j]), j))


def reference_scores(case: dict[str, Any], max_rank: int) -> tuple[float, list[float], float] | None:
    """mAP, CMC and mINP by plain loops, or None where no query counts."""
    precisions, penalties, firsts = [], [], []
    for q, pid in enumerate(case["query_pids"]):
        ranking = reference_ranking(case, q)
        hits = [rank for rank, j in enumerate(ranking, 1) if case["gallery_pids"][j] == pid]
        if hits:
            precisions.append(sum(n / rank for n, rank in enumerate(hits, 1)) / len(hits))
            penalties.append(len(hits) / hits[-1])
            firsts.append(hits[0])
    if not firsts:
        return None
    cmc = [sum(first <= k for first in firsts) / len(firsts) for k in range(1, max_rank + 1)]
    return sum(precisions) / len(precisions), cmc, sum(penalties) / len(penalties)


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    """Small sets with integer features, so that ties are many and exact."""
    queries, gallery, width = draw(st.integers(1, 7)), draw(st.integers(1, 25)), draw(st.integers(1, 3))
    feature = st.lists(st.integers(-2, 2), min_size=width, max_size=width)
    camid = st.integers(1, 3)
    return {
        "query_features": draw(st.lists(feature, min_size=queries, max_size=queries)),
        "query_pids": draw(st.lists(st.integers(1, 3), min_size=queries, max_size=queries)),
        "query_camids": draw(st.lists(camid, min_size=queries, max_size=queries)),
        "gallery_features": draw(st.lists(feature, min_size=gallery, max_size=gallery)),
        "gallery_pids": draw(st.lists(st.integers(-1, 4), min_size=gallery, max_size=gallery)),
        "gallery_camids": draw(st.lists(camid, min_size=gallery, max_size=gallery)),
        "metric": draw(st.sampled_from(["cosine", "euclidean"])),
    }


def as_arrays(case: dict[str, Any]) -> dict[str, Any]:
    return {
        name: np.asarray(value, np.float32 if name.endswith("features") else np.int64) if name != "metric" else value
        for name, value in case.items()
    }


@settings(max_examples=300, deadline=None)
@given(cases(), st.integers(1, 8), st.integers(1, 40), st.sampled_from([None, 1, 7, 1 << 20]))
def test_scores_equal_the_plain_reference(case: dict[str, Any], block: int, max_rank: int, chunk: int | None) -> None:
    expected = reference_scores(case, max_rank)
    with contextlib.ExitStack() as stack:
        if chunk is not None:
            stack.enter_context(by_torch)
            stack.enter_context(mock.patch.multiple(ordering, _GALLERY_CHUNK_VALUES=chunk, _RANKED_VALUES=chunk))
        if expected is None:
            with pytest.raises(ValueError, match="no query has a right match"):
                evaluate(**as_arrays(case), max_rank=max_rank, block_size=block)
            return
        result = evaluate(**as_arrays(case), max_rank=max_rank, block_size=block)
    assert result.mAP == pytest.approx(expected[0], abs=1e-12)
    assert result.cmc.tolist() == pytest.approx(expected[1], abs=1e-12)
    assert result.mINP == pytest.approx(expected[2], abs=1e-12)
    assert np.isnan(result.average_precision).sum() == len(case["query_pids"]) - result.num_valid_queries


@settings(max_examples=200, deadline=None)
@given(cases(), st.integers(1, 8), st.integers(1, 30), st.sampled_from([1, 7, 1 << 20]))
def test_ranked_lists_equal_the_plain_reference(case: dict[str, Any], block: int, k: int, chunk: int) -> None:
    with mock.patch.multiple(ordering, _GALLERY_CHUNK_VALUES=chunk, _RANKED_VALUES=chunk):
        lists = rank_list(**as_arrays(case), k=k, block_size=block)
    for q, pid in enumerate(case["query_pids"]):
        ranking = reference_ranking(case, q)[:k]
        missing = k - len(ranking)
        assert lists.indices[q].tolist() == ranking + [-1] * missing
        assert lists.matches[q].tolist() == [case["gallery_pids"][j] == pid for j in ranking] + [False] * missing
        query, chosen = torch.tensor(case["query_features"][q]).double(), lists.distances[q, : len(ranking)]
        items = torch.tensor([case["gallery_features"][j] for j in ranking]).double().view(len(ranking), len(query))
        if case["metric"] == "euclidean":
            expected = torch.linalg.vector_norm(items - query, dim=1)
        else:
            expected = 1 - torch.nn.functional.cosine_similarity(items, query[None], dim=1)
        torch.testing.assert_close(chosen.double(), expected, atol=1e-6, rtol=1e-6)
        assert torch.isnan(lists.distances[q, len(ranking) :]).all()


def random_case(queries: int = 150, gallery: int = 700, width: int = 33, seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(41, width, generator=generator)
    query_pids = torch.randint(1, 40, (queries,), generator=generator)
    gallery_pids = torch.randint(-1, 41, (gallery,), generator=generator)
    return {
        "query_features": centers[query_pids] + torch.randn(queries, width, generator=generator),
        "query_pids": query_pids,
        "query_camids": torch.randint(1, 7, (queries,), generator=generator),
        "gallery_features": centers[gallery_pids.clamp(0)] + torch.randn(gallery, width, generator=generator),
        "gallery_pids": gallery_pids,
        "gallery_camids": torch.randint(1, 7, (gallery,), generator=generator),
    }


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_blocks_do_not_change_a_bit(metric: Metric) -> None:
    case = random_case()
    whole = evaluate(**case, metric=metric, block_size=1000)
    lists = rank_list(**case, metric=metric, block_size=1000)
    for block, chunk in ((1, None), (7, None), (100, None), (1, 1 << 20), (7, 1000), (64, 333)):
        with contextlib.ExitStack() as stack:
            if chunk is not None:
                stack.enter_context(by_torch)
                stack.enter_context(mock.patch.multiple(ordering, _GALLERY_CHUNK_VALUES=chunk, _RANKED_VALUES=chunk))
            part = evaluate(**case, metric=metric, block_size=block)
            part_lists = rank_list(**case, metric=metric, block_size=block)
        assert (part.mAP, part.mINP, part.num_valid_queries) == (whole.mAP, whole.mINP, whole.num_valid_queries)
        np.testing.assert_array_equal(part.cmc, whole.cmc)
        np.testing.assert_array_equal(part.average_precision, whole.average_precision)
        np.testing.assert_array_equal(part.first_hit_rank, whole.first_hit_rank)
        assert torch.equal(part_lists.indices, lists.indices)
        assert torch.equal(part_lists.distances, lists.distances)


def ranks_by_sorting(case: dict[str, Any], metric: str) -> np.ndarray:
    """Ranks of all right matches from a sort of float64 distances compared as float32, without blocks."""
    query, gallery = (case[f"{name}_features"].double().numpy() for name in ("query", "gallery"))
    if metric == "cosine":
        keys = -(query @ gallery.T) / np.linalg.norm(gallery, axis=1)
    else:
        keys = (gallery**2).sum(1) - 2 * query @ gallery.T
    ranks = []
    gallery_pids, gallery_camids = case["gallery_pids"].numpy(), case["gallery_camids"].numpy()
    for key, pid, camid in zip(
        keys.astype(np.float32), case["query_pids"].numpy(), case["query_camids"].numpy(), strict=True
    ):
        order = key.argsort(kind="stable")
        order = order[(gallery_pids[order] != -1) & ~((gallery_pids[order] == pid) & (gallery_camids[order] == camid))]
        ranks.append(np.flatnonzero(gallery_pids[order] == pid) + 1)
    return np.concatenate(ranks)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize(("width", "spread"), [(33, 1.0), (700, 1.0), (300, 1e-6)])
def test_ranks_are_those_of_float64(metric: Metric, width: int, spread: float) -> None:
    """With a small spread all distances are within float32's error of each other, so that none can be left to it."""
    case = random_case(queries=60, gallery=900, width=width)
    if spread < 1:
        generator = torch.Generator().manual_seed(5)
        noise = torch.randn(900, width, generator=generator) * spread
        case["gallery_features"] = torch.randn(width, generator=generator) + noise
    expected = ranks_by_sorting(case, metric)
    for threads in (1, 2, 3):
        with using_threads(threads):
            inputs = ordering.OrderedGallery(*case.values(), metric=metric, block_size=None)
            np.testing.assert_array_equal(metrics._ranks_on_cpu(inputs)[0].numpy(), expected)
    inputs = ordering.OrderedGallery(*case.values(), metric=metric, block_size=50)
    for got, want in zip(metrics._ranks_by_torch(inputs), metrics._ranks_on_cpu(inputs), strict=True):
        assert torch.equal(got, want)


@contextlib.contextmanager
def using_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def test_many_matches_and_many_gallery_ranges() -> None:
    """Two persons: each query has thousands of right matches, in several units of work."""
    generator = torch.Generator().manual_seed(1)
    case = {
        "query_features": torch.randn(9, 5, generator=generator),
        "query_pids": torch.randint(1, 3, (9,), generator=generator),
        "query_camids": torch.randint(1, 4, (9,), generator=generator),
        "gallery_features": torch.randn(9000, 5, generator=generator),
        "gallery_pids": torch.randint(-1, 3, (9000,), generator=generator),
        "gallery_camids": torch.randint(1, 4, (9000,), generator=generator),
    }
    with using_threads(2):
        ranks, _ = metrics._ranks_on_cpu(ordering.OrderedGallery(*case.values(), metric="cosine", block_size=4))
    np.testing.assert_array_equal(ranks.numpy(), ranks_by_sorting(case, "cosine"))


def test_memory_does_not_grow_with_the_distance_matrix() -> None:
    """1,500 x 200,000 distances would take 1.1 GiB."""
    code = """
import resource, torch
from dsa_fast.evaluation import evaluate
torch.set_num_threads(2)
g = torch.Generator().manual_seed(0)
q, x = torch.randn(1500, 2, generator=g), torch.randn(200000, 2, generator=g)
pids = [torch.randint(1, 5000, (n,), generator=g) for n in (1500, 200000)]
evaluate(q[:9], pids[0][:9], [1] * 9, x[:99999], pids[1][:99999], [2] * 99999)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
evaluate(q, pids[0], [1] * 1500, x, pids[1], [2] * 200000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    result = run_fresh(code)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 128 * 1024  # KiB


def test_operators_obey_pytorchs_rules() -> None:
    case = random_case(5, 40, 6)
    labels = ordering.OrderedGallery(*case.values(), metric="cosine", block_size=None).labels
    matches, left_out = labels.lists()
    junk = labels.gallery_pids == -1
    query, gallery = case["query_features"], case["gallery_features"]
    index = torch.tensor([0, 3])
    ops = torch.ops.dsa_fast
    torch.library.opcheck(ops.rank_matches, (query, gallery, junk, *matches, *left_out, True, 8))
    torch.library.opcheck(ops.rank_rows, (query @ gallery.T, junk, *matches, *left_out))
    torch.library.opcheck(ops.nearest, (query, gallery, 3, False, 8))
    torch.library.opcheck(ops.pair_distances, (query, gallery, index, index, True))


def test_operators_reach_outside_of_no_memory() -> None:
    x, junk, empty = torch.ones(2, 3), torch.zeros(2, dtype=torch.bool), torch.zeros(3, dtype=torch.int64)
    none = torch.zeros(0, dtype=torch.int64)
    good = (x, x, junk, empty, none, empty, none, True, 8)
    assert torch.ops.dsa_fast.rank_matches(*good).shape == (0,)
    for place, bad in (
        (0, x.half()),
        (1, torch.ones(2, 4)),
        (2, junk[:1]),
        (3, empty[:2]),
        (3, torch.tensor([0, 2, 1])),
        (4, torch.tensor([2])),
        (8, 0),
    ):
        with pytest.raises(RuntimeError, match="dsa_fast"):
            torch.ops.dsa_fast.rank_matches(*good[:place], bad, *good[place + 1 :])
    for k in (0, 3):
        with pytest.raises(RuntimeError, match="k must be in 1..2"):
            rank_ops.nearest(x, x, k, cosine=True)
    with pytest.raises(RuntimeError, match="index out of range"):
        rank_ops.pair_distances(x, x, torch.tensor([0]), torch.tensor([2]), cosine=True)


def test_scores_worked_by_hand() -> None:
    # Gallery, nearest first: junk, own camera, wrong, right, distractor, right.
    gallery = np.array([[0.9], [1.1], [1.2], [1.3], [1.4], [1.5]])
    result = evaluate(
        [[1.0]], [7], [1], gallery, [-1, 7, 3, 7, 0, 7], [2, 1, 1, 2, 2, 3], metric="euclidean", max_rank=3
    )
    assert result.mAP == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert result.mINP == pytest.approx(2 / 4)
    assert result.cmc.tolist() == [0, 1, 1]
    assert result.rank(2) == 1
    assert result.first_hit_rank.tolist() == [2]
    assert list(result.summary((1, 2)).values()) == [result.mAP, result.mINP, 0, 1]


def test_trapezoid_is_market_1501s() -> None:
    """Right matches at ranks 1, 3 and 4 of 4."""
    arguments = ([[1.0]], [7], [1], np.array([[1.1], [1.2], [1.3], [1.4]]), [7, 3, 7, 7], [2, 2, 2, 2])
    result = evaluate(*arguments, metric="euclidean", average_precision="trapezoid")
    # (precision before + precision at) / 2 at each: before the first place it is 1.
    assert result.mAP == pytest.approx(((1 + 1) / 2 + (1 / 2 + 2 / 3) / 2 + (2 / 3 + 3 / 4) / 2) / 3)
    assert evaluate(*arguments, metric="euclidean").mAP == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_trapezoid_equals_walking_the_list(case: dict[str, Any]) -> None:
    expected = []
    for q, pid in enumerate(case["query_pids"]):
        right = [case["gallery_pids"][j] == pid for j in reference_ranking(case, q)]
        area, found, precision = 0.0, 0, 1.0
        for place, hit in enumerate(right, 1):
            found += hit
            if hit:
                area += (precision + found / place) / 2 / sum(right)
            precision = found / place
        if any(right):
            expected.append(area)
    if expected:
        result = evaluate(**as_arrays(case), average_precision="trapezoid")
        assert result.mAP == pytest.approx(sum(expected) / len(expected), abs=1e-12)


@pytest.mark.parametrize("block", [1, 7, 64, 1000])
def test_given_distances_score_like_features(block: int) -> None:
    case = random_case()
    labels = [case[name] for name in ("query_pids", "query_camids", "gallery_pids", "gallery_camids")]
    query, gallery = case["query_features"].double(), case["gallery_features"].double()
    distances = (1 - torch.nn.functional.normalize(query) @ torch.nn.functional.normalize(gallery).T) * 1e3
    expected = evaluate(**case)
    for given_distances in (distances, distances.numpy(), lambda start, stop: distances[start:stop].float()):
        result = evaluate_distances(given_distances, *labels, block_size=block)
        assert result.mAP == pytest.approx(expected.mAP, abs=1e-6)
        np.testing.assert_array_equal(result.cmc, expected.cmc)


@settings(max_examples=100, deadline=None)
@given(cases(), st.integers(1, 9))
def test_given_distances_tie_by_index(case: dict[str, Any], block: int) -> None:
    distances = np.array(
        [[sum((a - b) ** 2 for a, b in zip(q, g, strict=True)) for g in case["gallery_features"]]
         for q in case["query_features"]]
    )  # fmt: skip
    expected = reference_scores({**case, "metric": "euclidean"}, 50)
    labels = [case[name] for name in ("query_pids", "query_camids", "gallery_pids", "gallery_camids")]
    if expected is not None:
        result = evaluate_distances(distances, *labels, block_size=block)
        assert (result.mAP, result.mINP) == pytest.approx((expected[0], expected[2]), abs=1e-12)


@pytest.mark.parametrize(
    ("distances", "changes", "message"),
    [
        (np.zeros((2, 4)), {}, r"distances must have shape \[Q, G\] = \[2, 3\], got \[2, 4\]"),
        (lambda start, stop: np.zeros((1, 3)), {}, r"distances\(0, 2\) must have shape \[2, 3\], got \[1, 3\]"),
        (np.full((2, 3), np.nan), {}, "distances must be numbers, got NaN"),
        (np.zeros((2, 3)), {"block_size": 0}, "block_size must be at least 1"),
        (np.zeros((2, 3)), {"average_precision": "round"}, "average_precision must be"),
    ],
)
def test_bad_distances_are_named(distances: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_distances(distances, [1, 2], [1, 1], [1, 2, 0], [2, 2, 2], **changes)


def test_images_are_pooled_by_person_and_camera() -> None:
    features = np.array([[1.0, 5], [3, 1], [7, 7], [2, 0]], np.float32)
    mean = pool_images(features, [5, 5, 2, 5], [1, 1, 1, 3])
    assert [part.tolist() for part in mean] == [[[7, 7], [2, 3], [2, 0]], [2, 5, 5], [1, 1, 3]]
    assert pool_images(features, [5, 5, 2, 5], [1, 1, 1, 3], reduce="max")[0].tolist() == [[7, 7], [3, 5], [2, 0]]
    with pytest.raises(ValueError, match="reduce must be"):
        pool_images(features, [5, 5, 2, 5], [1, 1, 1, 3], reduce="sum")  # type: ignore[arg-type]


def test_only_queries_with_a_match_count() -> None:
    # The second query's person is in the gallery only on its own camera, the third's not at all.
    result = evaluate(np.eye(3), [1, 2, 3], [1, 1, 1], np.eye(3)[[0, 1, 1]], [1, 2, 0], [2, 1, 2])
    assert result.num_valid_queries == 1
    assert result.mAP == 1
    assert result.first_hit_rank.tolist() == [1, 0, 0]
    assert np.isnan(result.average_precision).tolist() == [False, True, True]


def test_ties_go_to_the_lower_index() -> None:
    features = np.ones((6, 5))
    for right in range(6):
        pids = [2] * 6
        pids[right] = 1
        result = evaluate(np.ones((1, 5)), [1], [1], features, pids, [2] * 6)
        assert result.first_hit_rank.tolist() == [right + 1]


def test_equal_images_tie_whatever_their_place_in_a_long_gallery() -> None:
    generator = torch.Generator().manual_seed(3)
    query = torch.randn(5, 129, generator=generator)
    gallery = torch.randn(1, 129, generator=generator).repeat(1001, 1)
    pids = torch.full((1001,), 9)
    pids[500] = 1
    for metric in ("cosine", "euclidean"):
        result = evaluate(query, [1] * 5, [1] * 5, gallery, pids, [2] * 1001, metric=metric)
        assert result.first_hit_rank.tolist() == [501] * 5


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_scores_do_not_depend_on_the_unit(metric: Metric, scale: float) -> None:
    case = random_case()
    scaled = {name: value.double() * scale if name.endswith("features") else value for name, value in case.items()}
    assert evaluate(**scaled, metric=metric).mAP == pytest.approx(evaluate(**case, metric=metric).mAP, abs=1e-6)


def test_cosine_ignores_length_and_euclidean_does_not() -> None:
    gallery = [[5.0, 0.0], [0.9, 0.5]]
    arguments = ([[1.0, 0.0]], [1], [1], np.array(gallery), [1, 2], [2, 2])
    assert evaluate(*arguments, metric="cosine").first_hit_rank.tolist() == [1]
    assert evaluate(*arguments, metric="euclidean").first_hit_rank.tolist() == [2]


def test_half_precision_and_arrays_are_read() -> None:
    case = random_case()
    full = evaluate(**case)
    arrays = {name: value.numpy() for name, value in case.items()}
    assert evaluate(**arrays).mAP == full.mAP
    for dtype in (torch.float16, torch.bfloat16):
        half = {name: value.to(dtype) if name.endswith("features") else value for name, value in case.items()}
        assert evaluate(**half).mAP == pytest.approx(full.mAP, abs=0.02)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"metric": "manhattan"}, ValueError, "metric must be"),
        ({"max_rank": 0}, ValueError, "max_rank must be at least 1, got 0"),
        ({"block_size": 0}, ValueError, "block_size must be at least 1, got 0"),
        ({"query_features": np.zeros(4)}, ValueError, r"query_features must have shape \[N, D\]"),
        ({"query_features": np.zeros((0, 2))}, ValueError, r"query_features must have shape \[N, D\]"),
        ({"gallery_features": np.ones((3, 5))}, ValueError, "same number of columns, got 2 and 5"),
        ({"gallery_features": np.array([[1, np.nan]] * 3)}, ValueError, "gallery_features must be finite"),
        ({"gallery_features": np.ones((3, 2), bool)}, TypeError, "gallery_features must be real numbers"),
        ({"gallery_pids": [1, 2]}, ValueError, r"gallery_pids must have shape \[3\].*got \[2\]"),
        ({"gallery_camids": [1.0, 2.0, 3.0]}, TypeError, "gallery_camids must be integers"),
        ({"gallery_pids": [1, 2, -2]}, ValueError, "gallery_pids must be -1"),
        ({"query_pids": [0, 1]}, ValueError, "query_pids must be above 0.*got 0"),
    ],
)
def test_bad_input_is_named(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    good: dict[str, Any] = {
        "query_features": np.eye(2),
        "query_pids": [1, 2],
        "query_camids": [1, 1],
        "gallery_features": np.ones((3, 2)),
        "gallery_pids": [1, 2, 0],
        "gallery_camids": [2, 2, 2],
    }
    evaluate(**good)
    with pytest.raises(error, match=message):
        evaluate(**{**good, **changes})


def test_rank_and_k_out_of_range_are_named() -> None:
    case = random_case()
    result = evaluate(**case, max_rank=5)
    for k in (0, 6):
        with pytest.raises(ValueError, match=r"k must be in 1..5"):
            result.rank(k)
    with pytest.raises(ValueError, match="k must be at least 1"):
        rank_list(**case, k=0)


# ----------------------------------------------------------------------------------------------- colour histograms


def random_images(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(("bins", "stripes", "height"), [(8, 6, 20), (4, 1, 5), (3, 5, 5)])
def test_rgb_histograms_equal_counting(bins: int, stripes: int, height: int) -> None:
    images = random_images(3, height, 7)
    features = histogram_features(images, space="rgb", bins=bins, stripes=stripes)
    for image, feature in zip(images.tolist(), features.view(3, stripes, bins, bins, bins), strict=True):
        counts = torch.zeros(stripes, bins, bins, bins)
        rows = [0] * stripes
        for y in range(height):
            stripe = y * stripes // height
            rows[stripe] += 1
            for x in range(7):
                r, g, b = (image[c][y][x] * bins // 256 for c in range(3))
                counts[stripe, r, g, b] += 1
        for stripe in range(stripes):
            counts[stripe] /= rows[stripe] * 7 * stripes
        torch.testing.assert_close(feature, counts.sqrt())


def test_histograms_have_unit_length_and_do_not_depend_on_chunks() -> None:
    images = random_images(9, 32, 16)
    features = histogram_features(images)
    assert features.shape == (9, 6 * 512)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(9))
    with mock.patch("dsa_fast.evaluation.color_histogram._CHUNK_PIXELS", 2 * 32 * 16):
        assert torch.equal(histogram_features(images), features)
    assert histogram_features(images[:0]).shape == (0, 6 * 512)


def test_hue_saturation_and_value_are_those_of_colorsys() -> None:
    images = torch.cat((random_images(1, 40, 40), random_images(1, 40, 40) // 64 * 64))
    hsv = _hsv(images)
    assert hsv.min() >= 0 and hsv.max() <= 255
    for image, got in zip(images.flatten(2).mT.tolist(), hsv.flatten(2).mT.tolist(), strict=True):
        for pixel, (hue, saturation, value) in zip(image, got, strict=True):
            h, s, v = colorsys.rgb_to_hsv(*(c / 255 for c in pixel))
            assert abs(h - hue / 256) <= 1 / 256 + 1e-9
            assert abs(s - saturation / 255) <= 1 / 255 + 1e-9
            assert math.isclose(v, value / 255)


def test_histograms_find_the_same_colours_elsewhere() -> None:
    red, blue = torch.zeros(2, 3, 12, 8, dtype=torch.uint8)
    red[0], blue[2] = 200, 200
    upside = torch.cat((red[:, :6], blue[:, 6:]), dim=1)
    features = histogram_features(torch.stack((red, blue, upside, upside.flip(-1), upside.flip(-2))))
    near = features @ features.T
    assert near[0, 1] == 0
    assert near[2, 3] == pytest.approx(1)
    assert near[2, 0] == pytest.approx(0.5)
    assert near[2, 4] == 0  # stripes know top from bottom


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"images": torch.zeros(1, 3, 8, 8)}, TypeError, "images must be a uint8 tensor, got torch.float32"),
        ({"images": torch.zeros(3, 8, 8, dtype=torch.uint8)}, ValueError, r"images must have shape \[N, 3, H, W\]"),
        ({"space": "lab"}, ValueError, "space must be"),
        ({"bins": 0}, ValueError, r"bins must be in 1..256, got 0"),
        ({"stripes": 9}, ValueError, r"stripes must be in 1..8"),
    ],
)
def test_bad_histogram_input_is_named(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        histogram_features(**{"images": torch.zeros(1, 3, 8, 8, dtype=torch.uint8), **arguments})


def test_the_package_has_what_users_look_for_and_needs_no_plots_and_no_training() -> None:
    names = "evaluate rank_list pool_images k_reciprocal expand_queries embed_people Embedder histogram_features"
    code = (
        f"import sys; from dsa_fast.evaluation import {', '.join(names.split())}; "
        "sys.exit(any(name in sys.modules for name in ('matplotlib', 'lightning', 'tensorboard')))"
    )
    done = run_fresh(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("device", ["cpu", "torch"])
def test_camids_of_several_columns_leave_out_images_equal_in_any(device: str) -> None:
    rng = np.random.default_rng(3)
    query, gallery = rng.normal(size=(20, 4)), rng.normal(size=(90, 4))
    pids = rng.integers(1, 6, 20), rng.integers(-1, 6, 90)
    camids = rng.integers(1, 3, (20, 2)), rng.integers(1, 4, (90, 2))
    with by_torch if device == "torch" else contextlib.nullcontext():
        found = evaluate(query, pids[0], camids[0], gallery, pids[1], camids[1])
    # One query at a time, without the images that it leaves out.
    precisions = []
    for q in range(20):
        kept = ~((pids[1] == pids[0][q]) & (camids[1] == camids[0][q]).any(1))
        if (pids[1][kept] == pids[0][q]).any():
            zeros = np.zeros(kept.sum(), int)
            alone = evaluate(query[q : q + 1], pids[0][q : q + 1], [1], gallery[kept], pids[1][kept], zeros)
            precisions.append(alone.mAP)
    assert found.num_valid_queries == len(precisions) and found.mAP == pytest.approx(np.mean(precisions), abs=1e-12)
    # The other users of the labels.
    lists = rank_list(query, pids[0], camids[0], gallery, pids[1], camids[1], k=5)
    for q, items in enumerate(lists.indices.tolist()):
        assert not any(pids[1][j] == pids[0][q] and (camids[1][j] == camids[0][q]).any() for j in items if j >= 0)
    histogram = distance_histogram(query, pids[0], camids[0], gallery, pids[1], camids[1])
    same = (pids[0][:, None] == pids[1]) & ~(camids[0][:, None] == camids[1]).any(2)
    assert histogram.same.sum() == same.sum()
    # One column is the usual form.
    one = evaluate(query, pids[0], camids[0][:, :1], gallery, pids[1], camids[1][:, :1])
    assert one.mAP == evaluate(query, pids[0], camids[0][:, 0], gallery, pids[1], camids[1][:, 0]).mAP
    with pytest.raises(ValueError, match="same number of columns, got 1 and 2"):
        evaluate(query, pids[0], camids[0][:, 0], gallery, pids[1], camids[1])
    with pytest.raises(TypeError, match="query_camids must be integers"):
        evaluate(query, pids[0], camids[0] * 0.5, gallery, pids[1], camids[1])


def test_as_tested_stacks_clothes_and_pools_tracklets() -> None:
    people = [
        Person(Path("0.jpg"), None, 3, 1, clothes=0, tracklet=9),
        Person(Path("1.jpg"), None, 5, 1, clothes=1, tracklet=2),
        Person(Path("2.jpg"), None, 3, 1, clothes=0, tracklet=9),
    ]
    embedded = Embedded(torch.tensor([[1.0], [4.0], [3.0]]), torch.tensor([3, 5, 3]), torch.tensor([1, 1, 1]))
    data = PeopleSplits("own", Path(), [], people, people)
    assert as_tested(embedded, people, data) is embedded
    dressed = as_tested(embedded, people, replace(data, other_clothes=True))
    assert dressed.camids.tolist() == [[1, -1], [1, 1], [1, -3]]  # unknown clothes differ from all others
    pooled = as_tested(embedded, people, replace(data, pool_tracklets=True))
    assert pooled.features.tolist() == [[4.0], [2.0]] and pooled.pids.tolist() == [5, 3]
    with pytest.raises(ValueError, match="people must be those of the 3 vectors, got 2"):
        as_tested(embedded, people[:2], replace(data, pool_tracklets=True))
