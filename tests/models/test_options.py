"""Training options that are not in the paper, and the paper's crops instead of warps. All are off by default."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

import dsa_fast
from dsa_fast.cli import main
from dsa_fast.configs.augment import AugmentConfig
from dsa_fast.data.registry import read_dataset
from dsa_fast.data.transforms import Draws, augment_batch, disturb_iuv, normalize
from dsa_fast.deploy.embedding_network import EmbeddingNetwork
from dsa_fast.evaluation.embedding import ModelEmbedder, embed_people
from dsa_fast.models import (
    Baseline,
    DSALoss,
    DSAReID,
    MFStream,
    ModelConfig,
    batch_hard_triplet_loss,
    id_loss,
    load_model,
    part_weights,
)
from dsa_fast.training import DataConfig, LossConfig, OptimConfig, TrainerConfig, fit
from dsa_fast.training.schedule import learning_rate
from tests.ops.test_train_transform import CONFIG, make, sample
from tests.training.small import AUGMENT, MODEL, TRAINER, config, losses

# ---- augmentation --------------------------------------------------------------------------------------------------


def test_crops_come_from_the_same_picture_as_warps() -> None:
    images, iuv = make(6, 40, 20)
    draws = sample(4)
    indices = [5, 0, 3, 1]
    crop = replace(CONFIG, parts="crop")
    full = augment_batch(images, iuv, draws, crop, indices=indices).images
    assert torch.equal(full, augment_batch(images, iuv, draws, CONFIG, indices=indices).images)
    # Without flip, crop and erasing, the parts are the crops of the resized photo by the resized map.
    still = Draws(torch.full((4,), 4), torch.full((4,), 4), torch.zeros(4, dtype=torch.bool), torch.zeros(4, 4).long())
    same_size = replace(crop, size=(40, 20))
    _, parts, _ = augment_batch(images[indices], iuv[indices], still, same_size, dtype=torch.bfloat16)
    mean = [255 * value for value in (0.485, 0.456, 0.406)]
    plain = dsa_fast.crop_parts(images[indices], iuv[indices], size=8, fill=mean, dtype=torch.float32)
    torch.testing.assert_close(parts, normalize(plain).bfloat16(), rtol=0, atol=1e-2)


def test_disturbed_maps() -> None:
    _, iuv = make(3, 9, 7)
    config = replace(CONFIG, iuv_drop=0.5, iuv_noise=0.1)
    draws = sample(3, config)
    assert draws.dropped is not None and draws.shift is not None
    got = disturb_iuv(iuv, draws)
    for b in range(3):
        for y in range(9):
            for x in range(7):
                part, u, v = iuv[b, :, y, x].tolist()
                if not 1 <= part <= 24:
                    assert got[b, :, y, x].tolist() == [part, u, v]
                    continue
                expected = [0 if draws.dropped[b, part - 1] else part]
                for value, shift in zip((u, v), draws.shift[b, part - 1], strict=True):
                    expected.append(int((torch.tensor(float(value)) + shift * 255).round().clamp(0, 255)))
                assert got[b, :, y, x].tolist() == expected
    assert (got[:, 0] != iuv[:, 0]).any() and (got[:, 1:] != iuv[:, 1:]).any()
    # The step uses the disturbed maps. The other random draws equal those of the undisturbed transform.
    plain = sample(3)
    for name in ("top", "left", "flip", "erase"):
        assert torch.equal(getattr(draws, name), getattr(plain, name))
    images = make(3, 9, 7)[0]
    a, b = augment_batch(images, iuv, draws, config), augment_batch(images, got, plain, CONFIG)
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    c = augment_batch(images.flip(0), iuv.flip(0), draws, config, indices=[2, 1, 0])
    assert all(torch.equal(x, y) for x, y in zip(a, c, strict=True))


def test_noise_has_the_deviation_that_was_asked_for() -> None:
    draws = sample(400, replace(CONFIG, iuv_drop=0.2, iuv_noise=0.03))
    assert draws.shift is not None and draws.dropped is not None
    assert draws.shift.std().item() == pytest.approx(0.03, rel=0.03)
    assert draws.dropped.float().mean().item() == pytest.approx(0.2, rel=0.05)
    off = sample(4)
    assert off.dropped is None and off.shift is None


@pytest.mark.parametrize(
    ("kind", "option"),
    [
        (AugmentConfig, {"iuv_drop": 1.1}),
        (AugmentConfig, {"iuv_noise": -0.1}),
        (AugmentConfig, {"parts": "cut"}),
        (LossConfig, {"visibility": 2.0}),
        (TrainerConfig, {"ema": 1.0}),
        (TrainerConfig, {"accumulate": 0}),
    ],
)
def test_bad_options_are_told(kind: type, option: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(option))} must be"):
        kind(**option)


# ---- visibility ----------------------------------------------------------------------------------------------------


def test_weights_of_parts_by_hand() -> None:
    dsap = torch.zeros(2, 24, 3, 4, 4)
    dsap[0, 0, 1, :2] = 1.0  # torso back: 8 of 16 texels, of torso 8 of 32
    dsap[0, 22, 0, 0, 0] = -1.0  # right half of the head: 1 texel, of the head 1 of 32
    dsap[1, 1, 2] = 0.5  # torso front: 16 of 32
    weights = part_weights(dsap, 0.25)
    seen = torch.zeros(2, 8)
    seen[0, 0], seen[0, 7], seen[1, 0] = 1.0, 1 / 8, 1.0
    torch.testing.assert_close(weights, seen / seen.mean())
    assert torch.equal(part_weights(torch.zeros(2, 24, 3, 4, 4), 0.25), torch.ones(2, 8))


def test_weighted_id_loss_equals_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(5, 8, 6, generator=generator), torch.tensor([0, 3, 5, 1, 1])
    weight = torch.rand(5, 8, generator=generator)
    expected = sum(
        weight[b, i] * id_loss(logits[b : b + 1, i], labels[b : b + 1], label_smoothing=0.1)
        for b in range(5)
        for i in range(8)
    )
    got = id_loss(logits, labels, label_smoothing=0.1, weight=weight)
    torch.testing.assert_close(got, expected / 5)
    torch.testing.assert_close(
        id_loss(logits, labels, weight=torch.ones(5, 8)), id_loss(logits, labels), rtol=1e-6, atol=1e-6
    )
    with pytest.raises(ValueError, match=r"weight must have shape \[5, 8\]"):
        id_loss(logits, labels, weight=weight[:, :3])


def test_only_local_id_losses_are_weighted() -> None:
    torch.manual_seed(0)
    model = DSAReID(4, backbone="resnet18", pretrained=None, width=0.125, classifier_dim=16)
    for parameter in model.parameters():  # so that the classifiers tell people apart
        nn.init.normal_(parameter, std=0.1)
    output = model(torch.randn(4, 3, 32, 16), torch.randn(4, 24, 3, 8, 8))
    labels = torch.tensor([0, 0, 1, 2])
    weight = torch.zeros(4, 8)
    weight[0, 0] = 1.0
    _, plain = DSALoss()(output, labels)
    _, weighted = DSALoss()(output, labels, weight)
    assert {name for name in plain if not torch.equal(plain[name], weighted[name])} == {"id_f_local", "id_z_local"}


def test_triplets_on_the_mf_streams_own_features() -> None:
    torch.manual_seed(0)
    model = DSAReID(4, backbone="resnet18", pretrained=None, width=0.125, classifier_dim=16)
    output = model(torch.randn(4, 3, 32, 16), torch.randn(4, 24, 3, 8, 8))
    labels = torch.tensor([0, 0, 1, 1])
    total, plain = DSALoss()(output, labels)
    more, terms = DSALoss(triplet_mf=2.0)(output, labels)
    assert terms.keys() - plain.keys() == {"triplet_f_global", "triplet_f_local"}
    assert output.f_global is not None and output.f_local is not None
    own = [batch_hard_triplet_loss(x.flatten(1), labels) for x in (output.f_global, output.f_local)]
    torch.testing.assert_close(more, total + 2.0 * (own[0] + own[1]))
    # Without a DSAG-Stream, the triplet losses already apply to f.
    alone = DSAReID(4, backbone="resnet18", pretrained=None, width=0.125, classifier_dim=16, dsag=False)
    output = alone(torch.randn(4, 3, 32, 16))
    assert torch.equal(DSALoss(triplet_mf=2.0)(output, labels)[0], DSALoss()(output, labels)[0])


# ---- network -------------------------------------------------------------------------------------------------------


def test_bnneck_stands_between_features_and_classifiers() -> None:
    torch.manual_seed(0)
    plain = DSAReID(4, backbone="resnet18", pretrained=None, width=0.125, classifier_dim=16)
    necked = DSAReID(4, backbone="resnet18", pretrained=None, width=0.125, classifier_dim=16, bnneck=True)
    missing = necked.load_state_dict(plain.state_dict(), strict=False)
    assert not missing.unexpected_keys and all(name.startswith("neck_") for name in missing.missing_keys)
    assert necked.neck_f is not None and necked.neck_z is not None
    assert necked.neck_f.whole is not None and not necked.neck_f.whole.bias.requires_grad
    images, dsap = torch.randn(6, 3, 32, 16), torch.randn(6, 24, 3, 8, 8)
    a, b = plain(images, dsap), necked(images, dsap)
    # The triplet loss gets the same features, but the classifiers get different ones.
    assert a.z_global is not None and torch.equal(a.z_global, b.z_global) and torch.equal(a.f_local, b.f_local)
    normed = nn.functional.batch_norm(b.f_global, None, None, training=True)
    torch.testing.assert_close(b.logits_f_global, necked.classify_f_global(normed))
    flat = b.z_local.flatten(1)
    normed = nn.functional.batch_norm(flat, None, None, training=True).view_as(b.z_local)
    torch.testing.assert_close(b.logits_z_local, necked.classify_z_local(normed))
    # It also applies to test vectors, with its running statistics.
    with torch.no_grad():
        necked.neck_f.whole.running_mean.fill_(0.3)
    necked.eval()
    f = necked.mf_stream(images).whole
    expected = nn.functional.normalize(necked.neck_f.whole(f), dim=1)
    got = necked.embed(images)
    torch.testing.assert_close(got[:, : f.shape[1]], expected)
    assert not torch.allclose(got, plain.embed(images))
    assert necked.embed_fused(images, dsap).shape == got.shape
    # The same in the deployed network, where the whole vector has length 1.
    photos = torch.randint(0, 256, (6, 32, 16, 3), dtype=torch.uint8)
    exact = necked.embed(photos.permute(0, 3, 1, 2)) / 2**0.5
    torch.testing.assert_close(EmbeddingNetwork(necked)(photos), exact, rtol=1e-4, atol=1e-5)
    one = Baseline(4, backbone="resnet18", pretrained=None, width=0.125, classifier_dim=16, bnneck=True)
    assert one.neck_z is None and one.neck_f.local is None and one(images).logits_f_global.shape == (6, 4)


def test_last_stride_halves_the_last_map() -> None:
    shapes: dict[int, list[torch.Size]] = {1: [], 2: []}
    for stride, seen in shapes.items():
        stream = MFStream("resnet50", width=0.125, last_stride=stride)
        for head in (stream.head_global, stream.head_local):
            assert head is not None
            head.register_forward_hook(lambda module, inputs, out, seen=seen: seen.append(out.shape[-2:]))
        stream(torch.randn(2, 3, 64, 32))
    assert shapes == {1: [torch.Size([4, 2])] * 2, 2: [torch.Size([2, 1])] * 2}
    with pytest.raises(ValueError, match="last_stride must be 1 or 2, got 3"):
        MFStream("resnet18", last_stride=3)


# ---- schedule ------------------------------------------------------------------------------------------------------


def test_cosine() -> None:
    optim = OptimConfig(schedule="cosine", warmup_epochs=10)
    assert learning_rate(5, optim, 110) == pytest.approx((8e-6 + 8e-4) / 2)
    assert learning_rate(10, optim, 110) == 8e-4
    assert learning_rate(60, optim, 110) == pytest.approx((8e-6 + 8e-4) / 2)
    assert learning_rate(110, optim, 110) == pytest.approx(8e-6)
    rates = [learning_rate(epoch, optim, 110) for epoch in range(10, 111)]
    assert rates == sorted(rates, reverse=True)


# ---- whole runs ----------------------------------------------------------------------------------------------------


class Stop(RuntimeError):
    pass


class Interrupt(Callback):
    def on_train_batch_start(self, trainer, task, batch, batch_index) -> None:
        if trainer.current_epoch == 1 and batch_index == 2:
            raise Stop


def same_weights(a: Path, b: Path) -> bool:
    states = [torch.load(path, weights_only=True)["state_dict"] for path in (a, b)]
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_everything_at_once_resumes_exactly(people: Path, tmp_path: Path) -> None:
    parts = {
        "model": replace(MODEL, bnneck=True, last_stride=2),
        "loss": LossConfig(visibility=0.05),
        "optim": OptimConfig(lr=1e-3, warmup_epochs=1, schedule="cosine"),
        "augment": replace(AUGMENT, iuv_drop=0.3, iuv_noise=0.05),
        "trainer": replace(TRAINER, ema=0.5, accumulate=3),
    }
    whole = fit(config(people), out=tmp_path / "whole", **parts)
    with pytest.raises(Stop):
        fit(config(people), out=tmp_path / "cut", callbacks=[Interrupt()], **parts)
    other = {**parts, "trainer": replace(parts["trainer"], ema=0.6, max_epochs=4)}
    with pytest.raises(ValueError, match=r"trainer.max_epochs was 3 and is 4; trainer.ema was 0.5 and is 0.6"):
        fit(config(people), out=tmp_path / "cut", resume=True, **other)
    resumed = fit(config(people), out=tmp_path / "cut", resume=True, **parts)
    assert losses(resumed.log) == losses(whole.log)
    assert same_weights(whole.checkpoint, resumed.checkpoint) and resumed.scores == whole.scores


class Weights(Callback):
    """Keeps the weights after each optimizer step."""

    def __init__(self) -> None:
        self.states: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer, task, outputs, batch, batch_index) -> None:
        if trainer.global_step > len(self.states):
            self.states.append(copy.deepcopy(task.model.state_dict()))


def test_moving_average_is_what_is_saved(people: Path, tmp_path: Path) -> None:
    steps = Weights()
    trainer = replace(TRAINER, ema=0.7, max_epochs=2, eval_every=2)
    result = fit(config(people), MODEL, augment=AUGMENT, trainer=trainer, out=tmp_path / "ema", callbacks=[steps])
    average = {name: value.double() for name, value in steps.states[0].items()}
    for state in steps.states[1:]:
        average = {name: 0.7 * value + 0.3 * state[name].double() for name, value in average.items()}
    saved = load_model(result.checkpoint).model.state_dict()
    for name in saved:
        if saved[name].is_floating_point():
            torch.testing.assert_close(saved[name].double(), average[name], rtol=1e-4, atol=1e-5)
    assert any(not torch.equal(saved[name], steps.states[-1][name]) for name in saved)


def test_gradients_of_several_batches_are_added_up(people: Path, tmp_path: Path) -> None:
    counts = {}
    for accumulate in (1, 2):
        steps = Weights()
        trainer = replace(TRAINER, max_epochs=1, eval_every=0, accumulate=accumulate)
        out = tmp_path / str(accumulate)
        fit(config(people), MODEL, augment=AUGMENT, trainer=trainer, out=out, callbacks=[steps])
        counts[accumulate] = len(steps.states)
    assert counts == {1: 4, 2: 2}


def test_trains_and_tests_on_crops(people: Path, tmp_path: Path) -> None:
    trainer = replace(TRAINER, max_epochs=1, eval_every=0)
    runs = {
        parts: fit(config(people), MODEL, augment=replace(AUGMENT, parts=parts), trainer=trainer, out=tmp_path / parts)
        for parts in ("warp", "crop")
    }
    assert losses(runs["warp"].log) != losses(runs["crop"].log)
    loaded = load_model(runs["crop"].checkpoint)
    assert loaded.parts == "crop"
    query = read_dataset(people).query
    fused = embed_people(ModelEmbedder(loaded, fused=True), query).features
    warped = embed_people(ModelEmbedder(loaded._replace(parts="warp"), fused=True), query).features
    assert not torch.equal(fused, warped)


@pytest.mark.parametrize("fused", [False, True])
def test_a_branchs_test_vector(people: Path, tmp_path: Path, fused: bool) -> None:
    trainer = replace(TRAINER, max_epochs=1, eval_every=0)
    checkpoint = fit(config(people), MODEL, augment=AUGMENT, trainer=trainer, out=tmp_path / "run").checkpoint
    loaded = load_model(checkpoint)
    query = read_dataset(people).query
    both, whole, local = (
        embed_people(ModelEmbedder(loaded, fused=fused, branch=branch), query).features
        for branch in ("both", "global", "local")
    )
    assert torch.equal(torch.cat([whole, local], dim=1), both)
    for part in (whole, local):
        torch.testing.assert_close(part.norm(dim=1), torch.ones(len(part)))
    scores = []
    for branch in ("both", "global", "local"):
        out = tmp_path / f"{branch}.json"
        options = ["--branch", branch, "--device", "cpu", "--workers", "0", "--json_out", str(out)]
        assert main(["eval", str(checkpoint), str(people), *(["--fused"] if fused else []), *options]) == 0
        scores.append(out.read_text())
    assert all(
        f'"branch": "{branch}"' in text for branch, text in zip(("both", "global", "local"), scores, strict=True)
    )


def test_a_branch_that_is_not_there(people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = replace(TRAINER, max_epochs=1, eval_every=0)
    model = replace(MODEL, branches="global")
    checkpoint = fit(config(people), model, augment=AUGMENT, trainer=trainer, out=tmp_path).checkpoint
    assert main(["eval", str(checkpoint), str(people), "--branch", "local", "--device", "cpu"]) == 1
    assert "branch must be one that the model was trained with, got local of global" in capsys.readouterr().err


def test_options_are_off_by_default() -> None:
    assert (ModelConfig().bnneck, ModelConfig().last_stride) == (False, 1)
    assert (AugmentConfig().parts, AugmentConfig().iuv_drop, AugmentConfig().iuv_noise) == ("warp", 0.0, 0.0)
    assert (TrainerConfig().ema, TrainerConfig().accumulate) == (0.0, 1)
    assert (LossConfig().visibility, OptimConfig().schedule) == (0.0, "steps")
    assert DataConfig("x").p * DataConfig("x").k == 64
