"""A labels file: which of one's own videos are in which categories, and the taxonomy that follows from their names.

    path,categories
    holiday/reef.mp4,Travel:Coast:Diving
    holiday/lunch.mp4,Food:Soup;Travel:Coast

CSV with a header, in which other columns do not matter. Paths are relative to the file's folder. A category is its path
from the top, names joined with colons; several are separated by semicolons.
"""

import csv
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from counterpoint.errors import Error
from counterpoint.taxonomy import Category, Labelling, LabelMap, Taxonomy
from counterpoint.taxonomy.tree import SEPARATOR

COLUMNS = ("path", "categories")
BETWEEN = ";"
FOLDERS = "folders"
"""In place of a labels file: a video's category is the folder that it lies in."""


@dataclass(frozen=True)
class Labels:
    """The label indices of each file (its absolute path), and the labelling that they belong to."""

    of: dict[Path, tuple[int, ...]]
    labelling: Labelling


def read(path: str | Path, known: Labelling | None = None, *, fixed: bool = False) -> Labels:
    """Read a labels file.

    Without ``known`` every category that the file names becomes one, and so do those above it; label i is category i.
    A ``known`` labelling of that kind keeps its categories in their places, so that what was labelled before stays
    right, and new ones follow; if it is ``fixed`` there are none, and it may be any labelling.

    Raises:
        Error: with the line: a column is missing, a file is not there or named twice, a name is empty, or a
            category is not one of the fixed labelling.
    """
    path = Path(path)
    return _labels(_rows(path), str(path), known, fixed)


def from_folders(files: Mapping[str, Path], known: Labelling | None = None, *, fixed: bool = False) -> Labels:
    """The folders that files lie in as their categories: ``Food/Soup/a.mp4`` is in Food:Soup.

    A file that lies in no folder has no label, and is not in the result.

    Args:
        files: by their path below the folder of all, with slashes.
        known, fixed: as `read` takes them.

    Raises:
        Error: no file lies in a folder, or a folder's name cannot be a category's.
    """
    rows = []
    for name, file in files.items():
        folders = name.split("/")[:-1]
        if bad := next((folder for folder in folders if SEPARATOR in folder or BETWEEN in folder), None):
            raise Error(
                f"{name}: the folder {bad!r} is no category, since {SEPARATOR} and {BETWEEN} part names; rename it"
            )
        if folders:
            rows.append((0, file.resolve(), [_clean(SEPARATOR.join(folders), name)]))
    if not rows:
        raise Error(
            "no video lies in a folder of its category: move them into such folders (Food/Soup/a.mp4 is in Food:Soup), "
            "or name their categories in a table path,categories (--labels)"
        )
    return _labels(rows, "folders", known, fixed)


def _labels(rows: Sequence[tuple[int, Path, list[str]]], path: str, known: Labelling | None, fixed: bool) -> Labels:
    labelling = (
        known if fixed and known is not None else _grown(known, [name for _, _, names in rows for name in names])
    )
    index = _index(labelling)
    of: dict[Path, tuple[int, ...]] = {}
    for line, file, names in rows:
        if file in of:
            raise Error(f"{path}, line {line}: {file.name} is named twice")
        if strangers := [name for name in names if name not in index]:
            raise Error(f"{path}, line {line}: no label of the taxonomy stands for {strangers[0]!r} alone")
        of[file] = tuple(dict.fromkeys(index[name] for name in names))
    if not fixed:
        counts = Counter(label for labels in of.values() for label in labels)
        counted = (replace(label, count=counts[label.index]) for label in labelling.labels.labels)
        labelling = Labelling(labelling.taxonomy, LabelMap(tuple(counted), labelling.taxonomy))
    return Labels(of, labelling)


def _rows(path: Path) -> list[tuple[int, Path, list[str]]]:
    """Line, file and categories of each row."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as text:
            reader = csv.DictReader(text, strict=True)
            header = reader.fieldnames or []
            if missing := [column for column in COLUMNS if column not in header]:
                raise Error(f"{path}: no column {missing[0]!r} in its first line, which needs {COLUMNS}")
            rows = []
            for row in reader:
                if any(cell.strip() for cell in row.get(None, ())):
                    raise Error(
                        f"{path}, line {reader.line_num}: more cells than the header has; several categories are "
                        f"separated by {BETWEEN}, and one with a comma in its name is in quotes"
                    )
                rows.append((reader.line_num, row["path"] or "", row["categories"] or ""))
    except OSError as error:
        raise Error(f"{path}: cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise Error(f"{path}: is not CSV in UTF-8 ({error})") from error
    read = []
    for line, name, categories in rows:
        file = path.parent / name
        try:
            exists = bool(name) and file.is_file()
        except OSError:  # no name that a file could have
            exists = False
        if not exists:
            raise Error(f"{path}, line {line}: no file {name!r} (paths are relative to {path.parent}/)")
        names = [_clean(category, f"{path}, line {line}") for category in categories.split(BETWEEN) if category.strip()]
        if not names:
            raise Error(f"{path}, line {line}: {name} has no category")
        read.append((line, file.resolve(), names))
    if not read:
        raise Error(f"{path}: no files below the header")
    return read


def _clean(category: str, where: str) -> str:
    names = [" ".join(name.split()) for name in category.split(SEPARATOR)]
    if not all(names):
        raise Error(f"{where}: the category {category.strip()!r} has an empty name")
    return SEPARATOR.join(names)


def _grown(known: Labelling | None, names: Sequence[str]) -> Labelling:
    """Every category named and those above, parents first, after the known ones."""
    categories = list(known.taxonomy) if known else []
    ids = dict(zip(known.taxonomy.paths, known.taxonomy.ids, strict=True)) if known else {}
    for name in sorted(set(names)):
        parts = name.split(SEPARATOR)
        for depth in range(1, len(parts) + 1):
            path = SEPARATOR.join(parts[:depth])
            if path not in ids:
                ids[path] = _free("/".join(map(_slug, parts[:depth])), ids.values())
                categories.append(
                    Category(ids[path], ids.get(SEPARATOR.join(parts[: depth - 1]), ""), parts[depth - 1])
                )
    taxonomy = Taxonomy(tuple(categories))
    return Labelling(taxonomy, LabelMap.identity(taxonomy))


def _slug(name: str) -> str:
    return re.sub(r"[\W_]+", "-", name.casefold()).strip("-") or "category"


def _free(wanted: str, taken: Iterable[str]) -> str:
    taken = set(taken)
    names = itertools.chain([wanted], (f"{wanted}-{number}" for number in itertools.count(2)))
    return next(name for name in names if name not in taken)


def _index(labelling: Labelling) -> dict[str, int]:
    """The label that stands for each category's path, where there is one."""
    paths = dict(zip(labelling.taxonomy.ids, labelling.taxonomy.paths, strict=True))
    index: dict[str, int] = {}
    for label in labelling.labels.labels:
        if len(label.categories) == 1:
            index.setdefault(paths[label.categories[0]], label.index)
    return index
