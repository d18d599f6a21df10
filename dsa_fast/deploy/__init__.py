"""The MF-Stream in production: export it, run it, store and search its vectors.

- `export`: checkpoint -> ONNX file or TensorRT engine with a sidecar, checked against the checkpoint (`parity`).
- `encoder`: images -> vectors, from a checkpoint or any exported file; `image_batch` reads its images.
- `embedding_network`: the network that is exported; `onnx`, `tensorrt`: the formats; `sidecar`: the description.
- `cuda`: runs batches on a GPU.
- `verification`: whether two images show the same person, by thresholds that were measured.
- `inputs`: the images, crops and video frames to embed; `vector_files`: vectors on disk; `index`: FAISS search.
- `triton`: a model repository for Triton Inference Server.

This package may import `evaluation`, `data`, `models` and the layers below, but not `training` or `visual`. Importing
it imports neither torchvision nor any training library; `models` is imported when a checkpoint is read.
"""

from dsa_fast.deploy.encoder import Encoder
from dsa_fast.deploy.export import NamedImages, export
from dsa_fast.deploy.index import Hits, VectorIndex
from dsa_fast.deploy.inputs import Item, find_items, read_items
from dsa_fast.deploy.parity import compare_scores, compare_vectors
from dsa_fast.deploy.sidecar import BatchRange, InputSpec, OutputSpec, Sidecar, read_sidecar
from dsa_fast.deploy.triton import write_repository
from dsa_fast.deploy.vector_files import Vectors, read_vectors, write_vectors
from dsa_fast.deploy.verification import Verdict, calibrate

__all__ = [
    "BatchRange",
    "Encoder",
    "Hits",
    "InputSpec",
    "Item",
    "NamedImages",
    "OutputSpec",
    "Sidecar",
    "VectorIndex",
    "Vectors",
    "Verdict",
    "calibrate",
    "compare_scores",
    "compare_vectors",
    "export",
    "find_items",
    "read_items",
    "read_sidecar",
    "read_vectors",
    "write_repository",
    "write_vectors",
]
