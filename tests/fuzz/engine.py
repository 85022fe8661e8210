"""Draw inputs, check them, tell what was found.

    PYTHONPATH=tests python -m fuzz [TARGET ...] --inputs 100000 --seconds 60 --seed 0 --jobs 2

Inputs are checked in child processes, so that a crash and a hang are findings too; the search goes on with the next
input. Found inputs are written to a folder: one that is understood and put right belongs into `tests/fuzz/cases`.
"""

import argparse
import multiprocessing
import os
import resource
import sys
import time
import traceback
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from fuzz import films, folders, payloads, shards, tables
from fuzz.target import Target, clear

TARGETS = {target.name: target for part in (payloads, shards, tables, folders, films) for target in part.TARGETS}
BEGIN = 600.0  # seconds that a child may take before its first input
MEMORY = 12 << 30  # bytes of address space; what asks for more has believed a number in its input


def _work(name: str, seed: int, numbers: range, until: float, at: Any, taken: Any, found: Any) -> None:
    """In a child: check inputs; ``at`` is the one that is being checked."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 2)  # what libraries have to say about broken files
    target = TARGETS[name]
    try:
        for number in numbers:
            at.value = number
            try:
                taken.value += target.check(target.input(seed, number))
            except Exception:
                found.put((number, traceback.format_exc()))
            if time.time() > until:
                at.value = number + numbers.step
                return
        at.value = numbers.stop
    finally:
        clear()


class Worker:
    """One child at a time, begun anew after an input that ended it."""

    def __init__(self, target: Target, seed: int, numbers: range, until: float) -> None:
        context = multiprocessing.get_context("spawn")
        self.target, self.seed, self.numbers, self.until = target, seed, numbers, until
        self.at, self.taken, self.found = context.Value("q", -1), context.Value("q", 0), context.Queue()
        self.context, self.findings = context, list[tuple[int, str]]()
        self.begin(numbers.start)

    def begin(self, number: int) -> None:
        self.last, self.since = -1, time.monotonic()
        numbers = range(number, self.numbers.stop, self.numbers.step)
        arguments = (self.target.name, self.seed, numbers, self.until, self.at, self.taken, self.found)
        self.at.value = -1
        self.process: SpawnProcess = self.context.Process(target=_work, args=arguments)
        self.process.start()

    def going(self) -> bool:
        """Look after the child; False once it is through."""
        while not self.found.empty():
            self.findings.append(self.found.get())
        number = self.at.value
        if number != self.last:
            self.last, self.since = number, time.monotonic()
        alive = self.process.is_alive()
        if alive and time.monotonic() - self.since < (
            self.target.seconds if 0 <= number < self.numbers.stop else BEGIN
        ):
            return True
        if alive:
            self.process.kill()
        self.process.join()
        if not alive and self.process.exitcode == 0:
            while not self.found.empty():
                self.findings.append(self.found.get())
            return False
        if number < 0:
            raise RuntimeError(f"the child did not begin (exit code {self.process.exitcode})")
        message = (
            f"took more than {self.target.seconds:g} s" if alive else f"crashed (exit code {self.process.exitcode})"
        )
        self.findings.append((number, message))
        if time.time() < self.until and number + self.numbers.step < self.numbers.stop:
            self.begin(number + self.numbers.step)
            return True
        return False

    @property
    def done(self) -> int:
        return len(range(self.numbers.start, min(max(0, int(self.at.value)), self.numbers.stop), self.numbers.step))


def fuzz(target: Target, seed: int, inputs: int, seconds: float, jobs: int, keep: Path) -> int:
    """Check a target's inputs; returns how many findings there are, which are printed and kept."""
    begun, until = time.monotonic(), time.time() + seconds
    workers = [Worker(target, seed, range(job, inputs, jobs), until) for job in range(jobs)]
    while sum(worker.going() for worker in workers):  # all of them are looked after
        time.sleep(0.2)
    done, taken = sum(worker.done for worker in workers), sum(worker.taken.value for worker in workers)
    findings = sorted(finding for worker in workers for finding in worker.findings)
    took = time.monotonic() - begun
    print(
        f"{target.name:16} {done:>9,} inputs, {taken:>9,} taken, {len(findings)} findings ({took:.0f} s, seed {seed})"
    )
    for number, message in findings:
        keep.mkdir(parents=True, exist_ok=True)
        path = keep / f"{target.name}-{seed}-{number}.bin"
        path.write_bytes(target.input(seed, number))
        print(f"  {path}: {message.strip().splitlines()[-1][:200]}")
    sys.stdout.flush()
    return len(findings)


def main() -> int:
    parser = argparse.ArgumentParser(description="Search for inputs that parsers handle wrongly.")
    parser.add_argument("targets", nargs="*", default=list(TARGETS), help=f"of {', '.join(TARGETS)} (all)")
    parser.add_argument("--inputs", type=int, default=1000, help="of each target (1000)")
    parser.add_argument("--seconds", type=float, default=1e9, help="for each target at most")
    parser.add_argument("--seed", type=int, default=None, help="another one each time if not given")
    parser.add_argument("--jobs", type=int, default=1, help="processes (1)")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-found"), help="where found inputs go (fuzz-found)")
    args = parser.parse_args()
    if unknown := set(args.targets) - set(TARGETS):
        parser.error(f"no target {min(unknown)}")
    seed = int(time.time()) if args.seed is None else args.seed
    return int(sum(fuzz(TARGETS[t], seed, args.inputs, args.seconds, args.jobs, args.keep) for t in args.targets) > 0)
