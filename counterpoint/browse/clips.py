"""The clips of a survey as a table, filtered and sorted by numpy. Sorted by loss, wrong labels come first."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args
from urllib.parse import urlencode

import numpy as np
from jaxtyping import Bool, Float, Int

from counterpoint.data.dataset import Dataset
from counterpoint.errors import Error
from counterpoint.evaluation.ranking import from_log_odds
from counterpoint.evaluation.survey import Survey
from counterpoint.predict import Predictor
from counterpoint.run import RunFolder
from counterpoint.taxonomy import Taxonomy

Role = Literal["truth", "named", "missed", "false", "either"]
Verdict = Literal["right", "partly", "wrong", "unsure"]
Sort = Literal["loss", "surprise", "correlation", "order"]

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
NO_VERDICT = -1  # of a clip without labels, or whose labels do not reach a level
TOP = 5  # predictions of each clip
CANDIDATES = 50  # most probable categories, many of them ancestors of others
CHUNK = 8192  # clips at a time
PAGES = {4: "https://data.yt8m.org/2/j/i/{0:.2}/{0}.js", 11: "https://www.youtube.com/watch?v={0}"}
"""A clip's page by its id's length: since 2018 YouTube-8M's records have ids of four letters, which the data set's site
maps to YouTube's."""


@dataclass(frozen=True)
class Filter:
    """A choice of clips, and their order.

    Attributes:
        category: a path, such as ``Food:Recipe``; clips of its descendants belong to it too. None: all.
        role: ``truth``: the category is among the labels; ``named``: it is one of the model's answers, which reach
            their thresholds; ``missed``: it is true and not named; ``false``: named and not true; ``either``: true or
            named.
        level: clips whose truth reaches this level, which the verdict is about. None: all levels.
        verdict: see `verdicts`.
        low, high: bounds of the correlation, of the clip's least correlated pair of modalities.
        search: a part of the id.
        sort: ``loss`` (the training's, highest first); ``surprise``: the largest error of a category's probability
            (highest first); ``correlation`` (lowest first); ``order`` of the data set.
        reverse: sort in the reverse order.
    """

    category: str | None = None
    role: Role = "truth"
    level: int | None = None
    verdict: Verdict | None = None
    low: float | None = None
    high: float | None = None
    search: str = ""
    sort: Sort = "loss"
    reverse: bool = False

    @property
    def correlated(self) -> bool:
        """Whether the filter or the order needs the correlation."""
        return (self.low, self.high) != (None, None) or self.sort == "correlation"

    @property
    def query(self) -> str:
        """The query of the page's address; empty for the defaults."""
        options = {name: value for name, value in vars(self).items() if value != getattr(Filter, name)}
        if options.pop("reverse", False):
            options["sort"] = f"{self.sort}-"
        return f"?{urlencode(options)}" if options else ""


def check(query: Filter, run: RunFolder, correlation: bool) -> None:
    """Check a filter before the survey is made.

    Args:
        query: the filter.
        run: the run whose taxonomy it names.
        correlation: whether the run has a correlation tower.

    Raises:
        Error: the taxonomy lacks the category or level, there is no such verdict, or the filter needs a correlation and
            there is no tower, or one that is no better than chance.
    """
    taxonomy = run.labelling.taxonomy
    if query.verdict is not None and query.verdict not in VERDICTS:
        raise Error(f"no verdict {query.verdict!r}: they are {', '.join(VERDICTS)}")
    if query.category is not None and query.category not in taxonomy.paths:
        raise Error(f"no category {query.category!r} (a path from the top, as in Food:Recipe)")
    deepest = int(taxonomy.levels.max())
    if query.level is not None and not 0 <= query.level <= deepest:
        raise Error(f"no level {query.level}: they are 0 to {deepest}")
    if query.correlated and not correlation:
        raise Error(f"{run.folder}: a model without a correlation tower")
    if query.correlated and run.chance_tower:
        raise Error(f"{run.folder}: its correlation tower is no better than chance ({run.tower_reliability})")


def verdicts(
    answered: Bool[np.ndarray, "clip category"], truth: Bool[np.ndarray, "clip category"], taxonomy: Taxonomy
) -> Int[np.ndarray, "clip"]:
    """How well the answers agree with the labels, as numbers of `VERDICTS`; `NO_VERDICT` without labels.

    * ``unsure``: there is no answer.
    * ``right``: each most specific label is an answer, and no answer is false.
    * ``partly``: a most specific label is an answer, or a most specific answer is true.
    * ``wrong``: neither.

    Args:
        answered: the categories that reach their thresholds.
        truth: the labels, with their ancestors.
        taxonomy: the categories.
    """
    return _verdicts(answered, truth, most_specific(answered, taxonomy), most_specific(truth, taxonomy))


def _verdicts(
    answered: Bool[np.ndarray, "clip category"],
    truth: Bool[np.ndarray, "clip category"],
    named: Bool[np.ndarray, "clip category"],
    leaves: Bool[np.ndarray, "clip category"],
) -> Int[np.ndarray, "clip"]:
    """The same, by the most specific answers and labels."""
    right = ~(leaves & ~answered).any(1) & ~(answered & ~truth).any(1)
    partly = (leaves & answered).any(1) | (named & truth).any(1)
    unsure = ~answered.any(1)
    kinds = [VERDICTS.index(verdict) for verdict in ("unsure", "right", "partly")]
    found = np.select([unsure, right, partly], kinds, VERDICTS.index("wrong"))
    return np.asarray(np.where(truth.any(1), found, NO_VERDICT))


def most_specific(chosen: Bool[np.ndarray, "clip category"], taxonomy: Taxonomy) -> Bool[np.ndarray, "clip category"]:
    """The chosen categories without a chosen descendant."""
    columns = np.ascontiguousarray(chosen.T)
    below = np.zeros_like(columns)
    for category in np.argsort(-taxonomy.levels, kind="stable").tolist():  # children before parents
        parent = taxonomy.parents[category]
        if parent >= 0:
            below[parent] |= columns[category] | below[category]
    return np.ascontiguousarray((columns & ~below).T)


class Clips:
    """A survey's clips. The values for filters are in memory, some 50 bytes a clip; scores stay on the disk.

    Args:
        run: the run that made the survey.
        dataset: the data set of the survey.
        survey: the run's answers for the data set.
    """

    def __init__(self, run: RunFolder, dataset: Dataset, survey: Survey) -> None:
        self.run = run
        self.dataset = dataset
        self.survey = survey
        self.names = np.asarray(survey.ids)
        self.loss = np.asarray(survey.figures[:, 0])
        self.pairs = [] if run.chance_tower else survey.pairs
        """The pairs of modalities with a correlation that is shown: none by a tower no better than chance."""
        self.correlation = _least(np.asarray(survey.figures[:, 1 : 1 + len(self.pairs)]))
        self.thresholds = run.thresholds
        levels = int(self.taxonomy.levels.max()) + 1
        self.verdicts = np.full((len(survey), levels + 1), NO_VERDICT, np.int8)
        """(clip, level): see `verdicts`; the last column is about all levels."""
        self.surprise = np.zeros(len(survey), np.float32)
        for start in range(0, len(survey), CHUNK):
            self._read(slice(start, start + CHUNK))

    @property
    def taxonomy(self) -> Taxonomy:
        """The run's categories."""
        return self.run.labelling.taxonomy

    @cached_property
    def predictor(self) -> Predictor:
        """The run's predictor, which is loaded when a clip is first explained."""
        return Predictor(self.run)

    def _read(self, clips: slice) -> None:
        probability, truth = self.survey.probabilities(clips), self.survey.labels(clips)
        answered = probability >= self.thresholds
        for level in range(self.verdicts.shape[1] - 1):
            of_level = np.flatnonzero(self.taxonomy.levels == level)
            here, true = answered[:, of_level], truth[:, of_level]
            self.verdicts[clips, level] = _verdicts(here, true, here, true)
        self.verdicts[clips, -1] = verdicts(answered, truth, self.taxonomy)
        self.surprise[clips] = np.where(truth, 1 - probability, probability).max(1)

    def __len__(self) -> int:
        return len(self.survey)

    @cached_property
    def counts(self) -> Int[np.ndarray, "category"]:
        """The number of clips that have each label."""
        counts = np.zeros(len(self.taxonomy), np.int64)
        for start in range(0, len(self), CHUNK):
            counts += self.survey.labels(slice(start, start + CHUNK)).sum(0)
        return counts

    def choose(self, query: Filter) -> Int[np.ndarray, "chosen"]:
        """The numbers of the clips that match a filter, in its order.

        Raises:
            Error: see `check`.
        """
        check(query, self.run, bool(self.survey.pairs))
        of_level = self.verdicts[:, -1 if query.level is None else query.level]
        kept = np.ones(len(self), np.bool_)
        if query.category is not None:
            kept &= self._in(self.taxonomy.paths.index(query.category), query.role)
        if query.level is not None:
            kept &= of_level != NO_VERDICT
        if query.verdict is not None:
            kept &= of_level == VERDICTS.index(query.verdict)
        if query.correlated:
            low, high = (0.0 if query.low is None else query.low), (1.0 if query.high is None else query.high)
            kept &= (self.correlation >= low) & (self.correlation <= high)  # false where a modality is missing
        if query.search:
            kept &= np.char.find(self.names, query.search.encode()) >= 0
        numbers = np.flatnonzero(kept)
        if query.sort != "order":
            key = {"loss": -self.loss, "surprise": -self.surprise, "correlation": self.correlation}[query.sort]
            numbers = numbers[np.argsort(key[numbers], kind="stable")]
        return numbers[::-1] if query.reverse else numbers

    def _in(self, category: int, role: Role) -> Bool[np.ndarray, "clip"]:
        assert self.survey.bits is not None
        true = (self.survey.bits[:, category // 8] >> (7 - category % 8)).astype(np.uint8) & 1 == 1
        if role == "truth":
            return np.asarray(true)
        named = from_log_odds(self.survey.scores[:, category]) >= self.thresholds[category]
        roles = {"named": named, "missed": true & ~named, "false": named & ~true, "either": true | named}
        return np.asarray(roles[role])

    # --- clips as plain values ----------------------------------------------------------------------------------------

    def to_dicts(
        self, numbers: Sequence[int] | Int[np.ndarray, "chosen"], level: int | None = None
    ) -> list[dict[str, Any]]:
        """Some clips as plain values for JSON: labels, predictions, verdict and figures.

        Args:
            numbers: the clips' numbers in the data set.
            level: the level of the verdict. None: all levels.

        Raises:
            Error: the taxonomy lacks the level.
        """
        numbers = np.asarray(numbers, np.int64)
        check(Filter(level=level), self.run, bool(self.survey.pairs))
        of_level = self.verdicts[numbers, -1 if level is None else level].tolist()
        probability, labels = self.survey.probabilities(numbers), self.survey.labels(numbers)
        parts = zip(numbers.tolist(), of_level, probability, labels, strict=True)
        return [self._to_dict(clip, level, verdict, p, truth) for clip, verdict, p, truth in parts]

    def _to_dict(
        self,
        clip: int,
        level: int | None,
        verdict: int,
        probability: Float[np.ndarray, "category"],
        truth: Bool[np.ndarray, "category"],
    ) -> dict[str, Any]:
        shard, record = self.dataset.where[clip]
        name = self.survey.name(clip)
        pairs = zip(self.pairs, self.survey.figures[clip, 1 : 1 + len(self.pairs)].tolist(), strict=True)
        return {
            "number": clip,
            "id": name,
            "link": self.link(name),
            "shard": self.dataset.paths[shard].name,
            "record": self.dataset.shards[shard].number(int(record)),
            "truth": [self._category(i, probability, truth) for i in self._leaves(truth)],
            "predictions": [self._category(i, probability, truth) for i in self._best(probability)],
            "level": level,
            "verdict": VERDICTS[verdict] if verdict != NO_VERDICT else None,
            "loss": float(self.loss[clip]),
            "surprise": float(self.surprise[clip]),
            "correlation": {pair: value if value == value else None for pair, value in pairs},
        }

    def _category(self, i: int, probability: Any, truth: Any) -> dict[str, Any]:
        return {
            "path": self.taxonomy.paths[i],
            "probability": float(probability[i]),
            "true": bool(truth[i]),
            "answered": bool(probability[i] >= self.thresholds[i]),
        }

    def _leaves(self, truth: Bool[np.ndarray, "category"]) -> list[int]:
        """The true categories without a true descendant."""
        return np.flatnonzero(most_specific(truth[None], self.taxonomy)[0]).tolist()

    def _best(self, probability: Float[np.ndarray, "category"]) -> list[int]:
        """The most probable categories, without named ones that have a named descendant."""
        answered = probability >= self.thresholds
        specific = most_specific(answered[None], self.taxonomy)[0]
        order = self.run.ranked(probability)[:CANDIDATES].tolist()
        return [i for i in order if specific[i] or not answered[i]][:TOP]

    def link(self, name: str) -> str | None:
        """The address of a YouTube-8M clip's page; None for other clips."""
        if not self.run.features.youtube8m or not name.replace("-", "").replace("_", "").isalnum():
            return None
        return PAGES[len(name)].format(name) if name.isascii() and len(name) in PAGES else None


def _least(correlation: Float[np.ndarray, "clip pair"]) -> Float[np.ndarray, "clip"]:
    """The correlation of the least correlated pair; NaN where no pair has both modalities."""
    filled = np.where(np.isnan(correlation), np.inf, correlation).min(1, initial=np.inf)
    return np.where(np.isfinite(filled), filled, np.nan).astype(np.float32)
