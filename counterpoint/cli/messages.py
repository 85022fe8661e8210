"""What is wrong with a command's arguments, in one line."""

from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin

from cyclopts import CycloptsError
from cyclopts.exceptions import (
    CoercionError,
    ConsumeMultipleError,
    MissingArgumentError,
    RepeatArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
    ValidationError,
)

from counterpoint.cli.console import did_you_mean
from counterpoint.cli.recipe_options import top_options
from counterpoint.errors import Error

KINDS: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false"}


def usage(error: CycloptsError | Error, verb: str, verbs: Sequence[str]) -> str:
    """The line; it ends with the command to type next."""
    command = f"counterpoint {verb}".rstrip()
    message = _unknown_verb(error, verb, verbs) if isinstance(error, UnknownCommandError) else _message(error, verb)
    what = "commands" if isinstance(error, UnknownCommandError) else "options"
    if "(`counterpoint " in message:  # the library's message names the command already
        return f"{command}: {message}"
    return f"{command}: {message.rstrip('.')} (`{command} --help` lists the {what})"


def _unknown_verb(error: UnknownCommandError, group: str, verbs: Sequence[str]) -> str:
    name = (error.unused_tokens or ["?"])[0]
    inside = [verb.removeprefix(f"{group} ") for verb in verbs if verb.startswith(f"{group} ")] if group else []
    known = inside or [verb for verb in verbs if " " not in verb]
    elsewhere = {verb.rpartition(" ")[2]: verb for verb in verbs}
    if name not in elsewhere or group:
        return f"no command {name!r}{did_you_mean(name, known)}"
    return f"no command {name!r}; did you mean {elsewhere[name]}?"


def _message(error: CycloptsError | Error, verb: str) -> str:
    if isinstance(error, UnknownOptionError):
        name = (error.token.keyword or error.token.value).partition("=")[0]
        names = [each for argument in error.argument_collection for each in argument.names if argument.parse]
        names += top_options() if verb == "train" else []
        return f"no option {name}{did_you_mean(name, names)}"
    if isinstance(error, ConsumeMultipleError):
        return f"{error.keyword or _name(error)} needs a value"
    if isinstance(error, MissingArgumentError):
        return f"{error.keyword} needs a value" if error.keyword else f"{_name(error)} is missing"
    if isinstance(error, ValidationError):
        return f"{_name(error)} {error.exception_message}"
    if isinstance(error, CoercionError):
        return _not_of_type(error)
    if isinstance(error, RepeatArgumentError):
        return f"{error.token.keyword} is given twice"
    if isinstance(error, UnusedCliTokensError):
        return f"no place for {' '.join(error.unused_tokens or [])}"
    return str(error)


def _not_of_type(error: CoercionError) -> str:
    name, kind = _name(error), error.target_type
    if error.msg is not None or error.token is None:
        return f"{name}: {error.msg or 'its value cannot be read'}"
    value = error.token.value
    if get_origin(kind) is Literal:
        choices = [str(choice) for choice in get_args(kind)]
        return f"{name}: no {value!r}{did_you_mean(value, choices)} (there are {', '.join(choices)})"
    return f"{name}: {value!r} is not {KINDS.get(kind, 'what it takes')}"


def _name(error: CycloptsError) -> str:
    """The argument as it is written: an option, or a name in capitals."""
    argument = error.argument
    if argument is None:
        return "an argument"
    keyword = next((token.keyword for token in argument.tokens if token.keyword), None)
    positional = argument.field_info.is_positional and keyword is None
    return argument.name.lstrip("-").upper() if positional else keyword or argument.name
