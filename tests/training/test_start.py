"""Training that goes on from a trained run, and categories that were never trained."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from counterpoint.cli.main import main
from counterpoint.data.dataset import Dataset
from counterpoint.data.features import FeatureSet
from counterpoint.errors import Error
from counterpoint.predict import Predictor
from counterpoint.run import RunFolder
from counterpoint.taxonomy import Category, Labelling, LabelMap, Taxonomy
from counterpoint.training.train import train

from .world import LABELLING, SIZES, TAXONOMY, clips, dataset, recipe, write

FEATURES = FeatureSet(SIZES)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start")
    write(folder / "train.tfrecord", *clips(64))
    write(folder / "validation.tfrecord", *clips(24, seed=1, prefix="other"))
    first = RunFolder(folder / "first", recipe(), LABELLING, FEATURES)
    train(first, dataset(folder / "train.tfrecord"), dataset(folder / "validation.tfrecord"))
    return folder


def grown() -> Labelling:
    """The same taxonomy with a category in front, so that rows move."""
    taxonomy = Taxonomy((Category("new", "", "New"), *TAXONOMY))
    return Labelling(taxonomy, LabelMap(LABELLING.labels.labels, taxonomy))


def test_no_epochs_give_the_same_model(world: Path, tmp_path: Path):
    """Surviving categories keep their weights, wherever their rows are."""
    first = RunFolder.load(world / "first")
    next_ = RunFolder(tmp_path / "next", recipe(max_epochs=0), grown(), FEATURES)
    data = Dataset([world / "train.tfrecord"], grown())
    train(next_, data, data, start=first)
    before = next(Predictor(first).predict(dataset(world / "validation.tfrecord", labelled=False)))
    other = Dataset([world / "validation.tfrecord"], grown(), labelled=False)
    after = next(Predictor(RunFolder.load(next_.folder)).predict(other))
    np.testing.assert_allclose(after.probabilities[:, 1:], before.probabilities, rtol=1e-5)


def test_it_begins_where_the_run_ended(world: Path, tmp_path: Path):
    first = RunFolder.load(world / "first")
    console = Console(quiet=True)
    splits = dataset(world / "train.tfrecord"), dataset(world / "validation.tfrecord")
    losses = []
    for name, start in (("anew", None), ("on", first)):
        run = RunFolder(tmp_path / name, recipe(max_epochs=1), LABELLING, FEATURES)
        train(run, *splits, start=start, console=console)
        losses.append(float((run.folder / "epochs.csv").read_text().splitlines()[1].split(",")[1]))
    assert losses[1] < losses[0] / 2


def test_another_start_is_another_training(world: Path, tmp_path: Path):
    first = RunFolder.load(world / "first")
    splits = dataset(world / "train.tfrecord"), dataset(world / "validation.tfrecord")
    run = RunFolder(tmp_path / "run", recipe(max_epochs=2), LABELLING, FEATURES)
    train(run, *splits, start=first)
    (run.folder / "weights.safetensors").unlink()
    with pytest.raises(Error, match="an unfinished run with another run that it starts from"):
        train(run, *splits)


def test_another_size_is_refused(world: Path, tmp_path: Path):
    wide = replace(recipe(), head=replace(recipe().head, hidden=9))  # type: ignore[type-var]
    run = RunFolder(tmp_path / "run", wide, LABELLING, FEATURES)
    data = dataset(world / "train.tfrecord")
    with pytest.raises(Error, match=r"first: its nv-l has another head\.network\.2\.bias than the model to train"):
        train(run, data, data, start=RunFolder.load(world / "first"))
    assert not run.folder.exists()


def test_by_the_command(world: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    LABELLING.save(world / "taxonomy")
    first, out = world / "first", tmp_path / "next"
    options = ["--data", str(world / "train.tfrecord"), "--training.max-epochs", "2", "--out", str(out)]
    assert main(["train", "--from", str(first), *options]) == 0
    assert RunFolder.load(out).recipe == replace(recipe(), training=replace(recipe().training, max_epochs=2))
    assert main(["train", "--from", str(first), *options[:-1], str(first)]) == 1
    assert "the run to start from; choose another --out" in capfd.readouterr().err


def test_a_category_without_training_clips_is_no_answer(world: Path, tmp_path: Path):
    run = RunFolder(tmp_path / "run", recipe(max_epochs=1), grown(), FEATURES)
    data = Dataset([world / "train.tfrecord"], grown())
    console = Console(record=True, width=200, file=(tmp_path / "out").open("w"))
    train(run, data, data, console=console)
    assert "1 of" in console.export_text()
    loaded = RunFolder.load(run.folder)
    assert loaded.untrained == {"new"}
    assert loaded.thresholds[0] == np.inf
    certain = np.ones(len(grown().taxonomy))
    assert 0 not in loaded.ranked(certain)
    assert len(loaded.ranked(certain)) == len(certain) - 1


def test_copies_in_validation_are_said(world: Path, tmp_path: Path):
    run = RunFolder(tmp_path / "run", recipe(max_epochs=1), LABELLING, FEATURES)
    same = [replace(clip, id=f"copy-{clip.id}") for clip in clips(3)]
    copies = dataset(write(tmp_path / "copies.tfrecord", *same, *clips(5, seed=9, prefix="new")))
    console = Console(record=True, width=300, file=(tmp_path / "out").open("w"))
    train(run, dataset(world / "train.tfrecord"), copies, console=console)
    assert "3 of 8 clips (copy-clip000, copy-clip001, copy-clip002) are training clips too" in console.export_text()
