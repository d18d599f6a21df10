"""Loads the compiled libraries into PyTorch, and stores the reason if the CUDA library is missing."""

from __future__ import annotations

import json
from pathlib import Path

import torch

_FOLDER = Path(__file__).resolve().parent.parent


def _load(path: Path) -> str | None:
    """Loads a library; returns None, or the dynamic loader's error if it fails."""
    try:
        torch.ops.load_library(path)
    except OSError as error:
        return str(error.__cause__ or error)  # PyTorch's error names only the file
    return None


def load_cpu(path: Path = _FOLDER / "_C.abi3.so") -> None:
    """Loads the operators' schemas and CPU kernels.

    Raises:
        ImportError: The library is missing or does not load; the message says which.
    """
    if not path.exists():
        raise ImportError(f"dsa_fast is not built: {path} is missing. Build it with `pip install .`")
    error = _load(path)
    if error is not None:
        raise ImportError(
            f"dsa_fast: {path} does not load into PyTorch {torch.__version__} (2.11 or newer is needed): {error}"
        )


def load_cuda(path: Path = _FOLDER / "_C_cuda.abi3.so", note: Path = _FOLDER / "_build.json") -> str | None:
    """Loads the CUDA kernels.

    Returns:
        None if they are loaded, otherwise the reason: from the build's record, a CUDA version that does not fit
        PyTorch's, or from the dynamic loader.
    """
    build = json.loads(note.read_text()) if note.exists() else {"cuda": True}
    if not build["cuda"]:
        return f"dsa_fast was built without CUDA, because {build['why']}"
    if not path.exists():
        return f"{path} is missing"
    if torch.version.cuda is None:
        return f"the installed PyTorch {torch.__version__} has no CUDA"
    toolkit = build.get("toolkit")
    if toolkit is not None and toolkit.split(".")[0] != torch.version.cuda.split(".")[0]:
        return (  # it would load, and fail at its first call
            f"dsa_fast was built with CUDA {toolkit}, and the installed PyTorch {torch.__version__} is for CUDA "
            f"{torch.version.cuda}: the major versions must be equal. Build dsa_fast again with this PyTorch"
        )
    error = _load(path)
    return None if error is None else f"{path} does not load into PyTorch {torch.__version__}: {error}"


load_cpu()
cuda_missing: str | None = load_cuda()


def require_cuda() -> None:
    """Checks that the CUDA kernels are loaded.

    Raises:
        RuntimeError: They are not; the message gives the reason.
    """
    if cuda_missing is not None:
        raise RuntimeError(f"dsa_fast has no CUDA kernels here: {cuda_missing}")
