"""Middleware before the application: who may ask, how much may be sent and how many may wait.

All of it is decided from a request's head, before its body is read; the body is counted as it comes. `Guard` serves the
page of `counterpoint browse` too.
"""

import asyncio
import hmac
import ipaddress
import os
import re
import socket
import tempfile
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import ClassVar

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from counterpoint.errors import Error, redacted
from counterpoint.files import FULL
from counterpoint.serve.service import UPLOAD, Service, log
from counterpoint.serve.settings import MEGABYTE, RefusedError

UPLOADS = ("/v1/categorize", "/v1/categorize/batch")
PAGE = Path(__file__).with_name("page")
"""The page's files. Beside the examples, the server serves no other files."""
OPEN = frozenset({"/healthz", "/openapi.json", "/"} | {f"/{path.name}" for path in PAGE.iterdir()})
"""Paths that need no key: the page asks for it, and a monitor of the server has none."""
METHODS = ("GET", "HEAD", "POST", "DELETE", "OPTIONS")
NO_STATUS = 0  # no answer has begun
IDLE_SECONDS = 30.0  # without a byte of an upload
DRAIN_BYTES, DRAIN_SECONDS = 64 * MEGABYTE, 10.0  # of a refused upload that are read before its connection is closed

HEAD_SECONDS = 10.0  # that a request's head may take
LEAST_RATE, PATIENCE_SECONDS = 4096, 10.0  # bytes a second of an upload, after so many seconds

LOCAL = ("localhost", "127.0.0.1", "[::1]")
"""Names of this machine that no other machine reaches."""

# The page's scripts and styles are in files of their own, its frames in data: and its videos in blob: URIs.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data: blob:; "
    "media-src 'self' blob:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
SECURITY = {
    "content-security-policy": POLICY,
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


# --- addresses and names ----------------------------------------------------------------------------------------------


def bind(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 is any free port.

    Raises:
        Error: there is no such address, or another process uses it.
    """
    if not 0 <= port < 2**16:  # the system would take it modulo 2**16
        raise Error(f"{host}:{port}: ports go from 0 to {2**16 - 1}; --port names another")
    try:
        (family, _, _, _, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        made = socket.create_server(address[:2], family=family)
        # asyncio turns Nagle's algorithm off, which delays answers by 40 ms, only where a socket names its protocol.
        return socket.socket(made.family, made.type, socket.IPPROTO_TCP, made.detach())
    except OSError as error:
        reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise Error(f"{host}:{port}: {reason}; --host and --port name another address") from error


def url_of(bound: socket.socket) -> str:
    """The address of a bound socket's page."""
    host, port = bound.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def is_local(host: str) -> bool:
    """Whether an address is one of this machine's own, which no other machine reaches."""
    return host in LOCAL or is_loopback(host)


def is_loopback(host: str) -> bool:
    """Whether an IP address is a loopback address.

    >>> is_loopback("127.0.0.2"), is_loopback("::1"), is_loopback("0.0.0.0"), is_loopback("localhost")
    (True, True, False, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_names(host: str, names: Collection[str] = ()) -> tuple[str, ...]:
    """The names that a server at ``host`` answers to, against pages elsewhere that give this machine a name of theirs.

    Args:
        names: further names, each without a port. An IPv6 address stands in brackets.

    Returns:
        The names in lower case; empty: any name, where the host is open to other machines and no name is given.

    Raises:
        Error: a name has a port.

    >>> host_names("0.0.0.0"), host_names("127.0.0.1", ["Films.example.org"])
    ((), ('films.example.org', 'localhost', '127.0.0.1', '[::1]', '127.0.0.1'))
    """
    if ported := [name for name in names if ":" in name and not (name.startswith("[") and name.endswith("]"))]:
        raise Error(f"--hosts {ported[0]}: a name without a port, an IPv6 address in brackets")
    if not names and not is_local(host):
        return ()
    own = f"[{host}]" if ":" in host else host
    return tuple(name.lower() for name in (*names, *LOCAL, own))


class TimelyProtocol(AutoHTTPProtocol):  # type: ignore[misc,valid-type]
    """uvicorn's, which ends connections whose next request's head does not come: thousands would hold its files."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
        elif self._late is None:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._late = asyncio.get_running_loop().call_later(HEAD_SECONDS, self._end)

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _end(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


# --- refusals ---------------------------------------------------------------------------------------------------------


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """A refusal as an HTTP response."""
    return JSONResponse({"detail": detail}, status, dict(headers or {}))


def is_full(error: BaseException | None) -> bool:
    """Whether an error came of a disk that is full, which is no fault of the client's."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


def disk_full() -> JSONResponse:
    """The answer while the server's disk is full."""
    log.error("the disk is full: %s", tempfile.gettempdir())
    return problem(507, "the server's disk is full; try again later", {"Retry-After": "30"})


def handle_errors(app: FastAPI) -> None:
    """Answer every refusal and error of the library with one line."""

    async def refused(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RefusedError)
        return disk_full() if is_full(error) else problem(error.status, error.detail, error.headers)

    async def other(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, StarletteHTTPException)
        return disk_full() if is_full(error) else problem(error.status_code, str(error.detail), error.headers)

    async def unreadable(request: Request, error: Exception) -> JSONResponse:
        return disk_full() if is_full(error) else problem(422, redacted(str(error)))

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        return problem(422, f"{'.'.join(map(str, first['loc']))}: {first['msg']}")

    app.add_exception_handler(RefusedError, refused)
    app.add_exception_handler(StarletteHTTPException, other)
    app.add_exception_handler(Error, unreadable)
    app.add_exception_handler(RequestValidationError, invalid)


# --- middleware -------------------------------------------------------------------------------------------------------


class Guard:
    """ASGI middleware: the server's names, pages of other sites, and security headers.

    It compares names itself: Starlette's `TrustedHostMiddleware` cuts an IPv6 address at its first colon.

    Args:
        hosts: names that the server answers to (see `host_names`); empty: any.
    """

    hint: ClassVar[str] = ""
    """Advice for a client that uses another name."""

    def __init__(self, app: ASGIApp, hosts: Collection[str] = ()) -> None:
        self.app = app
        self.hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; HEAD is answered as GET is, without the body."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        send = _secured(scope, send)
        if scope["method"] == "HEAD":
            scope, send = {**scope, "method": "GET"}, _bodiless(send)
        try:
            self.check(scope, Headers(scope=scope))
        except RefusedError as refused:
            if "expect" not in Headers(scope=scope):
                await _drain(receive)
            await problem(refused.status, refused.detail, refused.headers)(scope, receive, send)
        else:
            await self.forward(scope, receive, send)

    def check(self, scope: Scope, headers: Headers) -> None:
        """Raise RefusedError for a request that is refused by its head."""
        if self.hosts and _host(headers) not in self.hosts:
            raise RefusedError(421, f"this server does not go by that name{self.hint}")
        if not self.is_open(scope["path"]) and headers.get("sec-fetch-site") == "cross-site":
            raise RefusedError(403, "requested by another site's page")
        if scope["method"] not in ("GET", "HEAD", "OPTIONS") and not self._is_own(headers):
            raise RefusedError(403, "requested by a page of another origin")

    def _is_own(self, headers: Headers) -> bool:
        """Whether the page that sends a request is this server's, also behind a proxy; programs name no origin."""
        origin = headers.get("origin")
        if origin is None:
            return True
        where = origin.partition("://")[2].lower()
        name = _name(where)
        return where == headers.get("host", "").lower() or (name in self.hosts and name not in LOCAL)

    def is_open(self, path: str) -> bool:
        """Whether anybody may read a path, such as a file of the page."""
        return not path.startswith("/v1/")

    async def forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the application answer."""
        await self.app(scope, receive, send)


class Gate(Guard):
    """`Guard` of `counterpoint serve`: also the key, limits of uploads, metrics, and unexpected errors as one line."""

    hint = "; --hosts adds names"

    def __init__(self, app: ASGIApp, service: Service) -> None:
        super().__init__(app, service.settings.hosts)
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, and count it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = time.perf_counter()
        status = NO_STATUS

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await super().__call__(scope, receive, observed)
        except Exception as error:
            if status != NO_STATUS:
                raise
            if is_full(error):
                await disk_full()(scope, receive, _secured(scope, observed))
                return
            log.exception("%s %s", scope["method"], scope["path"])
            answer = problem(500, "an error of the server; its log has the details")
            await answer(scope, receive, _secured(scope, observed))
        finally:
            unrouted = scope["path"] if scope["path"] in UPLOADS else "other"  # refused before there is a route
            endpoint = getattr(scope.get("route"), "path", None) or unrouted
            metrics = self.service.metrics
            method = scope["method"] if scope["method"] in METHODS else "other"
            metrics.requests.labels(method, endpoint, status or 500).inc()
            metrics.latency.labels(endpoint).observe(time.perf_counter() - begun)

    def check(self, scope: Scope, headers: Headers) -> None:
        """Also refuse requests without the key, and uploads that are too large or too many."""
        super().check(scope, headers)
        if not self.is_open(scope["path"]):
            self._check_key(headers)
        if _is_upload(scope):
            self._check_upload(headers)

    def is_open(self, path: str) -> bool:
        """Whether a path needs no key."""
        return path in OPEN

    async def forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the application answer; an upload counts against the capacity until its clips do."""
        if not _is_upload(scope):
            await self.app(scope, receive, send)
            return
        upload = object()
        self.service.uploads.add(upload)
        UPLOAD.set(upload)
        try:
            await self.app(scope, self._limited(receive), send)
        finally:
            self.service.uploads.discard(upload)

    def _check_key(self, headers: Headers) -> None:
        expected = self.service.settings.key
        if expected is None:
            return
        scheme, _, key = headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(key.strip().encode("latin-1"), expected.encode())
        if scheme.lower() != "bearer" or not same:
            challenge = {"WWW-Authenticate": "Bearer"}
            raise RefusedError(401, "this server needs its key: `Authorization: Bearer KEY`", challenge)

    def _check_upload(self, headers: Headers) -> None:
        if self.service.stopping:
            raise RefusedError(503, "the server is stopping", {"Retry-After": "10"})
        self.service.admit(len(self.service.uploads) + 1)
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > self.service.settings.max_bytes:
            raise RefusedError(413, self._too_large)

    @property
    def _too_large(self) -> str:
        return f"an upload of more than {self.service.settings.max_bytes / MEGABYTE:g} MB"

    def _limited(self, receive: Receive) -> Receive:
        """The body, up to the allowed size and as long as bytes arrive."""
        seen, begun = 0, time.monotonic()

        async def limited() -> Message:
            nonlocal seen
            try:
                async with asyncio.timeout(IDLE_SECONDS):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"nothing came for {IDLE_SECONDS:g} s") from None
            seen += len(message.get("body", b""))
            elapsed = time.monotonic() - begun
            if elapsed > PATIENCE_SECONDS and seen < LEAST_RATE * elapsed and message.get("more_body"):
                raise HTTPException(408, f"slower than {LEAST_RATE / 1024:g} kB a second, which holds others up")
            if seen > self.service.settings.max_bytes:
                raise HTTPException(413, self._too_large)
            return message

        return limited


def _is_upload(scope: Scope) -> bool:
    return scope["method"] == "POST" and scope["path"] in UPLOADS


def _host(headers: Headers) -> str:
    """The server's name in a request, without the port; empty where it is malformed."""
    return _name(headers.get("host", ""))


_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[\w.-]+)(:\d{1,5})?", re.ASCII | re.IGNORECASE)


def _name(authority: str) -> str:
    found = _AUTHORITY.fullmatch(authority)
    return found[1].lower() if found else ""


def _bodiless(send: Send) -> Send:
    """``send`` that ends after the head of an answer."""
    ended = False

    async def bodiless(message: Message) -> None:
        nonlocal ended
        if message["type"] != "http.response.body":
            await send(message)
        elif not ended:
            ended = True
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    return bodiless


def _secured(scope: Scope, send: Send) -> Send:
    """``send`` that adds the security headers; answers of the API are not stored."""

    async def secured(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.update(SECURITY)
            if scope["path"].startswith("/v1/"):
                headers.setdefault("cache-control", "no-store")
        await send(message)

    return secured


async def _drain(receive: Receive) -> None:
    """Read on for a while: a client that is still sending would see a broken connection, not the answer."""
    seen = 0
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            while seen < DRAIN_BYTES:
                message = await receive()
                seen += len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body"):
                    return
    except TimeoutError:
        return
