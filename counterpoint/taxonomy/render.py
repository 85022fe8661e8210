"""A taxonomy for the eye and for other programs: a tree for the terminal, plain values, a page, a picture.

The page needs no other file: a tree that opens and closes, with counts, labels and a search box. Without scripts it is
a tree of disclosures, which browsers open with mouse, finger and keyboard.
"""

from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from rich.text import Text
from rich.tree import Tree

from counterpoint.errors import Error
from counterpoint.taxonomy.mapping import Labelling

TEMPLATE = Path(__file__).with_name("page.html")
LINE, MARGIN, GAP = 22, 24, 76  # pixels: from leaf to leaf, around the tree, between a name's end and the next level
LETTER = 8.0  # pixels, a generous mean width of a letter
STYLE = """
  svg { --ink: #1c2430; --dim: #5b6675; --line: #b9c3cf; --dot: #0b62b3; --paper: #ffffff; background: var(--paper); }
  @media (prefers-color-scheme: dark) {
    svg { --ink: #e4e8ee; --dim: #9aa6b5; --line: #46525f; --dot: #7db9f5; --paper: #12171e; }
  }
  .paper { fill: var(--paper); }
  text { font: 14px system-ui, sans-serif; fill: var(--ink); dominant-baseline: central; }
  .count { font-size: 11px; fill: var(--dim); }
  path { fill: none; stroke: var(--line); stroke-width: 1.5; }
  circle { fill: var(--dot); }
"""


def tree(labelling: Labelling, levels: int | None = None) -> Tree:
    """The categories as a tree to print with rich, each with its training videos, an upper bound, where known.

    ``levels``: only so many from the top.
    """
    taxonomy, labels = labelling
    root = Tree(Text(f"{len(taxonomy)} categories, {len(labels)} labels"))
    nodes: dict[int, Tree] = {-1: root}
    # A parent may stand below its children in the file, never below them in level; the sort keeps siblings in order.
    for i in sorted(range(len(taxonomy)), key=lambda i: int(taxonomy.levels[i])):
        if levels is not None and taxonomy.levels[i] >= levels:
            break
        # Text, as names may hold square brackets, which rich would take for markup.
        line = Text(taxonomy.names[i])
        if count := int(labels.counts[i]):
            line.append(f"  {count:,}", style="dim")
        nodes[i] = nodes[int(taxonomy.parents[i])].add(line)
    return root


def as_dict(labelling: Labelling) -> dict[str, list[dict[str, Any]]]:
    """``categories`` and ``labels`` in the order of their files, ready for JSON; a top category's parent is None."""
    taxonomy, labels = labelling
    return {
        "categories": [
            {
                "id": category.id,
                "parent": category.parent or None,
                "name": category.name,
                "iab": category.iab or None,
                "path": taxonomy.paths[i],
                "level": int(taxonomy.levels[i]),
                "count": int(labels.counts[i]),
            }
            for i, category in enumerate(taxonomy)
        ],
        "labels": [
            {
                "index": label.index,
                "label": label.name,
                "count": label.count,
                "categories": list(label.categories),
                "note": label.note,
            }
            for label in labels.labels
        ],
    }


def page(labelling: Labelling, title: str = "Taxonomy") -> str:
    """The taxonomy as a page of HTML."""
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
        number = f' <span class="count">{count:,}</span>' if count else ""
        code = f'<span class="code">IAB {escape(category.iab)}</span>' if category.iab else ""
        details = " · ".join(part for part in (labels_here, code) if part)
        paragraph = f'<p class="labels">{details}</p>' if details else ""
        return (
            f'<li><details><summary><span class="name">{name}</span>{number}</summary>'
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


def svg(labelling: Labelling, category: str) -> str:
    """The tree below a category, by its id or path, as SVG like the paper's Figures 6 and 7; with training videos where
    they are known. It grows from left to right, each leaf on a line of its own.

    Raises Error where there is no such category.
    """
    taxonomy, labels = labelling
    root = _find(labelling, category)
    inside = (root, *taxonomy.descendants(root))
    children = {i: taxonomy.children(i) for i in inside}
    counts = {i: f"{int(labels.counts[i]):,}" if labels.counts[i] else "" for i in inside}

    left = {0: float(MARGIN)}  # where each level begins
    for level in range(int(max(taxonomy.levels[i] for i in inside) - taxonomy.levels[root]) + 1):
        here = [i for i in inside if taxonomy.levels[i] - taxonomy.levels[root] == level]
        left[level + 1] = left[level] + max(LETTER * (len(taxonomy.names[i]) + len(counts[i])) for i in here) + GAP
    x = {i: left[int(taxonomy.levels[i] - taxonomy.levels[root])] for i in inside}

    ordered, left_over = [], [root]  # each before what is below it, and that from top to bottom
    while left_over:
        ordered.append(left_over.pop())
        left_over += reversed(children[ordered[-1]])
    leaves = [i for i in ordered if not children[i]]
    lines = len(leaves)
    y = {leaf: MARGIN + LINE * (line + 0.5) for line, leaf in enumerate(leaves)}
    for i in reversed(ordered):
        if children[i]:
            y[i] = (y[children[i][0]] + y[children[i][-1]]) / 2
    links, nodes = [], []
    for i in inside:
        begin = x[i] + 28 + LETTER * (len(taxonomy.names[i]) + 0.88 * len(counts[i]))
        for child in children[i]:
            end = x[child] - 8
            middle = (begin + end) / 2
            curve = f"C{middle:.0f} {y[i]:.1f} {middle:.0f} {y[child]:.1f} {end:.0f} {y[child]:.1f}"
            links.append(f'<path d="M{begin:.0f} {y[i]:.1f} {curve}"/>')
        count = f' <tspan class="count" dx="4">{counts[i]}</tspan>' if counts[i] else ""
        nodes.append(
            f'<circle cx="{x[i]:.0f}" cy="{y[i]:.1f}" r="4"/>'
            f'<text x="{x[i] + 10:.0f}" y="{y[i]:.1f}">{escape(taxonomy.names[i])}{count}</text>'
        )
    width, height = left[max(left)] - GAP + MARGIN + 12, 2 * MARGIN + LINE * lines
    title = escape(f"{taxonomy.paths[root]}: {len(inside)} categories")
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" '
            f'viewBox="0 0 {width:.0f} {height}" role="img" aria-label="{title}">',
            f"<title>{title}</title>",
            f"<style>{STYLE}</style>",
            f'<rect class="paper" width="{width:.0f}" height="{height}"/>',
            *links,
            *nodes,
            "</svg>\n",
        )
    )


def _find(labelling: Labelling, category: str) -> int:
    taxonomy = labelling.taxonomy
    for names in (taxonomy.paths, taxonomy.ids):
        if category in names:
            return names.index(category)
    tops = ", ".join(path for path, level in zip(taxonomy.paths, taxonomy.levels, strict=True) if level == 0)
    raise Error(f"no category has the path or the id {category!r}; at the top are {tops}")
