"""A fusion of your own: cross-modal, with an influence whose strength is learned.

The paper adds F of the other modality's weights as it is. Here each pair of modalities also learns how much of it is
added, as the gates of Flamingo do (Alayrac et al. 2022, section 2.2)::

    a_m + sum over s != m of sigmoid(g_sm) F_sm(a_s)

The strength ``sigmoid(g)`` begins at ``strength``; F's last layer is multiplied by it, which is the same. Train it::

    counterpoint train --recipe examples.own_fusion:RECIPE --data 'train*.tfrecord' --out runs/own-fusion
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import nn

from counterpoint.fields import bounded
from counterpoint.models.fusion import Axis, CrossModal, Influence, LazyInfluence, Parts
from counterpoint.recipes import RECIPES


class LearnedInfluence(Influence):
    """``sigmoid(g) F(a)``."""

    def __init__(self, parts: Parts, strength: float) -> None:
        super().__init__(parts)
        self.g = nn.Parameter(torch.tensor(strength).logit())

    def lazy(self, *arguments: Any, **options: Any) -> LazyInfluence:
        influence = super().lazy(*arguments, **options)
        *layers, (matrix, bias) = influence.layers
        strength = self.g.sigmoid()
        scaled: Sequence[tuple[torch.Tensor, torch.Tensor]] = [*layers, (matrix * strength, bias * strength)]
        return replace(influence, layers=scaled)


@dataclass(frozen=True, kw_only=True)
class LearnedStrength(CrossModal):
    """CM whose influences are added as strongly as training finds best.

    Args:
        strength: of each influence at the start.
    """

    label: ClassVar[str] = "learned strength"
    strength: float = bounded(0.5, 0.01, 0.99)

    def influence(self, source: Axis, target: Axis, context: int) -> Influence | None:
        return LearnedInfluence(self.parts(source, target), self.strength)


RECIPE = RECIPES["nv-cm"].with_(name="nv-learned-strength", fusion=LearnedStrength(hidden=(64,)))
