"""A recipe's fields as options of `counterpoint train`: `--training.learning-rate 1e-3`, `--max-steps 120`."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any, get_type_hints

from counterpoint.cli.console import UsageError, did_you_mean
from counterpoint.errors import Error
from counterpoint.tables import Table

HELP = ("-h", "--help")


def split_fields(tokens: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """The arguments of `train` without the recipe's fields, and those.

    `--recipe NAME` becomes the first positional. A dotted option is a field; so is one by the name of a field of the
    recipe that is named.

    Raises:
        UsageError: there is no such recipe, or a field lacks its value.
    """
    rest, name = _recipe_first(list(tokens))
    if set(HELP) & set(tokens) and name is None:
        return list(tokens), {}
    recipe = find_recipe(name)
    top = {f.name for f in dataclasses.fields(recipe) if f.name != "name"}
    fields: dict[str, Any] = {}
    left: list[str] = []
    while rest:
        token = rest.pop(0)
        option, equals, value = token.partition("=")
        field = option.removeprefix("--").replace("-", "_")
        if not option.startswith("--") or ("." not in field and field not in top):
            left.append(token)
            continue
        fields[field] = value if equals else _values(option, _current(recipe, field), rest)
    return left, fields


def find_recipe(name: str | None) -> Any:
    """A recipe by its name, or a user's own as `package.module:NAME`.

    Raises:
        UsageError: there is none.
    """
    from counterpoint.recipes import RECIPES, TOWER_RECIPES

    recipes = RECIPES | TOWER_RECIPES
    if name is None:
        raise UsageError("RECIPE is missing: name it right after `train` (`counterpoint recipes` lists them)")
    if name in recipes:
        return recipes[name]
    raise UsageError(f"no recipe {name!r}{did_you_mean(name, recipes)} (`counterpoint recipes` lists them)")


def top_options() -> list[str]:
    """The options of recipes' fields that are no part of a part, such as `--max-steps`."""
    from counterpoint.recipes import Recipe, TowerRecipe

    return [option_of(field.name) for recipe in (Recipe, TowerRecipe) for field in dataclasses.fields(recipe)]


def _recipe_first(tokens: list[str]) -> tuple[list[str], str | None]:
    """The arguments with the recipe as the first positional, and its name."""
    verb, rest = tokens[0], tokens[1:]
    for i, token in enumerate(rest):
        option, equals, value = token.partition("=")
        if option == "--recipe":
            name = value if equals else "".join(rest[i + 1 : i + 2])
            if not name or name.startswith("-"):
                raise UsageError("--recipe needs a value")
            return [verb, name, *rest[:i], *rest[i + (1 if equals else 2) :]], name
    return [verb, *rest], rest[0] if rest and not rest[0].startswith("-") else None


def _current(recipe: Any, field: str) -> Any:
    """The value of a field, None where there is no such field."""
    for part in field.split("."):
        recipe = getattr(recipe, part, None)
    return recipe


def _values(option: str, current: Any, rest: list[str]) -> Any:
    """The value of a field's option, taken from the arguments that follow; of one that holds several, all of them."""
    if isinstance(current, bool) and (not rest or rest[0].lower() not in ("true", "false")):
        return "true"
    if isinstance(current, tuple) and not (rest and rest[0].startswith("[")):
        taken = []
        while rest and not rest[0].startswith("--"):
            taken.append(rest.pop(0))
        return taken
    if not rest or rest[0].startswith("--"):
        raise UsageError(f"{option} needs a value")
    return rest.pop(0)


def with_fields(recipe: Any, fields: dict[str, Any]) -> Any:
    """The recipe with other values in its fields.

    Raises:
        UsageError: it has no such field, or a value is not one that the field takes.
    """
    from counterpoint.recipes import check

    try:
        if hasattr(recipe, "with_"):
            return recipe.with_(fields)
        for name, value in fields.items():
            recipe = _changed(recipe, name, name, value)
        check(recipe)
        return recipe
    except Error as error:
        raise UsageError(str(error)) from error


def _changed(part: Any, path: str, name: str, value: Any) -> Any:
    first, _, rest = name.partition(".")
    known = [f.name for f in dataclasses.fields(part)]
    if first not in known:
        raise Error(f"no field {path}{did_you_mean(first, known)} (there are {', '.join(known)})")
    old = getattr(part, first)
    if rest:
        if not dataclasses.is_dataclass(old):
            raise Error(f"no field {path}: {first} has no fields")
        return dataclasses.replace(part, **{first: _changed(old, path, rest, value)})
    hint = get_type_hints(type(part))[first]
    new = value
    if isinstance(value, str) and not isinstance(old, str):
        try:
            new = json.loads(value)
        except ValueError:
            raise Error(f"{path} cannot be {value!r}") from None
    new = tuple(new) if isinstance(new, list) else float(new) if isinstance(old, float) and type(new) is int else new
    if isinstance(new, dict) and isinstance(old, dict) and (wrong := new.keys() - old.keys() - {"joined"}):
        raise Error(f"{path}: no {min(wrong)!r}{did_you_mean(min(wrong), old)} (there are {', '.join(old)})")
    from beartype.door import is_bearable

    if not is_bearable(new, hint):
        raise Error(f"{path} cannot be {value!r}")
    return dataclasses.replace(part, **{first: new})


def catalogue() -> tuple[Table, list[dict[str, str]]]:
    """All recipes: a table, and the same as plain values."""
    from counterpoint.recipes import RECIPES, TOWER_RECIPES, Recipe

    rows = []
    for recipe in (RECIPES | TOWER_RECIPES).values():
        family = type(recipe.family).__name__.removesuffix("Family")
        if isinstance(recipe, Recipe):
            needs = "a tower" if recipe.fusion.tower else ""
            rows.append({"name": recipe.name, "family": family, "fusion": type(recipe.fusion).__name__, "needs": needs})
        else:
            rows.append({"name": recipe.name, "family": family, "fusion": "(a correlation tower)", "needs": ""})
    header = ["name", "family", "fusion", "needs"]
    return Table("Recipes", header, [[row[name] for name in header] for row in rows], labels=4), rows


def fields_table(recipe: Any) -> Table:
    """A recipe's fields as options."""
    rows = [[option_of(name), _text(value)] for name, value in _leaves(recipe) if name != "name"]
    return Table(
        f"Fields of {recipe.name}, each an option of `counterpoint train`", ["option", "default"], rows, labels=2
    )


def plain(recipe: Any) -> dict[str, Any]:
    """A recipe's values for JSON."""
    return dataclasses.asdict(recipe)


def option_of(field: str) -> str:
    """A field as an option of the command line.

    >>> option_of("training.learning_rate")
    '--training.learning-rate'
    """
    return f"--{field.replace('_', '-')}"


def _leaves(part: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in vars(part).items():
        if dataclasses.is_dataclass(value):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
