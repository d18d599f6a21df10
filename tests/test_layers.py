"""Imports run one way and in no circle, and the warp and the encoder bring no library that only training needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TRAINING_ONLY = ("lightning", "matplotlib", "tensorboard", "jsonargparse")


def test_imports_run_one_way() -> None:
    """The layers are in pyproject.toml, under [tool.importlinter]."""
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("code", ["import dsa_fast", "import dsa_fast.deploy", "import dsa_fast.models"])
def test_imports_bring_no_library_of_training(code: str) -> None:
    check = f"{code}; import sys; print([name for name in {TRAINING_ONLY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
