"""Shared by the suites of run.py: the machine's description, the clock, the copy rate, tables and JSON.

A suite is a module in this folder with `run(options) -> dict` and `show(result)`. If it has its own options, it also
has `add_options(group)`. `options` holds the parsed options: `device` (a torch.device), `quick`, `seconds` and the
suite's own. The dict can be written as JSON and holds `rows`, a list of dicts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import dsa_fast


class Suite(Protocol):
    """The functions of a suite's module that run.py calls."""

    def run(self, options: argparse.Namespace) -> dict[str, Any]:
        """Measures and returns the results."""

    def show(self, result: dict[str, Any]) -> None:
        """Prints the result of `run`."""


INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8")  # the kernels' speed depends on these


def machine(device: torch.device) -> dict[str, Any]:
    """Describes everything that the times depend on."""
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
        lines = [line.partition(":")[::2] for line in cpuinfo.read_text().splitlines()]
        says = {name.strip(): value.strip() for name, value in lines}
        about["cpu"] = says.get("model name", about["cpu"])
        about["instructions"] = [name for name in INSTRUCTIONS if name in says.get("flags", "").split()]
    about["instructions_at_most"] = os.environ.get("DSA_FAST_CPU_CAPABILITY", "all")
    if device.type == "cuda":
        about["gpu"] = torch.cuda.get_device_name(device)
        about["cuda"] = torch.version.cuda
    return about


class Clock:
    """Times a function on one device: by CUDA events on a GPU, by the wall clock on a CPU."""

    def __init__(self, device: torch.device, seconds: float) -> None:
        self.device, self.seconds = device, seconds

    def __call__(self, run: Callable[[int], object]) -> list[float]:
        """Returns the seconds of each call `run(i)` after a warm-up, for at least 5 calls and the given time."""
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


def spread(times: Sequence[float]) -> dict[str, Any]:
    """Returns median, minimum, quantiles and count of the seconds, as the JSON holds them."""
    return {
        "median_s": statistics.median(times),
        "min_s": min(times),
        "p10_s": float(np.quantile(times, 0.1)),
        "p90_s": float(np.quantile(times, 0.9)),
        "runs": len(times),
    }


def copy_rate(clock: Clock) -> float:
    """Measures the bytes per second of a copy within the device's memory. Read and written bytes both count."""
    source = torch.empty(256 << 20, dtype=torch.uint8, device=clock.device).random_(0, 256)
    target = torch.empty_like(source)
    return 2 * source.numel() / statistics.median(clock(lambda i: target.copy_(source)))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table. All columns except one named "what" are aligned right."""
    table = Table(title=title)
    for column in columns:
        table.add_column(column, justify="left" if column == "what" else "right")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def say(text: str) -> None:
    """Prints a line below a table."""
    Console().print(text, highlight=False)


def write_json(path: Path, result: dict[str, Any]) -> None:
    """Writes a suite's results. Creates the folder if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
