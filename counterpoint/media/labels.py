"""A labels file: which of one's own videos are in which categories, and the taxonomy that follows from their names.

    path,categories
    holiday/reef.mp4,Travel:Coast:Diving
    holiday/lunch.mp4,Food:Soup;Travel:Coast

A table with a header, whose cells are separated by commas, semicolons or tabs, in UTF-8 or UTF-16; other columns do not
matter. Paths are relative to the file's folder, with either kind of slash. A category is its path from the top, names
joined with colons; several are separated by semicolons (in quotes, where semicolons separate the cells).

A category's id is its path itself, so that two categories never have one id: see `id_of`.
"""

import csv
import io
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from counterpoint.errors import Error
from counterpoint.taxonomy import Category, Labelling, LabelMap, Taxonomy
from counterpoint.taxonomy.tree import SEPARATOR

COLUMNS = ("path", "categories")
NAMES = ({"path", "file", "filename", "video"}, {"categories", "category", "labels", "label", "class", "tags"})
"""What the two columns may be called, in small letters."""
BETWEEN = ";"
FOLDERS = "folders"
"""In place of a labels file: a video's category is the folder that it lies in."""
LISTED = 20  # faults in a message
INVISIBLE = dict.fromkeys(map(ord, "\u200b\u2060\ufeff\u00ad\u200e\u200f"))
"""Characters that show nothing and change nothing, unlike the joiners of Indic scripts and emoji."""
ESCAPED = {ord(character): f"%{ord(character):02X}" for character in "%/,_"} | {ord(" "): "_"}
# Small letters of other alphabets that look like Latin ones.
ALIKE = str.maketrans("аеорсухіјѕԁһӏοανρτυικϲ", "aeopcyxijsdhloavptuikc")


class Row(NamedTuple):
    """A file's categories, and where they are from."""

    line: int
    file: Path
    categories: list[str]


@dataclass(frozen=True)
class Labels:
    """The label indices of each file (its real path), and the labelling that they belong to.

    Attributes:
        notes: what was amiss and taken nonetheless, or left out.
    """

    of: dict[Path, tuple[int, ...]]
    labelling: Labelling
    notes: tuple[str, ...] = ()


def read(
    path: str | Path,
    known: Labelling | None = None,
    *,
    fixed: bool = False,
    columns: Sequence[str] = (),
    skip_bad: bool = False,
) -> Labels:
    """Read a labels file.

    Without ``known`` every category that the file names becomes one, and so do those above it; label i is category i.
    A ``known`` labelling of that kind keeps its categories in their places, so that what was labelled before stays
    right, and new ones follow; if it is ``fixed`` there are none, and it may be any labelling.

    Args:
        columns: the names of the columns of files and of categories, where they are not of `NAMES` or not clear.
        skip_bad: leave faulty lines out, with a note of each.

    Raises:
        Error: with all faulty lines: a file is not there or named twice, a name is empty, or a category is not one of
            the fixed labelling; or the file is no such table.
    """
    path = Path(path)
    faults: list[str] = []
    notes: list[str] = []
    rows = _read(path, columns, faults, notes)
    return _labels(rows, str(path), known, fixed, faults, notes, skip_bad)


def from_folders(files: Mapping[str, Path], known: Labelling | None = None, *, fixed: bool = False) -> Labels:
    """The folders that files lie in as their categories: ``Food/Soup/a.mp4`` is in Food:Soup.

    A file that lies in no folder has no label, and is not in the result.

    Args:
        files: by their path below the folder of all, with slashes.
        known, fixed: as `read` takes them.

    Raises:
        Error: no file lies in a folder, or a folder's name cannot be a category's.
    """
    rows: list[Row] = []
    faults: list[str] = []
    for name, file in files.items():
        folders = name.split("/")[:-1]
        if bad := next((folder for folder in folders if SEPARATOR in folder or BETWEEN in folder), None):
            faults.append(
                f"{name}: the folder {bad!r} is no category, since {SEPARATOR} and {BETWEEN} part names; rename it"
            )
        elif folders:
            try:
                rows.append(Row(0, real(file), [_clean(SEPARATOR.join(folders))]))
            except Error as error:
                faults.append(f"{name}: {error}")
    if not rows and not faults:
        raise Error(
            "no video lies in a folder of its category: move them into such folders (Food/Soup/a.mp4 is in Food:Soup), "
            "or name their categories in a table path,categories (--labels)"
        )
    return _labels(rows, FOLDERS, known, fixed, faults, [], skip_bad=False)


def real(path: Path) -> Path:
    """The absolute path of a file without links; of a loop of links as much as can be followed."""
    return Path(os.path.realpath(path))


def id_of(path: str) -> str:
    """A category's id: its path in Unicode's composed form, with / between the names and _ for a space.

    Different paths have different ids: what an id may not hold, or means something in it, is written as %2C and so on.

    >>> id_of("Music:Rock"), id_of("Music:rock"), id_of("C#"), id_of("Ice cream"), id_of("AC/DC")
    ('Music/Rock', 'Music/rock', 'C#', 'Ice_cream', 'AC%2FDC')
    """
    names = unicodedata.normalize("NFC", path).split(SEPARATOR)
    return "/".join(name.translate(ESCAPED) for name in names)


def look_alikes(paths: Sequence[str]) -> Iterator[str]:
    """A note for every two categories whose names a reader may take for one."""
    shown: dict[str, str] = {}
    for path in paths:
        looks = unicodedata.normalize("NFKC", path).casefold().translate(ALIKE)
        if (first := shown.setdefault(looks, path)) != path:
            yield f"the categories {first!r} and {path!r} look alike, and are two; write one name in one way"


def _labels(
    rows: Sequence[Row],
    path: str,
    known: Labelling | None,
    fixed: bool,
    faults: list[str],
    notes: list[str],
    skip_bad: bool,
) -> Labels:
    if not rows:
        raise Error(_listed(path, faults))
    own = _index(known) if fixed and known is not None else None
    kept: dict[Path, Row] = {}
    for row in rows:
        where = f"line {row.line}: " if row.line else ""
        if own is not None and (strangers := [name for name in row.categories if name not in own]):
            faults.append(f"{where}no label of the taxonomy stands for {strangers[0]!r} alone")
        elif row.file in kept:
            faults.append(f"{where}{row.file.name} is named twice")
        else:
            kept[row.file] = row
    if faults and not (skip_bad and kept):
        raise Error(_listed(path, faults))
    notes += [f"left out: {fault}" for fault in faults]
    named = [name for row in kept.values() for name in row.categories]
    taken = known if fixed and known is not None else _grown(known, named)
    index = _index(taken)
    of = {file: tuple(dict.fromkeys(index[name] for name in row.categories)) for file, row in kept.items()}
    if not fixed:
        counts = Counter(label for labels in of.values() for label in labels)
        counted = (replace(label, count=counts[label.index]) for label in taken.labels.labels)
        taken = Labelling(taken.taxonomy, LabelMap(tuple(counted), taken.taxonomy))
    return Labels(of, taken, (*notes, *look_alikes(taken.taxonomy.paths)))


def _listed(path: str, faults: Sequence[str]) -> str:
    """All faults in one message, the first of many."""
    if len(faults) == 1:
        return f"{path}, {faults[0]}" if path != FOLDERS else faults[0]
    more = [f"... and {len(faults) - LISTED:,} more"] if len(faults) > LISTED else []
    advice = "; mend them, or leave them out with --skip-bad-labels" if path != FOLDERS else ""
    return "\n  ".join([f"{path}: {len(faults):,} faults{advice}", *faults[:LISTED], *more])


def _read(path: Path, columns: Sequence[str], faults: list[str], notes: list[str]) -> list[Row]:
    """The rows of a table; ``faults`` gets those that are none."""
    # Not splitlines(), which also splits at characters that a name may well hold, such as U+2028.
    lines = list(io.StringIO(_text(path, notes), newline=""))
    header = next((line for line in lines if line.strip()), "")
    delimiter = max(",;\t", key=header.count)
    try:
        reader = csv.reader(lines, strict=True, delimiter=delimiter)
        table = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise Error(f"{path}: is no table of {' and '.join(COLUMNS)} ({error})") from error
    if not table:
        raise Error(f"{path}: is empty; its first line names its columns: {','.join(COLUMNS)}")
    names = [cell.strip() for cell in table[0][1]]
    where = [_column(path, names, kind, columns) for kind in (0, 1)]
    if len(table) == 1:
        raise Error(f"{path}: no files below the header")
    rows = []
    for line, cells in table[1:]:
        try:
            rows.append(_row(path, line, cells, len(names), where))
        except Error as error:
            faults.append(f"line {line}: {error}")
    if any(cell.translate(INVISIBLE) != cell for _, cells in table for cell in cells):
        notes.append("invisible characters in names (zero-width spaces, soft hyphens) are left out")
    return rows


def _text(path: Path, notes: list[str]) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Error(f"{path}: cannot be read ({error.strerror})") from error
    wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        other = path.with_name(f"{path.stem}-utf8{path.suffix}")
        raise Error(
            f"{path}, line {line}: is not in UTF-8; if it is in Windows' or Latin letters, convert it: "
            f"iconv -f CP1252 -t UTF-8 '{path}' > '{other}'"
        ) from error
    if "\0" in text:
        raise Error(f"{path}: holds null characters, and is no table of text")
    if wide:
        notes.append("is in UTF-16, and was read as such")
    return text


def _column(path: Path, names: Sequence[str], kind: int, columns: Sequence[str]) -> int:
    """Which column holds the files (0) or the categories (1)."""
    if columns:
        if len(columns) != len(COLUMNS):
            raise Error(f"--columns names two columns, that of files and that of categories, not {len(columns)}")
        found = [number for number, name in enumerate(names) if name == columns[kind]]
    else:
        exact = [number for number, name in enumerate(names) if name == COLUMNS[kind]]
        found = exact or [number for number, name in enumerate(names) if name.casefold() in NAMES[kind]]
    if len(found) == 1:
        return found[0]
    what = "files" if kind == 0 else "categories"
    missing = columns[kind] if columns else COLUMNS[kind]
    fault = f"{len(found)} columns may be that of {what}" if found else f"no column {missing!r}"
    raise Error(
        f"{path}: {fault} in its first line ({', '.join(names)}); name the columns of files and categories, "
        "as in --columns filename,genre"
    )


def _row(path: Path, line: int, cells: Sequence[str], width: int, where: Sequence[int]) -> Row:
    if any(cell.strip() for cell in cells[width:]):
        raise Error(
            f"more cells than the header has; several categories are separated by {BETWEEN}, and a cell with the "
            "table's own separator in it is in quotes"
        )
    name, categories = (cells[number].strip() if number < len(cells) else "" for number in where)
    file = _file(path.parent, name)
    if file is None:
        raise Error(f"no file {name!r} (paths are relative to {path.parent}/)")
    found = [_clean(category) for category in categories.split(BETWEEN) if category.strip()]
    if not found:
        raise Error(f"{name} has no category")
    return Row(line, real(file), found)


def _file(folder: Path, name: str) -> Path | None:
    """The file that a cell names, as it stands, with Windows' slashes, or with its letters composed otherwise."""
    spellings = [name, name.replace("\\", "/"), name.translate(INVISIBLE)]
    spellings += [unicodedata.normalize(form, name) for form in ("NFC", "NFD")]
    for spelling in dict.fromkeys(spellings):
        try:
            if spelling and (folder / spelling).is_file():
                return folder / spelling
        except (OSError, ValueError):  # no name that a file could have
            continue
    return None


def _clean(category: str) -> str:
    plain = unicodedata.normalize("NFC", category.translate(INVISIBLE))
    names = [" ".join(name.split()) for name in plain.split(SEPARATOR)]
    if not all(names):
        raise Error(f"the category {category.strip()!r} has an empty name")
    return SEPARATOR.join(names)


def _grown(known: Labelling | None, names: Sequence[str]) -> Labelling:
    """Every category named and those above, parents first, after the known ones, which keep their ids."""
    categories = list(known.taxonomy) if known else []
    ids = dict(zip(map(_composed, known.taxonomy.paths), known.taxonomy.ids, strict=True)) if known else {}
    taken = set(ids.values())
    for name in sorted(set(names)):
        parts = name.split(SEPARATOR)
        for depth in range(1, len(parts) + 1):
            path = SEPARATOR.join(parts[:depth])
            if path not in ids:
                ids[path] = own = id_of(path)
                if own in taken:  # by a category of version 0.1, whose ids were shortened
                    raise Error(f"the taxonomy so far has the id {own!r} for another category; choose another --out")
                taken.add(own)
                categories.append(Category(own, ids.get(SEPARATOR.join(parts[: depth - 1]), ""), parts[depth - 1]))
    taxonomy = Taxonomy(tuple(categories))
    return Labelling(taxonomy, LabelMap.identity(taxonomy))


def _composed(path: str) -> str:
    return unicodedata.normalize("NFC", path)


def _index(labelling: Labelling) -> dict[str, int]:
    """The label that stands for each category's path, where there is one."""
    paths = dict(zip(labelling.taxonomy.ids, map(_composed, labelling.taxonomy.paths), strict=True))
    index: dict[str, int] = {}
    for label in labelling.labels.labels:
        if len(label.categories) == 1:
            index.setdefault(paths[label.categories[0]], label.index)
    return index
