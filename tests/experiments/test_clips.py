import numpy as np

from counterpoint.experiments.clips import contrasts, predictions, specific
from counterpoint.taxonomy import Category, Taxonomy

FOOD = Taxonomy(
    (
        Category("f", "", "Food"),
        Category("d", "f", "Dessert"),
        Category("s", "f", "Soup"),
        Category("m", "", "Music"),
    )
)


def test_the_most_specific_predictions_above_the_threshold() -> None:
    scores = np.array(
        [[0.9, 0.4, 0.29, 0.5], [0.6, 0.1, 0.1, 0.2], [0.1, 0.1, 0.1, 0.1], [0.9, 0.8, 0.7, 0.6]], np.float32
    )
    shown = [[category for category, _ in clip] for clip in predictions(scores, FOOD)]
    assert shown == [[3, 1], [0], [], [1, 2]]


def test_specific_labels() -> None:
    assert specific(np.array([True, True, False, True]), FOOD) == ["Food:Dessert", "Music"]


def test_wins_and_losses() -> None:
    labels = np.array([[1, 1, 0, 0]] * 4, bool)
    right, wrong = [0.9, 0.8, 0.1, 0.1], [0.4, 0.1, 0.35, 0.9]
    unsure = [0.2, 0.1, 0.1, 0.1]
    scores = np.array([right, wrong, right, right], np.float32)
    others = np.array([wrong, right, right, unsure], np.float32)
    # The third is predicted the same, and of the fourth the other model shows nothing.
    assert contrasts(scores, others, labels, FOOD, 5) == ([0], [1])
