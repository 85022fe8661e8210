"""Rivals: Transformers whose modalities meet by attention over each other's steps, not by F of each other's weights.

All are blocks of one width over tokens, a token being a step of a modality (Nagrani et al., "Attention Bottlenecks for
Multimodal Fusion", 2021, section 3.2; ``x_m`` are the tokens of modality m)::

    one stream         x        <- block(x; x),   x being all tokens                         their vanilla fusion
    cross-attention    x_m      <- block_m(x_m; all tokens)                                  with own parameters
    bottlenecks        x_m, z_m <- block_m(x_m, z; x_m, z),   z <- mean over m of z_m        with few tokens z

``block(q; k)`` is `counterpoint.models.transformer.TransformerBlock` where q ask and k answer. One stream is what BERT
does with two sentences (Devlin et al. 2019; VisualBERT): the maps that read the modalities have a bias each, which is
the modality's embedding.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from counterpoint.data.tracks import Track, Tracks
from counterpoint.errors import Error
from counterpoint.models.fusion import AttentionMaps, Correlation, Influences, Layer
from counterpoint.models.transformer import Logits, TransformerBlock, attend

NOBODY = Influences([])


def ask(
    block: TransformerBlock, tokens: Track, count: int, return_attention: bool
) -> tuple[Tensor, AttentionMaps | None]:
    """The features of the first ``count`` tokens after a block where they ask all, and the weights if asked for."""
    logits = block.weights(tokens)
    weights = Logits(logits.queries[:, :, :count], logits.keys)
    attended = attend(weights, block.values(tokens), tokens.mask, NOBODY)
    shown = block.attention_maps(tokens, weights, NOBODY) if return_attention else None
    return block.finish(tokens.features[:, :count], attended), shown


def joined(tracks: Sequence[Track]) -> Track:
    """Tracks one after the other."""
    return Track(torch.cat([track.features for track in tracks], 1), torch.cat([track.mask for track in tracks], 1))


def at(shown: AttentionMaps, start: int, steps: int) -> AttentionMaps:
    """What some tokens, such as a modality's steps, give each other; other tokens have the rest of the sum."""
    own = slice(start, start + steps)
    return AttentionMaps(*(part[..., own, own] for part in shown))


class CrossAttention(Layer):
    """One layer in which a modality's steps ask its own steps and all others'."""

    def __init__(self, blocks: Mapping[str, TransformerBlock]) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict(blocks)

    def forward(
        self, tracks: Tracks, correlation: Correlation | None, return_attention: bool = False
    ) -> tuple[Tracks, dict[str, AttentionMaps]]:
        combined, shown = {}, {}
        for name, track in tracks.items():
            others = [tracks[other] for other in sorted(tracks) if other != name]
            steps = track.mask.shape[1]
            features, weights = ask(self.attention(name), joined([track, *others]), steps, return_attention)
            combined[name] = Track(features, track.mask)
            if weights is not None:
                shown[name] = at(weights, 0, steps)
        return combined, shown

    def attention(self, name: str) -> TransformerBlock:
        return self.blocks[name]  # type: ignore[return-value]


class OneStream(Layer):
    """One layer in which all modalities' steps ask each other, as if they were of one kind."""

    def __init__(self, block: TransformerBlock) -> None:
        super().__init__()
        self.block = block

    def forward(
        self, tracks: Tracks, correlation: Correlation | None, return_attention: bool = False
    ) -> tuple[Tracks, dict[str, AttentionMaps]]:
        tokens = joined(list(tracks.values()))
        features, weights = ask(self.block, tokens, tokens.mask.shape[1], return_attention)
        combined, shown, start = {}, {}, 0
        for name, track in tracks.items():
            steps = track.mask.shape[1]
            combined[name] = Track(features[:, start : start + steps], track.mask)
            if weights is not None:
                shown[name] = at(weights, start, steps)
            start += steps
        return combined, shown

    def attention(self, name: str) -> TransformerBlock:
        return self.block


class Bottlenecks(Layer):
    """Several layers in which modalities meet in a few tokens that all of them read and write, and nowhere else.

    Args:
        blocks: by layer, then by modality.
        tokens: how many meet; learned at the start, and forgotten behind the last layer.
    """

    def __init__(self, blocks: Sequence[Mapping[str, TransformerBlock]], tokens: int) -> None:
        super().__init__()
        if len(blocks) < 2:
            raise Error("bottlenecks need 2 layers or more: what is written in one is read in the next")
        self.blocks = nn.ModuleList(nn.ModuleDict(layer) for layer in blocks)
        width = next(iter(blocks[0].values())).inputs
        self.tokens = nn.Parameter(torch.randn(tokens, width) * 0.02)

    def forward(
        self, tracks: Tracks, correlation: Correlation | None, return_attention: bool = False
    ) -> tuple[Tracks, dict[str, AttentionMaps]]:
        example = next(iter(tracks.values())).mask
        there = example.new_ones(len(example), len(self.tokens))
        tokens = self.tokens.expand(len(example), -1, -1)
        shown: dict[str, AttentionMaps] = {}
        for layer in self.blocks:
            written, combined = [], {}
            for name, track in tracks.items():
                both = joined([track, Track(tokens, there)])
                steps = track.mask.shape[1]
                features, weights = ask(layer[name], both, both.mask.shape[1], return_attention)  # type: ignore[index]
                combined[name] = Track(features[:, :steps], track.mask)
                written.append(features[:, steps:])
                if weights is not None:
                    shown[name] = at(weights, 0, steps)
            tracks, tokens = combined, torch.stack(written).mean(0)
        return tracks, shown

    def attention(self, name: str) -> TransformerBlock:
        return self.blocks[-1][name]  # type: ignore[index,no-any-return]
