"""k-reciprocal re-ranking against a dense plain version of the paper's method, and query expansion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dsa_fast.cli import main
from dsa_fast.evaluation import evaluate, evaluate_distances, rerank


def people(queries: int, gallery: int, width: int, seed: int = 0, noise: float = 1.0) -> tuple[torch.Tensor, ...]:
    """Query features and pids, gallery features and pids, of people who look like themselves to a degree."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(max(2, (queries + gallery) // 12), width, generator=generator)
    pids = torch.randint(0, len(centers), (queries + gallery,), generator=generator)
    features = centers[pids] + noise * torch.randn(queries + gallery, width, generator=generator)
    return features[:queries], pids[:queries] + 1, features[queries:], pids[queries:] + 1


def plain(query: np.ndarray, gallery: np.ndarray, k1: int, k2: int, weight: float, metric: str) -> np.ndarray:
    """The paper's formulas with sets and dense matrices, in float64."""
    x = np.concatenate((query, gallery)).astype(np.float64)
    if metric == "cosine":
        x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32).astype(np.float64)
    n = len(x)
    distance = ((x[:, None] - x[None]) ** 2).sum(2)
    order = np.argsort(distance, axis=1, kind="stable")
    distance = distance / distance.max(1, keepdims=True)

    def mutual(i: int, k: int) -> set[int]:  # R(i, k): the image itself and its k neighbours, if they agree
        return {int(j) for j in order[i, : k + 1] if i in order[j, : k + 1]}

    code = np.zeros((n, n))
    for i in range(n):
        own = mutual(i, k1)
        grown = set(own)
        for j in own:
            brought = mutual(j, round(k1 / 2))
            if 3 * len(brought & own) > 2 * len(brought):
                grown |= brought
        columns = sorted(grown)
        code[i, columns] = np.exp(-distance[i, columns])
        code[i] /= code[i].sum()
    if k2 > 1:
        code = np.stack([code[order[i, :k2]].mean(0) for i in range(n)])
    q = len(query)
    shared = np.minimum(code[:q, None], code[None, q:]).sum(2)
    return (1 - shared / (2 - shared)) * (1 - weight) + distance[:q, q:] * weight


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(3, 60),
    st.integers(1, 20),
    st.integers(1, 7),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.sampled_from(["cosine", "euclidean"]),
    st.integers(0, 1000),
)
def test_distances_are_the_papers(
    queries: int, gallery: int, k1: int, k2: int, weight: float, metric: Any, seed: int
) -> None:
    k1 = min(k1, queries + gallery - 1)
    k2 = min(k2, k1 + 1)
    query, _, items, _ = people(queries, gallery, 8, seed)
    result = rerank.k_reciprocal(query, items, k1=k1, k2=k2, lambda_value=weight, metric=metric)
    expected = plain(query.numpy(), items.numpy(), k1, k2, weight, metric)
    np.testing.assert_allclose(result(0, queries).numpy(), expected, atol=3e-6)


def test_default_parameters_on_a_larger_set() -> None:
    query, _, gallery, _ = people(40, 350, 24)
    expected = plain(query.numpy(), gallery.numpy(), 20, 6, 0.3, "cosine")
    np.testing.assert_allclose(rerank.k_reciprocal(query, gallery)(0, 40).numpy(), expected, atol=3e-6)


def test_blocks_and_devices_change_nothing() -> None:
    query, _, gallery, _ = people(30, 200, 40)
    whole = rerank.k_reciprocal(query, gallery)(0, 30)
    with mock.patch.multiple(rerank, _ROWS=7, _VALUES=999):
        small = rerank.k_reciprocal(query, gallery)
        torch.testing.assert_close(small(0, 30), whole, atol=1e-6, rtol=0)
        assert torch.equal(torch.cat([small(start, start + 5) for start in range(0, 30, 5)]), small(0, 30))
        assert small(4, 4).shape == (0, 200)
    with mock.patch.object(rerank, "_nearest", rerank._nearest_torch):  # what other devices do
        assert torch.equal(rerank.k_reciprocal(query, gallery)(0, 30), whole)


def test_it_improves_the_ranking_and_scores_in_blocks() -> None:
    query, query_pids, gallery, gallery_pids = people(60, 400, 16, noise=1.2)
    labels = (query_pids, [1] * 60, gallery_pids, [2] * 400)
    before = evaluate(query, query_pids, [1] * 60, gallery, gallery_pids, [2] * 400)
    result = rerank.k_reciprocal(query, gallery)
    after = evaluate_distances(result, *labels, block_size=13)
    assert after.mAP > before.mAP + 0.02
    assert after.mAP == evaluate_distances(result(0, 60), *labels).mAP


@pytest.mark.parametrize("scale", [1e-18, 1e18])
def test_the_unit_of_features_does_not_matter(scale: float) -> None:
    query, _, gallery, _ = people(10, 60, 8)
    for metric in ("cosine", "euclidean"):
        expected = rerank.k_reciprocal(query, gallery, k1=8, metric=metric)(0, 10)
        got = rerank.k_reciprocal(query * scale, gallery * scale, k1=8, metric=metric)(0, 10)
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_equal_images_and_zeros_are_no_error() -> None:
    for features in (torch.ones(12, 4), torch.zeros(12, 4)):
        for metric in ("cosine", "euclidean"):
            result = rerank.k_reciprocal(features[:3], features[3:], k1=5, k2=2, metric=metric)(0, 3)
            assert torch.isfinite(result).all() and result.min() >= 0


@pytest.mark.parametrize("alpha", [0.0, 1.0, 3.0])
def test_expansion_is_the_weighted_mean_of_neighbours(alpha: float) -> None:
    query, _, gallery, _ = people(9, 50, 6)
    q, g = (x.double() / x.double().norm(dim=1, keepdim=True) for x in (query, gallery))
    expected = []
    for row in q:
        cosine = g @ row
        near = cosine.argsort(descending=True)[:4]
        mean = row + (cosine[near].clamp(min=0)[:, None] ** alpha * g[near]).sum(0)
        expected.append(mean / mean.norm())
    got = rerank.expand_queries(query, gallery, k=4, alpha=alpha)
    torch.testing.assert_close(got.double(), torch.stack(expected), atol=1e-6, rtol=0)
    with mock.patch.object(rerank, "_VALUES", 50):
        assert torch.equal(rerank.expand_queries(query, gallery, k=4, alpha=alpha), got)


def test_expansion_improves_the_ranking() -> None:
    query, query_pids, gallery, gallery_pids = people(60, 400, 16, noise=1.2)
    arguments = (query_pids, [1] * 60, gallery, gallery_pids, [2] * 400)
    assert evaluate(rerank.expand_queries(query, gallery, k=5), *arguments).mAP > evaluate(query, *arguments).mAP + 0.02


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k1": 0}, "k1 must be in 1..9"),
        ({"k1": 10}, "k1 must be in 1..9"),
        ({"k2": 0}, "k2 must be in 1..k1 [+] 1 = 6"),
        ({"k2": 7}, "k2 must be in 1..k1 [+] 1 = 6"),
        ({"lambda_value": 1.1}, "lambda_value must be in"),
        ({"metric": "manhattan"}, "metric must be"),
        ({"gallery_features": np.ones((7, 5))}, "same number of columns, got 2 and 5"),
    ],
)
def test_bad_input_is_named(changes: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"query_features": np.eye(3, 2), "gallery_features": np.ones((7, 2)), "k1": 5, "k2": 2}
    result = rerank.k_reciprocal(**good)
    with pytest.raises(ValueError, match=message):
        rerank.k_reciprocal(**{**good, **changes})
    with pytest.raises(ValueError, match="start and stop"):
        result(0, 4)
    for bad, words in (({"k": 8}, "k must be in 1..7"), ({"alpha": -1.0}, "alpha must be")):
        with pytest.raises(ValueError, match=words):
            rerank.expand_queries(good["query_features"], good["gallery_features"], **{"k": 2, **bad})


# ---- dsa-fast eval -------------------------------------------------------------------------------------------------


def store(path: Path, **changes: Any) -> Path:
    query, query_pids, gallery, gallery_pids = people(60, 400, 16, noise=1.2)
    arrays: dict[str, Any] = {
        "query_features": query.numpy(),
        "query_pids": query_pids.numpy(),
        "query_camids": np.ones(60, np.int64),
        "gallery_features": gallery.numpy(),
        "gallery_pids": gallery_pids.numpy(),
        "gallery_camids": np.full(400, 2),
        **changes,
    }
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def test_command_scores_stored_features(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored, scores, copy = store(tmp_path / "mine.npz"), tmp_path / "scores.json", tmp_path / "copy.npz"
    arguments = ["eval", "--features", str(stored), "--device", "cpu"]
    assert main([*arguments, "--rerank", "--expand", "5", "--json_out", str(scores), "--save_features", str(copy)]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("mine", "re-ranked", "expanded", "60 queries, 400 gallery images"))
    got = json.loads(scores.read_text())
    with np.load(stored) as first, np.load(copy) as second:
        assert sorted(first.files) == sorted(second.files)
        assert all((first[name] == second[name]).all() for name in first.files)
        labels = [first[name] for name in ("query_pids", "query_camids", "gallery_pids", "gallery_camids")]
        expected = evaluate(first["query_features"], *labels[:2], first["gallery_features"], *labels[2:])
        reranked = rerank.k_reciprocal(first["query_features"], first["gallery_features"])
    assert got["mAP"] == expected.mAP
    assert got["reranked"] == evaluate_distances(reranked, *labels).summary()
    assert got["expanded"]["mAP"] > got["mAP"]
    # Without asking for them there are no such figures.
    assert main([*arguments, "--json_out", str(scores), "--average_precision", "trapezoid"]) == 0
    plain_scores = json.loads(scores.read_text())
    assert not {"reranked", "expanded"} & set(plain_scores) and plain_scores["mAP"] != expected.mAP


def test_command_names_what_is_wrong_with_stored_features(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.npz"
    text.write_text("no archive")
    lacking = store(tmp_path / "lacking.npz", gallery_pids=None)
    pickled = store(tmp_path / "pickled.npz", query_pids=np.array([{}] * 60, dtype=object))
    for arguments, words in (
        (["--features", str(text)], "text.npz"),
        (["--features", str(lacking)], "it has no gallery_pids"),
        (["--features", str(pickled)], "allow_pickle=False"),
        (["--features", str(tmp_path / "none.npz")], "no such file"),
        (["model.ckpt", "--features", str(lacking)], "features replaces checkpoint"),
        (["model.ckpt"], "CHECKPOINT and ROOT must be given"),
        ([], "CHECKPOINT and ROOT must be given"),
    ):
        assert main(["eval", *arguments]) == 1
        assert words in capsys.readouterr().err
