"""What synthetic data and mosaics of real records have in common: where clips have their stretches, and how several
splits are written as shards.

A clip has a topic, which fills a stretch of the picture and, later and longer, one of the sound. Each modality also has
stretches of other topics, which the other one has not. A stretch of the topic looks like one of another topic
within a modality: their lengths and places have (nearly) one distribution. The exception makes clips of unrelated sound
answerable at all: in the picture the topic's stretch is `advantage` times as long as the others, on average.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from counterpoint.data.clip import Clip
from counterpoint.data.features import FeatureSet
from counterpoint.data.records import encode
from counterpoint.data.tfrecord import Writer
from counterpoint.errors import Error

Span = tuple[int, int]
Places = dict[str, NDArray[np.int64]]
"""A number of steps for each stretch, the topic's first, by modality ("video" and "audio")."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What decides where stretches are.

    Attributes:
        shift: seconds from the beginning of the picture's stretch to the sound's; negative where the sound is first.
            Cut to the share of the clip that is not covered.
        spread: how much earlier or later than that it may be; drawn anew for each clip.
        stretch: the sound's duration relative to the picture's, rounded down to whole steps but at least one.
        unrelated: the share, 0 to 1, of clips whose sound has nothing to do with the picture.
        distractors: stretches of other topics in each modality.
        advantage: how much longer the picture's stretch of the topic is than its others, on average; 1 for equal.
        min_steps: the shortest clips, in seconds.
        max_steps: the longest ones; lengths are uniform between them.
        seed: another seed makes other clips.

    Raises Error for values that allow no clips.
    """

    shift: int = 0
    spread: int = 0
    stretch: float = 1.0
    unrelated: float = 0.0
    distractors: int = 2
    advantage: float = 1.25
    min_steps: int = 30
    max_steps: int = 300
    seed: int = 0
    cover: ClassVar[float] = 0.5
    """The share of a clip that a modality's stretches fill at most; the rest is room for the shift."""
    length_ratio: ClassVar[float] = 3
    """How much longer the longest stretch is than the shortest, within a modality and a clip, at most."""

    def __post_init__(self) -> None:
        for valid, problem in self.conditions():
            if not valid:
                raise Error(f"no such clips: {problem}")

    def conditions(self) -> Iterator[tuple[bool, str]]:
        """(whether a condition holds, the message where it does not) for all conditions."""
        least = math.ceil(self.stretches * max(1, min(self.stretch, 1e6)) / self.cover)
        yield 0 <= self.distractors <= 64, f"distractors must be 0 to 64, not {self.distractors}"
        yield self.spread >= 0, f"spread must be 0 or more, not {self.spread}"
        yield 0 < self.stretch < math.inf, f"stretch must be a factor above 0, not {self.stretch}"
        yield 1 <= self.advantage < math.inf, f"advantage must be a factor of 1 or more, not {self.advantage}"
        yield 0 <= self.unrelated <= 1, f"unrelated must be a share from 0 to 1, not {self.unrelated}"
        yield self.min_steps <= self.max_steps, f"min_steps {self.min_steps} is above max_steps {self.max_steps}"
        yield self.min_steps >= least, f"so many and long stretches need min_steps of {least}, not {self.min_steps}"

    @property
    def stretches(self) -> int:
        """Of each modality; the first is the topic's, which in time may come later."""
        return self.distractors + 1

    def rng(self, *key: str | int) -> np.random.Generator:
        """Random numbers that depend on the seed and a key alone."""
        digest = hashlib.blake2b("/".join(map(str, (self.seed, *key))).encode(), digest_size=16).digest()
        return np.random.default_rng(int.from_bytes(digest, "big"))

    def lengths(self, steps: int, rng: np.random.Generator) -> Places:
        """How long the stretches of a clip are, whether its sound is related or not."""
        # Such that even the longest stretches, the sound's or the picture's main one, cover no more than they may.
        unit = steps * self.cover / (self.stretches * self.length_ratio * self.advantage * max(1, self.stretch))
        picture, sound = unit * rng.uniform(1, self.length_ratio, (2, self.stretches))
        picture[0] *= self.advantage
        sound = np.append(picture[0], sound[1:] * self.advantage)
        return {"video": _whole(picture), "audio": _whole(_whole(sound) * self.stretch)}

    def delay(self, *key: str | int) -> int:
        """A clip's shift."""
        if not self.spread:
            return self.shift
        return self.shift + int(self.rng("delay", *key).integers(-self.spread, self.spread + 1))

    def starts(self, lengths: Places, steps: int, related: bool, shift: int, rng: np.random.Generator) -> Places:
        """Where they begin, none upon another of its modality."""
        # Each modality's stretches are in a window of it, the sound's being the picture's, shifted.
        room = int(steps * (1 - self.cover) + 1e-9)
        shift = min(max(shift, -room), room)
        begin = {"video": max(0, -shift), "audio": max(0, shift)}
        return {name: start + begin[name] for name, start in _starts(lengths, steps - abs(shift), related, rng).items()}


def _whole(lengths: NDArray[np.floating]) -> NDArray[np.int64]:
    """Whole steps, at least one."""
    return np.maximum(lengths.astype(np.int64), 1)


def _starts(
    lengths: Mapping[str, NDArray[np.int64]], window: int, related: bool, rng: np.random.Generator
) -> dict[str, NDArray[np.int64]]:
    """Where in a window each modality's stretches begin, none upon another; if they are related, the first at one step.

    A modality's layout is drawn uniformly from all there are, or nearly so where the first stretches must agree: so a
    place in time does not show which stretch is the first. They always can agree, at step 0.
    """
    counts = {modality: _layouts(sizes, window) for modality, sizes in lengths.items()}
    chances = {modality: table.sum(axis=0) for modality, table in counts.items()}
    if related:  # the geometric mean: what each modality prefers, if it is the same, and only what both allow
        common = _pick(np.prod(list(chances.values()), axis=0) ** 0.5, rng)
    starts = {}
    for modality, sizes in lengths.items():
        first = common if related else _pick(chances[modality], rng)
        earlier = _pick(counts[modality][:, first], rng) + 1
        end = first + int(sizes[0])
        before = _scattered(sizes[1:earlier], first, rng)
        after = end + _scattered(sizes[earlier:], window - end, rng)
        starts[modality] = np.concatenate([[first], before, after])
    return starts


def _layouts(lengths: NDArray[np.int64], window: int) -> NDArray[np.float64]:
    """(rank, start): how many layouts there are where the first stretch begins there, with `rank` others before it.

    There are about room^r / r! ways to place r stretches in order with some room to spare.
    """
    others = len(lengths) - 1
    rank = np.arange(others + 1)[:, None]
    before = np.arange(window + 1.0) - (lengths.cumsum() - lengths[0])[:, None]  # room to spare
    after = window - lengths.sum() - before
    choices = np.array([math.comb(others, r) for r in range(others + 1)])[:, None]
    counts = choices * (before + 1) ** rank * (after + 1) ** (others - rank)
    return np.where((before >= 0) & (after >= 0), counts, 0.0)


def _pick(weights: NDArray[np.float64], rng: np.random.Generator) -> int:
    """A random index, in proportion to the weights; quicker than the generator's own choice."""
    total = weights.cumsum()
    return int(total.searchsorted(rng.random() * total[-1], side="right"))


def _scattered(lengths: NDArray[np.int64], room: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Where stretches begin that lie anywhere in a room, in order and none upon another."""
    spare = np.sort(rng.integers(0, room - lengths.sum() + 1, len(lengths)))
    return np.asarray(spare + lengths.cumsum() - lengths)


# --- Shards -----------------------------------------------------------------------------------------------------------


def check_room(folder: Path, clips: Mapping[str, int], clips_per_shard: int) -> dict[str, list[Path]]:
    """The shards by split that `write_splits` would write.

    Raises Error as it does.
    """
    shards: dict[str, list[Path]] = {}
    for split, count in clips.items():
        numbers = range(math.ceil(count / clips_per_shard))
        paths = shards[split] = [folder / f"{split}-{number:04}.tfrecord" for number in numbers]
        if left := sorted(set(folder.glob(f"{split}-[0-9]*.tfrecord")) - set(paths)):
            raise Error(f"{left[0]}: an older shard of {split!r} would stay; remove it or write elsewhere")
    return shards


def write_splits(
    folder: Path,
    features: FeatureSet,
    clips: Mapping[str, int],
    clip: Callable[[str, int], Clip],
    clips_per_shard: int,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, list[Path]]:
    """Write `<split>-0000.tfrecord` and so on, and `features.json`; return the shards by split.

    `clip` makes the clips, called with a split and a number, in order; `clips` holds how many there are. `progress` is
    called with the clips done and their total after each clip.

    Raises Error where the folder has shards of these splits that would stay and mix with the new ones.
    """
    shards = check_room(folder, clips, clips_per_shard)
    folder.mkdir(parents=True, exist_ok=True)
    features.save(folder)
    done = 0
    for split, count in clips.items():
        for number, path in enumerate(shards[split]):
            with Writer(path) as writer:
                for index in range(number * clips_per_shard, min((number + 1) * clips_per_shard, count)):
                    writer.write(encode(clip(split, index)))
                    done += 1
                    if progress:
                        progress(done, sum(clips.values()))
    return shards
