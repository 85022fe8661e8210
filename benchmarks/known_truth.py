"""Late, cross-modal, gated and concatenated fusion on the world whose truth is known, over seeds.

    python benchmarks/known_truth.py --out DIR [--families nv rnn tm] [--worlds "unrelated 0, shift 0" ...] [--seeds 5]

Each world is written as shards and each model trained by the package's own `train`; finished runs are kept, so the same
command goes on where it was stopped. All variants of a family have about the same number of parameters: the head's
width makes up for F. `cm-g random` listens to a tower that was never trained and has half of its gates open. Prints
GAP error in % on test clips, mean and standard deviation over seeds (a seed draws world, tower and model anew), of all
clips and then of those whose sound is related to the picture and those whose sound is not; and of each trained tower
its AUC between true and false pairs, and the shares of related and of unrelated clips in which its gate is open.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from counterpoint.data import synthetic
from counterpoint.data.dataset import ClipDataset
from counterpoint.data.features import FeatureSet
from counterpoint.evaluation.breakdown import markdown
from counterpoint.evaluation.metrics import global_average_precision
from counterpoint.evaluation.tower import CORRELATED, measure
from counterpoint.matching import matched, parameters
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
from counterpoint.run import Run, write_json
from counterpoint.taxonomy import load
from counterpoint.training.train import train

CLIPS = {"train": 3000, "validation": 400, "test": 500}
KINDS = ("all", "related", "unrelated")
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
    "tm": TransformerFamily(widths={"video": 64, "audio": 64}, heads=2),
    "rnn": AttentionClusterFamily(recurrence="none", widths={"video": 64, "audio": 64}, units=8, hidden=128),
}
TRAINING = Training(learning_rate=1e-3, batch_size=64, max_epochs=8)
TOWER_EPOCHS = 20  # it has one bit to learn from where a categorizer has a clip's labels


@dataclass(frozen=True)
class Cell:
    """One world, drawn with one seed, and the models trained on it."""

    folder: Path
    world: synthetic.World
    console: Console

    def write(self) -> None:
        if not (self.folder / "shards" / "taxonomy" / "labels.tsv").exists():
            synthetic.write(self.world, self.folder / "shards", CLIPS)

    @cached_property
    def related(self) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
        """Of each test clip, whether its sound has to do with its picture."""
        return np.array([self.world.clip(i, "test")[1].related for i in range(CLIPS["test"])])

    def errors(self, family: str, variant: str) -> dict[str, float]:
        """GAP errors in % of a variant, trained if it is not yet, by `KINDS` of test clips that there are."""
        run = self._run(family, variant)
        if not run.trained:
            tower = self.tower(family, random="random" in variant) if "cm-" in variant else None
            train(run, self._clips("train"), self._clips("validation"), tower=tower, console=self.console)
        measured = run.folder / "evaluation" / "known-truth.json"
        if not measured.exists():
            batches = list(run.predict(self._clips("test")))
            scores, labels = (np.concatenate([batch[i] for batch in batches]) for i in (1, 2))
            kinds = zip(KINDS, (np.full(len(scores), True), self.related, ~self.related), strict=True)
            errors = {
                kind: 100 * (1 - global_average_precision(scores[clips], labels[clips], top=20))
                for kind, clips in kinds
                if clips.any()
            }
            measured.parent.mkdir(exist_ok=True)
            write_json(measured, errors)
        found: dict[str, float] = json.loads(measured.read_text())
        return found

    def tower(self, family: str, random: bool = False) -> Run:
        """The tower of a family, trained if it is not yet, or the control that never is."""
        recipe = TOWER_RECIPES[f"correlation-{family}{'-random' if random else ''}"]
        training = replace(TRAINING, seed=self.world.seed, max_epochs=0 if random else TOWER_EPOCHS)
        recipe = replace(recipe, family=FAMILIES[family], comparison=ContrastiveConfig(dropout=0.0), training=training)
        run = self._run(family, "l")
        tower = replace(run, folder=self.folder / f"{family}-{'random-' if random else ''}tower", recipe=recipe)
        if not tower.trained:
            train(tower, self._clips("train"), self._clips("validation"), console=self.console)
        return tower

    def judge(self, family: str) -> tuple[float, ...]:
        """The trained tower's AUC, and the shares of open gates in clips with related and with unrelated sound."""
        result = measure(self.tower(family), self._clips("test"), self.console)
        opened = result.true >= CORRELATED
        shares = (opened[kind].mean() if kind.any() else np.nan for kind in (self.related, ~self.related))
        return result.figures.auc, *shares

    def _clips(self, split: str) -> ClipDataset:
        return ClipDataset([self.folder / "shards" / f"{split}-*.tfrecord"], load(self.folder / "shards" / "taxonomy"))

    def _run(self, family: str, variant: str) -> Run:
        labelling = load(self.folder / "shards" / "taxonomy")
        features = FeatureSet.of([self.folder / "shards" / "train-0000.tfrecord"])
        recipe = sized(family, variant.split()[0], features.sizes, len(labelling.taxonomy), self.world.seed)
        return Run(self.folder / f"{family}-{variant.replace(' ', '-')}", recipe, labelling, features)


def sized(family: str, variant: str, sizes: dict[str, int], categories: int, seed: int) -> Recipe:
    """The variant with the head's width that gives it about as many parameters as cm-c at 256."""

    def recipe(name: str) -> Recipe:
        training = replace(TRAINING, seed=seed)
        return replace(RECIPES[name], family=FAMILIES[family], head=HeadConfig(hidden=256), training=training)

    def count(made: Recipe) -> int:
        tower = TOWER_RECIPES[f"correlation-{family}"] if made.fusion.tower else None
        return parameters(made, sizes, categories, tower)

    return matched(recipe(f"{family}-{variant}"), count(recipe(f"{family}-cm-c")), count)


def spread(values: Sequence[float], digits: int) -> str:
    """Mean and standard deviation; empty where there is nothing to tell.

    >>> spread([1.0, 3.0], 1)
    '2.0 ± 1.4'
    """
    array = np.array(values)
    if np.isnan(array).any():
        return ""
    return f"{array.mean():.{digits}f} ± {array.std(ddof=min(1, len(array) - 1)):.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--worlds", nargs="+", choices=list(WORLDS), default=list(WORLDS))
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    console = Console(stderr=True, quiet=True)
    torch.set_num_threads(1)
    errors: dict[tuple[str, str, str, str], list[float]] = {}
    towers: dict[tuple[str, str], list[tuple[float, ...]]] = {}
    for seed in range(args.seeds):
        for name in args.worlds:
            world = synthetic.World(topics=48, seed=seed, min_steps=30, max_steps=120, **WORLDS[name])  # type: ignore[arg-type]
            cell = Cell(args.out / f"{name.replace(', ', '-').replace(' ', '-')}-seed-{seed}", world, console)
            cell.write()
            for family in args.families:
                for variant in VARIANTS:
                    found = cell.errors(family, variant)
                    for kind, error in found.items():
                        errors.setdefault((family, name, kind, variant), []).append(error)
                    print(f"seed {seed}  {name}  {family}-{variant}: GAP error {found['all']:.1f} %", flush=True)
                towers.setdefault((family, name), []).append(cell.judge(family))
    rows = [["family", "world", "clips", *VARIANTS, "tower's AUC", "gate open, related", "unrelated"]]
    for family, name in towers:
        gates = [spread(column, 2) for column in zip(*towers[family, name], strict=True)]
        for kind in KINDS if (family, name, KINDS[-1], VARIANTS[0]) in errors else KINDS[:1]:
            cells = [spread(errors[family, name, kind, variant], 1) for variant in VARIANTS]
            rows.append([family, name, kind, *cells, *(gates if kind == KINDS[0] else [""] * len(gates))])
    print(markdown(rows))


if __name__ == "__main__":
    main()
