"""The `train` suite of run.py: whole training steps of the two streams, compared with separate modules.

A step is what `dsa-fast fit` does with a batch: transform and warp, forward, losses, backward, optimizer. On a GPU it
runs in bfloat16 at full size. On a CPU it runs in float32 at a quarter of the channels with 16 images; `--width` and
`--batch` change that. The other contenders:

- separate modules: the same network and weights with a plain torch module for each of the 24, 13 and 8 branches, in
  eager float32, with PyTorch's default Adam. Its outputs and gradients are compared with ours before anything is timed.
- ResNet baseline: one ResNet with a global feature, a classifier of two layers and a triplet loss, run like ours.
- branches: the DSAG-Stream alone, forward and backward, in both forms. Ours also runs in the other modes of
  `dsa_fast.models.set_branch_mode`: its convolutions in a loop, or as batched matrix products.

Floating-point operations are counted in the separate form. They are divided by the rate of a large matrix product on
the same device in the same type. The contenders take turns.
"""

from __future__ import annotations

import argparse
import copy
import resource
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from common import Clock, print_table, say, spread
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.resnet import BasicBlock
from warp import people

from dsa_fast.configs.augment import AugmentConfig
from dsa_fast.data.transforms import Draws, augment_batch
from dsa_fast.densepose.parts import MERGE_13_TO_8, MERGE_24_TO_13, NUM_PARTS
from dsa_fast.models import Baseline, DSALoss, DSAReID, set_branch_mode
from dsa_fast.models.backbone import backbone_spec, make_stage
from dsa_fast.models.branches import BranchMode
from dsa_fast.models.dsa_reid import DSAOutput
from dsa_fast.models.dsag_stream import DSAGStream
from dsa_fast.models.heads import Classifier
from dsa_fast.models.mf_stream import NUM_LOCAL

CONFIG = AugmentConfig()
# Market-1501: identities, and the batches of 16 x 4 that `PKSampler` makes of its 12,936 training images.
NUM_IDS, STEPS, EPOCHS, BATCH = 751, 220, 320, 64
MODES: tuple[BranchMode, ...] = ("loop", "batched")  # the default mode is always measured


def add_options(group: argparse._ArgumentGroup) -> None:
    """The suite's own options."""
    group.add_argument("--width", type=float, help="scales all channels (default: 1 on a GPU, else 0.25)")
    group.add_argument("--batch", type=int, help="images in a step, a multiple of 4 (default: 64 on a GPU, else 16)")
    group.add_argument("--backbone", default="resnet50", help="the MF-Stream's ResNet (default: %(default)s)")
    group.add_argument("--compiled", action="store_true", help="also time torch.compile of our network")


def unstack(stacked: nn.Module, plain: list[nn.Module]) -> nn.ModuleList:
    """Copies the stacked weights of one module to G plain modules."""
    state = stacked.state_dict()
    for g, module in enumerate(plain):
        module.load_state_dict(
            {
                name: state[name].chunk(len(plain))[g].reshape(own.shape) if own.ndim else state[name]
                for name, own in module.state_dict().items()
            }
        )
    return nn.ModuleList(plain)


class SeparateDSAG(nn.Module):
    """The DSAG-Stream with a separate network for each part, run one after the other."""

    def __init__(self, stream: DSAGStream) -> None:
        super().__init__()
        assert stream.conv5_g is not None and stream.conv5_l is not None

        def stem(conv: nn.Conv2d, norm: nn.Module) -> nn.ModuleList:
            out, size = conv.out_channels // NUM_PARTS, conv.kernel_size[0]
            channels = conv.in_channels // NUM_PARTS
            convs = unstack(
                conv, [nn.Conv2d(channels, out, size, padding=size // 2, bias=False) for _ in range(NUM_PARTS)]
            )
            norms = unstack(norm, [nn.BatchNorm2d(out) for _ in range(NUM_PARTS)])
            return nn.ModuleList(nn.Sequential(c, n, nn.ReLU(inplace=True)) for c, n in zip(convs, norms, strict=True))

        def stage(stacked: Any, branches: int, stride: int) -> nn.ModuleList:
            planes, channels = (int(n) for n in stacked[0].conv1.weight.shape[:2])
            plain = [make_stage(BasicBlock, channels, planes // branches, 2, stride=stride) for _ in range(branches)]
            return unstack(stacked, list(plain))

        self.conv1, self.conv2 = stem(stream.conv1, stream.bn1), stem(stream.conv2, stream.bn2)
        self.conv3 = stage(stream.conv3, NUM_PARTS, 2)
        self.conv4 = stage(stream.conv4, len(MERGE_24_TO_13), 2)
        self.conv5_l = stage(stream.conv5_l, NUM_LOCAL, 1)
        self.conv5_g: Any = copy.deepcopy(stream.conv5_g)

    def forward(self, dsap: Tensor) -> tuple[Tensor, Tensor]:
        """Part images [B, 24, 3, S, S] -> global features [B, D] and local ones [B, 8, d]."""
        parts = [self.conv3[p](self.conv2[p](self.conv1[p](dsap[:, p]))) for p in range(NUM_PARTS)]
        parts = [sum_of(parts[p - 1] for p in group) for group in MERGE_24_TO_13]
        parts = [layer(x) for layer, x in zip(self.conv4, parts, strict=True)]
        parts = [sum_of(parts[p] for p in group) for group in MERGE_13_TO_8]
        local = torch.stack([layer(x).mean((2, 3)) for layer, x in zip(self.conv5_l, parts, strict=True)], dim=1)
        whole: Tensor = self.conv5_g(torch.cat(parts, dim=1)).mean((2, 3))
        return whole, local


def sum_of(tensors: Iterable[Tensor]) -> Tensor:
    """Adds tensors without starting from zero."""
    first, *others = tensors
    for each in others:
        first = first + each
    return first


class Separate(nn.Module):
    """`DSAReID` with a separate module for each branch."""

    def __init__(self, model: DSAReID) -> None:
        super().__init__()
        stream = model.mf_stream
        assert stream.head_local is not None and model.dsag_stream is not None
        block, blocks = backbone_spec(stream.backbone.name)[:2]
        classify_f: Any = model.classify_f_local
        classify_z: Any = model.classify_z_local
        planes = stream.local_dim // block.expansion
        self.backbone = copy.deepcopy(stream.backbone)
        self.head_global: Any = copy.deepcopy(stream.head_global)
        heads = [make_stage(block, stream.backbone.out_channels, planes, blocks[3], stride=1) for _ in range(NUM_LOCAL)]
        self.head_local = unstack(stream.head_local, list(heads))
        self.dsag = SeparateDSAG(model.dsag_stream)
        self.classify_f: Any
        self.classify_z: Any
        self.classify_f, self.classify_z = (
            copy.deepcopy(each) for each in (model.classify_f_global, model.classify_z_global)
        )
        self.parts_f, self.parts_z = (
            unstack(each, [Classifier(stream.local_dim, model.num_ids, each.fc1.weight.shape[1]) for _ in range(8)])
            for each in (classify_f, classify_z)
        )

    def forward(self, images: Tensor, dsap: Tensor) -> DSAOutput:
        """Computes the same as `DSAReID`."""
        shared = self.backbone(images)
        whole = self.head_global(shared).mean((2, 3))
        local = torch.stack([head(shared).mean((2, 3)) for head in self.head_local], dim=1)
        d_whole, d_local = self.dsag(dsap)
        z_whole, z_local = whole + d_whole, local + d_local
        return DSAOutput(
            whole,
            local,
            z_whole,
            z_local,
            self.classify_f(whole),
            torch.stack([layer(local[:, i]) for i, layer in enumerate(self.parts_f)], dim=1),
            self.classify_z(z_whole),
            torch.stack([layer(z_local[:, i]) for i, layer in enumerate(self.parts_z)], dim=1),
        )


def verify(model: DSAReID, separate: Separate, images: Tensor, dsap: Tensor, labels: Tensor) -> dict[str, float]:
    """Stops the benchmark unless outputs are equal in float32 and float64, and gradients in float64.

    In float32 the last bit of a sum sometimes decides the sign of a ReLU's input, and so a part of the gradients. In
    float64 this is very rare.

    Returns:
        The largest differences, each as a share of the largest value.
    """
    worst: dict[str, float] = {}
    for dtype, limit in ((torch.float32, 1e-2), (torch.float64, 1e-6)):
        ours, theirs = copy.deepcopy(model).to(dtype), copy.deepcopy(separate).to(dtype)
        a, b = ours(images.to(dtype), dsap.to(dtype)), theirs(images.to(dtype), dsap.to(dtype))
        pairs: dict[str, tuple[Any, Any]] = {
            name: (getattr(a, name), getattr(b, name)) for name in a._fields if name != "maps"
        }
        if dtype == torch.float64:
            for output in (a, b):
                DSALoss()(output, labels)[0].backward()
            assert ours.dsag_stream is not None
            weights = [layer.get_parameter("0.weight").grad for layer in theirs.dsag.conv1]
            parts = torch.cat([each for each in weights if each is not None])
            pairs["gradient of the backbone"] = (
                ours.mf_stream.backbone.get_parameter("conv1.weight").grad,
                theirs.backbone.get_parameter("conv1.weight").grad,
            )
            pairs["gradient of the parts"] = (ours.dsag_stream.conv1.weight.grad, parts)
        for name, (x, y) in pairs.items():
            x, y = x.detach(), y.detach()
            key = f"{name}, {dtype}".replace("torch.", "")
            worst[key] = float((x - y).abs().max() / y.abs().max())
            if not worst[key] < limit:
                raise SystemExit(f"benchmarks: separate modules differ in {key}: {worst[key]:.2e}; nothing is reported")
    return worst


def in_mode(stream: DSAGStream, mode: BranchMode) -> DSAGStream:
    """Copies the stream and sets the mode of its convolutions."""
    copied = copy.deepcopy(stream)
    set_branch_mode(copied, mode)
    return copied


def peak(clock: Clock, dtype: torch.dtype) -> float:
    """Measures the floating-point operations per second of a large matrix product."""
    n = 8192 if clock.device.type == "cuda" else 2048
    a, b = (torch.randn(n, n, device=clock.device).to(dtype) for _ in range(2))
    return 2 * n**3 / min(clock(lambda i: a @ b))


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures all contenders at one size."""
    device, cuda = options.device, options.device.type == "cuda"
    small = options.quick or not cuda
    width = options.width or (0.125 if options.quick else 0.25 if small else 1.0)
    batch = options.batch or (8 if options.quick else 16 if small else BATCH)
    if batch < 8 or batch % 4:
        raise SystemExit(f"benchmarks: --batch must be a multiple of 4 and at least 8, got {batch}")
    backbone = "resnet18" if options.quick and options.backbone == "resnet50" else options.backbone
    clock, dtype = Clock(device, options.seconds), torch.bfloat16 if cuda else torch.float32
    torch.manual_seed(0)
    # Exact float32 for the comparison and the separate modules.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

    stored, maps = (x.to(device) for x in people(max(2 * batch, 64), 128, 64, torch.Generator().manual_seed(0)))
    labels = torch.arange(batch // 4, device=device).repeat_interleave(4)

    def inputs(i: int, kind: torch.dtype, layout: bool) -> tuple[Tensor, Tensor]:
        draws = Draws.sample(batch, CONFIG, torch.Generator().manual_seed(i))
        indices = [(i * batch + k) % len(stored) for k in range(batch)]
        made = augment_batch(stored, maps, draws, CONFIG, indices=indices, dtype=kind, channels_last=layout)
        return made.images, made.dsap

    model = DSAReID(NUM_IDS, backbone=backbone, pretrained=None, width=width).to(device)
    separate = Separate(model).to(device)
    images, dsap = inputs(0, torch.float32, False)
    worst = verify(model, separate, images, dsap, labels)
    with FlopCounterMode(display=False) as counter:
        DSALoss()(separate(images, dsap), labels)[0].backward()
    flops = counter.get_total_flops()
    assert model.dsag_stream is not None
    stream, separate_stream = copy.deepcopy(model.dsag_stream), copy.deepcopy(separate.dsag)
    baseline = Baseline(NUM_IDS, backbone=backbone, pretrained=None, width=width).to(device)

    def step(network: nn.Module, kind: torch.dtype, ours: bool) -> Callable[[int], None]:
        if ours and cuda:
            network.to(memory_format=torch.channels_last)
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-5, weight_decay=5e-4, fused=True if ours else None)
        loss = DSALoss()

        def once(i: int) -> None:
            full, parts = inputs(i, kind, ours and cuda)
            with torch.autocast(device.type, kind, enabled=kind != torch.float32):
                total, _ = loss(network(full, parts), labels)
            optimizer.zero_grad(set_to_none=True)
            total.backward()
            optimizer.step()

        return once

    def alone(network: nn.Module, kind: torch.dtype) -> Callable[[int], None]:
        parts = dsap.to(kind)

        def once(i: int) -> None:
            with torch.autocast(device.type, kind, enabled=kind != torch.float32):
                whole, local = network(parts)
            network.zero_grad(set_to_none=True)
            (whole.square().mean() + local.square().mean()).backward()

        return once

    contenders: dict[str, Callable[[int], object]] = {
        "dsa_fast": step(model, dtype, True),
        "separate modules": step(separate, torch.float32, False),
        "ResNet baseline": step(baseline, dtype, True),
        "branches, dsa_fast": alone(stream, dtype),
        "branches, separate modules": alone(separate_stream, torch.float32),
        **{f"branches, {mode}": alone(in_mode(stream, mode), dtype) for mode in MODES},
        "input": lambda i: inputs(i, dtype, cuda),
    }
    if options.compiled:
        compiled = copy.deepcopy(model)
        compiled.compile()
        contenders["dsa_fast, compiled"] = step(compiled, dtype, True)
    times, memory = take_turns(contenders, device, options.seconds)
    rows = []
    for name, taken in times.items():
        ours = times["branches, dsa_fast" if name.startswith("branches") else "dsa_fast"]
        row: dict[str, Any] = {"name": name, "batch": batch, **spread(taken)}
        row["images_per_s"] = batch / row["median_s"]
        row["times_dsa_fast"] = row["median_s"] / statistics.median(ours)
        row["peak_bytes"] = memory.get(name)
        rows.append(row)
    reached = peak(clock, dtype)
    step_s, input_s = (statistics.median(times[name]) for name in ("dsa_fast", "input"))
    return {
        "backbone": backbone,
        "width": width,
        "batch": batch,
        "dtype": str(dtype),
        "step_flops": flops,
        "peak_flops": reached,
        "share_of_peak": flops / step_s / reached,
        "input_share": input_s / step_s,
        "process_peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "largest_difference": worst,
        "recipe": {
            "epochs": EPOCHS,
            "steps": EPOCHS * STEPS,
            "batch": BATCH,
            "seconds": EPOCHS * STEPS * BATCH * step_s / batch,
        },
        "rows": rows,
    }


def take_turns(
    contenders: dict[str, Callable[[int], object]], device: torch.device, seconds: float
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Times the contenders in turn. Returns the seconds of each run, and on a GPU the peak memory."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    memory = {}
    for name, once in contenders.items():
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        for i in range(3 if device.type == "cuda" else 1):
            once(i)
        wait()
        if device.type == "cuda":
            memory[name] = torch.cuda.max_memory_allocated(device)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    begin = time.perf_counter()
    for turn in range(10_000):
        if turn >= 3 and time.perf_counter() - begin >= seconds * len(contenders):
            break
        for name, once in contenders.items():
            start = time.perf_counter()
            # Several steps in a row, so the host can run ahead as in training.
            several = 10 if device.type == "cuda" else 1
            for i in range(several):
                once(turn * several + i)
            wait()
            times[name].append((time.perf_counter() - start) / several)
    return times, memory


def show(result: dict[str, Any]) -> None:
    """Prints the rows as a table."""
    print_table(
        f"training step, {result['backbone']} at width {result['width']:g}, 256 x 128, {result['batch']} images",
        ("what", "median ms", "min ms", "images/s", "ratio", "peak GB"),
        [
            (
                row["name"],
                f"{1e3 * row['median_s']:.1f}",
                f"{1e3 * row['min_s']:.1f}",
                f"{row['images_per_s']:,.1f}",
                f"{row['times_dsa_fast']:.2f}",
                "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e9:.2f}",
            )
            for row in result["rows"]
        ],
    )
    recipe = result["recipe"]
    say(
        f"{result['step_flops'] / 1e9:,.0f} GFLOP a step, {100 * result['share_of_peak']:.1f} % of a matrix product's "
        f"{result['peak_flops'] / 1e12:.2f} TFLOP/s; input {100 * result['input_share']:.2f} % of the step; "
        f"process at most {result['process_peak_bytes'] / 1e9:.1f} GB"
    )
    say(
        f"Market-1501, {recipe['epochs']} epochs of {recipe['steps'] // recipe['epochs']} steps of {recipe['batch']} "
        f"images, at this width: {recipe['seconds'] / 3600:.1f} hours"
    )
