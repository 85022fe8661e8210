"""Video files and subtitles. FFmpeg reads them, so nothing can say what is right in a damaged one: what comes out has
to be of the form that encoders take, within the limits, and soon.
"""

import io
import math
from collections.abc import Iterator
from functools import cache
from random import Random
from typing import Any

import av
import numpy as np

from counterpoint.errors import Error
from counterpoint.media.decode import Limits, Video
from counterpoint.media.text import spoken
from fuzz.target import Target, mutated, scratch

LIMITS = Limits(seconds=5, pixels=640 * 640)
FORMATS = [  # container, codecs of picture and sound
    *(
        ("mp4", "libx264", "aac"),
        ("mp4", "mpeg4", None),
        ("matroska", "libx264", "libopus"),
        ("webm", "libvpx", "libopus"),
    ),
    *(("avi", "mpeg4", "mp3"), ("mpegts", "mpeg2video", "mp2"), ("wav", None, "pcm_s16le"), ("flac", None, "flac")),
    *(("flv", "flv1", "mp3"), ("gif", "gif", None), ("ogg", None, "libvorbis"), ("mov", "mjpeg", "pcm_s16le")),
]


@cache
def _films() -> list[bytes]:
    """Films of a second, one in each form that this FFmpeg writes."""
    made = []
    for form in FORMATS:
        try:
            made.append(_film(*form))
        except (av.FFmpegError, ValueError):
            continue  # an encoder that is not in this build
    return made


def _film(container: str, picture: str | None, sound: str | None) -> bytes:
    random, out = np.random.default_rng(0), io.BytesIO()
    with av.open(out, "w", format=container) as file:
        streams: list[tuple[Any, list[Any]]] = []
        if picture:
            video: Any = file.add_stream(picture, rate=8)
            video.width, video.height, video.pix_fmt = 48, 32, video.codec.video_formats[0].name
            shown = np.kron(random.integers(0, 255, (8, 4, 6, 3), np.uint8), np.ones((1, 8, 8, 1), np.uint8))
            video.codec_context.thread_count = 1  # the same bytes every time
            streams.append((video, [av.VideoFrame.from_ndarray(frame, "rgb24") for frame in shown]))
        if sound:
            audio: Any = file.add_stream(sound, rate=48_000 if sound == "libopus" else 22_050)
            samples = random.normal(0, 3000, (1, audio.rate // 2)).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(samples, "s16", "mono")
            frame.rate = audio.rate
            streams.append((audio, [frame]))
        for stream, frames in streams:
            for frame in (*frames, None):
                file.mux(stream.encode(frame))
    return out.getvalue()


def draw_film(random: Random) -> bytes:
    whole = random.choice(_films())
    if random.random() < 0.3:  # what says what the file is stands at its beginning or its end
        part = mutated(random, whole[:600], whole[:64].split(b"\x00"))
        return part + whole[600:]
    if random.random() < 0.3:
        return whole[:-600] + mutated(random, whole[-600:])
    return mutated(random, whole, [random.choice(_films())[:400], b"\x00\x00\x00\x01", b"moov", b"\x1a\x45\xdf\xa3"])


def _small(width: float, height: float) -> tuple[int, int]:
    return 32, 32


def check_film(content: bytes) -> bool:
    path = scratch() / "film.bin"
    path.write_bytes(content)
    try:
        with Video(path, LIMITS) as video:
            frames = list(video.frames(_small))
            sound = video.sound()
    except Error:
        return False
    assert len(frames) <= LIMITS.seconds
    assert all(frame.shape == (32, 32, 3) and frame.dtype == np.uint8 for frame in frames)
    assert sound.seconds.shape == (len(sound.present), 16_000)
    assert len(sound.present) <= LIMITS.seconds
    assert np.isfinite(sound.seconds).all()
    assert np.abs(sound.seconds).max(initial=0) <= 1
    return True


# --- Subtitles --------------------------------------------------------------------------------------------------------


def draw_subtitles(random: Random) -> bytes:
    """A letter that tells the form, then the file; without changes, cues that `_said` can tell."""
    form = random.choice(("s", "v"))
    lines = [] if form == "s" else ["WEBVTT", ""]
    for number, (begin, end, words) in enumerate(_cues(random), 1):
        mark = "," if form == "s" else "."
        lines += [str(number), f"{_stamp(begin, mark)} --> {_stamp(end, mark)}", words, ""]
    text = form.encode() + "\n".join(lines).encode()
    if random.random() < 0.3:
        return text
    tokens = [
        b"<b>",
        b"{\\an8}",
        b"-->",
        b"99:99:99,999",
        b"\r\n",
        b"\xff",
        b"\x00",
        b"&nbsp;",
        b"WEBVTT",
        b"NOTE",
        b"-1:",
    ]
    return form.encode() + mutated(random, text[1:], tokens)


def _cues(random: Random) -> Iterator[tuple[int, int, str]]:
    """Beginning and end in milliseconds, and words."""
    begin = 0
    for number in range(random.choice((0, 1, 3, 6))):
        begin += random.choice((1, 400, 1700))
        end = begin + random.choice((1, 500, 2300))
        yield begin, end, f"word{number}"
        begin = end


def _stamp(milliseconds: int, mark: str) -> str:
    return f"00:00:{milliseconds // 1000:02}{mark}{milliseconds % 1000:03}"


def check_subtitles(content: bytes) -> bool:
    for ending in (".srt", ".vtt"):
        (scratch() / f"spoken{ending}").unlink(missing_ok=True)
    (scratch() / ("spoken.srt" if content[:1] == b"s" else "spoken.vtt")).write_bytes(content[1:])
    try:
        words = spoken(scratch() / "spoken.mp4", LIMITS.seconds)
    except Error:
        return False
    assert len(words) <= LIMITS.seconds
    assert all(isinstance(text, str) and "\n" not in text for text in words)
    if (plain := _plain(content)) is not None:
        assert words == plain, (words, plain)
    return True


def _plain(content: bytes) -> list[str] | None:
    """The words of each second, where the file has the form of those that are drawn; None for others.

    FFmpeg ends a WebVTT file at a time with a comma, which is none there, and shows cues by their times.
    """
    mark, last = (b"," if content[:1] == b"s" else b"."), 0.0
    words: list[list[str]] = []
    blocks = content[1:].removeprefix(b"WEBVTT\n\n").split(b"\n\n")
    for number, block in enumerate(blocks, 1):
        lines = block.rstrip(b"\n").split(b"\n")
        if len(blocks) == 1 and lines == [b""]:
            return None  # no cues at all
        stamps = lines[1].split(b" --> ") if len(lines) == 3 else []
        if lines[0] != str(number).encode() or len(stamps) != 2 or lines[2] != f"word{number - 1}".encode():
            return None
        times = []
        for stamp in stamps:
            if (
                len(stamp) != 12
                or stamp[:6] != b"00:00:"
                or not (stamp[6:8] + stamp[9:]).isdigit()
                or stamp[8:9] != mark
            ):
                return None
            times.append(int(stamp[6:8] + stamp[9:]) / 1000)
        if not last <= times[0] < times[1]:
            return None
        last = times[0]
        for second in range(int(times[0]), min(LIMITS.seconds, math.ceil(times[1]))):
            words += [[] for _ in range(second + 1 - len(words))]
            words[second].append(lines[2].decode())
    return [" ".join(second) for second in words]


TARGETS = [
    Target("film", draw_film, check_film, quick=60, seconds=30.0),
    Target("subtitles", draw_subtitles, check_subtitles, quick=200),
]
