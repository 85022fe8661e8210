"""The report's tables of models and towers: the paper's, and those that separate the idea from capacity."""

import csv
import math
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torchmetrics.functional.classification import binary_auroc

from counterpoint.evaluation import metrics
from counterpoint.evaluation import tower as towers
from counterpoint.evaluation.breakdown import DASH, Breakdown, Figures
from counterpoint.evaluation.plots import draw_levels
from counterpoint.experiments import paper
from counterpoint.experiments.document import Picture
from counterpoint.experiments.experiment import Cell as RunCell
from counterpoint.experiments.paper import BASELINE, ENTRIES, HEADLINE, Entry
from counterpoint.experiments.predictions import draw_runs
from counterpoint.experiments.results import ALL, Frame, Gain, Value
from counterpoint.models.fusion import JOINED
from counterpoint.recipes import Recipe
from counterpoint.run import RunFolder, read_json
from counterpoint.tables import Cell, Table

METRICS = ("gap", "map", "perr", "hit_at_1")
STD = "Error rates in %, lower is better; small: standard deviation over test runs / over seeds."
SHOWN = ("mean-mlp", "mean-s")  # plain networks of the tables by level and category, which have little room
GAIN = "A gain is the share of L's error that CM-C avoids, with its 95 % interval; bold where that is clear of 0."


# --- models -----------------------------------------------------------------------------------------------------------


def tested(frame: Frame) -> str:
    """What test runs are, in sentences."""
    experiment = frame.experiment
    scale = experiment.scale
    if not experiment.truth(experiment.main, 0).exists():
        return "Nothing is finished yet."
    clips, runs = len(frame.clips.truth(experiment.main, 0).ids), scale.test_runs
    _, bootstrap = draw_runs(clips, runs, scale.test_sample)
    drawn = (
        f"There are {clips:,} test clips, too few to draw {runs} samples of {scale.test_sample:,} from "
        f"as the paper does: the {runs} test runs are bootstrap samples of all of them, the same for every model. "
        "Such a sample holds some clips several times and others not at all, so that figures over few clips, MAP's "
        "above all, are not those of all clips."
        if bootstrap
        else f"The {runs} test runs are random samples of {scale.test_sample:,} of {clips:,} test clips, "
        "the same for every model."
    )
    trained = f"Each model is trained with {scale.seeds} seeds" if scale.seeds > 1 else "Each model is trained once"
    if scale.control_seeds < scale.seeds:
        trained += f", controls with {scale.control_seeds}"
    resampled = "clips and seeds" if scale.seeds > 1 else "clips"
    single = " Over one seed they are over clips alone, and too narrow." * (_fewest_seeds(frame) < 2)
    students = " Over several seeds they have the width of Student's t distribution." * (scale.seeds > 1)
    return (
        f"{drawn} {trained}. Intervals are by paired bootstrap over {resampled}, {scale.resamples:,} "
        f"samples: both models are measured on the same ones.{students}{single}"
    )


def _fewest_seeds(frame: Frame) -> int:
    """Of all models."""
    runs = {record[:4] for record in frame.select(group=ALL, metric="gap")}
    return min(Counter(run[:3] for run in runs).values(), default=2)


def winner(frame: Frame) -> str | None:
    """Whether a plain network errs less than every model with attention, by family."""
    found = [_winner(frame.main.select(family=family)) for family in frame.main.unique("family")]
    return " ".join(filter(None, found)) or None


def _winner(main: Frame) -> str | None:
    single = [entry for entry in main.entries() if entry.recipe and not entry.of]
    plain, others = ([each for each in single if each.plain is kind] for kind in (True, False))
    if not plain or not others:
        return None
    best, other = (min(part, key=lambda entry: main.value(entry.name).mean) for part in (plain, others))
    if not main.seeds(best.name, other.name):
        return None
    gain = main.gain(other.name, best.name)
    verdict = "is better than" if gain.low > 0 else "is worse than" if gain.high < 0 else "is no better or worse than"
    means = [main.value(entry.name).mean for entry in (other, best)]
    return (
        f"{paper.FAMILIES[main.family]}: the best model, {other.title} (GAP error {means[0]:.2f} %), "
        f"{verdict} the best plain network, {best.title} ({means[1]:.2f} %), by "
        f"{_percent(gain.percent)} {_bounds(gain)}."
    )


def summary(frame: Frame) -> Table | None:
    """The headline of each family."""
    rows: list[list[Cell | str]] = []
    for family in frame.main.unique("family"):
        main = frame.main.select(family=family)
        if not (seeds := main.seeds(HEADLINE, BASELINE)):
            continue
        single = [each for each in main.entries() if each.recipe and len(main.seeds(each.name)) >= len(seeds)]
        best = min(single, key=lambda entry: main.value(entry.name).mean)
        row = [value_cell(main.value(BASELINE)), value_cell(main.value(HEADLINE))]
        row += [gain_cell(main.gain(HEADLINE, BASELINE)), gain_cell(main.growth(HEADLINE, BASELINE))]
        rows.append([paper.FAMILIES[family], *row, best.title])
    deeper = "deepest level's gain above the top's"
    header = ["family", "L", "CM-C", "gain", deeper, "least error of one model"]
    caption = (
        f"GAP. {STD} {GAIN} The gain grows with the level, as the paper found, where the {deeper} (in percentage "
        "points) is clearly above 0. The last column is of models with as many seeds as CM-C."
    )
    return Table("CM-C against L", header, rows, caption) if rows else None


QUESTIONS = {
    "l-equal": "Would more parameters alone do?",
    "e-equal": "Would early fusion of the same size?",
    "cm-self": "Would F alone, without the other modality?",
    "cm": "Does the tower help?",
    "cm-c-random": "Would an untrained tower do?",
    "cm-c-constant": "Would a tower with a constant output do?",
    "tm-xattn": "Would cross-attention of the same size do?",
    "tm-mbt": "Would attention bottlenecks?",
    "tm-bert": "Would one Transformer over both?",
}


def order(frame: Frame) -> str | None:
    """Whether the paper's order of models holds, over the seeds that all of them have."""
    main, names = frame.main, (BASELINE, "cm-g", HEADLINE)
    if not (seeds := main.seeds(*names)):
        return None
    means = [main.value(name, seeds=seeds).mean for name in names]
    steps = [main.gain(less, more, seeds=seeds) for more, less in pairwise(names)]
    verdict = "does not hold"
    if means[0] > means[1] > means[2]:
        clear = all(step.low > 0 for step in steps)
        verdict = "holds" if clear else "holds in the means, but not every step is clear of 0"
    shown = ", ".join(f"{ENTRIES[name].title} {mean:.2f}" for name, mean in zip(names, means, strict=True))
    gains = ", ".join(f"{_percent(step.percent)} {_bounds(step)}" for step in steps)
    return f"The paper's order of GAP errors, L > CM-G > CM-C, {verdict}: {shown}; each less by {gains}."


def questions(frame: Frame) -> Table | None:
    """CM-C against each control."""
    rows: list[list[Cell | str]] = []
    main = frame.main
    for name, question in QUESTIONS.items():
        if seeds := main.seeds(HEADLINE, name):
            gain = main.gain(HEADLINE, name)
            answer = "CM-C errs less" if gain.low > 0 else "CM-C errs more" if gain.high < 0 else "no clear difference"
            rows.append([question, ENTRIES[name].title, answer, gain_cell(gain), str(len(seeds))])
    header = ["question", "control", "answer", "CM-C's gain over it", "seeds"]
    caption = "Over the seeds that both have; over one, the interval is over clips alone."
    return Table(f"{paper.FAMILIES[frame.family]}: the idea or capacity?", header, rows, caption, 3) if rows else None


def all_models(frame: Frame) -> Table:
    """Every model with its size, and how it compares with the baseline and with the headline model."""
    rows, main = [], frame.main
    for entry in main.entries():
        row: list[Cell | str] = [Cell(entry.title, entry.what), *_cost(main, entry), value_cell(main.value(entry.name))]
        for name in (BASELINE, HEADLINE):
            both = name != entry.name and main.seeds(entry.name, name)
            row.append(gain_cell(main.gain(entry.name, name)) if both else DASH)
        rows.append(row)
    header = ["model", "parameters", "seeds", "best epoch", "minutes a run", "GAP error", "less than L"]
    header.append("less than CM-C")
    caption = (
        "The last two columns: how much less GAP error the model has than L and than CM-C, in % of theirs, over the "
        "seeds that both have (over one seed, the interval is over clips alone); below 0 it has more. Parameters are "
        "those that are learned with the model, without its tower's; of an ensemble, its members' together. Plain "
        "networks (mean) had a search of their own, of as many trials as late fusion. The Transformer's baselines take "
        "the settings that late fusion's search chose, as far as they have them; they were not searched themselves."
    )
    return Table(f"{paper.FAMILIES[frame.family]}: all models", header, rows, caption)


def by_sound(frame: Frame) -> Table | None:
    """GAP error in clips whose sound belongs to the picture, and in the others, of data sets where that is known."""
    experiment, rows = frame.experiment, []
    shown = [entry for entry in frame.main.entries() if entry.part == "paper" or entry.name in experiment.suite.further]
    for name in frame.unique("dataset"):
        part = frame.select(dataset=name)
        seed = min(part.columns["seed"].tolist())
        found, both = [entry.name for entry in part.entries()], part.seeds(HEADLINE, BASELINE)
        what = part.dataset.what  # in the first row
        for group in ("sound related", "sound unrelated"):
            clips = frame.clips.of_sound(part.dataset, seed, group)
            if clips is None or not clips.any():
                continue
            row: list[Cell | str] = [Cell(name, what), group.removeprefix("sound "), f"{clips.sum():,}"]
            row += [value_cell(part.value(e.name, "gap", group)) if e.name in found else DASH for e in shown]
            row.append(gain_cell(part.gain(HEADLINE, BASELINE, "gap", group)) if both else DASH)
            rows.append([*row, _gate_open(part, group)])
            what = ""
    header = ["data set", "sound", "clips", *(entry.title for entry in shown), "gain", "gate open"]
    caption = f"GAP. {STD} {GAIN} Gate open: the clips that the trained tower calls correlated, in % (over seeds)."
    title = f"{paper.FAMILIES[frame.family]}: where sound and picture belong together, and where not"
    return Table(title, header, rows, caption, 2) if rows else None


def _gate_open(part: Frame, group: str) -> Cell | str:
    """In what share of such clips the trained tower's gate is open."""
    shares = []
    for seed in range(part.experiment.scale.seeds):
        path = part.experiment.tower_figures(part.dataset, part.family, "trained", seed)
        if path.exists() and (clips := part.clips.of_sound(part.dataset, seed, group)) is not None:
            shares.append(100 * (np.array(read_json(path)["true"])[clips] >= towers.CORRELATED).mean())
    return _over_seeds(shares, 0) if shares else DASH


def by_level(frame: Frame) -> Table:
    """Tables 4 and 8: each metric overall and by level, the gain of CM-C over L, and the paper's numbers."""
    main, family = frame.main, frame.family
    shown = _shown(main, "plain", "paper", "ensemble")
    both = main.seeds(HEADLINE, BASELINE)
    known = paper.LEVELS.get(family, {})
    rows = []
    for metric in (*METRICS, "gap_full"):
        for group in (ALL, *main.levels):
            level = group.removeprefix("level ")
            row: list[Cell | str] = [metrics.METRICS[metric].title, level]
            row += [value_cell(main.value(entry.name, metric, group)) for entry in shown]
            if both:
                row.append(gain_cell(main.gain(HEADLINE, BASELINE, metric, group)) if metric in METRICS else "")
            if known:
                row += _paper_cells(known.get((metric, level)), len(paper.MODELS), 1)
            rows.append(row)
    header = ["metric", "level", *(entry.title for entry in shown), *(["gain"] if both else [])]
    caption = " ".join(
        [STD, *([GAIN] if both else []), *(["The paper's numbers are of its own data."] if known else [])]
    )
    table = Table(f"{paper.FAMILIES[family]} by level", header, rows, caption, 2, parts=True)
    return _beside_paper(table, family, "levels", ["E", "L", "CM-G", "CM-C"] if known else [])


def levels_picture(frame: Frame) -> Picture:
    """GAP error by level, the paper's models side by side."""
    main, title = frame.main, paper.FAMILIES[frame.family]

    def figures(entry: Entry, group: str) -> Figures:
        return Figures(0, gap=1 - main.value(entry.name, "gap", group).mean / 100)

    models = []
    for entry in _shown(main, "paper"):
        levels = tuple(figures(entry, group) for group in main.levels)
        models.append((entry.title, Breakdown(figures(entry, ALL), levels, {})))
    with tempfile.TemporaryDirectory() as folder:
        content = draw_levels(models, Path(folder) / "levels.png").read_bytes()
    return Picture(f"levels-{frame.family}.png", content, f"{title}: GAP error overall and by level.", wide=True)


def by_top(frame: Frame) -> Table:
    """Tables 5 and 9: GAP by top-level category."""
    main, family = frame.main, frame.family
    shown = _shown(main, "plain", "paper")
    both = main.seeds(HEADLINE, BASELINE)
    known = paper.TOPS.get(family, {})
    names = [group.removeprefix("top ") for group in main.unique("group") if group.startswith("top ")]
    seed = main.select(model=shown[0].name).unique("seed")[0]
    clips = {name: frame.clips.positives(main.dataset, seed, name) for name in names}
    rows = []
    for name in sorted(filter(clips.get, clips), key=lambda name: -clips[name]):
        row: list[Cell | str] = [name, f"{clips[name]:,}"]
        row += [value_cell(main.value(entry.name, "gap", f"top {name}")) for entry in shown]
        if both:
            row.append(gain_cell(main.gain(HEADLINE, BASELINE, "gap", f"top {name}")))
        if known:
            row += _paper_cells(known.get(name), 2, 0)
        rows.append(row)
    header = ["category", "clips", *(entry.title for entry in shown), *(["gain"] if both else [])]
    caption = f"{STD} Over all test clips; the column of clips counts those that are in the category."
    table = Table(f"{paper.FAMILIES[family]}, GAP by top-level category", header, rows, caption)
    return _beside_paper(table, family, "tops", ["L", "CM-C"] if known else [])


def _shown(main: Frame, *parts: str) -> list[Entry]:
    """The models of some parts of the comparison, of plain networks two; all, where none of those is finished."""
    entries = main.entries()
    return [each for each in entries if each.part in parts and (not each.plain or each.name in SHOWN)] or entries


def _paper_cells(numbers: Sequence[float] | None, count: int, baseline: int) -> list[Cell | str]:
    """The paper's numbers and their gain, of the last model over another one."""
    if not numbers:
        return [""] * (count + 1)
    gain = 100 * (1 - numbers[-1] / numbers[baseline])
    return [Cell(text, dim=True) for text in (*(f"{number:.2f}" for number in numbers), _percent(gain))]


def _beside_paper(table: Table, family: str, name: str, printed: list[str]) -> Table:
    """The header and title of a table that may have the paper's columns on the right."""
    number = f", as the paper's Table {paper.TABLE_NUMBERS[family][name]}" if family in paper.TABLE_NUMBERS else ""
    table = replace(table, title=table.title + number)
    if not printed:
        return table
    spans = [("", 2), ("this experiment", len(table.header) - 2), ("the paper", len(printed) + 1)]
    return replace(table, header=[*table.header, *printed, "gain"], spans=spans)


def across(frame: Frame) -> list[Table]:
    """GAP error of the models that every data set has, one data set a row."""
    if len(frame.experiment.datasets) < 2:
        return []
    return [_across(frame.select(family=family)) for family in frame.main.unique("family")]


def _across(frame: Frame) -> Table:
    parts = [frame.select(dataset=name) for name in frame.unique("dataset")]
    names = list(dict.fromkeys(entry.name for part in parts[1:] or parts for entry in part.entries()))
    rows = []
    for part in parts:
        found = [entry.name for entry in part.entries()]
        row: list[Cell | str] = [Cell(part.dataset.name, part.dataset.what)]
        row += [value_cell(part.value(name)) if name in found else DASH for name in names]
        both = part.seeds(HEADLINE, BASELINE)
        rows.append([*row, gain_cell(part.gain(HEADLINE, BASELINE)) if both else DASH])
    header = ["data set", *(ENTRIES[name].title for name in names), "gain"]
    return Table(f"{paper.FAMILIES[frame.family]}, GAP error by data set", header, rows, f"{STD} {GAIN}")


def searches(frame: Frame) -> list[str | Table]:
    """The trials of each search, the best first."""
    experiment = frame.experiment
    tables = []
    for search in experiment.searches():
        trials = sorted(search.results(), key=lambda trial: -trial["validation_gap"])
        fields = sorted({field for trial in trials for field in trial["settings"]})
        rows = [
            [f"{trial['validation_gap']:.4f}"]
            + [plain(trial["settings"].get(field, "as the recipe has it")) for field in fields]
            for trial in trials
        ]
        title, header = f"{search.folder.name}, {len(trials)} trials", ["validation GAP", *fields]
        tables += [Table(title, header, rows, labels=1 + len(fields))] if trials else []
    what = (
        f"Late fusion's architecture is searched on {experiment.searched.name}'s validation clips and kept by its "
        "variants, as in the paper; then F, with the cross-modal model that needs no tower. Plain networks are "
        "searched by as many trials as late fusion. The first trial is the recipe as it is."
    )
    return [what, *tables] if tables else []


def _cost(main: Frame, entry: Entry) -> list[str]:
    """Parameters, seeds, best epoch and minutes of a model's runs."""
    experiment = main.experiment
    cells = [main.cell(entry.name, seed) for seed in main.seeds(entry.name)]
    if not entry.recipe:
        members = experiment.members(cells[0])
        return [f"{sum(_parameters(main, member) for member in members):,}", str(len(cells)), DASH, DASH]
    epochs = [_epochs(experiment.run_folder(cell) / "epochs.csv") for cell in cells]
    best, minutes = (f"{np.mean(column):.1f}" for column in zip(*epochs, strict=True))
    return [f"{_parameters(main, cells[0]):,}", str(len(cells)), best, minutes]


def _parameters(main: Frame, cell: RunCell) -> int:
    recipe = RunFolder.load(main.experiment.run_folder(cell)).recipe
    assert isinstance(recipe, Recipe)
    return main.experiment.count(recipe, cell.family)


def _epochs(path: Path) -> tuple[int, float]:
    """The best epoch, and minutes of all."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    best = max(rows, key=lambda row: float(row["validation_gap"]))
    return int(best["epoch"]), sum(float(row["seconds"]) for row in rows) / 60


# --- towers -----------------------------------------------------------------------------------------------------------


class EvaluatedTower(NamedTuple):
    """A tower of the main data set with its stored figures."""

    family: str
    kind: str
    seed: int
    figures: dict[str, Any]


def evaluated_towers(frame: Frame) -> list[EvaluatedTower]:
    """The main data set's towers whose figures are there."""
    experiment, found = frame.experiment, []
    families = list(dict.fromkeys(map(experiment.suite.tower_family_of, experiment.scale.families)))
    for family in families:
        for kind in ("trained", *(("seconds", *experiment.further_towers()) if family == families[0] else [])):
            for seed in range(experiment.scale.seeds):
                path = experiment.tower_figures(experiment.main, family, kind, seed)
                if path.exists():
                    found.append(EvaluatedTower("mean" if kind == "seconds" else family, kind, seed, read_json(path)))
    return found


def tower_table(frame: Frame) -> Table | None:
    """How well towers separate true pairs from false ones; mean and standard deviation over seeds."""
    if not (found := evaluated_towers(frame)):
        return None
    rows: list[list[Cell | str]] = []
    related = {tower.seed: frame.clips.related(frame.experiment.main, tower.seed) for tower in found}
    both = all(clips is not None and clips.any() and not clips.all() for clips in related.values())
    for family, kind in dict.fromkeys((tower.family, tower.kind) for tower in found):
        alike = [tower for tower in found if (tower.family, tower.kind) == (family, kind)]
        form = "joined, the paper's form" if kind == "joined" else "contrastive"
        weight = f"{alike[0].figures['negative_weight']:g}"
        row: list[Cell | str] = [paper.TOWERS[family], form, weight, str(len(alike))]
        for figure, scale in (("error", 100), ("fpr", 100), ("fnr", 100), ("accuracy", 100), ("auc", 1)):
            row.append(_over_seeds([scale * tower.figures[figure] for tower in alike], 1 if scale == 100 else 3))
        if both:
            row.append(_over_seeds([_auc(np.array(t.figures["true"]), related[t.seed]) for t in alike], 3))
        rows.append(row)
    known = [f"{paper.TOWER[name]:.1f}" for name in ("FPR", "FNR", "accuracy")]
    rows.append([Cell(text, dim=True) for text in ("the paper, on its own data", "joined", "2", "", "", *known, "")])
    header = ["family", "form", "weight of false pairs", "seeds", "error %", "FPR %", "FNR %", "accuracy %", "AUC"]
    caption = "Of picture and sound of the test clips: true pairs, and false ones that share no top-level category."
    if both:
        header.append("AUC of related against unrelated")
        rows[-1].append("")
        caption += (
            " A true pair is a clip's own picture and sound, also where its sound is unrelated. The last column is of "
            "true pairs alone: how well the tower separates related from unrelated sound, as a gate has to."
        )
    return Table("Correlation towers", header, rows, caption, 2)


def _over_seeds(values: list[float], digits: int) -> Cell:
    std = f"± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return Cell(f"{np.mean(values):.{digits}f}", std)


def _auc(scores: Float[np.ndarray, "clip"], related: Any) -> float:
    """The share of pairs of a related and an unrelated clip of which the related one scores higher."""
    return float(binary_auroc(torch.from_numpy(scores), torch.from_numpy(related).int(), thresholds=None))


def tower_pictures(frame: Frame) -> list[Picture]:
    """Fig. 9, and Fig. 8 where there are towers of several weights."""
    found = evaluated_towers(frame)
    captions = (
        "as the paper's Fig. 9: towers' outputs for true pairs; those below 0.5 are called uncorrelated.",
        "as the paper's Fig. 8: error, false positive and false negative rate by the weight of false pairs, seed 0.",
    )
    pictures = []
    for family in dict.fromkeys(tower.family for tower in found):
        alike = [
            tower.figures for tower in found if tower.family == family and tower.seed == 0 and tower.kind != "joined"
        ]
        results = []
        for stored in sorted(alike, key=lambda figures: float(figures["negative_weight"])):
            figures = towers.TowerFigures(**{name: stored[name] for name in towers.TowerFigures.__annotations__})
            results.append(towers.TowerResult(figures, np.array(stored["true"]), {}))
        if results:
            with tempfile.TemporaryDirectory() as folder:
                drawn = [path.read_bytes() for path in towers.draw(results, Path(folder))]
            for number, (content, caption) in enumerate(zip(drawn, captions, strict=False)):
                caption = f"{paper.TOWERS[family]}, {caption}"
                pictures.append(Picture(f"tower-{family}-{number}.png", content, caption))
    return pictures


# --- cells ------------------------------------------------------------------------------------------------------------


def plain(value: object) -> str:
    """A setting for people."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {plain(size)}" for name, size in value.items() if name != JOINED) or DASH
    return ", ".join(map(str, value)) or DASH if isinstance(value, list | tuple) else str(value)


def value_cell(value: Value) -> Cell:
    """A mean, and below it the standard deviations."""
    if math.isnan(value.mean):
        return Cell(DASH)
    stds = [DASH if math.isnan(std) else f"{std:.2f}" for std in (value.run_std, value.seed_std)]
    return Cell(f"{value.mean:.2f}", f"± {' / '.join(stds)}" if set(stds) != {DASH} else "")


def gain_cell(gain: Gain) -> Cell:
    """A gain, and below it the interval; bold where it is clear."""
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
