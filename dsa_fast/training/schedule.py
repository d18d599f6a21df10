"""Learning rates: a linear warm-up, then the paper's steps down (section 4.2) or half a cosine."""

from __future__ import annotations

import math

from dsa_fast.configs.training import OptimConfig


def learning_rate(epoch: float, config: OptimConfig, epochs: float = math.inf) -> float:
    """Computes the learning rate at a time in training.

    Args:
        epoch: epochs since the start; fractions are steps within an epoch.
        config: options of the schedule.
        epochs: total number of epochs; only `cosine` uses it.
    """
    if epoch < config.warmup_epochs:
        return config.warmup_lr + (config.lr - config.warmup_lr) * epoch / config.warmup_epochs
    since = epoch - config.warmup_epochs
    if config.schedule == "cosine":
        done = min(since / max(epochs - config.warmup_epochs, 1e-9), 1.0)
        return config.warmup_lr + (config.lr - config.warmup_lr) * (1 + math.cos(math.pi * done)) / 2
    return config.lr * config.decay ** int(since // config.decay_epochs)
