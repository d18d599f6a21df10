"""The smallest training run: its options, an interruption, and its losses from the log."""

from __future__ import annotations

import csv
from pathlib import Path

from lightning.pytorch.callbacks import Callback

from dsa_fast.configs.augment import AugmentConfig
from dsa_fast.models import ModelConfig
from dsa_fast.training import DataConfig, TrainerConfig

MODEL = ModelConfig(backbone="resnet18", pretrained=None, width=0.125, classifier_dim=16)


AUGMENT = AugmentConfig(size=(32, 16), dsap_size=16, pad=2)


TRAINER = TrainerConfig(max_epochs=3, eval_every=3, accelerator="cpu", log_every=1, progress=False)


def config(people: Path) -> DataConfig:
    return DataConfig(str(people), p=2, k=2, workers=0)


def losses(log: Path) -> list[tuple[str, str]]:
    with log.open() as file:
        return [(row["step"], row["loss"]) for row in csv.DictReader(file) if row.get("loss")]


class Stop(RuntimeError):
    """Raised by `Interrupt`."""


class Interrupt(Callback):
    """Stops a run within its second epoch."""

    def on_train_batch_start(self, trainer, task, batch, batch_index) -> None:
        if trainer.current_epoch == 1 and batch_index == 1:
            raise Stop
