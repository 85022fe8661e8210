"""The fast paths compute what the plain formulas do, and hold what they promise to hold."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from counterpoint.data.tracks import Track
from counterpoint.models import influenced_attention as influencing
from counterpoint.models.fusion import CrossModal, Influences
from counterpoint.models.influenced_attention import LogitInfluence, influenced_attention
from counterpoint.models.transformer import Logits, attend
from counterpoint.recipes import RECIPES, AttentionClusterFamily, Family, NetVLADFamily, TransformerFamily

CLIPS, HEADS, STEPS = 3, 2, 5
ROWS = CLIPS * HEADS


def floats(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def influence(hidden: Sequence[int], gate: Tensor | None) -> LogitInfluence:
    first, *others = zip([STEPS, *hidden], [*hidden, STEPS], strict=True)
    layers = [floats(HEADS, *first)]
    for inputs, outputs in others:
        layers += [floats(HEADS, inputs, outputs), floats(HEADS, 1, outputs)]
    return LogitInfluence(floats(ROWS, STEPS, 3), floats(ROWS, STEPS, 3), floats(ROWS, 1, first[1]), layers, gate)


def plainly(
    queries: Tensor, keys: Tensor, values: Tensor, floor: Tensor, influences: Sequence[LogitInfluence]
) -> Tensor:
    """The formula, row by row, left to autograd."""
    rows = []
    for row in range(ROWS):
        logits = queries[row] @ keys[row].T + floor[row]
        for each in influences:
            first, *layers = (layer[row % HEADS] for layer in each.layers)
            value = each.queries[row] @ each.keys[row].T @ first + each.bias[row]
            value = value.relu()
            for i in range(0, len(layers), 2):
                value = value @ layers[i] + layers[i + 1]
                value = value.relu() if i + 2 < len(layers) else value
            logits = logits + (value if each.gate is None else value * each.gate[row])
        rows.append(logits.softmax(-1) @ values[row])
    return torch.stack(rows)


@pytest.mark.parametrize("at_once", [1, STEPS * STEPS * HEADS, 2 * STEPS * STEPS * HEADS, 1 << 20])
@pytest.mark.parametrize("hidden", [(), (4,), (4, 6, 3)], ids=len)
@pytest.mark.parametrize("gated", [False, True])
def test_influenced_attention_is_the_formula(
    at_once: int, hidden: tuple[int, ...], gated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values and all gradients, for any number of rows at once."""
    monkeypatch.setitem(influencing.CHUNK_LOGITS, "cpu", at_once)
    torch.manual_seed(0)
    gate = torch.tensor([True, False, True]).repeat_interleave(HEADS).view(-1, 1, 1)
    influences = [influence(hidden, gate if gated else None), influence(hidden, None)]
    queries, keys, values = floats(ROWS, STEPS, 3), floats(ROWS, STEPS, 3), floats(ROWS, STEPS, 3)
    floor = torch.zeros(ROWS, 1, STEPS, dtype=torch.float64)
    floor[:HEADS, :, 3:] = torch.finfo(torch.float64).min
    learning = [queries, keys, values, *(tensor for each in influences for tensor in each.tensors())]
    towards = torch.randn(ROWS, STEPS, 3, dtype=torch.float64)
    fast, plain = (form(queries, keys, values, floor, influences) for form in (influenced_attention, plainly))
    assert_close(fast, plain, rtol=0, atol=1e-12)
    for one, other in zip(
        torch.autograd.grad(fast, learning, towards), torch.autograd.grad(plain, learning, towards), strict=True
    ):
        assert_close(one, other, rtol=0, atol=1e-11)


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and not any(made is arg for arg in args):
            self.elements = max(self.elements, made.untyped_storage().nbytes() // made.itemsize)
        return made


LONG, WIDTH, PARTS = 200, 32, 16
FAMILIES: dict[str, Family] = {
    "tm": TransformerFamily(widths={"video": WIDTH, "audio": WIDTH}, heads=4),
    "nv": NetVLADFamily(clusters={"video": PARTS, "audio": PARTS}, hidden=8),
    "rnn": AttentionClusterFamily(recurrence="none", widths={"video": WIDTH, "audio": WIDTH}, units=PARTS, hidden=8),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("hidden", [(), (8,)], ids=len)
def test_what_is_never_formed(family: str, hidden: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of (head, query, key), and of (step, cluster, feature)."""
    monkeypatch.setitem(influencing.CHUNK_LOGITS, "cpu", LONG * LONG)
    base = RECIPES[f"{family}-cm"]
    recipe = replace(base, family=FAMILIES[family], fusion=CrossModal(hidden=hidden), max_steps=LONG)
    model, clips = recipe.build({"video": WIDTH, "audio": WIDTH}, 4), 4
    there = torch.ones(clips, LONG, dtype=torch.bool)
    codes = torch.zeros(clips, LONG, WIDTH, dtype=torch.uint8)
    with Largest() as largest:
        model({name: Track(codes, there) for name in ("video", "audio")}).logits.sum().backward()
    never = {"tm": clips * 4 * LONG * LONG, "nv": clips * LONG * PARTS * WIDTH, "rnn": clips * LONG * PARTS * WIDTH}
    assert largest.elements < never[family] / 1.5


def test_attention_learns_in_half_precision() -> None:
    """Half precision goes another way backward; its gradients are those of single precision, rounded."""
    queries, keys, values = (torch.randn(2, 2, 7, 4) for _ in range(3))
    mask = torch.tensor([[True] * 7, [True] * 4 + [False] * 3])
    values = values * mask[:, None, :, None]
    found = []
    for dtype in (torch.float64, torch.bfloat16):
        leaves = [tensor.to(torch.bfloat16).to(dtype).requires_grad_() for tensor in (queries, keys, values)]
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            attended = attend(Logits(*leaves[:2]), leaves[2], mask, Influences([]))
        assert attended.dtype == dtype
        attended.double().square().sum().backward()
        found.append([tensor.grad.double() for tensor in leaves if tensor.grad is not None])
    assert len(found[0]) == 3
    for half, exact in zip(*reversed(found), strict=True):
        assert_close(half, exact, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("name", ["tm-cm", "nv-cm", "rnn-cm"])
@pytest.mark.parametrize("hidden", [(), (8,)], ids=len)
def test_mixed_precision_is_near_single(name: str, hidden: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    recipe = replace(RECIPES[name], fusion=CrossModal(hidden=hidden))
    model = recipe.build({"video": 16, "audio": 8}, 4).eval()
    tracks = {
        name: Track(torch.randint(0, 256, (2, 20, size), dtype=torch.uint8), torch.ones(2, 20, dtype=torch.bool))
        for name, size in {"video": 16, "audio": 8}.items()
    }
    expected = model(tracks).logits
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(tracks).logits
    assert_close(logits.float(), expected, rtol=0.05, atol=0.05)
    logits.float().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
