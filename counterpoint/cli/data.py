"""The verbs of `counterpoint data`; what they need is imported when they run, as in `counterpoint.cli.main`."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt


def mosaic(args: Namespace) -> int:
    """Compose frame-level clips from real video-level records: shards for training, validation and test."""
    from counterpoint.cli import main as cli
    from counterpoint.data.dataset import split
    from counterpoint.data.features import FeatureSet
    from counterpoint.data.mosaic import Mosaic, Records, write

    sources = getattr(args, "from")
    labelling = cli._taxonomy(args.taxonomy or cli._default_taxonomy(sources))
    controls = Mosaic(**{field.name: args[field.name] for field in dataclasses.fields(Mosaic)})
    datasets = split(sources, args.validation, args.test, labelling, skip_bad=args.skip_bad_records, seed=controls.seed)
    cli._report(*datasets.values())
    features = FeatureSet.of([path for dataset in datasets.values() for path in dataset.paths])
    records = {}
    for name, dataset in datasets.items():
        with cli._progress(f"reading records to make {name} of", len(dataset)) as advance:
            records[name] = Records.read(dataset, advance)
    clips = {name: count for name, count in args.clips.items() if count}
    with cli._progress("composing clips", sum(clips.values())) as advance:
        shards = write(
            controls, records, labelling.taxonomy, features, Path(args.out), clips, progress=lambda done, _: advance(1)
        )
    told = {
        name: {
            "clips": clips[name],
            "shards": len(paths),
            "records": len(records[name].ids),
            "left_out": records[name].left_out,
        }
        for name, paths in shards.items()
    }
    cli._print(
        args.json,
        lambda: told,
        lambda: "\n".join(
            f"{args.out}: {name}: {part['clips']:,} clips in {part['shards']} shards, of {part['records']:,} records "
            f"({part['left_out']:,} without picture, sound or a category left out)"
            for name, part in told.items()
        ),
    )
    return 0


def add(verbs: Any, verb: Callable[..., ArgumentParser], arguments: Sequence[str]) -> None:
    """Add the verbs to the parser of `counterpoint data`, if it is called; ``verb`` makes one's parser."""
    if arguments[0] != "data":
        return  # the controls load numpy
    from counterpoint.cli import main as cli
    from counterpoint.data.mosaic import CLIPS, MOSAIC_FILE, Mosaic

    sub = verb(verbs, "mosaic", mosaic, json=True, records=True)
    sub.add_argument("--from", nargs="+", required=True, metavar="SHARDS", help=f"video-level {cli.DATA_HELP}")
    for split in ("validation", "test"):
        told = f"records for {split} alone; without, a tenth of the others"
        sub.add_argument(f"--{split}", nargs="+", default=[], metavar="SHARDS", help=told)
    sub.add_argument("--taxonomy", default=None, help=f"what the topics are of: {cli.TAXONOMY_HELP}")
    sub.add_argument("--out", required=True, help=f"folder for shards, what they were made of, and {MOSAIC_FILE}")
    sub.add_argument("--clips", type=dict[str, NonNegativeInt], default=CLIPS, help="how many, by split")
    sub.add_class_arguments(Mosaic, None)
