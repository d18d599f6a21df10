"""`Encoder` turns images into vectors with a checkpoint, an ONNX file or an engine."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsa_fast.deploy.cuda import CudaRunner, Enqueue
from dsa_fast.deploy.embedding_network import EmbeddingNetwork
from dsa_fast.deploy.image_batch import ImageBatch, Images, OneImage, chunks, to_input
from dsa_fast.deploy.sidecar import SUFFIXES, BatchRange, InputSpec, OutputSpec, Sidecar, read_sidecar
from dsa_fast.deploy.tensorrt import Engine
from dsa_fast.deploy.verification import Verdict, judge
from dsa_fast.device import pick_device
from dsa_fast.extras import require
from dsa_fast.files import utf8_name
from dsa_fast.version import __version__

Backend = Literal["auto", "torch", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx"]
EncoderPrecision = Literal["auto", "fp32", "fp16", "bf16"]

_HOST_BATCH = 32  # on a CPU, larger batches are not faster and do not fit the caches


class HostBackend(Protocol):
    """Runs a batch on the CPU, from any thread: images as the file takes them -> float32 [B, dim]."""

    def __call__(self, images: NDArray[Any]) -> NDArray[np.float32]: ...


class Encoder:
    """Turns images into vectors of length 1. Their inner products are cosines. Threads can share an encoder.

    `Encoder.load` makes an encoder.

    Attributes:
        path: its file.
        backend: the library that runs it: torch, onnxruntime, openvino, tensorrt or tensorrt-rtx.
        device: the device that it runs on.
        size: height and width that images are resized to, as in the evaluation.
        dim: length of a vector.
        precision: actual precision of the convolutions; `int8` for a quantized file.
        sidecar: the description of an exported file; None for a checkpoint.
        native: whether `dsa_fast_runtime` runs the file, which also resizes the images.
        needs_iuv: False, as for every `dsa_fast.evaluation.Embedder` of images alone.
    """

    needs_iuv = False

    def __init__(
        self,
        path: Path,
        backend: str,
        device: torch.device,
        precision: str,
        spec: InputSpec,
        output: OutputSpec,
        batch: BatchRange,
        run: HostBackend | CudaRunner | _Native,
        sidecar: Sidecar | None = None,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        self.path, self.backend, self.device, self.precision = path, backend, device, precision
        self.spec, self.batch, self.sidecar = spec, batch, sidecar
        self.size, self.dim = (spec.height, spec.width), output.dim
        self._run, self._on_close = run, on_close
        self.native = isinstance(run, _Native)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        device: str = "auto",
        backend: Backend = "auto",
        precision: EncoderPrecision = "auto",
        threads: int | None = None,
        cuda_graphs: bool = True,
        compile: bool = False,
        runtime_cache: str | os.PathLike[str] | None = None,
    ) -> Encoder:
        """Loads a checkpoint of `dsa-fast fit`, or a file of `dsa-fast export` with its sidecar.

        Args:
            path: `.ckpt`, `.onnx` or `.engine`; a folder of `dsa_fast.models.save_pretrained`; a model of the Hugging
                Face hub, `hf://user/repo`, or an exported file in it, `hf://user/repo/mf.onnx`.
            device: `auto`, `cpu`, `cuda`, `cuda:1`. `auto` is a GPU if the backend can use one.
            backend: the library that runs it. `auto` is PyTorch for a checkpoint, and the library that built an engine.
                For ONNX it is ONNX Runtime on a GPU. On a CPU it is OpenVINO if installed, because it is faster,
                otherwise ONNX Runtime.
            precision: precision of the convolutions, for a checkpoint, and for a floating-point ONNX file with
                OpenVINO. `auto` is the file's own (float32 for a checkpoint). On a processor without float16, OpenVINO
                computes fp16 in float32.
            threads: number of CPU threads; None for PyTorch's number.
            cuda_graphs: on a GPU, run batches up to 64 as CUDA graphs (not with ONNX Runtime).
            compile: for a checkpoint, use `torch.compile`. Each new batch size may take seconds at its first use.
            runtime_cache: file for the kernels that TensorRT-RTX compiles; by default FILE.cache next to the engine.

        Raises:
            FileNotFoundError: the file or its sidecar is missing.
            ValueError: the file is damaged or does not fit this machine (the message names the difference), the library
                is not installed, or an option does not apply to the file.
        """
        path = cls._find(path)
        if backend not in get_args(Backend):
            raise ValueError(f"backend must be one of {', '.join(get_args(Backend))}, got {backend!r}")
        if precision not in get_args(EncoderPrecision):
            raise ValueError(f"precision must be one of {', '.join(get_args(EncoderPrecision))}, got {precision!r}")
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        threads = threads or torch.get_num_threads()
        if path.suffix == ".ckpt" or path.is_dir():
            if backend not in ("auto", "torch"):
                raise ValueError(f"backend must be torch for a checkpoint, got {backend}: run dsa-fast export first")
            return cls._load_checkpoint(path, pick_device(device), precision, cuda_graphs, compile)
        if compile:
            raise ValueError(f"compile is for checkpoints, got {path}")
        sidecar = read_sidecar(path)
        if sidecar.kind == "onnx":
            return cls._load_onnx(path, sidecar, device, backend, precision, threads)
        if backend not in ("auto", sidecar.kind):
            raise ValueError(f"backend must be {sidecar.kind} for {path}, got {backend}")
        if precision not in ("auto", sidecar.precision):
            raise ValueError(f"precision of {path} is {sidecar.precision} since its export, got {precision}")
        return cls._load_engine(path, sidecar, device, cuda_graphs, runtime_cache)

    @staticmethod
    def _find(path: str | os.PathLike[str]) -> Path:
        """Downloads what is on the hub: an exported file with its sidecar, or the folder of a model."""
        name = os.fspath(path)
        if not name.startswith("hf://"):
            return Path(path)
        from dsa_fast.models.hub import download

        if name.endswith(tuple(SUFFIXES.values())):
            download(f"{name}.json")
            return download(name)
        download(f"{name}/model.safetensors")
        return download(f"{name}/config.json").parent

    @classmethod
    def _load_checkpoint(
        cls, path: Path, device: torch.device, precision: str, graphs: bool, compiled: bool
    ) -> Encoder:
        # They import torchvision, which an exported file does not need.
        from dsa_fast.models import load_model
        from dsa_fast.models.hub import from_pretrained

        loaded = from_pretrained(path) if path.is_dir() else load_model(path)
        precision = "fp32" if precision == "auto" else precision
        network = EmbeddingNetwork(loaded.model, precision=precision)  # type: ignore[arg-type]
        network = network.to(device).to(memory_format=torch.channels_last)
        spec = InputSpec(*loaded.size)
        output, batch = OutputSpec(network.dim), BatchRange(1, 8, 256)
        run = torch_runner(network, spec, batch, device, graphs=graphs, compiled=compiled)
        return cls(path, "torch", device, precision, spec, output, batch, run)

    @classmethod
    def _load_onnx(
        cls, path: Path, sidecar: Sidecar, device: str, backend: str, precision: str, threads: int
    ) -> Encoder:
        if backend not in ("auto", "onnxruntime", "openvino"):
            raise ValueError(f"backend must be onnxruntime or openvino for {path}, got {backend}")
        if device == "auto":
            place = torch.device("cuda" if backend != "openvino" and _onnx_on_cuda() else "cpu")
        else:
            place = pick_device(device)
        if backend == "auto":
            has_openvino = _installed("openvino") and place.type == "cpu"
            backend = "openvino" if has_openvino or sidecar.precision == "bf16" else "onnxruntime"
        run: HostBackend | CudaRunner | _Native
        if backend == "openvino":
            if place.type != "cpu":
                raise ValueError(f"device must be cpu for OpenVINO, got {place}")
            runtime = find_runtime()
            if runtime is not None:
                run = _Native(runtime, path, sidecar, precision, threads)
                return cls(
                    path, backend, place, run.precision, sidecar.input, sidecar.output, sidecar.batch, run, sidecar
                )
            run = _OpenVino(path, sidecar, sidecar.precision if precision == "auto" else precision, threads)
            precision = sidecar.precision if sidecar.precision == "int8" else run.precision
        else:
            if precision not in ("auto", sidecar.precision):
                raise ValueError(
                    f"precision must be the file's own with ONNX Runtime, {sidecar.precision}, got {precision}: "
                    "export it in that precision"
                )
            if sidecar.precision == "bf16" and place.type == "cpu":
                raise ValueError(f"{path} is in bf16, which ONNX Runtime can't run on a CPU: use OpenVINO")
            precision = sidecar.precision
            run = _onnx_cuda(path, sidecar, place) if place.type == "cuda" else _OnnxCpu(path, sidecar, threads)
        return cls(path, backend, place, precision, sidecar.input, sidecar.output, sidecar.batch, run, sidecar)

    @classmethod
    def _load_engine(
        cls, path: Path, sidecar: Sidecar, device: str, graphs: bool, cache: str | os.PathLike[str] | None
    ) -> Encoder:
        place = torch.device("cuda") if device == "auto" else pick_device(device)
        if place.type != "cuda":
            raise ValueError(f"device must be cuda for {path}, a {sidecar.kind} engine, got {device}")
        kept = path.with_name(path.name + ".cache") if cache is None else Path(cache)
        engine = Engine(path, sidecar, place, runtime_cache=kept)
        spec, output, batch = sidecar.input, sidecar.output, sidecar.batch
        runner = CudaRunner(engine.session, spec, output.dim, batch, place, graphs=graphs)
        close = engine.save_runtime_cache
        return cls(path, sidecar.kind, place, sidecar.precision, spec, output, batch, runner, sidecar, close)

    def __call__(self, images: Images, *, channels: Literal["RGB", "BGR"] = "RGB") -> NDArray[np.float32] | Tensor:
        """Embeds one or many images.

        Args:
            images: in any sizes (they are resized as in the evaluation): uint8 arrays [H, W, 3] or [B, H, W, 3],
                uint8 tensors [3, H, W] or [B, 3, H, W] on any device, PIL images, paths of files, or a sequence of
                single images. PIL images and files are turned upright according to their EXIF orientation. A CUDA
                tensor of the network's size, in the memory format of its layout (channels_last for NHWC), is read in
                place, and the host does not wait for the GPU. An empty sequence gives [0, D].
            channels: order of the channels of arrays and tensors, `BGR` as from OpenCV. PIL images and files are always
                read as RGB.

        Returns:
            float32 [D] for one image, [N, D] for many: a tensor on the images' device if they are tensors,
            otherwise an array. Vectors have length 1.

        Raises:
            TypeError: `images` has another type, or does not have 8 bits.
            ValueError: a shape is wrong, or a file can't be read.
        """
        most = max(self.batch.min, min(self.batch.max, _HOST_BATCH))
        if (
            isinstance(self._run, _Native)
            and isinstance(images, np.ndarray)
            and (images.ndim == 3 or (images.ndim == 4 and len(images) <= most))
        ):
            return self._run(images, channels)  # nothing to do here: the shortest way for one image
        given = ImageBatch(images, channels)
        if len(given) == 0:
            vectors = torch.empty(0, self.dim)
        elif not isinstance(self._run, CudaRunner):
            vectors = torch.cat([self._on_host(given, *part) for part in chunks(len(given), most)])
        elif given.device.type == "cuda":
            whole = given.read(0, len(given), self.size).to(self.device)
            vectors = self._run.from_device(to_input(whole, self.spec))
        else:

            def fill(start: int, stop: int, buffer: Tensor) -> None:
                buffer.copy_(to_input(given.read(start, stop, self.size), self.spec))

            vectors = self._run.from_host(len(given), fill)
        return given.deliver(vectors)

    def _on_host(self, given: ImageBatch, start: int, stop: int) -> Tensor:
        if isinstance(self._run, _Native):
            return torch.from_numpy(self._run(given.arrays(start, stop)))
        assert not isinstance(self._run, CudaRunner)
        part = to_input(given.read(start, stop, self.size).cpu(), self.spec)
        if stop - start < self.batch.min:
            part = torch.cat([part, part.new_zeros(self.spec.shape(self.batch.min - len(part)))])
        return torch.from_numpy(np.array(self._run(part.numpy())))[: stop - start]

    def verify(
        self, a: OneImage, b: OneImage, *, fmr: float = 1e-3, channels: Literal["RGB", "BGR"] = "RGB"
    ) -> Verdict:
        """Tells whether two images show the same person.

        Args:
            a: an image.
            b: another image.
            fmr: false match rate whose threshold decides, one of those that the file was calibrated for.
            channels: see `__call__`.

        Raises:
            TypeError, ValueError: see `__call__`; or the file has no calibration, or none for this rate.
        """
        verification = None if self.sidecar is None else self.sidecar.verification
        judge(verification, self.path, 0.0, fmr)  # refuses before any work
        first, second = np.asarray(torch.as_tensor(self([a, b], channels=channels)).cpu())
        return judge(verification, self.path, float(first @ second), fmr)

    def embed_batch(self, images: Tensor) -> Tensor:
        """Embeds one batch without splitting or padding it.

        Args:
            images: uint8 [B, 3, H, W] of the network's size, B within `batch`.

        Returns:
            float32 [B, D], on the CPU.

        Raises:
            ValueError: another shape.
        """
        if (
            images.ndim != 4
            or images.shape[1:] != (3, *self.size)
            or not self.batch.min <= len(images) <= self.batch.max
        ):
            raise ValueError(
                f"images must have shape [B, 3, {self.size[0]}, {self.size[1]}] with B in "
                f"{self.batch.min}..{self.batch.max}, got {list(images.shape)}"
            )
        if isinstance(self._run, CudaRunner):
            return self._run.from_device(to_input(images.to(self.device), self.spec)).cpu()
        if isinstance(self._run, _Native):
            return torch.from_numpy(self._run(images.permute(0, 2, 3, 1).cpu().numpy()))
        return torch.from_numpy(np.array(self._run(to_input(images.cpu(), self.spec).numpy())))

    def close(self) -> None:
        """Saves the kernels that TensorRT-RTX compiled on this machine, for the next start."""
        if self._on_close is not None:
            self._on_close()

    def __enter__(self) -> Encoder:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        height, width = self.size
        return (
            f"Encoder({str(self.path)!r}, backend={self.backend!r}, device={str(self.device)!r}, "
            f"precision={self.precision!r}, size=({height}, {width}), dim={self.dim})"
        )


def torch_runner(
    network: EmbeddingNetwork,
    spec: InputSpec,
    batch: BatchRange,
    device: torch.device,
    *,
    graphs: bool = True,
    compiled: bool = False,
) -> HostBackend | CudaRunner:
    """Runs a network with PyTorch, on the network's device."""
    module: Callable[[Tensor], Tensor] = torch.compile(network, dynamic=False) if compiled else network

    def on_host(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            vectors: NDArray[np.float32] = module(torch.from_numpy(images)).numpy()
        return vectors

    if device.type == "cpu":
        return on_host

    def session() -> Enqueue:
        def enqueue(images: Tensor, out: Tensor, stream: int) -> None:
            del stream  # it is the current one
            with torch.no_grad():
                out.copy_(module(images))

        return enqueue

    return CudaRunner(session, spec, network.dim, batch, device, graphs=graphs)


class _OnnxCpu:
    def __init__(self, path: Path, sidecar: Sidecar, threads: int) -> None:
        runtime = require("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            with utf8_name(path) as name:
                self._session = runtime.InferenceSession(name, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no common base class
            raise ValueError(f"{path} must run in ONNX Runtime {runtime.__version__}, got: {error}") from error
        (given,), (made,) = self._session.get_inputs(), self._session.get_outputs()
        _check_tensors(path, sidecar, (given.name, given.shape), (made.name, made.shape))

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        vectors: NDArray[np.float32] = self._session.run(None, {self._session.get_inputs()[0].name: images})[0]
        return vectors


class _Native:
    """Runs a file with `dsa_fast_runtime`, which knows the same rules and returns the same vectors."""

    def __init__(self, runtime: ModuleType, path: Path, sidecar: Sidecar, precision: str, threads: int) -> None:
        # Batches are split here, so embed_batch runs each one as it is.
        self._encoder = runtime.Encoder(path, batch=sidecar.batch.max, threads=threads, precision=precision)
        self.precision: str = self._encoder.precision

    def __call__(self, images: Any, channels: str = "RGB") -> NDArray[np.float32]:
        vectors: NDArray[np.float32] = self._encoder(images, channels=channels)
        return vectors


def find_runtime() -> ModuleType | None:
    """Returns `dsa_fast_runtime` if it is installed in this package's version and its OpenVINO loads, else None."""
    if not _installed("dsa_fast_runtime"):
        return None
    runtime = importlib.import_module("dsa_fast_runtime")
    return runtime if runtime.__version__ == __version__ and runtime.available("onnx") else None


_OPENVINO_TYPES = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}


@functools.cache
def _openvino_core() -> Any:
    """One for the process, never destroyed.

    OpenVINO's CPU plugin gives the thread that makes it another signal stack, and frees that when it is destroyed. A
    thread that is left with a freed stack, by a second plugin, ends the process at the next signal.
    """
    return require("openvino").Core()


class _OpenVino:
    def __init__(self, path: Path, sidecar: Sidecar, precision: str, threads: int) -> None:
        openvino = require("openvino")
        core = _openvino_core()
        precision = openvino_precision(precision, core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": _OPENVINO_TYPES[precision],
        }
        try:
            with utf8_name(path) as name:
                self._model = core.compile_model(name, "CPU", options)
        except Exception as error:  # RuntimeError and OpenVINO's own errors
            raise ValueError(f"{path} must run in OpenVINO {openvino.__version__}, got: {error}") from error
        given, made = self._model.input(0), self._model.output(0)
        shapes = [[-1 if size.is_dynamic else size.get_length() for size in x.partial_shape] for x in (given, made)]
        _check_tensors(path, sidecar, (given.any_name, shapes[0]), (made.any_name, shapes[1]))
        hint = self._model.get_property("INFERENCE_PRECISION_HINT").get_type_name()  # may be lower than requested
        self.precision = next(name for name, kind in _OPENVINO_TYPES.items() if kind == hint)
        self._rescale = self.precision != "fp32"  # OpenVINO runs the end of the graph in that precision too
        self._requests = threading.local()  # threads must not share a request

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        if not hasattr(self._requests, "own"):
            self._requests.own = self._model.create_infer_request()
        vectors: NDArray[np.float32] = self._requests.own.infer([images], share_inputs=True)[0]
        return unit(vectors) if self._rescale else vectors


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scales vectors [N, D] to length 1, with the arithmetic of `dsa_fast_runtime`: sums in float64, in order."""
    squares = np.square(vectors.astype(np.float64))
    lengths = np.sqrt(np.add.accumulate(squares, axis=1)[:, -1:])
    return (vectors / lengths).astype(np.float32)


def openvino_precision(precision: str, capabilities: Sequence[str]) -> str:
    """Chooses the floating-point precision that OpenVINO computes a file in.

    Args:
        precision: precision of the file, or the requested one: fp32, fp16, bf16 or int8.
        capabilities: the processor's OPTIMIZATION_CAPABILITIES, such as BF16.

    Returns:
        fp32, fp16 or bf16. For int8, it applies to everything except 8-bit convolutions.
    """
    if precision == "int8":
        return "bf16" if "BF16" in capabilities else "fp32"
    if precision == "fp16" and "FP16" not in capabilities:
        return "fp32"  # for fp16, OpenVINO would silently use bfloat16, which has three bits fewer
    return precision


def _onnx_cuda(path: Path, sidecar: Sidecar, device: torch.device) -> CudaRunner:
    runtime = require("onnxruntime")
    if "CUDAExecutionProvider" not in runtime.get_available_providers():
        raise ValueError(
            "device cuda needs onnxruntime-gpu, got an ONNX Runtime without CUDA: pip install onnxruntime-gpu"
        )
    index = torch.cuda.current_device() if device.index is None else device.index
    stream = torch.cuda.Stream(device)
    provider = ("CUDAExecutionProvider", {"device_id": index, "user_compute_stream": str(stream.cuda_stream)})
    try:
        with utf8_name(path) as name:
            session = runtime.InferenceSession(name, providers=[provider])
    except Exception as error:
        raise ValueError(f"{path} must run in ONNX Runtime {runtime.__version__}, got: {error}") from error
    if "CUDAExecutionProvider" not in session.get_providers():
        raise ValueError(f"device {device} can't be used by ONNX Runtime {runtime.__version__}: CUDA did not load")
    (given,), (made,) = session.get_inputs(), session.get_outputs()
    _check_tensors(path, sidecar, (given.name, given.shape), (made.name, made.shape))
    dtype = np.dtype(sidecar.input.dtype).type
    options = runtime.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def enqueue(images: Tensor, out: Tensor, stream: int) -> None:
        binding = session.io_binding()
        binding.bind_input(given.name, "cuda", index, dtype, tuple(images.shape), images.data_ptr())
        binding.bind_output(made.name, "cuda", index, np.float32, tuple(out.shape), out.data_ptr())
        session.run_with_iobinding(binding, options)

    return CudaRunner(
        lambda: enqueue,
        sidecar.input,
        sidecar.output.dim,
        sidecar.batch,
        device,
        graphs=False,  # its session allocates while it runs
        stream=stream,
    )


def _check_tensors(path: Path, sidecar: Sidecar, given: tuple[str, list[Any]], made: tuple[str, list[Any]]) -> None:
    """Raises ValueError unless the file's input and output match the sidecar."""
    expected = [
        (sidecar.input.name, list(sidecar.input.shape(-1))[1:]),
        (sidecar.output.name, [sidecar.output.dim]),
    ]
    for (name, shape), (got_name, got_shape) in zip(expected, (given, made), strict=True):
        if (name, shape) != (got_name, list(got_shape)[1:]):
            raise ValueError(
                f"{path} must have the tensor {name} [B, {', '.join(map(str, shape))}] as its sidecar says, "
                f"got {got_name} {got_shape}"
            )


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _onnx_on_cuda() -> bool:
    if not torch.cuda.is_available() or not _installed("onnxruntime"):
        return False
    providers = require("onnxruntime").get_available_providers()
    return "CUDAExecutionProvider" in providers
