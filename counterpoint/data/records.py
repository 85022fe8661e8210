"""YouTube-8M records <-> `Clip`: `SequenceExample` (frame level) and `Example` (video level), by hand.

Both are one wire format (https://protobuf.dev/programming-guides/encoding): field 1 holds named features about the
clip, and a `SequenceExample` has in field 2 named lists of frames. So one walk reads both, and AudioSet's records too:

    SequenceExample { 1: Features      { 1: {1: key, 2: Feature} }
                      2: FeatureLists  { 1: {1: key, 2: FeatureList { 1: Feature }} } }
    Feature         { 1: BytesList {1: value} | 2: FloatList {1: value} | 3: Int64List {1: value} }

Every writer encodes the frames of a modality alike, so they sit at a constant stride, and a track is one strided view
of the record. Where that does not hold the frames are read one by one.

Features are 8-bit codes over [-2, 2]. The data set's reader turns a code into `code * 4 / 255 + 4 / 512 - 2`
(https://github.com/google/youtube-8m, `utils.Dequantize`). The 4 / 512 is half a step: it suits codes that were
truncated, `int((value + 2) * 255 / 4)`, whereas the published feature extractor rounds, so that its codes come back
half a step high. `quantize` takes the code whose value is nearest, so that nothing is biased: the truncated one, but
for the outermost 0.2 % of a step.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from counterpoint.data.clip import Clip, TrackArray
from counterpoint.data.tfrecord import Shard
from counterpoint.errors import RecordError

CODE_SCALE = 4 / 255  # value = code * CODE_SCALE + CODE_OFFSET
CODE_OFFSET = 4 / 512 - 2

# A record's key -> modality. A key that is not here is its own modality; video-level keys have `mean_` before them.
MODALITIES = {"rgb": "video", "audio": "audio", "audio_embedding": "audio"}
KEYS = {"video": "rgb", "audio": "audio"}  # as written

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # wire types
_UINT64 = 0xFFFF_FFFF_FFFF_FFFF
Span = tuple[int, int]
_CODE = np.dtype(np.uint8)
_BYTES, _FLOATS, _INTS = 1, 2, 3  # the kinds of Feature, by field number
_WIRES = {_BYTES: (LENGTH,), _FLOATS: (LENGTH, FIXED32), _INTS: (LENGTH, VARINT)}  # of their values
_LAYOUTS = 4096  # kept at once, each of no more than so many bytes
_LAYOUT_BYTES = 1 << 13


def dequantize(codes: ArrayLike) -> NDArray[np.float32]:
    """The values of 8-bit codes, in [-2, 2].

    >>> dequantize([0, 255])
    array([-1.9921875,  2.0078125], dtype=float32)
    """
    return np.asarray(codes, np.float32) * np.float32(CODE_SCALE) + np.float32(CODE_OFFSET)


def quantize(values: ArrayLike) -> NDArray[np.uint8]:
    """The 8-bit codes whose values are nearest: `quantize(dequantize(codes))` is `codes`. Raises ValueError for NaN.

    >>> quantize([-9, 0, 9])
    array([  0, 127, 255], dtype=uint8)
    """
    values = np.asarray(values, np.float64)
    if np.isnan(values).any():
        raise ValueError("features are not a number")
    return np.clip(np.rint((values - CODE_OFFSET) / CODE_SCALE), 0, 255).astype(np.uint8)


def clip_of(shard: Shard, record: int) -> Clip:
    """The clip in a record of a shard; raises RecordError where it cannot be read."""
    payload = shard[record]
    try:
        return parse(payload)
    except ValueError as error:
        raise RecordError(shard.path, shard.number(record), int(shard.offsets[record]), str(error)) from error


def parse(record: bytes | memoryview | NDArray[np.uint8]) -> Clip:
    """The clip in a serialized `SequenceExample` or `Example`.

    Tracks are the lists of frames, or, where there are none, the features called `mean_...` as tracks of one step.
    Frames of bytes stay a view of the record (step, feature) uint8; floats are copied, so that they are aligned.
    Lists of integers are no tracks. The id is `id` or `video_id`; `labels` may be absent.

    Raises ValueError for anything else or malformed, and for features that are infinite or not a number.
    """
    view = record.data if isinstance(record, np.ndarray) else memoryview(record)
    try:
        features, lists = _places(view)
        clip = Clip(_id(view, features), _labels(view, features), _tracks(view, lists) or _means(view, features))
    except IndexError:
        raise ValueError("the record is cut short") from None
    _check_finite(clip)
    return clip


def encode(clip: Clip) -> bytes:
    """The clip as a serialized `Example` where every track is one step of float32, else as a `SequenceExample`.

    Both have the data set's keys. Raises ValueError for a track that is not (step, feature) uint8 or finite float32,
    and for a modality named as another's key.
    """
    _check_finite(clip)
    for modality, track in clip.tracks.items():
        if track.ndim != 2 or track.dtype not in (np.uint8, np.float32) or not track.shape[1]:
            raise ValueError(f"clip {clip.id!r}: track {modality!r} is {track.dtype} {track.shape}")
        if MODALITIES.get(modality, modality) != modality:
            raise ValueError(f"clip {clip.id!r}: {modality!r} would be read as {MODALITIES[modality]!r}")
    features = _entry("id", message(_BYTES, message(1, clip.id.encode())))
    features += _entry("labels", message(_INTS, message(1, b"".join(map(encoded, clip.labels.tolist())))))
    keys = {KEYS.get(modality, modality): track for modality, track in clip.tracks.items()}
    if all(track.dtype == np.float32 and len(track) == 1 for track in keys.values()):
        means = {f"mean_{key}": track.astype("<f4").tobytes() for key, track in keys.items()}
        return message(1, features + b"".join(_entry(key, message(_FLOATS, message(1, m))) for key, m in means.items()))
    lists = b"".join(_entry(key, _frames(track)) for key, track in keys.items())
    return message(1, features) + message(2, lists)


def _check_finite(clip: Clip) -> None:
    """One NaN would be in all weights after a step of training."""
    for modality, track in clip.tracks.items():
        if track.dtype != _CODE and not np.isfinite(track).all():
            raise ValueError(f"clip {clip.id!r}: track {modality!r} has features that are not finite numbers")


# --- Reading ----------------------------------------------------------------------------------------------------------


class _Layout(NamedTuple):
    features: dict[str, Span]
    lists: dict[str, Span]
    between: list[tuple[int, int, bytes]]  # what is not a value of theirs: where it begins and ends, and the bytes


_layouts: dict[int, _Layout] = {}  # of the last record of each length


def _places(view: memoryview) -> tuple[dict[str, Span], dict[str, Span]]:
    """Where the values of features and lists are.

    As a rule they are where the last record of the same length had them. They are for certain if all that is no value
    is the same, and to compare it takes a fifth of the time of the walk.
    """
    layout = _layouts.get(len(view))
    if layout and all(view[start:stop] == expected for start, stop, expected in layout.between):
        return layout.features, layout.lists
    features: dict[str, Span] = {}
    lists: dict[str, Span] = {}
    for field, wire, start, stop in fields(view, 0, len(view)):
        if wire == LENGTH and field == 1:
            features |= _entries(view, start, stop)
        elif wire == LENGTH and field == 2:
            lists |= _entries(view, start, stop)
    ends = [0, *(end for span in sorted([*features.values(), *lists.values()]) for end in span), len(view)]
    pairs = list(zip(ends[::2], ends[1::2], strict=True))
    if sum(b - a for a, b in pairs) <= _LAYOUT_BYTES:  # of others than the data set's there may be any amount
        if len(_layouts) >= _LAYOUTS:
            _layouts.clear()
        _layouts[len(view)] = _Layout(features, lists, [(a, b, view[a:b].tobytes()) for a, b in pairs])
    return features, lists


def _id(view: memoryview, features: dict[str, Span]) -> str:
    for key in ("id", "video_id"):
        if key in features:
            kind, values = _values(view, *features[key])
            if kind == _BYTES and values:
                return str(values[0], "utf-8", "backslashreplace")
    raise ValueError("neither id nor video_id: not a YouTube-8M record")


def _labels(view: memoryview, features: dict[str, Span]) -> NDArray[np.int64]:
    kind, values = _values(view, *features.get("labels", (0, 0)))
    if kind not in (0, _INTS):
        raise ValueError("labels are not integers")
    labels = []
    for packed in values:
        position = 0
        while position < len(packed):
            label, position = varint(packed, position)
            labels.append(label - (label >> 63 << 64))  # negative numbers are written as their two's complement
    return np.array(labels, np.int64)


def _means(view: memoryview, features: dict[str, Span]) -> dict[str, TrackArray]:
    tracks: dict[str, TrackArray] = {}
    for key, span in features.items():
        if key.startswith("mean_"):
            kind, values = _values(view, *span)
            if kind == _FLOATS and any(values):
                modality = key.removeprefix("mean_")
                _add(tracks, key, MODALITIES.get(modality, modality), _floats(values).reshape(1, -1))
    return tracks


def _tracks(view: memoryview, lists: dict[str, Span]) -> dict[str, TrackArray]:
    tracks: dict[str, TrackArray] = {}
    for key, span in lists.items():
        try:
            track = _strided(view, *span)
            if track is None:
                track = _stacked(view, *span)
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from None
        if track is not None:
            _add(tracks, key, MODALITIES.get(key, key), track)
    return tracks


def _add(tracks: dict[str, TrackArray], key: str, modality: str, track: TrackArray) -> None:
    if modality in tracks:
        raise ValueError(f"{key}: a second track of {modality}")
    tracks[modality] = track


def _strided(view: memoryview, start: int, stop: int) -> TrackArray | None:
    """All frames as one view, or None unless they are equally long and each begins as we would write it."""
    if stop - start < 6:
        return None
    size, position = varint(view, start + 1)
    stride = position + size - start
    steps, rest = divmod(stop - start, stride)
    kind = view[position] >> 3
    head, opaque = _head_of(kind, stride)
    if rest or not head or np.ndarray(steps, opaque, view, start, stride).tobytes() != head * steps:
        return None
    size = stride - len(head)
    start += len(head)
    if kind == _BYTES:
        return np.ndarray((steps, size), _CODE, view, start, (stride, 1))
    return np.ndarray((steps, size // 4), "<f4", view, start, (stride, 4)).astype(np.float32)


@lru_cache
def _head_of(kind: int, stride: int) -> tuple[bytes, np.dtype[np.void]]:
    """The head of a frame that takes `stride` bytes with it, and its type; empty if there is no such frame."""
    if kind in (_BYTES, _FLOATS):
        for size in range(max(1, stride - 33), stride):  # three tags and three lengths are at most 33 bytes
            head = _head(kind, size)
            if len(head) + size == stride and (kind == _BYTES or size % 4 == 0):
                return head, np.dtype((np.void, len(head)))
    return b"", np.dtype(np.void)


def _stacked(view: memoryview, start: int, stop: int) -> TrackArray | None:
    """All frames, read one by one and copied; None for no frames, or frames of integers."""
    frames = [_values(view, a, b) for field, wire, a, b in fields(view, start, stop) if (field, wire) == (1, LENGTH)]
    kinds = {kind for kind, _ in frames}
    if not frames or kinds == {_INTS}:
        return None
    if kinds == {_BYTES}:
        if any(len(values) != 1 for _, values in frames):
            raise ValueError("a frame has not exactly one value")
        rows: list[TrackArray] = [np.frombuffer(values[0], np.uint8) for _, values in frames]
    elif kinds == {_FLOATS}:
        rows = [_floats(values) for _, values in frames]
    else:
        raise ValueError("frames are empty or of different types")
    sizes = {len(row) for row in rows}
    if len(sizes) > 1 or 0 in sizes:
        raise ValueError(f"frames have different sizes, {min(sizes)} to {max(sizes)}")
    return np.stack(rows)


def _floats(values: list[memoryview]) -> NDArray[np.float32]:
    if any(len(packed) % 4 for packed in values):
        raise ValueError("a number is cut in two")
    return np.frombuffer(b"".join(values), "<f4").astype(np.float32)  # packed or not, they are the same bytes


def _values(view: memoryview, start: int, stop: int) -> tuple[int, list[memoryview]]:
    """A Feature's kind (0: none) and its values, still encoded: packed ones together, others one by one."""
    kind = 0
    values: list[memoryview] = []
    for field, wire, start_, stop_ in fields(view, start, stop):
        if field in _WIRES and wire == LENGTH:
            if field != kind:  # the last kind counts, and lists of one kind are joined
                kind, values = field, []
            values += [view[a:b] for inner, w, a, b in fields(view, start_, stop_) if inner == 1 and w in _WIRES[kind]]
    return kind, values


def _entries(view: memoryview, start: int, stop: int) -> dict[str, Span]:
    """A map's values by key, still encoded; the last of equal keys counts."""
    entries: dict[str, Span] = {}
    for field, wire, start_, stop_ in fields(view, start, stop):
        if field == 1 and wire == LENGTH:
            key, value = "", None
            for inner, w, a, b in fields(view, start_, stop_):
                if inner == 1 and w == LENGTH:
                    key = str(view[a:b], "utf-8")
                elif inner == 2 and w == LENGTH:
                    if value:  # legal, and to be joined; no writer does it
                        raise ValueError(f"{key}: a value in two parts")
                    value = (a, b)
            entries[key] = value or (stop_, stop_)
    return entries


# --- Writing ----------------------------------------------------------------------------------------------------------


def _frames(track: TrackArray) -> bytes:
    """A FeatureList: the frames differ in their values only, so all are laid out at once."""
    kind, values = (_BYTES, track) if track.dtype == np.uint8 else (_FLOATS, track.astype("<f4").view(np.uint8))
    size = values.shape[1]
    head = _head(kind, size)
    rows = np.empty((len(track), len(head) + size), np.uint8)
    rows[:, : len(head)] = np.frombuffer(head, np.uint8)
    rows[:, len(head) :] = values
    return rows.tobytes()


def _head(kind: int, size: int) -> bytes:
    """What stands before the `size` bytes of a frame's values: the tags and lengths of Feature, list and value."""
    head = b""
    for field in (1, kind, 1):
        head = encoded(field << 3 | LENGTH) + encoded(size + len(head)) + head
    return head


def _entry(key: str, value: bytes) -> bytes:
    return message(1, message(1, key.encode()) + message(2, value))


# --- The wire format --------------------------------------------------------------------------------------------------
# Positions are in a record as a whole, so that nothing is copied. What does not parse raises ValueError, or IndexError
# where the bytes end too early.


def fields(view: memoryview, position: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """Each field of a message: number, wire type, and where its value begins and ends."""
    while position < stop:
        tag = view[position]
        if tag < 0x80:  # nearly always, and a call would double the time
            position += 1
        else:
            tag, position = varint(view, position)
            if tag >> 32:
                raise ValueError("a field's number is too large")
        wire = tag & 7
        if wire == LENGTH:
            end = view[position]
            if end < 0x80:
                position += 1
            else:
                end, position = varint(view, position)
            end += position
        elif wire == VARINT:
            _, end = varint(view, position)
        elif wire == FIXED32:
            end = position + 4
        elif wire == FIXED64:
            end = position + 8
        else:
            raise ValueError(f"wire type {wire} is not known")
        if end > stop or tag < 8:
            raise ValueError("a field does not fit its message")
        yield tag >> 3, wire, position, end
        position = end


def varint(view: memoryview | bytes, position: int) -> tuple[int, int]:
    """The number at `position`, and where it ends."""
    value = view[position]
    if value < 0x80:
        return value, position + 1
    value &= 0x7F
    shift = 7
    while shift < 70:
        position += 1
        byte = view[position]
        if byte < 0x80:
            return (value | byte << shift) & _UINT64, position + 1
        value |= (byte & 0x7F) << shift
        shift += 7
    raise ValueError("a number of more than ten bytes")


def message(field: int, content: bytes) -> bytes:
    return encoded(field << 3 | LENGTH) + encoded(len(content)) + content


def encoded(value: int) -> bytes:
    """A varint."""
    value &= _UINT64
    varint = bytearray()
    while value >= 0x80:
        varint.append(value & 0x7F | 0x80)
        value >>= 7
    varint.append(value)
    return bytes(varint)
