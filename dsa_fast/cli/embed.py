"""`dsa-fast embed`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dsa_fast.cli.progress import image_progress
from dsa_fast.files import checksum
from dsa_fast.terminal import console as open_console

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from dsa_fast.deploy.inputs import Item


def embed(
    encoder: Path,
    source: Path,
    out: Path,
    *,
    device: str = "auto",
    backend: Literal["auto", "torch", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx"] = "auto",
    precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto",
    batch: int = 64,
    part: int = 4096,
    skip_unreadable: bool = False,
    workers: int = 2,
) -> None:
    """Embed images or video crops into a file.

    To resume a killed run, start it again with the same arguments.

    Args:
        encoder: checkpoint, ONNX file or TensorRT engine.
        source: a folder (with its subfolders), an image, a text file with one path per line, or a CSV file. The CSV
            file has the columns path, or video and frame (from 0), and to crop people also x, y, w, h in pixels.
        out: file to write, .parquet or .npz.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        backend: the library that runs the encoder.
        precision: the precision of a checkpoint, or of a float ONNX file with OpenVINO.
        batch: number of images per batch.
        part: number of images after which vectors are saved; a killed run loses at most this many.
        skip_unreadable: skip and list images that can't be read, instead of stopping.
        workers: number of threads that read images.

    Examples:
        dsa-fast embed last_int8.onnx FOLDER vectors.parquet
        dsa-fast embed last.ckpt crops.csv vectors.npz --skip_unreadable
    """
    import numpy as np
    from torch import Tensor

    from dsa_fast.deploy.encoder import Encoder
    from dsa_fast.deploy.inputs import find_items
    from dsa_fast.deploy.vector_files import PartWriter

    console = open_console()
    for name, value in (("batch", batch), ("part", part), ("workers", workers)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    items = find_items(source)
    writer = PartWriter(out, items, checksum(encoder) if encoder.is_file() else "", part=part)
    if writer.finished:
        text = f"{out} was finished by an earlier run of this list and encoder; to embed again, remove it"
        console.print(text, soft_wrap=True)
        return
    if writer.done:
        console.print(f"resuming: {writer.done} of {len(items)} are done")
    start, skipped, embedded = time.perf_counter(), [], 0
    with (
        Encoder.load(encoder, device=device, backend=backend, precision=precision) as model,
        image_progress("embedding") as show,
    ):
        done = writer.done
        for number, wanted in writer.missing():
            kept: list[Item] = []
            vectors: list[NDArray[np.float32]] = []
            for group, images in _batches(wanted, batch, workers):
                fine = [i for i, image in enumerate(images) if isinstance(image, Tensor)]
                for image in images:
                    if isinstance(image, ValueError):
                        if not skip_unreadable:
                            raise ValueError(f"{image} (--skip_unreadable skips such images)")
                        skipped.append(str(image))
                if fine:
                    found = model([image for image in images if isinstance(image, Tensor)])
                    vectors.append(np.asarray(found))
                    kept += [group[i] for i in fine]
                done += len(group)
                show(done, len(items))
            writer.write(number, kept, np.concatenate(vectors) if vectors else np.empty((0, model.dim), np.float32))
            embedded += len(kept)
        about = repr(model)
    count = writer.finish()
    seconds = time.perf_counter() - start
    for line in skipped[:20]:
        console.print(f"left out: {line}", soft_wrap=True)
    if len(skipped) > 20:
        console.print(f"left out: {len(skipped) - 20} more")
    console.print(
        f"{count} vectors in {out}; {embedded / max(seconds, 1e-9):.0f} images per second with reading, by {about}",
        soft_wrap=True,
    )


def _batches(items: Sequence[Item], size: int, workers: int) -> Iterator[tuple[list[Item], list[Tensor | ValueError]]]:
    from dsa_fast.deploy.inputs import read_items

    group: list[Item] = []
    images: list[Tensor | ValueError] = []
    for item, image in zip(items, read_items(items, workers=workers, ahead=2 * size), strict=True):
        group.append(item)
        images.append(image)
        if len(group) == size:
            yield group, images
            group, images = [], []
    if group:
        yield group, images
