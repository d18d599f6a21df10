"""`model.pooling` parts: averages over the parts that the network finds itself."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dsa_fast.deploy.encoder import Encoder
from dsa_fast.deploy.export import NamedImages, export
from dsa_fast.deploy.sidecar import BatchRange
from dsa_fast.models import DSALoss, DSAReID, GuideConfig, Guides, ModelConfig, load_model
from dsa_fast.models.guides import part_share_loss, part_shares
from dsa_fast.models.mf_stream import MFStream, part_averages
from dsa_fast.training import fit
from dsa_fast.training.module import ReIDTask, check_guides
from tests.deploy.deployed import SMALL, as_arrays, save_checkpoint, smooth_images
from tests.models.test_guides import IDS, inputs, network, some_map
from tests.training.small import AUGMENT, MODEL, TRAINER, config

PARTS = replace(SMALL, pooling="parts", dsag=False)


def test_averages_by_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    whole, local = (torch.rand(2, channels, 4, 3, generator=generator) for channels in (5, 16))
    parts = 3 * torch.randn(2, 9, 16, 12, generator=generator)
    got = part_averages(whole, local, parts)
    assert got.whole is not None and got.local is not None and got.local.shape == (2, 8, 2)
    fine = parts.double().softmax(dim=1)
    shares = torch.zeros(2, 9, 4, 3, dtype=torch.float64)
    for y in range(4):
        for x in range(3):
            shares[:, :, y, x] = fine[:, :, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4].flatten(2).mean(dim=2)
    for b in range(2):
        weight = (1 - shares[b, 0] + 0.02).flatten()
        for c in range(5):
            expected = (whole[b, c].flatten() * weight).sum() / weight.sum()
            assert got.whole[b, c].item() == pytest.approx(expected.item(), rel=1e-5)
        for part in range(8):
            weight = (shares[b, 1 + part] + 0.02).flatten()
            for c in range(2):
                expected = (local[b, 2 * part + c].flatten() * weight).sum() / weight.sum()
                assert got.local[b, part, c].item() == pytest.approx(expected.item(), rel=1e-5)
    alone = part_averages(None, local, parts)
    assert alone.whole is None and torch.equal(alone.local, got.local)


def test_a_part_that_is_nowhere_gets_the_plain_average() -> None:
    whole, local, parts = torch.rand(1, 4, 4, 2), torch.rand(1, 16, 4, 2), torch.full((1, 9, 16, 8), -50.0)
    parts[:, 0] = 50.0  # background everywhere
    got = part_averages(whole, local, parts)
    torch.testing.assert_close(got.whole, whole.mean(dim=(2, 3)))
    torch.testing.assert_close(got.local, local.mean(dim=(2, 3)).view(1, 8, 2))
    parts[:, 3, 4:8, :4] = 200.0  # one position of F certainly belongs to the third part
    got = part_averages(whole, local, parts)
    own = local[0, 4:6].flatten(1)
    torch.testing.assert_close(got.local[0, 2], (0.02 * own.sum(dim=1) + own[:, 2]) / (0.02 * 8 + 1))


def test_losses_on_features_do_not_move_the_prediction() -> None:
    model = network(dsag=False, pooling="parts")
    find = model.mf_stream.find_parts
    assert find is not None
    output = model(inputs()[0])
    DSALoss()(output, torch.arange(6) % IDS)[0].backward(retain_graph=True)
    assert find[0].weight.grad is None
    guides = Guides(GuideConfig(), model.mf_stream.backbone.out_channels)
    model.zero_grad()
    total, terms = guides(output, iuv=some_map())
    assert total is not None and set(terms) == {"pooling"}
    total.backward()
    assert find[0].weight.grad is not None and bool(find[0].weight.grad.any())
    first = next(model.mf_stream.backbone.parameters())
    assert first.grad is not None and bool(first.grad.any())
    assert Guides(GuideConfig(pooling=0.0), 8)(output) == (None, {})


@pytest.mark.parametrize("background", [0.0, 0.3, 1.0])
def test_the_loss_by_a_loop(background: float) -> None:
    iuv = some_map()
    iuv[2, 0] = 0  # no map
    logits = torch.randn(6, 9, 4, 2, generator=torch.Generator().manual_seed(3))
    shares, scores = part_shares(iuv, (4, 2)), logits.double().log_softmax(dim=1)
    total = mass = 0.0
    for b in range(6):
        if not iuv[b, 0].any():
            continue
        for y in range(4):
            for x in range(2):
                aim = [background * (1 - float(shares[b, :, y, x].sum())), *map(float, shares[b, :, y, x])]
                total -= sum(a * float(s) for a, s in zip(aim, scores[b, :, y, x], strict=True))
                mass += sum(aim)
    assert part_share_loss(logits, iuv, background=background).item() == pytest.approx(total / mass, rel=1e-5)


def test_without_any_map_there_is_no_loss() -> None:
    logits = torch.randn(2, 9, 4, 2, requires_grad=True)
    loss = part_share_loss(logits, torch.zeros(2, 3, 16, 8, dtype=torch.uint8))
    loss.backward()
    assert loss.item() == 0 and logits.grad is not None and not logits.grad.any()


def test_it_learns_where_the_parts_are() -> None:
    """Two images with different maps: the prediction becomes that of each image."""
    model = network(dsag=False, pooling="parts").train()
    images = inputs(2)[0]
    iuv = torch.zeros(2, 3, 16, 8, dtype=torch.uint8)
    iuv[0, 0, :4], iuv[0, 0, 8:] = 23, 1  # head above, torso below
    iuv[1, 0, :8], iuv[1, 0, 12:] = 1, 23
    guides = Guides(GuideConfig(), model.mf_stream.backbone.out_channels)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        total, _ = guides(model(images), iuv=iuv)
        assert total is not None
        total.backward()
        optimizer.step()
    maps = model.mf_stream.maps(images)
    assert maps.parts is not None
    share = maps.parts.softmax(dim=1)[:, 1:]
    assert (share - part_shares(iuv, (16, 8))).abs().mean() < 0.03


def test_the_other_stream_and_a_neck_go_with_it() -> None:
    model = network(pooling="parts", bnneck=True)
    output = model(*inputs())
    plain = network(bnneck=True)
    assert output.z_local is not None and output.z_local.shape == plain(*inputs()).z_local.shape
    extra = set(model.state_dict()) - set(plain.state_dict())
    assert extra == {"mf_stream.find_parts.0.weight", "mf_stream.find_parts.0.bias"}
    plain.load_state_dict({name: value for name, value in model.state_dict().items() if name not in extra})
    assert not torch.equal(plain.eval()(*inputs()).f_local, model.eval()(*inputs()).f_local)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"last_stride": 2}, "model.pooling parts needs model.last_stride 1"),
        ({"branches": "none", "dsag": False}, "model.branches none"),
        ({"kind": "baseline"}, "model.pooling must have their defaults for model.kind baseline"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig(pooling="parts", **options)


def test_double_stays_double() -> None:
    model = network(dsag=False, pooling="parts").double().eval()
    features = model.mf_stream(inputs()[0].double())
    assert features.whole is not None and features.whole.dtype == torch.float64


def test_the_stream_refuses_it_too() -> None:
    with pytest.raises(ValueError, match="pooling must be mean or parts, got 'max'"):
        MFStream("resnet18", width=0.125, pooling="max")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pooling parts needs last_stride 1"):
        MFStream("resnet18", width=0.125, pooling="parts", last_stride=2)
    with pytest.raises(ValueError, match="guide.dense_scale must be at least 4 with model.pooling parts, got 2"):
        check_guides(GuideConfig(dense_scale=2), replace(SMALL, pooling="parts"))
    with pytest.raises(ValueError, match="guide.pooling must be finite and at least 0"):
        GuideConfig(pooling=math.nan)


# Whole runs and exports


def test_training_needs_maps_and_keeps_the_prediction(people: Path, tmp_path: Path) -> None:
    model = replace(MODEL, dsag=False, pooling="parts")
    result = fit(config(people), model, augment=AUGMENT, trainer=TRAINER, out=tmp_path / "run")
    assert "loss/pooling" in result.log.read_text().splitlines()[0]
    loaded = load_model(result.checkpoint).model
    assert isinstance(loaded, DSAReID) and loaded.mf_stream.find_parts is not None
    assert (people / "iuv").is_dir()
    bare = tmp_path / "bare"
    bare.mkdir()
    for folder in ("bounding_box_train", "bounding_box_test", "query"):
        (bare / folder).symlink_to(people / folder)
    with pytest.raises(ValueError, match=r"guide.pooling needs IUV maps .* model.pooling=mean"):
        fit(config(bare), model, augment=AUGMENT, trainer=TRAINER, out=tmp_path / "no_maps")
    none = GuideConfig(pooling=0.0)
    with pytest.raises(ValueError, match="guide.pooling must be above 0 .* would stay random"):
        fit(config(bare), model, augment=AUGMENT, trainer=TRAINER, out=tmp_path / "random", guide=none)
    # Without its loss, it needs none: fine-tuning on photos alone keeps the convolution's weights.
    tuned = fit(
        config(bare),
        model,
        augment=AUGMENT,
        trainer=TRAINER,
        out=tmp_path / "tuned",
        init=result.checkpoint,
        guide=none,
    )
    task = ReIDTask(4, model, augment=AUGMENT, guide=GuideConfig(pooling=0.0))
    assert task.model.mf_stream.find_parts is not None and not task.model.mf_stream.find_parts[0].weight.requires_grad
    again = load_model(tuned.checkpoint).model.mf_stream.find_parts
    assert again is not None and torch.equal(again[0].weight, loaded.mf_stream.find_parts[0].weight)


@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.99999), ("fp16", 0.999), ("int8", 0.97)])
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_exports_agree_with_the_checkpoint(precision: Any, least: float, backend: Any, tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path / "x.ckpt", PARTS)
    # Certain parts, so that the vectors are far from those of plain averages.
    saved = torch.load(checkpoint, weights_only=True)
    saved["state_dict"]["model.mf_stream.find_parts.0.weight"] *= 20
    torch.save(saved, checkpoint)
    images, out = smooth_images(12, seed=5), tmp_path / "x.onnx"
    more = {"calibration": NamedImages(smooth_images(16, seed=3), "patches")} if precision == "int8" else {}
    export(checkpoint, out, precision=precision, batch=BatchRange(1, 4, 8), images=NamedImages(images, "p"), **more)
    assert json.loads((tmp_path / "x.onnx.json").read_text())["model"]["pooling"] == "parts"
    vectors = torch.from_numpy(np.asarray(Encoder.load(out, backend=backend)(as_arrays(images))))
    exact = nn.functional.normalize(load_model(checkpoint).model.embed(images), dim=1)
    nearest = nn.functional.cosine_similarity(vectors, exact).min()
    assert nearest >= least
    plain = load_model(checkpoint).model
    plain.mf_stream.find_parts = None
    assert nn.functional.cosine_similarity(plain.embed(images), exact).min() < nearest


def test_tensorrt_rtx_builds_an_engine(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path / "x.ckpt", PARTS)
    more: dict[str, Any] = {"format": "tensorrt-rtx", "precision": "bf16", "batch": BatchRange(1, 4, 8)}
    export(checkpoint, tmp_path / "x.engine", images=NamedImages(smooth_images(4), "p"), **more)
    assert (tmp_path / "x.engine").stat().st_size > 10_000
