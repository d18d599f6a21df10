"""Losses against plain loops over anchors and parts."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dsa_fast.models import DSALoss, DSAOutput, batch_hard_triplet_loss, id_loss


def plain_triplet(features: Tensor, labels: Tensor, margin: float) -> tuple[Tensor, int]:
    """The mean over anchors, written out; and how many anchors there were."""
    losses = []
    for a in range(len(labels)):
        others = [i for i in range(len(labels)) if i != a]
        positive = [(features[a] - features[i]).norm() for i in others if labels[i] == labels[a]]
        negative = [(features[a] - features[i]).norm() for i in others if labels[i] != labels[a]]
        if positive and negative:
            losses.append(torch.clamp(max(positive) - min(negative) + margin, min=0))
    return (torch.stack(losses).mean() if losses else features.sum() * 0), len(losses)


def plain_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    total = torch.zeros((), dtype=logits.dtype)
    for row, label in zip(logits, labels, strict=True):
        target = torch.full((len(row),), smoothing / len(row), dtype=logits.dtype)
        target[label] += 1 - smoothing
        total = total - (target * (row - torch.logsumexp(row, 0))).sum()
    return total / len(logits)


batches = st.tuples(
    st.lists(st.integers(0, 4), min_size=1, max_size=12),
    st.integers(1, 6),
    st.integers(0, 1000),
    st.floats(0, 3),
)


@settings(max_examples=60, deadline=None)
@given(batches)
def test_triplet_equals_a_loop(case: tuple[list[int], int, int, float]) -> None:
    """Any mix of identities, single images and single identities included."""
    ids, dim, seed, margin = case
    labels = torch.tensor(ids)
    x = torch.randn(
        len(ids),
        dim,
        dtype=torch.float64,
        generator=torch.Generator().manual_seed(seed),
    )
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    actual = batch_hard_triplet_loss(a, labels, margin=margin)
    expected, _ = plain_triplet(b, labels, margin)
    torch.testing.assert_close(actual, expected)
    actual.backward()
    expected.backward()
    torch.testing.assert_close(a.grad, b.grad if b.grad is not None else torch.zeros_like(b))


def test_triplet_by_hand() -> None:
    features = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0], [0.0, 7.0]])
    labels = torch.tensor([0, 0, 1, 1])
    # Anchors: positive 5, 5, 6, 6; negative 1, sqrt(18), 1, sqrt(18).
    expected = (4.3 + 5 - math.sqrt(18) + 0.3 + 5.3 + 6 - math.sqrt(18) + 0.3) / 4
    assert batch_hard_triplet_loss(features, labels).item() == pytest.approx(expected)


@pytest.mark.parametrize("ids", [[0, 0, 0], [0, 1, 2], [0]])
def test_triplet_without_anchors_is_zero(ids: list[int]) -> None:
    features = torch.randn(len(ids), 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = batch_hard_triplet_loss(features, torch.tensor(ids), margin=5.0)
    loss.backward()
    assert loss.item() == 0 and torch.equal(features.grad, torch.zeros_like(features))


def test_triplet_leaves_lonely_images_out() -> None:
    features = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 0, 1, 1, 2])
    expected, anchors = plain_triplet(features, labels, 3.0)
    assert anchors == 4
    torch.testing.assert_close(batch_hard_triplet_loss(features, labels, margin=3.0), expected)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1.0, 1e15])
def test_triplet_gradient_is_finite_for_equal_features(scale: float) -> None:
    one = torch.randn(1, 6, generator=torch.Generator().manual_seed(0)) * scale
    features = one.repeat(8, 1).requires_grad_()
    loss = batch_hard_triplet_loss(features, torch.arange(8) // 2, margin=0.3)
    loss.backward()
    assert loss.item() == pytest.approx(0.3)
    assert features.grad.isfinite().all()


def test_triplet_does_not_cancel() -> None:
    """Far from the origin, |x|^2 + |y|^2 - 2xy would lose these distances altogether."""
    features = 1000 + torch.randn(64, 32, generator=torch.Generator().manual_seed(0)) / 8
    labels = torch.arange(64) // 4
    expected, _ = plain_triplet(features.double(), labels, 0.3)
    assert batch_hard_triplet_loss(features, labels).item() == pytest.approx(expected.item(), rel=1e-4)


def test_triplet_gradcheck() -> None:
    features = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    assert torch.autograd.gradcheck(lambda x: batch_hard_triplet_loss(x, labels, margin=2.0), features)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 6),
    st.integers(1, 8),
    st.integers(1, 5),
    st.floats(0, 1),
    st.integers(0, 1000),
)
def test_id_loss_equals_a_loop(b: int, n: int, parts: int, smoothing: float, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(b, parts, n, dtype=torch.float64, generator=rng)
    labels = torch.randint(0, n, (b,), generator=rng)
    expected = [plain_cross_entropy(logits[:, i], labels, smoothing) for i in range(parts)]
    torch.testing.assert_close(id_loss(logits, labels, label_smoothing=smoothing), torch.stack(expected).sum())
    torch.testing.assert_close(id_loss(logits[:, 0], labels, label_smoothing=smoothing), expected[0])


def output(
    seed: int = 0,
    *,
    fused: bool = True,
    parts: bool = True,
    dtype: torch.dtype = torch.float32,
) -> DSAOutput:
    rng = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng).to(dtype).requires_grad_()

    f, fl = draw(8, 12), draw(8, 8, 5)
    z, zl = (draw(8, 12), draw(8, 8, 5)) if fused else (f, fl)
    logits = [draw(8, 4), draw(8, 8, 4), draw(8, 4), draw(8, 8, 4)]
    return DSAOutput(
        f,
        fl if parts else None,
        z,
        zl if parts else None,
        logits[0],
        logits[1] if parts else None,
        logits[2] if fused else None,
        logits[3] if fused and parts else None,
    )


LABELS = torch.arange(8) // 2


def test_total_is_the_papers_weighted_sum() -> None:
    o = output()
    total, terms = DSALoss()(o, LABELS)
    expected = {
        "id_f_global": plain_cross_entropy(o.logits_f_global, LABELS, 0.1),
        "id_f_local": sum(plain_cross_entropy(o.logits_f_local[:, i], LABELS, 0.1) for i in range(8)),
        "id_z_global": plain_cross_entropy(o.logits_z_global, LABELS, 0.1),
        "id_z_local": sum(plain_cross_entropy(o.logits_z_local[:, i], LABELS, 0.1) for i in range(8)),
        "triplet_global": plain_triplet(o.z_global, LABELS, 0.3)[0],
        "triplet_local": plain_triplet(o.z_local.reshape(8, 40), LABELS, 0.3)[0],
    }
    assert set(terms) == set(expected)
    for name, value in terms.items():
        torch.testing.assert_close(value, expected[name].detach(), msg=name)
        assert not value.requires_grad
    weights = {"id_f": 0.5, "id_z": 1.0, "triplet": 1.5}
    weighted = sum(weights[name.rsplit("_", 1)[0]] * value for name, value in expected.items())
    torch.testing.assert_close(total, weighted)
    total.backward()
    unused = ("f_global", "f_local", "maps")
    assert all(value.grad is not None for name, value in o._asdict().items() if name not in unused)


def test_each_weight_reaches_its_terms() -> None:
    o = output()
    _, terms = DSALoss()(o, LABELS)
    for option, names in (
        ("id_mf", ("id_f_global", "id_f_local")),
        ("triplet", ("triplet_global", "triplet_local")),
        ("id_fused", ("id_z_global", "id_z_local")),
    ):
        weights = dict.fromkeys(("id_mf", "triplet", "id_fused"), 0.0) | {option: 2.0}
        total, _ = DSALoss(**weights)(o, LABELS)
        torch.testing.assert_close(total.detach(), 2 * sum(terms[name] for name in names))
    total, _ = DSALoss(id_mf=0, id_fused=0, triplet=1, margin=7.0)(o, LABELS)
    torch.testing.assert_close(
        total,
        sum(plain_triplet(z.flatten(1), LABELS, 7.0)[0] for z in (o.z_global, o.z_local)),
    )


def test_without_the_second_stream_the_id_losses_have_full_weight() -> None:
    o = output(fused=False)
    total, terms = DSALoss()(o, LABELS)
    assert set(terms) == {
        "id_f_global",
        "id_f_local",
        "triplet_global",
        "triplet_local",
    }
    ids, triplets = (sum(v for k, v in terms.items() if k.startswith(kind)) for kind in ("id", "triplet"))
    torch.testing.assert_close(total.detach(), ids + 1.5 * triplets)


def test_one_branch_has_only_its_terms() -> None:
    _, terms = DSALoss()(output(parts=False), LABELS)
    assert set(terms) == {"id_f_global", "id_z_global", "triplet_global"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    low = output(dtype=dtype)
    high = DSAOutput(*(None if t is None else t.detach().float() for t in low))
    with torch.autocast("cpu", torch.bfloat16):
        total, terms = DSALoss()(low, LABELS)
    expected, _ = DSALoss()(high, LABELS)
    assert total.dtype == torch.float32 and all(v.dtype == torch.float32 for v in terms.values())
    torch.testing.assert_close(total, expected)
    total.backward()
    assert low.z_local.grad.dtype == dtype


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"id_mf": -1.0}, "id_mf must be at least 0, got -1.0"),
        ({"margin": float("nan")}, "margin must be at least 0, got nan"),
        ({"label_smoothing": 1.5}, r"label_smoothing must be from 0 to 1, got 1\.5"),
    ],
)
def test_wrong_options(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DSALoss(**options)


def test_wrong_shapes() -> None:
    with pytest.raises(
        ValueError,
        match=r"features must have shape \[B, D\] and labels \[B\], got \[2, 3, 4\] and \[2\]",
    ):
        batch_hard_triplet_loss(torch.zeros(2, 3, 4), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match=r"labels \[B\], got \[2, 4\] and \[3\]"):
        id_loss(torch.zeros(2, 4), torch.zeros(3, dtype=torch.long))
