"""Uploaded video files -> clips, in the child processes of a `counterpoint.media.workers.WorkerPool`.

What a process finds goes into the job's folder, not through a pipe:

===================  ===================================================
``clip.tfrecord``    the clip, with ``features.json`` beside it
``000012.jpg``       a thumbnail of each second
``progress``         how much is done
===================  ===================================================
"""

import asyncio
import base64
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from counterpoint.data.clip import Clip
from counterpoint.data.features import FeatureSet
from counterpoint.data.records import encode
from counterpoint.data.tfrecord import Writer
from counterpoint.media.decode import Limits, Video
from counterpoint.media.encoders import PictureEncoder
from counterpoint.media.workers import StartError, WorkerError, WorkerPool, cause_of, loaded
from counterpoint.serve.settings import RefusedError, Settings

CLIP = "clip.tfrecord"
PROGRESS = "progress"
THUMBNAIL = (160, 160)  # pixels at most


class Task(NamedTuple):
    """A file to encode: the clip's name, and where the file is and the results go."""

    name: str
    path: Path
    folder: Path


async def encode_film(pool: WorkerPool, task: Task, settings: Settings, begun: Callable[[], None]) -> list[str]:
    """Make the clip of a file in one of the pool's processes; returns notes of what was amiss with the file.

    Args:
        begun: called, by another thread, when a process is free for the file.

    Raises:
        RefusedError: there is no clip in it, or more than is allowed.
    """
    limits = settings.max_seconds, settings.max_pixels
    try:
        result = await asyncio.wrap_future(
            pool.submit(_encode, task, *limits, time_limit=settings.time_limit, begun=begun)
        )
    except WorkerError as error:
        raise RefusedError(500 if isinstance(error, StartError) else 422, str(error)) from error
    if isinstance(result, _Refusal):
        raise RefusedError(result.status, result.detail)
    return result


def save(folder: Path, clip: Clip, features: FeatureSet) -> None:
    """A clip in the folder of its own that `Dataset` reads."""
    features.save(folder)
    with Writer(folder / CLIP) as writer:
        writer.write(encode(clip))


def progress(folder: Path) -> float:
    """How much of a folder's file is decoded and encoded, from 0 to 1."""
    try:
        return float((folder / PROGRESS).read_text())
    except FileNotFoundError:
        return 0.0


def thumbnail(folder: Path, second: int) -> str | None:
    """A second's frame as a data: URI."""
    path = folder / f"{second:06}.jpg"
    return f"data:image/jpeg;base64,{base64.b64encode(path.read_bytes()).decode()}" if path.exists() else None


# --- in a child -------------------------------------------------------------------------------------------------------


class _Refusal(NamedTuple):
    status: int
    detail: str


def _encode(task: Task, seconds: int, pixels: int) -> list[str] | _Refusal:
    longest = seconds + 1  # the last second need not be whole
    limits = Limits(longest + 1, pixels)
    encoders = loaded()
    try:
        with Video(task.path, limits) as video:
            duration = video.duration
        if duration and duration > longest:
            return _Refusal(413, f"lasts {duration:.0f} s; {seconds} s at most")
        watched = replace(encoders, picture=_Watched(encoders.picture, task.folder, duration or longest))
        clip, notes = watched.encode(task.path, task.name, limits)
        if clip.steps > longest:
            return _Refusal(413, f"lasts {clip.steps} s or more; {seconds} s at most")
        save(task.folder, clip, encoders.features)
        return notes
    except Exception as error:
        return _Refusal(422, cause_of(error, task.path))


class _Watched:
    """An encoder of pictures that keeps thumbnails of what it sees, and says how far it is."""

    def __init__(self, encoder: PictureEncoder, folder: Path, seconds: float) -> None:
        self.encoder = encoder
        self.folder = folder
        self.seconds = seconds
        self.seen = 0
        self.features = encoder.features
        self.fingerprint = encoder.fingerprint

    def size(self, width: float, height: float) -> tuple[int, int]:
        return self.encoder.size(width, height)

    def __call__(self, frames: UInt8[Tensor, "frame height width 3"]) -> Float[Tensor, "frame feature"]:
        features = self.encoder(frames)
        for frame in frames.numpy():
            image = Image.fromarray(frame)
            image.thumbnail(THUMBNAIL, Image.Resampling.BILINEAR)  # half the cost of the default
            image.save(self.folder / f"{self.seen:06}.jpg", quality=75)
            self.seen += 1
        new = self.folder / f".{PROGRESS}"
        new.write_text(f"{min(self.seen / self.seconds, 1.0):.4f}")
        new.replace(self.folder / PROGRESS)
        return features
