"""Shards as a PyTorch data set, and its splits."""

import copy
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from torch.utils import data as torch_data

from counterpoint.data.clip import Clip
from counterpoint.data.features import YOUTUBE8M, FeatureSet
from counterpoint.data.inspect import Source, find_shards
from counterpoint.data.records import clip_of
from counterpoint.data.remote import fetch, open_shards
from counterpoint.data.store import RemotePath, is_remote
from counterpoint.data.taxonomies import find_taxonomy, load_taxonomy
from counterpoint.errors import Error, NoClipsError, RecordError
from counterpoint.taxonomy import Labelling, load, youtube8m
from counterpoint.taxonomy.mapping import LABELS_FILE

AT_A_TIME = 256  # clips that are fetched together where all are read


class Dataset(torch_data.Dataset[tuple[Clip, "np.ndarray[Any, Any]"]]):
    """The clips of shards with their targets, by number, read in place.

    ``dataset[i]`` is a `Clip` and its targets, (category,) bool in the order of the taxonomy.

    Args:
        paths: one or several files, folders (all ``*.tfrecord`` below them) and globs, by path or URL.
        taxonomy: what the labels mean: a `Labelling`, or the path or URL of a taxonomy's folder or of a
            ``categories.tsv``, or "youtube8m", the taxonomy that the package ships. Without, it is found when it is
            first needed: the one beside the shards, or else the shipped one if the features are YouTube-8M's.
        skip_bad: leave damaged records out (`bad` lists them) instead of raising the first.
        keep: which clips, by id; see `share`.
        labelled: read the targets; without, they are all False, and labels that the mapping lacks do not matter.

    Attributes:
        paths: the shards.
        bad: an error for each damaged record that was left out.
        where: (clip, 2) the numbers of each clip's shard and of its record.

    Raises:
        Error: there are no such shards or no clips in them, a record is damaged, or a number stands for another label
            beside the shards than in the taxonomy.

    Example::

        cp.Dataset("yt8m/train*.tfrecord")
        cp.Dataset(["a.tfrecord", "more"], taxonomy="my-taxonomy", skip_bad=True)
    """

    def __init__(
        self,
        paths: Source | Sequence[Source],
        taxonomy: Labelling | str | PathLike[str] | RemotePath | None = None,
        *,
        skip_bad: bool = False,
        keep: Callable[[str], bool] | None = None,
        labelled: bool = True,
    ) -> None:
        self.paths = find_shards(paths)
        self._named = [paths] if isinstance(paths, str | PathLike | RemotePath) else list(paths)
        self.labelled = labelled
        self._labelling: Labelling | None = None
        if taxonomy is not None:
            self._labelling = self._checked(taxonomy if isinstance(taxonomy, Labelling) else load_taxonomy(taxonomy))
        self.shards = open_shards(self.paths, skip_bad=skip_bad)
        self._remote = any(map(is_remote, self.paths))
        self.bad: list[RecordError] = [error for shard in self.shards for error in shard.bad]
        sizes = [len(shard) for shard in self.shards]
        self.where = np.stack(
            [np.repeat(np.arange(len(sizes)), sizes), np.concatenate([np.arange(n) for n in (*sizes, 0)])], axis=1
        )
        if keep is not None or skip_bad:
            self._filter(keep, skip_bad)
        if not len(self.where):
            raise self._no_clips(split=keep is not None)

    @property
    def labelling(self) -> Labelling:
        """The taxonomy, and the labels that lead into it.

        Raises:
            Error: none was given, and none is found.
        """
        if self._labelling is None:
            self._labelling = self._checked(find_taxonomy(self.paths))
        return self._labelling

    def with_taxonomy(self, labelling: Labelling) -> "Dataset":
        """The same clips with their targets in another taxonomy.

        Raises:
            Error: a number stands for another label in ``labelling`` than beside the shards, or than in the taxonomy
                that this data set has so far.
        """
        if self.labelled and self._labelling is not None:
            advice = "give the data set the run's own taxonomy, or none"
            _compare_labels(self._labelling, labelling, "the data set's taxonomy", advice)
        other = copy.copy(self)
        other._labelling = other._checked(labelling)
        return other

    def only(self, keep: Callable[[str], bool]) -> "Dataset":
        """The clips whose ids ``keep`` accepts; see `share`.

        Raises:
            NoClipsError: it accepts none.
        """
        other = copy.copy(self)
        other.bad = list(self.bad)
        other._filter(keep, skip_bad=False)
        if not len(other.where):
            raise other._no_clips(split=True)
        return other

    def _checked(self, labelling: Labelling) -> Labelling:
        if self.labelled:
            _check_labels(self.paths, labelling)
        return labelling

    def _no_clips(self, split: bool) -> NoClipsError:
        hint = " for this split; give it shards of its own" if split else ""
        return NoClipsError(f"no clips in {', '.join(map(str, self._named))}{hint}", self.bad)

    def _filter(self, keep: Callable[[str], bool] | None, skip_bad: bool) -> None:
        kept = []
        for start in range(0, len(self.where), AT_A_TIME):
            clips = range(start, min(start + AT_A_TIME, len(self.where)))
            self._fetch(clips)
            kept += [self._keeps(i, keep, skip_bad) for i in clips]
        self.where = self.where[np.array(kept, bool)]

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
        """Bytes of each clip's record, which stand for its steps: no record is read to know them."""
        first = np.cumsum([0, *(len(shard) for shard in self.shards)])
        lengths = np.concatenate([shard.lengths for shard in self.shards])
        return np.asarray(lengths[first[self.where[:, 0]] + self.where[:, 1]])

    @property
    def contents(self) -> dict[str, Any]:
        """How many clips, and the names and sizes of their shards: the same wherever the shards are stored."""
        return {"clips": len(self), "shards": [f"{shard.path.name} ({shard.size} bytes)" for shard in self.shards]}

    @property
    def fingerprint(self) -> str:
        """Hexadecimal digits that differ for other clips, from the checksums of their records, wherever shards are."""
        checksums = [shard.checksums for shard in self.shards]
        first = np.cumsum([0, *map(len, checksums)])
        ordered = np.concatenate(checksums)[first[self.where[:, 0]] + self.where[:, 1]]
        return hashlib.sha256(ordered.astype("<u4").tobytes()).hexdigest()[:16]

    def clip(self, index: int) -> Clip:
        """The clip as stored."""
        shard, record = self.where[index]
        return clip_of(self.shards[shard], int(record))

    def clips(self, indices: Sequence[int]) -> list[Clip]:
        """Several clips as stored; remote ones are fetched side by side."""
        self._fetch(indices)
        return [self.clip(index) for index in indices]

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
    train: Sequence[Source],
    validation: Sequence[Source],
    test: Sequence[Source],
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
            tenth = share(used, used + HELD_OUT, seed)
            datasets[name] = Dataset(train, labelling, skip_bad=skip_bad, keep=tenth)
            used += HELD_OUT
    keep = share(used, 1.0, seed) if used else None
    return {"train": Dataset(train, labelling, skip_bad=skip_bad, keep=keep), **datasets}


def hold_out(dataset: Dataset) -> tuple[Dataset, Dataset]:
    """A data set without a tenth of its clips, and that tenth.

    The tenth is the same for every seed: a tower's or an ensemble's members may have other seeds than the model.

    Raises:
        NoClipsError: one of them has no clips.
    """
    return dataset.only(share(HELD_OUT, 1.0)), dataset.only(share(0.0, HELD_OUT))


def training_data(
    data: Dataset | Source | Sequence[Source],
    validation: Dataset | Source | Sequence[Source] | None = None,
    taxonomy: Labelling | str | PathLike[str] | RemotePath | None = None,
    *,
    skip_bad: bool = False,
) -> tuple[Dataset, Dataset]:
    """The clips to train on, and those to tune and stop on.

    Args:
        data: a data set, or what names its shards.
        validation: likewise; without, `hold_out` takes a tenth of ``data``.
        taxonomy: as `Dataset` takes it; a data set that is given keeps its own without.
        skip_bad: as `Dataset` takes it, for shards.

    Raises:
        Error: a clip is in both, or one of them has no clips; and as `Dataset` raises it.
    """
    labelling = None if taxonomy is None else taxonomy if isinstance(taxonomy, Labelling) else load_taxonomy(taxonomy)

    def opened(clips: Dataset | Source | Sequence[Source], labelling: Labelling | None) -> Dataset:
        if isinstance(clips, Dataset):
            return clips if labelling is None else clips.with_taxonomy(labelling)
        return Dataset(clips, labelling, skip_bad=skip_bad)

    training = opened(data, labelling)
    if validation is None or (isinstance(validation, Sequence) and not validation):
        return hold_out(training)
    held_out = opened(validation, training.labelling)
    if not (isinstance(data, Dataset) and isinstance(validation, Dataset)):
        check_apart(training.paths, held_out.paths)
    elif common := _common(training, held_out):
        raise Error(f"{common}: clips of it are in the training and in the validation data; they share no clips")
    return training, held_out


def _common(one: Dataset, other: Dataset) -> Path | RemotePath | None:
    """A shard of which both have a clip."""
    numbers = {path.resolve(): number for number, path in enumerate(one.paths)}
    for number, path in enumerate(other.paths):
        same = numbers.get(path.resolve())
        if same is not None:
            records = [data.where[data.where[:, 0] == n, 1] for data, n in ((one, same), (other, number))]
            if len(np.intersect1d(*records)):
                return path
    return None


def check_apart(*splits: Sequence[Path | RemotePath]) -> None:
    """Raise Error for a shard that is in more than one split."""
    given = Counter(path.resolve() for shards in splits for path in shards)
    if twice := [path for path, times in given.items() if times > 1]:
        raise Error(f"{twice[0]}: in more than one split; splits share no shards")


def _check_labels(shards: Sequence[Path | RemotePath], labelling: Labelling) -> None:
    """Raise Error where a number stands for another label beside the shards than in the mapping.

    Shards that do not state what made them, and hold sound alone, are AudioSet's as likely as YouTube-8M's.
    """
    unknown = [shard for shard in shards if not (shard.parent / "taxonomy" / LABELS_FILE).exists()]
    if unknown and labelling.labels.fingerprint == youtube8m().labels.fingerprint:
        features = FeatureSet.of(unknown)
        if features.encoder == YOUTUBE8M and "video" not in features.sizes:
            raise Error(
                f"{unknown[0]}: {features}: sound alone, as AudioSet's records are, whose labels are not YouTube-8M's; "
                "use a model and a taxonomy of this data, or put the taxonomy of its labels beside it, as taxonomy/"
            )
    advice = "extract both with one --taxonomy, or remove that folder if it is not about these shards"
    for folder in sorted({shard.parent / "taxonomy" for shard in shards if isinstance(shard, Path)}):
        if (folder / LABELS_FILE).exists():
            _compare_labels(load(folder), labelling, str(folder), advice)


def _compare_labels(one: Labelling, used: Labelling, where: str, advice: str) -> None:
    """Raise Error, which names ``where`` the first mapping is from, where a number stands for different labels."""
    known = {label.index: label for label in used.labels.labels}
    named, others = (dict(zip(each.taxonomy.ids, each.taxonomy.paths, strict=True)) for each in (one, used))
    for label in one.labels.labels:
        other = known.get(label.index, label)
        # What was renamed is still in the same categories, and what was moved has the same name. An id alone does not
        # make categories the same: version 0.1 gave one id to C# in one data set, and to C++ in another.
        same = other.categories == label.categories and all(named[id_] == others.get(id_) for id_ in label.categories)
        if other.name != label.name and not same:
            raise Error(
                f"{where}: label {label.index} is {label.name!r} there and {other.name!r} in the taxonomy that is "
                f"used; {advice}"
            )
