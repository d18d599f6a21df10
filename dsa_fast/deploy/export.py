"""Exports a checkpoint to a file that is ready to run, with a sidecar. It is checked before it gets its name."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from dsa_fast.data.people import PeopleSplits
from dsa_fast.deploy.embedding_network import EmbeddingNetwork, FloatPrecision, InputKind
from dsa_fast.deploy.encoder import Encoder
from dsa_fast.deploy.image_batch import to_input
from dsa_fast.deploy.onnx import CalibrationMethod, write_int8_onnx, write_onnx
from dsa_fast.deploy.parity import check_parity, compare_scores, compare_vectors
from dsa_fast.deploy.sidecar import (
    NO_MEAN,
    NO_STD,
    SUFFIXES,
    BatchRange,
    InputSpec,
    Kind,
    OutputSpec,
    Precision,
    Sidecar,
    sidecar_path,
    write_sidecar,
)
from dsa_fast.deploy.tensorrt import build_engine, describe_gpu, library, version_key
from dsa_fast.extras import require
from dsa_fast.files import checksum, locked, temporary_folder, utf8_name
from dsa_fast.version import __version__

if TYPE_CHECKING:
    from dsa_fast.models import LoadedModel


@dataclass(frozen=True)
class NamedImages:
    """Images of the input's size, and their source.

    Attributes:
        images: uint8 [N, 3, H, W].
        name: name of the source for the sidecar, such as a folder's name.
    """

    images: Tensor
    name: str


def export(
    checkpoint: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    images: NamedImages,
    format: Kind = "onnx",
    precision: Precision = "fp32",
    batch: BatchRange = BatchRange(),  # noqa: B008 - frozen
    layout: Literal["NHWC", "NCHW"] | None = None,
    input: InputKind = "uint8",
    calibration: NamedImages | None = None,
    calibration_method: CalibrationMethod = "minmax",
    data: PeopleSplits | None = None,
    least_cosine: float | None = None,
    tf32: bool = False,
    timing_cache: Path | None = None,
    compute_capabilities: Sequence[str] | None = None,
    workers: int = 0,
    progress: bool = False,
) -> Sidecar:
    """Exports a checkpoint and checks the result against it. If anything fails, `out` stays as it was.

    Args:
        checkpoint: file written by `dsa-fast fit`.
        out: the file to write. Its sidecar OUT.json is written next to it.
        images: images for the parity check.
        format: `onnx`, or an engine: `tensorrt` (needs its GPU) or `tensorrt-rtx` (needs none to build).
        precision: precision of the convolutions; `int8` needs `calibration`.
        batch: smallest and largest batch size, and the size that engines are tuned for.
        layout: layout of the input; None is NHWC for `uint8` and NCHW for floats.
        input: `uint8`; or as trackers pass float32 images: `float`, normalized, or `float01`, only divided by 255.
        calibration: images like those of your application, which determine the ranges of int8.
        calibration_method: see `write_int8_onnx`.
        data: a data set to measure the change in mAP.
        least_cosine: smallest allowed cosine; None for the limit of the precision, see `parity.least_cosine`.
        tf32: see `build_engine`.
        timing_cache: see `build_engine`; None keeps it next to `out` as OUT.timing.
        compute_capabilities: see `build_engine`.
        workers: number of processes that read the data set's images.
        progress: show a progress bar for the data set.

    Returns:
        The sidecar, with `parity`.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: an option is wrong, a library is missing or fails, or a cosine is too low.
    """
    from dsa_fast.models import load_model

    for name, value, known in (("format", format, get_args(Kind)), ("precision", precision, get_args(Precision))):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    if precision == "int8" and calibration is None:
        raise ValueError("precision int8 needs calibration: images like those of your application")
    if format == "tensorrt" and not torch.cuda.is_available():
        library("tensorrt")
        raise ValueError("format tensorrt needs the GPU that the engine is for, got a machine without one")
    path = Path(out)
    if path.suffix != SUFFIXES[format]:
        raise ValueError(f"out must end in {SUFFIXES[format]} for {format}, got {path}")
    layout = layout or ("NHWC" if input == "uint8" else "NCHW")
    loaded = load_model(checkpoint)
    for each in (images, calibration):
        if each is not None and each.images.shape[2:] != loaded.size:
            raise ValueError(f"images must have the input's size {loaded.size}, got {tuple(each.images.shape[2:])}")
    with locked(path), temporary_folder(path) as work:
        onnx_file, onnx_sidecar = _make_onnx(
            loaded, checkpoint, work, path.stem, precision, batch, layout, input, calibration, calibration_method
        )
        made, sidecar = onnx_file, onnx_sidecar
        if format != "onnx":
            if timing_cache is None and format == "tensorrt":
                timing_cache = path.with_suffix(".timing")
            plan = build_engine(
                onnx_file,
                onnx_sidecar.input,
                batch,
                kind=format,
                tf32=tf32,
                timing_cache=timing_cache,
                compute_capabilities=compute_capabilities,
            )
            made = work / path.name
            made.write_bytes(plan)
            key = version_key(format)
            sidecar = replace(
                onnx_sidecar,
                kind=format,
                versions={**onnx_sidecar.versions, key: str(library(format).__version__)},
                gpu=describe_gpu() if format == "tensorrt" else None,
                compute_capabilities=None if compute_capabilities is None else list(compute_capabilities),
                **_identity(made, path.name),
            )
            write_sidecar(made, sidecar)
        figures = _parity(made, onnx_file, loaded, images, data, precision, least_cosine, workers, progress)
        sidecar = replace(sidecar, parity=figures, **_identity(made, path.name))
        write_sidecar(made, sidecar)
        # The sidecar is written last. Until then, the new file does not match the old sidecar and is refused.
        made.replace(path)
        sidecar_path(made).replace(sidecar_path(path))
    return sidecar


def _make_onnx(
    loaded: LoadedModel,
    checkpoint: str | os.PathLike[str],
    work: Path,
    stem: str,
    precision: Precision,
    batch: BatchRange,
    layout: Literal["NHWC", "NCHW"],
    input: InputKind,
    calibration: NamedImages | None,
    method: CalibrationMethod,
) -> tuple[Path, Sidecar]:
    floats: FloatPrecision = "fp32" if precision == "int8" else precision
    network = EmbeddingNetwork(loaded.model, layout=layout, precision=floats, input=input)
    spec = InputSpec(*loaded.size, layout=layout, dtype="uint8" if input == "uint8" else "float32")
    if input == "float01":
        spec = replace(spec, mean=NO_MEAN, std=NO_STD)
    output = OutputSpec(network.dim)
    file = work / f"{stem}.onnx"
    about = None
    if precision == "int8":
        assert calibration is not None
        array = to_input(calibration.images, spec).numpy()
        with utf8_name(work) as place:
            plain, quantized = Path(place, "float.onnx"), Path(place, "int8.onnx")
            write_onnx(network, plain, spec, output)
            write_int8_onnx(plain, quantized, array, input_name=spec.name, method=method)
            quantized.rename(file)
        about = {"images": len(array), "source": calibration.name, "method": method}
    else:
        write_onnx(network, file, spec, output)
    sidecar = Sidecar(
        kind="onnx",
        model=_describe(loaded, network, checkpoint),
        input=spec,
        output=output,
        precision=precision,
        batch=batch,
        versions=_versions(),
        calibration=about,
        **_identity(file, file.name),
    )
    write_sidecar(file, sidecar)
    return file, sidecar


def _parity(
    made: Path,
    onnx_file: Path,
    loaded: LoadedModel,
    images: NamedImages,
    data: PeopleSplits | None,
    precision: Precision,
    least: float | None,
    workers: int,
    progress: bool,
) -> dict[str, Any]:
    """Checks the parity of `made`, or of its ONNX file if an engine can't run here, and says why."""
    figures: dict[str, Any] = {"of": "this file"}
    if made.suffix != ".onnx" and not torch.cuda.is_available():
        figures = {"of": "the ONNX file that it was built from", "reason": "this machine has no GPU to run the engine"}
        made = onnx_file
    try:
        encoder = Encoder.load(made)
    except ValueError as error:
        if precision != "bf16" or made.suffix != ".onnx":
            raise
        return {"of": "nothing", "reason": f"no installed library runs bf16 here: {error}", "batches": {}}
    with encoder:
        figures |= {"inputs": images.name, **compare_vectors(encoder, loaded, images.images)}
        check_parity(figures, precision, least)
        if data is not None:
            figures["scores"] = compare_scores(encoder, loaded, data, workers=workers, progress=progress)
    return figures


def _identity(file: Path, name: str) -> dict[str, Any]:
    return {"file": name, "bytes": file.stat().st_size, "sha256": checksum(file)}


def _describe(loaded: LoadedModel, network: EmbeddingNetwork, checkpoint: str | os.PathLike[str]) -> dict[str, Any]:
    stream = loaded.model.mf_stream
    return {
        "stream": "mf",
        "class": type(loaded.model).__name__,
        "backbone": stream.backbone.name,
        "width": stream.backbone.width,
        "branches": loaded.model.branches,
        "pooling": "mean" if stream.find_parts is None else "parts",
        "halves": [size for size in loaded.model.embed_dims if size],
        "parameters": sum(parameter.numel() for parameter in network.stream.parameters()),
        "checkpoint": Path(checkpoint).name,
        "checkpoint_sha256": checksum(checkpoint),
    }


def _versions() -> dict[str, str]:
    versions = {
        "dsa_fast": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            versions[name] = str(require(name).__version__)
        except ValueError:  # not needed for every export
            continue
    return versions
