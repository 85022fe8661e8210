"""Stratified folds of few clips."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from counterpoint.data.folds import folds


@given(
    st.lists(st.integers(0, 3), min_size=12, max_size=60),
    st.integers(2, 5),
    st.integers(0, 1000),
)
def test_every_category_is_shared_out_evenly(categories: list[int], count: int, seed: int):
    """Clips of one category each: no two folds differ by more than one of it."""
    labels = np.eye(4, dtype=bool)[categories]
    fold = folds(labels, np.arange(len(labels)), count, seed)
    for category in range(4):
        sizes = np.bincount(fold[labels[:, category]], minlength=count)
        assert sizes.max() - sizes.min() <= 1


@given(st.lists(st.integers(0, 9), min_size=20, max_size=60), st.integers(2, 5))
def test_copies_stay_together(groups: list[int], count: int):
    labels = np.random.default_rng(0).random((len(groups), 3)) < 0.4
    fold = folds(labels, np.array(groups), count)
    assert all(len(set(fold[np.array(groups) == group])) == 1 for group in set(groups))
    assert set(fold) <= set(range(count))


def test_the_seed_decides():
    labels = np.eye(2, dtype=bool)[[0, 1] * 20]
    same, again, other = (folds(labels, np.arange(40), 4, seed).tolist() for seed in (1, 1, 2))
    assert same == again
    assert same != other
