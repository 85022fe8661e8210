"""The categorizer: read -> layers -> pool -> head, for every family and fusion."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from counterpoint.data.records import CODE_OFFSET, CODE_SCALE
from counterpoint.data.tracks import Track, Tracks, masked_softmax
from counterpoint.models.family import Family
from counterpoint.models.fusion import JOINED, AttentionMaps, Correlation, Emphasis, Fusion, Layer
from counterpoint.models.heads import Head


class Output(NamedTuple):
    """A categorizer's output for a batch."""

    logits: Float[Tensor, "batch category"]
    weights: list[dict[str, AttentionMaps]]
    """By layer and modality; empty unless asked for."""
    correlation: Correlation | None
    hidden: Float[Tensor, "batch hidden"]
    """The head's last hidden layer: what the categories are read from."""


class Read(nn.Module):
    """Tracks as stored -> tracks of floats that are zero at missing steps.

    8-bit codes become values here, on the device that computes (the range is the data set's, see
    `counterpoint.data.records`). With ``joined`` (early fusion) the features of all modalities stand side by side in
    one track, in the order of their names; it has a step where any modality has one.

    ``damping`` is for whitened principal components in the order of their variance, as YouTube-8M's features are:
    whitening scales the last ones up to the size of the first, and a model with few examples learns their noise.
    Feature i of n is divided by ``1 + damping i / n``, and all are scaled so that their size stays.

    Args:
        modules: the reader of each track: of a modality, or of all joined.
        modalities: the modalities to read; others count as never recorded.
        averaged: whether a modality's steps become one, their mean.
        scales: what standardizes each modality's features, by name; none where features stay as they are.
    """

    like: Tensor

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        modalities: Collection[str],
        joined: bool,
        damping: float = 0.0,
        averaged: bool = False,
        scales: "Mapping[str, Standardize] | None" = None,
    ) -> None:
        super().__init__()
        self.averaged = averaged
        self.scales = nn.ModuleDict(scales or {})
        self.modalities = frozenset(modalities)
        self.joined = joined
        self.damping = damping
        self.by_track = nn.ModuleDict(modules)
        # A buffer, so that it follows the model to another precision.
        self.register_buffer("like", torch.zeros(()), persistent=False)

    def forward(self, tracks: Tracks) -> Tracks:
        read = self.values(tracks)
        read = {name: self.scales[name](track) if name in self.scales else track for name, track in read.items()}
        if self.averaged:
            read = {
                name: Track(pool(track).unsqueeze(1), track.mask.any(1, keepdim=True)) for name, track in read.items()
            }
        if self.joined:
            ordered = [read[name] for name in sorted(read)]
            mask = torch.stack([track.mask for track in ordered]).any(0)
            read = {JOINED: Track(torch.cat([track.features for track in ordered], -1), mask)}
        return {name: self.by_track[name](track) for name, track in read.items()}

    def values(self, tracks: Tracks) -> Tracks:
        """The modalities to read as floats, damped, before they are standardized."""
        return {
            name: self._damped(_values(track, self.like.dtype))
            for name, track in tracks.items()
            if name in self.modalities
        }

    def _damped(self, track: Track) -> Track:
        if not self.damping:
            return track
        size = track.features.shape[-1]
        gain = 1 / (1 + self.damping * torch.arange(size, device=track.mask.device) / size)
        return Track(track.features * (gain / gain.square().mean().sqrt()).to(track.features), track.mask)


def _values(track: Track, dtype: torch.dtype) -> Track:
    if track.features.dtype != torch.uint8:
        return Track(track.features.to(dtype), track.mask).zeroed()
    values = track.features.to(dtype).mul_(CODE_SCALE).add_(CODE_OFFSET)
    # All codes are finite, and multiplying in place is faster than selecting.
    return Track(values.mul_(track.mask.unsqueeze(-1)), track.mask)


class Standardize(nn.Module):
    """A track's features at mean 0 and standard deviation ``gain`` over the training clips' means, once `fit` to those.

    A clip without the modality stays at zero, which is then its mean.

    Args:
        size: features.
        gain: with the root of (mean size of a modality / size), the modalities vary equally much in all, so that one of
            many features does not drown one of few.
    """

    mean: Tensor
    std: Tensor
    FLOOR = 0.01
    """The least deviation that counts, as a share of the features' mean one: what hardly varies is not blown up."""

    def __init__(self, size: int, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = gain
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    def fit(self, means: Float[Tensor, "clip feature"]) -> None:
        """Take mean and deviation from clips' mean features."""
        if len(means):
            std = means.double().std(0, correction=0)
            self.mean.copy_(means.double().mean(0))
            self.std.copy_(std.clamp_min(self.FLOOR * std.mean()).clamp_min(1e-6))

    def forward(self, track: Track) -> Track:
        return Track((track.features - self.mean) / self.std * self.gain, track.mask).zeroed()


class Trunk(nn.Module):
    """Read -> layers -> pool: one vector per clip and modality, the part that categorizer and tower have in common.

    Args:
        per_second: whether layers need the tower's evidence for each second.
        emphasis: weights the mean over steps by it; without, each counts alike.
    """

    def __init__(
        self, read: Read, layers: Sequence[Layer], per_second: bool = False, emphasis: Emphasis | None = None
    ) -> None:
        super().__init__()
        self.read = read
        self.layers = nn.ModuleList(layers)
        self.per_second = per_second
        self.emphasis = emphasis

    def forward(
        self, tracks: Tracks, correlation: Correlation | None = None, return_attention: bool = False
    ) -> tuple[dict[str, Float[Tensor, "batch feature"]], list[dict[str, AttentionMaps]]]:
        tracks = self.read(tracks)
        maps = []
        for layer in self.layers:
            tracks, weights = layer(tracks, correlation, return_attention)
            maps.append(weights)
        emphasis = {name: self.emphasis(name, correlation) if self.emphasis else None for name in tracks}
        return {name: pool(track, emphasis[name]) for name, track in tracks.items()}, maps if return_attention else []


def build_trunk(
    family: Family,
    fusion: Fusion,
    sizes: Mapping[str, int],
    max_steps: int,
    context: int = 0,
    damping: float = 0.0,
    averaged: bool = False,
    standardize: bool = False,
) -> tuple[Trunk, dict[str, int]]:
    """Readers and layers for features of these sizes by modality, and how many features they give by track."""
    tracks = {JOINED: sum(sizes.values())} if fusion.joined else dict(sizes)
    readers = {name: family.reader(name, size) for name, size in tracks.items()}
    average = sum(sizes.values()) / len(sizes)
    scales = {name: Standardize(size, math.sqrt(average / size)) for name, size in sizes.items()}
    modules = {name: reader for name, (reader, _) in readers.items()}
    read = Read(modules, sizes, fusion.joined, damping, averaged, scales if standardize else None)
    layers, widths = family.stack({name: width for name, (_, width) in readers.items()}, fusion, max_steps, context)
    weighted = fusion.per_second and family.keeps_steps
    emphasis = Emphasis(dict.fromkeys(widths, 1)) if weighted else None
    return Trunk(read, layers, fusion.per_second, emphasis), dict(widths)


def pool(track: Track, emphasis: Float[Tensor, "batch 1 step"] | None = None) -> Float[Tensor, "batch feature"]:
    """The mean over the steps that a clip has, by exp(emphasis) where it is given; zeros for a clip without any."""
    if emphasis is not None:
        return (masked_softmax(emphasis, track.mask.unsqueeze(1)) @ track.zeroed().features).squeeze(1)
    total = track.zeroed().features.sum(1)
    return total / track.mask.sum(1, keepdim=True).clamp_min(1)


class Categorizer(nn.Module):
    """Picture and sound to categories.

    Args:
        tower: a trained correlation tower, for gated and concatenated fusion. It stays frozen and in evaluation mode,
            also while the categorizer trains.
    """

    def __init__(self, trunk: Trunk, head: Head, tower: nn.Module | None = None) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head
        self.tower = tower
        if tower is not None:
            tower.requires_grad_(False)
            self.train(self.training)

    def forward(self, tracks: Tracks, return_attention: bool = False) -> Output:
        """Logits for a batch; ``return_attention`` also returns the weights of every layer."""
        correlation = None
        if self.tower is not None:
            with torch.no_grad():
                correlation = self.tower(tracks, self.trunk.per_second)
        vectors, weights = self.trunk(tracks, correlation, return_attention)
        logits, hidden = self.head(vectors)
        return Output(logits, weights, correlation, hidden)

    def train(self, mode: bool = True) -> "Categorizer":
        super().train(mode)
        if self.tower is not None:
            self.tower.eval()
        return self
