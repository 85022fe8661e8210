"""Make the run that comes with the package, and its model card, from a trained one.

    python benchmarks/ship.py RUN --data SHARDS --test SHARDS --out counterpoint/shipped/youtube8m

Weights are kept in 16 bits. The figures of the card are measured on the run as it is shipped.
"""

import argparse
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from safetensors.torch import load_file, save_file

from counterpoint.data.dataset import Dataset
from counterpoint.evaluation.breakdown import table4, table5
from counterpoint.evaluation.evaluate import evaluate
from counterpoint.evaluation.robustness import RobustnessAccumulator
from counterpoint.evaluation.tower import measure, table
from counterpoint.run import ENVIRONMENT_FILE, TOWER_FOLDER, WEIGHTS_FILE, RunFolder

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

Recipe `{recipe}` (cross-modal NetVLAD; its influence F also reads the product of the correlation tower's two
embeddings) with the tower inside, {parameters:.1f} million parameters, {size:.0f} MB in 16 bits. It is one model,
distilled from five models of the same recipe (seeds 0 to 4) and trained with the same settings.

## Data and licence

YouTube-8M, 2018 release, video-level records `validate0000` to `validate0063` for training (18,654 clips), 0064 to
0071 for early stopping and calibration (2,192); the figures below are of 0072 to 0079 ({clips:,} clips). The data
set is Google's, licensed CC BY 4.0; these weights were derived from it and come under the same licence. The weights
contain no record.

## Metrics

Error rates in %, lower is better; GAP over the 20 best predictions of a clip. The mean of the five models from which it
was distilled is in `docs/results.md`. Commit {commit}.

{levels}

By top-level category, over all clips:

{tops}

Where clips lose a modality, GAP error in %:

{robustness}

The correlation tower, at the probability 0.5:

{tower}

## Limits

* It was trained on some 19,000 clips of the data set's 5.6 million: rare categories are weak, and {rare} of the 640
  have fewer than ten training clips. Train your own model on more clips.
* Labels of YouTube-8M are made by machine. They give a video's topic, not the content of each second.
* A clip is its mean over time: the order of events is lost. `counterpoint explain` shows the influence over clusters,
  and the tower's correlation by second.
* Features must be the data set's own. New videos need its extractors (`counterpoint extract --encoders youtube8m`),
  which only approximate those that made the data set.
* Probabilities were not calibrated beyond training; the threshold of 0.5 is a convention. Decisions about people
  should not rest on them.

"""


def halve(run: RunFolder, folder: Path) -> RunFolder:
    """The run in another folder with 16-bit weights, and its tower in it, without the training's environment."""
    halved = replace(run, folder=folder)
    halved.save()
    (folder / ENVIRONMENT_FILE).unlink()
    weights = {name: weight.half() for name, weight in load_file(run.folder / WEIGHTS_FILE).items()}
    save_file(weights, folder / WEIGHTS_FILE)
    if (run.folder / TOWER_FOLDER).exists():
        halve(RunFolder.load(run.folder / TOWER_FOLDER), folder / TOWER_FOLDER)
    return halved


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
    card = CARD.format(
        name=args.out.name,
        recipe=run.recipe.name,
        parameters=sum(parameter.numel() for parameter in run.categorizer().parameters()) / 1e6,
        size=size / 1e6,
        clips=len(test),
        rare=int((np.sum([data[i][1] for i in range(len(data))], 0) < FEW).sum()),
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
