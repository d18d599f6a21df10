"""`dsa-fast export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.table import Table

from dsa_fast.configs.datasets import DatasetOptions
from dsa_fast.configs.synth import SynthConfig
from dsa_fast.terminal import console as open_console

if TYPE_CHECKING:
    import torch

    from dsa_fast.data.people import PeopleSplits, Person
    from dsa_fast.deploy.export import NamedImages
    from dsa_fast.deploy.sidecar import Sidecar


_PARITY_IMAGES = 64


def export(
    checkpoint: Path,
    *,
    format: Literal["onnx", "tensorrt", "tensorrt-rtx"] = "onnx",
    precision: Literal["fp32", "fp16", "bf16", "int8"] = "fp32",
    batch: str = "1,8,64",
    layout: Literal["NHWC", "NCHW"] | None = None,
    input: Literal["uint8", "float", "float01"] = "uint8",
    out: Path | None = None,
    root: Path | None = None,
    name: str = "auto",
    options: DatasetOptions | None = None,
    check_counts: bool = True,
    images: Path | None = None,
    calibrate: Path | None = None,
    calibration_images: int = 256,
    calibration_method: Literal["minmax", "percentile"] = "minmax",
    synthetic_calibration: bool = False,
    least_cosine: float | None = None,
    tf32: bool = False,
    timing_cache: Path | None = None,
    compute_capabilities: str | None = None,
    triton: Path | None = None,
    workers: int = 2,
) -> None:
    """Write the MF-Stream as an ONNX file or a TensorRT engine.

    Also writes a sidecar, FILE.json. The file gets its final name after it is checked against the checkpoint.

    Args:
        checkpoint: file written by `dsa-fast fit`.
        format: `onnx`; `tensorrt`, an engine for the GPU of this machine; or `tensorrt-rtx`, built without a GPU.
        precision: precision of the convolutions. `int8` is calibrated on images: see root, calibrate and
            synthetic_calibration.
        batch: smallest, preferred and largest number of images in a batch.
        layout: layout of the input, `NHWC` or `NCHW`; by default NHWC for uint8 and NCHW for floats.
        input: `uint8`, images in 0..255, or float32 images as trackers pass them (NCHW, RGB): `float`, divided by 255
            and normalized with ImageNet's mean and deviation; `float01`, only divided by 255.
        out: the file to write; by default next to the checkpoint, named after the checkpoint, precision and format.
        root: folder of a data set. The change in mAP is measured on its test images, and int8 is calibrated on its
            training images.
        name: the data set's name; `auto` detects it from the folder.
        options: options of the data set, such as `{kind: labeled}` for CUHK03.
        check_counts: whether the image counts must match the published ones.
        images: folder, list or file of images for the check; by default, the data set's queries if
            there is one, otherwise the calibration images, otherwise rendered people.
        calibrate: folder, list or file of images like those of your application, for int8.
        calibration_images: number of images to use, evenly spaced.
        calibration_method: range of an activation: `minmax`, or `percentile`, which ignores the outermost 0.001 %.
        synthetic_calibration: calibrate int8 on rendered people. Use it only for experiments, because real images
            differ.
        least_cosine: fail if the smallest cosine of the check is lower; by default 0.99999 in fp32, 0.999 in fp16,
            0.99 in bf16, and in int8 halfway between 1 and the mean cosine of two different images of the check.
        tf32: allow an fp32 engine to round the inputs of convolutions to TF32.
        timing_cache: file of TensorRT's timings, kept for the next build; by default next to out.
        compute_capabilities: target GPUs of a tensorrt-rtx engine, such as `8.6,8.9`; by default, TensorRT-RTX's own
            list.
        triton: also write a model repository for Triton Inference Server into this folder.
        workers: number of processes that read the data set's images.

    Examples:
        dsa-fast export runs/quick/checkpoints/last.ckpt --root people --precision int8
        dsa-fast export last.ckpt --format tensorrt-rtx --precision fp16 --batch 1,8,64
    """
    from dsa_fast.data.registry import read_dataset
    from dsa_fast.deploy.export import export as run
    from dsa_fast.deploy.sidecar import SUFFIXES, BatchRange
    from dsa_fast.deploy.triton import write_repository
    from dsa_fast.models import load_model

    console = open_console()
    sizes = BatchRange.parse(batch)
    if calibration_images < 1:
        raise ValueError(f"calibration_images must be at least 1, got {calibration_images}")
    if precision != "int8" and (calibrate is not None or synthetic_calibration):
        raise ValueError(f"calibrate and synthetic_calibration are for precision int8, got {precision}")
    if triton is not None and format == "tensorrt-rtx":
        raise ValueError("triton needs format onnx or tensorrt: Triton has no TensorRT-RTX backend")
    loaded = load_model(checkpoint)
    kind = "" if input == "uint8" else f"_{input}"
    target = out or checkpoint.with_name(f"{checkpoint.stem}_{precision}{kind}{SUFFIXES[format]}")
    data = None if root is None else read_dataset(root, name, check_counts=check_counts, **(options or {}))
    calibration = None
    if precision == "int8":
        calibration = _calibration(calibrate, data, synthetic_calibration, calibration_images, loaded.size)
    checked = _inputs(images, data, calibration, loaded.size)
    sidecar = run(
        checkpoint,
        target,
        images=checked,
        format=format,
        precision=precision,
        batch=sizes,
        layout=layout,
        input=input,
        calibration=calibration,
        calibration_method=calibration_method,
        data=data,
        least_cosine=least_cosine,
        tf32=tf32,
        timing_cache=timing_cache,
        compute_capabilities=None if compute_capabilities is None else compute_capabilities.split(","),
        workers=workers,
        progress=True,
    )
    _report(console, target, sidecar)
    if triton is not None:
        folder = write_repository(target, triton)
        console.print(f"Triton:  {folder}", soft_wrap=True)


def _calibration(
    folder: Path | None, data: PeopleSplits | None, synthetic: bool, count: int, size: tuple[int, int]
) -> NamedImages:
    from dsa_fast.deploy.export import NamedImages
    from dsa_fast.deploy.inputs import find_images

    if folder is not None:
        return NamedImages(_read(find_images(folder), count, size), str(folder))
    if synthetic:
        return _rendered(min(count, 64), size)
    if data is None:
        raise ValueError(
            "precision int8 needs images like those of your application: calibrate FOLDER, or root DATA_SET for its "
            "training images (or synthetic_calibration, for a first try)"
        )
    people: list[Person] = data.train or data.gallery
    return NamedImages(_read([person.path for person in people], count, size), f"{data.name}, training images")


def _inputs(
    folder: Path | None, data: PeopleSplits | None, calibration: NamedImages | None, size: tuple[int, int]
) -> NamedImages:
    from dsa_fast.deploy.export import NamedImages
    from dsa_fast.deploy.inputs import find_images

    if folder is not None:
        return NamedImages(_read(find_images(folder), _PARITY_IMAGES, size), str(folder))
    if data is not None and data.query:
        return NamedImages(_read([person.path for person in data.query], _PARITY_IMAGES, size), f"{data.name}, queries")
    if calibration is not None:
        return NamedImages(calibration.images[:_PARITY_IMAGES], calibration.name)
    return _rendered(24, size)


def _read(paths: list[Path], count: int, size: tuple[int, int]) -> torch.Tensor:
    """Returns `count` of the images, evenly spaced, or all if there are fewer."""
    import torch

    from dsa_fast.data.transforms import resize
    from dsa_fast.image import read_image

    chosen = [paths[i * len(paths) // min(count, len(paths))] for i in range(min(count, len(paths)))]
    return torch.cat([resize(read_image(path)[None], size) for path in chosen])


def _rendered(count: int, size: tuple[int, int]) -> NamedImages:
    import torch

    from dsa_fast.data.synth import render_picture
    from dsa_fast.data.transforms import resize
    from dsa_fast.deploy.export import NamedImages

    config = SynthConfig()
    pictures = [render_picture(config, 1 + i, 1 + i % config.cameras, 0)[0] for i in range(count)]
    images = torch.stack([torch.from_numpy(picture).permute(2, 0, 1) for picture in pictures])
    return NamedImages(resize(images, size), "rendered people")


def _report(console: Console, path: Path, sidecar: Sidecar) -> None:
    from dsa_fast.deploy.sidecar import sidecar_path

    parity = sidecar.parity
    table = Table(title=f"Cosine with the checkpoint's vectors, {sidecar.precision}")
    for column in ("batch", "least", "mean"):
        table.add_column(column, justify="right")
    for size, figures in parity["batches"].items():
        table.add_row(size, f"{figures['cosine_min']:.7f}", f"{figures['cosine_mean']:.7f}")
    if parity["batches"]:
        console.print(table)
        console.print(
            f"Checked: {parity['of']}, by {parity['runtime']}, on {parity['images']} images: {parity['inputs']}",
        )
    if "reason" in parity:
        console.print(f"Not checked: the file itself, because {parity['reason']}")
    scores = parity.get("scores")
    if scores is not None:
        console.print(
            f"mAP:     {100 * scores['mAP_checkpoint']:.2f} % -> {100 * scores['mAP']:.2f} % "
            f"({100 * scores['mAP_change']:+.3f} points) on {scores['data']}",
        )
    size = f"{sidecar.bytes / 1e6:.1f} MB"
    console.print(f"File:    {path} ({size})\nSidecar: {sidecar_path(path)}", soft_wrap=True)
