import contextlib
import errno
import fcntl
import io
import os
import resource
import signal
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from counterpoint.errors import Error
from counterpoint.run import RunFolder
from counterpoint.training.checkpoints import whole
from counterpoint.training.folder import claimed_run
from counterpoint.training.learner import Learner
from counterpoint.training.train import train

from .test_train import KilledError, World, assert_equal, newest, world  # noqa: F401
from .world import dataset, recipe, run


@contextlib.contextmanager
def stopped_before(epoch: int, index: int, how: Any = None) -> Iterator[list[tuple[int, int]]]:
    """The steps that were begun, until that one."""
    begin, begun = Learner.on_train_batch_start, []

    def watched(self: Learner, batch: Any, i: int) -> None:
        if (self.trainer.current_epoch, i) == (epoch, index):
            if how is None:
                raise KilledError
            how()
        begun.append((self.trainer.current_epoch, i))
        begin(self, batch, i)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "on_train_batch_start", watched)
        yield begun


@pytest.mark.parametrize(("epoch", "index", "accumulate"), [(0, 2, 1), (2, 3, 1), (1, 3, 2)])
def test_goes_on_within_an_epoch_bit_for_bit(world: World, epoch: int, index: int, accumulate: int) -> None:  # noqa: F811
    """Losses of the epoch's first part count too, and a step of several batches is not taken apart."""
    settings = {"max_epochs": 3, "modality_dropout": 0.3, "learning_rate": 0.05, "accumulate": accumulate}
    uncut, cut = world.new(**settings), world.new(**settings)
    world.fit(uncut, easy=False)
    with stopped_before(epoch, index) as first, pytest.raises(KilledError):
        world.fit(cut, easy=False, minutes=0.0)
    with stopped_before(-1, -1) as then:
        world.fit(cut, easy=False, minutes=0.0)
    assert first + then == [(e, i) for e in range(3) for i in range(4)] if accumulate == 1 else then[0] == (1, 2)
    assert_equal(uncut, cut)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(world: World) -> None:  # noqa: F811
    uncut, cut = world.new(max_epochs=4), world.new(max_epochs=4)
    world.fit(uncut)
    with stopped_before(3, 0), pytest.raises(KilledError):
        world.fit(cut)
    last = cut.folder / "checkpoints" / "last.ckpt"
    content = bytearray(last.read_bytes())
    content[content.index(b"data/1") + 200] ^= 4
    last.write_bytes(content)
    console = Console(file=io.StringIO(), width=40)
    train(cut, dataset(world.easy), dataset(world.validation), console=console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"{last}: damaged, and put aside as last.damaged\n" in printed
    assert "epoch 3/4" in "".join(printed).replace("  ", " ")
    assert_equal(uncut, cut)


def test_an_error_after_damage_keeps_the_checkpoint_before(world: World) -> None:  # noqa: F811
    """The damaged one is aside then, so that there is no last one to tell that the run has something to go on from."""

    def fails() -> None:
        raise OSError("no space left")

    uncut, cut = world.new(max_epochs=4), world.new(max_epochs=4)
    world.fit(uncut)
    with stopped_before(3, 0), pytest.raises(KilledError):
        world.fit(cut)
    last = cut.folder / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-1000])
    with stopped_before(2, 0, fails), pytest.raises(OSError, match="no space left"):
        world.fit(cut)
    world.fit(cut)
    assert_equal(uncut, cut)


def test_with_no_whole_checkpoint_it_stops(world: World) -> None:  # noqa: F811
    subject = world.new(max_epochs=4)
    with stopped_before(3, 0), pytest.raises(KilledError):
        world.fit(subject)
    for name in ("last", "before"):
        path = subject.folder / "checkpoints" / f"{name}.ckpt"
        path.write_bytes(path.read_bytes()[:-1000])
    for _ in range(2):  # not anew the second time
        with pytest.raises(Error, match=f"no checkpoint is whole; remove {subject.folder} to train anew"):
            world.fit(subject)


def test_what_cannot_be_read_now_is_not_damaged(world: World, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    subject = world.new(max_epochs=4)
    with stopped_before(3, 0), pytest.raises(KilledError):
        world.fit(subject)
    last = subject.folder / "checkpoints" / "last.ckpt"

    def away(*arguments: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    with monkeypatch.context() as patch:
        patch.setattr(zipfile, "ZipFile", away)
        with pytest.raises(Error, match=f"{last}: cannot be read \\(Stale file handle\\); nothing was"):
            world.fit(subject)
    assert last.exists()
    world.fit(subject)


def test_a_log_that_a_spreadsheet_saved_stops_nothing(world: World) -> None:  # noqa: F811
    subject = world.new(max_epochs=3)
    with stopped_before(2, 0), pytest.raises(KilledError):
        world.fit(subject)
    log = subject.folder / "epochs.csv"
    log.write_text(log.read_text().replace(",", ";"))
    world.fit(subject)
    assert log.with_suffix(".damaged").exists()
    assert len(log.read_text().splitlines()) == 2


def test_every_flipped_bit_is_noticed_or_changes_nothing(world: World, tmp_path: Path) -> None:  # noqa: F811
    subject = world.new(max_epochs=1)
    world.fit(subject)
    content = (subject.folder / "checkpoints" / "last.ckpt").read_bytes()
    expected = newest(subject)["state_dict"]
    random, path, unnoticed = np.random.default_rng(0), tmp_path / "flipped.ckpt", 0
    for position in random.choice(len(content), 300, replace=False).tolist():
        flipped = bytearray(content)
        flipped[position] ^= 1 << int(random.integers(8))
        path.write_bytes(flipped)
        if whole(path):
            unnoticed += 1
            state = torch.load(path, weights_only=True)["state_dict"]
            assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert unnoticed < 150  # the padding between parts


def test_what_a_killed_process_was_writing_is_cleared_away(world: World) -> None:  # noqa: F811
    subject = world.new(max_epochs=2)
    with stopped_before(1, 1), pytest.raises(KilledError):
        world.fit(subject)
    left = subject.folder / "checkpoints" / ".last.ckpt.0123abcd"
    left.write_bytes(b"half")
    world.fit(subject)
    assert sorted(path.name for path in left.parent.iterdir()) == ["before.ckpt", "last.ckpt"]


def test_a_checkpoint_of_version_0_1_goes_on(tmp_path: Path, world: World) -> None:  # noqa: F811
    """Its weights have other names."""
    settings = {"max_epochs": 3}
    uncut, cut = (replace(world.new(**settings), recipe=recipe("nv-cm", **settings)) for _ in range(2))
    world.fit(uncut)
    with stopped_before(2, 0), pytest.raises(KilledError):
        world.fit(cut)
    for path in (cut.folder / "checkpoints").glob("*.ckpt"):
        content = torch.load(path, weights_only=True)
        best = content["callbacks"]["Checkpoints"]
        content["state_dict"], best["weights"] = (as_of_0_1(each) for each in (content["state_dict"], best["weights"]))
        torch.save(content, path)
    world.fit(cut)
    assert_equal(uncut, cut)


def as_of_0_1(weights: dict[str, Any]) -> dict[str, Any]:
    old = {name.replace(".attention_modules.", ".weighers."): tensor for name, tensor in weights.items()}
    assert old.keys() != weights.keys()
    return old


# --- the folder -------------------------------------------------------------------------------------------------------


def test_a_folder_that_another_process_trains_in_is_refused(world: World) -> None:  # noqa: F811
    subject = world.new(max_epochs=2)
    with stopped_before(1, 1), pytest.raises(KilledError):
        world.fit(subject)
    with (subject.folder / ".lock").open("w") as file:  # as the other process holds it
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(Error, match="another process trains there; wait until it has ended, or choose"):
            world.fit(subject)
    world.fit(subject)
    assert not (subject.folder / ".lock").exists()


def test_of_two_that_begin_at_once_one_is_refused(world: World) -> None:  # noqa: F811
    """One looks, and finds no folder; before it has made one the other has."""
    subject = world.new()
    rename, quicker = Path.rename, []

    def late(path: Path, target: Path) -> Path:
        reader, writer = os.pipe()
        if (child := os.fork()) == 0:
            Path.rename = rename  # type: ignore[method-assign]
            with claimed_run(subject, None, {}):
                os.write(writer, b"!")
                signal.pause()
        quicker.append(child)
        assert os.read(reader, 1)
        return rename(path, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "rename", late)
        with pytest.raises(Error, match="another process trains there"), claimed_run(subject, None, {}):
            pass
    os.kill(quicker[0], signal.SIGKILL)
    os.waitpid(quicker[0], 0)
    with claimed_run(subject, None, {}):  # what a process held it lets go of as it dies
        pass
    assert [path.name for path in subject.folder.parent.iterdir() if path.suffix == ".tmp"] == []


def test_a_full_disk_costs_what_was_not_saved_yet(world: World) -> None:  # noqa: F811
    """A limit on the size of files does to a write what a full disk does."""
    uncut, cut = world.new(max_epochs=3), world.new(max_epochs=3)
    world.fit(uncut)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with (
            stopped_before(1, 0, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))),
            pytest.raises(Error) as raised,
        ):
            world.fit(cut)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    last = cut.folder / "checkpoints" / "last.ckpt"
    assert str(raised.value) == (
        f"{last}: cannot be written (File too large); the training stops, and the same command goes on from the last "
        "checkpoint"
    )
    assert whole(last)
    assert newest(cut)["epoch"] == 0
    assert [path.name for path in last.parent.iterdir()] == ["last.ckpt"]
    world.fit(cut)
    assert_equal(uncut, cut)


def test_a_folder_that_cannot_be_written_says_so() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(stat.S_IREAD | stat.S_IEXEC | stat.S_IROTH | stat.S_IXOTH)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)  # permissions mean nothing to root
        try:
            subject: RunFolder = run(Path(folder) / "run")
            with (
                pytest.raises(Error, match=r"/run: cannot be written \(Permission denied\)$"),
                claimed_run(subject, None, {}),
            ):
                pass
        finally:
            os.seteuid(user)
            Path(folder).chmod(stat.S_IRWXU)
