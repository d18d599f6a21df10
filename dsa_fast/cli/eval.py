"""`dsa-fast eval`."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dsa_fast.cli.fit import print_scores
from dsa_fast.configs.datasets import DatasetOptions
from dsa_fast.files import atomic_path, write_json
from dsa_fast.terminal import say

if TYPE_CHECKING:
    from torch import Tensor

    from dsa_fast.evaluation import Embedded, Embedder


def eval(
    checkpoint: Path | None = None,
    root: Path | None = None,
    *,
    features: Path | None = None,
    save_features: Path | None = None,
    name: str = "auto",
    options: DatasetOptions | None = None,
    check_counts: bool = True,
    multi_query: bool = False,
    fused: bool = False,
    branch: Literal["both", "global", "local"] = "both",
    iuv: Path | None = None,
    iuv_order: Literal["auto", "IUV", "VUI"] = "auto",
    metric: Literal["cosine", "euclidean"] = "cosine",
    average_precision: Literal["rectangular", "trapezoid"] = "rectangular",
    visibility: Literal["maps", "head"] | None = None,
    rerank: bool = False,
    expand: int = 0,
    device: str = "auto",
    batch: int = 64,
    workers: int = 2,
    json_out: Path | None = None,
) -> None:
    """Evaluate a checkpoint on a data set.

    Args:
        checkpoint: file written by `dsa-fast fit` or `dsa-fast export`; the first positional argument.
        root: folder of a data set or one up to three levels above it, or a CSV file; the second positional argument.
        features: an .npz file of test vectors of any model, instead of checkpoint and root, with query_features [Q, D],
            query_pids [Q], query_camids [Q], gallery_features, gallery_pids and gallery_camids.
        save_features: also write the test vectors to such a file.
        name: the data set's name; `auto` detects it from the folder.
        options: options of the data set, such as `{kind: labeled}` for CUHK03.
        check_counts: whether the image counts must match the published ones.
        multi_query: pool each query over all images of its person by its camera (Market-1501's gt_bbox).
        fused: use the fused features of both streams, which need IUV maps; otherwise use the MF-Stream alone.
        branch: use the test vector of both branches, concatenated, or only the global or local one.
        iuv: folder of the IUV maps; by default `iuv` inside root.
        iuv_order: channel order of the maps' files; `auto` detects it in each file.
        metric: distance between two test vectors.
        average_precision: `rectangular`, or `trapezoid` as in Market-1501's own script.
        visibility: also score distances that weight body parts by their visibility in both images: by IUV maps, or by
            the head that `guide.dense` has trained (no maps). Made for fused vectors; see docs/evaluation.md.
        rerank: also score k-reciprocal re-ranking, which uses all queries at once.
        expand: also score query expansion with this number of nearest gallery images; 0 for none.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        batch: number of images per batch.
        workers: number of processes that read images.
        json_out: also write the scores to this JSON file.

    Examples:
        dsa-fast eval runs/quick/checkpoints/last.ckpt people
        dsa-fast eval --features vectors.npz --rerank
    """
    from dsa_fast.data.registry import read_dataset
    from dsa_fast.deploy.encoder import Encoder
    from dsa_fast.deploy.sidecar import SUFFIXES
    from dsa_fast.device import pick_device
    from dsa_fast.evaluation import (
        Embedded,
        ModelEmbedder,
        PartVisibility,
        VisibleEmbedder,
        as_tested,
        draw_galleries,
        embed_people,
        evaluate,
        evaluate_distances,
        expand_queries,
        k_reciprocal,
        match_rates,
        mean_scores,
        pool_multi_query,
    )
    from dsa_fast.models import load_model

    place = pick_device(device)
    if visibility is not None and (features is not None or metric != "cosine"):
        raise ValueError("visibility needs a checkpoint and metric cosine, got features or another metric")
    seen: PartVisibility | None = None
    notes: list[str] = []
    kind, draws = "images", 0
    if features is not None:
        if checkpoint is not None or root is not None or multi_query or fused or branch != "both":
            raise ValueError("features replaces checkpoint, root, multi_query, fused and branch, got one of them too")
        query, gallery = _load_features(features)
        row = features.stem
    else:
        if checkpoint is None or root is None:
            raise ValueError("CHECKPOINT and ROOT must be given, or --features: dsa-fast eval CHECKPOINT DIR")
        embedder: Embedder
        if checkpoint.suffix in SUFFIXES.values():
            if fused or branch != "both" or visibility is not None:
                option = "fused" if fused else "branch" if branch != "both" else "visibility"
                raise ValueError(f"{option} needs a checkpoint, which has streams and branches, got {checkpoint}")
            embedder = Encoder.load(checkpoint, device=device)
        else:
            loaded = load_model(checkpoint)
            loaded.model.to(place)
            if visibility is None:
                embedder = ModelEmbedder(loaded, fused=fused, branch=branch, device=place)
            else:
                embedder = VisibleEmbedder(loaded, visibility, fused=fused, branch=branch, device=place)
        data = read_dataset(root, name, iuv=iuv, check_counts=check_counts, **(options or {}))
        if multi_query and not data.multi_query:
            raise ValueError(f"multi_query needs additional images of the queries (gt_bbox), got none in {data.root}")
        if visibility == "maps" and not any(person.iuv_path for person in (*data.query, *data.gallery)):
            raise ValueError(f"visibility maps needs IUV maps of query and gallery, got none in {data.root}")
        notes, draws = data.notes(), data.gallery_draws
        kind = "tracklets" if data.pool_tracklets else "images"
        parts = {"query": data.query, "gallery": data.gallery}
        if multi_query:
            parts["multi_query"] = data.multi_query
        embedded = {
            part: embed_people(
                embedder,
                people,
                iuv_order=iuv_order,
                batch=batch,
                workers=workers,
                progress=f"embedding {part}",
            )
            for part, people in parts.items()
        }
        query, gallery = (as_tested(embedded[part], parts[part], data) for part in ("query", "gallery"))
        if multi_query:
            query = pool_multi_query(query, embedded["multi_query"])
        if isinstance(embedder, VisibleEmbedder):
            (query, query_seen), (gallery, gallery_seen) = map(embedder.split, (query, gallery))
            seen = PartVisibility(query_seen, gallery_seen, embedder.dim)
        row = ("fused" if fused else "MF-Stream") + ("" if branch == "both" else f", {branch} branch")
    if save_features is not None:
        _save_features(save_features, query, gallery)
    query, gallery = (Embedded(it.features.to(place), it.pids, it.camids) for it in (query, gallery))
    galleries: list[Tensor] | list[slice] = draw_galleries(gallery.pids, draws) if draws else [slice(None)]
    drawn: dict[str, list[dict[str, float]]] = {}
    for chosen in galleries:
        some = Embedded(*(column[chosen] for column in gallery))
        result = evaluate(*query, *some, metric=metric, average_precision=average_precision)
        drawn.setdefault(row, []).append(result.summary())
        if seen is not None:
            of_some = seen._replace(gallery=seen.gallery[chosen])
            visible = evaluate(*query, *some, average_precision=average_precision, visibility=of_some)
            drawn.setdefault("visible parts", []).append(visible.summary())
        if expand:
            expanded = query._replace(features=expand_queries(query.features, some.features, k=expand))
            drawn.setdefault("expanded queries", []).append(
                evaluate(*expanded, *some, metric=metric, average_precision=average_precision).summary()
            )
        if rerank:
            k1 = min(20, len(query.pids) + len(some.pids) - 1)
            reranked = k_reciprocal(query.features, some.features, k1=k1, k2=min(6, k1 + 1), metric=metric)
            drawn.setdefault("re-ranked", []).append(
                evaluate_distances(reranked, *query[1:], *some[1:], average_precision=average_precision).summary()
            )
    rows = {name: mean_scores(scores) for name, scores in drawn.items()}
    print_scores(rows)
    say(f"Distance: {metric}" + (f"; re-ranked by the {k1} nearest neighbors by {metric}" if rerank else ""))
    try:
        pairs: dict[str, Any] | None = match_rates(query, gallery).summary()
    except ValueError:  # a single person
        pairs = None
    if pairs is not None:
        print_pairs(pairs)
    counted, total = result.num_valid_queries, len(query.pids)
    say(
        f"{counted} queries, {len(some.pids)} gallery {kind}"
        if counted == total
        else f"{counted} of {total} queries count, {len(some.pids)} gallery {kind}: the other "
        f"{total - counted} queries have no match that counts in the gallery: {kind} of their person by another camera"
    )
    if not (gallery.pids != query.pids[0]).any():
        notes = [
            *notes,
            "All images show one person, so nobody can be mistaken for another, and the scores mean nothing",
        ]
    for line in notes:
        say(line)
    if json_out is not None:
        about: dict[str, Any] = {
            "checkpoint": None if checkpoint is None else str(checkpoint),
            "root": None if root is None else str(root),
            "features": None if features is None else str(features),
            "fused": fused,
            "branch": branch,
            "metric": metric,
            "average_precision": average_precision,
            "multi_query": multi_query,
            "visibility": visibility,
        }
        names = {"visible": "visible parts", "expanded": "expanded queries", "reranked": "re-ranked"}
        others = {key: rows.get(row) for key, row in names.items()}
        about |= {key: scores for key, scores in others.items() if scores is not None}
        if draws:
            about["draws"] = drawn[row]
        write_json(json_out, {**about, **rows[row], "pairs": pairs, "notes": notes})


def print_pairs(pairs: dict[str, Any]) -> None:
    """Prints how well the cosine tells whether two images show one person."""
    found = ", ".join(f"{100 * pairs['tpr'][fmr]:.1f} % at {fmr}" for fmr in pairs["thresholds"])
    say(
        f"Pairs of one person found, by false match rate: {found or 'too few pairs of different people'}\n"
        f"Equal error rate: {100 * pairs['eer']:.2f} % at a cosine of {pairs['eer_threshold']:.4f}"
    )


# Positional arguments, in this order.
eval.positionals = ("checkpoint", "root")  # type: ignore[attr-defined]


def _save_features(path: Path, query: Embedded, gallery: Embedded) -> None:
    import numpy as np

    arrays = {
        f"{part}_{name}": value.cpu().numpy()
        for part, embedded in (("query", query), ("gallery", gallery))
        for name, value in embedded._asdict().items()
    }
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def _load_features(path: Path) -> tuple[Embedded, Embedded]:
    import numpy as np
    import torch

    from dsa_fast.evaluation import Embedded

    if not path.is_file():
        raise FileNotFoundError(f"features must be an .npz file, got {path}: no such file")
    names = [f"{part}_{name}" for part in ("query", "gallery") for name in Embedded._fields]
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in names if name not in file.files]
            if missing:
                raise ValueError(f"it has no {', '.join(missing)}, only {', '.join(file.files) or 'nothing'}")
            tensors: list[Tensor] = [torch.from_numpy(file[name]) for name in names]
    except (ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"features must be an .npz file with {', '.join(names)}, got {path}: {error}") from error
    return Embedded(*tensors[:3]), Embedded(*tensors[3:])
