"""From an upload to an answer: one run, its worker processes and its jobs.

Everything is in one folder that only this user can enter, with a folder for each job below it. An uploaded file is
removed as soon as it is encoded; features, thumbnails and answer are removed when the job expires.
"""

import asyncio
import contextlib
import logging
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path

import numpy as np
from fastapi import UploadFile
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from counterpoint import __version__
from counterpoint.data.features import FEATURES_FILE
from counterpoint.data.records import clip_of
from counterpoint.data.tfrecord import Shard
from counterpoint.errors import Error
from counterpoint.files import claimed
from counterpoint.media import encoders
from counterpoint.media.decode import SUFFIXES
from counterpoint.media.workers import WorkerPool
from counterpoint.predict import Predictor
from counterpoint.run import RunFolder
from counterpoint.serve import answers, serializers
from counterpoint.serve.batching import BatchingPredictor
from counterpoint.serve.encoding import CLIP, RECORDS, Task, encode_film, name_of, printable, records
from counterpoint.serve.jobs import Job, Jobs
from counterpoint.serve.settings import RefusedError, Settings

FILE = "upload"
PREFIX = "counterpoint-serve-"  # of the folder of uploads, among other programs' temporary folders
ROOM = 1 << 16  # bytes that must fit on the disk
YOUNG = 1.0  # seconds: such a folder's server may not have locked it yet
UPLOAD: ContextVar[object] = ContextVar("upload", default=None)
"""The request whose clips are being taken, an entry of `Service.uploads`."""
EXPLANATIONS = 16  # that may wait
TYPICAL_SECONDS = 2.0  # that a clip takes, before the first is done
RECENT = 0.1  # weight of the last clip in the typical time
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)  # seconds

log = logging.getLogger("counterpoint.serve")


def sweep(temporary: Path) -> None:
    """Remove the folders of uploads whose servers were killed: nobody holds their locks."""
    for left in temporary.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError, Error):  # another user's, or in use
            if time.time() - left.stat().st_mtime > YOUNG:
                with claimed(left, "in use"):
                    shutil.rmtree(left)


class Metrics:
    """One server's metrics for Prometheus, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "counterpoint_requests",
            "HTTP requests",
            ["method", "endpoint", "status"],
            registry=self.registry,
        )
        self.latency = Histogram(
            "counterpoint_request_seconds",
            "From a request's head to the end of its answer",
            ["endpoint"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.jobs = Counter("counterpoint_jobs", "Clips by how they ended", ["kind", "state"], registry=self.registry)
        self.job_seconds = Histogram(
            "counterpoint_job_seconds",
            "From taking a clip to its answer, waiting included",
            ["kind"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.failures = Counter(
            "counterpoint_decode_failures",
            "Video files that gave no clip, by the HTTP status of their answer",
            ["status"],
            registry=self.registry,
        )
        self.batches = Histogram(
            "counterpoint_batch_clips",
            "Clips that the model read at once",
            buckets=(1, 2, 4, 8, 16, 32),
            registry=self.registry,
        )

    def watch(self, name: str, description: str, value: Callable[[], float]) -> None:
        """Add a gauge whose value is computed when it is read."""
        Gauge(name, description, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class Service:
    """Takes clips and answers what they are; used as a context.

    Args:
        folder: a run folder, or the name of a shipped run.
        settings: the limits.

    Raises:
        Error: the run is not a trained categorizer, or the folder of examples does not exist.
    """

    def __init__(self, folder: str | os.PathLike[str], settings: Settings) -> None:
        self.run = RunFolder.load(Path(folder))
        self.predictor = Predictor(self.run)
        self.settings = settings
        self.stopping = False
        self.uploads: set[object] = set()
        """Requests whose clips are still being sent or taken."""
        self.metrics = Metrics()
        self._typical_seconds = TYPICAL_SECONDS
        self._explaining = 0
        self._example_lock = asyncio.Lock()  # one example is encoded at a time, so that clients wait for one at most
        self._workers, self.no_videos = self._encoders()
        self.tree = serializers.tree(self.run.labelling.taxonomy)
        self.identity = serializers.identity(self.run)
        self.about = answers.About(
            version=__version__,
            made_by=self.identity,
            tower=self.predictor.model.tower is not None,
            tower_auc=serializers.tower_auc(self.run),
            videos=self._workers is not None,
            max_bytes=settings.max_bytes,
            max_seconds=settings.max_seconds,
            max_clips=self.max_clips,
            keep_seconds=settings.keep_seconds,
        )
        if settings.examples is not None and not settings.examples.is_dir():
            raise Error(f"{settings.examples}: no folder of examples")

    @property
    def max_clips(self) -> int:
        """The number of clips that one request may bring."""
        return min(self.settings.max_clips, self.settings.capacity)

    def _encoders(self) -> tuple[WorkerPool | None, str]:
        """The worker processes, or why there are none: unknown encoders made the features, or weights are missing."""
        try:
            found = encoders.of(self.run.features, self.run.folder.resolve().name)
        except Error as error:
            return None, str(error)
        return WorkerPool(found.name, self.settings.workers, self.settings.memory), ""

    def has_room(self) -> bool:
        """Whether something can be written where uploads are kept."""
        try:
            with tempfile.TemporaryFile(dir=self.folder) as file:
                file.write(bytes(ROOM))
                file.flush()
        except OSError:
            return False
        return True

    async def __aenter__(self) -> "Service":
        await asyncio.to_thread(sweep, Path(tempfile.gettempdir()))
        self.folder = folder = Path(tempfile.mkdtemp(prefix=PREFIX))  # its mode is 0700
        before, tempfile.tempdir = tempfile.tempdir, str(folder)  # where uploads are written as they arrive
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            stack.enter_context(claimed(folder, "another server's"))
            stack.callback(setattr, tempfile, "tempdir", before)
            self._predictor = await stack.enter_async_context(
                BatchingPredictor(self.predictor, self.metrics.batches.observe)
            )
            self._thread = stack.enter_context(ThreadPoolExecutor(1, "explainer"))
            if self._workers:
                stack.push_async_callback(asyncio.to_thread, self._workers.stop)
                await asyncio.to_thread(self._workers.preload)
            self.jobs = Jobs(folder, self.settings)
            stack.push_async_callback(self.jobs.abandon)
            self.metrics.watch("counterpoint_clips_held", "Clips that wait or are worked on", lambda: self.jobs.held)
            self.metrics.watch("counterpoint_uploads", "Requests that are sending clips", lambda: len(self.uploads))
            self.metrics.watch("counterpoint_jobs_kept", "Jobs whose answers can be read", lambda: len(self.jobs.all))
            for job in await asyncio.to_thread(lambda: list(self._examples())):
                self._begin(job)
            stack.callback(asyncio.create_task(self.jobs.sweep()).cancel)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    # --- uploads ------------------------------------------------------------------------------------------------------

    def admit(self, clips: int) -> None:
        """Raise RefusedError where so many more clips cannot be taken now."""
        if (held := self.jobs.held) + clips > self.settings.capacity:
            later = max(1, math.ceil(self._typical_seconds * held / self.settings.workers / 2))
            detail = f"{held} clips are waiting, {self.settings.capacity} may; try again in {later} s"
            raise RefusedError(429, detail, {"Retry-After": str(later)})

    async def take(self, files: Sequence[UploadFile], features: str | None, one: bool = False) -> list[Job]:
        """A job for each clip of the files. In a batch, a file that cannot be read gets a job that will fail.

        Args:
            files: video files and feature shards.
            features: the text of the `features.json` of the shards.
            one: whether there must be one file of one clip.

        Raises:
            RefusedError: there are too many clips; or, with ``one``, the file cannot be read or is not for the run.
        """
        most = 1 if one else self.max_clips
        jobs: list[Job] = []
        try:
            for file in files:
                name = name_of(file.filename)
                try:
                    jobs += await asyncio.to_thread(self._received, name, file, features)
                except RefusedError as refused:
                    if one or refused.status != 422:
                        raise
                    jobs.append(self.jobs.new(name, "features" if name.lower().endswith(RECORDS) else "video"))
                    jobs[-1].refused = refused
                if len(jobs) > most:
                    several = "; /v1/categorize/batch takes several" if one else ""
                    raise RefusedError(413, f"{name}: {len(jobs)} clips, {most} at most in one request{several}")
            self.admit(len(jobs))
            for job in jobs:
                self._begin(job)
        except BaseException:
            for job in jobs:
                self.jobs.clear(job)
            raise
        finally:
            self.uploads.discard(UPLOAD.get())  # from here on its clips count as held
        return jobs

    def _received(self, name: str, file: UploadFile, features: str | None) -> list[Job]:
        """Write a file into a job's folder; a job for each of its clips."""
        video = not name.lower().endswith(RECORDS)
        if video and not self._workers:
            raise RefusedError(422, f"{name}: {self.no_videos}; send feature records ({RECORDS})")
        first = self.jobs.new(name, "video" if video else "features")
        path = first.folder / (FILE if video else CLIP)
        try:
            with path.open("wb") as copy:
                shutil.copyfileobj(file.file, copy, 1 << 20)
            if video:
                first.source = path
                return [first]
            clips = records(self.run, path, name, features, self.max_clips, self.settings.max_seconds)
        except BaseException:
            self.jobs.clear(first)
            raise
        jobs = [first, *(self.jobs.new(name, "features", first) for _ in clips[1:])]
        for number, (job, clip) in enumerate(zip(jobs, clips, strict=True)):
            job.name, job.record, job.clip = printable(clip.id), number, clip
        return jobs

    def _examples(self) -> Iterator[Job]:
        for path in sorted(self.settings.examples.iterdir()) if self.settings.examples else ():
            if path.suffix.lower() in SUFFIXES and self._workers and not path.name.startswith("."):
                jobs = [self.jobs.new(path.name, "video")]
                jobs[0].source = path
            elif path.suffix.lower() == RECORDS:
                features_file = path.with_name(FEATURES_FILE)
                features = features_file.read_text(encoding="utf-8") if features_file.exists() else None
                try:
                    with path.open("rb") as file:
                        jobs = self._received(path.name, UploadFile(file), features)
                except RefusedError as refused:
                    log.warning("skipping an example: %s", refused.detail)
                    continue
            else:
                continue
            for job in jobs:
                job.is_example = True
                yield job

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def _begin(self, job: Job) -> None:
        self.jobs.all[job.id] = job
        job.task = asyncio.create_task(self._work(job))

    async def _work(self, job: Job) -> None:
        try:
            if job.refused:
                raise job.refused
            async with self._example_lock if job.is_example else contextlib.nullcontext():
                if job.source:
                    await self._encode(job, job.source)
            assert job.clip is not None
            job.stage = "categorizing"
            job.seconds = min(job.clip.steps, self.run.recipe.max_steps)
            if job.seconds < job.clip.steps:
                job.notes.append(f"cut at {job.seconds} s, the longest that the model reads")
            job.modalities = sorted(job.clip.tracks)
            prediction = await self._predictor.predict(job.clip)
            if not np.isfinite(prediction.probabilities).all():
                raise RefusedError(422, f"{job.name}: features so large that the model's output is not a number")
            job.prediction = prediction
            job.state = "done"
        except asyncio.CancelledError:
            self._fail(job, 503, "cancelled")
            raise
        except RefusedError as refused:
            self._fail(job, refused.status, refused.detail)
        except Error as error:
            self._fail(job, 422, str(error))
        except Exception:
            log.exception("job %s", job.id)
            self._fail(job, 500, "an error of the server; its log has the details")
        finally:
            self._end(job)

    async def _encode(self, job: Job, source: Path) -> None:
        assert self._workers is not None

        def begun() -> None:
            job.stage = "decoding"

        try:
            task = Task(job.name, source, job.folder)
            job.notes = await encode_film(self._workers, task, self.settings, begun)
        except RefusedError as refused:
            self.metrics.failures.labels(refused.status).inc()
            raise RefusedError(refused.status, f"{job.name}: {refused.detail}") from refused
        finally:
            (job.folder / FILE).unlink(missing_ok=True)
        job.clip = await asyncio.to_thread(lambda: clip_of(Shard(job.folder / CLIP), 0))

    def _fail(self, job: Job, status: int, detail: str) -> None:
        job.state, job.status, job.detail = "failed", status, detail
        log.warning("job %s failed: %s", job.id, detail)
        self.jobs.clear(job)

    def _end(self, job: Job) -> None:
        job.stage = "finished"
        job.clip = job.task = None
        job.ended = time.monotonic()
        seconds = job.ended - job.begun
        self._typical_seconds += RECENT * (seconds - self._typical_seconds)
        self.metrics.jobs.labels(job.kind, job.state).inc()
        self.metrics.job_seconds.labels(job.kind).observe(seconds)
        job.finished.set()

    # --- answers ------------------------------------------------------------------------------------------------------

    async def wait(self, jobs: Sequence[Job], seconds: float) -> None:
        """Wait until all jobs are finished, for so many seconds at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for job in jobs:
                    await job.finished.wait()

    def status(self, job: Job, top: int) -> answers.Job:
        """The state of a job, with its answer if it is done."""
        job.fetched = job.finished.is_set()
        return serializers.status(job, self.answer(job, top) if job.state == "done" else None)

    def answer(self, job: Job, top: int) -> answers.Answer:
        """The ``top`` categories of a finished job's clip; RefusedError if the job failed."""
        job.fetched = True
        return serializers.answer(job, self.run, self.identity, top)

    async def explain(self, job: Job, other: Job | None, top: int) -> answers.Explanation:
        """Why a job's clip was categorized as it was; ``other`` is a clip to swap tracks with.

        Raises:
            RefusedError: a job is not done, both are the same, or too many explanations are waiting.
        """
        both = [job, other] if other else [job]
        for one in both:
            if one.state != "done":
                raise RefusedError(409, f"{one.name}: {one.detail or 'not categorized yet'}")
        if other is job:
            raise RefusedError(422, f"{job.name}: name another clip to swap with")
        if self._explaining >= EXPLANATIONS:
            raise RefusedError(429, f"{EXPLANATIONS} explanations are waiting", {"Retry-After": "2"})
        self._explaining += 1
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, serializers.explanation, self.predictor, job, other, top)
        except (Error, OSError):
            for one in both:
                self.jobs.find(one.id)  # it may have expired meanwhile
            raise
        finally:
            self._explaining -= 1

    def examples(self) -> answers.Examples:
        """The examples, without those that could not be read."""
        jobs = [job for job in self.jobs.all.values() if job.is_example and job.state != "failed"]
        return answers.Examples(examples=[serializers.example(job) for job in jobs])

    def media(self, job: str) -> Path:
        """An example's video file; RefusedError where there is none."""
        found = self.jobs.find(job)
        if not found.is_example or found.source is None:
            raise RefusedError(404, "not an example's video")
        return found.source
