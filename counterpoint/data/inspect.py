"""What is in a set of shards: found, read once, and summed up."""

import dataclasses
import glob
import re
from collections import Counter
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from counterpoint.data.clip import Clip, are_codes, present
from counterpoint.data.copies import Digests
from counterpoint.data.features import FeatureSet, encoder_of
from counterpoint.data.records import clip_of
from counterpoint.data.remote import open_shard
from counterpoint.data.store import RemotePath, is_remote, remote_shards
from counterpoint.data.tfrecord import INDEX_SUFFIX
from counterpoint.errors import Error, RecordError
from counterpoint.files import FILMS
from counterpoint.taxonomy import Labelling, youtube8m
from counterpoint.taxonomy.tree import SEPARATOR


@dataclasses.dataclass(frozen=True)
class Spread:
    """Smallest, middle and largest of some numbers; all 0 for none."""

    min: int
    median: float
    max: int

    @classmethod
    def of(cls, counts: Counter[int]) -> "Spread":
        if not counts:
            return cls(0, 0.0, 0)
        numbers = sorted(counts)
        below = np.cumsum([counts[number] for number in numbers])  # how many are at most each number
        middle = [numbers[np.searchsorted(below, rank, "right")] for rank in ((below[-1] - 1) // 2, below[-1] // 2)]
        return cls(numbers[0], sum(middle) / 2, numbers[-1])

    def __str__(self) -> str:
        return f"{self.min:,} / {self.median:,g} / {self.max:,}"


@dataclasses.dataclass(frozen=True)
class Modality:
    """One modality of a data set: features a step and their type, the clips that have it, and their steps.

    `missing` counts clips that lack the track, or whose every step is missing.
    """

    size: int
    type: str
    clips: int
    missing: int
    steps: Spread


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What is in some shards. `labels` counts distinct labels; `labels_mean` and `labels_max` are per clip.

    `categories` counts the clips of each category, by its path; empty where nobody knows what the labels mean.
    """

    shards: int
    bytes: int
    records: int
    modalities: dict[str, Modality]
    steps: Spread
    labels: int
    labels_mean: float
    labels_max: int
    unlabelled: int
    categories: dict[str, int]
    problems: list[str]

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return dataclasses.asdict(self)

    def __rich__(self) -> RenderableType:
        facts = Table.grid(padding=(0, 2))
        facts.add_row("records", f"{self.records:,} in {self.shards:,} shards, {self.bytes / 1e6:,.1f} MB")
        facts.add_row("steps", f"{self.steps} (min / median / max)")
        facts.add_row("labels", f"{self.labels:,} distinct, {self.labels_mean:.2f} a clip, at most {self.labels_max:,}")
        facts.add_row("", f"{self.unlabelled:,} clips without labels")
        if self.categories:
            found = [(path, clips) for path, clips in self.categories.items() if clips]
            tops = sorted((one for one in found if SEPARATOR not in one[0]), key=lambda one: -one[1])
            facts.add_row("categories", f"{len(found):,} of {len(self.categories):,}; at the top, with their clips:")
            facts.add_row("", escape(", ".join(f"{path} {clips:,}" for path, clips in tops) or "none"))
        modalities = Table("modality", "features", "type", "clips", "missing", "steps")
        for name, modality in self.modalities.items():
            counts = (f"{number:,}" for number in (modality.clips, modality.missing))
            modalities.add_row(escape(name), f"{modality.size:,}", modality.type, *counts, str(modality.steps))
        parts: list[RenderableType] = [facts, modalities]
        parts += [f"[yellow]problem[/] {escape(problem)}" for problem in self.problems] or ["no problems"]
        return Group(*parts)


Source: TypeAlias = str | PathLike[str] | RemotePath
"""A file, folder or glob, by path or URL."""
EXTRACT = "`counterpoint extract VIDEOS --out SHARDS` makes shards of videos, and `counterpoint learn` a model too"
FILM = f"a video, and no shard; {EXTRACT}"
_NONE = "no shards there (a file, a folder with *.tfrecord files, or a glob)"


def find_shards(paths: Source | Sequence[Source]) -> list[Path | RemotePath]:
    """The shards that files, folders (all `*.tfrecord` below them) and globs name, each once, in natural order.

    Args:
        paths: one or several. URLs name shards as paths do; globs and folders where the store lists its objects.

    Raises:
        Error: a path names no shards.
    """
    found: set[Path | RemotePath] = set()
    for path in [paths] if isinstance(paths, str | PathLike | RemotePath) else paths:
        if is_remote(path):
            found |= (elsewhere := remote_shards(str(path)))
            if not elsewhere:
                raise Error(f"{path}: {_NONE}")
            continue
        matches = [str(path)] if Path(str(path)).exists() else glob.glob(str(path), recursive=True)  # noqa: PTH207
        shards: set[Path] = set()
        for match in map(Path, matches):
            shards |= set(match.rglob("*.tfrecord")) if match.is_dir() else {match}
        shards = {shard for shard in shards if not shard.name.endswith(INDEX_SUFFIX)}
        if not shards:
            raise Error(f"{path}: {_instead(Path(str(path))) or _NONE}")
        if film := next((shard for shard in shards if shard.suffix.lower() in FILMS), None):
            raise Error(f"{film}: {FILM}")
        found |= shards
    # One file may be named in several ways; the first of them is kept.
    once = {path.resolve(): path for path in sorted(found, key=_natural, reverse=True)}
    return sorted(once.values(), key=_natural)


def _instead(folder: Path) -> str:
    """What is in a folder without shards, and what to do with it; empty for nothing that is known."""
    if (folder / "recipe.json").exists():
        return "a run, and no data; a run is named first, as in `counterpoint evaluate RUN --data SHARDS`"
    if any(path.suffix.lower() in FILMS for path in (folder.rglob("*") if folder.is_dir() else ())):
        return f"holds videos and no shards; {EXTRACT}"
    return ""


def _natural(path: Path | RemotePath) -> list[tuple[int, str]]:
    """Sorts `shard2` before `shard10`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", str(path))]


def inspect(paths: Source | Sequence[Source], skip_bad: bool = False, labelling: Labelling | None = None) -> Inspection:
    """Read every record of the shards that `paths` name (see `find_shards`).

    ``labelling`` gives the labels their meaning; without it, YouTube-8M's features are taken to come with its labels.

    Raises Error for a record that cannot be read, or lists it among the problems if `skip_bad`.
    """
    shards = find_shards(paths)
    records = _Counts(labelling or youtube8m())
    for path in shards:
        shard = open_shard(path, skip_bad=skip_bad)
        records.bytes += shard.size
        if not len(shard) and not shard.bad:
            records.problems.append(f"{path}: no records")
        records.problems += map(str, shard.bad)
        for record in range(len(shard)):
            try:
                records.add(clip_of(shard, record))
            except RecordError as error:
                if not skip_bad:
                    raise
                records.problems.append(str(error))
    found = records.sum_up(shards)
    if labelling is None and not _from_youtube8m(found, shards):
        return dataclasses.replace(found, categories={})
    unknown = sorted(records.labels - records.known)
    if unknown:
        found.problems.append(f"{len(unknown):,} labels are not in the taxonomy, such as {unknown[0]}")
    return found


def _from_youtube8m(found: Inspection, shards: Sequence[Path | RemotePath]) -> bool:
    sizes = {name: modality.size for name, modality in found.modalities.items()}
    return all(FeatureSet(sizes, encoder_of(folder)).youtube8m for folder in {path.parent for path in shards})


class _Counts:
    """What `inspect` counts. Equal numbers are counted together, so memory grows by 16 bytes a clip alone."""

    def __init__(self, labelling: Labelling) -> None:
        self.labelling = labelling
        self.known = {label.index for label in labelling.labels.labels}
        self.categories = np.zeros(len(labelling.taxonomy), np.int64)
        self.bytes = 0
        self.steps: Counter[int] = Counter()
        self.label_counts: Counter[int] = Counter()
        self.labels: set[int] = set()
        self.forms: dict[str, Counter[tuple[int, str]]] = {}  # modality -> (size, type) -> clips
        self.track_steps: dict[str, Counter[int]] = {}
        self.empty: Counter[str] = Counter()
        self.codes: Counter[str] = Counter()
        self.featureless = 0
        self.problems: list[str] = []
        self.digests = Digests()

    def add(self, clip: Clip) -> None:
        self.digests.add(clip)
        self.steps[clip.steps] += 1
        self.label_counts[len(clip.labels)] += 1
        labels = clip.labels.tolist()
        self.labels.update(labels)
        self.categories += self.labelling.labels.targets([label for label in labels if label in self.known])
        for name, track in clip.tracks.items():
            self.forms.setdefault(name, Counter())[track.shape[1], str(track.dtype)] += 1
            self.track_steps.setdefault(name, Counter())[len(track)] += 1
            self.empty[name] += not present(track).any()
            self.codes[name] += are_codes(track)
        self.featureless += bool(clip.tracks) and not any(present(track).any() for track in clip.tracks.values())

    def sum_up(self, shards: Sequence[Path | RemotePath]) -> Inspection:
        total = self.steps.total()
        modalities = {}
        for name, forms in sorted(self.forms.items()):
            (size, kind), _ = forms.most_common(1)[0]
            missing = total - forms.total() + self.empty[name]
            modalities[name] = Modality(size, kind, forms.total(), missing, Spread.of(self.track_steps[name]))
            for (other_size, other_kind), clips in forms.most_common()[1:]:
                self.problems.append(f"{name}: {clips:,} clips have {other_size:,} features of {other_kind}")
        if total and not modalities:
            self.problems.append("no clip has features")
        for name, clips in self.codes.items():
            if clips:
                self.problems.append(f"{name}: {clips:,} clips hold 8-bit codes (0 to 255) as floats, and no features")
        if self.featureless:
            self.problems.append(f"{self.featureless:,} clips have all-zero features: they are read as missing")
        same_id, same_features = self.digests.repeated()
        if same_id:
            self.problems.append(f"{same_id:,} clips have the id of an earlier clip")
        if same_features:
            self.problems.append(f"{same_features:,} clips are copies: they have the features of an earlier clip")
        return Inspection(
            shards=len(shards),
            bytes=self.bytes,
            records=total,
            modalities=modalities,
            steps=Spread.of(self.steps),
            labels=len(self.labels),
            labels_mean=sum(count * clips for count, clips in self.label_counts.items()) / max(total, 1),
            labels_max=max(self.label_counts, default=0),
            unlabelled=self.label_counts[0],
            categories=dict(zip(self.labelling.taxonomy.paths, self.categories.tolist(), strict=True)),
            problems=self.problems,
        )
