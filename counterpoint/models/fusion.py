"""How modalities meet: F, the influence of one modality's attention on another's, and the fusions that use it.

A layer gives each modality weights ``a_m``: soft assignments, attention, attention logits. Cross-modal fusion adds to
them a function F of the other modalities' weights before they aggregate the features (Goyal et al., sections 2.2 to
2.4)::

    a_m + sum over s != m of F_sm(a_s)

============  ==========================================  =================================================
fusion        tracks                                      influence of modality s on modality m
============  ==========================================  =================================================
early         joined per step into one                    none: there is one track
late          separate                                    none
cross-modal   separate                                    F(a_s)
gated         separate                                    F(a_s) in clips that the tower calls correlated
concatenated  separate                                    F([a_s, correlation])
self-modal    separate                                    F(a_m) of its own weights (a control, not the paper's)
============  ==========================================  =================================================

Each may also be ``per_second``: the tower compares every second of a modality with all seconds of the others, and where
they belong together attention looks more. The paper's tower gives one number a clip (section 3); this one gives a
`Correlation.evidence` for each second.

``F`` is a ReLU network along the last axis of the weights, the one they compete over. Without hidden layers it is a
ReLU-linear map, ``relu(W a + b)``; hidden layers are ReLU layers and the last one is then linear, so that F can lower a
weight as well as raise it.

The file reads from top to bottom: what the correlation tower gives, F's maps, F, F of a batch that is not yet computed,
the fusions as plain data, attention modules and layers. A fusion of your own is a subclass of `Fusion`.
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
from counterpoint.fields import MANY, bounded
from counterpoint.models.exported import first_entries

Start = Literal["zero", "identity"]
Context = Literal["probability", "agreement"]
"""The part of the tower's output that CM-C concatenates."""
JOINED = "joined"
"""The name of early fusion's single track."""


# --- the correlation tower's output -----------------------------------------------------------------------------------


class Correlation(NamedTuple):
    """The correlation tower's output for a batch, by pair of modalities (names in alphabetical order)."""

    probability: dict[tuple[str, str], Float[Tensor, "batch"]]
    agreement: dict[tuple[str, str], Float[Tensor, "batch embedding"]]
    """The vector that the probability is computed from."""
    evidence: Mapping[str, Float[Tensor, "batch step"]] | None = None
    """By modality, how well each second goes with the other modalities; only where a fusion is ``per_second``."""

    def context(self, pair: tuple[str, str], kind: Context) -> Float[Tensor, "batch context"]:
        """The numbers that CM-C concatenates (section 2.5)."""
        return self.probability[pair].unsqueeze(-1) if kind == "probability" else self.agreement[pair]


def pair(one: str, other: str) -> tuple[str, str]:
    """The tower's key of two modalities: their names in alphabetical order."""
    return (min(one, other), max(one, other))


# --- weights and linear maps along their last axis --------------------------------------------------------------------


@runtime_checkable
class Weights(Protocol):
    """A tensor ``(batch, ..., competitor)``, or an object that multiplies with a matrix and selects clips like one."""

    @property
    def ndim(self) -> int: ...
    def __matmul__(self, other: Tensor, /) -> Tensor: ...
    def __getitem__(self, clips: Tensor, /) -> "Weights": ...


class Axis(NamedTuple):
    """The axis that a modality's weights compete over: clusters, or steps (of which a batch may have fewer)."""

    size: int
    steps: bool
    heads: int = 1


class AxisMap(nn.Module):
    """A linear map along the last axis, one for each of ``heads`` (the second axis of the weights, if above 1)."""

    weight: nn.Parameter
    bias: nn.Parameter
    width: int | None
    """The size of the output axis; None: any size that is asked for."""

    def reads(self, outputs: int) -> int:
        """The number of entries that a hidden axis needs before this map, for ``outputs`` entries behind it."""
        raise NotImplementedError

    def matrix(self, inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
        """``W`` (..., inputs, outputs) and a bias that broadcasts with the product."""
        raise NotImplementedError

    def add_identity(self) -> None:
        """Add the identity to ``W``."""
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
        for asked, longest in zip((inputs, outputs), self.weight.shape[-2:], strict=True):
            if asked > longest:
                raise ValueError(
                    f"a clip of {asked} steps is longer than the {longest} that this model's influence was made for: "
                    "cut the clips (max_steps) or train with a relative influence (reach)"
                )
        return first_entries(first_entries(self.weight, -2, inputs), -1, outputs), first_entries(self.bias, -1, outputs)

    def add_identity(self) -> None:
        self.weight.add_(torch.eye(*self.weight.shape[-2:]))


class RelativeMap(AxisMap):
    """A map along steps with one parameter for each distance between two steps: ``W[s, t] = w[t - s]``.

    It is tied to no length, and a shift in time, the paper's example of what F should learn (Fig. 1), is one entry of
    ``w``. Steps further apart than ``reach`` do not influence each other.

    Two axes of different length share their middle. A hidden axis goes on beyond both ends as far as the next map
    reaches: cut off where the batch ends, it would make the influence depend on how far the batch is padded.
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

    def add_identity(self) -> None:
        self.weight[..., self.reach] += 1.0


def by_distance(kernel: Float[Tensor, "... distance"], inputs: int, outputs: int) -> Tensor:
    """``W[s, t] = kernel[t - s]`` (..., inputs, outputs), zero beyond the kernel, the axes' middles aligned."""
    reach = kernel.shape[-1] // 2
    distance = torch.arange(outputs, device=kernel.device) - torch.arange(inputs, device=kernel.device).unsqueeze(1)
    distance -= (outputs - inputs) // 2
    return kernel[..., distance.clamp(-reach, reach) + reach].masked_fill(distance.abs() > reach, 0.0)


class Nearby(nn.Module):
    """A weighted sum of the weights of nearby steps, for weights that compete at each step, as NetVLAD's clusters do.

    F reads this sum in place of the weights. There is one parameter for each distance in time, the same at every step
    and for every competitor. It begins as the step itself, which is the paper's form (section 2.4).
    """

    def __init__(self, reach: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2 * reach + 1))
        with torch.no_grad():
            self.weight[reach] = 1.0

    def forward(self, weights: Float[Tensor, "*batch step competitor"]) -> Float[Tensor, "*batch step competitor"]:
        steps = weights.shape[-2]
        return (weights.mT @ by_distance(self.weight, steps, steps)).mT


# --- F ----------------------------------------------------------------------------------------------------------------


class Parts(NamedTuple):
    """The parts of F.

    Args:
        maps: applied one after the other, with ReLU between them (and after a single one).
        start: ``zero``: F begins near zero, the model as late fusion; ``identity``: F begins as the other modality's
            own weights (section 6: one modality's attention as the prior of the other). A single map should: its ReLU
            can be zero everywhere if it begins near zero, and then never learns.
        heads: as in ``maps``.
        nearby: applied to the weights first, if any.
    """

    maps: Sequence[AxisMap]
    start: Start
    heads: int = 1
    nearby: Nearby | None = None


class Influence(nn.Module):
    """F: the influence of one modality's weights on another's (section 2).

    Args:
        context: how many numbers about the clip are concatenated with the weights (CM-C). A linear map of a
            concatenation is a sum of two maps, so they are added to the bias and the concatenation is never formed.
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
                if start == "identity" or i == len(maps) - 1:
                    map_.weight.mul_(0.01)
                if start == "identity":
                    map_.add_identity()
            if self.context is not None:
                self.context.weight.mul_(0.01)

    def forward(
        self, weights: Weights, inputs: int, outputs: int, context: Float[Tensor, "batch context"] | None
    ) -> Float[Tensor, "batch ... outputs"]:
        """F of ``weights``, whose last axis has ``inputs`` entries, on an axis of ``outputs`` entries."""
        return self.lazy(weights, inputs, outputs, context).compute()

    def lazy(
        self, weights: Weights, inputs: int, outputs: int, context: Float[Tensor, "batch context"] | None = None
    ) -> "LazyInfluence":
        """The same, not yet computed."""
        maps: Sequence[AxisMap] = self.maps  # type: ignore[assignment]
        if self.nearby is not None:
            weights = self.nearby(weights)
        widths = [outputs]
        for map_ in reversed(maps[1:]):
            widths.insert(0, map_.reads(widths[0]))
        layers = [map_.matrix(*between) for map_, between in zip(maps, pairwise([inputs, *widths]), strict=True)]
        bias = None
        if self.context is not None:
            bias = self.context(context)
            bias = bias.view(bias.shape[0], self.heads, *(1,) * (weights.ndim - 3), -1)
            bias = first_entries(bias, -1, layers[0][1].shape[-1])
        return LazyInfluence(weights, layers, bias)

    def of_pair(
        self, weights: Weights, inputs: int, outputs: int, correlation: Correlation | None, pair: tuple[str, str]
    ) -> "LazyInfluence":
        """F for a pair of modalities, with the tower's output for it where there is a tower."""
        return self.lazy(weights, inputs, outputs)


class GatedInfluence(Influence):
    """F in clips that the tower calls correlated, zero in others (CM-G, section 2.5)."""

    def __init__(self, parts: Parts, threshold: float) -> None:
        super().__init__(parts)
        self.threshold = threshold

    def of_pair(
        self, weights: Weights, inputs: int, outputs: int, correlation: Correlation | None, pair: tuple[str, str]
    ) -> "LazyInfluence":
        assert correlation is not None, "a gated influence needs a correlation tower"
        gate = correlation.probability[pair] >= self.threshold
        return replace(self.lazy(weights, inputs, outputs), gate=gate)


class ConcatenatedInfluence(Influence):
    """F of the weights and of the tower's output, concatenated (CM-C, section 2.5)."""

    def __init__(self, parts: Parts, kind: Context, context: int) -> None:
        super().__init__(parts, context)
        self.kind = kind

    def of_pair(
        self, weights: Weights, inputs: int, outputs: int, correlation: Correlation | None, pair: tuple[str, str]
    ) -> "LazyInfluence":
        assert correlation is not None, "a concatenated influence needs a correlation tower"
        return self.lazy(weights, inputs, outputs, correlation.context(pair, self.kind))


class InputConditioning(nn.Module):
    """The second reading of CM-C: the correlation concatenated with a modality's own input of the layer.

    A linear map of a concatenation is a sum of two maps, so a linear map of the correlation is added to the features,
    and their size stays.
    """

    def __init__(self, size: int, kind: Context, context: int) -> None:
        super().__init__()
        self.kind = kind
        self.map = nn.Linear(context, size, bias=False)

    def forward(self, correlation: Correlation, pair: tuple[str, str]) -> Float[Tensor, "batch 1 feature"]:
        mapped: Tensor = self.map(correlation.context(pair, self.kind))
        return mapped.unsqueeze(1)


# --- F of a batch, not yet computed -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class LazyInfluence:
    """F of one modality's weights in a batch, not yet computed."""

    weights: Weights
    layers: Sequence[tuple[Tensor, Tensor]]
    """F's matrices and biases."""
    context: Float[Tensor, "batch ... width"] | None
    """Added to the first bias (CM-C)."""
    gate: Bool[Tensor, "batch"] | None = None
    """The clips in which F is added; None: all of them."""

    def compute(self) -> Float[Tensor, "batch ... outputs"]:
        """F of the weights; zeros in the clips whose gate is shut."""
        value: Weights = self.weights
        for i, (matrix, bias) in enumerate(self.layers):
            value = value @ matrix + (bias if i or self.context is None else bias + self.context)
            # In place: nothing else holds the sum.
            value = value.relu_() if i < len(self.layers) - 1 or len(self.layers) == 1 else value
        assert isinstance(value, Tensor)
        if self.gate is None:
            return value
        return torch.where(self.gate.view(-1, *(1,) * (value.ndim - 1)), value, 0.0)

    def __getitem__(self, clips: Tensor) -> "LazyInfluence":
        """The same for the clips of an index, without a gate if it is open in all of them."""
        context = None if self.context is None else self.context[clips]
        gate = None if self.gate is None or self.gate[clips].all() else self.gate[clips]
        return replace(self, weights=self.weights[clips], context=context, gate=gate)


class Influences:
    """All influences on one modality, computed when and for the clips they are asked for.

    Deferred, because a Transformer's logits are too large to hold for a whole batch.
    """

    def __init__(self, parts: Sequence[LazyInfluence]) -> None:
        self.parts = parts

    def open_clips(self, batch: int, device: torch.device) -> Bool[Tensor, "batch"]:
        """The clips in which there is any influence."""
        clips = torch.zeros(batch, dtype=torch.bool, device=device)
        for part in self.parts:
            clips |= True if part.gate is None else part.gate
        return clips

    def added_to(self, weights: Tensor) -> Tensor:
        """``weights`` plus the sum of F over all other modalities; unchanged where gates are shut."""
        for part in self.parts:
            weights = weights + part.compute()
        return weights

    def __getitem__(self, clips: Tensor) -> "Influences":
        """The influences in the clips of an index."""
        return Influences([part[clips] for part in self.parts])


# --- fusions, as plain data -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Fusion:
    """How a recipe's modalities meet, as plain data; a layer asks it for the influence between each two modalities.

    A subclass states in its class attributes what the rest of the package has to know of it.

    Args:
        per_second: attention looks more at the seconds that the correlation tower finds in the other modalities.
    """

    label: ClassVar[str] = ""
    """For tables: one or two words."""
    joined: ClassVar[bool] = False
    """Whether the features of all modalities become one track."""
    needs_tower: ClassVar[bool] = False
    """Whether it reads a trained correlation tower."""
    has_influence: ClassVar[bool] = False
    """Whether it has an F, whose size can be searched for."""
    self_influence: ClassVar[bool] = False
    """Whether F reads the modality's own weights instead of the others'."""
    may_be_idle: ClassVar[bool] = False
    """Whether a batch may leave some of its parameters without a gradient."""
    per_second: bool = False

    @property
    def summary(self) -> str:
        """For tables: the first line of the docstring, without the paper's letters."""
        line = (type(self).__doc__ or "").partition("\n")[0].rstrip(".").replace("``", "`")
        return line.partition(": ")[2] or line

    def influence(self, source: Axis, target: Axis, context: int) -> Influence | None:
        """F from the weights along ``source`` to those along ``target``; None: there is no influence.

        Args:
            context: how many numbers the tower gives for a pair of modalities, see `context_size`.
        """
        return None

    def conditioning(self, size: int, context: int) -> InputConditioning | None:
        """The conditioning of a layer's input of ``size`` features on the tower's output; None: there is none."""
        return None

    def context_size(self, agreement: int) -> int:
        """How many numbers of a tower's output are read for a pair of modalities; its agreements have this size."""
        return 0


@dataclass(frozen=True, kw_only=True)
class Early(Fusion):
    """E: features joined per step, then one tower."""

    label: ClassVar[str] = "early"
    joined: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class Late(Fusion):
    """L: one tower per modality, outputs joined in a deep network."""

    label: ClassVar[str] = "late"


@dataclass(frozen=True, kw_only=True)
class CrossModal(Fusion):
    """CM: late, with F between the towers' weights.

    Args:
        hidden: widths of F's hidden layers; none: one ReLU-linear map. With ``reach`` only their number counts.
        start: ``zero``: F begins near zero; ``identity``: F begins as the other modality's own weights.
        reach: F reads this many seconds to either side. Along steps F then is tied to no length; where weights compete
            at each step (NetVLAD), F without a reach reads the other modality's same step alone.
    """

    label: ClassVar[str] = "cross-modal"
    has_influence: ClassVar[bool] = True
    hidden: tuple[int, ...] = ()
    start: Start = "zero"
    reach: int | None = bounded(None, 0, MANY)

    def parts(self, source: Axis, target: Axis) -> Parts:
        """The parts of F between two axes."""
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
    """CM with F of each modality's own weights: all that F brings, and nothing of another modality."""

    label: ClassVar[str] = "self-influence"
    self_influence: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class Gated(CrossModal):
    """CM-G: F is added where the tower's probability is at least ``threshold``.

    Args:
        threshold: a probability.
    """

    label: ClassVar[str] = "gated"
    needs_tower: ClassVar[bool] = True
    may_be_idle: ClassVar[bool] = True
    threshold: float = bounded(0.5, 0, 1)

    def influence(self, source: Axis, target: Axis, context: int) -> Influence | None:
        return GatedInfluence(self.parts(source, target), self.threshold)


@dataclass(frozen=True, kw_only=True)
class Concatenated(CrossModal):
    """CM-C: the tower's output is one more input, of F (``into="influence"``) or of the layer (``into="input"``).

    Args:
        context: the part of the tower's output: its ``probability``, or the ``agreement`` that it is computed from.
        into: what the context is concatenated with.
    """

    label: ClassVar[str] = "concatenated"
    needs_tower: ClassVar[bool] = True
    context: Context = "probability"
    into: Literal["influence", "input"] = "influence"

    @property
    def summary(self) -> str:
        into = "F" if self.into == "influence" else "the layer"
        return f"cross-modal, with the tower's {self.context} as one more input of {into}"

    def influence(self, source: Axis, target: Axis, context: int) -> Influence | None:
        parts = self.parts(source, target)
        return Influence(parts) if self.into == "input" else ConcatenatedInfluence(parts, self.context, context)

    def conditioning(self, size: int, context: int) -> InputConditioning | None:
        return InputConditioning(size, self.context, context) if self.into == "input" else None

    def context_size(self, agreement: int) -> int:
        return 1 if self.context == "probability" else agreement


# --- attention modules and layers -------------------------------------------------------------------------------------


class AttentionMaps(NamedTuple):
    """One modality's weights in one layer, for pictures. The last axis is the one they compete over."""

    before: Float[Tensor, "batch ... competitor"]
    influence: Float[Tensor, "batch ... competitor"]
    after: Float[Tensor, "batch ... competitor"]


class AttentionModule(nn.Module):
    """One modality's part of a layer: its weights, and the features aggregated by them."""

    inputs: int
    """Features of the track that goes in."""
    outputs: int
    """Features of the track that ``aggregate`` gives."""
    axis: Axis
    rows: int = 0
    """Rows of weights over the steps that have an `Emphasis` each; 0: all of them the same."""
    row: ClassVar[str] = "row"
    """The name of one row of weights, for pictures: a cluster, an attention unit, a head."""
    influence_label: ClassVar[str] = "influence"
    """The title of F's contribution, for pictures."""

    def weights(self, track: Track, emphasis: Float[Tensor, "batch row step"] | None = None) -> Weights:
        """The weights, zero where the track has no step, so that padding influences nothing.

        Args:
            emphasis: the log of a factor by which a step counts more; there may be one row for all. It is given only
                where the fusion is ``per_second``.
        """
        raise NotImplementedError

    def aggregate(self, track: Track, weights: Weights, influence: Influences) -> Track:
        """The track combined by its weights and the influence on them; of one step, where the layer sums the steps."""
        raise NotImplementedError

    def attention_maps(self, track: Track, weights: Weights, influence: Influences) -> AttentionMaps:
        """The weights before and after the influence, which ``aggregate`` need not form as a whole."""
        raise NotImplementedError

    def time_profile(
        self, weights: Float[Tensor, "... competitor"], present: Bool[Tensor, "step"]
    ) -> Float[Tensor, "row step"]:
        """One clip's weights, a part of `attention_maps`, with time along the last axis, for a picture.

        Args:
            present: the steps that the clip has.
        """
        raise NotImplementedError


class Emphasis(nn.Module):
    """How much more a second counts for what the tower finds in the other modalities: exp(scale x evidence).

    Args:
        modalities: by name, how many rows have a scale of their own to learn; 0: all rows share one that stays.
    """

    START = 0.5

    def __init__(self, modalities: Mapping[str, int]) -> None:
        super().__init__()
        scales = {name: torch.full((rows or 1,), self.START) for name, rows in modalities.items()}
        self.learned = nn.ParameterDict({name: nn.Parameter(each) for name, each in scales.items() if modalities[name]})

    def forward(self, name: str, correlation: Correlation | None) -> Float[Tensor, "batch row step"] | None:
        """The log of each step's factor; None for a modality that the tower does not compare."""
        assert correlation is not None, "emphasis needs a correlation tower"
        assert correlation.evidence is not None, "emphasis needs a tower that was asked for every second"
        if (evidence := correlation.evidence.get(name)) is None:
            return None
        scale = self.learned[name] if name in self.learned else evidence.new_full((1,), self.START)
        return evidence.unsqueeze(1) * scale.unsqueeze(-1)


class Layer(nn.Module):
    """One layer of a trunk: tracks of all modalities to tracks of all modalities."""

    def forward(
        self, tracks: Tracks, correlation: Correlation | None, return_attention: bool = False
    ) -> tuple[Tracks, dict[str, AttentionMaps]]:
        """The combined tracks and, with ``return_attention``, the weights by modality."""
        raise NotImplementedError

    def attention(self, name: str) -> AttentionModule:
        """The module whose weights are drawn for a modality."""
        raise NotImplementedError


class CrossModalLayer(Layer):
    """One layer of section 2, for any number of modalities, each influenced by all others.

    Args:
        attention_modules: by modality.
        fusion: makes the influence between each two modalities.
        context: how many numbers the tower gives for a pair of modalities (CM-C).
    """

    def __init__(self, attention_modules: Mapping[str, AttentionModule], fusion: Fusion, context: int = 0) -> None:
        super().__init__()
        self.attention_modules = nn.ModuleDict(attention_modules)
        influences: dict[str, Influence] = {}
        conditionings: dict[str, InputConditioning] = {}
        for source, target in (
            (s, t) for s in attention_modules for t in attention_modules if (s == t) == fusion.self_influence
        ):
            if influence := fusion.influence(attention_modules[source].axis, attention_modules[target].axis, context):
                influences[_key(source, target)] = influence
            if conditioning := fusion.conditioning(attention_modules[target].inputs, context):
                conditionings[_key(source, target)] = conditioning
        self.influences = nn.ModuleDict(influences)
        self.conditionings = nn.ModuleDict(conditionings)
        rows = {name: module.rows for name, module in attention_modules.items()}
        self.emphasis = Emphasis(rows) if fusion.per_second else None

    def forward(
        self, tracks: Tracks, correlation: Correlation | None, return_attention: bool = False
    ) -> tuple[Tracks, dict[str, AttentionMaps]]:
        modules: Mapping[str, AttentionModule] = self.attention_modules  # type: ignore[assignment]
        tracks = {name: self._conditioned(name, track, correlation) for name, track in tracks.items()}
        weights = {name: self._weights(modules[name], name, track, correlation) for name, track in tracks.items()}
        influences = {name: self._influences(name, tracks, weights, correlation) for name in tracks}
        combined = {
            name: modules[name].aggregate(track, weights[name], influences[name]) for name, track in tracks.items()
        }
        if not return_attention:
            return combined, {}
        return combined, {
            name: modules[name].attention_maps(track, weights[name], influences[name]) for name, track in tracks.items()
        }

    def attention(self, name: str) -> AttentionModule:
        return self.attention_modules[name]  # type: ignore[return-value]

    def _conditioned(self, target: str, track: Track, correlation: Correlation | None) -> Track:
        features = track.features
        for source in self.attention_modules:
            if (key := _key(source, target)) in self.conditionings:
                assert correlation is not None, "this layer's input needs a correlation tower"
                features = features + self.conditionings[key](correlation, pair(source, target))
        return Track(features, track.mask)

    def _weights(self, module: AttentionModule, name: str, track: Track, correlation: Correlation | None) -> Weights:
        """A modality's weights; modules of one's own need not know of emphasis unless the fusion is per second."""
        emphasis = self.emphasis(name, correlation) if self.emphasis else None
        return module.weights(track) if emphasis is None else module.weights(track, emphasis)

    def _influences(
        self, target: str, tracks: Tracks, weights: Mapping[str, Weights], correlation: Correlation | None
    ) -> Influences:
        axes: Mapping[str, Axis] = {name: self.attention_modules[name].axis for name in tracks}  # type: ignore[misc]
        entries = {name: tracks[name].mask.shape[1] if axis.steps else axis.size for name, axis in axes.items()}
        parts = []
        for source in tracks:
            if (key := _key(source, target)) in self.influences:
                influence: Influence = self.influences[key]  # type: ignore[assignment]
                sizes = entries[source], entries[target]
                parts.append(influence.of_pair(weights[source], *sizes, correlation, pair(source, target)))
        return Influences(parts)


def _key(source: str, target: str) -> str:
    return f"{source}_to_{target}"
