"""The `transform` suite of run.py: from stored bytes to the inputs of a training step, compared with torchvision.

All contenders use the same random draws. Each result is compared with the plain steps before it is timed: dsa_fast's
bit for bit, torchvision's within one level of 255, because its 8-bit resizing differs. The floor is the number of bytes
(each read and written once) over a copy rate measured in the same run. `--step N` also times a full DSA training step
of N images, and the share of its input pipeline (draws and fused transform).
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from common import Clock, copy_rate, print_table, say, spread
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as v2
from warp import people

import dsa_fast
from dsa_fast.configs.augment import AugmentConfig
from dsa_fast.data.transforms import Draws, augment_batch, augment_batch_reference
from dsa_fast.densepose.iuv import flip_iuv
from dsa_fast.imagenet import MEAN, STD
from dsa_fast.models import DSALoss, DSAReID

CONFIG = AugmentConfig()
#: No part images, but maps at 1/4 of the image's size: the input of a network without a DSAG-Stream, for `guide.dense`.
NO_PARTS, GRID = replace(CONFIG, dsap_size=0), (CONFIG.size[0] // 4, CONFIG.size[1] // 4)
SIZE = list(CONFIG.size)
Result = tuple[Tensor, ...]


def add_options(group: argparse._ArgumentGroup) -> None:
    """The suite's own options."""
    group.add_argument("--step", type=int, metavar="N", help="also time a training step of N images (a multiple of 4)")


def torchvision(images: Tensor, iuv: Tensor, draws: Draws) -> Result:
    """Runs torchvision's v2 operations, on whole batches where the draws allow it, and the unfused warp."""
    photos = v2.resize(images, SIZE, antialias=True)
    maps = v2.resize(iuv, SIZE, interpolation=InterpolationMode.NEAREST_EXACT)
    photos, maps = (v2.pad(x, [CONFIG.pad] * 4) for x in (photos, maps))
    mean = torch.tensor(MEAN, device=images.device).view(3, 1, 1) * 255
    full, labels, pixels = [], [], []
    plan = zip(draws.flip.tolist(), draws.top.tolist(), draws.left.tolist(), draws.erase.tolist(), strict=True)
    for b, (flip, top, left, box) in enumerate(plan):
        # The whole padded image is mirrored, so the crop is at the mirrored position.
        column = 2 * CONFIG.pad - left if flip else left
        photo, label = (v2.crop(x[b], top, column, *SIZE) for x in (photos, maps))
        if flip:
            photo, label = v2.horizontal_flip(photo), flip_iuv(label)
        image = v2.normalize(photo.float(), [255 * m for m in MEAN], [255 * s for s in STD])
        image = v2.erase(outside(image, top, left, 0.0), *box, torch.zeros(3, 1, 1, device=images.device))
        full.append(image)
        labels.append(label)
        pixels.append(photo)
    fill = [255 * m for m in MEAN]
    dsap = dsa_fast.warp(torch.stack(pixels), torch.stack(labels), fill=fill, dtype=torch.float32)
    return torch.stack(full), (dsap - mean) / (torch.tensor(STD, device=images.device).view(3, 1, 1) * 255)


def outside(image: Tensor, top: int, left: int, value: float) -> Tensor:
    """Sets the part of the crop that shows padding."""
    (height, width), pad = SIZE, CONFIG.pad
    image[:, : max(pad - top, 0)] = value
    image[:, min(height + pad - top, height) :] = value
    image[:, :, : max(pad - left, 0)] = value
    image[:, :, min(width + pad - left, width) :] = value
    return image


def contenders(images: Tensor, iuv: Tensor, draws: Draws) -> dict[str, Callable[[int], Result]]:
    """Maps names to functions that make a batch of the stored people, with different people in each call."""
    batch = len(draws.top)
    sets = [list(range(start, start + batch)) for start in range(0, len(images) - batch + 1, batch)]
    tensors = [torch.tensor(indices, device=images.device) for indices in sets]

    def fused(config: AugmentConfig = CONFIG, **options: Any) -> Callable[[int], Result]:
        return lambda i: augment_batch(images, iuv, draws, config, indices=sets[i % len(sets)], **options)

    def gathered(run: Callable[[Tensor, Tensor], Result]) -> Callable[[int], Result]:
        return lambda i: run(images[tensors[i % len(sets)]], iuv[tensors[i % len(sets)]])

    return {
        "dsa_fast": fused(),
        "dsa_fast, bf16": fused(dtype=torch.bfloat16),
        "dsa_fast, bf16, NHWC": fused(dtype=torch.bfloat16, channels_last=True),
        "dsa_fast, with maps": fused(grid=GRID),
        "dsa_fast, maps, no parts": fused(NO_PARTS, grid=GRID),
        "plain steps": gathered(lambda x, y: augment_batch_reference(x, y, draws, CONFIG)),
        "torchvision, warp": gathered(lambda x, y: torchvision(x, y, draws)),
    }


def verify(name: str, got: Result, expected: Result) -> None:
    """Stops the benchmark if what a contender makes of a batch is wrong."""
    pairs = [(a, b) for a, b in zip(got, expected, strict=False) if a.numel()]
    if name == "torchvision, warp":
        level = 1.01 / (255 * min(STD))
        good = all(float((a - b).abs().max()) <= level for a, b in pairs)
    else:
        good = all(torch.equal(a, b.to(a.dtype)) for a, b in pairs)
    if not good:
        raise SystemExit(f"benchmarks: {name} does not give the plain steps' result; nothing is reported")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures uint8 128 x 64 and 256 x 128 people -> 256 x 128 images and 24 x 3 x 32 x 32 parts."""
    device, clock, generator = options.device, Clock(options.device, options.seconds), torch.Generator().manual_seed(0)
    rate = copy_rate(clock)
    rows: list[dict[str, Any]] = []
    for stored in ((128, 64), (256, 128)):
        for batch in (16,) if options.quick else (16, 64):
            # Enough people that no batch stays in a cache.
            images, iuv = people(max(2 * batch, 512), *stored, generator)
            draws = Draws.sample(batch, CONFIG, generator)
            expected = augment_batch_reference(images[:batch], iuv[:batch], draws, CONFIG, grid=GRID)
            images, iuv = images.to(device), iuv.to(device)
            ours: float | None = None
            for name, contender in contenders(images, iuv, draws).items():
                got = contender(0)
                verify(name, tuple(x.cpu() for x in got), expected)
                row = {"stored": list(stored), "batch": batch, "name": name, **spread(clock(contender))}
                ours = ours or row["median_s"]
                moved = 6 * batch * stored[0] * stored[1] + sum(x.numel() * x.element_size() for x in got)
                row["images_per_s"] = batch / row["median_s"]
                row["floor_share"] = moved / rate / row["median_s"]
                row["times_dsa_fast"] = row["median_s"] / ours
                rows.append(row)
    result: dict[str, Any] = {"copy_bytes_per_s": rate, "rows": rows}
    if options.step:
        result["step"] = step(options, generator)
    return result


def step(options: argparse.Namespace, generator: torch.Generator) -> dict[str, Any]:
    """Measures a step of the full model, as `dsa-fast fit` does it, and its input."""
    batch, device = options.step, options.device
    clock = Clock(device, options.seconds)
    images, iuv = (x.to(device) for x in people(max(2 * batch, 64), 128, 64, generator))
    labels = torch.arange(batch // 4, device=device).repeat_interleave(4)
    model = DSAReID(751, pretrained=None).to(device)
    loss, optimizer = DSALoss(), torch.optim.Adam(model.parameters(), lr=1e-5)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32

    def inputs(i: int) -> Result:
        draws = Draws.sample(batch, CONFIG, torch.Generator().manual_seed(i))
        indices = [(i * batch + k) % len(images) for k in range(batch)]
        return augment_batch(images, iuv, draws, CONFIG, indices=indices, dtype=dtype)

    def whole(i: int) -> None:
        full, dsap = inputs(i)[:2]
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            total, _ = loss(model(full, dsap), labels)
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        optimizer.step()

    input_s, step_s = statistics.median(clock(inputs)), statistics.median(clock(whole))
    return {"batch": batch, "dtype": str(dtype), "input_s": input_s, "step_s": step_s, "share": input_s / step_s}


def show(result: dict[str, Any]) -> None:
    """Prints the rows as a table."""
    print_table(
        "training transform, uint8 -> 256 x 128 and 24 x 3 x 32 x 32",
        ("stored", "batch", "what", "median ms", "spread", "images/s", "of floor", "ratio"),
        [
            (
                "x".join(map(str, row["stored"])),
                str(row["batch"]),
                row["name"],
                f"{1e3 * row['median_s']:.3f}",
                f"{100 * (row['p90_s'] - row['p10_s']) / row['median_s']:.0f} %",
                f"{row['images_per_s']:,.0f}",
                f"{100 * row['floor_share']:.1f} %",
                f"{row['times_dsa_fast']:.1f}",
            )
            for row in result["rows"]
        ],
    )
    say(f"copy rate {result['copy_bytes_per_s'] / 1e9:.1f} GB/s")
    if "step" in result:
        about = result["step"]
        say(
            f"step of {about['batch']} images: {1e3 * about['step_s']:.1f} ms, of which the input takes "
            f"{1e3 * about['input_s']:.2f} ms ({100 * about['share']:.2f} %)"
        )
