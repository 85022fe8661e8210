"""A fusion and a family from outside the package: trained, and used by a process that has not seen them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from training.world import LABELLING, SIZES, clips, dataset, write

from counterpoint.data.features import FeatureSet
from counterpoint.errors import Error
from counterpoint.predict import Predictor
from counterpoint.recipes import Recipe, recipe
from counterpoint.run import RECIPE_FILE, RunFolder
from counterpoint.training.train import train

ROOT = Path(__file__).parents[1]
SMALL = {"training.batch_size": 16, "training.max_epochs": 2, "training.learning_rate": 1e-2, "head.hidden": 8}
USE = """
import json, sys
import numpy as np
from training.world import dataset
from counterpoint.explanation import explain
from counterpoint.predict import Predictor
from counterpoint.run import RunFolder

folder, shard = sys.argv[1:]
predictor = Predictor(RunFolder.load(folder))
data = dataset(shard)
(found,) = predictor.predict(data)
np.save(folder + "/found.npy", found.probabilities)
print(json.dumps(explain(predictor, data.clip(0)).to_dict()))
"""


@pytest.mark.parametrize(
    ("name", "part", "row"),
    [("own_fusion", "fusion", "cluster"), ("own_family", "family", "attention")],
)
def test_train_save_load_predict_and_explain(
    name: str, part: str, row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    own = recipe(f"examples.{name}:RECIPE").with_(SMALL, max_steps=6)
    shards = [write(tmp_path / f"{split}.tfrecord", *clips(40, seed)) for seed, split in enumerate(("train", "test"))]
    torch.manual_seed(0)
    run = RunFolder(tmp_path / "run", own, LABELLING, FeatureSet(SIZES))
    train(run, *map(dataset, shards), console=Console(quiet=True))
    stored = json.loads((tmp_path / "run" / RECIPE_FILE).read_text())
    assert stored[part]["type"].startswith(f"examples.{name}:")
    assert RunFolder.load(tmp_path / "run").recipe == own
    (expected,) = Predictor(run).predict(dataset(shards[1]))

    arguments = [sys.executable, "-c", USE, str(tmp_path / "run"), str(shards[1])]
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PATH": ""}
    printed = subprocess.run(arguments, env=environment, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    np.testing.assert_allclose(np.load(tmp_path / "run" / "found.npy"), expected.probabilities, atol=1e-6)
    timelines = json.loads(printed)["timelines"]
    assert set(timelines) == set(SIZES)
    assert all(timeline["row"] == row for timeline in timelines.values())
    assert any(np.abs(timeline["influence"]).max() > 0 for timeline in timelines.values())


def test_a_class_that_cannot_be_imported_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    own = recipe("examples.own_fusion:RECIPE")
    assert isinstance(own, Recipe)
    RunFolder(tmp_path, own, LABELLING, FeatureSet(SIZES)).save()
    path = tmp_path / RECIPE_FILE
    path.write_text(path.read_text().replace("examples.own_fusion:", "moved_away.own_fusion:"))
    with pytest.raises(Error, match=r"recipe\.json: .*module moved_away\.own_fusion cannot be imported.* PYTHONPATH"):
        RunFolder.load(tmp_path)
    path.write_text(path.read_text().replace("moved_away.own_fusion:LearnedStrength", "counterpoint.data.clip:Clip"))
    with pytest.raises(Error, match=r"recipe\.json: .*counterpoint\.data\.clip:Clip: not a Fusion"):
        RunFolder.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nv-cmc", "no recipe 'nv-cmc'; did you mean nv-cm-c?"),
        ("examples.own_fusion:RECIPES_", "examples.own_fusion has no RECIPES_; did you mean RECIPES?"),
        ("examples.own_fusion:LearnedStrength", "not a recipe but a type"),
        ("examples.nothing:RECIPE", "the module examples.nothing cannot be imported"),
        ("examples/own_fusion.py:RECIPE", "not of the form package.module:NAME"),
    ],
)
def test_a_recipe_that_is_not_there(name: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(Error) as raised:
        recipe(name)
    assert message in str(raised.value)
