"""NetVLAD (Arandjelovic et al. 2016), cross-modal in its assignments (Goyal et al., section 2.4)::

    a_tk = softmax_k(w_k . x_t + b_k)                      soft assignment of each step to clusters
    V_k  = sum_t (a_t + F(a'_t))_k (x_t - c_k)             the descriptor, a' being the other modality's assignments

Computed as ``a^T x - (sum_t a_t) c``, so that the (batch, step, cluster, feature) tensor is never formed. Only the
whole descriptor is normalized, not each cluster of it: with one step, as in video-level records, normalizing ``V_k``
would cancel the assignments altogether.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from counterpoint.data.tracks import Track, masked_softmax
from counterpoint.fields import by_modality
from counterpoint.models.family import AttentionFamily, multiple
from counterpoint.models.fusion import JOINED, AttentionMaps, AttentionModule, Axis, Influences, Weights


class Descriptor(nn.Module):
    """(batch, part, feature) -> one vector per clip: root-mean-square normalized as a whole, then a linear map.

    The norm is a number per clip and the map linear, so the norm is divided out behind the map, where it is cheap.
    """

    def __init__(self, parts: int, features: int, outputs: int) -> None:
        super().__init__()
        self.map = nn.Linear(parts * features, outputs, bias=False)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, parts: Float[Tensor, "batch part feature"]) -> Float[Tensor, "batch output"]:
        flat = parts.flatten(1)
        wide = torch.promote_types(flat.dtype, torch.float32)
        scale = torch.linalg.vector_norm(flat, dim=1, keepdim=True, dtype=wide) / math.sqrt(flat.shape[1])
        # A clip without this modality has a zero descriptor; the floor keeps it, and its gradient, finite.
        mapped: Tensor = self.map(flat) / scale.clamp_min(1e-6)
        return mapped.to(self.bias.dtype) + self.bias


class NetVLAD(AttentionModule):
    """One modality's NetVLAD: a track of any length to a track of one step."""

    row = "cluster"

    def __init__(self, inputs: int, clusters: int, outputs: int) -> None:
        super().__init__()
        self.inputs = inputs
        self.outputs = outputs
        self.axis = Axis(clusters, steps=False)
        self.rows = clusters
        self.assign = nn.Linear(inputs, clusters)
        self.centres = nn.Parameter(torch.randn(clusters, inputs) / math.sqrt(inputs))
        self.describe = Descriptor(clusters, inputs, outputs)

    def weights(
        self, track: Track, emphasis: Float[Tensor, "batch row step"] | None = None
    ) -> Float[Tensor, "batch step cluster"]:
        weights: Tensor = self.assign(track.features).softmax(-1)
        if emphasis is None:
            return weights * track.mask.unsqueeze(-1)
        # A bias on the logits would cancel, being the same for all clusters of a step. A factor of mean one over the
        # steps keeps the weights' size, which F was made for.
        factor = masked_softmax(emphasis, track.mask.unsqueeze(1)) * track.mask.sum(1)[:, None, None]
        return weights * factor.mT

    def aggregate(self, track: Track, weights: Weights, influence: Influences) -> Track:
        assert isinstance(weights, Tensor)
        # Masked again: the influence goes on where this track has no steps.
        assigned = (influence.added_to(weights) * track.mask.unsqueeze(-1)).mT
        described = assigned @ track.features
        # In the product's precision: a descriptor is the largest tensor of the model, and promoting it costs the most.
        residuals = described - assigned.sum(-1, keepdim=True).to(described) * self.centres.to(described)
        return Track(self.describe(residuals).unsqueeze(1), track.mask.any(1, keepdim=True))

    def attention_maps(self, track: Track, weights: Weights, influence: Influences) -> AttentionMaps:
        assert isinstance(weights, Tensor)
        after = influence.added_to(weights) * track.mask.unsqueeze(-1)
        return AttentionMaps(weights, after - weights, after)

    def time_profile(
        self, weights: Float[Tensor, "... competitor"], present: Bool[Tensor, "step"]
    ) -> Float[Tensor, "row step"]:
        """Clusters by step."""
        return weights.mT


@dataclass(frozen=True, kw_only=True)
class NetVLADFamily(AttentionFamily):
    """NetVLAD with the paper's cluster numbers (section 4.2).

    Args:
        clusters: by modality; a modality that is not named has 64.
        hidden: features of one modality's mapped descriptor.
    """

    label: ClassVar[str] = "NetVLAD"
    prefix: ClassVar[str] = "nv"
    keeps_steps: ClassVar[bool] = False
    clusters: dict[str, int] = by_modality({"video": 128, "audio": 64, JOINED: 128})
    hidden: int = 128

    def reader(self, name: str, inputs: int) -> tuple[nn.Module, int]:
        return nn.Identity(), inputs

    def attention(self, name: str, inputs: int, max_steps: int) -> AttentionModule:
        return NetVLAD(inputs, self.clusters.get(name, 64), self.hidden)

    def scaled(self, factor: float) -> "NetVLADFamily":
        return replace(self, hidden=multiple(self.hidden * factor))
