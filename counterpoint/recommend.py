"""Clips that suit a history, by their categories and by the model's own view of them (the paper's application).

Two clips are alike by

    score(a, b) = (1 - c) cos(h_a - m, h_b - m) + c cos(w p_a, w p_b)

where h is the head's hidden layer, m its mean over the library, p the probabilities of the categories and w how rare
each is there: w = -log2(mean probability), so that sharing Food:Recipe says more than sharing Food. Both cosines are one
inner product of a clip's *row*, ``[sqrt(1 - c) unit(h - m), sqrt(c) unit(w p)]``, which is what the index searches.

A history is divided into *interests*, since the mean of a cook's and a motorist's clips is like neither's: its clips are
clustered by average linkage and a cluster ends where the mean score within it would fall below `ALIKE` (as in PinnerSage,
Pal et al. 2020, which uses Ward's method). Each interest gets its share of the places, at least one, in proportion to its
clips (Sainte-Laguë), and its clips' mean row is what its places are filled by.
"""

import heapq
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from counterpoint.data.dataset import ClipDataset
from counterpoint.data.tfrecord import cache_folder, replacing
from counterpoint.errors import CounterpointError
from counterpoint.evaluation.survey import Survey, folder_name, survey
from counterpoint.run import Run
from counterpoint.taxonomy import Taxonomy

CATEGORIES = 0.5  # c
ALIKE = 0.4
SUPPORTED = 0.5  # a category that is as probable is one that the model names
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
class Interest:
    """Clips of a history that are alike, and how many of the recommendations are theirs."""

    clips: tuple[str, ...]
    places: int
    category: str | None
    """What they have most in common, if there is a category that all are in."""


@dataclass(frozen=True)
class Recommendation:
    """A clip, for which interest, and why: the category that counts most for it, and the clip of the history it is like.

    ``category`` is None where the two share none that the model is sure of.
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
    """What suits a history, the interests taking turns."""

    interests: tuple[Interest, ...]
    clips: tuple[Recommendation, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        clips = [asdict(clip) | {"reason": clip.reason} for clip in self.clips]
        return {"interests": [asdict(interest) for interest in self.interests], "recommendations": clips}


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
        for chunk in _chunks(len(answers)):
            hidden += answers.vectors[chunk].sum(0, dtype=np.float64)
            probable += answers.probabilities(chunk).sum(0, dtype=np.float64)
        prevalence = np.clip(probable / len(answers), 1 / (len(answers) + 1), 1)
        return cls(answers, (hidden / len(answers)).astype(np.float32), -np.log2(prevalence, dtype=np.float32), categories)

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
        share = self.categories
        return np.concatenate([np.sqrt(1 - share) * _unit(hidden), np.sqrt(share) * _unit(weighed)], 1, dtype=np.float32)


def _unit(vectors: Float[np.ndarray, "clip feature"]) -> Float[np.ndarray, "clip feature"]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _chunks(count: int) -> list[slice]:
    return [slice(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]


# --- the library ------------------------------------------------------------------------------------------------------


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
        run: Run,
        dataset: ClipDataset,
        folder: Path | None = None,
        *,
        workers: int = 0,
        progress: Callable[[int], None] = lambda clips: None,
    ) -> "Library":
        """The library in a folder, which is made first where it is not there (`beside` the shards by default).

        Raises:
            CounterpointError: the folder is another run's or of other clips; see also `survey`.
        """
        folder = folder or beside(run, dataset)
        answers = survey(run, dataset, folder, vectors=True, workers=workers, progress=progress)
        statistics, path = folder / STATISTICS_FILE, folder / INDEX_FILE
        if not path.exists():
            made = Rows.of(answers)
            with replacing(statistics) as file:
                np.savez(file, mean=made.mean, rarity=made.rarity)
            index = build(made, len(made), made.size)
            with replacing(path) as file:
                _faiss().write_index(index, file.name)
        with np.load(statistics) as stored:
            rows = Rows(answers, stored["mean"], stored["rarity"])
        return cls(rows, read(path), run.labelling.taxonomy)

    def find(self, ids: Sequence[str]) -> list[int]:
        """The number of each of these clips, each once.

        Raises:
            CounterpointError: some are not in the library.
        """
        numbers = {name: np.flatnonzero(self.names == name.encode()) for name in dict.fromkeys(ids)}
        if missing := [name for name, found in numbers.items() if not len(found)]:
            named = ", ".join(map(repr, missing[:5])) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            raise CounterpointError(
                f"no clip {named} in the library's {len(self.names):,}: "
                "the history must be among its shards, which may be several (--library A B ...)"
            )
        return [int(found[0]) for found in numbers.values()]

    def neighbours(
        self, query: Float[np.ndarray, "row"], count: int, without: set[str]
    ) -> list[tuple[float, int]]:
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


def beside(run: Run, dataset: ClipDataset) -> Path:
    """Where a library's index is: beside its first shard, or in the cache folder where that may not be written."""
    name = folder_name(run, dataset)
    home = dataset.paths[0].resolve().parent
    # Even root leaves a folder alone that nobody may write.
    writable = os.access(home, os.W_OK) and home.stat().st_mode & 0o222
    return (home if writable else cache_folder()) / FOLDER / name


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
        cells.train(np.concatenate([reduce.apply(rows[numbers[chunk]]) for chunk in _chunks(len(numbers))]))
        cells.nprobe = PROBED
        index = faiss.IndexPreTransform(reduce, cells)
    for chunk in _chunks(count):
        index.add(rows[chunk])
    return index


def _reduction(faiss: Any, rows: Any, numbers: Int[np.ndarray, "sampled"], size: int) -> Any:
    """The map to the components that keep inner products best: not about the mean, which counts in them."""
    moments = np.zeros((size, size), np.float32)
    for chunk in _chunks(len(numbers)):
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
        raise CounterpointError(f"{path}: cannot be read; delete {path.parent}") from error
    return index


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise CounterpointError("recommending needs an extra: pip install 'counterpoint[recommend]'") from None
    return faiss


# --- the history ------------------------------------------------------------------------------------------------------


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
    """Whose each of the ``top`` places is, in order: one for each interest, then by Sainte-Laguë's divisors.

    >>> places([4, 1], 5)
    [0, 1, 0, 0, 0]
    """
    queue = [((0.0, -float(size)), i, 1) for i, size in enumerate(sizes)]
    heapq.heapify(queue)
    given = []
    while queue and len(given) < top:
        _, i, seats = heapq.heappop(queue)
        given.append(i)
        heapq.heappush(queue, ((1.0, -sizes[i] / (2 * seats + 1)), i, seats + 1))
    return given


def recommend(library: Library, history: Sequence[str], top: int = 10) -> Recommendations:
    """The clips of a library that suit a history, none of which is recommended; fewer where the library has no more.

    Raises:
        CounterpointError: the history is empty, or a clip of it is not in the library.
    """
    if not history:
        raise CounterpointError("no clips in the history")
    watched = library.find(history)
    rows = library.rows[np.array(watched)]
    names = [library.rows.survey.name(clip) for clip in watched]
    groups = interests(rows)
    order = places([len(group) for group in groups], top)
    queues = [library.neighbours(rows[group].mean(0), top, set(names)) for group in groups[: len(set(order))]]
    taken: set[int] = set()
    clips: list[Recommendation] = []
    given = [0] * len(groups)
    for interest in _turns(order, len(queues), top):
        while queues[interest] and queues[interest][0][1] in taken:
            queues[interest].pop(0)
        if not queues[interest] or len(clips) == top:
            continue  # its place goes to the next
        score, clip = queues[interest].pop(0)
        taken.add(clip)
        given[interest] += 1
        clips.append(_because(library, clip, score, interest, watched, rows, groups[interest]))
    told = [
        Interest(tuple(names[i] for i in group), number, _common(library, [watched[i] for i in group]))
        for group, number in zip(groups, given, strict=True)
    ]
    return Recommendations(tuple(told), tuple(clips))


def _turns(order: list[int], count: int, top: int) -> list[int]:
    """The places, and after them a turn for each as long as there are empty ones."""
    return order + list(range(count)) * top


def _because(
    library: Library,
    clip: int,
    score: float,
    interest: int,
    watched: list[int],
    rows: Float[np.ndarray, "clip row"],
    group: list[int],
) -> Recommendation:
    row = library.rows[np.array([clip])][0]
    nearest = group[int(np.argmax(rows[group] @ row))]
    category = _shared(library, np.array([clip, watched[nearest]]))
    survey = library.rows.survey
    return Recommendation(survey.name(clip), score, interest, category, survey.name(watched[nearest]))


def _common(library: Library, clips: list[int]) -> str | None:
    return _shared(library, np.array(clips))


def _shared(library: Library, clips: Int[np.ndarray, "chosen"]) -> str | None:
    """The category that the model names for all of them and that counts most for their likeness, which rare ones do."""
    probability = library.rows.survey.probabilities(clips)
    named = (probability >= SUPPORTED).all(0)
    if not named.any():
        return None
    counts = np.where(named, library.rows.rarity**2 * probability.prod(0) ** (2 / len(clips)), -1)
    return library.taxonomy.paths[int(np.argmax(counts))]
