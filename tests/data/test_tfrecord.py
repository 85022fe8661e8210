import gzip
import os
import pickle
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from counterpoint.data import tfrecord
from counterpoint.data.tfrecord import INDEX_SUFFIX, Shard, Writer, index_place, write_index
from counterpoint.errors import Error, RecordError
from counterpoint.files import cache_folder

PAYLOADS = [b"", b"one", b"\x00" * 20, bytes(range(90)), b"last"]
FRAMING = 16  # bytes a record takes beyond its payload


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "shard.tfrecord", PAYLOADS)


def write(path: Path, payloads: list[bytes]) -> Path:
    with Writer(path) as writer:
        for payload in payloads:
            writer.write(payload)
    return path


def read(shard: Shard) -> list[bytes]:
    return [shard[record].tobytes() for record in range(len(shard))]


def start(record: int) -> int:
    return sum(len(payload) + FRAMING for payload in PAYLOADS[:record])


def damage(path: Path, position: int, flip: int = 0x40) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= flip
    path.write_bytes(data)


def test_crc_and_layout_are_those_of_the_format(tmp_path: Path) -> None:
    assert google_crc32c.value(b"123456789") == 0xE3069283  # the check value of CRC-32C
    assert tfrecord._masked(0) == 0xA282EAD8
    stored = write(tmp_path / "a", [b"foo"]).read_bytes()
    assert stored[:8] == struct.pack("<Q", 3)
    assert stored[12:15] == b"foo"
    assert len(stored) == 3 + FRAMING
    assert struct.unpack("<I", stored[15:]) == (tfrecord._masked(google_crc32c.value(b"foo")),)


def test_reads_what_was_written_in_any_order(path: Path) -> None:
    shard = Shard(path, check=True)
    assert len(shard) == 5
    assert read(shard) == PAYLOADS
    assert shard[-1].tobytes() == b"last"
    assert shard.offsets.tolist() == [start(record) for record in range(5)]
    assert shard.lengths.tolist() == [len(payload) for payload in PAYLOADS]
    assert shard.bad == []
    with pytest.raises(IndexError):
        shard[5]


def test_checksums_of_good_records(path: Path) -> None:
    damage(path, start(3) + 20)
    crcs = [tfrecord._masked(google_crc32c.value(payload)) for payload in PAYLOADS]
    assert Shard(path, skip_bad=True).checksums.tolist() == [*crcs[:3], crcs[4]]
    assert Shard(write(path.with_name("empty"), [])).checksums.tolist() == []


def test_records_are_read_only_views_that_outlive_the_shard(path: Path) -> None:
    record = Shard(path)[3]
    assert not record.flags.writeable
    assert record.base is not None
    tfrecord._mapped.cache_clear()
    assert record.tobytes() == PAYLOADS[3]


def test_more_shards_than_open_maps(tmp_path: Path) -> None:
    shards = [Shard(write(tmp_path / f"{number}", [b"%d" % number])) for number in range(140)]
    for _ in range(2):
        assert [shard[0].tobytes() for shard in shards] == [b"%d" % number for number in range(140)]
    assert tfrecord._mapped.cache_info().currsize <= 128


def test_pickles(path: Path) -> None:
    assert read(pickle.loads(pickle.dumps(Shard(path)))) == PAYLOADS


def test_empty_file_has_no_records(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    shard = Shard(tmp_path / "empty")
    assert (len(shard), shard.bad) == (0, [])


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(Error, match=r"absent: No such file"):
        Shard(tmp_path / "absent")
    with pytest.raises(Error, match="a folder, and not a file"):
        Shard(tmp_path)


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (gzip.compress(b"x" * 50), "gzip-compressed; decompress it first"),
        (b"id,label\n" * 40, "not a TFRecord file"),
        (bytes(1000), "not a TFRecord file"),
        (b"short", "not a TFRecord file"),
    ],
    ids=["gzip", "text", "zeros", "short"],
)
def test_foreign_files(tmp_path: Path, content: bytes, cause: str) -> None:
    path = tmp_path / "foreign"
    path.write_bytes(content)
    with pytest.raises(RecordError, match=rf"foreign: record 0 at byte 0: .*{cause}$"):
        Shard(path)
    shard = Shard(path, skip_bad=True)
    assert len(shard) == 0
    assert len(shard.bad) == 1


def test_damaged_payload_costs_its_record(path: Path) -> None:
    damage(path, start(3) + 12 + 5)
    with pytest.raises(RecordError) as caught:
        Shard(path)
    assert str(caught.value) == (
        f"{path}: record 3 at byte {start(3)}: payload checksum does not match "
        "(the file is damaged; download it again, or pass --skip-bad-records)"
    )
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    shard = Shard(path, skip_bad=True)
    assert read(shard) == PAYLOADS[:3] + PAYLOADS[4:]
    assert [(bad.record, bad.offset) for bad in shard.bad] == [(3, start(3))]
    assert [shard.number(record) for record in range(4)] == [0, 1, 2, 4]
    assert shard.number(-1) == 4


@pytest.mark.parametrize("byte", [0, 7, 8, 11])
def test_damaged_length_costs_its_record(path: Path, byte: int) -> None:
    damage(path, start(2) + byte)
    shard = Shard(path, skip_bad=True)
    assert read(shard) == PAYLOADS[:2] + PAYLOADS[3:]
    assert [bad.cause for bad in shard.bad] == ["length checksum does not match; 36 bytes skipped"]


def test_lost_bytes_cost_their_record(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: start(3) + 50] + data[start(3) + 60 :])
    shard = Shard(path, skip_bad=True)
    assert read(shard) == PAYLOADS[:3] + PAYLOADS[4:]
    assert shard.bad[0].cause == f"payload checksum does not match; {90 + FRAMING - 10} bytes skipped"


def test_resumes_beyond_one_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfrecord, "_WINDOW", 64)
    path = write(tmp_path / "a", [b"first", bytes(1000), b"last"])
    damage(path, 5 + FRAMING)
    assert read(Shard(path, skip_bad=True)) == [b"first", b"last"]


def test_truncation_anywhere_is_noticed(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole", PAYLOADS).read_bytes()
    ends = [start(record) for record in range(6)]
    path = tmp_path / "cut"
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        shard = Shard(path, skip_bad=True)
        kept = sum(end <= size for end in ends) - 1
        assert read(shard) == PAYLOADS[:kept]
        assert len(shard.bad) == (size not in ends)
        if size > 12 and size not in ends:
            with pytest.raises(RecordError, match="download it again"):
                Shard(path)


def test_damage_anywhere_is_noticed(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole", PAYLOADS).read_bytes()
    path = tmp_path / "damaged"
    for position in range(len(whole)):
        path.write_bytes(whole)
        damage(path, position, 1 << position % 8)
        shard = Shard(path, skip_bad=True)
        hit = sum(start(record) <= position for record in range(5)) - 1
        assert read(shard) == PAYLOADS[:hit] + PAYLOADS[hit + 1 :]
        assert len(shard.bad) == 1


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_heavy_damage_yields_only_records_that_were_written(tmp_path: Path, data: st.DataObject) -> None:
    payloads = data.draw(st.lists(st.binary(max_size=60), min_size=1, max_size=8))
    stored = bytearray(write(tmp_path / "a", payloads).read_bytes())
    begin = data.draw(st.integers(0, len(stored)))
    stored[begin : begin + data.draw(st.integers(0, 100))] = data.draw(st.binary(max_size=100))
    path = tmp_path / "b"
    path.write_bytes(stored)
    left = iter(payloads)
    new = [
        payload for payload in read(Shard(path, skip_bad=True)) if payload not in left
    ]  # `in` consumes: a subsequence
    assert not new or bytes(stored[begin:]).find(new[0]) >= 0  # the random bytes held a whole record


# --- The index --------------------------------------------------------------------------------------------------------


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each time that a whole shard is read."""
    counted: list[int] = []
    scan = tfrecord.scan

    def counting(data: tfrecord.Bytes) -> tfrecord.Index:
        counted.append(len(data))
        return scan(data)

    monkeypatch.setattr(tfrecord, "scan", counting)
    return counted


def test_index_is_made_once(path: Path, scans: list[int]) -> None:
    Shard(path)
    assert [file.name for file in path.parent.iterdir()] == ["shard.tfrecord"]
    assert index_place(path).exists()
    assert read(Shard(path)) == PAYLOADS
    assert len(scans) == 1


def test_an_index_beside_the_shard_is_written_where_asked_and_read(path: Path, scans: list[int]) -> None:
    assert write_index(path).name == "shard.tfrecord" + INDEX_SUFFIX
    index_place(path).unlink()
    assert read(Shard(path)) == PAYLOADS
    assert len(scans) == 1
    assert not index_place(path).exists()


def test_what_is_no_shard_gets_no_index(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("a text, and no shard\n" * 9)
    for attempt in (Shard, write_index):
        with pytest.raises(RecordError, match="not a TFRecord file"):
            attempt(readme)
    assert [file.name for file in tmp_path.iterdir()] == ["README.md"]
    assert not index_place(readme).exists()


def test_index_keeps_what_is_bad(path: Path, scans: list[int]) -> None:
    damage(path, start(1) + 12)
    causes = [[bad.cause for bad in Shard(path, skip_bad=True).bad] for _ in range(2)]
    assert causes == [["payload checksum does not match"]] * 2
    with pytest.raises(RecordError, match="record 1"):
        Shard(path)
    assert len(scans) == 1


def test_changed_shard_is_indexed_again(path: Path, scans: list[int]) -> None:
    old = Shard(path)
    write(path, [b"new"])
    assert read(Shard(path)) == [b"new"]
    assert len(scans) == 2
    tfrecord._mapped.cache_clear()
    with pytest.raises(Error, match="has changed since"):
        old[0]


def test_other_shard_of_equal_size_and_time(path: Path, scans: list[int]) -> None:
    Shard(path)
    time = path.stat().st_mtime_ns
    write(path, PAYLOADS[::-1])
    os.utime(path, ns=(time, time))
    tfrecord._mapped.cache_clear()
    assert read(Shard(path)) == PAYLOADS[::-1]
    assert len(scans) == 2


def test_mended_shard_of_equal_size_and_time(path: Path) -> None:
    """As those who copy from a store leave it."""
    good, stat = path.read_bytes(), path.stat()
    damage(path, 2)
    os.utime(path, ns=(stat.st_mtime_ns, stat.st_mtime_ns))
    with pytest.raises(RecordError):
        Shard(path)
    path.write_bytes(good)
    os.utime(path, ns=(stat.st_mtime_ns, stat.st_mtime_ns))
    assert not Shard(path, skip_bad=True).bad


def test_shard_from_before_1970(path: Path) -> None:
    os.utime(path, ns=(-(10**9), -(10**9)))
    assert len(Shard(path)) == len(Shard(path)) > 0


@pytest.mark.parametrize("size", [0, 100, 5000])
def test_change_of_size_under_the_map_is_noticed(path: Path, size: int) -> None:
    """To touch what was cut off would kill the process."""
    shard = Shard(path)
    assert shard[3].tobytes() == PAYLOADS[3]
    os.truncate(path, size)
    with pytest.raises(Error, match=f"{path}: the file has changed since it was opened"):
        shard[3]


def test_access_finds_what_the_index_cannot_know(tmp_path: Path) -> None:
    path = write(tmp_path / "a", [b"first", b"second", b"third"])
    lengths, payloads = Shard(path), Shard(path, check=True)
    time = path.stat().st_mtime_ns
    damage(path, 5 + FRAMING + 12)
    os.utime(path, ns=(time, time))
    tfrecord._mapped.cache_clear()
    assert lengths[1].tobytes() != b"second"  # lengths alone were asked for
    with pytest.raises(RecordError, match="record 1 at byte 21: payload checksum"):
        lengths.check(1)
    with pytest.raises(RecordError, match="record 1 at byte 21: payload checksum"):
        payloads[1]
    damage(path, 5 + FRAMING)
    os.utime(path, ns=(time, time))
    tfrecord._mapped.cache_clear()
    with pytest.raises(RecordError, match="record 1 at byte 21: length checksum"):
        lengths[1]


def test_damaged_index_is_made_again(path: Path, scans: list[int]) -> None:
    Shard(path)
    index = index_place(path).read_bytes()
    for position in range(len(index)):
        index_place(path).write_bytes(index[:position] + bytes([index[position] ^ 1]) + index[position + 1 :])
        assert read(Shard(path)) == PAYLOADS
        index_place(path).write_bytes(index[:position])
        assert read(Shard(path)) == PAYLOADS
    assert len(scans) == 1 + 2 * len(index)
    assert index_place(path).read_bytes() == index


def test_index_that_does_not_fit_is_made_again(path: Path, scans: list[int]) -> None:
    shard = Shard(path)
    good = tfrecord.Index(shard.offsets, shard.lengths, [])
    for offsets, lengths in [
        (good.offsets + 1, good.lengths),
        (good.offsets, good.lengths + 1),
        (good.offsets[::-1], good.lengths[::-1]),
        (good.offsets - 1, good.lengths),
        (good.offsets, good.lengths * -1),
    ]:
        forged = good._replace(offsets=np.ascontiguousarray(offsets), lengths=np.ascontiguousarray(lengths))
        index_place(path).write_bytes(tfrecord.packed(forged, shard._file))
        assert read(Shard(path)) == PAYLOADS
    assert len(scans) == 6


def test_index_of_a_read_only_folder_goes_to_the_cache(
    path: Path, scans: list[int], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path_factory.mktemp("cache") / "new"
    monkeypatch.setenv("COUNTERPOINT_CACHE", str(cache))
    path.parent.chmod(0o555)
    try:
        for _ in range(2):
            assert read(Shard(path)) == PAYLOADS
        assert [file.name for file in path.parent.iterdir()] == [path.name]
    finally:
        path.parent.chmod(0o755)
    assert len(list(cache.iterdir())) == 1
    assert len(scans) == 1


def test_works_without_any_place_for_the_index(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COUNTERPOINT_CACHE", str(path / "below-a-file"))
    path.parent.chmod(0o555)
    try:
        assert read(Shard(path)) == PAYLOADS
    finally:
        path.parent.chmod(0o755)


def test_index_written_by_many_at_once(path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        shards = list(pool.map(lambda _: Shard(path), range(32)))
    assert all(read(shard) == PAYLOADS for shard in shards)
    assert len(list(path.parent.iterdir())) == 1
    assert not list(index_place(path).parent.glob(f".{index_place(path).name}*"))  # no temporary files left


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COUNTERPOINT_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("COUNTERPOINT_CACHE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "counterpoint"


# --- Writing ----------------------------------------------------------------------------------------------------------


def test_writer_leaves_nothing_when_it_fails(tmp_path: Path) -> None:
    path = write(tmp_path / "a", [b"old"])

    def fail() -> None:
        with Writer(path) as writer:
            writer.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert read(Shard(path)) == [b"old"]
    assert {file.name for file in tmp_path.iterdir()} == {"a"}


def test_written_file_has_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    assert write(tmp_path / "a", []).stat().st_mode == (tmp_path / "other").stat().st_mode


def test_real_shards(real_data: Path) -> None:
    for name, records in [("yt8m/frame/test_data_0_ou", 1), ("yt8m/video/validate0000", 284)]:
        shard = Shard(real_data / f"{name}.tfrecord", check=True)
        assert len(read(shard)) == records


def record(payload: bytes) -> bytes:
    crc = google_crc32c.value(payload)
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    return tfrecord.head_of(len(payload)) + payload + masked.to_bytes(4, "little")


def false_heads(size: int) -> bytes:
    """After a good record and a damaged byte, heads that agree, of records that reach to the end and are none."""
    start = record(b"x" * 10) + b"\xff" * 12
    heads = (size - len(start) - 4) // 12
    total = len(start) + 12 * heads + 4
    ends = (total - (len(start) + 12 * i) - 16 for i in range(heads))
    return start + b"".join(map(tfrecord.head_of, ends)) + bytes(4)


@pytest.mark.parametrize("size", [20_000, 80_000])
def test_what_a_damaged_file_costs_grows_no_faster_than_it(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = 0
    agrees = tfrecord.payload_agrees

    def counting(data: Any, offset: int, length: int) -> bool:
        nonlocal checked
        checked += length
        return agrees(data, offset, length)

    monkeypatch.setattr(tfrecord, "payload_agrees", counting)
    data = np.frombuffer(false_heads(size), np.uint8)
    index = tfrecord.scan(data)
    assert index.offsets.tolist() == [0]
    assert len(index.bad) == 1
    assert checked <= 5 * size


def test_a_good_record_after_some_false_heads_is_found() -> None:
    content = record(b"first") + b"\xff" * 12 + tfrecord.head_of(40) + record(b"second") + bytes(60)
    index = tfrecord.scan(np.frombuffer(content, np.uint8))
    assert index.lengths.tolist() == [5, 6]


def test_records_without_payload_are_found_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfrecord, "_WINDOW", 64)
    content = record(b"") * 21 + record(b"a") + record(b"") + record(b"") + b"cut"
    index = tfrecord.scan(np.frombuffer(content, np.uint8))
    assert index.lengths.tolist() == [0] * 21 + [1, 0, 0]
    assert index.offsets.tolist() == [*range(0, 337, 16), 353, 369]
    assert len(index.bad) == 1
