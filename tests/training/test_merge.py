"""Plain networks as one: its logits are the mean of theirs."""

from pathlib import Path

import numpy as np
import pytest
import torch

from counterpoint.data.features import FeatureSet
from counterpoint.errors import Error
from counterpoint.predict import batches
from counterpoint.recipes import RECIPES
from counterpoint.run import RunFolder
from counterpoint.taxonomy import Category, Labelling, LabelMap, Taxonomy
from counterpoint.training.merge import fit_reliability, merge
from counterpoint.training.remap import remap
from counterpoint.training.train import train

from .world import LABELLING, SIZES, clips, dataset, recipe, write

SETTINGS = {"training.max_epochs": 2, "training.batch_size": 16, "head.hidden": 6, "max_steps": 5}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("merge")
    write(folder / "train.tfrecord", *clips(40))
    write(folder / "other.tfrecord", *clips(30, seed=1, prefix="other"))
    for seed in range(3):
        made = RECIPES["mean-mlp"].with_(SETTINGS, **{"training.seed": seed})
        run = RunFolder(folder / f"run-{seed}", made, LABELLING, FeatureSet(SIZES))
        train(run, dataset(folder / "train.tfrecord"), dataset(folder / "other.tfrecord"))
    return folder


def logits(run: RunFolder, world: Path) -> np.ndarray:
    with torch.no_grad():
        batch = next(batches(run, dataset(world / "other.tfrecord")))
        return run.categorizer()(batch.tracks).logits.double().numpy()


def test_its_logits_are_the_mean(world: Path, tmp_path: Path):
    runs = [RunFolder.load(world / f"run-{seed}") for seed in range(3)]
    merged = merge(runs, tmp_path / "one")
    expected = np.mean([logits(run, world) for run in runs], axis=0)
    np.testing.assert_allclose(logits(RunFolder.load(tmp_path / "one"), world), expected, atol=1e-5)
    assert np.ptp([logits(run, world) for run in runs], axis=0).max() > 0.1
    again = merge([merged, merged], tmp_path / "twice")
    np.testing.assert_allclose(logits(again, world), expected, atol=1e-5)


def test_what_cannot_be_merged(world: Path, tmp_path: Path):
    first = RunFolder.load(world / "run-0")
    with pytest.raises(Error, match="two runs or more"):
        merge([first], tmp_path / "one")
    other = RunFolder(tmp_path / "nv", recipe(max_epochs=0), LABELLING, FeatureSet(SIZES))
    train(other, dataset(world / "train.tfrecord"), dataset(world / "other.tfrecord"))
    with pytest.raises(Error, match="a nv-l, and only mean-mlp runs can be merged"):
        merge([first, other], tmp_path / "one")
    wide = RunFolder(
        tmp_path / "wide",
        RECIPES["mean-mlp"].with_(SETTINGS, **{"head.hidden": 7, "training.max_epochs": 0}),
        LABELLING,
        FeatureSet(SIZES),
    )
    train(wide, dataset(world / "train.tfrecord"), dataset(world / "other.tfrecord"))
    with pytest.raises(Error, match="wide: has another recipe than"):
        merge([first, wide], tmp_path / "one")


def test_calibrated_on_other_clips(world: Path):
    run = RunFolder.load(world / "run-0")
    found = fit_reliability(run, dataset(world / "other.tfrecord"))
    assert found.clips == 30
    assert len(found.thresholds) == len(LABELLING.taxonomy)
    assert all(0 <= each <= 1 for each in found.thresholds)


def test_with_a_residual_network(world: Path, tmp_path: Path):
    """Which counts as much as the others together; categories move as in any run."""
    settings = {name: value for name, value in SETTINGS.items() if name != "head.hidden"}
    made = RECIPES["mean-residual"].with_(settings, **{"head.width": 6, "head.hidden": 5, "training.max_epochs": 1})
    residual = RunFolder(tmp_path / "residual", made, LABELLING, FeatureSet(SIZES))
    train(residual, dataset(world / "train.tfrecord"), dataset(world / "other.tfrecord"))
    runs = [RunFolder.load(world / f"run-{seed}") for seed in range(2)]
    merge([*runs, residual], tmp_path / "one")
    expected = np.mean([np.mean([logits(run, world) for run in runs], axis=0), logits(residual, world)], axis=0)
    merged = RunFolder.load(tmp_path / "one")
    np.testing.assert_allclose(logits(merged, world), expected, atol=1e-5)
    taxonomy = Taxonomy((Category("new", "", "New"), *LABELLING.taxonomy))
    remap(merged, Labelling(taxonomy, LabelMap(LABELLING.labels.labels, taxonomy)), tmp_path / "moved")
    np.testing.assert_allclose(logits(RunFolder.load(tmp_path / "moved"), world)[:, 1:], expected, atol=1e-5)
    with pytest.raises(Error, match="beside mean-mlp runs one mean-residual run can be merged"):
        merge([residual, residual], tmp_path / "two")
