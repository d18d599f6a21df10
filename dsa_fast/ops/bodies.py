"""Draws posed bodies as IUV maps. `csrc/bodies.h` defines the result."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dsa_fast.ops import _load  # noqa: F401  (loads the operators)

__all__ = ["Surface", "draw_bodies"]


class Surface(NamedTuple):
    """A body's surface. All tensors are contiguous and on the CPU.

    Attributes:
        vertices: float32 [V, 3], in the rest pose.
        uv: float32 [V, 2], in [0, 1].
        part: uint8 [V], 1..24, the same for the three vertices of a triangle.
        bones: int32 [V, 2], the two bones that move a vertex.
        weight: float32 [V], weight of the second bone; the first bone has 1 minus this weight.
        faces: int32 [F, 3], counter-clockwise seen from outside.
    """

    vertices: Tensor
    uv: Tensor
    part: Tensor
    bones: Tensor
    weight: Tensor
    faces: Tensor


def draw_bodies(surface: Surface, maps: Tensor, shown: Tensor, size: tuple[int, int]) -> Tensor:
    """Draws the IUV map of each person. All share one surface.

    Args:
        surface: the surface.
        maps: float32 [N, J, 3, 4], one affine map for each bone of each person: from the rest pose to x (right) and y
            (down) in pixels, and z toward the camera. Contiguous, on the CPU.
        shown: int32 [N], contiguous, on the CPU; bit p is set if part p is drawn.
        size: (height, width) of the maps.

    Returns:
        uint8 [N, 3, H, W], channels I, U, V.
    """
    iuv: Tensor = torch.ops.dsa_fast.draw_bodies(*surface, maps, shown, size[0], size[1])
    return iuv


@torch.library.register_fake("dsa_fast::draw_bodies")
def _(
    vertices: Tensor,
    uv: Tensor,
    part: Tensor,
    bones: Tensor,
    weight: Tensor,
    faces: Tensor,
    maps: Tensor,
    shown: Tensor,
    height: int,
    width: int,
) -> Tensor:
    return maps.new_empty((maps.shape[0], 3, height, width), dtype=torch.uint8)
