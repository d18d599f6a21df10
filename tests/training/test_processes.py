"""Compares training with two processes (gloo, on the CPU) and with one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dsa_fast.evaluation import evaluate
from dsa_fast.evaluation.embedding import ModelEmbedder, embed_people
from dsa_fast.models import load_model
from dsa_fast.training.data import read_people
from tests.data.trees import make_tree
from tests.training.processes import GUIDE, ONE, data, train
from tests.training.small import losses

pytestmark = [
    pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="PyTorch has no Gloo here"),
    pytest.mark.xdist_group("processes"),
]

ACCUMULATE = replace(ONE, accumulate=2)
LAUNCHER = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "NODE_RANK", "LOCAL_RANK", "RANK")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trains with one process, then with two processes, which also resume a run of one process."""
    folder = tmp_path_factory.mktemp("processes")
    names = [f"{pid:04}_c{cam}s1_{i:06}_00.png" for pid in (2, 5, 9, 11) for cam in (1, 2) for i in range(2)]
    test = [f"{pid:04}_c{cam}s1_000000_00.png" for pid in (3, 4, 6) for cam in (1, 2)]
    make_tree(folder / "people", {"bounding_box_train": names, "query": test[::2], "bounding_box_test": test[1::2]})
    train(folder, "one", ACCUMULATE)
    train(folder, "guided_one", replace(ACCUMULATE, eval_every=0), guide=GUIDE)
    train(folder, "one_then_two", replace(ACCUMULATE, max_epochs=1, eval_every=0))
    # Without a launcher's variables, and in a process group of its own, so that no process outlives the test.
    environment = {name: value for name, value in os.environ.items() if name not in LAUNCHER} | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.training.processes", str(folder)],
        cwd=Path(__file__).parents[2],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            printed, _ = process.communicate(timeout=900)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, printed[-4000:]
    assert (folder / "done0").exists() and (folder / "done1").exists()
    return folder


def weights(folder: Path, name: str) -> dict[str, Tensor]:
    return dict(load_model(folder / name / "checkpoints" / "last.ckpt").model.named_parameters())


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_a_command_trains_with_two_processes(folder: Path) -> None:
    assert len(losses(folder / "shared" / "log" / "metrics.csv")) == 2  # each takes every other of four batches
    assert len(list((folder / "cache").glob("*/people-*.bin"))) == 1
    assert all(torch.isfinite(value).all() for value in weights(folder, "shared").values())


def test_two_processes_equal_one_with_the_same_batches(folder: Path) -> None:
    assert_same(weights(folder, "two"), weights(folder, "one"))


def test_two_guided_processes_equal_one_with_the_same_batches(folder: Path) -> None:
    assert_same(weights(folder, "guided_two"), weights(folder, "guided_one"))
    decoders = [
        torch.load(folder / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("guided_two", "guided_one")
    ]
    assert_same(*({k: v for k, v in state.items() if k.startswith("guides.") and "bn" not in k} for state in decoders))


def test_a_run_goes_on_with_more_or_fewer_processes(folder: Path) -> None:
    assert_same(weights(folder, "one_then_two"), weights(folder, "one"))
    train(folder, "two_then_one", ACCUMULATE, resume=True)
    assert_same(weights(folder, "two_then_one"), weights(folder, "one"))


def test_gathering_changes_the_training(folder: Path) -> None:
    """The processes themselves check the loss and gradients."""
    gathered, own = weights(folder, "gathered"), weights(folder, "one_then_two")
    assert any(not torch.allclose(gathered[name], own[name]) for name in own)


def test_shares_of_the_evaluation_give_the_whole_score(folder: Path) -> None:
    """Three queries and three gallery images are an odd number for two processes."""
    loaded, people = load_model(folder / "two" / "checkpoints" / "last.ckpt"), read_people(data(folder))
    query, gallery = (embed_people(ModelEmbedder(loaded), each) for each in (people.query, people.gallery))
    assert evaluate(*query, *gallery).mAP == pytest.approx(float((folder / "two" / "mAP.txt").read_text()), abs=1e-6)
