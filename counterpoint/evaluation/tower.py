"""Measure correlation towers: errors, and the pairs that surprise them (Goyal et al., section 5.1)."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from counterpoint.data.dataset import Dataset
from counterpoint.data.loading import Batch
from counterpoint.data.pairs import partners
from counterpoint.data.tracks import Tracks, to_device
from counterpoint.errors import Error
from counterpoint.evaluation.breakdown import EVALUATION_FILES
from counterpoint.files import check_output_folder
from counterpoint.models.correlation import Pair, Tower
from counterpoint.predict import accelerator, batches
from counterpoint.recipes import TowerRecipe
from counterpoint.reliability import TowerReliability
from counterpoint.run import RunFolder
from counterpoint.tables import Table

CORRELATED = 0.5  # a probability from here on is the prediction 1
FALSE_PAIRS = 5  # for each clip, where a tower is measured or calibrated
SURPRISING = 10
BLOCK_PAIRS = 1 << 14  # compared at a time
HISTOGRAM_FILE, CURVE_FILE = "true-pairs.png", "negative-weight.png"


@dataclass(frozen=True)
class TowerFigures:
    """How well a tower separates true pairs from false ones, at the probability 0.5.

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
    auc_low: float
    auc_high: float
    """The AUC's 95 % interval: see `counterpoint.reliability.TowerReliability.of`."""


class Scored(NamedTuple):
    """Pairs of clips, one's track of the first modality with the other's of the second, and how probable they are."""

    modalities: Pair
    clips: Int[np.ndarray, "pair 2"]
    probability: Float[np.ndarray, "pair"]


class Surprise(NamedTuple):
    """A pair with the probability that a tower gives it: the id of the clip whose track it is, by modality."""

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


class Embedded(NamedTuple):
    """Clips that have every modality."""

    embeddings: dict[str, Float[Tensor, "clip embedding"]]
    tops: Bool[Tensor, "clip top"]
    """Their top-level categories."""


def have_all(tracks: Tracks) -> Bool[Tensor, "clip"]:
    """Which clips have every modality."""
    return torch.stack([track.mask.any(1) for track in tracks.values()]).all(0)


def embedded(tower: Tower, batch: Batch, top_level: Bool[Tensor, "category"]) -> Embedded:
    """A batch's clips that have every modality, on the CPU.

    Args:
        top_level: which categories are top-level ones.
    """
    whole = have_all(batch.tracks)
    vectors = tower.embed(to_device(batch.tracks, tower.bias.device))
    return Embedded(
        {name: vector[whole.to(vector.device)].float().cpu() for name, vector in vectors.items()},
        batch.labels[whole].cpu()[:, top_level.cpu()],
    )


def concatenated(parts: Sequence[Embedded]) -> Embedded:
    """The clips of several batches, in order."""
    embeddings = {name: torch.cat([part.embeddings[name] for part in parts]) for name in parts[0].embeddings}
    return Embedded(embeddings, torch.cat([part.tops for part in parts]))


def true_pairs(clips: int) -> Int[np.ndarray, "clip 2"]:
    """Each clip with itself."""
    return np.stack([np.arange(clips)] * 2, 1)


def raw_scores(
    tower: Tower, embeddings: dict[str, Tensor], pair: Pair, clips: Int[np.ndarray, "pair 2"]
) -> Float[Tensor, "pair"]:
    """Scores before calibration of pairs of clips, for one pair of modalities; on the CPU."""
    one, other = (embeddings[name] for name in pair)
    device = tower.bias.device
    parts = []
    for block in torch.from_numpy(clips).split(BLOCK_PAIRS):
        agreement = tower.comparison.agreement(pair, one[block[:, 0]].to(device), other[block[:, 1]].to(device))
        parts.append(tower.comparison.score(pair, agreement).cpu())
    return torch.cat(parts)


def scored_pairs(
    tower: Tower, seen: Sequence[Embedded], each: int = FALSE_PAIRS, seed: int = 0
) -> tuple[Float[Tensor, "pair"], Bool[Tensor, "pair"]]:
    """Raw scores of true and of false pairs, over all pairs of modalities, and which of them are true.

    Args:
        seen: the clips, in batches: each makes one true pair and, where possible, false ones.
        each: false pairs for each clip; see `counterpoint.data.pairs.partners`.
    """
    clips = concatenated(seen)
    kinds = ((true_pairs(len(clips.tops)), True), (partners(clips.tops.numpy(), each, seed), False))
    scores, true = [], []
    for pair in combinations(sorted(clips.embeddings), 2):
        for numbers, truth in kinds:
            scores.append(raw_scores(tower, clips.embeddings, pair, numbers))
            true.append(torch.full((len(numbers),), truth))
    return torch.cat(scores), torch.cat(true)


def measure(
    run: RunFolder, dataset: Dataset, console: Console | None = None, workers: int = 0, seed: int = 0
) -> TowerResult:
    """Measure a tower on every clip of a data set that has all its modalities.

    A true pair is a clip's own; each clip also makes up to `FALSE_PAIRS` false pairs with clips that share no top-level
    category with it. With more than two modalities, all pairs of them count.

    Args:
        console: for a progress bar; without one, nothing is printed.
        workers: processes that read ahead.
        seed: of the false pairs.

    Raises:
        Error: the run is no tower, reads other features, or the clips make no true and false pairs.
    """
    console = console or Console(quiet=True)
    tower = run.tower().to(accelerator())
    assert isinstance(run.recipe, TowerRecipe)
    top_level = torch.from_numpy(run.labelling.taxonomy.levels == 0)
    ids: list[str] = []
    seen: list[Embedded] = []
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("measuring", total=len(dataset))
        for batch in batches(run, dataset, workers=workers):
            with torch.inference_mode():
                seen.append(embedded(tower, batch, top_level))
            ids += [clip for clip, kept in zip(batch.ids, have_all(batch.tracks).tolist(), strict=True) if kept]
            progress.advance(task, len(batch.ids))
    embeddings, tops = concatenated(seen)
    false_pairs = np.unique(partners(tops.numpy(), FALSE_PAIRS, seed), axis=0)  # some are drawn twice
    if not len(false_pairs):
        raise Error(
            f"{run.folder}: no clips to measure a tower on: it takes some with {' and '.join(sorted(embeddings))} "
            "that share no top-level category"
        )
    tower, pairs = tower.cpu(), list(combinations(sorted(embeddings), 2))
    true = [score(tower, embeddings, pair, true_pairs(len(ids))) for pair in pairs]
    false = [score(tower, embeddings, pair, false_pairs) for pair in pairs]
    probability = np.concatenate([scored.probability for scored in true])
    return TowerResult(
        figures(run.recipe, probability, np.concatenate([scored.probability for scored in false]), len(ids)),
        probability,
        {"true": surprising(true, ids, +1), "false": surprising(false, ids, -1)},
    )


def score(tower: Tower, embeddings: dict[str, Tensor], pair: Pair, clips: Int[np.ndarray, "pair 2"]) -> Scored:
    """The probabilities of pairs of clips, for one pair of modalities."""
    with torch.inference_mode():
        return Scored(pair, clips, tower.calibrated(raw_scores(tower, embeddings, pair, clips)).numpy())


def figures(
    recipe: TowerRecipe, true: Float[np.ndarray, "pair"], false: Float[np.ndarray, "pair"], clips: int
) -> TowerFigures:
    """The figures of the probabilities that a recipe's tower gives to true and to false pairs.

    The area under the ROC curve, in which ties count half, is the chance that a true pair is the more probable one. The
    pairs of one clip depend on each other, so its interval is that of as many trials as there are ``clips``.
    """
    fpr, fnr = float((false >= CORRELATED).mean()), float((true < CORRELATED).mean())
    kind = torch.cat([torch.ones(len(true)), torch.zeros(len(false))]).int()
    auc = float(binary_auroc(torch.from_numpy(np.concatenate([true, false])), kind, thresholds=None))
    interval = TowerReliability.of(auc, clips)
    return TowerFigures(
        name=recipe.name,
        negative_weight=recipe.negatives.weight,
        true_pairs=len(true),
        false_pairs=len(false),
        accuracy=1 - (fpr + fnr) / 2,
        error=(fpr + fnr) / 2,
        fpr=fpr,
        fnr=fnr,
        auc=auc,
        auc_low=interval.low,
        auc_high=interval.high,
    )


def surprising(pairs: Sequence[Scored], ids: Sequence[str], sign: int) -> list[Surprise]:
    """The `SURPRISING` least probable pairs (``sign`` +1) or most probable ones (-1), of all pairs of modalities."""
    worst = [
        Surprise(float(probability[i]), {name: ids[clip] for name, clip in zip(modalities, clips[i], strict=True)})
        for modalities, clips, probability in pairs
        for i in np.argsort(sign * probability, kind="stable")[:SURPRISING]
    ]
    return sorted(worst, key=lambda surprise: sign * surprise.probability)[:SURPRISING]


def table(results: Sequence[TowerResult]) -> Table:
    """One tower a row, errors in percent."""
    rows = []
    for each in (result.figures for result in results):
        percents = (each.error, each.fpr, each.fnr, each.accuracy)
        rows.append([each.name, f"{each.negative_weight:g}", *(f"{100 * p:.1f}" for p in percents), _auc(each)])
    header = ["tower", "negative weight", "error %", "FPR %", "FNR %", "accuracy %", "AUC"]
    return Table("Correlation towers", header, rows)


def _auc(each: TowerFigures) -> str:
    return f"{each.auc:.4f} [{each.auc_low:.2f}, {each.auc_high:.2f}]" + (" chance" if each.auc_low <= 0.5 else "")


def surprising_table(result: TowerResult) -> Table:
    """The true pairs with the lowest probabilities and the false ones with the highest, as in Tables 1 to 3."""
    listed = [(kind, surprise) for kind, worst in result.surprising.items() for surprise in worst]
    modalities = sorted({name for _, surprise in listed for name in surprise.clips})
    rows = [
        [kind, f"{probability:.3f}", *(clips.get(name, "") for name in modalities)]
        for kind, (probability, clips) in listed
    ]
    header = ["pair", "probability", *(f"{name} of" for name in modalities)]
    return Table(f"Surprising pairs, {result.figures.name}", header, rows, parts=True)


def draw(results: Sequence[TowerResult], folder: Path) -> list[Path]:
    """Draw the towers' figures into a folder: PNGs, which are returned.

    The histogram of outputs on true pairs (Fig. 9) and, for several towers, errors by negative weight (Fig. 8).

    Raises:
        Error: the folder holds something that no evaluation wrote.
    """
    check_output_folder(folder, *EVALUATION_FILES)
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
    histogram = folder / HISTOGRAM_FILE
    figure.savefig(histogram, dpi=150)
    if len(results) < 2:
        return [histogram]
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    ordered = sorted((result.figures for result in results), key=lambda each: each.negative_weight)
    weights = [each.negative_weight for each in ordered]
    for name, label in (("error", "error"), ("fpr", "FPR"), ("fnr", "FNR")):
        axes.plot(weights, [100 * getattr(each, name) for each in ordered], marker="o", label=label)
    highest = 100 * max(max(each.fpr, each.fnr) for each in ordered)
    axes.set(xlabel="weight of a false pair", ylabel="%", ylim=(0, 1.1 * highest or 1))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    curve = folder / CURVE_FILE
    figure.savefig(curve, dpi=150)
    return [histogram, curve]
