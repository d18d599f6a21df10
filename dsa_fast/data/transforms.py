"""Turns stored uint8 images and IUV maps into the inputs of a step, on their device.

The full image is resized, flipped, cropped, normalized and erased. The DSAP images are warped after the same flip and
crop, before erasing (which affects only the full image). Guides get the same map at a coarser grid. `augment_batch`
does this with one operator, `train_transform`. `augment_batch_reference` does it in plain steps, with the same result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dsa_fast.configs.augment import AugmentConfig
from dsa_fast.densepose.iuv import flip_iuv, resize_iuv
from dsa_fast.densepose.parts import NUM_PARTS
from dsa_fast.densepose.symmetry import SymmetryTable, as_lut
from dsa_fast.imagenet import MEAN, STD
from dsa_fast.ops.crop import crop_parts
from dsa_fast.ops.train_transform import TrainInputs, train_transform
from dsa_fast.ops.warp import warp


@dataclass(frozen=True)
class Draws:
    """The random draws of a batch's transform, on the CPU.

    Attributes:
        top, left: corner of the crop in the padded image, int64 [B], in pixels.
        flip: whether each image is mirrored, bool [B].
        erase: boxes (top, left, height, width) in the cropped image, int64 [B, 4]; height 0 for none.
        dropped: parts to remove from the maps, bool [B, 24]; None for none.
        shift: offsets of the parts' u and v, float32 [B, 24, 2]; None for none.
    """

    top: Tensor
    left: Tensor
    flip: Tensor
    erase: Tensor
    dropped: Tensor | None = None
    shift: Tensor | None = None

    @classmethod
    def sample(cls, batch_size: int, config: AugmentConfig, generator: torch.Generator) -> Draws:
        """Draws for `batch_size` images. Equal generator states give equal draws on any device."""

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator, dtype=torch.float64)

        height, width = config.size
        top, left = (uniform(2, batch_size) * (2 * config.pad + 1)).long()
        flip = uniform(batch_size) < config.flip
        # Take the first of ten boxes that fits, as torchvision's RandomErasing does.
        low, high = config.erase_area
        area = (low + (high - low) * uniform(batch_size, 10)) * height * width
        low, high = (math.log(value) for value in config.erase_aspect)
        aspect = (low + (high - low) * uniform(batch_size, 10)).exp()
        box_height, box_width = (area * aspect).sqrt().round().long(), (area / aspect).sqrt().round().long()
        fits = (box_height < height) & (box_width < width)
        first = fits.int().argmax(dim=1, keepdim=True)
        box_height = box_height.gather(1, first).squeeze(1)
        box_width = box_width.gather(1, first).squeeze(1)
        erased = (uniform(batch_size) < config.erase) & fits.any(dim=1)
        box_height, box_width = box_height * erased, box_width * erased
        box_top = (uniform(batch_size) * (height - box_height + 1)).long()
        box_left = (uniform(batch_size) * (width - box_width + 1)).long()
        # Drawn last, and only if used, so the other draws do not depend on these options.
        dropped = uniform(batch_size, NUM_PARTS) < config.iuv_drop if config.iuv_drop else None
        shift = None
        if config.iuv_noise:
            shift = config.iuv_noise * torch.randn(batch_size, NUM_PARTS, 2, generator=generator)
        return cls(top, left, flip, torch.stack([box_top, box_left, box_height, box_width], dim=1), dropped, shift)


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes bilinearly, antialiased when shrinking, and rounds: uint8 [B, 3, h, w] -> uint8 [B, 3, *size]."""
    if images.shape[-2:] == torch.Size(size):
        return images
    resized = functional.interpolate(images.float(), size, mode="bilinear", antialias=True, align_corners=False)
    return resized.round_().clamp_(0, 255).byte()


def normalize(images: Tensor) -> Tensor:
    """Normalizes [..., 3, H, W] in 0..255 to float32 with ImageNet's mean at 0 and standard deviation 1."""
    mean, std = _mean_std(images.device)
    return (images - mean) / std


# Of red, green and blue in 0..255, as float32 numbers.
_MEAN, _STD = ((torch.tensor(values) * 255).tolist() for values in (MEAN, STD))


@lru_cache
def _mean_std(device: torch.device) -> tuple[Tensor, Tensor]:
    """[3, 1, 1] each, in 0..255. Cached, because a copy to a GPU in each step would block."""
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) * 255 for values in (MEAN, STD))
    return mean, std


def eval_transform(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes and normalizes test images: uint8 [B, 3, h, w] -> float32 [B, 3, *size]."""
    return normalize(resize(images, size))


def augment_batch(
    images: Tensor,
    iuv: Tensor,
    draws: Draws,
    config: AugmentConfig,
    *,
    indices: Sequence[int] | np.ndarray | Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    dsap_dtype: torch.dtype | None = None,
    channels_last: bool = False,
    mirror: Tensor | None = None,
    grid: tuple[int, int] | None = None,
) -> TrainInputs:
    """Makes the training images, their parts and their maps at a coarser grid from the same draws.

    Args:
        images: uint8 [B, 3, h, w]; with `indices`, [N, 3, h, w]: all stored people.
        iuv: uint8, of the same shape; all background if a map is missing.
        draws: `Draws.sample(...)`.
        config: sizes and padding. The probabilities are already in `draws`.
        indices: the stored people of the batch, int64 [B], on the CPU. They are read in place.
        dtype: dtype of the images.
        dsap_dtype: dtype of the DSAP images; by default `dtype`.
        channels_last: store the images as [B, H, W, 3] in memory.
        mirror: a table of mirrored (U, V) from `flip_lut`, instead of the closed form; see `train_transform`.
        grid: height and width of the maps to return; None for none. A map shows what is in the middle of each cell:
            cell (i, j) has the pixel at row floor((i + 1/2) H / height) and column floor((j + 1/2) W / width) of the
            transformed map. Erasing does not change it, and the padding is background.

    Returns:
        Normalized images [B, 3, H, W], part images [B, 24, 3, S, S] (DSAP, or crops), and maps [B, 3, *grid]. Untouched
        texels are 0, the mean color (paper, section 3.1). Part images are empty if `config.dsap_size` is 0.

    Raises:
        IndexError: an index is outside 0..N-1.
        TypeError, ValueError: see `train_transform`; or `indices` and `draws` differ in length.
    """
    plan = _plan(draws, indices, len(images))
    disturbed = draws.dropped is not None or draws.shift is not None
    crop = config.parts == "crop" and config.dsap_size > 0
    if disturbed or crop:
        if indices is not None:
            chosen = torch.as_tensor(indices, dtype=torch.int64).to(images.device, non_blocking=True)
            images, iuv = images[chosen], iuv[chosen]
            plan[:, 0] = torch.arange(len(plan))
        iuv = disturb_iuv(iuv, draws)
    crops = part_images(*_cropped(images, iuv, draws, config), "crop", size=config.dsap_size) if crop else None
    if images.is_cuda:
        plan = plan.pin_memory()
    plan = plan.to(images.device, non_blocking=True)
    made = train_transform(
        images,
        iuv,
        plan,
        size=config.size,
        mean=_MEAN,
        std=_STD,
        pad=config.pad,
        dsap_size=0 if crop else config.dsap_size,
        grid=grid,
        reduce=config.reduce,
        dtype=dtype,
        dsap_dtype=dsap_dtype,
        channels_last=channels_last,
        mirror=mirror,
    )
    return made if crops is None else made._replace(dsap=crops.to(made.dsap.dtype))


def flip_lut(config: AugmentConfig) -> Tensor | None:
    """Reads `config.flip_table` for the argument `mirror` of `augment_batch`; None without a table.

    Raises:
        FileNotFoundError, ValueError: see `SymmetryTable.load`; also ValueError if a package is missing to read it.
    """
    if config.flip_table is None:
        return None
    try:
        return as_lut(SymmetryTable.load(config.flip_table))
    except ImportError as error:
        raise ValueError(f"flip_table: {error}") from error


def _plan(draws: Draws, indices: Sequence[int] | np.ndarray | Tensor | None, stored: int) -> Tensor:
    """Makes the operator's plan from the draws, int32 [B, 8]."""
    batch = len(draws.top)
    chosen = torch.arange(batch) if indices is None else torch.as_tensor(indices, dtype=torch.int64)
    if chosen.shape != (batch,) or (indices is None and batch != stored):
        got = f"{list(chosen.shape)}" if indices is not None else f"{stored} images and no indices"
        raise ValueError(f"indices must be one for each of the {batch} draws, got {got}")
    if batch and indices is not None and not 0 <= int(chosen.min()) <= int(chosen.max()) < stored:
        raise IndexError(f"indices must be in 0..{stored - 1}, got {int(chosen.min())}..{int(chosen.max())}")
    columns = [chosen, draws.top, draws.left, draws.flip.long(), *draws.erase.unbind(1)]
    return torch.stack(columns, dim=1).int()


def augment_batch_reference(
    images: Tensor,
    iuv: Tensor,
    draws: Draws,
    config: AugmentConfig,
    *,
    mirror: Tensor | None = None,
    grid: tuple[int, int] | None = None,
) -> TrainInputs:
    """Does `augment_batch` in plain steps, for tests and comparisons; float32.

    Args:
        images: uint8 [B, 3, h, w].
        iuv: uint8 [B, 3, h, w].
        draws: `Draws.sample(...)`.
        config: sizes and padding.
        mirror, grid: see `augment_batch`.

    Returns:
        See `augment_batch`.
    """
    # The warp reads bytes, so the mean of several pixels does not depend on their order.
    pixels, maps = _cropped(images, disturb_iuv(iuv, draws), draws, config, mirror)
    dsap = images.new_empty((len(images), NUM_PARTS, 3, 0, 0), dtype=torch.float32)
    if config.dsap_size:
        dsap = part_images(pixels, maps, config.parts, size=config.dsap_size, reduce=config.reduce)
    full = _crop(normalize(_flipped(resize(images, config.size), draws)), draws, config)
    small = maps.new_empty((len(maps), 3, 0, 0)) if grid is None else resize_iuv(maps, grid)
    return TrainInputs(_erase(full, draws), dsap, small)


def _cropped(
    images: Tensor, iuv: Tensor, draws: Draws, config: AugmentConfig, mirror: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Resizes, mirrors and crops photos and their maps, as bytes."""
    table = None if mirror is None else SymmetryTable(mirror.float() / 255)
    flip = draws.flip.to(iuv.device, non_blocking=True)[:, None, None, None]
    iuv = resize_iuv(iuv, config.size)
    iuv = torch.where(flip, flip_iuv(iuv, table), iuv)
    images = _flipped(resize(images, config.size), draws)
    return _crop(images, draws, config), _crop(iuv, draws, config)


def _flipped(images: Tensor, draws: Draws) -> Tensor:
    return torch.where(draws.flip.to(images.device, non_blocking=True)[:, None, None, None], images.flip(-1), images)


def part_images(
    images: Tensor,
    iuv: Tensor,
    parts: Literal["warp", "crop"] = "warp",
    *,
    size: int = 32,
    reduce: Literal["last", "mean"] = "last",
) -> Tensor:
    """Makes the normalized part images of photos, float32 [B, 24, 3, S, S]. Untouched texels are 0.

    Args:
        images: uint8 [B, 3, H, W].
        iuv: their maps, [B, 3, H, W].
        parts: `warp` or `crop`.
        size: S.
        reduce: how several pixels on a texel are combined; for `warp` only.
    """
    if parts == "crop":
        return normalize(crop_parts(images, iuv, size=size, fill=_MEAN, dtype=torch.float32))
    return normalize(warp(images, iuv, size=size, fill=_MEAN, reduce=reduce, dtype=torch.float32))


def disturb_iuv(iuv: Tensor, draws: Draws) -> Tensor:
    """Removes the dropped parts from maps and shifts (u, v) of the others: uint8 [B, 3, h, w] -> the same shape."""
    if draws.dropped is None and draws.shift is None:
        return iuv
    part = iuv[:, 0].long()
    part = (part * (part <= NUM_PARTS)).flatten(1)  # [B, h * w]; 0: no part
    out = iuv.clone()
    if draws.shift is not None:
        shift = functional.pad(draws.shift, (0, 0, 1, 0)).to(iuv.device, non_blocking=True) * 255  # [B, 25, 2]
        for channel in (1, 2):
            moved = iuv[:, channel].flatten(1) + shift[..., channel - 1].gather(1, part)
            out[:, channel] = moved.round_().clamp_(0, 255).byte().view_as(out[:, channel])
    if draws.dropped is not None:
        dropped = functional.pad(draws.dropped, (1, 0)).to(iuv.device, non_blocking=True)  # [B, 25]
        out[:, 0].masked_fill_(dropped.gather(1, part).view_as(out[:, 0]), 0)
    return out


def _crop(x: Tensor, draws: Draws, config: AugmentConfig) -> Tensor:
    """Pads with zeros (the mean color, background) and crops each image: [B, 3, H, W] -> the same shape."""
    height, width = config.size
    rows = (draws.top[:, None] + torch.arange(height)).to(x.device, non_blocking=True)
    columns = (draws.left[:, None] + torch.arange(width)).to(x.device, non_blocking=True)
    padded = functional.pad(x, [config.pad] * 4)
    batch = torch.arange(len(x), device=x.device)[:, None, None]
    # Advanced indices around a slice put the channels last.
    return padded[batch, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def _erase(images: Tensor, draws: Draws) -> Tensor:
    top, left, height, width = (side[:, None] for side in draws.erase.to(images.device, non_blocking=True).unbind(1))
    row = torch.arange(images.shape[-2], device=images.device)
    column = torch.arange(images.shape[-1], device=images.device)
    rows = (row >= top) & (row < top + height)
    columns = (column >= left) & (column < left + width)
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)
