"""Layers that run several branches at once: the channels of G branches are concatenated as [B, G*C, H, W].

The weights are stacked: branch g's rows follow branch g-1's. One call runs the layer in every branch. A plain batch
norm over G*C channels already equals G batch norms over C channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from itertools import groupby
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

BranchMode = Literal["auto", "grouped", "loop", "batched"]

# How each type of device runs the branches, chosen by timing forward and backward of the streams' layers.
# CPU (2 cores, PyTorch 2.15; AVX2, AVX-512 and AMX): in channels-last format (see `fast_layout`) a grouped convolution
# takes 0.3 to 0.9 of a loop's time at width 0.25 (1.5 only in the first layer and without AVX-512), and 0.5 to 1.2 at
# width 1; in contiguous format some layers take up to 2.5 times as long as a loop. Batched products take twice its time
# (the rows "branches, loop" and "branches, batched" of benchmarks/results/train_cpu.json).
# CUDA: not measured. We chose grouped because a loop launches up to 24 times as many kernels.
_AUTO: dict[str, Literal["grouped", "loop"]] = {"cpu": "grouped", "cuda": "grouped"}


def set_branch_mode(module: nn.Module, mode: BranchMode) -> None:
    """Sets how every `BranchConv2d` in `module` runs. All modes compute the same.

    Args:
        module: any module.
        mode: `grouped`, one grouped convolution; `loop`, one convolution per branch; `batched`, one batched matrix
            product over unfolded inputs; `auto`, the fastest on the input's device.

    Raises:
        ValueError: there is no such mode.
    """
    if mode not in get_args(BranchMode):
        raise ValueError(f"mode must be one of {', '.join(get_args(BranchMode))}, got {mode!r}")
    for child in module.modules():
        if isinstance(child, BranchConv2d):
            child.mode = mode


class BranchConv2d(nn.Conv2d):
    """A convolution without bias in each of G branches: [B, G*in, H, W] -> [B, G*out, H', W'].

    Args:
        branches: G.
        in_channels: channels that each branch reads.
        out_channels: channels that each branch writes.
        kernel_size: odd; padded by half of it.
        stride: the stride.
        shared_input: every branch reads the same input [B, in, H, W]; this is one plain convolution.

    Attributes:
        weight: [G*out, in, k, k], branch by branch; each initialized like a separate convolution (He normal, fan out).
        mode: see `set_branch_mode`.
    """

    def __init__(
        self,
        branches: int,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        shared_input: bool = False,
    ) -> None:
        self.branches = branches
        self.mode: BranchMode = "auto"
        super().__init__(
            in_channels if shared_input else branches * in_channels,
            branches * out_channels,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            groups=1 if shared_input else branches,
            bias=False,
        )

    def reset_parameters(self) -> None:
        """Draws the weights; the fan is a branch's, not the stack's."""
        fan_out = self.out_channels // self.branches * self.kernel_size[0] * self.kernel_size[1]
        nn.init.normal_(self.weight, std=math.sqrt(2 / fan_out))

    def forward(self, input: Tensor) -> Tensor:
        mode = _AUTO.get(input.device.type, "grouped") if self.mode == "auto" else self.mode
        if mode == "grouped":
            return super().forward(input)
        if mode == "batched":
            return self._batched(input)
        weights = self.weight.chunk(self.branches)
        inputs = [input] * self.branches if self.groups == 1 else input.chunk(self.branches, dim=1)
        outputs = [
            functional.conv2d(x, w, None, self.stride, self.padding) for x, w in zip(inputs, weights, strict=True)
        ]
        return torch.cat(outputs, dim=1)

    def _batched(self, input: Tensor) -> Tensor:
        batch, _, height, width = input.shape
        stride, padding = self.stride[0], self.kernel_size[0] // 2
        columns = functional.unfold(input, self.kernel_size, padding=padding, stride=stride)
        columns = columns.view(batch, self.groups, -1, columns.shape[-1])  # values of each branch at each position
        result = self.weight.view(self.groups, self.out_channels // self.groups, -1) @ columns
        return result.view(batch, self.out_channels, (height - 1) // stride + 1, (width - 1) // stride + 1)

    def extra_repr(self) -> str:
        inputs = "shared" if self.groups == 1 else self.in_channels // self.branches
        return (
            f"branches={self.branches}, {inputs}, {self.out_channels // self.branches}, "
            f"kernel_size={self.kernel_size}, stride={self.stride}"
        )


class BranchBasicBlock(nn.Module):
    """ResNet's basic block (two 3x3 convolutions) in each of G branches: [B, G*in, H, W] -> [B, G*planes, H', W'].

    Args:
        branches: G.
        in_channels: channels that each branch reads.
        planes: channels of each branch.
        stride: of the first convolution and the shortcut.
        shared_input: every branch reads the same [B, in, H, W].
    """

    expansion = 1

    def __init__(
        self, branches: int, in_channels: int, planes: int, *, stride: int = 1, shared_input: bool = False
    ) -> None:
        super().__init__()
        self.conv1 = BranchConv2d(branches, in_channels, planes, 3, stride=stride, shared_input=shared_input)
        self.bn1 = nn.BatchNorm2d(branches * planes)
        self.conv2 = BranchConv2d(branches, planes, planes, 3)
        self.bn2 = nn.BatchNorm2d(branches * planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(branches, in_channels, planes, stride, shared_input)

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return functional.relu_(out)


class BranchBottleneck(nn.Module):
    """ResNet's bottleneck block (1x1, 3x3, 1x1) in each of G branches: [B, G*in, H, W] -> [B, G*4*planes, H', W'].

    Args:
        branches: G.
        in_channels: channels that each branch reads.
        planes: channels of each branch's first two convolutions; the third writes 4 times as many.
        stride: of the 3x3 convolution (as in torchvision) and the shortcut.
        shared_input: every branch reads the same [B, in, H, W].
    """

    expansion = 4

    def __init__(
        self, branches: int, in_channels: int, planes: int, *, stride: int = 1, shared_input: bool = False
    ) -> None:
        super().__init__()
        out_channels = planes * self.expansion
        self.conv1 = BranchConv2d(branches, in_channels, planes, 1, shared_input=shared_input)
        self.bn1 = nn.BatchNorm2d(branches * planes)
        self.conv2 = BranchConv2d(branches, planes, planes, 3, stride=stride)
        self.bn2 = nn.BatchNorm2d(branches * planes)
        self.conv3 = BranchConv2d(branches, planes, out_channels, 1)
        self.bn3 = nn.BatchNorm2d(branches * out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(branches, in_channels, out_channels, stride, shared_input)

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += identity
        return functional.relu_(out)


def _shortcut(
    branches: int, in_channels: int, out_channels: int, stride: int, shared_input: bool
) -> nn.Sequential | None:
    # The identity shortcut can't be used for a shared input: it has the channels of one branch only.
    if stride == 1 and in_channels == out_channels and not shared_input:
        return None
    return nn.Sequential(
        BranchConv2d(branches, in_channels, out_channels, 1, stride=stride, shared_input=shared_input),
        nn.BatchNorm2d(branches * out_channels),
    )


def make_branch_stage(
    block: type[BranchBasicBlock | BranchBottleneck],
    branches: int,
    in_channels: int,
    planes: int,
    blocks: int,
    *,
    stride: int = 1,
    shared_input: bool = False,
) -> nn.Sequential:
    """Makes a ResNet stage in each of G branches. Only the first block has the stride and may have a shared input."""
    layers = [block(branches, in_channels, planes, stride=stride, shared_input=shared_input)]
    layers += [block(branches, planes * block.expansion, planes) for _ in range(1, blocks)]
    return nn.Sequential(*layers)


class BranchLinear(nn.Module):
    """A fully connected layer in each of G branches, as one batched product: [B, G, in] -> [B, G, out].

    Args:
        branches: G.
        in_features: features that each branch reads.
        out_features: features that each branch writes.
        bias: adds a bias.

    Attributes:
        weight: [G, out, in]; each branch is initialized with He's normal distribution (fan in).
        bias: [G, out], zeros at first, or None.
    """

    def __init__(self, branches: int, in_features: int, out_features: int, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(branches, out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(branches, out_features)) if bias else None
        nn.init.normal_(self.weight, std=math.sqrt(2 / in_features))

    def forward(self, x: Tensor) -> Tensor:
        # In this order the weight's gradient has the weight's memory layout. Any other order would need a copy.
        out = torch.bmm(self.weight, x.permute(1, 2, 0)).permute(2, 0, 1)
        return out if self.bias is None else out + self.bias

    def extra_repr(self) -> str:
        branches, out_features, in_features = self.weight.shape
        return f"branches={branches}, {in_features}, {out_features}, bias={self.bias is not None}"


class MergeBranches(nn.Module):
    """Sums the branches of each group: [B, G*C, H, W] -> [B, len(groups)*C, H, W].

    The forward and backward passes are deterministic: they add slices, without scatter or matrix products.

    Args:
        groups: for each merged branch, the branches (0-based) to sum. Together they must list 0, 1, ..., G-1 in this
            order, so that each group consists of neighbors.

    Raises:
        ValueError: the groups are not such a list.
    """

    def __init__(self, groups: Sequence[Sequence[int]]) -> None:
        super().__init__()
        members = [member for group in groups for member in group]
        if not members or members != list(range(len(members))) or not all(groups):
            raise ValueError(f"groups must list 0, 1, 2, ... in order, no group empty, got {[list(g) for g in groups]}")
        self.in_branches = len(members)
        self.out_branches = len(groups)
        # Consecutive groups of the same size are summed in one call: (number of groups, size of each).
        self.runs = [(len(list(run)), size) for size, run in groupby(len(group) for group in groups)]

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1] // self.in_branches
        merged = []
        sizes = [count * size * channels for count, size in self.runs]
        for part, (count, size) in zip(torch.split(x, sizes, dim=1), self.runs, strict=True):
            # unbind and add is faster than sum. It keeps the memory format, and so does flattening back to 4-d.
            members = torch.unflatten(part, 1, (count, size, channels)).unbind(dim=2)
            merged.append(reduce(torch.add, members).flatten(1, 2))
        return torch.cat(merged, dim=1)

    def extra_repr(self) -> str:
        return f"{self.in_branches} -> {self.out_branches}"
