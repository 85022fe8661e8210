"""Train a run, or go on with one that was interrupted."""

import csv
import dataclasses
import json
import logging
import os
import shutil
import time
import warnings
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from rich.progress import Progress

from counterpoint.data.clip import present
from counterpoint.data.datamodule import ClipDataModule
from counterpoint.data.dataset import ClipDataset
from counterpoint.errors import CounterpointError
from counterpoint.models.categorizer import Categorizer
from counterpoint.models.correlation import Tower
from counterpoint.recipes import Recipe, TowerRecipe, check
from counterpoint.run import DATA_FILE, Run, write_json
from counterpoint.training.allocator import keep_freed_memory
from counterpoint.training.correlation import CorrelationLearner
from counterpoint.training.learner import CategorizationLearner, Learner

CHECKPOINTS = "checkpoints"
LAST = "last.ckpt"


def train(
    run: Run,
    data: ClipDataset,
    validation: ClipDataset,
    *,
    tower: Run | None = None,
    workers: int = 0,
    devices: int | str = "auto",
    console: Console | None = None,
) -> float:
    """Train until validation stops improving, keep the best weights, and return their validation GAP.

    The run folder is written first and holds a checkpoint of every epoch's end, so that the same call goes on where a
    killed one stopped; on a CPU the weights are then bit for bit those of an uninterrupted training. An error before
    the first epoch's end leaves no folder. With no epochs at all the weights are those that were drawn.

    Raises:
        CounterpointError: the folder holds a finished run, or one with another recipe, taxonomy, features or clips;
            or the clips leave nothing to learn or to measure; or the training diverges.
    """
    console = console or Console(stderr=True)
    check(run.recipe)
    clips = {"training": data, "validation": validation}
    _check_clips(run, clips)
    last = begin(run, tower, clips)
    if last is not None:
        console.print(f"{run.folder}: going on from the last finished epoch", markup=False, soft_wrap=True)
    try:
        return _fit(run, data, validation, last, workers, devices, console)
    except Exception:
        if not (run.folder / CHECKPOINTS / LAST).exists():  # nothing to go on from: it would only be in the way
            shutil.rmtree(run.folder, ignore_errors=True)
        raise


def _fit(
    run: Run,
    data: ClipDataset,
    validation: ClipDataset,
    last: Path | None,
    workers: int,
    devices: int | str,
    console: Console,
) -> float:
    keep_freed_memory()
    training = run.recipe.training
    torch.manual_seed(training.seed)
    learner = _learner(run)
    folder = run.folder / CHECKPOINTS
    best = ModelCheckpoint(
        folder,
        filename="best",
        monitor=learner.monitor,
        mode="max",
        save_weights_only=True,
        enable_version_counter=False,
    )
    # Another one, since Lightning's own `save_last` leaves out the epochs that are not better.
    newest = ModelCheckpoint(folder, filename=LAST.removesuffix(".ckpt"), enable_version_counter=False)
    stop = StopEarly(learner.monitor, mode="max", patience=training.stop_patience)
    callbacks: list[Callback] = [stop, best, newest, EpochLog(run.folder / "epochs.csv", learner.monitor, console)]
    if console.is_terminal:
        callbacks.append(EpochBar(console))
    with _quiet():
        trainer = lightning.Trainer(
            max_epochs=training.max_epochs,
            precision=training.precision,  # type: ignore[arg-type]
            accumulate_grad_batches=training.accumulate,
            devices=devices,
            callbacks=callbacks,
            logger=TensorBoardLogger(run.folder, name="tensorboard", version=""),
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
        )
        batches = ClipDataModule(
            data,
            validation,
            run.features,
            batch_size=training.batch_size,
            max_steps=run.recipe.max_steps,
            workers=workers,
            seed=training.seed,
        )
        if not training.max_epochs:
            trainer.validate(learner, batches, verbose=False)
            run.save_weights(learner.model)
            return float(trainer.callback_metrics[learner.monitor])
        try:
            trainer.fit(learner, batches, ckpt_path=last, weights_only=True)
        except SystemExit as stopped:
            if trainer.interrupted:  # Lightning turns Ctrl+C into an exit
                raise KeyboardInterrupt from stopped
            raise
    learner.load_state_dict(torch.load(best.best_model_path, weights_only=True, map_location="cpu")["state_dict"])
    run.save_weights(learner.model)
    assert best.best_model_score is not None
    return float(best.best_model_score)


def _learner(run: Run) -> Learner:
    recipe, model = run.recipe, run.build()
    if isinstance(recipe, TowerRecipe):
        assert isinstance(model, Tower)
        return CorrelationLearner(model, recipe.training, recipe.negatives, run.labelling.taxonomy)
    assert isinstance(model, Categorizer)
    return CategorizationLearner(model, recipe.training)


def _check_clips(run: Run, clips: dict[str, ClipDataset]) -> None:
    """Raise CounterpointError unless some clip has a category or, for a tower, two may make false pairs.

    Otherwise there would be nothing to learn or to measure. As a rule one look tells.
    """
    pairs = isinstance(run.recipe, TowerRecipe)
    top_level = run.labelling.taxonomy.levels == 0
    if pairs and len(run.features.sizes) < 2:
        raise CounterpointError(f"{run.features}: a correlation tower compares two modalities or more")
    for kind, dataset in clips.items():
        seen: list[Any] = []  # sets of top-level categories, each once
        for clip, targets in (dataset[i] for i in range(len(dataset))):
            tops = (targets > 0) & top_level
            whole = all(name in clip.tracks and present(clip.tracks[name]).any() for name in run.features.sizes)
            if not tops.any() or (pairs and not whole):
                continue
            if not pairs or any(not (tops & other).any() for other in seen):
                break
            if not any((tops == other).all() for other in seen):
                seen.append(tops)
        else:
            shards = ", ".join(map(str, dataset.paths[:3])) + (", ..." if len(dataset.paths) > 3 else "")
            lack = "no two have every modality and top-level categories apart" if pairs else "none has a category"
            purpose = "learn from" if kind == "training" else "measure by"
            raise CounterpointError(
                f"{shards}: {len(dataset):,} {kind} clips, of which {lack}: "
                f"nothing to {purpose}; check their labels and the taxonomy"
            )


def begin(run: Run, tower: Run | None, clips: dict[str, ClipDataset]) -> Path | None:
    """Write the run folder; where it holds the same run unfinished, the checkpoint to go on from.

    Raises:
        CounterpointError: see `train`.
    """
    contents = {kind: dataset.contents for kind, dataset in clips.items()}
    if not (run.folder / "recipe.json").exists():
        if run.folder.exists() and any(run.folder.iterdir()):
            raise CounterpointError(f"{run.folder}: not empty and not a run; choose another --out")
        if (tower is not None) != (isinstance(run.recipe, Recipe) and run.recipe.fusion.tower):
            raise CounterpointError(
                f"{run.recipe.name} listens to no correlation tower"
                if tower
                else f"{run.recipe.name} needs a trained correlation tower (--tower RUN)"
            )
        # Beside its place and then moved there, so that a run folder is whole or not there at all.
        begun = dataclasses.replace(run, folder=run.folder.with_name(f"{run.folder.name}.{os.getpid()}.tmp"))
        begun.save()
        write_json(begun.folder / DATA_FILE, contents)
        if tower is not None:
            begun.take_in(tower)
        begun.folder.rename(run.folder)
        return None
    there = Run.load(run.folder)
    if there.trained:
        raise CounterpointError(f"{run.folder}: holds a finished run; choose another --out, or remove it")
    data = run.folder / DATA_FILE
    known = json.loads(data.read_text(encoding="utf-8")) if data.exists() else {}
    for what, mine, theirs in (
        ("recipe", run.recipe, there.recipe),
        ("taxonomy", run.labelling, there.labelling),
        ("feature set", run.features.fingerprint, there.features.fingerprint),
        *((f"set of {kind} clips", contents[kind], known.get(kind)) for kind in contents),
    ):
        if mine != theirs:
            raise CounterpointError(
                f"{run.folder}: holds an unfinished run with another {what}; choose another --out, or remove it"
            )
    last = run.folder / CHECKPOINTS / LAST
    return last if last.exists() else None


class StopEarly(EarlyStopping):
    """Does not begin another epoch either where a training goes on that was killed after its last."""

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        trainer.should_stop = self.wait_count >= self.patience


class EpochBar(Callback):
    """A progress bar on the console that `EpochLog` prints to; Lightning's own would be in its way."""

    def __init__(self, console: Console) -> None:
        self.progress = Progress(console=console, transient=True)
        self.task = self.progress.add_task("")

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.is_global_zero:
            self.progress.start()

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        what = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        self.progress.reset(self.task, description=what, total=trainer.num_training_batches)

    def on_train_batch_end(self, *batch: Any) -> None:
        self.progress.advance(self.task)

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
        self.started = 0.0

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.started = time.monotonic()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        metrics: dict[str, Any] = {name: float(value) for name, value in trainer.callback_metrics.items()}
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        row = {"epoch": trainer.current_epoch + 1, "learning_rate": rate, "seconds": time.monotonic() - self.started}
        row |= {name: metrics[name] for name in self.columns if name in metrics}
        # A resumed training repeats the epoch that was cut off: keep the rows before it.
        rows = [old for old in self._rows() if int(old["epoch"]) < row["epoch"]]
        temporary = self.path.with_suffix(".tmp")
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows([*rows, row])
        temporary.replace(self.path)
        figure = self.monitor.removeprefix("validation_").upper()
        self.console.print(
            f"epoch {row['epoch']:>2}/{trainer.max_epochs}  train loss {row['train_loss']:.5f}  "
            f"validation loss {row['validation_loss']:.5f}  {figure} {row[self.monitor]:.4f}  ({row['seconds']:.0f} s)",
            highlight=False,
            soft_wrap=True,
        )

    def _rows(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))


class _quiet:  # noqa: N801 - used as a context manager
    """Without Lightning's advice, which is for its own users."""

    def __enter__(self) -> None:
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        for message in (
            ".*does not have many workers.*",
            ".*LeafSpec.*",
            ".*in eval mode at the start of training.*",
            ".*Checkpoint directory.*",
            ".*tensorboard.*",
        ):
            warnings.filterwarnings("ignore", message)
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    def __exit__(self, *error: Any) -> None:
        self._warnings.__exit__(*error)
