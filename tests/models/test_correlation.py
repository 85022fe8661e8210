import math
from itertools import combinations, product

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.testing import assert_close

from counterpoint.data.tracks import Track
from counterpoint.errors import Error
from counterpoint.models.correlation import Constant, Contrastive, Joined, Tower, fit_calibration
from counterpoint.recipes import RECIPES

from .small import THREE, TWO, batch, build_tower, pick

NAMES = [f"correlation-{family}{form}" for family in ("nv", "tm", "rnn") for form in ("", "-joined")]
NAMES.append("correlation-mean")
every_tower = pytest.mark.parametrize("name", NAMES)
PAIR = ("audio", "video")


def close(one: Tensor, other: Tensor) -> None:
    assert_close(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["correlation-nv", "correlation-nv-joined"])
@pytest.mark.parametrize("sizes", [TWO, THREE], ids=len)
def test_scores_are_the_scores_of_all_pairs(name: str, sizes: dict[str, int]):
    tower = build_tower(name, sizes)
    ours = tower.embed(batch(sizes, clips=4, seed=0))
    theirs = tower.embed(batch(sizes, clips=3, seed=1))
    for pair in combinations(sorted(sizes), 2):
        one, other = ours[pair[0]], theirs[pair[1]]
        scores = tower.comparison.scores(pair, one, other)
        assert scores.shape == (4, 3)
        for i in range(4):
            for j in range(3):
                agreement = tower.comparison.agreement(pair, one[i], other[j])
                assert agreement.shape == (tower.comparison.size,)
                close(scores[i, j], tower.comparison.score(pair, agreement))


def test_contrastive_score_is_a_scaled_cosine():
    torch.manual_seed(0)
    comparison = Contrastive({"audio": 3, "video": 5}, 4).double()
    vectors = {"audio": torch.randn(6, 3).double(), "video": torch.randn(6, 5).double()}
    embeddings = {name: comparison.embed(name, vector) for name, vector in vectors.items()}
    for embedding in embeddings.values():
        close(embedding.norm(dim=1), torch.ones(6).double())
    for scale, expected in ((1.0, math.e), (9.0, 100.0)):
        torch.nn.init.constant_(comparison.log_scale, scale)
        cosine = torch.cosine_similarity(
            *(comparison.maps[name](vector) for name, vector in sorted(vectors.items())), dim=1
        )
        agreement = comparison.agreement(PAIR, *(embeddings[name] for name in PAIR))
        close(comparison.score(PAIR, agreement), expected * cosine)


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_a_constant_tower(probability: float):
    """The same probability for all clips, zero for those without sound."""
    tower = build_tower("correlation-constant", TWO)
    tower.comparison = Constant(probability)
    tracks = batch(TWO)
    tracks["audio"].mask[1] = False
    output = tower(tracks)
    assert_close(output.probability[PAIR], torch.tensor([probability, 0.0, probability, probability]).double())
    assert output.agreement[PAIR].shape == (4, tower.comparison.size)
    with pytest.raises(Error, match=r"from 0 to 1, not 1\.5"):
        Constant(1.5)


def test_joined_score_is_a_network_of_both():
    torch.manual_seed(0)
    comparison = Joined({"audio": 3, "video": 5}, 4).double()
    audio, video = torch.randn(6, 3).double(), torch.randn(6, 5).double()
    hidden = comparison.networks["audio_video"](torch.cat([audio, video], 1))
    close(comparison.agreement(PAIR, audio, video), hidden)
    close(comparison.score(PAIR, hidden), comparison.last["audio_video"](hidden).squeeze(1))
    root = video.square().mean(1, keepdim=True).add(1e-6).sqrt()
    close(comparison.embed("video", video), video / root)


@every_tower
@pytest.mark.parametrize("sizes", [TWO, THREE], ids=len)
def test_probability(name: str, sizes: dict[str, int]):
    """For each pair of modalities, the calibrated score; zero, as the agreement, where a clip lacks one."""
    tower = build_tower(name, sizes)
    tower.temperature.fill_(2.5)
    tower.bias.fill_(-0.3)
    tracks = batch(sizes, clips=4)
    whole = tower(tracks)
    tracks["audio"].mask[1] = False
    tracks["video"].mask[2] = False
    tracks["audio"].features[1] = tracks["video"].features[2] = torch.nan
    output = tower(tracks)
    assert set(output.probability) == set(output.agreement) == set(combinations(sorted(sizes), 2))
    for pair, probability in output.probability.items():
        there = tracks[pair[0]].mask.any(1) & tracks[pair[1]].mask.any(1)
        assert ((probability > 0) & (probability < 1)).tolist() == there.tolist()
        assert output.agreement[pair].any(1).tolist() == there.tolist()
        score = tower.comparison.score(pair, output.agreement[pair])
        close(probability[there], torch.sigmoid(score / 2.5 - 0.3)[there])
        close(probability[there], whole.probability[pair][there])


@every_tower
def test_embeddings_are_what_is_compared(name: str):
    tower, tracks = build_tower(name, TWO), batch(TWO)
    embeddings = tower.embed(tracks)
    agreement = tower.comparison.agreement(PAIR, embeddings["audio"], embeddings["video"])
    close(tower(tracks).agreement[PAIR], agreement)


@every_tower
def test_one_modality_never_moves_the_others_embedding(name: str):
    """A late-fusion trunk: what a clip's picture is compared by does not depend on its sound."""
    tower, tracks, others = build_tower(name, THREE), batch(THREE), batch(THREE, seed=1)
    close(tower.embed(tracks | {"audio": others["audio"]})["video"], tower.embed(tracks)["video"])


@every_tower
@pytest.mark.parametrize("codes", [False, True])
def test_per_second_is_the_tower_on_clips_of_a_second(name: str, codes: bool):
    tower, tracks = build_tower(name, THREE), batch(THREE, clips=2, steps=3, codes=codes, present=0.7)
    tracks["text"].mask[0, 1] = False
    by_second = tower.per_second(tracks)
    assert set(by_second) == set(combinations(sorted(THREE), 2))
    for clip in range(2):
        for step in range(3):
            second = {
                modality: Track(track.features[:, step : step + 1], track.mask[:, step : step + 1])
                for modality, track in pick(tracks, torch.tensor([clip])).items()
            }
            for pair, probability in tower(second).probability.items():
                close(by_second[pair][clip, step], probability[0])
                assert bool(probability > 0) == all(tracks[modality].mask[clip, step] for modality in pair)


@every_tower
def test_evidence_is_the_mean_odds_of_a_second_with_all_of_the_others(name: str):
    tower, tracks = build_tower(name, THREE), batch(THREE, clips=3, steps=3, present=0.7)
    tracks["text"].mask[1] = False
    evidence = tower(tracks, per_second=True).evidence
    assert evidence is not None
    assert evidence.keys() == set(THREE)
    assert tower(tracks).evidence is None

    one = torch.ones(1, 1, dtype=torch.bool)

    def embedded(clip: int, modality: str, second: int) -> Tensor:
        total, weights = torch.zeros(()), 0
        for other in range(3):
            if tracks[modality].mask[clip, other] and abs(other - second) <= 2:
                alone = batch(THREE, 1, 1) | {modality: Track(tracks[modality].features[clip, [other]][None], one)}
                total = total + (3 - abs(other - second)) * tower.embed(alone)[modality]
                weights += 3 - abs(other - second)
        return total / weights

    def odds(clip: int, pair: tuple[str, str], seconds: tuple[int, int]) -> float:
        both = (embedded(clip, modality, second) for modality, second in zip(pair, seconds, strict=True))
        score = tower.comparison.score(pair, tower.comparison.agreement(pair, *both))
        return float((score / tower.temperature + tower.bias).exp().detach())

    for clip, (modality, found) in product(range(3), evidence.items()):
        for step in range(3):
            logs = []
            for other in set(THREE) - {modality}:
                there = tracks[other].mask[clip].nonzero().flatten().tolist()
                pair = (min(modality, other), max(modality, other))
                both = [(step, second) if pair[0] == modality else (second, step) for second in there]
                if there and tracks[modality].mask[clip, step]:
                    logs.append(math.log(sum(odds(clip, pair, seconds) for seconds in both) / len(there)))
            close(found[clip, step], torch.tensor(sum(logs) / len(logs) if logs else 0.0, dtype=torch.float64))


def test_a_constant_tower_emphasizes_nothing():
    tracks = batch(TWO, present=0.7)
    recipe = RECIPES["mean-s"]
    tower = build_tower("correlation-constant", TWO)
    weighted = recipe.build(TWO, 4, tower).double().eval()
    plain = RECIPES["mean-mlp"].build(TWO, 4).double().eval()
    plain.load_state_dict({name: value for name, value in weighted.state_dict().items() if name in plain.state_dict()})
    close(weighted(tracks).logits, plain(tracks).logits)


def test_calibration_expects_what_is_there():
    """Over a mixture half true, as many as are true and the sum of their scores: the likelihood's two equations."""
    shares = {3.0: (90, 10), -1.0: (30, 70), 0.5: (80, 120)}
    score = torch.tensor([value for value, counts in shares.items() for _ in range(sum(counts))])
    true = torch.tensor([i < yes for yes, no in shares.values() for i in range(yes + no)])
    temperature, bias = fit_calibration(score, true)
    probability = torch.sigmoid(score / temperature + bias)
    assert_close(probability.sum(), true.sum().float(), rtol=1e-4, atol=0)
    assert_close((probability * score).sum(), score[true].sum(), rtol=1e-4, atol=0)


def test_calibration_recovers_a_temperature_and_bias():
    """Where the share of true pairs is sigmoid(score / 0.5 - 1), so is the probability, balance of the kinds aside."""
    values = torch.linspace(-1.0, 2.0, 13)
    yes = (torch.sigmoid(values / 0.5 - 1) * 100_000).round().long()
    count = torch.full_like(yes, 100_000)
    score = torch.cat([values.repeat_interleave(yes), values.repeat_interleave(count - yes)])
    true = torch.arange(len(score)) < yes.sum()
    odds = math.log(yes.sum() / (count - yes).sum())
    temperature, bias = fit_calibration(score, true)
    assert temperature == pytest.approx(0.5, rel=1e-3)
    assert bias == pytest.approx(-1 - odds, rel=1e-3)


@pytest.mark.parametrize("false", [1, 5])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_calibration_is_logistic_regression(false: int, scale: float):
    """Balanced: however many false pairs there are, either kind has half of the weight."""
    random = np.random.default_rng(0)
    true = np.arange(600) < 600 // (1 + false)
    score = (random.normal(true * 1.5 + 0.7, 1.0) * scale).astype(np.float32)
    temperature, bias = fit_calibration(torch.from_numpy(score), torch.from_numpy(true))
    regression = LogisticRegression(C=np.inf, class_weight="balanced", tol=1e-12, max_iter=10_000)
    regression.fit(score[:, None].astype(np.float64) / scale, true)
    assert scale / temperature == pytest.approx(regression.coef_.item(), abs=1e-4)
    assert bias == pytest.approx(regression.intercept_.item(), abs=1e-4)


def test_calibration_of_separable_scores_stays_finite():
    temperature, bias = fit_calibration(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([False, False, True, True]))
    probability = torch.sigmoid(torch.tensor([2.0, 3.0]) / temperature + bias)
    assert temperature > 0
    assert probability[0] < 0.01
    assert probability[1] > 0.99


def test_calibration_refuses_scores_that_tell_nothing():
    with pytest.raises(ValueError, match="do not separate true pairs from false ones"):
        fit_calibration(torch.tensor([2.0, 1.5, 1.0, 0.0]), torch.tensor([False, True, False, True]))


def test_calibration_never_moves_the_order():
    tower = build_tower("correlation-nv", TWO)
    assert isinstance(tower, Tower)
    score = torch.linspace(-3, 3, 50).double()
    before = tower.calibrated(score)
    tower.temperature.fill_(0.2)
    tower.bias.fill_(1.0)
    assert torch.equal(before.argsort(), tower.calibrated(score).argsort())
    assert tower.state_dict().keys() >= {"temperature", "bias"}
