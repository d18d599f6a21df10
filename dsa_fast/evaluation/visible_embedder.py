"""Test vectors together with the visibility of each part, from IUV maps or from the decoder of the `dense` guide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from dsa_fast.data.transforms import eval_transform
from dsa_fast.densepose.iuv import resize_iuv
from dsa_fast.densepose.parts import MERGED_NAMES
from dsa_fast.densepose.visibility import part_presence, part_visibility
from dsa_fast.evaluation.embedding import Embedded, ModelEmbedder, branch_slice

if TYPE_CHECKING:  # models brings torchvision
    from dsa_fast.models import LoadedModel
    from dsa_fast.models.mf_stream import Branches

__all__ = ["VisibleEmbedder"]


class VisibleEmbedder:
    """An `Embedder` whose rows are a test vector and then the visibility of each part; `split` separates them.

    Args:
        loaded: the model, on `device`, and its input sizes.
        source: `maps` reads the visibility from IUV maps (see `part_visibility`), where an image without a map counts
            as fully visible; `head` predicts it with the decoder of the `dense` guide, without a map.
        fused: as in `ModelEmbedder`; needs `maps`.
        branch: `both`, or `local` for vectors without a global half.
        device: device of the model.

    Attributes:
        size: height and width that images are resized to.
        needs_iuv: whether it is called with IUV maps too.
        maps_optional: whether an image may have no map.
        dim: length of a part's feature.

    Raises:
        ValueError: the model has no local branches, or no decoder for `head`; or `fused` with `head`.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        source: Literal["maps", "head"],
        *,
        fused: bool = False,
        branch: Branches = "both",
        device: torch.device | str = "cpu",
    ) -> None:
        if source not in ("maps", "head"):
            raise ValueError(f"source must be maps or head, got {source!r}")
        if branch == "global" or not loaded.model.embed_dims[1]:
            raise ValueError("visibility needs local branches: branch both or local, of a model that has them")
        if source == "head" and loaded.decoder is None:
            raise ValueError(
                "visibility head needs a checkpoint that was trained with the dense guide (guide.dense), got one "
                "without its decoder; visibility maps needs none"
            )
        if source == "head" and fused:
            raise ValueError("fused reads IUV maps, so its visibility must be maps too, got head")
        self._vectors = ModelEmbedder(loaded, fused=fused, branch=branch, device=device)
        self._decoder = None if source == "maps" or loaded.decoder is None else loaded.decoder.to(device)
        self._columns = branch_slice(loaded.model, branch)
        self.loaded, self.device, self.size = loaded, device, loaded.size
        self.needs_iuv, self.maps_optional = source == "maps", not fused
        self.dim = loaded.model.embed_dims[1] // len(MERGED_NAMES)

    def __call__(self, images: Tensor, iuv: Tensor | None = None) -> Tensor:
        """uint8 [B, 3, h, w], and with `maps` their maps of the same shape -> float32 [B, D + 8]."""
        if self._decoder is not None:
            vectors, features = self.loaded.model.embed_and_map(eval_transform(images.to(self.device), self.size))
            with torch.no_grad():
                logits, _ = self._decoder(features)
            return torch.cat([vectors[:, self._columns], part_presence(logits)], dim=1)
        assert iuv is not None
        iuv = iuv.to(self.device)
        vectors = self._vectors(images, iuv) if self._vectors.needs_iuv else self._vectors(images)
        return torch.cat([vectors, part_visibility(resize_iuv(iuv, self.size))], dim=1)

    @staticmethod
    def split(embedded: Embedded) -> tuple[Embedded, Tensor]:
        """Separates the result of `embed_people`: vectors [N, D] and visibilities [N, 8]."""
        parts = len(MERGED_NAMES)
        return embedded._replace(features=embedded.features[:, :-parts]), embedded.features[:, -parts:]
