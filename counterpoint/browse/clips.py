"""The clips of a survey as a table that is filtered and sorted by numpy: wrong labels come first by their loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal
from urllib.parse import urlencode

import numpy as np
from jaxtyping import Bool, Float, Int

from counterpoint.data.dataset import Dataset
from counterpoint.errors import Error
from counterpoint.evaluation.survey import Survey
from counterpoint.predict import Predictor
from counterpoint.run import RunFolder
from counterpoint.taxonomy import Taxonomy

Role = Literal["truth", "named", "missed", "false", "either"]
Verdict = Literal["correct", "wrong"]
Sort = Literal["loss", "surprise", "correlation", "order"]

NAMED = 0.5  # the model names a category from this probability on
TOP = 5  # predictions of each clip
TOP_OF = 50  # of so many, most of which are above others
CHUNK = 8192  # clips at a time
PAGES = {4: "https://data.yt8m.org/2/j/i/{0:.2}/{0}.js", 11: "https://www.youtube.com/watch?v={0}"}
"""By an id's length: YouTube-8M's records have ids of their own since 2018, and the data set's site tells whose."""


@dataclass(frozen=True)
class Filter:
    """Which clips, and in which order.

    Attributes:
        category: a path; what is in it is so by its descendants too. None: all.
        role: ``truth``: it is true; ``named``: the model gives it 0.5 or more; ``missed``: true and not named;
            ``false``: named and not true; ``either``: true or named.
        level: clips whose truth reaches this level, and the verdict is about it. None: each clip's deepest.
        verdict: whether the most probable category of that level is a true one.
        low, high: correlation from and to, of the pair that is least correlated.
        search: a part of the id.
        sort: ``loss`` (of training, highest first); ``surprise``: how sure the model is of a false category or of a
            true one's absence, whichever is the more; ``correlation`` (lowest first); ``order`` of the data set.
        reverse: the other way round.
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
        """Whether it asks for a correlation."""
        return (self.low, self.high) != (None, None) or self.sort == "correlation"

    @property
    def query(self) -> str:
        """The part of the page's address that asks for this; empty where nothing is asked for."""
        asked = {name: value for name, value in vars(self).items() if value != getattr(Filter, name)}
        if asked.pop("reverse", False):
            asked["sort"] = f"{self.sort}-"
        return f"?{urlencode(asked)}" if asked else ""


def check(chosen: Filter, run: RunFolder, correlation: bool) -> None:
    """Raise Error for a category or level that there is not, or a correlation where none is told."""
    taxonomy = run.labelling.taxonomy
    if chosen.category is not None and chosen.category not in taxonomy.paths:
        raise Error(f"no category {chosen.category!r} (a path from the top, as in Food:Recipe)")
    deepest = int(taxonomy.levels.max())
    if chosen.level is not None and not 0 <= chosen.level <= deepest:
        raise Error(f"no level {chosen.level}: they are 0 to {deepest}")
    if chosen.correlated and not correlation:
        raise Error(f"{run.folder}: a model without a correlation tower")


class Clips:
    """A survey's clips, with what filters ask for ready in memory: some 50 bytes a clip; scores stay on the disk."""

    @cached_property
    def predictor(self) -> Predictor:
        """The run's model, read when a clip is first explained."""
        return Predictor(self.run)

    def __init__(self, run: RunFolder, dataset: Dataset, survey: Survey) -> None:
        self.run = run
        self.dataset = dataset
        self.survey = survey
        self.names = np.asarray(survey.ids)
        self.loss = np.asarray(survey.figures[:, 0])
        self.correlation = _least(np.asarray(survey.figures[:, 1:]))
        levels = int(self.taxonomy.levels.max()) + 1
        self.best = np.zeros((len(survey), levels), np.int32)
        """(clip, level): the most probable category."""
        self.right = np.zeros((len(survey), levels), np.bool_)
        """(clip, level): it is a true one."""
        self.deepest = np.full(len(survey), -1, np.int8)
        """(clip,): the deepest level of the truth, -1 without labels."""
        self.surprise = np.zeros(len(survey), np.float32)
        for start in range(0, len(survey), CHUNK):
            self._look(slice(start, start + CHUNK))

    @property
    def taxonomy(self) -> Taxonomy:
        return self.run.labelling.taxonomy

    def _look(self, clips: slice) -> None:
        probability, truth = self.survey.probabilities(clips), self.survey.labels(clips)
        for level in range(self.best.shape[1]):
            here = np.flatnonzero(self.taxonomy.levels == level)
            highest = probability[:, here] == probability[:, here].max(1, keepdims=True)
            best = here[(highest + (highest & truth[:, here])).argmax(1)]  # of equals a true one
            self.best[clips, level] = best
            self.right[clips, level] = truth[np.arange(len(truth)), best]
            self.deepest[clips][truth[:, here].any(1)] = level
        self.surprise[clips] = np.where(truth, 1 - probability, probability).max(1)

    def __len__(self) -> int:
        return len(self.survey)

    @cached_property
    def counts(self) -> Int[np.ndarray, "category"]:
        """The clips that each category is true of."""
        counts = np.zeros(len(self.taxonomy), np.int64)
        for start in range(0, len(self), CHUNK):
            counts += self.survey.labels(slice(start, start + CHUNK)).sum(0)
        return counts

    def correct(self, level: int | None) -> Bool[np.ndarray, "clip"]:
        """Whether the most probable category of the level, or of the truth's deepest, is a true one."""
        levels = np.maximum(self.deepest, 0) if level is None else np.full(len(self), level)
        return np.asarray(self.right[np.arange(len(self)), levels] & (self.deepest >= 0))

    def choose(self, chosen: Filter) -> Int[np.ndarray, "chosen"]:
        """The numbers of the clips that a filter lets through, in its order.

        Raises:
            Error: it asks for a category or a level that the taxonomy lacks, or for a correlation that
                the run's model does not tell.
        """
        check(chosen, self.run, bool(self.survey.pairs))
        kept = np.ones(len(self), np.bool_)
        if chosen.category is not None:
            kept &= self._in(self.taxonomy.paths.index(chosen.category), chosen.role)
        if chosen.level is not None:
            kept &= self.deepest >= chosen.level
        if chosen.verdict is not None:
            kept &= (self.correct(chosen.level) == (chosen.verdict == "correct")) & (self.deepest >= 0)
        if chosen.correlated:
            low, high = (0.0 if chosen.low is None else chosen.low), (1.0 if chosen.high is None else chosen.high)
            kept &= (self.correlation >= low) & (self.correlation <= high)  # false where a modality is missing
        if chosen.search:
            kept &= np.char.find(self.names, chosen.search.encode()) >= 0
        numbers = np.flatnonzero(kept)
        if chosen.sort != "order":
            key = {"loss": -self.loss, "surprise": -self.surprise, "correlation": self.correlation}[chosen.sort]
            numbers = numbers[np.argsort(key[numbers], kind="stable")]
        return numbers[::-1] if chosen.reverse else numbers

    def _in(self, category: int, role: Role) -> Bool[np.ndarray, "clip"]:
        assert self.survey.bits is not None
        true = (self.survey.bits[:, category // 8] >> (7 - category % 8)).astype(np.uint8) & 1 == 1
        if role == "truth":
            return np.asarray(true)
        named = self.survey.scores[:, category] >= np.log(NAMED / (1 - NAMED))
        roles = {"named": named, "missed": true & ~named, "false": named & ~true, "either": true | named}
        return np.asarray(roles[role])

    # --- what is told of a clip ---------------------------------------------------------------------------------------

    def told(
        self, numbers: Sequence[int] | Int[np.ndarray, "chosen"], level: int | None = None
    ) -> list[dict[str, Any]]:
        """What is told of some clips, as plain values for JSON."""
        numbers = np.asarray(numbers, np.int64)
        check(Filter(level=level), self.run, bool(self.survey.pairs))
        correct = self.correct(level)
        levels = self.deepest if level is None else np.where(self.deepest < 0, -1, level)
        probability, labels = self.survey.probabilities(numbers), self.survey.labels(numbers)
        parts = zip(numbers.tolist(), probability, labels, strict=True)
        return [self._one(clip, int(levels[clip]), bool(correct[clip]), p, truth) for clip, p, truth in parts]

    def _one(
        self,
        clip: int,
        level: int,
        correct: bool,
        probability: Float[np.ndarray, "category"],
        truth: Bool[np.ndarray, "category"],
    ) -> dict[str, Any]:
        shard, record = self.dataset.where[clip]
        name = self.survey.name(clip)
        pairs = zip(self.survey.pairs, self.survey.figures[clip, 1:].tolist(), strict=True)
        return {
            "number": clip,
            "id": name,
            "link": self.link(name),
            "shard": self.dataset.paths[shard].name,
            "record": self.dataset.shards[shard].number(int(record)),
            "truth": [self._said(i, probability, truth) for i in self._leaves(truth)],
            "predictions": [self._said(i, probability, truth) for i in self._best(probability)],
            "level": level if level >= 0 else None,
            "correct": correct if level >= 0 else None,
            "loss": float(self.loss[clip]),
            "surprise": float(self.surprise[clip]),
            "correlation": {pair: value if value == value else None for pair, value in pairs},
        }

    def _said(self, i: int, probability: Any, truth: Any) -> dict[str, Any]:
        return {"path": self.taxonomy.paths[i], "probability": float(probability[i]), "true": bool(truth[i])}

    def _leaves(self, truth: Bool[np.ndarray, "category"]) -> list[int]:
        """The true categories without a true one below."""
        above = {j for i in np.flatnonzero(truth) for j in self.taxonomy.ancestors(int(i))}
        return [i for i in np.flatnonzero(truth).tolist() if i not in above]

    def _best(self, probability: Float[np.ndarray, "category"]) -> list[int]:
        """The most probable categories, but for those that are named with one below, which says more."""
        specific = set(self._leaves(probability >= NAMED))
        order = self.taxonomy.ranked(probability)[:TOP_OF].tolist()
        return [i for i in order if i in specific or probability[i] < NAMED][:TOP]

    def link(self, name: str) -> str | None:
        """Where a clip of YouTube-8M's is watched, or told; None for others."""
        if not self.run.features.youtube8m or not name.replace("-", "").replace("_", "").isalnum():
            return None
        return PAGES[len(name)].format(name) if name.isascii() and len(name) in PAGES else None


def _least(correlation: Float[np.ndarray, "clip pair"]) -> Float[np.ndarray, "clip"]:
    """The least correlated pair's; NaN where no pair has both."""
    filled = np.where(np.isnan(correlation), np.inf, correlation).min(1, initial=np.inf)
    return np.where(np.isfinite(filled), filled, np.nan).astype(np.float32)
