"""A clip: one video's id, labels and tracks; and clips padded to one array.

Axes are (clip, step, feature) throughout; a step is one second. A step whose features are all zero is *missing*: the
YouTube-8M records pad with such frames, and a silent or undecodable second looks the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

TrackArray = NDArray[Any]
"""One modality of a clip, (step, feature): uint8 codes, or float32 values."""

_CODE = np.dtype(np.uint8)


@dataclass(frozen=True, eq=False)
class Clip:
    """One video: `labels` (label,) int64, and `tracks` from a modality's name to an array (step, feature).

    Tracks are uint8 codes (frame level) or float32 (video level: one step). A uint8 track may be a read-only, strided
    view of a memory-mapped file: copy it to change it.
    """

    id: str
    labels: NDArray[np.int64]
    tracks: dict[str, TrackArray]

    @property
    def steps(self) -> int:
        """Length of the longest track, 0 without tracks."""
        return max((len(track) for track in self.tracks.values()), default=0)


def present(track: TrackArray) -> NDArray[np.bool_]:
    """Which steps of a track (step, feature) carry features: (step,) bool, False where all of them are zero.

    >>> present(np.array([[0, 3], [0, 0]], np.uint8))
    array([ True, False])
    """
    if track.strides[1] != 1 or (leading := _leading(track)) is None:
        return np.asarray((track != 0).any(axis=1))
    seen: NDArray[np.bool_] = leading != 0
    if np.count_nonzero(seen) < len(seen):
        unsure = np.flatnonzero(~seen)
        seen[unsure] = track[unsure].any(axis=1)
    return seen


def are_codes(track: TrackArray) -> bool:
    """Whether float features are 8-bit codes that nobody has turned into features: whole numbers from 0 to 255.

    >>> are_codes(np.array([[0.0, 131.0, 255.0]], np.float32)), are_codes(np.array([[0.0, 1.5, -0.2]], np.float32))
    (True, False)
    """
    if track.dtype == _CODE or not track.size:
        return False
    whole = np.rint(track) == track
    return bool(whole.all() and track.min() >= 0 and 16 < track.max() <= 255)


def _leading(tracks: TrackArray) -> NDArray[np.uint64] | None:
    """The first eight codes of each step as one number, where almost every step shows; None for other features."""
    if tracks.dtype != _CODE or tracks.shape[-1] < 8:
        return None
    return tracks[..., :8].view(np.uint64)[..., 0]


def pad(clips: Sequence[Clip], into: Mapping[str, TrackArray]) -> dict[str, NDArray[np.bool_]]:
    """Copy the clips' tracks into arrays (clip, step, feature), by modality; returns their masks (clip, step) bool.

    Longer tracks are cut, the rest of each array is zeroed. A step is True in the mask where the clip's track has it
    and it is `present`. Fresh memory costs more than the copy, so a loop over batches should use its arrays again.

    Raises ValueError where a track and its array differ in the features' size or type.
    """
    masks = {name: np.zeros(array.shape[:2], np.bool_) for name, array in into.items()}
    lengths = {name: np.zeros((len(clips), 1), np.int64) for name in into}
    parts = [(name, array, _rows(array), _leading(array), masks[name], lengths[name]) for name, array in into.items()]
    for i, clip in enumerate(clips):  # all of a clip at once, as it lies in memory
        for name, array, rows, leading, mask, ends in parts:
            _, steps, size = array.shape
            length = 0
            if (track := clip.tracks.get(name)) is not None:
                if track.shape[1] != size or track.dtype != array.dtype:
                    found = f"{track.shape[1]} {track.dtype}, not {size} {array.dtype}"
                    raise ValueError(f"clip {clip.id!r}: track {name!r} has features of {found}")
                ends[i] = length = min(len(track), steps)
                rows[i, :length] = _rows(track)[:length]
            if length < steps:
                array[i, length:] = 0
            # The mask is of the copy, which the processor still holds.
            if leading is None:
                mask[i, :length] = present(array[i, :length])
            else:
                np.not_equal(leading[i], 0, out=mask[i])
    for _, array, _, leading, mask, ends in parts:
        if leading is not None:  # the few steps that do not show in their first codes are read in full
            unsure = ~mask & (np.arange(array.shape[1]) < ends)
            mask[unsure] = array[unsure].any(axis=1)
    return masks


def _rows(tracks: TrackArray) -> NDArray[np.void]:
    """(..., step, feature) as (..., step): numpy copies whole steps faster than their features."""
    if tracks.strides[-1] != tracks.itemsize:
        tracks = np.ascontiguousarray(tracks)
    return tracks.view(_opaque(tracks.shape[-1] * tracks.itemsize))[..., 0]


@lru_cache
def _opaque(size: int) -> np.dtype[np.void]:
    return np.dtype((np.void, size))
