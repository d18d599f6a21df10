"""Reads the values of a pickle, or of a `torch.save` file, without running any of it.

A pickle is a program: `pickle.load` calls whatever the file names. This reader calls nothing. It decodes the opcodes
(the standard library's `pickletools`, which only decodes), keeps a stack of plain values, and turns each class or
function that the file names, and each call of it, into an inert `Name` or `Call`. A name that is not expected is an
error as soon as it is read. Tensors are recognised by torch's own names for them and made here, from bytes of the file,
after their sizes were checked; they lie on the CPU, wherever they were when they were saved.

Read are `torch.save` files of both formats (the zip of torch 1.6 and later, and the one before it) and plain pickles,
whose tensors hold a file of the older format each.
"""

from __future__ import annotations

import io
import mmap
import os
import pickletools
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["Call", "Name", "read_values"]

_ZIP_START = b"PK\x03\x04"
# What torch.save writes first in its older format, as three pickles before the object's.
_LEGACY_MAGIC, _LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001

_STORAGES: dict[str, torch.dtype] = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_STORAGE_NAMES = {f"{place}.{name}": dtype for place in ("torch", "torch.cuda") for name, dtype in _STORAGES.items()}
_DICT = "collections.OrderedDict"
_LATIN = "_codecs.encode"
_REBUILD = frozenset({"torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"})
_NESTED = "torch.storage._load_from_bytes"
_OWN = frozenset({*_STORAGE_NAMES, _DICT, _LATIN, *_REBUILD, _NESTED})


class Name(NamedTuple):
    """A class or function that the file names."""

    path: str


@dataclass(eq=False)
class Call:
    """A call, or the making of an object, as the file has it. Nothing was called.

    Attributes:
        path: what the file would call, such as `densepose.structures.chart_result.DensePoseChartResult`.
        args: with these.
        state: the object's attributes, if the file gives some.
    """

    path: str
    args: tuple[Any, ...] = ()
    state: dict[str, Any] = field(default_factory=dict)


class _Storage(NamedTuple):
    """A row of numbers in the file; `data` is None where they come later in it."""

    dtype: torch.dtype
    numel: int
    data: memoryview | None


class _Mark:
    pass


def read_values(path: str | os.PathLike[str], classes: Collection[str]) -> Any:
    """What a file holds: None, bool, int, float, str, bytes, list, tuple, dict, `Tensor`, `Call` and `Name`.

    Args:
        path: a file of `torch.save`, or a pickle.
        classes: names, without their modules, of the classes that may occur; objects of these become a `Call`.

    Returns:
        The value. Tensors are on the CPU. Large ones are not copied: they are private views of the file's pages, read
        as they are used.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is neither, is cut short or damaged, or names anything else. The message names the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"file not found: {path}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} must be a torch.save file or a pickle, got an empty file")
    try:
        return _Reader(frozenset(classes)).read(path)
    except _Refused as error:
        raise ValueError(f"{path} is not loaded: {error}") from None
    except (ValueError, KeyError, IndexError, TypeError, struct.error, zipfile.BadZipFile, EOFError) as error:
        about = str(error) or type(error).__name__
        raise ValueError(f"{path} is no torch.save file or pickle, is cut short or damaged: {about}") from error


class _Refused(Exception):
    """The file is well-formed and asks for what it must not have."""


class _Reader:
    def __init__(self, classes: frozenset[str]) -> None:
        self.classes = classes

    def read(self, path: Path) -> Any:
        with path.open("rb") as file:
            # Private: what is written to a tensor stays in memory.
            stream = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        if stream[:4] == _ZIP_START:
            return self._zip(path, memoryview(stream))
        return self._pickles(stream, memoryview(stream))

    def nested(self, data: Any) -> _Storage:
        """The storage that a plain pickle holds as the bytes of a torch.save file of its own."""
        if not isinstance(data, (bytes, bytearray)):
            raise ValueError("tensor data must be bytes")
        copy = bytearray(data)
        value = self._pickles(io.BytesIO(copy), memoryview(copy))
        if not isinstance(value, _Storage):
            raise ValueError("tensor data must be one storage")
        return value

    def _zip(self, path: Path, buffer: memoryview) -> Any:
        records: dict[str, memoryview] = {}
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
        for info in entries:
            if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
                raise ValueError(f"record {info.filename} is compressed or encrypted, which torch.save does not do")
            # The local header repeats the name and has an extra field of its own length.
            start = info.header_offset
            if buffer[start : start + 4] != _ZIP_START:
                raise ValueError(f"record {info.filename} is not where the archive says")
            start += 30 + sum(struct.unpack("<HH", buffer[start + 26 : start + 30]))
            data = buffer[start : start + info.file_size]
            if len(data) != info.file_size or zlib.crc32(data) != info.CRC:
                raise ValueError(f"record {info.filename} is cut short or damaged")
            records[info.filename] = data
        pickles = [name for name in records if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError("it is a zip archive, but not one of torch.save (it holds no data.pkl)")
        top = pickles[0].removesuffix("data.pkl")
        order = bytes(records.get(f"{top}byteorder", b"little"))
        if order != sys.byteorder.encode():
            raise ValueError(f"its numbers are {order!r}-endian, this machine's are {sys.byteorder}-endian")

        def storage(saved: Any) -> _Storage:
            dtype, key, numel, _ = _checked_id(saved, 5)
            data = records.get(f"{top}data/{key}")
            if data is None or len(data) != numel * dtype.itemsize:
                got = "none" if data is None else len(data)
                raise ValueError(f"tensor data {key} must have {numel * dtype.itemsize} bytes, got {got}")
            return _Storage(dtype, numel, data)

        return _Machine(self, io.BytesIO(records[pickles[0]]), storage).run()

    def _pickles(self, stream: mmap.mmap | io.BytesIO, buffer: memoryview) -> Any:
        """A plain pickle, or torch.save's older format: four pickles, a list of keys, and each key's data."""
        first = _Machine(self, stream).run()
        if type(first) is not int or first != _LEGACY_MAGIC:
            return first
        version, system = _Machine(self, stream).run(), _Machine(self, stream).run()
        if type(version) is not int or version != _LEGACY_VERSION or not isinstance(system, dict):
            raise ValueError(f"its format is not version {_LEGACY_VERSION} of torch.save's")
        if system.get("little_endian") is not (sys.byteorder == "little"):
            raise ValueError("its numbers are of another byte order than this machine's")
        storages: dict[str, _Storage] = {}

        def storage(saved: Any) -> _Storage:
            dtype, key, numel, view = _checked_id(saved, 6)
            if view is not None:
                raise ValueError("it holds views of storages, which torch wrote before version 0.4")
            known = storages.setdefault(key, _Storage(dtype, numel, None))
            if known.dtype != dtype or known.numel != numel:
                raise ValueError(f"tensor data {key} has two types or sizes")
            return known

        # The data comes after the value that uses it: what the value needs is found in a first pass.
        start = stream.tell()
        _Machine(self, stream, storage).run()
        keys = _Machine(self, stream).run()
        if not isinstance(keys, list) or {str(key) for key in keys if isinstance(key, (str, int))} != set(storages):
            raise ValueError("its list of tensor data is not that of its tensors")
        at = stream.tell()
        for key in map(str, keys):
            dtype, numel, _ = storages[key]
            data = buffer[at + 8 : at + 8 + numel * dtype.itemsize]
            if buffer[at : at + 8] != struct.pack("<q", numel) or len(data) != numel * dtype.itemsize:
                raise ValueError(f"tensor data {key} is cut short")
            storages[key] = _Storage(dtype, numel, data)
            at += 8 + len(data)
        stream.seek(start)
        return _Machine(self, stream, storage).run()


def _checked_id(saved: Any, length: int) -> tuple[torch.dtype, str, int, Any]:
    """Type, key, number of elements and what follows of a persistent id ("storage", type, key, location, ...)."""
    if not isinstance(saved, tuple) or len(saved) != length or not isinstance(saved[1], Name):
        raise ValueError("tensor data is named in an unknown way")
    kind, name, key, _, numel, *rest = saved
    if kind != "storage" or name.path not in _STORAGE_NAMES:
        raise ValueError("tensor data is of an unknown type")
    if type(key) not in (str, int) or type(numel) is not int or not 0 <= numel < 1 << 60:
        raise ValueError("tensor data must have a name and a number of elements")
    return _STORAGE_NAMES[name.path], str(key), numel, rest[0] if rest else None


class _Machine:
    """Runs the stack of one pickle; calls become `Call`s, but for tensors."""

    def __init__(
        self,
        reader: _Reader,
        stream: mmap.mmap | io.BytesIO,
        storage: Callable[[Any], _Storage] | None = None,
    ) -> None:
        self.reader, self.stream, self.storage = reader, stream, storage
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """The value of the pickle that starts where the stream stands, which is left behind its end."""
        stack, memo = self.stack, self.memo
        for opcode, arg, _ in pickletools.genops(self.stream):  # type: ignore[arg-type]
            name = opcode.name
            if name in _CONSTANTS:
                stack.append(arg)
            elif name in _MAKERS:
                stack.append(_MAKERS[name]())
            elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
                memo[int(arg)] = stack[-1]  # type: ignore[arg-type]
            elif name == "MEMOIZE":
                memo[len(memo)] = stack[-1]
            elif name in ("BINGET", "LONG_BINGET", "GET"):
                stack.append(memo[int(arg)])  # type: ignore[arg-type]
            elif name in _HANDLERS:
                _HANDLERS[name](self)
            elif name == "GLOBAL":
                module, _, attribute = str(arg).partition(" ")
                stack.append(self.named(module, attribute))
            elif name == "STOP":
                return stack.pop()
            elif name not in ("PROTO", "FRAME"):
                raise ValueError(f"it uses the pickle instruction {name}, which no saved result needs")
        raise ValueError("it ends early")

    def named(self, module: Any, attribute: Any) -> Name:
        if not isinstance(module, str) or not isinstance(attribute, str):
            raise ValueError("a class must have a name")
        path = f"{module}.{attribute}"
        if path not in _OWN and attribute not in self.reader.classes:
            raise _Refused(f"it asks for {path[:200]}, which is neither a tensor nor a known result; nothing was run")
        return Name(path)

    def to_mark(self) -> list[Any]:
        at = len(self.stack) - 1
        while not isinstance(self.stack[at], _Mark):
            at -= 1
            if at < 0:
                raise ValueError("its stack has no mark")
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def global_from_stack(self) -> None:
        attribute, module = self.stack.pop(), self.stack.pop()
        self.stack.append(self.named(module, attribute))

    def call(self) -> None:
        args, target = self.stack.pop(), self.stack.pop()
        if not isinstance(target, Name) or not isinstance(args, tuple):
            raise _Refused("it calls something that is no name; nothing was run")
        path = target.path
        if path == _DICT:
            value: Any = {}
            if args:
                raise ValueError("an OrderedDict must start empty")
        elif path == _LATIN:
            if len(args) != 2 or not isinstance(args[0], str) or args[1] not in ("latin1", b"latin1"):
                raise ValueError("bytes must be encoded as latin1")
            value = args[0].encode("latin1")
        elif path == _NESTED:
            value = self.reader.nested(args[0])
        elif path in _REBUILD:
            value = _tensor(args)
        elif path in _STORAGE_NAMES:
            raise _Refused(f"it makes a {path} of its own; nothing was run")
        else:
            value = Call(path, args)
        self.stack.append(value)

    def call_with_names(self) -> None:
        if self.stack.pop() != {}:
            raise ValueError("objects are made without keywords")
        self.call()

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        slots: Any = {}
        if isinstance(state, tuple) and len(state) == 2:
            state, slots = state
        if not isinstance(target, Call) or not all(part is None or isinstance(part, dict) for part in (state, slots)):
            raise _Refused("it changes the state of something that is no known result; nothing was run")
        target.state.update({**(state or {}), **(slots or {})})

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        # Only flat keys are hashed: a tuple's hash descends without limit.
        if not isinstance(target, dict) or not all(isinstance(key, (str, int)) for key in items[::2]):
            raise ValueError("a dict must have names or numbers as keys")
        if len(items) % 2:
            raise ValueError("a dict's items must be pairs")
        target.update(zip(items[::2], items[1::2], strict=True))

    def append(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise ValueError("only lists can be appended to")
        self.stack[-1].extend(items)

    def top(self, count: int) -> list[Any]:
        if len(self.stack) < count or any(isinstance(item, _Mark) for item in self.stack[len(self.stack) - count :]):
            raise ValueError("its stack is too short")
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return items

    def persistent(self) -> None:
        if self.storage is None:
            raise _Refused("it refers to data outside of the pickle; nothing was run")
        self.stack.append(self.storage(self.stack.pop()))

    def make_list(self) -> None:
        self.stack.append(self.to_mark())

    def make_tuple(self) -> None:
        self.stack.append(tuple(self.to_mark()))

    def make_dict(self) -> None:
        items = self.to_mark()
        self.stack.append({})
        self.set_items(items)


_CONSTANTS = frozenset(
    {
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    }
)
_MAKERS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "MARK": _Mark,
}
_HANDLERS: dict[str, Callable[[_Machine], None]] = {
    "LIST": _Machine.make_list,
    "TUPLE": _Machine.make_tuple,
    "DICT": _Machine.make_dict,
    "TUPLE1": lambda it: it.stack.append(tuple(it.top(1))),
    "TUPLE2": lambda it: it.stack.append(tuple(it.top(2))),
    "TUPLE3": lambda it: it.stack.append(tuple(it.top(3))),
    "APPEND": lambda it: it.append(it.top(1)),
    "APPENDS": lambda it: it.append(it.to_mark()),
    "SETITEM": lambda it: it.set_items(it.top(2)),
    "SETITEMS": lambda it: it.set_items(it.to_mark()),
    "POP": lambda it: it.stack.__delitem__(-1),
    "POP_MARK": lambda it: it.to_mark().clear(),
    "DUP": lambda it: it.stack.append(it.stack[-1]),
    "STACK_GLOBAL": _Machine.global_from_stack,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "NEWOBJ_EX": _Machine.call_with_names,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent,
}


def _tensor(args: tuple[Any, ...]) -> Tensor | None:
    """A tensor of its storage, offset, shape and stride; the rest (gradient, hooks) is left out. None: data to come."""
    if len(args) < 4 or not isinstance(args[0], _Storage):
        raise ValueError("a tensor must have a storage, an offset, a shape and a stride")
    (dtype, numel, data), offset, shape, stride = args[:4]
    numbers = (offset, *shape, *stride) if isinstance(shape, tuple) and isinstance(stride, tuple) else (None,)
    if not all(type(n) is int and n >= 0 for n in numbers) or len(shape) != len(stride) or len(shape) > 16:
        raise ValueError("a tensor's offset, shape and stride must be counts")
    count, last = 1, offset
    for length, step in zip(shape, stride, strict=True):
        count, last = count * length, last + max(length - 1, 0) * step
    # A stride of 0 would make a tensor of any size out of one number.
    if count and (last >= numel or count > numel):
        raise ValueError("a tensor reaches beyond its data")
    if data is None:
        return None
    if not count:
        return torch.empty(shape, dtype=dtype)
    raw = torch.from_numpy(np.frombuffer(data, np.uint8))
    if raw.data_ptr() % dtype.itemsize:  # the older format does not align
        raw = raw.clone()
    return raw.view(dtype).as_strided(shape, stride, offset)
