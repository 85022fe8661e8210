"""The verb `serve`; what it needs is imported when it runs, as in `counterpoint.cli.main`."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import PositiveFloat, PositiveInt

from counterpoint.errors import Error
from counterpoint.serve.settings import KEY, MEGABYTE, Settings, read_key

DEFAULT = Settings()


def add(verbs: Any, verb: Callable[..., ArgumentParser]) -> None:
    """Add the verb to the command line's parser; ``verb`` makes its parser."""
    from counterpoint.cli import main as cli

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    sub = verb(verbs, "serve", serve)
    sub.add_argument("run", help=cli.RUN_HELP)
    sub.add_argument("--host", default="127.0.0.1", help="the address to listen at; 0.0.0.0: all of this machine's")
    sub.add_argument("--port", type=int, default=8000, help="0: any that is free")
    sub.add_argument("--examples", default=None, metavar="FOLDER", help="video files and shards that the page offers")
    sub.add_argument(
        "--key-file", default=None, metavar="FILE", help=f"requests must carry the key in it (or in ${KEY})"
    )
    told = "names that it is reached by, against pages that rebind theirs (on this machine: localhost; else any)"
    sub.add_argument("--hosts", nargs="*", default=[], metavar="NAME", help=told)
    sub.add_argument("--workers", type=PositiveInt, default=cores, help="video files decoded at a time")
    sub.add_argument(
        "--capacity", type=PositiveInt, default=DEFAULT.capacity, help="clips that may wait; more are refused with 429"
    )
    sub.add_argument(
        "--max-megabytes",
        type=PositiveFloat,
        default=DEFAULT.max_bytes / MEGABYTE,
        help="larger uploads are refused with 413",
    )
    sub.add_argument(
        "--max-seconds", type=PositiveInt, default=DEFAULT.max_seconds, help="longer videos are refused with 413"
    )
    sub.add_argument("--max-pixels", type=PositiveInt, default=DEFAULT.max_pixels, help="larger pictures are refused")
    sub.add_argument(
        "--max-clips", type=PositiveInt, default=DEFAULT.max_clips, help="clips of a batch; more are refused with 413"
    )
    sub.add_argument(
        "--time-limit", type=PositiveFloat, default=DEFAULT.time_limit, help="seconds that one video file may take"
    )
    sub.add_argument(
        "--memory-megabytes",
        type=PositiveFloat,
        default=DEFAULT.memory / MEGABYTE,
        help="memory that decoding one file may take",
    )
    sub.add_argument(
        "--keep-minutes", type=PositiveFloat, default=DEFAULT.keep_seconds / 60, help="how long answers can be had for"
    )
    sub.add_argument("--keep-jobs", type=PositiveInt, default=DEFAULT.keep_jobs, help="how many at most")
    sub.add_argument("--stop-seconds", type=PositiveFloat, default=60.0, help="time to finish in, when told to stop")


def serve(args: Namespace) -> int:
    """Serve a run to people (a page) and to programs (an HTTP API)."""
    from counterpoint.cli import main as cli

    try:
        from counterpoint.serve.app import serve as serve_run
        from counterpoint.serve.gate import host_names
    except ModuleNotFoundError as error:
        raise Error(f"{error.name} is missing: pip install 'counterpoint[serve]'") from error

    settings = Settings(
        workers=args.workers,
        max_bytes=round(args.max_megabytes * MEGABYTE),
        max_seconds=args.max_seconds,
        max_pixels=args.max_pixels,
        time_limit=args.time_limit,
        memory=round(args.memory_megabytes * MEGABYTE),
        capacity=args.capacity,
        max_clips=args.max_clips,
        keep_seconds=60 * args.keep_minutes,
        keep_jobs=args.keep_jobs,
        key=read_key(args.key_file),
        hosts=host_names(args.host, args.hosts),
        examples=Path(args.examples) if args.examples else None,
    )
    serve_run(args.run, settings, args.host, args.port, stop_seconds=args.stop_seconds, report=cli._say)
    return 0
