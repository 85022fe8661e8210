"""The verbs `reproduce` and `ensemble`; what they need is imported when they run, as in `counterpoint.cli.main`."""

import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt, PositiveInt

if TYPE_CHECKING:
    from counterpoint.experiments.engine import Job
    from counterpoint.experiments.experiment import Experiment

MAY_BE_NONE = ("control_seeds", "trials", "influence_trials")


def reproduce(args: Namespace) -> int:
    """Run a whole experiment of the paper and write its report."""
    import torch

    from counterpoint.cli import main as cli
    from counterpoint.experiments import engine, report
    from counterpoint.experiments.datasets import Inputs
    from counterpoint.experiments.experiment import SUITE_FILE, Experiment
    from counterpoint.experiments.jobs import Jobs
    from counterpoint.experiments.suites import SUITES, Scale

    if args.threads:
        torch.set_num_threads(args.threads)
    suite = SUITES[args.suite]
    told: dict[str, Any] = {each.name: args[each.name] for each in fields(Scale)}
    told |= {name: tuple(value) for name, value in told.items() if isinstance(value, list)}
    scale = Scale(**told)
    taxonomy = args.taxonomy or (cli._default_taxonomy(args.data) if args.data else None)
    shards = {"train": args.data, "validation": args.validation, "test": args.test}
    folder = cli._folder(taxonomy) if taxonomy else None
    inputs = Inputs(shards=shards, clips=scale.clips, taxonomy=folder, skip_bad=args.skip_bad_records)
    experiment = Experiment(suite, scale, inputs, Path(args.out))
    _ = experiment.shape  # which says what is wrong with the data before anything is written
    experiment.check()
    if args.plan and not (experiment.folder / SUITE_FILE).exists():
        with tempfile.TemporaryDirectory() as elsewhere:  # a plan is free to be another one the next time
            planned = replace(experiment, folder=Path(elsewhere))
            _plan(planned, Jobs(planned, cli._console).all())
        return 0
    experiment.save()
    jobs = Jobs(experiment, cli._console, args.workers).all()
    if args.plan:
        _plan(experiment, jobs)
        return 0
    if not args.report:
        engine.run(jobs, experiment.folder, cli._console, report.made_by())
    written = report.write(experiment, cli._console, jobs)
    cli._print(args.json, lambda: {"report": str(written)}, lambda: str(written))
    return 0


def ensemble(args: Namespace) -> int:
    """Average runs, and distil them into one model of the first run's size, a run folder like any other."""
    from counterpoint.cli import main as cli
    from counterpoint.evaluation.breakdown import table4
    from counterpoint.run import RunFolder
    from counterpoint.training.distill import distil

    runs = [RunFolder.load(folder) for folder in args.runs]
    data, validation = cli._training_data(args, runs[0].labelling)
    with cli._progress("hearing the ensemble", len(data)) as advance:
        distilled = distil(
            runs,
            Path(args.out),
            data,
            validation,
            share=args.share,
            seed=args.seed,
            workers=args.workers,
            console=cli._console,
            progress=advance,
        )
    models = [("ensemble", distilled.teacher), ("distilled", distilled.student)]
    cli._print(
        args.json,
        lambda: {"run": args.out, **{name: breakdown.to_dict() for name, breakdown in models}},
        lambda: table4(models, "validation clips"),
    )
    return 0


def _plan(experiment: "Experiment", jobs: "list[Job]") -> None:
    """What would run, and about how long it would take."""
    from rich.table import Table

    from counterpoint.cli import main as cli
    from counterpoint.experiments.engine import Estimate, Log, duration

    estimate = Estimate(Log(experiment.folder))
    table = Table("kind of job", "done", "to do", "about")
    kinds = dict.fromkeys(job.kind for job in jobs)
    with cli._progress("timing two steps of each kind of training", len(kinds)) as advance:
        for kind in kinds:
            of = [job for job in jobs if job.kind == kind]
            left = [job for job in of if not job.finished]
            seconds = estimate.seconds(left)
            table.add_row(kind, str(len(of) - len(left)), str(len(left)), duration(seconds) if seconds else "")
            advance(1)
    left = [job for job in jobs if not job.finished]
    cli._print(False, dict, lambda: table)
    print(
        f"{len(left)} of {len(jobs)} jobs to do, about {duration(estimate.seconds(left))} if every training needs all "
        "of its epochs; measured as jobs finish"
    )


def add(verbs: Any, verb: Callable[..., ArgumentParser], arguments: Sequence[str]) -> None:
    """Add the verbs to the command line's parser; ``verb`` makes one's parser."""
    from counterpoint.cli import main as cli

    sub = verb(verbs, "ensemble", ensemble, json=True, records=True)
    sub.add_argument("runs", nargs="+", help="run folders")
    sub.add_argument("--data", nargs="+", required=True, metavar="SHARDS", help=cli.DATA_HELP)
    told = "shards to tune and stop on; without, a tenth of the clips"
    sub.add_argument("--validation", nargs="+", default=[], metavar="SHARDS", help=told)
    sub.add_argument("--out", required=True, help="the run folder to write")
    sub.add_argument("--share", type=float, default=0.5, help="how much the ensemble counts against the labels, 0 to 1")
    sub.add_argument("--seed", type=int, default=None, help="of the training (the first run's)")
    sub.add_argument("--workers", type=NonNegativeInt, default=0, help=cli.WORKERS_HELP)

    sub = verb(verbs, "reproduce", reproduce, json=True, records=True)
    if arguments[0] != "reproduce":
        return  # the suites load PyTorch
    from docstring_parser import parse

    from counterpoint.experiments.entries import ENTRIES
    from counterpoint.experiments.suites import SUITES, Scale
    from counterpoint.recipes import FAMILIES, Precision

    sub.usage = "counterpoint reproduce SUITE --data SHARDS ... --out DIR [options]"
    suite = SUITES.get("".join(arguments[1:2]))
    named = ", ".join(f"{name} ({each.what.partition(':')[0].lower()})" for name, each in SUITES.items())
    sub.add_argument("suite", choices=list(SUITES), metavar="SUITE", help=f"{named}")
    sub.add_argument("--data", nargs="+", default=[], metavar="SHARDS", help=f"video-level {cli.DATA_HELP}")
    for split in ("validation", "test"):
        told = f"shards for {split} alone; without, a tenth of the clips"
        sub.add_argument(f"--{split}", nargs="+", default=[], metavar="SHARDS", help=told)
    sub.add_argument("--taxonomy", default=None, help=f"{cli.TAXONOMY_HELP}")
    sub.add_argument("--out", required=True, help="the experiment's folder; the same command goes on there")
    sub.add_argument("--plan", action="store_true", help="tell what would run and how long; run nothing")
    sub.add_argument("--report", action="store_true", help="report what is finished; run nothing")
    sub.add_argument("--threads", type=NonNegativeInt, default=0, help="of PyTorch; 0: as many as there are cores")
    sub.add_argument("--workers", type=NonNegativeInt, default=0, help=cli.WORKERS_HELP)
    scale = suite.scale if suite else Scale()
    choices: dict[str, Collection[str]] = {
        "families": FAMILIES,
        "models": ENTRIES,
        "worlds": [w.name for w in suite.worlds] if suite else [],
    }
    helps = {told.arg_name: told.description for told in parse(Scale.__doc__ or "").params}
    for each in fields(Scale):
        default = getattr(scale, each.name)
        option, told = f"--{each.name.replace('_', '-')}", helps[each.name] or ""
        if isinstance(default, tuple):
            kind = float if each.name == "negative_weights" else str
            known: dict[str, Any] = {}
            if among := list(choices.get(each.name, ())):
                known = {"choices": among, "metavar": "NAME"}
                told = f"{told.rstrip('.')}: {', '.join(among)}"
            sub.add_argument(option, nargs="*", type=kind, default=list(default), help=told, **known)
        elif isinstance(default, dict):
            kinds: dict[str, Any] = {"clips": dict[str, PositiveInt], "grid": dict[str, dict[str, list[Any]]]}
            sub.add_argument(option, type=kinds[each.name], default=default, help=told)
        elif isinstance(default, str):
            sub.add_argument(option, type=Precision, default=default, help=told)
        else:
            least = NonNegativeInt if each.name in MAY_BE_NONE else PositiveInt
            sub.add_argument(option, type=least, default=default, help=told)
