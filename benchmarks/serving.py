"""A load test of `counterpoint serve` on loopback, against calling the library directly, in one run.

    python benchmarks/serving.py [--films 48] [--records 600] [--workers N] [--clients 16]

* Films: short video files, sent by many clients at once, and the same files given to the library's own extraction and
  prediction with as many workers (which are warm in both cases).
* Records: feature records of a minute, one a request and in shards of 32, and the same predicted by the library: one at
  a time, and in batches of 32.
* Every answer is compared with the library's prediction for its clip, so that none is lost or mixed up.
* Memory: the server's and its children's resident set after a third of each kind of requests, and at the end.

The model is `nv-cm` in full size over the shipped 640 categories; its weights are random, which costs what trained ones
cost. Server, children and clients share the machine's cores; processor time (of server and children, and of one thread
of the library) does not depend on what else there is to do, and is best taken with OMP_NUM_THREADS=1.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from counterpoint.data.clip import Clip
from counterpoint.data.features import FEATURES_FILE
from counterpoint.data.records import encode, parse
from counterpoint.data.tfrecord import Writer
from counterpoint.media import encoders
from counterpoint.media import films as render
from counterpoint.media.decode import DEFAULT
from counterpoint.media.encoders import Encoded, Encoders
from counterpoint.media.workers import Source, encode_all
from counterpoint.predict import Predictor
from counterpoint.recipes import RECIPES
from counterpoint.run import RunFolder
from counterpoint.serve.batching import BATCH
from counterpoint.taxonomy.mapping import youtube8m

DIFFERENT = 12  # films; more are copies of them
SECONDS = 4  # of a film
STEPS = 60  # of a record
TOLERANCE = 1e-4
HTTP = "HTTP"


class Cost(NamedTuple):
    """Clips a second, and processor milliseconds a clip."""

    rate: float
    processor: float


class Server:
    """The real server, in a process of its own."""

    def __init__(self, run: Path, workers: int) -> None:
        command = [sys.executable, "-m", "counterpoint.cli.main", "serve", str(run), "--port", "0"]
        command += ["--workers", str(workers), "--capacity", "100000", "--keep-jobs", "100"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr
        line = self.process.stderr.readline()
        address = re.search(r"http://\S+", line)
        assert address, line
        self.client = httpx.Client(base_url=address[0], timeout=600, limits=httpx.Limits(max_connections=None))

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()

    @property
    def processes(self) -> list[str]:
        """The server and its children."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [str(self.process.pid), *children]

    def megabytes(self) -> float:
        """Resident memory of the server and its children."""
        pages = sum(int(Path(f"/proc/{process}/statm").read_text().split()[1]) for process in self.processes)
        return pages * os.sysconf("SC_PAGESIZE") / 1e6

    def processor_seconds(self) -> float:
        """What the server and its children have computed."""
        stats = [Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split() for process in self.processes]
        return sum(int(stat[11]) + int(stat[12]) for stat in stats) / os.sysconf("SC_CLK_TCK")

    def ask(self, path: Path, features: str) -> list[dict[str, float]]:
        """The best categories' probabilities by path, of the one clip of a file."""
        with path.open("rb") as file:
            data = {"features": features} if features else {}
            answer = self.client.post("/v1/categorize?wait=60", files={"file": (path.name, file)}, data=data)
        return [_probabilities(_done(answer))]

    def ask_all(self, path: Path, features: str) -> list[dict[str, float]]:
        """The same of all clips of a shard."""
        with path.open("rb") as file:
            data = {"features": features}
            answer = self.client.post("/v1/categorize/batch?wait=60", files={"files": (path.name, file)}, data=data)
        return [_probabilities(job["answer"]) for job in _done(answer)["jobs"]]


def _done(answer: httpx.Response) -> dict[str, Any]:
    answer.raise_for_status()
    assert answer.status_code == 200, "not done within a minute"
    return dict(answer.json())


def _probabilities(answer: dict[str, Any]) -> dict[str, float]:
    return {category["path"]: category["probability"] for category in answer["categories"]}


def sent(
    ask: Callable[[Path, str], list[dict[str, float]]], paths: Sequence[Path], features: str, clients: int
) -> tuple[float, list[dict[str, float]]]:
    """Clips a second, and the answers."""
    begun = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        answers = [answer for answers in pool.map(lambda path: ask(path, features), paths) for answer in answers]
    return len(answers) / (time.perf_counter() - begun), answers


def extracted(paths: Sequence[Path], workers: int) -> tuple[float, dict[str, Clip]]:
    """Clips a second from when all workers are warm, and the clips."""
    clips: dict[str, Clip] = {}
    warm = 2 * workers
    begun = 0.0
    sources = [Source(f"{number}/{path.name}", path) for number, path in enumerate([paths[0]] * warm + list(paths))]
    for number, (source, encoded) in enumerate(encode_all(sources, encoders.LITE, workers, DEFAULT, 600), 1):
        assert isinstance(encoded, Encoded)
        clips[source.path.name] = encoded.clip
        begun = time.perf_counter() if number == warm else begun
    return len(paths) / (time.perf_counter() - begun), clips


def predicted(predictor: Predictor, paths: Sequence[Path], batch: int) -> None:
    """What records hold, from their bytes."""
    for first in range(0, len(paths), batch):
        predictor.predict_clips([parse(path.read_bytes()[12:-4]) for path in paths[first : first + batch]])


def encoded(lite: Encoders, predictor: Predictor, paths: Sequence[Path]) -> float:
    """Processor milliseconds a film takes the library, in this process."""
    begun = time.process_time()
    predictor.predict_clips([lite.encode(path, path.name).clip for path in paths])
    return 1000 * (time.process_time() - begun) / len(paths)


def check(run: RunFolder, predictor: Predictor, clips: Sequence[Clip], answers: Sequence[dict[str, float]]) -> None:
    for clip, answer in zip(clips, answers, strict=True):
        (prediction,) = predictor.predict_clips([clip])
        expected = dict(zip(run.labelling.taxonomy.paths, prediction.probabilities.tolist(), strict=True))
        for path, probability in answer.items():
            assert abs(expected[path] - probability) < TOLERANCE, (
                f"{clip.id}: {path} {probability}, not {expected[path]}"
            )


def timed(table: Table, name: str, methods: dict[str, Callable[[], Cost]], repeats: int) -> None:
    """Each method in turn, some times; the best of each, and how the server compares with the others."""
    costs: dict[str, list[Cost]] = {method: [] for method in methods}
    for _ in range(repeats):
        for method, measure in methods.items():
            costs[method].append(measure())
    best = {method: Cost(max(c.rate for c in all_), min(c.processor for c in all_)) for method, all_ in costs.items()}
    served = best[HTTP]
    for method, cost in best.items():
        ratios = (f"{served.rate / cost.rate:.2f}", f"{cost.processor / served.processor:.2f}")
        table.add_row(
            name, method, f"{cost.rate:.1f}", f"{cost.processor:.1f}", *(("", "") if method == HTTP else ratios)
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=48)
    parser.add_argument("--records", type=int, default=600)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()
    console = Console()
    table = Table("what", "method", "clips a second", "processor ms a clip", "HTTP / method", "by processor")
    memory: dict[str, tuple[float, float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        lite = encoders.build(encoders.LITE)
        torch.manual_seed(0)
        plain = RunFolder(folder / "run", RECIPES["nv-cm"], youtube8m(), lite.features)
        plain.save()
        plain.save_weights(plain.build())
        run = RunFolder.load(folder / "run")
        predictor = Predictor(run)
        server = Server(folder / "run", args.workers)
        console.print(f"rendering {DIFFERENT} films of {SECONDS} s", highlight=False)
        films = [folder / f"{number}.mp4" for number in range(DIFFERENT)]
        for number, path in enumerate(films):
            render.film(path, render.CATEGORIES[number % len(render.CATEGORIES)], number, SECONDS)
        films = [films[number % DIFFERENT] for number in range(args.films)]
        lite.features.save(folder)
        features = (folder / FEATURES_FILE).read_text(encoding="utf-8")
        random = np.random.default_rng(0)
        records, clips = [], []
        for number in range(args.records):
            codes = {
                name: random.integers(0, 256, (STEPS, size), np.uint8) for name, size in run.features.sizes.items()
            }
            clips.append(Clip(f"clip {number}", np.zeros(0, np.int64), codes))
            records.append(folder / f"{number}.tfrecord")
            with Writer(records[-1]) as writer:
                writer.write(encode(clips[-1]))
        shards = []
        for start in range(0, len(clips), BATCH):
            shards.append(folder / f"shard-{start}.tfrecord")
            with Writer(shards[-1]) as writer:
                for clip in clips[start : start + BATCH]:
                    writer.write(encode(clip))
        try:
            for name, paths, description in (("films", films, ""), ("records", records, features)):
                third = len(paths) // 3
                _, first = sent(server.ask, paths[:third], description, args.clients)
                before = server.megabytes()
                _, rest = sent(server.ask, paths[third:], description, args.clients)
                memory[name] = before, server.megabytes()
                by_name = extracted(films[:DIFFERENT], args.workers)[1] if name == "films" else {}
                expected = [by_name[path.name] for path in films] if by_name else clips
                check(run, predictor, expected, first + rest)
            check(run, predictor, clips, sent(server.ask_all, shards, features, args.clients)[1])
            console.print(f"{len(films)} films, {len(records)} records: none lost, none mixed up", highlight=False)

            def served(
                paths: Sequence[Path], description: str, ask: Callable[[Path, str], list[dict[str, float]]] = server.ask
            ) -> Cost:
                before = server.processor_seconds()
                rate, answers = sent(ask, paths, description, args.clients)
                return Cost(rate, 1000 * (server.processor_seconds() - before) / len(answers))

            def from_films() -> Cost:
                rate, by_name = extracted(films, args.workers)
                begun = time.perf_counter()
                for start in range(0, len(films), BATCH):
                    predictor.predict_clips([by_name[path.name] for path in films[start : start + BATCH]])
                seconds = len(films) / rate + time.perf_counter() - begun
                return Cost(len(films) / seconds, encoded(lite, predictor, films[:DIFFERENT]))

            def from_records(batch: int) -> Cost:
                begun, worked = time.perf_counter(), time.process_time()
                predicted(predictor, records, batch)
                spent = time.process_time() - worked
                return Cost(len(records) / (time.perf_counter() - begun), 1000 * spent / len(records))

            timed(table, "films", {HTTP: lambda: served(films, ""), "library": from_films}, args.repeats)
            library = {
                "library, one at a time": lambda: from_records(1),
                f"library, batches of {BATCH}": lambda: from_records(BATCH),
            }
            timed(table, "records, one a request", {HTTP: lambda: served(records, features), **library}, args.repeats)
            batched = {HTTP: lambda: served(shards, features, server.ask_all), **library}
            timed(table, f"records, {BATCH} a request", batched, args.repeats)
        finally:
            server.stop()
    console.print(table)
    for name, (before, after) in memory.items():
        line = f"memory after a third of the {name} {before:.0f} MB, after all {after:.0f} MB"
        console.print(line, highlight=False)


if __name__ == "__main__":
    main()
