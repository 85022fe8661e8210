"""Real servers in processes of their own, of runs with random parameters, so that answers differ from clip to clip."""

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch

from counterpoint.data.features import FeatureSet
from counterpoint.media import encoders
from counterpoint.media import films as render
from counterpoint.recipes import RECIPES, TOWER_RECIPES, ContrastiveConfig, HeadConfig, NetVLADFamily
from counterpoint.reliability import Reliability
from counterpoint.run import TOWER_FOLDER, RunFolder, write_json
from counterpoint.taxonomy import Category, Labelling, LabelMap, Taxonomy

TAXONOMY = Taxonomy(
    (
        Category("dessert", "food", "Dessert"),  # below its parent in level, above it in the file
        Category("food", "", "Food", "210"),
        Category("soup", "food", "Soup", "216"),
        Category("sport", "", "Sport"),
        Category("ball", "sport", "Ball"),
    )
)
SIZES = {"audio": 8, "video": 16}
STARTING = 120.0  # seconds


def make_run(folder: Path, features: FeatureSet, recipe: str = "nv-cm-c") -> RunFolder:
    """A run that was never trained, with a tower if the recipe needs one."""
    torch.manual_seed(1)
    labelling = Labelling(TAXONOMY, LabelMap.identity(TAXONOMY))
    family = NetVLADFamily(clusters={"audio": 3, "video": 4}, hidden=8)
    run = RunFolder(folder, replace(RECIPES[recipe], family=family, head=HeadConfig(hidden=8)), labelling, features)
    run.save()
    if run.recipe.needs_tower:
        correlation = replace(TOWER_RECIPES["correlation-nv"], family=family, comparison=ContrastiveConfig(embedding=4))
        tower = RunFolder(folder.with_name(f"{folder.name}-tower"), correlation, labelling, features)
        tower.save()
        tower.save_weights(tower.build().apply(_stir))
        run.take_in(tower)
    run.save_weights(run.build().apply(_stir))
    return run


def _stir(module: torch.nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters(recurse=False):
            parameter.add_(torch.randn_like(parameter), alpha=0.3)


@dataclass
class Served:
    """A server under test."""

    url: str
    process: "subprocess.Popen[str]"
    temporary: Path
    """Where it may keep what it holds."""
    lines: list[str]
    """Its lines on the terminal."""

    def ask(self, method: str, where: str, **options: object) -> httpx.Response:
        return httpx.request(method, self.url + where, timeout=120, **options)  # type: ignore[arg-type]


@contextmanager
def serving(run: Path, *options: object, **environment: str) -> Iterator[Served]:
    """`counterpoint serve` with these options, at a free port."""
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, "-m", "counterpoint.cli.main", "serve", str(run), "--port", "0", *map(str, options)]
        variables = os.environ | {"TMPDIR": temporary, "OMP_NUM_THREADS": "1"} | environment
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=variables)
        served = Served("", process, Path(temporary), [])
        reader = threading.Thread(target=_read, args=(served,), daemon=True)
        reader.start()
        try:
            ends = time.monotonic() + STARTING
            while not served.url:
                assert process.poll() is None, served.lines
                assert time.monotonic() < ends, served.lines
                time.sleep(0.05)
            yield served
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
            finally:
                reader.join()


def _read(served: Served) -> None:
    assert served.process.stderr
    for line in served.process.stderr:
        served.lines.append(line)
        if address := re.search(r"^serving .* at (http://\S+)/$", line):
            served.url = address[1]


@pytest.fixture(scope="session")
def film_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that reads video files."""
    return make_run(tmp_path_factory.mktemp("runs") / "films", encoders.build("lite").features)


@pytest.fixture(scope="session")
def record_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of features that are not made of video files."""
    return make_run(tmp_path_factory.mktemp("runs") / "records", FeatureSet(SIZES, "synthetic"))


@pytest.fixture(scope="session")
def doubtful_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of feature records that is unsure, finds all clips unlike its training clips, and has a chance tower."""
    run = make_run(tmp_path_factory.mktemp("runs") / "doubtful", FeatureSet(SIZES, "synthetic"))
    above = (0.99, 0.98, 0.97, 0.96, 0.95)
    run.save_reliability(Reliability(0.1, (0.0,) * 5, above, unlike=0.0, typical=1.0, clips=40), -np.ones((1, 8)))
    write_json(run.folder / TOWER_FOLDER / "auc.json", {"auc": 0.53, "low": 0.44, "high": 0.62, "pairs": 60})
    return RunFolder.load(run.folder)


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four films of 3 seconds, and one of 12."""
    folder = tmp_path_factory.mktemp("films")
    for seed, category in enumerate(("Rain:Wind", "Balls:Music", "Rings:Clockwork", "Rain:Music")):
        render.film(
            folder / f"{category.replace(':', '-').lower()}.mp4", category, seed, seconds=3, size=(160, 90), fps=5
        )
    frame = np.full((48, 64, 3), 90, np.uint8)
    render.write(folder / "long.mkv", [frame] * 24, None, fps=2)
    return folder
