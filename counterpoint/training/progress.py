"""A training's output: a line and a row of `epochs.csv` an epoch, and a progress bar."""

import csv
import logging
import time
import warnings
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import Progress

from counterpoint.training.selection import in_words


class EpochBar(Callback):
    """A progress bar on the console that `EpochLog` prints to; Lightning's own would be in its way."""

    def __init__(self, console: Console) -> None:
        self.progress = Progress(console=console, transient=True)
        self.task = self.progress.add_task("")

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.is_global_zero:
            self.progress.start()

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        what = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        total = trainer.num_training_batches
        self.progress.update(self.task, description=what, total=total, completed=batch_idx, refresh=not batch_idx)

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.progress.reset(self.task, description="validation", total=sum(trainer.num_val_batches))

    def on_validation_batch_end(self, *batch: Any) -> None:
        self.progress.advance(self.task)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.progress.stop()

    def on_exception(self, *error: Any) -> None:
        self.progress.stop()


class EpochLog(Callback):
    """One line per epoch, on the console and in `epochs.csv`."""

    def __init__(self, path: Path, monitor: str, console: Console) -> None:
        self.path = path
        self.monitor = monitor
        self.columns = ("epoch", "train_loss", "validation_loss", monitor, "learning_rate", "seconds")
        self.console = console
        self.began = time.monotonic()
        self.earlier = 0.0  # seconds of the epoch in a process that was killed

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Duration of the epoch so far."""
        return self.earlier + time.monotonic() - self.began

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.earlier = state["seconds"]

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.began, self.earlier = time.monotonic(), 0.0

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        metrics: dict[str, Any] = {name: float(value) for name, value in trainer.callback_metrics.items()}
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        row = {"epoch": trainer.current_epoch + 1, "learning_rate": rate, "seconds": self.seconds}
        row |= {name: metrics[name] for name in self.columns if name in metrics}
        # A resumed training repeats the epoch that was cut off: keep the rows before it.
        rows = [old for old in self._rows() if int(old["epoch"]) < row["epoch"]]
        temporary = self.path.with_suffix(".tmp")
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows([*rows, row])
        temporary.replace(self.path)
        metric = in_words(self.monitor, row[self.monitor])
        self.console.print(
            f"epoch {row['epoch']:>2}/{trainer.max_epochs}  train loss {row['train_loss']:.5f}  "
            f"validation loss {row['validation_loss']:.5f}  {metric}  ({row['seconds']:.0f} s)",
            highlight=False,
            soft_wrap=True,
        )

    def _rows(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        try:
            with self.path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            [int(row["epoch"]) for row in rows]
            return rows
        except (KeyError, TypeError, ValueError, csv.Error):  # a spreadsheet saved it
            aside = self.path.with_suffix(".damaged")
            self.path.replace(aside)
            self.console.print(f"{self.path}: changed by another program; put aside as {aside.name}", soft_wrap=True)
            return []


class quiet:  # noqa: N801 - used as a context manager
    """Without Lightning's advice, which is for its own users."""

    def __enter__(self) -> None:
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        for message in (
            ".*does not have many workers.*",
            ".*LeafSpec.*",
            ".*in eval mode at the start of training.*",
            ".*tensorboard.*",
            ".*sync_dist=True.*",  # what is logged is the same in all processes
            ".*broadcast_buffers.*",
            ".*your dataloader is not resumable.*",  # its sampler is
        ):
            warnings.filterwarnings("ignore", message)
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    def __exit__(self, *error: Any) -> None:
        self._warnings.__exit__(*error)
