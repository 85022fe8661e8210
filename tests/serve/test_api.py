"""A server of video files, asked as clients ask."""

import base64
import io
import os
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from counterpoint.data.dataset import Dataset
from counterpoint.data.features import FEATURES_FILE
from counterpoint.explanation import explain
from counterpoint.media import encoders
from counterpoint.media import films as render
from counterpoint.predict import Predictor
from counterpoint.run import RunFolder
from counterpoint.serve import encoding
from serve.conftest import TAXONOMY, Served, serving

FILM = "rain-wind.mp4"
CAPACITY = 6


@pytest.fixture(scope="module")
def server(film_run: RunFolder, films: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    examples = tmp_path_factory.mktemp("examples")
    (examples / "rain.mp4").write_bytes((films / FILM).read_bytes())
    (examples / "broken.mp4").write_bytes(b"no film")
    (examples / "notes.txt").write_text("not an example")
    limits = ("--workers", 1, "--max-megabytes", 1, "--max-seconds", 10, "--capacity", CAPACITY)
    with serving(film_run.folder, "--examples", examples, *limits) as served:
        yield served


@pytest.fixture(scope="module")
def clips(film_run: RunFolder, films: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The films as the library encodes them, in the order of their names."""
    lite = encoders.build("lite")
    folder = tmp_path_factory.mktemp("clips")
    shards = []
    for path in sorted(films.glob("*.mp4")):
        (folder / path.stem).mkdir()
        encoding.save(folder / path.stem, lite.encode(path, path.name).clip, lite.features)
        shards.append(folder / path.stem / encoding.CLIP)
    return Dataset(shards, film_run.labelling, labelled=False)


def upload(path: Path, field: str = "file", name: str | None = None) -> tuple[str, tuple[str, bytes]]:
    return field, (name or path.name, path.read_bytes())


def test_answers_as_the_library_does(server: Served, film_run: RunFolder, films: Path, clips: Dataset) -> None:
    answer = server.ask("POST", "/v1/categorize?wait=60", files=[upload(films / FILM)])
    assert answer.status_code == 200, answer.text
    content = answer.json()
    number = [clips.clip(i).id for i in range(len(clips))].index(FILM)
    expected = explain(Predictor(film_run), clips.clip(number), top=len(TAXONOMY))
    probabilities = {one["path"]: one["probability"] for one in content["categories"]}
    assert probabilities == pytest.approx(dict(expected.categories), abs=1e-5)
    assert content["correlation"] == pytest.approx(expected.correlation, abs=1e-5)
    assert (content["name"], content["kind"], content["seconds"], content["notes"]) == (FILM, "video", 3, [])
    assert content["modalities"] == ["audio", "video"]
    made_by = content["made_by"]
    assert made_by["run"] == "films"
    assert made_by["features"]["fingerprint"] == film_run.features.fingerprint
    assert film_run.labelling.taxonomy.fingerprint.startswith(made_by["taxonomy"])
    assert server.ask("GET", "/v1/about").json()["made_by"] == made_by


def test_categories_can_be_hung_up_as_a_tree(server: Served, films: Path) -> None:
    categories = server.ask("POST", "/v1/categorize?wait=60", files=[upload(films / FILM)]).json()["categories"]
    seen = set()
    for one in categories:
        assert one["parent"] is None or one["parent"] in seen
        seen.add(one["id"])
    by_id = {one["id"]: one for one in categories}
    assert by_id["dessert"] | {"probability": None} == {
        "id": "dessert",
        "name": "Dessert",
        "path": "Food:Dessert",
        "parent": "food",
        "level": 1,
        "iab": "210",  # its parent's
        "probability": None,
        "threshold": 0.5,
    }
    assert [by_id[name]["iab"] for name in ("soup", "sport", "ball")] == ["216", None, None]
    probabilities = [one["probability"] for one in categories]
    assert probabilities == sorted(probabilities, reverse=True)
    best = server.ask("POST", "/v1/categorize?wait=60&top=2", files=[upload(films / FILM)]).json()["categories"]
    assert best == categories[:2]


def test_later(server: Served, films: Path) -> None:
    answer = server.ask("POST", "/v1/categorize?wait=0", files=[upload(films / FILM)])
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert (job["state"], job["answer"], job["name"]) == ("running", None, FILM)
    fractions = [job["fraction"]]
    while job["state"] == "running":
        assert job["stage"] in ("waiting", "decoding", "categorizing")
        job = server.ask("GET", answer.headers["Location"]).json()
        fractions.append(job["fraction"])
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1], job["stage"]) == (0, 1, "finished")
    assert job["answer"]["job"] == job["id"]


def test_explains(server: Served, film_run: RunFolder, films: Path, clips: Dataset) -> None:
    batch = server.ask(
        "POST", "/v1/categorize/batch?wait=60", files=[upload(p, "files") for p in map(Path, paths(clips, films))]
    )
    jobs = batch.json()["jobs"]
    content = server.ask("GET", f"/v1/jobs/{jobs[0]['id']}/explanation?swap={jobs[1]['id']}&top=3").json()
    expected = explain(Predictor(film_run), clips.clip(0), clips.clip(1), top=3)
    assert [
        (one["path"], pytest.approx(one["probability"], abs=1e-5)) for one in content["categories"]
    ] == expected.categories
    other = clips.clip(1).id
    names = {(change["what"], change["modality"], change["other"]): change["changes"] for change in content["changes"]}
    for modality in ("audio", "video"):
        assert names["without", modality, None] == pytest.approx(expected.changes[f"without {modality}"], abs=1e-5)
        assert names["swapped", modality, other] == pytest.approx(expected.changes[f"{modality} of {other}"], abs=1e-5)
    assert len(names) == 4
    assert content["per_second"]["audio and video"] == pytest.approx(expected.per_second["audio and video"], abs=1e-4)
    for modality, timeline in expected.timelines.items():
        shown = content["timelines"][modality]
        assert shown["row"] == "cluster"
        np.testing.assert_allclose(shown["after"], np.sqrt((timeline.after**2).mean(0)), atol=1e-4)
        np.testing.assert_allclose(shown["rows"]["influence"], timeline.influence[shown["numbers"]], atol=1e-4)
        best = max((one for one in content["attended"] if one["modality"] == modality), key=lambda one: one["share"])
        assert (best["second"], best["share"]) == (int(np.argmax(shown["after"])), 1)
    for one in content["attended"]:
        picture = Image.open(io.BytesIO(base64.b64decode(one["thumbnail"].removeprefix("data:image/jpeg;base64,"))))
        assert picture.width == 160


def paths(clips: Dataset, films: Path) -> list[Path]:
    return [films / clips.clip(i).id for i in range(len(clips))]


def test_what_cannot_be_explained(server: Served, films: Path) -> None:
    job = server.ask("POST", "/v1/categorize?wait=60", files=[upload(films / FILM)]).json()["job"]
    assert server.ask("GET", f"/v1/jobs/{job}/explanation?swap={job}").status_code == 422
    assert server.ask("GET", f"/v1/jobs/{job}/explanation?swap=nobody").status_code == 404
    assert server.ask("GET", "/v1/jobs/nobody/explanation").status_code == 404
    waiting = server.ask("POST", "/v1/categorize?wait=0", files=[upload(films / FILM)]).json()["id"]
    assert server.ask("GET", f"/v1/jobs/{waiting}/explanation").status_code == 409


def test_batch(server: Served, films: Path, clips: Dataset) -> None:
    shard = upload(clips.paths[0], "files")
    features = clips.paths[0].with_name(FEATURES_FILE).read_text()
    files = [upload(films / FILM, "files"), ("files", ("broken.mp4", b"no film")), shard]
    answer = server.ask("POST", "/v1/categorize/batch?wait=60", files=files, data={"features": features})
    assert answer.status_code == 200
    jobs = answer.json()["jobs"]
    assert [(job["name"], job["state"]) for job in jobs] == [
        (FILM, "done"),
        ("broken.mp4", "failed"),
        (clips.clip(0).id, "done"),
    ]
    assert jobs[1]["status"] == 422
    assert jobs[2]["answer"]["kind"] == "features"


def cut(content: bytes) -> bytes:
    return content[: len(content) // 3]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.mp4", b"", "empty.mp4: empty"),
        ("text.mp4", b"this is no film" * 100, "text.mp4: not a video file that can be read"),
        ("list.m3u8", b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n", "list.m3u8: not a video file that can be read"),
        ("half.mp4", None, "half.mp4: not a video file that can be read"),
        ("shard.tfrecord", b"nonsense" * 50, "shard.tfrecord: record 0 at byte 0: not a TFRecord file"),
        ("empty.tfrecord", b"", "empty.tfrecord: no clips with features"),
    ],
)
def test_broken_files(server: Served, films: Path, name: str, content: bytes | None, reason: str) -> None:
    if content is None:
        content = cut((films / FILM).read_bytes())
    answer = server.ask("POST", "/v1/categorize?wait=60", files={"file": (name, content)})
    assert answer.status_code == 422
    detail = answer.json()["detail"]
    assert detail.startswith(reason)
    assert "\n" not in detail
    assert str(server.temporary) not in detail


def test_too_long(server: Served, films: Path) -> None:
    answer = server.ask("POST", "/v1/categorize?wait=60", files=[upload(films / "long.mkv")])
    assert answer.status_code == 413
    assert answer.json()["detail"] == "long.mkv: lasts 12 s; 10 s at most"


@pytest.mark.parametrize("known", [True, False])
def test_too_large(server: Served, known: bool) -> None:
    """With and without a Content-Length."""
    body = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'
        + bytes(2_000_000)
        + b"\r\n--x--\r\n"
    )
    content = body if known else (body[i : i + 65536] for i in range(0, len(body), 65536))
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = server.ask("POST", "/v1/categorize", content=content, headers=headers)
    assert (answer.status_code, answer.json()) == (413, {"detail": "an upload of more than 1 MB"})


def test_examples(server: Served, films: Path) -> None:
    for _ in range(200):
        examples = server.ask("GET", "/v1/examples").json()["examples"]
        if len(examples) == 1 and examples[0]["thumbnail"]:
            break
        time.sleep(0.1)
    (example,) = examples
    assert (example["name"], example["kind"]) == ("rain.mp4", "video")
    film = (films / FILM).read_bytes()
    media = server.ask("GET", example["media"])
    assert (media.content, media.headers["content-type"]) == (film, "video/mp4")
    part = server.ask("GET", example["media"], headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, film[10:20])
    assert server.ask("GET", f"/v1/jobs/{example['job']}?wait=60").json()["answer"]["name"] == "rain.mp4"
    uploaded = server.ask("POST", "/v1/categorize?wait=60", files=[upload(films / "balls-music.mp4")]).json()["job"]
    content = server.ask("GET", f"/v1/jobs/{uploaded}/explanation?swap={example['job']}").json()
    assert {change["other"] for change in content["changes"] if change["what"] == "swapped"} == {"rain.mp4"}
    assert server.ask("DELETE", f"/v1/jobs/{example['job']}").status_code == 403
    assert server.ask("GET", f"/v1/examples/{uploaded}/media").status_code == 404


@pytest.mark.parametrize(
    "target",
    [
        "/../app.py",
        "/../../../../../../../../etc/passwd",
        "/%2e%2e/app.py",
        "/..%2fapp.py",
        "/..%2f..%2f..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/%2e%2e%2f%2e%2e%2fcli.py",
        "/..%5c..%5ccli.py",
        "//etc/passwd",
        "/%2fetc%2fpasswd",
        "/page/",
        "/page.js/../../app.py",
        "/page.js%00.txt",
        "/v1/examples/..%2f..%2f..%2fetc%2fpasswd/media",
        "/v1/examples/../../etc/passwd/media",
        "/v1/jobs/..%2f..%2fetc%2fpasswd",
        "/v1/jobs/%2e%2e/explanation",
    ],
)
def test_reads_no_other_files(server: Served, target: str) -> None:
    """Sent as it stands, since clients would tidy it up."""
    place = urlsplit(server.url)
    with socket.create_connection((place.hostname, place.port), 30) as connection:
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.split()[1] in (b"404", b"400"), answer[:200]
    assert b"root:" not in answer
    assert b"import" not in answer


def test_names_are_no_paths(server: Served, films: Path) -> None:
    for name, expected in (("../../../evil.mp4", "evil.mp4"), ("/etc/cron.d/evil.mp4", "evil.mp4"), ("..", "upload")):
        answer = server.ask("POST", "/v1/categorize?wait=60", files=[upload(films / FILM, name=name)])
        assert answer.json()["name"] == expected
    assert not list(server.temporary.rglob("*evil*"))


def test_keeps_what_it_holds_private_and_no_longer_than_needed(server: Served, films: Path) -> None:
    job = server.ask("POST", "/v1/categorize?wait=60", files=[upload(films / FILM)]).json()["job"]
    (folder,) = server.temporary.glob("counterpoint-serve-*")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {path.name for path in (folder / job).iterdir()} >= {encoding.CLIP, FEATURES_FILE}
    assert not list(folder.rglob("upload*"))
    assert server.ask("DELETE", f"/v1/jobs/{job}").status_code == 204
    assert server.ask("GET", f"/v1/jobs/{job}").status_code == 404
    assert not (folder / job).exists()


def test_too_many(server: Served, films: Path) -> None:
    content = (films / FILM).read_bytes()

    def send(number: int) -> tuple[int, str, dict[str, object]]:
        answer = server.ask("POST", "/v1/categorize?wait=0", files={"file": (f"{number}.mp4", content)})
        return answer.status_code, answer.headers.get("Retry-After", ""), answer.json()

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(send, range(16)))
    taken = [job for status, _, job in answers if status == 202]
    refused = [(later, problem) for status, later, problem in answers if status == 429]
    assert len(taken) + len(refused) == 16
    assert CAPACITY <= len(taken) < 16
    assert all(int(later) >= 1 and "clips are waiting" in str(problem["detail"]) for later, problem in refused)
    for job in taken:
        ended = server.ask("GET", f"/v1/jobs/{job['id']}?wait=60").json()
        assert (ended["state"], ended["name"]) == ("done", job["name"])
    with ThreadPoolExecutor(CAPACITY) as pool:  # a request that waits for its answer is one clip, not two
        files = [{"file": (f"{number}.mp4", content)} for number in range(CAPACITY)]
        waited = list(pool.map(lambda file: server.ask("POST", "/v1/categorize?wait=60", files=file), files))
    assert [answer.status_code for answer in waited] == [200] * CAPACITY
    too_many = [("files", (f"{number}.mp4", content[:10])) for number in range(CAPACITY + 1)]
    assert server.ask("POST", "/v1/categorize/batch", files=too_many).status_code == 413  # now and later
    assert server.ask("GET", "/v1/about").json()["max_clips"] == CAPACITY


def test_metrics(server: Served, films: Path) -> None:
    def figures() -> dict[tuple[str, tuple[str, ...]], float]:
        answer = server.ask("GET", "/metrics")
        assert answer.headers["content-type"].startswith("text/plain")
        families = text_string_to_metric_families(answer.text)
        return {(s.name, tuple(s.labels.values())): s.value for family in families for s in family.samples}

    before = figures()
    server.ask("POST", "/v1/categorize?wait=60", files=[upload(films / FILM)])
    server.ask("POST", "/v1/categorize?wait=60", files={"file": ("a.mp4", b"no film")})
    after = figures()

    def more(name: str, *labels: str) -> float:
        return after[name, labels] - before.get((name, labels), 0)

    assert more("counterpoint_requests_total", "/v1/categorize", "POST", "200") == 1
    assert more("counterpoint_requests_total", "/v1/categorize", "POST", "422") == 1
    assert more("counterpoint_request_seconds_count", "/v1/categorize") == 2
    assert more("counterpoint_jobs_total", "video", "done") == 1
    assert more("counterpoint_decode_failures_total", "422") == 1
    assert more("counterpoint_batch_clips_count") == 1
    assert after["counterpoint_clips_held", ()] == 0


@pytest.mark.parametrize("stage", ["waiting", "decoding"])
def test_survives_its_children(server: Served, films: Path, tmp_path: Path, stage: str) -> None:
    (child,) = children(server.process.pid)
    if stage == "decoding":
        frames = np.random.default_rng(0).integers(0, 256, (9, 36, 64, 3), np.uint8).repeat(20, 1).repeat(20, 2)
        long = render.write(tmp_path / "film.mp4", list(frames), None, fps=1, options={"preset": "veryfast"})
        job = server.ask("POST", "/v1/categorize?wait=0", files=[upload(long)]).json()["id"]
        while server.ask("GET", f"/v1/jobs/{job}").json()["stage"] == "waiting":
            time.sleep(0.005)
        os.kill(child, signal.SIGKILL)
        failed = server.ask("GET", f"/v1/jobs/{job}?wait=60").json()
        assert (failed["state"], failed["status"]) == ("failed", 422)
        assert failed["detail"] == "film.mp4: the decoder crashed (exit code -9)"
    else:
        os.kill(child, signal.SIGKILL)
    answer = server.ask("POST", "/v1/categorize?wait=60", files=[upload(films / FILM)])
    assert answer.status_code == 200, answer.text
    assert children(server.process.pid) != [child]


def children(process: int) -> list[int]:
    """The processes that decode."""
    found = subprocess.run(
        ["ps", "-ww", "-o", "pid=", "-o", "args=", "--ppid", str(process)], capture_output=True, text=True, check=True
    )
    return [int(line.split()[0]) for line in found.stdout.splitlines() if "spawn_main" in line]


@pytest.mark.slow
def test_stops_when_all_is_done(film_run: RunFolder, films: Path, tmp_path: Path) -> None:
    render.film(tmp_path / "film.mp4", "Rain:Wind", 0, seconds=8, size=(640, 360), fps=5)
    with serving(film_run.folder, "--workers", 1) as server, ThreadPoolExecutor(1) as pool:
        later = server.ask("POST", "/v1/categorize?wait=0", files=[upload(tmp_path / "film.mp4")]).json()
        now = pool.submit(server.ask, "POST", "/v1/categorize?wait=60", files=[upload(films / FILM)])
        while server.ask("GET", "/metrics").text.find("counterpoint_clips_held 2.0") < 0:
            time.sleep(0.01)
        server.process.terminate()
        while server.ask("GET", "/healthz").status_code == 200:
            time.sleep(0.01)
        assert server.ask("GET", "/healthz").json() == {"status": "stopping"}
        refused = server.ask("POST", "/v1/categorize", files=[upload(films / FILM)])
        assert (refused.status_code, refused.json()["detail"]) == (503, "the server is stopping")
        assert server.ask("GET", f"/v1/jobs/{later['id']}?wait=60").json()["state"] == "done"
        assert now.result().status_code == 200
        assert server.process.wait(20) == 0
        assert not list(server.temporary.glob("counterpoint-serve-*"))
