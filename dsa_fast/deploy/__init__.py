"""The MF-Stream in production: exporting it, running it, serving it.

- `export`: checkpoint -> ONNX file or TensorRT engine, with a sidecar, checked against the checkpoint;
- `Encoder`: images -> vectors, from any of these files;
- `artifact`: the sidecar; `network`: what is exported; `onnx`, `tensorrt`: the formats; `parity`: the check;
- `cuda`: batches on a GPU; `images`, `sources`: what is embedded; `store`: where vectors go; `index`: searching them;
- `triton`: a model repository for Triton Inference Server.
"""

from __future__ import annotations

from dsa_fast.deploy.encoder import Encoder
from dsa_fast.deploy.sidecar import BatchRange, InputSpec, OutputSpec, Sidecar, read_sidecar

__all__ = ["BatchRange", "Encoder", "InputSpec", "OutputSpec", "Sidecar", "read_sidecar"]
