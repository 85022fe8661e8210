"""The verbs about pages and lists of clips: serve, browse, recommend."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from counterpoint.cli.console import (
    ABOVE_ZERO,
    CHOICE,
    CORES,
    DATA,
    LIMITS,
    NOT_NEGATIVE,
    POSITIVE,
    RESOURCES,
    SERVER,
    Data,
    Json,
    OtherOut,
    OutFile,
    RunPath,
    SkipBad,
    Top,
    Workers,
    load_run,
    note,
    note_skipped,
    progress,
    show,
)
from counterpoint.errors import Error
from counterpoint.serve.settings import MEGABYTE, Settings, read_key

if TYPE_CHECKING:
    from counterpoint.recommendation import Recommendations

DEFAULT = Settings()
KEPT = "survey"  # below the run's folder
SURVEY_MARK = "survey.json"
EXPORT_MARKS = {".csv": b"id,link,shard,record,", ".json": b"["}


def serve(
    run: RunPath,
    *,
    host: Annotated[str, Parameter(group=SERVER)] = "127.0.0.1",
    port: Annotated[int, Parameter(group=SERVER)] = 8000,
    hosts: Annotated[list[str], Parameter(metavar="NAME...", group=SERVER)] = [],  # noqa: B006
    key_file: Annotated[Path | None, Parameter(metavar="FILE", group=SERVER)] = None,
    examples: Annotated[Path | None, Parameter(metavar="FOLDER", group=SERVER)] = None,
    stop_seconds: Annotated[float, ABOVE_ZERO, Parameter(group=SERVER)] = 60.0,
    workers: Annotated[int, POSITIVE, Parameter(group=RESOURCES)] = CORES,
    capacity: Annotated[int, POSITIVE, Parameter(group=LIMITS)] = DEFAULT.capacity,
    max_megabytes: Annotated[float, ABOVE_ZERO, Parameter(group=LIMITS)] = DEFAULT.max_bytes / MEGABYTE,
    max_seconds: Annotated[int, POSITIVE, Parameter(group=LIMITS)] = DEFAULT.max_seconds,
    max_pixels: Annotated[int, POSITIVE, Parameter(group=LIMITS)] = DEFAULT.max_pixels,
    max_clips: Annotated[int, POSITIVE, Parameter(group=LIMITS)] = DEFAULT.max_clips,
    time_limit: Annotated[float, ABOVE_ZERO, Parameter(group=LIMITS)] = DEFAULT.time_limit,
    memory_megabytes: Annotated[float, ABOVE_ZERO, Parameter(group=LIMITS)] = DEFAULT.memory / MEGABYTE,
    keep_minutes: Annotated[float, ABOVE_ZERO, Parameter(group=LIMITS)] = DEFAULT.keep_seconds / 60,
    keep_jobs: Annotated[int, POSITIVE, Parameter(group=LIMITS)] = DEFAULT.keep_jobs,
) -> None:
    """Serve a run to people (a page) and to programs (an HTTP API).

    Args:
        host: the address to listen at; 0.0.0.0: all of this machine's.
        port: 0: any that is free.
        hosts: names that the server is reached by, against pages that rebind theirs; on this machine localhost by
            default, else any.
        key_file: requests must carry the key in this file (or in $COUNTERPOINT_API_KEY).
        examples: video files and shards that the page offers.
        stop_seconds: time to finish in, when the server is stopped.
        workers: video files decoded at a time.
        capacity: clips that may wait; more are refused with 429.
        max_megabytes: larger uploads are refused with 413.
        max_seconds: longer videos are refused with 413.
        max_pixels: larger pictures are refused.
        max_clips: clips of a batch; more are refused with 413.
        time_limit: seconds that one video file may take.
        memory_megabytes: memory that decoding one file may take.
        keep_minutes: how long answers can be had for.
        keep_jobs: how many at most.

    Example:
        counterpoint serve runs/mine --examples films
    """
    try:
        from counterpoint.serve.app import serve as serve_run
        from counterpoint.serve.gate import host_names
    except ModuleNotFoundError as error:
        raise Error(f"{error.name} is missing: pip install 'counterpoint[serve]'") from error

    settings = Settings(
        workers=workers,
        max_bytes=round(max_megabytes * MEGABYTE),
        max_seconds=max_seconds,
        max_pixels=max_pixels,
        time_limit=time_limit,
        memory=round(memory_megabytes * MEGABYTE),
        capacity=capacity,
        max_clips=max_clips,
        keep_seconds=60 * keep_minutes,
        keep_jobs=keep_jobs,
        key=read_key(key_file),
        hosts=host_names(host, hosts),
        examples=examples,
    )
    serve_run(load_run(run).folder, settings, host, port, stop_seconds=stop_seconds, report=note)


def browse(
    run: RunPath,
    data: Data,
    *,
    skip_bad_records: SkipBad = False,
    out: OtherOut = None,
    export: OutFile = None,
    host: Annotated[str, Parameter(group=SERVER)] = "127.0.0.1",
    port: Annotated[int, Parameter(group=SERVER)] = 8001,
    category: Annotated[str | None, Parameter(metavar="PATH", group=CHOICE)] = None,
    role: Annotated[Literal["truth", "named", "missed", "false", "either"], Parameter(group=CHOICE)] = "truth",
    level: Annotated[int | None, NOT_NEGATIVE, Parameter(group=CHOICE)] = None,
    verdict: Annotated[Literal["right", "partly", "wrong", "unsure"] | None, Parameter(group=CHOICE)] = None,
    correlation: Annotated[tuple[float, float] | None, Parameter(metavar="FROM TO", group=CHOICE)] = None,
    search: Annotated[str, Parameter(metavar="TEXT", group=CHOICE)] = "",
    sort: Annotated[Literal["loss", "surprise", "correlation", "order"], Parameter(group=CHOICE)] = "loss",
    reverse: Annotated[bool, Parameter(group=CHOICE)] = False,
    workers: Workers = 0,
) -> None:
    """Look through a data set's clips by a run's answers, in a local page; or write a list of them.

    The page begins with the clips that the options choose, and --export writes those.

    Args:
        out: folder to keep the run's answers in; RUN/survey by default.
        export: write the list as .csv or .json, and serve no page.
        host: the address to listen at; 0.0.0.0: all of this machine's.
        port: 0: any that is free.
        category: such as Food:Recipe.
        role: what the category is: true, named by the model, true and not named (missed), named and not true (false).
        level: compare answers and labels at this level alone.
        verdict: whether the answers, which reach their thresholds, are the labels.
        correlation: correlations from and to.
        search: a part of the id.
        sort: loss and surprise: highest first; correlation: lowest first.
        reverse: the other way round.

    Example:
        counterpoint browse runs/nv-cm-c 'yt8m/validate01*.tfrecord'
        counterpoint browse runs/nv-cm-c shards --verdict wrong --export wrong.csv
    """
    from counterpoint.browse.clips import Clips, Filter, check
    from counterpoint.data.dataset import Dataset
    from counterpoint.evaluation.survey import folder_name, survey
    from counterpoint.files import check_output_file, check_output_folder

    if export:
        from counterpoint.browse.export import check_path, save

        check_path(export)
        check_output_file(export, EXPORT_MARKS[export.suffix.lower()], "--export")
    else:
        server = _browse_server()
    if out:
        check_output_folder(out, SURVEY_MARK)
    loaded = load_run(run)
    low, high = correlation or (None, None)
    chosen = Filter(category, role, level, verdict, low, high, search, sort, reverse)
    has_tower = loaded.recipe.needs_tower
    check(chosen, loaded, has_tower)  # before the long work
    dataset = Dataset(data, loaded.labelling, skip_bad=skip_bad_records)
    note_skipped(dataset)
    folder = out or loaded.findings / KEPT / folder_name(loaded, dataset)
    with progress("answering for the clips", len(dataset)) as advance:
        answers = survey(loaded, dataset, folder, workers=workers, progress=advance)
    clips = Clips(loaded, dataset, answers)
    if export:
        count = save(clips, chosen, export)
        note(f"{export}: {count:,} of {len(clips):,} clips")
        return
    server(clips, host, port, chosen.query, note)


def _browse_server() -> Callable[..., None]:
    try:
        from counterpoint.browse.app import serve as serve_clips
    except ModuleNotFoundError as error:
        raise Error(f"{error.name} is missing: pip install 'counterpoint[serve]' (--export does without)") from error
    return serve_clips


def recommend(
    run: RunPath,
    data: Annotated[Data, Parameter(help="the library, with the history's clips in it: shards of clips")],
    *,
    history: Annotated[list[str], Parameter(metavar="ID...", group=DATA, consume_multiple=(1, None))],
    skip_bad_records: SkipBad = False,
    top: Top = 10,
    index: OtherOut = None,
    as_json: Json = False,
    workers: Workers = 0,
) -> None:
    """Recommend clips that suit a history, each with its reason.

    Args:
        history: clips of the library, or @FILE of ids, one a line.
        top: how many to recommend.
        index: folder for the library's index; beside its shards by default.

    Example:
        counterpoint recommend runs/nv-cm-c shards --history 0Dbq zXbl
    """
    from counterpoint.data.dataset import Dataset
    from counterpoint.files import check_output_folder
    from counterpoint.recommendation import Library
    from counterpoint.recommendation import recommend as choose

    loaded = load_run(run)
    ids = [name for each in history for name in _ids(each)]
    if index:
        check_output_folder(index, SURVEY_MARK, option="--index")
    dataset = Dataset(data, loaded.labelling, skip_bad=skip_bad_records, labelled=False)
    note_skipped(dataset)
    with progress("answering for the library", len(dataset)) as advance:
        library = Library.open(loaded, dataset, index, workers=workers, progress=advance, report=note)
    result = choose(library, ids, top)
    show(as_json, result.to_dict, lambda: _recommendations_table(result))


def _ids(text: str) -> list[str]:
    """An id, or those in a file, one a line, named as @FILE."""
    if not text.startswith("@"):
        return [text]
    try:
        lines = Path(text[1:]).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Error(f"{text[1:]}: cannot be read as a list of ids, one a line ({error})") from error
    return [line.strip() for line in lines if line.strip()]


def _recommendations_table(result: "Recommendations") -> Any:
    from rich.console import Group
    from rich.table import Table

    interests = Table("interest", "category", "places", "clips of the history")
    for number, interest in enumerate(result.interests, 1):
        interests.add_row(str(number), interest.category or "", str(interest.places), ", ".join(interest.clips))
    clips = Table("clip", "score", "interest", "reason")
    for clip in result.clips:
        clips.add_row(clip.id, f"{clip.score:.3f}", str(clip.interest + 1), clip.reason)
    return Group(interests, clips)
