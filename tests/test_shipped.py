"""The model that comes with the package."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from counterpoint.cli.main import main
from counterpoint.data.clip import Clip
from counterpoint.data.dataset import Dataset
from counterpoint.data.features import FeatureSet
from counterpoint.data.layout import write_splits
from counterpoint.evaluation.metrics import global_average_precision
from counterpoint.files import cache_folder
from counterpoint.models.mean import MeanFamily
from counterpoint.predict import Predictor
from counterpoint.recipes import Recipe
from counterpoint.run import SHIPPED, RunFolder
from counterpoint.taxonomy import load
from counterpoint.taxonomy.mapping import SHIPPED as SHIPPED_TAXONOMY

NAME = "youtube8m"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of several steps, and each again as its mean, whose features happen to be whole codes."""
    folder = tmp_path_factory.mktemp("clips")
    run, random = RunFolder.load(NAME), np.random.default_rng(0)
    sizes = run.features.sizes

    def clip(split: str, index: int) -> Clip:
        middle = {name: np.random.default_rng(index // 2).integers(60, 190, size) for name, size in sizes.items()}
        steps = np.array([-5, 5, 0, 3, -3] if index % 2 == 0 else [0])[:, None]
        tracks = {name: (codes + steps).astype(np.uint8) for name, codes in middle.items()}
        return Clip(f"clip-{index}", np.array([int(random.integers(100))]), tracks)

    write_splits(folder, run.features, {"test": 6}, clip, 6, None)
    return folder


def test_the_folder_is_whole_and_small() -> None:
    run = RunFolder.load(NAME)
    assert isinstance(run.recipe, Recipe)
    assert isinstance(run.recipe.family, MeanFamily)
    assert len(run.reliability.thresholds) == 640
    assert run.labelling.taxonomy.fingerprint == load(SHIPPED_TAXONOMY).taxonomy.fingerprint
    assert run.features.youtube8m
    assert sum(path.stat().st_size for path in (SHIPPED / NAME).rglob("*")) < 30e6
    assert (SHIPPED / NAME / "README.md").exists()


def test_a_clip_of_several_steps_is_its_mean(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["categorize", NAME, str(shards), "--json"]) == 0
    answers = json.loads(capsys.readouterr().out)
    assert len(answers) == 6
    for one, mean in zip(answers[::2], answers[1::2], strict=True):
        assert [c["path"] for c in one["categories"]] == [c["path"] for c in mean["categories"]]
        for one_category, same in zip(one["categories"], mean["categories"], strict=True):
            assert one_category["probability"] == pytest.approx(same["probability"], abs=1e-4)


def test_it_explains_a_clip(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shard,) = shards.glob("*.tfrecord")
    assert main(["explain", NAME, f"{shard}#clip-0", "--out", str(tmp_path / "why.png")]) == 0
    assert "correlation of audio and video" in capsys.readouterr().out
    assert (tmp_path / "why.png").stat().st_size > 10_000


def test_what_is_found_with_it_does_not_go_into_the_package(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(SHIPPED.rglob("*"))
    assert main(["evaluate", NAME, "--data", str(shards), "--json"]) == 0
    assert main(["tower", f"{NAME}/tower", "--data", str(shards)]) == 0
    assert (cache_folder() / "shipped" / NAME / "evaluation" / "metrics.json").exists()
    assert sorted(SHIPPED.rglob("*")) == before
    assert not list(tmp_path.iterdir())  # a folder called so would come first from then on


def test_a_run_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of shards, for instance, does not."""
    (tmp_path / NAME).mkdir()
    monkeypatch.chdir(tmp_path)
    assert RunFolder.load(NAME).folder == SHIPPED / NAME
    replace(RunFolder.load(NAME), folder=tmp_path / NAME).save()
    assert RunFolder.load(NAME).folder == Path(NAME)


def test_the_card_tells_the_truth(real_data: Path) -> None:
    run = RunFolder.load(NAME)
    data = Dataset([str(real_data / "yt8m" / "video" / "validate007[2-9].tfrecord")], run.labelling)
    parts = list(Predictor(run).predict(data))
    scores, labels = (np.concatenate([part[i] for part in parts]) for i in (1, 2))
    error = 100 * (1 - global_average_precision(scores, labels, top=20))
    card = (SHIPPED / NAME / "README.md").read_text()
    found = re.search(r"\| GAP \| all \| ([\d.]+) \|", card)
    assert found
    assert error == pytest.approx(float(found[1]), abs=0.02)
    assert FeatureSet.of(data.paths) == run.features
