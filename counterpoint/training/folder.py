"""A run folder as training begins: written whole, known again, and one process's alone."""

import contextlib
import dataclasses
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from counterpoint.data.dataset import Dataset
from counterpoint.errors import Error
from counterpoint.run import DATA_FILE, LOCK_FILE, RECIPE_FILE, TOWER_FOLDER, RunFolder, digest, read_json, write_json


@contextlib.contextmanager
def claimed(run: RunFolder, tower: RunFolder | None, clips: dict[str, Dataset]) -> Iterator[bool]:
    """Within the block the run folder is there, of this run, and no other process's to train in.

    Gives whether it is new, written by this call.

    A process that dies, however it does, lets go of it.

    Raises:
        Error: another process trains there, or see `counterpoint.training.train.train`.
    """
    if tower is not None and not run.recipe.needs_tower:
        raise Error(f"{run.recipe.name} listens to no correlation tower")
    try:
        new = None if (run.folder / RECIPE_FILE).exists() else _written(run, tower, clips)
        lock = new or _locked(run.folder)
    except OSError as error:
        raise Error(f"{run.folder}: cannot be written ({error.strerror or error})") from error
    try:
        check(run, tower, clips)
        yield new is not None
    finally:
        with contextlib.suppress(OSError):
            (run.folder / LOCK_FILE).unlink(missing_ok=True)
        lock.release()


def check(run: RunFolder, tower: RunFolder | None, clips: dict[str, Dataset]) -> None:
    """Raise Error unless the folder holds this very run, unfinished."""
    there = RunFolder.load(run.folder)
    if there.trained:
        raise Error(f"{run.folder}: holds a finished run; choose another --out, or remove it")
    if what := next(_differing(run, there, tower, clips), None):
        raise Error(f"{run.folder}: holds an unfinished run with another {what}; choose another --out, or remove it")


def _differing(run: RunFolder, there: RunFolder, tower: RunFolder | None, clips: dict[str, Dataset]) -> Iterator[str]:
    """In what a run differs from the one in its folder; in this order, since another recipe may have no tower."""
    if run.recipe != there.recipe:
        yield "recipe"
    if run.labelling != there.labelling:
        yield "taxonomy"
    if tower and _told(tower) != _told(RunFolder.load(run.folder / TOWER_FOLDER)):
        yield "correlation tower"
    if run.features != there.features:
        yield "feature set"
    data = run.folder / DATA_FILE
    known = read_json(data) if data.exists() else {}
    for kind, dataset in clips.items():
        if dataset.contents != known.get(kind):
            yield f"set of {kind} clips"


def _told(tower: RunFolder) -> tuple[Any, str]:
    """What tells towers apart, however their files were written."""
    return tower.recipe, digest(tower.tower().state_dict())


def _written(run: RunFolder, tower: RunFolder | None, clips: dict[str, Dataset]) -> FileLock | None:
    """Write the folder, and lock it; None where another process was quicker."""
    there = run.folder.exists()
    if there and any(run.folder.iterdir()):
        raise Error(f"{run.folder}: not empty and not a run; choose another --out")
    if run.recipe.needs_tower and tower is None:
        raise Error(f"{run.recipe.name} needs a trained correlation tower (--tower RUN)")
    # Beside its place and then moved there, so that a run folder is whole or not there at all. The lock moves with it.
    # An empty folder that is there stays, since it may be a volume or the working directory; then the recipe, which
    # makes it a run, comes last.
    beside = run.folder if there else run.folder.parent
    begun = dataclasses.replace(run, folder=beside / f".{run.folder.name}.{uuid.uuid4().hex}")
    lock = _locked(run.folder) if there else None
    try:
        begun.save()
        lock = lock or _locked(begun.folder)
        write_json(begun.folder / DATA_FILE, {kind: dataset.contents for kind, dataset in clips.items()})
        if tower is not None:
            begun.take_in(tower)
        if there:
            for part in sorted(begun.folder.iterdir(), key=lambda part: part.name == RECIPE_FILE):
                part.rename(run.folder / part.name)
            begun.folder.rmdir()
        else:
            begun.folder.rename(run.folder)
        return lock
    except BaseException as error:
        shutil.rmtree(begun.folder, ignore_errors=True)
        if lock:
            Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()
        if isinstance(error, OSError) and (run.folder / RECIPE_FILE).exists():
            return None
        raise


def _locked(folder: Path) -> FileLock:
    lock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise Error(
            f"{folder}: another process trains there; wait until it has ended, or choose another --out"
        ) from None
    return lock
