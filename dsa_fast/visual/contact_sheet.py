"""Contact sheets: photos next to their part maps, to check many at once; and synthetic people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from torch import Tensor

from dsa_fast.data.synth import Camera, SynthConfig, identity_of, render_person, render_picture
from dsa_fast.densepose.body import Pose
from dsa_fast.densepose.iuv import resize_iuv
from dsa_fast.densepose.parts import PART_COLORS
from dsa_fast.visual.atlas import part_overlay
from dsa_fast.visual.layout import captioned, fit, in_rows, text_tile, tile_table, to_picture, to_tensor
from dsa_fast.visual.palette import INK, LINE, WRONG

__all__ = ["Cell", "contact_sheet", "synthetic_people"]

_SIDE = 200  # width and height of a photo and its map together, in pixels


@dataclass(frozen=True)
class Cell:
    """A photo, its map, and the text below them.

    Attributes:
        photo: uint8 [3, H, W], or None.
        iuv: uint8 [3, H', W'], or None.
        lines: lines of text, shortened to fit.
        bad: a last line that stands out.
    """

    photo: Tensor | None
    iuv: Tensor | None
    lines: tuple[str, ...] = ()
    bad: str = ""


def contact_sheet(cells: Sequence[Cell], *, title: str = "", columns: int = 8) -> Image.Image:
    """Draws photos and their maps in rows. A missing photo or map is drawn as a gray area.

    Args:
        cells: at least one.
        title: a line at the top.
        columns: cells per row.

    Returns:
        An RGB picture.

    Raises:
        ValueError: there are no cells, or `columns` is below 1.
    """
    if not cells or columns < 1:
        raise ValueError(f"there must be cells and columns, got {len(cells)} cells in {columns} columns")
    tiles = [
        captioned(_pair(cell), [*((line, INK) for line in cell.lines), (cell.bad, WRONG)], size=13) for cell in cells
    ]
    return tile_table(in_rows(tiles, columns), gap=8, title=title)


def _pair(cell: Cell) -> Image.Image:
    picture = Image.new("RGB", (_SIDE, _SIDE), LINE)
    half = _SIDE // 2 - 1
    known = cell.photo if cell.photo is not None else cell.iuv
    if known is None:
        return picture
    photo = Image.new("RGB", (known.shape[2], known.shape[1])) if cell.photo is None else to_picture(cell.photo)
    shown = fit(photo, (half, _SIDE))
    top = (_SIDE - shown.height) // 2
    if cell.photo is not None:
        picture.paste(shown, (0, top))
    if cell.iuv is not None:
        overlay = part_overlay(to_tensor(shown), resize_iuv(cell.iuv, (shown.height, shown.width)))
        picture.paste(overlay, (half + 2, top))
    return picture


def synthetic_people(config: SynthConfig, *, people: int = 10, scale: int = 2) -> Image.Image:
    """Draws some people of a synthetic data set: from four sides, and as seen by its cameras, with part maps.

    Args:
        config: settings of the data set.
        people: maximum number of people; one row each.
        scale: pixels in the picture per image pixel.

    Returns:
        An RGB picture.
    """
    palette = np.array(PART_COLORS, np.uint8)
    walk = Pose.of(
        left_hip=(-0.3, 0, 0.04),
        right_hip=(0.22, 0, -0.04),
        left_knee=(0.15, 0, 0),
        right_knee=(0.3, 0, 0),
        left_shoulder=(0.3, 0, 0.15),
        right_shoulder=(-0.3, 0, -0.15),
        left_elbow=(-0.3, 0, 0),
        right_elbow=(-0.4, 0, 0),
    )
    step, cameras = config.width * scale, range(1, min(config.cameras, 6) + 1)
    heads = [text_tile("from four sides", 4 * step), *(text_tile(f"camera {camid}", 2 * step) for camid in cameras)]
    rows = [[tile_table([heads], gap=0)]]
    for number in np.linspace(1, config.identities, min(people, config.identities)).round().astype(int).tolist():
        identity = identity_of(config.seed, number)
        shown = [
            render_person(identity, walk, Camera(yaw, 0.1), height=config.height, width=config.width)[0]
            for yaw in (0.35, 1.8, 3.5, 5.0)
        ]
        for camid in cameras:
            picture, iuv = render_picture(config, number, camid, 0)
            shown += [picture, palette[iuv[..., 0]]]
        rows.append([Image.fromarray(np.concatenate(shown, 1).repeat(scale, 0).repeat(scale, 1))])
    return tile_table(rows, gap=0)
