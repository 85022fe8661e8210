"""Clips on their way to an answer: what is known of each, and for how long."""

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
from counterpoint.serve import answers, encoding
from counterpoint.serve.settings import RefusedError, Settings

SWEEP = 1.0  # seconds between looks for what has expired
SHARES = {"waiting": 0.0, "decoding": 0.0, "categorizing": 0.95, "finished": 1.0}
"""How much is done when a stage begins."""


@dataclass(eq=False)
class Job:
    """A clip on its way."""

    id: str
    name: str
    kind: Literal["video", "features"]
    folder: Path
    """Where the clip's features are, and what else is kept of it."""
    record: int = 0
    """Which of the clips there it is."""
    source: Path | None = None
    """The video file."""
    clip: Clip | None = None
    """Until it is categorized."""
    refused: RefusedError | None = None
    """Why there is no clip to work on."""
    lasting: bool = False
    """An example's, which does not expire."""
    state: Literal["running", "done", "failed"] = "running"
    stage: Literal["waiting", "decoding", "categorizing", "finished"] = "waiting"
    begun: float = field(default_factory=time.monotonic)
    ended: float = math.inf
    seconds: int = 0
    modalities: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    said: Prediction | None = None
    status: int = 200
    detail: str = ""
    over: asyncio.Event = field(default_factory=asyncio.Event)
    fetched: bool = False
    """Whether its client has heard how it ended."""
    work: "asyncio.Task[None] | None" = None

    @property
    def fraction(self) -> float:
        """How much is done, from 0 to 1."""
        decoded = encoding.progress(self.folder) if self.stage == "decoding" else 0.0
        return SHARES[self.stage] + decoded * SHARES["categorizing"]

    def told(self, answer: answers.Answer | None) -> answers.Job:
        """How far it is, with its answer if it is done."""
        failed = self.state == "failed"
        return answers.Job(
            id=self.id,
            name=self.name,
            state=self.state,
            stage=self.stage,
            fraction=self.fraction,
            answer=answer,
            status=self.status if failed else None,
            detail=self.detail if failed else None,
        )


class Jobs:
    """All jobs. Each has a folder in ``folder``, which the clips of one shard share."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder = folder
        self.settings = settings
        self.all: dict[str, Job] = {}
        self._sharing: dict[Path, set[str]] = {}

    def new(self, name: str, kind: Literal["video", "features"], beside: Job | None = None) -> Job:
        """A job that is not among the others yet; ``beside`` is one whose folder holds its clip too."""
        number = secrets.token_hex(16)
        job = Job(number, name, kind, beside.folder if beside else self.folder / number)
        if beside is None:
            job.folder.mkdir()
        self._sharing.setdefault(job.folder, set()).add(job.id)
        return job

    def clear(self, job: Job) -> None:
        """Remove what is kept of a job's clip, once no other job's clip is kept there."""
        sharing = self._sharing.get(job.folder, set())
        sharing.discard(job.id)
        if not sharing:
            self._sharing.pop(job.folder, None)
            shutil.rmtree(job.folder, ignore_errors=True)
            forget_maps()

    def find(self, job: str) -> Job:
        """The job of this id; RefusedError where there is none."""
        if job not in self.all:
            raise RefusedError(404, "no such job, or its answer has expired")
        return self.all[job]

    @property
    def held(self) -> int:
        """Clips of clients that wait or are worked on."""
        return sum(job.work is not None and not job.lasting for job in self.all.values())

    def unfetched(self, seconds: float) -> bool:
        """Whether a job that ended within so many seconds has a client that has not heard of it yet."""
        last = time.monotonic() - seconds
        return any(not job.fetched and not job.lasting and job.ended > last for job in self.all.values())

    def forget(self, job: Job) -> None:
        """Stop a job and remove what is known of its clip; RefusedError for an example."""
        if job.lasting:
            raise RefusedError(403, f"{job.name}: an example, which stays")
        self._forget(job)

    def _forget(self, job: Job) -> None:
        del self.all[job.id]
        if job.work:
            job.work.cancel()
        self.clear(job)

    async def sweep(self) -> None:
        """Forget what has expired, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP)
            over = [job for job in self.all.values() if job.over.is_set() and not job.lasting]
            over.sort(key=lambda job: job.ended)
            surplus = len(over) - self.settings.keep_jobs
            last = time.monotonic() - self.settings.keep_seconds
            for number, job in enumerate(over):
                if number < surplus or job.ended < last:
                    self._forget(job)

    async def abandon(self) -> None:
        """Give up what is being worked on."""
        works = [job.work for job in self.all.values() if job.work]
        for work in works:
            work.cancel()
        await asyncio.gather(*works, return_exceptions=True)
