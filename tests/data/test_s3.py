"""Shards in an S3 store: moto's server, behind a proxy that fails on demand (make test-remote)."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from data.objects import Objects, running
from training.world import LABELLING, clips, write

from counterpoint.cli.main import main
from counterpoint.data import store
from counterpoint.data.features import FeatureSet
from counterpoint.data.inspect import find_shards
from counterpoint.data.remote import RemoteShard
from counterpoint.data.tfrecord import INDEX_SUFFIX, Shard, write_index
from counterpoint.errors import Error

pytestmark = pytest.mark.remote

SHARDS = ("train-0", "train-1", "train-2", "validate-0")


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def proxy(moto: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Objects]:
    monkeypatch.setattr(store, "PAUSE", 0.01)
    monkeypatch.setattr(store, "TIMEOUT", 5.0)
    with running(moto) as server:
        server.patience = 6.0
        monkeypatch.setenv("COUNTERPOINT_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        store._opened.cache_clear()
        yield server


@pytest.fixture
def folder(tmp_path: Path, proxy: Objects) -> Path:
    """Shards with all that belongs to them, here and in the bucket `library`; their indexes are here alone."""
    folder = tmp_path / "shards"
    for number, name in enumerate(SHARDS):
        write(folder / f"{name}.tfrecord", *clips(12, number, prefix=f"{name}-"))
    FeatureSet({"audio": 8, "video": 16}, "ours").save(folder)
    LABELLING.save(folder / "taxonomy")
    upload(folder, *folder.rglob("*.*"))
    proxy.asked.clear()
    return folder


def upload(folder: Path, *paths: Path) -> None:
    import boto3

    client = boto3.client("s3")
    client.create_bucket(Bucket="library")
    for path in paths:
        client.put_object(Bucket="library", Key=f"shards/{path.relative_to(folder)}", Body=path.read_bytes())


def read(shard: Shard) -> list[bytes]:
    return [shard[record].tobytes() for record in range(len(shard))]


@pytest.mark.parametrize("named", ["shards", "shards/", "shards/*.tfrecord", "sh*/**/*.tfrecord", "sh*"])
def test_folders_and_globs(folder: Path, named: str) -> None:
    assert [str(path) for path in find_shards([f"s3://library/{named}"])] == [
        f"s3://library/shards/{name}.tfrecord" for name in SHARDS
    ]


def test_records_are_those_of_local_shards(folder: Path) -> None:
    for name in SHARDS:
        assert read(RemoteShard(f"s3://library/shards/{name}.tfrecord")) == read(Shard(folder / f"{name}.tfrecord"))


def test_requests(folder: Path, proxy: Objects) -> None:
    """A listing tells what is there and what it is; a shard takes an index and its last length, or its content."""
    (path, *_) = find_shards(["s3://library/shards/train-*.tfrecord"])
    assert [one.method for one in proxy.asked] == ["GET"]
    proxy.asked.clear()
    shard = RemoteShard(path)  # type: ignore[arg-type]
    asked = [(one.method, one.path.rpartition("/")[2], bool(one.range)) for one in proxy.asked]
    name = "train-0.tfrecord"  # the listing shows that it has no index; in the end it is looked at once more
    assert asked == [("GET", name, True), ("HEAD", name, False)]
    proxy.asked.clear()
    read(shard)
    read(RemoteShard(path))  # type: ignore[arg-type]
    assert proxy.asked == []
    (path,) = find_shards(["s3://library/shards/train-1.tfrecord"])
    upload(folder, write_index(folder / path.name))
    proxy.asked.clear()
    RemoteShard(path)  # type: ignore[arg-type]
    asked = [(one.method, one.path.rpartition("/")[2], bool(one.range)) for one in proxy.asked]
    index = f"{path.name}{INDEX_SUFFIX}"  # s3fs looks at what it is to read whole
    assert asked == [("HEAD", index, False), ("GET", index, False), ("GET", path.name, True)]
    assert proxy.asked[-1].bytes == 12


def test_a_changed_object_is_noticed(folder: Path) -> None:
    url = "s3://library/shards/train-0.tfrecord"
    shard = RemoteShard(url)
    write(folder / "train-0.tfrecord", *clips(12, 9, prefix="train-0-"))
    upload(folder, folder / "train-0.tfrecord")
    with pytest.raises(Error, match=r"train-0.tfrecord: the object has changed since it was opened"):
        shard.file.confirm()
    assert read(RemoteShard(url)) == read(Shard(folder / "train-0.tfrecord"))


def train(where: str, out: Path, *options: str) -> None:
    data = ["--data", f"{where}/train-*.tfrecord", "--validation", f"{where}/validate-0.tfrecord"]
    small = ["--training.max_epochs", "2", "--training.batch_size", "8", "--head.hidden", "8"]
    assert main(["train", "nv-l", *data, "--out", str(out), *small, *options]) == 0


def test_training_over_a_failing_store_is_bit_for_bit_the_local_one(
    folder: Path, proxy: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With little in the cache, so that every epoch asks, and processes that read ahead."""
    train(str(folder), tmp_path / "near")
    monkeypatch.setattr("counterpoint.data.remote.BLOCK", 1000)
    monkeypatch.setenv("COUNTERPOINT_CACHE_GB", "0.000004")
    proxy.rate = 0.1
    train("s3://library/shards", tmp_path / "far", "--workers", "2")
    assert len(proxy.asked) > 100
    for file in ("weights.safetensors", "data.json", "features.json", "epochs.csv"):
        far, near = ((tmp_path / run / file).read_bytes() for run in ("far", "near"))
        assert far == near or (file == "epochs.csv" and without_times(far) == without_times(near))


def without_times(table: bytes) -> list[list[bytes]]:
    header, *rows = (line.split(b",") for line in table.splitlines())
    return [[value for name, value in zip(header, row, strict=True) if b"second" not in name] for row in rows]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("s3://library/shards/none.tfrecord", "nothing is there"),
        ("s3://nosuchbucket/x.tfrecord", "nothing is there"),
        ("s3://library/none*.tfrecord", "no shards there"),
    ],
)
def test_nothing_there(folder: Path, capsys: pytest.CaptureFixture[str], url: str, reason: str) -> None:
    assert main(["inspect", url]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"counterpoint: {url}: {reason}")
    assert error.count("\n") == 1


def test_no_credentials(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    store._opened.cache_clear()
    assert main(["inspect", "s3://library/shards/train-0.tfrecord"]) == 1
    assert "Unable to locate credentials" in capsys.readouterr().err
