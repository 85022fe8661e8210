"""From a data set's labels to categories: a table with one row a label, edited by hand or imported.

Ancestors are never written down: a clip's targets are the categories of its labels and all of their ancestors.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from os import PathLike
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
from jaxtyping import Bool, Int

from counterpoint.errors import Error
from counterpoint.files import write_text
from counterpoint.taxonomy.tree import (
    CATEGORIES_FILE,
    FORBIDDEN,
    SHIPPED,
    Taxonomy,
    is_number,
    read_table,
    table_header,
    table_text,
    taxonomy_path,
)

COLUMNS = ("index", "label", "count", "categories", "note")
LABELS_FILE = "labels.tsv"


@dataclass(frozen=True)
class Label:
    """A data set's label: its index there, its name, its training videos (0 if unknown), and the ids of its categories.

    A label may have several categories, or none with the reason in ``note``.
    """

    index: int
    name: str
    count: int
    categories: tuple[str, ...]
    note: str = ""


@dataclass(frozen=True)
class LabelMap:
    """A data set's labels, in any order and with any gaps, and the taxonomy they lead into.

    Raises Error, naming the row, for an unknown category, a duplicate or negative index, and a tab or a
    line break in a text.

    >>> from counterpoint.taxonomy import Category
    >>> food = Taxonomy((Category("f", "", "Food"), Category("d", "f", "Dessert"), Category("s", "f", "Sandwich")))
    >>> labels = LabelMap((Label(7, "Ice cream", 100, ("d",)), Label(9, "Lunch", 20, ("f",))), food)
    >>> labels.targets([7]).tolist(), labels.counts.tolist()
    ([True, True, False], [120, 100, 0])
    """

    labels: tuple[Label, ...]
    taxonomy: Taxonomy

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", tuple(self.labels))
        _check(self.labels, self.taxonomy, "labels, row", range(1, len(self.labels) + 1))

    def __reduce__(self) -> tuple[type["LabelMap"], tuple[tuple[Label, ...], Taxonomy]]:
        return LabelMap, (self.labels, self.taxonomy)

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that differ between different mappings."""
        return hashlib.sha256(repr(self.labels).encode()).hexdigest()[:16]

    @classmethod
    def identity(cls, taxonomy: Taxonomy) -> "LabelMap":
        """Label i is category i: for data that is labelled with the taxonomy's own indices. Counts are unknown."""
        labels = (Label(i, path, 0, (taxonomy.ids[i],)) for i, path in enumerate(taxonomy.paths))
        return cls(tuple(labels), taxonomy)

    @classmethod
    def read(cls, path: str | Path, taxonomy: Taxonomy) -> "LabelMap":
        """Read a table ``index label count categories note``; categories are ids separated by commas.

        An empty count is an unknown one. Raises Error naming the file and the line.
        """
        path = Path(path)
        lines, rows = read_table(path, COLUMNS)

        def number(line: int, column: str, text: str) -> int:
            if not is_number(text):
                raise Error(f"{path}, line {line}: the {column} {text!r} is not a whole number from 0")
            return int(text)

        labels = tuple(
            Label(
                number(line, "index", index),
                name,
                number(line, "count", count or "0"),
                tuple(category.strip() for category in categories.split(",")) if categories.strip() else (),
                note,
            )
            for line, (index, name, count, categories, note) in zip(lines, rows, strict=True)
        )
        _check(labels, taxonomy, f"{path}, line", lines)
        return cls(labels, taxonomy)

    def write(self, path: str | Path) -> None:
        """Write the table that `read` reads."""
        rows = (
            (str(label.index), label.name, str(label.count), ",".join(label.categories), label.note)
            for label in self.labels
        )
        write_text(Path(path), table_text(COLUMNS, rows))

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def _rows(self) -> dict[int, int]:
        """The row of `matrix` for each of the data set's label indices."""
        return {label.index: row for row, label in enumerate(self.labels)}

    @cached_property
    def matrix(self) -> Bool[np.ndarray, "label category"]:
        """The targets of each label alone, in the order of `labels`."""
        matrix = np.zeros((len(self), len(self.taxonomy)), dtype=bool)
        for row, label in enumerate(self.labels):
            categories = [self.taxonomy.index(category) for category in label.categories]
            matrix[row] = self.taxonomy.with_ancestors[categories].any(axis=0)
        matrix.setflags(write=False)
        return matrix

    def targets(self, label_indices: Sequence[int] | Int[np.ndarray, "n"]) -> Bool[np.ndarray, "category"]:
        """What a clip with these labels (the data set's indices, in any order, maybe none) should be recognized as.

        True at the labels' categories and at all of their ancestors. Raises Error naming the first index
        that the mapping does not have.
        """
        try:
            rows = [self._rows[index] for index in label_indices]
        except KeyError as error:
            raise Error(f"the label mapping has no label with the index {error.args[0]}") from None
        targets: np.ndarray = np.logical_or.reduce(self.matrix[rows], axis=0)
        return targets

    @cached_property
    def counts(self) -> Int[np.ndarray, "category"]:
        """Training videos of each category: the sum over the labels that lead to it or to a descendant.

        An upper bound, as a video that carries several of these labels is counted once for each.
        """
        counts = np.array([label.count for label in self.labels], dtype=np.int64) @ self.matrix.astype(np.int64)
        counts.setflags(write=False)
        return counts


class Labelling(NamedTuple):
    """A taxonomy and the labels of a data set that lead into it. ``counterpoint.taxonomy.load`` reads one."""

    taxonomy: Taxonomy
    labels: LabelMap

    def save(self, folder: str | Path) -> None:
        """Write ``categories.tsv`` and ``labels.tsv``, which `load` reads, making the folder where needed.

        Files of these two names are replaced.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.taxonomy.write(folder / CATEGORIES_FILE)
        self.labels.write(folder / LABELS_FILE)


def load(path: str | PathLike[str]) -> Labelling:
    """Read a taxonomy with its labels.

    Args:
        path: a folder, a file, or "youtube8m", the taxonomy that the package ships. A folder holds ``categories.tsv``
            and the mapping: ``labels.tsv``, or else the only other ``.tsv`` file with a mapping's header. A file is a
            ``categories.tsv`` alone, and the data's labels are then its row numbers (from 0).

    Raises:
        Error: a file is missing, ambiguous or faulty; the message names the file and the line.
    """
    path = taxonomy_path(path)
    if not path.is_dir():
        taxonomy = Taxonomy.read(path)
        return Labelling(taxonomy, LabelMap.identity(taxonomy))
    taxonomy = Taxonomy.read(path / CATEGORIES_FILE)
    return Labelling(taxonomy, LabelMap.read(_mapping_file(path), taxonomy))


@cache
def youtube8m() -> Labelling:
    """The shipped taxonomy: 640 categories on four levels, and every label of YouTube-8M's 2018 release.

    >>> taxonomy, labels = youtube8m()
    >>> len(taxonomy), len(labels)
    (640, 3862)
    >>> taxonomy.paths[taxonomy.index("transport/land/car/italian")]
    'Transport:Land:Car:Italian'
    """
    return load(SHIPPED)


def _mapping_file(folder: Path) -> Path:
    if (folder / LABELS_FILE).exists():
        return folder / LABELS_FILE
    found = sorted(path for path in folder.glob("*.tsv") if table_header(path) == COLUMNS)
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise Error(f"{folder}: several label mappings ({names}); keep one, or name one of them {LABELS_FILE}")
    if not found:
        raise Error(
            f"{folder}: no label mapping, a .tsv file with the header {' '.join(COLUMNS)!r}; "
            f"give {folder / CATEGORIES_FILE} itself if the data's labels are its row numbers"
        )
    return found[0]


def _check(labels: Iterable[Label], taxonomy: Taxonomy, source: str, rows: Sequence[int]) -> None:
    """Raise Error at the first label that does not fit, as "<source> <row>: <problem>"."""
    first: dict[int, int] = {}
    known = frozenset(taxonomy.ids)
    total = 0

    def fail(row: int, problem: str) -> NoReturn:
        raise Error(f"{source} {row}: {problem}")

    for row, label in zip(rows, labels, strict=True):
        if not (0 <= label.index < 2**63 and 0 <= label.count < 2**63):  # numpy's and TFRecord's integers
            fail(row, f"the index and the count must be from 0 to 2^63 - 1; got {label.index} and {label.count}")
        if label.index in first:
            fail(row, f"the label index {label.index} is taken (first used at {first[label.index]})")
        if unknown := [category for category in label.categories if category not in known]:
            fail(row, f"the category {unknown[0]!r} of label {label.index} is not in the taxonomy")
        if any(character in label.name + label.note for character in FORBIDDEN):
            fail(row, f"label {label.index} holds a tab or a line break")
        first[label.index] = row
        total += label.count
        if total >= 2**63:
            fail(row, f"the counts add up to {total}, beyond 2^63 - 1")
