"""Calibration, thresholds, unlike inputs and figures by category."""

import numpy as np
import pytest

from counterpoint.reliability import (
    Reliability,
    TowerReliability,
    best_threshold,
    calibrate,
    category_figures,
    confusion,
    nearest,
    references,
    thresholds,
    unit,
    wilson,
)

RANDOM = np.random.default_rng(0)


def test_calibration_finds_what_made_the_labels():
    """Labels drawn from sigmoid(0.5 x + b): logits that are twice too sure, and categories that are rarer or not."""
    logits = RANDOM.normal(0, 3, (20_000, 3))
    bias = np.array([-1.0, 0.0, 1.5])
    labels = RANDOM.random(logits.shape) < 1 / (1 + np.exp(-(0.5 * logits + bias)))
    slope, found = calibrate(logits, labels)
    assert slope == pytest.approx(0.5, abs=0.02)
    np.testing.assert_allclose(found, bias, atol=0.06)


def test_few_clips_hardly_change_anything():
    slope, bias = calibrate(np.array([[4.0], [-4.0]]), np.array([[True], [False]]))
    assert slope == pytest.approx(1, abs=0.05)
    assert abs(bias[0]) < 0.01


def test_the_threshold_with_the_best_f1():
    """By trying all of them."""
    for _ in range(50):
        probabilities, labels = RANDOM.random(12).round(1), RANDOM.random(12) < 0.4
        if labels.any():
            tried = [f1(probabilities >= at, labels) for at in np.unique(probabilities)]
            assert f1(probabilities >= best_threshold(probabilities, labels), labels) == pytest.approx(max(tried))


def f1(answered: np.ndarray, labels: np.ndarray) -> float:
    return float(2 * (answered & labels).sum() / (answered.sum() + labels.sum()))


def test_a_rare_category_stays_near_the_common_threshold():
    probabilities = np.stack([np.repeat([0.9, 0.1], 500), np.r_[0.3, np.zeros(999)]], 1)
    labels = probabilities > 0.2
    common, rare = thresholds(probabilities, labels)
    assert common == pytest.approx(0.5, abs=0.1)
    assert 0.15 < rare < common + 0.1


def test_nearest_is_the_loops():
    hidden, others = RANDOM.normal(size=(7, 4)), RANDOM.normal(size=(5, 4))
    slow = [min(1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in others) for a in hidden]
    np.testing.assert_allclose(nearest(hidden, unit(others)), slow, atol=1e-6)
    own = [
        min(1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b) for j, b in enumerate(hidden) if j != i)
        for i, a in enumerate(hidden)
    ]
    np.testing.assert_allclose(nearest(hidden, unit(hidden), own=True), own, atol=1e-6)


def test_references_are_drawn():
    many = np.arange(5000.0)[:, None]
    assert len(references(many)) == 2000
    assert references(many[:3]).tolist() == [[0], [1], [2]]


def test_unlike_is_beyond_so_many_typical_distances():
    subject = Reliability(1.0, (), (), unlike=3.0, typical=0.1, clips=5)
    assert subject.is_unlike(np.array([0.29, 0.31])).tolist() == [False, True]


def test_a_tower_is_chance_where_its_interval_holds_a_half():
    assert TowerReliability(0.55, 0.49, 0.61, 40).is_chance
    assert not TowerReliability(0.6, 0.51, 0.69, 40).is_chance


def test_figures_by_hand():
    """Of three clips in the category two are answered, and one that is not in it."""
    probabilities = np.array([[0.9], [0.6], [0.1], [0.7], [0.2]])
    labels = np.array([[True], [True], [True], [False], [False]])
    (figures,) = category_figures(probabilities, labels, ("Food",), np.array([0.5]))
    assert (figures.support, figures.precision, figures.recall) == (3, pytest.approx(2 / 3), pytest.approx(2 / 3))
    (figures,) = category_figures(probabilities, labels, ("Food",), np.array([0.95]))
    assert np.isnan(figures.precision)


def test_confusion_by_hand():
    probabilities = np.array([[0.9, 0.1, 0.5], [0.6, 0.1, 0.7], [0.2, 0.8, 0.1], [0.4, 0.3, 0.2]])
    labels = np.array([[True, False, False], [True, False, False], [False, True, True], [False, False, False]])
    counts = confusion(probabilities, labels, np.array([0, 1, 2]))
    # The second clip is taken for the third category; the third clip has two, of which the second is more probable.
    assert counts.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]


def test_wilson_against_published_values():
    """Newcombe 1998, table I: 81 of 263, and 15 of 148."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)
