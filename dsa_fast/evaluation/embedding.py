"""Test vectors of lists of people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from dsa_fast.data.dataset import Collate, PeopleDataset
from dsa_fast.data.people import PeopleSplits, Person
from dsa_fast.data.transforms import eval_transform, normalize, part_images, resize
from dsa_fast.densepose.iuv import Order, resize_iuv
from dsa_fast.evaluation.metrics import pool_images

if TYPE_CHECKING:  # models brings torchvision
    from dsa_fast.models import DSAReID, LoadedModel
    from dsa_fast.models.mf_stream import Branches

__all__ = ["Embedded", "Embedder", "ModelEmbedder", "branch_slice", "embed_people", "pool_multi_query"]


class Embedded(NamedTuple):
    """Test vectors, with the labels for `evaluate`.

    Attributes:
        features: float32 [N, D], on the CPU.
        pids: int64 [N].
        camids: int64 [N].
    """

    features: Tensor
    pids: Tensor
    camids: Tensor


class Embedder(Protocol):
    """Turns stored images into test vectors. `dsa_fast.Encoder` and `ModelEmbedder` are examples."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width that images are resized to."""

    @property
    def needs_iuv(self) -> bool:
        """Whether it is called with IUV maps too."""

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor | NDArray[np.float32]:
        """uint8 [B, 3, h, w], RGB, and maps of the same shape if `needs_iuv` -> float32 [B, D]."""


class ModelEmbedder:
    """An `Embedder` of a loaded model, which can also fuse both streams or give a single branch.

    Args:
        loaded: the model, on `device`, and its input sizes.
        fused: use the fused vectors of both streams, which need IUV maps; otherwise those of the MF-Stream.
        branch: return only the part of each vector from the global or the local branch.
        device: device of the model.

    Raises:
        ValueError: the model was built without this branch.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        fused: bool = False,
        branch: Branches = "both",
        device: torch.device | str = "cpu",
    ) -> None:
        self.loaded, self.needs_iuv, self.device, self.size = loaded, fused, device, loaded.size
        self._columns = branch_slice(loaded.model, branch)

    def __call__(self, images: Tensor, iuv: Tensor | None = None) -> Tensor:
        """uint8 [B, 3, h, w], and with `fused` their maps of the same shape -> float32 [B, D]."""
        images = images.to(self.device)
        if not self.needs_iuv:
            return self.loaded.model.embed(eval_transform(images, self.size))[:, self._columns]
        assert iuv is not None
        loaded = self.loaded
        images, iuv = resize(images, self.size), resize_iuv(iuv.to(self.device), self.size)
        dsap = part_images(images, iuv, loaded.parts, size=loaded.dsap_size, reduce=loaded.reduce)
        return loaded.model.embed_fused(normalize(images), dsap)[:, self._columns]


def embed_people(
    embedder: Embedder,
    people: Sequence[Person],
    *,
    iuv_order: Order = "auto",
    batch: int = 64,
    workers: int = 0,
    progress: str | None = None,
) -> Embedded:
    """Embeds people from their files.

    Args:
        embedder: an `Encoder`, or a `ModelEmbedder` of a loaded model.
        people: the people to embed.
        iuv_order: channel order of the maps' files, see `read_iuv`.
        batch: number of images per batch.
        workers: number of processes that read images.
        progress: text of a progress bar; None for no bar.

    Raises:
        ValueError: `people` is empty, a person has no IUV map for the fused streams, or a file can't be read.
    """
    from rich.progress import track

    from dsa_fast.terminal import console

    if not people:
        raise ValueError("people must not be empty: the data set has none in this split")
    if embedder.needs_iuv and not getattr(embedder, "maps_optional", False):
        bare = [person.path for person in people if person.iuv_path is None]
        if bare:
            raise ValueError(f"fused needs an IUV map for every image, got none for {bare[0]} and {len(bare) - 1} more")
    dataset = PeopleDataset(people, with_iuv=embedder.needs_iuv, iuv_order=iuv_order)
    loader = DataLoader(dataset, batch_size=batch, num_workers=workers, collate_fn=Collate(embedder.size))
    features, pids, camids = [], [], []
    out = console(stderr=True)
    silent = progress is None or not out.is_terminal
    for items in track(loader, progress or "", disable=silent, transient=True, console=out):
        vectors = embedder(items["image"], items["iuv"]) if embedder.needs_iuv else embedder(items["image"])
        features.append(torch.as_tensor(vectors).float().cpu())
        pids.append(items["label"])
        camids.append(items["camid"])
    return Embedded(torch.cat(features), torch.cat(pids), torch.cat(camids))


def branch_slice(model: DSAReID, branch: Branches) -> slice:
    """Returns the columns of a branch in a model's test vectors, where each branch has length 1.

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


def as_tested(embedded: Embedded, people: Sequence[Person], data: PeopleSplits) -> Embedded:
    """Brings test vectors into the form that a data set's protocol compares.

    Args:
        embedded: the vectors of N people.
        people: these people, in order.
        data: their data set. With `other_clothes`, camids become int64 [N, 2]: camera and clothes; clothes that are not
            known differ from all others. With `pool_tracklets`, the vectors of a tracklet are replaced by their mean.

    Returns:
        `embedded` itself for other data sets.

    Raises:
        ValueError: `people` are not as many as the vectors.
    """
    if not data.other_clothes and not data.pool_tracklets:
        return embedded
    if len(people) != len(embedded.pids):
        raise ValueError(f"people must be those of the {len(embedded.pids)} vectors, got {len(people)}")
    if data.other_clothes:
        clothes = torch.tensor([person.clothes or -1 - place for place, person in enumerate(people)])
        embedded = embedded._replace(camids=torch.stack((embedded.camids, clothes.to(embedded.camids)), 1))
    if data.pool_tracklets:
        tracklets = torch.tensor([person.tracklet for person in people])
        pooled, order, _ = pool_images(embedded.features, tracklets, torch.zeros_like(tracklets))
        places = {number: place for place, number in reversed(list(enumerate(tracklets.tolist())))}
        first = torch.tensor([places[number] for number in order.tolist()])
        embedded = Embedded(pooled, embedded.pids[first], embedded.camids[first])
    return embedded


def pool_multi_query(query: Embedded, shots: Embedded, reduce: Literal["mean", "max"] = "mean") -> Embedded:
    """Pools each query's vector over all images of its person by its camera, for a multi-query test.

    As in Zheng et al., "Scalable Person Re-identification: A Benchmark", ICCV 2015, where the images are those of
    Market-1501's `gt_bbox`. The number of queries stays the same.

    Args:
        query: the single queries. A query without images in `shots` keeps its vector.
        shots: the additional images, `PeopleSplits.multi_query`.
        reduce: how vectors are pooled.

    Raises:
        ValueError: `shots` is empty, its vectors have another length, or `reduce` is unknown.
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
