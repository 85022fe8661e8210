"""The data sets of suites: real records as they are, mosaics of them, and synthetic clips whose truth is known.

A data set is made once, into a folder of its own, and is complete where `ready` is true.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Bool

from counterpoint.data import synthetic
from counterpoint.data.copies import digests, shared
from counterpoint.data.dataset import Dataset, split
from counterpoint.data.features import FeatureSet
from counterpoint.data.inspect import find_shards
from counterpoint.data.mosaic import CLIPS, MOSAIC_FILE, Mosaic, Records, truth_file, write
from counterpoint.errors import Error
from counterpoint.taxonomy import Labelling, load

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Where records come from: shards by split (validation and test may be empty), clips by split, the taxonomy.

    The split ``tower``, where there is one, is for towers of single seconds alone.
    """

    shards: dict[str, list[str]]
    clips: dict[str, int]
    taxonomy: Path | None = None
    skip_bad: bool = False

    def labelling(self) -> Labelling:
        """The taxonomy with its labels.

        Raises:
            Error: no shards are named.
        """
        if not self.shards["train"] or self.taxonomy is None:
            raise Error("this suite is about real records; name their shards with --data")
        return load(self.taxonomy)

    def records(self, labelling: Labelling) -> dict[str, Dataset]:
        """The real records by split."""
        shards = self.shards
        return split(shards["train"], shards["validation"], shards["test"], labelling, skip_bad=self.skip_bad)

    def tower_records(self, labelling: Labelling) -> tuple[Dataset, Dataset]:
        """The records that towers of single seconds learn from, and those that they are validated on.

        Raises:
            Error: some of them are among the other records: a tower is sure of pairs that it has seen, so that models
                would learn to trust what they do not get of new clips.
        """
        shards = self.shards
        own = split(shards["tower"], shards["validation"], shards["test"], labelling, skip_bad=self.skip_bad)
        learned = digests(own["train"])
        for name, records in self.records(labelling).items():
            others = digests(records)
            if learned and others and (common := shared(own["train"], learned, others)):
                raise Error(f"--tower-data: {common} are {name} clips too; name shards of other videos")
        return own["train"], own["validation"]


class Shape(NamedTuple):
    """What a model of a data set's clips must fit, known before there are any."""

    sizes: dict[str, int]
    steps: int
    categories: int
    components: bool
    clips: dict[str, int]


class Data(NamedTuple):
    """A data set's clips by split."""

    train: Dataset
    validation: Dataset
    test: Dataset
    features: FeatureSet
    labelling: Labelling


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set of a suite; ``what`` is special about it, in a few words."""

    name: str
    what: str
    redrawn: ClassVar[bool] = False
    """Whether each seed has clips of its own."""
    youtube8m: ClassVar[bool] = False
    """Whether the clips' ids are those of YouTube-8M's videos."""

    def shape(self, inputs: Inputs) -> Shape:
        raise NotImplementedError

    def ready(self, folder: Path) -> bool:
        raise NotImplementedError

    def make(self, folder: Path, inputs: Inputs, seed: int, progress: Progress) -> None:
        raise NotImplementedError

    def open(self, folder: Path, inputs: Inputs) -> Data:
        raise NotImplementedError

    def related(self, folder: Path, seed: int, clips: int) -> Bool[np.ndarray, "clip"] | None:
        """Of each test clip, whether its sound belongs to its picture; None where that is unknown."""
        return None


@dataclass(frozen=True, kw_only=True)
class RealRecords(Source):
    """Records as they are, in the shards that the user names."""

    youtube8m: ClassVar[bool] = True

    def shape(self, inputs: Inputs) -> Shape:
        data = self.open(Path(), inputs)
        clips = {name: len(getattr(data, name)) for name in ("train", "validation", "test")}
        steps = int(np.mean([data.train.clip(i).steps for i in range(min(100, len(data.train)))]).round())
        features = data.features
        return Shape(features.sizes, steps, len(data.labelling.taxonomy), features.components, clips)

    def ready(self, folder: Path) -> bool:
        return True

    def open(self, folder: Path, inputs: Inputs) -> Data:
        labelling = inputs.labelling()
        datasets = inputs.records(labelling)
        for name, dataset in datasets.items():
            _cut(dataset, inputs.clips.get(name))
        features = FeatureSet.of([path for dataset in datasets.values() for path in dataset.paths])
        return Data(**datasets, features=features, labelling=labelling)


@dataclass(frozen=True, kw_only=True)
class Mosaics(Source):
    """Frame-level clips composed from real records; the fields are those of `counterpoint.data.mosaic.Mosaic`."""

    shift: int = Mosaic.shift
    spread: int = Mosaic.spread
    stretch: float = Mosaic.stretch
    unrelated: float = Mosaic.unrelated
    same_category: float = Mosaic.same_category
    same_top: float = Mosaic.same_top
    variation: float = Mosaic.variation
    min_steps: int = Mosaic.min_steps
    max_steps: int = Mosaic.max_steps

    def shape(self, inputs: Inputs) -> Shape:
        categories = len(inputs.labelling().taxonomy)
        features = FeatureSet.of(find_shards(inputs.shards["train"]))
        steps = (self.min_steps + self.max_steps) // 2
        return Shape(features.sizes, steps, categories, features.components, CLIPS | inputs.clips)

    def ready(self, folder: Path) -> bool:
        return (folder / MOSAIC_FILE).exists()

    def make(self, folder: Path, inputs: Inputs, seed: int, progress: Progress) -> None:
        labelling = inputs.labelling()
        datasets = inputs.records(labelling)
        features = FeatureSet.of([path for dataset in datasets.values() for path in dataset.paths])
        records = {name: Records.read(dataset) for name, dataset in datasets.items()}
        clips = CLIPS | inputs.clips
        write(Mosaic(**_controls(self)), records, labelling.taxonomy, features, folder, clips, progress=progress)

    def open(self, folder: Path, inputs: Inputs) -> Data:
        return _shards(folder, inputs.labelling())

    def related(self, folder: Path, seed: int, clips: int) -> Bool[np.ndarray, "clip"] | None:
        with (folder / truth_file("test")).open(encoding="utf-8") as file:
            return np.array([json.loads(line)["sound"] is not None for line in file])


@dataclass(frozen=True, kw_only=True)
class KnownTruth(Source):
    """The clips of `counterpoint.data.synthetic`, drawn anew for each seed."""

    redrawn: ClassVar[bool] = True
    shift: int = 0
    unrelated: float = 0.0
    topics: int = 48
    min_steps: int = 30
    max_steps: int = 120

    def generator(self, seed: int) -> synthetic.SyntheticData:
        """What draws a seed's clips."""
        return synthetic.SyntheticData(seed=seed, **_controls(self))

    def shape(self, inputs: Inputs) -> Shape:
        if any(inputs.shards.values()) or inputs.taxonomy:
            raise Error("this suite generates its clips; leave --data and --taxonomy out")
        generator = self.generator(0)
        steps = (self.min_steps + self.max_steps) // 2
        clips = synthetic.CLIPS | inputs.clips
        return Shape(dict(generator.sizes), steps, len(generator.labelling.taxonomy), False, clips)

    def ready(self, folder: Path) -> bool:
        return (folder / "taxonomy" / "labels.tsv").exists()

    def make(self, folder: Path, inputs: Inputs, seed: int, progress: Progress) -> None:
        synthetic.write(self.generator(seed), folder, synthetic.CLIPS | inputs.clips, progress=progress)

    def open(self, folder: Path, inputs: Inputs) -> Data:
        return _shards(folder, load(folder / "taxonomy"))

    def related(self, folder: Path, seed: int, clips: int) -> Bool[np.ndarray, "clip"] | None:
        generator = self.generator(seed)
        return np.array([generator.clip(i, "test")[1].related for i in range(clips)])


def _controls(source: Source) -> dict[str, Any]:
    """The fields of a source that are its kind's own."""
    common = {each.name for each in fields(Source)}
    return {name: value for name, value in asdict(source).items() if name not in common}


def _shards(folder: Path, labelling: Labelling) -> Data:
    splits = {name: Dataset([folder / f"{name}-*.tfrecord"], labelling) for name in ("train", "validation", "test")}
    return Data(**splits, features=FeatureSet.of(splits["train"].paths), labelling=labelling)


def _cut(dataset: Dataset, clips: int | None) -> None:
    """Keep a random sample of a data set's clips, in their order."""
    if clips is not None and clips < len(dataset):
        kept = np.random.default_rng(0).permutation(len(dataset))[:clips]
        dataset.where = dataset.where[np.sort(kept)]
