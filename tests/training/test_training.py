"""Training runs: schedule, determinism, resuming, checkpoints, missing IUV."""

from __future__ import annotations

import pickle
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Callback

from dsa_fast.cli import main
from dsa_fast.configs import find_config
from dsa_fast.data.synth import SynthConfig, make_dataset
from dsa_fast.models import ModelConfig, load_model
from dsa_fast.training import LossConfig, OptimConfig, fit
from dsa_fast.training.module import ReIDTask, start_from
from dsa_fast.training.schedule import learning_rate
from tests.data.trees import make_tree
from tests.densepose.maps import closed_form, save_table, table_of
from tests.training.small import AUGMENT, MODEL, TRAINER, config, losses


def test_learning_rate_is_the_papers() -> None:
    optim = OptimConfig()
    assert learning_rate(0, optim) == 8e-6
    assert learning_rate(10, optim) == pytest.approx((8e-6 + 8e-4) / 2)
    assert learning_rate(20, optim) == learning_rate(59.9, optim) == 8e-4
    assert learning_rate(60, optim) == 4e-4
    assert learning_rate(319, optim) == 8e-4 * 0.5**7


def test_two_runs_are_bitwise_equal(people: Path, tmp_path: Path) -> None:
    first, second = (fit(config(people), MODEL, augment=AUGMENT, trainer=TRAINER, out=tmp_path / name) for name in "ab")
    assert losses(first.log) == losses(second.log) and len(losses(first.log)) == 3 * 4
    a, b = (torch.load(run.checkpoint, weights_only=True)["state_dict"] for run in (first, second))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert first.scores == second.scores and set(first.scores) == {"mAP", "mINP", "R1", "R5", "R10"}
    other = fit(config(people), MODEL, augment=AUGMENT, trainer=TRAINER, out=tmp_path / "c", seed=1)
    assert losses(other.log) != losses(first.log)


def test_resumed_run_equals_uninterrupted_one(people: Path, tmp_path: Path) -> None:
    whole = fit(config(people), MODEL, augment=AUGMENT, trainer=TRAINER, out=tmp_path / "whole")

    class Stop(RuntimeError):
        pass

    from lightning.pytorch.callbacks import Callback

    class Interrupt(Callback):
        def on_train_batch_start(self, trainer, task, batch, batch_index) -> None:
            if trainer.current_epoch == 1 and batch_index == 2:
                raise Stop

    with pytest.raises(Stop):
        fit(config(people), MODEL, augment=AUGMENT, trainer=TRAINER, out=tmp_path / "cut", callbacks=[Interrupt()])
    with pytest.raises(ValueError, match="--resume"):
        fit(config(people), MODEL, augment=AUGMENT, trainer=TRAINER, out=tmp_path / "cut")
    other = replace(config(people), p=4)
    with pytest.raises(ValueError, match=r"seed was 0 and is 3; data.p was 2 and is 4"):
        fit(other, MODEL, augment=AUGMENT, trainer=TRAINER, out=tmp_path / "cut", resume=True, seed=3)
    # Simulates a kill of the resuming process while it restores the log.
    log = tmp_path / "cut" / "log" / "metrics.csv"
    log.rename(log.with_name("metrics_kept.csv"))
    resumed = fit(config(people), MODEL, augment=AUGMENT, trainer=TRAINER, out=tmp_path / "cut", resume=True)
    # The interrupted epoch's log is replaced. The log of earlier epochs is kept.
    assert losses(resumed.log) == losses(whole.log)
    a, b = (torch.load(run.checkpoint, weights_only=True)["state_dict"] for run in (whole, resumed))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert resumed.scores == whole.scores


def test_fine_tuning_starts_from_a_checkpoint(people: Path, tmp_path: Path) -> None:
    trainer = replace(TRAINER, max_epochs=1, eval_every=0)
    first = fit(config(people), MODEL, augment=AUGMENT, trainer=trainer, out=tmp_path / "first")
    still = OptimConfig(lr=1e-30, warmup_lr=1e-30)
    fit(config(people), MODEL, augment=AUGMENT, optim=still, trainer=trainer, out=tmp_path / "b", init=first.checkpoint)
    a, b = (load_model(tmp_path / run / "checkpoints" / "last.ckpt").model for run in ("first", "b"))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    # With another number of identities, all weights except the classifiers' last layers are loaded.
    tasks = ReIDTask(9, MODEL)
    start_from(tasks.model, first.checkpoint)
    old, new = a.state_dict(), tasks.model.state_dict()
    same = {name for name in old if old[name].shape == new[name].shape and torch.equal(old[name], new[name])}
    assert {name.split(".")[-2] for name in old.keys() - same} == {"fc2"}
    with pytest.raises(ValueError, match=r"init must be .* differs in"):
        start_from(ReIDTask(4, replace(MODEL, dsag=False)).model, first.checkpoint)


def test_resuming_a_finished_run_scores_it_again(people: Path, tmp_path: Path) -> None:
    first = fit(config(people), MODEL, augment=AUGMENT, trainer=TRAINER, out=tmp_path)
    logged, weights = losses(first.log), first.checkpoint.read_bytes()
    again = fit(config(people), MODEL, augment=AUGMENT, trainer=TRAINER, out=tmp_path, resume=True)
    assert again.scores == first.scores
    assert losses(again.log) == logged and again.checkpoint.read_bytes() == weights


@pytest.mark.parametrize("every", [1, 2])
def test_a_finished_run_is_logged_once(every: int, people: Path, tmp_path: Path) -> None:
    """A run that was killed in its last evaluation makes that evaluation again, and logs it in the same place."""
    trainer = replace(TRAINER, max_epochs=1, eval_every=every)
    options = {"augment": AUGMENT, "trainer": trainer, "out": tmp_path}
    log = fit(config(people), MODEL, **options).log  # type: ignore[arg-type]
    whole = log.read_text()
    for kept in (whole, "\n".join(whole.splitlines()[:-1]) + "\n"):
        log.write_text(kept)
        fit(config(people), MODEL, resume=True, **options)  # type: ignore[arg-type]
        assert log.read_text() == whole


def test_a_run_that_called_the_backbone_trunk_is_not_resumed(people: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    fit(config(people), MODEL, augment=AUGMENT, trainer=replace(TRAINER, max_epochs=1), out=out)
    options = out / "config.yaml"
    options.write_text(options.read_text().replace("backbone: resnet18", "trunk: resnet18"))
    with pytest.raises(ValueError, match="resume needs a run of this version"):
        fit(config(people), MODEL, augment=AUGMENT, trainer=TRAINER, out=out, resume=True)


def test_resume_without_a_run(people: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="last.ckpt"):
        fit(config(people), MODEL, out=tmp_path, resume=True)


@pytest.mark.parametrize(
    "model",
    [
        replace(MODEL, kind="baseline"),
        replace(MODEL, dsag=False),
        replace(MODEL, branches="global"),
        replace(MODEL, branches="local"),
    ],
)
def test_every_kind_of_model_trains(people: Path, tmp_path: Path, model: ModelConfig) -> None:
    trainer = replace(TRAINER, max_epochs=1)
    result = fit(config(people), model, augment=AUGMENT, trainer=trainer, out=tmp_path)
    assert 0 <= result.scores["mAP"] <= 1
    loaded, *sizes = load_model(result.checkpoint)
    assert sizes[:-1] == [(32, 16), 16, "last", "warp"]
    saved = torch.load(result.checkpoint, weights_only=True)["state_dict"]
    assert all(torch.equal(value, saved[f"model.{name}"]) for name, value in loaded.state_dict().items())


def test_a_training_flips_by_its_table(people: Path, tmp_path: Path) -> None:
    still = save_table(tmp_path / "still.mat", table_of(lambda part, u, v: (u, v)))
    same = save_table(tmp_path / "same.mat", table_of(closed_form))

    def run(name: str, table: Path | None) -> list[tuple[str, str]]:
        augment = replace(AUGMENT, flip=1.0, flip_table=None if table is None else str(table))
        trainer = replace(TRAINER, max_epochs=1, eval_every=0)
        return losses(fit(config(people), MODEL, augment=augment, trainer=trainer, out=tmp_path / name).log)

    plain = run("plain", None)
    assert run("same", same) == plain
    assert run("still", still) != plain
    with pytest.raises(FileNotFoundError, match=r"symmetry table not found: .*none\.mat"):
        run("none", tmp_path / "none.mat")


def test_mixed_precision(people: Path, tmp_path: Path) -> None:
    trainer = replace(TRAINER, max_epochs=1, precision="bf16-mixed")
    assert fit(config(people), MODEL, augment=AUGMENT, trainer=trainer, out=tmp_path).scores


def test_training_without_iuv(people: Path, tmp_path: Path) -> None:
    shutil.copytree(people, tmp_path / "people", ignore=shutil.ignore_patterns("iuv"))
    trainer = replace(TRAINER, max_epochs=1)
    data = config(tmp_path / "people")
    with pytest.raises(ValueError, match=r"model.dsag needs IUV maps .* dsa-fast prepare .*people.* model.dsag=False"):
        fit(data, MODEL, augment=AUGMENT, trainer=trainer, out=tmp_path / "run")
    result = fit(data, replace(MODEL, dsag=False), augment=AUGMENT, trainer=trainer, out=tmp_path / "run")
    assert len(losses(result.log)) == 4


def test_a_run_interrupted_in_its_first_epoch_starts_again(people: Path, tmp_path: Path) -> None:
    class Stop(Callback):
        def on_train_batch_end(self, *_: object) -> None:
            raise KeyboardInterrupt

    options = {"augment": AUGMENT, "trainer": replace(TRAINER, max_epochs=1), "out": tmp_path / "run"}
    with pytest.raises(KeyboardInterrupt):
        fit(config(people), MODEL, callbacks=[Stop()], **options)  # type: ignore[arg-type]
    assert not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()
    assert fit(config(people), MODEL, resume=True, **options).checkpoint.exists()  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match="start without resume"):
        fit(config(people), MODEL, resume=True, out=tmp_path / "none")


def test_the_time_of_the_whole_run_is_told(people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = replace(TRAINER, max_epochs=2, progress=True)
    fit(config(people), MODEL, augment=AUGMENT, trainer=trainer, out=tmp_path / "run")
    text = capsys.readouterr().out
    assert re.search(r"^About [\d.]+ s for 2 epochs of \d+ steps", text, re.M), text
    assert re.search(r"^Epoch 1/2, loss [\d.]+, about [\d.]+ s left$", text, re.M), text


def test_a_short_run_says_what_it_did_and_what_is_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    train = [f"{pid:04}_c1s1_{i:06}_00.png" for pid in (2, 5, 9) for i in range(2)] + ["0011_c1s1_000000_00.png"]
    test = {"query": ["0003_c1s1_000000_00.png"], "bounding_box_test": ["0003_c2s1_000000_00.png"]}
    make_tree(Path("my people"), {"bounding_box_train": train, **test}, iuv=False)
    options = {
        "data": asdict(config(Path("my people"))),
        "model": asdict(replace(MODEL, dsag=False)),
        "augment": asdict(AUGMENT),
        "trainer": asdict(replace(TRAINER, max_epochs=1, eval_every=0, log_every=10, progress=True, logger="csv")),
    }
    Path("options.yaml").write_text(yaml.safe_dump(options))
    assert main(["fit", "--config", "options.yaml", "--out", "run"]) == 0
    text = capsys.readouterr().out
    assert "for 1 epoch of 2 steps" in text
    assert "IUV map;" not in text  # none is read
    assert "1 of 4 people to train on have a single photo" in text
    assert "Not tested: --trainer.eval_every is 0" in text
    assert "Next:       dsa-fast eval run/checkpoints/last.ckpt 'my people'" in text
    assert losses(Path("run/log/metrics.csv"))  # of fewer steps than log_every


def test_a_refused_run_writes_nothing(people: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(ValueError, match=r"data\.p, .* to train on, 4 .*, got 9: give data\.p=4 or less"):
        fit(replace(config(people), p=9), MODEL, augment=AUGMENT, trainer=TRAINER, out=out)
    train = {"bounding_box_train": [f"{pid:04}_c1s1_000000_00.png" for pid in (2, 5, 9)]}
    test = {"query": ["0003_c1s1_000000_00.png"], "bounding_box_test": ["0003_c2s1_000000_00.png"]}
    alone = make_tree(tmp_path / "alone", {**train, **test})
    trainer = replace(TRAINER, eval_every=0)
    with pytest.raises(ValueError, match=r"one photo of each of 3 people .* train without: loss\.triplet=0"):
        fit(config(alone), MODEL, augment=AUGMENT, trainer=trainer, out=out)
    next(alone.glob("bounding_box_train/*")).write_bytes(b"broken")
    with pytest.raises(ValueError, match="1 of 5"):
        fit(config(alone), MODEL, LossConfig(triplet=0), augment=AUGMENT, trainer=trainer, out=out)
    assert not out.exists()


def test_checkpoint_executes_no_pickle(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    torch.save({"dsa_fast": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match="evil.ckpt"):
        load_model(tmp_path / "evil.ckpt")
    (tmp_path / "raw.ckpt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match="raw.ckpt"):
        load_model(tmp_path / "raw.ckpt")
    assert not (tmp_path / "executed").exists()
    with pytest.raises(FileNotFoundError, match="none.ckpt"):
        load_model(tmp_path / "none.ckpt")


def test_command_fits_from_yaml_and_evaluates(people: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "run"
    fit(config(people), MODEL, augment=AUGMENT, trainer=replace(TRAINER, max_epochs=1), out=out)
    # The file that a run writes is an input for the next run.
    again = ["fit", "--config", str(out / "config.yaml"), "--out", str(tmp_path / "again")]
    assert main(again) == 0
    assert losses(tmp_path / "again" / "log" / "metrics.csv") == losses(out / "log" / "metrics.csv")
    assert main(again) == 1
    assert "--resume" in capsys.readouterr().err
    checkpoint = str(out / "checkpoints" / "last.ckpt")
    scores = tmp_path / "scores.json"
    evaluate = ["eval", checkpoint, str(people), "--device", "cpu"]
    assert main([*evaluate, "--json_out", str(scores)]) == 0
    assert "mAP" in capsys.readouterr().out and scores.is_file()
    assert main([*evaluate, "--fused", "--workers", "0"]) == 0


def test_one_config_for_market_names_and_synthetic_people(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pids = np.sort(rng.choice(np.arange(2, 1502), 751, replace=False))  # as many as Market-1501 trains on
    tree = {
        "bounding_box_train": [f"{pid:04}_c{1 + i % 6}s1_{i:06}_01.jpg" for i, pid in enumerate(np.repeat(pids, 2))],
        "query": ["0001_c1s1_000001_00.jpg"],
        "bounding_box_test": ["0001_c2s1_000001_00.jpg", "-1_c1s1_000001_00.jpg", "0000_c1s1_000001_00.jpg"],
    }
    market = make_tree(tmp_path / "market", tree, size=(8, 4))
    make_dataset(tmp_path / "synth", SynthConfig(identities=32, cameras=2, images_per_camera=2))
    yaml = find_config("small")
    for root, identities in ((market, 751), (tmp_path / "synth", 16)):
        out = tmp_path / f"run_{root.name}"
        few = ["--trainer.max_epochs", "1", "--trainer.extra", '{"limit_train_batches": 1}', "--data.workers", "0"]
        assert main(["fit", "--config", str(yaml), "--data.root", str(root), "--out", str(out), *few]) == 0
        state = torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        assert state["model.classify_f_global.fc2.weight"].shape[0] == identities


@pytest.mark.parametrize("command", ["demo", "synth", "fit", "eval", "warp"])
def test_help_teaches(command: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([command, "--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert f"dsa-fast {command}" in text and "default:" in text
    assert main(["--help"]) == 0
    assert command in capsys.readouterr().out
