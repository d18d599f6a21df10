"""Loads the compiled libraries into PyTorch, and stores the reason if the CUDA library is missing."""

from __future__ import annotations

import json
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch

from dsa_fast.version import __version__

_CPU, _CUDA, _NOTE = "_C.abi3.so", "_C_cuda.abi3.so", "_build.json"


def find_libraries(own: Path = Path(__file__).resolve().parent.parent) -> Path:
    """Returns the folder of the compiled libraries: this package's, or that of an installed copy of this version.

    Python started in the source folder imports the sources there, which have no libraries after `pip install .`.

    Raises:
        ImportError: there are none; the message says whether another version is installed, and what to do.
    """
    if (own / _CPU).exists():
        return own
    others = []
    for installed in distributions(name="dsa-fast"):
        folder = Path(str(installed.locate_file("dsa_fast"))).resolve()
        if folder != own and (folder / _CPU).exists():
            if installed.version == __version__:
                return folder
            others.append(f"{installed.version} in {folder}")
    message = f"dsa_fast {__version__} is not built: {own / _CPU} is missing"
    if others:
        raise ImportError(
            f"{message}. Another version is installed, {others[0]}: leave {own.parent} to use it, or replace it with "
            "`pip install .`"
        )
    raise ImportError(f"{message}, and no copy is installed. Build it with `pip install .`")


def _load(path: Path) -> str | None:
    """Loads a library; returns None, or the dynamic loader's error if it fails."""
    try:
        torch.ops.load_library(path)
    except OSError as error:
        return str(error.__cause__ or error)  # PyTorch's error names only the file
    return None


def load_cpu(path: Path) -> None:
    """Loads the operators' schemas and CPU kernels.

    Raises:
        ImportError: The library does not load; the message gives the reason.
    """
    error = _load(path)
    if error is not None:
        raise ImportError(
            f"dsa_fast: {path} does not load into PyTorch {torch.__version__} (2.11 or newer is needed): {error}"
        )


def load_cuda(path: Path, note: Path) -> str | None:
    """Loads the CUDA kernels.

    Returns:
        None if they are loaded, otherwise the reason: from the build's record, a CUDA version that does not fit
        PyTorch's, or from the dynamic loader.
    """
    build: dict[str, Any] = json.loads(note.read_text()) if note.exists() else {"cuda": True}
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


#: Where the libraries are; it may be another folder than the Python sources'.
folder: Path = find_libraries()
load_cpu(folder / _CPU)
cuda_missing: str | None = load_cuda(folder / _CUDA, folder / _NOTE)


def require_cuda() -> None:
    """Checks that the CUDA kernels are loaded.

    Raises:
        RuntimeError: They are not; the message gives the reason.
    """
    if cuda_missing is not None:
        raise RuntimeError(f"dsa_fast has no CUDA kernels here: {cuda_missing}")
