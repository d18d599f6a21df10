"""Loggers of a run, offline, and the pictures that each evaluation gives them."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from dsa_fast.training import TrainerConfig, fit
from dsa_fast.training.loggers import finish, make_loggers
from tests.training.small import AUGMENT, MODEL, TRAINER, config

ONE = replace(TRAINER, max_epochs=1, eval_every=1)


def run(people: Path, out: Path, **options: object) -> Path:
    fit(config(people), MODEL, augment=AUGMENT, trainer=replace(ONE, **options), out=out)  # type: ignore[arg-type]
    return out / "log"


def sizes(folder: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for path in sorted(folder.glob("*.png")):
        with Image.open(path) as image:
            found[path.name] = image.size
    return found


@pytest.mark.parametrize("logger", ["csv", "tensorboard"])
def test_files_of_a_run(logger: str, people: Path, tmp_path: Path) -> None:
    log = run(people, tmp_path, logger=logger)
    pictures = sizes(log / "pictures")
    assert list(pictures) == ["parts_0001.png", "ranked_0001.png"]
    assert pictures["ranked_0001.png"][1] > 2 * 160 and pictures["parts_0001.png"][0] <= 1000
    events = list(log.glob("events.*"))
    assert len(events) == (logger == "tensorboard") and (log / "metrics.csv").exists()
    if events:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        read = EventAccumulator(str(events[0])).Reload()
        assert read.Tags()["images"] == ["ranked", "parts"] and "mAP" in read.Tags()["scalars"]


def test_no_pictures_on_request(people: Path, tmp_path: Path) -> None:
    assert not (run(people, tmp_path, pictures=0) / "pictures").exists()


def test_a_picture_that_fails_does_not_end_the_run(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("dsa_fast.visual.layout.save_picture", fail)
    log = run(people, tmp_path)
    assert "no pictures of epoch 1: disk full" in capsys.readouterr().out and not (log / "pictures").exists()


def test_wandb_offline(people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    log = run(people, tmp_path, logger="wandb")
    (offline,) = (log / "wandb").glob("offline-run-*")
    assert offline.name.endswith((log / "wandb.id").read_text())
    kinds = {path.name.split("_")[0] for path in (offline / "files" / "media" / "images").iterdir()}
    assert kinds == {"ranked", "parts"}
    import wandb

    assert wandb.run is None  # a later run of the process is its own


def test_mlflow_in_files(people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("mlflow", "sqlalchemy", "alembic"):
        pytest.importorskip(module)
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.chdir(tmp_path)
    log = run(people, tmp_path / "run", logger="mlflow", project="people")
    client = MlflowClient(f"sqlite:///{log / 'mlflow.db'}")
    made = client.get_run((log / "mlflow.id").read_text())
    assert made.info.run_name == "run" and made.info.status == "FINISHED" and "mAP" in made.data.metrics
    assert made.data.params["model/width"] == "0.125"
    assert client.get_experiment(made.info.experiment_id).name == "people"
    files = {path.name for path in (log / "mlflow").rglob("*.png")}
    assert files == {"ranked_0001.png", "parts_0001.png"}
    assert {path.name for path in tmp_path.iterdir()} == {"run"}  # nothing outside
    # A resumed run goes on in the same run of the tracker.
    trainer = replace(ONE, logger="mlflow", project="people")
    _, again = make_loggers(trainer, tmp_path / "run", {}, resumed=True)
    assert again.version == made.info.run_id
    finish([again])


@pytest.mark.parametrize(("logger", "package"), [("wandb", "wandb"), ("mlflow", "mlflow-skinny")])
def test_a_missing_tracker_is_named(
    logger: str, package: str, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, logger, None)
    with pytest.raises(ValueError, match=f"trainer.logger {logger} needs {logger}: pip install {package}"):
        run(people, tmp_path, logger=logger)


def test_wrong_options() -> None:
    with pytest.raises(ValueError, match="trainer.logger must be csv, tensorboard, wandb or mlflow, got 'print'"):
        TrainerConfig(logger="print")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="trainer.pictures must be at least 0, got -1"):
        TrainerConfig(pictures=-1)


def test_the_picture_is_of_the_last_evaluation(people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lists are those of the whole test set, and the task keeps no features after it."""
    import dsa_fast.training.loggers as module

    seen = []

    def record(*arguments: object, **options: object) -> object:
        seen.append(module_rank_list(*arguments, **options))
        return seen[-1]

    module_rank_list = module.rank_list
    monkeypatch.setattr(module, "rank_list", record)
    run(people, tmp_path)
    (lists,) = seen
    assert lists.indices.shape == (2, 2) and torch.equal(lists.matches.sum(1), torch.ones(2).long())
