"""A taxonomy as a page that needs nothing else: a tree that opens and closes, with counts, labels and a search box.

Without scripts the page still is a tree of disclosures, which browsers open with mouse, finger and keyboard.
"""

from html import escape
from pathlib import Path
from string import Template

import numpy as np

from counterpoint.taxonomy.mapping import Labelling

TEMPLATE = Path(__file__).with_name("page.html")


def page(labelling: Labelling, title: str = "Taxonomy") -> str:
    """The page's HTML."""
    taxonomy, labels = labelling
    below: list[list[str]] = [[] for _ in taxonomy]  # the names of the labels that lead right to each category
    for label in labels.labels:
        for category in label.categories:
            below[taxonomy.index(category)].append(label.name or f"label {label.index}")
    children: dict[int, list[int]] = {}
    for i in range(len(taxonomy)):
        children.setdefault(int(taxonomy.parents[i]), []).append(i)

    nodes = [""] * len(taxonomy)

    def branch(parent: int) -> str:
        return f"<ul>\n{''.join(nodes[i] for i in children[parent])}</ul>\n" if parent in children else ""

    def node(i: int) -> str:
        category, count = taxonomy.categories[i], int(labels.counts[i])
        name = escape(category.name)
        labels_here = ", ".join(f"<span>{escape(label)}</span>" for label in below[i])
        shown = f' <span class="count">{count:,}</span>' if count else ""
        code = f'<span class="code">IAB {escape(category.iab)}</span>' if category.iab else ""
        told = " · ".join(part for part in (labels_here, code) if part)
        paragraph = f'<p class="labels">{told}</p>' if told else ""
        return (
            f'<li><details><summary><span class="name">{name}</span>{shown}</summary>'
            f"{paragraph}{branch(i)}</details></li>\n"
        )

    for i in np.argsort(-taxonomy.levels, kind="stable"):  # the deepest first, as trees may be deeper than Python calls
        nodes[i] = node(int(i))
    summary = f"{len(taxonomy)} categories, {len(labels)} labels"
    if labels.counts.any():
        summary += "; the numbers are training videos, at most"
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(title), summary=summary, tree=branch(-1)
    )
