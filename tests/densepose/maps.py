"""Random IUV maps and tables of flips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

# Parts whose u or v runs backwards in a mirrored picture.
V_FLIPS, U_FLIPS = {1, 2}, {3, 4, 5, 6, 23, 24}


def random_iuv(height: int = 12, width: int = 10, seed: int = 0, *batch: int) -> Tensor:
    """uint8 [..., 3, H, W]: parts everywhere but for a background where all is 0."""
    generator = torch.Generator().manual_seed(seed)
    iuv = torch.randint(0, 256, (*batch, 3, height, width), dtype=torch.uint8, generator=generator)
    part = torch.randint(0, 25, (*batch, height, width), dtype=torch.uint8, generator=generator)
    iuv[..., 0, :, :] = part
    return iuv * (part > 0)[..., None, :, :]


def table_of(change: Any) -> np.ndarray:
    """A table [24, 2, 256, 256], row v and column u, of a function (part, u, v) -> (u', v')."""
    v, u = np.mgrid[:256, :256] / 255
    return np.stack([np.stack(np.broadcast_arrays(*change(part, u, v))) for part in range(1, 25)])


def closed_form(part: int, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (1 - u if part in U_FLIPS else u), (1 - v if part in V_FLIPS else v)


def save_table(path: Path, values: np.ndarray, version: str = "5") -> Path:
    keys = ("U_transforms", "V_transforms")
    if version == "5":
        scipy_io = pytest.importorskip("scipy.io")
        cells = {key: np.empty((1, 24), object) for key in keys}
        for i, key in enumerate(keys):
            for part in range(24):
                cells[key][0, part] = values[part, i]
        scipy_io.savemat(path, cells)
        return path
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w", userblock_size=512) as file:
        for i, key in enumerate(keys):
            cells = file.create_dataset(key, (24, 1), h5py.ref_dtype)
            for part in range(24):
                cells[part, 0] = file.create_dataset(f"#refs#/{key}{part}", data=values[part, i].T).ref
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file")
    return path
