"""Speed and memory of the metrics against YouTube-8M's definitions followed literally, video by video.

    python benchmarks/metrics.py                       # 128,000 videos, top 20: times, ratio, agreement
    python benchmarks/metrics.py --memory 1000000      # peak memory of streaming that many videos

Times are processor time on one core, so that a busy machine disturbs them little. The reference takes some of the
videos (`--reference`) and its time is scaled to all: its work grows in proportion. numpy's AVX-512 sorting is slow on
AMD Zen 4; NPY_DISABLE_CPU_FEATURES="X86_V4 AVX512_ICL" (numpy 2.4's names) makes it use AVX2 there.
"""

import argparse
import heapq
import resource
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import torch
from torchmetrics import Metric, MetricCollection

from counterpoint.evaluation import Breakdown, BreakdownAccumulator, metrics

Scores = npt.NDArray[np.float32]
Labels = npt.NDArray[np.bool_]


def reference(scores: Scores, labels: Labels, top: int = 20) -> dict[str, float]:
    """GAP, MAP, PERR and Hit@1 as YouTube-8M's evaluation goes about them: video by video, a heap for each ranking.

    Its precision at a tie depends on the order; scores must have none.
    """
    categories = scores.shape[1]
    rankings: list[list[tuple[float, bool]]] = [[] for _ in range(categories)]
    pooled: list[tuple[float, bool]] = []
    precisions, best_hits = [], 0
    for score, label in zip(scores, labels, strict=True):
        for category in np.argpartition(score, -min(top, categories))[-top:]:
            heapq.heappush(rankings[category], (score[category], label[category]))
            heapq.heappush(pooled, (score[category], label[category]))
        best_hits += bool(label[score.argmax()])
        if count := int(label.sum()):
            found = sum(bool(label[category]) for category in np.argpartition(score, -count)[-count:])
            precisions.append(found / count)
    positives = labels.sum(axis=0)
    each = [_average_precision(*pair) for pair in zip(rankings, positives, strict=True) if pair[1]]
    return {
        "GAP": _average_precision(pooled, positives.sum()),
        "MAP": sum(each) / len(each),
        "PERR": sum(precisions) / len(precisions),
        "Hit@1": best_hits / len(scores),
    }


def _average_precision(predictions: list[tuple[float, bool]], positives: int) -> float:
    found, total = 0, 0.0
    for rank, (_, hit) in enumerate(sorted(predictions, key=lambda prediction: prediction[0], reverse=True), 1):
        if hit:
            found += 1
            total += found / rank
    return total / positives


def ours(scores: Scores, labels: Labels) -> dict[str, float]:
    return {
        "GAP": metrics.global_average_precision(scores, labels),
        "MAP": metrics.mean_average_precision(scores, labels),
        "PERR": metrics.precision_at_equal_recall_rate(scores, labels),
        "Hit@1": metrics.hit_at_1(scores, labels),
    }


def streamed(scores: Scores, labels: Labels, size: int = 8000) -> dict[str, float]:
    """The same in batches; GAP and MAP share their selection of each video's 20 best."""
    collection = MetricCollection(
        {
            "GAP": metrics.GlobalAveragePrecision(),
            "MAP": metrics.MeanAveragePrecision(),
            "PERR": metrics.PrecisionAtEqualRecallRate(),
            "Hit@1": metrics.HitAt1(),
        }
    )
    for start in range(0, len(scores), size):
        collection.update(scores[start : start + size], labels[start : start + size])
    return {name: float(value) for name, value in collection.compute().items()}


def world(videos: int, categories: int, seed: int = 0) -> tuple[Scores, Labels]:
    """Random videos with five labels on average, whose logits are raised; probabilities around 0.001 elsewhere."""
    generator = np.random.default_rng(seed)
    labels = generator.random((videos, categories), dtype=np.float32) < 5 / categories
    logits = generator.standard_normal((videos, categories), dtype=np.float32) * 2 - 7 + 7 * labels
    return (1 / (1 + np.exp(-logits))).astype(np.float32), labels


def batches(videos: int, categories: int, size: int = 1000) -> Iterator[tuple[Scores, Labels]]:
    for start in range(0, videos, size):
        yield world(min(size, videos - start), categories, seed=start)


def _timed(function: Callable[[], dict[str, float]]) -> tuple[dict[str, float], float]:
    start = time.process_time()
    result = function()
    return result, time.process_time() - start


def compare(videos: int, categories: int, reference_videos: int) -> None:
    scores, labels = world(videos, categories)
    few = min(reference_videos, videos)
    expected, seconds = _timed(lambda: reference(scores[:few], labels[:few]))
    differences = [abs(expected[name] - value) for name, value in ours(scores[:few], labels[:few]).items()]
    scaled = seconds * videos / few
    print(f"{videos:,} x {categories}, all four metrics, top 20")
    print(f"  loops     {scaled:7.2f} s (measured on {few:,} videos: {seconds:.2f} s)")
    for name, measure in [("functions", ours), ("streamed", streamed)]:
        best = min(_timed(partial(measure, scores, labels))[1] for _ in range(3))
        print(f"  {name:9} {best:7.2f} s (best of 3): {scaled / best:.0f} times faster")
    print(f"  largest difference {max(differences):.1e} (the reference takes the random world's few ties in any order)")
    for name, curve in [("GAP", metrics.global_average_precision), ("MAP", metrics.mean_average_precision)]:
        start = time.process_time()
        curve(scores, labels, top=None)
        print(f"  {name}, full curve {time.process_time() - start:7.2f} s")


def measure_memory(videos: int, categories: int) -> None:
    """Each streams all videos alone, so the highest peak so far belongs to those up to it."""
    streams: dict[str, Metric | BreakdownAccumulator] = {
        "GAP": metrics.GlobalAveragePrecision(),
        "MAP": metrics.MeanAveragePrecision(),
        "PERR": metrics.PrecisionAtEqualRecallRate(),
        "Hit@1": metrics.HitAt1(),
        "GAP, full curve": metrics.GlobalAveragePrecision(top=None),
        "MAP, full curve": metrics.MeanAveragePrecision(top=None),
        "breakdown's GAP": BreakdownAccumulator(tree(categories)),
    }
    print(f"{videos:,} x {categories} in batches of 1,000; peak resident memory, {_peak():.2f} GB before")
    for name, stream in streams.items():
        for scores, labels in batches(videos, categories):
            stream.update(scores, labels)
        start = time.process_time()
        result = stream.compute()
        value = float(result.overall.gap if isinstance(result, Breakdown) else result)
        print(
            f"  {name:15} {value:.6f}  compute {time.process_time() - start:6.1f} s  peak {_peak():.2f} GB", flush=True
        )
        if isinstance(stream, Metric):
            stream.reset()


def tree(categories: int) -> SimpleNamespace:
    """Levels 0 to 3 under as many top-level categories as the paper's taxonomy has for 640."""
    number = np.arange(categories)
    place = number % 25
    return SimpleNamespace(levels=np.where(place, 1 + place % 3, 0), tops=number - place, names=tuple(map(str, number)))


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Speed and memory of the metrics.")
    parser.add_argument("--videos", type=int, default=128_000)
    parser.add_argument("--categories", type=int, default=640)
    parser.add_argument("--reference", type=int, default=16_000, help="videos that the slow reference measures")
    parser.add_argument("--memory", type=int, metavar="VIDEOS", help="measure peak memory instead")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.memory:
        measure_memory(arguments.memory, arguments.categories)
    else:
        compare(arguments.videos, arguments.categories, arguments.reference)
