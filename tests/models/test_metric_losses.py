"""Losses that are not the paper's: values of pytorch-metric-learning, plain loops, and what a run keeps of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dsa_fast.configs.training import LossConfig
from dsa_fast.models import DSAOutput, load_model
from dsa_fast.models.metric_losses import CenterLoss, MetricLosses
from dsa_fast.training import fit
from dsa_fast.training.module import ReIDTask
from tests.training.small import AUGMENT, MODEL, TRAINER, config, losses

LABELS = torch.tensor([0, 0, 1, 1, 2, 2])


def an_output() -> DSAOutput:
    """Features of 6 images, with gradient: f and z differ, 8 parts of length 2."""
    generator = torch.Generator().manual_seed(0)
    f, z = (torch.randn(6, 12, generator=generator).requires_grad_() for _ in range(2))
    f_local, z_local = (torch.randn(6, 8, 2, generator=generator).requires_grad_() for _ in range(2))
    return DSAOutput(f, f_local, z, z_local, None, None, None, None)


def test_no_loss_by_default() -> None:
    losses = MetricLosses(LossConfig(), 3, (12, 16))
    assert losses(an_output(), LABELS) == (None, {}) and not list(losses.parameters())


@pytest.mark.parametrize("on", ["z", "f"])
@pytest.mark.parametrize("name", ["circle", "multi_similarity"])
def test_values_are_the_librarys(name: str, on: str) -> None:
    library = pytest.importorskip("pytorch_metric_learning.losses")
    own = {
        "circle": library.CircleLoss(m=0.3, gamma=60),
        "multi_similarity": library.MultiSimilarityLoss(alpha=1.5, beta=40, base=0.4),
    }[name]
    options = {"circle_margin": 0.3, "circle_scale": 60.0, "multi_similarity_alpha": 1.5}
    options |= {"multi_similarity_beta": 40.0, "multi_similarity_base": 0.4}
    output = an_output()
    total, terms = MetricLosses(LossConfig(**{name: 0.5}, **options, metric_on=on), 3, (12, 16))(output, LABELS)
    whole, local = (output.z_global, output.z_local) if on == "z" else (output.f_global, output.f_local)
    expected = {f"{name}_global": own(whole, LABELS), f"{name}_local": own(local.flatten(1), LABELS)}
    assert terms.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(terms[key], value.detach(), rtol=0, atol=0)
    torch.testing.assert_close(total, 0.5 * sum(expected.values()))
    total.backward()
    idle = (output.f_global, output.f_local) if on == "z" else (output.z_global, output.z_local)
    assert whole.grad.abs().sum() > 0 and local.grad.abs().sum() > 0 and idle[0].grad is idle[1].grad is None


def test_center_loss_equals_a_loop() -> None:
    loss = CenterLoss(3, 4)
    torch.nn.init.normal_(loss.centers)
    x = torch.randn(6, 4, requires_grad=True)
    each = [sum((a - b) ** 2 for a, b in zip(x[i], loss.centers[LABELS[i]], strict=True)) / 2 for i in range(6)]
    value = loss(x, LABELS)
    torch.testing.assert_close(value, sum(each, Tensor.new_zeros(x, ())) / 6)
    value.backward()
    torch.testing.assert_close(x.grad, (x - loss.centers[LABELS]).detach() / 6)
    assert (loss.centers.grad.abs().sum(dim=1) > 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"circle": -1.0}, "loss.circle must be at least 0, got -1.0"),
        ({"center": float("nan")}, "loss.center must be finite"),
        ({"circle_scale": 0.0}, "loss.circle_scale must be above 0"),
        ({"center_lr": -1.0}, "loss.center_lr must be above 0"),
        ({"metric_on": "d"}, "loss.metric_on must be z or f, got 'd'"),
    ],
)
def test_options_out_of_range(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LossConfig(**options)


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pytorch_metric_learning.losses", None)
    monkeypatch.setitem(__import__("sys").modules, "pytorch_metric_learning", None)
    with pytest.raises(ValueError, match="loss.circle needs pytorch_metric_learning: pip install pytorch-metric-"):
        MetricLosses(LossConfig(circle=1.0), 3, (12, 16))


def test_a_run_with_all_losses_resumes_exactly_and_exports_without_them(people: Path, tmp_path: Path) -> None:
    pytest.importorskip("pytorch_metric_learning")
    loss = LossConfig(circle=0.1, multi_similarity=0.1, center=0.01, metric_on="f")
    options = {"model": MODEL, "loss": loss, "augment": AUGMENT}
    two = replace(TRAINER, max_epochs=2, eval_every=0)
    whole = fit(config(people), **options, trainer=two, out=tmp_path / "whole")
    fit(config(people), **options, trainer=replace(two, max_epochs=1), out=tmp_path / "cut")
    resumed = fit(config(people), **options, trainer=two, out=tmp_path / "cut", resume=True)
    assert losses(resumed.log) == losses(whole.log)
    states = [torch.load(run.checkpoint, weights_only=True) for run in (whole, resumed)]
    for name, value in states[0]["state_dict"].items():
        torch.testing.assert_close(states[1]["state_dict"][name], value, rtol=0, atol=0)
    centers = {name: x for name, x in states[0]["state_dict"].items() if "center" in name}
    assert len(centers) == 2 and all((x != 0).all(dim=1).all() for x in centers.values())  # the optimizer moved them
    groups = states[0]["optimizer_states"][0]["param_groups"]
    assert [group["weight_decay"] for group in groups] == [5e-4, 0.0] and groups[1]["lr"] == loss.center_lr
    # What is loaded and exported has no centers.
    assert not any("center" in name for name in load_model(whole.checkpoint).model.state_dict())


def test_a_step_gives_every_loss_a_gradient() -> None:
    pytest.importorskip("pytorch_metric_learning")
    loss = LossConfig(id_mf=0, id_fused=0, triplet=0, circle=1.0, multi_similarity=1.0, center=1.0)
    task = ReIDTask(3, MODEL, loss, augment=AUGMENT)
    output = task.model(torch.randn(6, 3, 32, 16), torch.randn(6, 24, 3, 8, 8))
    for name in ("circle", "multi_similarity", "center"):
        others = {each: 0.0 for each in ("circle", "multi_similarity", "center") if each != name}
        total, terms = MetricLosses(replace(loss, **others), 3, task.model.embed_dims)(output, LABELS)
        (gradient,) = torch.autograd.grad(total, task.model.mf_stream.backbone.conv1.weight, retain_graph=True)
        assert set(terms) == {f"{name}_global", f"{name}_local"} and gradient.abs().sum() > 0
