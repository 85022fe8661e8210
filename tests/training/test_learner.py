import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from counterpoint.data.features import FeatureSet
from counterpoint.data.loading import Batch, collate
from counterpoint.data.tracks import Track, Tracks
from counterpoint.models.fusion import Concatenated, CrossModal
from counterpoint.recipes import CONSTANT, Training
from counterpoint.training.learner import GAP, CategorizationLearner, drop_modalities

from .world import LABELLING, SIZES, clips, recipe


def learner(**training: object) -> CategorizationLearner:
    torch.manual_seed(0)
    made = recipe(**training)
    return CategorizationLearner(made.build(SIZES, 5), made.training)


def batch(count: int = 8) -> Batch:
    shown = clips(count)
    return collate([(c, LABELLING.labels.targets(c.labels)) for c in shown], FeatureSet(SIZES), 5)


# --- loss -------------------------------------------------------------------------------------------------------------


def test_loss_is_the_mean_cross_entropy_of_all_categories() -> None:
    subject = learner()

    class Fixed(nn.Module):
        def forward(self, tracks: Tracks) -> SimpleNamespace:
            return SimpleNamespace(logits=torch.tensor([[0.0, math.log(3)], [-math.log(3), 0.0]]))

    subject.model = Fixed()
    labels = torch.tensor([[True, True], [False, True]])
    # ln 2 for a logit of 0; at odds of 3 : 1, rightly, ln(4 / 3)
    expected = (math.log(2) + math.log(4 / 3) + math.log(4 / 3) + math.log(2)) / 4
    assert subject.loss(Batch({}, labels, ["a", "b"])).item() == pytest.approx(expected)


def test_half_precision_logits_are_compared_in_full() -> None:
    subject = learner()
    subject.model.to(torch.bfloat16)
    assert subject.loss(batch()).dtype == torch.float32


# --- optimizer --------------------------------------------------------------------------------------------------------


def test_optimizer_is_the_papers() -> None:
    subject = CategorizationLearner(recipe().build(SIZES, 5), Training())
    made = subject.configure_optimizers()
    assert type(made["optimizer"]) is torch.optim.Adam
    assert made["optimizer"].param_groups[0]["lr"] == 2e-4
    assert made["optimizer"].param_groups[0]["weight_decay"] == 0
    scheduler = made["lr_scheduler"]["scheduler"]
    assert made["lr_scheduler"]["monitor"] == GAP
    rates = []
    for gap in (0.5, 0.6, 0.6, 0.6, 0.6, 0.7):  # the third epoch in a row that is not better is one too many
        scheduler.step(gap)
        rates.append(made["optimizer"].param_groups[0]["lr"])
    assert rates == [2e-4] * 4 + [1e-4] * 2


@pytest.mark.parametrize("fusion", [CrossModal(hidden=(3,)), CrossModal(reach=2), Concatenated(hidden=(3,), reach=2)])
def test_f_learns_at_a_rate_of_its_own(fusion: CrossModal) -> None:
    """Adam's first step is as long as the rate; biases and F's map of the tower's output move like all else."""
    made = replace(recipe("nv-cm", learning_rate=1e-3, influence_lr_scale=10), fusion=fusion)
    subject = CategorizationLearner(made.build(SIZES, 5, CONSTANT.build(SIZES)), made.training)
    before = {name: parameter.clone() for name, parameter in subject.model.named_parameters()}
    optimizer = subject.configure_optimizers()["optimizer"]
    subject.loss(batch()).backward()
    optimizer.step()
    moves = {name: (p - before[name]).abs().max().item() for name, p in subject.model.named_parameters()}
    maps = {name for name in moves if "influences" in name and name.endswith("weight") and "context" not in name}
    assert len(maps) == 2 * (len(fusion.hidden) + 1 + (fusion.reach is not None))  # of two modalities
    for name, by in moves.items():
        if not name.startswith("tower."):
            assert by == pytest.approx(1e-2 if name in maps else 1e-3, rel=1e-2), name


def test_frozen_parameters_are_left_alone() -> None:
    subject = learner()
    subject.model.head.requires_grad_(False)
    trained = {id(p) for group in subject.configure_optimizers()["optimizer"].param_groups for p in group["params"]}
    assert trained == {id(p) for p in subject.model.trunk.parameters()}


# --- random numbers ---------------------------------------------------------------------------------------------------


def test_random_numbers_depend_on_seed_and_step_alone() -> None:
    def draw(seed: int, epoch: int, index: int) -> float:
        torch.rand(np.random.default_rng().integers(9))  # whatever was drawn before
        subject = learner(seed=seed)
        subject._trainer = SimpleNamespace(current_epoch=epoch)  # type: ignore[assignment]
        subject.on_train_batch_start(batch(1), index)
        return torch.rand(()).item()

    steps = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]
    assert [draw(*step) for step in steps] == [draw(*step) for step in steps]
    assert len({draw(*step) for step in steps}) == len(steps)


# --- modality dropout -------------------------------------------------------------------------------------------------


def tracks(count: int, modalities: int = 2) -> Tracks:
    mask = torch.tensor([[True, True, False]]).repeat(count, 1)
    return {f"m{i}": Track(torch.ones(count, 3, 4), mask.clone()) for i in range(modalities)}


def taken(before: Tracks, after: Tracks) -> Tensor:
    """(clip, modality): whether it was taken away; the rest must be as it was."""
    assert list(before) == list(after)
    for name in before:
        assert torch.equal(before[name].features, after[name].features)
        kept = after[name].mask.any(1)
        assert torch.equal(after[name].mask[kept], before[name].mask[kept])
    return torch.stack([~track.mask.any(1) for track in after.values()], 1)


def test_nothing_is_taken_at_a_share_of_0() -> None:
    given = tracks(4)
    assert drop_modalities(given, 0.0) is given


def test_one_modality_of_every_clip_is_taken_at_a_share_of_1() -> None:
    torch.manual_seed(0)
    gone = taken(given := tracks(4000), drop_modalities(given, 1.0))
    assert (gone.sum(1) == 1).all()
    assert abs(gone[:, 0].sum().item() - 2000) < 4 * math.sqrt(4000 / 4)


def test_a_share_of_the_clips_loses_one() -> None:
    torch.manual_seed(0)
    gone = taken(given := tracks(4000, modalities=3), drop_modalities(given, 0.3))
    assert (gone.sum(1) <= 1).all()
    assert abs(gone.any(1).sum().item() - 1200) < 4 * math.sqrt(4000 * 0.3 * 0.7)
    for i in range(3):
        assert abs(gone[:, i].sum().item() - 400) < 4 * math.sqrt(4000 * 0.1 * 0.9)


def test_the_given_tracks_stay_whole() -> None:
    given = tracks(10)
    drop_modalities(given, 1.0)
    assert all(track.mask[:, 0].all() for track in given.values())


def test_only_training_takes_modalities_away() -> None:
    subject = learner()
    subject.settings = replace(subject.settings, modality_dropout=1.0)
    seen: list[Tensor] = []
    forward = subject.model.forward

    def watched(shown: Tracks, show: bool = False) -> object:
        seen.append(torch.stack([track.mask.any(1) for track in shown.values()], 1).sum(1))
        return forward(shown, show)

    subject.model.forward = watched  # type: ignore[method-assign]
    subject.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    subject.training_step(batch(), 0)
    subject.validation_step(batch(), 0)
    assert seen[0].tolist() == [1] * 8
    assert seen[1].tolist() == [2] * 8
