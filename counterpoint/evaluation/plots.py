"""Figures of results."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.gridspec import GridSpec
from matplotlib.ticker import MaxNLocator

from counterpoint.evaluation.breakdown import Breakdown
from counterpoint.evaluation.categories import CategoryReport
from counterpoint.evaluation.robustness import ANY, Robustness
from counterpoint.explanation import Explanation, Timeline

MATRIX = 60  # most specific categories of a matrix that can be read
MISSING = "0.88"  # the grey of seconds that a modality does not have


def draw_levels(models: Sequence[tuple[str, Breakdown]], path: Path) -> Path:
    """GAP error by level, models side by side (the first rows of the paper's Table 4), as a PNG."""
    groups = ["all", *(f"level {level}" for level in range(len(models[0][1].levels)))]
    figure = Figure(figsize=(max(7, 0.45 * len(groups) * len(models)), 3.5), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(models)
    for number, (name, model) in enumerate(models):
        errors = [100 * (1 - figures.gap) for figures in (model.overall, *model.levels)]
        bars = axes.bar(np.arange(len(groups)) + (number - (len(models) - 1) / 2) * width, errors, width, label=name)
        axes.bar_label(bars, fmt="%.1f", padding=2, fontsize=8)
    axes.set_xticks(range(len(groups)), groups)
    axes.set_ylabel("GAP error in %")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=len(models), frameon=False)  # bars leave no room inside
    figure.savefig(path, dpi=150)
    return path


def draw_confusion(report: CategoryReport, path: Path) -> Path | None:
    """The confusion matrix as a PNG, each row in shares of its clips; None for more than `MATRIX` categories."""
    if len(report.leaves) > MATRIX:
        return None
    counts = report.confusion
    side = 2.5 + 0.3 * len(counts)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in zip(*np.nonzero(counts), strict=True):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=7)
    short = [leaf.rpartition(":")[2] for leaf in report.leaves]
    names = short if len(set(short)) == len(short) else list(report.leaves)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7, parse_math=False)
    axes.set_yticks(range(len(names)), names, fontsize=7, parse_math=False)
    axes.set(xlabel="most probable category", ylabel="label")
    axes.tick_params(length=0)
    figure.savefig(path, dpi=150)
    return path


def draw_robustness(robustness: Robustness, path: Path) -> Path:
    """GAP error by the share of clips that lose a modality, one curve for each, as a PNG."""
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    shares = [100 * lost for lost in robustness.shares]
    for name, curve in robustness.gap.items():
        axes.plot(
            shares,
            [100 * (1 - gap) for gap in curve],
            marker="o",
            linestyle="--" if name == ANY else "-",
            color="0.4" if name == ANY else None,
            label="one of them" if name == ANY else name,
        )
    axes.set(xlabel="% of clips that lose it", ylabel="GAP error in %", xticks=shares, ylim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(title="lost", frameon=False)
    figure.savefig(path, dpi=150)
    return path


def draw_explanation(explanation: Explanation, path: Path) -> Path:
    """The explanation as a PNG: weights over time, the correlation by second, and what would change the answer."""
    timelines = explanation.timelines
    lengths = [len(each.present) for each in timelines.values()] or [len(p) for p in explanation.per_second.values()]
    one_step = all(length == 1 for length in lengths)
    by_second = not one_step and any(p is not None for values in explanation.per_second.values() for p in values)
    heights = [2.3 if timeline.present.any() else 0.4 for timeline in timelines.values()] + [2.3] * by_second
    answers = 0.9 + 0.32 * len(explanation.categories)
    figure = Figure(figsize=(12, sum(heights) + answers + 0.4), layout="constrained")
    correlations = [f"{pair} {probability:.2f}" for pair, probability in explanation.correlation.items()]
    figure.suptitle("   correlation of ".join([f"clip {explanation.clip}", *correlations]), parse_math=False)
    if heights:
        above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=[sum(heights), answers])[:, 0]
        grid = above.add_gridspec(len(heights), 3, height_ratios=heights)
        for row, (name, timeline) in enumerate(timelines.items()):
            _timeline(above, grid, row, name, timeline)
        if by_second:
            _correlation(above.add_subplot(grid[-1, :]), explanation.per_second)
        _answers(below.subplots(), explanation)
    else:  # a model that averages has no weights over time
        _answers(figure.subplots(), explanation)
    # A JPEG alone does not name Matplotlib by itself, by which `counterpoint explain` knows its own pictures.
    if path.suffix.lower() in (".jpg", ".jpeg"):
        figure.savefig(path, dpi=130, pil_kwargs={"comment": b"Matplotlib"})
    else:
        figure.savefig(path, dpi=130)
    return path


def _timeline(figure: SubFigure, grid: GridSpec, row: int, name: str, timeline: Timeline) -> None:
    """One modality's weights before, the influence on them, and after; without influence, its weights alone."""
    if not timeline.present.any():
        axes = figure.add_subplot(grid[row, :])
        axes.text(0.5, 0.5, f"no {name}", ha="center", va="center", color="0.4")
        axes.set(xticks=[], yticks=[], facecolor=MISSING)
        return
    before, influence, after = (
        np.where(timeline.present, part, np.nan) for part in (timeline.before, timeline.influence, timeline.after)
    )
    numbers = timeline.strongest
    label = timeline.row + (f" ({len(numbers)} of {len(after)})" if len(numbers) < len(after) else "")
    lowest, highest = min(np.nanmin(before), np.nanmin(after), 0.0), max(np.nanmax(before), np.nanmax(after))
    limits = (float(lowest), float(highest))
    reach = float(np.nanmax(np.abs(influence)))
    if not reach:
        axes = figure.add_subplot(grid[row, :])
        axes.set_title(f"{name}: weights, nothing is added to them", fontsize=9)
        _panel(axes, after, numbers, label, limits, "viridis")
        return
    for column, (what, values, scale, colours) in enumerate(
        [
            ("weights before", before, limits, "viridis"),
            (timeline.influence_label, influence, (-reach, reach), "RdBu_r"),
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
