"""The one forward pass in evaluation mode: every answer of a trained categorizer is made here."""

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from counterpoint.data.clip import Clip
from counterpoint.data.dataset import Dataset
from counterpoint.data.features import FeatureSet
from counterpoint.data.loading import Batch, ClipLoader, RoundRobinSampler, collate
from counterpoint.data.tracks import Tracks, to_device, without_modality
from counterpoint.models.categorizer import Output
from counterpoint.recipes import Recipe
from counterpoint.reliability import nearest
from counterpoint.run import RunFolder


class Predictions(NamedTuple):
    """The model's output for a batch of clips."""

    ids: list[str]
    probabilities: Float[np.ndarray, "clip category"]
    """No category is more probable than its parent."""
    labels: Bool[np.ndarray, "clip category"]
    without: dict[str, Float[np.ndarray, "clip category"]]
    """The probabilities with one modality dropped, by its name, where that was asked for."""
    unlike: Bool[np.ndarray, "clip"] | None = None
    """Whether each clip is unlike all that the model was trained on."""


class Prediction(NamedTuple):
    """The model's output for one clip."""

    probabilities: Float[np.ndarray, "category"]
    """No category is more probable than its parent."""
    correlation: dict[str, float]
    """The correlation tower's probability by pair of modalities, such as "audio and video"; empty without a tower, or
    with one that is known to be no better than chance."""
    unlike: bool = False
    """Whether the clip is unlike all that the model was trained on; False where the run cannot say."""


class Predictor:
    """A run's categorizer in evaluation mode, on a GPU where there is one.

    Raises:
        Error: the run is a correlation tower, is not trained, or its weights cannot be read.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.device = accelerator()
        self.model = run.categorizer().to(self.device)

    def forward(self, tracks: Tracks, return_attention: bool = False) -> Output:
        """The model's output for a batch of tracks, without gradients."""
        with torch.inference_mode():
            return self.model(to_device(tracks, self.device), return_attention)  # type: ignore[no-any-return]

    def probabilities(self, logits: Float[Tensor, "clip category"]) -> Float[np.ndarray, "clip category"]:
        """Probabilities of logits, calibrated where the run is: no category is more probable than its parent."""
        if self.run.reliability is not None:
            logits = self.run.reliability.calibrated(logits.float())
        return consistent(self.run, logits.float().sigmoid().cpu().numpy())

    @property
    def chance_tower(self) -> bool:
        """Whether the model's tower is known to be no better than chance."""
        return self.run.chance_tower

    def unlike(self, hidden: Float[Tensor, "clip hidden"]) -> Bool[np.ndarray, "clip"]:
        """Whether clips are unlike all that the model was trained on, by the head's hidden features."""
        reliability, references = self.run.reliability, self.run.references
        if reliability is None or references is None:
            return np.zeros(len(hidden), bool)
        return reliability.is_unlike(nearest(hidden.float().cpu().numpy(), references))

    def predict(
        self,
        dataset: Dataset,
        batch_size: int = 256,
        workers: int = 0,
        without: Collection[str] = (),
        turn: tuple[int, int] = (0, 1),
    ) -> Iterator[Predictions]:
        """Predictions for the clips of a data set, batch by batch and in order; see `batches`.

        Args:
            without: modalities; for each, the model also predicts as if no clip had it.
        """
        for batch in batches(self.run, dataset, batch_size, workers, turn):
            clips = len(batch.ids)
            output = self.forward(batch.tracks)
            whole = self.probabilities(output.logits[:clips])
            dropped = {
                name: self.probabilities(self.forward(without_modality(batch.tracks, name)).logits[:clips])
                for name in without
            }
            yield Predictions(
                batch.ids, whole, batch.labels[:clips].numpy(), dropped, self.unlike(output.hidden[:clips])
            )

    def predict_clips(self, clips: Sequence[Clip]) -> list[Prediction]:
        """Predictions for clips of the run's features, in one batch for each mix of codes and floats."""
        predictions: dict[int, Prediction] = {}
        kinds: dict[frozenset[str], list[int]] = {}  # by the modalities whose features are floats
        for number, clip in enumerate(clips):
            floats = frozenset(name for name, track in clip.tracks.items() if track.dtype != np.uint8)
            kinds.setdefault(floats, []).append(number)
        for numbers in kinds.values():
            output = self.forward(self.tracks([clips[number] for number in numbers]))
            by_pair = output.correlation.probability if output.correlation and not self.chance_tower else {}
            pairs = {" and ".join(pair): probability.tolist() for pair, probability in by_pair.items()}
            unlike = self.unlike(output.hidden)
            for row, probabilities in enumerate(self.probabilities(output.logits)):
                correlation = {pair: values[row] for pair, values in pairs.items()}
                predictions[numbers[row]] = Prediction(probabilities, correlation, bool(unlike[row]))
        return [predictions[number] for number in range(len(clips))]

    def tracks(self, clips: Sequence[Clip]) -> Tracks:
        """Clips as a batch that the model reads; all of one type of features, and cut to the recipe's ``max_steps``."""
        nothing = np.zeros(len(self.run.labelling.taxonomy), bool)
        return collate([(clip, nothing) for clip in clips], self.run.features, self.run.recipe.max_steps).tracks


def consistent(run: RunFolder, probabilities: Float[np.ndarray, "... category"]) -> Float[np.ndarray, "... category"]:
    """Probabilities in which no category is more probable than its parent, as the run's recipe makes them so."""
    assert isinstance(run.recipe, Recipe)
    raises = run.recipe.consistency == "raise"
    return run.labelling.taxonomy.consistent(probabilities, raise_parents=raises)


def batches(
    run: RunFolder, dataset: Dataset, batch_size: int = 256, workers: int = 0, turn: tuple[int, int] = (0, 1)
) -> Iterator[Batch]:
    """The clips of a data set as the run's model reads them, in order.

    Args:
        turn: rank and number of processes, where several take batches in turns; the last batch of a process may then
            have no clip that counts.

    Raises:
        Error: the data's features are not the model's.
    """
    run.features.check(FeatureSet.of(dataset.paths), str(run.folder))
    sampler = RoundRobinSampler(len(dataset), batch_size, *turn)
    yield from ClipLoader(dataset, sampler, run.features, run.recipe.max_steps, workers)


def accelerator() -> torch.device:
    """The device that models compute on."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
