"""The page's server, at one address of this machine."""

import contextlib
from collections.abc import Callable

import uvicorn

from counterpoint.browse.app import build
from counterpoint.browse.clips import Clips
from counterpoint.serve.server import bind
from counterpoint.serve.settings import LOCAL, is_loopback


def serve(clips: Clips, host: str, port: int, query: str, say: Callable[[str], None]) -> None:
    """Serve until interrupted.

    Args:
        query: what the page that is named begins with.
        say: is told where the page is.

    Raises:
        Error: the address cannot be listened at.
    """
    local = host in LOCAL or is_loopback(host)
    if not local:
        say(f"open to everybody who can reach {host}")
    with bind(host, port) as socket:
        name, number = socket.getsockname()[:2]
        where = f"[{name}]" if ":" in name else name
        config = uvicorn.Config(
            build(clips, (*LOCAL, where) if local else ()),
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=5,
        )
        say(f"{len(clips):,} clips at http://{where}:{number}/{query} (Ctrl-C ends it)")
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[socket])
