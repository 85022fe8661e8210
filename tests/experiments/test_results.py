import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from counterpoint.errors import Error
from counterpoint.evaluation.breakdown import break_down
from counterpoint.evaluation.metrics import METRICS
from counterpoint.experiments import results, tables
from counterpoint.experiments.datasets import Inputs
from counterpoint.experiments.experiment import Experiment
from counterpoint.experiments.predictions import Truth, probabilities, save_scores
from counterpoint.experiments.results import Frame, Gain, Record, TestClips, Value
from counterpoint.experiments.suites import SUITES
from counterpoint.predict import Predictions
from counterpoint.taxonomy import Category, Taxonomy

TAXONOMY = Taxonomy(
    (
        Category("f", "", "Food"),
        Category("d", "f", "Dessert"),
        Category("s", "f", "Soup"),
        Category("m", "", "Music"),
        Category("j", "m", "Jazz"),
    )
)
GROUPS = ["all", "level 0", "level 1", "top Food", "top Music"]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder, random = tmp_path_factory.mktemp("kept"), np.random.default_rng(0)
    leaves = random.choice([1, 2, 4], 40)
    labels = np.zeros((40, 5), bool)
    labels[np.arange(40), leaves] = True
    labels[np.arange(40), np.where(leaves == 4, 3, 0)] = True
    labels[:3] = False
    scores = TAXONOMY.consistent((0.5 * labels + 0.6 * random.random(labels.shape)).clip(0, 1).astype(np.float32))
    save_scores([Predictions([""] * 40, scores, labels, {})], 40, 5, folder / "scores.npy")
    Truth([f"{i}" for i in range(40)], labels).save(folder / "test.npz")
    return folder / "scores.npy", folder / "test.npz"


@pytest.mark.parametrize("metric", ["gap", "gap_full", "map", "perr", "hit_at_1"])
@pytest.mark.parametrize("group", GROUPS)
def test_a_weighted_figure_is_that_of_repeated_clips(kept: tuple[Path, Path], metric: str, group: str) -> None:
    weights = np.random.default_rng(1).integers(0, 4, 40)
    repeated = np.repeat(np.arange(40), weights)
    labels = Truth.load(kept[1]).labels
    breakdown = break_down(probabilities(kept[0])[repeated], labels[repeated], TAXONOMY)
    expected = getattr(results.groups_of(breakdown)[group], metric)
    if math.isnan(expected):
        assert (group[:3], metric) == ("top", "hit_at_1")
        return
    clips, scores, truth = results.group_scores(*kept, TAXONOMY, group)
    assert METRICS[metric].on_weights(scores, truth)(weights[clips]) == pytest.approx(expected, abs=1e-9)


def test_an_unknown_metric_is_refused(kept: tuple[Path, Path]) -> None:
    _, scores, truth = results.group_scores(*kept, TAXONOMY, "all")
    with pytest.raises(Error, match=r"no metric 'gaps'; did you mean gap\? \(there are gap, "):
        METRICS["gaps"].on_weights(scores, truth)


def test_resamples_are_the_same_for_all_models_of_a_data_set(tmp_path: Path) -> None:
    drawn = [list(results.sample_weights(tmp_path / name / "test.npz", 9, 3)) for name in ("a", "a", "b")]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    assert all(weights.sum() == 9 for weights in drawn[0])


def test_seeds_count_as_the_mean_of_as_many_varies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With nothing to resample but seeds, the interval's variance is that of a mean of five values."""
    errors = np.array([60.0, 61.0, 63.0, 64.0, 67.0])
    suite = SUITES["video-level"]
    scale = replace(suite.scale, resamples=20_000)
    clips = TestClips(Experiment(suite, scale, Inputs(shards={}, clips={}), tmp_path))
    monkeypatch.setattr(
        clips,
        "draws",
        lambda cell, *_: np.full(scale.resamples, errors[cell.seed] if cell.entry.name == "cm-c" else 100.0),
    )
    frame = Frame.of([Record("video-level", "nv", "l", 0, 0, "all", "gap", 100.0)], clips)
    drawn = frame.gain_draws("cm-c", "l", "gap", "all", [0, 1, 2, 3, 4])
    assert drawn.std() == pytest.approx(errors.std(ddof=1) / np.sqrt(5), rel=0.03)


def test_relative_gain_and_interval() -> None:
    assert results.reduction(9.75, 10.0) == pytest.approx(2.5)
    low, high = results.interval(np.append(np.arange(101.0), np.nan), 50.0, 1)
    assert (low, high) == pytest.approx((2.5, 97.5))
    assert Gain(1.0, 0.1, 2.0).clear
    assert Gain(-1.0, -2.0, -0.1).clear
    assert not Gain(1.0, -0.1, 2.0).clear
    assert math.isnan(results.interval(np.array([np.nan]), 0.0, 1)[0])
    assert math.isnan(results.interval(np.append(np.arange(9.0), np.nan), 4.0, 3)[0])  # a tenth might lie anywhere


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_intervals_over_seeds_cover_the_truth(seeds: int) -> None:
    """Of experiments whose gain over seeds is normal with mean 0, about 95 % of intervals hold 0."""
    random = np.random.default_rng(seeds)
    covered = 0
    for _ in range(400):
        values = random.normal(size=seeds)
        drawn = values[random.integers(seeds, size=(max(1, seeds - 1), 400))].mean(0)
        low, high = results.interval(drawn, float(values.mean()), seeds)
        covered += low <= 0 <= high
    assert 0.92 <= covered / 400 <= 0.98


def test_cells_show_what_is_known() -> None:
    """No number where the baseline has no error, and which of two standard deviations there is."""
    assert tables.gain_cell(Gain(float(results.reduction(1.0, 0.0)), math.nan, math.nan)).text == "–"
    assert tables.value_cell(Value(60, math.nan, 0.26)).note == "± – / 0.26"
    assert tables.value_cell(Value(60, 0.5, math.nan)).note == "± 0.50 / –"
    assert tables.value_cell(Value(60, 0.5, 0.26)).note == "± 0.50 / 0.26"
    assert tables.value_cell(Value(60, math.nan, math.nan)).note == ""


def test_the_order_is_over_seeds_that_all_have(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of one seed of L and CM-C and three of CM-G: means of the same seeds as the steps between them."""
    suite = SUITES["video-level"]
    clips = TestClips(Experiment(suite, replace(suite.scale, resamples=9), Inputs(shards={}, clips={}), tmp_path))
    gaps = {"l": {0: 66.0}, "cm-g": {0: 64.0, 1: 70.0, 2: 70.0}, "cm-c": {0: 62.0}}
    records = [
        Record("video-level", "nv", name, seed, 0, "all", "gap", gap)
        for name, by_seed in gaps.items()
        for seed, gap in by_seed.items()
    ]
    monkeypatch.setattr(clips, "draws", lambda cell, *_: np.full(9, gaps[cell.entry.name][cell.seed]))
    text = tables.order(Frame.of(records, clips))
    assert text is not None
    assert "holds: L 66.00, CM-G 64.00, CM-C 62.00; each less by +3.0 % [+3.0, +3.0], +3.1 % [+3.1, +3.1]" in text


def test_a_frame_is_narrowed_by_its_columns(tmp_path: Path) -> None:
    suite = SUITES["video-level"]
    clips = TestClips(Experiment(suite, suite.scale, Inputs(shards={}, clips={}), tmp_path))
    records = [
        Record("video-level", "nv", model, seed, run, group, "gap", 10.0 * seed + run)
        for model in ("l", "cm")
        for seed in (1, 0)
        for run in (0, 1)
        for group in ("all", "level 0")
    ]
    frame = Frame.of(records, clips)
    assert list(frame) == records
    part = frame.select(model="l", group="all")
    assert [record.seed for record in part] == [1, 1, 0, 0]
    np.testing.assert_array_equal(part.errors(), [[0, 1], [10, 11]])
    assert len(frame.select(seed=[0], model=("l", "cm"))) == 8
    assert frame.unique("model") == ["l", "cm"]
    assert [entry.name for entry in frame.entries()] == ["l", "cm"]
    assert frame.value("l") == pytest.approx((5.5, 0.5**0.5, 50**0.5))
    assert frame.value("l", seeds=[1]).mean == pytest.approx(10.5)
    with pytest.raises(KeyError, match="world"):
        frame.select(world="a")
    with pytest.raises(Error, match="no metric 'gaps'"):
        frame.value("l", "gaps")
