"""GAP, MAP, PERR and Hit@1: how well scores rank the true categories of videos (paper, section 4.2).

Conventions, the same in every function and class here:

* `scores` are `(video, category)` and compared as float32, only by their order: probabilities and logits do equally
  well. `labels` are `(video, category)`, bool or 0/1. Both may be numpy arrays or torch tensors, on any device.
* Results are fractions from 0 to 1, higher is better (the paper prints `100 x (1 - metric)`), and `nan` where there is
  nothing to average: no positives, no videos with labels, or no videos at all.
* `top=20` looks only at each video's 20 best predictions, as YouTube-8M's evaluation does; `top=None` at all of them.
* Predictions with equal scores enter a ranking together, with the precision at the end of their group; only among one
  video's categories does the lower index go first. So no result depends on the order of the videos or on batching.
* A NaN score, labels other than 0 and 1, or shapes that do not match raise `ValueError`.

Each function has a streaming class of the same name, with the same result.

`METRICS` lists what evaluations measure. A metric is added by one entry, also from outside the package:
``METRICS["f1"] = MetricSpec("F1", MyStreamingF1)``; breakdowns, tables and reports then have it.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.utilities import dim_zero_cat

from counterpoint.errors import Error, suggestion
from counterpoint.evaluation.bootstrap import Curve
from counterpoint.evaluation.ranking import (
    HIT,
    Array,
    Blocks,
    Labels,
    Scores,
    as_arrays,
    full_average_precision,
    top_average_precision,
    top_keys,
)

BLOCK_VIDEOS = 1 << 14  # sorted at a time for a full curve
Weights = Int[np.ndarray, "video"]
Weighted = Callable[[Weights], float]
"""A metric as a function of how often each video counts, for the bootstrap."""


def global_average_precision(scores: Array, labels: Array, top: int | None = 20) -> float:
    """GAP: average precision of all videos' predictions pooled into one ranking (YouTube-8M's main metric).

    Args:
        scores: (video, category).
        labels: (video, category).
        top: predictions taken from each video, or None for all (scikit-learn's "micro" average precision). The
            divisor is the number of all labels either way, so labels beyond a video's `top` count as missed.

    Two videos; pooled, their six predictions read hit, miss, miss, hit, hit, miss:

    >>> scores = np.array([[0.9, 0.8, 0.1], [0.7, 0.6, 0.5]])
    >>> labels = np.array([[True, False, False], [False, True, True]])
    >>> round(global_average_precision(scores, labels, top=None), 6)  # (1/1 + 2/4 + 3/5) / 3
    0.7
    >>> round(global_average_precision(scores, labels, top=2), 6)  # the last hit is beyond the 2: (1/1 + 2/4) / 3
    0.5
    """
    return _average_precision(scores, labels, top, per_category=False)


def mean_average_precision(scores: Array, labels: Array, top: int | None = 20) -> float:
    """MAP: average precision of each category's ranking of the videos, averaged over the categories with positives.

    Args:
        scores: (video, category).
        labels: (video, category).
        top: a category ranks only the videos that have it among their `top` predictions, but is divided by all of
            its positives (YouTube-8M); None ranks all videos (scikit-learn's "macro" average precision).

    >>> scores = np.array([[0.9, 0.8, 0.1], [0.7, 0.6, 0.5]])
    >>> labels = np.array([[True, False, False], [False, True, True]])
    >>> round(mean_average_precision(scores, labels, top=None), 6)  # (1 + 1/2 + 1) / 3
    0.833333
    >>> round(mean_average_precision(scores, labels, top=2), 6)  # the last one is in no video's 2: (1 + 1/2) / 3
    0.5
    """
    return _average_precision(scores, labels, top, per_category=True)


def precision_at_equal_recall_rate(scores: Array, labels: Array) -> float:
    """PERR: precision of a video's n best predictions, n being its number of labels, averaged over videos with labels.

    `scores` and `labels` are (video, category). YouTube-8M's definition, but without the videos that have no labels.

    >>> scores = np.array([[0.9, 0.8, 0.1], [0.7, 0.6, 0.5]])
    >>> labels = np.array([[True, False, False], [False, True, True]])
    >>> precision_at_equal_recall_rate(scores, labels)  # (1/1 + 1/2) / 2
    0.75
    """
    return _mean(equal_recall_precision(*as_arrays(scores, labels)))


def hit_at_1(scores: Array, labels: Array) -> float:
    """Hit@1: share of all videos whose best prediction is one of their labels; both arguments are (video, category).

    >>> scores = np.array([[0.9, 0.8, 0.1], [0.7, 0.6, 0.5]])
    >>> labels = np.array([[True, False, False], [False, True, True]])
    >>> hit_at_1(scores, labels)
    0.5
    """
    return _mean(best_is_hit(*as_arrays(scores, labels)))


class _AveragePrecision(Metric):
    """Streams `_average_precision`: 8 bytes in memory per kept prediction, or with `top=None` all scores on disk.

    What is on disk (see `Spill`) covers the videos of its own process: in a distributed run of several, `update`
    raises `RuntimeError`, and `forward` (the value of one batch) is not offered. With a `top` the metric synchronizes
    across processes like every torchmetrics metric.
    """

    full_state_update = False
    higher_is_better = True
    per_category: bool
    keys: list[Tensor]
    positives: Tensor

    def __init__(self, top: int | None = 20, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        _check(top)
        self.top = top
        self._spill: Spill | None = None
        if top is not None:  # no states otherwise: torchmetrics would take metrics with equal states for one
            self.add_state("keys", [], dist_reduce_fx="cat")
            self.add_state("positives", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, scores: Array, labels: Array) -> None:
        """Add a batch of videos: scores and labels are (video, category)."""
        values, truth = as_arrays(scores, labels)
        if self.top is not None:
            keys = torch.from_numpy(top_keys(values, truth, self.top).ravel())
            self.keys.append(keys.to(self.device))
            self.positives = self.positives + torch.from_numpy(truth.sum(axis=0)).to(self.device)
            return
        if self.distributed_available_fn() and torch.distributed.get_world_size() > 1:
            raise RuntimeError("the full curve (top=None) needs all videos in one process; give a top instead")
        if self._spill is None:
            self._spill = Spill(values.shape[1])
        self._spill.append(values, truth)

    def compute(self) -> Tensor:
        """The metric over all videos so far: a float64 scalar."""
        if self.top is None:
            precision = full_average_precision(self._spill.blocks, self.per_category) if self._spill else np.empty(0)
        else:
            keys = dim_zero_cat(self.keys).cpu().numpy() if len(self.keys) else np.empty(0, np.int64)
            precision = top_average_precision(keys, np.atleast_1d(self.positives.cpu().numpy()), self.per_category)
        return torch.tensor(_mean(precision), dtype=torch.float64)

    def reset(self) -> None:
        """Forget all videos, and delete the spilled scores."""
        super().reset()
        self._spill = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The metric of one batch, which is added too; not with `top=None`."""
        if self.top is None:
            raise NotImplementedError("the full curve (top=None) offers update() and compute() only")
        return super().forward(*args, **kwargs)


class GlobalAveragePrecision(_AveragePrecision):
    """Streaming `global_average_precision`; `top=None` spills to disk, see the base class."""

    per_category = False


class MeanAveragePrecision(_AveragePrecision):
    """Streaming `mean_average_precision`; `top=None` spills to disk, see the base class."""

    per_category = True


class PrecisionAtEqualRecallRate(Metric):
    """Streaming `precision_at_equal_recall_rate`."""

    full_state_update = False
    higher_is_better = True
    precision: Tensor
    labelled: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("precision", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("labelled", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, scores: Array, labels: Array) -> None:
        """Add a batch of videos: scores and labels are (video, category)."""
        precision = equal_recall_precision(*as_arrays(scores, labels))
        self.precision += precision.sum()
        self.labelled += len(precision)

    def compute(self) -> Tensor:
        """The metric over all videos so far: a float64 scalar."""
        return self.precision / self.labelled


class HitAt1(Metric):
    """Streaming `hit_at_1`."""

    full_state_update = False
    higher_is_better = True
    hits: Tensor
    videos: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("hits", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("videos", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, scores: Array, labels: Array) -> None:
        """Add a batch of videos: scores and labels are (video, category)."""
        best = best_is_hit(*as_arrays(scores, labels))
        self.hits += int(best.sum())
        self.videos += len(best)

    def compute(self) -> Tensor:
        """The metric over all videos so far: a float64 scalar."""
        return self.hits.double() / self.videos


def _average_precision(scores: Array, labels: Array, top: int | None, per_category: bool) -> float:
    values, truth = as_arrays(scores, labels)
    _check(top)
    if top is not None:
        keys = top_keys(values, truth, top).ravel()
        return _mean(top_average_precision(keys, truth.sum(axis=0), per_category))
    starts = range(0, len(values), BLOCK_VIDEOS)
    blocks = [(values[i : i + BLOCK_VIDEOS], truth[i : i + BLOCK_VIDEOS]) for i in starts]
    return _mean(full_average_precision(lambda: blocks, per_category))


def equal_recall_precision(scores: Scores, labels: Labels) -> Float64[np.ndarray, " labelled_video"]:
    """Precision of each labelled video's n best predictions, n being its number of labels."""
    count = labels.sum(axis=1)
    labelled = np.flatnonzero(count)
    if not len(labelled):
        return np.empty(0)
    found = np.cumsum(top_keys(scores, labels, int(count.max())) & HIT, axis=1)  # among the 1, 2, ... best
    precision: Float64[np.ndarray, " labelled_video"] = found[labelled, count[labelled] - 1] / count[labelled]
    return precision


def best_is_hit(scores: Scores, labels: Labels) -> Bool[np.ndarray, " video"]:
    hits: Bool[np.ndarray, " video"] = labels[np.arange(len(labels)), scores.argmax(axis=1)]
    return hits


def _check(top: int | None) -> None:
    if top is not None and top < 1:
        raise ValueError(f"top must be at least 1, or None; got {top}")


def _mean(values: npt.NDArray[Any]) -> float:
    """Mean of the values that are not NaN, NaN where there are none."""
    values = values[~np.isnan(values)]
    return float(values.mean(dtype=np.float64)) if len(values) else float("nan")


class Spill:
    """Scores and labels of any number of videos in a temporary file, read back in blocks.

    4 bytes per score and a bit per label. The file is one of Python's `tempfile` (so in `TMPDIR`), nameless, and gone
    with this object or its process.
    """

    def __init__(self, categories: int) -> None:
        self.categories = categories
        self.record = np.dtype([("scores", np.float32, (categories,)), ("labels", np.uint8, (-(-categories // 8),))])
        self.count = 0  # videos
        self.file = tempfile.TemporaryFile()  # noqa: SIM115 (closed, and so deleted, with this object)

    def append(self, scores: Scores, labels: Labels) -> None:
        records = np.empty(len(scores), self.record)
        records["scores"] = scores
        records["labels"] = np.packbits(labels, axis=1)
        self.file.seek(0, 2)
        self.file.write(records.tobytes())
        self.count += len(scores)

    def blocks(self) -> Iterator[tuple[Scores, Labels]]:
        self.file.seek(0)
        while data := self.file.read(BLOCK_VIDEOS * self.record.itemsize):
            records = np.frombuffer(data, self.record)
            yield records["scores"], np.unpackbits(records["labels"], axis=1, count=self.categories).view(np.bool_)


# --- the table of metrics ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MetricSpec:
    """A metric of evaluations. It is given by ``create`` or by ``measure``.

    Attributes:
        title: its name in tables.
        create: makes a torchmetrics metric, whose ``update`` takes scores and labels, both (video, category) numpy
            arrays; called with torchmetrics' own options by keyword.
        measure: the metric of blocks of videos that can be read several times, where no streaming state suffices.
        weighted: of scores and labels, the metric as a function of how often each video counts; without it, the
            metric is measured on repeated rows.
        states_of: the name of a metric with the same states, which are then accumulated once.
        needs_all: whether it has no meaning under one top-level category, where most videos have no label.
    """

    title: str
    create: Callable[..., Metric] | None = None
    measure: Callable[[Blocks], float] | None = None
    weighted: Callable[[Scores, Labels], Weighted] | None = None
    states_of: str = ""
    needs_all: bool = False

    def value(self, scores: Array, labels: Array) -> float:
        """The metric of videos in memory: scores and labels are (video, category)."""
        values, truth = as_arrays(scores, labels)
        if self.measure:
            return self.measure(lambda: [(values, truth)])
        assert self.create is not None
        metric = self.create(sync_on_compute=False)
        metric.update(values, truth)
        return float(metric.compute())

    def on_weights(self, scores: Array, labels: Array) -> Weighted:
        """The metric as a function of how often each video counts, such as in a bootstrap sample."""
        values, truth = as_arrays(scores, labels)
        if self.weighted:
            return self.weighted(values, truth)
        return lambda weights: self.value(np.repeat(values, weights, axis=0), np.repeat(truth, weights, axis=0))


class _Metrics(dict[str, MetricSpec]):
    def __missing__(self, name: str) -> MetricSpec:
        raise Error(f"no metric {name!r}{suggestion(name, self)} (there are {', '.join(self)})")


def measure_all(blocks: Blocks, categories: int) -> dict[str, float]:
    """Every metric of `METRICS` by name, of blocks of scores and labels that can be read several times."""
    streaming = {name: spec.create(sync_on_compute=False) for name, spec in METRICS.items() if spec.create}
    groups: dict[str, list[str]] = {}
    for name in streaming:
        groups.setdefault(METRICS[name].states_of or name, []).append(name)
    collection = MetricCollection(dict(streaming), compute_groups=list(groups.values()))
    none = np.empty((0, categories), np.float32)
    for scores, labels in chain([(none, none.astype(np.bool_))], blocks()):
        collection.update(scores, labels)
    values = {name: float(value) for name, value in collection.compute().items()}
    return {name: spec.measure(blocks) if spec.measure else values[name] for name, spec in METRICS.items()}


def _full_gap(blocks: Blocks) -> float:
    return _mean(full_average_precision(blocks, per_category=False))


def _curve(scores: Scores, labels: Labels, top: int | None = 20, per_category: bool = False) -> Weighted:
    return Curve(scores, labels, top or scores.shape[1], per_category).average_precision


def _weighted_mean(values: npt.NDArray[Any], counted: npt.NDArray[Any]) -> Weighted:
    """The weighted mean of the values of some videos, by their number; nan where none counts."""

    def mean(weights: Weights) -> float:
        total = weights[counted].sum()
        return float(weights[counted] @ values / total) if total else float("nan")

    return mean


def _weighted_perr(scores: Scores, labels: Labels) -> Weighted:
    return _weighted_mean(equal_recall_precision(scores, labels), np.flatnonzero(labels.any(axis=1)))


def _weighted_hit(scores: Scores, labels: Labels) -> Weighted:
    return _weighted_mean(best_is_hit(scores, labels).astype(np.float64), np.arange(len(scores)))


METRICS: dict[str, MetricSpec] = _Metrics(
    gap=MetricSpec("GAP", GlobalAveragePrecision, weighted=_curve),
    gap_full=MetricSpec("GAP (full)", measure=_full_gap, weighted=partial(_curve, top=None)),
    map=MetricSpec("MAP", MeanAveragePrecision, weighted=partial(_curve, per_category=True), states_of="gap"),
    perr=MetricSpec("PERR", PrecisionAtEqualRecallRate, weighted=_weighted_perr),
    hit_at_1=MetricSpec("Hit@1", HitAt1, weighted=_weighted_hit, needs_all=True),
)
"""The metrics of evaluations, by their names in JSON. An unknown name raises Error."""
