"""The correlation tower: do this picture and this sound belong together (Goyal et al., section 3)?

    y'(f_v, f_a) = sigmoid(score(e_v, e_a) / temperature + bias),    e_m = trunk(f_m)

The trunk is a late-fusion trunk of the categorizer's own family. Two ways to compare the modalities' vectors:

joined       the paper's: a deep network over both vectors, one output
contrastive  the paper's future work: an embedding per modality, the score is their scaled cosine

and, as a control, one that compares nothing.

Temperature and bias are fitted after training on validation pairs, half of them true, so that the probability is
calibrated and a gate's threshold of 0.5 is "more likely together than not" on such a mixture.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import torch
import torch.nn.functional as functional
from jaxtyping import Bool, Float
from torch import Tensor, nn

from counterpoint.data.tracks import Track, Tracks
from counterpoint.errors import Error
from counterpoint.fields import bounded
from counterpoint.models.categorizer import Trunk
from counterpoint.models.fusion import Correlation

Pair = tuple[str, str]
WINDOW = 2
"""Seconds on each side of a second that its embedding is averaged over."""


class Comparison(nn.Module):
    """How a tower compares the vectors of two modalities; leading axes broadcast."""

    size: int
    """Features of an agreement."""
    contrastive: ClassVar[bool] = False
    """Whether it learns from all pairs of clips of a batch at once (InfoNCE), rather than from chosen ones."""

    def embed(self, name: str, vector: Float[Tensor, "batch feature"]) -> Float[Tensor, "batch embedding"]:
        """A modality's vector as it is compared."""
        raise NotImplementedError

    def agreement(self, pair: Pair, one: Tensor, other: Tensor) -> Float[Tensor, "... agreement"]:
        """The vector that the score is computed from."""
        raise NotImplementedError

    def score(self, pair: Pair, agreement: Float[Tensor, "... agreement"]) -> Float[Tensor, "..."]:
        """The raw score; higher is more likely together."""
        raise NotImplementedError

    def scores(self, pair: Pair, one: Tensor, other: Tensor) -> Float[Tensor, "... one other"]:
        """Every vector of ``one`` against every vector of ``other``; leading axes are shared."""
        return self.score(pair, self.agreement(pair, one.unsqueeze(-2), other.unsqueeze(-3)))


class Joined(Comparison):
    """A deep network over both vectors (Fig. 5), one for each pair of modalities."""

    def __init__(self, sizes: dict[str, int], hidden: int) -> None:
        super().__init__()
        self.size = hidden
        self.networks = nn.ModuleDict(
            {
                "_".join(pair): nn.Sequential(nn.Linear(sizes[pair[0]] + sizes[pair[1]], hidden), nn.ReLU())
                for pair in combinations(sorted(sizes), 2)
            }
        )
        self.last = nn.ModuleDict({name: nn.Linear(hidden, 1) for name in self.networks})

    def embed(self, name: str, vector: Tensor) -> Tensor:
        return functional.rms_norm(vector, vector.shape[-1:], eps=1e-6)

    def agreement(self, pair: Pair, one: Tensor, other: Tensor) -> Tensor:
        leading = torch.broadcast_shapes(one.shape[:-1], other.shape[:-1])
        both = torch.cat([one.expand(*leading, -1), other.expand(*leading, -1)], -1)
        return self.networks["_".join(pair)](both)  # type: ignore[no-any-return]

    def score(self, pair: Pair, agreement: Tensor) -> Tensor:
        scored: Tensor = self.last["_".join(pair)](agreement)
        return scored.squeeze(-1)


class Contrastive(Comparison):
    """An embedding of unit length for each modality; the score is their cosine, scaled by a learned factor."""

    contrastive = True

    def __init__(self, sizes: dict[str, int], embedding: int, dropout: float = 0.0, hidden: int = 0) -> None:
        super().__init__()
        self.size = embedding
        self.maps = nn.ModuleDict(
            {
                name: nn.Sequential(
                    *((nn.Linear(size, hidden), nn.LayerNorm(hidden)) if hidden else ()),
                    *(nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden or size, embedding)),
                )
                for name, size in sizes.items()
            }
        )
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))

    def embed(self, name: str, vector: Tensor) -> Tensor:
        return functional.normalize(self.maps[name](vector), dim=-1, eps=1e-6)

    def agreement(self, pair: Pair, one: Tensor, other: Tensor) -> Tensor:
        # Scaled so that an entry's size does not depend on the number of features.
        return one * other * self.size

    def score(self, pair: Pair, agreement: Tensor) -> Tensor:
        return agreement.mean(-1) * self._scale()

    def scores(self, pair: Pair, one: Tensor, other: Tensor) -> Tensor:
        return one @ other.mT * self._scale()

    def _scale(self) -> Tensor:
        return self.log_scale.clamp_max(math.log(100.0)).exp()


class Constant(Comparison):
    """No comparison, but the same probability for every clip: a control.

    Raises:
        Error: the probability is not from 0 to 1.
    """

    size = 1

    def __init__(self, probability: float) -> None:
        super().__init__()
        if not 0 <= probability <= 1:
            raise Error(f"a tower's constant probability is from 0 to 1, not {probability}")
        certain = math.copysign(1000.0, probability - 0.5)  # whose sigmoid is 0 or 1
        self.logit = math.log(probability / (1 - probability)) if 0 < probability < 1 else certain

    def embed(self, name: str, vector: Tensor) -> Tensor:
        return vector

    def agreement(self, pair: Pair, one: Tensor, other: Tensor) -> Tensor:
        return one.new_ones(*torch.broadcast_shapes(one.shape[:-1], other.shape[:-1]), 1)

    def score(self, pair: Pair, agreement: Tensor) -> Tensor:
        return torch.full_like(agreement[..., 0], self.logit)


@dataclass(frozen=True, kw_only=True)
class ComparisonConfig(ABC):
    """How a tower compares, as plain data."""

    label: ClassVar[str] = ""
    """For tables."""

    @abstractmethod
    def build(self, sizes: dict[str, int]) -> Comparison:
        """The untrained comparison of vectors of these sizes by modality."""


@dataclass(frozen=True, kw_only=True)
class JoinedConfig(ComparisonConfig):
    """The paper's comparison: a deep network over both modalities' vectors.

    Args:
        hidden: its hidden features.
    """

    label: ClassVar[str] = "joined"
    hidden: int = 512

    def build(self, sizes: dict[str, int]) -> Comparison:
        return Joined(sizes, self.hidden)


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig(ComparisonConfig):
    """An embedding for each modality and their cosine.

    Args:
        embedding: its features.
        dropout: the share of a vector's features that are dropped before it, in training.
        hidden: hidden features between a vector and its embedding; 0: none.
    """

    label: ClassVar[str] = "contrastive"
    embedding: int = 256
    dropout: float = bounded(0.5, 0, 1)
    hidden: int = bounded(0, 0, 1_000_000)

    def build(self, sizes: dict[str, int]) -> Comparison:
        return Contrastive(sizes, self.embedding, self.dropout, self.hidden)


@dataclass(frozen=True, kw_only=True)
class ConstantConfig(ComparisonConfig):
    """No comparison: the same probability for every clip.

    Args:
        probability: of every clip.
    """

    label: ClassVar[str] = "constant"
    probability: float = bounded(0.5, 0, 1)

    def build(self, sizes: dict[str, int]) -> Comparison:
        return Constant(self.probability)


class Tower(nn.Module):
    """The probability that modalities of a clip are from one video, for every pair of them."""

    temperature: Tensor
    bias: Tensor

    def __init__(self, trunk: Trunk, comparison: Comparison) -> None:
        super().__init__()
        self.trunk = trunk
        self.comparison = comparison
        self.register_buffer("temperature", torch.ones(()))
        self.register_buffer("bias", torch.zeros(()))

    def embed(self, tracks: Tracks) -> dict[str, Float[Tensor, "batch embedding"]]:
        """Each modality's vector, as the comparison reads it."""
        vectors, _ = self.trunk(tracks)
        return {name: self.comparison.embed(name, vector) for name, vector in vectors.items()}

    def forward(self, tracks: Tracks, per_second: bool = False) -> Correlation:
        """The calibrated probability that the modalities belong together; 0 where a clip lacks one of them.

        Args:
            per_second: also give the `evidence` of each second.
        """
        embeddings = self.embed(tracks)
        present = {name: track.mask.any(1) for name, track in tracks.items()}
        probability, agreement = {}, {}
        for pair in combinations(sorted(embeddings), 2):
            both = present[pair[0]] & present[pair[1]]
            agreement[pair] = self.comparison.agreement(pair, *(embeddings[name] for name in pair))
            score = self.comparison.score(pair, agreement[pair])
            probability[pair] = self.calibrated(score).masked_fill(~both, 0.0)
            agreement[pair] = agreement[pair].masked_fill(~both.unsqueeze(-1), 0.0)
        return Correlation(probability, agreement, self.evidence(tracks) if per_second else None)

    def evidence(self, tracks: Tracks) -> dict[str, Float[Tensor, "batch step"]]:
        """How well each second of a modality goes with all seconds of the others, whenever they are.

        It is the log of the mean, over the other modality's seconds, of the odds that two seconds are from one video,
        where each second is embedded by itself and then averaged with its neighbours' embeddings (`near`): what goes on
        for some seconds in both modalities counts, and not what two seconds have in common by chance. With several
        other modalities, it is their mean. 0 where there is nothing to compare.
        """
        names = sorted(tracks)
        embeddings = self.embed(_seconds(tracks))
        embedded = {
            name: near(embeddings[name].unflatten(0, tracks[name].mask.shape), tracks[name].mask) for name in names
        }
        found = {name: torch.zeros_like(tracks[name].mask, dtype=embedded[name].dtype) for name in names}
        others = {name: torch.zeros_like(tracks[name].mask[:, :1], dtype=embedded[name].dtype) for name in names}
        for pair in combinations(names, 2):
            logits = self.comparison.scores(pair, *(embedded[name] for name in pair)) / self.temperature + self.bias
            for (name, other), by_second in zip((pair, pair[::-1]), (logits, logits.mT), strict=True):
                mask = tracks[other].mask
                floor = torch.finfo(by_second.dtype).min
                total = by_second.masked_fill(~mask.unsqueeze(1), floor).logsumexp(-1)
                present = mask.any(1, keepdim=True)
                count = mask.sum(1, keepdim=True).clamp_min(1).to(total)
                found[name] = found[name] + torch.where(present, total - count.log(), 0)
                others[name] = others[name] + present
        return {name: found[name] / others[name].clamp_min(1) * tracks[name].mask for name in names}

    def calibrated(self, score: Tensor) -> Tensor:
        """The probability of a raw score."""
        return (score / self.temperature + self.bias).sigmoid()

    def per_second(self, tracks: Tracks) -> dict[Pair, Float[Tensor, "batch step"]]:
        """The correlation of each second's picture with that second's sound; 0 where either is missing."""
        shape = next(iter(tracks.values())).mask.shape
        return {pair: probability.view(shape) for pair, probability in self(_seconds(tracks)).probability.items()}


def near(
    vectors: Float[Tensor, "batch step feature"], mask: Bool[Tensor, "batch step"]
) -> Float[Tensor, "batch step feature"]:
    """Each step's mean over the steps around it, the nearer the more: of two on each side, weights 1, 2, 3, 2, 1.

    >>> near(torch.tensor([[[3.0], [0.0], [6.0]]]), torch.ones(1, 3, dtype=torch.bool)).flatten().tolist()
    [2.5, 2.5714285373687744, 3.5]
    """
    there = mask.unsqueeze(-1).to(vectors)
    padded = functional.pad(torch.cat([vectors * there, there], -1), (0, 0, WINDOW, WINDOW))
    steps = mask.shape[1]
    total = sum(
        (WINDOW + 1 - abs(offset)) * padded[:, WINDOW + offset : WINDOW + offset + steps]
        for offset in range(-WINDOW, WINDOW + 1)
    )
    assert isinstance(total, Tensor)
    return total[..., :-1] / total[..., -1:].clamp_min(1) * there


def _seconds(tracks: Tracks) -> Tracks:
    """Each second as a clip of its own."""
    return {
        name: Track(track.features.flatten(0, 1).unsqueeze(1), track.mask.flatten().unsqueeze(1))
        for name, track in tracks.items()
    }


def centred(score: Float[Tensor, "pair"]) -> tuple[float, float]:
    """Temperature and bias for scores without meaning: their standard deviation is one, and half are positive.

    >>> centred(torch.tensor([1.0, 2.0, 3.0]))
    (1.0, -2.0)
    """
    std = score.double().std().item()
    if not std:
        raise ValueError("the tower's scores are all the same")
    return std, -score.double().median().item() / std


def fit_calibration(score: Float[Tensor, "pair"], true: Bool[Tensor, "pair"]) -> tuple[float, float]:
    """Temperature and bias (Platt scaling) for scores of true and false pairs, each kind with half of the weight.

    >>> score = torch.cat([torch.full((80,), 2.0), torch.zeros(20), torch.zeros(80), torch.full((20,), 2.0)])
    >>> temperature, bias = fit_calibration(score, torch.arange(200) < 100)
    >>> print(f"{torch.tensor(2.0 / temperature + bias).sigmoid():.3f} {torch.tensor(bias).sigmoid():.3f}")
    0.800 0.200
    """
    truth = true.double()
    weight = torch.where(true, 0.5 / true.sum(), 0.5 / (~true).sum())
    centre, std = score.double().mean(), score.double().std().clamp_min(1e-12)
    inputs = torch.stack([(score.double() - centre) / std, torch.ones_like(truth)], 1)
    parameters = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([parameters], max_iter=200, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = functional.binary_cross_entropy_with_logits(inputs @ parameters, truth, weight, reduction="sum")
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    slope, bias = (parameters[0] / std).item(), (parameters[1] - parameters[0] * centre / std).item()
    if slope <= 0:
        raise ValueError("the tower's scores do not separate true pairs from false ones, so they cannot be calibrated")
    return 1 / slope, bias
