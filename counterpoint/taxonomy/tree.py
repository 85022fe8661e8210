"""A taxonomy is a forest of categories; a clip in a category is in all of the category's ancestors as well.

Conventions: a category's index is its row in the file, and its place on the last axis of every array of targets or
scores. Level 0 is the top. A path joins the names from the top with colons, as the paper prints them:
``Food:FoodItems:Dessert``.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int

from counterpoint.errors import Error
from counterpoint.files import check_regular, write_text

if TYPE_CHECKING:  # the taxonomy's tools start without loading PyTorch
    from torch import Tensor

SEPARATOR = ":"
COLUMNS = ("id", "parent", "name")
CATEGORIES_FILE = "categories.tsv"
SHIPPED = Path(__file__).with_name("shipped")
"""The folder of the shipped taxonomy."""
SHIPPED_NAME = "youtube8m"
"""What the shipped taxonomy is called where a path is expected."""
MOST_CATEGORIES, MOST_LINES = 200_000, 1_000_000
FORBIDDEN = "\t\n\r"
"""Characters that no field of a table may hold, as the format has no quoting."""

Array = TypeVar("Array", np.ndarray, "Tensor")


@dataclass(frozen=True)
class Category:
    """A node. ``parent`` is an id, empty at level 0; ``iab`` a node of the IAB Content Taxonomy 3.1, or empty."""

    id: str
    parent: str
    name: str
    iab: str = ""


@dataclass(frozen=True)
class Taxonomy:
    """Categories in index order; immutable, equal and hashed by content.

    ``Taxonomy.load`` reads one from a file or a folder. It holds the categories alone; a `Labelling` adds which labels
    of a data set lead to which category.

    Args:
        categories: in index order, parents before or after their children.

    Raises:
        Error: an id is malformed or used twice, a name is empty or holds a colon, two categories under one parent have
            the same name, or parents are unknown or form a cycle. The message names the row.

    >>> food = Taxonomy((Category("f", "", "Food"), Category("i", "f", "FoodItems"), Category("d", "i", "Dessert")))
    >>> food.paths[2], food.levels.tolist(), food.ancestors(2), food.descendants(0)
    ('Food:FoodItems:Dessert', [0, 1, 2], (1, 0), (1, 2))
    """

    categories: tuple[Category, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "categories", tuple(self.categories))
        if not self.categories:
            raise Error("a taxonomy needs at least one category")
        if len(self.categories) > MOST_CATEGORIES:
            raise Error(f"a taxonomy has at most {MOST_CATEGORIES:,} categories, not {len(self.categories):,}")
        _check(self.categories, "taxonomy, row", range(1, len(self.categories) + 1))

    def __reduce__(self) -> tuple[type["Taxonomy"], tuple[tuple[Category, ...]]]:
        # Only the content: the arrays are quickly made again, and would come back writable.
        return Taxonomy, (self.categories,)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "Taxonomy":
        """Read the categories of a taxonomy.

        Args:
            path: a ``categories.tsv``, a folder that holds one, or "youtube8m", the taxonomy that the package ships.

        Raises:
            Error: there is no such file, or a line of it is faulty.

        >>> Taxonomy.load("youtube8m").paths[0]
        'Games'
        """
        place = taxonomy_path(path)
        return cls.read(place / CATEGORIES_FILE if place.is_dir() else place)

    @classmethod
    def read(cls, path: str | Path) -> "Taxonomy":
        """Read a table ``id parent name [iab]``; parents may stand below their children.

        Raises Error naming the file and the line.
        """
        path = Path(path)
        lines, rows = read_table(path, COLUMNS, (*COLUMNS, "iab"))
        if not rows:
            raise Error(f"{path}: no categories below the header")
        categories = tuple(Category(*fields) for fields in rows)
        _check(categories, f"{path}, line", lines)
        return cls(categories)

    def write(self, path: str | Path) -> None:
        """Write the table that `read` reads, with the ``iab`` column if any category has one."""
        write_text(Path(path), self._text)

    @cached_property
    def _text(self) -> str:
        columns = (*COLUMNS, "iab") if any(category.iab for category in self) else COLUMNS
        return table_text(columns, (astuple(category)[: len(columns)] for category in self))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the table as written, in hexadecimal; it changes with the order, as the categories' indices do."""
        return hashlib.sha256(self._text.encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.categories)

    def __iter__(self) -> Iterator[Category]:
        return iter(self.categories)

    @cached_property
    def ids(self) -> tuple[str, ...]:
        return tuple(category.id for category in self)

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(category.name for category in self)

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """Names from the top, joined with colons; unique, as names are unique under a parent."""
        return tuple(SEPARATOR.join(self.names[j] for j in (*reversed(self.ancestors(i)), i)) for i in range(len(self)))

    @cached_property
    def codes(self) -> tuple[str, ...]:
        """The IAB code of each category, or of its nearest ancestor that has one: what is true of it in those terms."""
        chains = ((i, *self.ancestors(i)) for i in range(len(self)))
        return tuple(next((self.categories[j].iab for j in chain if self.categories[j].iab), "") for chain in chains)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {category.id: i for i, category in enumerate(self)}

    def index(self, category_id: str) -> int:
        """The index of the category with this id. Raises Error if there is none."""
        try:
            return self._index[category_id]
        except KeyError:
            raise Error(f"the taxonomy has no category with the id {category_id!r}") from None

    @cached_property
    def parents(self) -> Int[np.ndarray, "category"]:
        """The index of each category's parent, -1 at level 0."""
        return _constant([self._index[category.parent] if category.parent else -1 for category in self])

    @cached_property
    def levels(self) -> Int[np.ndarray, "category"]:
        """The number of ancestors of each category."""
        return _constant([len(self.ancestors(i)) for i in range(len(self))])

    @cached_property
    def tops(self) -> Int[np.ndarray, "category"]:
        """The index of each category's ancestor at level 0; its own at level 0."""
        return _constant([self.top(i) for i in range(len(self))])

    @cached_property
    def with_ancestors(self) -> Bool[np.ndarray, "category category"]:
        """Row i holds True at i and at all of its ancestors; column i therefore at i and at all of its descendants."""
        matrix = np.eye(len(self), dtype=bool)
        for i in range(len(self)):
            matrix[i, list(self.ancestors(i))] = True
        matrix.setflags(write=False)
        return matrix

    def ranked(self, probabilities: Float[np.ndarray, "category"]) -> Int[np.ndarray, "category"]:
        """The most probable first; of equal ones the higher, so that none stands before its parent."""
        return np.lexsort((self.levels, -probabilities))

    def ancestors(self, i: int) -> tuple[int, ...]:
        """The categories above i, nearest first."""
        above = []
        while (i := int(self.parents[i])) >= 0:
            above.append(i)
        return tuple(above)

    def top(self, i: int) -> int:
        """The ancestor at level 0, which is i itself at level 0."""
        return (i, *self.ancestors(i))[-1]

    def children(self, i: int) -> tuple[int, ...]:
        """The categories right below i, in index order."""
        return tuple(np.flatnonzero(self.parents == i).tolist())

    def descendants(self, i: int) -> tuple[int, ...]:
        """All categories below i, in index order."""
        return tuple(j for j in np.flatnonzero(self.with_ancestors[:, i]).tolist() if j != i)

    def consistent(self, probabilities: Array, raise_parents: bool = False) -> Array:
        """Make no category more probable than its parent; a consistent input stays.

        Every child is lowered to its parent, from the top down; or with ``raise_parents`` every parent is raised to its
        most probable child, from the bottom up.

        ``probabilities`` (..., category) is a numpy array or a tensor on any device; the result is a new one of the
        same shape and type. Raises ValueError if the last axis is not one entry a category.

        >>> pair = Taxonomy((Category("f", "", "Food"), Category("d", "f", "Dessert")))
        >>> pair.consistent(np.array([[0.5, 0.75], [0.5, 0.25]])).tolist()
        [[0.5, 0.5], [0.5, 0.25]]
        >>> pair.consistent(np.array([[0.5, 0.75], [0.5, 0.25]]), raise_parents=True).tolist()
        [[0.75, 0.75], [0.5, 0.25]]
        """
        if probabilities.shape[-1:] != (len(self),):
            raise ValueError(f"(..., {len(self)}) expected, got {tuple(probabilities.shape)}")
        result = probabilities.copy() if isinstance(probabilities, np.ndarray) else probabilities.clone()
        if raise_parents:
            for category in np.argsort(-self.levels, kind="stable"):
                if (parent := int(self.parents[category])) >= 0:
                    child = result[..., int(category)]
                    result[..., parent] = result[..., parent].clip(min=child)
            return result
        for level in range(1, int(self.levels.max()) + 1):
            here = np.flatnonzero(self.levels == level)
            result[..., here] = result[..., here].clip(max=result[..., self.parents[here]])
        return result


def taxonomy_path(path: str | PathLike[str]) -> Path:
    """The path; of "youtube8m" the folder of the shipped taxonomy, unless there is a taxonomy of that name here."""
    here = Path(path)
    return SHIPPED if str(path) == SHIPPED_NAME and not (here / CATEGORIES_FILE).exists() else here


def _constant(values: Sequence[int]) -> Int[np.ndarray, "category"]:
    array = np.array(values, dtype=np.int64)
    array.setflags(write=False)
    return array


def _check(categories: Sequence[Category], source: str, rows: Sequence[int]) -> None:
    """Raise Error at the first category that does not fit, as "<source> <row>: <problem>"."""

    def fail(i: int, problem: str) -> NoReturn:
        raise Error(f"{source} {rows[i]}: {problem}")

    index: dict[str, int] = {}
    for i, category in enumerate(categories):
        if not category.id or "," in category.id or any(character.isspace() for character in category.id):
            fail(i, f"an id must not be empty, nor hold commas or white space; got {category.id!r}")
        if category.id in index:
            fail(i, f"the id {category.id!r} is taken (first used at {rows[index[category.id]]})")
        if not category.name.strip():
            fail(i, f"the category {category.id!r} has no name")
        if SEPARATOR in category.name:
            fail(i, f"the name {category.name!r} holds {SEPARATOR!r}, which separates the names of a path")
        if any(character in category.name + category.iab for character in FORBIDDEN):
            fail(i, f"the category {category.id!r} holds a tab or a line break")
        index[category.id] = i

    first: dict[tuple[str, str], int] = {}
    for i, category in enumerate(categories):
        if category.parent and category.parent not in index:
            fail(i, f"the parent {category.parent!r} of {category.id!r} is not in the taxonomy")
        same = first.setdefault((category.parent, category.name), i)
        if same != i:
            fail(i, f"the name {category.name!r} is taken under this parent (first used at {rows[same]})")

    checked: set[str] = set()
    for category in categories:
        walk: dict[str, None] = {}  # a set that keeps the order of the walk
        here = category.id
        while here and here not in checked and here not in walk:
            walk[here] = None
            here = categories[index[here]].parent
        if here in walk:
            cycle = list(walk)[list(walk).index(here) :]
            fail(index[here], f"a cycle of parents: {' -> '.join((*cycle, here))}")
        checked.update(walk)


# --- Tables -----------------------------------------------------------------------------------------------------------
# Tab separated, as people edit them: UTF-8, comment lines (#) above the header, no quoting. Every row keeps its line
# number, so that an error can name the line.


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """(line number from 1, fields) of the header and the rows; blank lines and the comments at the top are left out."""
    check_regular(path)
    try:
        # utf-8-sig: spreadsheets like to put a byte order mark before the header.
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise Error(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise Error(f"{path}: is not UTF-8 text (byte {error.start})") from error
    if (count := text.count("\n")) > MOST_LINES:
        raise Error(f"{path}: {count:,} lines; a table has at most {MOST_LINES:,}")
    # Not splitlines(), which also splits at characters that a name may well hold, such as U+2028.
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line]
    while lines and lines[0][1].startswith("#"):
        del lines[0]
    return [(number, line.split("\t")) for number, line in lines]


def table_header(path: Path) -> tuple[str, ...]:
    """The column names of a table; empty for a file without any. Raises Error if it cannot be read."""
    lines = _lines(path)
    return tuple(lines[0][1]) if lines else ()


def read_table(path: Path, *headers: tuple[str, ...]) -> tuple[list[int], list[list[str]]]:
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
    """Whether a field is a whole number from 0, of no more digits than any index or count has.

    >>> is_number("42"), is_number("-1"), is_number("\u00b2")
    (True, False, False)
    """
    return field.isascii() and field.isdecimal() and len(field) < 40


def table_text(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    r"""The table as a file holds it.

    >>> table_text(("id", "name"), [("1", "Food")])
    'id\tname\n1\tFood\n'
    """
    return "".join("\t".join(fields) + "\n" for fields in (columns, *rows))
