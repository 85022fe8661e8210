import json
from pathlib import Path

import numpy as np
import pytest
from training.world import SIZES, clip, clips, codes, damage, write

from counterpoint.data.features import FEATURES_FILE, SAMPLE_CLIPS, FeatureSet
from counterpoint.data.inspect import inspect
from counterpoint.data.records import encode
from counterpoint.data.tfrecord import Writer
from counterpoint.errors import Error

OURS = FeatureSet({"audio": 128, "video": 512}, "clip-vit+vggish")


def test_sidecar_round_trip(tmp_path: Path) -> None:
    OURS.save(tmp_path)
    assert FeatureSet.load(tmp_path) == OURS
    stored = json.loads((tmp_path / FEATURES_FILE).read_text())
    assert stored == {"encoder": OURS.encoder, "sizes": OURS.sizes, "fingerprint": OURS.fingerprint}


def test_fingerprint() -> None:
    """The same for the same features, whatever their order, and another for any others."""
    assert FeatureSet({"video": 512, "audio": 128}, OURS.encoder).fingerprint == OURS.fingerprint
    others = [
        FeatureSet({"audio": 128, "video": 512}, "another"),
        FeatureSet({"audio": 128, "video": 513}, OURS.encoder),
        FeatureSet({"audio": 128}, OURS.encoder),
        FeatureSet({"audio": 128, "picture": 512}, OURS.encoder),
    ]
    assert len({features.fingerprint for features in (OURS, *others)}) == 5


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"encoder": "x", "sizes": {"video": "wide"}}'])
def test_unreadable_sidecar_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / FEATURES_FILE).write_text(content)
    with pytest.raises(Error, match=rf"{FEATURES_FILE}: cannot be read as a feature set"):
        FeatureSet.load(tmp_path)


# --- what shards hold -------------------------------------------------------------------------------------------------


def test_of_shards_without_a_sidecar(tmp_path: Path) -> None:
    assert FeatureSet.of([write(tmp_path / "a.tfrecord", *clips(3))]) == FeatureSet(SIZES, "youtube8m")


def test_of_shards_with_a_sidecar(tmp_path: Path) -> None:
    FeatureSet(SIZES, "ours").save(tmp_path)
    assert FeatureSet.of([write(tmp_path / "a.tfrecord", *clips(3))]) == FeatureSet(SIZES, "ours")


def test_modalities_of_later_clips_count(tmp_path: Path) -> None:
    silent = clips(SAMPLE_CLIPS - 1, sound=False)
    assert FeatureSet.of([write(tmp_path / "a.tfrecord", *silent, *clips(1))]).sizes == SIZES


def test_damage_does_not_hide_the_features(tmp_path: Path) -> None:
    """Whoever reads the clips reports it."""
    damaged = damage(write(tmp_path / "a.tfrecord", *clips(3)), 0)
    with Writer(tmp_path / "b.tfrecord") as writer:
        writer.write(b"nonsense")
        writer.write(encode(clips(1)[0]))
    assert FeatureSet.of([damaged]).sizes == FeatureSet.of([tmp_path / "b.tfrecord"]).sizes == SIZES


def test_several_encoders_are_refused(tmp_path: Path) -> None:
    paths = [write(tmp_path / name / "a.tfrecord", *clips(1)) for name in ("downloaded", "extracted")]
    FeatureSet(SIZES, "ours").save(tmp_path / "extracted")
    with pytest.raises(Error) as raised:
        FeatureSet.of(paths)
    assert str(raised.value) == (
        f"the shards hold features of several encoders ({tmp_path / 'downloaded'}: youtube8m, "
        f"{tmp_path / 'extracted'}: ours); read one kind at a time"
    )


def test_several_sizes_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", clip("a", [], video=codes(1, 16)), clip("b", [], video=codes(1, 17)))
    with pytest.raises(Error) as raised:
        FeatureSet.of([path])
    assert str(raised.value) == f"{path}: record 1: 'video' has 17 features a step, other clips have 16"


def test_what_shards_of_unlike_folders_hold(tmp_path: Path) -> None:
    """Where nothing says what is in them, some of each folder's are looked into."""
    silent = [write(tmp_path / "a" / f"{i}.tfrecord", *clips(3, sound=False)) for i in range(9)]
    later = write(tmp_path / "a" / "9.tfrecord", *clips(3))
    other = write(tmp_path / "b" / "0.tfrecord", *clips(3))
    wider = write(tmp_path / "c" / "0.tfrecord", clip("c", [], video=codes(1, 17)))
    assert FeatureSet.of(silent).sizes == {"video": SIZES["video"]}
    assert FeatureSet.of([*silent, later]).sizes == FeatureSet.of([*silent, other]).sizes == SIZES
    with pytest.raises(Error, match="'video' has 17 features a step, other clips have 16"):
        FeatureSet.of([other, wider])


def test_why_nothing_can_be_read_is_told(tmp_path: Path) -> None:
    text = tmp_path / "text.tfrecord"
    text.write_text("id,label\n" * 40)
    with pytest.raises(Error, match=r"text\.tfrecord: record 0 at byte 0: not a TFRecord file"):
        FeatureSet.of([text])
    whole = write(tmp_path / "a.tfrecord", clip("a", [], video=codes(1, 16)))
    assert FeatureSet.of([text, whole]).sizes == {"video": 16}


def test_shards_without_features_are_refused(tmp_path: Path) -> None:
    paths = [write(tmp_path / name, clip("a", [1])) for name in ("a.tfrecord", "b.tfrecord")]
    with pytest.raises(Error, match=r"a\.tfrecord and 1 more shards: no clips with features"):
        FeatureSet.of(paths)
    with pytest.raises(Error, match="no shards"):
        FeatureSet.of([])


# --- what a model reads -----------------------------------------------------------------------------------------------


def test_the_same_or_fewer_modalities_are_accepted() -> None:
    OURS.check(OURS, "run")
    OURS.check(FeatureSet({"video": 512}, OURS.encoder), "run")
    OURS.check(FeatureSet({"audio": 128}, OURS.encoder), "run")


@pytest.mark.parametrize(
    "data",
    [
        FeatureSet({"audio": 128, "video": 512}, "youtube8m"),  # another encoder
        FeatureSet({"audio": 128, "video": 1024}, OURS.encoder),  # another size
        FeatureSet({"audio": 128, "text": 768, "video": 512}, OURS.encoder),  # an unknown modality
    ],
)
def test_other_features_are_refused_in_one_sentence(data: FeatureSet) -> None:
    with pytest.raises(Error) as raised:
        OURS.check(data, "runs/first")
    assert str(raised.value) == (
        f"runs/first reads clip-vit+vggish features (audio 128, video 512), not {data}: "
        "extract the features with the same encoders, or train a model on these"
    )


def test_youtube8ms_own() -> None:
    assert FeatureSet({"video": 1024, "audio": 128}).youtube8m
    assert FeatureSet({"video": 1024}).youtube8m
    assert not FeatureSet({"audio": 128}).youtube8m  # AudioSet's look the same
    assert not FeatureSet({"video": 16, "audio": 128}).youtube8m
    assert not FeatureSet({"video": 1024, "audio": 128, "text": 7}).youtube8m
    assert not FeatureSet({"video": 1024, "audio": 128}, "ours").youtube8m


def test_a_modality_that_the_first_films_lack(tmp_path: Path) -> None:
    """The encoders' own word is not enough: whole libraries are silent."""
    FeatureSet(SIZES, "lite-1").save(tmp_path)
    silent = write(tmp_path / "a.tfrecord", *clips(3, sound=False))
    assert FeatureSet.of([silent]).sizes == {"video": SIZES["video"]}
    late = write(tmp_path / "b.tfrecord", *clips(2 * SAMPLE_CLIPS, sound=False), *clips(SAMPLE_CLIPS))
    assert FeatureSet.of([silent, late]).sizes == SIZES


def test_codes_as_floats_are_no_features(tmp_path: Path) -> None:
    """A model that reads them gives nonsense without a word."""
    made = np.random.default_rng(0).integers(0, 256, (1, 16)).astype(np.float32)
    path = write(tmp_path / "a.tfrecord", clip("a", [10], video=made))
    with pytest.raises(Error, match=r"record 0: 'video' holds 8-bit codes \(0 to 255\) as floats; store them as bytes"):
        FeatureSet.of([path])
    assert "video: 1 clips hold 8-bit codes (0 to 255) as floats, and no features" in inspect(path).problems
    fine = write(tmp_path / "b.tfrecord", clip("a", [10], video=made / 64 - 2), clip("b", [10], video=0 * made))
    assert FeatureSet.of([fine]).sizes == {"video": 16}
    assert "1 clips have all-zero features: they are read as missing" in inspect(fine).problems
