"""What commands and training print: for people at a terminal, and for pipes and log files.

Rich is imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dsa_fast.terminal import Console

__all__ = ["console", "duration"]

_WIDE = 200  # columns of a pipe, so tables keep theirs


def console(*, stderr: bool = False) -> Console:
    """Returns a console for stdout or stderr. A pipe is wide enough for every table."""
    from dsa_fast.terminal import Console

    made = Console(stderr=stderr)
    return made if made.is_terminal else Console(stderr=stderr, width=_WIDE)


def duration(seconds: float) -> str:
    """Returns a duration in at most two units: 8.3 s, 4 min 10 s, 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
