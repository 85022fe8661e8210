"""Robustness to missing modalities: GAP against the share of clips that lose one.

Which clips lose it is chosen by a hash of their ids, so a larger share holds the clips of a smaller one, every model
loses the same, and a curve is of one set of clips. A clip that never had the modality stays as it is.

The model predicts once for each clip as it is and once without each modality. Every point of a curve is then a mixture
of such predictions: the 20 best of each, which are all that GAP looks at.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64

from counterpoint.data.dataset import share
from counterpoint.evaluation.breakdown import error_rate
from counterpoint.evaluation.ranking import as_arrays, top_average_precision, top_keys
from counterpoint.predict import Predictions
from counterpoint.run import write_json
from counterpoint.tables import Table

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
ANY = "any"
TOP = 20
SEED = 1_000_003  # not one that a training may have: its held-out clips are chosen by the same hash


@dataclass(frozen=True)
class Robustness:
    """GAP (a fraction) at each of ``shares``, by the modality that clips lose, or one chosen for each (`ANY`)."""

    shares: tuple[float, ...]
    gap: dict[str, tuple[float, ...]]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with None for nan."""
        plain = {name: [None if math.isnan(gap) else gap for gap in curve] for name, curve in self.gap.items()}
        return asdict(self) | {"gap": plain}

    def save(self, path: Path) -> None:
        """Write JSON."""
        write_json(path, self.to_dict())

    def table(self) -> Table:
        """Error rates in percent by share of clips (row) and by the modality that they lose (column)."""
        rows = [
            ["GAP", f"{lost:.0%}", *(error_rate(curve[point]) for curve in self.gap.values())]
            for point, lost in enumerate(self.shares)
        ]
        header = ["metric", "clips that lose it", *self.gap]
        return Table("GAP error in % where clips lose a modality", header, rows, labels=2, parts=True)


class RobustnessAccumulator:
    """Measures batch by batch; memory is 160 bytes per clip, and as much again per modality."""

    def __init__(self, modalities: Sequence[str], shares: Sequence[float] = SHARES, seed: int = SEED) -> None:
        self.modalities = list(modalities)
        self.shares = tuple(shares)
        self.seed = seed
        self.ids: list[str] = []
        self.positives = 0
        self.whole: list[Int64[np.ndarray, "clip top"]] = []
        self.without: dict[str, list[Int64[np.ndarray, "clip top"]]] = {name: [] for name in self.modalities}

    def update(self, predictions: Predictions) -> None:
        """Add a batch, predicted also without each modality."""
        self.ids += predictions.ids
        self.positives += int(predictions.labels.sum())
        self.whole.append(top_keys(*as_arrays(predictions.probabilities, predictions.labels), TOP))
        for name, keys in self.without.items():
            keys.append(top_keys(*as_arrays(predictions.without[name], predictions.labels), TOP))

    def compute(self) -> Robustness:
        """The curves of all clips so far, of which there must be one or more."""
        whole = np.concatenate(self.whole)
        without = {name: np.concatenate(keys) for name, keys in self.without.items()}
        if len(without) > 1:
            without[ANY] = self._one_of(list(without.values()))
        losers = [self._chosen(0.0, lost, self.seed) for lost in self.shares]
        return Robustness(
            self.shares,
            {
                name: tuple(self._gap(np.where(chosen, lacking, whole)) for chosen in losers)
                for name, lacking in without.items()
            },
        )

    def _one_of(self, choices: Sequence[Int64[np.ndarray, "clip top"]]) -> Int64[np.ndarray, "clip top"]:
        """For each clip, one of the choices, each as often; which does not depend on the share that holds the clip."""
        bounds = np.linspace(0, 1, len(choices) + 1).tolist()
        chosen = [self._chosen(low, high, self.seed + 1) for low, high in pairwise(bounds)]
        return np.select(chosen, choices)

    def _chosen(self, low: float, high: float, seed: int) -> Bool[np.ndarray, "clip 1"]:
        chosen = share(low, high, seed)
        return np.array([[chosen(name)] for name in self.ids])

    def _gap(self, keys: Int64[np.ndarray, "clip top"]) -> float:
        return float(top_average_precision(keys.ravel(), np.array([self.positives]), per_category=False)[0])
