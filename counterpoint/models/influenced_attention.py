"""A Transformer's attention with influences on its logits, forward and backward written out::

    softmax(Q K^T + sum over s of F_s(Q_s K_s^T)) V

A whole batch of logits would take several times the memory of all the rest: they are formed for a few rows (a head of a
clip) at a time, as many as fit a cache, and formed again in the backward pass. A linear map along the keys is a map of
the keys alone, ``(Q K^T) W = Q (W^T K)^T``, so F's first layer costs about as much as attention does.

`torch.utils.checkpoint` around the same formula would need none of this, but F then costs about twice as much.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_LOGITS = {"cpu": 1 << 18, "cuda": 1 << 26}
"""Logits formed at once, by device: as many as fit a cache, or as keep a GPU busy."""


@dataclass(frozen=True)
class LogitInfluence:
    """F of another modality's logits. Rows are the heads of the first clip, then those of the second, and so on."""

    queries: Float[Tensor, "row query channel"]
    keys: Float[Tensor, "row key channel"]
    bias: Float[Tensor, "row 1 width"]
    """Of the first layer, with the correlation tower's part of it in each clip."""
    layers: Sequence[Tensor]
    """By head: the first matrix (input, output); then the other matrices, each followed by its bias (1, output)."""
    gate: Bool[Tensor, "row 1 1"] | None = None

    def tensors(self) -> list[Tensor]:
        """All tensors that have a gradient."""
        return [self.queries, self.keys, self.bias, *self.layers]

    @classmethod
    def of(cls, tensors: Sequence[Tensor], gate: Tensor | None = None) -> "LogitInfluence":
        """The influence made of such tensors, or their gradients by the same names."""
        queries, keys, bias, *layers = tensors
        return cls(queries, keys, bias, layers, gate)

    def folded_keys(self) -> Float[Tensor, "row width channel"]:
        """The keys behind the first matrix."""
        return self._by_row(self.layers[0].mT @ self._by_head(self.keys))

    def fold_backward(self, gradient: Float[Tensor, "row width channel"], gradients: "LogitInfluence") -> None:
        """From the gradient of the folded keys to those of the keys and the first matrix."""
        gradient = self._by_head(gradient)
        torch.bmm(self._by_head(self.keys), gradient.mT, out=gradients.layers[0])
        gradients.keys.copy_(self._by_row(self.layers[0] @ gradient))

    def forward(self, rows: slice, folded: Tensor, buffer: Tensor) -> list[Tensor]:
        """Each layer's output in some rows, the last one being F; that of a single layer is in ``buffer``."""
        out = buffer if len(self.layers) == 1 else None  # hidden layers have a width of their own
        outputs = [torch.bmm(self.queries[rows], folded[rows].mT, out=out).add_(self.bias[rows]).relu_()]
        for i in range(1, len(self.layers), 2):
            matrix, bias = (tensor[self._heads(rows)] for tensor in self.layers[i : i + 2])
            inputs = outputs[-1] if i == 1 else outputs[-1].relu_()
            outputs.append((inputs.unflatten(0, (-1, len(matrix))) @ matrix).add_(bias).flatten(0, 1))
        if self.gate is not None:
            outputs[-1] = torch.where(self.gate[rows], outputs[-1], 0.0)
        return outputs

    def backward(self, rows: slice, outputs: list[Tensor], gradient: Tensor, gradients: "LogitInfluence") -> Tensor:
        """From the gradient of F in some rows to that of the first layer before its ReLU.

        Args:
            outputs: of `forward`.
            gradients: those of the other layers are added here.
        """
        if self.gate is not None:
            gradient = torch.where(self.gate[rows], gradient, 0.0)
        for i in range(len(self.layers) - 2, 0, -2):
            heads = self._heads(rows)
            matrix, inputs = self.layers[i][heads], outputs[i // 2]
            gradients.layers[i][heads] += (inputs.mT @ gradient).unflatten(0, (-1, len(matrix))).sum(0)
            gradient = gradient.unflatten(0, (-1, len(matrix)))
            gradients.layers[i + 1][heads] += gradient.sum((0, 2)).unsqueeze(1)
            gradient = (gradient @ matrix.mT).flatten(0, 1)
            if i > 1:
                gradient = _relu_backward(gradient, inputs)
        return _relu_backward(gradient, outputs[0])

    def _heads(self, rows: slice) -> slice:
        heads = len(self.layers[0])
        return slice(rows.start % heads, rows.start % heads + min(heads, rows.stop - rows.start))

    def _by_head(self, keys: Float[Tensor, "row key channel"]) -> Float[Tensor, "head key clips_channel"]:
        # All clips side by side, so that one product a head serves them all.
        by_clip: Tensor = keys.unflatten(0, (-1, len(self.layers[0])))
        return by_clip.permute(1, 2, 0, 3).flatten(2)

    def _by_row(self, keys: Float[Tensor, "head key clips_channel"]) -> Float[Tensor, "row key channel"]:
        by_clip: Tensor = keys.unflatten(2, (-1, self.keys.shape[-1]))
        return by_clip.permute(2, 0, 1, 3).flatten(0, 1)


def influenced_attention(
    queries: Float[Tensor, "row query channel"],
    keys: Float[Tensor, "row key channel"],
    values: Float[Tensor, "row key channel"],
    floor: Float[Tensor, "row 1 key"],
    influences: Sequence[LogitInfluence],
) -> Float[Tensor, "row query channel"]:
    """Attention with ``influences`` and ``floor`` added to its logits. All tensors have one precision."""
    tensors = [tensor for influence in influences for tensor in influence.tensors()]
    return _InfluencedAttention.apply(influences, floor, queries, keys, values, *tensors)  # type: ignore[no-any-return, no-untyped-call]


class _InfluencedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        influences: Sequence[LogitInfluence],
        floor: Tensor,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        *tensors: Tensor,
    ) -> Tensor:
        folded = [influence.folded_keys() for influence in influences]
        attended = torch.empty_like(values)
        for rows, scores, buffer, weights in _chunks(queries, keys, len(influences[0].layers[0]), 3):
            torch.bmm(queries[rows], keys[rows].mT, out=scores).add_(floor[rows])
            for influence, mapped in zip(influences, folded, strict=True):
                scores += influence.forward(rows, mapped, buffer)[-1]
            torch.softmax(scores, -1, out=weights)
            torch.bmm(weights, values[rows], out=attended[rows])
        ctx.gates = [influence.gate for influence in influences]
        ctx.save_for_backward(floor, queries, keys, values, *folded, *tensors)
        return attended

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        floor, queries, keys, values, *rest = ctx.saved_tensors
        folded, tensors = rest[: len(ctx.gates)], rest[len(ctx.gates) :]
        of_queries, of_keys, of_values = (torch.empty_like(tensor) for tensor in (queries, keys, values))
        of_folded, of_tensors = ([torch.zeros_like(t) for t in some] for some in (folded, tensors))
        each = len(tensors) // len(folded)
        influences = [LogitInfluence.of(own, gate) for own, gate in zip(_cut(tensors, each), ctx.gates, strict=True)]
        of_influences = [LogitInfluence.of(own) for own in _cut(of_tensors, each)]
        gradient = gradient.contiguous()
        chunks = _chunks(queries, keys, len(influences[0].layers[0]), 2 + len(influences))
        for rows, scores, weights, *buffers in chunks:
            torch.bmm(queries[rows], keys[rows].mT, out=scores).add_(floor[rows])
            outputs = [part.forward(rows, *own) for part, *own in zip(influences, folded, buffers, strict=True)]
            for layers in outputs:
                scores += layers[-1]
            torch.softmax(scores, -1, out=weights)
            torch.bmm(weights.mT, gradient[rows], out=of_values[rows])
            of_scores = torch.bmm(gradient[rows], values[rows].mT, out=scores)
            of_scores = torch.ops.aten._softmax_backward_data(of_scores, weights, -1, weights.dtype)
            torch.bmm(of_scores, keys[rows], out=of_queries[rows])
            torch.bmm(of_scores.mT, queries[rows], out=of_keys[rows])
            for part, mapped, layers, own, of_mapped in zip(
                influences, folded, outputs, of_influences, of_folded, strict=True
            ):
                of_first = part.backward(rows, layers, of_scores, own)
                torch.sum(of_first, 1, keepdim=True, out=own.bias[rows])
                torch.bmm(of_first, mapped[rows], out=own.queries[rows])
                torch.bmm(of_first.mT, part.queries[rows], out=of_mapped[rows])
        for part, of_mapped, own in zip(influences, of_folded, of_influences, strict=True):
            part.fold_backward(of_mapped, own)
        return None, None, of_queries, of_keys, of_values, *of_tensors


def _relu_backward(gradient: Tensor, output: Tensor) -> Tensor:
    return torch.ops.aten.threshold_backward(gradient, output, 0)  # type: ignore[no-any-return]


def _cut(tensors: Sequence[Tensor], size: int) -> Iterator[Sequence[Tensor]]:
    return (tensors[start : start + size] for start in range(0, len(tensors), size))


def _chunks(queries: Tensor, keys: Tensor, heads: int, buffers: int) -> Iterator[tuple[Any, ...]]:
    """Rows to form at once, whole clips or a share of a clip's heads, and so many buffers for a tensor of logits."""
    count, steps, _ = queries.shape
    most = max(1, CHUNK_LOGITS[queries.device.type] // (steps * keys.shape[1]))
    size = most - most % heads if most >= heads else next(n for n in range(most, 0, -1) if heads % n == 0)
    space = queries.new_empty(buffers, min(size, count), steps, keys.shape[1])
    for start in range(0, count, size):
        rows = slice(start, min(start + size, count))
        yield rows, *space[:, : rows.stop - rows.start]
