"""The metrics of one evaluation, broken down by level and by top-level category (paper, Tables 4, 5 and 8).

A group is all categories, those of one level, or those under one top-level category. In a level a video without
a label or a prediction of the level is left out, as in the paper; a prediction is a score of 0.5 or more, so scores are
probabilities here. Under a top-level category all videos count (those with a wrong prediction under it are few, and
differ between models), and Hit@1 has no meaning. MAP looks at each video's 20 best predictions of the group, GAP at
those and, as `gap_full`, at all of them.

Figures are kept as fractions (higher is better) and printed as error rates, `100 x (1 - figure)` (lower is better).
A figure with nothing to measure is nan, null in JSON, empty in CSV and a dash in tables.
"""

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from jaxtyping import Bool, Int

from counterpoint.evaluation.metrics import METRICS, Spill, measure_all
from counterpoint.evaluation.ranking import Array, Labels, Scores, as_arrays
from counterpoint.files import check_output_folder, write_text
from counterpoint.tables import Table, for_spreadsheet

if TYPE_CHECKING:
    from counterpoint.evaluation.categories import CategoryReport

PREDICTED = 0.5  # a score from here on is a prediction
BLOCK_VIDEOS = 1 << 13  # taken apart into groups at a time
DASH = "–"
METRICS_FILE = "metrics.json"
EVALUATION_FILES = (METRICS_FILE, "true-pairs.png")
"""Marks of an evaluation's folder: what `Breakdown.save` and `counterpoint.evaluation.tower.draw` write."""


class Levels(Protocol):
    """The part of a `counterpoint.taxonomy.Taxonomy` that a breakdown reads."""

    @property
    def levels(self) -> Int[np.ndarray, " category"]: ...
    @property
    def tops(self) -> Int[np.ndarray, " category"]: ...
    @property
    def names(self) -> tuple[str, ...]: ...


class Figures:
    """The metrics of one group of categories, as fractions, over ``videos`` videos.

    Each metric of `counterpoint.evaluation.metrics.METRICS` is an attribute, and an item: ``figures.gap`` or
    ``figures["gap"]``; nan where it was not measured.
    """

    videos: int

    def __init__(self, videos: int, **values: float) -> None:
        vars(self).update({"videos": videos, **dict.fromkeys(METRICS, math.nan), **values})

    def __getitem__(self, metric: str) -> float:
        """A metric by name.

        Raises:
            Error: there is no such metric.
        """
        if metric not in vars(self):
            METRICS[metric]  # raises for an unknown name
            return math.nan
        return float(vars(self)[metric])

    def __getattr__(self, name: str) -> float:
        raise AttributeError(f"no metric {name!r}", name=name, obj=self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Figures) and vars(self) == vars(other)

    def __repr__(self) -> str:
        return f"Figures({', '.join(f'{name}={value}' for name, value in vars(self).items())})"


@dataclass(frozen=True)
class Breakdown:
    """Figures of all categories together, of each level from 0, and of each top-level category by name."""

    overall: Figures
    levels: tuple[Figures, ...]
    tops: dict[str, Figures]
    name: str = field(default="error", compare=False)
    """The model's, in tables."""
    trained_on: int = field(default=0, compare=False)
    """Clips that the model was trained on, by their id or features."""
    categories: "CategoryReport | None" = field(default=None, compare=False)
    """Precision, recall and threshold of each category, and the confusion matrix; None where they were not measured."""

    def table(self) -> Table:
        """Error rates by metric and level: the paper's Table 4 for this model."""
        return table4([(self.name, self)])

    def categories_table(self) -> Table:
        """GAP error rates by top-level category: the paper's Table 5 for this model."""
        return table5([(self.name, self)])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with None for nan."""
        return {
            "overall": _plain(self.overall),
            "levels": [_plain(level) for level in self.levels],
            "tops": {name: _plain(top) for name, top in self.tops.items()},
            **({"trained_on": self.trained_on} if self.trained_on else {}),
            **(self.categories.to_dict() if self.categories else {}),
        }

    def save(self, folder: str | Path) -> None:
        """Write `metrics.json` and `metrics.csv` (one line per group); if known, `categories.csv` and `confusion.csv`.

        A reader never sees a file half written.

        Raises:
            Error: the folder holds something that no evaluation wrote.
        """
        folder = Path(folder)
        check_output_folder(folder, *EVALUATION_FILES)
        folder.mkdir(parents=True, exist_ok=True)
        saved = self.to_dict()
        groups = [("overall", "", saved["overall"])]
        groups += [("level", str(level), figures) for level, figures in enumerate(saved["levels"])]
        groups += [("top", name, figures) for name, figures in saved["tops"].items()]
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["group", "name", *saved["overall"]])
        writer.writerows(for_spreadsheet([kind, name, *figures.values()]) for kind, name, figures in groups)
        write_text(folder / METRICS_FILE, json.dumps(saved, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        write_text(folder / "metrics.csv", table.getvalue())
        if self.categories:
            self.categories.save(folder)


class BreakdownAccumulator:
    """Breaks down any number of videos, exactly, batch by batch.

    All scores are on disk until `compute` measures one group after the other: less than 3 GB of memory at 1,000,000
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
            tops={name: _figures(group.videos, top=True) for name, group in self.tops.items()},
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


def table4(models: Sequence[tuple[str, Breakdown]], clips: str = "clips") -> Table:
    """Error rates in percent by metric and level, models side by side, as in the paper's Table 4.

    Args:
        models: each with its name.
        clips: what the clips are called in the title, such as "validation clips".

    Raises:
        ValueError: the models were measured on different levels.
    """
    groups = [
        (name, {"all": model.overall, **{str(level): figures for level, figures in enumerate(model.levels)}})
        for name, model in models
    ]
    title = f"Error in %, {models[0][1].overall.videos:,} {clips} (lower is better)"
    return _table(title, "level", groups, METRICS)


def table5(models: Sequence[tuple[str, Breakdown]]) -> Table:
    """GAP error rates in percent by top-level category, models side by side, as in the paper's Table 5.

    Raises:
        ValueError: the models were measured on different top-level categories.
    """
    groups = [(name, model.tops) for name, model in models]
    return _table("GAP error in % by top-level category", "category", groups, ("gap", "gap_full"))


def _table(title: str, kind: str, models: Sequence[tuple[str, dict[str, Figures]]], metrics: Iterable[str]) -> Table:
    names = [list(groups) for _, groups in models]
    if any(each != names[0] for each in names):
        raise ValueError(f"the models were not measured by the same {kind}: {names}")
    rows = [
        [METRICS[metric].title, name, *(error_rate(groups[name][metric]) for _, groups in models)]
        for metric in metrics
        for name in names[0]
    ]
    return Table(title, ["metric", kind, *(model for model, _ in models)], rows, labels=2, parts=True)


def error_rate(figure: float) -> str:
    """A figure's error in percent, or a dash."""
    return DASH if math.isnan(figure) else f"{100 * (1 - figure):.2f}"


def _figures(videos: Spill, top: bool = False) -> Figures:
    values = measure_all(videos.blocks, videos.categories)
    return Figures(
        videos.count, **{name: math.nan if top and METRICS[name].needs_all else values[name] for name in values}
    )


def _plain(figures: Figures) -> dict[str, int | float | None]:
    return {name: None if math.isnan(value) else value for name, value in vars(figures).items()}
