"""Measure a run on clips, in one process or in several that torchrun started."""

from collections.abc import Iterator

from rich.console import Console
from rich.progress import Progress

from counterpoint.data.dataset import Dataset
from counterpoint.evaluation.breakdown import Breakdown, BreakdownAccumulator
from counterpoint.evaluation.robustness import RobustnessAccumulator
from counterpoint.predict import Predictions, Predictor
from counterpoint.run import RunFolder
from counterpoint.training import distributed


def evaluate(
    run: RunFolder,
    dataset: Dataset,
    console: Console,
    workers: int = 0,
    robustness: RobustnessAccumulator | None = None,
) -> Breakdown:
    """All metrics of a run's model on the clips of a data set, with a progress bar where there is a terminal.

    Several processes take batches in turns and the first one measures them, in order: every clip counts once, and the
    figures are those of one process to the bit. To the others it returns figures of no clips.

    Args:
        robustness: it is given the same predictions, and those without each of its modalities.

    Raises:
        Error: the run is a correlation tower, is not trained, or reads other features.
    """
    accumulator = BreakdownAccumulator(run.labelling.taxonomy)
    without = robustness.modalities if robustness else ()
    turn = (distributed.rank(), distributed.world())
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("evaluating", total=len(dataset))
        for predictions in _everyones(Predictor(run).predict(dataset, workers=workers, without=without, turn=turn)):
            accumulator.update(predictions.probabilities, predictions.labels)
            if robustness:
                robustness.update(predictions)
            progress.advance(task, len(predictions.ids))
    return accumulator.compute()


def _everyones(predictions: Iterator[Predictions]) -> Iterator[Predictions]:
    """The batches of all processes, in order, in the first process; the others only send theirs."""
    for mine in predictions:
        yield from (batch for batch in distributed.collected(mine) if batch.ids)
