"""What extracting features of video files costs, as ratios in one run.

    python benchmarks/media.py [--seconds 10] [--repeats 3] [--workers N] [--parts decoding memory workers] [FILM ...]

* ``decoding``: processor time of a 720p film at 30 frames a second with sound (rendered here) and of each FILM: a bare
  PyAV loop that decodes every frame and all the sound; one frame a second and the sound as `extract` has them; the same
  with the `lite` encoders. Each is the least of ``--repeats``, taken in turn, on one thread. What there is to gain
  depends on how many frames no other is predicted from.
* ``memory``: the largest that a process has ever been after a film of half a minute, and after one of ten minutes (the
  same, twenty times), both decoded to their end.
* ``workers``: clips a second with one worker and with N, on copies of a short film, where N cores idle.
"""

import argparse
import multiprocessing
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import av
import torch
from rich.console import Console
from rich.table import Table

from counterpoint.media import encoders
from counterpoint.media import films as render
from counterpoint.media.decode import Limits, Video
from counterpoint.media.workers import Source, encode_all

COPIES = 8  # files for each worker
PARTS = ("decoding", "memory", "workers")


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


def processor_seconds(methods: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """The least of each method, after a first round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(repeats + 1):
        for name, method in methods.items():
            start = time.process_time()
            method()
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
    encoders.build(encoders.LITE).encode(path, "film", Limits(seconds=600))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def clips_per_second(sources: list[Source], workers: int) -> float:
    """From the first clip on, so that starting the workers does not count."""
    results = encode_all(sources, encoders.LITE, workers)
    for _ in range(workers):
        next(results)
    start = time.perf_counter()
    rest = sum(1 for _ in results)
    return rest / (time.perf_counter() - start)


def decoding(films: list[Path], repeats: int) -> None:
    """Print the processor time of each method for each film."""
    lite = encoders.build(encoders.LITE)
    for film in films:
        methods: dict[str, Callable[[], object]] = {
            "bare loop, every frame": partial(bare, film),
            "decoded": partial(decoded, film, lite.picture.size),
            "decoded and encoded (lite)": partial(lite.encode, film, "film"),
        }
        taken = processor_seconds(methods, repeats)
        base = taken["bare loop, every frame"]
        table = Table("what", "processor s", "x bare loop", title=film.name)
        for what, seconds in taken.items():
            table.add_row(what, f"{seconds:.3f}", f"{seconds / base:.2f}")
        Console().print(table)


def memory(folder: Path) -> None:
    """Print how large a process becomes."""
    render.film(folder / "half.mp4", "Rain:Wind", 0, 30, (320, 240), 10)
    long = lengthened(folder / "half.mp4", folder / "ten.mp4", 20)
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        short, tall = (pool.apply(peak, (str(path),)) / 1024 for path in (folder / "half.mp4", long))
    print(f"memory: {short:.0f} MB after half a minute, {tall:.0f} MB after ten minutes: x {tall / short:.2f}")


def workers(folder: Path, count: int) -> None:
    """Print what more workers are good for."""
    render.film(folder / "short.mp4", "Rain:Wind", 0, 4, (640, 360), 25)
    many = lengthened(folder / "short.mp4", folder / "whole.mp4", 4)
    copies = [folder / f"{number}.mp4" for number in range(COPIES * count)]
    for copy in copies:
        shutil.copyfile(many, copy)
    sources = [Source(copy.name, copy) for copy in copies]
    one, all_of_them = clips_per_second(sources, 1), clips_per_second(sources, count)
    gain = all_of_them / one
    print(f"workers: {one:.2f} clips/s with 1, {all_of_them:.2f} with {count}: x {gain:.2f}, {gain / count:.2f} each")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("films", nargs="*", type=Path, metavar="FILM", help="to decode besides the rendered one")
    parser.add_argument("--seconds", type=float, default=10, help="of the rendered film")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "decoding" in options.parts:
            render.film(folder / "720p.mp4", "Balls:Music", 0, options.seconds, (1280, 720), 30)
            decoding([folder / "720p.mp4", *options.films], options.repeats)
        if "memory" in options.parts:
            memory(folder)
        if "workers" in options.parts:
            workers(folder, options.workers)


if __name__ == "__main__":
    main()
