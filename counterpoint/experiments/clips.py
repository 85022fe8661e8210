"""Single clips of the report: those on which two models differ (the paper's Tables 6, 7, 10 and 11), and pairs."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from counterpoint.evaluation.ranking import top_keys
from counterpoint.experiments import paper
from counterpoint.experiments.datasets import Source
from counterpoint.experiments.document import Picture
from counterpoint.experiments.paper import BASELINE, ENTRIES, HEADLINE
from counterpoint.experiments.predictions import Truth, probabilities
from counterpoint.experiments.results import Frame
from counterpoint.experiments.tables import EvaluatedTower, evaluated_towers
from counterpoint.run import read_json
from counterpoint.tables import Cell, Table
from counterpoint.taxonomy import Taxonomy

# A prediction is shown from this probability on, the same for both models of a table; below it the cell says that there
# is none. Thresholds that were fitted for one of the two would make them unlike.
SHOWN = 0.3
PREDICTIONS = 2
CLIPS = 8  # of each table
VIDEO = "https://data.yt8m.org/2/j/i/{}/{}.js"  # which YouTube video a YouTube-8M id stands for


class Contrasts(NamedTuple):
    """Clips by their number: those that one model wins most clearly, and those that it loses."""

    wins: list[int]
    losses: list[int]


def contrasts(
    scores: Float[np.ndarray, "clip category"],
    others: Float[np.ndarray, "clip category"],
    labels: Bool[np.ndarray, "clip category"],
    taxonomy: Taxonomy,
    count: int,
) -> Contrasts:
    """The clips whose own average precision differs most between two models, of equals those with other probabilities.

    Only clips of which each model shows a prediction, and not the same ones.

    Args:
        scores: one model's probabilities.
        others: the other model's.
        labels: the true categories.
        count: clips of either kind at most.
    """
    differ = np.array(
        [
            bool(one) and bool(other) and {c for c, _ in one} != {c for c, _ in other}
            for one, other in zip(predictions(scores, taxonomy), predictions(others, taxonomy), strict=True)
        ]
    )
    gain = _average_precision(scores, labels) - _average_precision(others, labels)
    margin = ((scores - others) * np.where(labels, 1.0, -1.0)).sum(1)
    order = np.lexsort((-margin, -gain))
    order = order[differ[order]]
    wins = [int(i) for i in order[:count] if gain[i] > 0]
    losses = [int(i) for i in order[::-1][:count] if gain[i] < 0]
    return Contrasts(wins, losses)


def predictions(probabilities: Float[np.ndarray, "clip category"], taxonomy: Taxonomy) -> list[list[tuple[int, float]]]:
    """Each clip's most probable categories of at least `SHOWN`, at most `PREDICTIONS`.

    Ancestors of a predicted category are left out: they are always at least as probable, and less specific.
    """
    predicted = probabilities >= SHOWN
    below = np.zeros_like(predicted)
    for category in np.argsort(-taxonomy.levels, kind="stable"):  # children before parents
        parent = taxonomy.parents[category]
        if parent >= 0:
            below[:, parent] |= predicted[:, category]
    shown = []
    for row, specific in zip(probabilities, predicted & ~below, strict=True):
        candidates = np.flatnonzero(specific)
        best = candidates[np.argsort(-row[candidates], kind="stable")][:PREDICTIONS]
        shown.append([(int(category), float(row[category])) for category in best])
    return shown


def specific(labels: Bool[np.ndarray, "category"], taxonomy: Taxonomy) -> list[str]:
    """The paths of a clip's categories, without the ancestors of others."""
    categories = set(np.flatnonzero(labels).tolist())
    parents = {int(taxonomy.parents[category]) for category in categories}
    return [taxonomy.paths[category] for category in sorted(categories - parents)]


def _average_precision(
    scores: Float[np.ndarray, "clip category"], labels: Bool[np.ndarray, "clip category"]
) -> Float[np.ndarray, "clip"]:
    """Of each clip's own ranking; 0 without labels."""
    hit = top_keys(np.ascontiguousarray(scores), labels, labels.shape[1]) & 1
    precision = np.cumsum(hit, 1) / np.arange(1, hit.shape[1] + 1)
    return np.asarray((precision * hit).sum(1) / np.maximum(hit.sum(1), 1))


# --- the report -------------------------------------------------------------------------------------------------------


def explained(frame: Frame) -> Picture | None:
    """Fig. 1: weights over time."""
    path = frame.experiment.explained(frame.family)
    if not path.exists():
        return None
    caption = (
        f"{paper.FAMILIES[frame.family]}, as the paper's Fig. 1: clip {read_json(path)['clip']} by CM-C. The weights "
        "of picture and sound before any influence, the influence on each, and the weights after it; below, what would "
        "change the predictions."
    )
    return Picture(f"weights-{frame.family}.png", path.with_suffix(".png").read_bytes(), caption, wide=True)


def contrasted(frame: Frame) -> list[Table]:
    """Tables 6, 7, 10 and 11: clips that CM-C wins against L, and clips that it loses."""
    main = frame.main
    if not (seeds := main.seeds(HEADLINE, BASELINE)):
        return []
    truth = frame.clips.truth(main.dataset, seeds[0])
    taxonomy = frame.clips.taxonomy(main.dataset, seeds[0])
    files = [frame.experiment.scores(main.cell(name, seeds[0])) for name in (HEADLINE, BASELINE)]
    scores, others = map(probabilities, files)
    found = contrasts(scores, others, truth.labels, taxonomy, CLIPS)
    number = paper.TABLE_NUMBERS.get(frame.family, {})
    header = ["clip", "truth", *(f"prediction of {ENTRIES[name].title}" for name in (BASELINE, HEADLINE))]
    caption = (
        f"Of seed {seeds[0]}, the clips whose ranking (the clip's own average precision) differs most; of each model "
        f"its {PREDICTIONS} most probable categories of {SHOWN} or more, without their ancestors. True ones are bold "
        "or marked."
    )
    tables = []
    for clips, what, key in ((found.wins, "wins", "wins"), (found.losses, "loses", "losses")):
        predicted = [predictions(each[clips], taxonomy) for each in (others, scores)]
        rows: list[list[Cell | str]] = []
        for i, clip in enumerate(clips):
            lists = [[(taxonomy.paths[c], p, bool(truth.labels[clip, c])) for c, p in model[i]] for model in predicted]
            labels = ", ".join(specific(truth.labels[clip], taxonomy))
            rows.append([_clip(main.dataset, truth.ids[clip]), labels, *map(_predictions, lists)])
        table = f", as the paper's Table {number[key]}" if key in number else ""
        title = f"{paper.FAMILIES[frame.family]}: clips that CM-C {what}{table}"
        tables.append(Table(title, header, rows or [["none", "", "", ""]], caption, 4))
    return tables


def _predictions(shown: list[tuple[str, float, bool]]) -> Cell:
    if not shown:
        return Cell(f"nothing of {SHOWN} or more", dim=True)
    (path, probability, true), *others = shown
    note = "; ".join(f"{path} {probability:.2f}{' (true)' if true else ''}" for path, probability, true in others)
    return Cell(f"{path} {probability:.2f}", note, bold=true)


def _clip(dataset: Source, name: str) -> Cell:
    return Cell(name, link=VIDEO.format(name[:2], name) if dataset.youtube8m else "")


def surprising(frame: Frame) -> list[Table]:
    """Tables 1 to 3: true pairs that a tower calls uncorrelated, false ones that it calls correlated."""
    towers = [tower for tower in evaluated_towers(frame) if tower.kind == "trained" and tower.seed == 0]
    return [_surprising(frame, tower, kind) for tower in towers for kind in ("true", "false")]


def _surprising(frame: Frame, tower: EvaluatedTower, kind: str) -> Table:
    dataset = frame.experiment.main
    truth, taxonomy = frame.clips.truth(dataset, tower.seed), frame.clips.taxonomy(dataset, tower.seed)
    number = {name: i for i, name in enumerate(truth.ids)}
    related = frame.clips.related(dataset, tower.seed) if kind == "true" else None
    rows: list[list[Cell | str]] = []
    for pair in tower.figures["surprising"][kind]:
        clips = [pair["clips"][name] for name in sorted(pair["clips"], reverse=True)]  # the picture first
        row: list[Cell | str] = [_labelled(dataset, clip, truth, number, taxonomy) for clip in dict.fromkeys(clips)]
        if related is not None:
            row.append(Cell("related" if related[number[clips[0]]] else "unrelated"))
        rows.append([f"{pair['probability']:.3f}", *row])
    header = ["probability", "clip"] if kind == "true" else ["probability", "picture of", "sound of"]
    what = "true pairs that seem uncorrelated" if kind == "true" else "false pairs that seem correlated"
    title = f"{paper.FAMILIES[tower.family]}, seed {tower.seed}: {what}, as the paper's Tables 1 to 3"
    return Table(title, [*header, *(["its sound"] if related is not None else [])], rows, labels=3)


def _labelled(dataset: Source, clip: str, truth: Truth, number: dict[str, int], taxonomy: Taxonomy) -> Cell:
    cell = _clip(dataset, clip)
    return Cell(cell.text, ", ".join(specific(truth.labels[number[clip]], taxonomy)), link=cell.link)
