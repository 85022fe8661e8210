"""Results of the library -> answers of the API."""

from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float

from counterpoint.data.clip import Clip
from counterpoint.data.records import clip_of
from counterpoint.data.tfrecord import Shard
from counterpoint.explanation import Timeline, explain
from counterpoint.predict import Predictor
from counterpoint.run import RunFolder
from counterpoint.serve import answers
from counterpoint.serve.encoding import CLIP, thumbnail
from counterpoint.serve.jobs import Job
from counterpoint.serve.settings import RefusedError
from counterpoint.taxonomy import Taxonomy

ATTENDED = 6  # seconds of each modality
DIGITS = 5  # of weights


def identity(run: RunFolder) -> answers.Identity:
    """The run and model that make the answers."""
    features = run.features
    return answers.Identity(
        run=run.folder.resolve().name,
        recipe=run.recipe.name,
        model=run.fingerprint,
        taxonomy=run.labelling.taxonomy.fingerprint[:16],
        features=answers.Features(encoder=features.encoder, sizes=features.sizes, fingerprint=features.fingerprint),
    )


def tree(taxonomy: Taxonomy) -> answers.Tree:
    """The categories of a taxonomy as a tree."""
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


def tower_auc(run: RunFolder) -> answers.TowerAUC | None:
    """The AUC of the run's correlation tower, where it is known."""
    auc = run.tower_reliability
    return None if auc is None else answers.TowerAUC(value=auc.auc, low=auc.low, high=auc.high, pairs=auc.pairs)


def best(run: RunFolder, probabilities: Float[np.ndarray, "category"], top: int) -> list[answers.Category]:
    """The most probable categories."""
    order = run.ranked(probabilities)[:top].tolist()
    return _categories(run, {i: float(probabilities[i]) for i in order})


def _categories(run: RunFolder, probabilities: dict[int, float]) -> list[answers.Category]:
    """The categories with these numbers, in their order."""
    taxonomy, thresholds = run.labelling.taxonomy, run.thresholds
    return [_category(taxonomy, i, value, float(thresholds[i])) for i, value in probabilities.items()]


def _category(taxonomy: Taxonomy, i: int, probability: float, threshold: float) -> answers.Category:
    return answers.Category(
        id=taxonomy.ids[i],
        name=taxonomy.names[i],
        path=taxonomy.paths[i],
        parent=taxonomy.categories[i].parent or None,
        level=int(taxonomy.levels[i]),
        iab=taxonomy.codes[i] or None,
        probability=probability,
        threshold=threshold,
    )


def status(job: Job, answer: answers.Answer | None) -> answers.Job:
    """The state of a job, with its answer if it is done."""
    failed = job.state == "failed"
    return answers.Job(
        id=job.id,
        name=job.name,
        state=job.state,
        stage=job.stage,
        fraction=job.fraction,
        answer=answer,
        status=job.status if failed else None,
        detail=job.detail if failed else None,
    )


def answer(job: Job, run: RunFolder, made_by: answers.Identity, top: int) -> answers.Answer:
    """The categories of a job's clip; RefusedError if the job failed."""
    if job.prediction is None:
        raise RefusedError(job.status, job.detail)
    return answers.Answer(
        job=job.id,
        name=job.name,
        kind=job.kind,
        seconds=job.seconds,
        modalities=job.modalities,
        notes=job.notes,
        categories=best(run, job.prediction.probabilities, top),
        correlation=job.prediction.correlation,
        unsure=not (job.prediction.probabilities >= run.thresholds).any(),
        unlike=job.prediction.unlike,
        made_by=made_by,
    )


def example(job: Job) -> answers.Example:
    """A clip that the server offers."""
    return answers.Example(
        job=job.id,
        name=job.name,
        kind=job.kind,
        media=f"/v1/examples/{job.id}/media" if job.source else None,
        thumbnail=thumbnail(job.folder, job.seconds // 2),
    )


def explanation(predictor: Predictor, job: Job, other: Job | None, top: int) -> answers.Explanation:
    """Explain a job's clip, and its answer with the tracks of another job's clip."""
    clip, swapped = _clip(job), _clip(other) if other else None
    explained = explain(predictor, clip, swapped, top)
    other_name = None if swapped is None else swapped.id
    places = {path: i for i, path in enumerate(predictor.run.labelling.taxonomy.paths)}
    changes = [
        answers.Change(what=what, modality=modality, other=name, changes=explained.changes[label])
        for modality in predictor.run.features.sizes
        for what, name, label in _interventions(modality, other_name)
        if label in explained.changes
    ]
    return answers.Explanation(
        job=job.id,
        name=explained.clip,
        categories=_categories(predictor.run, {places[path]: value for path, value in explained.categories}),
        changes=changes,
        correlation=explained.correlation,
        per_second=explained.per_second,
        timelines={name: timeline_answer(timeline) for name, timeline in explained.timelines.items()},
        attended=[a for name, timeline in explained.timelines.items() for a in _attended(job.folder, name, timeline)],
    )


def _clip(job: Job) -> Clip:
    """A job's clip, whose features are kept on the disk."""
    return clip_of(Shard(job.folder / CLIP), job.record)


def _interventions(modality: str, other: str | None) -> list[tuple[Literal["without", "swapped"], str | None, str]]:
    """The interventions on a modality, and their names in `counterpoint.explanation`."""
    return [("without", None, f"without {modality}"), ("swapped", other, f"{modality} of {other}")]


def timeline_answer(timeline: Timeline) -> answers.Timeline:
    """The weights of a modality by second, with the rows that have most weight."""
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
    """Each second's weights as one number: their root mean square, in which a single strong row still shows."""
    return np.asarray(np.sqrt(np.square(weights).mean(0)))


def _rounded(values: Float[np.ndarray, "step"]) -> list[float]:
    return [round(value, DIGITS) for value in values.tolist()]
