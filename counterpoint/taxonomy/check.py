"""Faults of a taxonomy: what its files show (`check`), and what real clips show (`measure`).

`check` finds what is legal but likely a mistake, or a category that no model can learn. A finding that is as it should
be goes into ``exceptions.tsv`` beside the taxonomy, with the reason: the table ``check subject reason``, its first two
columns as in the finding.

`measure` finds labels that do not occur together with the others of their category, and categories with few clips. A
label belongs where it is mapped if clips with it carry other labels of that category more often than clips do at large.
The ratio is the lift,

    lift(l, c) = P(another label of c | l) / P(another label of c).

A category of one or two labels shows little, so the lift is taken at the nearest ancestor that has three. A low lift is
a question, not a verdict: few videos show two video games. Its answer belongs into the taxonomy's exceptions.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Int

from counterpoint.errors import Error
from counterpoint.tables import Table
from counterpoint.taxonomy.mapping import Labelling
from counterpoint.taxonomy.tree import Taxonomy, read_table

LEVELS = 4
"""The number of levels (0 to 3) that the paper's taxonomy has, and its breakdowns show."""

EXCEPTIONS_FILE = "exceptions.tsv"
EXCEPTIONS_COLUMNS = ("check", "subject", "reason")
LINKING = {"a", "and", "for", "in", "of", "on", "or", "the", "to", "with"}
"""Words that a title leaves in lower case."""
WORDS, LETTERS = 4, 28  # of a short name, at most
LIFT = 3.0
"""A lift from which on a label is taken to belong."""
ENOUGH = 8  # clips of a label, to measure it
COMPANY = 3  # labels of a category, to measure there
SCARCE = 10  # clips of a category, to learn and measure it

Exceptions = Mapping[tuple[str, str], str]
"""The reason for each (check, subject)."""


class Finding(NamedTuple):
    """An error spoils training, a warning deserves a look; ``subject`` is a category's path or names a label."""

    severity: Literal["error", "warning"]
    check: str
    subject: str
    message: str


def check(labelling: Labelling, few: int = 500, style: bool = False) -> list[Finding]:
    """Everything questionable, the categories in index order, then the labels.

    ``few``: a leaf with fewer training videos is reported; not where no label has a count, as with bare
    category files. ``style``: also names that are not singular, not in title case, or long.
    """
    names = _names(labelling) if style else ()
    return [*_categories(labelling, few), *_siblings(labelling), *names, *_labels(labelling)]


def exceptions(folder: str | Path) -> Exceptions:
    """What ``exceptions.tsv`` in a taxonomy's folder excuses; nothing where there is none.

    Raises Error, naming the file and the line, for a faulty table and an exception without a reason.
    """
    path = Path(folder) / EXCEPTIONS_FILE
    if not path.is_file():
        return {}
    found = {}
    for line, (name, subject, reason) in zip(*read_table(path, EXCEPTIONS_COLUMNS), strict=True):
        if not reason.strip():
            raise Error(f"{path}, line {line}: no reason")
        found[name, subject] = reason
    return found


def unexplained(findings: Iterable[Finding], excused: Exceptions) -> list[Finding]:
    """The findings that no exception covers."""
    return [finding for finding in findings if (finding.check, finding.subject) not in excused]


def findings_table(findings: Sequence[Finding]) -> Table:
    """The findings, one a row."""
    return Table("", ("severity", "check", "where", "finding"), findings, labels=4)


def _categories(labelling: Labelling, few: int) -> Iterator[Finding]:
    taxonomy, labels = labelling
    reached: np.ndarray = np.logical_or.reduce(labels.matrix, axis=0)
    counted = any(label.count for label in labels.labels)
    for i, path in enumerate(taxonomy.paths):
        name, level, children = taxonomy.names[i], int(taxonomy.levels[i]), taxonomy.children(i)
        if not reached[i]:
            yield Finding("error", "unreached", path, "no label leads to it or below it")
        elif counted and not children and labels.counts[i] < few:
            message = f"a leaf with few training videos: {labels.counts[i]}, fewer than {few}"
            yield Finding("warning", "few", path, message)
        if level == 0 and len(children) < 2:
            message = f"a top category with {len(children) or 'no'} child{'' if children else 'ren'}"
            yield Finding("warning", "children", path, message)
        if level >= LEVELS:
            message = f"on level {level}; the deepest that is reported on is {LEVELS - 1}"
            yield Finding("warning", "depth", path, message)
        if name != " ".join(name.split()):
            yield Finding("error", "space", path, "white space around the name, or doubled in it")


def _siblings(labelling: Labelling) -> Iterator[Finding]:
    """Siblings that mean the same: by their names, or because the same labels lead to both."""
    taxonomy, labels = labelling
    keys: dict[tuple[int, str], int] = {}  # (parent, key) -> the first category with it
    plurals: dict[tuple[int, str], int] = {}  # (parent, a plural of the key) -> the same
    reached: dict[tuple[int, bytes], int] = {}  # (parent, which labels) -> the same
    for i, name in enumerate(taxonomy.names):
        parent, key = int(taxonomy.parents[i]), _key(name)
        own_plurals = [(parent, plural) for plural in _plurals(key)]
        own = [(parent, key), (parent, _turned(name)), *own_plurals]
        earlier = (*map(keys.get, own), plurals.get((parent, key)))
        if same := [j for j in earlier if j is not None]:
            message = f"differs from its sibling {taxonomy.names[same[0]]!r} only by case, plural, order or punctuation"
            yield Finding("warning", "sibling", taxonomy.paths[i], message)
        keys.setdefault((parent, key), i)
        keys.setdefault((parent, _turned(name)), i)
        for plural in own_plurals:
            plurals.setdefault(plural, i)
        column = labels.matrix[:, i]
        first = reached.setdefault((parent, column.tobytes()), i)
        if first != i and column.any():
            message = f"the same labels lead to it and to its sibling {taxonomy.names[first]!r}"
            yield Finding("warning", "sibling", taxonomy.paths[i], message)


def _names(labelling: Labelling) -> Iterator[Finding]:
    """Names that are not singular, not in title case, or long."""
    taxonomy = labelling.taxonomy
    for name, path in zip(taxonomy.names, taxonomy.paths, strict=True):
        words = name.split()
        if re.search(r"[^\Wsui]s$", name):  # neither glass nor bus nor tennis
            yield Finding("warning", "plural", path, f"{name!r} looks like a plural")
        small = [word for i, word in enumerate(words) if word[0].islower() and (i == 0 or word not in LINKING)]
        if small or re.search(r"[a-z][A-Z]", name):
            yield Finding("warning", "case", path, f"{name!r} is not in title case")
        if len(words) > WORDS or len(name) > LETTERS or not re.fullmatch(r"[\w' -]+", name):
            yield Finding("warning", "speech", path, f"{name!r} is long, or holds more than words")


def _labels(labelling: Labelling) -> Iterator[Finding]:
    for label in labelling.labels.labels:
        if not label.categories and not label.note.strip():
            subject = f"label {label.index} ({label.name})"
            yield Finding("error", "unmapped", subject, "no category, and no note with the reason")


def _key(name: str) -> str:
    """The same for names that differ only by case, spaces or punctuation; the name itself where nothing else is in it.

    >>> _key("Video Game"), _key("video-game"), _key("VideoGame")
    ('videogame', 'videogame', 'videogame')
    """
    return "".join(re.findall(r"\w", name.casefold())) or name


def _turned(name: str) -> str:
    """The same for names of the same words in another order, and never a `_key`.

    >>> _turned("Ice Racing"), _turned("Racing (ice)")
    ('ice racing', 'ice racing')
    """
    return " ".join(sorted(re.findall(r"\w+", name.casefold()))) or name


def _plurals(key: str) -> list[str]:
    """The plurals that an English word could have; none for names with digits, as an iPhone 4S is not several 4.

    >>> _plurals("berry"), _plurals("iphone4")
    (['berrys', 'berryes', 'berries'], [])
    """
    if not key.isalpha():
        return []
    return [key + "s", key + "es", *([key[:-1] + "ies"] if key.endswith("y") else [])]


# --- Measuring on clips -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Link:
    """A label (its name and index) under one of its categories, and its lift there."""

    label: str
    index: int
    category: str
    """Its path."""
    measured_at: str
    """The path of the category where the lift was taken: the same, or an ancestor."""
    clips: int
    lift: float

    @property
    def subject(self) -> str:
        """As findings and exceptions name it.

        >>> Link("Ice cream", 7, "Food:Dessert", "Food", 12, 5.0).subject
        'label 7 (Ice cream) in Food:Dessert'
        """
        return f"label {self.index} ({self.label}) in {self.category}"


class Evidence(NamedTuple):
    """From so many ``clips`` that have labels; ``links`` begin with the worst."""

    taxonomy: Taxonomy
    clips: int
    counts: Int[np.ndarray, "category"]
    """Clips of each category."""
    links: list[Link]

    def scarce(self, few: int = SCARCE) -> list[tuple[int, int, int]]:
        """(level, its categories, those of them with fewer than ``few`` clips), from the top."""
        levels = self.taxonomy.levels
        return [
            (level, int((levels == level).sum()), int(((levels == level) & (self.counts < few)).sum()))
            for level in range(int(levels.max()) + 1)
        ]

    def findings(self) -> list[Finding]:
        """The links below `LIFT`."""
        return [
            Finding("warning", "lift", link.subject, f"a lift of {link.lift:.1f} at {link.measured_at}")
            for link in self.links
            if link.lift < LIFT
        ]

    def tables(self, reasons: Exceptions, worst: int) -> tuple[Table, Table]:
        """The levels with their scarce categories; and so many links of the lowest lifts, with their reasons."""
        levels = Table(
            f"{self.clips:,} labelled clips",
            ("level", "categories", f"with fewer than {SCARCE} clips"),
            [[str(number) for number in row] for row in self.scarce()],
        )
        rows = [
            (
                link.subject,
                link.measured_at,
                reasons.get(("lift", link.subject), ""),
                f"{link.lift:.1f}",
                str(link.clips),
            )
            for link in self.links[:worst]
        ]
        header = ("label", "measured at", "reason", "lift", "clips")
        return levels, Table("The labels of the lowest lifts", header, rows, labels=3)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "clips": self.clips,
            "levels": [{"level": level, "categories": size, "scarce": scarce} for level, size, scarce in self.scarce()],
            "links": [asdict(link) for link in self.links],
        }


def measure(labelling: Labelling, clips: Iterable[Sequence[int]]) -> Evidence:
    """Measure a taxonomy on clips, each given by its label indices; in one pass, so there may be any number.

    Raises Error naming the first label that the mapping does not have.
    """
    taxonomy, labels = labelling
    rows = {label.index: row for row, label in enumerate(labels.labels)}
    matrix = labels.matrix
    counts = np.zeros(len(taxonomy), np.int64)
    total = 0
    seen = np.zeros(len(labels), np.int64)  # clips of each label
    met = np.zeros(matrix.shape, np.int32)  # those of them where another label of the category is there too
    for clip in clips:
        indices = list(dict.fromkeys(clip))
        counts += labels.targets(indices)
        total += bool(indices)
        found = [rows[index] for index in indices]
        seen[found] += 1
        met[found] += matrix[found].sum(axis=0) > 1
    size = matrix.sum(axis=0)  # labels of each category

    links = []
    for row, label in enumerate(labels.labels):
        if seen[row] < ENOUGH:
            continue
        for category in label.categories:
            i = taxonomy.index(category)
            chain = (i, *taxonomy.ancestors(i))
            j = next((j for j in chain if size[j] >= COMPANY), chain[-1])
            # Clips where this label is the category's only one do not have another.
            others = counts[j] - (seen[row] - met[row, j])
            lift = float(met[row, j] / seen[row] / (others / total)) if others else 0.0
            path, at = taxonomy.paths[i], taxonomy.paths[j]
            links.append(Link(label.name, label.index, path, at, int(seen[row]), lift))
    return Evidence(taxonomy, total, counts, sorted(links, key=lambda link: (link.lift, link.index)))
