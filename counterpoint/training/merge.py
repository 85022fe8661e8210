"""Several plain networks as one: their mean, without any training.

A network with one hidden layer is ``V r(n(W x))``, r being the ReLU and n its own normalization. The mean over networks
is one such network again: hidden layers side by side, each normalized by itself, and output maps side by side, divided
by the number of networks. So an ensemble costs no second training, and is one run like any other.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from counterpoint.data.dataset import Dataset
from counterpoint.errors import Error
from counterpoint.files import check_output_folder
from counterpoint.models.categorizer import Categorizer
from counterpoint.models.heads import Head, JoinedHead, MLPAndResidualHead, MLPHead, ResidualHead
from counterpoint.models.mean import MeanFamily
from counterpoint.predict import Predictor, batches, consistent
from counterpoint.recipes import Recipe
from counterpoint.reliability import Reliability, calibrate, thresholds
from counterpoint.run import RECIPE_FILE, TRAINED_ON_FILE, RunFolder
from counterpoint.training.distill import check_alike

LINEAR, NORM, LAST = 1, 2, -1  # places in `MLPHead`'s network


def merge(runs: Sequence[RunFolder], out: Path, tower: RunFolder | None = None) -> RunFolder:
    """Write the mean of plain networks as one run; its logits are the mean of theirs.

    Args:
        runs: trained runs of ``mean-mlp`` recipes that differ in seed and training alone. One of ``mean-residual`` may
            be among them: its logits then count as much as those of all others together.
        out: the run folder to write.
        tower: a correlation tower to keep in it: no category depends on it, and its verdict stands beside them.

    Raises:
        Error: there are not two runs, their recipes, taxonomies or features differ, or they are no plain networks.
    """
    if len(runs) < 2:
        raise Error("a merged model needs two runs or more")
    check_output_folder(out, RECIPE_FILE)
    check_alike(runs)
    plain = [run for run in runs if isinstance(_recipe(run).head, MLPHead)]
    residual = [run for run in runs if isinstance(_recipe(run).head, ResidualHead)]
    for run in runs:
        if not isinstance(_recipe(run).family, MeanFamily) or run not in (*plain, *residual):
            raise Error(f"{run.folder}: a {run.recipe.name}, and only mean-mlp runs can be merged; leave --merge out")
    if len(residual) > 1 or not plain:
        raise Error(f"{residual[-1].folder}: beside mean-mlp runs one mean-residual run can be merged, no more")
    first = _recipe(plain[0])
    for run in runs:
        if dataclasses.replace(_recipe(run), name=first.name, training=first.training, head=first.head) != first or (
            run in plain and _recipe(run).head != first.head
        ):
            raise Error(f"{run.folder}: has another recipe than {plain[0].folder}; merge those that differ in training")
    members = [(str(run.folder), run.categorizer()) for run in (*plain, *residual)]
    _check_reading(members)
    head = first.head
    assert isinstance(head, MLPHead)
    wide = dataclasses.replace(head, hidden=len(plain) * head.hidden, groups=len(plain) * head.groups)
    recipe = dataclasses.replace(first, head=wide)
    if residual:
        other = _recipe(residual[0]).head
        assert isinstance(other, ResidualHead)
        recipe = dataclasses.replace(
            first, name="mean-joined", head=MLPAndResidualHead(mlp=wide, residual=other), training=first.training
        )
    result = RunFolder(out, recipe, runs[0].labelling, runs[0].features)
    model = result.build()
    assert isinstance(model, Categorizer)
    networks = [each.head for _, each in members]
    with torch.no_grad():
        model.trunk.load_state_dict(members[0][1].trunk.state_dict())
        if isinstance(model.head, JoinedHead):
            _join(model.head.one, networks[: len(plain)])
            model.head.other.load_state_dict(networks[-1].state_dict())
        else:
            _join(model.head, networks)
    result.save()
    if untrained := set(runs[0].untrained).intersection(*(run.untrained for run in runs)):
        result.save_untrained(untrained)
    if (digests := runs[0].trained_on) is not None:
        digests.save(out / TRAINED_ON_FILE)
    if tower is not None:
        result.take_in(tower)
    result.save_weights(model)
    return result


def _recipe(run: RunFolder) -> Recipe:
    assert isinstance(run.recipe, Recipe)
    return run.recipe


def _join(joined: Head, heads: Sequence[Head]) -> None:
    """Put networks side by side into one."""
    for place in (LINEAR, NORM):
        for name in ("weight", "bias"):
            parts = [getattr(head.network[place], name) for head in heads]
            getattr(joined.network[place], name).copy_(torch.cat(parts))
    own, *last = (_last(head) for head in (joined, *heads))
    own.weight.copy_(torch.cat([layer.weight for layer in last], 1) / len(last))
    own.bias.copy_(torch.stack([layer.bias for layer in last]).mean(0))


def _last(head: Head) -> nn.Linear:
    last = head.network[LAST]
    assert isinstance(last, nn.Linear)
    return last


def _check_reading(members: Sequence[tuple[str, Categorizer]]) -> None:
    """Raise Error where networks standardize features differently: they were trained on other clips."""
    (where, first), *others = members
    state = first.trunk.state_dict()
    for folder, member in others:
        own = member.trunk.state_dict()
        if any(not torch.equal(own[name], state[name]) for name in state):
            raise Error(f"{folder}: was trained on other clips than {where}; merge runs of the same clips")


def fit_reliability(run: RunFolder, data: Dataset, workers: int = 0) -> Reliability:
    """Calibrate a run's probabilities, and fit a threshold for each category, on clips that it was not trained on.

    Nothing is kept to find clips unlike the training clips by; `counterpoint.learning` does that.
    """
    predictor = Predictor(run)
    logits, labels = [], []
    for batch in batches(run, data, workers=workers):
        logits.append(predictor.forward(batch.tracks).logits[: len(batch.ids)].float().cpu().numpy())
        labels.append(batch.labels[: len(batch.ids)].numpy() > 0)
    scores, truth = np.concatenate(logits), np.concatenate(labels)
    slope, bias = calibrate(scores, truth)
    probabilities = consistent(run, 1 / (1 + np.exp(-(scores.astype(np.float64) * slope + bias))))
    above = thresholds(probabilities, truth)
    return Reliability(slope, tuple(bias.tolist()), tuple(above.tolist()), 0.0, 0.0, len(truth))
