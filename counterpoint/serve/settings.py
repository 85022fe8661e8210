"""What a server allows, and how it refuses the rest."""

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from counterpoint.errors import Error

MEGABYTE = 1_000_000
LOCAL = ("localhost", "127.0.0.1", "[::1]")
"""Names of this machine."""


@dataclass(frozen=True)
class Settings:
    """Limits, each with an option of `counterpoint serve`.

    Attributes:
        workers: child processes that decode and encode.
        max_bytes: of one upload; a batch is one.
        max_seconds, max_pixels: of a video.
        time_limit: seconds that decoding and encoding one video may take.
        memory: bytes that decoding one video may take, beside what the encoders do.
        capacity: clips that may wait or be worked on; more are told to come later.
        max_clips: of a batch.
        keep_seconds, keep_jobs: how long, and how many, finished jobs are kept.
        key: what requests must carry, if anything.
        hosts: names that the server answers to; none: any.
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


class RefusedError(Exception):
    """What is not done, with the HTTP status and one line that says why."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, detail)
        self.status = status
        shown = " ".join(detail.split()).encode("utf-8", "backslashreplace").decode()
        self.detail = "".join(letter for letter in shown if letter.isprintable())
        self.headers = headers


def is_loopback(host: str) -> bool:
    """Whether an address is one of this machine's own, which no other reaches."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_key(file: Path | None, variable: str) -> str | None:
    """The key that requests must carry: a file's content, or an environment variable's; None where there is neither.

    Raises:
        Error: the file holds no key.
    """
    if file is None:
        return os.environ.get(variable, "").strip() or None
    try:
        key = file.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise Error(f"{file}: not a key in UTF-8 ({error})") from error
    if not key:
        raise Error(f"{file}: no key in it")
    return key
