"""One category's tree as SVG, like the paper's Figures 6 and 7: from left to right, each leaf on a line of its own."""

from html import escape

from counterpoint.errors import Error
from counterpoint.taxonomy.mapping import Labelling

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


def svg(labelling: Labelling, category: str) -> str:
    """The tree below a category, named by its id or path, with its training videos where they are known.

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
