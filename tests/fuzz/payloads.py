"""Records, against Google's own parser (package protobuf)."""

import struct
from collections.abc import Iterable
from functools import cache
from random import Random
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.message import DecodeError

from counterpoint.data import records as youtube8m
from fuzz.target import INTEGERS, Target, mutated

SCHEMA = """
name: "fuzz.proto" syntax: "proto3"
message_type { name: "Bytes" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_BYTES } }
message_type { name: "Floats" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_FLOAT } }
message_type { name: "Ints" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_INT64 } }
message_type { name: "Unread" field { name: "x" number: 99 label: LABEL_OPTIONAL type: TYPE_BYTES } }
message_type { name: "Feature" oneof_decl { name: "kind" }
  field { name: "bytes" number: 1 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".Bytes" oneof_index: 0 }
  field { name: "floats" number: 2 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".Floats" oneof_index: 0 }
  field { name: "ints" number: 3 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".Ints" oneof_index: 0 } }
message_type { name: "Frame" oneof_decl { name: "kind" }
  field { name: "bytes" number: 1 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".Bytes" oneof_index: 0 }
  field { name: "floats" number: 2 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".Floats" oneof_index: 0 }
  field { name: "ints" number: 3 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".Unread" oneof_index: 0 } }
message_type { name: "List"
  field { name: "frame" number: 1 label: LABEL_REPEATED type: TYPE_MESSAGE type_name: ".Frame" } }
message_type { name: "Entry" field { name: "key" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
  field { name: "value" number: 2 label: LABEL_OPTIONAL type: TYPE_BYTES } }
message_type { name: "Map" field { name: "entry" number: 1 label: LABEL_REPEATED type: TYPE_MESSAGE type_name: ".Entry" } }
message_type { name: "Record"
  field { name: "features" number: 1 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".Map" }
  field { name: "lists" number: 2 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".Map" } }
"""  # noqa: E501
# As on the wire a map is its entries. Their values are bytes until they are read: what nobody reads may be anything.
KEYS = [b"id", b"video_id", b"labels", b"rgb", b"audio", b"audio_embedding", b"mean_rgb", b"mean_audio", b"", b"x"]
LENGTH, VARINT, FIXED32 = 2, 0, 5


class Refusal(Exception):  # noqa: N818 - no error
    """The oracle says that there is no clip in this record."""


@cache
def _type(name: str) -> Any:
    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(SCHEMA, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


def _parsed(name: str, data: bytes) -> Any:
    try:
        return _type(name).FromString(data)
    except DecodeError as error:
        raise Refusal("malformed") from error


def expected(record: bytes) -> tuple[str, list[int], dict[str, np.ndarray[Any, Any]]]:
    """Id, labels and tracks by the rules of `counterpoint.data.records.parse`, read by Google's parser."""
    message = _parsed("Record", record)
    stored = {entry.key: entry.value for entry in message.features.entry}
    listed = {entry.key: entry.value for entry in message.lists.entry}  # of equal keys the last counts
    lists = {key: _parsed("List", value) for key, value in listed.items()}
    features = {key: _parsed("Feature", stored[key]) for key in ("id", "labels") if key in stored}
    if not ("id" in features and features["id"].bytes.value) and "video_id" in stored:
        features["id"] = _parsed("Feature", stored["video_id"])
    if not ("id" in features and features["id"].bytes.value):
        raise Refusal("no id")
    labels: list[int] = []
    if "labels" in features:
        if features["labels"].WhichOneof("kind") in ("bytes", "floats"):
            raise Refusal("labels are no integers")
        labels = list(features["labels"].ints.value)
    tracks = [(key, _rows(list(frames.frame))) for key, frames in lists.items()]
    tracks = [(key, rows) for key, rows in tracks if rows is not None]
    if not tracks:
        means = {key: _parsed("Frame", stored[key]).floats.value for key in stored if key.startswith("mean_")}
        tracks = [(key[5:], np.array([mean], np.float32)) for key, mean in means.items() if mean]
    found = {{"rgb": "video", "audio_embedding": "audio"}.get(key, key): rows for key, rows in tracks}
    if len(found) < len(tracks):
        raise Refusal("a modality twice")
    if any(rows.dtype == np.float32 and not np.isfinite(rows).all() for rows in found.values()):
        raise Refusal("not finite")
    return features["id"].bytes.value[0].decode("utf-8", "backslashreplace"), labels, found


def _rows(frames: list[Any]) -> np.ndarray[Any, Any] | None:
    kinds = {frame.WhichOneof("kind") for frame in frames}
    if kinds <= {"ints"}:
        return None
    if kinds == {"bytes"} and all(len(frame.bytes.value) == 1 for frame in frames):
        rows = [np.frombuffer(frame.bytes.value[0], np.uint8) for frame in frames]
    elif kinds == {"floats"}:
        rows = [np.array(frame.floats.value, np.float32) for frame in frames]
    else:
        raise Refusal("frames of several kinds or values")
    if len({len(row) for row in rows}) > 1 or not len(rows[0]):
        raise Refusal("frames of several sizes")
    return np.stack(rows)


def draw_payload(random: Random) -> bytes:
    """Two records of the form `pair`: the second comes after the first, mostly of its length (see `_places`)."""
    first = _message(random.randrange(5000))
    if random.random() < 0.3:
        first = mutated(random, first)
    if random.random() < 0.5 and first:
        second = bytearray(first)
        for _ in range(random.choice((1, 1, 2, 4))):
            second[random.randrange(len(second))] = random.choice((random.randrange(256), 0x0A, 0x12, 1, 8, 16))
        return pair(first, bytes(second))
    return pair(first, mutated(random, first, (b"\x0a\x00", b"\x12\x00", b"\x80", b"\xff\xff\xff\xff\x0f")))


def pair(first: bytes, second: bytes) -> bytes:
    return struct.pack("<I", len(first)) + first + second


def check_payload(data: bytes) -> bool:
    size = int.from_bytes(data[:4], "little")
    youtube8m._layouts.clear()
    first, second = data[4 : 4 + size], data[4 + size :]
    return sum(_agrees(record) for record in (first, second)) > 0  # both are looked at


def _agrees(record: bytes) -> bool:
    try:
        clip = youtube8m.parse(record)
    except ValueError as error:
        # Groups, and values in parts, are legal; no writer of records has them.
        if not ("wire type" in str(error) or str(error).endswith("in two parts")):
            try:
                found = expected(record)
            except Refusal:
                return False
            raise AssertionError(f"refused ({error}), but there is {found}") from error
        return False
    name, labels, tracks = expected(record)
    assert clip.id == name, (clip.id, name)
    assert clip.labels.tolist() == labels, (clip.labels, labels)
    assert set(clip.tracks) == set(tracks), (set(clip.tracks), set(tracks))
    for modality, rows in tracks.items():
        assert clip.tracks[modality].dtype == rows.dtype
        assert np.array_equal(clip.tracks[modality], rows), (modality, clip.tracks[modality], rows)
    assert youtube8m.parse(youtube8m.encode(clip)).id == clip.id if "rgb" not in tracks else True
    return True


@cache
def _message(number: int) -> bytes:
    """A record as some writer could have written it: usual, or legal and strange, or not legal any more."""
    random = Random(number)
    strange = random.choice((0.0, 0.0, 0.02, 0.1, 0.3))

    def odd() -> bool:
        return random.random() < strange

    def delimited(field: int, content: bytes) -> bytes:
        if odd():
            field = random.choice((0, 1, 2, 3, 15, 16, 2**29 - 1, 2**29))
        size = len(content) + (random.choice((-1, 1, 100)) if odd() else 0)
        return (
            _varint(field << 3 | (LENGTH if not odd() else random.randrange(8)), odd()) + _varint(size, odd()) + content
        )

    def unknown() -> bytes:
        field = random.choice((4, 15, 16, 1000)) << 3
        kind = random.choice((0, 1, 2, 5, 3))
        body = {0: _varint(random.getrandbits(64)), 1: bytes(8), 2: b"\x02ab", 5: bytes(4)}.get(kind, b"")
        return _varint(field | kind) + body

    def joined(parts: Iterable[bytes]) -> bytes:
        made = list(parts)
        if odd():
            random.shuffle(made)
        if odd() and made:
            made.insert(random.randint(0, len(made)), random.choice([*made, unknown()]))
        return b"".join(made)

    def feature(kind: int, size: int) -> bytes:
        if kind == 1:
            values = [delimited(1, random.randbytes(size)) for _ in range(1 if not odd() else random.randrange(3))]
        elif kind == 2:
            raw = np.array([random.uniform(-2, 2) for _ in range(size)], "<f4").tobytes()
            if odd():
                raw = random.choice((raw[:-1], raw[:-4] + b"\x00\x00\xc0\x7f", raw[:2]))
            packed = not odd()
            cut = random.randint(0, len(raw)) if odd() else len(raw) // 4 // 2 * 4
            values = [delimited(1, raw[:cut]), delimited(1, raw[cut:])] if packed and odd() else [delimited(1, raw)]
            if not packed:
                values = [_varint(1 << 3 | FIXED32) + raw[i : i + 4] for i in range(0, len(raw), 4)]
        else:
            numbers = [random.choice((random.randrange(4000), *INTEGERS)) for _ in range(size)]
            if random.random() < 0.5:
                raw = b"".join(_varint(number, odd()) for number in numbers)
                cut = random.randint(0, len(raw))
                values = [delimited(1, raw[:cut]), delimited(1, raw[cut:])] if odd() else [delimited(1, raw)]
            else:
                values = [_varint(1 << 3 | VARINT) + _varint(number) for number in numbers]
        lists = [delimited(kind, joined(values))]
        if odd():
            lists.append(delimited(random.randint(1, 3), joined(values)))
        return joined(lists)

    def entry(key: bytes, value: bytes) -> bytes:
        key = key if not odd() else random.choice([*KEYS, b"\xff", "\u00e4".encode()])
        values = [delimited(2, value)] if not odd() else [delimited(2, value[:0]), delimited(2, value)]
        return delimited(1, joined([delimited(1, key), *values]))

    entries = [entry(b"id" if not odd() else b"video_id", feature(1, random.choice((1, 4, 11))))]
    entries.append(entry(b"labels", feature(3 if not odd() else random.randint(1, 3), random.randrange(5))))
    lists = []
    if random.random() < 0.5:
        for key in random.sample(KEYS[3:6], random.choice((1, 2, 2, 3))):
            size, kind = random.choice((1, 4, 16, 130)), random.choice((1, 1, 1, 2, 3))
            frames = [delimited(1, feature(kind, size if not odd() else 3)) for _ in range(random.choice((0, 1, 2, 5)))]
            lists.append(entry(key, joined(frames)))
    else:
        keys = random.sample([*KEYS[6:8], b"mean_audio_embedding"], random.choice((1, 2, 2)))
        entries += [
            entry(key, feature(2 if not odd() else random.randint(1, 3), random.choice((1, 8)))) for key in keys
        ]
    record = delimited(1, joined(entries))
    return joined([record, delimited(2, joined(lists))]) if lists else record


def _varint(value: int, long: bool = False) -> bytes:
    made = youtube8m.encoded(value)
    return made[:-1] + bytes([made[-1] | 0x80, 0x80, 0]) if long else made


TARGETS = [Target("payload", draw_payload, check_payload, quick=3000)]
