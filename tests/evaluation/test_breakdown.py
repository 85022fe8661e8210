import csv
import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console
from torchmetrics import Metric

from counterpoint.errors import Error
from counterpoint.evaluation import BreakdownAccumulator, Figures, break_down, breakdown, metrics

# Food > Dessert, Dairy; Travel (nothing below it); Art > Photo > Portrait, with Photo after its child.
TAXONOMY = SimpleNamespace(
    names=("Food", "Dessert", "Dairy", "Travel", "Art", "Portrait", "Photo"),
    levels=np.array([0, 1, 1, 0, 0, 2, 1]),
    tops=np.array([0, 0, 0, 3, 4, 4, 4]),
)
SCORES = np.array(
    [
        [0.9, 0.8, 0.1, 0.2, 0.3, 0.1, 0.2],  # Food and Dessert, both found
        [0.4, 0.3, 0.2, 0.1, 0.7, 0.2, 0.6],  # Art and Photo, both found
        [0.6, 0.1, 0.3, 0.2, 0.1, 0.1, 0.1],  # Food and Dairy; Dairy is missed, but is the best of level 1
        [0.2, 0.5, 0.1, 0.3, 0.4, 0.1, 0.2],  # nothing true, Dessert predicted at 0.5 exactly
    ],
    np.float32,
)
LABELS = np.array(
    [[1, 1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0, 1], [1, 0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0]],
    bool,
)
NAN = float("nan")


def figures(result):
    return [result.overall, *result.levels, *result.tops.values()]


def same(one, other):
    pairs = zip(figures(one), figures(other), strict=True)
    return all(
        np.allclose(list(vars(a).values()), list(vars(b).values()), rtol=0, atol=1e-12, equal_nan=True)
        for a, b in pairs
    )


def test_hand_computed_levels():
    level0, level1, level2 = break_down(SCORES, LABELS, TAXONOMY).levels
    # Level 0 leaves the last video out. Hits at .9, .7, .6 come first.
    assert level0 == Figures(videos=3, gap=1, gap_full=1, map=1, perr=1, hit_at_1=1)
    # Level 1 keeps all. In order: .8 hit, .6 hit, .5 miss, then .3 hit tied with one miss: precisions 1, 1, 3/5.
    assert level1.videos == 4
    assert level1.gap == pytest.approx((1 + 1 + 3 / 5) / 3)
    assert level1.gap_full == pytest.approx((1 + 1 + 3 / 5) / 3)
    # Dessert: .8 first. Dairy: .3 first. Photo: .6 first.
    assert level1.map == 1
    assert level1.perr == 1
    assert level1.hit_at_1 == pytest.approx(3 / 4)
    # No Portrait, true or predicted.
    assert level2.videos == 0
    assert all(math.isnan(value) for name, value in vars(level2).items() if name != "videos")


def test_hand_computed_tops():
    tops = break_down(SCORES, LABELS, TAXONOMY).tops
    assert list(tops) == ["Food", "Travel", "Art"]
    # Of all videos. In order: .9, .8, .6 hits, .5 and .4 misses, then .3 hit tied with one miss.
    assert tops["Food"].videos == 4
    assert tops["Food"].gap == pytest.approx((1 + 1 + 1 + 4 / 7) / 4)
    # None is in Travel.
    assert math.isnan(tops["Travel"].gap)
    # .7 and .6 hits, all others less.
    assert tops["Art"].gap == 1
    assert all(math.isnan(top.hit_at_1) for top in tops.values())


def test_overall_keeps_every_video():
    overall = break_down(SCORES, LABELS, TAXONOMY).overall
    assert overall == Figures(
        videos=4,
        gap=metrics.global_average_precision(SCORES, LABELS),
        gap_full=metrics.global_average_precision(SCORES, LABELS, top=None),
        map=metrics.mean_average_precision(SCORES, LABELS),
        perr=metrics.precision_at_equal_recall_rate(SCORES, LABELS),
        hit_at_1=metrics.hit_at_1(SCORES, LABELS),
    )


def random_world(videos=200, categories=120):
    generator = np.random.default_rng(0)
    parents = [-1 if i < 5 else int(generator.integers(0, i)) for i in range(categories)]
    levels, tops = [], []
    for i, parent in enumerate(parents):
        levels.append(0 if parent < 0 else levels[parent] + 1)
        tops.append(i if parent < 0 else tops[parent])
    taxonomy = SimpleNamespace(names=tuple(map(str, range(categories))), levels=np.array(levels), tops=np.array(tops))
    scores = generator.random((videos, categories), dtype=np.float32) ** 8
    return scores, generator.random((videos, categories)) < scores, taxonomy


def test_groups_are_the_metrics_of_their_categories():
    scores, labels, taxonomy = random_world()
    result = break_down(scores, labels, taxonomy)
    groups = [(taxonomy.levels == level, each) for level, each in enumerate(result.levels)]
    groups += [(taxonomy.tops == int(name), each) for name, each in result.tops.items()]
    assert len(groups) == taxonomy.levels.max() + 1 + 5
    for number, (members, each) in enumerate(groups):
        of_level = number < len(result.levels)
        kept = (labels | (scores >= 0.5))[:, members].any(axis=1) | (not of_level)
        part = scores[kept][:, members], labels[kept][:, members]
        assert each.videos == kept.sum()
        assert each.gap == pytest.approx(metrics.global_average_precision(*part), abs=1e-12)
        assert each.gap_full == pytest.approx(metrics.global_average_precision(*part, top=None), abs=1e-12)
        assert each.map == pytest.approx(metrics.mean_average_precision(*part), abs=1e-12)
        assert each.perr == pytest.approx(metrics.precision_at_equal_recall_rate(*part), abs=1e-12)
        hit = metrics.hit_at_1(*part) if of_level else math.nan
        assert each.hit_at_1 == pytest.approx(hit, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("size", [11, 64])
def test_batching_changes_nothing(size, monkeypatch):
    scores, labels, taxonomy = random_world()
    expected = break_down(scores, labels, taxonomy)
    monkeypatch.setattr(breakdown, "BLOCK_VIDEOS", 50)
    accumulator = BreakdownAccumulator(taxonomy)
    for start in range(0, len(scores), size):
        accumulator.update(scores[start : start + size], labels[start : start + size])
    assert same(accumulator.compute(), expected)


def test_no_videos():
    result = break_down(SCORES[:0], LABELS[:0], TAXONOMY)
    assert result.overall.videos == 0
    assert math.isnan(result.overall.gap)


def test_unusable_input_is_refused():
    with pytest.raises(ValueError, match="scores have 6 categories, the taxonomy 7"):
        break_down(SCORES[:, :6], LABELS[:, :6], TAXONOMY)
    broken = SCORES.copy()
    broken[3, 6] = np.nan
    with pytest.raises(ValueError, match=r"video 3 \(row\) for category 6 \(column\) is NaN"):
        break_down(broken, LABELS, TAXONOMY)


def test_saved_as_json_and_csv(tmp_path):
    result = break_down(SCORES, LABELS, TAXONOMY)
    result.save(tmp_path / "run")
    result.save(tmp_path / "run")  # over the first
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["metrics.csv", "metrics.json"]
    saved = json.loads((tmp_path / "run" / "metrics.json").read_text(encoding="utf-8"))
    assert saved == result.to_dict()
    assert saved["levels"][1]["gap"] == result.levels[1].gap
    assert saved["tops"]["Travel"] == dict.fromkeys(["gap", "gap_full", "map", "perr", "hit_at_1"]) | {"videos": 4}
    with (tmp_path / "run" / "metrics.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["group"], row["name"]) for row in rows] == [
        ("overall", ""),
        *(("level", level) for level in "012"),
        *(("top", name) for name in ("Food", "Travel", "Art")),
    ]
    assert float(rows[2]["gap"]) == result.levels[1].gap
    assert rows[5]["gap"] == ""


def test_a_failed_save_leaves_the_old_files(tmp_path, monkeypatch):
    result = break_down(SCORES, LABELS, TAXONOMY)
    result.save(tmp_path)
    before = (tmp_path / "metrics.json").read_bytes()

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="no space"):
        replace(result, tops={}).save(tmp_path)
    assert (tmp_path / "metrics.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.csv", "metrics.json"]


def made_up(gap):
    each = Figures(videos=1, gap=gap, gap_full=0.5, map=1, perr=0.25, hit_at_1=0)
    unmeasured, no_full = (Figures(**{**vars(each), name: NAN}) for name in ("gap", "gap_full"))
    return breakdown.Breakdown(each, (each, unmeasured), {"Food": each, "Art": no_full}, name="nv-l")


def test_table4_puts_models_side_by_side():
    table = breakdown.table4([("nv-l", made_up(0.8939)), ("nv-cm-c", made_up(0.90254))])
    rows = [table.header, *table.rows]
    assert rows[:4] == [
        ["metric", "level", "nv-l", "nv-cm-c"],
        ["GAP", "all", "10.61", "9.75"],
        ["GAP", "0", "10.61", "9.75"],
        ["GAP", "1", "–", "–"],
    ]
    assert [row[:3] for row in rows[4::3]] == [
        ["GAP (full)", "all", "50.00"],
        ["MAP", "all", "0.00"],
        ["PERR", "all", "75.00"],
        ["Hit@1", "all", "100.00"],
    ]


def test_table5_lists_top_level_categories():
    table = breakdown.table5([("nv-l", made_up(0.8939))])
    assert [table.header, *table.rows] == [
        ["metric", "category", "nv-l"],
        ["GAP", "Food", "10.61"],
        ["GAP", "Art", "10.61"],
        ["GAP (full)", "Food", "50.00"],
        ["GAP (full)", "Art", "–"],
    ]


def test_models_of_different_taxonomies_have_no_common_table():
    models = [("one", made_up(0.5)), ("other", replace(made_up(0.5), levels=(), tops={}))]
    with pytest.raises(ValueError, match="the same level"):
        breakdown.table4(models)
    with pytest.raises(ValueError, match="the same category"):
        breakdown.table5(models)


def test_a_breakdown_has_its_tables():
    result = made_up(0.8939)
    assert result.table() == breakdown.table4([("nv-l", result)])
    assert result.categories_table() == breakdown.table5([("nv-l", result)])
    console = Console(width=100)
    with console.capture() as captured:
        console.print(result.table())
    text = captured.get()
    assert "Error in %, 1 clips" in text
    assert all(cell in text for row in result.table().rows for cell in row)
    assert "| GAP | all | 10.61 |" in result.table().markdown()


# --- the table of metrics ---------------------------------------------------------------------------------------------


class Named(Metric):
    """The share of labels among all predictions of a half or more."""

    def __init__(self, **options):
        super().__init__(**options)
        self.add_state("hits", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("named", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, scores, labels):
        self.hits += int((labels & (scores >= 0.5)).sum())
        self.named += int((scores >= 0.5).sum())

    def compute(self):
        return self.hits / self.named


def test_a_metric_is_one_entry(monkeypatch, tmp_path):
    monkeypatch.setitem(metrics.METRICS, "precision", metrics.MetricSpec("Precision", Named))
    monkeypatch.setitem(metrics.METRICS, "any", metrics.MetricSpec("Any", measure=lambda blocks: 0.25))
    result = break_down(SCORES, LABELS, TAXONOMY)
    named = SCORES >= 0.5
    assert result.overall.precision == result.overall["precision"] == pytest.approx(LABELS[named].mean())
    assert result.overall.gap == metrics.global_average_precision(SCORES, LABELS)
    assert [row[:2] for row in result.table().rows[-8::4]] == [["Precision", "all"], ["Any", "all"]]
    result.save(tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text())["overall"]["any"] == 0.25
    weights = np.array([2, 0, 1, 1])
    spec = metrics.METRICS["precision"]
    repeated = np.repeat(SCORES, weights, 0), np.repeat(LABELS, weights, 0)
    assert spec.on_weights(SCORES, LABELS)(weights) == spec.value(*repeated)


@pytest.mark.parametrize("name", metrics.METRICS)
def test_weights_are_repeated_videos(name):
    scores, labels, _ = random_world(60)
    weights = np.random.default_rng(1).integers(0, 3, len(scores))
    spec = metrics.METRICS[name]
    repeated = np.repeat(scores, weights, 0), np.repeat(labels, weights, 0)
    assert spec.on_weights(scores, labels)(weights) == pytest.approx(spec.value(*repeated), abs=1e-9)


def test_an_unknown_metric_is_an_error():
    with pytest.raises(Error, match=r"no metric 'gap_ful'; did you mean gap_full\? \(there are gap, gap_full, map"):
        metrics.METRICS["gap_ful"]
    overall = break_down(SCORES, LABELS, TAXONOMY).overall
    with pytest.raises(Error, match="no metric 'precision'"):
        overall["precision"]
    with pytest.raises(AttributeError):
        overall.precision  # noqa: B018


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(Error, match="holds something else; choose another --out"):
        made_up(0.5).save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]
