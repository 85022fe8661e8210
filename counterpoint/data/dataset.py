"""Shards as a PyTorch data set, and clips as batches.

The order of clips depends on seed and epoch alone, never on the number of workers or processes: a sampler in each
process draws it all and takes the process's share, and workers only read.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from counterpoint.data.clip import Clip, pad
from counterpoint.data.features import FeatureSet
from counterpoint.data.inspect import find_shards
from counterpoint.data.remote import fetch, open_shards
from counterpoint.data.store import RemotePath, is_remote
from counterpoint.data.youtube8m import clip_of
from counterpoint.errors import CounterpointError, RecordError
from counterpoint.models.track import Track, Tracks
from counterpoint.taxonomy import Labelling


class Batch(NamedTuple):
    """Clips side by side, aligned by step and padded to the longest."""

    tracks: Tracks
    labels: Bool[Tensor, "batch category"]
    """Or a teacher's probabilities, where a data set has those for targets (`counterpoint.ensemble`)."""
    ids: list[str]
    """Of those clips that count, which come first."""
    whole: int = 0
    """Clips of the batch that processes share, in all of them together. 0: the batch is this process's alone."""


AT_A_TIME = 256  # clips that are fetched together where all are read


class ClipDataset(Dataset[tuple[Clip, "np.ndarray[Any, Any]"]]):
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
            raise CounterpointError(f"no clips in {', '.join(map(str, paths))}{split}")

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
        except CounterpointError as error:
            shard, record = self.where[index]
            number = self.shards[shard].number(int(record))
            raise CounterpointError(f"{self.paths[shard]}: record {number} (clip {clip.id}): {error}") from None

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
) -> dict[str, ClipDataset]:
    """The clips of each split: its own shards', or a tenth of the training's by a hash of their ids.

    Raises:
        CounterpointError: a shard is in two splits, or a split has no clips.
    """
    given = [path.resolve() for paths in (train, validation, test) if paths for path in find_shards(paths)]
    if twice := [path for path, times in Counter(given).items() if times > 1]:
        raise CounterpointError(f"{twice[0]}: in more than one split; splits share no shards")
    used = 0.0
    datasets: dict[str, ClipDataset] = {}
    for name, paths in (("validation", validation), ("test", test)):
        if paths:
            datasets[name] = ClipDataset(paths, labelling, skip_bad=skip_bad)
        else:
            its_own = share(used, used + HELD_OUT, seed)
            datasets[name] = ClipDataset(train, labelling, skip_bad=skip_bad, keep=its_own)
            used += HELD_OUT
    keep = share(used, 1.0, seed) if used else None
    return {"train": ClipDataset(train, labelling, skip_bad=skip_bad, keep=keep), **datasets}


def collate(
    items: Sequence[tuple[Clip, "np.ndarray[Any, Any]"]], features: FeatureSet, max_steps: int, fixed: bool = False
) -> Batch:
    """Clips and their targets as a batch with a track for every modality of ``features``.

    Steps are those of the batch's longest clip and at most ``max_steps``, or with ``fixed`` exactly that.

    Raises:
        CounterpointError: a clip's features have another size or, within a batch, another type.
    """
    clips = [clip for clip, _ in items]
    steps = max_steps if fixed else min(max_steps, max(1, *(clip.steps for clip in clips)))
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for name, size in features.sizes.items():
        dtype = next((clip.tracks[name].dtype for clip in clips if name in clip.tracks), np.dtype(np.uint8))
        arrays[name] = np.empty((len(clips), steps, size), dtype)
    try:
        masks = pad(clips, arrays)
    except ValueError as error:
        raise CounterpointError(str(error)) from error
    tracks = {name: Track(torch.from_numpy(array), torch.from_numpy(masks[name])) for name, array in arrays.items()}
    return Batch(tracks, torch.from_numpy(np.stack([targets for _, targets in items])), [clip.id for clip in clips])


class Share(NamedTuple):
    """What one process reads of a batch, or a batch of its own."""

    clips: list[int]
    counted: int
    """Of the clips: none where the process has no part in the batch and reads one to keep in step with the others."""
    whole: int = 0
    """See `Batch`."""


class ClipLoader(DataLoader[Any]):
    """The batches of a data set, as `Slices` or `Turns` share them out.

    What a worker finds wrong with a clip is raised as it would be without workers.

    Args:
        max_steps: longer clips are cut.
        workers: processes that read ahead; 0 reads in this one.
    """

    def __init__(
        self,
        dataset: ClipDataset,
        shares: Sampler[Share],
        features: FeatureSet,
        max_steps: int,
        workers: int = 0,
        **options: Any,
    ) -> None:
        together = partial(_collate, features=features, max_steps=max_steps)
        sampler: Any = shares  # of a share each, not of a list
        super().__init__(_Shared(dataset), batch_sampler=sampler, collate_fn=together, num_workers=workers, **options)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        try:
            yield from super().__iter__()
        except (CounterpointError, RuntimeError) as error:
            # PyTorch makes one text of the worker's traceback, whose last line is the error.
            kind, _, told = str(error).rstrip().rpartition("\n")[2].partition(": ")
            if not kind.startswith(CounterpointError.__module__):
                raise
            raise CounterpointError(told) from error


class _Shared(Dataset[Any]):
    """A data set that is asked for shares."""

    def __init__(self, clips: ClipDataset) -> None:
        self.clips = clips

    def __getitems__(self, share: Share) -> tuple[list[Any], Share]:
        return self.clips.__getitems__(share.clips), share


def _collate(read: tuple[list[Any], Share], features: FeatureSet, max_steps: int) -> Batch:
    items, share = read
    batch = collate(items, features, max_steps)
    return batch._replace(ids=batch.ids[: share.counted], whole=share.whole)


class EpochSampler(Sampler[int]):
    """A shuffle in which clips of like length are neighbours, so that batches have little padding.

    Clips are shuffled and cut into windows of some batches, each window is sorted by length and cut into batches, and
    all batches are shuffled. It depends on seed and epoch alone. A smaller last batch is of any clips.

    Args:
        lengths: of each clip, in any unit.
        batch_size: clips in the batches that the order will be cut into.
    """

    WINDOW = 32
    """Batches in a window: more mean less padding and, in a small data set, much the same batches every epoch."""
    ROUGHLY = 0.02
    """Lengths this much apart count as alike: records of one length differ in labels, which should not make batches."""

    def __init__(self, lengths: Int[np.ndarray, "clip"], batch_size: int, seed: int) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this as an epoch begins."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        return iter(self.order().tolist())

    def order(self) -> Int[np.ndarray, "clip"]:
        """The epoch's order: 8 bytes a clip, and as much again while it is drawn."""
        random = np.random.default_rng((self.seed, self.epoch))
        order = random.permutation(len(self))
        roughly = self.lengths * random.uniform(1 - self.ROUGHLY, 1 + self.ROUGHLY, len(self))
        whole = len(self) - len(self) % self.batch_size
        # At least four windows, so that a small data set's batches are not the same clips every epoch.
        window = self.batch_size * min(self.WINDOW, max(1, whole // self.batch_size // 4))
        for start in range(0, whole, window):
            clips = order[start : min(start + window, whole)]  # a view
            clips[:] = clips[np.argsort(roughly[clips])]
        random.shuffle(order[:whole].reshape(-1, self.batch_size))
        return order


class Slices(Sampler[Share]):
    """Of each batch of an order, every ``world``-th clip from ``rank`` on: all processes share every batch.

    `state` is all that it takes to go on in the middle of an epoch, in any number of processes.
    """

    def __init__(self, sampler: EpochSampler, rank: int = 0, world: int = 1) -> None:
        self.sampler = sampler
        self.rank, self.world = rank, world
        self._done = (0, 0)  # epoch, and batches of it that need not be read again

    def __len__(self) -> int:
        return -(-len(self.sampler) // self.sampler.batch_size)

    def __iter__(self) -> Iterator[Share]:
        order, size = self.sampler.order(), self.sampler.batch_size
        epoch, done = self._done
        for start in range(done * size if epoch == self.sampler.epoch else 0, len(order), size):
            whole = order[start : start + size]
            mine = whole[self.rank :: self.world]
            yield Share((mine if len(mine) else whole[:1]).tolist(), len(mine), len(whole))

    def state(self, batches: int) -> dict[str, int]:
        """Where the epoch stands after so many batches."""
        sampler = self.sampler
        done = min(batches * sampler.batch_size, len(sampler))
        return {"seed": sampler.seed, "epoch": sampler.epoch, "batches": batches, "clips": done}

    def go_on(self, state: dict[str, int]) -> None:
        """Leave out, in that epoch, what had been done in it."""
        self._done = (state["epoch"], state["batches"])


class Turns(Sampler[Share]):
    """The clips in order, cut into batches that processes take in turns; each process has as many.

    A batch holds the same clips whatever the number of processes, so what a model says of them is the same to the bit.
    """

    def __init__(self, clips: int, batch_size: int, rank: int = 0, world: int = 1) -> None:
        self.clips, self.batch_size = clips, batch_size
        self.rank, self.world = rank, world

    def __len__(self) -> int:
        return -(-self.clips // (self.batch_size * self.world))

    def __iter__(self) -> Iterator[Share]:
        for turn in range(len(self)):
            start = (turn * self.world + self.rank) * self.batch_size
            clips = list(range(start, min(start + self.batch_size, self.clips)))
            yield Share(clips or [0], len(clips))
