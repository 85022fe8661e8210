"""Figures by category, counted by hand."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from training.world import TAXONOMY

from counterpoint.evaluation.categories import FEW, CategoryAccumulator, CategoryReport
from counterpoint.evaluation.plots import MATRIX, draw_confusion
from counterpoint.reliability import CategoryFigures
from counterpoint.taxonomy import Category, Taxonomy

FOOD, DESSERT, SOUP, SPORT, BALL = range(5)
THRESHOLDS = np.array([0.5, 0.6, 0.3, 0.5, 0.5])
CLIPS = [  # labels, probabilities
    ((FOOD, DESSERT), (0.9, 0.7, 0.1, 0.1, 0.1)),  # right
    ((FOOD, DESSERT), (0.9, 0.5, 0.4, 0.1, 0.1)),  # Dessert is the most probable, and below its threshold; Soup is not
    ((FOOD, SOUP), (0.4, 0.2, 0.3, 0.1, 0.1)),  # Soup is just at its threshold, Food is below
    ((SPORT, BALL), (0.6, 0.5, 0.2, 0.6, 0.1)),  # taken for Dessert
    ((FOOD, DESSERT, SPORT, BALL), (0.9, 0.8, 0.1, 0.9, 0.85)),  # counts as Ball, the more probable of the two
    ((), (0.1, 0.1, 0.1, 0.9, 0.9)),  # without labels: only wrong answers
]


def report(batches: int = 1, thresholds: np.ndarray = THRESHOLDS) -> CategoryReport:
    accumulator = CategoryAccumulator(TAXONOMY, thresholds)
    labels = np.array([[i in one for i in range(5)] for one, _ in CLIPS])
    probabilities = np.array([one for _, one in CLIPS])
    for part in np.array_split(np.arange(len(CLIPS)), batches):
        accumulator.update(probabilities[part], labels[part])
    return accumulator.compute()


def test_figures_by_category() -> None:
    found = {each.path: (each.support, each.precision, each.recall, each.threshold) for each in report().categories}
    assert found == {
        "Food": (4, 3 / 4, 3 / 4, 0.5),
        "Food:Dessert": (3, 1.0, 2 / 3, 0.6),
        "Food:Soup": (1, 1 / 2, 1.0, 0.3),
        "Sport": (2, 2 / 3, 1.0, 0.5),
        "Sport:Ball": (2, 1 / 2, 1 / 2, 0.5),
    }


def test_confusion() -> None:
    found = report()
    assert found.leaves == ("Food:Dessert", "Food:Soup", "Sport:Ball")
    assert found.confusion.tolist() == [[2, 0, 0], [0, 1, 0], [1, 0, 1]]


def test_batches_do_not_matter() -> None:
    whole, parts = report(), report(batches=4)
    assert parts.categories == whole.categories
    assert np.array_equal(parts.confusion, whole.confusion)


def test_a_category_that_was_never_trained_is_no_answer() -> None:
    found = report(thresholds=np.array([0.5, np.inf, 0.3, 0.5, 0.5]))
    dessert = found.categories[DESSERT]
    assert (dessert.support, dessert.recall) == (3, 0.0)
    assert np.isnan(dessert.precision)
    assert found.confusion[:, 0].tolist() == [0, 0, 0]
    assert found.to_dict()["categories"][DESSERT] == {
        "path": "Food:Dessert",
        "support": 3,
        "precision": None,
        "recall": 0.0,
        "threshold": None,
    }


def test_files(tmp_path: Path) -> None:
    found = report()
    found.save(tmp_path)
    with (tmp_path / "categories.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[DESSERT] == {
        "category": "Food:Dessert",
        "support": "3",
        "precision": "1.0",
        "recall": str(2 / 3),
        "threshold": "0.6",
    }
    assert (tmp_path / "confusion.csv").read_text().splitlines() == [
        "label,Food:Dessert,Food:Soup,Sport:Ball",
        "Food:Dessert,2,0,0",
        "Food:Soup,0,1,0",
        "Sport:Ball,1,0,1",
    ]
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["confusion"] == [
        {"label": "Food:Dessert", "answer": "Food:Dessert", "clips": 2},
        {"label": "Food:Soup", "answer": "Food:Soup", "clips": 1},
        {"label": "Sport:Ball", "answer": "Food:Dessert", "clips": 1},
        {"label": "Sport:Ball", "answer": "Sport:Ball", "clips": 1},
    ]
    assert draw_confusion(found, tmp_path / "confusion.png") == tmp_path / "confusion.png"
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")


def many(count: int) -> CategoryReport:
    """The recall of the first six is 0.5, 0.4, ... 0.0, that of others 1; the last category has no clips."""
    taxonomy = Taxonomy(tuple(Category(f"c{i}", "", f"Category {i}") for i in range(count)))
    recall = [max(0.5 - 0.1 * i, 0) if i < 6 else 1.0 for i in range(count)]
    figures = [CategoryFigures(path, 10, 1.0, r, 0.5) for path, r in zip(taxonomy.paths, recall, strict=True)]
    figures[-1] = CategoryFigures(taxonomy.paths[-1], 0, float("nan"), float("nan"), 0.5)
    return CategoryReport(tuple(figures), taxonomy.paths, np.eye(count, dtype=np.int64))


def test_few_categories_are_shown_whole() -> None:
    shown = many(FEW).tables()
    assert [(table.title, len(table.rows)) for table in shown] == [("Categories", FEW), ("Confusion matrix", FEW)]
    assert "Category 11" in str(shown[0])
    assert list(shown[1].header) == ["label", *map(str, range(1, FEW + 1))]
    assert [cell.text for cell in shown[1].cells[1]] == ["2  Category 1", "0", "1", *["0"] * (FEW - 2)]


def test_of_many_categories_the_lowest_recall_is_shown() -> None:
    (shown,) = many(FEW + 1).tables()
    assert shown.title == "The 5 categories with the lowest recall"
    assert [row[0] for row in shown.rows] == [f"Category {i}" for i in (5, 4, 3, 2, 1)]


@pytest.mark.parametrize(("count", "drawn"), [(MATRIX, True), (MATRIX + 1, False)])
def test_only_a_matrix_that_can_be_read_is_drawn(count: int, drawn: bool, tmp_path: Path) -> None:
    assert (draw_confusion(many(count), tmp_path / "x.png") is not None) is drawn
    assert (tmp_path / "x.png").exists() is drawn
