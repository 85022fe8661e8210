import pickle
from collections import Counter
from pathlib import Path

import pytest
from training.world import LABELLING, clip, clips, codes, cut, damage, dataset, write

from counterpoint.data.dataset import Dataset, hold_out, share, training_data
from counterpoint.data.records import encode
from counterpoint.data.tfrecord import Writer
from counterpoint.errors import Error, RecordError
from counterpoint.taxonomy import Category, Label, Labelling, LabelMap, Taxonomy, youtube8m

# --- clips by number --------------------------------------------------------------------------------------------------


def test_clips_and_targets_by_number(folder: Path) -> None:
    data = dataset(folder)
    assert len(data) == 3
    assert [path.name for path in data.paths] == ["train2.tfrecord", "train10.tfrecord"]
    assert [data[i][0].id for i in range(3)] == ["a", "b", "c"]
    #                                      food   dessert soup   sport  ball
    assert data[0][1].tolist() == [True, False, True, False, False]
    assert data[1][1].tolist() == [True, True, False, True, True]
    assert data[2][1].tolist() == [False, False, False, False, False]
    assert data[1][0].tracks["video"].tolist() == [[7] * 16] * 4
    assert data.where.tolist() == [[0, 0], [0, 1], [1, 0]]


def test_survives_pickling(folder: Path) -> None:
    """As for workers that do not share the process's memory."""
    copy = pickle.loads(pickle.dumps(dataset(folder, keep=share(0.0, 1.0))))
    assert [copy[i][0].id for i in range(len(copy))] == ["a", "b", "c"]
    assert copy[1][1].tolist() == [True, True, False, True, True]


def test_unknown_label_names_shard_record_and_clip(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tfrecord", *clips(2), clip("strange", [10, 99], video=codes(1, 16)))
    with pytest.raises(Error) as raised:
        dataset(path)[2]
    assert str(raised.value) == f"{path}: record 2 (clip strange): the label mapping has no label with the index 99"


def test_unknown_label_behind_a_damaged_record(tmp_path: Path) -> None:
    """The record's number is the one in the file."""
    path = write(tmp_path / "x.tfrecord", *clips(2), clip("strange", [99], video=codes(1, 16)))
    data = dataset(damage(path, 0), skip_bad=True)
    with pytest.raises(Error, match="record 2 "):
        data[1]


def test_labels_do_not_matter_where_they_are_not_read(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tfrecord", clip("strange", [99], video=codes(1, 16)))
    assert not dataset(path, labelled=False)[0][1].any()


def test_no_clips(tmp_path: Path) -> None:
    (tmp_path / "empty.tfrecord").touch()
    with pytest.raises(Error, match=r"no clips in .*empty\.tfrecord$"):
        dataset(tmp_path / "empty.tfrecord")
    write(tmp_path / "one.tfrecord", *clips(1))
    with pytest.raises(Error, match=r"no clips .* for this split"):
        dataset(tmp_path / "one.tfrecord", keep=share(0.0, 0.0))


# --- damaged records --------------------------------------------------------------------------------------------------


def test_damage_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"bad\.tfrecord: record 3 at byte \d+: payload checksum"):
        dataset(damage(write(tmp_path / "bad.tfrecord", *clips(6)), 3, 4))
    with pytest.raises(RecordError, match=r"cut\.tfrecord: record 5 at byte \d+: cut short"):
        dataset(cut(write(tmp_path / "cut.tfrecord", *clips(6))))


@pytest.mark.parametrize("keep", [None, share(0.0, 1.0)])
def test_skip_bad(tmp_path: Path, keep: object) -> None:
    damage(write(tmp_path / "bad.tfrecord", *clips(6)), 3, 4)
    cut(write(tmp_path / "cut.tfrecord", *clips(3, prefix="cut")))
    with Writer(tmp_path / "foreign.tfrecord") as writer:  # checksums that agree with a payload that is no clip
        writer.write(encode(clips(1, prefix="foreign")[0]))
        writer.write(b"nonsense")
    data = dataset(tmp_path, skip_bad=True, keep=keep)
    names = ["clip000", "clip001", "clip002", "clip005", "cut000", "cut001", "foreign000"]
    assert [data[i][0].id for i in range(len(data))] == names
    assert sorted((error.shard.name, error.record) for error in data.bad) == [
        ("bad.tfrecord", 3),
        ("bad.tfrecord", 4),
        ("cut.tfrecord", 2),
        ("foreign.tfrecord", 1),
    ]


def test_nothing_but_damage(tmp_path: Path) -> None:
    path = damage(write(tmp_path / "bad.tfrecord", *clips(1)), 0)
    with pytest.raises(Error, match="no clips in"):
        dataset(path, skip_bad=True)


def test_lengths_are_those_of_the_records(folder: Path) -> None:
    data = dataset(folder)
    assert data.lengths.tolist() == [len(data.shards[shard][record]) for shard, record in data.where]
    few = dataset(folder, keep={"c", "a"}.__contains__)
    assert few.lengths.tolist() == data.lengths[[0, 2]].tolist()


# --- splits -----------------------------------------------------------------------------------------------------------

SPLITS = [(0.0, 0.1), (0.1, 0.3), (0.3, 1.0)]


def ids(data: Dataset) -> list[str]:
    return [data.clip(i).id for i in range(len(data))]


def test_splits_are_disjoint_and_complete(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", *clips(100))
    parts = [ids(dataset(path, keep=share(*split))) for split in SPLITS]
    assert Counter(name for part in parts for name in part) == Counter(ids(dataset(path)))
    # Within four standard deviations of 10, 20 and 70.
    for part, expected, deviation in zip(parts, (10, 20, 70), (3.0, 4.0, 4.6), strict=True):
        assert abs(len(part) - expected) < 4 * deviation


def test_splits_stay_when_clips_are_added(tmp_path: Path) -> None:
    few = write(tmp_path / "b.tfrecord", *clips(50))
    before = [ids(dataset(few, keep=share(*split))) for split in SPLITS]
    write(tmp_path / "a.tfrecord", *clips(50, prefix="new"))
    after = [ids(dataset(tmp_path, keep=share(*split))) for split in SPLITS]
    assert before == [[name for name in part if not name.startswith("new")] for part in after]


def test_splits_of_another_seed_are_others() -> None:
    names = [f"clip{i}" for i in range(100)]
    chosen = [{name for name in names if share(0.0, 0.5, seed)(name)} for seed in (0, 1)]
    assert chosen[0] != chosen[1]


def test_hold_out_is_a_tenth_that_stays(tmp_path: Path) -> None:
    data = dataset(write(tmp_path / "a.tfrecord", *clips(100)))
    rest, tenth = hold_out(data)
    assert ids(tenth) == ids(dataset(tmp_path, keep=share(0.0, 0.1)))
    assert sorted(ids(rest) + ids(tenth)) == ids(data)
    assert rest[3][1].tolist() == data[ids(data).index(ids(rest)[3])][1].tolist()


def test_training_data(tmp_path: Path) -> None:
    one, other = (write(tmp_path / f"{name}.tfrecord", *clips(40, prefix=name)) for name in "ab")
    assert [len(part) for part in training_data(one, other, LABELLING)] == [40, 40]
    assert [ids(part) for part in training_data(str(tmp_path / "a*"), [], LABELLING)] == [
        ids(part) for part in hold_out(dataset(one))
    ]
    with pytest.raises(Error, match=r"a\.tfrecord: in more than one split"):
        training_data([one, other], [one], LABELLING)
    halves = [dataset(one, keep=share(*half)) for half in ((0.0, 0.5), (0.5, 1.0))]
    assert [ids(part) for part in training_data(*halves)] == [ids(half) for half in halves]
    with pytest.raises(Error, match=r"a\.tfrecord: clips of it are in the training and in the validation data"):
        training_data(dataset(one), halves[0])


# --- taxonomies -------------------------------------------------------------------------------------------------------


def test_the_taxonomy_beside_the_shards_is_found(tmp_path: Path) -> None:
    write(tmp_path / "a.tfrecord", *clips(3))
    data = Dataset(tmp_path)
    with pytest.raises(Error, match="name the taxonomy of this data by `taxonomy=`"):
        data.labelling  # noqa: B018
    LABELLING.save(tmp_path / "taxonomy")
    assert data.labelling == LABELLING
    assert Dataset(f"{tmp_path}/*.tfrecord")[1][1].tolist() == dataset(tmp_path)[1][1].tolist()
    assert Dataset([tmp_path], tmp_path / "taxonomy").labelling == LABELLING


def test_the_shipped_taxonomy_is_that_of_youtube8m(tmp_path: Path) -> None:
    write(tmp_path / "a.tfrecord", clip("a", [3], video=codes(2, 1024), audio=codes(2, 128)))
    assert Dataset(tmp_path).labelling == youtube8m() == Dataset(tmp_path, "youtube8m").labelling


def test_another_taxonomy_for_the_same_clips(tmp_path: Path) -> None:
    data = dataset(write(tmp_path / "a.tfrecord", *clips(5)))
    taxonomy, labels = LABELLING
    other = Labelling(taxonomy, LabelMap(tuple(Label(x.index, x.name, 0, ("food",)) for x in labels.labels), taxonomy))
    assert {tuple(data.with_taxonomy(other)[i][1].tolist()) for i in range(5)} == {(True, False, False, False, False)}
    assert data.labelling == LABELLING
    renamed = LabelMap(tuple(Label(x.index, f"no {x.name}", 0, ("food",)) for x in labels.labels), taxonomy)
    LABELLING.save(tmp_path / "taxonomy")
    with pytest.raises(Error, match=r"taxonomy: label \d+ is .* in the taxonomy that is used"):
        data.with_taxonomy(Labelling(taxonomy, renamed))


def test_labels_that_mean_something_else_are_refused_though_no_taxonomy_is_beside_the_shards(tmp_path: Path) -> None:
    """The taxonomy that the caller gave is compared with the one that replaces it."""
    data = dataset(write(tmp_path / "a.tfrecord", *clips(5)))
    taxonomy, labels = LABELLING
    swapped = LabelMap(tuple(Label(x.index, f"no {x.name}", 0, ("food",)) for x in labels.labels), taxonomy)
    expected = r"the data set's taxonomy: label \d+ is .* in the taxonomy that is used; give the data set the run's own"
    with pytest.raises(Error, match=expected):
        data.with_taxonomy(Labelling(taxonomy, swapped))
    unlabelled = dataset(tmp_path / "a.tfrecord", labelled=False)
    assert len(unlabelled.with_taxonomy(Labelling(taxonomy, swapped))) == 5


def test_sound_alone_is_not_taken_for_youtube8ms(tmp_path: Path) -> None:
    """AudioSet's records look the same, and its label numbers mean other things."""
    path = write(tmp_path / "a.tfrecord", *(clip(str(i), [i], audio=codes(10, 128, 3)) for i in range(3)))
    with pytest.raises(Error, match=r"sound alone, as AudioSet's records are, whose labels are not YouTube-8M's"):
        Dataset(path, youtube8m())
    LABELLING.save(tmp_path / "taxonomy")  # which states what they mean
    with pytest.raises(Error, match="label 10 is"):
        Dataset(path, youtube8m())
    assert len(Dataset(path, LABELLING)) == 3


def test_one_id_for_two_categories_is_refused(tmp_path: Path) -> None:
    """Version 0.1 gave C# and C++ one id, in two data sets."""
    one, other = (Taxonomy((Category("c", "", name),)) for name in ("C#", "C++"))
    path = write(tmp_path / "a.tfrecord", clip("a", [0], video=codes(2, 16, 1)))
    Labelling(other, LabelMap.identity(other)).save(tmp_path / "taxonomy")
    with pytest.raises(Error, match=r"label 0 is 'C\+\+' there and 'C#' in the taxonomy that is used"):
        Dataset(path, Labelling(one, LabelMap.identity(one)))
