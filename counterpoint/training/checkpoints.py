"""Checkpoints that are written whole, checked before they are read, and kept two deep.

``last.ckpt`` is the newest and ``before.ckpt`` the one before it. Each holds all that a training needs to go on, the
best epoch's weights among it, and is written whole or not at all. A checkpoint is PyTorch's zip archive, which has a
CRC-32 of each of its parts; they are checked before it is read, and no code in it is executed.
"""

import errno
import io
import os
import time
import zipfile
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from rich.console import Console
from torch import Tensor

from counterpoint.errors import Error
from counterpoint.files import replacing
from counterpoint.run import renamed
from counterpoint.training.learner import Learner
from counterpoint.training.selection import Selection

CHECKPOINTS = "checkpoints"
LAST, BEFORE = "last.ckpt", "before.ckpt"
MINUTES = 10.0


class Checkpoints(Checkpoint):
    """Saves at every epoch's end and, within an epoch, ``minutes`` after the last time; keeps the best weights.

    Attributes:
        selection: decides which epoch is the best.
        weights: the model's at the best epoch's end, in the first process.
    """

    def __init__(self, folder: Path, minutes: float, selection: Selection) -> None:
        self.folder = folder
        self.minutes = minutes
        self.saved = time.monotonic()
        self.selection = selection
        self.weights: dict[str, Tensor] = {}

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Not between two batches of one step, whose gradients are in no checkpoint.
        if trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        due = time.monotonic() - self.saved >= 60 * self.minutes
        if trainer.strategy.reduce_boolean_decision(due, all=False):  # clocks differ
            self._save(trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, Learner)
        if self.selection.waited == 0 and trainer.is_global_zero:
            self.weights = pl_module.kept_weights()
        self._save(trainer)

    def _save(self, trainer: lightning.Trainer) -> None:
        trainer.save_checkpoint(self.folder / LAST)
        self.saved = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"selection": self.selection.state(), "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.weights = state["weights"]
        if "selection" in state:
            vars(self.selection).update(state["selection"])
        else:  # version 0.1 stored the best metric alone
            self.selection.metric = state["best"]


class Files(CheckpointIO):
    """Writes checkpoints, each beside the one before it, and reads them, also those of version 0.1."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path = Path(path)
        content = io.BytesIO()  # PyTorch's writer hides the error of a full disk
        torch.save(checkpoint, content)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as file:
                file.write(content.getbuffer())
                file.flush()
                os.fsync(file.fileno())  # before it takes the place of one that is on the disk
                if path.exists():
                    path.replace(path.with_name(BEFORE))
        except OSError as error:
            raise Error(
                f"{path}: cannot be written ({error.strerror or error}); the training stops, and the same command "
                + ("goes on from the last checkpoint" if any(path.parent.glob("*.ckpt")) else "begins anew")
            ) from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        loaded: dict[str, Any] = torch.load(path, map_location, weights_only=True)
        prefix = "model."  # of the weights, in the Lightning module that holds the model
        weights = {name.removeprefix(prefix): tensor for name, tensor in loaded["state_dict"].items()}
        loaded["state_dict"] = {prefix + name: tensor for name, tensor in renamed(weights).items()}
        best = loaded["callbacks"][Checkpoints.__qualname__]
        best["weights"] = renamed(best["weights"])
        return loaded

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


def newest(run: Path, console: Console) -> Path | None:
    """A run's newest checkpoint that is whole, or None where there is none; a damaged one is put aside and named.

    Raises:
        Error: all are damaged, or one cannot be read.
    """
    folder = run / CHECKPOINTS
    for unfinished in folder.glob(f".{LAST}.*"):  # by a process that was killed as it wrote
        unfinished.unlink()
    present = [folder / name for name in (LAST, BEFORE) if (folder / name).exists()]
    if not present:
        return None
    last = next((path for path in present if whole(path)), None)
    if last is None:  # they stay, so that the next call raises the same
        raise Error(f"{folder}: no checkpoint is whole; remove {run} to train anew")
    for path in present[: present.index(last)]:
        aside = path.with_suffix(".damaged")
        path.replace(aside)
        console.print(f"{path}: damaged, and put aside as {aside.name}", markup=False, soft_wrap=True)
    return last


def whole(path: Path) -> bool:
    """Whether a checkpoint agrees with its checksums, and can be read.

    Raises:
        Error: it cannot be read now, for another reason than its content.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return False
        torch.load(
            path, "cpu", weights_only=True, mmap=True
        )  # checks the bytes between the parts; tensors are not read
    except (OSError, MemoryError) as error:
        if isinstance(error, OSError) and error.errno in (None, errno.EINVAL):  # offsets outside of the file
            return False
        reason = getattr(error, "strerror", None) or error or "out of memory"
        raise Error(f"{path}: cannot be read ({reason}); nothing was changed") from error
    except Exception:  # of either reader
        return False
    return True
