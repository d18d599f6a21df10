"""Training with Lightning: `ReIDTask` (step), `ReIDData` (batches), `fit` (a whole run) and their configuration."""

from dsa_fast.training.config import DataConfig, LossConfig, ModelConfig, OptimConfig, TrainerConfig
from dsa_fast.training.data import ReIDData
from dsa_fast.training.module import LoadedModel, ReIDTask, build_model, load_model
from dsa_fast.training.run import FitResult, fit
from dsa_fast.training.scoring import embed_people

__all__ = [
    "DataConfig",
    "FitResult",
    "LoadedModel",
    "LossConfig",
    "ModelConfig",
    "OptimConfig",
    "ReIDData",
    "ReIDTask",
    "TrainerConfig",
    "build_model",
    "embed_people",
    "fit",
    "load_model",
]
