"""Builds and runs engines of TensorRT and TensorRT-RTX.

The code uses the API that TensorRT 10, TensorRT 11 and TensorRT-RTX share: strongly typed networks, named tensors,
`execute_async_v3`. The ONNX file sets the precision; no builder flag changes it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor

from dsa_fast.deploy.sidecar import BatchRange, InputSpec, Sidecar
from dsa_fast.extras import require
from dsa_fast.files import atomic_path

#: Kinds of exported files that are engines.
EngineKind = Literal["tensorrt", "tensorrt-rtx"]

_MODULES: dict[str, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}


def library(kind: EngineKind) -> ModuleType:
    """Imports the Python module of a kind of engine.

    Raises:
        ValueError: it is not installed.
    """
    return require(_MODULES[kind])


def version_key(kind: EngineKind) -> str:
    """Returns the kind's key in a sidecar's versions."""
    return _MODULES[kind]


def build_engine(
    source: Path,
    spec: InputSpec,
    batch: BatchRange,
    *,
    kind: EngineKind,
    tf32: bool = False,
    timing_cache: Path | None = None,
    compute_capabilities: Sequence[str] | None = None,
) -> bytes:
    """Builds an engine from an ONNX file. TensorRT needs the target GPU; TensorRT-RTX needs no GPU.

    Args:
        source: the ONNX file, in the precision of the engine.
        spec: the input's name and size.
        batch: the optimization profile.
        kind: the library that builds the engine.
        tf32: allow float32 convolutions to round their inputs to TF32.
        timing_cache: a file of kernel timings, read if it exists and written afterward. TensorRT-RTX measures nothing
            and ignores it.
        compute_capabilities: target GPUs of a TensorRT-RTX engine, such as ["8.6", "8.9"]; None for its default, 8.0,
            8.6, 8.9, 12.0 and later.

    Raises:
        ValueError: the library is not installed, does not build for a compute capability, or can't read or build the
            network; the message holds its log.
    """
    trt = library(kind)
    if compute_capabilities is not None and kind != "tensorrt-rtx":
        raise ValueError(f"compute_capabilities are only for tensorrt-rtx, got {list(compute_capabilities)}")
    log = make_logger(trt)
    builder = trt.Builder(log)
    strongly_typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # None if it is the only mode
    network = builder.create_network(0 if strongly_typed is None else 1 << int(strongly_typed))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(source.read_bytes()):
        errors = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        raise ValueError(f"{kind} {trt.__version__} must be able to read {source.name}, got: {errors}")
    config = builder.create_builder_config()
    if not tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    _choose_gpus(trt, config, compute_capabilities)
    profile = builder.create_optimization_profile()
    profile.set_shape(spec.name, *(spec.shape(size) for size in (batch.min, batch.opt, batch.max)))
    config.add_optimization_profile(profile)
    keeps_timings = timing_cache is not None and kind == "tensorrt"
    if keeps_timings:
        assert timing_cache is not None
        blob = timing_cache.read_bytes() if timing_cache.is_file() else b""
        cache = config.create_timing_cache(blob)
        if not config.set_timing_cache(cache, False):  # from another GPU or version: start a new one
            config.set_timing_cache(config.create_timing_cache(b""), False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ValueError(f"{kind} {trt.__version__} must be able to build {source.name}, got: {log.told()}")
    if keeps_timings:
        assert timing_cache is not None
        with atomic_path(timing_cache) as temporary:
            temporary.write_bytes(bytes(memoryview(config.get_timing_cache().serialize())))
    return bytes(memoryview(plan))


def _choose_gpus(trt: ModuleType, config: Any, compute_capabilities: Sequence[str] | None) -> None:
    if compute_capabilities is None:
        return
    known = {
        f"{int(value) // 10}.{int(value) % 10}": value
        for name, value in trt.ComputeCapability.__members__.items()
        if name.startswith("SM")
    }
    unknown = [each for each in compute_capabilities if each not in known]
    if unknown or not compute_capabilities:
        raise ValueError(
            f"compute_capabilities must be among {', '.join(known)} for tensorrt-rtx {trt.__version__}, "
            f"got {', '.join(unknown) or 'none'}"
        )
    config.num_compute_capabilities = len(compute_capabilities)
    for index, each in enumerate(compute_capabilities):
        config.set_compute_capability(known[each], index)


def make_logger(trt: ModuleType) -> Any:
    """Makes a logger that prints nothing and keeps errors for the next exception."""

    class Log(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                self.lines.append(message)

        def told(self) -> str:
            return " | ".join(self.lines[-3:]) or "no reason"

    return Log()


def check_fits(sidecar: Sidecar, installed: str, gpu: dict[str, str] | None) -> None:
    """Checks that this machine matches the one that an engine was built for.

    Args:
        sidecar: the engine's sidecar.
        installed: version of the installed library.
        gpu: name and compute capability of this machine's GPU; None without one.

    Raises:
        ValueError: the version of the library or the GPU differs, or there is no GPU; the message names all
            differences.
    """
    kind: Any = sidecar.kind
    differences = []
    built = sidecar.versions.get(version_key(kind), "unknown")
    if built != installed:
        differences.append(f"it was built by {kind} {built}, and {installed} is installed")
    if gpu is None:
        differences.append("it needs an NVIDIA GPU, and there is none that PyTorch can use")
    elif kind == "tensorrt":
        was = sidecar.gpu or {}
        for key, name in (("compute_capability", "compute capability"), ("name", "GPU")):
            if was.get(key) != gpu[key]:
                differences.append(f"it was built on {name} {was.get(key, 'unknown')}, and this one is {gpu[key]}")
    elif sidecar.compute_capabilities is not None and gpu["compute_capability"] not in sidecar.compute_capabilities:
        differences.append(
            f"it was built for compute capability {', '.join(sidecar.compute_capabilities)}, and this GPU "
            f"({gpu['name']}) has {gpu['compute_capability']}"
        )
    if differences:
        raise ValueError(f"{sidecar.file} must fit this machine, but {'; '.join(differences)}: export it here")


def describe_gpu(device: torch.device | None = None) -> dict[str, str] | None:
    """Returns name and compute capability of a GPU, or None if there is none."""
    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability(device)
    return {"name": torch.cuda.get_device_name(device), "compute_capability": f"{major}.{minor}"}


class Engine:
    """A loaded engine. It turns batches of images on the device into vectors on the device, enqueued on a stream.

    All sessions share one workspace, so use one stream at a time.

    Args:
        path: the engine.
        sidecar: its description.
        device: the GPU.
        runtime_cache: file for the kernels that TensorRT-RTX compiles on this machine; None for no file.

    Raises:
        ValueError: the library is missing, or the engine does not fit this machine or its sidecar.
    """

    def __init__(
        self, path: Path, sidecar: Sidecar, device: torch.device, *, runtime_cache: Path | None = None
    ) -> None:
        kind: Any = sidecar.kind
        self._kind: str = kind
        self._trt = trt = library(kind)
        check_fits(sidecar, trt.__version__, describe_gpu(device))
        self.path, self.sidecar, self.device, self.runtime_cache = path, sidecar, device, runtime_cache
        self._log = make_logger(trt)
        self._cache: Any = None
        self._runtime = trt.Runtime(self._log)
        plan = path.read_bytes()
        with torch.cuda.device(device):
            self._engine = self._runtime.deserialize_cuda_engine(plan)
            if self._engine is None:
                reasons = " | ".join([*diagnose(trt, self._runtime, plan), self._log.told()])
                raise ValueError(f"{path} must load in {self._kind} {trt.__version__}, got: {reasons}")
        check_tensors(trt, self._engine, sidecar)
        self._workspace = torch.empty(max(self._engine.device_memory_size_v2, 1), dtype=torch.uint8, device=device)

    def session(self) -> Callable[[Tensor, Tensor, int], None]:
        """Makes a function that enqueues a batch in its own execution context: enqueue(images, out, stream).

        `images` is contiguous, in the sidecar's layout and type, with a batch in its range. `out` is float32 [B, dim],
        contiguous. `stream` is a CUDA stream handle. The function raises ValueError if the engine refuses the shape,
        and RuntimeError if the engine fails.
        """
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        with torch.cuda.device(self.device):
            if self._kind == "tensorrt-rtx":
                context = self._engine.create_execution_context(self._configure(strategy))
            else:
                context = self._engine.create_execution_context(strategy)
        if context is None:
            raise ValueError(f"{self.path} must run on this GPU, got: {self._log.told()}")
        context.set_device_memory(self._workspace.data_ptr(), self._workspace.numel())
        image_name, out_name = self.sidecar.input.name, self.sidecar.output.name

        def enqueue(images: Tensor, out: Tensor, stream: int) -> None:
            if not context.set_input_shape(image_name, tuple(images.shape)):
                raise ValueError(
                    f"images must fit the engine's profile, got shape {list(images.shape)}: {self._log.told()}"
                )
            context.set_tensor_address(image_name, images.data_ptr())
            context.set_tensor_address(out_name, out.data_ptr())
            if not context.execute_async_v3(stream):
                raise RuntimeError(f"{self.path} failed: {self._log.told()}")

        return enqueue

    def _configure(self, strategy: Any) -> Any:
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        # Compile kernels for a new batch size before it runs, not later: a captured graph keeps its first kernels.
        config.dynamic_shapes_kernel_specialization_strategy = self._trt.DynamicShapesKernelSpecializationStrategy.EAGER
        if self.runtime_cache is not None:
            if self._cache is None:
                self._cache = config.create_runtime_cache()
                if self.runtime_cache.is_file():  # one from another GPU or version is refused and replaced
                    self._cache.deserialize(self.runtime_cache.read_bytes())
            config.set_runtime_cache(self._cache)
        return config

    def save_runtime_cache(self) -> None:
        """Saves the kernels that TensorRT-RTX compiled, for the next start."""
        if self._cache is None or self.runtime_cache is None:
            return
        blob = bytes(memoryview(self._cache.serialize()))
        try:
            with atomic_path(self.runtime_cache) as temporary:
                temporary.write_bytes(blob)
        except OSError as error:  # a read-only folder only makes the next start slower
            warnings.warn(f"the runtime cache was not saved: {error}", stacklevel=2)


def diagnose(trt: ModuleType, runtime: Any, plan: bytes) -> list[str]:
    """Returns the library's reasons why an engine is not valid here, such as UNSUPPORTED_CC; [] if there are none."""
    if not hasattr(runtime, "get_engine_validity"):  # TensorRT-RTX has it
        return []
    _, bits = runtime.get_engine_validity(plan[: runtime.engine_header_size])
    known = trt.EngineInvalidityDiagnostics.__members__
    return [name for name, value in known.items() if int(value) & int(bits)]


def check_tensors(trt: ModuleType, engine: Any, sidecar: Sidecar) -> None:
    """Raises ValueError unless the engine's tensors match the sidecar."""
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    expected = [sidecar.input.name, sidecar.output.name]
    if sorted(names) != sorted(expected):
        raise ValueError(f"{sidecar.file} must have the tensors {', '.join(expected)}, got {', '.join(names)}")
    batch = sidecar.batch
    rules = [
        (sidecar.input.name, tuple(sidecar.input.shape(-1)), getattr(trt, sidecar.input.dtype)),
        (sidecar.output.name, (-1, sidecar.output.dim), trt.float32),
    ]
    for name, shape, dtype in rules:
        got = tuple(engine.get_tensor_shape(name)), engine.get_tensor_dtype(name)
        if got != (shape, dtype):
            raise ValueError(
                f"{sidecar.file}: {name} must have shape {list(shape)} and type {dtype}, "
                f"got {list(got[0])} and {got[1]}"
            )
    low, best, high = (int(shape[0]) for shape in engine.get_tensor_profile_shape(sidecar.input.name, 0))
    if (low, best, high) != (batch.min, batch.opt, batch.max):
        raise ValueError(
            f"{sidecar.file} must have the batch profile {batch.min},{batch.opt},{batch.max}, got {low},{best},{high}"
        )
