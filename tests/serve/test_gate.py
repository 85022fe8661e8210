"""Answers of the gate where the application fails."""

import asyncio
import errno
import json
import os
import socket
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from fastapi import HTTPException

from counterpoint.errors import Error
from counterpoint.files import claimed
from counterpoint.serve import gate
from counterpoint.serve.gate import Gate, bind, host_names, is_local, url_of
from counterpoint.serve.service import PREFIX, Metrics, sweep
from counterpoint.serve.settings import Settings


def ask(app: Any, method: str = "GET", hosts: tuple[str, ...] = (), **headers: str) -> list[dict[str, Any]]:
    """What goes out for a request that the application answers so."""
    service: Any = SimpleNamespace(settings=Settings(hosts=hosts), metrics=Metrics(), uploads=set())
    head = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": "/v1/about", "headers": head}
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        sent.append(dict(message))

    asyncio.run(Gate(app, service)(scope, receive, send))
    return sent


def test_an_error_of_the_server_is_a_problem_like_any_other() -> None:
    async def app(*arguments: Any) -> None:
        raise ZeroDivisionError

    start, body = ask(app)
    assert start["status"] == 500
    assert dict(start["headers"])[b"x-content-type-options"] == b"nosniff"
    assert json.loads(body["body"]) == {"detail": "an error of the server; its log has the details"}


def test_an_answer_that_has_begun_is_not_begun_again() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ask(app)


async def well(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["method"].encode(), "more_body": True})
    await send({"type": "http.response.body", "body": b"more"})


LOCAL = host_names("127.0.0.1")


@pytest.mark.parametrize(
    "host", ["[::1]evil", "localhost:80, evil", "localhost:80evil", "evil", "", "localhost:80:80", "[::1", "localhost:"]
)
def test_names_that_are_not_the_servers(host: str) -> None:
    assert ask(well, hosts=LOCAL, host=host)[0]["status"] == 421


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:8037", "[::1]:8037", "[::1]"])
def test_names_of_this_machine(host: str) -> None:
    assert ask(well, hosts=LOCAL, host=host)[0]["status"] == 200


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:8037", 200),
        ("http://localhost:3000", 403),
        ("http://127.0.0.1:8037", 403),
        ("http://evil.example.org", 403),
        ("null", 403),
        ("https://films.example.org", 200),  # behind a proxy
    ],
)
def test_pages_of_other_origins_send_nothing(origin: str, status: int) -> None:
    hosts = host_names("127.0.0.1", ["films.example.org"])
    assert ask(well, "POST", hosts, host="localhost:8037", origin=origin)[0]["status"] == status
    assert ask(well, "GET", hosts, host="localhost:8037", origin=origin)[0]["status"] == 200
    assert ask(well, "POST", hosts, host="localhost:8037")[0]["status"] == 200  # a program


def test_head_is_get_without_its_body() -> None:
    assert [message.get("body") for message in ask(well, "HEAD")] == [None, b""]
    assert [message.get("body") for message in ask(well, "GET")] == [None, b"GET", b"more"]


def test_a_full_disk_is_the_servers_trouble() -> None:
    async def app(*arguments: Any) -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise ValueError("the body cannot be read") from error

    start, body = ask(app)
    assert start["status"] == 507
    assert dict(start["headers"])[b"retry-after"] == b"30"
    assert json.loads(body["body"]) == {"detail": "the server's disk is full; try again later"}


def test_folders_of_killed_servers_are_swept(tmp_path: Path) -> None:
    left, used, other = (tmp_path / name for name in (f"{PREFIX}left", f"{PREFIX}used", "other"))
    for folder in (left, used, other):
        folder.mkdir()
        (folder / "upload").touch()
    with claimed(used, "in use"):
        for folder in (left, used, other):
            os.utime(folder, (1, 1))
        sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([used.name, other.name])
    assert (used / "upload").exists()


def test_heads_have_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A first one, and one that begins after an answer on a kept connection; requests that are worked on have none."""
    monkeypatch.setattr(gate, "HEAD_SECONDS", 0.4)

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await asyncio.sleep(1.0)
            await well(scope, receive, send)

    server = uvicorn.Server(uvicorn.Config(slow, http=gate.TimelyProtocol, log_level="warning", lifespan="off"))
    whole = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with bind("127.0.0.1", 0) as bound:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            for sent, answered in ((b"", False), (b"GET / HT", False), (whole, True), (whole + b"GET / HT", True)):
                with socket.create_connection(bound.getsockname(), timeout=8) as client:
                    client.sendall(sent[: len(whole)])
                    received = b""
                    if answered:
                        while not received.endswith(b"0\r\n\r\n"):
                            received += client.recv(9999)
                        client.sendall(sent[len(whole) :])
                    while part := client.recv(9999):
                        received += part
                    assert received.startswith(b"HTTP/1.1 200") == answered
        finally:
            server.should_exit = True
            thread.join()


def test_uploads_have_a_least_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "PATIENCE_SECONDS", 0.05)

    async def reads(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass

    service: Any = SimpleNamespace(
        settings=Settings(), metrics=Metrics(), uploads=set(), stopping=False, admit=lambda clips: None
    )

    def upload(size: int) -> Any:
        async def receive() -> dict[str, Any]:
            await asyncio.sleep(0.02)
            return {"type": "http.request", "body": bytes(size), "more_body": receive_more.pop()}

        receive_more = [False, *[True] * 9]
        scope = {"type": "http", "method": "POST", "path": "/v1/categorize", "headers": []}
        return Gate(reads, service)(scope, receive, None)  # type: ignore[arg-type]

    asyncio.run(upload(4000))
    with pytest.raises(HTTPException, match="slower than 4 kB a second"):
        asyncio.run(Gate(reads, service).forward({"method": "POST", "path": "/v1/categorize"}, trickle, None))  # type: ignore[arg-type]


async def trickle() -> dict[str, Any]:
    await asyncio.sleep(0.02)
    return {"type": "http.request", "body": b"x", "more_body": True}


def test_a_socket_names_its_protocol() -> None:
    """So that asyncio turns the delay of small answers off."""
    with bind("127.0.0.1", 0) as bound:
        assert bound.proto == socket.IPPROTO_TCP
        assert url_of(bound).startswith("http://127.0.0.1:")


@pytest.mark.parametrize(
    ("host", "local"), [("localhost", True), ("127.0.0.9", True), ("::1", True), ("0.0.0.0", False)]
)
def test_addresses_of_this_machine(host: str, local: bool) -> None:
    assert is_local(host) is local
    assert bool(host_names(host)) is local


def test_names_of_the_server() -> None:
    assert {"localhost", "127.0.0.1", "[::1]"} <= set(host_names("::1"))
    assert set(host_names("0.0.0.0", ["Films.example.org", "[2001:DB8::1]"])) >= {"films.example.org", "[2001:db8::1]"}
    with pytest.raises(Error, match=r"--hosts films\.example\.org:8443: a name without a port"):
        host_names("127.0.0.1", ["films.example.org:8443"])
