"""The sizes of recipes: a grid search on validation clips, and recipes of equal size.

Optuna keeps the trials, so that another process, or another day, goes on with them. A grid is values by dotted field of
a recipe. The first trial is the recipe as it is; the others are other points of the grid in a random order that depends
on the grid alone, so the trials are known before any is trained.
"""

import contextlib
import csv
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from math import ceil, prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from counterpoint.errors import Error
from counterpoint.recipes import Recipe, TowerRecipe
from counterpoint.run import KEPT_FILE, read_json, write_json

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import RDBStorage

STORAGE = "trials.db"
Grid = Mapping[str, list[Any]]


class Trial(NamedTuple):
    """One point of a grid; no settings at all: the recipe as it is."""

    number: int
    settings: dict[str, Any]

    @property
    def folder(self) -> str:
        """The same for equal settings, so that none is trained twice."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:10]


class Search:
    """A grid search of at most ``trials`` trials, kept in ``folder``.

    Args:
        given: the values that the recipe has as it is; not tried again.

    Raises:
        Error: Optuna is not installed.
    """

    def __init__(self, folder: Path, grid: Grid, trials: int, given: Mapping[str, Any]) -> None:
        self.folder = folder
        self.grid = grid
        self.given = {name: _text(value) for name, value in given.items()}
        points = prod(len(values) for values in grid.values()) if grid else 0
        new = points - all(given[name] in values for name, values in grid.items())
        self.count = min(trials, 1 + max(new, 0))

    def trials(self) -> list[Trial]:
        """All trials, drawn the first time. Only one process at a time may call it."""
        with self._storage() as storage:
            from optuna.trial import TrialState, create_trial

            study = self._study(storage)
            # Drawn in memory, where all of them come again in the same order, and each kept at once or not at all.
            points = self._study(None)
            points.add_trial(create_trial(state=TrialState.RUNNING))
            drawn = points.trials
            while len(drawn) < self.count:
                point = points.ask()
                for name, values in self.grid.items():
                    point.suggest_categorical(name, list(map(_text, values)))
                drawn = [trial for trial in points.trials if trial.params != self.given]
            for trial in drawn[len(study.trials) : self.count]:
                study.add_trial(trial)
            return [
                Trial(trial.number, {name: json.loads(value) for name, value in sorted(trial.params.items())})
                for trial in study.trials[: self.count]
            ]

    def save(self, trial: Trial, value: float, loss: float = math.inf) -> None:
        """Keep a trial's validation GAP, and its validation loss, which decides between equal ones."""
        with self._storage() as storage:
            self._study(storage).tell(trial.number, value, skip_if_finished=True)
        lower = {"validation_loss": loss} if math.isfinite(loss) else {}
        write_json(self.result_file(trial.number), {"settings": trial.settings, "validation_gap": value} | lower)

    def result_file(self, number: int) -> Path:
        """Where a trial's figure is, once it is known."""
        return self.folder / f"trial-{number:02}.json"

    def results(self) -> list[dict[str, Any]]:
        """The settings and figures of the finished trials, in order."""
        files = (self.result_file(i) for i in range(self.count))
        return [read_json(file) for file in files if file.exists()]

    def best(self) -> dict[str, Any]:
        """The settings with the highest GAP, rounded to four digits; of equal ones, with the smallest loss."""

        def key(result: dict[str, Any]) -> tuple[float, float]:
            return round(result["validation_gap"], 4), -result.get("validation_loss", math.inf)

        results = self.results()
        return dict(max(results, key=key)["settings"]) if results else {}

    @contextlib.contextmanager
    def _storage(self) -> Iterator["RDBStorage"]:
        """Optuna's storage, closed afterwards; Error in one line for what is wrong with it, such as a full disk."""
        try:
            import optuna
        except ImportError:
            raise Error(
                "the search of an architecture needs Optuna: pip install 'counterpoint[reproduce]', or search none "
                "(--trials 0 --influence-trials 0)"
            ) from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with contextlib.ExitStack() as stack:
                storage = optuna.storages.RDBStorage(f"sqlite:///{(self.folder / STORAGE).resolve()}")
                stack.callback(storage.engine.dispose)
                stack.callback(storage.remove_session)
                yield storage
        except Exception as error:
            # Its storage's errors, and SQLite's below them, whose packages are not there without Optuna.
            cause = error.__cause__ if type(error).__name__ == "StorageInternalError" else error
            if type(cause).__name__ not in ("OperationalError", "DatabaseError"):
                raise
            message = getattr(cause, "orig", cause)
            raise Error(f"{self.folder / STORAGE}: {message}; the same command goes on from there") from error

    def _study(self, storage: "RDBStorage | None") -> "Study":
        import optuna

        class Points(optuna.samplers.GridSampler):
            def after_trial(self, *_: Any) -> None:
                """Nothing: it would stop an optimization that Optuna does not run."""

        return optuna.create_study(
            study_name=self.folder.name,
            storage=storage,
            sampler=Points({name: list(map(_text, values)) for name, values in self.grid.items()}, seed=0),
            direction="maximize",
            load_if_exists=True,
        )


def _text(value: object) -> str:
    """A grid's value as Optuna keeps it."""
    return json.dumps(value, sort_keys=True)


def kept_validation(run: Path) -> tuple[float, float]:
    """The validation GAP and loss of the epoch that a run kept; runs of version 0.1 kept the best GAP."""
    if (run / KEPT_FILE).exists():
        kept = read_json(run / KEPT_FILE)
        return kept["validation_gap"], kept["validation_loss"]
    return best_validation(run), math.inf


def best_validation(run: Path, figure: str = "validation_gap") -> float:
    """The best validation figure of a run's epochs."""
    with (run / "epochs.csv").open(newline="", encoding="utf-8") as file:
        return max(float(row[figure]) for row in csv.DictReader(file))


# --- equal sizes ------------------------------------------------------------------------------------------------------


def parameters(
    recipe: Recipe | TowerRecipe, sizes: Mapping[str, int], categories: int, tower: TowerRecipe | None = None
) -> int:
    """How many numbers a recipe's model learns; those of the ``tower`` that it uses stay as they are.

    >>> from counterpoint.recipes import RECIPES
    >>> parameters(RECIPES["nv-l"], {"video": 1024, "audio": 128}, categories=640)
    19024448
    """
    with torch.device("meta"):  # shapes only
        model = recipe.build(sizes, categories, tower.build(sizes) if tower else None)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def matched(recipe: Recipe, goal: int, count: Callable[[Recipe], int], widths: bool = False, even: int = 2) -> Recipe:
    """The recipe with at least ``goal`` parameters, and hardly more: its head's width makes up for the difference.

    Args:
        count: returns a recipe's parameters, as `parameters` does.
        widths: first bring the family's widths as near to the goal as they come; the head then makes up for the rest.
        even: the head's width is a multiple of this.

    Raises:
        ValueError: no head is small enough.
    """
    if widths:
        recipe = _widened(recipe, goal, count)

    def with_head(hidden: int) -> Recipe:
        return recipe.with_({"head.hidden": hidden})

    # The parameters are linear in the head's width.
    least, more = count(with_head(even)), count(with_head(2 * even))
    units = 1 + ceil((goal - least) / (more - least))
    if units < 1:
        raise ValueError(f"{recipe.name} with the smallest head has {least:,} parameters, more than {goal:,}")
    return with_head(units * even)


def _widened(recipe: Recipe, goal: int, count: Callable[[Recipe], int]) -> Recipe:
    """The widths whose number of parameters is nearest, by bisection of the factor that they are multiplied with."""

    def at(factor: float) -> Recipe:
        return replace(recipe, family=recipe.family.scaled(factor))

    low, high = 0.0, 1.0
    while count(at(high)) < goal:
        low, high = high, 2 * high
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if count(at(middle)) < goal else (low, middle)
    return min(at(low), at(high), key=lambda made: abs(count(made) - goal))
