"""Imports of optional dependencies."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from types import ModuleType

__all__ = ["require"]

#: Packages whose name is not their module's.
_PACKAGES = {
    "faiss": "faiss-cpu",
    "mlflow": "mlflow-skinny",
    "pytorch_metric_learning": "pytorch-metric-learning",
    "sklearn": "scikit-learn",
    "tensorrt_rtx": "tensorrt-rtx",
}


def require(module: str, purpose: str = "") -> ModuleType:
    """Imports an optional dependency.

    Args:
        module: its name.
        purpose: what needs it, such as `reading x.mat`, for the message.

    Raises:
        ValueError: it is not installed; the message says how to install it.
    """
    # ONNX Runtime (1.32 and later) writes a number of this device and its use into the home folder, to report them. It
    # looks at this variable when it is imported. A user's own setting stays.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        with _without("openvino_telemetry"):
            return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        package = _PACKAGES.get(name, name)
        needed = f"{purpose} needs {name}" if purpose else f"{name} must be installed"
        raise ValueError(f"{needed}: pip install {package} ({error})") from error


@contextlib.contextmanager
def _without(module: str) -> Iterator[None]:
    """Hides a module in the block, if it is not loaded yet.

    OpenVINO reports to its makers when it is imported, if that module is there: it looks up a host, starts a process
    and writes into the home folder. Without the module it does not.
    """
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]
