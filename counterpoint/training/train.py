"""Train a run, or go on with one that was interrupted."""

import contextlib
import ctypes
import os
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from rich.console import Console

from counterpoint import distributed
from counterpoint.data.clip import present
from counterpoint.data.copies import AT_A_TIME, MOST, Digests, digests, shared
from counterpoint.data.dataset import Dataset
from counterpoint.errors import Error
from counterpoint.models.categorizer import Categorizer
from counterpoint.models.correlation import Tower
from counterpoint.predict import accelerator
from counterpoint.recipes import TowerRecipe, check
from counterpoint.reliability import TOWER_RELIABILITY_FILE, TowerReliability
from counterpoint.run import KEPT_FILE, TRAINED_ON_FILE, RunFolder, write_json
from counterpoint.training import checkpoints
from counterpoint.training.checkpoints import CHECKPOINTS, Checkpoints
from counterpoint.training.datamodule import DataModule
from counterpoint.training.folder import claimed_run
from counterpoint.training.learner import CategorizationLearner, Learner
from counterpoint.training.probe import fit_standardization
from counterpoint.training.progress import EpochBar, EpochLog, quiet
from counterpoint.training.remap import start_from
from counterpoint.training.selection import FEW_CLIPS, Selection, in_words
from counterpoint.training.tower import CorrelationLearner

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h
_NEVER = 2**31 - 1


def train(
    run: RunFolder,
    data: Dataset,
    validation: Dataset,
    *,
    tower: RunFolder | None = None,
    start: RunFolder | None = None,
    workers: int = 0,
    minutes: float = checkpoints.MINUTES,
    console: Console | None = None,
) -> float:
    """Train until validation stops improving, and keep the best weights in the run folder.

    The run folder is written first and holds checkpoints, so that the same call goes on where a killed one stopped; on
    a CPU the weights are then bit for bit those of an uninterrupted training. An error before the first checkpoint
    leaves no folder that this call made. With no epochs at all the weights are those that were drawn.

    In processes that torchrun started, each batch is shared, and the result is one process's but for rounding.

    Args:
        run: the folder to write, recipe, taxonomy and features.
        data: clips to train on.
        validation: clips to choose the best epoch by, and to stop.
        tower: a trained correlation tower, for recipes whose fusion needs one.
        start: a trained run to begin with: weights, standardization, and the rows of the categories that both have.
        workers: processes that read ahead; 0 reads in this one.
        minutes: checkpoints are written at every epoch's end, and within an epoch when so many minutes have passed.
        console: for a line an epoch and, in a terminal, a progress bar; without one, nothing is printed.

    Returns:
        The validation GAP of the best weights, as a fraction; of a tower, the AUC.

    Raises:
        Error: the folder holds a finished run, or one with another recipe, tower, taxonomy, features or clips, or
            another process trains there, or it cannot be written; or the clips leave nothing to learn or to measure;
            or the training diverges.
    """
    console = console or Console(quiet=True)
    check(run.recipe)
    distributed.join()
    clips = {"training": data, "validation": validation}
    new, last = False, None
    with contextlib.ExitStack() as claim:
        with distributed.leader_first():
            if distributed.rank() == 0:
                _check_clips(run, clips)
                new = claim.enter_context(claimed_run(run, tower, clips, start))
                last = checkpoints.newest(run.folder, console)
        last = distributed.broadcast(last)
        if last is not None:
            console.print(f"{run.folder}: going on from the last checkpoint", markup=False, soft_wrap=True)
        try:
            if distributed.rank() == 0:
                if tower is not None and tower.tower_reliability is not None and tower.tower_reliability.is_chance:
                    _warn_of_chance(tower, tower.tower_reliability, console)
                _look_at_clips(run, data, validation, start, console)
            return _fit(run, data, validation, last, start, workers, minutes, console)
        except Exception:
            # There is no checkpoint to go on from, so that the folder would only be in the way.
            if distributed.rank() == 0 and new and not any((run.folder / CHECKPOINTS).glob("*.ckpt")):
                shutil.rmtree(run.folder, ignore_errors=True)
            raise


def _fit(
    run: RunFolder,
    data: Dataset,
    validation: Dataset,
    last: Path | None,
    start: RunFolder | None,
    workers: int,
    minutes: float,
    console: Console,
) -> float:
    keep_freed_memory()
    training = run.recipe.training
    torch.manual_seed(training.seed)
    learner = _learner(run)
    assert isinstance(learner.model, Categorizer | Tower)
    if last is None and start is not None:
        start_from(learner.model, start, run.labelling.taxonomy)
    elif last is None:
        fit_standardization(learner.model.trunk.read, data, run.features, run.recipe.max_steps)
    if isinstance(learner, CategorizationLearner) and training.balance:
        learner.weigh(data)
    if training.compile:
        learner.compile_model()
    selection = Selection(by_loss=len(validation) < FEW_CLIPS)
    metric = learner.monitor.removeprefix("validation_").upper()
    if selection.by_loss and training.max_epochs and distributed.rank() == 0:
        console.print(
            f"{len(validation)} validation clips are too few to choose an epoch by {metric}: "
            "the validation loss decides",
            highlight=False,
            soft_wrap=True,
        )
    kept = Checkpoints(run.folder / CHECKPOINTS, minutes, selection)
    stop = StopEarly(selection, training.stop_patience)
    callbacks: list[Callback] = [stop, kept, EpochLog(run.folder / "epochs.csv", learner.monitor, console)]
    if console.is_terminal:
        callbacks.append(EpochBar(console))
    with quiet():
        trainer = lightning.Trainer(
            **_processes(run),
            accelerator=accelerator().type,  # as where models are used
            max_epochs=training.max_epochs,
            precision=training.precision,
            accumulate_grad_batches=training.accumulate,
            callbacks=callbacks,
            plugins=[checkpoints.Files()],
            logger=TensorBoardLogger(run.folder, name="tensorboard", version=""),
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
        )
        batches = DataModule(
            data,
            validation,
            run.features,
            batch_size=training.batch_size,
            max_steps=run.recipe.max_steps,
            workers=workers,
            seed=training.seed,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
        )
        if not training.max_epochs:
            trainer.validate(learner, batches, verbose=False)
            best = float(trainer.callback_metrics[learner.monitor])
        else:
            try:
                trainer.fit(learner, batches, ckpt_path=last, weights_only=True)
            except SystemExit as stopped:
                if trainer.interrupted:  # Lightning turns Ctrl+C into an exit
                    raise KeyboardInterrupt from stopped
                raise
            best = selection.metric
    if distributed.rank() == 0:
        if training.max_epochs:
            learner.model.load_state_dict(kept.weights)
            last_epoch = selection.epoch + selection.waited
            why = (
                f"since none was better for {selection.waited} epochs"
                if selection.waited >= training.stop_patience
                else "after the last epoch"
            )
            console.print(
                f"kept epoch {selection.epoch} of {last_epoch}: validation loss {selection.loss:.5f}, "
                f"{in_words(metric, selection.metric)}; stopped {why}",
                highlight=False,
                soft_wrap=True,
            )
            figures = {learner.monitor: selection.metric, "validation_loss": selection.loss}
            kept_epoch = {"epoch": selection.epoch, **figures, "chosen_by_loss": selection.by_loss}
            write_json(run.folder / KEPT_FILE, kept_epoch)
        if isinstance(learner, CorrelationLearner) and learner.clips:
            reliability = TowerReliability.of(best, learner.clips)
            write_json(run.folder / TOWER_RELIABILITY_FILE, asdict(reliability))
            if reliability.is_chance and training.max_epochs:
                _warn_of_chance(run, reliability, console)
        run.save_weights(learner.model)
    return best


def _warn_of_chance(run: RunFolder, reliability: TowerReliability, console: Console) -> None:
    console.print(
        f"{run.folder}: this tower may be no better than chance ({reliability}), so its verdicts are not shown; give "
        "it more clips, whose sound belongs to their picture",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _processes(run: RunFolder) -> dict[str, Any]:
    """Lightning's options for the processes that torchrun started."""
    if distributed.world_size() == 1:
        return {"devices": 1}
    local = int(os.environ["LOCAL_WORLD_SIZE"])
    # A batch whose clips lack a modality leaves a tower's comparisons unused, and one that opens no gate leaves F
    # unused. Buffers are the same everywhere.
    strategy = DDPStrategy(
        find_unused_parameters=run.recipe.may_be_idle,
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
    )
    return {"devices": local, "num_nodes": distributed.world_size() // local, "strategy": strategy}


def _look_at_clips(
    run: RunFolder, data: Dataset, validation: Dataset, start: RunFolder | None, console: Console
) -> None:
    """Keep what the training clips are in the run, and say which validation clips are copies of some.

    Kept are digests of ids and features, and which categories none of the clips has.
    """
    path = run.folder / TRAINED_ON_FILE
    if path.exists():
        return
    if len(data) > MOST:
        console.print(
            f"copies are looked for among at most {MOST:,} training clips; these are {len(data):,}",
            highlight=False,
            soft_wrap=True,
        )
        return
    taxonomy = run.labelling.taxonomy
    own, seen = Digests(), np.zeros(len(taxonomy), bool)
    for first in range(0, len(data), AT_A_TIME):
        for clip, targets in data.__getitems__(range(first, min(first + AT_A_TIME, len(data)))):
            own.add(clip)
            seen |= targets > 0
    others = digests(validation)
    if others is not None and (copies := shared(validation, others, own)):
        console.print(
            f"validation: {copies} are training clips too, by their id or features: its figures flatter the model; "
            "give other clips by --validation, or take the copies out",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    own.save(path)
    missing = set() if isinstance(run.recipe, TowerRecipe) else {taxonomy.ids[i] for i in np.flatnonzero(~seen)}
    if missing:
        if start is not None:  # what it has learned before
            missing -= set(start.labelling.taxonomy.ids) - start.untrained
        run.save_untrained(missing)
        console.print(
            f"{len(missing):,} of {len(taxonomy):,} categories have no training clip, and will not be answers",
            highlight=False,
            soft_wrap=True,
        )


def _learner(run: RunFolder) -> Learner:
    recipe, model = run.recipe, run.build()
    if isinstance(recipe, TowerRecipe):
        assert isinstance(model, Tower)
        return CorrelationLearner(model, recipe.training, recipe.negatives, run.labelling.taxonomy)
    assert isinstance(model, Categorizer)
    return CategorizationLearner(model, recipe.training)


def _check_clips(run: RunFolder, clips: dict[str, Dataset]) -> None:
    """Raise Error unless some clip has a category or, for a tower, two may make false pairs.

    Otherwise there would be nothing to learn or to measure. As a rule the first clips decide it.
    """
    pairs = isinstance(run.recipe, TowerRecipe)
    top_level = run.labelling.taxonomy.levels == 0
    if pairs and len(run.features.sizes) < 2:
        raise Error(f"{run.features}: a correlation tower compares two modalities or more")
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
            lack = "no two have every modality and no top-level category in common" if pairs else "none has a category"
            purpose = "learn from" if kind == "training" else "measure by"
            raise Error(
                f"{shards}: {len(dataset):,} {kind} clips, of which {lack}: "
                f"nothing to {purpose}; check their labels and the taxonomy"
            )


class StopEarly(Callback):
    """Selects the best epoch, and stops where none has been better for some.

    Lightning calls checkpoints last, so that these find the selection of the epoch made. A training that was killed
    after its last epoch begins no further one.
    """

    def __init__(self, selection: Selection, patience: int) -> None:
        self.selection = selection
        self.patience = patience

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        trainer.should_stop = self.selection.waited >= self.patience

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, Learner)
        metric, loss = (float(trainer.callback_metrics[name]) for name in (pl_module.monitor, "validation_loss"))
        self.selection.update(trainer.current_epoch + 1, metric, loss)
        pl_module.improvements = self.selection.improvements
        trainer.should_stop = trainer.should_stop or self.selection.waited >= self.patience


def keep_freed_memory() -> bool:
    """Let this process keep freed memory for reuse; True where that could be arranged (Linux with glibc).

    By default glibc maps large buffers freshly and gives them back when freed, so that each training step on a CPU has
    the kernel clear hundreds of megabytes again. The same as starting with `MALLOC_MMAP_MAX_=0` and a large
    `MALLOC_TRIM_THRESHOLD_`, which must otherwise be set before Python starts. The process then keeps the most memory
    that it ever used: call it where training is what the process is for.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    return bool(libc.mallopt(_M_MMAP_MAX, 0) and libc.mallopt(_M_TRIM_THRESHOLD, _NEVER))
