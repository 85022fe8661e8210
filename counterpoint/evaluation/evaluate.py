"""Measure a run on clips, in one process or in several that torchrun started."""

from collections.abc import Iterator
from dataclasses import replace

from rich.console import Console
from rich.progress import Progress

from counterpoint import distributed
from counterpoint.data.copies import digests, shared
from counterpoint.data.dataset import Dataset
from counterpoint.evaluation.breakdown import Breakdown, BreakdownAccumulator
from counterpoint.evaluation.categories import CategoryAccumulator
from counterpoint.evaluation.robustness import RobustnessAccumulator
from counterpoint.predict import Predictions, Predictor
from counterpoint.run import RunFolder


def evaluate(
    run: RunFolder,
    dataset: Dataset,
    console: Console | None = None,
    workers: int = 0,
    robustness: RobustnessAccumulator | None = None,
) -> Breakdown:
    """All metrics of a run's model on the clips of a data set.

    Several processes take batches in turns and the first one measures them, in order: every clip counts once, and the
    figures are those of one process to the bit.

    Args:
        run: of a categorizer, trained.
        dataset: clips with labels.
        console: for a progress bar; without one, nothing is printed.
        workers: processes that read ahead; 0 reads in this one.
        robustness: it is given the same predictions, and those without each of its modalities.

    Returns:
        Figures as fractions, overall, by level, by top-level category and by category, in the first process; figures of
        no clips in the others. ``.table()`` is the paper's Table 4, ``.save(folder)`` writes JSON and CSV.

    Raises:
        Error: the run is a correlation tower, is not trained, or reads other features.
    """
    console = console or Console(quiet=True)
    trained_on = _trained_on(run, dataset, console) if distributed.rank() == 0 else 0
    accumulator = BreakdownAccumulator(run.labelling.taxonomy)
    categories = CategoryAccumulator(run.labelling.taxonomy, run.thresholds)
    without = robustness.modalities if robustness else ()
    turn = (distributed.rank(), distributed.world_size())
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("evaluating", total=len(dataset))
        for predictions in _all_processes(Predictor(run).predict(dataset, workers=workers, without=without, turn=turn)):
            accumulator.update(predictions.probabilities, predictions.labels)
            categories.update(predictions.probabilities, predictions.labels)
            if robustness:
                robustness.update(predictions)
            progress.advance(task, len(predictions.ids))
    return replace(accumulator.compute(), name=run.recipe.name, trained_on=trained_on, categories=categories.compute())


def _trained_on(run: RunFolder, dataset: Dataset, console: Console) -> int:
    """How many clips the run was trained on, by their id or features; said on the console."""
    others = run.trained_on
    own = None if others is None else digests(dataset)
    if own is None or others is None:
        return 0
    if copies := shared(dataset, own, others):
        console.print(
            f"{run.folder} was trained on {copies}, by their id or features: the figures flatter the model",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    return int(own.within(others).sum())


def _all_processes(predictions: Iterator[Predictions]) -> Iterator[Predictions]:
    """The batches of all processes, in order, in the first process; the others only send theirs."""
    for local in predictions:
        yield from (batch for batch in distributed.gather(local) if batch.ids)
