"""Baselines: Transformers whose modalities meet by attention over each other's steps, not by F of each other's weights.

All are blocks of one width over tokens, a token being a step of a modality (Nagrani et al., "Attention Bottlenecks for
Multimodal Fusion", 2021, section 3.2; ``x_m`` are the tokens of modality m)::

    one stream         x        <- block(x; x),   x being all tokens                         their vanilla fusion
    cross-attention    x_m      <- block_m(x_m; all tokens)                                  with own parameters
    bottlenecks        x_m, z_m <- block_m(x_m, z; x_m, z),   z <- mean over m of z_m        with few tokens z

``block(q; k)`` is `counterpoint.models.transformer.TransformerBlock` with queries from q, and keys and values from k.
One stream is what BERT does with two sentences (Devlin et al. 2019; VisualBERT): the maps that read the modalities have
a bias each, which is the modality's embedding.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from counterpoint.data.tracks import Track, Tracks
from counterpoint.errors import Error
from counterpoint.fields import bounded
from counterpoint.models.family import Family, Widths, multiple
from counterpoint.models.fusion import AttentionMaps, Correlation, Fusion, Influences, Layer
from counterpoint.models.transformer import Logits, Projection, TransformerBlock, attend

NO_INFLUENCE = Influences([])


def attend_from(
    block: TransformerBlock, tokens: Track, count: int, return_attention: bool
) -> tuple[Tensor, AttentionMaps | None]:
    """The first ``count`` tokens' features after a block where they attend to all tokens, and the weights if wanted."""
    logits = block.weights(tokens)
    weights = Logits(logits.queries[:, :, :count], logits.keys)
    attended = attend(weights, block.values(tokens), tokens.mask, NO_INFLUENCE)
    maps = block.attention_maps(tokens, weights, NO_INFLUENCE) if return_attention else None
    return block.finish(tokens.features[:, :count], attended), maps


def joined(tracks: Sequence[Track]) -> Track:
    """Tracks one after the other."""
    return Track(torch.cat([track.features for track in tracks], 1), torch.cat([track.mask for track in tracks], 1))


def among(maps: AttentionMaps, start: int, steps: int) -> AttentionMaps:
    """The weights of some tokens, such as a modality's steps, for each other; other tokens have the rest of the sum."""
    own = slice(start, start + steps)
    return AttentionMaps(*(part[..., own, own] for part in maps))


class CrossAttention(Layer):
    """One layer in which a modality's steps attend to its own steps and to all others'."""

    def __init__(self, blocks: Mapping[str, TransformerBlock]) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict(blocks)

    def forward(
        self, tracks: Tracks, correlation: Correlation | None, return_attention: bool = False
    ) -> tuple[Tracks, dict[str, AttentionMaps]]:
        combined, maps = {}, {}
        for name, track in tracks.items():
            others = [tracks[other] for other in sorted(tracks) if other != name]
            steps = track.mask.shape[1]
            features, weights = attend_from(self.attention(name), joined([track, *others]), steps, return_attention)
            combined[name] = Track(features, track.mask)
            if weights is not None:
                maps[name] = among(weights, 0, steps)
        return combined, maps

    def attention(self, name: str) -> TransformerBlock:
        return self.blocks[name]  # type: ignore[return-value]


class OneStream(Layer):
    """One layer in which all modalities' steps attend to each other, as if they were of one kind."""

    def __init__(self, block: TransformerBlock) -> None:
        super().__init__()
        self.block = block

    def forward(
        self, tracks: Tracks, correlation: Correlation | None, return_attention: bool = False
    ) -> tuple[Tracks, dict[str, AttentionMaps]]:
        tokens = joined(list(tracks.values()))
        features, weights = attend_from(self.block, tokens, tokens.mask.shape[1], return_attention)
        combined, maps, start = {}, {}, 0
        for name, track in tracks.items():
            steps = track.mask.shape[1]
            combined[name] = Track(features[:, start : start + steps], track.mask)
            if weights is not None:
                maps[name] = among(weights, start, steps)
            start += steps
        return combined, maps

    def attention(self, name: str) -> TransformerBlock:
        return self.block


class Bottlenecks(Layer):
    """Several layers in which modalities meet in a few tokens that all of them read and write, and nowhere else.

    Args:
        blocks: by layer, then by modality.
        tokens: how many there are; they start as learned vectors and are dropped behind the last layer.
    """

    def __init__(self, blocks: Sequence[Mapping[str, TransformerBlock]], tokens: int) -> None:
        super().__init__()
        if len(blocks) < 2:
            raise Error("bottlenecks need 2 layers or more: tokens that one layer writes are read in the next")
        self.blocks = nn.ModuleList(nn.ModuleDict(layer) for layer in blocks)
        width = next(iter(blocks[0].values())).inputs
        self.tokens = nn.Parameter(torch.randn(tokens, width) * 0.02)

    def forward(
        self, tracks: Tracks, correlation: Correlation | None, return_attention: bool = False
    ) -> tuple[Tracks, dict[str, AttentionMaps]]:
        example = next(iter(tracks.values())).mask
        present = example.new_ones(example.shape[0], len(self.tokens))
        tokens = self.tokens.expand(example.shape[0], -1, -1)
        maps: dict[str, AttentionMaps] = {}
        for layer in self.blocks:
            written, combined = [], {}
            for name, track in tracks.items():
                both = joined([track, Track(tokens, present)])
                steps = track.mask.shape[1]
                features, weights = attend_from(layer[name], both, both.mask.shape[1], return_attention)  # type: ignore[index]
                combined[name] = Track(features[:, :steps], track.mask)
                written.append(features[:, steps:])
                if weights is not None:
                    maps[name] = among(weights, 0, steps)
            tracks, tokens = combined, torch.stack(written).mean(0)
        return tracks, maps

    def attention(self, name: str) -> TransformerBlock:
        return self.blocks[-1][name]  # type: ignore[index,no-any-return]


@dataclass(frozen=True, kw_only=True)
class TokenFamily(Family):
    """A baseline: Transformer blocks of one width over the steps of all modalities.

    Args:
        width: features of every modality, a multiple of ``heads``.
        heads: of each layer's attention.
        layers: blocks one after the other.
        dropout: the share of features that a block drops in training.
    """

    prefix: ClassVar[str] = "tm"
    fuses: ClassVar[bool] = True
    width: int = 272
    heads: int = 8
    layers: int = bounded(2, 1, 1000)
    dropout: float = bounded(0.1, 0, 1)

    def reader(self, name: str, inputs: int) -> tuple[nn.Module, int]:
        return Projection(inputs, self.width), self.width

    def stack(self, widths: Widths, fusion: Fusion, max_steps: int, context: int) -> tuple[list[Layer], Widths]:
        return self.joint_layers(list(widths), max_steps), widths

    @abstractmethod
    def joint_layers(self, names: list[str], max_steps: int) -> list[Layer]:
        """The layers, for tracks of these names."""

    def blocks(self, names: list[str], max_steps: int) -> dict[str, TransformerBlock]:
        """A Transformer block for each name."""
        return {name: TransformerBlock(self.width, self.heads, max_steps, self.dropout) for name in names}

    def scaled(self, factor: float) -> "TokenFamily":
        return replace(self, width=multiple(self.width * factor, self.heads))


@dataclass(frozen=True, kw_only=True)
class CrossAttentionFamily(TokenFamily):
    """Each modality's steps attend to its own and to all others'."""

    label: ClassVar[str] = "Cross-attention"

    def joint_layers(self, names: list[str], max_steps: int) -> list[Layer]:
        return [CrossAttention(self.blocks(names, max_steps)) for _ in range(self.layers)]


@dataclass(frozen=True, kw_only=True)
class BottleneckFamily(TokenFamily):
    """Modalities meet in a few tokens (MBT).

    Args:
        tokens: how many.
        layers: 2 or more.
    """

    label: ClassVar[str] = "Attention bottlenecks"
    tokens: int = 4

    def joint_layers(self, names: list[str], max_steps: int) -> list[Layer]:
        return [Bottlenecks([self.blocks(names, max_steps) for _ in range(self.layers)], self.tokens)]


@dataclass(frozen=True, kw_only=True)
class OneStreamFamily(TokenFamily):
    """One Transformer over the steps of all modalities, as BERT is over those of two sentences."""

    label: ClassVar[str] = "One stream"
    width: int = 376

    def joint_layers(self, names: list[str], max_steps: int) -> list[Layer]:
        return [OneStream(*self.blocks(names[:1], max_steps).values()) for _ in range(self.layers)]
