from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from training.world import TAXONOMY

from counterpoint.evaluation.breakdown import break_down
from counterpoint.evaluation.plots import draw_levels, draw_robustness
from counterpoint.evaluation.robustness import Robustness

PNG = b"\x89PNG"


def test_levels(tmp_path: Path, drawn: list[Figure]) -> None:
    random = np.random.default_rng(0)
    labels = random.random((50, len(TAXONOMY))) < 0.4
    models = [(name, break_down(random.random(labels.shape), labels, TAXONOMY)) for name in ("nv-l", "nv-cm")]
    path = draw_levels(models, tmp_path / "levels.png")
    assert path.read_bytes().startswith(PNG)
    (axes,) = drawn[0].axes
    assert [text.get_text() for text in axes.get_xticklabels()] == ["all", "level 0", "level 1"]
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["nv-l", "nv-cm"]
    heights = [[bar.get_height() for bar in bars] for bars in axes.containers if hasattr(bars, "patches")]
    for (_, model), bars in zip(models, heights, strict=True):
        assert bars == pytest.approx([100 * (1 - figures.gap) for figures in (model.overall, *model.levels)])


def test_robustness(tmp_path: Path, drawn: list[Figure]) -> None:
    curves = Robustness((0.0, 1.0), {"audio": (0.8, 0.5), "video": (0.8, float("nan")), "any": (0.8, 0.4)})
    assert draw_robustness(curves, tmp_path / "robustness.png").read_bytes().startswith(PNG)
    (axes,) = drawn[0].axes
    lines = {str(line.get_label()): line for line in axes.lines}
    assert list(lines) == ["audio", "video", "one of them"]
    assert list(lines["audio"].get_xdata()) == [0, 100]
    assert list(lines["audio"].get_ydata()) == pytest.approx([20, 50])
    assert axes.get_ylim()[0] == 0
