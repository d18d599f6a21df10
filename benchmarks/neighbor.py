"""The `neighbor` suite of run.py: CPU kernels on one and two threads, alone and next to a busy process.

The neighbor is one process that counts, with `nice 10`, on any core. It is stopped and continued in turn, so that all
times of a row are from the same minutes: short windows, whose median times are in the JSON with how many cores all
other processes used meanwhile. A row's time is the median of its windows. Windows alone in which others used more than
a twentieth of a core are left out, where there are others.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import chart
import evaluation
import torch
import warp
from common import print_table, say

import dsa_fast
from dsa_fast.configs.augment import AugmentConfig
from dsa_fast.data.transforms import Draws, augment_batch
from dsa_fast.ops.rank import nearest

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
QUIET = 0.05  # cores that others may use in a window alone
Task = Callable[[int], object]


def add_options(group: argparse._ArgumentGroup) -> None:
    """The suite's own options."""
    group.add_argument("--windows", type=int, default=8, help="windows of each measurement (default: %(default)s)")


def tasks(quick: bool, real: Path) -> Iterator[tuple[str, int, Task]]:
    """Makes the name, batch and function of each task, one after the other: large ones do not fit together."""
    generator = torch.Generator().manual_seed(0)
    pool = warp.real_people(real)
    for batch in (1, 8) if quick else BATCHES:
        number = max(2, min(16, 256 // batch))
        sets = [
            warp.people(batch, 256, 128, generator) if pool is None else warp.draw(pool, batch, generator)
            for _ in range(number)
        ]

        def last(i: int, sets: Any = sets) -> object:
            return dsa_fast.warp(*sets[i % len(sets)], size=32, dtype=torch.float32)

        def index_put(i: int, sets: Any = sets) -> object:
            img, iuv = sets[i % len(sets)]
            return warp.torch_scatter(img, iuv, 32)

        yield "dsa_fast warp", batch, last
        if batch in (8, 64):
            yield "PyTorch index_put", batch, index_put
    batch, config = 4 if quick else 64, AugmentConfig()
    images, iuv = warp.people(4 * batch, 128, 64, generator)
    draws = Draws.sample(batch, config, generator)
    sets_of = [list(range(k * batch, (k + 1) * batch)) for k in range(4)]
    yield (
        "dsa_fast training transform",
        batch,
        lambda i: augment_batch(images, iuv, draws, config, indices=sets_of[i % 4]),
    )
    for count in (1, 8):
        heads = [chart.people(count, torch.device("cpu"), generator) for _ in range(4)]
        yield "dsa_fast warp_densepose", count, partial(chart.ours, heads, "last")
    size = evaluation.QUICK if quick else (1000, 8000, 380)
    query, gallery = (part[0] for part in evaluation.make_set(size, 512))
    yield "dsa_fast nearest, 512 numbers", len(query), lambda i: nearest(query, gallery, 10, cosine=True)
    yield "PyTorch matrix product", len(query), lambda i: query @ gallery.T


@contextmanager
def busy_process() -> Iterator[subprocess.Popen[bytes]]:
    """Starts the neighbor, stopped."""
    process = subprocess.Popen([sys.executable, "-c", "import os; os.nice(10)\nwhile True: pass"])
    try:
        time.sleep(0.3)
        process.send_signal(signal.SIGSTOP)
        yield process
    finally:
        process.kill()
        process.wait()


def busy_seconds() -> float:
    """Returns the seconds that all cores together have worked so far; 0 where the system does not say."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _, _, irq, softirq, *_ = map(int, stat.read_text().split("\n", 1)[0].split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def window(run: Task, seconds: float) -> dict[str, float]:
    """Runs for some time. Returns the median and the shortest time, and how many cores other processes used."""
    times: list[float] = []
    begin, all_before, own_before = time.perf_counter(), busy_seconds(), time.process_time()
    while len(times) < 3 or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        run(len(times))
        times.append(time.perf_counter() - start)
    others = busy_seconds() - all_before - (time.process_time() - own_before)
    return {
        "median_s": statistics.median(times),
        "min_s": min(times),
        "others": max(0.0, others / (time.perf_counter() - begin)),
    }


def summary(windows: list[dict[str, float]], alone: bool) -> dict[str, Any]:
    """Makes a measurement of its windows."""
    quiet = [one for one in windows if one["others"] <= QUIET] if alone else []
    used = quiet or windows
    return {
        "median_s": statistics.median(one["median_s"] for one in used),
        "min_s": min(one["min_s"] for one in used),
        "others": statistics.median(one["others"] for one in used),
        "windows": len(used),
    }


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures every task on one and on all threads, alone and with the neighbor."""
    rows: list[dict[str, Any]] = []
    if options.device.type != "cpu":
        say("benchmarks: the neighbor suite is for the CPU")
        return {"rows": rows}
    most = torch.get_num_threads()
    seconds, number = options.seconds / 10, 1 if options.quick else options.windows
    try:
        with busy_process() as neighbor:
            for name, batch, task in tasks(options.quick, getattr(options, "real", None) or warp.default_real()):
                found: dict[tuple[int, bool], list[dict[str, float]]] = {}
                for _ in range(number):
                    for threads in sorted({1, most}):
                        torch.set_num_threads(threads)
                        for busy in (False, True):
                            neighbor.send_signal(signal.SIGCONT if busy else signal.SIGSTOP)
                            time.sleep(0.02)
                            task(0)
                            found.setdefault((threads, busy), []).append(window(task, seconds))
                            neighbor.send_signal(signal.SIGSTOP)
                for (threads, busy), windows in found.items():
                    row = {"name": name, "batch": batch, "threads": threads, "neighbor": busy}
                    rows.append(row | summary(windows, alone=not busy))
    finally:
        torch.set_num_threads(most)
    return {"load": list(os.getloadavg()), "rows": rows}


def show(result: dict[str, Any]) -> None:
    """Prints a row for each task: its times, and their ratios."""
    times: dict[tuple[str, int], dict[tuple[int, bool], dict[str, Any]]] = {}
    for row in result["rows"]:
        times.setdefault((row["name"], row["batch"]), {})[row["threads"], row["neighbor"]] = row
    lines = []
    for (name, batch), found in times.items():
        most = max(threads for threads, _ in found)
        one, alone, busy = found[1, False], found[most, False], found[most, True]
        lines.append(
            (
                name,
                str(batch),
                f"{1e3 * one['median_s']:.3f}",
                f"{1e3 * alone['median_s']:.3f}",
                f"{1e3 * busy['median_s']:.3f}",
                f"{alone['median_s'] / one['median_s']:.2f}",
                f"{busy['median_s'] / alone['median_s']:.2f}",
                f"{one['others']:.2f}, {alone['others']:.2f}",
            )
        )
    print_table(
        "one thread, all threads, and all threads next to a busy process",
        ("what", "batch", "one ms", "all ms", "busy ms", "all / one", "busy / all", "others' cores"),
        lines,
    )
