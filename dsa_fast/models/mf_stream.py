"""The MF-Stream: the main full-image stream, the only one kept for inference (paper, section 3.2.2)."""

from __future__ import annotations

import os
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from dsa_fast.densepose.parts import MERGED_NAMES
from dsa_fast.models.backbone import (
    fast_layout,
    head_spec,
    make_backbone,
    make_stage,
    pool,
    read_pretrained,
    read_trained,
    scaled,
)
from dsa_fast.models.branches import BranchBasicBlock, BranchBottleneck, make_branch_stage
from dsa_fast.models.timm_backbone import TimmBackbone
from dsa_fast.weights import load_named

#: Branches of a head.
Branches = Literal["both", "global", "local"]
#: Branches to build; `none` for a backbone without a head.
BuiltBranches = Literal["both", "global", "local", "none"]

#: How the heads' maps are averaged over space.
Pooling = Literal["mean", "parts"]

#: Number of merged parts, one per local branch.
NUM_LOCAL = len(MERGED_NAMES)


class Features(NamedTuple):
    """Features of a stream; None for a branch that was not built.

    Attributes:
        whole: [B, global_dim], the global branch's feature vector.
        local: [B, 8, local_dim], one vector for each merged part.
    """

    whole: Tensor | None
    local: Tensor | None


class FeatureMaps(NamedTuple):
    """The MF-Stream's maps before spatial averaging; None for a branch that was not built.

    Attributes:
        shared: F, [B, C, H/16, W/16].
        whole: [B, global_dim, h, w], the global head's map.
        local: [B, 8 * local_dim, h, w], the local head's map, part by part.
        parts: [B, 9, 4 * h, 4 * w], logits of background and the merged parts; None with `pooling="mean"`.
    """

    shared: Tensor
    whole: Tensor | None
    local: Tensor | None
    parts: Tensor | None = None

    def pooled(self) -> Features:
        """Averages the maps over space, in float32. With `parts`, see `part_averages`."""
        if self.parts is not None:
            return part_averages(self.whole, self.local, self.parts)
        whole = None if self.whole is None else pool(self.whole)
        local = None if self.local is None else split_parts(pool(self.local))
        return Features(whole, local)


#: Least weight of a position relative to one that certainly belongs to the part, so that a part that is nowhere to be
#: seen has a feature too: the average over the whole map.
_LEAST = 0.02
#: Predicted positions per position of F, along each side. Borders of parts are finer than F.
PARTS_SCALE = 4


def part_averages(whole: Tensor | None, local: Tensor | None, parts: Tensor) -> Features:
    """Averages maps over the parts that the network finds itself, in float32 or better.

    Each local branch weights the positions of its map by the probability of its part. The global branch weights them by
    the probability that they belong to the person. Losses on the features have no gradient through the probabilities.

    Args:
        whole: [B, C, h, w], the global head's map, or None.
        local: [B, 8 * C', h, w], the local head's map, or None.
        parts: [B, 9, 4 * h, 4 * w], logits of background and the merged parts.
    """
    dtype = torch.promote_types(parts.dtype, torch.float32)
    shares = functional.avg_pool2d(parts.detach().to(dtype).softmax(dim=1), PARTS_SCALE)

    def average(x: Tensor, share: Tensor) -> Tensor:  # [B, G, C, h, w] and [B, G, h, w] -> [B, G, C]
        weight = share + _LEAST
        weight = weight / weight.sum(dim=(2, 3), keepdim=True)
        return (x.to(dtype) * weight[:, :, None]).sum(dim=(3, 4))

    return Features(
        None if whole is None else average(whole[:, None], 1 - shares[:, :1])[:, 0],
        None if local is None else average(local.unflatten(1, (NUM_LOCAL, -1)), shares[:, 1:]),
    )


class MFStream(nn.Module):
    """Full images -> global and part features, with a backbone and a head of two branches.

    The backbone computes F; in a ResNet it is conv1 to conv4_x. The global head is conv5_x with stride 1 and a spatial
    average. The local head has 8 branches like the global head, each with 1/8 of the channels in every layer. Each
    branch reads all of F. The heads start from random weights, except the global head with `pretrained_heads`.

    Args:
        backbone: see `make_backbone`.
        width: scales every channel count (to multiples of 8, at least 8).
        branches: branches of the head to build: global, local, both or none.
        last_stride: stride of the heads; 1 in the paper, 2 in the plain ResNet.
        pretrained: see `make_backbone`.
        pretrained_heads: starts the global head from the pretrained conv5_x. With a timm backbone, the global head is
            the network's own last stage, also with random weights.
        frozen: see `Backbone`.
        pooling: `mean`, or `parts`, with one more 1x1 convolution on F that predicts the merged parts; see
            `part_averages`. It needs `last_stride` 1.

    Attributes:
        global_dim: length of the global feature: 2048 (resnet50, resnet101) or 512 at width 1; the last stage's
            channels if it is timm's.
        local_dim: length of each local feature: 256 or 64 at width 1.

    Raises:
        ValueError: an argument is outside its range, or pretrained weights can't be downloaded, can't be read or
            don't fit.
        FileNotFoundError: `pretrained` is a path and there is no file.
    """

    def __init__(
        self,
        backbone: str = "resnet50",
        *,
        width: float = 1.0,
        branches: BuiltBranches = "both",
        last_stride: int = 1,
        pretrained: str | os.PathLike[str] | None = None,
        pretrained_heads: bool = False,
        frozen: int = 0,
        pooling: Pooling = "mean",
    ) -> None:
        super().__init__()
        if last_stride not in (1, 2):
            raise ValueError(f"last_stride must be 1 or 2, got {last_stride}")
        if pooling not in get_args(Pooling):
            raise ValueError(f"pooling must be mean or parts, got {pooling!r}")
        if pooling == "parts" and (last_stride != 1 or branches == "none"):
            raise ValueError(
                "pooling parts needs last_stride 1, so that the heads' maps have F's positions, and a branch; "
                f"got last_stride {last_stride} and branches {branches}"
            )
        check_branches(branches)
        if pretrained_heads and read_trained(pretrained, backbone, width) is not None:
            raise ValueError(
                "pretrained_heads needs weights of a whole network, got a checkpoint of dsa-fast fit, of which only "
                f"the backbone is taken: {pretrained}"
            )
        self.backbone = make_backbone(backbone, width=width, pretrained=pretrained, frozen=frozen)
        block, blocks = head_spec(backbone)
        planes, local_planes = scaled(512, width), scaled(512 // NUM_LOCAL, width)
        self.global_dim: int = planes * block.expansion
        self.local_dim: int = local_planes * block.expansion
        channels = self.backbone.out_channels
        self.find_parts: nn.Sequential | None = None
        if pooling == "parts":
            values = (1 + NUM_LOCAL) * PARTS_SCALE**2
            self.find_parts = nn.Sequential(nn.Conv2d(channels, values, 1), nn.PixelShuffle(PARTS_SCALE))
        self.head_global: nn.Sequential | None = None
        self.head_local: nn.Sequential | None = None
        has_global, has_local = branches in ("both", "global"), branches in ("both", "local")
        if has_global and pretrained_heads and isinstance(self.backbone, TimmBackbone):
            self.head_global = self.backbone.head(last_stride, pretrained=pretrained)
            self.global_dim = self.head_global.out_channels
        elif has_global:
            self.head_global = make_stage(block, channels, planes, blocks, stride=last_stride)
            if pretrained_heads and pretrained is not None:
                state = read_pretrained(backbone, pretrained, width=width)
                load_named(self.head_global, state, prefix="layer4.", source=f"pretrained={str(pretrained)!r}")
        if has_local:
            branch_block = BranchBottleneck if block.expansion == BranchBottleneck.expansion else BranchBasicBlock
            self.head_local = make_branch_stage(
                branch_block, NUM_LOCAL, channels, local_planes, blocks, stride=last_stride, shared_input=True
            )

    def maps(self, images: Tensor) -> FeatureMaps:
        """Images [B, 3, H, W], normalized float -> the maps that `forward` averages."""
        return self.heads(self.backbone(fast_layout(images)))

    def heads(self, shared: Tensor) -> FeatureMaps:
        """Runs the heads on F, [B, C, H/16, W/16]."""
        whole = None if self.head_global is None else self.head_global(shared)
        local = None if self.head_local is None else self.head_local(shared)
        parts = None if self.find_parts is None else self.find_parts(shared)
        return FeatureMaps(shared, whole, local, parts)

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Returns the height and width of F for images of `size` (height, width). Runs the backbone once."""
        weight = next(self.backbone.parameters())
        training = {module: module.training for module in self.backbone.modules()}
        self.backbone.eval()
        with torch.no_grad():
            height, width = self.backbone(weight.new_zeros(1, 3, *size)).shape[2:]
        for module, mode in training.items():
            module.training = mode
        return height, width

    def forward(self, images: Tensor) -> Features:
        """Images [B, 3, H, W], normalized float -> features, float32 (also under autocast)."""
        return self.maps(images).pooled()


def split_parts(x: Tensor) -> Tensor:
    """[B, 8*C] -> [B, 8, C]."""
    return x.view(x.shape[0], NUM_LOCAL, x.shape[1] // NUM_LOCAL)


def check_branches(branches: str) -> None:
    """Raises ValueError unless `branches` is both, global, local or none."""
    if branches not in get_args(BuiltBranches):
        raise ValueError(f"branches must be one of {', '.join(get_args(BuiltBranches))}, got {branches!r}")
