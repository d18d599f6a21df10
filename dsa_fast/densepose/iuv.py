"""DensePose IUV maps: reading, writing, mirroring and resizing.

An IUV map labels each pixel with a body part I (1..24, 0 is background) and coordinates (u, v) in that part's chart. In
memory it is a tensor [3, H, W] with the channels I, U, V; as uint8, U = round(255 u) and V = round(255 v).

On disk it is an 8-bit PNG, a NumPy array, or part of a store (`IUVStore`). Tools disagree about the channel order: a
file written by OpenCV reads as V, U, I in other libraries, and other tools write I, U, V. `read_iuv` handles both.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from torch import Tensor

from dsa_fast.array_files import load_arrays
from dsa_fast.densepose.iuv_store import in_store
from dsa_fast.densepose.parts import NUM_PARTS
from dsa_fast.densepose.symmetry import SymmetryTable, as_lut
from dsa_fast.files import atomic_path
from dsa_fast.image import open_image, save_image

__all__ = ["Order", "flip_iuv", "read_iuv", "resize_iuv", "write_iuv"]

#: Channel order of a file: R, G, B = I, U, V or V, U, I.
Order = Literal["auto", "IUV", "VUI"]

_ORDER_KEY = "dsa_fast:channels"
_LOSSY_FORMATS = frozenset({"JPEG", "MPO", "JPEG2000", "WEBP", "AVIF", "HEIF", "JXL"})
# Where I is 0, u and v should be 0 too. A map may violate this on at most this share of its non-zero pixels.
_STRAY_LIMIT = 0.05


def read_iuv(path: str | os.PathLike[str], *, order: Order = "auto", size: tuple[int, int] | None = None) -> Tensor:
    """Reads an IUV map from a lossless 8-bit, 3-channel image file, a NumPy file, or a store.

    With `order="auto"`, the first of these rules that is conclusive determines an image's channel order:

    1. the PNG text chunk that `write_iuv` leaves;
    2. I never exceeds 24: if only one of the outer channels satisfies this, it is I;
    3. background has I = u = v = 0: the outer channel that is 0 only where the others are also 0 is I (5 % of the
       pixels may be exceptions, and it must have fewer exceptions than the other);
    4. the outer channels are equal (as in an empty map), so both orders give the same map.

    A `.npy` file holds one array [H, W, 3] or [3, H, W]; an `.npz` file that array alone or under the name `iuv`, or
    the two arrays of a DensePose result, `labels` [H, W] and `uv` [2, H, W]. A uint8 array is read like the pixels
    of an image. A floating-point array has I in 0..24 and u, v in [0, 1]. These ranges determine which outer channel is
    I, and u and v become round(255 u) and round(255 v). Pickled objects are never loaded.

    Args:
        path: the file; or a path into a store, as if that were a folder (`iuv.dsaiuv/query/0002_c1s1_000451_03`).
        order: "IUV" or "VUI" if the order of the file's R, G, B is known, otherwise "auto". Ignored for a store.
        size: if given, the (height, width) that the map must have.

    Returns:
        uint8 [3, H, W], channels I, U, V.

    Raises:
        FileNotFoundError: there is no such file, or no such map in the store.
        ValueError: `order` is unknown; the file is not an image or array, is truncated, has a lossy format (JPEG
            corrupts labels), does not have three channels of these types, has part ids above 24 or u and v out of
            range, differs from `size`, or both orders are plausible. The message names the file and the remedy.
    """
    if order not in ("auto", "IUV", "VUI"):
        raise ValueError(f'order must be "auto", "IUV" or "VUI", got {order!r}')
    path = Path(path)
    stored = in_store(path)
    if stored is not None:
        store, name = stored
        if name not in store:
            raise FileNotFoundError(f"IUV map not found: {name} in {store.path}")
        _check_size(path, store.size(name), size)
        return store[name]
    if path.suffix == ".npy" or path.suffix == ".npz":
        pixels, written_order = _read_array(path, order)
    else:
        pixels, written_order = _read_pixels(path)
    _check_size(path, pixels.shape[:2], size)
    if order == "auto":
        order = written_order or _tell_order(pixels, path)
    if order == "VUI":
        pixels = pixels[..., ::-1]
    highest = int(pixels[..., 0].max(initial=0))
    if highest > NUM_PARTS:
        raise ValueError(
            f"IUV map {path} must hold part ids 0..{NUM_PARTS}, got {highest} when its channels are read as {order}"
        )
    return torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C"))


def write_iuv(path: str | os.PathLike[str], iuv: Tensor, *, text: Mapping[str, str] | None = None) -> None:
    """Writes an IUV map as a PNG with R, G, B = I, U, V, and a text chunk that names this order.

    The file is written atomically. Missing folders are created.

    Args:
        path: the file; its name must end in ".png".
        iuv: uint8 [3, H, W], channels I, U, V, on any device.
        text: additional PNG text chunks, such as the name of the maker.

    Raises:
        TypeError: `iuv` is not a uint8 tensor.
        ValueError: wrong shape, part ids above 24, or a name that does not end in ".png".
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f'path must end in ".png" (IUV maps survive only lossless formats), got {str(path)!r}')
    if not isinstance(iuv, Tensor) or iuv.dtype != torch.uint8:
        raise TypeError(f"iuv must be a uint8 tensor, got {getattr(iuv, 'dtype', type(iuv).__name__)}")
    if iuv.dim() != 3 or iuv.shape[0] != 3 or iuv.numel() == 0:
        raise ValueError(f"iuv must have shape [3, H, W], got {list(iuv.shape)}")
    highest = int(iuv[0].max())
    if highest > NUM_PARTS:
        raise ValueError(f"iuv must hold part ids 0..{NUM_PARTS} in channel 0, got {highest}")
    image = Image.fromarray(iuv.permute(1, 2, 0).contiguous().cpu().numpy())
    chunks = PngImagePlugin.PngInfo()
    for key, value in {**(text or {}), _ORDER_KEY: "IUV"}.items():
        chunks.add_text(key, value)
    with atomic_path(path) as temporary:
        save_image(image, temporary, format="PNG", pnginfo=chunks)


def flip_iuv(iuv: Tensor, table: SymmetryTable | None = None) -> Tensor:
    """Mirrors IUV maps left to right, so that they describe the mirrored pictures.

    Columns are reversed and each left part becomes its right partner (`parts.MIRROR`). In the charts, (u, v) becomes
    (u, 1-v) for the torso (1, 2), (1-u, v) for hands, feet and head (3..6, 23, 24), and stays for arms and legs. This
    closed form is within 0.06 (hands 0.1) of the lookup table that DensePose ships.

    Pixels without a part (0, or not an integer in 1..24) keep their three values. Flipping twice returns the input:
    exactly for uint8, and for floats up to the rounding of 1-u (exact if 1-u is, as for multiples of 1/256).
    The host reads no values, so the flip can be captured in a CUDA graph.

    With a `table`, (u, v) is looked up in DensePose's own table, at row floor(255 v) and column floor(255 u) of the old
    part. For uint8 this lookup is exact, and the result is rounded to uint8. Flipping twice then returns the input only
    approximately, because the table was measured on a mesh and is not exactly its own inverse.

    Args:
        iuv: [..., 3, H, W], channels I, U, V; uint8, or floating point with u and v in [0, 1].
        table: DensePose's lookup table, see `SymmetryTable.load`; by default the closed form.

    Returns:
        A new tensor of the same shape, dtype and device.

    Raises:
        TypeError: the dtype is neither uint8 nor floating point.
        ValueError: the shape is not [..., 3, H, W].
    """
    _check_maps(iuv)
    is_byte = iuv.dtype == torch.uint8
    part, u, v = iuv.flip(-1).unbind(-3)
    one = 255 if is_byte else 1.0
    is_part = (part >= 1) & (part <= NUM_PARTS)
    if not is_byte:
        is_part = is_part & (part == part.floor())
    torso = is_part & (part <= 2)
    if table is not None:
        # Pixels without a part read row 0, and the result is not used.
        index = torch.where(is_part, part, torch.ones_like(part)).long() - 1
        row, column = ((x if is_byte else (x.nan_to_num(0.0).clamp(0, 1) * 255).floor()).long() for x in (v, u))
        values = as_lut(table).to(iuv.device) if is_byte else table.values.to(iuv.device, iuv.dtype)
        new_u, new_v = values[index, 0, row, column], values[index, 1, row, column]
        partner = torch.where(torso, part, torch.where(part % 2 == 1, part + 1, part - 1))
        return torch.stack(
            [torch.where(is_part, new, old) for new, old in ((partner, part), (new_u, u), (new_v, v))], -3
        )
    # Pairs are (odd, even): 3-4, 5-6, ... 23-24. This is parts.MIRROR, without a table to keep on each device.
    partner = torch.where(part % 2 == 1, part + 1, part - 1)
    along_u = is_part & (((part >= 3) & (part <= 6)) | (part >= 23))
    return torch.stack(
        (
            torch.where(is_part & ~torso, partner, part),
            torch.where(along_u, one - u, u),
            torch.where(torso, one - v, v),
        ),
        dim=-3,
    )


def resize_iuv(iuv: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes IUV maps by nearest neighbor, the only method that does not mix labels.

    Row y of the result is row floor((y + 0.5) H / height) of the input, and likewise for columns, in integer
    arithmetic. Pixel centers match those of a bilinear resize of the photo with half-pixel centers.

    Args:
        iuv: [..., 3, H, W], uint8 or floating point.
        size: (height, width) of the result.

    Returns:
        [..., 3, height, width], same dtype and device.

    Raises:
        TypeError: the dtype is neither uint8 nor floating point.
        ValueError: wrong shape, an empty map, or `size` is not two positive integers.
    """
    _check_maps(iuv)
    if len(size) != 2 or not all(isinstance(n, int) and n > 0 for n in size):
        raise ValueError(f"size must be two positive integers (height, width), got {size!r}")
    height, width = iuv.shape[-2:]
    if height == 0 or width == 0:
        raise ValueError(f"iuv must have at least one pixel, got {list(iuv.shape)}")
    rows = (2 * torch.arange(size[0], device=iuv.device) + 1) * height // (2 * size[0])
    columns = (2 * torch.arange(size[1], device=iuv.device) + 1) * width // (2 * size[1])
    return iuv.index_select(-2, rows).index_select(-1, columns)


def _check_size(path: Path, got: tuple[int, ...], size: tuple[int, int] | None) -> None:
    if size is not None and got != tuple(size):
        raise ValueError(
            f"IUV map {path} must be {size[1]} x {size[0]} (width x height), got {got[1]} x {got[0]}; "
            "resize a map by nearest neighbor only"
        )


def _check_maps(iuv: Tensor) -> None:
    if not isinstance(iuv, Tensor) or not (iuv.dtype == torch.uint8 or iuv.is_floating_point()):
        raise TypeError(f"iuv must be uint8 or floating point, got {getattr(iuv, 'dtype', type(iuv).__name__)}")
    if iuv.dim() < 3 or iuv.shape[-3] != 3:
        raise ValueError(f"iuv must have shape [..., 3, H, W], got {list(iuv.shape)}")


class _Unfit(ValueError):
    """The image can be read and is no map."""


def _read_pixels(path: Path) -> tuple[np.ndarray, Literal["IUV", "VUI"] | None]:
    """Returns the file's pixels, uint8 [H, W, 3] in R, G, B, and the channel order if the file names one."""
    if not path.is_file():
        raise FileNotFoundError(f"IUV map not found: {path}")
    try:
        with open_image(path) as image:
            if image.format in _LOSSY_FORMATS:
                raise _Unfit(
                    f"IUV map {path} must be in a lossless format such as PNG, got {image.format}: "
                    "lossy compression mixes part labels"
                )
            # Pillow reduces 16-bit RGB to 8 bits silently. Only the undecoded tile reveals it.
            if image.mode != "RGB" or any(";16" in str(tile) for tile in getattr(image, "tile", ())):
                raise _Unfit(
                    f"IUV map {path} must have 3 channels of 8 bits (I, U, V), got {image.format} of mode {image.mode}"
                    + (" with 16 bits" if image.mode == "RGB" else "")
                )
            text = image.info.get(_ORDER_KEY)
            return np.asarray(image), text if text in ("IUV", "VUI") else None
    except ValueError as error:
        if isinstance(error.__cause__, _Unfit):
            raise ValueError(str(error.__cause__)) from None
        raise ValueError(f"IUV map {path} is not a readable image: {error.__cause__ or error}") from error


def _read_array(path: Path, order: Order) -> tuple[np.ndarray, Literal["IUV", "VUI"] | None]:
    """Returns a NumPy file's map, uint8 [H, W, 3], and its channel order if it is certain."""
    if not path.is_file():
        raise FileNotFoundError(f"IUV map not found: {path}")
    try:
        arrays = load_arrays(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"IUV map {path} is not a readable NumPy file: {error}") from error
    if set(arrays) == {"labels", "uv"}:
        labels, uv = arrays["labels"], arrays["uv"]
        if labels.ndim != 2 or uv.shape != (2, *labels.shape):
            raise ValueError(
                f"IUV map {path} must have labels [H, W] and uv [2, H, W], got {labels.shape} and {uv.shape}"
            )
        if labels.dtype.kind not in "biuf" or uv.dtype.kind not in "biuf":
            raise ValueError(f"IUV map {path} must hold numbers, got {labels.dtype} and {uv.dtype}")
        array = np.concatenate((labels[None].astype(np.float64), uv))
        return _from_floats(path, array.transpose(1, 2, 0), "IUV")
    if "iuv" not in arrays and len(arrays) != 1:
        raise ValueError(
            f"IUV map {path} must hold one array, or one named iuv, or labels and uv, got {', '.join(arrays) or 'none'}"
        )
    array = arrays["iuv"] if "iuv" in arrays else next(iter(arrays.values()))
    if array.ndim != 3 or (array.shape[0] != 3 and array.shape[2] != 3) or array.size == 0:
        raise ValueError(f"IUV map {path} must be an array [H, W, 3] or [3, H, W], got {list(array.shape)}")
    if array.shape[0] == 3 and array.shape[2] == 3:
        raise ValueError(f"IUV map {path} may be [H, W, 3] or [3, H, W], got the shape {list(array.shape)}")
    if array.shape[0] == 3:
        array = array.transpose(1, 2, 0)
    if array.dtype == np.uint8:
        return array, None
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"IUV map {path} must be uint8 or floating point, got {array.dtype}")
    return _from_floats(path, array, order)


def _from_floats(path: Path, array: np.ndarray, order: Order) -> tuple[np.ndarray, Literal["IUV", "VUI"]]:
    """Converts a map with I in 0..24 and u, v in [0, 1] to uint8 [H, W, 3]; returns it and its channel order."""

    def complaint(channels: np.ndarray) -> str | None:
        part, values = channels[..., 0], channels[..., 1:]
        if not ((part >= 0) & (part <= NUM_PARTS) & (part == np.floor(part))).all():
            low, high = float(part.min()), float(part.max())
            return f"must hold whole part ids 0..{NUM_PARTS}, got numbers from {low:g} to {high:g}"
        if not ((values >= 0) & (values <= 1)).all():
            low, high = float(values.min()), float(values.max())
            return f"must hold u and v in [0, 1] (clamp them, or divide by 255), got {low:g} to {high:g}"
        return None

    wrong = {name: complaint(array[..., ::step]) for name, step in (("IUV", 1), ("VUI", -1))}
    if order == "auto":
        fitting = [name for name, error in wrong.items() if error is None]
        if len(fitting) == 2 and not np.array_equal(array[..., 0], array[..., 2]):
            raise ValueError(f"IUV map {path}: its channel order is ambiguous; give order='IUV' or order='VUI'")
        order = "VUI" if fitting == ["VUI"] else "IUV"
    error = wrong[order]
    if error is not None:
        raise ValueError(f"IUV map {path} {error} when its channels are read as {order}")
    scale = np.array([1, 255, 255] if order == "IUV" else [255, 255, 1])
    return (array.astype(np.float64) * scale).round().astype(np.uint8), order


def _tell_order(pixels: np.ndarray, path: Path) -> Literal["IUV", "VUI"]:
    """Returns the channel order of the pixels, uint8 [H, W, 3]; see `read_iuv`."""
    first, last = pixels[..., 0], pixels[..., 2]
    first_fits, last_fits = (int(c.max(initial=0)) <= NUM_PARTS for c in (first, last))
    if not first_fits and not last_fits:
        raise ValueError(
            f"IUV map {path} must hold part ids 0..{NUM_PARTS} in its first or last channel, "
            f"got up to {int(first.max())} and {int(last.max())}: is it an IUV map?"
        )
    if first_fits != last_fits:
        return "IUV" if first_fits else "VUI"
    if np.array_equal(first, last):
        return "IUV"
    filled = pixels.any(axis=-1)
    stray_first = int(np.count_nonzero(filled & (first == 0)))
    stray_last = int(np.count_nonzero(filled & (last == 0)))
    limit = _STRAY_LIMIT * int(np.count_nonzero(filled))
    if stray_first < stray_last and stray_first <= limit:
        return "IUV"
    if stray_last < stray_first and stray_last <= limit:
        return "VUI"
    raise ValueError(f"IUV map {path}: its channel order is ambiguous; give order='IUV' or order='VUI'")
