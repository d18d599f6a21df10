"""Backbones other than plain ResNets: IBN-a, timm, frozen layers, pretrained heads."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from dsa_fast.deploy.embedding_network import EmbeddingNetwork
from dsa_fast.models import Backbone, DSAReID, ModelConfig, build_model
from dsa_fast.models.backbone import IBN

LITE = "timm/tf_efficientnet_lite0"


def network(backbone: str, **options: object) -> DSAReID:
    torch.manual_seed(0)
    options = {"pretrained": None, "width": 0.125, "classifier_dim": 16, "dsag": False, **options}
    return DSAReID(4, backbone=backbone, **options)  # type: ignore[arg-type]


def images(batch: int = 2) -> Tensor:
    return torch.randint(0, 256, (batch, 3, 128, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def stir(module: nn.Module) -> None:
    """Randomizes the statistics of batch norms, so that a test fails if one is left out."""
    generator = torch.Generator().manual_seed(3)
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            assert child.running_mean is not None and child.running_var is not None
            child.running_mean.copy_(0.2 * torch.randn(child.num_features, generator=generator))
            child.running_var.copy_(0.5 + torch.rand(child.num_features, generator=generator))


# IBN-a


def test_ibn_is_half_instance_and_half_batch_norm() -> None:
    norm, x = IBN(10), torch.randn(4, 10, 6, 5)
    out = norm(x)
    first, second = x[:, :5], x[:, 5:]
    mean, var = first.mean(dim=(2, 3), keepdim=True), first.var(dim=(2, 3), keepdim=True, correction=0)
    torch.testing.assert_close(out[:, :5], (first - mean) / (var + 1e-5).sqrt(), atol=1e-5, rtol=1e-4)
    mean, var = (second.mean(dim=(0, 2, 3), keepdim=True), second.var(dim=(0, 2, 3), keepdim=True, correction=0))
    torch.testing.assert_close(out[:, 5:], (second - mean) / (var + 1e-5).sqrt(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("name", "blocks"), [("resnet18_ibn", 6), ("resnet50_ibn", 13)])
def test_ibn_is_in_conv2_to_conv4(name: str, blocks: int) -> None:
    """IBN-Net's authors use it as the first norm of each block of layer1 to layer3, with this name."""
    backbone = Backbone(name, width=0.125)
    places = [place for place, module in backbone.named_modules() if isinstance(module, IBN)]
    assert len(places) == blocks and all(place.endswith("bn1") and place.startswith("layer") for place in places)
    names = backbone.state_dict()
    assert {"layer1.0.bn1.IN.weight", "layer1.0.bn1.BN.running_mean", "bn1.weight"} <= set(names)
    assert backbone(torch.randn(2, 3, 64, 32)).shape == (2, backbone.out_channels, 4, 2)


# Pretrained heads and frozen layers


@pytest.fixture(scope="module")
def resnet_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    torch.manual_seed(4)
    state = resnet18().state_dict()
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(state, path)
    return path, state


def test_pretrained_heads_start_from_conv5(resnet_file: tuple[Path, dict[str, Tensor]]) -> None:
    path, state = resnet_file
    model = network("resnet18", width=1.0, pretrained=str(path), pretrained_heads=True)
    assert model.mf_stream.head_global is not None
    for name, value in model.mf_stream.head_global.state_dict().items():
        assert torch.equal(value, state[f"layer4.{name}"]), name
    plain = network("resnet18", width=1.0, pretrained=str(path))
    assert plain.mf_stream.head_global is not None
    assert not torch.equal(plain.mf_stream.head_global.state_dict()["0.conv1.weight"], state["layer4.0.conv1.weight"])
    assert torch.equal(plain.mf_stream.backbone.state_dict()["conv1.weight"], state["conv1.weight"])


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("name", "last", "dim"),
    [("tf_efficientnet_lite0", ("blocks.5", "blocks.6", "conv_head", "bn2"), 1280), ("resnet10t", ("layer4",), 512)],
)
def test_pretrained_heads_of_timm_are_its_last_stage(
    tmp_path: Path, name: str, last: tuple[str, ...], dim: int, stride: int
) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(8)
    whole = timm.create_model(name).eval()
    stir(whole)
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    options = {"pretrained_heads": True, "last_stride": stride, "branches": "global"}
    model = network(f"timm/{name}", pretrained=str(tmp_path / "weights.pth"), **options).eval()
    head = model.mf_stream.head_global
    assert head is not None and model.mf_stream.global_dim == dim
    for number, place in enumerate(last):
        expected, got = whole.get_submodule(place).state_dict(), head[number].state_dict()
        assert got.keys() == expected.keys() and all(torch.equal(got[key], expected[key]) for key in expected), place
    with torch.no_grad():
        maps = model.mf_stream.maps(model.normalize(images()))
        assert maps.whole is not None and maps.whole.shape == (2, dim, 8 // stride, 4 // stride)
        if stride == 2:
            scaled = images() / 127.5 - 1 if name.startswith("tf_") else model.normalize(images())
            torch.testing.assert_close(maps.whole, whole.forward_features(scaled), atol=1e-3, rtol=1e-3)
    # It trains, and a checkpoint's network, built without the file, has the same layers.
    model.train()(images(4)).f_global.square().sum().backward()
    assert all(p.grad is not None for p in head.parameters())
    again = network(f"timm/{name}", **options)
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again.embed(images()), model.embed(images()))
    vectors = EmbeddingNetwork(model)(images().permute(0, 2, 3, 1))
    torch.testing.assert_close(vectors, model.embed(images()), atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "stride", "message"),
    [
        ("vit_tiny_patch16_224", 2, "it has no stage after stride 16"),
        ("convnext_atto", 1, "and model.last_stride 1: its last stage maps 8 x 4 positions to 7 x 3"),
        ("resnest14d", 1, "and model.last_stride 1"),
        ("hrnet_w18_small", 2, "its layers after stride 16 can't be separated"),
    ],
)
def test_pretrained_heads_that_do_not_do(name: str, stride: int, message: str) -> None:
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match=f"pretrained_heads must be false with the backbone timm/{name}.*{message}"):
        network(f"timm/{name}", pretrained_heads=True, last_stride=stride)


def test_the_baseline_of_a_timm_backbone_has_a_head_of_its_own(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.save(timm.create_model("tf_efficientnet_lite0").state_dict(), tmp_path / "lite0.pth")
    config = ModelConfig(kind="baseline", backbone=LITE, pretrained=str(tmp_path / "lite0.pth"), width=0.125)
    assert build_model(4, config).embed_dims == (256, 0)


@pytest.mark.parametrize(
    ("backbone", "frozen", "still", "trained"),
    [
        ("resnet18", 4, ("conv1", "bn1", "layer1.1.bn2"), ("layer2.0.conv1", "layer3.1.bn2")),
        ("resnet18", 2, ("conv1", "bn1"), ("layer1.0.conv1",)),
        (LITE, 4, ("net.conv_stem", "net.bn1", "net.blocks.1.1.bn3"), ("net.blocks.2.0.conv_pw", "net.blocks.2.0.bn1")),
    ],
)
def test_frozen_layers_stay(backbone: str, frozen: int, still: tuple[str, ...], trained: tuple[str, ...]) -> None:
    if backbone.startswith("timm/"):
        pytest.importorskip("timm")
    model = network(backbone, frozen=frozen).train()
    before = copy.deepcopy(model.mf_stream.backbone.state_dict())
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01, weight_decay=0.1)
    model(images(4)).f_global.square().sum().backward()
    optimizer.step()
    after = model.mf_stream.backbone.state_dict()
    for names, moved in ((still, False), (trained, True)):
        for name in names:
            fields = [field for field in ("weight", "running_mean") if f"{name}.{field}" in before]
            assert fields
            for field in fields:
                assert torch.equal(before[f"{name}.{field}"], after[f"{name}.{field}"]) != moved, (name, field)


def test_frozen_must_be_a_stride() -> None:
    with pytest.raises(ValueError, match="frozen must be 0, 2, 4 or 8, got 3"):
        network("resnet18", frozen=3)
    pytest.importorskip("timm")
    with pytest.raises(
        ValueError, match=r"frozen must be 0 or the stride of a feature map \(4, 8 in timm/convnext_atto"
    ):
        network("timm/convnext_atto", frozen=2)


# timm


@pytest.mark.parametrize(
    "name",
    [
        "tf_efficientnet_lite0",
        "mobilenetv3_small_050",
        "convnext_atto",
        "vit_tiny_patch16_224",
        "swin_tiny_patch4_window7_224",
        "resnet10t",
    ],
)
def test_timm_backbones_train_and_deploy(name: str) -> None:
    """Convolutions, transformers, channels last: all give F at stride 16, train, and export without loss."""
    pytest.importorskip("timm")
    config = ModelConfig(backbone=f"timm/{name}", pretrained=None, width=0.125, classifier_dim=16)
    if name in ("convnext_atto", "swin_tiny_patch4_window7_224"):  # the heads that can't run at stride 1
        config = replace(config, pretrained_heads=True, last_stride=2, dsag=False)
    model = build_model(4, config)
    model.train()
    output = model(images(4), torch.randn(4, 24, 3, 8, 8))
    assert output.maps is not None and output.maps.shared.shape[2:] == (8, 4)
    assert output.maps.whole is not None and output.maps.whole.shape[2] == 8 // config.last_stride
    output.z_global.square().sum().backward()
    assert all(p.grad is not None for p in model.mf_stream.backbone.parameters() if p.requires_grad)
    model.eval()
    stir(model)
    vectors = EmbeddingNetwork(model)(images().permute(0, 2, 3, 1))
    torch.testing.assert_close(vectors, model.embed(images()) / 2**0.5, atol=2e-5, rtol=1e-3)


def test_timm_weights_from_a_file(tmp_path: Path) -> None:
    """F equals the map of timm's own network with its own normalization."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(7)
    whole = timm.create_model("tf_efficientnet_lite0").eval()
    stir(whole)
    path = tmp_path / "lite0.pth"
    torch.save({"state_dict": whole.state_dict()}, path)
    model = network(LITE, pretrained=str(path)).eval()
    parts = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(3,)).eval()
    parts.load_state_dict({k: v for k, v in whole.state_dict().items() if k in parts.state_dict()})
    with torch.no_grad():
        expected = parts(images() / 127.5 - 1)[0]  # mean and standard deviation 0.5
        got = model.mf_stream.backbone(model.normalize(images()))
    torch.testing.assert_close(got, expected, atol=1e-3, rtol=1e-3)


def test_timm_weights_that_do_not_fit(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    state = timm.create_model("resnet10t").state_dict()
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"does not fit timm's tf_efficientnet_lite0: \d+ missing: conv_stem"):
        network(LITE, pretrained=str(tmp_path / "other.pth"))
    del state["fc.weight"], state["fc.bias"]  # the classifier may be missing
    torch.save(state, tmp_path / "headless.pth")
    network("timm/resnet10t", pretrained=str(tmp_path / "headless.pth"))
    state["conv1.0.weight"] = state["conv1.0.weight"][:3]
    torch.save(state, tmp_path / "cut.pth")
    with pytest.raises(ValueError, match=r"1 of another shape: conv1.0.weight \[3, 3, 3, 3\] instead of"):
        network("timm/resnet10t", pretrained=str(tmp_path / "cut.pth"))
    with pytest.raises(FileNotFoundError, match="there is no file"):
        network("timm/resnet10t", pretrained=str(tmp_path / "none.pth"))
    (tmp_path / "text.pth").write_text("no tensors")
    with pytest.raises(ValueError, match="is not a file of tensors"):
        network("timm/resnet10t", pretrained=str(tmp_path / "text.pth"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm/nonsense", "backbone must name one of timm's networks, got 'timm/nonsense'"),
        ("timm/vit_small_patch14_dinov2", r"feature map at stride 16, got .*\[14, 14, 14\]"),
    ],
)
def test_timm_networks_that_do_not_do(name: str, message: str) -> None:
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match=message):
        network(name)
