"""Guides: their losses against plain loops, the gradients of each stream, and no trace of them at inference."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dsa_fast.densepose.parts import MERGE_13_TO_8, MERGE_24_TO_13, MERGED_NAMES
from dsa_fast.models import DSALoss, DSAReID, GuideConfig, Guides
from dsa_fast.models.guides import (
    DenseDecoder,
    dense_losses,
    features_distance,
    focus_loss,
    logits_divergence,
    merged_masks,
    part_shares,
    region_features,
    relations_divergence,
    stripe_shares,
)

IDS = 5


def network(**options: object) -> DSAReID:
    torch.manual_seed(0)
    return DSAReID(
        IDS,
        **{  # type: ignore[arg-type]
            "backbone": "resnet18",
            "pretrained": None,
            "width": 0.125,
            "classifier_dim": 16,
            **options,
        },
    )


def inputs(batch: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(batch, 3, 64, 32, generator=generator)
    return images, torch.randn(batch, 24, 3, 8, 8, generator=generator)


def some_map(batch: int = 6, height: int = 16, width: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    iuv = torch.randint(0, 256, (batch, 3, height, width), generator=generator, dtype=torch.uint8)
    iuv[:, 0] %= 26  # 25 is not a part
    iuv[:, 0, : height // 2] = 0
    return iuv


# Fusion: share and detach


def test_share_scales_what_the_dsag_stream_adds() -> None:
    model = network().eval()
    images, dsap = inputs()
    share = torch.tensor([0.0, 1.0, 0.25, 0.0, 1.0, 0.5])
    whole, part = model(images, dsap), model(images, dsap, share)
    for name, shape in (("global", (-1, 1)), ("local", (-1, 1, 1))):
        f, z, shared = (
            getattr(o, name) for o, name in ((whole, f"f_{name}"), (whole, f"z_{name}"), (part, f"z_{name}"))
        )
        torch.testing.assert_close(shared, f + share.view(shape) * (z - f))
    assert torch.equal(part.z_global[0], part.f_global[0])


def test_detach_keeps_fused_losses_from_the_mf_stream() -> None:
    model = network()
    output = model(*inputs(), detach=True)
    (output.z_global.square().sum() + output.logits_z_local.sum()).backward()
    assert all(p.grad is None for p in model.mf_stream.parameters())
    assert model.dsag_stream is not None and all(p.grad is not None for p in model.dsag_stream.parameters())


def test_shares_drop_images_and_fade() -> None:
    guides = Guides(GuideConfig(drop=0.25, fade=0.5), 8)
    shares = guides.share(4000, 0.1, torch.Generator().manual_seed(0))
    assert shares is not None and set(shares.tolist()) == {0.0, 1.0}
    assert (shares == 0).float().mean().item() == pytest.approx(0.25, abs=0.03)
    again = guides.share(4000, 0.1, torch.Generator().manual_seed(0))
    assert again is not None and torch.equal(again, shares)
    late = guides.share(4000, 0.875, torch.Generator().manual_seed(0))
    assert late is not None and torch.equal(late, 0.25 * shares)
    end = guides.share(8, 1.0, torch.Generator())
    assert end is not None and not end.any()
    assert Guides(GuideConfig(), 8).share(8, 0.9, torch.Generator()) is None


# Dense


@pytest.mark.parametrize("backbone", ["resnet18", "timm/tf_efficientnet_lite0"])
@pytest.mark.parametrize("size", [(64, 32), (50, 33)])
def test_grid_is_the_size_of_f(backbone: str, size: tuple[int, int]) -> None:
    if backbone.startswith("timm/"):
        pytest.importorskip("timm")
    model = network(backbone=backbone, dsag=False).train()
    next(model.mf_stream.backbone.children()).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    grid = model.mf_stream.grid(size)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    maps = model(torch.randn(2, 3, *size)).maps
    assert maps is not None and grid == maps.shared.shape[2:]


@pytest.mark.parametrize("background", [0.0, 0.3, 1.0])
def test_dense_losses_by_a_loop(background: float) -> None:
    generator = torch.Generator().manual_seed(0)
    parts = torch.randn(6, 25, 16, 8, generator=generator)
    uv = torch.rand(6, 24, 2, 16, 8, generator=generator)
    iuv = some_map()
    iuv[3, 0] = 0  # an image without a map
    weighted, weights, errors = 0.0, 0.0, []
    for b in range(6):
        if b == 3:
            continue
        for y in range(16):
            for x in range(8):
                label = int(iuv[b, 0, y, x])
                label = label if label <= 24 else 0
                weight = 1.0 if label else background
                scores = parts[b, :, y, x].double()
                weighted += weight * float(scores.exp().sum().log() - scores[label])
                weights += weight
                if label:
                    aim = iuv[b, 1:, y, x].double() / 255
                    errors.append(float((uv[b, label - 1, :, y, x].double() - aim).abs().mean()))
    part_loss, uv_loss = dense_losses(parts, uv, iuv, background=background)
    assert part_loss.item() == pytest.approx(weighted / weights, rel=1e-5)
    assert uv_loss.item() == pytest.approx(sum(errors) / len(errors), rel=1e-5)


def test_dense_losses_without_any_map_are_zero() -> None:
    parts = torch.randn(2, 25, 4, 4, requires_grad=True)
    uv = torch.randn(2, 24, 2, 4, 4, requires_grad=True)
    part_loss, uv_loss = dense_losses(parts, uv, torch.zeros(2, 3, 4, 4, dtype=torch.uint8))
    assert part_loss.item() == uv_loss.item() == 0
    (part_loss + uv_loss).backward()
    assert parts.grad is not None and not parts.grad.any()


def test_dense_losses_refuse_another_grid() -> None:
    with pytest.raises(ValueError, match=r"iuv must have shape \[2, 3, 4, 4\], got \[2, 3, 8, 4\]"):
        dense_losses(torch.zeros(2, 25, 4, 4), torch.zeros(2, 24, 2, 4, 4), torch.zeros(2, 3, 8, 4, dtype=torch.uint8))


def test_decoder_learns_a_map_and_reaches_the_backbone() -> None:
    model, iuv = network(dsag=False), some_map()
    guides = Guides(GuideConfig(dense=1.0), model.mf_stream.backbone.out_channels)
    optimizer = torch.optim.Adam([*model.parameters(), *guides.parameters()], lr=3e-3)
    totals = []
    for _ in range(60):
        output = model(inputs()[0])
        total, terms = guides(output, iuv=iuv)
        assert total is not None and set(terms) == {"dense_part", "dense_uv"}
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.5 * totals[0]
    backbone = model.mf_stream.backbone.get_parameter("conv1.weight")
    assert backbone.grad is not None and backbone.grad.any()
    assert model.mf_stream.head_global is not None
    assert all(parameter.grad is None for parameter in model.mf_stream.head_global.parameters())


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_decoder_shapes(scale: int) -> None:
    parts, uv = DenseDecoder(16, 8, scale)(torch.randn(2, 16, 4, 2))
    assert parts.shape == (2, 25, 4 * scale, 2 * scale)
    assert uv.shape == (2, 24, 2, 4 * scale, 2 * scale)


# Focus


def test_merged_masks_are_the_merging_of_the_parts() -> None:
    iuv = torch.zeros(1, 3, 1, 26, dtype=torch.uint8)
    iuv[0, 0, 0] = torch.arange(26)
    masks = merged_masks(iuv)[0, :, 0]
    assert masks.shape == (8, 26)
    assert not masks[:, [0, 25]].any()
    assert torch.equal(masks[:, 1:25].sum(dim=0), torch.ones(24))
    for merged, group in enumerate(MERGE_13_TO_8):
        parts = sorted(part for middle in group for part in MERGE_24_TO_13[middle])
        assert masks[merged].nonzero().flatten().tolist() == parts, MERGED_NAMES[merged]


def test_focus_is_the_share_outside() -> None:
    iuv = torch.zeros(1, 3, 32, 16, dtype=torch.uint8)
    iuv[0, 0, 0:4, 0:4] = 23  # the head, in the first of 8 x 4 positions
    maps = torch.zeros(1, 8, 3, 8, 4)
    maps[:, 7, :, 0, 0] = 1  # inside
    maps[:, 7, :, 1, 1] = 1  # next to it: inside too
    maps[:, 7, :, 5, 3] = 2  # outside
    maps[:, :7] = torch.rand(1, 7, 3, 8, 4)  # parts that are not visible do not count
    assert focus_loss(maps.flatten(1, 2), iuv).item() == pytest.approx(0.5)
    assert focus_loss(maps.flatten(1, 2), torch.zeros_like(iuv)).item() == 0


# Parts and stripes


def test_part_shares_by_a_loop() -> None:
    iuv = some_map()
    shares = part_shares(iuv, (4, 2))
    assert shares.shape == (6, 8, 4, 2)
    masks = merged_masks(iuv)
    for y in range(4):
        for x in range(2):
            area = masks[:, :, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
            torch.testing.assert_close(shares[:, :, y, x], area.mean(dim=(2, 3)))


@pytest.mark.parametrize("height", [4, 8, 13, 16, 24])
def test_stripes_are_equal_and_cover_each_position_once(height: int) -> None:
    shares = stripe_shares((height, 3))
    assert shares.shape == (8, height, 3)
    torch.testing.assert_close(shares.sum(dim=0), torch.ones(height, 3))
    torch.testing.assert_close(shares.sum(dim=(1, 2)), torch.full((8,), 3 * height / 8))
    centers = (shares * torch.arange(height)[:, None]).sum(dim=(1, 2)) / shares.sum(dim=(1, 2))
    assert centers.diff().ge(0).all() and centers[0] < centers[-1]
    if height == 16:
        assert torch.equal(shares[2, :, 0].nonzero().flatten(), torch.tensor([4, 5]))


def test_region_features_by_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3, 5, 4, 2, generator=generator)
    shares = torch.rand(3, 8, 4, 2, generator=generator)
    shares[1, 2] = 0
    shares[2, 3] = 0.01  # 0.08 in all: too little
    averages, seen = region_features(features, shares)
    assert averages.shape == (3, 8, 5)
    for b in range(3):
        for k in range(8):
            hidden = (b, k) in ((1, 2), (2, 3))
            weight = torch.ones(4, 2) if hidden else shares[b, k]
            expected = (weight * features[b]).sum(dim=(1, 2)) / weight.sum()
            torch.testing.assert_close(averages[b, k], expected)
            assert seen[b, k].item() == (not hidden)


@pytest.mark.parametrize("name", ["parts", "stripes"])
def test_regions_learn_identities_and_reach_the_backbone(name: str) -> None:
    model, iuv, labels = network(dsag=False), some_map(), torch.arange(6) % IDS
    channels = model.mf_stream.backbone.out_channels
    guides = Guides(GuideConfig(**{name: 1.0}), channels, IDS, classifier_dim=16)  # type: ignore[arg-type]
    optimizer = torch.optim.Adam([*model.parameters(), *guides.parameters()], lr=3e-3)
    totals = []
    for _ in range(40):
        total, terms = guides(model(inputs()[0]), labels, iuv=iuv if name == "parts" else None)
        assert total is not None and set(terms) == {f"id_{name}"}
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert 6 * math.log(IDS) < totals[0] < 16 * math.log(IDS)  # a sum over 8 parts
    assert totals[-1] < 0.5 * totals[0]
    backbone = model.mf_stream.backbone.get_parameter("conv1.weight")
    assert backbone.grad is not None and backbone.grad.any()


def test_averages_of_parts_see_only_their_own_pixels() -> None:
    features = torch.randn(6, 3, 4, 2, requires_grad=True)
    iuv = torch.zeros(6, 3, 16, 8, dtype=torch.uint8)
    iuv[1:, 0, 4:8, :4] = 23  # the head, in position (1, 0) of F; the first image has no map
    averages, seen = region_features(features, part_shares(iuv, (4, 2)))
    assert seen.sum(dim=0).tolist() == [0] * 7 + [5]
    (gradient,) = torch.autograd.grad(averages[1:, 7].square().sum(), features)
    assert gradient[1:, :, 1, 0].all()
    gradient[1:, :, 1, 0] = 0
    assert not gradient.any()


def test_averages_of_half_precision_are_single() -> None:
    features, shares = torch.randn(2, 3, 4, 2).bfloat16(), torch.rand(2, 8, 4, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        averages, _ = region_features(features, shares)
    assert averages.dtype == torch.float32
    torch.testing.assert_close(averages, region_features(features.float(), shares)[0])


def test_the_loss_of_parts_by_a_loop() -> None:
    """It is the mean over the visible parts of all images, times the number of parts; label smoothing included."""
    model, iuv, labels = network(dsag=False), some_map(), torch.arange(6) % IDS
    iuv[2, 0] = 0  # no map
    iuv[3, 0] *= (iuv[3, 0] == 23).byte()  # the head only
    guides = Guides(
        GuideConfig(parts=1.0), model.mf_stream.backbone.out_channels, IDS, classifier_dim=16, label_smoothing=0.1
    )
    output = model(inputs()[0])
    assert output.maps is not None
    _, terms = guides(output, labels, iuv=iuv)
    averages, seen = region_features(output.maps.shared, part_shares(iuv, (4, 2)))
    assert not seen[2].any() and seen[3].sum() == 1 and seen.sum() > 20
    logits = guides.classifiers["parts"](averages).detach()
    values = []
    for b in range(6):
        for k in range(8):
            if seen[b, k]:
                scores = logits[b, k].log_softmax(dim=0)
                values.append(float(-0.9 * scores[labels[b]] - 0.1 * scores.mean()))
    assert terms["id_parts"].item() == pytest.approx(8 * sum(values) / len(values), rel=1e-4)


def test_parts_without_any_map_have_no_loss() -> None:
    model, labels = network(dsag=False), torch.arange(6) % IDS
    guides = Guides(GuideConfig(parts=1.0), model.mf_stream.backbone.out_channels, IDS, classifier_dim=16)
    total, _ = guides(model(inputs()[0]), labels, iuv=torch.zeros_like(some_map()))
    assert total is not None and total.item() == 0
    total.backward()
    gradients = [parameter.grad for parameter in guides.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


def test_regions_need_the_number_of_identities() -> None:
    with pytest.raises(ValueError, match=r"num_ids must be given for guide.stripes, got None"):
        Guides(GuideConfig(stripes=1.0), 8)


# Distillation


def test_logits_divergence_by_definition() -> None:
    student, teacher = torch.randn(4, 8, IDS), torch.randn(4, 8, IDS)
    p, q = (x.double().div(3).softmax(dim=-1) for x in (teacher, student))
    expected = 9 * (p * (p / q).log()).sum(dim=-1).mean()
    assert logits_divergence(student, teacher, 3.0).item() == pytest.approx(expected.item(), rel=1e-4)
    assert logits_divergence(student, student, 3.0).item() == pytest.approx(0, abs=1e-6)


def test_relations_divergence_by_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.rand(6, 4, generator=generator), torch.rand(6, 9, generator=generator)

    def likeness(x: Tensor, row: int) -> list[float]:
        x = x.double() - x.double().mean(dim=0)
        others = [i for i in range(len(x)) if i != row]
        powers = [math.exp(float(torch.cosine_similarity(x[row], x[i], dim=0)) / 0.1) for i in others]
        return [power / sum(powers) for power in powers]

    expected = sum(
        p * math.log(p / q)
        for row in range(6)
        for p, q in zip(likeness(teacher, row), likeness(student, row), strict=True)
    )
    assert relations_divergence(student, teacher).item() == pytest.approx(expected / 6, rel=1e-3)
    parts = torch.stack([student, teacher[:, :4]], dim=1)
    twice = torch.stack([teacher[:, :4], teacher[:, :4]], dim=1)
    alone = relations_divergence(student, teacher[:, :4])
    assert relations_divergence(parts, twice).item() == pytest.approx(alone.item() / 2, rel=1e-4)


def test_distances_do_not_see_scale_and_mean() -> None:
    x = torch.rand(6, 4)
    assert features_distance(x, 3 * x + 5).item() == pytest.approx(0, abs=1e-5)
    assert relations_divergence(x, 3 * x + 5).item() == pytest.approx(0, abs=1e-4)
    assert features_distance(x, -x).item() == pytest.approx(2, rel=1e-4)


def test_distillation_moves_f_alone() -> None:
    model = network()
    guides = Guides(GuideConfig(distil=1.0, distil_features=1.0, distil_ramp=2.0), 8)
    output = model(*inputs())
    total, terms = guides(output, teacher=output, epoch=1.0)
    assert total is not None
    kinds = ("logits", "relations", "features")
    assert set(terms) == {f"distil_{kind}_{branch}" for kind in kinds for branch in ("global", "local")}
    parts = {"distil_logits_local": 8}  # a sum over the parts, like the ID losses
    expected = sum(0.5 * parts.get(name, 1) * value for name, value in terms.items())
    torch.testing.assert_close(total.detach(), expected)  # half of the ramp
    total.backward()
    assert model.dsag_stream is not None
    assert all(p.grad is None for p in model.dsag_stream.parameters())
    assert all(p.grad is None for p in model.classify_z_global.parameters())  # type: ignore[union-attr]
    assert any(p.grad is not None and p.grad.any() for p in model.mf_stream.parameters())
    none, _ = guides(output, teacher=output, epoch=0.0)
    assert none is not None and none.item() == 0


def test_distillation_brings_f_closer_to_a_frozen_teacher() -> None:
    teacher = network().eval()
    images, dsap = inputs()
    with torch.no_grad():
        aim = teacher(images, dsap)
    torch.manual_seed(5)
    model = DSAReID(IDS, backbone="resnet18", pretrained=None, width=0.125, classifier_dim=16, dsag=False)
    guides = Guides(GuideConfig(distil=1.0, distil_features=1.0, distil_ramp=0.0), 8)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    totals = []
    for _ in range(40):
        total, _ = guides(model(images), teacher=aim)
        assert total is not None
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.5 * totals[0]


def test_a_model_without_guides_has_no_terms() -> None:
    total, terms = Guides(GuideConfig(), 8)(network(dsag=False)(inputs()[0]))
    assert total is None and terms == {}


def test_guides_leave_the_network_as_it_is() -> None:
    """The network does not contain a guide: it has the same parameters and bit-identical features."""
    model = network(dsag=False).eval()
    names = set(model.state_dict())
    config = GuideConfig(dense=1.0, focus=1.0, parts=1.0, stripes=1.0)
    guides = Guides(config, model.mf_stream.backbone.out_channels, IDS, classifier_dim=16)
    assert len(list(guides.parameters())) > 0 and set(model.state_dict()) == names
    output = model(inputs()[0])
    guides(output, torch.arange(6) % IDS, iuv=some_map())
    assert torch.equal(model(inputs()[0]).f_global, output.f_global)
    DSALoss()(output, torch.arange(6) % IDS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drop": 1.5}, r"guide.drop must be a share in \[0, 1\], got 1.5"),
        ({"fade": -0.1}, "guide.fade must be a share"),
        ({"dense": -1.0}, "guide.dense must be finite and at least 0, got -1.0"),
        ({"parts": -1.0}, "guide.parts must be finite and at least 0, got -1.0"),
        ({"stripes": math.inf}, "guide.stripes must be finite and at least 0, got inf"),
        ({"distil": float("nan")}, "guide.distil must be finite"),
        ({"dense_scale": 3}, "guide.dense_scale must be 1, 2, 4, 8 or 16, got 3"),
        ({"dense_channels": 0}, "guide.dense_channels must be at least 1"),
        ({"distil_temperature": 0.0}, "guide.distil_temperature must be above 0"),
        ({"distil_decay": 1.0}, r"guide.distil_decay must be in \[0, 1\)"),
    ],
)
def test_wrong_options(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GuideConfig(**options)  # type: ignore[arg-type]
