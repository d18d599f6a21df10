"""`dsa-fast fit`."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only
from rich.table import Table

from dsa_fast.data.transforms import AugmentConfig
from dsa_fast.models import GuideConfig, ModelConfig
from dsa_fast.terminal import Console
from dsa_fast.training import DataConfig, LossConfig, OptimConfig, TrainerConfig
from dsa_fast.training import fit as run


def fit(
    *,
    data: DataConfig,
    model: ModelConfig = ModelConfig(),
    loss: LossConfig = LossConfig(),
    optim: OptimConfig = OptimConfig(),
    augment: AugmentConfig = AugmentConfig(),
    trainer: TrainerConfig = TrainerConfig(),
    guide: GuideConfig = GuideConfig(),
    out: Path = Path("runs/fit"),
    resume: bool = False,
    seed: int = 0,
    init: Path | None = None,
) -> None:
    """Train on a data set: `dsa-fast fit --data.root DIR --config dsa_reid`.

    Args:
        data: the data set to train and test on.
        model: the network.
        loss: weights of the losses.
        optim: optimizer and learning rate.
        augment: augmentation of training images.
        trainer: epochs, devices, precision and other options of the run.
        guide: guides of the MF-Stream in training, in addition to the fusion.
        out: folder for checkpoints, logs and config.yaml.
        resume: continue after the last finished epoch of the run in `out`.
        seed: random seed of weights, batches and transforms.
        init: checkpoint of an earlier run to start from (fine-tuning).
    """
    try:
        result = run(data, model, loss, optim, augment, trainer, out, resume, seed, init, guide=guide)
    except KeyboardInterrupt:
        if (out / "checkpoints" / "last.ckpt").exists():
            Console(stderr=True).print(f"stopped; --resume continues after the last finished epoch in {out}")
        raise
    if getattr(rank_zero_only, "rank", 0) != 0:
        return
    if result.scores:
        print_scores({"after training": result.scores})
    Console().print(f"Checkpoint: {result.checkpoint}\nLog:        {result.log}", highlight=False)


def print_scores(rows: dict[str, dict[str, float]]) -> None:
    """Prints a table: one row per method, with mAP and the other scores in percent."""
    names = list(dict.fromkeys(name for scores in rows.values() for name in scores))
    table = Table()
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right")
    for row, scores in rows.items():
        table.add_row(row, *(f"{100 * scores[name]:.1f}" if name in scores else "" for name in names))
    Console().print(table)
