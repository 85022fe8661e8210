"""Peak memory and time of `counterpoint evaluate` by the number of clips.

    python benchmarks/evaluating.py [CLIPS ...]

Clips are of one step and few features, labelled with YouTube-8M's labels, and the model is as it was drawn: what grows
with the clips is the same as for a large one. The temporary files of the metrics are in TMPDIR.
"""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from counterpoint.data.clip import Clip
from counterpoint.data.features import FeatureSet
from counterpoint.data.records import encode
from counterpoint.data.tfrecord import Writer
from counterpoint.recipes import RECIPES, HeadConfig, NetVLADFamily
from counterpoint.run import RunFolder
from counterpoint.taxonomy import youtube8m

SIZES = {"audio": 8, "video": 16}
SHARD = 1000  # clips


def write(folder: Path, clips: int) -> None:
    random = np.random.default_rng(0)
    for first in range(0, clips, SHARD):
        with Writer(folder / f"clips-{first // SHARD:04}.tfrecord") as writer:
            for number in range(first, min(first + SHARD, clips)):
                tracks = {name: random.integers(1, 255, (1, size), np.uint8) for name, size in SIZES.items()}
                writer.write(encode(Clip(f"clip-{number}", random.choice(3862, 3, replace=False), tracks)))


def main() -> None:
    before: tuple[int, int] | None = None
    print("    clips  peak MB  bytes a further clip  seconds")
    for clips in sorted(map(int, sys.argv[1:] or ["10000", "100000"])):
        with tempfile.TemporaryDirectory() as place:
            shards = Path(place) / "shards"
            shards.mkdir()
            write(shards, clips)
            family = NetVLADFamily(clusters={"video": 2, "audio": 2}, hidden=8)
            recipe = replace(RECIPES["nv-l"], family=family, head=HeadConfig(hidden=8, dropout=0.0))
            torch.manual_seed(0)
            run = RunFolder(Path(place) / "run", recipe, youtube8m(), FeatureSet(SIZES))
            run.save()
            run.save_weights(run.build())
            command = [
                sys.executable,
                "-m",
                "counterpoint.cli.main",
                "evaluate",
                str(run.folder),
                "--data",
                str(shards),
            ]
            begun = time.monotonic()
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            _, status, used = os.wait4(process.pid, 0)
            assert status == 0
            peak = used.ru_maxrss << 10
            grown = f"{(peak - before[1]) / (clips - before[0]):.0f}" if before else ""
            print(f"{clips:>9,} {peak / 1e6:>8.0f} {grown:>10} {time.monotonic() - begun:>10.0f}", flush=True)
            before = (clips, peak)


if __name__ == "__main__":
    main()
