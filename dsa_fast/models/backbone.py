"""Backbones: the shared part of a ResNet, conv1 to conv4_x, with its weights; others come from timm.

He et al., "Deep Residual Learning for Image Recognition" (https://arxiv.org/abs/1512.03385), built of torchvision's
blocks and with torchvision's names, so that its state dicts load as they are. With IBN-a: Pan et al., "Two at Once"
(https://arxiv.org/abs/1807.09441), with the names of its authors' state dicts.
"""

from __future__ import annotations

import math
import os
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
    weights: str | None = None  # the IBN-Net authors' file of ImageNet weights


class _IBNWeights:
    """What `download_state` takes for a file of IBN-Net's authors, who are not in torchvision."""

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

#: What stands before the name of a timm model.
TIMM = "timm/"


def backbone_spec(name: str) -> _Spec:
    """The block type of a ResNet and how many blocks each of conv2_x to conv5_x has.

    Raises:
        ValueError: the name is not that of one of our ResNets.
    """
    if name not in _SPECS:
        raise ValueError(f"backbone must be one of {', '.join(_SPECS)} or {TIMM}NAME, got {name!r}")
    return _SPECS[name]


def head_spec(name: str) -> tuple[type[BasicBlock | Bottleneck], int]:
    """The block type and the number of blocks of the heads: conv5_x of the ResNet, or of ResNet-50 after another net.

    Raises:
        ValueError: the name is neither one of our ResNets nor `timm/NAME`.
    """
    spec = backbone_spec("resnet50" if name.startswith(TIMM) else name)
    return spec.block, spec.blocks[3]


def scaled(channels: int, width: float) -> int:
    """`channels` times `width`, rounded to a multiple of 8 and at least 8.

    Raises:
        ValueError: width is not a finite number above 0.
    """
    if not (math.isfinite(width) and width > 0):
        raise ValueError(f"width must be a finite number above 0, got {width}")
    return max(8, 8 * round(channels * width / 8))


def fast_layout(x: Tensor, *, wide: bool = False) -> Tensor:
    """`x` [B, C, H, W] in the memory format that convolutions run fastest in on its device.

    Measured on CPU with PyTorch 2.15 (forward and backward): channels-last spares the convolutions, grouped ones above
    all, the reordering of their maps: a training step of the small networks takes 0.7 to 0.9 of the time that it takes
    in contiguous format. But layers of 512 channels and more on small maps take 1.2 to 1.7 times as long: there it is
    the weights that are reordered. On other devices `x` stays as it is, and the weights' own format decides
    (`model.to(memory_format=torch.channels_last)`).

    Args:
        x: the feature map.
        wide: the layers that follow have many channels on small maps.
    """
    if x.device.type != "cpu":
        return x
    return x.contiguous(memory_format=torch.contiguous_format if wide else torch.channels_last)


def pool(x: Tensor) -> Tensor:
    """Spatial average of `x` [B, C, H, W] -> [B, C], in float32 (or better): reduced precision ends at the features."""
    return x.mean(dim=(2, 3), dtype=torch.promote_types(x.dtype, torch.float32))


class Normalize(nn.Module):
    """uint8 RGB -> float32, less the ImageNet mean and divided by its deviation; float tensors pass unchanged."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        # In units of 8-bit values. Not persistent: constants have no place in a checkpoint.
        self.register_buffer("mean", 255 * torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(STD).view(3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """`x` [..., 3, H, W], uint8 RGB or float (already normalized) -> float, the same shape."""
        return (x.to(self.mean.dtype) - self.mean) / self.std if x.dtype == torch.uint8 else x


def make_stage(
    block: type[BasicBlock | Bottleneck], in_channels: int, planes: int, blocks: int, *, stride: int
) -> nn.Sequential:
    """One ResNet stage, its modules named as torchvision names them; the first block has the stride.

    Weights are drawn as torchvision draws them (He normal, fan out; batch norms 1 and 0).
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
    """Draws the weights of the plain convolutions in `module` from He's normal distribution (fan out)."""
    for child in module.modules():
        if type(child) is nn.Conv2d:
            nn.init.kaiming_normal_(child.weight, mode="fan_out", nonlinearity="relu")


class IBN(nn.Module):
    """IBN-a: instance norm on the first half of the channels, batch norm on the others.

    Args:
        channels: of the map.
    """

    #: Half of it can't be folded into a convolution.
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
        name: which ResNet; those with `_ibn` have IBN-a in conv2_x to conv4_x.
        width: scales every channel count.
        frozen: layers up to this stride (2, 4 or 8) are never trained and their batch norms stay as they are; 0: none.

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
        """Frozen layers stay in evaluation mode."""
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
    """One of our ResNets, or `timm/NAME`, with its weights.

    Args:
        name: resnet18 to resnet101, with `_ibn` or without, or `timm/NAME`.
        width: scales the channel counts of our ResNets; timm's networks are as they are.
        pretrained: see `read_pretrained`; for a timm network `imagenet` is what timm has for it.
        frozen: see `Backbone`.

    Raises:
        FileNotFoundError, ValueError: there is no such network, or its weights can't be had or don't fit.
        ModuleNotFoundError: timm is asked for and not installed.
    """
    if name.startswith(TIMM):
        from dsa_fast.models.timm_backbone import TimmBackbone

        return TimmBackbone(name[len(TIMM) :], pretrained=pretrained, frozen=frozen)
    # Read first: what is missing should show before the network is built.
    state = None if pretrained is None else read_pretrained(name, pretrained, width=width)
    backbone = Backbone(name, width=width, frozen=frozen)
    if state is not None:
        load_named(backbone, state, source=f"pretrained={str(pretrained)!r}")
    return backbone


def read_pretrained(backbone: str, source: str | os.PathLike[str], *, width: float = 1.0) -> dict[str, Tensor]:
    """torchvision's state dict of a ResNet: ImageNet weights or a local file.

    Args:
        backbone: which ResNet.
        source: `"imagenet"` for torchvision's IMAGENET1K_V1 weights (downloaded once, into torch.hub's cache), or
            the path of a state dict with torchvision's names. With IBN-a both are those of IBN-Net's authors.
        width: the width of the network it is for; only 1 can have pretrained weights.

    Raises:
        ValueError: width is not 1, the weights can't be downloaded, or the file is not a state dict.
        FileNotFoundError: there is no such file.
    """
    spec = backbone_spec(backbone)
    if width != 1:
        raise ValueError(
            f"pretrained weights need width=1, got width={width}: they are of the full ResNet; "
            "pass pretrained=None for random weights"
        )
    if source != "imagenet":
        return read_state(source, name="pretrained", known="'imagenet', None or a file", model=backbone)
    return download_state(
        get_model_weights(backbone)["IMAGENET1K_V1"] if spec.weights is None else _IBNWeights(spec.weights),
        name="pretrained='imagenet'",
        what=f"the ImageNet weights of {backbone}",
        argument="pretrained",
        otherwise="; pretrained=None starts from random ones",
    )
