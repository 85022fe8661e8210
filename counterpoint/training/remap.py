"""A trained model's move to an edited taxonomy: the weights of the categories that survive stay as they are.

Only the head's last map depends on the categories: it has a row for each, and the rows are moved. A correlation tower
has no categories and is copied. A category survives by its id, whatever its name and parent.

No probability may exceed its parent's, so a new category above survivors must not lower theirs: it begins as probable
as its nearest surviving ancestor, or certain where it has none. Other new categories begin rare, as in an untrained
head.
"""

import dataclasses
import math
import shutil
from pathlib import Path

import torch

from counterpoint.errors import Error
from counterpoint.files import check_output_folder
from counterpoint.models.categorizer import Categorizer
from counterpoint.models.correlation import Tower
from counterpoint.reliability import Reliability
from counterpoint.run import (
    DATA_FILE,
    PREDICTED,
    RECIPE_FILE,
    TOWER_FOLDER,
    TOWER_PREFIX,
    TRAINED_ON_FILE,
    WEIGHTS_FILE,
    RunFolder,
)
from counterpoint.taxonomy import Labelling, Taxonomy
from counterpoint.taxonomy.compare import Diff, diff

CERTAIN = 20.0
"""A logit whose probability is one in 32 bits, nearly."""


def remap(run: RunFolder, labelling: Labelling, folder: Path) -> Diff:
    """Write a trained run into another folder, moved to another taxonomy.

    Args:
        run: the trained run.
        labelling: the taxonomy to move it to, with its label mapping.
        folder: absent or empty, and not in the run's own.

    Returns:
        The changes. The weights of the categories in ``added`` are untrained: placeholders, until another run is
        trained.

    Raises:
        Error: the run is not trained, the folder holds something, or no category survives.
    """
    if any((folder / name).exists() for name in (WEIGHTS_FILE, DATA_FILE)):  # a training begins with the second
        raise Error(f"{folder}: holds a run already; choose another --out")
    check_output_folder(folder, RECIPE_FILE)  # which is all that an interrupted call left
    if folder.resolve().is_relative_to(run.folder.resolve()):
        raise Error(f"{folder}: is in the run's own folder; choose another --out")
    model = run.model()
    changes = diff(run.labelling, labelling)
    old, new = run.labelling.taxonomy, labelling.taxonomy
    if len(changes.removed) == len(old):
        raise Error(f"{run.folder}: no category of its taxonomy is in the new one; ids are what is compared")
    moved = dataclasses.replace(run, folder=folder, labelling=labelling)
    moved.save()
    if (run.folder / TOWER_FOLDER).exists():
        moved.take_in(RunFolder.load(run.folder / TOWER_FOLDER))
    if isinstance(model, Categorizer):
        for network in model.head.networks.values():
            last = network[-1]
            assert isinstance(last, torch.nn.Linear)
            network[-1] = _remapped(last, old, new)
    moved.save_weights(model)
    moved.save_untrained({change.what for change in changes.added} | (run.untrained & set(new.ids)))
    if run.reliability is not None and run.references is not None:
        moved.save_reliability(_moved(run.reliability, old, new), run.references)
    if (run.folder / TRAINED_ON_FILE).exists():
        shutil.copyfile(run.folder / TRAINED_ON_FILE, folder / TRAINED_ON_FILE)
    return changes


def _moved(reliability: Reliability, old: Taxonomy, new: Taxonomy) -> Reliability:
    """Calibration and thresholds of the categories that survive; new ones have none."""
    rows = {category: i for i, category in enumerate(old.ids)}
    at = [rows.get(category) for category in new.ids]
    bias = tuple(0.0 if i is None else reliability.bias[i] for i in at)
    above = tuple(PREDICTED if i is None else reliability.thresholds[i] for i in at)
    return dataclasses.replace(reliability, bias=bias, thresholds=above)


def start_from(model: Categorizer | Tower, run: RunFolder, taxonomy: Taxonomy) -> None:
    """Give a new model a trained run's weights; of its categories those that survive, new ones stay as drawn.

    Raises:
        Error: the run's model has other parts or sizes.
    """
    before = run.model()
    weights = {name: tensor for name, tensor in before.state_dict().items() if not name.startswith(TOWER_PREFIX)}
    own = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(TOWER_PREFIX)}
    if isinstance(model, Categorizer) and isinstance(before, Categorizer):
        lasts = [f"head.{place}.{len(network) - 1}" for place, network in before.head.networks.items()]
        rows = {category: i for i, category in enumerate(run.labelling.taxonomy.ids)}
        here = [i for i, category in enumerate(taxonomy.ids) if category in rows]
        there = [rows[taxonomy.ids[i]] for i in here]
        for name in (f"{last}.{part}" for last in lasts for part in ("weight", "bias")):
            if name in own and name in weights and own[name].shape[1:] == weights[name].shape[1:]:
                moved = own[name].clone()
                moved[here] = weights[name][there]
                weights[name] = moved
    for name in sorted(own.keys() | weights.keys()):
        if name not in own or name not in weights or own[name].shape != weights[name].shape:
            raise Error(
                f"{run.folder}: its {run.recipe.name} has another {name} than the model to train; change fields of its "
                "training alone, and keep its features"
            )
    model.load_state_dict(weights, strict=False)


def _remapped(last: torch.nn.Linear, old: Taxonomy, new: Taxonomy) -> torch.nn.Linear:
    """The head's last map, (old category, feature), with the rows of the new categories."""
    result = torch.nn.Linear(last.in_features, len(new), dtype=last.weight.dtype)
    rows = {category: i for i, category in enumerate(old.ids)}
    with torch.no_grad():
        result.weight.zero_()
        result.bias.fill_(-math.log(max(len(new) - 1, 1)))
        for i, category in enumerate(new.ids):
            source = category
            if category not in rows and any(new.ids[j] in rows for j in new.descendants(i)):
                source = next((new.ids[j] for j in new.ancestors(i) if new.ids[j] in rows), "")
                result.bias[i] = CERTAIN
            if source in rows:
                result.weight[i] = last.weight[rows[source]]
                result.bias[i] = last.bias[rows[source]]
    return result
