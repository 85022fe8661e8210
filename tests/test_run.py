import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from training.world import LABELLING, SIZES, clip, clips, codes, dataset, recipe, run, write

from counterpoint.data.features import FeatureSet
from counterpoint.errors import Error
from counterpoint.predict import Predictor
from counterpoint.run import ENVIRONMENT_FILE, RECIPE_FILE, WEIGHTS_FILE, RunFolder, environment
from counterpoint.training.train import train

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    data = write(folder / "data" / "a.tfrecord", *clips(64))
    train(run(folder / "run", max_epochs=3), dataset(data), dataset(data), console=QUIET)
    return folder / "run"


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "copy"))


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    return write(tmp_path / "test.tfrecord", *clips(10, seed=5, prefix="test"))


# --- the folder -------------------------------------------------------------------------------------------------------


def test_save_and_load(tmp_path: Path) -> None:
    saved = run(tmp_path / "a" / "run", seed=7)
    saved.save()
    assert RunFolder.load(tmp_path / "a" / "run") == saved
    assert RunFolder.load(str(tmp_path / "a" / "run")) == saved
    assert not saved.trained
    assert not list(tmp_path.rglob("*.tmp"))


def test_environment(tmp_path: Path) -> None:
    run(tmp_path).save()
    stored = json.loads((tmp_path / ENVIRONMENT_FILE).read_text())
    assert stored["torch"] == torch.__version__
    assert stored["threads"] == torch.get_num_threads()
    assert {"counterpoint", "python", "lightning", "numpy", "platform", "processor", "gpus", "command"} <= set(stored)


def test_not_a_run(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(Error) as raised:
            RunFolder.load(folder)
        assert str(raised.value).startswith(f"{folder}: not a run folder (no recipe.json)")


@pytest.mark.parametrize(
    "change",
    [
        lambda stored: "[]",
        lambda stored: "{",
        lambda stored: json.dumps({**{key: value for key, value in stored.items() if key != "type"}, "name": "nv-x"}),
        lambda stored: json.dumps({**stored, "type": "NetVLADFamily"}),
        lambda stored: json.dumps({**stored, "family": {**stored["family"], "type": "Late"}}),
        lambda stored: json.dumps({**stored, "family": {**stored["family"], "type": "AttentionFamily"}}),
        lambda stored: json.dumps({**stored, "family": {**stored["family"], "type": "no_such_module:Family"}}),
        lambda stored: json.dumps({**stored, "family": {**stored["family"], "type": "json:JSONDecoder"}}),
        lambda stored: json.dumps({**stored, "family": {**stored["family"], "type": "../x:Y"}}),
        lambda stored: json.dumps({**stored, "max_steps": True}),
        lambda stored: json.dumps({**stored, "name": 7}),
        lambda stored: json.dumps({**stored, "colour": "red"}),
        lambda stored: json.dumps({name: value for name, value in stored.items() if name != "head"}),
        lambda stored: json.dumps({**stored, "training": None}),
    ],
)
def test_faulty_recipe_is_named(copied: Path, change: object) -> None:
    path = copied / RECIPE_FILE
    path.write_text(change(json.loads(path.read_text())))  # type: ignore[operator]
    with pytest.raises(Error, match=r"recipe\.json: not a recipe of this version"):
        RunFolder.load(copied)


def test_recipes_of_before_a_setting_came(copied: Path) -> None:
    path = copied / RECIPE_FILE
    stored = json.loads(path.read_text())
    assert stored.pop("modalities") == []
    path.write_text(json.dumps(stored))
    assert RunFolder.load(copied).recipe.modalities == ()


def test_faulty_weights_are_named(copied: Path) -> None:
    weights = copied / WEIGHTS_FILE
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-9])
    with pytest.raises(Error, match=r"weights\.safetensors: not the weights of this run's recipe"):
        RunFolder.load(copied).model()
    weights.write_bytes(whole)
    path = copied / RECIPE_FILE
    path.write_text(path.read_text().replace('"video": 2', '"video": 3'))
    with pytest.raises(Error, match=r"weights\.safetensors: not the weights of this run's recipe"):
        RunFolder.load(copied).model()


def test_a_flipped_bit_of_the_weights_is_noticed(copied: Path) -> None:
    content = bytearray((copied / WEIGHTS_FILE).read_bytes())
    content[-1] ^= 1
    (copied / WEIGHTS_FILE).write_bytes(content)
    with pytest.raises(Error, match=r"safetensors: .*checksum does not match: the file is damaged"):
        RunFolder.load(copied).model()


def test_unfinished_run(copied: Path, shard: Path) -> None:
    (copied / WEIGHTS_FILE).unlink()
    with pytest.raises(Error, match="training has not ended"):
        next(Predictor(RunFolder.load(copied)).predict(dataset(shard)))


# --- predictions ------------------------------------------------------------------------------------------------------


def predict(folder: Path, *paths: Path, **options: object) -> tuple[list[str], np.ndarray, np.ndarray]:
    parts = list(Predictor(RunFolder.load(folder)).predict(dataset(*paths), **options))  # type: ignore[arg-type]
    ids = [name for part in parts for name in part.ids]
    return ids, np.concatenate([p.probabilities for p in parts]), np.concatenate([p.labels for p in parts])


def test_predictions(trained: Path, shard: Path) -> None:
    ids, probabilities, labels = predict(trained, shard, batch_size=4)
    assert ids == [f"test{i:03}" for i in range(10)]
    assert probabilities.dtype == np.float32
    assert ((probabilities > 0) & (probabilities < 1)).all()
    assert np.array_equal(labels, np.stack([dataset(shard)[i][1] for i in range(10)]))
    # dessert and soup below food, ball below sport
    for child, parent in ((1, 0), (2, 0), (4, 3)):
        assert (probabilities[:, child] <= probabilities[:, parent]).all()


def test_predictions_do_not_depend_on_batches(trained: Path, shard: Path) -> None:
    together, apart = predict(trained, shard)[1], predict(trained, shard, batch_size=1)[1]
    np.testing.assert_allclose(together, apart, atol=1e-6)


def test_predictions_do_not_depend_on_workers(trained: Path, shard: Path) -> None:
    assert np.array_equal(predict(trained, shard, batch_size=4)[1], predict(trained, shard, batch_size=4, workers=1)[1])


def test_used_elsewhere(trained: Path, copied: Path, shard: Path, tmp_path: Path) -> None:
    """The folder holds all that is needed, wherever it is."""
    expected = predict(trained, shard)[1]
    moved = copied.rename(tmp_path / "elsewhere")
    for unneeded in ("checkpoints", "tensorboard"):
        shutil.rmtree(moved / unneeded)
    for unneeded in ("epochs.csv", ENVIRONMENT_FILE):
        (moved / unneeded).unlink()
    assert np.array_equal(predict(moved, shard)[1], expected)


def test_data_without_sound(trained: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "silent.tfrecord", *clips(6, sound=False))
    assert np.isfinite(predict(trained, path)[1]).all()


def test_other_features_are_refused(trained: Path, shard: Path, tmp_path: Path) -> None:
    wide = write(tmp_path / "wide.tfrecord", clip("a", [10], video=codes(2, 17)))
    with pytest.raises(Error, match=r"reads youtube8m features .* not youtube8m features \(video 17\)"):
        predict(trained, wide)
    FeatureSet(SIZES, "ours").save(tmp_path)
    with pytest.raises(Error, match="not ours features"):
        predict(trained, shard)


def test_runs_of_equal_seed_begin_alike(tmp_path: Path) -> None:
    torch.manual_seed(1)
    one = RunFolder(tmp_path, recipe(), LABELLING, FeatureSet(SIZES)).build().state_dict()
    torch.manual_seed(1)
    two = RunFolder(tmp_path, recipe(), LABELLING, FeatureSet(SIZES)).build().state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)


# --- run folders of strangers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "fault"),
    [
        ({"video": 1000, "audio": 8}, "1,000 video features, and no weight has more than"),
        ({"video": 10**6}, "sizes must be whole numbers from 1 to 131,072"),
        ({"../../etc": 16}, "whose names are letters, digits, _ and -"),
        ({f"m{i}": 1 for i in range(33)}, "at most 32 modalities"),
    ],
)
def test_features_that_are_not_the_weights(tmp_path: Path, sizes: dict[str, int], fault: str) -> None:
    made = run(tmp_path / "run")
    made.save()
    made.save_weights(made.build())
    FeatureSet(sizes).save(made.folder)
    with pytest.raises(Error, match=fault):
        RunFolder.load(made.folder).model()


def test_nothing_is_allocated_before_shapes_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = run(tmp_path / "run")
    made.save()
    made.save_weights(made.build())
    FeatureSet(dict.fromkeys(SIZES, 100000)).save(made.folder)
    monkeypatch.setattr(RunFolder, "build", lambda self: pytest.fail("built"))
    with pytest.raises(Error, match="100,000 audio features, and no weight has more than"):
        RunFolder.load(made.folder).model()


@pytest.mark.parametrize("name", ["recipe.json", "features.json", "weights.safetensors", "taxonomy/categories.tsv"])
def test_pipes_are_not_waited_for(tmp_path: Path, name: str) -> None:
    made = run(tmp_path / "run")
    made.save()
    made.save_weights(made.build())
    (made.folder / name).unlink()
    os.mkfifo(made.folder / name)
    with pytest.raises(Error, match="a pipe or a device, and not a file"):
        RunFolder.load(made.folder).model()


def test_the_command_is_kept_without_its_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["counterpoint", "s3://me:secret@host/a?X-Amz-Signature=12ab&part=1"])
    assert environment()["command"] == ["counterpoint", "s3://me:***@host/a?X-Amz-Signature=***&part=1"]
