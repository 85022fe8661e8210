"""Answers of the gate where the application fails."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from counterpoint.errors import Error
from counterpoint.serve.gate import Gate, host_names, is_local
from counterpoint.serve.service import Metrics
from counterpoint.serve.settings import Settings


def ask(app: Any) -> list[dict[str, Any]]:
    """What goes out for a request that the application answers so."""
    service: Any = SimpleNamespace(settings=Settings(), metrics=Metrics(), uploads=set())
    scope = {"type": "http", "method": "GET", "path": "/v1/about", "headers": []}
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
