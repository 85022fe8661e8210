"""Plain data that checks itself: dataclasses with bounds at their fields, changes by dotted name, a form for JSON.

A field states what it may be where it stands::

    @dataclass(frozen=True, kw_only=True)
    class Head:
        hidden: int = 1024                       # a whole number is from 1 to a million, another one from 0
        dropout: float = bounded(0.3, 0, 1)
        widths: dict[str, int] = by_modality({"video": 512})

Its help is its line under ``Args:`` in the class's docstring.
"""

import importlib
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, field, fields, is_dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from counterpoint.errors import Error, suggestion

T = TypeVar("T")
MANY = 10**6
TYPE = "type"
"""The key of a part's class in JSON."""
PACKAGE = __name__.partition(".")[0]


def bounded(default: T, low: float, high: float = sys.float_info.max) -> T:
    """A field whose numbers are from ``low`` to ``high``."""
    return field(default=default, metadata={"bounds": (low, high)})


def by_modality(default: Mapping[str, int]) -> dict[str, int]:
    """A field with a whole number for each modality; `unknown_modalities` finds names that are none."""
    return field(default_factory=lambda: dict(default), metadata={"by_modality": True})


class FieldInfo(NamedTuple):
    """One field of plain data."""

    name: str
    """Dotted, such as ``training.learning_rate``."""
    kind: str
    """What it holds, such as "a whole number"."""
    value: Any
    help: str
    bounds: tuple[float, float] | None
    """None: it holds no number."""


class UnknownFieldError(ValueError):
    """A dotted name that no field has; `part` is the class where it is missing."""

    def __init__(self, name: str, part: type) -> None:
        super().__init__(name, part)
        self.name, self.part = name, part


# --- fields and bounds ------------------------------------------------------------------------------------------------


def listed(part: Any, prefix: str = "") -> Iterator[FieldInfo]:
    """All fields of plain data by dotted name, those of its parts in their place."""
    hints, helps = get_type_hints(type(part)), _helps(type(part))
    for each in fields(part):
        value, hint = getattr(part, each.name), hints[each.name]
        if is_dataclass(value):
            yield from listed(value, f"{prefix}{each.name}.")
        else:
            bounds = _bounds(each, hint)
            yield FieldInfo(f"{prefix}{each.name}", described(hint), value, helps.get(each.name, ""), bounds)


def out_of_bounds(part: Any) -> Iterator[str]:
    """A sentence for each number out of its field's bounds, such as "training.seed must be at least 0, not -1"."""
    for info in listed(part):
        for path, value in _numbers(info.value, info.name):
            low, high = info.bounds or (1 if isinstance(value, int) else 0, sys.float_info.max)
            if not low <= value <= high:
                bound = f"at most {high:g}" if value > high else f"at least {low:g}"
                yield f"{path} must be {f'from {low:g} to {high:g}' if high == 1 else bound}, not {value}"


def unknown_modalities(part: Any, modalities: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Field and key of each `by_modality` number whose key is neither among ``modalities`` nor a default key."""
    names = set(modalities)
    for each in fields(part):
        value = getattr(part, each.name)
        if each.metadata.get("by_modality") and each.default_factory is not MISSING:
            yield from ((each.name, key) for key in value if key not in names | set(each.default_factory()))
        elif is_dataclass(value):
            yield from ((f"{each.name}.{inner}", key) for inner, key in unknown_modalities(value, names))


def whole_numbers(part: Any) -> Iterator[int]:
    """All whole numbers of plain data."""
    return (value for info in listed(part) for _, value in _numbers(info.value, "") if isinstance(value, int))


def _numbers(value: Any, path: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield path, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(inner, f"{path} of {key}")
    elif isinstance(value, tuple):
        for inner in value:
            yield from _numbers(inner, path)


def _bounds(each: "Field[Any]", hint: Any) -> tuple[float, float] | None:
    kinds = _leaves(hint)
    if each.metadata.get("bounds"):
        return each.metadata["bounds"]  # type: ignore[no-any-return]
    return (1, MANY) if int in kinds else (0, sys.float_info.max) if float in kinds else None


def _leaves(hint: Any) -> set[Any]:
    inner = get_args(hint)
    return set().union(*map(_leaves, inner)) if inner and get_origin(hint) is not Literal else {hint}


def _helps(cls: type) -> dict[str, str]:
    """Each field's line under ``Args:`` in the docstring of a class or of one that it derives from."""
    found: dict[str, str] = {}
    for each in reversed(cls.__mro__):
        _, _, section = (each.__doc__ or "").partition("Args:\n")
        for match in re.finditer(r"^( +)(\w+): (.+(?:\n\1 +.+)*)", section, re.MULTILINE):
            found[match[2]] = " ".join(match[3].split()).replace("``", "`")
    return found


# --- values -----------------------------------------------------------------------------------------------------------


def described(hint: Any) -> str:
    """A type in words.

    >>> described(int | None), described(tuple[int, ...]), described(Literal["a", "b"])
    ('a whole number or null', 'a list of whole numbers', 'one of a, b')
    """
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(described(each) for each in inner)
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if origin is tuple:
        return f"a list of {described(inner[0]).removeprefix('a ')}s"
    if origin is dict:
        return f"JSON with {described(inner[1])} for each name"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", NoneType: "null"}
    return words.get(hint, getattr(hint, "__name__", str(hint)))


def converted(value: Any, hint: Any, text: bool = False) -> Any:
    """A value of JSON, or as typed, in a field's type.

    Args:
        text: also read texts, such as "1e-3", '{"video": 32}' or "null", as what they stand for.

    Raises:
        ValueError: it is not of that type; a truth value is no number.
    """
    if text and isinstance(value, str) and hint is not str and get_origin(hint) is not Literal:
        return converted(_parsed(value, hint), hint)
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        for each in sorted(inner, key=lambda kind: kind is float):  # a whole number stays one where it may
            try:
                return converted(value, each, text)
            except ValueError:
                continue
    elif origin is Literal:
        if isinstance(value, str) and value in inner:
            return value
    elif origin is tuple and isinstance(value, list | tuple):
        return tuple(converted(each, inner[0], text) for each in value)
    elif origin is dict and isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: converted(each, inner[1], text) for key, each in value.items()}
    elif hint is float and type(value) in (int, float):
        return float(value)
    elif (
        origin is None
        and isinstance(hint, type)
        and isinstance(value, hint)
        and isinstance(value, bool) <= (hint is bool)
    ):
        return value
    raise ValueError(f"cannot be {value!r:.40}; it is {described(hint)}")


def _parsed(text: str, hint: Any) -> Any:
    """A text of the command line as a value of JSON; one that is no JSON as it stands, alone in a list of texts."""
    if text in ("True", "False", "None"):
        text = {"None": "null"}.get(text, text.lower())
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    if get_origin(hint) is tuple and not isinstance(value, list):
        return [value if get_args(hint)[0] is not str else text]
    return value


# --- changes ----------------------------------------------------------------------------------------------------------


def changed(part: T, changes: Mapping[str, Any], prefix: str = "") -> T:
    """Plain data with other values in its fields: by name, by dotted name, or nested.

    Raises:
        UnknownFieldError: there is no such field.
        ValueError: a value is not of its field's type.
    """
    hints = get_type_hints(type(part))
    for name, value in changes.items():
        first, _, rest = name.partition(".")
        first = first.replace("-", "_")
        path = f"{prefix}{first}"
        if first not in {each.name for each in fields(part)}:  # type: ignore[arg-type]
            raise UnknownFieldError(f"{path}.{rest}" if rest else path, type(part))
        old, hint = getattr(part, first), hints[first]
        try:
            if rest and not is_dataclass(old):
                if get_origin(hint) is not dict:
                    raise UnknownFieldError(f"{path}.{rest}", type(part))
                new: Any = {**old, rest: converted(value, get_args(hint)[1], text=True)}
            elif is_dataclass(old):
                new = _changed_part(old, {rest: value} if rest else value, hint, f"{path}.")
            else:
                new = converted(value, hint, text=True)
        except UnknownFieldError:
            raise
        except ValueError as error:
            raise ValueError(str(error) if str(error).startswith(path) else f"{path} {error}") from error
        part = replace(part, **{first: new})  # type: ignore[type-var]
    return part


def _changed_part(old: Any, value: Any, hint: Any, prefix: str) -> Any:
    value = _parsed(value, hint) if isinstance(value, str) else value
    if isinstance(value, Mapping):
        return restored(hint, value) if TYPE in value else changed(old, value, prefix)
    return converted(value, hint)


# --- JSON -------------------------------------------------------------------------------------------------------------


def stored(part: Any) -> dict[str, Any]:
    """Plain data for JSON; each part with its class, by name if it is this package's, else ``module:Class``."""
    cls = type(part)
    tag = cls.__name__ if _is_own(cls) else f"{cls.__module__}:{cls.__qualname__}"
    values = {each.name: getattr(part, each.name) for each in fields(part)}
    return {TYPE: tag} | {name: stored(value) if is_dataclass(value) else value for name, value in values.items()}


def restored(base: type[T], content: Any) -> T:
    """Plain data as `stored` wrote it.

    The module of a class from outside this package is imported, from the working directory too; the class is used only
    if it is a subclass of ``base``, the type of the field that it stands in.

    Raises:
        ValueError: fields are missing or unknown, or a value is not of its field's type.
        Error: a class cannot be found, or is of another kind.
    """
    if not isinstance(content, Mapping) or not isinstance(content.get(TYPE), str):
        raise ValueError(f"a {base.__name__} cannot be {content!r:.40}")
    cls = _class_of(content[TYPE], base)
    hints, own = get_type_hints(cls), fields(cls)  # type: ignore[arg-type]
    # A plain field that is missing came with a later version, whose default is what was done before.
    plain = {each.name for each in own if each.default is not MISSING}
    if differ := ({each.name for each in own} ^ (content.keys() - {TYPE})) - plain:
        raise ValueError(f"fields {sorted(differ)} differ")
    values: dict[str, Any] = {}
    for name in hints.keys() & content.keys() - {TYPE}:
        try:
            hint, value = hints[name], content[name]
            values[name] = restored(hint, value) if is_dataclass(hint) else converted(value, hint)  # type: ignore[arg-type]
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    return cls(**values)


def imported(path: str) -> Any:
    """What ``package.module:NAME`` names; modules are also looked for in the working directory, last of all.

    Raises:
        Error: there is no such module, it cannot be imported, or it holds no such name.
    """
    module, _, name = path.partition(":")
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*", path):
        raise Error(f"{path!r:.80}: not of the form package.module:NAME")
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:
        hint = "run where it lies, or name its folder in PYTHONPATH"
        raise Error(f"{path}: the module {module} cannot be imported ({error}); {hint}") from error
    names = [each for each in vars(found) if not each.startswith("_")]
    for each in name.split("."):
        if not hasattr(found, each):
            raise Error(f"{path}: {module} has no {name}{suggestion(name, names)}")
        found = getattr(found, each)
    return found


def _class_of(tag: str, base: type[T]) -> type[T]:
    if ":" in tag:
        found = imported(tag)
        if not (isinstance(found, type) and issubclass(found, base) and is_dataclass(found)):
            raise Error(f"{tag}: not a {base.__name__}")
        return found  # type: ignore[return-value]
    own = {cls.__name__: cls for cls in _family_tree(base) if _is_own(cls)}
    if tag not in own:
        raise Error(f"no {base.__name__} {tag!r:.40}{suggestion(tag, own)}")
    return own[tag]


def _family_tree(base: type[T]) -> Iterator[type[T]]:
    yield base
    for each in base.__subclasses__():
        yield from _family_tree(each)


def _is_own(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == PACKAGE
