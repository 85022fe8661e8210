"""A survey made by hand, of which every figure is known, and a real run's server."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from training.world import LABELLING, SIZES, clip, clips, codes, dataset, recipe, run, write

from counterpoint.browse.clips import Clips
from counterpoint.data.features import FeatureSet
from counterpoint.evaluation.ranking import log_odds
from counterpoint.evaluation.survey import Survey
from counterpoint.predict import Predictor
from counterpoint.recipes import TOWER_RECIPES, ContrastiveConfig, NetVLADFamily
from counterpoint.reliability import Reliability
from counterpoint.run import RunFolder

FOOD, DESSERT, SOUP, SPORT, BALL = range(5)

# id, labels, probabilities of the five categories, loss, correlation
ROWS = [
    ("a", [10], [0.9, 0.8, 0.1, 0.1, 0.1], 0.10, 0.9),  # right
    ("b", [10], [0.9, 0.2, 0.7, 0.1, 0.1], 0.50, 0.2),  # the wrong food
    ("c", [20], [0.8, 0.7, 0.1, 0.3, 0.2], 0.90, None),  # wrong at every level; mute
    ("d", [20, 11], [0.6, 0.1, 0.4, 0.7, 0.6], 0.30, 0.5),  # right
    ("é<b>", [], [0.2, 0.1, 0.1, 0.3, 0.2], 0.05, 0.4),  # no labels
]


@pytest.fixture
def known(tmp_path: Path) -> Clips:
    """Clips of the rows above."""
    shown = [clip(name, labels, video=codes(2, SIZES["video"])) for name, labels, *_ in ROWS]
    data = dataset(write(tmp_path / "known.tfrecord", *shown))
    truth = np.stack([data[i][1] for i in range(len(ROWS))])
    figures = np.array([[loss, np.nan if c is None else c] for *_, loss, c in ROWS], np.float32)
    answers = Survey(
        tmp_path,
        {"pairs": [["audio", "video"]]},
        np.array([name.encode() for name, *_ in ROWS]),
        log_odds(np.array([probability for _, _, probability, *_ in ROWS])),
        figures,
        np.packbits(truth, axis=1),
        None,
    )
    made = run(tmp_path / "run")
    return Clips(replace(made, features=FeatureSet(SIZES, "synthetic")), data, answers)


class World(NamedTuple):
    """A run with a tower, and shards with 60 clips of which some have odd names."""

    run: Path
    shards: Path


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("browse")
    torch.manual_seed(3)
    correlation = replace(
        TOWER_RECIPES["correlation-nv"],
        family=NetVLADFamily(clusters={"video": 2, "audio": 2}, hidden=8),
        comparison=ContrastiveConfig(embedding=4),
    )
    tower = RunFolder(folder / "tower", correlation, LABELLING, FeatureSet(SIZES))
    tower.save()
    tower.save_weights(tower.build())
    made = RunFolder(folder / "run", recipe("nv-cm-c"), LABELLING, FeatureSet(SIZES))
    made.save()
    made.take_in(tower)
    made.save_weights(made.build())
    odd = clip("<img src=x onerror=alert(1)>", [10], video=codes(3, SIZES["video"], 200))
    shard = write(folder / "shards" / "a.tfrecord", *clips(59), odd)
    probabilities = np.concatenate([part.probabilities for part in Predictor(made).predict(dataset(shard))])
    above = tuple(np.median(probabilities, axis=0).tolist())  # so that there are all verdicts
    made.save_reliability(Reliability(1.0, (0.0,) * 5, above, unlike=9.0, typical=1.0, clips=60), np.ones((1, 8)))
    return World(folder / "run", folder / "shards")


@pytest.fixture(scope="session")
def server(world: World) -> Iterator[str]:
    """The address of a real server's page."""
    command = [
        sys.executable,
        "-m",
        "counterpoint.cli.main",
        "browse",
        world.run,
        "--data",
        world.shards,
        "--port",
        "0",
    ]
    process = subprocess.Popen(
        list(map(str, command)), stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert process.stderr
    lines = []
    for line in process.stderr:
        lines.append(line)
        if address := re.search(r"60 clips at (http://127\.0\.0\.1:\d+/) ", line):
            break
    else:
        pytest.fail(f"the server did not start: {lines}")
    yield address[1]
    process.terminate()
    process.wait(30)
