"""One command from a folder of labelled videos to a model and a page that shows how good it is.

=======================  ======================================================================
``shards/``              the videos' features; further calls extract new videos alone
``learning/``            what cross-validation has found, so that an interrupted call goes on
``learning.json``        all figures of the report
``report.html``          the report, for people
the other files          the trained run (`counterpoint.run`), which every command takes
=======================  ======================================================================
"""

import dataclasses
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from jaxtyping import Bool, Float
from rich.console import Console

from counterpoint.data.dataset import Dataset
from counterpoint.errors import Error
from counterpoint.evaluation.bootstrap import Curve, resample
from counterpoint.files import check_output_folder, claimed, write_text
from counterpoint.learning.crossvalidation import (
    BALANCE,
    PROBE,
    Candidate,
    Clips,
    better,
    candidates,
    check_films,
    cross_validate,
    cross_validate_probe,
    final_run,
    read_clips,
)
from counterpoint.learning.report import Doubt, LearningCurve, Result, Share, Worth, report
from counterpoint.media.decode import DEFAULT, Limits
from counterpoint.media.encoders import LITE
from counterpoint.media.extract import Paths, Report, extract, find, labels_of
from counterpoint.media.labels import FOLDERS, real
from counterpoint.media.workers import TIME_LIMIT, Engine, Source
from counterpoint.predict import Predictor
from counterpoint.reliability import (
    UNLIKE,
    CategoryFigures,
    Reliability,
    calibrate,
    category_figures,
    confusion,
    nearest,
    references,
    thresholds,
    unit,
    wilson,
)
from counterpoint.run import KEPT_FILE, RECIPE_FILE, UNTRAINED_FILE, WEIGHTS_FILE, RunFolder, write_json

SHARDS, WORK = "shards", "learning"
LEARNING_FILE, REPORT_FILE = "learning.json", "report.html"
LABELS = "labels.csv"
SAMPLES = 1000  # of a bootstrap
DOUBTS = 10
SHARES = (0.25, 0.5)
OF_TRAINING = (KEPT_FILE, UNTRAINED_FILE, "epochs.csv", "tensorboard", "checkpoints")
FEW_ERRORS = 3  # from which on an error may be extrapolated
MARGIN = 1.2  # on the distance of the most distant clip out of fold: few clips do not show how far clips may lie


R = TypeVar("R", bound=RunFolder)


@dataclass(frozen=True)
class Learned(Generic[R]):
    """A trained run and how good it is.

    Attributes:
        run: the run folder.
        report: the page.
        result: all figures.
        extraction: what was extracted, and which files could not be read.
    """

    run: R
    report: Path
    result: Result
    extraction: Report


def learn(
    videos: Paths,
    out: str | os.PathLike[str],
    labels: str | os.PathLike[str] | None = None,
    taxonomy: str | os.PathLike[str] | None = None,
    encoders: str = LITE,
    *,
    workers: int | None = None,
    limits: Limits = DEFAULT,
    time_limit: float = TIME_LIMIT,
    engine: Engine | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    console: Console | None = None,
    columns: Sequence[str] = (),
    skip_bad_labels: bool = False,
    replace: bool = False,
) -> Learned[RunFolder]:
    """Extract videos, choose a recipe by cross-validation, train it, and report how good it is.

    The same call goes on where an interrupted one stopped; with more videos it extracts those alone, and learns anew.

    Args:
        videos: files, and folders whose video files are taken at any depth.
        out: the run folder.
        labels: a labels file (see `counterpoint.media.labels`), or "folders": the folder that a video lies in is its
            category. Without, ``labels.csv`` in the folder of the videos if there is one, else "folders".
        taxonomy: as `counterpoint.extract` takes it.
        encoders: what makes features of pictures and sound.
        workers: child processes that extract; without, one for each core.
        limits: seconds at which videos are cut, and pixels above which they are refused.
        time_limit: seconds that one file may take.
        engine: what encodes the files, such as `counterpoint.cluster.extraction`.
        progress: called with the number of files that are extracted, and of all that there are to extract.
        console: where steps and choices are printed.
        columns, skip_bad_labels, replace: as `counterpoint.extract` takes them.

    Raises:
        Error: there are no videos, the labels are faulty, there are not two categories of two films each, or ``out``
            holds something else.

    Example::

        learn("videos", "runs/mine").result.summary
    """
    out, console = Path(out), console or Console(quiet=True)
    check_output_folder(out, RECIPE_FILE, WORK, SHARDS)
    if (out / RECIPE_FILE).exists() and not (out / WORK).exists():
        raise Error(f"{out}: holds a run that `counterpoint learn` did not make; choose another --out")
    sources = find(videos)
    labels = labels if labels is not None else _labels_beside(videos)
    how: dict[str, Any] = {"columns": columns, "skip_bad": skip_bad_labels}
    table = labels_of(sources, out / SHARDS, labels, taxonomy, **how)
    named = [source for source in sources if real(source.path) in table.of]
    targets = [table.labelling.labels.targets(table.of[real(source.path)]) for source in named]
    paths = table.labelling.taxonomy.paths
    check_films(np.array(targets, bool).reshape(len(named), -1), paths, _name(videos))

    def log(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    log(f"{len(named):,} of {len(sources):,} videos have a category ({labels_name(labels)})")
    (out / WORK).mkdir(parents=True, exist_ok=True)
    with claimed(out / WORK, f"another process learns into {out}; wait for it, or choose another --out"):
        options: dict[str, Any] = {"workers": workers, "limits": limits, "time_limit": time_limit}
        options |= {"progress": progress, "engine": engine, "columns": columns, "replace": replace}
        options |= {"skip_bad_labels": skip_bad_labels}
        extraction = extract(videos, out / SHARDS, labels, taxonomy, encoders, **options)
        for line in extraction.lines(labels_name(labels)):
            log(line)
        return _learned(out, named, extraction, log)


def labels_name(labels: str | os.PathLike[str]) -> str:
    """Where labels come from, for messages."""
    return "the folders that they lie in" if labels == FOLDERS else os.fspath(labels)


def _name(videos: Paths) -> str:
    """The videos, for messages."""
    return os.fspath(videos) if isinstance(videos, str | os.PathLike) else ", ".join(str(Path(each)) for each in videos)


def _labels_beside(videos: Paths) -> str:
    """The labels file in the folder of the videos; where there is none, the folders."""
    first = videos if isinstance(videos, str | os.PathLike) else next(iter(videos), "")
    beside = Path(first) / LABELS
    return str(beside) if beside.is_file() else FOLDERS


def _learned(out: Path, named: Sequence[Source], extraction: Report, log: Callable[[str], None]) -> Learned[RunFolder]:
    ids = {source.id for source in named}
    data = Dataset(out / SHARDS).only(ids.__contains__)
    clips = read_clips(data, str(out / SHARDS))
    taxonomy = data.labelling.taxonomy
    work = out / WORK / data.fingerprint
    work.mkdir(exist_ok=True)
    notes = _notes(clips, named, extraction)
    log(f"{len(data):,} clips, {len(clips.leaves)} categories; cross-validation in {clips.count} folds")
    log(f"rare categories count more: a true one (clips without it / clips with it) to the power of {BALANCE:g}")
    for text in notes:
        log(f"note: {text}")

    tried = [cross_validate_probe(clips)]
    chosen, why = tried[0], [f"a linear probe on averaged features, with penalty {tried[0].penalty:g}"]
    log(f"tried {why[0]}: {_error(tried[0], clips)}")
    for recipe, reason in candidates(clips):
        log(f"trying {recipe.name}: {reason}")
        each = cross_validate(
            recipe, clips, work, lambda done, total: log(f"  fold {done} of {total}") if done < total else None
        )
        tried.append(each)
        improves = better(each, chosen, clips.labels)
        verdict = "better by more than a standard error" if improves else "not clearly better: the smaller model stays"
        why.append(f"{recipe.name}: {reason}; {verdict}")
        log(f"  {_error(each, clips)}; {verdict}")
        chosen = each if improves else chosen
    log(f"training {chosen.recipe.name} for use")
    run = final_run(chosen, clips, work)
    reliability, honest, figures = _reliability(chosen, clips)
    reliability, hidden = _with_distances(reliability, chosen, clips, run)
    run.save_reliability(reliability, hidden)

    result = Result(
        clips=len(data),
        folds=clips.count,
        recipe=chosen.recipe.name,
        why=tuple(why),
        notes=tuple(notes),
        error=_wrong(chosen, clips),
        gap_error=_gap_error(honest, clips),
        tried=tuple((c.recipe.name, *_wrong(c, clips), float(c.losses(clips.labels).mean())) for c in tried),
        categories=figures,
        leaves=tuple(taxonomy.paths[i] for i in clips.leaves),
        confusion=confusion(clips.exact(honest), clips.deepest, np.arange(len(clips.leaves))),
        worth=_worth(clips, tried[0]),
        usual=_usual(clips),
        curve=_curve(clips, tried[0]),
        doubts=_doubts(honest, clips, {source.id: source.path for source in named}),
    )
    write_json(run.folder / LEARNING_FILE, result.to_dict())
    write_text(run.folder / REPORT_FILE, report(result, out, named[0].path).html())
    _publish(run.folder, out)
    for other in (out / WORK).iterdir():
        if other.is_dir() and other != work:  # of other clips
            shutil.rmtree(other)
    return Learned(RunFolder.load(out), out / REPORT_FILE, result, extraction)


def _notes(clips: Clips, named: Sequence[Source], extraction: Report) -> list[str]:
    """What a user should know of the clips before any figure."""
    notes = []
    count = len(clips.data)
    if count < 20:
        notes.append(f"{count} clips are very few: every figure below is rough, as its interval shows")
    if extraction.notes:
        files = len({path for path, _ in extraction.notes})
        first, text = extraction.notes[0]
        notes.append(f"{files:,} files were taken in part or with a fault, such as {first.name}: {text}")
    if extraction.left_out:
        notes.append(f"{len(extraction.left_out):,} videos have no category, and are left out")
    if extraction.failures:
        notes.append(f"{len(extraction.failures):,} files could not be read, and are left out")
    if len(named) > count + len(extraction.failures):
        notes.append(f"{len(named) - count - len(extraction.failures):,} videos gave no clip")
    notes += [f"copies of one film, kept in one fold: {', '.join(same[:5])}" for same in clips.copies]
    return notes


# --- figures ----------------------------------------------------------------------------------------------------------


def _is_right(candidate: Candidate, clips: Clips) -> Bool[np.ndarray, "clip"]:
    """Whether each clip's most probable deepest category is one of its own; calibrated by the other folds."""
    probabilities = np.zeros(clips.labels.shape)
    for fold in range(clips.count):
        own, others = clips.fold == fold, clips.fold != fold
        fitted = calibrate(candidate.logits[others], clips.labels[others])
        probabilities[own] = _probabilities(candidate.logits[own], *fitted, clips)
    best = clips.exact(probabilities).argmax(1)
    return np.asarray(clips.deepest[np.arange(len(best)), best])


def _usual(clips: Clips) -> tuple[str, Share]:
    """The most frequent deepest category, and the share of clips that always answering it gets wrong."""
    frequent = int(clips.deepest.sum(0).argmax())
    return clips.data.labelling.taxonomy.paths[clips.leaves[frequent]], _share(~clips.deepest[:, frequent])


def _share(wrong: Bool[np.ndarray, "clip"]) -> Share:
    return Share(float(wrong.mean()), *wilson(int(wrong.sum()), len(wrong)))


def _wrong(candidate: Candidate, clips: Clips) -> Share:
    """The share of clips whose most probable category is wrong, with its 95 % interval."""
    return _share(~_is_right(candidate, clips))


def _error(candidate: Candidate, clips: Clips) -> str:
    return str(_wrong(candidate, clips))


def _gap_error(
    probabilities: Float[np.ndarray, "clip category"], clips: Clips
) -> tuple[float, float | None, float | None]:
    """1 - GAP with its 95 % interval over resampled films, if they differ; copies of a film are drawn together."""
    curve, random = Curve(probabilities, clips.labels), np.random.default_rng(0)
    films = int(clips.groups.max()) + 1
    values = [curve.average_precision(resample(films, random)[clips.groups]) for _ in range(SAMPLES)]
    high, low = np.nanpercentile(values, [2.5, 97.5])
    found = 1 - curve.average_precision(np.ones(len(probabilities), np.int64))
    # Where every film is ranked rightly, so it is in every sample: that says nothing about other films.
    return (found, float(1 - low), float(1 - high)) if high < low else (found, None, None)


def _probabilities(
    logits: Float[np.ndarray, "clip category"], slope: float, bias: Float[np.ndarray, "category"], clips: Clips
) -> Float[np.ndarray, "clip category"]:
    scores = logits.astype(np.float64) * slope + bias
    raises = PROBE.consistency == "raise"  # as the networks that it is compared with
    return clips.data.labelling.taxonomy.consistent(1 / (1 + np.exp(-scores)), raise_parents=raises)


def _reliability(
    candidate: Candidate, clips: Clips
) -> tuple[Reliability, Float[np.ndarray, "clip category"], tuple[CategoryFigures, ...]]:
    """Calibration and thresholds for use; each clip's probabilities, and the figures at the thresholds.

    For probabilities and figures, calibration and thresholds are fitted on the other folds' clips.
    """
    labels = clips.labels
    slope, bias = calibrate(candidate.logits, labels)
    above = thresholds(_probabilities(candidate.logits, slope, bias, clips), labels)
    honest, margins = np.zeros(labels.shape), np.zeros(labels.shape)
    for fold in range(clips.count):
        own, others = clips.fold == fold, clips.fold != fold
        fitted = calibrate(candidate.logits[others], labels[others])
        honest[own] = _probabilities(candidate.logits[own], *fitted, clips)
        at = thresholds(_probabilities(candidate.logits[others], *fitted, clips), labels[others])
        margins[own] = honest[own] - at
    measured = category_figures(margins, labels, clips.data.labelling.taxonomy.paths, np.zeros(labels.shape[1]))
    figures = (dataclasses.replace(each, threshold=float(at)) for each, at in zip(measured, above, strict=True))
    reliability = Reliability(slope, tuple(bias.tolist()), tuple(above.tolist()), 0.0, 0.0, len(labels))
    return reliability, honest, tuple(figures)


def _with_distances(
    reliability: Reliability, candidate: Candidate, clips: Clips, run: RunFolder
) -> tuple[Reliability, Float[np.ndarray, "reference hidden"]]:
    """The reliability with the distance from which on a clip is unlike the training clips, and these."""
    ratios = np.zeros(len(clips.labels))
    for fold, hidden in enumerate(candidate.hidden):
        own, training = clips.fold == fold, unit(references(hidden[clips.fold != fold]))
        typical = np.median(nearest(training, training, own=True))
        ratios[own] = nearest(hidden[own], training) / max(float(typical), 1e-6)
    predictor = Predictor(run)
    every = np.concatenate(
        [
            predictor.forward(predictor.tracks([clips.data.clip(i) for i in block])).hidden.float().cpu().numpy()
            for block in np.array_split(np.arange(len(clips.data)), -(-len(clips.data) // 64))
        ]
    )
    chosen = references(every)
    typical = float(np.median(nearest(chosen, unit(chosen), own=True)))
    unlike = float(np.quantile(ratios, UNLIKE)) * MARGIN
    return dataclasses.replace(reliability, unlike=unlike, typical=max(typical, 1e-6)), chosen


def _worth(clips: Clips, whole: Candidate) -> tuple[Worth, ...]:
    """What the linear probe makes of each modality alone, and of all."""
    names = sorted(clips.features.sizes, reverse=True)
    if len(names) < 2:
        return ()
    alone = [Worth((name,), *_wrong(cross_validate_probe(clips, [name]), clips)) for name in names]
    return (*alone, Worth(tuple(names), *_wrong(whole, clips)))


def _curve(clips: Clips, whole: Candidate) -> LearningCurve:
    """The linear probe's error by the number of training clips, and what twice as many promise."""
    films = int(clips.deepest.sum(0).min())
    wrong = []
    for share in SHARES:
        if films * share * (clips.count - 1) / clips.count >= 1:
            wrong.append((share, ~_is_right(cross_validate_probe(clips, share=share), clips)))
    wrong.append((1.0, ~_is_right(whole, clips)))
    trained = len(clips.labels) * (clips.count - 1) / clips.count
    sizes = np.array([share * trained for share, _ in wrong])
    each = np.stack([values for _, values in wrong])
    expected = low = high = None
    if len(wrong) > 1 and wrong[-1][1].sum() >= FEW_ERRORS:
        random, found = np.random.default_rng(0), []
        for _ in range(SAMPLES):
            weights = resample(int(clips.groups.max()) + 1, random)[clips.groups]
            found.append(_extrapolated(sizes, (each * weights).sum(1) / max(weights.sum(), 1), len(clips.labels)))
        low, high = (float(value) for value in np.percentile(found, [2.5, 97.5]))
        expected = float(_extrapolated(sizes, each.mean(1), len(clips.labels)))
    points = tuple(
        (round(float(size)), float(values.mean()), *wilson(int(values.sum()), len(values)))
        for size, values in zip(sizes, each, strict=True)
    )
    return LearningCurve(points, 2 * len(clips.labels), expected, low, high)


def _extrapolated(sizes: Float[np.ndarray, "point"], errors: Float[np.ndarray, "point"], clips: int) -> float:
    """The error at twice the clips by the power law ``error = a * size ** -b`` through the points, b not negative."""
    logs = np.log((errors * clips + 0.5) / (clips + 1))
    slope, start = np.polyfit(np.log(sizes), logs, 1)
    slope = min(slope, 0.0)
    start = float((logs - slope * np.log(sizes)).mean()) if slope == 0 else start
    return float(np.clip(np.exp(start + slope * np.log(2 * sizes[-1])), 0, 1))


def _doubts(
    probabilities: Float[np.ndarray, "clip category"], clips: Clips, paths: dict[str, Path]
) -> tuple[Doubt, ...]:
    """The clips whose label is the least probable against another category's, out of fold."""
    taxonomy, leaves = clips.data.labelling.taxonomy, clips.leaves
    truth, scores = clips.deepest, clips.exact(probabilities)
    own = np.where(truth, scores, np.inf).min(1)
    other = np.where(truth, -np.inf, scores).max(1)
    margin = np.where(truth.any(1), other - own, -np.inf)
    found = []
    for clip in np.argsort(-margin, kind="stable")[:DOUBTS]:
        if margin[clip] > 0:
            labelled = np.where(truth[clip], scores[clip], np.inf).argmin()
            instead = np.where(truth[clip], -np.inf, scores[clip]).argmax()
            path = paths.get(clips.means.ids[clip])
            label, name = taxonomy.paths[leaves[labelled]], taxonomy.paths[leaves[instead]]
            found.append(Doubt(clips.means.ids[clip], path, label, float(own[clip]), name, float(other[clip])))
    return tuple(found)


def _publish(made: Path, out: Path) -> None:
    """Put a finished run's files in their place; the weights go first and come last, so that none are another's."""
    (out / WEIGHTS_FILE).unlink(missing_ok=True)
    for name in OF_TRAINING:  # of a network that was chosen before
        shutil.rmtree(out / name) if (out / name).is_dir() else (out / name).unlink(missing_ok=True)
    for part in sorted(made.iterdir(), key=lambda part: part.name == WEIGHTS_FILE):
        if part.name.startswith("."):
            continue
        beside = out / f".{part.name}.new"
        if part.is_dir():
            shutil.rmtree(beside, ignore_errors=True)
            shutil.copytree(part, beside)
            shutil.rmtree(out / part.name, ignore_errors=True)
        else:
            shutil.copyfile(part, beside)
        beside.replace(out / part.name)
