"""What real clips say of a taxonomy: whether labels of one category occur together, and which categories are scarce.

A label belongs where it is mapped if clips with it carry other labels of that category more often than clips do at
large. The ratio is the lift,

    lift(l, c) = P(another label of c | l) / P(another label of c).

A category of one or two labels can tell little, so the lift is taken at the nearest ancestor that has three. A low lift
is a question, not a verdict: few videos show two video games. Its answer belongs into the taxonomy's exceptions.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from counterpoint.taxonomy.check import Finding
from counterpoint.taxonomy.mapping import Labelling
from counterpoint.taxonomy.tree import Taxonomy

LIFT = 3.0
"""A lift from which on a label is taken to belong."""
ENOUGH = 8  # clips of a label, to measure it
COMPANY = 3  # labels of a category, to measure there
SCARCE = 10  # clips of a category, to learn and measure it


@dataclass(frozen=True)
class Link:
    """A label (its name and index) under one of its categories: how well it gets along there."""

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
        here = [rows[index] for index in indices]
        seen[here] += 1
        met[here] += matrix[here].sum(axis=0) > 1
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
