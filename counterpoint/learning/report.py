"""How good a learned model is: the figures, and the page that shows them."""

import dataclasses
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from counterpoint.evaluation.categories import CategoryReport, categories_table
from counterpoint.experiments.document import Block, Document, Picture, Section
from counterpoint.media.decode import thumbnail
from counterpoint.reliability import CategoryFigures
from counterpoint.tables import Cell, Table

MANY_CATEGORIES = 25  # from which on the confusion matrix is a list of the most frequent confusions
CONFUSIONS = 20


class Share(NamedTuple):
    """A share of wrong clips with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.0%} wrong [{self.low:.0%}, {self.high:.0%}]"


@dataclass(frozen=True)
class Worth:
    """The linear probe's error with some modalities: share of wrong clips, and its 95 % interval."""

    modalities: tuple[str, ...]
    wrong: float
    low: float
    high: float


@dataclass(frozen=True)
class LearningCurve:
    """The linear probe's error by the number of training clips.

    Attributes:
        points: training clips, share of wrong clips and its 95 % interval.
        twice: twice the clips that there are.
        expected: the share of wrong clips to expect then, with its interval; None where there are too few clips to say.
    """

    points: tuple[tuple[int, float, float, float], ...]
    twice: int
    expected: float | None
    low: float | None
    high: float | None

    @property
    def sentence(self) -> str:
        """What more videos promise."""
        if self.expected is None or self.low is None or self.high is None:
            return "There are too few errors, or too few videos in some category, to say what more videos would bring."
        now = self.points[-1][1]
        text = f"With twice the videos ({self.twice:,}) expect {self.expected:.0%} wrong"
        likely = "more videos are likely to help" if self.high < now else "that may be no better than now"
        return f"{text} [{self.low:.0%}, {self.high:.0%}]: {likely}."


@dataclass(frozen=True)
class Doubt:
    """A clip whose label is doubtful: another category is more probable, out of fold."""

    id: str
    path: Path | None
    label: str
    probability: float
    instead: str
    other: float


@dataclass(frozen=True)
class Result:
    """All figures of a learned model; every one is out of fold.

    Attributes:
        clips: how many were learned from.
        folds: of the cross-validation.
        recipe: the chosen one's name.
        why: what was tried, and why it was chosen or not.
        notes: what to know before any figure.
        error: the share of clips whose most probable category is wrong, and its 95 % interval.
        gap_error: 1 - GAP, and its 95 % interval; None where too few clips are wrong for one.
        tried: by recipe: the share of wrong clips, its interval, and the mean loss.
        categories: precision, recall, support and threshold of each.
        leaves: the deepest categories, of rows and columns of the confusion matrix.
        confusion: clips by true (row) and most probable category (column).
        worth: of each modality.
        curve: the error by the number of training clips.
        doubts: labels to look at again.
        usual: the most frequent category, and the share of clips that always answering it gets wrong.
    """

    clips: int
    folds: int
    recipe: str
    why: tuple[str, ...]
    notes: tuple[str, ...]
    error: Share
    gap_error: tuple[float, float | None, float | None]
    tried: tuple[tuple[str, float, float, float, float], ...]
    categories: tuple[CategoryFigures, ...]
    leaves: tuple[str, ...]
    confusion: Int[np.ndarray, "leaf leaf"]
    worth: tuple[Worth, ...]
    curve: LearningCurve
    doubts: tuple[Doubt, ...]
    usual: tuple[str, Share]

    @property
    def warnings(self) -> list[str]:
        """What makes the figures worthless."""
        category, usual = self.usual
        if self.error.high < usual.value:
            return []
        return [
            f"The model may be no better than always answering {category} ({usual}): its answers are no facts. Give it "
            "more videos, or look at their labels"
        ]

    @property
    def summary(self) -> str:
        """One sentence."""
        share, low, high = self.error
        gap, gap_low, gap_high = self.gap_error
        interval = "" if gap_low is None or gap_high is None else f" [{100 * gap_low:.1f}, {100 * gap_high:.1f}]"
        return (
            f"{share:.0%} of {self.clips:,} clips get a wrong category [{low:.0%}, {high:.0%}], "
            f"GAP error {100 * gap:.1f} %{interval} "
            f"({self.recipe}, cross-validated in {self.folds} folds)"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain = dataclasses.asdict(self)
        plain["confusion"] = self.confusion.tolist()
        plain["categories"] = [
            {name: None if value != value else value for name, value in dataclasses.asdict(each).items()}
            for each in self.categories
        ]
        for doubt in plain["doubts"]:
            doubt["path"] = None if doubt["path"] is None else str(doubt["path"])
        category, usual = self.usual
        plain["usual"] = {"category": category, **usual._asdict()}
        plain["warnings"] = self.warnings
        for name in ("error", "gap_error"):
            plain[name] = dict(zip(("value", "low", "high"), plain[name], strict=True))
        columns = ("recipe", "wrong", "low", "high", "loss")
        plain["tried"] = [dict(zip(columns, each, strict=True)) for each in plain["tried"]]
        return plain

    def tables(self) -> list[Table]:
        """The figures as tables."""
        found = [self.tried_table(), self.categories_table(), self.confusion_table()]
        found += [self.worth_table()] if self.worth else []
        return [*found, self.doubts_table()] if self.doubts else found

    def tried_table(self) -> Table:
        """The recipes that were tried."""
        rows: list[list[Cell | str]] = [
            [
                Cell(name, bold=name == self.recipe),
                f"{wrong:.1%}",
                f"{low:.1%} to {high:.1%}",
                f"{loss:.4f}",
            ]
            for name, wrong, low, high, loss in self.tried
        ]
        category, usual = self.usual
        rows.insert(0, [f"always {category}", f"{usual.value:.1%}", f"{usual.low:.1%} to {usual.high:.1%}", ""])
        caption = "Out of fold. A larger model is taken where its loss is smaller by more than a standard error."
        return Table("Recipes that were tried", ("recipe", "wrong", "95 % interval", "loss"), rows, caption)

    def categories_table(self) -> Table:
        """Precision, recall, support and threshold of each category."""
        return categories_table("", [each for each in self.categories if each.support])

    def confusion_table(self) -> Table:
        """The confusion matrix; of many categories, the most frequent confusions."""
        counts = self.confusion
        if len(self.leaves) <= MANY_CATEGORIES:
            return CategoryReport(self.categories, self.leaves, counts).matrix()
        wrong = counts * (1 - np.eye(len(counts), dtype=counts.dtype))
        order = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSIONS]
        pairs = [divmod(int(i), len(counts)) for i in order]
        rows = [[self.leaves[i], self.leaves[j], str(wrong[i, j])] for i, j in pairs if wrong[i, j]]
        return Table("Most frequent confusions", ("label", "most probable", "clips"), rows, labels=2)

    def worth_table(self) -> Table:
        """What each modality is worth."""
        names = {"video": "picture", "audio": "sound"}
        rows = []
        for each in self.worth:
            words = " and ".join(names.get(name, name) for name in each.modalities)
            alone = f"{words} alone" if len(each.modalities) == 1 else words
            rows.append([alone, f"{each.wrong:.1%}", f"{each.low:.1%} to {each.high:.1%}"])
        caption = "What each modality is worth: the error of the linear probe."
        return Table("", ("modalities", "wrong", "95 % interval"), rows, caption)

    def doubts_table(self) -> Table:
        """The labels to look at again."""
        rows = [
            [each.id, f"{each.label} ({each.probability:.2f})", f"{each.instead} ({each.other:.2f})"]
            for each in self.doubts
        ]
        return Table("Labels to look at", ("clip", "label", "looks like"), rows, labels=3)


def report(result: Result, run: Path, example: Path) -> Document:
    """The page, which needs no other file."""
    first: list[Block] = [
        f"{result.summary}.",
        "Every figure here is out of fold: each clip was answered by a model that had seen neither it nor a copy of "
        "it. Brackets and intervals are 95 % intervals over clips.",
        *result.warnings,
        *result.notes,
    ]
    curve = _drawn(result.curve)
    doubts: list[Block] = [
        "The labels that the model doubts the most: another category is more probable. Some are mistakes of the model, "
        "some of the labels."
        if result.doubts
        else "No label is doubtful: of every clip, the label is the most probable category.",
    ]
    for number, doubt in enumerate(result.doubts, 1):
        label, instead = f"{doubt.label} ({doubt.probability:.2f})", f"{doubt.instead} ({doubt.other:.2f})"
        caption = f"{doubt.id}: labelled {label}, looks like {instead}"
        picture = None if doubt.path is None else thumbnail(doubt.path)
        doubts.append(caption if picture is None else Picture(f"doubt-{number}.png", picture, caption))
    sections = [
        Section("How good it is", first),
        Section("What was chosen, and why", [result.tried_table(), *result.why]),
        Section("Categories", [result.categories_table(), result.confusion_table()]),
        *([Section("Picture and sound", [result.worth_table()])] if result.worth else []),
        Section("More videos", [result.curve.sentence, *([curve] if curve else [])]),
        Section("Labels to look at", doubts),
        Section(
            "Go on",
            [
                f"Categorize a video: counterpoint categorize {run} {example}",
                f"Serve the model with a page and an API: counterpoint serve {run}",
                "After adding videos or mending labels, give the same `counterpoint learn` again.",
            ],
        ),
    ]
    lead = f"{result.clips:,} clips, {len(result.leaves)} categories"
    return Document(f"What {run.name} has learned", lead, sections)


def _drawn(curve: LearningCurve) -> Picture | None:
    if len(curve.points) < 2:
        return None
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots()
    clips, wrong, low, high = (np.array(each) for each in zip(*curve.points, strict=True))
    axes.errorbar(clips, 100 * wrong, 100 * np.stack([wrong - low, high - wrong]), marker="o", capsize=3)
    if curve.expected is not None and curve.low is not None and curve.high is not None:
        sides = 100 * np.array([[curve.expected - curve.low], [curve.high - curve.expected]]).clip(0)
        axes.errorbar([2 * clips[-1]], [100 * curve.expected], sides, marker="o", capsize=3, mfc="white", ls="--")
    axes.set(xlabel="training clips", ylabel="wrong, %", xscale="log", ylim=(0, None))
    axes.set_xticks(ticks := [*clips.tolist(), 2 * int(clips[-1])], [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    content = io.BytesIO()
    figure.savefig(content, format="svg", metadata={"Date": None})
    caption = "Error of the linear probe by the number of training clips; the open point is the extrapolation"
    return Picture("learning-curve.svg", content.getvalue(), caption)
