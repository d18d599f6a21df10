"""The MF-Stream for production: 8-bit images in, unit vectors out, without the parts that are only for training."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

if TYPE_CHECKING:  # `models` imports torchvision, which an exported file does not need
    from dsa_fast.models import DSAReID

Layout = Literal["NHWC", "NCHW"]
InputKind = Literal["uint8", "float", "float01"]
FloatPrecision = Literal["fp32", "fp16", "bf16"]

DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class EmbeddingNetwork(nn.Module):
    """Images -> unit vectors, with batch norms folded into the convolutions.

    The vectors are those of `DSAReID.embed` scaled to length 1. Each half has length 1 there, so both are divided by
    the square root of 2 here. All cosines and rankings stay the same, and the inner product of two vectors is their
    cosine. The convolutions run in `precision`; normalization, pooling and scaling run in float32.

    Args:
        model: the trained network. It is copied, not changed.
        layout: layout of the input: `NHWC`, as from decoders and cameras, or `NCHW`.
        precision: precision of the convolutions.
        input: `uint8` for images in 0..255, and `float01` for value / 255, are normalized here; `float` for images that
            are normalized already: (value / 255 - mean) / std. Trackers pass floats, NCHW.

    Attributes:
        dim: length of a vector.

    Raises:
        ValueError: unknown layout, precision or input, or a float input that is not NCHW.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self, model: DSAReID, *, layout: Layout = "NHWC", precision: FloatPrecision = "fp32", input: InputKind = "uint8"
    ) -> None:
        super().__init__()
        if input not in get_args(InputKind):
            raise ValueError(f"input must be one of {', '.join(get_args(InputKind))}, got {input!r}")
        if input != "uint8" and layout != "NCHW":
            raise ValueError(f"layout must be NCHW for a float input, got {layout}")
        self.input: InputKind = input
        if layout not in get_args(Layout):
            raise ValueError(f"layout must be one of {', '.join(get_args(Layout))}, got {layout!r}")
        if precision not in DTYPES:
            raise ValueError(f"precision must be one of {', '.join(DTYPES)}, got {precision!r}")
        self.layout: Layout = layout
        self.dtype = DTYPES[precision]
        self.dim = sum(model.embed_dims)
        self.stream = copy.deepcopy(model.mf_stream).eval().requires_grad_(False)
        fold_batch_norms(self.stream)
        # A trained `BNNeck` also applies to the test vector.
        self.neck_global, self.neck_local = (
            nn.Identity() if norm is None else copy.deepcopy(norm).eval().requires_grad_(False)
            for norm in ((None, None) if model.neck_f is None else (model.neck_f.whole, model.neck_f.local))
        )
        self.stream.to(self.dtype)
        self.register_buffer("mean", model.normalize.mean.detach().clone())
        self.register_buffer("scale", 1 / model.normalize.std.detach())
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """uint8 [B, H, W, 3] (or [B, 3, H, W]) RGB, or float32 [B, 3, H, W] -> float32 [B, dim], each of length 1."""
        x = images.float()  # before the permutation, because TensorRT can only cast 8-bit inputs
        if self.layout == "NHWC":
            x = x.permute(0, 3, 1, 2)
        if self.input != "float":
            x = ((x * 255 if self.input == "float01" else x) - self.mean) * self.scale
        maps = self.stream.backbone(x.to(self.dtype))
        necks = (self.neck_global, self.neck_local)
        if self.stream.find_parts is None:
            heads = (self.stream.head_global, self.stream.head_local)
            averages = [None if head is None else head(maps).float().mean(dim=(2, 3)) for head in heads]
        else:
            averages = [None if part is None else part.flatten(1) for part in self.stream.heads(maps).pooled()]
        halves = [
            functional.normalize(neck(average), dim=1)
            for average, neck in zip(averages, necks, strict=True)
            if average is not None
        ]
        vectors: Tensor = torch.cat(halves, dim=1) / math.sqrt(len(halves))
        return vectors


def fold_batch_norms(module: nn.Module) -> None:
    """Replaces every convolution and the batch norm after it with one convolution with a bias, in place.

    The pairs are `convN` and `bnN` of one module, and neighbors in a sequence, as in torchvision's ResNets. Modules
    that keep their batch norms (`keeps_batch_norms`) stay as they are, and the runtimes fold what they can there.

    Raises:
        ValueError: a batch norm has no convolution to be folded into.
    """
    children = dict(module.named_children())
    for name, child in children.items():
        if getattr(child, "keeps_batch_norms", False):
            continue
        if not isinstance(child, nn.BatchNorm2d):
            fold_batch_norms(child)
            continue
        before = f"conv{name[2:]}" if name.startswith("bn") else str(int(name) - 1) if name.isdigit() else ""
        convolution = children.get(before)
        if not isinstance(convolution, nn.Conv2d):
            raise ValueError(f"module must have a convolution before each batch norm, got none before {name}")
        module.add_module(before, fuse_conv_bn_eval(convolution, child))
        module.add_module(name, nn.Identity())
