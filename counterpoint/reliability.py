"""How far answers can be trusted: calibrated probabilities, a threshold for each category, and unlike inputs.

Everything here is fitted on out-of-fold predictions: predictions for clips that the model which made them was not
trained on.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as functional
from jaxtyping import Bool, Float, Int
from torch import Tensor

RELIABILITY_FILE = "reliability.json"
REFERENCES_FILE = "references.npy"
TOWER_RELIABILITY_FILE = "auc.json"
PRIOR = 10.0  # positives that the common threshold counts as, against a category's own
STRENGTH = 16.0  # how strongly a calibration with few clips stays at the identity, in clips
BLOCK = 1024  # clips that are compared at once
REFERENCES = 2000  # training clips that an input is compared with, at most
UNLIKE = 0.995  # of out-of-fold clips are nearer to their training clips than an input that is called unlike them


@dataclass(frozen=True)
class Reliability:
    """A run's calibration and thresholds, by category in the order of the taxonomy.

    Attributes:
        slope: what logits are multiplied by.
        bias: (category,) what is then added.
        thresholds: (category,) probabilities from which on a category is an answer.
        unlike: the distance to the nearest training clip, in units of the typical one, beyond which an input is called
            unlike the training clips.
        typical: the median distance of a training clip to its nearest other one.
        clips: out-of-fold clips that all this was fitted on.
    """

    slope: float
    bias: tuple[float, ...]
    thresholds: tuple[float, ...]
    unlike: float
    typical: float
    clips: int

    def calibrated(self, logits: Float[Tensor, "clip category"]) -> Float[Tensor, "clip category"]:
        """The logits whose sigmoid is the probability that a category is true."""
        return logits * self.slope + logits.new_tensor(self.bias)

    def is_unlike(self, distances: Float[np.ndarray, "clip"]) -> Bool[np.ndarray, "clip"]:
        """Whether clips are unlike the training clips, by their distances to the nearest (see `nearest`)."""
        return np.asarray(distances > self.unlike * self.typical)


@dataclass(frozen=True)
class TowerReliability:
    """How well a correlation tower parts true pairs from false ones, on the clips that it was validated on.

    Attributes:
        auc: the area under the ROC curve.
        low: where its 95 % interval begins.
        high: where that ends.
        pairs: true pairs that it was measured on, one a clip: several of one clip depend on each other. Each clip makes
            false ones, too.
    """

    auc: float
    low: float
    high: float
    pairs: int

    @classmethod
    def of(cls, auc: float, pairs: int) -> "TowerReliability":
        """An AUC with its interval.

        The interval is Wilson's for a share of so many true pairs, each held against one false pair: wider than that of
        Hanley and McNeil (1982), which holds every true pair against all false ones, and right also for few pairs.

        >>> str(TowerReliability.of(0.53, 72))
        'AUC 0.53 [0.42, 0.64] on 72 pairs'
        """
        return cls(auc, *wilson(auc * pairs, pairs), pairs)

    @property
    def is_chance(self) -> bool:
        """Whether the tower may be no better than chance, so that its verdict is not shown as a fact."""
        return self.low <= 0.5

    def __str__(self) -> str:
        return f"AUC {self.auc:.2f} [{self.low:.2f}, {self.high:.2f}] on {self.pairs:,} pairs"


def calibrate(
    logits: Float[np.ndarray, "clip category"], labels: Bool[np.ndarray, "clip category"]
) -> tuple[float, Float[np.ndarray, "category"]]:
    """Slope and biases that make probabilities of out-of-fold logits mean what they say.

    Logistic regression of the labels on the logits, with one slope for all categories and a bias for each (Platt
    scaling). With few clips both stay near the identity: a slope of 1 and biases of 0.
    """
    x, y = torch.from_numpy(logits).double(), torch.from_numpy(labels).double()
    parameters = torch.zeros(1 + x.shape[1], dtype=torch.float64, requires_grad=True)  # log slope, biases
    optimizer = torch.optim.LBFGS([parameters], max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        fitted = x * parameters[0].exp() + parameters[1:]
        value = functional.binary_cross_entropy_with_logits(fitted, y, reduction="sum")
        value = value + STRENGTH / 2 * parameters.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    fitted = parameters.detach().numpy()
    return math.exp(fitted[0]), fitted[1:].copy()


def thresholds(
    probabilities: Float[np.ndarray, "clip category"], labels: Bool[np.ndarray, "clip category"]
) -> Float[np.ndarray, "category"]:
    """The threshold of each category with the highest F1 on out-of-fold clips.

    A category with few clips stays near the threshold that is best for all categories together: that one counts as
    `PRIOR` positives.
    """
    common = best_threshold(probabilities.ravel(), labels.ravel())
    positives = labels.sum(0)
    own = np.array(
        [best_threshold(p, y) if y.any() else common for p, y in zip(probabilities.T, labels.T, strict=True)]
    )
    return np.asarray((positives * own + PRIOR * common) / (positives + PRIOR))


def best_threshold(probabilities: Float[np.ndarray, "clip"], labels: Bool[np.ndarray, "clip"]) -> float:
    """The threshold with the highest F1; midway between the two probabilities that it parts.

    >>> round(best_threshold(np.array([0.9, 0.7, 0.4, 0.2]), np.array([True, True, False, False])), 2)
    0.55
    """
    order = np.argsort(-probabilities, kind="stable")
    ranked, hits = probabilities[order], np.cumsum(labels[order])
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + labels.sum())
    last = np.append(ranked[1:] < ranked[:-1], True)  # of equal probabilities, all are above the threshold or none
    best = int(np.argmax(np.where(last, f1, -1)))
    below = ranked[best + 1] if best + 1 < len(ranked) else 0.0
    return float((ranked[best] + below) / 2)


def nearest(
    hidden: Float[np.ndarray, "clip hidden"], references: Float[np.ndarray, "reference hidden"], own: bool = False
) -> Float[np.ndarray, "clip"]:
    """The cosine distance of each clip to its nearest reference; with ``own`` to the nearest other one.

    References are of length 1 (see `unit`): a server compares every clip with the same ones.
    """
    one = unit(hidden)
    found = np.empty(len(one), np.float32)
    for start in range(0, len(one), BLOCK):
        similarity = one[start : start + BLOCK] @ references.T
        if own:
            rows = np.arange(len(similarity))
            similarity[rows, start + rows] = -np.inf
        found[start : start + BLOCK] = 1 - similarity.max(1)
    return found


def references(hidden: Float[np.ndarray, "clip hidden"], seed: int = 0) -> Float[np.ndarray, "reference hidden"]:
    """The training clips to compare inputs with: all, or `REFERENCES` drawn at random."""
    if len(hidden) <= REFERENCES:
        return hidden
    return hidden[np.sort(np.random.default_rng(seed).choice(len(hidden), REFERENCES, replace=False))]


def unit(vectors: Float[np.ndarray, "clip hidden"]) -> Float[np.ndarray, "clip hidden"]:
    """The vectors at length 1, in float32; zeros stay."""
    wide = vectors.astype(np.float32)
    return np.asarray(wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12))


@dataclass(frozen=True)
class CategoryFigures:
    """One category's figures at its threshold."""

    path: str
    support: int
    """Clips that are in it."""
    precision: float
    """NaN where it is the answer for no clip."""
    recall: float
    """NaN without support."""
    threshold: float


def category_figures(
    probabilities: Float[np.ndarray, "clip category"],
    labels: Bool[np.ndarray, "clip category"],
    paths: tuple[str, ...],
    above: Float[np.ndarray, "category"],
) -> list[CategoryFigures]:
    """Precision, recall and support of each category at its threshold."""
    answered = probabilities >= above
    return figures_of_counts((answered & labels).sum(0), answered.sum(0), labels.sum(0), paths, above)


def figures_of_counts(
    hits: Int[np.ndarray, "category"],
    answered: Int[np.ndarray, "category"],
    support: Int[np.ndarray, "category"],
    paths: tuple[str, ...],
    above: Float[np.ndarray, "category"],
) -> list[CategoryFigures]:
    """The same by how many clips have each category rightly as an answer, as an answer, and as a label."""
    with np.errstate(invalid="ignore"):
        precision, recall = hits / answered, hits / support
    rows = zip(paths, support.tolist(), precision.tolist(), recall.tolist(), above.tolist(), strict=True)
    return [CategoryFigures(*row) for row in rows]


def wilson(right: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927), which holds for few clips and for shares near 0 and 1.

    >>> [round(end, 3) for end in wilson(30, 30)]
    [0.886, 1.0]
    """
    if not count:
        return 0.0, 1.0
    share = right / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def confusion(
    probabilities: Float[np.ndarray, "clip category"],
    labels: Bool[np.ndarray, "clip category"],
    among: Int[np.ndarray, "leaf"],
) -> Int[np.ndarray, "leaf leaf"]:
    """Counts by true category (rows) and most probable one (columns), among the given categories.

    A clip with several true categories counts for the one that is most probable; one with none does not count.
    """
    scores, truth = probabilities[:, among], labels[:, among]
    clips = truth.any(1)
    predicted = scores[clips].argmax(1)
    true = np.where(truth[clips], scores[clips], -np.inf).argmax(1)
    counts = np.zeros((len(among), len(among)), np.int64)
    np.add.at(counts, (true, predicted), 1)
    return counts
