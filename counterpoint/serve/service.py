"""Clips on their way from an upload to an answer: what is held, for how long, and what becomes of it.

Everything lies in one folder that only this user can enter, with a folder for each job below it. An uploaded file is
removed as soon as it is encoded; features, thumbnails and answer go when the job expires.
"""

import asyncio
import contextlib
import logging
import math
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fastapi import UploadFile

from counterpoint import __version__
from counterpoint.data.clip import Clip
from counterpoint.data.features import FEATURES_FILE
from counterpoint.data.tfrecord import Shard
from counterpoint.data.youtube8m import clip_of
from counterpoint.errors import CounterpointError
from counterpoint.media import encoders
from counterpoint.media.extract import SUFFIXES
from counterpoint.serve import answers, encoding, telling
from counterpoint.serve.encoding import CLIP, Children, Task
from counterpoint.serve.metrics import Metrics
from counterpoint.serve.predicting import Predictor, Said, WarmRun
from counterpoint.serve.settings import Refused, Settings
from counterpoint.serve.uploads import RECORDS, keep, name_of, records

UPLOAD = "upload"
EXPLANATIONS = 16  # that may wait
TYPICAL = 2.0  # seconds that a clip takes, before any has been through
SWEEP = 1.0  # seconds between looks for what has expired

log = logging.getLogger("counterpoint.serve")


@dataclass(eq=False)
class Job:
    """A clip on its way."""

    id: str
    name: str
    kind: Literal["video", "features"]
    folder: Path
    source: Path | None = None
    """The video file."""
    clip: Clip | None = None
    """Until it is categorized."""
    lasting: bool = False
    """An example's, which does not expire."""
    state: Literal["running", "done", "failed"] = "running"
    stage: Literal["waiting", "decoding", "categorizing", "finished"] = "waiting"
    begun: float = field(default_factory=time.monotonic)
    ended: float = math.inf
    seconds: int = 0
    modalities: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    said: Said | None = None
    status: int = 200
    detail: str = ""
    over: asyncio.Event = field(default_factory=asyncio.Event)
    fetched: bool = False
    """Whether its client has heard how it ended."""
    work: "asyncio.Task[None] | None" = None


class Service:
    """One run, its children and its jobs; used as a context.

    Raises:
        CounterpointError: the run is not a trained categorizer, its encoders' weights are not here, or there are no
            examples where they should be.
    """

    def __init__(self, folder: str | Path, settings: Settings) -> None:
        self.run = WarmRun.load(folder)
        self.settings = settings
        self.metrics = Metrics()
        self.stopping = False
        self.held = 0
        """Clips of clients that wait or are worked on."""
        self.uploads = 0
        """Requests that are sending them."""
        self._jobs: dict[str, Job] = {}
        self._typical = TYPICAL
        self._explaining = 0
        self._children, self.no_videos = self._encoders()
        self.tree = telling.tree(self.run.labelling.taxonomy)
        self.identity = telling.identity(self.run)
        self.about = answers.About(
            version=__version__,
            made_by=self.identity,
            tower=self.run.categorizer().tower is not None,
            videos=self._children is not None,
            max_bytes=settings.max_bytes,
            max_seconds=settings.max_seconds,
            max_clips=settings.max_clips,
            keep_seconds=settings.keep_seconds,
        )
        if settings.examples is not None and not settings.examples.is_dir():
            raise CounterpointError(f"{settings.examples}: no folder of examples")
        self.metrics.watch("counterpoint_clips_held", "Clips that wait or are worked on", lambda: self.held)
        self.metrics.watch("counterpoint_uploads", "Requests that are sending clips", lambda: self.uploads)
        self.metrics.watch("counterpoint_jobs_kept", "Jobs that can be asked for", lambda: len(self._jobs))

    def _encoders(self) -> tuple[Children | None, str]:
        """The children, or why there are none: a run of features that are made elsewhere."""
        features = self.run.features
        name = features.encoder.rpartition("-")[0] or features.encoder
        try:
            encoders.of(features, self.run.folder.resolve().name)
        except CounterpointError as error:
            return None, str(error)
        return Children(name, self.settings), ""

    async def __aenter__(self) -> "Service":
        self.folder = Path(tempfile.mkdtemp(prefix="counterpoint-serve-"))  # its mode is 0700
        self._temporary, tempfile.tempdir = tempfile.tempdir, str(self.folder)  # where requests are written as they come
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._remove)
            self._predictor = await stack.enter_async_context(Predictor(self.run, self.metrics.batches.observe))
            self._thread = stack.enter_context(ThreadPoolExecutor(1, "explainer"))
            if self._children:
                stack.push_async_callback(self._children.stop)
                await self._children.start()
            stack.push_async_callback(self._abandon)
            for job in await asyncio.to_thread(lambda: list(self._found_examples())):
                self._begin(job)
            sweeper = asyncio.create_task(self._sweep())
            stack.callback(sweeper.cancel)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _abandon(self) -> None:
        works = [job.work for job in self._jobs.values() if job.work]
        for work in works:
            work.cancel()
        await asyncio.gather(*works, return_exceptions=True)

    def _remove(self) -> None:
        tempfile.tempdir = self._temporary
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- taking -------------------------------------------------------------------------------------------------------

    def admit(self, clips: int = 1) -> None:
        """Raise Refused where so many more clips cannot be taken now."""
        if self.stopping:
            raise Refused(503, "the server is stopping", {"Retry-After": "10"})
        if self.held + clips > self.settings.capacity:
            later = max(1, math.ceil(self._typical * self.held / self.settings.workers / 2))
            detail = f"{self.held} clips are waiting; {self.settings.capacity} at most; come again in {later} s"
            raise Refused(429, detail, {"Retry-After": str(later)})

    async def take(self, files: Sequence[UploadFile], features: str | None, one: bool = False) -> list[Job]:
        """A job for each clip of the files.

        Raises:
            Refused: a file is of the wrong kind, there are too many clips, or a feature record is not one for the run.
        """
        most = 1 if one else self.settings.max_clips
        jobs: list[Job] = []
        try:
            for file in files:
                name = name_of(file.filename)
                jobs += await asyncio.to_thread(self._taken, name, file, features)
                if len(jobs) > most:
                    batch = "; /v1/categorize/batch takes several" if one else ""
                    raise Refused(413, f"{name}: {len(jobs)} clips, {most} at most in one request{batch}")
            self.admit(len(jobs))
        except BaseException:
            for job in jobs:
                shutil.rmtree(job.folder, ignore_errors=True)
            raise
        for job in jobs:
            self._begin(job)
        return jobs

    def _taken(self, name: str, file: UploadFile, features: str | None) -> list[Job]:
        if not name.lower().endswith(RECORDS):
            if not self._children:
                raise Refused(422, f"{name}: {self.no_videos}; send feature records ({RECORDS})")
            job = self._job(name, "video")
            job.source = job.folder / UPLOAD
            keep(file, job.source)
            return [job]
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        try:
            keep(file, folder / UPLOAD)
            return self._recorded(name, folder / UPLOAD, features)
        finally:
            shutil.rmtree(folder)

    def _recorded(self, name: str, shard: Path, features: str | None) -> list[Job]:
        found, clips = records(self.run, shard, name, features, self.settings.max_clips)
        jobs = []
        for clip in clips:
            job = self._job(name_of(clip.id), "features")
            job.clip = clip
            encoding.save(job.folder, clip, found)
            jobs.append(job)
        return jobs

    def _found_examples(self) -> Iterator[Job]:
        for path in sorted(self.settings.examples.iterdir()) if self.settings.examples else ():
            if path.suffix.lower() in SUFFIXES and self._children and not path.name.startswith("."):
                job = self._job(path.name, "video")
                job.source = path
                job.lasting = True
                yield job
            elif path.suffix.lower() == RECORDS:
                beside = path.with_name(FEATURES_FILE)
                with path.open("rb") as file:
                    jobs = self._taken(
                        path.name, UploadFile(file), beside.read_text(encoding="utf-8") if beside.exists() else None
                    )
                for job in jobs:
                    job.lasting = True
                    yield job

    def _job(self, name: str, kind: Literal["video", "features"]) -> Job:
        job = Job(secrets.token_hex(16), name, kind, self.folder)
        job.folder = self.folder / job.id
        job.folder.mkdir()
        return job

    # --- working ------------------------------------------------------------------------------------------------------

    def _begin(self, job: Job) -> None:
        self._jobs[job.id] = job
        self.held += not job.lasting
        job.work = asyncio.create_task(self._work(job))

    async def _work(self, job: Job) -> None:
        try:
            if job.source:
                await self._encode(job, job.source)
            assert job.clip is not None
            job.stage = "categorizing"
            job.seconds = job.clip.steps
            job.modalities = sorted(job.clip.tracks)
            job.said = await self._predictor.predict(job.clip)
            job.state = "done"
        except asyncio.CancelledError:
            self._fail(job, 503, "given up")
            raise
        except Refused as refused:
            self._fail(job, refused.status, refused.detail)
        except CounterpointError as error:
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
            job.notes = await self._children.encode(Task(job.name, source, job.folder), begun)
        except Refused as refused:
            self.metrics.failures.labels(refused.status).inc()
            raise Refused(refused.status, f"{job.name}: {refused.detail}") from refused
        finally:
            (job.folder / UPLOAD).unlink(missing_ok=True)
        job.clip = await asyncio.to_thread(lambda: clip_of(Shard(job.folder / CLIP), 0))

    def _fail(self, job: Job, status: int, detail: str) -> None:
        job.state, job.status, job.detail = "failed", status, detail
        log.warning("job %s failed: %s", job.id, detail)
        shutil.rmtree(job.folder, ignore_errors=True)

    def _end(self, job: Job) -> None:
        job.stage = "finished"
        job.clip = job.work = None
        job.ended = time.monotonic()
        seconds = job.ended - job.begun
        self._typical += 0.1 * (min(seconds, self.settings.time_limit) - self._typical)
        self.held -= not job.lasting
        self.metrics.jobs.labels(job.kind, job.state).inc()
        self.metrics.job_seconds.labels(job.kind).observe(seconds)
        job.over.set()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP)
            over = sorted((job for job in self._jobs.values() if job.over.is_set() and not job.lasting), key=_ended)
            surplus = len(over) - self.settings.keep_jobs
            last = time.monotonic() - self.settings.keep_seconds
            for number, job in enumerate(over):
                if number < surplus or job.ended < last:
                    self._forget(job)

    # --- telling ------------------------------------------------------------------------------------------------------

    def find(self, job: str) -> Job:
        """The job of this id; Refused where there is none."""
        if job not in self._jobs:
            raise Refused(404, "no such job, or its answer has expired")
        return self._jobs[job]

    @property
    def unfetched(self) -> bool:
        """Whether a client has yet to hear how its job ended."""
        return any(not job.fetched and not job.lasting for job in self._jobs.values())

    async def wait(self, jobs: Sequence[Job], seconds: float) -> None:
        """Until all of them are over, or so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for job in jobs:
                    await job.over.wait()

    def told(self, job: Job, top: int) -> answers.Job:
        """How far a job is."""
        job.fetched = job.over.is_set()
        share = {"waiting": 0.0, "categorizing": 0.95, "finished": 1.0}
        fraction = share[job.stage] if job.stage in share else 0.9 * encoding.progress(job.folder)
        failed = job.state == "failed"
        return answers.Job(
            id=job.id,
            name=job.name,
            state=job.state,
            stage=job.stage,
            fraction=fraction,
            answer=self.answer(job, top) if job.state == "done" else None,
            status=job.status if failed else None,
            detail=job.detail if failed else None,
        )

    def answer(self, job: Job, top: int) -> answers.Answer:
        """What was said of a clip whose job is done."""
        assert job.said is not None
        job.fetched = True
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
        for one in (job, other or job):
            if one.state != "done":
                raise Refused(409, f"{one.name}: {one.detail or 'not categorized yet'}")
        if other is job:
            raise Refused(422, f"{job.name}: name another clip to swap with")
        if self._explaining >= EXPLANATIONS:
            raise Refused(429, f"{EXPLANATIONS} explanations are waiting; come again in 2 s", {"Retry-After": "2"})
        self._explaining += 1
        try:
            folders = job.folder, other.folder if other else None
            work = asyncio.get_running_loop().run_in_executor(
                self._thread, telling.explanation, self.run, job.id, *folders, top
            )
            return await work
        except (CounterpointError, OSError):
            for one in (job, other or job):  # forgotten meanwhile?
                self.find(one.id)
            raise
        finally:
            self._explaining -= 1

    def forget(self, job: Job) -> None:
        """Stop a job and remove what is known of its clip; Refused for an example."""
        if job.lasting:
            raise Refused(403, f"{job.name}: an example, which stays")
        self._forget(job)

    def _forget(self, job: Job) -> None:
        del self._jobs[job.id]
        if job.work:
            job.work.cancel()
        shutil.rmtree(job.folder, ignore_errors=True)

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
                for job in self._jobs.values()
                if job.lasting and job.state != "failed"
            ]
        )

    def media(self, job: str) -> Path:
        """An example's video file; Refused where there is none."""
        found = self.find(job)
        if not found.lasting or found.source is None:
            raise Refused(404, "not an example's video")
        return found.source


def _ended(job: Job) -> float:
    return job.ended
