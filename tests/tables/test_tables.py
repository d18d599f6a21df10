"""`dsa-fast tables`: its training runs, tests and files, and resuming after an interruption."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
import yaml

import dsa_fast.tables.run
from dsa_fast.cli import main
from dsa_fast.cli.fit import fit
from dsa_fast.cli.parser import make_parser
from dsa_fast.cli.tables import scaled
from dsa_fast.data.registry import read_dataset
from dsa_fast.data.synth import SynthConfig, make_dataset
from dsa_fast.tables import PAPER_ROWS, TrainingScores, rows_of, sweep_report, table_report

CONFIGS = Path(dsa_fast.__file__).parent / "configs"

BASE = """
data: {p: 2, k: 2, workers: 0}
model: {backbone: resnet18, pretrained: null, width: 0.125, classifier_dim: 16}
augment: {size: [32, 16], dsap_size: 8, pad: 2}
optim: {lr: 1.0e-3, warmup_epochs: 1}
trainer: {max_epochs: 2, accelerator: cpu}
"""
PEOPLE = ["--synth.identities", "8", "--synth.cameras", "2", "--synth.images_per_camera", "2",
          "--synth.height", "32", "--synth.width", "16"]  # fmt: skip


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A base configuration with two rows. The second row is not in the paper."""
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "dsa.yaml").write_text((CONFIGS / "rows" / "dsa.yaml").read_text())
    (tmp_path / "rows" / "mine.yaml").write_text("model: {dsag: false}\n")
    path = tmp_path / "base.yaml"
    path.write_text(BASE)
    return path


def run(base: Path, out: Path, *options: str) -> int:
    return main(["tables", "--base", str(base), "--out", str(out), "--rows", "dsa,mine", *PEOPLE, *options])


def test_goes_on_where_it_was_stopped(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run(base, whole, "--seeds", "0,1") == 0
    rows = json.loads((whole / "table.json").read_text())["rows"]
    titles = [row["row"] for row in rows]
    assert titles == [*(row.title for row in PAPER_ROWS if row.config == "dsa"), "mine"]
    assert all(len(row["here"]["mAP"]["values"]) == 2 and row["here"]["mAP"]["std"] is not None for row in rows)
    assert rows[-1]["paper"] is None and rows[-2]["paper"]["mAP"] == 87.6
    by_title = {row["row"]: row["here"]["mAP"]["values"] for row in rows}
    assert by_title["DSA-Global (Joint)"] != by_title["DSA-Local (Joint)"]
    assert (whole / "table.png").stat().st_size > 1000 and "| mine | 2 |" in (whole / "table.md").read_text()

    # DSA's step does more than that of two branches.
    costs = json.loads((whole / "table.json").read_text())["costs"]
    assert costs["dsa"]["flops"]["values"][0] == costs["dsa"]["flops"]["values"][1] > costs["mine"]["flops"]["mean"] > 0
    assert costs["mine"]["seconds"]["mean"] > 0 and costs["mine"]["needs"] == []

    # Stopped in the second epoch of the second run.
    epochs = []
    on_end = dsa_fast.tables.run._Epochs.on_train_epoch_end

    def stop(self, trainer, task) -> None:
        epochs.append(trainer.current_epoch)
        if len(epochs) == 4:
            raise KeyboardInterrupt
        on_end(self, trainer, task)

    monkeypatch.setattr(dsa_fast.tables.run._Epochs, "on_train_epoch_end", stop)
    assert run(base, cut, "--seeds", "0,1") == 130
    assert (cut / "dsa" / "seed0" / "scores.json").exists()
    assert not (cut / "mine" / "seed0" / "scores.json").exists()
    assert (cut / "mine" / "seed0" / "checkpoints" / "last.ckpt").exists()
    assert len(json.loads((cut / "table.json").read_text())["runs"]) == 1
    capsys.readouterr()
    assert run(base, cut, "--seeds", "0,1") == 0
    assert epochs == [0, 1, 0, 1, 1, 0, 1, 0, 1]  # finished epochs are not repeated
    said = capsys.readouterr().out
    assert said.count("(kept)") == 1 and said.count("(resumed)") == 1
    assert json.loads((cut / "table.json").read_text())["rows"] == rows

    # Other options need other runs. An additional seed only adds one.
    assert run(base, cut, "--seeds", "0,1", "--trainer.max_epochs", "1") == 1
    assert "trainer.max_epochs was 2 and is 1" in capsys.readouterr().err
    assert main(["tables", "--base", str(base), "--out", str(cut), "--rows", "mine", "--seeds", "2", *PEOPLE]) == 0
    assert epochs[9:] == [0, 1]
    # Scores of a version with fewer options count as scores with the defaults.
    path = cut / "mine" / "seed2" / "scores.json"
    about = json.loads(path.read_text())
    del about["options"]["loss"]["visibility"], about["options"]["augment"]["parts"]
    path.write_text(json.dumps(about))
    again = ["tables", "--base", str(base), "--out", str(cut), "--rows", "mine", "--seeds", "2", *PEOPLE]
    assert main(again) == 0 and len(epochs) == 11
    assert main([*again, "--loss.visibility", "0.1"]) == 1


def test_a_row_teaches_another(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    taught = "model: {dsag: false}\nguide: {distil: 1.0, distil_teacher: 'row:dsa', distil_features: 1.0}\n"
    (tmp_path / "rows" / "taught.yaml").write_text(taught)
    out = tmp_path / "out"
    once = ["tables", "--base", str(base), "--out", str(out), "--seeds", "0,1", "--trainer.max_epochs", "1", *PEOPLE]
    assert main([*once, "--rows", "taught,dsa"]) == 1
    assert "rows must have dsa before taught, which needs it" in capsys.readouterr().err
    assert main([*once, "--rows", "dsa,taught"]) == 0
    table = json.loads((out / "table.json").read_text())
    assert table["costs"]["taught"]["needs"] == ["dsa"]
    for seed in (0, 1):
        options = yaml.safe_load((out / "taught" / f"seed{seed}" / "config.yaml").read_text())
        assert options["guide"]["distil_teacher"] == str(out / "dsa" / f"seed{seed}" / "checkpoints" / "last.ckpt")
    assert " + dsa |" in (out / "table.md").read_text()
    assert main([*once, "--rows", "taught"]) == 0  # the teacher exists
    assert capsys.readouterr().out.count("(kept)") == 2


@pytest.fixture
def with_pretraining(base: Path, tmp_path: Path) -> Path:
    (tmp_path / "rows" / "plus.yaml").write_text("model: {dsag: false, pretrained: 'row:pretrain'}\n")
    return base


def test_a_row_trains_the_backbone_of_another(
    with_pretraining: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, start = tmp_path / "out", tmp_path / "start.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), start)
    # Options of the network and its guides are for the rows with features; those of the trainer are for all.
    options = ["--trainer.max_epochs", "1", "--model.width", "1", "--model.pretrained", str(start)]
    options += ["--model.bnneck", "true", "--guide.stripes=1", "--data.p", "2"]
    once = ["tables", "--base", str(with_pretraining), "--out", str(out), "--seeds", "0,1", *PEOPLE, *options]
    assert main([*once, "--rows", "plus,pretrain"]) == 1
    assert "rows must have pretrain before plus, which needs it" in capsys.readouterr().err
    assert not out.exists()
    assert main([*once, "--rows", "pretrain,mine,plus"]) == 0
    assert "pretrain, seed 1: trained, nothing to test (" in capsys.readouterr().out
    for seed in ("seed0", "seed1"):
        # The weights of the command line are for the rows that start from no other row.
        about = {
            row: yaml.safe_load((out / row / seed / "config.yaml").read_text()) for row in ("pretrain", "mine", "plus")
        }
        alone = out / "pretrain" / seed / "checkpoints" / "last.ckpt"
        started = {row: options["model"]["pretrained"] for row, options in about.items()}
        assert started == {"pretrain": str(start), "mine": str(start), "plus": str(alone)}
        assert [about[row]["model"]["bnneck"] for row in about] == [False, True, True]
        assert [about[row]["guide"]["stripes"] for row in about] == [0, 1, 1]
        assert [about[row]["trainer"]["max_epochs"] for row in about] == [1, 1, 1]
        assert json.loads((out / "pretrain" / seed / "scores.json").read_text())["scores"] == {}
    table, text = json.loads((out / "table.json").read_text()), (out / "table.md").read_text()
    assert [row["row"] for row in table["rows"]] == ["mine", "plus"]
    assert table["costs"]["plus"]["needs"] == ["pretrain"] and table["costs"]["pretrain"]["flops"]["mean"] > 0
    assert text.count(" + pretrain |") == 2 and "| pretrain | 2 |  |  |  |  |" in text
    assert "`pretrain`: 16 images with maps of people, 1 epoch, no test." in text
    assert f"weights {start}," in text
    assert main([*once, "--rows", "plus"]) == 0  # its backbone exists
    assert capsys.readouterr().out.count("(kept)") == 2
    assert main([*once, "--rows", "plus", "--model.width", "0.5"]) == 1  # also of a row that is not in the list
    assert "model.width must be that of pretrain" in capsys.readouterr().err
    assert "weights of the row pretrain," in (out / "table.md").read_text()

    # A backbone of other options is not the one that the kept scores are of.
    path = out / "pretrain" / "seed0" / "scores.json"
    scores = json.loads(path.read_text())
    del scores["options"]["model"]["pooling"]  # as an earlier version wrote it
    path.write_text(json.dumps(scores))
    assert main([*once, "--rows", "plus"]) == 0
    scores["options"]["optim"]["lr"] *= 2
    path.write_text(json.dumps(scores))
    assert main([*once, "--rows", "plus"]) == 1
    assert re.search(r"began from a pretrain in which --optim.lr was 0\.001 and is 0\.002", capsys.readouterr().err)
    # One whose training has not ended is refused: `fit` writes a checkpoint after each epoch.
    path.unlink()
    assert main([*once, "--rows", "plus"]) == 1
    said = capsys.readouterr().err
    assert "no finished training run of pretrain in" in said and str(path.parent) in said


def test_a_stopped_backbone_goes_on(
    with_pretraining: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    once = ["tables", "--base", str(with_pretraining), "--seeds", "0", "--trainer.max_epochs", "2", *PEOPLE]
    assert main([*once, "--out", str(tmp_path / "whole"), "--rows", "pretrain"]) == 0
    assert "No row has features to test" in capsys.readouterr().out
    assert not (tmp_path / "whole" / "table.json").exists()
    assert main([*once, "--out", str(tmp_path / "whole"), "--rows", "pretrain,plus"]) == 0

    def stop(self, trainer, task) -> None:
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(dsa_fast.tables.run._Epochs, "on_train_epoch_end", stop)
        assert main([*once, "--out", str(tmp_path / "cut"), "--rows", "pretrain,plus"]) == 130
    assert (tmp_path / "cut" / "pretrain" / "seed0" / "checkpoints" / "last.ckpt").is_file()
    assert main([*once, "--out", str(tmp_path / "cut"), "--rows", "plus"]) == 1
    assert main([*once, "--out", str(tmp_path / "cut"), "--rows", "pretrain,plus"]) == 0
    assert "pretrain, seed 0: trained, nothing to test (resumed)" in capsys.readouterr().out
    for row in ("pretrain", "plus"):
        files = [tmp_path / out / row / "seed0" / "checkpoints" / "last.ckpt" for out in ("whole", "cut")]
        a, b = (torch.load(file, weights_only=True)["state_dict"] for file in files)
        assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_backbone_learns_from_other_images(with_pretraining: Path, tmp_path: Path) -> None:
    others, out = tmp_path / "others", tmp_path / "out"
    make_dataset(others, SynthConfig(identities=6, cameras=2, images_per_camera=2, height=32, width=16), workers=1)
    (others / "iuv").rename(tmp_path / "maps")
    once = ["tables", "--base", str(with_pretraining), "--out", str(out), "--seeds", "0", "--trainer.max_epochs", "1"]
    options = ["--rows", "mine,pretrain,plus", "--strengths", "0,1", "--unlabeled", str(others)]
    assert main([*once, *PEOPLE, *options]) == 1  # before anything is rendered
    assert not out.exists()
    assert main([*once, *PEOPLE, *options, "--unlabeled_iuv", str(tmp_path / "maps")]) == 0
    images = len(read_dataset(others).train)
    for strength in ("strength_0", "strength_1"):
        run = json.loads((out / strength / "pretrain" / "seed0" / "scores.json").read_text())
        assert run["images"] == {"train": images, "identities": 0, "query": 0, "gallery": 0}
        assert run["options"]["data"]["root"] == str(others)
        run = json.loads((out / strength / "plus" / "seed0" / "scores.json").read_text())
        assert run["options"]["data"]["root"] == str(out / strength / "people")
    points = json.loads((out / "sweep.json").read_text())["points"]
    assert [point["config"] for point in points] == ["mine", "mine", "plus", "plus"]
    assert f"`pretrain`: {images} images with maps of others" in (out / "sweep.md").read_text()


def test_held_out_people_are_not_pretrained_on(with_pretraining: Path, tmp_path: Path) -> None:
    people, out = tmp_path / "people", tmp_path / "out"
    make_dataset(people, SynthConfig(identities=12, cameras=2, images_per_camera=2, height=32, width=16), workers=1)
    once = ["tables", "--base", str(with_pretraining), "--out", str(out), "--seeds", "0", "--trainer.max_epochs", "1"]
    once += ["--data.root", str(people), "--data.validation_ids", "2", "--rows", "pretrain,plus"]
    assert main([*once, "--unlabeled", str(people)]) == 0
    assert json.loads((out / "pretrain" / "seed0" / "scores.json").read_text())["images"]["train"] == 4 * 4


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        ("model: {width: 0.25, pretrained: 'row:pretrain'}", [], "model.width must be that of pretrain, .* 0.125, got"),
        (
            "guide: {distil: 1.0, distil_teacher: 'row:pretrain'}",
            [],
            "guide.distil_teacher must be a row with features",
        ),
        ("model: {pretrained: 'row:own'}", [], "row:NAME must be the name of another row, got row:own for own"),
        ("model: {pretrained: 'row:'}", [], "row:NAME must have the name of a row"),
        ("model: {dsag: false}", ["--guide.drop", "0.5"], r"guide.drop needs fused features.*\(in the row own\)"),
        (
            "model: {dsag: false, pretrained: 'row:pretrain', pretrained_heads: true}",
            [],
            "model.pretrained_heads must be false for own",
        ),
        ("model: {dsag: false}", ["--unlabeled_iuv", "x"], "unlabeled_iuv must be the maps of unlabeled"),
        ("model: {dsag: false}", ["--unlabeled", "nowhere"], "no such folder"),
    ],
)
def test_rows_that_do_not_fit_are_told_before_training(
    base: Path, tmp_path: Path, row: str, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows" / "own.yaml").write_text(row + "\n")
    out = tmp_path / "out"
    assert main(["tables", "--base", str(base), "--out", str(out), "--rows", "pretrain,own", *PEOPLE, *options]) == 1
    assert re.search(message, capsys.readouterr().err.replace("\n", " "))
    assert not out.exists()


def test_unlabeled_images_need_a_row_that_reads_them(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(base, tmp_path / "out", "--unlabeled", str(tmp_path)) == 1
    assert "rows must have pretrain to use unlabeled" in capsys.readouterr().err


def test_a_row_of_tables_is_no_weights_of_fit(people: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = people.parent / "row_of_tables"
    row = ["--config", "tiny", "--config", "rows/dsa_plus", "--data.p", "2"]
    assert main(["fit", *row, f"--data.root={people}", f"--out={out}"]) == 1
    assert "model.pretrained must be imagenet or a path (row:NAME is for dsa-fast tables)" in capsys.readouterr().err


def test_sweep_of_strengths(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ["--strengths", "0,1", "--seeds", "0", "--trainer.max_epochs=1", "--rows", "mine,dsa"]
    assert main(["tables", "--base", str(base), "--out", str(out), *PEOPLE, *options]) == 0
    points = json.loads((out / "sweep.json").read_text())["points"]
    scores = {(point["config"], point["test"], point["strength"]): point for point in points}
    lines = [("mine", "mf/both"), ("dsa", "mf/both"), ("dsa", "fused/both")]
    assert set(scores) == {(*line, strength) for line in lines for strength in (0.0, 1.0)}
    for strength in (0.0, 1.0):
        beside = scores["mine", "mf/both", strength]
        assert beside["gain"] is None
        for line in lines[1:]:
            point = scores[(*line, strength)]
            assert point["gain"]["mean"] == pytest.approx(point["mAP"]["mean"] - beside["mAP"]["mean"])
    made = [json.loads((out / f"strength_{s}" / "people" / "synth.json").read_text())["config"] for s in (0, 1)]
    assert (made[0]["pose"], made[0]["occlusion"]) == (0.0, 0.0) and made[1]["pose"] == SynthConfig().pose
    assert made[0]["lighting"] == made[1]["lighting"] == SynthConfig().lighting
    assert (out / "sweep.png").stat().st_size > 1000 and "| 1 |" in (out / "sweep.md").read_text()


def test_misalignment_is_scaled_and_capped() -> None:
    half, twice = scaled(SynthConfig(), 0.5), scaled(SynthConfig(), 2)
    assert (half.pose, half.box, half.occlusion) == (0.5, 0.25, 0.2)
    assert (twice.pose, twice.box, twice.occlusion) == (1.0, 1.0, 0.8)
    assert twice.clutter == SynthConfig().clutter


def scores(config: str, seed: int, mAP: float, strength: float | None = None) -> TrainingScores:
    of = {"mAP": mAP, "R1": mAP, "R5": mAP, "R10": mAP, "mINP": mAP}
    options = {
        "model": {"backbone": "resnet18", "width": 1.0, "pretrained": None},
        "augment": {"size": [32, 16], "dsap_size": 8},
        "data": {"p": 2, "k": 2},
        "trainer": {"max_epochs": 2},
    }
    images = {"train": 1, "identities": 1, "query": 1, "gallery": 1}
    return TrainingScores(config, seed, strength, {"mf/both": of}, 1.0, images, options)


def test_means_and_deviations_by_hand(tmp_path: Path) -> None:
    text = table_report(
        [scores("csa", 0, 0.1), scores("csa", 1, 0.2), scores("concat", 0, 0.5)], tmp_path, people="few"
    )
    assert "| CSA (Only MF-Stream) | 2 | 15.0 ± 7.1 |" in text and "| 84.1 |" in text
    assert "| Fusion: concatenation + FC | 1 | 50.0 | 50.0 |" in text
    # Gains are differences per seed: 1 and 3 points, for any level of each seed.
    runs = [scores("two_branches", 0, 0.1, 1.0), scores("two_branches", 1, 0.5, 1.0)]
    runs += [scores("dsa", 0, 0.11, 1.0), scores("dsa", 1, 0.53, 1.0)]
    assert "+2.0 ± 1.4" in sweep_report(runs, tmp_path, people="few")


def test_the_papers_rows_and_their_configs() -> None:
    assert len(PAPER_ROWS) == 12
    for base in ("dsa_reid", "small", "tiny"):
        parser = make_parser(fit, "test")
        arguments = ["--config", str(CONFIGS / f"{base}.yaml"), "--data.root", "x"]
        plain = parser.instantiate(parser.parse_args(arguments))
        for row in PAPER_ROWS:
            file = CONFIGS / "rows" / f"{row.config}.yaml"
            parser = make_parser(fit, "test")
            got = parser.instantiate(parser.parse_args([*arguments, "--config", str(file)]))
            # A row changes only the options in its file.
            for section, changes in (yaml.safe_load(file.read_text())).items():
                assert getattr(got, section) == replace(getattr(plain, section), **changes)
            for section in {"data", "model", "loss", "optim", "augment", "trainer"} - set(
                yaml.safe_load(file.read_text())
            ):
                assert getattr(got, section) == getattr(plain, section)
    assert [row.title for row in rows_of("nobodys")] == ["nobodys"]


@pytest.mark.parametrize("file", sorted((CONFIGS / "rows").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_row_is_a_valid_configuration(file: Path) -> None:
    parser = make_parser(fit, "test")
    parser.instantiate(
        parser.parse_args(["--config", str(CONFIGS / "tiny.yaml"), "--config", str(file), "--data.root", "x"])
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rows", "none"], "mine, "),
        (["--rows", "none"], "rows must be some of"),
        (["--seeds", "a"], "seeds must be numbers"),
        (["--strengths", "-1"], "strengths must be finite numbers"),
        (["--strengths", "1", "--data.root", "."], "strengths needs synthetic people"),
        (["--base", "none.yaml"], "base must be a YAML file"),
    ],
)
def test_bad_options_are_told(
    base: Path, tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(base, tmp_path / "out", *options) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
