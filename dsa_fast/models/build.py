"""Builds the network that options describe."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from dsa_fast.configs.model import ModelConfig
from dsa_fast.models.baselines import Baseline
from dsa_fast.models.dsa_reid import DSAReID


def build_model(num_ids: int, config: ModelConfig) -> DSAReID | Baseline:
    """Builds the network that `config` describes, with `num_ids` classes."""
    options: dict[str, Any] = asdict(config)
    if options.pop("kind") == "baseline":
        for name in ("branches", "dsag", "fusion", "pretrained_heads", "pooling"):
            del options[name]
        return Baseline(num_ids, **options)
    return DSAReID(num_ids, **options)
