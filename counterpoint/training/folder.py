"""A run folder as training begins: written whole, recognized by a second call, and locked by one process."""

import contextlib
import dataclasses
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from counterpoint.data.dataset import Dataset
from counterpoint.errors import Error
from counterpoint.files import check_output_folder, claimed
from counterpoint.recipes import Recipe, TowerRecipe
from counterpoint.run import (
    DATA_FILE,
    LOCK_FILE,
    RECIPE_FILE,
    TOWER_FOLDER,
    WEIGHTS_FILE,
    RunFolder,
    digest,
    read_json,
    write_json,
)

START = "from"  # the fingerprint of the run that a training starts from
BUSY = "another process trains there; wait until it has ended, or choose another --out"


def own_tower(run: RunFolder | None) -> RunFolder | None:
    """The correlation tower that a run's model reads, if it does."""
    return RunFolder.load(run.folder / TOWER_FOLDER) if run and (run.folder / TOWER_FOLDER).exists() else None


def check_settings(
    recipe: Recipe | TowerRecipe, folder: Path, tower: RunFolder | None, start: RunFolder | None = None
) -> None:
    """Raise Error for what is wrong with a training to come, before any of its data is read.

    Args:
        recipe: what is to be trained.
        folder: the run folder; one of an unfinished run may be there already.
        tower: the correlation tower's run for the recipe.
        start: the run that the training begins with.

    Raises:
        Error: the recipe needs a tower and none is given, or the other way round; the tower is no trained tower; the
            folder holds a finished run, or something else.
    """
    needed = recipe.needs_tower
    if needed and tower is None:
        raise Error(f"{recipe.name} needs a trained correlation tower (--tower RUN)")
    if tower is not None and not needed:
        raise Error(f"{recipe.name} needs no correlation tower; leave --tower out")
    if tower is not None and not isinstance(tower.recipe, TowerRecipe):
        raise Error(f"{tower.folder}: a {tower.recipe.name} run, not a correlation tower")
    if tower is not None:
        tower.check_trained()
    if start is not None:
        start.check_trained()
        if start.folder.resolve() == folder.resolve():
            raise Error(f"{folder}: the run to start from; choose another --out")
    check_output_folder(folder, RECIPE_FILE)
    if (folder / RECIPE_FILE).exists() and (folder / WEIGHTS_FILE).exists():
        raise Error(f"{folder}: holds a finished run; choose another --out, or remove it")


@contextlib.contextmanager
def claimed_run(
    run: RunFolder, tower: RunFolder | None, clips: dict[str, Dataset], start: RunFolder | None = None
) -> Iterator[bool]:
    """Within the block the folder holds this run and no other process trains there.

    Gives whether the folder is new, written by this call. However a process dies, its lock goes with it.

    Raises:
        Error: another process trains there, or see `counterpoint.training.train.train`.
    """
    needs_tower = run.recipe.needs_tower
    if tower is not None and not needs_tower:
        raise Error(f"{run.recipe.name} takes no correlation tower")
    with contextlib.ExitStack() as lock:
        try:
            is_new = False
            if not (run.folder / RECIPE_FILE).exists():
                check_output_folder(run.folder)
                if needs_tower and tower is None:
                    raise Error(f"{run.recipe.name} needs a trained correlation tower (--tower RUN)")
                is_new = _write(run, tower, clips, start, lock)
            if not is_new:
                lock.enter_context(claimed(run.folder, BUSY))
        except OSError as error:
            raise Error(f"{run.folder}: cannot be written ({error.strerror or error})") from error
        try:
            check(run, tower, clips, start)
            yield is_new
        finally:
            with contextlib.suppress(OSError):
                (run.folder / LOCK_FILE).unlink(missing_ok=True)


def check(run: RunFolder, tower: RunFolder | None, clips: dict[str, Dataset], start: RunFolder | None = None) -> None:
    """Raise Error unless the folder holds this very run, unfinished."""
    stored = RunFolder.load(run.folder)
    if stored.trained:
        raise Error(f"{run.folder}: holds a finished run; choose another --out, or remove it")
    if what := next(_differing(run, stored, tower, clips, start), None):
        raise Error(f"{run.folder}: holds an unfinished run with another {what}; choose another --out, or remove it")


def _differing(
    run: RunFolder, stored: RunFolder, tower: RunFolder | None, clips: dict[str, Dataset], start: RunFolder | None
) -> Iterator[str]:
    """In what a run differs from the one in its folder; in this order, since another recipe may have no tower."""
    if run.recipe != stored.recipe:
        yield "recipe"
    if run.labelling != stored.labelling:
        yield "taxonomy"
    if tower and _identity(tower) != _identity(RunFolder.load(run.folder / TOWER_FOLDER)):
        yield "correlation tower"
    if run.features != stored.features:
        yield "feature set"
    data = run.folder / DATA_FILE
    contents = read_json(data) if data.exists() else {}
    for kind, dataset in clips.items():
        if dataset.contents != contents.get(kind):
            yield f"set of {kind} clips"
    if (start.fingerprint if start else None) != contents.get(START):
        yield "run that it starts from"


def _identity(tower: RunFolder) -> tuple[Any, str]:
    """A tower's recipe and weights, however its files were written."""
    return tower.recipe, digest(tower.tower().state_dict())


def _write(
    run: RunFolder,
    tower: RunFolder | None,
    clips: dict[str, Dataset],
    start: RunFolder | None,
    lock: contextlib.ExitStack,
) -> bool:
    """Write the folder, and lock it; False where another process was quicker.

    It is written beside its place and then renamed, so that a run folder is whole or absent; the lock moves with it. An
    empty folder that exists stays, since it may be a volume or the working directory: its files are renamed one by one,
    and the recipe, which makes it a run, comes last.
    """
    exists = run.folder.exists()
    beside = run.folder if exists else run.folder.parent
    begun = dataclasses.replace(run, folder=beside / f".{run.folder.name}.{uuid.uuid4().hex}")
    with contextlib.ExitStack() as own:
        locked = run.folder if exists else begun.folder
        own.enter_context(claimed(locked, BUSY))
        try:
            begun.save()
            contents: dict[str, Any] = {kind: dataset.contents for kind, dataset in clips.items()}
            write_json(begun.folder / DATA_FILE, contents | ({START: start.fingerprint} if start else {}))
            if tower is not None:
                begun.take_in(tower)
            if exists:
                for part in sorted(begun.folder.iterdir(), key=lambda part: part.name == RECIPE_FILE):
                    part.rename(run.folder / part.name)
                begun.folder.rmdir()
            else:
                begun.folder.rename(run.folder)
        except BaseException as error:
            (locked / LOCK_FILE).unlink(missing_ok=True)
            shutil.rmtree(begun.folder, ignore_errors=True)
            if isinstance(error, OSError) and (run.folder / RECIPE_FILE).exists():
                return False
            raise
        lock.push(own.pop_all())
    return True
