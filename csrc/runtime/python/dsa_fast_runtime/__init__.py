"""Turns images of people into unit vectors with a file that `dsa-fast export` wrote. Needs NumPy, and no PyTorch.

    from dsa_fast_runtime import Encoder

    encoder = Encoder("mf.onnx")
    vectors = encoder(["a.jpg", "b.jpg"])  # float32 [2, D]; their inner product is the cosine

ONNX files run on the CPU through OpenVINO (`pip install 'dsa-fast-runtime[openvino]'`), engines on a GPU through
TensorRT or TensorRT-RTX, if this package was built with them.
"""

from dsa_fast_runtime._native import __version__
from dsa_fast_runtime.encoder import Encoder, Verdict, available

__all__ = ["Encoder", "Verdict", "__version__", "available"]
