"""What an experiment's runs add up to: means, their spread, and how sure gains are.

A figure is measured for every seed and test run. Its mean stands in the tables, with the standard deviation over test
runs (of the seeds' mean) and over seeds (of the test runs' mean). A gain is the share of a model's error that another
one does without, in percent, with a 95 % interval by paired bootstrap: both models on the same resampled clips, and on
the same resampled seeds where there are several: one less than there are, since the mean of as many, drawn with
replacement, varies less than that of the seeds themselves does (by a factor of (n - 1) / n).
"""

import math
import warnings
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from counterpoint.evaluation.bootstrap import Curve, resample
from counterpoint.evaluation.breakdown import PREDICTED, Breakdown, Figures
from counterpoint.evaluation.metrics import best_is_hit, equal_recall_precision, global_average_precision
from counterpoint.experiments.datasets import Source
from counterpoint.experiments.entries import Entry
from counterpoint.experiments.experiment import Cell, Experiment
from counterpoint.experiments.predictions import Truth, draw_runs, measured, probabilities
from counterpoint.taxonomy import Taxonomy

Group = tuple[str, str]
"""All categories, those of a level or under a top-level category; or clips, those with related sound or the others."""
ALL: Group = ("all", "")
UNKNOWN = 0.025  # the share of bootstrap samples in which a figure may be no number, as over clips without labels
Draws = Float[np.ndarray, "sample"]


class Value(NamedTuple):
    """An error rate in percent."""

    mean: float
    over_runs: float
    over_seeds: float
    """nan where there is one seed."""


class Gain(NamedTuple):
    """A relative reduction of error in percent, with its 95 % interval; above 0 is better."""

    percent: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether the interval does not hold zero."""
        return self.low > 0 or self.high < 0


class Results:
    """What is finished of an experiment."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.resamples = experiment.scale.resamples
        self.breakdowns: dict[tuple[str, str, str], dict[int, list[Breakdown]]] = {}
        for cell in experiment.cells():
            if (path := experiment.measured(cell)).exists():
                by_seed = self.breakdowns.setdefault((cell.world.name, cell.family, cell.entry.name), {})
                by_seed[cell.seed] = measured(path)
        self._draws: dict[tuple[Path, str, Group], Draws] = {}
        self._related: dict[Path, Bool[np.ndarray, "clip"] | None] = {}  # noqa: UP037
        self.gains: dict[tuple[str, str, str, str, str, Group, tuple[int, ...]], Gain] = {}

    def entries(self, world: Source, family: str) -> list[Entry]:
        """The models that are finished for at least one seed."""
        return [
            entry for entry in self.experiment.entries(world) if (world.name, family, entry.name) in self.breakdowns
        ]

    def seeds(self, world: Source, family: str, *entries: Entry) -> list[int]:
        """Those for which all of some entries are finished."""
        known = [set(self.breakdowns.get((world.name, family, entry.name), {})) for entry in entries]
        return sorted(set.intersection(*known))

    def errors(self, world: Source, family: str, entry: Entry, metric: str, group: Group, seeds: list[int]) -> Any:
        """(seed, test run) in percent."""
        if group[0] == "sound":
            return np.array([self._errors_of_sound(Cell(world, family, entry, seed), group) for seed in seeds])
        runs = self.breakdowns[world.name, family, entry.name]
        return np.array([[100 * (1 - getattr(_figures(run, group), metric)) for run in runs[seed]] for seed in seeds])

    def _errors_of_sound(self, cell: Cell, group: Group) -> list[float]:
        """Of each test run: GAP's, of the clips with related or with unrelated sound."""
        concerned = self._of_sound(cell.world, cell.seed, group)
        said = _loaded(self.experiment.scores(cell))
        labels = _truth(self.experiment.truth(cell.world, cell.seed)).labels
        drawn, _ = draw_runs(len(said), self.experiment.scale.test_runs, self.experiment.scale.test_sample)
        parts = [clips[concerned[clips]] for clips in drawn]
        return [100 * (1 - global_average_precision(said[clips], labels[clips], top=20)) for clips in parts]

    def related(self, world: Source, seed: int) -> Bool[np.ndarray, "clip"] | None:
        """Of each test clip, whether its sound has to do with its picture; None where nobody knows."""
        place = self.experiment.place(world, seed)
        if place not in self._related:
            clips = len(_truth(self.experiment.truth(world, seed)).ids)
            self._related[place] = world.related(place, seed, clips)
        return self._related[place]

    def _of_sound(self, world: Source, seed: int, group: Group) -> Bool[np.ndarray, "clip"]:
        related = self.related(world, seed)
        assert related is not None, f"{world.name} does not tell related from unrelated sound"
        return related if group[1] == "related" else ~related

    def positives(self, world: Source, seed: int, top: str) -> int:
        """Test clips that are in a top-level category."""
        taxonomy = self.experiment.data(world, seed).labelling.taxonomy
        labels = _truth(self.experiment.truth(world, seed)).labels
        return int(labels[:, _under(top, taxonomy)].any(1).sum())

    def value(
        self,
        world: Source,
        family: str,
        entry: Entry,
        metric: str,
        group: Group = ALL,
        seeds: list[int] | None = None,
    ) -> Value:
        """An entry's error, over all of its seeds or some of them."""
        seeds = self.seeds(world, family, entry) if seeds is None else seeds
        errors = self.errors(world, family, entry, metric, group, seeds)
        return Value(_mean(errors), _spread(_mean(errors, 0)), _spread(_mean(errors, 1)))

    def gain(
        self,
        world: Source,
        family: str,
        ours: Entry,
        theirs: Entry,
        metric: str,
        group: Group = ALL,
        seeds: list[int] | None = None,
    ) -> Gain:
        """How much less error one entry has than another, over the seeds that both have or some of them."""
        seeds = self.seeds(world, family, ours, theirs) if seeds is None else seeds
        key = (world.name, family, ours.name, theirs.name, metric, group, tuple(seeds))
        if key not in self.gains:
            means = [_mean(self.errors(world, family, entry, metric, group, seeds)) for entry in (ours, theirs)]
            drawn = self.gain_draws(world, family, ours, theirs, metric, group, seeds)
            self.gains[key] = Gain(_less(*means), *_interval(drawn))
        return self.gains[key]

    def gain_draws(
        self, world: Source, family: str, ours: Entry, theirs: Entry, metric: str, group: Group, seeds: list[int]
    ) -> Draws:
        """The gain on each bootstrap sample."""
        size = (max(1, len(seeds) - 1), self.resamples)
        picked = np.random.default_rng(len(seeds)).integers(len(seeds), size=size)
        one, other = (
            np.take_along_axis(
                np.stack([self.draws(Cell(world, family, entry, seed), metric, group) for seed in seeds]), picked, 0
            ).mean(0)
            for entry in (ours, theirs)
        )
        return np.asarray(_less(one, other))

    def grows(self, world: Source, family: str, ours: Entry, theirs: Entry, levels: int) -> Gain:
        """How much more the gain in GAP is at the deepest level than at the top, in percentage points."""
        groups = [("level", str(level)) for level in (levels - 1, 0)]
        seeds = self.seeds(world, family, ours, theirs)
        deep, top = (self.gain(world, family, ours, theirs, "gap", group).percent for group in groups)
        drawn = [self.gain_draws(world, family, ours, theirs, "gap", group, seeds) for group in groups]
        return Gain(deep - top, *_interval(drawn[0] - drawn[1]))

    def draws(self, cell: Cell, metric: str, group: Group) -> Draws:
        """A run's error on each bootstrap sample of its world's test clips."""
        scores, place = self.experiment.scores(cell), self.experiment.truth(cell.world, cell.seed)
        key = (scores, metric, group)
        if key not in self._draws:
            taxonomy = self.experiment.data(cell.world, cell.seed).labelling.taxonomy
            chosen = self._of_sound(cell.world, cell.seed, group) if group[0] == "sound" else None
            clips, said, labels = _of_group(scores, place, taxonomy, group, chosen)
            figure = _weighted(metric, said, labels)
            weights = _weights(place, len(_loaded(scores)), self.resamples)
            self._draws[key] = np.array([100 * (1 - figure(weight[clips])) for weight in weights])
        return self._draws[key]


def _figures(run: Breakdown, group: Group) -> Figures:
    kind, name = group
    return run.overall if kind == "all" else run.levels[int(name)] if kind == "level" else run.tops[name]


def _mean(errors: "np.ndarray[Any, Any]", axis: int | None = None) -> Any:
    """Over what can be measured: a small category may have no clip in a bootstrap sample."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of means of nothing
        return np.nanmean(errors, axis)


def _spread(values: Float[np.ndarray, "value"]) -> float:
    values = values[np.isfinite(values)]
    return float(values.std(ddof=1)) if len(values) > 1 else math.nan


def _less(ours: Any, theirs: Any) -> Any:
    with np.errstate(invalid="ignore", divide="ignore"):
        return 100 * (np.asarray(theirs) - ours) / theirs


def _interval(drawn: Draws) -> tuple[float, float]:
    """None where what could not be measured might lie beyond either end."""
    known = drawn[np.isfinite(drawn)]
    if len(known) < (1 - UNKNOWN) * len(drawn):
        return math.nan, math.nan
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)


def _weights(place: Path, clips: int, samples: int) -> Iterator[Int[np.ndarray, "clip"]]:
    """The same for all models of a world, so that gains are paired."""
    random = np.random.default_rng(zlib.crc32(place.parent.name.encode()))
    return (resample(clips, random) for _ in range(samples))


def _of_group(
    scores: Path, truth: Path, taxonomy: Taxonomy, group: Group, chosen: Bool[np.ndarray, "clip"] | None = None
) -> tuple[Int[np.ndarray, "concerned"], Float[np.ndarray, "concerned member"], Bool[np.ndarray, "concerned member"]]:
    """The clips that a group concerns, those chosen or as in `counterpoint.evaluation.breakdown`; scores and labels."""
    said, labels = _loaded(scores), _truth(truth).labels
    kind, name = group
    if kind == "all":
        return np.arange(len(said)), said, labels
    if chosen is not None:
        return np.flatnonzero(chosen), said[chosen], labels[chosen]
    if kind == "level":
        members = np.flatnonzero(taxonomy.levels == int(name))
    else:
        members = _under(name, taxonomy)
        return np.arange(len(said)), said[:, members], labels[:, members]
    said, labels = said[:, members], labels[:, members]
    concerned = np.flatnonzero((labels | (said >= PREDICTED)).any(1))
    return concerned, said[concerned], labels[concerned]


def _under(top: str, taxonomy: Taxonomy) -> Int[np.ndarray, "member"]:
    """The categories of a top-level category, itself included."""
    root = next(i for i in np.flatnonzero(taxonomy.levels == 0) if taxonomy.names[i] == top)
    return np.flatnonzero(taxonomy.tops == root)


@lru_cache(maxsize=2)
def _loaded(scores: Path) -> Float[np.ndarray, "clip category"]:
    return probabilities(scores)


@lru_cache(maxsize=2)
def _truth(path: Path) -> Truth:
    return Truth.load(path)


def _weighted(
    metric: str, scores: Float[np.ndarray, "clip category"], labels: Bool[np.ndarray, "clip category"]
) -> Callable[[Int[np.ndarray, "clip"]], float]:
    """A metric as a function of how often each clip counts."""
    if metric in ("gap", "map"):
        return Curve(scores, labels, per_category=metric == "map").average_precision
    scores, labels = np.ascontiguousarray(scores), np.ascontiguousarray(labels)
    if metric == "perr":
        counted = np.flatnonzero(labels.any(1))
        values = equal_recall_precision(scores, labels)
    else:
        counted = np.arange(len(scores))
        values = best_is_hit(scores, labels).astype(np.float64) if len(scores) else np.empty(0)

    def mean(weights: Int[np.ndarray, "clip"]) -> float:
        total = weights[counted].sum()
        return float(weights[counted] @ values / total) if total else math.nan

    return mean
