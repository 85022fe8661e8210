"""Video files -> clips, by child processes of one thread each that keep their encoders loaded."""

import contextlib
import itertools
import os
import resource
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, InvalidStateError, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import spawn
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from queue import SimpleQueue
from types import ModuleType
from typing import Any, NamedTuple, Self, TypeVar

import torch
from pebble import ProcessExpired, ProcessPool

from counterpoint.errors import Error
from counterpoint.media import encoders
from counterpoint.media.decode import DEFAULT, Limits, OutOfMemoryError
from counterpoint.media.encoders import Encoded, Encoders

TIME_LIMIT = 600.0  # seconds
START_LIMIT = 60.0  # seconds that a new process may take before it begins with a file
NO_MEMORY = ("allocate memory", "could not create a primitive")  # parts of PyTorch's and oneDNN's messages

T = TypeVar("T")


class Source(NamedTuple):
    """A video file and its clip's id."""

    id: str
    path: Path


class Failure(NamedTuple):
    """A file that gave no clip."""

    path: Path
    cause: str


Engine = Callable[[Sequence[Source], str, int, Limits, float], Iterator[tuple[Source, Encoded | Failure]]]
"""What encodes files: a function with the parameters of `encode_all`."""


class WorkerError(Error):
    """A child process crashed, or took longer than it may."""


class StartError(WorkerError):
    """A child process could not be started."""


class WorkerPool:
    """Child processes with the encoders of one name loaded; a file that hangs or crashes a process costs itself only.

    A process that crashed, took too long, ran out of memory or was cancelled is restarted, and loads its encoders
    before it takes another file. Used as a context.

    Args:
        name: of the encoders, for `counterpoint.media.encoders.build`.
        count: number of processes.
        memory: bytes that a process may take beyond what its encoders take (Linux only); no limit without.

    Raises:
        StartError: processes cannot be started here.
    """

    def __init__(self, name: str, count: int, memory: int | None = None) -> None:
        executable = os.fsdecode(spawn.get_executable() or "")
        if not shutil.which(executable):  # the pool would try for ever
            raise StartError(
                f"{executable or 'Python'}: cannot be started, and films are decoded in processes of their own; mend "
                "sys.executable, or what multiprocessing.set_executable was given"
            )
        start = (name, encoders.factory_of(name), memory)
        self._workers = [_Worker(start) for _ in range(count)]
        self._free: SimpleQueue[_Worker] = SimpleQueue()
        for worker in self._workers:
            self._free.put(worker)
        self._threads = ThreadPoolExecutor(count, "worker")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def preload(self) -> None:
        """Start all processes and wait until their encoders are loaded.

        Raises:
            WorkerError: one cannot be started.
        """
        for future in [self._threads.submit(worker.call, ready) for worker in self._workers]:
            future.result()

    def submit(
        self,
        function: Callable[..., T],
        *args: Any,
        time_limit: float | None = None,
        begun: Callable[[], None] = lambda: None,
    ) -> "Future[T]":
        """Have the first free process call a function of a module.

        Args:
            time_limit: seconds that the call may take.
            begun: called, by another thread, when a process is free for the call.

        Returns:
            The function's result to come, or its error, or a WorkerError. Cancelling it ends the call at any time.
        """
        future: Future[T] = Future()
        self._threads.submit(self._work, future, function, args, time_limit, begun)
        return future

    def stop(self) -> None:
        """End all processes, whatever they do."""
        for worker in self._workers:
            worker.stop()
        for worker in self._workers:
            worker.join()
        self._threads.shutdown(cancel_futures=True)

    def _work(
        self,
        future: "Future[T]",
        function: Callable[..., T],
        args: Sequence[Any],
        time_limit: float | None,
        begun: Callable[[], None],
    ) -> None:
        worker = self._free.get()
        try:
            if future.cancelled():
                return
            begun()
            result = worker.call(function, *args, time_limit=time_limit, caller=future)
            with contextlib.suppress(InvalidStateError):  # it was cancelled
                future.set_result(result)
        except Exception as error:
            with contextlib.suppress(InvalidStateError):
                future.set_exception(error)
            if isinstance(error, WorkerError | CancelledError | OutOfMemoryError):
                with contextlib.suppress(WorkerError, CancelledError):  # the next call will raise it
                    worker.restart()
                    worker.call(ready)
        finally:
            self._free.put(worker)


class _Process(SpawnProcess):
    """A spawned process that does not import the program's main module.

    A script or notebook that calls this package needs no ``if __name__ == "__main__"`` then: imported once more, it
    would call it once more.
    """

    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802 - multiprocessing's name
        with _main_module:
            main = sys.modules["__main__"]
            sys.modules["__main__"] = ModuleType("__main__")
            try:
                return SpawnProcess._Popen(process_obj)
            finally:
                sys.modules["__main__"] = main


_main_module = threading.Lock()


class _Spawn(SpawnContext):
    Process = _Process


class _Worker:
    """One child process: a pool of its own, as a process that is killed can leave the pool it is in unusable."""

    def __init__(self, start: tuple[Any, ...]) -> None:
        self._start = start
        self._stopped = False
        self._lock = threading.Lock()
        self._pool = self._new()
        self._running: Future[Any] | None = None

    def _new(self) -> ProcessPool:
        return ProcessPool(1, context=_Spawn(), initializer=_begin, initargs=self._start)

    def call(
        self,
        function: Callable[..., T],
        *args: Any,
        time_limit: float | None = None,
        caller: "Future[T] | None" = None,
    ) -> T:
        longest = None if time_limit is None else time_limit + START_LIMIT
        for first in (True, False):
            try:
                running: Future[T] = self._schedule(function, args, time_limit)
                if caller is not None:
                    caller.add_done_callback(partial(_cancel, running))
                return running.result(longest)
            except TimeoutError:
                raise WorkerError(f"took more than {time_limit:g} s") from None
            except ProcessExpired as error:
                raise WorkerError(f"the decoder crashed (exit code {error.exitcode})") from None
            except (BrokenProcessPool, RuntimeError) as error:  # the process was killed while it had nothing to do
                if not first or self._stopped:
                    raise StartError(f"the decoder could not be started ({error})") from error
                self.restart()
        raise AssertionError

    def _schedule(self, function: Callable[..., T], args: Sequence[Any], time_limit: float | None) -> "Future[T]":
        with self._lock, _uninterrupted():
            running: Future[T] = self._pool.schedule(function, args, timeout=time_limit)
            self._running = running
        return running

    def restart(self) -> None:
        """End the process; another starts with the next call."""
        with self._lock:
            self._pool.stop()  # type: ignore[no-untyped-call]
            self._pool.join()
            if not self._stopped:
                self._pool = self._new()

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            self._pool.stop()  # type: ignore[no-untyped-call]
            if self._running is not None:
                self._running.cancel()

    def join(self) -> None:
        with self._lock:
            self._pool.join()


def _cancel(running: Future[T], _: Future[T]) -> None:
    running.cancel()


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Child processes that start in the block, or by threads that do, get no interrupt of the terminal.

    Their parent answers it; those that still import would end with a traceback.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def encode_all(
    sources: Sequence[Source], name: str, workers: int, limits: Limits = DEFAULT, time_limit: float = TIME_LIMIT
) -> Iterator[tuple[Source, Encoded | Failure]]:
    """The clip of each file by the encoders of this name, or why there is none, in the order in which they are done.

    Args:
        workers: number of child processes.
        time_limit: seconds that one file may take.
    """
    if not sources:
        return
    waiting = iter(sources)
    with WorkerPool(name, min(workers, len(sources))) as pool:
        going: dict[Future[Encoded | str], Source] = {}
        while True:
            for source in itertools.islice(waiting, 2 * workers - len(going)):
                going[pool.submit(_encode, source, limits, time_limit=time_limit)] = source
            if not going:
                return
            for future in wait(going, return_when=FIRST_COMPLETED).done:
                source = going.pop(future)
                yield source, _result(future, source)


def encode_one(pool: WorkerPool, source: Source, limits: Limits, time_limit: float) -> Encoded | Failure:
    """The clip of a file by one of a pool's processes, or why there is none."""
    return _result(pool.submit(_encode, source, limits, time_limit=time_limit), source)


def _result(future: "Future[Encoded | str]", source: Source) -> Encoded | Failure:
    try:
        result = future.result()
    except (WorkerError, OutOfMemoryError) as error:
        return Failure(source.path, str(error))
    return Failure(source.path, result) if isinstance(result, str) else result


# --- in a child process -----------------------------------------------------------------------------------------------

_encoders: Encoders | None = None


def _begin(name: str, factory: encoders.Factory, memory: int | None) -> None:
    global _encoders
    torch.set_num_threads(1)
    encoders.register(encoders.base_name(name), factory)
    _encoders = encoders.build(name)
    if memory is None:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if (status := Path("/proc/self/status")).exists():  # elsewhere the limit would be no limit
        used = next(line for line in status.read_text().splitlines() if line.startswith("VmData"))
        allowed = 1024 * int(used.split()[1]) + memory
        resource.setrlimit(resource.RLIMIT_DATA, (allowed, allowed))


def ready() -> None:
    """Returns when the encoders are loaded."""


def loaded() -> Encoders:
    """The encoders of the child process that this is."""
    assert _encoders is not None
    return _encoders


def cause_of(error: Exception, path: Path) -> str:
    """Why a file gave no clip, in one line that does not name the file.

    Raises:
        OutOfMemoryError: the process ran out of memory; raised on to the pool, it restarts the process.
    """
    memory = isinstance(error, MemoryError | OutOfMemoryError)
    if memory or any(message in str(error) for message in NO_MEMORY):
        raise OutOfMemoryError("decoding it takes more memory than is allowed") from None
    if isinstance(error, Error):
        return str(error).removeprefix(f"{path}: ")
    return f"{type(error).__name__}: {error}"


def _encode(source: Source, limits: Limits) -> Encoded | str:
    try:
        return loaded().encode(source.path, source.id, limits)
    except Exception as error:
        return cause_of(error, source.path)
