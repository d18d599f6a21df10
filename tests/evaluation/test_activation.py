"""Where the MF-Stream responds."""

from __future__ import annotations

import pytest
import torch

from dsa_fast.evaluation.activation import energy, record_activations
from dsa_fast.models import Baseline, DSAReID


def test_energy_is_the_length_of_the_vectors_stretched() -> None:
    features = torch.zeros(2, 3, 2, 2)
    features[0, :, 0, 0] = torch.tensor([0.0, 3.0, 4.0])
    features[0, 0, 1, 1] = 2.5
    maps = energy(features)
    assert maps.dtype == torch.uint8 and maps.tolist() == [[[255, 0], [0, 128]], [[0, 0], [0, 0]]]
    assert energy(features.bfloat16()).tolist() == maps.tolist()
    with pytest.raises(ValueError, match=r"features must have shape \[B, C, h, w\], got \[2\]"):
        energy(torch.zeros(2))


def test_activations_are_recorded_layer_by_layer_and_hooks_go() -> None:
    torch.manual_seed(0)
    model = DSAReID(2, backbone="resnet18", pretrained=None, width=0.125, classifier_dim=8).eval()
    images = torch.randn(3, 3, 64, 32)
    plain = model.embed(images)
    for layer in ("backbone", "global", "local"):
        with record_activations(model.mf_stream, layer) as maps:  # type: ignore[arg-type]
            assert torch.equal(model.embed(images), plain)
            model.embed(images[:1])
        model.embed(images)
        assert [list(m.shape) for m in maps] == [[3, 4, 2], [1, 4, 2]]
    with record_activations(model.mf_stream) as maps:
        model.embed(images)
    assert torch.equal(maps[0], energy(model.mf_stream.backbone(images)))
    with (
        pytest.raises(ValueError, match="layer must be one of backbone, global, local, got 'x'"),
        record_activations(model.mf_stream, "x"),
    ):  # type: ignore[arg-type]
        pass
    plain_model = Baseline(2, backbone="resnet18", pretrained=None, width=0.125)
    with (
        pytest.raises(ValueError, match="got 'local': it was built without"),
        record_activations(plain_model.mf_stream, "local"),
    ):
        pass


def test_a_place_of_a_map_stands_for_pixels_around_16_times_it() -> None:
    torch.manual_seed(0)
    backbone = DSAReID(2, backbone="resnet18", pretrained=None, width=0.125, classifier_dim=8).mf_stream.backbone.eval()
    image = torch.randn(8, 3, 224, 224, requires_grad=True)
    backbone(image)[:, :, 7, 6].square().sum().backward()
    assert image.grad is not None
    weight = image.grad.abs().sum((0, 1))
    middle = [float((weight.sum(1 - axis) * torch.arange(224)).sum() / weight.sum()) for axis in (0, 1)]
    assert middle == pytest.approx([16 * 7, 16 * 6], abs=3)
