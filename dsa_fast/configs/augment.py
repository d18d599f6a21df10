"""Options of the augmentation of training images. `dsa-fast fit` and its YAML files have the same options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["AugmentConfig"]


@dataclass(frozen=True)
class AugmentConfig:
    """Options of the augmentation of training images.

    Attributes:
        size: height and width of the network's input, in pixels.
        dsap_size: S, height and width of each part image, in texels; 0 for no part images.
        pad: pixels of the mean color added on each side before the random crop; 0 for no crop.
        flip: probability of the horizontal flip, which also swaps left and right parts.
        flip_table: path of DensePose's `UV_symmetry_transforms.mat`, a table of u and v of mirrored parts; by default
            the closed form of `dsa_fast.densepose.flip_iuv`. `flip_lut` reads it for `augment_batch`.
        erase: probability of random erasing.
        erase_area: smallest and largest erased share of the image.
        erase_aspect: smallest and largest height / width of the erased box.
        reduce: how several pixels on a texel are combined, `last` or `mean` (see `dsa_fast.warp`).
        parts: `warp` makes part images as in the paper; `crop` makes the paper's CSA (see `dsa_fast.crop_parts`) for
            comparison, and is slower.
        iuv_drop: probability that a part is removed from an image's IUV map, to simulate a worse DensePose.
        iuv_noise: standard deviation of a random shift of (u, v) for each part of each image; 1 is the side of a part.
    """

    size: tuple[int, int] = (256, 128)
    dsap_size: int = 32
    pad: int = 10
    flip: float = 0.5
    flip_table: str | None = None
    erase: float = 0.5
    erase_area: tuple[float, float] = (0.02, 0.4)
    erase_aspect: tuple[float, float] = (0.3, 1 / 0.3)
    reduce: Literal["last", "mean"] = "last"
    parts: Literal["warp", "crop"] = "warp"
    iuv_drop: float = 0.0
    iuv_noise: float = 0.0

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"size must be (height, width), each at least 1, got {self.size}")
        for name in ("flip", "erase", "iuv_drop"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be a probability in [0, 1], got {value}")
        if not 0 <= self.iuv_noise <= 1:
            raise ValueError(f"iuv_noise must be a deviation in [0, 1], got {self.iuv_noise}")
        if self.parts not in ("warp", "crop"):
            raise ValueError(f"parts must be 'warp' or 'crop', got {self.parts!r}")
        if self.pad < 0:
            raise ValueError(f"pad must be at least 0 pixels, got {self.pad}")
        low, high = self.erase_area
        if not 0 < low <= high <= 1:
            raise ValueError(f"erase_area must be two shares, 0 < low <= high <= 1, got {self.erase_area}")
        low, high = self.erase_aspect
        if not 0 < low <= high:
            raise ValueError(f"erase_aspect must be two ratios, 0 < low <= high, got {self.erase_aspect}")
