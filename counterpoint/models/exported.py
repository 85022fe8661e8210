"""Parts of models in another form, for a graph that is exported: one whose operations depend on no value.

`counterpoint.exporting` checks that the graph gives what the model gives.
"""

import torch
import torch.nn.functional as functional
from jaxtyping import Float
from torch import Tensor, nn

is_exporting = getattr(torch.compiler, "is_exporting", lambda: False)
"""Whether `torch.export` is reading the model; older versions of PyTorch cannot tell, and never are."""


def first_entries(tensor: Tensor, axis: int, entries: int) -> Tensor:
    """The first entries along an axis, by an operation that is the same for some of them and for all."""
    if is_exporting():  # a slice is contiguous for all of them, and its graph would fit one of both cases
        return tensor.index_select(axis, torch.arange(entries, device=tensor.device))
    return tensor.narrow(axis, 0, entries)


def scanned(network: nn.RNNBase, features: Float[Tensor, "batch step feature"]) -> Float[Tensor, "batch step output"]:
    """The outputs of an LSTM or a GRU of one layer, by one loop over the steps.

    PyTorch's own form becomes as many copies of a step as the example has, and the graph would fit that length alone.
    """
    from torch._higher_order_ops.scan import scan

    cell = _lstm if isinstance(network, nn.LSTM) else _gru
    own = dict(network.named_parameters())
    weight, bias = own["weight_hh_l0"], own["bias_hh_l0"]
    inputs = functional.linear(features, own["weight_ih_l0"], own["bias_ih_l0"]).transpose(0, 1)
    nothing = features.new_zeros(features.shape[0], network.hidden_size)

    def step(state: tuple[Tensor, Tensor], given: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        output, memory = cell(given, functional.linear(state[0], weight, bias), *state)
        return (output, memory), output.clone()

    _, outputs = scan(step, (nothing, nothing.clone()), inputs)
    return outputs.transpose(0, 1)  # type: ignore[no-any-return]


def _lstm(given: Tensor, recurrent: Tensor, output: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """One step of an LSTM, its gates in PyTorch's order."""
    enter, forget, new, show = (given + recurrent).chunk(4, -1)
    memory = forget.sigmoid() * memory + enter.sigmoid() * new.tanh()
    return show.sigmoid() * memory.tanh(), memory


def _gru(given: Tensor, recurrent: Tensor, output: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """One step of a GRU, which has no memory beside its output."""
    (reset, keep, new), (reset_r, keep_r, new_r) = given.chunk(3, -1), recurrent.chunk(3, -1)
    candidate = (new + (reset + reset_r).sigmoid() * new_r).tanh()
    return candidate + (keep + keep_r).sigmoid() * (output - candidate), memory.clone()
