"""Clips on their way to an answer: the state of each, and how long it is kept."""

import asyncio
import math
import secrets
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from counterpoint.data.clip import Clip
from counterpoint.data.tfrecord import forget_maps
from counterpoint.predict import Prediction
from counterpoint.serve import encoding
from counterpoint.serve.settings import RefusedError, Settings

SWEEP = 1.0  # seconds between two removals of expired jobs
SHARES = {"waiting": 0.0, "decoding": 0.0, "categorizing": 0.95, "finished": 1.0}
"""The fraction that is done when a stage begins."""


@dataclass(eq=False)
class Job:
    """A clip on its way to an answer."""

    id: str
    name: str
    kind: Literal["video", "features"]
    folder: Path
    """The clip's shard, with its thumbnails."""
    record: int = 0
    """The clip's number in the shard."""
    source: Path | None = None
    """The video file."""
    clip: Clip | None = None
    """The clip, until it is categorized."""
    refused: RefusedError | None = None
    """The reason why there is no clip to work on."""
    is_example: bool = False
    """Examples do not expire."""
    state: Literal["running", "done", "failed"] = "running"
    stage: Literal["waiting", "decoding", "categorizing", "finished"] = "waiting"
    begun: float = field(default_factory=time.monotonic)
    ended: float = math.inf
    seconds: int = 0
    modalities: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    prediction: Prediction | None = None
    status: int = 200
    detail: str = ""
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    fetched: bool = False
    """Whether its client has fetched the result."""
    task: "asyncio.Task[None] | None" = None

    @property
    def fraction(self) -> float:
        """The fraction that is done, from 0 to 1."""
        decoded = encoding.progress(self.folder) if self.stage == "decoding" else 0.0
        return SHARES[self.stage] + decoded * SHARES["categorizing"]


class Jobs:
    """All jobs. Each has a folder in ``folder``, which the clips of one shard share."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder = folder
        self.settings = settings
        self.all: dict[str, Job] = {}
        self._sharing: dict[Path, set[str]] = {}

    def new(self, name: str, kind: Literal["video", "features"], beside: Job | None = None) -> Job:
        """A job that is not in ``all`` yet; ``beside`` is a job whose folder holds its clip too."""
        number = secrets.token_hex(16)
        job = Job(number, name, kind, beside.folder if beside else self.folder / number)
        if beside is None:
            job.folder.mkdir()
        self._sharing.setdefault(job.folder, set()).add(job.id)
        return job

    def clear(self, job: Job) -> None:
        """Remove a job's folder, once no other job's clip is kept there."""
        sharing = self._sharing.get(job.folder, set())
        sharing.discard(job.id)
        if not sharing:
            self._sharing.pop(job.folder, None)
            shutil.rmtree(job.folder, ignore_errors=True)
            forget_maps()

    def find(self, job: str) -> Job:
        """The job with this id; RefusedError where there is none."""
        if job not in self.all:
            raise RefusedError(404, "no such job, or its answer has expired")
        return self.all[job]

    @property
    def held(self) -> int:
        """The number of clients' clips that wait or are worked on."""
        return sum(job.task is not None and not job.is_example for job in self.all.values())

    def unfetched(self, seconds: float) -> bool:
        """Whether the client of a job that ended within so many seconds has not fetched the result yet."""
        last = time.monotonic() - seconds
        return any(not job.fetched and not job.is_example and job.ended > last for job in self.all.values())

    def forget(self, job: Job) -> None:
        """Stop a job and remove its clip and answer; RefusedError for an example."""
        if job.is_example:
            raise RefusedError(403, f"{job.name}: examples cannot be deleted")
        self._forget(job)

    def _forget(self, job: Job) -> None:
        del self.all[job.id]
        if job.task:
            job.task.cancel()
        self.clear(job)

    async def sweep(self) -> None:
        """Forget expired jobs, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP)
            finished = [job for job in self.all.values() if job.finished.is_set() and not job.is_example]
            finished.sort(key=lambda job: job.ended)
            surplus = len(finished) - self.settings.keep_jobs
            last = time.monotonic() - self.settings.keep_seconds
            for number, job in enumerate(finished):
                if number < surplus or job.ended < last:
                    self._forget(job)

    async def abandon(self) -> None:
        """Cancel all jobs that are being worked on."""
        tasks = [job.task for job in self.all.values() if job.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
