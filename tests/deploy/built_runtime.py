"""The C++ runtime, built once for all tests, and small exported files for it."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pybind11 import get_cmake_dir

import dsa_fast

SOURCE = Path(__file__).resolve().parents[2]
HEIGHT, WIDTH, DIM = 48, 24, 32


def run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    parts = [str(part) for part in command]
    return subprocess.run(parts, capture_output=True, text=True, check=False, timeout=1800, **options)


def output(result: subprocess.CompletedProcess[str]) -> str:
    return f"{result.stdout[-5000:]}\n{result.stderr[-5000:]}"


def absent(reason: str) -> None:
    """Skips, or fails where the environment says that the runtime must be there."""
    if os.environ.get("DSA_FAST_REQUIRE_RUNTIME") == "1":
        pytest.fail(f"DSA_FAST_REQUIRE_RUNTIME=1, but {reason}")
    pytest.skip(reason)


def tool(name: str) -> str:
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        absent(f"{name} is not there")
    assert found is not None
    return found


def configure(build: Path, *options: str) -> subprocess.CompletedProcess[str]:
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    python = f"-DPython3_EXECUTABLE={sys.executable}"
    return run(tool("cmake"), "-S", SOURCE, "-B", build, *generator, python, "-DDSA_FAST_CUDA=OFF", *options)


@dataclass(frozen=True)
class Built:
    build: Path
    prefix: Path  # where it is installed

    @property
    def embed(self) -> Path:
        return self.prefix / "bin" / "dsa_embed"

    @property
    def packages(self) -> Path:
        """The folder of the Python package dsa_fast_runtime."""
        return self.prefix / "python"

    @property
    def probe(self) -> Path:
        return self.build / "tests" / "cpp" / "image_probe"


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The runtime with its OpenVINO back end, built and installed once for all test processes."""
    if importlib.util.find_spec("openvino") is None:
        absent("the Python package openvino is not there")
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        absent("a C++ compiler is not there")
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "runtime"
    root.mkdir(exist_ok=True)
    result = Built(root / "build", root / "prefix")
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (root / "done").exists():
            return result
        # Installing into lib/, whatever the system's custom: the tests look there. Optimized a little: compiling and
        # linking for Release takes longer than all tests. image.cpp has its -O3 still, and .ci/run checks the wheel.
        done = configure(
            *(result.build, "-DDSA_FAST_TENSORRT=OFF", "-DDSA_FAST_TENSORRT_RTX=OFF", "-DCMAKE_INSTALL_LIBDIR=lib"),
            *("-DCMAKE_BUILD_TYPE=RelWithDebInfo", "-DCMAKE_CXX_FLAGS_RELWITHDEBINFO=-O1 -DNDEBUG"),
            *("-DDSA_FAST_PYTHON=ON", f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={get_cmake_dir()}"),
        )
        assert done.returncode == 0, output(done)
        if "the runtime is left out: libraries are missing" in done.stdout:
            absent(next(line for line in done.stdout.splitlines() if "the runtime is left out" in line))
        assert "runtime and dsa_embed with openvino" in done.stdout, output(done)
        targets = ("dsa_embed", "dsa_runtime_openvino", "dsa_fast_kernels", "test_runtime", "test_tensorrt")
        targets += ("image_probe", "_native", "test_tensorrt_threads")
        jobs = str(len(os.sched_getaffinity(0)))
        done = run(tool("cmake"), "--build", result.build, "--parallel", jobs, "--target", *targets)
        assert done.returncode == 0, output(done)
        done = run(tool("cmake"), "--install", result.build, "--prefix", result.prefix)
        assert done.returncode == 0, output(done)
        done = run(tool("cmake"), "--install", result.build, "--prefix", result.packages, "--component", "python")
        assert done.returncode == 0, output(done)
        sources = SOURCE / "csrc" / "runtime" / "python" / "dsa_fast_runtime"
        shutil.copytree(sources, result.packages / "dsa_fast_runtime", dirs_exist_ok=True)
        (root / "done").touch()
    return result


def photo(height: int, width: int, seed: int) -> Image.Image:
    """Smooth colors with some noise, so that a JPEG of it is like one of a photo."""
    random = np.random.default_rng(seed)
    small = Image.fromarray(random.integers(0, 256, (4, 3, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), dtype=int)
    return Image.fromarray((smooth + random.integers(-12, 13, smooth.shape)).clip(0, 255).astype(np.uint8))


def make_engine(path: Path, layout: str = "NHWC", seed: int = 0, **changes: Any) -> Path:
    """A small network as ONNX, with its sidecar: uint8 images in, unit vectors out."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(seed)
    nodes, weights = [], {}

    def node(kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"x{len(nodes)}"
        nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def weight(name: str, values: Any, dtype: Any = np.float32) -> str:
        weights[name] = np.asarray(values, dtype=dtype)
        return name

    x = node("Cast", "images", to=TensorProto.FLOAT)
    if layout == "NHWC":
        x = node("Transpose", x, perm=[0, 3, 1, 2])
    x = node("Sub", x, weight("mean", np.array([124, 116, 104]).reshape(3, 1, 1)))
    x = node("Mul", x, weight("scale", np.full((3, 1, 1), 1 / 58)))
    for i, (before, after) in enumerate([(3, 16), (16, 24), (24, DIM)]):
        filters = random.standard_normal((after, before, 3, 3)) / np.sqrt(9 * before)
        bias = weight(f"b{i}", random.standard_normal(after) * 0.1)
        x = node("Relu", node("Conv", x, weight(f"w{i}", filters), bias, strides=[2, 2], pads=[1, 1, 1, 1]))
    x = node("Flatten", node("GlobalAveragePool", x))
    x = node("Sub", x, weight("middle", random.random(DIM) * 0.3))
    norm = node("ReduceL2", x, weight("axes", [1], np.int64), keepdims=1)
    nodes.append(helper.make_node("Div", [x, norm], ["embeddings"]))
    shape = ["N", HEIGHT, WIDTH, 3] if layout == "NHWC" else ["N", 3, HEIGHT, WIDTH]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["N", DIM])],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    write_sidecar(path, layout=layout, **changes)
    return path


def write_sidecar(path: Path, *, layout: str = "NHWC", **changes: Any) -> None:
    """The sidecar of a file as it is; `changes` replace fields, named like input__height."""
    data = path.read_bytes()
    sidecar: dict[str, Any] = {
        "format": "dsa_fast.artifact",
        "format_version": 1,
        "kind": "onnx",
        "file": path.name,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "model": {"stream": "mf", "class": "DSAReID", "backbone": "resnet50", "parameters": 1},
        "input": {"name": "images", "dtype": "uint8", "layout": layout, "channels": "RGB"},
        "output": {"name": "embeddings", "dtype": "float32", "dim": DIM, "normalized": True},
        "precision": "fp32",
        "batch": {"min": 1, "opt": 4, "max": 8},
        "versions": {"dsa_fast": dsa_fast.__version__},
        "gpu": None,
    }
    sidecar["input"] |= {"height": HEIGHT, "width": WIDTH, "mean": [0.5] * 3, "std": [0.2] * 3}
    for key, value in changes.items():
        *parents, last = key.split("__")
        place = sidecar
        for parent in parents:
            place = place[parent]
        place[last] = value
    Path(f"{path}.json").write_text(json.dumps(sidecar))
