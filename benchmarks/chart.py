"""The `chart` suite of run.py: from DensePose's heads to part images, compared with detectron2's converter.

Heads of 112 x 112 with 2 coarse channels, a box over the whole 256 x 128 photo of each instance, uint8 -> float32
24 x 3 x 32 x 32. detectron2's converter is measured if detectron2 and its DensePose project can be imported. Each
contender's first result is compared with PyTorch's own operators before it is timed. The floor counts the coarse and
fine scores, the photo and the result once each. It does not count u and v, which are read only at some pixels.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal

import torch
from common import Clock, copy_rate, print_table, say, spread
from torch import Tensor

import dsa_fast
from dsa_fast.densepose import to_iuv
from dsa_fast.ops.plain_reference import to_iuv_reference

PARTS, SIDE, COARSE, SIZE, HEIGHT, WIDTH = 24, 112, 2, 32, 256, 128


@dataclass
class Heads:
    """The output of a predictor, without detectron2."""

    coarse_segm: Tensor
    fine_segm: Tensor
    u: Tensor
    v: Tensor


People = tuple[Tensor, Heads, Tensor]  # photos, heads, boxes


def people(count: int, device: torch.device, generator: torch.Generator) -> People:
    """Makes noise photos, and smooth heads that see a person in about half of the pixels."""

    def smooth(channels: int) -> Tensor:
        noise = torch.randn(count, channels, 14, 14, generator=generator)
        return torch.nn.functional.interpolate(noise, (SIDE, SIDE), mode="bicubic").to(device)

    img = torch.randint(0, 256, (count, 3, HEIGHT, WIDTH), dtype=torch.uint8, generator=generator).to(device)
    u, v = (0.2 * smooth(PARTS + 1) + 0.5 for _ in range(2))
    heads = Heads(4 * smooth(COARSE), 4 * smooth(PARTS + 1), u, v)
    return img, heads, torch.tensor([[0.0, 0.0, WIDTH, HEIGHT]], device=device).repeat(count, 1)


def scatter(img: Tensor, label: Tensor, uv: Tensor) -> Tensor:
    """Makes one photo's part images with one index_put. It is undefined which of several pixels wins a texel."""
    out = torch.zeros(PARTS, SIZE, SIZE, img.shape[0], device=img.device)
    y, x = torch.nonzero(label, as_tuple=True)
    place = (uv[:, y, x].clamp(0, 1) * SIZE).long().clamp(max=SIZE - 1)
    out[label[y, x] - 1, place[0], place[1]] = img[:, y, x].t().float()
    return out.permute(0, 3, 1, 2)


def ours(sets: list[People], reduce: Literal["last", "mean"], i: int) -> Tensor:
    """Runs the fused operator."""
    return dsa_fast.warp_densepose(*sets[i % len(sets)], size=SIZE, reduce=reduce, dtype=torch.float32)


def by_maps(sets: list[People], i: int) -> Tensor:
    """Runs the same in two steps."""
    img, heads, boxes = sets[i % len(sets)]
    return dsa_fast.warp(img, to_iuv(heads, boxes, (HEIGHT, WIDTH)), size=SIZE, dtype=torch.float32)


def graph_of_ours(sets: list[People]) -> Callable[[int], Tensor]:
    """Captures the fused operator for each of the inputs: the device's time without the queueing."""
    graphs: list[tuple[torch.cuda.CUDAGraph, Tensor]] = []
    for i in range(len(sets)):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            got = ours(sets, "last", i)
        graphs.append((graph, got))

    def run(i: int) -> Tensor:
        graph, got = graphs[i % len(graphs)]
        graph.replay()
        return got

    return run


def plain(sets: list[People], i: int) -> Tensor:
    """Runs PyTorch's operators on one instance at a time: interpolate, arg-max, gather, index_put."""
    img, heads, _ = sets[i % len(sets)]

    def resample(head: Tensor, n: int) -> Tensor:
        size = (HEIGHT, WIDTH)
        return torch.nn.functional.interpolate(head[n : n + 1], size, mode="bilinear", align_corners=False)[0]

    found = []
    for n in range(len(img)):
        label = resample(heads.fine_segm, n).argmax(0) * (resample(heads.coarse_segm, n).argmax(0) > 0)
        uv = torch.cat([resample(head, n).gather(0, label[None]) for head in (heads.u, heads.v)])
        found.append(scatter(img[n], label, uv))
    return torch.stack(found)


@cache  # a second import would find the submodules of one that failed
def detectron2_classes() -> tuple[Any, Any, Any] | str:
    """Returns the converter and its inputs' types, or the reason why they are missing."""
    try:
        return (
            importlib.import_module("densepose.converters").ToChartResultConverter,
            importlib.import_module("densepose.structures").DensePoseChartPredictorOutput,
            importlib.import_module("detectron2.structures").Boxes,
        )
    except ImportError as error:
        return str(error)


def detectron2_contender(sets: list[People]) -> Callable[[int], Tensor] | str:
    """Returns detectron2's converter followed by index_put, or the reason why it is missing."""
    classes = detectron2_classes()
    if isinstance(classes, str):
        return classes
    converter, output_type, boxes_type = classes
    theirs = [
        (img, output_type(heads.coarse_segm, heads.fine_segm, heads.u, heads.v), boxes_type(boxes))
        for img, heads, boxes in sets
    ]

    def run(i: int) -> Tensor:
        img, output, boxes = theirs[i % len(theirs)]
        found = []
        for n in range(len(img)):
            result = converter.convert(output[n], boxes[n])
            found.append(scatter(img[n], result.labels, result.uv))
        return torch.stack(found)

    return run


def verify(name: str, got: Tensor, data: People, reduce: Any) -> None:
    """Stops the benchmark if a contender's first part images are wrong."""
    img, heads, boxes = data
    coarse, fine, u, v = (head[:1].cpu() for head in (heads.coarse_segm, heads.fine_segm, heads.u, heads.v))
    iuv = to_iuv_reference(coarse, fine, u, v, boxes[0].cpu(), (HEIGHT, WIDTH))
    expected, count = dsa_fast.warp(img[0].cpu(), iuv, size=SIZE, reduce=reduce, dtype=torch.float32, return_count=True)
    wrong = got[0].cpu() != expected
    if not name.startswith("dsa_fast"):  # with several threads, any of several pixels on a texel may win an index_put
        wrong &= (count <= 1)[:, None]
    # PyTorch rounds interpolation differently on CUDA.
    if wrong.float().mean() > (1e-4 if img.is_cuda else 0):
        raise SystemExit(f"benchmarks: {name} does not give the reference's result; nothing is reported")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures the heads of 1, 8 and 32 instances."""
    device, clock = options.device, Clock(options.device, options.seconds)
    generator = torch.Generator().manual_seed(0)
    rate = copy_rate(clock)
    rows: list[dict[str, Any]] = []
    missing = ""
    for count in (1, 8) if options.quick else (1, 8, 32):
        # Enough different inputs that none stays in a cache from the previous call.
        sets = [people(count, device, generator) for _ in range(max(2, 32 // count))]

        contenders: dict[str, Callable[[int], Tensor]] = {
            "dsa_fast last": partial(ours, sets, "last"),
            "dsa_fast mean": partial(ours, sets, "mean"),
            "dsa_fast to_iuv, then warp": partial(by_maps, sets),
            "PyTorch, per instance": partial(plain, sets),
        }
        if device.type == "cuda":
            contenders["dsa_fast last, CUDA graph"] = graph_of_ours(sets)
        theirs = detectron2_contender(sets)
        if isinstance(theirs, str):
            missing = theirs
        else:
            contenders["detectron2, then index_put"] = theirs
        photo, result = 3 * HEIGHT * WIDTH, 4 * PARTS * 3 * SIZE * SIZE
        floor = count * (4 * (COARSE + PARTS + 1) * SIDE * SIDE + photo + result) / rate
        ours_s = 0.0
        for name, contender in contenders.items():
            verify(name, contender(0), sets[0], "mean" if name == "dsa_fast mean" else "last")
            measured = spread(clock(contender))
            ours_s = ours_s or measured["median_s"]
            rows.append(
                {
                    "instances": count,
                    "name": name,
                    **measured,
                    "instances_per_s": count / measured["median_s"],
                    "floor_share": floor / measured["median_s"],
                    "times_dsa_fast": measured["median_s"] / ours_s,
                }
            )
    return {"copy_bytes_per_s": rate, "detectron2_missing": missing, "rows": rows}


def show(result: dict[str, Any]) -> None:
    """Prints the rows as a table."""
    print_table(
        "DensePose heads 112 x 112, box 256 x 128 -> float32 24 x 3 x 32 x 32",
        ("instances", "what", "median ms", "spread", "instances/s", "of floor", "ratio"),
        [
            (
                str(row["instances"]),
                row["name"],
                f"{1e3 * row['median_s']:.3f}",
                f"{100 * (row['p90_s'] - row['p10_s']) / row['median_s']:.0f} %",
                f"{row['instances_per_s']:,.0f}",
                f"{100 * row['floor_share']:.1f} %",
                f"{row['times_dsa_fast']:.1f}",
            )
            for row in result["rows"]
        ],
    )
    say(f"copy rate {result['copy_bytes_per_s'] / 1e9:.1f} GB/s")
    if result["detectron2_missing"]:
        say(f"detectron2's converter is left out: {result['detectron2_missing']}")
