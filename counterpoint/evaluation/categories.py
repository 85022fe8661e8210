"""Precision, recall and threshold of each category, and which of the most specific categories are taken for which."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from counterpoint.files import write_text
from counterpoint.reliability import CategoryFigures, confusion, figures_of_counts
from counterpoint.tables import Cell, Table, for_spreadsheet
from counterpoint.taxonomy import Taxonomy

FEW = 12  # most specific categories, up to which a terminal shows the whole matrix
LOWEST = 5  # categories that it shows otherwise
CATEGORIES_FILE = "categories.csv"
CONFUSION_FILE = "confusion.csv"
HEADER = ("category", "support", "precision", "recall", "threshold")


@dataclass(frozen=True)
class CategoryReport:
    """The figures of each category at its threshold.

    Attributes:
        categories: precision, recall, support and threshold of each.
        leaves: the most specific categories of the taxonomy: the matrix's rows and columns.
        confusion: clips by their true category (row) and the most probable one (column).
    """

    categories: tuple[CategoryFigures, ...]
    leaves: tuple[str, ...]
    confusion: Int[np.ndarray, "leaf leaf"] = field(repr=False)

    def tables(self) -> list[Table]:
        """All figures of up to `FEW` most specific categories; otherwise the categories with the lowest recall."""
        if len(self.leaves) <= FEW:
            return [categories_table("Categories", self.categories), self.matrix()]
        seen = [each for each in self.categories if each.support]
        lowest = sorted(seen, key=lambda each: (each.recall, -each.support))[:LOWEST]
        return [categories_table(f"The {len(lowest)} categories with the lowest recall", lowest)]

    def matrix(self) -> Table:
        """The confusion matrix, its columns numbered as its rows."""
        rows: list[list[Cell | str]] = [
            [f"{row}  {leaf}", *(Cell(str(n), bold=row == column, dim=not n) for column, n in enumerate(counts, 1))]
            for row, (leaf, counts) in enumerate(zip(self.leaves, self.confusion.tolist(), strict=True), 1)
        ]
        caption = "Clips by their label (row) and, by its number, their most probable category (column)."
        return Table("Confusion matrix", ["label", *map(str, range(1, len(rows) + 1))], rows, caption)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: of the matrix the counts above 0, and None where nothing was measured."""
        found = zip(*np.nonzero(self.confusion), strict=True)
        return {
            "categories": [
                {name: _finite(value) if isinstance(value, float) else value for name, value in asdict(each).items()}
                for each in self.categories
            ],
            "confusion": [
                {"label": self.leaves[row], "answer": self.leaves[column], "clips": int(self.confusion[row, column])}
                for row, column in found
            ],
        }

    def save(self, folder: Path) -> None:
        """Write `categories.csv`, a line for each category, and `confusion.csv`, the matrix."""
        figures = ([each.path, each.support, each.precision, each.recall, each.threshold] for each in self.categories)
        lines = [[_finite(value) if isinstance(value, float) else value for value in line] for line in figures]
        write_text(folder / CATEGORIES_FILE, _csv([[*HEADER], *lines]))
        matrix = [[leaf, *counts] for leaf, counts in zip(self.leaves, self.confusion.tolist(), strict=True)]
        write_text(folder / CONFUSION_FILE, _csv([["label", *self.leaves], *matrix]))


class CategoryAccumulator:
    """Counts what a `CategoryReport` needs, batch by batch; no scores are kept.

    Args:
        taxonomy: the categories.
        thresholds: the probability from which on each is an answer; infinity for one that is never an answer.
    """

    def __init__(self, taxonomy: Taxonomy, thresholds: Float[np.ndarray, "category"]) -> None:
        self.paths = taxonomy.paths
        self.thresholds = thresholds
        self.leaves = np.setdiff1d(np.arange(len(taxonomy)), taxonomy.parents)
        self.hits, self.answered, self.support = (np.zeros(len(taxonomy), np.int64) for _ in range(3))
        self.confusion = np.zeros((len(self.leaves), len(self.leaves)), np.int64)

    def update(
        self, probabilities: Float[np.ndarray, "clip category"], labels: Bool[np.ndarray, "clip category"]
    ) -> None:
        """Add a batch of clips."""
        answered = probabilities >= self.thresholds
        self.hits += (answered & labels).sum(0)
        self.answered += answered.sum(0)
        self.support += labels.sum(0)
        possible = np.where(np.isfinite(self.thresholds), probabilities, -1.0)
        self.confusion += confusion(possible, labels, self.leaves)

    def compute(self) -> CategoryReport:
        """The figures of all clips so far."""
        figures = figures_of_counts(self.hits, self.answered, self.support, self.paths, self.thresholds)
        return CategoryReport(tuple(figures), tuple(self.paths[i] for i in self.leaves), self.confusion.copy())


def categories_table(title: str, categories: Sequence[CategoryFigures]) -> Table:
    """Precision, recall, support and threshold of categories."""
    rows = [
        [each.path, str(each.support), *(_short(value) for value in (each.precision, each.recall, each.threshold))]
        for each in categories
    ]
    return Table(title, HEADER, rows, "A category is an answer from its threshold on.")


def _short(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "–"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _csv(lines: list[list[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(map(for_spreadsheet, lines))
    return text.getvalue()
