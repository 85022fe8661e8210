"""Files are made here, with PyAV; the real clips are decoded where they are present."""

import math
import resource
import struct
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from numpy.typing import NDArray

from counterpoint.errors import Error
from counterpoint.media import decode
from counterpoint.media import films as render
from counterpoint.media.decode import DEFAULT, Limits, Video
from counterpoint.media.sound import RATE, Sound

SECONDS, FPS = 5, 30
BOTH = {"crf": "18", "bf": "3", "g": "60"}  # B-frames, which are the ones that can be passed over


def numbered(count: int, width: int = 64, height: int = 48) -> Iterator[NDArray[np.uint8]]:
    """The greys of a frame's halves are the digits of its number in base 15, far enough apart for any codec."""
    for number in range(count):
        picture = np.full((height, width, 3), 16 + number % 15 * 16, np.uint8)
        picture[:, width // 2 :] = 16 + number // 15 * 16
        yield picture


def numbers(frames: list[NDArray[np.uint8]]) -> list[int]:
    """Which frames they are."""
    halves = [np.array_split(frame, 2, axis=1) for frame in frames]
    digits = [[round((float(half[4:-4, 4:-4].mean()) - 16) / 16) for half in pair] for pair in halves]
    return [low + 15 * high for low, high in digits]


def tone(seconds: float, pitch: float = 440, loudness: float = 0.5) -> render.Waves:
    return loudness * np.sin(2 * np.pi * pitch * np.arange(round(seconds * render.RATE)) / render.RATE)


def decoded(path: Path, limits: Limits = DEFAULT) -> tuple[list[NDArray[np.uint8]], Sound, list[str]]:
    """Frames at their own size, sound and notes."""
    with Video(path, limits) as video:
        frames = list(video.frames(lambda width, height: (round(width), round(height))))
        return frames, video.sound(), video.notes


def shown(path: Path) -> list[int]:
    return numbers(decoded(path)[0])


def error_of(path: Path, limits: Limits = DEFAULT) -> str:
    """The error of a bad file: one line that names it."""
    with pytest.raises(Error) as error:
        decoded(path, limits)
    line = str(error.value)
    assert line.startswith(f"{path}: ")
    assert "\n" not in line
    return line.removeprefix(f"{path}: ")


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 frames with sound."""
    folder = tmp_path_factory.mktemp("film")
    return render.write(folder / "film.mp4", numbered(150), tone(SECONDS), fps=FPS, options=BOTH)


@pytest.fixture(scope="module")
def moving(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film with something to see, in one GOP with B-frames."""
    path = tmp_path_factory.mktemp("moving") / "moving.mp4"
    render.film(path, "Balls:Music", 0, seconds=5, size=(160, 120), fps=30)
    return path


# --- which frames -----------------------------------------------------------------------------------------------------


def test_a_frame_a_second(film: Path) -> None:
    frames, sound, notes = decoded(film)
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * SECONDS
    assert shown(film) == [0, 30, 60, 90, 120]
    assert sound.seconds.shape == (SECONDS, RATE)
    assert sound.present.all()
    assert notes == []


def test_passing_over_frames_changes_none(moving: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0
    original = decode._Chooser.add

    def counting(self: Any, *args: Any) -> Any:
        nonlocal count
        count += 1
        return original(self, *args)

    monkeypatch.setattr(decode._Chooser, "add", counting)
    few, number = decoded(moving)[0], count
    monkeypatch.setattr(Video, "_wanted", lambda self: {p.pts for p in _packets(self.path)})
    count = 0
    every = decoded(moving)[0]
    assert count == 150
    assert number < 110
    assert len(few) == SECONDS
    assert all(np.array_equal(one, other) for one, other in zip(few, every, strict=True))


def _packets(path: Path) -> list[av.Packet]:
    with av.open(str(path)) as container:
        return [packet for packet in container.demux(video=0) if packet.size]


def test_at_most_so_many_seconds(film: Path) -> None:
    frames, sound, _ = decoded(film, Limits(seconds=2))
    assert (len(frames), sound.seconds.shape) == (2, (2, RATE))


def test_one_frame(tmp_path: Path) -> None:
    frames, sound, notes = decoded(render.write(tmp_path / "one.mp4", numbered(1), None))
    assert (len(frames), len(sound.present), notes) == (1, 0, ["no sound"])


def copied(source: Path, target: Path, change: Callable[[av.Packet], av.Packet | None], **streams: Any) -> Path:
    """The file with its packets changed, or left out."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        made = {stream: new.add_stream_from_template(stream) for stream in old.streams}
        for packet in old.demux():
            if packet.size and (changed := change(packet)) is not None:
                changed.stream = made[packet.stream]
                new.mux(changed)
    return target


@pytest.mark.parametrize("name", ["late.mkv", "late.mp4", "late.ts"])
def test_the_start_is_the_streams_own(film: Path, tmp_path: Path, name: str) -> None:
    def later(packet: av.Packet) -> av.Packet:
        shift = round(7.3 / packet.time_base)
        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
        return packet

    late = copied(film, tmp_path / name, later)
    assert shown(late) == [0, 30, 60, 90, 120]
    assert decoded(late)[1].present.all()


def test_frames_at_any_times(tmp_path: Path) -> None:
    """The frame on show at each second, by hand: times 0, 0.4, 1.1, 2.6, 2.9, 4.2."""
    path = tmp_path / "variable.mkv"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=FPS, options=BOTH)
        stream.width, stream.height, stream.pix_fmt, stream.time_base = 64, 48, "yuv420p", Fraction(1, 1000)
        stream.codec_context.time_base = Fraction(1, 1000)
        for time, rgb in zip([0, 400, 1100, 2600, 2900, 4200], numbered(6), strict=True):
            frame = av.VideoFrame.from_ndarray(rgb, "rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert shown(path) == [0, 1, 2, 4, 4]


@pytest.mark.parametrize(
    ("name", "codec", "sound", "pixels"),
    [
        ("film.webm", "libvpx", "libopus", "yuv420p"),
        ("film.mkv", "libx265", "flac", "yuv420p10le"),
        ("film.avi", "mpeg4", "pcm_s16le", "yuv420p"),
        ("film.mov", "libx264", "pcm_s16le", "yuv444p"),
        ("film.mpg", "mpeg2video", "mp2", "yuv420p"),
        ("film.flv", "libx264", "aac", "yuv420p"),
    ],
)
def test_formats(tmp_path: Path, name: str, codec: str, sound: str, pixels: str) -> None:
    path = tmp_path / name
    render.write(path, numbered(75, 128, 96), tone(3), fps=25, codec=codec, sound_codec=sound, pixels=pixels)
    frames, sounds, notes = decoded(path)
    assert numbers(frames) == [0, 25, 50]
    assert sounds.present.all()
    assert len(sounds.present) == 3
    assert notes == []


def test_no_duration(film: Path, tmp_path: Path) -> None:
    """Matroska as it is streamed: neither the file nor its frames say how long."""
    path = tmp_path / "streamed.mkv"
    with av.open(str(film)) as old, av.open(str(path), "w", options={"live": "1"}) as new:
        made = {stream: new.add_stream_from_template(stream) for stream in old.streams}
        for packet in old.demux():
            if packet.size:
                packet.stream = made[packet.stream]
                packet.duration = 0
                new.mux(packet)
    with av.open(str(path)) as container:
        assert container.duration is None
    assert shown(path) == [0, 30, 60, 90, 120]


# --- how they look ----------------------------------------------------------------------------------------------------


def quarters(count: int) -> Iterator[NDArray[np.uint8]]:
    """Red, green; blue, white."""
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :32], picture[:24, 32:], picture[24:, :32], picture[24:] = (250, 0, 0), (0, 250, 0), (0, 0, 250), 0
    picture[24:, :32], picture[24:, 32:] = (0, 0, 250), (250, 250, 250)
    yield from [picture] * count


def test_rotation(tmp_path: Path) -> None:
    """Filmed on its side, with the note to turn it by 90 degrees against the clock."""
    path = tmp_path / "turned.mp4"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25, options={"crf": "4"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.set_display_rotation(90)
        for number, rgb in enumerate(quarters(10)):
            frame = av.VideoFrame.from_ndarray(rgb, "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    (frame,) = decoded(path)[0]
    assert frame.shape == (64, 48, 3)
    corners = [frame[8, 8], frame[8, -8], frame[-8, 8], frame[-8, -8]]
    expected = [(0, 250, 0), (250, 250, 250), (250, 0, 0), (0, 0, 250)]  # turned by hand
    assert np.abs(np.array(corners, int) - expected).max() < 25


def test_pixel_aspect(tmp_path: Path) -> None:
    path = tmp_path / "wide.mp4"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        for number, rgb in enumerate(numbered(5)):
            frame = av.VideoFrame.from_ndarray(rgb, "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert decoded(path)[0][0].shape == (48, 85, 3)


@pytest.mark.parametrize(
    ("full", "height", "expected"), [(False, 48, (211, 53, 19)), (True, 48, (201, 63, 33)), (False, 720, (224, 66, 16))]
)
def test_colours(tmp_path: Path, full: bool, height: int, expected: tuple[int, int, int]) -> None:
    """Y, U, V = 100, 90, 200 in each range, by the formulas of BT.601 and, for many lines, BT.709."""
    path = tmp_path / "colours.mkv"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, height, "yuv420p"
        stream.codec_context.color_range = 2 if full else 1
        frame = av.VideoFrame(64, height, "yuv420p")
        for plane, value in zip(frame.planes, (100, 90, 200), strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        frame.pts, frame.time_base, frame.color_range = 0, Fraction(1, 25), 2 if full else 1
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    u, v = 90 - 128, 200 - 128
    red, blue = (1.5748, 1.8556) if height >= 720 else (1.402, 1.772)
    luma = 100 if full else (100 - 16) * 255 / 219
    scale = 1 if full else 255 / 224
    by_hand = luma + red * scale * v, luma + blue * scale * u
    found = decoded(path)[0][0].reshape(-1, 3).mean(0)
    assert np.abs(found[[0, 2]] - by_hand).max() < 2.5
    assert np.abs(found - expected).max() < 2.5


# --- sound ------------------------------------------------------------------------------------------------------------


def test_sound_is_resampled(film: Path) -> None:
    seconds = decoded(film)[1].seconds
    ideal = 0.5 * np.sin(2 * np.pi * 440 * np.arange(SECONDS * RATE) / RATE)
    middle = slice(RATE, 4 * RATE)
    assert np.corrcoef(seconds.reshape(-1)[middle], ideal[middle])[0, 1] > 0.999
    assert np.abs(seconds[1]).max() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("kind", ["u8", "s16", "s32", "flt"])
def test_channels_are_averaged(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "stereo.mkv"
    codec = {"u8": "pcm_u8", "s16": "pcm_s16le", "s32": "pcm_s32le", "flt": "pcm_f32le"}[kind]
    left, right = 0.75, -0.25  # of the largest
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=RATE, layout="stereo")
        both = np.tile([left, right], RATE)[None]
        stored = {"u8": both * 128 + 128, "s16": both * 2**15, "s32": both * 2**31, "flt": both}[kind]
        types = {"u8": np.uint8, "s16": np.int16, "s32": np.int32, "flt": np.float32}
        frame = av.AudioFrame.from_ndarray(stored.astype(types[kind]), kind, "stereo")
        frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    _, sound, notes = decoded(path)
    assert sound.seconds.mean() == pytest.approx(0.25, abs=0.01)
    assert notes == ["no picture"]


@pytest.mark.parametrize(("length", "steps"), [(2.2, 2), (2.7, 3), (8.0, 8)])
def test_sound_of_another_length(tmp_path: Path, length: float, steps: int) -> None:
    frames, sound, _ = decoded(
        render.write(tmp_path / "a.mkv", numbered(150), tone(length), fps=30, sound_codec="flac")
    )
    assert (len(frames), len(sound.present)) == (max(5, steps), steps)  # the last frame stays while there is sound
    assert sound.present.all()


def test_sound_keeps_its_time(film: Path, tmp_path: Path) -> None:
    """Sound that begins 2 s after the picture, and lacks a second later on."""

    def without(packet: av.Packet) -> av.Packet | None:
        if packet.stream.type == "audio":
            shift = round(2 / packet.time_base)
            packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
            if 4 <= packet.pts * packet.time_base < 5:
                return None
        return packet

    _, sound, _ = decoded(copied(film, tmp_path / "late.mkv", without))
    assert sound.present.tolist() == [False, False, True, True, False, True, True]
    assert np.abs(sound.seconds.reshape(-1)[: 2 * RATE - 1000]).max() < 1e-3  # AAC begins with a short prelude
    assert np.abs(sound.seconds[4, 2000:-2000]).max() < 0.01
    assert sound.seconds[5].std() == pytest.approx(0.5 / math.sqrt(2), rel=0.05)


def test_sound_before_the_picture_is_left_out(film: Path, tmp_path: Path) -> None:
    def later(packet: av.Packet) -> av.Packet:
        if packet.stream.type == "video":
            shift = round(2 / packet.time_base)
            packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
        return packet

    frames, sound, _ = decoded(copied(film, tmp_path / "late.mkv", later))
    assert (len(frames), sound.present.tolist()) == (5, [True] * 3)


def test_a_cover_is_no_film(film: Path, tmp_path: Path) -> None:
    path = tmp_path / "song.mp3"
    with av.open(str(path), "w") as container:
        audio: Any = container.add_stream("mp3", rate=render.RATE, layout="mono")
        cover: Any = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = 0x400
        frame = av.VideoFrame.from_ndarray(next(numbered(1)), "rgb24")
        container.mux(cover.encode(frame))
        container.mux(cover.encode(None))
        samples = (tone(3) * 30000).astype(np.int16)[None]
        part = av.AudioFrame.from_ndarray(samples, "s16", "mono")
        part.sample_rate, part.pts, part.time_base = render.RATE, 0, Fraction(1, render.RATE)
        container.mux(audio.encode(part))
        container.mux(audio.encode(None))
    with av.open(str(path)) as container:
        assert container.streams.video
    frames, sound, notes = decoded(path)
    assert (len(frames), len(sound.present), notes) == (0, 3, ["no picture"])


# --- what is wrong ----------------------------------------------------------------------------------------------------


def test_damaged_packets(film: Path, tmp_path: Path) -> None:
    """6 of 150 packets are noise: everything that is not predicted from them is kept."""
    random = np.random.default_rng(0)
    picked = set(range(62, 80, 3))
    count = -1

    def damaged(packet: av.Packet) -> av.Packet:
        nonlocal count
        count += packet.stream.type == "video"
        if packet.stream.type == "video" and count in picked:
            noise = av.Packet(random.bytes(packet.size))
            noise.pts, noise.dts, noise.time_base = packet.pts, packet.dts, packet.time_base
            noise.stream = packet.stream
            return noise
        return packet

    frames, sound, notes = decoded(copied(film, tmp_path / "damaged.mp4", damaged))
    assert len(frames) == SECONDS
    assert numbers(frames)[3:] == [90, 120]
    assert sound.present.all()
    assert len(notes) == 1
    assert notes[0].startswith("damaged packets: ")
    with Video(tmp_path / "damaged.mp4") as video:
        video._wanted = lambda: None  # type: ignore[method-assign]
        assert sum(1 for _ in video._decoded()) >= 144


def test_truncated(film: Path, tmp_path: Path) -> None:
    """Half a Matroska file is half a film; half an mp4 has lost its table of contents."""
    whole = copied(film, tmp_path / "whole.mkv", lambda packet: packet)
    half = tmp_path / "half.mkv"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    frames, sound, notes = decoded(half)
    assert 2 <= len(frames) < SECONDS
    assert 2 <= len(sound.present) < SECONDS
    assert notes == ["ends after 3 of 5 s"]
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    assert error_of(broken) == "not a video file that can be read (moov atom not found)"


def test_a_table_of_contents_without_contents(film: Path, tmp_path: Path) -> None:
    first = tmp_path / "first.mp4"
    with av.open(str(film)) as old, av.open(str(first), "w", options={"movflags": "faststart"}) as new:
        made = {stream: new.add_stream_from_template(stream) for stream in old.streams}
        for packet in old.demux():
            if packet.size:
                packet.stream = made[packet.stream]
                new.mux(packet)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(first.read_bytes()[: first.read_bytes().index(b"mdat") + 4])
    assert error_of(cut).startswith("nothing in it can be decoded")
    cut.write_bytes(first.read_bytes()[: first.stat().st_size * 7 // 10])
    frames, _, _ = decoded(cut)
    assert 1 <= len(frames) < SECONDS


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("empty.mp4", b"", "empty"),
        ("letter.mp4", b"Dear reader,\n" * 500, "not a video file that can be read"),
        ("noise.mkv", np.random.default_rng(0).bytes(50_000), "not a video file that can be read"),
        ("zeros.mp4", bytes(50_000), "not a video file that can be read"),
        ("list.mp4", b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nfilm.mp4\n#EXT-X-ENDLIST\n", "not a video"),
        ("list.m3u8", b"#EXTM3U\n#EXTINF:5,\nhttp://localhost:9/film.mp4\n#EXT-X-ENDLIST\n", "not a video"),
        (
            "list.ffconcat",
            b"ffconcat version 1.0\nfile film.mp4\n",
            "not a video file that can be read (a playlist, a p",
        ),
        ("text.srt", b"1\n00:00:00,000 --> 00:00:02,000\nHello\n", "not a video"),
    ],
)
def test_no_films(film: Path, tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    (tmp_path / "film.mp4").write_bytes(film.read_bytes())
    (tmp_path / name).write_bytes(content)
    assert error_of(tmp_path / name).startswith(expected)


@pytest.mark.parametrize("name", ["concat:film.mp4|film.mp4", "http:film.mp4", "file:film.mp4", "-", "a%03d.mp4"])
def test_names_are_only_names(film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert "No such file" in error_of(Path(name))
    Path(name).write_bytes(film.read_bytes())
    assert len(decoded(Path(name))[0]) == SECONDS


def test_not_a_file(tmp_path: Path) -> None:
    assert "irectory" in error_of(tmp_path)


def test_too_large(tmp_path: Path) -> None:
    """Refused by what its header says: 15,360 x 8,640 pixels would be 400 MB a frame."""
    small = render.write(tmp_path / "small.avi", numbered(2), None, codec="ffv1")
    path = tmp_path / "large.avi"
    path.write_bytes(small.read_bytes().replace(struct.pack("<II", 64, 48), struct.pack("<II", 15360, 8640)))
    assert error_of(path) == "a picture of 15360 x 8640 pixels; the limit is 35,389,440 pixels"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert error_of(path).startswith("a picture of")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_a_limit_of_ones_own(film: Path) -> None:
    assert error_of(film, Limits(pixels=3000)).startswith("a picture of 64 x 48 pixels; the limit is 3,000 pixels")


# --- real ones --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "steps", "audible"),
    [("v_GGSY1Qvo990.mp4", 19, 18), ("v_ZNVhz7ctTq0.mp4", 14, 14), ("women_long_jump.mp4", 36, 35)],
)
def test_real_clips(real_data: Path, name: str, steps: int, audible: int) -> None:
    path = real_data / "media" / name
    if not path.exists():
        pytest.skip(f"no {path}")
    frames, sound, notes = decoded(path)
    assert (len(frames), int(sound.present.sum()), notes) == (steps, audible, [])
    with av.open(str(path)) as container:  # an independent choice of the frames: all of them, by time
        stream = container.streams.video[0]
        every = [
            (frame.time, frame.reformat(format="rgb24", src_colorspace="ITU601")) for frame in container.decode(stream)
        ]
    for step, frame in enumerate(frames):
        on_show = [picture for time, picture in every if time - every[0][0] <= step + 0.02][-1]
        assert np.abs(frame.astype(int) - on_show.to_ndarray()).mean() < 1


# --- what players do --------------------------------------------------------------------------------------------------

MATRICES = {
    "mirrored": ((-1, 0, 0, 1), lambda picture: picture[:, ::-1]),
    "upside down": ((1, 0, 0, -1), lambda picture: picture[::-1]),
    "transposed": ((0, 1, 1, 0), lambda picture: picture.transpose(1, 0, 2)),
    "turned right": ((0, 1, -1, 0), lambda picture: np.rot90(picture, -1)),
    "turned left": ((0, -1, 1, 0), lambda picture: np.rot90(picture)),
    "turned round": ((-1, 0, 0, -1), lambda picture: np.rot90(picture, 2)),
}


@pytest.mark.parametrize("name", MATRICES)
def test_display_matrices(tmp_path: Path, name: str) -> None:
    """As players show them: (a, b, c, d) maps a stored pixel (x, y) to (a x + c y, b x + d y)."""
    picture = np.full((48, 64, 3), 20, np.uint8)
    picture[:24, :32], picture[:24, 32:], picture[24:, :32] = 220, 140, 80
    path = render.write(tmp_path / "a.mp4", [picture] * 25, None)
    (upright, *_), _, _ = decoded(path)
    (a, b, c, d), expected = MATRICES[name]
    content = bytearray(path.read_bytes())
    header = content.find(b"tkhd") + 4
    place = header + 4 + (32 if content[header] else 20) + 16
    one = 1 << 16
    struct.pack_into(">9i", content, place, a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    (frame, *_), _, _ = decoded(path)
    assert frame.shape == expected(upright).shape
    assert np.abs(frame.astype(int) - expected(upright).astype(int)).mean() < 1


def with_sounds(path: Path, sounds: list[NDArray[np.float32]], layout: str, default: int = 0) -> Path:
    """A sound file with a track for each of (channel, sample), of which one is the default."""
    with av.open(str(path), "w") as container:
        streams: list[Any] = [container.add_stream("flac", rate=RATE, layout=layout) for _ in sounds]
        for number, stream in enumerate(streams):
            stream.disposition = Disposition.default if number == default else Disposition(0)
        for stream, sound in zip(streams, sounds, strict=True):
            stored = np.ascontiguousarray((sound.T * 32767).reshape(1, -1).astype(np.int16))
            frame = av.AudioFrame.from_ndarray(stored, "s16", layout)
            frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return path


def rms(sound: Sound) -> float:
    return float(np.sqrt(np.square(sound.seconds).mean()))


def test_the_default_audio_track(tmp_path: Path) -> None:
    wave = np.sin(np.arange(2 * RATE) / 5).astype(np.float32)
    quiet, loud = (np.stack([loudness * wave] * 2) for loudness in (0.1, 0.5))
    path = with_sounds(tmp_path / "a.mkv", [quiet, loud], "stereo", default=1)
    _, sound, notes = decoded(path)
    assert rms(sound) == pytest.approx(0.5 / math.sqrt(2), rel=0.02)
    assert notes == ["audio track 2 of 2 was taken, as players do", "no picture"]


def test_channels_of_opposite_phase(tmp_path: Path) -> None:
    wave = (np.sin(np.arange(2 * RATE) / 5) / 2).astype(np.float32)
    _, sound, notes = decoded(with_sounds(tmp_path / "a.mkv", [np.stack([wave, -wave])], "stereo"))
    assert rms(sound) == pytest.approx(0.5 / math.sqrt(2), rel=0.02)
    assert notes == ["its channels cancel each other (opposite phase): one of them was taken", "no picture"]
    _, sound, notes = decoded(with_sounds(tmp_path / "b.mkv", [np.stack([wave, 0 * wave])], "stereo"))
    assert rms(sound) == pytest.approx(0.25 / math.sqrt(2), rel=0.02)
    assert notes == ["no picture"]


@pytest.mark.parametrize(("channel", "weight"), [(0, 0.7071), (1, 0.7071), (2, 1.0), (3, 0.0), (4, 0.5), (5, 0.5)])
def test_the_downmix_of_six_channels(tmp_path: Path, channel: int, weight: float) -> None:
    """By ITU-R BS.775: left, right, centre, bass effects, surround left and right."""
    wave = np.zeros((6, 2 * RATE), np.float32)
    wave[channel] = np.sin(np.arange(2 * RATE) / 5) / 2
    path = with_sounds(tmp_path / "a.mkv", [wave], "5.1")
    if weight:
        assert rms(decoded(path)[1]) == pytest.approx(weight * 0.5 / math.sqrt(2), rel=0.02)
    else:
        assert error_of(path) == "no picture, and sound that is silent"


def test_slides_stay_until_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "slides.mkv"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=FPS, options=BOTH)
        sound: Any = container.add_stream("flac", rate=RATE, layout="mono")
        stream.width, stream.height, stream.pix_fmt, stream.time_base = 64, 48, "yuv420p", Fraction(1, 1000)
        stream.codec_context.time_base = Fraction(1, 1000)
        for time, rgb in zip([0, 3000, 4600], numbered(3), strict=True):
            frame = av.VideoFrame.from_ndarray(rgb, "rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        wave = (np.sin(np.arange(9 * RATE) / 5) * 9000).astype(np.int16)[None]
        samples = av.AudioFrame.from_ndarray(wave, "s16", "mono")
        samples.sample_rate, samples.pts, samples.time_base = RATE, 0, Fraction(1, RATE)
        container.mux(sound.encode(samples))
        container.mux(sound.encode(None))
    frames, _, notes = decoded(path)
    assert numbers(frames) == [0, 0, 0, 1, 1, 2, 2, 2, 2]
    assert notes == ["the picture ends after 5 s; its last frame stays to 9 s"]


def test_recordings_that_were_joined(tmp_path: Path) -> None:
    parts = [
        render.write(tmp_path / f"{name}.ts", numbered(count), tone(count / FPS), fps=FPS, options=BOTH)
        for name, count in (("a", 3 * FPS), ("b", 4 * FPS))
    ]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    frames, sound, notes = decoded(joined)
    assert 7 <= len(frames) <= 8
    assert int(sound.present.sum()) == 7
    assert "its clock begins again: 2 recordings follow each other" in notes


def test_what_was_cut_is_noted(film: Path) -> None:
    _, _, notes = decoded(film, Limits(3))
    assert notes == [f"cut at 3 of {SECONDS} s (--max-seconds takes more)"]
