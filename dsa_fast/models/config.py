"""The options of a network; `dsa-fast fit` and its YAML files mirror them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from dsa_fast.models.baselines import Baseline
from dsa_fast.models.dsa_reid import DSAReID


@dataclass(frozen=True)
class ModelConfig:
    """The network.

    Attributes:
        kind: `dsa` is the paper's two streams; `baseline` the plain ResNet with a global feature.
        backbone: the MF-Stream's: resnet18, resnet34, resnet50 or resnet101, with IBN-a as resnet50_ibn; or one of
            timm's networks that has a feature map at stride 16, as timm/convnext_tiny.
        pretrained: `imagenet`, the path of a state dict (of torchvision's ResNet, of IBN-Net's, or of timm's network),
            or null for random weights.
        width: scales every layer's channels, for small machines; of a timm backbone those of the heads and the
            DSAG-Stream alone.
        branches: which of the global and local branch are built.
        dsag: trains the DSAG-Stream too; without it the model is the paper's "Two branches" baseline.
        fusion: how the streams' features are fused: `add`, or `concat` with an FC layer (paper, table 5).
        classifier_dim: width of the classifiers' first layer.
        bnneck: a batch norm between each feature and its classifiers, which the test vectors pass too (Luo et al., "Bag
            of Tricks", https://arxiv.org/abs/1903.07071); not the paper's.
        last_stride: stride of the MF-Stream's conv5_x: 1, the paper's, or 2 as in the plain ResNet.
        pretrained_heads: starts the global head from the pretrained conv5_x too, where the backbone is one of our
            ResNets; the paper does not say so, strong baselines do. It does nothing where weights are random.
        frozen: pretrained layers up to this stride are never trained, which makes a step quicker; 0: all are.
    """

    kind: Literal["dsa", "baseline"] = "dsa"
    backbone: str = "resnet50"
    pretrained: str | None = "imagenet"
    width: float = 1.0
    branches: Literal["both", "global", "local"] = "both"
    dsag: bool = True
    fusion: Literal["add", "concat"] = "add"
    classifier_dim: int = 512
    bnneck: bool = False
    last_stride: Literal[1, 2] = 1
    pretrained_heads: bool = False
    frozen: Literal[0, 2, 4, 8] = 0

    def __post_init__(self) -> None:
        if self.kind == "baseline" and (self.branches, self.dsag, self.fusion) != ("both", True, "add"):
            raise ValueError(
                "model.branches, model.dsag and model.fusion must be left alone for model.kind baseline, "
                f"got {self.branches}, {self.dsag} and {self.fusion}"
            )


def build_model(num_ids: int, config: ModelConfig) -> DSAReID | Baseline:
    """The network that `config` describes, with `num_ids` classes."""
    options: dict[str, Any] = asdict(config)
    if options.pop("kind") == "baseline":
        for name in ("branches", "dsag", "fusion", "pretrained_heads"):
            del options[name]
        return Baseline(num_ids, **options)
    return DSAReID(num_ids, **options)
