"""Reads image files, in one way for training, warping, embedding and pictures."""

from __future__ import annotations

import os

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

__all__ = ["read_image", "read_picture"]


def read_picture(path: str | os.PathLike[str]) -> Image.Image:
    """Reads an image file as an RGB picture, upright: an EXIF orientation is applied.

    Raises:
        ValueError: the file is missing, truncated or no image; the message names it.
    """
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path} must be a readable image, got: {error}") from error


def read_image(path: str | os.PathLike[str]) -> Tensor:
    """Reads an image file as uint8 RGB [3, H, W], upright: an EXIF orientation is applied.

    Raises:
        ValueError: the file is missing, truncated or no image; the message names it.
    """
    return torch.from_numpy(np.array(read_picture(path))).permute(2, 0, 1).contiguous()
