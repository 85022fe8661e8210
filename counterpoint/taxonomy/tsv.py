"""Tab separated tables as people edit them: UTF-8, comment lines (#) above the header, no quoting.

Every row keeps its line number, so that whoever finds a row wrong can say where it is.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from counterpoint.errors import Error

Columns = tuple[str, ...]

FORBIDDEN = "\t\n\r"
"""Characters that no field may hold, as the format has no quoting."""


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """(line number from 1, fields) of the header and the rows; blank lines and the comments at the top are left out."""
    try:
        # utf-8-sig: spreadsheets like to put a byte order mark before the header.
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise Error(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise Error(f"{path}: is not UTF-8 text (byte {error.start})") from error
    # Not splitlines(), which also splits at characters that a name may well hold, such as U+2028.
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line]
    while lines and lines[0][1].startswith("#"):
        del lines[0]
    return [(number, line.split("\t")) for number, line in lines]


def header(path: Path) -> Columns:
    """The column names of a table; empty for a file without any. Raises Error if it cannot be read."""
    lines = _lines(path)
    return tuple(lines[0][1]) if lines else ()


def read(path: Path, *headers: Columns) -> tuple[list[int], list[list[str]]]:
    """The line number and the fields of every row, in the file's order.

    Raises Error, naming the file and the line, where the first line is none of the ``headers`` or a row has
    another number of fields than the header.
    """
    lines = _lines(path)
    expected = " or ".join(repr(" ".join(names)) for names in headers)
    if not lines:
        raise Error(f"{path}: is empty; the header {expected} (tab separated) is missing")
    (number, names), *rows = lines
    if tuple(names) not in headers:
        raise Error(f"{path}, line {number}: the header must be {expected}, tab separated; got {names}")
    for number, fields in rows:
        if len(fields) != len(names):
            raise Error(f"{path}, line {number}: {len(names)} columns expected, got {len(fields)}")
    return [number for number, _ in rows], [fields for _, fields in rows]


def is_number(field: str) -> bool:
    """Whether a field says a whole number from 0, of no more digits than any index or count has.

    >>> is_number("42"), is_number("-1"), is_number("\u00b2")
    (True, False, False)
    """
    return field.isascii() and field.isdecimal() and len(field) < 40


def text(columns: Columns, rows: Iterable[Sequence[str]]) -> str:
    r"""The table as a file holds it.

    >>> text(("id", "name"), [("1", "Food")])
    'id\tname\n1\tFood\n'
    """
    return "".join("\t".join(fields) + "\n" for fields in (columns, *rows))
