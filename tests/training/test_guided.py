"""Guided training runs: reproducible, resumable, rejected without the required inputs. Held-out identities."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from dsa_fast.data.registry import read_dataset
from dsa_fast.data.synth import SynthConfig, make_dataset
from dsa_fast.models import GuideConfig, load_model
from dsa_fast.ops.train_transform import TrainInputs, train_transform
from dsa_fast.training import DataConfig, LossConfig, fit
from dsa_fast.training.data import hold_out, read_people
from tests.data.trees import make_tree
from tests.training.processes import GUIDE
from tests.training.small import AUGMENT, MODEL, TRAINER, Interrupt, Stop, config, losses

ALL = replace(GUIDE, dense_scale=2, distil_teacher="ema")
ALONE = replace(MODEL, dsag=False)


def test_a_resumed_guided_run_equals_an_uninterrupted_one(people: Path, tmp_path: Path) -> None:
    options = {"augment": AUGMENT, "trainer": TRAINER, "guide": ALL}
    whole = fit(config(people), MODEL, out=tmp_path / "whole", **options)  # type: ignore[arg-type]
    with pytest.raises(Stop):
        fit(config(people), MODEL, out=tmp_path / "cut", callbacks=[Interrupt()], **options)  # type: ignore[arg-type]
    other = {**options, "guide": replace(ALL, drop=0.25)}
    with pytest.raises(ValueError, match=r"guide.drop was 0.5 and is 0.25"):
        fit(config(people), MODEL, out=tmp_path / "cut", resume=True, **other)  # type: ignore[arg-type]
    longer = {**options, "trainer": replace(TRAINER, max_epochs=4)}
    with pytest.raises(ValueError, match=r"trainer.max_epochs was 3 and is 4"):  # the fade depends on the last epoch
        fit(config(people), MODEL, out=tmp_path / "cut", resume=True, **longer)  # type: ignore[arg-type]
    resumed = fit(config(people), MODEL, out=tmp_path / "cut", resume=True, **options)  # type: ignore[arg-type]
    assert losses(resumed.log) == losses(whole.log)
    a, b = (torch.load(run.checkpoint, weights_only=True)["state_dict"] for run in (whole, resumed))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert any(name.startswith("average.") for name in a) and any(name.startswith("guides.") for name in a)


def test_guides_are_in_no_loaded_model(people: Path, tmp_path: Path) -> None:
    trainer = replace(TRAINER, max_epochs=1, eval_every=0)
    plain = fit(config(people), ALONE, augment=AUGMENT, trainer=trainer, out=tmp_path / "plain")
    guide = GuideConfig(dense=1.0, focus=1.0, parts=1.0, stripes=1.0, distil=1.0, distil_teacher="ema")
    guided = fit(config(people), ALONE, augment=AUGMENT, trainer=trainer, out=tmp_path / "guided", guide=guide)
    a, b = (load_model(run.checkpoint).model.state_dict() for run in (plain, guided))
    assert a.keys() == b.keys()
    assert not torch.equal(a["mf_stream.backbone.conv1.weight"], b["mf_stream.backbone.conv1.weight"])


def test_the_average_moves_once_a_step(people: Path, tmp_path: Path) -> None:
    moved = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer, task, outputs, batch, batch_index) -> None:
            moved.append((trainer.global_step, task.average.mf_stream.backbone.conv1.weight.clone()))

    guide = GuideConfig(distil=1.0, distil_teacher="ema", distil_decay=0.1)
    trainer = replace(TRAINER, max_epochs=1, eval_every=0, accumulate=2)
    fit(config(people), MODEL, augment=AUGMENT, trainer=trainer, out=tmp_path, guide=guide, callbacks=[Watch()])
    assert len(moved) > 2 and moved[-1][0] == -(-len(moved) // 2)
    for (step, before), (next_step, after) in itertools.pairwise(moved):
        assert torch.equal(before, after) == (step == next_step)


@pytest.mark.parametrize(
    "guide",
    [
        GuideConfig(dense=1.0),
        GuideConfig(parts=1.0),
        GuideConfig(stripes=1.0),
        GuideConfig(drop=1.0),
        GuideConfig(fade=1.0),
        GuideConfig(detach=True, distil=1.0),
        GuideConfig(distil=1.0, distil_teacher="ema"),
    ],
)
def test_a_guide_changes_the_training(people: Path, tmp_path: Path, guide: GuideConfig) -> None:
    trainer = replace(TRAINER, max_epochs=2, eval_every=0)
    plain, guided = (
        fit(config(people), MODEL, augment=AUGMENT, trainer=trainer, out=tmp_path / name, guide=each)
        for name, each in (("plain", None), ("guided", guide))
    )
    assert losses(plain.log) != losses(guided.log)
    a, b = (load_model(run.checkpoint).model.mf_stream.state_dict() for run in (plain, guided))
    assert not torch.equal(a["backbone.conv1.weight"], b["backbone.conv1.weight"])


def test_classifiers_of_regions_are_like_the_others(people: Path, tmp_path: Path) -> None:
    seen = []

    class Watch(Callback):
        def on_train_start(self, trainer, task) -> None:
            seen.append((task.guides.label_smoothing, task.guides.classifiers["stripes"].fc1.weight.shape[-2:]))
            seen.append((task.loss.label_smoothing, task.model.classify_f_local.fc1.weight.shape[-2:]))

    trainer, loss = replace(TRAINER, max_epochs=1, eval_every=0), LossConfig(label_smoothing=0.2)
    guide = GuideConfig(stripes=1.0)
    fit(config(people), ALONE, loss, augment=AUGMENT, trainer=trainer, out=tmp_path, guide=guide, callbacks=[Watch()])
    (smoothing, shape), (others, their_shape) = seen
    assert smoothing == others == 0.2 and MODEL.classifier_dim in shape and MODEL.classifier_dim in their_shape


def test_focus_changes_the_training(tmp_path: Path) -> None:
    """Uses people whose maps have each part in one place. In noise maps, every place has every part."""
    make_dataset(tmp_path / "people", SynthConfig(identities=4, cameras=2, images_per_camera=2, height=64, width=32))
    settings, trainer = replace(AUGMENT, size=(64, 32)), replace(TRAINER, max_epochs=2, eval_every=0)
    plain, guided = (
        fit(config(tmp_path / "people"), ALONE, augment=settings, trainer=trainer, out=tmp_path / name, guide=each)
        for name, each in (("plain", None), ("guided", GuideConfig(focus=1.0)))
    )
    assert losses(plain.log) != losses(guided.log)


def test_a_frozen_teacher_teaches(people: Path, tmp_path: Path) -> None:
    trainer = replace(TRAINER, eval_every=0)
    teacher = fit(config(people), MODEL, augment=AUGMENT, trainer=trainer, out=tmp_path / "teacher").checkpoint
    before = teacher.read_bytes()
    guide = GuideConfig(distil=1.0, distil_teacher=str(teacher), distil_features=1.0)
    student = fit(config(people), ALONE, augment=AUGMENT, trainer=trainer, out=tmp_path / "student", guide=guide)
    assert teacher.read_bytes() == before
    saved = torch.load(student.checkpoint, weights_only=True)["state_dict"]
    assert saved.keys() == {f"model.{name}" for name in load_model(student.checkpoint).model.state_dict()}
    text = student.log.read_text().splitlines()[0]
    assert "loss/distil_logits_global" in text and "loss/distil_features_local" in text

    narrow = replace(ALONE, width=0.25)
    with pytest.raises(ValueError, match=r"guide.distil_features needs a teacher with features of the same lengths"):
        fit(config(people), narrow, augment=AUGMENT, trainer=trainer, out=tmp_path / "a", guide=guide)
    fit(
        config(people),
        narrow,
        augment=AUGMENT,
        trainer=replace(trainer, max_epochs=1),
        out=tmp_path / "b",
        guide=replace(guide, distil_features=0.0),
    )
    larger = replace(AUGMENT, size=(64, 32))
    with pytest.raises(ValueError, match=r"the same image size as this training run, \(64, 32\), got \(32, 16\)"):
        fit(config(people), ALONE, augment=larger, trainer=trainer, out=tmp_path / "c", guide=guide)
    held = replace(config(people), validation_ids=1)
    with pytest.raises(ValueError, match=r"the same identities as this training run, 3, got 4"):
        fit(held, ALONE, augment=AUGMENT, trainer=trainer, out=tmp_path / "d", guide=guide)
    missing = replace(guide, distil_teacher=str(tmp_path / "none.ckpt"))
    with pytest.raises(FileNotFoundError):
        fit(config(people), ALONE, augment=AUGMENT, trainer=trainer, out=tmp_path / "e", guide=missing)


@pytest.mark.parametrize(
    ("model", "guide", "message"),
    [
        (ALONE, GuideConfig(drop=0.5), "guide.drop needs fused features"),
        (ALONE, GuideConfig(fade=0.5), "guide.fade needs fused features"),
        (replace(MODEL, kind="baseline"), GuideConfig(detach=True), "guide.detach needs fused features"),
        (ALONE, GuideConfig(distil=1.0), "guide.distil_teacher must be a checkpoint or 'ema'"),
        (replace(MODEL, branches="global"), GuideConfig(focus=1.0), "guide.focus needs local branches"),
    ],
)
def test_guides_without_use_are_refused(people: Path, tmp_path: Path, model, guide, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(config(people), model, augment=AUGMENT, trainer=TRAINER, out=tmp_path, guide=guide)


@pytest.mark.parametrize("guide", [GuideConfig(dense=1.0), GuideConfig(focus=1.0), GuideConfig(parts=1.0)])
def test_guides_without_maps_are_refused(tmp_path: Path, guide: GuideConfig) -> None:
    names = [f"{pid:04}_c{cam}s1_000000_00.png" for pid in (2, 5) for cam in (1, 2)]
    tree = {"bounding_box_train": names, "query": ["0003_c1_0.png"], "bounding_box_test": ["0003_c2_0.png"]}
    bare = make_tree(tmp_path / "people", tree, iuv=False)
    with pytest.raises(ValueError, match="needs IUV maps of the training images, got none"):
        fit(config(bare), ALONE, augment=AUGMENT, trainer=TRAINER, out=tmp_path / "run", guide=guide)


# The input


@pytest.mark.parametrize(
    ("model", "loss", "guide", "size", "grid"),
    [
        (ALONE, LossConfig(), GuideConfig(dense=1.0, dense_scale=4), 0, (8, 4)),
        (ALONE, LossConfig(), GuideConfig(focus=1.0, dense_scale=2), 0, (4, 2)),
        (ALONE, LossConfig(), GuideConfig(parts=1.0, dense_scale=1), 0, (2, 1)),
        (ALONE, LossConfig(), GuideConfig(stripes=1.0), 0, None),
        (ALONE, LossConfig(), GuideConfig(), 0, None),
        (ALONE, LossConfig(visibility=0.5), GuideConfig(dense=1.0), 16, (8, 4)),
        (MODEL, LossConfig(), GuideConfig(dense=1.0), 16, (8, 4)),
        (MODEL, LossConfig(), GuideConfig(), 16, None),
    ],
)
def test_only_what_is_read_is_made(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model, loss, guide, size: int, grid
) -> None:
    """Without a reader of part images, the warp is left out. Guides get the map at their resolution."""
    asked = asked_for(monkeypatch)
    trainer = replace(TRAINER, max_epochs=1, eval_every=0)
    fit(config(people), model, loss, augment=AUGMENT, trainer=trainer, out=tmp_path, guide=guide)
    assert asked and set(asked) == {(size, grid)}


@pytest.mark.parametrize("dsag", [False, True])
def test_a_teacher_gets_the_parts_of_the_student(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dsag: bool
) -> None:
    trainer = replace(TRAINER, max_epochs=1, eval_every=0)
    model = replace(MODEL, dsag=dsag)
    teacher = fit(config(people), model, augment=AUGMENT, trainer=trainer, out=tmp_path / "teacher").checkpoint
    asked = asked_for(monkeypatch)
    guide = GuideConfig(distil=1.0, distil_teacher=str(teacher))
    fit(config(people), ALONE, augment=AUGMENT, trainer=trainer, out=tmp_path / "student", guide=guide)
    assert asked[:2] == [(16 if dsag else 0, None), (0, None)] and asked == asked[:2] * (len(asked) // 2)


def asked_for(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, tuple[int, int] | None]]:
    """Lists the sizes of parts and maps that later steps ask of the transform."""
    asked: list[tuple[int, tuple[int, int] | None]] = []

    def record(*arguments: Tensor, **options: Any) -> TrainInputs:
        asked.append((options["dsap_size"], options["grid"]))
        return train_transform(*arguments, **options)

    monkeypatch.setattr("dsa_fast.data.transforms.train_transform", record)
    return asked


# Identities held out


def test_held_out_identities(people: Path) -> None:
    everybody = read_dataset(people, check_counts=False)
    held = hold_out(everybody, 2, seed=5)
    pids = {person.pid for person in held.query}
    assert len(pids) == 2 and pids == {person.pid for person in held.gallery}
    assert not pids & {person.pid for person in held.train}
    assert {person.path for person in (*held.train, *held.query, *held.gallery)} == {p.path for p in everybody.train}
    for person in held.query:  # the first image of each person and camera
        same = [p.path for p in everybody.train if (p.pid, p.camid) == (person.pid, person.camid)]
        assert person.path == same[0]
    assert len(held.query) == len({(p.pid, p.camid) for p in held.query}) == 4
    again = hold_out(everybody, 2, seed=5)
    assert (again.train, again.query, again.gallery) == (held.train, held.query, held.gallery)
    others = [{p.pid for p in hold_out(everybody, 2, seed=seed).query} for seed in range(8)]
    assert any(other != pids for other in others)
    for number in (0, 4):
        with pytest.raises(ValueError, match=r"validation_ids must be from 1 to 3, .* got"):
            hold_out(everybody, number)


def test_an_identity_of_one_camera_is_not_held_out(tmp_path: Path) -> None:
    names = [f"{pid:04}_c{cam}s1_{i:06}_00.png" for pid in (2, 5, 9) for cam in (1, 2) for i in range(2)]
    names += [f"0007_c1s1_{i:06}_00.png" for i in range(4)]
    tree = {"bounding_box_train": names, "query": ["0003_c1_0.png"], "bounding_box_test": ["0003_c2_0.png"]}
    everybody = read_dataset(make_tree(tmp_path / "people", tree), check_counts=False)
    for seed in range(5):
        assert 7 in {person.pid for person in hold_out(everybody, 2, seed).train}


def test_a_run_tests_on_held_out_identities(people: Path, tmp_path: Path) -> None:
    held = replace(config(people), validation_ids=2)
    result = fit(held, ALONE, augment=AUGMENT, trainer=TRAINER, out=tmp_path, loss=LossConfig())
    assert load_model(result.checkpoint).model.num_ids == 2
    assert {p.pid for p in read_people(held).query} <= {2, 5, 9, 11}
    with pytest.raises(ValueError, match="two ways to test"):
        DataConfig(str(people), validation_ids=2, test_root=str(people))
