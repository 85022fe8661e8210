"""Schemathesis asks the real server whatever its OpenAPI document allows, and some of what it does not."""

import contextlib

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from counterpoint.run import RunFolder
from serve.conftest import serving

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
EXAMPLES = 8  # of each endpoint, and as many faulty ones
ENDPOINTS = 11


def test_answers_as_documented(record_run: RunFolder) -> None:
    """Statuses, content types and bodies; nothing that is sent is an error of the server."""
    asked = set()
    with serving(record_run.folder) as server:
        schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
        for result in schema.get_all_operations():
            operation = result.ok()
            for mode in GenerationMode:

                @settings(
                    max_examples=EXAMPLES,
                    deadline=None,
                    derandomize=True,
                    database=None,
                    phases=[Phase.generate],
                    suppress_health_check=list(HealthCheck),
                )
                @given(case=operation.as_strategy(generation_mode=mode))
                def ask(case: schemathesis.Case) -> None:
                    case.call_and_validate(checks=CHECKS)
                    asked.add(case.operation.label)

                with contextlib.suppress(Unsatisfiable):  # an endpoint that takes nothing cannot be asked wrongly
                    ask()
    assert len(asked) == ENDPOINTS
