import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from counterpoint.data import mosaic as mosaics
from counterpoint.data.clip import Clip
from counterpoint.data.dataset import Dataset
from counterpoint.data.features import FeatureSet
from counterpoint.data.mosaic import MOSAIC_FILE, UNFINISHED_FILE, Mosaic, Records, Truth, most_specific, write
from counterpoint.data.records import CODE_SCALE, clip_of, encode, quantize
from counterpoint.data.tfrecord import Shard, Writer
from counterpoint.errors import Error
from counterpoint.experiments.datasets import Mosaics
from counterpoint.taxonomy import Category, Label, Labelling, LabelMap, Taxonomy

SIZES = {"video": 12, "audio": 9}
LEAVES = 10
TAXONOMY = Taxonomy(
    (
        Category("top", "", "Top"),
        *(Category(f"leaf{i}", "top" if i % 2 else "", f"Leaf {i}") for i in range(LEAVES)),
        *(Category(f"below{i}", f"leaf{i}", f"Below {i}") for i in range(2)),
    )
)
"""Label 10 k is leaf k, 10 k + 5 is what stands below it, and 999 is no category."""
LABELLING = Labelling(
    TAXONOMY,
    LabelMap(
        (
            *(Label(10 * i, f"leaf {i}", 0, (f"leaf{i}",)) for i in range(LEAVES)),
            *(Label(10 * i + 5, f"below {i}", 0, (f"below{i}",)) for i in range(2)),
            Label(999, "nothing", 0, ()),
        ),
        TAXONOMY,
    ),
)
MOSAIC = Mosaic(seed=1)


def record(name: str, labels: list[int], seed: int, **tracks: NDArray[np.float32] | None) -> Clip:
    """A video-level record whose vectors no other has."""
    rng = np.random.default_rng(seed)
    made = {m: rng.uniform(-1.5, 1.5, (1, size)).astype(np.float32) for m, size in SIZES.items()} | tracks
    return Clip(name, np.array(labels, np.int64), {m: track for m, track in made.items() if track is not None})


def shard(path: Path, *clips: Clip) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with Writer(path) as writer:
        for clip in clips:
            writer.write(encode(clip))
    return path


def some(split: str, count: int = 60, seed: int = 0) -> list[Clip]:
    """Records of one or two labels, as many of each."""
    labels = [label.index for label in LABELLING.labels.labels[:-1]]
    return [
        record(f"{split}{i}", [labels[i % 12], *([labels[i // 12]] if i % 5 == 0 else [])], seed + i)
        for i in range(count)
    ]


def read(path: Path) -> Records:
    return Records.read(Dataset([path], LABELLING))


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Records:
    return read(shard(tmp_path_factory.mktemp("records") / "a.tfrecord", *some("train")))


def made(mosaic: Mosaic, records: Records, count: int = 60) -> list[tuple[Clip, Truth]]:
    return [mosaic.clip(records, "train", index) for index in range(count)]


def found(records: Records, clip: Clip, modality: str) -> list[int]:
    """The record that each step's codes are."""
    by_codes = {codes.tobytes(): i for i, codes in enumerate(records.vectors[modality])}
    return [by_codes[step.tobytes()] for step in clip.tracks[modality]]


def same(one: Clip, other: Clip) -> bool:
    return one.id == other.id and all(np.array_equal(one.tracks[m], other.tracks[m]) for m in SIZES)


# --- delays, degrees and variation ------------------------------------------------------------------------------------


def test_delays_are_drawn_for_each_clip(records: Records) -> None:
    mosaic = Mosaic(shift=1, spread=4, stretch=1.0, unrelated=0.0, min_steps=40, max_steps=60)
    delays = Counter(truth.sound[0] - truth.picture[0] for _, truth in made(mosaic, records) if truth.sound)
    assert set(delays) <= set(range(-3, 6))
    assert len(delays) >= 7
    with pytest.raises(Error, match="spread must be 0 or more, not -1"):
        Mosaic(spread=-1)


def test_sound_related_in_degrees(records: Records) -> None:
    mosaic = Mosaic(unrelated=0.2, same_category=0.4, same_top=0.3)
    relations = Counter()
    for clip, truth in made(mosaic, records, 120):
        relations[truth.relation] += 1
        assert (truth.sound is None) == (truth.relation == "none")
        if truth.sound is None:
            continue
        sounding, seen = set(found(records, clip, "audio")[slice(*truth.sound)]), truth.record
        topics = {records.topics[i] for i in sounding}
        if truth.relation == "top":
            assert records.topics[seen] not in topics
            assert {records.tops[i] for i in sounding} == {records.tops[seen]}
        else:
            assert topics == {records.topics[seen]}
        assert (seen in sounding) or truth.relation != "record"
        assert (seen not in sounding) or truth.relation == "record"
    assert min(relations.values()) >= 10
    assert set(relations) == {"record", "category", "top", "none"}
    with pytest.raises(Error, match="same_category and same_top must be shares"):
        Mosaic(same_category=0.7, same_top=0.7)


def test_new_controls_leave_the_others_clips_as_they_are(records: Records) -> None:
    for (clip, truth), (other, others) in zip(
        made(MOSAIC, records, 9), made(replace(MOSAIC, variation=0.5), records, 9), strict=True
    ):
        assert truth.shown["video"].tolist() == others.shown["video"].tolist()
        assert clip.labels.tolist() == other.labels.tolist()
        assert not np.array_equal(clip.tracks["video"], other.tracks["video"])


def test_seconds_vary_as_those_of_real_videos() -> None:
    codes = np.full((4000, 1024), 128, np.uint8)
    varied = mosaics.vary(codes, "video", 1.0, np.random.default_rng(0)).astype(float) * CODE_SCALE
    assert varied.std(0)[:50].mean() == pytest.approx(0.80, abs=0.02)
    assert varied.std(0)[-50:].mean() == pytest.approx(0.85, abs=0.02)
    apart = varied - varied.mean(0)
    assert (apart[1:] * apart[:-1]).mean() / (apart**2).mean() == pytest.approx(0.48, abs=0.02)
    sound = mosaics.vary(codes[:, :128], "audio", 0.5, np.random.default_rng(0)).astype(float) * CODE_SCALE
    assert sound.std(0)[[0, -1]] == pytest.approx([0.275, 0.525], abs=0.02)


# --- records ----------------------------------------------------------------------------------------------------------


def test_records_as_they_are_in_their_shards(tmp_path: Path) -> None:
    clips = some("a", 24)
    records = read(shard(tmp_path / "a.tfrecord", *clips))
    assert records.ids == [clip.id for clip in clips]
    for i, clip in enumerate(clips):
        assert records.labels[i].tolist() == clip.labels.tolist()
        for modality in SIZES:
            assert np.array_equal(records.vectors[modality][i], quantize(clip.tracks[modality][0]))
        expected = LABELLING.labels.targets(clip.labels.tolist())
        assert np.array_equal(records.targets[i], expected)
    assert records.left_out == 0
    assert records.shards == ["a.tfrecord"]


def test_records_that_cannot_be_used_are_left_out(tmp_path: Path) -> None:
    path = shard(
        tmp_path / "a.tfrecord",
        record("whole", [10], 0),
        record("mute", [10], 1, audio=None),
        record("dark", [10], 2, video=None),
        record("nothing", [999], 3),
        record("unlabelled", [], 4),
        record("codes of zero", [10], 5, audio=np.full((1, 9), -9, np.float32)),
    )
    records = read(path)
    assert records.ids == ["whole"]
    assert records.left_out == 5
    with pytest.raises(Error, match=r"b\.tfrecord: no record with picture, sound and a category"):
        read(shard(tmp_path / "b.tfrecord", record("mute", [10], 1, audio=None)))


def test_frame_level_records_are_refused(tmp_path: Path) -> None:
    long = record("long", [10], 0, video=np.ones((7, 12), np.float32))
    with pytest.raises(Error, match="clip 'long': video of 7 steps; a mosaic is made of video-level"):
        read(shard(tmp_path / "a.tfrecord", long))


def test_the_most_specific_category_is_the_deepest_and_then_the_rarest(tmp_path: Path) -> None:
    records = read(
        shard(
            tmp_path / "a.tfrecord",
            record("a", [20, 15], 0),  # leaf 2 (a top) and what stands below leaf 1 (below the top)
            record("b", [10, 30], 1),  # leaf 1 and leaf 3, both below the top
            record("c", [30], 2),
            record("d", [50, 70], 3),  # leaf 5 and leaf 7, each once
        )
    )
    assert [TAXONOMY.ids[topic] for topic in records.topics] == ["below1", "leaf1", "leaf3", "leaf5"]
    assert np.array_equal(most_specific(records.targets, TAXONOMY), records.topics)


# --- clips ------------------------------------------------------------------------------------------------------------


def test_every_step_is_the_vector_of_a_real_record(records: Records) -> None:
    for clip, truth in made(MOSAIC, records):
        for modality, track in clip.tracks.items():
            assert track.dtype == np.uint8
            assert found(records, clip, modality) == truth.shown[modality].tolist()
        assert clip.labels.tolist() == records.labels[truth.record].tolist()


def test_stretches_show_their_topics(records: Records) -> None:
    for _, truth in made(MOSAIC, records):
        for modality, shown in truth.shown.items():
            covered = np.zeros(len(shown), int)
            for start, stop, about in truth.stretches[modality]:
                assert start < stop
                covered[start:stop] += 1
                assert (records.topics[shown[start:stop]] == records.topics[about]).all()
                assert about in shown[start:stop]
                assert len(set(shown[start:stop].tolist())) <= 4
            assert covered.max() == 1
            assert covered.sum() <= 0.8 * len(shown)
        assert truth.stretches["video"][0] == (*truth.picture, truth.record)


def test_other_topics_are_in_one_modality_only(records: Records) -> None:
    for _, truth in made(replace(MOSAIC, unrelated=0.5), records):
        about = {m: [stretch.record for stretch in stretches] for m, stretches in truth.stretches.items()}
        assert all(len(topics) == 3 for topics in about.values())
        assert (about["audio"][0] == truth.record) == (truth.sound is not None)
        if truth.sound:
            del about["audio"][0]
        topics = [topic for modality in about.values() for topic in modality]
        for i, one in enumerate(topics):
            for other in topics[:i]:
                assert not records.targets[one, records.topics[other]]
                assert not records.targets[other, records.topics[one]]


@pytest.mark.parametrize("shift", [-40, -3, 0, 4, 40])
def test_the_sound_begins_a_shift_later_as_far_as_the_clip_goes(records: Records, shift: int) -> None:
    for clip, truth in made(replace(MOSAIC, shift=shift, unrelated=0.0), records):
        assert truth.sound is not None
        room = clip.steps // 5
        assert truth.sound[0] - truth.picture[0] == max(-room, min(room, shift))
        assert 0 <= truth.sound[0] < truth.sound[1] <= clip.steps


@pytest.mark.parametrize("stretch", [0.5, 1.0, 1.25, 2.0])
def test_the_sound_is_the_pictures_stretched(records: Records, stretch: float) -> None:
    mosaic = replace(MOSAIC, stretch=stretch, unrelated=0.0, min_steps=40)
    for _, truth in made(mosaic, records):
        assert truth.sound is not None
        seen = truth.shown["video"][slice(*truth.picture)].tolist()
        sound = truth.shown["audio"][slice(*truth.sound)].tolist()
        assert len(sound) == max(1, int(len(seen) * stretch))
        assert sound == [seen[int(j * len(seen) / len(sound) + 1e-9)] for j in range(len(sound))]


@pytest.mark.parametrize("unrelated", [0.0, 0.3, 1.0])
def test_the_share_of_unrelated_sound(records: Records, unrelated: float) -> None:
    count = 400
    unrelated_clips = [truth.sound is None for _, truth in made(replace(MOSAIC, unrelated=unrelated), records, count)]
    assert abs(sum(unrelated_clips) - count * unrelated) <= 4 * np.sqrt(count * unrelated * (1 - unrelated))


def test_lengths_are_uniform_between_their_limits(records: Records) -> None:
    lengths = Counter(clip.steps for clip, _ in made(replace(MOSAIC, min_steps=20, max_steps=23), records, 400))
    assert set(lengths) == {20, 21, 22, 23}
    assert min(lengths.values()) > 60


def test_every_record_is_as_likely_the_topic(records: Records) -> None:
    counts = Counter(truth.record for _, truth in made(replace(MOSAIC, max_steps=20), records, 1200))
    assert len(counts) == len(records.ids)
    assert max(counts.values()) < 20 + 5 * np.sqrt(20)


def test_a_clip_depends_on_seed_split_and_number_alone(records: Records) -> None:
    clips = [clip for clip, _ in made(MOSAIC, records, 4)]
    later = [Mosaic(seed=1).clip(records, "train", index)[0] for index in (3, 2, 1, 0)][::-1]
    assert all(map(same, clips, later))
    for other in (replace(MOSAIC, seed=2).clip(records, "train", 0)[0], MOSAIC.clip(records, "test", 0)[0]):
        assert not np.array_equal(other.tracks["video"], clips[0].tracks["video"])


def test_a_sweep_changes_only_what_it_is_about(records: Records) -> None:
    for index in range(20):
        base, *others = (
            replace(MOSAIC, **control).clip(records, "train", index)  # type: ignore[arg-type]
            for control in ({}, {"unrelated": 1.0}, {"shift": 0}, {"stretch": 1.0})
        )
        for clip, truth in others:
            assert (clip.steps, truth.record) == (base[0].steps, base[1].record)
            assert [s.record for s in truth.stretches["video"]] == [s.record for s in base[1].stretches["video"]]


def test_too_few_topics(tmp_path: Path) -> None:
    few = read(shard(tmp_path / "a.tfrecord", *(record(f"r{i}", [10 * (i % 4)], i) for i in range(20))))
    with pytest.raises(Error, match="train: 20 records have too few topics for 6 stretches"):
        MOSAIC.clip(few, "train", 0)
    assert replace(MOSAIC, distractors=1).clip(few, "train", 0)


@pytest.mark.parametrize(
    ("controls", "problem"),
    [
        ({"min_steps": 4}, "min_steps of 5, not 4"),
        ({"min_steps": 61}, "above max_steps 60"),
        ({"unrelated": -0.1}, "unrelated must be a share"),
        ({"stretch": 0.0}, "stretch must be a factor above 0"),
        ({"distractors": -1}, "distractors must be 0 to 64"),
    ],
)
def test_mosaics_that_cannot_be(controls: dict[str, float], problem: str) -> None:
    with pytest.raises(Error, match=problem):
        Mosaic(**controls)  # type: ignore[arg-type]


# --- shards -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Records]:
    folder = tmp_path_factory.mktemp("splits")
    return {
        split: read(shard(folder / f"{split}.tfrecord", *some(split, seed=1000 * i)))
        for i, split in enumerate(("train", "validation", "test"))
    }


def written(splits: dict[str, Records], folder: Path, **options: object) -> dict[str, list[Path]]:
    clips = {"train": 11, "validation": 3, "test": 4}
    return write(MOSAIC, splits, TAXONOMY, FeatureSet(SIZES), folder, clips, 5, **options)  # type: ignore[arg-type]


def test_splits_show_only_their_own_records(splits: dict[str, Records], tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    shards = written(splits, tmp_path / "m", progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, 18) for done in range(1, 19)]
    assert {split: len(paths) for split, paths in shards.items()} == {"train": 3, "validation": 1, "test": 1}
    for split, paths in shards.items():
        data = Dataset(paths, LABELLING)
        lines = (tmp_path / "m" / f"{split}-truth.jsonl").read_text().splitlines()
        assert len(lines) == len(data)
        for index, line in enumerate(lines):
            clip, stored = data.clip(index), json.loads(line)
            expected, truth = MOSAIC.clip(splits[split], split, index)
            assert same(clip, expected)
            assert clip.id == stored["id"] == f"{split}-{index:06}"
            for modality in SIZES:
                names = [splits[split].ids[i] for i in found(splits[split], clip, modality)]
                assert stored["shown"][modality] == names
            assert stored["record"] == splits[split].ids[truth.record]
            assert stored["topic"] == TAXONOMY.ids[splits[split].topics[truth.record]]
            assert stored["picture"] == list(truth.picture)
            if split == "test":
                related = Mosaics(name="m", what="").related(tmp_path / "m", 0, len(data))
                assert related is not None
                assert related[index] == (truth.sound is not None)
            assert stored["sound"] == (truth.sound and list(truth.sound))
            first = stored["stretches"]["video"][0]
            assert [first["start"], first["stop"], first["record"]] == [*stored["picture"], stored["record"]]
    assert FeatureSet.of(shards["train"]) == FeatureSet(dict(sorted(SIZES.items())))
    summary = json.loads((tmp_path / "m" / MOSAIC_FILE).read_text())
    assert summary["controls"] == {"seed": 1, "shift": 5, "stretch": 1.25, "unrelated": 0.25} | {
        name: getattr(MOSAIC, name)
        for name in (
            *("distractors", "advantage", "min_steps", "max_steps"),
            *("spread", "same_category", "same_top", "variation"),
        )
    }
    assert summary["splits"]["test"] == {
        "clips": 4,
        "records": 60,
        "left_out": 0,
        "topics": 12,
        "shards": ["test.tfrecord"],
    }


def test_the_same_files_for_the_same_seed(splits: dict[str, Records], tmp_path: Path) -> None:
    for name in ("one", "two"):
        written(splits, tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(files) == 10
    assert files == sorted(path.name for path in (tmp_path / "two").iterdir())
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_record_in_two_splits_is_refused(splits: dict[str, Records], tmp_path: Path) -> None:
    with pytest.raises(Error, match=r"record 'train0' is in train and in test \(60 are\)"):
        written(splits | {"test": splits["train"]}, tmp_path)
    with pytest.raises(Error, match="no records for the split 'test'"):
        written({split: splits[split] for split in ("train", "validation")}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_mosaic_is_no_mosaic(splits: dict[str, Records], tmp_path: Path) -> None:
    written(splits, tmp_path)
    before = {path.name for path in tmp_path.iterdir()}

    def stop(done: int, total: int) -> None:
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        written(splits, tmp_path, progress=stop)
    assert {path.name for path in tmp_path.iterdir()} == before - {MOSAIC_FILE} | {UNFINISHED_FILE}
    assert len(Shard(tmp_path / "train-0000.tfrecord")) == 5
    written(splits, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == before


def test_other_shards_stay_as_they_are(splits: dict[str, Records], tmp_path: Path) -> None:
    (tmp_path / "train-0000.tfrecord").write_bytes(b"of another data set")
    with pytest.raises(Error, match="holds something else; choose another --out"):
        written(splits, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["train-0000.tfrecord"]
    assert (tmp_path / "train-0000.tfrecord").read_bytes() == b"of another data set"


def test_a_refusal_touches_nothing(splits: dict[str, Records], tmp_path: Path) -> None:
    written(splits, tmp_path)
    (tmp_path / "train-0099.tfrecord").write_bytes(b"")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(Error, match="an older shard of 'train' would stay"):
        written(splits, tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_real_records(real_data: Path) -> None:
    """Of each clip, every vector is a record's as TensorFlow's rule quantizes it."""
    from counterpoint.taxonomy.mapping import youtube8m

    path = real_data / "yt8m" / "video" / "validate0000.tfrecord"
    records = Records.read(Dataset([path], youtube8m()))
    assert len(records.ids) + records.left_out == 284
    whole = Shard(path)
    means = {clip.id: clip for clip in (clip_of(whole, i) for i in range(len(whole)))}
    for clip, truth in made(Mosaic(), records, 5):
        assert {m: track.shape[1] for m, track in clip.tracks.items()} == {"video": 1024, "audio": 128}
        for modality, shown in truth.shown.items():
            for step, number in zip(clip.tracks[modality], shown, strict=True):
                value = means[records.ids[number]].tracks[modality][0]
                inside = np.abs(value) < 1.99
                assert np.abs(step.astype(float) * 4 / 255 + 4 / 512 - 2 - value)[inside].max() <= 2 / 255 + 1e-5
        assert clip.labels.tolist() == means[records.ids[truth.record]].labels.tolist()
