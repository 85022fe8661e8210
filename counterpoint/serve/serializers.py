"""Results -> answers: what the library finds, in the words of the API."""

from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float

from counterpoint.data.clip import Clip
from counterpoint.data.dataset import Dataset
from counterpoint.explain import Timeline, explain
from counterpoint.predict import Predictor
from counterpoint.run import RunFolder
from counterpoint.serve import answers
from counterpoint.serve.encoding import CLIP, thumbnail
from counterpoint.serve.jobs import Job
from counterpoint.taxonomy import Taxonomy

ATTENDED = 6  # seconds of each modality
DIGITS = 5


def identity(run: RunFolder) -> answers.Identity:
    """What a run's answers are made by."""
    features = run.features
    return answers.Identity(
        run=run.folder.resolve().name,
        recipe=run.recipe.name,
        model=run.fingerprint,
        taxonomy=run.labelling.taxonomy.fingerprint[:16],
        features=answers.Features(encoder=features.encoder, sizes=features.sizes, fingerprint=features.fingerprint),
    )


def tree(taxonomy: Taxonomy) -> answers.Tree:
    """All categories."""
    return answers.Tree(
        fingerprint=taxonomy.fingerprint[:16],
        categories=len(taxonomy),
        levels=int(taxonomy.levels.max()) + 1,
        tree=[_node(taxonomy, i) for i in np.flatnonzero(taxonomy.levels == 0).tolist()],
    )


def _node(taxonomy: Taxonomy, i: int) -> answers.Node:
    return answers.Node(
        id=taxonomy.ids[i],
        name=taxonomy.names[i],
        path=taxonomy.paths[i],
        level=int(taxonomy.levels[i]),
        iab=taxonomy.codes[i] or None,
        children=[_node(taxonomy, child) for child in taxonomy.children(i)],
    )


def best(taxonomy: Taxonomy, probabilities: Float[np.ndarray, "category"], top: int) -> list[answers.Category]:
    """The most probable categories."""
    order = taxonomy.ranked(probabilities)[:top]
    return [_category(taxonomy, i, float(probabilities[i])) for i in order.tolist()]


def _category(taxonomy: Taxonomy, i: int, probability: float) -> answers.Category:
    return answers.Category(
        id=taxonomy.ids[i],
        name=taxonomy.names[i],
        path=taxonomy.paths[i],
        parent=taxonomy.categories[i].parent or None,
        level=int(taxonomy.levels[i]),
        iab=taxonomy.codes[i] or None,
        probability=probability,
    )


def explanation(predictor: Predictor, job: Job, other: Job | None, top: int) -> answers.Explanation:
    """Explain a job's clip, and what would change with the tracks of another's."""
    run = predictor.run
    shards = {one.folder / CLIP for one in (job, other) if one}
    dataset = Dataset(list(shards), run.labelling, labelled=False)
    clip, swapped = _clip(dataset, job), _clip(dataset, other) if other else None
    told = explain(predictor, clip, swapped, top)
    whose = None if swapped is None else swapped.id
    taxonomy = run.labelling.taxonomy
    places = {path: i for i, path in enumerate(taxonomy.paths)}
    changes = [
        answers.Change(what=what, modality=modality, other=name, changes=told.changes[label])
        for modality in run.features.sizes
        for what, name, label in _interventions(modality, whose)
        if label in told.changes
    ]
    return answers.Explanation(
        job=job.id,
        name=told.clip,
        categories=[_category(taxonomy, places[path], probability) for path, probability in told.categories],
        changes=changes,
        correlation=told.correlation,
        per_second=told.per_second,
        timelines={name: told_timeline(timeline) for name, timeline in told.timelines.items()},
        attended=[one for name, timeline in told.timelines.items() for one in _attended(job.folder, name, timeline)],
    )


def _clip(dataset: Dataset, job: Job) -> Clip:
    """A job's clip."""
    shard = dataset.paths.index(job.folder / CLIP)
    return dataset.clip(int(np.flatnonzero((dataset.where == (shard, job.record)).all(1))[0]))


def _interventions(modality: str, other: str | None) -> list[tuple[Literal["without", "swapped"], str | None, str]]:
    """What may become of a modality, and what the library calls it."""
    return [("without", None, f"without {modality}"), ("swapped", other, f"{modality} of {other}")]


def told_timeline(timeline: Timeline) -> answers.Timeline:
    numbers = timeline.strongest
    before, influence, after = (
        np.where(timeline.present, part, 0) for part in (timeline.before, timeline.influence, timeline.after)
    )
    return answers.Timeline(
        row=timeline.row,
        present=timeline.present.tolist(),
        before=_rounded(_size(before)),
        influence=_rounded(_size(influence)),
        after=_rounded(_size(after)),
        numbers=numbers.tolist(),
        rows=answers.Weights(
            **{
                name: [_rounded(row) for row in part[numbers]]
                for name, part in (("before", before), ("influence", influence), ("after", after))
            }
        ),
    )


def _attended(folder: Path, name: str, timeline: Timeline) -> list[answers.Attended]:
    """The seconds with the largest weights, in the order of time."""
    size = _size(np.where(timeline.present, timeline.after, 0))
    if not size.any():
        return []
    best = [second for second in np.argsort(-size, kind="stable")[:ATTENDED].tolist() if size[second]]
    return [
        answers.Attended(
            second=second,
            modality=name,
            share=float(size[second] / size.max()),
            thumbnail=thumbnail(folder, second),
        )
        for second in sorted(best)
    ]


def _size(weights: Float[np.ndarray, "row step"]) -> Float[np.ndarray, "step"]:
    """Each second's weights as one number, their root mean square: what one row attends to is seen among many."""
    return np.asarray(np.sqrt(np.square(weights).mean(0)))


def _rounded(values: Float[np.ndarray, "step"]) -> list[float]:
    return [round(value, DIGITS) for value in values.tolist()]
