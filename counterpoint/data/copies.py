"""Copies of clips, by their ids and by their features: within a data set, and between training and test."""

import hashlib
import io
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Bool, UInt64

from counterpoint.data.clip import Clip, present
from counterpoint.errors import Error
from counterpoint.files import replacing

MOST = 200_000
"""Clips of a data set that are compared; more are not, since all of them are read for it."""
NAMED = 3  # ids in a message
AT_A_TIME = 256


class Clips(Protocol):
    """The part of a `counterpoint.data.dataset.Dataset` that is read here."""

    def __len__(self) -> int: ...
    def clip(self, index: int) -> Clip: ...
    def clips(self, indices: Sequence[int]) -> list[Clip]: ...


@dataclass
class Digests:
    """64-bit digests of clips' ids and features, 16 bytes a clip. Clips without features have the digest 0."""

    ids: "array[int]" = field(default_factory=lambda: array("Q"))
    features: "array[int]" = field(default_factory=lambda: array("Q"))

    def add(self, clip: Clip) -> None:
        """Add a clip."""
        self.ids.append(_digest([clip.id.encode(errors="surrogateescape")]))
        parts: list[bytes] = []
        for name, track in sorted(clip.tracks.items()):
            if present(track).any():
                parts += [f"{name} {track.dtype} {track.shape}".encode(), np.ascontiguousarray(track).tobytes()]
        self.features.append(_digest(parts) if parts else 0)

    def arrays(self) -> tuple[UInt64[np.ndarray, "clip"], UInt64[np.ndarray, "clip"]]:
        """Ids and features."""
        return np.array(self.ids, np.uint64), np.array(self.features, np.uint64)

    def within(self, others: "Digests") -> Bool[np.ndarray, "clip"]:
        """Which of these clips have the id or the features of one of the others."""
        (ids, features), (other_ids, other_features) = self.arrays(), others.arrays()
        same = np.isin(features, other_features) & (features != 0)
        return np.asarray(np.isin(ids, other_ids) | same)

    def repeated(self) -> tuple[int, int]:
        """How many clips have the id, and how many the features, of an earlier clip."""
        ids, features = self.arrays()
        features = features[features != 0]
        return len(ids) - len(np.unique(ids)), len(features) - len(np.unique(features))

    def save(self, path: Path) -> None:
        """Write to a file, whole or not at all."""
        ids, features = self.arrays()
        content = io.BytesIO()
        np.savez(content, ids=ids, features=features)
        with replacing(path) as file:
            file.write(content.getvalue())

    @classmethod
    def load(cls, path: Path) -> "Digests":
        """Read what `save` wrote.

        Raises:
            Error: it cannot be read.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                return cls(array("Q", stored["ids"].tolist()), array("Q", stored["features"].tolist()))
        except (OSError, ValueError, KeyError) as error:
            raise Error(f"{path}: cannot be read ({error!s:.100})") from error


def _digest(parts: Iterable[bytes]) -> int:
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(part)
    return int.from_bytes(digest.digest(), "little")


def digests(data: Clips) -> Digests | None:
    """The digests of a data set's clips; None of more than `MOST`."""
    if len(data) > MOST:
        return None
    found = Digests()
    for start in range(0, len(data), AT_A_TIME):
        for clip in data.clips(range(start, min(start + AT_A_TIME, len(data)))):
            found.add(clip)
    return found


def shared(data: Clips, own: Digests, others: Digests) -> str:
    """How many clips of a data set have the id or the features of one of the others, and some of their ids.

    Empty where none has.
    """
    same = np.flatnonzero(own.within(others))
    if not len(same):
        return ""
    names = ", ".join(data.clip(int(i)).id for i in same[:NAMED])
    return f"{len(same):,} of {len(data):,} clips ({names}{', ...' if len(same) > NAMED else ''})"
