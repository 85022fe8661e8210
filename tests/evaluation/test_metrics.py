import math
import runpy
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from torchmetrics import MetricCollection

from counterpoint.evaluation import metrics

BENCHMARK = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "metrics.py"))

AVERAGE_PRECISIONS = [
    (metrics.global_average_precision, metrics.GlobalAveragePrecision),
    (metrics.mean_average_precision, metrics.MeanAveragePrecision),
]
MEASURES = [
    *(
        pytest.param(
            lambda s, y, f=function, k=top: f(s, y, k), lambda c=stream, k=top: c(k), id=f"{stream.__name__}-{top}"
        )
        for function, stream in AVERAGE_PRECISIONS
        for top in (2, 20, None)
    ),
    pytest.param(metrics.precision_at_equal_recall_rate, metrics.PrecisionAtEqualRecallRate, id="PERR"),
    pytest.param(metrics.hit_at_1, metrics.HitAt1, id="Hit@1"),
]


@st.composite
def tied_worlds(draw):
    """A few videos with few different scores, -0 and infinities among them, cut into batches."""
    videos, categories = draw(st.integers(1, 12)), draw(st.integers(1, 70))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = np.array([-np.inf, -2.5, -1, -0.0, 0.0, 0.25, 0.5, 1, np.inf], np.float32)
    scores = generator.choice(values[: draw(st.integers(1, len(values)))], (videos, categories))
    labels = generator.random((videos, categories)) < draw(st.sampled_from([0.05, 0.3, 0.9]))
    cuts = sorted(draw(st.lists(st.integers(0, videos), max_size=4)))
    return scores, labels, cuts, generator


def distinct_world(videos=300, categories=60, seed=0):
    generator = np.random.default_rng(seed)
    labels = generator.random((videos, categories)) < 0.08
    order = np.argsort(generator.standard_normal((videos, categories)).ravel() + 2 * labels.ravel())
    scores = np.empty(videos * categories, np.float32)
    scores[order] = np.arange(1, len(order) + 1) / (len(order) + 1)
    return scores.reshape(videos, categories), labels


def same(one, other):
    return math.isclose(one, other, rel_tol=0, abs_tol=1e-12) or (math.isnan(one) and math.isnan(other))


def literal_average_precision(predictions, positives):
    """Threshold by threshold: the gain of recall times the precision, all equal scores entering at once."""
    total = 0.0
    for threshold in sorted({score for score, _ in predictions}):
        chosen = [hit for score, hit in predictions if score >= threshold]
        gained = sum(hit for score, hit in predictions if score == threshold)
        total += gained / positives * sum(chosen) / len(chosen)
    return total


def literal_kept(scores, labels, top):
    """(category, score, hit) of each video's best, the lower category first among equals."""
    for score, label in zip(scores.tolist(), labels.tolist(), strict=True):
        for category in sorted(range(len(score)), key=lambda c: (-score[c], c))[:top]:
            yield category, score[category], label[category]


# Three videos. Pooled by score: .9 hit, .8 miss, .7 miss, .6 hit | .6 miss (a tie), .5 hit, .4 miss, .3 hit, .1 miss.
SCORES = np.array([[0.9, 0.8, 0.1], [0.7, 0.6, 0.5], [0.3, 0.4, 0.6]], np.float32)
LABELS = np.array([[1, 0, 0], [0, 1, 1], [1, 0, 0]], bool)


def test_hand_computed_full_curve():
    assert metrics.global_average_precision(SCORES, LABELS, top=None) == pytest.approx((1 + 2 / 5 + 3 / 6 + 4 / 8) / 4)
    # By category: hit .9, miss .7, hit .3; miss .8, hit .6, miss .4; miss .6, hit .5, miss .1.
    assert metrics.mean_average_precision(SCORES, LABELS, top=None) == pytest.approx(
        ((1 + 2 / 3) / 2 + 1 / 2 + 1 / 2) / 3
    )


def test_hand_computed_top_2():
    # Kept: .9 hit, .8 miss; .7 miss, .6 hit; .6 miss, .4 miss. Two of the four labels are out of reach.
    assert metrics.global_average_precision(SCORES, LABELS, top=2) == pytest.approx((1 + 2 / 5) / 4)
    # The first category finds one of its two, the second its one behind .8, the third none of its one.
    assert metrics.mean_average_precision(SCORES, LABELS, top=2) == pytest.approx((1 / 2 + 1 / 2 + 0) / 3)


def test_hand_computed_per_video():
    assert metrics.precision_at_equal_recall_rate(SCORES, LABELS) == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert metrics.hit_at_1(SCORES, LABELS) == pytest.approx(1 / 3)


def test_videos_without_labels_count_for_hit_at_1_only():
    labels = LABELS & [[True], [False], [True]]
    assert metrics.precision_at_equal_recall_rate(SCORES, labels) == pytest.approx(1 / 2)
    assert metrics.hit_at_1(SCORES, labels) == pytest.approx(1 / 3)


def test_categories_without_positives_are_left_out():
    assert metrics.mean_average_precision(SCORES, LABELS & [True, False, False], top=None) == pytest.approx(
        (1 + 2 / 3) / 2
    )


def test_ties_at_the_cut_go_to_the_lower_category():
    scores = np.full((1, 50), 0.5, np.float32)
    for category, expected in [(19, 1 / 20), (20, 0.0)]:
        labels = np.arange(50)[None] == category
        assert metrics.global_average_precision(scores, labels) == pytest.approx(expected)
    assert metrics.hit_at_1(scores, np.arange(50)[None] == 0) == 1
    assert metrics.hit_at_1(scores, np.arange(50)[None] == 1) == 0
    assert metrics.precision_at_equal_recall_rate(scores, np.arange(50)[None] < 2) == 1


@pytest.mark.parametrize("categories", [12, 60, 200])
def test_agrees_with_youtube8m(categories):
    scores, labels = distinct_world(categories=categories)
    for name, expected in BENCHMARK["reference"](scores, labels).items():
        assert BENCHMARK["ours"](scores, labels)[name] == pytest.approx(expected, abs=1e-12), name


@given(tied_worlds(), st.integers(1, 25))
@settings(max_examples=60)
def test_top_agrees_with_the_definition_where_scores_tie(world, top):
    scores, labels, _, _ = world
    kept = list(literal_kept(scores, labels, top))
    positives = labels.sum(axis=0)
    gap = metrics.global_average_precision(scores, labels, top)
    if not positives.sum():
        assert math.isnan(gap)
        return
    assert gap == pytest.approx(literal_average_precision([each[1:] for each in kept], positives.sum()), abs=1e-12)
    each = [
        literal_average_precision([pair for c, *pair in kept if c == category], count)
        for category, count in enumerate(positives)
        if count
    ]
    assert metrics.mean_average_precision(scores, labels, top) == pytest.approx(np.mean(each), abs=1e-12)
    perr = [
        sum(hit for *_, hit in literal_kept(scores[[v]], labels[[v]], labels[v].sum())) / labels[v].sum()
        for v in np.flatnonzero(labels.any(axis=1))
    ]
    assert metrics.precision_at_equal_recall_rate(scores, labels) == pytest.approx(np.mean(perr), abs=1e-12)


@given(tied_worlds())
@settings(max_examples=60)
def test_full_curve_agrees_with_scikit_learn(world):
    scores, labels, _, _ = world
    scores = np.clip(scores, -9, 9)  # scikit-learn refuses infinities
    if labels.any():
        micro = average_precision_score(labels.ravel(), scores.ravel())
        found = labels.any(axis=0)
        macro = np.mean([average_precision_score(labels[:, c], scores[:, c]) for c in np.flatnonzero(found)])
        assert metrics.global_average_precision(scores, labels, top=None) == pytest.approx(micro, abs=1e-12)
        assert metrics.mean_average_precision(scores, labels, top=None) == pytest.approx(macro, abs=1e-12)


@pytest.mark.parametrize(("function", "stream"), MEASURES)
@given(world=tied_worlds())
@settings(max_examples=25)
def test_neither_batching_nor_the_order_of_videos_matters(function, stream, world):
    scores, labels, cuts, generator = world
    expected = function(scores, labels)
    order = generator.permutation(len(scores))
    assert same(function(scores[order], labels[order]), expected)

    metric = stream()
    for batch in zip(np.split(scores[order], cuts), np.split(labels[order], cuts), strict=True):
        metric.update(*batch)
    assert same(float(metric.compute()), expected)
    metric.reset()
    metric.update(scores, labels)
    assert same(float(metric.compute()), expected)


@pytest.mark.parametrize(("function", "stream"), MEASURES)
def test_small_blocks_change_nothing(function, stream, monkeypatch):
    scores, labels = distinct_world()
    expected = function(scores, labels)
    monkeypatch.setattr(metrics, "BLOCK_VIDEOS", 7)
    monkeypatch.setattr("counterpoint.evaluation.ranking.SELECTED_VIDEOS", 7)
    assert same(function(scores, labels), expected)
    metric = stream()
    for start in range(0, len(scores), 11):
        metric.update(scores[start : start + 11], labels[start : start + 11])
    assert same(float(metric.compute()), expected)


@pytest.mark.parametrize(("function", "stream"), [case for case in MEASURES if "None" not in case.id])
def test_states_of_several_processes_merge(function, stream):
    scores, labels = distinct_world()
    one, other, idle = stream(), stream(), stream()
    one.update(scores[:100], labels[:100])
    other.update(torch.tensor(scores[100:]), torch.tensor(labels[100:]))
    one.merge_state(other)
    one.merge_state(idle)
    assert same(float(one.compute()), function(scores, labels))
    assert same(float(stream()(scores, labels)), function(scores, labels))  # forward


def test_a_collection_keeps_metrics_apart():
    scores, labels = distinct_world()
    collection = MetricCollection({case.id: case.values[1]() for case in MEASURES})
    perfect = labels[:1].astype(np.float32)  # the first batch says the same to all
    collection.update(perfect, labels[:1])
    collection.update(scores, labels)
    both = np.concatenate([perfect, scores]), np.concatenate([labels[:1], labels])
    for name, value in collection.compute().items():
        function = next(case.values[0] for case in MEASURES if case.id == name)
        assert same(float(value), function(*both)), name


@pytest.mark.parametrize(("function", "stream"), MEASURES)
def test_tensors_and_other_types_are_welcome(function, stream):
    scores, labels = distinct_world(50)
    expected = function(scores, labels)
    assert same(function(torch.tensor(scores, requires_grad=True), torch.tensor(labels)), expected)
    assert same(function(np.asfortranarray(scores.astype(np.float64)), labels.astype(np.float32)), expected)
    coarse = torch.tensor(scores).bfloat16()
    assert same(
        function(coarse, torch.tensor(labels).long()), function(coarse.float(), torch.tensor(labels).bfloat16())
    )
    metric = stream()
    metric.update(torch.tensor(scores), torch.tensor(labels, dtype=torch.uint8))
    assert same(float(metric.compute()), expected)


@pytest.mark.parametrize(("function", "stream"), MEASURES)
def test_nothing_to_measure_is_nan(function, stream):
    assert math.isnan(function(np.empty((0, 3)), np.empty((0, 3), bool)))
    metric = stream()
    metric.update(np.empty((0, 3)), np.empty((0, 3), bool))
    assert math.isnan(metric.compute())
    if function is not metrics.hit_at_1:
        assert math.isnan(function(SCORES, np.zeros_like(LABELS)))


@pytest.mark.parametrize(("function", "stream"), MEASURES)
def test_unusable_input_is_refused(function, stream):
    broken = SCORES.copy()
    broken[1, 2] = np.nan
    for attempt in (function, lambda *batch: stream().update(*batch)):
        with pytest.raises(ValueError, match=r"video 1 \(row\) for category 2 \(column\) is NaN"):
            attempt(broken, LABELS)
        with pytest.raises(ValueError, match=r"labels have shape \(2, 3\), scores \(3, 3\)"):
            attempt(SCORES, LABELS[:2])
        with pytest.raises(ValueError, match=r"\(video, category\)"):
            attempt(SCORES[0], LABELS[0])
        with pytest.raises(ValueError, match="0 and 1"):
            attempt(SCORES, LABELS * 0.5)


@pytest.mark.parametrize(("function", "stream"), AVERAGE_PRECISIONS)
def test_top_must_be_positive(function, stream):
    with pytest.raises(ValueError, match="top must be at least 1"):
        function(SCORES, LABELS, top=0)
    with pytest.raises(ValueError, match="top must be at least 1"):
        stream(top=0)


def test_spilled_scores_leave_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    metric = metrics.GlobalAveragePrecision(top=None)
    metric.update(SCORES, LABELS)
    spilled = metric._spill.file
    float(metric.compute())
    metric.reset()
    assert spilled.closed or not list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())


def test_full_curve_offers_no_forward_and_one_process(monkeypatch):
    metric = metrics.GlobalAveragePrecision(top=None)
    with pytest.raises(NotImplementedError, match="update"):
        metric(SCORES, LABELS)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    metric.distributed_available_fn = lambda: True
    with pytest.raises(RuntimeError, match="one process"):
        metric.update(SCORES, LABELS)


@pytest.mark.slow
def test_streaming_memory():
    """200,000 x 640 (512 MB of scores): far less is held, on top of what is loaded already."""
    import tracemalloc

    for stream in (metrics.MeanAveragePrecision(), metrics.GlobalAveragePrecision(top=None)):
        tracemalloc.start()
        for scores, labels in BENCHMARK["batches"](200_000, 640):
            stream.update(scores, labels)
        stream.compute()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 250e6, (stream, peak)
