"""Averaged features, their standardization, and plain heads."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from counterpoint.data.tracks import Track
from counterpoint.models.categorizer import Standardize
from counterpoint.models.heads import HeadConfig, LinearHead, MLPHead, ResidualHead
from counterpoint.recipes import RECIPES

from .small import TWO


def test_linear_is_logistic_regression_on_the_means_of_the_seconds():
    model = RECIPES["mean-linear"].with_(standardize=False, damping=0.0).build(TWO, 4).double().eval()
    video, audio = torch.randn(2, 3, 5, dtype=torch.float64), torch.randn(2, 3, 3, dtype=torch.float64)
    mask = torch.tensor([[True, True, True], [True, False, False]])
    logits = model({"video": Track(video, mask), "audio": Track(audio, mask)}).logits
    weight, bias = (p.detach().numpy() for p in model.head.network[-1].parameters())
    for clip, steps in enumerate((3, 1)):
        means = np.concatenate([audio[clip, :steps].numpy().mean(0), video[clip, :steps].numpy().mean(0)])
        np.testing.assert_allclose(logits[clip].detach().numpy(), weight @ means + bias, rtol=1e-12)


def test_standardized_training_clips_have_mean_zero_and_deviation_one():
    scale = Standardize(3).double()
    means = torch.randn(50, 3, dtype=torch.float64) * torch.tensor([1.0, 20.0, 5.0]) + 7
    scale.fit(means)
    read = scale(Track(means.unsqueeze(1), torch.ones(50, 1, dtype=torch.bool))).features[:, 0]
    assert_close(read.mean(0), torch.zeros(3, dtype=torch.float64))
    assert_close(read.std(0, correction=0), torch.ones(3, dtype=torch.float64))


def test_a_feature_that_does_not_vary_stays_finite_and_small():
    scale = Standardize(2)
    scale.fit(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    read = scale(Track(torch.tensor([[[2.0, 5.001]]]), torch.ones(1, 1, dtype=torch.bool))).features
    assert read[0, 0, 0] == 0
    assert abs(read[0, 0, 1]) < 0.25


def test_a_clip_without_a_modality_has_its_mean():
    scale = Standardize(2)
    scale.fit(torch.tensor([[1.0, 5.0], [3.0, 9.0]]))
    assert not scale(Track(torch.randn(1, 4, 2), torch.zeros(1, 4, dtype=torch.bool))).features.any()


def test_modalities_vary_equally_much_in_all():
    read = RECIPES["mean-linear"].build({"video": 1280, "audio": 128}, 4).trunk.read
    totals = {name: size * read.scales[name].gain ** 2 for name, size in (("video", 1280), ("audio", 128))}
    assert totals == {"video": pytest.approx(704), "audio": pytest.approx(704)}


def test_components_are_damped_and_not_standardized():
    recipe = RECIPES["mean-mlp"]
    assert not recipe.build(TWO, 4, components=True).trunk.read.scales
    assert recipe.build(TWO, 4, components=True).trunk.read.damping == 20
    assert set(recipe.build(TWO, 4).trunk.read.scales) == set(TWO)
    assert recipe.build(TWO, 4).trunk.read.damping == 0


@pytest.mark.parametrize(
    ("head", "hidden"),
    [
        (HeadConfig(hidden=7), 7),
        (LinearHead(), 5),
        (MLPHead(hidden=7), 7),
        (ResidualHead(width=6, hidden=3), 6),
    ],
)
def test_a_head_gives_its_hidden_features_and_begins_rare(head, hidden: int):
    made = head.build(5, 11).eval()
    outputs, found = made({"video": torch.randn(3, 2), "audio": torch.randn(3, 3)})
    assert outputs.shape == (3, 11)
    assert found.shape == (3, hidden)
    assert_close(made.network[-1].bias.sigmoid(), torch.full((11,), 1 / 11))
