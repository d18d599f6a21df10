"""Options: a dataclass for each group, and YAML files of training runs: `tiny`, `quick`, `small`, `dsa_reid`, ...

Also the one reader of YAML from outside: options are data, and nothing in them names code. This package imports no
other part of `dsa_fast`.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

__all__ = ["check_plain", "check_yaml", "find_config", "read_yaml", "row_names"]

_FOLDER = Path(__file__).resolve().parent
_MOST_BYTES, _MOST_DEPTH, _MOST_VALUES = 1 << 20, 32, 20_000
# Keys with which jsonargparse names a class to import and call.
_CODE = ("class_path", "init_args", "dict_kwargs")


def read_yaml(path: str | os.PathLike[str]) -> Any:
    """Reads a YAML file of scalars, lists and maps.

    Raises:
        OSError: the file can't be read.
        ValueError: it is not UTF-8 or YAML, is too large or too deep, or names code; the message names the file.
    """
    try:
        with Path(path).open("rb") as file:
            text = file.read(_MOST_BYTES + 1).decode()
        check_yaml(text)
        value = yaml.safe_load(text)
        check_plain(value)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path} must be a YAML file of plain values, got: {error}") from error
    return value


def check_yaml(text: str) -> None:
    """Checks the size of a YAML text without building its values, so nested aliases cost nothing.

    Raises:
        ValueError: the text, its depth or the number of its values (with its aliases written out) is too large, or an
            alias contains itself.
        yaml.YAMLError: the text is not YAML.
    """
    if len(text) > _MOST_BYTES:
        raise ValueError(f"YAML must have at most {_MOST_BYTES:,} characters, got more")
    known: dict[str, int] = {}  # number of values of each anchor
    open_: list[tuple[str | None, int]] = []  # anchor and number of values so far, of each open list or map
    for event in yaml.parse(text):
        if isinstance(event, yaml.CollectionStartEvent):
            open_.append((event.anchor, 1))
            if len(open_) > _MOST_DEPTH:
                raise ValueError(f"YAML must be at most {_MOST_DEPTH} levels deep, got more")
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, values = open_.pop()
        elif isinstance(event, yaml.ScalarEvent):
            anchor, values = event.anchor, 1
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in known:
                raise ValueError(f"YAML's alias *{event.anchor} must follow its whole anchor")
            anchor, values = None, known[event.anchor]
        else:
            continue
        if anchor is not None:
            known[anchor] = values
        if open_:
            open_[-1] = (open_[-1][0], open_[-1][1] + values)
            values = open_[-1][1]
        if values > _MOST_VALUES:
            raise ValueError(f"YAML must have at most {_MOST_VALUES:,} values with its aliases, got more")


def check_plain(value: Any, name: str = "") -> None:
    """Checks that no key of nested maps names code.

    Raises:
        ValueError: there is such a key; the message names its place.
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            place = f"{name}.{key}" if name else str(key)
            if any(part in _CODE for part in str(key).split(".")):
                raise ValueError(f"options are data and name no code, got {place}")
            check_plain(item, place)
    elif isinstance(value, (list, tuple)):
        for item in value:
            check_plain(item, name)


def find_config(name: str | os.PathLike[str], option: str = "config") -> Path:
    """Finds a configuration by its path, or by its name in the package (`small`, `rows/csa`), from any folder.

    Args:
        name: the path or name.
        option: the option that named it, for errors.

    Raises:
        FileNotFoundError: no file and no configuration has this name; the message lists the names.
    """
    path = Path(name)
    if path.is_file():
        return path
    own = _FOLDER / path.with_name(path.name.removesuffix(".yaml") + ".yaml")
    if not path.is_absolute() and own.is_file():
        return own
    known, rows = sorted(file.stem for file in _FOLDER.glob("*.yaml")), [f"rows/{row}" for row in row_names()]
    near = difflib.get_close_matches(str(name), [*known, *rows], n=1)
    listed = ", ".join(rows if str(name).startswith("rows/") else [*known, "rows/NAME"])
    raise FileNotFoundError(
        f"{option} must be a YAML file, or one of {listed}, got {str(name)!r}"
        + (f"; did you mean {near[0]}?" if near else "")
    )


def row_names() -> list[str]:
    """Returns the NAMEs of all `rows/NAME` in the package, sorted."""
    return sorted(file.stem for file in (_FOLDER / "rows").glob("*.yaml"))
