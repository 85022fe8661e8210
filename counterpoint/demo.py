"""The main job on a small synthetic data set, then on rendered video files: all in about three minutes.

The data set is `counterpoint.data.synthetic`'s, so that the truth is known and nothing is downloaded; the videos are
`counterpoint.media.films`'s, of nine categories.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from counterpoint.data import synthetic
from counterpoint.data.dataset import Dataset
from counterpoint.data.features import FeatureSet
from counterpoint.evaluation.breakdown import Breakdown, table4
from counterpoint.evaluation.evaluate import evaluate
from counterpoint.evaluation.plots import draw_levels
from counterpoint.files import check_output_folder
from counterpoint.learning.learn import learn
from counterpoint.media import films
from counterpoint.media.extract import extract
from counterpoint.predict import Predictor
from counterpoint.recipes import (
    RECIPES,
    TOWER_RECIPES,
    ContrastiveConfig,
    NetVLADFamily,
    Recipe,
    TowerRecipe,
    Training,
)
from counterpoint.run import RunFolder
from counterpoint.tables import Table
from counterpoint.taxonomy import load
from counterpoint.training.train import train

SYNTHETIC = synthetic.SyntheticData(topics=48, unrelated=0.3)
TOWER = "correlation-nv"
SHOWN = {
    "mean-mlp": "a plain network on averaged features, for comparison",
    "nv-l": "late fusion, without influence between the modalities",
    "nv-cm": "cross-modal, each modality influences the other",
    "nv-cm-c": "cross-modal, with the tower's probability that they belong together",
}
BEST = "nv-cm-c"
REASON = (
    "Why influence wins here: each modality shows several topics, and both show one alone, some seconds apart. "
    "Averaging and late fusion join them when it is too late to see which."
)
NAMED = 5  # clips whose categories are printed
TOP = 3  # categories of each
FILM_SPLITS = {"train": range(7), "test": range(7, 9)}
"""Seeds of each category's films."""
TOWER_SEEDS = range(5)
"""The seeds of the films that the tower is trained on; it stops by all others, which are too few by themselves."""
FILM_TOWER = dataclasses.replace(
    TOWER_RECIPES[TOWER],
    family=NetVLADFamily(clusters={"video": 8, "audio": 8}, hidden=256),
    comparison=ContrastiveConfig(dropout=0.0),
    training=Training(learning_rate=1e-3, batch_size=15, max_epochs=15, stop_patience=15),
)
R = TypeVar("R", Recipe, TowerRecipe)


class FilmResult(NamedTuple):
    """The films that were held out, and of how many all categories are right and none is added."""

    run: Path
    films: list[Path]
    right: int


def demo(out: Path, console: Console) -> None:
    """Write shards, train, compare and categorize; everything is left in ``out``.

    Raises:
        Error: ``out`` holds something already.
    """
    check_output_folder(out)
    shards = out / "shards"
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("writing shards")
        written = synthetic.write(
            SYNTHETIC, shards, progress=lambda done, total: progress.update(task, completed=done, total=total)
        )
    count = sum(map(len, written.values()))
    console.print(f"[bold]1.[/] wrote {count} shards of synthetic clips to {escape(str(shards))}", soft_wrap=True)
    labelling = load(shards / "taxonomy")
    data = {split: Dataset(paths, labelling) for split, paths in written.items()}
    features = FeatureSet.of(data["train"].paths)

    breakdowns: list[tuple[str, Breakdown]] = []
    tower = RunFolder(out / TOWER, _small(TOWER_RECIPES[TOWER]), labelling, features)
    console.print(f"[bold]2.[/] training {TOWER}: which sound belongs to which picture")
    train(tower, data["train"], data["validation"], console=console)
    for number, (name, what) in enumerate(SHOWN.items(), 3):
        run = RunFolder(out / name, _small(RECIPES[name]), labelling, features)
        console.print(f"[bold]{number}.[/] training {name}: {what}")
        needed = tower if RECIPES[name].needs_tower else None
        train(run, data["train"], data["validation"], tower=needed, console=console)
        breakdown = evaluate(run, data["test"], console)
        breakdown.save(run.folder / "evaluation")
        breakdowns.append((name, breakdown))

    console.print(f"[bold]{len(SHOWN) + 3}.[/] real video files: rendered, extracted, and most of them trained on")
    of_films = _films(out, console)

    compared = table4(breakdowns, "test clips")
    named = _named(RunFolder.load(out / BEST), written["test"][0])
    report = out / "report.md"
    figure = draw_levels(breakdowns, out / "comparison.png")
    tables = [f"## {table.title}\n\n{dataclasses.replace(table, title='').markdown()}\n" for table in (compared, named)]
    picture = f"![GAP error by level]({figure.name})\n"
    report.write_text("\n".join(["# Demo\n", f"{SYNTHETIC}\n", tables[0], picture, tables[1]]), encoding="utf-8")
    shown = Console(width=None if console.is_terminal else 100)
    shown.print(compared)
    shown.print(REASON)
    shown.print(named)
    count = len(of_films.films)
    print(f"{of_films.right} of {count} video files that were held out are in the right categories, and in no other")
    print(f"runs    {', '.join(str(out / name) for name in (TOWER, *SHOWN))}")
    print(f"report  {report}")
    print(f"        {of_films.run / 'report.html'}")
    print(f"go on   counterpoint categorize {out / BEST} {written['test'][0]}")
    print(f"        counterpoint categorize {of_films.run} {of_films.films[0]} --explain {out}")


def _films(out: Path, console: Console) -> FilmResult:
    """Render films to ``out``/films, learn from most of them, and categorize those that were held out."""
    folder = out / "films"
    rendered = films.films(folder, FILM_SPLITS)
    console.print(f"   rendered {sum(map(len, rendered.values()))} films to {folder}")
    learned = learn(folder / "train", out / "films-run", folder / "labels.csv")
    console.print(f"   learned from {learned.result.clips} of them: {learned.result.summary}", soft_wrap=True)

    extract(folder / "test", out / "film-shards", folder / "labels.csv", out / "films-run" / "shards" / "taxonomy")
    data = Dataset([out / "films-run" / "shards", out / "film-shards"])
    features = FeatureSet.of(data.paths)
    tower = RunFolder(out / "films-tower", FILM_TOWER, data.labelling, features)
    splits = data.only(partial(_of_seeds, True)), data.only(partial(_of_seeds, False))
    train(tower, *splits, console=Console(quiet=True))
    assert tower.tower_reliability is not None
    console.print(f"   trained films-tower: which sound belongs to which picture; {tower.tower_reliability}")
    learned.run.take_in(tower)

    run = RunFolder.load(out / "films-run")
    right = sum(
        int(((batch.probabilities >= run.thresholds) == batch.labels).all(1).sum())
        for batch in Predictor(run).predict(Dataset(out / "film-shards", run.labelling))
    )
    return FilmResult(run.folder, rendered["test"], right)


def _of_seeds(trained: bool, clip_id: str) -> bool:
    return (int(Path(clip_id).stem.rpartition("-")[2]) in TOWER_SEEDS) == trained


def _small(recipe: R) -> R:
    """The recipe at a size that trains in half a minute."""
    family = NetVLADFamily(clusters={"video": 24, "audio": 24}, hidden=128)
    training = Training(learning_rate=1e-3, max_epochs=8, batch_size=64)
    if isinstance(recipe, TowerRecipe):  # the dropout that suits YouTube-8M keeps so small a tower from learning at all
        recipe = dataclasses.replace(recipe, comparison=ContrastiveConfig(dropout=0.0))
    return dataclasses.replace(recipe, family=family, training=training)


def _named(run: RunFolder, shard: Path) -> Table:
    """Some clips' truth and best categories."""
    paths, levels = run.labelling.taxonomy.paths, run.labelling.taxonomy.levels
    some = Dataset([shard], run.labelling)
    rows = []
    predictions = next(Predictor(run).predict(some, batch_size=NAMED))
    for clip, probabilities, truth in zip(predictions.ids, predictions.probabilities, predictions.labels, strict=True):
        leaves = np.flatnonzero(levels == levels.max())
        best = leaves[np.argsort(-probabilities[leaves])[:TOP]]
        label = next(paths[i] for i in leaves if truth[i])
        rows.append([clip, label, ", ".join(f"{paths[i]} {probabilities[i]:.2f}" for i in best)])
    header = ["clip", "truth", f"{TOP} best leaf categories"]
    return Table(f"{NAMED} test clips by {BEST}", header, rows, labels=3)
