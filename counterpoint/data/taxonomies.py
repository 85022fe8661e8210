"""Which taxonomy gives the labels of shards their meaning: one that is named, the one beside the shards, or the shipped
one.
"""

from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import Path

from counterpoint.data.features import FeatureSet
from counterpoint.data.inspect import Source, find_shards
from counterpoint.data.store import RemotePath, is_remote, mirrored
from counterpoint.errors import Error
from counterpoint.taxonomy import Labelling, load
from counterpoint.taxonomy.check import EXCEPTIONS_FILE
from counterpoint.taxonomy.mapping import LABELS_FILE
from counterpoint.taxonomy.tree import CATEGORIES_FILE, SHIPPED, taxonomy_path

BESIDE = "taxonomy"
"""The folder beside shards that holds their taxonomy; `counterpoint extract` and others write it."""
HINT = "by `taxonomy=`"


def load_taxonomy(path: str | PathLike[str] | RemotePath) -> Labelling:
    """Read a taxonomy with its labels from a path, a URL, or "youtube8m"; see `counterpoint.taxonomy.load`.

    Raises:
        Error: a file is missing, ambiguous or faulty; the message names the file and the line.
    """
    return load(taxonomy_folder(path))


def taxonomy_folder(path: str | PathLike[str] | RemotePath) -> Path:
    """The folder or file of a taxonomy on this machine: a copy of what a URL names, the shipped one for "youtube8m".

    A folder called youtube8m in the working directory comes first.

    Raises:
        Error: nothing is at the URL.
    """
    if isinstance(path, RemotePath) or is_remote(path):
        url = path if isinstance(path, RemotePath) else RemotePath(fspath(path))
        if url.name.endswith(".tsv"):
            return mirrored(url.parent, [url.name]) / url.name
        folder = mirrored(url, [CATEGORIES_FILE, LABELS_FILE, EXCEPTIONS_FILE])
        if not (folder / LABELS_FILE).exists():
            raise Error(f"{path}: no {LABELS_FILE} there; behind a URL the mapping is called so")
        return folder
    return taxonomy_path(path)


def taxonomy_beside(paths: Source | Sequence[Source], where: str = HINT) -> str | None:
    """The folder ``taxonomy`` beside shards, or None where there is none.

    Args:
        paths: what names the shards; see `find_shards`.
        where: how the user names another taxonomy, for the error's message.

    Raises:
        Error: the shards are in several folders, and their taxonomies differ.
    """
    beside = sorted({str(shard.parent / BESIDE): shard.parent / BESIDE for shard in find_shards(paths)}.items())
    found = [path for path, folder in beside if (folder / CATEGORIES_FILE).exists()]
    if not found:
        return None
    first = load_taxonomy(found[0])
    for path, _ in beside:
        if path not in found or load_taxonomy(path) != first:
            fault = "another taxonomy than" if path in found else "not there, unlike"
            raise Error(f"{path}: is {fault} {found[0]}; name the one of all shards {where}")
    return found[0]


def default_taxonomy(paths: Source | Sequence[Source], where: str = HINT) -> str:
    """The taxonomy beside shards; without, the shipped one, if the features are YouTube-8M's.

    Args:
        paths, where: as `taxonomy_beside` takes them.

    Returns:
        A path or URL for `load_taxonomy`.

    Raises:
        Error: there is none beside shards of other features, or several that differ.
    """
    if beside := taxonomy_beside(paths, where):
        return beside
    features = FeatureSet.of(find_shards(paths))
    if not features.youtube8m:
        raise Error(
            f"{features}: the shipped taxonomy is for YouTube-8M's labels and features (video 1024, audio 128); "
            f"name the taxonomy of this data {where}"
        )
    return str(SHIPPED)


def find_taxonomy(paths: Source | Sequence[Source], where: str = HINT) -> Labelling:
    """The taxonomy that `default_taxonomy` finds for shards, with its labels."""
    return load_taxonomy(default_taxonomy(paths, where))
