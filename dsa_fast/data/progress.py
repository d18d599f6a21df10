"""Progress bars and messages for reading many files. Rich is imported only for a bar."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dsa_fast import terminal

__all__ = ["progress_bar", "say"]

_log = logging.getLogger(__name__)


@contextmanager
def progress_bar(text: str, total: int, shown: bool = True) -> Iterator[Callable[[int], None]]:
    """Shows a bar on stderr, which disappears at the end of the block.

    Yields:
        A function that advances the bar by a number of files.
    """
    if not shown:
        yield lambda count: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(text), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = terminal.console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(text, total=total)
        yield lambda count: bar.advance(task, count)


def say(text: str, shown: bool = True) -> None:
    """Writes a line to the log, and to stderr if `shown`."""
    _log.info(text)
    if shown:
        terminal.say(text, sys.stderr)
