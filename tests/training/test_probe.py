"""The linear probe is the minimum of its objective."""

import numpy as np
import pytest
import torch

from counterpoint.training.probe import positive_weights, solve


@pytest.mark.parametrize(("clips", "inputs"), [(12, 40), (200, 9)])
@pytest.mark.parametrize("balance", [0.0, 0.5])
def test_the_gradient_is_zero(clips: int, inputs: int, balance: float):
    """Of the summed cross-entropy and the penalty, by hand; with fewer clips than inputs, and with more."""
    random = np.random.default_rng(clips)
    x = random.normal(size=(clips, inputs))
    labels = random.random((clips, 3)) < 0.4
    weights, bias = (t.double().numpy() for t in solve(torch.from_numpy(x), labels, 2.0, balance))
    p = 1 / (1 + np.exp(-(x @ weights.T + bias)))
    weight = positive_weights(labels, balance)
    error = np.where(labels, -weight * (1 - p), p)  # (clip, category): derivative by the logit
    scale = np.abs(error).sum()
    np.testing.assert_allclose((x.T @ error).T + 2.0 * weights, 0, atol=1e-4 * scale)
    np.testing.assert_allclose(error.sum(0), 0, atol=1e-4 * scale)


def test_a_category_without_clips_is_improbable():
    x, labels = torch.randn(20, 5), np.zeros((20, 2), bool)
    labels[:10, 0] = True
    weights, bias = solve(x, labels, 1.0)
    assert (x @ weights.T + bias)[:, 1].sigmoid().max() < 0.1
