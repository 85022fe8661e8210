"""Taxonomies side by side: what changed between two, and several annotators' mappings as one.

A category is the same in two taxonomies where its id is.

Annotators' mappings are merged by majority vote, for each category on its own. An annotator who names a category names
its ancestors too. So four annotators who answer "Italian car", "Italian car", "sports car" and "car" agree on Car, and
the two votes of four for Italian leave that open: a conflict, to be settled by hand. A row without categories answers
"none" if its note gives the reason, and otherwise its annotator has not answered it yet. The paper had 5 to 7
annotators and 3 engineers who settled the rest (section 4.1).
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from counterpoint.errors import Error
from counterpoint.files import check_output_folder, write_text
from counterpoint.tables import Table
from counterpoint.taxonomy.mapping import LABELS_FILE, Label, Labelling, LabelMap
from counterpoint.taxonomy.tree import Taxonomy, is_number, read_table, table_text

NONE = "none"
"""How "no category" is written among votes and settlements."""
CONFLICTS_FILE = "conflicts.tsv"
COLUMNS = ("index", "label", "count", "majority", "votes", "settled")


class Change(NamedTuple):
    """Of one category or label: its name, and its old and new state; a state is empty where there was or is none."""

    what: str
    before: str
    after: str


class Diff(NamedTuple):
    """Categories by id, with their paths (their codes in ``recoded``); labels with their category ids."""

    added: list[Change]
    removed: list[Change]
    renamed: list[Change]
    moved: list[Change]
    recoded: list[Change]
    labels: list[Change]

    def to_dict(self) -> dict[str, list[dict[str, Any]]]:
        """Ready for JSON."""
        return {kind: [change._asdict() for change in changes] for kind, changes in self._asdict().items()}

    def rows(self) -> list[tuple[str, str, str, str]]:
        """(kind, what, before, after) of every change."""
        return [(kind, *change) for kind, changes in self._asdict().items() for change in changes]

    def table(self) -> Table:
        """The changes, one a row."""
        return Table("", ("change", "what", "before", "after"), self.rows(), labels=4)


def diff(old: Labelling, new: Labelling) -> Diff:
    """What differs in meaning, categories and labels in their order in ``old``, then in ``new``.

    Left out are the order of categories, and labels' names, counts and notes.

    A category below one that was renamed or moved has not itself changed.
    """
    was = {category.id: (category, path) for category, path in zip(old.taxonomy, old.taxonomy.paths, strict=True)}
    now = {category.id: (category, path) for category, path in zip(new.taxonomy, new.taxonomy.paths, strict=True)}
    both = [(identifier, *was[identifier], *now[identifier]) for identifier in was if identifier in now]
    return Diff(
        added=[Change(i, "", path) for i, (_, path) in now.items() if i not in was],
        removed=[Change(i, path, "") for i, (_, path) in was.items() if i not in now],
        renamed=[Change(i, path, other) for i, a, path, b, other in both if a.name != b.name],
        moved=[Change(i, path, other) for i, a, path, b, other in both if a.parent != b.parent],
        recoded=[Change(i, a.iab, b.iab) for i, a, _, b, _ in both if a.iab != b.iab],
        labels=_labels(old, new),
    )


def _labels(old: Labelling, new: Labelling) -> list[Change]:
    was = {label.index: label for label in old.labels.labels}
    now = {label.index: label for label in new.labels.labels}
    changes = []
    for index in dict.fromkeys((*was, *now)):
        before, after = was.get(index), now.get(index)
        if before is None or after is None or set(before.categories) != set(after.categories):
            name = (after or before or Label(index, "", 0, ())).name
            changes.append(Change(f"{index} ({name})", _categories(before), _categories(after)))
    return changes


def _categories(label: Label | None) -> str:
    return "" if label is None else ", ".join(label.categories) or "none"


# --- Merging ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Conflict:
    """A label that the votes left open; ``settled``: category ids with commas between, `NONE`, or empty while open."""

    index: int
    label: str
    count: int
    majority: str
    votes: str
    settled: str = ""


class Merged(NamedTuple):
    """``agreement`` is Krippendorff's alpha, NaN where no label has two annotators."""

    labelling: Labelling
    conflicts: list[Conflict]
    agreement: float

    @property
    def open(self) -> int:
        """How many conflicts nobody has settled."""
        return sum(not conflict.settled for conflict in self.conflicts)

    def save(self, folder: str | Path) -> None:
        """Write the taxonomy's folder, with ``conflicts.tsv`` in it.

        Raises:
            Error: the folder holds something, and not what an earlier merge wrote.
        """
        folder = Path(folder)
        check_output_folder(folder, CONFLICTS_FILE)
        folder.mkdir(parents=True, exist_ok=True)
        rows = ([str(field) for field in astuple(conflict)] for conflict in self.conflicts)
        write_text(folder / CONFLICTS_FILE, table_text(COLUMNS, rows))
        self.labelling.save(folder)


def merge_files(files: Sequence[str | Path], taxonomy: Taxonomy, folder: str | Path) -> Merged:
    """Merge annotators' mappings into a taxonomy's folder, by what its ``conflicts.tsv`` settles.

    To settle conflicts, fill in the column ``settled`` of ``conflicts.tsv`` and merge again.

    Args:
        files: one an annotator, tables ``index label count categories note``.
        taxonomy: the one whose categories they name.
        folder: where ``categories.tsv``, ``labels.tsv`` and ``conflicts.tsv`` are written.

    Raises:
        Error: the folder holds something, and not what an earlier merge wrote; a table is faulty; or one of the files
            is the merge's own result.
    """
    folder = Path(folder)
    check_output_folder(folder, CONFLICTS_FILE)
    result = folder / LABELS_FILE
    if any(Path(path).resolve() == result.resolve() for path in files):
        raise Error(f"{result}: is what the merge writes, and no annotator's; choose another --out")
    mappings = [LabelMap.read(path, taxonomy) for path in files]
    merged = merge(mappings, settlements(folder / CONFLICTS_FILE, taxonomy))
    merged.save(folder)
    return merged


def merge(annotators: Sequence[LabelMap], settled: Mapping[int, str] | None = None) -> Merged:
    """Merge mappings into one taxonomy, which all must share.

    Args:
        settled: by label index, the decision where the votes left it open; it stands, whatever the votes are
            now. See `settlements`.

    Raises:
        Error: there are no mappings, a category has the id `NONE`, or a settlement is of a label or a
            category that is not there.
    """
    if not annotators:
        raise Error("no mappings to merge")
    settled = settled or {}
    taxonomy = annotators[0].taxonomy
    if NONE in taxonomy.ids:
        raise Error(f"the category {NONE!r} is called as votes for no category are; give it another id")
    answers: dict[int, list[Label]] = {}
    for annotator in annotators:
        for label in annotator.labels:
            answers.setdefault(label.index, []).append(label)
    if strangers := sorted(set(settled) - set(answers)):
        raise Error(f"{CONFLICTS_FILE} settles label {strangers[0]}, which none of the mappings has")
    labels, conflicts = [], []
    for index, given in sorted(answers.items()):
        label, conflict, decided = _vote(taxonomy, [answer for answer in given if _answered(answer)], given[0])
        if index in settled:
            conflict = replace(conflict, settled=settled[index])
            label = replace(label, categories=_ids(settled[index]), note="settled by hand")
        if conflict.settled or not decided:
            conflicts.append(conflict)
        labels.append(label)
    return Merged(Labelling(taxonomy, LabelMap(tuple(labels), taxonomy)), conflicts, agreement(annotators))


def settlements(path: str | Path, taxonomy: Taxonomy) -> dict[int, str]:
    """The ``settled`` column of a ``conflicts.tsv``, by label index; nothing where there is no such file.

    Raises Error, naming the file and the line, for a faulty table and an unknown category.
    """
    path = Path(path)
    if not path.exists():
        return {}
    found = {}
    for line, row in zip(*read_table(path, COLUMNS), strict=True):
        if not is_number(row[0]):
            raise Error(f"{path}, line {line}: the index {row[0]!r} is not a whole number from 0")
        decided = row[-1].strip()
        if unknown := [category for category in _ids(decided) if category not in taxonomy.ids]:
            raise Error(f"{path}, line {line}: {unknown[0]!r} is neither a category's id nor {NONE!r}")
        if decided:
            found[int(row[0])] = decided
    return found


def _ids(decided: str) -> tuple[str, ...]:
    return () if decided in ("", NONE) else tuple(part.strip() for part in decided.split(","))


def agreement(annotators: Sequence[LabelMap]) -> float:
    """Krippendorff's alpha over the labels that two or more annotators answered; 1 is full agreement, 0 is chance.

    An answer is the set of its categories and their ancestors, and the distance between two sets is MASI (Passonneau,
    2006): nearby categories agree in part.

    Raises Error where NLTK is not installed.
    """
    try:
        from nltk.metrics import masi_distance
        from nltk.metrics.agreement import AnnotationTask
    except ImportError as error:
        message = "agreement is computed by NLTK: pip install 'counterpoint[agreement]'"
        raise Error(message) from error

    rows = [
        (annotator, label.index, _closure(mapping.taxonomy, label))
        for annotator, mapping in enumerate(annotators)
        for label in mapping.labels
        if _answered(label)
    ]
    times = Counter(index for _, index, _ in rows)
    shared = [row for row in rows if times[row[1]] > 1]
    return float(AnnotationTask(shared, distance=masi_distance).alpha()) if shared else math.nan


def _answered(label: Label) -> bool:
    return bool(label.categories or label.note.strip())


def _closure(taxonomy: Taxonomy, label: Label) -> frozenset[str]:
    """The ids of a label's categories and of their ancestors; {NONE} without any, as MASI knows no empty sets."""
    found = taxonomy.with_ancestors[[taxonomy.index(category) for category in label.categories]].any(axis=0)
    return frozenset(taxonomy.ids[i] for i in np.flatnonzero(found)) or frozenset({NONE})


def _vote(taxonomy: Taxonomy, answers: Sequence[Label], like: Label) -> tuple[Label, Conflict, bool]:
    """The majority's label, its row among the conflicts, and whether it is decided.

    It is not where there is no majority, or where half of the votes are for a category. An open label without
    categories has no note, so that `counterpoint taxonomy check` reports it.
    """
    votes = Counter(category for answer in answers for category in _closure(taxonomy, answer))
    kept = {category for category, count in votes.items() if 2 * count > len(answers)}
    tied = any(2 * count == len(answers) for count in votes.values())
    chosen = _narrowest(taxonomy, kept - {NONE})
    count = max((answer.count for answer in answers), default=like.count)
    notes = "; ".join(dict.fromkeys(answer.note for answer in answers if answer.note)) if answers else ""
    decided = bool(kept) and not tied
    label = Label(like.index, like.name, count, chosen, notes if decided else "not settled" * bool(chosen))
    direct = Counter(",".join(sorted(answer.categories)) or NONE for answer in answers)
    cast = "; ".join(f"{what}: {number}" for what, number in sorted(direct.items(), key=lambda item: -item[1]))
    return label, Conflict(like.index, like.name, count, ",".join(chosen) or NONE, cast), decided


def _narrowest(taxonomy: Taxonomy, categories: Iterable[str]) -> tuple[str, ...]:
    """Those that are no ancestor of another, in index order."""
    indices = sorted(taxonomy.index(category) for category in categories)
    above = {j for i in indices for j in taxonomy.ancestors(i)}
    return tuple(taxonomy.ids[i] for i in indices if i not in above)
