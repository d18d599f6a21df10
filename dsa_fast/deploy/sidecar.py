"""Sidecars: JSON files that describe exported files and hold their checksums.

The sidecar of `mf.onnx` is `mf.onnx.json`. It is written last, so a file without a sidecar is incomplete.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from dsa_fast.files import atomic_path, checksum, read_json
from dsa_fast.imagenet import MEAN, STD

Kind = Literal["onnx", "tensorrt", "tensorrt-rtx"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]

FORMAT = "dsa_fast.artifact"
FORMAT_VERSION = 1
SUFFIXES: dict[str, str] = {"onnx": ".onnx", "tensorrt": ".engine", "tensorrt-rtx": ".engine"}
#: Of float32 images in 0..1, which the graph normalizes.
NO_MEAN, NO_STD = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
_NORMALIZATIONS: dict[tuple[float, ...], tuple[float, ...]] = {MEAN: STD, NO_MEAN: NO_STD}


@dataclass(frozen=True)
class BatchRange:
    """Batch sizes: the minimum, the one that engines are tuned for, and the maximum."""

    min: int = 1
    opt: int = 8
    max: int = 64

    def __post_init__(self) -> None:
        for value in (self.min, self.opt, self.max):
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"batch must be three whole numbers, got {value!r}")
        if not 1 <= self.min <= self.opt <= self.max:
            raise ValueError(f"batch must be 1 <= min <= opt <= max, got {self.min},{self.opt},{self.max}")

    @classmethod
    def parse(cls, text: str) -> BatchRange:
        """`"1,8,64"` -> the range; `"16"` stands for `"16,16,16"`.

        Raises:
            ValueError: `text` has another form, or the numbers are not in order.
        """
        try:
            numbers = [int(part) for part in text.split(",")]
        except ValueError:
            numbers = []
        if len(numbers) == 1:
            numbers *= 3
        if len(numbers) != 3:
            raise ValueError(f"batch must be min,opt,max such as 1,8,64, got {text!r}")
        return cls(*numbers)


@dataclass(frozen=True)
class InputSpec:
    """The input: RGB images of one size.

    Attributes:
        name: the tensor's name.
        dtype: `uint8`, or `float32` for images that were normalized before: (value / 255 - mean) / std. A mean of 0
            and a std of 1 mean value / 255.
        layout: `NHWC` or `NCHW`; float32 images are always NCHW.
        height, width: in pixels.
        channels: always `RGB`.
        mean, std: normalization of images in 0..1. For uint8 it is inside the graph.
    """

    height: int
    width: int
    name: str = "images"
    dtype: str = "uint8"
    layout: Literal["NHWC", "NCHW"] = "NHWC"
    channels: str = "RGB"
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD

    def shape(self, batch: int) -> tuple[int, int, int, int]:
        """Shape of a batch."""
        if self.layout == "NHWC":
            return batch, self.height, self.width, 3
        return batch, 3, self.height, self.width


@dataclass(frozen=True)
class OutputSpec:
    """The output: vectors of length 1.

    Attributes:
        name: the tensor's name.
        dtype: always `float32`.
        dim: length of a vector.
        normalized: always true, because the graph scales vectors to length 1.
    """

    dim: int
    name: str = "embeddings"
    dtype: str = "float32"
    normalized: bool = True


@dataclass(frozen=True)
class Sidecar:
    """The description of an exported file.

    Attributes:
        kind: format of the file.
        file: its name, without a folder.
        bytes: its size.
        sha256: its checksum, in hexadecimal.
        model: the network and its checkpoint.
        input, output: the tensors.
        precision: precision of the convolutions.
        batch: the batch sizes that it accepts.
        versions: versions of the libraries that wrote it.
        gpu: the GPU that it was built on, {"name", "compute_capability"}; None for files that run on any GPU.
        parity: results of the comparison with the checkpoint; see `dsa_fast.deploy.parity`.
        compute_capabilities: target GPUs of a tensorrt-rtx engine, such as ["8.6"]; None for TensorRT-RTX's default.
        calibration: images and method that an int8 file was calibrated with; None for others.
        verification: thresholds and probabilities for pairs of images, of `dsa_fast.deploy.verification`; None before
            `dsa-fast calibrate`.
    """

    kind: Kind
    file: str
    bytes: int
    sha256: str
    model: dict[str, Any]
    input: InputSpec
    output: OutputSpec
    precision: Precision
    batch: BatchRange
    versions: dict[str, str]
    gpu: dict[str, str] | None = None
    parity: dict[str, Any] = field(default_factory=dict)
    compute_capabilities: list[str] | None = None
    calibration: dict[str, Any] | None = None
    verification: dict[str, Any] | None = None

    def to_json(self) -> str:
        """Returns the sidecar's text. Bytes of names that are not UTF-8 become question marks."""
        about = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(self)}
        text = json.dumps(about, ensure_ascii=False).encode(errors="replace")  # others don't read lone surrogates
        return json.dumps(json.loads(text), indent=2) + "\n"


def sidecar_path(path: str | os.PathLike[str]) -> Path:
    """`mf.onnx` -> `mf.onnx.json`."""
    path = Path(path)
    return path.with_name(path.name + ".json")


def write_sidecar(path: str | os.PathLike[str], sidecar: Sidecar) -> None:
    """Writes the sidecar of the file at `path`."""
    with atomic_path(sidecar_path(path)) as temporary:
        temporary.write_text(sidecar.to_json(), encoding="utf-8")


def read_sidecar(path: str | os.PathLike[str]) -> Sidecar:
    """Reads the sidecar of an exported file and checks that it describes this file.

    Args:
        path: the exported file, not its sidecar.

    Raises:
        FileNotFoundError: the file or its sidecar is missing.
        ValueError: the sidecar is damaged or has a newer format, or the file's size or checksum differs; the message
            names the difference.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"an exported file must be there, got {path}: no such file")
    description = sidecar_path(path)
    if not description.is_file():
        raise FileNotFoundError(
            f"{path} must have its sidecar {description.name} next to it, got none: copy both files, or export again"
        )
    sidecar = parse_sidecar(description)
    size = path.stat().st_size
    if size != sidecar.bytes:
        raise ValueError(f"{path} must have {sidecar.bytes} bytes as its sidecar says, got {size}: it is damaged")
    found = checksum(path)
    if found != sidecar.sha256:
        raise ValueError(
            f"{path} must have the SHA-256 {sidecar.sha256[:16]}... of its sidecar, got {found[:16]}...: "
            "it is damaged, or not the file that was exported"
        )
    return sidecar


def parse_sidecar(path: Path) -> Sidecar:
    """Reads a sidecar without its file.

    Raises:
        ValueError: `path` is not a sidecar, or has another version of the format.
    """
    try:
        data = read_json(path)
    except ValueError as error:
        raise ValueError(f"{path} must be the JSON sidecar of an exported file, got: {error.__cause__}") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        got = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise ValueError(f"{path} must have the format {FORMAT!r}, got {got!r}")
    if data.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path} must have format version {FORMAT_VERSION}, got {data.get('format_version')!r}: "
            "export again with this version of dsa_fast"
        )
    try:
        known = {each.name for each in fields(Sidecar)}
        values = {name: value for name, value in data.items() if name in known}
        for name, kind in (("input", InputSpec), ("output", OutputSpec), ("batch", BatchRange)):
            names = {each.name for each in fields(kind)}
            given: dict[str, Any] = {key: value for key, value in data[name].items() if key in names}
            given = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
            values[name] = kind(**given)
        sidecar = Sidecar(**values)
        _check(sidecar)
    except Exception as error:  # values of other types fail in many ways
        raise ValueError(f"{path} must be a complete sidecar, got: {error}") from error
    return sidecar


def _check(sidecar: Sidecar) -> None:
    rules: list[tuple[str, object, bool]] = [
        ("kind", sidecar.kind, sidecar.kind in get_args(Kind)),
        ("precision", sidecar.precision, sidecar.precision in get_args(Precision)),
        ("file", sidecar.file, isinstance(sidecar.file, str)),
        ("bytes", sidecar.bytes, _positive(sidecar.bytes, 1 << 50)),
        ("batch", sidecar.batch, sidecar.batch.max <= 1 << 16),
        ("input.name", sidecar.input.name, isinstance(sidecar.input.name, str)),
        ("output.name", sidecar.output.name, isinstance(sidecar.output.name, str)),
        ("gpu", sidecar.gpu, sidecar.gpu is None or isinstance(sidecar.gpu, dict)),
        ("parity", sidecar.parity, isinstance(sidecar.parity, dict)),
        ("sha256", sidecar.sha256, isinstance(sidecar.sha256, str) and len(sidecar.sha256) == 64),
        ("input.dtype", sidecar.input.dtype, sidecar.input.dtype in ("uint8", "float32")),
        (
            "input.layout",
            sidecar.input.layout,
            sidecar.input.layout == "NCHW" or (sidecar.input.layout == "NHWC" and sidecar.input.dtype == "uint8"),
        ),
        ("input.mean", sidecar.input.mean, sidecar.input.dtype == "uint8" or sidecar.input.mean in _NORMALIZATIONS),
        (
            "input.std",
            sidecar.input.std,
            sidecar.input.dtype == "uint8" or sidecar.input.std == _NORMALIZATIONS.get(sidecar.input.mean),
        ),
        ("input.channels", sidecar.input.channels, sidecar.input.channels == "RGB"),
        ("input.height", sidecar.input.height, _positive(sidecar.input.height, 4096)),
        ("input.width", sidecar.input.width, _positive(sidecar.input.width, 4096)),
        ("output.dtype", sidecar.output.dtype, sidecar.output.dtype == "float32"),
        ("output.dim", sidecar.output.dim, _positive(sidecar.output.dim, 1 << 20)),
        ("versions", sidecar.versions, isinstance(sidecar.versions, dict)),
        ("model", sidecar.model, isinstance(sidecar.model, dict)),
        ("verification", sidecar.verification, sidecar.verification is None or _judges(sidecar.verification)),
    ]
    for name, value, fine in rules:
        if not fine:
            raise ValueError(f"{name} is {repr(value)[:200]}")


def _judges(verification: dict[str, Any]) -> bool:
    """Returns whether thresholds and probabilities are finite numbers, see `dsa_fast.deploy.verification`."""
    thresholds, fitted = verification["thresholds"], verification["probability"]
    if not isinstance(verification["data"], str):
        return False
    if not all(_number(float(rate)) and _number(value) for rate, value in thresholds.items()):
        return False
    if fitted["kind"] == "logistic":
        return _number(fitted["slope"]) and _number(fitted["offset"])
    cosines, values = fitted["cosine"], fitted["value"]
    both = len(cosines) == len(values) > 0 and all(map(_number, [*cosines, *values]))
    return fitted["kind"] == "isotonic" and both and cosines == sorted(cosines)


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9


def _positive(value: object, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= most
