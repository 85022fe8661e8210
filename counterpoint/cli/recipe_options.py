"""A recipe's fields as options of `counterpoint train`: `--training.learning-rate 1e-3`, `--max-steps 120`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from counterpoint.cli.console import UsageError, listing, load_run
from counterpoint.errors import Error
from counterpoint.tables import Table

if TYPE_CHECKING:
    from counterpoint.recipes import AnyRecipe

HELP = ("-h", "--help")


def split_fields(tokens: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """The arguments of `train` without the recipe's fields, and those.

    `--recipe NAME` becomes the first positional; so does the run that `--from` names, where no recipe is. A dotted
    option is a field; so is one by the name of a field of the recipe that is named.

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


def find_recipe(name: str | None) -> "AnyRecipe":
    """A recipe by its name, a user's own as `package.module:NAME`, or a run's.

    Raises:
        UsageError: there is none.
    """
    from counterpoint.recipes import recipe
    from counterpoint.run import RECIPE_FILE, SHIPPED, RunFolder

    if name is None:
        raise UsageError("RECIPE is missing: name it right after `train` (`counterpoint recipes` lists them)")
    try:
        return recipe(name)
    except Error as error:
        if (Path(name) / RECIPE_FILE).exists() or (SHIPPED / name / RECIPE_FILE).exists():
            return RunFolder.load(name).recipe
        raise UsageError(str(error)) from error


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
    if rest and not rest[0].startswith("-"):
        return [verb, *rest], rest[0]
    for i, token in enumerate(rest):
        option, equals, value = token.partition("=")
        name = value if equals else "".join(rest[i + 1 : i + 2])
        if option == "--from" and name and not name.startswith("-"):
            load_run(name)  # or the error would be about a recipe of that name
            return [verb, name, *rest], name
    return [verb, *rest], None


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


def with_fields(recipe: "AnyRecipe", fields: dict[str, Any]) -> "AnyRecipe":
    """The recipe with other values in its fields.

    Raises:
        UsageError: it has no such field, or a value is not one that the field takes.
    """
    try:
        return recipe.with_(fields)
    except Error as error:
        raise UsageError(str(error)) from error


def fields_table(recipe: "AnyRecipe") -> Table:
    """A recipe's fields as options."""
    table = recipe.table()
    rows = [[option_of(str(name)), *rest] for name, *rest in table.rows]
    title = f"Fields of {recipe.name}, each an option of `counterpoint train`"
    return dataclasses.replace(table, title=title, header=["option", *table.header[1:]], rows=rows)


def fields_help(recipe: "AnyRecipe") -> Any:
    """The same below the help of `counterpoint train`."""
    rows = [
        (str(option), f"{f'{meaning}; ' if meaning else ''}{kind} [default: {value}]")
        for option, kind, value, _, meaning in fields_table(recipe).rows
    ]
    return listing(f"Fields of {recipe.name}", rows)


def option_of(field: str) -> str:
    """A field as an option of the command line.

    >>> option_of("training.learning_rate")
    '--training.learning-rate'
    """
    return f"--{field.replace('_', '-')}"
