"""How well recommendations suit a history, and how fast they are.

    python benchmarks/recommend.py RUN --library SHARDS [--index DIR] [--sweep]
    python benchmarks/recommend.py --random 200000

The first: each labelled clip of the library is a history of one, and of the 10 clips recommended for it those count
that have one of its most specific true categories, which no recommender is shown. Then histories of three clips that
share no category: how many of the three find such a clip among the 9 recommended, with interests and
with one mean for the history. Beside the recommender stand its two halves, the nearest clips by the raw features, the
clips of the most frequent categories (the same for all, as there are no views to count), and clips drawn at random.
``--sweep`` tries other weights of the categories, on other shards than those that are reported.

The second: an index of random rows, which have no structure that would help, is built and searched. The share
of the exact neighbours that a large library's index finds is measured on the first's library.
"""

import argparse
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from counterpoint import recommendation as recommending
from counterpoint.data.dataset import Dataset
from counterpoint.evaluation.survey import survey
from counterpoint.recommendation import Library, Rows, beside, build, recommend
from counterpoint.run import RunFolder
from counterpoint.taxonomy import Taxonomy

TOP = 10
MIXED = 500  # histories of three

Answer = Callable[[int], list[int]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?")
    parser.add_argument("--library", nargs="+", default=[])
    parser.add_argument("--index", type=Path, default=None)
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--random", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.random:
        timing(args.random)
    if args.run:
        quality(RunFolder.load(args.run), args.library, args.index, args.sweep)


def quality(run: RunFolder, paths: list[str], folder: Path | None, sweep: bool) -> None:
    dataset = Dataset(paths, run.labelling)
    plain = Dataset(paths, run.labelling, labelled=False)
    answers = survey(run, plain, folder or beside(run, plain), vectors=True)
    labels = np.stack([dataset[i][1] for i in range(len(dataset))])
    specific = most_specific(labels, run.labelling.taxonomy)
    asked = np.flatnonzero(specific.any(1))
    console = Console()
    weights = (0.0, 0.25, 0.5, 0.75, 1.0) if sweep else (recommending.CATEGORIES, 0.0, 1.0)
    libraries = {}
    for weight in weights:
        rows = Rows.of(answers, weight)
        libraries[weight] = Library(rows, build(rows, len(rows), rows.size), run.labelling.taxonomy)
    named = {0.0: "embeddings alone", 1.0: "categories alone"}
    methods: dict[str, Answer] = {}
    for weight, library in libraries.items():
        methods[named.get(weight, f"recommend (c = {weight:g})")] = nearest(library)
    raw = features(dataset)
    methods["raw features"] = lambda clip: order(raw @ raw[clip], clip)
    frequency = (specific * specific.sum(0)).max(1).astype(float)
    methods["popularity"] = lambda clip: order(frequency, clip)
    random = np.random.default_rng(0)
    methods["random"] = lambda clip: order(random.random(len(dataset)), clip)
    table = Table("by", "of 10 share it, %", "at least one does, %", title=f"{len(asked):,} histories of one clip")
    for name, answer in methods.items():
        hits = np.stack([(specific[answer(clip)] & specific[clip]).any(1) for clip in asked.tolist()])
        table.add_row(name, f"{100 * hits.mean():.1f}", f"{100 * hits.any(1).mean():.1f}")
    console.print(table)
    console.print(f"the large library's index finds {100 * recall(libraries[weights[0]].rows):.1f} % of the 10 nearest")

    histories = [mixed(random, asked, labels) for _ in range(MIXED)]
    table = Table("by", "of 3 served, %", "all served, %", title=f"{MIXED} histories of three unlike clips, 9 places")
    library = libraries[weights[0]]
    threshold = recommending.ALIKE
    for name, alike in (("interests", threshold), ("one mean", -np.inf)):
        recommending.ALIKE = alike
        served(table, name, specific, histories, lambda three: together(library, three))
    recommending.ALIKE = threshold
    served(table, "popularity", specific, histories, lambda three: order(frequency, *three)[:9])
    served(table, "random", specific, histories, lambda three: order(random.random(len(dataset)), *three)[:9])
    console.print(table)


def recall(rows: Rows) -> float:
    """How many of the 10 nearest an index as a large library has finds, looking at as many as recommending does."""
    exact, recommending.EXACT = recommending.EXACT, 0
    index = build(rows, len(rows), rows.size)
    recommending.EXACT = exact
    found = []
    for query in rows[slice(0, 300)]:
        nearest = np.argsort(-np.concatenate([rows[chunk] @ query for chunk in recommending.chunks(len(rows))]))[:TOP]
        found.append(np.isin(nearest, index.search(query[None], TOP + recommending.SPARE)[1][0]).mean())
    return float(np.mean(found))


def most_specific(labels: Any, taxonomy: Taxonomy) -> Any:
    """(clip, category): true categories without a true one below."""
    above = labels @ (taxonomy.with_ancestors & ~np.eye(len(taxonomy), dtype=bool))
    return labels & ~above


def nearest(library: Library) -> Answer:
    name = library.rows.survey.name

    def answer(clip: int) -> list[int]:
        row = library.rows[np.array([clip])][0]
        return [found for _, found in library.neighbours(row, TOP, {name(clip)})]

    return answer


def features(dataset: Dataset) -> Any:
    """Each modality's mean as a unit vector, side by side."""
    parts = []
    for i in range(len(dataset)):
        tracks = dataset.clip(i).tracks
        means = {name: tracks[name].astype(np.float32).mean(0) for name in sorted(tracks)}
        parts.append(np.concatenate([mean / max(np.linalg.norm(mean), 1e-12) for mean in means.values()]))
    return np.stack(parts)


def order(scores: Any, *without: int) -> list[int]:
    scores = scores.copy()
    scores[list(without)] = -np.inf
    best: list[int] = np.argsort(-scores, kind="stable")[:TOP].tolist()
    return best


def mixed(random: np.random.Generator, asked: Any, labels: Any) -> list[int]:
    while True:
        three = random.choice(asked, 3, replace=False)
        if (labels[three].sum(0) <= 1).all():
            return [int(clip) for clip in three]


def together(library: Library, three: list[int]) -> list[int]:
    name = library.rows.survey.name
    chosen = recommend(library, [name(clip) for clip in three], 9)
    return library.find([clip.id for clip in chosen.clips])


def served(table: Table, name: str, specific: Any, histories: list[list[int]], answer: Any) -> None:
    """How many clips of each history find one that shares a most specific category."""
    found = []
    for three in histories:
        answered = specific[answer(three)]
        found.append([(answered & specific[clip]).any() for clip in three])
    table.add_row(name, f"{100 * np.mean(found):.1f}", f"{100 * np.all(found, 1).mean():.1f}")


class RandomRows:
    """Rows as `Rows` gives them, of normal numbers: made as they are asked for."""

    size = 1024 + 640

    def __getitem__(self, clips: Any) -> Any:
        numbers = range(clips.start, clips.stop) if isinstance(clips, slice) else clips
        made = np.random.default_rng(int(numbers[0])).standard_normal((len(numbers), self.size), np.float32)
        return made / np.linalg.norm(made, axis=1, keepdims=True)


def timing(count: int) -> None:
    rows = RandomRows()
    begun = time.process_time()
    index = build(rows, count, rows.size)
    built = time.process_time() - begun
    queries = rows[slice(0, 200)]
    begun = time.process_time()
    for query in queries:
        index.search(query[None], TOP + recommending.SPARE)
    asked = (time.process_time() - begun) / len(queries)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"{count:,} rows of {rows.size}: built in {built:.0f} s, asked in {1000 * asked:.1f} ms of processor time, "
        f"{peak:.2f} GB of memory at most"
    )


if __name__ == "__main__":
    main()
