"""The metrics of one evaluation, broken down by level and by top-level category (paper, Tables 4, 5 and 8).

A group is all categories, those of one level, or those under one top-level category. In a level a video with neither
truth nor prediction there is left out, as in the paper; a prediction is a score of 0.5 or more, so scores are
probabilities here. Under a top-level category all videos count (those that are wrongly predicted to be there are few,
and others for each model), and Hit@1 has no meaning. MAP looks at each video's 20 best predictions of the group, GAP at
those and, as `gap_full`, at all of them.

Figures are kept as fractions (higher is better) and printed as error rates, `100 x (1 - figure)` (lower is better).
A figure with nothing to measure is nan, null in JSON, empty in CSV and a dash in tables.
"""

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Int
from rich.table import Table
from torchmetrics import Metric, MetricCollection

from counterpoint.evaluation.metrics import (
    GlobalAveragePrecision,
    HitAt1,
    MeanAveragePrecision,
    PrecisionAtEqualRecallRate,
    Spill,
)
from counterpoint.evaluation.ranking import Array, Labels, Scores, as_arrays, full_average_precision
from counterpoint.files import write_text

PREDICTED = 0.5  # a score from here on is a prediction
BLOCK_VIDEOS = 1 << 13  # taken apart into groups at a time
DASH = "–"


class Levels(Protocol):
    """What a breakdown needs to know of a `counterpoint.taxonomy.Taxonomy`."""

    @property
    def levels(self) -> Int[np.ndarray, " category"]: ...
    @property
    def tops(self) -> Int[np.ndarray, " category"]: ...
    @property
    def names(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class Figures:
    """The metrics of one group of categories, as fractions, over `videos` videos."""

    videos: int
    gap: float
    gap_full: float
    map: float
    perr: float
    hit_at_1: float


TITLES = {"gap": "GAP", "gap_full": "GAP (full)", "map": "MAP", "perr": "PERR", "hit_at_1": "Hit@1"}


@dataclass(frozen=True)
class Breakdown:
    """Figures of all categories together, of each level from 0, and of each top-level category by name."""

    overall: Figures
    levels: tuple[Figures, ...]
    tops: dict[str, Figures]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with None for nan."""
        return {
            "overall": _plain(self.overall),
            "levels": [_plain(level) for level in self.levels],
            "tops": {name: _plain(top) for name, top in self.tops.items()},
        }

    def save(self, folder: str | Path) -> None:
        """Write `metrics.json` and `metrics.csv` (one line per group); a reader never sees a file half written."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        saved = self.to_dict()
        groups = [("overall", "", saved["overall"])]
        groups += [("level", str(level), figures) for level, figures in enumerate(saved["levels"])]
        groups += [("top", name, figures) for name, figures in saved["tops"].items()]
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["group", "name", *(field.name for field in fields(Figures))])
        writer.writerows([kind, name, *figures.values()] for kind, name, figures in groups)
        write_text(folder / "metrics.json", json.dumps(saved, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        write_text(folder / "metrics.csv", table.getvalue())


class BreakdownAccumulator:
    """Breaks down any number of videos, exactly, batch by batch.

    All scores wait on disk until `compute` measures one group after the other: less than 3 GB of memory at 1,000,000
    videos of 640 categories, and 8 GB of temporary files (4 bytes per score, category and group; see `Spill`).
    One process only.
    """

    def __init__(self, taxonomy: Levels) -> None:
        levels, tops = np.asarray(taxonomy.levels), np.asarray(taxonomy.tops)
        roots = np.flatnonzero(levels == 0)
        self.categories = len(levels)
        self.overall = Spill(self.categories)
        self.levels = [_Group(levels == level) for level in range(levels.max() + 1)]
        self.tops = {taxonomy.names[root]: _Group(tops == root) for root in roots}

    def update(self, scores: Array, labels: Array) -> None:
        """Add a batch of videos.

        Args:
            scores: (video, category) probabilities.
            labels: (video, category), bool or 0 and 1.

        Raises:
            ValueError: where shapes do not match each other or the taxonomy, and for NaN scores.
        """
        values, truth = as_arrays(scores, labels)
        if values.shape[1] != self.categories:
            raise ValueError(f"scores have {values.shape[1]} categories, the taxonomy {self.categories}")
        for start in range(0, len(values), BLOCK_VIDEOS):
            self._update(values[start : start + BLOCK_VIDEOS], truth[start : start + BLOCK_VIDEOS])

    def _update(self, scores: Scores, labels: Labels) -> None:
        self.overall.append(scores, labels)
        concerned = labels | (scores >= PREDICTED)
        for group in self.levels:
            videos = np.flatnonzero(concerned.take(group.members, axis=1).any(axis=1))
            part = (array.take(videos, axis=0).take(group.members, axis=1) for array in (scores, labels))
            group.videos.append(*part)
        for group in self.tops.values():
            group.videos.append(scores.take(group.members, axis=1), labels.take(group.members, axis=1))

    def compute(self) -> Breakdown:
        """The figures of all videos so far."""
        return Breakdown(
            overall=_figures(self.overall),
            levels=tuple(_figures(group.videos) for group in self.levels),
            # Most videos have their best category elsewhere.
            tops={name: replace(_figures(group.videos), hit_at_1=math.nan) for name, group in self.tops.items()},
        )


class _Group:
    """Some of the categories, and the videos that count among them."""

    def __init__(self, members: Bool[np.ndarray, " category"]) -> None:
        self.members = np.flatnonzero(members)
        self.videos = Spill(len(self.members))


def break_down(scores: Array, labels: Array, taxonomy: Levels) -> Breakdown:
    """The breakdown of videos held in memory; see `BreakdownAccumulator` for the arguments and errors."""
    accumulator = BreakdownAccumulator(taxonomy)
    accumulator.update(scores, labels)
    return accumulator.compute()


def table4(models: Sequence[tuple[str, Breakdown]]) -> list[list[str]]:
    """Error rates in percent by metric and level, models side by side, as in the paper's Table 4; a header first.

    Raises ValueError where the models were measured on different levels.
    """
    groups = [
        (name, {"all": model.overall, **{str(level): figures for level, figures in enumerate(model.levels)}})
        for name, model in models
    ]
    return _rows("level", groups, tuple(TITLES))


def table5(models: Sequence[tuple[str, Breakdown]]) -> list[list[str]]:
    """GAP error rates in percent by top-level category, models side by side, as in the paper's Table 5; a header first.

    Raises ValueError where the models were measured on different top-level categories.
    """
    return _rows("category", [(name, model.tops) for name, model in models], ("gap", "gap_full"))


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table for a Markdown file; a header first.

    >>> print(markdown([["metric", "nv-l"], ["GAP", "9.75"]]))
    | metric | nv-l |
    |---|---|
    | GAP | 9.75 |
    """
    header, *body = rows
    lines = [header, None, *body]
    return "\n".join("|---" * len(header) + "|" if line is None else f"| {' | '.join(line)} |" for line in lines)


def rich_table(rows: Sequence[Sequence[str]], title: str) -> Table:
    """A table to print with rich, of `table4` or `table5`; a line parts the metrics."""
    header, *body = rows
    table = Table(title=title)
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index < 2 else "right")
    for row, following in zip(body, [*body[1:], None], strict=True):
        table.add_row(*row, end_section=following is not None and following[0] != row[0])
    return table


def _rows(kind: str, models: Sequence[tuple[str, dict[str, Figures]]], metrics: Sequence[str]) -> list[list[str]]:
    names = [list(groups) for _, groups in models]
    if any(each != names[0] for each in names):
        raise ValueError(f"the models were not measured by the same {kind}: {names}")
    header = ["metric", kind, *(model for model, _ in models)]
    return [header] + [
        [TITLES[metric], name, *(_error_rate(getattr(groups[name], metric)) for _, groups in models)]
        for metric in metrics
        for name in names[0]
    ]


def _error_rate(figure: float) -> str:
    return DASH if math.isnan(figure) else f"{100 * (1 - figure):.2f}"


def _figures(videos: Spill) -> Figures:
    full = full_average_precision(videos.blocks, per_category=False)
    alone: dict[str, Any] = {"sync_on_compute": False}  # one process has all clips
    hits = HitAt1(**alone)
    metrics: dict[str, Metric | MetricCollection] = {
        "gap": GlobalAveragePrecision(**alone),
        "map": MeanAveragePrecision(**alone),
        "perr": PrecisionAtEqualRecallRate(**alone),
        "hit_at_1": hits,
    }
    collection = MetricCollection(metrics, compute_groups=[["gap", "map"], ["perr"], ["hit_at_1"]])
    none = np.empty((0, videos.categories), np.float32)
    for scores, labels in chain([(none, none.astype(np.bool_))], videos.blocks()):
        collection.update(scores, labels)
    values = {name: float(value) for name, value in collection.compute().items()}
    return Figures(int(hits.videos), gap_full=float(full[0]) if len(full) else math.nan, **values)


def _plain(figures: Figures) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in asdict(figures).items()}
