"""Masks of people, from any segmentation network: a second opinion on IUV maps.

A mask is a class map: one number per pixel. A table says which classes are the person.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dsa_fast.array_files import load_arrays
from dsa_fast.configs.prepare import MaskClasses
from dsa_fast.densepose.map_sources import match_names
from dsa_fast.densepose.prepare import Estimator, PersonMap
from dsa_fast.image import image_size, open_image

__all__ = ["PERSON_CLASSES", "Gated", "find_masks", "outside", "person_mask", "read_mask"]

#: Classes that are the person, with clothes, by the name of the table; None: all except 0. SCHP's data sets are in
#: `simple_extractor.py` of https://github.com/GoGoDuck912/Self-Correction-Human-Parsing; 16 of ATR is a bag. Sapiens
#: has Goliath's 28 classes (https://github.com/facebookresearch/sapiens).
PERSON_CLASSES: dict[str, frozenset[int] | None] = {
    "foreground": None,
    "schp-lip": frozenset(range(1, 20)),
    "schp-atr": frozenset(range(1, 18)) - {16},
    "schp-pascal": frozenset(range(1, 7)),
    "sapiens": frozenset(range(1, 28)),
}
# Sapiens writes NAME_seg.npy, the classes, and NAME.npy, their foreground. The first of an image's masks is taken.
_SUFFIXES = ("_seg.npy", "_seg.png", "_mask.png", ".npy", ".png")


def find_masks(folder: Path, images: Iterable[Path]) -> dict[Path, Path]:
    """Finds the masks of images: NAME.png, NAME.jpg.png, NAME_mask.png, NAME_seg.png, NAME.npy or NAME_seg.npy.

    Args:
        folder: the masks, with the images' subfolders or without.
        images: paths.

    Returns:
        image -> its mask. Images without one are left out.

    Raises:
        FileNotFoundError: `folder` is not a folder.
        ValueError: the folder has a mask of none of the images, a mask could belong to several images, or the folder
            holds images itself.
    """
    images = list(images)
    if not folder.is_dir():
        raise FileNotFoundError(f"masks must be a folder, got {folder}: no such folder")
    within = next((image for image in images if image.resolve().is_relative_to(folder.resolve())), None)
    if within is not None:
        raise ValueError(f"masks must be a folder outside that of the images, got {folder}, which holds {within}")
    files: dict[str, Path] = {}
    for suffix in _SUFFIXES:
        for path in sorted(folder.rglob(f"*{suffix}")):
            name = path.relative_to(folder).as_posix().removesuffix(suffix)
            if not any(path.name.endswith(longer) for longer in _SUFFIXES if len(longer) > len(suffix)):
                files.setdefault(name, path)
    matched = match_names(images, files, str(folder))
    return {image: files[name] for image, name in matched.items()}


def read_mask(path: Path) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Reads a class map, int64 [H, W], from a gray or palette PNG (the palette's colors are ignored) or a `.npy`.

    Raises:
        OSError: the file can't be read.
        ValueError: it is not a class map; the message names the file.
    """
    if path.suffix == ".npy":
        try:
            values = load_arrays(path)[""]
        except (ValueError, KeyError) as error:
            raise ValueError(f"mask {path} must be an array, got {error}") from error
        if values.ndim != 2 or values.dtype.kind not in "biu" or values.size == 0:
            raise ValueError(f"mask {path} must be integers [H, W], got {values.dtype} {list(values.shape)}")
    else:
        with open_image(path) as image:
            if image.mode not in ("1", "L", "P", "I", "I;16"):
                raise ValueError(f"mask {path} must have one class per pixel (gray or palette), got mode {image.mode}")
            values = np.asarray(image)
    return values.astype(np.int64)


def person_mask(classes: np.ndarray[Any, np.dtype[np.int64]], person: MaskClasses) -> Tensor:
    """Returns which pixels of a class map are the person, bool [H, W].

    Args:
        classes: int64 [H, W].
        person: the name of a table of `PERSON_CLASSES`, or the classes.

    Raises:
        ValueError: the map has a class that is not in the table.
    """
    if not isinstance(person, str):
        return torch.from_numpy(np.isin(classes, list(person)))
    chosen = PERSON_CLASSES[person]
    if chosen is None:
        return torch.from_numpy(classes != 0)
    if int(classes.max()) > max(chosen):
        raise ValueError(f"classes must be {person}'s, 0..{max(chosen)}, got {int(classes.max())}")
    return torch.from_numpy(np.isin(classes, list(chosen)))


def outside(iuv: Tensor, mask: Tensor) -> float:
    """Returns the share of a map's labeled pixels that are not in the mask; 0 for an empty map.

    Args:
        iuv: uint8 [3, H, W].
        mask: bool [H, W].
    """
    labelled = iuv[0] > 0
    return int((labelled & ~mask).sum()) / max(1, int(labelled.sum()))


class _Masked(NamedTuple):
    item: Any
    mask: Tensor


class Gated:
    """Another estimator's maps, background where the mask does not show the person.

    Args:
        estimator: makes the maps.
        masks: image -> file of its mask. An image without one fails.
        person: which classes are the person, see `person_mask`.
    """

    def __init__(self, estimator: Estimator, masks: Mapping[Path, Path], person: MaskClasses = "foreground") -> None:
        self.estimator, self.masks, self.person, self.maker = estimator, masks, person, estimator.maker

    def group(self, size: tuple[int, int]) -> Hashable:
        return self.estimator.group(size)

    def load(self, image: Path) -> _Masked:
        if image not in self.masks:
            raise ValueError(f"{image} has no mask")
        path = self.masks[image]
        try:
            mask = person_mask(read_mask(path), self.person)
        except ValueError as error:
            raise ValueError(f"mask {path} of {image} can't be used: {error}") from error
        size = image_size(image)
        if tuple(mask.shape) != size:
            raise ValueError(f"mask {path} must have the size of {image}, {list(size)}, got {list(mask.shape)}")
        return _Masked(self.estimator.load(image), mask)

    def estimate(self, batch: Sequence[_Masked]) -> list[PersonMap | None]:
        found = self.estimator.estimate([each.item for each in batch])
        return [None if person is None else _gate(person, each.mask) for person, each in zip(found, batch, strict=True)]


def _gate(person: PersonMap, mask: Tensor) -> PersonMap | None:
    iuv = person.iuv * mask
    return PersonMap(iuv, person.score) if bool(iuv[0].any()) else None
