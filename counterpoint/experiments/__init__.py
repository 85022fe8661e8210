"""The paper's experiments: suites, what runs them, and the report.

::

    experiment = open_experiment("synthetic", "experiments/synthetic", families=("nv",), seeds=2)
    print(plan(experiment))
    print(reproduce(experiment))  # the report; the same call goes on where an interrupted one ended
"""

import importlib
import tempfile
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from counterpoint.errors import Error
from counterpoint.experiments import engine, report
from counterpoint.experiments.datasets import Inputs
from counterpoint.experiments.experiment import SUITE_FILE, Experiment
from counterpoint.experiments.jobs import Jobs
from counterpoint.experiments.suites import SUITES, Scale, Suite
from counterpoint.files import check_output_folder
from counterpoint.tables import Table


def open_experiment(
    suite: str | Suite,
    out: str | Path,
    *,
    data: Sequence[str] = (),
    validation: Sequence[str] = (),
    test: Sequence[str] = (),
    tower_data: Sequence[str] = (),
    taxonomy: Path | None = None,
    skip_bad: bool = False,
    **scale: Any,
) -> Experiment:
    """An experiment in a folder, checked as far as it can be; nothing is written.

    Args:
        suite: a `Suite`, or the name of one of `SUITES`.
        out: the experiment's folder, an empty one or that of the same experiment.
        data, validation, test: shards of real records; without some to validate on or test with, a tenth of the clips.
        tower_data: shards of other real records, from which towers of single seconds learn; without, they learn from
            the training clips.
        taxonomy: the folder of the records' taxonomy.
        skip_bad: leave damaged records out.
        scale: fields of `counterpoint.experiments.suites.Scale` that differ from the suite's.

    Raises:
        Error: there is no such suite, setting or model, the folder holds something else, or the suite cannot be run on
            these records.
    """
    if isinstance(suite, str):
        if suite not in SUITES:
            raise Error(f"no suite {suite!r}; there are {', '.join(SUITES)}")
        suite = SUITES[suite]
    if unknown := scale.keys() - {each.name for each in fields(Scale)}:
        raise Error(f"a suite has no setting {min(unknown)!r}; there are {', '.join(e.name for e in fields(Scale))}")
    settings: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in scale.items()}
    chosen = replace(suite.scale, **settings)
    shards = {"train": list(data), "validation": list(validation), "test": list(test)}
    if tower_data:
        shards["tower"] = list(tower_data)
    inputs = Inputs(shards=shards, clips=chosen.clips, taxonomy=taxonomy, skip_bad=skip_bad)
    check_output_folder(Path(out), SUITE_FILE)
    experiment = Experiment(suite, chosen, inputs, Path(out))
    experiment.check()
    return experiment


def plan(experiment: Experiment, console: Console | None = None) -> Table:
    """What would run, and about how long it would take.

    The settings of an experiment that was not begun are not kept, so that the next plan may differ.

    Args:
        console: where to show progress.
    """
    console = console or Console(quiet=True)
    if (experiment.folder / SUITE_FILE).exists():
        experiment.save()
        return engine.plan(Jobs(experiment, console).all(), experiment.folder, console)
    with tempfile.TemporaryDirectory() as empty:
        planned = replace(experiment, folder=Path(empty))
        return engine.plan(Jobs(planned, console).all(), planned.folder, console)


def reproduce(
    experiment: Experiment,
    *,
    console: Console | None = None,
    workers: int = 0,
    report_only: bool = False,
    tables: Sequence[str] = (),
) -> Path:
    """Run what is left of an experiment and write its report; returns the report's HTML file.

    Any number of processes may do so at once.

    Args:
        console: where to print each job; silent without.
        workers: processes that read clips; see `counterpoint.training.train.train`.
        report_only: report what is finished, and run nothing.
        tables: modules that add tables to the report; see `counterpoint.experiments.report.report_table`.

    Raises:
        Error: the folder holds another experiment, or one of its runs has changed since.
    """
    console = console or Console(quiet=True)
    for name in tables:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise Error(f"{name}: cannot be imported ({error}); name a module that Python finds") from error
    experiment.save()
    jobs = Jobs(experiment, console, workers).all()
    if not report_only:
        engine.run(jobs, experiment.folder, console, report.made_by())
    return report.write(experiment, console, jobs)
