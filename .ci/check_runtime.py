"""Compares the runtime's wheel with `dsa_fast.Encoder`, each in its own environment.

python .ci/check_runtime.py make FOLDER    # with PyTorch: FOLDER/mf.onnx -> FOLDER/images.npz, images and vectors
python .ci/check_runtime.py check FOLDER   # with the wheel alone
"""

import importlib.util
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np


def make(folder: Path) -> None:
    """Embeds random images with `dsa_fast.Encoder` and without the runtime."""
    from dsa_fast import Encoder

    encoder = Encoder.load(folder / "mf.onnx", device="cpu", backend="openvino", threads=2)
    if encoder.native:
        sys.exit("the runtime must not be installed here")
    images = np.random.default_rng(0).integers(0, 256, (33, *encoder.size, 3), dtype=np.uint8)
    np.savez(folder / "images.npz", images=images, vectors=np.asarray(encoder(images)))


def check(folder: Path) -> None:
    """Fails unless the wheel gives the same vectors, in any number of threads, without PyTorch."""
    if any(importlib.util.find_spec(name) for name in ("torch", "dsa_fast")):
        sys.exit("this environment must have neither torch nor dsa_fast")
    start = time.perf_counter()
    from dsa_fast_runtime import Encoder

    encoder = Encoder(folder / "mf.onnx", threads=2)
    with np.load(folder / "images.npz") as file:
        images, expected = file["images"], file["vectors"]
    encoder(images[0])
    print(f"{encoder}: first vector after {time.perf_counter() - start:.2f} s")
    np.testing.assert_array_equal(encoder(images), expected)
    for threads in range(1, 9):
        with ThreadPoolExecutor(threads) as pool:
            for vectors in pool.map(encoder, [images] * threads):
                np.testing.assert_array_equal(vectors, expected)
    print("the vectors are dsa_fast.Encoder's, bit for bit, from 1 to 8 threads")


{"make": make, "check": check}[sys.argv[1]](Path(sys.argv[2]))
