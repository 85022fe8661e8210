import json
from dataclasses import replace
from pathlib import Path

import pytest

from counterpoint.data.features import YOUTUBE8M_SIZES, FeatureSet
from counterpoint.errors import Error
from counterpoint.experiments import paper
from counterpoint.experiments.datasets import Inputs, Shape
from counterpoint.experiments.experiment import Experiment
from counterpoint.experiments.search import parameters
from counterpoint.experiments.suites import ENTRIES, SUITES, Suite
from counterpoint.recipes import RECIPES, TOWER_RECIPES, CrossAttentionFamily, TransformerFamily
from counterpoint.run import RunFolder
from counterpoint.taxonomy import youtube8m

YOUTUBE8M = Shape({"audio": 128, "video": 1024}, 40, 640, True, {"train": 100, "validation": 10, "test": 10})
FAMILIES = [(suite, family) for suite in SUITES.values() for family in suite.scale.families]


def experiment(suite: Suite, folder: Path) -> Experiment:
    made = Experiment(suite, suite.scale, Inputs(shards={}, clips={}), folder)
    if suite.name != "synthetic":
        vars(made)["shape"] = YOUTUBE8M
    return made


@pytest.mark.parametrize(("suite", "family"), FAMILIES, ids=[f"{suite.name}-{family}" for suite, family in FAMILIES])
def test_every_recipe_can_be_built_and_those_that_should_are_equally_large(
    suite: Suite, family: str, tmp_path: Path
) -> None:
    of = experiment(suite, tmp_path)
    sizes = {}
    for entry in (suite.entry(name) for name in ENTRIES):
        if entry.recipe and not entry.of:
            recipe = of.recipe(family, entry, seed=3)
            assert (recipe.training.seed, recipe.training.max_epochs) == (3, suite.scale.epochs)
            sizes[entry.name] = (of.count(recipe, family), entry.like)
    equal = {name: size for name, (size, like) in sizes.items() if like}
    assert {"l-equal", "e-equal", "tm-xattn", "tm-mbt", "tm-bert"} <= set(equal)
    for name, size in equal.items():
        assert size == pytest.approx(sizes["cm-c"][0], rel=0.01), name


@pytest.mark.parametrize(("suite", "family"), FAMILIES, ids=[f"{suite.name}-{family}" for suite, family in FAMILIES])
def test_every_point_of_a_grid_fits_every_recipe(suite: Suite, family: str) -> None:
    for name, grids in (("l", suite.grid), ("cm", suite.influence)):
        for field, values in grids.get(family, {}).items():
            for value in values:
                recipe = RECIPES[f"{family}-{name}"].with_({field: value})
                assert parameters(recipe, {"video": 16, "audio": 8}, 5) > 0
    recipe = TOWER_RECIPES[f"correlation-{family}"].with_(suite.towers.get(family, {}))
    assert parameters(recipe, {"video": 16, "audio": 8}, 5) > 0


def test_unknown_settings() -> None:
    with pytest.raises(Error, match=r"no field head\.colour"):
        RECIPES["nv-l"].with_({"head.colour": 1})


def test_an_ensemble_comes_after_its_members(tmp_path: Path) -> None:
    suite = SUITES["video-level"]
    of = experiment(suite, tmp_path)
    cells = of.cells()
    per_second = {name for name, entry in ENTRIES.items() if entry.tower.startswith("seconds")}
    assert {cell.entry.name for cell in cells if cell.seed == 0} == set(ENTRIES) - per_second
    cell = next(cell for cell in cells if cell.entry.name == "ensemble")
    assert [str(member) for member in of.members(cell)] == [f"video-level nv-{name} seed 0" for name in cell.entry.of]
    (seeds,) = (cell for cell in cells if cell.entry.name == "cm-c-seeds")
    assert [str(member) for member in of.members(seeds)] == [f"video-level nv-cm-c seed {seed}" for seed in (0, 1, 2)]
    assert all(cells.index(member) < cells.index(cell) for cell in cells for member in of.members(cell))


def test_seeds_are_averaged_where_there_are_enough_of_the_same_clips(tmp_path: Path) -> None:
    suite = SUITES["video-level"]
    few = Experiment(suite, replace(suite.scale, seeds=2), Inputs(shards={}, clips={}), tmp_path)
    apart = Experiment(SUITES["synthetic"], replace(suite.scale, datasets=()), Inputs(shards={}, clips={}), tmp_path)
    for of in (few, apart):
        names = {cell.entry.name for cell in of.cells()}
        assert "ensemble" in names
        assert "cm-c-seeds" not in names


def test_baselines_have_what_was_searched_for_late_fusion(tmp_path: Path) -> None:
    of = experiment(SUITES["mosaic"], tmp_path)
    best = {"family.heads": 2, "family.dropout": 0.3, "family.widths": {"video": 64, "audio": 64, "joined": 128}}
    search = of.search("tm", "l")
    search.folder.mkdir(parents=True)
    result = {"settings": {**best, "head.dropout": 0.2, "training.learning_rate": 0.002}, "validation_gap": 0.5}
    search.result_file(0).write_text(json.dumps(result))
    baseline, headline = (of.recipe("tm", of.suite.entry(name), 0) for name in ("tm-xattn", "cm-c"))
    for recipe in (baseline, headline):
        assert isinstance(recipe.family, CrossAttentionFamily | TransformerFamily)
        assert (recipe.family.heads, recipe.family.dropout) == (2, 0.3)
        assert (recipe.head.dropout, recipe.training.learning_rate) == (0.2, 0.002)
    assert of.count(baseline, "tm") == pytest.approx(of.count(headline, "tm"), rel=0.01)


def test_plain_networks_have_one_run_for_all_families_and_a_search_of_their_own(tmp_path: Path) -> None:
    of = experiment(SUITES["mosaic"], tmp_path)
    cells = [cell for cell in of.cells() if cell.entry.plain and cell.seed == 0 and cell.dataset is of.main]
    assert len(cells) == 3 * 4
    assert len({of.run_folder(cell) for cell in cells}) == len({str(cell) for cell in cells}) == 4
    assert of.search("nv", "mean-mlp").folder == of.search("tm", "mean-mlp").folder
    for name in ("mean-linear", "mean-mlp", "mean-residual"):
        assert of.search("nv", name).count == of.search("nv", "l").count == of.scale.trials
    search = of.search("nv", "mean-mlp")
    search.folder.mkdir(parents=True)
    result = {"settings": {"head.hidden": 4096, "damping": 60.0}, "validation_gap": 0.5}
    search.result_file(0).write_text(json.dumps(result))
    plain, by_tower = (of.recipe("tm", of.suite.entry(name), 3) for name in ("mean-mlp", "mean-s"))
    for recipe in (plain, by_tower):
        assert (recipe.head.hidden, recipe.damping, recipe.training.seed) == (4096, 60.0, 3)
        assert recipe.training.max_epochs == of.scale.epochs
    assert by_tower.fusion.per_second
    assert not plain.fusion.per_second
    assert of.tower_recipe("tm", "seconds", 0).name == "correlation-mean"
    assert of.tower_recipe("tm", "seconds-random", 0).training.max_epochs == 0


def test_ensembles_of_seeds_have_no_member_in_common(tmp_path: Path) -> None:
    """Else they agree more than others would; and with more seeds those that are finished stay what they are."""
    suite = SUITES["video-level"]
    of = {n: Experiment(suite, replace(suite.scale, seeds=n), Inputs(shards={}, clips={}), tmp_path) for n in (3, 5, 7)}
    members = {
        n: [[m.seed for m in each.members(cell)] for cell in each.cells() if cell.entry.name == "l-seeds"]
        for n, each in of.items()
    }
    assert members == {3: [[0, 1, 2]], 5: [[0, 1, 2]], 7: [[0, 1, 2], [3, 4, 5]]}


def test_an_ensemble_whose_members_are_not_chosen(tmp_path: Path) -> None:
    suite = SUITES["video-level"]
    scale = replace(suite.scale, models=("l", "cm", "cm-c", "ensemble"))
    with pytest.raises(Error, match="ensemble is made of cm-g too: add that to --models"):
        Experiment(suite, scale, Inputs(shards={}, clips={}), tmp_path / "out").check()


def test_the_papers_numbers() -> None:
    assert paper.LEVELS["nv"]["gap", "all"] == (10.81, 10.61, 9.90, 9.75)
    assert paper.LEVELS["tm"]["hit_at_1", "3"] == (12.71, 11.89, 11.76, 11.59)
    assert paper.TOPS["nv"]["Travel"] == (16.60, 14.30)
    assert {len(table) for table in paper.LEVELS.values()} == {20}


@pytest.mark.parametrize(("suite", "family"), FAMILIES, ids=[f"{suite.name}-{family}" for suite, family in FAMILIES])
def test_what_is_saved_of_every_recipe_can_be_read(suite: Suite, family: str, tmp_path: Path) -> None:
    of = experiment(suite, tmp_path)
    recipes = [of.recipe(family, suite.entry(name), 0) for name in ("cm-c", "tm-mbt")]
    for number, recipe in enumerate([*recipes, *(of.tower_recipe(family, kind, 0) for kind in ("trained", "random"))]):
        run = RunFolder(tmp_path / str(number), recipe, youtube8m(), FeatureSet(YOUTUBE8M_SIZES))
        run.save()
        assert RunFolder.load(run.folder).recipe == recipe


def test_families_with_one_tower_family_share_its_towers(tmp_path: Path) -> None:
    of = experiment(SUITES["mosaic"], tmp_path)
    assert len({of.tower_folder(of.main, family, "trained", 0) for family in of.scale.families}) == 1
    own = experiment(SUITES["synthetic"], tmp_path)
    assert len({own.tower_folder(own.main, family, "trained", 0) for family in own.scale.families}) == 3
