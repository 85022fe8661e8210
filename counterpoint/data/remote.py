"""Shards that lie elsewhere (`counterpoint.data.store`), read by range.

An index comes from beside the shard, where the shards were uploaded with theirs, else from one pass that reads the
shard in large pieces and checks each length. A payload's checksum is checked whenever its record is read. What was
read is kept in blocks (`counterpoint.data.cache`) under the object's URL, size and entity tag, so that another
object at the same place is another file.
"""

import contextlib
import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from counterpoint.data.cache import block_cache
from counterpoint.data.store import RemotePath, ask, file_system, is_remote
from counterpoint.data.tfrecord import (
    FOOT_BYTES,
    GZIP,
    HEAD_BYTES,
    HEADER,
    INDEX_SUFFIX,
    Bytes,
    Index,
    Shard,
    head_of,
    packed,
    payload_agrees,
    scan,
    unpacked,
)
from counterpoint.errors import Error, NotFoundError
from counterpoint.files import cache_folder, replacing

BLOCK = 1 << 20  # bytes kept as one file
PIECE = 8 * BLOCK  # asked for in one request at most
TOGETHER = 16  # shards opened, or blocks fetched, at a time
RECENT = 60.0  # seconds for which an object is taken to be as it was seen last

T = TypeVar("T")


class RemoteFile:
    """An object's bytes by range, through the cache.

    Raises Error where it cannot be read, or is no longer what it was.
    """

    def __init__(self, path: RemotePath) -> None:
        self.path = path.known()
        self.size = self.path.size or 0
        self.key = hashlib.sha256(f"{self.path.url}\n{self.size}\n{self.path.tag}".encode()).hexdigest()[:32]
        self._seen = time.monotonic()

    def read(self, start: int, stop: int) -> Bytes:
        """The bytes from `start` to `stop`; blocks that are missing are asked for, neighbours together."""
        cache = block_cache()
        if not cache.limit:
            return np.frombuffer(self.ask(start, stop), np.uint8)
        parts: dict[int, bytes | None] = {}
        for block in _blocks(start, stop):
            first, last = self._extent(block)
            parts[block] = cache.get(self._key(block), last - first, max(start, first) - first, min(stop, last) - first)
        for run in _runs(block for block, part in parts.items() if part is None):
            begin, end = self._extent(run[0])[0], self._extent(run[-1])[1]
            data = self.ask(begin, end)
            for block in run:
                first, last = self._extent(block)
                cache.put(self._key(block), data[first - begin : last - begin])
                parts[block] = data[max(start, first) - begin : min(stop, last) - begin]
        return np.frombuffer(b"".join(part for part in parts.values() if part is not None), np.uint8)

    def missing(self, blocks: Iterable[int]) -> list[tuple[int, int]]:
        """Where the blocks that are not in the cache begin and end, neighbours together."""
        cache = block_cache()
        extents = {block: self._extent(block) for block in sorted(blocks)}
        runs = _runs(b for b, (first, last) in extents.items() if not cache.has(self._key(b), last - first))
        return [(extents[run[0]][0], extents[run[-1]][1]) for run in runs]

    def pieces(self) -> Iterator[Bytes]:
        """All bytes in order, the next ones on their way."""
        pool = ThreadPoolExecutor(2)
        coming: deque[Future[Bytes]] = deque()
        try:
            for start in range(0, self.size, PIECE):
                coming.append(pool.submit(self.read, start, min(start + PIECE, self.size)))
                if len(coming) > 2:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def ask(self, start: int, stop: int) -> bytes:
        """The bytes from the store itself."""
        if start == stop:
            return b""
        files, _ = file_system(self.path.url)
        options = {} if files.async_impl else {"cache_type": "none"}  # exactly these bytes
        data = ask(self.path.url, "cat_file", stop - start, start=start, end=stop, **options)
        if time.monotonic() - self._seen > RECENT:
            self.confirm()
        return bytes(data)

    def confirm(self) -> None:
        """Raise Error if the object has changed."""
        file_system(self.path.url)[0].invalidate_cache()
        now = RemotePath(self.path.url).known()
        if (now.size, now.tag) != (self.size, self.path.tag):
            raise Error(f"{self.path}: the object has changed since it was opened")
        self._seen = time.monotonic()

    def forget(self, start: int, stop: int) -> None:
        """Drop the blocks from the cache: what they hold is not what it should be."""
        for block in _blocks(start, stop):
            block_cache().drop(self._key(block))

    def _extent(self, block: int) -> tuple[int, int]:
        return block * BLOCK, min((block + 1) * BLOCK, self.size)

    def _key(self, block: int) -> str:
        return hashlib.sha256(f"{self.key}/{block}".encode()).hexdigest()[:32]


def _blocks(start: int, stop: int) -> range:
    """The blocks that hold these bytes."""
    return range(start // BLOCK, -(-stop // BLOCK))


def _runs(blocks: Iterable[int]) -> list[list[int]]:
    """Neighbours together, as many as one request may ask for.

    >>> _runs([1, 2, 3, 7, *range(10, 19)])
    [[1, 2, 3], [7], [10, 11, 12, 13, 14, 15, 16, 17], [18]]
    """
    runs: list[list[int]] = []
    for block in blocks:
        if runs and runs[-1][-1] == block - 1 and len(runs[-1]) < PIECE // BLOCK:
            runs[-1].append(block)
        else:
            runs.append([block])
    return runs


class RemoteShard(Shard):
    """A `Shard` that lies elsewhere. A payload's CRC is always checked; damage that the index does not know of is found
    as its record is read.
    """

    def __init__(self, path: RemotePath | str, *, skip_bad: bool = False) -> None:
        self.file = RemoteFile(RemotePath(path) if isinstance(path, str) else path)
        self.path = self.file.path
        self.size = self.file.size
        self._check = True
        self._take(_cached_index(self.file), skip_bad)

    @property
    def checksums(self) -> NDArray[np.uint32]:
        """Not to be had without a request for each record.

        Raises:
            Error: always.
        """
        raise Error(f"{self.path}: comparing clips takes every record's checksum; copy the shard to this machine")

    def extent(self, record: int) -> tuple[int, int]:
        """Where a record begins and ends."""
        start = self.offsets.item(record)
        return start, start + HEAD_BYTES + self.lengths.item(record) + FOOT_BYTES

    def _payload(self, record: int, check: bool) -> Bytes:
        extent, length = self.extent(record), self.lengths.item(record)
        data = self.file.read(*extent)
        if _fault(data, length):  # on the way, or in the cache?
            self.file.forget(*extent)
            data = self.file.read(*extent)
        if fault := _fault(data, length):
            self.file.confirm()
            raise self._error(record, fault)
        return data[HEAD_BYTES : HEAD_BYTES + length]


def _fault(data: Bytes, length: int) -> str:
    """What is wrong with a record that should have a payload of this length, or nothing."""
    if data[:HEAD_BYTES].tobytes() != head_of(length):
        return "length checksum does not match"
    return "" if payload_agrees(data, 0, length) else "payload checksum does not match"


def open_shard(path: Path | RemotePath, *, skip_bad: bool = False) -> Shard:
    """The shard here or elsewhere; see `Shard`."""
    return RemoteShard(path, skip_bad=skip_bad) if isinstance(path, RemotePath) else Shard(path, skip_bad=skip_bad)


def open_shards(paths: Sequence[Path | RemotePath], *, skip_bad: bool = False) -> list[Shard]:
    """The shards in their order; remote ones are opened side by side, with progress on a terminal."""
    if not any(map(is_remote, paths)):
        return [Shard(path, skip_bad=skip_bad) for path in paths if isinstance(path, Path)]
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    opened = together(lambda path: open_shard(path, skip_bad=skip_bad), paths)
    shown = track(opened, "opening remote shards", len(paths), console=console, transient=True)
    return list(shown if console.is_terminal else opened)


def together(function: Callable[[Any], T], of: Sequence[Any]) -> Iterator[T]:
    """The function's answers in order, several at a time; what is waiting when one fails is not begun."""
    pool = ThreadPoolExecutor(TOGETHER)
    try:
        yield from pool.map(function, of)
    finally:
        pool.shutdown(cancel_futures=True)


def fetch(shards: Sequence[Shard], where: Iterable[tuple[int, int]]) -> None:
    """Have the records `where` (shard, record) in the cache, their blocks asked for side by side."""
    if not block_cache().limit:
        return
    wanted: dict[RemoteShard, set[int]] = {}
    for number, record in where:
        shard = shards[number]
        if isinstance(shard, RemoteShard):
            wanted.setdefault(shard, set()).update(_blocks(*shard.extent(record)))
    reads = [(shard.file, *extent) for shard, blocks in wanted.items() for extent in shard.file.missing(blocks)]
    for _ in together(lambda read: read[0].read(*read[1:]), reads):
        pass


# --- The index --------------------------------------------------------------------------------------------------------


def _cached_index(file: RemoteFile) -> Index:
    """The index from this machine's cache, where one process makes it and the others wait."""
    place = cache_folder() / (file.key + INDEX_SUFFIX)
    with contextlib.suppress(OSError, ValueError):
        return unpacked(place.read_bytes(), file.size)[1]
    locks = cache_folder() / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / file.key[:2]):
        with contextlib.suppress(OSError, ValueError):
            return unpacked(place.read_bytes(), file.size)[1]
        index = _index_beside(file)
        if index is None:
            index = _lengths(file)
            file.confirm()
        with replacing(place) as out:
            out.write(packed(index, (file.path.url, file.size, 0)))
    return index


def _index_beside(file: RemoteFile) -> Index | None:
    """The index that was uploaded with the shard, if it fits. Its times are another machine's, but its entry for a
    record holds where the record's own checksums agree.
    """
    try:
        index = unpacked(file.path.with_suffix_added(INDEX_SUFFIX).read_bytes(), file.size)[1]
    except (NotFoundError, ValueError, TypeError):
        return None
    if len(index.offsets):
        last, length = int(index.offsets[-1]), int(index.lengths[-1])
        if file.ask(last, last + HEAD_BYTES) != head_of(length):
            return None
    return index


def _lengths(file: RemoteFile) -> Index:
    """The index by one pass over the object that checks lengths alone."""
    offsets: list[int] = []
    lengths: list[int] = []
    position = stop = 0  # of the next record, and of what was read
    rest = b""  # what was read from `position` on
    for piece in file.pieces():
        data = rest + piece.tobytes()
        stop += len(piece)
        start = stop - len(data)
        while position + HEAD_BYTES <= stop:
            head = data[position - start : position - start + HEAD_BYTES]
            length, _ = HEADER.unpack(head)
            if head != head_of(length):
                return _searched(file)
            offsets.append(position)
            lengths.append(length)
            position += HEAD_BYTES + length + FOOT_BYTES
        rest = data[position - start :]
    if position != file.size:
        return _searched(file)
    return Index(np.array(offsets, np.int64), np.array(lengths, np.int64), [])


def _searched(file: RemoteFile) -> Index:
    """The index of a damaged shard, from all of its bytes, payloads checked too."""
    pieces = file.pieces()
    first = next(pieces)
    foreign = scan(first[:2])  # gzip
    if foreign.bad[0][2] == GZIP:
        return foreign
    return scan(np.concatenate([first, *pieces]))
