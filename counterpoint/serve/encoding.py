"""Uploads -> clips: feature records are parsed, video files encoded in a `counterpoint.media.workers.WorkerPool`.

A worker process writes its results into the job's folder, not through a pipe:

===================  ===================================================
``clip.tfrecord``    the clip, with ``features.json`` beside it
``000012.jpg``       a thumbnail of each second
``progress``         the fraction that is done
===================  ===================================================
"""

import asyncio
import base64
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from counterpoint.data.clip import Clip
from counterpoint.data.features import FEATURES_FILE, FeatureSet, encoder_of
from counterpoint.data.records import encode, parse
from counterpoint.data.tfrecord import Shard, Writer
from counterpoint.errors import Error
from counterpoint.media.decode import Limits, OutOfMemoryError, Video
from counterpoint.media.encoders import PictureEncoder
from counterpoint.media.workers import StartError, WorkerError, WorkerPool, cause_of, loaded
from counterpoint.run import RunFolder
from counterpoint.serve.settings import RefusedError, Settings

CLIP = "clip.tfrecord"
PROGRESS = "progress"
THUMBNAIL = (160, 160)  # pixels at most
RECORDS = ".tfrecord"
NAME_LENGTH = 200
FRAME_BYTES, LABELS_BYTES = 64, 1 << 16  # of a record, beside its features


class Task(NamedTuple):
    """A file to encode: the clip's name, and where the file is and the results go."""

    name: str
    path: Path
    folder: Path


async def encode_film(pool: WorkerPool, task: Task, settings: Settings, begun: Callable[[], None]) -> list[str]:
    """Make the clip of a file in one of the pool's processes; returns notes about the file's faults.

    Args:
        pool: the worker processes, with the run's encoders.
        task: the file.
        settings: the limits.
        begun: is called, by another thread, when a process is free for the file.

    Raises:
        RefusedError: there is no clip in it, or more than is allowed.
    """
    limits = settings.max_seconds, settings.max_pixels
    try:
        result = await asyncio.wrap_future(
            pool.submit(_encode, task, *limits, time_limit=settings.time_limit, begun=begun)
        )
    except (WorkerError, OutOfMemoryError) as error:
        raise RefusedError(500 if isinstance(error, StartError) else 422, str(error)) from error
    if isinstance(result, _Refusal):
        raise RefusedError(result.status, result.detail)
    return result


# --- what clients send ------------------------------------------------------------------------------------------------


def name_of(filename: str | None) -> str:
    r"""A client's name for a file, fit to be shown. It is no part of any path.

    >>> name_of(r"C:\films\a.mp4"), name_of("../../etc/passwd"), name_of("a\x00\n\u202eb.mp4"), name_of("..")
    ('a.mp4', 'passwd', 'ab.mp4', 'upload')
    """
    name = printable(PurePosixPath((filename or "").replace("\\", "/")).name)
    return name if name.strip(".") else "upload"


def printable(text: str) -> str:
    """A client's text, such as a clip's id, fit to be shown."""
    return "".join(character for character in text if character.isprintable()).strip()[:NAME_LENGTH]


def records(run: RunFolder, path: Path, name: str, features: str | None, most: int, seconds: int) -> list[Clip]:
    """The clips of an uploaded shard, at least one of which has features.

    Args:
        path: the shard, alone in its folder, which gets the `features.json`.
        name: the shard's name in messages.
        features: the text of a `features.json`; without, the features are taken for YouTube-8M's.
        most: the number of clips that it may hold.
        seconds: the length that a clip may have.

    Raises:
        RefusedError: it is damaged, holds too much, or the run reads other features.
    """
    try:
        if features is not None:
            (path.parent / FEATURES_FILE).write_text(features, encoding="utf-8")
        shard = Shard(path, skip_bad=True)
        if shard.bad:
            raise shard.bad[0]
        if len(shard) > most:
            raise RefusedError(413, f"{name}: {len(shard)} clips; {most} at most in one request")
        # Before any is parsed, which takes up many times its bytes.
        largest = LABELS_BYTES + (seconds + 1) * sum(FRAME_BYTES + 4 * size for size in run.features.sizes.values())
        if len(shard) and (bytes_ := int(shard.lengths.max())) > largest:
            raise RefusedError(413, f"{name}: a clip of {bytes_:,} bytes; of {seconds} s it has {largest:,} at most")
        encoder = encoder_of(path.parent)
        clips = [_record(run, shard, record, encoder, name, seconds, features) for record in range(len(shard))]
        if not any(clip.tracks for clip in clips):
            raise Error("no clips with features")
        return clips
    except (Error, ValueError) as error:
        message = str(error).replace(str(path), name).replace(f"{path.parent}/", "")
        raise RefusedError(422, message if message.startswith(name) else f"{name}: {message}") from error


def _record(
    run: RunFolder, shard: Shard, record: int, encoder: str, name: str, seconds: int, features: str | None
) -> Clip:
    clip = parse(bytes(shard[record]))
    if clip.steps > seconds + 1:  # YouTube-8M has clips of one second more than it documents
        raise RefusedError(413, f"{name}: clip {clip.id!r} lasts {clip.steps} s; {seconds} at most")
    sizes = {modality: track.shape[1] for modality, track in sorted(clip.tracks.items())}
    try:
        run.features.check(FeatureSet(sizes, encoder), run.folder.resolve().name)
    except Error as error:
        hint = "" if features is not None else "; send the features.json beside it as `features`"
        raise Error(f"{error}{hint}") from error
    return clip


# --- the folder of a clip ---------------------------------------------------------------------------------------------


def save(folder: Path, clip: Clip, features: FeatureSet) -> None:
    """Write a clip as a shard of its own, with its features.json."""
    features.save(folder)
    with Writer(folder / CLIP) as writer:
        writer.write(encode(clip))


def progress(folder: Path) -> float:
    """The fraction of a folder's file that is decoded and encoded, from 0 to 1."""
    try:
        return float((folder / PROGRESS).read_text())
    except FileNotFoundError:
        return 0.0


def thumbnail(folder: Path, second: int) -> str | None:
    """A second's frame as a data: URI."""
    path = folder / f"{second:06}.jpg"
    return f"data:image/jpeg;base64,{base64.b64encode(path.read_bytes()).decode()}" if path.exists() else None


# --- in a worker process ----------------------------------------------------------------------------------------------


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
    """An encoder of pictures that writes thumbnails of its frames, and the progress."""

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
