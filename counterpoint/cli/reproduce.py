"""The verb reproduce, whose options are the fields of a suite's scale."""

from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from counterpoint.cli import library
from counterpoint.cli.console import (
    DATA,
    JSON,
    NOT_NEGATIVE,
    OUTPUT,
    RESOURCES,
    SHARDS_HELP,
    TAXONOMY_HELP,
    Json,
    MoreData,
    Out,
    SkipBad,
    UsageError,
    Workers,
    check_choices,
    console,
    options_of,
    progress,
    show,
    shown_default,
)
from counterpoint.cli.recipe_options import option_of
from counterpoint.experiments.suites import SUITES, Scale, Suite
from counterpoint.tables import Table

if TYPE_CHECKING:
    from counterpoint.experiments.engine import Job
    from counterpoint.experiments.experiment import Experiment


if TYPE_CHECKING:
    ScaleOptions = dict[str, Any]
else:
    ScaleOptions = options_of(
        Scale,
        "Scale",
        {},
        clips=Annotated[dict[str, int], JSON],
        grid=Annotated[dict[str, dict[str, list[Any]]], JSON],
    )
MAY_BE_NONE = ("control_seeds", "trials", "influence_trials")


def reproduce(
    suite: Annotated[str, Parameter(group=DATA)],
    data: Annotated[list[str], Parameter(help=f"video-level {SHARDS_HELP}", metavar="SHARDS...", group=DATA)] = [],  # noqa: B006
    *,
    validation: Annotated[MoreData, Parameter(help="shards for validation; without them, a tenth of the clips")] = [],  # noqa: B006
    test: Annotated[MoreData, Parameter(help="shards for test; without them, a tenth of the clips")] = [],  # noqa: B006
    taxonomy: Annotated[str | None, Parameter(help=TAXONOMY_HELP, metavar="TAXONOMY", group=DATA)] = None,
    skip_bad_records: SkipBad = False,
    out: Out,
    plan: Annotated[bool, Parameter(group=OUTPUT)] = False,
    report: Annotated[bool, Parameter(group=OUTPUT)] = False,
    as_json: Json = False,
    threads: Annotated[int, NOT_NEGATIVE, Parameter(group=RESOURCES)] = 0,
    workers: Workers = 0,
    scale: Annotated[ScaleOptions | None, Parameter(name="*")] = None,
) -> None:
    """Run a whole experiment of the paper and write its report; the same command goes on where it was interrupted.

    SUITE is video-level or mosaic (real records) or synthetic (made-up clips). `counterpoint reproduce SUITE --help`
    lists the scale that the suite has by default.

    Args:
        suite: the experiment.
        out: the experiment's folder.
        plan: print what would run and how long it would take; run nothing.
        report: report what is finished; run nothing.
        threads: threads of PyTorch; 0: as many as there are cores.

    Example:
        counterpoint reproduce synthetic --out experiments/synthetic --plan
    """
    import torch

    from counterpoint.experiments import engine
    from counterpoint.experiments import report as reports
    from counterpoint.experiments.datasets import Inputs
    from counterpoint.experiments.experiment import Experiment
    from counterpoint.experiments.jobs import Jobs

    check_choices("SUITE", [suite], SUITES)
    chosen = SUITES[suite]
    options = scale or {}
    _check_scale(chosen, options)
    if threads:
        torch.set_num_threads(threads)
    sizes = replace(chosen.scale, **options)
    path = taxonomy or (library.default_taxonomy(data) if data else None)
    shards = {"train": data, "validation": validation, "test": test}
    folder = library.taxonomy_folder(path) if path else None
    inputs = Inputs(shards=shards, clips=sizes.clips, taxonomy=folder, skip_bad=skip_bad_records)
    experiment = Experiment(chosen, sizes, inputs, out)
    _ = experiment.shape  # which says what is wrong with the data before anything is written
    experiment.check()
    if plan:
        _print_plan(experiment)
        return
    experiment.save()
    jobs = Jobs(experiment, console, workers).all()
    if not report:
        engine.run(jobs, experiment.folder, console, reports.made_by())
    written = reports.write(experiment, console, jobs)
    show(as_json, lambda: {"report": str(written)}, lambda: str(written))


def scale_help(suite: str) -> Table:
    """What is printed below the help where a suite is named: its scale."""
    check_choices("SUITE", [suite], SUITES)
    values = {field.name: getattr(SUITES[suite].scale, field.name) for field in fields(Scale)}
    rows = [[option_of(name), shown_default(value) or ""] for name, value in values.items()]
    return Table(f"The scale of {suite}", ["option", "default"], rows, labels=2)


def _check_scale(suite: Suite, options: dict[str, Any]) -> None:
    """Raise UsageError for a number out of bounds and for a name that there is not."""
    from counterpoint.experiments.entries import ENTRIES
    from counterpoint.recipes import FAMILIES

    sources = next(field.name for field in fields(suite) if field.name in ("worlds", "datasets"))
    choices: dict[str, Iterable[str]] = {
        "families": FAMILIES,
        "models": ENTRIES,
        sources: [source.name for source in getattr(suite, sources)],
    }
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if name in choices:
            check_choices(option, value, choices[name])
        elif isinstance(value, int) and value < (least := int(name not in MAY_BE_NONE)):
            raise UsageError(f"{option} must be at least {least}, not {value}")
    for split, count in options.get("clips", {}).items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise UsageError(f"--clips: {split} must be a whole number from 1, not {count!r}")


def _print_plan(experiment: "Experiment") -> None:
    """Print what would run, and about how long it would take; a new experiment's plan leaves nothing behind."""
    from tempfile import TemporaryDirectory

    from counterpoint.experiments.experiment import SUITE_FILE
    from counterpoint.experiments.jobs import Jobs

    if (experiment.folder / SUITE_FILE).exists():
        experiment.save()
        _print_jobs(experiment.folder, Jobs(experiment, console).all())
        return
    with TemporaryDirectory() as elsewhere:
        planned = replace(experiment, folder=Path(elsewhere))
        _print_jobs(planned.folder, Jobs(planned, console).all())


def _print_jobs(folder: Path, jobs: "Sequence[Job]") -> None:
    from rich.table import Table as RichTable

    from counterpoint.experiments.engine import Estimate, Log, duration

    estimate = Estimate(Log(folder))
    table = RichTable("kind of job", "done", "to do", "about")
    kinds = dict.fromkeys(job.kind for job in jobs)
    with progress("timing two steps of each kind of training", len(kinds)) as advance:
        for kind in kinds:
            of = [job for job in jobs if job.kind == kind]
            left = [job for job in of if not job.finished]
            seconds = estimate.seconds(left)
            table.add_row(kind, str(len(of) - len(left)), str(len(left)), duration(seconds) if seconds else "")
            advance(1)
    left = [job for job in jobs if not job.finished]
    show(False, dict, lambda: table)
    print(
        f"{len(left)} of {len(jobs)} jobs to do, about {duration(estimate.seconds(left))} if every training needs all "
        "of its epochs; measured as jobs finish"
    )
