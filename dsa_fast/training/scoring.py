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
from dsa_fast.data.transforms import eval_transform, normalize, part_images, resize
from dsa_fast.densepose.iuv import Order, resize_iuv
from dsa_fast.deploy.encoder import Encoder
from dsa_fast.device import pick_device
from dsa_fast.evaluation import pool_images
from dsa_fast.models import DSAReID
from dsa_fast.models.mf_stream import Branches
from dsa_fast.training.module import LoadedModel

__all__ = ["Embedded", "embed_people", "pick_device", "pool_multi_query"]


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
    loaded: LoadedModel | Encoder,
    people: Sequence[Person],
    *,
    fused: bool = False,
    branch: Branches = "both",
    iuv_order: Order = "auto",
    device: torch.device | str = "cpu",
    batch: int = 64,
    workers: int = 0,
    progress: str | None = None,
) -> Embedded:
    """Embeds people from their files.

    Args:
        loaded: the model, on `device`, and its input sizes; or an encoder, which knows its device.
        people: whom to embed.
        fused: gives the fused vectors of both streams, which need a model and the people's IUV maps; otherwise
            MF-Stream only.
        branch: gives the part of a model's vectors that is the global or the local branch's own test vector, instead of
            both.
        iuv_order: channel order of the maps' files, see `read_iuv`.
        device: where the model lies.
        batch: images in a batch.
        workers: processes that read images.
        progress: text of a progress bar; None for none.

    Raises:
        ValueError: there is nobody, `fused` is asked for and a person has no IUV map, the model has no such branch, or
            a file can't be read.
    """
    if not people:
        raise ValueError("people must not be empty: the data set has none in this split")
    if fused and isinstance(loaded, Encoder):
        raise ValueError(f"fused needs a checkpoint, which has both streams, got {loaded.path}")
    if not isinstance(loaded, Encoder):
        chosen = branch_slice(loaded.model, branch)
    elif branch == "both":
        chosen = slice(None)
    else:
        raise ValueError(f"branch needs a checkpoint, which knows its branches, got {branch} of {loaded.path}")
    if fused:
        bare = [person.path for person in people if person.iuv_path is None]
        if bare:
            raise ValueError(f"fused needs an IUV map for every image, got none for {bare[0]} and {len(bare) - 1} more")
    size = loaded.size
    dataset = PeopleDataset(people, with_iuv=fused, iuv_order=iuv_order)
    loader = DataLoader(dataset, batch_size=batch, num_workers=workers, collate_fn=Collate(size))
    features, pids, camids = [], [], []
    for items in track(loader, progress or "", disable=progress is None, transient=True):
        images = items["image"] if isinstance(loaded, Encoder) else items["image"].to(device)
        if isinstance(loaded, Encoder):
            vectors = torch.as_tensor(loaded(images))
        elif fused:
            images = resize(images, size)
            iuv = resize_iuv(items["iuv"].to(device), size)
            dsap = part_images(images, iuv, loaded.parts, size=loaded.dsap_size, reduce=loaded.reduce)
            vectors = loaded.model.embed_fused(normalize(images), dsap)
        else:
            vectors = loaded.model.embed(eval_transform(images, size))
        features.append(vectors[:, chosen].float().cpu())
        pids.append(items["label"])
        camids.append(items["camid"])
    return Embedded(torch.cat(features), torch.cat(pids), torch.cat(camids))


def branch_slice(model: DSAReID, branch: Branches) -> slice:
    """Where in a model's test vectors a branch's own vector is; each branch has length 1 in them.

    Raises:
        ValueError: the model was built without this branch.
    """
    whole, local = model.embed_dims
    places = {"both": slice(0, whole + local), "global": slice(0, whole), "local": slice(whole, whole + local)}
    if branch not in places:
        raise ValueError(f"branch must be both, global or local, got {branch!r}")
    place = places[branch]
    if place.start == place.stop:
        raise ValueError(f"branch must be one that the model was trained with, got {branch} of {model.branches}")
    return place


def pool_multi_query(query: Embedded, shots: Embedded, reduce: Literal["mean", "max"] = "mean") -> Embedded:
    """The queries of a multi-query test: each query's vector is pooled over its person's images by its camera.

    As in Zheng et al., "Scalable Person Re-identification: A Benchmark", ICCV 2015, where the images are those of
    Market-1501's `gt_bbox`. There are as many queries as before.

    Args:
        query: the single queries; one without any image in `shots` keeps its vector.
        shots: the further images, `PeopleSplits.multi_query`.
        reduce: how vectors are pooled.

    Raises:
        ValueError: `shots` is empty, its vectors are of another length, or `reduce` is unknown.
    """
    if len(shots.features) == 0 or shots.features.shape[1:] != query.features.shape[1:]:
        raise ValueError(
            f"shots must hold vectors of the queries' length, got shapes {list(shots.features.shape)} and "
            f"{list(query.features.shape)}"
        )
    pooled, pids, camids = pool_images(*shots, reduce=reduce)
    places = {key: row for row, key in enumerate(zip(pids.tolist(), camids.tolist(), strict=True))}
    features = query.features.clone()
    for number, key in enumerate(zip(query.pids.tolist(), query.camids.tolist(), strict=True)):
        if key in places:
            features[number] = pooled[places[key]]
    return query._replace(features=features)
