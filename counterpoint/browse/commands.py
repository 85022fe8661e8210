"""The verbs `browse` and `recommend`; what they need is imported when they run, as in `counterpoint.cli`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt, PositiveInt

from counterpoint.errors import CounterpointError

if TYPE_CHECKING:
    from counterpoint.recommend import Recommendations

PORT = 8100


def recommend(args: Namespace) -> int:
    """Recommend clips that suit a history, and say because of what."""
    from counterpoint import cli
    from counterpoint.library import Library
    from counterpoint.recommend import recommend as choose
    from counterpoint.run import Run

    run = Run.load(args.run)
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
        lines = Path(told[1:]).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CounterpointError(f"{told[1:]}: cannot be read as a list of ids, one a line ({error})") from error
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
    from counterpoint import cli

    sub = verb(verbs, "recommend", recommend, json=True, records=True)
    sub.add_argument("run", help="a run folder")
    sub.add_argument("--history", nargs="+", required=True, metavar="ID", help="clips of the library, or @FILE of ids")
    sub.add_argument("--library", nargs="+", required=True, metavar="SHARDS", help=cli.DATA_HELP)
    sub.add_argument("--top", type=PositiveInt, default=10, help="how many to recommend")
    sub.add_argument("--index", default=None, help="folder for what is known of the library (beside its shards)")
    sub.add_argument("--workers", type=NonNegativeInt, default=0, help=cli.WORKERS_HELP)
