"""Linear maps along an axis of weights, which F is made of (Goyal et al., section 2): over clusters, or over time."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


class AxisMap(nn.Module):
    """A linear map along the last axis, one for each of ``heads`` (the second axis of the weights, if above 1)."""

    weight: nn.Parameter
    bias: nn.Parameter
    width: int | None
    """The size of the axis that comes out; None: whatever is asked for."""

    def reads(self, outputs: int) -> int:
        """How many entries a hidden axis must have for ``outputs`` entries behind it."""
        raise NotImplementedError

    def matrix(self, inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
        """``W`` (..., inputs, outputs) and a bias that broadcasts with what it multiplies."""
        raise NotImplementedError


class DenseMap(AxisMap):
    """A map with a parameter for each pair of entries.

    The axis may be shorter than the map, as steps are in batches of short clips: an absent entry counts as zero.
    """

    def __init__(self, inputs: int, outputs: int, heads: int = 1) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        shape = (heads, 1) if heads > 1 else ()
        self.width = outputs
        self.weight = nn.Parameter(torch.empty(*shape[:1], inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(*shape, outputs))

    def reads(self, outputs: int) -> int:
        return self.weight.shape[-2]

    def matrix(self, inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
        """See the base class.

        Raises:
            ValueError: the axis is longer than the map.
        """
        for asked, known in zip((inputs, outputs), self.weight.shape[-2:], strict=True):
            if asked > known:
                raise ValueError(
                    f"a clip of {asked} steps is longer than the {known} that this model's influence knows: cut the "
                    "clips (max_steps) or train with a relative influence (reach)"
                )
        return self.weight[..., :inputs, :outputs], self.bias[..., :outputs]


class RelativeMap(AxisMap):
    """A map along steps that knows only how far apart two steps are: ``W[s, t] = w[t - s]``.

    It is tied to no length, and a shift in time, the paper's example of what F should learn (Fig. 1), is one entry of
    ``w``. Steps further apart than ``reach`` do not hear each other.

    Two axes of different length share their middle. A hidden axis goes on beyond both ends as far as the next map
    reaches: cut off where the batch ends, it would let a clip hear how far the batch is padded.
    """

    def __init__(self, reach: int, heads: int = 1) -> None:
        super().__init__()
        bound = 1 / math.sqrt(2 * reach + 1)
        shape = (heads, 1) if heads > 1 else ()
        self.width = None
        self.reach = reach
        self.weight = nn.Parameter(torch.empty(*shape[:1], 2 * reach + 1).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(*shape, 1))

    def reads(self, outputs: int) -> int:
        return outputs + 2 * self.reach

    def matrix(self, inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
        return by_distance(self.weight, inputs, outputs), self.bias


def by_distance(kernel: Float[Tensor, "... distance"], inputs: int, outputs: int) -> Tensor:
    """``W[s, t] = kernel[t - s]`` (..., inputs, outputs), zero beyond the kernel, the axes' middles aligned."""
    reach = kernel.shape[-1] // 2
    distance = torch.arange(outputs, device=kernel.device) - torch.arange(inputs, device=kernel.device).unsqueeze(1)
    distance -= (outputs - inputs) // 2
    return kernel[..., distance.clamp(-reach, reach) + reach].masked_fill(distance.abs() > reach, 0.0)


class Nearby(nn.Module):
    """What F reads where weights compete at each step, as NetVLAD's clusters do: the other's steps around it, mixed.

    One number for each distance in time, the same at every step and for every competitor. It begins as the step itself,
    which is the paper's form (section 2.4).
    """

    def __init__(self, reach: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2 * reach + 1))
        with torch.no_grad():
            self.weight[reach] = 1.0

    def forward(self, weights: Float[Tensor, "*batch step competitor"]) -> Float[Tensor, "*batch step competitor"]:
        steps = weights.shape[-2]
        return (weights.mT @ by_distance(self.weight, steps, steps)).mT
