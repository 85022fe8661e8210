"""Work on a Ray cluster by Ray Data, or on this machine's cores (extra `ray`).

Ray streams the rows through actors: it sends no more than they can take, restarts an actor that dies, and gives its
rows to another. Each row is answered once. Every node needs the files at the same path or URL, and Counterpoint.
"""

import importlib
import logging
import pickle
import socket
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from counterpoint.errors import Error

if TYPE_CHECKING:
    from counterpoint import batch
    from counterpoint.media.decode import Limits
    from counterpoint.media.encoders import Encoded, Factory
    from counterpoint.media.workers import Engine, Failure, Source
    from counterpoint.predict import Predictor

BLOCKS = 10_000  # of rows, at most: what an actor takes at a time


def distribute(
    work: Callable[..., Any],
    rows: Sequence[Any],
    settings: dict[str, Any],
    *,
    address: str | None,
    workers: int,
    gpu: bool = False,
) -> Iterator[Any]:
    """The results of ``work(**settings)``, called with each row, in the order in which they are done.

    Args:
        work: a class whose objects are called.
        address: a cluster's, of which all cores are used; without, Ray is started on this machine.
        workers: cores that Ray uses on this machine.
        gpu: give each actor a GPU if the cluster has some.

    Raises:
        Error: Ray is not installed, or fails.
    """
    try:
        ray: Any = importlib.import_module("ray")
        importlib.import_module("ray.data")
    except ImportError as error:
        raise Error(f"--engine ray takes Ray ({error}): pip install 'counterpoint[ray]'") from None
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        if address and address.rpartition(":")[2].isdigit():
            _reach(address)
        ray.init(
            address=address or "local",
            num_cpus=None if address else workers,
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise Error(f"{address or 'Ray'}: cannot be reached or started ({error})") from error
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        resources = ray.cluster_resources()
        most = max(1, min(int(resources.get("GPU" if gpu and "GPU" in resources else "CPU", 1)), len(rows)))
        packed = [{"packed": pickle.dumps(row)} for row in rows]
        results = ray.data.from_items(packed, override_num_blocks=min(len(packed), BLOCKS)).map(
            _Unpacked,
            fn_constructor_kwargs={"work": work, "settings": settings},
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most, initial_size=most),
            num_cpus=1,
            num_gpus=1 if gpu and "GPU" in resources else None,
        )
        for result in results.iter_rows():
            yield pickle.loads(result["packed"])
    except ray.exceptions.RayError as error:
        raise Error(f"the cluster failed: {str(error).strip().splitlines()[-1]} (--debug shows all)") from error
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Raise OSError where no server answers, which Ray takes minutes to find out."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


class _Unpacked:
    """An actor. Rows travel as bytes, which Ray's tables hold as they are."""

    def __init__(self, work: Callable[..., Any], settings: dict[str, Any]) -> None:
        self.work = work(**settings)

    def __call__(self, row: dict[str, bytes]) -> dict[str, bytes]:
        return {"packed": pickle.dumps(self.work(pickle.loads(row["packed"])))}


def extraction(address: str | None) -> "Engine":
    """An engine for `counterpoint.media.extract.extract`."""
    from counterpoint.media.encoders import factory_of

    def encode_all(
        sources: "Sequence[Source]", name: str, workers: int, limits: "Limits", time_limit: float
    ) -> "Iterator[tuple[Source, Encoded | Failure]]":
        if sources:
            of = {source.id: source for source in sources}
            rows = [source._replace(path=source.path.absolute()) for source in sources]
            settings = {"name": name, "factory": factory_of(name), "limits": limits, "time_limit": time_limit}
            for source, result in distribute(_Encoding, rows, settings, address=address, workers=workers):
                yield of[source.id], result

    return encode_all


class _Encoding:
    """Encodes files in a child process, as on one machine: one that hangs or crashes the decoder costs itself only."""

    def __init__(self, name: str, factory: "Factory", limits: "Limits", time_limit: float) -> None:
        from counterpoint.media.encoders import base_name, register
        from counterpoint.media.workers import WorkerPool

        register(base_name(name), factory)
        self.limits, self.time_limit = limits, time_limit
        self.pool = WorkerPool(name, 1)

    def __call__(self, source: "Source") -> "tuple[Source, Encoded | Failure]":
        from counterpoint.media.workers import encode_one

        return source, encode_one(self.pool, source, self.limits, self.time_limit)


def categorization(address: str | None, workers: int) -> "batch.Engine":
    """An engine for `counterpoint.batch.categorize`; the models compute on GPUs where the cluster has some."""

    def categorize(run: str, todo: Sequence[tuple[int, Any]], options: dict[str, Any]) -> Iterator[tuple[int, Any]]:
        rows = [(number, shard.absolute() if isinstance(shard, Path) else shard) for number, shard in todo]
        if rows:
            settings = {"run": run, "options": options}
            yield from distribute(_Categorizing, rows, settings, address=address, workers=workers, gpu=True)

    return categorize


class _Categorizing:
    """A run's answers for shards, by `counterpoint.batch.answers`. An error's message is an answer: not tried again."""

    def __init__(self, run: str, options: dict[str, Any]) -> None:
        self.folder, self.options = run, options

    @cached_property
    def predictor(self) -> "Predictor":
        from counterpoint.predict import Predictor
        from counterpoint.run import RunFolder

        return Predictor(RunFolder.load(self.folder))

    def __call__(self, row: tuple[int, Any]) -> tuple[int, Any]:
        from counterpoint.batch import answers

        number, shard = row
        try:
            return number, answers(self.predictor, shard, **self.options)
        except Error as error:
            return number, str(error)
