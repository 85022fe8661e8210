import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from rich.console import Console
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from training.world import LABELLING, SIZES, clip, clips, codes, dataset, recipe, write

from counterpoint.data.clip import Clip
from counterpoint.data.dataset import Dataset
from counterpoint.data.features import FeatureSet
from counterpoint.data.loading import collate
from counterpoint.errors import Error
from counterpoint.evaluation.tower import (
    FALSE_PAIRS,
    SURPRISING,
    Scored,
    Surprise,
    TowerResult,
    draw,
    figures,
    measure,
    surprising,
    surprising_table,
    table,
)
from counterpoint.recipes import TOWER_RECIPES, ContrastiveConfig, JoinedConfig, Negatives, NetVLADFamily, TowerRecipe
from counterpoint.run import RunFolder

QUIET = Console(quiet=True)
THREE = {"audio": 8, "text": 4, "video": 16}


def tower_recipe(form: str = "contrastive", weight: float = 1.0) -> TowerRecipe:
    comparison = JoinedConfig(hidden=6) if form == "joined" else ContrastiveConfig(embedding=4)
    family = NetVLADFamily(clusters=dict.fromkeys(THREE, 3), hidden=6)
    base = TOWER_RECIPES["correlation-nv"]
    return replace(base, family=family, comparison=comparison, negatives=Negatives(weight=weight), max_steps=6)


def tower_run(folder: Path, form: str = "contrastive", sizes: dict[str, int] = SIZES) -> RunFolder:
    """Not trained."""
    run = RunFolder(folder, tower_recipe(form), LABELLING, FeatureSet(sizes))
    run.save()
    torch.manual_seed(1)
    run.save_weights(run.build())
    return run


def results(*weights: float) -> list[TowerResult]:
    true, false = np.array([0.96, 0.8, 0.4, 0.5], np.float32), np.array([0.1, 0.6, 0.5, 0.2, 0.3], np.float32)
    made = (figures(tower_recipe(weight=weight), true, false, len(true)) for weight in weights)
    return [
        TowerResult(found, true, {"true": [Surprise(0.4, {"audio": "a", "video": "a"})], "false": []}) for found in made
    ]


def probability(run: RunFolder, data: Dataset, whose: dict[str, str]) -> float:
    """The tower's probability for a clip put together from tracks of others, by its forward pass."""
    by_id = {data.clip(i).id: data.clip(i) for i in range(len(data))}
    made = Clip("made", np.array([10]), {name: by_id[one].tracks[name] for name, one in whose.items()})
    batch = collate([(made, np.zeros(5, bool))], run.features, run.recipe.max_steps)
    with torch.inference_mode():
        return float(run.tower()(batch.tracks).probability[tuple(sorted(whose))][0])


def tops(data: Dataset) -> dict[str, set[int]]:
    top = LABELLING.taxonomy.levels == 0
    return {data[i][0].id: set(np.flatnonzero(data[i][1] & top)) for i in range(len(data))}


# --- figures ----------------------------------------------------------------------------------------------------------


def test_figures_by_hand() -> None:
    (result,) = results(2.0)
    found = result.figures
    assert (found.name, found.negative_weight, found.true_pairs, found.false_pairs) == ("correlation-nv", 2.0, 4, 5)
    assert found.fpr == 2 / 5  # 0.6 and, as a probability of a half is a yes, 0.5
    assert found.fnr == 1 / 4  # 0.4
    assert found.error == pytest.approx((2 / 5 + 1 / 4) / 2)
    assert found.accuracy == pytest.approx(1 - found.error)
    # 0.96 and 0.8 beat all five, 0.4 beats three, 0.5 beats three and ties with one.
    assert found.auc == pytest.approx((5 + 5 + 3 + 3.5) / 20)


@pytest.mark.parametrize("seed", range(5))
def test_figures_against_scikit_learn(seed: int) -> None:
    random = np.random.default_rng(seed)
    true, false = random.beta(3, 2, 40).astype(np.float32), random.beta(2, 3, 200).round(1).astype(np.float32)
    found = figures(tower_recipe(), true, false, len(true))
    truth, scores = np.repeat([1, 0], [40, 200]), np.concatenate([true, false])
    assert found.auc == pytest.approx(roc_auc_score(truth, scores), abs=1e-6)
    assert found.accuracy == pytest.approx(balanced_accuracy_score(truth, scores >= 0.5))


def test_table() -> None:
    made = table(results(1.0, 2.5))
    assert made.header[:2] == ["tower", "negative weight"]
    assert made.rows[1] == ["correlation-nv", "2.5", "32.5", "40.0", "25.0", "67.5", "0.8250 [0.36, 0.98] chance"]


# --- surprises --------------------------------------------------------------------------------------------------------


def test_surprising_by_hand() -> None:
    """Of all pairs of modalities together; the clips stand under the modality that was compared."""
    one = Scored(("audio", "video"), np.array([[0, 1], [2, 0]]), np.array([0.25, 0.75], np.float32))
    two = Scored(("text", "video"), np.array([[1, 0], [1, 2]]), np.array([0.5, 1.0], np.float32))
    ids = ["a", "b", "c"]
    most = [
        Surprise(1.0, {"text": "b", "video": "c"}),
        Surprise(0.75, {"audio": "c", "video": "a"}),
        Surprise(0.5, {"text": "b", "video": "a"}),
        Surprise(0.25, {"audio": "a", "video": "b"}),
    ]
    assert surprising([one, two], ids, -1) == most
    assert surprising([one, two], ids, +1) == most[::-1]
    (result,) = results(1.0)
    made = surprising_table(replace(result, surprising={"true": [], "false": most[:2]}))
    assert [made.header, *made.rows] == [
        ["pair", "probability", "audio of", "text of", "video of"],
        ["false", "1.000", "", "b", "c"],
        ["false", "0.750", "c", "", "a"],
    ]


def test_only_some_surprise() -> None:
    pairs = Scored(("audio", "video"), np.tile(np.arange(50)[:, None], 2), np.linspace(0, 1, 50))
    listed = surprising([pairs, pairs], [str(i) for i in range(50)], -1)
    assert [surprise.clips["audio"] for surprise in listed] == [str(i) for i in range(49, 44, -1) for _ in range(2)]


# --- measure ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["contrastive", "joined"])
def test_measure(tmp_path: Path, form: str) -> None:
    data = dataset(write(tmp_path / "a.tfrecord", *clips(40), *clips(5, prefix="silent", sound=False)))
    run = tower_run(tmp_path / "run", form)
    result = measure(run, data, QUIET)
    assert result.figures.true_pairs == len(result.true) == 40
    assert 40 * 3 < result.figures.false_pairs <= 40 * FALSE_PAIRS
    expected = {f"clip{i:03}": probability(run, data, dict.fromkeys(SIZES, f"clip{i:03}")) for i in range(40)}
    np.testing.assert_allclose(result.true, list(expected.values()), atol=1e-6)

    true, false = result.surprising["true"], result.surprising["false"]
    assert [surprise.clips["audio"] for surprise in true] == sorted(expected, key=expected.__getitem__)[:SURPRISING]
    assert all(len(set(surprise.clips.values())) == 1 for surprise in true)
    assert [surprise.probability for surprise in false] == sorted((s.probability for s in false), reverse=True)
    categories = tops(data)
    for surprise in false:
        # The sound of the one with the picture of the other, not the reverse.
        assert surprise.probability == pytest.approx(probability(run, data, surprise.clips), abs=1e-6)
        assert not categories[surprise.clips["audio"]] & categories[surprise.clips["video"]]
    assert len({tuple(surprise.clips.values()) for surprise in false}) == SURPRISING
    assert json.loads(json.dumps(result.to_dict()))["surprising"]["false"][0]["clips"] == false[0].clips
    assert measure(run, data, QUIET).to_dict() == result.to_dict()


def test_measure_three_modalities(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    shown = [replace(one, tracks=one.tracks | {"text": random.integers(1, 255, (2, 4), np.uint8)}) for one in clips(12)]
    data = dataset(write(tmp_path / "a.tfrecord", *shown))
    run = tower_run(tmp_path / "run", sizes=THREE)
    result = measure(run, data, QUIET)
    assert result.figures.true_pairs == 12 * 3
    for kind in ("true", "false"):
        for surprise in result.surprising[kind]:
            assert len(surprise.clips) == 2
            assert surprise.probability == pytest.approx(probability(run, data, surprise.clips), abs=1e-6)


def test_what_cannot_be_measured(tmp_path: Path) -> None:
    run = tower_run(tmp_path / "run")
    silent = dataset(write(tmp_path / "silent.tfrecord", *clips(5, sound=False)))
    alike = dataset(
        write(tmp_path / "alike.tfrecord", *(clip(name, [10], video=codes(2, 16), audio=codes(2, 8)) for name in "ab"))
    )
    for data in (silent, alike):
        with pytest.raises(Error, match="it takes some with audio and video that share no top-level category"):
            measure(run, data, QUIET)
    categorizer = RunFolder(tmp_path / "nv-l", recipe(), LABELLING, FeatureSet(SIZES))
    categorizer.save()
    categorizer.save_weights(categorizer.build())
    with pytest.raises(Error, match="a nv-l run, not a correlation tower"):
        measure(categorizer, silent, QUIET)


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_one_tower_has_no_curve(tmp_path: Path, drawn: list[Figure]) -> None:
    folder = tmp_path / "new" / "folder"
    assert draw(results(1.0), folder) == [folder / "true-pairs.png"]
    assert [path.name for path in folder.iterdir()] == ["true-pairs.png"]
    (outline,) = drawn[0].axes[0].patches
    corners = outline.get_xy()
    heights = {round(float(x), 3): y for (x, y), (end, _) in pairwise(corners) if end > x and y}
    assert heights == {0.4: 1, 0.5: 1, 0.8: 1, 0.95: 1}


def test_several_towers_make_a_curve(tmp_path: Path, drawn: list[Figure]) -> None:
    paths = draw(results(4.0, 1.0, 2.0), tmp_path)
    assert [path.name for path in paths] == ["true-pairs.png", "negative-weight.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    lines = {str(line.get_label()): line for line in drawn[1].axes[0].lines}
    assert list(lines) == ["error", "FPR", "FNR"]
    assert list(lines["FPR"].get_xdata()) == [1.0, 2.0, 4.0]
    assert list(lines["FPR"].get_ydata()) == pytest.approx([40.0] * 3)
