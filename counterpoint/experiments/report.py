"""An experiment's report: one HTML file that needs no other, the same as Markdown, and every number as JSON."""

import math
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from counterpoint import __version__
from counterpoint.experiments import pages, paper, tables
from counterpoint.experiments.document import Document, Picture, Section
from counterpoint.experiments.engine import Job, Log, duration
from counterpoint.experiments.entries import BASELINE, SEARCHED
from counterpoint.experiments.experiment import Experiment
from counterpoint.experiments.predictions import Truth, draw_runs
from counterpoint.experiments.statistics import Results
from counterpoint.files import replacing, write_text
from counterpoint.run import environment, write_json
from counterpoint.tables import Cell, Table

PICTURES = "figures"
FEW = 5


def write(experiment: Experiment, console: Console, jobs: Sequence[Job]) -> Path:
    """Write the report of what is finished; return its HTML file."""
    results = Results(experiment)
    with console.status("writing the report"):
        document = _document(results, jobs)
    folder = experiment.folder / PICTURES
    folder.mkdir(exist_ok=True)
    for picture in document.pictures:
        with replacing(folder / picture.name) as file:
            file.write(picture.content)
    page = experiment.folder / "report.html"
    write_text(page.with_suffix(".md"), document.markdown(PICTURES))
    write_text(page, document.html())
    write_json(page.with_suffix(".json"), _numbers(results))
    return page


def made_by() -> dict[str, str]:
    """The commit and the hardware of what this process does."""
    told = environment()
    gpus = ", ".join(told["gpus"]) or "no GPU"
    return {"commit": commit(), "hardware": f"{told['processor']}, {told['threads']} threads of PyTorch, {gpus}"}


def commit() -> str:
    """The commit of the package's source, `+` where that differs from it; the version where it is in no repository."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:  # an installed package may lie, ignored, in the repository of something else
        subprocess.run([*git, "ls-files", "--error-unmatch", Path(__file__).name], capture_output=True, check=True)
        told = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", ".."], check=False).returncode
    except (OSError, subprocess.CalledProcessError):
        return f"counterpoint {__version__}"
    return told.stdout.strip() + ("+" if changed else "")


def _document(results: Results, jobs: Sequence[Job]) -> Document:
    experiment = results.experiment
    suite, main = experiment.suite, experiment.main
    unfinished = sum(not job.finished for job in jobs)
    lead = suite.what + (
        f" Not finished yet: {unfinished} of {len(jobs)} jobs; all below is of the others." * bool(unfinished)
    )
    families = [family for family in experiment.scale.families if results.entries(main, family)]
    sections = [Section("What came out", [*_tested(results), *([tables.summary(results)] if families else [])])]
    for family in families:
        sections += _family(results, family)
    if len(experiment.worlds) > 1 and families:
        sections.append(Section("Worlds", [tables.across(results, family) for family in families]))
    if found := pages.judged(results):
        pictures = [
            picture
            for family in dict.fromkeys(one.family for one in found)
            for picture in pages.tower_pictures(found, family)
        ]
        sections.append(Section("Correlation towers", [pages.tower_table(results, found), *pictures]))
        first = [one for one in found if one.kind == "trained" and one.seed == 0]
        pairs = [table for one in first for table in pages.surprising(results, one)]
        sections.append(Section("Pairs that surprise the towers", pairs, level=3, folded=True))
    if experiment.truth(main, 0).exists():
        trees = pages.trees(experiment.data(main, 0).labelling)
        sections.append(Section("Taxonomy trees, as the paper's Figs. 6 and 7", trees, folded=True))
    searched = [
        tables.searches(results, family, name)
        for family in experiment.scale.families
        for name in (BASELINE, SEARCHED)
        if experiment.search(family, name).results()
    ]
    if searched:
        told = (
            f"Late fusion's architecture is searched on {experiment.searched.name}'s validation clips and kept by its "
            "variants, as in the paper; then F, with the cross-modal model that needs no tower. The first trial is the "
            "recipe as it is."
        )
        sections.append(Section("Search", [told, *searched]))
    sections.append(Section("How this was made", [_made(experiment, jobs)]))
    return Document(f"Counterpoint: {suite.title.lower()}", lead, sections)


def _family(results: Results, family: str) -> list[Section]:
    """All of one family, whose parts are sections below it."""
    main, name = results.experiment.main, paper.FAMILIES[family]
    compared: list[str | Table | Picture] = [
        tables.by_level(results, main, family),
        pages.levels(results, family),
        tables.by_top(results, main, family),
    ]
    told = [*tables.findings(results, family), tables.controls(results, main, family)]
    sections = [
        Section(name, [*told, *tables.by_sound(results, family)]),
        Section(f"{name}: the paper's tables", compared, level=3),
    ]
    clips: list[str | Table | Picture] = [*pages.explained(results, family), *pages.contrasted(results, family)]
    if clips:
        sections.append(Section(f"{name}: single clips", clips, level=3))
    return sections


def _tested(results: Results) -> list[str]:
    """What test runs are, in sentences."""
    experiment = results.experiment
    path = experiment.truth(experiment.main, 0)
    if not path.exists():
        return ["Nothing is finished yet."]
    clips, runs = len(Truth.load(path).ids), experiment.scale.test_runs
    _, bootstrap = draw_runs(clips, runs, experiment.scale.test_sample)
    told = (
        f"There are {clips:,} test clips, too few to draw {runs} samples of {experiment.scale.test_sample:,} from "
        f"as the paper does: the {runs} test runs are bootstrap samples of all of them, the same for every model. "
        "Such a sample holds some clips several times and others not at all, so that figures over few clips, MAP's "
        "above all, are not those of all clips."
        if bootstrap
        else f"The {runs} test runs are random samples of {experiment.scale.test_sample:,} of {clips:,} test clips, "
        "the same for every model."
    )
    seeds = experiment.scale.seeds
    trained = f"Each model is trained with {seeds} seeds" if seeds > 1 else "Each model is trained once"
    if experiment.scale.control_seeds < seeds:
        trained += f", controls with {experiment.scale.control_seeds}"
    resampled = "clips and seeds" if seeds > 1 else "clips"
    fewest = min(map(len, results.breakdowns.values()), default=FEW)
    few = f" Where there are fewer than {FEW} seeds they are too narrow; over one, they are over clips alone."
    return [
        f"{told} {trained}. Intervals are by paired bootstrap over {resampled}, {experiment.scale.resamples:,} "
        f"samples: both models are measured on the same ones.{few * (fewest < FEW)}"
    ]


def _made(experiment: Experiment, jobs: Sequence[Job]) -> Table:
    """Command, commit, hardware, settings and time; of a job that was done again, the last time."""
    told, wanted = environment(), {job.name for job in jobs}
    done = {line["job"]: line for line in Log(experiment.folder).lines() if line["job"] in wanted}
    commits, machines = (dict.fromkeys(str(line[k]) for line in done.values() if k in line) for k in made_by())
    seconds = sum(float(line["seconds"]) for line in done.values())
    rows = {
        "this report's command": shlex.join([Path(told["command"][0]).name, *told["command"][1:]]),
        "commit": ", ".join(commits),
        "hardware": "; ".join(machines),
        "software": f"Python {told['python']}, PyTorch {told['torch']}, {told['platform']}",
        "time": f"{duration(seconds)} in {len(done)} jobs, added up; of those that went on, since then",
        **{name.replace("_", " "): tables.plain(value) for name, value in asdict(experiment.scale).items()},
    }
    for split, shards in experiment.inputs.shards.items():
        if shards:
            rows[f"{split} shards"] = " ".join(shards)
    return Table("", ["what", ""], [[name, Cell(value)] for name, value in rows.items()], labels=2)


def _numbers(results: Results) -> dict[str, Any]:
    """Every test run of every model, and every gain."""
    experiment = results.experiment
    return {
        "suite": experiment.suite.name,
        "scale": asdict(experiment.scale),
        "environment": environment()
        | {"commits": sorted({str(line["commit"]) for line in Log(experiment.folder).lines()})},
        "seconds": Log(experiment.folder).seconds,
        "test_runs": [
            {"world": world, "family": family, "model": name, "seed": seed, "runs": [run.to_dict() for run in runs]}
            for (world, family, name), by_seed in results.breakdowns.items()
            for seed, runs in by_seed.items()
        ],
        "gains": [
            {"world": world, "family": family, "model": ours, "over": theirs, "metric": metric, "group": group}
            | {"seeds": seeds}
            | {name: value if math.isfinite(value) else None for name, value in gain._asdict().items()}
            for (world, family, ours, theirs, metric, group, seeds), gain in results.gains.items()
        ],
        "towers": [
            {"family": one.family, "kind": one.kind, "seed": one.seed}
            | {name: value for name, value in one.told.items() if name not in ("true", "surprising")}
            for one in pages.judged(results)
        ],
        "searches": {
            f"{family}-{name}": experiment.search(family, name).results()
            for family in experiment.scale.families
            for name in (BASELINE, SEARCHED)
        },
    }
