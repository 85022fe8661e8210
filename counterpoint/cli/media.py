"""The command line's verbs for video files: their arguments and what they do."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import PositiveFloat, PositiveInt

from counterpoint.errors import Error

if TYPE_CHECKING:
    from counterpoint.media.extract import Report
    from counterpoint.media.workers import Source

EVERY = 60.0  # seconds between lines of progress where there is no terminal
VerbAdder = Callable[..., ArgumentParser]


def add_extract(verbs: Any, add: VerbAdder) -> None:
    """The verb `extract`."""
    sub = add(verbs, "extract", extract, json=True)
    sub.add_argument("videos", nargs="+", metavar="FOLDER", help="folders of video files, or files")
    sub.add_argument("--out", required=True, metavar="SHARDS", help="the folder to write shards to, or to go on with")
    sub.add_argument("--labels", default=None, metavar="CSV", help="`path,categories`; only these files are extracted")
    sub.add_argument(
        "--taxonomy", default=None, help="the taxonomy of these categories (one is made from the labels file)"
    )
    sub.add_argument("--encoders", default="lite", help="what makes features of pictures and sound")
    add_limits(sub)


def add_weights(verbs: Any, add: VerbAdder) -> None:
    """What is below the verb `weights`."""
    sub = add(verbs, "fetch", fetch)
    sub.add_argument("--from", dest="source", default=None, metavar="FOLDER", help="take the files from this folder")


def fetch(args: Namespace) -> int:
    """Fetch the weights of YouTube-8M's encoders: 420 MB, from where they were published or from a folder."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    from counterpoint.media import weights

    console = _cli()._console
    columns = ("{task.description}", BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: dict[str, Any] = {}

        def show(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name)
            bar.update(tasks[name], completed=done, total=total or None)

        new = weights.fetch(Path(args.source) if args.source else None, show)
    print(f"{weights.folder()}: {len(new)} new files, {len(weights.URLS) - len(new)} there before")
    return 0


def add_limits(parser: ArgumentParser) -> None:
    """What decoding files may take."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    told = "video files decoded at a time; with --address, as many as the cluster has cores"
    parser.add_argument("--workers", type=PositiveInt, default=cores, help=told)
    parser.add_argument("--max-seconds", type=PositiveInt, default=300, help="longer videos are cut")
    parser.add_argument("--max-pixels", type=PositiveInt, default=8192 * 4320, help="larger pictures are refused")
    parser.add_argument("--time-limit", type=PositiveFloat, default=600.0, help="seconds that one video file may take")
    parser.add_argument("--engine", choices=["local", "ray"], default="local", help="`ray`: Ray Data (extra `ray`)")
    parser.add_argument("--address", default=None, help="the Ray cluster's, or `auto`; without, Ray starts here")


def add_categorize(parser: ArgumentParser) -> None:
    """What `categorize` can do with video files, and with many."""
    told = "write a table there instead, .jsonl or .csv; of shards the same command goes on where it was stopped"
    parser.add_argument("--out", default=None, metavar="FILE", help=told)
    parser.add_argument("--explain", default=None, metavar="FOLDER", help="draw there why, for each video file")
    add_limits(parser)


def extract(args: Namespace) -> int:
    """Make feature shards of video files, with labels from a table; the exit code is 1 where some could not be read."""
    from counterpoint.media import labels as labelling
    from counterpoint.media.encoders import build
    from counterpoint.media.extract import find
    from counterpoint.taxonomy import load
    from counterpoint.taxonomy.mapping import LABELS_FILE

    sources = find(args.videos)
    labels = None
    if args.taxonomy and not args.labels:
        raise Error("--taxonomy is for the categories of a labels file: give --labels too")
    if args.labels:
        there = Path(args.out) / "taxonomy"
        begun = (there / LABELS_FILE).exists()  # which is written last, and before any clip
        known = load(args.taxonomy or there) if args.taxonomy or begun else None
        labels = labelling.read(args.labels, known, fixed=args.taxonomy is not None)
        named = [source for source in sources if source.path.resolve() in labels.of]
        if not named:
            raise Error(f"{args.labels}: names none of the {len(sources)} video files")
        if len(named) < len(sources):
            _say(f"{len(sources) - len(named):,} video files left out, which {args.labels} does not name")
        sources = named
    report = _extracted(args, sources, args.out, build(args.encoders), labels)
    _cli()._print(
        args.json,
        lambda: {"out": args.out, **report.to_dict()},
        lambda: (
            f"{args.out}: {report.new + report.before:,} clips in {report.shards} shards, "
            f"{report.before:,} of them made before; {len(report.failures)} files failed"
        ),
    )
    return int(bool(report.failures))


def are_videos(paths: Sequence[str]) -> bool:
    """Whether these name video files, or folders with such and without shards."""
    from counterpoint.media.decode import SOUNDS, SUFFIXES

    def is_video(path: Path) -> bool:
        if path.is_dir():
            videos = any(p.suffix.lower() in SUFFIXES for p in path.rglob("*"))
            if videos and any(path.rglob("*.tfrecord")):
                raise Error(f"{path}: holds video files and shards; name the ones to categorize")
            return videos
        return path.suffix.lower() in SUFFIXES | SOUNDS

    kinds = {is_video(Path(path)) for path in paths}
    if len(kinds) > 1:
        raise Error("video files and shards cannot be categorized in one call")
    return kinds == {True}


def categorize(args: Namespace) -> int:
    """The most probable categories of each video file, and whether its sound belongs to its picture."""
    from rich.table import Table

    from counterpoint import batch
    from counterpoint.data.dataset import Dataset
    from counterpoint.evaluation.plots import draw_explanation
    from counterpoint.explain import explain
    from counterpoint.media import encoders
    from counterpoint.media.extract import find
    from counterpoint.predict import Predictor
    from counterpoint.run import RunFolder

    if args.out:
        batch.check(Path(args.out))
    run = RunFolder.load(args.run)
    predictor = Predictor(run)
    taxonomy = run.labelling.taxonomy
    if args.codes and not any(taxonomy.codes):
        raise Error(f"{args.run}: no category of its taxonomy has an IAB code")
    codes = dict(zip(taxonomy.paths, taxonomy.codes, strict=True)) if args.codes else {}
    failed = 0
    answers: list[dict[str, Any]] = []
    table = Table("video", "probability", "category", *(["IAB"] if codes else []), "correlation")
    with tempfile.TemporaryDirectory() as folder:
        report = _extracted(args, find(args.data), folder, encoders.of(run.features, args.run))
        made = Dataset([folder], run.labelling, labelled=False) if report.new else None
        for number in range(report.new):
            assert made is not None
            told = explain(predictor, made.clip(number), top=args.top)
            correlation = ", ".join(f"{value:.2f}" for value in told.correlation.values())
            categories = [
                {"path": path, "probability": probability, **({"iab": codes[path] or None} if codes else {})}
                for path, probability in told.categories
            ]
            answer = {"id": told.clip, "categories": categories, "correlation": told.correlation}
            for rank, (path, probability) in enumerate(told.categories):
                table.add_row(
                    told.clip if rank == 0 else "",
                    f"{probability:.3f}",
                    path,
                    *([codes[path]] if codes else []),
                    correlation if rank == 0 else "",
                    end_section=rank == len(told.categories) - 1,
                )
            if args.explain:
                picture = Path(args.explain) / f"{told.clip}.png"
                try:
                    picture.parent.mkdir(parents=True, exist_ok=True)
                    answer["explanation"] = str(draw_explanation(told, picture))
                except OSError as error:  # the answers are worth more
                    failed += 1
                    _say(f"{picture}: cannot be written ({error.strerror or error})")
            answers.append(answer)
    if args.out:
        clips = batch.write(Path(args.out), answers)
        _cli()._print(args.json, lambda: {"out": args.out, "clips": clips}, lambda: f"{args.out}: {clips:,} clips")
    elif args.json or answers:
        _cli()._print(args.json, lambda: answers, lambda: table)
    if args.explain and answers:
        _say(f"drawn in {args.explain}")
    return int(bool(report.failures or failed))


def uses_ray(args: Namespace) -> bool:
    """Whether the work goes to Ray."""
    if args.engine == "local" and args.address:
        raise Error("--address is a Ray cluster's: give --engine ray too")
    return bool(args.engine == "ray")


def _extracted(args: Namespace, sources: "Sequence[Source]", out: str, made_by: Any, labels: Any = None) -> "Report":
    from counterpoint import cluster
    from counterpoint.media.decode import Limits
    from counterpoint.media.extract import extract_sources as make

    limits = Limits(args.max_seconds, args.max_pixels)
    engine = cluster.extraction(args.address) if uses_ray(args) else None
    with _progress() as progress:
        report = make(
            sources,
            out,
            made_by,
            labels,
            workers=args.workers,
            limits=limits,
            time_limit=args.time_limit,
            progress=progress,
            engine=engine,
        )
    for path, note in report.notes:
        _say(f"{path}: {note}")
    for path, cause in report.failures:
        _say(f"failed: {path}: {cause}")
    return report


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Clips done, clips per second and the time left: a bar on a terminal, now and then a line elsewhere."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = _cli()._console
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"), TimeRemainingColumn())
    begun = last = time.monotonic()
    with Progress("extracting", *columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None, speed="")

        def show(done: int, total: int) -> None:
            nonlocal last
            now = time.monotonic()
            speed = done / (now - begun)
            bar.update(task, completed=done, total=total, speed=f"{speed:.2f} clips/s")
            if not console.is_terminal and done and now - last > EVERY:
                last = now
                left = (total - done) / speed / 60
                _say(f"{done:,} of {total:,} files, {speed:.2f} clips/s, {left:.0f} minutes left")

        yield show


def _say(line: str) -> None:
    _cli()._say(line)


def _cli() -> Any:
    from counterpoint.cli import main as cli  # which imports this module

    return cli
