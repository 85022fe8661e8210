"""The verbs demo and ensemble."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from counterpoint.cli.console import (
    HELD_OUT_HELP,
    NOT_NEGATIVE,
    OUTPUT,
    TRAINING,
    Data,
    Json,
    MoreData,
    Out,
    Runs,
    SkipBad,
    Workers,
    bounded,
    console,
    load_run,
    note_skipped,
    progress,
    show,
)
from counterpoint.errors import Error

if TYPE_CHECKING:
    from counterpoint.run import RunFolder


def demo(*, out: Annotated[Path, Parameter(metavar="FOLDER", group=OUTPUT)] = Path("demo")) -> None:
    """Train and compare on made-up clips and films: shards, training, evaluation, names; about three minutes.

    Args:
        out: the folder to write to.

    Example:
        counterpoint demo --out demo
    """
    from counterpoint.demo import demo as run
    from counterpoint.files import check_output_folder

    check_output_folder(out)
    run(out, console)


def ensemble(
    runs: Runs,
    *,
    data: Data,
    validation: Annotated[MoreData, Parameter(help=HELD_OUT_HELP)] = [],  # noqa: B006
    skip_bad_records: SkipBad = False,
    out: Out,
    as_json: Json = False,
    share: Annotated[float, Parameter(validator=bounded(0, 1), group=TRAINING)] = 0.5,
    seed: Annotated[int | None, NOT_NEGATIVE, Parameter(group=TRAINING)] = None,
    merge: Annotated[bool, Parameter(group=TRAINING)] = False,
    tower: Annotated[str | None, Parameter(metavar="RUN", group=TRAINING)] = None,
    workers: Workers = 0,
) -> None:
    """Average runs, and distil them into one model of the first run's size, a run folder like any other.

    Args:
        runs: run folders.
        out: the run folder to write.
        share: how much the ensemble counts against the labels, 0 to 1.
        seed: seed of the training; the first run's by default.
        merge: join mean-mlp runs side by side instead, which changes no answer and needs no training; by the clips of
            --data, which the runs were not trained on, the model is then calibrated and measured.
        tower: with --merge, a correlation tower to keep in the run, whose verdict stands beside the categories.

    Example:
        counterpoint ensemble runs/a runs/b --data shards --out runs/one
        counterpoint ensemble runs/a runs/b --merge --data validation --out runs/one
    """
    from counterpoint.data.dataset import training_data
    from counterpoint.evaluation.breakdown import table4
    from counterpoint.files import check_output_folder
    from counterpoint.run import RECIPE_FILE
    from counterpoint.training.distill import check_alike, distil

    loaded = [load_run(folder) for folder in runs]
    check_alike(loaded)
    check_output_folder(out, RECIPE_FILE)
    if merge:
        _merge(loaded, out, data, skip_bad_records, as_json, workers, tower=load_run(tower) if tower else None)
        return
    if tower:
        raise Error("--tower is for --merge: a distilled model reads the tower of its runs")
    clips, others = training_data(data, validation, loaded[0].labelling, skip_bad=skip_bad_records)
    note_skipped(clips, others)
    with progress("predicting with the ensemble", len(clips)) as advance:
        distilled = distil(
            loaded,
            out,
            clips,
            others,
            share=share,
            seed=seed,
            workers=workers,
            console=console,
            progress=advance,
        )
    models = [("ensemble", distilled.teacher), ("distilled", distilled.student)]
    show(
        as_json,
        lambda: {"run": str(out), **{name: breakdown.to_dict() for name, breakdown in models}},
        lambda: table4(models, "validation clips"),
    )


def _merge(
    runs: Sequence["RunFolder"],
    out: Path,
    data: Sequence[str],
    skip_bad: bool,
    as_json: bool,
    workers: int,
    **options: Any,
) -> None:
    from counterpoint.data.dataset import Dataset
    from counterpoint.evaluation.evaluate import evaluate
    from counterpoint.training.merge import fit_reliability, merge

    clips = Dataset(data, runs[0].labelling, skip_bad=skip_bad)
    note_skipped(clips)
    run = merge(runs, out, **options)
    run.save_reliability(fit_reliability(run, clips, workers))
    breakdown = evaluate(run, clips, console, workers)
    show(as_json, lambda: {"run": str(out), **breakdown.to_dict()}, lambda: breakdown.table())
