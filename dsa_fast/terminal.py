"""What commands and training print: for people at a terminal, and for pipes and log files.

Rich is imported on first use.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

__all__ = ["console", "counted", "duration", "say", "visible"]

_WIDE = 200  # columns of a pipe, so tables keep theirs
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tabs and the ends of lines


def visible(text: str) -> str:
    r"""Returns a text with its control characters written out, such as `\x1b`: a name must not steer the terminal."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def say(text: str, file: TextIO | None = None) -> None:
    """Prints a line to stdout or to `file`, with the control characters of names written out."""
    print(visible(text), file=file)


def console(*, stderr: bool = False, width: int | None = None) -> Console:
    """Returns Rich's console for stdout or stderr, which shows the names of files and people as they are.

    Square brackets are not markup, lines are not highlighted, and control characters are written out. A pipe is wide
    enough for every table.
    """
    made = _console_class()(stderr=stderr, width=width, markup=False, highlight=False, emoji=False)
    if width is None and not made.is_terminal:
        made.width = _WIDE
    return made


@functools.cache
def _console_class() -> type[Console]:
    from rich.console import Console
    from rich.segment import Segment

    class Visible(Console):
        """Writes out the control characters of texts; Rich's own, which move the cursor, are marked as such."""

        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
            for text, style, control in super().render(renderable, options):
                yield Segment(text if control else visible(text), style, control)

    return Visible


def duration(seconds: float) -> str:
    """Returns a duration in at most two units: 8.3 s, 4 min 10 s, 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def counted(number: int, name: str) -> str:
    """Returns a number with its noun: 1 epoch, 2 epochs, 1,600 images."""
    return f"{number:,} {name}{'' if number == 1 else 's'}"
