"""Options of a training run. The `dsa-fast fit` command and its YAML files have the same options."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from dsa_fast.configs.datasets import DatasetOptions

#: Mode of torch.compile.
CompileMode = Literal["off", "default", "reduce-overhead", "max-autotune"]


@dataclass(frozen=True)
class DataConfig:
    """The people to train and test on.

    Attributes:
        root: folder of a data set, or a folder up to three levels above it; or a CSV file. docs/datasets.md lists the
            supported data sets.
        iuv: folder of the IUV maps, with the same subfolders as the data set; by default `iuv` inside the data set.
            Images without a map train with mean-filled parts.
        iuv_order: content of the maps' red, green and blue channels; `auto` detects it for each file.
        name: name of the data set; `auto` detects it. With `model.branches` none, `folder` takes all images of a folder
            that have a map.
        options: options of the data set, such as `{kind: labeled}` for CUHK03.
        test_root: another data set to test on, which is not used for training; by default the data set in root. Nothing
            is tested with `model.branches` none.
        test_name: name of that data set.
        test_options: options of that data set.
        check_counts: fails unless the numbers of images match the published ones.
        verify: decodes every file before training and lists broken files; a resumed run decodes only if a file has
            changed.
        p: identities per batch.
        k: images of each identity per batch.
        test_batch: images per batch in evaluation.
        workers: number of processes that read images; 0 reads in the main process. They read training images only with
            `store` disk.
        store: location of the training images and their maps, as bytes: `device`, on the training device; `pinned`, in
            pinned host memory; `disk`, in their files. `auto` takes the first of these with enough room.
        validation_ids: holds out this many identities of the training set, chosen by `validation_seed`, and tests on
            them instead of query and gallery. For each identity, one image per camera is a query. The other images are
            the gallery. Use it to choose options, and look at the test set only once; 0 for none.
        validation_seed: random seed for the choice of identities to hold out.
        cache: folder for the store's file, which makes the next start faster. `auto` is `.dsa_fast` in the data set's
            folder or, if that is not writable, `store` in the run's folder; `off` for none.
    """

    root: str
    iuv: str | None = None
    iuv_order: Literal["auto", "IUV", "VUI"] = "auto"
    name: str = "auto"
    options: DatasetOptions = field(default_factory=DatasetOptions)
    test_root: str | None = None
    test_name: str = "auto"
    test_options: DatasetOptions = field(default_factory=DatasetOptions)
    check_counts: bool = True
    verify: bool = True
    p: int = 16
    k: int = 4
    test_batch: int = 64
    workers: int = 2
    store: Literal["auto", "device", "pinned", "disk"] = "auto"
    validation_ids: int = 0
    validation_seed: int = 0
    cache: str = "auto"

    def __post_init__(self) -> None:
        for name, low in (("p", 1), ("k", 1), ("test_batch", 1), ("workers", 0), ("validation_ids", 0)):
            if getattr(self, name) < low:
                raise ValueError(f"data.{name} must be at least {low}, got {getattr(self, name)}")
        if self.validation_ids and self.test_root is not None:
            raise ValueError("data.validation_ids must be 0 with data.test_root, because they are two ways to test")


@dataclass(frozen=True)
class LossConfig:
    """Weights of the losses (paper, section 4.2), and of losses of other works, which the paper does not have.

    Attributes:
        id_mf: ID losses on the MF-Stream's features.
        triplet: batch-hard triplet losses on the fused features.
        id_fused: ID losses on the fused features.
        margin: margin of the triplet losses.
        label_smoothing: share of the target that is spread evenly over all identities.
        triplet_mf: triplet losses on the MF-Stream's own features, in addition to those on the fused features, which
            vanish once the fused features separate all identities; 0 in the paper.
        visibility: weights the ID losses of a local branch by the visible share of its part. An image with at least
            this share of the part's texels filled has full weight, other images proportionally less. Then the weights
            are scaled to a mean of 1. 0 gives equal weights, as in the paper. Images show only one side of a part and
            maps are sparse, so 0.05 is already a large share.
        gather: with several processes, mines the hardest images of the triplet losses in all processes' batches;
            otherwise each process uses only its own P x K images. Circle and multi-similarity losses do the same.
        circle: circle loss (Sun et al., https://arxiv.org/abs/2002.10857); not in the paper. This and the next loss
            need pytorch-metric-learning.
        circle_margin: its relaxation m.
        circle_scale: its scale gamma.
        multi_similarity: multi-similarity loss (Wang et al., https://arxiv.org/abs/1904.06627); not in the paper.
        multi_similarity_alpha: its scale of positive pairs.
        multi_similarity_beta: its scale of negative pairs.
        multi_similarity_base: its offset lambda of similarities.
        center: center loss (Wen et al., ECCV 2016): half the squared distance to the center of the identity, which is
            learned; not in the paper. Luo et al. use 0.0005.
        center_lr: learning rate of the centers, which is constant. They have no weight decay.
        metric_on: features of the circle, multi-similarity and center losses: `z`, the fused ones, or `f`, those of the
            MF-Stream.
    """

    id_mf: float = 0.5
    triplet: float = 1.5
    id_fused: float = 1.0
    margin: float = 0.3
    label_smoothing: float = 0.1
    triplet_mf: float = 0.0
    visibility: float = 0.0
    gather: bool = False
    circle: float = 0.0
    circle_margin: float = 0.4
    circle_scale: float = 80.0
    multi_similarity: float = 0.0
    multi_similarity_alpha: float = 2.0
    multi_similarity_beta: float = 50.0
    multi_similarity_base: float = 0.5
    center: float = 0.0
    center_lr: float = 0.01
    metric_on: Literal["z", "f"] = "z"

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, (int, float)) and not math.isfinite(value):
                raise ValueError(f"loss.{item.name} must be finite, got {value}")
        for name in ("circle", "multi_similarity", "center"):
            if getattr(self, name) < 0:
                raise ValueError(f"loss.{name} must be at least 0, got {getattr(self, name)}")
        for name in ("circle_scale", "multi_similarity_alpha", "multi_similarity_beta", "center_lr"):
            if not getattr(self, name) > 0:
                raise ValueError(f"loss.{name} must be above 0, got {getattr(self, name)}")
        if self.metric_on not in ("z", "f"):
            raise ValueError(f"loss.metric_on must be z or f, got {self.metric_on!r}")
        if not 0 <= self.visibility <= 1:
            raise ValueError(f"loss.visibility must be a share in [0, 1], got {self.visibility}")


@dataclass(frozen=True)
class OptimConfig:
    """Adam and the learning rate schedule (paper, section 4.2).

    Attributes:
        lr: learning rate after the warm-up.
        warmup_lr: learning rate at the start.
        warmup_epochs: number of epochs over which the learning rate grows linearly.
        decay_epochs: after the warm-up, the learning rate is multiplied by `decay` every `decay_epochs` epochs.
        decay: factor of each decay.
        weight_decay: Adam's L2 weight decay.
        schedule: schedule after the warm-up: `steps`, as above, or `cosine`, half a cosine from `lr` down to
            `warmup_lr` at the end of training (then `decay_epochs` and `decay` have no effect).
    """

    lr: float = 8e-4
    warmup_lr: float = 8e-6
    warmup_epochs: float = 20
    decay_epochs: float = 40
    decay: float = 0.5
    weight_decay: float = 5e-4
    schedule: Literal["steps", "cosine"] = "steps"

    def __post_init__(self) -> None:
        for name in ("lr", "decay_epochs", "decay"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"optim.{name} must be above 0 and finite, got {getattr(self, name)}")
        for name in ("warmup_lr", "warmup_epochs", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"optim.{name} must be at least 0 and finite, got {getattr(self, name)}")


@dataclass(frozen=True)
class TrainerConfig:
    """Options of Lightning's Trainer, which performs the run.

    Attributes:
        max_epochs: number of epochs.
        eval_every: evaluates on query and gallery every `eval_every` epochs and after the last epoch; 0: never.
        accelerator: `auto`, `cpu`, `gpu`.
        devices: number of devices, a list of device indices, or `auto`.
        precision: `32-true`, `bf16-mixed`, `16-mixed`.
        strategy: Lightning's strategy, such as `ddp`.
        compile: compiles the network (torch.compile): `default`, `reduce-overhead` (CUDA graphs), `max-autotune`;
            `off` does not compile. Checkpoints have the same format either way.
        log_every: number of steps between two log lines.
        logger: where the log goes besides `log/metrics.csv`: `csv` (nowhere else), `tensorboard`, `wandb` or `mlflow`.
            Their own environment variables apply, such as WANDB_MODE=offline or MLFLOW_TRACKING_URI.
        project: project in wandb, experiment in mlflow.
        pictures: number of queries in the picture of ranked lists that each evaluation makes, next to a picture of part
            images; with `model.branches` none, number of images in the picture of predicted parts that each epoch
            makes; 0 for no pictures.
        deterministic: `warn` uses deterministic algorithms and warns if there is none; `true` fails if there is none.
        progress: shows a progress bar.
        accumulate: number of batches whose gradients are accumulated for one optimizer step. Each batch has its own
            triplets and batch norms, so the result differs from that of a larger batch.
        ema: keeps an exponential moving average of the weights with this decay, and tests and saves it; 0: none. It
            averages over about 1 / (1 - ema) steps.
        extra: any other argument of lightning.Trainer.
    """

    max_epochs: int = 320
    eval_every: int = 20
    accelerator: str = "auto"
    devices: int | list[int] | Literal["auto"] = "auto"
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    strategy: str = "auto"
    compile: CompileMode = "off"
    log_every: int = 10
    logger: Literal["csv", "tensorboard", "wandb", "mlflow"] = "tensorboard"
    project: str = "dsa_fast"
    pictures: int = 4
    deterministic: bool | Literal["warn"] = "warn"
    progress: bool = True
    accumulate: int = 1
    ema: float = 0.0
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, low in (("max_epochs", 1), ("eval_every", 0), ("log_every", 1), ("accumulate", 1), ("pictures", 0)):
            if getattr(self, name) < low:
                raise ValueError(f"trainer.{name} must be at least {low}, got {getattr(self, name)}")
        if self.logger not in ("csv", "tensorboard", "wandb", "mlflow"):
            raise ValueError(f"trainer.logger must be csv, tensorboard, wandb or mlflow, got {self.logger!r}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"trainer.ema must be in [0, 1), got {self.ema}")
