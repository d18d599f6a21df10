"""Checkpoints that a killed process or a full disk can't take away, and a stop for training that has failed."""

from __future__ import annotations

import contextlib
import os
import warnings
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.io import TorchCheckpointIO

from dsa_fast.files import atomic_path

__all__ = ["StopIfNotFinite", "SyncedCheckpoints", "find_last"]

LAST, _PREVIOUS = "last.ckpt", "previous.ckpt"


class SyncedCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint next to its place, waits until it is on the disk, and renames it.

    The checkpoint before it is kept as `previous.ckpt` until then. Lightning's own way moves a file from the temporary
    folder, which on another file system is a copy that can be cut.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Writes a checkpoint.

        Raises:
            OSError: it can't be written; the checkpoint before it is kept.
        """
        target = Path(path)
        weights = ("state_dict", "optimizer_states")
        checkpoint = {key: value if key in weights else _as_text(value) for key, value in checkpoint.items()}
        previous = target.with_name(_PREVIOUS)
        with contextlib.suppress(OSError):  # some file systems have no hard links; the rename is atomic without it
            previous.unlink(missing_ok=True)
            os.link(target, previous)
        with atomic_path(target, sync=True) as temporary:
            try:
                torch.save(checkpoint, temporary)
            except RuntimeError as error:  # PyTorch's of a full disk
                raise OSError(f"{target} could not be written, and is as before: {error}") from error
        previous.unlink(missing_ok=True)


def _as_text(value: Any) -> Any:
    """Returns a value whose paths are text, and whose texts are UTF-8: PyTorch can't read others.

    Lightning keeps a path with `::` in it as a `Path`.
    """
    if isinstance(value, (str, Path)):
        return str(value).encode(errors="backslashreplace").decode()
    if type(value) is dict:
        return {_as_text(key): _as_text(item) for key, item in value.items()}
    return [_as_text(item) for item in value] if type(value) is list else value


def find_last(folder: Path) -> Path | None:
    """Returns the last whole checkpoint of a run's folder of checkpoints; None if it has none.

    If `last.ckpt` is damaged or missing, it becomes the one before, with a warning.

    Raises:
        ValueError: there are only damaged checkpoints.
    """
    last, previous = folder / LAST, folder / _PREVIOUS
    if _is_whole(last):
        previous.unlink(missing_ok=True)
        return last
    if _is_whole(previous):
        warnings.warn(f"{last} is missing or damaged; going on from the checkpoint before it", stacklevel=3)
        previous.replace(last)
        return last
    if last.exists():
        raise ValueError(f"resume needs a whole checkpoint, got {last}, which is damaged, and none before it")
    return None


def _is_whole(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return {"epoch", "global_step", "state_dict"} <= set(state)
    except Exception:  # torch raises many types of error
        return False


class StopIfNotFinite(Callback):
    """Stops a training run that has failed: its loss or its weights are no longer finite.

    It reads the loss when it is logged, not at each step, because reading it waits for the device.

    Args:
        every: number of steps between two looks at the loss.
    """

    def __init__(self, every: int) -> None:
        self._every = every

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % self._every == 0:
            self._check_loss(trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Checks loss and weights before the checkpoint of the epoch is written."""
        self._check_loss(trainer)
        fine = torch.stack([weight.detach().isfinite().all() for weight in pl_module.parameters()])
        if not bool(fine.all()):
            name = next(name for name, weight in pl_module.named_parameters() if not bool(weight.isfinite().all()))
            raise ValueError(_words(f"weights are not finite ({name})", trainer))

    def _check_loss(self, trainer: lightning.Trainer) -> None:
        loss = trainer.callback_metrics.get("loss")
        if loss is not None and not bool(torch.isfinite(loss).all()):
            raise ValueError(_words(f"the loss is {float(loss)}", trainer))


def _words(what: str, trainer: lightning.Trainer) -> str:
    return (
        f"training has failed: {what} at step {trainer.global_step}, in epoch {trainer.current_epoch}; the checkpoint "
        "of the last finished epoch is kept. Try a lower optim.lr, or trainer.precision 32-true"
    )
