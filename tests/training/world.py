"""A world so small that a model learns it in a second: five categories, and clips that show and sound like them.

======  =============  ======================================
label   category       what its clips show and sound like
======  =============  ======================================
10      Food:Dessert   the first video codes, the first audio code are high
11      Food:Soup      the second
20      Sport:Ball     the third
======  =============  ======================================
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from counterpoint.data.clip import Clip, TrackArray
from counterpoint.data.dataset import Dataset
from counterpoint.data.features import FeatureSet
from counterpoint.data.records import encode
from counterpoint.data.tfrecord import Shard, Writer
from counterpoint.recipes import RECIPES, HeadConfig, NetVLADFamily, Recipe, Training
from counterpoint.run import RunFolder
from counterpoint.taxonomy import Category, Label, Labelling, LabelMap, Taxonomy

torch.set_num_threads(1)

SIZES = {"audio": 8, "video": 16}
TAXONOMY = Taxonomy(
    (
        Category("food", "", "Food"),
        Category("dessert", "food", "Dessert"),
        Category("soup", "food", "Soup"),
        Category("sport", "", "Sport"),
        Category("ball", "sport", "Ball"),
    )
)
LABELLING = Labelling(
    TAXONOMY,
    LabelMap(
        (
            Label(10, "Ice cream", 700, ("dessert",)),
            Label(11, "Borscht", 600, ("soup",)),
            Label(20, "Football", 800, ("ball",)),
        ),
        TAXONOMY,
    ),
)
LABELS = (10, 11, 20)


def clip(name: str, labels: Sequence[int], **tracks: TrackArray) -> Clip:
    return Clip(name, np.array(labels, np.int64), tracks)


def codes(steps: int, size: int, value: int = 1) -> TrackArray:
    return np.full((steps, size), value, np.uint8)


def clips(count: int, seed: int = 0, prefix: str = "clip", sound: bool = True, confused: float = 0.0) -> list[Clip]:
    """Clips of 2 to 6 seconds, each with one label that its features give away, but for the share of ``confused``."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        kind = int(rng.integers(len(LABELS)))
        steps = int(rng.integers(2, 7))
        tracks = {}
        for name, size in SIZES.items():
            track = rng.integers(100, 156, (steps, size), np.uint8)
            track[:, kind * 2 : kind * 2 + 2] = 250
            if sound or name == "video":
                tracks[name] = track
        label = LABELS[int(rng.integers(len(LABELS))) if rng.random() < confused else kind]
        made.append(clip(f"{prefix}{i:03}", [label], **tracks))
    return made


def write(path: Path, *shown: Clip) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with Writer(path) as writer:
        for one in shown:
            writer.write(encode(one))
    return path


def damage(path: Path, *records: int) -> Path:
    """Flip a bit in the payload of each record."""
    content = bytearray(path.read_bytes())
    for offset in Shard(path).offsets[list(records)]:
        content[offset + 20] ^= 1
    path.write_bytes(content)
    return path


def cut(path: Path) -> Path:
    """Take away the last bytes."""
    path.write_bytes(path.read_bytes()[:-7])
    return path


def recipe(name: str = "nv-l", **training: object) -> Recipe:
    """A tiny form of a recipe."""
    settings = {"batch_size": 16, "max_epochs": 4, "learning_rate": 2e-2, **training}
    return replace(
        RECIPES[name],
        family=NetVLADFamily(clusters={"video": 2, "audio": 2, "joined": 2}, hidden=8),
        head=HeadConfig(hidden=8, dropout=0.1),
        training=Training(**settings),  # type: ignore[arg-type]
        max_steps=5,
    )


def dataset(*paths: Path, **options: object) -> Dataset:
    return Dataset(paths, LABELLING, **options)  # type: ignore[arg-type]


def run(folder: Path, **training: object) -> RunFolder:
    return RunFolder(folder, recipe(**training), LABELLING, FeatureSet(SIZES))


def trained_run(folder: Path) -> RunFolder:
    """A run with weights, drawn and not learned."""
    torch.manual_seed(0)
    made = run(folder)
    made.save()
    made.save_weights(made.build())
    return made
