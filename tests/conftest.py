"""Fixtures of all tests."""

from __future__ import annotations

import os
from pathlib import Path

# Test processes share the cores, and more threads than cores make everything many times slower. So do the processes
# that tests start, and NumPy. Tests of threading set their own number.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from tests.cuda import HAS_CUDA, NEEDS_CUDA, require_cuda

torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=0, help="kills of each command with each signal; 0 for a few in all")


@pytest.fixture(params=["cpu", "cuda"] if HAS_CUDA or NEEDS_CUDA else ["cpu"])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda":
        require_cuda()
    return str(request.param)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real photos with real IUV maps: `shared/data` next to the repository, or the folder DSA_FAST_SHARED names.

    Skips without it: the project holds none of them.
    """
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("DSA_FAST_SHARED", default))
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}; set DSA_FAST_SHARED to its folder")
    return folder


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four people to train on and two to test on, of noise, with maps, in Market-1501's layout."""
    from tests.data.trees import make_tree  # here: the tests of the operators run without the data sets' libraries

    train = [f"{pid:04}_c{cam}s1_{i:06}_00.png" for pid in (2, 5, 9, 11) for cam in (1, 2) for i in range(2)]
    test = [f"{pid:04}_c{cam}s1_000000_00.png" for pid in (3, 4) for cam in (1, 2)]
    tree = {"bounding_box_train": train, "query": test[::2], "bounding_box_test": test[1::2]}
    return make_tree(tmp_path_factory.mktemp("data") / "people", tree)


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs of all commands; see `tests.commands`."""
    from tests.commands import make_inputs

    return make_inputs(tmp_path_factory.mktemp("inputs"))
