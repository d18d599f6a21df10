"""What a training run can be told; the `dsa-fast fit` command and its YAML files mirror these classes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

#: How torch.compile treats the network.
CompileMode = Literal["off", "default", "reduce-overhead", "max-autotune"]


@dataclass(frozen=True)
class DataConfig:
    """The people to train and test on.

    Attributes:
        root: folder of a data set, or one up to three folders above it; or a CSV file. docs/datasets.md shows what is
            known.
        iuv: folder of the IUV maps, mirroring the data set's folders; by default `iuv` inside it. Images without a map
            train with mean-filled parts.
        iuv_order: what the maps' red, green and blue hold; `auto` tells it from each file.
        name: which data set it is; `auto` takes what is there.
        options: of the data set, such as `{kind: labeled}` for CUHK03.
        test_root: another data set to test on, which is trained on nowhere; by default the one in root.
        test_name: which data set that is.
        test_options: of that data set.
        check_counts: whether the numbers of images must be the published ones.
        verify: decodes every file before training and names those that are broken; a resumed run decodes only if a
            file has changed.
        p: identities in a batch.
        k: images of each identity in a batch.
        test_batch: images in a batch of the evaluation.
        workers: processes that read images; 0 reads in the main process. Training images are read by them only with
            `store` disk.
        store: where the training images and their maps are, as bytes: `device`, on the training device; `pinned`, in
            pinned host memory; `disk`, in their files. `auto` takes the first of these that has room.
        validation_ids: holds out so many identities of the training set, chosen by `validation_seed`, and tests on
            them instead of query and gallery: an image of each by each camera is a query, the others are the gallery.
            Choose options with it, and look at the test set once; 0 for none.
        validation_seed: which identities are held out.
        cache: folder for the store's file, which makes the next start quick; `auto` is `.dsa_fast` in the data set's
            folder or, where that cannot be written, `store` in the run's folder; `off` for none.
    """

    root: str
    iuv: str | None = None
    iuv_order: Literal["auto", "IUV", "VUI"] = "auto"
    name: str = "auto"
    options: dict[str, Any] = field(default_factory=dict)
    test_root: str | None = None
    test_name: str = "auto"
    test_options: dict[str, Any] = field(default_factory=dict)
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
            raise ValueError("data.validation_ids must be 0 with data.test_root: they are two ways to test")


@dataclass(frozen=True)
class LossConfig:
    """Weights of the losses (paper, section 4.2).

    Attributes:
        id_mf: ID losses on the MF-Stream's features.
        triplet: batch-hard triplet losses on the fused features.
        id_fused: ID losses on the fused features.
        margin: the triplet losses' margin.
        label_smoothing: share of the target given to all identities evenly.
        triplet_mf: triplet losses on the MF-Stream's own features, beside those on the fused ones, which fade once the
            fused features tell all apart; 0 in the paper.
        visibility: weighs the ID losses of a local branch by how much of its part is seen: an image with at least this
            share of the part's texels touched counts fully, others in proportion, before the weights are scaled to a
            mean of 1; 0 counts all alike, as the paper does. Parts are seen from one side at a time and maps are
            sparse: 0.05 is much.
        gather: with several processes, the triplet losses find their hardest images among all processes' batches;
            otherwise each process among its own P x K images.
    """

    id_mf: float = 0.5
    triplet: float = 1.5
    id_fused: float = 1.0
    margin: float = 0.3
    label_smoothing: float = 0.1
    triplet_mf: float = 0.0
    visibility: float = 0.0
    gather: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.visibility <= 1:
            raise ValueError(f"loss.visibility must be a share in [0, 1], got {self.visibility}")


@dataclass(frozen=True)
class OptimConfig:
    """Adam and the learning rate's course (paper, section 4.2).

    Attributes:
        lr: learning rate after the warm-up.
        warmup_lr: learning rate at the start.
        warmup_epochs: the learning rate grows linearly over these.
        decay_epochs: then it is multiplied by `decay` each so many epochs.
        decay: factor of each decay.
        weight_decay: Adam's L2 weight decay.
        schedule: what follows the warm-up: `steps`, as above, or `cosine`, half a cosine from `lr` down to `warmup_lr`
            at the end of training (then `decay_epochs` and `decay` do nothing).
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
            if not getattr(self, name) > 0:
                raise ValueError(f"optim.{name} must be above 0, got {getattr(self, name)}")
        for name in ("warmup_lr", "warmup_epochs", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"optim.{name} must be at least 0, got {getattr(self, name)}")


@dataclass(frozen=True)
class TrainerConfig:
    """How the run goes; Lightning's Trainer does the work.

    Attributes:
        max_epochs: epochs to train.
        eval_every: evaluates on query and gallery after each so many epochs and after the last; 0: never.
        accelerator: `auto`, `cpu`, `gpu`.
        devices: how many, or which, or `auto`.
        precision: `32-true`, `bf16-mixed`, `16-mixed`.
        strategy: Lightning's strategy, such as `ddp`.
        compile: compiles the network (torch.compile): `default`, `reduce-overhead` (CUDA graphs), `max-autotune`;
            `off` runs it as it is. Checkpoints are the same either way.
        log_every: steps between two log lines.
        deterministic: `warn` uses deterministic algorithms wherever there is one; `true` fails where there is none.
        progress: shows a progress bar.
        accumulate: batches whose gradients are added up for one step of the optimiser. Each batch has its own triplets
            and batch norms: this is not the same as a larger batch.
        ema: keeps an exponential moving average of the weights with this decay, and tests and saves that; 0: none. It
            remembers about 1 / (1 - ema) steps.
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
    deterministic: bool | Literal["warn"] = "warn"
    progress: bool = True
    accumulate: int = 1
    ema: float = 0.0
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, low in (("max_epochs", 1), ("eval_every", 0), ("log_every", 1), ("accumulate", 1)):
            if getattr(self, name) < low:
                raise ValueError(f"trainer.{name} must be at least {low}, got {getattr(self, name)}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"trainer.ema must be in [0, 1), got {self.ema}")
