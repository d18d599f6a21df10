"""Writes a model repository for Triton Inference Server (https://github.com/triton-inference-server/server)."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from dsa_fast.deploy.sidecar import Sidecar, read_sidecar, sidecar_path

_BACKENDS = {"onnx": ("onnxruntime", "model.onnx"), "tensorrt": ("tensorrt", "model.plan")}
_QUEUE_MICROSECONDS = 500


def write_repository(
    path: str | os.PathLike[str], repository: str | os.PathLike[str], *, name: str | None = None
) -> Path:
    """Puts an exported file into a model repository and configures batching of concurrent requests.

    Layout: REPOSITORY/NAME/config.pbtxt and REPOSITORY/NAME/1/model.onnx (or model.plan), with the sidecar next to it.

    Args:
        path: an ONNX file or a TensorRT engine of `dsa-fast export`.
        repository: the folder for `tritonserver --model-repository`. Other models in it are not touched.
        name: name of the model; by default the file's name without the suffix.

    Returns:
        The model's folder.

    Raises:
        FileNotFoundError, ValueError: see `read_sidecar`; also ValueError for a TensorRT-RTX engine, for which Triton
            has no backend, and for a name that is not a valid folder name.
    """
    path, repository = Path(path), Path(repository)
    sidecar = read_sidecar(path)
    if sidecar.kind not in _BACKENDS:
        raise ValueError(f"path must be an ONNX file or a TensorRT engine for Triton, got {sidecar.kind}: {path}")
    if sidecar.batch.min != 1:
        raise ValueError(
            f"path must accept single images for Triton, got batches of {sidecar.batch.min} and more: {path}"
        )
    name = name or path.stem
    if name in (".", "..") or "/" in name or '"' in name or "\\" in name:
        raise ValueError(f"name must be the name of a folder, got {name!r}")
    backend, file = _BACKENDS[sidecar.kind]
    repository.mkdir(parents=True, exist_ok=True)
    target = repository / name
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=repository) as folder:
        work = Path(folder)
        made = work / name
        (made / "1").mkdir(parents=True)
        shutil.copyfile(path, made / "1" / file)
        shutil.copyfile(sidecar_path(path), made / "1" / f"{path.name}.json")
        (made / "config.pbtxt").write_text(config(sidecar, name, backend), encoding="utf-8")
        if target.exists():
            if not (target / "config.pbtxt").is_file():
                raise ValueError(f"{target} must be a model's folder or free, got a folder without config.pbtxt")
            target.replace(work / "old")
        made.replace(target)
    return target


def config(sidecar: Sidecar, name: str, backend: str) -> str:
    """Returns the text of config.pbtxt."""
    spec, output, batch = sidecar.input, sidecar.output, sidecar.batch
    dims = ", ".join(str(size) for size in spec.shape(batch.max)[1:])
    preferred = ", ".join(str(size) for size in sorted({batch.opt, batch.max}))
    return f"""name: "{name}"
backend: "{backend}"
max_batch_size: {batch.max}
input [
  {{
    name: "{spec.name}"
    data_type: {"TYPE_UINT8" if spec.dtype == "uint8" else "TYPE_FP32"}
    dims: [ {dims} ]
  }}
]
output [
  {{
    name: "{output.name}"
    data_type: TYPE_FP32
    dims: [ {output.dim} ]
  }}
]
dynamic_batching {{
  preferred_batch_size: [ {preferred} ]
  max_queue_delay_microseconds: {_QUEUE_MICROSECONDS}
}}
instance_group [
  {{
    count: 1
    kind: {"KIND_GPU" if sidecar.kind == "tensorrt" else "KIND_AUTO"}
  }}
]
"""
