"""Predictions of a data set's test clips, kept so that every table and interval is made without the models.

Scores are log-odds, not probabilities, since many probabilities near 1 are equal in 16 bits.
"""

import contextlib
import json
import math
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from counterpoint.data.dataset import Dataset
from counterpoint.errors import UNREADABLE, Error
from counterpoint.evaluation.breakdown import Breakdown, Figures, break_down
from counterpoint.evaluation.ranking import from_log_odds, log_odds
from counterpoint.files import appending, replacing
from counterpoint.predict import Predictions
from counterpoint.run import write_json
from counterpoint.taxonomy import Taxonomy

SCORES_FILE = "scores.npy"


class Truth(NamedTuple):
    """The ids and labels of a data set's test clips."""

    ids: list[str]
    labels: Bool[np.ndarray, "clip category"]

    def save(self, path: Path) -> None:
        """Write whole or not at all."""
        with replacing(path) as file:
            np.savez(file, ids=np.array(self.ids), labels=np.packbits(self.labels, axis=1), shape=self.labels.shape)

    @classmethod
    def load(cls, path: Path) -> "Truth":
        """Read what `save` wrote.

        Raises:
            Error: the file cannot be read.
        """
        with _read(path, path), np.load(path) as stored:
            labels = np.unpackbits(stored["labels"], axis=1, count=int(stored["shape"][1])).view(np.bool_)
            return cls(stored["ids"].tolist(), labels)

    @classmethod
    def of(cls, dataset: Dataset) -> "Truth":
        pairs = [(clip.id, targets) for clip, targets in (dataset[i] for i in range(len(dataset)))]
        return cls([name for name, _ in pairs], np.stack([targets for _, targets in pairs]))


def save_scores(predictions: Iterable[Predictions], clips: int, categories: int, path: Path) -> None:
    """Write (clip, category) log-odds as float16, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with appending(path, (clips, categories)) as add:
        for batch in predictions:
            add(log_odds(batch.probabilities))


def probabilities(path: Path) -> Float[np.ndarray, "clip category"]:
    """The probabilities behind kept scores, float32.

    Raises:
        Error: the file cannot be read.
    """
    with _read(path, path.parent):
        return from_log_odds(np.load(path))


def draw_runs(clips: int, runs: int, sample: int, seed: int = 0) -> tuple[list[Int[np.ndarray, "sampled"]], bool]:
    """The clips of each test run, and whether they are bootstrap samples.

    Random samples, as the paper's (section 4.2); where there are fewer than twice as many clips, bootstrap samples of
    all. They are the same for all models, so that models are compared on the same clips.
    """
    random = np.random.default_rng(seed)
    if clips >= 2 * sample:
        return [np.sort(random.choice(clips, sample, replace=False)) for _ in range(runs)], False
    return [np.sort(random.integers(clips, size=clips)) for _ in range(runs)], True


def measure(
    scores: Path, truth: Truth, taxonomy: Taxonomy, samples: list[Int[np.ndarray, "sampled"]], to: Path
) -> float:
    """Write the metrics of each test run; return the mean of their GAP."""
    predicted = probabilities(scores)
    breakdowns = [break_down(predicted[clips], truth.labels[clips], taxonomy) for clips in samples]
    write_json(to, [each.to_dict() for each in breakdowns])
    return float(np.mean([each.overall.gap for each in breakdowns]))


def measured(path: Path) -> list[Breakdown]:
    """The metrics of each test run, as `measure` wrote them.

    Raises:
        Error: the file cannot be read.
    """
    with _read(path, path.parent):
        return [_breakdown(each) for each in json.loads(path.read_text(encoding="utf-8"))]


@contextlib.contextmanager
def _read(path: Path, made: Path) -> Iterator[None]:
    """Name the file that cannot be read, and what to delete so that it is made again."""
    try:
        yield
    except (*UNREADABLE, EOFError, zipfile.BadZipFile) as error:
        raise Error(f"{path}: cannot be read ({error}); delete {made}, and the same command makes it again") from error


def _breakdown(stored: dict[str, Any]) -> Breakdown:
    def figures(plain: dict[str, Any]) -> Figures:
        values: dict[str, Any] = {name: math.nan if value is None else value for name, value in plain.items()}
        return Figures(**values)

    tops = {name: figures(plain) for name, plain in stored["tops"].items()}
    return Breakdown(figures(stored["overall"]), tuple(map(figures, stored["levels"])), tops)
