import pickle

import numpy as np
import pytest
from hypothesis import given

from counterpoint.errors import Error
from counterpoint.taxonomy import Label, LabelMap, Taxonomy, load

from .trees import BY_HAND, LABELS, labellings


def test_targets_are_the_categories_and_their_ancestors():
    names = np.array(BY_HAND.names)
    assert names[LABELS.labels.targets([20])].tolist() == ["Food", "FoodItems", "Dessert", "Transport", "Land"]
    assert names[LABELS.labels.targets([10, 40, 10])].tolist() == ["Food", "FoodItems", "Recipe"]
    assert not LABELS.labels.targets([]).any()
    assert not LABELS.labels.targets([40]).any()


def test_counts_add_up_the_labels_once_each():
    # Cooking show has two categories below Food, and counts there once.
    assert LABELS.labels.counts.tolist() == [755, 755, 705, 50, 5, 5]


@pytest.mark.parametrize("unknown", [-1, 0, 15, 41, 2**62])
def test_an_unknown_label_is_named(unknown):
    with pytest.raises(Error, match=f"no label with the index {unknown}$"):
        LABELS.labels.targets([30, unknown])


def test_an_empty_mapping_knows_no_label():
    labels = LabelMap((), BY_HAND)
    assert not labels.targets([]).any()
    with pytest.raises(Error, match="index 0"):
        labels.targets([0])


def test_identity():
    labels = LabelMap.identity(BY_HAND)
    for i in range(len(BY_HAND)):
        np.testing.assert_array_equal(labels.targets([i]), BY_HAND.with_ancestors[i])
    assert not labels.counts.any()


@given(labellings())
def test_targets_are_closed_under_parents(labelling):
    taxonomy, labels = labelling
    indices = [label.index for label in labels.labels]
    targets = labels.targets(indices)
    below = taxonomy.parents >= 0
    assert (targets[below] <= targets[taxonomy.parents[below]]).all()
    each = [labels.targets([index]) for index in indices]
    np.testing.assert_array_equal(targets, np.any(each, axis=0) if each else np.zeros(len(taxonomy), dtype=bool))
    assert all(targets[taxonomy.index(category)] for label in labels.labels for category in label.categories)


@given(labellings())
def test_what_is_saved_is_loaded(tmp_path_factory, labelling):
    folder = tmp_path_factory.getbasetemp() / "round_trip"
    labelling.save(folder)
    assert load(folder) == labelling
    assert pickle.loads(pickle.dumps(labelling)) == labelling


HEADER = "index\tlabel\tcount\tcategories\tnote\n"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("0\tx\t1\tfood,boat\t\n", "line 2: the category 'boat' of label 0 is not in the taxonomy"),
        ("0\tx\t1\tfood,\t\n", "line 2: the category '' of label 0"),
        (
            "0\tx\t1\tfood\t\n1\ty\t1\tfood\t\n0\tz\t1\tfood\t\n",
            r"line 4: the label index 0 is taken \(first used at 2\)",
        ),
        ("a\tx\t1\tfood\t\n", "line 2: the index 'a' is not a whole number"),
        ("-1\tx\t1\tfood\t\n", "line 2: the index '-1' is not a whole number"),
        ("9223372036854775808\tx\t1\tfood\t\n", "line 2: the index and the count must be from 0"),
        ("0\tx\t1.5\tfood\t\n", "line 2: the count '1.5' is not a whole number"),
        ("0\tx\t1\tfood\n", "line 2: 5 columns expected, got 4"),
    ],
)
def test_errors_name_the_file_and_the_line(tmp_path, rows, message):
    path = tmp_path / "mine.tsv"
    path.write_text(HEADER + rows, encoding="utf-8")
    with pytest.raises(Error, match=message) as error:
        LabelMap.read(path, BY_HAND)
    assert str(error.value).startswith(str(path))


def test_reads_spaces_between_ids_and_unknown_counts(tmp_path):
    path = tmp_path / "mine.tsv"
    path.write_text(HEADER + "3\tx\t\tfood, land\t\n4\ty\t\t\tno place\n", encoding="utf-8")
    assert LabelMap.read(path, BY_HAND).labels == (Label(3, "x", 0, ("food", "land")), Label(4, "y", 0, (), "no place"))


def test_errors_without_a_file_name_the_row():
    with pytest.raises(Error, match="labels, row 1: label 0 holds a tab or a line break"):
        LabelMap((Label(0, "x\n", 1, ()),), BY_HAND)


def test_a_file_alone_is_labelled_by_its_rows(tmp_path):
    BY_HAND.write(tmp_path / "any.tsv")
    assert load(tmp_path / "any.tsv") == (BY_HAND, LabelMap.identity(BY_HAND))


def test_a_folder_needs_exactly_one_mapping(tmp_path):
    with pytest.raises(Error, match=r"categories\.tsv: cannot be read"):
        load(tmp_path)
    BY_HAND.write(tmp_path / "categories.tsv")
    (tmp_path / "other.tsv").write_text("some\ttable\n", encoding="utf-8")
    with pytest.raises(Error, match="no label mapping"):
        load(tmp_path)
    LABELS.labels.write(tmp_path / "youtube8m-2018.tsv")
    assert load(tmp_path) == LABELS
    LABELS.labels.write(tmp_path / "another.tsv")
    with pytest.raises(Error, match=r"another\.tsv, youtube8m-2018\.tsv"):
        load(tmp_path)
    LABELS.labels.write(tmp_path / "labels.tsv")
    assert load(tmp_path) == LABELS


def test_saved_categories_can_be_edited_by_hand(tmp_path):
    LABELS.save(tmp_path / "new" / "folder")
    text = (tmp_path / "new" / "folder" / "categories.tsv").read_text(encoding="utf-8")
    assert text.splitlines()[:4] == [
        "id\tparent\tname\tiab",
        "food\t\tFood\t",
        "items\tfood\tFoodItems\t",
        "dessert\titems\tDessert\tiab-1",
    ]
    assert Taxonomy.read(tmp_path / "new" / "folder" / "categories.tsv") == BY_HAND
