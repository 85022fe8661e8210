"""Runs of released versions: today's code reads them, and their models give the numbers that they gave then."""

import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from counterpoint.data.tracks import Track, Tracks
from counterpoint.recipes import RECIPES, Recipe
from counterpoint.run import RunFolder

ARCHIVES = Path(__file__).parent / "released"
"""By version: a small run of each recipe, and what each gave for a batch."""
IN_0_1 = {name for name in RECIPES if not name.startswith("mean-") and not name.endswith("-s")}
TOWERS = {f"correlation-{name}" for name in ("nv", "tm", "rnn", "nv-joined", "nv-random", "constant")}
OTHERS = {"nv-cm-c-input"}
PAIR = ("audio", "video")


@pytest.fixture(scope="module", params=sorted(path.name for path in ARCHIVES.glob("*.tar.gz")))
def released(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("released")
    with tarfile.open(ARCHIVES / request.param) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def expected(released: Path) -> dict[str, np.ndarray]:
    with np.load(released / "expected.npz") as arrays:
        return dict(arrays)


def tracks(arrays: dict[str, np.ndarray], name: str) -> Tracks:
    return {
        modality: Track(
            torch.from_numpy(arrays[f"{name}/{modality}"]), torch.from_numpy(arrays[f"{name}/{modality}/mask"])
        )
        for modality in PAIR
    }


def output(run: RunFolder, batch: Tracks) -> np.ndarray:
    """A categorizer's logits, a tower's probability."""
    with torch.inference_mode():
        if isinstance(run.recipe, Recipe):
            return run.categorizer()(batch).logits.numpy()
        return run.tower()(batch).probability[PAIR].numpy()


def test_all_recipes_are_there(released: Path, expected: dict[str, np.ndarray]) -> None:
    runs = {path.name for path in released.iterdir() if path.is_dir()}
    assert runs >= {
        f"{family}-{fusion}" for family in ("nv", "tm", "rnn") for fusion in ("e", "l", "cm", "cm-g", "cm-c")
    }
    assert runs == IN_0_1 | TOWERS | OTHERS
    assert {name.removeprefix("logits/") for name in expected if name.startswith("logits/")} == runs | {"youtube8m"}


@pytest.mark.parametrize("name", sorted(IN_0_1 | TOWERS | OTHERS))
def test_a_small_run_gives_the_same(name: str, released: Path, expected: dict[str, np.ndarray]) -> None:
    found = output(RunFolder.load(released / name), tracks(expected, "small"))
    np.testing.assert_allclose(found, expected[f"logits/{name}"], rtol=0, atol=1e-6)


def test_it_is_the_same_once_it_is_written_anew(
    released: Path, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """Recipe and weights by their names of today; the fingerprint, by which surveys are kept, stays."""
    old = RunFolder.load(released / "nv-cm-a")
    new = RunFolder(tmp_path, old.recipe, old.labelling, old.features)
    new.take_in(RunFolder.load(released / "nv-cm-a" / "tower"))
    new.save()
    new.save_weights(old.categorizer())
    again = RunFolder.load(tmp_path)
    assert again.recipe == old.recipe
    np.testing.assert_allclose(output(again, tracks(expected, "small")), expected["logits/nv-cm-a"], rtol=0, atol=1e-6)


def test_the_shipped_tower_gives_the_same(expected: dict[str, np.ndarray]) -> None:
    """The categorizer is another than in version 0.1, and its tower the same."""
    with torch.inference_mode():
        output = RunFolder.load("youtube8m").categorizer()(tracks(expected, "youtube8m"))
    assert output.correlation is not None
    np.testing.assert_allclose(
        output.correlation.probability[PAIR].numpy(), expected["youtube8m/correlation"], rtol=0, atol=1e-6
    )
