import json
from pathlib import Path

import numpy as np
import pytest

from counterpoint.evaluation.metrics import global_average_precision
from counterpoint.evaluation.robustness import SHARES, Robustness, RobustnessAccumulator
from counterpoint.predict import Predictions

CLIPS, CATEGORIES = 400, 30


def predictions(clips: int = CLIPS, modalities: tuple[str, ...] = ("audio", "video"), seed: int = 0) -> Predictions:
    """Scores that are higher for labels, and less so without a modality."""
    random = np.random.default_rng(seed)
    labels = random.random((clips, CATEGORIES)) < 0.1

    def scores(knowledge: float) -> np.ndarray:
        return (random.random(labels.shape) + knowledge * labels).astype(np.float32) / 3

    whole = scores(1.0)
    return Predictions(
        [f"clip{i}" for i in range(clips)], whole, labels, {name: scores(0.3 * i) for i, name in enumerate(modalities)}
    )


def measured(*batches: Predictions, modalities: tuple[str, ...] = ("audio", "video"), seed: int = 7) -> Robustness:
    accumulator = RobustnessAccumulator(modalities, seed=seed)
    for batch in batches:
        accumulator.update(batch)
    return accumulator.compute()


def part(whole: Predictions, clips: slice) -> Predictions:
    without = {name: probabilities[clips] for name, probabilities in whole.without.items()}
    return Predictions(whole.ids[clips], whole.probabilities[clips], whole.labels[clips], without)


def losers(accumulator: RobustnessAccumulator, lost: float) -> np.ndarray:
    return accumulator._chosen(0.0, lost, accumulator.seed)


def test_the_ends_are_plain_gaps() -> None:
    made = predictions()
    curves = measured(made)
    assert curves.shares == SHARES
    assert list(curves.gap) == ["audio", "video", "any"]
    whole = global_average_precision(made.probabilities, made.labels)
    assert all(curve[0] == pytest.approx(whole) for curve in curves.gap.values())
    for name, probabilities in made.without.items():
        assert curves.gap[name][-1] == pytest.approx(global_average_precision(probabilities, made.labels))
    ends = [curve[-1] for curve in curves.gap.values()]
    assert ends[0] < ends[2] < ends[1] < whole


def test_every_share_is_a_mixture_of_probabilities() -> None:
    made = predictions()
    accumulator = RobustnessAccumulator(["audio", "video"])
    accumulator.update(made)
    curves = accumulator.compute()
    audio = accumulator._chosen(0.0, 0.5, accumulator.seed + 1)  # who loses the sound where one of them is lost
    mixed = {**made.without, "any": np.where(audio, made.without["audio"], made.without["video"])}
    for point, lost in enumerate(SHARES):
        for name, lacking in mixed.items():
            expected = np.where(losers(accumulator, lost), lacking, made.probabilities)
            assert curves.gap[name][point] == pytest.approx(global_average_precision(expected, made.labels))


def test_a_larger_share_holds_the_clips_of_a_smaller_one() -> None:
    accumulator = RobustnessAccumulator(["audio", "video"])
    accumulator.update(predictions())
    chosen = [losers(accumulator, lost) for lost in SHARES]
    assert not chosen[0].any()
    assert chosen[-1].all()
    for lost, smaller, larger in zip(SHARES[1:], chosen, chosen[1:], strict=False):
        assert (smaller <= larger).all()
        assert larger.mean() == pytest.approx(lost, abs=0.08)
    # Independent of which of the modalities a clip loses where it may be any.
    first = accumulator._chosen(0.0, 0.5, accumulator.seed + 1)
    assert first.mean() == pytest.approx(0.5, abs=0.08)
    assert first[chosen[2]].mean() == pytest.approx(0.5, abs=0.12)


def test_neither_batches_nor_order_matter() -> None:
    made = predictions()
    once = measured(made)
    assert measured(*(part(made, slice(i, i + 90)) for i in range(0, CLIPS, 90))) == once
    backwards = measured(part(made, slice(None, None, -1)))
    for name, curve in once.gap.items():
        assert backwards.gap[name] == pytest.approx(curve)


def test_another_seed_takes_other_clips() -> None:
    made = predictions()
    assert measured(made, seed=1).gap["audio"][1:4] != measured(made, seed=2).gap["audio"][1:4]


def test_one_modality_and_three() -> None:
    assert list(measured(predictions(modalities=("video",)), modalities=("video",)).gap) == ["video"]
    names = ("audio", "text", "video")
    made = predictions(modalities=names)
    accumulator = RobustnessAccumulator(names)
    accumulator.update(made)
    which = np.select([accumulator._chosen(i / 3, (i + 1) / 3, accumulator.seed + 1) for i in range(3)], [0, 1, 2], -1)
    assert set(which.ravel()) == {0, 1, 2}
    expected = np.choose(which, list(made.without.values()))
    assert accumulator.compute().gap["any"][-1] == pytest.approx(global_average_precision(expected, made.labels))


def test_table_and_file(tmp_path: Path) -> None:
    curves = Robustness((0.0, 0.5, 1.0), {"audio": (0.8, 0.75, 0.5), "video": (0.8, 0.4, float("nan"))})
    table = curves.table()
    assert [table.header, *table.rows] == [
        ["metric", "clips that lose it", "audio", "video"],
        ["GAP", "0%", "20.00", "20.00"],
        ["GAP", "50%", "25.00", "60.00"],
        ["GAP", "100%", "50.00", "–"],
    ]
    curves.save(tmp_path / "robustness.json")
    stored = json.loads((tmp_path / "robustness.json").read_text())
    assert stored == {"shares": [0.0, 0.5, 1.0], "gap": {"audio": [0.8, 0.75, 0.5], "video": [0.8, 0.4, None]}}


def test_no_labels_at_all() -> None:
    made = predictions(3)
    made.labels[:] = False
    assert measured(made).to_dict()["gap"]["any"] == [None] * len(SHARES)
