"""A family of your own: gated attention pooling (Ilse et al. 2018, equation 9), cross-modal in its attention.

Each modality has one attention over its steps, and a modality's influence on another is F of it::

    a_t = softmax_t(w . (tanh(V x_t) * sigmoid(U x_t)))
    c   = sum_t (a_t + F(a'_t)) x_t

Train it::

    counterpoint train --recipe examples.own_family:RECIPE --data 'train*.tfrecord' --out runs/own-family
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from counterpoint.data.tracks import Track, masked_softmax
from counterpoint.models.family import AttentionFamily
from counterpoint.models.fusion import AttentionMaps, AttentionModule, Axis, CrossModal, Influences, Weights
from counterpoint.recipes import Recipe


class GatedPooling(AttentionModule):
    """One modality's attention: a track of any length to a track of one step."""

    row = "attention"

    def __init__(self, inputs: int, hidden: int, max_steps: int) -> None:
        super().__init__()
        self.inputs = self.outputs = inputs
        self.axis = Axis(max_steps, steps=True)
        self.tanh = nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh())
        self.sigmoid = nn.Sequential(nn.Linear(inputs, hidden), nn.Sigmoid())
        self.score = nn.Linear(hidden, 1, bias=False)

    def weights(self, track: Track) -> Tensor:  # (batch, 1, step)
        score = self.score(self.tanh(track.features) * self.sigmoid(track.features))
        return masked_softmax(score.mT, track.mask.unsqueeze(1))

    def aggregate(self, track: Track, weights: Weights, influence: Influences) -> Track:
        after = self.attention_maps(track, weights, influence).after
        return Track(after @ track.features, track.mask.any(1, keepdim=True))

    def attention_maps(self, track: Track, weights: Weights, influence: Influences) -> AttentionMaps:
        assert isinstance(weights, Tensor)
        after = influence.added_to(weights) * track.mask.unsqueeze(1)
        return AttentionMaps(weights, after - weights, after)

    def time_profile(self, weights: Tensor, present: Tensor) -> Tensor:
        return weights


@dataclass(frozen=True, kw_only=True)
class GatedPoolingFamily(AttentionFamily):
    """Gated attention pooling of the features as they are.

    Args:
        hidden: features of the attention's hidden layer.
    """

    label: ClassVar[str] = "Gated pooling"
    prefix: ClassVar[str] = "gp"
    hidden: int = 64

    def reader(self, name: str, inputs: int) -> tuple[nn.Module, int]:
        return nn.Identity(), inputs

    def attention(self, name: str, inputs: int, max_steps: int) -> AttentionModule:
        return GatedPooling(inputs, self.hidden, max_steps)


RECIPE = Recipe(name="gp-cm", family=GatedPoolingFamily(), fusion=CrossModal(reach=30, start="identity"))
