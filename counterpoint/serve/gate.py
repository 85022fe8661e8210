"""What stands before the application: who may ask, how much may be sent, how many may wait.

All of it is decided from a request's head, before its body is read; the body is counted as it comes.
"""

import asyncio
import hmac
import time
from collections.abc import Mapping
from pathlib import Path

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from counterpoint.serve.service import UPLOAD, Service, log
from counterpoint.serve.settings import MEGABYTE, RefusedError

UPLOADS = ("/v1/categorize", "/v1/categorize/batch")
PAGE = Path(__file__).with_name("page")
"""The page's files, which are all that is served of files beside the examples."""
OPEN = frozenset({"/healthz", "/openapi.json", "/"} | {f"/{path.name}" for path in PAGE.iterdir()})
"""What needs no key: the page asks for it, and whoever watches over the server has none."""
METHODS = ("GET", "HEAD", "POST", "DELETE", "OPTIONS")
NOTHING = 0  # has been answered yet
PATIENCE = 30.0  # seconds without a byte of an upload
DRAINED, DRAINING = 64 * MEGABYTE, 10.0  # bytes and seconds of a refused upload that are read, so that its client hears

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


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """A refusal as it goes out."""
    return JSONResponse({"detail": detail}, status, dict(headers or {}))


class Gate:
    """ASGI middleware; see the module."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app = app
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = time.perf_counter()
        status = NOTHING

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update(SECURITY)
                if scope["path"].startswith("/v1/"):
                    headers.setdefault("cache-control", "no-store")
            await send(message)

        try:
            await self._pass(scope, receive, sent)
        except Exception:
            if status != NOTHING:
                raise
            log.exception("%s %s", scope["method"], scope["path"])
            answer = problem(500, "an error of the server, which its log tells more about")
            await answer(scope, receive, sent)
        finally:
            refused = scope["path"] if scope["path"] in UPLOADS else "other"  # before there is a route
            endpoint = getattr(scope.get("route"), "path", None) or refused
            metrics = self.service.metrics
            method = scope["method"] if scope["method"] in METHODS else "other"
            metrics.requests.labels(method, endpoint, status or 500).inc()
            metrics.latency.labels(endpoint).observe(time.perf_counter() - begun)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        uploads = scope["method"] == "POST" and scope["path"] in UPLOADS
        try:
            self._check(scope["path"], headers)
            if uploads:
                self._check_upload(headers)
        except RefusedError as refused:
            if "expect" not in headers:
                await _drain(receive)
            await problem(refused.status, refused.detail, refused.headers)(scope, receive, send)
            return
        if not uploads:
            await self.app(scope, receive, send)
            return
        upload = object()
        self.service.uploads.add(upload)
        UPLOAD.set(upload)
        try:
            await self.app(scope, self._counted(receive), send)
        finally:
            self.service.uploads.discard(upload)

    def _check(self, path: str, headers: Headers) -> None:
        settings = self.service.settings
        if settings.hosts and asked_host(headers) not in settings.hosts:
            raise RefusedError(421, "this server does not go by that name; --hosts tells it others")
        if path in OPEN:
            return
        if headers.get("sec-fetch-site") == "cross-site":
            raise RefusedError(403, "asked for by another site's page")
        if settings.key is not None:
            scheme, _, key = headers.get("authorization", "").partition(" ")
            same = hmac.compare_digest(key.strip().encode("latin-1"), settings.key.encode())
            if scheme.lower() != "bearer" or not same:
                told = {"WWW-Authenticate": "Bearer"}
                raise RefusedError(401, "this server wants its key: `Authorization: Bearer KEY`", told)

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

    def _counted(self, receive: Receive) -> Receive:
        """The body, up to what is allowed and as long as it keeps coming."""
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            try:
                async with asyncio.timeout(PATIENCE):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"nothing came for {PATIENCE:g} s") from None
            seen += len(message.get("body", b""))
            if seen > self.service.settings.max_bytes:
                raise HTTPException(413, self._too_large)
            return message

        return counted


def asked_host(headers: Headers) -> str:
    host = headers.get("host", "")
    return (host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]).lower()


async def _drain(receive: Receive) -> None:
    """Read on for a while: a client that is still sending would see a broken connection, not the answer."""
    seen = 0
    try:
        async with asyncio.timeout(DRAINING):
            while seen < DRAINED:
                message = await receive()
                seen += len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body"):
                    return
    except TimeoutError:
        return
