"""Options of a network and of its guides. `dsa-fast fit` and its YAML files have the same options."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

__all__ = ["AVERAGE", "SELF", "GuideConfig", "ModelConfig"]

#: Names in `GuideConfig.distil_teacher` for the running network and its moving average.
SELF, AVERAGE = "self", "ema"


@dataclass(frozen=True)
class ModelConfig:
    """The network.

    Attributes:
        kind: `dsa` for the paper's two streams, `baseline` for the plain ResNet with a global feature.
        backbone: the MF-Stream's backbone: resnet18, resnet34, resnet50 or resnet101; the same with IBN-a, such as
            resnet50_ibn; or a timm network with a feature map at stride 16, such as timm/convnext_tiny.
        pretrained: `imagenet`; the path of a state dict (of torchvision's ResNet, of IBN-Net's, or of timm's network)
            or of a checkpoint of `dsa-fast fit`, whose backbone is taken; or null for random weights. In
            `dsa-fast tables`, `row:NAME` is the checkpoint of that row and the same seed.
        width: scales every layer's channels, for small machines; with a timm backbone, only those of the heads and
            the DSAG-Stream.
        branches: selects the branches to build: global, local or both; or none, to train the backbone alone with
            `guide.dense`, without identities (the configuration `pretrain`): losses on identities and evaluations are
            then left out.
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
        pooling: averages the maps of the heads over space (`mean`, the paper), or over the parts that the network finds
            itself (`parts`): a 1x1 convolution on F predicts background and the 8 merged parts, also at inference, at
            4 x 4 positions per position of F. Each local branch weights positions by its part's probability, the global
            branch by the person's. IUV maps teach it in training (`guide.pooling`). It needs last_stride 1.
    """

    kind: Literal["dsa", "baseline"] = "dsa"
    backbone: str = "resnet50"
    pretrained: str | None = "imagenet"
    width: float = 1.0
    branches: Literal["both", "global", "local", "none"] = "both"
    dsag: bool = True
    fusion: Literal["add", "concat"] = "add"
    classifier_dim: int = 512
    bnneck: bool = False
    last_stride: Literal[1, 2] = 1
    pretrained_heads: bool = False
    frozen: Literal[0, 2, 4, 8] = 0
    pooling: Literal["mean", "parts"] = "mean"

    def __post_init__(self) -> None:
        given = (self.branches, self.dsag, self.fusion, self.pooling)
        if self.kind == "baseline" and given != ("both", True, "add", "mean"):
            raise ValueError(
                "model.branches, model.dsag, model.fusion and model.pooling must have their defaults for model.kind "
                f"baseline, got {', '.join(map(str, given))}"
            )
        if self.pooling == "parts" and (self.last_stride != 1 or self.branches == "none"):
            raise ValueError(
                "model.pooling parts needs model.last_stride 1, so that the heads' maps have F's positions, and a "
                f"branch; got model.last_stride {self.last_stride} and model.branches {self.branches}"
            )
        if self.branches == "none" and (self.dsag or self.bnneck or self.pretrained_heads):
            on = [f"model.{name}" for name in ("dsag", "bnneck", "pretrained_heads") if getattr(self, name)]
            raise ValueError(
                f"{' and '.join(on)} must be false with model.branches none, which has no features, got true; "
                "the configuration pretrain sets them"
            )


@dataclass(frozen=True)
class GuideConfig:
    """Guides of the MF-Stream with dense semantics, in addition to the fusion of the streams.

    Attributes:
        fade: final share of training during which the DSAG-Stream's weight in the fused features falls to 0.
        drop: probability that an image's fused features are the MF-Stream's features only.
        detach: stops the gradients of the losses on the fused features before the MF-Stream, which then learns from
            its own losses (`loss.id_mf`, `loss.triplet_mf`) and from the guides.
        dense: weight of the dense prediction: a small decoder predicts the part and (u, v) from the MF-Stream's map F.
            It needs IUV maps but no DSAG-Stream.
        dense_uv: weight of the (u, v) error relative to the part's cross entropy.
        dense_background: weight of a background position relative to a person's, in the cross entropy of dense and
            pooling.
        dense_scale: resolution of the map that dense, focus and parts read, relative to F, along each side: 1, 2, 4, 8
            or 16.
        dense_channels: width of the decoder.
        focus: weight of the focus: penalizes the share of a local branch's activation outside its part. It needs IUV
            maps but no DSAG-Stream.
        parts: weight of the ID losses on body parts: F is averaged over each merged part, by the IUV map, and each
            average has a classifier of its own, which is dropped after training. Summed over the parts like the local
            ID losses. It needs IUV maps but no DSAG-Stream.
        stripes: the same with 8 horizontal stripes of the image instead of parts. It needs no maps. It is the control
            of `parts`: it shows what ID losses on regions of F do without semantics.
        pooling: weight of the part prediction of `model.pooling` parts. 0 needs no maps: it keeps the weights of the
            prediction, for fine-tuning (`init`).
        distil: weight of the distillation: f learns from a teacher's fused features. The teacher gets no gradient.
        distil_teacher: `self`, the running network; `ema`, its moving average; or the path of a checkpoint that was
            trained on the same people. f learns from the checkpoint's fused features, or from its MF-Stream's features
            if it has no DSAG-Stream. The last two teachers see the images without random erasing. In
            `dsa-fast tables`, `row:NAME` is the checkpoint of that row and the same seed.
        distil_logits: weight of the Kullback-Leibler divergence of the identity probabilities.
        distil_relations: weight of the divergence of each image's similarities to the other images of the batch.
        distil_features: weight of the distance between features (1 - cosine, after the batch mean is subtracted); the
            features must have the teacher's lengths.
        distil_temperature: temperature of the identity probabilities.
        distil_ramp: number of epochs over which the distillation's weight grows from 0.
        distil_decay: decay of the moving average.
    """

    fade: float = 0.0
    drop: float = 0.0
    detach: bool = False
    dense: float = 0.0
    dense_uv: float = 1.0
    dense_background: float = 0.3
    dense_scale: int = 4
    dense_channels: int = 128
    focus: float = 0.0
    parts: float = 0.0
    stripes: float = 0.0
    pooling: float = 1.0
    distil: float = 0.0
    distil_teacher: str = SELF
    distil_logits: float = 1.0
    distil_relations: float = 1.0
    distil_features: float = 0.0
    distil_temperature: float = 4.0
    distil_ramp: float = 1.0
    distil_decay: float = 0.99

    def __post_init__(self) -> None:
        for name in ("fade", "drop"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"guide.{name} must be a share in [0, 1], got {getattr(self, name)}")
        weights = (
            "dense", "dense_uv", "dense_background", "focus", "parts", "stripes", "pooling",
            "distil", "distil_logits", "distil_relations", "distil_features", "distil_ramp",
        )  # fmt: skip
        for name in weights:
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"guide.{name} must be finite and at least 0, got {getattr(self, name)}")
        if self.dense_scale not in (1, 2, 4, 8, 16):
            raise ValueError(f"guide.dense_scale must be 1, 2, 4, 8 or 16, got {self.dense_scale}")
        if self.dense_channels < 1:
            raise ValueError(f"guide.dense_channels must be at least 1, got {self.dense_channels}")
        if not self.distil_temperature > 0:
            raise ValueError(f"guide.distil_temperature must be above 0, got {self.distil_temperature}")
        if not 0 <= self.distil_decay < 1:
            raise ValueError(f"guide.distil_decay must be in [0, 1), got {self.distil_decay}")

    def map_readers(self, model: ModelConfig) -> list[str]:
        """Returns the names of the guides that need the IUV map at F's positions."""
        names = ["dense", "focus", "parts", *(["pooling"] if model.pooling == "parts" else [])]
        return [name for name in names if getattr(self, name) > 0]
