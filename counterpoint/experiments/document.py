"""A report as plain data: sections of prose, tables and pictures; the same for HTML and Markdown."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, StrictUndefined

TEMPLATE = Path(__file__).with_name("report.html")


@dataclass(frozen=True)
class Cell:
    """What stands in a table, with a smaller note below it."""

    text: str
    note: str = ""
    bold: bool = False
    link: str = ""
    dim: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of cells.

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


@dataclass(frozen=True)
class Picture:
    """A picture and what it shows, for those who do not see it as well; ``wide``: it may be scrolled sideways."""

    name: str
    content: bytes
    caption: str
    wide: bool = False

    @property
    def data(self) -> str:
        """As a URL that needs no file."""
        kind = "svg+xml" if self.name.endswith(".svg") else "png"
        return f"data:image/{kind};base64,{base64.b64encode(self.content).decode()}"


@dataclass(frozen=True)
class Section:
    """A title, and below it prose (a string each paragraph), tables and pictures; ``folded`` ones open on demand."""

    title: str
    blocks: Sequence[str | Table | Picture]
    level: int = 2
    folded: bool = False

    @property
    def anchor(self) -> str:
        return "-".join("".join(c if c.isalnum() else " " for c in self.title.lower()).split())


@dataclass(frozen=True)
class Document:
    """A whole report."""

    title: str
    lead: str
    sections: Sequence[Section]

    def html(self) -> str:
        """One file that needs no other."""
        environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        environment.tests["prose"] = lambda block: isinstance(block, str)
        environment.tests["table"] = lambda block: isinstance(block, Table)
        return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(document=self)

    def markdown(self, pictures: str) -> str:
        """The same, with its pictures in a folder of that name."""
        lines = [f"# {self.title}", "", self.lead]
        for section in self.sections:
            lines += ["", f"{'#' * section.level} {section.title}"]
            for block in section.blocks:
                lines.append("")
                if isinstance(block, str):
                    lines.append(block)
                elif isinstance(block, Table):
                    lines += _markdown(block)
                else:
                    lines.append(f"![{block.caption}]({pictures}/{block.name})")
        return "\n".join(lines) + "\n"

    @property
    def pictures(self) -> list[Picture]:
        return [block for section in self.sections for block in section.blocks if isinstance(block, Picture)]


def _markdown(table: Table) -> list[str]:
    # Markdown has no header above the header: the second part's columns, which repeat the first's, name theirs.
    above = [title for title, count in table.spans for _ in range(count)] or [""] * len(table.header)
    own = next(filter(None, above), "")
    header = [
        f"{title}: {name}" if title and title != own else name for title, name in zip(above, table.header, strict=True)
    ]
    lines = [f"**{table.title}**", ""] if table.title else []
    lines.append(_row(header))
    lines.append("|" + "".join("---|" if i < table.labels else "--:|" for i in range(len(table.header))))
    lines += [_row([_told(cell) for cell in row]) for row in table.cells]
    return [*lines, *(["", table.caption] if table.caption else [])]


def _row(texts: Sequence[str]) -> str:
    return f"| {' | '.join(text.replace('|', chr(92) + '|') for text in texts)} |"


def _told(cell: Cell) -> str:
    text = f"[{cell.text}]({cell.link})" if cell.link else cell.text
    text = f"**{text}**" if cell.bold and text else text
    return f"{text} {cell.note}".strip()
