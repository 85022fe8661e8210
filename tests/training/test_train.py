import csv
import io
import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from counterpoint.cli.main import main
from counterpoint.data.features import FeatureSet
from counterpoint.errors import Error
from counterpoint.evaluation.metrics import global_average_precision
from counterpoint.models.fusion import CrossModal
from counterpoint.predict import Predictor, batches
from counterpoint.recipes import CONSTANT, RECIPES, TOWER_RECIPES, ConstantConfig, NetVLADFamily, Training
from counterpoint.run import RunFolder
from counterpoint.taxonomy import Labelling, LabelMap
from counterpoint.training.learner import GAP, Learner
from counterpoint.training.train import train

from . import together
from .world import LABELLING, SIZES, TAXONOMY, clip, clips, codes, dataset, recipe, run, write

QUIET = Console(quiet=True)


class World:
    """Shards to train on, easy ones and confused ones, and a folder for runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.easy = write(folder / "easy.tfrecord", *clips(64))
        self.confused = write(folder / "confused.tfrecord", *clips(64, confused=0.5))
        self.validation = write(folder / "validation.tfrecord", *clips(32, seed=1, prefix="val"))
        self.unsure = write(folder / "unsure.tfrecord", *clips(32, seed=1, prefix="val", confused=0.5))
        LABELLING.save(folder / "taxonomy")
        self._names = map("run{}".format, itertools.count())

    def new(self, **training: object) -> RunFolder:
        return run(self.folder / next(self._names), **training)

    def fit(self, subject: RunFolder, easy: bool = True, **options: Any) -> float:
        data, validation = (self.easy, self.validation) if easy else (self.confused, self.unsure)
        return train(subject, dataset(data), dataset(validation), console=QUIET, **options)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


def epochs(subject: RunFolder) -> list[dict[str, float]]:
    with (subject.folder / "epochs.csv").open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def figures(subject: RunFolder) -> list[dict[str, float]]:
    """What does not depend on the clock."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in epochs(subject)]


def weights(subject: RunFolder) -> bytes:
    return (subject.folder / "weights.safetensors").read_bytes()


def newest(subject: RunFolder) -> dict[str, Any]:
    """The last epoch's weights; the best ones say nothing about later epochs."""
    loaded: dict[str, Any] = torch.load(subject.folder / "checkpoints" / "last.ckpt", weights_only=True)
    return loaded


def assert_equal(one: RunFolder, two: RunFolder) -> None:
    """Bit for bit, every epoch of them."""
    assert weights(one) == weights(two)
    assert figures(one) == figures(two)
    states = newest(one)["state_dict"], newest(two)["state_dict"]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


# --- learning ---------------------------------------------------------------------------------------------------------


def test_learns(world: World) -> None:
    subject = world.new(max_epochs=6)
    gap = world.fit(subject)
    rows = epochs(subject)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    for loss in ("train_loss", "validation_loss"):
        assert rows[-1][loss] < rows[0][loss] / 5
    assert gap == max(row[GAP] for row in rows)
    assert gap > 0.99


def test_no_epochs_leave_what_was_drawn(world: World) -> None:
    """The tower of a control: not trained, but measured, and with half of its gates open."""
    for name, auc in (("correlation-nv-random", None), ("correlation-constant", 0.5)):
        made = replace(TOWER_RECIPES[name], max_steps=5)
        subject = RunFolder(world.folder / name, made, LABELLING, FeatureSet(SIZES))
        found = world.fit(subject)
        assert found == auc if auc else 0 <= found <= 1
        torch.manual_seed(made.training.seed)
        drawn, kept = made.build(SIZES).state_dict(), subject.tower().state_dict()
        moved = {key for key in drawn if not torch.equal(drawn[key], kept[key])}
        assert moved == ({"temperature", "bias"} if auc is None else set())
        batch = next(batches(subject, dataset(world.validation)))
        open_ = subject.tower()(batch.tracks).probability["audio", "video"]
        assert (open_ >= 0.5).float().mean() == (pytest.approx(0.5, abs=0.04) if auc is None else 1)
        gated = RunFolder(world.folder / f"{name}-gated", recipe("nv-cm-c", max_epochs=1), LABELLING, subject.features)
        assert world.fit(gated, tower=subject) > 0


def test_learns_from_sound_alone(world: World) -> None:
    data = [clip for clip in clips(64) if clip.tracks.pop("video") is not None]
    only = write(world.folder / "sound.tfrecord", *data)
    subject = RunFolder(world.folder / "sound", recipe(max_epochs=6), LABELLING, FeatureSet({"audio": 8}))
    assert train(subject, dataset(only), dataset(only), console=QUIET) > 0.99


def test_the_best_weights_are_kept(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    learns = Learner.training_step

    def forgets(self: Learner, batch: Any, index: int) -> Any:
        loss = learns(self, batch, index)
        return loss if self.current_epoch < 3 else -loss

    monkeypatch.setattr(Learner, "training_step", forgets)
    subject = world.new(max_epochs=6)
    gap = world.fit(subject, easy=False)
    course = [row[GAP] for row in epochs(subject)]
    assert gap == max(course)
    assert course[-1] < gap - 0.1
    data = dataset(world.unsure)
    (predictions,) = Predictor(RunFolder.load(subject.folder)).predict(data)
    labels = predictions.labels
    # The weights that are kept are those that scored best, before the tree had a say: where a training ends then.
    model = RunFolder.load(subject.folder).categorizer()
    settings = replace(subject.recipe.training, max_epochs=course.index(gap) + 1)
    ended = RunFolder(world.folder / "ended", replace(subject.recipe, training=settings), LABELLING, subject.features)
    world.fit(ended, easy=False)
    best = newest(ended)["state_dict"]
    assert all(torch.equal(value, best[f"model.{name}"]) for name, value in model.state_dict().items())
    assert global_average_precision(predictions.probabilities, labels) == pytest.approx(gap, abs=0.05)


def test_the_average_of_the_weights_is_kept(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a sum over all steps: step i of n counts (1 - k_i) times the product of the later k."""
    seen: list[torch.Tensor] = []
    step = Learner.optimizer_step

    def recorded(self: Learner, *arguments: Any, **options: Any) -> None:
        step(self, *arguments, **options)
        seen.append(self.model.head.network[-1].weight.detach().double().clone())

    monkeypatch.setattr(Learner, "optimizer_step", recorded)
    subject = world.new(max_epochs=3, averaging=0.8)
    world.fit(subject)
    keep = [min(0.8, (1 + i) / (10 + i)) for i in range(len(seen))]
    expected = seen[0]
    for weights_, share in zip(seen[1:], keep[1:], strict=True):
        expected = share * expected + (1 - share) * weights_
    kept = subject.categorizer().head.network[-1].weight.double()
    torch.testing.assert_close(kept, expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(kept, seen[-1], rtol=1e-3)


def test_cosine_rises_and_falls(world: World) -> None:
    subject = world.new(max_epochs=5, schedule="cosine", learning_rate=0.01)
    world.fit(subject)
    rates = [row["learning_rate"] for row in epochs(subject)]  # of each epoch's last step
    steps = 5 * 4
    expected = [0.01 * (1 + math.cos(math.pi * (4 * epoch - 1) / steps)) / 2 for epoch in range(1, 6)]
    assert rates == pytest.approx(expected)


def test_stops_early(world: World) -> None:
    subject = world.new(max_epochs=60, stop_patience=2, learning_rate=0.2)
    world.fit(subject)
    losses = [row["validation_loss"] for row in epochs(subject)]
    assert len(losses) < 60
    assert losses.index(min(losses)) == len(losses) - 3


def test_learning_rate_falls_where_nothing_gets_better(world: World) -> None:
    subject = world.new(max_epochs=60, patience=1, stop_patience=4, factor=0.5, learning_rate=0.2)
    world.fit(subject)
    rate, waited, best = 0.2, 0, math.inf
    for row in epochs(subject):
        assert row["learning_rate"] == pytest.approx(rate)
        waited = 0 if row["validation_loss"] < best else waited + 1
        best = min(best, row["validation_loss"])
        if waited > 1:  # its own epoch, and two that are not better
            rate, waited = rate / 2, 0
    assert rate < 0.2


def test_reproducible(world: World) -> None:
    one, two, other = world.new(), world.new(), world.new(seed=1)
    for subject in (one, two, other):
        world.fit(subject, easy=False)
    assert_equal(one, two)
    assert weights(one) != weights(other)


def test_workers_change_nothing(world: World) -> None:
    one, two = world.new(max_epochs=2), world.new(max_epochs=2)
    world.fit(one)
    world.fit(two, workers=2)
    assert_equal(one, two)


# --- the run folder ---------------------------------------------------------------------------------------------------


def test_run_folder_is_complete(world: World) -> None:
    subject = world.new(max_epochs=2, seed=3)
    world.fit(subject)
    names = {str(path.relative_to(subject.folder)) for path in subject.folder.rglob("*") if path.is_file()}
    events = {name for name in names if name.startswith("tensorboard/")}
    assert any("tfevents" in name for name in events)
    assert names - events == {
        "checkpoints/before.ckpt",
        "checkpoints/last.ckpt",
        "data.json",
        "trained-on.npz",
        "environment.json",
        "epochs.csv",
        "features.json",
        "kept.json",
        "recipe.json",
        "taxonomy/categories.tsv",
        "taxonomy/labels.tsv",
        "weights.safetensors",
    }
    assert RunFolder.load(subject.folder) == subject
    assert subject.trained
    assert list(epochs(subject)[0]) == ["epoch", "train_loss", "validation_loss", GAP, "learning_rate", "seconds"]
    assert not [path for path in world.folder.iterdir() if path.suffix == ".tmp"]


def test_lines_and_bar_share_the_terminal(world: World) -> None:
    """A line an epoch, none of them beside the bar, and the bar is gone in the end."""
    console = Console(file=io.StringIO(), force_terminal=True, width=120, legacy_windows=False)
    train(world.new(max_epochs=2), dataset(world.easy), dataset(world.validation), console=console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    lines = [line.rpartition("\x1b[2K")[2] for line in shown.split("\n") if "train loss" in line]
    assert [re.sub(r"\d+\.\d+|\(\d+ s\)", "#", line.strip("\r")) for line in lines] == [
        f"epoch  {i}/2  train loss #  validation loss #  GAP error # %  #" for i in (1, 2)
    ]
    assert "epoch 2/2 " in shown
    assert "validation \x1b" in shown
    before, _, last = shown.rstrip().rpartition("\n")
    assert "\x1b[2Kkept epoch " in f"{before}{last}"  # behind the bar's own line, which is wiped


# --- options ----------------------------------------------------------------------------------------------------------


def test_bf16(world: World) -> None:
    subject = world.new(max_epochs=4, precision="bf16-mixed")
    assert world.fit(subject) > 0.9
    assert all(value.dtype == torch.float32 for value in subject.model().state_dict().values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "names"), [("aot_eager", ["nv-cm", "tm-cm", "correlation-nv"]), ("inductor", ["nv-cm"])]
)
def test_compiled(tmp_path: Path, backend: str, names: list[str]) -> None:
    """The same training but for rounding. In a process of its own: compilers do not see through checks of shapes."""
    together.shards(tmp_path)
    command = [sys.executable, str(together.__file__), "compiled", str(tmp_path), backend, *names]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=3600, check=False)
    assert done.returncode == 0, done.stderr
    for name in names:
        eager, compiled = (RunFolder.load(tmp_path / f"{name}-{compiling}") for compiling in (False, True))
        assert figures(compiled) == [pytest.approx(row, rel=1e-4) for row in figures(eager)]
        assert eager.model().state_dict().keys() == compiled.model().state_dict().keys()


def test_accumulate(world: World) -> None:
    """64 clips in batches of 16 are 4 batches and, two at a time, 2 steps an epoch."""
    every, second = world.new(max_epochs=2), world.new(max_epochs=2, accumulate=2)
    world.fit(every)
    world.fit(second)
    assert newest(every)["global_step"] == 8
    assert newest(second)["global_step"] == 4
    assert weights(every) != weights(second)


def test_modality_dropout(world: World) -> None:
    """Trained on one modality at a time, the model does without the sound."""
    subject = world.new(max_epochs=10, modality_dropout=1.0)
    world.fit(subject)
    silent = dataset(write(world.folder / "silent.tfrecord", *clips(32, seed=1, sound=False)))
    (predictions,) = Predictor(subject).predict(silent)
    assert global_average_precision(predictions.probabilities, predictions.labels) > 0.9


# --- going on ---------------------------------------------------------------------------------------------------------


class KilledError(Exception):
    pass


PLATEAU = {"patience": 0, "factor": 0.3}
COSINE = {"schedule": "cosine", "averaging": 0.9}


@pytest.mark.parametrize(
    ("epoch", "index", "schedule"),
    [(0, 1, PLATEAU), (1, 0, PLATEAU), (4, 2, PLATEAU), (5, 3, PLATEAU), (1, 2, COSINE), (4, 0, COSINE)],
)
def test_goes_on_bit_for_bit(
    world: World, monkeypatch: pytest.MonkeyPatch, epoch: int, index: int, schedule: dict[str, Any]
) -> None:
    """Also where the learning rate has just fallen, and where the last epochs were not better."""
    settings = {"max_epochs": 6, "modality_dropout": 0.3, "learning_rate": 0.1, **schedule}
    whole, cut = world.new(**settings), world.new(**settings)
    world.fit(whole, easy=False)
    begin = Learner.on_train_batch_start

    def killed(self: Learner, batch: Any, i: int) -> None:
        if (self.trainer.current_epoch, i) == (epoch, index):
            raise KilledError
        begin(self, batch, i)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "on_train_batch_start", killed)
        with pytest.raises(KilledError):
            world.fit(cut, easy=False)
    assert not cut.trained
    assert (cut.folder / "checkpoints" / "last.ckpt").exists() == (epoch > 0)
    if epoch:
        assert newest(cut)["epoch"] == epoch - 1  # nothing but the epoch that was cut off is done again
    world.fit(cut, easy=False)
    assert len({row["learning_rate"] for row in epochs(whole)}) > 1
    assert_equal(whole, cut)


@pytest.mark.parametrize("settings", [{"max_epochs": 3}, {"max_epochs": 20, "stop_patience": 1}])
def test_killed_after_the_last_epoch(world: World, settings: dict[str, int]) -> None:
    """Whether that was the most there may be, or the one that stopped it early: no more epochs, only the weights."""
    subject = world.new(**settings)
    gap = world.fit(subject)
    before, rows = weights(subject), epochs(subject)
    (subject.folder / "weights.safetensors").unlink()
    assert world.fit(subject) == gap
    assert weights(subject) == before
    assert epochs(subject) == rows


KILL_ITSELF = """
import os, signal, sys
from counterpoint.cli.main import main as cli
from counterpoint.training.learner import Learner

begin = Learner.on_train_batch_start
def killed(self, batch, index):
    if (self.trainer.current_epoch, index) == (2, 1):
        os.kill(os.getpid(), signal.SIGKILL)
    begin(self, batch, index)
Learner.on_train_batch_start = killed
sys.exit(cli(sys.argv[1:]))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_the_same_command_goes_on_after_a_kill(world: World) -> None:
    def command(out: Path) -> list[str]:
        arguments = ["train", "nv-l", "--data", str(world.confused), "--validation", str(world.unsure)]
        arguments += ["--taxonomy", str(world.folder / "taxonomy"), "--out", str(out), "--max_steps", "5"]
        arguments += ["--family.clusters", '{"video": 2, "audio": 2}', "--family.hidden", "8", "--head.hidden", "8"]
        arguments += ["--training.max_epochs", "4", "--training.batch_size", "16", "--training.patience", "0"]
        return [*arguments, "--training.learning_rate", "0.1"]

    def execute(*python: str) -> "subprocess.CompletedProcess[str]":
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        arguments = [sys.executable, *python, *command(world.folder / "cut")]
        return subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=120, check=False)

    assert main(command(world.folder / "whole")) == 0
    assert execute("-c", KILL_ITSELF).returncode == -signal.SIGKILL
    runs = RunFolder.load(world.folder / "whole"), RunFolder.load(world.folder / "cut")
    assert len(epochs(runs[1])) == 2
    again = execute("-m", "counterpoint.cli.main")
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith(f"{world.folder / 'cut'}: validation GAP error ")
    assert "going on from the last checkpoint" in again.stderr
    assert [line.split()[1] for line in again.stderr.splitlines() if line.startswith("epoch ")] == ["3/4", "4/4"]
    assert_equal(*runs)


@pytest.mark.slow
def test_two_devices_train_one_model(world: World) -> None:
    """Each sees half of the clips, and both stop together; the first tells."""
    out = world.folder / "two"
    arguments = ["train", "correlation-nv", "--data", str(world.easy), "--validation", str(world.validation)]
    arguments += ["--taxonomy", str(world.folder / "taxonomy"), "--out", str(out), "--max_steps", "5", "--json"]
    arguments += ["--family.clusters", '{"video": 2, "audio": 2}', "--family.hidden", "8"]
    arguments += ["--training.max_epochs", "2", "--training.batch_size", "16", "--devices", "2"]
    command = [sys.executable, "-m", "counterpoint.cli.main", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run"] == str(out)
    assert newest(RunFolder.load(out))["global_step"] == 8  # 64 clips in batches of 16, 8 each, twice
    assert [row["epoch"] for row in epochs(RunFolder.load(out))] == [1, 2]


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unfinished(world: World) -> Path:
    subject = world.new()
    subject.save()
    return subject.folder


def test_another_recipe_is_refused(world: World, unfinished: Path) -> None:
    with pytest.raises(Error, match="holds an unfinished run with another recipe"):
        world.fit(run(unfinished, learning_rate=1e-3))


def test_other_categories_are_refused(world: World, unfinished: Path) -> None:
    other = Labelling(TAXONOMY, LabelMap.identity(TAXONOMY))  # the same tree, other labels
    with pytest.raises(Error, match="holds an unfinished run with another taxonomy"):
        world.fit(RunFolder(unfinished, recipe(), other, FeatureSet(SIZES)))


def test_other_features_are_refused(world: World, unfinished: Path) -> None:
    with pytest.raises(Error, match="holds an unfinished run with another feature set"):
        world.fit(RunFolder(unfinished, recipe(), LABELLING, FeatureSet(SIZES, "ours")))


def test_another_tower_is_refused(world: World) -> None:
    recipes = [replace(CONSTANT, comparison=ConstantConfig(probability=probability)) for probability in (0.0, 1.0)]
    towers = [
        RunFolder(world.folder / f"tower{i}", made, LABELLING, FeatureSet(SIZES)) for i, made in enumerate(recipes)
    ]
    for tower in towers:
        world.fit(tower)
    subject = RunFolder(world.folder / "gated", recipe("nv-cm-g", max_epochs=1), LABELLING, FeatureSet(SIZES))
    world.fit(subject, tower=towers[0])
    (subject.folder / "weights.safetensors").unlink()
    with pytest.raises(Error, match="holds an unfinished run with another correlation tower"):
        world.fit(subject, tower=towers[1])
    world.fit(subject, tower=towers[0])
    assert subject.trained
    with pytest.raises(Error, match="nv-l takes no correlation tower"):
        world.fit(world.new(), tower=towers[0])


def test_other_clips_are_refused(world: World) -> None:
    """Where they lie does not matter."""
    subject = world.new(max_epochs=1)
    world.fit(subject)
    (subject.folder / "weights.safetensors").unlink()
    more = dataset(write(world.folder / "more" / "easy.tfrecord", *clips(65)))
    fewer = dataset(world.validation, keep=lambda name: name != "val007")
    with pytest.raises(Error, match="holds an unfinished run with another set of training clips; choose"):
        train(subject, more, dataset(world.validation), console=QUIET)
    with pytest.raises(Error, match="holds an unfinished run with another set of validation clips; choose"):
        train(subject, dataset(world.easy), fewer, console=QUIET)
    moved = dataset(write(world.folder / "moved" / "easy.tfrecord", *clips(64)))
    train(subject, moved, dataset(world.validation), console=QUIET)


def test_a_folder_that_is_there_stays(world: World) -> None:
    """It may be a volume, a link, or where the shell is."""
    volume = world.folder / "volume"
    volume.mkdir()
    (link := world.folder / "link").symlink_to(volume)
    before = volume.stat().st_ino
    subject = replace(world.new(max_epochs=1), folder=link)
    world.fit(subject)
    assert RunFolder.load(volume).trained
    assert volume.stat().st_ino == before
    assert not list(volume.glob("..*"))
    with pytest.MonkeyPatch.context() as patch:
        (world.folder / "here").mkdir()
        patch.chdir(world.folder / "here")
        world.fit(replace(subject, folder=Path()))
        assert RunFolder.load(".").trained


FEW = "no two have every modality and no top-level category in common"


@pytest.mark.parametrize(
    ("name", "labels", "sound", "lack"),
    [
        ("nv-l", [], True, "none has a category"),
        ("correlation-nv", [], True, FEW),
        ("correlation-nv", [10, 11], True, FEW),
        ("correlation-nv", None, False, FEW),
    ],
)
def test_clips_that_teach_nothing_are_refused(
    world: World, name: str, labels: list[int] | None, sound: bool, lack: str
) -> None:
    subject = RunFolder(world.folder / "none", (RECIPES | TOWER_RECIPES)[name], LABELLING, FeatureSet(SIZES))
    shown = clips(5, sound=sound)
    if labels is not None:
        shown = [replace(one, labels=np.array(labels, np.int64)) for one in shown]
    poor, rich = write(world.folder / "poor.tfrecord", *shown), world.easy
    for data, validation, fault in ((poor, rich, "5 training clips"), (rich, poor, "5 validation clips")):
        with pytest.raises(Error, match=rf"poor\.tfrecord: {fault}, of which {lack}: nothing to "):
            train(subject, dataset(data), dataset(validation), console=QUIET)
    assert not subject.folder.exists()


def test_a_tower_of_one_modality_is_refused(world: World) -> None:
    subject = RunFolder(world.folder / "one", TOWER_RECIPES["correlation-nv"], LABELLING, FeatureSet({"video": 16}))
    with pytest.raises(Error, match=r"\(video 16\): a correlation tower compares two modalities or more"):
        world.fit(subject)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_before_the_first_epochs_end_leaves_no_folder(world: World, workers: int) -> None:
    """So that the same command does, once the clips are mended. It names the record, whoever came upon it."""
    subject = world.new(max_epochs=1)
    shard = write(world.folder / "strange.tfrecord", *clips(3), clip("odd", [999], video=codes(2, 16)))
    with pytest.raises(Error) as raised:
        train(subject, dataset(shard), dataset(world.validation), workers=workers, console=QUIET)
    assert str(raised.value) == f"{shard}: record 3 (clip odd): the label mapping has no label with the index 999"
    assert not subject.folder.exists()
    world.fit(subject)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"training": Training(batch_size=0)}, "training.batch_size must be at least 1, not 0"),
        ({"training": Training(learning_rate=math.nan)}, "training.learning_rate must be at least 0, not nan"),
        ({"training": Training(modality_dropout=1.5)}, "training.modality_dropout must be from 0 to 1, not 1.5"),
        ({"training": Training(seed=-1)}, "training.seed must be at least 0, not -1"),
        ({"family": NetVLADFamily(clusters={"video": 0})}, "family.clusters of video must be at least 1, not 0"),
        ({"fusion": CrossModal(hidden=(4, 0))}, "fusion.hidden must be at least 1, not 0"),
    ],
)
def test_numbers_that_make_no_training_are_refused(world: World, change: dict[str, Any], expected: str) -> None:
    subject = replace(world.new(), recipe=replace(recipe("nv-l"), **change))
    with pytest.raises(Error, match=f"nv-l: {expected}"):
        world.fit(subject)


@pytest.mark.parametrize("name", ["nv-l", "correlation-nv"])
def test_a_training_that_diverges_is_an_error(world: World, name: str) -> None:
    settings = replace((RECIPES | TOWER_RECIPES)[name].training, batch_size=16, max_epochs=2, learning_rate=1e30)
    wild = replace((RECIPES | TOWER_RECIPES)[name], family=recipe().family, training=settings)
    with pytest.raises(Error, match="the training has diverged"):
        world.fit(RunFolder(world.folder / f"wild-{name}", wild, LABELLING, FeatureSet(SIZES)))


def test_a_finished_run_is_refused(world: World) -> None:
    subject = world.new(max_epochs=1)
    world.fit(subject)
    before = weights(subject)
    with pytest.raises(Error, match="holds a finished run"):
        world.fit(subject)
    assert weights(subject) == before


def test_a_folder_with_other_things_is_refused(world: World, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("irreplaceable")
    with pytest.raises(Error, match="holds something else; choose another --out"):
        world.fit(run(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_empty_folder_is_fine(world: World, tmp_path: Path) -> None:
    world.fit(run(tmp_path, max_epochs=1))
    assert run(tmp_path).trained


# --- interrupts -------------------------------------------------------------------------------------------------------


@pytest.fixture
def restored_signals() -> Iterator[None]:
    """Lightning lets no second Ctrl+C through."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("restored_signals")
def test_interrupted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = world.new(max_epochs=2)

    def interrupted(self: Learner, batch: Any, index: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "training_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            world.fit(subject)
    assert not subject.trained
    world.fit(subject)
    whole = world.new(max_epochs=2)
    world.fit(whole)
    assert_equal(whole, subject)
