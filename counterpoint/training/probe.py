"""The linear probe: logistic regression on clips' mean features, solved exactly.

For few clips it is what every larger model has to beat: it has one setting, nothing of it is random, and it needs no
clips to stop by.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as functional
from jaxtyping import Bool, Float, Int
from torch import Tensor

from counterpoint.data.dataset import Dataset
from counterpoint.data.features import FeatureSet
from counterpoint.data.loading import collate
from counterpoint.data.tracks import Track
from counterpoint.models.categorizer import Categorizer, Read, Standardize, pool

BLOCK = 64  # clips that are read at once
STANDARDIZED_BY = 4096  # clips, at most, by whose means features are standardized
ITERATIONS = 200


class ClipMeans(NamedTuple):
    """Each clip's mean over its seconds, by modality."""

    features: dict[str, Float[Tensor, "clip feature"]]
    """Zero for a clip without the modality; not standardized."""
    present: dict[str, Bool[Tensor, "clip"]]
    labels: Bool[np.ndarray, "clip category"]
    ids: list[str]

    def take(self, clips: Int[np.ndarray, "taken"]) -> "ClipMeans":
        """Some of the clips."""
        return ClipMeans(
            {name: each[clips] for name, each in self.features.items()},
            {name: each[clips] for name, each in self.present.items()},
            self.labels[clips],
            [self.ids[i] for i in clips],
        )


def clip_means(read: Read, data: Dataset, features: FeatureSet, max_steps: int, most: int | None = None) -> ClipMeans:
    """The mean features of a data set's clips as a model reads them, before they are standardized.

    Args:
        most: at most so many clips, evenly chosen.
    """
    found: dict[str, list[Tensor]] = {name: [] for name in sorted(features.sizes) if name in read.modalities}
    present: dict[str, list[Tensor]] = {name: [] for name in found}
    labels, ids = [], []
    chosen = np.unique(np.linspace(0, len(data) - 1, min(len(data), most or len(data))).astype(int))
    for start in range(0, len(chosen), BLOCK):
        batch = collate(data.__getitems__(chosen[start : start + BLOCK].tolist()), features, max_steps)
        for name, track in read.values(batch.tracks).items():
            found[name].append(pool(track))
            present[name].append(track.mask.any(1))
        labels.append(batch.labels.numpy() > 0)
        ids += batch.ids
    return ClipMeans(
        {name: torch.cat(each) for name, each in found.items()},
        {name: torch.cat(each) for name, each in present.items()},
        np.concatenate(labels),
        ids,
    )


def fit_standardization(read: Read, data: Dataset, features: FeatureSet, max_steps: int) -> None:
    """Standardize a model's features by its training clips, where its recipe says so; the same in every process."""
    if read.scales:
        standardize_by(read, clip_means(read, data, features, max_steps, most=STANDARDIZED_BY))


def standardize_by(read: Read, means: ClipMeans) -> None:
    """Standardize by clips' means; a modality counts the clips that have it."""
    for name, scale in read.scales.items():
        assert isinstance(scale, Standardize)
        scale.fit(means.features[name][means.present[name]])


def inputs(read: Read, means: ClipMeans) -> Float[Tensor, "clip input"]:
    """What a head on averaged features reads: standardized, the modalities side by side in the order of their names."""
    found = []
    for name in sorted(means.features):
        track = Track(means.features[name].unsqueeze(1), means.present[name].unsqueeze(1))
        found.append((read.scales[name](track) if name in read.scales else track).features[:, 0])
    return torch.cat(found, 1)


def positive_weights(labels: Bool[np.ndarray, "clip category"], balance: float) -> Float[np.ndarray, "category"]:
    """How much a true category counts against a false one: (clips without it / clips with it) ** balance, at least 1.

    >>> positive_weights(np.array([[True, True], [True, False], [False, False], [True, False], [True, False]]), 0.5)
    array([1., 2.])
    """
    positives = labels.sum(0)
    weight = ((len(labels) - positives) / np.maximum(positives, 1)) ** balance
    return np.asarray(np.where(positives > 0, np.maximum(weight, 1.0), 1.0))


def solve(
    x: Float[Tensor, "clip input"],
    labels: Bool[np.ndarray, "clip category"],
    penalty: float,
    balance: float = 0.0,
) -> tuple[Float[Tensor, "category input"], Float[Tensor, "category"]]:
    """Weights and biases of the logistic regression of each category, with ``penalty / 2`` times the squared weights.

    Binary cross-entropy is summed over clips and categories; the biases are free. By L-BFGS in float64, where clips are
    fewer than inputs on the clips' own coordinates, in which the same problem is smaller.
    """
    x, y = x.double(), torch.from_numpy(labels).double()
    back = None
    if len(x) < x.shape[1]:
        left, size, back = torch.linalg.svd(x, full_matrices=False)
        x = left * size
    weight = torch.from_numpy(positive_weights(labels, balance))
    parameters = torch.zeros(x.shape[1] + 1, y.shape[1], dtype=torch.float64, requires_grad=True)
    with torch.no_grad():  # begin as frequent as the category is
        parameters[-1] = torch.logit(((y * weight).sum(0) + 0.5) / ((y * weight).sum(0) + (1 - y).sum(0) + 1))
    optimizer = torch.optim.LBFGS([parameters], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = x @ parameters[:-1] + parameters[-1]
        value = functional.binary_cross_entropy_with_logits(logits, y, reduction="sum", pos_weight=weight)
        value = value + penalty / 2 * parameters[:-1].square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    found = parameters.detach()
    weights = found[:-1] if back is None else back.T @ found[:-1]
    return weights.T.float(), found[-1].float()


def fit(model: Categorizer, means: ClipMeans, penalty: float, balance: float = 0.0) -> None:
    """Give a ``mean-linear`` model the solution for these training clips."""
    standardize_by(model.trunk.read, means)
    weights, bias = solve(inputs(model.trunk.read, means), means.labels, penalty, balance)
    with torch.no_grad():
        model.head.network[-1].weight.copy_(weights)  # type: ignore[operator]
        model.head.network[-1].bias.copy_(bias)  # type: ignore[operator]
