"""What extracting features of video files costs, as ratios in one run.

    python benchmarks/media.py [--seconds 10] [--repeats 3] [--file FILM] [--workers N]

* Processor time, of a 720p film at 30 frames a second with sound (rendered here, or --file): decoding one frame a
  second and the sound, the same with the `lite` encoders, and a bare PyAV loop that decodes every frame and all the
  sound. Each is the best of `--repeats`, taken in turn, on one thread.
* Memory: the largest that a process has ever been after a film of a minute, and after one of five minutes (the same
  minute, five times), both 320 x 240.
* Workers: clips a second with one worker and with N, on copies of a short film. It tells something where N cores idle.
"""

import argparse
import multiprocessing
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import torch
from rich.console import Console
from rich.table import Table

from counterpoint.media import encoders, render
from counterpoint.media.decode import Video
from counterpoint.media.extract import Source, encode_all

COPIES = 8  # files for each worker


def bare(path: Path) -> None:
    with av.open(str(path)) as container:
        streams: list[Any] = [*container.streams.video[:1], *container.streams.audio[:1]]
        for stream in streams:
            stream.codec_context.thread_count = 1
        for packet in container.demux(*streams):
            for _ in packet.decode():
                pass


def decoded(path: Path, size: Callable[[float, float], tuple[int, int]]) -> None:
    with Video(path) as video:
        for _ in video.frames(size):
            pass
        video.sound()


def processor_seconds(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """The least of each way, after one round that warms up."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats + 1):
        for name, way in ways.items():
            start = time.process_time()
            way()
            times[name].append(time.process_time() - start)
    return {name: min(taken[1:]) for name, taken in times.items()}


def lengthened(source: Path, target: Path, times: int) -> Path:
    """The film several times over, packet by packet."""
    with av.open(str(target), "w") as new:
        made: dict[int, Any] = {}
        for number in range(times):
            with av.open(str(source)) as old:
                for stream in old.streams:
                    if number == 0:
                        made[stream.index] = new.add_stream_from_template(stream)
                length = (old.duration or 0) / av.time_base + 0.5  # sound begins a little before the picture
                for packet in old.demux():
                    if packet.size and packet.pts is not None and packet.dts is not None:
                        shift = round(number * length / packet.time_base)
                        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                        packet.stream = made[packet.stream.index]
                        new.mux(packet)
    return target


def peak(path: str) -> int:
    """In a process of its own: its largest size in kB after this film."""
    torch.set_num_threads(1)
    encoders.build(encoders.LITE).encode(path, "film")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def clips_per_second(sources: list[Source], workers: int) -> float:
    """From the first clip on, so that starting the workers does not count."""
    results = encode_all(sources, encoders.LITE, workers)
    for _ in range(workers):
        next(results)
    start = time.perf_counter()
    rest = sum(1 for _ in results)
    return rest / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10, help="of the rendered film")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--file", type=Path, help="a film to take instead of the rendered one")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lite = encoders.build(encoders.LITE)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        film = options.file or folder / "720p.mp4"
        if options.file is None:
            render.film(film, "Balls:Music", 0, options.seconds, (1280, 720), 30)
        ways: dict[str, Callable[[], object]] = {
            "bare loop, every frame": lambda: bare(film),
            "decoded": lambda: decoded(film, lite.picture.size),
            "decoded and encoded (lite)": lambda: lite.encode(film, "film"),
        }
        taken = processor_seconds(ways, options.repeats)

        render.film(folder / "minute.mp4", "Rain:Wind", 0, 60, (320, 240), 10)
        long = lengthened(folder / "minute.mp4", folder / "five.mp4", 5)
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            sizes = [pool.apply(peak, (str(path),)) for path in (folder / "minute.mp4", long)]

        render.film(folder / "short.mp4", "Rain:Wind", 0, 20, (640, 360), 25)
        copies = [folder / f"{number}.mp4" for number in range(COPIES * options.workers)]
        for copy in copies:
            shutil.copyfile(folder / "short.mp4", copy)
        sources = [Source(copy.name, copy) for copy in copies]
        one, many = clips_per_second(sources, 1), clips_per_second(sources, options.workers)

    base = taken["bare loop, every frame"]
    table = Table("what", "processor s", "x bare loop", title=f"{film.name}")
    for what, seconds in taken.items():
        table.add_row(what, f"{seconds:.2f}", f"{seconds / base:.2f}")
    Console().print(table)
    print(f"memory: {sizes[0] / 1024:.0f} MB after one minute, {sizes[1] / 1024:.0f} MB after five")
    print(f"workers: {one:.2f} clips/s with 1, {many:.2f} with {options.workers}: x {many / one:.2f}")


if __name__ == "__main__":
    main()
