"""The `runtime` suite of run.py: what Python adds to a network on a CPU, with PyTorch and without.

Each contender runs in fresh processes, in turns: from its start to the first vector (imports, loading, one image), the
memory that it then holds, and the time of one image after that. The files are an export of a small ResNet-18, and a
network of almost no work: there the time of a call is nearly all overhead. All run OpenVINO with one thread.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import print_table, say
from infer import rendered

from dsa_fast.configs.augment import AugmentConfig
from dsa_fast.deploy.export import NamedImages, export
from dsa_fast.deploy.sidecar import BatchRange, InputSpec, OutputSpec, Sidecar, write_sidecar
from dsa_fast.files import checksum
from dsa_fast.models import ModelConfig
from dsa_fast.training.module import ReIDTask

CONTENDERS = {
    "dsa_fast.Encoder, OpenVINO from Python": "sys.modules['dsa_fast_runtime'] = None\n"
    "from dsa_fast import Encoder\n"
    "encoder = Encoder.load(path, device='cpu', backend='openvino', threads=1)\n",
    "dsa_fast.Encoder, dsa_fast_runtime": "from dsa_fast import Encoder\n"
    "encoder = Encoder.load(path, device='cpu', backend='openvino', threads=1)\nassert encoder.native\n",
    "dsa_fast_runtime.Encoder": "from dsa_fast_runtime import Encoder\nencoder = Encoder(path, threads=1)\n",
}

_BEFORE = """
import sys, time
start, worked = time.perf_counter(), time.process_time()
path, height, width = {!r}, {}, {}
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
            for _ in range(rounds):
                for name in names:
                    code = _BEFORE.format(str(path), height, width) + CONTENDERS[name] + _AFTER.format(options.seconds)
                    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
                    if done.returncode:
                        raise SystemExit(f"benchmarks: {name} failed: {done.stderr[-500:]}")
                    found[name].append(json.loads(done.stdout))
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
    # Other jobs on the machine lengthen the times; the CPU time and the least times show it.
    return {"rows": rows, "vectors": "equal bit for bit", "load_average": [round(os.getloadavg()[1], 1)]}


def show(result: dict[str, Any]) -> None:
    """Prints the table."""
    columns = ("file", "name", "first vector, ms", "its CPU time, ms", "resident, MB", "one image, us", "least, us")
    keys = ("file", "name", "first_vector_ms", "first_vector_cpu_ms", "resident_mb", "p50_us", "least_us")
    rows = [[row[key] if isinstance(row[key], str) else f"{row[key]:.0f}" for key in keys] for row in result["rows"]]
    print_table("From an image to a vector on a CPU: what is not the network", columns, rows)
