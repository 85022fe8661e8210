"""Mosaics: frame-level clips composed from real video-level records, so that there is time to attend over.

Vectors and labels are real; their order in time is made up (results on mosaics must mention it). A *topic* is a real
record together with others that have its most specific category. For each step it gives the vector of one of them.

* The clip's topic fills a stretch of the picture and, `shift` seconds later and `stretch` times as long, a stretch of
  the sound, where the same records follow each other. The clip's labels are those of the topic's record.
* Other stretches show other topics, in one modality only: of the records that a clip's topics are about, none belongs
  to the category of another.
* In the `unrelated` share of clips the sound's stretches all show other topics, at any times.
* Of the related clips, the `same_category` share has other records of the topic's category in the sound than in the
  picture, and the `same_top` share records of another category with the same top-level one.
* Every step that no stretch covers shows any record, another one each second.
* A record is the mean of a whole video. `variation` adds what a video's seconds vary around it, see `vary`.

`counterpoint.data.layout` draws how long the stretches are and where. The shards are YouTube-8M's frame-level ones with
YouTube-8M's labels; the records of a split make clips of that split alone. Beside them `<split>-truth.jsonl` holds,
for each clip, which record each step shows, and `mosaic.json` what the whole was made from.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt8

from counterpoint import __version__
from counterpoint.data.clip import Clip, present
from counterpoint.data.features import FeatureSet
from counterpoint.data.layout import Layout, Span, check_room, write_splits
from counterpoint.data.records import CODE_OFFSET, CODE_SCALE, quantize
from counterpoint.errors import Error
from counterpoint.files import check_output_folder, replacing
from counterpoint.taxonomy import Taxonomy

if TYPE_CHECKING:
    from counterpoint.data.dataset import Dataset

CLIPS = {"train": 10_000, "validation": 1_000, "test": 2_000}
MOSAIC_FILE = "mosaic.json"
UNFINISHED_FILE = ".unfinished-mosaic"
"""In a folder while its mosaic is written, and where that was interrupted."""
MODALITIES = ("video", "audio")
_CAST = 4  # records of a topic that a stretch shows, at most
_TRIES = 1000  # records looked at for one more topic


@dataclass(frozen=True, eq=False)
class Records:
    """The real records of one split, those that have a picture, a sound and a category.

    Attributes:
        ids, labels: of each record, as in its shard.
        vectors: 8-bit codes by modality.
        targets: each record's categories with their ancestors.
        topics: the index of each record's most specific category: the deepest one, of several the rarest in the split.
        tops: the index of that category's top-level one.
        left_out: how many records lack a picture, a sound or a category.
        shards: the names of the shards they were in.
    """

    ids: list[str]
    labels: "list[np.ndarray[Any, Any]]"
    vectors: dict[str, UInt8[np.ndarray, "record feature"]]
    targets: Bool[np.ndarray, "record category"]
    topics: Int[np.ndarray, "record"]
    tops: Int[np.ndarray, "record"]
    left_out: int
    shards: list[str]

    @classmethod
    def read(cls, dataset: "Dataset", progress: Callable[[int], None] | None = None) -> "Records":
        """All records of a data set; `progress` is called with 1 after each.

        Raises Error for a record of several steps, and where none can be used.
        """
        kept: list[tuple[Clip, dict[str, np.ndarray], np.ndarray]] = []
        for number in range(len(dataset)):
            clip, targets = dataset[number]
            codes = {name: _codes(clip, name) for name in MODALITIES if name in clip.tracks}
            if targets.any() and len(codes) == len(MODALITIES) and all(present(code).all() for code in codes.values()):
                kept.append((clip, codes, targets))
            if progress:
                progress(1)
        if not kept:
            raise Error(f"{dataset.paths[0]}: no record with picture, sound and a category; a mosaic is made of such")
        clips, codes_of, targets_of = zip(*kept, strict=True)
        targets = np.stack(targets_of)
        topics = most_specific(targets, dataset.labelling.taxonomy)
        return cls(
            [clip.id for clip in clips],
            [clip.labels for clip in clips],
            {name: np.concatenate([codes[name] for codes in codes_of]) for name in MODALITIES},
            targets,
            topics,
            dataset.labelling.taxonomy.tops[topics],
            len(dataset) - len(kept),
            [path.name for path in dataset.paths],
        )

    def alike(self, record: int) -> Int[np.ndarray, "other"]:
        """The other records of its topic."""
        same = self.topics == self.topics[record]
        same[record] = False
        return np.flatnonzero(same)

    def near(self, record: int) -> Int[np.ndarray, "other"]:
        """The records of other topics below the same top-level category."""
        return np.flatnonzero((self.tops == self.tops[record]) & (self.topics != self.topics[record]))

    def apart(self, one: int, other: int) -> bool:
        """Whether neither record belongs to the category that the other's topic is of."""
        return not (self.targets[one, self.topics[other]] | self.targets[other, self.topics[one]])


def _codes(clip: Clip, name: str) -> UInt8[np.ndarray, "1 feature"]:
    track = clip.tracks[name]
    if len(track) != 1:
        raise Error(
            f"clip {clip.id!r}: {name} of {len(track)} steps; a mosaic is made of video-level records, of one step each"
        )
    try:
        return np.asarray(track) if track.dtype == np.uint8 else quantize(track)
    except ValueError as error:
        raise Error(f"clip {clip.id!r}: {name}: {error}") from error


def most_specific(targets: Bool[np.ndarray, "record category"], taxonomy: Taxonomy) -> Int[np.ndarray, "record"]:
    """Each record's deepest category; of several the one that fewest records have, and of those the first.

    >>> from counterpoint.taxonomy import Category
    >>> food = Taxonomy((Category("f", "", "Food"), Category("d", "f", "Dessert"), Category("s", "f", "Soup")))
    >>> most_specific(np.array([[1, 1, 1], [1, 1, 0], [1, 0, 0]], bool), food).tolist()
    [2, 1, 0]
    """
    # As one number, since (depth, rarity) are compared one after the other.
    rank = taxonomy.levels * (len(targets) + 1) - targets.sum(0)
    return np.asarray(np.where(targets, rank, rank.min() - 1).argmax(1))


class Stretch(NamedTuple):
    """Steps of a modality, [start, stop), that show a topic."""

    start: int
    stop: int
    record: int
    """The record that the topic is about."""


class Truth(NamedTuple):
    """How a clip was made. Records are numbers in its split's `Records`, spans (start, stop) in steps."""

    record: int
    """The topic's, whose labels the clip has."""
    picture: Span
    sound: Span | None
    """None where it is not related."""
    shown: dict[str, Int[np.ndarray, "step"]]
    """By modality, the record of each step."""
    stretches: dict[str, list[Stretch]]
    """By modality, the first being the topic's if it is there."""
    relation: str = "record"
    """What the sound has in common with the picture: the "record", its "category", its "top" category, or "none"."""


class Relation(NamedTuple):
    """A `Truth.relation`, and the records that the sound's topic shows in place of the picture's."""

    name: str
    others: Int[np.ndarray, "other"] | None


UNRELATED = Relation("none", None)


@dataclass(frozen=True, kw_only=True)
class Mosaic(Layout):
    """Makes clips: clip i of a split depends on these controls, the split's name and records, and i alone.

    Shift, stretch and unrelated change what they name and leave the topics and the clips' lengths as they are.

    Attributes:
        same_category: the share of related clips whose sound shows other records of the topic's category.
        same_top: the share whose sound shows records of another category below the same top-level one.
        variation: how much the seconds of a video vary around its mean, relative to real ones; 0: not at all.

    Raises Error for values that allow no clips.
    """

    shift: int = 5
    stretch: float = 1.25
    unrelated: float = 0.25
    same_category: float = 0.0
    same_top: float = 0.0
    variation: float = 0.0
    min_steps: int = 20
    max_steps: int = 60
    cover: ClassVar[float] = 0.8
    length_ratio: ClassVar[float] = 1.5

    def conditions(self) -> Iterator[tuple[bool, str]]:
        yield from super().conditions()
        shares = (self.same_category, self.same_top)
        yield min(shares) >= 0 and sum(shares) <= 1, f"same_category and same_top must be shares, not {shares}"
        yield 0 <= self.variation < math.inf, f"variation must be 0 or more, not {self.variation}"

    def clip(self, records: Records, split: str, index: int) -> tuple[Clip, Truth]:
        """A clip with tracks "video" and "audio", (step, feature) uint8 codes of equal length, and its truth.

        Raises Error where the records have too few topics.
        """
        # Streams of their own: what one of them draws does not move what the others do.
        rng, casting, placing = (self.rng(what, split, index) for what in ("clip", "cast", "place"))
        steps = int(rng.integers(self.min_steps, self.max_steps + 1))
        related = bool(rng.random() >= self.unrelated)
        drawn = self._topics(records, split, casting)
        topics = {"video": drawn[: self.stretches], "audio": drawn[self.stretches :]}
        shown = {name: casting.integers(len(records.ids), size=steps) for name in MODALITIES}
        sequences = {name: [_sequence(records, topic, steps, casting) for topic in topics[name]] for name in MODALITIES}
        lengths = self.lengths(steps, rng)
        starts = self.starts(lengths, steps, related, self.delay(split, index), placing)
        relation = self._relation(records, drawn[0], split, index) if related else UNRELATED
        if related:
            topics["audio"][0] = drawn[0]
            # The picture's records in the picture's order, each as much longer as the stretch is.
            along = np.arange(lengths["audio"][0]) * lengths["video"][0] // lengths["audio"][0]
            sequences["audio"][0] = sequences["video"][0][along]
        if relation.others is not None:
            cast = relation.others
            sequences["audio"][0] = cast[self.rng("others", split, index).integers(len(cast), size=steps)]
        stretches: dict[str, list[Stretch]] = {}
        for name in MODALITIES:
            spans = zip(starts[name].tolist(), (starts[name] + lengths[name]).tolist(), topics[name], strict=True)
            stretches[name] = [Stretch(*span) for span in spans]
            for (start, stop, _), sequence in zip(stretches[name], sequences[name], strict=True):
                shown[name][start:stop] = sequence[: stop - start]
        picture, sound = (stretches[name][0][:2] for name in MODALITIES)
        truth = Truth(drawn[0], picture, sound if related else None, shown, stretches, relation.name)
        tracks = {name: records.vectors[name][shown[name]] for name in MODALITIES}
        if self.variation:
            varying = self.rng("vary", split, index)
            tracks = {name: vary(codes, name, self.variation, varying) for name, codes in tracks.items()}
        return Clip(f"{split}-{index:06}", records.labels[drawn[0]], tracks), truth

    def _relation(self, records: Records, record: int, split: str, index: int) -> "Relation":
        """How a related clip's sound belongs to its picture; the same record where there are no others."""
        rng = self.rng("relation", split, index)
        drawn = rng.random()
        if drawn < self.same_category:
            name, others = "category", records.alike(record)
        elif drawn < self.same_category + self.same_top:
            name, others = "top", records.near(record)
        else:
            return Relation("record", None)
        return Relation(name, rng.permutation(others)[:_CAST]) if len(others) else Relation("record", None)

    def _topics(self, records: Records, split: str, rng: np.random.Generator) -> list[int]:
        """A record for each stretch of both modalities, all `Records.apart`."""
        drawn: list[int] = []
        for _ in range(2 * self.stretches):
            candidates = rng.integers(len(records.ids), size=_TRIES).tolist()
            fitting = (c for c in candidates if all(records.apart(c, other) for other in drawn))
            if (found := next(fitting, None)) is None:
                raise Error(
                    f"{split}: {len(records.ids):,} records have too few topics for {2 * self.stretches} stretches "
                    "that have nothing to do with each other; take more records or fewer distractors"
                )
            drawn.append(found)
        return drawn


# In two frame-level videos of YouTube-8M (184 and 141 seconds) the standard deviation of a second's picture around the
# video's mean is 0.75 to 0.88 in every component, and neighbours correlate by 0.44 and 0.52. In AudioSet's balanced
# training segments of 10 s that of the sound is 0.55 in the first components to 1.07 in the last, and a correlation of
# neighbours could not be measured. For comparison: the means of whole videos vary by 0.46 and 0.69.
VARIATION = {"video": (0.80, 0.85, 0.48), "audio": (0.55, 1.05, 0.0)}
"""By modality, the standard deviation of the first and of the last component, and the correlation of neighbours."""


def vary(
    codes: UInt8[np.ndarray, "step feature"], name: str, amount: float, rng: np.random.Generator
) -> UInt8[np.ndarray, "step feature"]:
    """Seconds that vary around the vectors they are made of, as those of real videos do; see `VARIATION`."""
    first, last, correlation = VARIATION[name]
    drawn = rng.standard_normal(codes.shape)
    for step in range(1, len(drawn)):
        drawn[step] = correlation * drawn[step - 1] + math.sqrt(1 - correlation**2) * drawn[step]
    scale = amount * np.linspace(first, last, codes.shape[1])
    return quantize(codes * np.float32(CODE_SCALE) + np.float32(CODE_OFFSET) + (scale * drawn).astype(np.float32))


def _sequence(records: Records, record: int, steps: int, rng: np.random.Generator) -> Int[np.ndarray, "step"]:
    """Which record of a topic each step shows; the first step shows the topic's own."""
    others = rng.permutation(records.alike(record))[: _CAST - 1]
    cast = np.append(others, record)
    sequence = cast[rng.integers(len(cast), size=steps)]
    sequence[0] = record
    return sequence


def check_folder(folder: Path) -> None:
    """Raise Error where a mosaic must not be written into a folder: it holds something, and no mosaic."""
    check_output_folder(folder, MOSAIC_FILE, UNFINISHED_FILE)


def write(
    mosaic: Mosaic,
    records: Mapping[str, Records],
    taxonomy: Taxonomy,
    features: FeatureSet,
    folder: Path,
    clips: Mapping[str, int] = CLIPS,
    clips_per_shard: int = 500,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, list[Path]]:
    """Write the splits of `clips`, each from its own `records`, and return their shards.

    The folder gets what `counterpoint.data.layout.write_splits` writes, `<split>-truth.jsonl` and, last of all,
    `mosaic.json`, which marks a finished mosaic.

    Raises:
        Error: a split has no records, a record is in two splits, or the folder holds something that is no mosaic, or
            shards of a longer one.
    """
    if lacking := sorted(set(clips) - set(records)):
        raise Error(f"no records for the split {lacking[0]!r}; there are {', '.join(records)}")
    for one, other in combinations(clips, 2):
        if common := set(records[one].ids) & set(records[other].ids):
            raise Error(
                f"record {min(common)!r} is in {one} and in {other} ({len(common):,} are): splits share no records"
            )
    summary = {
        "counterpoint": __version__,
        "controls": asdict(mosaic),
        "features": str(features),
        "taxonomy": taxonomy.fingerprint,
        "splits": {
            split: {
                "clips": count,
                "records": len(records[split].ids),
                "left_out": records[split].left_out,
                "topics": len(np.unique(records[split].topics)),
                "shards": records[split].shards,
            }
            for split, count in clips.items()
        },
    }
    check_folder(folder)
    check_room(folder, clips, clips_per_shard)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / UNFINISHED_FILE).touch()
    (folder / MOSAIC_FILE).unlink(missing_ok=True)
    with ExitStack() as stack:
        truths = {split: stack.enter_context(replacing(folder / truth_file(split))) for split in clips}

        def clip(split: str, index: int) -> Clip:
            made, truth = mosaic.clip(records[split], split, index)
            truths[split].write((json.dumps(_truth_to_dict(made, truth, records[split], taxonomy)) + "\n").encode())
            return made

        shards = write_splits(folder, features, clips, clip, clips_per_shard, progress)
    with replacing(folder / MOSAIC_FILE) as file:
        file.write((json.dumps(summary, indent=2) + "\n").encode())
    (folder / UNFINISHED_FILE).unlink()
    return shards


def truth_file(split: str) -> str:
    """The file that holds what a split's clips are made of: one JSON object a clip, in their order."""
    return f"{split}-truth.jsonl"


def _truth_to_dict(clip: Clip, truth: Truth, records: Records, taxonomy: Taxonomy) -> dict[str, Any]:
    """The truth in the ids of records and categories."""
    return {
        "id": clip.id,
        "record": records.ids[truth.record],
        "topic": taxonomy.ids[records.topics[truth.record]],
        "picture": truth.picture,
        "sound": truth.sound,
        "relation": truth.relation,
        "stretches": {
            name: [
                {
                    "start": start,
                    "stop": stop,
                    "record": records.ids[record],
                    "topic": taxonomy.ids[records.topics[record]],
                }
                for start, stop, record in stretches
            ]
            for name, stretches in truth.stretches.items()
        },
        "shown": {name: [records.ids[i] for i in shown.tolist()] for name, shown in truth.shown.items()},
    }
