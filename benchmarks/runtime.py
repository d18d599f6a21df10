"""The `runtime` suite of run.py: what Python adds to a network on a CPU, with PyTorch and without.

Each contender runs in fresh processes, in turns: from its start to the first vector (imports, loading, one image), the
memory that it then holds, and the time of one image after that. The files are an export of a small ResNet-18, and a
network of almost no work: there the time of a call is nearly all overhead. All run OpenVINO with one thread.

Batches of 1 and 32 of the full-size MF-Stream with random weights are timed in fp32, in bf16 where the processor has
it, and in int8, next to ONNX Runtime and OpenVINO's own benchmark_app, in turns too.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import print_table, say
from infer import random_checkpoint, rendered

from dsa_fast.configs.augment import AugmentConfig
from dsa_fast.deploy.export import NamedImages, export
from dsa_fast.deploy.sidecar import BatchRange, InputSpec, OutputSpec, Precision, Sidecar, read_sidecar, write_sidecar
from dsa_fast.files import checksum
from dsa_fast.models import ModelConfig, load_model
from dsa_fast.training.module import ReIDTask

CONTENDERS = {
    "dsa_fast.Encoder, OpenVINO from Python": "sys.modules['dsa_fast_runtime'] = None\n"
    "from dsa_fast import Encoder\n"
    "encoder = Encoder.load(path, device='cpu', backend='openvino', threads=1, precision=precision)\n",
    "dsa_fast.Encoder, dsa_fast_runtime": "from dsa_fast import Encoder\n"
    "encoder = Encoder.load(path, device='cpu', backend='openvino', threads=1, precision=precision)\n"
    "assert encoder.native\n",
    "dsa_fast_runtime.Encoder": "from dsa_fast_runtime import Encoder\n"
    "encoder = Encoder(path, threads=1, precision=precision)\n",
}
_ONNX_RUNTIME = "dsa_fast.Encoder, ONNX Runtime"
_BENCHMARK_APP = "OpenVINO's benchmark_app"
_WAYS = {
    **CONTENDERS,
    _ONNX_RUNTIME: "from dsa_fast import Encoder\n"
    "encoder = Encoder.load(path, device='cpu', backend='onnxruntime', threads=1)\n",
}

_BEFORE = """
import sys, time
start, worked = time.perf_counter(), time.process_time()
path, height, width, precision = {!r}, {}, {}, {!r}
"""
_AFTER = """
import numpy
image = numpy.random.default_rng(0).integers(0, 256, (height, width, 3), numpy.uint8)
vector = encoder(image)
first, work = time.perf_counter() - start, time.process_time() - worked
import json, pathlib
status = dict(line.split(':', 1) for line in pathlib.Path('/proc/self/status').read_text().splitlines())
times = []
end = time.perf_counter() + {}
while len(times) < 200 or time.perf_counter() < end:
    begin = time.perf_counter()
    encoder(image)
    times.append(time.perf_counter() - begin)
times = sorted(times[20:])
print(json.dumps(dict(
    first_vector_ms=1e3 * first, first_vector_cpu_ms=1e3 * work, resident_mb=int(status['VmRSS'].split()[0]) / 1024,
    least_us=1e6 * times[0], p50_us=1e6 * times[len(times) // 2], vector=vector.tolist(),
)))
"""


_BATCH = """
import json, numpy
images = numpy.random.default_rng(0).integers(0, 256, ({0}, height, width, 3), numpy.uint8)
vectors = encoder(images)
encoder(images)
times, work = [], time.process_time()
end = time.perf_counter() + {1}
while len(times) < 5 or time.perf_counter() < end:
    begin = time.perf_counter()
    encoder(images)
    times.append(time.perf_counter() - begin)
work = (time.process_time() - work) / len(times)
times = sorted(times)
print(json.dumps(dict(p50_ms=1e3 * times[len(times) // 2], least_ms=1e3 * times[0], cpu_ms=1e3 * work,
                      vectors=numpy.asarray(vectors)[:2].tolist())))
"""


def small_export(path: Path) -> Path:
    """Exports a ResNet-18 of an eighth of its width, with random weights, for images of 64 x 32."""
    torch.manual_seed(0)
    model = ModelConfig(backbone="resnet18", pretrained=None, width=0.125, classifier_dim=16)
    task = ReIDTask(4, model, augment=AugmentConfig(size=(64, 32)))
    task.eval()
    checkpoint: dict[str, Any] = {"state_dict": task.state_dict()}
    task.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path.with_suffix(".ckpt"))
    images = NamedImages(rendered(2, (64, 32), 0), "rendered people")
    export(path.with_suffix(".ckpt"), path, images=images, batch=BatchRange(1, 1, 8))
    return path


def idle_export(path: Path) -> Path:
    """Writes a network of almost no work: the mean color of an image of 8 x 4, at length 1."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Cast", ["images"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x", "sides"], ["mean"], keepdims=0),
        helper.make_node("ReduceL2", ["mean", "last"], ["norm"], keepdims=1),
        helper.make_node("Div", ["mean", "norm"], ["embeddings"]),
    ]
    graph = helper.make_graph(
        nodes,
        "idle",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 8, 4, 3])],
        [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(np.array(v), name) for name, v in (("sides", [1, 2]), ("last", [1]))],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    sidecar = Sidecar(
        kind="onnx",
        file=path.name,
        bytes=path.stat().st_size,
        sha256=checksum(path),
        model={},
        input=InputSpec(8, 4),
        output=OutputSpec(3),
        precision="fp32",
        batch=BatchRange(1, 1, 8),
        versions={},
    )
    write_sidecar(path, sidecar)
    return path


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Runs every contender in fresh processes, in turns."""
    rounds = 1 if options.quick else 5
    installed = importlib.util.find_spec("dsa_fast_runtime") is not None
    if not installed:
        say("dsa_fast_runtime is not installed (pip install ./csrc/runtime): only dsa_fast is measured")
    names = [name for name in CONTENDERS if installed or "runtime" not in name]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        files = {
            "small ResNet-18, 64 x 32": (small_export(Path(folder, "small.onnx")), 64, 32),
            "almost no work, 8 x 4": (idle_export(Path(folder, "idle.onnx")), 8, 4),
        }
        for title, (path, height, width) in files.items():
            found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
            for turn in range(rounds):
                say(f"{title}: turn {turn + 1} of {rounds}")
                for name in names:
                    code = _BEFORE.format(str(path), height, width, "auto") + CONTENDERS[name]
                    found[name].append(fresh(name, code + _AFTER.format(options.seconds)))
            vectors = [each.pop("vector") for figures in found.values() for each in figures]
            if any(vector != vectors[0] for vector in vectors):
                raise SystemExit("benchmarks: the contenders' vectors differ, nothing is reported")
            for name, figures in found.items():
                row: dict[str, Any] = {"file": title, "name": name, "processes": rounds}
                for key in figures[0]:
                    values = [each[key] for each in figures]
                    row[key] = round(min(values) if key == "least_us" else statistics.median(values), 2)
                    if key == "first_vector_ms":
                        row["first_vector_least_ms"] = round(min(values), 2)
                rows.append(row)
        batches = run_batches(options, names, Path(folder), 1 if options.quick else 3)
    # Other jobs on the machine lengthen the times; the CPU time and the least times show it.
    load = [round(os.getloadavg()[1], 1)]
    return {"rows": rows, "batches": batches, "vectors": "equal bit for bit", "load_average": load}


def fresh(name: str, code: str) -> dict[str, Any]:
    """Runs a program in a fresh process, which prints JSON."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"benchmarks: {name} failed: {done.stderr[-500:]}")
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def run_batches(options: argparse.Namespace, names: list[str], folder: Path, rounds: int) -> list[dict[str, Any]]:
    """Times batches of 1 and 32, in every precision of this processor."""
    openvino = importlib.import_module("openvino")
    checkpoint = random_checkpoint(folder / "batches.ckpt", options.quick)
    images = rendered(16, load_model(checkpoint).size, 3)
    files: dict[Precision, Path] = {"fp32": folder / "batches_fp32.onnx", "int8": folder / "batches_int8.onnx"}
    for precision, path in files.items():
        export(
            checkpoint,
            path,
            images=NamedImages(images[:2], "rendered people"),
            precision=precision,
            calibration=NamedImages(images, "rendered people") if precision == "int8" else None,
            least_cosine=0.5,  # compared below
        )
    if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        files["bf16"] = files["fp32"]
    rows = []
    for precision, path in files.items():
        size = read_sidecar(path).input
        ways = [*names, _ONNX_RUNTIME, _BENCHMARK_APP] if precision != "bf16" else [*names, _BENCHMARK_APP]
        for batch in (1, 4) if options.quick else (1, 32):
            found: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
            for turn in range(rounds):
                say(f"{precision}, batch of {batch}: turn {turn + 1} of {rounds}")
                for name in ways:
                    if name == _BENCHMARK_APP:
                        found[name].append(benchmark_app(path, precision, batch, size.shape(batch), options.seconds))
                        continue
                    given = "bf16" if precision == "bf16" else "auto"
                    code = _BEFORE.format(str(path), size.height, size.width, given) + _WAYS[name]
                    found[name].append(fresh(name, code + _BATCH.format(batch, options.seconds)))
            vectors = {
                name: np.array([each.pop("vectors") for each in figures])
                for name, figures in found.items()
                if name != _BENCHMARK_APP
            }
            first = vectors[names[0]][0]
            if any((vectors[name] != first).any() for name in names):
                raise SystemExit(f"benchmarks: the vectors differ in {precision}, nothing is reported")
            for name, figures in found.items():
                row: dict[str, Any] = {"precision": precision, "batch": batch, "name": name, "processes": rounds}
                row |= {key: round(statistics.median(each[key] for each in figures), 3) for key in figures[0]}
                row["least_ms"] = round(min(each["least_ms"] for each in figures), 3)
                if name in vectors:
                    row["cosine_min"] = round(float((vectors[name] * first).sum(-1).min()), 6)
                rows.append(row)
    return rows


def benchmark_app(path: Path, precision: str, batch: int, shape: tuple[int, ...], seconds: float) -> dict[str, float]:
    """Runs the tool of OpenVINO's wheel, in its synchronous mode and one thread."""
    command = shutil.which("benchmark_app", path=str(Path(sys.executable).parent)) or "benchmark_app"
    sides = ",".join(map(str, shape))
    options = ["-m", str(path), "-d", "CPU", "-api", "sync", "-hint", "none", "-nstreams", "1", "-nthreads", "1"]
    options += ["-infer_precision", "bf16" if precision == "bf16" else "f32", "-shape", f"[{sides}]"]
    options += ["-t", str(max(1, round(seconds)))]
    done = subprocess.run([command, *options], capture_output=True, text=True, check=False)
    times = {key: re.search(rf"{key}:\s+([0-9.]+) ms", done.stdout) for key in ("Median", "Min")}
    if done.returncode or None in times.values():
        raise SystemExit(f"benchmarks: {_BENCHMARK_APP} failed: {(done.stdout + done.stderr)[-500:]}")
    return {key: float(times[word].group(1)) for key, word in (("p50_ms", "Median"), ("least_ms", "Min"))}  # type: ignore[union-attr]


def show(result: dict[str, Any]) -> None:
    """Prints the table."""
    columns = ("file", "name", "first vector, ms", "its CPU time, ms", "resident, MB", "one image, us", "least, us")
    keys = ("file", "name", "first_vector_ms", "first_vector_cpu_ms", "resident_mb", "p50_us", "least_us")
    rows = [[row[key] if isinstance(row[key], str) else f"{row[key]:.0f}" for key in keys] for row in result["rows"]]
    print_table("From an image to a vector on a CPU: what is not the network", columns, rows)
    rows = [
        [row["precision"], str(row["batch"]), row["name"]]
        + [f"{row[key]:.2f}" if key in row else "" for key in ("p50_ms", "least_ms", "cpu_ms")]
        for row in result["batches"]
    ]
    print_table(
        "Batches in one thread", ("precision", "batch", "name", "p50, ms", "least, ms", "its CPU time, ms"), rows
    )
