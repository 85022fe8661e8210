"""The verb `serve`; what it needs is imported when it runs, as in `counterpoint.cli.main`."""

import ipaddress
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import PositiveFloat, PositiveInt

from counterpoint.errors import Error
from counterpoint.serve.settings import MEGABYTE, Settings

KEY = "COUNTERPOINT_API_KEY"
LOCAL = ("localhost", "127.0.0.1", "[::1]")
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
        from counterpoint.serve.server import Server, bind
        from counterpoint.serve.service import Service
    except ModuleNotFoundError as error:
        raise Error(f"{error.name} is missing: pip install 'counterpoint[serve]'") from error

    if ported := [host for host in args.hosts if ":" in host and not (host.startswith("[") and host.endswith("]"))]:
        raise Error(f"--hosts {ported[0]}: a name without a port, an IPv6 address in brackets")
    local = args.host in LOCAL or is_loopback(args.host)
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
        key=_key(args.key_file),
        hosts=tuple(host.lower() for host in (*args.hosts, *((*LOCAL, args.host) if local or args.hosts else ()))),
        examples=Path(args.examples) if args.examples else None,
    )
    with bind(args.host, args.port) as socket:
        service = Service(args.run, settings)
        if not service.about.videos:
            cli._say(f"feature records alone, no video files: {service.no_videos}")
        if not local and settings.key is None:
            cli._say(f"open to everybody who can reach {args.host}: --key-file or ${KEY} sets a key")
        host, port = socket.getsockname()[:2]
        where = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
        server = Server(service, args.stop_seconds, lambda: cli._say(f"serving {args.run} at {where}"))
        server.run(sockets=[socket])
    return 0


def is_loopback(host: str) -> bool:
    """Whether an address is one of this machine's own, which no other reaches."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _key(file: str | None) -> str | None:
    if file is None:
        return os.environ.get(KEY, "").strip() or None
    try:
        key = Path(file).read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise Error(f"{file}: not a key in UTF-8 ({error})") from error
    if not key:
        raise Error(f"{file}: no key in it")
    return key
