"""What run folders and experiments hold: JSON and weights. What is read is what is there, or it is refused."""

import copy
import json
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from training import world

from counterpoint.data.features import FEATURES_FILE, FeatureSet
from counterpoint.errors import Error
from counterpoint.experiments.datasets import Inputs
from counterpoint.experiments.engine import LOG, Estimate, Job, Log
from counterpoint.experiments.experiment import SUITE_FILE, Experiment
from counterpoint.experiments.suites import SUITES
from counterpoint.fields import TYPE
from counterpoint.recipes import RECIPES, TOWER_RECIPES, identity, to_json
from counterpoint.run import DIGEST, RECIPE_FILE, WEIGHTS_FILE, RunFolder
from fuzz.target import INTEGERS, Target, mutated, scratch

VALUES = [
    None,
    True,
    False,
    0,
    1,
    -1,
    0.5,
    -0.5,
    1e400,
    float("nan"),
    "x",
    "",
    [],
    {},
    [1],
    ["x"],
    {"video": 4},
    [[]],
    8,
    10**6,
]
TOKENS = [
    *(b'"', b",", b":", b"{", b"}", b"[", b"]", b"null", b"NaN", b"1e999", b"-", b"9" * 400, b"9" * 5000),
    b"[" * 2000,
]


def _changed(random: Random, stored: Any) -> bytes:
    """JSON with another value somewhere, or a field less or more, or other bytes."""
    stored = copy.deepcopy(stored)
    for _ in range(random.choice((0, 1, 1, 2))):
        here, path = stored, []
        while isinstance(here, dict) and here and random.random() < 0.8:
            path.append((here, random.choice(list(here))))
            here = here[path[-1][1]]
        if not path:
            continue
        parent, key = path[-1]
        match random.randrange(6):
            case 0:
                del parent[key]
            case 1:
                parent[random.choice(("x", "name", "seed"))] = copy.deepcopy(random.choice(VALUES))
            case 2 if isinstance(here, int):
                parent[key] = random.choice((*INTEGERS, here + 1, here * 2, -here, float(here)))
            case _:
                parent[key] = copy.deepcopy(random.choice(VALUES))
    text = json.dumps(stored, indent=2).encode()
    return text if random.random() < 0.6 else mutated(random, text, TOKENS)


def _read(content: bytes) -> Any:
    return json.loads(content.decode())


# --- Runs -------------------------------------------------------------------------------------------------------------


@cache
def _run() -> RunFolder:
    """A run's folder with drawn weights."""
    torch.manual_seed(0)
    run = world.run(scratch() / "run")
    run.save()
    run.save_weights(run.build())
    return run


def _in_run(name: str, content: bytes) -> Path:
    """A run whose one file has other content."""
    original = _run().folder
    folder = scratch() / f"changed-{name}"
    if not folder.exists():
        folder.mkdir()
        for path in original.iterdir():
            if path.name != name:
                (folder / path.name).symlink_to(path)
    (folder / name).write_bytes(content)
    return folder


def draw_recipe(random: Random) -> bytes:
    """As it is written today, or as version 0.1 did."""
    form = random.choice((to_json, identity))
    if random.random() < 0.5:
        return _changed(random, form(_run().recipe))
    return _changed(random, form(random.choice([*RECIPES.values(), *TOWER_RECIPES.values()])))


def check_recipe(content: bytes) -> bool:
    folder = _in_run(RECIPE_FILE, content)
    try:
        run = RunFolder.load(folder)
    except Error:
        return False
    written = _read(content)
    form = to_json if TYPE in written else identity
    read = json.loads(json.dumps(form(run.recipe)))
    assert _within(written, read), (written, read)
    usual = (RECIPES | TOWER_RECIPES).get(written["name"], run.recipe)
    assert _alike(written, json.loads(json.dumps(form(usual)))), written
    if run.recipe.family == _run().recipe.family or run.recipe.name == "nv-l":
        try:
            model = run.model()  # whose weights are another recipe's
        except Error:
            return True
        same = _run().model().state_dict()
        assert all(torch.equal(same[name], tensor) for name, tensor in model.state_dict().items())
    return True


def _within(written: Any, read: Any) -> bool:
    """Whether all that a file holds has been read as it stands; numbers without a point may have got one."""
    if isinstance(written, dict):
        return isinstance(read, dict) and all(
            name in read and _within(value, read[name]) for name, value in written.items()
        )
    return bool(written == read) and isinstance(written, bool) == isinstance(read, bool)


def _alike(written: Any, usual: Any) -> bool:
    """Whether values are of the kinds that a recipe has: numbers, texts, names; a number may be left open."""
    if isinstance(usual, dict) and isinstance(written, dict):
        return all(_alike(value, usual[name]) for name, value in written.items() if name in usual)
    if usual is None or written is None:
        return isinstance(written if usual is None else usual, int | None)
    kinds = [(int, float) if type(value) is int or type(value) is float else type(value) for value in (written, usual)]
    return kinds[0] == kinds[1]


def draw_features(random: Random) -> bytes:
    features = FeatureSet(dict(world.SIZES), random.choice(("youtube8m", "lite-30eb25fa")))
    stored = {"encoder": features.encoder, "sizes": features.sizes, "fingerprint": features.fingerprint}
    if random.random() < 0.5:
        del stored["fingerprint"]  # which nearly every change contradicts
    return _changed(random, stored)


def check_features(content: bytes) -> bool:
    folder = scratch() / "features"
    folder.mkdir(exist_ok=True)
    (folder / FEATURES_FILE).write_bytes(content)
    try:
        features = FeatureSet.load(folder)
    except Error:
        return False
    written = _read(content)
    assert features.sizes == written["sizes"]
    assert features.encoder == written["encoder"]
    assert all(type(size) is int and size > 0 for size in features.sizes.values())
    assert written.get("fingerprint", features.fingerprint) == features.fingerprint
    features.save(folder)
    assert FeatureSet.load(folder) == features
    return True


def draw_weights(random: Random) -> bytes:
    whole = (_run().folder / WEIGHTS_FILE).read_bytes()
    size = 8 + int.from_bytes(whole[:8], "little")
    if random.random() < 0.5:
        return mutated(random, whole[:size], TOKENS) + whole[size:]
    return mutated(random, whole)


def check_weights(content: bytes) -> bool:
    folder = _in_run(WEIGHTS_FILE, content)
    try:
        model = RunFolder.load(folder).model()
    except Error:
        return False
    try:
        with safe_open(folder / WEIGHTS_FILE, "pt") as file:
            if DIGEST not in (file.metadata() or {}):
                return True  # as those of older versions: nothing shows that they are others
    except SafetensorError as error:
        raise AssertionError("weights were read of what are none") from error
    same = _run().model().state_dict()
    assert all(torch.equal(same[name], tensor) for name, tensor in model.state_dict().items())
    return True


# --- Experiments ------------------------------------------------------------------------------------------------------


def _experiment(folder: Path) -> Experiment:
    suite = SUITES["synthetic"]
    inputs = Inputs(shards={"train": [], "validation": [], "test": []}, clips={}, taxonomy=None)
    return Experiment(suite, suite.scale, inputs, folder)


@cache
def _suite() -> Any:
    _experiment(scratch() / "suite").save()
    return json.loads((scratch() / "suite" / SUITE_FILE).read_text())


def draw_suite(random: Random) -> bytes:
    return _changed(random, _suite())


def check_suite(content: bytes) -> bool:
    """An experiment goes on in a folder of the same, and nowhere else."""
    folder = scratch() / "another-suite"
    folder.mkdir(exist_ok=True)
    (folder / SUITE_FILE).write_bytes(content)
    try:
        _experiment(folder).save()
    except Error:
        return False
    written = _read(content)
    assert isinstance(written, dict)
    for part in ("epochs", "clips", "trials"):
        assert written["scale"][part] == _suite()["scale"][part]
    return True


def draw_log(random: Random) -> bytes:
    line = {"job": "train nv-l", "kind": "train", "seconds": 1.5, "commit": "abc", "ended": "2026-01-01T00:00:00"}
    return b"\n".join(_changed(random, line).replace(b"\n", b" ") for _ in range(random.randrange(4))) + b"\n"


def check_log(content: bytes) -> bool:
    (scratch() / LOG).write_bytes(content)
    log = Log(scratch())
    assert log.seconds >= 0
    Estimate(log).seconds([Job("a", "train", Path("nowhere"), str)])
    return bool(log.lines())


TARGETS = [
    Target("recipe", draw_recipe, check_recipe, quick=60),
    Target("features", draw_features, check_features),
    Target("weights", draw_weights, check_weights, quick=300),
    Target("suite", draw_suite, check_suite),
    Target("log", draw_log, check_log),
]
