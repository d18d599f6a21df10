"""Reads images as RGB, upright according to their EXIF orientation. All of dsa_fast uses these functions."""

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
        ValueError: the file is missing, damaged or not an image; the message names it.
    """
    try:
        with Image.open(path) as image:
            return upright(image)
    except Exception as error:  # decoders raise many kinds of errors
        raise ValueError(f"{path} must be a readable image, got: {error}") from error


def read_image(path: str | os.PathLike[str]) -> Tensor:
    """Reads an image file as uint8 RGB [3, H, W], upright.

    Raises:
        ValueError: the file is missing, damaged or not an image; the message names it.
    """
    return torch.from_numpy(np.array(read_picture(path))).permute(2, 0, 1).contiguous()


def upright(image: Image.Image) -> Image.Image:
    """Applies a picture's EXIF orientation and converts it to RGB. The result has no orientation tag."""
    # Damaged EXIF is ignored. Damaged pixels raise an error in `convert`.
    with contextlib.suppress(Exception):
        image = ImageOps.exif_transpose(image)
    return image.convert("RGB")


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Returns the height and width of the upright image in a file, without decoding a JPEG.

    Raises:
        ValueError: the file is missing or not an image; the message names it.
    """
    try:
        with Image.open(path) as image:
            width, height, orientation = *image.size, 1
            with contextlib.suppress(Exception):  # damaged EXIF is ignored
                orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception as error:
        raise ValueError(f"{path} must be a readable image, got: {error}") from error
    return (width, height) if orientation in (5, 6, 7, 8) else (height, width)
