"""The one way to print: names of files and people are shown as they are."""

from __future__ import annotations

from typing import Any

import rich.console

__all__ = ["Console"]


class Console(rich.console.Console):
    """Rich's console without its markup: square brackets in a path are only square brackets.

    Lines are not highlighted by default. The options are those of rich.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "highlight": False, "emoji": False, **options})
