"""What every command does around its work: signals, expected errors, odd names in its output, a closed pipe."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from dsa_fast.files import locked
from dsa_fast.terminal import duration

__all__ = ["guarded", "locked_output"]

# The commands whose functions don't lock their output themselves: its option, and whether it is a folder.
_OUTPUTS = {
    "demo": ("out", True),
    "tables": ("out", True),
    "rank": ("out", True),
    "embed": ("out", False),
    "crops": ("out", True),
}
# Words of libraries that find too little memory, or can't start a thread.
_NO_MEMORY = (
    *("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory"),
    *("could not create a primitive", "can't start new thread", "bad_alloc"),
)


def guarded(program: str, run: Callable[[], int], *, error_status: int = 1, reword: Callable[[str], str] = str) -> int:
    """Runs a command.

    Args:
        program: its name for messages, such as `dsa-fast fit`.
        run: does the work and returns the exit status.
        error_status: the exit status of expected errors.
        reword: writes an expected error's message in the words of the command.

    Returns:
        The exit status: 130 after Ctrl-C, 143 after SIGTERM, 141 if the output's reader has gone.
    """
    start = time.perf_counter()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names that are not UTF-8
    try:
        with _term_as_interrupt() as stopped, _threads_in_words(program):
            try:
                status = run()
                sys.stdout.flush()
                return status
            except BrokenPipeError:
                raise
            except (ValueError, TypeError, OSError) as error:
                print(f"{program}: error: {reword(str(error))}", file=sys.stderr)
            except (MemoryError, RuntimeError) as error:
                about = (str(error).strip().splitlines() or [""])[0]
                if not isinstance(error, MemoryError) and not any(text in str(error).lower() for text in _NO_MEMORY):
                    raise
                print(
                    f"{program}: error: there is too little memory, or too few threads are allowed: a smaller batch "
                    f"and fewer workers need less{' (' if about else ''}{about}{')' if about else ''}",
                    file=sys.stderr,
                )
            except KeyboardInterrupt:
                took = duration(time.perf_counter() - start)
                print(f"{program}: {'terminated' if stopped else 'interrupted'} after {took}", file=sys.stderr)
                return 128 + (signal.SIGTERM if stopped else signal.SIGINT)
            return error_status
    except BrokenPipeError:  # such as `| head`; Python would complain again when it ends
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


@contextlib.contextmanager
def _term_as_interrupt() -> Iterator[list[int]]:
    """Handles SIGTERM as Ctrl-C. Yields a list that is empty until it comes."""
    stopped: list[int] = []

    def stop(number: int, frame: object) -> None:
        if not stopped:
            stopped.append(number)
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _threads_in_words(program: str) -> Iterator[None]:
    """Says in a line what a library's thread could not do, such as TensorBoard's on a full disk."""
    before = threading.excepthook

    def say(about: threading.ExceptHookArgs) -> None:
        if isinstance(about.exc_value, (OSError, MemoryError)):
            print(f"{program}: error in the background: {about.exc_value or 'out of memory'}", file=sys.stderr)
        else:
            before(about)

    threading.excepthook = say
    try:
        yield
    finally:
        threading.excepthook = before


@contextlib.contextmanager
def locked_output(command: str, options: Mapping[str, Any]) -> Iterator[None]:
    """Keeps other processes from writing a command's output during the block; see `dsa_fast.files.locked`."""
    option, is_folder = _OUTPUTS.get(command, ("", False))
    output = options.get(option)
    with contextlib.nullcontext() if output is None else locked(output, folder=is_folder):
        yield
