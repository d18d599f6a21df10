"""Loggers of a training run, and pictures of each evaluation for them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from torch.nn import functional

from dsa_fast.configs.training import TrainerConfig
from dsa_fast.data.dataset import PeopleDataset
from dsa_fast.data.people import Person
from dsa_fast.evaluation import Embedded, rank_list
from dsa_fast.extras import require
from dsa_fast.ops.warp import warp
from dsa_fast.terminal import console

if TYPE_CHECKING:
    from PIL import Image

    from dsa_fast.training.data import ReIDData
    from dsa_fast.training.module import ReIDTask

__all__ = ["Pictures", "finish", "make_loggers"]

#: Query and gallery.
Tested = tuple[Embedded, Embedded]

_LISTED = 5  # gallery images for each query
_PEOPLE, _WIDTH = 3, 1000  # people in the picture of part images, and its largest width


def make_loggers(
    trainer: TrainerConfig, out: Path, options: dict[str, Any], *, resumed: bool, named: str | None = None
) -> list[Logger]:
    """Makes the CSV logger, which is always there, and the logger that `trainer.logger` names.

    A resumed run goes on in the tracker's run, whose id is in `log/wandb.id` or `log/mlflow.id`.

    Args:
        trainer: the run's options.
        out: the run's folder.
        options: all options, for trackers.
        resumed: whether the run is resumed.
        named: a name of `out` in UTF-8, for TensorBoard; see `dsa_fast.files.utf8_name`.

    Raises:
        ValueError: the tracker's package is not installed; the message says how to install it.
    """
    first = CSVLogger(out, name="", version="log")
    if trainer.logger == "csv":
        return [first]
    if trainer.logger == "tensorboard":
        return [first, TensorBoardLogger(named or out, name="", version="log")]
    require(trainer.logger, f"trainer.logger {trainer.logger}")
    file = out / "log" / f"{trainer.logger}.id"
    known = file.read_text().strip() if resumed and file.is_file() else None
    second: WandbLogger | MLFlowLogger
    if trainer.logger == "wandb":
        file.parent.mkdir(parents=True, exist_ok=True)
        second = WandbLogger(out.name, file.parent, known, project=trainer.project, resume="allow")
    else:
        # MLflow's own setting, or files next to the CSV.
        store, files = os.environ.get("MLFLOW_TRACKING_URI"), None
        if not store:
            for module in ("sqlalchemy", "alembic"):
                require(module, "trainer.logger mlflow without MLFLOW_TRACKING_URI")
            folder = file.parent.resolve()
            folder.mkdir(parents=True, exist_ok=True)
            store, files = f"sqlite:///{folder / 'mlflow.db'}", (folder / "mlflow").as_uri()
        second = MLFlowLogger(trainer.project, out.name, store, artifact_location=files, run_id=known)
    _start(second, file, None if known else options)
    return [first, second]


def finish(loggers: Iterable[Logger]) -> None:
    """Ends the run of Weights & Biases, which a later run of the same process would continue otherwise."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()


@rank_zero_only
def _start(logger: WandbLogger | MLFlowLogger, file: Path, options: dict[str, Any] | None) -> None:
    """Writes the id of the tracker's run, and gives the tracker the options of a new run."""
    _ = logger.experiment  # this makes the run
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(str(logger.experiment.id if isinstance(logger, WandbLogger) else logger.run_id))
    if options is not None:
        logger.log_hyperparams(options)


class Pictures(Callback):
    """Logs pictures at each evaluation: some queries' ranked lists, and the part images of some training people.

    A backbone that is trained alone is not evaluated: its pictures are of the parts that it predicts, after each epoch
    (with the current weights, also if `trainer.ema` averages them).
    They are PNG files in `log/pictures`, and go to loggers that take images. The queries are the same each time. The
    people change, so that more maps are seen. A picture that can't be made is reported, and the run goes on.

    Args:
        folder: folder for the files.
        queries: number of queries, or of people whose parts are predicted.
        size: height and width of a photo.
        dsap_size: S, height and width of a part image.
        max_epochs: number of epochs of the run.
    """

    def __init__(self, folder: Path, queries: int, size: tuple[int, int], dsap_size: int, max_epochs: int) -> None:
        self._folder, self._queries, self._size, self._dsap_size = folder, queries, size, dsap_size
        self._max_epochs = max_epochs

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        task: ReIDTask = pl_module  # type: ignore[assignment]
        tested, task.tested = task.tested, None
        if tested is None or not trainer.is_global_zero:
            return
        epoch = trainer.current_epoch + 1 if trainer.state.fn == "fit" else self._max_epochs
        data: ReIDData = trainer.datamodule  # type: ignore[attr-defined]
        try:
            made = {}
            if not data.people.pool_tracklets:  # a tracklet is not one image
                made["ranked"] = self._ranked(tested, data, f"epoch {epoch}, mAP {task.scores['mAP']:.1%}")
            mapped = [person for person in data.people.train if person.iuv_path is not None]
            if mapped:
                made["parts"] = self._parts(mapped, epoch, data)
            for name, picture in made.items():
                self._log(trainer, name, picture, epoch)
        except (OSError, ValueError) as error:
            console().print(f"no pictures of epoch {epoch}: {error}", soft_wrap=True)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        task: ReIDTask = pl_module  # type: ignore[assignment]
        if task.model.branches != "none" or not trainer.is_global_zero:
            return
        epoch = trainer.current_epoch + 1
        try:
            picture = self._predicted(task, trainer.datamodule, f"epoch {epoch}")  # type: ignore[attr-defined]
            self._log(trainer, "predicted", picture, epoch)
        except (OSError, ValueError) as error:
            console().print(f"no picture of epoch {epoch}: {error}", soft_wrap=True)

    def _predicted(self, task: ReIDTask, data: ReIDData, title: str) -> Image.Image:
        """Draws photos, their maps, and the parts that the backbone predicts."""
        from dsa_fast.data.transforms import resize
        from dsa_fast.densepose.iuv import resize_iuv
        from dsa_fast.visual.atlas import part_overlay
        from dsa_fast.visual.layout import captioned, fit, tile_table, to_picture

        people = data.people.train
        rows = np.unique(np.linspace(0, len(people) - 1, self._queries).round().astype(int)).tolist()
        dataset = PeopleDataset([people[row] for row in rows], iuv_order=data.config.iuv_order)
        items = [dataset[number] for number in range(len(rows))]
        photos = torch.stack([resize(item["image"][None], self._size)[0] for item in items])
        maps = torch.stack([resize_iuv(item["iuv"], self._size) for item in items])
        parts = task.predict_parts(photos.to(task.device)).cpu()
        found = functional.interpolate(parts[:, None].float(), self._size).to(torch.uint8).expand(-1, 3, -1, -1)
        drawn = []
        for photo, given, predicted in zip(photos, maps, found, strict=True):
            pictures = (to_picture(photo), part_overlay(photo, given), part_overlay(photo, predicted))
            names = (f"photo, {title}", "its map", "predicted parts")
            drawn.append([captioned(fit(each, (256, 256)), [name]) for each, name in zip(pictures, names, strict=True)])
        return tile_table([list(row) for row in zip(*drawn, strict=True)])

    def _ranked(self, tested: Tested, data: ReIDData, title: str) -> Image.Image:
        from dsa_fast.visual.ranked_lists import ranked_lists

        (features, pids, camids), gallery = tested
        people, others = data.test_people
        rows = np.unique(np.linspace(0, len(people) - 1, self._queries).round().astype(int)).tolist()
        lists = rank_list(features[rows], pids[rows], camids[rows], *gallery, k=min(_LISTED, len(others)))
        return ranked_lists(
            [people[row] for row in rows],
            others,
            lists,
            title=title,
            distance="cosine distance",
            names=data.people.names,
        )

    def _parts(self, people: list[Person], epoch: int, data: ReIDData) -> Image.Image:
        from dsa_fast.data.transforms import resize
        from dsa_fast.densepose.iuv import resize_iuv
        from dsa_fast.visual.atlas import photo_and_parts
        from dsa_fast.visual.layout import tile_table

        count = min(_PEOPLE, len(people))
        step = len(people) // count
        chosen = [people[(number * step + epoch) % len(people)] for number in range(count)]
        drawn = []
        dataset = PeopleDataset(chosen, iuv_order=data.config.iuv_order)
        for number, person in enumerate(chosen):
            item = dataset[number]
            photo, iuv = resize(item["image"][None], self._size)[0], resize_iuv(item["iuv"], self._size)
            dsap, touched = warp(photo, iuv, size=self._dsap_size, return_count=True)
            about = f"{data.people.names.person(person.pid)}, {person.path.name}"
            drawn.append([photo_and_parts(photo, iuv, dsap, touched, about)])
        picture = tile_table(drawn)
        picture.thumbnail((_WIDTH, picture.height))
        return picture

    def _log(self, trainer: lightning.Trainer, name: str, picture: Image.Image, epoch: int) -> None:
        from dsa_fast.visual.layout import save_picture

        file = f"{name}_{epoch:04d}.png"
        save_picture(picture, self._folder / file)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(name, np.asarray(picture), trainer.global_step, dataformats="HWC")
            elif isinstance(logger, WandbLogger):
                logger.log_image(name, [picture], step=trainer.global_step)
            elif isinstance(logger, MLFlowLogger):
                logger.experiment.log_image(logger.run_id, picture, artifact_file=f"pictures/{file}")
