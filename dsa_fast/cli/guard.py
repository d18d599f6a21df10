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
from dsa_fast.terminal import duration, say

__all__ = ["guarded", "locked_output"]

# The commands whose functions don't lock their output themselves: its option, and whether it is a folder.
_OUTPUTS = {
    "demo": ("out", True),
    "tables": ("out", True),
    "rank": ("out", True),
    "inspect": ("out", True),
    "embed": ("out", False),
    "crops": ("out", True),
    "pack": ("out", False),
    "eval": ("json_out", False),
    "search": ("json_out", False),
    "warp": ("out", False),
}
# Words of libraries that find too little memory, or can't start a thread.
_NO_MEMORY = (
    *("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory", "alloc_failed"),
    *("could not create a primitive", "can't start new thread", "bad_alloc", "failed to allocate memory"),
    "failed to map segment",  # of a library that is loaded
)


def guarded(
    program: str,
    run: Callable[[], int],
    *,
    error_status: int = 1,
    reword: Callable[[str], str] = str,
    less: Callable[[bool], str] = lambda on_gpu: "",
) -> int:
    """Runs a command.

    Args:
        program: its name for messages, such as `dsa-fast fit`.
        run: does the work and returns the exit status.
        error_status: the exit status of expected errors.
        reword: writes an expected error's message in the words of the command.
        less: says which options need less memory, on the GPU or else.

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
                say(f"{program}: error: {reword(str(error))}{_unreadable_python()}", file=sys.stderr)
            except Exception as error:  # libraries have their own kinds
                said, unreadable = _too_little_memory(error), _unreadable_python()
                if said is None and unreadable:
                    say(f"{program}: error: {error}{unreadable}", file=sys.stderr)
                    return error_status
                if said is None:
                    raise
                on_gpu, about = said
                what = "the GPU has too little memory" if on_gpu else "there is too little memory, or too few threads"
                say(f"{program}: error: {what}{less(on_gpu)}{about and f' ({about})'}", file=sys.stderr)
            except KeyboardInterrupt:
                took = duration(time.perf_counter() - start)
                say(f"{program}: {'terminated' if stopped else 'interrupted'} after {took}", file=sys.stderr)
                return 128 + (signal.SIGTERM if stopped else signal.SIGINT)
            return error_status
    except BrokenPipeError:  # such as `| head`; Python would complain again when it ends
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def _unreadable_python() -> str:
    """Returns a hint for errors if this user can't read Python's own modules, some of which are loaded when needed."""
    return "" if os.access(os.__file__, os.R_OK) else f"; this user can't read Python's files in {sys.base_prefix}"


def _too_little_memory(error: Exception) -> tuple[bool, str] | None:
    """Returns whether it was the GPU's, and the error's first line; None for other errors."""
    text, torch = str(error), sys.modules.get("torch")
    about = (text.strip().splitlines() or [""])[0]
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True, about
    if isinstance(error, MemoryError) or any(each in text.lower() for each in _NO_MEMORY):
        return "cuda" in text.lower() or "cublas" in text.lower(), about
    return None


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

    def report(about: threading.ExceptHookArgs) -> None:
        if isinstance(about.exc_value, (OSError, MemoryError)):
            say(f"{program}: error in the background: {about.exc_value or 'out of memory'}", file=sys.stderr)
        else:
            before(about)

    threading.excepthook = report
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
