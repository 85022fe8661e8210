"""Which epoch is kept, and when training stops."""

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from counterpoint.data.features import FeatureSet
from counterpoint.run import KEPT_FILE, RunFolder
from counterpoint.training.learner import CategorizationLearner
from counterpoint.training.selection import FEW_CLIPS, Selection
from counterpoint.training.train import train
from training.world import LABELLING, SIZES, clips, dataset, recipe, write


@pytest.mark.parametrize(
    ("epochs", "by_loss", "kept", "improvements", "waited"),
    [
        # (metric, loss) by epoch
        (
            [(1.0, 0.0703), (1.0, 0.03), (1.0, 0.0051)],
            False,
            3,
            3,
            0,
        ),  # the metric is at its limit, the loss still falls
        ([(0.5, 0.3), (0.6, 0.2), (0.6, 0.25), (0.55, 0.1)], False, 2, 2, 2),
        ([(0.61231, 0.3), (0.61234, 0.2)], False, 2, 2, 0),  # equal to four digits
        ([(0.6123, 0.2), (0.6125, 0.9)], False, 2, 2, 0),
        ([(1.0, 0.2), (0.9, 0.1), (1.0, 0.15)], True, 2, 2, 1),  # few clips: by the loss alone
        ([(float("nan"), 0.2), (0.1, 0.3)], True, 1, 1, 1),
    ],
)
def test_the_epoch_that_is_kept(
    epochs: list[tuple[float, float]], by_loss: bool, kept: int, improvements: int, waited: int
) -> None:
    selection = Selection(by_loss)
    for epoch, figures in enumerate(epochs, 1):
        selection.update(epoch, *figures)
    assert (selection.epoch, selection.improvements, selection.waited) == (kept, improvements, waited)
    assert (selection.metric, selection.loss) == pytest.approx(epochs[kept - 1], nan_ok=True)


def trained(folder: Path, validation: int, **training: object) -> tuple[RunFolder, list[dict[str, str]], str]:
    """A run on clips that are easily learned, its epochs, and what the console shows."""
    data = dataset(write(folder / "data" / "train.tfrecord", *clips(64)))
    held_out = dataset(write(folder / "held-out" / "v.tfrecord", *clips(validation, 1, "v")))
    run = RunFolder(folder / "run", recipe(**training), LABELLING, FeatureSet(SIZES))
    console = Console(width=200)
    with console.capture() as captured:
        train(run, data, held_out, console=console)
    lines = (run.folder / "epochs.csv").read_text().splitlines()
    return run, [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]], captured.get()


def test_few_validation_clips_choose_by_their_loss(tmp_path: Path) -> None:
    run, epochs, printed = trained(tmp_path, 22, max_epochs=5)
    losses = [float(epoch["validation_loss"]) for epoch in epochs]
    kept = json.loads((run.folder / KEPT_FILE).read_text())
    assert kept["chosen_by_loss"] is True
    assert kept["epoch"] == 1 + min(range(len(losses)), key=losses.__getitem__)
    assert kept["validation_loss"] == pytest.approx(min(losses))
    assert "22 validation clips are too few to choose an epoch by GAP: the validation loss decides" in printed
    assert f"kept epoch {kept['epoch']} of {len(epochs)}: validation loss " in printed
    assert printed.rstrip().endswith("stopped after the last epoch")


def test_equal_gaps_go_to_the_smaller_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = CategorizationLearner.validation_step

    def perfect(self: CategorizationLearner, batch: object, batch_idx: int) -> None:
        """GAP is 1 in every epoch, whatever the model gives."""
        update = self.gap.update
        monkeypatch.setattr(self.gap, "update", lambda logits, labels: update(labels.float(), labels))
        step(self, batch, batch_idx)  # type: ignore[arg-type]
        monkeypatch.setattr(self.gap, "update", update)

    monkeypatch.setattr(CategorizationLearner, "validation_step", perfect)
    run, epochs, _ = trained(tmp_path, FEW_CLIPS, max_epochs=4)
    losses = [float(epoch["validation_loss"]) for epoch in epochs]
    kept = json.loads((run.folder / KEPT_FILE).read_text())
    assert {epoch["validation_gap"] for epoch in epochs} == {"1.0"}
    assert kept["chosen_by_loss"] is False
    assert kept["epoch"] == 1 + min(range(len(losses)), key=losses.__getitem__) > 1


def test_training_stops_where_no_epoch_is_better(tmp_path: Path) -> None:
    """With a learning rate of nearly nothing the loss does not change, and the rate falls once patience is over."""
    torch.manual_seed(0)
    _, epochs, printed = trained(
        tmp_path, 22, max_epochs=9, learning_rate=1e-30, patience=1, stop_patience=3, factor=0.5
    )
    assert len(epochs) == 4
    assert "kept epoch 1 of 4" in printed
    assert "stopped since none was better for 3 epochs" in printed
    assert [float(epoch["learning_rate"]) for epoch in epochs] == pytest.approx([1e-30, 1e-30, 5e-31, 5e-31], rel=1e-6)
