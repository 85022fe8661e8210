"""Uploads -> clips: feature records are parsed, video files encoded in child processes that have their encoders loaded.

Each child is a pool of its own, so that whatever becomes of it (a crash, a hang, the system's out-of-memory killer)
costs its own file and no other. Its results go into the job's folder, not through a pipe:

===================  ===================================================
``clip.tfrecord``    the clip, with ``features.json`` beside it
``000012.jpg``       a thumbnail of each second
``progress``         the fraction that is done
===================  ===================================================
"""

import asyncio
import base64
import contextlib
import multiprocessing
import resource
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Float, UInt8
from pebble import ProcessExpired, ProcessPool
from PIL import Image
from torch import Tensor

from counterpoint.data.clip import Clip
from counterpoint.data.features import FEATURES_FILE, FeatureSet, encoder_of
from counterpoint.data.records import encode, parse
from counterpoint.data.tfrecord import Shard, Writer
from counterpoint.errors import Error
from counterpoint.media import encoders
from counterpoint.media.decode import Limits, Video
from counterpoint.media.encoders import Encoders, PictureEncoder
from counterpoint.media.workers import uninterrupted
from counterpoint.run import RunFolder
from counterpoint.serve.settings import RefusedError, Settings

CLIP = "clip.tfrecord"
PROGRESS = "progress"
THUMBNAIL = (160, 160)  # pixels at most
RECORDS = ".tfrecord"
NAME_LENGTH = 200
FRAME_BYTES, LABELS_BYTES = 64, 1 << 16  # of a record, beside its features

NO_MEMORY = ("allocate memory", "could not create a primitive")  # in the errors of PyTorch and oneDNN
STARTING = 60.0  # seconds that a new child may take before it begins with a file

T = TypeVar("T")


class CrashedError(RefusedError):
    """The child is gone, or was ended."""


class Task(NamedTuple):
    """A file to encode: the clip's name, and where the file is and the results go."""

    name: str
    path: Path
    folder: Path


class WorkerPool:
    """Warm child processes; `encode` takes the first that is free."""

    def __init__(self, encoders_name: str, settings: Settings) -> None:
        self.settings = settings
        self._children = [_Child(encoders_name, settings.memory) for _ in range(settings.workers)]
        self._free: asyncio.Queue[_Child] = asyncio.Queue()
        self._renewing: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Load the encoders in all of them."""
        await asyncio.gather(*(child.warm() for child in self._children))
        for child in self._children:
            self._free.put_nowait(child)

    async def stop(self) -> None:
        """End them."""
        for renewing in self._renewing:
            renewing.cancel()
        await asyncio.gather(*(child.stop() for child in self._children))

    async def encode(self, task: Task, begun: Callable[[], None]) -> list[str]:
        """Make the clip of a file; returns notes of what was amiss with it.

        Args:
            begun: is called when a child has taken it up.

        Raises:
            RefusedError: there is no clip in it, or more than is allowed.
        """
        child = await self._free.get()
        gone = False
        try:
            begun()
            settings = self.settings
            told = await child.do(settings.time_limit, _encode, task, settings.max_seconds, settings.max_pixels)
        except (CrashedError, asyncio.CancelledError):
            gone = True
            raise
        finally:
            if gone:
                renewing = asyncio.create_task(self._renew(child))
                self._renewing.add(renewing)
                renewing.add_done_callback(self._renewing.discard)
            else:
                self._free.put_nowait(child)
        if isinstance(told, _No):
            raise RefusedError(told.status, told.detail)
        return told

    async def _renew(self, child: "_Child") -> None:
        await child.renew()
        with contextlib.suppress(RefusedError):  # the next file will find out
            await child.warm()
        self._free.put_nowait(child)


@dataclass
class _Child:
    encoders: str
    memory: int
    pool: ProcessPool = field(init=False)

    def __post_init__(self) -> None:
        self.pool = self._pool()

    def _pool(self) -> ProcessPool:
        spawn = multiprocessing.get_context("spawn")
        return ProcessPool(1, initializer=_begin, initargs=(self.encoders, self.memory), context=spawn)

    async def warm(self) -> None:
        await self.do(None, _ready)

    async def do(self, seconds: float | None, function: Callable[..., T], *args: Any) -> T:
        longest = None if seconds is None else seconds + STARTING
        for patience in (True, False):
            try:
                async with asyncio.timeout(longest):
                    with uninterrupted():
                        future = self.pool.schedule(function, args, timeout=seconds)
                    return await asyncio.wrap_future(future)
            except TimeoutError:
                raise CrashedError(422, f"took more than {seconds:g} s") from None
            except ProcessExpired as error:
                raise CrashedError(422, f"the decoder crashed (exit code {error.exitcode})") from None
            except (BrokenProcessPool, RuntimeError) as error:  # it was killed while it had nothing to do
                if not patience:
                    raise CrashedError(500, f"the decoder could not be started ({error})") from error
                await self.renew()
        raise AssertionError

    async def renew(self) -> None:
        await self.stop()
        self.pool = self._pool()

    async def stop(self) -> None:
        def end(pool: ProcessPool) -> None:
            pool.stop()  # type: ignore[no-untyped-call]
            pool.join()

        await asyncio.to_thread(end, self.pool)


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


# --- in a child -------------------------------------------------------------------------------------------------------

_encoders: Encoders | None = None


class _No(NamedTuple):
    status: int
    detail: str


def _begin(name: str, memory: int) -> None:
    global _encoders
    torch.set_num_threads(1)
    _encoders = encoders.build(name)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if (status := Path("/proc/self/status")).exists():  # elsewhere the limit would be no limit
        used = next(line for line in status.read_text().splitlines() if line.startswith("VmData"))
        allowed = 1024 * int(used.split()[1]) + memory
        resource.setrlimit(resource.RLIMIT_DATA, (allowed, allowed))


def _ready() -> None:
    """Done when the encoders are loaded."""


def _encode(task: Task, seconds: int, pixels: int) -> list[str] | _No:
    assert _encoders is not None
    longest = seconds + 1  # the last second need not be whole
    limits = Limits(longest + 1, pixels)
    try:
        with Video(task.path, limits) as video:
            duration = video.duration
        if duration and duration > longest:
            return _No(413, f"lasts {duration:.0f} s; {seconds} s at most")
        watched = replace(_encoders, picture=_Watched(_encoders.picture, task.folder, duration or longest))
        clip, notes = watched.encode(task.path, task.name, limits)
        if clip.steps > longest:
            return _No(413, f"lasts {clip.steps} s or more; {seconds} s at most")
        save(task.folder, clip, _encoders.features)
        return notes
    except Error as error:
        return _No(422, str(error).removeprefix(f"{task.path}: "))
    except Exception as error:
        if isinstance(error, MemoryError) or any(text in str(error) for text in NO_MEMORY):
            return _No(422, "decoding it takes more memory than is allowed")
        return _No(422, f"{type(error).__name__}: {error}")


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
