"""Late, cross-modal, gated and concatenated fusion on the world whose truth is known, over seeds.

    python benchmarks/known_truth.py --out DIR [--families nv rnn] [--seeds 5]

Each world is written as shards and each model trained by the package's own `train`; finished runs are kept, so the same
command goes on where it was stopped. All variants of a family have about the same number of parameters: the head's
width makes up for F. `cm-g random` listens to a tower that was never trained. Prints GAP error in % on test clips: mean
and standard deviation over seeds (a seed draws world, tower and model anew).
"""

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from counterpoint.data import synthetic
from counterpoint.data.dataset import ClipDataset
from counterpoint.data.features import FeatureSet
from counterpoint.evaluation.breakdown import markdown
from counterpoint.evaluation.evaluate import evaluate
from counterpoint.matching import matched, parameters
from counterpoint.models.correlation import Tower
from counterpoint.recipes import (
    RECIPES,
    TOWER_RECIPES,
    AttentionClusterFamily,
    ContrastiveConfig,
    Family,
    HeadConfig,
    NetVLADFamily,
    Recipe,
    Training,
    TransformerFamily,
)
from counterpoint.run import Run
from counterpoint.taxonomy import load
from counterpoint.training.train import train

CLIPS = {"train": 1500, "validation": 300, "test": 500}
VARIANTS = ("l", "cm", "cm-g", "cm-c", "cm-g random")
WORLDS = {
    "unrelated 0, shift 0": {"unrelated": 0.0},
    "unrelated 0.25, shift 0": {"unrelated": 0.25},
    "unrelated 0.5, shift 0": {"unrelated": 0.5},
    "unrelated 0.25, shift 10": {"unrelated": 0.25, "shift": 10},
    "unrelated 0.25, shift 20": {"unrelated": 0.25, "shift": 20},
}
FAMILIES: dict[str, Family] = {
    "nv": NetVLADFamily(clusters={"video": 24, "audio": 24}, hidden=128),
    "tm": TransformerFamily(widths={"video": 64, "audio": 64}, heads=4),
    "rnn": AttentionClusterFamily(recurrence="none", widths={"video": 64, "audio": 64}, units=8, hidden=128),
}
TRAINING = Training(learning_rate=1e-3, batch_size=64, max_epochs=8)


@dataclass(frozen=True)
class Cell:
    """One world, drawn with one seed, and the models trained on it."""

    folder: Path
    seed: int
    console: Console

    def write(self, controls: dict[str, float]) -> None:
        if not (self.folder / "shards" / "taxonomy" / "labels.tsv").exists():
            world = synthetic.World(topics=48, seed=self.seed, **controls)  # type: ignore[arg-type]
            synthetic.write(world, self.folder / "shards", CLIPS)

    def run(self, family: str, variant: str) -> float:
        """The GAP error in % of a variant on the test clips, trained if it is not yet."""
        run = self._run(family, variant)
        measured = run.folder / "evaluation" / "metrics.json"
        if not measured.exists():
            if not run.trained:
                data = {
                    split: ClipDataset([self.folder / "shards" / f"{split}-*.tfrecord"], run.labelling)
                    for split in CLIPS
                }
                tower = self._tower(family, "random" in variant) if "cm-" in variant else None
                train(run, data["train"], data["validation"], tower=tower, console=self.console)
            test = ClipDataset([self.folder / "shards" / "test-*.tfrecord"], run.labelling)
            evaluate(run, test, self.console).save(measured.parent)
        return 100 * (1 - float(json.loads(measured.read_text())["overall"]["gap"]))

    def _run(self, family: str, variant: str) -> Run:
        labelling = load(self.folder / "shards" / "taxonomy")
        features = FeatureSet.of([self.folder / "shards" / "train-0000.tfrecord"])
        recipe = sized(family, variant.split()[0], features.sizes, len(labelling.taxonomy), self.seed)
        return Run(self.folder / f"{family}-{variant.replace(' ', '-')}", recipe, labelling, features)

    def _tower(self, family: str, random: bool) -> Run:
        run = self._run(family, "l")
        recipe = replace(
            TOWER_RECIPES[f"correlation-{family}"],
            family=FAMILIES[family],
            comparison=ContrastiveConfig(dropout=0.0),
            training=replace(TRAINING, seed=self.seed),
        )
        name = f"{family}-{'random-' if random else ''}tower"
        tower = Run(self.folder / name, recipe, run.labelling, run.features)
        if tower.trained:
            return tower
        if random:
            torch.manual_seed(self.seed)
            untrained = recipe.build(run.features.sizes)
            assert isinstance(untrained, Tower)
            tower.save()
            tower.save_weights(untrained)
        else:
            data = [
                ClipDataset([self.folder / "shards" / f"{s}-*.tfrecord"], run.labelling)
                for s in ("train", "validation")
            ]
            train(tower, *data, console=self.console)
        return tower


def sized(family: str, variant: str, sizes: dict[str, int], categories: int, seed: int) -> Recipe:
    """The variant with the head's width that gives it about as many parameters as cm-c at 256."""

    def recipe(name: str) -> Recipe:
        training = replace(TRAINING, seed=seed)
        return replace(RECIPES[name], family=FAMILIES[family], head=HeadConfig(hidden=256), training=training)

    def count(made: Recipe) -> int:
        tower = TOWER_RECIPES[f"correlation-{family}"] if made.fusion.tower else None
        return parameters(made, sizes, categories, tower)

    return matched(recipe(f"{family}-{variant}"), count(recipe(f"{family}-cm-c")), count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES), default=["nv", "rnn"])
    parser.add_argument("--worlds", nargs="+", choices=list(WORLDS), default=list(WORLDS))
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    console = Console(stderr=True, quiet=True)
    errors: dict[tuple[str, str, str], list[float]] = {}
    for seed in range(args.seeds):
        for world in args.worlds:
            cell = Cell(args.out / f"{world.replace(', ', '-').replace(' ', '-')}-seed-{seed}", seed, console)
            cell.write(WORLDS[world])
            for family in args.families:
                for variant in VARIANTS:
                    error = cell.run(family, variant)
                    errors.setdefault((family, world, variant), []).append(error)
                    print(f"seed {seed}  {world}  {family}-{variant}: GAP error {error:.1f} %", flush=True)
    rows = [["family", "world", *VARIANTS]]
    for family in args.families:
        for world in args.worlds:
            cells = [np.array(errors[family, world, variant]) for variant in VARIANTS]
            rows.append([family, world, *(f"{c.mean():.1f} ± {c.std(ddof=min(1, len(c) - 1)):.1f}" for c in cells)])
    print(markdown(rows))


if __name__ == "__main__":
    main()
