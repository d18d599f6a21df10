"""A backbone that is trained alone with maps, without identities, and runs that start from it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Callback
from PIL import Image
from torch import Tensor

from dsa_fast.cli import main
from dsa_fast.data.registry import read_dataset
from dsa_fast.data.synth import SynthConfig, make_dataset
from dsa_fast.models import GuideConfig, load_model
from dsa_fast.models.backbone import make_backbone
from dsa_fast.models.baselines import Baseline
from dsa_fast.models.mf_stream import MFStream
from dsa_fast.training import DataConfig, FitResult, OptimConfig, fit
from dsa_fast.training.data import read_people, read_unlabeled
from tests.training.small import AUGMENT, MODEL, TRAINER, Interrupt, Stop, config, losses

ALONE = replace(MODEL, branches="none", dsag=False)
DENSE = GuideConfig(dense=1.0, dense_scale=2, dense_channels=8)


def pretrain(data: DataConfig, out: Path, **more: Any) -> FitResult:
    return fit(data, ALONE, guide=DENSE, out=out, **{"trainer": TRAINER, "augment": AUGMENT, **more})


def weights(run: FitResult) -> dict[str, Tensor]:
    return dict(torch.load(run.checkpoint, weights_only=True)["state_dict"])


@pytest.fixture(scope="module")
def pretrained(people: Path, tmp_path_factory: pytest.TempPathFactory) -> FitResult:
    return pretrain(config(people), tmp_path_factory.mktemp("pretrained") / "run")


def test_only_the_backbone_and_the_decoder_are_trained(pretrained: FitResult) -> None:
    state = weights(pretrained)
    assert {name.split(".")[0] for name in state} == {"model", "guides"}
    assert all(name.startswith(("model.mf_stream.backbone.", "guides.decoder.")) for name in state)
    header = pretrained.log.read_text().splitlines()[0].split(",")
    assert {name for name in header if name.startswith("loss")} == {"loss", "loss/dense_part", "loss/dense_uv"}
    assert not pretrained.scores
    # The options stay as they were given: without `branches`, the same file trains with identities.
    options = yaml.safe_load((pretrained.checkpoint.parents[1] / "config.yaml").read_text())
    assert options["trainer"]["eval_every"] == TRAINER.eval_every and options["loss"]["triplet"] == 1.5


def test_each_epoch_draws_the_predicted_parts(people: Path, pretrained: FitResult, tmp_path: Path) -> None:
    folder = pretrained.checkpoint.parents[1] / "log" / "pictures"
    assert sorted(file.name for file in folder.iterdir()) == [f"predicted_{epoch:04d}.png" for epoch in (1, 2, 3)]
    with Image.open(folder / "predicted_0003.png") as picture:
        assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 100
    without = pretrain(config(people), tmp_path, trainer=replace(TRAINER, pictures=0))
    assert not (without.log.parent / "pictures").exists()
    a, b = weights(without), weights(pretrained)
    assert all(torch.equal(a[name], b[name]) for name in a)  # drawing changes nothing


def test_it_learns_the_parts(tmp_path: Path) -> None:
    make_dataset(tmp_path / "rendered", SynthConfig(identities=8, height=64, width=32), workers=1)
    data = replace(config(tmp_path / "rendered"), p=8, k=2)
    augment, optim = replace(AUGMENT, size=(64, 32)), OptimConfig(lr=5e-3, warmup_epochs=1.0, schedule="cosine")
    run = pretrain(data, tmp_path / "run", trainer=replace(TRAINER, max_epochs=24), augment=augment, optim=optim)
    values = [float(loss) for _, loss in losses(run.log)]
    assert sum(values[-4:]) < 0.75 * sum(values[:4])


def test_identities_are_not_read(people: Path, pretrained: FitResult, tmp_path: Path) -> None:
    """The same images in a plain folder give the same weights."""
    plain = tmp_path / "plain"
    shutil.copytree(people / "bounding_box_train", plain)
    shutil.copytree(people / "iuv" / "bounding_box_train", plain / "iuv")
    images = [person.path.name for person in read_unlabeled(config(people)).train]
    assert [person.path.name for person in read_unlabeled(DataConfig(str(plain))).train] == images
    a, b = weights(pretrain(config(plain), tmp_path / "run")), weights(pretrained)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_resumed_run_equals_an_uninterrupted_one(people: Path, pretrained: FitResult, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        pretrain(config(people), tmp_path, callbacks=[Interrupt()])
    resumed = pretrain(config(people), tmp_path, resume=True)
    assert losses(resumed.log) == losses(pretrained.log)
    a, b = weights(resumed), weights(pretrained)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_images_without_a_map_are_left_out(people: Path, tmp_path: Path) -> None:
    some = tmp_path / "some"
    shutil.copytree(people, some, ignore=shutil.ignore_patterns(".dsa_fast"))
    train = read_dataset(some).train
    for person in train[::2]:
        assert person.iuv_path is not None
        person.iuv_path.unlink()
    left = read_unlabeled(config(some)).train
    assert [person.path for person in left] == [person.path for person in train[1::2]]
    assert sorted(person.pid for person in left) == list(range(1, len(left) + 1))
    shutil.rmtree(some / "iuv")
    with pytest.raises(ValueError, match=r"data.root must hold images with IUV maps, got none of .*dsa-fast prepare"):
        read_unlabeled(config(some))
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read_unlabeled(config(tmp_path / "nowhere"))


def test_held_out_people_are_left_out(people: Path) -> None:
    """They are to be tested on, so not even their images may be seen."""
    data = replace(config(people), validation_ids=1)
    held = {person.path for person in read_people(data).query} | {person.path for person in read_people(data).gallery}
    left = {person.path for person in read_unlabeled(data).train}
    assert held and not held & left
    assert held | left == {person.path for person in read_unlabeled(config(people)).train}


def test_test_images_of_person_folders_are_left_out(people: Path, tmp_path: Path) -> None:
    data = read_dataset(people)
    for split, persons in (("train", data.train), ("query", data.query), ("gallery", data.gallery)):
        for person in persons:
            if person.pid > 0:
                place = tmp_path / "folders" / split / f"{person.pid}" / person.path.name
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(person.path, place)
                mapped = tmp_path / "folders" / "iuv" / split / place.parent.name / f"{place.stem}.png"
                mapped.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(data.train[0].iuv_path or "", mapped)
    left = read_unlabeled(config(tmp_path / "folders")).train
    assert {person.path.name for person in left} == {person.path.name for person in data.train}


def test_maps_of_a_plain_folder(people: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(people / "bounding_box_train", plain / "deep" / "er")
    shutil.copytree(people / "iuv" / "bounding_box_train", plain / "iuv" / "deep" / "er")
    data = DataConfig(str(plain), name="folder")
    images = len(list((plain / "deep" / "er").iterdir()))
    assert len(read_unlabeled(data).train) == images
    assert main(["pack", str(plain), "--out", str(tmp_path / "maps.dsaiuv")]) == 0
    shutil.rmtree(plain / "iuv")
    assert len(read_unlabeled(replace(data, iuv=str(tmp_path / "maps.dsaiuv"))).train) == images
    with pytest.raises(ValueError, match=rf"got none of {images} in "):
        read_unlabeled(data)
    with pytest.raises(FileNotFoundError, match="iuv must be the folder of the IUV maps"):
        read_unlabeled(replace(data, iuv=str(tmp_path / "nowhere")))
    with pytest.raises(FileNotFoundError, match="data.root must be a folder with data.name folder"):
        read_unlabeled(replace(data, root=str(tmp_path / "nowhere")))
    with pytest.raises(ValueError, match="data.validation_ids must be 0 for a plain folder"):
        read_unlabeled(replace(data, validation_ids=1))


def test_the_plain_baseline_takes_its_backbone(pretrained: FitResult) -> None:
    model = Baseline(3, backbone="resnet18", width=MODEL.width, pretrained=pretrained.checkpoint)
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    assert all(torch.equal(state[n], v) for n, v in weights(pretrained).items() if n.startswith("model."))


def test_a_run_starts_from_its_backbone(people: Path, pretrained: FitResult, tmp_path: Path) -> None:
    started = {}

    class Look(Callback):
        def on_train_start(self, trainer, task) -> None:
            started.update({name: value.clone() for name, value in task.model.state_dict().items()})

    model = replace(MODEL, dsag=False, pretrained=str(pretrained.checkpoint))
    trainer = replace(TRAINER, max_epochs=1, eval_every=1)
    run = fit(config(people), model, augment=AUGMENT, trainer=trainer, out=tmp_path, callbacks=[Look()])
    before = weights(pretrained)
    names = [name for name in started if name.startswith("mf_stream.backbone.")]
    assert names and all(torch.equal(started[name], before[f"model.{name}"]) for name in names)
    assert run.scores and load_model(run.checkpoint).model.branches == "both"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"backbone": "resnet34"}, "network with backbone resnet34, got resnet18"),
        ({"width": 0.25}, "network with width 0.25, got 0.125"),
        ({"pretrained_heads": True}, "pretrained_heads needs weights of a whole network"),
    ],
)
def test_a_backbone_that_does_not_fit_is_refused(pretrained: FitResult, options: dict[str, Any], words: str) -> None:
    given = {"backbone": MODEL.backbone, "width": MODEL.width, "pretrained": pretrained.checkpoint, **options}
    with pytest.raises(ValueError, match=words):
        MFStream(**given)


def test_a_broken_checkpoint_is_refused(pretrained: FitResult, tmp_path: Path) -> None:
    whole = torch.load(pretrained.checkpoint, weights_only=True)
    del whole["state_dict"]["model.mf_stream.backbone.conv1.weight"]
    torch.save(whole, tmp_path / "less.ckpt")
    with pytest.raises(ValueError, match=r"does not fit this network: 1 missing: conv1.weight"):
        make_backbone("resnet18", width=MODEL.width, pretrained=tmp_path / "less.ckpt")
    for value in (torch.full((8, 3, 7, 7), torch.nan), "text"):
        whole["state_dict"]["model.mf_stream.backbone.conv1.weight"] = value
        whole["state_dict"][5] = 7
        torch.save(whole, tmp_path / "odd.ckpt")
        with pytest.raises(ValueError, match=r"must hold finite weights, got others for conv1.weight"):
            make_backbone("resnet18", width=MODEL.width, pretrained=tmp_path / "odd.ckpt")
    whole["dsa_fast"]["model"]["trunk"] = whole["dsa_fast"]["model"].pop("backbone")
    torch.save(whole, tmp_path / "old.ckpt")
    with pytest.raises(ValueError, match=r"with backbone resnet18, got an earlier version's"):
        make_backbone("resnet18", width=MODEL.width, pretrained=tmp_path / "old.ckpt")
    (tmp_path / "cut.ckpt").write_bytes(pretrained.checkpoint.read_bytes()[:1000])
    with pytest.raises(ValueError, match="not a file of tensors"):
        make_backbone("resnet18", pretrained=tmp_path / "cut.ckpt")


def test_it_has_no_features(people: Path, pretrained: FitResult, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"checkpoint must have features.*fit --model.pretrained"):
        load_model(pretrained.checkpoint)
    assert main(["eval", str(pretrained.checkpoint), str(people)]) == 1
    assert "must have features" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("guide", "words"),
    [
        (GuideConfig(), "guide.dense must be above 0"),
        (GuideConfig(dense=1.0, parts=1.0), "guide.parts, guide.stripes and guide.distil must be 0"),
        (GuideConfig(dense=1.0, focus=1.0), "guide.focus needs local branches"),
    ],
)
def test_other_guides_are_refused(people: Path, tmp_path: Path, guide: GuideConfig, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        fit(config(people), ALONE, augment=AUGMENT, trainer=TRAINER, guide=guide, out=tmp_path / "run")
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.parametrize("option", ["dsag", "bnneck", "pretrained_heads"])
def test_options_of_features_are_refused(option: str) -> None:
    with pytest.raises(ValueError, match=f"^model.{option} must be false with model.branches none"):
        replace(ALONE, **{option: True})  # type: ignore[arg-type]


def test_the_command_names_the_next_one(people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--augment.size=[32, 16]", "--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--data.workers=0"]
    assert (
        main(["fit", "--config=tiny", "--config=pretrain", f"--data.root={people}", f"--out={tmp_path}", *small]) == 0
    )
    out = "".join(capsys.readouterr().out.split())
    assert "Nottested:abackbonealonehasnofeatures" in out
    assert "--model.backboneresnet18--model.width0.25--augment.size'[32,16]'--model.pretrained" in out
