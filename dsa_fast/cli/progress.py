"""The progress bar of commands that process images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dsa_fast.terminal import console as open_console

__all__ = ["image_progress"]


@contextmanager
def image_progress(text: str) -> Iterator[Callable[[int, int], None]]:
    """Shows a bar at a terminal, and yields the function (images done, total images) that updates it."""
    console = open_console(stderr=True)
    columns = (TextColumn(text), BarColumn(), MofNCompleteColumn(), TextColumn("images,"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(text, total=None)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield show
