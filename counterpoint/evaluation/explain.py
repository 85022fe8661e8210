"""Why a model says what it says of one clip: weights over time, the correlation, and what would change its mind."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.gridspec import GridSpec
from matplotlib.ticker import MaxNLocator
from rich.console import Group
from rich.table import Table

from counterpoint.data.dataset import ClipDataset
from counterpoint.data.features import FeatureSet
from counterpoint.data.loading import collate
from counterpoint.errors import CounterpointError
from counterpoint.models.attention_cluster import AttentionCluster
from counterpoint.models.categorizer import Categorizer
from counterpoint.models.correlation import Tower
from counterpoint.models.layers import Layer, Shown, Weigher
from counterpoint.models.netvlad import NetVLAD
from counterpoint.models.track import Track, Tracks
from counterpoint.models.transformer import TransformerBlock
from counterpoint.run import Run, taken_away

ROWS = 16  # clusters, units or heads that are drawn
MISSING = "0.88"  # the grey of seconds that a modality does not have


class Words(NamedTuple):
    """What a family's pictures show."""

    row: str
    heard: str


WORDS: dict[type[Weigher], Words] = {
    NetVLAD: Words("cluster", "heard"),
    AttentionCluster: Words("attention unit", "heard"),
    TransformerBlock: Words("head", "heard (by the logits)"),
}


@dataclass(frozen=True)
class Timeline:
    """One modality's weights in the last layer, by row (a cluster, unit or head) and step."""

    words: Words
    present: Bool[np.ndarray, "step"]
    """Which seconds the modality has."""
    before: Float[np.ndarray, "row step"]
    heard: Float[np.ndarray, "row step"]
    """F's contribution: to the weights, or in a Transformer to the logits."""
    after: Float[np.ndarray, "row step"]

    @property
    def strongest(self) -> "np.ndarray[Any, Any]":
        """The numbers of the `ROWS` rows with most weight, in order."""
        weight = np.where(self.present, np.abs(self.after), 0).sum(1)
        return np.sort(np.argsort(-weight, kind="stable")[:ROWS])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        arrays = {name: getattr(self, name).tolist() for name in ("present", "before", "heard", "after")}
        return {"row": self.words.row} | arrays


@dataclass(frozen=True)
class Explanation:
    """One clip explained.

    Attributes:
        categories: path and probability of the best, best first.
        changes: for each intervention, the change of each of those probabilities.
        correlation: the tower's probability for each pair of modalities, if the model has a tower.
        per_second: the same for each second alone; None where one of the two is missing.
        timelines: by modality; early fusion joins all in one.
    """

    clip: str
    categories: list[tuple[str, float]]
    changes: dict[str, list[float]]
    correlation: dict[str, float]
    per_second: dict[str, list[float | None]]
    timelines: dict[str, Timeline]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return vars(self) | {
            "categories": [{"path": path, "probability": probability} for path, probability in self.categories],
            "timelines": {name: timeline.to_dict() for name, timeline in self.timelines.items()},
        }


def find(dataset: ClipDataset, clip: str) -> int:
    """The number of the clip with this id, which may also be a clip's number in the data set.

    Raises:
        CounterpointError: there is none.
    """
    for i in range(len(dataset)):
        if dataset.clip(i).id == clip:
            return i
    if clip.isdecimal() and int(clip) < len(dataset):
        return int(clip)
    raise CounterpointError(f"{', '.join(map(str, dataset.paths))}: no clip {clip!r}")


# --- what the model says ----------------------------------------------------------------------------------------------


def explain(run: Run, dataset: ClipDataset, index: int, other: int | None = None, top: int = 5) -> Explanation:
    """Explain a clip of a data set, in its ``top`` best categories.

    Args:
        other: a clip whose tracks are put in place of this one's, to see what that changes.

    Raises:
        CounterpointError: the run is a correlation tower, is not trained, or reads other features.
    """
    model = run.categorizer()
    run.features.check(FeatureSet.of(dataset.paths), str(run.folder))
    taxonomy = run.labelling.taxonomy
    clip = _tracks(run, dataset, index)[0]
    with torch.inference_mode():
        output = model(clip, show=True)
        said = run.probabilities(output.logits)[0]
        best = run.labelling.taxonomy.ranked(said)[:top]
        changes = {
            what: (run.probabilities(model(tracks).logits)[0] - said)[best].tolist()
            for what, tracks in _interventions(run, dataset, index, other).items()
        }
        per_second = _per_second(model, clip)
    told = output.correlation.probability if output.correlation else {}
    return Explanation(
        clip=dataset.clip(index).id,
        categories=[(taxonomy.paths[i], float(said[i])) for i in best],
        changes=changes,
        correlation={" and ".join(pair): float(probability[0]) for pair, probability in told.items()},
        per_second=per_second,
        timelines=_timelines(model, output.weights[-1], clip),
    )


def _tracks(run: Run, dataset: ClipDataset, *clips: int) -> list[Tracks]:
    """Each clip's tracks as a batch of its own, as long as the longest."""
    tracks = collate([dataset[i] for i in clips], run.features, run.recipe.max_steps).tracks
    return [
        {name: Track(track.features[i : i + 1], track.mask[i : i + 1]) for name, track in tracks.items()}
        for i in range(len(clips))
    ]


def _interventions(run: Run, dataset: ClipDataset, index: int, other: int | None) -> dict[str, Tracks]:
    """Each modality that is there taken away, and each taken from the other clip if that has it."""
    (clip,) = _tracks(run, dataset, index)
    changed = {f"without {name}": taken_away(clip, name) for name, track in clip.items() if track.mask.any()}
    if other is not None:
        clip, theirs = _tracks(run, dataset, index, other)
        whose = dataset.clip(other).id
        changed |= {f"{name} of {whose}": clip | {name: track} for name, track in theirs.items() if track.mask.any()}
    return changed


def _per_second(model: Categorizer, clip: Tracks) -> dict[str, list[float | None]]:
    if not isinstance(model.tower, Tower):
        return {}
    seconds: dict[str, list[float | None]] = {}
    for (one, other), probability in model.tower.per_second(clip).items():
        both = (clip[one].mask & clip[other].mask)[0].tolist()
        pairs = zip(probability[0].tolist(), both, strict=True)
        seconds[f"{one} and {other}"] = [said if there else None for said, there in pairs]
    return seconds


def _timelines(model: Categorizer, shown: dict[str, Shown], clip: Tracks) -> dict[str, Timeline]:
    read = model.trunk.read
    anywhere = torch.stack([clip[name].mask[0] for name in read.modalities]).any(0)
    timelines = {}
    for name, weights in shown.items():
        layer = model.trunk.layers[-1]
        assert isinstance(layer, Layer)
        weigher = layer.weigher(name)
        present = clip[name].mask[0] if name in clip else anywhere  # of early fusion's joined track
        if read.averaged:
            present = present.any(0, keepdim=True)
        parts = (weigher.over_time(part[0], present).numpy() for part in weights)
        timelines[name] = Timeline(WORDS[type(weigher)], present.numpy(), *parts)
    return timelines


# --- for people -------------------------------------------------------------------------------------------------------


def shown(explanation: Explanation, path: Path) -> Group:
    """The explanation for a terminal that takes names as they are."""
    table = Table("category", "probability", *explanation.changes)
    for number, (name, probability) in enumerate(explanation.categories):
        changes = [f"{change[number]:+.3f}" for change in explanation.changes.values()]
        table.add_row(name, f"{probability:.3f}", *changes)
    told = [f"correlation of {pair}: {probability:.3f}" for pair, probability in explanation.correlation.items()]
    return Group(table, *told, f"drawn in {path}")


def draw(explanation: Explanation, path: Path) -> Path:
    """The explanation as a PNG: weights over time, the correlation by second, and what would change the answer."""
    timelines = explanation.timelines
    one_step = all(len(timeline.present) == 1 for timeline in timelines.values())
    by_second = not one_step and any(p is not None for told in explanation.per_second.values() for p in told)
    heights = [2.3 if timeline.present.any() else 0.4 for timeline in timelines.values()] + [2.3] * by_second
    answers = 0.9 + 0.32 * len(explanation.categories)
    figure = Figure(figsize=(12, sum(heights) + answers + 0.4), layout="constrained")
    told = [f"{pair} {probability:.2f}" for pair, probability in explanation.correlation.items()]
    figure.suptitle("   correlation of ".join([f"clip {explanation.clip}", *told]), parse_math=False)
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=[sum(heights), answers])[:, 0]
    grid = above.add_gridspec(len(heights), 3, height_ratios=heights)
    for row, (name, timeline) in enumerate(timelines.items()):
        _timeline(above, grid, row, name, timeline)
    if by_second:
        _correlation(above.add_subplot(grid[-1, :]), explanation.per_second)
    _answers(below.subplots(), explanation)
    figure.savefig(path, dpi=130)
    return path


def _timeline(figure: SubFigure, grid: GridSpec, row: int, name: str, timeline: Timeline) -> None:
    """One modality's weights before, what it hears, and after; where it hears nothing, its weights alone."""
    if not timeline.present.any():
        axes = figure.add_subplot(grid[row, :])
        axes.text(0.5, 0.5, f"no {name}", ha="center", va="center", color="0.4")
        axes.set(xticks=[], yticks=[], facecolor=MISSING)
        return
    before, heard, after = (
        np.where(timeline.present, part, np.nan) for part in (timeline.before, timeline.heard, timeline.after)
    )
    numbers = timeline.strongest
    label = timeline.words.row + (f" ({len(numbers)} of {len(after)})" if len(numbers) < len(after) else "")
    lowest, highest = min(np.nanmin(before), np.nanmin(after), 0.0), max(np.nanmax(before), np.nanmax(after))
    limits = (float(lowest), float(highest))
    reach = float(np.nanmax(np.abs(heard)))
    if not reach:
        axes = figure.add_subplot(grid[row, :])
        axes.set_title(f"{name}: weights, nothing is added to them", fontsize=9)
        _panel(axes, after, numbers, label, limits, "viridis")
        return
    for column, (what, values, scale, colours) in enumerate(
        [
            ("weights before", before, limits, "viridis"),
            (timeline.words.heard, heard, (-reach, reach), "RdBu_r"),
            ("weights after", after, limits, "viridis"),
        ]
    ):
        axes = figure.add_subplot(grid[row, column])
        axes.set_title(f"{name}: {what}", fontsize=9)
        _panel(axes, values, numbers, label if column == 0 else "", scale, colours)


def _panel(
    axes: Axes,
    values: Float[np.ndarray, "row step"],
    numbers: "np.ndarray[Any, Any]",
    label: str,
    limits: tuple[float, float],
    colours: str,
) -> None:
    """Some rows over time as a heat map; bars where there is no time."""
    axes.tick_params(labelsize=7)
    places = range(len(numbers))
    steps = values.shape[1]
    if steps == 1:
        axes.barh(places, values[numbers, 0], color="0.4")
        axes.axvline(0, color="0.4", linewidth=0.8)
        axes.set(xlim=limits, ylim=(len(numbers) - 0.5, -0.5))
        axes.spines[["top", "right"]].set_visible(False)
    else:
        axes.set_facecolor(MISSING)
        low, high = limits
        extent = (0, steps, len(numbers) - 0.5, -0.5)
        image = axes.imshow(
            values[numbers],
            aspect="auto",
            interpolation="nearest",
            cmap=colours,
            vmin=low,
            vmax=high,
            extent=extent,
        )
        axes.figure.colorbar(image, ax=axes, pad=0.01).ax.tick_params(labelsize=7)
        _seconds(axes)
    axes.set_yticks(places, numbers.tolist())
    axes.set_ylabel(label, fontsize=8)


def _seconds(axes: Axes) -> None:
    axes.set_xlabel("second", fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))


def _correlation(axes: Axes, per_second: dict[str, list[float | None]]) -> None:
    for pair, values in per_second.items():
        axes.stairs(np.array(values, float), baseline=None, label=pair)
        axes.set(ylim=(-0.02, 1.02), xlim=(0, len(values)))
    axes.set_ylabel("correlation", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.legend(frameon=False, fontsize=8)
    _seconds(axes)


def _answers(axes: Axes, explanation: Explanation) -> None:
    """Each category's probability, as it is and after each intervention, in the colour of the change."""
    before = np.array([probability for _, probability in explanation.categories])
    changes = np.array([np.zeros(len(before)), *explanation.changes.values()]).T
    axes.imshow(changes, aspect="auto", cmap="RdBu_r", vmin=-1, vmax=1)
    for (row, column), change in np.ndenumerate(changes):
        colour = "white" if abs(change) > 0.5 else "black"
        axes.text(column, row, f"{before[row] + change:.2f}", ha="center", va="center", color=colour, fontsize=9)
    axes.set_xticks(range(changes.shape[1]), ["as it is", *explanation.changes], parse_math=False)
    axes.set_yticks(range(len(before)), [path for path, _ in explanation.categories], parse_math=False)
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0, labelsize=9)
    axes.spines[:].set_visible(False)
