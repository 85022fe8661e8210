"""The tables that compare models: the paper's, and those that tell the idea from capacity."""

import csv
import math
from itertools import pairwise
from pathlib import Path

import numpy as np

from counterpoint.evaluation.breakdown import DASH, TITLES
from counterpoint.evaluation.tower import CORRELATED
from counterpoint.experiments import paper
from counterpoint.experiments.datasets import Source
from counterpoint.experiments.document import Picture
from counterpoint.experiments.entries import BASELINE, HEADLINE, Entry
from counterpoint.experiments.experiment import Cell as RunCell
from counterpoint.experiments.statistics import ALL, Gain, Group, Results, Value
from counterpoint.models.fusion import JOINED
from counterpoint.recipes import Recipe
from counterpoint.run import RunFolder, read_json
from counterpoint.tables import Cell, Table

METRICS = ("gap", "map", "perr", "hit_at_1")
SPREAD = "Error rates in %, lower is better; small: standard deviation over test runs / over seeds."
GAIN = "A gain is the share of L's error that CM-C does without, with its 95 % interval; bold where that is clear of 0."


def pair(results: Results, world: Source, family: str, one: str, other: str) -> tuple[Entry, Entry] | None:
    """Two entries that have a seed in common; None where they have not."""
    found = {entry.name: entry for entry in results.entries(world, family)}
    if one not in found or other not in found or not results.seeds(world, family, found[one], found[other]):
        return None
    return found[one], found[other]


def by_level(results: Results, world: Source, family: str) -> Table:
    """Tables 4 and 8: each metric overall and by level, the gain of CM-C over L, and the paper's numbers."""
    entries = results.entries(world, family)
    shown = [entry for entry in entries if entry.part in ("paper", "ensemble")] or entries
    both = pair(results, world, family, HEADLINE, BASELINE)
    known = paper.LEVELS.get(family, {})
    levels = len(next(iter(results.breakdowns[world.name, family, shown[0].name].values()))[0].levels)
    groups: list[Group] = [ALL, *(("level", str(level)) for level in range(levels))]
    rows = []
    for metric in (*METRICS, "gap_full"):
        for group in groups:
            row: list[Cell | str] = [TITLES[metric], group[1] or "all"]
            row += [_value(results.value(world, family, entry, metric, group)) for entry in shown]
            if both:
                row.append(_gain(results.gain(world, family, *both, metric, group)) if metric in METRICS else "")
            if known:
                numbers = known.get((metric, group[1] or "all"))
                row += [Cell(f"{number:.2f}", dim=True) for number in numbers] if numbers else [""] * len(paper.MODELS)
                row.append(Cell(_percent(100 * (1 - numbers[3] / numbers[1])), dim=True) if numbers else "")
            rows.append(row)
    header = ["metric", "level", *(entry.title for entry in shown), *(["gain"] if both else [])]
    spans = [("", 2), ("this experiment", len(header) - 2)]
    if known:
        header += ["E", "L", "CM-G", "CM-C", "gain"]
        spans.append(("the paper", 5))
    number = f", as the paper's Table {paper.TABLES[family]['levels']}" if family in paper.TABLES else ""
    title = f"{paper.FAMILIES[family]} by level{number}"
    caption = " ".join(
        [SPREAD, *([GAIN] if both else []), *(["The paper's numbers are of its own data."] if known else [])]
    )
    return Table(title, header, rows, caption, 2, spans if known else (), parts=True)


def by_top(results: Results, world: Source, family: str) -> Table:
    """Tables 5 and 9: GAP by top-level category."""
    entries = results.entries(world, family)
    shown = [entry for entry in entries if entry.part == "paper"] or entries
    both = pair(results, world, family, HEADLINE, BASELINE)
    known = paper.TOPS.get(family, {})
    seed, runs = next(iter(results.breakdowns[world.name, family, shown[0].name].items()))
    clips = {name: results.positives(world, seed, name) for name in runs[0].tops}
    rows = []
    for name in sorted(clips, key=lambda name: -clips[name]):
        if not clips[name]:
            continue
        group = ("top", name)
        row: list[Cell | str] = [name, f"{clips[name]:,}"]
        row += [_value(results.value(world, family, entry, "gap", group)) for entry in shown]
        if both:
            row.append(_gain(results.gain(world, family, *both, "gap", group)))
        if known:
            numbers = known.get(name)
            row += [Cell(f"{number:.2f}", dim=True) for number in numbers] if numbers else ["", ""]
            row.append(Cell(_percent(100 * (1 - numbers[1] / numbers[0])), dim=True) if numbers else "")
        rows.append(row)
    header = ["category", "clips", *(entry.title for entry in shown), *(["gain"] if both else [])]
    spans = [("", 2), ("this experiment", len(header) - 2)]
    if known:
        header += ["L", "CM-C", "gain"]
        spans.append(("the paper", 3))
    number = f", as the paper's Table {paper.TABLES[family]['tops']}" if family in paper.TABLES else ""
    title = f"{paper.FAMILIES[family]}, GAP by top-level category{number}"
    caption = f"{SPREAD} Over all test clips; the column of clips counts those that are in the category."
    return Table(title, header, rows, caption, 1, spans if known else ())


def controls(results: Results, world: Source, family: str) -> Table:
    """Every model with its size, and how it compares with the baseline and with the headline model."""
    rows = []
    for entry in results.entries(world, family):
        row: list[Cell | str] = [Cell(entry.title, entry.what)]
        row += [*_cost(results, world, family, entry), _value(results.value(world, family, entry, "gap"))]
        for name in (BASELINE, HEADLINE):
            both = None if name == entry.name else pair(results, world, family, entry.name, name)
            row.append(_gain(results.gain(world, family, *both, "gap")) if both else DASH)
        rows.append(row)
    header = [
        "model",
        "parameters",
        "seeds",
        "best epoch",
        "minutes a run",
        "GAP error",
        "less than L",
        "less than CM-C",
    ]
    caption = (
        "The last two columns: how much less GAP error the model has than L and than CM-C, in % of theirs, over the "
        "seeds that both have (over one seed, the interval is over clips alone); below 0 it has more. Parameters are "
        "those that are learned with the model, without its tower's; of an ensemble, its members' together. Rivals "
        "take what late fusion's search chose, as far as they have it; they were not searched themselves."
    )
    return Table(f"{paper.FAMILIES[family]}: all models", header, rows, caption)


def across(results: Results, family: str) -> Table:
    """GAP error of the models that every world has, world by world."""
    worlds = [world for world in results.experiment.worlds if results.entries(world, family)]
    names = dict.fromkeys(entry.name for world in worlds[1:] or worlds for entry in results.entries(world, family))
    titles: dict[str, str] = {}
    rows = []
    for world in worlds:
        entries = {entry.name: entry for entry in results.entries(world, family) if entry.name in names}
        titles |= {name: entry.title for name, entry in entries.items()}
        row: list[Cell | str] = [Cell(world.name, world.what)]
        row += [
            _value(results.value(world, family, entries[name], "gap")) if name in entries else DASH for name in names
        ]
        both = pair(results, world, family, HEADLINE, BASELINE)
        rows.append([*row, _gain(results.gain(world, family, *both, "gap")) if both else DASH])
    header = ["world", *(titles[name] for name in names), "gain"]
    return Table(f"{paper.FAMILIES[family]}, GAP error by world", header, rows, f"{SPREAD} {GAIN}")


def by_sound(results: Results, family: str) -> list[Table]:
    """Who gains, in worlds that tell: GAP error in clips whose sound has to do with the picture, and in the others."""
    suite, rows = results.experiment.suite, []
    worlds = [world for world in results.experiment.worlds if results.entries(world, family)]
    shown = [e for e in results.entries(worlds[0], family) if e.part == "paper" or e.name in suite.further]
    for world in worlds:
        both = pair(results, world, family, HEADLINE, BASELINE)
        there = results.entries(world, family)
        seed = min(seed for entry in results.entries(world, family) for seed in results.seeds(world, family, entry))
        if (related := results.related(world, seed)) is None:
            continue
        what = world.what  # told once
        for sound, clips in (("related", related), ("unrelated", ~related)):
            if clips.any():
                group = ("sound", sound)
                row: list[Cell | str] = [Cell(world.name, what), sound, f"{clips.sum():,}"]
                what = ""
                for entry in shown:
                    row.append(_value(results.value(world, family, entry, "gap", group)) if entry in there else DASH)
                row.append(_gain(results.gain(world, family, *both, "gap", group)) if both else DASH)
                rows.append([*row, _open(results, world, family, sound)])
    header = ["world", "sound", "clips", *(entry.title for entry in shown), "gain", "gate open"]
    caption = f"GAP. {SPREAD} {GAIN} Gate open: the clips that the trained tower calls correlated, in % (over seeds)."
    title = f"{paper.FAMILIES[family]}: where sound and picture belong together, and where not"
    return [Table(title, header, rows, caption, 2)] if rows else []


def _open(results: Results, world: Source, family: str, sound: str) -> Cell | str:
    """In what share of such clips the trained tower's gate is open."""
    shares = []
    for seed in range(results.experiment.scale.seeds):
        path = results.experiment.judged(world, family, "trained", seed)
        if path.exists() and (related := results.related(world, seed)) is not None:
            opened = np.array(read_json(path)["true"]) >= CORRELATED
            shares.append(100 * opened[related if sound == "related" else ~related].mean())
    if not shares:
        return DASH
    return Cell(f"{np.mean(shares):.0f}", f"± {np.std(shares, ddof=1):.0f}" if len(shares) > 1 else "")


def summary(results: Results) -> Table:
    """The headline of each family."""
    world = results.experiment.main
    rows: list[list[Cell | str]] = []
    for family in results.experiment.scale.families:
        both = pair(results, world, family, HEADLINE, BASELINE)
        if not both:
            continue
        ours, theirs = (results.value(world, family, entry, "gap") for entry in both)
        gain = results.gain(world, family, *both, "gap")
        levels = len(next(iter(results.breakdowns[world.name, family, HEADLINE].values()))[0].levels)
        grows = results.grows(world, family, *both, levels)
        seeds = len(results.seeds(world, family, both[0]))
        entries = [entry for entry in results.entries(world, family) if entry.recipe]
        single = [entry for entry in entries if len(results.seeds(world, family, entry)) >= seeds]
        best = min(single, key=lambda entry: results.value(world, family, entry, "gap").mean)
        rows.append([paper.FAMILIES[family], _value(theirs), _value(ours), _gain(gain), _gain(grows), best.title])
    deeper = "deepest level's gain above the top's"
    header = ["family", "L", "CM-C", "gain", deeper, "least error of one model"]
    caption = (
        f"GAP. {SPREAD} {GAIN} The gain grows with the level, as the paper found, where the {deeper} (in percentage "
        "points) is clearly above 0. The last column is of models with as many seeds as CM-C."
    )
    return Table("CM-C against L", header, rows, caption)


QUESTIONS = {
    "l-equal": "Would more parameters alone do?",
    "e-equal": "Would early fusion of the same size?",
    "cm-self": "Would F alone, with nothing of the other modality?",
    "cm": "Does the tower help?",
    "cm-c-random": "Or would one that knows nothing?",
    "cm-c-constant": "Or one that always says the same?",
    "tm-xattn": "Would cross-attention of the same size do?",
    "tm-mbt": "Would attention bottlenecks?",
    "tm-bert": "Would one Transformer over both?",
}


def findings(results: Results, family: str) -> list[str | Table | Picture]:
    """What the comparison says: the order of the paper's models, and CM-C against each control."""
    world = results.experiment.main
    found = {entry.name: entry for entry in results.entries(world, family)}
    told: list[str | Table | Picture] = []
    names = (BASELINE, "cm-g", HEADLINE)
    order = [found[name] for name in names if name in found]
    if len(order) == len(names) and (seeds := results.seeds(world, family, *order)):
        means = [results.value(world, family, entry, "gap", seeds=seeds).mean for entry in order]
        shown = ", ".join(f"{entry.title} {mean:.2f}" for entry, mean in zip(order, means, strict=True))
        steps = [results.gain(world, family, less, more, "gap", seeds=seeds) for more, less in pairwise(order)]
        verdict = "does not hold"
        if means[0] > means[1] > means[2]:
            clear = all(step.low > 0 for step in steps)
            verdict = "holds" if clear else "holds in the means, but not every step is clear of 0"
        gains = ", ".join(f"{_percent(step.percent)} {_bounds(step)}" for step in steps)
        told.append(f"The paper's order of GAP errors, L > CM-G > CM-C, {verdict}: {shown}; each less by {gains}.")
    rows: list[list[Cell | str]] = []
    for name, question in QUESTIONS.items():
        if both := pair(results, world, family, HEADLINE, name):
            gain = results.gain(world, family, *both, "gap")
            verdict = "CM-C errs less" if gain.low > 0 else "CM-C errs more" if gain.high < 0 else "no clear difference"
            seeds = results.seeds(world, family, *both)
            rows.append([question, found[name].title, verdict, _gain(gain), str(len(seeds))])
    if rows:
        header = ["question", "control", "answer", "CM-C's gain over it", "seeds"]
        caption = "Over the seeds that both have; over one, the interval is over clips alone."
        told.append(Table(f"{paper.FAMILIES[family]}: the idea or capacity?", header, rows, caption, 3))
    return told


def searches(results: Results, family: str, name: str) -> Table:
    """What a search tried, the best first."""
    tried = sorted(results.experiment.search(family, name).results(), key=lambda t: -t["validation_gap"])
    fields = sorted({field for trial in tried for field in trial["settings"]})
    rows = [
        [
            f"{trial['validation_gap']:.4f}",
            *(plain(trial["settings"].get(field, "as the recipe has it")) for field in fields),
        ]
        for trial in tried
    ]
    return Table(f"{family}-{name}, {len(tried)} trials", ["validation GAP", *fields], rows, labels=1 + len(fields))


def plain(value: object) -> str:
    """A setting for people."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {plain(size)}" for name, size in value.items() if name != JOINED) or DASH
    return ", ".join(map(str, value)) or DASH if isinstance(value, list | tuple) else str(value)


def _cost(results: Results, world: Source, family: str, entry: Entry) -> list[str]:
    """Parameters, seeds, best epoch and minutes of a model's runs."""
    experiment = results.experiment
    seeds = results.seeds(world, family, entry)
    cells = [RunCell(world, family, entry, seed) for seed in seeds]
    if not entry.recipe:
        members = experiment.members(cells[0])
        return [f"{sum(_parameters(results, member) for member in members):,}", str(len(seeds)), DASH, DASH]
    epochs = [_epochs(experiment.run_folder(cell) / "epochs.csv") for cell in cells]
    best, minutes = (f"{np.mean(column):.1f}" for column in zip(*epochs, strict=True))
    return [f"{_parameters(results, cells[0]):,}", str(len(seeds)), best, minutes]


def _parameters(results: Results, cell: RunCell) -> int:
    recipe = RunFolder.load(results.experiment.run_folder(cell)).recipe
    assert isinstance(recipe, Recipe)
    return results.experiment.count(recipe, cell.family)


def _epochs(path: Path) -> tuple[int, float]:
    """The best epoch, and minutes of all."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    best = max(rows, key=lambda row: float(row["validation_gap"]))
    return int(best["epoch"]), sum(float(row["seconds"]) for row in rows) / 60


def _value(value: Value) -> Cell:
    if math.isnan(value.mean):
        return Cell(DASH)
    spread = [DASH if math.isnan(sd) else f"{sd:.2f}" for sd in (value.over_runs, value.over_seeds)]
    return Cell(f"{value.mean:.2f}", f"± {' / '.join(spread)}" if set(spread) != {DASH} else "")


def _gain(gain: Gain) -> Cell:
    if not math.isfinite(gain.percent):  # the other model has no error
        return Cell(DASH)
    return Cell(_percent(gain.percent), _bounds(gain), bold=gain.clear)


def _bounds(gain: Gain) -> str:
    if math.isnan(gain.low):
        return "[unknown]"
    return f"[{_signed(gain.low)}, {_signed(gain.high)}]"


def _signed(number: float) -> str:
    return f"{round(number, 1) + 0.0:+.1f}".replace("-", "−")  # + 0.0: no minus zero


def _percent(number: float) -> str:
    return f"{_signed(number)} %"
