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


def touch_images(root: Path, names: list[str], size: tuple[int, int] = (12, 6)) -> Path:
    """Small images under these names."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (size[1], size[0]), (number % 256, 40, 90)).save(path)
    return root


OCCLUDED_REID = [
    "occluded_body_images/001/001_01.tif",
    "occluded_body_images/002/002_01.tif",
    "whole_body_images/001/001_01.tif",
    "whole_body_images/002/002_05.tif",
]
P_DUKE = [
    "train/whole_body_images/0003/0003_c1_f0044158.jpg",
    "train/occluded_body_images/0003/0003_c2_f0046182.jpg",
    "test/occluded_body_images/0001/0001_c2_f0046182.jpg",
    "test/whole_body_images/0001/0001_c2_f0046302.jpg",
    "test/whole_body_images/0002/0002_c1_f0046302.jpg",
]
PARTIAL_REID = [
    "partial_body_images/001_001.jpg",
    "partial_body_images/002_001.jpg",
    "whole_body_images/001_001.jpg",
    "whole_body_images/002_001.jpg",
    "occluded_body_images/001_001.jpg",  # not used by the protocol
]
PARTIAL_ILIDS = [
    "partial_body_images/1.jpg",
    "partial_body_images/119.jpg",
    "whole_body_images/1.jpg",
    "whole_body_images/119.jpg",
]
LTCC = [
    "train/000_1_c9_015833.png",
    "train/000_2_c1_000001.png",
    "train/001_1_c2_000001.png",
    "query/005_1_c1_000001.png",
    "test/005_1_c1_000002.png",
    "test/005_1_c2_000003.png",
    "test/005_2_c2_000004.png",
]
PRCC = [
    "rgb/train/002/A_cropped_rgb001.jpg",
    "rgb/train/002/C_cropped_rgb005.jpg",
    "rgb/val/002/B_cropped_rgb007.jpg",
    *(f"rgb/test/{camera}/{pid}/cropped_rgb001.jpg" for camera in "ABC" for pid in ("001", "004")),
    "rgb/test/A/001/cropped_rgb002.jpg",
    "sketch/test/A/001/cropped_rgb001.jpg",
]


def make_mars(root: Path) -> Path:
    """MARS with two training tracklets, and five test tracklets, of which the second and the fourth are queries."""
    from scipy.io import savemat

    train = [f"0001C1T0001F{k:03}.jpg" for k in (1, 2)] + ["0003C2T0001F001.jpg"]
    test = [
        *("00-1C1T0001F001.jpg", "0002C1T0001F001.jpg", "0002C1T0001F002.jpg", "0002C2T0001F001.jpg"),
        *("0002C2T0001F002.jpg", "0002C2T0001F003.jpg", "0004C3T0001F001.jpg", "0000C5T0001F001.jpg"),
    ]
    tracks = {
        "train": [[1, 2, 1, 1], [3, 3, 3, 2]],
        "test": [[1, 1, -1, 1], [2, 3, 2, 1], [4, 6, 2, 2], [7, 7, 4, 3], [8, 8, 0, 5]],
    }
    for part, names in (("train", train), ("test", test)):
        touch_images(root / f"bbox_{part}", [f"{name[:4]}/{name}" for name in names])
        (root / "info").mkdir(exist_ok=True)
        (root / "info" / f"{part}_name.txt").write_text("\n".join(names) + "\n")
        savemat(root / "info" / f"tracks_{part}_info.mat", {f"track_{part}_info": np.array(tracks[part])})
    savemat(root / "info" / "query_IDX.mat", {"query_IDX": np.array([[2, 4]])})
    return root
