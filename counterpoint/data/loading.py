"""Clips as batches: which of them each process reads, and in what order.

The order depends on seed and epoch alone, never on the number of workers or processes: a sampler in each process draws
it all and takes the process's share, and workers only read.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.utils import data as torch_data
from torch.utils.data import DataLoader, Sampler

from counterpoint.data.clip import Clip, pad
from counterpoint.data.dataset import Dataset
from counterpoint.data.features import FeatureSet
from counterpoint.data.tracks import Track, Tracks
from counterpoint.errors import Error


class Batch(NamedTuple):
    """Clips side by side, aligned by step and padded to the longest."""

    tracks: Tracks
    labels: Bool[Tensor, "batch category"]
    """Or a teacher's probabilities, where a data set has those for targets (`counterpoint.training.distill`)."""
    ids: list[str]
    """Of those clips that count, which come first."""
    whole: int = 0
    """Clips of the batch that processes share, in all of them together. 0: the batch is this process's alone."""


def collate(items: Sequence[tuple[Clip, "np.ndarray[Any, Any]"]], features: FeatureSet, max_steps: int) -> Batch:
    """Clips and their targets as a batch with a track for every modality of ``features``.

    Steps are those of the batch's longest clip and at most ``max_steps``.

    Raises:
        Error: a clip's features have another size or, within a batch, another type.
    """
    clips = [clip for clip, _ in items]
    steps = min(max_steps, max(1, *(clip.steps for clip in clips)))
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for name, size in features.sizes.items():
        dtype = next((clip.tracks[name].dtype for clip in clips if name in clip.tracks), np.dtype(np.uint8))
        arrays[name] = np.empty((len(clips), steps, size), dtype)
    try:
        masks = pad(clips, arrays)
    except ValueError as error:
        raise Error(str(error)) from error
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
    """The batches of a data set, as `ShardedSampler` or `RoundRobinSampler` share them out.

    What a worker finds wrong with a clip is raised as it would be without workers.

    Args:
        max_steps: longer clips are cut.
        workers: processes that read ahead; 0 reads in this one, as it is done where clips are kept.
        keep: whether the clips are read many times, so that those of one step are kept in memory (`KeptClips`).
    """

    def __init__(
        self,
        dataset: Dataset,
        shares: Sampler[Share],
        features: FeatureSet,
        max_steps: int,
        workers: int = 0,
        keep: bool = False,
    ) -> None:
        sampler: Any = shares  # of a share each, not of a list
        read = _Shared(dataset, features, max_steps, keep)
        workers = 0 if read.kept is not None else workers
        persistent = keep and workers > 0
        super().__init__(
            read, batch_sampler=sampler, collate_fn=_as_read, num_workers=workers, persistent_workers=persistent
        )

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        try:
            yield from super().__iter__()
        except (Error, RuntimeError) as error:
            # PyTorch makes one text of the worker's traceback, whose last line is the error.
            kind, _, message = str(error).rstrip().rpartition("\n")[2].partition(": ")
            if not kind.startswith(Error.__module__):
                raise
            raise Error(message) from error


class _Shared(torch_data.Dataset[Any]):
    """A data set that is asked for shares, and gives batches."""

    def __init__(self, clips: Dataset, features: FeatureSet, max_steps: int, keep: bool) -> None:
        self.clips, self.features, self.max_steps = clips, features, max_steps
        self.kept = KeptClips(len(clips)) if keep and KeptClips.suits(clips) else None

    def __getitems__(self, share: Share) -> Batch:
        batch = self._read(share.clips)
        return batch._replace(ids=batch.ids[: share.counted], whole=share.whole)

    def _read(self, clips: list[int]) -> Batch:
        if self.kept is not None:
            if unread := self.kept.unread(clips):
                batch = collate(self.clips.__getitems__(unread), self.features, self.max_steps)
                if not self.kept.keep(unread, batch):
                    self.kept = None
            if self.kept is not None:
                return self.kept.batch(clips)
        return collate(self.clips.__getitems__(clips), self.features, self.max_steps)


def _as_read(batch: Any) -> Any:
    return batch


class KeptClips:
    """Clips of one step, side by side in memory once they are read: to parse them costs more than a step of training.

    Args:
        clips: how many there may be, by number.
    """

    LIMIT = 2 << 30
    """The most bytes of features and targets that are kept."""

    def __init__(self, clips: int) -> None:
        self._known = np.zeros(clips, bool)
        self._ids = [""] * clips
        self._arrays: dict[str, Tensor] = {}  # of features by modality; rows are clips
        self._masks: dict[str, Tensor] = {}
        self._labels = torch.empty(0)

    @classmethod
    def suits(cls, dataset: Dataset) -> bool:
        """Whether the first clip has one step, and all would fit if they are like it."""
        [(clip, targets)] = dataset.__getitems__([0])
        size = sum(track.nbytes for track in clip.tracks.values()) + targets.nbytes
        return clip.steps == 1 and size * len(dataset) <= cls.LIMIT

    def unread(self, clips: Sequence[int]) -> list[int]:
        """Those that are not kept yet."""
        return [clip for clip in clips if not self._known[clip]]

    def keep(self, clips: Sequence[int], batch: Batch) -> bool:
        """Keep a batch of these clips, unless it has more steps or other types than those before it."""
        if not self._arrays:
            count = len(self._known)
            for name, track in batch.tracks.items():
                self._arrays[name] = track.features.new_empty((count, 1, track.features.shape[-1]))
                self._masks[name] = track.mask.new_empty((count, 1))
            self._labels = batch.labels.new_empty((count, *batch.labels.shape[1:]))
        for name, track in batch.tracks.items():
            if track.mask.shape[1] != 1 or track.features.dtype != self._arrays[name].dtype:
                return False
        rows = torch.as_tensor(clips)
        for name, track in batch.tracks.items():
            self._arrays[name][rows], self._masks[name][rows] = track
        self._labels[rows] = batch.labels
        for clip, name in zip(clips, batch.ids, strict=True):
            self._ids[clip] = name
        self._known[clips] = True
        return True

    def batch(self, clips: Sequence[int]) -> Batch:
        """Kept clips as `collate` would give them."""
        rows = torch.as_tensor(clips)
        tracks = {name: Track(array[rows], self._masks[name][rows]) for name, array in self._arrays.items()}
        return Batch(tracks, self._labels[rows], [self._ids[clip] for clip in clips])


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


class ShardedSampler(Sampler[Share]):
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
            own = whole[self.rank :: self.world]
            yield Share((own if len(own) else whole[:1]).tolist(), len(own), len(whole))

    def state(self, batches: int) -> dict[str, int]:
        """Where the epoch stands after so many batches."""
        sampler = self.sampler
        done = min(batches * sampler.batch_size, len(sampler))
        return {"seed": sampler.seed, "epoch": sampler.epoch, "batches": batches, "clips": done}

    def go_on(self, state: dict[str, int]) -> None:
        """Leave out, in that epoch, what had been done in it."""
        self._done = (state["epoch"], state["batches"])


class RoundRobinSampler(Sampler[Share]):
    """The clips in order, cut into batches that processes take in turns; each process has as many.

    A batch holds the same clips whatever the number of processes, so a model's answers are the same to the bit.
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
