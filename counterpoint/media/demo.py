"""The end of the demo: real video files of nine categories, rendered here, learned from most and told of the rest."""

import dataclasses
import os
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console

from counterpoint.data.dataset import Dataset
from counterpoint.data.features import FeatureSet
from counterpoint.media import encoders, labels
from counterpoint.media import films as render
from counterpoint.media.extract import extract, find
from counterpoint.predict import Predictor
from counterpoint.recipes import RECIPES, TOWER_RECIPES, ContrastiveConfig, HeadConfig, NetVLADFamily, Training
from counterpoint.run import RunFolder
from counterpoint.training.train import train

SPLITS = {"train": range(5), "validation": range(5, 7), "test": range(7, 9)}
"""Seeds of each category's films."""
FAMILY = NetVLADFamily(clusters={"video": 8, "audio": 8}, hidden=256)
TOWER = dataclasses.replace(
    TOWER_RECIPES["correlation-nv"],
    family=FAMILY,
    comparison=ContrastiveConfig(dropout=0.0),
    training=Training(learning_rate=1e-3, batch_size=15, max_epochs=15, stop_patience=15),
)
RECIPE = dataclasses.replace(
    RECIPES["nv-cm-c"],
    family=FAMILY,
    head=HeadConfig(hidden=256),
    training=Training(learning_rate=1e-3, batch_size=15, max_epochs=25, stop_patience=25),
)


class Told(NamedTuple):
    """What was said of the films that were held out."""

    run: Path
    films: list[Path]
    right: int


def films(out: Path, console: Console) -> Told:
    """Render films to ``out``/films, extract them, train on them, and categorize those that were held out."""
    folder, shards = out / "films", out / "film-shards"
    rendered = render.films(folder, SPLITS)
    console.print(f"   rendered {sum(map(len, rendered.values()))} films to {folder}")
    lite = encoders.build("lite")
    console.print(f"   extracting their features by {lite.features.encoder} to {shards}")
    of = labels.read(folder / "labels.csv")
    extract(find([folder]), shards, lite, of, workers=os.cpu_count() or 1)
    data = {split: Dataset([shards], of.labelling, keep=partial(_in, f"{split}/")) for split in SPLITS}
    features, quiet = FeatureSet.of(data["train"].paths), Console(quiet=True)
    tower = RunFolder(out / "films-tower", TOWER, of.labelling, features)
    run = RunFolder(out / "films-nv-cm-c", RECIPE, of.labelling, features)
    console.print(f"   training {tower.folder.name} and {run.folder.name}")
    train(tower, data["train"], data["validation"], console=quiet)
    train(run, data["train"], data["validation"], tower=tower, console=quiet)

    leaves = np.flatnonzero(of.labelling.taxonomy.levels == 1)
    right = sum(
        int((said.probabilities[:, leaves].argmax(1) == said.labels[:, leaves].argmax(1)).sum())
        for said in Predictor(run).predict(data["test"])
    )
    return Told(run.folder, rendered["test"], right)


def _in(folder: str, clip_id: str) -> bool:
    return clip_id.startswith(folder)
