"""Imports run one way and in no circle, and what is imported brings no library that only training needs."""

from __future__ import annotations

import importlib
import json
import pkgutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import dsa_fast
from dsa_fast.deploy import BatchRange, NamedImages, export
from tests.deploy.deployed import save_checkpoint, smooth_images
from tests.fresh import ROOT, run_fresh

TRAINING_ONLY = {"lightning", "pytorch_lightning", "matplotlib", "tensorboard", "jsonargparse"}


def imported(code: str) -> set[str]:
    """The top-level modules after `code`, in an interpreter that has imported PyTorch alone."""
    code += "; import json, sys; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = run_fresh(code)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_imports_run_one_way() -> None:
    """The layers are in pyproject.toml, under [tool.importlinter]."""
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


UNWANTED = {
    "import dsa_fast, dsa_fast.ops; dsa_fast.warp": {"torchvision", "PIL", "rich", "yaml"},
    "import dsa_fast.data": {"torchvision", "rich", "h5py", "scipy"},
    "import dsa_fast.deploy": {"torchvision", "rich", "onnx", "onnxruntime", "openvino", "faiss", "pyarrow", "av"},
    "import dsa_fast.evaluation": {"torchvision", "rich"},
    "import dsa_fast.models": {"rich"},
}


@pytest.mark.parametrize("code", UNWANTED)
def test_packages_import_only_what_they_need(code: str) -> None:
    assert imported(code) & (TRAINING_ONLY | UNWANTED[code]) == set()


@pytest.mark.parametrize("suffix", [".ckpt", ".onnx"])
def test_loading_an_encoder_imports_no_library_of_training(tmp_path: Path, suffix: str) -> None:
    path = save_checkpoint(tmp_path / "x.ckpt")
    if suffix == ".onnx":
        images = NamedImages(smooth_images(2), "patches")
        export(path, path.with_suffix(".onnx"), images=images, batch=BatchRange(1, 1, 2))
        path = path.with_suffix(".onnx")
    code = (
        "import numpy, dsa_fast; "
        f"encoder = dsa_fast.Encoder.load({str(path)!r}); "
        "assert encoder(numpy.zeros((9, 9, 3), numpy.uint8)).shape == (128,)"
    )
    found = imported(code)
    assert found & TRAINING_ONLY == set()
    assert ("torchvision" in found) == (suffix == ".ckpt")  # an exported file needs none of our networks


def public_modules() -> list[ModuleType]:
    """All packages and modules that have `__all__`."""
    names = [info.name for info in pkgutil.walk_packages(dsa_fast.__path__, "dsa_fast.") if "._C" not in info.name]
    modules = [dsa_fast, *map(importlib.import_module, names)]
    return [module for module in modules if hasattr(module, "__all__")]


def test_every_public_name_is_there() -> None:
    modules = public_modules()
    assert len(modules) > 50
    for module in modules:
        names = module.__all__
        assert len(set(names)) == len(names), module.__name__
        assert [name for name in names if not hasattr(module, name)] == [], module.__name__
        assert not any(isinstance(getattr(module, name), ModuleType) for name in names), module.__name__
