"""Figures of results."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from counterpoint.evaluation.breakdown import Breakdown
from counterpoint.evaluation.robustness import ANY, Robustness


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
