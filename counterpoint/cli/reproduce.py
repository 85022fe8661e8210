"""The verb reproduce, whose options are the fields of a suite's scale."""

from collections.abc import Iterable
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from counterpoint.cli.console import (
    DATA,
    JSON,
    NOT_NEGATIVE,
    OUTPUT,
    RESOURCES,
    SHARDS_HELP,
    TAXONOMY_HELP,
    WITH_TAXONOMY,
    Json,
    MoreData,
    Out,
    SkipBad,
    UsageError,
    Workers,
    check_choices,
    console,
    listing,
    options_of,
    show,
    shown_default,
)
from counterpoint.cli.recipe_options import option_of
from counterpoint.experiments.suites import SUITES, Scale, Suite

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
    tower_data: Annotated[
        MoreData,
        Parameter(help="records of other videos, for towers of single seconds; without, the training clips"),
    ] = [],  # noqa: B006
    taxonomy: Annotated[str | None, Parameter(help=TAXONOMY_HELP, metavar="TAXONOMY", group=DATA)] = None,
    skip_bad_records: SkipBad = False,
    out: Out,
    plan: Annotated[bool, Parameter(group=OUTPUT)] = False,
    report: Annotated[bool, Parameter(group=OUTPUT)] = False,
    tables: Annotated[list[str], Parameter(metavar="MODULE", group=OUTPUT)] = [],  # noqa: B006
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
        tables: modules that add tables to the report.
        threads: threads of PyTorch; 0: as many as there are cores.

    Example:
        counterpoint reproduce synthetic --out experiments/synthetic --plan
    """
    import torch

    from counterpoint import experiments
    from counterpoint.data import taxonomies

    check_choices("SUITE", [suite], SUITES)
    options = scale or {}
    _check_scale(SUITES[suite], options)
    if threads:
        torch.set_num_threads(threads)
    path = taxonomy or (taxonomies.default_taxonomy(data, WITH_TAXONOMY) if data else None)
    experiment = experiments.open_experiment(
        suite,
        out,
        data=data,
        validation=validation,
        test=test,
        tower_data=tower_data,
        taxonomy=taxonomies.taxonomy_folder(path) if path else None,
        skip_bad=skip_bad_records,
        **options,
    )
    if plan:
        table = experiments.plan(experiment, console)
        show(False, dict, lambda: table)
        return
    written = experiments.reproduce(experiment, console=console, workers=workers, report_only=report, tables=tables)
    show(as_json, lambda: {"report": str(written)}, lambda: str(written))


def scale_help(suite: str) -> Any:
    """What is printed below the help where a suite is named: its scale."""
    check_choices("SUITE", [suite], SUITES)
    values = {field.name: shown_default(getattr(SUITES[suite].scale, field.name)) for field in fields(Scale)}
    return listing(f"The scale of {suite}", [(option_of(name), value or "-") for name, value in values.items()])


def _check_scale(suite: Suite, options: dict[str, Any]) -> None:
    """Raise UsageError for a number out of bounds and for a name that there is not."""
    from counterpoint.experiments.paper import ENTRIES
    from counterpoint.recipes import FAMILIES

    choices: dict[str, Iterable[str]] = {
        "families": FAMILIES,
        "models": ENTRIES,
        "datasets": [source.name for source in suite.datasets],
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
