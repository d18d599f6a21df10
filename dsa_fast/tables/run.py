"""Trains and tests configurations one after another. Finished runs are not repeated."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.flop_counter import FlopCounterMode

from dsa_fast.configs.augment import AugmentConfig
from dsa_fast.data.people import PeopleSplits
from dsa_fast.data.verify import verify_files
from dsa_fast.device import pick_device
from dsa_fast.evaluation import protocol_scores
from dsa_fast.evaluation.embedding import Embedded, ModelEmbedder, as_tested, branch_slice, embed_people
from dsa_fast.files import atomic_path, read_json, write_json
from dsa_fast.models import GuideConfig, LoadedModel, ModelConfig, load_model
from dsa_fast.training import DataConfig, LossConfig, OptimConfig, TrainerConfig, fit
from dsa_fast.training.data import read_people, read_unlabeled
from dsa_fast.version import __version__

_SCORES = "scores.json"
_MADE_FROM = "made_from.json"  # the options of the rows that a training run began from
ROW = "row:"
"""Prefix of a row's name in `model.pretrained` and `guide.distil_teacher`, as in `row:pretrain`."""
_KINDS: dict[str, Any] = {
    "data": DataConfig,
    "model": ModelConfig,
    "loss": LossConfig,
    "optim": OptimConfig,
    "augment": AugmentConfig,
    "trainer": TrainerConfig,
    "guide": GuideConfig,
}
_SECTIONS = tuple(_KINDS)


@dataclass(frozen=True)
class Training:
    """A training run: a configuration and a seed, with its own folder.

    Attributes:
        config: the configuration's name.
        seed: random seed of weights, batches and transforms.
        out: the run's folder.
        data, model, loss, optim, augment, trainer, guide: arguments of `dsa_fast.training.fit`.
        strength: strength of the people's misalignment in a sweep; None in a table.
    """

    config: str
    seed: int
    out: Path
    data: DataConfig
    model: ModelConfig
    loss: LossConfig
    optim: OptimConfig
    augment: AugmentConfig
    trainer: TrainerConfig
    guide: GuideConfig = field(default_factory=GuideConfig)
    strength: float | None = None

    @property
    def sources(self) -> dict[str, Path]:
        """The checkpoints that this run needs, by row: `row:NAME` in `model.pretrained` and `guide.distil_teacher`.

        They are of the same seed.
        """
        return {
            name: self.out.parent.parent / name / self.out.name / "checkpoints" / "last.ckpt"
            for name in source_rows(self.options)
        }

    @property
    def tested(self) -> bool:
        """Whether the network has features; a backbone that is trained alone has none."""
        return self.model.branches != "none"

    @property
    def options(self) -> dict[str, Any]:
        """All options that affect the scores, in JSON's types."""
        options: dict[str, Any] = {name: asdict(getattr(self, name)) for name in _SECTIONS}
        for name in ("verify", "workers", "store", "cache", "test_batch"):
            del options["data"][name]
        del options["trainer"]["progress"], options["trainer"]["log_every"]
        plain: dict[str, Any] = json.loads(json.dumps({**options, "seed": self.seed}))
        return plain


@dataclass(frozen=True)
class TrainingScores:
    """Scores and costs of a training run.

    Attributes:
        config: the configuration's name.
        seed: the run's seed.
        strength: strength of the people's misalignment in a sweep; None in a table.
        scores: mAP, mINP, R1, R5 and R10 in [0, 1], for each test that the model supports: `mf/both`, `mf/global`,
            `mf/local`, and the same with `fused`. Empty if the model has no features.
        seconds: time of training and test; None if the run was interrupted and resumed.
        images: numbers of training images, identities, queries and gallery images, by name.
        options: all options.
        flops: floating-point operations of the whole training run: those of its first step times the number of steps.
            They include convolutions and matrix products, forward and backward, and a multiply-add counts as two.
            They exclude training runs of other rows that this one needs. None if they were not counted.
    """

    config: str
    seed: int
    strength: float | None
    scores: dict[str, dict[str, float]]
    seconds: float | None
    images: dict[str, int]
    options: dict[str, Any]
    flops: float | None = None


def source_rows(options: dict[str, Any]) -> list[str]:
    """Returns the rows that must be trained before a run with these options, without repetition."""
    model, guide = options.get("model", {}), options.get("guide", {})
    names = [str(model.get("pretrained", "")), str(guide.get("distil_teacher", "")) if guide.get("distil") else ""]
    found = list(dict.fromkeys(name.removeprefix(ROW) for name in names if name.startswith(ROW)))
    if "" in found:
        raise ValueError("row:NAME must have the name of a row, got row:")
    return found


def _is_finished(checkpoint: Path) -> bool:
    """Whether a row's training has ended; `fit` writes the checkpoint after each epoch."""
    return checkpoint.is_file() and (checkpoint.parent.parent / _SCORES).is_file()


def _options_of(checkpoint: Path) -> dict[str, Any]:
    """Returns the options of a finished row's training run."""
    path = checkpoint.parent.parent / _SCORES
    try:
        options = read_json(path)["options"]
        return {section: dict(options[section]) for section in _SECTIONS} | {"seed": options["seed"]}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} must be the scores of a training run, got: {type(error).__name__} {error}") from error


def _check_made_from(training: Training, *, keep: bool) -> None:
    """Checks that the rows that a run needs have the options with which it began, and notes them if it begins now."""
    if not training.sources:
        return
    path = training.out / _MADE_FROM
    now = {name: _options_of(checkpoint) for name, checkpoint in training.sources.items()}
    before = read_json(path) if keep and path.exists() else {}
    for name, options in now.items():
        changed = _changes(before[name], options) if name in before else []
        if changed:
            raise ValueError(
                f"out must be another folder when options change: {training.out} has a training run that began from a "
                f"{name} in which " + "; ".join(changed)
            )
    if not keep:
        write_json(path, now)


def _changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Lists the options that differ. An earlier version without an option behaved like its current default."""
    changed = [] if before["seed"] == now["seed"] else [f"seed was {before['seed']} and is {now['seed']}"]
    for section, kind in _KINDS.items():
        defaults = {item.name: item.default for item in fields(kind)}
        old = json.loads(json.dumps(defaults, default=str)) | before.get(section, {})
        changed += [
            f"{section}.{name} was {old[name]!r} and is {value!r}"
            for name, value in now[section].items()
            if old[name] != value
        ]
    return changed


def check_rows(trainings: Sequence[Training]) -> None:
    """Checks that each row that another needs is trained or comes earlier in the list, and that it fits.

    Raises:
        ValueError: a row is missing, is not finished, or does not fit; the message names it.
    """
    earlier: dict[Path, Training] = {}
    for training in trainings:
        for name, checkpoint in training.sources.items():
            if name == training.config:
                raise ValueError(f"row:NAME must be the name of another row, got row:{name} for {training.config}")
            if checkpoint not in earlier and not _is_finished(checkpoint):
                raise ValueError(
                    f"rows must have {name} before {training.config}, which needs it, got no {name} before it, and "
                    f"no finished training run of {name} in {checkpoint.parent.parent}"
                )
            model = (earlier[checkpoint].options if checkpoint in earlier else _options_of(checkpoint))["model"]
            if training.guide.distil_teacher == ROW + name and model["branches"] == "none":
                raise ValueError(f"guide.distil_teacher must be a row with features, got row:{name}")
            if training.model.pretrained != ROW + name:
                continue
            for option in ("backbone",) if training.model.backbone.startswith("timm/") else ("backbone", "width"):
                if getattr(training.model, option) != model[option]:
                    raise ValueError(
                        f"model.{option} must be that of {name}, whose backbone {training.config} starts from, "
                        f"{model[option]}, got {getattr(training.model, option)}"
                    )
            if training.model.pretrained_heads:
                raise ValueError(
                    f"model.pretrained_heads must be false for {training.config}, which takes only the backbone of "
                    f"{name}, got true"
                )
        earlier[training.out / "checkpoints" / "last.ckpt"] = training


def run_trainings(
    trainings: Sequence[Training],
    *,
    done: Callable[[Training, TrainingScores, bool], None],
    advance: Callable[[int], None] = lambda epochs: None,
) -> list[TrainingScores]:
    """Trains and tests, in the given order.

    Does not repeat a run if its folder contains its scores. Resumes an interrupted run after its last finished epoch,
    with the same results as an uninterrupted run.

    Args:
        trainings: the training runs.
        done: called after each run with its scores and whether they existed already.
        advance: called with the number of epochs finished since the last call.

    Raises:
        ValueError: a folder contains a run with other options; or see `fit`.
        FileNotFoundError: a row that another needs has no checkpoint; or see `fit`.
    """
    found = []
    for training in trainings:
        kept = _finished(training)
        if kept is not None:
            advance(training.trainer.max_epochs)
            scores = kept
        else:
            scores = _train_and_test(training, advance)
        done(training, scores, kept is not None)
        found.append(scores)
    return found


def _finished(training: Training) -> TrainingScores | None:
    path = training.out / _SCORES
    if not path.exists():
        return None
    if all(map(_is_finished, training.sources.values())):
        _check_made_from(training, keep=True)
    about = read_json(path)
    try:
        return _kept(path, about, training)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} must be the scores of a training run, got: {type(error).__name__} {error}") from error


def _kept(path: Path, about: Any, training: Training) -> TrainingScores:
    changed = _changes(about["options"], training.options)
    if changed:
        raise ValueError(
            f"out must be another folder when options change: {path} has the scores of a training run in which "
            + "; ".join(changed)
        )
    names = ("config", "seed", "strength", "scores", "seconds", "images", "options")
    return TrainingScores(**{name: about[name] for name in names}, flops=about.get("flops"))


class _Epochs(Callback):
    """Reports each finished epoch, including those that a resumed run finished earlier."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self._advance = advance

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.current_epoch:
            self._advance(trainer.current_epoch)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._advance(1)


class _Flops(Callback):
    """Counts a run's floating-point operations: those of its first step times the number of steps."""

    def __init__(self) -> None:
        self.total: float | None = None
        self._counter: FlopCounterMode | None = None

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.total is None:
            self._counter = FlopCounterMode(display=False)
            self._counter.__enter__()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._counter is not None:
            self._counter.__exit__(None, None, None)
            steps = trainer.num_training_batches * (trainer.max_epochs or 1) * trainer.world_size
            self.total, self._counter = float(self._counter.get_total_flops() * steps), None


def _train_and_test(training: Training, advance: Callable[[int], None]) -> TrainingScores:
    data = training.data
    people = read_people(data) if training.tested else read_unlabeled(data)
    if data.verify:  # once for all runs
        everybody = [*people.train, *people.query, *people.gallery]
        stamp = "verified.json" if training.tested else "verified_unlabeled.json"
        verify_files(everybody, iuv_order=data.iuv_order, stamp=training.out.parent.parent / stamp)
    model, guide, flops = training.model, training.guide, _Flops()
    for name, checkpoint in training.sources.items():
        if not _is_finished(checkpoint):
            raise FileNotFoundError(
                f"the row {name} must be trained to its end before {training.config}: no finished training run in "
                f"{checkpoint.parent.parent}"
            )
        if model.pretrained == ROW + name:
            model = replace(model, pretrained=str(checkpoint))
        if guide.distil_teacher == ROW + name:
            guide = replace(guide, distil_teacher=str(checkpoint))
    start = time.perf_counter()
    resume = (training.out / "checkpoints" / "last.ckpt").exists()
    _check_made_from(training, keep=resume)
    result = fit(
        replace(data, verify=False),
        model,
        training.loss,
        training.optim,
        training.augment,
        replace(training.trainer, eval_every=0, progress=False),
        training.out,
        resume,
        training.seed,
        callbacks=[_Epochs(advance), *([flops] if training.trainer.compile == "off" else [])],
        guide=guide,
    )
    scores = {}
    if training.tested:
        loaded = load_model(result.checkpoint)
        kind = training.trainer.accelerator
        place = pick_device("cuda" if kind in ("gpu", "cuda") else kind if kind == "cpu" else "auto")
        loaded.model.to(place)
        scores = test_all(loaded, people, data, place)
    images = {
        "train": len(people.train),
        "identities": len({person.pid for person in people.train}) if training.tested else 0,
        "query": len(people.query),
        "gallery": len(people.gallery),
    }
    seconds = None if resume else round(time.perf_counter() - start, 1)
    about = TrainingScores(
        training.config, training.seed, training.strength, scores, seconds, images, training.options, flops.total
    )
    versions = {"dsa_fast": __version__, "torch": torch.__version__}
    with atomic_path(training.out / _SCORES) as temporary:
        temporary.write_text(json.dumps({**asdict(about), "versions": versions}, indent=2) + "\n")
    return about


def test_all(
    loaded: LoadedModel,
    people: PeopleSplits,
    data: DataConfig,
    device: torch.device,
) -> dict[str, dict[str, float]]:
    """Computes the scores of each test that the model supports, as in `TrainingScores.scores`."""
    scores = {}
    maps = all(person.iuv_path is not None for person in (*people.query, *people.gallery))
    streams: list[Literal["mf", "fused"]] = ["mf"]
    if loaded.model.dsag_stream is not None and maps:
        streams.append("fused")
    for stream in streams:
        embedder = ModelEmbedder(loaded, fused=stream == "fused", device=device)
        both = [
            as_tested(
                embed_people(embedder, part, iuv_order=data.iuv_order, batch=data.test_batch, workers=data.workers),
                part,
                people,
            )
            for part in (people.query, people.gallery)
        ]
        names: list[Literal["both", "global", "local"]] = ["both"]
        if loaded.model.branches == "both":
            names += ["global", "local"]
        for name in names:
            place = branch_slice(loaded.model, name)
            # A slice of test vectors is the branch's own test vector: each half has length 1.
            parts = [Embedded(part.features[:, place].contiguous(), part.pids, part.camids) for part in both]
            scores[f"{stream}/{name}"] = protocol_scores(parts[0], parts[1], people)
    return scores
