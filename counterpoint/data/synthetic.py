"""Synthetic clips of known truth, as shards: their picture and sound confirm each other in one topic only.

A clip's label is its topic. The picture shows the topic in one stretch of steps, and the sound shows it in a stretch
that begins `shift` seconds later and lasts `stretch` times as long. Each modality also has stretches of other topics,
which the other modality never shows; between stretches there is background. So one modality alone hardly shows which
of its topics is the label, while both together do, by what they show and by when they show it. In the `unrelated`
share of clips the sound shows other topics only, at any times: there, a model that lets sound influence picture is
misled.

A stretch of the topic looks like one of another topic within a modality (`counterpoint.data.layout`). Lengths
are shares of the clip, such that a modality's stretches cover at most half of it.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from counterpoint.data.clip import Clip
from counterpoint.data.features import FEATURES_FILE, FeatureSet, encoder_of
from counterpoint.data.layout import Layout, Span, write_splits
from counterpoint.data.records import quantize
from counterpoint.files import check_output_folder
from counterpoint.taxonomy import Category, Label, Labelling, LabelMap, Taxonomy

ENCODER = "synthetic"
CLIPS = {"train": 2000, "validation": 400, "test": 600}
BACKGROUND = -1  # in `Truth.shown`
_VECTOR = 0.3  # standard deviation of a vector's features at each of the three levels, far from the limits at 2

_NAMES = {  # leaf k is the k-th of these
    "Food": {"Dessert": ("Cake", "Ice cream"), "Dish": ("Pizza", "Soup"), "Drink": ("Coffee", "Tea")},
    "Transport": {"Land": ("Car", "Train"), "Water": ("Ship", "Kayak"), "Air": ("Airplane", "Helicopter")},
    "Music": {"Strings": ("Violin", "Guitar"), "Winds": ("Flute", "Trumpet"), "Percussion": ("Drums", "Marimba")},
    "Animal": {"Pet": ("Cat", "Dog"), "Bird": ("Parrot", "Owl"), "Farm": ("Horse", "Cow")},
    "Sports": {"Ball": ("Football", "Tennis"), "Winter": ("Skiing", "Ice skating"), "Racing": ("Cycling", "Rowing")},
    "Games": {"Board": ("Chess", "Go"), "Card": ("Poker", "Bridge"), "Video": ("Puzzle", "Adventure")},
    "Art": {"Painting": ("Watercolor", "Portrait"), "Craft": ("Pottery", "Knitting"), "Stage": ("Ballet", "Puppetry")},
    "Travel": {"Coast": ("Beach", "Lighthouse"), "Mountain": ("Glacier", "Volcano"), "City": ("Market", "Museum")},
}
_MIDDLE, _LEAVES = 3, 2  # how many below each
_NAMED = [(top, middle, leaf) for top, below in _NAMES.items() for middle, leaves in below.items() for leaf in leaves]


class Truth(NamedTuple):
    """What a clip was made of. Spans are (start, stop) in steps, as in `track[start:stop]`."""

    topic: int  # the clip's only label
    picture: Span  # where the picture shows the topic
    sound: Span | None  # where the sound does, None where it is not related
    related: bool
    shown: dict[str, NDArray[np.int64]]  # (step,) by modality: each step's topic, or `BACKGROUND`


@dataclass(frozen=True, kw_only=True)
class SyntheticData(Layout):
    """Makes clips: clip i of a split depends on these controls, the split's name and i alone.

    Shift, stretch, unrelated and noise change what they name and leave the rest (vectors, topics, lengths, noise) as it
    is, so that a sweep over them compares like with like.

    Attributes:
        topics: leaf categories of the taxonomy; `2 * distractors + 2` or more.
        noise: standard deviation of the noise on each feature of each step. Features of topics have one of about 0.5;
            beyond -2 and 2 they are cut, which a noise above 0.7 or so makes frequent.
        sizes: features of "video" (the picture) and "audio" (the sound).

    The other controls are those of `Layout`.

    Raises Error for values that allow no clips.

    >>> clip, truth = SyntheticData(shift=5).clip(17)
    >>> clip.id, clip.labels.tolist() == [truth.topic], truth.sound[0] - truth.picture[0]
    ('train-000017', True, 5)
    """

    topics: int = 24
    noise: float = 0.5
    sizes: Mapping[str, int] = field(default_factory=lambda: {"video": 64, "audio": 32}, hash=False)

    def conditions(self) -> Iterator[tuple[bool, str]]:
        yield from super().conditions()
        needed = 2 * self.stretches
        yield self.topics >= needed, f"{self.distractors} distractors need {needed} topics or more"
        yield 0 <= self.noise < math.inf, f"noise must be 0 or more, not {self.noise}"
        yield set(self.sizes) == {"video", "audio"}, f"sizes must be those of video and audio, not {self.sizes}"
        yield min(self.sizes.values(), default=0) > 0, f"sizes must be 1 or more, not {self.sizes}"

    @cached_property
    def labelling(self) -> Labelling:
        """The taxonomy, of three levels, and its labels: label k is leaf k. Names beyond the 48 known are numbered."""
        categories: dict[str, Category] = {}
        labels = []
        for topic in range(self.topics):
            parent = ""
            for name in _names(topic):
                key = f"{parent}.{name}".strip(".").lower().replace(" ", "-")
                categories.setdefault(key, Category(key, parent, name))
                parent = key
            labels.append(Label(topic, name, 0, (key,)))
        taxonomy = Taxonomy(tuple(categories.values()))
        return Labelling(taxonomy, LabelMap(tuple(labels), taxonomy))

    @cached_property
    def vectors(self) -> dict[str, NDArray[np.float32]]:
        """The features of each topic, without noise: (topic + 1, feature) by modality, the background last.

        A topic's vector is the sum of one for each level, so that siblings are alike; modalities have none in common.
        """
        vectors = {}
        # The background is one more topic, in a top category of its own: no more and no less salient than the others.
        leaves = np.append(np.arange(self.topics), self.topics + _MIDDLE * _LEAVES)
        for modality, size in self.sizes.items():
            rng = self.rng("vectors", modality)
            groups = leaves // (_MIDDLE * _LEAVES), leaves // _LEAVES, leaves
            levels = [rng.normal(0, _VECTOR, (group.max() + 1, size))[group] for group in groups]
            vectors[modality] = sum(levels, np.zeros(size)).astype(np.float32)
        return vectors

    def clip(self, index: int, split: str = "train") -> tuple[Clip, Truth]:
        """A clip with tracks "video" and "audio", (step, feature) uint8 codes of equal length, and its truth."""
        rng = self.rng("clip", split, index)
        steps = int(rng.integers(self.min_steps, self.max_steps + 1))
        related = bool(rng.random() >= self.unrelated)
        drawn = rng.permutation(self.topics)[: 2 * self.stretches]
        topics = {"video": drawn[: self.stretches], "audio": drawn[self.stretches :]}
        if related:
            topics["audio"][0] = drawn[0]
        lengths = self.lengths(steps, rng)

        # Drawn before the starts, whose number of draws varies: the noise is then the same whatever the controls.
        noise = {m: rng.standard_normal((steps, size), np.float32) for m, size in sorted(self.sizes.items())}
        starts = self.starts(lengths, steps, related, self.delay(split, index), rng)
        shown, tracks = {}, {}
        for modality in self.sizes:
            shown[modality] = np.full(steps, BACKGROUND)
            for start, length, topic in zip(starts[modality], lengths[modality], topics[modality], strict=True):
                shown[modality][start : start + length] = topic
            values = self.vectors[modality][shown[modality]] + np.float32(self.noise) * noise[modality]
            tracks[modality] = np.maximum(quantize(values), 1)  # a step of zeros alone would be a missing one
        picture, sound = ((int(starts[m][0]), int((starts[m] + lengths[m])[0])) for m in ("video", "audio"))
        truth = Truth(int(drawn[0]), picture, sound if related else None, related, shown)
        return Clip(f"{split}-{index:06}", drawn[:1].astype(np.int64), tracks), truth


def write(
    data: SyntheticData,
    folder: str | Path,
    clips: Mapping[str, int] = CLIPS,
    clips_per_shard: int = 500,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, list[Path]]:
    """Write splits of synthetic data, by name and number of clips, and return their shards.

    The folder gets `<split>-0000.tfrecord` and so on, `features.json`, and `taxonomy/`, whose labels count the clips
    of the split "train". `progress` is called with the clips done and their total after each clip.

    Raises:
        Error: the folder holds something that is no synthetic data, or shards of these splits that would stay and mix
            with the new ones.
    """
    folder = Path(folder)
    if not ((folder / FEATURES_FILE).exists() and encoder_of(folder) == ENCODER):
        check_output_folder(folder)
    counts = np.zeros(data.topics, np.int64)

    def clip(split: str, index: int) -> Clip:
        made, truth = data.clip(index, split)
        counts[truth.topic] += split == "train"
        return made

    shards = write_splits(folder, FeatureSet(dict(data.sizes), ENCODER), clips, clip, clips_per_shard, progress)
    taxonomy, labels = data.labelling
    counted = (replace(label, count=int(counts[label.index])) for label in labels.labels)
    Labelling(taxonomy, LabelMap(tuple(counted), taxonomy)).save(folder / "taxonomy")
    return shards


def _names(topic: int) -> tuple[str, str, str]:
    """A leaf's path.

    >>> _names(0), _names(48)
    (('Food', 'Dessert', 'Cake'), ('Subject 9', 'Group 25', 'Topic 49'))
    """
    if topic < len(_NAMED):
        return _NAMED[topic]
    middle = topic // _LEAVES
    return f"Subject {middle // _MIDDLE + 1}", f"Group {middle + 1}", f"Topic {topic + 1}"
