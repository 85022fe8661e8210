"""Recipes of equal size: whoever compares two models must be able to tell the idea from capacity."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import ceil

import torch

from counterpoint.recipes import Recipe, TowerRecipe


def parameters(
    recipe: Recipe | TowerRecipe, sizes: Mapping[str, int], categories: int, tower: TowerRecipe | None = None
) -> int:
    """How many numbers a recipe's model learns; those of the ``tower`` that it listens to stay as they are.

    >>> from counterpoint.recipes import RECIPES
    >>> parameters(RECIPES["nv-l"], {"video": 1024, "audio": 128}, categories=640)
    19024448
    """
    with torch.device("meta"):  # shapes only
        model = recipe.build(sizes, categories, tower.build(sizes) if tower else None)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def matched(recipe: Recipe, goal: int, count: Callable[[Recipe], int], widths: bool = False, even: int = 2) -> Recipe:
    """The recipe with at least ``goal`` parameters, and hardly more: its head's width makes up for the difference.

    Args:
        count: tells a recipe's parameters, as `parameters` does.
        widths: first bring the family's widths as near to the goal as they come; the head then makes up for the rest.
        even: the head's width is a multiple of this.

    Raises:
        ValueError: no head is small enough.
    """
    if widths:
        recipe = _widened(recipe, goal, count)

    def with_head(hidden: int) -> Recipe:
        return replace(recipe, head=replace(recipe.head, hidden=hidden))

    # The parameters are linear in the head's width.
    least, more = count(with_head(even)), count(with_head(2 * even))
    units = 1 + ceil((goal - least) / (more - least))
    if units < 1:
        raise ValueError(f"{recipe.name} has {least:,} parameters without a head to speak of, more than {goal:,}")
    return with_head(units * even)


def _widened(recipe: Recipe, goal: int, count: Callable[[Recipe], int]) -> Recipe:
    """The widths whose number of parameters is nearest, by bisection of the factor that they are multiplied with."""

    def at(factor: float) -> Recipe:
        return replace(recipe, family=recipe.family.scaled(factor))

    low, high = 0.0, 1.0
    while count(at(high)) < goal:
        low, high = high, 2 * high
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if count(at(middle)) < goal else (low, middle)
    return min(at(low), at(high), key=lambda made: abs(count(made) - goal))
