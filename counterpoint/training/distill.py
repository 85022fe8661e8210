"""Several runs as one: their probabilities averaged, and distilled into one model of a single run's size.

The student learns from targets that lie between the clips' labels and the ensemble's probabilities (Hinton et al.
2015); cross-entropy being linear in its targets, that is the same as a weighted sum of the two losses.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from rich.console import Console

from counterpoint.data.clip import Clip
from counterpoint.data.dataset import Dataset
from counterpoint.errors import Error
from counterpoint.evaluation.breakdown import Breakdown, BreakdownAccumulator
from counterpoint.evaluation.evaluate import evaluate
from counterpoint.files import appending, holds_anything
from counterpoint.predict import Predictions, Predictor
from counterpoint.recipes import Recipe, check
from counterpoint.run import RECIPE_FILE, TOWER_FOLDER, RunFolder, read_json, write_json
from counterpoint.training.checkpoints import CHECKPOINTS
from counterpoint.training.folder import claimed_run
from counterpoint.training.train import train

TEACHER_FILE = "teacher.npy"  # the ensemble's probabilities; removed at the end
SETTINGS_FILE = "distillation.json"  # the runs, and how much they count; removed at the end
SETTINGS_FILE_0_1 = "lesson.json"
ENSEMBLE_FILE = "ensemble.json"
Progress = Callable[[int], None]


class DistillationDataset(Dataset):
    """A data set whose targets lie between its labels and a teacher's probabilities.

    Args:
        targets: (clip, category) the teacher's, in the data set's order.
        share: how much the teacher counts, 0 to 1.
    """

    def __init__(self, dataset: Dataset, targets: Float[np.ndarray, "clip category"], share: float) -> None:
        vars(self).update(vars(dataset))
        self.targets = targets
        self.share = share

    def __getitem__(self, index: int) -> "tuple[Clip, np.ndarray[Any, Any]]":
        clip, labels = super().__getitem__(index)
        mixed = self.share * self.targets[index].astype(np.float32) + (1 - self.share) * labels
        return clip, mixed.astype(np.float32)


@dataclass(frozen=True)
class Distilled:
    """The distilled run, and figures of the ensemble and of it on the validation clips."""

    run: RunFolder
    teacher: Breakdown
    student: Breakdown


def check_alike(runs: Sequence[RunFolder]) -> None:
    """Raise Error for runs that are not trained, or do not name the same categories of the same features.

    Nothing of the weights is read.
    """
    for run in runs:
        if not isinstance(run.recipe, Recipe):
            raise Error(f"{run.folder}: a correlation tower, which names no categories")
        run.check_trained()
        for what in ("taxonomy", "features"):
            one, other = (r.labelling.taxonomy if what == "taxonomy" else r.features for r in (runs[0], run))
            if one != other:
                raise Error(f"{run.folder}: has another {what} than {runs[0].folder}; no ensemble")


def average(runs: Sequence[RunFolder], dataset: Dataset, workers: int = 0) -> Iterator[Predictions]:
    """The mean of the runs' probabilities, batch by batch and in order.

    Raises:
        Error: see `check_alike`.
    """
    check_alike(runs)
    for parts in zip(*(Predictor(run).predict(dataset, workers=workers) for run in runs), strict=True):
        yield parts[0]._replace(probabilities=np.mean([part.probabilities for part in parts], axis=0))


def write_probabilities(
    runs: Sequence[RunFolder], dataset: Dataset, path: Path, progress: Progress | None = None, workers: int = 0
) -> None:
    """Write the ensemble's probabilities for a data set's clips: (clip, category) float16, whole or not at all."""
    with appending(path, (len(dataset), len(runs[0].labelling.taxonomy))) as add:
        for predictions in average(runs, dataset, workers):
            add(predictions.probabilities)
            if progress:
                progress(len(predictions.ids))


def distil(
    runs: Sequence[RunFolder],
    out: Path,
    data: Dataset,
    validation: Dataset,
    *,
    share: float = 0.5,
    seed: int | None = None,
    workers: int = 0,
    console: Console | None = None,
    progress: Progress | None = None,
) -> Distilled:
    """Distil runs into one of the first run's recipe, a run folder like any other; the same call goes on after a kill.

    Args:
        runs: trained runs of the same categories and features.
        out: the run folder to write.
        data: clips to train on.
        validation: clips to choose the best epoch by, and to measure on.
        share: how much the ensemble counts against the labels, 0 to 1.
        seed: of the student's training; the first run's without.
        workers: processes that read ahead.
        console: see `counterpoint.training.train.train`.
        progress: called with the number of clips of each batch for which the ensemble's probabilities are computed.

    Raises:
        Error: the folder holds something else; or see `check_alike` and `counterpoint.training.train.train`.
    """
    if not 0 <= share <= 1:
        raise Error(f"the ensemble may count from 0 to 1 (--share), not {share:g}")
    check_alike(runs)
    first = runs[0]
    assert isinstance(first.recipe, Recipe)
    training = replace(first.recipe.training, seed=first.recipe.training.seed if seed is None else seed)
    student = replace(first, folder=out, recipe=replace(first.recipe, training=training))
    check(student.recipe)
    teacher, settings = out / TEACHER_FILE, {"of": [run.fingerprint for run in runs], "share": share}
    _check_folder(student, settings)
    if not student.trained:
        tower = RunFolder.load(first.folder / TOWER_FOLDER) if first.recipe.needs_tower else None
        with claimed_run(student, tower, {"training": data, "validation": validation}):
            write_json(out / SETTINGS_FILE, settings)
            if not teacher.exists():
                write_probabilities(runs, data, teacher, progress, workers)
        mixed = DistillationDataset(data, np.load(teacher, mmap_mode="r"), share)
        train(student, mixed, validation, tower=tower, workers=workers, console=console)
    accumulator = BreakdownAccumulator(first.labelling.taxonomy)
    for predictions in average(runs, validation, workers):
        accumulator.update(predictions.probabilities, predictions.labels)
    result = Distilled(student, accumulator.compute(), evaluate(student, validation, console, workers))
    summary = {
        "of": [str(run.folder) for run in runs],
        "fingerprints": settings["of"],
        "share": share,
        "teacher": result.teacher.to_dict(),
        "student": result.student.to_dict(),
    }
    teacher.unlink(missing_ok=True)
    write_json(out / ENSEMBLE_FILE, summary)
    for name in (SETTINGS_FILE, SETTINGS_FILE_0_1):
        (out / name).unlink(missing_ok=True)
    return result


def _check_folder(student: RunFolder, settings: dict[str, Any]) -> None:
    """Raise Error unless a distillation with these settings may begin, or go on, in the student's folder."""
    out = student.folder
    paths = [out / name for name in (SETTINGS_FILE, SETTINGS_FILE_0_1) if (out / name).exists()]
    begun = read_json(paths[0]) if paths else None
    if begun == settings:
        return
    # A process that was killed before it wrote the settings left a run in which nothing is learned yet.
    new = begun is None and (out / RECIPE_FILE).exists() and not (student.trained or (out / CHECKPOINTS).exists())
    if holds_anything(out) and not new:
        other = "a finished run" if student.trained else "something else"
        what = "a distillation of other runs, or with another share" if begun else other
        raise Error(f"{out}: holds {what}; choose another --out, or remove it")
