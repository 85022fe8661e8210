"""From an upload to an answer: one run, its children and its jobs.

Everything lies in one folder that only this user can enter, with a folder for each job below it. An uploaded file is
removed as soon as it is encoded; features, thumbnails and answer go when the job expires.
"""

import asyncio
import contextlib
import logging
import math
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path

import numpy as np
from fastapi import UploadFile

from counterpoint import __version__
from counterpoint.data.features import FEATURES_FILE
from counterpoint.data.records import clip_of
from counterpoint.data.tfrecord import Shard
from counterpoint.errors import Error
from counterpoint.media import encoders
from counterpoint.media.decode import SUFFIXES
from counterpoint.media.workers import WorkerPool
from counterpoint.predict import Predictor
from counterpoint.run import RunFolder
from counterpoint.serve import answers, encoding
from counterpoint.serve import serializers as telling
from counterpoint.serve.batching import BatchingPredictor
from counterpoint.serve.encoding import CLIP, Task, encode_film
from counterpoint.serve.jobs import Job, Jobs
from counterpoint.serve.metrics import Metrics
from counterpoint.serve.settings import RefusedError, Settings
from counterpoint.serve.uploads import RECORDS, keep, name_of, records, shown

FILE = "upload"
UPLOAD: ContextVar[object] = ContextVar("upload", default=None)
"""The request whose clips are being taken, of `Service.uploads`."""
EXPLANATIONS = 16  # that may wait
TYPICAL = 2.0  # seconds that a clip takes, before any has been through
RECENT = 0.1  # how much the last clip counts in what is typical

log = logging.getLogger("counterpoint.serve")


class Service:
    """Takes clips and tells what they are; used as a context.

    Raises:
        Error: the run is not a trained categorizer, or there are no examples where they should be.
    """

    def __init__(self, folder: str | Path, settings: Settings) -> None:
        self.run = RunFolder.load(folder)
        self.predictor = Predictor(self.run)
        self.settings = settings
        self.stopping = False
        self.uploads: set[object] = set()
        """Requests whose clips are still being sent, or taken."""
        self.metrics = Metrics()
        self._typical = TYPICAL
        self._explaining = 0
        self._turn = asyncio.Lock()  # of examples, one of which is encoded at a time, so that nobody waits for all
        self._children, self.no_videos = self._encoders()
        self.tree = telling.tree(self.run.labelling.taxonomy)
        self.identity = telling.identity(self.run)
        self.about = answers.About(
            version=__version__,
            made_by=self.identity,
            tower=self.predictor.model.tower is not None,
            videos=self._children is not None,
            max_bytes=settings.max_bytes,
            max_seconds=settings.max_seconds,
            max_clips=self.most,
            keep_seconds=settings.keep_seconds,
        )
        if settings.examples is not None and not settings.examples.is_dir():
            raise Error(f"{settings.examples}: no folder of examples")

    @property
    def most(self) -> int:
        """Clips that one request may bring."""
        return min(self.settings.max_clips, self.settings.capacity)

    def _encoders(self) -> tuple[WorkerPool | None, str]:
        """The children, or why there are none: the run's features are made elsewhere, or the weights are not here."""
        features = self.run.features
        try:
            made_by = encoders.of(features, self.run.folder.resolve().name)
        except Error as error:
            return None, str(error)
        return WorkerPool(made_by.name, self.settings.workers, self.settings.memory), ""

    async def __aenter__(self) -> "Service":
        folder = Path(tempfile.mkdtemp(prefix="counterpoint-serve-"))  # its mode is 0700
        before, tempfile.tempdir = tempfile.tempdir, str(folder)  # where requests are written as they come
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            stack.callback(setattr, tempfile, "tempdir", before)
            self._predictor = await stack.enter_async_context(
                BatchingPredictor(self.predictor, self.metrics.batches.observe)
            )
            self._thread = stack.enter_context(ThreadPoolExecutor(1, "explainer"))
            if self._children:
                stack.push_async_callback(asyncio.to_thread, self._children.stop)
                await asyncio.to_thread(self._children.preload)
            self.jobs = Jobs(folder, self.settings)
            stack.push_async_callback(self.jobs.abandon)
            self.metrics.watch("counterpoint_clips_held", "Clips that wait or are worked on", lambda: self.jobs.held)
            self.metrics.watch("counterpoint_uploads", "Requests that are sending clips", lambda: len(self.uploads))
            self.metrics.watch("counterpoint_jobs_kept", "Jobs that can be asked for", lambda: len(self.jobs.all))
            for job in await asyncio.to_thread(lambda: list(self._examples())):
                self._begin(job)
            stack.callback(asyncio.create_task(self.jobs.sweep()).cancel)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    # --- taking -------------------------------------------------------------------------------------------------------

    def admit(self, clips: int) -> None:
        """Raise RefusedError where so many more clips cannot be taken now."""
        if (held := self.jobs.held) + clips > self.settings.capacity:
            later = max(1, math.ceil(self._typical * held / self.settings.workers / 2))
            detail = f"{held} clips are waiting, {self.settings.capacity} may; come again in {later} s"
            raise RefusedError(429, detail, {"Retry-After": str(later)})

    async def take(self, files: Sequence[UploadFile], features: str | None, one: bool = False) -> list[Job]:
        """A job for each clip of the files; where there may be several, also for a file that is none, which will fail.

        Raises:
            RefusedError: there are too many clips, or the only file is of the wrong kind, or not one for the run.
        """
        most = 1 if one else self.most
        jobs: list[Job] = []
        try:
            for file in files:
                name = name_of(file.filename)
                try:
                    jobs += await asyncio.to_thread(self._taken, name, file, features)
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
            self.uploads.discard(UPLOAD.get())  # from here on its clips count
        return jobs

    def _taken(self, name: str, file: UploadFile, features: str | None) -> list[Job]:
        video = not name.lower().endswith(RECORDS)
        if video and not self._children:
            raise RefusedError(422, f"{name}: {self.no_videos}; send feature records ({RECORDS})")
        first = self.jobs.new(name, "video" if video else "features")
        try:
            if video:
                first.source = first.folder / FILE
                keep(file, first.source)
                return [first]
            keep(file, first.folder / CLIP)
            limits = self.most, self.settings.max_seconds
            clips = records(self.run, first.folder / CLIP, name, features, *limits)
        except BaseException:
            self.jobs.clear(first)
            raise
        jobs = [first, *(self.jobs.new(name, "features", first) for _ in clips[1:])]
        for number, (job, clip) in enumerate(zip(jobs, clips, strict=True)):
            job.name, job.record, job.clip = shown(clip.id), number, clip
        return jobs

    def _examples(self) -> Iterator[Job]:
        for path in sorted(self.settings.examples.iterdir()) if self.settings.examples else ():
            if path.suffix.lower() in SUFFIXES and self._children and not path.name.startswith("."):
                jobs = [self.jobs.new(path.name, "video")]
                jobs[0].source = path
            elif path.suffix.lower() == RECORDS:
                beside = path.with_name(FEATURES_FILE)
                features = beside.read_text(encoding="utf-8") if beside.exists() else None
                try:
                    with path.open("rb") as file:
                        jobs = self._taken(path.name, UploadFile(file), features)
                except RefusedError as refused:
                    log.warning("example left out: %s", refused.detail)
                    continue
            else:
                continue
            for job in jobs:
                job.lasting = True
                yield job

    # --- working ------------------------------------------------------------------------------------------------------

    def _begin(self, job: Job) -> None:
        self.jobs.all[job.id] = job
        job.work = asyncio.create_task(self._work(job))

    async def _work(self, job: Job) -> None:
        try:
            if job.refused:
                raise job.refused
            async with self._turn if job.lasting else contextlib.nullcontext():
                if job.source:
                    await self._encode(job, job.source)
            assert job.clip is not None
            job.stage = "categorizing"
            job.seconds = min(job.clip.steps, self.run.recipe.max_steps)
            if job.seconds < job.clip.steps:
                job.notes.append(f"cut at {job.seconds} s, of which the model reads no more")
            job.modalities = sorted(job.clip.tracks)
            job.said = await self._predictor.predict(job.clip)
            if not np.isfinite(job.said.probabilities).all():
                job.said = None
                raise RefusedError(422, f"{job.name}: features so large that what the model says is no number")
            job.state = "done"
        except asyncio.CancelledError:
            self._fail(job, 503, "given up")
            raise
        except RefusedError as refused:
            self._fail(job, refused.status, refused.detail)
        except Error as error:
            self._fail(job, 422, str(error))
        except Exception:
            log.exception("job %s", job.id)
            self._fail(job, 500, "an error of the server, which its log tells more about")
        finally:
            self._end(job)

    async def _encode(self, job: Job, source: Path) -> None:
        assert self._children is not None

        def begun() -> None:
            job.stage = "decoding"

        try:
            task = Task(job.name, source, job.folder)
            job.notes = await encode_film(self._children, task, self.settings, begun)
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
        job.clip = job.work = None
        job.ended = time.monotonic()
        seconds = job.ended - job.begun
        self._typical += RECENT * (seconds - self._typical)
        self.metrics.jobs.labels(job.kind, job.state).inc()
        self.metrics.job_seconds.labels(job.kind).observe(seconds)
        job.over.set()

    # --- telling ------------------------------------------------------------------------------------------------------

    async def wait(self, jobs: Sequence[Job], seconds: float) -> None:
        """Until all of them are over, or so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for job in jobs:
                    await job.over.wait()

    def told(self, job: Job, top: int) -> answers.Job:
        """How far a job is, and its answer if it is done."""
        job.fetched = job.over.is_set()
        return job.told(self.answer(job, top) if job.state == "done" else None)

    def answer(self, job: Job, top: int) -> answers.Answer:
        """What was said of a job's clip; RefusedError if it failed."""
        job.fetched = True
        if job.said is None:
            raise RefusedError(job.status, job.detail)
        return answers.Answer(
            job=job.id,
            name=job.name,
            kind=job.kind,
            seconds=job.seconds,
            modalities=job.modalities,
            notes=job.notes,
            categories=telling.best(self.run.labelling.taxonomy, job.said.probabilities, top),
            correlation=job.said.correlation,
            made_by=self.identity,
        )

    async def explain(self, job: Job, other: Job | None, top: int) -> answers.Explanation:
        """Why a job's clip was categorized as it was; ``other`` is a clip to swap with."""
        both = [job, other] if other else [job]
        for one in both:
            if one.state != "done":
                raise RefusedError(409, f"{one.name}: {one.detail or 'not categorized yet'}")
        if other is job:
            raise RefusedError(422, f"{job.name}: name another clip to swap with")
        if self._explaining >= EXPLANATIONS:
            raise RefusedError(429, f"{EXPLANATIONS} explanations are waiting", {"Retry-After": "2"})
        self._explaining += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._thread,
                telling.explanation,
                self.predictor,
                job,
                other,
                top,
            )
        except (Error, OSError):
            for one in both:
                self.jobs.find(one.id)  # it may have expired meanwhile
            raise
        finally:
            self._explaining -= 1

    def examples(self) -> answers.Examples:
        """The examples, but for those that could not be read."""
        return answers.Examples(
            examples=[
                answers.Example(
                    job=job.id,
                    name=job.name,
                    kind=job.kind,
                    media=f"/v1/examples/{job.id}/media" if job.source else None,
                    thumbnail=encoding.thumbnail(job.folder, job.seconds // 2),
                )
                for job in self.jobs.all.values()
                if job.lasting and job.state != "failed"
            ]
        )

    def media(self, job: str) -> Path:
        """An example's video file; RefusedError where there is none."""
        found = self.jobs.find(job)
        if not found.lasting or found.source is None:
            raise RefusedError(404, "not an example's video")
        return found.source
