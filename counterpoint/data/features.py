"""What the features of a data set are: their modalities, sizes and the encoders that made them.

Features of other encoders look the same and mean nothing to a model, so a model keeps the feature set it was trained on
and refuses others. Our own shards have a `features.json` beside them that describes them; shards without one are taken
for YouTube-8M's, whose encoders are the only ones that publish records of this form.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from counterpoint.data.clip import Clip, are_codes
from counterpoint.data.records import CODE_OFFSET, CODE_SCALE, clip_of
from counterpoint.data.remote import open_shard
from counterpoint.data.store import RemotePath
from counterpoint.errors import UNREADABLE, Error, RecordError
from counterpoint.files import check_regular, write_text

FEATURES_FILE = "features.json"
YOUTUBE8M = "youtube8m"
YOUTUBE8M_SIZES = {"video": 1024, "audio": 128}
MOST_FEATURES, MOST_MODALITIES = 2**17, 32  # of a step, and of a data set
NAME = re.compile(r"[^\W_][\w -]{0,63}")  # of a modality
SAMPLE_CLIPS = 64  # of a shard: a modality that none of them has is not one of the data set


@dataclass(frozen=True)
class FeatureSet:
    """Feature sizes by modality and the name of the encoders."""

    sizes: dict[str, int]
    encoder: str = YOUTUBE8M

    @property
    def fingerprint(self) -> str:
        """What must agree between a model and the data it reads."""
        canonical = json.dumps({"encoder": self.encoder, "sizes": self.sizes}, sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    @property
    def components(self) -> bool:
        """Whether features are whitened principal components, in decreasing order of variance."""
        return self.encoder == YOUTUBE8M

    @classmethod
    def of(cls, shards: Sequence[Path | RemotePath]) -> "FeatureSet":
        """The feature set of shards, which must all be of one kind.

        Raises:
            Error: the shards hold no clips that can be read, or features of several kinds.
        """
        folders: dict[Path | RemotePath, list[Path | RemotePath]] = {}
        for path in shards:
            folders.setdefault(path.parent, []).append(path)
        stored = {folder: cls.load(folder) for folder in folders if (folder / FEATURES_FILE).exists()}
        encoders = {folder: stored[folder].encoder if folder in stored else YOUTUBE8M for folder in folders}
        if len(set(encoders.values())) > 1:
            kinds = ", ".join(f"{folder}: {encoder}" for folder, encoder in sorted(encoders.items(), key=str))
            raise Error(f"the shards hold features of several encoders ({kinds}); read one kind at a time")
        sizes: dict[str, int] = {}
        faults: list[RecordError] = []
        for folder, own in folders.items():
            # What encoders make is looked for until it is found, since some films have no sound. Where it is not
            # known, three shards speak for the others, unless none of them can be read.
            few = list(dict.fromkeys((own[0], own[len(own) // 2], own[-1])))
            for looked, path in enumerate(own if folder in stored else [*few, *own], 1):
                for record, clip in _some(path, faults):
                    for name, track in clip.tracks.items():
                        if sizes.setdefault(name, track.shape[1]) != track.shape[1]:
                            raise Error(
                                f"{path}: record {record}: {name!r} has {track.shape[1]} features a step, "
                                f"other clips have {sizes[name]}"
                            )
                        if are_codes(track):
                            raise Error(
                                f"{path}: record {record}: {name!r} holds 8-bit codes (0 to 255) as floats; store them "
                                f"as bytes, or as features: code * {CODE_SCALE:.6g} - {-CODE_OFFSET:.6g}"
                            )
                found = stored[folder].sizes.keys() <= sizes.keys() if folder in stored else looked >= len(few)
                if sizes and found:
                    break
        if sizes:
            return cls(dict(sorted(sizes.items())), next(iter(encoders.values())))
        if faults:
            raise Error(f"{faults[0]} (the file is damaged, and no clip of it can be read; get it again)")
        others = f" and {len(shards) - 1:,} more shards" if len(shards) > 1 else ""
        raise Error(f"{shards[0]}{others}: no clips with features" if shards else "no shards")

    @property
    def youtube8m(self) -> bool:
        """Whether these are YouTube-8M's features; not sound alone, as AudioSet's records look the same."""
        known = self.sizes.items() <= YOUTUBE8M_SIZES.items()
        return self.encoder == YOUTUBE8M and known and "video" in self.sizes

    def check(self, data: "FeatureSet", model: str) -> None:
        """Raise Error where a model trained on these features cannot read ``data``.

        Modalities that the data lacks are no obstacle: a clip without sound is read as such.
        """
        unknown = {name: size for name, size in data.sizes.items() if self.sizes.get(name) != size}
        if data.encoder != self.encoder or unknown:
            raise Error(
                f"{model} reads {self}, not {data}: "
                "extract the features with the same encoders, or train a model on these"
            )

    def __str__(self) -> str:
        return f"{self.encoder} features ({', '.join(f'{name} {size}' for name, size in self.sizes.items())})"

    def save(self, folder: Path) -> None:
        """Write `features.json`."""
        text = json.dumps({"encoder": self.encoder, "sizes": self.sizes, "fingerprint": self.fingerprint}, indent=2)
        write_text(folder / FEATURES_FILE, text + "\n")

    @classmethod
    def load(cls, folder: Path | RemotePath) -> "FeatureSet":
        """Read `features.json`."""
        path = folder / FEATURES_FILE
        if isinstance(path, Path):
            check_regular(path)
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            found = cls({**stored["sizes"]}, stored["encoder"])
            whole = all(type(size) is int and 0 < size <= MOST_FEATURES for size in found.sizes.values())
            if not whole or not isinstance(found.encoder, str):
                raise ValueError(f"sizes must be whole numbers from 1 to {MOST_FEATURES:,}, and the encoder a name")
            if len(found.sizes) > MOST_MODALITIES or not all(map(NAME.fullmatch, found.sizes)):
                raise ValueError(f"at most {MOST_MODALITIES} modalities, whose names are letters, digits, _ and -")
            if stored.get("fingerprint", found.fingerprint) != found.fingerprint:
                raise ValueError("its fingerprint is another's")
            return found
        except UNREADABLE as error:
            raise Error(f"{path}: cannot be read as a feature set ({error})") from error


def _some(path: Path | RemotePath, faults: list[RecordError]) -> Iterator[tuple[int, Clip]]:
    """Clips of a shard by their numbers, evenly spread where it is here; ``faults`` gets what cannot be read."""
    shard = open_shard(path, skip_bad=True)  # damage is reported by whoever reads the clips
    faults += shard.bad
    apart = 1 if isinstance(path, RemotePath) else max(1, len(shard) // SAMPLE_CLIPS)
    for record in range(0, min(len(shard), apart * SAMPLE_CLIPS), apart):
        try:
            yield shard.number(record), clip_of(shard, record)
        except RecordError as error:
            faults.append(error)


def encoder_of(folder: Path | RemotePath) -> str:
    """The encoders that made a folder's shards."""
    return FeatureSet.load(folder).encoder if (folder / FEATURES_FILE).exists() else YOUTUBE8M
