"""Results as one long frame of errors, and what they add up to: means, standard deviations and gains.

Every error is measured for each seed and test run. Its mean stands in the tables, with the standard deviation over test
runs (of the seeds' mean) and over seeds (of the test runs' mean). A gain is the share of a model's error that another
model avoids, in percent, with a 95 % interval by paired bootstrap: both models on the same resampled clips, and on the
same resampled seeds where there are several: one less than there are, since the mean of as many, drawn with
replacement, varies less than that of the seeds themselves does (by a factor of (n - 1) / n). Over one seed the interval
is between percentiles of the samples; over n of them it is the gain and t standard deviations of the samples on each
side, t being Student's for n - 1 degrees of freedom: percentiles of few seeds cover too little.
"""

import math
import warnings
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from counterpoint.evaluation.bootstrap import resample
from counterpoint.evaluation.breakdown import PREDICTED, Breakdown, Figures
from counterpoint.evaluation.metrics import METRICS, global_average_precision
from counterpoint.experiments.datasets import Source
from counterpoint.experiments.experiment import Cell, Experiment
from counterpoint.experiments.paper import Entry
from counterpoint.experiments.predictions import Truth, draw_runs, measured, probabilities
from counterpoint.taxonomy import Taxonomy

ALL = "all"
UNKNOWN = 0.025  # the share of bootstrap samples in which an error may be no number, as over clips without labels
Draws = Float[np.ndarray, "sample"]


class Record(NamedTuple):
    """One measured error.

    Attributes:
        model: the name of an `counterpoint.experiments.paper.Entry`.
        run: the number of the test run.
        group: ``all`` categories, those of a ``level 0``, or those below a top-level category, as ``top Food``; or all
            categories in clips whose sound belongs to the picture, ``sound related``, or does not, ``sound unrelated``.
        metric: a field of `counterpoint.evaluation.breakdown.Figures`.
        error: in percent; nan where there is nothing to measure.
    """

    dataset: str
    family: str
    model: str
    seed: int
    run: int
    group: str
    metric: str
    error: float


class Value(NamedTuple):
    """A mean error in percent, with standard deviations; nan where there is one test run or seed."""

    mean: float
    run_std: float
    seed_std: float


class Gain(NamedTuple):
    """A relative reduction of error in percent, with its 95 % interval; above 0 is better."""

    percent: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether the interval does not hold zero."""
        return self.low > 0 or self.high < 0


class Compared(NamedTuple):
    """Which gain: of a model over another one."""

    dataset: str
    family: str
    model: str
    over: str
    metric: str
    group: str
    seeds: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Frame:
    """What is finished of an experiment, a `Record` each; `select` narrows it.

    Methods that name models need a frame of one data set and one family.
    """

    columns: Mapping[str, "np.ndarray[Any, Any]"]
    clips: "TestClips" = field(repr=False)

    @classmethod
    def of(cls, records: Iterable[Record], clips: "TestClips") -> "Frame":
        rows = list(zip(*records, strict=True)) or [()] * len(Record._fields)
        kinds = [float if name == "error" else object for name in Record._fields]
        columns = {name: np.array(row, kind) for name, row, kind in zip(Record._fields, rows, kinds, strict=True)}
        return cls(columns, clips)

    @classmethod
    def load(cls, experiment: Experiment) -> "Frame":
        """The measured errors of an experiment's folder."""
        clips = TestClips(experiment)
        cells = [cell for cell in experiment.cells() if experiment.measured(cell).exists()]
        return cls.of((record for cell in cells for record in _records(cell, clips)), clips)

    def __len__(self) -> int:
        return len(self.columns["error"])

    def __iter__(self) -> Iterator[Record]:
        return (Record(*row) for row in zip(*self.columns.values(), strict=True))

    def select(self, **where: str | int | Collection[str] | Collection[int]) -> "Frame":
        """The records with these values in their columns; of several values, any.

        Raises:
            KeyError: there is no such column.
        """
        kept = np.arange(len(self))
        for name, wanted in where.items():
            values = self.columns[name][kept]
            one = isinstance(wanted, str | int)
            kept = kept[values == wanted if one else np.isin(values, list(wanted))]  # type: ignore[arg-type]
        return replace(self, columns={name: column[kept] for name, column in self.columns.items()})

    def unique(self, column: str) -> list[Any]:
        """The values of a column, in the order of the records."""
        return list(dict.fromkeys(self.columns[column].tolist()))

    def errors(self) -> Float[np.ndarray, "seed run"]:
        """The errors of one model, metric and group, in percent."""
        order = np.lexsort((self.columns["run"].astype(int), self.columns["seed"].astype(int)))
        seeds = len(self.unique("seed"))
        return np.asarray(self.columns["error"][order].reshape(seeds, -1 if seeds else 0))

    # --- of one data set and family -----------------------------------------------------------------------------------

    @property
    def experiment(self) -> Experiment:
        return self.clips.experiment

    @cached_property
    def main(self) -> "Frame":
        """The records of the data set that is compared in full."""
        return self.select(dataset=self.experiment.main.name)

    @cached_property
    def dataset(self) -> Source:
        """The only data set."""
        (name,) = self.unique("dataset")
        return next(source for source in self.experiment.datasets if source.name == name)

    @cached_property
    def family(self) -> str:
        """The only family."""
        (name,) = self.unique("family")
        return str(name)

    @cached_property
    def levels(self) -> list[str]:
        """The groups that are levels, from the top."""
        return sorted((group for group in self.unique("group") if group.startswith("level ")), key=_number)

    def entries(self) -> list[Entry]:
        """The models that are finished for at least one seed."""
        names = set(self.columns["model"].tolist())
        return [entry for entry in self.experiment.entries(self.dataset) if entry.name in names] if names else []

    def seeds(self, *models: str) -> list[int]:
        """The seeds for which all of some models are finished."""
        return sorted(set.intersection(*(set(self.select(model=model).columns["seed"].tolist()) for model in models)))

    def cell(self, model: str, seed: int) -> Cell:
        """Which run of the experiment a model's is."""
        return Cell(self.dataset, self.family, self.experiment.suite.entry(model), seed)

    def value(self, model: str, metric: str = "gap", group: str = ALL, seeds: Sequence[int] | None = None) -> Value:
        """A model's error, over all of its seeds or some of them.

        Raises:
            ValueError: there is no such metric.
        """
        METRICS[metric]  # raises for an unknown name
        rows = self.select(model=model, metric=metric, group=group)
        errors = (rows if seeds is None else rows.select(seed=seeds)).errors()
        return Value(float(_mean(errors)), _std(_mean(errors, 0)), _std(_mean(errors, 1)))

    def gain(
        self, model: str, over: str, metric: str = "gap", group: str = ALL, seeds: Sequence[int] | None = None
    ) -> Gain:
        """How much less error a model has than another one, over the seeds that both have or some of them.

        Raises:
            ValueError: there is no such metric.
        """
        seeds = self.seeds(model, over) if seeds is None else seeds
        key = Compared(self.dataset.name, self.family, model, over, metric, group, tuple(seeds))
        if key not in self.clips.gains:
            means = [self.value(name, metric, group, seeds).mean for name in (model, over)]
            drawn = self.gain_draws(model, over, metric, group, seeds)
            gain = float(reduction(*means))
            self.clips.gains[key] = Gain(gain, *interval(drawn, gain, len(seeds)))
        return self.clips.gains[key]

    def gain_draws(self, model: str, over: str, metric: str, group: str, seeds: Sequence[int]) -> Draws:
        """The gain on each bootstrap sample."""
        size = (max(1, len(seeds) - 1), self.experiment.scale.resamples)
        picked = np.random.default_rng(len(seeds)).integers(len(seeds), size=size)
        one, other = (
            np.take_along_axis(
                np.stack([self.clips.draws(self.cell(name, seed), metric, group) for seed in seeds]), picked, 0
            ).mean(0)
            for name in (model, over)
        )
        return np.asarray(reduction(one, other))

    def growth(self, model: str, over: str) -> Gain:
        """How much more the gain in GAP is at the deepest level than at the top, in percentage points."""
        groups = (self.levels[-1], self.levels[0])
        seeds = self.seeds(model, over)
        deep, top = (self.gain(model, over, "gap", group).percent for group in groups)
        drawn = [self.gain_draws(model, over, "gap", group, seeds) for group in groups]
        return Gain(deep - top, *interval(drawn[0] - drawn[1], deep - top, len(seeds)))


class TestClips:
    """The test clips of an experiment's data sets; ``gains`` are those that were computed so far."""

    __test__ = False  # no test of pytest's

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.gains: dict[Compared, Gain] = {}
        self.related = cache(self._related)
        self.draws = cache(self._draws)

    def truth(self, dataset: Source, seed: int) -> Truth:
        return _truth(self.experiment.truth(dataset, seed))

    def taxonomy(self, dataset: Source, seed: int) -> Taxonomy:
        return self.experiment.data(dataset, seed).labelling.taxonomy

    def positives(self, dataset: Source, seed: int, top: str) -> int:
        """How many clips are in a top-level category."""
        return int(self.truth(dataset, seed).labels[:, _below(top, self.taxonomy(dataset, seed))].any(1).sum())

    def _related(self, dataset: Source, seed: int) -> Bool[np.ndarray, "clip"] | None:
        """Of each clip, whether its sound belongs to its picture; None where that is unknown."""
        return dataset.related(self.experiment.place(dataset, seed), seed, len(self.truth(dataset, seed).ids))

    def of_sound(self, dataset: Source, seed: int, group: str) -> Bool[np.ndarray, "clip"] | None:
        """Which clips are in a group by sound; None for another group, and where that is unknown."""
        related = self.related(dataset, seed) if group.startswith("sound ") else None
        return related if related is None or group == "sound related" else ~related

    def _draws(self, cell: Cell, metric: str, group: str) -> Draws:
        """A run's error in percent on each bootstrap sample of the clips."""
        scores, place = self.experiment.scores(cell), self.experiment.truth(cell.dataset, cell.seed)
        chosen = self.of_sound(cell.dataset, cell.seed, group)
        taxonomy = self.taxonomy(cell.dataset, cell.seed)
        clips, predicted, labels = group_scores(scores, place, taxonomy, group, chosen)
        figure = METRICS[metric].on_weights(predicted, labels)
        weights = sample_weights(place, len(_loaded(scores)), self.experiment.scale.resamples)
        return np.array([100 * (1 - figure(weight[clips])) for weight in weights])


def groups_of(run: Breakdown) -> dict[str, Figures]:
    """The figures of a test run by `Record.group`."""
    levels = {f"level {number}": level for number, level in enumerate(run.levels)}
    return {ALL: run.overall, **levels, **{f"top {name}": top for name, top in run.tops.items()}}


def _records(cell: Cell, clips: TestClips) -> Iterator[Record]:
    """All errors of a run; by sound, GAP's alone."""
    experiment = clips.experiment
    start = (cell.dataset.name, cell.family, cell.entry.name, cell.seed)
    for number, run in enumerate(measured(experiment.measured(cell))):
        for group, figures in groups_of(run).items():
            for metric in METRICS:
                yield Record(*start, number, group, metric, 100 * (1 - figures[metric]))
    for group in ("sound related", "sound unrelated"):
        chosen = clips.of_sound(cell.dataset, cell.seed, group)
        if chosen is None or not chosen.any():
            continue
        scores, labels = _loaded(experiment.scores(cell)), clips.truth(cell.dataset, cell.seed).labels
        drawn, _ = draw_runs(len(scores), experiment.scale.test_runs, experiment.scale.test_sample)
        for number, sample in enumerate(drawn):
            part = sample[chosen[sample]]
            gap = global_average_precision(scores[part], labels[part], top=20)
            yield Record(*start, number, group, "gap", 100 * (1 - gap))


def _number(group: str) -> int:
    return int(group.removeprefix("level "))


def _mean(errors: "np.ndarray[Any, Any]", axis: int | None = None) -> Any:
    """Over what can be measured: a small category may have no clip in a bootstrap sample."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of means of nothing
        return np.nanmean(errors, axis)


def _std(values: Float[np.ndarray, "value"]) -> float:
    values = values[np.isfinite(values)]
    return float(values.std(ddof=1)) if len(values) > 1 else math.nan


def reduction(error: Any, other: Any) -> Any:
    """By how much an error is less than another one, in percent of the other.

    >>> round(float(reduction(9.75, 10.0)), 6)
    2.5
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return 100 * (np.asarray(other) - error) / other


def interval(drawn: Draws, gain: float, seeds: int) -> tuple[float, float]:
    """The 95 % interval; nan where samples that could not be measured might lie beyond either end.

    Args:
        drawn: the gain on each bootstrap sample.
        gain: on all clips.
        seeds: how many were resampled.
    """
    known = drawn[np.isfinite(drawn)]
    if len(known) < (1 - UNKNOWN) * len(drawn):
        return math.nan, math.nan
    if seeds > 1:
        half = student(seeds - 1) * float(known.std(ddof=1))
        return gain - half, gain + half
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)


def student(degrees: int) -> float:
    """The 97.5 % quantile of Student's t distribution.

    >>> [round(student(degrees), 2) for degrees in (1, 4, 8, 9, 30)]
    [12.71, 2.78, 2.31, 2.26, 2.04]
    """
    exact = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306)
    if degrees <= len(exact):
        return exact[degrees - 1]
    z = 1.959964  # the normal distribution's, and the first terms of the expansion in 1 / degrees (Fisher)
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)


def sample_weights(truth: Path, clips: int, samples: int) -> Iterator[Int[np.ndarray, "clip"]]:
    """How often each clip is in each bootstrap sample, the same for all models of a data set: gains are paired."""
    random = np.random.default_rng(zlib.crc32(truth.parent.name.encode()))
    return (resample(clips, random) for _ in range(samples))


def group_scores(
    scores: Path, truth: Path, taxonomy: Taxonomy, group: str, chosen: Bool[np.ndarray, "clip"] | None = None
) -> tuple[Int[np.ndarray, "concerned"], Float[np.ndarray, "concerned member"], Bool[np.ndarray, "concerned member"]]:
    """The clips that a group concerns, their scores and labels; see `counterpoint.evaluation.breakdown`.

    Args:
        scores, truth: kept files of a run and of its data set.
        chosen: the clips of a group by sound.
    """
    predicted, labels = _loaded(scores), _truth(truth).labels
    kind, _, name = group.partition(" ")
    if kind == ALL:
        return np.arange(len(predicted)), predicted, labels
    if chosen is not None:
        return np.flatnonzero(chosen), predicted[chosen], labels[chosen]
    if kind == "top":
        members = _below(name, taxonomy)
        return np.arange(len(predicted)), predicted[:, members], labels[:, members]
    members = np.flatnonzero(taxonomy.levels == int(name))
    predicted, labels = predicted[:, members], labels[:, members]
    concerned = np.flatnonzero((labels | (predicted >= PREDICTED)).any(1))
    return concerned, predicted[concerned], labels[concerned]


def _below(top: str, taxonomy: Taxonomy) -> Int[np.ndarray, "member"]:
    """The categories of a top-level category, itself included."""
    root = next(i for i in np.flatnonzero(taxonomy.levels == 0) if taxonomy.names[i] == top)
    return np.flatnonzero(taxonomy.tops == root)


@lru_cache(maxsize=2)
def _loaded(scores: Path) -> Float[np.ndarray, "clip category"]:
    return probabilities(scores)


@lru_cache(maxsize=2)
def _truth(path: Path) -> Truth:
    return Truth.load(path)
