"""Files of network weights: download them, read them without running pickled code, and load them by name."""

from __future__ import annotations

import codecs
import collections
import http.client
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["download_state", "load_named", "misfits", "read_arrays", "read_state"]


def read_state(source: str | os.PathLike[str], *, name: str, known: str, model: str) -> dict[str, Tensor]:
    """Reads a state dict from a file. No pickled code is run (`weights_only=True`).

    Args:
        source: the file.
        name: the argument that named the file. This and the next two are for error messages.
        known: the allowed values of the argument.
        model: the torchvision model whose parameter names the file uses.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a state dict.
    """
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"{name} must be {known}; there is no file {str(path)!r}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError) as error:
        first = str(error).strip().split("\n")[0]
        raise ValueError(f"{name}: {str(path)!r} is not a file of tensors for torch.load ({first})") from error
    if not (isinstance(state, dict) and all(isinstance(value, Tensor) for value in state.values())):
        raise ValueError(
            f"{name}: {str(path)!r} must hold a state dict (names to tensors) as torchvision's {model} gives, "
            f"got {_describe(state)}"
        )
    return state


def read_arrays(path: Path) -> Any:
    """Reads tensors or arrays in dicts and lists: a .pkl such as detectron2's, or a file of `torch.save`.

    Code that the file names is not run.

    Raises:
        pickle.UnpicklingError: the file asks for anything else. Damaged files raise other errors too.
    """
    if path.suffix != ".pkl":
        return torch.load(path, map_location="cpu", weights_only=True)
    with path.open("rb") as file:
        return _ArrayUnpickler(file, encoding="latin1").load()


def download_state(weights: Any, *, name: str, what: str, argument: str, otherwise: str = "") -> dict[str, Tensor]:
    """Downloads torchvision's weights once, into torch.hub's cache.

    Args:
        weights: a member of one of torchvision's weights enums.
        name: the option that requires them. This and the next arguments are for error messages.
        what: a description of the weights.
        argument: the argument that accepts a file instead.
        otherwise: another way to continue.

    Raises:
        ValueError: the download fails; the message explains how to provide the file by hand.
    """
    try:
        state: dict[str, Tensor] = weights.get_state_dict(
            progress=False, check_hash=True, map_location="cpu", weights_only=True
        )
    except (OSError, RuntimeError, EOFError, http.client.HTTPException, pickle.UnpicklingError) as error:
        file = Path(weights.url).name
        raise ValueError(
            f"{name}: {what} can't be downloaded from {weights.url} ({error}). Download that file on another "
            f"machine and pass its path ({argument}='/path/to/{file}'), or put it into "
            f"{Path(torch.hub.get_dir()) / 'checkpoints'}{otherwise}"
        ) from error
    return state


def load_named(module: nn.Module, state: Mapping[str, Tensor], *, prefix: str = "", source: str = "state") -> None:
    """Loads the entries of `state` named `prefix` + the module's own names, and skips all others.

    Batch counters (`num_batches_tracked`) may be missing, as in old files.

    Raises:
        ValueError: names are missing or shapes differ; the message lists both. The module is then unchanged.
    """
    own = module.state_dict()
    found = misfits({prefix + k: v.shape for k, v in own.items()}, state)
    if found:
        raise ValueError(f"{source} does not fit this network: {found}")
    module.load_state_dict({k: state[prefix + k] for k in own if prefix + k in state}, strict=False)


def misfits(needed: Mapping[str, torch.Size], state: Mapping[str, Tensor]) -> str:
    """Describes the names that `state` lacks or has in another shape, a few of each; empty if it fits.

    Batch counters (`num_batches_tracked`) may be missing, as in old files.
    """
    missing = [name for name in needed if name not in state and not name.endswith("num_batches_tracked")]
    wrong = [
        f"{name} {list(state[name].shape)} instead of {list(shape)}"
        for name, shape in needed.items()
        if name in state and state[name].shape != shape
    ]
    groups = ((missing, "missing"), (wrong, "of another shape"))
    return "; ".join(f"{len(names)} {words}: {_few(names)}" for names, words in groups if names)


def _few(names: list[str], limit: int = 4) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def _describe(state: object) -> str:
    return f"a dict with {_few([str(k) for k in state])}" if isinstance(state, dict) else type(state).__name__


class _ArrayUnpickler(pickle.Unpickler):
    """Accepts only NumPy arrays."""

    _ADMITTED = frozenset(
        (module, name)
        for core in ("numpy.core.multiarray", "numpy._core.multiarray")
        for module, name in ((core, "_reconstruct"), (core, "scalar"), ("numpy", "ndarray"), ("numpy", "dtype"))
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("_codecs", "encode"):
            return codecs.encode
        if (module, name) in self._ADMITTED:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it refers to {module}.{name}, which no weights need; nothing was run")
