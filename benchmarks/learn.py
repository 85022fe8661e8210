"""What plain probes make of a few rendered films: why `counterpoint learn` scales and solves as it does.

    python benchmarks/learn.py FOLDER          # renders films there, if they are not yet there, and extracts them

For several draws of 63, 24 and 12 films to train on, the share of further films whose deepest category is right:

* ``alike``     what `learn` does: features standardized, modalities scaled alike, logistic regression solved exactly
* ``features``  the same without scaling the modalities: what StandardScaler and LogisticRegression do
* ``adam``      as ``alike``, trained by `counterpoint train mean-linear`'s Adam, a tenth held out to stop by
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

from counterpoint.data.dataset import Dataset
from counterpoint.data.features import FeatureSet
from counterpoint.data.folds import folds
from counterpoint.media.extract import extract
from counterpoint.media.films import BELONGING, film
from counterpoint.models.categorizer import Categorizer, Standardize
from counterpoint.predict import Predictor, batches
from counterpoint.recipes import RECIPES
from counterpoint.run import RunFolder
from counterpoint.training import probe
from counterpoint.training.train import train

CATEGORIES = tuple(f"{drawing}:{sound}" for drawing in BELONGING for sound in ("Wind", "Music", "Clockwork"))
SEEDS = {"train": range(7), "test": range(100, 107)}
DRAWS = ((9, 7, 1), (3, 8, 10), (2, 6, 10))  # categories, films of each at most, draws
PENALTY = 10.0


def shards(folder: Path) -> dict[str, Path]:
    """The films of both splits as shards, rendered where they are not there."""
    for split, seeds in SEEDS.items():
        for category in CATEGORIES:
            place = folder / split / category.replace(":", "/")
            place.mkdir(parents=True, exist_ok=True)
            for seed in seeds:
                if not (path := place / f"{seed}.mp4").exists():
                    film(path, category, seed)
    extract(folder / "train", folder / "shards-train", "folders")
    taxonomy = folder / "shards-train" / "taxonomy"
    extract(folder / "test", folder / "shards-test", "folders", taxonomy)
    return {split: folder / f"shards-{split}" for split in SEEDS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    made = shards(parser.parse_args().folder)
    data = Dataset(made["train"])
    test = Dataset(made["test"], data.labelling)
    features, recipe, taxonomy = FeatureSet.of(data.paths), RECIPES["mean-linear"], data.labelling.taxonomy
    model = recipe.build(features.sizes, len(taxonomy))
    assert isinstance(model, Categorizer)
    read = model.trunk.read
    clips = {name: probe.clip_means(read, each, features, 300) for name, each in (("train", data), ("test", test))}
    leaves = np.flatnonzero(taxonomy.levels == 1)
    gains = {name: scale.gain for name, scale in read.scales.items() if isinstance(scale, Standardize)}
    print("| films | categories | draws | alike | features | adam |\n|--:|--:|--:|--:|--:|--:|")
    for categories, most, draws in DRAWS:
        random = np.random.default_rng(0)
        right: dict[str, list[float]] = {"alike": [], "features": [], "adam": []}
        for _ in range(draws):
            used = random.choice(leaves, categories, replace=False)
            of = [random.permutation(np.flatnonzero(clips["train"].labels[:, c]))[:most] for c in used]
            chosen = np.concatenate(of)
            here = np.flatnonzero(clips["test"].labels[:, used].any(1))
            for how in right:
                for name, scale in read.scales.items():
                    assert isinstance(scale, Standardize)
                    scale.gain = 1.0 if how == "features" else gains[name]
                if how == "adam":
                    logits = by_adam(clips["train"], chosen, data, test)[here]
                else:
                    probe.fit(model, clips["train"].take(chosen), PENALTY)
                    with torch.no_grad():
                        logits = model.head.network(probe.inputs(read, clips["test"].take(here))).numpy()
                truth = clips["test"].labels[here][:, used].argmax(1)
                right[how].append(float((logits[:, used].argmax(1) == truth).mean()))
        cells = " | ".join(f"{100 * np.mean(each):.1f} ± {100 * np.std(each):.1f}" for each in right.values())
        print(f"| {len(chosen)} | {categories} | {draws} | {cells} |", flush=True)


def by_adam(
    clips: probe.ClipMeans, chosen: "np.ndarray[tuple[int], np.dtype[np.int64]]", data: Dataset, test: Dataset
) -> "np.ndarray[tuple[int, int], np.dtype[np.float32]]":
    """The logits of `mean-linear` as `counterpoint train` makes it."""
    held_out = folds(clips.labels[chosen], np.arange(len(chosen)), 10) == 0
    parts = [data.only({clips.ids[i] for i in some}.__contains__) for some in (chosen[~held_out], chosen[held_out])]
    settings = {"training.max_epochs": 40, "training.stop_patience": 40, "training.batch_size": 16}
    with tempfile.TemporaryDirectory() as folder:
        recipe = RECIPES["mean-linear"].with_(settings)
        run = RunFolder(Path(folder) / "run", recipe, data.labelling, FeatureSet.of(data.paths))
        train(run, *parts)
        predictor = Predictor(run)
        found = [predictor.forward(batch.tracks).logits[: len(batch.ids)] for batch in batches(run, test)]
        return torch.cat(found).numpy()


if __name__ == "__main__":
    main()
