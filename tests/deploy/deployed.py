"""Checkpoints and images for the tests of deployment and search."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dsa_fast.configs.augment import AugmentConfig
from dsa_fast.models import GuideConfig, ModelConfig
from dsa_fast.training.module import ReIDTask

SMALL = ModelConfig(backbone="resnet18", pretrained=None, width=0.125, classifier_dim=16)
SIZE = (64, 32)


def smooth_images(count: int, size: tuple[int, int] = SIZE, seed: int = 0) -> Tensor:
    """uint8 [count, 3, *size]: colored patches that differ as much as people do."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 8, 4, generator=generator)
    return (255 * nn.functional.interpolate(coarse, size, mode="bilinear")).round().byte()


def save_checkpoint(
    path: Path, model: ModelConfig = SMALL, size: tuple[int, int] = SIZE, guide: GuideConfig | None = None
) -> Path:
    """A checkpoint of random weights, whose batch norms have seen images, so that its features are not noise."""
    torch.manual_seed(0)
    task = ReIDTask(4, model, augment=AugmentConfig(size=size), guide=guide)
    stream = task.model.mf_stream
    for module in stream.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    stream.train()
    with torch.no_grad():
        stream(task.model.normalize(smooth_images(8, size, seed=1)))
    task.eval()
    checkpoint = {"state_dict": task.state_dict()}
    task.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)
    return path


def as_arrays(images: Tensor) -> np.ndarray:
    """[B, 3, H, W] -> [B, H, W, 3]."""
    return np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
