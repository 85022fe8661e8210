"""A data set of YouTube-8M's size: its index, its order, and how soon a training on it begins.

    python benchmarks/scale.py [--shards 3844] [--clips 1000] [--order 5000000] [--folder FOLDER]

3,844 shards of 1,000 clips are made as hard links to one file of small video-level records, so that they take little
disk; each has an index of its own, and is opened, mapped and known by its own name. What reading a clip costs is for
`benchmarks/reading.py`. Every part runs in a process of its own: seconds of the wall and of the processor, and the
memory that it grew by at its highest, from when its modules were loaded. The folder is removed at the end.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from counterpoint.data.clip import Clip
from counterpoint.data.dataset import Dataset
from counterpoint.data.features import FeatureSet
from counterpoint.data.loading import EpochSampler, ShardedSampler
from counterpoint.data.records import encode
from counterpoint.data.tfrecord import Shard, Writer
from counterpoint.recipes import RECIPES, NetVLADFamily, Training
from counterpoint.run import RunFolder
from counterpoint.taxonomy import load
from counterpoint.taxonomy.tree import SHIPPED
from counterpoint.training.learner import Learner
from counterpoint.training.train import train

SIZES = {"video": 32, "audio": 8}
VALIDATION = "validate.tfrecord"


def make(folder: Path, shards: int, clips: int) -> None:
    """The shards, and one more to validate on."""
    random = np.random.default_rng(0)
    for name in ("train0000.tfrecord", VALIDATION):
        with Writer(folder / name) as writer:
            for i in range(clips):
                tracks = {track: random.random((1, size), np.float32) for track, size in SIZES.items()}
                writer.write(encode(Clip(f"{i:04}", random.integers(0, 3862, 3), tracks)))
    for number in range(1, shards):
        os.link(folder / "train0000.tfrecord", folder / f"train{number:04}.tfrecord")


def index(folder: Path, order: int) -> str:
    shards = sorted(folder.glob("train*.tfrecord"))
    size = sum(Shard(path).lengths.sum() for path in shards)
    return f"{len(shards):,} shards, {size / 1e9:.2f} GB read and checked"


def opened(folder: Path, order: int) -> str:
    data = Dataset([folder / "train*.tfrecord"], load(SHIPPED))
    return f"{len(data):,} clips"


def shuffled(folder: Path, order: int) -> str:
    lengths = np.random.default_rng(0).integers(120 * 1160, 300 * 1160, order)
    slices = ShardedSampler(EpochSampler(lengths, 128, seed=0), rank=3, world=8)
    first = next(iter(slices))
    state = json.dumps(slices.state(20_000))
    return f"{order:,} clips, {len(first.clips)} of a batch's {first.whole}; state {len(state)} bytes: {state}"


class _Begun(Exception):  # noqa: N818 - not an error
    pass


def begun(folder: Path, order: int) -> str:
    """Everything that `counterpoint train` does until its first step has been made."""

    def ended(self: Learner, outputs: Any, batch: Any, batch_idx: int) -> None:
        raise _Begun

    Learner.on_train_batch_end = ended  # type: ignore[method-assign]
    labelling = load(SHIPPED)
    data = Dataset([folder / "train*.tfrecord"], labelling)
    recipe = replace(
        RECIPES["nv-l"], family=NetVLADFamily(clusters={"video": 4, "audio": 4}, hidden=8), training=Training()
    )
    try:
        run = RunFolder(folder / "run", recipe, labelling, FeatureSet.of(data.paths))
        train(run, data, Dataset([folder / VALIDATION], labelling), console=Console(quiet=True))
    except _Begun:
        return f"first step on {len(data):,} clips"
    raise AssertionError("no step was made")


PARTS: dict[str, Callable[[Path, int], str]] = {
    "making the index": index,
    "opening, the index being there": opened,
    "an epoch's order": shuffled,
    "from opening to the first step": begun,
}


def status(key: str) -> int:
    """Bytes (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=3844)
    parser.add_argument("--clips", type=int, default=1000, help="in each")
    parser.add_argument("--order", type=int, default=5_000_000, help="clips of the order")
    parser.add_argument("--folder", type=Path, default=None, help="where to make the shards (a temporary folder)")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        before, start, processor = status("VmRSS"), time.perf_counter(), time.process_time()
        told = PARTS[args.part](args.folder, args.order)
        taken = time.perf_counter() - start, time.process_time() - processor
        print(json.dumps([*taken, status("VmHWM") - before, told]))
        return
    folder = Path(tempfile.mkdtemp(dir=args.folder))
    table = Table("", "s", "s of processor", "MiB", "what")
    try:
        make(folder, args.shards, args.clips)
        for part in PARTS:
            command = [sys.executable, __file__, "--folder", str(folder), "--order", str(args.order), "--part", part]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            wall, processor, memory, told = json.loads(done.stdout.splitlines()[-1])
            table.add_row(part, f"{wall:.1f}", f"{processor:.1f}", f"{memory / 2**20:.0f}", told)
    finally:
        shutil.rmtree(folder)
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
