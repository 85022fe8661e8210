"""Attention clusters (Long et al. 2018, without their shifting operation), cross-modal in their attention over time
(Goyal et al., section 2.2)::

    h   = LSTM(x)                                          or GRU, or x itself
    a_u = softmax_t(w_u . tanh(W h_t + b))                 several attention units u
    c_u = sum_t (a_u + F(a'_u))_t h_t                      a' being the other modality's attention, unit by unit
"""

import contextlib
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from counterpoint.data.tracks import Track, masked_softmax
from counterpoint.fields import by_modality
from counterpoint.models.exported import is_exporting, scanned
from counterpoint.models.family import AttentionFamily, multiple
from counterpoint.models.fusion import JOINED, AttentionMaps, AttentionModule, Axis, Influences, Weights
from counterpoint.models.netvlad import Descriptor

Recurrence = Literal["lstm", "gru", "none"]


class Recurrent(nn.Module):
    """Reads a track in time: LSTM, GRU, or a ReLU-linear map of each step. Missing steps are read as zeros."""

    def __init__(self, inputs: int, outputs: int, recurrence: Recurrence) -> None:
        super().__init__()
        self.inner = (
            nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU())
            if recurrence == "none"
            else {"lstm": nn.LSTM, "gru": nn.GRU}[recurrence](inputs, outputs, batch_first=True)
        )

    def forward(self, track: Track) -> Track:
        features = track.zeroed().features
        if is_exporting() and isinstance(self.inner, nn.RNNBase):
            return Track(scanned(self.inner, features), track.mask).zeroed()
        # A processor without bfloat16 instructions has no LSTM kernel in it: mixed precision then keeps single there.
        recurrent = isinstance(self.inner, nn.RNNBase)
        single = recurrent and features.is_cpu and not torch.ops.mkldnn._is_mkldnn_bf16_supported()
        with torch.autocast("cpu", enabled=False) if single else contextlib.nullcontext():
            read = self.inner(features)
        return Track(read[0] if isinstance(read, tuple) else read, track.mask).zeroed()


class AttentionCluster(AttentionModule):
    """One modality's attention units: a track of any length to a track of one step."""

    row = "attention unit"

    def __init__(self, inputs: int, units: int, outputs: int, max_steps: int) -> None:
        super().__init__()
        self.inputs = inputs
        self.outputs = outputs
        self.axis = Axis(max_steps, steps=True)
        self.rows = units
        self.attend = nn.Sequential(
            nn.Linear(inputs, inputs // 2), nn.Tanh(), nn.Linear(inputs // 2, units, bias=False)
        )
        self.describe = Descriptor(units, inputs, outputs)

    def weights(
        self, track: Track, emphasis: Float[Tensor, "batch row step"] | None = None
    ) -> Float[Tensor, "batch unit step"]:
        logits = self.attend(track.features).mT
        return masked_softmax(logits if emphasis is None else logits + emphasis, track.mask.unsqueeze(1))

    def aggregate(self, track: Track, weights: Weights, influence: Influences) -> Track:
        assert isinstance(weights, Tensor)
        attention = influence.added_to(weights) * track.mask.unsqueeze(1)
        return Track(self.describe(attention @ track.features).unsqueeze(1), track.mask.any(1, keepdim=True))

    def attention_maps(self, track: Track, weights: Weights, influence: Influences) -> AttentionMaps:
        assert isinstance(weights, Tensor)
        after = influence.added_to(weights) * track.mask.unsqueeze(1)
        return AttentionMaps(weights, after - weights, after)

    def time_profile(
        self, weights: Float[Tensor, "... competitor"], present: Bool[Tensor, "step"]
    ) -> Float[Tensor, "row step"]:
        """Attention units by step."""
        return weights


@dataclass(frozen=True, kw_only=True)
class AttentionClusterFamily(AttentionFamily):
    """Attention clusters over a recurrent network.

    Args:
        recurrence: ``lstm``, ``gru`` or ``none`` (attention clusters over the features themselves).
        widths: features of the recurrent network by modality; a modality that is not named has 128.
        units: attention units, the same number in every modality, since F maps each to its counterpart.
        hidden: features of one modality's mapped descriptor.
    """

    label: ClassVar[str] = "Attention clusters"
    prefix: ClassVar[str] = "rnn"
    keeps_steps: ClassVar[bool] = False
    recurrence: Recurrence = "lstm"
    widths: dict[str, int] = by_modality({"video": 512, "audio": 128, JOINED: 640})
    units: int = 16
    hidden: int = 512

    def reader(self, name: str, inputs: int) -> tuple[nn.Module, int]:
        width = self.widths.get(name, 128)
        return Recurrent(inputs, width, self.recurrence), width

    def attention(self, name: str, inputs: int, max_steps: int) -> AttentionModule:
        return AttentionCluster(inputs, self.units, self.hidden, max_steps)

    def scaled(self, factor: float) -> "AttentionClusterFamily":
        return replace(self, widths={name: multiple(width * factor) for name, width in self.widths.items()})
