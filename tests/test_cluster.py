"""Ray itself, on this machine (make test-ray): the same shards and tables as without it, though workers are killed."""

import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training.world import clips, trained_run, write

from counterpoint import batch, cluster
from counterpoint.cli.main import main
from counterpoint.data.records import clip_of
from counterpoint.data.tfrecord import Shard
from counterpoint.errors import Error
from counterpoint.media import encoders, extract
from counterpoint.media import films as render
from counterpoint.media.extract import find

pytestmark = pytest.mark.ray
os.environ.setdefault("RAY_worker_niceness", "0")  # workers that give way to all others starve on a busy machine


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven films and one that is broken."""
    folder = tmp_path_factory.mktemp("videos")
    random = np.random.default_rng(0)
    frames = [random.integers(0, 255, (48, 64, 3), dtype=np.uint8) for _ in range(50)]
    for number in range(11):
        render.write(folder / f"{number}.mp4", np.roll(frames, number, 0), random.normal(0, 0.1, 2 * render.RATE))
    (folder / "broken.mp4").write_bytes((folder / "0.mp4").read_bytes()[:2000])
    return folder


def content(folder: Path, pattern: str = "*.tfrecord") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob(pattern)}


def is_descendant(pid: int) -> bool:
    """Whether this process began it."""
    while pid > 1:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
        if pid == os.getpid():
            return True
    return False


def actors() -> list[int]:
    """The processes in which Ray's actors work."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if (
            command.startswith(b"ray::")
            and b"IDLE" not in command
            and b"Map" in command
            and is_descendant(int(process.name))
        ):
            found.append(int(process.name))
    return found


def test_killed_workers_leave_the_same_shards(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Byte for byte those of this machine's own processes, and no clip twice."""
    monkeypatch.setattr(extract, "CLIPS_PER_SHARD", 4)
    lite = encoders.build("lite")
    local = extract.extract_sources(find([videos]), tmp_path / "local", lite, workers=2)
    killed: list[int] = []

    def kill_after_the_third(done: int, total: int) -> None:
        if done == 3 and not killed:
            killed.extend(actors()[:1])
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    report = extract.extract_sources(
        find([videos]),
        tmp_path / "ray",
        lite,
        workers=2,
        progress=kill_after_the_third,
        engine=cluster.extraction(None),
    )
    assert len(killed) == 1
    assert (report.new, report.shards) == (local.new, local.shards) == (11, 3)
    assert report.failures == local.failures
    assert content(tmp_path / "ray") == content(tmp_path / "local")
    shards = [Shard(path) for path in (tmp_path / "ray").glob("*.tfrecord")]
    ids = Counter(clip_of(shard, i).id for shard in shards for i in range(len(shard)))
    assert ids == Counter(f"{number}.mp4" for number in range(11))


def test_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained_run(tmp_path / "run")
    for number in range(3):
        write(tmp_path / "data" / f"{number}.tfrecord", *clips(20, number, prefix=f"{number}-"))
    command = ["categorize", str(run.folder), str(tmp_path / "data"), "--top", "3", "--workers", "2"]
    assert main([*command, "--out", str(tmp_path / "near.jsonl")]) == 0
    assert main([*command, "--out", str(tmp_path / "far.jsonl"), "--engine", "ray"]) == 0
    assert "far.jsonl: 60 clips of 3 shards" in capsys.readouterr().out
    assert (tmp_path / "far.jsonl").read_text() == (tmp_path / "near.jsonl").read_text()


def test_a_fault_is_one_line(tmp_path: Path) -> None:
    run = trained_run(tmp_path / "run")
    write(tmp_path / "a.tfrecord", *clips(3))
    shard = Shard(tmp_path / "a.tfrecord")
    (tmp_path / "a.tfrecord").write_bytes(bytes(shard.size))
    options: dict[str, Any] = {"top": 3, "codes": False, "skip_bad": False}
    with pytest.raises(Error, match=r"a.tfrecord: record 0 at byte 0: not a TFRecord file$"):
        batch.categorize(
            run, [tmp_path / "a.tfrecord"], tmp_path / "out.csv", engine=cluster.categorization(None, 1), **options
        )


def test_no_cluster_there() -> None:
    with pytest.raises(Error, match=r"127.0.0.1:1: cannot be reached or started"):
        list(cluster.distribute(dict, [1], {}, address="127.0.0.1:1", workers=1))
