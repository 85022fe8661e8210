"""The verbs about data: inspect, extract, data mosaic, weights fetch."""

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from counterpoint.cli.console import (
    DATA,
    DEFAULT_TAXONOMY_HELP,
    JSON,
    OUTPUT,
    SHARDS_HELP,
    WITH_TAXONOMY,
    Columns,
    Data,
    Json,
    MoreData,
    OtherTaxonomy,
    Out,
    Replace,
    SkipBad,
    SkipBadLabels,
    download,
    note,
    note_skipped,
    options_of,
    progress,
    show,
    speed,
)
from counterpoint.cli.models import DEFAULT_DECODING, DecodingOptions
from counterpoint.data.mosaic import CLIPS, Mosaic

if TYPE_CHECKING:
    MosaicOptions = dict[str, Any]
else:
    MosaicOptions = options_of(Mosaic, "The mosaic", {field.name: field.default for field in fields(Mosaic)})


def inspect(
    data: Data,
    *,
    taxonomy: OtherTaxonomy = None,
    skip_bad_records: SkipBad = False,
    write_index: Annotated[bool, Parameter(group=OUTPUT)] = False,
    as_json: Json = False,
) -> None:
    """Show what is in shards: clips, modalities, steps, labels, categories, problems.

    Args:
        write_index: also write each shard's index beside it, to be uploaded with it.

    Example:
        counterpoint inspect yt8m/
    """
    from counterpoint.data import taxonomies, tfrecord
    from counterpoint.data.inspect import find_shards
    from counterpoint.data.inspect import inspect as look

    path = taxonomy or taxonomies.taxonomy_beside(data, WITH_TAXONOMY)
    labelling = taxonomies.load_taxonomy(path) if path else None
    inspection = look(data, skip_bad=skip_bad_records, labelling=labelling)
    if write_index:
        places = [tfrecord.write_index(path) for path in find_shards(data) if isinstance(path, Path)]
        note(f"wrote the index of {len(places):,} shards beside them")
    show(as_json, inspection.to_dict, lambda: inspection, markup=True)


def extract(
    data: Annotated[Data, Parameter(help="folders of video files, or files", metavar="VIDEOS...")],
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
    """Make feature shards of video files, with labels from a table; the exit code is 1 where some could not be read.

    The same command goes on where it was interrupted, and takes in what is new.

    Args:
        labels: a table `path,categories`, or `folders`: a video's category is its folder below VIDEOS. Only videos with
            a category are extracted.
        taxonomy: the taxonomy of these categories; by default one is made from the labels file.
        encoders: what makes features of pictures and sound.
        out: the folder to write shards to, or to go on with.

    Example:
        counterpoint extract videos/ --labels labels.csv --out shards
    """
    from counterpoint.media.extract import extract as make

    engine = decoding.engine_of_extraction()
    with speed("extracting") as advance:
        report = make(
            data,
            out,
            labels,
            taxonomy,
            encoders,
            workers=decoding.workers,
            limits=decoding.limits,
            time_limit=decoding.time_limit,
            progress=advance,
            engine=engine,
            columns=columns.split(",") if columns else (),
            skip_bad_labels=skip_bad_labels,
            replace=replace,
        )
    for line in report.lines(str(labels)):
        note(line)
    show(
        as_json,
        lambda: {"out": str(out), **report.to_dict()},
        lambda: (
            f"{out}: {report.new + report.before:,} clips in {report.shards} shards, "
            f"{report.before:,} of them made before; {len(report.failures)} files failed"
        ),
    )
    return int(bool(report.failures))


def mosaic(
    data: Annotated[Data, Parameter(help=f"video-level {SHARDS_HELP}")],
    *,
    validation: Annotated[MoreData, Parameter(help="records for validation; without them, a tenth of the others")] = [],  # noqa: B006
    test: Annotated[MoreData, Parameter(help="records for test; without them, a tenth of the others")] = [],  # noqa: B006
    taxonomy: Annotated[OtherTaxonomy, Parameter(help=f"where the topics come from: {DEFAULT_TAXONOMY_HELP}")] = None,
    skip_bad_records: SkipBad = False,
    out: Out,
    clips: Annotated[dict[str, int], JSON, Parameter(group=OUTPUT)] = CLIPS,
    as_json: Json = False,
    controls: Annotated[MosaicOptions | None, Parameter(name="*")] = None,
) -> None:
    """Compose frame-level clips from real video-level records: shards for training, validation and test.

    Vectors and labels are real; their order in time is made up.

    Args:
        out: folder for the shards and mosaic.json, which describes them.
        clips: how many, by split.

    Example:
        counterpoint data mosaic 'yt8m/train*.tfrecord' --validation 'yt8m/validate*.tfrecord' --out mosaic
    """
    from counterpoint.data import taxonomies
    from counterpoint.data.dataset import split
    from counterpoint.data.features import FeatureSet
    from counterpoint.data.mosaic import Records, check_folder, write

    composer = Mosaic(**(controls or {}))
    check_clips(clips)
    check_folder(out)
    labelling = taxonomies.load_taxonomy(taxonomy or taxonomies.default_taxonomy(data, WITH_TAXONOMY))
    datasets = split(data, validation, test, labelling, skip_bad=skip_bad_records, seed=composer.seed)
    note_skipped(*datasets.values())
    features = FeatureSet.of([path for dataset in datasets.values() for path in dataset.paths])
    records = {}
    for name, dataset in datasets.items():
        with progress(f"reading records to make {name} of", len(dataset)) as advance:
            records[name] = Records.read(dataset, advance)
    counts = {name: count for name, count in clips.items() if count}
    with progress("composing clips", sum(counts.values())) as advance:
        shards = write(
            composer, records, labelling.taxonomy, features, out, counts, progress=lambda done, _: advance(1)
        )
    result = {
        name: {
            "clips": counts[name],
            "shards": len(paths),
            "records": len(records[name].ids),
            "left_out": records[name].left_out,
        }
        for name, paths in shards.items()
    }
    show(
        as_json,
        lambda: result,
        lambda: "\n".join(
            f"{out}: {name}: {part['clips']:,} clips in {part['shards']} shards, of {part['records']:,} records "
            f"({part['left_out']:,} without picture, sound or a category left out)"
            for name, part in result.items()
        ),
    )


def check_clips(clips: dict[str, int], least: int = 0) -> None:
    """Raise Error for a number of clips by split that is none, or for a split that there is not."""
    from counterpoint.cli.console import UsageError, check_choices

    check_choices("--clips", clips, ("train", "validation", "test"))
    for name, count in clips.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < least:
            raise UsageError(f"--clips: {name} must be a whole number from {least}, not {count!r}")


def fetch(*, source: Annotated[Path | None, Parameter(name="--from", metavar="FOLDER", group=DATA)] = None) -> None:
    """Fetch the weights of YouTube-8M's encoders: 420 MB, from where they were published or from a folder.

    Args:
        source: take the files from this folder.

    Example:
        counterpoint weights fetch
    """
    from counterpoint.media import weights

    with download() as update:
        new = weights.fetch(source, update)
    print(f"{weights.folder()}: {len(new)} new files, {len(weights.URLS) - len(new)} there before")
