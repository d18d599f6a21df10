"""Measures the warp, or the evaluation, beside what people use instead.

    python benchmarks/run.py                     # prints a table
    python benchmarks/run.py --json FILE         # and writes the figures with the machine's description
    python benchmarks/run.py --suite eval --peer PATH_TO_TORCHREID_CHECKOUT

For the warp, every contender's result is compared with `dsa_fast.ops.reference` before it is timed. The floor is the
counted bytes (each read and written once) over a copy rate measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import evaluation
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import dsa_fast
from dsa_fast.ops.reference import warp_reference

PARTS = 24


def machine(device: torch.device) -> dict[str, Any]:
    """What a figure depends on."""
    about: dict[str, Any] = {
        "cpu": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "dsa_fast": dsa_fast.__version__,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        about["cpu"] = models[0] if models else about["cpu"]
    if device.type == "cuda":
        about["gpu"] = torch.cuda.get_device_name(device)
        about["cuda"] = torch.version.cuda
    return about


class Clock:
    """Times a function on one device: CUDA events there, the wall clock here."""

    def __init__(self, device: torch.device, seconds: float) -> None:
        self.device, self.seconds = device, seconds

    def __call__(self, run: Callable[[int], object]) -> list[float]:
        """Seconds of each call `run(i)`, after a warm-up; at least 5, as many as fit into the time."""
        times: list[float] = []
        for i in range(3):
            run(i)
        begin = time.perf_counter()
        while len(times) < 5 or (time.perf_counter() - begin < self.seconds and len(times) < 2000):
            times.append(self._once(run, len(times)))
        return times

    def _once(self, run: Callable[[int], object], i: int) -> float:
        if self.device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run(i)
            end.record()
            end.synchronize()
            return float(start.elapsed_time(end)) / 1e3
        start_time = time.perf_counter()
        run(i)
        return time.perf_counter() - start_time


def people(batch: int, height: int, width: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noise photos, and maps in which a person-like half of the pixels carries smooth parts, u and v."""
    img = torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=generator)
    y = torch.linspace(0, 1, height)[:, None]
    x = torch.linspace(0, 1, width)[None, :]
    shift = torch.rand(batch, 1, 1, generator=generator)
    column, row = (4 * (x + 0.25 * shift)).floor().clamp(0, 3), (6 * y).floor().clamp(0, 5)
    part = 1 + (4 * row + column).long() % PARTS
    inside = ((x - 0.5 - 0.1 * (shift - 0.5)).abs() < 0.27).expand(batch, height, width)
    u, v = (6 * y + 0 * x) % 1, (4 * (x + 0.25 * shift)) % 1
    iuv = torch.stack([part.float().expand_as(inside), 255 * u.expand_as(inside), 255 * v.expand_as(inside)], dim=1)
    return img, (iuv * inside[:, None]).round().byte()


def torch_scatter(img: Tensor, iuv: Tensor, size: int) -> Tensor:
    """The vectorised PyTorch way: one index_put; which pixel wins a texel is not defined on CUDA."""
    batch, channels = img.shape[:2]
    part, row, column = iuv[:, 0].long(), iuv[:, 1].long() * size // 255, iuv[:, 2].long() * size // 255
    row, column = row.clamp(max=size - 1), column.clamp(max=size - 1)
    b, y, x = torch.nonzero(part > 0, as_tuple=True)
    out = torch.zeros(batch, PARTS, size, size, channels, device=img.device)
    out[b, part[b, y, x] - 1, row[b, y, x], column[b, y, x]] = img.permute(0, 2, 3, 1)[b, y, x].float()
    return out.permute(0, 1, 4, 2, 3).contiguous()


def numpy_parts(img: np.ndarray, iuv: np.ndarray, size: int) -> np.ndarray:
    """The usual NumPy loop over images and parts."""
    out = np.zeros((len(img), PARTS, img.shape[1], size, size), np.float32)
    for b in range(len(img)):
        rows = np.minimum(iuv[b, 1].astype(np.int64) * size // 255, size - 1)
        columns = np.minimum(iuv[b, 2].astype(np.int64) * size // 255, size - 1)
        for part in range(1, PARTS + 1):
            y, x = np.nonzero(iuv[b, 0] == part)
            out[b, part - 1][:, rows[y, x], columns[y, x]] = img[b][:, y, x]
    return out


def numpy_flat(img: np.ndarray, iuv: np.ndarray, size: int) -> np.ndarray:
    """Flat NumPy indexing of all parts of an image at once."""
    channels = img.shape[1]
    out = np.zeros((len(img), channels, PARTS * size * size), np.float32)
    for b in range(len(img)):
        part = iuv[b, 0].reshape(-1).astype(np.int32)
        where = np.flatnonzero(part)
        rows = np.minimum(iuv[b, 1].reshape(-1)[where].astype(np.int32) * size // 255, size - 1)
        columns = np.minimum(iuv[b, 2].reshape(-1)[where].astype(np.int32) * size // 255, size - 1)
        out[b][:, ((part[where] - 1) * size + rows) * size + columns] = img[b].reshape(channels, -1)[:, where]
    return np.ascontiguousarray(out.reshape(len(img), channels, PARTS, size, size).swapaxes(1, 2))


def copy_rate(device: torch.device, clock: Clock) -> float:
    """Bytes per second of a copy within the device's memory, read and written bytes both counted."""
    source = torch.empty(256 << 20, dtype=torch.uint8, device=device).random_(0, 256)
    target = torch.empty_like(source)
    return 2 * source.numel() / statistics.median(clock(lambda i: target.copy_(source)))


def bench_warp(device: torch.device, clock: Clock, quick: bool) -> dict[str, Any]:
    """uint8 256 x 128 photos and maps -> float32 24 x 3 x 32 x 32."""
    size, generator = 32, torch.Generator().manual_seed(0)
    rate = copy_rate(device, clock)
    rows: list[dict[str, Any]] = []
    for batch in (1, 16) if quick else (1, 16, 64, 256):
        # Enough different inputs that none is in a cache from the last time.
        sets = [people(batch, 256, 128, generator) for _ in range(max(2, min(16, 512 // batch)))]
        arrays = [(img.numpy(), iuv.numpy()) for img, iuv in sets]
        sets = [(img.to(device), iuv.to(device)) for img, iuv in sets]
        img, iuv = (x[:1].cpu() for x in sets[0])
        contenders = warp_contenders(sets, arrays if device.type == "cpu" else [], size)
        moved = batch * (6 * 256 * 128 + 4 * PARTS * 3 * size * size)
        floor = moved / rate
        medians = {}
        for name, run in contenders.items():
            verify(name, run, img, iuv, size, device)
            times = clock(run)
            medians[name] = statistics.median(times)
            rows.append(
                {
                    "batch": batch,
                    "name": name,
                    "median_s": medians[name],
                    "p10_s": float(np.quantile(times, 0.1)),
                    "p90_s": float(np.quantile(times, 0.9)),
                    "runs": len(times),
                    "images_per_s": batch / medians[name],
                    "floor_share": floor / medians[name],
                    "times_dsa_fast": medians[name] / medians["dsa_fast last"],
                }
            )
    filled = float((sets[0][1][:, 0] > 0).float().mean())
    return {"copy_bytes_per_s": rate, "foreground": filled, "input": "uint8 256 x 128", "rows": rows}


def warp_contenders(
    sets: list[tuple[Tensor, Tensor]], arrays: list[tuple[np.ndarray, np.ndarray]], size: int
) -> dict[str, Callable[[int], Any]]:
    """Name -> a function that warps the i-th of the inputs (in turn); NumPy only where arrays are given."""

    def ours(reduce: Literal["last", "mean"]) -> Callable[[int], Tensor]:
        return lambda i: dsa_fast.warp(*sets[i % len(sets)], size=size, dtype=torch.float32, reduce=reduce)

    contenders: dict[str, Callable[[int], Any]] = {
        "dsa_fast last": ours("last"),
        "dsa_fast mean": ours("mean"),
        "PyTorch index_put": lambda i: torch_scatter(*sets[i % len(sets)], size),
    }
    if arrays:
        contenders["NumPy, per part"] = lambda i: numpy_parts(*arrays[i % len(arrays)], size)
        contenders["NumPy, flat"] = lambda i: numpy_flat(*arrays[i % len(arrays)], size)
    return contenders


def verify(name: str, run: Callable[[int], Any], img: Tensor, iuv: Tensor, size: int, device: torch.device) -> None:
    """Stops the benchmark when a contender's first image is not what it should be."""
    got = torch.as_tensor(run(0))[:1].cpu()
    reduce = "mean" if name == "dsa_fast mean" else "last"
    expected, count = warp_reference(img, iuv, size=size, dtype=torch.float32, reduce=reduce)
    if name == "PyTorch index_put" and device.type == "cuda":  # any of several pixels may win a texel there
        alone = (count <= 1)[:, :, None]
        got, expected = got * alone, expected * alone
    if not torch.equal(got, expected):
        raise SystemExit(f"benchmarks: {name} does not give the reference's result; nothing is reported")


def show(result: dict[str, Any]) -> None:
    """Prints the rows as a table."""
    table = Table(title="warp, uint8 256 x 128 -> float32 24 x 3 x 32 x 32")
    for column in ("batch", "what", "median ms", "spread", "images/s", "of floor", "ratio"):
        table.add_column(column, justify="left" if column == "what" else "right", no_wrap=True)
    for row in result["rows"]:
        table.add_row(
            str(row["batch"]),
            row["name"],
            f"{1e3 * row['median_s']:.3f}",
            f"{100 * (row['p90_s'] - row['p10_s']) / row['median_s']:.0f} %",
            f"{row['images_per_s']:,.0f}",
            f"{100 * row['floor_share']:.1f} %",
            f"{row['times_dsa_fast']:.1f}",
        )
    Console().print(table)
    Console().print(f"copy rate {result['copy_bytes_per_s'] / 1e9:.1f} GB/s", highlight=False)


def main() -> None:
    """Parses the options and runs the suite."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--suite", choices=["warp", "eval"], default="warp", help="what to measure (default: %(default)s)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: %(default)s)")
    parser.add_argument("--peer", type=Path, help="eval: a checkout of torchreid with its Cython extension built")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--quick", action="store_true", help="small batches and little time, to see that it works")
    options = parser.parse_args()
    name = options.device
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
    result = {"suite": options.suite, "device": device.type, "machine": machine(device)}
    if options.suite == "eval":
        result |= evaluation.bench(device, options.quick, options.peer)
        evaluation.show(result)
    else:
        result |= bench_warp(device, Clock(device, 0.2 if options.quick else 2.0), options.quick)
        show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
