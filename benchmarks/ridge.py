"""A trained run against closed-form ridge regression on the same video-level records and categories.

    python benchmarks/ridge.py RUN [RUN ...] --train SHARDS --validation SHARDS --test SHARDS

Ridge regression sees the means of all modalities side by side and a constant; its penalty is the best on validation.
Prints GAP over the 20 best predictions of each clip, and the difference with its paired bootstrap interval.
"""

import argparse

import numpy as np
from jaxtyping import Bool, Float

from counterpoint.data.clip import present
from counterpoint.data.dataset import Dataset
from counterpoint.evaluation.bootstrap import paired_gap_difference
from counterpoint.evaluation.metrics import global_average_precision
from counterpoint.predict import Predictor
from counterpoint.run import RunFolder

PENALTIES = (10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0)


def arrays(dataset: Dataset) -> tuple[Float[np.ndarray, "clip feature"], Bool[np.ndarray, "clip category"]]:
    """Each clip's features, the mean over its steps where it has several, and its targets."""
    items = [dataset[i] for i in range(len(dataset))]
    names = sorted({name for clip, _ in items for name in clip.tracks})
    rows = []
    for clip, _ in items:
        means = [clip.tracks[name][present(clip.tracks[name])].mean(0, dtype=np.float64) for name in names]
        rows.append(np.concatenate([*means, [1.0]]))
    return np.stack(rows), np.stack([targets for _, targets in items])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+")
    for split in ("train", "validation", "test"):
        parser.add_argument(f"--{split}", nargs="+", required=True)
    args = parser.parse_args()

    runs = [RunFolder.load(folder) for folder in args.runs]
    data = {split: Dataset(getattr(args, split), runs[0].labelling) for split in ("train", "validation", "test")}
    features, targets = arrays(data["train"])
    gram, cross = features.T @ features, features.T @ targets
    held_features, held_targets = arrays(data["validation"])
    best, weights = -1.0, np.empty(0)
    for penalty in PENALTIES:
        solved = np.linalg.solve(gram + penalty * np.eye(len(gram)), cross)
        gap = global_average_precision((held_features @ solved).astype(np.float32), held_targets)
        if gap > best:
            best, weights, chosen = gap, solved, penalty
    test_features, labels = arrays(data["test"])
    ridge = (test_features @ weights).astype(np.float32)
    print(f"{len(features):,} training clips, {len(labels):,} test clips, {labels.shape[1]} categories")
    print(f"ridge (penalty {chosen:g})  GAP@20 {global_average_precision(ridge, labels):.4f}")
    gaps = []
    for run in runs:
        scores = np.concatenate([predictions.probabilities for predictions in Predictor(run).predict(data["test"])])
        gaps.append(global_average_precision(scores, labels))
        difference, low, high = paired_gap_difference(scores, ridge, labels)
        print(f"{run.folder}  GAP@20 {gaps[-1]:.4f}  {difference:+.4f} [{low:+.4f}, {high:+.4f}] against ridge")
    if len(gaps) > 1:
        print(f"mean {np.mean(gaps):.4f}, standard deviation {np.std(gaps, ddof=1):.4f} over {len(gaps)} runs")


if __name__ == "__main__":
    main()
