"""DSA-reID's networks and losses (Zhang et al., 2019, https://arxiv.org/abs/1812.08967)."""

from __future__ import annotations

from .baselines import Baseline
from .branches import set_branch_mode
from .dsa_reid import DSAOutput, DSAReID
from .dsag_stream import DSAGStream
from .losses import DSALoss, batch_hard_triplet_loss, id_loss, part_weights
from .mf_stream import Features, MFStream
from .trunk import Trunk

__all__ = [
    "Baseline",
    "DSAGStream",
    "DSALoss",
    "DSAOutput",
    "DSAReID",
    "Features",
    "MFStream",
    "Trunk",
    "batch_hard_triplet_loss",
    "id_loss",
    "part_weights",
    "set_branch_mode",
]
