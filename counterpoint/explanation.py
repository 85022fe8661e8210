"""Why a model gives its answer for one clip: weights over time, correlation, and answers under interventions."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from counterpoint.data.clip import Clip
from counterpoint.data.dataset import Dataset
from counterpoint.data.tracks import Track, Tracks, to_device, without_modality
from counterpoint.errors import Error
from counterpoint.files import FILMS
from counterpoint.models.categorizer import Categorizer
from counterpoint.models.correlation import Tower
from counterpoint.models.fusion import AttentionMaps, Layer
from counterpoint.predict import Predictor

ROWS = 16  # clusters, units or heads that are drawn


@dataclass(frozen=True)
class Timeline:
    """One modality's weights in the last layer, by row (a cluster, unit or head) and step."""

    row: str
    """The name of a row: "cluster", "attention unit", "head"."""
    influence_label: str
    """What F is added to, for a picture's title."""
    present: Bool[np.ndarray, "step"]
    """Which seconds the modality has."""
    before: Float[np.ndarray, "row step"]
    influence: Float[np.ndarray, "row step"]
    """F's contribution: to the weights, or in a Transformer to the logits."""
    after: Float[np.ndarray, "row step"]

    @property
    def strongest(self) -> "np.ndarray[Any, Any]":
        """The numbers of the `ROWS` rows with most weight, in order."""
        weight = np.where(self.present, np.abs(self.after), 0).sum(1)
        return np.sort(np.argsort(-weight, kind="stable")[:ROWS])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        arrays = {name: getattr(self, name).tolist() for name in ("present", "before", "influence", "after")}
        return {"row": self.row} | arrays


@dataclass(frozen=True)
class Explanation:
    """One clip explained.

    Attributes:
        categories: path and probability of the best, best first.
        changes: for each intervention, such as "without audio", the change of each of those probabilities.
        correlation: the tower's probability for each pair of modalities; empty without a tower, or with one that is
            known to be no better than chance.
        per_second: the same for each second alone; None where one of the two is missing. Where the model's fusion is
            per second, by modality: how well each second goes with all seconds of the others, as the model uses it.
        timelines: by modality; early fusion joins all in one. None where a model averages without any weights.
    """

    clip: str
    categories: list[tuple[str, float]]
    changes: dict[str, list[float]]
    correlation: dict[str, float]
    per_second: dict[str, list[float | None]]
    timelines: dict[str, Timeline]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return vars(self) | {
            "categories": [{"path": path, "probability": probability} for path, probability in self.categories],
            "timelines": {name: timeline.to_dict() for name, timeline in self.timelines.items()},
        }


def split_name(name: str) -> tuple[str, str]:
    """The shard and the id of a clip that is named ``SHARD#ID``; both may hold a #, and the shard is what exists.

    Raises:
        Error: the name has no #.
    """
    marks = [i for i, character in enumerate(name) if character == "#" and i]
    if not marks:
        if Path(name).suffix.lower() in FILMS:
            raise Error(f"{name}: a video; `counterpoint categorize RUN {name} --explain FOLDER` explains its answer")
        raise Error(f"{name}: name the clip as SHARD#ID")
    mark = next((i for i in marks if Path(name[:i]).exists()), marks[-1])
    return name[:mark], name[mark + 1 :]


def find(dataset: Dataset, clip: str) -> int:
    """The number of the clip with this id, which may also be a clip's number in the data set.

    Raises:
        Error: there is none.
    """
    for i in range(len(dataset)):
        if dataset.clip(i).id == clip:
            return i
    if clip.isdecimal() and int(clip) < len(dataset):
        return int(clip)
    raise Error(f"{', '.join(map(str, dataset.paths))}: no clip {clip!r}")


def explain(predictor: Predictor, clip: Clip, other: Clip | None = None, top: int = 5) -> Explanation:
    """Explain a clip of the run's features, in its ``top`` best categories.

    Args:
        other: a clip whose tracks are put in place of this one's, one at a time, to see what that changes.
    """
    taxonomy = predictor.run.labelling.taxonomy
    tracks = predictor.tracks([clip])
    output = predictor.forward(tracks, return_attention=True)
    probabilities = predictor.probabilities(output.logits)[0]
    best = predictor.run.ranked(probabilities)[:top]
    changes = {
        what: (predictor.probabilities(predictor.forward(changed).logits)[0] - probabilities)[best].tolist()
        for what, changed in _interventions(predictor, tracks, clip, other).items()
    }
    by_pair = output.correlation.probability if output.correlation and not predictor.chance_tower else {}
    return Explanation(
        clip=clip.id,
        categories=[(taxonomy.paths[i], float(probabilities[i])) for i in best],
        changes=changes,
        correlation={" and ".join(pair): float(probability[0]) for pair, probability in by_pair.items()},
        per_second=_per_second(predictor, tracks),
        timelines=_timelines(predictor.model, output.weights[-1], tracks) if output.weights else {},
    )


def _interventions(predictor: Predictor, tracks: Tracks, clip: Clip, other: Clip | None) -> dict[str, Tracks]:
    """Each present modality dropped, and each replaced by the other clip's where that has it."""
    changed = {f"without {name}": without_modality(tracks, name) for name, track in tracks.items() if track.mask.any()}
    if other is not None:
        both = predictor.tracks([clip, other])  # as long as the longer of the two
        own, others = ({name: Track(*(p[i : i + 1] for p in track)) for name, track in both.items()} for i in (0, 1))
        replaced = {name: own | {name: track} for name, track in others.items() if track.mask.any()}
        changed |= {f"{name} of {other.id}": swapped for name, swapped in replaced.items()}
    return changed


def _per_second(predictor: Predictor, tracks: Tracks) -> dict[str, list[float | None]]:
    tower = predictor.model.tower
    if not isinstance(tower, Tower) or predictor.chance_tower:
        return {}
    shown: dict[str, tuple[Tensor, Tensor]] = {}
    with torch.inference_mode():
        if predictor.model.trunk.per_second:
            for name, evidence in tower.evidence(to_device(tracks, predictor.device)).items():
                anything = any(tracks[other].mask.any() for other in tracks if other != name)
                shown[f"{name} with all seconds"] = evidence[0].sigmoid(), tracks[name].mask[0] & anything
        else:
            for (one, other), probability in tower.per_second(to_device(tracks, predictor.device)).items():
                shown[f"{one} and {other}"] = probability[0], (tracks[one].mask & tracks[other].mask)[0]
    return {
        name: [value if present else None for value, present in zip(values.tolist(), there.tolist(), strict=True)]
        for name, (values, there) in shown.items()
    }


def _timelines(model: Categorizer, maps: dict[str, AttentionMaps], tracks: Tracks) -> dict[str, Timeline]:
    read = model.trunk.read
    anywhere = torch.stack([tracks[name].mask[0] for name in read.modalities]).any(0)
    timelines = {}
    for name, weights in maps.items():
        layer = model.trunk.layers[-1]
        assert isinstance(layer, Layer)
        module = layer.attention(name)
        present = tracks[name].mask[0] if name in tracks else anywhere  # of early fusion's joined track
        if read.averaged:
            present = present.any(0, keepdim=True)
        parts = (module.time_profile(part[0].cpu(), present).numpy() for part in weights)
        timelines[name] = Timeline(module.row, module.influence_label, present.numpy(), *parts)
    return timelines
