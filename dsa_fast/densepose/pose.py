"""The built-in pose estimator: torchvision's Keypoint R-CNN."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["PoseEstimator"]


class PoseEstimator:
    """Pictures of people -> COCO's 17 keypoints of the person that each picture is about.

    Args:
        weights: a file with a state dict of `torchvision.models.detection.keypointrcnn_resnet50_fpn`; None downloads
            torchvision's.
        device: where the network runs.
        batch_size: pictures at once.
        min_score: a person that is less sure is none.
    """

    def __init__(
        self,
        weights: str | os.PathLike[str] | None = None,
        *,
        device: str | torch.device = "cpu",
        batch_size: int = 16,
        min_score: float = 0.3,
    ) -> None:
        raise NotImplementedError

    def __call__(self, images: Sequence[Tensor]) -> list[NDArray[np.float32] | None]:
        """Keypoints of the person that each picture is about.

        Args:
            images: uint8 [3, H, W] each, RGB; sizes may differ.

        Returns:
            For each picture float32 [17, 3], x and y in pixels and a confidence in [0, 1]; None where nobody is found.
        """
        raise NotImplementedError
