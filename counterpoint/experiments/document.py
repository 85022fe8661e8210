"""A report as plain data: sections of prose, tables and pictures; the same for HTML and Markdown."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from counterpoint.tables import Table

TEMPLATE = Path(__file__).with_name("report.html")


@dataclass(frozen=True)
class Picture:
    """A picture with a caption, which is also its text for screen readers; a ``wide`` one may be scrolled sideways."""

    name: str
    content: bytes
    caption: str
    wide: bool = False

    @property
    def data(self) -> str:
        """As a URL that needs no file."""
        kind = "svg+xml" if self.name.endswith(".svg") else "png"
        return f"data:image/{kind};base64,{base64.b64encode(self.content).decode()}"


Block = str | Table | Picture
"""A part of a report; a string is a paragraph."""


@dataclass(frozen=True)
class Section:
    """A title, and below it paragraphs, tables and pictures; ``folded`` ones open on demand."""

    title: str
    blocks: Sequence[Block]
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
        """The same as Markdown, with its pictures in a folder of that name."""
        lines = [f"# {self.title}", "", self.lead]
        for section in self.sections:
            lines += ["", f"{'#' * section.level} {section.title}"]
            for block in section.blocks:
                lines.append("")
                if isinstance(block, str):
                    lines.append(block)
                elif isinstance(block, Table):
                    lines.append(block.markdown())
                else:
                    lines.append(f"![{block.caption}]({pictures}/{block.name})")
        return "\n".join(lines) + "\n"

    @property
    def pictures(self) -> list[Picture]:
        return [block for section in self.sections for block in section.blocks if isinstance(block, Picture)]
