"""The share of a batch that one of several training processes computes; together they do what one process would.

Processes take every nth clip of each batch. Random numbers of a step are drawn for the whole batch in every process,
and each takes the rows of its clips, so that results do not depend on the number of processes but for the order in
which numbers are added up.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as functional
from torch import Tensor, nn

from counterpoint.data.tracks import Track, Tracks
from counterpoint.distributed import maximum


@dataclass
class BatchShare:
    """Which clips of a batch this process has: every ``world_size``-th from ``rank`` on.

    Where a batch has fewer clips than there are processes, the last processes hold its first clip, which does not
    count.

    Attributes:
        whole: the number of clips in the whole batch; 0 where the batch is not shared.
    """

    rank: int = 0
    world_size: int = 1
    whole: int = 0

    @property
    def is_single(self) -> bool:
        """Whether there is one process, whose batches are whole."""
        return self.world_size == 1

    def local_rows(self, drawn: Tensor) -> Tensor:
        """The rows of this process's clips, of a tensor with a row for each clip of the whole batch."""
        if self.is_single:
            return drawn
        return drawn[self.rank :: self.world_size] if self.rank < self.whole else drawn[:1]

    def all_rows(self, rows: Tensor) -> Tensor:
        """The rows of all clips, in the batch's order. A gradient goes to the process whose rows they are.

        It is multiplied by the number of processes, since the optimizer's gradient is the mean of theirs: each
        computes the whole batch's loss.
        """
        return rows if self.is_single else _AllRows.apply(rows, self)  # type: ignore[no-untyped-call]

    def padded_to_longest(self, tracks: Tracks) -> Tracks:
        """Padded to the longest clip of the whole batch."""
        if self.is_single:
            return tracks
        steps = max(track.mask.shape[1] for track in tracks.values())
        more = int(maximum(steps)[0]) - steps
        return {
            name: Track(functional.pad(track.features, (0, 0, 0, more)), functional.pad(track.mask, (0, more)))
            for name, track in tracks.items()
        }


SINGLE = BatchShare()


class _AllRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, share: BatchShare) -> Tensor:
        ctx.share, ctx.shape = share, rows.shape
        each = -(-share.whole // share.world_size)
        # Gloo has neither booleans nor bfloat16.
        sent = rows.new_zeros((each, *rows.shape[1:]), dtype=torch.uint8 if rows.dtype == torch.bool else torch.float32)
        count = min(len(rows), each)
        sent[:count] = rows[:count]
        received = [torch.empty_like(sent) for _ in range(share.world_size)]
        dist.all_gather(received, sent)
        whole = torch.stack(received, 1).flatten(0, 1)[: share.whole]
        return whole.to(rows.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        share: BatchShare = ctx.share
        local = gradient[share.rank :: share.world_size] * share.world_size
        return (local if len(local) else gradient.new_zeros(ctx.shape)), None


class _WholeDropout(nn.Module):
    """Dropout that draws for the whole batch, as one process would."""

    def __init__(self, probability: float, share: BatchShare) -> None:
        super().__init__()
        self.probability = probability
        self.share = share

    def forward(self, features: Tensor) -> Tensor:
        if not self.training or not self.probability:
            return features
        ones = features.new_ones((self.share.whole, *features.shape[1:]))
        return features * self.share.local_rows(functional.dropout(ones, self.probability))


def draw_for_all(model: nn.Module, share: BatchShare) -> None:
    """Let a model's dropout draw for the whole batch; ``share.whole`` is set before each step."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Dropout:
                setattr(parent, name, _WholeDropout(child.p, share).train(child.training))
