"""What a client hears where the server errs."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from counterpoint.serve.gate import Gate
from counterpoint.serve.metrics import Metrics
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
    async def app(*told: Any) -> None:
        raise ZeroDivisionError

    start, body = ask(app)
    assert start["status"] == 500
    assert dict(start["headers"])[b"x-content-type-options"] == b"nosniff"
    assert json.loads(body["body"]) == {"detail": "an error of the server, which its log tells more about"}


def test_an_answer_that_has_begun_is_not_begun_again() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ask(app)
