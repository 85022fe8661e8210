import numpy as np
import pytest

from counterpoint.evaluation.bootstrap import Curve, paired_gap_difference
from counterpoint.evaluation.metrics import global_average_precision, mean_average_precision


def made(seed: int, clips: int = 60, categories: int = 30) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.random((clips, categories)) < 0.1
    labels[:, 0] = True
    scores = (labels + random.normal(0, 1, labels.shape)).astype(np.float32)
    worse = (labels + random.normal(0, 3, labels.shape)).astype(np.float32)
    return scores, worse, labels


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("per_category", [False, True])
def test_weighted_figures_are_those_of_repeated_clips(ties: bool, per_category: bool) -> None:
    scores, _, labels = made(1)
    labels[:, 5] = False
    if ties:
        scores = np.round(scores)
    weights = np.random.default_rng(2).integers(0, 4, len(scores))
    repeated = np.repeat(np.arange(len(scores)), weights)
    curve = Curve(scores, labels, 20, per_category)
    figure = mean_average_precision if per_category else global_average_precision
    assert curve.average_precision(weights) == pytest.approx(figure(scores[repeated], labels[repeated]), abs=1e-12)
    assert np.isnan(curve.average_precision(np.zeros_like(weights)))


def test_difference_and_interval() -> None:
    scores, worse, labels = made(3)
    interval = paired_gap_difference(scores, worse, labels, samples=200)
    expected = global_average_precision(scores, labels) - global_average_precision(worse, labels)
    assert interval.difference == pytest.approx(expected, abs=1e-12)
    assert 0 < interval.low < interval.difference < interval.high


def test_a_model_does_not_differ_from_itself() -> None:
    scores, _, labels = made(4)
    assert paired_gap_difference(scores, scores.copy(), labels, samples=20) == (0.0, 0.0, 0.0)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    # Two models of equal quality: zero should lie inside nearly always, and not always.
    inside = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        labels = random.random((40, 10)) < 0.3
        scores, others = (labels + random.normal(0, 1, (2, *labels.shape))).astype(np.float32)
        interval = paired_gap_difference(scores, others, labels, samples=100, seed=seed)
        inside += interval.low <= 0 <= interval.high
    assert 50 <= inside <= 60
