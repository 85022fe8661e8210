"""The main job on a small world of its own, then on video files: all in less than three minutes.

The world is `counterpoint.data.synthetic`'s: made up, so that the truth is known and nothing is downloaded. The videos
are `counterpoint.media.films`'s.
"""

import dataclasses
from pathlib import Path
from typing import TypeVar

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from counterpoint.data import synthetic
from counterpoint.data.dataset import Dataset
from counterpoint.data.features import FeatureSet
from counterpoint.errors import Error
from counterpoint.evaluation.breakdown import Breakdown, markdown, rich_table, table4
from counterpoint.evaluation.evaluate import evaluate
from counterpoint.evaluation.plots import draw_levels
from counterpoint.media import demo as media
from counterpoint.predict import Predictor
from counterpoint.recipes import RECIPES, TOWER_RECIPES, ContrastiveConfig, NetVLADFamily, Recipe, TowerRecipe, Training
from counterpoint.run import RunFolder
from counterpoint.taxonomy import load
from counterpoint.training.train import train

WORLD = synthetic.SyntheticData(topics=48, unrelated=0.3)
TOWER = "correlation-nv"
SHOWN = {
    "nv-l": "late fusion, nobody hears anybody",
    "nv-cm": "cross-modal, each hears the other",
    "nv-cm-c": "cross-modal, told by the tower whether they belong together",
}
BEST = "nv-cm-c"
NAMED = 5  # clips whose categories are printed
R = TypeVar("R", Recipe, TowerRecipe)
TOP = 3  # categories of each


def demo(out: Path, console: Console) -> None:
    """Write shards, train, compare and name; everything is left in ``out``.

    Raises:
        Error: ``out`` holds something already.
    """
    if out.exists() and any(out.iterdir()):
        raise Error(f"{out}: not empty; remove it or choose another --out")
    shards = out / "shards"
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("writing shards")
        written = synthetic.write(
            WORLD, shards, progress=lambda done, total: progress.update(task, completed=done, total=total)
        )
    count = sum(map(len, written.values()))
    console.print(f"[bold]1.[/] wrote {count} shards of made-up clips to {escape(str(shards))}", soft_wrap=True)
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
        needed = tower if RECIPES[name].fusion.tower else None
        train(run, data["train"], data["validation"], tower=needed, console=console)
        breakdown = evaluate(run, data["test"], console)
        breakdown.save(run.folder / "evaluation")
        breakdowns.append((name, breakdown))

    console.print(f"[bold]{len(SHOWN) + 3}.[/] real video files: rendered, extracted, and most of them learned from")
    films = media.films(out, console)

    title = f"Error in % on {len(data['test'])} test clips (lower is better)"
    named = _named(RunFolder.load(out / BEST), written["test"][0])
    report = out / "report.md"
    figure = draw_levels(breakdowns, out / "comparison.png")
    report.write_text(
        f"# Demo\n\n{WORLD}\n\n## {title}\n\n{markdown(table4(breakdowns))}\n"
        f"\n![GAP error by level]({figure.name})\n\n## {NAMED} test clips by {BEST}\n\n{markdown(named)}\n",
        encoding="utf-8",
    )
    shown = Console(width=None if console.is_terminal else 100)
    shown.print(rich_table(table4(breakdowns), title))
    shown.print(rich_table(named, f"{NAMED} test clips by {BEST}"))
    print(f"{films.right} of {len(films.films)} video files that were held out are in their category")
    print(f"runs    {', '.join(str(out / name) for name in (TOWER, *SHOWN))}")
    print(f"report  {report}")
    print(f"go on   counterpoint categorize {out / BEST} {written['test'][0]}")
    print(f"        counterpoint categorize {films.run} {films.films[0]} --explain {out}")


def _small(recipe: R) -> R:
    """The recipe at a size that trains in half a minute."""
    family = NetVLADFamily(clusters={"video": 24, "audio": 24}, hidden=128)
    training = Training(learning_rate=1e-3, max_epochs=8, batch_size=64)
    if isinstance(recipe, TowerRecipe):  # the dropout that suits YouTube-8M keeps so small a tower from learning at all
        recipe = dataclasses.replace(recipe, comparison=ContrastiveConfig(dropout=0.0))
    return dataclasses.replace(recipe, family=family, training=training)


def _named(run: RunFolder, shard: Path) -> list[list[str]]:
    """A table of some clips' truth and best categories; a header first."""
    paths, levels = run.labelling.taxonomy.paths, run.labelling.taxonomy.levels
    some = Dataset([shard], run.labelling)
    rows = [["clip", "truth", f"{TOP} best leaf categories"]]
    predictions = next(Predictor(run).predict(some, batch_size=NAMED))
    for clip, probabilities, truth in zip(predictions.ids, predictions.probabilities, predictions.labels, strict=True):
        leaves = np.flatnonzero(levels == levels.max())
        best = leaves[np.argsort(-probabilities[leaves])[:TOP]]
        label = next(paths[i] for i in leaves if truth[i])
        rows.append([clip, label, ", ".join(f"{paths[i]} {probabilities[i]:.2f}" for i in best)])
    return rows
