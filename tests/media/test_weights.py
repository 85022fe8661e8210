import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from counterpoint.cli.main import main
from counterpoint.errors import Error
from counterpoint.media import weights

PLAIN = b"principal components" * 5000
NAMED = b"weights" * 300_000
NAME = f"network-{hashlib.sha256(NAMED).hexdigest()[:8]}.pth"


class Server(http.server.BaseHTTPRequestHandler):
    """Serves the two files, from any byte on; breaks off after `breaks_off_at` bytes."""

    asked: list[str] = []  # noqa: RUF012
    breaks_off_at: int | None = None
    ranges = True
    content = {"plain.tgz": PLAIN, NAME: NAMED}  # noqa: RUF012

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        if name not in self.content:
            self.send_error(404)
            return
        begin = int(self.headers["Range"][6:-1]) if self.headers["Range"] and self.ranges else 0
        self.asked.append(f"{name} {begin}")
        whole = self.content[name]
        if begin >= len(whole):
            self.send_error(416)
            return
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(whole) - begin))
        self.end_headers()
        self.wfile.write(whole[begin : self.breaks_off_at])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Server]]:
    monkeypatch.setenv("COUNTERPOINT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Server, "asked", [])
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        base = f"http://127.0.0.1:{running.server_address[1]}/files"
        monkeypatch.setattr(weights, "URLS", {"a": f"{base}/plain.tgz", "b": f"{base}/{NAME}"})
        yield Server
        running.shutdown()


def test_fetch(server: type[Server], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "fetch"]) == 0
    assert capsys.readouterr().out == f"{weights.folder()}: 2 new files, 0 there before\n"
    assert {part: path.read_bytes() for part, path in weights.files().items()} == {"a": PLAIN, "b": NAMED}
    assert main(["weights", "fetch"]) == 0
    assert server.asked == ["plain.tgz 0", f"{NAME} 0"]
    record = json.loads((weights.folder() / weights.RECORD).read_text())
    assert record["plain.tgz"] == hashlib.sha256(PLAIN).hexdigest()


def test_it_goes_on(server: type[Server], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "breaks_off_at", 30_000)
    with pytest.raises(Error, match=r"plain.tgz: (broke off after 30,000 of 100,000 bytes|.*IncompleteRead)"):
        weights.fetch()
    monkeypatch.setattr(server, "breaks_off_at", None)
    weights.fetch()
    assert server.asked[:2] == ["plain.tgz 0", "plain.tgz 30000"]
    assert weights.files()["a"].read_bytes() == PLAIN


def test_it_begins_anew_where_it_must(server: type[Server], monkeypatch: pytest.MonkeyPatch) -> None:
    weights.folder().mkdir(parents=True)
    (weights.folder() / "plain.tgz.part").write_bytes(b"older" * 100)
    monkeypatch.setattr(server, "ranges", False)
    weights.fetch()
    assert weights.files()["a"].read_bytes() == PLAIN


def test_a_name_carries_its_hash(server: type[Server], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(server.content, NAME, b"another file")
    with pytest.raises(Error, match=rf"{NAME}: its SHA-256 is [0-9a-f]+, not {NAME[8:16]}"):
        weights.fetch()
    assert not (weights.folder() / NAME).exists()
    assert not (weights.folder() / f"{NAME}.part").exists()


def test_a_recorded_hash_stays(server: type[Server], monkeypatch: pytest.MonkeyPatch) -> None:
    weights.fetch()
    weights.files()["a"].unlink()
    monkeypatch.setitem(server.content, "plain.tgz", b"another file")
    with pytest.raises(Error, match=r"plain.tgz: its SHA-256 is .*, not .*damaged, or another file"):
        weights.fetch()


def test_from_a_folder(server: type[Server], tmp_path: Path) -> None:
    with pytest.raises(Error, match=r"plain.tgz is not there"):
        weights.fetch(tmp_path)
    (tmp_path / "plain.tgz").write_bytes(PLAIN)
    (tmp_path / NAME).write_bytes(NAMED)
    assert len(weights.fetch(tmp_path)) == 2
    assert server.asked == []


def test_no_server(server: type[Server], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "URLS", {"a": f"{next(iter(weights.URLS.values()))}.old"})
    with pytest.raises(Error, match="404 Not Found; download it by hand and use --from"):
        weights.fetch()
    monkeypatch.setattr(weights, "URLS", {"a": "http://127.0.0.1:9/plain.tgz"})
    with pytest.raises(Error, match="refused; the same command goes on where it stopped"):
        weights.fetch()
