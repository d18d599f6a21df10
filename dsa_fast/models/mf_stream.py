"""The MF-Stream: the main full-image stream, the only one kept for inference (paper, section 3.2.2)."""

from __future__ import annotations

import os
from typing import Literal, NamedTuple, get_args

from torch import Tensor, nn

from dsa_fast.densepose.parts import MERGED_NAMES
from dsa_fast.models.backbone import (
    TIMM,
    fast_layout,
    head_spec,
    make_backbone,
    make_stage,
    pool,
    read_pretrained,
    scaled,
)
from dsa_fast.models.branches import BranchBasicBlock, BranchBottleneck, make_branch_stage
from dsa_fast.weights import load_named

Branches = Literal["both", "global", "local"]

#: Parts that the local branches stand for.
NUM_LOCAL = len(MERGED_NAMES)


class Features(NamedTuple):
    """What a stream gives; None for a branch that was not built.

    Attributes:
        whole: [B, global_dim], the global branch's feature vector.
        local: [B, 8, local_dim], one vector for each merged part.
    """

    whole: Tensor | None
    local: Tensor | None


class FeatureMaps(NamedTuple):
    """The MF-Stream's maps, before their spatial averages; None for a branch that was not built.

    Attributes:
        shared: F, [B, C, H/16, W/16].
        whole: [B, global_dim, h, w], the global head's.
        local: [B, 8 * local_dim, h, w], the local head's, part by part.
    """

    shared: Tensor
    whole: Tensor | None
    local: Tensor | None

    def pooled(self) -> Features:
        """The spatial averages, float32."""
        whole = None if self.whole is None else pool(self.whole)
        local = None if self.local is None else split_parts(pool(self.local))
        return Features(whole, local)


class MFStream(nn.Module):
    """Full images -> global and part-aware features, by a ResNet backbone and a head of two branches.

    Backbone: conv1 to conv4_x of the ResNet, F. Global head: its conv5_x with stride 1 and a spatial average. Local
    head: 8 branches, each like the global one with 1/8 of the channels on each layer, each reading all of F. Heads
    start from random weights.

    Args:
        backbone: resnet18, resnet34, resnet50 or resnet101.
        width: scales every channel count (to multiples of 8, at least 8).
        branches: which branches of the head are built.
        last_stride: stride of the heads; 1 in the paper, 2 in the plain ResNet.

    Attributes:
        global_dim: length of the global feature: 2048 (resnet50, resnet101) or 512 at width 1.
        local_dim: length of each local feature: 256 or 64 at width 1.

    Raises:
        ValueError: unknown backbone, branches or last_stride, or a width that is not above 0.
    """

    def __init__(
        self,
        backbone: str = "resnet50",
        *,
        width: float = 1.0,
        branches: Branches = "both",
        last_stride: int = 1,
        pretrained: str | os.PathLike[str] | None = None,
        pretrained_heads: bool = False,
        frozen: int = 0,
    ) -> None:
        super().__init__()
        if last_stride not in (1, 2):
            raise ValueError(f"last_stride must be 1 or 2, got {last_stride}")
        check_branches(branches)
        self.backbone = make_backbone(backbone, width=width, pretrained=pretrained, frozen=frozen)
        block, blocks = head_spec(backbone)
        planes, local_planes = scaled(512, width), scaled(512 // NUM_LOCAL, width)
        self.global_dim: int = planes * block.expansion
        self.local_dim: int = local_planes * block.expansion
        channels = self.backbone.out_channels
        self.head_global: nn.Sequential | None = None
        self.head_local: nn.Sequential | None = None
        if branches != "local":
            self.head_global = make_stage(block, channels, planes, blocks, stride=last_stride)
        if branches != "global":
            branch_block = BranchBottleneck if block.expansion == BranchBottleneck.expansion else BranchBasicBlock
            self.head_local = make_branch_stage(
                branch_block, NUM_LOCAL, channels, local_planes, blocks, stride=last_stride, shared_input=True
            )
        if pretrained_heads and pretrained is not None and self.head_global is not None:
            if backbone.startswith(TIMM):
                raise ValueError(
                    f"pretrained_heads must be false unless the backbone is one of our ResNets, got {backbone!r}"
                )
            state = read_pretrained(backbone, pretrained, width=width)
            load_named(self.head_global, state, prefix="layer4.", source=f"pretrained={str(pretrained)!r}")

    def maps(self, images: Tensor) -> FeatureMaps:
        """Images [B, 3, H, W], float and normalised -> the maps that `forward` averages."""
        x = self.backbone(fast_layout(images))
        whole = None if self.head_global is None else self.head_global(x)
        local = None if self.head_local is None else self.head_local(x)
        return FeatureMaps(x, whole, local)

    def forward(self, images: Tensor) -> Features:
        """Images [B, 3, H, W], float and normalised -> features, float32 (also under autocast)."""
        return self.maps(images).pooled()


def split_parts(x: Tensor) -> Tensor:
    """[B, 8*C] -> [B, 8, C]."""
    return x.view(x.shape[0], NUM_LOCAL, x.shape[1] // NUM_LOCAL)


def check_branches(branches: str) -> None:
    """Raises ValueError unless `branches` is both, global or local."""
    if branches not in get_args(Branches):
        raise ValueError(f"branches must be one of {', '.join(get_args(Branches))}, got {branches!r}")
