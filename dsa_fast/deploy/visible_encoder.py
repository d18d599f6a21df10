"""An encoder that also gives the visibility of each body part, predicted by a checkpoint without a map."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsa_fast.device import pick_device

__all__ = ["VisibleEncoder"]


class VisibleEncoder:
    """Turns images into vectors of length 1, as `Encoder` does, and the visibility of the 8 merged body parts.

    Args:
        path: a checkpoint that was trained with the dense guide.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.

    Attributes:
        dim: length of a vector.
        num_parts: number of parts, 8.
        part_dim: length of a part's feature; the last num_parts * part_dim values of a vector are the parts.

    Raises:
        FileNotFoundError, ValueError: see `load_model` and `VisibleEmbedder`.
    """

    def __init__(self, path: str | os.PathLike[str], *, device: str = "auto") -> None:
        # They import torchvision, which an exported file does not need.
        from dsa_fast.evaluation import VisibleEmbedder
        from dsa_fast.models import load_model

        place = pick_device(device)
        loaded = load_model(path)
        loaded.model.to(place)
        self._embedder = VisibleEmbedder(loaded, "head", device=place)
        self.dim, self.part_dim = sum(loaded.model.embed_dims), self._embedder.dim
        self.num_parts = loaded.model.embed_dims[1] // self.part_dim
        self._about = f"torch on {place}, with visibility"

    def __call__(self, images: Sequence[Tensor]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """B images, uint8 [3, h, w] of any size -> float32 [B, dim] and [B, 8]."""
        from dsa_fast.data.transforms import resize

        batch = torch.cat([resize(image[None], self._embedder.size) for image in images])
        rows = self._embedder(batch).float().cpu()
        vectors = torch.nn.functional.normalize(rows[:, : self.dim], dim=1)
        return vectors.numpy(), rows[:, self.dim :].numpy()

    def __repr__(self) -> str:
        return self._about
