"""Jobs with dependencies, each of which leaves one file when it is done: what is there is kept, the rest is run.

Any number of processes may be given the same jobs: each is claimed by a lock, which the system releases if the process
dies. What a job had begun when it was killed is its own to go on with.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console

from counterpoint.errors import UNREADABLE, Error
from counterpoint.files import naming

LOCKS = "locks"
LOG = "jobs.jsonl"
PATIENCE = 2.0  # seconds between two looks at what other processes have done


@dataclass(frozen=True, eq=False)
class Job:
    """Something to do.

    Attributes:
        name: for people, unique.
        kind: jobs of one kind take about as long.
        done: the file that it leaves, written whole or not at all.
        work: does it; returns what is worth telling, or nothing.
        needs: jobs that must be done before.
        guess: about how many seconds it takes at most, where no job of its kind was measured yet.
    """

    name: str
    kind: str
    done: Path
    work: Callable[[], str]
    needs: tuple["Job", ...] = ()
    guess: Callable[[], float] | None = field(default=None, repr=False)

    @property
    def finished(self) -> bool:
        return self.done.exists()


class Log:
    """How long finished jobs took, one JSON line each; several processes may append."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOG

    def add(self, job: Job, seconds: float, made_by: Mapping[str, str]) -> None:
        ended = datetime.now(UTC).isoformat(timespec="seconds")
        line = {"job": job.name, "kind": job.kind, "seconds": round(seconds, 2), **made_by, "ended": ended}
        with naming(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def lines(self) -> list[dict[str, str | float]]:
        """What was added; a line that a killed process left unfinished is passed over."""
        found = []
        for text in self.path.read_bytes().splitlines() if self.path.exists() else []:
            try:
                line = json.loads(text)
                found.append({**line, "seconds": max(0.0, float(line["seconds"])), "kind": str(line["kind"])})
            except UNREADABLE:
                continue
        return found

    @property
    def seconds(self) -> float:
        return sum(float(line["seconds"]) for line in self.lines())


class Estimate:
    """The time that jobs will take: as long as those of their kind did, or a guess, which is an upper bound."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.guesses: dict[str, float] = {}

    def seconds(self, jobs: Sequence[Job]) -> float:
        measured: dict[str, list[float]] = {}
        for line in self.log.lines():
            measured.setdefault(str(line["kind"]), []).append(float(line["seconds"]))
        total = 0.0
        for job in jobs:
            if job.kind in measured:
                total += sum(measured[job.kind]) / len(measured[job.kind])
            elif job.guess is not None:
                if job.kind not in self.guesses:
                    self.guesses[job.kind] = job.guess()
                total += self.guesses[job.kind]
        return total


def run(jobs: Sequence[Job], folder: Path, console: Console, made_by: Mapping[str, str]) -> None:
    """Do every job that is not done, in their order as far as their needs allow; returns when all are done.

    Args:
        made_by: what to log with each job: the commit and the hardware.

    Raises:
        Error: a job needs one that is not among the jobs.
    """
    log = Log(folder)
    estimate = Estimate(log)
    waiting = False
    while pending := [job for job in jobs if not job.finished]:
        ready = [job for job in pending if all(need.finished for need in job.needs)]
        if not ready and not any(need in pending for job in pending for need in job.needs):
            raise Error(f"{pending[0].name}: needs what no job makes")
        for job in ready:
            with _claimed(folder, job) as mine:
                if not mine or job.finished:
                    continue
                waiting = False
                left = duration(estimate.seconds(pending))
                console.print(
                    f"[{len(jobs) - len(pending) + 1}/{len(jobs)}] {job.name}  ({left} left)",
                    markup=False,
                    highlight=False,
                    soft_wrap=True,
                )
                started = time.monotonic()
                told = job.work()
                seconds = time.monotonic() - started
                if not job.done.exists():
                    raise Error(f"{job.name}: left no {job.done}")
                log.add(job, seconds, made_by)
                if told:
                    console.print(f"    {told}  ({duration(seconds)})", markup=False, highlight=False, soft_wrap=True)
                break
        else:
            if not waiting:
                console.print("waiting for jobs that another process has begun", highlight=False)
            waiting = True
            time.sleep(PATIENCE)


@contextmanager
def _claimed(folder: Path, job: Job) -> Iterator[bool]:
    """Whether the job is this process's to do."""
    locks = folder / LOCKS
    locks.mkdir(parents=True, exist_ok=True)
    lock = FileLock(locks / f"{job.name.replace('/', '-').replace(' ', '-')}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def duration(seconds: float) -> str:
    """For people.

    >>> duration(42), duration(200), duration(5000), duration(200_000)
    ('42 s', '3 min', '1 h 23 min', '2 d 7 h')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"
