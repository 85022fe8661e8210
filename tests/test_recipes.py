import dataclasses
import json
from pathlib import Path

import pytest
import torch
from training.world import LABELLING, SIZES

from counterpoint.data.features import FeatureSet
from counterpoint.models.fusion import Influence
from counterpoint.models.netvlad import NetVLAD
from counterpoint.recipes import RECIPES, TOWER_RECIPES, NetVLADFamily, Recipe, TowerRecipe, check
from counterpoint.run import RECIPE_FILE, RunFolder

ALL = RECIPES | TOWER_RECIPES


def test_the_papers_fifteen_and_what_they_are_compared_with() -> None:
    kinds = (*FUSIONS, "cm-a", "cm-self", "picture", "sound")
    rivals = {"tm-xattn", "tm-mbt", "tm-bert"}
    assert set(RECIPES) == {f"{family}-{kind}" for family in ("nv", "tm", "rnn") for kind in kinds} | rivals


FUSIONS = ("e", "l", "cm", "cm-g", "cm-c")


@pytest.mark.parametrize("name", ALL)
def test_defaults_are_the_papers(name: str) -> None:
    """Section 4.2."""
    recipe = ALL[name]
    assert recipe.name == name
    assert recipe.training.patience == 2
    assert recipe.training.max_epochs == (0 if name.endswith(("-random", "-constant")) else 10)
    assert recipe.max_steps == 300
    if name not in RECIPES:
        return  # the paper does not say how a tower is trained
    assert recipe.training.learning_rate == 2e-4
    assert recipe.training.batch_size == 128
    if isinstance(recipe.family, NetVLADFamily):
        assert recipe.family.clusters["video"] == 128
        assert recipe.family.clusters["audio"] == 64


def test_clusters_of_a_built_model() -> None:
    model = RECIPES["nv-l"].build({"video": 16, "audio": 8}, categories=5)
    clusters = {module.inputs: module.centres.shape for module in model.modules() if isinstance(module, NetVLAD)}
    assert clusters == {16: (128, 16), 8: (64, 8)}


def test_fusions_differ_in_nothing_else() -> None:
    for family in ("nv", "tm", "rnn"):
        late = RECIPES[f"{family}-l"]
        for fusion in FUSIONS:
            recipe = RECIPES[f"{family}-{fusion}"]
            assert dataclasses.replace(recipe, name=late.name, fusion=late.fusion) == late


@pytest.mark.parametrize("seed", range(10))
def test_a_single_map_begins_far_from_silence(seed: int) -> None:
    """However it is drawn, what F hears of any attention is above zero, where its ReLU has a gradient."""
    torch.manual_seed(seed)
    model = RECIPES["rnn-cm"].build({"video": 4, "audio": 4}, categories=2)
    attention = torch.rand(3, 16, 200).softmax(-1)
    for module in model.modules():
        if isinstance(module, Influence):
            assert (module(attention, 200, 200, None) > 0.5 * attention).all()


@pytest.mark.parametrize("name", ALL)
def test_defaults_are_in_bounds(name: str) -> None:
    check(ALL[name])


@pytest.mark.parametrize("name", ALL)
def test_round_trip_through_json(name: str, tmp_path: Path) -> None:
    RunFolder(tmp_path, ALL[name], LABELLING, FeatureSet(SIZES)).save()
    assert RunFolder.load(tmp_path).recipe == ALL[name]


def _changed(part: object) -> object:
    """Every plain field with another value."""
    assert dataclasses.is_dataclass(part)
    values = {}
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if isinstance(value, bool):
            values[field.name] = not value
        elif isinstance(value, float):
            values[field.name] = (value + 1) / 4  # which shares may be, too
        elif isinstance(value, int):
            values[field.name] = value + 1
        elif isinstance(value, tuple):
            values[field.name] = (*value, 7)
        elif isinstance(value, dict):
            values[field.name] = {name: number + 1 for name, number in value.items()}
    return dataclasses.replace(part, **values)  # type: ignore[type-var]


@pytest.mark.parametrize("name", ALL)
def test_round_trip_of_changed_fields(name: str, tmp_path: Path) -> None:
    recipe: Recipe | TowerRecipe = ALL[name]
    parts = {
        field.name: _changed(getattr(recipe, field.name))
        for field in dataclasses.fields(recipe)
        if dataclasses.is_dataclass(getattr(recipe, field.name))
    }
    changed = dataclasses.replace(recipe, max_steps=7, **parts)  # type: ignore[arg-type]
    assert changed != recipe
    RunFolder(tmp_path, changed, LABELLING, FeatureSet(SIZES)).save()
    assert RunFolder.load(tmp_path).recipe == changed
    assert json.loads((tmp_path / RECIPE_FILE).read_text())["max_steps"] == 7


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if not recipe.fusion.tower])
def test_builds(name: str) -> None:
    with torch.device("meta"):  # shapes only
        model = RECIPES[name].build({"video": 1024, "audio": 128}, categories=640)
    assert model.head.network[-1].weight.shape == (640, 1024)
