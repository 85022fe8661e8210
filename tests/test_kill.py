"""Killed at any moment (SIGKILL), a command leaves what the same command goes on from, to the same result.

Moments are drawn from what happens to files, since that is where something can be lost, some of them with a delay into
what comes after.
"""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from processes import Command, killed
from training import world

from counterpoint.data.clip import Clip
from counterpoint.data.tfrecord import Shard, index_place
from counterpoint.experiments.engine import Log
from counterpoint.media import extract
from counterpoint.media import films as render
from counterpoint.media.encoders import Encoded
from counterpoint.media.workers import Source

RECIPE = [
    *("--family.clusters", '{"video": 2, "audio": 2}', "--family.hidden", "8", "--head.hidden", "8"),
    *("--training.batch_size", "16", "--training.learning_rate", "2e-2", "--training.max_epochs", "2"),
]
SUITE = [
    *("reproduce", "synthetic", "--families", "nv", "--datasets", "unrelated-0.25-shift-0", "--models", "l", "cm-c"),
    *("--seeds", "1", "--epochs", "2", "--tower-epochs", "1", "--resamples", "20", "--test-runs", "2"),
    *("--clips", '{"train": 24, "validation": 12, "test": 16}', "--trials", "3", "--threads", "1"),
    *("--grid", '{"nv": {"head.hidden": [8, 16], "training.learning_rate": [1e-3, 1e-2]}}'),
]


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """`train`, but for --out."""
    folder = tmp_path_factory.mktemp("data")
    world.write(folder / "train.tfrecord", *world.clips(48))
    world.write(folder / "validation.tfrecord", *world.clips(16, seed=1, prefix="v"))
    world.LABELLING.save(folder / "taxonomy")
    shards = ["--data", str(folder / "train.tfrecord"), "--validation", str(folder / "validation.tfrecord")]
    return ["train", "nv-l", *RECIPE, *shards, "--taxonomy", str(folder / "taxonomy"), "--out"]


@pytest.fixture(scope="module")
def extraction(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """`extract` of five films, but for --out."""
    folder = tmp_path_factory.mktemp("films")
    random = np.random.default_rng(0)
    rows = ["path,categories"]
    for number in range(5):
        frames = [random.integers(0, 255, (48, 64, 3), dtype=np.uint8) for _ in range(12)]
        render.write(folder / f"{number}.mp4", frames, random.normal(0, 0.1, render.RATE))
        rows.append(f"{number}.mp4,{('Food:Soup', 'Sport')[number % 2]}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return ["extract", str(folder), "--labels", str(folder / "labels.csv"), "--workers", "1", "--out"]


def small_shards() -> None:
    """In the process: several shards, of few clips."""
    extract.CLIPS_PER_SHARD = 2


def quickly() -> None:
    """In the process: as `small_shards`, and features that need no encoding in child processes."""

    def encode_all(todo: list[Source], *options: Any) -> Any:
        for source in todo:
            codes = np.frombuffer(source.path.read_bytes()[-200:], np.uint8).reshape(2, 100)
            yield source, Encoded(Clip(source.id, np.zeros(0, np.int64), {"video": codes}), [])

    small_shards()
    extract.encode_all = encode_all  # type: ignore[assignment]


def contents(folder: Path, *patterns: str) -> dict[str, bytes]:
    """What files of these kinds hold."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for pattern in patterns
        for path in folder.rglob(pattern)
        if not path.name.startswith(".")
    }


def trained(run: Path) -> dict[str, Any]:
    """All that is not about time."""
    rows = [line.rpartition(",")[0] for line in (run / "epochs.csv").read_text().splitlines()]
    return {
        "epochs": rows,
        **contents(run, "weights.safetensors", "recipe.json", "features.json", "*.tsv", "data.json"),
    }


def extracted(out: Path) -> dict[str, Any]:
    assert not (out / extract.PARTS).exists()
    return contents(out, "*.tfrecord", "features.json", "*.tsv")


def reported(out: Path) -> dict[str, Any]:
    report = json.loads((out / "report.json").read_text())
    names = [line["job"] for line in Log(out).lines()]
    assert len(set(names)) == len(names) > 5
    return {part: report[part] for part in ("test_runs", "gains", "towers", "searches")}


def rounds(
    command: list[str],
    result: Callable[[Path], Any],
    folder: Path,
    wanted: int,
    seed: int,
    prepare: Callable[[], None] | None = None,
) -> int:
    """Kill a command until there were so many kills, up to four a round; compare what each round leaves in the end.

    Returns how many kills there were.
    """
    out = folder / "out"
    whole = Command([*command, str(out)], folder, prepare=prepare)
    assert whole.wait() == 0, whole.output
    events, expected = whole.events, result(out)
    kills, random = 0, Random(seed)
    while kills < wanted:
        out.rename(folder / f"before-{kills}-{random.random()}")
        kills += killed([*command, str(out)], folder, events, min(4, wanted - kills), random, prepare)
        assert result(out) == expected, f"after {kills} kills with seed {seed}"
    return kills


def test_killed_trainings_and_extractions_go_on(training: list[str], extraction: list[str], tmp_path: Path) -> None:
    for name in ("train", "extract"):
        (tmp_path / name).mkdir()
    rounds(training, trained, tmp_path / "train", 2, seed=0)
    rounds(extraction, extracted, tmp_path / "extract", 4, seed=1, prepare=quickly)


def test_an_index_is_whole_or_not_there(tmp_path: Path) -> None:
    """Killed before anything that happens to files, each in turn."""
    shard = world.write(tmp_path / "a.tfrecord", *world.clips(20))
    index = index_place(shard)
    whole = Command(["inspect", str(shard)], tmp_path)
    assert whole.wait() == 0
    printed, kept = whole.output, index.read_bytes()
    assert whole.events >= 2
    for moment in range(1, whole.events + 1):
        index.unlink(missing_ok=True)
        assert Command(["inspect", str(shard)], tmp_path, kill_at=moment).wait() == -signal.SIGKILL
        assert not index.exists() or index.read_bytes() == kept
        assert len(Shard(shard)) == 20
    again = Command(["inspect", str(shard)], tmp_path)
    assert again.wait() == 0
    assert again.output.splitlines()[:-1] == printed.splitlines()[:-1]


@pytest.mark.slow
def test_at_least_thirty_kills(training: list[str], extraction: list[str], tmp_path: Path) -> None:
    """And the same weights to the bit, the same shards, the same figures."""
    seed = int(os.environ.get("KILL_SEED", "2026"))
    kills = {}
    for name, command, result in (
        ("train", training, trained),
        ("extract", extraction, extracted),
        ("reproduce", [*SUITE, "--out"], reported),
    ):
        (tmp_path / name).mkdir()
        prepare = small_shards if name == "extract" else None
        kills[name] = rounds(command, result, tmp_path / name, 10, seed, prepare)
    print(f"kills: {kills}, seed {seed}")
    assert sum(kills.values()) >= 30


@pytest.mark.slow
def test_what_one_of_two_leaves_the_other_does(tmp_path: Path) -> None:
    """`reproduce` in two processes on one folder, of which one is killed."""
    (tmp_path / "alone").mkdir()
    alone = Command([*SUITE, "--out", str(tmp_path / "alone" / "out")], tmp_path / "alone")
    assert alone.wait() == 0, alone.output
    for name, moment in (("two", 0), ("one", alone.events // 2)):
        (tmp_path / name / "log").mkdir(parents=True)
        arguments = [*SUITE, "--out", str(tmp_path / name / "out")]
        first = Command(arguments, tmp_path / name, kill_at=moment)
        second = Command(arguments, tmp_path / name / "log")
        assert first.wait() == (-signal.SIGKILL if moment else 0)
        assert second.wait() == 0, second.output
        assert reported(tmp_path / name / "out") == reported(tmp_path / "alone" / "out")
