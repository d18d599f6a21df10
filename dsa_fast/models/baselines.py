"""The paper's baselines (section 4.4, table 3)."""

from __future__ import annotations

import os

from dsa_fast.models.backbone import read_pretrained
from dsa_fast.models.dsa_reid import DSAReID
from dsa_fast.weights import load_named


class Baseline(DSAReID):
    """The plain baseline: a ResNet whose conv5_x has stride 1, average pooling, a classifier and triplet loss on fG.

    The rows "Baseline", "Baseline (RE)" and "Baseline (RE+LS)", which differ in random erasing and label smoothing.
    ("Baseline (Two branches)" is `DSAReID(..., dsag=False)`.) Outputs and `embed` are those of `DSAReID` with only the
    global branch; part images are ignored.

    Args:
        num_ids: identities that the classifier tells apart.
        backbone: resnet18, resnet34, resnet50 or resnet101.
        pretrained: as in `DSAReID`, but conv5_x is loaded too: this is the whole ResNet, as the re-ID systems that
            the paper builds its baseline on have it.
        width: scales every channel count; pretrained weights need 1.
        classifier_dim: width of the classifier's first FC layer.
        bnneck: as in `DSAReID`.
        last_stride: as in `DSAReID`.

    Raises:
        ValueError: an argument is outside its range, or pretrained weights can't be had or don't fit.
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
    ) -> None:
        state = None if pretrained is None else read_pretrained(backbone, pretrained, width=width)
        super().__init__(
            num_ids,
            backbone=backbone,
            pretrained=None,
            width=width,
            branches="global",
            dsag=False,
            classifier_dim=classifier_dim,
            bnneck=bnneck,
            last_stride=last_stride,
        )
        if state is not None:
            source = f"pretrained={str(pretrained)!r}"
            load_named(self.mf_stream.backbone, state, source=source)
            assert self.mf_stream.head_global is not None
            load_named(self.mf_stream.head_global, state, prefix="layer4.", source=source)
