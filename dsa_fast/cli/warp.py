"""`dsa-fast warp`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dsa_fast.files import atomic_path
from dsa_fast.terminal import console as open_console

if TYPE_CHECKING:
    from torch import Tensor

_MARGIN = 0.06  # kept around a person's box, as a share of it


def warp(
    image: Path,
    iuv: Path,
    out: Path = Path("warp.png"),
    *,
    size: int = 32,
    order: Literal["auto", "IUV", "VUI"] = "auto",
    reduce: Literal["last", "mean"] = "last",
    instances: Path | None = None,
    person: int | None = None,
) -> None:
    """Show a photo, its part map and its 24 part images in one picture.

    Args:
        image: the photo.
        iuv: its DensePose IUV map, an 8-bit PNG of the same size.
        out: PNG to write.
        size: height and width of a part's image, in texels.
        order: channel order of the map's red, green and blue; `auto` detects it.
        reduce: if several pixels fall on one texel, use the `last` in raster order or the `mean`.
        instances: image that labels each pixel with the number of its person, to show one of several people.
        person: number of the person in `instances`.

    Examples:
        dsa-fast warp photo.jpg photo_IUV.png --out parts.png
        dsa-fast warp photo.jpg photo_IUV.png --instances photo_INDS.png --person 2
    """
    from dsa_fast.densepose.iuv import read_iuv
    from dsa_fast.densepose.parts import NUM_PARTS
    from dsa_fast.image import read_image, save_image
    from dsa_fast.ops.warp import warp as warp_op
    from dsa_fast.visual.atlas import photo_and_parts

    if out.suffix.lower() != ".png":
        raise ValueError(f'out must end in ".png", got {str(out)!r}')
    if not image.is_file():
        raise FileNotFoundError(f"image not found: {image}")
    photo = read_image(image)
    part_map = read_iuv(iuv, order=order)
    if photo.shape != part_map.shape:
        raise ValueError(
            f"image and iuv must have the same size (width x height), got {_size(photo)} for {image} "
            f"and {_size(part_map)} for {iuv}"
        )
    title = image.name
    if instances is not None:
        photo, part_map = _one_person(photo, part_map, instances, person)
        title += f", person {person}"
    elif person is not None:
        raise ValueError(f"person requires instances, the image of person numbers, got person {person}")
    if not bool(part_map[0].any()):
        raise ValueError(f"iuv must have labeled pixels, got background only: {iuv}")
    dsap, count = warp_op(photo, part_map, size=size, reduce=reduce, return_count=True)
    labelled, parts = int((part_map[0] > 0).sum()), int(count.flatten(1).any(1).sum())
    facts = (
        f"{_size(photo)} pixels, {labelled / part_map[0].numel():.1%} of them labeled; {parts} of {NUM_PARTS} parts, "
        f"{float((count > 0).double().mean()):.1%} of their {size} x {size} texels touched"
    )
    picture = photo_and_parts(photo, part_map, dsap, count, f"{title}: {facts}")
    with atomic_path(out) as temporary:
        save_image(picture, temporary, format="PNG")
    open_console().print(f"{facts}\nwrote {out}", soft_wrap=True)


def _one_person(photo: Tensor, iuv: Tensor, path: Path, person: int | None) -> tuple[Tensor, Tensor]:
    """Crops the photo and the map to one person's box. The map keeps only that person's pixels."""
    import numpy as np
    import torch

    from dsa_fast.image import open_image

    try:
        with open_image(path) as file:
            mode, numbers = file.mode, torch.from_numpy(np.array(file).astype(np.int64))
    except ValueError as error:
        raise ValueError(f"instances: {error}") from error
    if mode not in ("L", "P", "I", "I;16", "1"):
        raise ValueError(f"instances must have one channel (a number per pixel), got mode {mode}: {path}")
    if numbers.shape != photo.shape[1:]:
        raise ValueError(
            f"instances must have the image's size (width x height), {_size(photo)}, got {_size(numbers)}: {path}"
        )
    labelled = iuv[0] > 0
    found, pixels = numbers[labelled & (numbers > 0)].unique(return_counts=True)
    if person is None or person not in found.tolist():
        listed = ", ".join(f"{n} ({p} pixels)" for n, p in zip(found.tolist(), pixels.tolist(), strict=True))
        raise ValueError(f"person must be one of the numbers in {path}: {listed or 'none'}; got {person}")
    mine = labelled & (numbers == person)
    height, width = mine.shape
    ys, xs = mine.nonzero(as_tuple=True)
    top, bottom, left, right = int(ys.min()), int(ys.max()) + 1, int(xs.min()), int(xs.max()) + 1
    margin = round(_MARGIN * max(bottom - top, right - left))
    rows = slice(max(0, top - margin), min(height, bottom + margin))
    columns = slice(max(0, left - margin), min(width, right + margin))
    return photo[:, rows, columns], (iuv * mine)[:, rows, columns].contiguous()


def _size(tensor: Tensor) -> str:
    return f"{tensor.shape[-1]} x {tensor.shape[-2]}"
