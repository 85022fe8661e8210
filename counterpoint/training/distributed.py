"""Several processes train one model, and what one process would have done comes out.

Processes take every nth clip of each batch. What a step draws at random it draws for the whole batch in every process,
and each takes the rows of its clips, so that results do not depend on how many processes there are but for the order
in which numbers are added up.
"""

import atexit
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as functional
from torch import Tensor, nn

from counterpoint.data.tracks import Track, Tracks
from counterpoint.training.launch import launched

PATIENCE = timedelta(days=7)  # for the first process, which may have to index a whole data set

_control: Any = None
"""A group for what is said beside the gradients: on CPUs, so that no GPU has to wait for it."""


def join() -> None:
    """Meet the other processes that torchrun started, if it did."""
    global _control
    if not launched() or dist.is_initialized():
        return
    device = None
    if torch.cuda.is_available():
        device = torch.device("cuda", dist.get_node_local_rank(0))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device else "gloo", device_id=device)
    _control = dist.new_group(backend="gloo", timeout=PATIENCE)
    atexit.register(_leave)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


@contextlib.contextmanager
def leader_first() -> Iterator[None]:
    """The first process runs the block, then the others do; where it fails they end without a word."""
    if world() == 1:
        yield
    elif rank() == 0:
        failed = True
        try:
            yield
            failed = False
        finally:
            told(failed)
    else:
        if told(True):
            raise SystemExit(1)
        yield


def told(what: Any) -> Any:
    """What the first process says."""
    if world() == 1:
        return what
    said = [what]
    dist.broadcast_object_list(said, src=0, group=_control)
    return said[0]


def collected(what: Any) -> list[Any]:
    """What every process says, in their order, in the first; the others get nothing."""
    if world() == 1:
        return [what]
    said: list[Any] = [None] * world()
    dist.gather_object(what, said if rank() == 0 else None, dst=0, group=_control)
    return said if rank() == 0 else []


def total(*values: float) -> list[float]:
    """Sums over all processes, in float64."""
    return _reduced(values, dist.ReduceOp.SUM)


def most(*values: float) -> list[float]:
    return _reduced(values, dist.ReduceOp.MAX)


def _reduced(values: tuple[float, ...], operation: Any) -> list[float]:
    if world() == 1:
        return list(values)
    numbers = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(numbers, operation, group=_control)
    return numbers.tolist()


@dataclass
class Part:
    """Which clips of a batch this process has: every ``world``-th from ``rank`` on.

    Where a batch has fewer clips than there are processes, the last ones hold its first clip and count nothing.
    ``whole`` is the number of clips in the whole batch; it is this process's own batch where it is 0.
    """

    rank: int = 0
    world: int = 1
    whole: int = 0

    @property
    def alone(self) -> bool:
        return self.world == 1

    def mine(self, drawn: Tensor) -> Tensor:
        """The rows of this process's clips, of what was drawn for all."""
        if self.alone:
            return drawn
        return drawn[self.rank :: self.world] if self.rank < self.whole else drawn[:1]

    def gathered(self, rows: Tensor) -> Tensor:
        """The rows of all clips, in the batch's order. A gradient goes to the process whose rows they are.

        It is multiplied by the number of processes, since the mean of their gradients is what the optimizer sees: each
        computes the whole batch's loss.
        """
        return rows if self.alone else _Gathered.apply(rows, self)  # type: ignore[no-untyped-call]

    def as_long(self, tracks: Tracks) -> Tracks:
        """Padded to the longest clip of the whole batch."""
        if self.alone:
            return tracks
        steps = max(track.mask.shape[1] for track in tracks.values())
        more = int(most(steps)[0]) - steps
        return {
            name: Track(functional.pad(track.features, (0, 0, 0, more)), functional.pad(track.mask, (0, more)))
            for name, track in tracks.items()
        }


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, part: Part) -> Tensor:
        ctx.part, ctx.shape = part, rows.shape
        each = -(-part.whole // part.world)
        # Gloo knows neither booleans nor bfloat16.
        sent = rows.new_zeros((each, *rows.shape[1:]), dtype=torch.uint8 if rows.dtype == torch.bool else torch.float32)
        count = min(len(rows), each)
        sent[:count] = rows[:count]
        received = [torch.empty_like(sent) for _ in range(part.world)]
        dist.all_gather(received, sent)
        whole = torch.stack(received, 1).flatten(0, 1)[: part.whole]
        return whole.to(rows.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        part: Part = ctx.part
        mine = gradient[part.rank :: part.world] * part.world
        return (mine if len(mine) else gradient.new_zeros(ctx.shape)), None


class _WholeDropout(nn.Module):
    """Dropout that draws for the whole batch, as one process would."""

    def __init__(self, share: float, part: Part) -> None:
        super().__init__()
        self.share = share
        self.part = part

    def forward(self, features: Tensor) -> Tensor:
        if not self.training or not self.share:
            return features
        ones = features.new_ones((self.part.whole, *features.shape[1:]))
        return features * self.part.mine(functional.dropout(ones, self.share))


def draw_for_all(model: nn.Module, part: Part) -> None:
    """Let a model's dropout draw for the whole batch; ``part`` says before each step which batch that is."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Dropout:
                setattr(parent, name, _WholeDropout(child.p, part).train(child.training))
