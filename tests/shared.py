"""Where real photos with real IUV maps lie, if they are at hand. The project holds none of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def shared_data() -> Path:
    """The folder of real data: `shared/data` beside the repository, or what DSA_FAST_SHARED names. Skips without it."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("DSA_FAST_SHARED", default))
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}; set DSA_FAST_SHARED to its folder")
    return folder
