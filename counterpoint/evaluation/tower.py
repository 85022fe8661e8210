"""Measure correlation towers: errors, and the pairs that surprise them (Goyal et al., section 5.1)."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress
from torchmetrics.functional.classification import binary_auroc

from counterpoint.data.dataset import Dataset
from counterpoint.data.pairs import partners
from counterpoint.data.tracks import to_device
from counterpoint.errors import Error
from counterpoint.models.correlation import Pair, Tower
from counterpoint.predict import accelerator, batches
from counterpoint.recipes import TowerRecipe
from counterpoint.run import RunFolder

CORRELATED = 0.5  # a probability from here on is the prediction 1
FALSE_PAIRS = 5  # for each clip
SURPRISING = 10
BLOCK_PAIRS = 1 << 14  # compared at a time


@dataclass(frozen=True)
class TowerFigures:
    """How well a tower tells true pairs from false ones, at the probability 0.5.

    True and false pairs weigh half each in ``accuracy`` and ``error``, however many there are of either.
    """

    name: str
    negative_weight: float
    true_pairs: int
    false_pairs: int
    accuracy: float
    error: float
    fpr: float
    fnr: float
    auc: float


class Scored(NamedTuple):
    """Pairs of clips, one's track of the first modality with the other's of the second, and how probable they are."""

    modalities: Pair
    clips: Int[np.ndarray, "pair 2"]
    probability: Float[np.ndarray, "pair"]


class Surprise(NamedTuple):
    """A pair by what a tower makes of it: whose track of which modality."""

    probability: float
    clips: dict[str, str]


@dataclass(frozen=True)
class TowerResult:
    """Figures, the probabilities of true pairs, and the pairs of both kinds that surprise most, the worst first."""

    figures: TowerFigures
    true: Float[np.ndarray, "pair"]
    surprising: dict[str, list[Surprise]]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        listed = {kind: [surprise._asdict() for surprise in worst] for kind, worst in self.surprising.items()}
        return asdict(self.figures) | {"surprising": listed}


def measure(run: RunFolder, dataset: Dataset, console: Console, workers: int = 0, seed: int = 0) -> TowerResult:
    """Measure a tower on every clip of a data set that has all its modalities.

    A true pair is a clip's own; each clip also makes up to `FALSE_PAIRS` false pairs with clips that share no top-level
    category with it, drawn with ``seed``. With more than two modalities, all pairs of them count.

    Raises:
        Error: the run is no tower, reads other features, or the clips make no true and false pairs.
    """
    device = accelerator()
    tower = run.tower().to(device)
    assert isinstance(run.recipe, TowerRecipe)
    tops = run.labelling.taxonomy.levels == 0
    ids: list[str] = []
    labels: list[np.ndarray[Any, Any]] = []
    embedded: list[dict[str, torch.Tensor]] = []
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("measuring", total=len(dataset))
        for batch in batches(run, dataset, workers=workers):
            whole = torch.stack([track.mask.any(1) for track in batch.tracks.values()]).all(0)
            with torch.inference_mode():
                vectors = tower.embed(to_device(batch.tracks, device))
            embedded.append({name: vector.cpu()[whole] for name, vector in vectors.items()})
            ids += [clip for clip, kept in zip(batch.ids, whole.tolist(), strict=True) if kept]
            labels.append(batch.labels[whole].numpy()[:, tops])
            progress.advance(task, len(batch.ids))
    embeddings = {name: torch.cat([batch[name] for batch in embedded]) for name in embedded[0]}
    itself = np.stack([np.arange(len(ids))] * 2, 1)
    others = np.unique(partners(np.concatenate(labels), FALSE_PAIRS, seed), axis=0)  # some are drawn twice
    if not len(others):
        raise Error(
            f"{run.folder}: no clips to measure a tower on: it takes some with {' and '.join(sorted(embeddings))} "
            "that share no top-level category"
        )
    tower = tower.cpu()
    true = [score(tower, embeddings, pair, itself) for pair in combinations(sorted(embeddings), 2)]
    false = [score(tower, embeddings, pair, others) for pair in combinations(sorted(embeddings), 2)]
    probability = np.concatenate([scored.probability for scored in true])
    return TowerResult(
        figures(run.recipe, probability, np.concatenate([scored.probability for scored in false])),
        probability,
        {"true": surprising(true, ids, +1), "false": surprising(false, ids, -1)},
    )


def score(tower: Tower, embeddings: dict[str, torch.Tensor], pair: Pair, clips: Int[np.ndarray, "pair 2"]) -> Scored:
    """How probable pairs of clips are for one pair of modalities."""
    one, other = (embeddings[name] for name in pair)
    parts = []
    with torch.inference_mode():
        for block in torch.from_numpy(clips).split(BLOCK_PAIRS):
            agreement = tower.comparison.agreement(pair, one[block[:, 0]], other[block[:, 1]])
            parts.append(tower.calibrated(tower.comparison.score(pair, agreement)))
    return Scored(pair, clips, torch.cat(parts).numpy())


def figures(recipe: TowerRecipe, true: Float[np.ndarray, "pair"], false: Float[np.ndarray, "pair"]) -> TowerFigures:
    """The figures of the probabilities that a recipe's tower gives to true and to false pairs.

    The area under the ROC curve, in which ties count half, is the chance that a true pair is the more probable one.
    """
    fpr, fnr = float((false >= CORRELATED).mean()), float((true < CORRELATED).mean())
    kind = torch.cat([torch.ones(len(true)), torch.zeros(len(false))]).int()
    return TowerFigures(
        name=recipe.name,
        negative_weight=recipe.negatives.weight,
        true_pairs=len(true),
        false_pairs=len(false),
        accuracy=1 - (fpr + fnr) / 2,
        error=(fpr + fnr) / 2,
        fpr=fpr,
        fnr=fnr,
        auc=float(binary_auroc(torch.from_numpy(np.concatenate([true, false])), kind, thresholds=None)),
    )


def surprising(pairs: Sequence[Scored], ids: Sequence[str], sign: int) -> list[Surprise]:
    """The `SURPRISING` least probable pairs (``sign`` +1) or most probable ones (-1), of all pairs of modalities."""
    worst = [
        Surprise(float(probability[i]), {name: ids[clip] for name, clip in zip(modalities, clips[i], strict=True)})
        for modalities, clips, probability in pairs
        for i in np.argsort(sign * probability, kind="stable")[:SURPRISING]
    ]
    return sorted(worst, key=lambda surprise: sign * surprise.probability)[:SURPRISING]


def table(results: Sequence[TowerResult]) -> list[list[str]]:
    """One tower a row, errors in percent; a header first."""
    rows = [["tower", "negative weight", "error %", "FPR %", "FNR %", "accuracy %", "AUC"]]
    for told in (result.figures for result in results):
        percents = (told.error, told.fpr, told.fnr, told.accuracy)
        rows.append([told.name, f"{told.negative_weight:g}", *(f"{100 * p:.1f}" for p in percents), f"{told.auc:.4f}"])
    return rows


def surprising_table(result: TowerResult) -> list[list[str]]:
    """The true pairs that seem the least correlated, and the false ones that seem the most; a header first.

    As in the paper's Tables 1 to 3.
    """
    listed = [(kind, surprise) for kind, worst in result.surprising.items() for surprise in worst]
    modalities = sorted({name for _, surprise in listed for name in surprise.clips})
    rows = [["pair", "probability", *(f"{name} of" for name in modalities)]]
    for kind, (probability, clips) in listed:
        rows.append([kind, f"{probability:.3f}", *(clips.get(name, "") for name in modalities)])
    return rows


def draw(results: Sequence[TowerResult], folder: Path) -> list[Path]:
    """The histogram of outputs on true pairs (Fig. 9) and, for several towers, errors by negative weight (Fig. 8)."""
    folder.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    for result in results:
        label = f"{result.figures.name}, weight {result.figures.negative_weight:g}"
        axes.hist(result.true, np.linspace(0, 1, 41).tolist(), histtype="step", linewidth=1.5, label=label)
    axes.axvline(CORRELATED, color="0.6", linestyle=":")
    axes.set(xlabel="probability of belonging together", ylabel="true pairs", xlim=(0, 1))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left")  # the bars of a good tower stand on the right
    histogram = folder / "true-pairs.png"
    figure.savefig(histogram, dpi=150)
    if len(results) < 2:
        return [histogram]
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    ordered = sorted((result.figures for result in results), key=lambda told: told.negative_weight)
    weights = [told.negative_weight for told in ordered]
    for name, label in (("error", "error"), ("fpr", "FPR"), ("fnr", "FNR")):
        axes.plot(weights, [100 * getattr(told, name) for told in ordered], marker="o", label=label)
    highest = 100 * max(max(told.fpr, told.fnr) for told in ordered)
    axes.set(xlabel="weight of a false pair", ylabel="%", ylim=(0, 1.1 * highest or 1))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    curve = folder / "negative-weight.png"
    figure.savefig(curve, dpi=150)
    return [histogram, curve]
