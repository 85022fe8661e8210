"""Transformer (Vaswani et al. 2017), cross-modal in its attention logits (Goyal et al., section 2.3)::

    head_i = softmax(S_i + F_i(S'_i)) V_i,    S_i = Q_i K_i^T / sqrt(d)

``S'`` are the other modality's logits and each head has its own F. The printed equation drops ``1/sqrt(d)`` and mixes
the indices of W^K; this is the standard scaled form with each modality's own W^K.

The logits of a whole batch are never held: clips with an influence take `counterpoint.models.influenced_attention`,
others PyTorch's fused attention.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import torch
import torch.nn.functional as functional
from jaxtyping import Bool, Float
from torch import Tensor, nn

from counterpoint.data.tracks import Track, masked_softmax
from counterpoint.errors import Error
from counterpoint.fields import bounded, by_modality
from counterpoint.models.exported import is_exporting
from counterpoint.models.family import AttentionFamily, multiple
from counterpoint.models.fusion import JOINED, AttentionMaps, AttentionModule, Axis, Influences, LazyInfluence, Weights
from counterpoint.models.influenced_attention import CHUNK_LOGITS as CHUNK_LOGITS
from counterpoint.models.influenced_attention import LogitInfluence, influenced_attention


@dataclass(frozen=True)
class Logits:
    """``queries keys^T``, not multiplied out; multiplies and selects clips as `Weights` asks."""

    queries: Float[Tensor, "batch head query channel"]
    keys: Float[Tensor, "batch head key channel"]
    emphasis: Float[Tensor, "batch 1 key"] | None = None
    """Added to the logits of a key, though not to what another modality's F reads."""
    ndim: ClassVar[int] = 4

    def __matmul__(self, other: Tensor) -> Tensor:
        return self.queries @ (self.keys.mT @ other)

    def __getitem__(self, clips: Tensor) -> "Logits":
        return Logits(self.queries[clips], self.keys[clips], None if self.emphasis is None else self.emphasis[clips])

    @cached_property
    def rows(self) -> tuple[Float[Tensor, "row query channel"], Float[Tensor, "row key channel"]]:
        """The heads of all clips one after the other, copied once for all that read them."""
        return self.queries.flatten(0, 1), self.keys.flatten(0, 1)

    def formed(self) -> Float[Tensor, "batch head query key"]:
        return self.queries @ self.keys.mT


class Projection(nn.Module):
    """Reads a track for a Transformer: a linear map of each step, plus its position in time (sines, section 3.5)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.map = nn.Linear(inputs, outputs)

    def forward(self, track: Track) -> Track:
        steps = track.mask.shape[1]
        projected = self.map(track.features)
        return Track(projected + positions(steps, projected.shape[-1]).to(projected), track.mask)


def positions(steps: int, size: int) -> Float[Tensor, "step feature"]:
    """Sinusoidal positions: sines in the first half of the features, cosines in the second.

    >>> positions(2, 2)
    tensor([[0.0000, 1.0000],
            [0.8415, 0.5403]])
    """
    half = (size + 1) // 2
    angles = torch.arange(steps).unsqueeze(1) * torch.exp(torch.arange(half) * (-math.log(10000.0) / half))
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :size]


class TransformerBlock(AttentionModule):
    """One modality's block: influenced attention, then two feed-forward maps, each normalized before (pre-LN)."""

    row = "head"
    influence_label = "influence (on the logits)"

    def __init__(self, size: int, heads: int, max_steps: int, dropout: float) -> None:
        super().__init__()
        if size % heads:
            raise Error(f"a width of {size} does not divide into {heads} heads")
        self.inputs = size
        self.outputs = size
        self.axis = Axis(max_steps, steps=True, heads=heads)
        self.norm = nn.LayerNorm(size)
        self.query_key = nn.Linear(size, 2 * size)
        self.value = nn.Linear(size, size)
        self.out = nn.Linear(size, size)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(size), nn.Linear(size, 4 * size), nn.ReLU(), nn.Linear(4 * size, size)
        )
        self.dropout = nn.Dropout(dropout)

    def weights(self, track: Track, emphasis: Float[Tensor, "batch row step"] | None = None) -> Logits:
        # Zero at padding: another modality's F of these logits must not depend on it.
        mapped = self.query_key(self.norm(track.features)) * track.mask.unsqueeze(-1)
        queries, keys = self._heads(mapped).chunk(2, dim=1)
        return Logits(queries / math.sqrt(queries.shape[-1]), keys, emphasis)

    def aggregate(self, track: Track, weights: Weights, influence: Influences) -> Track:
        assert isinstance(weights, Logits)
        attended = attend(weights, self.values(track), track.mask, influence)
        return Track(self.finish(track.features, attended), track.mask)

    def values(self, track: Track) -> Float[Tensor, "batch head key channel"]:
        """Zero where the track has no step, as `attend` wants them."""
        return self._heads(self.value(self.norm(track.features)) * track.mask.unsqueeze(-1))

    def finish(
        self, features: Float[Tensor, "batch query feature"], attended: Float[Tensor, "batch head query channel"]
    ) -> Float[Tensor, "batch query feature"]:
        """The rest of the block: the queries' features and the attended values to the block's output."""
        features = features + self.dropout(self.out(attended.transpose(1, 2).flatten(2)))
        fed_forward: Tensor = self.dropout(self.feed_forward(features))
        return features + fed_forward

    def attention_maps(self, track: Track, weights: Weights, influence: Influences) -> AttentionMaps:
        assert isinstance(weights, Logits)
        logits, mask = weights.formed(), track.mask[:, None, None, :]
        if weights.emphasis is not None:
            logits = logits + weights.emphasis.unsqueeze(2)
        influenced = influence.added_to(logits)
        return AttentionMaps(masked_softmax(logits, mask), influenced - logits, masked_softmax(influenced, mask))

    def time_profile(
        self, weights: Float[Tensor, "... competitor"], present: Bool[Tensor, "step"]
    ) -> Float[Tensor, "row step"]:
        """Heads by key step, the mean over the queries of steps that are there: others attend evenly."""
        return weights[:, present].sum(1) / present.sum().clamp_min(1)

    def _heads(self, mapped: Float[Tensor, "batch step feature"]) -> Float[Tensor, "batch head step channel"]:
        batch, steps, _ = mapped.shape
        return mapped.view(batch, steps, -1, self.inputs // self.axis.heads).transpose(1, 2)


def attend(
    logits: Logits,
    values: Float[Tensor, "batch head key channel"],
    mask: Bool[Tensor, "batch key"],
    influence: Influences,
) -> Float[Tensor, "batch head query channel"]:
    """Attention whose logits may be influenced; ``values`` are zero where ``mask`` is False."""
    # A finite floor: a clip without any step attends evenly to zero values, which gives zeros and not NaN.
    floor = torch.zeros(mask.shape, dtype=values.dtype, device=mask.device)
    if logits.emphasis is not None:
        floor = logits.emphasis.squeeze(1).to(values)
    floor = floor.masked_fill(~mask, torch.finfo(values.dtype).min)[:, None, None, :]
    if is_exporting():  # a graph has no branches: what follows depends on the gates, and on the processor's cache
        return (influence.added_to(logits.formed()) + floor).softmax(-1) @ values
    influenced = influence.open_clips(len(mask), mask.device)
    if not influenced.any():
        return _plain(logits, values, floor)
    if influenced.all():
        return _influenced(logits, values, floor, influence)
    shut, open_ = (~influenced).nonzero().squeeze(1), influenced.nonzero().squeeze(1)
    parts = [
        _plain(logits[shut], values[shut], floor[shut]),
        _influenced(logits[open_], values[open_], floor[open_], influence[open_]),
    ]
    return torch.cat(parts)[torch.cat([shut, open_]).argsort()]


def _plain(logits: Logits, values: Tensor, floor: Tensor) -> Tensor:
    """PyTorch's fused attention."""
    tensors = (logits.queries, logits.keys, values, floor)
    if torch.is_grad_enabled() and _slow_in_half(values):
        tensors = tuple(tensor.float() for tensor in tensors)  # type: ignore[assignment]
    with torch.autocast(values.device.type, enabled=False):
        attended = functional.scaled_dot_product_attention(*tensors, scale=1.0)
    return attended.to(values)


def _slow_in_half(values: Tensor) -> bool:
    """Whether PyTorch's backward kernel takes longer in half precision than in single, as found on a processor."""
    steps, channels = values.shape[-2:]
    return values.is_cpu and values.dtype.itemsize < 4 and (steps < 192 or channels < 64)


def _influenced(logits: Logits, values: Tensor, floor: Tensor, influence: Influences) -> Tensor:
    clips, heads, steps, _ = logits.queries.shape
    attended = influenced_attention(
        *logits.rows,
        values.flatten(0, 1),
        floor.expand(-1, heads, -1, -1).flatten(0, 1),
        [_by_row(part, clips, heads) for part in influence.parts],
    )
    return attended.view(clips, heads, steps, -1)


def _by_row(influence: LazyInfluence, clips: int, heads: int) -> LogitInfluence:
    assert isinstance(influence.weights, Logits)
    queries, keys = influence.weights.rows
    # In the logits' precision, with an axis of heads also where there is one head, and with a bias for every entry also
    # where a relative map has one for all.
    first, *others = (
        (matrix.to(keys).expand(heads, -1, -1), bias.to(keys).expand(heads, 1, matrix.shape[-1]))
        for matrix, bias in influence.layers
    )
    bias = first[1] if influence.context is None else first[1] + influence.context.to(keys)
    bias = bias.expand(clips, -1, -1, -1).flatten(0, 1)
    gate = None if influence.gate is None else influence.gate.repeat_interleave(heads).view(-1, 1, 1)
    return LogitInfluence(queries, keys, bias, [first[0], *(tensor for layer in others for tensor in layer)], gate)


@dataclass(frozen=True, kw_only=True)
class TransformerFamily(AttentionFamily):
    """Transformer blocks over the steps.

    Args:
        widths: features by modality, a multiple of ``heads``; a modality that is not named has 128.
        heads: of each layer's attention; each has its own F.
        layers: blocks one after the other, each with its own F.
        dropout: the share of features that a block drops in training.
    """

    label: ClassVar[str] = "Transformer"
    prefix: ClassVar[str] = "tm"
    widths: dict[str, int] = by_modality({"video": 512, "audio": 128, JOINED: 640})
    heads: int = 8
    layers: int = bounded(1, 1, 1000)
    dropout: float = bounded(0.1, 0, 1)

    @property
    def depth(self) -> int:
        return self.layers

    def reader(self, name: str, inputs: int) -> tuple[nn.Module, int]:
        width = self.widths.get(name, 128)
        return Projection(inputs, width), width

    def attention(self, name: str, inputs: int, max_steps: int) -> AttentionModule:
        return TransformerBlock(inputs, self.heads, max_steps, self.dropout)

    def scaled(self, factor: float) -> "TransformerFamily":
        widths = {name: multiple(width * factor, self.heads) for name, width in self.widths.items()}
        return replace(self, widths=widths)
