"""A track is one modality of a batch of clips: its features and which of its steps are there.

Conventions, everywhere in this package: the batch is the first axis; all tracks of a batch have the same number of
steps (one step is one second); a step that a clip does not have (padding, silence, a black stretch) is False in the
mask and its features may hold anything, so whoever reads features masks first.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor


class Track(NamedTuple):
    """One modality of a batch. ``features`` are 8-bit codes as stored, or floats."""

    features: Shaped[Tensor, "batch step feature"]
    mask: Bool[Tensor, "batch step"]

    def zeroed(self) -> "Track":
        """The same track with zeros where nothing is."""
        # Filled, not multiplied: whatever stands in the padding, NaN included, goes.
        return Track(self.features.masked_fill(~self.mask.unsqueeze(-1), 0.0), self.mask)


Tracks = dict[str, Track]


def masked_softmax(logits: Float[Tensor, "..."], mask: Bool[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Softmax over the last axis among the entries where ``mask`` (broadcast to ``logits``) is True.

    A row without any entry gives zeros, with zero gradients, so that a clip without sound stays finite.

    >>> mask = torch.tensor([[True, True, False], [False, False, False]])
    >>> masked_softmax(torch.tensor([[0.0, 0.0, 9.0], [1.0, 2.0, 3.0]]), mask)
    tensor([[0.5000, 0.5000, 0.0000],
            [0.0000, 0.0000, 0.0000]])
    """
    # The lowest finite number, not -inf: a row of -inf alone would be NaN, and its gradient too.
    lowest = torch.finfo(logits.dtype).min
    return logits.masked_fill(~mask, lowest).softmax(-1).masked_fill(~mask, 0.0)


def to_device(tracks: Tracks, device: torch.device) -> Tracks:
    """The tracks on a device."""
    return {name: Track(*(part.to(device) for part in track)) for name, track in tracks.items()}


def without_modality(tracks: Tracks, name: str) -> Tracks:
    """The tracks as if a modality had never been recorded."""
    return tracks | {name: Track(tracks[name].features, torch.zeros_like(tracks[name].mask))}
