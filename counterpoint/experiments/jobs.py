"""A suite's jobs: make data sets, try architectures, train towers and models, measure all of them."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from math import ceil
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from safetensors.torch import load_file

from counterpoint.data.dataset import Dataset
from counterpoint.data.tracks import Track
from counterpoint.errors import Error
from counterpoint.evaluation.plots import draw_explanation
from counterpoint.evaluation.tower import measure as measure_tower
from counterpoint.experiments.clips import contrasts
from counterpoint.experiments.datasets import Data, Shape, Source
from counterpoint.experiments.engine import Job, locked
from counterpoint.experiments.experiment import Cell, Experiment, flat
from counterpoint.experiments.paper import BASELINE, ENTRIES, HEADLINE, SEARCHED, Entry
from counterpoint.experiments.predictions import Truth, draw_runs, measure, probabilities, save_scores
from counterpoint.experiments.search import Search, Trial, best_validation, kept_validation
from counterpoint.explanation import explain
from counterpoint.models.correlation import Tower
from counterpoint.predict import Predictions, Predictor
from counterpoint.recipes import CONSTANT, Recipe, TowerRecipe
from counterpoint.run import TOWER_FOLDER, WEIGHTS_FILE, RunFolder, digest, read_json, write_json
from counterpoint.training.distill import ENSEMBLE_FILE, average, distil
from counterpoint.training.selection import in_words
from counterpoint.training.train import train

Recipes = Recipe | TowerRecipe


@dataclass(frozen=True, eq=False)
class Jobs:
    """The jobs of an experiment; ``workers`` as in `counterpoint.training.train.train`."""

    experiment: Experiment
    console: Console
    workers: int = 0
    drawn: dict[Path, list[Trial]] = field(default_factory=dict, repr=False)

    def all(self) -> list[Job]:
        """Everything, in an order in which each comes after what it needs.

        Raises:
            Error: a finished run has another recipe than it would get now, or is of runs that are others.
        """
        jobs: dict[str, Job] = {}

        def add(job: Job) -> Job:
            return jobs.setdefault(job.name, job)

        for cell in self.experiment.cells():
            dataset, family, entry, seed = cell
            made = add(self._make(dataset, seed))
            needs = [made]
            if entry.recipe and not entry.of:
                needs += self._searches(family, entry, add)
            if entry.tower:
                needs.append(add(self._tower(dataset, family, entry.tower, seed, made)))
                if entry.tower in ("trained", "seconds"):
                    add(self._evaluate_tower(dataset, family, entry.tower, seed, needs[-1]))
            needs += [jobs[f"train {member}"] for member in self.experiment.members(cell)]
            if entry.recipe:
                needs = [add(self._train(cell, needs))]
            add(self._evaluate(cell, needs))
        for family in self.experiment.scale.families:
            pair = [Cell(self.experiment.main, family, ENTRIES[name], 0) for name in (BASELINE, HEADLINE)]
            if all(f"evaluate {cell}" in jobs for cell in pair):
                add(self._explain(family, [jobs[f"evaluate {cell}"] for cell in pair]))
        for kind in self.experiment.further_towers():
            made = self._make(self.experiment.main, 0)
            tower = add(self._tower(self.experiment.main, self.experiment.scale.families[0], kind, 0, add(made)))
            add(self._evaluate_tower(self.experiment.main, self.experiment.scale.families[0], kind, 0, tower))
        return list(jobs.values())

    def _make(self, dataset: Source, seed: int) -> Job:
        folder, done = self.experiment.place(dataset, seed), self.experiment.truth(dataset, seed)

        def work() -> str:
            folder.mkdir(parents=True, exist_ok=True)
            if not dataset.ready(folder):
                with Progress(console=self.console, transient=True, disable=not self.console.is_terminal) as progress:
                    task = progress.add_task("composing clips")
                    dataset.make(
                        folder,
                        self.experiment.inputs,
                        seed,
                        lambda n, total: progress.update(task, completed=n, total=total),
                    )
            data = self.experiment.data(dataset, seed)
            Truth.of(data.test).save(done)
            return ", ".join(f"{len(getattr(data, name)):,} {name}" for name in ("train", "validation", "test"))

        return Job(f"make {folder.name}", "make", done, work)

    # --- search -------------------------------------------------------------------------------------------------------

    def _searches(self, family: str, entry: Entry, add: Callable[[Job], Job]) -> list[Job]:
        """The trials that an entry's recipe waits for: of the architecture, and of F where it has one."""
        jobs: list[Job] = []
        names = (BASELINE, SEARCHED) if entry.cross_modal or entry.like else (BASELINE,)
        for name in (entry.searched,) if entry.plain else names:
            search = self.experiment.search(family, name)
            if search.count and search.folder not in self.drawn:
                with self._locked(search):
                    self.drawn[search.folder] = search.trials()
            if trials := self.drawn.get(search.folder):
                needs = (add(self._make(self.experiment.searched, 0)), *jobs)
                jobs += [add(self._trial(family, name, search, trial, needs)) for trial in trials]
        return jobs

    def _trial(self, family: str, name: str, search: Search, trial: Trial, needs: tuple[Job, ...]) -> Job:
        def recipe() -> Recipe:
            return self.experiment.recipe(family, ENTRIES[name], 0, trial.settings)

        def work() -> str:
            run = self._fit(self.experiment.searched, 0, search.folder / trial.folder, recipe(), None)
            value, loss = kept_validation(run.folder)
            with self._locked(search):
                search.save(trial, value, loss)
            return (
                f"validation {in_words('gap', value)}, {json.dumps(trial.settings) if trial.settings else 'as it is'}"
            )

        what = f"try {search.folder.name} {trial.number}"
        like = Cell(self.experiment.searched, family, ENTRIES[name], 0).model
        return Job(what, f"train {like}", search.result_file(trial.number), work, needs, self._guess(recipe))

    def _locked(self, search: Search) -> AbstractContextManager[bool]:
        """Trials are drawn and kept by one process at a time."""
        return locked(self.experiment.folder, f"search-{search.folder.name}", wait=True)

    # --- train --------------------------------------------------------------------------------------------------------

    def _tower(self, dataset: Source, family: str, kind: str, seed: int, made: Job) -> Job:
        folder = self.experiment.tower_folder(dataset, family, kind, seed)
        recipe = self.experiment.tower_recipe(family, kind, seed)
        _check_finished(folder, lambda: recipe)

        def work() -> str:
            records = None
            if kind == "seconds" and self.experiment.inputs.shards.get("tower"):
                records = self.experiment.inputs.tower_records(self.experiment.data(dataset, seed).labelling)
            self._fit(dataset, seed, folder, recipe, None, records)
            return (
                f"validation AUC {best_validation(folder, 'validation_auc'):.4f}" if recipe.training.max_epochs else ""
            )

        what, like = f"tower {dataset.name} {folder.name}", f"tower {recipe.name}"
        return Job(what, like, folder / WEIGHTS_FILE, work, (made,), self._guess(lambda: recipe))

    def _train(self, cell: Cell, needs: list[Job]) -> Job:
        dataset, family, entry, seed = cell
        folder = self.experiment.run_folder(cell)

        def recipe() -> Recipe:
            return self.experiment.recipe(family, entry, seed)

        def work() -> str:
            if entry.of:
                data = self.experiment.data(dataset, seed)
                members = [
                    RunFolder.load(self.experiment.run_folder(member)) for member in self.experiment.members(cell)
                ]
                distil(members, folder, data.train, data.validation, workers=self.workers, console=self.console)
            else:
                tower = (
                    RunFolder.load(self.experiment.tower_folder(dataset, family, entry.tower, seed))
                    if entry.tower
                    else None
                )
                self._take_trial(cell, recipe())
                self._fit(dataset, seed, folder, recipe(), tower)
            return f"validation {in_words('gap', best_validation(folder))}"

        if entry.of:
            self._check_members(cell, folder / ENSEMBLE_FILE)
        else:
            _check_finished(folder, recipe)
            if entry.tower:
                _check_tower(folder, self.experiment.tower_folder(dataset, family, entry.tower, seed))
        done = folder / (ENSEMBLE_FILE if entry.of else WEIGHTS_FILE)
        return Job(f"train {cell}", f"train {cell.model}", done, work, tuple(needs), self._guess(recipe))

    def _take_trial(self, cell: Cell, recipe: Recipe) -> None:
        """The best trial of a search is the first seed's run, trained already."""
        folder = self.experiment.run_folder(cell)
        if (
            cell.dataset is not self.experiment.searched
            or cell.entry.name not in (BASELINE, SEARCHED, cell.entry.searched)
            or folder.exists()
        ):
            return
        search = self.experiment.search(cell.family, cell.entry.name)
        trial = search.folder / Trial(0, search.best()).folder
        if (trial / WEIGHTS_FILE).exists() and RunFolder.load(trial).recipe == recipe:
            copy = trial.with_suffix(".copy")
            shutil.copytree(trial, copy, dirs_exist_ok=True)
            folder.parent.mkdir(parents=True, exist_ok=True)
            copy.rename(folder)

    def _fit(
        self,
        dataset: Source,
        seed: int,
        folder: Path,
        recipe: Recipes,
        tower: RunFolder | None,
        clips: tuple[Dataset, Dataset] | None = None,
    ) -> RunFolder:
        """Train a run on a data set's clips or on others, or continue it; it may be finished."""
        data = self.experiment.data(dataset, seed)
        run = RunFolder(folder, recipe, data.labelling, data.features)
        if not run.trained:
            training, validation = clips or (data.train, data.validation)
            train(run, training, validation, tower=tower, workers=self.workers, console=self.console)
        return run

    # --- measure ------------------------------------------------------------------------------------------------------

    def _evaluate_tower(self, dataset: Source, family: str, kind: str, seed: int, tower: Job) -> Job:
        folder, done = (
            self.experiment.tower_folder(dataset, family, kind, seed),
            self.experiment.tower_figures(dataset, family, kind, seed),
        )

        def work() -> str:
            result = measure_tower(
                RunFolder.load(folder), self.experiment.data(dataset, seed).test, self.console, self.workers
            )
            done.parent.mkdir(exist_ok=True)
            write_json(done, result.to_dict() | {"true": [round(float(p), 4) for p in result.true]})
            return f"AUC {result.figures.auc:.4f}"

        return Job(f"measure {tower.name}", "measure tower", done, work, (tower,))

    def _evaluate(self, cell: Cell, needs: list[Job]) -> Job:
        done, scores = self.experiment.measured(cell), self.experiment.scores(cell)
        if not cell.entry.recipe:
            self._check_members(cell, scores.with_name(ENSEMBLE_FILE))

        def work() -> str:
            truth = Truth.load(self.experiment.truth(cell.dataset, cell.seed))
            data = self.experiment.data(cell.dataset, cell.seed)
            if not scores.exists():
                clips, categories = truth.labels.shape
                save_scores(self._predictions(cell, data), clips, categories, scores)
            drawn, _ = draw_runs(len(truth.ids), self.experiment.scale.test_runs, self.experiment.scale.test_sample)
            gap = measure(scores, truth, data.labelling.taxonomy, drawn, done)
            return f"GAP error {100 * (1 - gap):.2f} %"

        return Job(f"evaluate {cell}", "evaluate", done, work, tuple(needs))

    def _predictions(self, cell: Cell, data: Data) -> Iterator[Predictions]:
        if cell.entry.recipe:
            return Predictor(RunFolder.load(self.experiment.run_folder(cell))).predict(data.test, workers=self.workers)
        members = [RunFolder.load(self.experiment.run_folder(member)) for member in self.experiment.members(cell)]
        path = self.experiment.scores(cell).with_name(ENSEMBLE_FILE)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"fingerprints": [member.fingerprint for member in members]})
        return average(members, data.test, self.workers)

    def _check_members(self, cell: Cell, path: Path) -> None:
        """Raise Error where a finished ensemble averages other runs than its members now."""
        known = read_json(path).get("fingerprints", []) if path.exists() else []
        for member, fingerprint in zip(self.experiment.members(cell), known, strict=False):
            folder = self.experiment.run_folder(member)
            if not (folder / WEIGHTS_FILE).exists() or RunFolder.load(folder).fingerprint != fingerprint:
                raise Error(
                    f"{self.experiment.run_folder(cell)}: was made from another {folder.name} than there is now; "
                    "move it away to make it again"
                )

    def _explain(self, family: str, needs: list[Job]) -> Job:
        """Fig. 1: one clip that the headline model wins against the baseline."""
        headline = Cell(self.experiment.main, family, ENTRIES[HEADLINE], 0)
        done = self.experiment.explained(family)

        def work() -> str:
            truth = Truth.load(self.experiment.truth(self.experiment.main, 0))
            cells = (headline, headline._replace(entry=ENTRIES[BASELINE]))
            predicted = [probabilities(self.experiment.scores(cell)) for cell in cells]
            data = self.experiment.data(self.experiment.main, 0)
            wins = contrasts(predicted[0], predicted[1], truth.labels, data.labelling.taxonomy, 1).wins
            predictor = Predictor(RunFolder.load(self.experiment.run_folder(headline)))
            explanation = explain(predictor, data.test.clip(wins[0] if wins else 0))
            draw_explanation(explanation, done.with_suffix(".png"))
            write_json(done, {"clip": explanation.clip, "categories": explanation.categories})
            return f"clip {explanation.clip}"

        return Job(f"explain {headline}", "explain", done, work, tuple(needs))

    def _guess(self, recipe: Callable[[], Recipes]) -> Callable[[], float]:
        return lambda: seconds(recipe(), self.experiment.shape)


def _check_finished(folder: Path, recipe: Callable[[], Recipes]) -> None:
    """Raise Error where a finished run, of an older version or another search, has another recipe than is due now.

    A table with both would compare models that are not comparable.
    """
    if not (folder / WEIGHTS_FILE).exists():
        return
    stored = flat(asdict(RunFolder.load(folder).recipe))
    for name, value in flat(asdict(recipe())).items():
        if stored.get(name) != value:
            raise Error(
                f"{folder}: was trained with {name} {stored.get(name)}, and would be with {value} now; "
                "move it away to train it again"
            )


def _check_tower(folder: Path, tower: Path) -> None:
    """Raise Error where a finished run uses another tower than the experiment's."""
    files = [of / WEIGHTS_FILE for of in (folder, folder / TOWER_FOLDER, tower)]
    if all(path.exists() for path in files) and digest(load_file(files[1])) != digest(load_file(files[2])):
        raise Error(f"{folder}: uses another tower than {tower}; move it away to train it again")


def seconds(recipe: Recipe | TowerRecipe, shape: Shape) -> float:
    """About how long a recipe's training takes if it stops no sooner: the faster of two timed steps, times all."""
    tower = CONSTANT.build(shape.sizes)
    model = recipe.build(shape.sizes, shape.categories, tower, components=shape.components)
    batch = min(recipe.training.batch_size, shape.clips["train"])
    steps = min(shape.steps, recipe.max_steps)
    mask = torch.ones(batch, steps, dtype=torch.bool)
    codes = {name: torch.randint(1, 255, (batch, steps, size)).byte() for name, size in shape.sizes.items()}
    tracks = {name: Track(features, mask) for name, features in codes.items()}
    times = []
    for _ in range(2):
        started = time.perf_counter()
        if isinstance(model, Tower):
            loss = torch.stack([vector.sum() for vector in model.embed(tracks).values()]).sum()
        else:
            loss = model(tracks).logits.sum()
        loss.backward()
        times.append(time.perf_counter() - started)
    # Validation clips cost a forward pass, about a third of a step; reading them is left out.
    clips = shape.clips["train"] + shape.clips["validation"] / 3
    return min(times) * ceil(clips / batch) * recipe.training.max_epochs
