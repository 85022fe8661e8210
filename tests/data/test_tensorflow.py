"""TensorFlow reads what we write, and we read what TensorFlow writes (needs the tensorflow extra)."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from counterpoint.data.clip import Clip
from counterpoint.data.records import clip_of, dequantize, encode
from counterpoint.data.tfrecord import Shard, Writer

pytestmark = pytest.mark.tensorflow

CODES = np.random.default_rng(0).integers(0, 256, (7, 1024 + 128), np.uint8)
FRAME_LEVEL = Clip("ab12", np.array([3, 300]), {"video": CODES[:, :1024], "audio": CODES[:, 1024:]})
MEANS = dequantize(CODES).mean(axis=0, keepdims=True)
VIDEO_LEVEL = Clip("cd34", np.array([5]), {"video": MEANS[:, :1024], "audio": MEANS[:, 1024:]})


@pytest.fixture(scope="module")
def tf() -> Any:
    return pytest.importorskip("tensorflow")


def same(clip: Clip, other: Clip) -> None:
    assert (clip.id, clip.labels.tolist(), list(clip.tracks)) == (other.id, other.labels.tolist(), list(other.tracks))
    for name, track in clip.tracks.items():
        np.testing.assert_array_equal(track, other.tracks[name])


def test_tensorflow_reads_our_frame_level_records(tf: Any, tmp_path: Path) -> None:
    with Writer(tmp_path / "a.tfrecord") as writer:
        for _ in range(3):
            writer.write(encode(FRAME_LEVEL))
    records = list(tf.data.TFRecordDataset(str(tmp_path / "a.tfrecord")))
    assert len(records) == 3
    context, lists = tf.io.parse_single_sequence_example(
        records[1],
        {"id": tf.io.FixedLenFeature([], tf.string), "labels": tf.io.VarLenFeature(tf.int64)},
        {key: tf.io.FixedLenSequenceFeature([], tf.string) for key in ("rgb", "audio")},
    )
    assert context["id"].numpy() == b"ab12"
    assert tf.sparse.to_dense(context["labels"]).numpy().tolist() == [3, 300]
    for key, modality in (("rgb", "video"), ("audio", "audio")):
        decoded = tf.io.decode_raw(lists[key], tf.uint8).numpy()
        np.testing.assert_array_equal(decoded, FRAME_LEVEL.tracks[modality])


def test_tensorflow_reads_our_video_level_records(tf: Any) -> None:
    features = tf.io.parse_single_example(
        encode(VIDEO_LEVEL),
        {
            "id": tf.io.FixedLenFeature([], tf.string),
            "labels": tf.io.VarLenFeature(tf.int64),
            "mean_rgb": tf.io.FixedLenFeature([1024], tf.float32),
            "mean_audio": tf.io.FixedLenFeature([128], tf.float32),
        },
    )
    assert features["id"].numpy() == b"cd34"
    np.testing.assert_array_equal(features["mean_rgb"].numpy(), VIDEO_LEVEL.tracks["video"][0])
    np.testing.assert_array_equal(features["mean_audio"].numpy(), VIDEO_LEVEL.tracks["audio"][0])


def test_tensorflow_makes_the_same_bytes_of_our_records(tf: Any) -> None:
    for clip, kind in ((FRAME_LEVEL, tf.train.SequenceExample), (VIDEO_LEVEL, tf.train.Example)):
        ours = encode(clip)
        theirs = kind.FromString(ours).SerializeToString(deterministic=True)
        assert len(theirs) == len(ours)  # maps are written in another order


def test_we_read_tensorflow_records(tf: Any, tmp_path: Path) -> None:
    def feature(**values: Any) -> Any:
        lists = {"bytes_list": tf.train.BytesList, "float_list": tf.train.FloatList, "int64_list": tf.train.Int64List}
        return tf.train.Feature(**{name: lists[name](value=value) for name, value in values.items()})

    def context(clip: Clip, key: str, **more: Any) -> Any:
        labels = feature(int64_list=clip.labels.tolist())
        return tf.train.Features(feature={key: feature(bytes_list=[clip.id.encode()]), "labels": labels, **more})

    keys = (("video", "rgb"), ("audio", "audio"))
    lists = {
        key: tf.train.FeatureList(feature=[feature(bytes_list=[row.tobytes()]) for row in FRAME_LEVEL.tracks[modality]])
        for modality, key in keys
    }
    means = {f"mean_{key}": feature(float_list=VIDEO_LEVEL.tracks[modality][0].tolist()) for modality, key in keys}
    frame_level = tf.train.SequenceExample(
        context=context(FRAME_LEVEL, "video_id"), feature_lists=tf.train.FeatureLists(feature_list=lists)
    )
    video_level = tf.train.Example(features=context(VIDEO_LEVEL, "id", **means))
    with tf.io.TFRecordWriter(str(tmp_path / "a.tfrecord")) as writer:
        writer.write(frame_level.SerializeToString())
        writer.write(video_level.SerializeToString())
    shard = Shard(tmp_path / "a.tfrecord", check=True)
    for record, clip in enumerate((FRAME_LEVEL, VIDEO_LEVEL)):
        read = clip_of(shard, record)
        same(Clip(read.id, read.labels, {name: read.tracks[name] for name in clip.tracks}), clip)
