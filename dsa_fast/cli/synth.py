"""`dsa-fast synth`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.console import Console

from dsa_fast.cli.progress import image_progress
from dsa_fast.configs.synth import SynthConfig
from dsa_fast.terminal import console as open_console


def synth(*, out: Path, workers: int | None = None, overwrite: bool = False, **settings: Any) -> None:
    """Render a data set of synthetic people with exact dense semantics, in Market-1501's layout.

    The misalignments (pose ... blur) are strengths from 0 (none) to 1 (strong).

    Args:
        out: folder to create; its preview.png shows some of the images.
        workers: number of processes; by default one per core.
        overwrite: replace a synthetic data set in `out`.
        **settings: the fields of `SynthConfig`.

    Examples:
        dsa-fast synth --out people --identities 200
        dsa-fast synth --out hard --pose 1 --occlusion 1 --seed 1
    """
    from dsa_fast.data.synth import entries

    config = SynthConfig(**settings)
    console, start = open_console(), time.perf_counter()
    render_people(out, config, console, overwrite=overwrite, workers=workers)
    seconds, total = time.perf_counter() - start, len(entries(config))
    console.print(
        f"{total} images of {config.identities} people in {out} ({seconds:.1f} s, {total / seconds:.0f} per second); "
        "preview.png shows some",
        soft_wrap=True,
    )


def render_people(
    out: Path, config: SynthConfig, console: Console, *, overwrite: bool = False, workers: int | None = None
) -> None:
    """Runs `make_dataset` with a progress bar, and draws some of the people in preview.png."""
    from dsa_fast.data.synth import make_dataset
    from dsa_fast.visual.contact_sheet import synthetic_people
    from dsa_fast.visual.layout import save_picture

    def add_preview(folder: Path) -> None:
        save_picture(synthetic_people(config), folder / "preview.png")

    with image_progress("rendering") as show:
        make_dataset(out, config, overwrite=overwrite, workers=workers, progress=show, finish=add_preview)
