"""The verbs about models: recipes, train, evaluate, categorize, tower, explain, export."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from counterpoint.cli.console import (
    ABOVE_ZERO,
    CORES,
    DATA,
    HELD_OUT_HELP,
    LIMITS,
    NOT_NEGATIVE,
    OUTPUT,
    POSITIVE,
    RESOURCES,
    TRAINING,
    WITH_TAXONOMY,
    Columns,
    Data,
    Devices,
    Json,
    MoreData,
    OtherOut,
    OtherTaxonomy,
    Out,
    OutFile,
    Replace,
    RunPath,
    Runs,
    SkipBad,
    SkipBadLabels,
    Top,
    Workers,
    bounded,
    check_picture,
    console,
    load_run,
    note,
    note_skipped,
    progress,
    show,
    speed,
)
from counterpoint.distributed import leading
from counterpoint.errors import Error

if TYPE_CHECKING:
    from counterpoint.data.clip import Clip
    from counterpoint.media.decode import Limits
    from counterpoint.media.workers import Engine
    from counterpoint.run import RunFolder

EVALUATION_MARKS = ("metrics.json", "true-pairs.png")
BATCH = 64  # clips that the model reads at once
DOUBTS = {
    "unsure": "unsure: no category reaches its threshold",
    "unlike": "unlike: far from every clip that the model was trained on",
}


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How video files are decoded, and where."""

    workers: Annotated[
        int,
        POSITIVE,
        Parameter(
            help="video files decoded at a time; with --address, as many as the cluster has cores", group=RESOURCES
        ),
    ] = CORES
    engine: Annotated[Literal["local", "ray"], Parameter(help="ray: Ray Data (extra `ray`)", group=RESOURCES)] = "local"
    address: Annotated[
        str | None,
        Parameter(help="the Ray cluster's, or `auto`; without it, Ray starts on this machine", group=RESOURCES),
    ] = None
    max_seconds: Annotated[int, POSITIVE, Parameter(help="longer videos are cut", group=LIMITS)] = 300
    max_pixels: Annotated[int, POSITIVE, Parameter(help="larger pictures are refused", group=LIMITS)] = 8192 * 4320
    time_limit: Annotated[float, ABOVE_ZERO, Parameter(help="seconds that one video file may take", group=LIMITS)] = (
        600.0
    )

    @property
    def uses_ray(self) -> bool:
        """Whether the work goes to Ray."""
        if self.engine == "local" and self.address:
            raise Error("--address is a Ray cluster's: give --engine ray too")
        return self.engine == "ray"

    @property
    def limits(self) -> "Limits":
        from counterpoint.media.decode import Limits

        return Limits(self.max_seconds, self.max_pixels)

    def engine_of_extraction(self) -> "Engine | None":
        """What encodes video files: a Ray cluster, or without one this machine's processes."""
        from counterpoint import cluster

        return cluster.extraction(self.address) if self.uses_ray else None


DEFAULT_DECODING = Decoding()
DecodingOptions = Annotated[Decoding, Parameter(name="*")]


def recipes(recipe: str | None = None, /, *, as_json: Json = False) -> None:
    """List the recipes; or the fields of one, each of which is an option of `counterpoint train`.

    Args:
        recipe: a recipe's name, or `package.module:NAME` for your own.

    Example:
        counterpoint recipes
        counterpoint recipes nv-l
    """
    from counterpoint.cli.recipe_options import fields_table, find_recipe
    from counterpoint.recipes import recipes_table, to_json

    if recipe is None:
        table = recipes_table()
        plain = [dict(zip(table.header, row, strict=True)) for row in table.rows]
        show(as_json, lambda: plain, lambda: table)
    else:
        found = find_recipe(recipe)
        show(as_json, lambda: to_json(found), lambda: fields_table(found))


def learn(
    videos: Annotated[Data, Parameter(help="folders of video files, or files", metavar="VIDEOS...")],
    *,
    labels: Annotated[str | None, Parameter(metavar="CSV", group=DATA)] = None,
    taxonomy: Annotated[str | None, Parameter(metavar="TAXONOMY", group=DATA)] = None,
    encoders: Annotated[str, Parameter(metavar="NAME", group=DATA)] = "lite",
    columns: Columns = "",
    skip_bad_labels: SkipBadLabels = False,
    replace: Replace = False,
    out: Out,
    as_json: Json = False,
    decoding: DecodingOptions = DEFAULT_DECODING,
) -> int:
    """Learn your own categories from a folder of videos: extract, compare recipes, train, and report how good it is.

    The same command goes on where it was interrupted. With more videos, or other labels, it extracts what is new and
    learns again.

    Args:
        labels: a table `path,categories`, or `folders`: a video's category is its folder below VIDEOS. By default
            labels.csv in VIDEOS if it is there, else `folders`.
        taxonomy: the taxonomy of these categories; by default one is made from their names.
        encoders: what makes features of pictures and sound.
        out: the run folder, with the report in report.html.

    Example:
        counterpoint learn videos/ --out runs/mine
        counterpoint learn videos/ --labels labels.csv --out runs/mine
    """
    from rich.console import Group

    from counterpoint.learning.learn import learn as make

    engine = decoding.engine_of_extraction()
    with speed("extracting") as advance:
        learned = make(
            videos,
            out,
            labels,
            taxonomy,
            encoders,
            workers=decoding.workers,
            limits=decoding.limits,
            time_limit=decoding.time_limit,
            engine=engine,
            progress=advance,
            console=console,
            columns=columns.split(",") if columns else (),
            skip_bad_labels=skip_bad_labels,
            replace=replace,
        )
    result = learned.result
    lines = [result.curve.sentence, *result.warnings, f"{out}: {result.summary}", f"report: {learned.report}"]
    show(
        as_json,
        lambda: {"run": str(out), "report": str(learned.report), **result.to_dict()},
        lambda: Group(*result.tables(), *lines),
    )
    return int(bool(learned.extraction.failures))


def train(
    recipe: Annotated[str, Parameter(group=DATA)],
    data: Data,
    *,
    validation: Annotated[MoreData, Parameter(help=HELD_OUT_HELP)] = [],  # noqa: B006
    taxonomy: OtherTaxonomy = None,
    skip_bad_records: SkipBad = False,
    out: Out,
    as_json: Json = False,
    tower: Annotated[str | None, Parameter(metavar="RUN", group=TRAINING)] = None,
    start: Annotated[str | None, Parameter(name="--from", metavar="RUN", group=TRAINING)] = None,
    checkpoint_minutes: Annotated[float, NOT_NEGATIVE, Parameter(metavar="MINUTES", group=TRAINING)] = 10.0,
    workers: Workers = 0,
    devices: Devices = 1,
    fields: Annotated[dict[str, Any] | None, Parameter(parse=False)] = None,
) -> int:
    """Train a recipe on shards, into a run folder; the same command goes on where it was interrupted.

    Every field of the recipe is an option too, such as --max-steps 120 or --training.learning-rate 1e-3:
    `counterpoint train RECIPE --help` and `counterpoint recipes RECIPE` list those of a recipe.

    Args:
        recipe: a recipe's name (`counterpoint recipes` lists them), `package.module:NAME` for your own, or a run for
            its recipe; with --from, that run's without.
        out: the run folder.
        tower: a trained correlation tower's run, for gated and concatenated fusion.
        start: a trained run to go on from, with more epochs, another rate or other clips; categories that it knows
            keep their weights, and new ones are learned.
        checkpoint_minutes: save at least so often, beside every epoch's end.

    Example:
        counterpoint train nv-l --data 'yt8m/train*.tfrecord' --out runs/nv-l
        counterpoint train nv-cm-c --tower runs/tower --data shards --out runs/mine --training.batch-size 64
        counterpoint train --from runs/mine --data shards more-shards --out runs/next --training.learning-rate 1e-4
    """
    from counterpoint import distributed
    from counterpoint.cli.recipe_options import find_recipe, with_fields
    from counterpoint.data import taxonomies
    from counterpoint.data.dataset import training_data
    from counterpoint.data.features import FeatureSet
    from counterpoint.recipes import TowerRecipe
    from counterpoint.run import RunFolder
    from counterpoint.training.folder import check_settings, own_tower
    from counterpoint.training.selection import in_words
    from counterpoint.training.train import train as fit

    chosen = with_fields(find_recipe(recipe), fields or {})
    start_run = load_run(start) if start else None
    tower_run = load_run(tower) if tower else own_tower(start_run) if chosen.needs_tower else None
    check_settings(chosen, out, tower_run, start_run)
    distributed.join()
    with distributed.leader_first():  # which makes the shards' indexes
        labelling = taxonomies.load_taxonomy(taxonomy or taxonomies.default_taxonomy(data, WITH_TAXONOMY))
        clips, others = training_data(data, validation, labelling, skip_bad=skip_bad_records)
        note_skipped(clips, others)
        run = RunFolder(out, chosen, labelling, FeatureSet.of(clips.paths))
        run.features.check(FeatureSet.of(others.paths), "the model to train")
    note(
        f"{chosen.name}: {len(clips):,} clips, {len(others):,} for validation, "
        f"{run.features}, {len(labelling.taxonomy)} categories"
    )
    options: dict[str, Any] = {"workers": workers, "minutes": checkpoint_minutes, "console": console}
    best = fit(run, clips, others, tower=tower_run, start=start_run, **options)
    if not leading():
        return 0
    figure = "auc" if isinstance(chosen, TowerRecipe) else "gap"
    show(
        as_json,
        lambda: {"run": str(out), f"validation_{figure}": best},
        lambda: f"{out}: validation {in_words(figure, best)}",
    )
    return 0


def evaluate(
    run: RunPath,
    data: Data,
    *,
    skip_bad_records: SkipBad = False,
    robustness: Annotated[bool, Parameter(group=DATA)] = False,
    out: OtherOut = None,
    as_json: Json = False,
    workers: Workers = 0,
    devices: Devices = 1,
) -> int:
    """Measure a run on shards: GAP, MAP, PERR and Hit@1, by level and top-level category, and precision and recall.

    Args:
        robustness: measure also where clips lose their sound or picture.
        out: where to save the figures; RUN/evaluation by default.

    Example:
        counterpoint evaluate runs/nv-l --data 'yt8m/validate01*.tfrecord'
    """
    from rich.console import Group

    from counterpoint import distributed
    from counterpoint.data.dataset import Dataset
    from counterpoint.evaluation.evaluate import evaluate as measure
    from counterpoint.evaluation.plots import draw_confusion, draw_robustness
    from counterpoint.evaluation.robustness import RobustnessAccumulator
    from counterpoint.files import check_output_folder, check_writable

    loaded = load_run(run)
    if out:
        check_output_folder(out, *EVALUATION_MARKS)
    folder = out or loaded.findings / "evaluation"
    check_writable(folder)
    distributed.join()
    with distributed.leader_first():
        dataset = Dataset(data, loaded.labelling, skip_bad=skip_bad_records)
    note_skipped(dataset)
    accumulator = RobustnessAccumulator(list(loaded.features.sizes)) if robustness else None
    breakdown = measure(loaded, dataset, console, workers, accumulator)
    if not leading():
        return 0
    figures = breakdown.to_dict()
    tables = [
        breakdown.table(),
        breakdown.categories_table(),
    ]
    if breakdown.categories:
        tables += breakdown.categories.tables()
    curves = accumulator.compute() if accumulator else None
    if curves:
        figures["robustness"] = curves.to_dict()
        tables.append(curves.table())
    try:
        breakdown.save(folder)
        if breakdown.categories:
            draw_confusion(breakdown.categories, folder / "confusion.png")
        if curves:
            curves.save(folder / "robustness.json")
            draw_robustness(curves, folder / "robustness.png")
    except OSError as error:  # the figures took long: they are shown even so
        show(as_json, lambda: figures, lambda: Group(*tables))
        raise Error(
            f"{folder}: the figures above could not be saved ({error.strerror}); choose another --out"
        ) from error
    show(as_json, lambda: figures, lambda: Group(*tables, f"saved in {folder}"))
    return 0


def categorize(
    run: RunPath,
    data: Annotated[Data, Parameter(help="shards of clips, or video files, or folders of either; also URLs of shards")],
    *,
    skip_bad_records: SkipBad = False,
    top: Top = 5,
    codes: Annotated[Literal["iab"] | None, Parameter(group=OUTPUT)] = None,
    out: OutFile = None,
    explain: OtherOut = None,
    as_json: Json = False,
    decoding: DecodingOptions = DEFAULT_DECODING,
) -> int:
    """Name the most probable categories of each clip or video file, and whether a video's sound fits its picture.

    Args:
        top: categories of each clip.
        codes: show also each category's code in the IAB Content Taxonomy 3.1.
        out: write a table there instead, .jsonl or .csv; of shards the same command goes on where it was stopped.
        explain: draw there why, for each video file.

    Example:
        counterpoint categorize youtube8m yt8m/test0000.tfrecord --top 3
        counterpoint categorize runs/mine holiday.mp4 --explain why
    """
    from counterpoint import batch
    from counterpoint.media.extract import are_videos

    loaded = load_run(run)
    if codes and not any(loaded.labelling.taxonomy.codes):
        raise Error(f"{run}: no category of its taxonomy has an IAB code")
    if out:
        batch.check(out)
    decoding.uses_ray  # noqa: B018  # raises where the options contradict each other
    options: dict[str, Any] = {"top": top, "codes": bool(codes)}
    if are_videos(data):
        return _categorize_videos(loaded, run, data, out, explain, as_json, decoding, **options)
    if explain:
        raise Error("--explain is for video files; `counterpoint explain` draws why for a clip of a shard")
    if out:
        return _categorize_to(loaded, data, out, as_json, decoding, skip_bad=skip_bad_records, **options)
    if decoding.uses_ray:
        raise Error("--engine ray is for tables of many clips: name one with --out")
    return _categorize_clips(loaded, data, as_json, skip_bad=skip_bad_records, **options)


def _categorize_clips(
    run: "RunFolder", data: Sequence[str], as_json: bool, *, skip_bad: bool, top: int, codes: bool
) -> int:
    from counterpoint import batch
    from counterpoint.data.dataset import Dataset
    from counterpoint.predict import Predictor

    dataset = Dataset(data, run.labelling, skip_bad=skip_bad, labelled=False)
    note_skipped(dataset)
    answers = []
    with progress("categorizing", len(dataset)) as advance:
        for predictions in Predictor(run).predict(dataset):
            answers += batch.rows(run, predictions, top, codes)
            advance(len(predictions.ids))
    show(as_json, lambda: answers, lambda: _answers_table("clip", answers, codes))
    return 0


def _categorize_to(
    run: "RunFolder", data: Sequence[str], out: Path, as_json: bool, decoding: Decoding, **options: Any
) -> int:
    from counterpoint import batch, cluster
    from counterpoint.data.inspect import find_shards

    engine = cluster.categorization(decoding.address, decoding.workers) if decoding.uses_ray else None
    shards = find_shards(data)
    with progress("categorizing shards", len(shards)) as advance:
        before = 0

        def update(done: int, total: int) -> None:
            nonlocal before
            advance(done - before)
            before = done

        result = batch.categorize(run, shards, out, engine=engine, progress=update, **options)
    for error in result["bad"]:
        note(f"skipped: {error}")
    show(as_json, lambda: result, lambda: f"{out}: {result['clips']:,} clips of {len(shards):,} shards")
    return 0


def _categorize_videos(
    run: "RunFolder",
    name: str,
    data: Sequence[str],
    out: Path | None,
    pictures: Path | None,
    as_json: bool,
    decoding: Decoding,
    *,
    top: int,
    codes: bool,
) -> int:
    from counterpoint import batch
    from counterpoint.explanation import explain
    from counterpoint.media import encoders
    from counterpoint.media.extract import clips, find
    from counterpoint.media.workers import Failure
    from counterpoint.predict import Predictor

    sources = find(data)
    if pictures:
        for source in sources:
            check_picture(pictures / f"{source.id}.png", "--explain")
    predictor = Predictor(run)
    options: dict[str, Any] = {"workers": decoding.workers, "limits": decoding.limits}
    options |= {"time_limit": decoding.time_limit, "engine": decoding.engine_of_extraction()}
    made: list[Clip] = []
    failed = 0
    with speed("extracting") as advance:
        for number, (source, result) in enumerate(clips(sources, encoders.of(run.features, name), **options), 1):
            advance(number, len(sources))
            if isinstance(result, Failure):
                failed += 1
                note(f"failed: {result.path}: {result.cause}")
            else:
                made.append(result.clip)
                for text in result.notes:
                    note(f"{source.path}: {text}")
    answers: list[dict[str, Any]] = []
    for start in range(0, len(made), BATCH):
        some = made[start : start + BATCH]
        predictions = predictor.predict_clips(some)
        answers += batch.rows_of(run, [clip.id for clip in some], predictions, top, codes)
    if pictures:
        for clip, answer in zip(made, answers, strict=True):
            failed += not _draw(explain(predictor, clip, top=top), pictures / f"{clip.id}.png", answer)
    if out:
        count = batch.write(out, answers)
        show(as_json, lambda: {"out": str(out), "clips": count}, lambda: f"{out}: {count:,} clips")
    elif as_json or answers:
        show(as_json, lambda: answers, lambda: _answers_table("video", answers, codes, correlation=True))
    if pictures and answers:
        note(f"drawn in {pictures}")
    return int(bool(failed))


def _draw(explanation: Any, path: Path, answer: dict[str, Any]) -> bool:
    """Draw an explanation and name the picture in the answer; whether that was possible."""
    from counterpoint.evaluation.plots import draw_explanation

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        answer["explanation"] = str(draw_explanation(explanation, path))
        return True
    except OSError as error:  # the answers are worth more
        note(f"{path}: cannot be written ({error.strerror or error})")
        return False


def _answers_table(kind: str, answers: list[dict[str, Any]], codes: bool, correlation: bool = False) -> Any:
    from rich.console import Group
    from rich.table import Table

    doubtful = any(answer[word] for answer in answers for word in DOUBTS)
    table = Table(
        *(kind, "probability", "category", *(["IAB"] * codes), *(["correlation"] * correlation)),
        *(["doubt"] * doubtful),
    )
    for answer in answers:
        pairs = ", ".join(f"{value:.2f}" for value in answer.get("correlation", {}).values())
        categories = answer["categories"]
        doubts = [word for word in DOUBTS if answer[word]]
        for rank, one in enumerate(categories, 1):
            table.add_row(
                answer["id"] if rank == 1 else "",
                f"{one['probability']:.3f}",
                one["path"],
                *([one["iab"] or ""] if codes else []),
                *([pairs if rank == 1 else ""] if correlation else []),
                *([", ".join(doubts) if rank == 1 else ""] if doubtful else []),
                end_section=rank == len(categories),
            )
    lines = [meaning for word, meaning in DOUBTS.items() if any(answer[word] for answer in answers)]
    return Group(table, *lines)


def tower(
    runs: Runs,
    *,
    data: Data,
    skip_bad_records: SkipBad = False,
    out: OtherOut = None,
    as_json: Json = False,
    workers: Workers = 0,
) -> None:
    """Measure correlation towers on shards, and list the pairs that surprise them.

    Args:
        runs: run folders of correlation towers.
        out: folder for the figures; RUN/evaluation by default.

    Example:
        counterpoint tower runs/tower --data 'yt8m/validate01*.tfrecord'
    """
    from rich.console import Group

    from counterpoint.data.dataset import Dataset
    from counterpoint.evaluation.tower import draw, measure, surprising_table, table
    from counterpoint.files import check_output_folder

    loaded = [load_run(folder) for folder in runs]
    if out:
        check_output_folder(out, *EVALUATION_MARKS)
    results = []
    for run in loaded:
        dataset = Dataset(data, run.labelling, skip_bad=skip_bad_records)
        note_skipped(dataset)
        results.append(measure(run, dataset, console, workers))
    pictures = draw(results, out or loaded[0].findings / "evaluation")
    show(
        as_json,
        lambda: [result.to_dict() for result in results],
        lambda: Group(
            table(results),
            *(surprising_table(result) for result in results),
            *(f"drawn in {path}" for path in pictures),
        ),
    )


def explain(
    run: RunPath,
    clip: Annotated[str, Parameter(metavar="SHARD#ID", group=DATA)],
    *,
    swap: Annotated[str | None, Parameter(metavar="ID", group=DATA)] = None,
    skip_bad_records: SkipBad = False,
    top: Top = 5,
    out: OutFile = None,
    as_json: Json = False,
) -> None:
    """Draw why a run answers as it does for one clip: weights over time, correlation, and answers without a modality.

    Args:
        clip: a clip by its shard and its id, or its number in the shard.
        swap: the clip of that shard to swap tracks with; the next one by default.
        top: categories that are followed.
        out: the picture to draw, ID.png by default.

    Example:
        counterpoint explain demo/nv-cm-c demo/shards/test-0000.tfrecord#test-000002
    """
    from counterpoint.data.dataset import Dataset
    from counterpoint.evaluation.plots import draw_explanation
    from counterpoint.explanation import explain as explain_clip
    from counterpoint.explanation import find, split_name
    from counterpoint.predict import Predictor

    shard, clip_id = split_name(clip)
    if out:
        check_picture(out)
    loaded = load_run(run)
    dataset = Dataset([shard], loaded.labelling, skip_bad=skip_bad_records, labelled=False)
    note_skipped(dataset)
    index = find(dataset, clip_id)
    following = (index + 1) % len(dataset) if len(dataset) > 1 else None
    other = find(dataset, swap) if swap else following
    record = dataset.clip(index)
    path = out or Path(f"{_file_name(record.id)}.png")
    check_picture(path)
    explanation = explain_clip(Predictor(loaded), record, None if other is None else dataset.clip(other), top)
    draw_explanation(explanation, path)
    if loaded.chance_tower:
        note(f"no correlation is shown: this model's tower is no better than chance ({loaded.tower_reliability})")
    show(as_json, explanation.to_dict, lambda: explanation_table(explanation, path))


def explanation_table(explanation: Any, path: Path) -> Any:
    """The explanation for a terminal that takes names as they are."""
    from rich.console import Group
    from rich.table import Table

    table = Table("category", "probability", *explanation.changes)
    for number, (name, probability) in enumerate(explanation.categories):
        changes = [f"{change[number]:+.3f}" for change in explanation.changes.values()]
        table.add_row(name, f"{probability:.3f}", *changes)
    lines = [f"correlation of {pair}: {probability:.3f}" for pair, probability in explanation.correlation.items()]
    return Group(table, *lines, f"drawn in {path}")


def _file_name(clip: str) -> str:
    r"""A clip's id as a file's name in the folder that one is in.

    >>> _file_name("holiday/reef.mp4"), _file_name("../../etc/passwd"), _file_name("..")
    ('reef.mp4', 'passwd', 'clip')
    """
    name = PurePath(clip.replace("\\", "/")).name
    return name if name.strip(".") else "clip"


def export(
    source: Annotated[
        str,
        Parameter(
            name="RUN",
            help="a run, for a model's file; or answers of `counterpoint categorize` (.jsonl, .json, .csv)",
            metavar="RUN|ANSWERS",
            group=DATA,
        ),
    ],
    /,
    *,
    out: Annotated[Path, Parameter(metavar="FILE", group=OUTPUT)],
    format: Annotated[  # noqa: A002
        Literal["onnx", "torchscript", "pt2", "fiftyone", "label-studio", "csv"], Parameter(group=OUTPUT)
    ],
    media: Annotated[str, Parameter(group=OUTPUT)] = "",
    above: Annotated[float, Parameter(validator=bounded(0, 1), group=OUTPUT)] = 0.5,
    as_json: Json = False,
) -> int:
    """Write a run's model, or its answers, for other software.

    A model's file (onnx, pt2) takes padded features and masks and gives probabilities by category. It is written only
    where it answers as the library does. Answers go to FiftyOne, to Label Studio, or to a spreadsheet (csv).

    Args:
        out: the file.
        format: of a model: onnx or pt2; of answers: fiftyone, label-studio or csv.
        media: fiftyone and label-studio: a folder or a URL that clips' ids are paths below.
        above: label-studio: the probability from which on a category is a choice.

    Example:
        counterpoint export runs/mine --out model.onnx --format onnx
        counterpoint export answers.jsonl --out tasks.json --format label-studio --media https://example.com/videos
    """
    from counterpoint import exporting

    path = Path(source)
    is_file = path.suffix in exporting.ANSWERS and not path.is_dir()
    if is_file and format in exporting.MODEL_FORMATS:
        raise Error(f"{source}: answers, and {format} is a format of models; name a run, or use --format csv")
    if not is_file and format in exporting.ANSWER_FORMATS:
        raise Error(
            f"{source}: {format} is a format of answers, not of models; make them with "
            f"`counterpoint categorize {source} VIDEOS --out answers.jsonl`, and export answers.jsonl"
        )
    if format == "fiftyone" or format == "label-studio" or format == "csv":
        clips = exporting.export_answers(path, out, format, media=media, above=above)
        show(as_json, lambda: {"out": str(out), "format": format, "clips": clips}, lambda: f"{out}: {clips:,} clips")
        return 0
    made = exporting.export_model(load_run(source), out, format)
    shown: dict[str, Any] = {"out": str(out), "format": format, "inputs": made.inputs, "outputs": made.outputs}
    shown |= {"clips": made.clips, "difference": made.difference}
    show(
        as_json,
        lambda: shown,
        lambda: (
            f"{out}: {', '.join(made.inputs)} -> {', '.join(made.outputs)}; answers differ from the library's by "
            f"at most {made.difference:.1g} on {made.clips} clips"
        ),
    )
    return 0
