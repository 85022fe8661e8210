"""What a report shows of single clips, of correlation towers and of the taxonomy."""

import re
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torchmetrics.functional.classification import binary_auroc

from counterpoint.evaluation import tower as towers
from counterpoint.evaluation.breakdown import Breakdown, Figures
from counterpoint.evaluation.plots import draw_levels
from counterpoint.experiments import paper
from counterpoint.experiments.clips import PREDICTIONS, SHOWN, contrasts, predictions, specific
from counterpoint.experiments.datasets import Source
from counterpoint.experiments.document import Picture
from counterpoint.experiments.entries import BASELINE, HEADLINE, Entry
from counterpoint.experiments.experiment import Cell as RunCell
from counterpoint.experiments.predictions import Truth, probabilities
from counterpoint.experiments.statistics import ALL, Results
from counterpoint.experiments.tables import pair
from counterpoint.run import read_json
from counterpoint.tables import Cell, Table
from counterpoint.taxonomy import Labelling, Taxonomy
from counterpoint.taxonomy.render import svg

CLIPS = 8  # of each page
VIDEO = "https://data.yt8m.org/2/j/i/{}/{}.js"  # which YouTube video a YouTube-8M id stands for


# --- single clips -----------------------------------------------------------------------------------------------------


def contrasted(results: Results, family: str) -> list[Table]:
    """Tables 6, 7, 10 and 11: clips that CM-C wins against L, and clips that it loses."""
    experiment = results.experiment
    world = experiment.main
    both = pair(results, world, family, HEADLINE, BASELINE)
    if not both:
        return []
    seed = results.seeds(world, family, *both)[0]
    truth = Truth.load(experiment.truth(world, seed))
    taxonomy = experiment.data(world, seed).labelling.taxonomy
    ours, theirs = (probabilities(experiment.scores(RunCell(world, family, entry, seed))) for entry in both)
    found = contrasts(ours, theirs, truth.labels, taxonomy, CLIPS)
    number = paper.TABLES.get(family, {})
    tables = []
    for clips, what, key in ((found.wins, "wins", "wins"), (found.losses, "loses", "losses")):
        said = [predictions(scores[clips], taxonomy) for scores in (theirs, ours)]
        rows: list[list[Cell | str]] = []
        for i, clip in enumerate(clips):
            told = [[(taxonomy.paths[c], p, bool(truth.labels[clip, c])) for c, p in model[i]] for model in said]
            labels = ", ".join(specific(truth.labels[clip], taxonomy))
            rows.append([_clip(world, truth.ids[clip]), labels, *map(_predictions, told)])
        table = f", as the paper's Table {number[key]}" if key in number else ""
        header = ["clip", "truth", *(f"{entry.title} says" for entry in reversed(both))]
        rows = rows or [["none", "", "", ""]]
        caption = (
            f"Of seed {seed}, the clips whose ranking (the clip's own average precision) differs most; of each model "
            f"its {PREDICTIONS} most probable categories of {SHOWN} or more, without those above them. What is true "
            "is bold or said to be."
        )
        tables.append(Table(f"{paper.FAMILIES[family]}: clips that CM-C {what}{table}", header, rows, caption, 4))
    return tables


def _predictions(said: list[tuple[str, float, bool]]) -> Cell:
    if not said:
        return Cell(f"nothing of {SHOWN} or more", dim=True)
    (path, probability, true), *others = said
    note = "; ".join(f"{path} {probability:.2f}{' (true)' if true else ''}" for path, probability, true in others)
    return Cell(f"{path} {probability:.2f}", note, bold=true)


def _clip(world: Source, name: str) -> Cell:
    return Cell(name, link=VIDEO.format(name[:2], name) if world.youtube8m else "")


def explained(results: Results, family: str) -> list[Picture]:
    """Fig. 1: weights over time."""
    told = results.experiment.explained(family)
    if not told.exists():
        return []
    clip = read_json(told)["clip"]
    caption = (
        f"{paper.FAMILIES[family]}, as the paper's Fig. 1: clip {clip} by CM-C. The weights of picture and sound "
        "before they hear each other, what each hears, and after; below, what would change the answer."
    )
    return [Picture(f"weights-{family}.png", told.with_suffix(".png").read_bytes(), caption, wide=True)]


def levels(results: Results, family: str) -> Picture:
    """GAP error by level, the paper's models side by side."""
    world = results.experiment.main
    shown = [entry for entry in results.entries(world, family) if entry.part == "paper"]
    models = [(entry.title, _mean(results, world, family, entry)) for entry in shown or results.entries(world, family)]
    with tempfile.TemporaryDirectory() as folder:
        content = draw_levels(models, Path(folder) / "levels.png").read_bytes()
    return Picture(
        f"levels-{family}.png", content, f"{paper.FAMILIES[family]}: GAP error overall and by level.", wide=True
    )


def _mean(results: Results, world: Source, family: str, entry: Entry) -> Breakdown:
    """The mean GAP of an entry's seeds and test runs, in the form that figures are drawn from."""
    count = len(next(iter(results.breakdowns[world.name, family, entry.name].values()))[0].levels)

    def figures(group: tuple[str, str]) -> Figures:
        gap = 1 - results.value(world, family, entry, "gap", group).mean / 100
        return Figures(0, gap, np.nan, np.nan, np.nan, np.nan)

    return Breakdown(figures(ALL), tuple(figures(("level", str(level))) for level in range(count)), {})


# --- towers -----------------------------------------------------------------------------------------------------------


class Judged(NamedTuple):
    """A tower's figures as they are kept."""

    family: str
    kind: str
    seed: int
    told: dict[str, Any]


def judged(results: Results) -> list[Judged]:
    """The main world's towers that are measured."""
    experiment, found = results.experiment, []
    families = list(dict.fromkeys(experiment.suite.tower_family(family) for family in experiment.scale.families))
    for family in families:
        kinds = ["trained", *(experiment.further_towers() if family == families[0] else [])]
        for kind in kinds:
            for seed in range(experiment.scale.seeds):
                path = experiment.judged(experiment.main, family, kind, seed)
                if path.exists():
                    found.append(Judged(family, kind, seed, read_json(path)))
    return found


def tower_table(results: Results, found: list[Judged]) -> Table:
    """How well towers tell true pairs from false ones; mean and standard deviation over seeds."""
    rows: list[list[Cell | str]] = []
    main = results.experiment.main
    related = {one.seed: results.related(main, one.seed) for one in found}
    tells = all(of is not None and of.any() and not of.all() for of in related.values())
    for family, kind in dict.fromkeys((one.family, one.kind) for one in found):
        told = [one.told for one in found if (one.family, one.kind) == (family, kind)]
        name = "joined, the paper's form" if kind == "joined" else "contrastive"
        row: list[Cell | str] = [paper.FAMILIES[family], name, f"{told[0]['negative_weight']:g}", str(len(told))]
        for figure, scale in (("error", 100), ("fpr", 100), ("fnr", 100), ("accuracy", 100), ("auc", 1)):
            row.append(_over_seeds([scale * one[figure] for one in told], 1 if scale == 100 else 3))
        if tells:
            mine = [one for one in found if (one.family, one.kind) == (family, kind)]
            row.append(_over_seeds([_auc(np.array(one.told["true"]), related[one.seed]) for one in mine], 3))
        rows.append(row)
    known = [f"{paper.TOWER[name]:.1f}" for name in ("FPR", "FNR", "accuracy")]
    rows.append([Cell(text, dim=True) for text in ("the paper, on its own data", "joined", "2", "", "", *known, "")])
    header = ["family", "form", "weight of false pairs", "seeds", "error %", "FPR %", "FNR %", "accuracy %", "AUC"]
    caption = "Of picture and sound of the test clips: true pairs, and false ones that share no top-level category."
    if tells:
        header.append("AUC of related against unrelated")
        rows[-1].append("")
        caption += (
            " A true pair is a clip's own picture and sound, also where its sound is unrelated; the last column is of "
            "true pairs alone and says how well the tower tells those clips, as a gate has to."
        )
    return Table("Correlation towers", header, rows, caption, 2)


def _over_seeds(values: list[float], digits: int) -> Cell:
    spread = f"± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return Cell(f"{np.mean(values):.{digits}f}", spread)


def _auc(scores: Float[np.ndarray, "clip"], related: Any) -> float:
    """The share of pairs of a related and an unrelated clip of which the related one scores higher."""
    return float(binary_auroc(torch.from_numpy(scores), torch.from_numpy(related).int(), thresholds=None))


def tower_pictures(found: list[Judged], family: str) -> list[Picture]:
    """Fig. 9, and Fig. 8 where there are towers of several weights."""
    contrastive = [one for one in found if one.family == family and one.seed == 0 and one.kind != "joined"]
    if not contrastive:
        return []
    results = []
    for one in sorted(contrastive, key=lambda one: float(one.told["negative_weight"])):
        figures = towers.TowerFigures(**{name: one.told[name] for name in towers.TowerFigures.__annotations__})
        results.append(towers.TowerResult(figures, np.array(one.told["true"]), {}))
    with tempfile.TemporaryDirectory() as folder:
        drawn = [path.read_bytes() for path in towers.draw(results, Path(folder))]
    captions = (
        "as the paper's Fig. 9: what towers say of true pairs; those below 0.5 are called uncorrelated.",
        "as the paper's Fig. 8: error, false positive and false negative rate by the weight of false pairs, seed 0.",
    )
    name = paper.FAMILIES[family]
    return [Picture(f"tower-{family}-{i}.png", drawn[i], f"{name}, {captions[i]}") for i in range(len(drawn))]


def surprising(results: Results, one: Judged) -> list[Table]:
    """Tables 1 to 3: true pairs that a tower calls uncorrelated, false ones that it calls correlated."""
    world = results.experiment.main
    truth = Truth.load(results.experiment.truth(world, one.seed))
    taxonomy = results.experiment.data(world, one.seed).labelling.taxonomy
    number = {name: i for i, name in enumerate(truth.ids)}
    related = results.related(world, one.seed)
    tables = []
    for kind, what in (("true", "true pairs that seem uncorrelated"), ("false", "false pairs that seem correlated")):
        rows: list[list[Cell | str]] = []
        for pair_ in one.told["surprising"][kind]:
            clips = [pair_["clips"][name] for name in sorted(pair_["clips"], reverse=True)]  # the picture first
            shown = [_told(world, clip, truth, number, taxonomy) for clip in dict.fromkeys(clips)]
            if kind == "true" and related is not None:
                shown.append(Cell("related" if related[number[clips[0]]] else "unrelated"))
            rows.append([f"{pair_['probability']:.3f}", *shown])
        header = ["probability", "clip"] if kind == "true" else ["probability", "picture of", "sound of"]
        if kind == "true" and related is not None:
            header.append("its sound")
        title = f"{paper.FAMILIES[one.family]}, seed {one.seed}: {what}, as the paper's Tables 1 to 3"
        tables.append(Table(title, header, rows, labels=3))
    return tables


def _told(world: Source, clip: str, truth: Truth, number: dict[str, int], taxonomy: Taxonomy) -> Cell:
    cell = _clip(world, clip)
    return Cell(cell.text, ", ".join(specific(truth.labels[number[clip]], taxonomy)), link=cell.link)


# --- taxonomy ---------------------------------------------------------------------------------------------------------


def trees(labelling: Labelling) -> list[Picture]:
    """Every top-level category's tree, as the paper's Figs. 6 and 7."""
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
