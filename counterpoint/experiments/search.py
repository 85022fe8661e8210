"""Grid search on validation clips: Optuna keeps the trials, so that another process, or another day, goes on with them.

A grid is values by dotted field of a recipe. The first trial is the recipe as it is; the others are other points of the
grid in a random order that depends on the grid alone, so the trials are known before any is trained.
"""

import contextlib
import csv
import hashlib
import json
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from counterpoint.errors import Error
from counterpoint.run import read_json, write_json

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial

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
        self.given = {name: json.dumps(value, sort_keys=True) for name, value in given.items()}
        points = prod(len(values) for values in grid.values()) if grid else 0
        new = points - all(given[name] in values for name, values in grid.items())
        self.count = min(trials, 1 + max(new, 0))

    def trials(self) -> list[Trial]:
        """All trials, the first time drawn. Call it in one process at a time."""
        with self._kept() as storage:
            return self._trials(storage)

    def _trials(self, storage: "RDBStorage") -> list[Trial]:
        study = self._study(storage)
        # Drawn in memory, where all of them come again in the same order, and each kept at once or not at all.
        points = self._study(None)
        points.add_trial(_as_it_is())
        drawn = points.trials
        while len(drawn) < self.count:
            asked = points.ask()
            for name, values in self.grid.items():
                asked.suggest_categorical(name, [json.dumps(value, sort_keys=True) for value in values])
            drawn = [trial for trial in points.trials if trial.params != self.given]
        for trial in drawn[len(study.trials) : self.count]:
            study.add_trial(trial)
        return [
            Trial(trial.number, {name: json.loads(value) for name, value in sorted(trial.params.items())})
            for trial in study.trials[: self.count]
        ]

    def tell(self, trial: Trial, value: float) -> None:
        """Keep a trial's validation figure."""
        with self._kept() as storage:
            self._study(storage).tell(trial.number, value, skip_if_finished=True)
        write_json(self.told(trial.number), {"settings": trial.settings, "validation_gap": value})

    def told(self, number: int) -> Path:
        """Where a trial's figure is, once it is known."""
        return self.folder / f"trial-{number:02}.json"

    def results(self) -> list[dict[str, Any]]:
        """The settings and figures of the finished trials, in order."""
        return [read_json(self.told(i)) for i in range(self.count) if self.told(i).exists()]

    def best(self) -> dict[str, Any]:
        """The settings with the highest figure; the first of equals."""
        results = self.results()
        return dict(max(results, key=lambda result: result["validation_gap"])["settings"]) if results else {}

    @contextlib.contextmanager
    def _kept(self) -> Iterator["RDBStorage"]:
        """Optuna's storage, closed afterwards; says in a line what is wrong with it, such as a full disk."""
        try:
            import optuna
        except ImportError:
            raise Error(
                "searching an architecture takes Optuna: pip install 'counterpoint[reproduce]', or search none "
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
            told = getattr(cause, "orig", cause)
            raise Error(f"{self.folder / STORAGE}: {told}; the same command goes on from there") from error

    def _study(self, storage: "RDBStorage | None") -> "Study":
        import optuna

        space = {name: [json.dumps(value, sort_keys=True) for value in values] for name, values in self.grid.items()}

        class Points(optuna.samplers.GridSampler):
            def after_trial(self, *told: Any) -> None:
                """Nothing: it would stop an optimization that is not Optuna's to run."""

        return optuna.create_study(
            study_name=self.folder.name,
            storage=storage,
            sampler=Points(space, seed=0),
            direction="maximize",
            load_if_exists=True,
        )


def _as_it_is() -> "FrozenTrial":
    import optuna

    return optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING)


def best_validation(run: Path, figure: str = "validation_gap") -> float:
    """The best validation figure of a run's epochs."""
    with (run / "epochs.csv").open(newline="", encoding="utf-8") as file:
        return max(float(row[figure]) for row in csv.DictReader(file))
