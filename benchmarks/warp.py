"""The `warp` suite of run.py: from pixels to part images, compared with PyTorch and NumPy; a call's cost to the host.

Every contender's result is compared with `dsa_fast.ops.plain_reference` before it is timed. The floor is the number of
bytes (each read and written once) over a copy rate measured in the same run.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import deque
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, Literal

import chart
import numpy as np
import torch
from common import Clock, copy_rate, print_table, say, spread
from torch import Tensor

import dsa_fast
from dsa_fast.data.transforms import resize
from dsa_fast.densepose.iuv import read_iuv, resize_iuv
from dsa_fast.image import read_image
from dsa_fast.ops.plain_reference import warp_reference

PARTS = 24
REDUCTIONS: tuple[Literal["last", "mean"], ...] = ("last", "mean")


def people(batch: int, height: int, width: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Makes noise photos, and maps in which a person-like half of the pixels has smooth parts, u and v."""
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
    """Runs the vectorized PyTorch version, one index_put. It is undefined which of several pixels wins a texel."""
    batch, channels = img.shape[:2]
    part, row, column = iuv[:, 0].long(), iuv[:, 1].long() * size // 255, iuv[:, 2].long() * size // 255
    row, column = row.clamp(max=size - 1), column.clamp(max=size - 1)
    b, y, x = torch.nonzero(part > 0, as_tuple=True)
    out = torch.zeros(batch, PARTS, size, size, channels, device=img.device)
    out[b, part[b, y, x] - 1, row[b, y, x], column[b, y, x]] = img.permute(0, 2, 3, 1)[b, y, x].float()
    return out.permute(0, 1, 4, 2, 3).contiguous()


def torch_masked(img: Tensor, iuv: Tensor, size: int) -> Tensor:
    """Runs the same for torch.compile, without shapes that depend on values: background goes to a spare texel."""
    batch, channels = img.shape[:2]
    part, u, v = iuv.long().unbind(1)
    row, column = (u * size // 255).clamp(max=size - 1), (v * size // 255).clamp(max=size - 1)
    spare = PARTS * size * size
    texel = torch.where(part > 0, ((part - 1) * size + row) * size + column, spare).flatten(1)
    out = torch.zeros(batch, channels, spare + 1, device=img.device)
    out = out.scatter(2, texel[:, None].expand(-1, channels, -1), img.flatten(2).float())
    return out[:, :, :-1].reshape(batch, channels, PARTS, size, size).transpose(1, 2).contiguous()


def numpy_parts(img: np.ndarray, iuv: np.ndarray, size: int) -> np.ndarray:
    """Runs the usual NumPy loop over images and parts."""
    out = np.zeros((len(img), PARTS, img.shape[1], size, size), np.float32)
    for b in range(len(img)):
        rows = np.minimum(iuv[b, 1].astype(np.int64) * size // 255, size - 1)
        columns = np.minimum(iuv[b, 2].astype(np.int64) * size // 255, size - 1)
        for part in range(1, PARTS + 1):
            y, x = np.nonzero(iuv[b, 0] == part)
            out[b, part - 1][:, rows[y, x], columns[y, x]] = img[b][:, y, x]
    return out


def numpy_flat(img: np.ndarray, iuv: np.ndarray, size: int) -> np.ndarray:
    """Runs flat NumPy indexing of all parts of an image at once."""
    channels = img.shape[1]
    out = np.zeros((len(img), channels, PARTS * size * size), np.float32)
    for b in range(len(img)):
        part = iuv[b, 0].reshape(-1).astype(np.int32)
        where = np.flatnonzero(part)
        rows = np.minimum(iuv[b, 1].reshape(-1)[where].astype(np.int32) * size // 255, size - 1)
        columns = np.minimum(iuv[b, 2].reshape(-1)[where].astype(np.int32) * size // 255, size - 1)
        out[b][:, ((part[where] - 1) * size + rows) * size + columns] = img[b].reshape(channels, -1)[:, where]
    return np.ascontiguousarray(out.reshape(len(img), channels, PARTS, size, size).swapaxes(1, 2))


def default_real() -> Path:
    """Returns the folder of real photos with maps, which the tests use too."""
    shared = os.environ.get("DSA_FAST_SHARED", Path(__file__).resolve().parents[2] / "shared" / "data")
    return Path(shared) / "iuv"


def add_options(group: argparse._ArgumentGroup) -> None:
    """The suite's own options."""
    group.add_argument(
        "--real",
        type=Path,
        default=default_real(),
        help="folder of photos of single people with their maps, NAME_iuv.png (default: %(default)s); without it, rows "
        "of real people are skipped",
    )


def real_people(folder: Path) -> tuple[Tensor, Tensor] | None:
    """Reads photos [N, 3, 256, 128] and maps of upright people below a folder. Returns None if there are none."""
    images, maps = [], []
    for path in sorted(folder.rglob("*_[iI][uU][vV].png")):
        photos = [p for p in (path.with_name(path.stem[:-4] + suffix) for suffix in (".jpg", ".png")) if p.exists()]
        if not photos:
            continue
        photo, iuv = read_image(photos[0]), read_iuv(path)
        if photo.shape[0] == 3 and photo.shape[1] > photo.shape[2] and photo.shape[1:] == iuv.shape[1:]:
            images.append(resize(photo[None], (256, 128))[0])
            maps.append(resize_iuv(iuv, (256, 128)))
    return (torch.stack(images), torch.stack(maps)) if images else None


def draw(pool: tuple[Tensor, Tensor], batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draws a batch of people, with noise in the photos so that no two are equal."""
    chosen = torch.randint(len(pool[0]), (batch,), generator=generator)
    noise = torch.randint(0, 8, (batch, 3, 256, 128), dtype=torch.uint8, generator=generator)
    return pool[0][chosen] ^ noise, pool[1][chosen]


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures uint8 256 x 128 photos and maps -> float32 24 x 3 x 32 x 32."""
    size, generator = 32, torch.Generator().manual_seed(0)
    device, clock = options.device, Clock(options.device, options.seconds)
    rate = copy_rate(clock)
    real = real_people(options.real)
    if real is None:
        say(f"benchmarks: no real people in {options.real}; left out")
    rows: list[dict[str, Any]] = []
    inputs: dict[str, dict[str, float]] = {}
    for kind in ("synthetic",) if real is None else ("synthetic", "real"):
        for batch in (1, 16) if options.quick else (1, 16, 64, 256):
            # Enough different inputs that none stays in a cache from the previous call.
            number = max(2, min(64, 1024 // batch))
            if kind == "synthetic" or real is None:
                sets = [people(batch, 256, 128, generator) for _ in range(number)]
            else:
                sets = [draw(real, batch, generator) for _ in range(number)]
            count = dsa_fast.warp(*sets[0], size=size, return_count=True)[1]
            inputs[kind] = {
                "foreground": float((sets[0][1][:, 0] > 0).float().mean()),
                "touched_texels": float((count > 0).float().mean()),
            }
            arrays = [(img.numpy(), iuv.numpy()) for img, iuv in sets]
            sets = [(img.to(device), iuv.to(device)) for img, iuv in sets]
            img, iuv = (x[:1].cpu() for x in sets[0])
            floor = batch * (6 * 256 * 128 + 4 * PARTS * 3 * size * size) / rate
            ours = 0.0
            peers = contenders(sets, arrays if device.type == "cpu" else [], size)
            if not options.quick and batch >= 64 and can_compile(sets[0], size):
                peers["torch.compile scatter"] = compiled_scatter(sets, size)
            for name, contender in peers.items():
                verify(name, contender, img, iuv, size)
                if device.type == "cuda":
                    contender = keeping(contender, number)
                row = {"input": kind, "batch": batch, "name": name, **spread(clock(contender))}
                ours = ours or row["median_s"]
                row["images_per_s"] = batch / row["median_s"]
                row["floor_share"] = floor / row["median_s"]
                row["times_dsa_fast"] = row["median_s"] / ours
                rows.append(row)
            if device.type == "cuda":
                for reduce, dtype in product(REDUCTIONS, (torch.float32, torch.bfloat16)):
                    row = {"input": kind, "batch": batch, **replayed(clock, sets, size, reduce, dtype, rate)}
                    rows.append(row | {"times_dsa_fast": row["median_s"] / ours})
    result: dict[str, Any] = {"copy_bytes_per_s": rate, "inputs": inputs, "rows": rows}
    result["host"] = host_cost(device, rounds=3 if options.quick else 100)
    if device.type == "cuda":
        img, iuv = (x.to(device) for x in people(1, 256, 128, generator))
        result["one_image"] = one_image(clock, img, iuv, size)
    return result


def keeping(run: Callable[[int], Any], number: int) -> Callable[[int], Any]:
    """Keeps the last results, so that the next one is not written to memory that is still in a GPU's cache."""
    kept = deque((run(i) for i in range(number)), maxlen=number)
    return lambda i: kept.append(run(i))


def contenders(
    sets: list[tuple[Tensor, Tensor]], arrays: list[tuple[np.ndarray, np.ndarray]], size: int
) -> dict[str, Callable[[int], Any]]:
    """Maps names to functions that warp the i-th of the inputs, in turn. NumPy runs only if arrays are given."""

    def ours(reduce: Literal["last", "mean"]) -> Callable[[int], Tensor]:
        return lambda i: dsa_fast.warp(*sets[i % len(sets)], size=size, dtype=torch.float32, reduce=reduce)

    found: dict[str, Callable[[int], Any]] = {
        "dsa_fast last": ours("last"),
        "dsa_fast mean": ours("mean"),
        "PyTorch index_put": lambda i: torch_scatter(*sets[i % len(sets)], size),
    }
    if arrays:
        found["NumPy, per part"] = lambda i: numpy_parts(*arrays[i % len(arrays)], size)
        found["NumPy, flat"] = lambda i: numpy_flat(*arrays[i % len(arrays)], size)
    return found


_compiled = torch.compile(torch_masked, dynamic=False)


def can_compile(inputs: tuple[Tensor, Tensor], size: int) -> bool:
    """Compiles the peer for these inputs' shapes. Prints why and returns False if torch.compile does not work."""
    try:
        _compiled(*inputs, size)
    except Exception as error:  # many kinds: no compiler, no Triton
        say(f"benchmarks: torch.compile does not work here ({type(error).__name__}); left out")
        return False
    return True


def compiled_scatter(sets: list[tuple[Tensor, Tensor]], size: int) -> Callable[[int], Tensor]:
    """Returns a function that runs the compiled peer on the i-th of the inputs."""
    return lambda i: _compiled(*sets[i % len(sets)], size)


def replayed(
    clock: Clock,
    sets: list[tuple[Tensor, Tensor]],
    size: int,
    reduce: Literal["last", "mean"],
    dtype: torch.dtype,
    rate: float,
) -> dict[str, Any]:
    """Times a CUDA graph of one warp for each of the inputs: the device's time without the queueing."""
    name = f"dsa_fast {reduce}, CUDA graph, {str(dtype).removeprefix('torch.')}"
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = [dsa_fast.warp(img, iuv, size=size, reduce=reduce, dtype=dtype) for img, iuv in sets]
    graph.replay()
    got = kept[-1]
    img, iuv = (x[:1].cpu() for x in sets[-1])
    if not torch.equal(got[:1].cpu(), warp_reference(img, iuv, size=size, reduce=reduce, dtype=dtype)[0]):
        raise SystemExit(f"benchmarks: {name} does not give the reference's result; nothing is reported")
    batch = len(got)
    floor = batch * (6 * 256 * 128 + dtype.itemsize * PARTS * 3 * size * size) / rate
    row = {"name": name, **spread([time / len(sets) for time in clock(lambda i: graph.replay())])}
    return row | {"images_per_s": batch / row["median_s"], "floor_share": floor / row["median_s"]}


def one_image(clock: Clock, img: Tensor, iuv: Tensor, size: int, calls: int = 200) -> dict[str, Any]:
    """Measures what limits a small batch: the kernels that one warp queues, and the time to queue them."""

    def many(i: int) -> None:
        for _ in range(calls):
            dsa_fast.warp(img, iuv, size=size, dtype=torch.bfloat16)

    times = clock(many)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        dsa_fast.warp(img, iuv, size=size, dtype=torch.bfloat16)
        torch.cuda.synchronize()
    on_device = [event.name for event in profile.events() or () if "CUDA" in str(event.device_type)]
    return {"launches": on_device, **spread([time / calls for time in times])}


def host_cost(device: torch.device, rounds: int) -> dict[str, float]:
    """Measures the seconds of processor time that calls take, on photos so small that the kernels take almost none.

    Each figure is the best of some rounds. "operator" is what Python calls in the end, below all checks. On a GPU, the
    calls only queue their kernels.
    """
    img = torch.zeros(1, 3, 8, 8, dtype=torch.uint8, device=device)
    photo, grid = img.float(), torch.zeros(1, 4, 4, 2, device=device)
    heads = chart.Heads(*(torch.zeros(1, channels, 4, 4, device=device) for channels in (2, 25, 25, 25)))
    boxes, index = torch.zeros(1, 4, device=device), torch.zeros(1, dtype=torch.long, device=device)
    operator, charts = torch.ops.dsa_fast.warp_detached.default, torch.ops.dsa_fast.warp_densepose_detached.default
    options = (4, [0.0, 0.0, 0.0], "last", torch.float32)
    found = {}
    for name, call in {
        "warp": lambda: dsa_fast.warp(img, img, size=4, dtype=torch.float32),
        "warp, operator": lambda: operator(img, img, *options),
        "warp_densepose": lambda: dsa_fast.warp_densepose(img, heads, boxes, index, size=4, dtype=torch.float32),
        "warp_densepose, operator": lambda: charts(img, *vars(heads).values(), boxes, index, *options),
        "PyTorch grid_sample": lambda: torch.nn.functional.grid_sample(photo, grid, align_corners=False),
    }.items():
        found[name] = min(seconds_each(call, device) for _ in range(rounds))
    return found


def seconds_each(call: Callable[[], object], device: torch.device, calls: int = 500) -> float:
    """Returns this thread's seconds of processor time for each of many calls in turn."""
    begin = time.thread_time_ns()
    for _ in range(calls):
        call()
    seconds = (time.thread_time_ns() - begin) / calls / 1e9
    if device.type == "cuda":
        torch.cuda.synchronize()
    return seconds


def verify(name: str, run: Callable[[int], Any], img: Tensor, iuv: Tensor, size: int) -> None:
    """Stops the benchmark if a contender's first image is wrong."""
    got = torch.as_tensor(run(0))[:1].cpu()
    reduce = "mean" if name == "dsa_fast mean" else "last"
    expected, count = warp_reference(img, iuv, size=size, dtype=torch.float32, reduce=reduce)
    if "PyTorch" in name or "torch.compile" in name:  # its threads race, so any of several pixels may win a texel
        alone = (count <= 1)[:, :, None]
        got, expected = got * alone, expected * alone
    if not torch.equal(got, expected):
        raise SystemExit(f"benchmarks: {name} does not give the reference's result; nothing is reported")


def show(result: dict[str, Any]) -> None:
    """Prints the rows as a table."""
    print_table(
        "warp, uint8 256 x 128 -> float32 24 x 3 x 32 x 32",
        ("people", "batch", "what", "median ms", "best ms", "spread", "images/s", "of floor", "ratio"),
        [
            (
                row["input"],
                str(row["batch"]),
                row["name"],
                f"{1e3 * row['median_s']:.3f}",
                f"{1e3 * row['min_s']:.3f}",
                f"{100 * (row['p90_s'] - row['p10_s']) / row['median_s']:.0f} %",
                f"{row['images_per_s']:,.0f}",
                f"{100 * row['floor_share']:.1f} %",
                f"{row['times_dsa_fast']:.1f}",
            )
            for row in result["rows"]
        ],
    )
    for kind, about in result["inputs"].items():
        shares = (
            f"{100 * about['foreground']:.0f} % foreground, {100 * about['touched_texels']:.0f} % of the texels hit"
        )
        say(f"{kind} people: {shares}")
    if "one_image" in result:
        about = result["one_image"]
        say(f"one image: {1e6 * about['median_s']:.1f} us a call, queued: {', '.join(about['launches'])}")
    costs = (f"{name} {1e6 * seconds:.1f} us" for name, seconds in result["host"].items())
    say(f"a call on the host: {', '.join(costs)}")
    say(f"copy rate {result['copy_bytes_per_s'] / 1e9:.1f} GB/s")
