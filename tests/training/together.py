"""What `test_batch_share` trains in one process and, as a script under torchrun, in several."""

import json
import os
import signal
import sys
from dataclasses import replace
from functools import partialmethod
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from rich.console import Console

from counterpoint import distributed
from counterpoint.data.features import FeatureSet
from counterpoint.evaluation.evaluate import evaluate
from counterpoint.evaluation.robustness import RobustnessAccumulator
from counterpoint.recipes import (
    CONSTANT,
    TOWER_RECIPES,
    ConstantConfig,
    ContrastiveConfig,
    HeadConfig,
    NetVLADFamily,
    Training,
    TransformerFamily,
)
from counterpoint.run import RunFolder
from counterpoint.training.learner import Learner
from counterpoint.training.train import train
from training.world import LABELLING, SIZES, clips, dataset, recipe, write

QUIET = Console(quiet=True)
SMALL = NetVLADFamily(clusters={"video": 2, "audio": 2}, hidden=8)
SETTINGS = {"max_epochs": 3, "batch_size": 12, "learning_rate": 5e-3}
TRANSFORMER = TransformerFamily(widths={"video": 8, "audio": 8}, heads=2)

SHUT = replace(CONSTANT, comparison=ConstantConfig(probability=0.0))
RECIPES: dict[str, Any] = {
    "nv-l": recipe("nv-l", **SETTINGS, modality_dropout=0.2),
    "nv-cm, two batches a step": recipe("nv-cm", **SETTINGS, accumulate=2),
    "tm-cm": replace(recipe("tm-cm", **SETTINGS), family=TRANSFORMER),
    "tm-cm-g": replace(recipe("tm-cm-g", **SETTINGS), family=TRANSFORMER),  # whose gates never open, with this tower
    **{
        name: replace(TOWER_RECIPES[name], family=SMALL, max_steps=5, training=Training(**SETTINGS))  # type: ignore[arg-type]
        for name in ("correlation-nv", "correlation-nv-joined")
    },
}
"""All of them with dropout; the last batch has one clip, so that all processes but the first have none of it."""


TRAINING = Training(batch_size=16, max_epochs=2, learning_rate=5e-3)
COMPILED: dict[str, Any] = {
    "nv-cm": replace(recipe("nv-cm"), head=HeadConfig(hidden=8, dropout=0.0)),
    "tm-cm": replace(recipe("tm-cm"), family=replace(TRANSFORMER, dropout=0.0), head=HeadConfig(hidden=8, dropout=0.0)),
    "correlation-nv": replace(
        TOWER_RECIPES["correlation-nv"],
        family=SMALL,
        comparison=ContrastiveConfig(embedding=8, dropout=0.0),
        max_steps=5,
    ),
}
"""Without dropout, since compiled kernels draw other numbers."""


def shards(folder: Path) -> tuple[Path, Path]:
    return (
        write(folder / "train.tfrecord", *clips(61, confused=0.3)),
        write(folder / "validation.tfrecord", *clips(35, seed=1, prefix="val", confused=0.2)),
    )


def run(folder: Path, name: str) -> RunFolder:
    return RunFolder(folder / name, RECIPES[name], LABELLING, FeatureSet(SIZES))


def all_of(shards: tuple[Path, Path], folder: Path) -> None:
    tower = RunFolder(folder / "shut", SHUT, LABELLING, FeatureSet(SIZES))
    train(tower, dataset(shards[0]), dataset(shards[1]), console=QUIET)
    for name in RECIPES:
        needed = tower if name.endswith("-g") else None
        train(run(folder, name), dataset(shards[0]), dataset(shards[1]), tower=needed, console=QUIET)


def compiled(shards: tuple[Path, Path], folder: Path, backend: str, names: list[str]) -> None:
    """Train with and without `torch.compile`. ``aot_eager`` does all but generate code, which takes minutes."""
    plain = torch.nn.Module.compile
    torch.nn.Module.compile = partialmethod(plain, backend=backend)  # type: ignore[assignment,method-assign]
    for name, made in ((name, COMPILED[name]) for name in names):
        for compiling in (False, True):
            subject = replace(made, training=replace(TRAINING, compile=compiling))
            to = RunFolder(folder / f"{name}-{compiling}", subject, LABELLING, FeatureSet(SIZES))
            train(to, dataset(shards[0]), dataset(shards[1]), console=QUIET)


def figures(subject: RunFolder, clips: Path) -> list[Any]:
    """What `counterpoint evaluate` finds: 3 batches of up to 256 clips, so that one of two processes has one less."""
    robustness = RobustnessAccumulator(list(SIZES))
    found = evaluate(subject, dataset(clips), QUIET, robustness=robustness).to_dict()
    plain: list[Any] = json.loads(json.dumps([found, robustness.compute().to_dict() if robustness.ids else None]))
    return plain


def killed(shards: tuple[Path, Path], subject: RunFolder, log: Path, kill: tuple[int, int]) -> None:
    """Train with a checkpoint after every step, write down each step's clips, and die before one."""
    step = Learner.training_step

    def watched(self: Learner, batch: Any, index: int) -> Any:
        epoch = self.trainer.current_epoch
        if (epoch, index) == kill:
            distributed.broadcast(None)  # all are here, so all have left the step before
            os.kill(os.getpid(), signal.SIGKILL)
        with log.open("a") as file:
            file.write(json.dumps([epoch, index, batch.ids]) + "\n")
        return step(self, batch, index)

    Learner.training_step = watched  # type: ignore[method-assign]
    train(subject, dataset(shards[0]), dataset(shards[1]), minutes=0.0, console=QUIET)


if __name__ == "__main__":
    what, folder = sys.argv[1], Path(sys.argv[2])
    given = (folder / "train.tfrecord", folder / "validation.tfrecord")
    if what == "all":
        all_of(given, folder / "two")
        found = figures(run(folder / "two", "nv-l"), folder / "many.tfrecord")
        if distributed.rank() == 0:
            (folder / "figures.json").write_text(json.dumps(found))
    elif what == "compiled":
        compiled(given, folder, sys.argv[3], sys.argv[4:])
    else:
        killed(given, run(folder / "killed", "nv-l"), folder / "steps.jsonl", (int(sys.argv[3]), int(sys.argv[4])))
