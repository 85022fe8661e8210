"""A run folder as training begins: written whole, known again, and one process's alone."""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from counterpoint.data.dataset import ClipDataset
from counterpoint.errors import CounterpointError
from counterpoint.recipes import Recipe
from counterpoint.run import DATA_FILE, LOCK_FILE, RECIPE_FILE, TOWER_FOLDER, Run, digest, write_json


@contextlib.contextmanager
def claimed(run: Run, tower: Run | None, clips: dict[str, ClipDataset]) -> Iterator[None]:
    """Within the block the run folder is there, of this run, and no other process's to train in.

    A process that dies, however it does, lets go of it.

    Raises:
        CounterpointError: another process trains there, or see `counterpoint.training.train.train`.
    """
    if (tower is not None) and not (isinstance(run.recipe, Recipe) and run.recipe.fusion.tower):
        raise CounterpointError(f"{run.recipe.name} listens to no correlation tower")
    try:
        lock = None if (run.folder / RECIPE_FILE).exists() else _written(run, tower, clips)
        lock = lock or _locked(run.folder)
    except OSError as error:
        raise CounterpointError(f"{run.folder}: cannot be written ({error.strerror or error})") from error
    try:
        check(run, tower, clips)
        yield
    finally:
        with contextlib.suppress(OSError):
            (run.folder / LOCK_FILE).unlink(missing_ok=True)
        lock.release()


def check(run: Run, tower: Run | None, clips: dict[str, ClipDataset]) -> None:
    """Raise CounterpointError unless the folder holds this very run, unfinished."""
    there = Run.load(run.folder)
    if there.trained:
        raise CounterpointError(f"{run.folder}: holds a finished run; choose another --out, or remove it")
    data = run.folder / DATA_FILE
    known = json.loads(data.read_text(encoding="utf-8")) if data.exists() else {}
    inside = run.folder / TOWER_FOLDER
    for what, mine, theirs in (
        ("recipe", run.recipe, there.recipe),
        ("taxonomy", run.labelling, there.labelling),
        *([("correlation tower", _told(tower), _told(Run.load(inside)))] if tower else []),
        ("feature set", run.features.fingerprint, there.features.fingerprint),
        *((f"set of {kind} clips", dataset.contents, known.get(kind)) for kind, dataset in clips.items()),
    ):
        if mine != theirs:
            raise CounterpointError(
                f"{run.folder}: holds an unfinished run with another {what}; choose another --out, or remove it"
            )


def _told(tower: Run) -> tuple[Any, str]:
    """What tells towers apart, however their files were written."""
    return tower.recipe, digest(tower.tower().state_dict())


def _written(run: Run, tower: Run | None, clips: dict[str, ClipDataset]) -> FileLock | None:
    """Write the folder, and lock it; None where another process was quicker."""
    if run.folder.exists() and any(run.folder.iterdir()):
        raise CounterpointError(f"{run.folder}: not empty and not a run; choose another --out")
    if isinstance(run.recipe, Recipe) and run.recipe.fusion.tower and tower is None:
        raise CounterpointError(f"{run.recipe.name} needs a trained correlation tower (--tower RUN)")
    # Beside its place and then moved there, so that a run folder is whole or not there at all. The lock moves with it.
    begun = dataclasses.replace(run, folder=run.folder.with_name(f"{run.folder.name}.{os.getpid()}.tmp"))
    begun.save()
    lock = _locked(begun.folder)
    try:
        write_json(begun.folder / DATA_FILE, {kind: dataset.contents for kind, dataset in clips.items()})
        if tower is not None:
            begun.take_in(tower)
        begun.folder.rename(run.folder)
        return lock
    except BaseException as error:
        lock.release()
        shutil.rmtree(begun.folder, ignore_errors=True)
        if isinstance(error, OSError) and (run.folder / RECIPE_FILE).exists():
            return None
        raise


def _locked(folder: Path) -> FileLock:
    lock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise CounterpointError(
            f"{folder}: another process trains there; wait until it has ended, or choose another --out"
        ) from None
    return lock
