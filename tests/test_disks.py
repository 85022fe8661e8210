"""Full disks and folders that cannot be written to: one clear line, an exit code other than 0, and nothing lost.

Disks are small file systems in memory, which only root can mount; without, these tests are skipped.
"""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from test_kill import SUITE, extracted, quickly, reported, trained
from test_kill import extraction as extraction
from test_kill import training as training
from training import world

from counterpoint.cli.main import main
from counterpoint.data import synthetic
from counterpoint.data.tfrecord import INDEX_SUFFIX, Shard
from counterpoint.media import extract


class Disk:
    """A file system of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self._mount("-t", "tmpfs", "-o", "size=64m", "tmpfs")

    def _mount(self, *options: str) -> None:
        subprocess.run(["mount", *options, str(self.path)], check=True, capture_output=True)

    def resize(self, kilobytes: int) -> None:
        self._mount("-o", f"remount,size={kilobytes}k")

    def read_only(self) -> None:
        self._mount("-o", "remount,bind,ro")

    def unmount(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.path)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    if not sys.platform.startswith("linux"):
        pytest.skip("small disks are mounted on Linux")
    try:
        disk = Disk(tmp_path / "disk")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"mounting a small disk takes root: {error}")
    yield disk
    disk.unmount()


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str], *causes: str) -> None:
    """The command says in its last line what is wrong with which file."""
    capsys.readouterr()
    assert main(arguments) == 1
    lines = capsys.readouterr().err.splitlines()
    assert "Traceback" not in "\n".join(lines)
    assert lines[-1].startswith("counterpoint: ")
    assert any(cause in lines[-1] for cause in causes), lines[-1]


def on_a_growing_disk(
    capsys: pytest.CaptureFixture[str], disk: Disk, arguments: list[str], sizes: tuple[int, ...]
) -> int:
    """The same command again and again, each time with a little more room; how often there was too little."""
    for failures, kilobytes in enumerate(sizes):
        disk.resize(kilobytes)
        capsys.readouterr()
        if (code := main(arguments)) == 0:
            return failures
        lines = capsys.readouterr().err.strip().splitlines()
        assert code == 1
        assert "No space left on device" in lines[-1] or "disk is full" in lines[-1], lines
        assert lines[-1].startswith("counterpoint: "), lines
        assert "Traceback" not in "\n".join(lines), lines
    disk.resize(512 << 10)
    assert main(arguments) == 0, capsys.readouterr().err
    return len(sizes)


def test_training(training: list[str], disk: Disk, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = disk.path / "run"
    assert main([*training, str(tmp_path / "whole")]) == 0
    assert on_a_growing_disk(capsys, disk, [*training, str(out)], (8, 20, 40, 64, 96)) >= 3
    assert trained(out) == trained(tmp_path / "whole")
    disk.read_only()
    refused(capsys, [*training, str(disk.path / "another")], "Read-only file system")
    assert trained(out) == trained(tmp_path / "whole")


def test_extraction(
    extraction: list[str],
    disk: Disk,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(extract, "CLIPS_PER_SHARD", 2)
    monkeypatch.setattr(extract, "encode_all", None)
    quickly()
    out = disk.path / "out"
    assert main([*extraction, str(tmp_path / "whole")]) == 0
    assert on_a_growing_disk(capsys, disk, [*extraction, str(out)], (4, 8, 16, 24, 32, 40)) >= 3
    assert extracted(out) == extracted(tmp_path / "whole")
    disk.read_only()
    refused(capsys, [*extraction, str(out)], "Read-only file system")
    assert extracted(out) == extracted(tmp_path / "whole")


def test_an_index_that_cannot_be_kept(
    disk: Disk, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Costs time, and nothing else."""
    monkeypatch.setenv("COUNTERPOINT_CACHE", str(disk.path / "cache"))
    shard = world.write(disk.path / "a.tfrecord", *world.clips(300))
    room = -(-shard.stat().st_size // 4096) * 4
    disk.resize(room + 4)
    assert len(Shard(shard)) == 300
    disk.read_only()
    assert len(Shard(shard)) == 300
    assert main(["inspect", str(shard)]) == 0
    assert not list(disk.path.rglob(f"*{INDEX_SUFFIX}*"))
    assert not (disk.path / "cache").exists() or not list((disk.path / "cache").iterdir())


def test_mosaics(disk: Disk, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = synthetic.SyntheticData(min_steps=30, max_steps=30)
    clips = [made.clip(i)[0] for i in range(200)]
    means = [{name: track[:1].astype("f4") / 64 - 2 for name, track in clip.tracks.items()} for clip in clips]
    records = world.write(
        tmp_path / "records.tfrecord", *(replace(clip, tracks=mean) for clip, mean in zip(clips, means, strict=True))
    )
    made.labelling.save(tmp_path / "taxonomy")
    command = ["data", "mosaic", "--data", str(records), "--taxonomy", str(tmp_path / "taxonomy")]
    command += ["--clips", '{"train": 60, "validation": 9}', "--distractors", "1", "--out"]
    assert main([*command, str(tmp_path / "whole")]) == 0
    out = disk.path / "out"
    assert on_a_growing_disk(capsys, disk, [*command, str(out)], (40, 100, 180, 260)) >= 2
    whole = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir() if INDEX_SUFFIX not in path.name}
    assert {path.name: path.read_bytes() for path in out.iterdir() if INDEX_SUFFIX not in path.name} == whole
    disk.read_only()
    refused(capsys, [*command, str(out)], "Read-only file system")
    assert all((out / name).read_bytes() == content for name, content in whole.items())


@pytest.mark.slow
def test_experiments(disk: Disk, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SUITE, "--out", str(tmp_path / "whole")]) == 0
    sizes = (8, 300, 8_000, 30_000, 60_000)
    assert on_a_growing_disk(capsys, disk, [*SUITE, "--out", str(disk.path / "out")], sizes) >= 3
    assert reported(disk.path / "out") == reported(tmp_path / "whole")
    disk.read_only()
    refused(capsys, [*SUITE, "--out", str(disk.path / "out"), "--report"], "Read-only file system")
    assert reported(disk.path / "out") == reported(tmp_path / "whole")
