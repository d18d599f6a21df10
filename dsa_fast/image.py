"""Reads images as RGB, upright according to their EXIF orientation. All of dsa_fast uses these functions."""

from __future__ import annotations

import contextlib
import os

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor

__all__ = ["image_size", "read_image", "read_picture", "upright"]

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


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
    # Not by ImageOps.exif_transpose: it writes the EXIF anew, which fails where any other tag is odd.
    turn = _TURNS.get(_orientation(image))
    picture = (image if turn is None else image.transpose(turn)).convert("RGB")  # raises where pixels are damaged
    for key in ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"):
        picture.info.pop(key, None)
    return picture


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Returns the height and width of the upright image in a file, without decoding a JPEG.

    Raises:
        ValueError: the file is missing or not an image; the message names it.
    """
    try:
        with Image.open(path) as image:
            (width, height), orientation = image.size, _orientation(image)
    except Exception as error:
        raise ValueError(f"{path} must be a readable image, got: {error}") from error
    return (width, height) if orientation in (5, 6, 7, 8) else (height, width)


def _orientation(image: Image.Image) -> int:
    with contextlib.suppress(Exception):  # damaged EXIF is ignored
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    return 1
