"""The command line: one table from verb to function, and what happens around a call.

A verb is a typed function: its parameters are the options, its docstring is the help. Verbs are imported when they are
called, so that `counterpoint --help` needs none of them, and a verb imports the library when it runs: PyTorch takes
seconds, and `inspect` and `taxonomy` do without it.
"""

import importlib
import io
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from inspect import BoundArguments
from typing import Any

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console

from counterpoint import __version__
from counterpoint.cli import messages
from counterpoint.cli.console import UsageError, note, shown_default
from counterpoint.distributed import launch, launched
from counterpoint.errors import Error, redacted
from counterpoint.tables import visible

VERBS = {
    "demo": ("experiments:demo", "Train and compare on made-up clips and films, in three minutes"),
    "learn": ("models:learn", "Learn your own categories from a folder of videos, and report how good the model is"),
    "extract": ("data:extract", "Make feature shards of video files, with labels from a table"),
    "inspect": ("data:inspect", "Show what is in shards: clips, modalities, steps, labels, categories, problems"),
    "recipes": ("models:recipes", "List the recipes, or the fields of one"),
    "train": ("models:train", "Train a recipe on shards, into a run folder"),
    "evaluate": ("models:evaluate", "Measure a run on shards: GAP, MAP, PERR and Hit@1, by level and category"),
    "categorize": ("models:categorize", "Name the most probable categories of clips or video files"),
    "tower": ("models:tower", "Measure correlation towers, and list the pairs that surprise them"),
    "explain": ("models:explain", "Draw why a run answers as it does for one clip"),
    "export": ("models:export", "Write a run's model, or its answers, for other software"),
    "serve": ("pages:serve", "Serve a run to people (a page) and to programs (an HTTP API)"),
    "ensemble": ("experiments:ensemble", "Average runs, and distil them into one model"),
    "reproduce": ("reproduce:reproduce", "Run a whole experiment of the paper and write its report"),
    "browse": ("pages:browse", "Look through a data set by a run's answers, in a local page"),
    "recommend": ("pages:recommend", "Recommend clips that suit a history, each with its reason"),
    "data mosaic": ("data:mosaic", "Compose frame-level clips from real video-level records"),
    "weights fetch": ("data:fetch", "Fetch the weights of YouTube-8M's encoders (420 MB)"),
    "taxonomy import": ("taxonomy:import_", "Make a first taxonomy from a vocabulary"),
    "taxonomy show": ("taxonomy:show_", "Print a taxonomy as a tree, or write it as a page or a picture"),
    "taxonomy check": ("taxonomy:check", "Look for faults of a taxonomy"),
    "taxonomy measure": ("taxonomy:measure", "Measure on clips whether a category's labels occur together"),
    "taxonomy diff": ("taxonomy:diff", "Show what changed between two taxonomies"),
    "taxonomy merge": ("taxonomy:merge", "Merge annotators' mappings by majority vote"),
    "taxonomy remap": ("taxonomy:remap", "Move a trained run to an edited taxonomy"),
}
GROUPS = {
    "data": "Make data sets",
    "weights": "Get the weights of encoders",
    "taxonomy": "Make, look at and check taxonomies",
}
OLD_OPTIONS = {
    ("data mosaic", "--from"): "--data",
    ("recommend", "--library"): "--data",
    ("reproduce", "--worlds"): "--datasets",
}
"""Options of version 0.1 that have another name today, by verb; they are still read."""
RESUMABLE = ("learn", "train", "extract", "ensemble", "reproduce", "browse", "recommend")
FOOTER = "--debug shows the traceback of an error."
COLUMNS = 120  # help is no wider
HELP = ("-h", "--help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0 where it did what it was asked to, 1 for an error, 2 for wrong arguments, 130 if interrupted.
    """
    for stream in (sys.stdout, sys.stderr):  # a console of few letters shows a name with question marks, and goes on
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    tokens = [token for token in given if token != "--debug"] or ["--help"]
    verb = _verb(tokens)
    try:
        code = _run(verb, tokens, given)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader has ended; Python would complain once more as it ends itself
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        goes_on = "; the same command goes on where it stopped" if verb in RESUMABLE else ""
        note(f"counterpoint: interrupted{goes_on}")
        return 130
    except Exception as error:
        if debug:
            raise
        return _report(error, verb)


def _run(verb: str, tokens: list[str], given: list[str]) -> int:
    app = _app(verb)
    fields: dict[str, Any] = {}
    tokens = [_option_of_today(verb, token) for token in tokens]
    if verb == "train":
        from counterpoint.cli.recipe_options import split_fields

        tokens, fields = split_fields(tokens)
    function, bound, ignored = app.parse_args(tokens, exit_on_error=False, print_error=False)
    if set(HELP) & set(tokens) and len(tokens) > 2 and not tokens[1].startswith("-"):
        return _help_of(verb, tokens[1], function, bound)
    if "fields" in ignored:
        bound.arguments["fields"] = fields
    if bound.arguments.get("devices", 1) > 1 and not launched():
        return launch(bound.arguments["devices"], given)
    return function(*bound.args, **bound.kwargs) or 0


def _option_of_today(verb: str, token: str) -> str:
    """An option of version 0.1 by its name of today, with a note."""
    option, equals, value = token.partition("=")
    new = OLD_OPTIONS.get((verb, option))
    if new is None:
        return token
    note(f"{option} is now {new}")
    return f"{new}{equals}{value}"


def _help_of(verb: str, name: str, function: Callable[..., Any], bound: BoundArguments) -> int:
    """Print a verb's help; below it, for the recipe or suite that is named, its fields and their defaults."""
    table: Any = None
    if verb == "train":
        from counterpoint.cli.recipe_options import fields_help, find_recipe

        table = fields_help(find_recipe(name))
    elif verb == "reproduce":
        from counterpoint.cli.reproduce import scale_help

        table = scale_help(name)
    function(*bound.args, **bound.kwargs)
    if table is not None:
        Console(width=_columns(), highlight=False).print(table)
    return 0


def _report(error: Exception, verb: str) -> int:
    """Print an error in one line; the exit code."""
    if isinstance(error, CycloptsError | UsageError):
        line, code = messages.usage(error, verb, [*VERBS, *GROUPS]), 2
    elif isinstance(error, OSError) and error.filename and error.strerror:
        line, code = f"counterpoint: {error.filename}: {error.strerror}", 1
    elif isinstance(error, Error | OSError):
        line, code = f"counterpoint: {error}", 1
    else:
        line, code = f"counterpoint: {type(error).__name__}: {error} (--debug shows where)", 1
    first, *more = line.split("\n  ")  # faults of one kind, such as a labels file's, stand below each other
    print("\n  ".join(visible(redacted(" ".join(each.split()))) for each in (first, *more)), file=sys.stderr)
    return code


# --- the commands as cyclopts has them --------------------------------------------------------------------------------


def _verb(tokens: Sequence[str]) -> str:
    """The verb that is called, "" for none."""
    first = tokens[0]
    both = " ".join(tokens[:2])
    return both if both in VERBS else first if first in VERBS or first in GROUPS else ""


def _app(verb: str) -> App:
    """The commands; only the one that is called is imported."""
    console = Console(width=_columns(), highlight=False)
    app = App(
        name="counterpoint",
        help="Categorize videos from picture and sound together.\n\n`counterpoint COMMAND --help` lists its options.",
        help_epilogue=f"{FOOTER} --install-completion sets up the shell's completion.",
        help_format="plaintext",
        version=f"counterpoint {__version__}",
        console=console,
        default_parameter=Parameter(
            consume_multiple=True, negative=(), allow_repeating=True, show_default=shown_default
        ),
    )
    groups = {name: App(name=name, help=f"{text}.", sort_key=100 + i) for i, (name, text) in enumerate(GROUPS.items())}
    for number, (name, (path, text)) in enumerate(VERBS.items()):
        group, _, last = name.rpartition(" ")
        parent = groups[group] if group else app
        if name == verb:
            parent.command(_described(last, path, text, number))
        else:
            parent.command(f"counterpoint.cli.{path}", name=last, help=f"{text}.", sort_key=number)
    for each in groups.values():
        app.command(each)
    app.register_install_completion_command(help="Set up completion for this shell.")
    app["--help"].help = "Show this help."
    app["--version"].help = "Show the version."
    return app


def _columns() -> int:
    return min(Console().width, COLUMNS)


def _described(name: str, path: str, text: str, number: int) -> App:
    """A verb with its docstring's text and example as help."""
    module, _, attribute = path.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(f"counterpoint.cli.{module}"), attribute)
    body, _, sections = textwrap.dedent(f"    {(function.__doc__ or text).strip()}").partition("\n\nArgs:")
    body, _, example = body.partition("\n\nExample:\n")
    _, _, last = sections.partition("\n\nExample:\n")
    lines = textwrap.dedent(example or last).strip().splitlines()
    return App(
        name=name,
        help="\n\n".join(" ".join(paragraph.split()) for paragraph in body.split("\n\n")),
        help_epilogue="\n".join(["Example:", *(f"  {line}" for line in lines), "", FOOTER]),
        default_command=function,
        sort_key=number,
        version_flags=[],
    )


if __name__ == "__main__":
    sys.exit(main())
