"""Several annotators' mappings into one: majority vote, agreement, and conflicts to settle by hand.

An annotator who names a category names its ancestors too, and each category is voted on by itself. So four annotators
who say "Italian car", "Italian car", "sports car" and "car" agree on Car, and the two votes of four for Italian leave
that open: a conflict. A row without categories says "none" if its note says why, and otherwise that its annotator has
not got there. The paper had 5 to 7 annotators and 3 engineers who settled the rest (section 4.1).
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from counterpoint.errors import Error
from counterpoint.files import write_text
from counterpoint.taxonomy import tsv
from counterpoint.taxonomy.mapping import Label, Labelling, LabelMap
from counterpoint.taxonomy.tree import Taxonomy

NONE = "none"
"""How "no category" is written among votes and settlements."""
CONFLICTS_FILE = "conflicts.tsv"
COLUMNS = ("index", "label", "count", "majority", "votes", "settled")


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
        """Write the taxonomy's folder, with ``conflicts.tsv`` in it."""
        self.labelling.save(folder)
        rows = ([str(field) for field in astuple(conflict)] for conflict in self.conflicts)
        write_text(Path(folder) / CONFLICTS_FILE, tsv.text(COLUMNS, rows))


def merge(annotators: Sequence[LabelMap], settled: Mapping[int, str] | None = None) -> Merged:
    """Merge mappings into one taxonomy, which all must share.

    Args:
        settled: by label index, what was decided where the votes left it open; it stands, whatever the votes say
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
    """What the ``settled`` column of a ``conflicts.tsv`` says, by label index; nothing where there is no such file.

    Raises Error, naming the file and the line, for a faulty table and an unknown category.
    """
    path = Path(path)
    if not path.exists():
        return {}
    found = {}
    for line, row in zip(*tsv.read(path, COLUMNS), strict=True):
        if not tsv.is_number(row[0]):
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
    told = "; ".join(f"{what}: {number}" for what, number in sorted(direct.items(), key=lambda item: -item[1]))
    return label, Conflict(like.index, like.name, count, ",".join(chosen) or NONE, told), decided


def _narrowest(taxonomy: Taxonomy, categories: Iterable[str]) -> tuple[str, ...]:
    """Those that are no ancestor of another, in index order."""
    indices = sorted(taxonomy.index(category) for category in categories)
    above = {j for i in indices for j in taxonomy.ancestors(i)}
    return tuple(taxonomy.ids[i] for i in indices if i not in above)
