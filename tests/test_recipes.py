import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training.world import LABELLING, SIZES

from counterpoint.data.features import FeatureSet
from counterpoint.errors import Error
from counterpoint.models.fusion import Early, Influence, Late, SelfModal
from counterpoint.models.netvlad import NetVLAD
from counterpoint.recipes import (
    RECIPES,
    TOWER_RECIPES,
    ContrastiveConfig,
    NetVLADFamily,
    Recipe,
    TowerRecipe,
    TransformerFamily,
    check,
    recipes_table,
)
from counterpoint.run import RECIPE_FILE, RunFolder

ALL = RECIPES | TOWER_RECIPES


def test_the_papers_fifteen_and_what_they_are_compared_with() -> None:
    kinds = (*FUSIONS, "cm-a", "cm-self", "picture", "sound", "l-s", "cm-s")
    baselines = {"tm-xattn", "tm-mbt", "tm-bert", "mean-linear", "mean-mlp", "mean-residual", "mean-s"}
    assert set(RECIPES) == {f"{family}-{kind}" for family in ("nv", "tm", "rnn") for kind in kinds} | baselines


FUSIONS = ("e", "l", "cm", "cm-g", "cm-c")


@pytest.mark.parametrize("name", [name for name in ALL if "mean" not in name])
def test_defaults_are_the_papers(name: str) -> None:
    """Section 4.2."""
    recipe = ALL[name]
    assert recipe.name == name
    assert recipe.training.patience == 2
    assert recipe.training.max_epochs == (0 if name.endswith(("-random", "-constant")) else 10)
    assert recipe.max_steps == 300
    if name not in RECIPES:
        return  # the paper does not describe how a tower is trained
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
    """However it is drawn, F of any attention is above zero, where its ReLU has a gradient."""
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


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if not recipe.needs_tower])
def test_builds(name: str) -> None:
    with torch.device("meta"):  # shapes only
        model = RECIPES[name].build({"video": 1024, "audio": 128}, categories=640)
    inputs = {"mean-linear": 1024 + 128, "mean-mlp": 2048}.get(name, 1024)
    assert model.head.network[-1].weight.shape == (640, inputs)


# --- changes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"max_steps": 7}, {"max_steps": 7}),
        ({"training.learning_rate": "1e-3"}, {"training.learning_rate": 1e-3}),
        ({"training.learning-rate": 1}, {"training.learning_rate": 1.0}),
        (
            {"training": {"seed": "3", "precision": "bf16-mixed"}},
            {"training.seed": 3, "training.precision": "bf16-mixed"},
        ),
        ({"training.compile": "true"}, {"training.compile": True}),
        ({"fusion.reach": "30", "fusion.hidden": "[8, 4]"}, {"fusion.reach": 30, "fusion.hidden": (8, 4)}),
        ({"fusion.reach": "null", "fusion.hidden": "8"}, {"fusion.reach": None, "fusion.hidden": (8,)}),
        ({"fusion.hidden": ["8", "4"]}, {"fusion.hidden": (8, 4)}),
        ({"family.clusters": '{"video": 32}'}, {"family.clusters": {"video": 32}}),
        ({"family.clusters.audio": "5"}, {"family.clusters": {"video": 128, "audio": 5, "joined": 128}}),
        ({"family": '{"hidden": 5}'}, {"family.hidden": 5}),
        ({"modalities": "video"}, {"modalities": ("video",)}),
        ({"modalities": ["video", "audio"], "name": "mine"}, {"modalities": ("video", "audio"), "name": "mine"}),
    ],
)
def test_with(changes: dict[str, object], found: dict[str, object]) -> None:
    values = {info.name: info.value for info in RECIPES["nv-cm"].with_(changes).fields()}
    assert {name: values[name] for name in found} == found
    assert (
        RECIPES["nv-cm"].with_(changes).with_({info.name: info.value for info in RECIPES["nv-cm"].fields()})
        == (RECIPES["nv-cm"])
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 1}, "no field learning_rate; did you mean training.learning_rate? It has name, "),
        ({"training.learning_rat": 1}, "did you mean training.learning_rate? It has training.learning_rate, training."),
        ({"training": {"colour": 1}}, "no field training.colour; it has training.learning_rate, "),
        ({"max_steps.x": 1}, "no field max_steps.x"),
        ({"training.batch_size": "x"}, "training.batch_size cannot be 'x'; it is a whole number"),
        ({"training.batch_size": True}, "training.batch_size cannot be True; it is a whole number"),
        ({"training.batch_size": 0}, "training.batch_size must be at least 1, not 0"),
        ({"training.batch_size": 10**7}, "training.batch_size must be at most 1e+06, not 10000000"),
        ({"training.modality_dropout": "1.5"}, "training.modality_dropout must be from 0 to 1, not 1.5"),
        ({"training.precision": "8-bit"}, "training.precision cannot be '8-bit'; it is one of 32-true, "),
        ({"training": 3}, "training cannot be 3"),
        ({"fusion.reach": "far"}, "fusion.reach cannot be 'far'; it is a whole number or null"),
        ({"family.clusters": {"video": 0}}, "family.clusters of video must be at least 1, not 0"),
        ({"family.clusters": '{"video": "many"}'}, "family.clusters cannot be 'many'; it is a whole number"),
        ({"family": Late()}, "family cannot be Late(per_second=False)"),
    ],
)
def test_with_what_is_wrong(changes: dict[str, object], message: str) -> None:
    with pytest.raises(Error) as raised:
        RECIPES["nv-cm"].with_(changes)
    assert str(raised.value).startswith("nv-cm: ")
    assert message in str(raised.value)


def test_a_tower_is_changed_alike() -> None:
    changed = TOWER_RECIPES["correlation-nv"].with_({"comparison.embedding": "8", "negatives.weight": 2})
    assert changed.comparison == ContrastiveConfig(embedding=8)
    assert changed.negatives.weight == 2.0


def test_another_part_is_given_whole() -> None:
    assert RECIPES["nv-l"].with_(fusion=Early(), name="mine").fusion == Early()


@pytest.mark.parametrize("name", ["nv-cm", "correlation-nv"])
def test_a_mistyped_modality_is_named(name: str) -> None:
    """Which ones there are is known where the model is built."""
    recipe = ALL[name].with_({"family.clusters": {"pictures": 8}})
    with pytest.raises(Error, match=r"family\.clusters names no modality with 'pictures'; there are video, audio"):
        recipe.build({"video": 4, "audio": 4}, 3)
    depth = ALL[name].with_({"family.clusters": {"depth": 8}})
    depth.build({"video": 4, "depth": 4}, 3)


def test_a_recipe_of_any_name_is_read_back(tmp_path: Path) -> None:
    recipe = RECIPES["nv-l"].with_(name="mine", fusion=SelfModal(reach=3), family=TransformerFamily(heads=2))
    RunFolder(tmp_path, recipe, LABELLING, FeatureSet(SIZES)).save()
    assert RunFolder.load(tmp_path).recipe == recipe


# --- lists ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_every_field_has_its_help(name: str) -> None:
    fields = ALL[name].fields()
    assert len({info.name for info in fields}) == len(fields)
    assert all(info.help for info in fields if info.name != "name")
    assert all((info.bounds is None) != ("number" in info.kind) for info in fields)
    table = ALL[name].table()
    assert len(table.rows) == len(fields) - 1
    assert "| training.modality_dropout | a number | 0.0 | 0 to 1 |" in table.markdown()


def test_the_table_of_all_recipes() -> None:
    table = recipes_table()
    assert [row[0] for row in table.rows] == list(ALL)
    assert "| nv-cm-g | NetVLAD | gated | a tower |" in table.markdown()
    assert "| tm-mbt | Attention bottlenecks | its own |" in table.markdown()


def test_recipes_load_without_lightning() -> None:
    code = "import sys, counterpoint.recipes; sys.exit('lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
