"""A Transformer's attention whose logits hear, forward and backward written out::

    softmax(Q K^T + sum over s of F_s(Q_s K_s^T)) V

A whole batch of logits would take several times the memory of all the rest: they are formed for a few rows (a head of a
clip) at a time, as many as fit a cache, and formed again in the backward pass. A linear map along the keys is a map of
the keys alone, ``(Q K^T) W = Q (W^T K)^T``, so F's first layer costs about as much as attention itself.

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
"""Logits formed at once, by device: what fits a cache, what keeps a GPU busy."""


@dataclass(frozen=True)
class LogitInfluence:
    """F of another modality's logits. Rows are the heads of the first clip, then those of the second, and so on."""

    queries: Float[Tensor, "row query channel"]
    keys: Float[Tensor, "row key channel"]
    bias: Float[Tensor, "row 1 width"]
    """Of the first layer, with what a correlation tower adds to it in each clip."""
    layers: Sequence[Tensor]
    """By head: the first matrix (input, output); then the other matrices, each followed by its bias (1, output)."""
    gate: Bool[Tensor, "row 1 1"] | None = None

    def tensors(self) -> list[Tensor]:
        """All that learn."""
        return [self.queries, self.keys, self.bias, *self.layers]

    @classmethod
    def of(cls, tensors: Sequence[Tensor], gate: Tensor | None = None) -> "LogitInfluence":
        """The ear of such tensors, or their gradients by the same names."""
        queries, keys, bias, *layers = tensors
        return cls(queries, keys, bias, layers, gate)

    def folded(self) -> Float[Tensor, "row width channel"]:
        """The keys behind the first matrix."""
        return self._by_row(self.layers[0].mT @ self._by_head(self.keys))

    def unfold(self, moved: Float[Tensor, "row width channel"], gradients: "LogitInfluence") -> None:
        """From the gradient of the folded keys to those of the keys and the first matrix."""
        moved = self._by_head(moved)
        torch.bmm(self._by_head(self.keys), moved.mT, out=gradients.layers[0])
        gradients.keys.copy_(self._by_row(self.layers[0] @ moved))

    def hear(self, rows: slice, folded: Tensor, room: Tensor) -> list[Tensor]:
        """What each layer gives in some rows, the last one being what is heard; a single one in ``room``."""
        out = room if len(self.layers) == 1 else None  # hidden layers have a width of their own
        given = [torch.bmm(self.queries[rows], folded[rows].mT, out=out).add_(self.bias[rows]).relu_()]
        for i in range(1, len(self.layers), 2):
            matrix, bias = (tensor[self._heads(rows)] for tensor in self.layers[i : i + 2])
            inputs = given[-1] if i == 1 else given[-1].relu_()
            given.append((inputs.unflatten(0, (-1, len(matrix))) @ matrix).add_(bias).flatten(0, 1))
        if self.gate is not None:
            given[-1] = torch.where(self.gate[rows], given[-1], 0.0)
        return given

    def learn(self, rows: slice, given: list[Tensor], moved: Tensor, gradients: "LogitInfluence") -> Tensor:
        """From the gradient of what is heard in some rows to that of the first layer before its ReLU."""
        if self.gate is not None:
            moved = torch.where(self.gate[rows], moved, 0.0)
        for i in range(len(self.layers) - 2, 0, -2):
            heads = self._heads(rows)
            matrix, inputs = self.layers[i][heads], given[i // 2]
            gradients.layers[i][heads] += (inputs.mT @ moved).unflatten(0, (-1, len(matrix))).sum(0)
            moved = moved.unflatten(0, (-1, len(matrix)))
            gradients.layers[i + 1][heads] += moved.sum((0, 2)).unsqueeze(1)
            moved = (moved @ matrix.mT).flatten(0, 1)
            if i > 1:
                moved = _through_relu(moved, inputs)
        return _through_relu(moved, given[0])

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


def listen(
    queries: Float[Tensor, "row query channel"],
    keys: Float[Tensor, "row key channel"],
    values: Float[Tensor, "row key channel"],
    floor: Float[Tensor, "row 1 key"],
    ears: Sequence[LogitInfluence],
) -> Float[Tensor, "row query channel"]:
    """Attention whose logits hear with ``ears``; ``floor`` is added to the logits. All in one precision."""
    tensors = [tensor for ear in ears for tensor in ear.tensors()]
    return _Listen.apply(ears, floor, queries, keys, values, *tensors)  # type: ignore[no-any-return, no-untyped-call]


class _Listen(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        ears: Sequence[LogitInfluence],
        floor: Tensor,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        *tensors: Tensor,
    ) -> Tensor:
        folded = [ear.folded() for ear in ears]
        attended = torch.empty_like(values)
        for rows, scores, heard, weights in _parts(queries, keys, len(ears[0].layers[0]), 3):
            torch.bmm(queries[rows], keys[rows].mT, out=scores).add_(floor[rows])
            for ear, mapped in zip(ears, folded, strict=True):
                scores += ear.hear(rows, mapped, heard)[-1]
            torch.softmax(scores, -1, out=weights)
            torch.bmm(weights, values[rows], out=attended[rows])
        ctx.gates = [ear.gate for ear in ears]
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
        ears = [LogitInfluence.of(own, gate) for own, gate in zip(_cut(tensors, each), ctx.gates, strict=True)]
        of_ears = [LogitInfluence.of(own) for own in _cut(of_tensors, each)]
        gradient = gradient.contiguous()
        for rows, scores, weights, *rooms in _parts(queries, keys, len(ears[0].layers[0]), 2 + len(ears)):
            torch.bmm(queries[rows], keys[rows].mT, out=scores).add_(floor[rows])
            given = [ear.hear(rows, *mapped_room) for ear, *mapped_room in zip(ears, folded, rooms, strict=True)]
            for layers in given:
                scores += layers[-1]
            torch.softmax(scores, -1, out=weights)
            torch.bmm(weights.mT, gradient[rows], out=of_values[rows])
            moved = torch.bmm(gradient[rows], values[rows].mT, out=scores)
            moved = torch.ops.aten._softmax_backward_data(moved, weights, -1, weights.dtype)
            torch.bmm(moved, keys[rows], out=of_queries[rows])
            torch.bmm(moved.mT, queries[rows], out=of_keys[rows])
            for ear, mapped, layers, into, of_mapped in zip(ears, folded, given, of_ears, of_folded, strict=True):
                first = ear.learn(rows, layers, moved, into)
                torch.sum(first, 1, keepdim=True, out=into.bias[rows])
                torch.bmm(first, mapped[rows], out=into.queries[rows])
                torch.bmm(first.mT, ear.queries[rows], out=of_mapped[rows])
        for ear, of_mapped, into in zip(ears, of_folded, of_ears, strict=True):
            ear.unfold(of_mapped, into)
        return None, None, of_queries, of_keys, of_values, *of_tensors


def _through_relu(moved: Tensor, given: Tensor) -> Tensor:
    return torch.ops.aten.threshold_backward(moved, given, 0)  # type: ignore[no-any-return]


def _cut(tensors: Sequence[Tensor], size: int) -> Iterator[Sequence[Tensor]]:
    return (tensors[start : start + size] for start in range(0, len(tensors), size))


def _parts(queries: Tensor, keys: Tensor, heads: int, rooms: int) -> Iterator[tuple[Any, ...]]:
    """Rows to form at once, whole clips or a share of a clip's heads, and for each room for some tensors of logits."""
    count, steps, _ = queries.shape
    most = max(1, CHUNK_LOGITS[queries.device.type] // (steps * keys.shape[1]))
    size = most - most % heads if most >= heads else next(n for n in range(most, 0, -1) if heads % n == 0)
    room = queries.new_empty(rooms, min(size, count), steps, keys.shape[1])
    for start in range(0, count, size):
        rows = slice(start, min(start + size, count))
        yield rows, *room[:, : rows.stop - rows.start]
