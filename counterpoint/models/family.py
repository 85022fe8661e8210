"""Families of models, as plain data: each makes the readers and the layers of a recipe's model.

A family is one file: its attention module and its config side by side (`counterpoint.models.netvlad` and its
neighbours). A family of your own is a subclass of `AttentionFamily`, or of `Family` if its modalities do not meet by F.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from counterpoint.models.fusion import AttentionModule, CrossModalLayer, Fusion, Layer

Widths = Mapping[str, int]
"""Features by track."""
MODALITIES = ("audio", "text", "video")
"""What this package's encoders call their tracks; data may have others."""


@dataclass(frozen=True, kw_only=True)
class Family(ABC):
    """The parts of a model that depend on its kind of attention, as plain data."""

    label: ClassVar[str] = ""
    """Its name in plots and reports; where the paper has one, the paper's."""
    prefix: ClassVar[str] = ""
    """The first part of its recipes' names."""
    fuses: ClassVar[bool] = False
    """Whether its layers join the modalities by themselves, whatever the recipe's fusion."""
    keeps_steps: ClassVar[bool] = True
    """Whether its last layer gives a vector for each step, whose mean is the clip's."""

    @property
    def summary(self) -> str:
        """For tables: the first line of the docstring."""
        return (type(self).__doc__ or "").partition("\n")[0].rstrip(".")

    @abstractmethod
    def reader(self, name: str, inputs: int) -> tuple[nn.Module, int]:
        """The module that reads a track of so many features, and how many features it gives."""

    @abstractmethod
    def stack(self, widths: Widths, fusion: Fusion, max_steps: int, context: int) -> tuple[list[Layer], Widths]:
        """The layers behind the readers, and how many features they give by track.

        Args:
            widths: features of each track.
            max_steps: the longest clip.
            context: how many numbers the correlation tower gives for a pair of modalities.
        """

    def scaled(self, factor: float) -> "Family":
        """The same family with widths multiplied by ``factor``.

        Raises:
            NotImplementedError: it has no widths to scale.
        """
        raise NotImplementedError(f"{type(self).__name__} has no widths to scale")


@dataclass(frozen=True, kw_only=True)
class AttentionFamily(Family):
    """A family whose modalities meet by F of each other's weights, as the paper's do."""

    @property
    def depth(self) -> int:
        """How many layers."""
        return 1

    @abstractmethod
    def attention(self, name: str, inputs: int, max_steps: int) -> AttentionModule:
        """A track's part of a layer."""

    def stack(self, widths: Widths, fusion: Fusion, max_steps: int, context: int) -> tuple[list[Layer], Widths]:
        layers: list[Layer] = []
        for _ in range(self.depth):
            modules = {name: self.attention(name, width, max_steps) for name, width in widths.items()}
            layers.append(CrossModalLayer(modules, fusion, context))
            widths = {name: module.outputs for name, module in modules.items()}
        return layers, widths


def multiple(width: float, of: int = 1) -> int:
    """The multiple of a number that is nearest to ``width``, at least one of it."""
    return max(1, round(width / of)) * of
