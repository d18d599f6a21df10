"""The built-in pose estimator: torchvision's Keypoint R-CNN.

He et al., "Mask R-CNN" (https://arxiv.org/abs/1703.06870), with torchvision's weights for COCO's 17 keypoints.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsa_fast.densepose.person_choice import choose_person
from dsa_fast.weights import download_state, load_named, read_state

__all__ = ["PoseEstimator"]

# Keypoint R-CNN returns a keypoint's heat map value, an uncalibrated logit; 2 is the usual threshold.
_EVEN = 2.0


class PoseEstimator:
    """Finds COCO's 17 keypoints of the person that each picture shows.

    `choose_person` picks the person by score and overlap with the picture's central window.

    Args:
        weights: a file with a state dict of `torchvision.models.detection.keypointrcnn_resnet50_fpn` (read with
            `weights_only=True`); None takes torchvision's, downloaded once into torch.hub's cache.
        device: device of the network.
        batch_size: number of pictures per batch.
        min_score: people with a lower score are ignored.
        min_size: short side of the network's input, pixels.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the weights can't be downloaded or don't fit, or a number is out of range.
    """

    def __init__(
        self,
        weights: str | os.PathLike[str] | None = None,
        *,
        device: str | torch.device = "cpu",
        batch_size: int = 16,
        min_score: float = 0.3,
        min_size: int = 800,
    ) -> None:
        from torchvision.models.detection import KeypointRCNN_ResNet50_FPN_Weights, keypointrcnn_resnet50_fpn

        for name, value in (("batch_size", batch_size), ("min_size", min_size)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 0 <= min_score <= 1:
            raise ValueError(f"min_score must be in 0..1, got {min_score}")
        self.batch_size, self.min_score = batch_size, min_score
        self.device = torch.device(device)
        if weights is None:
            source = KeypointRCNN_ResNet50_FPN_Weights.COCO_V1
            state = download_state(source, name="weights=None", what="Keypoint R-CNN's weights", argument="weights")
        else:
            state = read_state(weights, name="weights", known="a file or None", model="keypointrcnn_resnet50_fpn")
        network = keypointrcnn_resnet50_fpn(weights=None, weights_backbone=None, min_size=min_size)
        load_named(network, state, source="weights" if weights is None else f"weights {os.fspath(weights)!r}")
        self.network = network.eval().to(self.device)

    @torch.inference_mode()
    def __call__(self, images: Sequence[Tensor]) -> list[NDArray[np.float32] | None]:
        """Returns the keypoints of the person that each picture shows.

        Args:
            images: uint8 [3, H, W] each, RGB, on any device; sizes may differ.

        Returns:
            For each picture float32 [17, 3]: x and y in pixels (pixel (r, c) has its center at c + 0.5, r + 0.5), and
            an uncalibrated confidence in [0, 1], the logistic function of the heat map's value minus 2. None if no
            person is found.

        Raises:
            TypeError: an image is not a uint8 tensor.
            ValueError: an image has another shape.
        """
        for image in images:
            if not isinstance(image, Tensor) or image.dtype != torch.uint8:
                raise TypeError(f"images must be uint8 tensors, got {getattr(image, 'dtype', type(image).__name__)}")
            if image.dim() != 3 or image.shape[0] != 3 or image.numel() == 0:
                raise ValueError(f"images must have shape [3, H, W], got {list(image.shape)}")
        people: list[NDArray[np.float32] | None] = []
        for first in range(0, len(images), self.batch_size):
            batch = images[first : first + self.batch_size]
            found = self.network([image.to(self.device, torch.float32) / 255 for image in batch])
            people += [self._choose(f, image) for f, image in zip(found, batch, strict=True)]
        return people

    def _choose(self, found: dict[str, Tensor], image: Tensor) -> NDArray[np.float32] | None:
        height, width = image.shape[1:]
        sure = (found["labels"] == 1) & (found["scores"] >= self.min_score)
        chosen = choose_person(found["boxes"][sure], found["scores"][sure], (int(height), int(width)))
        if chosen is None:
            return None
        person = found["keypoints"][sure][chosen].clone()  # [17, 3]; torchvision's third is always 1
        person[:, 2] = torch.sigmoid(found["keypoints_scores"][sure][chosen] - _EVEN)
        keypoints: NDArray[np.float32] = person.float().cpu().numpy()
        return keypoints
