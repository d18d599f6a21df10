"""Options: a dataclass for each group, and YAML files of training runs: `tiny`, `quick`, `small`, `dsa_reid`, ...

This package imports no other part of `dsa_fast`.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path

__all__ = ["find_config", "row_names"]

_FOLDER = Path(__file__).resolve().parent


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
