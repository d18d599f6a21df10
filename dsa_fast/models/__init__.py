"""DSA-reID's networks and losses (Zhang et al., 2019, https://arxiv.org/abs/1812.08967)."""

from __future__ import annotations

from dsa_fast.configs.model import GuideConfig, ModelConfig
from dsa_fast.models.backbone import Backbone
from dsa_fast.models.baselines import Baseline
from dsa_fast.models.branches import set_branch_mode
from dsa_fast.models.build import build_model
from dsa_fast.models.checkpoint import LoadedModel, load_model
from dsa_fast.models.dsa_reid import DSAOutput, DSAReID
from dsa_fast.models.dsag_stream import DSAGStream
from dsa_fast.models.guides import Guides
from dsa_fast.models.hub import from_pretrained, save_pretrained
from dsa_fast.models.losses import DSALoss, batch_hard_triplet_loss, id_loss, part_weights
from dsa_fast.models.mf_stream import Features, MFStream

__all__ = [
    "Backbone",
    "Baseline",
    "DSAGStream",
    "DSALoss",
    "DSAOutput",
    "DSAReID",
    "Features",
    "GuideConfig",
    "Guides",
    "LoadedModel",
    "MFStream",
    "ModelConfig",
    "batch_hard_triplet_loss",
    "build_model",
    "from_pretrained",
    "id_loss",
    "load_model",
    "part_weights",
    "save_pretrained",
    "set_branch_mode",
]
