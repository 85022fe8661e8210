"""Shards over HTTP from a server of our own that fails on demand, and from fsspec's store in memory."""

import pickle
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pytest
from data.objects import Objects, running
from training.world import LABELLING, clips, dataset, write

from counterpoint.cli.main import main
from counterpoint.data import remote, store
from counterpoint.data.dataset import Dataset
from counterpoint.data.features import FeatureSet
from counterpoint.data.inspect import find_shards
from counterpoint.data.loading import ClipLoader, RoundRobinSampler
from counterpoint.data.remote import RemoteShard
from counterpoint.data.tfrecord import INDEX_SUFFIX, Shard, Writer, write_index
from counterpoint.errors import Error, RecordError

RANDOM = np.random.default_rng(0)
PAYLOADS = [RANDOM.bytes(length) for length in (0, 5, 3000, 1000, 70, 2500, 1)]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Blocks of 1,000 bytes in a cache of the test's own, and little patience."""
    monkeypatch.setattr(remote, "BLOCK", 1000)
    monkeypatch.setattr(remote, "PIECE", 4000)
    monkeypatch.setattr(store, "PAUSE", 0.001)
    monkeypatch.setattr(store, "TIMEOUT", 0.5)
    folder = tmp_path / "cache"
    monkeypatch.setenv("COUNTERPOINT_CACHE", str(folder))
    return folder


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Objects]:
    with running() as objects:
        objects.files["shards/a.tfrecord"] = content(tmp_path, PAYLOADS)
        yield objects


def content(tmp_path: Path, payloads: list[bytes]) -> bytes:
    with Writer(tmp_path / "written") as writer:
        for payload in payloads:
            writer.write(payload)
    return (tmp_path / "written").read_bytes()


def read(shard: Shard) -> list[bytes]:
    return [shard[record].tobytes() for record in range(len(shard))]


def url(server: Objects, name: str = "a.tfrecord") -> str:
    return f"{server.url}/shards/{name}"


# --- the records ------------------------------------------------------------------------------------------------------


def test_reads_what_a_local_shard_reads(server: Objects, tmp_path: Path) -> None:
    shard, local = RemoteShard(url(server)), Shard(tmp_path / "written")
    assert read(shard) == PAYLOADS
    assert shard[-1].tobytes() == PAYLOADS[-1]
    assert not shard[2].flags.writeable
    assert (shard.offsets.tolist(), shard.lengths.tolist()) == (local.offsets.tolist(), local.lengths.tolist())
    assert (shard.size, shard.path.name, shard.bad) == (local.size, "a.tfrecord", [])
    assert read(pickle.loads(pickle.dumps(shard))) == PAYLOADS


def test_the_index_takes_few_large_requests_and_the_records_none(server: Objects) -> None:
    size = len(server.files["shards/a.tfrecord"])
    shard = RemoteShard(url(server))
    ranges = [one for one in server.gets("a.tfrecord") if one.range]
    assert len(ranges) == -(-size // 4000) == 2
    assert sum(one.bytes for one in ranges) == size
    server.asked.clear()
    assert read(shard) == PAYLOADS
    assert server.asked == []
    assert read(RemoteShard(url(server))) == PAYLOADS
    assert [one.method for one in server.asked] == ["HEAD"]  # is it still the same?


def test_the_index_beside_a_shard_saves_reading_it(server: Objects, tmp_path: Path) -> None:
    """And of a record's blocks no more is read than it takes."""
    server.files[f"shards/a.tfrecord{INDEX_SUFFIX}"] = write_index(tmp_path / "written").read_bytes()
    shard = RemoteShard(url(server))
    assert [one.range for one in server.gets("a.tfrecord")] == [f"bytes={shard.offsets[-1]}-{shard.offsets[-1] + 11}"]
    server.asked.clear()
    assert shard[3].tobytes() == PAYLOADS[3]
    assert [one.range for one in server.asked] == ["bytes=3000-4999"]  # it lies from 3053 to 4069
    assert read(shard) == PAYLOADS


@pytest.mark.parametrize("kind", ["other", "damaged"])
def test_an_index_that_is_not_the_shards(server: Objects, tmp_path: Path, kind: str) -> None:
    """Of another file of the same size, or not whole: it is made anew."""
    other = tmp_path / "other"
    with Writer(other) as writer:
        for payload in PAYLOADS[::-1]:
            writer.write(payload)
    index = bytearray(write_index(other).read_bytes())
    if kind == "damaged":
        index[40] ^= 1
    server.files[f"shards/a.tfrecord{INDEX_SUFFIX}"] = bytes(index)
    assert read(RemoteShard(url(server))) == PAYLOADS


def test_without_a_cache_records_are_read_exactly(
    server: Objects, monkeypatch: pytest.MonkeyPatch, small: Path
) -> None:
    monkeypatch.setenv("COUNTERPOINT_CACHE_GB", "0")
    shard = RemoteShard(url(server))
    server.asked.clear()
    assert read(shard) == PAYLOADS
    assert [one.bytes for one in server.gets()] == [len(payload) + 16 for payload in PAYLOADS]
    assert not (small / "remote").exists()


def test_empty_object(server: Objects) -> None:
    server.files["shards/empty"] = b""
    assert len(RemoteShard(url(server, "empty"))) == 0


# --- damage -----------------------------------------------------------------------------------------------------------


def test_a_damaged_payload_is_found_when_its_record_is_read(server: Objects) -> None:
    stored = bytearray(server.files["shards/a.tfrecord"])
    stored[16 + 21 + 100] ^= 1  # in record 2
    server.files["shards/a.tfrecord"] = bytes(stored)
    shard = RemoteShard(url(server))
    assert len(shard) == len(PAYLOADS)
    with pytest.raises(RecordError) as raised:
        shard[2]
    assert str(raised.value).startswith(f"{url(server)}: record 2 at byte 37: payload checksum does not match")
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)
    assert shard[3].tobytes() == PAYLOADS[3]


def test_a_damaged_length_costs_its_record(server: Objects, tmp_path: Path) -> None:
    stored = bytearray(server.files["shards/a.tfrecord"])
    stored[37] ^= 1
    server.files["shards/a.tfrecord"] = bytes(stored)
    (tmp_path / "local").write_bytes(stored)
    local = Shard(tmp_path / "local", skip_bad=True)
    shard = RemoteShard(url(server), skip_bad=True)
    assert read(shard) == read(local) == [*PAYLOADS[:2], *PAYLOADS[3:]]
    assert [bad.cause for bad in shard.bad] == [bad.cause for bad in local.bad]
    with pytest.raises(RecordError, match="record 2 at byte 37: length checksum does not match; 3016 bytes skipped"):
        RemoteShard(url(server))


@pytest.mark.parametrize(("stored", "cause"), [(b"\x1f\x8b" + bytes(50), "gzip"), (b"id,label\n" * 900, "not a TFRec")])
def test_foreign_objects(server: Objects, stored: bytes, cause: str) -> None:
    server.files["shards/foreign"] = stored
    with pytest.raises(RecordError, match=rf"foreign: record 0 at byte 0: .*{cause}"):
        RemoteShard(url(server, "foreign"))


def test_what_rots_in_the_cache_is_fetched_again(server: Objects, small: Path) -> None:
    shard = RemoteShard(url(server))
    for block in (small / "remote").glob("??/*"):
        block.write_bytes(bytes(block.stat().st_size))
    assert read(shard) == PAYLOADS
    for block in (small / "remote").glob("??/*"):
        block.write_bytes(b"cut")
    assert read(shard) == PAYLOADS


# --- change -----------------------------------------------------------------------------------------------------------


def test_a_changed_object_is_another(server: Objects, tmp_path: Path) -> None:
    """Of the same size, and in the cache before."""
    old = RemoteShard(url(server))
    server.files["shards/a.tfrecord"] = content(tmp_path, [payload[::-1] for payload in PAYLOADS])
    assert read(RemoteShard(url(server))) == [payload[::-1] for payload in PAYLOADS]
    assert read(old) == PAYLOADS  # which are in the cache


def test_an_object_that_changes_while_it_is_read(
    server: Objects, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COUNTERPOINT_CACHE_GB", "0")
    shard = RemoteShard(url(server))
    server.files["shards/a.tfrecord"] = content(tmp_path, PAYLOADS[::-1])
    with pytest.raises(Error, match=r"a.tfrecord: the object has changed since it was opened"):
        shard[0]
    server.files["shards/a.tfrecord"] = content(tmp_path, [payload[::-1] for payload in PAYLOADS])
    assert shard[2].tobytes() == PAYLOADS[2][::-1]  # too early to notice
    monkeypatch.setattr(remote, "RECENT", 0.0)
    with pytest.raises(Error, match="has changed"):
        shard[2]


# --- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["503", "cut", "short", "hang", "close", "429"])
def test_passing_failures_are_tried_again(server: Objects, fault: str) -> None:
    server.faults = ["ok", "ok", fault, fault, "ok", fault]  # HEAD, the index beside it, and pieces
    assert read(RemoteShard(url(server))) == PAYLOADS
    assert server.faults == []


def test_failing_to_look_is_not_being_absent(server: Objects) -> None:
    """fsspec says of every failure over HTTP that the file was not found."""
    server.faults = ["503", "503", "hang", "close"]
    assert len(find_shards([url(server)])) == 1
    assert server.faults == []


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("503", "503 Service Unavailable (tried 7 times)"),
        ("hang", "no answer in time (tried 7 times)"),
        ("400", "400 Bad Request"),
        ("403", "403 Forbidden"),
    ],
)
def test_lasting_failures_are_one_line(
    server: Objects, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fault: str, reason: str
) -> None:
    monkeypatch.setattr(store, "TIMEOUT", 0.1)
    monkeypatch.setattr(server, "patience", 0.3)
    shard = RemoteShard(url(server))
    shard.file.forget(0, shard.size)
    server.faults = [fault] * 20
    with pytest.raises(Error) as raised:
        shard[0]
    assert str(raised.value) == f"{url(server)}: {reason}"
    assert len(server.faults) == (13 if "tried" in reason else 19)


def test_nothing_there(server: Objects, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", url(server, "b.tfrecord")]) == 1
    assert capsys.readouterr().err == f"counterpoint: {url(server, 'b.tfrecord')}: 404 Not Found\n"
    assert main(["inspect", url(server, "b*.tfrecord")]) == 1
    assert "b*.tfrecord: no shards there" in capsys.readouterr().err
    assert main(["inspect", url(server), "--taxonomy", url(server, "none")]) == 1
    assert "shards/none: nothing is there (categories.tsv, " in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as unused:
        nobody = unused.getsockname()[1]
    assert main(["inspect", f"http://127.0.0.1:{nobody}/a.tfrecord"]) == 1
    assert "Cannot connect" in (message := capsys.readouterr().err)
    assert message.endswith("(tried 7 times)\n")


def test_a_server_that_knows_no_ranges(server: Objects) -> None:
    server.ranges = False
    server.files["shards/long"] = server.files["shards/a.tfrecord"] * 3
    with pytest.raises(Error, match=r"long: .*the server does not read by range"):
        RemoteShard(url(server, "long"))


def test_what_cannot_be_read_at_all() -> None:
    with pytest.raises(Error, match=r"^nosuch://x/y: .*[Pp]rotocol"):
        find_shards(["nosuch://x/y"])


# --- many -------------------------------------------------------------------------------------------------------------


def test_names_folders_and_globs(server: Objects) -> None:
    for name in ("train2", "train10", "deep/er/train1"):
        server.files[f"shards/{name}.tfrecord"] = server.files["shards/a.tfrecord"]
    server.files["shards/notes.txt"] = b""

    def found(*names: str) -> list[str]:
        return [str(path).partition("/shards/")[2] for path in find_shards([f"{server.url}/{name}" for name in names])]

    everything = ["a.tfrecord", "deep/er/train1.tfrecord", "train2.tfrecord", "train10.tfrecord"]
    assert found("shards/") == everything
    assert found("shards/train*.tfrecord", "shards/train2.tfrecord") == everything[2:]
    assert found("shards/**/train1.*") == everything[1:2]
    assert [path.name for path in find_shards([url(server)])] == ["a.tfrecord"]


def test_real_records(server: Objects, real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In blocks of the usual size."""
    monkeypatch.setattr(remote, "BLOCK", 1 << 20)
    monkeypatch.setattr(remote, "PIECE", 8 << 20)
    for name in ("yt8m/video/validate0000.tfrecord", "yt8m/frame/test_data_0_ou.tfrecord"):
        server.files[name] = (real_data / name).read_bytes()
        assert read(RemoteShard(f"{server.url}/{name}")) == read(Shard(real_data / name))


def test_a_listing_that_fails_leaves_nothing_out(server: Objects) -> None:
    server.files["shards/deep/b.tfrecord"] = server.files["shards/a.tfrecord"]
    server.faults = ["ok", "ok", "503", "cut"]
    assert len(find_shards([f"{server.url}/shards/"])) == 2
    assert server.faults == []
    server.faults = ["ok", "ok", *["503"] * 7]
    with pytest.raises(Error, match=r"shards/deep/: 503 Service Unavailable \(tried 7 times\)"):
        find_shards([f"{server.url}/shards/"])


def test_a_batch_is_fetched_side_by_side(server: Objects, tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{i}.tfrecord", *clips(8, i, prefix=f"{i}-")) for i in range(4)]
    for path in paths:
        server.files[f"shards/{path.name}"] = path.read_bytes()
        server.files[f"shards/{path.name}{INDEX_SUFFIX}"] = write_index(path).read_bytes()
    data = Dataset([url(server, "[0-9].tfrecord")], LABELLING)
    server.asked.clear()
    items = data.__getitems__(list(range(32)))
    assert [clip.id for clip, _ in items] == [local.id for local in (dataset(tmp_path).clip(i) for i in range(32))]
    assert len(server.asked) == sum(-(-path.stat().st_size // 4000) for path in paths)  # neighbours in one request


def test_loader_processes(server: Objects, tmp_path: Path) -> None:
    """Forked after the parent has asked: each asks by itself."""
    made = clips(12)
    server.files["shards/b.tfrecord"] = write(tmp_path / "b.tfrecord", *made).read_bytes()
    data = Dataset([url(server, "b.tfrecord")], LABELLING)
    data.shards[0].file.forget(0, data.shards[0].size)  # type: ignore[attr-defined]
    features = FeatureSet.of(data.paths)
    loader = ClipLoader(data, RoundRobinSampler(len(data), 4), features, max_steps=9, workers=2)
    assert [name for batch in loader for name in batch.ids] == [one.id for one in made]
    data.shards[0].file.forget(0, data.shards[0].size)  # type: ignore[attr-defined]
    server.faults = ["403"] * 50
    with pytest.raises(Error) as raised:
        list(loader)
    assert str(raised.value) == f"{url(server, 'b.tfrecord')}: 403 Forbidden"


def test_one_process_makes_the_index_and_others_wait(server: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "TIMEOUT", 30.0)  # eight threads at once; nothing here is about time
    with ThreadPoolExecutor(8) as pool:
        shards = list(pool.map(lambda _: RemoteShard(url(server)), range(8)))
    assert all(read(shard) == PAYLOADS for shard in shards)
    assert sum(one.range != "" for one in server.gets("a.tfrecord")) == 2


def test_other_file_systems() -> None:
    """One that knows no asyncio."""
    files = fsspec.filesystem("memory")
    files.pipe_file("/bucket/train1.tfrecord", b"")
    paths = find_shards(["memory://bucket/*.tfrecord"])
    assert [str(path) for path in paths] == ["memory:///bucket/train1.tfrecord"]
    assert [str(path) for path in find_shards(["memory://bucket"])] == ["memory:///bucket/train1.tfrecord"]
    assert len(remote.open_shard(paths[0])) == 0


# --- the command line -------------------------------------------------------------------------------------------------


def test_commands_take_urls(server: Objects, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Features and the taxonomy are found beside remote shards as beside local ones; the weights are the same."""
    write(tmp_path / "data" / "train.tfrecord", *clips(30))
    write(tmp_path / "data" / "validate.tfrecord", *clips(8, 1, prefix="v"))
    FeatureSet({"audio": 8, "video": 16}, "ours").save(tmp_path / "data")
    LABELLING.save(tmp_path / "data" / "taxonomy")
    for path in (tmp_path / "data").rglob("*"):
        if path.is_file() and not path.name.endswith(INDEX_SUFFIX):
            server.files[path.relative_to(tmp_path).as_posix()] = path.read_bytes()
    for where, run in ((f"{server.url}/data", "far"), (f"{tmp_path}/data", "near")):
        arguments = ["train", "nv-l", "--data", f"{where}/train.tfrecord", "--validation", f"{where}/val*.tfrecord"]
        options = ["--training.max_epochs", "2", "--training.batch_size", "8", "--head.hidden", "8"]
        assert main([*arguments, "--out", str(tmp_path / run), *options]) == 0
    assert (tmp_path / "far/weights.safetensors").read_bytes() == (tmp_path / "near/weights.safetensors").read_bytes()
    assert (tmp_path / "far/data.json").read_text() == (tmp_path / "near/data.json").read_text()
    assert '"ours"' in (tmp_path / "far/features.json").read_text()
    capsys.readouterr()
    assert main(["inspect", "--json", f"{server.url}/data/"]) == 0
    far = capsys.readouterr().out
    assert main(["inspect", "--json", f"{tmp_path}/data"]) == 0
    assert far == capsys.readouterr().out
