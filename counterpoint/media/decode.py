"""A video file -> one frame a second and its sound at 16 kHz, both counted from the start of its picture.

Step k's frame is the one on show at k seconds, or that appears within `SOON` of it; its sound is the second from k to
k + 1. The last frame is on show as long as the sound goes on. Frames that no other frame is predicted from, and that no
step needs, are not decoded: a first pass over the packets' times finds them. The other frames stay the same, bit for
bit. Damaged packets are counted and passed over. Where a file's clock begins again, as in recordings that were joined,
the second recording follows the first.

Nothing but the file is opened: formats that name other files (playlists, ``concat:``) are refused, and all protocols
but ``file``.
"""

import contextlib
import io
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import av
import av.logging
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import Type
from av.stream import Disposition
from av.video.stream import VideoStream
from jaxtyping import UInt8

from counterpoint.errors import Error
from counterpoint.files import FILMS
from counterpoint.media.sound import Sound, SoundDecoder

# Everything that one file alone can be; hls, concat, dash and the like are left out.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpegts,mpeg,mpegvideo,m4v,h264,hevc,mjpeg,ogg,asf,nut,mxf,dv,ivf,rm,"
    "gif,wav,mp3,flac,aac,aiff,amr,ac3"
)
OPTIONS = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
SUFFIXES = FILMS
"""Of the files that are looked for in folders."""
_SOUNDS = "aac ac3 aiff amr flac gif m4a mka mp3 oga ogg opus wav wma"
SOUNDS = frozenset(f".{name}" for name in _SOUNDS.split(" "))
"""Of further files that are read where they are named."""
UNSPECIFIED = (0, 2)  # colour spaces
HIGH_DEFINITION = 720  # lines, from which on a picture without a colour space has BT.709's
NO_MEMORY = "get_buffer() failed"

EARLY = 0.05  # of a file's stated length, which may be missing without a note
SOON = 0.02  # seconds: half of what a frame takes at the usual rates
JUMP = 1.0  # seconds by which a clock that begins again is earlier
SEAM = 0.3  # seconds that a recording may seem longer where another one follows, by frames that come late
FAR = 60.0  # seconds: a picture so much later than the one before, beyond the stated length, has a damaged time
GARBAGE, FEW = 0.5, 20  # of so many packets and more: where more are damaged, what was decoded is not the film
ENCRYPTED = ("encv", "enca", "drmi", "drms")

Frame = UInt8[np.ndarray, "height width 3"]
Size = Callable[[float, float], tuple[int, int]]


class OutOfMemoryError(Error):
    """Decoding or encoding a file takes more memory than the process may have."""


class Limits(NamedTuple):
    """What a file may be: ``seconds`` are decoded at most, and pictures of more ``pixels`` refused (8192 x 4320)."""

    seconds: int = 300
    pixels: int = 8192 * 4320


DEFAULT = Limits()


class Video:
    """A file, decoded once: first `frames`, to the end, then `sound`; both are empty where the file has none.

    Used as a context. ``notes`` are lines about what was amiss, if anything.

    Raises:
        Error: it cannot be opened, or is none of the known formats, or its picture is too large.
    """

    def __init__(self, path: str | Path, limits: Limits = DEFAULT) -> None:
        self.path = Path(path)
        self.limits = limits
        self.notes: list[str] = []
        self._damaged = 0
        self._stack = contextlib.ExitStack()
        self._log = self._stack.enter_context(logged())
        try:
            self._container = self._stack.enter_context(self._open())
            self._picture = _picture(self._container)
            self._audio = self._track()
            if self._picture is None and self._audio is None:
                raise Error(f"{self.path}: neither picture nor sound that can be decoded")
            if self._picture is not None:
                self._check(self._picture)
        except BaseException:
            self._stack.close()
            raise
        self._sound = SoundDecoder(limits.seconds)
        self._clock = _Clock()
        self._packets_read = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def duration(self) -> float | None:
        """The stated length in seconds."""
        return None if self._container.duration is None else self._container.duration / av.time_base

    def frames(self, size: Size) -> Iterator[Frame]:
        """The frame of each second in RGB, upright, with square pixels.

        Args:
            size: (width, height) of the picture as it is shown -> what to scale it to.

        Raises:
            Error: nothing of the file can be decoded.
        """
        chooser = _Chooser(self.limits.seconds)
        for time, end, frame in self._decoded():
            for chosen in chooser.add(time, end, frame):
                yield self._rgb(chosen, size)
        if self._packets_read > FEW and self._damaged > GARBAGE * self._packets_read:
            raise Error(
                f"{self.path}: {self._damaged:,} of its {self._packets_read:,} packets cannot be decoded: it is "
                "encrypted or damaged; make a copy that plays without a key"
            )
        sounding = int(self._sound.present.nonzero()[0].max(initial=-1)) + 1
        if chooser.last is not None and sounding > chooser.end + 1:
            self.notes.append(f"the picture ends after {chooser.end:.0f} s; its last frame stays to {sounding} s")
        if joined := len(self._clock.recordings) - 1:
            self.notes.append(f"its clock begins again: {joined + 1} recordings follow each other")
            chooser.end -= joined * SEAM
        for chosen in chooser.rest(sounding):
            yield self._rgb(chosen, size)
        steps, audible = chooser.steps, self._sound.present.any()
        if not steps and not audible:
            if self._sound.position:
                what = "sound that is silent" if self._sound.silent else "less than half a second of sound"
                raise Error(f"{self.path}: no picture, and {what}")
            raise Error(f"{self.path}: nothing in it can be decoded{self._because()}")
        if self._damaged:
            self.notes.append(f"damaged packets: {self._damaged}")
        self._note_length(max(chooser.end, self._sound.position))
        self.notes += self._sound.notes
        silent = "sound: its track is silent" if self._sound.silent else "sound"
        self.notes += [f"no {what}" for what, found in (("picture", steps), (silent, audible)) if not found]

    def _note_length(self, ended: float) -> None:
        """Note what is missing at the end, and what was cut."""
        length, most = self._stated() or 0.0, self.limits.seconds
        if length > most + 0.5 and ended > most - 1:
            self.notes.append(f"cut at {most} of {length:.0f} s (--max-seconds takes more)")
        elif ended < min(length, most) - max(1, EARLY * length):
            self.notes.append(f"ends after {ended:.0f} of {length:.0f} s")

    def _stated(self) -> float | None:
        """The stated length in seconds from the start of the picture, or of the sound without one."""
        container = self._container
        start = start_of(self._picture or self._audio)
        if container.duration is None:
            return None
        late = max(0.0, start - container.start_time / av.time_base) if start and container.start_time else start or 0
        return float(container.duration / av.time_base - late)

    def sound(self) -> Sound:
        """The sound, after `frames`."""
        return self._sound.sound()

    # --- opening ---

    def _track(self) -> Any:
        """The audio track that a player takes: the default one, else the first."""
        tracks = [stream for stream in self._container.streams.audio if stream.codec_context is not None]
        chosen = next((stream for stream in tracks if stream.disposition & Disposition.default), None)
        chosen = chosen or next(iter(tracks), None)
        if chosen is not None and len(tracks) > 1:
            self.notes.append(f"audio track {tracks.index(chosen) + 1} of {len(tracks)} was taken, as players do")
        return chosen

    def _open(self) -> InputContainer:
        try:
            if not self.path.stat().st_size:
                raise Error(f"{self.path}: empty")
            return av.open(f"file:{self.path}", options=OPTIONS, metadata_errors="replace")
        except av.FFmpegError as error:
            raise Error(f"{self.path}: not a video file that can be read{self._because(error)}") from error
        except OSError as error:
            raise Error(f"{self.path}: {error.strerror or error}") from error

    def _check(self, stream: VideoStream) -> None:
        if stream.codec_context.codec_tag in ENCRYPTED:
            raise Error(f"{self.path}: encrypted; make a copy that plays without a key")
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > self.limits.pixels:
            raise Error(
                f"{self.path}: a picture of {width} x {height} pixels; the limit is {self.limits.pixels:,} pixels"
            )
        stream.codec_context.options = {"max_pixels": str(self.limits.pixels)}  # should it grow on the way

    def _because(self, error: av.FFmpegError | None = None) -> str:
        """FFmpeg's first message, in parentheses."""
        messages = [message.strip() for level, _, message in self._log if level <= av.logging.ERROR]
        cause = messages[0] if messages else str(error.strerror) if error else ""
        if cause.startswith("Format not on whitelist"):  # which FFmpeg then lists
            cause = "A playlist, a picture, or of another kind that is not read"
        return f" ({cause[0].lower()}{cause[1:].rstrip('.')})" if cause else ""

    # --- decoding ---

    def _decoded(self) -> Iterator[tuple[float, float, av.VideoFrame]]:
        """(seconds, end in seconds, frame) in the order of display; the sound is decoded meanwhile."""
        picture: Any = self._picture
        audio: Any = self._audio
        wanted = self._wanted() if picture is not None else None
        start = start_of(picture) if picture is not None else start_of(audio) if audio is not None else None
        streams: list[Any] = [stream for stream in (picture, audio) if stream is not None]
        for stream in streams:
            stream.codec_context.thread_count = 1
        interval = min(1.0, 1 / float((picture and picture.average_rate) or 25))  # where frames have no time
        going = set(streams)
        count, before, stated = 0, -math.inf, self._stated()
        for packet in self._packets(self._container, streams):
            stream = packet.stream
            if stream not in going:
                continue
            self._packets_read += bool(packet.size)
            if stream is picture and wanted is not None and packet.size:
                stream.codec_context.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
            try:
                frames = packet.decode()
            except av.FFmpegError as error:
                if any(NO_MEMORY in message for _, _, message in self._log[-8:]):  # FFmpeg calls the packet damaged
                    raise OutOfMemoryError(f"{self.path}: its pictures take more memory than is allowed") from error
                self._damaged += 1
                continue
            for frame in frames:
                if frame.pts is None:
                    time = count * interval if stream is picture else math.nan
                else:
                    start = frame.time if start is None else start
                    time = self._clock.time(stream.index, frame.time - start, _length(frame))
                if stream is picture:
                    count += 1
                    end = time + (_length(frame) or interval)
                    if stated and max(time, end) > max(stated, before) + FAR:
                        self.notes.append(f"the times of its pictures are damaged after {max(0.0, before):.0f} s")
                        going.discard(stream)
                        if time > max(stated, before) + FAR:
                            break
                        end = max(stated, time + interval)
                    yield time, end, frame
                    over, before = time > self.limits.seconds, time
                else:
                    over = self._sound.add(time, frame)
                if over:
                    going.discard(stream)
            if not going:
                return

    def _packets(self, container: InputContainer, streams: list[Any]) -> Iterator[Any]:
        """Packets to the end, or to where the file breaks off; last come empty ones, which empty the decoders."""
        try:
            yield from container.demux(*streams)
        except av.FFmpegError as error:
            self.notes.append(f"breaks off{self._because(error)}")
            for stream in streams:
                last = av.Packet()
                last.stream = stream
                yield last

    def _wanted(self) -> set[int] | None:
        """The times, in the stream's unit, of the packets that are nearest to a step; None if packets have no times."""
        with logged(), self._open() as container:
            stream = _picture(container)
            assert stream is not None
            times, unit, start = [], float(stream.time_base or 1), start_of(stream)
            clock = -math.inf  # of the packets in the order of the file
            last = math.inf if start is None else (start + self.limits.seconds + 1) / unit
            with contextlib.suppress(av.FFmpegError):  # the second pass will report it
                for packet in container.demux(stream):
                    if not packet.size or packet.is_discard:
                        continue
                    if packet.pts is None:
                        return None
                    times.append(packet.pts)
                    if packet.dts is not None:
                        if packet.dts * unit < clock - JUMP:  # it begins again
                            return None
                        clock = packet.dts * unit
                    if packet.dts is not None and packet.dts > last:
                        break
            if not times:
                return None
            ordered = np.unique(np.array(times, np.int64))
            first = ordered[0] if start is None else start / unit
            length = max(0, math.ceil((ordered[-1] - first) * unit))  # the last one is the nearest to all later steps
            seconds = min(self.limits.seconds, length)
            targets = first + np.arange(seconds + 1) / unit
            # The one on show and, where rounding may decide, the next one too, so that one place chooses.
            latest = [targets + soon / unit for soon in (SOON - 1e-3, SOON + 1e-3)]
            near = [np.searchsorted(ordered, each, "right").clip(1) - 1 for each in latest]
            return set(ordered[np.concatenate(near)].tolist())

    def _rgb(self, frame: av.VideoFrame, size: Size) -> Frame:
        assert self._picture is not None
        transposed, *flipped = orientation(frame)
        shown = (frame.width * float(self._picture.sample_aspect_ratio or 1), float(frame.height))
        width, height = size(*(shown[::-1] if transposed else shown))
        if transposed:
            width, height = height, width
        space = None
        if frame.colorspace in UNSPECIFIED:
            space = "ITU709" if frame.height >= HIGH_DEFINITION else "ITU601"
        try:
            rgb = frame.reformat(width, height, "rgb24", src_colorspace=space, interpolation="AREA", threads=1)
        except av.FFmpegError as error:
            raise Error(f"{self.path}: its picture cannot be converted ({error.strerror})") from error
        upright = np.asarray(rgb.to_ndarray(), np.uint8)
        upright = upright.transpose(1, 0, 2) if transposed else upright
        return upright[:: -1 if flipped[0] else 1, :: -1 if flipped[1] else 1]


def orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """How a stored picture becomes upright: rows and columns swapped, then turned upside down, then mirrored.

    The display matrix of a file maps a stored pixel (x, y) to (a x + c y, b x + d y) on the screen.
    """
    matrix: Any = frame.side_data.get(Type.DISPLAYMATRIX)  # type: ignore[call-overload]
    if matrix is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, d < 0, a < 0
    return True, b < 0, c < 0


def _length(frame: Any) -> float:
    """How long a frame lasts, in seconds; 0 if the file does not state it."""
    if isinstance(frame, av.AudioFrame):
        return frame.samples / frame.sample_rate
    return float((frame.duration or 0) * (frame.time_base or 0))


class _Clock:
    """Times that go on where a file's clock begins again, the same for picture and sound."""

    def __init__(self) -> None:
        self.recordings = [0.0]  # by recording, what is added to its times
        self.at: dict[int, tuple[int, float]] = {}  # by stream, its recording and its last time
        self.ends: dict[int, float] = {}

    def time(self, stream: int, time: float, length: float) -> float:
        recording, last = self.at.get(stream, (0, -math.inf))
        if time < last - JUMP:
            recording += 1
            if recording == len(self.recordings):
                self.recordings.append(self.ends[stream] - time)
        self.at[stream] = recording, time
        time += self.recordings[recording]
        self.ends[stream] = time + length
        return time


class _Chooser:
    """Of frames in the order of display, the one on show at each second."""

    def __init__(self, seconds: int) -> None:
        self.seconds = seconds
        self.steps = 0
        self.last: av.VideoFrame | None = None
        self.time = self.end = -math.inf

    def add(self, time: float, end: float, frame: av.VideoFrame) -> Iterator[av.VideoFrame]:
        if time <= self.time:  # out of order
            return
        while self.steps < self.seconds and self.steps < time - SOON:
            self.steps += 1
            yield self.last if self.last is not None else frame  # before the first one, that
        self.last, self.time, self.end = frame, time, end

    def rest(self, sounding: int) -> Iterator[av.VideoFrame]:
        """The last frame, for as long as it is shown or there is sound."""
        while self.last is not None and self.steps < min(self.seconds, max(self.end - 1e-3, sounding)):
            self.steps += 1
            yield self.last


def is_media(path: Path) -> bool:
    """Whether a file, whatever its name, is of a kind that is decoded here."""
    try:
        with logged(), av.open(f"file:{path}", options=OPTIONS) as container:
            return bool(container.streams.video or container.streams.audio)
    except (OSError, av.FFmpegError):
        return False


def _picture(container: InputContainer) -> VideoStream | None:
    """The film, not its cover; of several, the default, then the largest."""
    films = [
        stream
        for stream in container.streams.video
        if stream.codec_context is not None and not stream.disposition & Disposition.attached_pic
    ]
    return max(
        films,
        key=lambda s: (bool(s.disposition & Disposition.default), s.codec_context.width * s.codec_context.height),
        default=None,
    )


def start_of(stream: Any) -> float | None:
    """Where a stream begins, in seconds; None if the file does not state it."""
    return (
        None if stream.start_time is None or stream.time_base is None else float(stream.start_time * stream.time_base)
    )


@contextlib.contextmanager
def logged() -> Iterator[list[tuple[int, str, str]]]:
    """FFmpeg's messages, which are kept from the terminal."""
    level = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)  # or a message about the file before is repeated
    try:
        with av.logging.Capture() as messages:
            yield messages
    finally:
        av.logging.set_level(level)


def thumbnail(path: str | Path, size: tuple[int, int] = (240, 180)) -> bytes | None:
    """A frame from the middle of a video file as PNG, within (width, height); None where it has no picture to show."""
    try:
        with (
            logged(),
            av.open(f"file:{path}", options={"protocol_whitelist": "file", "format_whitelist": FORMATS}) as container,
        ):
            stream = _picture(container)
            if stream is None:
                return None
            if container.duration:
                container.seek(container.duration // 2)
            image: Any = next(container.decode(stream)).to_image()  # type: ignore[no-untyped-call]
    except (OSError, StopIteration, av.FFmpegError):
        return None
    image.thumbnail(size)
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()
