"""Reads images in one way for training, warping, embedding and pictures: RGB, and upright by their EXIF orientation."""

from __future__ import annotations

import contextlib
import os

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

__all__ = ["image_size", "read_image", "read_picture", "upright"]


def read_picture(path: str | os.PathLike[str]) -> Image.Image:
    """Reads an image file as an RGB picture, upright.

    Raises:
        ValueError: the file is missing, damaged or no image; the message names it.
    """
    try:
        with Image.open(path) as image:
            return upright(image)
    except Exception as error:  # decoders raise many kinds
        raise ValueError(f"{path} must be a readable image, got: {error}") from error


def read_image(path: str | os.PathLike[str]) -> Tensor:
    """Reads an image file as uint8 RGB [3, H, W], upright.

    Raises:
        ValueError: the file is missing, damaged or no image; the message names it.
    """
    return torch.from_numpy(np.array(read_picture(path))).permute(2, 0, 1).contiguous()


def upright(image: Image.Image) -> Image.Image:
    """Turns a picture as its EXIF orientation says, and converts it to RGB. The result has no orientation left."""
    # Damaged EXIF is ignored. Damaged pixels raise again in `convert`.
    with contextlib.suppress(Exception):
        image = ImageOps.exif_transpose(image)
    return image.convert("RGB")


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Height and width of an image file when upright, without decoding a JPEG.

    Raises:
        ValueError: the file is missing or no image; the message names it.
    """
    try:
        with Image.open(path) as image:
            width, height, orientation = *image.size, 1
            with contextlib.suppress(Exception):  # damaged EXIF is ignored
                orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception as error:
        raise ValueError(f"{path} must be a readable image, got: {error}") from error
    return (width, height) if orientation in (5, 6, 7, 8) else (height, width)
