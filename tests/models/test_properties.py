"""What must hold for every model, whatever the batch."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from counterpoint.data.tracks import Track, Tracks, masked_softmax
from counterpoint.errors import Error
from counterpoint.models import transformer
from counterpoint.models.fusion import Axis, ConcatenatedInfluence, CrossModal

from .small import (
    BASELINES,
    CATEGORIES,
    FAMILIES,
    MODELS,
    STEPS,
    THREE,
    TWO,
    batch,
    batches,
    build,
    model,
    pick,
    small,
)

every_model = pytest.mark.parametrize("name", MODELS)
every_family = pytest.mark.parametrize("family", FAMILIES)
few = settings(max_examples=4)


def close(one: Tensor, other: Tensor) -> None:
    assert one.shape == other.shape
    assert torch.allclose(one, other, rtol=1e-10, atol=1e-10), (one - other).abs().max()


def spoiled(track: Track, longer: int, rubbish: float) -> Track:
    """The same track, padded by some steps, with rubbish wherever nothing is."""
    clips, steps, size = track.features.shape
    if track.features.dtype == torch.uint8:
        rubbish = 255
    features = track.features.new_full((clips, steps + longer, size), rubbish)
    features[:, :steps][track.mask] = track.features[track.mask]
    return Track(features, torch.cat([track.mask, track.mask.new_zeros(clips, longer)], 1))


@every_model
@given(data=st.data(), rubbish=st.sampled_from([float("nan"), float("inf"), 1e30, -3.0]))
@few
def test_padding_never_changes_a_logit(name: str, data: st.DataObject, rubbish: float):
    tracks = data.draw(batches(MODELS[name][1]))
    longer = data.draw(st.integers(0, STEPS - tracks["video"].mask.shape[1]))
    padded = {modality: spoiled(track, longer, rubbish) for modality, track in tracks.items()}
    close(model(name)(padded).logits, model(name)(tracks).logits)


@every_model
@given(data=st.data())
@few
def test_a_clip_never_moves_another(name: str, data: st.DataObject):
    tracks = data.draw(batches(MODELS[name][1], least=2))
    clips, steps = tracks["video"].mask.shape
    changed = data.draw(st.integers(0, clips - 1))
    others = torch.arange(clips) != changed
    seed, present = data.draw(st.integers(0, 99)), data.draw(st.sampled_from([0.0, 0.5, 1.0]))
    stranger = batch(MODELS[name][1], clips, steps, seed, tracks["video"].features.dtype == torch.uint8, present)
    swapped = {
        modality: Track(
            torch.where(others[:, None, None], track.features, stranger[modality].features),
            torch.where(others[:, None], track.mask, stranger[modality].mask),
        )
        for modality, track in tracks.items()
    }
    close(model(name)(swapped).logits[others], model(name)(tracks).logits[others])


@every_model
@given(data=st.data())
@few
def test_order_of_clips_and_modalities(name: str, data: st.DataObject):
    tracks = data.draw(batches(MODELS[name][1]))
    order = torch.tensor(data.draw(st.permutations(range(len(tracks["video"].mask)))))
    logits = model(name)(tracks).logits
    close(model(name)(pick(tracks, order)).logits, logits[order])
    close(model(name)(dict(reversed(tracks.items()))).logits, logits)


def unlike(tracks: Tracks, seed: int) -> Tensor:
    """Random probabilities, of which about half open a gate."""
    return torch.rand(len(tracks["video"].mask), generator=torch.Generator().manual_seed(seed))


@every_family
@pytest.mark.parametrize("sizes", [TWO, THREE], ids=len)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@given(data=st.data(), seed=st.integers(0, 99), shut=st.booleans())
@few
def test_a_shut_gate_is_late_fusion_bit_for_bit(
    family: str, sizes: dict[str, int], dtype: torch.dtype, data: st.DataObject, seed: int, shut: bool
):
    tracks = data.draw(batches(sizes))
    probability = unlike(tracks, seed) * (0.49 if shut else 1.0)
    gated = build(small(f"{family}-cm-g"), sizes, probability).to(dtype)
    late = build(small(f"{family}-l"), sizes).to(dtype)
    late.load_state_dict({key: value for key, value in gated.state_dict().items() if key in late.state_dict()})
    closed = probability < 0.5
    assert torch.equal(gated(tracks).logits[closed], late(tracks).logits[closed])


@every_family
@given(data=st.data(), seed=st.integers(0, 99))
@few
def test_a_gate_never_moves_another_clip(family: str, data: st.DataObject, seed: int):
    tracks = data.draw(batches(TWO))
    before = unlike(tracks, seed)
    turned = data.draw(st.integers(0, len(before) - 1))
    after = before.clone()
    after[turned] = 1 - before[turned]
    one, other = (build(small(f"{family}-cm-g"), TWO, probability)(tracks).logits for probability in (before, after))
    others = torch.arange(len(before)) != turned
    assert_close(one[others], other[others], rtol=0, atol=1e-12)


@every_family
def test_an_open_gate_is_cross_modal(family: str):
    tracks = batch(TWO)
    gated = build(small(f"{family}-cm-g"), TWO, torch.tensor([0.5, 0.9, 0.1, 0.4]))
    cross = build(small(f"{family}-cm"), TWO)
    cross.load_state_dict({key: value for key, value in gated.state_dict().items() if key in cross.state_dict()})
    same = torch.isclose(gated(tracks).logits, cross(tracks).logits, rtol=0, atol=1e-12)
    assert same.all(1).tolist() == [True, True, False, False]
    assert not same[2:].any()


@pytest.mark.parametrize("name", [name for name in MODELS if name.startswith("tm-cm")])
def test_logits_formed_a_few_clips_at_a_time(name: str, monkeypatch: pytest.MonkeyPatch):
    """A Transformer's output and gradient do not depend on how many."""
    recipe, sizes = MODELS[name]
    results = []
    for most in (1, 2 * 2 * STEPS * STEPS, 1 << 20):
        monkeypatch.setitem(transformer.CHUNK_LOGITS, "cpu", most)
        model = build(recipe, sizes, torch.tensor([0.9, 0.2, 0.6, 0.7]) if recipe.needs_tower else None)
        logits = model(batch(sizes, present=0.8)).logits
        logits.square().sum().backward()
        results.append([logits, *(parameter.grad for parameter in model.parameters() if parameter.grad is not None)])
    for result in results[1:]:
        for one, other in zip(result, results[0], strict=True):
            close(one, other)


@every_model
def test_who_learns(name: str):
    """Every parameter of the categorizer has a gradient, and none of the tower's."""
    recipe, sizes = MODELS[name]
    probability = torch.tensor([0.9, 0.6, 0.4, 0.7]) if recipe.needs_tower else None
    learns: dict[str, bool] = {}
    for seed in range(4):  # with other parameters each time, since a ReLU may be asleep
        model = build(recipe, sizes, probability, seed)
        model(batch(sizes, seed=seed, codes=seed == 2, present=0.8)).logits.square().sum().backward()
        for key, parameter in model.named_parameters():
            assert parameter.requires_grad != key.startswith("tower.")
            moved = parameter.grad is not None and parameter.grad.abs().max().item() > 1e-12
            learns[key] = learns.get(key, False) or moved
    # What is the same for all keys moves no softmax, and along steps a relative F's last bias is no more than that.
    idle = (
        f"maps.{len(getattr(recipe.fusion, 'hidden', ()))}.bias" if name.startswith("tm") and "reach" in name else "-"
    )
    assert {key for key in learns if not learns[key]} == {
        key for key in learns if key.startswith("tower.") or key.endswith(idle)
    }


@pytest.mark.parametrize("name", [name for name in MODELS if MODELS[name][0].needs_tower])
def test_a_frozen_tower_stays_in_evaluation(name: str):
    model = build(*MODELS[name])
    model.train()
    assert model.trunk.training
    assert model.head.training
    assert not any(module.training for module in model.tower.modules())
    torch.nn.Sequential(model).eval().train()
    assert not model.tower.training


@every_model
@pytest.mark.parametrize("missing", [("audio",), ("video",), ("audio", "video", "text")], ids=len)
def test_neither_picture_nor_sound(name: str, missing: tuple[str, ...]):
    """Forward and backward stay finite, for every clip and for one among others, whatever stands in the padding."""
    recipe, sizes = MODELS[name]
    model = build(recipe, sizes)
    for mute in (slice(None), slice(1, 2)):
        tracks = batch(sizes)
        for modality in missing:
            if modality in tracks:
                tracks[modality].mask[mute] = False
                tracks[modality].features[mute] = torch.nan
        logits = model(tracks).logits
        assert logits.isfinite().all()
        logits.square().sum().backward()
        for key, parameter in model.named_parameters():
            assert parameter.grad is None or parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("name", ["tm-cm", "rnn-cm", "rnn-cm-c", "tm-cm deep", "rnn-cm deep"])
def test_a_clip_longer_than_the_influence(name: str):
    with pytest.raises(ValueError, match=f"a clip of {STEPS + 2} steps is longer than the {STEPS} that"):
        model(name)(batch(TWO, steps=STEPS + 2))


@pytest.mark.parametrize(
    "name",
    [
        *("tm-l", "rnn-l", "nv-cm", *BASELINES),
        *("nv-cm reach deep", "rnn-cm-g reach", "tm-cm reach deep", "rnn-cm reach deep"),
    ],
)
def test_any_length_where_no_influence_is_tied_to_it(name: str):
    tracks = batch(TWO, steps=3 * STEPS)
    short = {
        modality: Track(track.features[:, : STEPS + 1], track.mask[:, : STEPS + 1])
        for modality, track in tracks.items()
    }
    for track in tracks.values():
        track.mask[:, STEPS + 1 :] = False
    close(model(name)(tracks).logits, model(name)(short).logits)


@every_family
@pytest.mark.parametrize("fusion", ["cm", "cm-c", "cm-g"])
@pytest.mark.parametrize("hidden", [(), (4,)])
def test_zero_start_is_near_late_fusion(family: str, fusion: str, hidden: tuple[int, ...]):
    recipe = small(f"{family}-{fusion}", hidden=hidden, start="zero")
    late, tracks = build(small(f"{family}-l"), TWO), batch(TWO)
    tower = build(recipe, TWO, torch.full((4,), 0.9)).tower
    torch.manual_seed(0)
    cross = recipe.build(TWO, CATEGORIES, tower).double().eval()
    cross.load_state_dict(late.state_dict(), strict=False)
    expected = late(tracks).logits
    assert 0 < (cross(tracks).logits - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize("hidden", [(), (6,), (7, 6)])
@pytest.mark.parametrize("source", [Axis(6, False), Axis(6, True), Axis(6, True, heads=2)])
@pytest.mark.parametrize("reach", [None, 2])
def test_identity_start_is_the_others_weights(source: Axis, hidden: tuple[int, ...], reach: int | None):
    influence = CrossModal(hidden=hidden, start="identity", reach=reach).influence(source, Axis(6, True), 0)
    weights = torch.rand(3, source.heads, 4, 6).softmax(-1)
    assert_close(influence(weights, 6, 6, None), weights, rtol=0, atol=0.02)


def test_identity_start_between_unlike_axes():
    """Entries that both have are handed over."""
    weights = torch.rand(2, 3, 4)
    shorter = CrossModal(hidden=(), start="identity").influence(Axis(4, False), Axis(2, False), 0)
    assert_close(shorter(weights, 4, 2, None), weights[..., :2], rtol=0, atol=0.03)
    longer = CrossModal(hidden=(), start="identity").influence(Axis(4, False), Axis(6, False), 0)
    assert_close(longer(weights, 4, 6, None), torch.nn.functional.pad(weights, (0, 2)), rtol=0, atol=0.03)


@every_family
@pytest.mark.parametrize("into", ["influence", "input"])
def test_concatenated_fusion_reads_the_probability(family: str, into: str):
    tracks = batch(TWO)
    low = build(small(f"{family}-cm-c", into=into), TWO, torch.full((4,), 0.1))(tracks)
    high = build(small(f"{family}-cm-c", into=into), TWO, torch.tensor([0.1, 0.1, 0.9, 0.9]))(tracks)
    assert ((low.logits - high.logits).abs().amax(1) > 1e-6).tolist() == [False, False, True, True]


@every_family
@pytest.mark.parametrize("into", ["influence", "input"])
def test_concatenated_fusion_reads_the_agreement(family: str, into: str):
    """It reads the whole of the agreement, and nothing of the probability."""
    recipe, tracks = small(f"{family}-cm-c", into=into, context="agreement"), batch(TWO)
    model = build(recipe, TWO, torch.full((4,), 0.1))
    layer = model.trunk.layers[0]
    maps = layer.conditionings if into == "input" else layer.influences
    assert {part.map.in_features if into == "input" else part.context.in_features for part in maps.values()} == {4}
    assert all(isinstance(part, ConcatenatedInfluence) == (into == "influence") for part in layer.influences.values())
    before = model(tracks).logits
    assert torch.equal(build(recipe, TWO, torch.full((4,), 0.9))(tracks).logits, before)
    with torch.no_grad():
        for parameter in model.tower.comparison.maps["audio"].parameters():
            parameter.neg_()
    assert (model(tracks).logits - before).abs().max() > 1e-6


@every_model
def test_shown_weights(name: str):
    """After is before plus influence; without influence, weights sum to one over what is there."""
    recipe, sizes = MODELS[name]
    tracks = batch(sizes, present=0.7)
    tracks["audio"].mask[0] = False
    output = model(name)(tracks, return_attention=True)
    assert_close(output.logits, model(name)(tracks).logits, rtol=0, atol=0)
    assert model(name)(tracks).weights == []
    assert len(output.weights) == len(model(name).trunk.layers)
    read = {name: track for name, track in tracks.items() if name in (recipe.modalities or tracks)}
    for shown in output.weights:
        assert shown.keys() == ({"joined"} if recipe.fusion.joined else set(read))
        for modality, (before, influence, after) in shown.items():
            assert before.shape == influence.shape == after.shape
            whole = torch.stack([track.mask for track in read.values()]).any(0)
            mask = whole if recipe.fusion.joined else tracks[modality].mask
            mask = mask.any(1, keepdim=True) if recipe.averaged else mask
            if name.startswith("tm"):
                mask = mask[:, None, None, :].expand(before.shape)
                if name.split()[0] not in BASELINES:
                    close(after, masked_softmax(before.clamp_min(1e-300).log() + influence, mask))
                sums = mask.any(-1).double()
            else:
                mask = (
                    mask[:, :, None].expand(before.shape) if name.startswith("nv") else mask[:, None].expand_as(before)
                )
                close(after, before + influence)
                sums = mask.any(-1).double()
            assert not before[~mask].any()
            assert not after[~mask].any()
            if name.split()[0] in BASELINES:  # some of the sum goes to the others' steps
                assert (before.sum(-1) <= sums.clamp_min(1) + 1e-12).all()
                sums = before.sum(-1)
            if name.startswith("nv") and recipe.fusion.per_second:  # a step's weights are as large as its emphasis
                continue
            close(before.sum(-1), sums)
            if type(recipe.fusion).__name__ in {"Early", "Late"}:
                assert not influence.any()
                close(after.sum(-1), sums)


@every_family
def test_shut_gates_show_no_influence(family: str):
    model = build(small(f"{family}-cm-g"), TWO, torch.tensor([0.1, 0.9, 0.2, 0.8]))
    for influence in (maps.influence for maps in model(batch(TWO), return_attention=True).weights[0].values()):
        assert influence.flatten(1).any(1).tolist() == [False, True, False, True]


@every_family
def test_a_model_computes_in_its_own_precision(family: str):
    """Codes and floats of any kind become what the parameters are."""
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        model = build(small(f"{family}-cm"), TWO).to(dtype)
        for tracks in (batch(TWO, codes=True), batch(TWO)):
            assert model(tracks).logits.dtype == dtype


def test_a_width_that_does_not_divide_into_the_heads():
    with pytest.raises(Error, match="a width of 8 does not divide into 3 heads"):
        small("tm-l", {"heads": 3}).build(TWO, CATEGORIES)


def test_gated_and_concatenated_need_a_tower():
    for name in ("nv-cm-g", "tm-cm-c"):
        with pytest.raises(Error, match=f"{name} needs a trained correlation tower"):
            small(name).build(TWO, CATEGORIES)


def test_dropout_of_a_training_model_spares_the_tower():
    """The tower's word does not depend on whether the categorizer trains."""
    recipe = replace(small("tm-cm-c"), max_steps=STEPS)
    model, tracks = build(recipe, TWO), batch(TWO)
    still = model(tracks).correlation.probability["audio", "video"]
    assert torch.equal(model.train()(tracks).correlation.probability["audio", "video"], still)


@pytest.mark.parametrize("name", [name for name, (recipe, _) in MODELS.items() if recipe.modalities])
def test_a_modality_that_is_not_read_does_not_matter(name: str):
    """Except through a tower, which reads for itself."""
    recipe, sizes = MODELS[name]
    probability = torch.tensor([0.9, 0.2, 0.6, 0.7]) if recipe.needs_tower else None
    model, tracks, others = build(recipe, sizes, probability), batch(sizes), batch(sizes, seed=1)
    logits = model(tracks).logits
    unread = {modality: others[modality] for modality in sizes if modality not in recipe.modalities}
    assert unread
    assert torch.equal(model(tracks | unread).logits, logits)
    for modality in recipe.modalities:
        assert (model(tracks | {modality: others[modality]}).logits - logits).abs().max() > 1e-6


def test_an_averaged_clip_is_the_mean_of_its_steps():
    recipe = replace(small("nv-cm-c"), averaged=True)
    model, tracks = build(recipe, TWO, torch.tensor([0.9, 0.2, 0.6, 0.7])), batch(TWO, present=0.6)
    means = {
        name: Track(
            torch.stack(
                [
                    f[m].mean(0, keepdim=True) if m.any() else torch.zeros(1, f.shape[1])
                    for f, m in zip(*track, strict=True)
                ]
            ),
            track.mask.any(1, keepdim=True),
        )
        for name, track in tracks.items()
    }
    assert any((track.mask.any(1) & ~track.mask.all(1)).any() for track in tracks.values())
    assert torch.allclose(model(tracks).logits, model(means).logits, atol=1e-6)


def test_a_modality_that_the_features_lack():
    with pytest.raises(Error, match="nv-l reads 'smell', and the features are video, audio"):
        replace(small("nv-l"), modalities=("video", "smell")).build(TWO, CATEGORIES)


@every_family
def test_self_influence_reads_no_other_modality(family: str):
    tracks = batch(TWO)
    trunk = model(f"{family}-cm-self").trunk
    vectors, (shown,) = trunk(tracks, return_attention=True)
    louder = Track(tracks["audio"].features.flip(0), tracks["audio"].mask.flip(0))
    others, _ = trunk({**tracks, "audio": louder})
    assert torch.equal(vectors["video"], others["video"])
    assert not torch.equal(vectors["audio"], others["audio"])
    assert all(each.influence.abs().max() > 0 for each in shown.values())


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_read_the_other_modality_step_by_step(name: str):
    """What the sound shows at one second changes what a baseline reads from the picture."""
    tracks = batch(TWO)
    louder = tracks["audio"].features.clone()
    louder[:, 2] *= 3
    one, other = (
        model(name).trunk(given)[0]["video"]
        for given in (tracks, tracks | {"audio": Track(louder, tracks["audio"].mask)})
    )
    assert (one - other).abs().amax(1).min() > 1e-6


def test_a_transformers_picture_leaves_out_queries_that_are_not_there():
    block = model("tm-l").trunk.layers[-1].attention("video")
    weights = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.5, 0.5, 0.0]]])
    assert block.time_profile(weights, torch.tensor([True, True, False])).tolist() == [[0.5, 0.5, 0.0]]
    assert block.time_profile(weights, torch.tensor([True, False, False])).tolist() == [[1.0, 0.0, 0.0]]
    assert block.time_profile(weights, torch.zeros(3, dtype=torch.bool)).tolist() == [[0.0, 0.0, 0.0]]


def test_modalities_of_any_name_are_given_the_towers_output():
    sizes = {"speech_to_text": 5, "video": 6}
    recipe = small("nv-cm-c")
    family = replace(recipe.family, clusters={"speech_to_text": 3, "video": 3})
    recipe = replace(recipe, family=family, fusion=replace(recipe.fusion, into="input"))
    built = build(recipe, sizes, torch.tensor([0.9, 0.2, 0.6, 0.7]))
    assert torch.isfinite(built(batch(sizes)).logits).all()
