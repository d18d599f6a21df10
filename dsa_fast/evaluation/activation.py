"""Activation maps: where the MF-Stream responds. `dsa_fast.visual.activation` draws them.

A map's value at a position is the length (L2 norm over the channels) of the feature vector there. Every layer ends with
a ReLU and is averaged over positions, so long vectors contribute most to the test vector (with `model.pooling` parts,
the positions also have weights). Each image's map is scaled to 0..255 separately: maps show *where* the network
responds to an image, not which image it responds to most.

Position (i, j) of a map is centered on pixel (16 i, 16 j) of the network's input, not on the middle of that 16 x 16
square: each strided layer of the backbone reads symmetrically around every second position, starting with the first.
Maps are drawn accordingly: their first row and column lie on the image's top and left border.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch
from torch import Tensor

from dsa_fast.models.mf_stream import MFStream

__all__ = ["Layer", "energy", "record_activations"]

#: `backbone`: F, the input of all heads; `global`: the global head's last map; `local`: those of the 8 local branches.
Layer = Literal["backbone", "global", "local"]

_MODULES = {"backbone": "backbone", "global": "head_global", "local": "head_local"}


def energy(features: Tensor) -> Tensor:
    """Turns feature maps [B, C, h, w] of any float type into uint8 [B, h, w] on the CPU, each map scaled to 0..255.

    A constant map gives zeros.

    Raises:
        ValueError: wrong shape.
    """
    if features.dim() != 4:
        raise ValueError(f"features must have shape [B, C, h, w], got {list(features.shape)}")
    length = features.detach().float().square().sum(1).sqrt()
    low, high = length.amin((1, 2), keepdim=True), length.amax((1, 2), keepdim=True)
    spread = high - low
    unit = torch.where(spread > 0, (length - low) / spread.clamp(min=torch.finfo(torch.float32).tiny), 0.0)
    return (255 * unit).round().to(torch.uint8).cpu()


@contextmanager
def record_activations(stream: MFStream, layer: Layer = "backbone") -> Iterator[list[Tensor]]:
    """Records the activation maps of all batches that pass through an MF-Stream within the block.

    ```python
    with record_activations(loaded.model.mf_stream) as maps:
        features, pids, camids = embed_people(ModelEmbedder(loaded), people)
    maps = torch.cat(maps)  # uint8 [len(people), h, w], in the people's order
    ```

    It uses hooks. A graph compiled by `torch.compile` before the block does not call them.

    Args:
        stream: the stream, not compiled (`model.mf_stream`).
        layer: the layer to record; every model has `backbone`.

    Yields:
        A list that grows by one uint8 tensor [B, h, w] with each batch; see `energy`.

    Raises:
        ValueError: the layer is unknown, or the model was built without it.
    """
    if layer not in get_args(Layer):
        raise ValueError(f"layer must be one of {', '.join(get_args(Layer))}, got {layer!r}")
    module: torch.nn.Module | None = getattr(stream, _MODULES[layer])
    if module is None:
        raise ValueError(f"layer must be a branch that the model has, got {layer!r}: it was built without that branch")
    maps: list[Tensor] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: maps.append(energy(output)))
    try:
        yield maps
    finally:
        handle.remove()
