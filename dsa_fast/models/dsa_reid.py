"""The whole network: two streams, their fusion and the classifiers (paper, figure 3)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from dsa_fast.densepose.parts import NUM_PARTS
from dsa_fast.models.backbone import Normalize
from dsa_fast.models.dsag_stream import DSAGStream
from dsa_fast.models.heads import AddFusion, BNNeck, BranchClassifier, Classifier, ConcatFusion
from dsa_fast.models.mf_stream import (
    NUM_LOCAL,
    BuiltBranches,
    FeatureMaps,
    Features,
    MFStream,
    Pooling,
    check_branches,
)

Fusion = Literal["add", "concat"]


class DSAOutput(NamedTuple):
    """Features and logits for a training step. A value is None if the model does not have it.

    Attributes:
        f_global: [B, 2048] (512 with resnet18 or resnet34, and scaled by width), the MF-Stream's global feature.
        f_local: [B, 8, 256] (or 64), the MF-Stream's part features.
        z_global: fused feature, in f_global's shape; f_global itself without the DSAG-Stream.
        z_local: fused features, in f_local's shape; f_local itself without the DSAG-Stream.
        logits_f_global: [B, num_ids], identity logits of f_global.
        logits_f_local: [B, 8, num_ids], identity logits of each part of f_local.
        logits_z_global: [B, num_ids], identity logits of z_global; None without the DSAG-Stream.
        logits_z_local: [B, 8, num_ids], identity logits of each part of z_local; None without the DSAG-Stream.
    """

    f_global: Tensor | None
    f_local: Tensor | None
    z_global: Tensor | None
    z_local: Tensor | None
    logits_f_global: Tensor | None
    logits_f_local: Tensor | None
    logits_z_global: Tensor | None
    logits_z_local: Tensor | None
    maps: FeatureMaps | None = None


class DSAReID(nn.Module):
    """Densely semantically aligned person re-identification (Zhang et al., 2019, https://arxiv.org/abs/1812.08967).

    Training uses full images and the part images from `dsa_fast.warp`. Inference (`embed`) uses full images only.
    Random weights come from torch's global generator (`torch.manual_seed`).

    Args:
        num_ids: number of identities for the classifiers.
        backbone: the MF-Stream's ResNet: resnet18, resnet34, resnet50 or resnet101.
        pretrained: weights of conv1 to conv4_x: `"imagenet"`, the path of a torchvision state dict or of a checkpoint
            of `dsa-fast fit`, or None for random ones. The DSAG-Stream and the local head always start from random
            weights. The global head does so unless `pretrained_heads` is set.
        width: scales every channel count (to multiples of 8, at least 8); weights from ImageNet need 1.
        branches: branches to build in both streams: global, local or both; or none, for a backbone that is trained
            alone (`guide.dense`). It has no features, so it can't embed.
        dsag: builds the DSAG-Stream. Without it, this is the paper's "Baseline (Two branches)", or with
            `branches="global"` its plain baseline (but see `Baseline`), and the fused features are the features f.
        fusion: `"add"`, or `"concat"` for concatenation and an FC layer (paper, table 5).
        classifier_dim: width of the classifiers' first FC layer.
        bnneck: puts a batch norm between each feature and its classifier; test vectors are its outputs.
        last_stride: stride of the MF-Stream's heads; 1 in the paper, 2 in the plain ResNet.
        pretrained_heads: see `MFStream`.
        frozen: see `Backbone`.
        pooling: see `MFStream`.

    Attributes:
        mf_stream: full images -> `Features`; inference needs nothing else.
        dsag_stream: part images -> `Features`, or None.
        neck_f: the MF-Stream's `BNNeck`, or None.
        neck_z: the fused features' `BNNeck`, or None.

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
        branches: BuiltBranches = "both",
        dsag: bool = True,
        fusion: Fusion = "add",
        classifier_dim: int = 512,
        bnneck: bool = False,
        last_stride: int = 1,
        pretrained_heads: bool = False,
        frozen: int = 0,
        pooling: Pooling = "mean",
    ) -> None:
        super().__init__()
        for name, value in (("num_ids", num_ids), ("classifier_dim", classifier_dim)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if fusion not in get_args(Fusion):
            raise ValueError(f"fusion must be one of {', '.join(get_args(Fusion))}, got {fusion!r}")
        check_branches(branches)
        self.num_ids = num_ids
        self.branches: BuiltBranches = branches
        has_global, has_local = branches in ("both", "global"), branches in ("both", "local")
        self.normalize = Normalize()
        self.mf_stream = MFStream(
            backbone,
            width=width,
            branches=branches,
            last_stride=last_stride,
            pretrained=pretrained,
            pretrained_heads=pretrained_heads,
            frozen=frozen,
            pooling=pooling,
        )

        global_dim, local_dim = self.mf_stream.global_dim, self.mf_stream.local_dim
        self.dsag_stream: DSAGStream | None = None
        if dsag:
            if branches == "none":
                raise ValueError("dsag must be False with branches='none', got True")
            self.dsag_stream = DSAGStream(width=width, global_dim=global_dim, local_dim=local_dim, branches=branches)

        self.neck_f: BNNeck | None = None
        self.neck_z: BNNeck | None = None
        if bnneck:
            dims = (global_dim if has_global else 0, local_dim if has_local else 0, NUM_LOCAL)
            self.neck_f = BNNeck(*dims)
            self.neck_z = BNNeck(*dims) if dsag else None

        self.fuse_global: nn.Module | None = None
        self.fuse_local: nn.Module | None = None
        self.classify_f_global: nn.Module | None = None
        self.classify_f_local: nn.Module | None = None
        self.classify_z_global: nn.Module | None = None
        self.classify_z_local: nn.Module | None = None
        if has_global:
            self.classify_f_global = Classifier(global_dim, num_ids, classifier_dim)
            if dsag:
                self.fuse_global = AddFusion() if fusion == "add" else ConcatFusion(1, global_dim)
                self.classify_z_global = Classifier(global_dim, num_ids, classifier_dim)
        if has_local:
            self.classify_f_local = BranchClassifier(NUM_LOCAL, local_dim, num_ids, classifier_dim)
            if dsag:
                self.fuse_local = AddFusion() if fusion == "add" else ConcatFusion(NUM_LOCAL, local_dim)
                self.classify_z_local = BranchClassifier(NUM_LOCAL, local_dim, num_ids, classifier_dim)

    @property
    def embed_dims(self) -> tuple[int, int]:
        """Lengths of the global and local parts of a test vector: (2048, 2048) at full size, 0 if not built."""
        stream = self.mf_stream
        return (
            0 if stream.head_global is None else stream.global_dim,
            0 if stream.head_local is None else NUM_LOCAL * stream.local_dim,
        )

    def forward(
        self, images: Tensor, dsap: Tensor | None = None, share: Tensor | None = None, *, detach: bool = False
    ) -> DSAOutput:
        """Computes features and logits of a batch.

        Args:
            images: [B, 3, H, W], normalized float, or uint8 RGB, which is normalized here. H and W are at least 16;
                multiples of 16 lose no border pixels.
            dsap: [B, 24, 3, S, S], the part images, of the same types. Required with a DSAG-Stream, otherwise ignored.
            share: [B], the weight of the DSAG-Stream's features in each image's fused features; 1 by default.
            detach: stops the gradients of the losses on the fused features before the MF-Stream.

        Raises:
            TypeError: images or dsap is not a tensor, or its dtype is neither float nor uint8.
            ValueError: wrong shapes, or dsap is missing.
        """
        maps = self._maps(images)
        f = z = maps.pooled()
        if self.dsag_stream is not None:
            d = self._dsag(images, dsap)
            z = self._fuse(_detached(f) if detach else f, d if share is None else _shared(d, share))
        fused = self.dsag_stream is not None
        from_f, from_z = _through(self.neck_f, f), _through(self.neck_z, z)
        return DSAOutput(
            f_global=f.whole,
            f_local=f.local,
            z_global=z.whole,
            z_local=z.local,
            logits_f_global=_apply(self.classify_f_global, from_f.whole),
            logits_f_local=_apply(self.classify_f_local, from_f.local),
            logits_z_global=_apply(self.classify_z_global, from_z.whole) if fused else None,
            logits_z_local=_apply(self.classify_z_local, from_z.local) if fused else None,
            maps=maps,
        )

    def embed(self, images: Tensor) -> Tensor:
        """Computes test vectors with the MF-Stream only: [fG, fL], each half L2-normalized.

        Runs in evaluation mode without gradients, and restores the modules' modes afterwards. The global part comes
        first (see `embed_dims`). The slice of one branch is that branch's own test vector. The local half is the 8
        part features, one after the other, in the order of `MERGED_NAMES`.

        Args:
            images: [B, 3, H, W], as in `forward`.

        Returns:
            float32 [B, 4096] ([B, 2048] with one branch; 1024 and 512 with resnet18 and resnet34).

        Raises:
            TypeError, ValueError: as in `forward`.
        """
        return self.embed_and_map(images)[0]

    def embed_and_map(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Does `embed`, and also returns the MF-Stream's map F, [B, C, H/16, W/16]."""
        if self.branches == "none":
            raise ValueError("embed needs features, and this model was built with branches='none'")
        with torch.no_grad(), evaluating(self):
            maps = self._maps(images)
            return _unit_halves(_through(self.neck_f, maps.pooled())), maps.shared

    def embed_fused(self, images: Tensor, dsap: Tensor) -> Tensor:
        """Computes test vectors from both streams, [zG, zL] (paper: "two streams fused"); otherwise like `embed`.

        Args:
            images: [B, 3, H, W], as in `forward`.
            dsap: [B, 24, 3, S, S], as in `forward`.

        Raises:
            TypeError, ValueError: as in `forward`; also ValueError if the model has no DSAG-Stream.
        """
        if self.dsag_stream is None:
            raise ValueError("embed_fused needs a DSAG-Stream, and this model was built with dsag=False; use embed")
        with torch.no_grad(), evaluating(self):
            return _unit_halves(_through(self.neck_z, self._fuse(self._mf(images), self._dsag(images, dsap))))

    def _mf(self, images: Tensor) -> Features:
        return self._maps(images).pooled()

    def _maps(self, images: Tensor) -> FeatureMaps:
        _check_type("images", images)
        if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < 16:
            raise ValueError(f"images must have shape [B, 3, H, W] with H and W at least 16, got {list(images.shape)}")
        return self.mf_stream.maps(self.normalize(images))

    def _dsag(self, images: Tensor, dsap: Tensor | None) -> Features:
        if dsap is None:
            raise ValueError(
                "dsap is missing: a model with a DSAG-Stream trains on the part images too (dsa_fast.warp)"
            )
        _check_type("dsap", dsap)
        shape = dsap.shape
        if dsap.ndim != 5 or shape[1:3] != (NUM_PARTS, 3) or shape[3] != shape[4] or shape[4] < 4:
            raise ValueError(f"dsap must have shape [B, {NUM_PARTS}, 3, S, S] with S at least 4, got {list(shape)}")
        if shape[0] != images.shape[0]:
            raise ValueError(f"dsap must have as many entries as images, {images.shape[0]}, got {shape[0]}")
        assert self.dsag_stream is not None
        features: Features = self.dsag_stream(self.normalize(dsap))
        return features

    def _fuse(self, f: Features, d: Features) -> Features:
        whole = local = None
        if self.fuse_global is not None:
            whole = self.fuse_global(f.whole, d.whole)
        if self.fuse_local is not None:
            local = self.fuse_local(f.local, d.local)
        return Features(whole, local)


def _detached(features: Features) -> Features:
    return Features(*(None if part is None else part.detach() for part in features))


def _shared(features: Features, share: Tensor) -> Features:
    whole, local = features
    return Features(
        None if whole is None else share[:, None] * whole, None if local is None else share[:, None, None] * local
    )


def _through(neck: BNNeck | None, features: Features) -> Features:
    return features if neck is None else Features(*neck(*features))


def _apply(module: nn.Module | None, x: Tensor | None) -> Tensor | None:
    return None if module is None else module(x)


def _check_type(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    if not (value.is_floating_point() or value.dtype == torch.uint8):
        raise TypeError(f"{name} must be float (normalized) or uint8, got {value.dtype}")


def _unit_halves(features: Features) -> Tensor:
    halves = [part.flatten(1).float() for part in features if part is not None]
    return torch.cat([functional.normalize(half, dim=1) for half in halves], dim=1)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Sets a module and its children to evaluation mode, and restores their modes."""
    training = [child for child in module.modules() if child.training]
    if training:
        module.eval()
    try:
        yield
    finally:
        for child in training:
            child.training = True
