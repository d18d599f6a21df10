"""`dsa-fast eval`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console

from dsa_fast.cli.fit import print_scores
from dsa_fast.data.market import Market1501
from dsa_fast.atomic import atomic_path
from dsa_fast.evaluation import evaluate
from dsa_fast.training.module import load_model
from dsa_fast.training.scoring import embed_people


def eval(
    checkpoint: Path,
    root: Path,
    *,
    fused: bool = False,
    iuv: Path | None = None,
    metric: Literal["cosine", "euclidean"] = "cosine",
    device: str = "auto",
    batch: int = 64,
    workers: int = 2,
    json_out: Path | None = None,
) -> None:
    """Evaluate a checkpoint on a data set in Market-1501's layout: `dsa-fast eval runs/fit/checkpoints/last.ckpt DIR`.

    Args:
        checkpoint: file written by `dsa-fast fit`.
        root: folder with `query` and `bounding_box_test`.
        fused: use both streams' fused features, which need IUV maps; otherwise the MF-Stream alone.
        iuv: folder of the IUV maps; by default `iuv` inside root.
        metric: distance of two test vectors.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        batch: images in a batch.
        workers: processes that read images.
        json_out: also write the scores to this JSON file.
    """
    place = torch.device("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else torch.device(device)
    loaded = load_model(checkpoint)
    loaded.model.to(place)
    data = Market1501.read(root, iuv)
    query, gallery = (
        embed_people(
            loaded,
            people,
            fused=fused,
            device=place,
            batch=batch,
            workers=workers,
            progress=f"embedding {name}",
        )
        for name, people in (("query", data.query), ("gallery", data.gallery))
    )
    result = evaluate(*query, *gallery, metric=metric)
    print_scores({"fused" if fused else "MF-Stream": result.summary()})
    Console().print(f"{result.num_valid_queries} queries, {len(data.gallery)} gallery images", highlight=False)
    if json_out is not None:
        about = {"checkpoint": str(checkpoint), "root": str(root), "fused": fused, "metric": metric}
        with atomic_path(json_out) as temporary:
            temporary.write_text(json.dumps({**about, **result.summary()}, indent=2) + "\n")
