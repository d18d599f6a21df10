"""Options of whole runs as YAML files inside the package: `small`, `tiny`, `dsa_reid`, and `rows/NAME`.

This package imports no other part of `dsa_fast`.
"""

from __future__ import annotations

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
    known = sorted(file.stem for file in _FOLDER.glob("*.yaml"))
    raise FileNotFoundError(
        f"{option} must be a YAML file, or one of {', '.join(known)} and rows/NAME with NAME one of "
        f"{', '.join(row_names())}; got {str(name)!r}"
    )


def row_names() -> list[str]:
    """Returns the NAMEs of all `rows/NAME` in the package, sorted."""
    return sorted(file.stem for file in (_FOLDER / "rows").glob("*.yaml"))
