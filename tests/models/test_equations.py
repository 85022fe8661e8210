"""Every family against loops written from the equations of sections 2.2 to 2.5, in float64."""

import math
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from counterpoint.data.tracks import Track, Tracks, masked_softmax
from counterpoint.models.attention_cluster import AttentionCluster
from counterpoint.models.categorizer import Read, pool
from counterpoint.models.correlation import Tower
from counterpoint.models.fusion import (
    AttentionModule,
    Axis,
    Concatenated,
    Correlation,
    CrossModal,
    CrossModalLayer,
    DenseMap,
    Influence,
    RelativeMap,
)
from counterpoint.models.heads import HeadConfig
from counterpoint.models.netvlad import Descriptor, NetVLAD
from counterpoint.models.transformer import Projection, TransformerBlock, positions
from counterpoint.recipes import Recipe

from .small import BASELINES, MODELS, STEPS, THREE, TWO, build, family_of, small, stir

Rows = list[list[float]]
"""One clip's weights: the last axis is the one they compete over, all others are flattened into the first."""


def close(one: Tensor, other: Tensor) -> None:
    assert_close(one, other, rtol=0, atol=1e-10)


def floats(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax(logits: list[float]) -> list[float]:
    exponentials = [math.exp(logit) for logit in logits]
    return [exponential / sum(exponentials) for exponential in exponentials]


def affine(weight: Tensor, x: list[float], bias: Tensor | None) -> list[float]:
    """``weight x + bias`` as ``nn.Linear`` stores them."""
    offsets = [0.0] * len(weight) if bias is None else bias.tolist()
    return [
        sum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in zip(weight.tolist(), offsets, strict=True)
    ]


def slow_f(influence: Influence, head: int, weights: list[float], outputs: int, context: list[float]) -> list[float]:
    """F([weights, context]): a ReLU network whose input is the concatenation itself."""
    x, layers = weights, list(influence.maps)
    for i, layer in enumerate(layers):
        assert isinstance(layer, DenseMap)
        matrix, bias = (layer.weight, layer.bias) if influence.heads == 1 else (layer.weight[head], layer.bias[head, 0])
        width = outputs if i == len(layers) - 1 else len(bias)
        matrix, bias = matrix[: len(x), :width], bias[:width]
        if i == 0 and influence.context is not None:
            x = [*x, *context]
            rows = influence.context.weight.view(influence.heads, -1, len(context))[head, :width]
            matrix = torch.cat([matrix, rows.T])
        x = affine(matrix.T, x, bias)
        if len(layers) == 1 or i < len(layers) - 1:
            x = [max(value, 0.0) for value in x]
    return x


def slow_influence(
    layer: CrossModalLayer,
    target: str,
    weights: Mapping[str, Rows],
    row: int,
    head: int,
    outputs: int,
    correlation: Correlation,
    clip: int,
) -> list[float]:
    """The influence on ``target`` in one row of its weights: the sum of F over its sources, others or itself."""
    total = [0.0] * outputs
    for source in weights:
        name = f"{source}_to_{target}"
        if name not in layer.influences:
            continue
        influence = layer.influences[name]
        context: list[float] = []
        if source != target:
            pair = tuple(sorted((source, target)))
            if correlation.probability[pair][clip] < getattr(influence, "threshold", 0.0):
                continue
            context = correlation.context(pair, getattr(influence, "kind", "probability"))[clip].tolist()
        influenced = slow_f(influence, head, weights[source][row], outputs, context)
        total = [one + other for one, other in zip(total, influenced, strict=True)]
    return total


InfluenceOn = Callable[[int, int, int], list[float]]
"""The influence in one clip, by row of the weights, head and number of entries."""


def slow_describe(describe: Descriptor, parts: list[list[float]]) -> list[float]:
    flat = [value for part in parts for value in part]
    scale = max(math.sqrt(sum(value * value for value in flat) / len(flat)), 1e-6)
    return affine(describe.map.weight, [value / scale for value in flat], describe.bias)


class SlowNetVLAD:
    """Section 2.4."""

    def __init__(self, attention: AttentionModule) -> None:
        assert isinstance(attention, NetVLAD)
        self.of = attention

    def weights(self, x: Rows, there: list[bool], emphasis: Rows) -> Rows:
        assign = self.of.assign
        factors = [[sum(there) * share for share in slow_masked_softmax(row, there)] for row in emphasis]
        rows = []
        for t in range(len(x)):
            shares = softmax(affine(assign.weight, x[t], assign.bias))
            rows.append([share * factors[k][t] if there[t] else 0.0 for k, share in enumerate(shares)])
        return rows

    def aggregate(self, x: Rows, there: list[bool], weights: Rows, influence_on: InfluenceOn) -> Rows:
        centres = self.of.centres.tolist()
        parts = [[0.0] * len(centre) for centre in centres]
        for t in range(len(x)):
            influenced = influence_on(t, 0, len(centres))
            for k, centre in enumerate(centres):
                for d in range(len(centre)):
                    if there[t]:
                        parts[k][d] += (weights[t][k] + influenced[k]) * (x[t][d] - centre[d])
        return [slow_describe(self.of.describe, parts)]


class SlowAttentionCluster:
    """Section 2.2."""

    def __init__(self, attention: AttentionModule) -> None:
        assert isinstance(attention, AttentionCluster)
        self.of = attention

    def weights(self, x: Rows, there: list[bool], emphasis: Rows) -> Rows:
        first, _, last = self.of.attend
        by_step = [affine(last.weight, [math.tanh(v) for v in affine(first.weight, h, first.bias)], None) for h in x]
        return [
            slow_masked_softmax([by_step[t][u] + emphasis[u][t] for t in range(len(x))], there)
            for u in range(len(last.weight))
        ]

    def aggregate(self, x: Rows, there: list[bool], weights: Rows, influence_on: InfluenceOn) -> Rows:
        parts = []
        for u, attention in enumerate(weights):
            influenced = influence_on(u, 0, len(x))
            part = [0.0] * len(x[0])
            for t in range(len(x)):
                for d in range(len(part)):
                    if there[t]:
                        part[d] += (attention[t] + influenced[t]) * x[t][d]
            parts.append(part)
        return [slow_describe(self.of.describe, parts)]


class SlowTransformer:
    """Section 2.3, with the logits formed and scaled; around it the residual and feed-forward maps of a block."""

    def __init__(self, attention: AttentionModule) -> None:
        assert isinstance(attention, TransformerBlock)
        self.of = attention
        self.heads = attention.axis.heads
        self.width = attention.inputs // self.heads

    def head(self, x: Rows, linear: torch.nn.Linear, number: int) -> Rows:
        """One head's queries, keys or values: ``linear`` has the heads one after the other."""
        here = slice(number * self.width, (number + 1) * self.width)
        return [affine(linear.weight[here], slow_norm(self.of.norm, row), linear.bias[here]) for row in x]

    def weights(self, x: Rows, there: list[bool], emphasis: Rows) -> Rows:
        self.emphasis = emphasis[0]
        rows = []
        for i in range(self.heads):
            queries, keys = self.head(x, self.of.query_key, i), self.head(x, self.of.query_key, self.heads + i)
            for q in range(len(x)):
                row = [0.0] * len(x)
                for k in range(len(x)):
                    if there[q] and there[k]:
                        row[k] = sum(a * b for a, b in zip(queries[q], keys[k], strict=True)) / math.sqrt(self.width)
                rows.append(row)
        return rows

    def aggregate(self, x: Rows, there: list[bool], weights: Rows, influence_on: InfluenceOn) -> Rows:
        values = [self.head(x, self.of.value, i) for i in range(self.heads)]
        rows = []
        for q in range(len(x)):
            joined = []
            for i in range(self.heads):
                row = i * len(x) + q
                influenced = influence_on(row, i, len(x))
                logits = [s + f + e for s, f, e in zip(weights[row], influenced, self.emphasis, strict=True)]
                attention = slow_masked_softmax(logits, there)
                joined += [sum(attention[k] * values[i][k][c] for k in range(len(x))) for c in range(self.width)]
            after = [a + b for a, b in zip(x[q], affine(self.of.out.weight, joined, self.of.out.bias), strict=True)]
            norm, up, _, down = self.of.feed_forward
            hidden = [max(value, 0.0) for value in affine(up.weight, slow_norm(norm, after), up.bias)]
            rows.append([a + b for a, b in zip(after, affine(down.weight, hidden, down.bias), strict=True)])
        return rows


def slow_norm(norm: torch.nn.LayerNorm, x: list[float]) -> list[float]:
    mean = sum(x) / len(x)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in x) / len(x) + norm.eps)
    return [
        (value - mean) / deviation * scale + shift
        for value, scale, shift in zip(x, norm.weight.tolist(), norm.bias.tolist(), strict=True)
    ]


def slow_masked_softmax(logits: list[float], there: list[bool]) -> list[float]:
    exponentials = [math.exp(logit) if here else 0.0 for logit, here in zip(logits, there, strict=True)]
    return [exponential / (sum(exponentials) or 1.0) for exponential in exponentials]


SLOW = {"nv": SlowNetVLAD, "tm": SlowTransformer, "rnn": SlowAttentionCluster}


def slow_layer(
    layer: CrossModalLayer, slow: type, tracks: Tracks, correlation: Correlation, clip: int
) -> dict[str, Rows]:
    """One clip through a layer: weights, influence, aggregation."""
    attention_modules = {name: slow(attention) for name, attention in layer.attention_modules.items()}
    features = {name: track.features[clip].tolist() for name, track in tracks.items()}
    there = {name: track.mask[clip].tolist() for name, track in tracks.items()}
    for name, conditioning in layer.conditionings.items():
        source, target = name.split("_to_")
        context = correlation.context(tuple(sorted((source, target))), conditioning.kind)[clip].tolist()
        shift = affine(conditioning.map.weight, context, None)
        features[target] = [[a + b for a, b in zip(row, shift, strict=True)] for row in features[target]]
    weights = {
        name: attention_modules[name].weights(
            features[name], there[name], slow_emphasis(layer, name, tracks[name], correlation, clip)
        )
        for name in tracks
    }

    def combined(target: str) -> Rows:
        def influence_on(row: int, head: int, outputs: int) -> list[float]:
            return slow_influence(layer, target, weights, row, head, outputs, correlation, clip)

        return attention_modules[target].aggregate(features[target], there[target], weights[target], influence_on)

    return {name: combined(name) for name in tracks}


def slow_emphasis(layer: CrossModalLayer, name: str, track: Track, correlation: Correlation, clip: int) -> Rows:
    """By row of weights and step: the row's scale times the tower's evidence; zeros without one."""
    rows = max(layer.attention_modules[name].rows, 1)
    if layer.emphasis is None:
        return [[0.0] * track.mask.shape[1] for _ in range(rows)]
    assert correlation.evidence is not None
    learned = layer.emphasis.learned
    scales = learned[name].tolist() if name in learned else [0.5]
    return [[scale * value for value in correlation.evidence[name][clip].tolist()] for scale in scales]


def some_tracks(layer: CrossModalLayer) -> Tracks:
    """A whole clip, one with gaps, and one without the second modality; something stands in the gaps."""
    tracks, steps = {}, STEPS - 1
    for i, (name, attention) in enumerate(layer.attention_modules.items()):
        mask = torch.ones(3, steps, dtype=torch.bool)
        mask[1, i] = False
        mask[1, -1] = False
        mask[2] = i != 1
        tracks[name] = Track(floats(3, steps, attention.inputs, seed=i), mask)
    return tracks


def some_correlation(sizes: Mapping[str, int], agreement: int) -> Correlation:
    names = sorted(sizes)
    pairs = [(one, other) for one in names for other in names if one < other]
    context = {pair: (floats(3, seed=i).sigmoid(), floats(3, agreement, seed=i)) for i, pair in enumerate(pairs)}
    probability = {pair: p for pair, (p, _) in context.items()}
    evidence = {name: floats(3, STEPS - 1, seed=7 + i) for i, name in enumerate(names)}
    return Correlation(probability, {pair: a for pair, (_, a) in context.items()}, evidence)


LAYERS: dict[str, tuple[Recipe, dict[str, int]]] = {
    name: (recipe, sizes)
    for name, (recipe, sizes) in MODELS.items()
    if not recipe.fusion.joined and family_of(recipe.name) in SLOW and recipe.name not in BASELINES
    if "reach" not in name and "layers" not in name
} | {
    **{f"{name} deep": (small(name, hidden=(4,)), TWO) for name in ("nv-cm-g", "rnn-cm-c")},
    **{
        f"{family}-cm-c deep agreement": (small(f"{family}-cm-c", context="agreement", hidden=(4, 3)), TWO)
        for family in SLOW
    },
    "tm-cm-c agreement three": (small("tm-cm-c", context="agreement"), THREE),
    "tm-cm one head": (small("tm-cm", {"heads": 1}), TWO),
    "tm-cm-c one head": (small("tm-cm-c", {"heads": 1}), TWO),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer_is_the_equation(name: str):
    recipe, sizes = LAYERS[name]
    model = build(recipe, sizes)
    layer: CrossModalLayer = model.trunk.layers[0]
    tracks = some_tracks(layer)
    correlation = some_correlation(sizes, model.tower.comparison.size if isinstance(model.tower, Tower) else 1)
    combined, _ = layer(tracks, correlation)
    for clip in range(3):
        expected = slow_layer(layer, SLOW[name.partition("-")[0]], tracks, correlation, clip)
        for modality, track in combined.items():
            close(track.features[clip], torch.tensor(expected[modality], dtype=torch.float64))
    for modality, track in combined.items():
        mask = tracks[modality].mask
        assert torch.equal(track.mask, mask if name.startswith("tm") else mask.any(1, keepdim=True))


@pytest.mark.parametrize("family", SLOW)
def test_the_gate_of_the_loop_is_tried_both_ways(family: str):
    """So that the comparison above means something."""
    assert (some_correlation(TWO, 1).probability["audio", "video"] >= 0.5).unique().tolist() == [False, True]
    assert build(small(f"{family}-cm-g"), TWO).trunk.layers[0].influences["audio_to_video"].threshold == 0.5


@pytest.mark.parametrize(("family", "linear"), [("nv", "assign"), ("tm", None), ("rnn", None)])
def test_an_inlet_is_a_concatenation_with_the_input(family: str, linear: str | None):
    """A linear map W of the concatenation [x, c] with weights [W, W M] is W of x plus the inlet's M c."""
    layer: CrossModalLayer = build(small(f"{family}-cm-c", into="input"), TWO).trunk.layers[0]
    correlation, x = some_correlation(TWO, 4), floats(3, 4, layer.attention_modules["video"].inputs)
    conditioning = layer.conditionings["audio_to_video"]
    first = (
        layer.attention_modules["video"].get_submodule(linear) if linear else torch.nn.Linear(x.shape[-1], 5).double()
    )
    c = correlation.context(("audio", "video"), "probability")
    wide = torch.cat([first.weight, first.weight @ conditioning.map.weight], 1)
    both = torch.cat([x, c.unsqueeze(1).expand(-1, 4, -1)], -1)
    close(first(x + conditioning(correlation, ("audio", "video"))), both @ wide.T + first.bias)


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize(("inputs", "outputs"), [(4, 4), (4, 8), (8, 4), (1, 1), (1, 5)])
def test_relative_map(heads: int, inputs: int, outputs: int):
    """``W[s, t] = w[t - s]``, where two axes of different length share their middle."""
    module = RelativeMap(2, heads).double()
    stir(module)
    matrix, bias = module.matrix(inputs, outputs)
    assert matrix.shape == ((heads,) if heads > 1 else ()) + (inputs, outputs)
    for head in range(heads):
        weight = (module.weight if heads == 1 else module.weight[head]).tolist()
        for s in range(inputs):
            for t in range(outputs):
                apart = (t - (outputs - 1) / 2) - (s - (inputs - 1) / 2)
                expected = weight[int(apart) + 2] if abs(apart) <= 2 else 0.0
                assert (matrix if heads == 1 else matrix[head])[s, t].item() == expected
    assert bias is module.bias


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("hidden", [(), (1,), (1, 1)])
@pytest.mark.parametrize("size", [0, 2])
def test_relative_influence(hidden: tuple[int, ...], heads: int, size: int):
    """On a time without end: before the first step and after the last nothing is there, but hidden layers are."""
    fusion = CrossModal(hidden=hidden, reach=2)
    influence = Influence(fusion.parts(Axis(9, True, heads), Axis(9, True, heads)), size).double()
    stir(influence)
    steps, margin = 4, 20
    weights, context = floats(1, heads, 3, steps), floats(1, size) if size else None
    influenced = influence(weights, steps, steps, context)
    for head in range(heads):
        for row in range(3):
            line = [0.0] * margin + weights[0, head, row].tolist() + [0.0] * margin
            for i, layer in enumerate(influence.maps):
                assert isinstance(layer, RelativeMap)
                weight = (layer.weight if heads == 1 else layer.weight[head]).tolist()
                offset = layer.bias.flatten()[head].item()
                if i == 0 and influence.context is not None:
                    offset += influence.context(context)[0, head].item()
                line = [
                    offset + sum(weight[t - s + 2] * line[s] for s in range(t - 2, t + 3) if 0 <= s < len(line))
                    for t in range(len(line))
                ]
                if i < len(influence.maps) - 1 or not hidden:
                    line = [max(value, 0.0) for value in line]
            close(influenced[0, head, row], torch.tensor(line[margin : margin + steps], dtype=torch.float64))


def test_nearby():
    """F of the other's steps around each step; before the first and after the last there is nothing."""
    influence = CrossModal(hidden=(2,), reach=1).influence(Axis(4, False), Axis(3, False), 0).double()
    stir(influence)
    weights = floats(2, 5, 4)
    earlier, same, later = influence.nearby.weight[2], influence.nearby.weight[1], influence.nearby.weight[0]
    none = torch.zeros(2, 4).double()
    steps = [none, *weights.unbind(1), none]
    first, last = influence.maps
    for t, influenced in enumerate(influence(weights, 4, 3, None).unbind(1)):
        mixed = earlier * steps[t] + same * steps[t + 1] + later * steps[t + 2]
        close(influenced, (mixed @ first.weight + first.bias).relu() @ last.weight + last.bias)


def test_a_shift_in_time_is_one_entry_of_a_relative_map():
    shift = RelativeMap(3)
    with torch.no_grad():
        shift.weight.zero_()[3 + 2] = 1.0
    matrix, _ = shift.matrix(6, 6)
    assert (torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0, 0.0]) @ matrix).tolist() == [0.0, 0.0, 5.0, 4.0, 3.0, 2.0]


def test_shorter_clips_read_a_part_of_a_dense_map():
    """An absent entry counts as zero."""
    influence = CrossModal(hidden=(4,)).influence(Axis(6, True), Axis(6, True), 0)
    weights = torch.rand(2, 3, 4)
    longer = influence(torch.nn.functional.pad(weights, (0, 2)), 6, 6, None)
    assert_close(influence(weights, 4, 4, None), longer[..., :4])


@pytest.mark.parametrize("clips", [1, 3])
def test_descriptor(clips: int):
    describe = Descriptor(2, 3, 4).double()
    stir(describe)
    parts = floats(clips, 2, 3) * 7
    for clip in range(clips):
        expected = slow_describe(describe, parts[clip].tolist())
        close(describe(parts)[clip], torch.tensor(expected, dtype=torch.float64))
    close(describe(parts * 1000), describe(parts))
    close(describe(torch.zeros_like(parts)), describe.bias.expand(clips, -1))


def test_one_step_keeps_its_assignments():
    """Video-level records have a single step: normalizing each cluster would leave nothing of the influence."""
    layer: CrossModalLayer = build(small("nv-cm"), TWO).trunk.layers[0]
    tracks = {name: Track(floats(3, 1, size), torch.ones(3, 1, dtype=torch.bool)) for name, size in TWO.items()}
    louder = tracks | {"audio": Track(5 * tracks["audio"].features, tracks["audio"].mask)}
    before, after = (layer(influenced, None)[0]["video"].features for influenced in (tracks, louder))
    assert (before - after).abs().amax((1, 2)).min() > 1e-3


def test_masked_softmax():
    logits, mask = floats(4, 3, 5) * 3, floats(4, 1, 5, seed=1) > 0
    mask[0] = False
    expected = [
        [slow_masked_softmax(row, m[0]) for row in r] for r, m in zip(logits.tolist(), mask.tolist(), strict=True)
    ]
    close(masked_softmax(logits, mask), torch.tensor(expected, dtype=torch.float64))


def test_masked_softmax_has_a_finite_gradient_where_nothing_is():
    logits = floats(2, 3).requires_grad_()
    mask = torch.tensor([[True, False, True], [False, False, False]])
    masked_softmax(logits, mask)[:, 0].sum().backward()
    assert logits.grad.isfinite().all()
    assert not logits.grad[~mask].any()


@pytest.mark.parametrize("size", [6, 5, 1])
def test_positions(size: int):
    """Sines of step / 10000^(2i / size) in the first half, cosines in the second."""
    half = math.ceil(size / 2)
    for t, row in enumerate(positions(4, size)):
        angles = [t / 10000 ** (i / half) for i in range(half)]
        expected = [*map(math.sin, angles), *map(math.cos, angles)][:size]
        assert_close(row, torch.tensor(expected), rtol=0, atol=1e-6)


def test_projection():
    module = Projection(3, 4).double()
    track = Track(floats(2, 5, 3), torch.ones(2, 5, dtype=torch.bool))
    where = positions(5, 4).double()
    for t in range(5):
        close(module(track).features[:, t], track.features[:, t] @ module.map.weight.T + module.map.bias + where[t])


@pytest.mark.parametrize("joined", [False, True])
def test_reading_codes(joined: bool):
    """The data set's rule, value = code * 4/255 + 4/512 - 2; zeros, and not -2, where nothing is."""
    codes = torch.arange(256, dtype=torch.uint8)
    video = Track(codes.view(1, 32, 8), torch.arange(32).view(1, 32) % 3 > 0)
    audio = Track(codes.flip(0).view(1, 32, 8)[..., :2], torch.arange(32).view(1, 32) % 2 > 0)
    identities = {name: torch.nn.Identity() for name in ("video", "audio", "joined")}
    tracks = Read(identities, ("video", "audio"), joined).double()({"video": video, "audio": audio})
    expected = {
        name: torch.tensor(
            [
                [code * 4 / 255 + 4 / 512 - 2 if there else 0.0 for code in row]
                for row, there in zip(track.features[0].tolist(), track.mask[0].tolist(), strict=True)
            ],
            dtype=torch.float64,
        )
        for name, track in {"video": video, "audio": audio}.items()
    }
    if joined:
        assert tracks.keys() == {"joined"}
        close(tracks["joined"].features[0], torch.cat([expected["audio"], expected["video"]], 1))
        assert torch.equal(tracks["joined"].mask, video.mask | audio.mask)
    else:
        for name, values in expected.items():
            close(tracks[name].features[0], values)


def test_pool():
    """The mean over the steps that are there, whatever stands in the others."""
    features = torch.tensor([[[1.0], [3.0], [float("nan")]], [[5.0], [5.0], [5.0]]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert pool(Track(features, mask)).tolist() == [[2.0], [0.0]]


def test_head_begins_by_expecting_one_category():
    """At the start all categories together are expected about once: odds of 1 to (categories - 1) each."""
    head = HeadConfig(hidden=4, dropout=0.0).build(3, 11).eval()
    with torch.no_grad():
        head.network[-1].weight.zero_()
    assert_close(head({"video": torch.randn(2, 3)})[0].sigmoid(), torch.full((2, 11), 1 / 11))


def test_told():
    correlation = some_correlation(TWO, 4)
    pair = ("audio", "video")
    assert torch.equal(correlation.context(pair, "probability"), correlation.probability[pair].unsqueeze(1))
    assert correlation.context(pair, "agreement") is correlation.agreement[pair]
    assert [Concatenated(context=kind).context_size(7) for kind in ("probability", "agreement")] == [1, 7]
