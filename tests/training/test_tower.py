import math
from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.testing import assert_close

from counterpoint.data.loading import Batch
from counterpoint.data.pairs import allowed
from counterpoint.data.tracks import Track
from counterpoint.evaluation.tower import embedded, scored_pairs
from counterpoint.recipes import (
    AttentionClusterFamily,
    ContrastiveConfig,
    Family,
    JoinedConfig,
    Negatives,
    NetVLADFamily,
    TowerRecipe,
    Training,
    TransformerFamily,
)
from counterpoint.taxonomy import Category, Taxonomy
from counterpoint.training.tower import AUC, CorrelationLearner

TOPS = 4
TAXONOMY = Taxonomy((*(Category(f"top{i}", "", f"Top{i}") for i in range(TOPS)), Category("below", "top0", "Below")))
SIZES = {"video": 6, "audio": 5}
THREE = {**SIZES, "text": 4}
PAIR = ("audio", "video")
NETVLAD = NetVLADFamily(clusters={"video": 3, "audio": 2, "text": 2}, hidden=8)
FAMILIES: dict[str, Family] = {
    "nv": NETVLAD,
    "tm": TransformerFamily(widths={"video": 8, "audio": 8, "text": 8}, heads=2),
    "rnn": AttentionClusterFamily(widths={"video": 8, "audio": 8, "text": 8}, units=2, hidden=8),
}
FORMS = {"contrastive": ContrastiveConfig(embedding=6, dropout=0.0), "joined": JoinedConfig(hidden=16)}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def learner(
    form: str, sizes: dict[str, int] = SIZES, family: Family = NETVLAD, epoch: int = 0, **negatives: float
) -> CorrelationLearner:
    """One that believes it is in this epoch and writes down what it logs."""
    torch.manual_seed(0)
    recipe = TowerRecipe(name=form, family=family, comparison=FORMS[form], max_steps=4)

    class Alone(CorrelationLearner):
        current_epoch = epoch
        logged: dict[str, float]

        def log(self, name: str, value: Tensor, **options: object) -> None:
            self.logged[name] = float(value)

    alone = Alone(recipe.build(sizes), Training(), Negatives(**negatives), TAXONOMY)  # type: ignore[arg-type]
    alone.logged = {}
    return alone


def world(clips: int, seed: int = 0, sizes: dict[str, int] = SIZES) -> Batch:
    """Each clip has one top-level category, which each of its modalities shows in a way of its own."""
    generator = torch.Generator().manual_seed(seed)
    kind = torch.randint(TOPS, (clips,), generator=generator)
    tracks = {}
    for i, (name, size) in enumerate(sizes.items()):
        features = torch.randn(clips, 4, size, generator=generator)
        features[torch.arange(clips), :, (kind + i) % TOPS] += 3.0
        tracks[name] = Track(features, torch.ones(clips, 4, dtype=torch.bool))
    return labelled(Batch(tracks, torch.empty(0), []), *([k] for k in kind.tolist()))


def labelled(batch: Batch, *tops: list[int]) -> Batch:
    """The same clips in these top-level categories."""
    labels = torch.zeros(len(tops), len(TAXONOMY), dtype=torch.bool)
    for row, kinds in zip(labels, tops, strict=True):
        row[kinds] = True
        row[TOPS] = 0 in kinds
    return batch._replace(labels=labels, ids=[str(i) for i in range(len(tops))])


MIXED = labelled(world(6), [0], [1], [0, 1], [], [2], [1, 2])
"""Clips of which some may pair with one, some with several, and the fourth with nobody."""


def scores_of(learner: CorrelationLearner, batch: Batch, pair: tuple[str, str] = PAIR) -> list[list[float]]:
    embeddings = learner.tower.embed(batch.tracks)
    scores: list[list[float]] = learner.tower.comparison.scores(pair, *(embeddings[name] for name in pair)).tolist()
    return scores


def found(row: list[float], others: list[bool], own: int, weight: float) -> float:
    """Cross-entropy of one's own among all that are allowed, each of which counts ``weight`` times."""
    rest = sum(weight * math.exp(score) for score, other in zip(row, others, strict=True) if other)
    return -math.log(math.exp(row[own]) / (math.exp(row[own]) + rest))


@pytest.mark.parametrize("weight", [0.5, 1.0, 3.0])
def test_contrastive_loss(weight: float):
    tower = learner("contrastive", weight=weight)
    scores = scores_of(tower, MIXED)
    may = allowed(MIXED.labels[:, :TOPS]).tolist()
    rows = [found(row, may[i], i, weight) for i, row in enumerate(scores)]
    columns = [found([row[j] for row in scores], may[j], j, weight) for j in range(6)]
    assert rows[3] == columns[3] == 0.0
    assert tower.loss(MIXED).item() == pytest.approx((sum(rows) + sum(columns)) / 12, rel=1e-5)


def binary(score: float, truth: bool) -> float:
    return math.log1p(math.exp(-score if truth else score))


@pytest.mark.parametrize("weight", [0.5, 1.0, 3.0])
def test_joined_loss(weight: float):
    """One false pair for each clip with a partner; here each has one, so that nothing is left to chance."""
    batch = labelled(world(4), [0, 3], [1, 2], [], [3, 2, 0])
    assert allowed(batch.labels[:, :TOPS]).int().tolist() == [[0, 1, 0, 0], [1, 0, 0, 0], [0] * 4, [0] * 4]
    tower = learner("joined", weight=weight)
    scores = scores_of(tower, batch)
    true = [binary(scores[i][i], True) for i in range(4)]
    false = [weight * binary(scores[i][j], False) for i, j in ((0, 1), (1, 0))]
    assert tower.loss(batch).item() == pytest.approx((sum(true) + sum(false)) / 6, rel=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_loss_is_the_mean_over_pairs_of_modalities(form: str):
    """Each pair over the clips that have both."""
    batch = labelled(world(3, sizes=THREE), [0], [1], [])
    batch.tracks["text"].mask[2] = False
    tower = learner(form, THREE, weight=2.0)
    total = 0.0
    for pair in combinations(sorted(THREE), 2):
        clips = range(2 if "text" in pair else 3)
        scores = scores_of(tower, batch, pair)
        if form == "joined":
            entropies = [binary(scores[i][i], True) for i in clips]
            entropies += [2.0 * binary(scores[i][1 - i], False) for i in range(2)]
        else:
            may = allowed(batch.labels[:, :TOPS])[: len(clips), : len(clips)].tolist()
            table = [row[: len(clips)] for row in scores[: len(clips)]]
            entropies = [found(table[i], may[i], i, 2.0) for i in clips]
            entropies += [found([row[j] for row in table], may[j], j, 2.0) for j in clips]
        total += sum(entropies) / len(entropies)
    assert tower.loss(batch).item() == pytest.approx(total / 3, rel=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize(
    ("tops", "mute"),
    [(([0], [0], [0]), ()), (([], [], []), ()), (([0], [1], [2]), (0, 1, 2)), (([0], [1], [2]), (1, 2))],
    ids=["same category", "no category", "no sound", "sound once"],
)
def test_nobody_has_a_partner(form: str, epoch: int, tops: tuple[list[int], ...], mute: tuple[int, ...]):
    """Loss and gradient stay finite; without false pairs there are still true ones."""
    batch = labelled(world(3), *tops)
    batch.tracks["audio"].mask[list(mute)] = False
    tower = learner(form, epoch=epoch, hard_share=1.0, hard_from=1)
    loss = tower.loss(batch)
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in tower.parameters())
    assert (loss > 0) == (form == "joined" and len(mute) < 3)


def mined(learner: CorrelationLearner, batch: Batch, draws: int) -> Tensor:
    """The partner of each clip (column), drawn several times."""
    embeddings = learner.tower.embed(batch.tracks)
    one, other = (embeddings[name] for name in PAIR)
    partner = allowed(batch.labels[:, :TOPS])
    return torch.stack([learner._mined(PAIR, one, other, partner) for _ in range(draws)])


def test_hard_negatives_are_the_most_convincing_that_are_allowed():
    batch = world(12)
    tower = learner("joined", epoch=3, hard_share=1.0, hard_from=3)
    partner = allowed(batch.labels[:, :TOPS])
    scores = torch.tensor(scores_of(tower, batch)).masked_fill(~partner, -torch.inf)
    assert mined(tower, batch, 5).tolist() == [scores.argmax(1).tolist()] * 5


@pytest.mark.parametrize(("epoch", "share"), [(2, 1.0), (3, 0.0), (3, 0.5)])
def test_other_negatives_are_any_that_are_allowed(epoch: int, share: float):
    """All of them before the start epoch, and from then on all but the share of the hard ones."""
    batch = world(12)
    tower = learner("joined", epoch=epoch, hard_share=share, hard_from=3)
    partner = allowed(batch.labels[:, :TOPS])
    scores = torch.tensor(scores_of(tower, batch)).masked_fill(~partner, -torch.inf)
    drawn = mined(tower, batch, 2000)
    hard = share if epoch >= 3 else 0.0
    for clip, candidates in enumerate(partner):
        count = torch.bincount(drawn[:, clip], minlength=12) / 2000
        expected = candidates * (1 - hard) / candidates.sum()
        expected[scores[clip].argmax()] += hard
        assert_close(count, expected, rtol=0, atol=0.06)


def test_embedded_leaves_out_clips_without_a_modality():
    tower, batch = learner("contrastive", THREE).tower.eval(), world(4, sizes=THREE)
    batch.tracks["text"].mask[2] = False
    embeddings, tops = embedded(tower, batch, torch.arange(len(TAXONOMY)) < TOPS)
    assert torch.equal(tops, batch.labels[[0, 1, 3], :TOPS])
    whole = tower.embed(batch.tracks)
    for name in THREE:
        assert torch.equal(embeddings[name], whole[name][[0, 1, 3]])


@pytest.mark.parametrize("form", FORMS)
def test_scored_pairs(form: str):
    """Every true pair, and false ones that share no category, over all pairs of modalities and all batches."""
    tower = learner(form, THREE).tower.eval()
    batches = [world(5, seed, THREE) for seed in range(2)]
    batches[1] = labelled(batches[1], [0], [1], [2], [3], [])
    seen = [embedded(tower, batch, torch.arange(len(TAXONOMY)) < TOPS) for batch in batches]
    with torch.no_grad():
        scores, true = scored_pairs(tower, seen, each=3)
        again, _ = scored_pairs(tower, seen, each=3)
    assert torch.equal(scores, again)
    assert true.sum() == 10 * 3
    assert (~true).sum() == 9 * 3 * 3  # the one clip without a category takes no part
    expected, possible = [], []
    everyone = {name: torch.cat([embeddings[name] for embeddings, _ in seen]) for name in THREE}
    may = allowed(torch.cat([tops for _, tops in seen]))
    for pair in combinations(sorted(THREE), 2):
        table = tower.comparison.scores(pair, *(everyone[name] for name in pair)).detach()
        expected.append(table.diagonal())
        possible.append(table[may])
    assert_close(scores[true].sort().values, torch.cat(expected).sort().values)
    assert (torch.cat(possible) - scores[~true].unsqueeze(1)).abs().amin(1).max() < 1e-5


@pytest.mark.parametrize(
    ("form", "family"), [("contrastive", "nv"), ("contrastive", "tm"), ("contrastive", "rnn"), ("joined", "nv")]
)
def test_a_tower_learns_a_small_world(form: str, family: str):
    tower = learner(form, family=FAMILIES[family], weight=2.0 if form == "joined" else 1.0)
    optimizer = torch.optim.Adam(tower.parameters(), lr=1e-2)
    for step in range(60):
        optimizer.zero_grad()
        tower.loss(world(32, seed=100 + step)).backward()
        optimizer.step()
    tower.eval()
    with torch.no_grad():
        for seed in range(2):
            tower.validation_step(world(100, seed=seed), seed)
        seen = tower.seen
        tower.on_validation_epoch_end()
        scores, true = scored_pairs(tower.tower, seen)
        probability = tower.tower.calibrated(scores)
    assert tower.seen == []
    assert tower.logged[AUC] == pytest.approx(roc_auc_score(true.numpy(), scores.numpy()))
    assert tower.logged[AUC] > 0.9
    # Calibrated: over a mixture half true, probability and truth have the same mean.
    assert_close(probability[true].mean() + probability[~true].mean(), torch.tensor(1.0), rtol=0, atol=1e-3)
    assert probability[true].mean() > 0.75


def test_a_tower_that_tells_nothing_yet_is_not_calibrated():
    tower = learner("contrastive")
    batch = world(40)
    for track in batch.tracks.values():
        track.features.fill_(1.0)
    with torch.no_grad():
        tower.validation_step(batch, 0)
        tower.on_validation_epoch_end()
    assert tower.logged[AUC] == 0.5
    assert (tower.tower.temperature.item(), tower.tower.bias.item()) == (1.0, 0.0)


def test_validation_survives_scores_without_a_temperature(monkeypatch: pytest.MonkeyPatch):
    """False pairs that convince less often, but much more where they do."""
    scores = torch.tensor([0.0] * 20 + [-0.1] * 19 + [100.0])
    true = torch.arange(40) < 20
    monkeypatch.setattr("counterpoint.training.tower.scored_pairs", lambda *_: (scores, true))
    tower = learner("contrastive")
    tower.on_validation_epoch_end()
    assert tower.logged[AUC] == pytest.approx(0.95)
    assert tower.tower.temperature == 1.0


def test_large_scores_keep_their_order(monkeypatch: pytest.MonkeyPatch):
    """In single precision the logistic function of all of them is one."""
    rng = np.random.default_rng(0)
    true = torch.arange(60) < 20
    scores = torch.from_numpy(rng.normal(25, 1, 60).astype(np.float32)) + 0.5 * true
    monkeypatch.setattr("counterpoint.training.tower.scored_pairs", lambda *_: (scores, true))
    tower = learner("contrastive")
    tower.on_validation_epoch_end()
    assert tower.logged[AUC] == pytest.approx(roc_auc_score(true.numpy(), scores.numpy()))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("form", FORMS)
def test_pairs_do_not_give_themselves_away_by_their_length(form: str, family: str) -> None:
    """What lies behind the batch's shortest clip, and whether there is anything, makes no difference."""
    batch = world(6)
    mask = torch.arange(4) < torch.tensor([4, 2, 3, 0, 4, 4]).unsqueeze(1)
    cut = {
        "whole": {name: Track(track.features, mask) for name, track in batch.tracks.items()},
        "cut": {name: Track(track.features[:, :2], mask[:, :2]) for name, track in batch.tracks.items()},
    }
    model = learner(form, family=FAMILIES[family]).eval()
    losses = []
    for tracks in cut.values():
        torch.manual_seed(0)
        losses.append(model.loss(batch._replace(tracks=tracks)))
    assert_close(losses[0], losses[1])
    full = model.tower.embed(cut["whole"])
    assert not torch.allclose(full["video"][0], model.tower.embed(cut["cut"])["video"][0])
