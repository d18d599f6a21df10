"""`Encoder`: images in, unit vectors out."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from dsa_fast_runtime import _native

if TYPE_CHECKING:  # NumPy is imported with the first result
    import numpy as np
    from numpy.typing import NDArray

    class DLPackArray(Protocol):
        """An array of another library, such as a tensor."""

        def __dlpack__(self, *, stream: Any = None) -> Any: ...
        def __dlpack_device__(self) -> Any: ...

    #: uint8 RGB [H, W, 3], as an array, any buffer or a DLPack array, or the path or the bytes of a JPEG or PNG file.
    OneImage = NDArray[np.uint8] | DLPackArray | bytes | bytearray | memoryview | str | os.PathLike[str]
    #: One image, uint8 [B, H, W, 3], or a sequence of single images of any sizes.
    Images = OneImage | Sequence[OneImage]

#: Of each kind of exported file: the library, its Python package, and the folder and file in it.
_LIBRARIES = {
    "onnx": ("openvino", "OpenVINO", "openvino", "libs", "libopenvino.so.*"),
    "tensorrt": ("tensorrt", "TensorRT", "tensorrt_libs", ".", "libnvinfer.so.*"),
    "tensorrt-rtx": ("tensorrt_rtx", "TensorRT-RTX", "tensorrt_rtx_libs", ".", "libtensorrt_rtx.so.*"),
}


@dataclass(frozen=True)
class Verdict:
    """The answer of `Encoder.verify`.

    Attributes:
        cosine: of the two vectors.
        probability: that both images show one person, if that is as likely as not beforehand.
        same: whether the cosine reaches the threshold.
        threshold: for the false match rate.
        fmr: the false match rate: the share of pairs of strangers that reach the threshold.
        data: the data set of the calibration.
    """

    cosine: float
    probability: float
    same: bool
    threshold: float
    fmr: float
    data: str


class Encoder(_native.Encoder):
    """Turns images into vectors of length 1. Threads can share an encoder; they wait for each other.

    Args:
        path: a file that `dsa-fast export` wrote, with its sidecar FILE.json next to it.
        device: `cpu`, `cuda` or `cuda:N`; `auto` is what the file runs on.
        batch: number of images to run at once; by default 32 on a CPU and 64 on a GPU, within the file's range.
        threads: number of CPU threads; by default as many as the process may use.
        precision: what the CPU computes in: `fp32`, `fp16` or `bf16`; `auto` is the file's own.

    Attributes:
        path: the file.
        sidecar: its description, as parsed from JSON.
        backend: the library that runs it: openvino, tensorrt or tensorrt-rtx.
        device: the device that it runs on.
        size: height and width that images are resized to.
        dim: length of a vector.
        run_batch: number of images that are run at once.
        threads: number of CPU threads.
        precision: actual precision of the convolutions; `int8` for a quantized file.
        description: the library, its version, the device and the precision, in words.

    Raises:
        FileNotFoundError: the file or its sidecar is missing.
        ValueError: the file is damaged or does not fit its sidecar or this machine, the library is missing, or an
            option does not apply; the message names the reason.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        device: str = "auto",
        batch: int | None = None,
        threads: int | None = None,
        precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto",
    ) -> None:
        self.path = Path(path)
        for name, value in (("batch", batch), ("threads", threads)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        description = Path(f"{self.path}.json")
        if not self.path.is_file():
            raise FileNotFoundError(f"an exported file must be there, got {path}: no such file")
        if not description.is_file():
            raise FileNotFoundError(f"{path} must have its sidecar {description.name} next to it, got none")
        for kind in ["onnx"] if self.path.suffix == ".onnx" else ["tensorrt", "tensorrt-rtx"]:
            _load_library(kind)
        try:
            super().__init__(
                os.fsencode(self.path),  # a name need not be UTF-8
                device="" if device == "auto" else device,
                batch=batch or 0,
                threads=threads or 0,
                precision="" if precision == "auto" else precision,
            )
        except UnicodeDecodeError as error:  # an error's text with such a name
            raise ValueError(error.object.decode(errors="backslashreplace")) from None
        except ValueError as error:
            if "cannot open shared object file" not in str(error):
                raise
            raise ValueError(f"{error}\n{_advice(self.path)}") from error
        self.sidecar: dict[str, Any] = json.loads(description.read_bytes())
        self.backend = "openvino" if self.kind == "onnx" else self.kind
        self.device = device if device != "auto" else "cpu" if self.kind == "onnx" else "cuda"

    if TYPE_CHECKING:

        def __call__(self, images: Images, *, channels: Literal["RGB", "BGR"] = "RGB") -> NDArray[np.float32]:
            """Embeds one image or many, in any number.

            Args:
                images: uint8 arrays, buffers or DLPack arrays (such as tensors on the CPU) [H, W, 3] or [B, H, W, 3],
                    which are not copied; the path or the bytes of a JPEG or PNG file; or a sequence of single images
                    of any sizes. An empty sequence gives [0, D].
                channels: order of the channels of arrays and buffers; files are always read as RGB.

            Returns:
                float32 [D] for one image, [N, D] for many. Vectors have length 1.

            Raises:
                TypeError: `images` has another type, or does not have 8 bits.
                ValueError: a shape is wrong, or a file can't be read.
            """

        def enqueue(self, images: Any, out: Any, stream: int = 0) -> None:
            """Embeds images on the GPU, in a stream's order, without waiting.

            Args:
                images: an array on the encoder's GPU (`__cuda_array_interface__` or DLPack), in the file's layout and
                    type.
                out: float32 [N, D] there, to be written.
                stream: the address of a CUDA stream that is not being captured. Keep both arrays until it is done.

            Raises:
                TypeError, ValueError: an array has another type or shape, or the file runs on the CPU.
            """

    def verify(
        self, a: OneImage, b: OneImage, *, fmr: float = 1e-3, channels: Literal["RGB", "BGR"] = "RGB"
    ) -> Verdict:
        """Tells whether two images show the same person.

        Args:
            a, b: the images.
            fmr: false match rate whose threshold decides, one of those that the file was calibrated for.
            channels: see `__call__`.

        Raises:
            ValueError: the file has no calibration, a damaged one, or none for this rate: run `dsa-fast calibrate`.
        """
        found = self.sidecar.get("verification")
        if found is None:
            raise ValueError(
                f"{self.path} must be calibrated before it can tell people apart: "
                f"run dsa-fast calibrate {self.path} DATA"
            )
        try:
            thresholds = {float(rate): float(value) for rate, value in found["thresholds"].items()}
            data, fitted = str(found["data"]), found["probability"]
            probability(fitted, 0.0)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{self.path}.json must hold a calibration by dsa-fast calibrate: {error!r}") from None
        if fmr not in thresholds:
            rates = ", ".join(f"{rate:g}" for rate in thresholds)
            raise ValueError(
                f"fmr must be one of the calibrated rates, {rates}, got {fmr:g}: more data give lower rates"
            )
        first, second = self([a, b], channels=channels)
        cosine = float(first @ second)
        return Verdict(cosine, probability(fitted, cosine), cosine >= thresholds[fmr], thresholds[fmr], fmr, data)

    def __repr__(self) -> str:
        return f"Encoder({str(self.path)!r}, {self.description}, size={self.size}, dim={self.dim})"


def probability(fitted: dict[str, Any], cosine: float) -> float:
    """Evaluates the fitted probability of a sidecar: a line through points, or a logistic curve."""
    import numpy as np

    if fitted["kind"] == "isotonic":
        return float(np.interp(cosine, fitted["cosine"], fitted["value"]))
    return float(1 / (1 + np.exp(-(fitted["slope"] * cosine + fitted["offset"]))))


@lru_cache
def available(kind: str) -> bool:
    """Whether this package has the back end of a kind of exported file, and its library loads here."""
    _load_library(kind)
    return _native.preload(str(Path(__file__).with_name(f"libdsa_runtime_{_LIBRARIES[kind][0]}.so"))) == ""


@lru_cache
def _load_library(kind: str) -> None:
    """Loads the library of a kind of exported file from its Python package, where the back end then finds it."""
    _, _, package, folder, name = _LIBRARIES[kind]
    found = importlib.util.find_spec(package)
    for place in (found.submodule_search_locations or []) if found else []:
        for library in sorted(Path(place, folder).glob(name)):
            _native.preload(str(library))


def _advice(path: Path) -> str:
    if path.suffix == ".onnx":
        return "OpenVINO's library of that version must be there: pip install 'dsa-fast-runtime[openvino]'"
    return "TensorRT's library of that version must be there, in LD_LIBRARY_PATH or as a Python package"
