"""The cache of blocks: its limit, what goes first, several processes, and processes that are killed."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from filelock import FileLock

from counterpoint.data.cache import BlockCache, block_cache
from counterpoint.errors import Error


def key(number: int) -> str:
    return f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}"


def kept(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("??/[0-9a-f]*"))


def test_parts_of_blocks(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, 1000)
    assert cache.get(key(0), 10, 0, 10) is None
    cache.put(key(0), b"0123456789")
    assert cache.get(key(0), 10, 2, 5) == b"234"
    assert cache.get(key(0), 11, 2, 5) is None  # not whole
    cache.drop(key(0))
    assert cache.get(key(0), 10, 2, 5) is None


def test_what_was_used_longest_ago_goes(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, 1000)
    for number in range(10):
        cache.put(key(number), bytes(100))
        time.sleep(0.002)
    assert kept(tmp_path) == 1000
    assert cache.get(key(0), 100, 0, 100) is not None  # used again
    cache.put(key(10), bytes(100))  # and room is made, down to nine tenths
    there = [number for number in range(11) if cache.get(key(number), 100, 0, 100) is not None]
    assert there == [0, *range(2, 11)][-10:]
    assert kept(tmp_path) <= 1000


def test_larger_than_the_limit(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, 50)
    cache.put(key(0), bytes(51))
    assert kept(tmp_path) == 0
    cache.put(key(1), bytes(50))
    cache.put(key(2), bytes(50))
    assert kept(tmp_path) == 50


def test_the_count_is_made_anew(tmp_path: Path) -> None:
    """Where a process was killed as it wrote it, or never wrote what it had reserved."""
    cache = BlockCache(tmp_path, 1000)
    for number in range(5):
        cache.put(key(number), bytes(100))
    for text in ("", "x", "990"):
        (tmp_path / "size").write_text(text)
        cache.put(key(9), bytes(100))
        assert kept(tmp_path) == 600
        cache.drop(key(9))


def _fill(folder: Path, first: int) -> None:
    cache = BlockCache(folder, 50_000)
    for number in range(first, first + 150):
        cache.put(key(number), bytes([number % 256]) * 1000)
        for older in range(max(first, number - 5), number):
            block = cache.get(key(older), 1000, 0, 1000)
            assert block is None or block == bytes([older % 256]) * 1000


def test_several_processes_keep_the_limit(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_fill, args=(tmp_path, first)) for first in (0, 75, 1000)]
    for process in processes:
        process.start()
    most = 0
    while any(process.is_alive() for process in processes):
        with FileLock(tmp_path / "lock"):  # or what goes and what comes meanwhile would both be counted
            most = max(most, kept(tmp_path))
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert 40_000 <= most <= 50_000
    assert 40_000 <= kept(tmp_path) <= 50_000


def test_killed_processes_leave_nothing_that_breaks(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for round_ in range(5):
        process = context.Process(target=_fill, args=(tmp_path, 100 * round_))
        process.start()
        time.sleep(0.02 + 0.01 * round_)
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
    for path in tmp_path.rglob(".*"):
        os.utime(path, (0, 0))  # as if it had been left long ago
    _fill(tmp_path, 0)
    assert kept(tmp_path) <= 50_000


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Error, match=r"the cache cannot be written .*COUNTERPOINT_CACHE"):
        BlockCache(tmp_path / "file", 100).put(key(0), b"x")


@pytest.mark.parametrize("text", ["many", "-1", "nan"])
def test_a_limit_that_is_no_number(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("COUNTERPOINT_CACHE_GB", text)
    with pytest.raises(Error, match=f"COUNTERPOINT_CACHE_GB={text}: give the limit"):
        block_cache()
