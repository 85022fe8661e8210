"""A taxonomy is a forest of categories; a clip in a category is in all of the category's ancestors as well.

Conventions: a category's index is its row in the file, and its place on the last axis of every array of targets or
scores. Level 0 is the top. A path joins the names from the top with colons, as the paper prints them:
``Food:FoodItems:Dessert``.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int

from counterpoint.errors import Error
from counterpoint.files import write_text
from counterpoint.taxonomy import tsv

if TYPE_CHECKING:  # the taxonomy's tools start without loading PyTorch
    from torch import Tensor

SEPARATOR = ":"
COLUMNS = ("id", "parent", "name")

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

    Raises Error, naming the row, for duplicate or malformed ids, empty names, a colon in a name, two
    categories of one name under one parent, unknown parents and cycles.

    >>> food = Taxonomy((Category("f", "", "Food"), Category("i", "f", "FoodItems"), Category("d", "i", "Dessert")))
    >>> food.paths[2], food.levels.tolist(), food.ancestors(2), food.descendants(0)
    ('Food:FoodItems:Dessert', [0, 1, 2], (1, 0), (1, 2))
    """

    categories: tuple[Category, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "categories", tuple(self.categories))
        if not self.categories:
            raise Error("a taxonomy needs at least one category")
        _check(self.categories, "taxonomy, row", range(1, len(self.categories) + 1))

    def __reduce__(self) -> tuple[type["Taxonomy"], tuple[tuple[Category, ...]]]:
        # Only the content: the arrays are quickly made again, and would come back writable.
        return Taxonomy, (self.categories,)

    @classmethod
    def read(cls, path: str | Path) -> "Taxonomy":
        """Read a table ``id parent name [iab]``; parents may stand below their children.

        Raises Error naming the file and the line.
        """
        path = Path(path)
        lines, rows = tsv.read(path, COLUMNS, (*COLUMNS, "iab"))
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
        return tsv.text(columns, (astuple(category)[: len(columns)] for category in self))

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

    def consistent(self, probabilities: Array) -> Array:
        """Lower every child to its parent, from the top down; no probability grows, and a consistent input stays.

        ``probabilities`` (..., category) is a numpy array or a tensor on any device; the result is a new one of the
        same shape and type. Raises ValueError if the last axis is not one entry a category.

        >>> pair = Taxonomy((Category("f", "", "Food"), Category("d", "f", "Dessert")))
        >>> pair.consistent(np.array([[0.5, 0.75], [0.5, 0.25]])).tolist()
        [[0.5, 0.5], [0.5, 0.25]]
        """
        if probabilities.shape[-1:] != (len(self),):
            raise ValueError(f"(..., {len(self)}) expected, got {tuple(probabilities.shape)}")
        result = probabilities.copy() if isinstance(probabilities, np.ndarray) else probabilities.clone()
        for level in range(1, int(self.levels.max()) + 1):
            here = np.flatnonzero(self.levels == level)
            result[..., here] = result[..., here].clip(max=result[..., self.parents[here]])
        return result


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
        if any(character in category.name + category.iab for character in tsv.FORBIDDEN):
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
