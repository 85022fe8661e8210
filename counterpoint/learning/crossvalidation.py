"""Candidates for few clips, and what each answers for clips that it was not trained on.

Every clip is in one fold, and is predicted by a model that was trained on the other folds: out of fold. Copies of a
clip are in one fold, so that no model is asked about what it has seen.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from counterpoint.data.copies import digests
from counterpoint.data.dataset import Dataset
from counterpoint.data.features import FeatureSet
from counterpoint.data.folds import folds
from counterpoint.errors import Error
from counterpoint.files import replacing
from counterpoint.models.categorizer import Categorizer
from counterpoint.predict import Predictor, batches
from counterpoint.recipes import RECIPES, NetVLADFamily, Recipe, to_json
from counterpoint.reliability import calibrate, nearest, unit
from counterpoint.run import DATA_FILE, TRAINED_ON_FILE, RunFolder, write_json
from counterpoint.training import probe
from counterpoint.training.probe import ClipMeans
from counterpoint.training.train import train

PROBE = RECIPES["mean-linear"]
PENALTIES = (1.0, 10.0, 100.0)
BALANCE = 0.5
FEW_FOR_NETWORK = 40  # clips, from which on a network is worth a try
FEW_FOR_ATTENTION = 150
STEPS = 600  # of a network's training, about
STOP_FOLDS = 5  # of the clips that a network is given; it stops by one
LARGE = 1000  # clips, from which on networks are wider and folds fewer
COPY = 0.05  # of the usual distance between neighbours: nearer clips are taken for copies


@dataclass(frozen=True)
class Candidate:
    """A recipe and its answers out of fold.

    Attributes:
        recipe: with the settings that were chosen.
        logits: (clip, category), each by a model that was not trained on the clip or a copy of it.
        hidden: for each fold the features that the head's last map reads, of all clips.
        penalty: of the linear probe; None of a network.
    """

    recipe: Recipe
    logits: Float[np.ndarray, "clip category"]
    hidden: tuple[Float[np.ndarray, "clip hidden"], ...]
    penalty: float | None = None

    def losses(self, labels: Bool[np.ndarray, "clip category"]) -> Float[np.ndarray, "clip"]:
        """Each clip's binary cross-entropy over the categories, after calibration."""
        slope, bias = calibrate(self.logits, labels)
        scores = self.logits * slope + bias
        return np.asarray((np.logaddexp(0, scores) - scores * labels).sum(1))


@dataclass(frozen=True)
class Clips:
    """The clips to learn from, and their folds.

    Attributes:
        data: the clips.
        features: their feature set.
        means: their mean features.
        groups: (clip,) equal for copies of one film.
        fold: (clip,) from 0.
    """

    data: Dataset
    features: FeatureSet
    means: ClipMeans
    groups: Int[np.ndarray, "clip"]
    fold: Int[np.ndarray, "clip"]

    @property
    def labels(self) -> Bool[np.ndarray, "clip category"]:
        """(clip, category)."""
        return self.means.labels

    @property
    def count(self) -> int:
        """How many folds."""
        return int(self.fold.max()) + 1

    @property
    def copies(self) -> list[list[str]]:
        """The ids of clips that are copies of each other."""
        sizes = np.bincount(self.groups)
        return [
            [self.means.ids[i] for i in np.flatnonzero(self.groups == group)] for group in np.flatnonzero(sizes > 1)
        ]

    @cached_property
    def below(self) -> Bool[np.ndarray, "category ancestor"]:
        """Whether the first category is somewhere below the second."""
        taxonomy = self.data.labelling.taxonomy
        below = np.zeros((len(taxonomy), len(taxonomy)), bool)
        for i in range(len(taxonomy)):
            below[i, list(taxonomy.ancestors(i))] = True
        return below

    @cached_property
    def deepest(self) -> Bool[np.ndarray, "clip leaf"]:
        """Which of `leaves` each clip is in, and in none below it."""
        return self._deepest[:, self.leaves]

    @cached_property
    def _deepest(self) -> Bool[np.ndarray, "clip category"]:
        return np.asarray(self.labels & ~(self.labels.astype(int) @ self.below.astype(int) > 0))

    @cached_property
    def leaves(self) -> Int[np.ndarray, "leaf"]:
        """The categories that are the deepest of some clip."""
        return np.flatnonzero(self._deepest.any(0))

    def exact(self, probabilities: Float[np.ndarray, "clip category"]) -> Float[np.ndarray, "clip leaf"]:
        """How probable each of `leaves` is as a clip's deepest category: less the most probable one below it."""
        scores = probabilities[:, self.leaves].copy()
        inside = self.below[np.ix_(self.leaves, self.leaves)]
        for leaf in np.flatnonzero(inside.any(0)):
            scores[:, leaf] -= probabilities[:, self.leaves[inside[:, leaf]]].max(1)
        return scores

    def subset(self, chosen: Int[np.ndarray, "chosen"]) -> Dataset:
        """Some of the clips, by number."""
        ids = {self.means.ids[i] for i in chosen}
        return self.data.only(ids.__contains__)


def read_clips(data: Dataset, where: str, seed: int = 0) -> Clips:
    """Read the clips' mean features, find copies, and share the clips out to folds.

    There are five folds, or fewer where a category has fewer films; three from `LARGE` clips on.

    Args:
        where: for the message of an error.

    Raises:
        Error: see `check_films`; copies of a film count once.
    """
    features = FeatureSet.of(data.paths)
    model = PROBE.build(features.sizes, len(data.labelling.taxonomy), components=features.components)
    means = probe.clip_means(model.trunk.read, data, features, PROBE.max_steps)
    probe.standardize_by(model.trunk.read, means)
    with torch.no_grad():
        groups = _groups(probe.inputs(model.trunk.read, means).numpy())
    films = means.labels[np.unique(groups, return_index=True)[1]].astype(int)  # copies count once
    check_films(films > 0, data.labelling.taxonomy.paths, where)
    rarest = int(films.sum(0)[films.any(0)].min())
    count = max(2, min(3 if len(data) >= LARGE else 5, rarest))
    return Clips(data, features, means, groups, folds(means.labels, groups, count, seed))


def _groups(vectors: Float[np.ndarray, "clip input"]) -> Int[np.ndarray, "clip"]:
    """A number for each clip, equal for clips that lie so near to each other that one must be a copy of the other."""
    groups = np.arange(len(vectors))
    units = unit(vectors)
    distances = nearest(vectors, units, own=True)
    limit = max(COPY * float(np.median(distances)), 1e-6)
    for clip in np.flatnonzero(distances <= limit):
        for other in np.flatnonzero(1 - units @ units[clip] <= limit):
            groups[groups == groups[other]] = groups[clip]
    return np.unique(groups, return_inverse=True)[1]


def candidates(clips: Clips) -> list[tuple[Recipe, str]]:
    """The networks that are worth a try beside the linear probe, each with the reason, the smallest first."""
    count, found = len(clips.data), []
    wide = count >= LARGE
    training = {
        "training.batch_size": (batch := int(2 ** np.clip(round(math.log2(count / 16)), 3, 7))),
        "training.max_epochs": (epochs := int(np.clip(STEPS // math.ceil(count / batch), 8, 40))),
        "training.stop_patience": 5,
        "training.balance": BALANCE,
    }
    what = f"batches of {batch}, at most {epochs} epochs"
    if count >= FEW_FOR_NETWORK:
        hidden = 1024 if wide else 256
        recipe = RECIPES["mean-mlp"].with_(training, **{"head.hidden": hidden})
        found.append((recipe, f"{count:,} clips suffice for a small network ({hidden} hidden features, {what})"))
    some = (clips.data.clip(i).steps for i in range(0, count, max(1, count // 20)))
    if count >= FEW_FOR_ATTENTION and len(clips.features.sizes) > 1 and max(some) > 1:
        clusters = 32 if wide else 8
        family = NetVLADFamily(clusters=dict.fromkeys(clips.features.sizes, clusters), hidden=256)
        read = {"standardize": True, "damping": 20.0, "consistency": "raise"}
        recipe = dataclasses.replace(RECIPES["nv-cm"].with_(read), family=family)
        recipe = recipe.with_(training, **{"training.learning_rate": 1e-3, "head.hidden": 256})
        found.append((recipe, f"{count:,} clips suffice for cross-modal attention ({clusters} clusters, {what})"))
    return found


def cross_validate_probe(clips: Clips, modalities: Sequence[str] = (), share: float = 1.0) -> Candidate:
    """The linear probe's answers out of fold, with the penalty whose answers are the best.

    Args:
        modalities: those that it reads; without, all.
        share: of each fold's training films that are used, for a learning curve.
    """
    recipe = PROBE.with_(modalities=tuple(modalities))
    taxonomy = clips.data.labelling.taxonomy
    model = recipe.build(clips.features.sizes, len(taxonomy), components=clips.features.components)
    read = model.trunk.read
    means = clips.means
    if modalities:
        means = means._replace(features={name: means.features[name] for name in modalities})
    logits = {penalty: np.zeros(clips.labels.shape, np.float32) for penalty in PENALTIES}
    hidden = []
    for fold in range(clips.count):
        chosen = np.flatnonzero(clips.fold != fold)
        if share < 1:
            parts = folds(clips.labels[chosen], clips.groups[chosen], round(1 / share), fold)
            chosen = chosen[parts == 0]
        training = means.take(chosen)
        probe.standardize_by(read, training)
        x = probe.inputs(read, means)
        hidden.append(x.numpy())
        for penalty in PENALTIES:
            weights, bias = probe.solve(x[chosen], training.labels, penalty, BALANCE)
            of_fold = clips.fold == fold
            logits[penalty][of_fold] = (x[of_fold] @ weights.T + bias).numpy()
    found = [Candidate(recipe, logits[penalty], tuple(hidden), penalty) for penalty in PENALTIES]
    return min(found, key=lambda candidate: float(candidate.losses(clips.labels).mean()))


def cross_validate(
    recipe: Recipe, clips: Clips, folder: Path, progress: Callable[[int, int], None] = lambda done, total: None
) -> Candidate:
    """A network's answers out of fold; each fold's model stops by a fifth of the clips that it is given.

    What a fold has given is kept in ``folder``, so that the same call goes on where an interrupted one stopped.
    """
    logits = np.zeros(clips.labels.shape, np.float32)
    hidden = []
    for fold in range(clips.count):
        path = folder / f"{_named(recipe, clips)}-{fold}.npz"
        if not path.exists():
            run = RunFolder(path.with_suffix(""), recipe, clips.data.labelling, clips.features)
            chosen = np.flatnonzero(clips.fold != fold)
            stops = folds(clips.labels[chosen], clips.groups[chosen], STOP_FOLDS, fold) == 0
            with _one_thread():
                if not run.trained:
                    train(run, clips.subset(chosen[~stops]), clips.subset(chosen[stops]))
                _save(path, *_outputs(run, clips.data))
            shutil.rmtree(run.folder)
        with np.load(path) as stored:
            of_fold = clips.fold == fold
            logits[of_fold] = stored["logits"][of_fold]
            hidden.append(stored["hidden"].astype(np.float32))
        progress(fold + 1, clips.count)
    return Candidate(recipe, logits, tuple(hidden))


def _named(recipe: Recipe, clips: Clips) -> str:
    """A name that no other recipe, and no other clips or folds have."""
    key = json.dumps([to_json(recipe), clips.fold.tolist(), clips.data.fingerprint])
    return f"{recipe.name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def _outputs(run: RunFolder, data: Dataset) -> tuple[Float[np.ndarray, "clip category"], Float[np.ndarray, "clip h"]]:
    """A run's logits and hidden features."""
    predictor = Predictor(run)
    logits, hidden = [], []
    for batch in batches(run, data):
        output = predictor.forward(batch.tracks)
        logits.append(output.logits[: len(batch.ids)].float().cpu().numpy())
        hidden.append(output.hidden[: len(batch.ids)].float().cpu().numpy())
    return np.concatenate(logits), np.concatenate(hidden)


def _save(path: Path, logits: Float[np.ndarray, "clip category"], hidden: Float[np.ndarray, "clip hidden"]) -> None:
    content = io.BytesIO()
    np.savez(content, logits=logits, hidden=hidden.astype(np.float16))
    with replacing(path) as file:
        file.write(content.getvalue())


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """For models so small that threads wait for each other longer than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def better(one: Candidate, other: Candidate, labels: Bool[np.ndarray, "clip category"]) -> bool:
    """Whether a larger candidate is better than a smaller one by more than a standard error over the clips."""
    gain = other.losses(labels) - one.losses(labels)
    return bool(gain.mean() > gain.std(ddof=1) / math.sqrt(len(gain)))


def final_run(candidate: Candidate, clips: Clips, folder: Path) -> RunFolder:
    """Train the chosen candidate for use: the probe on all clips, a network on all but a fifth that it stops by."""
    run = RunFolder(
        folder / f"final-{_named(candidate.recipe, clips)}", candidate.recipe, clips.data.labelling, clips.features
    )
    if candidate.penalty is None:
        with _one_thread():
            if not run.trained:
                stops = folds(clips.labels, clips.groups, STOP_FOLDS) == 0
                train(run, clips.subset(np.flatnonzero(~stops)), clips.subset(np.flatnonzero(stops)))
        return run
    if run.folder.exists():
        shutil.rmtree(run.folder)
    run.save()
    model = run.build()
    assert isinstance(model, Categorizer)
    probe.fit(model, clips.means, candidate.penalty, BALANCE)
    if (trained_on := digests(clips.data)) is not None:
        trained_on.save(run.folder / TRAINED_ON_FILE)
    write_json(run.folder / DATA_FILE, {"training": clips.data.contents})
    run.save_weights(model)
    taxonomy = clips.data.labelling.taxonomy
    if missing := {taxonomy.ids[i] for i in np.flatnonzero(~clips.labels.any(0))}:
        run.save_untrained(missing)
    return run


def check_films(labels: Bool[np.ndarray, "clip category"], paths: Sequence[str], where: str) -> None:
    """Raise Error where a category has one film, or all films are in the same categories.

    Args:
        labels: (film, category).
        paths: of the categories.
        where: for the message.
    """
    films = labels.sum(0)
    if not len(labels) or (labels == labels[0]).all():
        named = ", ".join(paths[i] for i in np.flatnonzero(labels[0]).tolist()) if len(labels) else "no category"
        raise Error(
            f"{where}: all {len(labels)} films are in {named}; a model learns to tell categories apart, so give it "
            "films of two categories or more"
        )
    if lone := [paths[i] for i in np.flatnonzero(films == 1).tolist()]:
        shown = ", ".join(lone[:5]) + (f" and {len(lone) - 5} more" if len(lone) > 5 else "")
        raise Error(
            f"{where}: one film alone is in {shown}; a category needs two or more, one to learn from and one to check: "
            "add films, or move it to another category"
        )
