"""TFRecord files, against a reader that tries every position; and their index."""

import struct
from functools import cache
from random import Random
from typing import Any, NamedTuple

import google_crc32c
import numpy as np

from counterpoint.data import tfrecord
from counterpoint.data.tfrecord import Shard, index_place
from counterpoint.errors import Error, RecordError
from fuzz.target import INTEGERS, Target, mutated, scratch


class Found(NamedTuple):
    offsets: list[int]
    lengths: list[int]
    bad: list[int]
    """Where damage begins."""


def framed(payload: bytes) -> bytes:
    return _head(len(payload)) + payload + struct.pack("<I", _masked(payload))


def _head(length: int) -> bytes:
    number = struct.pack("<Q", length)
    return number + struct.pack("<I", _masked(number))


def _masked(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return ((crc >> 15 | (crc << 17) & 0xFFFFFFFF) + 0xA282EAD8) & 0xFFFFFFFF


def read(data: bytes) -> Found:
    """The records of a file, by the rules of `counterpoint.data.tfrecord`, position by position."""
    position, found = 0, Found([], [], [])
    if data[:2] == b"\x1f\x8b" and _length(data, 0) is None:
        return Found([], [], [0])
    while position < len(data):
        length = _length(data, position)
        if length is not None and _whole(data, position, length):
            found.offsets.append(position)
            found.lengths.append(length)
            position += 16 + length
            continue
        found.bad.append(position)
        end = len(data) + 1 if length is None else position + 16 + length
        if end == len(data) or (end < len(data) and _length(data, end) is not None):
            position = end  # the payload alone is damaged
            continue
        position += 1
        while position < len(data):
            length = int.from_bytes(data[position : position + 8], "little")
            if (
                position + 16 + length <= len(data)
                and _length(data, position) == length
                and _whole(data, position, length)
            ):
                break
            position += 1
    return Found([], [], [0]) if found.bad and not found.offsets and _length(data, 0) is None else found


def _length(data: bytes, position: int) -> int | None:
    if position + 12 > len(data):
        return None
    length = int.from_bytes(data[position : position + 8], "little")
    # Few positions get as far as the checksum.
    return length if data[position : position + 12] == _head(length) else None


def _whole(data: bytes, position: int, length: int) -> bool:
    end = position + 12 + length
    return end + 4 <= len(data) and struct.pack("<I", _masked(data[position + 12 : end])) == data[end : end + 4]


def draw_file(random: Random) -> bytes:
    payloads = [random.randbytes(random.choice((0, 1, 5, 30, 90))) for _ in range(random.choice((0, 1, 2, 3, 5)))]
    if random.random() < 0.2:  # a record within a record
        payloads.append(random.randbytes(3) + framed(random.randbytes(9)) + random.randbytes(random.choice((0, 7))))
    records = [framed(payload) for payload in payloads]
    if records and random.random() < 0.3:  # a length that lies and agrees with its checksum
        chosen = random.randrange(len(records))
        lie = random.choice([*INTEGERS, *range(40)])
        records[chosen] = _head(lie) + records[chosen][12:]
    if random.random() < 0.1:
        records.insert(random.randint(0, len(records)), random.choice((b"\x1f\x8b\x08", bytes(40), b"id,label\n")))
    data = b"".join(records)
    return data if random.random() < 0.1 else mutated(random, data, [framed(b"new"), _head(3), *records])


def check_file(data: bytes) -> bool:
    truth = read(data)
    index = tfrecord.scan(np.frombuffer(data, np.uint8))
    found = Found(index.offsets.tolist(), index.lengths.tolist(), [offset for _, offset, _ in index.bad])
    assert found == truth, (found, truth)
    if sum(data) % 16 == 0:
        _check_on_disk(data, truth)
    return not truth.bad


def _check_on_disk(data: bytes, truth: Found) -> None:
    path = scratch() / f"{google_crc32c.value(data):08x}-{len(data)}"
    path.write_bytes(data)
    try:
        for _ in range(2):  # by its bytes, then by the index
            shard = Shard(path, skip_bad=True, check=True)
            found = Found(shard.offsets.tolist(), shard.lengths.tolist(), [bad.offset for bad in shard.bad])
            assert found == truth, (found, truth)
            for record, (offset, length) in enumerate(zip(*truth[:2], strict=True)):
                assert shard[record].tobytes() == data[offset + 12 : offset + 12 + length]
            numbers = sorted([*truth.offsets, *truth.bad])
            assert [shard.number(i) for i in range(len(shard))] == [numbers.index(offset) for offset in truth.offsets]
        try:
            Shard(path)
            assert not truth.bad
        except RecordError:
            assert truth.bad
    finally:
        path.unlink()
        index_place(path).unlink(missing_ok=True)


# --- The index --------------------------------------------------------------------------------------------------------

SHARDS = [
    b"".join(map(framed, (b"", b"one", bytes(20), b"last"))),
    b"".join(map(framed, (b"a", b"bc"))) + b"cut",
    framed(b"in " + framed(b"inner")) + framed(b"b" * 30)[:-1] + b"!" + framed(b"c"),
    b"",
]


@cache
def _indexed(number: int) -> tuple[Any, bytes, Found]:
    """A shard's path, its index and its records."""
    path = scratch() / f"indexed-{number}"
    path.write_bytes(SHARDS[number])
    Shard(path, skip_bad=True)
    return path, index_place(path).read_bytes(), read(SHARDS[number])


def draw_index(random: Random) -> bytes:
    """A shard's number; how its index is to be changed comes next, since an index knows its shard's time."""
    return bytes([random.randrange(len(SHARDS))]) + random.randbytes(8)


def check_index(data: bytes) -> bool:
    random = Random(data[1:])
    path, index, truth = _indexed(data[0] % len(SHARDS))
    changed = index
    while changed == index:
        body = mutated(random, index[:-4], (b"[]", b"[[0,0]]", b"[0]", b"{}", b"null", b"9" * 5000, b"[" * 99_999))
        if random.random() < 0.5 and len(body) > 50:  # a number of the head, or an offset, or a length
            at = random.choice((16, 24, 32, *range(40, len(body), 8)))
            body = body[:at] + struct.pack("<Q", random.choice((*INTEGERS, *range(9)))) + body[at + 8 :]
        if random.random() < 0.3:  # another list of what is damaged
            count = int.from_bytes(index[24:32], "little")
            bad = random.choice(
                (b"[]", b"[[0,0]]", b"[0]", b"{}", b"null", b'[[0,"",1]]', b"9" * 5000, b"[" * 99_999, b"\xff")
            )
            body = index[:32] + struct.pack("<Q", len(bad)) + index[40 : 40 + 16 * count] + bad
        repaired = random.random() < 0.7  # no accident makes such an index; it may leave records out, and no more
        changed = body + (struct.pack("<I", google_crc32c.value(body)) if repaired else index[-4:])
    index_place(path).write_bytes(changed)
    try:
        shard = Shard(path, skip_bad=True, check=True)
        found = [(shard.offsets.item(i), shard[i].tobytes()) for i in range(len(shard))]
        for i in range(len(shard)):
            shard.number(i)
    except Error:
        assert repaired
        return False
    stored = SHARDS[data[0] % len(SHARDS)]
    if repaired:
        assert all(_length(stored, offset) == len(payload) for offset, payload in found)
        assert all(stored[offset + 12 : offset + 12 + len(payload)] == payload for offset, payload in found)
    else:
        assert [offset for offset, _ in found] == truth.offsets
        assert [len(payload) for _, payload in found] == truth.lengths
        assert [bad.offset for bad in shard.bad] == truth.bad
    return index_place(path).read_bytes() == changed


TARGETS = [
    Target("file", draw_file, check_file, quick=500),
    Target("index", draw_index, check_index, quick=500),
]
