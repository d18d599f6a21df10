"""`dsa-fast synth`."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

from dsa_fast.cli.progress import image_progress
from dsa_fast.data.synth import SynthConfig, entries, make_dataset
from dsa_fast.visual.contact_sheet import synthetic_people
from dsa_fast.visual.layout import save_picture


def synth(
    *,
    out: Path,
    identities: int = 100,
    cameras: int = 4,
    images_per_camera: int = 4,
    distractors: float = 0.15,
    junk: float = 0.05,
    height: int = 128,
    width: int = 64,
    seed: int = 0,
    pose: float = 1.0,
    view: float = 1.0,
    box: float = 0.5,
    occlusion: float = 0.4,
    clutter: float = 0.4,
    lighting: float = 0.4,
    camera_color: float = 0.25,
    blur: float = 0.4,
    iuv_miss_person: float = 0.0,
    iuv_miss_part: float = 0.0,
    iuv_noise: float = 0.0,
    jpeg_quality: int = 95,
    workers: int | None = None,
    overwrite: bool = False,
) -> None:
    """Render a data set of synthetic people with exact dense semantics, in Market-1501's layout.

    The misalignments (pose ... blur) are strengths from 0 (none) to 1 (strong).

    Args:
        out: folder to make; look at preview.png in it.
        identities: people with an identity; half of them are for training, half for test.
        cameras: cameras; each sees every identity.
        images_per_camera: images of an identity by a camera; of a test identity the first is the query.
        distractors: distractors (pid 0) in the gallery, as a share of its other images.
        junk: junk (pid -1) in the gallery, as a share of its other images.
        height: of an image, pixels.
        width: of an image, pixels.
        seed: of everything; the same options give the same bytes.
        pose: how people move.
        view: from how many sides they are seen.
        box: how bad the boxes are: shifts, scale, cut-off parts.
        occlusion: how often something is in front.
        clutter: how busy the background is.
        lighting: how much the light differs.
        camera_color: how much the cameras' colours differ.
        blur: blur, low resolution and noise.
        iuv_miss_person: share of images whose IUV map is empty.
        iuv_miss_part: share of the parts that are missing in an IUV map.
        iuv_noise: standard deviation of an error of u and v.
        jpeg_quality: of the images.
        workers: processes; by default one per core.
        overwrite: replace a synthetic data set in `out`.
    """
    config = SynthConfig(
        identities=identities,
        cameras=cameras,
        images_per_camera=images_per_camera,
        distractors=distractors,
        junk=junk,
        height=height,
        width=width,
        seed=seed,
        pose=pose,
        view=view,
        box=box,
        occlusion=occlusion,
        clutter=clutter,
        lighting=lighting,
        camera_color=camera_color,
        blur=blur,
        iuv_miss_person=iuv_miss_person,
        iuv_miss_part=iuv_miss_part,
        iuv_noise=iuv_noise,
        jpeg_quality=jpeg_quality,
    )
    console, start = Console(), time.perf_counter()
    render_people(out, config, console, overwrite=overwrite, workers=workers)
    seconds, total = time.perf_counter() - start, len(entries(config))
    console.print(
        f"{total} images of {identities} people in {out} ({seconds:.1f} s, {total / seconds:.0f} a second); "
        "preview.png shows some",
        highlight=False,
        soft_wrap=True,
    )


def render_people(
    out: Path, config: SynthConfig, console: Console, *, overwrite: bool = False, workers: int | None = None
) -> None:
    """`make_dataset` with a progress bar, and a picture of some of the people: preview.png."""
    with image_progress(console, "rendering") as show:
        make_dataset(out, config, overwrite=overwrite, workers=workers, progress=show)
    save_picture(synthetic_people(config), out / "preview.png")
