"""Distances weighted by visibility: plain loops over parts, limits, and both sources of visibility."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from dsa_fast.cli import main
from dsa_fast.data.registry import read_dataset
from dsa_fast.densepose.parts import MERGE_13_TO_8, MERGE_24_TO_13, MERGED_NAMES
from dsa_fast.densepose.visibility import FULL, TEXELS, part_presence, part_visibility
from dsa_fast.evaluation import (
    ModelEmbedder,
    PartVisibility,
    VisibleDistances,
    VisibleEmbedder,
    embed_people,
    evaluate,
    evaluate_distances,
    visible_distances,
)
from dsa_fast.models import GuideConfig, load_model
from dsa_fast.training import fit
from tests.training.small import AUGMENT, MODEL, TRAINER, config

GROUPS = [[label for middle in group for label in MERGE_24_TO_13[middle]] for group in MERGE_13_TO_8]


def plain_distance(q: Tensor, g: Tensor, wq: Tensor, wg: Tensor, dim: int) -> float:
    """One pair, part by part."""
    split = len(q) - len(wq) * dim
    dot = a = b = 0.0
    weights = [float(x * y) for x, y in zip(wq, wg, strict=True)]
    shared = sum(weights) > 0
    for part, weight in enumerate(weights if shared else [1.0] * len(wq)):
        columns = slice(split + part * dim, split + (part + 1) * dim)
        dot += weight * float(q[columns] @ g[columns])
        a += weight * float(q[columns] @ q[columns])
        b += weight * float(g[columns] @ g[columns])
    local = dot / math.sqrt(a * b) if a * b > 0 else 0.0
    if not split:
        return 1 - local
    whole = float(functional.cosine_similarity(q[:split], g[:split], dim=0))
    return 1 - (whole + local) / 2 if shared else 1 - whole


def make(seed: int, rows: int, parts: int, dim: int, split: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(rows, split + parts * dim, dtype=torch.float64, generator=generator)
    seen = torch.rand(rows, parts, dtype=torch.float64, generator=generator)
    return features, seen * (torch.rand(rows, parts, generator=generator) < 0.6)  # many hidden parts


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 6), st.integers(1, 4), st.integers(1, 3), st.booleans()
)
def test_distances_equal_a_loop(seed: int, queries: int, gallery: int, parts: int, dim: int, local_only: bool) -> None:
    split = 0 if local_only else 5
    (q, wq), (g, wg) = make(seed, queries, parts, dim, split), make(seed + 1, gallery, parts, dim, split)
    expected = [
        [plain_distance(a, b, x, y, dim) for b, y in zip(g, wg, strict=True)] for a, x in zip(q, wq, strict=True)
    ]
    torch.testing.assert_close(visible_distances(q, g, PartVisibility(wq, wg, dim)), torch.tensor(expected))


def test_tiles_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    (q, wq), (g, wg) = make(0, 7, 4, 3, 5), make(1, 11, 4, 3, 5)
    whole = visible_distances(q, g, PartVisibility(wq, wg, 3))
    monkeypatch.setattr("dsa_fast.evaluation.visibility._CHUNK_VALUES", 60)  # three gallery rows at a time
    distances = VisibleDistances(q, g, PartVisibility(wq, wg, 3))
    torch.testing.assert_close(torch.cat([distances(0, 2), distances(2, 7)]), whole)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 1), st.floats(0.01, 1), st.booleans())
def test_equal_visibilities_give_the_plain_distance(seed: int, x: float, y: float, local_only: bool) -> None:
    """Of halves of length 1, as `embed` gives them."""
    split = 0 if local_only else 6
    q, g = (
        torch.cat([functional.normalize(half, dim=1) for half in rows.tensor_split([split], dim=1)], dim=1)
        for rows in (make(seed, 4, 8, 2, split)[0], make(seed + 1, 5, 8, 2, split)[0])
    )
    found = visible_distances(q, g, PartVisibility(torch.full((4, 8), x), torch.full((5, 8), y), 2))
    torch.testing.assert_close(found, 1 - functional.cosine_similarity(q[:, None], g[None], dim=2).float())


def test_hidden_parts_do_not_count() -> None:
    (q, _), (g, _) = make(0, 3, 4, 2, 4), make(1, 3, 4, 2, 4)
    wq, wg = torch.ones(3, 4), torch.ones(3, 4)
    wq[:, 1] = wg[:, 3] = 0  # each hides a part of the other's
    before = visible_distances(q, g, PartVisibility(wq, wg, 2))
    q[:, 6:8] += 100
    g[:, 6:8] -= 100
    q[:, 10:12] = 7
    g[:, 10:12] = -7
    torch.testing.assert_close(visible_distances(q, g, PartVisibility(wq, wg, 2)), before)


def test_evaluate_by_visibility_and_without() -> None:
    (q, wq), (g, wg) = make(3, 6, 8, 2, 4), make(4, 20, 8, 2, 4)
    labels = (1 + torch.arange(6), torch.zeros(6).long(), torch.arange(20) % 7, torch.ones(20).long())
    seen = PartVisibility(wq, wg, 2)
    found = evaluate(q, *labels[:2], g, *labels[2:], visibility=seen, block_size=4)
    expected = evaluate_distances(visible_distances(q, g, seen), *labels)
    assert found.summary() == expected.summary() != evaluate(q, *labels[:2], g, *labels[2:]).summary()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": torch.ones(2, 8)}, "visibility.query must have a row for each feature, 6"),
        ({"gallery": torch.ones(20, 7)}, "same number of columns, got 8 and 7"),
        ({"query": torch.full((6, 8), 1.5)}, "visibility.query must be in [0, 1], got 1.5..1.5"),
        ({"gallery": torch.full((20, 8), torch.nan)}, "visibility.gallery must be finite"),
        ({"dim": 3}, "visibility.dim must be the length of a part's feature"),
        ({"dim": 0}, "visibility.dim must be"),
    ],
)
def test_wrong_visibilities(change: dict, message: str) -> None:
    q, g = make(0, 6, 8, 2, 4)[0], make(1, 20, 8, 2, 4)[0]
    with pytest.raises(ValueError, match=re.escape(message)):
        visible_distances(q, g, PartVisibility(torch.ones(6, 8), torch.ones(20, 8), 2)._replace(**change))


def test_visibility_is_for_the_cosine_and_one_row_a_query() -> None:
    q, g = make(0, 6, 8, 2, 4)[0], make(1, 20, 8, 2, 4)[0]
    seen = PartVisibility(torch.ones(6, 8), torch.ones(20, 8), 2)
    labels = [1] * 6, [0] * 6, g, [1] * 20, [1] * 20
    with pytest.raises(ValueError, match="metric must be cosine with visibility, got euclidean"):
        evaluate(q, *labels, metric="euclidean", visibility=seen)
    with pytest.raises(ValueError, match="query_pids must have shape"):
        evaluate(q, [1] * 5, [0] * 5, *labels[2:], visibility=seen)


def test_visibility_of_a_map_equals_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    iuv = torch.randint(0, 256, (3, 3, 9, 5), dtype=torch.uint8, generator=generator)
    iuv[:, 0] %= 25
    iuv[2, 0] = 0
    found = part_visibility(iuv)
    for person in range(2):
        cells = {(int(i), int(u) * TEXELS // 255, int(v) * TEXELS // 255) for i, u, v in iuv[person].flatten(1).T if i}
        cells = {(i, min(u, TEXELS - 1), min(v, TEXELS - 1)) for i, u, v in cells}
        for part, middles in enumerate(MERGE_13_TO_8):
            shares = [
                sum(sum(cell[0] == label for cell in cells) / TEXELS**2 for label in MERGE_24_TO_13[middle])
                / len(MERGE_24_TO_13[middle])
                for middle in middles
            ]
            assert float(found[person, part]) == pytest.approx(min(1, sum(shares) / len(shares) / FULL))
    assert found[2].tolist() == [1.0] * 8  # no part at all: the map is missing
    with pytest.raises(ValueError, match="full must be in"):
        part_visibility(iuv, full=0)


def test_presence_is_the_largest_probability_of_a_group() -> None:
    logits = torch.full((2, 25, 3, 4), -20.0)
    logits[:, 0] = 0
    logits[0, GROUPS[4][1], 1, 2] = 20  # a lower leg
    for label in GROUPS[1]:
        logits[1, label, 0, 0] = 20  # both hands alike: they share the probability
    found = part_presence(logits)
    expected = torch.zeros(2, 8)
    expected[0, 4] = expected[1, 1] = 1
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="logits must have shape"):
        part_presence(logits[:, :24])


@pytest.fixture(scope="module")
def dense(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of both streams that was trained with the dense guide."""
    trainer = replace(TRAINER, max_epochs=1, eval_every=0)
    guide = GuideConfig(dense=0.5, dense_channels=12, dense_scale=2)
    out = tmp_path_factory.mktemp("dense")
    return fit(config(people), MODEL, augment=AUGMENT, trainer=trainer, out=out, guide=guide).checkpoint


def test_the_decoder_comes_with_the_checkpoint(dense: Path, people: Path) -> None:
    loaded, state = load_model(dense), torch.load(dense, weights_only=True)["state_dict"]
    assert loaded.decoder is not None and loaded.decoder.scale == 2 and not loaded.decoder.training
    for name, value in loaded.decoder.state_dict().items():
        torch.testing.assert_close(value, state[f"guides.decoder.{name}"], rtol=0, atol=0)


@pytest.mark.parametrize(("source", "fused"), [("maps", False), ("maps", True), ("head", False)])
def test_embedder_gives_vectors_and_visibilities(source: str, fused: bool, dense: Path, people: Path) -> None:
    loaded, data = load_model(dense), read_dataset(people)
    embedder = VisibleEmbedder(loaded, source, fused=fused)  # type: ignore[arg-type]
    vectors, seen = embedder.split(embed_people(embedder, data.gallery))
    plain = embed_people(ModelEmbedder(loaded, fused=fused), data.gallery)
    torch.testing.assert_close(vectors.features, plain.features)
    assert seen.shape == (len(data.gallery), len(MERGED_NAMES)) and bool(((seen >= 0) & (seen <= 1)).all())
    assert 8 * embedder.dim == loaded.model.embed_dims[1]
    if source == "maps":
        bare = [replace(person, iuv_path=None) for person in data.gallery]
        if fused:
            with pytest.raises(ValueError, match="fused needs an IUV map"):
                embed_people(embedder, bare)
        else:
            assert bool((embedder.split(embed_people(embedder, bare))[1] == 1).all())


def test_what_the_embedder_refuses(dense: Path) -> None:
    loaded = load_model(dense)
    with pytest.raises(ValueError, match="visibility head needs a checkpoint that was trained with the dense guide"):
        VisibleEmbedder(loaded._replace(decoder=None), "head")
    with pytest.raises(ValueError, match="fused reads IUV maps, so its visibility must be maps too"):
        VisibleEmbedder(loaded, "head", fused=True)
    with pytest.raises(ValueError, match="visibility needs local branches"):
        VisibleEmbedder(loaded, "maps", branch="global")


def test_eval_by_visibility(dense: Path, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "scores.json"
    base = ["eval", str(dense), str(people), "--workers", "0", "--device", "cpu", "--json_out", str(out)]
    for more in (["--visibility", "maps", "--fused"], ["--visibility", "head"]):
        assert main([*base, *more]) == 0 and "visible parts" in capsys.readouterr().out
        assert set(json.loads(out.read_text())["visible"]) >= {"mAP", "R1"}
    assert main([*base, "--visibility", "maps", "--metric", "euclidean"]) == 1
    assert "visibility needs" in capsys.readouterr().err
