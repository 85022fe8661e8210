"""Commands as processes of their own, which can be killed at a chosen moment.

They are forked from a server that has loaded PyTorch, so that each begins in a moment.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from random import Random

EVENTS = frozenset(("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "sqlite3.connect"))
"""What happens to files, as Python's audit hooks tell it."""

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["processes", "counterpoint.cli.main", "counterpoint.training.train", "optuna"])


class Command:
    """A `counterpoint` command in a process of its own.

    Args:
        arguments: those after `counterpoint`.
        folder: what happens to files below it is counted, from the command's beginning.
        kill_at: the event before which the process is killed (SIGKILL), or so many seconds ``later``.
        prepare: is called first, in the process.
    """

    def __init__(
        self,
        arguments: list[str],
        folder: Path,
        kill_at: int = 0,
        later: float = 0.0,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        self.printed = folder / "output.txt"
        self.printed.unlink(missing_ok=True)
        given = (arguments, str(folder), self.printed, kill_at, later, prepare)
        self.process: ForkServerProcess = context.Process(target=_run, args=given)
        self.process.start()

    def wait(self) -> int:
        """The exit code; -9 if it was killed."""
        self.process.join()
        assert self.process.exitcode is not None
        return self.process.exitcode

    @property
    def output(self) -> str:
        """What it wrote."""
        return self.printed.read_text(encoding="utf-8")

    @property
    def events(self) -> int:
        """How much happened to files, once it has ended by itself."""
        return int(self.output.rpartition("\n")[2])


def _run(
    arguments: list[str], folder: str, output: Path, kill_at: int, later: float, prepare: Callable[[], None] | None
) -> None:
    import torch

    from counterpoint.cli.main import main

    torch.set_num_threads(1)
    if prepare:
        prepare()
    seen = 0

    def watch(event: str, details: tuple[object, ...]) -> None:
        nonlocal seen
        if event in EVENTS and any(
            isinstance(each, str | os.PathLike) and folder in os.fspath(each) for each in details
        ):
            seen += 1
            if seen == kill_at:
                if later:
                    threading.Timer(later, os.kill, (os.getpid(), signal.SIGKILL)).start()
                else:
                    os.kill(os.getpid(), signal.SIGKILL)

    with output.open("w", buffering=1, encoding="utf-8") as out, redirect_stdout(out), redirect_stderr(out):
        sys.addaudithook(watch)
        try:
            code = main(arguments)
        except SystemExit as stopped:
            code = stopped.code if isinstance(stopped.code, int) else 1
        events = seen
        out.write(f"\n{events}")
    os._exit(code)


def killed(
    arguments: list[str],
    folder: Path,
    events: int,
    times: int,
    random: Random,
    prepare: Callable[[], None] | None = None,
) -> int:
    """Kill a command so many times at random, then let it end; returns how often it was killed before it had ended."""
    for kills, moment in enumerate([*(random.randint(1, events) for _ in range(times)), 0]):
        later = random.choice((0.0, 0.0, random.uniform(0, 0.1)))
        command = Command(arguments, folder, moment, later, prepare)
        if (code := command.wait()) != -signal.SIGKILL:
            # `train` refuses a run that was killed when all was done but to say so.
            assert code == 0 or "holds a finished run" in command.output, command.output
            return kills
    raise AssertionError("killed by another process")
