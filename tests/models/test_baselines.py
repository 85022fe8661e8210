"""The baselines against loops written from their equations (Nagrani et al. 2021, section 3.2), in float64."""

import math

import pytest
import torch

from counterpoint.data.tracks import Track, Tracks
from counterpoint.errors import Error
from counterpoint.models.baselines import Bottlenecks, CrossAttention, OneStream
from counterpoint.models.transformer import TransformerBlock

from .small import BASELINES, CATEGORIES, MODELS, STEPS, TWO, build, small
from .test_equations import Rows, affine, close, floats, slow_masked_softmax, slow_norm


def slow_block(block: TransformerBlock, asking: Rows, answering: Rows) -> Rows:
    """Pre-LN block over tokens that are all there: those that ask, after attention over those that answer."""
    size, width = block.inputs, block.inputs // block.axis.heads
    ask, answer = ([slow_norm(block.norm, x) for x in rows] for rows in (asking, answering))
    query, key = block.query_key.weight.split(size)
    query_bias, key_bias = block.query_key.bias.split(size)
    queries = [affine(query, x, query_bias) for x in ask]
    keys = [affine(key, x, key_bias) for x in answer]
    values = [affine(block.value.weight, x, block.value.bias) for x in answer]
    rows = []
    for x, q in zip(asking, queries, strict=True):
        joined: list[float] = []
        for head in range(block.axis.heads):
            here = slice(head * width, (head + 1) * width)
            logits = [sum(a * b for a, b in zip(q[here], k[here], strict=True)) / math.sqrt(width) for k in keys]
            attention = slow_masked_softmax(logits, [True] * len(keys))
            joined += [sum(a * v[here][c] for a, v in zip(attention, values, strict=True)) for c in range(width)]
        after = [a + b for a, b in zip(x, affine(block.out.weight, joined, block.out.bias), strict=True)]
        norm, up, _, down = block.feed_forward
        hidden = [max(value, 0.0) for value in affine(up.weight, slow_norm(norm, after), up.bias)]
        rows.append([a + b for a, b in zip(after, affine(down.weight, hidden, down.bias), strict=True)])
    return rows


def slow(layers: list[CrossAttention | OneStream | Bottlenecks], x: dict[str, Rows]) -> dict[str, Rows]:
    """One clip, without its missing steps, through all layers."""
    for layer in layers:
        if isinstance(layer, CrossAttention):
            tokens = [token for rows in x.values() for token in rows]
            x = {name: slow_block(layer.blocks[name], rows, tokens) for name, rows in x.items()}
        elif isinstance(layer, OneStream):
            tokens = [token for rows in x.values() for token in rows]
            x = {name: slow_block(layer.block, rows, tokens) for name, rows in x.items()}
        else:
            z = layer.tokens.tolist()
            for blocks in layer.blocks:
                both = {name: slow_block(blocks[name], rows + z, rows + z) for name, rows in x.items()}
                x = {name: both[name][: len(rows)] for name, rows in x.items()}
                ends = [rows[len(rows) - len(z) :] for rows in both.values()]
                z = [[sum(v) / len(v) for v in zip(*tokens, strict=True)] for tokens in zip(*ends, strict=True)]
    return x


def some_tracks(sizes: dict[str, int], width: int) -> Tracks:
    """A whole clip, one with gaps, and one without the second modality; something stands in the gaps."""
    tracks = {}
    for i, name in enumerate(sizes):
        mask = torch.ones(3, STEPS, dtype=torch.bool)
        mask[1, i] = mask[1, -1] = False
        mask[2] = i != 1
        tracks[name] = Track(floats(3, STEPS, width, seed=i).masked_fill(~mask.unsqueeze(-1), 9.0), mask)
    return tracks


@pytest.mark.parametrize("name", [name for name in MODELS if name.split()[0] in BASELINES and "sound" not in name])
def test_layers_are_the_equations(name: str):
    recipe, sizes = MODELS[name]
    layers = list(build(recipe, sizes).trunk.layers)
    tracks = some_tracks(sizes, recipe.family.width)
    combined = tracks
    for layer in layers:
        combined, _ = layer(combined, None)
    for clip in range(3):
        x = {name: track.features[clip][track.mask[clip]].tolist() for name, track in tracks.items()}
        for modality, rows in slow(layers, x).items():
            expected = torch.tensor(rows, dtype=torch.float64).view(-1, recipe.family.width)
            close(combined[modality].features[clip][tracks[modality].mask[clip]], expected)


@pytest.mark.parametrize("name", BASELINES)
def test_shown_weights_are_shares_of_one(name: str):
    """What a modality's steps ask of their own and, seen from there, of the rest."""
    recipe, sizes = MODELS[name]
    model = build(recipe, sizes)
    tracks = some_tracks(sizes, recipe.family.width)
    layer = model.trunk.layers[-1]
    shown = layer(tracks, None, return_attention=True)[1]
    for modality, weights in shown.items():
        steps = tracks[modality].mask.shape[1]
        assert weights.after.shape[-2:] == (steps, steps)
        share = weights.after.sum(-1)[:2]
        assert ((share > 0) & (share < 1)).all()


def test_bottlenecks_need_a_layer_that_reads():
    with pytest.raises(Error, match="bottlenecks need 2 layers"):
        small("tm-mbt", {"layers": 1}).build(TWO, CATEGORIES)


def test_the_streams_tell_modalities_apart():
    """Handing the picture's features to the sound and the other way round is another clip."""
    sizes = {"video": 4, "audio": 4}
    model = build(small("tm-bert"), sizes)
    one, other = (Track(floats(2, STEPS, 4, seed=i), torch.ones(2, STEPS, dtype=torch.bool)) for i in range(2))
    vectors = model.trunk({"video": one, "audio": other})[0], model.trunk({"video": other, "audio": one})[0]
    assert (vectors[0]["video"] - vectors[1]["audio"]).abs().max() > 1e-3
