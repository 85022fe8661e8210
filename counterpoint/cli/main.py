"""The command line: one function per verb."""

import argparse
import contextlib
import dataclasses
import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, NoReturn

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace
from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, PositiveInt
from rich.console import Console

from counterpoint import __version__
from counterpoint.cli import browse as browse_commands
from counterpoint.cli import data as data_commands
from counterpoint.cli import experiments as experiment_commands
from counterpoint.cli import media
from counterpoint.cli import serve as serve_commands
from counterpoint.cli import taxonomy as taxonomy_commands
from counterpoint.errors import Error
from counterpoint.training.launch import launch, launched, leading

if TYPE_CHECKING:
    from counterpoint.data.dataset import Dataset
    from counterpoint.explain import Explanation
    from counterpoint.recipes import Recipe, TowerRecipe
    from counterpoint.run import RunFolder
    from counterpoint.taxonomy import Labelling

# Each verb imports what it needs when it runs: PyTorch takes seconds, and `inspect` and `taxonomy` do without it.

DATA_HELP = "shards of clips: files, folders, quoted globs, or URLs of such (s3, gs, hf, http)"
SHIPPED_NAME = "youtube8m"
TAXONOMY_HELP = (
    "a taxonomy folder (categories.tsv and a label mapping), a categories.tsv whose row numbers are the labels, "
    f"or `{SHIPPED_NAME}`, the shipped one"
)
DEFAULT_TAXONOMY_HELP = f"{TAXONOMY_HELP}, which is the default where the features are YouTube-8M's"
RUN_HELP = f"a run folder; or `{SHIPPED_NAME}`, the model that comes with the package, for YouTube-8M's features"
WORKERS_HELP = "processes that read ahead"
DEVICES_HELP = "processes, one a GPU (torchrun starts them on several machines)"
UNFOLDED = 10_000  # columns
RESUMABLE = ("train", "extract", "ensemble", "reproduce", "browse", "recommend")
PICTURES = (".png", ".svg", ".pdf", ".jpg", ".jpeg")
RECIPE_PARTS = ("family", "fusion", "head", "comparison", "negatives", "training")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0 where it did what it was asked."""
    arguments = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if len(arguments) == 1 and arguments[0] in GROUPS:
        arguments.append("--help")
    parser = _parser(arguments)
    args = parser.instantiate(parser.parse_args(arguments))
    verb = args.verb
    options = args[verb]
    if "verb" in options:  # of a group of verbs
        verb = f"{verb} {options.verb}"
        options = options[options.verb]
    try:
        if options.get("devices", 1) > 1 and not launched():
            return launch(options.devices, arguments)
        code = VERBS[verb](options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever reads has seen enough; Python would complain once more as it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        goes_on = "; the same command goes on where it stopped" if verb in RESUMABLE else ""
        _say(f"counterpoint: interrupted{goes_on}")
        return 130
    except Exception as error:
        if options.debug:
            raise
        expected = isinstance(error, Error | OSError)
        told = str(error) if expected else f"{type(error).__name__}: {error} (--debug shows where)"
        if isinstance(error, OSError) and error.filename and error.strerror:
            told = f"{error.filename}: {error.strerror}"
        print("counterpoint:", " ".join(told.split()), file=sys.stderr)
        return 1


# --- verbs ------------------------------------------------------------------------------------------------------------


def inspect(args: Namespace) -> int:
    """What is in shards: clips, modalities, steps, labels, categories, problems."""
    from counterpoint.data.inspect import inspect as look

    taxonomy = args.taxonomy or _taxonomy_beside(args.paths)
    labelling = _taxonomy(taxonomy) if taxonomy else None
    inspection = look(args.paths, skip_bad=args.skip_bad_records, labelling=labelling)
    _print(args.json, inspection.to_dict, lambda: inspection, markup=True)
    return 0


def train(args: Namespace) -> int:
    """Train a recipe on shards, into a run folder."""
    from counterpoint.data.features import FeatureSet
    from counterpoint.recipes import RECIPES, TOWER_RECIPES
    from counterpoint.run import RunFolder
    from counterpoint.training import distributed
    from counterpoint.training.train import train as fit

    recipe: Recipe | TowerRecipe = (TOWER_RECIPES | RECIPES)[args.recipe]
    told: dict[str, Any] = {name: args[name] for name in vars(recipe) if name in args}
    if "modalities" in told:
        told["modalities"] = tuple(told["modalities"])
    recipe = dataclasses.replace(recipe, **told)
    distributed.join()
    with distributed.leader_first():  # which makes the shards' indexes
        labelling = _taxonomy(args.taxonomy or _default_taxonomy(args.data))
        data, validation = _training_data(args, labelling)
        run = RunFolder(Path(args.out), recipe, labelling, FeatureSet.of(data.paths))
        run.features.check(FeatureSet.of(validation.paths), "the model to train")
    _say(
        f"{recipe.name}: {len(data):,} clips, {len(validation):,} for validation, "
        f"{run.features}, {len(labelling.taxonomy)} categories"
    )
    tower = RunFolder.load(args.tower) if args.tower else None
    minutes = args.checkpoint_minutes
    best = fit(run, data, validation, tower=tower, workers=args.workers, minutes=minutes, console=_console)
    if not leading():
        return 0
    figure = "gap" if args.recipe in RECIPES else "auc"
    _print(
        args.json,
        lambda: {"run": str(run.folder), f"validation_{figure}": best},
        lambda: f"{run.folder}: validation {figure.upper()} {best:.4f}",
    )
    return 0


def evaluate(args: Namespace) -> int:
    """Measure a run on shards: GAP, MAP, PERR and Hit@1, by level and top-level category."""
    from rich.console import Group

    from counterpoint.evaluation.breakdown import rich_table, table4, table5
    from counterpoint.evaluation.evaluate import evaluate as measure
    from counterpoint.evaluation.plots import draw_robustness
    from counterpoint.evaluation.robustness import RobustnessAccumulator
    from counterpoint.run import RunFolder
    from counterpoint.training import distributed

    distributed.join()
    with distributed.leader_first():
        run = RunFolder.load(args.run)
        dataset = _dataset(args, args.data, run.labelling)
    _report(dataset)
    accumulator = RobustnessAccumulator(list(run.features.sizes)) if args.robustness else None
    breakdown = measure(run, dataset, _console, args.workers, accumulator)
    if not leading():
        return 0
    folder = Path(args.out) if args.out else run.findings / "evaluation"
    breakdown.save(folder)
    figures = breakdown.to_dict()
    models = [(run.recipe.name, breakdown)]
    tables = [
        rich_table(table4(models), f"Error rates in %, {len(dataset):,} clips (lower is better)"),
        rich_table(table5(models), "GAP error in % by top-level category"),
    ]
    if accumulator:
        robustness = accumulator.compute()
        robustness.save(folder / "robustness.json")
        draw_robustness(robustness, folder / "robustness.png")
        figures["robustness"] = robustness.to_dict()
        tables.append(rich_table(robustness.table(), "GAP error in % where clips lose a modality"))
    _print(args.json, lambda: figures, lambda: Group(*tables, f"saved in {folder}"))
    return 0


def categorize(args: Namespace) -> int:
    """The most probable categories of each clip or video file, by name."""
    if media.are_videos(args.data):
        return media.categorize(args)
    from rich.table import Table

    from counterpoint import batch
    from counterpoint.predict import Predictor
    from counterpoint.run import RunFolder

    if args.explain:
        raise Error("--explain is for video files; `counterpoint explain` draws why for a clip of a shard")
    run = RunFolder.load(args.run)
    codes = args.codes == "iab"
    if codes and not any(run.labelling.taxonomy.codes):
        raise Error(f"{args.run}: no category of its taxonomy has an IAB code")
    if args.out:
        return _categorize_to(args, run, codes)
    if media.uses_ray(args):
        raise Error("--engine ray is for tables of many clips: name one with --out")
    dataset = _dataset(args, args.data, run.labelling, labelled=False)
    _report(dataset)
    table = Table("clip", "probability", "category", *(["IAB"] if codes else []))
    answers = []
    with _progress("categorizing", len(dataset)) as advance:
        for predictions in Predictor(run).predict(dataset):
            answers += batch.told(run, predictions, args.top, codes)
            advance(len(predictions.ids))
    for answer in answers:
        for rank, one in enumerate(answer["categories"], 1):
            table.add_row(
                answer["id"] if rank == 1 else "",
                f"{one['probability']:.3f}",
                one["path"],
                *([one["iab"] or ""] if codes else []),
                end_section=rank == len(answer["categories"]),
            )
    _print(args.json, lambda: answers, lambda: table)
    return 0


def _categorize_to(args: Namespace, run: "RunFolder", codes: bool) -> int:
    from counterpoint import batch, cluster
    from counterpoint.data.inspect import find_shards

    engine = cluster.categorization(args.address, args.workers) if media.uses_ray(args) else None
    shards = find_shards(args.data)
    with _progress("categorizing shards", len(shards)) as advance:
        done = 0

        def show(now: int, total: int) -> None:
            nonlocal done
            advance(now - done)
            done = now

        options = {"top": args.top, "codes": codes, "skip_bad": args.skip_bad_records}
        told = batch.categorize(run, shards, Path(args.out), engine=engine, progress=show, **options)
    for error in told["bad"]:
        _say(f"skipped: {error}")
    _print(args.json, lambda: told, lambda: f"{args.out}: {told['clips']:,} clips of {len(shards):,} shards")
    return 0


def demo(args: Namespace) -> int:
    """The whole way on a small synthetic world: shards, training, evaluation, names."""
    from counterpoint.demo import demo as show

    show(Path(args.out), _console)
    return 0


def tower(args: Namespace) -> int:
    """Measure correlation towers on shards, and list the pairs that surprise them."""
    from rich.console import Group

    from counterpoint.evaluation.breakdown import rich_table
    from counterpoint.evaluation.tower import draw, measure, surprising_table, table
    from counterpoint.run import RunFolder

    results = []
    runs = [RunFolder.load(folder) for folder in args.runs]
    for run in runs:
        dataset = _dataset(args, args.data, run.labelling)
        _report(dataset)
        results.append(measure(run, dataset, _console, args.workers))
    pictures = draw(results, Path(args.out) if args.out else runs[0].findings / "evaluation")
    _print(
        args.json,
        lambda: [result.to_dict() for result in results],
        lambda: Group(
            rich_table(table(results), "Correlation towers"),
            *(rich_table(surprising_table(result), f"Surprising pairs, {result.figures.name}") for result in results),
            *(f"drawn in {path}" for path in pictures),
        ),
    )
    return 0


def explain(args: Namespace) -> int:
    """Draw why a run says what it says of one clip: weights over time, correlation, and what would change its mind."""
    from counterpoint.evaluation.plots import draw_explanation
    from counterpoint.explain import explain as _explain
    from counterpoint.explain import find
    from counterpoint.predict import Predictor
    from counterpoint.run import RunFolder

    marks = [i for i, character in enumerate(args.clip) if character == "#" and i]
    if not marks:
        raise Error(f"{args.clip}: name the clip as SHARD#ID")
    if args.out and Path(args.out).suffix.lower() not in PICTURES:
        raise Error(f"{args.out}: a picture is called *{', *'.join(PICTURES)}")
    # Both may hold a #; the shard is what is there.
    mark = next((i for i in marks if Path(args.clip[:i]).exists()), marks[-1])
    shards, clip = args.clip[:mark], args.clip[mark + 1 :]
    run = RunFolder.load(args.run)
    dataset = _dataset(args, [shards], run.labelling, labelled=False)
    _report(dataset)
    index = find(dataset, clip)
    following = (index + 1) % len(dataset) if len(dataset) > 1 else None
    other = find(dataset, args.swap) if args.swap else following
    explanation = _explain(
        Predictor(run), dataset.clip(index), None if other is None else dataset.clip(other), args.top
    )
    path = draw_explanation(explanation, Path(args.out or f"{_file_name(explanation.clip)}.png"))
    _print(args.json, explanation.to_dict, lambda: shown(explanation, path))
    return 0


def shown(explanation: "Explanation", path: Path) -> Any:
    """The explanation for a terminal that takes names as they are."""
    from rich.console import Group
    from rich.table import Table

    table = Table("category", "probability", *explanation.changes)
    for number, (name, probability) in enumerate(explanation.categories):
        changes = [f"{change[number]:+.3f}" for change in explanation.changes.values()]
        table.add_row(name, f"{probability:.3f}", *changes)
    told = [f"correlation of {pair}: {probability:.3f}" for pair, probability in explanation.correlation.items()]
    return Group(table, *told, f"drawn in {path}")


def _file_name(clip: str) -> str:
    r"""A clip's id as a file's name in the folder that one is in.

    >>> _file_name("holiday/reef.mp4"), _file_name("../../etc/passwd"), _file_name("..")
    ('reef.mp4', 'passwd', 'clip')
    """
    name = PurePath(clip.replace("\\", "/")).name
    return name if name.strip(".") else "clip"


VERBS: dict[str, Callable[[Namespace], int]] = {
    "demo": demo,
    "extract": media.extract,
    "inspect": inspect,
    "train": train,
    "evaluate": evaluate,
    "categorize": categorize,
    "tower": tower,
    "explain": explain,
    "serve": serve_commands.serve,
    "ensemble": experiment_commands.ensemble,
    "reproduce": experiment_commands.reproduce,
    "browse": browse_commands.browse,
    "recommend": browse_commands.recommend,
    "taxonomy import": taxonomy_commands.import_,
    "taxonomy show": taxonomy_commands.show,
    "taxonomy check": taxonomy_commands.check,
    "taxonomy measure": taxonomy_commands.measure,
    "taxonomy diff": taxonomy_commands.diff,
    "taxonomy merge": taxonomy_commands.merge,
    "taxonomy remap": taxonomy_commands.remap,
    "data mosaic": data_commands.mosaic,
    "weights fetch": media.fetch,
}

GROUPS = {verb.split()[0] for verb in VERBS if " " in verb}

# --- arguments --------------------------------------------------------------------------------------------------------


def _parser(arguments: Sequence[str]) -> ArgumentParser:
    parser = _Parser(
        prog="counterpoint",
        usage="counterpoint VERB ...",
        description="Categorize videos from picture and sound together.",
        formatter_class=_Help,
    )
    parser.add_argument("--version", action="version", version=f"counterpoint {__version__}", help="show the version")
    verbs = parser.add_subcommands(dest="verb", title="verbs", description="`counterpoint VERB --help` tells more")

    sub = _verb(verbs, "demo", demo)
    sub.add_argument("--out", default="demo", help="folder to write to")

    media.add_extract(verbs, _verb)

    sub = _verb(verbs, "inspect", inspect, json=True, records=True)
    sub.add_argument("paths", nargs="+", help=DATA_HELP)
    sub.add_argument("--taxonomy", default=None, help=DEFAULT_TAXONOMY_HELP)

    sub = _verb(verbs, "train", train, json=True, records=True)
    _add_recipe(sub, arguments)
    sub.add_argument("--data", nargs="+", required=True, metavar="SHARDS", help=DATA_HELP)
    sub.add_argument(
        "--validation",
        nargs="+",
        default=[],
        metavar="SHARDS",
        help="shards to tune and stop on; without, a tenth of the clips",
    )
    sub.add_argument("--taxonomy", default=None, help=DEFAULT_TAXONOMY_HELP)
    sub.add_argument("--out", required=True, help="the run folder")
    sub.add_argument(
        "--tower", default=None, help="a trained correlation tower's run, for gated and concatenated fusion"
    )
    sub.add_argument("--workers", type=NonNegativeInt, default=0, help=WORKERS_HELP)
    sub.add_argument("--devices", type=PositiveInt, default=1, help=f"{DEVICES_HELP}, which share each batch")
    told = "save at least so often, beside every epoch's end"
    sub.add_argument("--checkpoint-minutes", type=NonNegativeFloat, default=10.0, metavar="MINUTES", help=told)

    sub = _verb(verbs, "evaluate", evaluate, json=True, records=True)
    sub.add_argument("run", help=RUN_HELP)
    sub.add_argument("--data", nargs="+", required=True, metavar="SHARDS", help=DATA_HELP)
    sub.add_argument("--robustness", action="store_true", help="measure also where clips lose their sound or picture")
    sub.add_argument("--out", default=None, help="where to save the figures (RUN/evaluation)")
    sub.add_argument("--workers", type=NonNegativeInt, default=0, help=WORKERS_HELP)
    sub.add_argument("--devices", type=PositiveInt, default=1, help=DEVICES_HELP)

    sub = _verb(verbs, "categorize", categorize, json=True, records=True)
    sub.add_argument("run", help=RUN_HELP)
    sub.add_argument("data", nargs="+", help=f"{DATA_HELP}; or video files, or folders of them")
    sub.add_argument("--top", type=PositiveInt, default=5, help="categories of each clip")
    sub.add_argument(
        "--codes", choices=["iab"], default=None, help="tell also each category's code in the IAB Content Taxonomy 3.1"
    )
    media.add_categorize(sub)

    sub = _verb(verbs, "tower", tower, json=True, records=True)
    sub.add_argument("runs", nargs="+", help="run folders of correlation towers")
    sub.add_argument("--data", nargs="+", required=True, metavar="SHARDS", help=DATA_HELP)
    sub.add_argument("--out", default=None, help="folder for the figures (RUN/evaluation)")
    sub.add_argument("--workers", type=NonNegativeInt, default=0, help=WORKERS_HELP)

    sub = _verb(verbs, "explain", explain, json=True, records=True)
    sub.add_argument("run", help=RUN_HELP)
    sub.add_argument("clip", metavar="SHARD#ID", help="a clip by its shard and its id, or its number in the shard")
    sub.add_argument("--swap", default=None, metavar="ID", help="the clip of that shard to swap tracks with (the next)")
    sub.add_argument("--top", type=PositiveInt, default=5, help="categories that are followed")
    sub.add_argument("--out", default=None, help="the picture to draw (ID.png)")

    serve_commands.add(verbs, _verb)
    experiment_commands.add(verbs, _verb, arguments)
    browse_commands.add(verbs, _verb, arguments)
    data_commands.add(_group(verbs, "data", "Make data sets."), _verb, arguments)
    media.add_weights(_group(verbs, "weights", "The weights of encoders."), _verb)
    taxonomy_commands.add(_group(verbs, "taxonomy", "Make, look at and check taxonomies."), _verb)
    return parser


def _group(verbs: Any, name: str, description: str) -> Any:
    """A verb that has verbs of its own."""
    parser = _Parser(description=description, usage=f"counterpoint {name} VERB ...")
    verbs.add_subcommand(name, parser, help=description[0].lower() + description[1:].rstrip("."))
    parser.prog = f"counterpoint {name}"
    return parser.add_subcommands(
        dest="verb", title="verbs", description=f"`counterpoint {name} VERB --help` tells more"
    )


def _verb(
    verbs: Any, name: str, function: Callable[[Namespace], int], *, json: bool = False, records: bool = False
) -> ArgumentParser:
    description = (function.__doc__ or "").strip()
    parser = _Parser(description=description)
    verbs.add_subcommand(name, parser, help=description[0].lower() + description[1:].rstrip("."))
    parser.prog = f"{verbs.parent_parser.prog} {name}"
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    if json:
        parser.add_argument("--json", action="store_true", help="print JSON")
    if records:
        parser.add_argument(
            "--skip-bad-records", action="store_true", help="leave damaged records out, and say which they are"
        )
    return parser


def _add_recipe(parser: ArgumentParser, arguments: Sequence[str]) -> None:
    """RECIPE and an option for every field of it: the recipe that is named decides which fields there are."""
    if arguments[0] != "train":
        return  # the recipes load PyTorch
    from counterpoint.recipes import RECIPES, TOWER_RECIPES, Recipe, TowerRecipe

    recipes = RECIPES | TOWER_RECIPES
    parser.usage = "counterpoint train RECIPE --data SHARDS ... [--taxonomy PATH] --out RUN [options]"
    names = ", ".join(recipes)
    parser.add_argument(
        "recipe", choices=list(recipes), metavar="RECIPE", help=f"{names}; `train RECIPE --help` lists its fields"
    )
    name = "".join(arguments[1:2])
    recipe = recipes.get(name)
    if recipe is None:
        if not {"-h", "--help"} & set(arguments):
            fault = "name a recipe right after `train`" if name.startswith("-") or not name else f"no recipe {name!r}"
            parser.error(f"{fault}; there are {names}")
        return
    for name, part in vars(recipe).items():
        if name in RECIPE_PARTS:
            parser.add_argument(f"--{name}", type=type(part), default=part)
    parser.add_argument("--max_steps", type=PositiveInt, default=recipe.max_steps, help="longer clips are cut")
    told = "true: clips are read as one step, the mean over their steps"
    parser.add_argument("--averaged", type=bool, default=recipe.averaged, help=told)
    if isinstance(recipe, Recipe):
        told = "those that the model reads, such as video; none: all"
        parser.add_argument("--modalities", nargs="*", type=str, default=list(recipe.modalities), help=told)
    if isinstance(recipe, TowerRecipe):
        told = "how much less whitened features count towards their last component"
        parser.add_argument("--damping", type=NonNegativeFloat, default=recipe.damping, help=told)


class _Parser(ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        prog, told = getattr(ex, "subcommand_parser", self).prog, " ".join(message.split())
        if missing := re.fullmatch(r"(the following arguments are required: )(.*)", told):
            # jsonargparse calls them as they lie in its own tree: `taxonomy.import.out`.
            names = [name.split(".") for name in missing[2].split(", ")]
            of: argparse.ArgumentParser = self
            for verb in names[0][:-1]:
                of = next(a.choices[verb] for a in of._actions if isinstance(a, argparse._SubParsersAction))
            prog, options = of.prog, of._option_string_actions
            told = missing[1] + ", ".join(f"--{name}" if f"--{name}" in options else name for *_, name in names)
        self.exit(2, f"{prog}: {told} (`{prog} --help` lists the options)\n")


class _Help(DefaultHelpFormatter):
    """Each option on a line where there is room, with its default where it tells something."""

    def __init__(self, prog: str) -> None:
        width = min(shutil.get_terminal_size().columns, 120) - 2
        super().__init__(prog, width=width, max_help_position=36 if width > 90 else 24)  # type: ignore[no-untyped-call]

    def start_section(self, heading: str | None) -> None:
        super().start_section(textwrap.fill(_plain(heading), self._width) if heading else heading)

    def add_argument(self, action: argparse.Action) -> None:
        if action.dest not in RECIPE_PARTS:  # files of options, which jsonargparse offers for each part
            super().add_argument(action)

    def _format_action(self, action: argparse.Action) -> str:
        if isinstance(action, argparse._SubParsersAction):  # the verbs, without a line above them
            return "".join(map(self._format_action, self._iter_indented_subactions(action)))
        return super()._format_action(action)

    def _get_help_string(self, action: argparse.Action) -> str:
        told = _plain(action.help or "").rstrip(".")
        if not action.option_strings or action.default in (None, [], (), argparse.SUPPRESS) or action.default is False:
            return told
        default = f"({json.dumps(action.default) if isinstance(action.default, dict) else action.default})"
        return told if told.endswith(default) else f"{told} {default}".strip()

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)  # recipes have hyphens

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        if isinstance(action.default, dict):
            return "JSON"
        return "N" if isinstance(action.default, int | float) else super()._get_default_metavar_for_optional(action)


def _plain(docstring: str) -> str:
    return docstring.replace("``", "`")


# --- shared -----------------------------------------------------------------------------------------------------------

_console = Console(stderr=True, quiet=not leading())  # of several processes, the first speaks


def _print(as_json: bool, data: Callable[[], Any], shown: Callable[[], Any], markup: bool = False) -> None:
    """As JSON, or for the eye: in the terminal's width, and unfolded into files and pipes."""
    if as_json:
        print(json.dumps(data(), indent=2, ensure_ascii=False))
    else:
        width = None if sys.stdout.isatty() else UNFOLDED
        # Neither [brackets] nor :colons: in the data's names mean anything.
        Console(width=width, markup=markup, emoji=False, highlight=False).print(shown())


def _say(line: str) -> None:
    _console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    from rich.progress import Progress

    with Progress(console=_console, transient=True, disable=not _console.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.advance(task, done)


def _taxonomy(path: str) -> "Labelling":
    from counterpoint.data.taxonomies import load_taxonomy

    return load_taxonomy(path)


def _folder(path: str) -> Path:
    from counterpoint.data.taxonomies import taxonomy_folder

    return taxonomy_folder(path)


def _taxonomy_beside(paths: Sequence[str]) -> str | None:
    from counterpoint.data.taxonomies import taxonomy_beside

    return taxonomy_beside(paths, "with --taxonomy")


def _default_taxonomy(paths: Sequence[str], where: str = "with --taxonomy") -> str:
    from counterpoint.data.taxonomies import default_taxonomy

    return default_taxonomy(paths, where)


def _dataset(args: Namespace, paths: Sequence[str], labelling: "Labelling", **options: Any) -> "Dataset":
    from counterpoint.data.dataset import Dataset

    return Dataset(paths, labelling, skip_bad=args.skip_bad_records, **options)


def _report(*datasets: "Dataset") -> None:
    """Name every damaged record once."""
    skipped = dict.fromkeys(str(error) for dataset in datasets for error in dataset.bad)
    for error in skipped:
        _say(f"skipped: {error}")
    if skipped:
        _say(f"damaged records left out: {len(skipped):,}")


def _training_data(args: Namespace, labelling: "Labelling") -> "tuple[Dataset, Dataset]":
    from counterpoint.data.dataset import training_data

    data, validation = training_data(args.data, args.validation, labelling, skip_bad=args.skip_bad_records)
    _report(data, validation)
    return data, validation


if __name__ == "__main__":
    sys.exit(main())
