"""Heads: the network that joins the modalities' vectors and gives a logit for each category (late fusion, section 2.1).

A head of your own is a subclass of `HeadKind`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from counterpoint.fields import bounded


class Head(nn.Module):
    """The modalities' vectors, in the order of their names, through a network whose last map gives the outputs."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.network = nn.Sequential(*layers)
        last = layers[-1]
        assert isinstance(last, nn.Linear)
        # Begin with a probability of one in all categories: a half each would take epochs to unlearn.
        nn.init.constant_(last.bias, -math.log(max(last.out_features - 1, 1)))

    @property
    def networks(self) -> dict[str, nn.Sequential]:
        """The networks by their place in the head; the last map of each has a row for each output."""
        return {"network": self.network}

    def forward(self, vectors: Mapping[str, Tensor]) -> tuple[Float[Tensor, "batch output"], Tensor]:
        """The outputs, and the hidden features that they are read from."""
        hidden = self.network[:-1](torch.cat([vectors[name] for name in sorted(vectors)], -1))
        return self.network[-1](hidden), hidden


class Residual(nn.Module):
    """A block that adds to its input what a small network makes of it."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, width)
        )

    def forward(self, features: Float[Tensor, "batch width"]) -> Float[Tensor, "batch width"]:
        return features + self.network(features)  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True)
class HeadKind(ABC):
    """A kind of head, as plain data."""

    @property
    def summary(self) -> str:
        """For tables: the first line of the docstring."""
        return (type(self).__doc__ or "").partition("\n")[0].rstrip(".")

    @abstractmethod
    def build(self, inputs: int, outputs: int) -> Head:
        """The untrained head."""


@dataclass(frozen=True, kw_only=True)
class HeadConfig(HeadKind):
    """The paper's deep network: one hidden layer.

    Args:
        hidden: its hidden features.
        dropout: the share of its inputs and of its hidden features that are dropped in training.
    """

    hidden: int = 1024
    dropout: float = bounded(0.3, 0, 1)

    def build(self, inputs: int, outputs: int) -> Head:
        drop = nn.Dropout(self.dropout)
        last = nn.Linear(self.hidden, outputs)
        return Head(
            nn.LayerNorm(inputs), drop, nn.Linear(inputs, self.hidden), nn.ReLU(), nn.Dropout(self.dropout), last
        )


@dataclass(frozen=True, kw_only=True)
class LinearHead(HeadKind):
    """A linear map alone: logistic regression.

    Args:
        dropout: the share of its inputs that are dropped in training.
    """

    dropout: float = bounded(0.0, 0, 1)

    def build(self, inputs: int, outputs: int) -> Head:
        return Head(nn.Dropout(self.dropout), nn.Linear(inputs, outputs))


@dataclass(frozen=True, kw_only=True)
class MLPHead(HeadKind):
    """One hidden layer with its own normalization.

    Args:
        hidden: its hidden features.
        input_dropout: the share of its inputs that are dropped in training.
        dropout: the share of its hidden features that are dropped in training.
        groups: groups of hidden features, each normalized by itself: networks that `merge` has joined.
    """

    hidden: int = 2048
    input_dropout: float = bounded(0.2, 0, 1)
    dropout: float = bounded(0.5, 0, 1)
    groups: int = 1

    def build(self, inputs: int, outputs: int) -> Head:
        # One group is LayerNorm. Not BatchNorm: the result must not depend on how processes share a batch.
        norm = nn.GroupNorm(self.groups, self.hidden)
        hidden = (nn.Linear(inputs, self.hidden), norm, nn.ReLU(), nn.Dropout(self.dropout))
        return Head(nn.Dropout(self.input_dropout), *hidden, nn.Linear(self.hidden, outputs))


@dataclass(frozen=True, kw_only=True)
class ResidualHead(HeadKind):
    """Residual blocks of one width (LayerNorm, GELU) between two linear maps.

    Args:
        width: features between the blocks.
        hidden: hidden features of a block.
        blocks: how many.
        input_dropout: the share of its inputs that are dropped in training.
        dropout: the share of hidden features that are dropped in training.
    """

    width: int = 1024
    hidden: int = 1024
    blocks: int = bounded(2, 1, 100)
    input_dropout: float = bounded(0.2, 0, 1)
    dropout: float = bounded(0.5, 0, 1)

    def build(self, inputs: int, outputs: int) -> Head:
        blocks = (Residual(self.width, self.hidden, self.dropout) for _ in range(self.blocks))
        last = (nn.LayerNorm(self.width), nn.GELU(), nn.Dropout(self.dropout), nn.Linear(self.width, outputs))
        return Head(nn.Dropout(self.input_dropout), nn.Linear(inputs, self.width), *blocks, *last)


class JoinedHead(Head):
    """Two heads side by side: their mean logits, and the hidden features of both."""

    def __init__(self, one: Head, other: Head) -> None:
        nn.Module.__init__(self)
        self.one, self.other = one, other

    def forward(self, vectors: Mapping[str, Tensor]) -> tuple[Float[Tensor, "batch output"], Tensor]:
        (logits, hidden), (others, more) = self.one(vectors), self.other(vectors)
        return (logits + others) / 2, torch.cat([hidden, more], -1)

    @property
    def networks(self) -> dict[str, nn.Sequential]:
        return {"one.network": self.one.network, "other.network": self.other.network}


@dataclass(frozen=True, kw_only=True)
class MLPAndResidualHead(HeadKind):
    """A network with one hidden layer and one of residual blocks, whose logits are averaged: they err differently.

    Made by merging runs of both.
    """

    mlp: MLPHead = field(default_factory=MLPHead)
    residual: ResidualHead = field(default_factory=ResidualHead)

    def build(self, inputs: int, outputs: int) -> Head:
        return JoinedHead(self.mlp.build(inputs, outputs), self.residual.build(inputs, outputs))
