"""Objects in remote stores, by URL, through fsspec: `s3://`, `gs://`, `hf://`, `http(s)://` and what else it reads.

Credentials, endpoints and proxies are the business of the library that reads a store. What fails in passing (timeouts,
answers cut short, 429, 5xx) is tried again after a pause; what fails for good is one line that names URL and cause.
"""

import contextlib
import hashlib
import random
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from os import getpid
from pathlib import Path
from typing import Any

from counterpoint.errors import Error, NotFoundError
from counterpoint.files import cache_folder, replacing

ATTEMPTS = 7
PAUSE = 0.5  # seconds before the second attempt, doubled before each that follows
TIMEOUT = 30.0  # seconds that an answer may take, a listing LISTING times as many, and
LISTING = 20
MOST = 100  # folders in folders
SLOWEST = 100_000  # bytes per second that it must come in at least

_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_TAGS = ("etag", "content-md5", "digest", "md5hash", "blob_id")  # differ with an object's content
_TIMES = ("lastmodified", "last-modified", "last_modified", "mtime", "created")  # or else when it was made
_ABSENT = {401, 403, 404, 410}  # stores forbid what is not there to those who may not list
_PASSING = {408, 425, 429}  # of the answers that blame the client
_FAULTS = (IsADirectoryError, NotImplementedError, TypeError, ValueError, AttributeError, LookupError, ImportError)


def is_remote(path: object) -> bool:
    r"""Whether this is a URL.

    >>> is_remote("s3://bucket/train*.tfrecord"), is_remote("yt8m/train0000.tfrecord"), is_remote("C:\\yt8m")
    (True, False, False)
    """
    return isinstance(path, RemotePath) or (isinstance(path, str) and bool(_URL.match(path)))


@dataclass(frozen=True)
class RemotePath:
    """A URL with as much of a `pathlib.Path` as shards need; `size` and `tag` are the object's, once they are known."""

    url: str
    size: int | None = field(default=None, compare=False)
    tag: str = field(default="", compare=False)

    def __str__(self) -> str:
        return self.url

    @property
    def _parts(self) -> tuple[str, str]:
        """The URL and what it asks (of a signed one, the signature)."""
        path, mark, query = self.url.partition("?")
        return (path, mark + query) if path.startswith("http") else (self.url, "")

    @property
    def name(self) -> str:
        """The last part.

        >>> RemotePath("https://host/shards/a.tfrecord?signature=1/2").name
        'a.tfrecord'
        """
        return self._parts[0].rstrip("/").rpartition("/")[2]

    @property
    def parent(self) -> "RemotePath":
        return RemotePath(self._parts[0].rstrip("/").rpartition("/")[0])

    def with_suffix_added(self, suffix: str) -> "RemotePath":
        path, query = self._parts
        return RemotePath(path + suffix + query)

    def __truediv__(self, name: str) -> "RemotePath":
        return RemotePath(f"{self.url.rstrip('/')}/{name}")

    def resolve(self) -> "RemotePath":
        return self

    def exists(self) -> bool:
        try:
            self.known()
        except NotFoundError:
            return False
        return True

    def read_bytes(self) -> bytes:
        return bytes(ask(self.url, "cat_file"))

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def known(self) -> "RemotePath":
        """With the object's size and tag as they are now."""
        return self if self.size is not None else _known(self.url, ask(self.url, "info"))


def _known(url: str, info: dict[str, Any]) -> RemotePath:
    info = _lower(info)
    if info.get("size") is None:
        raise Error(f"{url}: the server does not give its size, so it cannot be read by range")
    return RemotePath(url, int(info["size"]), _tag(info, (*_TAGS, *_TIMES)))


def _listed(files: Any, info: dict[str, Any]) -> RemotePath:
    """With size and tag where a listing has them; it may write times otherwise than the object itself."""
    url, info = files.unstrip_protocol(info["name"]), _lower(info)
    tag = _tag(info, _TAGS)
    return RemotePath(url, int(info["size"]), tag) if tag and info.get("size") is not None else RemotePath(url)


def _lower(info: dict[str, Any]) -> dict[str, Any]:
    return {str(key).lower(): value for key, value in info.items()}


def _tag(info: dict[str, Any], names: Sequence[str]) -> str:
    return next((str(info[name]).strip('"') for name in names if info.get(name)), "")


# --- Asking -----------------------------------------------------------------------------------------------------------


def ask(url: str, verb: str, size: int = 0, **options: Any) -> Any:
    """What the file system answers to `verb`, `size` bytes if that is known. What fails in passing is asked again.

    Raises NotThereError or Error.
    """
    from fsspec.asyn import sync

    files, path = file_system(url)
    timeout = TIMEOUT * (LISTING if verb == "ls" else 1) + size / SLOWEST
    for attempt in range(1, ATTEMPTS + 1):
        try:
            if files.async_impl:  # whose answers can be given a time
                answer = sync(files.loop, getattr(files, f"_{verb}"), path, timeout=timeout, **options)
            else:
                answer = getattr(files, verb)(path, **options)
            if size and len(answer) != size:
                raise _unlike(size, len(answer))
            return answer
        except Exception as error:
            cause = _cause(error)
            if isinstance(cause, FileNotFoundError | PermissionError) or _status(cause) in _ABSENT:
                raise NotFoundError(f"{url}: {_reason(cause)}") from error
            if _final(cause):
                raise Error(f"{url}: {_reason(cause)}") from error
            if attempt == ATTEMPTS:
                raise Error(f"{url}: {_reason(cause)} (tried {ATTEMPTS} times)") from error
            time.sleep(PAUSE * 2 ** (attempt - 1) * random.uniform(0.5, 1))
    raise AssertionError


def file_system(url: str) -> tuple[Any, str]:
    """The file system of a URL and the path in it."""
    import fsspec  # here and above: who reads local files alone need not wait for it

    protocol = url.partition("://")[0].lower()
    try:
        kind = fsspec.get_filesystem_class(protocol)
        options = tuple(sorted(kind._get_kwargs_from_urls(url).items()))
        return _opened(protocol, options, getpid()), kind._strip_protocol(url)
    except ImportError as error:
        raise Error(f"{url}: {error}; pip install 'counterpoint[remote]' has it for s3, gs and hf") from error
    except Exception as error:
        raise Error(f"{url}: {_reason(error)}") from error


@lru_cache
def _opened(protocol: str, options: tuple[tuple[str, Any], ...], process: int) -> Any:
    """One file system for all threads; a forked process has its own."""
    import fsspec

    return fsspec.filesystem(protocol, skip_instance_cache=True, **dict(options))


def _cause(error: BaseException) -> BaseException:
    """What went wrong: over HTTP fsspec calls every failure to look at a file a file that was not found."""
    inner = error.__cause__
    http = isinstance(inner, TimeoutError) or type(inner).__module__.startswith("aiohttp")
    return inner if isinstance(error, FileNotFoundError) and inner is not None and http else error


def _final(cause: BaseException) -> bool:
    """Whether asking again would be in vain."""
    status = _status(cause)
    refused = 400 <= status < 500 and status not in _PASSING
    return refused or isinstance(cause, _FAULTS) or "Credential" in type(cause).__name__


def _status(error: BaseException) -> int:
    """The HTTP status of an error, or 0."""
    found = getattr(error, "status", None) or getattr(error, "code", None)
    if found is None:
        found = getattr(getattr(error, "response", None), "status_code", None)
    return int(found) if isinstance(found, int) or (isinstance(found, str) and found.isdigit()) else 0


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, FileNotFoundError):
        return "nothing is there"
    status, message = _status(error), " ".join(str(getattr(error, "message", "") or error).split())
    kind = type(error).__name__
    return f"{status} {message or kind}" if status else f"{kind}: {message}" if message else kind


def _unlike(asked: int, got: int) -> Exception:
    if got > asked:
        return NotImplementedError(f"the server does not read by range: {got:,} bytes where {asked:,} were asked for")
    return OSError(f"the answer is cut short: {got:,} of {asked:,} bytes")


# --- Finding ----------------------------------------------------------------------------------------------------------


def remote_shards(url: str) -> set[RemotePath]:
    """The shards that a URL names: an object, all `*.tfrecord` below a folder, or a glob where the store lists.

    Nothing is left out where a listing fails, as fsspec's own walk does.
    """
    files, path = file_system(url)
    files.invalidate_cache()  # what it has listed before
    magic = "*[" if url.lower().startswith("http") else "*[?"  # a web address may ask something
    if first := next((i for i, character in enumerate(url) if character in magic), 0):
        from fsspec.utils import glob_translate

        root = url[: url.rindex("/", 0, first) + 1]
        depth = MOST if "**" in url else url[len(root) :].count("/") + 1
        pattern = re.compile(glob_translate(path))
        found = [info for info in _below(root, depth, folders=True) if pattern.match(info["name"].rstrip("/"))]
    else:
        found = [{**ask(url, "info"), "name": path}]
    shards: set[RemotePath] = set()
    for info in found:
        if info["type"] == "directory" or info.get("mimetype") == "text/html":
            inside = _below(files.unstrip_protocol(info["name"]), MOST)
            shards |= {_listed(files, each) for each in inside if each["name"].endswith(".tfrecord")}
        else:
            shards.add(_known(url, info) if info["name"] == path else _listed(files, info))
    return shards


def _below(url: str, depth: int, folders: bool = False) -> Iterator[dict[str, Any]]:
    """The entries of a listing: the objects, and the folders, in and below a folder."""
    files, path = file_system(url)
    for info in ask(url, "ls", detail=True):
        is_folder = info["type"] == "directory"
        if info["name"].rstrip("/") == path.rstrip("/"):
            continue  # itself
        if folders or not is_folder:
            yield info
        if is_folder and depth > 1:
            yield from _below(files.unstrip_protocol(info["name"]), depth - 1, folders)


def mirrored(folder: RemotePath | str, names: Sequence[str]) -> Path:
    """A local copy of those of the files that are there."""
    folder = RemotePath(folder) if isinstance(folder, str) else folder
    content = {}
    for name in names:
        with contextlib.suppress(NotFoundError):
            content[name] = (folder / name).read_bytes()
    if not content:
        raise NotFoundError(f"{folder}: nothing is there ({', '.join(names)})")
    key = hashlib.sha256(repr((folder.url, content)).encode()).hexdigest()[:32]
    copy = cache_folder() / "folders" / key / folder.name
    copy.mkdir(parents=True, exist_ok=True)
    for name, data in content.items():
        if not (copy / name).exists():
            with replacing(copy / name) as file:
                file.write(data)
    return copy
