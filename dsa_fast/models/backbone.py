"""Backbones: the shared layers of a ResNet, conv1 to conv4_x, and their weights. Other backbones come from timm.

ResNet: He et al., "Deep Residual Learning for Image Recognition" (https://arxiv.org/abs/1512.03385). It uses
torchvision's blocks and parameter names, so torchvision's state dicts load without renaming. IBN-a: Pan et al., "Two at
Once" (https://arxiv.org/abs/1807.09441), with the parameter names of the authors' state dicts.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models import get_model_weights
from torchvision.models.resnet import BasicBlock, Bottleneck

from dsa_fast.imagenet import MEAN, STD
from dsa_fast.weights import download_state, load_named, read_state

if TYPE_CHECKING:
    from dsa_fast.models.timm_backbone import TimmBackbone


class _Spec(NamedTuple):
    block: type[BasicBlock | Bottleneck]
    blocks: tuple[int, int, int, int]  # of conv2_x, conv3_x, conv4_x, conv5_x
    ibn: bool = False
    weights: str | None = None  # file name of the IBN-Net authors' ImageNet weights


class _IBNWeights:
    """Describes a weights file of IBN-Net's authors for `download_state`. torchvision does not list these files."""

    def __init__(self, file: str) -> None:
        self.url = f"https://github.com/XingangPan/IBN-Net/releases/download/v1.0/{file}"

    def get_state_dict(self, **options: Any) -> dict[str, Tensor]:
        state: dict[str, Tensor] = torch.hub.load_state_dict_from_url(self.url, **options)
        return state


_SPECS: dict[str, _Spec] = {
    "resnet18": _Spec(BasicBlock, (2, 2, 2, 2)),
    "resnet34": _Spec(BasicBlock, (3, 4, 6, 3)),
    "resnet50": _Spec(Bottleneck, (3, 4, 6, 3)),
    "resnet101": _Spec(Bottleneck, (3, 4, 23, 3)),
    "resnet18_ibn": _Spec(BasicBlock, (2, 2, 2, 2), True, "resnet18_ibn_a-2f571257.pth"),
    "resnet34_ibn": _Spec(BasicBlock, (3, 4, 6, 3), True, "resnet34_ibn_a-94bc1577.pth"),
    "resnet50_ibn": _Spec(Bottleneck, (3, 4, 6, 3), True, "resnet50_ibn_a-d9d0bb7b.pth"),
    "resnet101_ibn": _Spec(Bottleneck, (3, 4, 23, 3), True, "resnet101_ibn_a-59ea0ac6.pth"),
}

#: Prefix of the names of timm models.
TIMM = "timm/"


def backbone_spec(name: str) -> _Spec:
    """Returns the block type of a ResNet and the number of blocks in each of conv2_x to conv5_x.

    Raises:
        ValueError: the name is not one of our ResNets.
    """
    if name not in _SPECS:
        raise ValueError(f"backbone must be one of {', '.join(_SPECS)} or {TIMM}NAME, got {name!r}")
    return _SPECS[name]


def head_spec(name: str) -> tuple[type[BasicBlock | Bottleneck], int]:
    """Returns the block type and number of blocks of the heads: the ResNet's conv5_x, or ResNet-50's for timm models.

    Raises:
        ValueError: the name is neither one of our ResNets nor `timm/NAME`.
    """
    spec = backbone_spec("resnet50" if name.startswith(TIMM) else name)
    return spec.block, spec.blocks[3]


def scaled(channels: int, width: float) -> int:
    """Returns `channels` times `width`, rounded to a multiple of 8, at least 8.

    Raises:
        ValueError: width is not a finite number above 0.
    """
    if not (math.isfinite(width) and width > 0):
        raise ValueError(f"width must be a finite number above 0, got {width}")
    return max(8, 8 * round(channels * width / 8))


def fast_layout(x: Tensor, *, wide: bool = False) -> Tensor:
    """Returns `x` [B, C, H, W] in the memory format in which convolutions run fastest on its device.

    Measured on CPU with PyTorch 2.15 (forward and backward): with channels-last, convolutions, above all grouped ones,
    need not reorder their maps. A training step of the small networks takes 0.7 to 0.9 of its time in contiguous
    format. Layers with 512 or more channels on small maps take 1.2 to 1.7 times as long, because their weights are
    reordered instead. On other devices `x` is unchanged, and the weights' format decides
    (`model.to(memory_format=torch.channels_last)`).

    Args:
        x: the feature map.
        wide: the following layers have many channels on small maps.
    """
    if x.device.type != "cpu":
        return x
    return x.contiguous(memory_format=torch.contiguous_format if wide else torch.channels_last)


def pool(x: Tensor) -> Tensor:
    """Averages `x` [B, C, H, W] over space -> [B, C], in float32 or better: features never have reduced precision."""
    return x.mean(dim=(2, 3), dtype=torch.promote_types(x.dtype, torch.float32))


class Normalize(nn.Module):
    """uint8 RGB -> float32: subtracts ImageNet's mean and divides by its deviation. Float tensors pass unchanged."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        # In units of 8-bit values. Not persistent: checkpoints do not need constants.
        self.register_buffer("mean", 255 * torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(STD).view(3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """`x` [..., 3, H, W], uint8 RGB or float (already normalized) -> float, same shape."""
        return (x.to(self.mean.dtype) - self.mean) / self.std if x.dtype == torch.uint8 else x


def make_stage(
    block: type[BasicBlock | Bottleneck], in_channels: int, planes: int, blocks: int, *, stride: int
) -> nn.Sequential:
    """Makes one ResNet stage with torchvision's module names. The first block has the stride.

    Initializes weights as torchvision does (He normal, fan out; batch norms 1 and 0).
    """
    out_channels = planes * block.expansion
    downsample: nn.Module | None = None
    if stride != 1 or in_channels != out_channels:
        downsample = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
        )
    layers = [block(in_channels, planes, stride, downsample)]
    layers += [block(out_channels, planes) for _ in range(1, blocks)]
    stage = nn.Sequential(*layers)
    init_convolutions(stage)
    return stage


def init_convolutions(module: nn.Module) -> None:
    """Initializes the plain convolutions in `module` with He's normal distribution (fan out)."""
    for child in module.modules():
        if type(child) is nn.Conv2d:
            nn.init.kaiming_normal_(child.weight, mode="fan_out", nonlinearity="relu")


class IBN(nn.Module):
    """IBN-a: instance norm on the first half of the channels, batch norm on the other half.

    Args:
        channels: number of channels of the map.
    """

    #: The instance norm can't be folded into a convolution.
    keeps_batch_norms = True

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.instances = channels // 2
        self.IN = nn.InstanceNorm2d(self.instances, affine=True)
        self.BN = nn.BatchNorm2d(channels - self.instances)

    def forward(self, x: Tensor) -> Tensor:
        instance, batch = x.split([self.instances, x.shape[1] - self.instances], dim=1)
        return torch.cat([self.IN(instance.contiguous()), self.BN(batch.contiguous())], dim=1)


class Backbone(nn.Module):
    """ResNet conv1 to conv4_x: images [B, 3, H, W] -> feature map F [B, out_channels, H/16, W/16].

    The state dict has torchvision's names (conv1, bn1, layer1, layer2, layer3).

    Args:
        name: the ResNet's name; names with `_ibn` have IBN-a in conv2_x to conv4_x.
        width: scales every channel count.
        frozen: layers up to this stride (2, 4 or 8) are not trained, nor are their batch norms updated; 0: none.

    Attributes:
        out_channels: channels of F: 1024 for resnet50 and resnet101, 256 for resnet18 and resnet34, at width 1.
    """

    def __init__(self, name: str = "resnet50", *, width: float = 1.0, frozen: int = 0) -> None:
        super().__init__()
        block, blocks, ibn = backbone_spec(name)[:3]
        self.name = name
        self.width = width
        stem = scaled(64, width)
        planes = [scaled(c, width) for c in (64, 128, 256)]
        self.conv1 = nn.Conv2d(3, stem, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = make_stage(block, stem, planes[0], blocks[0], stride=1)
        self.layer2 = make_stage(block, planes[0] * block.expansion, planes[1], blocks[1], stride=2)
        self.layer3 = make_stage(block, planes[1] * block.expansion, planes[2], blocks[2], stride=2)
        self.out_channels: int = planes[2] * block.expansion
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        if ibn:
            for stage in (self.layer1, self.layer2, self.layer3):
                for child in stage.modules():
                    if isinstance(child, (BasicBlock, Bottleneck)):
                        child.bn1 = IBN(child.bn1.num_features)
        stages: dict[int, list[nn.Module]] = {2: [self.conv1, self.bn1], 4: [self.layer1], 8: [self.layer2]}
        if frozen not in (0, *stages):
            raise ValueError(f"frozen must be 0, 2, 4 or 8, got {frozen}")
        self._frozen = [module for stride in stages if stride <= frozen for module in stages[stride]]
        for module in self._frozen:
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> Backbone:
        """Sets the mode. Frozen layers stay in evaluation mode."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W], float and normalized -> F [B, out_channels, H/16, W/16]."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        out: Tensor = self.layer3(self.layer2(self.layer1(x)))
        return out


def make_backbone(
    name: str, *, width: float = 1.0, pretrained: str | os.PathLike[str] | None = None, frozen: int = 0
) -> Backbone | TimmBackbone:
    """Makes one of our ResNets or a timm network, and loads its weights.

    Args:
        name: resnet18 to resnet101, with or without `_ibn`, or `timm/NAME`.
        width: scales the channel counts of our ResNets; timm's networks are not scaled.
        pretrained: see `read_pretrained`; for a timm network, `imagenet` selects timm's own weights. Or the path of a
            checkpoint of `dsa-fast fit`, whose backbone must have the same name and width.
        frozen: see `Backbone`.

    Raises:
        FileNotFoundError: `pretrained` is a path and there is no file.
        ValueError: there is no such network, or its weights can't be downloaded, can't be read or don't fit.
        ModuleNotFoundError: the name needs timm, and timm is not installed.
    """
    trained = read_trained(pretrained, name, width)
    if trained is not None:
        backbone = make_backbone(name, width=width, frozen=frozen)
        load_named(backbone, trained, source=f"pretrained={str(pretrained)!r}")
        return backbone
    if name.startswith(TIMM):
        from dsa_fast.models.timm_backbone import TimmBackbone

        return TimmBackbone(name[len(TIMM) :], pretrained=pretrained, frozen=frozen)
    # Read first, so that a missing file is reported before the network is built.
    state = None if pretrained is None else read_pretrained(name, pretrained, width=width)
    backbone = Backbone(name, width=width, frozen=frozen)
    if state is not None:
        load_named(backbone, state, source=f"pretrained={str(pretrained)!r}")
    return backbone


def read_trained(source: str | os.PathLike[str] | None, backbone: str, width: float) -> dict[str, Tensor] | None:
    """Reads the backbone's weights from a checkpoint of `dsa-fast fit`. None if `source` is anything else.

    Raises:
        ValueError: its backbone has another name or width, or its weights are not finite.
    """
    if source is None or not Path(source).is_file():
        return None
    try:
        checkpoint = torch.load(source, map_location="cpu", weights_only=True)
        about, weights = dict(checkpoint["dsa_fast"]["model"]), dict(checkpoint["state_dict"])
    except Exception:  # another kind of file, whose reader says what is wrong with it
        return None
    for name, ours in (("backbone", backbone), ("width", width)):
        theirs = about.get(name, "an earlier version's" if name == "backbone" else None)
        # The width scales only the heads of timm's networks.
        if theirs != ours and not (name == "width" and backbone.startswith(TIMM)):
            raise ValueError(
                f"pretrained={str(source)!r} must be a checkpoint of a network with {name} {ours}, got {theirs}"
            )
    prefix = "model.mf_stream.backbone."
    state = {str(name)[len(prefix) :]: value for name, value in weights.items() if str(name).startswith(prefix)}
    for name, value in state.items():
        if not isinstance(value, Tensor) or (value.is_floating_point() and not bool(value.isfinite().all())):
            raise ValueError(f"pretrained={str(source)!r} must hold finite weights, got others for {name}")
    return state


def read_pretrained(backbone: str, source: str | os.PathLike[str], *, width: float = 1.0) -> dict[str, Tensor]:
    """Reads a ResNet's state dict with torchvision's names: ImageNet weights or a local file.

    Args:
        backbone: the ResNet's name.
        source: `"imagenet"` for torchvision's IMAGENET1K_V1 weights (downloaded once, into torch.hub's cache), or
            the path of a state dict with torchvision's names. With IBN-a, the weights and names are those of IBN-Net's
            authors.
        width: width of the network that gets the weights; pretrained weights need 1.

    Raises:
        ValueError: width is not 1, the weights can't be downloaded, or the file is not a state dict.
        FileNotFoundError: there is no such file.
    """
    spec = backbone_spec(backbone)
    if width != 1:
        raise ValueError(
            f"pretrained weights need width=1, got width={width}: they fit only the full-width ResNet; "
            "pass pretrained=None for random weights"
        )
    if source != "imagenet":
        return read_state(source, name="pretrained", known="'imagenet', None or a file", model=backbone)
    return download_state(
        get_model_weights(backbone)["IMAGENET1K_V1"] if spec.weights is None else _IBNWeights(spec.weights),
        name="pretrained='imagenet'",
        what=f"the ImageNet weights of {backbone}",
        argument="pretrained",
        otherwise="; pretrained=None starts from random weights",
    )
