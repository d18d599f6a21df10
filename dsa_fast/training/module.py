"""The training step and the evaluation, as a LightningModule."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor, nn

from dsa_fast.data.dataset import PersonBatch, PersonItem
from dsa_fast.data.transforms import AugmentConfig, Draws, augment_batch, eval_transform, flip_lut
from dsa_fast.evaluation import evaluate
from dsa_fast.models import DSALoss, ModelConfig, build_model, load_model, part_weights
from dsa_fast.models.checkpoint import describe_network
from dsa_fast.training.config import CompileMode, LossConfig, OptimConfig
from dsa_fast.training.schedule import learning_rate


class ReIDTask(lightning.LightningModule):
    """Trains a re-ID model on P x K batches of stored people.

    Everything random in a step is drawn from (seed, epoch, batch), so that a resumed run goes on with the same numbers
    as one that was never interrupted.

    With several processes each has P x K batches of its own (`PKSampler` deals an epoch's batches out in turn), batch
    norms of its own, and gradients are averaged: a step of N processes is one of a single process that accumulates the
    gradients of the same N batches. Triplets are found within each process's batch, or with `LossConfig.gather` among
    all. The running statistics of batch norms are those of process 0. A checkpoint fits any number of processes.

    Args:
        num_ids: identities in the training set.
        model: the network.
        loss: the losses' weights.
        optim: optimiser and learning rate.
        augment: the transform of training images.
        seed: seed of the transform's draws.
        compile: how the network is compiled for training.

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
    ) -> None:
        super().__init__()
        self.num_ids, self.seed, self._compile = num_ids, seed, compile
        self.model_config = model or ModelConfig()
        self.loss_config = loss or LossConfig()
        self.optim_config = optim or OptimConfig()
        self.augment = augment or AugmentConfig()
        self._mirror = flip_lut(self.augment)  # no buffer: it belongs into no checkpoint and is the same everywhere
        self.model = build_model(num_ids, self.model_config)
        weights = asdict(self.loss_config)
        self._visibility: float = weights.pop("visibility")
        self.loss = DSALoss(**weights)
        self._features: list[list[tuple[Tensor, Tensor, Tensor]]] = [[], []]

    def on_fit_start(self) -> None:
        """Brings the table of flips to this device, lays the weights out as a GPU likes them, compiles the network."""
        if self._mirror is not None:
            self._mirror = self._mirror.to(self.device)
        if self.device.type == "cuda":
            self.model.to(memory_format=torch.channels_last)
        if self._compile != "off":
            self.model.compile(mode=self._compile)  # in place: parameters keep their names

    def training_step(self, batch: PersonBatch, batch_index: int) -> Tensor:
        """Transform and warp on this device, forward, losses."""
        labels = batch["label"]
        draws = Draws.sample(len(labels), self.augment, self._generator(batch_index))
        images, dsap = augment_batch(
            batch["image"],
            batch["iuv"],
            draws,
            self.augment,
            indices=batch.get("index"),
            dtype=_input_dtype(labels),
            mirror=self._mirror,
            channels_last=labels.is_cuda,
        )
        output = self.model(images, dsap)
        total: Tensor
        seen = part_weights(dsap, self._visibility) if self._visibility else None
        total, terms = self.loss(output, labels, seen)
        # One reduction for all: the mean over processes is what is logged.
        values = self.trainer.strategy.reduce(torch.stack([total.detach(), *terms.values()]), reduce_op="mean")
        self.log("loss", values[0], prog_bar=True, batch_size=len(images))
        logged = {f"loss/{name}": value for name, value in zip(terms, values[1:], strict=True)}
        self.log_dict(logged, batch_size=len(images))
        return total

    def _generator(self, batch_index: int) -> torch.Generator:
        # Random access by place in the run: no state to save, none to lose.
        # The batch's number is the epoch's, not the process's: any number of processes draws the same.
        number = batch_index * self.trainer.world_size + self.global_rank
        place = np.random.SeedSequence([self.seed, self.current_epoch, number])
        return torch.Generator().manual_seed(int(place.generate_state(1, np.uint64)[0] >> np.uint64(1)))

    def on_validation_epoch_start(self) -> None:
        """Forgets the features of the last evaluation; all processes take process 0's running statistics."""
        self._features = [[], []]
        if self.trainer.world_size > 1:
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, 0)

    def validation_step(self, batch: PersonItem, batch_index: int, dataloader_idx: int = 0) -> None:
        """Embeds query (loader 0) and gallery (loader 1)."""
        features = self.embed(batch["image"])
        self._features[dataloader_idx].append((features.float().cpu(), batch["label"].cpu(), batch["camid"].cpu()))

    def on_validation_epoch_end(self) -> None:
        """Logs mAP, mINP and CMC; the processes have embedded shares of the test set, which each then has whole."""
        if self.trainer.sanity_checking or not all(self._features):
            return
        query, gallery = (self._whole(number) for number in range(2))
        result = evaluate(*query, *gallery)
        scores = result.summary()
        self.log("mAP", scores.pop("mAP"), prog_bar=True)
        self.log_dict(scores)

    def _whole(self, number: int) -> list[Tensor]:
        """Features, pids and camids of query (0) or gallery (1), of all processes, in the order of their lists."""
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
        """Test vectors [B, D] of stored images, uint8 [B, 3, h, w]."""
        with torch.autocast(images.device.type, enabled=False):  # so that `dsa-fast eval` gives the same scores
            vectors: Tensor = self.model.embed(eval_transform(images, self.augment.size))
        return vectors

    def configure_optimizers(self) -> Any:
        """Adam, and the learning rate as a function of the place in the run, whatever the number of processes."""
        config = self.optim_config
        # One kernel for all weights; mixed precision cannot clip the gradients that such a one unscales itself.
        fused = self.device.type in ("cpu", "cuda") and not self.trainer.gradient_clip_val
        optimizer = torch.optim.Adam(self.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=fused)
        epochs = max(self.trainer.max_epochs or 1, 1)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda _: learning_rate(self._epochs_done(), config, epochs) / config.lr
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _epochs_done(self) -> float:
        """Epochs since the start of training, the batches of this one counted as parts of it."""
        done = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        return self.current_epoch + (done / self.trainer.num_training_batches if done else 0)

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
    """What the first layers compute in: under autocast they would cast their input, which then need not be wider."""
    kind = like.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32


def start_from(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Gives a model the weights of a checkpoint, to fine-tune it on other people.

    The classifiers' last layers, which belong to the old identities, are left as they are where the number of
    identities differs; all else must fit.

    Raises:
        FileNotFoundError, ValueError: see `load_model`; also ValueError when the checkpoint is of another network.
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
