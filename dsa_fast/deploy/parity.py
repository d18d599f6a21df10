"""Compares the vectors of an exported file with those of its checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from dsa_fast.data.people import PeopleSplits
from dsa_fast.data.transforms import normalize
from dsa_fast.deploy.encoder import Encoder
from dsa_fast.evaluation import Embedder, ModelEmbedder, embed_people, evaluate

if TYPE_CHECKING:
    from dsa_fast.models import LoadedModel

#: An export with a smaller cosine fails. In 8 bits, the limit depends on the network: see `least_cosine`.
LEAST_COSINE: dict[str, float] = {"fp32": 0.99999, "fp16": 0.999, "bf16": 0.99}

#: In 8 bits, a vector may move by this share of the way to the other images of the check.
MOST_OF_THE_GAP = 0.5

_SINGLES = 16  # images embedded one by one


def embed_exactly(loaded: LoadedModel, images: Tensor) -> Tensor:
    """Embeds uint8 [N, 3, H, W] of the input's size with the checkpoint itself: float32 [N, D]."""
    return torch.cat([loaded.model.embed(normalize(part)) for part in images.split(32)])


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Returns the cosine of each row of a [N, D] with the same row of b, in float64."""
    return functional.cosine_similarity(a.double(), b.double(), dim=1)


def compare_vectors(encoder: Encoder, loaded: LoadedModel, images: Tensor) -> dict[str, Any]:
    """Computes cosines with the checkpoint's vectors at the smallest, the tuned and the largest batch.

    Args:
        encoder: encoder of the exported file.
        loaded: the checkpoint, on the CPU.
        images: uint8 [N, 3, H, W], of the input's size; repeated if a batch needs more.

    Returns:
        {"runtime": str, "images": N, "strangers": mean cosine of two of the images by the checkpoint (None for a single
        image), "batches": {"1": {"cosine_min", "cosine_mean"}, ...}}.
    """
    reference = embed_exactly(loaded, images)
    batches = {}
    for size in sorted({encoder.batch.min, encoder.batch.opt, encoder.batch.max}):
        runs = min(len(images), _SINGLES) if size == 1 else -(-len(images) // size)
        order = torch.arange(runs * size) % len(images)
        got = torch.cat([encoder.embed_batch(images[part]) for part in order.split(size)])
        alike = cosines(got, reference[order])
        batches[str(size)] = {"cosine_min": float(alike.min()), "cosine_mean": float(alike.mean())}
    return {
        "runtime": runtime_name(encoder),
        "images": len(images),
        "strangers": mean_cosine(reference),
        "batches": batches,
    }


def mean_cosine(vectors: Tensor) -> float | None:
    """Returns the mean cosine of two different rows of [N, D]; None for a single row."""
    count = len(vectors)
    total = functional.normalize(vectors.double(), dim=1).sum(dim=0).square().sum()
    return None if count < 2 else float((total - count) / (count * (count - 1)))


def compare_scores(
    encoder: Encoder, loaded: LoadedModel, data: PeopleSplits, *, workers: int = 0, progress: bool = False
) -> dict[str, Any]:
    """Measures mAP and rank 1 of the checkpoint and of the exported file on a data set.

    Returns:
        {"data": name, "mAP_checkpoint", "mAP", "mAP_change", "R1_checkpoint", "R1"}, all as shares in [0, 1].
    """
    results = []
    embedders: tuple[tuple[Embedder, str], ...] = ((ModelEmbedder(loaded), "checkpoint"), (encoder, "export"))
    for embedder, name in embedders:
        query, gallery = (
            embed_people(embedder, part, workers=workers, progress=f"scoring the {name}" if progress else None)
            for part in (data.query, data.gallery)
        )
        results.append(evaluate(*query, *gallery))
    before, after = results
    return {
        "data": data.name,
        "queries": len(data.query),
        "gallery": len(data.gallery),
        "mAP_checkpoint": before.mAP,
        "mAP": after.mAP,
        "mAP_change": after.mAP - before.mAP,
        "R1_checkpoint": before.rank(1),
        "R1": after.rank(1),
    }


def runtime_name(encoder: Encoder) -> str:
    """Returns library, device and precision, such as `openvino on cpu (bf16)`."""
    return f"{encoder.backend} on {encoder.device} ({encoder.precision})"


def least_cosine(parity: dict[str, Any], precision: str) -> float:
    """Returns the smallest cosine that an export may have.

    In 8 bits it depends on how alike the vectors of different images are. A network may give strangers a cosine of
    0.93, so that 0.9 would say nothing.
    """
    if precision in LEAST_COSINE:
        return LEAST_COSINE[precision]
    strangers = parity.get("strangers")
    return 0.9 if strangers is None else 1 - MOST_OF_THE_GAP * (1 - float(strangers))


def check_parity(parity: dict[str, Any], precision: str, least: float | None = None) -> None:
    """Raises ValueError if a batch's smallest cosine is below `least`, by default `least_cosine`."""
    limit = least_cosine(parity, precision) if least is None else least
    for size, figures in parity["batches"].items():
        if not figures["cosine_min"] >= limit:
            raise ValueError(
                f"the export must agree with the checkpoint to a cosine of {limit:.6g} in {precision}, got "
                f"{figures['cosine_min']:.6f} at batch {size}"
            )
