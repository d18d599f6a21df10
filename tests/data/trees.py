"""Small data sets of noise on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dsa_fast.densepose.iuv import write_iuv


def make_tree(root: Path, names: dict[str, list[str]], size: tuple[int, int] = (32, 16), iuv: bool = True) -> Path:
    """A data set in Market-1501's layout with noise for images."""
    rng = np.random.default_rng(0)
    for split, files in names.items():
        (root / split).mkdir(parents=True)
        for name in files:
            Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(root / split / name)
            if iuv:
                labels = torch.from_numpy(rng.integers(0, 256, (3, *size), dtype=np.uint8))
                labels[0] %= 25
                write_iuv(root / "iuv" / split / Path(name).with_suffix(".png"), labels)
    return root


TREE = {
    "bounding_box_train": ["0002_c1s1_000451_03.jpg", "0002_c2s1_000001_01.jpg", "0007_c3s1_000001_01.jpg"],
    "query": ["0003_c1s1_000001_00.jpg"],
    "bounding_box_test": ["0003_c2s1_000001_01.jpg", "0000_c1s1_000001_01.jpg", "-1_c1s1_000001_01.jpg"],
}
