"""How fast whole clips come off the disk, padded in batches at 8 bits, on one thread.

    python benchmarks/reading.py [--records 1000] [--repeats 5]

Writes frame-level records of 120 to 300 steps (1024 + 128 bytes a step) to a temporary folder, and reads them all, in
batches of 128 padded to the longest clip, into reused memory. The file is in the page cache. It is mapped anew for
each pass, whose pages the kernel then enters one by one, or was mapped before, as in all epochs but the first. GB/s
are bytes of features (not of padding) per second. Readers take turns, and the best of `--repeats` passes counts, so
that what else runs on the machine counts as little as it can. memcpy copies as many bytes between two arrays that are
in memory already, a batch at a time. Where TensorFlow is importable, tf.data with `parse_single_sequence_example`
(which always checks CRCs) does the same, each of its stages on one thread.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported: no device messages in the table

import numpy as np
from rich.console import Console
from rich.table import Table

from counterpoint.data import tfrecord
from counterpoint.data.clip import Clip, pad
from counterpoint.data.records import CODE_OFFSET, CODE_SCALE, clip_of, encode
from counterpoint.data.tfrecord import Shard, Writer

SIZES = {"video": 1024, "audio": 128}
STEPS = (120, 300)
BATCH = 128


def write(path: Path, records: int) -> int:
    """Write the shard; returns its bytes of features."""
    random = np.random.default_rng(0)
    codes = {name: random.integers(1, 256, (STEPS[1], size), np.uint8) for name, size in SIZES.items()}
    total = 0
    with Writer(path) as writer:
        for number in range(records):
            steps = int(random.integers(STEPS[0], STEPS[1] + 1))
            tracks = {name: np.roll(track, number)[:steps] for name, track in codes.items()}
            writer.write(encode(Clip(f"{number:04d}", np.array([number % 7, 40]), tracks)))
            total += sum(track.size for track in tracks.values())
    return total


def batches(order: list[int]) -> Iterator[list[int]]:
    return (order[start : start + BATCH] for start in range(0, len(order), BATCH))


def in_place(path: Path, order: list[int], check: bool, mapped: bool) -> Callable[[], None]:
    shard = Shard(path, check=check)
    fill = padding()

    def read() -> None:
        if not mapped:
            tfrecord.forget_maps()
        for batch in batches(order):
            fill([clip_of(shard, record) for record in batch])

    return read


def padding() -> Callable[[list[Clip]], None]:
    """Pads a batch to its longest clip, in memory that every batch uses again."""
    memory = {name: np.zeros((BATCH * STEPS[1], size), np.uint8) for name, size in SIZES.items()}

    def fill(clips: list[Clip]) -> None:
        steps = max(clip.steps for clip in clips)
        size = len(clips) * steps
        pad(clips, {name: rows[:size].reshape(-1, steps, SIZES[name]) for name, rows in memory.items()})

    return fill


def parts(path: Path, order: list[int]) -> dict[str, Callable[[], None]]:
    """What reading in place is made of, each for all records."""
    shard = Shard(path)
    parsed = [clip_of(shard, record) for record in order]
    fill = padding()
    raw = np.zeros(max(shard.lengths), np.uint8)

    def map_anew() -> None:
        tfrecord.forget_maps()
        for record in order:
            shard[record][::4096].max()  # touches every page

    def checksums() -> None:
        for record in order:
            shard.check(record)

    def parse() -> None:
        for record in order:
            clip_of(shard, record)

    def pad_parsed() -> None:
        for batch in batches(order):
            fill([parsed[record] for record in batch])

    def copy_whole() -> None:
        for record in order:
            payload = shard[record]
            raw[: len(payload)] = payload

    return {
        "new map, first touch of its pages": map_anew,
        "checksums": checksums,
        "parsing": parse,
        "padding, masks": pad_parsed,
        "(records copied whole, for comparison)": copy_whole,
    }


def memcpy(total: int, records: int) -> Callable[[], None]:
    source = np.ones(total, np.uint8)
    chunk = total * BATCH // records
    target = np.ones(chunk, np.uint8)

    def copy() -> None:
        for start in range(0, total, chunk):
            part = source[start : start + chunk]
            target[: len(part)] = part

    return copy


def tf_data(path: Path, as_float: bool) -> Callable[[], None] | None:
    """The usual reader of the data set: codes decoded, as floats dequantized, padded to the longest of the batch."""
    try:
        import tensorflow as tf
    except ImportError:
        return None
    context = {"id": tf.io.FixedLenFeature([], tf.string), "labels": tf.io.VarLenFeature(tf.int64)}
    lists = {key: tf.io.FixedLenSequenceFeature([], tf.string) for key in ("rgb", "audio")}

    def parse(record):  # type: ignore[no-untyped-def]
        features, frames = tf.io.parse_single_sequence_example(record, context, lists)
        tracks = []
        for key, size in zip(lists, SIZES.values(), strict=True):
            track = tf.reshape(tf.io.decode_raw(frames[key], tf.uint8), [-1, size])
            tracks.append(tf.cast(track, tf.float32) * CODE_SCALE + CODE_OFFSET if as_float else track)
        return features["id"], tf.sparse.to_dense(features["labels"]), *tracks

    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    shapes: tuple[list[int | None], ...] = ([], [None], [None, 1024], [None, 128])
    records = tf.data.TFRecordDataset(str(path)).map(parse).padded_batch(BATCH, shapes).with_options(options)

    def read() -> None:
        for _ in records:
            pass

    return read


def best(readers: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Seconds of each reader's fastest pass, after one that warms up."""
    times: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(repeats + 1):
        for name, read in readers.items():
            start = time.perf_counter()
            read()
            times[name].append(time.perf_counter() - start)
    return {name: min(each[1:]) for name, each in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--parts", action="store_true", help="time what reading in place is made of instead")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frames.tfrecord"
        total = write(path, options.records)
        order = list(range(options.records))
        shuffled = np.random.default_rng(1).permutation(options.records).tolist()
        readers: dict[str, Callable[[], None] | None] = {"memcpy": memcpy(total, options.records)}
        if options.parts:
            readers |= parts(path, order)
        else:
            readers["tf.data, float"] = tf_data(path, as_float=True)
            readers["tf.data, 8 bits"] = tf_data(path, as_float=False)
            for mapped in (False, True):
                for check in (True, False):
                    for records in (order, shuffled):
                        name = "checked" if check else "unchecked"
                        name += ", random order" if records is shuffled else ""
                        name += ", mapped before" if mapped else ""
                        readers[name] = in_place(path, records, check, mapped)
        seconds = best({name: read for name, read in readers.items() if read}, options.repeats)
    table = Table(title=f"{options.records} records, {total / 1e6:.0f} MB of features, one thread")
    table.add_column("part" if options.parts else "reader", no_wrap=True)
    table.add_column("microseconds a clip" if options.parts else "GB/s", justify="right")
    bases = [name for name in ("memcpy", "tf.data, float", "tf.data, 8 bits") if name in seconds and not options.parts]
    for base in bases:
        table.add_column(f"x {base}", justify="right")
    for name, each in seconds.items():
        figure = f"{each / options.records * 1e6:.1f}" if options.parts else f"{total / each / 1e9:.2f}"
        table.add_row(name, figure, *(f"{seconds[base] / each:.2f}" for base in bases))
    Console().print(table)


if __name__ == "__main__":
    main()
