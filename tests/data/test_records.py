import math
import re
import struct
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from counterpoint.data import records as youtube8m
from counterpoint.data.clip import Clip, TrackArray, pad, present
from counterpoint.data.records import clip_of, dequantize, encode, parse, quantize
from counterpoint.data.tfrecord import Shard, Writer
from counterpoint.errors import RecordError

# The wire format by hand, so that the reader is not only tested against its own writer.


def varint(value: int, width: int = 1) -> bytes:
    """A varint of at least `width` bytes: a longer one than needed is unusual but allowed."""
    encoded = bytearray()
    while value >= 0x80 or len(encoded) < width - 1:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def message(field: int, *contents: bytes, width: int = 1) -> bytes:
    content = b"".join(contents)
    return varint(field << 3 | 2) + varint(len(content), width) + content


def entry(key: str, value: bytes) -> bytes:
    return message(1, message(1, key.encode()), message(2, value))


def byte_values(*values: bytes) -> bytes:
    return message(1, *(message(1, value) for value in values))


def float_values(*values: float) -> bytes:
    return message(2, message(1, struct.pack(f"<{len(values)}f", *values)))


def int_values(*values: int) -> bytes:
    return message(3, message(1, *map(varint, values)))


ID, LABELS = entry("id", byte_values(b"ab12")), entry("labels", int_values(3, 300))


def sequence(*lists: bytes, context: bytes = ID + LABELS) -> bytes:
    return message(1, context) + message(2, *lists)


def frames(*values: bytes) -> bytes:
    return b"".join(message(1, byte_values(value)) for value in values)


def same(clip: Clip, other: Clip) -> None:
    assert clip.id == other.id
    assert clip.labels.dtype == np.int64
    assert clip.labels.tolist() == other.labels.tolist()
    assert clip.tracks.keys() == other.tracks.keys()
    for name, track in clip.tracks.items():
        assert track.dtype == other.tracks[name].dtype
        np.testing.assert_array_equal(track, other.tracks[name])


def test_frame_level_record() -> None:
    rgb = [bytes([step] * 200) for step in (1, 2, 3)]
    audio = [b"aaaa", b"bbbb", b"\0\0\0\0"]
    clip = parse(sequence(entry("rgb", frames(*rgb)), entry("audio", frames(*audio))))
    assert (clip.id, clip.labels.tolist(), clip.steps) == ("ab12", [3, 300], 3)
    assert list(clip.tracks) == ["video", "audio"]
    assert [bytes(frame) for frame in clip.tracks["video"]] == rgb
    assert [bytes(frame) for frame in clip.tracks["audio"]] == audio


def test_video_level_record_with_an_empty_list_field() -> None:
    context = ID + LABELS + entry("mean_rgb", float_values(1.5, -2)) + entry("mean_audio", float_values(0.25))
    for record in (message(1, context), message(1, context) + message(2)):
        clip = parse(record)
        assert clip.tracks["video"].tolist() == [[1.5, -2.0]]
        assert clip.tracks["audio"].tolist() == [[0.25]]
        assert clip.tracks["video"].dtype == np.float32
        assert clip.steps == 1


def test_frames_win_over_means() -> None:
    record = sequence(entry("rgb", frames(b"xy")), context=ID + entry("mean_rgb", float_values(1)))
    assert parse(record).tracks["video"].tolist() == [[120, 121]]


def test_audioset_record() -> None:
    context = entry("end_time_seconds", float_values(40)) + entry("video_id", byte_values(b"--cB2"))
    clip = parse(sequence(entry("audio_embedding", frames(b"12", b"34")), context=context + LABELS))
    assert clip.id == "--cB2"
    assert clip.tracks["audio"].shape == (2, 2)


def test_other_lists_are_modalities_of_their_own_and_integers_are_none() -> None:
    texts = message(1, float_values(1, 2)) + message(1, float_values(3, 4))
    record = sequence(entry("text", texts), entry("second", message(1, int_values(7))), entry("none", b""))
    clip = parse(record)
    assert list(clip.tracks) == ["text"]
    assert clip.tracks["text"].tolist() == [[1, 2], [3, 4]]
    assert clip.tracks["text"].flags.aligned


def test_track_is_a_view_of_the_record() -> None:
    record = np.frombuffer(encode(Clip("a", np.array([1]), {"video": np.ones((3, 1024), np.uint8)})), np.uint8)
    track = parse(record).tracks["video"]
    assert np.shares_memory(track, record)
    assert track.strides == (1033, 1)
    assert not track.flags.writeable


@pytest.mark.parametrize(
    "unusual",
    [
        message(1, byte_values(b"cd"), width=3),  # longer lengths than needed
        message(1, message(1, message(1, b"cd"), width=2)),
        message(1, varint(9 << 3) + varint(5), byte_values(b"cd")),  # unknown fields around it
        message(1, byte_values(b"cd")) + varint(5 << 3 | 5) + b"1234",
        message(1, byte_values(b"cd"), varint(7 << 3 | 1) + b"12345678"),
        message(1, float_values(1.0), byte_values(b"cd")),  # the last kind counts
    ],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_frames_encoded_otherwise(unusual: bytes, place: int) -> None:
    rows = [message(1, byte_values(b"ab"))] * 2
    rows.insert(place, unusual)
    clip = parse(sequence(entry("rgb", b"".join(rows))))
    expected = [b"ab", b"ab"]
    expected.insert(place, b"cd")
    assert [bytes(frame) for frame in clip.tracks["video"]] == expected
    alike = parse(sequence(entry("rgb", unusual * 3)))
    assert [bytes(frame) for frame in alike.tracks["video"]] == [b"cd"] * 3


def test_maps_in_any_order_and_repeated() -> None:
    lists = entry("audio", frames(b"old")) + entry("rgb", frames(b"xy")) + entry("audio", frames(b"new", b"ner"))
    backwards = message(1, message(2, byte_values(b"late")) + message(1, b"id"))
    record = message(2, lists) + message(1, LABELS + ID) + message(1, backwards)
    clip = parse(record)
    assert clip.id == "late"
    assert clip.labels.tolist() == [3, 300]
    assert [bytes(frame) for frame in clip.tracks["audio"]] == [b"new", b"ner"]


def test_equally_long_records_that_are_laid_out_otherwise() -> None:
    """What one record teaches about where things are must not be believed of another."""
    sound, picture = entry("audio", frames(b"ab", b"cd")), entry("rgb", frames(b"abcde", b"fghij"))
    other = entry("tests", frames(b"ab", b"cd"))
    records = {
        sequence(sound, picture): ["audio", "video"],
        sequence(picture, sound): ["video", "audio"],
        sequence(other, picture, context=LABELS + ID): ["tests", "video"],
        sequence(sound[:-2] + b"ef", picture): ["audio", "video"],
    }
    assert len({len(record) for record in records}) == 1
    for record, names in [*records.items()] * 2:
        clip = parse(record)
        assert (clip.id, clip.labels.tolist(), list(clip.tracks)) == ("ab12", [3, 300], names)
        assert clip.tracks[names[names[0] == "video"]].shape == (2, 2)
        assert bytes(clip.tracks["video"]) == b"abcdefghij"


def test_unpacked_lists() -> None:
    labels = message(3, *(varint(1 << 3) + varint(label) for label in (5, 2**31, 2**64 - 1)))
    means = message(2, *(varint(1 << 3 | 5) + struct.pack("<f", mean) for mean in (0.5, -1)))
    clip = parse(message(1, ID + entry("labels", labels) + entry("mean_rgb", means)))
    assert clip.labels.tolist() == [5, 2**31, -1]
    assert clip.tracks["video"].tolist() == [[0.5, -1.0]]


def test_record_without_labels() -> None:
    for context in (ID, ID + entry("labels", b""), ID + entry("labels", int_values())):
        assert parse(message(1, context)).labels.tolist() == []


@pytest.mark.parametrize(
    ("record", "cause"),
    [
        (b"", "neither id nor video_id"),
        (message(1, entry("image/encoded", byte_values(b"jpeg"))), "neither id nor video_id"),
        (sequence(entry("rgb", frames(b"ab", b"abc"))), "rgb: frames have different sizes, 2 to 3"),
        (sequence(entry("rgb", frames(b"", b""))), "rgb: frames have different sizes, 0 to 0"),
        (sequence(entry("rgb", message(1, byte_values(b"a", b"b")))), "rgb: a frame has not exactly one value"),
        (sequence(entry("rgb", frames(b"ab") + message(1))), "rgb: frames are empty or of different types"),
        (sequence(entry("audio", frames(b"a")), entry("audio_embedding", frames(b"b"))), "a second track of audio"),
        (message(1, ID + entry("labels", byte_values(b"1"))), "labels are not integers"),
        (
            message(1, ID + entry("mean_rgb", float_values(1, math.nan))),
            "clip 'ab12': track 'video' has features that are",
        ),
        (
            sequence(entry("text", message(1, float_values(math.inf)))),
            "clip 'ab12': track 'text' has features that are",
        ),
        (message(1, ID)[:-1], "a field does not fit its message"),
        (message(1, ID) + b"\x12", "the record is cut short"),
        (message(1, ID) + b"\x13", "wire type 3 is not known"),
        (message(1, ID) + b"\x10" + b"\xff" * 10 + b"\x01", "a number of more than ten bytes"),
    ],
)
def test_malformed_records(record: bytes, cause: str) -> None:
    with pytest.raises(ValueError, match=cause):
        parse(record)


def test_error_names_shard_record_and_byte(tmp_path: Path) -> None:
    with Writer(tmp_path / "a.tfrecord") as writer:
        writer.write(message(1, ID))
        writer.write(b"nonsense")
    shard = Shard(tmp_path / "a.tfrecord")
    assert clip_of(shard, 0).id == "ab12"
    with pytest.raises(RecordError, match=r"a\.tfrecord: record 1 at byte \d+: ") as caught:
        clip_of(shard, 1)
    assert caught.value.offset == shard.offsets[1]


# --- Round trips ------------------------------------------------------------------------------------------------------

names = st.sampled_from(["video", "audio", "text", "übrig"])
frame_tracks = st.tuples(st.integers(1, 5), st.sampled_from([1, 7, 8, 125, 128, 300])).flatmap(
    lambda shape: (
        arrays(np.uint8, shape)
        | arrays(np.float32, shape, elements=st.floats(width=32, allow_nan=False, allow_infinity=False))
    )
)
clips = st.builds(
    Clip,
    st.text(max_size=12),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5).map(lambda labels: np.array(labels, np.int64)),
    st.dictionaries(names, frame_tracks, max_size=3),
)


@settings(max_examples=150)
@given(clip=clips)
def test_round_trip(clip: Clip) -> None:
    same(parse(encode(clip)), clip)


@settings(max_examples=300)
@given(data=st.data(), clip=clips)
def test_garbage_raises_nothing_but_value_error(data: st.DataObject, clip: Clip) -> None:
    record = bytearray(encode(clip))
    parse(bytes(record))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(record)))
        record[position : position + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        read = parse(bytes(record))
    except ValueError as error:
        youtube8m._layouts.clear()
        with pytest.raises(ValueError, match=re.escape(str(error))):
            parse(bytes(record))
        return
    for track in read.tracks.values():
        assert track.ndim == 2
        track.sum()  # every byte of it lies in the record
    youtube8m._layouts.clear()
    same(parse(bytes(record)), read)  # what was known of the whole record made no difference


def test_written_as_the_data_set_writes() -> None:
    means: dict[str, TrackArray] = {"video": np.ones((1, 2), np.float32), "audio": np.zeros((1, 1), np.float32)}
    context = ID + LABELS + entry("mean_rgb", float_values(1, 1)) + entry("mean_audio", float_values(0))
    assert encode(Clip("ab12", np.array([3, 300]), means)) == message(1, context)
    codes = {"video": np.full((2, 300), 7, np.uint8)}
    assert encode(Clip("ab12", np.array([3, 300]), codes)) == sequence(entry("rgb", frames(*[b"\7" * 300] * 2)))


def test_only_codes_and_floats_are_written() -> None:
    for track in (np.zeros((2, 2)), np.zeros(3, np.uint8), np.zeros((2, 0), np.uint8)):
        with pytest.raises(ValueError, match="clip 'a': track 'video' is"):
            encode(Clip("a", np.array([1]), {"video": track}))
    with pytest.raises(ValueError, match="clip 'a': track 'video' has features that are not finite numbers"):
        encode(Clip("a", np.array([1]), {"video": np.array([[np.nan]], np.float32)}))
    with pytest.raises(ValueError, match="'rgb' would be read as 'video'"):
        encode(Clip("a", np.array([1]), {"rgb": np.ones((1, 1), np.uint8)}))


def test_codes() -> None:
    codes = np.arange(256, dtype=np.uint8)
    assert dequantize(codes).dtype == np.float32
    np.testing.assert_allclose(dequantize(codes), codes * (4 / 255) + 4 / 512 - 2, atol=1e-6)
    np.testing.assert_array_equal(quantize(dequantize(codes)), codes)
    values = np.linspace(-2, 2, 10_001)
    truncated = np.clip((values + 2) * 255 / 4, 0, 255).astype(np.uint8)
    nearest = np.abs(values[:, None] - dequantize(codes)).argmin(1)
    np.testing.assert_array_equal(quantize(values), nearest)
    assert (truncated == nearest).mean() > 0.99
    with pytest.raises(ValueError, match="not a number"):
        quantize([0.0, float("nan")])


# --- Clips ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 8, 9, 128])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_present(size: int, dtype: type) -> None:
    track: TrackArray = np.zeros((4, size), dtype)
    track[1, -1] = track[2, 0] = 1
    np.testing.assert_array_equal(present(track), [False, True, True, False])
    np.testing.assert_array_equal(present(np.asfortranarray(track)), [False, True, True, False])
    np.testing.assert_array_equal(present(track[:0]), [])


def test_negative_zero_is_missing() -> None:
    assert present(np.array([[-0.0, 0.0]], np.float32)).tolist() == [False]


def example_clips() -> list[Clip]:
    video = np.array([[1, 2], [0, 0], [3, 4]], np.uint8)
    silent = Clip("silent", np.array([1]), {"video": video})
    return [silent, Clip("short", np.array([2]), {"video": video[:1], "audio": np.array([[9]], np.uint8)})]


def padded(clips: list[Clip], steps: int, size: int = 2, modality: str = "video") -> tuple[TrackArray, TrackArray]:
    array = np.full((len(clips), steps, size), 255, np.uint8)  # memory that was used before
    return array, pad(clips, {modality: array})[modality]


def test_pad() -> None:
    video, mask = padded(example_clips(), 3)
    assert video.tolist() == [[[1, 2], [0, 0], [3, 4]], [[1, 2], [0, 0], [0, 0]]]
    assert mask.tolist() == [[True, False, True], [True, False, False]]
    audio, mask = padded(example_clips(), 3, 1, "audio")  # as long as the video
    assert audio.tolist() == [[[0], [0], [0]], [[9], [0], [0]]]
    assert mask.tolist() == [[False] * 3, [True, False, False]]


@pytest.mark.parametrize("size", [7, 8, 9, 128])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("steps", [0, 3, 9])
def test_pad_tells_which_steps_are_present(size: int, dtype: type, order: Literal["C", "F"], steps: int) -> None:
    track: TrackArray = np.zeros((6, size), dtype, order)
    track[[1, 4], -1] = track[2, 0] = 1  # some show late in the step, some at once, some not at all
    clips = [Clip(str(length), np.array([1]), {"video": track[:length]}) for length in (0, 2, 6, 5)]
    clips.append(Clip("silent", np.array([1]), {}))
    video = np.full((5, steps, size), 7, dtype)
    mask = pad(clips, {"video": video})["video"]
    np.testing.assert_array_equal(mask, (video != 0).any(axis=2))
    for clip, row in zip(clips[:-1], video, strict=False):
        kept = clip.tracks["video"][: len(row)]
        np.testing.assert_array_equal(row[: len(kept)], kept)
        assert not row[len(kept) :].any()
    assert not video[-1].any()


def test_pad_cuts_what_is_longer() -> None:
    video, mask = padded(example_clips(), 2)
    assert video.tolist() == [[[1, 2], [0, 0]], [[1, 2], [0, 0]]]
    assert mask.tolist() == [[True, False], [True, False]]


def test_pad_without_clips_or_their_modality() -> None:
    assert pad([], {"video": np.empty((0, 3, 2), np.uint8)})["video"].shape == (0, 3)
    text, mask = padded(example_clips(), 3, 5, "text")
    assert not text.any()
    assert not mask.any()


def test_pad_refuses_what_does_not_match() -> None:
    wide = Clip("wide", np.array([1]), {"video": np.ones((1, 3), np.uint8)})
    real = Clip("real", np.array([1]), {"video": np.ones((1, 2), np.float32)})
    for clip in (wide, real):
        with pytest.raises(ValueError, match=f"clip {clip.id!r}: track 'video' has features of .*, not 2 uint8"):
            padded([*example_clips(), clip], 1)


# --- Real records -----------------------------------------------------------------------------------------------------


def test_real_frame_level_records(real_data: Path) -> None:
    for name, steps in [("test_data_0_ou", 184), ("test_data_1_out", 141)]:
        clip = clip_of(Shard(real_data / f"yt8m/frame/{name}.tfrecord"), 0)
        assert clip.tracks["video"].shape == (steps, 1024)
        assert clip.tracks["audio"].shape == (steps, 128)
        assert present(clip.tracks["video"]).all()
        assert not present(clip.tracks["audio"]).any()
        assert clip.tracks["video"].base is not None  # in place
        same(parse(encode(clip)), clip)


def test_real_records_round_trip(real_data: Path) -> None:
    for name in ("yt8m/video/validate0000", "audioset/frame/bal_train_0"):
        shard = Shard(real_data / f"{name}.tfrecord")
        for record in range(0, len(shard), 25):
            clip = clip_of(shard, record)
            same(parse(encode(clip)), clip)


def test_real_codes_are_rounded(real_data: Path) -> None:
    """The extractor's records hold both codes and the true mean: their codes are rounded, as the module says."""
    record = Shard(real_data / "yt8m/frame/test_data_0_ou.tfrecord")[0]
    view = record.data
    ((_, _, start, stop), *_) = youtube8m.fields(view, 0, len(view))
    _, values = youtube8m._values(view, *youtube8m._entries(view, start, stop)["mean_rgb"])
    codes = parse(record).tracks["video"]
    inside = (codes > 0).all(axis=0) & (codes < 255).all(axis=0)
    excess = dequantize(codes).mean(axis=0) - youtube8m._floats(values)
    assert float(excess[inside].mean()) / youtube8m.CODE_SCALE == pytest.approx(0.5, abs=0.02)
