"""Uvicorn that finishes what it holds before it goes."""

import os
import socket
import time
from collections.abc import Callable
from types import FrameType

import uvicorn

from counterpoint.errors import Error
from counterpoint.serve.app import build
from counterpoint.serve.service import Service

GRACE = 5  # seconds for requests that are still open when the patience is over
FETCHING = 5.0  # seconds for which answers that nobody has heard yet can still be asked for


class Server(uvicorn.Server):
    """On SIGTERM or SIGINT takes nothing new, works on, goes on answering, and ends when all is done.

    Args:
        patience: seconds that this may take; a second signal ends it at once.
        started: is called when requests are answered.
    """

    def __init__(self, service: Service, patience: float, started: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                build(service),
                log_level="warning",
                access_log=False,
                server_header=False,
                lifespan="on",
                timeout_graceful_shutdown=GRACE,
            )
        )
        self.service = service
        self.patience = patience
        self.on_started = started
        self._asked: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Load what is needed, and say so."""
        await super().startup(sockets)
        self.on_started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal asks, the second insists."""
        if self.service.stopping:
            super().handle_exit(sig, frame)
        else:
            self.service.stopping = True
            self._asked = time.monotonic()

    async def on_tick(self, counter: int) -> bool:
        """Uvicorn asks ten times a second whether to end."""
        if self._asked is not None:
            jobs = self.service.jobs
            done = not jobs.held and not self.service.uploads and not jobs.unfetched(FETCHING)
            self.should_exit |= done or time.monotonic() - self._asked > self.patience
        return await super().on_tick(counter)


def bind(host: str, port: int) -> socket.socket:
    """The socket to listen at.

    Raises:
        Error: there is no such address, or somebody else has it.
    """
    if not 0 <= port < 2**16:  # the system would take what is left of it
        raise Error(f"{host}:{port}: ports go from 0 to {2**16 - 1}; --port names another")
    try:
        (family, _, _, _, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        told = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise Error(f"{host}:{port}: {told}; --host and --port name another address") from error
