"""Make the run that comes with the package, and its model card, from a trained one.

    python benchmarks/ship.py RUN --data SHARDS --test SHARDS --out counterpoint/shipped/youtube8m

Weights are kept in 16 bits. The figures of the card are measured on the run as it is shipped.
"""

import argparse
import shutil
import subprocess
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from rich.console import Console
from safetensors.torch import load_file, save_file

from counterpoint.data.dataset import Dataset
from counterpoint.evaluation.breakdown import table4, table5
from counterpoint.evaluation.evaluate import evaluate
from counterpoint.evaluation.robustness import RobustnessAccumulator
from counterpoint.evaluation.tower import measure, table
from counterpoint.models.heads import MLPAndResidualHead
from counterpoint.predict import Predictor
from counterpoint.recipes import Recipe
from counterpoint.reliability import RELIABILITY_FILE
from counterpoint.run import (
    ENVIRONMENT_FILE,
    TOWER_FOLDER,
    TRAINED_ON_FILE,
    UNTRAINED_FILE,
    WEIGHTS_FILE,
    RunFolder,
)

FEW = 10  # clips of a category
LIMIT = 30e6  # bytes, all files together

CARD = """# {name}: a categorizer for YouTube-8M's features

A compact model to start with. It reads YouTube-8M's features (video 1024, audio 128; video-level records, or
frame-level ones, whose steps it averages) and predicts the 640 categories of the shipped taxonomy.

```
counterpoint categorize youtube8m clips.tfrecord
counterpoint evaluate youtube8m --data 'yt8m/validate007[2-9].tfrecord'
```

## The model

Two plain networks on averaged, damped features, whose logits are averaged: `mean-mlp` with {hidden:,} hidden
features and `mean-residual` with two blocks of 1,024; with the tower {parameters:.1f} million parameters, {size:.0f} MB
in 16 bits. A parent is raised to its most probable child, probabilities are calibrated, and each category has a
threshold. There is no attention in it: the cross-modal NetVLADs of version 0.1, on half of the clips, are worse
(`docs/results.md`), and none was trained on these. A correlation tower (`correlation-nv`) stands beside it, by
which `categorize` and the page show whether sound and picture belong together.

```
counterpoint train mean-mlp --taxonomy youtube8m --data TRAIN --validation STOP --out mlp \\
    --head.hidden {hidden} --training.max-epochs 11 --training.modality-dropout 0.1
counterpoint train mean-residual --taxonomy youtube8m --data TRAIN --validation STOP --out residual \\
    --training.max-epochs 13 --training.modality-dropout 0.1 --training.seed 1
counterpoint ensemble mlp residual --merge --tower TOWER --data STOP --out one
python benchmarks/ship.py one --data TRAIN --test TEST --out youtube8m
```

With more shards the same commands make a better model.

## Data and licence

YouTube-8M, 2018 release, video-level records: `validate0000` to `validate0063` and `validate0080` to
`validate0139` for training ({trained:,} clips; the tower: 0000 to 0063 alone), 0064 to 0071 for stopping,
calibration and thresholds (2,192); the figures below are of 0072 to 0079 ({clips:,} clips). 0140 to 0149 were never
used. `trained-on.npz` has digests of the training clips, by which `evaluate` finds them in other data. The data set
is Google's, licensed CC BY 4.0; these weights were derived from it and come under the same licence. The weights
contain no record.

## Metrics

Error rates in %, lower is better; GAP over the 20 best predictions of a clip. One run of each network, on two cores of
an AMD EPYC; commit {commit}. Version 0.1 shipped five cross-modal NetVLADs distilled into one, trained on half of these
clips, with a GAP error of 25.72.

{levels}

By top-level category, over all clips:

{tops}

MAP error by the training clips of a category:

{frequency}

Where clips lose a modality, GAP error in %:

{robustness}

The correlation tower, at the probability 0.5:

{tower}

One core takes {milliseconds:.1f} ms a clip in batches of 64.

## Limits

* It was trained on some 36,000 clips of the data set's 5.6 million: rare categories are weak, and {rare} of the 640
  have fewer than ten training clips. Train your own model on more clips.
* Labels of YouTube-8M are made by machine. They give a video's topic, not the content of each second.
* A clip is its mean over time: the order of events is lost. `counterpoint explain` has no weights over time to show,
  only the tower's correlation by second and the answers without a modality.
* Features must be the data set's own. New videos need its extractors (`counterpoint extract --encoders youtube8m`),
  which only approximate those that made the data set.
* Probabilities are calibrated on clips of the data set, not on yours. Decisions about people should not rest on them.
"""


def halve(run: RunFolder, folder: Path) -> RunFolder:
    """The run in another folder with 16-bit weights, and its tower in it, without the training's environment."""
    halved = replace(run, folder=folder)
    halved.save()
    (folder / ENVIRONMENT_FILE).unlink()
    weights = {name: weight.half() for name, weight in load_file(run.folder / WEIGHTS_FILE).items()}
    save_file(weights, folder / WEIGHTS_FILE)
    for name in (RELIABILITY_FILE, TRAINED_ON_FILE, UNTRAINED_FILE):
        if (run.folder / name).exists():
            shutil.copyfile(run.folder / name, folder / name)
    if (run.folder / TOWER_FOLDER).exists():
        halve(RunFolder.load(run.folder / TOWER_FOLDER), folder / TOWER_FOLDER)
    return halved


def frequency_table(run: RunFolder, test: Dataset, counts: Int[np.ndarray, "category"]) -> str:
    """MAP error by the training clips of a category, over the 20 best predictions of each clip."""
    scores, labels = [], []
    for predictions in Predictor(run).predict(test):
        order = np.argsort(-predictions.probabilities, 1)[:, :20]
        best = np.zeros_like(predictions.probabilities)
        np.put_along_axis(best, order, np.take_along_axis(predictions.probabilities, order, 1), 1)
        scores.append(best)
        labels.append(predictions.labels > 0)
    best, truth = np.concatenate(scores), np.concatenate(labels)
    precision = np.array(
        [_average_precision(s, y) if y.any() else np.nan for s, y in zip(best.T, truth.T, strict=True)]
    )
    lines = ["| training clips | categories | MAP error |", "|---|--:|--:|"]
    for low, high in pairwise((0, 10, 30, 100, 300, 1000, 10**9)):
        here = (counts >= low) & (counts < high) & ~np.isnan(precision)
        name = f"{low:,} to {high - 1:,}" if high < 10**9 else f"{low:,} or more"
        lines.append(f"| {name} | {here.sum()} | {100 * (1 - precision[here].mean()):.1f} |")
    return "\n".join(lines)


def _average_precision(scores: Float[np.ndarray, "clip"], truth: Bool[np.ndarray, "clip"]) -> float:
    order = np.argsort(-scores, kind="stable")
    hits = truth[order[scores[order] > 0]]
    return float((np.cumsum(hits)[hits] / (np.flatnonzero(hits) + 1)).sum() / truth.sum())


def milliseconds(run: RunFolder, test: Dataset) -> float:
    """Processor time of a clip on one core, in batches of 64."""
    torch.set_num_threads(1)
    clips, predictor = test.clips(range(512)), Predictor(run)
    predictor.predict_clips(clips[:64])
    begun = time.process_time()
    for start in range(0, len(clips), 64):
        predictor.predict_clips(clips[start : start + 64])
    return 1000 * (time.process_time() - begun) / len(clips)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--data", nargs="+", required=True, help="the shards it was trained on")
    parser.add_argument("--test", nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    console = Console(stderr=True)

    run = halve(RunFolder.load(args.run), args.out)
    data = Dataset(args.data, run.labelling)
    test = Dataset(args.test, run.labelling)
    robustness = RobustnessAccumulator(list(run.features.sizes))
    breakdown = evaluate(run, test, console, robustness=robustness)
    tower = measure(RunFolder.load(run.folder / TOWER_FOLDER), test, console)
    models = [(run.recipe.name, breakdown)]
    size = sum(path.stat().st_size for path in args.out.rglob("*") if path.is_file())
    counts = np.sum([data[i][1] for i in range(len(data))], 0)
    assert isinstance(run.recipe, Recipe)
    assert isinstance(run.recipe.head, MLPAndResidualHead)
    card = CARD.format(
        hidden=run.recipe.head.mlp.hidden,
        trained=len(data),
        frequency=frequency_table(run, test, counts),
        milliseconds=milliseconds(run, test),
        name=args.out.name,
        parameters=sum(parameter.numel() for parameter in run.categorizer().parameters()) / 1e6,
        size=size / 1e6,
        clips=len(test),
        rare=int((counts < FEW).sum()),
        commit=subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip(),
        levels=table4(models).markdown(),
        tops=table5(models).markdown(),
        robustness=robustness.compute().table().markdown(),
        tower=table([tower]).markdown(),
    )
    (args.out / "README.md").write_text(card, encoding="utf-8")
    print(f"{args.out}: {size / 1e6:.1f} MB, GAP {breakdown.overall.gap:.4f}")
    if size > LIMIT:
        raise SystemExit(f"{args.out}: more than {LIMIT / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
