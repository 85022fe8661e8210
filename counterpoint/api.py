"""The library's interface: what ``import counterpoint as cp`` offers.

Sources and folders are given as path-likes, results come back as dataclasses, and nothing is printed unless a console
is given. Each verb of the command line is one of these functions, and printing.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from rich.console import Console

from counterpoint.data.clip import Clip
from counterpoint.data.dataset import Dataset, training_data
from counterpoint.data.features import FeatureSet
from counterpoint.errors import Error
from counterpoint.evaluation.breakdown import Breakdown
from counterpoint.evaluation.evaluate import evaluate as _evaluate
from counterpoint.explanation import Explanation
from counterpoint.explanation import explain as _explain
from counterpoint.learning.learn import Learned
from counterpoint.learning.learn import learn as _learn
from counterpoint.media import encoders as film_encoders
from counterpoint.media.decode import DEFAULT, Limits
from counterpoint.media.encoders import LITE
from counterpoint.media.extract import are_videos, cores
from counterpoint.media.extract import clips as film_clips
from counterpoint.media.extract import extract as extract
from counterpoint.media.extract import find as find_films
from counterpoint.media.workers import Failure
from counterpoint.predict import Prediction, Predictor
from counterpoint.recipes import RECIPES as CATEGORIZERS
from counterpoint.recipes import TOWER_RECIPES, AnyRecipe
from counterpoint.recipes import recipe as recipe_named
from counterpoint.recommendation import Library, Recommendations
from counterpoint.recommendation import recommend as _recommend
from counterpoint.run import RunFolder
from counterpoint.taxonomy import Taxonomy
from counterpoint.training.checkpoints import MINUTES
from counterpoint.training.distill import Distilled, distil
from counterpoint.training.folder import check_settings, own_tower
from counterpoint.training.train import train as fit

PathLike: TypeAlias = str | os.PathLike[str]
Source: TypeAlias = PathLike | Mapping[str, ArrayLike]
"""A film, a shard, a folder or glob of either, or a clip's own features by modality."""

RECIPES: dict[str, AnyRecipe] = {**CATEGORIZERS, **TOWER_RECIPES}
"""All built-in recipes by name: categorizers and correlation towers."""
BATCH = 64  # clips that the model reads at once


class Category(NamedTuple):
    """One category of an answer."""

    path: str
    """Names from the top level down, such as ``Food:Recipe``."""
    probability: float


@dataclass(frozen=True, eq=False)
class Answer:
    """What a run's model predicts for one clip.

    Attributes:
        id: the clip's id; a film's name.
        probabilities: (category,) float32, in the order of the taxonomy; no category is more probable than its parent.
        correlation: the probability that two modalities belong together, by their names, such as
            ``{"audio and video": 0.91}``; empty where the model has no correlation tower, or one that is no better
            than chance.
        unlike: whether the clip is far from every clip that the model was trained on; False where the run cannot say.
        notes: what was amiss with the film, in a few words each.
        taxonomy: the categories.
        clip: the clip's features, by which `Run.explain` explains the answer.
    """

    id: str
    probabilities: Float[np.ndarray, "category"] = field(repr=False)
    correlation: dict[str, float]
    notes: tuple[str, ...]
    taxonomy: Taxonomy = field(repr=False)
    clip: Clip = field(repr=False)
    thresholds: Float[np.ndarray, "category"] = field(repr=False)
    unlike: bool = False

    @property
    def predicted(self) -> list[Category]:
        """The categories that reach their thresholds, best first; none where the model is unsure."""
        order = self.taxonomy.ranked(self.probabilities)
        return self._named(order[self.probabilities[order] >= self.thresholds[order]])

    @property
    def unsure(self) -> bool:
        """Whether no category reaches its threshold."""
        return not (self.probabilities >= self.thresholds).any()

    def top(self, count: int = 5) -> list[Category]:
        """The most probable categories, best first; of equal ones the higher level. Untrained ones are left out."""
        order = self.taxonomy.ranked(self.probabilities)
        return self._named(order[np.isfinite(self.thresholds[order])][:count])

    def _named(self, numbers: Int[np.ndarray, "answer"]) -> list[Category]:
        return [Category(self.taxonomy.paths[i], float(self.probabilities[i])) for i in numbers]

    def __str__(self) -> str:
        doubts = "".join(f" ({word})" for word in ("unsure", "unlike") if getattr(self, word))
        return f"{self.id}: " + ", ".join(f"{path} {p:.2f}" for path, p in self.top(3)) + doubts


@dataclass(frozen=True)
class Run(RunFolder):
    """A run folder and its model, which is read once, when it is first needed.

    Example::

        run = cp.load("runs/mine")
        answers = run.categorize(["holiday.mp4", "clips.tfrecord"])
    """

    @cached_property
    def predictor(self) -> Predictor:
        """The model in evaluation mode.

        Raises:
            Error: the run is a correlation tower, or not trained, or its weights cannot be read.
        """
        return Predictor(self)

    def categorize(
        self,
        sources: Source | Sequence[Source],
        *,
        skip_bad: bool = False,
        workers: int | None = None,
        limits: Limits = DEFAULT,
        on_failure: Callable[[str, str], None] | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[Answer]:
        """Categorize films, shards and arrays, many at once and in the order given.

        Args:
            sources: films, shards, folders or globs of either, and clips' own features: mappings from a modality to an
                array (step, feature), one step a second, of 8-bit codes (uint8) or floats; an entry ``"id"`` names the
                clip.
            skip_bad: leave damaged records of shards out instead of raising the first.
            workers: films decoded at a time; as many as there are cores without.
            limits: seconds and pixels of a film; longer ones are cut and larger ones refused.
            on_failure: called with a film and the reason why it cannot be read; without, the first raises Error.
            on_progress: called with the number of clips that are done.

        Returns:
            An answer for each film, record and mapping.

        Raises:
            Error: a source is not there or cannot be read, or has other features than the model reads.

        Example::

            answers = run.categorize([{"video": video, "audio": audio}])
            answers[0].top(3)
        """
        one = isinstance(sources, str | os.PathLike | Mapping)
        each: Sequence[Source] = [sources] if one else list(sources)  # type: ignore[list-item,arg-type]
        answers: list[Answer] = []
        waiting: list[tuple[Clip, tuple[str, ...]]] = []

        def flush() -> None:
            predictions = self.predictor.predict_clips([clip for clip, _ in waiting]) if waiting else []
            answers.extend(
                _answer(self, clip, notes, prediction)
                for (clip, notes), prediction in zip(waiting, predictions, strict=True)
            )
            if on_progress and waiting:
                on_progress(len(answers))
            waiting.clear()

        for read in self._clips(each, skip_bad, workers or cores(), limits, on_failure):
            waiting.append(read)
            if len(waiting) == BATCH:
                flush()
        flush()
        return answers

    def explain(self, answer: Answer, other: Answer | None = None, top: int = 5) -> Explanation:
        """Explain an answer of this run: weights over time, correlation by second, and answers under interventions.

        Args:
            other: an answer of another clip, whose picture and sound are put in place of this one's in turn.
            top: how many of the best categories are followed.

        Returns:
            Arrays by modality in ``timelines`` (row, step), probabilities and their changes; what
            ``counterpoint explain`` draws.
        """
        return _explain(self.predictor, answer.clip, other.clip if other else None, top)

    def _clips(
        self,
        sources: Sequence[Source],
        skip_bad: bool,
        workers: int,
        limits: Limits,
        on_failure: Callable[[str, str], None] | None,
    ) -> Iterator[tuple[Clip, tuple[str, ...]]]:
        """The clips of all sources in order, with what was amiss; films that follow each other are decoded together."""
        films: list[Path] = []
        for number, source in enumerate(sources):
            if not isinstance(source, Mapping) and are_videos([Path(source)]):
                films.append(Path(source))
                continue
            yield from self._films(films, workers, limits, on_failure)
            films = []
            if isinstance(source, Mapping):
                yield _clip_of_arrays(source, self, number), ()
            else:
                shards = Dataset(source, self.labelling, skip_bad=skip_bad, labelled=False)
                self.features.check(FeatureSet.of(shards.paths), str(self.folder))
                yield from ((shards.clip(i), ()) for i in range(len(shards)))
        yield from self._films(films, workers, limits, on_failure)

    def _films(
        self, films: Sequence[Path], workers: int, limits: Limits, on_failure: Callable[[str, str], None] | None
    ) -> Iterator[tuple[Clip, tuple[str, ...]]]:
        if not films:
            return
        made_by = film_encoders.of(self.features, str(self.folder))
        for source, result in film_clips(find_films(films), made_by, limits=limits, workers=workers):
            if not isinstance(result, Failure):
                yield result.clip, tuple(result.notes)
            elif on_failure is None:
                raise Error(f"{source.path}: {result.cause}")
            else:
                on_failure(str(source.path), result.cause)


def load(run: PathLike) -> Run:
    """Read a run folder, or a model that comes with the package by its name (``"youtube8m"``).

    Raises:
        Error: it is not a run folder, or a file of it cannot be read.

    Example::

        run = cp.load("youtube8m")
    """
    return Run.load(os.fspath(run))


def categorize(run: PathLike | RunFolder, sources: Source | Sequence[Source], **options: object) -> list[Answer]:
    """Categorize films, shards and arrays by a run; see `Run.categorize`.

    Example::

        answers = cp.categorize("runs/mine", "holiday.mp4")
    """
    return _run(run).categorize(sources, **options)  # type: ignore[arg-type]


def explain(run: PathLike | RunFolder, source: Source | Answer, top: int = 5) -> Explanation:
    """Explain a run's answer for one film, one-clip shard or mapping of arrays; see `Run.explain`.

    Raises:
        Error: the source is not one clip.

    Example::

        explanation = cp.explain("runs/mine", "holiday.mp4")
        explanation.timelines["video"].after  # (row, step)
    """
    loaded = _run(run)
    if isinstance(source, Answer):
        return loaded.explain(source, top=top)
    answers = loaded.categorize(source)
    if len(answers) != 1:
        raise Error(f"{source}: holds {len(answers)} clips; explain one of `run.categorize(...)` by `run.explain`")
    return loaded.explain(answers[0], top=top)


def learn(
    videos: PathLike | Sequence[PathLike],
    *,
    out: PathLike,
    labels: PathLike | None = None,
    taxonomy: PathLike | None = None,
    encoders: str = LITE,
    workers: int | None = None,
    limits: Limits = DEFAULT,
    console: Console | None = None,
    columns: Sequence[str] = (),
    skip_bad_labels: bool = False,
    replace: bool = False,
) -> "Learned[Run]":
    """Learn categories from a folder of labelled videos: extract, choose a recipe by cross-validation, train, report.

    The same call goes on where an interrupted one stopped; with more videos it extracts those alone, and learns anew.

    Args:
        videos: files, and folders whose video files are taken at any depth.
        out: the run folder, with the report in ``report.html``.
        labels: a table ``path,categories``, or "folders": a video's category is the folder that it lies in. Without,
            ``labels.csv`` in the folder of the videos if there is one, else "folders".
        taxonomy: the taxonomy of these categories; without, it is made from their names.
        encoders: what makes features of pictures and sound.
        workers: child processes that extract; without, one for each core.
        limits: seconds at which videos are cut, and pixels above which they are refused.
        console: where steps and choices are printed.
        columns: the labels file's columns of files and of categories, where they have other names.
        skip_bad_labels: leave faulty lines of the labels file out, with a note.
        replace: make the clips of files anew that have changed since an earlier call.

    Returns:
        The trained run, its report, all figures, and what was extracted.

    Raises:
        Error: there are no videos, the labels are faulty, there are not two categories of two films each, or ``out``
            holds something else.

    Example::

        learned = cp.learn("videos", out="runs/mine")
        print(learned.result.summary)
        learned.run.categorize("holiday.mp4")
    """
    options: dict[str, Any] = {"workers": workers, "limits": limits, "console": console}
    options |= {"columns": columns, "skip_bad_labels": skip_bad_labels, "replace": replace}
    learned = _learn(videos, out, labels, taxonomy, encoders, **options)
    return Learned(load(out), learned.report, learned.result, learned.extraction)


def train(
    recipe: AnyRecipe | str | None,
    data: Dataset | PathLike | Sequence[PathLike],
    *,
    out: PathLike,
    validation: Dataset | PathLike | Sequence[PathLike] | None = None,
    tower: PathLike | RunFolder | None = None,
    start: PathLike | RunFolder | None = None,
    workers: int = 0,
    checkpoint_minutes: float = MINUTES,
    console: Console | None = None,
) -> Run:
    """Train a recipe on clips, into a run folder; the same call goes on where an interrupted one stopped.

    Args:
        recipe: one of `RECIPES`, its name, or a recipe of one's own; None: that of ``start``.
        data: the clips to learn from.
        out: the run folder, which does not exist yet or is this training's own.
        validation: clips to choose the best epoch by; without, a tenth of ``data`` that is then not trained on.
        tower: a trained correlation tower's run, for gated and concatenated fusion; without, that of ``start``.
        start: a trained run to go on from: categories that it knows keep their weights, and new ones are learned.
        workers: processes that read ahead.
        checkpoint_minutes: a checkpoint is saved at least so often, beside every epoch's end.
        console: where a line for each epoch is printed.

    Returns:
        The trained run.

    Raises:
        Error: the folder holds something else, the recipe needs a tower, the clips leave nothing to learn, or the
            training diverges.

    Example::

        run = cp.train(cp.RECIPES["nv-cm"].with_(max_steps=120), cp.Dataset("train*.tfrecord"), out="runs/x")
    """
    begin = None if start is None else _run(start)
    if recipe is None and begin is None:
        raise Error("train needs a recipe, or a run to start from")
    recipe = recipe_named(recipe) if isinstance(recipe, str) else recipe or begin.recipe  # type: ignore[union-attr]
    training, held_out = training_data(data, validation)
    features = FeatureSet.of(training.paths)
    features.check(FeatureSet.of(held_out.paths), "the model to train")
    run = Run(Path(out), recipe, training.labelling, features)
    with_tower = _run(tower) if tower is not None else own_tower(begin) if recipe.needs_tower else None
    check_settings(recipe, run.folder, with_tower, begin)
    options: dict[str, Any] = {"workers": workers, "minutes": checkpoint_minutes, "console": console}
    fit(run, training, held_out, tower=with_tower, start=begin, **options)
    return run


def evaluate(
    run: PathLike | RunFolder,
    data: Dataset | PathLike | Sequence[PathLike],
    *,
    workers: int = 0,
    console: Console | None = None,
) -> Breakdown:
    """Measure a run on labelled clips: GAP, MAP, PERR and Hit@1, by level and by top-level category.

    Args:
        data: the clips; their labels are read by the run's own taxonomy.
        workers: processes that read ahead.
        console: where progress is shown.

    Returns:
        Figures as numbers; ``.table()`` prints them, ``.save(folder)`` writes them.

    Raises:
        Error: the run is a correlation tower, is not trained, or reads other features or labels.

    Example::

        print(cp.evaluate("runs/x", cp.Dataset("test*.tfrecord")).table())
    """
    loaded = _run(run)
    dataset = data.with_taxonomy(loaded.labelling) if isinstance(data, Dataset) else Dataset(data, loaded.labelling)
    return _evaluate(loaded, dataset, console, workers)


def recommend(
    run: PathLike | RunFolder,
    history: Sequence[str],
    data: Dataset | PathLike | Sequence[PathLike],
    *,
    top: int = 10,
    index: PathLike | None = None,
    workers: int = 0,
) -> Recommendations:
    """Recommend clips of a library that suit a history, each with its reason.

    Args:
        history: ids of clips in the library.
        data: the library's clips.
        top: how many to recommend.
        index: a folder for the library's index, which is kept for the next call; beside the shards without.
        workers: processes that read ahead.

    Raises:
        Error: the history is empty, or a clip of it is not in the library.

    Example::

        cp.recommend("runs/x", ["0Dbq", "zXbl"], "library*.tfrecord").clips
    """
    loaded = _run(run)
    dataset = data if isinstance(data, Dataset) else Dataset(data, loaded.labelling, labelled=False)
    library = Library.open(loaded, dataset, None if index is None else Path(index), workers=workers)
    return _recommend(library, history, top)


def ensemble(
    runs: Sequence[PathLike | RunFolder],
    data: Dataset | PathLike | Sequence[PathLike],
    *,
    out: PathLike,
    validation: Dataset | PathLike | Sequence[PathLike] | None = None,
    share: float = 0.5,
    seed: int | None = None,
    workers: int = 0,
    console: Console | None = None,
) -> Distilled:
    """Average runs, and distil them into one run of the first one's recipe.

    Args:
        share: how much the ensemble's probabilities count against the labels, from 0 to 1.
        seed: of the training; the first run's without.

    Returns:
        The new run, and the figures of the ensemble and of the new run on the validation clips.

    Raises:
        Error: the runs have other categories or features than each other, or ``out`` holds something else.

    Example::

        cp.ensemble(["runs/a", "runs/b"], "train*.tfrecord", out="runs/one").student.table()
    """
    loaded = [_run(run) for run in runs]
    training, held_out = training_data(data, validation, loaded[0].labelling)
    return distil(loaded, Path(out), training, held_out, share=share, seed=seed, workers=workers, console=console)


def _run(run: PathLike | RunFolder) -> Run:
    if isinstance(run, Run):
        return run
    return Run(run.folder, run.recipe, run.labelling, run.features) if isinstance(run, RunFolder) else load(run)


def _answer(run: Run, clip: Clip, notes: tuple[str, ...], prediction: Prediction) -> Answer:
    return Answer(
        clip.id,
        prediction.probabilities,
        prediction.correlation,
        notes,
        run.labelling.taxonomy,
        clip,
        run.thresholds,
        prediction.unlike,
    )


def _clip_of_arrays(source: Mapping[str, ArrayLike], run: Run, number: int) -> Clip:
    """A clip of a user's own arrays.

    Raises:
        Error: an array is not (step, feature) of the model's size, or holds neither 8-bit codes nor finite floats.
    """
    sizes, tracks = run.features.sizes, {}
    for name, value in source.items():
        if name == "id":
            continue
        where = f"source {number}, {name!r}"
        if name not in sizes:
            raise Error(f"{where}: the model has no such modality; it reads {', '.join(sizes)}")
        array = np.asarray(value)
        if array.ndim != 2 or array.shape[1] != sizes[name]:
            raise Error(f"{where}: an array (step, {sizes[name]}) is needed, not of shape {array.shape}")
        if array.dtype != np.uint8:
            if not np.issubdtype(array.dtype, np.floating):
                raise Error(f"{where}: 8-bit codes (uint8) or floats are needed, not {array.dtype}")
            array = array.astype(np.float32)
            if not np.isfinite(array).all():
                raise Error(f"{where}: holds values that are not finite")
        tracks[name] = array
    if not tracks:
        raise Error(f"source {number}: no features; give an array (step, feature) for {' or '.join(sizes)}")
    return Clip(str(source.get("id", number)), np.zeros(0, np.int64), tracks)
