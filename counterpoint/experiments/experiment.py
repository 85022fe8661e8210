"""A suite at a scale, in a folder: what is compared, by which recipes, and where everything is kept.

==============================================  ==================================================================
``suite.json``                                  the settings; what would change runs may not differ the next time
``jobs.jsonl``                                  how long each job took, and the commit that it ran at
``worlds/DATASET``                              shards that were made, and ``test.npz``: the test clips' ids and labels
``search/FAMILY-l``, ``search/FAMILY-cm``       trials, and Optuna's storage
``towers/DATASET/...``, ``runs/DATASET/...``    run folders, each with its ``evaluation/``
``report.html``, ``report.md``, ``report.json``  see `counterpoint.experiments.report`
==============================================  ==================================================================
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

from counterpoint.data.inspect import find_shards
from counterpoint.errors import Error
from counterpoint.experiments.datasets import Data, Inputs, Shape, Source
from counterpoint.experiments.paper import BASELINE, ENTRIES, HEADLINE, SEARCHED, Entry
from counterpoint.experiments.predictions import SCORES_FILE
from counterpoint.experiments.search import Search, matched, parameters
from counterpoint.experiments.suites import Scale, Suite, settings_of
from counterpoint.files import check_output_folder
from counterpoint.recipes import CONSTANT, FAMILIES, RECIPES, TOWER_RECIPES, Recipe, TowerRecipe, check
from counterpoint.run import read_json, write_json

SUITE_FILE = "suite.json"
GROWING = (
    *("families", "models", "datasets", "seeds", "control_seeds"),
    *("negative_weights", "test_runs", "test_sample", "resamples"),
)
"""Settings that may differ when a command goes on in the same folder, since runs stay what they are."""
RENAMED = {"scale.worlds": "scale.datasets"}  # settings of experiments of version 0.1


class Cell(NamedTuple):
    """One run of a comparison."""

    dataset: Source
    family: str
    entry: Entry
    seed: int

    def __str__(self) -> str:
        return f"{self.dataset.name} {self.model} seed {self.seed}"

    @property
    def model(self) -> str:
        """Its name in folders and jobs; a plain network's run is that of all families."""
        return self.entry.name if self.entry.plain else f"{self.family}-{self.entry.name}"


@dataclass(frozen=True, eq=False)
class Experiment:
    """A suite at a scale, in a folder; see the module."""

    suite: Suite
    scale: Scale
    inputs: Inputs
    folder: Path
    opened: dict[Path, Data] = field(default_factory=dict, repr=False)

    def check(self) -> None:
        """Raise Error for what cannot be done, which would fail after hours otherwise."""
        known = (("families", FAMILIES), ("models", ENTRIES), ("datasets", [each.name for each in self.suite.datasets]))
        for setting, names in known:
            if unknown := set(getattr(self.scale, setting)) - set(names):
                raise Error(f"--{setting}: no {unknown.pop()!r}; there are {', '.join(names)}")
        for name in self.scale.models:
            if missing := set(ENTRIES[name].of) - set(self.scale.models):
                raise Error(f"{name} is made of {', '.join(sorted(missing))} too: add that to --models")
        if unknown := self.scale.clips.keys() - set(Data._fields):
            raise Error(f"--clips: no split {unknown.pop()!r}; there are train, validation and test")
        if unknown := self.scale.grid.keys() - set(FAMILIES):
            raise Error(f"--grid: no family {unknown.pop()!r}; there are {', '.join(FAMILIES)}")
        _ = self.shape  # names what is wrong with the data
        for family in self.scale.families:
            for name, values in self.scale.grid.get(family, {}).items():
                for value in values:
                    try:
                        self.count(self.recipe(family, ENTRIES[BASELINE], 0, {}).with_({name: value}), family)
                    except (Error, ValueError, TypeError, LookupError, RuntimeError) as error:
                        raise Error(f"--grid: {name} of {family} may not be {value!r}: {error}") from error
            for entry in self.entries(self.main):
                if entry.recipe:
                    self.count(self.recipe(family, replace(entry, like=""), 0), family)
        kinds = [entry.tower for entry in self.entries(self.main) if entry.tower] + self.further_towers()
        if kinds and len(self.shape.sizes) < 2:
            raise Error(
                f"a correlation tower compares two modalities, and the clips have {', '.join(self.shape.sizes)} alone; "
                "name --models without towers, and --negative-weights without any"
            )
        for family in self.scale.families:
            for kind in kinds:
                check(self.tower_recipe(family, kind, 0))

    def save(self) -> None:
        """Keep the settings.

        Raises:
            Error: the folder holds an experiment whose runs would be others.
        """
        path = self.folder / SUITE_FILE
        # Shards and taxonomy by their content, not by their place.
        inputs = asdict(self.inputs) | {"shards": {split: _named(of) for split, of in self.inputs.shards.items()}}
        if self.inputs.taxonomy:
            labelling = self.inputs.labelling()
            inputs["taxonomy"] = f"{labelling.taxonomy.fingerprint}, labels {labelling.labels.fingerprint}"
        settings = {"suite": self.suite.name, "scale": asdict(self.scale), "inputs": inputs}
        settings = json.loads(json.dumps(settings))
        check_output_folder(self.folder, SUITE_FILE)
        if path.exists():
            stored = {RENAMED.get(name, name): value for name, value in flat(read_json(path)).items()}
            for name, value in flat(settings).items():
                before = stored.get(name)
                if value != before and name.partition(".")[2] not in GROWING:
                    raise Error(
                        f"{self.folder}: holds an experiment with {name.rpartition('.')[2]} {before}, not {value}; "
                        "choose another --out, or remove it"
                    )
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(path, settings)

    # --- what is compared ---------------------------------------------------------------------------------------------

    @property
    def datasets(self) -> list[Source]:
        """The data sets that are compared."""
        chosen = self.scale.datasets
        return [source for source in self.suite.datasets if not chosen or source.name in chosen]

    @property
    def main(self) -> Source:
        """The data set that is compared in full."""
        return self.datasets[0]

    @property
    def searched(self) -> Source:
        """The data set on which architectures are searched, also where it is not compared."""
        return self.suite.datasets[0]

    def entries(self, dataset: Source) -> list[Entry]:
        """The models of a data set."""
        further = dataset is not self.main
        names = [name for name in ENTRIES if name in self.scale.models and (not further or name in self.suite.further)]
        entries = [self.suite.entry(name) for name in names]
        # Seeds are averaged where there are enough of them, all of the same clips.
        return [entry for entry in entries if entry.seeds <= (1 if dataset.redrawn else self.scale.seeds)]

    def cells(self) -> list[Cell]:
        """All runs, seed by seed, so that early reports have every model; ensembles after their members."""
        cells = [
            Cell(dataset, family, entry, seed)
            for seed in range(self.scale.seeds)
            for dataset in self.datasets
            for family in self.scale.families
            for entry in self.entries(dataset)
            if seed < self.scale.seeds_of(entry)
        ]
        return sorted(cells, key=lambda cell: (self._last_seed(cell), len(cell.entry.of)))

    def _last_seed(self, cell: Cell) -> int:
        return max([cell.seed, *(member.seed for member in self.members(cell))])

    def members(self, cell: Cell) -> list[Cell]:
        """The runs that an ensemble averages: of its seed; of other seeds where a model is named again.

        No two ensembles have a member in common, since they would agree too well.
        """
        names, each = cell.entry.of, cell.entry.seeds
        seeds = [cell.seed * each + names[:i].count(name) for i, name in enumerate(names)]
        return [cell._replace(entry=self.suite.entry(name), seed=seed) for name, seed in zip(names, seeds, strict=True)]

    def place(self, dataset: Source, seed: int) -> Path:
        """A data set's folder."""
        return self.folder / "worlds" / (f"{dataset.name}-seed-{seed}" if dataset.redrawn else dataset.name)

    def run_folder(self, cell: Cell) -> Path:
        return self.folder / "runs" / cell.dataset.name / f"{cell.model}-seed-{cell.seed}"

    def scores(self, cell: Cell) -> Path:
        return self.run_folder(cell) / "evaluation" / SCORES_FILE

    def measured(self, cell: Cell) -> Path:
        """The metrics of a run's test runs."""
        name = f"test-runs-{self.scale.test_runs}-of-{self.scale.test_sample}.json"
        return self.run_folder(cell) / "evaluation" / name

    def truth(self, dataset: Source, seed: int) -> Path:
        return self.place(dataset, seed) / "test.npz"

    def data(self, dataset: Source, seed: int) -> Data:
        """A data set's clips, once it is made."""
        place = self.place(dataset, seed)
        if place not in self.opened:
            self.opened[place] = dataset.open(place, self.inputs)
        return self.opened[place]

    @cached_property
    def shape(self) -> Shape:
        return self.main.shape(self.inputs)

    def further_towers(self) -> list[str]:
        """Kinds of towers that no model uses, of the first family: the paper's joined form, and other weights."""
        usual = TOWER_RECIPES[f"correlation-{self.scale.families[0]}"].negatives.weight
        weights = self.scale.negative_weights
        return ["joined", *(f"weight-{weight:g}" for weight in weights if weight != usual)] if weights else []

    def tower_folder(self, dataset: Source, family: str, kind: str, seed: int) -> Path:
        family = "mean" if kind.startswith("seconds") else self.suite.tower_family_of(family)
        return self.folder / "towers" / dataset.name / f"{family}-{kind}-seed-{seed}"

    def tower_figures(self, dataset: Source, family: str, kind: str, seed: int) -> Path:
        """The figures of `counterpoint.evaluation.tower.measure`."""
        return self.tower_folder(dataset, family, kind, seed) / "evaluation" / "tower.json"

    def explained(self, family: str) -> Path:
        """One clip's weights over time: which clip, and beside it the picture."""
        return self.run_folder(Cell(self.main, family, self.suite.entry(HEADLINE), 0)) / "evaluation" / "clip.json"

    # --- recipes ------------------------------------------------------------------------------------------------------

    def search(self, family: str, name: str) -> Search:
        """The search of an architecture (``l``), of F (``cm``), or of a plain network, the same for all families."""
        if ENTRIES[name].plain:
            grid = self.suite.grid.get(name, {})
            given = settings_of(RECIPES[name], grid)
            return Search(self.folder / "search" / name, grid, self.scale.trials, given)
        grids = self.suite.grid if name == BASELINE else self.suite.influence
        grid = self.scale.grid.get(family, grids.get(family, {})) if name == BASELINE else grids.get(family, {})
        trials = self.scale.trials if name == BASELINE else self.scale.influence_trials
        recipe = RECIPES[f"{family}-{name}"].with_(self.suite.settings.get(family, {}))
        return Search(self.folder / "search" / f"{family}-{name}", grid, trials, settings_of(recipe, grid))

    def searches(self) -> list[Search]:
        """All that the compared models take their settings from."""
        plain = dict.fromkeys(entry.searched for entry in self.entries(self.main) if entry.plain)
        names = [(family, name) for family in self.scale.families for name in (BASELINE, SEARCHED)]
        return [self.search(*each) for each in [*names, *((self.scale.families[0], name) for name in plain)]]

    def recipe(self, family: str, entry: Entry, seed: int, trial: dict[str, Any] | None = None) -> Recipe:
        """An entry's recipe, with what the searches found; ``trial`` are settings to use instead of the best.

        Of late fusion's settings a baseline, which has other parts, takes those that it has: the training's, the head's
        and, of a Transformer, those of its layers.
        """
        recipe = RECIPES[entry.recipe if entry.baseline or entry.plain else f"{family}-{entry.recipe}"]
        common = {"training.seed": seed, "training.precision": self.scale.precision}
        if entry.plain:
            settings = self.search(family, entry.searched).best() if trial is None else trial
            epochs = min(self.scale.epochs, recipe.training.max_epochs)
            return recipe.with_({**settings, "training.max_epochs": epochs, **common})
        settings = {**self.suite.settings.get(family, {})}
        settings |= self.search(family, BASELINE).best() if trial is None or entry.cross_modal else trial
        if entry.baseline:
            of = {"training", "head", *(f"family.{each}" for each in vars(recipe.family))}
            settings = {name: value for name, value in settings.items() if {name, name.partition(".")[0]} & of}
        if entry.cross_modal:
            settings |= self.search(family, SEARCHED).best() if trial is None else trial
        recipe = recipe.with_({**settings, "training.max_epochs": self.scale.epochs, **common})
        if not entry.like or trial is not None:
            return recipe
        goal = self.count(self.recipe(family, self.suite.entry(entry.like), seed), family)
        try:
            return matched(recipe, goal, partial(self.count, family=family), widths=entry.widths)
        except ValueError as error:
            raise Error(f"{family}: {error}; it cannot be made as large as {entry.like}") from error

    def count(self, recipe: Recipe, family: str) -> int:
        """A recipe's parameters."""
        kind = "seconds" if recipe.fusion.per_second else "trained"
        tower = self.tower_recipe(family, kind, 0) if recipe.needs_tower else None
        return parameters(recipe, self.shape.sizes, self.shape.categories, tower)

    def tower_recipe(self, family: str, kind: str, seed: int) -> TowerRecipe:
        """A tower's recipe: ``trained``, ``random``, ``constant``, ``joined``, or a weight of false pairs."""
        if kind == "constant":
            return CONSTANT.with_({"training.seed": seed})
        if kind.startswith("seconds"):
            recipe = TOWER_RECIPES["correlation-mean" + kind.removeprefix("seconds")]
            epochs = min(self.scale.tower_epochs, recipe.training.max_epochs)
            own = {"training.max_epochs": epochs, "training.seed": seed, "training.precision": self.scale.precision}
            return recipe.with_(own)
        family = self.suite.tower_family_of(family)
        suffix = f"-{kind}" if kind in ("random", "joined") else ""
        recipe = TOWER_RECIPES[f"correlation-{family}{suffix}"]
        settings = {**self.suite.towers.get(family, {}), "training.seed": seed}
        settings |= {"training.precision": self.scale.precision}
        if kind != "random":
            settings["training.max_epochs"] = self.scale.tower_epochs
        if kind == "joined":
            settings.pop("comparison", None)
        if kind.startswith("weight-"):
            settings["negatives.weight"] = float(kind.removeprefix("weight-"))
        return recipe.with_(settings)


def _named(shards: list[str]) -> str:
    """How many shards paths name, and a digest of their names."""
    names = [path.name for path in find_shards(shards)] if shards else []
    return f"{len(names)} ({hashlib.sha256(' '.join(names).encode()).hexdigest()[:8]})"


def flat(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """By dotted name; dictionaries of the deepest level stay whole."""
    found: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, dict) and not prefix:
            found |= flat(value, f"{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found
