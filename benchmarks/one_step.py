"""`counterpoint train` on clips of one step against a plain loop that trains the same network on the same clips.

    python benchmarks/one_step.py --train SHARDS --validation SHARDS [--recipe mean-mlp] [--epochs 6] [--repeats 3]

Both read and parse the records, train with the recipe's settings (Adam, batches, moving average of the weights) and
measure GAP on the validation clips after each epoch, one after the other in turns, in one process with one thread. The
plain loop keeps all clips as arrays and does nothing else: no checkpoints, no progress, no run folder. Printed are the
processor seconds of all and their ratio, with the smallest and largest of the repeats. Imports come before.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim import Adam

from counterpoint.data.dataset import Dataset
from counterpoint.data.features import FeatureSet
from counterpoint.data.taxonomies import load_taxonomy
from counterpoint.data.tracks import Track
from counterpoint.evaluation.metrics import global_average_precision
from counterpoint.recipes import RECIPES, Recipe
from counterpoint.run import RunFolder
from counterpoint.training.train import train


def arrays(data: Dataset) -> tuple[dict[str, Tensor], Tensor]:
    """Features by modality, (clip, 1, feature), and targets, (clip, category)."""
    items = [data[i] for i in range(len(data))]
    tracks = {
        name: torch.from_numpy(np.stack([np.asarray(clip.tracks[name], np.float32) for clip, _ in items]))
        for name in ("audio", "video")
    }
    return tracks, torch.from_numpy(np.stack([targets for _, targets in items]).astype(np.float32))


def tracks_of(features: dict[str, Tensor], rows: Tensor) -> dict[str, Track]:
    there = torch.ones(len(rows), 1, dtype=torch.bool)
    return {name: Track(of[rows], there) for name, of in features.items()}


def plain(recipe: Recipe, data: Dataset, held_out: Dataset) -> float:
    """The best validation GAP of the plain loop."""
    features, targets = arrays(data)
    others, labels = arrays(held_out)
    torch.manual_seed(0)
    model = recipe.build({name: of.shape[-1] for name, of in features.items()}, targets.shape[1], components=True)
    settings = recipe.training
    weights: Any = list(model.parameters())
    average: Any = [each.detach().clone() for each in weights]
    optimizer = Adam(weights, settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
    steps = settings.max_epochs * (len(targets) // settings.batch_size + 1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    best = 0.0
    for _ in range(settings.max_epochs):
        model.train()
        for rows in torch.randperm(len(targets)).split(settings.batch_size):
            optimizer.zero_grad()
            logits = model(tracks_of(features, rows)).logits
            (binary_cross_entropy_with_logits(logits, targets[rows], reduction="sum") / len(rows)).backward()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                torch._foreach_lerp_(average, weights, 1 - settings.averaging)
        model.eval()
        with torch.no_grad():
            trained: Any = [each.detach().clone() for each in weights]
            torch._foreach_copy_(weights, average)
            parts = [model(tracks_of(others, rows)).logits for rows in torch.arange(len(labels)).split(1024)]
            torch._foreach_copy_(weights, trained)
        best = max(best, global_average_precision(torch.cat(parts).sigmoid().numpy(), labels.numpy() > 0))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", nargs="+", required=True)
    parser.add_argument("--validation", nargs="+", required=True)
    parser.add_argument("--recipe", default="mean-mlp")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    recipe = RECIPES[args.recipe].with_({"training.max_epochs": args.epochs})
    labelling = load_taxonomy("youtube8m")
    spent: dict[str, list[float]] = {"plain": [], "counterpoint": []}
    for repeat in range(args.repeats):
        for name in ("plain", "counterpoint")[:: 1 if repeat % 2 else -1]:
            begun = time.process_time()
            data, held_out = (Dataset(shards, labelling) for shards in (args.train, args.validation))
            if name == "plain":
                plain(recipe, data, held_out)
            else:
                with tempfile.TemporaryDirectory() as folder:
                    train(RunFolder(Path(folder) / "run", recipe, labelling, FeatureSet.of(data.paths)), data, held_out)
            spent[name].append(time.process_time() - begun)
    ratios = [ours / theirs for ours, theirs in zip(spent["counterpoint"], spent["plain"], strict=True)]
    for name, seconds in spent.items():
        print(f"{name}: {median(seconds):.1f} s of processor time [{min(seconds):.1f}, {max(seconds):.1f}]")
    print(
        f"ratio: {median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}], {len(data):,} clips, {args.epochs} epochs"
    )


if __name__ == "__main__":
    main()
