"""Video files -> clips, by child processes of one thread each: a decoder that hangs or crashes costs its file alone."""

import contextlib
import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import NamedTuple

import torch
from pebble import ProcessExpired, ProcessPool

from counterpoint.errors import Error
from counterpoint.media import encoders
from counterpoint.media.decode import DEFAULT, Limits
from counterpoint.media.encoders import Encoded, Encoders

TIME_LIMIT = 600.0  # seconds
_encoders: Encoders | None = None


class Source(NamedTuple):
    """A video file and its clip's id."""

    id: str
    path: Path


class Failure(NamedTuple):
    """A file that gave no clip."""

    path: Path
    cause: str


Engine = Callable[[Sequence[Source], str, int, Limits, float], Iterator[tuple[Source, Encoded | Failure]]]
"""Who encodes files; takes what `encode_all` takes."""


def encode_all(
    sources: Sequence[Source], name: str, workers: int, limits: Limits = DEFAULT, time_limit: float = TIME_LIMIT
) -> Iterator[tuple[Source, Encoded | Failure]]:
    """The clip of each file by the encoders of this name, or why there is none, in the order in which they are done."""
    if not sources:
        return
    waiting = deque(sources)
    pool = child_processes(min(workers, len(sources)), name)
    going: dict[Future[Encoded | str], Source] = {}
    try:
        while waiting or going:
            while waiting and len(going) < 2 * workers:  # the next ones lie ready
                source = waiting.popleft()
                going[begin(pool, source, limits, time_limit)] = source
            for future in wait(going, return_when=FIRST_COMPLETED).done:
                source = going.pop(future)
                yield source, result_of(future, source, time_limit)
    finally:
        pool.stop()  # type: ignore[no-untyped-call]
        pool.join()


def child_processes(count: int, name: str) -> ProcessPool:
    """So many, each with the encoders of this name."""
    return ProcessPool(count, context=multiprocessing.get_context("spawn"), initializer=_begin, initargs=(name,))


def begin(pool: ProcessPool, source: Source, limits: Limits, time_limit: float) -> "Future[Encoded | str]":
    """Have a file encoded by one of the processes."""
    with uninterrupted():
        future: Future[Encoded | str] = pool.schedule(_encode, (source, limits), timeout=time_limit)
    return future


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Child processes that are begun in the block, or by threads that are, never hear an interrupt.

    It is their parent's to answer, and would end those that still import with a traceback.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def result_of(future: "Future[Encoded | str]", source: Source, time_limit: float) -> Encoded | Failure:
    """What became of it."""
    try:
        result = future.result()
    except TimeoutError:
        return Failure(source.path, f"took more than {time_limit:g} s")
    except ProcessExpired as error:
        return Failure(source.path, f"the decoder crashed (exit code {error.exitcode})")
    return Failure(source.path, result.removeprefix(f"{source.path}: ")) if isinstance(result, str) else result


def _begin(name: str) -> None:
    global _encoders
    torch.set_num_threads(1)
    _encoders = encoders.build(name)


def _encode(source: Source, limits: Limits) -> Encoded | str:
    """In a child: the clip, or in one line why there is none."""
    assert _encoders is not None
    try:
        return _encoders.encode(source.path, source.id, limits)
    except Error as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
