"""Single clips that tell two models apart (the paper's Tables 6, 7, 10 and 11)."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from counterpoint.evaluation.ranking import top_keys
from counterpoint.taxonomy import Taxonomy

SHOWN = 0.3  # a prediction is shown from this probability on
PREDICTIONS = 2


class Contrasts(NamedTuple):
    """Clips by their number: those that one model wins most clearly, and those that it loses."""

    wins: list[int]
    losses: list[int]


def contrasts(
    ours: Float[np.ndarray, "clip category"],
    theirs: Float[np.ndarray, "clip category"],
    labels: Bool[np.ndarray, "clip category"],
    taxonomy: Taxonomy,
    count: int,
) -> Contrasts:
    """The clips whose own average precision differs most between two models, of equals those with other probabilities.

    Only clips of which each model shows a prediction, and not the same ones.
    """
    differ = np.array(
        [
            bool(one) and bool(other) and {c for c, _ in one} != {c for c, _ in other}
            for one, other in zip(predictions(ours, taxonomy), predictions(theirs, taxonomy), strict=True)
        ]
    )
    gain = _average_precision(ours, labels) - _average_precision(theirs, labels)
    said = ((ours - theirs) * np.where(labels, 1.0, -1.0)).sum(1)
    order = np.lexsort((-said, -gain))
    order = order[differ[order]]
    wins = [int(i) for i in order[:count] if gain[i] > 0]
    losses = [int(i) for i in order[::-1][:count] if gain[i] < 0]
    return Contrasts(wins, losses)


def predictions(probabilities: Float[np.ndarray, "clip category"], taxonomy: Taxonomy) -> list[list[tuple[int, float]]]:
    """Each clip's most probable categories of at least `SHOWN`, at most `PREDICTIONS`.

    Ancestors of a category that is said as well are left out: they are always at least as probable, and say less.
    """
    told = probabilities >= SHOWN
    below = np.zeros_like(told)
    for category in np.argsort(-taxonomy.levels, kind="stable"):  # children before parents
        parent = taxonomy.parents[category]
        if parent >= 0:
            below[:, parent] |= told[:, category]
    shown = []
    for row, specific in zip(probabilities, told & ~below, strict=True):
        candidates = np.flatnonzero(specific)
        best = candidates[np.argsort(-row[candidates], kind="stable")][:PREDICTIONS]
        shown.append([(int(category), float(row[category])) for category in best])
    return shown


def specific(labels: Bool[np.ndarray, "category"], taxonomy: Taxonomy) -> list[str]:
    """The paths of a clip's categories that no other of its categories is below."""
    there = set(np.flatnonzero(labels).tolist())
    parents = {int(taxonomy.parents[category]) for category in there}
    return [taxonomy.paths[category] for category in sorted(there - parents)]


def _average_precision(
    scores: Float[np.ndarray, "clip category"], labels: Bool[np.ndarray, "clip category"]
) -> Float[np.ndarray, "clip"]:
    """Of each clip's own ranking; 0 without labels."""
    hit = top_keys(np.ascontiguousarray(scores), labels, labels.shape[1]) & 1
    precision = np.cumsum(hit, 1) / np.arange(1, hit.shape[1] + 1)
    return np.asarray((precision * hit).sum(1) / np.maximum(hit.sum(1), 1))
