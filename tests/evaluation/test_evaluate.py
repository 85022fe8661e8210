from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from training.world import LABELLING, SIZES, TAXONOMY, clips, dataset, recipe, write

from counterpoint.data.features import FeatureSet
from counterpoint.evaluation.breakdown import break_down
from counterpoint.evaluation.evaluate import evaluate
from counterpoint.evaluation.metrics import global_average_precision
from counterpoint.evaluation.robustness import RobustnessAccumulator
from counterpoint.models.categorizer import Categorizer
from counterpoint.predict import Predictor
from counterpoint.run import RunFolder

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Not trained."""
    folder = tmp_path_factory.mktemp("run")
    run = RunFolder(folder, recipe("nv-cm"), LABELLING, FeatureSet(SIZES))
    run.save()
    torch.manual_seed(3)
    run.save_weights(run.build())
    return run


def test_evaluate_breaks_predictions_down(run: RunFolder, tmp_path: Path) -> None:
    data = dataset(write(tmp_path / "a.tfrecord", *clips(30)))
    parts = list(Predictor(run).predict(data))
    expected = break_down(
        np.concatenate([part.probabilities for part in parts]),
        np.concatenate([part.labels for part in parts]),
        TAXONOMY,
    )
    assert evaluate(run, data, QUIET) == expected
    assert all(part.without == {} for part in parts)


def test_robustness_takes_one_pass_for_each_modality(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = dataset(write(tmp_path / "a.tfrecord", *clips(300)))
    plain = evaluate(run, data, QUIET)
    batches: list[int] = []
    forward = Categorizer.forward

    def counted(model: Categorizer, tracks: dict[str, torch.Tensor], show: bool = False) -> object:
        batches.append(len(next(iter(tracks.values())).mask))
        return forward(model, tracks, show)

    monkeypatch.setattr(Categorizer, "forward", counted)
    robustness = RobustnessAccumulator(list(SIZES))
    assert evaluate(run, data, QUIET, robustness=robustness) == plain
    assert batches == [256] * 3 + [44] * 3
    assert robustness.compute().gap["video"][0] == pytest.approx(plain.overall.gap)


def test_without_a_modality_is_as_if_it_had_not_been_recorded(run: RunFolder, tmp_path: Path) -> None:
    whole = dataset(write(tmp_path / "whole.tfrecord", *clips(20)))
    silent = dataset(write(tmp_path / "silent.tfrecord", *clips(20, sound=False)))
    (whole_clips,) = Predictor(run).predict(whole, without=["audio"])
    (expected,) = Predictor(run).predict(silent)
    np.testing.assert_allclose(whole_clips.without["audio"], expected.probabilities, atol=1e-6)
    assert np.abs(whole_clips.probabilities - expected.probabilities).max() > 1e-3
    robustness = RobustnessAccumulator(["audio"])
    evaluate(run, whole, QUIET, robustness=robustness)
    gap = global_average_precision(expected.probabilities, expected.labels)
    assert robustness.compute().gap["audio"][-1] == pytest.approx(gap)
