"""Short made-up films as real files: what the demo, the tutorial, the benchmark and the tests extract.

    python -m counterpoint.media.films FOLDER      # films to train on and to test with, and their labels.csv

A picture (rain, balls, rings) has three sounds that belong to it, and a film's category is its picture and below that
its sound. In a quarter of the films the sound is one of another picture, as muzak is: such a film is in the category of
its picture alone. So neither modality determines the category, and it helps to know whether they belong together.
Colours, numbers, speeds, pitches, noise and loudness vary between films.
"""

import csv
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

RATE = 24_000  # samples a second
LARGEST = 2**15 - 1

Random = np.random.Generator
Waves = NDArray[np.float64]


def write(
    path: Path,
    frames: Sequence[NDArray[np.uint8]] | Iterator[NDArray[np.uint8]] | None,
    sound: Waves | None,
    *,
    fps: int = 25,
    codec: str = "libx264",
    sound_codec: str = "aac",
    options: dict[str, str] | None = None,
    pixels: str = "yuv420p",
) -> Path:
    """Write RGB frames (height, width, 3) and sound in [-1, 1] at `RATE` to the kind of file that ``path`` names."""
    with av.open(str(path), "w") as container:
        picture: Any = None
        audio: Any = container.add_stream(sound_codec, rate=RATE, layout="mono") if sound is not None else None
        for number, rgb in enumerate(frames if frames is not None else ()):
            if picture is None:
                picture = container.add_stream(codec, rate=fps, options=options or {})
                picture.height, picture.width, picture.pix_fmt = rgb.shape[0], rgb.shape[1], pixels
                picture.codec_context.thread_count = 1
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(picture.encode(frame))
        if sound is not None:
            samples = (sound.clip(-1, 1) * LARGEST).astype(np.int16)[None]
            for start in range(0, samples.shape[1], 1024):
                chunk = np.ascontiguousarray(samples[:, start : start + 1024])
                part = av.AudioFrame.from_ndarray(chunk, "s16", "mono")
                part.sample_rate, part.pts, part.time_base = RATE, start, Fraction(1, RATE)
                container.mux(audio.encode(part))
        for stream in (picture, audio):
            if stream is not None:
                container.mux(stream.encode(None))
    return path


def film(
    path: Path, kind: str, seed: int, seconds: float = 4, size: tuple[int, int] = (240, 180), fps: int = 10
) -> None:
    """Write a film (width, height) large; the seed decides what varies.

    Args:
        kind: a picture and a sound, such as ``Rain:Wind``: one of `CATEGORIES`, or ``Rain:Music``, whose sound belongs
            to another picture.
    """
    drawing, waves = kind.split(":")
    random = np.random.default_rng((seed, *kind.encode()))
    frames = _pictures(PICTURES[drawing], random, round(seconds * fps), size, fps)
    sound = SOUNDS[waves](random, np.arange(round(seconds * RATE)) / RATE)
    sound = sound / np.abs(sound).max() * random.uniform(0.2, 0.9) + random.normal(0, 0.01, len(sound))
    write(path, frames, sound, fps=fps, options={"preset": "veryfast"})


def _pictures(
    draw: "Drawing", random: Random, count: int, size: tuple[int, int], fps: int
) -> Iterator[NDArray[np.uint8]]:
    """Frames of a drawing in one colour on another, with noise."""
    width, height = size
    y, x = np.mgrid[:height, :width] / height
    ground, ink = random.uniform(0, 110, 3), random.uniform(150, 255, 3)
    objects = random.random((int(random.integers(6, 14)), 4))
    for number in range(count):
        mask = draw(x, y, number / fps, objects)[..., None]
        noise = random.normal(0, 5, (height, width, 1))
        yield (ground * (1 - mask) + ink * mask + noise).clip(0, 255).astype(np.uint8)


# A drawing: coordinates (heights of the picture), time in seconds, random numbers (object, 4) -> mask in [0, 1].
Drawing = Callable[[Waves, Waves, float, Waves], Waves]


def _rain(x: Waves, y: Waves, time: float, objects: Waves) -> Waves:
    mask = np.zeros_like(x)
    for offset in range(4):
        for place, start, speed, length in objects:
            left = (place * 1.4 + offset * 0.31) % 1.4
            down = y - (start + offset / 4 + time * (0.8 + speed)) % 1.2 + 0.1
            line = (np.abs(x - left + 0.1 * down) < 0.006) & (np.abs(down) < 0.04 + 0.05 * length)
            mask[line] = 1
    return mask


def _balls(x: Waves, y: Waves, time: float, objects: Waves) -> Waves:
    mask = np.zeros_like(x)
    for place, phase, speed, radius in objects:
        across = np.abs((place + time * (speed - 0.5)) % 2 - 1) * 1.3
        up = 0.9 - 0.7 * np.abs(np.sin(np.pi * (phase + time * (0.5 + speed))))
        mask[(x - across) ** 2 + (y - up) ** 2 < (0.05 + 0.05 * radius) ** 2] = 1
    return mask


def _rings(x: Waves, y: Waves, time: float, objects: Waves) -> Waves:
    mask = np.zeros_like(x)
    for across, up, phase, speed in objects[:8]:
        radius = 0.4 * ((phase + time * (0.2 + 0.4 * speed)) % 1)
        distance = np.hypot(x - across * 1.3, y - up)
        mask[np.abs(distance - radius) < 0.012] = 1
    return mask


def _wind(random: Random, time: Waves) -> Waves:
    noise = random.normal(size=len(time))
    smooth = np.convolve(noise, np.hanning(int(random.integers(8, 24))), "same")
    return smooth * (1.2 + np.sin(2 * np.pi * random.uniform(0.2, 0.6) * time + random.uniform(0, 6)))


def _music(random: Random, time: Waves) -> Waves:
    beat = random.uniform(0.2, 0.4)
    notes = random.choice([0, 2, 4, 7, 9, 12], 1 + int(time[-1] / beat))
    pitch = random.uniform(220, 440) * 2 ** (notes[(time / beat).astype(int)] / 12)
    phase = np.cumsum(2 * np.pi * pitch / RATE)
    harmonics = np.arange(1, 5)[:, None]
    return np.asarray((np.sin(harmonics * phase) / harmonics).sum(0) * np.exp(-3 * (time % beat)))


def _clockwork(random: Random, time: Waves) -> Waves:
    beat = random.uniform(0.12, 0.3)
    return random.normal(size=len(time)) * np.exp(-150 * (time % beat)) * np.where(time // beat % 2, 1, 0.5)


def _struck(random: Random, time: Waves, beat: float, pitch: float, decay: float) -> Waves:
    """A bell at every beat, each a little higher or lower."""
    strokes = (time / beat).astype(int)
    pitches = pitch * random.uniform(0.9, 1.1, 1 + int(strokes[-1]))[strokes]
    since = time % beat
    partials = np.array([1, 2.76, 5.4])[:, None]
    return np.asarray((np.sin(2 * np.pi * partials * pitches * since) / partials).sum(0) * np.exp(-decay * since))


def _patter(random: Random, time: Waves) -> Waves:
    drops = np.where(random.random(len(time)) < random.uniform(0.002, 0.006), random.normal(size=len(time)), 0)
    return np.convolve(drops, np.exp(-np.arange(60) / 12) * np.sin(np.arange(60) * random.uniform(0.8, 1.2)), "same")


def _thunder(random: Random, time: Waves) -> Waves:
    low = np.convolve(random.normal(size=len(time)), np.hanning(int(random.integers(200, 400))), "same")
    return low * np.exp(-1.2 * ((time + random.uniform(0, 1)) % 2))


def _bounces(random: Random, time: Waves) -> Waves:
    beat = random.uniform(0.35, 0.6)
    since = time % beat
    return np.asarray(np.sin(2 * np.pi * random.uniform(70, 110) * since) * np.exp(-14 * since))


def _whistle(random: Random, time: Waves) -> Waves:
    sweep = random.uniform(1500, 2200) * (1 + 0.2 * np.sin(2 * np.pi * random.uniform(0.5, 1.5) * time))
    return np.asarray(np.sin(np.cumsum(2 * np.pi * sweep / RATE)))


def _bells(random: Random, time: Waves) -> Waves:
    return _struck(random, time, random.uniform(0.5, 0.9), random.uniform(500, 900), 4)


def _hum(random: Random, time: Waves) -> Waves:
    pitch = random.uniform(45, 65)
    return np.asarray(sum(np.sin(2 * np.pi * pitch * k * time + random.uniform(0, 6)) / k for k in range(1, 8)))


PICTURES: dict[str, Drawing] = {"Rain": _rain, "Balls": _balls, "Rings": _rings}
BELONGING: dict[str, dict[str, Callable[[Random, Waves], Waves]]] = {
    "Rain": {"Wind": _wind, "Patter": _patter, "Thunder": _thunder},
    "Balls": {"Bounces": _bounces, "Music": _music, "Whistle": _whistle},
    "Rings": {"Clockwork": _clockwork, "Bells": _bells, "Hum": _hum},
}
"""The sounds that belong to each picture."""
SOUNDS = {name: made for sounds in BELONGING.values() for name, made in sounds.items()}
CATEGORIES = tuple(f"{drawing}:{sound}" for drawing, sounds in BELONGING.items() for sound in sounds)
SWAPPED = 4  # of so many films of a category, one has the sound of another picture


def films(folder: Path, splits: Mapping[str, range]) -> dict[str, list[Path]]:
    """Render ``folder``/SPLIT/PICTURE-SOUND-SEED.mp4 for each split and its seeds, on all cores, and ``labels.csv``.

    A film is in the category of its picture and sound. One in `SWAPPED` has the sound of another picture, and is in the
    category of its picture alone.
    """
    jobs: dict[str, list[tuple[Path, str, int]]] = {}
    labels: dict[Path, str] = {}
    for split, seeds in splits.items():
        jobs[split] = []
        for number, category in enumerate(CATEGORIES):
            for seed in seeds:
                kind = _swapped(number, seed) if (seed + number) % SWAPPED == SWAPPED - 1 else category
                path = folder / split / f"{kind.replace(':', '-').lower()}-{seed}.mp4"
                jobs[split].append((path, kind, seed))
                labels[path] = kind if kind in CATEGORIES else kind.partition(":")[0]
    every = [job for of_split in jobs.values() for job in of_split]
    for split in splits:
        (folder / split).mkdir(parents=True, exist_ok=True)
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        rows = [(path.relative_to(folder).as_posix(), label) for path, label in labels.items()]
        csv.writer(file).writerows([("path", "categories"), *rows])
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        list(pool.map(film, *zip(*every, strict=True)))
    return {split: [path for path, _, _ in of_split] for split, of_split in jobs.items()}


def _swapped(number: int, seed: int) -> str:
    """The picture of a category by number with a sound of another picture."""
    drawing = CATEGORIES[number].partition(":")[0]
    others = [sound for other, sounds in BELONGING.items() if other != drawing for sound in sounds]
    return f"{drawing}:{others[(number + seed) % len(others)]}"


if __name__ == "__main__":
    made = films(Path(sys.argv[1]), {"train": range(7), "test": range(7, 9)})
    print(f"{sys.argv[1]}: {sum(map(len, made.values()))} films and labels.csv")
