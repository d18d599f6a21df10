"""A torch data set that reads people as uint8 images and IUV maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dsa_fast.data.people import Person
from dsa_fast.data.transforms import resize
from dsa_fast.densepose.iuv import Order, read_iuv, resize_iuv
from dsa_fast.image import read_image


class PersonItem(TypedDict):
    """One person, or (with a leading B) a batch of people.

    Keys:
        image: uint8 [3, h, w], RGB, upright.
        iuv: uint8 [3, h, w]; all background if there is no map or maps are not read.
        label: class index of the identity in training, otherwise the pid; int.
        camid: camera; int.
    """

    image: Tensor
    iuv: Tensor
    label: Tensor
    camid: Tensor


class PersonBatch(PersonItem, total=False):
    """A batch of people, or all people with the indices of a batch.

    Keys:
        index: int64 [B], on the host. If given, `image` and `iuv` hold all N people, and these are the batch.
    """

    index: np.ndarray


class PeopleDataset(Dataset[PersonItem]):
    """Reads people from their files.

    Args:
        people: the people, in order.
        labels: maps a pid to the label of the items, for training; None keeps the pid.
        with_iuv: read the IUV maps; False makes all maps background.
        iuv_order: channel order of the maps' files, see `read_iuv`.
    """

    def __init__(
        self,
        people: Sequence[Person],
        labels: dict[int, int] | None = None,
        with_iuv: bool = True,
        iuv_order: Order = "auto",
    ) -> None:
        self.people, self.labels, self.with_iuv, self.iuv_order = list(people), labels, with_iuv, iuv_order

    def __len__(self) -> int:
        return len(self.people)

    def __getitem__(self, index: int) -> PersonItem:
        person = self.people[index]
        image = read_image(person.path)
        if self.with_iuv and person.iuv_path is not None:
            iuv = read_iuv(person.iuv_path, order=self.iuv_order, size=(image.shape[1], image.shape[2]))
        else:
            iuv = torch.zeros_like(image)
        label = person.pid if self.labels is None else self.labels[person.pid]
        return {"image": image, "iuv": iuv, "label": torch.tensor(label), "camid": torch.tensor(person.camid)}


class Collate:
    """Makes a batch of items. If the images differ in size, each is resized to `size`."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size

    def __call__(self, items: Sequence[PersonItem]) -> PersonItem:
        images = [item["image"] for item in items]
        maps = [item["iuv"] for item in items]
        if len({image.shape for image in images}) > 1:
            images = [resize(image[None], self.size)[0] for image in images]
            maps = [resize_iuv(iuv, self.size) for iuv in maps]
        return {
            "image": torch.stack(images),
            "iuv": torch.stack(maps),
            "label": torch.stack([item["label"] for item in items]),
            "camid": torch.stack([item["camid"] for item in items]),
        }
