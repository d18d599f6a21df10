"""DensePose's own table of (u, v) under mirroring: `UV_symmetry_transforms.mat`.

The file is part of DensePose's data (`densepose_data`, not in its repository). It holds two cell arrays of 1 x 24,
`U_transforms` and `V_transforms`, each with a 256 x 256 matrix for every part. A point (u, v) of part i becomes, on the
mirrored part, u' = U_transforms[i][floor(255 v), floor(255 u)], and v' in the same way: rows are v's, columns u's.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dsa_fast.densepose.parts import NUM_PARTS
from dsa_fast.extras import require
from dsa_fast.mat_files import check_mat

__all__ = ["SymmetryTable", "as_lut"]

_KEYS = ("U_transforms", "V_transforms")
_SIDE = 256
_HDF5 = b"MATLAB 7.3"
# Tables hold values measured on a mesh. Only rounding puts them outside [0, 1].
_SLACK = 1e-3


@dataclass(frozen=True, eq=False)
class SymmetryTable:
    """DensePose's table, read from a file.

    Attributes:
        values: float32 [24, 2, 256, 256]: part (1..24, at index part-1, before the mirroring), u' and v', row
            floor(255 v), column floor(255 u); in [0, 1].
    """

    values: Tensor

    def __post_init__(self) -> None:
        wanted = (NUM_PARTS, 2, _SIDE, _SIDE)
        if not isinstance(self.values, Tensor) or self.values.shape != wanted or self.values.dtype != torch.float32:
            raise ValueError(f"values must be float32 {list(wanted)}, got {getattr(self.values, 'shape', self.values)}")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SymmetryTable:
        """Reads DensePose's `UV_symmetry_transforms.mat`, of MATLAB 5 to 7 (with SciPy) or 7.3 (with h5py).

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: SciPy or h5py is needed but not installed, the file is not a MATLAB file, or it does not contain
                these matrices. The message names the file.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"symmetry table not found: {path}")
        with path.open("rb") as file:
            newer = file.read(len(_HDF5)) == _HDF5
        library = require("h5py" if newer else "scipy.io", f"reading {path}")
        try:
            cells = _read_hdf5(library, path) if newer else _read_matlab5(library, path)
        # The readers raise many kinds of errors for a broken file. The message must name the file.
        except Exception as error:
            raise ValueError(f"symmetry table {path} is not a readable MATLAB file: {error}") from error
        stacked = []
        for key in _KEYS:
            if key not in cells:
                raise ValueError(f"symmetry table {path} must hold {' and '.join(_KEYS)}, got no {key}")
            matrices = [np.asarray(cell) for cell in cells[key]]
            shapes = {matrix.shape for matrix in matrices}
            if len(matrices) != NUM_PARTS or shapes != {(_SIDE, _SIDE)}:
                raise ValueError(
                    f"symmetry table {path}: {key} must be {NUM_PARTS} matrices of {_SIDE} x {_SIDE}, "
                    f"got {len(matrices)} of {sorted(shapes)}"
                )
            stacked.append(np.stack(matrices).astype(np.float64))
        values = np.stack(stacked, 1)
        if not ((values >= -_SLACK) & (values <= 1 + _SLACK)).all():
            raise ValueError(
                f"symmetry table {path} must hold values in [0, 1], got {np.nanmin(values):g} to {np.nanmax(values):g}"
            )
        return cls(torch.from_numpy(values.clip(0, 1).astype(np.float32)))


def as_lut(table: SymmetryTable) -> Tensor:
    """Returns the table for byte maps: uint8 [24, 2, 256, 256], `lut[part-1, 0 or 1, V, U]` is the mirrored U or V."""
    return (table.values * 255).round().to(torch.uint8)


def _read_matlab5(scipy_io: ModuleType, path: Path) -> dict[str, list[Any]]:
    check_mat(path, _KEYS)
    loaded = scipy_io.loadmat(path, variable_names=_KEYS)
    return {key: list(loaded[key].ravel()) for key in _KEYS if key in loaded}


def _read_hdf5(h5py: ModuleType, path: Path) -> dict[str, list[Any]]:
    with h5py.File(path, "r") as file:
        # Cells are references to matrices, which are stored column by column.
        return {key: [file[cell][()].T for cell in file[key][()].ravel()] for key in _KEYS if key in file}
