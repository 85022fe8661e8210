import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from filelock import FileLock
from training.world import LABELLING, TAXONOMY, clips, dataset, run, write

from counterpoint.data.dataset import Dataset
from counterpoint.errors import Error
from counterpoint.evaluation.survey import folder_name, survey
from counterpoint.predict import Predictor, batches
from counterpoint.run import RunFolder
from counterpoint.taxonomy import Label, Labelling, LabelMap


@pytest.fixture
def made(tmp_path: Path) -> RunFolder:
    torch.manual_seed(0)
    made = run(tmp_path / "run")
    made.save()
    made.save_weights(made.build())
    return made


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    write(tmp_path / "shards" / "a.tfrecord", *clips(20))
    return dataset(write(tmp_path / "shards" / "b.tfrecord", *clips(15, seed=1, prefix="né\n")).parent)


def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    def small(run: RunFolder, clips: Dataset, workers: int = 0) -> object:
        return batches(run, clips, 8, workers)

    monkeypatch.setattr("counterpoint.evaluation.survey.batches", small)


def test_it_holds_the_models_predictions(made: RunFolder, data: Dataset, tmp_path: Path) -> None:
    surveyed = survey(made, data, tmp_path / "kept", vectors=True)
    (batch,) = batches(made, data)
    (predicted,) = Predictor(made).predict(data)
    with torch.inference_mode():
        output = made.categorizer()(batch.tracks)
    assert [surveyed.name(i) for i in range(35)] == batch.ids
    np.testing.assert_allclose(surveyed.probabilities(slice(None)), predicted.probabilities, atol=1e-3)
    np.testing.assert_array_equal(surveyed.labels(slice(None)), predicted.labels)
    for i in (0, 34):  # the loss of training, clip by clip
        loss = functional.binary_cross_entropy_with_logits(output.logits[i], batch.labels[i].float())
        assert surveyed.figures[i, 0] == pytest.approx(loss.item(), abs=1e-6)
    assert surveyed.vectors is not None
    last = made.categorizer().head.network[-1]
    read = last(torch.from_numpy(surveyed.vectors.astype(np.float32)))
    torch.testing.assert_close(read, output.logits, atol=1e-2, rtol=0)
    assert surveyed.pairs == []


def test_a_full_disk(made: RunFolder, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before the map is written to, which would end the process; the same call goes on once there is room."""

    def full(*of: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(OSError, match=r"No space left on device: '.*kept/scores\.npy'"):
            survey(made, data, tmp_path / "kept")
    assert len(survey(made, data, tmp_path / "kept")) == 35


def test_without_labels(made: RunFolder, data: Dataset, tmp_path: Path) -> None:
    plain = dataset(data.paths[0].parent, labelled=False)
    surveyed = survey(made, plain, tmp_path / "kept")
    assert np.isnan(surveyed.figures).all()
    assert surveyed.vectors is None
    with pytest.raises(ValueError, match="without labels"):
        surveyed.labels(slice(None))


def test_it_is_computed_once(made: RunFolder, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = survey(made, data, tmp_path / "kept")
    monkeypatch.setattr(RunFolder, "categorizer", None)  # not called any more
    again = survey(made, data, tmp_path / "kept")
    np.testing.assert_array_equal(first.scores, again.scores)


@pytest.mark.parametrize("killed_after", [1, 3])
def test_an_interrupted_one_goes_on(
    made: RunFolder, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_after: int
) -> None:
    small_batches(monkeypatch)
    whole = survey(made, data, tmp_path / "whole", vectors=True)

    def kill(clips: int) -> None:
        done.append(clips)
        if len(done) == killed_after + 1:  # the first is of what was done before
            raise KeyboardInterrupt

    done: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        survey(made, data, tmp_path / "kept", vectors=True, progress=kill)
    so_far = json.loads((tmp_path / "kept" / "survey.json").read_text())["done"]
    assert so_far == 8 * killed_after
    with (tmp_path / "kept" / "ids.jsonl").open("a") as file:
        file.write('"more than is in survey.json"\n')
    progress: list[int] = []
    went_on = survey(made, data, tmp_path / "kept", vectors=True, progress=progress.append)
    assert (progress[0], sum(progress)) == (so_far, 35)
    for name in ("ids", "scores", "vectors", "figures", "bits"):
        np.testing.assert_array_equal(getattr(went_on, name), getattr(whole, name))


def test_another_run_or_other_clips_are_refused(made: RunFolder, data: Dataset, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    survey(made, data, kept)
    write(data.paths[0], *clips(20, seed=5))  # as many clips, and much the same size
    other = dataset(data.paths[0].parent)
    with pytest.raises(Error, match=r"kept: was made with other clips .* name another folder"):
        survey(made, other, kept)
    assert folder_name(made, other) != folder_name(made, data)
    with pytest.raises(Error, match="another vectors"):
        survey(made, data, kept, vectors=True)
    relabelled = (Label(10, "Ice cream", 700, ("soup",)), *LABELLING.labels.labels[1:])
    mapped = Dataset(data.paths, Labelling(TAXONOMY, LabelMap(relabelled, TAXONOMY)))
    again = RunFolder(made.folder, made.recipe, mapped.labelling, made.features)
    with pytest.raises(Error, match=r"other clips|another label mapping"):
        survey(again, mapped, kept)
    made.save_weights(made.build())  # new ones
    with pytest.raises(Error, match="another run's model"):
        survey(made, data, kept)


def test_the_same_clips_elsewhere_are_the_same(made: RunFolder, data: Dataset, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    data.paths[0].parent.rename(moved)
    assert dataset(moved).fingerprint == data.fingerprint
    assert dataset(moved / "a.tfrecord").fingerprint != data.fingerprint


def test_two_processes_do_not_write_one_folder(made: RunFolder, data: Dataset, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    with FileLock(tmp_path / "kept" / ".lock"), pytest.raises(Error, match="another process"):
        survey(made, data, tmp_path / "kept")


def test_damage_is_an_error(made: RunFolder, data: Dataset, tmp_path: Path) -> None:
    survey(made, data, tmp_path / "kept")
    (tmp_path / "kept" / "scores.npy").write_bytes(b"")
    with pytest.raises(Error, match=r"scores.npy: cannot be read .* delete"):
        survey(made, data, tmp_path / "kept")


def test_a_folder_that_holds_something_else_is_refused(made: RunFolder, data: Dataset, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "thesis.txt").touch()
    with pytest.raises(Error, match="kept: holds something else; choose another --out"):
        survey(made, data, tmp_path / "kept")
