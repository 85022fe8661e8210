"""Does a model use its influence? GAP error where F reads its own clip's weights, and where it reads another clip's.

    python benchmarks/influence.py 'mosaic/worlds/mosaic/test-*.tfrecord' mosaic/runs/mosaic/*-cm-seed-0

The other clip has as many steps. Each modality's own weights stay the clip's, and nothing is trained again: a model
that makes no use of the influence has the same error.
"""

import argparse
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from counterpoint.data.dataset import Dataset
from counterpoint.evaluation.metrics import global_average_precision
from counterpoint.models.fusion import Influence, LazyInfluence, Weights
from counterpoint.predict import Predictor, batches
from counterpoint.run import RunFolder

own_lazy = Influence.lazy


def neighbours(steps: Tensor) -> Tensor:
    """For each clip of a batch another one of as many steps, or itself where there is none."""
    others = torch.arange(len(steps))
    for length in steps.unique():
        alike = (steps == length).nonzero().squeeze(1)
        others[alike] = alike.roll(1)
    return others


def error(run: RunFolder, dataset: Dataset, others: bool) -> float:
    """GAP error in %."""
    predictor = Predictor(run)
    scores, labels = [], []
    for batch in batches(run, dataset):
        sources = neighbours(next(iter(batch.tracks.values())).mask.sum(1))

        def lazy(influence: Influence, weights: Weights, *options: Any, sources: Tensor = sources) -> LazyInfluence:
            return own_lazy(influence, weights[sources] if others else weights, *options)

        with patch.object(Influence, "lazy", lazy):
            scores.append(predictor.probabilities(predictor.forward(batch.tracks).logits[: len(batch.ids)]))
        labels.append(batch.labels[: len(batch.ids)].numpy())
    return 100 * (1 - global_average_precision(np.concatenate(scores), np.concatenate(labels)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", help="test clips; a glob in quotes")
    parser.add_argument("runs", nargs="+", type=Path)
    args = parser.parse_args()
    print(f"{'run':30}{'own':>10}{'another':>10}")
    for folder in args.runs:
        run = RunFolder.load(folder)
        dataset = Dataset([args.shards], run.labelling)
        dataset.where = dataset.where[np.argsort(dataset.lengths, kind="stable")]  # batches of like lengths
        own, another = (error(run, dataset, others) for others in (False, True))
        print(f"{folder.name:30}{own:10.2f}{another:10.2f}", flush=True)


if __name__ == "__main__":
    main()
