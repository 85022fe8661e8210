"""The client against real servers."""

import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from counterpoint.data.clip import Clip
from counterpoint.data.features import FeatureSet
from counterpoint.data.records import encode
from counterpoint.data.tfrecord import Writer
from counterpoint.errors import Error
from counterpoint.run import RunFolder
from counterpoint.serve.client import Client, ServerError
from serve.conftest import SIZES, Served, serving

KEY = "key"


@pytest.fixture(scope="module")
def server(record_run: RunFolder) -> Iterator[Served]:
    with serving(record_run.folder, "--max-megabytes", 0.1, COUNTERPOINT_API_KEY=KEY) as served:
        yield served


@pytest.fixture
def client(server: Served) -> Iterator[Client]:
    with Client(server.url, KEY) as one:
        yield one


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """Three clips, and the features.json that belongs to them."""
    FeatureSet(SIZES, "synthetic").save(tmp_path)
    random = np.random.default_rng(2)
    with Writer(tmp_path / "three.tfrecord") as writer:
        for number in range(3):
            tracks = {name: random.integers(1, 256, (4, size), np.uint8) for name, size in SIZES.items()}
            writer.write(encode(Clip(f"clip {number}", np.zeros(0, np.int64), tracks)))
    return tmp_path / "three.tfrecord"


def test_asks_for_clips(client: Client, shard: Path, record_run: RunFolder) -> None:
    jobs = client.categorize_all([shard], top=2)
    assert [job.name for job in jobs] == ["clip 0", "clip 1", "clip 2"]
    answers = [job.answer for job in jobs]
    assert all(answer and len(answer.categories) == 2 for answer in answers)
    assert client.about.made_by == jobs[0].answer.made_by  # type: ignore[union-attr]
    explanation = client.explain(jobs[0].id, swap=jobs[1].id, top=3)
    assert {change.other for change in explanation.changes} == {None, "clip 1"}
    assert all(len(change.changes) == 3 for change in explanation.changes)
    assert [node.name for node in client.taxonomy().tree] == ["Food", "Sport"]
    client.forget(jobs[0].id)
    with pytest.raises(ServerError, match="404: no such job") as gone:
        client.explain(jobs[0].id)
    assert gone.value.status == 404


def test_refusals(client: Client, server: Served, shard: Path, tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"413: three.tfrecord: 3 clips, 1 at most"):
        client.categorize(shard)
    (tmp_path / "film.mp4").write_bytes(b"film")
    with pytest.raises(ServerError, match=r"422: film.mp4: .*not made of video files"):
        client.categorize(tmp_path / "film.mp4")
    with pytest.raises(ServerError, match="401: this server needs its key"):
        Client(server.url).taxonomy()
    with pytest.raises(Error, match=r"nothing\.mp4: No such file"):
        client.categorize("nothing.mp4")
    (tmp_path / "film.mp4").write_bytes(bytes(200_000))
    with pytest.raises(ServerError, match=r"413: .*film.mp4: 200,000 bytes; the server takes 100,000 at most"):
        client.categorize(tmp_path / "film.mp4")
    with pytest.raises(Error, match=r"http://127.0.0.1:9: "):
        Client("http://127.0.0.1:9").taxonomy()


class _Busy(http.server.BaseHTTPRequestHandler):
    """Has no place at first, then is slow, and at last answers."""

    replies: ClassVar[list[tuple[int, bytes]]] = []
    seen: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._reply()

    def do_GET(self) -> None:
        self._reply()

    def _reply(self) -> None:
        self.seen.append(self.path.partition("?")[0])
        status, body = self.replies.pop(0)
        self.send_response(status)
        self.send_header("Retry-After", "0")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


def test_waits(client: Client, shard: Path, tmp_path: Path) -> None:
    about = client.about.model_dump_json().encode()
    running = b'{"id": "7", "name": "a", "state": "running", "stage": "waiting", "fraction": 0}'
    failed = b'{"id": "7", "name": "a", "state": "failed", "stage": "finished", "fraction": 1, '
    failed += b'"status": 422, "detail": "a: no"}'
    _Busy.replies = [(200, about), (429, b'{"detail": "full"}'), (202, running), (200, running), (200, failed)]
    (tmp_path / "a.mp4").write_bytes(b"film")
    with http.server.HTTPServer(("127.0.0.1", 0), _Busy) as busy:
        threading.Thread(target=busy.serve_forever, daemon=True).start()
        with pytest.raises(ServerError, match="422: a: no"):
            Client(f"http://127.0.0.1:{busy.server_port}").categorize(tmp_path / "a.mp4")
        busy.shutdown()
    assert _Busy.seen == ["/v1/about", "/v1/categorize", "/v1/categorize", "/v1/jobs/7", "/v1/jobs/7"]


def test_importing_the_client_is_cheap() -> None:
    """It runs where neither the models' nor the server's libraries are loaded."""
    code = "import counterpoint.serve.client, sys; print({'torch', 'fastapi', 'numpy', 'av'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
