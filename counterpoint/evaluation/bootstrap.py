"""How sure a difference between two models is: the paired bootstrap over clips."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from counterpoint.evaluation.ranking import Array, as_arrays


class Interval(NamedTuple):
    """A difference with its 95 % interval."""

    difference: float
    low: float
    high: float


def paired_gap_difference(
    scores: Array, others: Array, labels: Array, *, top: int = 20, samples: int = 1000, seed: int = 0
) -> Interval:
    """GAP of ``scores`` minus GAP of ``others``, with the 95 % percentile interval over resampled clips.

    Both models are measured on the same resample each time, so what clips have in common drops out.

    Args:
        scores: (clip, category), one model's.
        others: (clip, category), the other's.
        labels: (clip, category), bool.
        samples: how many times the clips are drawn, with replacement.

    Raises:
        ValueError: shapes differ, or a score is NaN.
    """
    one, truth = as_arrays(scores, labels)
    other, _ = as_arrays(others, labels)
    curves = [Curve(values, truth, top) for values in (one, other)]
    random = np.random.default_rng(seed)
    weights = [np.ones(len(truth), np.int64), *(resample(len(truth), random) for _ in range(samples))]
    differences = [curves[0].average_precision(w) - curves[1].average_precision(w) for w in weights]
    low, high = np.percentile(differences[1:], [2.5, 97.5])
    return Interval(differences[0], float(low), float(high))


def resample(clips: int, random: np.random.Generator) -> Int[np.ndarray, "clip"]:
    """How often each clip is among as many clips drawn with replacement."""
    return np.bincount(random.integers(clips, size=clips), minlength=clips)


class Curve:
    """The best predictions of every clip, sorted once, so that GAP or MAP under any weights of the clips is a few sums.

    Args:
        scores: (clip, category).
        labels: (clip, category).
        top: how many predictions of each clip count.
        per_category: MAP, one ranking for each category, instead of GAP, one for all.
    """

    def __init__(
        self,
        scores: Float[np.ndarray, "clip category"],
        labels: Bool[np.ndarray, "clip category"],
        top: int = 20,
        per_category: bool = False,
    ) -> None:
        best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
        values = np.take_along_axis(scores, best, 1).ravel()
        group = best.ravel() if per_category else np.zeros(best.size, np.int64)
        order = np.lexsort((-values, group))
        values, group = values[order], group[order]
        clip = np.repeat(np.arange(len(scores)), best.shape[1])[order]
        self.hits = np.flatnonzero(np.take_along_axis(labels, best, 1).ravel()[order])
        # Equal scores enter together: each counts at the end of its tie.
        other = (np.diff(group) != 0) | (np.diff(values) != 0)
        ends = np.flatnonzero(np.append(other, True)) + 1
        self.end = ends[np.searchsorted(ends, self.hits, side="right")]
        self.clip = clip[: self.end.max(initial=0)]  # nothing counts behind the last hit
        self.start = np.searchsorted(group, group[self.hits])
        self.group = group[self.hits]
        self.hits_before_end, self.hits_before_start = (np.searchsorted(self.hits, at) for at in (self.end, self.start))
        self.labelled, category = np.nonzero(labels)
        self.label_group = category if per_category else np.zeros_like(category)
        self.groups = labels.shape[1] if per_category else 1

    def average_precision(self, weights: "np.ndarray[Any, Any]") -> float:
        """The mean over groups that have a label; nan where none has."""
        weight = weights[self.clip]
        seen = np.append(0, np.cumsum(weight))
        found = np.append(0, np.cumsum(weight[self.hits]))
        above = found[self.hits_before_end] - found[self.hits_before_start]
        precision = above / np.maximum(seen[self.end] - seen[self.start], 1)
        total = np.bincount(self.group, precision * weight[self.hits], self.groups)
        positives = np.bincount(self.label_group, weights[self.labelled], self.groups)
        labelled = positives > 0
        return float((total[labelled] / positives[labelled]).mean()) if labelled.any() else float("nan")
