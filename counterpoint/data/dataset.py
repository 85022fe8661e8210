"""Shards as a PyTorch data set, and its splits."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from torch.utils import data as torch_data

from counterpoint.data.clip import Clip
from counterpoint.data.inspect import find_shards
from counterpoint.data.records import clip_of
from counterpoint.data.remote import fetch, open_shards
from counterpoint.data.store import RemotePath, is_remote
from counterpoint.errors import Error, NoClipsError, RecordError
from counterpoint.taxonomy import Labelling, load
from counterpoint.taxonomy.mapping import LABELS_FILE

AT_A_TIME = 256  # clips that are fetched together where all are read


class Dataset(torch_data.Dataset[tuple[Clip, "np.ndarray[Any, Any]"]]):
    """The clips of shards with their targets, by number, read in place.

    Args:
        paths: files, folders and globs, here or by URL (`counterpoint.data.remote`).
        labelling: the taxonomy and the data set's label mapping.
        skip_bad: leave damaged records out (`bad` lists them) instead of raising the first.
        keep: which clips, by id; see `share`.
        labelled: read the targets; without, they are all False, and labels that the mapping lacks do not matter.
    """

    def __init__(
        self,
        paths: Sequence[str | Path | RemotePath],
        labelling: Labelling,
        *,
        skip_bad: bool = False,
        keep: Callable[[str], bool] | None = None,
        labelled: bool = True,
    ) -> None:
        self.paths = find_shards(paths)
        if labelled:
            _check_labels(self.paths, labelling)
        self.labelling = labelling
        self.labelled = labelled
        self.shards = open_shards(self.paths, skip_bad=skip_bad)
        self._remote = any(map(is_remote, self.paths))
        self.bad: list[RecordError] = [error for shard in self.shards for error in shard.bad]
        sizes = [len(shard) for shard in self.shards]
        #: (clip, 2): shard and record of each clip.
        self.where = np.stack(
            [np.repeat(np.arange(len(sizes)), sizes), np.concatenate([np.arange(n) for n in (*sizes, 0)])], axis=1
        )
        if keep is not None or skip_bad:
            kept = []
            for start in range(0, len(self.where), AT_A_TIME):
                clips = range(start, min(start + AT_A_TIME, len(self.where)))
                self._fetch(clips)
                kept += [self._keeps(i, keep, skip_bad) for i in clips]
            self.where = self.where[kept]
        if not len(self.where):
            split = " for this split; give it shards of its own" if keep is not None else ""
            raise NoClipsError(f"no clips in {', '.join(map(str, paths))}{split}", self.bad)

    def _keeps(self, index: int, keep: Callable[[str], bool] | None, skip_bad: bool) -> bool:
        try:
            clip = self.clip(index)
        except RecordError as error:  # whole, but not what it should be
            if not skip_bad:
                raise
            self.bad.append(error)
            return False
        return keep is None or keep(clip.id)

    def __len__(self) -> int:
        return len(self.where)

    @property
    def lengths(self) -> Int[np.ndarray, "clip"]:
        """Bytes of each clip's record: as good as its steps for telling long from short, and nothing need be read."""
        first = np.cumsum([0, *(len(shard) for shard in self.shards)])
        lengths = np.concatenate([shard.lengths for shard in self.shards])
        return np.asarray(lengths[first[self.where[:, 0]] + self.where[:, 1]])

    @property
    def contents(self) -> dict[str, Any]:
        """What tells these clips from others, wherever they lie: how many, and names and sizes of their shards."""
        return {"clips": len(self), "shards": [f"{shard.path.name} ({shard.size} bytes)" for shard in self.shards]}

    @property
    def fingerprint(self) -> str:
        """What tells these clips from others, wherever they lie, by the stored checksums of all of their records."""
        checksums = [shard.checksums for shard in self.shards]
        first = np.cumsum([0, *map(len, checksums)])
        ordered = np.concatenate(checksums)[first[self.where[:, 0]] + self.where[:, 1]]
        return hashlib.sha256(ordered.astype("<u4").tobytes()).hexdigest()[:16]

    def clip(self, index: int) -> Clip:
        """The clip as stored."""
        shard, record = self.where[index]
        return clip_of(self.shards[shard], int(record))

    def __getitem__(self, index: int) -> "tuple[Clip, np.ndarray[Any, Any]]":
        clip = self.clip(index)
        try:
            return clip, self.labelling.labels.targets(clip.labels.tolist() if self.labelled else [])
        except Error as error:
            shard, record = self.where[index]
            number = self.shards[shard].number(int(record))
            raise Error(f"{self.paths[shard]}: record {number} (clip {clip.id}): {error}") from None

    def __getitems__(self, indices: Sequence[int]) -> "list[tuple[Clip, np.ndarray[Any, Any]]]":
        """The clips of a batch, as PyTorch's loader asks for them; remote ones are fetched side by side."""
        self._fetch(indices)
        return [self[index] for index in indices]

    def _fetch(self, indices: Sequence[int]) -> None:
        if self._remote:
            fetch(self.shards, self.where[list(indices)].tolist())


def share(low: float, high: float, seed: int = 0) -> Callable[[str], bool]:
    """Clips whose id hashes, with the seed, into [low, high) of the unit interval: a split that new clips do not
    disturb.

    >>> [share(0.0, 0.5)(name) for name in "abcdef"]
    [False, False, True, True, False, True]
    """
    return partial(_in_share, low, high, seed)


def _in_share(low: float, high: float, seed: int, clip_id: str) -> bool:
    digest = hashlib.blake2b(f"{seed}/{clip_id}".encode(), digest_size=8).digest()
    return low <= int.from_bytes(digest, "big") / 2**64 < high


HELD_OUT = 0.1  # of the training clips, for each split without shards of its own


def split(
    train: Sequence[str | Path],
    validation: Sequence[str | Path],
    test: Sequence[str | Path],
    labelling: Labelling,
    *,
    skip_bad: bool = False,
    seed: int = 0,
) -> dict[str, Dataset]:
    """The clips of each split: its own shards', or a tenth of the training's by a hash of their ids.

    Raises:
        Error: a shard is in two splits, or a split has no clips.
    """
    check_apart(*(find_shards(paths) for paths in (train, validation, test) if paths))
    used = 0.0
    datasets: dict[str, Dataset] = {}
    for name, paths in (("validation", validation), ("test", test)):
        if paths:
            datasets[name] = Dataset(paths, labelling, skip_bad=skip_bad)
        else:
            its_own = share(used, used + HELD_OUT, seed)
            datasets[name] = Dataset(train, labelling, skip_bad=skip_bad, keep=its_own)
            used += HELD_OUT
    keep = share(used, 1.0, seed) if used else None
    return {"train": Dataset(train, labelling, skip_bad=skip_bad, keep=keep), **datasets}


def check_apart(*splits: Sequence[Path | RemotePath]) -> None:
    """Raise Error for a shard that is in more than one split."""
    given = Counter(path.resolve() for shards in splits for path in shards)
    if twice := [path for path, times in given.items() if times > 1]:
        raise Error(f"{twice[0]}: in more than one split; splits share no shards")


def _check_labels(shards: Sequence[Path | RemotePath], labelling: Labelling) -> None:
    """Raise Error where a number stands for another label beside the shards than in the mapping."""
    known = {label.index: label for label in labelling.labels.labels}
    for folder in sorted({shard.parent / "taxonomy" for shard in shards if isinstance(shard, Path)}):
        if not (folder / LABELS_FILE).exists():
            continue
        for label in load(folder).labels.labels:
            mine = known.get(label.index, label)
            # What was renamed is still in the same categories, and what was moved has the same name.
            if mine.name != label.name and mine.categories != label.categories:
                raise Error(
                    f"{folder}: label {label.index} is {label.name!r} there and {mine.name!r} in the taxonomy that is "
                    "used; extract both with one --taxonomy, or remove that folder if it is not about these shards"
                )
