"""Bytes of remote objects kept on this machine, up to a limit: those that were used last stay.

Any number of processes may share the folder. A block is a file of its own, written whole or not at all; room for it is
reserved under a lock before it is written, so that the limit holds but for what is being written just then.
"""

import contextlib
import os
import time
from pathlib import Path

from filelock import FileLock

from counterpoint.errors import Error
from counterpoint.files import cache_folder, replacing

LIMIT = 20.0  # gigabytes
KEPT = 0.9  # of the limit, when room is made
_UNFINISHED = 600.0  # seconds after which a file that is still being written is taken for a killed process's


class BlockCache:
    """Blocks by key (hexadecimal digits) in a folder of at most `limit` bytes; a limit of 0 keeps nothing.

    Raises Error where the folder cannot be written.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit

    def get(self, key: str, size: int, start: int, stop: int) -> bytes | None:
        """A part of a block of `size` bytes, or None where there is no such block."""
        try:
            with self._path(key).open("rb", buffering=0) as file:
                if os.fstat(file.fileno()).st_size != size:
                    return None
                file.seek(start)
                part = file.read(stop - start)
                os.utime(file.name)  # used last
        except OSError:  # not there, or others made room meanwhile
            return None
        return part if len(part) == stop - start else None

    def has(self, key: str, size: int) -> bool:
        """Whether there is such a block of `size` bytes."""
        try:
            return self._path(key).stat().st_size == size
        except OSError:
            return False

    def put(self, key: str, block: bytes) -> None:
        """Keep a block, unless it is larger than the limit."""
        if len(block) > self.limit:
            return
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._reserve(len(block))
            with replacing(path) as file:
                file.write(block)
        except OSError as error:
            raise Error(
                f"{self.folder}: the cache cannot be written ({error.strerror or error}); COUNTERPOINT_CACHE names "
                "another folder, COUNTERPOINT_CACHE_GB a lower limit (0: no cache)"
            ) from error

    def drop(self, key: str) -> None:
        """Forget a block."""
        self._path(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / key

    def _reserve(self, size: int) -> None:
        counted = self.folder / "size"
        with FileLock(self.folder / "lock"):
            try:
                used = int(counted.read_text())
            except (OSError, ValueError):  # the first block, or a process was killed as it wrote
                used = self._make_room(self.limit)
            if used + size > self.limit:
                used = self._make_room(min(int(self.limit * KEPT), self.limit - size))
            counted.write_text(str(used + size))

    def _make_room(self, limit: int) -> int:
        """Remove what was used longest ago until no more than `limit` bytes are there; returns how many are."""
        found = []
        for folder in self.folder.glob("[0-9a-f][0-9a-f]"):
            for entry in os.scandir(folder):
                with contextlib.suppress(FileNotFoundError):
                    stat = entry.stat()
                    found.append((stat.st_mtime_ns, stat.st_size, entry.path))
        used = sum(size for _, size, _ in found)
        for modified, size, path in sorted(found):
            if used <= limit:
                break
            if Path(path).name.startswith(".") and time.time() - modified / 1e9 < _UNFINISHED:
                continue
            with contextlib.suppress(OSError):  # on Windows, one that is being read
                Path(path).unlink()
                used -= size
        return used


def block_cache() -> BlockCache:
    """The user's cache: `COUNTERPOINT_CACHE` names the folder, `COUNTERPOINT_CACHE_GB` the limit (20).

    Raises Error where the limit is no number.
    """
    given = os.environ.get("COUNTERPOINT_CACHE_GB")
    try:
        limit = int(float(given or LIMIT) * 1e9)
    except (ValueError, OverflowError):
        limit = -1
    if limit < 0:
        raise Error(f"COUNTERPOINT_CACHE_GB={given}: give the limit of the cache in gigabytes, or 0 for none")
    return BlockCache(cache_folder() / "remote", limit)
