"""The verbs `browse` and `recommend`; what they need is imported when they run, as in `counterpoint.cli.main`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt, PositiveInt

from counterpoint.errors import Error

if TYPE_CHECKING:
    from counterpoint.recommend import Recommendations

PORT = 8001
KEPT = "survey"  # below the run's folder


def browse(args: Namespace) -> int:
    """Look through a data set's clips by what a run says of them, in a local page; or write a list of them."""
    from counterpoint.browse.clips import Clips, Filter, check
    from counterpoint.cli import main as cli
    from counterpoint.evaluation.survey import folder_name, survey
    from counterpoint.run import RunFolder

    if args.export:
        from counterpoint.browse.export import kind_of, save

        kind_of(Path(args.export))
    else:
        server = _server()
    run = RunFolder.load(args.run)
    low, high = args.correlation or (None, None)
    chosen = Filter(args.category, args.role, args.level, args.verdict, low, high, args.search, args.sort, args.reverse)
    tower = run.recipe.needs_tower
    check(chosen, run, tower)  # before the long work
    dataset = cli._dataset(args, args.data, run.labelling)
    cli._report(dataset)
    folder = Path(args.out) if args.out else run.findings / KEPT / folder_name(run, dataset)
    with cli._progress("looking at the clips", len(dataset)) as advance:
        answers = survey(run, dataset, folder, workers=args.workers, progress=advance)
    clips = Clips(run, dataset, answers)
    if args.export:
        count = save(clips, chosen, Path(args.export))
        cli._say(f"{args.export}: {count:,} of {len(clips):,} clips")
        return 0
    server(clips, args.host, args.port, chosen.query, cli._say)
    return 0


def _server() -> Callable[..., None]:
    try:
        from counterpoint.browse.server import serve
    except ModuleNotFoundError as error:
        raise Error(f"{error.name} is missing: pip install 'counterpoint[serve]' (--export does without)") from error
    return serve


def recommend(args: Namespace) -> int:
    """Recommend clips that suit a history, and say because of what."""
    from counterpoint.cli import main as cli
    from counterpoint.library import Library
    from counterpoint.recommend import recommend as choose
    from counterpoint.run import RunFolder

    run = RunFolder.load(args.run)
    history = [name for told in args.history for name in _ids(told)]
    dataset = cli._dataset(args, args.library, run.labelling, labelled=False)
    cli._report(dataset)
    folder = Path(args.index) if args.index else None
    with cli._progress("looking at the library", len(dataset)) as advance:
        library = Library.open(run, dataset, folder, workers=args.workers, progress=advance, say=cli._say)
    told = choose(library, history, args.top)
    cli._print(args.json, told.to_dict, lambda: _shown(told))
    return 0


def _ids(told: str) -> list[str]:
    """An id, or those in a file, one a line, named as @FILE."""
    if not told.startswith("@"):
        return [told]
    try:
        lines = Path(told[1:]).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Error(f"{told[1:]}: cannot be read as a list of ids, one a line ({error})") from error
    return [line.strip() for line in lines if line.strip()]


def _shown(told: "Recommendations") -> Any:
    from rich.console import Group
    from rich.table import Table

    interests = Table("interest", "category", "places", "clips of the history")
    for number, interest in enumerate(told.interests, 1):
        interests.add_row(str(number), interest.category or "", str(interest.places), ", ".join(interest.clips))
    clips = Table("clip", "score", "interest", "reason")
    for clip in told.clips:
        clips.add_row(clip.id, f"{clip.score:.3f}", str(clip.interest + 1), clip.reason)
    return Group(interests, clips)


def add(verbs: Any, verb: Callable[..., ArgumentParser], arguments: Sequence[str]) -> None:
    """Add the verbs to the command line's parser; ``verb`` makes one's parser."""
    from counterpoint.cli import main as cli

    sub = verb(verbs, "browse", browse, records=True)
    sub.add_argument("run", help=cli.RUN_HELP)
    sub.add_argument("--data", nargs="+", required=True, metavar="SHARDS", help=cli.DATA_HELP)
    sub.add_argument("--out", default=None, help=f"folder to keep what the run says of the clips in (RUN/{KEPT})")
    sub.add_argument("--host", default="127.0.0.1", help="the address to listen at; 0.0.0.0: all of this machine's")
    sub.add_argument("--port", type=int, default=PORT, help="0: any that is free")
    sub.add_argument("--export", default=None, metavar="FILE", help="write the list as .csv or .json instead")
    sub.add_argument(
        "--category",
        default=None,
        metavar="PATH",
        help="such as Food:Recipe; this and what follows the page begins with, and --export writes",
    )
    told = "what the category is: true, named by the model, true and not named (missed), named and not true (false)"
    sub.add_argument("--role", choices=["truth", "named", "missed", "false", "either"], default="truth", help=told)
    sub.add_argument("--level", type=NonNegativeInt, default=None, help="judge clips at this level, not their deepest")
    sub.add_argument("--verdict", choices=["correct", "wrong"], default=None, help="of the level's best category")
    sub.add_argument("--correlation", nargs=2, type=float, default=None, metavar="N", help="from and to")
    sub.add_argument("--search", default="", metavar="TEXT", help="a part of the id")
    told = "loss and surprise: highest first; correlation: lowest first"
    sub.add_argument("--sort", choices=["loss", "surprise", "correlation", "order"], default="loss", help=told)
    sub.add_argument("--reverse", action="store_true", help="the other way round")
    sub.add_argument("--workers", type=NonNegativeInt, default=0, help=cli.WORKERS_HELP)

    sub = verb(verbs, "recommend", recommend, json=True, records=True)
    sub.add_argument("run", help=cli.RUN_HELP)
    sub.add_argument("--history", nargs="+", required=True, metavar="ID", help="clips of the library, or @FILE of ids")
    sub.add_argument("--library", nargs="+", required=True, metavar="SHARDS", help=cli.DATA_HELP)
    sub.add_argument("--top", type=PositiveInt, default=10, help="how many to recommend")
    sub.add_argument("--index", default=None, help="folder for what is known of the library (beside its shards)")
    sub.add_argument("--workers", type=NonNegativeInt, default=0, help=cli.WORKERS_HELP)
