"""The `infer` suite of run.py: from an image to its vector, with every runtime that works on this machine.

The network is that of `--checkpoint`, or the full-size MF-Stream with random weights and batch norms fitted to rendered
people. Times run from uint8 images of the input's size on the host to vectors on the host. On a GPU there are also
times from images on the device to vectors on the device. Decoding and resizing are not included. The contenders take
turns, so all run under the same conditions. Each is compared with the checkpoint's own vectors before it is timed. With
`--demo`, the folder of a finished `dsa-fast demo`, each contender is also scored on the demo's people.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import print_table, say
from numpy.typing import NDArray
from torch import Tensor, nn

from dsa_fast.data.registry import read_dataset
from dsa_fast.data.synth import SynthConfig, render_picture
from dsa_fast.data.transforms import resize
from dsa_fast.deploy.encoder import Encoder
from dsa_fast.deploy.export import NamedImages, export
from dsa_fast.deploy.parity import compare_scores, cosines, embed_exactly
from dsa_fast.deploy.sidecar import SUFFIXES, BatchRange
from dsa_fast.image import read_image
from dsa_fast.models import LoadedModel, ModelConfig, load_model
from dsa_fast.training.module import ReIDTask

LEAST = {"fp32": 0.9999, "fp16": 0.999, "bf16": 0.99, "int8": 0.9}
IMAGES = 32  # compared


def add_options(group: Any) -> None:
    """The suite's own options."""
    group.add_argument("--checkpoint", type=Path, help="the network to time (default: full size, random weights)")
    group.add_argument("--demo", type=Path, help="folder of a finished dsa-fast demo, to measure changes in mAP")
    group.add_argument("--batches", default="1,8,32,64", help="batch sizes to time (default: %(default)s)")
    group.add_argument("--compile", action="store_true", help="CPU: time torch.compile too, which takes minutes")


def rendered(count: int, size: tuple[int, int], seed: int) -> Tensor:
    """Renders people: uint8 [count, 3, *size]."""
    config = SynthConfig(seed=seed)
    pictures = [render_picture(config, 1 + i, 1 + i % config.cameras, 0)[0] for i in range(count)]
    return resize(torch.stack([torch.from_numpy(picture).permute(2, 0, 1) for picture in pictures]), size)


def random_checkpoint(path: Path, quick: bool) -> Path:
    """Writes a full-size network (small if `quick`) of random weights, with batch norms fitted to its features."""
    torch.manual_seed(0)
    task = ReIDTask(4, ModelConfig(backbone="resnet18" if quick else "resnet50", pretrained=None, dsag=False))
    stream = task.model.mf_stream
    for module in stream.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean of all batches
    stream.train()
    with torch.no_grad():
        stream(task.model.normalize(rendered(16, task.augment.size, 1)))
    task.eval()
    checkpoint: dict[str, Any] = {"state_dict": task.state_dict()}
    task.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)
    return path


def ways_to_run(device: torch.device, compiled: bool) -> list[tuple[str, str, dict[str, Any]]]:
    """Lists name, precision and options of each contender. `format` is for exported files, not checkpoints."""
    if device.type == "cpu":
        ways: list[tuple[str, str, dict[str, Any]]] = [
            ("PyTorch, batch norms folded", "fp32", {}),
            ("ONNX Runtime", "fp32", {"format": "onnx", "backend": "onnxruntime"}),
            ("ONNX Runtime", "int8", {"format": "onnx", "backend": "onnxruntime"}),
            ("OpenVINO", "fp32", {"format": "onnx", "backend": "openvino"}),
            ("OpenVINO", "bf16", {"format": "onnx", "backend": "openvino"}),
            ("OpenVINO", "int8", {"format": "onnx", "backend": "openvino"}),
        ]
        return ways + ([("torch.compile", "fp32", {"compile": True})] if compiled else [])
    ways = []
    for precision in ("fp32", "fp16", "bf16"):
        ways += [
            ("PyTorch, folded, no graph", precision, {"cuda_graphs": False}),
            ("PyTorch, folded, CUDA graph", precision, {}),
            ("torch.compile, CUDA graph", precision, {"compile": True}),
        ]
    for precision in ("fp32", "fp16", "int8"):
        ways.append(("ONNX Runtime CUDA", precision, {"format": "onnx", "backend": "onnxruntime"}))
        ways += [(name, precision, {"format": name}) for name in ("tensorrt", "tensorrt-rtx")]
    return ways


class Files:
    """The exports of one checkpoint. Each is made once."""

    def __init__(self, checkpoint: Path, folder: Path, calibration: Tensor, largest: int) -> None:
        self.checkpoint, self.folder, self.calibration, self.largest = checkpoint, folder, calibration, largest

    def load(self, precision: str, options: dict[str, Any], device: torch.device) -> Encoder:
        """Returns an encoder of the exported file or of the checkpoint."""
        options = dict(options)
        kind = options.pop("format", None)
        if kind is None:
            return Encoder.load(self.checkpoint, device=str(device), precision=precision, **options)  # type: ignore[arg-type]
        path = self.folder / f"{self.checkpoint.stem}_{precision}_{kind}{SUFFIXES[kind]}"
        if not path.exists():
            images = NamedImages(self.calibration, "rendered people")
            export(
                self.checkpoint,
                path,
                images=NamedImages(self.calibration[:2], "rendered people"),
                format=kind,
                precision=precision,  # type: ignore[arg-type]
                batch=BatchRange(1, min(8, self.largest), self.largest),
                calibration=images if precision == "int8" else None,
                least_cosine=0.5,  # compared below, on more images
            )
        return Encoder.load(path, device=str(device), **options)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Times every contender at every batch size."""
    device, quick = options.device, options.quick
    batches = [1, 4] if quick else [int(part) for part in options.batches.split(",")]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = options.checkpoint or random_checkpoint(folder / "random.ckpt", quick)
        loaded = load_model(checkpoint)
        images = rendered(8 if quick else IMAGES, loaded.size, 2)
        reference = embed_exactly(loaded, images)
        loaded.model.to(device)
        files = Files(checkpoint, folder, rendered(8 if quick else 32, loaded.size, 3), max(batches))
        ways: dict[tuple[str, str], Encoder | LoadedModel] = {("PyTorch eager", "fp32"): loaded}
        checked = {("PyTorch eager", "fp32"): {"cosine_min": 1.0, "cosine_mean": 1.0}}
        failed = []
        for title, precision, how in ways_to_run(device, options.compile):
            try:
                encoder = files.load(precision, how, device)
                alike = cosines(torch.as_tensor(encoder(images)).cpu(), reference)
            except ValueError as error:  # a library is missing or does not run on this machine
                failed.append({"name": title, "precision": precision, "reason": str(error)[:300]})
                continue
            if alike.min() < LEAST[precision]:
                raise SystemExit(f"benchmarks: {title} in {precision} is off, nothing is reported: {alike.min():.6f}")
            ways[title, precision] = encoder
            checked[title, precision] = {"cosine_min": float(alike.min()), "cosine_mean": float(alike.mean())}
        for batch in batches:
            rows += measure(ways, checked, batch, loaded.size, device, options.seconds)
        scores = {} if options.demo is None else score(options.demo, folder, device, options.compile)
    for row in rows:
        row |= scores.get((row["name"], row["precision"]), {})
    return {
        "network": "random weights" if options.checkpoint is None else options.checkpoint.name,
        "backbone": loaded.model.mf_stream.backbone.name,
        "input": list(loaded.size),
        "rows": rows,
        "left_out": failed,
    }


def measure(
    ways: dict[tuple[str, str], Encoder | LoadedModel],
    checked: dict[tuple[str, str], dict[str, float]],
    batch: int,
    size: tuple[int, int],
    device: torch.device,
    seconds: float,
) -> list[dict[str, Any]]:
    """Times all contenders at one batch size, in turn."""
    generator = torch.Generator().manual_seed(batch)
    host = torch.randint(0, 256, (batch, *size, 3), dtype=torch.uint8, generator=generator).numpy()
    given: dict[str, Any] = {"host": host}
    if device.type == "cuda":  # in the memory format that needs no copy
        given["device"] = torch.from_numpy(host).to(device).permute(0, 3, 1, 2)
    rows = []
    for place, images in given.items():
        runs = {key: timed(way, images, place, device) for key, way in ways.items()}
        times: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
        for once in runs.values():
            for _ in range(3 if batch < 8 else 1):
                once()
        begin = time.perf_counter()
        while min(map(len, times.values())) < 3 or time.perf_counter() - begin < seconds * len(runs):
            for key, once in runs.items():
                start = time.perf_counter()
                once()
                times[key].append(time.perf_counter() - start)
        eager = float(np.median(times["PyTorch eager", "fp32"]))
        for (name, precision), taken in times.items():
            median = float(np.median(taken))
            rows.append(
                {
                    "batch": batch,
                    "from": place,
                    "name": name,
                    "precision": precision,
                    "p50_s": median,
                    "p99_s": float(np.quantile(taken, 0.99)),
                    "min_s": min(taken),
                    "runs": len(taken),
                    "images_per_s": batch / median,
                    "times_faster_than_eager": eager / median,
                    "best_times_faster_than_eager": min(times["PyTorch eager", "fp32"]) / min(taken),
                    **checked[name, precision],
                }
            )
    return rows


def timed(
    way: Encoder | LoadedModel, images: NDArray[np.uint8] | Tensor, place: str, device: torch.device
) -> Callable[[], None]:
    """Returns a function without arguments that embeds the images and waits for the vectors."""

    def eager() -> None:
        assert isinstance(way, LoadedModel)
        given = images if isinstance(images, Tensor) else torch.from_numpy(images).permute(0, 3, 1, 2).to(device)
        vectors = way.model.embed(given)
        if place == "host":
            vectors.cpu()
        elif device.type == "cuda":
            torch.cuda.synchronize(device)

    def encoder() -> None:
        assert isinstance(way, Encoder)
        way(images)
        if place == "device":
            torch.cuda.synchronize(device)

    return eager if isinstance(way, LoadedModel) else encoder


def score(demo: Path, folder: Path, device: torch.device, compiled: bool) -> dict[tuple[str, str], dict[str, float]]:
    """Measures the change in mAP of each contender with the demo's checkpoint, calibrated on its training images."""
    checkpoint, data = demo / "run" / "checkpoints" / "last.ckpt", read_dataset(demo / "people")
    loaded = load_model(checkpoint)
    chosen = data.train[:: max(len(data.train) // 256, 1)][:256]
    files = Files(
        checkpoint, folder, torch.cat([resize(read_image(each.path)[None], loaded.size) for each in chosen]), 64
    )
    changes = {}
    for title, precision, how in ways_to_run(device, compiled):
        try:
            encoder = files.load(precision, how, device)
        except ValueError:
            continue
        found = compare_scores(encoder, loaded, data)
        changes[title, precision] = {
            "demo_mAP_checkpoint": found["mAP_checkpoint"],
            "demo_mAP_change_points": 100 * found["mAP_change"],
        }
    return changes


def show(result: dict[str, Any]) -> None:
    """Prints the rows as a table."""
    lines = []
    for row in result["rows"]:
        change = row.get("demo_mAP_change_points")
        lines.append(
            [
                str(row["batch"]),
                f"{row['name']}, {row['precision']}" + (" (device)" if row["from"] == "device" else ""),
                f"{1e3 * row['p50_s']:.2f}",
                f"{1e3 * row['p99_s']:.2f}",
                f"{row['images_per_s']:,.0f}",
                f"{row['times_faster_than_eager']:.2f}",
                f"{row['cosine_min']:.6f}",
                "" if change is None else f"{change:+.3f}",
            ]
        )
    columns = ("batch", "what", "p50 ms", "p99 ms", "images/s", "x eager", "cosine", "mAP")
    height, width = result["input"]
    print_table(f"{result['backbone']} {height} x {width}, {result['network']}", columns, lines)
    for each in result["left_out"]:
        say(f"left out: {each['name']}, {each['precision']}: {each['reason']}")
