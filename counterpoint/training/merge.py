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
from counterpoint.models.heads import MLPHead
from counterpoint.models.mean import MeanFamily
from counterpoint.predict import Predictor, batches, consistent
from counterpoint.recipes import Recipe
from counterpoint.reliability import Reliability, calibrate, thresholds
from counterpoint.run import RECIPE_FILE, TRAINED_ON_FILE, RunFolder
from counterpoint.training.distill import check_alike

LINEAR, NORM, LAST = 1, 2, -1  # places in `MLPHead`'s network


def merge(runs: Sequence[RunFolder], out: Path) -> RunFolder:
    """Write the mean of plain networks as one run; its logits are the mean of theirs.

    Args:
        runs: trained runs of ``mean-mlp`` recipes that differ in seed and training alone.
        out: the run folder to write.

    Raises:
        Error: there are not two runs, their recipes, taxonomies or features differ, or they are no plain networks.
    """
    if len(runs) < 2:
        raise Error("a merged model needs two runs or more")
    check_output_folder(out, RECIPE_FILE)
    check_alike(runs)
    first = runs[0].recipe
    assert isinstance(first, Recipe)
    for run in runs:
        assert isinstance(run.recipe, Recipe)
        if not isinstance(run.recipe.family, MeanFamily) or not isinstance(run.recipe.head, MLPHead):
            raise Error(f"{run.folder}: a {run.recipe.name}, and only mean-mlp runs can be merged; leave --merge out")
        if dataclasses.replace(run.recipe, training=first.training) != first:
            raise Error(f"{run.folder}: has another recipe than {runs[0].folder}; merge those that differ in training")
    head = first.head
    assert isinstance(head, MLPHead)
    count = len(runs)
    recipe = dataclasses.replace(
        first, head=dataclasses.replace(head, hidden=count * head.hidden, groups=count * head.groups)
    )
    result = RunFolder(out, recipe, runs[0].labelling, runs[0].features)
    model, members = result.build(), [run.categorizer() for run in runs]
    assert isinstance(model, Categorizer)
    _check_reading(runs, members)
    with torch.no_grad():
        model.trunk.load_state_dict(members[0].trunk.state_dict())
        for place in (LINEAR, NORM):
            for name in ("weight", "bias"):
                parts = [getattr(member.head.network[place], name) for member in members]
                getattr(model.head.network[place], name).copy_(torch.cat(parts))
        own, *last = (_last(each) for each in (model, *members))
        own.weight.copy_(torch.cat([layer.weight for layer in last], 1) / count)
        own.bias.copy_(torch.stack([layer.bias for layer in last]).mean(0))
    result.save()
    untrained = set(runs[0].untrained).intersection(*(run.untrained for run in runs))
    if untrained:
        result.save_untrained(untrained)
    if (digests := runs[0].trained_on) is not None:
        digests.save(out / TRAINED_ON_FILE)
    result.save_weights(model)
    return result


def _last(model: Categorizer) -> nn.Linear:
    last = model.head.network[LAST]
    assert isinstance(last, nn.Linear)
    return last


def _check_reading(runs: Sequence[RunFolder], members: Sequence[Categorizer]) -> None:
    """Raise Error where networks standardize features differently: they were trained on other clips."""
    first = members[0].trunk.state_dict()
    for run, member in zip(runs, members, strict=True):
        own = member.trunk.state_dict()
        if any(not torch.equal(own[name], first[name]) for name in first):
            raise Error(f"{run.folder}: was trained on other clips than {runs[0].folder}; merge runs of the same clips")


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
