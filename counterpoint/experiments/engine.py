"""Jobs with dependencies. A job leaves one file when it is done: jobs whose file exists are kept, the rest is run.

Any number of processes may be given the same jobs: each job is claimed by a lock, which the system releases if the
process dies. A job that was killed goes on with what it had begun.
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
from rich.progress import track

from counterpoint.errors import UNREADABLE, Error
from counterpoint.files import naming
from counterpoint.tables import Table

LOCKS = "locks"
LOG = "jobs.jsonl"
PATIENCE = 2.0  # seconds between two looks at the jobs of other processes


@dataclass(frozen=True, eq=False)
class Job:
    """Something to do.

    Attributes:
        name: for people, unique.
        kind: jobs of one kind take about as long.
        done: the file that it leaves, written whole or not at all.
        work: does it; returns a short result to print, or nothing.
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
        """What was added; a line that a killed process left unfinished is skipped."""
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
            with locked(folder, job.name) as held:
                if not held or job.finished:
                    continue
                waiting = False
                left = duration(estimate.seconds(pending))
                _print(console, f"[{len(jobs) - len(pending) + 1}/{len(jobs)}] {job.name}  ({left} left)")
                started = time.monotonic()
                result = job.work()
                seconds = time.monotonic() - started
                if not job.done.exists():
                    raise Error(f"{job.name}: left no {job.done}")
                log.add(job, seconds, made_by)
                if result:
                    _print(console, f"    {result}  ({duration(seconds)})")
                break
        else:
            if not waiting:
                _print(console, "waiting for jobs that another process has begun")
            waiting = True
            time.sleep(PATIENCE)


def plan(jobs: Sequence[Job], folder: Path, console: Console) -> Table:
    """What would run, and about how long it would take: two steps of each kind of training are timed."""
    estimate = Estimate(Log(folder))
    rows = []
    kinds = list(dict.fromkeys(job.kind for job in jobs))
    for kind in track(kinds, "timing", console=console, transient=True, disable=not console.is_terminal):
        alike = [job for job in jobs if job.kind == kind]
        left = [job for job in alike if not job.finished]
        seconds = estimate.seconds(left)
        rows.append([kind, str(len(alike) - len(left)), str(len(left)), duration(seconds) if seconds else ""])
    left = [job for job in jobs if not job.finished]
    caption = (
        f"{len(left)} of {len(jobs)} jobs to do, about {duration(estimate.seconds(left))} if every training needs all "
        "of its epochs; measured as jobs finish"
    )
    return Table("", ["kind of job", "done", "to do", "about"], rows, caption)


@contextmanager
def locked(folder: Path, name: str, wait: bool = False) -> Iterator[bool]:
    """Hold an experiment's lock of that name; False where another process has it and this one does not ``wait``."""
    locks = folder / LOCKS
    locks.mkdir(parents=True, exist_ok=True)
    lock = FileLock(locks / f"{name.replace('/', '-').replace(' ', '-')}.lock")
    try:
        lock.acquire(blocking=wait)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _print(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


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
