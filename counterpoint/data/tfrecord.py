"""TFRecord shards, read in place and written, without TensorFlow.

A shard is a sequence of records, each `length (8 bytes) | CRC of the length (4) | payload | CRC of the payload (4)`,
little-endian, with masked CRC-32C (https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details).
The file is memory-mapped; an index of offsets, made by one checking pass and cached, gives random access.

`offset` is where a record's length begins; its payload begins 12 bytes later. Damage costs as little as it can: a
payload that fails its checksum costs its record; after a length that fails, reading resumes at the next position
where length, payload and both checksums agree.
"""

import contextlib
import hashlib
import json
import mmap
import os
import struct
from bisect import bisect_right
from functools import cache, lru_cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from counterpoint.errors import Error, RecordError
from counterpoint.files import cache_folder, check_regular, replacing

if TYPE_CHECKING:
    from counterpoint.data.store import RemotePath

Bytes = NDArray[np.uint8]

INDEX_SUFFIX = ".counterpoint-index"
ADVICE = "the file is damaged; download it again, or pass --skip-bad-records"
GZIP = "the file is gzip-compressed; decompress it first"
_FOREIGN = "not a TFRecord file"
_CHANGED = "the file has changed since it was opened"

HEAD_BYTES, FOOT_BYTES = 12, 4  # bytes before and after a payload
HEADER = struct.Struct("<QI")
_INDEX = struct.Struct(
    "<8sQqQQ"
)  # magic with the format's version, shard size, shard mtime, records, bytes of the bad list
_MAGIC = b"cpindex1"
_WINDOW = 1 << 20  # positions tried at once when looking for the next good record


class Shard:
    """The records of one TFRecord file, by number: `shard[i]` is the payload, a read-only uint8 view of the file.

    Opening reads the index, or makes it by one pass that checks every length and payload. It is kept in the user's
    cache folder (`COUNTERPOINT_CACHE`), and made anew where the shard's size or time, or the index's own checksum, does
    not fit. One that `write_index` has left beside the shard is read too.

    Args:
        path: the file.
        check: check each payload's CRC again on every access. Lengths are always checked.
        skip_bad: leave damaged records out and list them in `bad`, instead of raising the first of them.

    Attributes:
        offsets, lengths: (record,) int64, where each good record begins and how many bytes its payload has.
        bad: a `RecordError` for each damaged record or stretch.
        size: the file's bytes.

    Raises RecordError for damage (unless `skip_bad`), Error where the file cannot be opened. Pickles as
    path and index.
    """

    def __init__(self, path: str | Path, *, check: bool = False, skip_bad: bool = False) -> None:
        self.path: Path | RemotePath = Path(path)
        check_regular(self.path)
        try:
            stat = self.path.stat()
            self._file = (str(self.path), stat.st_size, stat.st_mtime_ns)
            index = _cached_index(self._file)
        except OSError as error:
            raise Error(f"{self.path}: {error.strerror or error}") from error
        self.size = stat.st_size
        self._check = check
        self._take(index, skip_bad)

    def _take(self, index: "Index", skip_bad: bool) -> None:
        self.offsets, self.lengths = index.offsets, index.lengths
        self.bad = [RecordError(self.path, *entry) for entry in index.bad]
        if self.bad and not skip_bad:
            raise self.bad[0] if self.bad[0].cause in (GZIP, _FOREIGN) else _advise(self.bad[0])

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, record: int) -> Bytes:
        return self._payload(record, self._check)

    def check(self, record: int) -> None:
        """Raise RecordError unless the payload still has its CRC."""
        self._payload(record, check=True)

    def _payload(self, record: int, check: bool) -> Bytes:
        start, length = self.offsets.item(record), self.lengths.item(record)
        data = self._data()
        if data[start : start + HEAD_BYTES].tobytes() != head_of(length):
            raise self._error(record, "length checksum does not match")
        if check and not payload_agrees(data, start, length):
            raise self._error(record, "payload checksum does not match")
        return data[start + HEAD_BYTES : start + HEAD_BYTES + length]

    def _data(self) -> Bytes:
        data = _mapped(*self._file)
        if self.size and _file_size(data) != self.size:  # to touch what was cut off would kill the process
            raise Error(f"{self.path}: {_CHANGED}")
        return data

    @property
    def checksums(self) -> NDArray[np.uint32]:
        """(record,) the CRC that the file stores of each payload: two records with the same are the same."""
        data = self._data()
        ends = self.offsets + self.lengths + HEAD_BYTES
        return np.asarray(data[ends[:, None] + np.arange(FOOT_BYTES)].view("<u4")[:, 0], np.uint32)

    def number(self, record: int) -> int:
        """The record's number in the file, where damaged ones count too."""
        record = range(len(self))[record]
        return record + bisect_right([bad.offset for bad in self.bad], self.offsets[record])

    def _error(self, record: int, cause: str) -> RecordError:
        return _advise(RecordError(self.path, self.number(record), int(self.offsets[record]), cause))


class Writer:
    """Write records to a TFRecord file: `with Writer(path) as writer: writer.write(payload)`.

    The file appears whole at the end of the block, or not at all when the block raises.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __enter__(self) -> Self:
        self._atomic = replacing(self.path)
        self._file = self._atomic.__enter__()
        return self

    def write(self, payload: bytes) -> None:
        self._file.write(head_of(len(payload)))
        self._file.write(payload)
        self._file.write(struct.pack("<I", _masked(google_crc32c.value(payload))))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._atomic.__exit__(kind, error, trace)


# --- The file ---------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=128)  # a map keeps a file descriptor, and a data set has thousands of shards
def _mapped(path: str, size: int, modified: int) -> Bytes:
    """The file's bytes as a read-only map. Views of it stay valid when it leaves this cache."""
    with open(path, "rb") as file:  # noqa: PTH123 - a Path costs time here
        stat = os.fstat(file.fileno())
        if (stat.st_size, stat.st_mtime_ns) != (size, modified):
            raise Error(f"{path}: {_CHANGED}")
        if not size:  # an empty file cannot be mapped
            return np.empty(0, np.uint8)
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)


def forget_maps() -> None:
    """Let go of files that were read, so that removed ones take up no disk."""
    _mapped.cache_clear()


def _file_size(mapped: Bytes) -> int:
    """Bytes of the file as it is now."""
    return mapped.base.obj.size()  # type: ignore[union-attr,no-any-return]  # mmap <- memoryview <- array


# --- Checksums --------------------------------------------------------------------------------------------------------


def _masked(crc: int) -> int:
    """The form in which TFRecord stores a CRC, which makes the CRC of data with CRCs in it less regular."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@lru_cache(maxsize=4096)
def head_of(length: int) -> bytes:
    """What stands before a payload: its length and the CRC of that."""
    return HEADER.pack(length, _masked(google_crc32c.value(length.to_bytes(8, "little"))))


def payload_agrees(data: Bytes, offset: int, length: int) -> bool:
    end = offset + HEAD_BYTES + length
    crc = int.from_bytes(data[end : end + FOOT_BYTES].tobytes(), "little")
    return _masked(google_crc32c.value(data[offset + HEAD_BYTES : end])) == crc


@cache
def _window_tables() -> NDArray[np.uint32]:
    """(8, 256): what each byte at each place of 8 adds to their CRC. A CRC is affine over XOR, so the CRC of many
    windows is eight table lookups each; the constant part is in the first table.
    """
    windows = np.zeros((8, 256, 8), np.uint8)
    for place in range(8):
        windows[place, :, place] = np.arange(256)
    crcs = [google_crc32c.value(window.tobytes()) for window in windows.reshape(-1, 8)]
    tables = np.array(crcs, np.uint32).reshape(8, 256)
    tables[1:] ^= tables[0, 0]
    return tables


class _Recovery:
    """Checks payloads of a file, and remembers what failed: after damage anything may look like a record's head.

    Its cost is bounded: once the payloads that failed add up to `PATIENCE` times the file, nothing more is looked for.
    """

    PATIENCE = 4

    def __init__(self, data: Bytes) -> None:
        self.data = data
        self.left = self.PATIENCE * len(data)

    def agrees(self, offset: int, length: int) -> bool:
        agreed = payload_agrees(self.data, offset, length)
        if not agreed:
            self.left -= HEAD_BYTES + length
        return agreed


def _next_record(data: Bytes, start: int, recovery: _Recovery) -> int:
    """The first position at or after `start` where a whole record agrees with its checksums, or the end."""
    tables = _window_tables()
    last = len(data) - HEAD_BYTES - FOOT_BYTES  # where the last record could begin
    for begin in range(start, last + 1, _WINDOW):
        count = min(_WINDOW, last + 1 - begin)
        lengths = np.ndarray((count,), "<u8", data, begin, (1,))  # one at every byte
        candidates = begin + np.flatnonzero(lengths <= last - begin)
        heads = data[candidates[:, None] + np.arange(HEAD_BYTES)]
        crcs = np.bitwise_xor.reduce(tables[np.arange(8), heads[:, :8]], axis=1)
        masked = (crcs >> np.uint32(15) | crcs << np.uint32(17)) + np.uint32(0xA282EAD8)
        agree = masked == np.ascontiguousarray(heads[:, 8:]).view("<u4")[:, 0]
        for position in candidates[agree].tolist():
            length = int(lengths[position - begin])
            if position + length <= last:
                if recovery.left <= 0:
                    return len(data)
                if recovery.agrees(position, length):
                    return int(position)
    return len(data)


_EMPTY = np.frombuffer(head_of(0) + struct.pack("<I", _masked(0)), np.uint8)
"""A record without payload."""


def _empty_records(data: Bytes, start: int) -> int:
    """How many records without payload follow each other: a file of them has many, each of which costs time."""
    found, step = 0, len(_EMPTY)
    while True:
        part = data[start + found * step : start + found * step + _WINDOW]
        rows = part[: len(part) // step * step].reshape(-1, step)
        other = np.flatnonzero((rows != _EMPTY).any(1))
        found += int(other[0]) if len(other) else len(rows)
        if len(other) or len(part) < _WINDOW:
            return found


# --- The index --------------------------------------------------------------------------------------------------------


class Index(NamedTuple):
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]
    bad: list[tuple[int, int, str]]  # record number, offset, cause


def scan(data: Bytes) -> Index:
    """Find and check every record."""
    offsets: list[int] = []
    lengths: list[int] = []
    bad: list[tuple[int, int, str]] = []
    if data[:2].tobytes() == b"\x1f\x8b" and not _header(data, 0)[1]:
        return _as_index([], [], [(0, 0, GZIP)])
    position, size = 0, len(data)
    recovery = _Recovery(data)
    while position < size:
        length, valid = _header(data, position)
        end = position + HEAD_BYTES + length + FOOT_BYTES
        if valid and not length and (run := _empty_records(data, position)):
            offsets += range(position, position + run * len(_EMPTY), len(_EMPTY))
            lengths += [0] * run
            position += run * len(_EMPTY)
            continue
        if valid and end <= size and recovery.left > 0 and recovery.agrees(position, length):
            offsets.append(position)
            lengths.append(length)
            position = end
            continue
        if recovery.left <= 0:
            resume, cause = size, f"damaged in so many places that the last {size - position} bytes were not searched"
        elif valid and (end == size or (end < size and _header(data, end)[1])):
            resume, cause = end, "payload checksum does not match"
        else:  # where the next record begins is not known
            resume = _next_record(data, position + 1, recovery)
            cause = f"cut short: {size - position} of its {end - position} bytes are there"
            if not valid:
                cause = f"length checksum does not match; {resume - position} bytes skipped"
            elif end <= size:
                cause = f"payload checksum does not match; {resume - position} bytes skipped"
        bad.append((len(offsets) + len(bad), position, cause))
        position = resume
    if not offsets and bad and not _header(data, 0)[1]:
        bad = [(0, 0, _FOREIGN)]
    return _as_index(offsets, lengths, bad)


def _header(data: Bytes, position: int) -> tuple[int, bool]:
    """The length of the record at `position`, and whether it agrees with its checksum."""
    head = data[position : position + HEAD_BYTES].tobytes()
    if len(head) < HEAD_BYTES:
        return 0, False
    length, _ = HEADER.unpack(head)
    return length, head == head_of(length)


def begins_a_record(path: Path) -> bool:
    """Whether a file begins as a shard does: with a length that agrees with its checksum."""
    with path.open("rb") as file:
        head = np.frombuffer(file.read(HEAD_BYTES), np.uint8)
    return _header(head, 0)[1]


def _as_index(offsets: list[int], lengths: list[int], bad: list[tuple[int, int, str]]) -> Index:
    return Index(np.array(offsets, np.int64), np.array(lengths, np.int64), bad)


def _cached_index(file: tuple[str, int, int]) -> Index:
    place = index_place(Path(file[0]))
    for stored in (place, _beside(Path(file[0]))):
        with contextlib.suppress(OSError, ValueError):
            return _load(stored.read_bytes(), file)
    index = scan(_mapped(*file))
    if not _is_foreign(index):
        with contextlib.suppress(OSError):  # it only saves time
            place.parent.mkdir(parents=True, exist_ok=True)
            with replacing(place) as out:
                out.write(packed(index, file))
    return index


def _is_foreign(index: Index) -> bool:
    return [cause for _, _, cause in index.bad] in ([_FOREIGN], [GZIP])


def index_place(shard: Path) -> Path:
    """Where a shard's index is kept: in the user's cache folder."""
    name = hashlib.sha256(os.fsencode(shard.resolve())).hexdigest()[:32]
    return cache_folder() / (name + INDEX_SUFFIX)


def _beside(shard: Path) -> Path:
    return shard.with_name(shard.name + INDEX_SUFFIX)


def write_index(shard: Path) -> Path:
    """Write a shard's index beside it, where `counterpoint.data.remote` finds it after an upload; returns its path.

    Raises:
        Error: the file is no shard, or its folder cannot be written.
    """
    opened = Shard(shard, skip_bad=True)
    index = Index(opened.offsets, opened.lengths, [(bad.record, bad.offset, bad.cause) for bad in opened.bad])
    if _is_foreign(index):
        raise opened.bad[0]
    place = _beside(shard)
    try:
        with replacing(place) as out:
            out.write(packed(index, opened._file))
    except OSError as error:
        raise Error(f"{place}: {error.strerror or error}") from error
    return place


def packed(index: Index, file: tuple[str, int, int]) -> bytes:
    bad = json.dumps(index.bad).encode()
    head = _INDEX.pack(_MAGIC, file[1], file[2], len(index.offsets), len(bad))
    body = head + index.offsets.astype("<i8").tobytes() + index.lengths.astype("<i8").tobytes() + bad
    return body + struct.pack("<I", google_crc32c.value(body))


def _load(stored: bytes, file: tuple[str, int, int]) -> Index:
    """The index, or ValueError unless it is whole, belongs to the file as it is now, and fits it."""
    modified, index = unpacked(stored, file[1])
    if modified != file[2]:
        raise ValueError("the index is another file's")
    # The file could have been swapped for one of the same size and time, such as itself downloaded again.
    data = _mapped(*file)
    for record in (0, -1) if len(index.offsets) else ():
        if _header(data, int(index.offsets[record])) != (index.lengths[record], True):
            raise ValueError("the index does not fit the file")
    recovery = _Recovery(data)
    for _, offset, _ in index.bad:
        length, valid = _header(data, offset)
        whole = valid and offset + HEAD_BYTES + length + FOOT_BYTES <= file[1]
        if whole and recovery.left > 0 and recovery.agrees(offset, length):
            raise ValueError("what was damaged no longer is")
    return index


def unpacked(stored: bytes, size: int) -> tuple[int, Index]:
    """When the file of an index was changed last, and the index; ValueError unless it is whole and fits the size."""
    body, crc = stored[:-4], stored[-4:]
    if len(body) < _INDEX.size or struct.pack("<I", google_crc32c.value(body)) != crc:
        raise ValueError("the index is damaged")
    magic, of_size, modified, count, bad_size = _INDEX.unpack_from(body)
    if (magic, of_size) != (_MAGIC, size) or len(body) != _INDEX.size + 16 * count + bad_size:
        raise ValueError("the index is another file's")
    offsets, lengths = np.frombuffer(body, "<i8", 2 * count, _INDEX.size).astype(np.int64).reshape(2, count)
    ends = offsets + lengths + HEAD_BYTES + FOOT_BYTES
    if count and (offsets[0] < 0 or lengths.min() < 0 or ends[-1] > size or (offsets[1:] < ends[:-1]).any()):
        raise ValueError("the index does not fit the file")
    try:
        entries = json.loads(body[len(body) - bad_size :])
        bad = [(int(record), int(offset), str(cause)) for record, offset, cause in entries]
    except (TypeError, OverflowError, RecursionError) as error:
        raise ValueError("the index's list of damage is none") from error
    return modified, Index(offsets, lengths, bad)


def _advise(error: RecordError) -> RecordError:
    return RecordError(error.shard, error.record, error.offset, f"{error.cause} ({ADVICE})")
