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

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from counterpoint.data.tracks import Track, Tracks

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


class AxisMap(nn.Module):
    """A linear map along the last axis, one for each of ``heads`` (the second axis of the weights, if above 1)."""

    weight: nn.Parameter
    bias: nn.Parameter
    width: int | None
    """The size of the axis that comes out; None: whatever is asked for."""

    def reads(self, outputs: int) -> int:
        """How many entries a hidden axis must have for ``outputs`` entries behind it."""
        raise NotImplementedError

    def matrix(self, inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
        """``W`` (..., inputs, outputs) and a bias that broadcasts with what it multiplies."""
        raise NotImplementedError


class DenseMap(AxisMap):
    """A map with a parameter for each pair of entries.

    The axis may be shorter than the map, as steps are in batches of short clips: an absent entry counts as zero.
    """

    def __init__(self, inputs: int, outputs: int, heads: int = 1) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        shape = (heads, 1) if heads > 1 else ()
        self.width = outputs
        self.weight = nn.Parameter(torch.empty(*shape[:1], inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(*shape, outputs))

    def reads(self, outputs: int) -> int:
        return self.weight.shape[-2]

    def matrix(self, inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
        """See the base class.

        Raises:
            ValueError: the axis is longer than the map.
        """
        for asked, known in zip((inputs, outputs), self.weight.shape[-2:], strict=True):
            if asked > known:
                raise ValueError(
                    f"a clip of {asked} steps is longer than the {known} that this model's influence knows: cut the "
                    "clips (max_steps) or train with a relative influence (reach)"
                )
        return self.weight[..., :inputs, :outputs], self.bias[..., :outputs]


class RelativeMap(AxisMap):
    """A map along steps that knows only how far apart two steps are: ``W[s, t] = w[t - s]``.

    It is tied to no length, and a shift in time, the paper's example of what F should learn (Fig. 1), is one entry of
    ``w``. Steps further apart than ``reach`` do not hear each other.

    Two axes of different length share their middle. A hidden axis goes on beyond both ends as far as the next map
    reaches: cut off where the batch ends, it would let a clip hear how far the batch is padded.
    """

    def __init__(self, reach: int, heads: int = 1) -> None:
        super().__init__()
        bound = 1 / math.sqrt(2 * reach + 1)
        shape = (heads, 1) if heads > 1 else ()
        self.width = None
        self.reach = reach
        self.weight = nn.Parameter(torch.empty(*shape[:1], 2 * reach + 1).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(*shape, 1))

    def reads(self, outputs: int) -> int:
        return outputs + 2 * self.reach

    def matrix(self, inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
        return by_distance(self.weight, inputs, outputs), self.bias


def by_distance(kernel: Float[Tensor, "... distance"], inputs: int, outputs: int) -> Tensor:
    """``W[s, t] = kernel[t - s]`` (..., inputs, outputs), zero beyond the kernel, the axes' middles aligned."""
    reach = kernel.shape[-1] // 2
    distance = torch.arange(outputs, device=kernel.device) - torch.arange(inputs, device=kernel.device).unsqueeze(1)
    distance -= (outputs - inputs) // 2
    return kernel[..., distance.clamp(-reach, reach) + reach].masked_fill(distance.abs() > reach, 0.0)


class Nearby(nn.Module):
    """What F reads where weights compete at each step, as NetVLAD's clusters do: the other's steps around it, mixed.

    One number for each distance in time, the same at every step and for every competitor. It begins as the step itself,
    which is the paper's form (section 2.4).
    """

    def __init__(self, reach: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2 * reach + 1))
        with torch.no_grad():
            self.weight[reach] = 1.0

    def forward(self, weights: Float[Tensor, "*batch step competitor"]) -> Float[Tensor, "*batch step competitor"]:
        steps = weights.shape[-2]
        return (weights.mT @ by_distance(self.weight, steps, steps)).mT


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
    ) -> "LazyInfluence":
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
        return LazyInfluence(weights, layers, told)

    def hearing(
        self, weights: Weights, inputs: int, outputs: int, correlation: Correlation | None, pair: tuple[str, str]
    ) -> "LazyInfluence":
        """An ear for ``weights``; ``pair`` names the two modalities to the tower."""
        return self.ear(weights, inputs, outputs, None)


@dataclass(frozen=True)
class LazyInfluence:
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

    def __getitem__(self, clips: Tensor) -> "LazyInfluence":
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
    ) -> LazyInfluence:
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
    ) -> LazyInfluence:
        assert correlation is not None, "a concatenated influence needs a correlation tower"
        return self.ear(weights, inputs, outputs, correlation.told(pair, self.told))


class Influences:
    """Everything one modality hears of the others, computed when and for the clips it is asked for.

    Deferred, because a Transformer's logits are too large to hold for a whole batch.
    """

    def __init__(self, hearings: Sequence[LazyInfluence]) -> None:
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

    def __getitem__(self, clips: Tensor) -> "Influences":
        """What is heard in the clips of an index."""
        return Influences([hearing[clips] for hearing in self.hearings])


class InputConditioning(nn.Module):
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

    def conditioning(self, size: int, context: int) -> InputConditioning | None:
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

    def conditioning(self, size: int, context: int) -> InputConditioning | None:
        return InputConditioning(size, self.told, context) if self.into == "input" else None

    def context(self, agreement: int) -> int:
        return 1 if self.told == "probability" else agreement


Fusion = Early | Late | CrossModal | SelfModal | Gated | Concatenated


class AttentionMaps(NamedTuple):
    """One modality's weights in one layer, for people to look at. The last axis is the one they compete over."""

    before: Float[Tensor, "batch ... competitor"]
    influence: Float[Tensor, "batch ... competitor"]
    after: Float[Tensor, "batch ... competitor"]


class AttentionModule(nn.Module):
    """One modality's part of a layer."""

    inputs: int
    """Features of the track that goes in."""
    outputs: int
    """Features of the track that ``aggregate`` gives."""
    axis: Axis
    row: ClassVar[str] = "row"
    """The name of one row of weights, for pictures: a cluster, an attention unit, a head."""
    influence_label: ClassVar[str] = "influence"
    """What F is added to, for pictures."""

    def weights(self, track: Track) -> Weights:
        """The weights, zero where the track has no step, so that padding cannot be heard."""
        raise NotImplementedError

    def aggregate(self, track: Track, weights: Weights, influence: Influences) -> Track:
        """The track combined by its weights and what it heard; of one step, where the layer sums the steps up."""
        raise NotImplementedError

    def attention_maps(self, track: Track, weights: Weights, influence: Influences) -> AttentionMaps:
        """The weights before and after hearing, which ``aggregate`` need not form as a whole."""
        raise NotImplementedError

    def time_profile(
        self, weights: Float[Tensor, "... competitor"], present: Bool[Tensor, "step"]
    ) -> Float[Tensor, "row step"]:
        """One clip's weights, as `show` gives them, with time along the last axis, for a picture.

        Args:
            present: the steps that the clip has.
        """
        raise NotImplementedError


class Layer(nn.Module):
    """What a trunk is made of."""

    def forward(
        self, tracks: Tracks, correlation: Correlation | None, return_attention: bool = False
    ) -> tuple[Tracks, dict[str, AttentionMaps]]:
        """The combined tracks and, if asked to ``return_attention`` them, the weights by modality."""
        raise NotImplementedError

    def attention(self, name: str) -> AttentionModule:
        """Whose weights are shown for a modality."""
        raise NotImplementedError


class CrossModalLayer(Layer):
    """Weigh, hear, combine: one layer of section 2, for any number of modalities, each hearing all others.

    Args:
        weighers: by modality.
        fusion: what they hear of each other.
        context: how many numbers the tower tells of a pair of modalities (CM-C).
    """

    def __init__(self, attention_modules: Mapping[str, AttentionModule], fusion: Fusion, context: int = 0) -> None:
        super().__init__()
        self.attention_modules = nn.ModuleDict(attention_modules)
        influences: dict[str, Influence] = {}
        conditionings: dict[str, InputConditioning] = {}
        for source, target in (
            (s, t) for s in attention_modules for t in attention_modules if (s == t) == fusion.itself
        ):
            if influence := fusion.influence(attention_modules[source].axis, attention_modules[target].axis, context):
                influences[_key(source, target)] = influence
            if conditioning := fusion.conditioning(attention_modules[target].inputs, context):
                conditionings[_key(source, target)] = conditioning
        self.influences = nn.ModuleDict(influences)
        self.conditionings = nn.ModuleDict(conditionings)

    def forward(
        self, tracks: Tracks, correlation: Correlation | None, return_attention: bool = False
    ) -> tuple[Tracks, dict[str, AttentionMaps]]:
        attention_modules: Mapping[str, AttentionModule] = self.attention_modules  # type: ignore[assignment]
        tracks = {name: self._tell(name, track, correlation) for name, track in tracks.items()}
        weights = {name: attention_modules[name].weights(track) for name, track in tracks.items()}
        heard = {name: self._hear(name, tracks, weights, correlation) for name in tracks}
        combined = {
            name: attention_modules[name].aggregate(track, weights[name], heard[name]) for name, track in tracks.items()
        }
        if not return_attention:
            return combined, {}
        return combined, {
            name: attention_modules[name].attention_maps(track, weights[name], heard[name])
            for name, track in tracks.items()
        }

    def attention(self, name: str) -> AttentionModule:
        return self.attention_modules[name]  # type: ignore[return-value]

    def _tell(self, target: str, track: Track, correlation: Correlation | None) -> Track:
        features = track.features
        for source in self.attention_modules:
            if (key := _key(source, target)) in self.conditionings:
                assert correlation is not None, "this layer's input needs a correlation tower"
                features = features + self.conditionings[key](correlation, pair(source, target))
        return Track(features, track.mask)

    def _hear(
        self, target: str, tracks: Tracks, weights: Mapping[str, Weights], correlation: Correlation | None
    ) -> Influences:
        axes: Mapping[str, Axis] = {name: self.attention_modules[name].axis for name in tracks}  # type: ignore[misc]
        entries = {name: tracks[name].mask.shape[1] if axis.steps else axis.size for name, axis in axes.items()}
        hearings = []
        for source in tracks:
            if (key := _key(source, target)) in self.influences:
                influence: Influence = self.influences[key]  # type: ignore[assignment]
                hearings.append(
                    influence.hearing(
                        weights[source], entries[source], entries[target], correlation, pair(source, target)
                    )
                )
        return Influences(hearings)


def _key(source: str, target: str) -> str:
    return f"{source}_to_{target}"


def pair(one: str, other: str) -> tuple[str, str]:
    """How the tower names two modalities: in alphabetical order."""
    return (min(one, other), max(one, other))
