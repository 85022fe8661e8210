"""What the verbs share: the console, how results are printed, progress, and the options that several verbs have."""

import contextlib
import dataclasses
import difflib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict, get_type_hints

from cyclopts import Group, Parameter, Token
from docstring_parser import parse
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from counterpoint.distributed import leading
from counterpoint.errors import Error, redacted
from counterpoint.tables import for_json, visible

if TYPE_CHECKING:
    from counterpoint.data.dataset import Dataset
    from counterpoint.run import RunFolder

UNFOLDED = 10_000  # columns
EVERY = 60.0  # seconds between lines of progress where there is no terminal
PICTURES = (".png", ".svg", ".pdf", ".jpg", ".jpeg")
# What stands near the start of every picture that Matplotlib has drawn; of a PDF, the bytes after its first line.
PICTURE_MARK, PDF_MARK = b"atplotlib", b"%\xac\xdc \xab\xba"
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Terminal(Console):
    """Rich's, on which no text of a stranger acts: `visible` of whatever is printed."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            text = segment.text if segment.control else visible(redacted(segment.text), keep="\n\t")
            yield Segment(text, segment.style, segment.control)


console = Terminal(stderr=True, quiet=not leading())  # of several processes, the first one prints


class UsageError(Error):
    """An option or its value is wrong; the command ends with code 2."""


# --- options ----------------------------------------------------------------------------------------------------------

DATA = Group("Data", sort_key=1)
OUTPUT = Group("Output", sort_key=2)
TRAINING = Group("Training", sort_key=3)
SERVER = Group("Server", sort_key=3)
CHOICE = Group("Choice of clips", sort_key=4)
LIMITS = Group("Limits", sort_key=5)
RESOURCES = Group("Processes", sort_key=6)

SHARDS_HELP = "shards of clips: files, folders, quoted globs, or URLs of such (s3, gs, hf, http)"
TAXONOMY_HELP = (
    "a taxonomy folder (categories.tsv and a label mapping), a categories.tsv whose row numbers are the labels, "
    "or `youtube8m`, the shipped one"
)
WITH_TAXONOMY = "with --taxonomy"  # how the taxonomy is named
DEFAULT_TAXONOMY_HELP = f"{TAXONOMY_HELP}, which is the default where the features are YouTube-8M's"
RUN_HELP = "a run folder; or `youtube8m`, the model that comes with the package, for YouTube-8M's features"
HELD_OUT_HELP = "shards to tune and stop on; without them, a tenth of the clips"


def bounded(
    least: float | None = None, most: float | None = None, above: float | None = None
) -> Callable[[Any, Any], None]:
    """A validator of a number's bounds."""

    def check(kind: Any, value: Any) -> None:
        if value is None:
            return
        if least is not None and value < least:
            raise ValueError(f"must be at least {least:g}, not {value:g}")
        if above is not None and value <= above:
            raise ValueError(f"must be above {above:g}, not {value:g}")
        if most is not None and value > most:
            raise ValueError(f"must be at most {most:g}, not {value:g}")

    return check


def as_json(kind: Any, tokens: "tuple[Token, ...]") -> Any:
    """Read an option's value as a JSON object."""
    try:
        value = json.loads(tokens[0].value)
    except ValueError as error:
        raise ValueError(f"{tokens[0].value!r} is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f'{tokens[0].value!r} is not a JSON object, such as {{"train": 100}}')
    return value


JSON = Parameter(converter=as_json, accepts_keys=False, n_tokens=1, metavar="JSON")
POSITIVE = Parameter(validator=bounded(1))
NOT_NEGATIVE = Parameter(validator=bounded(0))
ABOVE_ZERO = Parameter(validator=bounded(above=0))

RunPath = Annotated[str, Parameter(help=RUN_HELP, metavar="RUN", group=DATA)]
Runs = Annotated[list[str], Parameter(metavar="RUN...", group=DATA, consume_multiple=(1, None))]
Data = Annotated[list[str], Parameter(help=SHARDS_HELP, metavar="SHARDS...", group=DATA, consume_multiple=(1, None))]
MoreData = Annotated[list[str], Parameter(metavar="SHARDS...", group=DATA)]
TaxonomyPath = Annotated[str, Parameter(help=TAXONOMY_HELP, metavar="TAXONOMY", group=DATA)]
OtherTaxonomy = Annotated[str | None, Parameter(help=DEFAULT_TAXONOMY_HELP, metavar="TAXONOMY", group=DATA)]
SkipBad = Annotated[
    bool,
    Parameter(name="--skip-bad-records", help="leave damaged records out, and list them on standard error", group=DATA),
]
Columns = Annotated[
    str,
    Parameter(
        help="the labels file's columns of files and of categories, as in filename,genre; by default those called path "
        "(file, filename, video) and categories (category, labels, label, class, tags)",
        metavar="FILES,CATEGORIES",
        group=DATA,
    ),
]
SkipBadLabels = Annotated[bool, Parameter(help="leave faulty lines of the labels file out, and list them", group=DATA)]
Replace = Annotated[bool, Parameter(help="make the clips of files anew that have changed since", group=DATA)]
Out = Annotated[Path, Parameter(metavar="FOLDER", group=OUTPUT)]
OtherOut = Annotated[Path | None, Parameter(metavar="FOLDER", group=OUTPUT)]
OutFile = Annotated[Path | None, Parameter(metavar="FILE", group=OUTPUT)]
Json = Annotated[bool, Parameter(name="--json", help="print JSON", group=OUTPUT)]
Top = Annotated[int, POSITIVE, Parameter(group=OUTPUT)]
Workers = Annotated[int, NOT_NEGATIVE, Parameter(help="processes that read ahead", group=RESOURCES)]
Devices = Annotated[
    int,
    POSITIVE,
    Parameter(
        help="processes that share each batch, one a GPU; torchrun starts them on several machines",
        group=RESOURCES,
    ),
]


def options_of(cls: type, group: str, defaults: Mapping[str, Any], **changes: Any) -> Any:
    """The fields of a dataclass as options, of which a verb gets those that are given, by name.

    Args:
        cls: the dataclass; its docstrings (and those that it inherits from) describe the fields.
        defaults: what the help shows, by field.
        changes: other types than the fields' own, by field.
    """
    hints = get_type_hints(cls, include_extras=True)
    helps = {line.arg_name: line.description for each in cls.__mro__[::-1] for line in parse(each.__doc__ or "").params}
    options = {
        field.name: Annotated[
            changes.get(field.name, hints[field.name]),
            Parameter(
                help=(helps.get(field.name) or "").rstrip("."),
                group=Group(group, sort_key=4),
                required=False,
                show_default=shown_default(defaults.get(field.name)) or False,
            ),
        ]
        for field in dataclasses.fields(cls)
    }
    make: Any = TypedDict  # of names that only run time knows
    return make(f"{cls.__name__}Options", options, total=False)


def shown_default(value: Any) -> str | None:
    """A default as the help shows it; None where that would say nothing."""
    if value is None or value is False or value in ("", [], (), {}):
        return None
    if isinstance(value, dict):
        return json.dumps(value)
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


# --- printing ---------------------------------------------------------------------------------------------------------


def show(json_wanted: bool, data: Callable[[], Any], shown: Callable[[], Any], markup: bool = False) -> None:
    """Print a result as JSON, or for the eye: in the terminal's width, and unfolded into files and pipes."""
    if json_wanted:
        print(for_json(json.dumps(data(), indent=2, ensure_ascii=False)))
    else:
        width = None if sys.stdout.isatty() else UNFOLDED
        # Neither [brackets] nor :colons: in the data's names mean anything.
        Terminal(width=width, markup=markup, emoji=False, highlight=False).print(shown())


def listing(title: str, rows: Iterable[tuple[str, str]]) -> Any:
    """Options and what they are, as the help of a command lists its own."""
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(style="cyan", overflow="fold")
    table.add_column(ratio=1, overflow="fold")
    for option, text in rows:
        table.add_row(Text(option), Text(text))
    return Panel(table, title=Text(title), title_align="left")


def note(line: str) -> None:
    """Print a line on standard error."""
    console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)


def note_skipped(*datasets: "Dataset") -> None:
    """Name every damaged record that was left out, once."""
    skipped = dict.fromkeys(str(error) for dataset in datasets for error in dataset.bad)
    for error in skipped:
        note(f"skipped: {error}")
    if skipped:
        note(f"damaged records left out: {len(skipped):,}")


@contextlib.contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal; the function that it gives is called with how much more is done."""
    from rich.progress import Progress

    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)


@contextlib.contextmanager
def speed(what: str) -> Iterator[Callable[[int, int], None]]:
    """Clips done, clips per second and the time left: a bar on a terminal, now and then a line elsewhere."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"), TimeRemainingColumn())
    begun = last = time.monotonic()
    with Progress(what, *columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None, speed="")

        def update(done: int, total: int) -> None:
            nonlocal last
            now = time.monotonic()
            rate = done / (now - begun)
            bar.update(task, completed=done, total=total, speed=f"{rate:.2f} clips/s")
            if not console.is_terminal and done and now - last > EVERY:
                last = now
                minutes = (total - done) / rate / 60
                note(f"{done:,} of {total:,} files, {rate:.2f} clips/s, {minutes:.0f} minutes left")

        yield update


@contextlib.contextmanager
def download() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each file that is fetched, on a terminal."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: dict[str, Any] = {}

        def update(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name)
            bar.update(tasks[name], completed=done, total=total or None)

        yield update


# --- checks -----------------------------------------------------------------------------------------------------------


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The end of a message that names the closest of several names; empty where none is close.

    >>> did_you_mean("trian", ["inspect", "train"]), did_you_mean("x", ["train"])
    ('; did you mean train?', '')
    """
    close = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def check_choices(option: str, values: Iterable[str], choices: Iterable[str]) -> None:
    """Raise UsageError for a value that is not among an option's choices."""
    known = list(choices)
    for value in values:
        if value not in known:
            raise UsageError(f"{option}: no {value!r}{did_you_mean(value, known)} (there are {', '.join(known)})")


def check_picture(path: Path, option: str = "--out") -> None:
    """Raise Error where a picture cannot be drawn to a file, or a file is there that is not such a picture."""
    from counterpoint.files import check_output_file

    if path.suffix.lower() not in PICTURES:
        raise Error(f"{path}: a picture is called *{', *'.join(PICTURES)}")
    check_output_file(path, PDF_MARK if path.suffix.lower() == ".pdf" else PICTURE_MARK, option)


def load_run(name: str) -> "RunFolder":
    """A run folder, or the shipped run of that name.

    Raises:
        Error: it is not there; the message names a run that is called nearly so.
    """
    from counterpoint.run import RECIPE_FILE, SHIPPED, RunFolder

    try:
        return RunFolder.load(name)
    except Error:
        path = Path(name)
        if (path / RECIPE_FILE).exists():
            raise
        beside = path.parent.iterdir() if path.parent.is_dir() else ()
        runs = {each.name: str(each) for each in sorted(beside) if (each / RECIPE_FILE).exists()}
        shipped = {each.name: each.name for each in SHIPPED.iterdir() if (each / RECIPE_FILE).exists()}
        names = shipped | runs
        close = difflib.get_close_matches(path.name, list(names), n=1)
        if not close:
            raise
        raise Error(f"{name}: not a run folder (no {RECIPE_FILE}); did you mean {names[close[0]]}?") from None
