"""How modalities meet: the five fusions of the paper, as what one modality hears of another's weights.

A layer adds to each modality's weights ``a_m`` what it hears of the others (Goyal et al., sections 2.2 to 2.4)::

    a_m + sum over s != m of F_sm(a_s)

============  ==========================================  =================================================
fusion        tracks                                      what a modality hears of another
============  ==========================================  =================================================
early         joined per step into one                    nothing: it has nobody to hear
late          separate                                    nothing
cross-modal   separate                                    F(weights)
gated         separate                                    F(weights) in clips that the tower calls correlated
concatenated  separate                                    F([weights, correlation])
self-modal    separate                                    nothing: F reads its own weights (a control, not the paper's)
============  ==========================================  =================================================

``F`` is a ReLU network along the last axis of the weights, the one they compete over. Without hidden layers it is a
ReLU-linear map, ``relu(W a + b)``; hidden layers are ReLU layers and the last one is then linear, so that hearing can
lower a weight as well as raise it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from counterpoint.models.maps import AxisMap, DenseMap, Nearby, RelativeMap

Start = Literal["zero", "identity"]
Told = Literal["probability", "agreement"]


class Correlation(NamedTuple):
    """What the correlation tower says of a batch, for each pair of modalities (names in alphabetical order)."""

    probability: dict[tuple[str, str], Float[Tensor, "batch"]]
    agreement: dict[tuple[str, str], Float[Tensor, "batch embedding"]]
    """What the probability is made from, for those who want more of the tower than one number."""

    def told(self, pair: tuple[str, str], what: Told) -> Float[Tensor, "batch context"]:
        """What CM-C concatenates."""
        return self.probability[pair].unsqueeze(-1) if what == "probability" else self.agreement[pair]


@runtime_checkable
class Weights(Protocol):
    """A tensor ``(batch, ..., competitor)``, or what multiplies with a matrix and selects clips like one."""

    @property
    def ndim(self) -> int: ...
    def __matmul__(self, other: Tensor, /) -> Tensor: ...
    def __getitem__(self, clips: Tensor, /) -> "Weights": ...


class Axis(NamedTuple):
    """What the weights of a modality compete over: clusters, or steps (of which a batch may have fewer)."""

    size: int
    steps: bool
    heads: int = 1


class Parts(NamedTuple):
    """What F is made of.

    Args:
        maps: applied one after the other, with ReLU between them (and after a single one).
        start: ``zero``: F begins near zero, the model as late fusion; ``identity``: F begins as the other modality's
            own weights (section 6: one modality's attention as the prior of the other). A single map should: its ReLU
            can fall silent near zero, and then never learns.
        heads: as in ``maps``.
        nearby: reads the weights first; without, as they are.
    """

    maps: Sequence[AxisMap]
    start: Start
    heads: int = 1
    nearby: Nearby | None = None


class Influence(nn.Module):
    """F: what a modality hears of another's weights (section 2).

    Args:
        context: how many numbers about the clip are concatenated with the weights (CM-C). A linear map of a
            concatenation is a sum of two maps, so they come in as a bias and the concatenation is never formed.
    """

    def __init__(self, parts: Parts, context: int = 0) -> None:
        super().__init__()
        maps, start, heads, nearby = parts
        self.maps = nn.ModuleList(maps)
        self.heads = heads
        self.nearby = nearby
        self.context = nn.Linear(context, heads * (maps[0].width or 1), bias=False) if context else None
        with torch.no_grad():
            for i, map_ in enumerate(maps):
                if start == "identity":
                    map_.weight.mul_(0.01)
                    if isinstance(map_, RelativeMap):
                        map_.weight[..., map_.reach] += 1.0
                    else:
                        map_.weight.add_(torch.eye(*map_.weight.shape[-2:]))
                elif i == len(maps) - 1:
                    map_.weight.mul_(0.01)
            if self.context is not None:
                self.context.weight.mul_(0.01)

    def forward(
        self, weights: Weights, inputs: int, outputs: int, context: Float[Tensor, "batch context"] | None
    ) -> Float[Tensor, "batch ... outputs"]:
        """What is heard of ``weights``, whose last axis has ``inputs`` entries, on an axis of ``outputs`` entries."""
        return self.ear(weights, inputs, outputs, context).heard()

    def ear(
        self, weights: Weights, inputs: int, outputs: int, context: Float[Tensor, "batch context"] | None
    ) -> "Hearing":
        """The same, ready to be heard: not yet computed."""
        maps: Sequence[AxisMap] = self.maps  # type: ignore[assignment]
        if self.nearby is not None:
            weights = self.nearby(weights)
        widths = [outputs]
        for map_ in reversed(maps[1:]):
            widths.insert(0, map_.reads(widths[0]))
        layers = [map_.matrix(*between) for map_, between in zip(maps, pairwise([inputs, *widths]), strict=True)]
        told = None
        if self.context is not None:
            told = self.context(context)
            told = told.view(len(told), self.heads, *(1,) * (weights.ndim - 3), -1)[..., : layers[0][1].shape[-1]]
        return Hearing(weights, layers, told)

    def hearing(
        self, weights: Weights, inputs: int, outputs: int, correlation: Correlation | None, pair: tuple[str, str]
    ) -> "Hearing":
        """An ear for ``weights``; ``pair`` names the two modalities to the tower."""
        return self.ear(weights, inputs, outputs, None)


@dataclass(frozen=True)
class Hearing:
    """One modality's ear for one other: F, what F reads, and in which clips it listens."""

    weights: Weights
    layers: Sequence[tuple[Tensor, Tensor]]
    """F's matrices and biases."""
    told: Float[Tensor, "batch ... width"] | None
    """What the tower's word adds to the first bias."""
    open: Bool[Tensor, "batch"] | None = None
    """None: in every clip."""

    def heard(self) -> Float[Tensor, "batch ... outputs"]:
        """F of the weights; zeros in the clips where it does not listen."""
        heard: Weights = self.weights
        for i, (matrix, bias) in enumerate(self.layers):
            heard = heard @ matrix + (bias if i or self.told is None else bias + self.told)
            # In place, since the sum is in nobody else's hands.
            heard = heard.relu_() if i < len(self.layers) - 1 or len(self.layers) == 1 else heard
        assert isinstance(heard, Tensor)
        if self.open is None:
            return heard
        return torch.where(self.open.view(-1, *(1,) * (heard.ndim - 1)), heard, 0.0)

    def __getitem__(self, clips: Tensor) -> "Hearing":
        """The same for the clips of an index, with no gate if it is open in all of them."""
        told = None if self.told is None else self.told[clips]
        gate = None if self.open is None or self.open[clips].all() else self.open[clips]
        return replace(self, weights=self.weights[clips], told=told, open=gate)


class GatedInfluence(Influence):
    """F, heard only in clips that the tower calls correlated (CM-G, section 2.5)."""

    def __init__(self, parts: Parts, threshold: float) -> None:
        super().__init__(parts)
        self.threshold = threshold

    def hearing(
        self, weights: Weights, inputs: int, outputs: int, correlation: Correlation | None, pair: tuple[str, str]
    ) -> Hearing:
        assert correlation is not None, "a gated influence needs a correlation tower"
        gate = correlation.probability[pair] >= self.threshold
        return replace(self.ear(weights, inputs, outputs, None), open=gate)


class ConcatenatedInfluence(Influence):
    """F of the weights and of what the tower says, concatenated (CM-C, section 2.5)."""

    def __init__(self, parts: Parts, told: Told, context: int) -> None:
        super().__init__(parts, context)
        self.told = told

    def hearing(
        self, weights: Weights, inputs: int, outputs: int, correlation: Correlation | None, pair: tuple[str, str]
    ) -> Hearing:
        assert correlation is not None, "a concatenated influence needs a correlation tower"
        return self.ear(weights, inputs, outputs, correlation.told(pair, self.told))


class Heard:
    """Everything one modality hears of the others, computed when and for the clips it is asked for.

    Deferred, because a Transformer's logits are too large to hold for a whole batch.
    """

    def __init__(self, hearings: Sequence[Hearing]) -> None:
        self.hearings = hearings

    def listeners(self, batch: int, device: torch.device) -> Bool[Tensor, "batch"]:
        """The clips in which anything is heard at all."""
        listening = torch.zeros(batch, dtype=torch.bool, device=device)
        for hearing in self.hearings:
            listening |= True if hearing.open is None else hearing.open
        return listening

    def added_to(self, weights: Tensor) -> Tensor:
        """``weights`` plus the sum of F over all others; unchanged where gates are shut."""
        for hearing in self.hearings:
            weights = weights + hearing.heard()
        return weights

    def __getitem__(self, clips: Tensor) -> "Heard":
        """What is heard in the clips of an index."""
        return Heard([hearing[clips] for hearing in self.hearings])


class Inlet(nn.Module):
    """The second reading of CM-C: the correlation concatenated with a modality's own input of the layer.

    What a concatenation adds to any linear map of the features is a linear map of the correlation, so that is added to
    the features, and their size stays.
    """

    def __init__(self, size: int, told: Told, context: int) -> None:
        super().__init__()
        self.told = told
        self.map = nn.Linear(context, size, bias=False)

    def forward(self, correlation: Correlation, pair: tuple[str, str]) -> Float[Tensor, "batch 1 feature"]:
        told: Tensor = self.map(correlation.told(pair, self.told))
        return told.unsqueeze(1)


@dataclass(frozen=True, kw_only=True)
class Early:
    """E: features joined per step, then one tower."""

    joined: ClassVar[bool] = True
    tower: ClassVar[bool] = False
    itself: ClassVar[bool] = False
    """Whether F reads the modality's own weights instead of the others'."""

    def influence(self, source: Axis, target: Axis, context: int) -> Influence | None:
        """Nobody hears anybody."""
        return None

    def inlet(self, size: int, context: int) -> Inlet | None:
        """Nor is anything told to a layer's input."""
        return None

    def context(self, agreement: int) -> int:
        """How many numbers of the tower, whose agreements have this size, come in."""
        return 0


@dataclass(frozen=True, kw_only=True)
class Late(Early):
    """L: one tower per modality, outputs joined in a deep network."""

    joined: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class CrossModal(Late):
    """CM: late, with F between the towers' weights.

    Args:
        hidden: widths of F's hidden layers; none: one ReLU-linear map. With ``reach`` only their number counts.
        start: see `Influence`.
        reach: hear this many seconds to either side. Along steps F then is tied to no length; where weights compete at
            each step (NetVLAD), F without a reach hears the other's same step alone.
    """

    hidden: tuple[int, ...] = ()
    start: Start = "zero"
    reach: int | None = None

    def parts(self, source: Axis, target: Axis) -> Parts:
        maps: list[AxisMap]
        if self.reach is not None and source.steps:
            maps = [RelativeMap(self.reach, source.heads) for _ in range(len(self.hidden) + 1)]
            return Parts(maps, self.start, source.heads)
        widths = [source.size, *self.hidden, target.size]
        maps = [DenseMap(inputs, outputs, source.heads) for inputs, outputs in pairwise(widths)]
        return Parts(maps, self.start, source.heads, None if self.reach is None else Nearby(self.reach))

    def influence(self, source: Axis, target: Axis, context: int) -> Influence | None:
        return Influence(self.parts(source, target))


@dataclass(frozen=True, kw_only=True)
class SelfModal(CrossModal):
    """CM whose modalities each hear themselves: all that F brings, and nothing of another modality."""

    itself: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class Gated(CrossModal):
    """CM-G: F is heard where the tower's probability is at least ``threshold``."""

    tower: ClassVar[bool] = True
    threshold: float = 0.5

    def influence(self, source: Axis, target: Axis, context: int) -> Influence | None:
        return GatedInfluence(self.parts(source, target), self.threshold)


@dataclass(frozen=True, kw_only=True)
class Concatenated(CrossModal):
    """CM-C: what the tower says is one more input, of F (``into="influence"``) or of the layer (``into="input"``)."""

    tower: ClassVar[bool] = True
    told: Told = "probability"
    into: Literal["influence", "input"] = "influence"

    def influence(self, source: Axis, target: Axis, context: int) -> Influence | None:
        parts = self.parts(source, target)
        return Influence(parts) if self.into == "input" else ConcatenatedInfluence(parts, self.told, context)

    def inlet(self, size: int, context: int) -> Inlet | None:
        return Inlet(size, self.told, context) if self.into == "input" else None

    def context(self, agreement: int) -> int:
        return 1 if self.told == "probability" else agreement


Fusion = Early | Late | CrossModal | SelfModal | Gated | Concatenated
