import csv
import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from counterpoint.run import RunFolder
from counterpoint.training.batch_share import BatchShare, draw_for_all

from . import together
from .world import clips, write

# Only the order differs in which numbers are added up; Adam's first steps make much of little.
LOSSES = 1e-5
WEIGHTS = 1e-4


def torchrun(processes: int, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    script = str(Path(together.__file__))
    return subprocess.run(
        [*command, script, *arguments], env=environment, capture_output=True, text=True, timeout=600, check=False
    )


def epochs(run: RunFolder) -> list[dict[str, float]]:
    with (run.folder / "epochs.csv").open(newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def assert_close_runs(one: RunFolder, other: RunFolder) -> None:
    for row, expected in zip(epochs(one), epochs(other), strict=True):
        assert row == pytest.approx(expected, rel=LOSSES)
    for name, weight in one.model().state_dict().items():
        if name.endswith("query_key.bias"):  # of keys: where no gate opens its gradient is rounding and no more
            continue
        assert_close(weight, other.model().state_dict()[name], rtol=WEIGHTS, atol=WEIGHTS)


@pytest.mark.slow
def test_two_processes_are_as_one(tmp_path: Path) -> None:
    """Losses, metrics and weights of models with dropout, of towers, their calibration; and an evaluation's figures."""
    shards = together.shards(tmp_path)
    many = write(tmp_path / "many.tfrecord", *clips(600, seed=2, prefix="many", confused=0.4))
    done = torchrun(2, "all", str(tmp_path))
    assert done.returncode == 0, done.stderr
    together.all_of(shards, tmp_path / "one")
    for name in together.RECIPES:
        assert_close_runs(together.run(tmp_path / "two", name), together.run(tmp_path / "one", name))
    # Bit for bit, where the weights are the same.
    assert json.loads((tmp_path / "figures.json").read_text()) == together.figures(
        together.run(tmp_path / "two", "nv-l"), many
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL on this system")
def test_a_killed_training_goes_on_in_another_number_of_processes(tmp_path: Path) -> None:
    """In the middle of an epoch, twice; no clip is left out or read again, and the result is that of one process."""
    shards = together.shards(tmp_path)
    for processes, epoch, index in ((2, 1, 2), (1, 1, 4), (3, -1, -1)):
        done = torchrun(processes, "killed", str(tmp_path), str(epoch), str(index))
        assert (done.returncode == 0) == (epoch < 0), done.stderr
    steps = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()]
    read: dict[int, list[str]] = defaultdict(list)
    batches: dict[int, set[int]] = defaultdict(set)
    for epoch, index, ids in steps:
        read[epoch] += ids
        batches[epoch].add(index)
    assert [sorted(read[epoch]) for epoch in range(3)] == [[f"clip{i:03}" for i in range(61)]] * 3
    assert [sorted(batches[epoch]) for epoch in range(3)] == [list(range(6))] * 3
    whole = together.run(tmp_path / "whole", "nv-l")
    together.train(whole, together.dataset(shards[0]), together.dataset(shards[1]), console=together.QUIET)
    assert_close_runs(together.run(tmp_path / "killed", "nv-l"), whole)


# --- shares of a batch ------------------------------------------------------------------------------------------------


def test_a_share_has_every_nth_row_of_what_is_drawn() -> None:
    drawn = torch.arange(7)
    assert [BatchShare(rank, 3, 7).local_rows(drawn).tolist() for rank in range(3)] == [[0, 3, 6], [1, 4], [2, 5]]
    assert BatchShare(2, 3, 2).local_rows(torch.arange(2)).tolist() == [0]  # none is its own: it keeps in step
    assert BatchShare().local_rows(drawn) is drawn


def test_dropout_is_that_of_one_process() -> None:
    features = torch.randn(7, 5)
    model = torch.nn.Sequential(torch.nn.Linear(5, 6), torch.nn.Sequential(torch.nn.Dropout(0.4)))
    torch.manual_seed(3)
    expected = model(features)
    for rank in range(3):
        share = BatchShare(rank, 3)
        shared = torch.nn.Sequential(model[0], torch.nn.Sequential(torch.nn.Dropout(0.4)))
        draw_for_all(shared, share)
        assert shared.state_dict().keys() == model.state_dict().keys()
        share.whole = 7
        torch.manual_seed(3)
        # The linear map is the whole batch's: of fewer clips it may round otherwise.
        assert torch.equal(shared[1](share.local_rows(model[0](features))), expected[rank::3])
        assert torch.equal(shared.eval()(features), model.eval()(features))
        model.train()
