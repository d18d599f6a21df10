"""What commands and training print: for people at a terminal, and for pipes and log files.

Rich is imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["console", "counted", "duration"]

_WIDE = 200  # columns of a pipe, so tables keep theirs


def console(*, stderr: bool = False, width: int | None = None) -> Console:
    """Returns Rich's console for stdout or stderr, which shows the names of files and people as they are.

    Square brackets are not markup, and lines are not highlighted. A pipe is wide enough for every table.
    """
    from rich.console import Console

    made = Console(stderr=stderr, width=width, markup=False, highlight=False, emoji=False)
    if width is None and not made.is_terminal:
        made.width = _WIDE
    return made


def duration(seconds: float) -> str:
    """Returns a duration in at most two units: 8.3 s, 4 min 10 s, 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def counted(number: int, name: str) -> str:
    """Returns a number with its noun: 1 epoch, 2 epochs, 1,600 images."""
    return f"{number:,} {name}{'' if number == 1 else 's'}"
