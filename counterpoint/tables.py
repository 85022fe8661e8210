"""One table for the terminal, for Markdown and for HTML; and texts of strangers, made harmless for terminals and
spreadsheets.
"""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table as RichTable


# Control characters, C1 ones too, and those that turn the direction of writing.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
LONGEST = 300  # characters of a cell in a terminal


def visible(text: str, *, keep: str = "", limit: int = 0) -> str:
    r"""A text for a terminal, in which nothing acts: characters that would are written out.

    Args:
        keep: characters that stay, such as line breaks.
        limit: characters; a longer text is cut, with an ellipsis.

    >>> print(visible("a\x1b[2Jb\n"), visible("abcdef", limit=4))
    a\x1b[2Jb\n abc…
    """
    if limit and len(text) > limit:
        text = text[: limit - 1] + "…"
    return _UNSEEN.sub(lambda found: found[0] if found[0] in keep else _written_out(found[0]), text)


def _written_out(character: str) -> str:
    return character.encode("unicode_escape").decode()


def for_json(text: str) -> str:
    """JSON of the same value, in which no character acts on a terminal."""
    return _UNSEEN.sub(lambda found: found[0] if found[0] in "\n\t" else f"\\u{ord(found[0]):04x}", text)


def for_spreadsheet(cells: Sequence[object]) -> list[object]:
    """A row for CSV, whose texts no spreadsheet takes for formulas: they get an apostrophe in front.

    >>> for_spreadsheet(["=1+1", "-2.5", -2.5, "a-b"])
    ["'=1+1", '-2.5', -2.5, 'a-b']
    """
    return [f"'{cell}" if isinstance(cell, str) and _acts(cell) else cell for cell in cells]


def from_spreadsheet(cell: str) -> str:
    """The text that `for_spreadsheet` made a cell of."""
    return cell[1:] if cell.startswith("'") and _acts(cell[1:]) else cell


def _acts(cell: str) -> bool:
    if not cell.startswith(_FORMULA):
        return False
    try:
        float(cell)
    except ValueError:
        return True
    return False


@dataclass(frozen=True)
class Cell:
    """A table's entry, with a smaller note below it."""

    text: str
    note: str = ""
    bold: bool = False
    link: str = ""
    dim: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of cells under a header; prints itself in a terminal, a notebook, Markdown and HTML.

    Attributes:
        labels: how many columns at the left are words; the others are numbers.
        spans: titles above the header, each over so many columns.
        parts: a line is drawn where the first column changes.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    caption: str = ""
    labels: int = 1
    spans: Sequence[tuple[str, int]] = ()
    parts: bool = False

    @property
    def cells(self) -> list[list[Cell]]:
        return [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in self.rows]

    def markdown(self) -> str:
        """The table for a Markdown file.

        >>> print(Table("", ["metric", "nv-l"], [["GAP", "9.75"]]).markdown())
        | metric | nv-l |
        |---|--:|
        | GAP | 9.75 |
        """
        lines = [f"**{self.title}**", ""] if self.title else []
        lines.append(_row(self._flat_header()))
        lines.append("|" + "".join("---|" if i < self.labels else "--:|" for i in range(len(self.header))))
        lines += [_row([_marked(cell) for cell in row]) for row in self.cells]
        return "\n".join([*lines, *(["", self.caption] if self.caption else [])])

    def __rich__(self) -> "RichTable":
        from rich.table import Table as RichTable
        from rich.text import Text

        # Text, not markup: neither [brackets] nor :colons: in names mean anything.
        title = Text(visible(self.title, keep="\n")) if self.title else None
        table = RichTable(title=title, caption=self.caption or None)
        for number, name in enumerate(self._flat_header()):
            table.add_column(Text(visible(name)), justify="left" if number < self.labels else "right")
        cells = self.cells
        for row, following in zip_longest(cells, cells[1:]):
            part = self.parts and following is not None and following[0] != row[0]
            shown = [(visible(f"{cell.text} {cell.note}".strip(), limit=LONGEST), cell.bold) for cell in row]
            table.add_row(*(Text(text, style="bold" if bold else "") for text, bold in shown), end_section=part)
        return table

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(width=10_000, color_system=None)
        with console.capture() as captured:
            console.print(self)
        return captured.get().rstrip()

    def _repr_html_(self) -> str:
        """For notebooks."""
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self._flat_header())
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(f'{cell.text} {cell.note}'.strip())}</td>" for cell in row) + "</tr>"
            for row in self.cells
        )
        return f"<table><caption>{html.escape(self.title)}</caption><tr>{head}</tr>{body}</table>"

    def _flat_header(self) -> list[str]:
        """The header where nothing can stand above it: the columns of a later span name theirs."""
        above = [title for title, count in self.spans for _ in range(count)] or [""] * len(self.header)
        own = next(filter(None, above), "")
        pairs = zip(above, self.header, strict=True)
        return [f"{title}: {name}" if title and title != own else name for title, name in pairs]


def _row(texts: Sequence[str]) -> str:
    return f"| {' | '.join(text.replace('|', chr(92) + '|') for text in texts)} |"


def _marked(cell: Cell) -> str:
    text = f"[{cell.text}]({cell.link})" if cell.link else cell.text
    text = f"**{text}**" if cell.bold and text else text
    return f"{text} {cell.note}".strip()
