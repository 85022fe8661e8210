"""Averaged features: no attention and no influence, a clip's vector is the mean over its seconds.

The baseline that all families have to beat. It has no layers: the trunk pools what it reads.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from counterpoint.models.family import Family, Widths
from counterpoint.models.fusion import Fusion, Layer


@dataclass(frozen=True, kw_only=True)
class MeanFamily(Family):
    """The mean over seconds."""

    label: ClassVar[str] = "Mean"
    prefix: ClassVar[str] = "mean"

    def reader(self, name: str, inputs: int) -> tuple[nn.Module, int]:
        return nn.Identity(), inputs

    def stack(self, widths: Widths, fusion: Fusion, max_steps: int, context: int) -> tuple[list[Layer], Widths]:
        return [], widths
