"""The paper's baselines (section 4.4, table 3)."""

from __future__ import annotations

import os

from dsa_fast.models.backbone import TIMM, read_trained
from dsa_fast.models.dsa_reid import DSAReID


class Baseline(DSAReID):
    """The plain baseline: a ResNet whose conv5_x has stride 1, average pooling, a classifier and triplet loss on fG.

    The rows "Baseline", "Baseline (RE)" and "Baseline (RE+LS)" use it. They differ in random erasing and label
    smoothing. ("Baseline (Two branches)" is `DSAReID(..., dsag=False)`.) `forward` and `embed` work as in a `DSAReID`
    with only the global branch, and ignore part images.

    Args:
        num_ids: number of identities for the classifier.
        backbone: resnet18, resnet34, resnet50 or resnet101.
        pretrained: as in `DSAReID`, but conv5_x is loaded too. The re-ID systems on which the paper builds its baseline
            also use the whole pretrained ResNet. With a timm backbone, or a checkpoint of `dsa-fast fit`, the head
            starts from random weights.
        width: scales every channel count; pretrained weights need 1.
        classifier_dim: width of the classifier's first FC layer.
        bnneck: as in `DSAReID`.
        last_stride: as in `DSAReID`.

    Raises:
        ValueError: an argument is outside its range, or pretrained weights can't be downloaded, can't be read or
            don't fit.
        FileNotFoundError: `pretrained` is a path and there is no file.
    """

    def __init__(
        self,
        num_ids: int,
        *,
        backbone: str = "resnet50",
        pretrained: str | os.PathLike[str] | None = "imagenet",
        width: float = 1.0,
        classifier_dim: int = 512,
        bnneck: bool = False,
        last_stride: int = 1,
        frozen: int = 0,
    ) -> None:
        super().__init__(
            num_ids,
            backbone=backbone,
            pretrained=pretrained,
            width=width,
            branches="global",
            dsag=False,
            classifier_dim=classifier_dim,
            bnneck=bnneck,
            last_stride=last_stride,
            pretrained_heads=not backbone.startswith(TIMM) and read_trained(pretrained, backbone, width) is None,
            frozen=frozen,
        )
