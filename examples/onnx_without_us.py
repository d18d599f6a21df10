"""Runs an exported file without dsa_fast and without PyTorch: ONNX Runtime, NumPy and Pillow, in ten lines.

    python examples/onnx_without_us.py mf.onnx a.jpg b.jpg     # the cosine of two photos
    python examples/onnx_without_us.py                         # exports a small network first, which needs dsa_fast

The file holds everything: it takes 8-bit RGB images, normalizes them, and returns vectors of length 1.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path


def cosine(model: str, first: str, second: str) -> float:
    """Compares two photos. This function is all that you need."""
    import numpy
    import onnxruntime
    from PIL import Image, ImageOps

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    height, width = session.get_inputs()[0].shape[1:3]  # images are [N, H, W, 3], uint8
    photos = [ImageOps.exif_transpose(Image.open(path)).convert("RGB") for path in (first, second)]
    batch = numpy.stack([numpy.array(photo.resize((width, height), Image.Resampling.BILINEAR)) for photo in photos])
    vectors = session.run(None, {session.get_inputs()[0].name: batch})[0]
    return float(vectors[0] @ vectors[1])


def export_a_small_one(folder: Path) -> tuple[str, str, str]:
    """Trains a small network for a moment and exports it, to try the function. Returns the file and two photos."""
    import torch

    from dsa_fast.data import AugmentConfig, read_dataset
    from dsa_fast.data.synth import SynthConfig, make_dataset
    from dsa_fast.deploy import NamedImages, export
    from dsa_fast.image import read_image
    from dsa_fast.models import ModelConfig
    from dsa_fast.training import DataConfig, TrainerConfig, fit

    make_dataset(folder / "people", SynthConfig(identities=8, cameras=2, images_per_camera=2))
    result = fit(
        DataConfig(str(folder / "people"), p=2, k=2, workers=0),
        ModelConfig(backbone="resnet18", pretrained=None, width=0.125, dsag=False, classifier_dim=64),
        augment=AugmentConfig(size=(128, 64)),
        trainer=TrainerConfig(max_epochs=1, eval_every=0, progress=False),
        out=folder / "run",
    )
    photos = [person.path for person in read_dataset(folder / "people").query]
    images = NamedImages(torch.stack([read_image(path) for path in photos]), "queries")
    export(result.checkpoint, folder / "mf.onnx", images=images)
    return str(folder / "mf.onnx"), str(photos[0]), str(photos[1])


def main() -> None:
    """Reads the arguments."""
    with tempfile.TemporaryDirectory() as folder:
        model, first, second = sys.argv[1:] or export_a_small_one(Path(folder))
        print(f"cosine {cosine(model, first, second):.4f}")


if __name__ == "__main__":
    main()
