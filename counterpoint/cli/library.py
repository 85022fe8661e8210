"""Finding taxonomies and splits for paths; what the library does not offer yet."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from counterpoint.errors import Error

if TYPE_CHECKING:
    from counterpoint.data.dataset import Dataset
    from counterpoint.taxonomy import Labelling


def load_taxonomy(path: str) -> "Labelling":
    from counterpoint.taxonomy import load

    return load(taxonomy_folder(path))


def taxonomy_folder(path: str) -> Path:
    """Where the taxonomy is, a copy if it is elsewhere: a taxonomy called as the shipped one comes first."""
    from counterpoint.data.store import RemotePath, is_remote, mirrored
    from counterpoint.taxonomy.check import EXCEPTIONS_FILE
    from counterpoint.taxonomy.mapping import CATEGORIES_FILE, LABELS_FILE, SHIPPED

    if is_remote(path):
        url = RemotePath(path)
        if url.name.endswith(".tsv"):
            return mirrored(url.parent, [url.name]) / url.name
        folder = mirrored(url, [CATEGORIES_FILE, LABELS_FILE, EXCEPTIONS_FILE])
        if not (folder / LABELS_FILE).exists():
            raise Error(f"{path}: no {LABELS_FILE} there; behind a URL the mapping is called so")
        return folder
    return SHIPPED if path == "youtube8m" and not (Path(path) / CATEGORIES_FILE).exists() else Path(path)


def taxonomy_beside(paths: Sequence[str], where: str = "with --taxonomy") -> str | None:
    """The folder that `counterpoint extract` and others leave beside their shards; those of several are the same."""
    from counterpoint.data.inspect import find_shards
    from counterpoint.taxonomy.mapping import CATEGORIES_FILE

    beside = sorted({str(shard.parent / "taxonomy"): shard.parent / "taxonomy" for shard in find_shards(paths)}.items())
    there = [path for path, folder in beside if (folder / CATEGORIES_FILE).exists()]
    if not there:
        return None
    first = load_taxonomy(there[0])
    for path, _ in beside:
        if path not in there or load_taxonomy(path) != first:
            what = "another taxonomy than" if path in there else "not there, unlike"
            raise Error(f"{path}: is {what} {there[0]}; name the one of all shards {where}")
    return there[0]


def default_taxonomy(paths: Sequence[str], where: str = "with --taxonomy") -> str:
    """The one beside the shards, or the shipped one, which knows the labels of one data set alone."""
    from counterpoint.data.features import FeatureSet
    from counterpoint.data.inspect import find_shards
    from counterpoint.taxonomy.mapping import SHIPPED

    if beside := taxonomy_beside(paths, where):
        return beside
    features = FeatureSet.of(find_shards(paths))
    if not features.youtube8m:
        raise Error(
            f"{features}: the shipped taxonomy is for YouTube-8M's labels and features (video 1024, audio 128); "
            f"name the taxonomy of this data {where}"
        )
    return str(SHIPPED)


def training_data(
    paths: Sequence[str], validation: Sequence[str], labelling: "Labelling", skip_bad: bool
) -> "tuple[Dataset, Dataset]":
    """The clips to train on, and those to tune and stop on: a tenth by a hash of the ids where none are named."""
    from counterpoint.data.dataset import HELD_OUT, Dataset, check_apart, share

    if validation:
        pair = (Dataset(paths, labelling, skip_bad=skip_bad), Dataset(validation, labelling, skip_bad=skip_bad))
        check_apart(*(dataset.paths for dataset in pair))
        return pair
    # The same clips for every seed: a tower's or an ensemble's members may have others than the model's own.
    return (
        Dataset(paths, labelling, skip_bad=skip_bad, keep=share(HELD_OUT, 1.0)),
        Dataset(paths, labelling, skip_bad=skip_bad, keep=share(0.0, HELD_OUT)),
    )
