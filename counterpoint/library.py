"""A library of clips to recommend: each clip's row, and an index that finds rows by their inner product.

Two clips are alike by

    score(a, b) = (1 - c) cos(h_a - m, h_b - m) + c cos(w p_a, w p_b)

where h is the head's hidden layer, m its mean over the library, p the probabilities of the categories and w how rare
each is there: w = -log2(mean probability), so that sharing Food:Recipe says more than sharing Food. Both cosines are
one inner product of a clip's *row*, ``[sqrt(1 - c) unit(h - m), sqrt(c) unit(w p)]``.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from counterpoint.data.dataset import Dataset
from counterpoint.errors import Error
from counterpoint.evaluation.survey import Survey, folder_name, survey
from counterpoint.files import cache_folder, replacing
from counterpoint.run import RunFolder
from counterpoint.taxonomy import Taxonomy

CATEGORIES = 0.5  # c; on validation clips 0.25 to 0.75 do equally well
SPARE = 100  # neighbours looked at beyond those that are needed
EXACT = 50_000  # clips up to which every one is compared
REDUCED = 256  # components that a larger library's index keeps
SAMPLE = 100_000  # clips that it learns its cells from
MOMENTS = 20_000  # of them, those for the components
LEARNED_OF = 39  # clips of that sample for each cell, which is Faiss's least
PROBED = 64  # cells that a query looks into
CHUNK = 4096  # clips at a time
FOLDER = "counterpoint-recommend"
INDEX_FILE = "index.faiss"
STATISTICS_FILE = "statistics.npz"


@dataclass(frozen=True)
class Rows:
    """The rows of a library's clips, made from its survey as they are asked for."""

    survey: Survey
    mean: Float[np.ndarray, "hidden"]
    rarity: Float[np.ndarray, "category"]
    categories: float = CATEGORIES

    @classmethod
    def of(cls, answers: Survey, categories: float = CATEGORIES) -> "Rows":
        """With the library's own mean and rarities."""
        assert answers.vectors is not None
        hidden = np.zeros(answers.vectors.shape[1])
        probable = np.zeros(answers.scores.shape[1])
        for chunk in chunks(len(answers)):
            hidden += answers.vectors[chunk].sum(0, dtype=np.float64)
            probable += answers.probabilities(chunk).sum(0, dtype=np.float64)
        prevalence = np.clip(probable / len(answers), 1 / (len(answers) + 1), 1)
        rarity = -np.log2(prevalence).astype(np.float32)
        return cls(answers, (hidden / len(answers)).astype(np.float32), rarity, categories)

    @property
    def size(self) -> int:
        """Numbers in a row."""
        return len(self.mean) + len(self.rarity)

    def __len__(self) -> int:
        return len(self.survey)

    def __getitem__(self, clips: Int[np.ndarray, "chosen"] | slice) -> Float[np.ndarray, "chosen row"]:
        assert self.survey.vectors is not None
        hidden = self.survey.vectors[clips].astype(np.float32) - self.mean
        weighed = self.survey.probabilities(clips) * self.rarity
        parts = [(1 - self.categories) ** 0.5 * _unit(hidden), self.categories**0.5 * _unit(weighed)]
        return np.concatenate(parts, axis=1).astype(np.float32)


def _unit(vectors: Float[np.ndarray, "clip feature"]) -> Float[np.ndarray, "clip feature"]:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))


def chunks(count: int) -> list[slice]:
    return [slice(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]


class Library:
    """Clips to recommend, with the index of their rows."""

    def __init__(self, rows: Rows, index: Any, taxonomy: Taxonomy) -> None:
        self.rows = rows
        self.index = index
        self.taxonomy = taxonomy
        self.names = np.asarray(rows.survey.ids)

    @classmethod
    def open(
        cls,
        run: RunFolder,
        dataset: Dataset,
        folder: Path | None = None,
        *,
        workers: int = 0,
        progress: Callable[[int], None] = lambda clips: None,
        say: Callable[[str], None] = lambda line: None,
    ) -> "Library":
        """The library in a folder, which is made first where it is not there (`beside` the shards by default).

        Args:
            progress: see `survey`.
            say: told where it is made, and what of.

        Raises:
            Error: the folder is another run's or of other clips; see also `survey`.
        """
        _faiss()  # before the long work
        folder = folder or beside(run, dataset)
        statistics, path = folder / STATISTICS_FILE, folder / INDEX_FILE
        answers = survey(run, dataset, folder, vectors=True, workers=workers, progress=progress)
        if not path.exists():
            made = Rows.of(answers)
            with replacing(statistics) as file:
                np.savez(file, mean=made.mean, rarity=made.rarity)
            index = build(made, len(made), made.size)
            with replacing(path) as file:
                _faiss().write_index(index, file.name)
            say(f"{folder}: an index of {len(made):,} clips, kept for the next time")
        with np.load(statistics) as stored:
            rows = Rows(answers, stored["mean"], stored["rarity"])
        return cls(rows, read(path), run.labelling.taxonomy)

    def find(self, ids: Sequence[str]) -> list[int]:
        """The number of each of these clips, each once.

        Raises:
            Error: some are not in the library.
        """
        numbers = {name: np.flatnonzero(self.names == name.encode()) for name in dict.fromkeys(ids)}
        if missing := [name for name, found in numbers.items() if not len(found)]:
            named = ", ".join(map(repr, missing[:5])) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            raise Error(
                f"no clip {named} in the library's {len(self.names):,}: "
                "the history must be among its shards, which may be several (--library A B ...)"
            )
        return [int(found[0]) for found in numbers.values()]

    def neighbours(self, query: Float[np.ndarray, "row"], count: int, without: set[str]) -> list[tuple[float, int]]:
        """The score and number of the ``count`` best clips, best first, each id once."""
        wanted = min(count + len(without) + SPARE, len(self.rows))
        found = self.index.search(query[None], wanted)[1][0]
        found = np.sort(found[found >= 0])
        scores = self.rows[found] @ query  # the index has rounded them
        best = []
        seen = set(without)
        for place in np.argsort(-scores, kind="stable"):
            name = self.rows.survey.name(int(found[place]))
            if name not in seen:
                seen.add(name)
                best.append((float(scores[place]), int(found[place])))
        return best[:count]


def beside(run: RunFolder, dataset: Dataset) -> Path:
    """Where a library's index is: beside its first shard, or in the cache folder where that may not be written."""
    name = folder_name(run, dataset)
    first = dataset.paths[0]
    home = first.resolve().parent if isinstance(first, Path) else None
    # Even root leaves a folder alone that nobody may write.
    writable = home is not None and os.access(home, os.W_OK) and home.stat().st_mode & 0o222
    return (home if home is not None and writable else cache_folder()) / FOLDER / name


def build(rows: Any, count: int, size: int) -> Any:
    """An index of rows by inner product, in 16 bits.

    Up to `EXACT` clips all are compared; from there on rows are reduced to their `REDUCED` principal components, which
    keep inner products best, and put into cells, of which a query looks into `PROBED`.

    Args:
        rows: gives (chosen, row) float32 for a slice or for numbers.
    """
    faiss = _faiss()
    metric = faiss.METRIC_INNER_PRODUCT
    if count <= EXACT:
        index = faiss.index_factory(size, "SQfp16", metric)
        index.train(rows[slice(0, min(count, CHUNK))])
    else:
        numbers = np.sort(np.random.default_rng(0).choice(count, min(SAMPLE, count), replace=False))
        reduce = _reduction(faiss, rows, np.random.default_rng(1).permutation(numbers)[:MOMENTS], size)
        number = min(int(4 * count**0.5), len(numbers) // LEARNED_OF)
        cells = faiss.index_factory(reduce.d_out, f"IVF{number},SQfp16", metric)
        cells.train(np.concatenate([reduce.apply(rows[numbers[chunk]]) for chunk in chunks(len(numbers))]))
        cells.nprobe = PROBED
        index = faiss.IndexPreTransform(reduce, cells)
    for chunk in chunks(count):
        index.add(rows[chunk])
    return index


def _reduction(faiss: Any, rows: Any, numbers: Int[np.ndarray, "sampled"], size: int) -> Any:
    """The map to the components that keep inner products best: not about the mean, which counts in them."""
    moments = np.zeros((size, size), np.float32)
    for chunk in chunks(len(numbers)):
        part = rows[numbers[chunk]]
        moments += part.T @ part
    components = np.linalg.eigh(moments)[1][:, -REDUCED:].T
    reduce = faiss.LinearTransform(size, len(components))
    faiss.copy_array_to_vector(np.ascontiguousarray(components).ravel(), reduce.A)
    reduce.is_trained = True
    return reduce


def read(path: Path) -> Any:
    """A written index, mapped from the disk."""
    faiss = _faiss()
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
    except RuntimeError as error:
        raise Error(f"{path}: cannot be read; delete {path.parent}") from error
    return index


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise Error("recommending needs an extra: pip install 'counterpoint[recommend]'") from None
    return faiss
