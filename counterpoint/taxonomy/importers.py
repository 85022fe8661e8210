"""First taxonomies from what data sets and industries publish: a start for editing, not a curated tree."""

import csv
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from counterpoint.errors import Error
from counterpoint.files import check_output_folder, write_text
from counterpoint.taxonomy.mapping import Label, Labelling, LabelMap
from counterpoint.taxonomy.tree import SEPARATOR, Category, Taxonomy, is_number, table_text

UNKNOWN = "(Unknown)"
VERTICALS = ("Vertical1", "Vertical2", "Vertical3")
COLUMNS = ("Index", "TrainVideoCount", "KnowledgeGraphId", "Name", *VERTICALS)
IAB_COLUMNS = ("Unique ID", "Parent", "Name")
AUDIOSET_COLUMNS = ("index", "mid", "display_name")
OTHER_PARENTS_FILE = "other-parents.tsv"


class Imported(NamedTuple):
    """A taxonomy, and (id, parent) of every further parent that a category has in its source."""

    labelling: Labelling
    other_parents: tuple[tuple[str, str], ...] = ()

    def save(self, folder: str | Path) -> None:
        """Write the taxonomy's folder, with ``other-parents.tsv`` where there are such.

        Raises:
            Error: the folder holds something.
        """
        check_output_folder(Path(folder))
        self.labelling.save(folder)
        if self.other_parents:
            write_text(Path(folder) / OTHER_PARENTS_FILE, table_text(("id", "parent"), self.other_parents))


def read(path: str | Path, *, top: int = 1000, labels: str | Path | None = None) -> Imported:
    """Import a file by its kind: a vocabulary (``.csv``), IAB's table (``.tsv``) or AudioSet's ontology (``.json``).

    ``top`` belongs to vocabularies, ``labels`` to ontologies. Raises Error for a file of another kind.
    """
    kind = Path(path).suffix.lower()
    if labels is not None and kind != ".json":
        raise Error(f"{path}: a label table belongs to an AudioSet ontology (.json)")
    if kind == ".csv":
        return Imported(from_youtube8m_vocabulary(path, top))
    if kind == ".tsv":
        return Imported(from_iab(path))
    if kind == ".json":
        return from_audioset(path, labels)
    raise Error(f"{path}: neither a vocabulary (.csv), an IAB table (.tsv) nor an ontology (.json)")


def from_youtube8m_vocabulary(path: str | Path, top: int = 1000) -> Labelling:
    """Two levels from YouTube-8M's ``vocabulary.csv``: its verticals, and below them the ``top`` most frequent labels.

    A label stands under its first vertical, and leads to its other verticals as well. Less frequent labels, and those
    without a name, lead to their verticals only. The vertical ``(Unknown)`` makes no category, and its labels lead
    nowhere, with a note (in 2018: 3.6 % of the labels, 0.4 % of the counts). A colon in a name becomes a dash, as
    colons separate the names of a path. Labels of equal frequency are taken in the order of their indices.

    The id of a label's category is its knowledge graph id, which stays when the vocabulary is sorted anew.

    Raises Error, naming the file and the line, for missing columns, malformed numbers and repeated indices,
    and for a negative ``top``.
    Source: https://research.google.com/youtube8m/csv/2/vocabulary.csv, 3,862 labels of the 2018 release.
    """
    path = Path(path)
    if top < 0:
        raise Error(f"the number of labels to import must not be negative; got {top}")
    rows = sorted(_read(path), key=lambda row: (-int(row["TrainVideoCount"]), int(row["Index"])))

    verticals = {name: _slug(name) for row in rows for name in _verticals(row)}
    named = [row for row in rows if _name(row) and _verticals(row)]
    chosen = {row["Index"] for row in named[:top]}

    def label(row: dict[str, str]) -> Label:
        places = tuple(verticals[name] for name in _verticals(row))
        note = "" if _name(row) else "no name in the vocabulary"
        if not places:
            note = "no vertical in the vocabulary"
        elif row["Index"] in chosen:
            # Its first vertical is its parent, so a target already.
            places = (row["KnowledgeGraphId"], *places[1:])
        name = _clean(row["Name"]) or row["KnowledgeGraphId"]
        return Label(int(row["Index"]), name, int(row["TrainVideoCount"]), places, note)

    categories = [Category(slug, "", name) for name, slug in verticals.items()]
    categories += [
        Category(row["KnowledgeGraphId"], verticals[_verticals(row)[0]], _name(row))
        for row in named
        if row["Index"] in chosen
    ]
    try:
        taxonomy = Taxonomy(tuple(categories))
        return Labelling(taxonomy, LabelMap(tuple(sorted(map(label, rows), key=lambda label: label.index)), taxonomy))
    except Error as error:
        raise Error(f"{path}: makes no taxonomy: {error}") from error


def from_iab(path: str | Path) -> Labelling:
    """The tree of the IAB Content Taxonomy, each category with its own code; labels are the row numbers.

    Raises Error, naming the file and the line, for a table of another form.
    Source: https://github.com/InteractiveAdvertisingBureau/Taxonomies, Content Taxonomy 3.1, 704 nodes (CC BY 3.0).
    """
    path = Path(path)
    categories: list[Category] | None = None
    for number, line in enumerate(_text(path).splitlines(), start=1):
        fields = [field.strip() for field in line.split("\t")]
        if tuple(fields[:3]) == IAB_COLUMNS:  # below a line of titles
            categories = []
        elif categories is not None and any(fields):
            if len(fields) < 3:
                raise Error(f"{path}, line {number}: 3 columns expected, got {len(fields)}")
            categories.append(Category(fields[0], fields[1], _dashed(fields[2]), fields[0]))
    if categories is None:
        raise Error(f"{path}: not an IAB taxonomy: no header {', '.join(IAB_COLUMNS)}")
    try:
        taxonomy = Taxonomy(tuple(categories))
    except Error as error:
        raise Error(f"{path}: makes no taxonomy: {error}") from error
    return Labelling(taxonomy, LabelMap.identity(taxonomy))


def from_audioset(path: str | Path, labels: str | Path | None = None) -> Imported:
    """The tree of AudioSet's ``ontology.json``: of several parents, the first in the file's order is kept.

    ``labels`` is ``class_labels_indices.csv``, which holds the index that the data has for a category; without it the
    labels are the row numbers.

    Raises Error, naming the file, for files of another form, and for labels that the ontology lacks.
    Source: https://github.com/audioset/ontology, 632 nodes, 38 of them with several parents (CC BY-SA 4.0).
    """
    path = Path(path)
    parents: dict[str, list[str]] = {}
    try:
        stored = json.loads(_text(path))
        nodes: dict[str, str] = {node["id"]: node["name"] for node in stored}
        "".join((*nodes, *nodes.values())).encode()  # all of them are texts
        if len(nodes) < len(stored):
            raise ValueError("an id is used twice")
        for node in stored:
            for child in node["child_ids"]:
                if child not in nodes:
                    raise ValueError(f"the child {child!r} of {node['id']!r} is missing")
                parents.setdefault(child, []).append(node["id"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Error(f"{path}: not an AudioSet ontology ({error!r})") from error
    try:
        taxonomy = Taxonomy(
            tuple(Category(node, parents.get(node, [""])[0], _dashed(name)) for node, name in nodes.items())
        )
    except Error as error:
        raise Error(f"{path}: makes no taxonomy: {error}") from error
    mapping = _audioset_labels(Path(labels), taxonomy) if labels else LabelMap.identity(taxonomy)
    others = tuple((node, parent) for node in nodes for parent in parents.get(node, [])[1:])
    return Imported(Labelling(taxonomy, mapping), others)


def _audioset_labels(path: Path, taxonomy: Taxonomy) -> LabelMap:
    rows = list(csv.reader(_text(path).splitlines()))
    if not rows or tuple(rows[0]) != AUDIOSET_COLUMNS:
        raise Error(f"{path}, line 1: the header must be {','.join(AUDIOSET_COLUMNS)}")
    for line, row in enumerate(rows, start=1):
        if len(row) != 3 or (line > 1 and not is_number(row[0])):
            raise Error(f"{path}, line {line}: not an index, an id and a name")
    try:
        return LabelMap(tuple(Label(int(index), name, 0, (node,)) for index, node, name in rows[1:]), taxonomy)
    except Error as error:
        raise Error(f"{path}: not the labels of this ontology: {error}") from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise Error(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise Error(f"{path}: is not UTF-8 text (byte {error.start})") from error


def _read(path: Path) -> Iterable[dict[str, str]]:
    """The rows of the vocabulary, with whole numbers where numbers belong."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if missing := [column for column in COLUMNS if column not in (reader.fieldnames or ())]:
                raise Error(f"{path}, line 1: not a YouTube-8M vocabulary: no column {', '.join(missing)}")
            seen: set[int] = set()
            for row in reader:
                if None in row or None in row.values():
                    raise Error(f"{path}, line {reader.line_num}: {len(reader.fieldnames or ())} columns expected")
                for column in ("Index", "TrainVideoCount"):
                    if not is_number(row[column]):
                        raise Error(
                            f"{path}, line {reader.line_num}: the {column} {row[column]!r} is not a whole number from 0"
                        )
                if int(row["Index"]) in seen:
                    raise Error(f"{path}, line {reader.line_num}: the Index {row['Index']} is used twice")
                seen.add(int(row["Index"]))
                yield row
    except OSError as error:
        raise Error(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise Error(f"{path}: is not UTF-8 text (byte {error.start})") from error
    except csv.Error as error:
        raise Error(f"{path}, line {reader.line_num}: {error}") from error


def _verticals(row: dict[str, str]) -> tuple[str, ...]:
    """The known verticals of a row, each once, in its order."""
    names = (_dashed(row[column]) for column in VERTICALS)
    return tuple(dict.fromkeys(name for name in names if name and name != UNKNOWN))


def _name(row: dict[str, str]) -> str:
    return _dashed(row["Name"])


def _clean(text: str) -> str:
    return " ".join(text.split())


def _dashed(name: str) -> str:
    """Without stray white space and without colons.

    >>> _dashed(" Call of Duty:  Ghosts")
    'Call of Duty - Ghosts'
    """
    return _clean(name.replace(SEPARATOR, " - "))


def _slug(name: str) -> str:
    """A readable id.

    >>> _slug("Arts & Entertainment")
    'arts-entertainment'
    """
    return re.sub(r"\W+", "-", name.casefold()).strip("-")
