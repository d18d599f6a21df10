"""Reads the images passed to an encoder: one or thousands, as arrays, tensors, PIL images or paths."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dsa_fast.data.transforms import normalize, resize
from dsa_fast.deploy.sidecar import InputSpec
from dsa_fast.image import read_image, upright
from dsa_fast.imagenet import MEAN

#: One image: uint8 [H, W, 3] (NumPy), uint8 [3, H, W] (torch), PIL, or the path of a file; all RGB.
OneImage = NDArray[np.uint8] | Tensor | Image.Image | str | os.PathLike[str]
#: One image, a batch of equal size (uint8 [B, H, W, 3] or [B, 3, H, W]), or a sequence of single images of any sizes.
Images = OneImage | Sequence[OneImage]


class ImageBatch:
    """Images in any form, read in pieces.

    Attributes:
        single: a single image was passed, not a batch of one.
        family: type of the result, a NumPy array or a tensor.
        device: device of the images. Vectors of tensors are returned there.

    Args:
        images: the images. A sequence may be empty.
        channels: order of the channels of arrays and tensors, `RGB` or `BGR`. PIL images and files are always read as
            RGB.

    Raises:
        TypeError: `images` has another type, or does not have 8 bits.
        ValueError: a shape is wrong, or `channels` is unknown.
    """

    def __init__(self, images: Images, channels: str = "RGB") -> None:
        if channels not in ("RGB", "BGR"):
            raise ValueError(f"channels must be RGB or BGR, got {channels!r}")
        self._channels = channels
        self.device = torch.device("cpu")
        self.family: Literal["numpy", "torch"] = "numpy"
        self._batch: Tensor | None = None  # uint8 [N, 3, H, W]
        self._items: Sequence[Any] = []
        given: Any = images
        self.single = isinstance(given, (Image.Image, str, os.PathLike)) or (
            isinstance(given, (np.ndarray, Tensor)) and given.ndim == 3
        )
        if isinstance(given, np.ndarray):
            _check(given.dtype == np.uint8, given.dtype)
            if given.ndim not in (3, 4) or given.shape[-1] != 3 or 0 in given.shape[-3:]:
                raise ValueError(f"images must have shape [H, W, 3] or [B, H, W, 3] as arrays, got {list(given.shape)}")
            # PyTorch takes no read-only arrays and no negative strides, which BGR flipped by [..., ::-1] has.
            fine = given.flags.writeable and min(given.strides) >= 0
            whole = torch.from_numpy(given if fine else given.copy())
            self._batch = _as_rgb((whole[None] if self.single else whole).permute(0, 3, 1, 2), channels)
        elif isinstance(given, Tensor):
            _check(given.dtype == torch.uint8, given.dtype)
            if given.ndim not in (3, 4) or given.shape[-3] != 3 or 0 in given.shape[-3:]:
                raise ValueError(
                    f"images must have shape [3, H, W] or [B, 3, H, W] as tensors, got {list(given.shape)}"
                )
            self._batch = _as_rgb(given[None] if self.single else given, channels)
            self.family, self.device = "torch", given.device
        elif self.single:
            self._items = [given]
        elif isinstance(given, Sequence):
            self._items = given
            if len(given) > 0 and all(isinstance(item, Tensor) for item in given):
                self.family, self.device = "torch", given[0].device
        else:
            raise TypeError(
                "images must be an array, a tensor, a PIL image, the path of a file, or a sequence of these, "
                f"got {type(given).__name__}"
            )

    def __len__(self) -> int:
        return len(self._items) if self._batch is None else len(self._batch)

    def read(self, start: int, stop: int, size: tuple[int, int]) -> Tensor:
        """Returns images start..stop-1 resized: uint8 [B, 3, *size], on their device.

        Raises:
            TypeError, ValueError: an item of the sequence is not an image; the message gives its index.
        """
        if self._batch is not None:
            return resize(self._batch[start:stop], size)
        return torch.cat([resize(self._one(i), size) for i in range(start, stop)])

    def arrays(self, start: int, stop: int) -> list[NDArray[np.uint8]]:
        """Returns images start..stop-1 in their own sizes: uint8 RGB [H, W, 3], often without a copy.

        Raises:
            TypeError, ValueError: see `read`.
        """
        each = (self._one(i) if self._batch is None else self._batch[i : i + 1] for i in range(start, stop))
        return [image[0].permute(1, 2, 0).cpu().numpy() for image in each]

    def _one(self, index: int) -> Tensor:
        """uint8 [1, 3, H, W]."""
        item = self._items[index]
        try:
            if isinstance(item, (str, os.PathLike)):
                return read_image(Path(item))[None]
            if isinstance(item, Image.Image):
                item = np.array(upright(item))
            elif not (isinstance(item, (np.ndarray, Tensor)) and item.ndim == 3):
                got = f"shape {list(item.shape)}" if isinstance(item, (np.ndarray, Tensor)) else type(item).__name__
                raise TypeError(
                    f"an image of a sequence must be an array or tensor of 3 axes, PIL or a path, got {got}"
                )
            one = ImageBatch(item, "RGB" if self._is_picture(index) else self._channels)._batch
        except (TypeError, ValueError) as error:
            raise type(error)(f"images[{index}]: {error}") from error
        assert one is not None
        return one.to(self.device)

    def _is_picture(self, index: int) -> bool:
        return isinstance(self._items[index], Image.Image)

    def deliver(self, vectors: Tensor) -> NDArray[np.float32] | Tensor:
        """Converts vectors [N, D] to the type of the images, or [D] for a single image."""
        if self.single:
            vectors = vectors[0]
        return vectors.to(self.device) if self.family == "torch" else vectors.cpu().numpy()


def _check(fine: bool, dtype: object) -> None:
    if not fine:
        raise TypeError(f"images must be uint8, in 0..255, got {dtype}")


def chunks(count: int, most: int) -> list[tuple[int, int]]:
    """Splits `count` images into ranges (start, stop) of at most `most` images."""
    return [(start, min(start + most, count)) for start in range(0, count, most)]


def to_input(images: Tensor, spec: InputSpec) -> Tensor:
    """Makes uint8 [B, 3, H, W] what an exported file takes, without a copy if it already is.

    Returns:
        Contiguous, in the layout: uint8, or float32, normalized with the input's mean and deviation.
    """
    if spec.dtype == "float32":
        images = normalize(images) if spec.mean == MEAN else images.float() / 255
    return (images.permute(0, 2, 3, 1) if spec.layout == "NHWC" else images).contiguous()


def _as_rgb(images: Tensor, channels: str) -> Tensor:
    return images.flip(1) if channels == "BGR" else images
