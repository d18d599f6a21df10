"""`dsa-fast synth`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dsa_fast.data.synth import SynthConfig, entries, make_dataset


def synth(*, out: Path, workers: int | None = None, overwrite: bool = False, **settings: Any) -> None:
    """Render a data set of synthetic people with exact dense semantics, in Market-1501's layout.

    The misalignments (pose ... blur) are strengths from 0 (none) to 1 (strong).

    Args:
        out: folder to make; look at preview.png in it.
        workers: processes; by default one per core.
        overwrite: replace a synthetic data set in `out`.
        **settings: those of `SynthConfig`.
    """
    config = SynthConfig(**settings)
    console, start = Console(), time.perf_counter()
    with rendering_progress(console) as show:
        make_dataset(out, config, overwrite=overwrite, workers=workers, progress=show)
    seconds, total = time.perf_counter() - start, len(entries(config))
    console.print(
        f"{total} images of {config.identities} people in {out} ({seconds:.1f} s, {total / seconds:.0f} a second); "
        "preview.png shows some",
        highlight=False,
        soft_wrap=True,
    )


@contextmanager
def rendering_progress(console: Console) -> Iterator[Callable[[int, int], None]]:
    """A progress bar; gives the function (done, total) that moves it."""
    columns = (TextColumn("rendering"), BarColumn(), MofNCompleteColumn(), TextColumn("images,"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("images", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
