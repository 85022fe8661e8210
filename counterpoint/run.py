"""A run's folder: everything about one training, and all that is needed to use its model elsewhere.

=======================  ==============================================================
``recipe.json``          the recipe: every field, and the class of each part
``taxonomy/``            the categories and the label mapping
``features.json``        which features the model reads
``weights.safetensors``  the best model of the training, by its validation figure
``tower/``               a run of its own: the correlation tower that the model reads, if it does
``data.json``            the clips it was trained and validated on: how many, and their shards
``environment.json``     versions, hardware and command
``trained-on.npz``       digests of the training clips' ids and features, by which copies in other data are found
``untrained.json``       the ids of categories that no training clip had, so that they are no answers
``kept.json``            the epoch that was kept, and its validation figures
``reliability.json``     calibration and thresholds, where they were fitted; with ``references.npy``, the hidden
                         features of training clips that an input is compared with
``auc.json``             of a correlation tower: its validation AUC, with its interval
``epochs.csv``           loss and metrics of each epoch; the same for TensorBoard in ``tensorboard/``
``checkpoints/``         the state from which an interrupted training goes on
``evaluation/``          the results of `counterpoint evaluate` and `counterpoint tower`
``.lock``                locked while a process trains there
``survey/``              the model's answers for clips that were browsed, by data set
=======================  ==============================================================
"""

import dataclasses
import hashlib
import io
import json
import platform
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, reduce
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from counterpoint.data.copies import Digests
from counterpoint.data.features import FeatureSet
from counterpoint.errors import UNREADABLE, Error, redacted
from counterpoint.files import FILMS, cache_folder, check_regular, replacing, write_text
from counterpoint.models.categorizer import Categorizer
from counterpoint.models.correlation import Tower
from counterpoint.recipes import AnyRecipe, Recipe, from_json, identity, largest, to_json
from counterpoint.reliability import (
    REFERENCES_FILE,
    RELIABILITY_FILE,
    TOWER_RELIABILITY_FILE,
    Reliability,
    TowerReliability,
    unit,
)
from counterpoint.taxonomy import Labelling, load

RECIPE_FILE = "recipe.json"
WEIGHTS_FILE = "weights.safetensors"
ENVIRONMENT_FILE = "environment.json"
DATA_FILE = "data.json"
KEPT_FILE = "kept.json"
TRAINED_ON_FILE = "trained-on.npz"
UNTRAINED_FILE = "untrained.json"
LOCK_FILE = ".lock"
TAXONOMY_FOLDER = "taxonomy"
TOWER_FOLDER = "tower"
DIGEST = "sha256"  # of the weights, in their file
PREDICTED = 0.5  # the threshold of a category for which none was fitted
TOWER_PREFIX = "tower."  # of a categorizer's weights
SHIPPED = Path(__file__).with_name("shipped")
"""Run folders that come with the package, by name; each has a model card, ``README.md``."""


@dataclass(frozen=True)
class RunFolder:
    """A run folder, without the weights; `model` reads those."""

    folder: Path
    recipe: AnyRecipe
    labelling: Labelling
    features: FeatureSet

    def save(self) -> None:
        """Write everything but the weights, making the folder where needed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / RECIPE_FILE, to_json(self.recipe))
        write_json(self.folder / ENVIRONMENT_FILE, environment())
        self.labelling.save(self.folder / TAXONOMY_FOLDER)
        self.features.save(self.folder)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a run folder, or one that comes with the package by its name; a run folder of that name comes first.

        Raises:
            Error: it is not one, or a file of it cannot be read.
        """
        if not (Path(folder) / RECIPE_FILE).exists() and (SHIPPED / folder / RECIPE_FILE).exists():
            folder = SHIPPED / folder
        folder = Path(folder)
        path = folder / RECIPE_FILE
        if not path.exists():
            data = _is_film(folder) or any(path.suffix == ".tfrecord" or _is_film(path) for path in folder.glob("*"))
            hint = "it is data, and the run is named before it" if data else "`counterpoint train` makes one"
            raise Error(f"{folder}: not a run folder (no {RECIPE_FILE}); {hint}")
        check_regular(path)
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            recipe = from_json(stored)
        except UNREADABLE as error:
            raise Error(f"{path}: not a recipe of this version ({error!r})") from error
        except Error as error:
            raise Error(f"{path}: not a recipe of this version ({error})") from error
        features = FeatureSet.load(folder)
        return cls(folder, recipe, load(folder / TAXONOMY_FOLDER), features)

    @property
    def trained(self) -> bool:
        """Whether the training has ended."""
        return (self.folder / WEIGHTS_FILE).exists()

    def check_trained(self) -> None:
        """Raise Error where the training has not ended."""
        if not self.trained:
            raise Error(f"{self.folder}: training has not ended; run the same `counterpoint train` again")

    @property
    def trained_on(self) -> Digests | None:
        """The training clips' digests; None where the run has none.

        Raises:
            Error: their file cannot be read.
        """
        path = self.folder / TRAINED_ON_FILE
        return Digests.load(path) if path.exists() else None

    @property
    def fingerprint(self) -> str:
        """A digest of the model: recipe, categories, features, weights and calibration, a tower's too."""
        digest = hashlib.sha256(json.dumps(identity(self.recipe), sort_keys=True).encode())
        digest.update(f"{self.labelling.taxonomy.fingerprint} {self.features.fingerprint}".encode())
        for folder in (self.folder, self.folder / TOWER_FOLDER):
            for name in (WEIGHTS_FILE, RELIABILITY_FILE):
                if (folder / name).exists():
                    with (folder / name).open("rb") as file:
                        digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()[:16]

    @property
    def findings(self) -> Path:
        """The folder for results of the run: its own; in the cache if the run came with the package."""
        shipped = self.folder.is_relative_to(SHIPPED)
        return cache_folder() / "shipped" / self.folder.relative_to(SHIPPED) if shipped else self.folder

    @cached_property
    def reliability(self) -> Reliability | None:
        """Calibration and thresholds, where they were fitted.

        Raises:
            Error: their file cannot be read, or is not about this run's categories.
        """
        path = self.folder / RELIABILITY_FILE
        if not path.exists():
            return None
        stored = read_json(path)
        try:
            found = Reliability(**stored | {name: tuple(map(float, stored[name])) for name in ("bias", "thresholds")})
            if not len(found.bias) == len(found.thresholds) == len(self.labelling.taxonomy):
                raise ValueError(f"{len(found.bias)} categories, and the taxonomy has {len(self.labelling.taxonomy)}")
        except (KeyError, TypeError, ValueError) as error:
            raise Error(f"{path}: not the reliability of this run ({error})") from error
        return found

    @cached_property
    def thresholds(self) -> Float[np.ndarray, "category"]:
        """The probability from which on each category is an answer.

        0.5 where none was fitted; infinity for a category that was never trained, which is no answer at all.
        """
        found = self.reliability.thresholds if self.reliability else [PREDICTED] * len(self.labelling.taxonomy)
        untrained = np.isin(self.labelling.taxonomy.ids, list(self.untrained))
        return np.where(untrained, np.inf, found)

    @cached_property
    def untrained(self) -> frozenset[str]:
        """The ids of categories that no training clip had, where that is known.

        Raises:
            Error: their file cannot be read.
        """
        path = self.folder / UNTRAINED_FILE
        return frozenset(map(str, read_json(path)["categories"])) if path.exists() else frozenset()

    def save_untrained(self, categories: Iterable[str]) -> None:
        """Write which categories, by id, no training clip had."""
        write_json(self.folder / UNTRAINED_FILE, {"categories": sorted(categories)})
        for name in ("untrained", "thresholds"):  # read anew when next needed
            vars(self).pop(name, None)

    def ranked(self, probabilities: Float[np.ndarray, "category"]) -> Int[np.ndarray, "answer"]:
        """The numbers of the categories that may be answers, the most probable first; see `Taxonomy.ranked`."""
        order = self.labelling.taxonomy.ranked(probabilities)
        return np.asarray(order[np.isfinite(self.thresholds[order])])

    @cached_property
    def references(self) -> Float[np.ndarray, "reference hidden"] | None:
        """Hidden features of training clips, each of length 1, which an input is compared with; None without any.

        Raises:
            Error: their file cannot be read.
        """
        path = self.folder / REFERENCES_FILE
        if not path.exists():
            return None
        try:
            return unit(np.load(path, allow_pickle=False))
        except (OSError, ValueError) as error:
            raise Error(f"{path}: cannot be read ({error!s:.100})") from error

    @cached_property
    def tower_reliability(self) -> TowerReliability | None:
        """The AUC of this tower, or of the one that this categorizer reads; None where it is not known.

        Raises:
            Error: its file cannot be read.
        """
        folder = self.folder / TOWER_FOLDER if (self.folder / TOWER_FOLDER).exists() else self.folder
        path = folder / TOWER_RELIABILITY_FILE
        if not path.exists():
            return None
        try:
            return TowerReliability(**read_json(path))
        except TypeError as error:
            raise Error(f"{path}: not a tower's AUC ({error})") from error

    @property
    def chance_tower(self) -> bool:
        """Whether the tower is known to be no better than chance, so that its verdict is not shown."""
        return self.tower_reliability is not None and self.tower_reliability.is_chance

    def save_reliability(
        self, reliability: Reliability, references: Float[np.ndarray, "reference hidden"] | None = None
    ) -> None:
        """Write calibration, thresholds and, where there is something, what inputs are compared with."""
        if references is not None:
            content = io.BytesIO()
            np.save(content, references.astype(np.float16))
            with replacing(self.folder / REFERENCES_FILE) as file:
                file.write(content.getvalue())
        write_json(self.folder / RELIABILITY_FILE, dataclasses.asdict(reliability))
        for name in ("reliability", "references", "thresholds"):  # read anew when next needed
            vars(self).pop(name, None)

    def build(self) -> Categorizer | Tower:
        """The model with fresh weights; its tower has its trained ones."""
        folder = self.folder / TOWER_FOLDER
        tower = RunFolder.load(folder).tower() if folder.exists() else None
        sizes, categories = self.features.sizes, len(self.labelling.taxonomy)
        return self.recipe.build(sizes, categories, tower, components=self.features.components)

    def take_in(self, tower: "RunFolder") -> None:
        """Keep a trained tower's run in this one's folder.

        Raises:
            Error: it is not a trained tower, or not one of this run's features.
        """
        if tower.features != self.features:
            raise Error(f"{tower.folder}: a tower for {tower.features}, not {self.features}")
        model = tower.tower()
        inside = dataclasses.replace(tower, folder=self.folder / TOWER_FOLDER)
        inside.save()
        for name in (ENVIRONMENT_FILE, TOWER_RELIABILITY_FILE, TRAINED_ON_FILE):  # its own training's, not this one's
            if (tower.folder / name).exists():
                shutil.copyfile(tower.folder / name, inside.folder / name)
        inside.save_weights(model)

    def categorizer(self) -> Categorizer:
        """The trained model of a run that categorizes; see `model`."""
        model = self.model()
        if not isinstance(model, Categorizer):
            raise Error(f"{self.folder}: a correlation tower, which names no categories")
        return model

    def tower(self) -> Tower:
        """The trained model of a run that is a correlation tower; see `model`."""
        model = self.model()
        if not isinstance(model, Tower):
            raise Error(f"{self.folder}: a {self.recipe.name} run, not a correlation tower")
        return model

    def model(self) -> Categorizer | Tower:
        """The trained model, in evaluation mode.

        Raises:
            Error: there are no weights, or not those of this recipe.
        """
        path = self.folder / WEIGHTS_FILE
        self.check_trained()
        check_regular(path)
        try:
            stored, expected = load_file(path), _digest_of(path)
            if expected and expected != digest(stored):
                raise ValueError("their checksum does not match: the file is damaged")
            if largest(self.recipe) > sum(tensor.numel() for tensor in stored.values()):
                raise ValueError("its model would be larger")  # and building it could take all memory
            self._check_sizes(stored)
            model = self.build()
            missing, unexpected = model.load_state_dict(renamed(stored), strict=False)
            if strangers := [name for name in (*missing, *unexpected) if not name.startswith(TOWER_PREFIX)]:
                raise ValueError(f"{strangers[0]} is missing or unknown")
        except (OSError, SafetensorError, RuntimeError, ValueError, TypeError) as error:
            first = str(error).partition("\n")[0]
            raise Error(f"{path}: not the weights of this run's recipe ({first})") from error
        return model.eval()

    def _check_sizes(self, stored: dict[str, Tensor]) -> None:
        """Raise ValueError for features and categories that the weights cannot be of: they may be a stranger's, and a
        model that is built for them could take all memory.
        """
        largest_axis = max((size for tensor in stored.values() for size in tensor.shape), default=0)
        read = getattr(self.recipe, "modalities", ()) or self.features.sizes
        sizes = {f"{name} features": size for name, size in self.features.sizes.items() if name in read}
        if isinstance(self.recipe, Recipe):
            sizes["categories"] = len(self.labelling.taxonomy)
        for what, size in sizes.items():
            if size > largest_axis:
                raise ValueError(f"{size:,} {what}, and no weight has more than {largest_axis:,} rows or columns")

    def save_weights(self, model: nn.Module) -> None:
        """Write the weights, whole or not at all; a tower inside has its own run."""
        path = self.folder / WEIGHTS_FILE
        state = {name: t.contiguous() for name, t in model.state_dict().items() if not name.startswith(TOWER_PREFIX)}
        with replacing(path) as file:
            file.write(save(state, {DIGEST: digest(state)}))


def _is_film(path: Path) -> bool:
    return path.suffix.lower() in FILMS


def renamed(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights by their names of today; version 0.1 called some parts otherwise."""
    names = {".weighers.": ".attention_modules.", ".inlets.": ".conditionings."}
    return {reduce(lambda name, old: name.replace(old, names[old]), names, name): t for name, t in stored.items()}


def digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of the tensors by name."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _digest_of(path: Path) -> str | None:
    """The digest that a weights file carries; older ones have none."""
    with safe_open(path, "pt") as file:
        return (file.metadata() or {}).get(DIGEST)


def environment() -> dict[str, Any]:
    """Versions, hardware and command: what a result depends on beside recipe and data."""
    import lightning

    from counterpoint import __version__

    return {
        "counterpoint": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "command": [*map(redacted, sys.argv)],
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote.

    Raises:
        Error: it cannot be read, or is no longer JSON with names in it.
    """
    check_regular(path)
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return {**stored}
    except UNREADABLE as error:
        raise Error(f"{path}: cannot be read ({error!s:.100})") from error


def write_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")
