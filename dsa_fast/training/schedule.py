"""The paper's learning rate: linear warm-up, then steps down (section 4.2)."""

from __future__ import annotations

from dsa_fast.training.config import OptimConfig


def learning_rate(epoch: float, config: OptimConfig) -> float:
    """The learning rate at a moment of training.

    Args:
        epoch: epochs since the start; fractions are steps within an epoch.
        config: the course's numbers.
    """
    if epoch < config.warmup_epochs:
        return config.warmup_lr + (config.lr - config.warmup_lr) * epoch / config.warmup_epochs
    return config.lr * config.decay ** int((epoch - config.warmup_epochs) // config.decay_epochs)
