"""The two streams: the paper's shapes and counts, and equality to plain networks that loop over branches."""

from __future__ import annotations

import urllib.error
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.resnet import BasicBlock, Bottleneck

from dsa_fast.densepose.parts import MIRROR
from dsa_fast.imagenet import MEAN, STD
from dsa_fast.models import (
    Backbone,
    Baseline,
    DSAGStream,
    DSALoss,
    DSAReID,
    MFStream,
    set_branch_mode,
)
from dsa_fast.models.backbone import (
    Normalize,
    make_stage,
    read_pretrained,
    scaled,
)
from dsa_fast.models.branches import (
    BranchBasicBlock,
    BranchBottleneck,
    BranchConv2d,
    BranchLinear,
    MergeBranches,
    make_branch_stage,
)
from dsa_fast.models.heads import BranchClassifier, Classifier, ConcatFusion
from dsa_fast.weights import load_named

# The paper's merging, written a second time: part ids of each of the 8 merged parts, left with right and front with
# back, in the order torso, hand, foot, upper leg, lower leg, upper arm, lower arm, head.
MERGED_PARTS = (
    ((1,), (2,)),
    ((3, 4),),
    ((5, 6),),
    ((7, 8), (9, 10)),
    ((11, 12), (13, 14)),
    ((15, 16), (17, 18)),
    ((19, 20), (21, 22)),
    ((23, 24),),
)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in module.named_parameters() if p.ndim > 1}


def small(num_ids: int = 6, seed: int = 0, **options: object) -> DSAReID:
    torch.manual_seed(seed)
    options = {"backbone": "resnet18", "width": 0.25, "classifier_dim": 16} | options
    return DSAReID(num_ids, pretrained=None, **options)  # type: ignore[arg-type]


def batch(size: int = 4, s: int = 16, seed: int = 1) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(size, 3, 64, 32, generator=rng), torch.randn(size, 24, 3, s, s, generator=rng)


def randomise_norms(module: nn.Module, seed: int = 0) -> None:
    """Randomizes batch norms. Their initial ones and zeros would hide a mix-up."""
    rng = torch.Generator().manual_seed(seed)
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            for tensor in (child.weight, child.running_var):
                tensor.data.uniform_(0.5, 1.5, generator=rng)
            for tensor in (child.bias, child.running_mean):
                tensor.data.normal_(generator=rng)


def copy_branch(stacked: nn.Module, plain: nn.Module, branch: int, branches: int) -> None:
    """Loads one branch of a stacked module into a plain module with the same names."""
    state = {k: v.chunk(branches)[branch] if v.ndim else v for k, v in stacked.state_dict().items()}
    plain.load_state_dict({k: v.view_as(plain.state_dict()[k]) for k, v in state.items()})


def assert_branches_equal(stacked: nn.Module, plain: list[nn.Module], x: Tensor, *, shared: bool = False) -> None:
    """Compares outputs, gradients and running statistics of a stacked module [B, G*C, H, W] and its plain branches."""
    g = len(plain)
    for i, module in enumerate(plain):
        copy_branch(stacked, module, i, g)
    x1, x2 = x.clone().requires_grad_(), x.clone().requires_grad_()
    inputs = [x2] * g if shared else x2.chunk(g, dim=1)
    actual = stacked(x1)
    expected = torch.cat([module(piece) for module, piece in zip(plain, inputs, strict=True)], dim=1)
    torch.testing.assert_close(actual, expected)
    upstream = torch.randn(expected.shape, dtype=expected.dtype, generator=torch.Generator().manual_seed(5))
    actual.backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(x1.grad, x2.grad)
    for name, parameter in stacked.named_parameters():
        grads = [dict(module.named_parameters())[name].grad for module in plain]
        torch.testing.assert_close(parameter.grad, torch.cat(grads).view_as(parameter), msg=name)
    for name, buffer in stacked.named_buffers():
        if buffer.ndim:
            torch.testing.assert_close(buffer, torch.cat([dict(m.named_buffers())[name] for m in plain]))


# --- counts and shapes -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def full() -> DSAReID:
    """Builds the paper's network without memory for its weights."""
    with torch.device("meta"):
        return DSAReID(751, pretrained=None)


def test_parameter_counts(full: DSAReID) -> None:
    assert full.dsag_stream is not None
    assert parameters(full.mf_stream) == 27_692_096
    assert parameters(full.dsag_stream) == 162_025_472
    assert round(parameters(full.mf_stream) / 1e6, 1) == 27.7
    assert round(parameters(full.dsag_stream) / 1e6, 1) == 162.0
    plain = torchvision.models.resnet50(num_classes=1)
    assert full.mf_stream.head_global is not None
    assert parameters(full.mf_stream.backbone) + parameters(full.mf_stream.head_global) == parameters(plain) - 2049


def test_multiply_adds(full: DSAReID) -> None:
    for stream, shape, expected in (
        (full.mf_stream, (1, 3, 256, 128), 4.59),
        (full.dsag_stream, (1, 24, 3, 32, 32), 11.54),
    ):
        with FlopCounterMode(display=False) as counter:
            stream(torch.empty(shape, device="meta"))
        assert round(counter.get_total_flops() / 2e9, 2) == expected


def test_full_size_shapes(full: DSAReID) -> None:
    images, dsap = (
        torch.empty(2, 3, 256, 128, device="meta"),
        torch.empty(2, 24, 3, 32, 32, device="meta"),
    )
    output = full(images, dsap)
    for feature in (output.f_global, output.z_global):
        assert feature.shape == (2, 2048)
    for feature in (output.f_local, output.z_local):
        assert feature.shape == (2, 8, 256)
    for logits in (output.logits_f_global, output.logits_z_global):
        assert logits.shape == (2, 751)
    for logits in (output.logits_f_local, output.logits_z_local):
        assert logits.shape == (2, 8, 751)
    assert full.embed(images).shape == full.embed_fused(images, dsap).shape == (2, 4096)
    assert full.embed_dims == (2048, 2048)
    assert full.mf_stream.backbone(images).shape == (2, 1024, 16, 8)


def test_dsag_layers(full: DSAReID) -> None:
    """Table 1: kernels, channels, blocks and branches of each layer, and the sizes of its outputs."""
    stream = full.dsag_stream
    assert stream is not None

    def stage(name: str, branches: int, before: int, channels: int) -> dict[str, tuple[int, ...]]:
        out = branches * channels
        return {
            f"{name}.0.conv1.weight": (out, before, 3, 3),
            f"{name}.0.conv2.weight": (out, channels, 3, 3),
            f"{name}.0.downsample.0.weight": (out, before, 1, 1),
            f"{name}.1.conv1.weight": (out, channels, 3, 3),
            f"{name}.1.conv2.weight": (out, channels, 3, 3),
        }

    assert shapes(stream) == {
        "conv1.weight": (24 * 32, 3, 5, 5),
        "conv2.weight": (24 * 64, 32, 3, 3),
        **stage("conv3", 24, 64, 64),
        **stage("conv4", 13, 64, 128),
        **stage("conv5_g", 1, 1024, 2048),
        **stage("conv5_l", 8, 128, 256),
    }
    sizes: dict[str, tuple[int, ...]] = {}

    def note(name: str) -> Callable[..., None]:
        return lambda _module, _inputs, output: sizes.__setitem__(name, tuple(output.shape[1:]))

    hooks = [child.register_forward_hook(note(name)) for name, child in stream.named_children()]
    stream(torch.empty(2, 24, 3, 32, 32, device="meta"))
    for hook in hooks:
        hook.remove()
    assert sizes["conv1"] == (24 * 32, 32, 32)
    assert sizes["conv2"] == (24 * 64, 32, 32)
    assert sizes["conv3"] == (24 * 64, 16, 16)
    assert sizes["merge_left_right"] == (13 * 64, 16, 16)
    assert sizes["conv4"] == (13 * 128, 8, 8)
    assert sizes["merge_back_front"] == (8 * 128, 8, 8)
    assert sizes["conv5_g"] == (2048, 8, 8)
    assert sizes["conv5_l"] == (8 * 256, 8, 8)


def test_mf_local_head_layers(full: DSAReID) -> None:
    """conv5_x of ResNet-50 with 1/8 of the channels on each layer, 8 times, each branch reading all 1024 channels."""
    assert full.mf_stream.head_local is not None
    reference = torchvision.models.resnet50().layer4
    expected = {}
    for name, (out, before, k1, k2) in shapes(reference).items():
        reads_backbone = name in ("0.conv1.weight", "0.downsample.0.weight")
        expected[name] = (out, 1024 if reads_backbone else before // 8, k1, k2)
    assert shapes(full.mf_stream.head_local) == expected
    heads = (full.mf_stream.head_local, full.mf_stream.head_global)
    assert all(m.stride == (1, 1) for head in heads for m in head.modules() if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize(
    ("backbone", "dims"),
    [("resnet18", (512, 64)), ("resnet34", (512, 64)), ("resnet101", (2048, 256))],
)
def test_other_backbones(backbone: str, dims: tuple[int, int]) -> None:
    with torch.device("meta"):
        model = DSAReID(5, backbone=backbone, pretrained=None)
        plain = torchvision.models.get_model(backbone, num_classes=1)
    images, dsap = (
        torch.empty(2, 3, 64, 32, device="meta"),
        torch.empty(2, 24, 3, 16, 16, device="meta"),
    )
    output = model(images, dsap)
    assert (output.z_global.shape, output.z_local.shape) == (
        (2, dims[0]),
        (2, 8, dims[1]),
    )
    assert (model.mf_stream.global_dim, model.mf_stream.local_dim) == dims
    assert model.mf_stream.head_global is not None
    count = parameters(model.mf_stream.backbone) + parameters(model.mf_stream.head_global)
    assert count == parameters(plain) - (dims[0] + 1)


@settings(deadline=None)
@given(st.integers(1, 4096), st.floats(1e-3, 4))
def test_scaled(channels: int, width: float) -> None:
    result = scaled(channels, width)
    assert result % 8 == 0 and result >= 8
    assert result == 8 or abs(result - channels * width) <= 4
    assert scaled(8 * channels, 1.0) == 8 * channels


@settings(max_examples=6, deadline=None)
@given(
    st.sampled_from(["resnet18", "resnet34", "resnet50"]),
    st.sampled_from([0.1, 0.25, 0.3]),
    st.integers(1, 5),
    st.integers(1, 4),
    st.sampled_from([4, 8, 16, 20]),
)
def test_any_size_runs(backbone: str, width: float, h: int, w: int, s: int) -> None:
    model = small(backbone=backbone, width=width)
    images = torch.randn(2, 3, 16 * h, 16 * w, generator=torch.Generator().manual_seed(0))
    dsap = torch.randn(2, 24, 3, s, s, generator=torch.Generator().manual_seed(0))
    assert model.mf_stream.backbone(images).shape[2:] == (h, w)
    output = model(images, dsap)
    assert output.z_global.shape == (2, model.mf_stream.global_dim)
    assert output.z_local.shape == (2, 8, model.mf_stream.local_dim)


# --- stacked layers against plain ones ---------------------------------------------------------------------------

LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mode", ["grouped", "loop", "batched", "auto"])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (5, 1)])
def test_branch_conv(kernel: int, stride: int, shared: bool, mode: str, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    conv = BranchConv2d(3, 4, 5, kernel, stride=stride, shared_input=shared).double()
    set_branch_mode(conv, mode)  # type: ignore[arg-type]
    plain = [nn.Conv2d(4, 5, kernel, stride, kernel // 2, bias=False).double() for _ in range(3)]
    x = torch.randn(2, 4 if shared else 12, 8, 6, dtype=torch.float64).to(memory_format=layout)
    assert_branches_equal(conv, plain, x, shared=shared)


@pytest.mark.parametrize("mode", ["grouped", "loop", "batched"])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("stacked", "plain"),
    [(BranchBasicBlock, BasicBlock), (BranchBottleneck, Bottleneck)],
)
def test_branch_stage(stacked: type, plain: type, stride: int, shared: bool, mode: str) -> None:
    """Compares two blocks with torchvision blocks, one per branch."""
    torch.manual_seed(0)
    stage = make_branch_stage(stacked, 3, 8, 4, 2, stride=stride, shared_input=shared).double()
    randomise_norms(stage)
    set_branch_mode(stage, mode)  # type: ignore[arg-type]
    references: list[nn.Module] = [make_stage(plain, 8, 4, 2, stride=stride).double() for _ in range(3)]
    x = torch.randn(4, 8 if shared else 24, 8, 6, dtype=torch.float64)
    assert_branches_equal(stage, references, x, shared=shared)


def test_shortcut_only_where_a_resnet_has_one() -> None:
    assert BranchBasicBlock(3, 8, 8).downsample is None
    assert BranchBottleneck(3, 32, 8).downsample is None
    assert BranchBasicBlock(3, 8, 8, stride=2).downsample is not None
    assert BranchBasicBlock(3, 8, 16).downsample is not None
    # An identity shortcut from one input to three branches is not defined.
    assert BranchBasicBlock(3, 8, 8, shared_input=True).downsample is not None


@pytest.mark.parametrize("bias", [False, True])
def test_branch_linear(bias: bool) -> None:
    torch.manual_seed(0)
    stacked = BranchLinear(4, 6, 5, bias=bias).double()
    if stacked.bias is not None:
        nn.init.normal_(stacked.bias)
    x = torch.randn(3, 4, 6, dtype=torch.float64)
    bias_of = (lambda g: stacked.bias[g]) if stacked.bias is not None else (lambda g: None)
    expected = torch.stack(
        [nn.functional.linear(x[:, g], stacked.weight[g], bias_of(g)) for g in range(4)],
        dim=1,
    )
    torch.testing.assert_close(stacked(x), expected)


def test_branch_classifier_is_a_classifier_per_branch() -> None:
    torch.manual_seed(0)
    stacked = BranchClassifier(4, 6, 7, hidden=10).double()
    randomise_norms(stacked)
    nn.init.normal_(stacked.fc2.bias)
    plain = [Classifier(6, 7, hidden=10).double() for _ in range(4)]
    for g, module in enumerate(plain):
        copy_branch(stacked, module, g, 4)
    x = torch.randn(5, 4, 6, dtype=torch.float64)
    actual = stacked(x)
    torch.testing.assert_close(actual, torch.stack([m(x[:, g]) for g, m in enumerate(plain)], dim=1))
    assert actual.shape == (5, 4, 7)
    for g, module in enumerate(plain):
        torch.testing.assert_close(stacked.bn.running_mean.chunk(4)[g], module.bn.running_mean)


def test_initial_weights_are_those_of_separate_networks() -> None:
    """He's standard deviation is for one branch. A grouped convolution's default would be smaller by sqrt(24)."""
    torch.manual_seed(0)
    stream = DSAGStream(width=1.0, global_dim=8, local_dim=64)
    for module in stream.modules():
        if isinstance(module, BranchConv2d):
            k, out = module.kernel_size[0], module.out_channels // module.branches
            plain = nn.init.kaiming_normal_(torch.empty(out, module.weight.shape[1], k, k), mode="fan_out")
            expected = (2 / (k * k * out)) ** 0.5
            assert module.weight.std().item() == pytest.approx(expected, rel=0.03)
            assert plain.std().item() == pytest.approx(expected, rel=0.1)
    logits = small(num_ids=20)(*batch()).logits_z_local
    assert logits.abs().max() < 0.1  # training starts from even odds


# --- merging -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_part_is_merged_into_its_own(layout: torch.memory_format) -> None:
    """Part p contains 2^p, so each sum identifies its terms."""
    stream = DSAGStream(width=0.1, global_dim=8, local_dim=8)
    x = (2.0 ** torch.arange(1, 25)).repeat_interleave(2).view(1, 48, 1, 1).expand(2, 48, 3, 3)
    x = x.contiguous(memory_format=layout)
    first = stream.merge_left_right(x)
    pairs = [pair for group in MERGED_PARTS for pair in group]
    assert first[0, ::2, 0, 0].tolist() == [sum(2.0**p for p in pair) for pair in pairs]
    second = stream.merge_back_front(first)
    assert second[0, ::2, 0, 0].tolist() == [sum(2.0**p for pair in group for p in pair) for group in MERGED_PARTS]
    assert second[1, 1::2, 2, 1].tolist() == second[0, ::2, 0, 0].tolist()
    assert second.is_contiguous(memory_format=layout)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=9), st.integers(1, 3), st.data())
@settings(max_examples=40, deadline=None)
def test_merge_is_a_sum_over_groups(sizes: list[int], channels: int, data: st.DataObject) -> None:
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    groups = [list(range(start, start + size)) for start, size in zip(starts, sizes, strict=True)]
    rng = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    x = torch.randint(-9, 9, (2, sum(sizes) * channels, 2, 3), generator=rng).double().requires_grad_()
    branches = x.view(2, sum(sizes), channels, 2, 3)
    expected = torch.cat([sum((branches[:, m] for m in g), torch.zeros(())) for g in groups], dim=1)
    actual = MergeBranches(groups)(x)
    assert torch.equal(actual, expected)
    upstream = torch.randint(-9, 9, actual.shape, generator=rng).double()
    assert torch.equal(*(torch.autograd.grad(y, x, upstream)[0] for y in (actual, expected)))


@pytest.mark.parametrize("groups", [[], [[0], []], [[0, 2], [1]], [[1, 0]], [[0], [2]], [[0], [0]]])
def test_merge_rejects_other_groups(groups: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="groups must list 0, 1, 2"):
        MergeBranches(groups)


def test_left_and_right_may_be_swapped() -> None:
    """With equal weights for left and right, swapping the two sides' images gives bit-identical results."""
    torch.manual_seed(0)
    stream = DSAGStream(width=0.25, global_dim=32, local_dim=16).eval()
    randomise_norms(stream)
    mirror = torch.tensor([MIRROR[p] - 1 for p in range(1, 25)])
    _, dsap = batch()
    plain = stream(dsap)
    assert not torch.allclose(stream(dsap[:, mirror]).whole, plain.whole)
    keep = torch.arange(24).minimum(mirror)
    for layer in (stream.conv1, stream.bn1, stream.conv2, stream.bn2, stream.conv3):
        for tensor in layer.state_dict().values():
            if tensor.ndim:
                stacked = tensor.view(24, -1)
                stacked.copy_(stacked[keep])
    with torch.no_grad():
        a, b = stream(dsap), stream(dsap[:, mirror])
    assert torch.equal(a.whole, b.whole) and torch.equal(a.local, b.local)
    turned = dsap[:, [1, 0, *range(2, 24)]]  # torso back and front have separate weights
    assert not torch.allclose(stream(turned).whole, a.whole)


# --- whole streams against plain networks ------------------------------------------------------------------------


class PlainDSAG(nn.Module):
    """The DSAG-Stream as in the paper's figure: separate networks for separate parts."""

    def __init__(self, stream: DSAGStream) -> None:
        super().__init__()
        assert stream.conv5_g is not None and stream.conv5_l is not None

        def stem(conv: BranchConv2d) -> nn.Sequential:
            out = conv.out_channels // 24
            kernel = conv.kernel_size[0]
            convolution = nn.Conv2d(conv.in_channels // 24, out, kernel, padding=kernel // 2, bias=False)
            return nn.Sequential(convolution, nn.BatchNorm2d(out), nn.ReLU())

        def stage(stacked: nn.Sequential, branches: int, stride: int) -> nn.ModuleList:
            first = stacked[0].conv1
            before, planes = first.weight.shape[1], first.weight.shape[0] // branches
            plain = [make_stage(BasicBlock, before, planes, 2, stride=stride) for _ in range(branches)]
            for g, module in enumerate(plain):
                copy_branch(stacked, module, g, branches)
            return nn.ModuleList(plain)

        self.conv1 = nn.ModuleList(stem(stream.conv1) for _ in range(24))
        self.conv2 = nn.ModuleList(stem(stream.conv2) for _ in range(24))
        for plain, conv, norm in (
            (self.conv1, stream.conv1, stream.bn1),
            (self.conv2, stream.conv2, stream.bn2),
        ):
            for g, module in enumerate(plain):
                copy_branch(conv, module[0], g, 24)
                copy_branch(norm, module[1], g, 24)
        self.conv3 = stage(stream.conv3, 24, 2)
        self.conv4 = stage(stream.conv4, 13, 2)
        self.conv5_l = stage(stream.conv5_l, 8, 1)
        self.conv5_g = stage(stream.conv5_g, 1, 1)

    def forward(self, dsap: Tensor) -> tuple[Tensor, Tensor]:
        parts = {p: self.conv3[p - 1](self.conv2[p - 1](self.conv1[p - 1](dsap[:, p - 1]))) for p in range(1, 25)}
        maps, branch = [], 0
        for group in MERGED_PARTS:
            merged = torch.zeros(())
            for pair in group:
                merged = merged + self.conv4[branch](sum((parts[p] for p in pair), torch.zeros(())))
                branch += 1
            maps.append(merged)
        local = [self.conv5_l[i](m).mean((2, 3)) for i, m in enumerate(maps)]
        return self.conv5_g[0](torch.cat(maps, dim=1)).mean((2, 3)), torch.stack(local, dim=1)


@pytest.mark.parametrize("mode", ["grouped", "loop", "batched"])
@pytest.mark.parametrize("training", [True, False])
def test_dsag_stream_equals_separate_networks(training: bool, mode: str) -> None:
    torch.manual_seed(0)
    stream = DSAGStream(width=0.1, global_dim=16, local_dim=8)
    randomise_norms(stream)
    set_branch_mode(stream, mode)  # type: ignore[arg-type]
    plain = PlainDSAG(stream).double()
    stream.double()
    stream.train(training), plain.train(training)
    dsap = batch(3, 8)[1].double()
    a, b = dsap.clone().requires_grad_(), dsap.clone().requires_grad_()
    actual, (whole, local) = stream(a), plain(b)
    torch.testing.assert_close(actual.whole, whole)
    torch.testing.assert_close(actual.local, local)
    (actual.whole.square().sum() + actual.local.square().sum()).backward()
    (whole.square().sum() + local.square().sum()).backward()
    torch.testing.assert_close(a.grad, b.grad)
    weights = torch.cat([m[0].weight.grad for m in plain.conv1])
    torch.testing.assert_close(stream.conv1.weight.grad, weights)


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_mf_heads_equal_plain_networks(backbone: str) -> None:
    """The global head is conv5_x without downsampling. Each local branch is a separate network on all of F."""
    torch.manual_seed(0)
    stream = MFStream(backbone, width=0.25).double()
    randomise_norms(stream)
    assert stream.head_global is not None and stream.head_local is not None
    images = batch(3)[0].double()
    f = stream.backbone(images)
    actual = stream(images)
    block: type = BasicBlock if backbone == "resnet18" else Bottleneck
    blocks = 2 if backbone == "resnet18" else 3
    channels = f.shape[1]
    whole = make_stage(block, channels, stream.global_dim // block.expansion, blocks, stride=1).double()
    whole.load_state_dict(stream.head_global.state_dict())
    torch.testing.assert_close(actual.whole, whole(f).mean((2, 3)))
    for i in range(8):
        branch = make_stage(block, channels, stream.local_dim // block.expansion, blocks, stride=1).double()
        copy_branch(stream.head_local, branch, i, 8)
        torch.testing.assert_close(actual.local[:, i], branch(f).mean((2, 3)))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_backbone_is_torchvisions(name: str) -> None:
    torch.manual_seed(0)
    reference = torchvision.models.get_model(name, weights=None)
    randomise_norms(reference)
    backbone = Backbone(name)
    load_named(backbone, reference.state_dict())
    images = torch.randn(2, 3, 64, 32)
    for training in (False, True):
        backbone.train(training), reference.train(training)
        expected = reference.maxpool(reference.relu(reference.bn1(reference.conv1(images))))
        expected = reference.layer3(reference.layer2(reference.layer1(expected)))
        torch.testing.assert_close(backbone(images), expected)
    own = backbone.state_dict()
    assert set(own) == {k for k in reference.state_dict() if not k.startswith(("layer4.", "fc."))}
    assert torch.equal(
        own["layer3.0.bn1.running_mean"],
        reference.state_dict()["layer3.0.bn1.running_mean"],
    )


# --- pretrained weights ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def resnet18_file(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, dict[str, Tensor]]:
    torch.manual_seed(3)
    reference = torchvision.models.resnet18(weights=None)
    randomise_norms(reference)
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(reference.state_dict(), path)
    return path, reference.state_dict()


def test_pretrained_file(resnet18_file: tuple[Path, dict[str, Tensor]]) -> None:
    path, state = resnet18_file
    model = DSAReID(3, backbone="resnet18", pretrained=path, dsag=False)
    for name, tensor in model.mf_stream.backbone.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    # The paper's heads are trained from scratch.
    assert model.mf_stream.head_global is not None
    assert not torch.equal(
        model.mf_stream.head_global.state_dict()["1.conv1.weight"],
        state["layer4.1.conv1.weight"],
    )


def test_pretrained_baseline_is_the_whole_resnet(
    resnet18_file: tuple[Path, dict[str, Tensor]],
) -> None:
    path, state = resnet18_file
    model = Baseline(3, backbone="resnet18", pretrained=str(path))
    reference = torchvision.models.resnet18(weights=None)
    reference.load_state_dict(state)
    for layer in (reference.layer4[0].conv1, reference.layer4[0].downsample[0]):
        layer.stride = (1, 1)
    reference.fc = nn.Identity()
    images, dsap = batch(2)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(images, dsap).f_global, reference.eval()(images), rtol=1e-4, atol=1e-4)


def test_pretrained_may_lack_batch_counters(resnet18_file: tuple[Path, dict[str, Tensor]], tmp_path: Path) -> None:
    state = {k: v for k, v in resnet18_file[1].items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pth")
    model = DSAReID(3, backbone="resnet18", pretrained=tmp_path / "old.pth", dsag=False)
    assert torch.equal(model.mf_stream.backbone.state_dict()["bn1.weight"], state["bn1.weight"])


def test_pretrained_wrong_files(resnet18_file: tuple[Path, dict[str, Tensor]], tmp_path: Path) -> None:
    path, state = resnet18_file

    def build(source: Path | str, backbone: str = "resnet18") -> DSAReID:
        return DSAReID(3, backbone=backbone, pretrained=source, dsag=False)

    with pytest.raises(
        FileNotFoundError,
        match="pretrained must be 'imagenet', None or a file; there is no file",
    ):
        build(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ValueError, match=r"text\.pth' is not a file of tensors"):
        build(tmp_path / "text.pth")
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "checkpoint.pth")
    with pytest.raises(ValueError, match="must hold a state dict .* got a dict with epoch, state_dict"):
        build(tmp_path / "checkpoint.pth")
    torch.save(torchvision.models.resnet18(weights=None), tmp_path / "module.pth")
    with pytest.raises(ValueError, match="is not a file of tensors"):
        build(tmp_path / "module.pth")
    torch.save(
        {k: v for k, v in state.items() if k != "layer3.1.conv2.weight"},
        tmp_path / "missing.pth",
    )
    with pytest.raises(ValueError, match=r"1 missing: layer3\.1\.conv2\.weight"):
        build(tmp_path / "missing.pth")
    torch.save(state | {"conv1.weight": torch.zeros(64, 1, 7, 7)}, tmp_path / "shape.pth")
    with pytest.raises(
        ValueError,
        match=r"1 of another shape: conv1\.weight \[64, 1, 7, 7\] instead of \[64, 3, 7, 7\]",
    ):
        build(tmp_path / "shape.pth")
    with pytest.raises(ValueError, match=r"does not fit this network: .*missing: layer1\.2"):
        build(path, backbone="resnet34")
    with pytest.raises(ValueError, match=r"pretrained weights need width=1, got width=0\.5"):
        DSAReID(3, backbone="resnet18", pretrained=path, width=0.5)


def test_imagenet_weights(resnet18_file: tuple[Path, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(url: str, **_: object) -> dict[str, Tensor]:
        asked.append(url)
        return resnet18_file[1]

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    model = DSAReID(3, backbone="resnet18", pretrained="imagenet", dsag=False)
    assert torch.equal(model.mf_stream.backbone.conv1.weight, resnet18_file[1]["conv1.weight"])
    assert len(asked) == 1 and asked[0].endswith("resnet18-f37072fd.pth")


def test_imagenet_weights_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(url: str, **_: object) -> dict[str, Tensor]:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    with pytest.raises(ValueError, match="ImageNet weights of resnet50 can't be downloaded") as caught:
        DSAReID(3)
    for text in (
        "resnet50",
        "https://download.pytorch.org/models/resnet50",
        "no route to host",
        "pretrained='/path/",
    ):
        assert text in str(caught.value)
    with pytest.raises(ValueError, match="backbone must be one of resnet18, .*, got 'vgg'"):
        read_pretrained("vgg", "imagenet")


# --- the whole model ---------------------------------------------------------------------------------------------


def test_fusion_adds_the_streams() -> None:
    model = small().eval()
    images, dsap = batch()
    with torch.no_grad():
        output, f, d = (
            model(images, dsap),
            model.mf_stream(images),
            model.dsag_stream(dsap),
        )
    assert torch.equal(output.f_global, f.whole) and torch.equal(output.f_local, f.local)
    assert torch.equal(output.z_global, f.whole + d.whole) and torch.equal(output.z_local, f.local + d.local)
    assert torch.equal(output.logits_f_local, model.classify_f_local(f.local))
    assert torch.equal(output.logits_z_global, model.classify_z_global(output.z_global))


def test_concat_fusion() -> None:
    torch.manual_seed(0)
    f, d = torch.randn(3, 8, 6), torch.randn(3, 8, 6)
    stacked, one = ConcatFusion(8, 6), ConcatFusion(1, 6)
    one.fc.load_state_dict({"weight": stacked.fc.weight[2], "bias": stacked.fc.bias[2]})
    torch.testing.assert_close(stacked(f, d)[:, 2], one(f[:, 2], d[:, 2]))
    output = small(fusion="concat")(*batch())
    assert output.z_global.shape == output.f_global.shape and output.z_local.shape == output.f_local.shape


@pytest.mark.parametrize("branches", ["both", "global", "local"])
@pytest.mark.parametrize("dsag", [True, False])
def test_branches_built(branches: str, dsag: bool) -> None:
    model = small(branches=branches, dsag=dsag)
    images, dsap = batch()
    output = model(images, dsap if dsag else None)
    assert output.maps is not None
    assert (output.maps.whole is not None, output.maps.local is not None) == (branches != "local", branches != "global")
    for name, value in output._asdict().items():
        if name == "maps":
            continue
        wanted = branches in ("both", name.rsplit("_", 1)[1]) and (dsag or not name.startswith("logits_z"))
        assert (value is not None) == wanted, name
    dims = (128 * (branches != "local"), 8 * 16 * (branches != "global"))
    assert model.embed_dims == dims
    vectors = [model.embed(images)]
    if dsag:
        vectors.append(model.embed_fused(images, dsap))
    else:
        assert output.z_global is output.f_global and output.z_local is output.f_local
        with pytest.raises(ValueError, match="embed_fused needs a DSAG-Stream"):
            model.embed_fused(images, dsap)
    for vector in vectors:
        assert vector.shape == (4, sum(dims))
        for part in vector.split([d for d in dims if d], dim=1):
            torch.testing.assert_close(part.norm(dim=1), torch.ones(4))
    total, _ = DSALoss()(output, torch.tensor([0, 0, 1, 1]))
    total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_embed_is_in_evaluation_mode_and_leaves_no_trace() -> None:
    model = small()
    images, dsap = batch()
    model.dsag_stream.eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    first = model.embed(images)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not first.requires_grad and first.dtype == torch.float32
    assert torch.equal(first, model.embed(images)) and torch.equal(first, model.eval().embed(images))
    # An image's vector does not depend on the rest of the batch.
    torch.testing.assert_close(first[:1], model.embed(images[:1]))
    f = model.mf_stream(images)
    torch.testing.assert_close(first[:, :128], nn.functional.normalize(f.whole))
    torch.testing.assert_close(first[:, 128:], nn.functional.normalize(f.local.flatten(1)))
    z = model(images, dsap)
    torch.testing.assert_close(model.embed_fused(images, dsap)[:, :128], nn.functional.normalize(z.z_global))


def test_modes_are_restored_after_an_error() -> None:
    model = small()
    with pytest.raises(ValueError, match="images must have shape"):
        model.embed(torch.zeros(1, 3, 8, 8))
    assert all(m.training for m in model.modules())


def test_uint8_input_is_normalised() -> None:
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, 64, 32), dtype=torch.uint8, generator=rng)
    expected = torchvision.transforms.functional.normalize(images / 255, MEAN, STD)
    torch.testing.assert_close(Normalize()(images), expected, rtol=1e-5, atol=1e-5)
    assert Normalize()(expected) is expected
    model = small().eval()
    torch.testing.assert_close(model.embed(images), model.embed(expected), rtol=1e-4, atol=1e-5)
    dsap = torch.randint(0, 256, (2, 24, 3, 8, 8), dtype=torch.uint8, generator=rng)
    normal = torchvision.transforms.functional.normalize(dsap.flatten(0, 1) / 255, MEAN, STD).view(dsap.shape)
    torch.testing.assert_close(model(images, dsap).z_local, model(images, normal).z_local, rtol=1e-4, atol=1e-4)
    assert not any("normalize" in name for name in model.state_dict())


@pytest.mark.parametrize(
    ("images", "dsap", "error", "message"),
    [
        (
            torch.zeros(2, 3, 64),
            None,
            ValueError,
            r"images must have shape \[B, 3, H, W\] .* got \[2, 3, 64\]",
        ),
        (
            torch.zeros(2, 1, 64, 32),
            None,
            ValueError,
            r"images must have shape .* got \[2, 1, 64, 32\]",
        ),
        (
            torch.zeros(2, 3, 64, 8),
            None,
            ValueError,
            r"H and W at least 16, got \[2, 3, 64, 8\]",
        ),
        (
            torch.zeros(2, 3, 64, 32, dtype=torch.int64),
            None,
            TypeError,
            "images must be float .* got torch.int64",
        ),
        ([1], None, TypeError, "images must be a tensor, got list"),
        (torch.zeros(2, 3, 64, 32), None, ValueError, "dsap is missing"),
        (
            torch.zeros(2, 3, 64, 32),
            torch.zeros(2, 23, 3, 8, 8),
            ValueError,
            r"dsap must have shape \[B, 24, 3, S, S\]",
        ),
        (
            torch.zeros(2, 3, 64, 32),
            torch.zeros(2, 24, 3, 8, 4),
            ValueError,
            r"got \[2, 24, 3, 8, 4\]",
        ),
        (
            torch.zeros(2, 3, 64, 32),
            torch.zeros(3, 24, 3, 8, 8),
            ValueError,
            "as many entries as images, 2, got 3",
        ),
        (
            torch.zeros(2, 3, 64, 32),
            torch.zeros(2, 24, 3, 8, 8).bool(),
            TypeError,
            "dsap must be float",
        ),
    ],
)
def test_wrong_input(images: Tensor, dsap: Tensor | None, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        small()(images, dsap)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_ids": 0}, "num_ids must be at least 1, got 0"),
        ({"classifier_dim": 0}, "classifier_dim must be at least 1, got 0"),
        (
            {"backbone": "resnet52"},
            "backbone must be one of resnet18, .* or timm/NAME, got 'resnet52'",
        ),
        ({"branches": "all"}, "branches must be one of both, global, local, none, got 'all'"),
        ({"fusion": "mul"}, "fusion must be one of add, concat, got 'mul'"),
        ({"width": 0.0}, "width must be a finite number above 0, got 0.0"),
        ({"width": float("nan")}, "width must be a finite number above 0, got nan"),
    ],
)
def test_wrong_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="mode must be one of auto, grouped, loop, batched, got 'fast'"):
        set_branch_mode(nn.Identity(), "fast")  # type: ignore[arg-type]


def test_bfloat16_autocast() -> None:
    model = small()
    images, dsap = batch(8)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(images, dsap)
        total, terms = DSALoss()(output, torch.arange(8) // 2)
    total.backward()
    assert all(t.dtype == torch.float32 for t in (total, output.f_global, output.z_local, *terms.values()))
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())
    exact, _ = DSALoss()(model(images, dsap), torch.arange(8) // 2)
    assert total.item() == pytest.approx(exact.item(), rel=0.02)
    with torch.autocast("cpu", torch.bfloat16):
        low = model.embed(images)
    assert low.dtype == torch.float32
    assert nn.functional.cosine_similarity(low, model.embed(images)).min() > 0.995


def train(mode: str = "auto", steps: int = 2) -> dict[str, Tensor]:
    model = small()
    set_branch_mode(model, mode)  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for step in range(steps):
        total, _ = DSALoss()(model(*batch(8, seed=step)), torch.arange(8) // 2)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return model.state_dict()


def test_training_is_deterministic() -> None:
    first, second = train(), train()
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_training_reduces_the_loss() -> None:
    model = small(num_ids=4, classifier_dim=128)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    images, dsap = batch(8)
    losses = []
    for _ in range(15):
        total, _ = DSALoss()(model(images, dsap), torch.arange(8) // 2)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(total.item())
    assert losses[-1] < 0.7 * losses[0]


def test_state_dict_round_trip(tmp_path: Path) -> None:
    model, other = small(seed=0), small(seed=1)
    images, dsap = batch()
    model(images, dsap)  # moves the running statistics
    assert not torch.equal(model.embed(images), other.embed(images))
    torch.save(model.state_dict(), tmp_path / "model.pt")
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert torch.equal(model.embed_fused(images, dsap), other.embed_fused(images, dsap))


def test_the_graph_has_no_breaks() -> None:
    model = small().eval()
    images, dsap = batch(2)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images, dsap).z_local, model(images, dsap).z_local)


def test_mf_stream_exports_with_a_free_batch_size() -> None:
    stream = small().eval().mf_stream
    exported = torch.export.export(stream, (batch(3)[0],), dynamic_shapes=({0: torch.export.Dim("batch")},))
    images = batch(5)[0]
    torch.testing.assert_close(exported.module()(images).local, stream(images).local)
