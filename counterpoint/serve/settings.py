"""The limits of a server, its key, and its refusals."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from counterpoint.errors import Error

MEGABYTE = 1_000_000
KEY = "COUNTERPOINT_API_KEY"
"""The environment variable of the key."""


@dataclass(frozen=True)
class Settings:
    """The limits of a server, each with an option of `counterpoint serve`.

    Attributes:
        workers: child processes that decode and encode.
        max_bytes: of one upload; a batch is one.
        max_seconds, max_pixels: of a video.
        time_limit: seconds that decoding and encoding one video may take.
        memory: bytes that decoding one video may take, beside the encoders' own.
        capacity: clips that may wait or be worked on; further ones are refused with 429.
        max_clips: of a batch.
        keep_seconds, keep_jobs: how long, and how many, finished jobs are kept.
        key: the key that requests must carry, if any.
        hosts: names that the server answers to (see `counterpoint.serve.gate.host_names`); empty: any.
        examples: a folder of clips to try.
    """

    workers: int = 2
    max_bytes: int = 200 * MEGABYTE
    max_seconds: int = 300
    max_pixels: int = 8192 * 4320
    time_limit: float = 600.0
    memory: int = 2000 * MEGABYTE
    capacity: int = 64
    max_clips: int = 64
    keep_seconds: float = 3600.0
    keep_jobs: int = 1000
    key: str | None = None
    hosts: tuple[str, ...] = ()
    examples: Path | None = None


def read_key(file: str | os.PathLike[str] | None = None) -> str | None:
    """The key in a file, or in the environment variable `KEY`; None without either.

    Raises:
        Error: the file is empty or not UTF-8.
    """
    if file is None:
        return os.environ.get(KEY, "").strip() or None
    try:
        key = Path(file).read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise Error(f"{file}: not a key in UTF-8 ({error})") from error
    if not key:
        raise Error(f"{file}: no key in it")
    return key


class RefusedError(Exception):
    """A request that is refused, with the HTTP status and the reason in one line."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, detail)
        self.status = status
        line = " ".join(detail.split()).encode("utf-8", "backslashreplace").decode()
        self.detail = "".join(letter for letter in line if letter.isprintable())
        self.headers = headers
