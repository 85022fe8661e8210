"""A record run of the server's tests."""

import pytest

pytest.importorskip("fastapi")

from serve.conftest import record_run as record_run
