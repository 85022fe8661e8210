"""Rankings of predictions and their average precision: the arithmetic under `counterpoint.evaluation.metrics`.

Average precision is the mean, over the positives, of the precision at each positive's score s:

    AP = 1 / positives * sum over found positives of |positives scoring >= s| / |predictions scoring >= s|

so two counts per positive are all it takes, and predictions with equal scores enter a ranking together. Scores are
float32 and only their order matters.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Float16, Float32, Float64, Int64

Array = npt.NDArray[Any] | torch.Tensor
Scores = Float32[np.ndarray, "video category"]
Labels = Bool[np.ndarray, "video category"]
Blocks = Callable[[], Iterable[tuple[Scores, Labels]]]  # the same videos in the same order at every call

SELECTED_VIDEOS = 256  # looked through at a time for their best predictions: the block stays in the processor's cache
MAX_CATEGORY = (1 << 31) - 1
LEAST = 1e-7  # log-odds are of probabilities within this of 0 and 1, the precision of float32 near 1
HIT = 1  # the bit of a key whose prediction is true


def as_arrays(scores: Array, labels: Array) -> tuple[Scores, Labels]:
    """Both as contiguous numpy arrays (video, category), float32 and bool.

    Raises ValueError for other shapes, NaN scores (named by row and column) and labels other than 0 and 1.
    """
    values, truth = _numpy(scores).astype(np.float32, copy=False), _numpy(labels)
    if values.ndim != 2 or values.shape[1] == 0:
        raise ValueError(f"scores must be (video, category), got shape {values.shape}")
    if truth.shape != values.shape:
        raise ValueError(f"labels have shape {truth.shape}, scores {values.shape}")
    if values.size and np.isnan(values.min()):  # min() carries a NaN along and, unlike isnan(), makes no array
        video, category = np.argwhere(np.isnan(values))[0]
        raise ValueError(f"the score of video {video} (row) for category {category} (column) is NaN")
    if truth.dtype != np.bool_:
        if not np.isin(truth, (0, 1)).all():
            raise ValueError("labels must be bool, or 0 and 1")
        truth = truth.astype(np.bool_)
    return np.ascontiguousarray(values), np.ascontiguousarray(truth)


def _numpy(array: Array) -> npt.NDArray[Any]:
    if not isinstance(array, torch.Tensor):
        return np.asarray(array)
    array = array.detach().cpu()
    return (array.float() if array.is_floating_point() else array).numpy()  # numpy has no bfloat16


def top_keys(scores: Scores, labels: Labels, top: int) -> Int64[np.ndarray, "video top"]:
    """Each video's `top` best predictions (or all, if fewer), best first, as `_pack`ed keys.

    The k-th highest of some maxima, each of its own group of categories, bounds the k-th best score from below and is
    found in few vectorized passes; what reaches it, some 1.3 k predictions, is ranked exactly. At 640 categories twice
    as fast as `np.partition` or `torch.topk` of all.
    """
    videos, categories = scores.shape
    top = min(top, categories)
    result = np.empty((videos, top), np.int64)
    for start in range(0, videos, SELECTED_VIDEOS):
        block, truth = scores[start : start + SELECTED_VIDEOS], labels[start : start + SELECTED_VIDEOS]
        maxima = block
        while maxima.shape[1] >= 4 * top:
            half = maxima.shape[1] // 2
            maxima = np.maximum(maxima[:, :half], maxima[:, half : 2 * half])
        bound = np.partition(maxima, -top, axis=1)[:, -top, None]
        candidates = np.flatnonzero(block >= bound)
        video = candidates // categories
        category = candidates - video * categories  # np.divmod takes several times as long
        count = np.bincount(video, minlength=len(block))
        place = np.arange(len(candidates)) - (np.cumsum(count) - count)[video]
        table = np.full((len(block), count.max()), np.iinfo(np.int64).min)
        table[video, place] = _pack(block.ravel()[candidates], category, truth.ravel()[candidates])
        table.sort(axis=1)
        result[start : start + len(block)] = table[:, : -top - 1 : -1]
    return result


def _pack(
    score: Float32[np.ndarray, " prediction"],
    category: Int64[np.ndarray, " prediction"],
    hit: Bool[np.ndarray, " prediction"],
) -> Int64[np.ndarray, " prediction"]:
    """One integer per prediction that sorts by score, then by lower category, and holds both and the hit.

    From the top: 32 bits of score, 31 of category (counted down), 1 of hit. The bits of a float32 sort like an integer
    once the lower ones of negative numbers are flipped.
    """
    bits = (score + np.float32(0)).view(np.int32)  # + 0 turns -0 into 0
    bits ^= (bits >> 31) & 0x7FFFFFFF
    key = bits.astype(np.int64) << 32
    key |= (MAX_CATEGORY - category) << 1
    key |= hit
    return key


def top_average_precision(
    keys: Int64[np.ndarray, " prediction"], positives: Int64[np.ndarray, " category"], per_category: bool
) -> Float64[np.ndarray, " group"]:
    """Average precision of each category's ranking, or of one ranking of all; nan where there is no positive.

    Args:
        keys: the kept predictions, from `top_keys`, in any order.
        positives: each category's number of labels, found among the kept predictions or not.
        per_category: one group per category, else a single one.
    """
    ranked = ((keys >> 32) + (1 << 31) << 1) | (keys & HIT)  # 32 bits of score, now from 0, and 1 of hit
    if per_category:
        ranked |= MAX_CATEGORY - ((keys & 0xFFFFFFFF) >> 1) << 33
    else:
        positives = positives.sum(keepdims=True)
    ranked = torch.from_numpy(ranked).sort().values.numpy()  # in 0.6 of the time that numpy takes for 64-bit integers
    hit = np.flatnonzero(ranked & HIT)
    group = ranked[hit] >> 33
    group_end = np.searchsorted(ranked, np.arange(1, len(positives) + 1) << 33)[group]
    ties = np.flatnonzero(np.diff(ranked >> 1, prepend=-1))  # where a new score, or group, begins
    tie_start = np.repeat(ties, np.diff(ties, append=len(ranked)))[hit]
    hits_before = np.append(0, np.cumsum(ranked & HIT))
    hits_above = hits_before[group_end] - hits_before[tie_start]
    total = np.bincount(group, hits_above / (group_end - tie_start), minlength=len(positives))
    with np.errstate(invalid="ignore"):  # 0 / 0
        average: Float64[np.ndarray, " group"] = total / positives
    return average


def full_average_precision(blocks: Blocks, per_category: bool) -> Float64[np.ndarray, " group"]:
    """Like `top_average_precision`, of all predictions: collects the positives, then counts what scores as high.

    Holds one block and all positives' scores. No videos at all make no group.
    """

    def rankings(block: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.ascontiguousarray(block.T) if per_category else block.reshape(1, -1)

    found = []
    for scores, labels in blocks():
        pairs = zip(rankings(scores), rankings(labels), strict=True)
        found.append([score[label] for score, label in pairs])
    positives = [np.sort(np.concatenate(pieces)) for pieces in zip(*found, strict=True)]

    above = [np.zeros(len(positive), np.int64) for positive in positives]
    for scores, _ in blocks():
        for count, positive, ranked in zip(above, positives, np.sort(rankings(scores), axis=1), strict=True):
            count += len(ranked) - np.searchsorted(ranked, positive)

    precision = [
        (len(positive) - np.searchsorted(positive, positive)) / count
        for positive, count in zip(positives, above, strict=True)
    ]
    return np.array([each.mean() if len(each) else np.nan for each in precision])


def log_odds(probabilities: Float[np.ndarray, "clip category"]) -> Float16[np.ndarray, "clip category"]:
    """Probabilities as log-odds in float16, which keep the order of those near 0 and 1."""
    probability = np.clip(probabilities.astype(np.float64), LEAST, 1 - LEAST)
    return np.asarray(np.log(probability / (1 - probability)), np.float16)


def from_log_odds(scores: Float[np.ndarray, "clip category"]) -> Float32[np.ndarray, "clip category"]:
    """The probabilities of kept log-odds, float32."""
    return np.asarray(1 / (1 + np.exp(-scores.astype(np.float32))), np.float32)
