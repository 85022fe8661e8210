"""Clips that suit a history, by their categories and by the model's hidden layer (the paper's application).

The score of two clips is

    score(a, b) = (1 - c) cos(h_a - m, h_b - m) + c cos(w p_a, w p_b)

where h is the head's hidden layer, m its mean over the library, p the probabilities of the categories and w how rare
each is there: w = -log2(mean probability), so that Food:Recipe in common counts more than Food. Both cosines are one
inner product of a clip's *row*, ``[sqrt(1 - c) unit(h - m), sqrt(c) unit(w p)]``; a `Library` has an index that finds
rows by it.

A history is divided into *interests*, since the mean of a cook's and a motorist's clips is like neither's: its clips
are clustered by average linkage, as long as the mean score between two clusters is `ALIKE` or more (as in PinnerSage,
Pal et al. 2020, which uses Ward's method). Each interest gets its share of the places, at least one, in proportion to
its clips (Sainte-Laguë), and its places are filled by the mean score with its clips.
"""

import heapq
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from counterpoint.data.dataset import Dataset
from counterpoint.errors import Error
from counterpoint.evaluation.survey import SURVEY_FILE, Survey, folder_name, survey
from counterpoint.files import cache_folder, check_output_folder, replacing
from counterpoint.run import PREDICTED, RunFolder
from counterpoint.taxonomy import Taxonomy

ALIKE = 0.4
CATEGORIES = 0.5  # c; on validation clips 0.25 to 0.75 do equally well
SPARE = 100  # neighbours scored beyond those that are needed
EXACT = 50_000  # clips up to which every one is compared
REDUCED = 256  # components that a larger library's index keeps
SAMPLE = 100_000  # clips that it learns its cells from
MOMENTS = 20_000  # of them, those for the components
CLIPS_OF_CELL = 39  # clips of that sample for each cell, which is Faiss's least
PROBED = 64  # cells that a query searches
CHUNK = 4096  # clips at a time
FOLDER = "counterpoint-recommend"
INDEX_FILE = "index.faiss"
STATISTICS_FILE = "statistics.npz"


# --- the library ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rows:
    """The rows of a library's clips, computed from its survey at each access."""

    survey: Survey
    mean: Float[np.ndarray, "hidden"]
    rarity: Float[np.ndarray, "category"]
    categories: float = CATEGORIES

    @classmethod
    def of(cls, surveyed: Survey, categories: float = CATEGORIES) -> "Rows":
        """Rows with the mean and the rarities of these clips."""
        assert surveyed.vectors is not None
        hidden = np.zeros(surveyed.vectors.shape[1])
        probable = np.zeros(surveyed.scores.shape[1])
        for chunk in chunks(len(surveyed)):
            hidden += surveyed.vectors[chunk].sum(0, dtype=np.float64)
            probable += surveyed.probabilities(chunk).sum(0, dtype=np.float64)
        prevalence = np.clip(probable / len(surveyed), 1 / (len(surveyed) + 1), 1)
        rarity = -np.log2(prevalence).astype(np.float32)
        return cls(surveyed, (hidden / len(surveyed)).astype(np.float32), rarity, categories)

    @property
    def size(self) -> int:
        """Numbers in a row."""
        return len(self.mean) + len(self.rarity)

    def __len__(self) -> int:
        return len(self.survey)

    def __getitem__(self, clips: Int[np.ndarray, "chosen"] | slice) -> Float[np.ndarray, "chosen row"]:
        assert self.survey.vectors is not None
        hidden = self.survey.vectors[clips].astype(np.float32) - self.mean
        weighted = self.survey.probabilities(clips) * self.rarity
        parts = [(1 - self.categories) ** 0.5 * _unit(hidden), self.categories**0.5 * _unit(weighted)]
        return np.concatenate(parts, axis=1).astype(np.float32)


def _unit(vectors: Float[np.ndarray, "clip feature"]) -> Float[np.ndarray, "clip feature"]:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))


def chunks(count: int) -> list[slice]:
    return [slice(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]


class Library:
    """Clips to recommend, with the index of their rows."""

    def __init__(
        self, rows: Rows, index: Any, taxonomy: Taxonomy, thresholds: Float[np.ndarray, "category"] | None = None
    ) -> None:
        self.rows = rows
        self.index = index
        self.taxonomy = taxonomy
        self.thresholds = np.full(len(taxonomy), PREDICTED) if thresholds is None else thresholds
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
        report: Callable[[str], None] = lambda line: None,
    ) -> "Library":
        """The library in a folder, which is made first where it is missing.

        Args:
            run: of a categorizer, trained.
            dataset: the clips to recommend from.
            folder: `beside` the shards by default.
            workers: processes that read ahead.
            progress: see `survey`.
            report: called with a line about the folder where the index is made.

        Raises:
            Error: the folder holds something else, or is another run's or of other clips; see also `survey`.
        """
        _faiss()  # before the long work
        folder = folder or beside(run, dataset)
        check_output_folder(folder, SURVEY_FILE, INDEX_FILE, option="--index")
        statistics, path = folder / STATISTICS_FILE, folder / INDEX_FILE
        surveyed = survey(run, dataset, folder, vectors=True, workers=workers, progress=progress)
        if not path.exists():
            made = Rows.of(surveyed)
            with replacing(statistics) as file:
                np.savez(file, mean=made.mean, rarity=made.rarity)
            index = build(made, len(made), made.size)
            with replacing(path) as file:
                _faiss().write_index(index, file.name)
            report(f"{folder}: an index of {len(made):,} clips, kept for the next time")
        with np.load(statistics) as stored:
            rows = Rows(surveyed, stored["mean"], stored["rarity"])
        return cls(rows, read(path), run.labelling.taxonomy, run.thresholds)

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
        scores = self.rows[found] @ query  # the index stores 16 bits
        best = []
        seen = set(without)
        for place in np.argsort(-scores, kind="stable"):
            name = self.rows.survey.name(int(found[place]))
            if name not in seen:
                seen.add(name)
                best.append((float(scores[place]), int(found[place])))
        return best[:count]


def beside(run: RunFolder, dataset: Dataset) -> Path:
    """The folder of a library's index: beside its first shard, or in the cache folder where that cannot be written."""
    name = folder_name(run, dataset)
    first = dataset.paths[0]
    home = first.resolve().parent if isinstance(first, Path) else None
    # Root, too, writes into no folder without write permission.
    writable = home is not None and os.access(home, os.W_OK) and home.stat().st_mode & 0o222
    return (home if home is not None and writable else cache_folder()) / FOLDER / name


def build(rows: Any, count: int, size: int) -> Any:
    """An index of rows by inner product, in 16 bits.

    Up to `EXACT` clips all are compared; from there on rows are reduced to their `REDUCED` principal components, which
    keep inner products best, and put into cells, of which a query searches `PROBED`.

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
        number = min(int(4 * count**0.5), len(numbers) // CLIPS_OF_CELL)
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


# --- recommendations --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Interest:
    """Clips of a history that are alike, and how many recommendations are for them."""

    clips: tuple[str, ...]
    places: int
    category: str | None
    """The most specific category that all are in, if there is one."""


@dataclass(frozen=True)
class Recommendation:
    """A clip, for which interest, and why: the category that counts most, and the clip of the history that it is like.

    ``category`` is None where the two share none that reaches its threshold.
    """

    id: str
    score: float
    interest: int
    category: str | None
    like: str

    @property
    def reason(self) -> str:
        """The reason in words."""
        if self.category is None:
            return f"by its features like {self.like}, though they share no sure category"
        return f"because of {self.category}, like {self.like}"


@dataclass(frozen=True)
class Recommendations:
    """Clips that suit a history, the interests taking turns."""

    interests: tuple[Interest, ...]
    clips: tuple[Recommendation, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        clips = [asdict(clip) | {"reason": clip.reason} for clip in self.clips]
        return {"interests": [asdict(interest) for interest in self.interests], "recommendations": clips}


def interests(rows: Float[np.ndarray, "clip row"]) -> list[list[int]]:
    """Clips of a history that are alike, as numbers of its rows; the largest interest first, then the earliest."""
    if len(rows) == 1:
        return [[0]]
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    distance = np.maximum(1 - rows @ rows.T, 0).astype(np.float64)
    np.fill_diagonal(distance, 0)
    of = fcluster(linkage(squareform(distance, checks=False), "average"), 1 - ALIKE, "distance")
    groups: dict[int, list[int]] = {}
    for clip, group in enumerate(of.tolist()):
        groups.setdefault(group, []).append(clip)
    return sorted(groups.values(), key=lambda group: (-len(group), group[0]))


def places(sizes: Sequence[int], top: int) -> list[int]:
    """The interest of each of the ``top`` places, in order: one for each, then by Sainte-Laguë's divisors.

    >>> places([4, 1], 5)
    [0, 1, 0, 0, 0]
    """
    queue = [((0.0, -float(size)), i, 1) for i, size in enumerate(sizes)]
    heapq.heapify(queue)
    given: list[int] = []
    while queue and len(given) < top:
        _, i, seats = heapq.heappop(queue)
        given.append(i)
        heapq.heappush(queue, ((1.0, -sizes[i] / (2 * seats + 1)), i, seats + 1))
    return given


def recommend(library: Library, history: Sequence[str], top: int = 10) -> Recommendations:
    """The clips of a library that suit a history, without the history's own.

    Args:
        library: see `Library.open`.
        history: ids of clips in the library.
        top: how many to recommend; fewer where the library has no more.

    Returns:
        The interests that were found in the history, and the clips, the best first.

    Raises:
        Error: the history is empty, or a clip of it is not in the library.
    """
    if not history:
        raise Error("no clips in the history")
    watched = np.array(library.find(history))
    rows = library.rows[watched]
    name = library.rows.survey.name
    names = [name(clip) for clip in watched.tolist()]
    groups = interests(rows)
    order = places([len(group) for group in groups], top)
    queues = [library.neighbours(rows[group].mean(0), top, set(names)) for group in groups[: len(set(order))]]
    taken: set[str] = set()
    clips: list[Recommendation] = []
    given = [0] * len(groups)
    for interest in order + list(range(len(queues))) * top:  # after the places, turns for those that are still empty
        queue = queues[interest]
        while queue and name(queue[0][1]) in taken:
            queue.pop(0)
        if not queue or len(clips) == top:
            continue
        score, clip = queue.pop(0)
        taken.add(name(clip))
        given[interest] += 1
        group = groups[interest]
        like = group[int(np.argmax(rows[group] @ library.rows[np.array([clip])][0]))]
        category = _shared(library, np.array([clip, watched[like]]))
        clips.append(Recommendation(name(clip), score, interest, category, names[like]))
    found = (
        Interest(tuple(names[i] for i in group), number, _shared(library, watched[group]))
        for group, number in zip(groups, given, strict=True)
    )
    return Recommendations(tuple(found), tuple(clips))


def _shared(library: Library, clips: Int[np.ndarray, "chosen"]) -> str | None:
    """The category that is an answer for all clips; of the most specific, the largest in scores."""
    probability = library.rows.survey.probabilities(clips)
    named = np.flatnonzero((probability >= library.thresholds).all(0))
    specific = named[library.taxonomy.with_ancestors[np.ix_(named, named)].sum(0) == 1]
    if not len(specific):
        return None
    adds = library.rows.rarity[specific] ** 2 * np.exp(2 * np.log(probability[:, specific]).mean(0))
    return library.taxonomy.paths[int(specific[np.argmax(adds)])]
