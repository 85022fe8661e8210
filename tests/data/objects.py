"""A small object store over HTTP, for tests: ranges, entity tags, listings, and failures where they are wanted.

It serves what is in `files`, or passes everything on to another server (`upstream`), so that any store can be made to
fail. Each request takes the next of `faults`:

=======  ==========================================================
503      Service Unavailable
cut      half of the answer, then the connection is closed
short    half of the answer, which claims to be all of it
hang     no answer for as long as `patience`
close    no answer, the connection is closed
403      Forbidden
ok       the answer
=======  ==========================================================
"""

import hashlib
import http.client
import http.server
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import unquote

Answer = tuple[int, dict[str, str], bytes]
HOP_BY_HOP = ("transfer-encoding", "connection", "date")


class Asked(NamedTuple):
    method: str
    path: str
    range: str

    @property
    def bytes(self) -> int:
        first, _, last = self.range.removeprefix("bytes=").partition("-")
        return int(last) - int(first) + 1


class Objects(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, upstream: str | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.upstream = upstream
        self.files: dict[str, bytes] = {}
        self.asked: list[Asked] = []
        self.faults: list[str] = []
        self.rate = 0.0
        """Share of requests that fail in passing, drawn at random, where `faults` is empty."""
        self.random = random.Random(0)
        self.ranges = True
        self.patience = 1.0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def gets(self, name: str = "") -> list[Asked]:
        """The requests for content of an object."""
        return [one for one in self.asked if one.method == "GET" and one.path.endswith(name)]

    def next_fault(self, asked: Asked) -> str:
        with self.lock:
            self.asked.append(asked)
            if self.faults:
                return self.faults.pop(0)
            if self.random.random() < self.rate:
                return self.random.choice(["503", "cut", "short", "hang", "close"])
            return "ok"

    def answer(
        self, method: str, target: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        if self.upstream:
            connection = http.client.HTTPConnection(self.upstream.removeprefix("http://"), timeout=60)
            connection.request(method, target, body, headers)
            answer = connection.getresponse()
            kept = {
                k: v for k, v in answer.getheaders() if k.lower() not in ("transfer-encoding", "connection", "date")
            }
            return answer.status, kept, answer.read()
        path = unquote(target.partition("?")[0]).lstrip("/")
        if path in self.files:
            content, status = self.files[path], 200
            sent = {"ETag": f'"{hashlib.md5(content).hexdigest()}"', "Content-Type": "application/octet-stream"}
            if self.ranges and "Range" in headers:
                first, _, last = headers["Range"].removeprefix("bytes=").partition("-")
                sent["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
                content, status = content[int(first) : int(last) + 1], 206
            return status, sent | {"Content-Length": str(len(content))}, content
        below = (
            {name.removeprefix(path) for name in self.files if name.startswith(path)} if path.endswith("/") else set()
        )
        names = sorted({name.partition("/")[0] + ("/" if "/" in name else "") for name in below})
        page = "".join(f'<a href="{name}">{name}</a>\n' for name in names).encode()
        return (200 if names else 404), {"Content-Type": "text/html", "Content-Length": str(len(page))}, page


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Objects

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        asked = Asked(self.command, unquote(self.path.partition("?")[0]), self.headers.get("Range", ""))
        fault = self.server.next_fault(asked)
        if fault == "hang":
            time.sleep(self.server.patience)
        if fault in ("hang", "close"):
            self.close_connection = True
            return
        if fault.isdigit():
            self.send_error(int(fault))
            return
        status, headers, content = self.server.answer(self.command, self.path, dict(self.headers), body)
        if fault == "short":
            content = content[: len(content) // 2]
            headers = {k: v for k, v in headers.items() if k.lower() != "content-length"}
            headers["Content-Length"] = str(len(content))
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if fault == "cut" else content)
        self.close_connection = self.close_connection or fault == "cut"

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def running(upstream: str | None = None) -> Iterator[Objects]:
    with Objects(upstream) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
