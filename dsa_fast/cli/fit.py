"""`dsa-fast fit`."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

from rich.table import Table

from dsa_fast.configs.augment import AugmentConfig
from dsa_fast.configs.model import GuideConfig, ModelConfig
from dsa_fast.configs.training import DataConfig, LossConfig, OptimConfig, TrainerConfig
from dsa_fast.terminal import console, say


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
    """Train on a data set.

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

    Examples:
        dsa-fast fit --config quick --data.root people --out runs/quick
        dsa-fast fit --config dsa_reid --config rows/csa --data.root DIR --trainer.max_epochs 60
    """
    from lightning.pytorch.utilities import rank_zero_only

    from dsa_fast.training import fit as run

    try:
        result = run(data, model, loss, optim, augment, trainer, out, resume, seed, init, guide=guide)
    except KeyboardInterrupt:
        saved = (out / "checkpoints" / "last.ckpt").exists()
        say(
            f"stopped; --resume continues after the last finished epoch in {out}"
            if saved
            else "stopped before the first epoch was finished, so nothing is saved: repeat the command to start again",
            file=sys.stderr,
        )
        raise
    if getattr(rank_zero_only, "rank", 0) != 0:
        return
    if result.scores:
        print_scores({"after training": result.scores})
    say(f"Checkpoint: {result.checkpoint}\nLog:        {result.log}")
    if model.branches == "none":
        say("Not tested: a backbone alone has no features")
        words = ["dsa-fast", "fit", "--data.root", "DIR", "--out", f"{out}_reid", "--model.dsag", "false"]
        words += ["--model.backbone", model.backbone]
        words += ["--model.width", str(model.width)] if model.width != 1 else []
        words += ["--augment.size", str(list(augment.size)), "--model.pretrained", str(result.checkpoint)]
        say(f"Next:       {shlex.join(words)}")
        return
    if not result.scores:
        why = (
            "--trainer.eval_every is 0"
            if result.testable
            else f"{data.test_root or data.root} has no query and gallery"
        )
        say(f"Not tested: {why}")
    say(f"Next:       {_next_command(result.checkpoint, data, result.testable)}")


def _next_command(checkpoint: Path, data: DataConfig, testable: bool) -> str:
    """Returns a command line for the checkpoint: a test, or an export if there is nothing to test on."""
    root, name, options = data.root, data.name, data.options
    if data.test_root is not None:
        root, name, options = data.test_root, data.test_name, data.test_options
    words = ["dsa-fast", "eval", str(checkpoint), root]
    if not testable:
        words = ["dsa-fast", "export", str(checkpoint)]
    else:
        words += ["--name", name] if name != "auto" else []
        words += ["--options", json.dumps(options)] if options else []
        words += [] if data.check_counts else ["--check_counts", "false"]
    return shlex.join(words)


def print_scores(rows: dict[str, dict[str, float]]) -> None:
    """Prints a table: one row per method, with mAP and the other scores in percent."""
    names = list(dict.fromkeys(name for scores in rows.values() for name in scores))
    table = Table()
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right")
    for row, scores in rows.items():
        table.add_row(row, *(f"{100 * scores[name]:.1f}" if name in scores else "" for name in names))
    console().print(table)
