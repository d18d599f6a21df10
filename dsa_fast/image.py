"""Reads images as RGB, upright according to their EXIF orientation, and writes them. All of dsa_fast uses this module.

Pillow tells a file's format by its content, and some formats start another program. So only common formats are read.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor

from dsa_fast.files import check_regular

__all__ = [
    *("FORMATS", "check_picture", "check_pixels", "image_size", "open_image", "read_image", "read_picture"),
    *("save_image", "upright"),
]

#: The formats of image files, by their content: JPEG, PNG, WebP, BMP, TIFF, and the first frame of a GIF.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")

_MOST_PIXELS, _LIMIT = 1 << 26, "DSA_FAST_MAX_PIXELS"
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@contextlib.contextmanager
def open_image(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """Opens an image file. All errors in the block become one kind.

    An image has at most 2^26 pixels (8192 x 8192). The environment variable DSA_FAST_MAX_PIXELS sets another limit.

    Yields:
        The picture as Pillow opens it: not decoded, not upright.

    Raises:
        ValueError: the file is missing, is no regular file, has another format than `FORMATS` or too many pixels, or is
            damaged; the message names it.
    """
    _most_pixels()
    try:
        check_regular(path)
        with Image.open(path, formats=FORMATS) as image:
            check_pixels(image.width, image.height)
            yield image
    except Exception as error:  # decoders raise many kinds of errors
        raise ValueError(f"{path} must be a readable image, got: {error or type(error).__name__}") from error


def check_pixels(width: int, height: int) -> None:
    """Checks the size of a picture before it is decoded, see `open_image`.

    Raises:
        ValueError: it has too many pixels; the message does not name the file.
    """
    most = _most_pixels()
    if width * height > most:
        raise ValueError(f"it has {width} x {height} pixels, and {_LIMIT} (an environment variable) allows {most:,}")


def _most_pixels() -> int:
    given = os.environ.get(_LIMIT)
    if given is None:
        return _MOST_PIXELS
    if not given.isdecimal() or not int(given):
        raise ValueError(f"{_LIMIT} must be a number of pixels, got {given!r}")
    if Image.MAX_IMAGE_PIXELS is not None and int(given) > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = int(given)  # Pillow's own limit
    return int(given)


def read_picture(path: str | os.PathLike[str]) -> Image.Image:
    """Reads an image file as an RGB picture, upright.

    Raises:
        ValueError: the file is missing, damaged or not an image; the message names it.
    """
    with open_image(path) as image:
        return upright(image)


def read_image(path: str | os.PathLike[str]) -> Tensor:
    """Reads an image file as uint8 RGB [3, H, W], upright.

    Raises:
        ValueError: the file is missing, damaged or not an image; the message names it.
    """
    return torch.from_numpy(np.array(read_picture(path))).permute(2, 0, 1).contiguous()


def upright(image: Image.Image) -> Image.Image:
    """Applies a picture's EXIF orientation and converts it to RGB. The result has no orientation tag.

    Gray pixels of 16 bits are scaled from 0..65535 to 0..255.

    Raises:
        ValueError: the picture has gray pixels of another range.
    """
    # Not by ImageOps.exif_transpose: it writes the EXIF anew, which fails where any other tag is odd.
    turn = _TURNS.get(_orientation(image))
    picture = _bytes(image if turn is None else image.transpose(turn)).convert("RGB")  # raises where it is damaged
    for key in ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"):
        picture.info.pop(key, None)
    return picture


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Returns the height and width of the upright image in a file, without decoding a JPEG.

    Raises:
        ValueError: the file is missing or not an image; the message names it.
    """
    with open_image(path) as image:
        (width, height), orientation = image.size, _orientation(image)
    return (width, height) if orientation in (5, 6, 7, 8) else (height, width)


def check_picture(path: str | os.PathLike[str]) -> Path:
    """Returns a path that `save_image` can write. Commands call it before their work.

    Raises:
        ValueError: the suffix has no known format.
    """
    path = Path(path)
    if path.suffix.lower() not in Image.registered_extensions():
        raise ValueError(f'path must end in a picture\'s suffix such as ".png", got {str(path)!r}')
    return path


def save_image(picture: Image.Image, path: str | os.PathLike[str], **options: Any) -> None:
    """Writes an image file, in the format of the path's suffix unless `format` is given.

    Pillow writes JPEG files itself, and takes no notice when a full disk cuts the last bytes.

    Args:
        picture: the picture.
        path: the file.
        options: those of `PIL.Image.Image.save`.

    Raises:
        OSError: the file can't be written.
        ValueError: the suffix has no known format.
    """
    kind = options.pop("format", None) or Image.registered_extensions()[check_picture(path).suffix.lower()]
    encoded = io.BytesIO()
    picture.save(encoded, kind, **options)
    Path(path).write_bytes(encoded.getvalue())


def _bytes(image: Image.Image) -> Image.Image:
    """Scales gray pixels of 16 bits to 8. Pillow's own conversion cuts off all values above 255."""
    if image.mode != "F" and not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    if image.mode == "F" or int(values.min(initial=0)) < 0 or int(values.max(initial=0)) > 0xFFFF:
        raise ValueError(f"gray pixels must have 8 or 16 bits, got {image.mode} with other values")
    scaled = Image.fromarray(((values.astype(np.uint32) * 255 + 0x7FFF) // 0xFFFF).astype(np.uint8))
    scaled.info = dict(image.info)
    return scaled


def _orientation(image: Image.Image) -> int:
    with contextlib.suppress(Exception):  # damaged EXIF is ignored
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    return 1
