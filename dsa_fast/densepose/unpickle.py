"""Reads the values in `torch.save` files and pickles. No code in the file is run, and nothing it names is imported.

A pickle is a program: `pickle.load` calls any function that the file names. This reader accepts only tensors, plain
values and expected classes, whose objects become inert `Call`s.

`torch.load(weights_only=True)` reads the files of `torch.save`: the zip format of torch 1.6 and later, and the older
format. This module adds two things. In a zip, it checks sizes and checksums first, because torch takes the number of
elements from the pickle and does not compare it with the bytes that follow. And `torch.load` does not read the plain
pickles that `apply_net.py dump` wrote until 2020. Python's own unpickler reads them, restricted to the same names. Such
a pickle stores each tensor's numbers as a complete `torch.save` file of the older format.

A malicious file can still waste memory or time.
"""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import torch
from torch import Tensor
from torch.storage import TypedStorage

__all__ = ["Call", "read_values"]

_DEEPEST = 100  # dumps nest values about ten deep
_MARK = -1
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of torch.save's format before zips


class Call:
    """An object in the file, as data. Nothing was called.

    Attributes:
        path: its class, such as `densepose.structures.chart_result.DensePoseChartResult`.
        args: its constructor arguments.
        state: its attributes, if the file has any.
    """

    path = ""

    def __new__(cls, *args: Any) -> Call:
        call = object.__new__(cls)
        call.args, call.state = args, {}
        return call

    def __init__(self, *args: Any) -> None:
        self.args: tuple[Any, ...]
        self.state: dict[str, Any]

    def __setstate__(self, state: Any) -> None:
        parts = state if isinstance(state, tuple) and len(state) == 2 else (state, None)  # attributes, slots
        if not all(part is None or isinstance(part, dict) for part in parts):
            raise ValueError("an object's attributes must be a dict")
        self.state = {**self.state, **(parts[0] or {}), **(parts[1] or {})}


class _Refused(Exception):
    """The file refers to something that is not allowed."""


def read_values(path: str | os.PathLike[str], classes: Collection[str]) -> Any:
    """Reads the value in a file: plain values, lists, tuples, dicts, `Tensor`s and `Call`s.

    Args:
        path: a `torch.save` file or a pickle.
        classes: names of the allowed classes, without their modules. Their objects become `Call`s.

    Returns:
        The value. Tensors are on the CPU. Tensors in a zip are private views of the file's pages, read on use.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is neither, is truncated or damaged, or names anything else. The message names the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"file not found: {path}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} must be a torch.save file or a pickle, got an empty file")
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's warnings about old files
            return _checked(_read(path, file, frozenset(classes)))
    except _Refused as error:
        raise ValueError(
            f"{path} is not loaded: it refers to {error}, which is neither a tensor nor a known result; nothing was run"
        ) from None
    except Exception as error:  # damage can cause any error
        about = str(error).split("\n")[0] or type(error).__name__
        raise ValueError(f"{path} is not a torch.save file or pickle, or is truncated or damaged: {about}") from error


def _read(path: Path, file: BinaryIO, classes: frozenset[str]) -> Any:
    if file.read(4) == b"PK\x03\x04":
        with zipfile.ZipFile(file) as archive:
            return _load(path, _check_zip(archive), classes, mmap=True)
    file.seek(0)
    _names(file)
    file.seek(0)
    first = _Unpickler(file, classes).load()
    if type(first) is not int or first != _LEGACY_MAGIC:
        return first
    return _load(path, file, classes, pickles=4)  # format version, machine, value, keys of the tensors' data


def _check_zip(archive: zipfile.ZipFile) -> BinaryIO:
    """Checks every record and opens the pickle."""
    for info in archive.infolist():
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise ValueError(f"record {info.filename} is compressed or encrypted, which torch.save does not do")
    damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"record {damaged} is cut short or damaged")
    pickles = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError("it is a zip archive, but not one of torch.save (it holds no data.pkl)")
    return io.BytesIO(archive.read(pickles[0]))


def _load(source: Path, program: BinaryIO, classes: frozenset[str], *, pickles: int = 1, mmap: bool = False) -> Any:
    """Calls torch.load, with stand-ins for the expected classes that are named in the file's pickles, `program`."""
    named: set[str] = set().union(*(_names(program) for _ in range(pickles)))
    stand_ins: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = []
    stand_ins += [(_stand_in(name), name) for name in named if name.rpartition(".")[2] in classes]
    with torch.serialization.safe_globals(stand_ins):
        return _torch_load(source, mmap=mmap)


def _names(program: BinaryIO) -> set[str]:
    """Returns the names that a pickle refers to.

    Raises:
        ValueError: it nests values too deeply. Python hashes a tuple by recursion without checking its stack, so such a
            key of a dict would crash the process.
    """
    names: set[str] = set()
    stack: list[int] = []  # depth of each value; _MARK for a mark
    memo: dict[int, int] = {}
    for opcode, arg, _ in pickletools.genops(program):
        name, place = opcode.name, arg if isinstance(arg, int) else len(memo)  # MEMOIZE numbers its entries
        if name == "GLOBAL":
            names.add(str(arg).replace(" ", "."))
        if name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[place] = stack[-1]
            continue
        if name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[place])
            continue
        taken: list[int] = []
        if pickletools.markobject in opcode.stack_before:
            while (depth := stack.pop()) != _MARK:
                taken.append(depth)
        for kind in opcode.stack_before:
            if kind is pickletools.markobject:
                break
            taken.append(stack.pop())
        deep = 1 + max(taken) if taken else 0
        if name in ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS"):  # the container was taken last
            deep = max(taken[-1], 1 + max(taken[:-1], default=0))
        if deep > _DEEPEST:
            raise ValueError(f"it nests values more than {_DEEPEST} deep")
        stack.extend(_MARK if kind is pickletools.markobject else deep for kind in opcode.stack_after)
    return names


def _torch_load(source: Path | BinaryIO, *, mmap: bool = False) -> Any:
    try:
        return torch.load(source, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        if asked:
            raise _Refused(asked[1][:200]) from None
        raise


def _stand_in(path: str) -> type[Call]:
    return type(path.rpartition(".")[2], (Call,), {"path": path})


class _Unpickler(pickle._Unpickler):  # in Python: the C version allocates any amount of memory that the file names
    """Reads one pickle that names only tensors and expected classes."""

    stack: list[Any]

    def __init__(self, file: BinaryIO, classes: frozenset[str]) -> None:
        super().__init__(file)
        self._classes = classes

    def find_class(self, module: str, name: str) -> Any:
        path = f"{module}.{name}"
        if path in _FUNCTIONS:
            return _FUNCTIONS[path]
        if name in self._classes:
            return _stand_in(path)
        raise _Refused(path[:200])

    def load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, Call):
            raise _Refused("a change of something other than a result")
        target.__setstate__(state)

    dispatch: ClassVar[dict[int, Any]] = {**pickle._Unpickler.dispatch, pickle.BUILD[0]: load_build}

    def get_extension(self, code: int) -> None:
        raise _Refused(f"extension {code}")


def _encode(text: str, encoding: str) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise ValueError("bytes must be encoded as latin1")
    return text.encode("latin1")


def _storage(data: bytes) -> TypedStorage:
    storage = _torch_load(io.BytesIO(data))
    if not isinstance(storage, TypedStorage):
        raise ValueError("tensor data must be one storage")
    return storage


def _tensor(storage: TypedStorage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    numbers = (offset, *shape, *stride)
    if not isinstance(storage, TypedStorage) or len(shape) > 16 or not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError("a tensor must have a storage, an offset, a shape and a stride")
    try:
        whole = torch.empty(0, dtype=storage.dtype).set_(storage._untyped_storage)
        return whole.as_strided(shape, stride, offset)
    except RuntimeError as error:
        raise ValueError(f"a tensor must lie inside its data: {error}") from error


_FUNCTIONS = {
    "collections.OrderedDict": dict,
    "_codecs.encode": _encode,
    "torch.storage._load_from_bytes": _storage,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor": _tensor,
}


def _checked(value: Any) -> Any:
    """Returns the value after checking its contents: complete tensors inside their data, and no bare class."""
    waiting, seen = [value], set()
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, Tensor):
            # A stride of 0 would make a tensor of any size from one number.
            if type(each) is not Tensor or each.layout != torch.strided or each.device.type != "cpu":
                raise ValueError(f"a tensor must be dense and on the CPU, got {type(each).__name__} {each.layout}")
            if each.numel() * each.element_size() > each.untyped_storage().nbytes():
                raise ValueError("a tensor reaches beyond its data")
        elif isinstance(each, (list, tuple, dict)):
            waiting.extend([*each, *each.values()] if isinstance(each, dict) else each)
        elif isinstance(each, Call):
            waiting.extend((each.args, each.state))
        elif each is not None and not isinstance(each, (bool, int, float, str, bytes, bytearray)):
            raise ValueError(f"it holds a {type(each).__name__}")
    return value
