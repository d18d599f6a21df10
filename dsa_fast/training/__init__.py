"""Training with Lightning: `ReIDTask` (a step), `ReIDData` (batches), `fit` (a whole run) and their options.

This package may import the layers below it: `evaluation`, `data`, `models`, `densepose`, `ops`.
"""

from dsa_fast.configs.training import DataConfig, LossConfig, OptimConfig, TrainerConfig
from dsa_fast.training.data import ReIDData
from dsa_fast.training.module import ReIDTask
from dsa_fast.training.run import FitResult, fit

__all__ = [
    "DataConfig",
    "FitResult",
    "LossConfig",
    "OptimConfig",
    "ReIDData",
    "ReIDTask",
    "TrainerConfig",
    "fit",
]
