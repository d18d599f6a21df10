"""The training step and the evaluation, as a LightningModule."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor, nn

from dsa_fast.configs.augment import AugmentConfig
from dsa_fast.configs.model import AVERAGE, SELF
from dsa_fast.configs.training import CompileMode, LossConfig, OptimConfig
from dsa_fast.data.dataset import PersonBatch, PersonItem
from dsa_fast.data.transforms import Draws, augment_batch, eval_transform, flip_lut
from dsa_fast.evaluation import Embedded, as_tested, protocol_scores
from dsa_fast.models import (
    DSALoss,
    DSAOutput,
    DSAReID,
    GuideConfig,
    Guides,
    ModelConfig,
    build_model,
    load_model,
    part_weights,
)
from dsa_fast.models.checkpoint import describe_network
from dsa_fast.models.dsa_reid import evaluating
from dsa_fast.models.metric_losses import MetricLosses
from dsa_fast.models.mf_stream import PARTS_SCALE
from dsa_fast.training.schedule import learning_rate


class ReIDTask(lightning.LightningModule):
    """Trains a re-ID model on P x K batches of stored people.

    All random numbers of a step derive from (seed, epoch, batch). A resumed run therefore continues with the same
    numbers as an uninterrupted run.

    With several processes, each process has its own P x K batches (`PKSampler` distributes an epoch's batches in turn)
    and its own batch norms. Gradients are averaged: a step of N processes equals a step of one process that accumulates
    the gradients of the same N batches. Triplets are mined within each process's batch, or among all batches with
    `LossConfig.gather`. The running statistics of batch norms come from process 0. A checkpoint fits any number of
    processes.

    Args:
        num_ids: number of identities in the training set.
        model: the network.
        loss: the losses' weights.
        optim: optimizer and learning rate.
        augment: the transform of training images.
        seed: random seed of the transform.
        compile: compilation mode of the network in training.
        guide: guides of the MF-Stream, in addition to the fusion.

    Raises:
        FileNotFoundError, ValueError: `augment.flip_table` cannot be read; see `flip_lut`.
    """

    def __init__(
        self,
        num_ids: int,
        model: ModelConfig | None = None,
        loss: LossConfig | None = None,
        optim: OptimConfig | None = None,
        augment: AugmentConfig | None = None,
        seed: int = 0,
        compile: CompileMode = "off",
        guide: GuideConfig | None = None,
    ) -> None:
        super().__init__()
        self.num_ids, self.seed, self._compile = num_ids, seed, compile
        self.model_config = model or ModelConfig()
        self.loss_config = loss or LossConfig()
        self.optim_config = optim or OptimConfig()
        self.augment = augment or AugmentConfig()
        self._mirror = flip_lut(self.augment)  # not a buffer: checkpoints do not need it
        if (self.model_config.pretrained or "").startswith("row:"):
            raise ValueError(
                "model.pretrained must be imagenet or a path (row:NAME is for dsa-fast tables), "
                f"got {self.model_config.pretrained}"
            )
        self.model = build_model(num_ids, self.model_config)
        weights = asdict(self.loss_config)
        self._visibility: float = weights["visibility"]
        self.loss = DSALoss(**{name: weights[name] for name in DSALoss.WEIGHTS})
        self.metric_losses = MetricLosses(self.loss_config, num_ids, self.model.embed_dims)
        self.guide_config = guide or GuideConfig()
        check_guides(self.guide_config, self.model_config)
        if self.model.mf_stream.find_parts is not None and not self.guide_config.pooling:
            self.model.mf_stream.find_parts.requires_grad_(False)  # several processes need a gradient of all others
        self.guides = Guides(
            self.guide_config,
            self.model.mf_stream.backbone.out_channels,
            num_ids,
            classifier_dim=self.model_config.classifier_dim,
            label_smoothing=self.loss_config.label_smoothing,
        )
        # In a list, so that it is not a submodule: it is neither trained nor saved.
        self._frozen_teacher: list[DSAReID] = []
        self.average: DSAReID | None = None
        if self.guide_config.distil:
            if self.guide_config.distil_teacher == AVERAGE:
                self.average = copy.deepcopy(self.model).requires_grad_(False)
            elif self.guide_config.distil_teacher != SELF:
                self._frozen_teacher = [read_teacher(self.guide_config, self.model, num_ids, self.augment)]
        # The warp is left out if nothing reads the part images.
        streams = [network.dsag_stream for network in (self.model, *self._frozen_teacher)]
        warped = self._visibility > 0 or any(stream is not None for stream in streams)
        guided = bool(self.guide_config.map_readers(self.model_config))
        #: Whether training reads IUV maps at all.
        self.reads_maps = warped or guided
        self._transform = self.augment if warped else replace(self.augment, dsap_size=0)
        self._grid: tuple[int, int] | None = None
        if guided:
            height, width = self.model.mf_stream.grid(self.augment.size)
            self._grid = self.guide_config.dense_scale * height, self.guide_config.dense_scale * width
        self._features: list[list[tuple[Tensor, Tensor, Tensor]]] = [[], []]
        #: Features, pids and camids of query and gallery, and their scores, of the last evaluation.
        self.tested: tuple[Embedded, Embedded] | None = None
        self.scores: dict[str, float] = {}

    def on_fit_start(self) -> None:
        """Moves tables and teachers to this device, sets the GPU's memory format, and compiles the network."""
        if self._mirror is not None:
            self._mirror = self._mirror.to(self.device)
        for teacher in self._frozen_teacher:
            teacher.to(self.device)
        if self.device.type == "cuda":
            self.model.to(memory_format=torch.channels_last)
        if self._compile != "off":
            self.model.compile(mode=self._compile)  # in place: parameters keep their names

    def training_step(self, batch: PersonBatch, batch_index: int) -> Tensor:
        """Transforms and warps on this device, then computes features and losses."""
        labels = batch["label"]
        draws = Draws.sample(len(labels), self.augment, self._generator(batch_index))
        inputs: dict[str, Any] = {
            "indices": batch.get("index"),
            "dtype": _input_dtype(labels),
            "mirror": self._mirror,
            "channels_last": labels.is_cuda,
        }
        images, dsap, iuv = augment_batch(
            batch["image"], batch["iuv"], draws, self._transform, grid=self._grid, **inputs
        )
        config = self.guide_config
        progress = self._epochs_done() / max(self.trainer.max_epochs or 1, 1)
        share = self.guides.share(len(labels), progress, self._generator(batch_index, 1))
        if share is not None:
            share = share.to(labels.device, non_blocking=True)
        output = self.model(images, dsap, share, detach=config.detach)
        total: Tensor
        seen = part_weights(dsap, self._visibility) if self._visibility else None
        total, terms = self.loss(output, labels, seen)
        added, others = self.metric_losses(output, labels)
        if added is not None:
            total, terms = total + added, terms | others
        teacher = self._teach(output, batch, dsap, draws, inputs) if config.distil else None
        guided, more = self.guides(output, labels, iuv=iuv, teacher=teacher, epoch=self._epochs_done())
        if guided is not None:
            total, terms = total + guided, terms | more
        # One reduction for all values: the log gets the mean over processes.
        values = self.trainer.strategy.reduce(torch.stack([total.detach(), *terms.values()]), reduce_op="mean")
        self.log("loss", values[0], prog_bar=True, batch_size=len(images))
        logged = {f"loss/{name}": value for name, value in zip(terms, values[1:], strict=True)}
        self.log_dict(logged, batch_size=len(images))
        return total

    def _teach(
        self, output: DSAOutput, batch: PersonBatch, dsap: Tensor, draws: Draws, inputs: dict[str, Any]
    ) -> DSAOutput:
        """Returns the teacher's output. Only the running network, as its own teacher, sees erased images."""
        model = self._frozen_teacher[0] if self._frozen_teacher else self.average
        if model is None:
            return output
        # Erasing does not change the part images, so the student's serve the teacher too.
        whole = replace(draws, erase=torch.zeros_like(draws.erase))
        config = replace(self._transform, dsap_size=0)
        images = augment_batch(batch["image"], batch["iuv"], whole, config, **inputs).images
        with torch.no_grad():
            taught: DSAOutput = model.eval()(images, dsap)
        return taught

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        """Updates the weights, and the moving average of the network if it is the teacher."""
        super().optimizer_step(*arguments, **options)
        if self.average is None:
            return
        # Early in training the decay is smaller, so that the first weights do not dominate the average.
        step = self.global_step + 1
        decay = min(self.guide_config.distil_decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for old, new in zip(self.average.state_dict().values(), self.model.state_dict().values(), strict=True):
                if old.is_floating_point():
                    old.lerp_(new, 1 - decay)
                else:
                    old.copy_(new)

    def predict_parts(self, images: Tensor) -> Tensor:
        """Finds the parts in images with the dense guide's decoder: uint8 [B, 3, H, W] -> int64 [B, h, w], 0..24."""
        assert self.guides.decoder is not None
        with torch.no_grad(), evaluating(self):
            maps = self.model.mf_stream.maps(self.model.normalize(images))  # not compiled: another dtype and batch
            parts: Tensor = self.guides.decoder(maps.shared)[0]
        return parts.argmax(dim=1)

    def _generator(self, batch_index: int, stream: int = 0) -> torch.Generator:
        # The seed depends only on the position in the run, so there is no generator state to save.
        # Batches are numbered within the epoch, not the process: any number of processes draws the same numbers.
        number = batch_index * self.trainer.world_size + self.global_rank
        place = np.random.SeedSequence([self.seed, self.current_epoch, number, *([stream] if stream else [])])
        return torch.Generator().manual_seed(int(place.generate_state(1, np.uint64)[0] >> np.uint64(1)))

    def on_validation_epoch_start(self) -> None:
        """Clears the features of the last evaluation, and copies process 0's running statistics to all processes."""
        self._features = [[], []]
        if self.trainer.world_size > 1:
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, 0)

    def validation_step(self, batch: PersonItem, batch_index: int, dataloader_idx: int = 0) -> None:
        """Embeds query (loader 0) and gallery (loader 1)."""
        features = self.embed(batch["image"])
        self._features[dataloader_idx].append((features.float().cpu(), batch["label"].cpu(), batch["camid"].cpu()))

    def on_validation_epoch_end(self) -> None:
        """Logs mAP, mINP and CMC. With several processes, each first gathers the features of the whole test set."""
        if self.trainer.sanity_checking or not all(self._features):
            return
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        query, gallery = (
            as_tested(Embedded(*self._whole(number)), people, data.people)
            for number, people in enumerate(data.test_people)
        )
        self._features, self.tested = [[], []], (query, gallery)
        self.scores = protocol_scores(query, gallery, data.people)
        scores = dict(self.scores)
        self.log("mAP", scores.pop("mAP"), prog_bar=True)
        self.log_dict(scores)

    def _whole(self, number: int) -> list[Tensor]:
        """Gathers features, pids and camids of query (0) or gallery (1) from all processes, in list order."""
        columns = [torch.cat(column) for column in zip(*self._features[number], strict=True)]
        world = self.trainer.world_size
        if world == 1:
            return columns
        people = self.trainer.datamodule.test_people[number]  # type: ignore[attr-defined]
        whole = []
        for column in columns:
            shares = [torch.empty_like(column, device=self.device) for _ in range(world)]
            torch.distributed.all_gather(shares, column.to(self.device))
            # Process r has people r, r + world, ...
            whole.append(torch.stack(shares, dim=1).flatten(0, 1)[: len(people)].cpu())
        return whole

    def embed(self, images: Tensor) -> Tensor:
        """Computes test vectors [B, D] of stored images, uint8 [B, 3, h, w]."""
        with torch.autocast(images.device.type, enabled=False):  # so that `dsa-fast eval` gives the same scores
            vectors: Tensor = self.model.embed(eval_transform(images, self.augment.size))
        return vectors

    def configure_optimizers(self) -> Any:
        """Sets up Adam. The learning rate depends on the position in the run, not on the number of processes."""
        config = self.optim_config
        # Fused Adam runs one kernel for all weights. It unscales gradients itself, so mixed precision cannot clip them.
        fused = self.device.type in ("cpu", "cuda") and not self.trainer.gradient_clip_val
        centers = set(self.metric_losses.parameters())
        trained = [weight for weight in self.parameters() if weight.requires_grad and weight not in centers]
        groups: list[dict[str, Any]] = [{"params": trained}]
        epochs = max(self.trainer.max_epochs or 1, 1)
        factors: list[Callable[[int], float]] = [
            lambda _: learning_rate(self._epochs_done(), config, epochs) / config.lr
        ]
        if centers:
            own = list(self.metric_losses.parameters())
            groups.append({"params": own, "lr": self.loss_config.center_lr, "weight_decay": 0.0})
            factors.append(lambda _: 1.0)
        optimizer = torch.optim.Adam(groups, lr=config.lr, weight_decay=config.weight_decay, fused=fused)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _epochs_done(self) -> float:
        """Returns the epochs from the start of training to the end of the current optimizer step."""
        done, whole = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready, self.trainer.num_training_batches
        # All batches of a step have the same position, as if each process had one of them.
        each = self.trainer.accumulate_grad_batches
        return self.current_epoch + (min(-(-done // each) * each, whole) / whole if done else 0)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what `load_model` needs, in plain types that load without pickle."""
        describe_network(
            checkpoint,
            self.num_ids,
            self.model_config,
            size=self.augment.size,
            dsap_size=self.augment.dsap_size,
            reduce=self.augment.reduce,
            parts=self.augment.parts,
        )


def _input_dtype(like: Tensor) -> torch.dtype:
    """Returns the dtype of the first layers. Under autocast they would cast a wider input anyway."""
    kind = like.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32


def check_guides(guide: GuideConfig, model: ModelConfig) -> None:
    """Rejects guides that do not apply to the network.

    Raises:
        ValueError: a guide does not apply; the message names the option.
    """
    fused = model.kind == "dsa" and model.dsag
    for name in ("fade", "drop", "detach"):
        if getattr(guide, name) and not fused:
            raise ValueError(f"guide.{name} needs fused features: model.kind dsa and model.dsag true")
    if guide.distil and guide.distil_teacher == SELF and not fused:
        raise ValueError(
            "guide.distil_teacher must be a checkpoint or 'ema' unless the network has fused features of its own "
            "(model.kind dsa and model.dsag true), got 'self'"
        )
    if model.branches == "none" and (not guide.dense or guide.parts or guide.stripes or guide.distil):
        raise ValueError(
            "model.branches none trains the backbone with guide.dense alone: guide.dense must be above 0, and "
            "guide.parts, guide.stripes and guide.distil must be 0"
        )
    if model.pooling == "parts" and guide.pooling and guide.dense_scale < PARTS_SCALE:
        raise ValueError(
            f"guide.dense_scale must be at least {PARTS_SCALE} with model.pooling parts, got {guide.dense_scale}"
        )
    if guide.focus and (model.kind != "dsa" or model.branches in ("global", "none")):
        raise ValueError("guide.focus needs local branches: model.kind dsa and model.branches both or local")


def read_teacher(guide: GuideConfig, model: DSAReID, num_ids: int, augment: AugmentConfig) -> DSAReID:
    """Reads the frozen teacher of `guide.distil_teacher` and checks that it fits.

    Raises:
        FileNotFoundError, ValueError: see `load_model`; also ValueError if the teacher has a different number of
            identities, different inputs, or feature lengths that `distil_features` can't compare.
    """
    if guide.distil_teacher.startswith("row:"):
        raise ValueError(
            "guide.distil_teacher must be the path of a checkpoint (row:NAME is for dsa-fast tables), "
            f"got {guide.distil_teacher}"
        )
    loaded = load_model(guide.distil_teacher)
    path = guide.distil_teacher
    for name, theirs, ours in (
        ("identities", loaded.model.num_ids, num_ids),
        ("image size", tuple(loaded.size), tuple(augment.size)),
        ("part size", loaded.dsap_size, augment.dsap_size),
        ("parts", loaded.parts, augment.parts),
    ):
        if theirs != ours and not (name.startswith("part") and loaded.model.dsag_stream is None):
            raise ValueError(
                f"guide.distil_teacher must have the same {name} as this training run, {ours}, got {theirs} in {path}"
            )
    dims = [(net.mf_stream.global_dim, net.mf_stream.local_dim) for net in (loaded.model, model)]
    if guide.distil_features and dims[0] != dims[1]:
        raise ValueError(
            "guide.distil_features needs a teacher with features of the same lengths, "
            f"{dims[1]}, got {dims[0]} in {path}"
        )
    return loaded.model.requires_grad_(False)


def start_from(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Loads the weights of a checkpoint into a model, to fine-tune it on other people.

    If the number of identities differs, the classifiers' last layers, which belong to the old identities, are not
    loaded. All other layers must fit.

    Raises:
        FileNotFoundError, ValueError: see `load_model`; also ValueError if the checkpoint is of another network.
    """
    old, new = load_model(path).model.state_dict(), model.state_dict()
    last_layers = {name for name in new if name.startswith("classify_") and ".fc2." in name}
    wrong = sorted(
        (old.keys() ^ new.keys())
        | {name for name in old.keys() & new.keys() - last_layers if old[name].shape != new[name].shape}
    )
    if wrong:
        raise ValueError(
            f"init must be a checkpoint of the same network, got {path}, which differs in {', '.join(wrong[:5])}"
            + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        )
    model.load_state_dict({name: old[name] if old[name].shape == new[name].shape else new[name] for name in new})
