"""Options of a network. `dsa-fast fit` and its YAML files have the same options."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from dsa_fast.models.baselines import Baseline
from dsa_fast.models.dsa_reid import DSAReID


@dataclass(frozen=True)
class ModelConfig:
    """The network.

    Attributes:
        kind: `dsa` for the paper's two streams, `baseline` for the plain ResNet with a global feature.
        backbone: the MF-Stream's backbone: resnet18, resnet34, resnet50 or resnet101; the same with IBN-a, such as
            resnet50_ibn; or a timm network with a feature map at stride 16, such as timm/convnext_tiny.
        pretrained: `imagenet`, the path of a state dict (of torchvision's ResNet, of IBN-Net's, or of timm's network),
            or null for random weights.
        width: scales every layer's channels, for small machines; with a timm backbone, only those of the heads and
            the DSAG-Stream.
        branches: selects the branches to build: global, local or both.
        dsag: trains the DSAG-Stream too; without it the model is the paper's "Two branches" baseline.
        fusion: fuses the streams' features with `add`, or with `concat` and an FC layer (paper, table 5).
        classifier_dim: width of the classifiers' first layer.
        bnneck: adds a batch norm between each feature and its classifiers; it also applies to test vectors (Luo et al.,
            "Bag of Tricks", https://arxiv.org/abs/1903.07071); not in the paper.
        last_stride: stride of the MF-Stream's conv5_x: 1 as in the paper, or 2 as in the plain ResNet.
        pretrained_heads: also starts the global head from the pretrained conv5_x. With a timm backbone, the global head
            is the network's own last stage; networks without a stage after stride 16 are refused. The paper does not
            mention it, but strong baselines do it. No effect on our ResNets with random weights.
        frozen: does not train pretrained layers up to this stride, which makes steps faster; 0 trains all layers.
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
                "model.branches, model.dsag and model.fusion must have their defaults for model.kind baseline, "
                f"got {self.branches}, {self.dsag} and {self.fusion}"
            )


def build_model(num_ids: int, config: ModelConfig) -> DSAReID | Baseline:
    """Builds the network that `config` describes, with `num_ids` classes."""
    options: dict[str, Any] = asdict(config)
    if options.pop("kind") == "baseline":
        for name in ("branches", "dsag", "fusion", "pretrained_heads"):
            del options[name]
        return Baseline(num_ids, **options)
    return DSAReID(num_ids, **options)
