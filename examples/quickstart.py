"""Categorize shards and arrays by the model that comes with the package.

Usage: python examples/quickstart.py SHARDS ...     (YouTube-8M's records, such as yt8m/test0000.tfrecord)
"""

import sys

import numpy as np

import counterpoint as cp


def main(shards: list[str]) -> None:
    run = cp.load("youtube8m")
    for answer in run.categorize(shards):
        print(answer.id, answer.top(3), answer.correlation)

    # Features of one's own: (step, feature) for each modality, one step a second; 8-bit codes or floats.
    random = np.random.default_rng(0)
    video = random.integers(0, 256, (30, 1024), np.uint8)
    audio = random.normal(0, 0.5, (30, 128)).astype(np.float32)
    answers = run.categorize([{"video": video, "audio": audio}])
    print(answers[0].id, answers[0].top(3), answers[0].correlation)

    explanation = run.explain(answers[0])
    for modality, timeline in explanation.timelines.items():
        print(modality, timeline.after.shape, "(row, step)")
    for what, changes in explanation.changes.items():
        print(f"{what}: {changes[0]:+.3f} for {explanation.categories[0][0]}")


if __name__ == "__main__":
    main(sys.argv[1:])
