import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from rich.console import Console
from training.world import LABELLING, SIZES, TAXONOMY, clip, codes, dataset, write

from counterpoint.cli.main import main
from counterpoint.cli.models import explanation_table
from counterpoint.data.clip import Clip
from counterpoint.data.dataset import Dataset
from counterpoint.data.features import FeatureSet
from counterpoint.data.loading import collate
from counterpoint.errors import Error
from counterpoint.evaluation.plots import draw_explanation as draw
from counterpoint.explanation import ROWS, Explanation, explain, find
from counterpoint.models.fusion import CrossModal
from counterpoint.predict import Predictor
from counterpoint.recipes import (
    RECIPES,
    TOWER_RECIPES,
    AttentionClusterFamily,
    ContrastiveConfig,
    Family,
    HeadConfig,
    NetVLADFamily,
    TransformerFamily,
)
from counterpoint.run import TOWER_FOLDER, RunFolder, write_json

STEPS = 6
FAMILIES: dict[str, Family] = {
    "nv": NetVLADFamily(clusters={"audio": 3, "video": ROWS + 4, "joined": 5}, hidden=6),
    "tm": TransformerFamily(widths=dict.fromkeys(("audio", "video", "joined"), 8), heads=2),
    "rnn": AttentionClusterFamily(widths=dict.fromkeys(("audio", "video", "joined"), 8), units=3, hidden=6),
}
ROW = {"nv": "cluster", "tm": "head", "rnn": "attention unit"}


def stirred(run: RunFolder) -> RunFolder:
    """A run that is not trained but whose every parameter matters."""
    run.save_weights(run.build().apply(stir))
    return run


def stir(module: torch.nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters(recurse=False):
            parameter.add_(torch.randn_like(parameter), alpha=0.3)


def make(folder: Path, name: str, fusion: str = "cm") -> RunFolder:
    torch.manual_seed(2)
    base = RECIPES[f"{name}-{fusion}"]
    wanted = replace(base, family=FAMILIES[name], head=HeadConfig(hidden=8), max_steps=STEPS)
    run = RunFolder(folder, wanted, LABELLING, FeatureSet(SIZES))
    run.save()
    if wanted.needs_tower:
        tower_recipe = replace(
            TOWER_RECIPES["correlation-nv"], family=FAMILIES["nv"], comparison=ContrastiveConfig(embedding=4)
        )
        tower = RunFolder(folder.with_name(f"{folder.name}-tower"), tower_recipe, LABELLING, FeatureSet(SIZES))
        tower.save()
        run.take_in(stirred(tower))
    return stirred(run)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    random = np.random.default_rng(4)
    tracks = {name: random.integers(1, 256, (4, size), np.uint8) for name, size in SIZES.items()}
    gaps = {name: track[::-1].copy() for name, track in tracks.items()}
    gaps["audio"][1] = 0
    shown = [
        clip("whole", [10], **tracks),
        clip("gappy", [11], **gaps),
        clip("mute", [10], video=tracks["video"]),
        clip("one", [11], **{name: track[:1] for name, track in tracks.items()}),
        clip("long", [20], **{name: np.tile(track, (3, 1)) for name, track in tracks.items()}),
        clip("nothing", [20], video=codes(3, 16, 0)),
    ]
    return dataset(write(tmp_path_factory.mktemp("data") / "a.tfrecord", *shown))


@pytest.fixture(scope="module", params=[*FAMILIES])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def run(family: str, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make(tmp_path_factory.mktemp(family) / "run", family, "cm-c")


def probabilities_of(run: RunFolder, one: Clip) -> np.ndarray:
    """The model's probabilities for a clip."""
    tracks = collate([(one, np.zeros(len(TAXONOMY), bool))], run.features, run.recipe.max_steps).tracks
    with torch.inference_mode():
        probabilities: np.ndarray = TAXONOMY.consistent(run.categorizer()(tracks).logits.sigmoid().numpy())[0]
    return probabilities


def explained(run: RunFolder, data: Dataset, index: int, other: int | None = None, top: int = 5) -> Explanation:
    return explain(Predictor(run), data.clip(index), None if other is None else data.clip(other), top)


# --- explanations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", range(6))
def test_explains(run: RunFolder, data: Dataset, index: int, family: str) -> None:
    explanation = explained(run, data, index, 0, top=4)
    one, other = data.clip(index), data.clip(0)
    before = probabilities_of(run, one)

    best = np.argsort(-before, kind="stable")[:4]
    assert [path for path, _ in explanation.categories] == [TAXONOMY.paths[i] for i in best]
    categorized = next(Predictor(run).predict(data)).probabilities[index]
    np.testing.assert_allclose([p for _, p in explanation.categories], categorized[best], atol=1e-6)

    expected = {f"without {name}": {**one.tracks} for name in SIZES if name in one.tracks and one.tracks[name].any()}
    for name in expected:
        del expected[name][name.removeprefix("without ")]
    expected |= {f"{name} of whole": one.tracks | {name: other.tracks[name]} for name in SIZES}
    assert list(explanation.changes) == list(expected)
    for what, tracks in expected.items():
        changes = (probabilities_of(run, replace(one, tracks=tracks)) - before)[best]
        np.testing.assert_allclose(explanation.changes[what], changes, atol=1e-6)

    steps = min(max(one.steps, 1), STEPS)
    for name, timeline in explanation.timelines.items():
        assert timeline.row == ROW[family]
        assert timeline.before.shape == timeline.influence.shape == timeline.after.shape
        assert timeline.present.shape == timeline.after.shape[1:] == (steps,)
        present = one.tracks[name][:STEPS].any(1) if name in one.tracks else np.zeros(steps, bool)
        assert timeline.present.tolist() == present.tolist()
        assert not timeline.before[:, ~present].any()
        if family != "tm":  # a Transformer adds the influence to its logits
            np.testing.assert_allclose(timeline.after - timeline.before, timeline.influence, atol=1e-6)
    assert list(explanation.timelines) == list(SIZES)


def test_correlation(run: RunFolder, data: Dataset) -> None:
    whole, gappy, mute, one = (explained(run, data, index) for index in range(4))
    assert 0 < whole.correlation["audio and video"] < 1
    assert mute.correlation == {"audio and video": 0.0}
    seconds = whole.per_second["audio and video"]
    assert len(seconds) == data.clip(0).steps
    assert all(probability is not None and 0 < probability < 1 for probability in seconds)
    assert [probability is None for probability in gappy.per_second["audio and video"]] == [False, True, False, False]
    assert set(mute.per_second["audio and video"]) == {None}
    assert one.per_second["audio and video"] == pytest.approx([one.correlation["audio and video"]])
    # Each second by itself is what the tower says of a clip of that second alone.
    alone = replace(data.clip(0), tracks={name: track[2:3] for name, track in data.clip(0).tracks.items()})
    tracks = collate([(alone, np.zeros(5, bool))], run.features, STEPS).tracks
    with torch.inference_mode():
        expected = run.categorizer().tower(tracks).probability["audio", "video"].item()  # type: ignore[misc]
    assert seconds[2] == pytest.approx(expected, abs=1e-6)


def test_correlation_of_a_fusion_per_second(data: Dataset, tmp_path: Path) -> None:
    """Each second's with all seconds of the other modality, as the model weighs it."""
    run = make(tmp_path / "s", "nv", "cm-s")
    whole, gappy, mute = (explained(run, data, index) for index in range(3))
    assert set(whole.per_second) == {"audio with all seconds", "video with all seconds"}
    tracks = collate([(data.clip(0), np.zeros(5, bool))], run.features, STEPS).tracks
    with torch.inference_mode():
        tower = run.categorizer().tower
        assert tower is not None
        evidence = tower(tracks, per_second=True).evidence
    for name in SIZES:
        shown = whole.per_second[f"{name} with all seconds"]
        assert shown == pytest.approx(evidence[name][0].sigmoid().tolist(), abs=1e-6)
        assert len(gappy.per_second[f"{name} with all seconds"]) == 4
        assert set(mute.per_second[f"{name} with all seconds"]) == {None}


def test_swapped_with_itself(run: RunFolder, data: Dataset) -> None:
    explanation = explained(run, data, 0, 0)
    for name in SIZES:
        assert explanation.changes[f"{name} of whole"] == [0.0] * 5
        assert any(explanation.changes[f"without {name}"])


def test_a_track_that_the_other_lacks_is_not_swapped(run: RunFolder, data: Dataset) -> None:
    assert list(explained(run, data, 0, 2).changes) == ["without audio", "without video", "video of mute"]
    assert list(explained(run, data, 0).changes) == ["without audio", "without video"]
    assert list(explained(run, data, 2).changes) == ["without video"]
    assert list(explained(run, data, 5).changes) == []


def test_without_fusion_there_is_no_influence(data: Dataset, tmp_path: Path, drawn: list[Figure]) -> None:
    late = explained(make(tmp_path / "l", "nv", "l"), data, 0)
    assert late.correlation == late.per_second == {}
    assert not any(timeline.influence.any() for timeline in late.timelines.values())
    early = explained(make(tmp_path / "e", "nv", "e"), data, 1)
    assert list(early.timelines) == ["joined"]
    assert early.timelines["joined"].present.all()
    draw(late, tmp_path / "late.png")
    assert titles(drawn[-1])[:2] == [
        "audio: weights, nothing is added to them",
        "video: weights, nothing is added to them",
    ]


@pytest.mark.parametrize("name", ["tm-xattn", "tm-mbt", "tm-bert", "nv-sound"])
@pytest.mark.parametrize("index", range(6))
def test_baselines_and_single_modalities(
    name: str, index: int, data: Dataset, tmp_path: Path, drawn: list[Figure]
) -> None:
    """The weights of a modality's own steps, as much of them as the others leave."""
    torch.manual_seed(2)
    family = FAMILIES["nv"] if name == "nv-sound" else replace(RECIPES[name].family, width=8, heads=2)
    wanted = replace(RECIPES[name], family=family, head=HeadConfig(hidden=8), max_steps=STEPS)
    subject = RunFolder(tmp_path / "run", wanted, LABELLING, FeatureSet(SIZES))
    subject.save()
    explanation = explained(stirred(subject), data, index, 0)
    draw(explanation, tmp_path / "a.png")
    assert explanation.timelines.keys() == ({"audio"} if name == "nv-sound" else set(SIZES))
    for timeline in explanation.timelines.values():
        assert timeline.before.shape[1] == min(max(data.clip(index).steps, 1), STEPS)
        assert not timeline.influence.any()
        assert (timeline.after.sum(-1) <= 1 + 1e-5).all() or name == "nv-sound"
    if name == "nv-sound":
        assert not any(explanation.changes.get("without video", []))
    assert len(titles(drawn[-1])) >= 1


def test_influence_can_lower_a_weight(data: Dataset, tmp_path: Path, drawn: list[Figure]) -> None:
    run = make(tmp_path / "run", "nv")
    deep = replace(run.recipe, fusion=CrossModal(hidden=(4,)))  # type: ignore[type-var]
    run = replace(run, folder=tmp_path / "deep", recipe=deep)
    run.save()
    explanation = explained(stirred(run), data, 0)
    assert min(timeline.after.min() for timeline in explanation.timelines.values()) < 0
    draw(explanation, tmp_path / "deep.png")


def test_find(data: Dataset) -> None:
    assert (find(data, "mute"), find(data, "2"), find(data, "gappy")) == (2, 2, 1)
    for missing in ("6", "-1", "nobody", ""):
        with pytest.raises(Error, match=f"no clip '{missing}'"):
            find(data, missing)


def test_other_features_are_refused(data: Dataset, tmp_path: Path) -> None:
    run = make(tmp_path / "run", "nv")
    with pytest.raises(Error, match=r"reads ours features .* not youtube8m features"):
        next(Predictor(replace(run, features=FeatureSet(SIZES, "ours"))).predict(data))


# --- for people -------------------------------------------------------------------------------------------------------


def titles(figure: Figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes if not axes.get_label().startswith("<colorbar")]


@pytest.mark.parametrize(
    ("family", "index"), [*(("nv", index) for index in range(6)), ("tm", 1), ("rnn", 3)], indirect=["family"]
)
def test_draw(run: RunFolder, data: Dataset, index: int, family: str, tmp_path: Path, drawn: list[Figure]) -> None:
    """Clips with gaps, without sound, of one step, longer than the model reads, and without anything."""
    explanation = explained(run, data, index, 0)
    path = draw(explanation, tmp_path / "clip.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    (figure,) = drawn
    words = [text.get_text() for axes in figure.axes for text in axes.texts]
    for name, timeline in explanation.timelines.items():
        here = [title for title in titles(figure) if title.startswith(name)]
        assert len(here) == (0 if not timeline.present.any() else 3 if timeline.influence.any() else 1)
        assert (f"no {name}" in words) != bool(here)
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert ("correlation" in labels) == (index in (0, 1, 4))
    assert sum(label.startswith(ROW[family]) for label in labels) == sum(
        timeline.present.any() for timeline in explanation.timelines.values()
    )
    if family == "nv" and index != 5:
        assert f"cluster ({ROWS} of {ROWS + 4})" in labels
    table = figure.axes[-1]
    assert [text.get_text() for text in table.get_xticklabels()] == ["as it is", *explanation.changes]
    assert [text.get_text() for text in table.get_yticklabels()] == [name for name, _ in explanation.categories]
    after = [[p for _, p in explanation.categories]]
    after += [[p + by for p, by in zip(after[0], change, strict=True)] for change in explanation.changes.values()]
    assert [text.get_text() for text in table.texts] == [f"{p:.2f}" for row in zip(*after, strict=True) for p in row]


def test_json(run: RunFolder, data: Dataset) -> None:
    explanation = explained(run, data, 1, 0)
    stored = json.loads(json.dumps(explanation.to_dict(), allow_nan=False))
    assert stored.keys() == {"clip", "categories", "changes", "correlation", "per_second", "timelines"}
    assert stored["clip"] == "gappy"
    assert stored["categories"][0] == dict(zip(("path", "probability"), explanation.categories[0], strict=True))
    assert stored["per_second"]["audio and video"][1] is None
    audio = stored["timelines"]["audio"]
    assert audio.keys() == {"row", "present", "before", "influence", "after"}
    assert audio["present"] == [True, False, True, True]
    np.testing.assert_allclose(audio["after"], explanation.timelines["audio"].after)


def test_a_tower_that_is_no_better_than_chance_explains_nothing(
    tmp_path: Path, data: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make(tmp_path / "run", "nv", "cm-c")
    assert explained(made, data, 0, 1).per_second
    write_json(made.folder / TOWER_FOLDER / "auc.json", {"auc": 0.53, "low": 0.44, "high": 0.62, "pairs": 60})
    explanation = explained(RunFolder.load(made.folder), data, 0, 1)
    assert (explanation.correlation, explanation.per_second) == ({}, {})
    (tmp_path / "shards").mkdir()
    shard = write(tmp_path / "shards" / "a.tfrecord", data.clip(0))
    assert main(["explain", str(made.folder), f"{shard}#whole", "--out", str(tmp_path / "drawn.png")]) == 0
    printed = capsys.readouterr()
    line = "no correlation is shown: this model's tower is no better than chance (AUC 0.53 [0.44, 0.62] on 60 pairs)"
    assert line in printed.err
    assert "correlation" not in printed.out


def test_explanation_in_a_terminal(run: RunFolder, data: Dataset) -> None:
    explanation = explained(run, data, 0, 1)
    named = replace(explanation, categories=[("Vehicle [bold]", 0.5), *explanation.categories[1:]])
    console = Console(width=200, markup=False, emoji=False)
    with console.capture() as captured:
        console.print(explanation_table(named, Path("x.png")))
    lines = captured.get().splitlines()
    assert [cell.strip() for cell in lines[1].split("┃")[1:3]] == ["category", "probability"]
    assert "│ Vehicle [bold] " in lines[3]
    assert lines[-2] == f"correlation of audio and video: {explanation.correlation['audio and video']:.3f}"
    assert lines[-1] == "drawn in x.png"
