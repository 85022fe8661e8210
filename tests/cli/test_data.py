"""`counterpoint data mosaic` on records of YouTube-8M's form that are made here."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training.world import damage, write

from counterpoint.cli.main import main
from counterpoint.data.clip import Clip
from counterpoint.data.dataset import Dataset
from counterpoint.run import RunFolder
from counterpoint.taxonomy import youtube8m

CONTROLS = ["--clips", '{"train": 6, "validation": 4, "test": 3}', "--min_steps", "10", "--max_steps", "12"]


def video_level(name: str, count: int, seed: int) -> list[Clip]:
    rng = np.random.default_rng(seed)
    return [
        Clip(
            f"{name}{i}",
            np.sort(rng.choice(3862, 3, replace=False)),
            {m: rng.normal(0, 0.5, (1, size)).astype(np.float32) for m, size in (("video", 1024), ("audio", 128))},
        )
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("yt8m")
    for i, name in enumerate(("train", "validate", "test")):
        write(folder / f"{name}0000.tfrecord", *video_level(name, 150, i))
    return folder


def mosaic(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(["data", "mosaic", *map(str, arguments), *CONTROLS])
    return (code, *capsys.readouterr())


def shown(folder: Path, split: str) -> set[str]:
    """The records of a split's clips."""
    truths = [json.loads(line) for line in (folder / f"{split}-truth.jsonl").read_text().splitlines()]
    return {name for truth in truths for names in truth["shown"].values() for name in names}


def test_one_command_makes_all_splits(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Which train a model with the shipped taxonomy, as YouTube-8M's own do."""
    out = tmp_path / "mosaic"
    others = ["--validation", shards / "validate0000.tfrecord", "--test", shards / "test*.tfrecord"]
    code, printed, _ = mosaic(capsys, "--data", shards / "train0000.tfrecord", *others, "--out", out, "--json")
    result: dict[str, Any] = json.loads(printed)
    assert code == 0
    assert {split: part["clips"] for split, part in result.items()} == {"train": 6, "validation": 4, "test": 3}
    assert all(part["records"] + part["left_out"] == 150 for part in result.values())
    for split, name in (("train", "train"), ("validation", "validate"), ("test", "test")):
        assert {record.rstrip("0123456789") for record in shown(out, split)} == {name}
        assert len(Dataset([out / f"{split}-0000.tfrecord"], youtube8m())) == result[split]["clips"]
    small = ["--family.width", "8", "--family.heads", "2", "--head.hidden", "8", "--training.max_epochs", "1"]
    data = ["--data", str(out / "train*.tfrecord"), "--validation", str(out / "validation*.tfrecord")]
    assert main(["train", "tm-mbt", *data, "--out", str(tmp_path / "run"), *small]) == 0
    run = RunFolder.load(tmp_path / "run")
    assert run.features.components
    assert len(run.labelling.taxonomy) == 640


def test_without_shards_of_their_own_splits_share_by_a_hash(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, printed, _ = mosaic(capsys, "--data", shards, "--out", tmp_path / "m", "--distractors", "1")
    assert code == 0
    assert printed.startswith(f"{tmp_path / 'm'}: train: 6 clips in 1 shards, of 3")
    train, validation, test = (shown(tmp_path / "m", split) for split in ("train", "validation", "test"))
    assert not train & validation
    assert not (train | validation) & test


def test_what_cannot_be(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = ["--data", shards / "train0000.tfrecord"]
    others = ["--validation", shards / "validate0000.tfrecord", "--test", shards / "train0000.tfrecord"]
    for arguments, message in (
        ([*source, *others], "in more than one split; splits share no shards"),
        ([*source, "--stretch", "0"], "stretch must be a factor above 0"),
        (["--data", tmp_path / "none"], "no shards there"),
    ):
        code, printed, error = mosaic(capsys, *arguments, "--out", tmp_path / "m")
        assert (code, printed) == (1, "")
        assert message in error.splitlines()[-1]
        assert error.startswith("counterpoint: ")
    assert not (tmp_path / "m").exists()


def test_damaged_records(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = damage(write(tmp_path / "bad.tfrecord", *video_level("bad", 200, 9)), 3, 5)
    code, _, error = mosaic(capsys, "--data", damaged, "--out", tmp_path / "m", "--distractors", "1")
    assert code == 1
    assert f"{damaged}: record 3" in error
    skipping = ["--data", damaged, "--out", tmp_path / "m", "--distractors", "1", "--skip-bad-records"]
    code, _, error = mosaic(capsys, *skipping)
    assert code == 0
    assert "damaged records left out: 2" in error
