"""DensePose: IUV maps from any source, body parts, and operations on maps.

- maps and their files: `iuv`, `iuv_store`, `parts`, `symmetry` (DensePose's table for flips), `map_checks`;
- DensePose results: `dump` (files of detectron2's apply_net.py), `unpickle`, `results`, `person_choice`;
- maps from keypoints: `body`, `keypoints`, `keypoint_rcnn`;
- maps from fitted bodies: `smpl`, `smpl_model`; masks of people as a second opinion: `masks`;
- maps of many images: `prepare`, `map_sources`, `detectron` and `torchscript` (DensePose itself), `torchrun`.

May import `dsa_fast.ops`, `dsa_fast.image`, `dsa_fast.weights` and `dsa_fast.files`.
"""

from __future__ import annotations

from dsa_fast.densepose.dump import DumpEntry, DumpPerson, read_dump
from dsa_fast.densepose.iuv import flip_iuv, read_iuv, resize_iuv, write_iuv
from dsa_fast.densepose.iuv_store import IUVStore
from dsa_fast.densepose.keypoint_rcnn import PoseEstimator
from dsa_fast.densepose.keypoints import LAYOUTS, Layout, iuv_from_keypoints, read_keypoints
from dsa_fast.densepose.parts import (
    MERGE_13_TO_8,
    MERGE_24_TO_13,
    MERGED_NAMES,
    MIRROR,
    NUM_PARTS,
    PART_COLORS,
    PART_NAMES,
)
from dsa_fast.densepose.person_choice import choose_person
from dsa_fast.densepose.results import iuv_from_result
from dsa_fast.densepose.symmetry import SymmetryTable, as_lut
from dsa_fast.ops.warp_densepose import ChartOutput, to_iuv

__all__ = [
    "LAYOUTS",
    "MERGED_NAMES",
    "MERGE_13_TO_8",
    "MERGE_24_TO_13",
    "MIRROR",
    "NUM_PARTS",
    "PART_COLORS",
    "PART_NAMES",
    "ChartOutput",
    "DumpEntry",
    "DumpPerson",
    "IUVStore",
    "Layout",
    "PoseEstimator",
    "SymmetryTable",
    "as_lut",
    "choose_person",
    "flip_iuv",
    "iuv_from_keypoints",
    "iuv_from_result",
    "read_dump",
    "read_iuv",
    "read_keypoints",
    "resize_iuv",
    "to_iuv",
    "write_iuv",
]
