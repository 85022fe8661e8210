"""Clips that suit a history, by their categories and by the model's own view of them (the paper's application).

A history is divided into *interests*, since the mean of a cook's and a motorist's clips is like neither's: its clips
are clustered by average linkage, as long as the mean score between two clusters is `ALIKE` or more (as in PinnerSage,
Pal et al. 2020, which uses Ward's method). Each interest gets its share of the places, at least one, in proportion to
its clips (Sainte-Laguë), and its places are filled by the mean score with its clips (see `counterpoint.library`).
"""

import heapq
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from counterpoint.errors import Error
from counterpoint.library import Library

ALIKE = 0.4
SUPPORTED = 0.5  # a category that is as probable is one that the model names


@dataclass(frozen=True)
class Interest:
    """Clips of a history that are alike, and how many of the recommendations are theirs."""

    clips: tuple[str, ...]
    places: int
    category: str | None
    """What they have most in common, if there is a category that all are in."""


@dataclass(frozen=True)
class Recommendation:
    """A clip, for which interest, and why: the category that counts most, and the clip of the history that it is like.

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
    given: list[int] = []
    while queue and len(given) < top:
        _, i, seats = heapq.heappop(queue)
        given.append(i)
        heapq.heappush(queue, ((1.0, -sizes[i] / (2 * seats + 1)), i, seats + 1))
    return given


def recommend(library: Library, history: Sequence[str], top: int = 10) -> Recommendations:
    """The clips of a library that suit a history, none of which is recommended; fewer where the library has no more.

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
    for interest in order + list(range(len(queues))) * top:  # after the places, turns for what was left empty
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
    told = (
        Interest(tuple(names[i] for i in group), number, _shared(library, watched[group]))
        for group, number in zip(groups, given, strict=True)
    )
    return Recommendations(tuple(told), tuple(clips))


def _shared(library: Library, clips: Int[np.ndarray, "chosen"]) -> str | None:
    """The category that the model names for all of them; of several without one below, what adds most to scores."""
    probability = library.rows.survey.probabilities(clips)
    named = np.flatnonzero((probability >= SUPPORTED).all(0))
    specific = named[library.taxonomy.with_ancestors[np.ix_(named, named)].sum(0) == 1]
    if not len(specific):
        return None
    adds = library.rows.rarity[specific] ** 2 * np.exp(2 * np.log(probability[:, specific]).mean(0))
    return library.taxonomy.paths[int(specific[np.argmax(adds)])]
