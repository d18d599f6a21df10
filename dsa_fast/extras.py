"""Imports of optional dependencies."""

from __future__ import annotations

import importlib
from types import ModuleType

__all__ = ["require"]

#: Packages whose name is not their module's.
_PACKAGES = {"faiss": "faiss-cpu", "tensorrt_rtx": "tensorrt-rtx", "sklearn": "scikit-learn"}


def require(module: str, purpose: str = "") -> ModuleType:
    """Imports an optional dependency.

    Args:
        module: its name.
        purpose: what needs it, such as `reading x.mat`, for the message.

    Raises:
        ValueError: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        package = _PACKAGES.get(name, name)
        needed = f"{purpose} needs {name}" if purpose else f"{name} must be installed"
        raise ValueError(f"{needed}: pip install {package} ({error})") from error
