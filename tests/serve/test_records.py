"""A server of feature records, which decodes nothing and so can be asked a lot: keys, names, limits, batching."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from counterpoint.data.clip import Clip
from counterpoint.data.dataset import Dataset
from counterpoint.data.features import FEATURES_FILE, FeatureSet
from counterpoint.data.records import encode
from counterpoint.data.tfrecord import Writer
from counterpoint.predict import Predictor
from counterpoint.run import RunFolder
from serve.conftest import SIZES, Served, serving

KEY = "a key that nobody guesses"
HEADERS = {"Authorization": f"Bearer {KEY}"}
CLIPS = 60


@pytest.fixture(scope="module")
def server(record_run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    key = tmp_path_factory.mktemp("key") / "key"
    key.write_text(f"{KEY}\n")
    limits = ("--max-clips", 5, "--keep-minutes", 0.05, "--keep-jobs", 100)
    with serving(record_run.folder, "--key-file", key, *limits) as served:
        yield served


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Shards of one clip each, of 1 to 8 seconds, some without sound, some of floats."""
    folder = tmp_path_factory.mktemp("shards")
    FeatureSet(SIZES, "synthetic").save(folder)
    random = np.random.default_rng(0)
    paths = []
    for number in range(CLIPS):
        steps = int(random.integers(1, 9))
        tracks = {name: random.integers(1, 256, (steps, size), np.uint8) for name, size in SIZES.items()}
        if number % 4 == 1:
            del tracks["audio"]
        if number % 4 == 2:
            tracks = {name: random.normal(size=(1, size)).astype(np.float32) for name, size in SIZES.items()}
        paths.append(write(folder / f"{number:03}.tfrecord", Clip(f"clip-{number:03}", np.zeros(0, np.int64), tracks)))
    return paths


def write(path: Path, *clips: Clip) -> Path:
    with Writer(path) as writer:
        for clip in clips:
            writer.write(encode(clip))
    return path


def send(server: Served, shard: Path, features: str | None = None, where: str = "/v1/categorize") -> httpx.Response:
    features = shard.with_name(FEATURES_FILE).read_text() if features is None else features
    field = "files" if "batch" in where else "file"
    files = {field: (shard.name, shard.read_bytes())}
    return server.ask("POST", where, files=files, data={"features": features} if features else {}, headers=HEADERS)


def test_nothing_is_mixed_up(server: Served, record_run: RunFolder, shards: list[Path]) -> None:
    """Many at the same time get what each would get alone, with padding and floats among their neighbours."""
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda shard: send(server, shard), shards))
    for shard, answer in zip(shards, answers, strict=True):
        assert answer.status_code == 200, answer.text
        content = answer.json()
        assert content["name"] == f"clip-{shard.stem}"
        (expected,) = Predictor(record_run).predict(Dataset([shard], record_run.labelling, labelled=False))
        paths = record_run.labelling.taxonomy.paths
        probabilities = {one["path"]: one["probability"] for one in content["categories"]}
        assert probabilities == pytest.approx(dict(zip(paths, expected.probabilities[0], strict=True)), abs=1e-5)
    assert len({answer.json()["categories"][0]["probability"] for answer in answers}) > CLIPS // 2
    metrics = server.ask("GET", "/metrics", headers=HEADERS).text
    batches = next(line for line in metrics.splitlines() if line.startswith("counterpoint_batch_clips_count"))
    assert float(batches.split()[1]) < CLIPS  # some were read at once


@pytest.mark.parametrize("where", ["/v1/about", "/v1/taxonomy", "/v1/jobs/x", "/metrics", "/docs", "//v1/about"])
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {KEY}"}])
def test_key(server: Served, where: str, headers: dict[str, str]) -> None:
    answer = server.ask("GET", where, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_what_needs_no_key(server: Served) -> None:
    for where in ("/", "/page.css", "/page.js", "/healthz", "/openapi.json"):
        assert server.ask("GET", where).status_code == 200
    assert server.ask("GET", "/v1/about", headers=HEADERS).status_code == 200


def test_upload_without_the_key_is_refused_unread(server: Served, shards: list[Path]) -> None:
    answer = server.ask("POST", "/v1/categorize", files={"file": ("a.tfrecord", bytes(3_000_000))})
    assert answer.status_code == 401
    assert len(list(server.temporary.glob("counterpoint-serve-*/*/upload"))) == 0
    metrics = server.ask("GET", "/metrics", headers=HEADERS).text
    assert 'counterpoint_requests_total{endpoint="/v1/categorize",method="POST",status="401"} 1.0' in metrics


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Host": "evil.example:80"}, 421),
        ({"Host": "localhost.evil.example"}, 421),
        ({"Host": "LOCALHOST:1234"}, 200),
        ({"Host": "[::1]:1234"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
    ],
)
def test_other_sites(server: Served, headers: dict[str, str], status: int) -> None:
    """A page elsewhere cannot ask on its visitor's behalf, whatever name it gives this machine."""
    assert server.ask("GET", "/v1/about", headers=HEADERS | headers).status_code == status


def test_security_headers(server: Served) -> None:
    for where in ("/", "/v1/about", "/v1/jobs/x"):
        headers = server.ask("GET", where).headers
        assert "script-src 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_other_features(server: Served, shards: list[Path]) -> None:
    other = json.dumps({"encoder": "lite-12345678", "sizes": SIZES})
    answer = send(server, shards[0], other)
    assert answer.status_code == 422
    assert answer.json()["detail"] == (
        "000.tfrecord: records reads synthetic features (audio 8, video 16), not lite-12345678 features "
        "(audio 8, video 16): extract the features with the same encoders, or train a model on these"
    )
    unnamed = send(server, shards[0], "").json()["detail"]
    assert "not youtube8m features" in unnamed
    assert unnamed.endswith("send the features.json beside it as `features`")
    assert "cannot be read as a feature set" in send(server, shards[0], "nonsense").json()["detail"]


def test_video_files(server: Served, tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"film")
    answer = send(server, tmp_path / "film.mp4", "")
    assert answer.status_code == 422
    assert "which are not made of video files; send feature records (.tfrecord)" in answer.json()["detail"]


def test_several_clips(server: Served, shards: list[Path]) -> None:
    random = np.random.default_rng(1)
    clips = [
        Clip(f"c{number}", np.zeros(0, np.int64), {"video": random.integers(1, 256, (3, 16), np.uint8)})
        for number in range(6)
    ]
    three = write(shards[0].with_name("three.tfrecord"), *clips[:3])
    answer = send(server, three)
    assert answer.status_code == 413
    assert answer.json()["detail"].endswith("3 clips, 1 at most in one request; /v1/categorize/batch takes several")
    jobs = send(server, three, where="/v1/categorize/batch").json()["jobs"]
    assert [(job["name"], job["state"]) for job in jobs] == [("c0", "done"), ("c1", "done"), ("c2", "done")]
    assert send(server, write(three, *clips), where="/v1/categorize/batch").status_code == 413
    three.unlink()


def test_one_bad_file_of_several(lasting: Served, shards: list[Path], tmp_path: Path) -> None:
    long = Clip("a/b.mp4", np.zeros(0, np.int64), {"video": np.ones((301, 16), np.uint8)})
    bad = tmp_path / "bad.tfrecord"
    bad.write_text("id,label\n" * 40)
    sent = [("files", (path.name, path.read_bytes())) for path in (write(tmp_path / "long.tfrecord", long), bad)]
    features = shards[0].with_name(FEATURES_FILE).read_text()
    answer = lasting.ask("POST", "/v1/categorize/batch", files=sent, data={"features": features}, params={"wait": 60})
    one, other = answer.json()["jobs"]
    assert (one["name"], one["answer"]["seconds"]) == ("a/b.mp4", 300)
    assert one["answer"]["notes"] == ["cut at 300 s, the longest that the model reads"]
    assert other["state"] == "failed"
    assert other["detail"] == "bad.tfrecord: record 0 at byte 0: not a TFRecord file"


@pytest.fixture
def lasting(record_run: RunFolder) -> Iterator[Served]:
    """A server that forgets nothing meanwhile."""
    with serving(record_run.folder) as served:
        yield served


def test_clips_of_a_shard_are_kept_together_and_explained_apart(lasting: Served, tmp_path: Path) -> None:
    FeatureSet(SIZES, "synthetic").save(tmp_path)
    tracks = {name: np.full((3, size), 9, np.uint8) for name, size in SIZES.items()}
    clips = [Clip(f"{steps}", np.zeros(0, np.int64), {n: t[:steps] for n, t in tracks.items()}) for steps in (1, 3, 2)]
    answer = send(lasting, write(tmp_path / "three.tfrecord", *clips), where="/v1/categorize/batch")
    jobs = [job["id"] for job in answer.json()["jobs"]]
    (folder,) = lasting.temporary.glob("counterpoint-serve-*")
    assert [(folder / job).exists() for job in jobs] == [True, False, False]
    assert lasting.ask("DELETE", f"/v1/jobs/{jobs[0]}", headers=HEADERS).status_code == 204
    for job, seconds in ((jobs[1], 3), (jobs[2], 2)):
        content = lasting.ask("GET", f"/v1/jobs/{job}/explanation", headers=HEADERS).json()
        assert (content["name"], len(content["timelines"]["video"]["present"])) == (str(seconds), seconds)
    swapped = lasting.ask("GET", f"/v1/jobs/{jobs[1]}/explanation?swap={jobs[2]}", headers=HEADERS)
    assert {change["other"] for change in swapped.json()["changes"]} == {None, "2"}
    for job in jobs[1:]:
        assert (folder / jobs[0]).exists()
        assert lasting.ask("DELETE", f"/v1/jobs/{job}", headers=HEADERS).status_code == 204
    assert not (folder / jobs[0]).exists()


def test_faulty_requests(server: Served, shards: list[Path]) -> None:
    for where, options in (
        ("/v1/categorize", {"data": {"features": "x"}}),
        ("/v1/categorize", {"files": {"other": ("a", b"")}}),
        ("/v1/categorize?wait=never", {"files": {"file": ("a.tfrecord", b"")}}),
        ("/v1/categorize?top=0", {"files": {"file": ("a.tfrecord", b"")}}),
        ("/v1/categorize", {"files": {"file": ("a.tfrecord", b"")}, "data": {"features": "x" * 10_001}}),
    ):
        answer = server.ask("POST", where, headers=HEADERS, **options)
        assert answer.status_code == 422
        assert isinstance(answer.json()["detail"], str)
    broken = server.ask(
        "POST", "/v1/categorize", headers=HEADERS | {"Content-Type": "multipart/form-data"}, content=b"x"
    )
    assert broken.status_code == 400
    assert server.ask("PUT", "/v1/categorize", headers=HEADERS).status_code == 405


@pytest.mark.parametrize(
    ("steps", "value", "status", "detail"),
    [
        (302, 1.0, 413, "long.tfrecord: clip 'long' lasts 302 s; 300 at most"),
        (20_000, 1.0, 413, "long.tfrecord: a clip of 720,066 bytes"),
        (2, 3e38, 422, "long: features so large that the model's output is not a number"),
    ],
)
def test_clips_that_are_too_much(
    server: Served, tmp_path: Path, steps: int, value: float, status: int, detail: str
) -> None:
    FeatureSet(SIZES, "synthetic").save(tmp_path)
    tracks = {name: np.full((steps, size), value, np.float32) for name, size in SIZES.items()}
    tracks = {name: (track if value > 1 else track.astype(np.uint8)) for name, track in tracks.items()}
    shard = write(tmp_path / "long.tfrecord", Clip("long", np.zeros(0, np.int64), tracks))
    answer = send(server, shard)
    assert answer.status_code == status
    assert answer.json()["detail"].startswith(detail)
    if status == 422:  # and the job keeps its failure
        (job,) = send(server, shard, where="/v1/categorize/batch").json()["jobs"]
        again = server.ask("GET", f"/v1/jobs/{job['id']}", headers=HEADERS)
        assert (again.status_code, again.json()["state"]) == (200, "failed")


def test_text_that_is_no_unicode(server: Served, shards: list[Path]) -> None:
    answer = send(server, shards[0], features=json.dumps({"encoder": "\ud800\0", "sizes": SIZES}))
    assert answer.status_code == 422
    assert r"\ud800" in answer.json()["detail"]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc")
def test_what_is_forgotten_takes_up_no_disk(server: Served, shards: list[Path]) -> None:
    jobs = [send(server, shard).json()["job"] for shard in shards[:5]]
    for job in jobs:
        server.ask("DELETE", f"/v1/jobs/{job}", headers=HEADERS)
    maps = Path(f"/proc/{server.process.pid}/maps").read_text().splitlines()
    assert not [line for line in maps if "clip.tfrecord (deleted)" in line]


def test_answers_expire(server: Served, shards: list[Path]) -> None:
    job = send(server, shards[0]).json()["job"]
    assert server.ask("GET", f"/v1/jobs/{job}", headers=HEADERS).status_code == 200
    time.sleep(5)
    gone = server.ask("GET", f"/v1/jobs/{job}", headers=HEADERS)
    assert (gone.status_code, gone.json()["detail"]) == (404, "no such job, or its answer has expired")
    assert not list(server.temporary.rglob(job))


def test_every_answer_is_as_documented(server: Served) -> None:
    """Models, examples and statuses of the OpenAPI document."""
    document = server.ask("GET", "/openapi.json").json()
    for name, schema in document["components"]["schemas"].items():
        for field, described in schema.get("properties", {}).items():
            plain = not {"$ref", "anyOf", "allOf", "enum"} & set(described) and "$ref" not in json.dumps(described)
            if plain and described.get("type") != "boolean" and not name.startswith(("Body", "HTTP", "Validation")):
                assert "examples" in described or field in ("before", "influence", "after"), (name, field)
    taken = document["paths"]["/v1/categorize"]["post"]
    assert set(taken["responses"]) == {"200", "202", "401", "408", "413", "422", "429", "503"}
    assert taken["security"] == [{"HTTPBearer": []}]
