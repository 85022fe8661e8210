from dataclasses import replace

import pytest

from counterpoint.experiments.search import matched, parameters
from counterpoint.recipes import (
    CONSTANT,
    RECIPES,
    TOWER_RECIPES,
    AttentionClusterFamily,
    BottleneckFamily,
    Family,
    HeadConfig,
    NetVLADFamily,
    Recipe,
    TransformerFamily,
)

SIZES, CATEGORIES = {"video": 64, "audio": 32}, 40


def count(recipe: Recipe) -> int:
    tower = TOWER_RECIPES["correlation-nv"] if recipe.needs_tower else None
    return parameters(recipe, SIZES, CATEGORIES, tower)


def test_parameters_by_hand() -> None:
    """Of NetVLAD: assignments, centres and descriptor of each modality, then the head's norm and two maps."""
    recipe = replace(
        RECIPES["nv-l"], family=NetVLADFamily(clusters={"video": 3, "audio": 2}, hidden=5), head=HeadConfig(hidden=7)
    )
    netvlad = (64 + 1) * 3 + 64 * 3 + 64 * 3 * 5 + 5 + (32 + 1) * 2 + 32 * 2 + 32 * 2 * 5 + 5
    assert count(recipe) == netvlad + 2 * 10 + (10 + 1) * 7 + (7 + 1) * CATEGORIES


def test_a_towers_parameters_are_not_learned() -> None:
    """Concatenated fusion has what cross-modal has, and a map of the probability to F's hidden layer each way."""
    assert count(RECIPES["nv-cm-c"]) == count(RECIPES["nv-cm"]) + 2 * 64


def test_a_constant_tower_has_none() -> None:
    assert parameters(RECIPES["nv-cm-g"], SIZES, CATEGORIES, CONSTANT) == count(RECIPES["nv-cm-g"])


@pytest.mark.parametrize("name", ["nv-l", "nv-e", "nv-cm", "nv-picture", "rnn-sound"])
def test_the_head_makes_up_for_the_difference(name: str) -> None:
    """The smallest even width that is enough, checked by looking at the next smaller one."""
    goal = count(RECIPES["nv-cm-c"])
    recipe = matched(RECIPES[name], goal, count)
    assert recipe == replace(RECIPES[name], head=replace(recipe.head, hidden=recipe.head.hidden))
    smaller = replace(recipe, head=replace(recipe.head, hidden=recipe.head.hidden - 2))
    assert count(smaller) < goal <= count(recipe)


@pytest.mark.parametrize("name", ["nv-l", "tm-l", "rnn-l", "tm-xattn", "tm-mbt", "tm-bert"])
@pytest.mark.parametrize("factor", [0.6, 3.0])
def test_the_widths_make_up_for_the_difference(name: str, factor: float) -> None:
    goal = round(factor * count(RECIPES["tm-cm-c"]))
    recipe = matched(RECIPES[name], goal, count, widths=True)
    assert abs(count(recipe) / goal - 1) < 0.001
    assert recipe.head.hidden < 2 * RECIPES[name].head.hidden
    assert type(recipe.family) is type(RECIPES[name].family)


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        (NetVLADFamily(clusters={"video": 3}, hidden=10), NetVLADFamily(clusters={"video": 3}, hidden=15)),
        (TransformerFamily(widths={"video": 16}, heads=4), TransformerFamily(widths={"video": 24}, heads=4)),
        (AttentionClusterFamily(widths={"video": 7}), AttentionClusterFamily(widths={"video": 10})),
        (BottleneckFamily(width=20, heads=4), BottleneckFamily(width=32, heads=4)),
    ],
)
def test_scaled(family: Family, expected: Family) -> None:
    """By one and a half, to whole numbers, of which heads have equal parts."""
    assert family.scaled(1.5) == expected


def test_a_goal_that_no_head_reaches() -> None:
    with pytest.raises(ValueError, match=r"nv-l with the smallest head has [\d,]+ parameters, more than 1,000"):
        matched(RECIPES["nv-l"], 1000, count)
