"""Test vectors of lists of people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader

from dsa_fast.data.dataset import Collate, PeopleDataset
from dsa_fast.data.people import Person
from dsa_fast.data.transforms import eval_transform, normalize, resize
from dsa_fast.densepose.iuv import resize_iuv
from dsa_fast.ops.warp import warp
from dsa_fast.training.module import LoadedModel


class Embedded(NamedTuple):
    """Test vectors and what `evaluate` needs beside them.

    Attributes:
        features: float32 [N, D], on the CPU.
        pids: int64 [N].
        camids: int64 [N].
    """

    features: Tensor
    pids: Tensor
    camids: Tensor


def embed_people(
    loaded: LoadedModel,
    people: Sequence[Person],
    *,
    fused: bool = False,
    device: torch.device | str = "cpu",
    batch: int = 64,
    workers: int = 0,
    progress: str | None = None,
) -> Embedded:
    """Embeds people from their files.

    Args:
        loaded: the model, on `device`, and its input sizes.
        people: whom to embed.
        fused: gives the fused vectors of both streams, which need the people's IUV maps; otherwise MF-Stream only.
        device: where the model lies.
        batch: images in a batch.
        workers: processes that read images.
        progress: text of a progress bar; None for none.

    Raises:
        ValueError: there is nobody, `fused` is asked for and a person has no IUV map, or a file can't be read.
    """
    if not people:
        raise ValueError("people must not be empty: the data set has none in this split")
    model, size, dsap_size = loaded
    if fused:
        bare = [person.path for person in people if person.iuv_path is None]
        if bare:
            raise ValueError(f"fused needs an IUV map for every image, got none for {bare[0]} and {len(bare) - 1} more")
    dataset = PeopleDataset(people, with_iuv=fused)
    loader = DataLoader(dataset, batch_size=batch, num_workers=workers, collate_fn=Collate(size))
    features, pids, camids = [], [], []
    for items in track(loader, progress or "", disable=progress is None, transient=True):
        images = items["image"].to(device)
        if fused:
            full = normalize(resize(images, size))
            dsap = warp(full, resize_iuv(items["iuv"].to(device), size), size=dsap_size, fill=0.0)
            vectors = model.embed_fused(full, dsap)
        else:
            vectors = model.embed(eval_transform(images, size))
        features.append(vectors.float().cpu())
        pids.append(items["label"])
        camids.append(items["camid"])
    return Embedded(torch.cat(features), torch.cat(pids), torch.cat(camids))


def pool_multi_query(query: Embedded, shots: Embedded, reduce: Literal["mean", "max"] = "mean") -> Embedded:
    """The queries of a multi-query test: each query's vector is pooled over its person's images by its camera.

    As in Zheng et al., "Scalable Person Re-identification: A Benchmark", ICCV 2015, where the images are those of
    Market-1501's `gt_bbox`. There are as many queries as before.

    Args:
        query: the single queries; one without any image in `shots` keeps its vector.
        shots: the further images, `PeopleSplits.multi_query`.
        reduce: how vectors are pooled.

    Raises:
        ValueError: `shots` is empty, or its vectors are of another length.
    """
    if reduce not in ("mean", "max"):
        raise ValueError(f"reduce must be mean or max, got {reduce!r}")
    if len(shots.features) == 0 or shots.features.shape[1:] != query.features.shape[1:]:
        raise ValueError(
            f"shots must hold vectors of the queries' length, got shapes {list(shots.features.shape)} and "
            f"{list(query.features.shape)}"
        )
    rows: dict[tuple[int, int], list[int]] = {}
    for row, key in enumerate(zip(shots.pids.tolist(), shots.camids.tolist(), strict=True)):
        rows.setdefault(key, []).append(row)
    features = query.features.clone()
    for number, key in enumerate(zip(query.pids.tolist(), query.camids.tolist(), strict=True)):
        if key in rows:
            vectors = shots.features[rows[key]]
            features[number] = vectors.mean(0) if reduce == "mean" else vectors.amax(0)
    return query._replace(features=features)
