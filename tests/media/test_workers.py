"""Child processes that hang, crash and are cancelled: each costs its own call only."""

import os
import time
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest

from counterpoint.data.clip import Clip
from counterpoint.errors import Error
from counterpoint.media import workers
from counterpoint.media.decode import Limits
from counterpoint.media.encoders import Encoded
from counterpoint.media.workers import Failure, Source, StartError, WorkerError, WorkerPool, cause_of, encode_all


def _misbehaves(source: Source, limits: Limits) -> Encoded | str:
    """Takes the place of encoding, in the child process."""
    if source.id == "hangs":
        time.sleep(60)
    if source.id == "crashes":
        os._exit(11)
    if source.id == "fails":
        return cause_of(Error(f"{source.path}: no good"), source.path)
    return Encoded(Clip(source.id, np.zeros(0, np.int64), {}), [])


def test_a_file_that_hangs_or_crashes_costs_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_encode", _misbehaves)
    names = ["fine", "hangs", "crashes", "fails", "fine too"]
    begun = time.monotonic()
    results = dict(encode_all([Source(name, Path(name)) for name in names], "lite", 2, time_limit=1.5))
    assert time.monotonic() - begun < 50
    causes = {source.id: result.cause for source, result in results.items() if isinstance(result, Failure)}
    assert causes == {
        "hangs": "took more than 1.5 s",
        "crashes": "the decoder crashed (exit code 11)",
        "fails": "no good",
    }
    assert {source.id for source, result in results.items() if isinstance(result, Encoded)} == {"fine", "fine too"}


def test_a_call_that_is_cancelled_ends_its_process() -> None:
    begun: Future[None] = Future()
    with WorkerPool("lite", 1) as pool:
        pool.preload()
        first = pool.submit(os.getpid).result()
        sleeping = pool.submit(time.sleep, 600, begun=lambda: begun.set_result(None))
        begun.result(60)
        assert sleeping.cancel()
        assert pool.submit(os.getpid, time_limit=60).result() != first
        with pytest.raises(WorkerError, match="crashed"):
            pool.submit(os._exit, 3).result()
        with pytest.raises(ValueError, match="must be non-negative"):
            pool.submit(time.sleep, -1).result()
        stopped = pool.submit(time.sleep, 600)
        time.sleep(0.2)
    assert stopped.done()


def test_processes_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for them."""
    monkeypatch.setattr("multiprocessing.spawn.get_executable", lambda: b"/nonexistent/python")
    with pytest.raises(StartError, match=r"/nonexistent/python: cannot be started"):
        next(encode_all([Source("a", Path("a.mp4"))], "lite", 1))
