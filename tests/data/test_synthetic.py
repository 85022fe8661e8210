from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from counterpoint.data.clip import Clip, present
from counterpoint.data.dataset import Dataset
from counterpoint.data.features import FeatureSet
from counterpoint.data.records import clip_of, dequantize
from counterpoint.data.synthetic import BACKGROUND, SyntheticData, Truth, write
from counterpoint.data.tfrecord import Shard
from counterpoint.errors import Error
from counterpoint.taxonomy import load

WORLD = SyntheticData(unrelated=0.4, shift=3, seed=1)


def clips(world: SyntheticData, count: int, split: str = "train") -> list[tuple[Clip, Truth]]:
    return [world.clip(index, split) for index in range(count)]


def decoded(world: SyntheticData, clip: Clip, modality: str) -> NDArray[np.int64]:
    """(step,): the topic whose vector is nearest, or the background."""
    distances = np.square(dequantize(clip.tracks[modality])[:, None] - world.vectors[modality]).sum(-1)
    nearest = distances.argmin(1)
    return np.where(nearest == world.topics, BACKGROUND, nearest)


def topics(shown: NDArray[np.int64]) -> set[int]:
    return set(shown.tolist()) - {BACKGROUND}


def same(one: Clip, other: Clip) -> bool:
    return one.id == other.id and all(np.array_equal(one.tracks[m], other.tracks[m]) for m in ("video", "audio"))


def test_the_features_show_what_the_truth_says() -> None:
    for clip, truth in clips(replace(WORLD, noise=0.3), 40):
        for modality in ("video", "audio"):
            assert np.array_equal(decoded(WORLD, clip, modality), truth.shown[modality])
        assert clip.labels.tolist() == [truth.topic]
        assert (truth.sound is not None) == truth.related
        for modality, span in (("video", truth.picture), ("audio", truth.sound)):
            where = np.flatnonzero(truth.shown[modality] == truth.topic).tolist()
            assert where == (list(range(*span)) if span else [])


def test_clips_have_the_lengths_and_sizes_asked_for() -> None:
    world = SyntheticData(min_steps=40, max_steps=44, sizes={"video": 1024, "audio": 128})
    made = [clip for clip, _ in clips(world, 40)]
    assert {clip.steps for clip in made} == {40, 41, 42, 43, 44}
    for clip in made:
        assert {m: track.shape for m, track in clip.tracks.items()} == {
            "video": (clip.steps, 1024),
            "audio": (clip.steps, 128),
        }
        assert all(track.dtype == np.uint8 for track in clip.tracks.values())


@pytest.mark.parametrize("shift", [-40, -3, 0, 7, 40])
def test_the_sound_begins_a_shift_later_as_far_as_the_clip_goes(shift: int) -> None:
    for clip, truth in clips(SyntheticData(shift=shift, max_steps=120, sizes={"video": 1, "audio": 1}), 100):
        assert truth.sound is not None
        half = clip.steps // 2
        assert truth.sound[0] - truth.picture[0] == max(-half, min(half, shift))
        assert 0 <= truth.sound[0] < truth.sound[1] <= clip.steps


@pytest.mark.parametrize("stretch", [0.1, 0.5, 1.0, 1.5, 5.0])
def test_the_sound_lasts_a_stretch_as_long(stretch: float) -> None:
    for _, truth in clips(SyntheticData(stretch=stretch, shift=-9, sizes={"video": 1, "audio": 1}), 100):
        assert truth.sound is not None
        picture, sound = (stop - start for start, stop in (truth.picture, truth.sound))
        assert sound == max(1, int(picture * stretch))


@pytest.mark.parametrize("distractors", [0, 1, 4])
def test_only_the_topic_is_confirmed(distractors: int) -> None:
    for clip, truth in clips(replace(WORLD, distractors=distractors), 60):
        picture, sound = topics(truth.shown["video"]), topics(truth.shown["audio"])
        assert picture & sound == ({truth.topic} if truth.related else set())
        assert len(picture) == len(sound) == distractors + 1
        for shown in truth.shown.values():
            assert np.count_nonzero(shown != BACKGROUND) <= clip.steps / 2


@pytest.mark.parametrize("unrelated", [0.0, 0.4, 1.0])
def test_the_share_of_unrelated_sound(unrelated: float) -> None:
    count = 500
    world = SyntheticData(unrelated=unrelated, max_steps=30, sizes={"video": 1, "audio": 1})
    found = sum(not truth.related for _, truth in clips(world, count))
    assert abs(found - count * unrelated) <= 4 * np.sqrt(count * unrelated * (1 - unrelated))


def test_both_modalities_tell_the_topic_and_one_alone_hardly() -> None:
    right = {"both": 0, "video": 0, "audio": 0}
    count = 200
    for _, truth in clips(SyntheticData(sizes={"video": 1, "audio": 1}), count):
        # The most that models without a sense of time can know: for how long each modality shows each topic.
        long = {m: np.bincount(shown[shown != BACKGROUND], minlength=24) for m, shown in truth.shown.items()}
        long["both"] = long["video"] * long["audio"]
        for name, lengths in long.items():
            right[name] += int(lengths.argmax() == truth.topic)
    assert right["both"] == count
    assert 0.4 < right["video"] / count < 0.7  # chance, one of three, and the advantage
    assert 0.2 < right["audio"] / count < 0.5


def test_the_place_of_a_stretch_does_not_give_the_topic_away() -> None:
    earliest = {"video": 0, "audio": 0}
    middle = {"video": 0, "audio": 0}
    count = 600
    for _, truth in clips(SyntheticData(shift=20, min_steps=100, sizes={"video": 1, "audio": 1}), count):
        for modality, shown in truth.shown.items():
            order = [shown[step] for step in np.sort([np.argmax(shown == topic) for topic in topics(shown)])]
            earliest[modality] += order[0] == truth.topic
            middle[modality] += order[1] == truth.topic
    for found in (*earliest.values(), *middle.values()):
        assert abs(found / count - 1 / 3) < 0.08


def test_a_clip_depends_on_seed_split_and_number_alone() -> None:
    again = SyntheticData(unrelated=0.4, shift=3, seed=1)
    later = [again.clip(index)[0] for index in (2, 1, 0)][::-1]
    assert all(same(clip, other) for (clip, _), other in zip(clips(WORLD, 3), later, strict=True))
    other = replace(WORLD, seed=2)
    assert not np.array_equal(WORLD.vectors["video"], other.vectors["video"])
    assert not same(WORLD.clip(0)[0], other.clip(0)[0])
    train, test = (WORLD.clip(0, split)[0].tracks["video"] for split in ("train", "test"))
    assert not np.array_equal(train, test)


def test_a_sweep_changes_only_what_it_is_about() -> None:
    for index in range(20):
        (clip, truth), (mute, other) = SyntheticData().clip(index), SyntheticData(unrelated=1.0).clip(index)
        assert (clip.steps, truth.topic, topics(truth.shown["video"])) == (
            mute.steps,
            other.topic,
            topics(other.shown["video"]),
        )
        assert truth.picture[1] - truth.picture[0] == other.picture[1] - other.picture[0]
        if truth.shown["video"][0] == other.shown["video"][0]:
            assert np.array_equal(clip.tracks["video"][0], mute.tracks["video"][0])


def test_no_step_is_missing_by_accident() -> None:
    for clip, _ in clips(SyntheticData(noise=50, sizes={"video": 1, "audio": 2}), 20):
        assert all(present(track).all() for track in clip.tracks.values())


def test_siblings_are_alike() -> None:
    cake, ice_cream, pizza, _, _, _, car = WORLD.vectors["video"][:7]
    distances = [np.linalg.norm(cake - other) for other in (ice_cream, pizza, car)]
    assert distances == sorted(distances)


@pytest.mark.parametrize("count", [6, 24, 48, 61])
def test_labels_are_the_leaves_of_three_levels(count: int) -> None:
    taxonomy, labels = SyntheticData(topics=count).labelling
    assert [label.index for label in labels.labels] == list(range(count))
    leaves = [taxonomy.index(label.categories[0]) for label in labels.labels]
    assert leaves == [i for i in range(len(taxonomy)) if not taxonomy.children(i)]
    assert taxonomy.levels[leaves].tolist() == [2] * count
    assert np.count_nonzero(taxonomy.levels == 0) == -(-count // 6)
    assert taxonomy.paths[leaves[0]] == "Food:Dessert:Cake"
    if count > 48:
        assert taxonomy.paths[leaves[48]] == "Subject 9:Group 25:Topic 49"


def test_writing_and_reading_back(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    counts = {"train": 25, "test": 7}
    shards = write(WORLD, tmp_path / "world", counts, 10, lambda done, total: calls.append((done, total)))
    assert [path.name for path in shards["train"] + shards["test"]] == [
        "train-0000.tfrecord",
        "train-0001.tfrecord",
        "train-0002.tfrecord",
        "test-0000.tfrecord",
    ]
    assert calls == [(done, 32) for done in range(1, 33)]
    for split, paths in shards.items():
        read = [clip_of(shard, i) for shard in map(Shard, paths) for i in range(len(shard))]
        assert [clip.id for clip in read] == [f"{split}-{i:06}" for i in range(counts[split])]
        assert all(same(clip, made) for clip, (made, _) in zip(read, clips(WORLD, len(read), split), strict=True))
    features = FeatureSet({"audio": 32, "video": 64}, "synthetic")
    assert FeatureSet.of(shards["train"]) == features
    assert FeatureSet.load(tmp_path / "world").fingerprint == features.fingerprint

    labelling = load(tmp_path / "world" / "taxonomy")
    assert labelling.taxonomy == WORLD.labelling.taxonomy
    assert sum(label.count for label in labelling.labels.labels) == 25
    data = Dataset(shards["test"], labelling)
    for clip, targets in (data[i] for i in range(len(data))):
        topic = labelling.taxonomy.index(labelling.labels.labels[clip.labels[0]].categories[0])
        assert np.flatnonzero(targets).tolist() == sorted((topic, *labelling.taxonomy.ancestors(topic)))
        assert np.count_nonzero(targets) == 3


def test_shards_of_another_world_are_not_mixed_in(tmp_path: Path) -> None:
    write(WORLD, tmp_path, {"train": 3}, 1)
    write(replace(WORLD, seed=5), tmp_path, {"train": 3}, 1)  # the same files: replaced
    with pytest.raises(Error, match=r"train-0002\.tfrecord: an older shard of 'train'"):
        write(WORLD, tmp_path, {"train": 2}, 1)


def test_other_shards_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "test-0000.tfrecord").write_bytes(b"of another data set")
    with pytest.raises(Error, match="holds something else; choose another --out"):
        write(WORLD, tmp_path, {"train": 2}, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["test-0000.tfrecord"]


@pytest.mark.parametrize(
    ("controls", "problem"),
    [
        ({"topics": 5}, "2 distractors need 6 topics"),
        ({"distractors": -1}, "distractors must be 0 to 64"),
        ({"stretch": 0.0}, "stretch must be a factor above 0"),
        ({"stretch": float("nan")}, "stretch must be a factor above 0"),
        ({"stretch": 6.0}, "min_steps of 36, not 30"),
        ({"advantage": 0.5}, "advantage must be"),
        ({"unrelated": 1.5}, "unrelated must be a share"),
        ({"noise": float("nan")}, "noise must be"),
        ({"min_steps": 301}, "above max_steps 300"),
        ({"min_steps": 5}, "min_steps of 6, not 5"),
        ({"sizes": {"video": 64}}, "video and audio"),
        ({"sizes": {"video": 64, "audio": 0}}, "1 or more"),
    ],
)
def test_worlds_that_cannot_be(controls: dict[str, object], problem: str) -> None:
    with pytest.raises(Error, match=problem):
        SyntheticData(**controls)  # type: ignore[arg-type]
