from pathlib import Path

import numpy as np
import pytest
from training.world import LABELLING, TAXONOMY, clips, dataset, write

from counterpoint.errors import Error
from counterpoint.evaluation.breakdown import break_down
from counterpoint.experiments.predictions import Truth, draw_runs, measure, measured, probabilities, save_scores
from counterpoint.predict import Predictions


def random_scores(clips: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.asarray(TAXONOMY.consistent(random.random((clips, len(TAXONOMY))).astype(np.float32)))


def parts(scores: np.ndarray) -> list[Predictions]:
    """In two batches."""
    return [Predictions(["x"] * len(half), half, half > 1, {}) for half in (scores[:7], scores[7:])]


def test_scores_keep_the_order_also_near_one(tmp_path: Path) -> None:
    scores = random_scores(20)
    scores[0, :3] = [0.9999, 0.99995, 1.0]  # which are equal as 16-bit probabilities
    scores[1, :2] = [1e-6, 3e-6]
    save_scores(parts(scores), 20, len(TAXONOMY), tmp_path / "evaluation" / "scores.npy")
    kept = probabilities(tmp_path / "evaluation" / "scores.npy")
    np.testing.assert_allclose(kept, scores, atol=1e-3)
    assert kept[0, 0] < kept[0, 1] < kept[0, 2]
    assert kept[1, 0] < kept[1, 1]


def test_truth(tmp_path: Path) -> None:
    data = dataset(write(tmp_path / "test.tfrecord", *clips(11)))
    truth = Truth.of(data)
    truth.save(tmp_path / "test.npz")
    again = Truth.load(tmp_path / "test.npz")
    assert again.ids == [f"clip{i:03}" for i in range(11)]
    np.testing.assert_array_equal(again.labels, np.stack([data[i][1] for i in range(11)]))


def test_runs_are_random_samples_where_there_are_enough_clips() -> None:
    drawn, bootstrap = draw_runs(100, 5, 50)
    assert not bootstrap
    assert [len(np.unique(clips)) for clips in drawn] == [50] * 5
    assert len({tuple(clips) for clips in drawn}) == 5
    drawn, bootstrap = draw_runs(100, 5, 51)
    assert bootstrap
    assert all(len(clips) == 100 and 50 < len(np.unique(clips)) < 75 for clips in drawn)
    np.testing.assert_array_equal(drawn[0], draw_runs(100, 2, 51)[0][0])  # fewer runs are the first ones


def test_measured_as_the_scores_would_be(tmp_path: Path) -> None:
    truth = Truth.of(dataset(write(tmp_path / "test.tfrecord", *clips(12))))
    scores = random_scores(12)
    save_scores(parts(scores), 12, len(TAXONOMY), tmp_path / "scores.npy")
    samples, _ = draw_runs(12, 3, 12)
    gap = measure(tmp_path / "scores.npy", truth, LABELLING.taxonomy, samples, tmp_path / "m.json")
    kept = measured(tmp_path / "m.json")
    for run, drawn in zip(kept, samples, strict=True):
        expected = break_down(scores[drawn], truth.labels[drawn], LABELLING.taxonomy)
        assert run.overall.gap == pytest.approx(expected.overall.gap, abs=1e-3)
        assert [level.videos for level in run.levels] == [level.videos for level in expected.levels]
    assert gap == pytest.approx(np.mean([run.overall.gap for run in kept]))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04half", b"\x93NUMPY\x01"])
def test_damaged_files_are_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "evaluation" / "file"
    path.parent.mkdir()
    path.write_bytes(content)
    for read, made in ((Truth.load, path), (probabilities, path.parent), (measured, path.parent)):
        with pytest.raises(Error, match=f"{path}: cannot be read .*; delete {made}, and the same command"):
            read(path)
