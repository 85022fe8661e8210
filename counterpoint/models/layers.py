"""One layer of every model: each modality weighs its track, hears the others, and combines by what it heard.

(Rivals, whose modalities meet otherwise, have other layers: `counterpoint.models.rivals`.)
"""

from collections.abc import Mapping
from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor, nn

from counterpoint.models.fusion import Axis, Correlation, Fusion, Heard, Influence, Inlet, Weights
from counterpoint.models.track import Track, Tracks


class Shown(NamedTuple):
    """One modality's weights in one layer, for people to look at. The last axis is the one they compete over."""

    before: Float[Tensor, "batch ... competitor"]
    heard: Float[Tensor, "batch ... competitor"]
    after: Float[Tensor, "batch ... competitor"]


class Weigher(nn.Module):
    """One modality's part of a layer."""

    inputs: int
    """Features of the track that goes in."""
    outputs: int
    """Features of the track that ``combine`` gives."""
    axis: Axis

    def weigh(self, track: Track) -> Weights:
        """The weights, zero where the track has no step, so that padding cannot be heard."""
        raise NotImplementedError

    def combine(self, track: Track, weights: Weights, heard: Heard) -> Track:
        """The track combined by its weights and what it heard; of one step, where the layer sums the steps up."""
        raise NotImplementedError

    def show(self, track: Track, weights: Weights, heard: Heard) -> Shown:
        """The weights before and after hearing, which ``combine`` need not form as a whole."""
        raise NotImplementedError

    def over_time(
        self, weights: Float[Tensor, "... competitor"], present: Bool[Tensor, "step"]
    ) -> Float[Tensor, "row step"]:
        """One clip's weights, as `show` gives them, with time along the last axis, for a picture.

        Args:
            present: the steps that the clip has.
        """
        raise NotImplementedError


class Layer(nn.Module):
    """What a trunk is made of."""

    def forward(
        self, tracks: Tracks, correlation: Correlation | None, show: bool = False
    ) -> tuple[Tracks, dict[str, Shown]]:
        """The combined tracks and, if asked to ``show`` them, the weights by modality."""
        raise NotImplementedError

    def weigher(self, name: str) -> Weigher:
        """Whose weights are shown for a modality."""
        raise NotImplementedError


class CrossModalLayer(Layer):
    """Weigh, hear, combine: one layer of section 2, for any number of modalities, each hearing all others.

    Args:
        weighers: by modality.
        fusion: what they hear of each other.
        context: how many numbers the tower tells of a pair of modalities (CM-C).
    """

    def __init__(self, weighers: Mapping[str, Weigher], fusion: Fusion, context: int = 0) -> None:
        super().__init__()
        self.weighers = nn.ModuleDict(weighers)
        influences: dict[str, Influence] = {}
        inlets: dict[str, Inlet] = {}
        for source, target in ((s, t) for s in weighers for t in weighers if (s == t) == fusion.itself):
            if influence := fusion.influence(weighers[source].axis, weighers[target].axis, context):
                influences[_key(source, target)] = influence
            if inlet := fusion.inlet(weighers[target].inputs, context):
                inlets[_key(source, target)] = inlet
        self.influences = nn.ModuleDict(influences)
        self.inlets = nn.ModuleDict(inlets)

    def forward(
        self, tracks: Tracks, correlation: Correlation | None, show: bool = False
    ) -> tuple[Tracks, dict[str, Shown]]:
        weighers: Mapping[str, Weigher] = self.weighers  # type: ignore[assignment]
        tracks = {name: self._tell(name, track, correlation) for name, track in tracks.items()}
        weights = {name: weighers[name].weigh(track) for name, track in tracks.items()}
        heard = {name: self._hear(name, tracks, weights, correlation) for name in tracks}
        combined = {name: weighers[name].combine(track, weights[name], heard[name]) for name, track in tracks.items()}
        if not show:
            return combined, {}
        return combined, {
            name: weighers[name].show(track, weights[name], heard[name]) for name, track in tracks.items()
        }

    def weigher(self, name: str) -> Weigher:
        return self.weighers[name]  # type: ignore[return-value]

    def _tell(self, target: str, track: Track, correlation: Correlation | None) -> Track:
        features = track.features
        for source in self.weighers:
            if (key := _key(source, target)) in self.inlets:
                assert correlation is not None, "this layer's input needs a correlation tower"
                features = features + self.inlets[key](correlation, pair(source, target))
        return Track(features, track.mask)

    def _hear(
        self, target: str, tracks: Tracks, weights: Mapping[str, Weights], correlation: Correlation | None
    ) -> Heard:
        axes: Mapping[str, Axis] = {name: self.weighers[name].axis for name in tracks}  # type: ignore[misc]
        entries = {name: tracks[name].mask.shape[1] if axis.steps else axis.size for name, axis in axes.items()}
        hearings = []
        for source in tracks:
            if (key := _key(source, target)) in self.influences:
                influence: Influence = self.influences[key]  # type: ignore[assignment]
                hearings.append(
                    influence.hearing(
                        weights[source], entries[source], entries[target], correlation, pair(source, target)
                    )
                )
        return Heard(hearings)


def _key(source: str, target: str) -> str:
    return f"{source}_to_{target}"


def pair(one: str, other: str) -> tuple[str, str]:
    """How the tower names two modalities: in alphabetical order."""
    return (min(one, other), max(one, other))
