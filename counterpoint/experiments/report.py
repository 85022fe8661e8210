"""An experiment's report: one HTML file that needs no other, the same as Markdown, and every number as JSON.

Every table is one function of a `counterpoint.experiments.results.Frame`, listed in `CHAPTERS`. A module outside of the
package adds one by `report_table`, and is named to `counterpoint.experiments.reproduce` (``tables``)::

    @report_table("{family}")  # once a family; without {family}, once, of all families together
    def seeds(frame: Frame) -> Table:
        main = frame.main  # the data set that is compared in full
        rows = [[entry.title, str(len(main.seeds(entry.name)))] for entry in main.entries()]
        return Table("Seeds", ["model", "seeds"], rows)
"""

import math
import re
import shlex
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from rich.console import Console

from counterpoint import __version__
from counterpoint.experiments import clips, paper, tables
from counterpoint.experiments.document import Block, Document, Picture, Section
from counterpoint.experiments.engine import Job, Log, duration
from counterpoint.experiments.experiment import Experiment
from counterpoint.experiments.predictions import measured
from counterpoint.experiments.results import Frame
from counterpoint.files import replacing, write_text
from counterpoint.run import environment, write_json
from counterpoint.tables import Cell, Table
from counterpoint.taxonomy import Labelling
from counterpoint.taxonomy.render import svg

PICTURES = "figures"
Made = Block | Sequence[Block] | None


class Chapter(NamedTuple):
    """A section of the report, and the functions that make its tables.

    Attributes:
        title: with ``{family}`` in it there is one for each family, and the functions get that family's results.
        level: of the title.
        folded: it opens on demand.
    """

    title: str
    tables: list[Callable[[Frame], Made]]
    level: int = 2
    folded: bool = False

    @property
    def each_family(self) -> bool:
        return "{family}" in self.title

    def section(self, frame: Frame, family: str) -> Section:
        """What the functions make of the results."""
        blocks: list[Block] = []
        for table in self.tables:
            made = table(frame)
            blocks += [] if made is None else [made] if isinstance(made, str | Table | Picture) else made
        return Section(self.title.replace("{family}", paper.FAMILIES.get(family, family)), blocks, *self[2:])


def taxonomy_trees(frame: Frame) -> list[Block]:
    """Every top-level category's tree."""
    experiment = frame.experiment
    made = experiment.truth(experiment.main, 0).exists()
    return list(trees(experiment.data(experiment.main, 0).labelling)) if made else []


def trees(labelling: Labelling) -> list[Picture]:
    """A picture of each top-level category's tree."""
    taxonomy = labelling.taxonomy
    roots = [i for i, level in enumerate(taxonomy.levels) if level == 0]
    # Ids may hold anything, AudioSet's a slash.
    names = [id_ if re.fullmatch(r"[\w-]+", id_) else f"no-{n}" for n, id_ in enumerate(taxonomy.ids[i] for i in roots)]
    return [
        Picture(
            f"tree-{name}.svg",
            svg(labelling, taxonomy.ids[root]).encode(),
            f"{taxonomy.names[root]}: {1 + len(taxonomy.descendants(root))} categories",
            wide=True,
        )
        for name, root in zip(names, roots, strict=True)
    ]


CHAPTERS = [
    Chapter("What came out", [tables.winner, tables.tested, tables.summary]),
    Chapter("{family}", [tables.order, tables.questions, tables.all_models, tables.by_sound]),
    Chapter("{family}: the paper's tables", [tables.by_level, tables.levels_picture, tables.by_top], level=3),
    Chapter("{family}: single clips", [clips.explained, clips.contrasted], level=3),
    Chapter("Data sets", [tables.across]),
    Chapter("Correlation towers", [tables.tower_table, tables.tower_pictures]),
    Chapter("Pairs with surprising tower outputs", [clips.surprising], level=3, folded=True),
    Chapter("Taxonomy trees, as the paper's Figs. 6 and 7", [taxonomy_trees], folded=True),
    Chapter("Search", [tables.searches]),
]
"""The whole report, but for its last section; `report_table` adds to it."""
F = TypeVar("F", bound=Callable[[Frame], Made])


def report_table(section: str) -> Callable[[F], F]:
    """Put what a function makes of the results into the report: tables, paragraphs and pictures, or None.

    Args:
        section: the title of a `Chapter`, an old or a new one.
    """

    def register(make: F) -> F:
        for chapter in CHAPTERS:
            if chapter.title == section:
                chapter.tables.append(make)
                return make
        new = Chapter(section, [make])
        alike = [i for i, chapter in enumerate(CHAPTERS) if chapter.each_family == new.each_family]
        CHAPTERS.insert(alike[-1] + 1, new._replace(level=3) if new.each_family else new)
        return make

    return register


def write(experiment: Experiment, console: Console, jobs: Sequence[Job]) -> Path:
    """Write the report of what is finished; return its HTML file.

    Args:
        jobs: those that the experiment consists of, finished or not.
    """
    with console.status("writing the report"):
        frame = Frame.load(experiment)
        document = _document(frame, jobs)
    folder = experiment.folder / PICTURES
    folder.mkdir(exist_ok=True)
    for picture in document.pictures:
        with replacing(folder / picture.name) as file:
            file.write(picture.content)
    page = experiment.folder / "report.html"
    write_text(page.with_suffix(".md"), document.markdown(PICTURES))
    write_text(page, document.html())
    write_json(page.with_suffix(".json"), _numbers(frame))
    return page


def made_by() -> dict[str, str]:
    """The commit and the hardware of what this process does."""
    system = environment()
    gpus = ", ".join(system["gpus"]) or "no GPU"
    return {"commit": commit(), "hardware": f"{system['processor']}, {system['threads']} threads of PyTorch, {gpus}"}


def commit() -> str:
    """The commit of the package's source, `+` where that differs from it; the version where it is in no repository."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:  # an installed package may be, ignored, in the repository of something else
        subprocess.run([*git, "ls-files", "--error-unmatch", Path(__file__).name], capture_output=True, check=True)
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", ".."], check=False).returncode
    except (OSError, subprocess.CalledProcessError):
        return f"counterpoint {__version__}"
    return head.stdout.strip() + ("+" if changed else "")


def _document(frame: Frame, jobs: Sequence[Job]) -> Document:
    experiment = frame.experiment
    unfinished = sum(not job.finished for job in jobs)
    lead = experiment.suite.what + (
        f" Not finished yet: {unfinished} of {len(jobs)} jobs; all below is of the others." * bool(unfinished)
    )
    finished = frame.main.unique("family")
    families = [family for family in experiment.scale.families if family in finished]
    sections = []
    for each_family, alike in groupby(CHAPTERS, key=lambda chapter: chapter.each_family):
        chapters = list(alike)
        for family in families if each_family else [""]:
            part = frame.select(family=family) if each_family else frame
            sections += [chapter.section(part, family) for chapter in chapters]
    sections.append(Section("How this was made", [_made(experiment, jobs)]))
    return Document(f"Counterpoint: {experiment.suite.title.lower()}", lead, [each for each in sections if each.blocks])


def _made(experiment: Experiment, jobs: Sequence[Job]) -> Table:
    """Command, commit, hardware, settings and time; of a job that was done again, the last time."""
    system, wanted = environment(), {job.name for job in jobs}
    done = {line["job"]: line for line in Log(experiment.folder).lines() if line["job"] in wanted}
    commits, machines = (dict.fromkeys(str(line[k]) for line in done.values() if k in line) for k in made_by())
    seconds = sum(float(line["seconds"]) for line in done.values())
    rows = {
        "this report's command": shlex.join([Path(system["command"][0]).name, *system["command"][1:]]),
        "commit": ", ".join(commits),
        "hardware": "; ".join(machines),
        "software": f"Python {system['python']}, PyTorch {system['torch']}, {system['platform']}",
        "time": f"{duration(seconds)} in {len(done)} jobs, added up; of those that went on, since then",
        **{name.replace("_", " "): tables.plain(value) for name, value in asdict(experiment.scale).items()},
    }
    for split, shards in experiment.inputs.shards.items():
        if shards:
            rows[f"{split} shards"] = " ".join(shards)
    return Table("", ["what", ""], [[name, Cell(value)] for name, value in rows.items()], labels=2)


def _numbers(frame: Frame) -> dict[str, Any]:
    """Every test run of every model, and every gain."""
    experiment = frame.experiment
    log = Log(experiment.folder)
    cells = [cell for cell in experiment.cells() if experiment.measured(cell).exists()]
    return {
        "suite": experiment.suite.name,
        "scale": asdict(experiment.scale),
        "environment": environment() | {"commits": sorted({str(line["commit"]) for line in log.lines()})},
        "seconds": log.seconds,
        "test_runs": [
            {"dataset": dataset.name, "family": family, "model": entry.name, "seed": seed}
            | {"runs": [run.to_dict() for run in measured(experiment.measured(cell))]}
            for cell in cells
            for dataset, family, entry, seed in [cell]
        ],
        "gains": [
            key._asdict() | {name: value if math.isfinite(value) else None for name, value in gain._asdict().items()}
            for key, gain in frame.clips.gains.items()
        ],
        "towers": [
            {"family": tower.family, "kind": tower.kind, "seed": tower.seed}
            | {name: value for name, value in tower.figures.items() if name not in ("true", "surprising")}
            for tower in tables.evaluated_towers(frame)
        ],
        "searches": {search.folder.name: search.results() for search in experiment.searches()},
    }
