"""What training a tower prints and keeps about how far its verdicts can be trusted."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from counterpoint.data.clip import Clip
from counterpoint.data.features import FeatureSet
from counterpoint.evaluation.tower import measure
from counterpoint.recipes import TOWER_RECIPES, ContrastiveConfig, NetVLADFamily, TowerRecipe, Training
from counterpoint.reliability import TowerReliability, wilson
from counterpoint.run import RunFolder
from counterpoint.training.train import train

from .world import LABELLING, SIZES, clips, dataset, recipe, write

THREE = {**SIZES, "text": 8}


def tower_recipe(epochs: int, modalities: int = 2) -> TowerRecipe:
    return replace(
        TOWER_RECIPES["correlation-nv"],
        family=NetVLADFamily(clusters=dict.fromkeys(["video", "audio", "text"][:modalities], 2), hidden=16),
        comparison=ContrastiveConfig(dropout=0.0),
        training=Training(batch_size=16, max_epochs=epochs, learning_rate=1e-2),
        max_steps=5,
    )


def swapped(made: list[Clip], seed: int) -> list[Clip]:
    """The clips, each with the sound of any of them."""
    order = np.random.default_rng(seed).permutation(len(made))
    steps = [min(len(made[i].tracks["video"]), len(made[j].tracks["audio"])) for i, j in enumerate(order)]
    return [
        replace(each, tracks={"video": each.tracks["video"][:n], "audio": made[j].tracks["audio"][:n]})
        for each, j, n in zip(made, order, steps, strict=True)
    ]


def fit(run: RunFolder, shards: tuple[Path, Path], tower: RunFolder | None = None) -> str:
    """Train; what it prints."""
    output = Console(file=io.StringIO(), width=400)
    train(run, *map(dataset, shards), tower=tower, console=output)
    return output.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def shards_of(folder: Path, swap: bool) -> tuple[Path, Path]:
    both = (clips(64), clips(48, seed=1, prefix="val"))
    made = [swapped(each, seed) for seed, each in enumerate(both)] if swap else both
    return write(folder / "train.tfrecord", *made[0]), write(folder / "validation.tfrecord", *made[1])


@pytest.mark.parametrize("swap", [False, True])
def test_a_tower_keeps_its_auc_and_warns_where_it_is_chance(tmp_path: Path, swap: bool) -> None:
    """A tower of sound that belongs to the picture, and one of sound that is any clip's."""
    shards = shards_of(tmp_path, swap)
    tower = RunFolder(tmp_path / "tower", tower_recipe(4), LABELLING, FeatureSet(SIZES))
    printed = fit(tower, shards)
    kept = json.loads((tower.folder / "kept.json").read_text())
    found = tower.tower_reliability
    assert found == TowerReliability(kept["validation_auc"], *wilson(kept["validation_auc"] * 48, 48), 48)
    assert found.is_chance == swap == ("may be no better than chance" in printed)

    gated = RunFolder(tmp_path / "gated", recipe("nv-cm-c", max_epochs=1), LABELLING, FeatureSet(SIZES))
    printed = fit(gated, shards, tower)
    assert (f"{tower.folder}: this tower may be no better than chance ({found})" in printed) == swap
    assert gated.tower_reliability == found
    assert gated.chance_tower == swap


def test_a_tower_that_was_killed_after_its_last_epoch_keeps_its_auc(tmp_path: Path) -> None:
    """The call that goes on measures nothing anew."""
    shards = shards_of(tmp_path, swap=False)
    tower = RunFolder(tmp_path / "tower", tower_recipe(4), LABELLING, FeatureSet(SIZES))
    fit(tower, shards)
    whole = (tower.folder / "auc.json").read_text()
    for name in ("auc.json", "weights.safetensors"):
        (tower.folder / name).unlink()
    assert "going on from the last checkpoint" in fit(tower, shards)
    assert (tower.folder / "auc.json").read_text() == whole


def test_pairs_of_one_clip_count_once(tmp_path: Path) -> None:
    """Three modalities make three true pairs of a clip, which depend on each other."""
    made = [replace(each, tracks={**each.tracks, "text": each.tracks["audio"]}) for each in clips(48)]
    shard = write(tmp_path / "clips.tfrecord", *made)
    tower = RunFolder(tmp_path / "tower", tower_recipe(1, modalities=3), LABELLING, FeatureSet(THREE))
    fit(tower, (shard, shard))
    assert tower.tower_reliability is not None
    assert tower.tower_reliability.pairs == 48
    measured = measure(tower, dataset(shard)).figures
    assert measured.true_pairs == 3 * 48
    assert (measured.auc_low, measured.auc_high) == wilson(measured.auc * 48, 48)
