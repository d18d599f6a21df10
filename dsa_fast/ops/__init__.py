"""The compiled operators. Each module has one operator: its signature, checks, fake and autograd registration.

`plain_reference` computes the same results slowly, for tests. This package imports PyTorch, but no other part of
`dsa_fast`.
"""

from dsa_fast.ops.bodies import Surface, draw_bodies
from dsa_fast.ops.crop import crop_parts
from dsa_fast.ops.rank import Lists, nearest, pair_distances, rank_matches, rank_rows
from dsa_fast.ops.train_transform import TrainInputs, train_transform
from dsa_fast.ops.warp import warp
from dsa_fast.ops.warp_densepose import ChartOutput, to_iuv, warp_densepose

__all__ = [
    "ChartOutput",
    "Lists",
    "Surface",
    "TrainInputs",
    "crop_parts",
    "draw_bodies",
    "nearest",
    "pair_distances",
    "rank_matches",
    "rank_rows",
    "to_iuv",
    "train_transform",
    "warp",
    "warp_densepose",
]
