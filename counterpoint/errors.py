"""Errors meant for the user: each reads as one line, so a command may print it without a traceback."""

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)
"""What reading a JSON file raises that is not there, no JSON, or not of the form that it should have."""


class Error(Exception):
    """Something the user can put right; `str()` is one readable line."""


_SECRETS = (
    re.compile(r"(?<=://)([^/?#@\s:]*):[^/?#@\s]*(?=@)"),
    re.compile(
        r"(?i)([?&;](?:[\w-]*(?:signature|credential|token|secret|password|passwd|apikey|api[-_]key|access[-_]?key)"
        r"[\w-]*|sig|key|auth|pwd)=)[^&;#\s'\"]+"
    ),
)


def redacted(text: str) -> str:
    """A text without the passwords and signatures of its URLs.

    >>> redacted("s3://me:secret@host/a?X-Amz-Signature=0123&part=2")
    's3://me:***@host/a?X-Amz-Signature=***&part=2'
    """
    for pattern, kept in zip(_SECRETS, (r"\1:***", r"\1***"), strict=True):
        text = pattern.sub(kept, text)
    return text


def suggestion(name: str, names: Iterable[str]) -> str:
    """The end of an error's message for a name that is like one of ``names``; empty for another one.

    >>> suggestion("learning_rat", ["training.learning_rate", "name"])
    '; did you mean training.learning_rate?'
    """
    ends = {each: each.rpartition(".")[2] for each in names}
    close = difflib.get_close_matches(name.rpartition(".")[2], set(ends.values()), 1, 0.6)
    alike = [each for each, end in ends.items() if end in close]
    best = max(alike, key=lambda each: difflib.SequenceMatcher(None, each, name).ratio(), default=None)
    return f"; did you mean {best}?" if best else ""


class NotFoundError(Error):
    """A remote object that does not exist, or that nobody may know of."""


class RecordError(Error):
    """A record that cannot be read: `shard` (path or URL), `record` (its number in the file, from 0), `offset` (its
    first byte) and `cause`.

    >>> print(RecordError("train0001.tfrecord", 17, 81234, "payload checksum does not match"))
    train0001.tfrecord: record 17 at byte 81234: payload checksum does not match
    """

    def __init__(self, shard: Any, record: int, offset: int, cause: str) -> None:
        super().__init__(shard, record, offset, cause)  # all of them, so that the error survives pickling
        self.shard = Path(shard) if isinstance(shard, str) else shard
        self.record = record
        self.offset = offset
        self.cause = cause

    def __str__(self) -> str:
        return f"{self.shard}: record {self.record} at byte {self.offset}: {self.cause}"


class NoClipsError(Error):
    """Shards hold no clip that can be read; `bad` are their damaged records."""

    def __init__(self, message: str, bad: Sequence[RecordError]) -> None:
        super().__init__(message, bad)
        self.bad = bad

    def __str__(self) -> str:
        return str(self.args[0])
