"""A whole training run: folders, checkpoints, logs, resuming."""

from __future__ import annotations

import csv
import logging
import signal
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import lightning
import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import (
    Callback,
    EMAWeightAveraging,
    LearningRateMonitor,
    ModelCheckpoint,
    RichProgressBar,
)
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only
from rich.table import Table

from dsa_fast.configs import read_yaml
from dsa_fast.configs.augment import AugmentConfig
from dsa_fast.configs.training import DataConfig, LossConfig, OptimConfig, TrainerConfig
from dsa_fast.files import atomic_path, locked, utf8_name
from dsa_fast.models import GuideConfig, ModelConfig
from dsa_fast.terminal import console as open_console
from dsa_fast.terminal import counted, duration
from dsa_fast.training.checkpoints import LAST, StopIfNotFinite, SyncedCheckpoints, find_last
from dsa_fast.training.data import ReIDData
from dsa_fast.training.loggers import Pictures, finish, make_loggers
from dsa_fast.training.module import ReIDTask, start_from


@dataclass(frozen=True)
class FitResult:
    """Files of a training run, and its last evaluation.

    Attributes:
        checkpoint: model and training state after the last epoch.
        log: CSV of all logged values.
        scores: mAP, mINP, R1, R5, R10 of the last evaluation, in [0, 1]; empty without an evaluation.
        testable: whether the data set has query and gallery.
    """

    checkpoint: Path
    log: Path
    scores: dict[str, float]
    testable: bool = True


def fit(
    data: DataConfig,
    model: ModelConfig | None = None,
    loss: LossConfig | None = None,
    optim: OptimConfig | None = None,
    augment: AugmentConfig | None = None,
    trainer: TrainerConfig | None = None,
    out: Path | str = Path("runs/fit"),
    resume: bool = False,
    seed: int = 0,
    init: Path | str | None = None,
    callbacks: Sequence[Callback] = (),
    guide: GuideConfig | None = None,
) -> FitResult:
    """Trains a model and evaluates it on query and gallery.

    With `model.branches` none, it trains the backbone alone with `guide.dense`: without identities, ID losses and
    evaluation; see `read_unlabeled`.

    Writes into `out`: `checkpoints/last.ckpt` (after each epoch), `config.yaml` (all options; `dsa-fast fit --config`
    reads it), `log/metrics.csv`, `log/pictures` and the files of `trainer.logger`.

    Args:
        data: the people; see `DataConfig`.
        model: the network; see `ModelConfig`.
        loss: weights of the losses; see `LossConfig`.
        optim: optimizer and learning rate; see `OptimConfig`.
        augment: the transform of training images; see `AugmentConfig`.
        trainer: epochs, devices, precision and other options of the run; see `TrainerConfig`.
        out: folder for the run's files.
        resume: continues after the last finished epoch of the run in `out`; gives the same results as an uninterrupted
            run. A run that was interrupted in its first epoch starts again.
        seed: seed of weights, batches and transforms.
        init: checkpoint of an earlier run to start from (fine-tuning); see `start_from`.
        callbacks: additional Lightning callbacks.
        guide: guides of the MF-Stream, in addition to the fusion; see `GuideConfig`.

    Raises:
        FileNotFoundError: a data folder or `init` is missing, or there is nothing to resume.
        ValueError: an image or IUV map is broken, `out` already contains a run and `resume` is off, the options differ
            from those of the resumed run, an option is invalid, or training has failed: its loss is not finite.
        BlockingIOError: another process trains in `out`; the message names it.
    """
    parts: dict[str, Any] = {
        "data": data, "model": model or ModelConfig(), "loss": loss or LossConfig(), "optim": optim or OptimConfig(),
        "augment": augment or AugmentConfig(), "trainer": trainer or TrainerConfig(), "guide": guide or GuideConfig(),
    }  # fmt: skip
    # The other processes of a run share the lock of the first.
    alone = locked(out, folder=True) if getattr(rank_zero_only, "rank", 0) == 0 else nullcontext()
    with alone:
        return _fit(parts, Path(out), resume, seed, init, callbacks)


def _fit(
    parts: dict[str, Any], out: Path, resume: bool, seed: int, init: Path | str | None, callbacks: Sequence[Callback]
) -> FitResult:
    data, model, loss, optim, augment, trainer, guide = parts.values()
    identities = model.branches != "none"
    if not identities:  # there is nothing to test, and no loss compares people
        trainer, loss = replace(trainer, eval_every=0), LossConfig(id_mf=0.0, triplet=0.0, id_fused=0.0)
    last = out / "checkpoints" / LAST
    if last.exists() and not resume:
        raise ValueError(f"out must be a folder without a run, got {out}: add --resume, or choose another folder")
    if resume and find_last(last.parent) is None:
        if not (out / "config.yaml").exists():
            raise FileNotFoundError(f"resume needs {last}, which does not exist: start without resume")
        resume = False  # interrupted in its first epoch, so nothing is lost

    options = {name: _plain(asdict(part)) for name, part in parts.items()} | {"out": str(out), "seed": seed}
    if resume:
        _check_same_run(out / "config.yaml", options)

    stamp = out / "verified.json"
    people = ReIDData(
        data, augment.size, seed, stamp=stamp, folder=out, progress=trainer.progress, identities=identities
    )
    if model.pooling == "parts" and not guide.pooling and init is None and not resume:
        raise ValueError(
            "guide.pooling must be above 0 with model.pooling parts, got 0: the prediction of the parts would stay "
            "random. To train without maps, start from a checkpoint with init, or set model.pooling mean"
        )
    _check_maps(people, data, model, guide)
    people.check_batches()
    _check_pairs(people, loss)
    if trainer.eval_every:
        people.check_testable()
    with _quiet(), ExitStack() as stack:
        lightning.seed_everything(seed, workers=True, verbose=False)
        task = ReIDTask(people.num_ids, model, loss, optim, augment, seed, trainer.compile, guide)
        if init is not None and not resume:
            start_from(task.model, init)
        if trainer.progress:
            _announce(people, task.reads_maps, loss, unlabeled=not identities)
        rank_zero_only(people.verify)()
        # From here on, the run's files are written.
        try:
            if trainer.pictures and (trainer.eval_every or not identities):
                # Parts that are not trained on have no size.
                sizes = augment.size, augment.dsap_size or AugmentConfig.dsap_size
                pictures = Pictures(out / "log" / "pictures", trainer.pictures, *sizes, trainer.max_epochs)
                callbacks = [*callbacks, pictures]
            named = stack.enter_context(utf8_name(out))
            runner = _runner(trainer, out, callbacks, last if resume else None, options, named)
        except MisconfigurationException as error:
            raise ValueError(f"trainer: {error}") from error
        stack.callback(finish, runner.loggers)
        _write_options(out / "config.yaml", options)
        if resume and _epochs_done(last) >= trainer.max_epochs:
            if trainer.eval_every:
                state = torch.load(last, map_location="cpu", weights_only=True)
                task.load_state_dict(state["state_dict"])
                # Logged where the interrupted run would have: within its last step, or after it.
                within = int(trainer.max_epochs % trainer.eval_every == 0)
                runner.fit_loop.epoch_progress.current.completed = int(state["epoch"]) + 1 - within
                runner.fit_loop.epoch_loop._batches_that_stepped = int(state["global_step"]) - within
                runner.validate(task, people, verbose=False)
        else:
            try:
                runner.fit(task, people, ckpt_path=last if resume else None, weights_only=True)
            except SystemExit:  # Lightning exits this way after Ctrl-C, and ignores the next Ctrl-C
                signal.signal(signal.SIGINT, signal.default_int_handler)
                raise KeyboardInterrupt from None
            if trainer.eval_every and trainer.max_epochs % trainer.eval_every:
                runner.validate(task, people, verbose=False)
    names = ("mAP", "mINP", "R1", "R5", "R10")
    scores = {name: float(runner.callback_metrics[name]) for name in names if name in runner.callback_metrics}
    testable = bool(people.people.query and people.people.gallery)
    return FitResult(last, out / "log" / "metrics.csv", scores, testable)


def _runner(
    trainer: TrainerConfig,
    out: Path,
    callbacks: Sequence[Callback],
    resumed: Path | None,
    options: dict[str, Any],
    named: str,
) -> lightning.Trainer:
    loggers = make_loggers(trainer, out, options, resumed=resumed is not None, named=named)
    terminal = open_console().is_terminal
    if resumed is not None:
        assert isinstance(loggers[0], CSVLogger)
        finished = trainer.eval_every > 0 and _epochs_done(resumed) >= trainer.max_epochs
        _continue_log(loggers[0], out / "log" / "metrics.csv", resumed, finished)
    return lightning.Trainer(
        max_epochs=trainer.max_epochs,
        accelerator=trainer.accelerator,
        devices=trainer.devices,
        precision=trainer.precision,
        strategy=trainer.strategy,
        deterministic=trainer.deterministic,
        accumulate_grad_batches=trainer.accumulate,
        log_every_n_steps=trainer.log_every,
        check_val_every_n_epoch=max(trainer.eval_every, 1),
        limit_val_batches=1.0 if trainer.eval_every else 0,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_model_summary=False,
        enable_progress_bar=trainer.progress and terminal,
        logger=loggers,
        callbacks=[
            ModelCheckpoint(
                out / "checkpoints", filename="last", save_on_train_epoch_end=True, enable_version_counter=False
            ),
            _LogEachEpoch(),
            LearningRateMonitor("step"),
            StopIfNotFinite(trainer.log_every),
            *([EMAWeightAveraging(decay=trainer.ema)] if trainer.ema else []),
            *([_Progress(trainer.log_every)] if trainer.progress and terminal else []),
            *([_TimeLeft(lines=not terminal)] if trainer.progress else []),
            *callbacks,
        ],
        **{**trainer.extra, "plugins": [*_listed(trainer.extra.get("plugins")), SyncedCheckpoints()]},
    )


def _listed(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences Lightning's tips, and restores the global settings that its Trainer changes."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    # Every output is fully written, so filling it with NaN first only costs time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)


def _check_maps(people: ReIDData, data: DataConfig, model: ModelConfig, guide: GuideConfig) -> None:
    """Checks the IUV maps before training, so that a wrong folder does not cost a whole run."""
    train = people.people.train
    maps = sum(person.iuv_path is not None for person in train)
    if data.iuv is not None and maps == 0:
        raise ValueError(f"data.iuv must hold maps of the training images, got none in {data.iuv}")
    for name in guide.map_readers(model):
        if maps == 0:
            without = "model.pooling=mean" if name == "pooling" else f"guide.{name}=0"
            raise ValueError(
                f"guide.{name} needs IUV maps of the training images, got none ({people.people.name}): make them "
                f"with dsa-fast prepare {data.root}, or train without this guide: {without}"
            )
    if model.kind == "dsa" and model.dsag and maps == 0:
        raise ValueError(
            f"model.dsag needs IUV maps of the training images, got none ({people.people.name}): make them with "
            f"dsa-fast prepare {data.root}, or train without the DSAG-Stream: model.dsag=False"
        )


def _compared_photos(loss: LossConfig) -> list[str]:
    """Returns the names of the losses that compare photos of one person."""
    names = ("triplet", "triplet_mf", "circle", "multi_similarity")
    return [f"loss.{name}" for name in names if getattr(loss, name)]


def _check_pairs(people: ReIDData, loss: LossConfig) -> None:
    """Checks that there is a pair of photos of one person, if a loss compares them."""
    losses = _compared_photos(loss)
    images = Counter(person.pid for person in people.people.train)
    if losses and max(images.values()) < 2:
        raise ValueError(
            f"data.root must hold two photos or more of a person to train on, got one photo of each of {len(images)} "
            f"people ({people.people.name}), and nothing to compare with {' and '.join(losses)}. Add photos, or train "
            f"without: {' '.join(f'{name}=0' for name in losses)}"
        )


@rank_zero_only
def _announce(people: ReIDData, reads_maps: bool, loss: LossConfig, *, unlabeled: bool) -> None:
    if unlabeled:
        found = counted(len(people.people.train), "image")
        open_console().print(f"{people.people.name}: {found} with IUV maps in {people.people.root}", soft_wrap=True)
        return
    table = Table(title=f"{people.people.name}: {people.people.root}")
    table.add_column("")
    for column in ("images", "identities", "cameras", "IUV maps"):
        table.add_column(column, justify="right")
    for split, files, identities, cameras, maps in people.people.summary():
        known = str(cameras) if people.people.has_cameras else "not known"
        table.add_row(split, str(files), str(identities), known, str(maps))
    console = open_console()
    console.print(table)
    for line in people.people.notes():
        console.print(line, soft_wrap=True)
    without = sum(person.iuv_path is None for person in people.people.train)
    if without and reads_maps:
        total = len(people.people.train)
        console.print(f"{without} of {total} training images have no IUV map; their parts are mean-filled.")
    images = Counter(person.pid for person in people.people.train)
    alone = sum(count == 1 for count in images.values())
    if alone and _compared_photos(loss):
        console.print(
            f"{alone} of {len(images)} people to train on have a single photo, which is compared only with itself, "
            "cropped and flipped in other ways.",
            soft_wrap=True,
        )


@rank_zero_only
def _write_options(path: Path, options: dict[str, Any]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(yaml.safe_dump(options, sort_keys=False))


def _epochs_done(checkpoint: Path) -> int:
    state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    return int(state["epoch"]) + 1


class _LogEachEpoch(Callback):
    """Logs at least one step of each epoch, however few it has, so that each run has a log."""

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        steps = -(-int(trainer.num_training_batches) // trainer.accumulate_grad_batches)
        trainer.log_every_n_steps = min(trainer.log_every_n_steps, steps)  # type: ignore[attr-defined]


class _TimeLeft(Callback):
    """Prints how long the run will take, once it is known, and on request a line per epoch (for pipes and logs).

    Args:
        lines: prints a line per epoch.
    """

    _MEASURED = 20  # steps, after a first one that is slower

    def __init__(self, lines: bool) -> None:
        self._lines = lines
        self._steps, self._start, self._first_epoch, self._epoch_start = 0, 0.0, 0, 0.0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._epoch_start, self._first_epoch = time.perf_counter(), trainer.current_epoch

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        self._steps += 1
        length = int(trainer.num_training_batches)
        if self._steps == 1:
            self._start = time.perf_counter()
        elif self._steps == min(1 + self._MEASURED, length):
            step = (time.perf_counter() - self._start) / (self._steps - 1)
            epochs = (trainer.max_epochs or 0) - self._first_epoch
            self._print(
                trainer,
                f"About {duration(step * length * epochs)} for {counted(epochs, 'epoch')} of {counted(length, 'step')}"
                + (", and the time of the evaluations" if trainer.limit_val_batches else ""),
            )

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        done = trainer.current_epoch - self._first_epoch
        if self._lines and done:  # here, because evaluations come after the epoch's end
            last = trainer.max_epochs or 0
            left = (time.perf_counter() - self._epoch_start) / done * (last - trainer.current_epoch)
            loss = trainer.callback_metrics.get("loss")
            shown = "" if loss is None else f", loss {float(loss):.3f}"
            self._print(trainer, f"Epoch {trainer.current_epoch}/{last}{shown}, about {duration(left)} left")

    def _print(self, trainer: lightning.Trainer, text: str) -> None:
        if trainer.is_global_zero:
            open_console().print(text)


class _Progress(RichProgressBar):
    """Lightning's progress bar with epochs from 1, and without the version number, which has no meaning here.

    It reads losses only when they are logged, not at each step, because reading a loss waits for the device.
    """

    def __init__(self, log_every: int) -> None:
        super().__init__()
        self._log_every = log_every

    def _get_train_description(self, current_epoch: int) -> str:
        return f"Epoch {current_epoch + 1}/{self.trainer.max_epochs}"

    def _update_metrics(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if not trainer.training or trainer.global_step % self._log_every == 0:
            super()._update_metrics(trainer, pl_module)

    def get_metrics(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> dict[str, Any]:
        metrics: dict[str, Any] = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics


# Options that affect the results must not change when a run is resumed. The number of processes may change, and
# trainer.accumulate with it: N processes do as much in a step as one process that accumulates N batches.
_FIXED = ("model", "loss", "optim", "augment", "guide", "seed")
_FIXED_NAMES = {
    "data": ("root", "iuv", "name", "options", "p", "k", "validation_ids", "validation_seed"),
    "trainer": ("ema",),
}


def _check_same_run(path: Path, options: dict[str, Any]) -> None:
    """Rejects options that differ from those of the resumed run."""
    before = read_yaml(path) if path.exists() else options
    if not isinstance(before, dict):
        raise ValueError(f"{path} must hold a run's options by name, got {type(before).__name__}")
    if "trunk" in (before.get("model") or {}):
        raise ValueError(
            f"resume needs a run of this version, got a version with model.trunk instead of model.backbone: {path}"
        )
    changed = []
    fixed = dict(_FIXED_NAMES)
    if options["optim"]["schedule"] == "cosine" or options["guide"]["fade"]:  # these depend on the last epoch
        fixed["trainer"] = (*fixed["trainer"], "max_epochs")
    for section in (*_FIXED, *fixed):
        old, new = before.get(section, {}), options[section]
        if not isinstance(old, dict):
            old, new = {"": old}, {"": new}
        for name in new:
            # A run of an earlier version without this option behaved like the current default.
            if (section not in fixed or name in fixed[section]) and old.get(name, _default(section, name)) != new[name]:
                changed.append(f"{section}{'.' if name else ''}{name} was {old.get(name)!r} and is {new[name]!r}")
    if changed:
        raise ValueError(
            f"resume needs the run's own options (pass --config {path}), got other options: {'; '.join(changed)}"
        )


def _default(section: str, name: str) -> Any:
    kinds: dict[str, Any] = {
        "data": DataConfig, "model": ModelConfig, "loss": LossConfig, "optim": OptimConfig, "augment": AugmentConfig,
        "trainer": TrainerConfig, "guide": GuideConfig,
    }  # fmt: skip
    return _plain({item.name: item.default for item in fields(kinds[section])}.get(name)) if section in kinds else None


@rank_zero_only
def _continue_log(logger: CSVLogger, path: Path, checkpoint: Path, finished: bool) -> None:
    """Keeps the log up to the checkpoint. Lightning's logger would start an empty file.

    If the training is finished, the last evaluation is left out, because it is made again.
    """
    kept = path.with_name("metrics_kept.csv")
    if not path.exists() and kept.exists():  # the process was stopped between the last two lines below
        kept.replace(path)
    if not path.exists():
        return
    done = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["global_step"]
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        names = list(reader.fieldnames or [])
        # A killed process may have cut the last row.
        rows = [row for row in reader if all(row.get(name) is not None for name in names)]
        rows = [row for row in rows if row["step"].isdecimal() and int(row["step"]) < done]
        if finished:  # the last evaluation is made again
            rows = [row for row in rows if not row.get("mAP") or int(row["step"]) < done - 1]
    with atomic_path(kept) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    logger.experiment.metrics_keys = names  # this access removes the old file
    kept.replace(path)


def _plain(value: Any) -> Any:
    """Converts tuples to lists, so that YAML stays plain."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
