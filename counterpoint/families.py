"""Families: what a recipe's model is made of, as plain data; each tells its readers and its layers."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

from torch import nn

from counterpoint.models.attention_cluster import AttentionCluster, Recurrence, Recurrent
from counterpoint.models.baselines import Bottlenecks, CrossAttention, OneStream
from counterpoint.models.categorizer import JOINED
from counterpoint.models.fusion import AttentionModule, CrossModalLayer, Fusion, Layer
from counterpoint.models.netvlad import NetVLAD
from counterpoint.models.transformer import Projection, TransformerBlock

Widths = Mapping[str, int]
"""Features by track."""


@dataclass(frozen=True, kw_only=True)
class AttentionFamily:
    """The paper's families: layers whose modalities hear each other's weights."""

    layers: ClassVar[int] = 1

    def scaled(self, factor: float) -> Self:
        """The same family with other widths."""
        raise NotImplementedError

    def reader(self, name: str, inputs: int) -> tuple[nn.Module, int]:
        """What reads a track of so many features, and how many it gives."""
        raise NotImplementedError

    def attention(self, name: str, inputs: int, max_steps: int) -> AttentionModule:
        """A track's part of a layer."""
        raise NotImplementedError

    def stack(self, widths: Widths, fusion: Fusion, max_steps: int, context: int) -> tuple[list[Layer], Widths]:
        """The layers behind the readers, and how many features they give by track."""
        layers: list[Layer] = []
        for _ in range(self.layers):
            attention_modules = {name: self.attention(name, width, max_steps) for name, width in widths.items()}
            layers.append(CrossModalLayer(attention_modules, fusion, context))
            widths = {name: attention.outputs for name, attention in attention_modules.items()}
        return layers, widths


@dataclass(frozen=True, kw_only=True)
class NetVLADFamily(AttentionFamily):
    """NetVLAD with the paper's cluster numbers (section 4.2).

    Args:
        clusters: by modality; a modality that is not named has 64.
        hidden: features of one modality's mapped descriptor.
    """

    clusters: dict[str, int] = field(default_factory=lambda: {"video": 128, "audio": 64, JOINED: 128})
    hidden: int = 128

    def reader(self, name: str, inputs: int) -> tuple[nn.Module, int]:
        return nn.Identity(), inputs

    def attention(self, name: str, inputs: int, max_steps: int) -> AttentionModule:
        return NetVLAD(inputs, self.clusters.get(name, 64), self.hidden)

    def scaled(self, factor: float) -> Self:
        return replace(self, hidden=_multiple(self.hidden * factor))


@dataclass(frozen=True, kw_only=True)
class TransformerFamily(AttentionFamily):
    """Transformer blocks over the steps.

    Args:
        widths: features by modality, a multiple of ``heads``; a modality that is not named has 128.
    """

    widths: dict[str, int] = field(default_factory=lambda: {"video": 512, "audio": 128, JOINED: 640})
    heads: int = 8
    layers: int = 1  # type: ignore[misc]
    dropout: float = 0.1

    def reader(self, name: str, inputs: int) -> tuple[nn.Module, int]:
        width = self.widths.get(name, 128)
        return Projection(inputs, width), width

    def attention(self, name: str, inputs: int, max_steps: int) -> AttentionModule:
        return TransformerBlock(inputs, self.heads, max_steps, self.dropout)

    def scaled(self, factor: float) -> Self:
        widths = {name: _multiple(width * factor, self.heads) for name, width in self.widths.items()}
        return replace(self, widths=widths)


@dataclass(frozen=True, kw_only=True)
class AttentionClusterFamily(AttentionFamily):
    """Attention clusters over a recurrent network.

    Args:
        recurrence: ``lstm``, ``gru`` or ``none`` (attention clusters over the features themselves).
        widths: features of the recurrent network by modality; a modality that is not named has 128.
        units: attention units, the same number in every modality, since each hears its counterpart.
        hidden: features of one modality's mapped descriptor.
    """

    recurrence: Recurrence = "lstm"
    widths: dict[str, int] = field(default_factory=lambda: {"video": 512, "audio": 128, JOINED: 640})
    units: int = 16
    hidden: int = 512

    def reader(self, name: str, inputs: int) -> tuple[nn.Module, int]:
        width = self.widths.get(name, 128)
        return Recurrent(inputs, width, self.recurrence), width

    def attention(self, name: str, inputs: int, max_steps: int) -> AttentionModule:
        return AttentionCluster(inputs, self.units, self.hidden, max_steps)

    def scaled(self, factor: float) -> Self:
        return replace(self, widths={name: _multiple(width * factor) for name, width in self.widths.items()})


@dataclass(frozen=True, kw_only=True)
class TokenFamily:
    """The rivals: Transformer blocks of one width over the steps of all modalities (`counterpoint.models.baselines`).

    Args:
        width: features of every modality, a multiple of ``heads``.
    """

    width: int = 272
    heads: int = 8
    layers: int = 2
    dropout: float = 0.1

    def reader(self, name: str, inputs: int) -> tuple[nn.Module, int]:
        return Projection(inputs, self.width), self.width

    def stack(self, widths: Widths, fusion: Fusion, max_steps: int, context: int) -> tuple[list[Layer], Widths]:
        """See `Weighing`; the fusion has no say in how the modalities meet."""
        return self.meetings(list(widths), max_steps), widths

    def meetings(self, names: list[str], max_steps: int) -> list[Layer]:
        raise NotImplementedError

    def blocks(self, names: list[str], max_steps: int) -> dict[str, TransformerBlock]:
        return {name: TransformerBlock(self.width, self.heads, max_steps, self.dropout) for name in names}

    def scaled(self, factor: float) -> Self:
        return replace(self, width=_multiple(self.width * factor, self.heads))


@dataclass(frozen=True, kw_only=True)
class CrossAttentionFamily(TokenFamily):
    """Each modality's steps attend to its own and to all others'."""

    def meetings(self, names: list[str], max_steps: int) -> list[Layer]:
        return [CrossAttention(self.blocks(names, max_steps)) for _ in range(self.layers)]


@dataclass(frozen=True, kw_only=True)
class BottleneckFamily(TokenFamily):
    """Modalities meet in a few tokens (MBT).

    Args:
        tokens: how many.
        layers: 2 or more.
    """

    tokens: int = 4

    def meetings(self, names: list[str], max_steps: int) -> list[Layer]:
        return [Bottlenecks([self.blocks(names, max_steps) for _ in range(self.layers)], self.tokens)]


@dataclass(frozen=True, kw_only=True)
class OneStreamFamily(TokenFamily):
    """One Transformer over the steps of all modalities, as BERT is over those of two sentences."""

    width: int = 376

    def meetings(self, names: list[str], max_steps: int) -> list[Layer]:
        return [OneStream(*self.blocks(names[:1], max_steps).values()) for _ in range(self.layers)]


Family = (
    NetVLADFamily
    | TransformerFamily
    | AttentionClusterFamily
    | CrossAttentionFamily
    | BottleneckFamily
    | OneStreamFamily
)


def _multiple(width: float, of: int = 1) -> int:
    """The nearest multiple of a number, at least one of it."""
    return max(1, round(width / of)) * of
